"""The moving average of the weights: its closed form, and where `fit` uses it."""

from functools import partial

import pytest
import torch
from torch import nn

from latently import Data, Variational, evaluate, fit, load, save, train, vae
from latently.nets import MLP
from latently.training import Average, Objective
from latently.training.files import named_tensors

QUIET = {"progress": False, "device": "cpu"}


def bits(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Data.from_array(torch.rand(n, 4, generator=generator).lt(0.4).float(), levels=2)


def model_of():
    torch.manual_seed(0)
    return vae((4,), latents=2, net=partial(MLP, hidden=(5,)))


def averaged(history, decay):
    """The definition: weights decay^(n - m) on the weights of step m, normalised, in float64."""
    shares = torch.tensor([decay ** (len(history) - 1 - m) for m in range(len(history))])
    shares = (shares / shares.sum()).double()
    return sum(share * values.double() for share, values in zip(shares, history, strict=True))


@pytest.mark.parametrize("decay", [0.1, 0.9, 0.9999])
@pytest.mark.parametrize("unseen", [False, True])
def test_it_is_the_normalised_sum_of_its_definition(decay, unseen):
    module, history = nn.Linear(3, 2).double(), []
    average = Average(module, decay)
    for step in range(30):
        nn.init.normal_(module.weight)
        taken = torch.tensor(step % 3 > 0)
        if unseen:  # what CUDA devices run
            average._unseen([p.detach() for p in average.parameters], taken)
        else:
            average.update(taken)
        if taken:
            history.append(module.weight.detach().clone())
        if history:
            wanted = averaged(history, decay)
            torch.testing.assert_close(average.tensors()["weight"], wanted, rtol=1e-5, atol=1e-5)
    assert int(average.count) == 20


def test_buffers_and_frozen_parameters_are_the_modules_own():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].bias.requires_grad_(False)
    average = Average(module, 0.5)
    assert set(average.tensors()) == {"0.weight", "1.weight", "1.bias"}
    own = module[0].weight.detach().clone()
    average.values[0] += 1
    with average.applied():
        torch.testing.assert_close(module[0].weight, own + 1)
        module[1].running_mean.fill_(3.0)
    assert torch.equal(module[0].weight, own)
    assert module[1].running_mean.tolist() == [3.0, 3.0]


def test_it_is_wide_where_the_weights_are_narrow():
    module = nn.Linear(1, 1).to(torch.bfloat16)
    average = Average(module, 0.999)
    for value in [1.0] * 50 + [1.0078125] * 50:  # the next bfloat16
        nn.init.constant_(module.weight, value)
        average.update()
    assert 1.003 < float(average.tensors()["weight"]) < 1.005
    average.apply()
    assert module.weight.dtype == torch.bfloat16


def test_decays_are_checked(refused):
    for decay in (0.0, 1.0, -0.5, 2.0, float("nan")):
        with refused(f"ema={decay}"):
            fit(model_of(), bits(), ema=decay, **QUIET)


class Spoiled(Objective):
    def terms(self, model, rows, step, total):
        terms = Variational().terms(model, rows, step, total)
        return terms._replace(bound=terms.bound * (float("nan") if int(step) % 4 == 1 else 1.0))


def test_fit_keeps_the_average_of_the_steps_that_were_taken(tmp_path):
    model, by_hand, history = model_of(), model_of(), []
    options = {"steps": 22, "batch_size": 10, "learning_rate": 0.05}
    found = fit(model, bits(), Spoiled(), ema=0.8, **options, **QUIET)
    assert found.kept == "last step, averaged (EMA, decay 0.8)"
    assert [row["non_finite"] for row in found.history] == [1, 1, 1, 1, 1, 1]
    assert found.warnings == (
        "6 of 22 steps were not taken: their loss or gradient was not finite",
    )
    from latently.inference.noise import derive, seeded

    with seeded(derive(0, "initialise")):
        by_hand.initialise(bits().x)
    for step in train(by_hand, bits(), Spoiled(), device="cpu", **options):
        if step.taken:
            history.append(torch.cat([p.detach().flatten() for p in by_hand.parameters()]))
    assert len(history) == 16
    kept = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
    torch.testing.assert_close(kept, averaged(history, 0.8), rtol=1e-5, atol=1e-5)
    save(model, tmp_path / "m")
    again = torch.cat([p.flatten() for p in load(tmp_path / "m").parameters()]).double()
    assert torch.equal(again, kept)


def test_validation_and_the_epoch_kept_are_those_of_the_average():
    options = {"batch_size": 10, "learning_rate": 0.05, **QUIET}
    held, model = bits(60, seed=1), model_of()
    found = fit(model, bits(), validation=held, epochs=6, ema=0.9, **options)
    values = [row["validation"] for row in found.history]
    best = values.index(max(values)) + 1
    assert found.kept == f"epoch {best}, best on validation, averaged (EMA, decay 0.9)"
    short = model_of()  # stopped at that epoch, with nothing looked at on the way
    assert fit(short, bits(), epochs=best, ema=0.9, **options).kept.startswith("last step")
    for a, b in zip(named_tensors(model).values(), named_tensors(short).values(), strict=True):
        assert torch.equal(a, b)
    plain = fit(model_of(), bits(), validation=held, epochs=6, **options)
    assert [row["bound"] for row in plain.history] == [row["bound"] for row in found.history]
    assert all(row["validation"] not in values for row in plain.history)


@pytest.mark.slow
def test_the_average_of_noisy_late_steps_is_better_than_the_last_one():
    data, found = bits(400), []
    for ema in (None, 0.98):
        model = model_of()
        fit(model, data, steps=600, batch_size=4, learning_rate=0.03, ema=ema, **QUIET)
        found.append(evaluate(model, data).nats)
    assert found[1] > found[0]
