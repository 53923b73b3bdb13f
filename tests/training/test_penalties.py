"""Penalties against autograd and closed forms, and what no change of scale can cheat."""

import math

import pytest
import torch
from torch import nn

from latently.errors import UserError
from latently.inference.rows import Rows
from latently.inference.schedules import Warmup
from latently.recipes import ae
from latently.training.objectives import Reconstruction
from latently.training.penalties import L1, Contractive, Sparsity


def encoder(units=3, cells=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(cells, 7), nn.Tanh(), nn.Linear(7, units)).double()


def jacobians(net, x):
    return torch.stack([torch.autograd.functional.jacobian(net, row) for row in x])


def test_the_norm_of_the_jacobian_is_autograds():
    net, x = encoder(), torch.randn(6, 5).double()
    wanted = jacobians(net, x).square().sum((1, 2))
    found = Contractive(2.0, relative=False)(net(x), x, net)
    torch.testing.assert_close(found, 2 * wanted)
    size = net(x).var(0, correction=0)
    wanted = (jacobians(net, x).square().sum(2) / size).sum(1)
    torch.testing.assert_close(Contractive(1.0)(net(x), x, net), wanted)


@pytest.mark.parametrize("relative", [False, True])
def test_hutchinsons_estimate_is_unbiased(relative):
    net, x = encoder(), torch.randn(4, 5).double()
    exact = Contractive(1.0, relative)(net(x), x, net).detach()
    many = Contractive(1.0, relative, exact=0, probes=4000)(net(x), x, net)
    torch.testing.assert_close(many, exact, rtol=0.15, atol=0)
    single = torch.stack(
        [Contractive(1.0, relative, exact=0)(net(x), x, net).mean().detach() for _ in range(300)]
    )
    error = single.std() / math.sqrt(len(single))
    assert abs(float(single.mean() - exact.mean())) < 4 * float(error)


@pytest.mark.parametrize("exact", [0, 32])
def test_its_gradient_is_that_of_finite_differences(exact):
    x = torch.randn(4, 5).double()
    penalty = Contractive(1.0, exact=exact)

    def value(net):
        torch.manual_seed(5)
        return penalty(net(x), x, net).sum()

    net = encoder()
    value(net).backward()
    weight = net[0].weight
    slope, at, step = float(weight.grad[2, 1]), weight.data[2, 1].clone(), 1e-5
    ends = []
    for side in (1, -1):
        weight.data[2, 1] = at + side * step
        ends.append(float(value(net).detach()))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize(
    "penalty", [Contractive(1.0), Contractive(1.0, exact=0), L1(1.0)], ids=str
)
def test_codes_of_another_scale_cost_the_same(penalty):
    net, x = encoder(), torch.randn(30, 5).double()

    def cost(factor):
        torch.manual_seed(1)
        scaled = nn.Sequential(net, _Times(factor))
        return penalty(scaled(x), x, scaled)

    torch.testing.assert_close(
        cost(torch.tensor([1.0, 1.0, 1.0])), cost(torch.tensor([1e-3, 7.0, 2.0]))
    )


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, z):
        return z * self.factor


def test_zeros_are_what_a_relative_l1_rewards():
    dense, sparse = torch.ones(8, 1), torch.zeros(8, 1)
    sparse[0] = 1.0
    costs = [L1(1.0)(z, z, abs).mean() for z in (dense, sparse)]
    assert costs == pytest.approx([1.0, math.sqrt(8) / 8])
    assert L1(3.0, relative=False)(dense, dense, abs).tolist() == [3.0] * 8


def test_rare_units_cost_the_kl_of_their_mean():
    z = torch.rand(50, 3).double()
    mean = z.mean(0)
    wanted = 0.1 * (0.1 / mean).log() + 0.9 * (0.9 / (1 - mean)).log()
    found = Sparsity(2.0, target=0.1)(z, z, abs)
    torch.testing.assert_close(found, 2 * wanted.sum().expand(50))
    ends = Sparsity(1.0)(torch.tensor([[0.0, 1.0]]), z, abs)
    assert ends.isfinite().all()


def test_bad_options_are_refused(refused):
    for kind in (L1, Sparsity, Contractive):
        for weight in (-1.0, math.nan, math.inf, "1"):
            with refused(kind.__name__, "weight="):
                kind(weight)
    for target in (0.0, 1.0, 2.0):
        with refused("Sparsity", f"target={target}"):
            Sparsity(1.0, target)
    with refused("Contractive", "probes=0"):
        Contractive(1.0, probes=0)


def test_those_that_compare_rows_say_so():
    assert [L1(1.0).couples, L1(1.0, relative=False).couples] == [True, False]
    assert [Contractive(1.0).couples, Contractive(1.0, relative=False).couples] == [True, False]
    assert Sparsity(1.0).couples


def test_a_weight_may_follow_the_run():
    torch.manual_seed(0)
    model = ae((6,), latents=3)
    rows = Rows(torch.randn(5, 6), None, None)

    def cost(weight, step):
        objective = Reconstruction(penalty=(L1(weight), Contractive(weight)))
        return objective.terms(model, rows, torch.tensor(step), 100)[2]

    assert float(cost(Warmup(0.4), 0).abs().max()) == 0
    torch.testing.assert_close(cost(Warmup(0.4), 5), cost(0.2, 5))
    torch.testing.assert_close(cost(Warmup(0.4), 10), cost(0.4, 0))
    with pytest.raises(UserError, match="L1: a scheduled weight needs a step"):
        L1(Warmup(0.4))(torch.ones(2, 3), torch.ones(2, 1), abs)
