"""Families of counts and of ordered levels: the textbook's probabilities, at any size."""

import math
from functools import partial

import pytest
import scipy.stats
import torch
from torch.distributions import kl_divergence

from latently import Data, fit, vae
from latently.probability.families import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    NegativeBinomial,
    Normal,
    OneHot,
    Ordinal,
    Poisson,
    ZeroInflated,
)
from latently.probability.families._counts import bounded_log, raw_of, smallest_count, stirling
from latently.probability.families.negative_binomial import _NegativeBinomial
from latently.probability.families.poisson import _Poisson

from .oracles import shaken

BIG = 1e9
MEANS = [1e-6, 0.03, 1.0, 16.0, 300.0, 1e6, 4e8]
DISPERSIONS = [1e-6, 0.05, 1.0, 40.0, 1e4, 1e8]
COUNTS = [0.0, 1, 2, 7, 15, 16, 17, 250, 1e4, 1e6, 1.003e6, 4e8]
PER_CELL = partial(NegativeBinomial, dispersion="cell")
FREE_SCALE = partial(Ordinal, scale="cell")
# every family under test in every form, with the most values that its sums run over
FORMS = {
    "Poisson": (Poisson, 200),
    "NegativeBinomial": (NegativeBinomial, 4000),
    "NegativeBinomial cell": (PER_CELL, 4000),
    "ZIP": (partial(ZeroInflated, family=Poisson), 200),
    "ZINB": (partial(ZeroInflated, family=PER_CELL), 4000),
    "ZIB": (partial(ZeroInflated, family=partial(Binomial, levels=30)), 30),
    "ZI Ordinal": (partial(ZeroInflated, family=partial(Ordinal, levels=4)), 4),
    "Binomial": (partial(Binomial, levels=12), 12),
    "Binomial 2": (Binomial, 2),
    "Ordinal": (partial(Ordinal, levels=6), 6),
    "Ordinal cell": (partial(FREE_SCALE, levels=6), 6),
    "Ordinal 2": (partial(FREE_SCALE, levels=2), 2),
}
every = pytest.mark.parametrize("form", FORMS)


def double(*values):
    return torch.as_tensor(values, dtype=torch.float64)


def grid(*axes):
    return [t[:, None] for t in torch.cartesian_prod(*(double(*axis) for axis in axes)).T]


def raw(value):
    return raw_of(torch.as_tensor(value, dtype=torch.float64))


def cases(form, spread=1.0):
    """A family of one column with random parameters, its distribution and a column of values."""
    make, most = FORMS[form]
    family = shaken(make((1,)).double())
    h = spread * torch.randn(7, *family.param_shape, dtype=torch.float64)
    return family, family(h), torch.arange(most, dtype=torch.float64).view(-1, 1, 1)


# Against scipy and exact arithmetic.


def test_poisson_is_scipys():
    x, rate = grid(COUNTS, MEANS)
    found = Poisson((1,))(raw(rate)).log_prob(x)
    wanted = torch.as_tensor(scipy.stats.poisson.logpmf(x, rate))[:, 0]
    # scipy's terms are up to 1e10 and cancel; ours do not
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-5)
    few = x[:, 0] < 300
    torch.testing.assert_close(found[few], wanted[few], rtol=1e-12, atol=1e-12)


def test_negative_binomial_is_scipys():
    x, mean, theta = grid([0, 1, 2, 16, 250], [0.03, 1, 16, 300], [0.05, 1, 40])
    h = torch.cat([raw(mean), raw(theta)], -1)
    found = PER_CELL((1,))(h).log_prob(x)
    wanted = scipy.stats.nbinom.logpmf(x, theta, theta / (theta + mean))[:, 0]
    torch.testing.assert_close(found, torch.as_tensor(wanted), rtol=1e-11, atol=1e-11)


def test_binomial_is_scipys():
    for n in (1, 2, 3, 17, 255):
        x, h = grid(range(n + 1), [-12.0, -3, -0.5, 0, 1e-3, 2, 8])
        found = Binomial((1,), levels=n + 1)(h).log_prob(x)
        wanted = scipy.stats.binom.logpmf(x, n, h.sigmoid())[:, 0]
        torch.testing.assert_close(found, torch.as_tensor(wanted), rtol=1e-10, atol=1e-10)


def exact_terms(mp, kind, x, *p):
    if kind == "Poisson":
        (rate,) = p
        return x * mp.log(rate) - rate - mp.loggamma(x + 1)
    if kind == "NegativeBinomial":
        mean, theta = p
        gammas = mp.loggamma(x + theta) - mp.loggamma(theta) - mp.loggamma(x + 1)
        return gammas - theta * mp.log1p(mean / theta) - x * mp.log1p(theta / mean)
    h, n = p
    successes = x * mp.log1p(mp.exp(-h)) + (n - x) * mp.log1p(mp.exp(h))
    return mp.loggamma(n + 1) - mp.loggamma(x + 1) - mp.loggamma(n - x + 1) - successes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["Poisson", "NegativeBinomial", "Binomial"])
def test_log_prob_is_exact_at_any_size_in_either_type(kind, dtype):
    """Against 60 digits: to a few roundings of the result, where the terms reach 1e10.

    A mean that is rounded moves log P by `|x - mu|` times its relative error, whatever follows.
    """
    mp = pytest.importorskip("mpmath").mp
    mp.dps = 60
    if kind == "Binomial":
        found, wanted, away = [], [], []
        for n in (1, 20, 255, 65535, 10**6):
            x, h = grid({0, 1, n // 3, n // 2, n - 1, n}, [-1e4, -90, -17, -1e-3, 0, 2, 40, 1e4])
            x, h = x.to(dtype), h.to(dtype)
            away.append((x - n * h.sigmoid()).abs()[:, 0])
            found.append(Binomial((1,), levels=n + 1)(h).log_prob(x))
            rows = zip(x[:, 0].tolist(), h[:, 0].tolist(), strict=True)
            wanted += [exact_terms(mp, kind, mp.mpf(a), mp.mpf(b), mp.mpf(n)) for a, b in rows]
        found, away = torch.cat(found), torch.cat(away)
    else:
        axes = [MEANS] if kind == "Poisson" else [MEANS, DISPERSIONS]
        x, *p = (t.to(dtype) for t in grid(COUNTS, *axes))
        logs = [q.log() for q in p]
        base = _Poisson(*logs) if kind == "Poisson" else _NegativeBinomial(*logs)
        found, away = base.log_prob(x)[:, 0], (x - base.mean)[:, 0].abs()
        rows = zip(*(t[:, 0].tolist() for t in (x, *logs)), strict=True)
        wanted = [exact_terms(mp, kind, mp.mpf(a), *map(mp.exp, map(mp.mpf, q))) for a, *q in rows]
    assert found.dtype == dtype
    wanted = double(*map(float, wanted))
    allowed = torch.finfo(dtype).eps * (30 * wanted.abs() + 2 * away.double() + 50)
    assert ((found.double() - wanted).abs() <= allowed).all()


def test_stirlings_remainder_is_the_same_on_both_sides_of_its_join():
    x = double(1e-9, 1e-3, 0.5, 1, 15.999999, 16, 16.000001, 40, 1e3)
    wanted = torch.lgamma(x + 1) - (x + 0.5) * x.log() + x - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(stirling(x), wanted, rtol=0, atol=1e-12)
    assert (stirling(x).diff() < 0).all()


# Limits and identities.


def test_negative_binomial_tends_to_the_poisson():
    """`P_NB = P_Poisson (1 + ((x - mu)^2 - x) / (2 theta) + ...)`: not only there."""
    x, mean = grid([0, 1, 3, 20, 400], [0.1, 2.5, 20, 350])
    poisson = _Poisson(mean.log()).log_prob(x)
    for theta in (1e8, 1e12, 1e15):
        found = _NegativeBinomial(mean.log(), torch.full_like(mean, theta).log()).log_prob(x)
        wanted = poisson + ((x - mean).square() - x) / (2 * theta)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-8 if theta == 1e8 else 1e-11)


def test_negative_binomial_without_dispersion_is_all_zeros_and_a_logarithmic_series():
    """As theta goes to 0, `P(x) = theta / x (1 - p)^x` and P(0) = p^theta go to 0 and 1."""
    theta, mean = double(1e-9), double(5.0)
    x = double(1, 2, 10, 100)
    base = _NegativeBinomial(mean.log(), theta.log())
    wanted = theta.log() - x.log() + x * torch.log1p(-theta / (theta + mean))
    torch.testing.assert_close(base.log_prob(x), wanted, rtol=1e-8, atol=1e-8)
    assert float(base.log_prob(double(0.0))) == pytest.approx(-1e-9 * math.log1p(5e9))


def test_negative_binomial_of_one_is_geometric():
    x = torch.arange(50, dtype=torch.float64)
    found = _NegativeBinomial(double(3.0).log(), double(0.0)).log_prob(x)
    torch.testing.assert_close(found, x * math.log(0.75) + math.log(0.25), rtol=1e-12, atol=0)


def test_binomial_of_one_trial_is_bernoulli():
    h, x = torch.randn(40, 3).double() * 5, torch.rand(40, 3).lt(0.5).double()
    torch.testing.assert_close(Binomial((3,))(h).log_prob(x), Bernoulli((3,))(h).log_prob(x))


def test_zero_inflation_by_hand():
    share, rate, theta = 0.3, 2.0, 0.7
    zip_ = ZeroInflated((1,), family=Poisson)
    d = zip_(torch.cat([double(share).logit(), raw([rate])]))
    x = torch.arange(60, dtype=torch.float64)
    p = (1 - share) * torch.as_tensor(scipy.stats.poisson.pmf(x, rate))
    p[0] += share
    torch.testing.assert_close(d.log_prob(x[:, None]).exp(), p, rtol=1e-11, atol=1e-300)
    assert float(d.mean) == pytest.approx(0.7 * 2)
    assert float(d.variance) == pytest.approx(float(p @ x**2 - (p @ x) ** 2))
    zinb = ZeroInflated((1,), family=PER_CELL)
    d = zinb(torch.cat([double(share).logit(), raw([rate]), raw([theta])]))
    p = (1 - share) * torch.as_tensor(scipy.stats.nbinom.pmf(x, theta, theta / (theta + rate)))
    p[0] += share
    torch.testing.assert_close(d.log_prob(x[:, None]).exp(), p, rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("kind", [Poisson, PER_CELL, partial(Binomial, levels=9)])
def test_zero_inflation_is_its_family_or_nothing_at_its_ends(kind):
    family = ZeroInflated((1,), family=kind).double()
    rest = 0.3 * torch.ones(family.family.param_shape).double()
    x = torch.arange(9, dtype=torch.float64)[:, None]
    none, all_ = (family(torch.cat([double(a), rest])).log_prob(x) for a in (-800.0, 800.0))
    torch.testing.assert_close(none, family.family(rest).log_prob(x), rtol=1e-14, atol=0)
    assert float(all_[0]) == 0
    torch.testing.assert_close(all_[1:], family.family(rest).log_prob(x[1:]) - 800)


def test_parameters_pack_the_cells_of_each_kind_one_after_the_other():
    shape = (2, 3)
    family = ZeroInflated(shape, family=PER_CELL).double()
    assert family.param_shape == (6, 3)
    logits, log_mean, log_theta = h = torch.randn(3, *shape).double()
    d = family(h.flatten(0, 1))
    mean, theta = log_mean.exp(), log_theta.exp()
    torch.testing.assert_close(d.mean, (-logits).sigmoid() * mean, rtol=1e-6, atol=1e-6)
    inner = mean + mean**2 / theta
    wanted = (-logits).sigmoid() * (inner + logits.sigmoid() * mean**2)
    torch.testing.assert_close(d.variance, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [Normal, Normal((3,)), OneHot, 5, Data, torch.nn.Linear])
def test_zero_inflation_refuses_what_has_no_zeros_to_inflate(kind, refused):
    with refused("ZeroInflated", "Poisson, NegativeBinomial or Binomial"):
        ZeroInflated((3,), family=kind)


@pytest.mark.parametrize("kind", [Bernoulli, DiscretizedLogistic, Categorical, ZeroInflated])
def test_zero_inflation_takes_any_counts(kind):
    family = ZeroInflated((3,), family=kind)
    d = family(torch.zeros(5, *family.param_shape))
    assert d.log_prob(torch.zeros(5, 3)).isfinite().all()


def test_ordinal_is_the_cumulative_definition():
    family = shaken(FREE_SCALE((2, 3), levels=7).double(), 1.0)
    eta, log_scale = torch.randn(2, 5, 2, 3).double()
    d = family(torch.cat([eta, log_scale], 1))
    steps = torch.nn.functional.softplus(family.raw_cuts[1:])
    cuts = torch.cat([family.raw_cuts[:1], steps]).cumsum(0)
    assert (cuts.diff(dim=0) > 0).all()
    below = torch.sigmoid((cuts[:, None] - eta) / (10 * torch.tanh(log_scale / 10)).exp())
    edges = torch.cat([torch.zeros(1, 5, 2, 3), below, torch.ones(1, 5, 2, 3)]).diff(dim=0)
    for level in range(7):
        x = torch.full((5, 2, 3), float(level)).double()
        torch.testing.assert_close(d.base.log_prob(x).exp(), edges[level], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(d.cdf(x), edges[: level + 1].sum(0), rtol=1e-4, atol=1e-5)
    total = d.base.log_prob(torch.arange(7.0).double().view(7, 1, 1, 1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_ordinal_keeps_far_levels_apart():
    """A difference of sigmoids would be 0 here, and its log -inf."""
    for dtype in (torch.float32, torch.float64):
        family = Ordinal((1,), levels=5).to(dtype)
        h = torch.tensor([[-500.0], [500.0]], dtype=dtype)
        log_p = family(h).log_prob(torch.arange(5, dtype=dtype).view(5, 1, 1)).detach()
        gap = family(torch.zeros(1, dtype=dtype)).base.cuts[0].detach()
        assert log_p[0, 0] == pytest.approx(0, abs=1e-6)
        # far out P(level) = e^-(500 - cut), up to the width of the level
        wanted = [-500 + float(gap[k]) + math.log(-math.expm1(-float(gap[k] - gap[k - 1])))
                  for k in range(1, 4)]  # fmt: skip
        assert log_p[1:4, 1].tolist() == pytest.approx(wanted, rel=1e-5)


# What holds of all.


@every
def test_probabilities_sum_to_one(form):
    _, d, x = cases(form)
    total = d.base.log_prob(x).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)


@every
def test_moments_mode_and_cdf_are_those_of_the_probabilities(form):
    _, d, x = cases(form)
    p = d.base.log_prob(x).exp()
    mean = (p * x).sum(0)
    torch.testing.assert_close(d.mean, mean, rtol=1e-7, atol=1e-7)
    wanted = (p * (x - mean).square()).sum(0)
    torch.testing.assert_close(d.variance, wanted, rtol=1e-6, atol=1e-7)
    at_mode = d.base.log_prob(d.mode).exp()
    torch.testing.assert_close(at_mode, p.max(0).values, rtol=1e-12, atol=0)
    torch.testing.assert_close(d.cdf(x), p.cumsum(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(d.cdf(x + 0.7), d.cdf(x), rtol=0, atol=0)
    assert not d.cdf(x - len(x)).any()


@every
def test_quantiles_are_the_smallest_values_that_reach(form):
    _, d, x = cases(form)
    q = torch.rand(40, 1, 1).double() * 0.999
    found, cdf = d.icdf(q), d.base.log_prob(x).exp().cumsum(0)
    wanted = (cdf < q[:, None]).sum(1).to(found)
    unclear = ((cdf - q[:, None]).abs() < 1e-9).any(1)
    assert ((found == wanted) | unclear).all()
    assert d.icdf(double(1e-300)).eq(0).all()


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_follow_the_probabilities(form, dtype):
    family, d, x = cases(form)
    assert d.sample().shape == (7, 1)
    family = family.to(dtype)
    h = 0.5 * torch.randn(2, *family.param_shape, dtype=dtype)
    d, n = family(h), 20_000
    draws = d.sample((n,))
    assert draws.dtype == dtype
    assert not family.misfit(draws).any()
    p = d.base.log_prob(x.to(dtype)).detach().double().exp()
    for j in range(2):
        counts = torch.bincount(draws[:, j, 0].long(), minlength=len(x)).double()[: len(x)]
        assert_frequencies(counts, p[:, j, 0], n)


def assert_frequencies(counts, p, n):
    """Each frequency, and Pearson's chi-square as a normal deviate, within 5 deviations."""
    common = n * p > 10
    counts = torch.cat([counts[common], double(n - float(counts[common].sum()))])
    p = torch.cat([p[common], (1 - p[common].sum()).clamp(min=1e-9)[None]])
    assert ((counts - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt() + 10).all()
    main = n * p > 10
    statistic = ((counts - n * p).square() / (n * p))[main].sum()
    freedom = max(int(main.sum()) - 1, 1)
    assert scipy.stats.chi2.sf(float(statistic), freedom) > scipy.stats.norm.sf(5)


def test_draws_of_large_counts_have_their_mean_and_spread():
    for base in (
        _Poisson(double(1e6).log().float()),
        _NegativeBinomial(double(1e6).log().float(), double(50.0).log().float()),
        Binomial((), levels=10**6)(torch.tensor(0.3)).base,
    ):
        x = base.sample((20_000,)).double().flatten()
        deviation = float(base.variance) ** 0.5
        assert abs(float(x.mean() - base.mean)) < 5 * deviation / math.sqrt(len(x)) + 0.1
        assert float(x.std()) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_of_counts_beyond_any_integer_keep_their_scale(dtype):
    """A gamma of shape 1/2 and mean 1e9: a fifth of its draws is above 1.6e9, some above 2^32."""
    mean, theta = torch.tensor(1e9, dtype=dtype), torch.tensor(0.5, dtype=dtype)
    x = _NegativeBinomial(mean.log(), theta.log()).sample((20_000,)).double() / 1e9
    assert (x >= 0).all()
    assert x.max() > 5
    for q in (0.5, 0.9, 0.99):
        limit = scipy.stats.gamma.ppf(q, 0.5, scale=2.0)
        found = float((x <= limit).double().mean())
        assert abs(found - q) < 5 * math.sqrt(q * (1 - q) / len(x))


@every
@pytest.mark.parametrize("spread", [1.0, 6.0, 30.0])
def test_gradients_are_those_of_finite_differences(form, spread):
    family, _, x = cases(form)
    h = spread * torch.randn(6, *family.param_shape).double()
    values = torch.stack([x.flatten()[[0, 1, -1][i % 3]] for i in range(6)])[:, None]
    names = [name for name, _ in family.named_parameters()]
    parameters = [p.detach().clone() for p in family.parameters()]

    def log_prob(h, *p):
        given = dict(zip(names, p, strict=True))
        d = torch.func.functional_call(family, given, (h,))
        return d.log_prob(values)

    inputs = [t.requires_grad_(True) for t in (h, *parameters)]
    found = torch.autograd.grad(log_prob(*inputs).sum(), inputs)
    for tensor, slope in zip(inputs, found, strict=True):
        with torch.no_grad():
            for i in range(tensor.numel()):
                old, step = float(tensor.view(-1)[i]), 1e-5
                ends = []
                for side in (1, -1):
                    tensor.view(-1)[i] = old + side * step
                    ends.append(log_prob(*inputs))
                tensor.view(-1)[i] = old
                terms = (ends[0] - ends[1]) / (2 * step)
                # the difference has the rounding of what it is taken of
                noise = 1e-9 * float((ends[0].abs() + ends[1].abs()).sum())
                wanted = float(terms.sum())
                assert float(slope.view(-1)[i]) == pytest.approx(
                    wanted, rel=1e-5, abs=1e-5 + noise
                )


def test_gradients_of_large_counts_keep_their_digits_in_float32():
    """In h = log rate the slope is x - rate, a thousandth of what it is the difference of."""
    h = raw(1e6).float().requires_grad_(True)
    rate = bounded_log(h).detach().exp()
    (slope,) = torch.autograd.grad(Poisson(())(h).log_prob(torch.tensor(1.003e6)), h)
    assert float(slope) == pytest.approx(float(1.003e6 - rate), rel=2e-3)


@every
def test_float32_agrees_with_float64(form):
    family, _, x = cases(form)
    h = 2 * torch.randn(50, *family.param_shape)
    x = x.flatten()[:8].view(-1, 1, 1)
    exact = family(h.double()).base.log_prob(x).detach()
    rough = family.float()(h).base.log_prob(x.float()).detach()
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=3e-6, atol=1e-5)


# The bounds of rates, and what is read from data.


def test_bounded_log_is_the_identity_bent_at_its_ends():
    h = torch.linspace(-30, 30, 601).double()
    moved = (h.exp() + 1 / BIG) / (1 + h.exp() / BIG)
    torch.testing.assert_close(bounded_log(h), moved.log(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bounded_log(h)[240:361], h[240:361], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        bounded_log(raw_of(moved.clamp(1e-8, 1e8))), moved.clamp(1e-8, 1e8).log()
    )
    far = bounded_log(torch.tensor([-1e30, -1e6, 1e6, 1e30]))
    torch.testing.assert_close(far, math.log(BIG) * torch.tensor([-1.0, -1, 1, 1]))


def test_smallest_count_of_what_is_never_reached_is_infinite():
    found = smallest_count(lambda x: 0.5 - 0.5 ** (x + 2), double(0.2, 0.3, 0.6), double(0.0))
    assert found.tolist() == [0, 1, math.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_of_large_counts_are_scipys(dtype):
    q = torch.tensor([1e-6, 0.05, 0.5, 0.95, 1 - 1e-6], dtype=torch.float64)
    rate = torch.tensor(1e5, dtype=dtype)
    found = _Poisson(rate.log()).icdf(q)
    rate = rate.log().exp().double()
    torch.testing.assert_close(found.double(), torch.as_tensor(scipy.stats.poisson.ppf(q, rate)))
    base = _NegativeBinomial(double(1e5).log(), double(3.0).log())
    wanted = scipy.stats.nbinom.ppf(q, 3.0, 3.0 / (3.0 + 1e5))
    torch.testing.assert_close(base.icdf(q), torch.as_tensor(wanted))
    found = Binomial((), levels=100_001)(double(0.3)).icdf(q)
    wanted = scipy.stats.binom.ppf(q, 100_000, double(0.3).sigmoid())
    torch.testing.assert_close(found, torch.as_tensor(wanted))


def rows(kind, n=2000):
    """Columns drawn from a form's own family, and the mean log P under what drew them."""
    family = shaken(FORMS[kind][0]((3,)).double())
    d = family(torch.randn(family.param_shape).double())
    x = d.sample((n,))
    return x, float(d.log_prob(x).detach().mean())


@every
def test_a_start_is_as_good_as_what_drew_the_data(form):
    x, truth = rows(form)
    mask = torch.rand(x.shape) < 0.8
    family = FORMS[form][0]((3,)).double()
    spoiled = torch.where(mask, x, math.nan)
    family.initialise(spoiled, mask)
    h = family.marginal(spoiled, mask)
    h = torch.zeros(family.param_shape).double() if h is None else h
    assert h.isfinite().all()
    assert float(family(h).log_prob(x).detach().mean()) > truth - 0.04
    for p in [*family.parameters(), *family.buffers()]:
        assert p.isfinite().all()


def test_a_start_is_the_marginal_of_greatest_likelihood():
    x = double(0, 0, 1, 4, 9, 2)[:, None]
    torch.testing.assert_close(Poisson((1,))(Poisson((1,)).marginal(x)).mean, x.mean(0))
    family = Ordinal((1,), levels=3).double()
    family.initialise(double(0, 0, 1, 2, 2, 2)[:, None])
    shares = family(torch.zeros(1).double()).base.level_probs.detach()
    torch.testing.assert_close(shares, (double(2, 1, 3) + 0.5)[None] / 7.5, rtol=1e-5, atol=0)
    h = Binomial((1,), levels=4).marginal(double(0, 3, 3, 1)[:, None])
    assert float(h.sigmoid()) == pytest.approx(7.5 / 13)


def test_a_dispersion_starts_at_its_likeliest():
    x = _NegativeBinomial(double(8.0).log(), double(0.6).log()).sample((3000,)).T
    family = PER_CELL((1,)).double()
    h = family.marginal(x)
    found = float(family(h).log_prob(x).mean())
    curve = [float(family(torch.stack([h[0], t])[:, None].squeeze(-1)).log_prob(x).mean())
             for t in raw(torch.linspace(0.3, 1.2, 200).double())]  # fmt: skip
    assert found > max(curve) - 1e-3


@every
@pytest.mark.parametrize("column", ["zeros", "one huge", "top", "unobserved", "one row"])
def test_extreme_columns_start_and_score_finite(form, column):
    make, most = FORMS[form]
    n = 1 if column == "one row" else 400
    x = torch.zeros(n, 2)
    mask = torch.ones_like(x, dtype=torch.bool)
    top = float(most - 1) if not make((2,)).support.endswith("...") else 1e8
    if column == "one huge":
        x[7, 0] = top
    elif column == "top":
        x[:, 0] = top
    elif column == "unobserved":
        mask[:, 0] = False
    family = make((2,))
    family.initialise(x, mask)
    h = family.marginal(x, mask)
    h = torch.zeros(family.param_shape) if h is None else h.float()
    h = h.expand(n, *h.shape).clone().requires_grad_(True)
    log_p = family(h).log_prob(x, mask)
    log_p.sum().backward()
    for tensor in (log_p, h.grad, family.embed(x, mask), *(p.grad for p in family.parameters())):
        assert tensor.isfinite().all()
    for tensor in (*family.parameters(), *family.buffers()):
        assert tensor.isfinite().all()
    if column == "zeros":
        assert log_p.mean() > -0.1


def test_embedding_is_of_order_one_whatever_the_counts():
    rate = double(0.1, 5, 1e6)
    x = torch.poisson(torch.distributions.Gamma(2.0, 2.0 / rate).sample((3000,)))
    for make in (Poisson, NegativeBinomial, ZeroInflated):
        family = make((3,)).double()
        if make is ZeroInflated:
            assert (family.embed(x) == x.log1p()).all()
        family.initialise(x)
        assert family.embed(x).abs().mean(0).max() < 3
    family = Poisson((3,)).double()
    family.initialise(x)
    embedded = family.embed(x)
    torch.testing.assert_close(embedded.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(embedded.std(0), torch.ones(3).double(), rtol=1e-3, atol=0)
    family.unscaled()
    assert torch.equal(family.embed(x), x.log1p())


@pytest.mark.parametrize("make", [Poisson, NegativeBinomial, ZeroInflated])
def test_counts_have_no_ceiling_and_no_halves(make):
    x = torch.tensor([0, 1, 1e9, -1, 0.5, math.nan, math.inf, -math.inf])[:, None]
    assert make((1,)).misfit(x)[:, 0].tolist() == [False] * 3 + [True] * 5
    assert make((1,)).support == "whole numbers 0, 1, 2, ..."


@pytest.mark.parametrize("make", [Binomial, Ordinal])
def test_levels_have_both_ends(make, refused):
    x = torch.tensor([0, 3, 4, -1, 0.5, math.nan, math.inf])[:, None]
    family = make((1,), levels=4)
    assert family.misfit(x)[:, 0].tolist() == [False] * 2 + [True] * 5
    assert family.support == "whole numbers 0 to 3"
    torch.testing.assert_close(family.embed(torch.tensor([0.0, 3.0])), torch.tensor([-1.0, 1.0]))
    for levels in (1, 2.5):
        with refused(make.__name__, f"levels={levels}"):
            make((1,), levels=levels)


def test_unknown_options_are_refused(refused):
    with refused("NegativeBinomial", "dispersion='gene'", "column", "cell"):
        NegativeBinomial((1,), dispersion="gene")
    with refused("Ordinal", "scale='row'", "column", "cell"):
        Ordinal((1,), scale="row")


# As latents.


@pytest.mark.parametrize("make", [Poisson, partial(Binomial, levels=9)])
def test_kl_is_the_sum_over_counts(make):
    family = make((1,)).double()
    q, p = family(torch.randn(5, 1).double()), family(torch.randn(5, 1).double())
    x = torch.arange(9 if make is not Poisson else 150).double().view(-1, 1, 1)
    log_q, log_p = q.base.log_prob(x), p.base.log_prob(x)
    wanted = (log_q.exp() * (log_q - log_p)).sum(0)[:, 0]
    torch.testing.assert_close(kl_divergence(q, p), wanted, rtol=1e-9, atol=1e-12)
    assert kl_divergence(q, q).abs().max() < 1e-12


@pytest.mark.parametrize(
    "make",
    [
        partial(Binomial, levels=3),
        partial(Ordinal, levels=3),
        partial(ZeroInflated, family=partial(Binomial, levels=3)),
    ],
)
def test_levels_as_latents_can_be_enumerated(make):
    family = make((2,)).double()
    d = family(torch.randn(4, *family.param_shape).double())
    states = d.states()
    assert states.shape == (9, 2)
    total = d.log_prob(states[:, None]).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [Poisson, NegativeBinomial, ZeroInflated])
def test_counts_as_latents_cannot_be_enumerated(make, refused):
    d = make((2,))(torch.zeros(make((2,)).param_shape))
    with refused("infinitely many"):
        d.states()


@every
def test_a_posterior_of_counts_builds_and_scores(form):
    from latently.probability.priors import Learned

    model = vae((4,), latents=2, posterior=FORMS[form][0], prior=Learned)
    x = torch.rand(5, 4).lt(0.5).float()
    p = model.infer(x, 3)
    assert p.log_w.shape == (3, 5)
    assert p.log_w.isfinite().all()
    assert not model.encoder.family.misfit(p.z[0]).any()
    assert model.sample(6, seed=0).shape == (6, 4)
    assert model.encode(x)[0].shape == (5, 2)


@pytest.mark.parametrize(
    "form",
    [
        *("Poisson", "Ordinal"),
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("NegativeBinomial", "ZINB")),
    ],
)
def test_a_model_learns_that_columns_depend_on_each_other(form):
    """Two columns of one rate: a decoder must beat the start, which ignores z."""
    rate = torch.rand(500, 1).lt(0.5) * 20.0 + 1
    x = torch.poisson(rate.expand(-1, 4)).clamp(max=5 if form == "Ordinal" else 1e9)
    model = vae((4,), latents=1, likelihood=FORMS[form][0])
    with torch.no_grad():
        model.initialise(x)
        before = float(model.infer(x, 20).log_w.mean())
    fit(model, Data.from_array(x), steps=400, progress=False)
    with torch.no_grad():
        assert float(model.infer(x, 20).log_w.mean()) > before + 0.3
