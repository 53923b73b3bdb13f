"""KL is exact where it can be, else has an honest error; Gaussians that minimise it."""

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Dirichlet,
    Distribution,
    Exponential,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    Uniform,
)

from latently.inference.divergences import fit_gaussian, kl
from latently.probability import families
from latently.probability.distributions import Factorized, OneHot, mixture
from latently.probability.distributions import Normal as LogScaleNormal
from latently.probability.priors import FlowPrior


def bimodal(apart=4.0, share=0.7, std=0.8):
    """A mixture of two normals on the line, and its mean and variance."""
    weights = torch.tensor([share, 1 - share]).double()
    means, stds = torch.tensor([-apart / 2, apart / 2]).double(), torch.tensor([std, 1.0]).double()
    target = MixtureSameFamily(Categorical(weights), Normal(means, stds))
    mean = (weights * means).sum()
    return target, mean, (weights * (stds.square() + (means - mean).square())).sum()


def plane(apart=3.0):
    """Two correlated blobs in the plane."""
    means = torch.tensor([[-apart, 0.0], [apart, 1.0]]).double()
    covariances = torch.tensor([[[1.0, 0.6], [0.6, 1.0]], [[0.5, 0.0], [0.0, 1.5]]]).double()
    weights = Categorical(torch.tensor([0.5, 0.5]).double())
    return MixtureSameFamily(weights, MultivariateNormal(means, covariances)), means, covariances


def reverse_kl(q, p, points=901, width=9.0):
    """KL(q || p) by another grid around q, of one or two cells, with a gradient."""
    cells = q.event_shape[0]
    t = torch.linspace(-width, width, points, dtype=torch.float64)
    e = torch.cartesian_prod(*[t] * cells).view(-1, cells)
    weights = (-0.5 * e.square().sum(-1)).exp()
    weights = weights / weights.sum()
    z = q.mean + e @ q.scale_tril.T
    return (weights * (q.log_prob(z) - p.log_prob(z if p.event_shape else z[:, 0]))).sum()


# --------------------------------------------------------------------------------- what is exact


def test_closed_forms_are_exact_and_per_element():
    q, p = Normal(torch.tensor([0.0, 1.0, 5.0]), 1.0), Normal(0.0, torch.tensor(2.0))
    found = kl(q, p)
    wanted = math.log(2) + (1 + torch.tensor([0.0, 1.0, 25.0])) / 8 - 0.5
    torch.testing.assert_close(found.values, wanted.double(), rtol=1e-6, atol=1e-6)
    assert found.kind == "exact"
    assert [n.kind for n in found.numbers()] == ["exact"] * 3
    assert [n.mc_stderr for n in found.numbers()] == [0, 0, 0]
    assert found.mean().value == pytest.approx(float(wanted.mean()))
    assert str(found.numbers()[0]) == "KL(q || p) = 0.32 nats (exact, closed form)"


def test_every_gaussian_parameterisation_agrees_with_dense_matrices():
    made = {}
    for name in ("Normal", "MultivariateNormal", "LowRankMultivariateNormal"):
        family = getattr(families, name)((3,)).double()
        family.unscaled()
        d = made[name] = family(0.5 * torch.randn(family.param_shape, dtype=torch.float64))
        if name == "Normal":
            covariance = d.variance.diag()
        else:
            rows, v = d.parts()
            covariance = rows.mT @ rows + v.diag()
        made[name] = d, MultivariateNormal(d.mean, covariance)
    for q, dense_q in made.values():
        for p, dense_p in made.values():
            found = kl(q, p)
            assert found.kind == "exact"
            torch.testing.assert_close(found.values, kl(dense_q, dense_p).values)


def test_states_are_summed_where_no_form_is_known():
    logits = torch.randn(4, 5, 3, dtype=torch.float64)
    q = mixture(torch.randn(4, 5, dtype=torch.float64), OneHot(logits, 1))
    p = OneHot(torch.randn(3, dtype=torch.float64), 1)
    found = kl(q, p)
    share = (q.log_weights.exp().unsqueeze(-1) * torch.softmax(logits, -1)).sum(1)
    assert (found.kind, found.method) == ("exact", "sum over states")
    torch.testing.assert_close(found.values, (share * (share.log() - p.log_probs)).sum(-1))


# ------------------------------------------------------------------------------ what is estimated


def test_estimates_cover_the_truth_as_often_as_they_say():
    """200 estimates of one number, and their errors."""
    p, _, _ = bimodal()
    one = Normal(torch.tensor(0.5).double(), torch.tensor(1.5).double())
    z = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    truth = (one.log_prob(z).exp() * (one.log_prob(z) - p.log_prob(z))).sum() * (z[1] - z[0])
    found = kl(one.expand((200,)), p, samples=1000)
    off = (found.values - truth) / found.mc_variance.sqrt()
    assert found.kind == "estimate"
    assert 0.9 < off.std() < 1.1
    assert off.mean().abs() < 4 / math.sqrt(200)
    assert abs(found.mean().value - truth) < 4 * found.mean().mc_stderr
    assert not found.heavy.any()


def test_a_batch_of_p_meets_one_q_and_a_batch_of_q_one_p():
    rows = torch.randn(5, 3)
    many = Factorized(LogScaleNormal(rows, torch.zeros(5, 3)), 1)
    one = mixture(
        torch.zeros(2), Factorized(LogScaleNormal(torch.randn(2, 3), torch.zeros(2, 3)), 1)
    )
    prior = FlowPrior((3,))()
    for q, p in ((many, one), (one, many), (many, prior), (prior, many), (one, prior)):
        found = kl(q, p, samples=4000)
        assert found.values.shape == torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        assert (found.values > -4 * found.mc_variance.sqrt()).all()
    alone = Factorized(LogScaleNormal(rows[2], torch.zeros(3)), 1)
    together, by_itself = kl(one, many, samples=4000), kl(one, alone, samples=4000)
    torch.testing.assert_close(together.values[2], by_itself.values)


def test_blocks_of_draws_and_the_global_generator(untouched, monkeypatch):
    p, _, _ = bimodal()
    q = Normal(torch.zeros(7).double(), 1.0)
    with untouched():
        first = kl(q, p, samples=500)
        assert torch.equal(first.values, kl(q, p, samples=500).values)
        assert not torch.equal(first.values, kl(q, p, samples=500, seed=1).values)
    monkeypatch.setattr("latently.inference.divergences._BLOCK_VALUES", 64)
    cut = kl(q, p, samples=500)
    error = (first.mc_variance + cut.mc_variance).sqrt()
    assert ((cut.values - first.values).abs() < 5 * error).all()


@pytest.mark.parametrize(("df", "heavy"), [(2.5, True), (3.0, True), (12.0, False)])
def test_an_error_bar_without_a_variance_says_so(df, heavy):
    """log t - log N grows as z^2: its variance is infinite at four degrees of freedom or fewer."""
    found = kl(StudentT(torch.tensor(df).double()), Normal(0.0, 1.0), samples=20_000)
    assert bool(found.heavy) == heavy
    assert bool(found.warnings) == heavy
    assert ("error understated" in str(found)) == heavy


@pytest.mark.parametrize("samples", [1000, 10_000, 100_000])
def test_a_bend_in_the_log_ratios_is_no_heavy_tail(samples):
    """Of a q on one of two modes they are bounded by a square: all moments are finite."""
    target, _, _ = bimodal(apart=5.0, share=0.6, std=0.7)
    q = Normal(torch.tensor(-2.492).double(), torch.tensor(0.7118).double())
    found = kl(q.expand((5,)), target, samples=samples)
    assert not found.heavy.any()


def test_infinite_divergence_is_infinite():
    found = kl(Normal(0.5, 1.0), Uniform(0.0, 1.0, validate_args=False), samples=100)
    assert found.values == math.inf
    outside = families.Dirichlet((3,))(torch.zeros(3))
    assert kl(outside, outside).values.abs() < 1e-6


@pytest.fixture(params=[True, False], ids=["checked", "unchecked"])
def checks(request):
    """torch's checks of arguments, which `torch.compile` turns off for the whole process."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(request.param)
    yield request.param
    Distribution.set_default_validate_args(before)


def test_values_outside_the_support_make_it_infinite(checks):
    """Without its checks torch gives a density there: -1.77 nats."""
    found = kl(StudentT(3.0), Exponential(1.0), samples=500)
    assert found.values == math.inf
    assert found.mc_variance == 0
    assert found.warnings == ()
    assert "inf nats" in str(found)


def test_only_elements_with_values_outside_are_infinite(checks):
    q = StudentT(torch.tensor([3.0, 4.0]))
    p = Uniform(torch.tensor([[-1.0], [-9e4]]), 1e5)
    found = kl(q, p, samples=500)
    assert found.values.isinf().tolist() == [[True, True], [False, False]]
    wide = math.log(1.9e5) - q.entropy()
    assert ((found.values[1] - wide).abs() < 5 * found.mc_variance[1].sqrt()).all()
    rows = Independent(q.expand((3, 2)), 1)
    assert kl(rows, Dirichlet(torch.ones(3, 2)), samples=50).values.isinf().all()


def test_a_target_with_an_end_has_no_reverse_fit(checks, refused):
    with refused("no density somewhere near the start"):
        fit_gaussian(Exponential(1.0), direction="reverse")


def test_refusals(refused):
    one = Normal(0.0, 1.0)
    with refused("shape ()", "(2,)"):
        kl(one, MultivariateNormal(torch.zeros(2), torch.eye(2)))
    with refused("samples=1"):
        kl(one, one, samples=1)
    with refused("batch shape (3,)", "(2,)"):
        kl(Normal(torch.zeros(3), 1.0), Normal(torch.zeros(2), 1.0))
    three, four = (torch.distributions.Categorical(torch.ones(k)) for k in (3, 4))
    with refused("Categorical", "same values"):
        kl(three, four)
    bits = families.Bernoulli((2,))(torch.zeros(2))
    values = families.StudentT((2,))(torch.zeros(6))
    for q, p in ((bits, values), (values, bits)):
        with refused("Bernoulli has probabilities and StudentT a density"):
            kl(q, p)


# ------------------------------------------------------------------------ forward, reverse fits


def test_forward_has_the_moments_of_the_target():
    target, mean, variance = bimodal()
    fit = fit_gaussian(target)
    n = 100_000
    assert (fit.distribution.mean - mean).abs() < 4 * (variance / n).sqrt()
    x = torch.linspace(-15, 15, 100_001, dtype=torch.float64)
    density = target.log_prob(x).exp() * (x[1] - x[0])
    fourth = (density * (x - mean) ** 4).sum()
    found = fit.distribution.variance
    assert (found - variance).abs() < 4 * ((fourth - variance.square()) / n).sqrt()
    best = Normal(mean, variance.sqrt())
    truth = (density * (target.log_prob(x) - best.log_prob(x))).sum()
    assert abs(fit.divergence.value - truth) < 4 * fit.divergence.mc_stderr
    assert fit.divergence.kind == "estimate"


def test_forward_in_the_plane_covers_both_modes():
    target, means, covariances = plane()
    fit = fit_gaussian(target)
    middle = means.mean(0)
    wanted = covariances.mean(0) + (means - middle).T @ (means - middle) / 2
    torch.testing.assert_close(fit.distribution.mean, middle, rtol=0, atol=0.05)
    torch.testing.assert_close(fit.distribution.covariance_matrix, wanted, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("side", [-1, 1])
def test_reverse_finds_the_mode_it_starts_at(side):
    target, mean, _ = bimodal(apart=6.0)
    fit = fit_gaussian(target, direction="reverse", start=torch.tensor([2.5 * side]))
    assert (fit.distribution.mean - 3 * side).abs() < 0.1
    share = 0.7 if side < 0 else 0.3
    assert fit.divergence.value == pytest.approx(-math.log(share), abs=0.05)
    assert mean < 0  # by itself it takes the heavier mode: the smaller divergence
    own = fit_gaussian(target, direction="reverse")
    assert (own.distribution.mean + 3).abs() < 0.1


def stationary(q, p):
    """The gradient of KL(q || p) by another quadrature, by q's mean and scale."""
    mean, scale = q.mean.clone().requires_grad_(), q.scale_tril.clone().requires_grad_()
    value = reverse_kl(MultivariateNormal(mean, scale_tril=scale), p)
    by_mean, by_scale = torch.autograd.grad(value, [mean, scale])
    return value, torch.cat([by_mean, by_scale.tril().flatten()])


@pytest.mark.parametrize("start", [[-2.0], [0.5], [2.0]])
def test_reverse_is_stationary_on_the_line(start):
    target, _, _ = bimodal()
    fit = fit_gaussian(target, direction="reverse", start=torch.tensor(start))
    value, gradient = stationary(fit.distribution, target)
    assert gradient.abs().max() < 1e-6
    assert abs(fit.divergence.value - value) < 4 * fit.divergence.mc_stderr + 1e-9


@pytest.mark.parametrize("mode", [0, 1])
def test_reverse_is_stationary_in_the_plane_and_takes_a_modes_shape(mode):
    target, means, covariances = plane()
    fit = fit_gaussian(target, direction="reverse", start=means[mode])
    value, gradient = stationary(fit.distribution, target)
    assert gradient.abs().max() < 1e-5
    assert abs(fit.divergence.value - value) < 4 * fit.divergence.mc_stderr + 1e-9
    torch.testing.assert_close(fit.distribution.mean, means[mode], rtol=0, atol=0.05)
    torch.testing.assert_close(
        fit.distribution.covariance_matrix, covariances[mode], rtol=0, atol=0.05
    )


def test_more_dimensions_and_a_target_that_is_gaussian():
    factor = torch.randn(4, 4, dtype=torch.float64).tril(-1) / 2 + torch.eye(4).double()
    target = MultivariateNormal(torch.arange(4.0).double(), scale_tril=factor)
    fit = fit_gaussian(target, direction="reverse")
    torch.testing.assert_close(fit.distribution.mean, target.mean, rtol=0, atol=0.02)
    assert fit.divergence.kind == "exact"
    assert fit.divergence.value < 1e-3


def test_fits_refuse(refused):
    target, _, _ = bimodal()
    with refused("direction='sideways'", '"forward"'):
        fit_gaussian(target, direction="sideways")
    with refused("(3,)", "(1,)"):
        fit_gaussian(target, direction="reverse", start=torch.zeros(3))
    with refused("batch shape (2,)"):
        fit_gaussian(Laplace(torch.zeros(2), 1.0))
    for validated in (False, True):
        bounded = Uniform(0.0, 1.0, validate_args=validated)
        with refused("no density"):
            fit_gaussian(bounded, direction="reverse", start=torch.zeros(1))
