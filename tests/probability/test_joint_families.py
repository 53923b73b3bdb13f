"""Normals whose cells depend on each other, held against scipy and brute force."""

import math
from functools import partial

import pytest
import scipy.stats
import torch
from torch.distributions import kl_divergence

from latently.probability.distributions import Factorized, Normal, StandardNormal, analytic_kl
from latently.probability.distributions.gaussian import (
    LowRankMultivariateNormal as LowRankDistribution,
)
from latently.probability.distributions.gaussian import MultivariateNormal as FullDistribution
from latently.probability.distributions.mixture import mixture
from latently.probability.families import (
    LowRankMultivariateNormal,
    Mixture,
    MultivariateNormal,
)
from latently.probability.priors import Learned

from .oracles import close, subsets


def covariance(d):
    """Of one normal row, flat."""
    rows, v = d.parts()
    return rows.mT @ rows + torch.diag_embed(v)


def full(batch=(), cells=4):
    loc = torch.randn(*batch, cells).double()
    root = torch.randn(*batch, cells, cells).double().tril(-1)
    return FullDistribution(loc, root + torch.diag_embed(torch.rand(*batch, cells).double() + 0.5))


def low_rank(batch=(), cells=4, rank=2):
    loc, log_std = (torch.randn(*batch, cells).double() for _ in range(2))
    return LowRankDistribution(loc, torch.randn(*batch, cells, rank).double(), 0.5 * log_std)


def independent(cells=4):
    loc, log_std = (torch.randn(cells).double() for _ in range(2))
    return Factorized(Normal(loc, 0.5 * log_std), 1)


def standard(cells=4):
    return Factorized(StandardNormal(torch.zeros(cells).double()), 1)


# Normals.


@pytest.mark.parametrize("make", [full, low_rank])
def test_normal_density_is_scipys(make):
    d = make()
    x = torch.randn(7, 4).double()
    truth = scipy.stats.multivariate_normal(d.loc.numpy(), covariance(d).numpy())
    close(d.log_prob(x), truth.logpdf(x.numpy()))
    close(d.entropy(), truth.entropy())
    close(d.variance, covariance(d).diagonal())
    wanted = scipy.stats.norm(d.loc[1], covariance(d)[1, 1].sqrt())
    close(d.cdf(x)[:, 1], wanted.cdf(x[:, 1].numpy()))
    close(d.icdf(torch.full((4,), 0.3, dtype=torch.float64))[1], wanted.ppf(0.3))


@pytest.mark.parametrize("make", [full, low_rank])
def test_normal_marginals_and_conditionals_are_the_textbooks(make):
    d = make()
    sigma = covariance(d)
    masks = subsets(4)  # every row its own
    x = torch.randn(len(masks), 4).double()
    spoiled = torch.where(masks, x, math.nan)
    marginal, given = d.log_prob(spoiled, masks), d.given(spoiled, masks)
    assert given.batch_shape == (len(masks),)
    for i, seen in enumerate(masks):
        hidden = ~seen
        if seen.any():
            part = sigma[seen][:, seen]
            truth = scipy.stats.multivariate_normal(d.loc[seen].numpy(), part.numpy())
            close(marginal[i], truth.logpdf(x[i, seen].numpy()))
        else:
            close(marginal[i], 0.0)
        if hidden.any():
            gain = sigma[hidden][:, seen] @ torch.linalg.inv(sigma[seen][:, seen])
            close(given.mean[i, hidden], d.loc[hidden] + gain @ (x[i] - d.loc)[seen])
            left = sigma[hidden][:, hidden] - gain @ sigma[seen][:, hidden]
            close(covariance(given)[i][hidden][:, hidden], left)
    close(given.log_prob(x, ~masks), d.log_prob(x) - marginal)


@pytest.mark.parametrize("make", [full, low_rank])
def test_marginals_of_a_normal_have_gradients(make):
    masks, x = subsets(3), torch.randn(8, 3).double()
    d = make((8,), 3)
    parameters = [d.loc, d.whiten] if make is full else [d.loc, d.factor, d.log_std]
    parameters = [p.detach().clone().requires_grad_(True) for p in parameters]

    def log_p(*parameters):
        return type(d)(*parameters).log_prob(x, masks)

    if make is full:  # only the lower triangle is read
        start, free = d.whiten.clone(), torch.ones(3, 3).double().tril()
        assert torch.autograd.gradcheck(
            lambda loc, w: log_p(loc, start + (w - start) * free), parameters
        )
    else:
        assert torch.autograd.gradcheck(log_p, parameters)


@pytest.mark.parametrize("make", [full, low_rank])
def test_batches_of_values_broadcast_against_one_normal(make):
    d, x = make(), torch.randn(3, 5, 4).double()
    mask = torch.rand(5, 4) < 0.5
    together = d.log_prob(x, mask.expand_as(x))
    given = d.given(x, mask.expand_as(x))
    assert given.batch_shape == (3, 5)
    for k in range(3):
        for b in range(5):
            close(together[k, b], d.log_prob(x[k, b], mask[b]))
            hidden = ~mask[b]
            close(given.mean[k, b, hidden], d.given(x[k, b], mask[b]).mean[hidden])


@pytest.mark.parametrize("make", [full, low_rank])
def test_draws_of_a_normal_have_its_covariance_and_a_gradient(make):
    d = make()
    x = d.sample((200_000,))
    assert (torch.cov(x.T) - covariance(d)).abs().max() < 0.05 * covariance(d).abs().max()
    raw = d.whiten if make is full else d.factor
    raw.requires_grad_(True)
    rest = () if make is full else (d.log_std,)
    d = type(d)(d.loc, raw, *rest)
    (gradient,) = torch.autograd.grad(d.rsample((100_000,)).square().sum(-1).mean(), raw)
    again = type(d)(d.loc, raw, *rest)
    (wanted,) = torch.autograd.grad((again.variance + again.mean.square()).sum(), raw)
    assert (gradient - wanted).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.parametrize("q", [full, low_rank, independent])
@pytest.mark.parametrize("p", [full, low_rank, independent, standard])
def test_kl_of_normals_is_the_mean_of_log_ratios(q, p):
    q, p = q(), p()
    kl = kl_divergence(q, p)
    x = q.sample((100_000,))
    ratio = q.log_prob(x) - p.log_prob(x)
    assert (ratio.mean() - kl).abs() < 5 * ratio.std() / math.sqrt(len(ratio))
    dense = [
        torch.distributions.MultivariateNormal(
            d.mean, covariance(d) if hasattr(d, "parts") else torch.diag(d.variance)
        )
        for d in (q, p)
    ]
    close(kl, kl_divergence(*dense))


def test_kl_of_a_posterior_that_is_its_prior_is_zero_and_broadcasts():
    for kind in (MultivariateNormal, partial(LowRankMultivariateNormal, rank=3)):
        family = kind((4,)).double()
        family.unscaled()
        q = family(torch.zeros(3, *family.param_shape).double())
        close(kl_divergence(q, standard()), torch.zeros(3), 1e-12)
        h = torch.randn(3, *family.param_shape).double()
        prior = Learned((4,), family=kind).double()()
        together = kl_divergence(family(h), prior)
        for b in range(3):
            close(together[b], kl_divergence(family(h[b]), prior))


def test_no_kl_is_made_up_where_none_is_known():
    heavy = Factorized(torch.distributions.StudentT(5.0, torch.zeros(4).double()), 1)
    assert analytic_kl(full(), heavy) is None
    assert analytic_kl(heavy, low_rank()) is None
    mixed = mixture(torch.zeros(2).double(), full((2,)))
    assert analytic_kl(mixed, standard()) is None


def test_regressions_are_those_of_the_docstring():
    family = MultivariateNormal((3,)).double()
    family.unscaled()
    h = torch.randn(9).double()
    d, phi = family(h), h[6:] / torch.tensor([1, 2, 2]).double().sqrt()
    noise = d.sample((4,)) - d.mean  # u_j - m_j
    eps = (d.whiten @ noise.unsqueeze(-1)).squeeze(-1)
    s = (10 * torch.tanh(h[3:6] / 10)).exp()
    close(noise[:, 0], s[0] * eps[:, 0])
    close(noise[:, 1], phi[0] * noise[:, 0] + s[1] * eps[:, 1])
    close(noise[:, 2], phi[1] * noise[:, 0] + phi[2] * noise[:, 1] + s[2] * eps[:, 2])


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
@pytest.mark.parametrize("kind", [MultivariateNormal, partial(LowRankMultivariateNormal, rank=1)])
def test_marginal_of_dependent_columns_is_their_covariance(kind, shape):
    one = torch.randn(4000, 1).double()
    x = one * torch.tensor([1.0, -2.0, 0.5, 0.01]).double() + torch.randn(4000, 4).double() * (
        torch.tensor([0.3, 1.0, 0.5, 0.02]).double()
    )
    x = (100 + x).view(-1, *shape)
    family = kind(shape).double()
    family.initialise(x)
    d = family(family.marginal(x))
    wanted = torch.cov(x.flatten(1).T)
    found = d.scale.flatten().unsqueeze(-1) * covariance(d.base) * d.scale.flatten()
    deviations = wanted.diagonal().sqrt()
    apart = 0.1 if kind is MultivariateNormal else 0.2  # one principal direction
    assert ((found - wanted) / deviations / deviations.unsqueeze(-1)).abs().max() < apart
    holes = torch.rand(4000, *shape) < 0.9
    spoiled = torch.where(holes, x, math.nan)
    d = family(family.marginal(spoiled, holes))
    best = d.log_prob(x).mean()
    assert best > family(torch.zeros(family.param_shape).double()).log_prob(x).mean() + 0.3


def test_marginal_of_few_rows_and_empty_columns_is_finite():
    x = torch.randn(2, 5).double()
    x[:, 3] = 1.0
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[:, 4] = False
    for kind in (MultivariateNormal, partial(LowRankMultivariateNormal, rank=7), Mixture):
        family = kind((5,)).double()
        family.initialise(x, mask)
        h = family.marginal(torch.where(mask, x, math.nan), mask)
        assert h.isfinite().all()
        assert family(h).log_prob(x, mask).isfinite().all()


def test_low_rank_has_a_gradient_where_it_starts_and_equals_a_full_normal():
    family = LowRankMultivariateNormal((3,), rank=2).double()
    h = torch.zeros(12).double().requires_grad_(True)
    x = torch.randn(50, 1).double().expand(50, 3)
    (gradient,) = torch.autograd.grad(family(h).log_prob(x).sum(), h)
    assert (gradient[6:].view(3, 2).abs() > 1).sum() >= 4
    d = LowRankMultivariateNormal((3,), rank=2).double()(torch.randn(12).double()).base
    whiten = torch.linalg.inv(torch.linalg.cholesky(covariance(d)))
    close(d.log_prob(x), FullDistribution(d.loc, whiten).log_prob(x))


def test_units_of_dependent_columns_are_an_exact_jacobian():
    x, units = torch.randn(20, 3).double(), torch.tensor([2.0, 1e-4, 7.0]).double()
    mask = torch.rand(20, 3) < 0.6
    for kind in (MultivariateNormal, LowRankMultivariateNormal):
        found = []
        for there in (x, x * units):
            family = kind((3,)).double()
            family.initialise(there)
            h = torch.linspace(-1, 1, *family.param_shape).double()
            found.append(family(h).log_prob(there, mask))
        lost = torch.where(mask, units.log(), 0.0).sum(-1)
        close(found[0], found[1] + lost)


def test_float32_normals_keep_their_digits_where_scales_differ():
    """Float32 against float64, nearly collinear columns under masks."""
    raw = torch.tensor([0.1, -0.2, 0.3, 0.0, -6.0, -3.0, 1.0, 2.0, -5.0])
    family = MultivariateNormal((3,))
    family.unscaled()
    d, wide = family(raw), family(raw.double())
    x, masks = wide.sample((8,)), subsets(3)
    close(d.log_prob(x.float(), masks), wide.log_prob(x.float().double(), masks), 1e-3)
    assert d.log_prob(x.float(), masks).dtype == torch.float32
    assert d.given(x.float(), masks).mean.dtype == torch.float32


@pytest.mark.parametrize(
    "kind",
    [
        MultivariateNormal,
        LowRankMultivariateNormal,
        Mixture,
        partial(Mixture, family=MultivariateNormal),
        partial(Mixture, family=LowRankMultivariateNormal),
    ],
)
def test_float64_rows_meet_float32_parameters(kind):
    """Data stay in float64 where their columns need it; results are close to those in float64."""
    family = kind((3,))
    x, mask = 1e6 + torch.randn(20, 3).double(), torch.rand(20, 3) < 0.6
    with torch.no_grad():
        family.initialise(x)
    h = 0.3 * torch.randn(20, *family.param_shape)
    d = family(h)
    found = d.log_prob(x), d.log_prob(x, mask), d.given(x, mask).mean, d.given(x, mask).sample()
    wide = family.double()(h.double())
    for a, b in zip(found, (wide.log_prob(x), wide.log_prob(x, mask)), strict=False):
        close(a, b, 1e-3)
    close(torch.where(mask, 0.0, found[2]), torch.where(mask, 0.0, wide.given(x, mask).mean), 1e-5)
    assert found[3].isfinite().all()
