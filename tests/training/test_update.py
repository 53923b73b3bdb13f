"""A step that is not taken changes nothing to the bit; a clipped one has the norm asked."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from latently import ELBO, Data, Variational, train, vae
from latently.nets import MLP
from latently.probability.families import Normal
from latently.registry import OPTIMIZERS
from latently.training import Objective
from latently.training.update import Update, check_limits

LATE = (
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "momentum": 0.9},
)


def data_of(n=20, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return Data.from_array(scale * torch.randn(n, 4, generator=generator))


def model_of():
    torch.manual_seed(0)
    return vae((4,), latents=2, net=partial(MLP, hidden=(5,)), likelihood=Normal)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def slots(optimizer):
    return [v.clone() for slot in optimizer.state.values() for v in slot.values() if v is not None]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


class Spoiled(Objective):
    """The ELBO, spoilt at some steps: its value, or only the gradient."""

    def __init__(self, at, how="value"):
        self.at, self.how, self.inner = at, how, Variational(ELBO())

    def terms(self, model, rows, step, total):
        terms = self.inner.terms(model, rows, step, total)
        if int(step) not in self.at:
            return terms
        bound = terms.bound
        return terms._replace(bound=bound + (math.nan if self.how == "value" else spike(bound)))


def spike(bound):
    """Zero, with an infinite derivative."""
    return (bound - bound.detach()).abs().add(1e-45).mul(0).sqrt()


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("how", ["value", "gradient"])
def test_a_non_finite_step_leaves_everything_as_it_was(name, precision, how):
    options = LATE[1] if name in ("SGD", "RMSprop") else LATE[0]
    make = partial(getattr(torch.optim, name), **options)
    model, bad = model_of(), (0, 3, 4)  # the first one before any state is there
    before, held = weights(model), []
    for step in train(
        model,
        data_of(),
        Spoiled(bad, how),
        steps=7,
        batch_size=5,
        optimizer=make,
        precision=precision,
        device="cpu",
    ):
        after, state = weights(model), slots(step.optimizer)
        finite = step.index - 1 not in bad
        assert bool(step.finite) == bool(step.taken) == finite
        if step.index > 1:
            assert same(before, after) != finite
            assert same(held, state) != finite
        assert all(t.isfinite().all() for t in (*after, *state))
        before, held = after, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_after_bad_steps_as_if_they_had_not_been(name):
    make, found = getattr(torch.optim, name), []
    for bad in (False, True):
        parameter = nn.Parameter(torch.ones(3))
        extra = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
        update = Update(make([parameter], lr=0.1, **extra), [parameter])
        for t in range(6):
            for broken in (True, False) if bad else (False,):
                parameter.grad = torch.full((3,), math.inf if broken else t + 1.0)
                update(torch.tensor(1.0))
        found.append(parameter.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("limits", [{}, {"clip": 2.0}, {"skip": 3.0}, {"clip": 2.0, "skip": 3.0}])
def test_the_way_without_a_look_does_the_same(kind, limits):
    """What CUDA devices run, run here."""
    found = []
    for waits in (True, False):
        generator = torch.Generator().manual_seed(1)
        parameters = [nn.Parameter(torch.ones(n)) for n in (3, 2)]
        update = Update(kind(parameters, lr=0.1, fused=True), parameters, **limits)
        update.waits, outcomes = waits, []
        for t in range(40):
            for p in parameters:
                p.grad = torch.randn(len(p), generator=generator) * 1.5
            if t in (0, 7):
                parameters[0].grad[1] = math.nan
            loss = torch.tensor(math.inf if t == 9 else 1.0)
            outcomes.append([float(value) for value in update(loss)])
        found.append((parameters, slots(update.bare), outcomes))
    (a, held_a, told_a), (b, held_b, told_b) = found
    assert sum(not finite for _, finite, _, _ in told_a) == 3
    assert [row[1:] for row in told_a] == [row[1:] for row in told_b]
    torch.testing.assert_close(torch.tensor(told_a), torch.tensor(told_b), equal_nan=True)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(held_a, held_b)
    assert all(
        any(row[i] for row in told_a) == (n in limits) for i, n in ((2, "skip"), (3, "clip"))
    )


def test_clipping_gives_the_norm_asked_and_keeps_the_direction():
    plain, clipped = model_of(), model_of()
    start = torch.cat([p.flatten() for p in weights(plain)])
    moved = []
    for model, clip in ((plain, None), (clipped, 0.01)):
        options = {"optimizer": torch.optim.SGD, "learning_rate": 1.0, "device": "cpu"}
        (step,) = train(model, data_of(), steps=1, clip=clip, **options)
        moved.append(torch.cat([p.flatten() for p in weights(model)]) - start)
        assert bool(step.clipped) == (clip is not None)
        assert bool(step.taken)
        assert float(step.gradient_norm) == pytest.approx(float(moved[0].norm()), rel=1e-5)
    assert float(moved[1].norm()) == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(moved[1] / 0.01, moved[0] / moved[0].norm(), rtol=1e-3, atol=1e-4)


def test_short_gradients_are_not_touched():
    a, b = model_of(), model_of()
    for model, limits in ((a, {}), (b, {"clip": 1e6, "skip": 1e7})):
        for step in train(model, data_of(), steps=5, device="cpu", **limits):
            assert not step.clipped
            assert not step.skipped
    assert same(weights(a), weights(b))


def test_a_step_with_too_long_a_gradient_is_not_taken():
    model = model_of()
    before = weights(model)
    for step in train(model, data_of(), steps=3, skip=1e-6, device="cpu"):
        assert step.skipped
        assert step.finite
        assert not step.taken
        assert float(step.gradient_norm) > 1e-6
    assert same(before, weights(model))


def test_norms_are_those_of_all_parameters_in_wide_numbers():
    parameters = [nn.Parameter(torch.zeros(1000, dtype=torch.bfloat16)) for _ in range(2)]
    for p in parameters:
        p.grad = torch.full_like(p, 0.01)
    found = Update(torch.optim.SGD(parameters, lr=0.1), parameters)(torch.tensor(0.0))
    wanted = math.sqrt(2000) * float(torch.tensor(0.01, dtype=torch.bfloat16))
    assert float(found.gradient_norm) == pytest.approx(wanted, rel=1e-5)


def test_limits_are_checked(refused):
    for name in ("clip", "skip"):
        for value in (0.0, -1.0, math.nan, math.inf):
            with refused(f"{name}={value}"):
                check_limits(**{"clip": None, "skip": None, name: value})
    with refused("clip=2.0", "skip=1.0"):
        check_limits(2.0, 1.0)


class Scaled:
    """What Fabric makes of an optimizer in 16-mixed."""

    def __init__(self, optimizer, scaler):
        self.optimizer, self.scaler = optimizer, scaler

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()


def test_a_loss_scaler_is_unscaled_first_and_lowered_where_it_overflows():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    update = Update(Scaled(optimizer, scaler), [parameter], clip=5.0, skip=50.0, scaler=scaler)
    found, scales = [], []
    for gradient in ([3.0, 4.0], [30.0, 40.1], [math.inf, 1.0], [6.0, 8.0]):
        scaler.scale(torch.zeros(1))  # as backward does
        parameter.grad = torch.tensor(gradient) * scaler.get_scale()
        found.append([float(value) for value in update(torch.tensor(1.0))])
        scales.append(scaler.get_scale())
    assert [norm for norm, *_ in found] == pytest.approx([5, 50.08, math.inf, 10], abs=0.01)
    flags = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]]  # finite, skipped, clipped
    assert [row[1:] for row in found] == flags
    assert scales == [1024, 1024, 512, 512]
    torch.testing.assert_close(parameter.detach(), torch.tensor([-6.0, -8.0]))
