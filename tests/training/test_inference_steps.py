"""Steps of q's parameters alone before each step of the others: whose turn it is, to the bit."""

import math
from functools import partial

import pytest
import torch

from latently import (
    ELBO,
    IWAE,
    PIWAE,
    REBAR,
    STL,
    VIMCO,
    Cosine,
    Data,
    DReG,
    Enumerate,
    GumbelSoftmax,
    InfoVAE,
    Interrupted,
    Reparam,
    ReweightedWakeSleep,
    Score,
    Transformed,
    Variational,
    WakeSleep,
    fit,
    ppca,
    train,
    vae,
)
from latently.data import Binarise
from latently.io import describe
from latently.nets import MLP
from latently.probability.families import Bernoulli, Normal
from latently.probability.priors import Learned, Standard, VampPrior
from latently.probability.transforms import Log
from latently.registry import OPTIMIZERS
from latently.training import Average, Objective
from latently.training.files import named_tensors
from latently.training.loop import BatchOrder, turns_of
from latently.training.turns import Turns

TINY = partial(MLP, hidden=(5,), activation=torch.nn.Tanh)


def data_of(n=30):
    generator = torch.Generator().manual_seed(0)
    return Data(
        torch.rand(n, 4, generator=generator), "Bernoulli", "grey", levels=2, redraw=Binarise()
    )


def model_of(**options):
    torch.manual_seed(0)
    return vae((4,), latents=2, **{"net": TINY, **options})


def parts(model):
    """Clones of the parameters of q alone, and of the others."""
    own = {id(p) for p in model.inference_parameters()}
    both = [], []
    for p in model.parameters():
        both[id(p) not in own].append(p.detach().clone())
    return both


def states(model, optimizer):
    """The optimizer's slots of the parameters of q alone, and of the others."""
    own = {id(p) for p in model.inference_parameters()}
    both = [], []
    for p in model.parameters():
        slots = optimizer.state.get(p, {})
        both[id(p) not in own].extend(t.clone() for t in slots.values() if t is not None)
    return both


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


# Whose turn it is.


def test_turns_are_cycles_of_the_step_alone():
    assert [Turns()(t) for t in range(3)] == ["all"] * 3
    assert [Turns(1)(t) for t in range(4)] == ["inference", "generative"] * 2
    turns = Turns(2, until=7)
    cycle = ["inference", "inference", "generative"]
    assert [turns(t) for t in range(9)] == [*cycle, *cycle, "inference", "all", "all"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_not_moved_stays_to_the_bit(name, precision):
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    make = partial(getattr(torch.optim, name), weight_decay=0.1, **options)
    model, moved = model_of(prior=Learned), []
    options = {"optimizer": make, "precision": precision, "device": "cpu", "batch_size": 7}
    before, held = None, None
    for step in train(model, data_of(), steps=9, inference_steps=2, **options):
        after, state = parts(model), states(model, step.optimizer)
        if before is not None:
            moves_q = step.moved == "inference"
            assert [same(*pair) for pair in zip(before, after, strict=True)] == [
                not moves_q,
                moves_q,
            ]
            assert same(held[moves_q], state[moves_q])
            assert not same(held[not moves_q], state[not moves_q])
        moved.append(step.moved)
        before, held = after, state
    assert moved == ["inference", "inference", "generative"] * 3


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    ("objective", "posterior"),
    [
        (Variational(ELBO(), Reparam()), Normal),
        (Variational(ELBO(), STL()), Normal),
        (Variational(IWAE(), DReG(), 4), Normal),
        (Variational(IWAE(), PIWAE(groups=2), 4), Normal),
        (InfoVAE(), Normal),
        (Variational(ELBO(), Score(), 3), Bernoulli),
        (Variational(IWAE(), VIMCO(), 3), Bernoulli),
        (Variational(ELBO(), REBAR(), 2), Bernoulli),
        (Variational(ELBO(), GumbelSoftmax()), Bernoulli),
        (Variational(ELBO(), Enumerate()), Bernoulli),
        (WakeSleep(samples=2), Bernoulli),
        (ReweightedWakeSleep(samples=2, sleep=0.5), Normal),
    ],
    ids=lambda value: str(value),
)
def test_a_turn_has_its_share_of_the_whole_gradient(objective, posterior, accumulate):
    """The same step, t, on the same batch and draws, of q, of p and of all."""
    if objective.couples and accumulate > 1:
        accumulate = 1

    def moved(inference_steps, t):
        model = model_of(posterior=posterior, prior=Learned)
        before = parts(model)
        step = next(
            train(
                model,
                data_of(),
                objective,
                steps=9,
                start=t,
                inference_steps=inference_steps,
                accumulate=accumulate,
                batch_size=9,
                optimizer=torch.optim.SGD,
                learning_rate=1.0,
                device="cpu",
            )
        )
        both = zip(before, parts(model), strict=True)
        return step, [
            torch.cat([(b - a).flatten() for a, b in zip(*p, strict=True)]) for p in both
        ]

    whole, (by_phi, by_theta) = moved(0, 1)
    first, (only_phi, no_theta) = moved(2, 1)
    second, (no_phi, only_theta) = moved(1, 1)
    assert (whole.moved, first.moved, second.moved) == ("all", "inference", "generative")
    torch.testing.assert_close(only_phi, by_phi, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(only_theta, by_theta, atol=1e-7, rtol=1e-5)
    assert not no_phi.any()
    assert not no_theta.any()
    assert by_phi.abs().max() > 0
    assert by_theta.abs().max() > 0
    assert whole.bound == first.bound == second.bound
    shares = [float(step.gradient_norm) for step in (first, second)]
    assert math.hypot(*shares) == pytest.approx(float(whole.gradient_norm), rel=1e-5)
    assert shares[0] == pytest.approx(float(by_phi.norm()), rel=1e-4)


def test_limits_are_of_the_gradient_that_is_used():
    """Of the part that moves: p's gradient made longer than q's is skipped or clipped alone."""

    class Long(Objective):
        def terms(self, model, rows, step, total):
            terms = Variational().terms(model, rows, step, total)
            bias = model.decoder.net.layers[-1].bias.sum()
            return terms._replace(bound=terms.bound + 1e3 * (bias - bias.detach()))

    options = {"steps": 4, "inference_steps": 1, "device": "cpu"}
    for step in train(model_of(), data_of(), Long(), skip=100.0, **options):
        assert bool(step.skipped) == (step.moved == "generative")
        assert bool(step.finite)
    for step in train(model_of(), data_of(), Long(), clip=100.0, **options):
        assert bool(step.clipped) == (step.moved == "generative")


# What every run promises.


def test_every_step_has_a_batch_of_its_own_and_epochs_count_them():
    seen = []

    class Spy(Variational):
        def terms(self, model, rows, step, total):
            seen.append(rows.context[:, 0].long())
            return super().terms(model, rows._replace(context=None), step, total)

    data = Data(
        data_of().x.round(), "Bernoulli", "d", levels=2, context=torch.arange(30.0)[:, None]
    )
    model = model_of()
    steps = list(
        train(model, data, Spy(), epochs=4, batch_size=5, inference_steps=2, device="cpu")
    )
    assert len(steps) == 24
    assert [s.index for s in steps if s.ends_epoch] == [6, 12, 18, 24]
    assert steps[-1].epoch == 4
    assert (torch.bincount(torch.cat(seen), minlength=30) == 4).all()
    order = BatchOrder(30, 5, 0)
    assert all(torch.equal(rows, order(t)) for t, rows in enumerate(seen))


def test_turns_for_the_first_epochs_only():
    options = {"batch_size": 5, "inference_steps": 2, "inference_epochs": 2, "device": "cpu"}
    moved = [step.moved for step in train(model_of(), data_of(), epochs=3, **options)]
    assert moved == ["inference", "inference", "generative"] * 4 + ["all"] * 6
    alone = [
        step.moved for step in train(model_of(), data_of(), epochs=2, **options)
    ]  # a phase as long as the run
    assert "all" not in alone


def test_nothing_changes_without_inference_steps():
    found = []
    for options in ({}, {"inference_steps": 0}):
        model = model_of()
        for step in train(model, data_of(), steps=6, batch_size=7, device="cpu", **options):
            assert step.moved == "all"
        found.append(parts(model))
    assert all(same(*pair) for pair in zip(*found, strict=True))


RUN = {
    "steps": 20,
    "batch_size": 7,
    "inference_steps": 3,
    "learning_rate": Cosine(0.02),
    "clip": 1.0,
    "accumulate": 2,
    "device": "cpu",
}


@pytest.mark.slow
@pytest.mark.parametrize("stop", range(1, 10))
def test_a_run_is_continued_exactly_from_any_step_of_a_cycle(stop):
    whole, cut = (model_of(net=partial(MLP, hidden=(5,), dropout=0.1)) for _ in range(2))
    for _ in train(whole, data_of(), **RUN):
        pass
    for step in train(cut, data_of(), **RUN):
        if step.index == stop:
            state = step.state()
            break
    state = {**state, "state": dict(state["state"])}
    for step in train(cut, data_of(), start=stop, optimizer_state=state, **RUN):
        torch.manual_seed(step.index)  # what others do between steps changes nothing
    assert same(list(named_tensors(whole).values()), list(named_tensors(cut).values()))


class Stopping(Objective):
    """The ELBO; interrupts the process once."""

    def __init__(self, at):
        self.at, self.inner = at, Variational()

    def terms(self, model, rows, step, total):
        if int(step) == self.at and model.training:
            import signal

            self.at = None
            signal.raise_signal(signal.SIGINT)
        return self.inner.terms(model, rows, step, total)


@pytest.mark.parametrize("stop", [2, 4, 5])
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_fit_that_is_stopped_amid_a_cycle_goes_on_exactly(stop, precision, tmp_path):
    options = {**RUN, "ema": 0.9, "precision": precision, "inference_epochs": 3}
    options |= {"progress": False, "validation": data_of(9)}
    whole, model = model_of(), model_of()
    a = fit(whole, data_of(), Stopping(None), **options)
    options |= {"checkpoint": tmp_path / "run", "checkpoint_seconds": 1e9}
    with pytest.raises(Interrupted, match=f"step {stop + 1} of 20"):
        fit(model_of(), data_of(), Stopping(stop), **options)
    b = fit(model, data_of(), Stopping(None), resume=True, **options)
    assert same(list(named_tensors(whole).values()), list(named_tensors(model).values()))
    drop = [[{k: v for k, v in r.items() if k != "seconds"} for r in f.history] for f in (a, b)]
    assert drop[0] == drop[1]


@pytest.mark.parametrize("changed", [{"inference_steps": 2}, {"inference_epochs": 2}])
def test_another_run_is_refused_by_name(changed, tmp_path, refused):
    options = {**RUN, "progress": False, "checkpoint": tmp_path / "run"}
    fit(model_of(), data_of(), **options)
    with refused("cannot resume", next(iter(changed))):
        fit(model_of(), data_of(), resume=True, **options | changed)


class Spoiled(Objective):
    """The ELBO, not a number at some steps."""

    def __init__(self, at):
        self.at, self.inner = at, Variational()

    def terms(self, model, rows, step, total):
        terms = self.inner.terms(model, rows, step, total)
        return terms._replace(bound=terms.bound * (math.nan if int(step) in self.at else 1.0))


def test_a_step_that_is_not_finite_moves_nothing_in_either_turn():
    model, bad = model_of(), (0, 3, 5)
    before = parts(model)
    options = {"steps": 8, "batch_size": 7, "inference_steps": 1, "device": "cpu"}
    for step in train(model, data_of(), Spoiled(bad), **options):
        after = parts(model)
        still = [same(*pair) for pair in zip(before, after, strict=True)]
        if step.index - 1 in bad:
            assert still == [True, True]
            assert not bool(step.taken)
        else:
            assert still == [step.moved == "generative", step.moved == "inference"]
        before = after


def test_the_average_is_of_all_steps():
    model, decay, found = model_of(), 0.8, []
    average = Average(model, decay)
    for step in train(model, data_of(), steps=7, inference_steps=2, device="cpu"):
        average.update(step.taken)
        found.append(torch.cat([p.detach().double().flatten() for p in model.parameters()]))
    weights = torch.tensor([decay ** (6 - n) for n in range(7)]).double()
    wanted = (weights[:, None] * torch.stack(found)).sum(0) / weights.sum()
    average.apply()
    held = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    torch.testing.assert_close(held, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.long
def test_compiled_turns_move_the_same_parameters():
    model, moved = model_of(), []
    before = parts(model)
    options = {"steps": 4, "inference_steps": 1, "compile": True, "device": "cpu"}
    for step in train(model, data_of(), **options):
        after = parts(model)
        still = [same(*pair) for pair in zip(before, after, strict=True)]
        assert still == [step.moved == "generative", step.moved == "inference"]
        moved.append(step.moved)
        before = after
    assert moved == ["inference", "generative"] * 2


@pytest.mark.slow
def test_q_is_nearer_to_the_posterior_after_as_many_steps_of_p():
    """And p is better for it: log p(x) and its gap to the ELBO, both exact, by all states."""
    generator = torch.Generator().manual_seed(2)
    one = torch.rand(200, 3, generator=generator).lt(0.5).float()
    data = Data.from_array(torch.cat([one, one, 1 - one], 1), levels=2)
    objective, found = Variational(ELBO(), Enumerate()), []
    for steps in (0, 3):
        torch.manual_seed(0)
        model = vae((9,), latents=3, posterior=Bernoulli, prior=Standard, net=TINY)
        options = {"batch_size": 50, "learning_rate": 0.02, "device": "cpu"}
        options |= {"steps": 120 * (steps + 1), "inference_steps": steps}
        for _ in train(model, data, objective, **options):
            pass
        p = model.infer(data.x, 1, gradient="exact", draw=Enumerate().draw)
        log_p = IWAE()(p).mean().item()
        found.append((log_p, log_p - ELBO()(p).mean().item()))
    (before, gap), (after, less) = found
    assert after > before + 0.1
    assert gap > 0.05
    assert 0 <= less < 0.2 * gap


# What is refused.


def test_models_without_two_sides_are_refused_before_the_first_step(refused):
    data = data_of()
    vamp = partial(VampPrior, components=2)
    frozen, only_q = model_of(), model_of()
    for p in frozen.encoder.parameters():
        p.requires_grad_(False)
    for p in only_q.decoder.parameters():
        p.requires_grad_(False)
    for model, words in (
        (model_of(prior=vamp), ("VampPrior", "leave it out")),
        (ppca((4,), latents=1), ("PPCA", "exact posterior")),
        (frozen, ("frozen encoder",)),
        (only_q, ("only q is trained",)),
    ):
        before = list(named_tensors(model).values())
        before = [t.clone() for t in before]
        with refused("inference_steps", *words):
            next(train(model, data, steps=4, inference_steps=1, device="cpu"))
        assert same(before, list(named_tensors(model).values()))


def test_bad_numbers_are_refused(refused):
    order = BatchOrder(30, 5, 0)
    for wrong in (-1, -5):
        with refused(f"inference_steps={wrong}"):
            turns_of(order, 10, wrong, None)
    for wrong in (0, -1):
        with refused(f"inference_epochs={wrong}"):
            turns_of(order, 10, 2, wrong)
    with refused("inference_epochs=2", "no effect"):
        turns_of(order, 10, 0, 2)
    with refused("inference_steps=10", "10 steps"):
        turns_of(order, 10, 10, None)
    assert turns_of(order, 10, 9, None)(9) == "generative"
    assert turns_of(order, 10, 10, 1)(9) == "all"


def test_closed_forms_refuse_them(refused):
    data = Data.from_array(torch.randn(20, 4))
    for wrong in ({"inference_steps": 2}, {"inference_epochs": 2}):
        with refused(next(iter(wrong)), "no effect", "closed form"):
            fit(ppca((4,), latents=1), data, progress=False, **wrong)


def test_wrapped_models_take_turns():
    model = Transformed(model_of(likelihood=Normal), Log())
    data = Data.from_array(torch.rand(20, 4) + 0.5)
    for step in train(model, data, steps=4, inference_steps=1, device="cpu"):
        assert bool(step.taken)


def test_the_command_line_takes_them(tmp_path, capsys):
    from latently.interfaces.cli import main

    out = tmp_path / "model.safetensors"
    words = "fit vae --data digits --latents 2 --net MLP(hidden=(8,)) --steps 9 --quiet"
    flags = "--inference-steps 2 --inference-epochs 1"

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments)])
        assert left.value.code == 0
        return capsys.readouterr().out

    run(*words.split(), *flags.split(), "--out", out)
    assert flags in describe(out)[0]["training"]["command"]
    assert "--inference-steps" in run("fit", "vae", "--help")
    assert "--inference-steps" not in run("fit", "fa", "--help")
