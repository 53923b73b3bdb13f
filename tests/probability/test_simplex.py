"""Families of rows that sum to 1, held against scipy and quadrature."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import kl_divergence

from latently.errors import UserError
from latently.probability.distributions import analytic_kl
from latently.probability.distributions.simplex import Dirichlet as DirichletDistribution
from latently.probability.families import (
    Dirichlet,
    LogisticNormal,
)
from latently.probability.priors import Standard

from .oracles import close, quadrature, subsets


def shares(n, cells=4):
    return torch.distributions.Dirichlet(torch.ones(cells).double()).sample((n,))


def test_dirichlet_density_is_scipys():
    d = Dirichlet((4,)).double()(torch.randn(4).double())
    x = shares(9)
    a = d.concentration.numpy()
    wanted = [scipy.stats.dirichlet(a).logpdf(row / row.sum()) for row in x.numpy()]
    close(d.log_prob(x), wanted)
    close(d.entropy(), scipy.stats.dirichlet(a).entropy())
    close(d.mean, scipy.stats.dirichlet(a).mean())
    close(d.variance, scipy.stats.dirichlet(a).var())
    flat = Dirichlet((4,)).double()(torch.zeros(4).double())
    close(flat.log_prob(x).exp(), torch.full((9,), 6.0))


def test_dirichlet_marginals_are_betas_and_integrals():
    a = torch.tensor([0.7, 1.5, 2.0, 3.0]).double()
    d = DirichletDistribution(a, 1)
    x = shares(5)
    for j in range(4):
        mask = (torch.arange(4) == j).expand(5, 4)
        beta = scipy.stats.beta(a[j], a.sum() - a[j])
        close(d.log_prob(torch.where(mask, x, math.nan), mask), beta.logpdf(x[:, j].numpy()))
    # two of four seen: the integral over what the two others make of the rest
    mask = torch.tensor([True, True, False, False])
    row = torch.tensor([0.3, 0.2, 0, 0]).double()
    t = torch.linspace(-30, 30, 20_001).double()
    rest = 1 - row.sum()
    third, last = rest * t.sigmoid(), rest * (-t).sigmoid()
    rows = torch.stack([*row[:2].unsqueeze(-1).expand(2, len(t)), third, last], -1)
    jacobian = third * last / rest
    close(torch.trapezoid(d.log_prob(rows).exp() * jacobian, t), d.log_prob(row, mask).exp(), 1e-8)
    given = d.given(torch.where(mask, row, math.nan), mask)
    density = given.log_prob(rows, ~mask.expand_as(rows)).exp() * jacobian
    close(torch.trapezoid(density, t), 1.0, 1e-8)
    close(torch.trapezoid(density * third, t), given.mean[2], 1e-8)
    second = torch.trapezoid(density * third**2, t)
    close(second - given.mean[2] ** 2, given.variance[2], 1e-8)


def test_dirichlet_factors_into_marginal_and_conditional_under_every_mask():
    d = Dirichlet((2, 4)).double()(torch.randn(16, 2, 4).double())
    x, masks = shares(32).view(16, 2, 4), torch.stack([subsets(4), subsets(4).flip(0)], 1)
    spoiled = torch.where(masks, x, math.nan)
    given = d.given(spoiled, masks)
    alone = given.log_prob(torch.where(masks, math.nan, x), ~masks)
    close(d.log_prob(spoiled, masks) + alone, d.log_prob(x))
    # and once more: what is drawn in two steps is drawn in one
    first = torch.rand(16, 2, 4) < 0.5
    twice = given.given(x, masks | first)
    both = masks | first
    close(
        given.log_prob(x, first) + twice.log_prob(x, ~both),
        given.log_prob(x),
    )
    filled = torch.where(masks, x, given.sample())
    close(filled.sum(-1), torch.ones(16, 2))
    assert (filled > 0).all()
    close(
        torch.where(masks, 0.0, given.sample((20_000,)).mean(0)),
        torch.where(masks, 0.0, given.mean),
        0.02,
    )


def test_modes_of_dirichlet_rows():
    a = torch.tensor([[2.0, 3.0, 4.0], [0.5, 3.0, 4.0]]).double()
    d = DirichletDistribution(a, 1)
    close(d.mode[0], (a[0] - 1) / 6)
    close(d.mode[1], d.mean[1])


def test_kl_of_dirichlet_rows():
    q, p = (Dirichlet((2, 3)).double()(torch.randn(2, 3).double()) for _ in range(2))
    wanted = kl_divergence(
        torch.distributions.Dirichlet(q.concentration),
        torch.distributions.Dirichlet(p.concentration),
    )
    close(kl_divergence(q, p), wanted.sum())
    x = q.sample((50_000,))
    ratio = q.log_prob(x) - p.log_prob(x)
    assert (ratio.mean() - wanted.sum()).abs() < 5 * ratio.std() / math.sqrt(len(x))
    mask = torch.tensor([True, False, False]).expand(2, 3)
    assert analytic_kl(q.given(x[0], mask), p) is None


def test_dirichlet_draws_have_its_law_and_gradient():
    h = torch.tensor([-1.0, 0.0, 1.5]).double()
    family = Dirichlet((3,)).double()
    d = family(h)
    x = d.sample((20_000,))
    a = d.concentration
    for j in range(3):
        beta = scipy.stats.beta(a[j], a.sum() - a[j])
        assert scipy.stats.kstest(x[:, j].numpy(), beta.cdf).pvalue > 1e-4

    def moments(d):
        """`E[x_0^2 + x_1 x_2 + log x_0]`, exact."""
        a, total = d.concentration, d.concentration.sum()
        square = a[0] * (a[0] + 1) / (total * (total + 1))
        cross = a[1] * a[2] / (total * (total + 1))
        return square + cross + torch.digamma(a[0]) - torch.digamma(total)

    free = h.clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad(moments(family(free)), free)
    rows = h.expand(100_000, 3).clone().requires_grad_(True)
    z = family(rows).rsample()
    value = z[:, 0] ** 2 + z[:, 1] * z[:, 2] + z[:, 0].log()
    (each,) = torch.autograd.grad(value.sum(), rows)
    error = each.std(0) / math.sqrt(len(each))
    assert ((each.mean(0) - wanted).abs() < 4 * error).all()
    assert (error < 0.02).all()


@pytest.mark.parametrize("kind", [Dirichlet, LogisticNormal])
def test_simplex_draws_are_above_zero_in_float32(kind):
    family = kind((6,))
    for scale in (1.0, 30.0, 1e6):
        h = (scale * torch.randn(200, *family.param_shape)).requires_grad_(True)
        if kind is LogisticNormal:
            h = h.detach()
            h[..., 10:] = h[..., 10:].clamp(-3, 3)
            h.requires_grad_(True)
        d = family(h)
        x = d.rsample((10,))
        assert x.dtype == torch.float32
        assert (x > 0).all()
        assert not family.misfit(x).any()
        log_p = d.log_prob(x)
        assert log_p.isfinite().all()
        (gradient,) = torch.autograd.grad(x.log().sum() + log_p.sum(), h)
        assert gradient.isfinite().all()
        assert d.mean.isfinite().all()


def test_float32_dirichlet_keeps_its_digits_at_large_concentrations():
    family = Dirichlet((5,))
    h = torch.tensor([15.0, 14.0, 3.0, -4.0, 20.0])
    x = family(h).sample((20,))
    wide = family(h.double()).log_prob(x.double())
    assert ((family(h).log_prob(x) - wide).abs() / wide.abs().clamp(min=1)).max() < 1e-2
    assert family(h).log_prob(x).dtype == torch.float32


def test_what_is_no_row_of_shares_is_found():
    family = Dirichlet((3,))
    good = torch.tensor([[0.2, 0.3, 0.5], [1e-30, 0.5, 0.5]])
    bad = torch.tensor([[0.0, 0.5, 0.5], [-0.1, 0.6, 0.5], [0.3, 0.3, 0.3], [math.nan, 0.5, 0.5]])
    assert not family.misfit(good).any()
    assert family.misfit(bad).any(-1).all()
    rounded = (torch.rand(1000, 300) ** 9).clamp(min=1e-9)
    assert not Dirichlet((300,)).misfit(rounded / rounded.sum(-1, keepdim=True)).any()
    mask = torch.tensor([[True, True, False]])
    holes = torch.tensor([[0.4, 0.5, math.nan]])
    assert not (family.misfit(holes, mask) & mask).any()
    assert (family.misfit(torch.tensor([[0.4, 0.7, math.nan]]), mask) & mask).any()
    assert Dirichlet((3,)).support == LogisticNormal((3,)).support == "rows above 0 that sum to 1"


def test_marginal_of_shares_is_near_the_best_constant():
    x = torch.distributions.Dirichlet(torch.tensor([0.8, 2.0, 5.0]).double()).sample((2000,))
    mask = torch.rand(2000, 3) < 0.8
    family = Dirichlet((3,)).double()
    h = family.marginal(torch.where(mask, x, math.nan), mask)
    truth = scipy.stats.dirichlet([0.8, 2.0, 5.0])
    wanted = np.mean([truth.logpdf(row / row.sum()) for row in x.numpy()])
    assert family(h).log_prob(x).mean() > wanted - 0.05


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_logistic_normal_is_a_softmax_of_a_normal(covariance):
    family = LogisticNormal((3,), covariance=covariance).double()
    h = torch.randn(family.param_shape).double()
    d = family(h)
    # the density of (x_0, x_1), by the change of variables that torch differentiates
    y = d.logits.sample()
    x = torch.softmax(torch.cat([y, torch.zeros(1)]), -1)
    jacobian = torch.autograd.functional.jacobian(
        lambda y: torch.softmax(torch.cat([y, torch.zeros(1)]), -1)[:2], y
    )
    close(d.log_prob(x), d.logits.log_prob(y) - torch.linalg.slogdet(jacobian).logabsdet)
    # moments by quadrature over the logits
    sd = d.logits.variance.sqrt()
    lows, highs = (d.logits.mean - 9 * sd).tolist(), (d.logits.mean + 9 * sd).tolist()
    p, grid, cell = quadrature(d.logits.log_prob, lows, highs, points=801)
    rows = torch.softmax(torch.cat([grid, torch.zeros(801, 801, 1)], -1), -1)
    mean = (p.unsqueeze(-1) * rows).sum((0, 1)) * cell
    close(d.mean, mean, 2e-3)
    variance = (p.unsqueeze(-1) * rows.square()).sum((0, 1)) * cell - mean.square()
    assert (d.variance / variance - 1).abs().max() < 0.02
    assert torch.equal(d.mean, family(h).mean)


def test_kl_of_logistic_normals_is_that_of_their_logits():
    q, p = (LogisticNormal((2, 3)).double()(torch.randn(2, 5).double()) for _ in range(2))
    x = q.sample((50_000,))
    ratio = q.log_prob(x) - p.log_prob(x)
    assert (ratio.mean() - kl_divergence(q, p)).abs() < 5 * ratio.std() / math.sqrt(len(x))


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_marginal_of_logistic_normals_is_near_the_truth(covariance):
    family = LogisticNormal((2, 4), covariance=covariance).double()
    truth = family(0.5 * torch.randn(family.param_shape).double())
    x = truth.sample((3000,))
    assert family(family.marginal(x)).log_prob(x).mean() > truth.log_prob(x).mean() - 0.15
    assert family.marginal(x[:2], torch.zeros(2, 2, 4, dtype=torch.bool)) is None


def test_simplex_priors_match_simplex_posteriors():
    close(Standard((3,), family=Dirichlet)().mean, torch.full((3,), 1 / 3), 1e-6)
    with pytest.raises(UserError):
        Dirichlet((1,))


@pytest.mark.parametrize("kind", [Dirichlet, LogisticNormal])
def test_float64_shares_meet_float32_parameters(kind):
    family, x = kind((4,)), shares(10)
    h = torch.randn(10, *family.param_shape)
    found = family(h).log_prob(x)
    assert found.dtype == torch.float32
    close(found, family.double()(h.double()).log_prob(x), 1e-4)
