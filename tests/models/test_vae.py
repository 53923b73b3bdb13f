"""A VAE's own promises, and the defects of its peers as tests."""

import math
from functools import partial

import pytest
import torch

from latently import Data, Dequantized, FactorAnalysis, ImportanceSampling, evaluate, fit, vae
from latently.inference import IWAE, DReG, Reparam
from latently.nets import MLP
from latently.probability.families import (
    Bernoulli,
    DiscretizedLogistic,
    FixedNormal,
    Normal,
    SharedNormal,
)
from latently.probability.priors import VampPrior

SMALL = partial(MLP, hidden=(6,), activation=torch.nn.Tanh)
LIKELIHOODS = [
    Bernoulli,
    partial(DiscretizedLogistic, levels=5),
    Normal,
    SharedNormal,
    FixedNormal,
]


def model_of(likelihood=Bernoulli, **options):
    return vae((4,), latents=2, likelihood=likelihood, net=SMALL, **options).double()


def bits(n=5):
    return torch.rand(n, 4).lt(0.5).double()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("sees_mask", [False, True])
def test_nothing_under_a_mask_reaches_value_or_gradient(likelihood, sees_mask):
    x, mask = bits(), torch.rand(5, 4) < 0.6
    model = model_of(likelihood, sees_mask=sees_mask)
    model.initialise(x, mask)
    results = []
    for bad in (0.0, math.nan, math.inf, 1e300):
        torch.manual_seed(1)
        model.zero_grad()
        p = model.infer(torch.where(mask, x, bad), 3, mask)
        IWAE()(p).sum().backward()
        results.append([p.log_w.detach(), *(q.grad.clone() for q in model.parameters())])
        assert all(t.isfinite().all() for t in results[-1])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_complete_mask_is_no_mask():
    for sees_mask in (False, True):
        model, x = model_of(sees_mask=sees_mask), bits()
        z = (torch.randn(3, 5, 2).double(),)
        a = model.infer(x, 3, None, z=z)
        b = model.infer(x, 3, torch.ones_like(x, dtype=torch.bool), z=z)
        torch.testing.assert_close(a.log_w, b.log_w)


def test_the_mask_is_seen_only_if_asked():
    x, mask = torch.zeros(1, 4).double(), torch.tensor([[True, False, True, True]])
    blind, seeing = model_of(), model_of(sees_mask=True)
    assert torch.equal(blind.encode(x)[0], blind.encode(x, mask)[0])
    assert not torch.equal(seeing.encode(x)[0], seeing.encode(x, mask)[0])


def test_rows_without_any_observed_value_are_worth_nothing():
    model, x = model_of(), bits()
    p = model.infer(x, 4, torch.zeros_like(x, dtype=torch.bool))
    assert (p.log_lik == 0).all()


def test_weights_are_assembled_from_their_parts():
    model, x = model_of(), bits()
    p = model.infer(x, 7)
    assert p.log_w.shape == p.log_lik.shape == (7, 5)
    assert p.z[0].shape == (7, 5, 2)
    q = model.encoder(x)
    torch.testing.assert_close(p.log_q[0], q.log_prob(p.z[0]))
    normal = torch.distributions.Normal(0, 1)
    torch.testing.assert_close(p.log_prior[0], normal.log_prob(p.z[0]).sum(-1))
    torch.testing.assert_close(p.log_lik, model.decoder(p.z[0]).log_prob(x))
    assert (p.log_pi == -math.log(7)).all()
    again = model.infer(x, 7, z=p.z)
    torch.testing.assert_close(again.log_w, p.log_w)


def test_draws_differ_between_samples_and_rows():
    z = model_of().infer(torch.zeros(5, 4).double(), 6).z[0]
    assert len(z.flatten(0, 1).unique(dim=0)) == 30


def test_encode_and_reconstruct_repeat_to_the_bit(untouched):
    model, x = model_of(), bits()
    with untouched():
        assert torch.equal(model.encode(x)[0], model.encode(x)[0])
        assert torch.equal(model.reconstruct(x), model.reconstruct(x))
    torch.testing.assert_close(model.encode(x)[0], model.encoder(x).mean)
    assert not model.encode(x)[0].requires_grad


@pytest.mark.parametrize("likelihood", [Normal, SharedNormal, partial(FixedNormal, std=50.0)])
def test_reconstruction_is_in_data_units(likelihood):
    x = 5000 + 100 * torch.randn(200, 4).double()
    model = model_of(likelihood)
    model.initialise(x)
    assert model.reconstruct(x).shape == x.shape
    assert (model.reconstruct(x) - 5000).abs().max() < 1000
    assert model.sample(10, seed=0).sub(5000).abs().max() < 5000


def test_levels_are_reconstructed_and_sampled_on_their_scale():
    model = model_of(partial(DiscretizedLogistic, levels=17))
    x = torch.randint(0, 17, (50, 4)).double()
    model.initialise(x)
    assert 2 < model.reconstruct(x).mean() < 14
    sample = model.sample(200, seed=1)
    assert ((sample >= 0) & (sample <= 16) & (sample == sample.round())).all()


def test_initialise_starts_at_the_best_that_ignores_z():
    x = (torch.rand(500, 4) < torch.tensor([0.05, 0.3, 0.5, 0.95])).double()
    model = model_of()
    with torch.no_grad():
        for p in model.decoder.net.parameters():
            p.zero_()
    model.initialise(x)
    torch.testing.assert_close(model.reconstruct(x)[0], x.mean(0))


def test_vamp_prior_sampling_is_through_the_models_own_prior():
    model = model_of(prior=partial(VampPrior, components=3))
    with torch.no_grad():
        for p in model.encoder.net.parameters():
            p.zero_()
        model.encoder.net.layers[-1].bias[:2] = 40.0  # the posterior is far from N(0, I)
    (z,) = model.latents(100)
    assert z.shape == (1, 100, 2)
    assert (z - 40).abs().max() < 10


def test_samples_follow_the_prior_and_the_seed(untouched):
    model = model_of()
    with untouched():
        first = model.sample(20, seed=4)
    assert torch.equal(first, model.sample(20, seed=4))
    assert not torch.equal(first, model.sample(20, seed=5))
    assert first.shape == (20, 4)
    (z,) = model.latents(5000)
    assert z.mean().abs() < 0.1
    assert (z.std() - 1).abs() < 0.05
    given = (torch.zeros(1, 3, 2).double(),)
    assert model.latents(3, given=given) == given


def test_a_conditional_model_uses_its_context_everywhere(refused):
    model = model_of(contexts=3)
    x, context = bits(), torch.randn(5, 3).double()
    other = context.roll(1, 0)
    z = (torch.randn(2, 5, 2).double(),)
    a, b = (model.infer(x, 2, context=c, z=z) for c in (context, other))
    assert not torch.equal(a.log_lik, b.log_lik)
    assert not torch.equal(a.log_q[0], b.log_q[0])
    assert model.sample(5, context).shape == (5, 4)
    assert torch.equal(
        model.sample(6, context[:1], seed=1), model.sample(6, context[:1].repeat(6, 1), seed=1)
    )
    assert model.impute(x, x > 0, context, samples=5).shape == (1, 5, 4)
    with refused("context"):
        model.infer(x, 2)
    with refused("context"):
        model_of().infer(x, 2, context=context)
    conditional_vamp = model_of(contexts=3, prior=partial(VampPrior, components=2))
    assert conditional_vamp.infer(x, 2, context=context).log_w.shape == (2, 5)
    assert conditional_vamp.sample(5, context).shape == (5, 4)


def test_bad_options_are_refused(refused):
    for latents in (0, -1, (), (2, 0)):
        with refused("latents"):
            vae((4,), latents=latents)
    with refused("latent", "latents"):
        vae((4,), latent=3)
    with refused("hidden=(0,)"):
        vae((4,), net=partial(MLP, hidden=(0,)))
    with refused("dropout"):
        vae((4,), net=partial(MLP, dropout=1.0))


def test_imputation_keeps_what_was_observed_to_the_bit():
    x = torch.rand(4, 4, dtype=torch.float64) + 1e-12
    mask = torch.rand(4, 4) < 0.5
    model = vae((4,), latents=2, likelihood=Normal, net=SMALL)  # float32
    drawn = model.impute(x, mask, draws=3, samples=10, seed=0)
    assert drawn.shape == (3, 4, 4)
    assert torch.equal(drawn[:, mask], x[mask].expand(3, -1))
    assert torch.equal(drawn, model.impute(x, mask, draws=3, samples=10, seed=0))


def test_imputation_follows_the_conditional(gaussian_vae):
    case = gaussian_vae(shift=0.3, widen=0.9)  # as wide as with a hole
    model, x = case.model.cpu().double(), case.x[:1].cpu().double()
    weight = model.decoder.net.layers[0].weight.detach()
    loc = model.decoder.net.layers[0].bias.detach()
    covariance = weight @ weight.T + 0.49 * torch.eye(3)
    mask = torch.tensor([[True, False, True]])
    o = mask[0]
    gain = torch.linalg.solve(covariance[o][:, o], covariance[o, 1])
    mean = loc[1] + gain @ (x[0] - loc)[o]
    std = (covariance[1, 1] - gain @ covariance[o, 1]).sqrt()
    found = model.impute(x, mask, draws=4000, samples=20_000, seed=3)[:, 0, 1]
    assert abs(found.mean() - mean) < 5 * 1.5 * std / math.sqrt(4000)
    assert abs(found.std() / std - 1) < 0.06


def test_anomaly_score_is_higher_for_stranger_rows(gaussian_vae):
    case = gaussian_vae()
    far = case.x + 20
    assert (case.model.anomaly_score(far) > case.model.anomaly_score(case.x)).all()
    found = case.model.anomaly_score(case.x).double()
    torch.testing.assert_close(found, -case.log_p.double(), rtol=1e-3, atol=1e-3)


def test_float64_and_float32_rows_are_both_read():
    for likelihood in LIKELIHOODS:
        for model_type in (torch.float32, torch.float64):
            model = model_of(likelihood, sees_mask=True).to(model_type)
            for x_type in (torch.float32, torch.float64):
                x = bits().to(x_type)
                assert model.infer(x, 2, x > 0).log_w.isfinite().all()
                assert model.reconstruct(x).dtype == model_type


def test_extreme_raw_outputs_stay_finite_in_float32():
    for likelihood in LIKELIHOODS:
        model = vae((4,), latents=2, likelihood=likelihood, net=SMALL)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(300)
        p = model.infer(bits().float(), 8)
        IWAE()(p).sum().backward()
        assert p.log_w.isfinite().all()
        assert all(q.grad.isfinite().all() for q in model.parameters())


# Dequantized: the same promises through a wrapper.


def dequantised_vae():
    return Dequantized(model_of(Normal), levels=4)


def test_dequantized_latents_are_upstream_of_the_weights():
    model = dequantised_vae()
    p = model.infer(torch.randint(0, 4, (5, 4)).double(), 3)
    assert p.z[0].shape == (3, 5, 2)
    (gradient,) = torch.autograd.grad(p.log_w.sum(), p.z[0])
    assert gradient.abs().sum() > 0


def test_dequantized_weights_are_per_sample_and_row():
    model, x = dequantised_vae(), torch.randint(0, 4, (5, 4)).double()
    for mask in (None, torch.rand(5, 4) < 0.6):
        p = model.infer(x, 3, mask, draw=lambda q, n: q.mean.expand(n, *q.mean.shape))
        inner = model.model.infer(x + 0.5, 1, mask, z=(p.z[0][:1],))
        torch.testing.assert_close(p.log_w, inner.log_w.expand(3, -1))
    again = model.infer(x, 3, z=p.z)
    assert again.z[0].shape == (3, 5, 2)


def test_dreg_through_dequantized_is_unbiased():
    torch.manual_seed(2)
    model = Dequantized(
        vae((1,), latents=1, likelihood=Normal, net=partial(MLP, hidden=())), levels=4
    )
    model = model.double()
    with torch.no_grad():
        model.model.decoder.net.layers[0].weight.fill_(1.5)
    x = torch.full((300, 1), 2.0).double()
    own = list(model.model.encoder.parameters())
    found = {}
    for estimator in (Reparam(), DReG()):
        each = []
        for _ in range(150):
            p = model.infer(x, 5, gradient=estimator.gradient)
            gradient = torch.autograd.grad(estimator(IWAE(), p).mean(), own)
            each.append(torch.cat([g.flatten() for g in gradient]))
        found[type(estimator)] = torch.stack(each)
    a, b = found[Reparam], found[DReG]
    error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 4 * error).all()
    assert (b.var(0) < a.var(0)).all()


def test_dequantized_samples_integers_and_forwards_complaints(refused):
    inner = FactorAnalysis((3,), 2)
    with torch.no_grad():
        inner.weight.fill_(5.0)
        inner.log_variance[1] = -30.0
    model = Dequantized(inner, levels=6)
    assert model.complaints() == inner.complaints() != ()
    x = model.sample(300, seed=0)
    assert ((x >= 0) & (x <= 5) & (x == x.round())).all()
    assert model.reconstruct(x[:5].double()).shape == (5, 3)
    with refused("levels=1"):
        Dequantized(inner, levels=1)
    with refused("discrete already"):
        Dequantized(model_of(), levels=4)


def test_dequantized_factor_analysis_is_a_lower_bound_of_a_probability():
    x = torch.randint(0, 5, (200, 3)).double()
    data = Data.from_array(x, levels=5)
    model = Dequantized(FactorAnalysis((3,), 1), levels=5)
    fit(model, data, progress=False)
    evidence = evaluate(model, data, ImportanceSampling(300))
    assert evidence.discrete
    assert evidence.nats < 3 * math.log(1)
    assert evidence.nats > -3 * math.log(5) - 1
