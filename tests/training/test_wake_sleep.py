"""Wake-sleep's two gradients against sums over every state and every row, and what it reaches."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Distribution

from latently import (
    ELBO,
    IWAE,
    VIMCO,
    Cosine,
    Data,
    Dequantized,
    Enumerate,
    Linear,
    ReweightedWakeSleep,
    Transformed,
    Variational,
    WakeSleep,
    evaluate,
    expr,
    fit,
    ppca,
    train,
    vae,
)
from latently.inference.estimators import Score
from latently.inference.methods import Enumeration
from latently.inference.particles import Particles, equal_shares
from latently.models import Model
from latently.nets import MLP
from latently.probability.conditional import Conditional, draw
from latently.probability.families import (
    Bernoulli,
    FixedNormal,
    FlowNormal,
    Normal,
    OneHot,
)
from latently.probability.priors import Learned, LearnedNormal, Standard, VampPrior
from latently.probability.transforms import Log
from latently.registry import components

TINY = partial(MLP, hidden=(4,), activation=nn.Tanh)
AFFINE = partial(MLP, hidden=())
BOTH = [WakeSleep(samples=2), ReweightedWakeSleep(samples=2, sleep=0.3)]
EVERY_X = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()


def bits(n):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n))).double()


class TwoLayers(Model):
    """`p(a) p(b|a) p(x|b)` with `q(a|x) q(b|a, x)`, two bits a layer."""

    density, shape, discrete = "bound", (3,), True

    def __init__(self):
        super().__init__()
        two, seen = Bernoulli((2,)), Bernoulli((3,))
        self.top = nn.Parameter(torch.zeros(2))
        self.below, self.decoder = Conditional(TINY, two, (2,)), Conditional(TINY, seen, (2,))
        self.encoder = Conditional(TINY, two, (3,))
        self.lower = Conditional(TINY, two, (2,), (3,))

    def infer(
        self, x, samples=1, mask=None, context=None, *, gradient="total", z=None, draw=draw,
        local=None,
    ):  # fmt: skip
        q = self.encoder(x)
        a = draw(q, samples) if z is None else z[0]
        r = self.lower(a, x.expand(len(a), *x.shape))
        b = draw(r, 1)[0] if z is None else z[1]
        log_lik = self.decoder(b).log_prob(x)
        prior = Bernoulli((2,))(self.top)
        return Particles(
            (a, b),
            log_lik,
            (prior.log_prob(a), self.below(a).log_prob(b)),
            (q.log_prob(a), r.log_prob(b)),
            (None, None),
            equal_shares(log_lik),
            (None, None),
        )

    def latents(self, n, context=None, given=()):
        a = Bernoulli((2,))(self.top).sample((1, n))
        return a, self.below(a).sample()

    def likelihood(self, z, context=None):
        return self.decoder(z[1])

    def misfit(self, x, mask=None):
        return torch.zeros_like(x, dtype=torch.bool), "anything"

    def inference_parameters(self):
        return [*self.encoder.parameters(), *self.lower.parameters()]


def shaken(model, by=1.0):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn_like(p))
    return model.double()


def model_of(kind):
    torch.manual_seed(3)
    if kind == "two layers":
        return shaken(TwoLayers())
    options = {"net": TINY, "prior": Learned}
    if kind == "six bits":
        return shaken(vae((3,), latents=6, posterior=Bernoulli, **options))
    return shaken(vae((3,), latents=5, posterior=OneHot, **options))


def all_states(kind, rows):
    if kind == "two layers":
        pairs = bits(4)
        layers = pairs[:, :2], pairs[:, 2:]
    else:
        layers = (bits(6) if kind == "six bits" else torch.eye(5).double(),)
    return tuple(layer[:, None].expand(-1, rows, -1) for layer in layers)


def summed(model, kind, x):
    """log p(x, z) and log q(z|x) at every state, (states, B)."""
    p = model.infer(x, z=all_states(kind, len(x)))
    return p.log_lik + sum(p.log_prior), sum(p.log_q)


def parts(model):
    own = {id(p) for p in model.inference_parameters()}
    theta = [p for p in model.parameters() if id(p) not in own]
    return theta, model.inference_parameters()


def slopes(value, parameters):
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def estimated(model, objective, x, copies, turns=30):
    """Gradients of the mean value over many copies of the rows, one of each turn."""
    theta, phi = parts(model)
    many, found = x.repeat(copies, 1), ([], [])
    for _ in range(turns):
        value = objective(model, many, None, None, torch.tensor(0), 1).bound.mean()
        found[0].append(slopes(value, theta))
        found[1].append(slopes(value, phi))
    return tuple(torch.stack(each) for each in found)


def assert_mean(draws, wanted):
    """The mean of independent draws is the number, within five standard errors."""
    error = draws.std(0) / math.sqrt(len(draws))
    assert error.max() < 0.3 * wanted.abs().max()  # else the test could not tell
    off = (draws.mean(0) - wanted).abs()
    assert (off <= 5 * error + 1e-12).all(), float((off / error.clamp(min=1e-12)).max())


KINDS = ["six bits", "one of five", "two layers"]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_wake_sleep_are_the_sums_over_all_states(kind):
    model = model_of(kind)
    theta, phi = parts(model)
    x = EVERY_X[[1, 6]]
    log_joint, log_q = summed(model, kind, x)
    wake = slopes((log_q.detach().exp() * log_joint).sum(0).mean(), theta)
    log_joint, log_q = summed(model, kind, EVERY_X)
    dream = log_joint.detach().exp()
    assert float(dream.sum()) == pytest.approx(1)
    sleep = slopes((dream * log_q).sum(), phi)
    by_theta, by_phi = estimated(model, WakeSleep(samples=3), x, copies=400)
    assert_mean(by_theta, wake)
    assert_mean(by_phi, sleep)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, Linear(0.3, 1.0)])
def test_gradients_of_reweighted_wake_sleep_are_the_sums_over_all_pairs(kind, share):
    """Of two draws, where the mean of a weighted average is a double sum, bias included."""
    model = model_of(kind)
    theta, phi = parts(model)
    x = EVERY_X[[1, 6]]
    log_joint, log_q = summed(model, kind, x)
    log_w = (log_joint - log_q).detach()
    won = torch.sigmoid(log_w[:, None] - log_w[None])  # w_i / (w_i + w_j)
    q = log_q.detach().exp()
    mean_weight = 2 * q * (q[None] * won).sum(1)
    assert torch.allclose(mean_weight.sum(0), torch.ones(2).double())
    wake = slopes((mean_weight * log_joint).sum(0).mean(), theta)
    at_data = slopes((mean_weight * log_q).sum(0).mean(), phi)
    log_joint, log_q = summed(model, kind, EVERY_X)
    asleep = slopes((log_joint.detach().exp() * log_q).sum(), phi)
    objective = ReweightedWakeSleep(samples=2, sleep=share)
    by_theta, by_phi = estimated(model, objective, x, copies=600)
    first = 0.3 if share else 0.0
    assert_mean(by_theta, wake)
    assert_mean(by_phi, (1 - first) * at_data + first * asleep)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_side_hears_of_the_other(kind):
    """To the bit: dreams give p nothing, and data give q of wake-sleep nothing."""
    model = model_of(kind)
    theta, phi = parts(model)

    def gradient(objective, x, parameters):
        torch.manual_seed(1)
        value = objective(model, x, None, None, torch.tensor(0), 1).bound.mean()
        return slopes(value, parameters)

    x, other = EVERY_X[:4], EVERY_X[4:]
    awake = gradient(ReweightedWakeSleep(samples=3), x, theta)
    asleep = gradient(ReweightedWakeSleep(samples=3, sleep=1.0), x, theta)
    assert torch.equal(awake, asleep)
    assert awake.abs().sum() > 0
    dreamt = gradient(WakeSleep(), x, phi)
    assert torch.equal(dreamt, gradient(WakeSleep(), other, phi))
    assert dreamt.abs().sum() > 0
    assert not torch.equal(gradient(WakeSleep(), x, theta), gradient(WakeSleep(), other, theta))


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_the_bounds_of_the_same_draws(kind):
    model, x = model_of(kind), EVERY_X
    for objective, bound in ((BOTH[0], ELBO()), (BOTH[1], IWAE())):
        found = []
        for gradient in (True, False):
            torch.manual_seed(5)
            with torch.set_grad_enabled(gradient):
                found.append(objective(model, x, None, None, torch.tensor(0), 1))
        torch.manual_seed(5)
        p = model.infer(x, 2, draw=Score().draw)
        for terms in found:
            torch.testing.assert_close(terms.bound, bound(p))
            torch.testing.assert_close(terms.reconstruction, p.average(p.log_lik))
            assert all(term.shape == (8,) for term in terms)
            assert not terms.kl.requires_grad
        assert found[0].bound.requires_grad
        assert objective.is_bound
        assert not objective.couples


def test_an_exact_q_of_continuous_latents_is_left_where_it_is(gaussian_vae):
    """At q(z|x) = p(z|x) the sleep gradient is a score under its own density: zero on average."""
    for shift, at_rest in ((0.0, True), (0.5, False)):
        model = gaussian_vae(shift=shift).model
        x = torch.zeros(2000, 3, dtype=model.dtype, device=model.device)
        draws = []
        for seed in range(40):
            torch.manual_seed(seed)
            value = WakeSleep()(model, x, None, None, torch.tensor(0), 1).bound.mean()
            draws.append(slopes(value, model.inference_parameters()))
        draws = torch.stack(draws)
        scores = draws.mean(0) / (draws.std(0) / math.sqrt(len(draws)))
        assert bool(scores.abs().max() < 5) == at_rest


def test_a_flow_for_posterior_gets_its_gradient():
    model = vae((3,), latents=2, net=TINY, posterior=FlowNormal)
    for objective in BOTH:
        model.zero_grad()
        objective(model, EVERY_X.float(), None, None, torch.tensor(0), 1).bound.mean().backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name


class Watched:
    """A model whose calls of `infer` are kept."""

    def __init__(self, model):
        self.model, self.calls = model, []
        model.infer, self._infer = self.infer, model.infer

    def infer(self, x, samples=1, mask=None, context=None, **options):
        self.calls.append((x, mask, context, options.get("z")))
        return self._infer(x, samples, mask, context, **options)


@pytest.mark.parametrize("objective", BOTH, ids=str)
def test_dreams_have_the_contexts_and_masks_of_the_rows(objective):
    """Under a decoder that copies the context, so that a dream shows which one it had."""
    likelihood = partial(FixedNormal, std=1e-3)
    model = vae((2,), latents=2, net=AFFINE, likelihood=likelihood, contexts=2, sees_mask=True)
    with torch.no_grad():
        layer = model.decoder.net.layers[0]
        layer.weight.copy_(torch.cat([torch.zeros(2, 2), torch.eye(2)], 1))
        layer.bias.zero_()
    context = torch.arange(10.0).view(5, 2)
    mask = torch.rand(5, 2) < 0.5
    watched = Watched(model)
    objective(model, torch.zeros(5, 2), mask, context, torch.tensor(0), 1)
    _, (dream, seen, under, z) = watched.calls
    assert dream.shape == (10, 2)
    assert z[0].shape == (1, 10, 2)
    assert torch.equal(under, context.repeat(2, 1))
    assert torch.equal(seen, mask.repeat(2, 1))
    assert (dream - under).abs().max() < 0.01


def test_a_prior_of_the_context_dreams_under_it():
    model = vae((2,), latents=2, net=AFFINE, prior=LearnedNormal, contexts=3)
    terms = WakeSleep(samples=4)(
        model, torch.zeros(5, 2), None, torch.randn(5, 3), torch.tensor(0), 1
    )
    terms.bound.mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("objective", BOTH, ids=str)
def test_dreams_of_wrapped_models_are_rows_of_theirs(objective):
    options = {"latents": 2, "net": TINY, "likelihood": Normal}
    for model in (
        Dequantized(vae((3,), **options), levels=4),
        Transformed(vae((3,), **options), Log()),
    ):
        x = torch.randint(1, 4, (6, 3)).float()
        watched = Watched(model)
        terms = objective(model, x, None, None, torch.tensor(0), 1)
        dream = watched.calls[1][0]
        assert not model.misfit(dream)[0].any()
        terms.bound.mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("objective", BOTH, ids=str)
def test_masked_rows_train(objective):
    x = EVERY_X.float().repeat(4, 1)
    data = Data(x, "Bernoulli", "bits", mask=torch.rand_like(x) < 0.7, levels=2)
    model = vae((3,), latents=3, posterior=Bernoulli, prior=Standard, net=TINY, sees_mask=True)
    before = [p.detach().clone() for p in model.parameters()]
    found = fit(model, data, objective, steps=5, batch_size=8, device="cpu", progress=False)
    assert all(math.isfinite(row["bound"]) for row in found.history)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert all(moved)


def test_it_is_its_expression_and_takes_pieces():
    for objective in BOTH:
        assert expr.build(expr.show(objective), components()) == objective
        model = model_of("six bits").float()
        data = Data.from_array(EVERY_X.float(), levels=2)
        for step in train(model, data, objective, steps=2, batch_size=8, accumulate=3):
            assert bool(step.taken)
    assert WakeSleep(samples=3).size(10, 20, 2) == 2 * 3 * 10 * 20
    assert ReweightedWakeSleep(samples=3).size(10, 20, 2) == 3 * 10 * 20
    assert ReweightedWakeSleep(samples=3, sleep=0.1).size(10, 20, 2) == 2 * 3 * 10 * 20


# What is refused.


@pytest.mark.parametrize("objective", BOTH, ids=str)
def test_models_without_a_q_of_their_own_are_refused_before_the_first_step(objective, refused):
    data = Data.from_array(EVERY_X.float(), levels=2)
    shared = vae((3,), latents=2, net=TINY, prior=partial(VampPrior, components=2))
    for model in (shared, ppca((3,), latents=1)):
        before = [p.detach().clone() for p in model.parameters()]
        with refused(type(objective).__name__, type(model).__name__, "Variational"):
            next(train(model, data, objective, steps=1, device="cpu"))
        assert all(map(torch.equal, before, model.parameters()))


def test_bad_options_are_refused(refused):
    with refused("WakeSleep", "samples=0"):
        WakeSleep(samples=0)
    with refused("ReweightedWakeSleep", "samples=1", "at least 2"):
        ReweightedWakeSleep(samples=1)
    for share in (-0.1, 1.1, math.nan, True):
        with refused("ReweightedWakeSleep", "sleep="):
            ReweightedWakeSleep(sleep=share)


class Unsampled(Distribution):
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, d):
        self.d = d
        super().__init__(d.batch_shape, d.event_shape, validate_args=False)

    def log_prob(self, value):
        return self.d.log_prob(value)


def test_a_likelihood_that_cannot_be_sampled_is_refused_where_there_are_dreams(refused):
    model = model_of("six bits")
    whole = model.likelihood
    model.likelihood = lambda z, context=None: Unsampled(whole(z, context))
    for objective in BOTH:
        with refused("Unsampled", "cannot be sampled", "sleep=0.0"):
            objective(model, EVERY_X, None, None, torch.tensor(0), 1)
    ReweightedWakeSleep()(model, EVERY_X, None, None, torch.tensor(0), 1)


# What is reached.


@pytest.fixture(scope="module")
def six_bits():
    """Rows of a model of six bits with three pixels each, and their exact maximum likelihood."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.where(torch.rand(18, 1, generator=generator) < 0.5, -1.0, 1.0)
    weight = 3 * signs * torch.kron(torch.eye(6), torch.ones(3, 1))
    z = torch.rand(1000, 6, generator=generator).lt(0.5).float()
    on = torch.sigmoid(z @ weight.T - weight.sum(1) / 2)
    x = torch.rand(on.shape, generator=generator).lt(on).float()

    def log_p(weight, bias):
        h = bits(6) @ weight.T + bias
        terms = x.double() @ h.T - nn.functional.softplus(h).sum(-1)
        return torch.logsumexp(terms, 1).mean() - math.log(64)

    ends = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(18, 6, generator=generator).double().requires_grad_()
        b = torch.zeros(18).double().requires_grad_()
        search = torch.optim.LBFGS([w, b], max_iter=500, line_search_fn="strong_wolfe")

        def loss(w=w, b=b, search=search):
            search.zero_grad()
            value = -log_p(w, b)
            value.backward()
            return value

        search.step(loss)
        ends.append(float(log_p(w, b).detach()))
    return Data.from_array(x, levels=2), max(ends)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        WakeSleep(samples=5),
        ReweightedWakeSleep(samples=5),
        ReweightedWakeSleep(samples=5, sleep=0.5),
        Variational(ELBO(), Enumerate()),
        Variational(IWAE(), VIMCO(), samples=5),
    ],
    ids=str,
)
def test_six_bits_reach_the_exact_maximum_likelihood(six_bits, objective):
    data, maximum = six_bits
    model = vae((18,), latents=6, posterior=Bernoulli, prior=Standard, net=AFFINE)
    options = {"batch_size": 100, "learning_rate": Cosine(0.1), "progress": False}
    before = float(evaluate(model, data, Enumeration()).values.double().mean())
    fit(model, data, objective, steps=1500, device="cpu", **options)
    reached = float(evaluate(model, data, Enumeration()).values.double().mean())
    assert before < maximum - 0.3
    assert maximum - 0.1 < reached < maximum + 1e-4


@pytest.mark.slow
def test_categories_and_normals_learn_by_either(six_bits):
    """A few steps raise the bound of any latents, by either."""
    data = six_bits[0]
    for objective in BOTH:
        for posterior, prior in ((Normal, LearnedNormal), (Bernoulli, Standard)):
            model = vae((18,), latents=3, posterior=posterior, prior=prior, net=AFFINE)
            options = {"steps": 150, "batch_size": 100, "learning_rate": 0.03, "device": "cpu"}
            bounds = [float(s.bound) for s in train(model, data, objective, **options)]
            assert sum(bounds[-10:]) > sum(bounds[:10]) + 1  # nats, over ten steps
