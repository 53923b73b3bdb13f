"""What is counted, and what a run that cannot go on says."""

import math
from functools import partial

import pytest
import torch

from latently import Data, UserError, Variational, fit, vae
from latently.nets import MLP
from latently.probability.families import FixedNormal, Normal
from latently.training import Objective
from latently.training.files import read_header, read_tensors
from latently.training.guard import PATIENCE, Tally, extreme

QUIET = {"progress": False, "device": "cpu"}


def numbers(n=40, **cells):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    for cell, value in cells.items():
        row, column = map(int, cell[1:].split("_"))
        x[row, column] = value
    return Data.from_array(x, protocol="numbers")


def model_of(likelihood=Normal):
    torch.manual_seed(0)
    return vae((4,), latents=2, net=partial(MLP, hidden=(5,)), likelihood=likelihood)


class Spoiled(Objective):
    """The ELBO; at the steps of `bad` a term of it is not finite."""

    def __init__(self, bad, **added):
        self.bad, self.added = bad, added

    def terms(self, model, rows, step, total):
        terms = Variational().terms(model, rows, step, total)
        if not self.bad(int(step)):
            return terms
        changed = {name: getattr(terms, name) + value for name, value in self.added.items()}
        return terms._replace(**changed)


NAN = {"bound": math.nan}


def test_a_few_bad_steps_are_counted_and_left_out_of_the_means(tmp_path):
    found = fit(
        model_of(),
        numbers(),
        Spoiled(lambda t: t in (1, 2, 9), **NAN),
        epochs=4,
        batch_size=10,
        log=tmp_path / "log.csv",
        **QUIET,
    )
    assert [row["non_finite"] for row in found.history] == [2, 0, 1, 0]
    assert all(math.isfinite(value) for row in found.history for value in row.values())
    assert found.warnings == (
        "3 of 16 steps were not taken: their loss or gradient was not finite",
    )
    assert (
        (tmp_path / "log.csv")
        .read_text()
        .splitlines()[0]
        .endswith("learning_rate,gradient_norm,clipped,skipped,non_finite")
    )


def test_clipped_and_skipped_steps_are_counted():
    options = {"epochs": 3, "batch_size": 10, **QUIET}
    free = fit(model_of(), numbers(), **options)
    assert free.warnings == ()
    norms = [row["gradient_norm"] for row in free.history]
    assert all(norm > 0 for norm in norms)
    assert list(free.history[0])[-4:] == ["gradient_norm", "clipped", "skipped", "non_finite"]
    clipped = fit(model_of(), numbers(), clip=1e-3, **options)
    assert [row["clipped"] for row in clipped.history] == [4, 4, 4]
    assert clipped.warnings == ("12 of 12 steps had their gradient shortened to clip=0.001",)
    assert clipped.history[0]["gradient_norm"] == pytest.approx(norms[0], rel=0.2)  # unclipped
    skipped = fit(model_of(), numbers(), skip=1e-3, **options)
    assert [row["skipped"] for row in skipped.history] == [4, 4, 4]
    (warning,) = skipped.warnings
    assert warning == "12 of 12 steps were not taken: their gradient norm exceeded skip=0.001"


def test_a_limit_that_leaves_out_every_step_ends_the_run(refused):
    with refused("skip=0.001", "20 steps", "raise skip"):
        fit(model_of(), numbers(), skip=1e-3, epochs=30, batch_size=10, **QUIET)


def test_bad_steps_in_a_row_end_the_run_and_leave_the_last_good_checkpoint(tmp_path, refused):
    path, bad = tmp_path / "run.ckpt", Spoiled(lambda t: t >= 30, **NAN)
    with refused("non-finite in epoch 2", "last 30 of 60 steps", "objective is nan", str(path)):
        fit(
            model_of(),
            numbers(400),
            bad,
            epochs=9,
            batch_size=10,
            checkpoint=path,
            checkpoint_seconds=0,
            **QUIET,
        )
    assert read_header(path)[0]["progress"]["step"] == 30
    assert all(t.isfinite().all() for t in read_tensors(path).values())


def test_an_epoch_without_one_good_step_ends_the_run(refused):
    with refused("in epoch 2", "last 4 of 8 steps"):
        fit(model_of(), numbers(), Spoiled(lambda t: t >= 4, **NAN), batch_size=10, **QUIET)


def test_a_run_that_ends_amid_bad_steps_has_no_result(refused):
    with refused("the last 11 of 12 steps", "lower --learning-rate 1e+30"):
        fit(model_of(), numbers(120), learning_rate=1e30, epochs=1, batch_size=10, **QUIET)
    few = Spoiled(lambda t: t in (2, 3), **NAN)
    found = fit(model_of(), numbers(), few, epochs=1, batch_size=10, **QUIET)
    assert found.history[0]["non_finite"] == 2


def test_an_epoch_without_a_finite_validation_value_is_not_the_best():
    class Odd(Objective):
        def terms(self, model, rows, step, total):
            terms = Variational().terms(model, rows, step, total)
            first = not model.training and not seen.append(1) and len(seen) == 1
            return terms._replace(bound=terms.bound + (math.nan if first else 0.0))

    seen = []
    found = fit(model_of(), numbers(), Odd(), validation=numbers(), epochs=3, **QUIET)
    assert math.isnan(found.history[0]["validation"])
    assert found.kept in ("epoch 2, best on validation", "epoch 3, best on validation")
    assert found.warnings == ("the validation value was not finite after 1 of 3 epochs",)


def test_a_run_with_bad_steps_between_good_ones_goes_on():
    objective = Spoiled(lambda t: t % 3 > 0, **NAN)
    found = fit(model_of(), numbers(), objective, epochs=30, batch_size=10, **QUIET)
    assert sum(row["non_finite"] for row in found.history) == 80
    assert 80 > PATIENCE


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("reconstruction", "reconstruction is -inf"),
        ("kl", "KL is -inf"),
        ("bound", "objective is -inf"),
    ],
)
def test_the_term_is_named(term, words, refused):
    terms = {"bound": -math.inf, term: -math.inf}
    with refused(words, "none in the network, so in the densities"):
        fit(model_of(), numbers(), Spoiled(lambda t: True, **terms), **QUIET)


def test_the_parameter_is_named(refused):
    model = model_of()
    with torch.no_grad():
        model.decoder.net.layers[2].bias[1] = math.nan
    with refused("first non-finite tensor: decoder.net.layers.2.bias"):
        fit(model, numbers(), **QUIET)


def test_the_layer_is_named(refused):
    model = model_of()
    with torch.no_grad():
        model.decoder.net.layers[2].weight.fill_(1e38)
    with refused("first non-finite tensor: the output of decoder.net.layers.2"):
        fit(model, numbers(), **QUIET)


def test_the_gradient_is_named(refused):
    class Steep(Objective):
        def terms(self, model, rows, step, total):
            terms = Variational().terms(model, rows, step, total)
            weight = model.encoder.net.layers[2].bias[0]
            return terms._replace(bound=terms.bound + (weight - weight.detach()).abs().sqrt())

    with refused("gradient's norm is", "the gradient of encoder.net.layers.2.bias", "--clip"):
        fit(model_of(), numbers(), Steep(), **QUIET)


def test_the_learning_rate_is_named_and_the_limit_not_twice(refused):
    with pytest.raises(UserError, match=r"lower --learning-rate 0\.25 or check") as caught:
        fit(
            model_of(),
            numbers(),
            Spoiled(lambda t: True, **NAN),
            learning_rate=0.25,
            clip=1.0,
            **QUIET,
        )
    assert "--clip" not in str(caught.value)


def test_an_extreme_value_is_named(refused):
    data = numbers(c7_2=3e30)
    with refused("numbers holds 3e+30 in row 7, column 2, whose median is"):
        fit(model_of(FixedNormal), data, **QUIET)


def test_ordinary_data_are_not_accused():
    x = torch.randn(50, 3) * torch.tensor([1.0, 1e6, 1e-6]) + torch.tensor([0, 1e9, 0])
    assert extreme(Data.from_array(x)) == ""
    assert extreme(Data.from_array(torch.randint(0, 2, (50, 9)))) == ""
    rare = torch.zeros(1000, 2)
    rare[3, 1] = 1  # most of a column is one value
    assert extreme(Data.from_array(rare)) == ""
    x[4, 0], x[5, 1] = math.nan, 1e25
    assert "1e+25 in row 5, column 1" in extreme(Data.from_array(x, protocol="d"))


def test_sums_do_not_depend_on_when_they_are_read():
    from types import SimpleNamespace

    def steps():
        generator = torch.Generator().manual_seed(0)
        for t in range(50):
            flags = {n: torch.tensor(t % 7 == i) for i, n in enumerate(("clipped", "skipped"))}
            values = torch.randn(4, generator=generator).exp()
            names = ("bound", "reconstruction", "kl", "gradient_norm")
            yield SimpleNamespace(
                **dict(zip(names, values, strict=True)), **flags, finite=torch.tensor(t % 11 < 8)
            )

    late, often = Tally([0.0] * 7, 0), Tally([0.0] * 7, 0)
    for step in steps():
        late.add(step)
        often.add(step)
        assert often.streak >= 0
    assert late.sums == often.sums
    assert late.streak == often.streak == 0
    assert late.row(50)["non_finite"] == 12
