"""Every closed KL(q || p) against a sum, an integral or draws; which pairs have one; extremes."""

import itertools
import math
from functools import partial

import pytest
import torch

from latently.probability import families
from latently.probability.distributions import (
    Factorized,
    Normal,
    StandardNormal,
    analytic_kl,
    kl_and_cells,
)
from latently.probability.families import (
    Beta,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Dirichlet,
    DiscretizedLogistic,
    Gamma,
    Laplace,
    LogisticNormal,
    LogNormal,
    LowRankMultivariateNormal,
    MultivariateNormal,
    NegativeBinomial,
    OneHot,
    Ordinal,
    Poisson,
    SharedNormal,
    StudentT,
    ZeroInflated,
)

ZIP = partial(ZeroInflated, family=Poisson)
ZIB = partial(ZeroInflated, family=partial(Binomial, levels=5))
FullLogistic, Logistic = LogisticNormal, partial(LogisticNormal, covariance="diagonal")
FIVE = [partial(f, levels=5) for f in (Binomial, Categorical, DiscretizedLogistic, Ordinal)]
LINE = [families.Normal, Laplace, StudentT]
ROWS = [MultivariateNormal, LowRankMultivariateNormal]
CELLWISE = [
    *itertools.product(LINE, [families.Normal]),
    (families.Normal, Laplace),
    (families.FixedNormal, Laplace),
    (Laplace, Laplace),
]
POSITIVE = list(itertools.product([Gamma, LogNormal], repeat=2))
UNIT = [(Beta, Beta), (ContinuousBernoulli, ContinuousBernoulli)]
COUNTS = [(Poisson, Poisson), (ZIP, ZIP), (Poisson, ZIP), (ZIP, Poisson)]
LEVELS = [*itertools.product(FIVE, repeat=2), (ZIB, ZIB)]
SIMPLEX = [(Dirichlet, Dirichlet), (Dirichlet, FullLogistic), (Dirichlet, Logistic)]
SIMPLEX += list(itertools.product([FullLogistic, Logistic], repeat=2))
JOINT = [
    *itertools.product([*ROWS, *LINE], ROWS),
    *itertools.product(ROWS, [families.Normal, SharedNormal, Laplace]),
]
CLOSED = [*CELLWISE, *POSITIVE, *UNIT, *COUNTS, *LEVELS, *SIMPLEX, *JOINT, (OneHot, OneHot)]


def named(make):
    return getattr(make, "func", make).__name__


def pairs(found):
    return pytest.mark.parametrize(
        ("make_q", "make_p"), found, ids=[f"{named(q)}-{named(p)}" for q, p in found]
    )


def made(make, cells=1, size=1.0, batch=(), dtype=torch.float64):
    """A distribution with random raw parameters, in units of order one."""
    family = make((cells,))
    family.unscaled()
    family = family.to(dtype)
    return family((size * torch.randn(*batch, *family.param_shape)).to(dtype))


def closed(q, p):
    kl = analytic_kl(q, p)
    assert kl is not None
    return kl


def integral(q, p, x, volume, missed=1e-5):
    """`sum q (log q - log p) dx` on points (n, cells), where q sums to one."""
    log_q = q.log_prob(x)
    weights = log_q.exp() * volume
    torch.testing.assert_close(weights.sum(), weights.new_tensor(1.0), rtol=0, atol=missed)
    return (weights * (log_q - p.log_prob(x))).sum() / weights.sum()


@pairs(CELLWISE)
def test_cells_on_the_line(make_q, make_p):
    for _ in range(3):
        q, p = made(make_q, size=0.7), made(make_p)
        t = torch.linspace(-15, 15, 200_001, dtype=torch.float64)
        x, step = t.sinh(), t.cosh() * (t[1] - t[0])  # heavy tails: to 1.6e6
        found = integral(q, p, x.unsqueeze(-1), step)
        torch.testing.assert_close(closed(q, p), found, rtol=1e-5, atol=1e-6)


@pairs(POSITIVE)
def test_positive_cells(make_q, make_p):
    for _ in range(3):
        q, p = made(make_q, size=0.7), made(make_p, size=0.7)
        y = torch.linspace(-200, 60, 400_001, dtype=torch.float64)
        found = integral(q, p, y.exp().unsqueeze(-1), y.exp() * (y[1] - y[0]))
        torch.testing.assert_close(closed(q, p), found, rtol=1e-5, atol=1e-6)


@pairs(UNIT)
def test_cells_between_0_and_1(make_q, make_p):
    q, p = made(make_q), made(make_p)
    y = torch.linspace(-35, 35, 200_001, dtype=torch.float64)
    x = y.sigmoid()
    found = integral(q, p, x.unsqueeze(-1), x * (1 - x) * (y[1] - y[0]))
    torch.testing.assert_close(closed(q, p), found, rtol=1e-5, atol=1e-6)


@pairs(COUNTS)
def test_counts(make_q, make_p):
    x = torch.arange(400, dtype=torch.float64).unsqueeze(-1)
    for _ in range(3):
        q, p = made(make_q, size=1.5), made(make_p, size=1.5)
        torch.testing.assert_close(closed(q, p), integral(q, p, x, 1.0), rtol=1e-9, atol=1e-9)


@pairs(LEVELS)
def test_levels(make_q, make_p):
    q, p = made(make_q, cells=2), made(make_p, cells=2)
    rows = torch.cartesian_prod(*[torch.arange(5, dtype=torch.float64)] * 2)
    torch.testing.assert_close(closed(q, p), integral(q, p, rows, 1.0), rtol=1e-9, atol=1e-9)


@pairs([(Categorical, Categorical), (Binomial, Binomial), (Binomial, Categorical)])
def test_levels_that_the_other_lacks(make_q, make_p):
    few, many = made(partial(make_q, levels=3)), made(partial(make_p, levels=4))
    rows = torch.arange(3, dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(closed(few, many), integral(few, many, rows, 1.0))
    assert closed(many, few) == math.inf


@pytest.mark.slow
@pairs(SIMPLEX)
def test_rows_that_sum_to_one(make_q, make_p):
    q, p = made(make_q, cells=3, size=0.5), made(make_p, cells=3, size=0.5)
    t = torch.linspace(-40, 40, 1201, dtype=torch.float64)
    y = torch.cartesian_prod(t, t)
    x = torch.softmax(torch.cat([y, torch.zeros_like(y[:, :1])], -1), -1)
    x = x.clamp(min=1e-300)
    found = integral(q, p, x, x.prod(-1) * (t[1] - t[0]) ** 2)
    torch.testing.assert_close(closed(q, p), found, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pairs(JOINT)
def test_rows_whose_cells_depend_on_each_other(make_q, make_p):
    q, p = made(make_q, cells=2, size=0.5), made(make_p, cells=2, size=0.5)
    heavy = make_q in (StudentT, Laplace)  # long tails, and a corner
    t = torch.linspace(-7, 7, 1601 if heavy or make_p is Laplace else 501, dtype=torch.float64)
    if heavy:
        axis, step = t.sinh(), t.cosh() * (t[1] - t[0])
    else:
        axis, step = 4 * t, torch.full_like(t, 4 * (t[1] - t[0]))
    x, volume = torch.cartesian_prod(axis, axis), torch.cartesian_prod(step, step).prod(-1)
    found = integral(q, p, q.mean + x, volume, 1e-4)
    torch.testing.assert_close(closed(q, p), found, rtol=1e-4, atol=2e-5)


@pairs([(LowRankMultivariateNormal, MultivariateNormal), (StudentT, MultivariateNormal)])
def test_many_cells_by_draws(make_q, make_p):
    q, p = made(make_q, cells=7, size=0.4, batch=(3,)), made(make_p, cells=7, size=0.4)
    z = q.sample((40_000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.std(0) / math.sqrt(len(z))
    assert ((ratio.mean(0) - closed(q, p)).abs() < 4 * error).all()


@pairs(CLOSED)
def test_batches_broadcast_and_the_same_is_zero(make_q, make_p):
    torch.manual_seed(1)
    shape = 2 if (make_q, make_p) in SIMPLEX else 3
    q, p = made(make_q, cells=shape, batch=(4,)), made(make_p, cells=shape)
    kl = closed(q, p)
    assert kl.shape == (4,)
    assert (kl > -1e-9).all()
    if make_q is make_p:
        torch.manual_seed(2)
        same = made(make_q, cells=shape, batch=(4,))
        assert closed(same, same).abs().max() < 1e-6


@pairs(CLOSED)
def test_extremes_are_finite_and_so_are_gradients(make_q, make_p):
    """In float32, at raw parameters of 0, a little, a lot and more; near float64's results."""
    torch.manual_seed(3)
    family_q, family_p = (make((2,)).float() for make in (make_q, make_p))
    family_q.unscaled()
    family_p.unscaled()
    sizes = torch.tensor([0.0, 1.0, 8.0, 60.0, 1e4]).view(-1, 1, 1)
    h = sizes * torch.randn(5, 40, *family_q.param_shape).sign()
    g = sizes[torch.randperm(5)] * torch.randn(5, 40, *family_p.param_shape).sign()
    h.requires_grad_()
    g.requires_grad_()
    kl = closed(family_q(h), family_p(g))
    assert kl.isfinite().all()
    gradients = torch.autograd.grad(kl.sum(), [h, g], allow_unused=True)
    assert all(part.isfinite().all() for part in gradients if part is not None)
    wide = closed(family_q.double()(h.double()), family_p.double()(g.double()))
    known = wide < 1e20
    torch.testing.assert_close(kl.double()[known], wide[known], rtol=1e-3, atol=1e-2)


def test_scaled_alike_is_the_kl_of_the_bases():
    for make in (families.Normal, MultivariateNormal, LogNormal):
        family = make((3,)).double()
        x = (torch.randn(50, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1])).exp()
        h, g = torch.randn(2, *family.param_shape, dtype=torch.float64)
        plain = closed(family(h), family(g))
        family.initialise(x)
        torch.testing.assert_close(closed(family(h), family(g)), plain)
        other = make((3,)).double()
        other.initialise(2 * x)
        if make is not LogNormal:
            assert analytic_kl(family(h), other(g)) is None


@pairs([(Gamma, LogNormal), (LogNormal, Gamma), (LogNormal, LogNormal), (Gamma, Gamma)])
def test_positive_columns_in_units_of_their_own(make_q, make_p):
    """Values near 1e4, in columns that each family has scaled for itself."""
    rows = (9 + 0.5 * torch.randn(50, 1, dtype=torch.float64)).exp()
    q, p = make_q((1,)).double(), make_p((1,)).double()
    q.initialise(rows)
    p.initialise(rows)
    d, e = (f(0.3 * torch.randn(f.param_shape, dtype=torch.float64)) for f in (q, p))
    y = torch.linspace(-100, 60, 200_001, dtype=torch.float64)
    found = integral(d, e, y.exp().unsqueeze(-1), y.exp() * (y[1] - y[0]))
    torch.testing.assert_close(closed(d, e), found, rtol=1e-5, atol=1e-6)


def test_a_posterior_with_heavy_tails_has_the_cells_of_its_kl():
    q = made(Laplace, cells=3, batch=(5,))
    prior = Factorized(StandardNormal(torch.zeros(3, dtype=torch.float64)), 1)
    kl, cells = kl_and_cells(q, prior)
    assert cells.shape == (5, 3)
    torch.testing.assert_close(cells.sum(-1), kl)
    normal = Factorized(Normal(*torch.zeros(2, 3, dtype=torch.float64)), 1)
    torch.testing.assert_close(kl, closed(q, normal))


@pairs(
    [
        (StudentT, StudentT),
        (StudentT, Laplace),
        (Laplace, StudentT),
        (MultivariateNormal, StudentT),
        (NegativeBinomial, NegativeBinomial),
        (ZeroInflated, ZeroInflated),
        (LogisticNormal, Dirichlet),
        (families.Mixture, families.Normal),
    ]
)
def test_none_is_made_up(make_q, make_p):
    assert analytic_kl(made(make_q, cells=3), made(make_p, cells=3)) is None
