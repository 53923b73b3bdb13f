"""A class that is summed: every bound against the sum written out, and against quadrature."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from latently import Data, Dequantized, Transformed, evaluate, impute, ssvae
from latently.inference import ELBO, IWAE, ImportanceSampling, Score
from latently.inference.estimators import DReG, Enumerate, GumbelSoftmax, Reparam
from latently.inference.noise import row_seed, seeded
from latently.nets import MLP
from latently.probability.conditional import Conditional
from latently.probability.families import Bernoulli, Normal, OneHot
from latently.probability.transforms import Asinh
from latently.training import Variational

SMALL = partial(MLP, hidden=(6,), activation=torch.nn.Tanh)
CLASSES = 3
BOTH = pytest.mark.parametrize("features", [None, 2])


def model_of(features=None, latents=2, by=0.3, **options):
    model = ssvae(
        (4,), classes=CLASSES, latents=latents, features=features, net=SMALL, **options
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn_like(p))
    return model


def widened(model):
    """q of wide tails: no weight is far above the others."""
    parts = [model.encoder] if model.features is None else [model.encoder, model.features.encoder]
    for part in parts:
        part.offset[1] += 0.6  # log-deviations
    return model


def bits(n=5):
    return torch.rand(n, 4).lt(0.5).double()


def labels(*classes):
    """One-hot rows, zeros for None."""
    rows = torch.zeros(len(classes), CLASSES).double()
    for row, label in enumerate(classes):
        if label is not None:
            rows[row, label] = 1
    return rows


def written_out(model, x, p, y):
    """log q(y|x), log p(x, z|y) - log q(z|x, y) and its ELBO, (K, B), at the draws for class y."""
    one = torch.nn.functional.one_hot(torch.tensor(y), CLASSES).double()
    draws = [layer.detach()[y::CLASSES] for layer in p.z]
    log_q_f = log_f = 0.0
    if model.features is None:
        seen, z = x.expand(len(draws[1]), *x.shape), draws[1]
    else:
        q_f = model.features.encoder(x)
        eps = (draws[2] - q_f.mean.detach()) / q_f.variance.sqrt().detach()
        seen = q_f.mean + q_f.variance.sqrt() * eps
        log_q_f, z = q_f.log_prob(seen), draws[1]
    context = one.expand(*seen.shape[:2], -1)
    q_y = torch.log_softmax(model.classifier.params(seen), -1)[..., y]
    q = model.encoder(seen, context)
    z = q.mean + q.variance.sqrt() * ((z - q.mean) / q.variance.sqrt()).detach()
    below = model.decoder(z, context)
    if model.features is None:
        log_lik = below.log_prob(x)
    else:
        log_f, log_lik = below.log_prob(seen), model.features.decoder(seen).log_prob(x)
    prior = torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.variance.sqrt()), prior
    ).sum(-1)
    common = log_lik + log_f - log_q_f - math.log(CLASSES)
    return q_y, common + prior.log_prob(z).sum(-1) - q.log_prob(z), common - kl


@BOTH
def test_the_elbo_is_the_sum_over_classes_and_so_is_its_gradient(features, exactly):
    model, x = model_of(features), bits()
    with seeded(1):
        p = model.infer(x, 2)
    found = Reparam()(ELBO(), p)
    found.sum().backward()
    gradients = [q.grad.clone() for q in model.parameters()]
    model.zero_grad()
    terms = [written_out(model, x, p, y) for y in range(CLASSES)]
    wanted = sum(q_y.exp() * (elbo - q_y) for q_y, _, elbo in terms).mean(0)
    exactly(found, wanted)
    wanted.sum().backward()
    for one, (name, q) in zip(gradients, model.named_parameters(), strict=True):
        assert q.grad is not None, name
        exactly(one, q.grad)


@BOTH
def test_the_importance_weighted_bound_sums_classes_within_draws(features, exactly):
    model, x = model_of(features), bits()
    p = model.infer(x, 5)
    found = IWAE()(p)
    slopes = torch.autograd.grad(found.sum(), list(model.parameters()), allow_unused=True)
    terms = torch.stack([written_out(model, x, p, y)[1] for y in range(CLASSES)])
    wanted = torch.logsumexp(terms, (0, 1)) - math.log(5)
    exactly(found, wanted)
    wanted = torch.autograd.grad(wanted.sum(), list(model.parameters()), allow_unused=True)
    for one, other in zip(slopes, wanted, strict=True):
        exactly(one, torch.zeros_like(one) if other is None else other)


@BOTH
def test_bounds_of_labelled_rows_are_of_their_class_and_sum_to_that_of_the_row(features, exactly):
    model, x = model_of(features), bits()
    for bound, count in ((IWAE(), 3), (ELBO(), 1)):
        with seeded(2):
            alone = model.infer(x, count)
        each = []
        for y in range(CLASSES):
            with seeded(2):
                p = model.infer(x, count, None, labels(*[y] * 5))
            each.append(bound(p))
            terms = written_out(model, x, alone, y)
            if bound == IWAE():
                exactly(each[-1], torch.logsumexp(terms[1], 0) - math.log(count))
            else:
                exactly(each[-1], terms[2][0])
        each = torch.stack(each)
        if bound == IWAE():
            exactly(bound(alone), torch.logsumexp(each, 0))
    if features is None:  # at q(y|x) in proportion to exp of the bounds, the ELBO is their sum
        logits = model.classifier.params(x)
        own = (each.T - logits, torch.zeros(5, *model.encoder.family.param_shape).double())
        with seeded(2):
            exactly(ELBO()(model.infer(x, 1, local=own)), torch.logsumexp(each, 0))


def joint_by_quadrature(model, x):
    """log p(x, y) of every class, (C, B), of a model of one z, and one f where there are any."""
    grid = torch.linspace(-9, 9, 721, dtype=torch.float64)[:, None]
    step, weight = float(grid[1] - grid[0]), torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    found = []
    for y in range(CLASSES):
        one = labels(y).expand(len(grid), -1)
        below = model.decoder(grid, one)
        if model.features is None:
            log_p = below.log_prob(x[:, None]) + weight[:, 0]
            found.append(torch.logsumexp(log_p, 1) + math.log(step / CLASSES))
            continue
        f = 2 * grid
        log_f = torch.logsumexp(below.log_prob(f[:, None]) + weight[:, 0], 1) + math.log(step)
        log_p = model.features.decoder(f).log_prob(x[:, None]) + log_f
        found.append(torch.logsumexp(log_p, 1) + math.log(2 * step / CLASSES))
    return torch.stack(found).detach()


@pytest.mark.parametrize("features", [None, 1])
def test_many_draws_reach_log_p_by_quadrature(features):
    model, x = widened(model_of(features, latents=1, by=0.2)), bits(4)
    joint = joint_by_quadrature(model, x)
    with torch.no_grad():
        whole = IWAE()(model.infer(x, 20_000))
        known = IWAE()(model.infer(x, 20_000, None, labels(0, 1, 2, 0)))
        elbo = torch.stack([ELBO()(model.infer(x, 500)) for _ in range(4)]).mean(0)
        posterior = model.classify(x, samples=20_000)
    torch.testing.assert_close(whole, torch.logsumexp(joint, 0), atol=0.02, rtol=0)
    torch.testing.assert_close(known, joint[[0, 1, 2, 0], torch.arange(4)], atol=0.02, rtol=0)
    torch.testing.assert_close(posterior, torch.softmax(joint, 0).T, atol=0.01, rtol=0)
    assert (elbo < torch.logsumexp(joint, 0)).all()


def test_probabilities_of_all_rows_sum_to_one():
    model = widened(model_of(latents=1))
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)
    total = torch.logsumexp(joint_by_quadrature(model, every), (0, 1))
    assert abs(float(total)) < 1e-9
    found = evaluate(model, Data.from_array(every, levels=2), ImportanceSampling(4000))
    assert abs(float(found.values.exp().sum()) - 1) < 0.01


@BOTH
def test_evidence_hides_labels_and_is_of_log_p(features):
    model, x = model_of(features), bits(6)
    plain = Data.from_array(x, levels=2)
    known = replace(plain, context=labels(0, 1, 2, None, 0, 1))
    found = evaluate(model, known, ImportanceSampling(50))
    assert found.what == "p(x)"
    assert torch.equal(found.values, evaluate(model, plain, ImportanceSampling(50)).values)
    assert found.samples == 50
    assert bool((found.ess <= 50 + 1e-6).all())


def test_evidence_is_the_importance_weighted_bound_of_its_draws(exactly):
    model, x, method = model_of(), bits(2), ImportanceSampling(7)
    wanted = []
    for row in x:
        with seeded(row_seed(0, row[None], None, None)), torch.no_grad():
            wanted.append(IWAE()(model.infer(row[None], 7))[0])
    exactly(evaluate(model, Data.from_array(x, levels=2), method).values, torch.stack(wanted))


@BOTH
def test_a_given_latent_is_scored_as_it_was(features, exactly):
    model, x, context = model_of(features), bits(), labels(None, 1, None, 2, None)
    p = model.infer(x, 3, None, context)
    again = model.infer(x, 1, None, context, z=p.z)
    kept = p.log_pi > -1e20
    exactly(again.log_w[kept], p.log_w[kept])
    assert (again.log_w[~kept] < -1e20).all()
    exactly(again.log_pi, torch.full_like(again.log_pi, -math.log(9)))


@BOTH
def test_labels_known_and_unknown_stand_side_by_side(features):
    model, x, context = model_of(features), bits(), labels(None, 1, None, 2, None)
    p = model.infer(x, 2, None, context)
    shares = p.log_pi.exp().unflatten(0, (2, CLASSES))
    assert torch.allclose(shares.sum((0, 1)), torch.ones(5).double())
    assert torch.equal(shares[:, :, 1].sum(0), context[1])
    (ELBO()(p).sum() + IWAE()(p).sum()).backward()
    assert all(bool(q.grad.isfinite().all()) for q in model.parameters())
    assert torch.equal(model.infer(x, 1).log_pi.exp() > 0, torch.ones(3, 5).bool())


@pytest.mark.parametrize("sees_mask", [False, True])
@BOTH
def test_nothing_under_a_mask_reaches_value_or_gradient(features, sees_mask):
    x, mask = bits(), torch.rand(5, 4) < 0.6
    model = model_of(features, sees_mask=sees_mask)
    results = []
    for bad in (0.0, math.nan, 1e300):
        model.zero_grad()
        with seeded(1):
            p = model.infer(torch.where(mask, x, bad), 2, mask)
        IWAE()(p).sum().backward()
        grads = [q.grad.clone() for q in model.parameters()]
        results.append([p.log_w.detach(), model.classify(torch.where(mask, x, bad), mask), *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_discrete_latents_are_summed_beside_the_class(exactly):
    model, x = model_of(latents=3, posterior=OneHot), bits()
    p = model.infer(x, 1, gradient="exact", draw=Enumerate().draw)
    assert len(p.log_pi) == 3 * CLASSES
    exactly(p.log_pi.exp().sum(0), torch.ones(5))
    assert (Enumerate()(ELBO(), p) < IWAE()(p)).all()
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)
    p = model.infer(every, 1, gradient="exact", draw=Enumerate().draw)
    exactly(torch.logsumexp(IWAE()(p), 0), 0.0)
    p = model.infer(x, 2, draw=GumbelSoftmax().draw)
    GumbelSoftmax()(ELBO(), p).sum().backward()


@BOTH
def test_samples_are_of_the_class_that_is_given(features):
    model = model_of(features)
    torch.manual_seed(0)
    y = model.latents(6, labels(0, 1, 2, None, None, None))[0][0]
    assert torch.equal(y[:3], labels(0, 1, 2))
    assert torch.equal(y.sum(1), torch.ones(6).double())
    assert model.sample(3).shape == (3, 4)
    assert model.sample(3, labels(1)).shape == (3, 4)
    given = model.latents(6, given=[labels(2).expand(1, 6, -1)])
    assert torch.equal(given[0][0, 0], labels(2)[0])
    many = model.latents(3000)[0][0].mean(0)
    assert (many - 1 / 3).abs().max() < 0.04


def test_draws_follow_the_model():
    model = model_of(latents=1)
    with seeded(3):
        drawn = model.sample(20_000, labels(1))
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)
    wanted = CLASSES * joint_by_quadrature(model, every)[1].exp()
    code = torch.tensor([8.0, 4, 2, 1]).double()
    found = torch.bincount((drawn @ code).long(), minlength=16) / 20_000
    assert (found - wanted).abs().max() < 0.015


@BOTH
def test_encode_averages_and_reconstruct_takes_the_likeliest_class(features, exactly):
    model, x = model_of(features), bits()
    layers = model.encode(x)
    exactly(layers[0], model.classify(x))
    assert len(layers) == (2 if features is None else 3)
    assert model.decode(layers).shape == x.shape
    exactly(model.encode(x, None, labels(*[2] * 5))[0], labels(*[2] * 5))
    best = torch.nn.functional.one_hot(model.classify(x).argmax(1), CLASSES).double()
    exactly(model.reconstruct(x), model.reconstruct(x, None, best))
    if features is not None:  # f says all of x
        return
    other = best.roll(1, 1)
    assert not torch.allclose(model.reconstruct(x), model.reconstruct(x, None, other))


@BOTH
def test_imputation_keeps_what_is_there(features):
    model, x = model_of(features), bits(3)
    mask = torch.tensor([[True, True, False, True], [True] * 4, [False, True, True, False]])
    data = Data.from_array(torch.where(mask, x, math.nan), levels=2)
    found = impute(model, data, draws=4, samples=30, sweeps=2)
    assert torch.equal(found.mean[mask], x[mask])
    assert bool((found.draws == found.draws.round()).all())


def test_one_particle_is_chosen_by_its_share():
    model, x = model_of(), bits(1).expand(4000, -1)
    with torch.no_grad():
        p = model.infer(x, 2).chosen()
        wanted = model.classify(x[:1])[0]
    assert p.log_lik.shape == (1, 4000)
    assert (p.z[0][0].mean(0) - wanted).abs().max() < 0.04


def test_estimators_of_equally_weighted_draws_are_refused(refused):
    x, step = bits(), torch.tensor(0)
    model = model_of()
    for estimator, bound in ((Score(), ELBO()), (DReG(), IWAE())):
        with refused(type(estimator).__name__):
            Variational(bound, estimator, samples=2)(model, x, None, None, step, 1)


def test_mistakes_are_named(refused):
    for words, options in (
        (("classes=1",), {"classes": 1}),
        (("latents=0",), {"latents": 0}),
        (("features=0",), {"features": 0}),
        (("features_net", "without features"), {"features_net": SMALL}),
    ):
        with refused("ssvae", *words):
            ssvae((4,), **options)
    model = model_of()
    with refused("2 columns", "one of 3"):
        model.check_context(torch.zeros(4, 2))
    with refused("row 1", "one-hot"):
        model.check_context(torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]))
    with refused("row 0"):
        model.check_context(torch.tensor([[0.0, 0.5, 0.0]]))
    model.check_context(None)
    with refused("samples=0"):
        model.classify(bits(), samples=0)
    with refused("states", "features"):
        model_of(2).infer(bits(), 1, gradient="exact")
    with refused("(2,)", "(3,)"):
        type(model)(
            model.classifier,
            model.encoder,
            decoder_over(3),
            model.prior,
            features=model_of(2).features,
        )


def decoder_over(width):
    return Conditional(SMALL, Normal((width,)), (2,), contexts=CLASSES)


def test_a_transform_keeps_labels_optional_and_noise_is_refused(refused, exactly):
    inner = ssvae((3,), classes=CLASSES, latents=1, likelihood=Normal, net=SMALL).double()
    model, x = Transformed(inner, Asinh()), torch.randn(4, 3).double()
    model.check_context(None)
    with seeded(1):
        found = IWAE()(model.infer(x, 3))
    with seeded(1):
        wanted = IWAE()(inner.infer(torch.asinh(x), 3)) - (1 + x**2).log().sum(1) / 2
    exactly(found, wanted)
    data = Data.from_array(x)
    known = replace(data, context=labels(0, 1, None, 2))
    found, wanted = (evaluate(model, part, ImportanceSampling(5)) for part in (known, data))
    assert torch.equal(found.values, wanted.values)
    with refused("Dequantized", "sums its classes"):
        Dequantized(inner, levels=4)


def test_rows_may_be_of_any_family():
    model = ssvae((3,), classes=2, latents=1, likelihood=Normal, net=SMALL)
    assert not model.discrete
    assert ssvae((3,), classes=2, latents=1, likelihood=Bernoulli, net=SMALL).discrete
