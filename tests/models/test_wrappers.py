"""Models of transformed data: their densities in the units of x, against closed forms."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import MultivariateNormal

from latently import Data, Dequantized, ImportanceSampling, evaluate, fa, ppca, vae
from latently.inference import IWAE, DReG, Reparam
from latently.models import FactorAnalysis, Transformed
from latently.models.not_at_random import NotAtRandom
from latently.models.wrappers import _between
from latently.nets import MLP
from latently.probability.families import Bernoulli, Normal
from latently.probability.priors import LearnedNormal
from latently.probability.transforms import Asinh, Log, Logit

TRANSFORMS = [Log(), Log(shift=2.0), Logit(low=-1.0, high=30.0), Asinh(scale=0.5)]
SMALL = partial(MLP, hidden=(6,), activation=torch.nn.Tanh)


def filled(model):
    """A model around factor analysis with parameters at random, and that factor analysis."""
    inner = model
    while not isinstance(inner, FactorAnalysis):
        inner = inner.model
    with torch.no_grad():
        for p in inner.parameters():
            p.normal_()
    return model, inner


def normal_of(inner):
    covariance = inner.weight @ inner.weight.T + inner.log_variance.exp().diag()
    return MultivariateNormal(inner.loc, covariance)


def positive(n=20, columns=4):
    return torch.randn(n, columns).double().exp().clamp(max=29)


def holes(n=20, columns=4):
    return torch.rand(n, columns) < 0.6


def vae_of(transform, **options):
    return vae((4,), latents=2, net=SMALL, likelihood=Normal, transform=transform, **options)


def test_factor_analysis_of_logs_is_the_multivariate_lognormal():
    model, inner = filled(fa((4,), latents=2, transform=Log()))
    x, truth = positive(), normal_of(inner)
    wanted = truth.log_prob(x.log()) - x.log().sum(1)
    torch.testing.assert_close(model.log_prob(x), wanted, rtol=0, atol=1e-10)
    weights = model.infer(x, 5).log_w  # exact: the same at every draw
    torch.testing.assert_close(weights, wanted.expand(5, -1), rtol=0, atol=1e-10)
    found = evaluate(model, Data.from_array(x))
    assert found.kind == "exact"
    assert not found.discrete
    torch.testing.assert_close(found.values, wanted.detach(), rtol=0, atol=1e-10)


def test_missing_cells_of_a_lognormal_are_marginalised():
    model, inner = filled(fa((4,), latents=2, transform=Log()))
    x, mask, truth = positive(), holes(), normal_of(inner)
    found = model.log_prob(torch.where(mask, x, math.nan), mask)
    for b in range(len(x)):
        o = mask[b]
        if not o.any():
            assert found[b] == 0
            continue
        part = MultivariateNormal(truth.loc[o], truth.covariance_matrix[o][:, o])
        wanted = part.log_prob(x[b, o].log()) - x[b, o].log().sum()
        assert found[b].item() == pytest.approx(wanted.item(), abs=1e-10)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_density_integrates_to_one_over_x(transform):
    model, inner = filled(fa((1,), latents=1, transform=transform))
    y = torch.linspace(-9, 9, 40_001).double() * normal_of(inner).stddev + inner.loc
    x = transform.inverse(y.detach())
    total = torch.trapezoid(model.log_prob(x[:, None]).exp(), x)
    assert total.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_weights_are_assembled_from_the_carried_likelihood(transform):
    model, x, mask = vae_of(transform).double(), positive(), holes()
    model.initialise(x, mask)
    p = model.infer(x, 3, mask)
    torch.testing.assert_close(p.log_lik, model.likelihood(p.z).log_prob(x, mask))
    assert (model.infer(x, 3, torch.zeros_like(mask)).log_lik == 0).all()
    inner = model.model.infer(transform.forward(x), 3, z=p.z)
    whole = model.infer(x, 3, z=p.z)
    slopes = transform.log_slope(x).sum(1)
    torch.testing.assert_close(whole.log_lik, inner.log_lik + slopes)
    for name in ("log_prior", "log_q", "kl"):  # the Jacobian belongs to the data alone
        torch.testing.assert_close(getattr(whole, name), getattr(inner, name))


@pytest.mark.parametrize("estimator", [Reparam(), DReG()])
def test_gradients_are_those_of_the_inner_model(estimator):
    model, x = vae_of(Log()).double(), positive()
    found = []
    for one, rows in ((model, x), (model.model, x.log())):
        torch.manual_seed(3)
        model.zero_grad()
        p = one.infer(rows, 4, gradient=estimator.gradient)
        estimator(IWAE(), p).sum().backward()
        found.append([q.grad.clone() for q in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("masked", [False, True])
def test_fit_is_the_inner_models_with_likelihoods_in_units_of_x(masked):
    x, mask = positive(200), holes(200) if masked else None
    model, plain = ppca((4,), latents=2, transform=Log()), ppca((4,), latents=2)
    rows = x if mask is None else torch.where(mask, x, -5.0)
    passes = zip(model.em(rows, mask), plain.em(x.log(), mask), range(20), strict=False)
    *_, (last, inner, _) = passes
    for a, b in zip(model.model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    slopes = -(x.log() if mask is None else torch.where(mask, x.log(), 0)).sum(1).mean()
    torch.testing.assert_close(last, inner + slopes)
    if mask is None:
        torch.testing.assert_close(last, model.log_prob(x).mean())
    assert vae_of(Log()).em(x) is None


def test_initialise_sees_the_transformed_columns():
    x, mask = 1000 * positive(300), holes(300)
    model = vae_of(Log())
    model.initialise(torch.where(mask, x, math.nan), mask)
    family = model.model.decoder.family
    for j in range(4):
        assert family.loc[j] == pytest.approx(float(x[mask[:, j], j].log().mean()))
    assert model.reconstruct(x).median() > 100


def test_what_is_missing_is_drawn_in_the_support_and_from_the_conditional():
    model, inner = filled(fa((4,), latents=2, transform=Log()))
    x, mask = positive(3), torch.tensor([[True, False, True, True]]).expand(3, -1)
    drawn = model.impute(torch.where(mask, x, math.nan), mask, draws=4000, samples=4000, seed=0)
    assert (drawn > 0).all()
    known = inner.predictive(x.log(), mask)
    torch.testing.assert_close(
        drawn[..., 1].log().mean(0), known.mean[:, 1].detach(), rtol=0, atol=0.2
    )
    carried = model.predictive(torch.where(mask, x, math.nan), mask)
    q = torch.tensor([0.05, 0.5, 0.95]).double().view(3, 1, 1)
    torch.testing.assert_close(carried.icdf(q), known.icdf(q).exp())
    mean = (known.mean + known.variance / 2).exp()
    torch.testing.assert_close(carried.mean, mean, rtol=1e-6, atol=0)
    assert vae_of(Log()).predictive(x, mask) is None


def test_a_context_passes_through():
    context, x = torch.randn(20, 3).double(), positive()
    model, inner = filled(fa((4,), latents=2, transform=Log(), contexts=3))
    assert model.contexts == 3
    wanted = inner.log_prob(x.log(), context=context) - x.log().sum(1)
    torch.testing.assert_close(model.log_prob(x, context=context), wanted)
    assert (model.sample(20, context) > 0).all()
    conditional = vae_of(Log(), contexts=3, prior=LearnedNormal).double()
    assert conditional.infer(x, 2, context=context).log_w.shape == (2, 20)
    assert (conditional.sample(20, context) > 0).all()


def test_extreme_rows_stay_finite_in_float32():
    x = torch.tensor([[1e-38, 1e-20, 1.0, 1e38]])
    for transform in (Log(), Asinh()):
        model = vae_of(transform)
        p = model.infer(x, 4)
        IWAE()(p).sum().backward()
        assert p.log_w.isfinite().all()
        assert all(q.grad.isfinite().all() for q in model.parameters())
    edge = torch.tensor([[1e-30, 1e-7, 0.5, 1 - 6e-8]])
    assert vae_of(Logit()).infer(edge, 4).log_w.isfinite().all()


def test_values_outside_the_transform_are_refused_by_name(refused):
    model = fa((2,), transform=Log(), latents=1)
    with refused("value 0 ", "row 1, column 0", "numbers above 0"):
        model.check(torch.tensor([[1.0, 2], [0, 3]]))
    bad, _ = Transformed(model, Logit()).misfit(torch.tensor([[0.2, 0.7]]).double())
    assert bad.tolist() == [[True, False]]  # logit(0.2) < 0 has no logarithm


def test_what_cannot_be_carried_is_refused(refused):
    inner = FactorAnalysis((3,), 1)
    with refused("discrete", "likelihood=Normal"):
        Transformed(vae((3,), likelihood=Bernoulli), Log())
    with refused("built", "Log()"):
        fa((3,), latents=1, transform=Log)
    with refused("levels=8", "between 0 and 1", "Logit(high=8)"):
        fa((3,), latents=1, transform=Logit(), levels=8)
    with refused("levels=8", "above 1"):
        Dequantized(Transformed(inner, Log(shift=-1.0)), levels=8)
    Dequantized(Transformed(inner, Log()), levels=8)


def test_what_is_missing_by_its_values_is_wrapped_last(refused):
    inner = FactorAnalysis((3,), 1)
    with refused("Transformed:", "NotAtRandom(Transformed(...))"):
        Transformed(NotAtRandom(inner), Log())
    with refused("Dequantized:", "NotAtRandom"):
        Dequantized(NotAtRandom(inner), levels=8)
    whole = NotAtRandom(Transformed(inner, Log())).double()
    mask = torch.tensor([[True, False, True]])
    assert whole.infer(torch.ones(1, 3).double(), 4, mask).log_w.isfinite().all()


# Dequantised: the logit of x + u.


@pytest.mark.parametrize("transform", [Logit(high=5), Log(), Asinh()])
def test_dequantised_probabilities_sum_to_at_most_one(transform):
    model, inner = filled(fa((1,), latents=1, levels=5, transform=transform))
    data = Data.from_array(torch.arange(5.0)[:, None].double(), levels=5)
    bound = evaluate(model, data, ImportanceSampling(20_000))
    assert bound.kind == "lower_bound"
    assert bound.discrete
    ends = transform.forward(torch.arange(6).double().clamp(min=0))
    cdf = torch.special.ndtr((ends - inner.loc) / normal_of(inner).stddev).detach()
    error = 5 * bound.mc_variance.sqrt() + 1e-3
    assert ((bound.values - cdf.diff().log()).abs() < error).all()
    assert bound.values.exp().sum() < 1.01
    if isinstance(transform, Logit):
        assert bound.values.exp().sum() > 0.98
    single = evaluate(model, data, ImportanceSampling(1))
    assert (single.values.isfinite()).all()


def test_dequantised_draws_are_levels_and_their_moments():
    model, _ = filled(fa((3,), latents=1, levels=6, transform=Logit(high=6)))
    x = model.sample(500, seed=0)
    assert ((x >= 0) & (x <= 5) & (x == x.round())).all()
    z = model.latents(1)
    d = model.likelihood(z)
    levels = torch.arange(6).double()[:, None, None, None].expand(-1, 1, 1, 3)
    share = d.base.log_prob(levels).exp()
    torch.testing.assert_close(share.sum(0), torch.ones(1, 1, 3).double())
    torch.testing.assert_close(d.mean, (share * levels).sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_never_leaves_its_level(dtype):
    for level in (0, 1, 255, 65535):
        x = torch.full((3,), level, dtype=dtype)
        u = torch.tensor([0.0, 0.5, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)
        y = _between(x, u)
        assert (y > 0).all()
        assert (y.floor() == level).all()
        assert y[1] == level + 0.5
        assert Logit(high=65536).forward(y).isfinite().all()
