"""Families whose cells depend on each other, held against scipy, quadrature and brute force."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import kl_divergence

from latently.errors import UserError
from latently.probability.distributions import Factorized, Normal, StandardNormal, analytic_kl
from latently.probability.distributions.gaussian import (
    LowRankMultivariateNormal as LowRankDistribution,
)
from latently.probability.distributions.gaussian import MultivariateNormal as FullDistribution
from latently.probability.distributions.mixture import JointMixture, mixture
from latently.probability.distributions.mixture import Mixture as MixtureDistribution
from latently.probability.distributions.simplex import Dirichlet as DirichletDistribution
from latently.probability.families import (
    Bernoulli,
    Categorical,
    Dirichlet,
    DiscretizedLogistic,
    LogisticNormal,
    LowRankMultivariateNormal,
    Mixture,
    MultivariateNormal,
    OneHot,
)
from latently.probability.families import Normal as NormalFamily
from latently.probability.priors import Learned, Standard


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(found).detach().double(),
        torch.as_tensor(wanted).detach().double(),
        rtol=tolerance,
        atol=tolerance,
    )


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


def subsets(cells):
    """Every mask of a row."""
    return torch.cartesian_prod(*[torch.tensor([True, False])] * cells).view(-1, cells)


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
    bits = Factorized(torch.distributions.Laplace(torch.zeros(4).double(), 1.0), 1)
    assert analytic_kl(full(), bits) is None
    assert analytic_kl(bits, low_rank()) is None
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


# Mixtures.


def quadrature(log_density, lows, highs, points=401):
    """Integral of exp(log density) times (1, x, y) over a rectangle."""
    axes = [
        torch.linspace(a, b, points, dtype=torch.float64) for a, b in zip(lows, highs, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    p = log_density(grid).exp()
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    return p, grid, cell


@pytest.mark.parametrize("of", [NormalFamily, MultivariateNormal, LowRankMultivariateNormal])
def test_mixture_integrates_to_one_in_two_dimensions(of):
    family = Mixture((2,), components=3, of=of).double()
    d = family(0.4 * torch.randn(family.param_shape).double())
    reach = float(9 * d.components.variance.max().sqrt() + d.components.mean.abs().max())
    p, grid, cell = quadrature(d.log_prob, [-reach] * 2, [reach] * 2, points=1001)
    assert float(p.sum() * cell) == pytest.approx(1, abs=1e-6)
    close((p.unsqueeze(-1) * grid).sum((0, 1)) * cell, d.mean, 1e-5)
    close((p.unsqueeze(-1) * grid.square()).sum((0, 1)) * cell - d.mean**2, d.variance, 1e-4)
    # leaving out the second cell is integrating over it
    mask = torch.tensor([True, False])
    some = grid[::250, 0]
    spoiled = torch.where(mask, some, math.nan)
    close(d.log_prob(spoiled, mask.expand_as(spoiled)).exp(), p[::250].sum(1) * cell**0.5, 1e-6)


def all_rows(values, cells):
    return torch.cartesian_prod(*[torch.as_tensor(values).double()] * cells).view(-1, cells)


@pytest.mark.parametrize(
    ("of", "values"),
    [
        (Bernoulli, [0, 1]),
        (partial(Categorical, levels=3), [0, 1, 2]),
        (partial(DiscretizedLogistic, levels=4), [0, 1, 2, 3]),
    ],
)
def test_discrete_mixture_is_the_sum_over_what_is_missing(of, values):
    family = Mixture((3,), components=2, of=of).double()
    assert family.discrete
    assert family.support == family.family.support
    d = family(torch.randn(family.param_shape).double())
    rows = all_rows(values, 3)
    p = d.log_prob(rows).exp()
    close(p.sum(), 1.0)
    for mask in subsets(3):
        for row in rows[:: len(rows) // 5]:
            agree = (rows == row)[:, mask].all(-1)
            close(d.log_prob(torch.where(mask, row, math.nan), mask).exp(), p[agree].sum())
            if mask.all():
                continue
            given = d.given(torch.where(mask, row, math.nan), mask)
            close(given.log_prob(rows[agree], ~mask.expand_as(rows[agree])).exp().sum(), 1.0)
            share = (p[agree] / p[agree].sum()).unsqueeze(-1)
            close(given.mean[~mask], (share * rows[agree]).sum(0)[~mask])
            second = (share * rows[agree].square()).sum(0)
            close(given.variance[~mask], (second - given.mean.square())[~mask])


def test_mixture_of_one_hot_rows_conditions_exactly():
    family = Mixture((3,), components=2, of=OneHot).double()
    d = family(torch.randn(8).double())
    rows = torch.eye(3).double()
    p = d.log_prob(rows).exp()
    close(p.sum(), 1.0)
    close(torch.stack(list(d.states())), rows)
    mask = torch.tensor([True, False, False])
    given = d.given(torch.tensor([0, math.nan, math.nan]).double(), mask)
    close(given.mean[1:], p[1:] / p[1:].sum())


def test_weights_given_a_row_are_its_responsibilities():
    family = Mixture((2,), components=3).double()
    h = torch.randn(5, *family.param_shape).double()
    d, x = family(h), torch.randn(5, 2).double()
    mask = torch.tensor(
        [[True, False], [False, True], [True, True], [False, False], [True, False]]
    )
    given = d.given(torch.where(mask, x, math.nan), mask)
    assert isinstance(given, JointMixture)
    loc, scale = d.components.mean, d.components.variance.sqrt()
    for b in range(5):
        log_p = d.log_weights[b].clone()
        for j in range(2):
            if mask[b, j]:
                log_p += torch.tensor(
                    scipy.stats.norm(loc[b, :, j], scale[b, :, j]).logpdf(x[b, j])
                )
        close(given.log_weights[b], log_p.log_softmax(-1))


@pytest.mark.parametrize("of", [NormalFamily, Bernoulli, partial(DiscretizedLogistic, levels=9)])
def test_mixture_quantiles_invert_the_cdf(of):
    family = Mixture((2,), components=3, of=of).double()
    d = family(torch.randn(4, *family.param_shape).double())
    q = torch.linspace(0.001, 0.999, 41).double().view(-1, 1, 1)
    x = d.icdf(q)
    assert x.shape == (41, 4, 2)
    if not family.discrete:
        close(d.cdf(x), q.expand_as(x))
        return
    values = torch.arange(9).double().view(-1, 1, 1, 1)
    values = values[:2] if of is Bernoulli else values
    reached = d.cdf(values.expand(-1, 41, 4, 2)) >= q
    close(x, reached.long().argmax(0))


def test_mixture_draws_have_its_cdf_and_choose_one_component_for_all_cells():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]]).double()
    loc = torch.tensor([[-50.0, -50.0], [50.0, 50.0]]).double()
    d = JointMixture(logits, Factorized(Normal(loc, torch.zeros(2, 2).double()), 1))
    for x in (d.sample((20_000,)), d.rsample((20_000,))):
        assert x.shape == (20_000, 2, 2)
        assert torch.equal(x[..., 0] > 0, x[..., 1] > 0)
        share = (x[..., 0] > 0).double().mean(0)
        assert (share - logits.softmax(-1)[:, 1]).abs().max() < 0.02
        u = d.cdf(x).flatten(0, 1)
        for j in range(2):
            assert scipy.stats.kstest(u[::7, j].numpy(), "uniform").pvalue > 1e-4


def test_components_are_drawn_apart_where_their_batch_is_smaller():
    """Rows that share parameters must not share draws."""
    base = Factorized(torch.distributions.Laplace(torch.zeros(1, 2, 3).double(), 1.0), 1)
    d = MixtureDistribution(torch.zeros(4, 5, 2).double(), base)
    assert d.batch_shape == (4, 5)
    x = d.sample((6,))
    assert x.shape == (6, 4, 5, 3)
    assert len(x.flatten().unique()) == x.numel()
    held = torch.arange(5).double().view(5, 1, 1).expand(5, 2, 3)
    d = MixtureDistribution(torch.zeros(4, 5, 2).double(), Factorized(Normal(held, held - 9), 1))
    close(d.sample((6,)).round(), torch.arange(5).view(5, 1).expand(6, 4, 5, 3))
    laplace = Factorized(torch.distributions.Laplace(held, 0.01), 1)
    d = MixtureDistribution(torch.zeros(4, 5, 2).double(), laplace)
    close(d.sample((6,)).round(), torch.arange(5).view(5, 1).expand(6, 4, 5, 3))


def test_mode_of_a_mixture_is_the_best_of_its_components():
    logits = torch.tensor([0.0, 3.0, 1.0]).double()
    loc = torch.tensor([[-9.0, 0.0], [0.0, 5.0], [9.0, 9.0]]).double()
    d = mixture(logits, Factorized(Normal(loc, torch.zeros(3, 2).double()), 1))
    close(d.mode, loc[1])


def test_implicit_gradient_in_one_dimension_is_the_quantiles():
    """`z(theta) = F^-1(u; theta)` at a fixed u, by finite differences of the quantile."""
    h = torch.randn(9).double()
    family = Mixture((1,), components=3).double()
    family.unscaled()
    torch.manual_seed(3)
    free = h.clone().requires_grad_(True)
    z = family(free).rsample()
    (found,) = torch.autograd.grad(z.sum(), free)
    u = family(h).cdf(z.detach())
    for i in range(9):
        step = torch.zeros(9).double()
        step[i] = 1e-5
        wanted = (family(h + step).icdf(u) - family(h - step).icdf(u)) / 2e-5
        close(found[i], wanted.squeeze(), 1e-6)


def expected(family, h, f):
    """`E[f(z)]` of a two-dimensional mixture by quadrature."""
    d = family(h)
    with torch.no_grad():
        reach = float(9 * d.components.variance.max().sqrt() + d.components.mean.abs().max())
    p, grid, cell = quadrature(d.log_prob, [-reach] * 2, [reach] * 2, points=801)
    return (p * f(grid)).sum() * cell


@pytest.mark.parametrize("of", [NormalFamily, MultivariateNormal])
def test_implicit_gradient_of_an_expectation_is_unbiased(of):
    family = Mixture((2,), components=3, of=of).double()
    family.unscaled()
    h = (0.7 * torch.randn(family.param_shape)).double()

    def f(z):
        return torch.sin(2 * z[..., 0] + 1) * z[..., 1] + z[..., 1].square() + z[..., 0]

    exact = h.clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad(expected(family, exact, f), exact)
    rows = h.expand(200_000, -1).clone().requires_grad_(True)
    (each,) = torch.autograd.grad(f(family(rows).rsample()).sum(), rows)
    error = each.std(0) / math.sqrt(len(each))
    assert ((each.mean(0) - wanted).abs() < 4 * error + 1e-9).all()
    assert (error < 0.1).all()  # the comparison says something
    assert (wanted.abs() > 10 * error).sum() > len(h) // 2


def test_implicit_jacobian_is_that_of_the_conditional_cdfs():
    """Moving theta and z together along dz/dtheta leaves every conditional cdf as it was."""
    for of in (NormalFamily, MultivariateNormal):
        family = Mixture((3,), components=2, of=of).double()
        family.unscaled()
        h = torch.randn(family.param_shape).double()

        def cdfs(z, h, family=family):
            d = family(h)
            found = []
            for j in range(3):
                before = torch.arange(3) < j
                found.append(d.given(z, before).cdf(z)[j])
            return torch.stack(found)

        free = h.clone().requires_grad_(True)
        z = family(free).rsample()
        rows = torch.stack(
            [torch.autograd.grad(z[j], free, retain_graph=True)[0] for j in range(3)]
        )
        z = z.detach()
        direction = torch.randn_like(h)
        e = 1e-5
        ahead = cdfs(z + e * rows @ direction, h + e * direction)
        behind = cdfs(z - e * rows @ direction, h - e * direction)
        close((ahead - behind) / (2 * e), torch.zeros(3), 1e-6)
        fixed = (cdfs(z, h + e * direction) - cdfs(z, h - e * direction)) / (2 * e)
        assert fixed.abs().max() > 1e-3  # and would not without


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixture_draws_are_finite_at_extreme_parameters(dtype):
    for of in (NormalFamily, MultivariateNormal):
        family = Mixture((3,), components=3, of=of).to(dtype)
        family.unscaled()
        for scale in (1.0, 10.0, 100.0, 1e4):
            h = scale * torch.randn(50, *family.param_shape).to(dtype)
            if of is MultivariateNormal:
                h = h.clamp(-100, 100)
            h.requires_grad_(True)
            z = family(h).rsample((20,))
            assert z.dtype == dtype
            (gradient,) = torch.autograd.grad(z.sum(), h)
            assert z.isfinite().all()
            assert gradient.isfinite().all()
            assert family(h).log_prob(z).isfinite().all()


def test_a_single_component_moves_as_a_normal_does():
    family = Mixture((2,), components=1)
    family.unscaled()
    h = torch.tensor([0.0, 1e5, -3.0, -9.0, 2.0], requires_grad=True)
    z = family(h).rsample()
    (gradient,) = torch.autograd.grad(z.sum(), h)
    close(gradient[1:3], [1.0, 1.0], 1e-5)
    slope = 1 - torch.tanh(h[4] / 10) ** 2
    close(gradient[4], (z[1] - h[2]) * slope, 1e-4)


def test_which_mixtures_have_pathwise_draws(refused):
    wanted = {NormalFamily: True, MultivariateNormal: True, LowRankMultivariateNormal: False}
    for of, has in {**wanted, Bernoulli: False, Dirichlet: False}.items():
        family = Mixture((2,), of=of)
        family.unscaled()
        d = family(torch.zeros(family.param_shape))
        assert d.has_rsample is has
    with refused("no reparameterised draws"):
        d.rsample()


def test_a_mixture_of_rows_without_marginals_has_none():
    d = Mixture((3,), components=2, of=LogisticNormal)(torch.randn(12))
    assert type(d) is MixtureDistribution
    assert not hasattr(d, "given")


def test_components_start_apart_and_make_up_a_standard_normal():
    for components in (2, 7):
        d = Mixture((4,), components=components)(torch.zeros(9 * components))
        close(d.mean, torch.zeros(4), 1e-6)
        close(d.variance, torch.ones(4), 1e-5)
        assert torch.pdist(d.components.mean).min() > 0.1
    one = Mixture((4,), components=1)
    h = torch.randn(8)
    close(
        one(torch.cat([torch.zeros(1), h])).log_prob(torch.ones(4)),
        NormalFamily((4,))(h).log_prob(torch.ones(4)),
        1e-6,
    )
    assert Standard((4,), family=Mixture)().log_prob(torch.zeros(4)).isfinite()


@pytest.mark.parametrize("of", [NormalFamily, MultivariateNormal])
def test_marginal_of_a_mixture_finds_groups(of):
    kind = torch.randint(0, 3, (900,))
    centre = torch.tensor([[0.0, 0.0], [8.0, -8.0], [-8.0, -8.0]]).double()
    x = 1e3 + 5 * (centre[kind] + torch.randn(900, 2).double())
    mask = torch.rand(900, 2) < 0.9
    mask[:, 0] |= ~mask.any(1)
    family = Mixture((2,), components=8, of=of).double()  # eight random rows miss no group
    family.initialise(x, mask)
    h = family.marginal(torch.where(mask, x, math.nan), mask)
    single = of((2,)).double()
    single.initialise(x)
    best = single(torch.zeros(single.param_shape).double()).log_prob(x).mean()
    assert family(h).log_prob(x).mean() > best + 0.3


def test_options_of_mixtures_are_checked(refused):
    with refused("components=0"):
        Mixture((2,), components=0)
    with refused("is no family"):
        Mixture((2,), of=torch.nn.ReLU)
    with refused("is no family"):
        Mixture((2,), of=3)
    with refused("rank=0"):
        LowRankMultivariateNormal((2,), rank=0)
    with refused("covariance='half'"):
        LogisticNormal((3,), covariance="half")
    with refused("at least 2"):
        Dirichlet((4, 1))


# Rows that sum to 1.


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
