"""`fit`: the maximum it reaches, the weights it keeps, and what it refuses."""

import csv
import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from latently import (
    ELBO,
    IWAE,
    MIWAE,
    PPCA,
    Cosine,
    Data,
    DReG,
    FactorAnalysis,
    ImportanceSampling,
    Linear,
    UserError,
    Variational,
    evaluate,
    fit,
    ppca,
    vae,
)
from latently.data.masks import MCAR
from latently.nets import MLP
from latently.probability.families import Normal, SharedNormal
from latently.training.files import named_tensors

QUIET = {"progress": False, "device": "cpu"}


def bits(n=40, seed=0, columns=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, columns, generator=generator).lt(0.4).float()
    x[:, 1] = x[:, 0]
    return Data.from_array(x, levels=2)


def model_of(**options):
    torch.manual_seed(0)
    return vae((4,), latents=2, net=partial(MLP, hidden=(5,)), **options)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [Variational(), Variational(IWAE(), DReG(), 5)])
def test_a_linear_vae_reaches_the_maximum_likelihood_of_ppca(objective):
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(400, 2, generator=generator).double() * torch.tensor([3.0, 1.5])
    basis = torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q[:, :2]
    x = factors @ basis.T + 0.5 * torch.randn(400, 5, generator=generator).double()
    data = Data.from_array(x.float())
    truth = PPCA((5,), 2)
    fit(truth, data, progress=False)
    torch.manual_seed(3)
    model = vae(
        (5,),
        latents=2,
        net=partial(MLP, hidden=()),
        likelihood=partial(SharedNormal, isotropic=True),
    )
    fit(model, data, objective, steps=2500, batch_size=100, learning_rate=Cosine(0.03), **QUIET)
    best = evaluate(truth, data).nats
    found = evaluate(model, data, ImportanceSampling(500)).nats
    assert best - 0.05 < found < best + 0.01


def test_the_epoch_best_on_validation_is_kept():
    model, train, held = model_of(), bits(20), bits(60, seed=1)
    options = {"batch_size": 5, "learning_rate": 0.05, **QUIET}
    found = fit(
        model,
        train,
        validation=held,
        epochs=60,
        batch_size=5,
        learning_rate=0.05,
        patience=8,
        **QUIET,
    )
    values = [row["validation"] for row in found.history]
    best = values.index(max(values)) + 1
    assert found.kept == f"epoch {best}, best on validation"
    assert len(values) == best + 8 < 60
    again = fit(model_of(), train, epochs=60, **options)
    assert len(again.history) == 60
    short = model_of()  # the same run, stopped at that epoch, holds the same weights
    for row in fit(
        short, train, steps=4 * best, batch_size=5, learning_rate=0.05, **QUIET
    ).history:
        assert row["epoch"] <= best
    for a, b in zip(named_tensors(model).values(), named_tensors(short).values(), strict=True):
        assert torch.equal(a, b)


@dataclass(frozen=True)
class Soon(Variational):
    """Waits three epochs of a long run."""

    def habits(self, rows):
        return {"steps": 120, "batch_size": 20, "learning_rate": 0.05, "patience": 3}


def test_an_objective_may_end_a_run_of_its_own_length_and_no_other():
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    data, held = Data.from_array(rows[:40]), Data.from_array(rows[40:])
    model = partial(vae, (3,), latents=2, net=partial(MLP, hidden=(32,)), likelihood=Normal)
    ended = fit(model(), data, Soon(), validation=held, **QUIET)
    best = [row["validation"] for row in ended.history].index(
        max(row["validation"] for row in ended.history)
    )
    assert len(ended.history) == best + 1 + 3 < 40
    assert len(fit(model(), data, Soon(), **QUIET).history) == 60  # nothing to wait for
    for length in ({"steps": 100}, {"epochs": 50}, {"patience": 55}):
        found = fit(model(), data, Soon(), validation=held, **length, **QUIET)
        assert len(found.history) >= 50


@pytest.mark.parametrize(("rows", "epochs"), [(1, 1000), (64, 1000), (270, 200), (10**6, 1)])
def test_miwae_waits_a_thousand_steps(rows, epochs):
    assert MIWAE().habits(rows)["patience"] == epochs


def test_miwae_takes_more_rows_and_fewer_draws_of_long_tables():
    assert MIWAE().suited(1999) == MIWAE(samples=20)
    assert MIWAE().suited(2000) == MIWAE(samples=5)
    assert MIWAE(samples=7).suited(10**6) == MIWAE(samples=7)
    with pytest.raises(UserError, match="samples=0"):
        MIWAE(samples=0)
    few, many = MIWAE().habits(1999), MIWAE().habits(2000)
    assert few["batch_size"] * 20 == many["batch_size"] * 5
    assert Variational(samples=3).suited(10**6) == Variational(samples=3)


def test_a_fit_asks_its_objective_what_suits_the_data():
    asked = []

    class Asking(Variational):
        def suited(self, rows):
            asked.append(rows)
            return Variational(samples=2)

    found = fit(model_of(), bits(30), Asking(), steps=2, **QUIET)
    assert asked == [30]
    wanted = fit(model_of(), bits(30), Variational(samples=2), steps=2, **QUIET)
    assert found.history[-1]["bound"] == wanted.history[-1]["bound"]


def test_gradients_are_clipped_as_the_model_says_unless_the_caller_does():
    model = model_of()
    assert model.clip is None
    assert fit(model, bits(), epochs=1, **QUIET).history[-1]["clipped"] == 0
    model.clip = 1e-3
    found = fit(model, bits(), epochs=1, **QUIET)
    assert found.history[-1]["clipped"] > 0
    assert any("clip=0.001" in warning for warning in found.warnings)
    assert fit(model, bits(), epochs=1, clip=1e9, **QUIET).history[-1]["clipped"] == 0


def test_validation_weighs_rows_equally_and_repeats():
    model, held = model_of(), bits(777, seed=1)  # blocks of 500: a short last one
    found = fit(
        model,
        bits(),
        Variational(samples=200),
        validation=held,
        epochs=1,
        learning_rate=1e-30,
        **QUIET,
    )
    with torch.no_grad():
        p = model.infer(held.x, 400)
        wanted = ELBO()(p)
    assert found.history[0]["validation"] == pytest.approx(float(wanted.mean()), abs=0.02)


def test_validation_compares_epochs_at_the_end_of_every_schedule():
    held = bits(50, seed=1)
    warm = Variational(ELBO(beta=Linear(0.0, 1.0)), samples=20)
    found = fit(model_of(), bits(), warm, validation=held, epochs=5, learning_rate=1e-30, **QUIET)
    values = [row["validation"] for row in found.history]
    assert max(values) - min(values) < 1e-6  # nothing is learned, so nothing looks better
    reached = [row["objective"] for row in found.history]
    assert reached[0] > reached[-1]  # while training pays more and more KL


def test_history_has_one_row_per_epoch_and_means_over_it(tmp_path):
    log = tmp_path / "log.csv"
    found = fit(model_of(), bits(23), epochs=3, batch_size=5, log=log, **QUIET)
    assert [row["epoch"] for row in found.history] == [1, 2, 3]
    assert [row["step"] for row in found.history] == [5, 10, 13]
    for row in found.history:
        assert row["bound"] == pytest.approx(row["reconstruction"] - row["kl"], abs=1e-4)
    with open(log, newline="") as file:
        written = list(csv.DictReader(file))
    assert [float(r["bound"]) for r in written] == [r["bound"] for r in found.history]


def test_fit_leaves_the_host_as_it_was(untouched):
    import signal

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    model = model_of(likelihood=Normal)
    data = Data.from_array(torch.randn(30, 4))
    with untouched():
        fit(model, data, validation=data, epochs=2, **QUIET)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    assert not model.training


def test_fit_is_repeatable_and_depends_on_its_seed():
    found = []
    for seed in (0, 0, 1):
        model = model_of()
        fit(model, bits(), epochs=2, seed=seed, **QUIET)
        found.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_training_improves_the_bound():
    model, data = model_of(), bits(200)
    before = evaluate(model, data, ImportanceSampling(50)).nats
    fit(model, data, steps=300, learning_rate=0.01, **QUIET)
    assert evaluate(model, data, ImportanceSampling(50)).nats > before + 0.2


def test_missing_values_are_trained_on():
    x = torch.randn(60, 4)
    x[:, 1] = x[:, 0]
    x[torch.rand(60, 4) < 0.3] = math.nan
    model = model_of(likelihood=Normal, sees_mask=True)
    found = fit(model, Data.from_array(x), steps=50, **QUIET)
    assert math.isfinite(found.history[-1]["bound"])


class Exploding(torch.optim.SGD):
    """Breaks the first parameter after ten good steps."""

    taken = 0

    def step(self, closure=None):
        super().step(closure)
        self.taken += 1
        if self.taken == 10:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(math.nan)


def test_a_run_that_blows_up_names_the_tensor_and_keeps_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "run.ckpt"
    model = model_of()
    with pytest.raises(UserError, match=r"encoder\.net\.layers\.0\.weight") as caught:
        fit(
            model,
            bits(),
            epochs=5,
            batch_size=10,
            optimizer=Exploding,
            learning_rate=1e-3,
            checkpoint=path,
            checkpoint_seconds=0,
            **QUIET,
        )
    assert "learning-rate" in str(caught.value)
    assert str(path) in str(caught.value)
    from latently.training.files import read_header, read_tensors

    assert read_header(path)[0]["progress"]["step"] == 9
    assert all(t.isfinite().all() for t in read_tensors(path).values() if t.is_floating_point())


def test_one_pass_of_a_closed_form_is_all_of_it():
    for options in ({}, {"tolerance": 0.0}, {"steps": 1}):
        found = fit(PPCA((4,), 2), bits(), **options, **QUIET)
        assert len(found.history) == 1
        assert not any("gaining" in warning for warning in found.warnings)


def test_a_closed_form_fit_scores_the_validation_rows():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    train, held = Data.from_array(x[:40]), Data.from_array(x[40:])
    model = PPCA((4,), 2)
    found = fit(model, train, validation=held, **QUIET)
    assert found.validation == pytest.approx(evaluate(model, held).nats, rel=1e-12)
    assert fit(PPCA((4,), 2), train, **QUIET).validation is None


def test_a_closed_form_fit_scores_integers_and_holes():
    data = bits(80)
    train, held = data.rows(slice(0, 40)), data.rows(slice(40, 80)).hidden(MCAR(0.3), 0)
    model = ppca((4,), latents=2, levels=2)
    found = fit(model, train, validation=held, **QUIET)
    bound = evaluate(model, held, ImportanceSampling(1)).nats
    assert found.validation == pytest.approx(bound, abs=1.0)  # of other noise
    assert found.validation == fit(model, train, validation=held, **QUIET).validation


def test_mistakes_are_refused_before_the_first_step(refused):
    with refused("rows to fit are Data", "Tensor", "Data.from_array"):
        fit(model_of(), torch.zeros(3, 4), **QUIET)
    data = bits()
    with refused("patience", "validation"):
        fit(model_of(), data, patience=3, **QUIET)
    with refused("patience"):
        fit(model_of(), data, validation=data, patience=0, **QUIET)
    for rate in (0.0, -1.0, math.nan):
        with refused("learning_rate"):
            fit(model_of(), data, learning_rate=rate, **QUIET)
    with refused("batch_size=0"):
        fit(model_of(), data, batch_size=0, **QUIET)
    with refused("epochs", "steps"):
        fit(model_of(), data, epochs=1, steps=1, **QUIET)
    with refused("epochs=0"):
        fit(model_of(), data, epochs=0, **QUIET)
    for model in (model_of(), PPCA((4,), 2)):
        with refused("steps=0"):
            fit(model, data, steps=0, **QUIET)
        for tolerance in (-1.0, math.nan):
            with refused(f"tolerance={tolerance}"):
                fit(model, data, tolerance=tolerance, **QUIET)
    with refused("(3,)", "(4,)"):
        fit(model_of(), bits(columns=3), **QUIET)
    grey = Data(torch.rand(20, 4), "Normal", "grey")
    with refused("grey", "row 0", "outside 0 and 1", "Normal"):
        fit(model_of(), grey, **QUIET)
    with refused("grey"):
        fit(model_of(), data, validation=grey, **QUIET)
    empty = Data(torch.zeros(5, 4), "Bernoulli", "empty", mask=torch.zeros(5, 4, dtype=torch.bool))
    with refused("empty", "no observed value"):
        fit(model_of(), empty, **QUIET)


IDLE = {
    "objective": Variational(IWAE(), samples=5),
    "epochs": 3,
    "batch_size": 10,
    "accumulate": 2,
    "inference_steps": 2,
    "inference_epochs": 2,
    "learning_rate": 0.1,
    "optimizer": torch.optim.SGD,
    "clip": 1.0,
    "skip": 10.0,
    "ema": 0.99,
    "device": "mps",
    "precision": "64-true",
    "compile": True,
    "initialise": False,
    "checkpoint_seconds": 1.0,
}


@pytest.mark.parametrize("name", IDLE)
def test_options_without_effect_on_a_closed_form_are_refused(name, refused):
    with refused(name, "no effect", "PPCA", "closed form"):
        fit(PPCA((4,), 2), bits(), **{name: IDLE[name]}, progress=False)


def test_an_objective_is_refused_on_a_closed_form_though_it_is_the_default_one(refused):
    with refused("objective=Variational(", "no effect", "PPCA"):
        fit(PPCA((4,), 2), bits(), Variational(), progress=False)


def test_every_option_of_a_closed_form_fit_works_or_is_refused():
    import inspect

    used = {"model", "data", "steps", "tolerance", "seed", "checkpoint", "resume", "log"}
    used |= {"progress", "validation", "patience"}  # validation is unused; patience needs it
    assert set(inspect.signature(fit).parameters) == set(IDLE) | used


def test_an_option_without_effect_on_training_is_refused(refused):
    with refused("tolerance=0.1", "no effect", "VAE", "patience"):
        fit(model_of(), bits(), tolerance=0.1, **QUIET)


def test_a_fit_goes_on_from_the_model_as_it_is():
    first, second = bits(200), bits(200, seed=1)
    second.x[:, 3] = 1  # other marginals
    model = model_of()
    fit(model, first, steps=20, **QUIET)
    offset, before = model.decoder.offset.clone(), named_tensors(model)
    before = {name: t.clone() for name, t in before.items()}
    fit(model, second, steps=1, learning_rate=1e-30, initialise=False, **QUIET)
    for name, tensor in named_tensors(model).items():
        assert torch.equal(tensor, before[name])
    fit(model, second, steps=1, learning_rate=1e-30, **QUIET)
    assert not torch.equal(model.decoder.offset, offset)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_short_fit_in_bfloat16_learns_and_its_densities_stay_wide(precision):
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 4) * 2 + 1
    noisy = x + 0.3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    data, found = Data.from_array(noisy), []
    for chosen in ("32-true", precision):
        model = model_of(likelihood=Normal)
        options = {"steps": 300, "batch_size": 50, "learning_rate": 0.01}
        result = fit(model, data, validation=data, precision=chosen, ema=0.9, **options, **QUIET)
        found.append([row["bound"] for row in result.history])
        with torch.no_grad():
            p = model.infer(data.x, 3)
        for term in (p.log_lik, p.log_w, *p.log_prior, *p.log_q):
            assert term.dtype == torch.float32
    full, low = found
    assert low[-1] > low[0] + 1
    assert low[-1] == pytest.approx(full[-1], abs=0.5)


def test_half_precision_is_for_cuda(refused):
    with refused("16-mixed", "CUDA", "bf16-mixed"):
        fit(model_of(), bits(), precision="16-mixed", **QUIET)


@pytest.mark.parametrize(
    ("flag", "value", "shown"),
    [
        (
            "learning-rate",
            "Warmup(then=Cosine(0.001), steps=500)",
            "Warmup(then=Cosine(start=0.001), steps=500)",
        ),
        ("learning-rate", "Warmup(0.001)", "Warmup(then=0.001)"),
        (
            "bound",
            "ELBO(beta=Linear(0, 1, steps=2000))",
            "ELBO(beta=Linear(start=0, stop=1, steps=2000))",
        ),
        ("ema", "0.999", "0.999"),
        ("clip", "5", "5"),
        ("skip", "1e3", "1000.0"),
        ("accumulate", "4", "4"),
    ],
)
def test_options_are_flags(flag, value, shown):
    from latently import expr
    from latently.interfaces.flags import flags_of, parse

    flags = [*flags_of(fit, "training"), *flags_of(Variational, "objective")]
    found = parse([f"--{flag}", value], flags)
    assert expr.show(found[flag.replace("-", "_")]) == shown


def test_a_warm_up_of_the_kl_weight_ends_at_the_bound():
    objective = Variational(ELBO(beta=Linear(0, 1, steps=8)))
    found = fit(model_of(), bits(), objective, epochs=4, batch_size=10, **QUIET)
    gaps = [row["reconstruction"] - row["kl"] - row["objective"] for row in found.history]
    shares = [gap / row["kl"] for gap, row in zip(gaps, found.history, strict=True)]
    assert shares[0] == pytest.approx(-(1 - (0 + 1 + 2 + 3) / 4 / 8), abs=0.05)
    assert shares[2:] == pytest.approx([0, 0], abs=1e-4)


def test_plain_progress_lines_go_to_standard_error(capsys):
    fit(model_of(), bits(), steps=3, progress=True, device="cpu")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 3/3" in captured.err


def test_contexts_are_checked_before_training(refused):
    data = Data.from_array(torch.randn(20, 3))
    given = replace(data, context=torch.randn(20, 2))
    with refused("a context of 2 columns", "takes none"):
        fit(vae((3,), latents=1, likelihood=Normal), given, epochs=1, progress=False)
    with refused("has no context", "context of 2 columns"):
        fit(ppca((3,), latents=1, contexts=2), data, progress=False)


def test_a_closed_form_fit_sees_one_draw_of_holes():
    data = replace(Data.from_array(torch.randn(60, 3)), hide=MCAR(0.4))
    histories = [
        fit(ppca((3,), latents=1), part, steps=5, seed=3, progress=False).history
        for part in (data, data.once(3))
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 5


def test_a_fit_calls_columns_of_a_table_by_name():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    table = {"age": x[:, 0].numpy(), "size": x[:, 1].numpy(), "weight": 2 * x[:, 0].numpy()}
    data = Data.from_frame(table)
    (told,) = fit(FactorAnalysis((3,), 1), data, **QUIET).warnings
    assert "2 columns ('age', 'weight') are explained" in told
    (told,) = fit(FactorAnalysis((3,), 1), Data.from_array(data.x), **QUIET).warnings
    assert "2 columns (0, 2) are explained" in told
    mask = torch.ones(60, 3, dtype=torch.bool)
    mask[:, 1] = False
    with pytest.raises(UserError, match="column 'size' has no observed value"):
        fit(FactorAnalysis((3,), 1), replace(data, mask=mask), **QUIET)
