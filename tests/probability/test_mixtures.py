"""Mixtures of families, held against scipy, quadrature and sums over all rows."""

import math
from functools import partial

import pytest
import scipy.stats
import torch

from latently.probability.distributions import Factorized, Normal
from latently.probability.distributions.mixture import JointMixture, mixture
from latently.probability.distributions.mixture import Mixture as MixtureDistribution
from latently.probability.families import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    DiscretizedLogistic,
    Gamma,
    Laplace,
    LogisticNormal,
    LowRankMultivariateNormal,
    Mixture,
    MultivariateNormal,
    OneHot,
    Poisson,
    SharedNormal,
)
from latently.probability.families import Normal as NormalFamily
from latently.probability.priors import Standard

from .oracles import all_rows, close, quadrature, subsets


@pytest.mark.parametrize("kind", [NormalFamily, MultivariateNormal, LowRankMultivariateNormal])
def test_mixture_integrates_to_one_in_two_dimensions(kind):
    family = Mixture((2,), components=3, family=kind).double()
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


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Bernoulli, [0, 1]),
        (partial(Categorical, levels=3), [0, 1, 2]),
        (partial(DiscretizedLogistic, levels=4), [0, 1, 2, 3]),
    ],
)
def test_discrete_mixture_is_the_sum_over_what_is_missing(kind, values):
    family = Mixture((3,), components=2, family=kind).double()
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
    family = Mixture((3,), components=2, family=OneHot).double()
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


@pytest.mark.parametrize("kind", [NormalFamily, Bernoulli, partial(DiscretizedLogistic, levels=9)])
def test_mixture_quantiles_invert_the_cdf(kind):
    family = Mixture((2,), components=3, family=kind).double()
    d = family(torch.randn(4, *family.param_shape).double())
    q = torch.linspace(0.001, 0.999, 41).double().view(-1, 1, 1)
    x = d.icdf(q)
    assert x.shape == (41, 4, 2)
    if not family.discrete:
        close(d.cdf(x), q.expand_as(x))
        return
    values = torch.arange(9).double().view(-1, 1, 1, 1)
    values = values[:2] if kind is Bernoulli else values
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_normals_by_products_are_the_normals_one_by_one(dtype):
    """Rows under the same normals go by products of matrices, with holes and far from 0, too."""
    loc = 1e3 + torch.randn(50, 2, 3).to(dtype)
    log_std = torch.randn(50, 2, 3).to(dtype) - 3
    logits = torch.randn(50).to(dtype)
    x, mask = loc[torch.randint(50, (4, 7))] + 0.01, torch.rand(4, 7, 2, 3) < 0.6
    d = mixture(logits, Factorized(Normal(loc, log_std), 2))
    apart = mixture(
        logits.double(), Factorized(Normal(*(p.double()[None] for p in (loc, log_std))), 2)
    )
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    close(d.log_prob(x), apart.log_prob(x.double()), tolerance)
    spoiled = torch.where(mask, x, math.nan)
    close(d.log_prob(spoiled, mask), apart.log_prob(x.double(), mask), tolerance)
    assert d.log_prob(x).dtype == dtype
    close(d.given(spoiled, mask).mean, apart.given(x.double(), mask).mean, tolerance)


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", [NormalFamily, MultivariateNormal])
def test_implicit_gradient_of_an_expectation_is_unbiased(kind):
    family = Mixture((2,), components=3, family=kind).double()
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
    assert (wanted.abs() > 10 * error).sum() > len(h) // 2  # the comparison says something


def test_implicit_jacobian_is_that_of_the_conditional_cdfs():
    """Moving theta and z together along dz/dtheta leaves every conditional cdf as it was."""
    for kind in (NormalFamily, MultivariateNormal):
        family = Mixture((3,), components=2, family=kind).double()
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
    for kind in (NormalFamily, MultivariateNormal):
        family = Mixture((3,), components=3, family=kind).to(dtype)
        family.unscaled()
        for scale in (1.0, 10.0, 100.0, 1e4):
            h = scale * torch.randn(50, *family.param_shape).to(dtype)
            if kind is MultivariateNormal:
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
    for kind, has in {**wanted, Bernoulli: False, Dirichlet: False}.items():
        family = Mixture((2,), family=kind)
        family.unscaled()
        d = family(torch.zeros(family.param_shape))
        assert d.has_rsample is has
    with refused("no reparameterised draws"):
        d.rsample()


def test_a_mixture_of_rows_without_marginals_has_none():
    d = Mixture((3,), components=2, family=LogisticNormal)(torch.randn(12))
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


@pytest.mark.parametrize("kind", [NormalFamily, SharedNormal, MultivariateNormal])
def test_marginal_of_a_mixture_finds_groups(kind):
    group = torch.randint(0, 3, (900,))
    centre = torch.tensor([[0.0, 0.0], [8.0, -8.0], [-8.0, -8.0]]).double()
    x = 1e3 + 5 * (centre[group] + torch.randn(900, 2).double())
    mask = torch.rand(900, 2) < 0.9
    mask[:, 0] |= ~mask.any(1)
    family = Mixture((2,), components=8, family=kind).double()  # eight random rows miss no group
    family.initialise(x, mask)
    h = family.marginal(torch.where(mask, x, math.nan), mask)
    apart = torch.cdist(1e3 + 5 * centre, family(h).components.mean.detach())
    assert (apart.min(1).values < 10).all()  # two deviations of a group
    if kind is SharedNormal:  # its deviation is no part of h
        return
    single = kind((2,)).double()
    single.initialise(x)
    best = single(torch.zeros(single.param_shape).double()).log_prob(x).mean()
    assert family(h).log_prob(x).mean() > best + 0.3


def types(d):
    """The type of everything that a distribution says."""
    x = d.sample()
    found = {name: getattr(d, name) for name in ("mean", "variance", "mode")}
    found |= {"draws": x, "log_prob": d.log_prob(x), "cdf": d.cdf(x), "icdf": d.icdf(d.cdf(x))}
    if d.has_rsample:
        found["rsample"] = d.rsample()
    return {name: value.dtype for name, value in found.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "kind",
    [NormalFamily, Laplace, Gamma, MultivariateNormal, LowRankMultivariateNormal, Poisson, Beta],
)
def test_mixtures_speak_in_the_types_of_their_components(kind, dtype):
    alone, mixed = kind((3,)), Mixture((3,), family=kind)
    h, both = (torch.randn(4, *f.param_shape, dtype=dtype) for f in (alone, mixed))
    data = types(mixed(both))
    assert data == {name: types(alone(h))[name] for name in data}
    alone.unscaled()
    mixed.unscaled()
    d, mask = mixed.to(dtype)(both), torch.tensor([True, False, True]).expand(4, 3)
    given = d.given(d.sample(), mask)
    assert {*types(d).values(), *types(given).values()} == {dtype}
    assert set(types(alone.to(dtype)(h)).values()) == {dtype}


def test_options_of_mixtures_are_checked(refused):
    with refused("components=0"):
        Mixture((2,), components=0)
    for wrong in (torch.nn.ReLU, NormalFamily((2,)), partial(torch.nn.Linear, bias=False), len, 3):
        with refused("Mixture: family=", "is no constructor of a family", "family=Normal"):
            Mixture((2,), family=wrong)
    with refused("rank=0"):
        LowRankMultivariateNormal((2,), rank=0)
    with refused("covariance='half'"):
        LogisticNormal((3,), covariance="half")
    with refused("at least 2"):
        Dirichlet((4, 1))


def test_components_without_rows_start_apart_from_each_other():
    x = torch.tensor([0.0, 1.0]).double().repeat(20).view(40, 1).expand(40, 3)
    for kind in (Bernoulli, NormalFamily):
        family = Mixture((3,), components=6, family=kind).double()  # of two kinds of rows
        family.initialise(x)
        means = family(family.marginal(x)).components.mean
        assert torch.pdist(means).min() > 1e-3
