"""Every distribution sums or integrates to one, at any parameters, and its moments are its own."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2, norm

from latently.probability.distributions import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Factorized,
    Normal,
    Rounded,
    analytic_kl,
    observed_log_prob,
)
from latently.probability.families import Bernoulli as BernoulliFamily
from latently.probability.families import DiscretizedLogistic as LogisticFamily

LEVELS = [2, 3, 17, 256, 65536]
TYPES = [torch.float32, torch.float64]


def tolerance(dtype):
    return 1e-6 if dtype == torch.float32 else 1e-12


def extreme_logistics(levels, dtype):
    """A grid of raw parameters: means far outside, log scales at and beyond their limits."""
    mean = torch.tensor([-1e6, -60, -1.5, -1, -0.3, 0, 0.01, 0.77, 1, 3, 1e6], dtype=dtype)
    log_scale = torch.tensor([-80, -12, -7, -3, -1, 0, 2, 12, 80], dtype=dtype)
    return torch.cartesian_prod(mean, log_scale), LogisticFamily((1,), levels=levels)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("levels", LEVELS)
def test_discretized_logistic_sums_to_one(levels, dtype):
    h, family = extreme_logistics(levels, dtype)
    x = torch.arange(levels, dtype=dtype)
    for row in h:
        log_p = family(row).log_prob(x[:, None])
        assert log_p.isfinite().all()
        assert log_p.max() <= 0
        assert abs(log_p.double().logsumexp(0)) < tolerance(dtype)


@pytest.mark.parametrize("levels", LEVELS)
def test_discretized_logistic_has_finite_gradients(levels):
    h, family = extreme_logistics(levels, torch.float32)
    h.requires_grad_(True)
    for x in (0.0, 1.0, levels // 2, levels - 1.0):
        log_p = family(h).log_prob(torch.full((len(h), 1), float(x)))
        (gradient,) = torch.autograd.grad(log_p.sum(), h)
        assert log_p.isfinite().all()
        assert gradient.isfinite().all()


def test_discretized_logistic_is_a_difference_of_cdfs():
    d = DiscretizedLogistic(
        torch.tensor(5.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64), 17
    )
    x = torch.arange(17.0).double()
    cdf = torch.sigmoid((x[:-1] + 0.5 - 5.3) / math.exp(0.4))
    wanted = torch.diff(torch.cat([torch.zeros(1), cdf, torch.ones(1)]))
    torch.testing.assert_close(d.log_prob(x).exp(), wanted, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(d.cdf(x), wanted.cumsum(0), rtol=1e-12, atol=1e-14)


def brute_force(distribution, levels):
    x = torch.arange(levels, dtype=torch.float64)
    p = distribution.log_prob(x.view(-1, 1)).exp()
    mean = (p * x[:, None]).sum(0)
    return p, mean, (p * (x[:, None] - mean).square()).sum(0)


def logistics(levels, dtype=torch.float64):
    loc, log_scale = torch.cartesian_prod(
        torch.tensor([-3.0, 0.2, 0.37 * levels, levels - 1.0, 1.4 * levels]).double(),
        torch.tensor([-4.0, -1.0, 0.7, math.log(levels)]).double(),
    ).T
    return DiscretizedLogistic(loc.to(dtype), log_scale.to(dtype), levels)


def roundeds(levels, dtype=torch.float64):
    base = logistics(levels, dtype)
    return Rounded(Normal(base.loc, base.log_scale), levels)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("make", [logistics, roundeds])
def test_moments_are_sums_over_all_levels(make, levels):
    d = make(levels)
    p, mean, variance = brute_force(d, levels)
    torch.testing.assert_close(p.sum(0), torch.ones_like(mean), rtol=1e-12, atol=0)
    torch.testing.assert_close(d.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(d.variance, variance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [logistics, roundeds])
def test_moments_keep_their_digits_in_float32(make):
    exact, rough = make(256), make(256, torch.float32)
    torch.testing.assert_close(rough.mean.double(), exact.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rough.variance.double(), exact.variance, rtol=1e-3, atol=1e-3)


def test_moments_of_many_levels_take_bounded_memory_and_keep_shape():
    d = DiscretizedLogistic(torch.full((2, 3), 4e4), torch.full((2, 3), 5.0), 65536)
    assert d.mean.shape == d.variance.shape == (2, 3)
    assert d.mean.sub(4e4).abs().max() < 0.1
    assert (d.variance / (math.pi**2 / 3 * math.exp(10.0)) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_mode_and_quantiles_agree_with_the_table(levels):
    d = logistics(levels)
    p, _, _ = brute_force(d, levels)
    torch.testing.assert_close(
        p.gather(0, d.mode.long()[None])[0], p.max(0).values, rtol=1e-12, atol=0
    )
    cdf = p.cumsum(0)
    for q in torch.rand(20).double():
        wanted = (cdf < q).sum(0).clamp(max=levels - 1)
        unclear = ((cdf - q).abs() < 1e-9).any(0)
        assert ((d.icdf(q) == wanted) | unclear).all()


def assert_frequencies(x, p):
    """Pearson's chi-square over the cells that expect five draws or more, the rest pooled."""
    counts = torch.bincount(x.long(), minlength=len(p)).double()
    expected = p * len(x)
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None].clamp(min=1e-3)])
    statistic = ((counts - expected).square() / expected.clamp(min=1)).sum()
    assert statistic < chi2.ppf(1 - 1e-6, max(len(counts) - 1, 1))


@pytest.mark.parametrize("make", [logistics, roundeds])
def test_draws_follow_the_probabilities(make):
    d = make(17)
    x = d.sample((20_000,))
    assert ((x >= 0) & (x <= 16) & (x == x.round())).all()
    p, _, _ = brute_force(d, 17)
    for column in range(x.shape[1]):
        assert_frequencies(x[:, column], p[:, column])


@pytest.mark.parametrize("dtype", TYPES)
def test_bernoulli_sums_to_one_at_any_logit(dtype):
    h = torch.tensor([-1e30, -1e4, -90.0, -1, 0, 1e-8, 3, 90, 1e4, 1e30], dtype=dtype)
    h.requires_grad_(True)
    log_p = Bernoulli(h).log_prob(torch.tensor([[0.0], [1.0]], dtype=dtype))
    (gradient,) = torch.autograd.grad(log_p.sum(), h)
    assert log_p.isfinite().all()
    assert gradient.isfinite().all()
    assert log_p.double().logsumexp(0).abs().max() < tolerance(dtype)


@pytest.mark.parametrize("cells", [1, 2, 5, 33, 784])
def test_total_of_bernoulli_is_the_sum_of_its_cells(cells):
    torch.manual_seed(0)
    d = Bernoulli(100 * torch.randn(3, 4, cells).double())
    x = torch.randint(0, 2, (4, cells)).double()
    torch.testing.assert_close(d.total_log_prob(x, 1), d.log_prob(x).sum(-1))
    torch.testing.assert_close(d.total_log_prob(x, 2), d.log_prob(x).flatten(-2).sum(-1))


def test_total_of_bernoulli_is_finite_at_any_float_logit():
    h = torch.tensor([-3e38, -1e4, 0.0, 1e4, 3e38], requires_grad=True)
    value = Bernoulli(h).total_log_prob(torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]), 1)
    torch.testing.assert_close(value.item(), -math.log(2))
    (slope,) = torch.autograd.grad(value, h)
    torch.testing.assert_close(slope, torch.tensor([0.0, 0.0, 0.5, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("logits", "values"), [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 4)), ((4,), (2, 3, 4))]
)
def test_total_of_bernoulli_has_gradients_of_two_orders(logits, values):
    torch.manual_seed(0)
    h = torch.randn(logits, dtype=torch.float64, requires_grad=True)
    x = torch.rand(values, dtype=torch.float64, requires_grad=True)

    def total(h, x):
        return Bernoulli(h).total_log_prob(x, 1)

    assert torch.autograd.gradcheck(total, (h, x))
    assert torch.autograd.gradgradcheck(total, (h, x))
    expected = torch.autograd.grad((x * h - F.softplus(h)).sum(), (h, x))
    found = torch.autograd.grad(total(h, x).sum(), (h, x))
    torch.testing.assert_close(found, expected)


def test_total_of_bernoulli_under_function_transforms():
    torch.manual_seed(0)
    h, x = torch.randn(6, 4), torch.randint(0, 2, (4,)).float()

    def total(h):
        return Bernoulli(h).total_log_prob(x, 1)

    slopes = torch.func.vmap(torch.func.grad(total))(h)
    torch.testing.assert_close(slopes, x - h.sigmoid())
    curvature = torch.func.hessian(total)(h[0])
    torch.testing.assert_close(curvature, -(h[0].sigmoid() * (-h[0]).sigmoid()).diag())


def test_bernoulli_moments_quantiles_and_mode():
    d = Bernoulli(torch.tensor([-2.0, 0.0, 1.0]).double())
    p = torch.sigmoid(d.logits)
    torch.testing.assert_close(d.mean, p)
    torch.testing.assert_close(d.variance, p * (1 - p))
    assert d.mode.tolist() == [0, 1, 1]
    assert d.icdf(torch.tensor(0.6).double()).tolist() == [0, 1, 1]
    torch.testing.assert_close(d.cdf(torch.zeros(3).double()), 1 - p)
    assert d.cdf(torch.tensor(-0.5)).tolist() == [0, 0, 0]
    assert d.cdf(torch.tensor(1.0)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("log_scale", [-10.0, -3.0, 0.0, 4.0, 10.0])
def test_normal_integrates_to_one(log_scale):
    d = Normal(torch.tensor(2.0).double(), torch.tensor(log_scale).double())
    x = 2 + math.exp(log_scale) * torch.linspace(-12, 12, 4001).double()
    assert torch.trapezoid(d.log_prob(x).exp(), x) == pytest.approx(1, abs=1e-12)


def test_normal_draws_carry_their_gradient():
    loc, log_scale = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    d = Normal(loc, log_scale)
    z = d.rsample((50,))
    z.sum().backward()
    assert torch.equal(loc.grad, torch.full((3,), 50.0))
    torch.testing.assert_close(log_scale.grad, z.detach().sum(0))
    assert not d.sample((2,)).requires_grad


def test_rounded_sums_to_one_with_far_outer_bins():
    for dtype in TYPES:
        loc = torch.tensor([-1e4, -3, 0, 7.7, 16, 40, 1e5], dtype=dtype)
        d = Rounded(Normal(loc, torch.zeros_like(loc).fill_(-1)), 17)
        total = d.log_prob(torch.arange(17, dtype=dtype)[:, None]).double().logsumexp(0)
        assert total.abs().max() < tolerance(dtype)


def test_mask_is_marginalisation_of_a_discrete_distribution():
    h = torch.randn(3, dtype=torch.float64)
    d = BernoulliFamily((3,))(h)
    x = torch.tensor([1.0, 0.0, 1.0]).double()
    for mask in torch.cartesian_prod(*[torch.tensor([False, True])] * 3):
        options = [
            v[None] if m else torch.tensor([0.0, 1.0]).double()
            for v, m in zip(x, mask, strict=True)
        ]
        every = torch.cartesian_prod(*options)
        torch.testing.assert_close(d.log_prob(x, mask), d.log_prob(every).logsumexp(0))


def test_mask_is_marginalisation_of_a_normal():
    loc, log_scale = torch.randn(2, 4, 3, dtype=torch.float64)
    x, mask = torch.randn(4, 3, dtype=torch.float64), torch.tensor([True, False, True])
    seen = Factorized(Normal(loc[:, mask], log_scale[:, mask]), 1)
    torch.testing.assert_close(
        Factorized(Normal(loc, log_scale), 1).log_prob(x, mask), seen.log_prob(x[:, mask])
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e300])
def test_nothing_under_the_mask_leaks(bad):
    mask = torch.tensor([True, False])
    for make in (
        lambda h: Normal(h, h),
        lambda h: DiscretizedLogistic(h, h, 5),
        lambda h: Bernoulli(h),
    ):
        results = []
        for value in (1.0, bad):
            h = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
            log_p = Factorized(make(h), 1).log_prob(torch.tensor([1.0, value]).double(), mask)
            results.append((log_p.detach(), *torch.autograd.grad(log_p, h)))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
        assert results[1][1][1] == 0


def test_a_fill_keeps_a_limited_support_safe():
    base = torch.distributions.Gamma(torch.ones(2), torch.ones(2), validate_args=False)
    log_p = Factorized(base, 1, fill=1.0).log_prob(
        torch.tensor([2.0, -1.0]), torch.tensor([True, False])
    )
    assert log_p == -2


def test_factorized_keeps_the_axes_apart():
    d = Factorized(Normal(torch.zeros(5, 4, 2, 3), torch.zeros(5, 4, 2, 3)), 2)
    assert d.batch_shape == (5, 4)
    assert d.event_shape == (2, 3)
    assert d.log_prob(torch.zeros(2, 3)).shape == (5, 4)
    assert d.rsample((7,)).shape == d.sample((7,)).shape == (7, 5, 4, 2, 3)
    assert d.entropy().shape == (5, 4)
    torch.testing.assert_close(
        d.entropy(), torch.full((5, 4), 6 * 0.5 * (1 + math.log(2 * math.pi)))
    )


def test_analytic_kl_is_the_integral_or_nothing():
    q = Factorized(
        Normal(torch.tensor([0.4, -1.0]).double(), torch.tensor([0.2, -1.0]).double()), 1
    )
    p = Factorized(Normal(torch.zeros(2).double(), torch.zeros(2).double()), 1)
    z = q.sample((200_000,))
    terms = q.log_prob(z) - p.log_prob(z)
    assert abs(analytic_kl(q, p) - terms.mean()) < 5 * terms.std() / math.sqrt(len(z))
    assert analytic_kl(q, Factorized(Bernoulli(torch.zeros(2)), 1)) is None


def test_missing_entries_need_a_likelihood_that_factorizes(refused):
    joint = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    x, mask = torch.zeros(2), torch.tensor([True, False])
    assert observed_log_prob(joint, x, None) == joint.log_prob(x)
    with refused("MultivariateNormal", "factorizes"):
        observed_log_prob(joint, x, mask)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("levels", [2, 3, 300])
def test_categorical_sums_to_one_at_any_logits(levels, dtype):
    scales = torch.tensor([0.0, 1, 30, 1e6, 1e30], dtype=dtype)
    h = (scales[:, None] * torch.randn(levels, dtype=dtype) + scales[:, None]).requires_grad_(True)
    log_p = Categorical(h).log_prob(torch.arange(levels, dtype=dtype)[:, None])
    assert log_p.shape == (levels, 5)
    assert log_p.isfinite().all()
    assert log_p.double().logsumexp(0).abs().max() < tolerance(dtype)
    (gradient,) = torch.autograd.grad(log_p.sum(), h)
    assert gradient.isfinite().all()


def test_categorical_moments_quantiles_and_draws_are_those_of_its_codes():
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.0, 0.3, 0.0]]).double()
    d, codes = Categorical(p.log().clamp(min=-1e3)), torch.arange(4).double()
    torch.testing.assert_close(d.mean, p @ codes)
    torch.testing.assert_close(d.variance, p @ codes**2 - (p @ codes) ** 2)
    torch.testing.assert_close(
        d.entropy(), torch.distributions.Categorical(p, validate_args=False).entropy()
    )
    assert d.mode.tolist() == [3, 0]
    value = torch.tensor([-1.0, 0, 0.5, 2, 3, 9]).double()[:, None]
    wanted = torch.stack([(p * (codes <= v)).sum(1) for v in value])
    torch.testing.assert_close(d.cdf(value), wanted)
    q = torch.tensor([0.0, 0.05, 0.15, 0.31, 0.65, 0.9999]).double()[:, None]
    found = d.icdf(q)
    assert (d.cdf(found) >= q).all()
    assert (d.cdf(found - 1) < q.clamp(min=1e-300)).all()
    x = d.sample((4, 5000))
    assert x.shape == (4, 5000, 2)
    assert x.dtype == torch.float64
    for j in range(2):
        counts = torch.bincount(x[..., j].long().flatten(), minlength=4).double()
        assert (counts / 20_000 - p[j]).abs().max() < 0.015
    assert d.sample().shape == (2,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("std", [0.4, 1.0, 7.0])
def test_rounding_keeps_its_digits_in_both_tails(std, dtype):
    """At 0 to 36 deviations, against the logarithms of scipy's tails; outer bins too."""
    levels, loc = 600, 300.0
    base = Normal(torch.tensor(loc, dtype=dtype), torch.tensor(math.log(std), dtype=dtype))
    apart = np.unique(np.rint(std * np.linspace(0, 36, 60)))
    x = np.concatenate([loc - apart - 1, loc + apart, [0.0, levels - 1.0]])
    x = x[(x >= 0) & (x < levels)]
    low, high = (x - loc) / std, (x + 1 - loc) / std
    low, high = np.where(x == 0, -np.inf, low), np.where(x == levels - 1, np.inf, high)
    near, far = np.minimum(abs(low), abs(high)), np.maximum(abs(low), abs(high))
    tail = norm.logcdf(-near) + np.log1p(-np.exp(norm.logcdf(-far) - norm.logcdf(-near)))
    wanted = np.where(low * high < 0, np.log(norm.cdf(high) - norm.cdf(low)), tail)
    found = Rounded(base, levels).log_prob(torch.tensor(x, dtype=dtype)).double().numpy()
    seen = near < 36
    assert np.abs(found - wanted)[seen].max() < (1e-2 if dtype == torch.float32 else 1e-3)
    assert np.isfinite(found).all()
    assert (np.diff(found[x >= loc][np.argsort(x[x >= loc])]) <= 0).all()
