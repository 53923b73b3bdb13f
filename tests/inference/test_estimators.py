"""Gradients against the truth: integrals over noise, and sums over all tuples of states."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from latently import vae
from latently.inference import ELBO, IWAE, DReG, Particles, Reparam
from latently.inference.bounds import CIWAE, MultiplyIWAE, Renyi
from latently.inference.estimators import (
    PIWAE,
    REBAR,
    STL,
    VIMCO,
    Enumerate,
    GumbelSoftmax,
    Score,
)
from latently.inference.particles import equal_shares
from latently.inference.schedules import Linear, Warmup
from latently.nets import MLP
from latently.probability.families import Bernoulli, OneHot
from latently.probability.priors import Learned, Standard, VampPrior
from latently.training import Variational

WRONG = {"columns": 2, "latents": 1, "shift": 0.5, "widen": 0.4}
ROWS = 1000


def gradients(model, value):
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(parameters, found, strict=True)
        ]
    )


def encoder_part(model):
    own = {id(p) for p in model.encoder.parameters()}
    return torch.cat(
        [torch.full((p.numel(),), id(p) in own) for p in model.parameters() if p.requires_grad]
    )


def quadrature(model, x, bound, samples):
    """The exact gradient of E[bound] for one row: Gauss-Hermite over the samples' noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    grids = torch.from_numpy(np.stack(np.meshgrid(*[nodes] * samples, indexing="ij")))
    share = torch.from_numpy(weights / weights.sum())
    shares = torch.ones((), dtype=torch.float64)
    for _ in range(samples):
        shares = shares[..., None] * share
    eps = grids.reshape(samples, -1, 1).to(x)

    def draw(q, n):
        assert n == samples
        return q.mean + q.variance.sqrt() * eps

    p = model.infer(x.expand(eps.shape[1], -1), samples, draw=draw)
    return gradients(model, (shares.flatten().to(x) * bound(p)).sum())


def inferred(model, x, samples, estimator):
    return model.infer(x, samples, gradient=estimator.gradient, draw=estimator.draw)


def sampled(model, x, bound, estimator, samples, batches=100):
    """Mean of the estimator over many draws for one row, and its standard error."""
    found = []
    for _ in range(batches):
        p = inferred(model, x.expand(ROWS, -1), samples, estimator)
        found.append(gradients(model, estimator(bound, p).mean()))
    found = torch.stack(found)
    return found.mean(0), found.std(0) / math.sqrt(batches)


def z_scores(found, error, wanted):
    """In standard errors; coordinates without noise must agree outright."""
    noisy = error > 1e-12 * wanted.abs().max()
    torch.testing.assert_close(found[~noisy], wanted[~noisy], rtol=1e-6, atol=1e-9)
    return ((found - wanted) / error)[noisy]


@pytest.mark.parametrize(
    ("bound", "samples", "estimator"),
    [
        (ELBO(), 1, Reparam()),
        (ELBO(beta=0.3), 1, Reparam()),
        (IWAE(), 1, Reparam()),
        (IWAE(), 2, Reparam()),
        (IWAE(), 1, DReG()),
        (IWAE(), 2, DReG()),
        (MultiplyIWAE(groups=2), 2, DReG()),
        (ELBO(), 1, STL()),
        (ELBO(), 2, STL()),
        (ELBO(beta=0.3), 1, STL()),
        (ELBO(), 2, Score()),
        (ELBO(beta=0.3), 2, Score()),
        (ELBO(free_bits=0.2), 2, Score()),
        (IWAE(), 2, VIMCO()),
        (ELBO(), 2, VIMCO()),
    ],
)
def test_gradient_is_unbiased_against_quadrature(gaussian_vae, bound, samples, estimator):
    case = gaussian_vae(**WRONG)
    x = case.x[:1]
    wanted = quadrature(case.model, x, bound, samples)
    found, error = sampled(case.model, x, bound, estimator, samples)
    scores = z_scores(found, error, wanted)
    assert scores.abs().max() < 4


# Discrete latents: the mean over draws is a sum over all tuples of states.

STATES = {"OneHot": (OneHot, 3), "Bernoulli": (Bernoulli, 2)}
CLOSED, OPEN = Learned, partial(VampPrior, components=3)  # whether the KL has a closed form


def discrete_vae(states, prior=CLOSED, **options):
    posterior, latents = STATES[states]
    net = partial(MLP, hidden=())
    model = vae((3,), latents=latents, posterior=posterior, prior=prior, net=net, **options)
    with torch.no_grad():
        for p in model.double().parameters():
            p.copy_(torch.randn_like(p))
    return model


def row():
    return torch.tensor([[1.0, 0.0, 1.0]]).double()


def enumerated(model, x, bound, samples):
    """The exact gradient of E[bound] for one row: all K-tuples of states, weighted by q."""
    states = inferred(model, x, 1, Enumerate()).z[0][:, 0]
    index = torch.cartesian_prod(*[torch.arange(len(states))] * samples).view(-1, samples)
    p = model.infer(x.expand(len(index), -1), z=(states[index.T],))
    shares = p.log_q[0].sum(0).exp()
    torch.testing.assert_close(shares.sum(), torch.ones_like(shares[0]))
    return gradients(model, (shares * bound(p)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize(
    ("bound", "samples", "estimator", "prior"),
    [
        (ELBO(), 2, Score(), CLOSED),
        (ELBO(), 3, Score(), OPEN),
        (ELBO(beta=0.3), 2, Score(), OPEN),
        (ELBO(beta=0.3), 3, Score(), CLOSED),
        (IWAE(), 2, VIMCO(), CLOSED),
        (IWAE(), 3, VIMCO(), OPEN),
        (ELBO(), 2, VIMCO(), CLOSED),
        (CIWAE(beta=0.3), 3, VIMCO(), CLOSED),
        (Renyi(alpha=0.4), 3, VIMCO(), OPEN),
        (MultiplyIWAE(groups=2), 4, VIMCO(), CLOSED),
        (ELBO(), 1, REBAR(), CLOSED),
        (ELBO(), 2, REBAR(temperature=0.1), OPEN),
        (ELBO(), 1, REBAR(temperature=2.0, scale=0.6), OPEN),
        (ELBO(beta=0.3), 3, REBAR(scale=0.3), CLOSED),
        (ELBO(beta=2.0), 2, REBAR(scale=1.5), OPEN),
    ],
)
def test_gradient_is_unbiased_against_enumeration(states, bound, samples, estimator, prior):
    model, x = discrete_vae(states, prior), row()
    wanted = enumerated(model, x, bound, samples)
    found, error = sampled(model, x, bound, estimator, samples)
    assert z_scores(found, error, wanted).abs().max() < 4


@pytest.mark.parametrize("estimator", [Score(), REBAR()])
def test_free_bits_of_a_closed_form_cost_no_bias(estimator):
    model, x = discrete_vae("Bernoulli"), row()
    for bound in (ELBO(free_bits=0.3), ELBO(beta=2.0, capacity=0.4)):
        wanted = enumerated(model, x, bound, 2)
        found, error = sampled(model, x, bound, estimator, 2)
        assert z_scores(found, error, wanted).abs().max() < 4


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("prior", [CLOSED, OPEN])
def test_enumeration_is_the_sum(states, prior):
    model, x = discrete_vae(states, prior), row()
    for bound in (ELBO(), ELBO(beta=0.3)):
        p = inferred(model, x, 1, Enumerate())
        found = gradients(model, Enumerate()(bound, p).sum())
        torch.testing.assert_close(found, enumerated(model, x, bound, 1))
    found = []
    for log_p in (IWAE(), lambda p: torch.logsumexp(p.log_lik + p.log_prior[0], 0)):
        value = log_p(inferred(model, x, 1, Enumerate())).sum()
        found.append(torch.cat([value[None], gradients(model, value)]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("hard", [True, False])
def test_relaxation_is_biased_but_points_the_right_way(states, hard):
    assert not GumbelSoftmax.unbiased
    model, x = discrete_vae(states), row()
    own = encoder_part(model)
    wanted = enumerated(model, x, ELBO(), 1)
    found, error = sampled(model, x, ELBO(), GumbelSoftmax(hard=hard), 1)
    noisy = own & (error > 0)
    assert ((found - wanted) / error)[noisy].abs().max() > 10
    assert torch.cosine_similarity(found[own], wanted[own], dim=0) > 0.7


def test_relaxed_draws_are_hard_where_they_are_measured():
    model = discrete_vae("OneHot")
    x = row().expand(50, -1)
    soft, hard = GumbelSoftmax(hard=False), GumbelSoftmax()
    corners = {estimator: inferred(model, x, 4, estimator).z[0] for estimator in (soft, hard)}
    assert corners[soft].requires_grad
    assert corners[hard].requires_grad
    assert not ((corners[soft] == 0) | (corners[soft] == 1)).all()
    assert ((corners[hard] == 0) | (corners[hard] == 1)).all()
    with torch.no_grad():
        for estimator in (soft, hard):
            z = inferred(model, x, 4, estimator).z[0]
            assert ((z == 0) | (z == 1)).all()
    schedule = Variational(ELBO(), GumbelSoftmax(Linear(1.0, 0.1)))
    terms = schedule(model, x, None, None, torch.tensor(5), 10)
    assert terms.bound.isfinite().all()


def test_rebar_without_its_control_is_score_and_measures_its_hard_draws():
    model, x, rebar = discrete_vae("Bernoulli"), row().expand(6, -1), REBAR(scale=0.0)
    p = inferred(model, x, 3, rebar)
    hard = rebar.drawn(p)
    assert p.log_w.shape == (9, 6)
    assert hard.log_w.shape == (3, 6)
    assert ((hard.z[0] == 0) | (hard.z[0] == 1)).all()
    again = model.infer(x, z=(hard.z[0].detach(),))
    torch.testing.assert_close(
        gradients(model, rebar(ELBO(), p).sum()), gradients(model, Score()(ELBO(), again).sum())
    )
    torch.manual_seed(3)
    terms = Variational(ELBO(), REBAR(), 3)(model, x, None, None, torch.tensor(0), 1)
    torch.manual_seed(3)
    hard = rebar.drawn(inferred(model, x, 3, rebar))
    torch.testing.assert_close(terms.bound, ELBO()(hard))
    torch.testing.assert_close(terms.reconstruction, hard.log_lik.mean(0))


# One gradient against another.


@pytest.mark.parametrize("options", [{}, {"prior": partial(VampPrior, components=3)}])
def test_dreg_agrees_with_reparam_for_many_samples(gaussian_vae, options):
    case = gaussian_vae(**WRONG, **options)
    x = case.x[:1]
    plain, error = sampled(case.model, x, IWAE(), Reparam(), 8, 100)
    double, its_error = sampled(case.model, x, IWAE(), DReG(), 8, 100)
    both = (error**2 + its_error**2).sqrt()
    assert ((plain - double).abs() <= 4.5 * both + 1e-9).all()


def test_dreg_encoder_gradients_vary_less(gaussian_vae):
    case = gaussian_vae(columns=3, latents=2, shift=0.2, widen=0.2)
    x, own = case.x[:1], encoder_part(case.model)
    spread = {}
    for estimator in (Reparam(), DReG()):
        found = []
        for _ in range(200):
            p = case.model.infer(x, 50, gradient=estimator.gradient)
            found.append(gradients(case.model, estimator(IWAE(), p).sum()))
        spread[type(estimator)] = torch.stack(found).var(0)
    ratio = spread[DReG][own] / spread[Reparam][own]
    assert ratio.max() < 1
    assert ratio.mean() < 0.5


def spread(model, x, bound, estimator, samples, turns=300):
    """Variance of every coordinate of the gradient of one row."""
    found = [
        gradients(model, estimator(bound, inferred(model, x, samples, estimator)).sum())
        for _ in range(turns)
    ]
    return torch.stack(found).var(0)


@dataclass(frozen=True)
class NoBaseline(Score):
    """REINFORCE as it was, to compare with."""

    def __call__(self, bound, p):
        f = p.log_w.detach() if p.kl[0] is None else (p.log_lik - p.kl[0]).detach()
        return bound(p) + (f * p.log_q[0]).mean(0)


@pytest.mark.slow
def test_baselines_and_controls_take_most_of_the_noise():
    model, x = discrete_vae("Bernoulli"), row()
    own = encoder_part(model)
    plain = spread(model, x, ELBO(), NoBaseline(), 4)[own].sum()
    assert spread(model, x, ELBO(), Score(), 4)[own].sum() < 0.3 * plain
    assert spread(model, x, ELBO(), REBAR(), 4)[own].sum() < 0.3 * plain
    assert spread(model, x, ELBO(), Enumerate(), 4).max() < 1e-20
    weighted = {e: spread(model, x, IWAE(), e, 4)[own].sum() for e in (VIMCO(), ByHand())}
    assert weighted[VIMCO()] < 0.5 * weighted[ByHand()]


@dataclass(frozen=True)
class ByHand(Score):
    """The score-function gradient of IWAE, with no baseline."""

    def __call__(self, bound, p):
        return bound(p) + (bound(p).detach() * p.log_q[0]).sum(0)


def test_sticking_the_landing_has_no_noise_at_the_exact_posterior(gaussian_vae):
    case = gaussian_vae()
    x, own = case.x[:1], encoder_part(case.model)
    usual = spread(case.model, x, ELBO(), Reparam(), 1)[own].min()
    assert usual > 1e-4
    assert spread(case.model, x, ELBO(), STL(), 1)[own].max() < 1e-6 * usual


def on_the_same(case, estimator, bound, samples):
    torch.manual_seed(1)
    p = inferred(case.model, case.x, samples, estimator)
    return gradients(case.model, estimator(bound, p).sum())


@pytest.mark.parametrize("estimator", [DReG(), PIWAE(groups=3)])
def test_decoder_gradients_are_iwaes_draw_by_draw(gaussian_vae, estimator, exactly):
    case = gaussian_vae(**WRONG, prior=Learned)
    own = encoder_part(case.model)
    plain = on_the_same(case, Reparam(), IWAE(), 6)
    found = on_the_same(case, estimator, IWAE(), 6)
    exactly(found[~own], plain[~own])
    assert not torch.allclose(found[own], plain[own])


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_piwae_encoder_gradients_are_those_of_groups_draw_by_draw(gaussian_vae, groups, exactly):
    assert not PIWAE.unbiased
    case = gaussian_vae(columns=3, latents=2, shift=0.5, widen=0.4)
    own = encoder_part(case.model)
    wanted = on_the_same(case, Reparam(), MultiplyIWAE(groups=groups), 6)
    found = on_the_same(case, PIWAE(groups=groups), IWAE(), 6)
    exactly(found[own], wanted[own])


def test_piwae_keeps_groups_of_vanishing_weight(gaussian_vae):
    case = gaussian_vae(columns=3, latents=2, std=0.01, shift=0.5)
    case.model.float()
    case.x = case.x.float()
    own = encoder_part(case.model)
    torch.manual_seed(1)
    log_w = inferred(case.model, case.x, 6, Reparam()).log_w
    tops = log_w.unflatten(0, (3, 2)).logsumexp(1)
    assert (tops.amax(0) - tops.amin(0)).max() > 110  # whose share is 0 in float32
    wanted = on_the_same(case, Reparam(), MultiplyIWAE(groups=3), 6)
    found = on_the_same(case, PIWAE(groups=3), IWAE(), 6)
    torch.testing.assert_close(found[own], wanted[own], rtol=1e-4, atol=1e-4)


PAIRS = [
    (ELBO(), Reparam()),
    (IWAE(), Reparam()),
    (IWAE(), DReG()),
    (MultiplyIWAE(groups=4), DReG()),
    (ELBO(), STL()),
    (ELBO(beta=0.3), STL()),
    (IWAE(), PIWAE(groups=4)),
    (ELBO(), Score()),
    (IWAE(), VIMCO()),
    (ELBO(), VIMCO()),
]


@pytest.mark.parametrize(("bound", "estimator"), PAIRS)
def test_surrogate_has_the_value_of_the_bound(gaussian_vae, bound, estimator, exactly):
    case = gaussian_vae(**WRONG)
    p = inferred(case.model, case.x, 8, estimator)
    surrogate = estimator(bound, p)
    exactly(surrogate, bound(p))
    assert surrogate.shape == (len(case.x),)


DISCRETE = [
    (ELBO(), Score()),
    (IWAE(), VIMCO()),
    (ELBO(), REBAR()),
    (ELBO(), GumbelSoftmax()),
    (IWAE(), GumbelSoftmax(hard=False)),
    (CIWAE(), Enumerate()),
]


@pytest.mark.parametrize("pair", [*PAIRS, *DISCRETE])
def test_rows_do_not_mix(gaussian_vae, pair):
    bound, estimator = pair
    model = discrete_vae("OneHot") if pair in DISCRETE else gaussian_vae(**WRONG).model
    x = torch.randn(6, *model.shape).double().to(model.dtype).requires_grad_(True)
    p = inferred(model, x, 8, estimator)
    (gradient,) = torch.autograd.grad(estimator(bound, p)[2], x)
    assert gradient[2].abs().sum() > 0
    assert (gradient[[0, 1, 3, 4, 5]] == 0).all()


# Refusals.


@pytest.mark.parametrize(
    ("bound", "estimator", "fix"),
    [
        (ELBO(), DReG(), "IWAE"),
        (CIWAE(), DReG(), "IWAE"),
        (IWAE(), STL(), "ELBO"),
        (ELBO(free_bits=0.1), STL(), "Reparam"),
        (ELBO(capacity=Linear(0.0, 1.0)), STL(), "Reparam"),
        (ELBO(), PIWAE(), "IWAE"),
        (MultiplyIWAE(), PIWAE(), "IWAE"),
        (IWAE(), Score(), "VIMCO"),
        (IWAE(), REBAR(), "VIMCO"),
        (ELBO(beta=0.5), VIMCO(), "Score"),
        (ELBO(beta=Linear(0.0, 1.0)), VIMCO(), "Score"),
        (ELBO(free_bits=0.1), VIMCO(), "Score"),
        (MultiplyIWAE(), Enumerate(), "draws"),
        (IWAE(), Enumerate(), "CIWAE"),
        (Renyi(alpha=0.0), Enumerate(), "ELBO"),
    ],
)
def test_biased_pairs_are_refused_before_training(bound, estimator, fix, refused):
    with refused(type(bound).__name__, fix):
        Variational(bound, estimator, samples=8)
    with refused(type(bound).__name__, fix):
        estimator.check(bound)


def test_objectives_that_are_none_are_refused(refused):
    with refused("samples=0"):
        Variational(samples=0)
    with refused("samples=1.5", "whole number"):
        Variational(samples=1.5)
    with refused("bound=", "IWAE()"):
        Variational(IWAE)
    with refused("bound='IWAE'", "IWAE()"):
        Variational("IWAE")
    with refused("estimator=", "DReG()"):
        Variational(IWAE(), DReG)


@pytest.mark.parametrize("kind", [REBAR, GumbelSoftmax])
@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, "warm", None])
def test_temperatures_are_positive(kind, temperature, refused):
    with refused(kind.__name__, f"temperature={temperature!r}", "positive"):
        kind(temperature=temperature)


def test_options_out_of_range_are_refused(refused):
    for schedule in (Linear(1.0, 0.0), Linear(-1.0, 1.0), Warmup(0.5)):
        with refused("GumbelSoftmax", "temperature=", "above 0"):
            GumbelSoftmax(schedule)
    with refused("REBAR", "scale="):
        REBAR(scale=math.inf)
    with refused("PIWAE", "groups=0"):
        PIWAE(groups=0)
    with refused("samples=4", "PIWAE", "8"):
        Variational(IWAE(), PIWAE(), samples=4)
    for estimator in (Score(), VIMCO()):
        with refused("samples=1", type(estimator).__name__, "2"):
            Variational(IWAE() if isinstance(estimator, VIMCO) else ELBO(), estimator)


def test_draws_that_do_not_fit_are_refused(gaussian_vae, refused):
    continuous, discrete = gaussian_vae(**WRONG), discrete_vae("OneHot")
    for samples, better in ((7, 8), (13, 16)):
        with refused("PIWAE", "groups=8", f"samples={samples}", f"samples={better}"):
            PIWAE()(IWAE(), continuous.model.infer(continuous.x, samples))
    for bound, estimator in ((ELBO(), Score()), (IWAE(), VIMCO())):
        with refused(type(estimator).__name__, "draw="):  # rsample's path would count twice
            estimator(bound, continuous.model.infer(continuous.x, 4))
        with refused(type(estimator).__name__, "2 draws"):
            estimator(bound, inferred(discrete, row(), 1, estimator))
    for estimator in (REBAR(), GumbelSoftmax()):
        with refused(type(estimator).__name__, "draw=estimator.draw"):
            estimator(ELBO(), discrete.infer(row(), 3))
        with refused("Normal", "OneHot"):
            inferred(continuous.model, continuous.x, 3, estimator)
    with refused("temperature", "Variational"):
        inferred(discrete, row(), 3, GumbelSoftmax(Linear(1.0, 0.1)))
    p = inferred(continuous.model, continuous.x, 8, PIWAE())
    compiled = p._replace(z=(p.z[0].detach().requires_grad_(),))  # no way back to z is left
    with refused("PIWAE", "compile"):
        PIWAE()(IWAE(), compiled)
    for estimator in (Score(), REBAR()):
        coupled = discrete_vae("Bernoulli", OPEN)
        with refused(type(estimator).__name__, "capacity", "closed form"):
            estimator(ELBO(capacity=1.0), inferred(coupled, row(), 3, estimator))


@pytest.mark.parametrize(
    ("bound", "estimator"),
    [(IWAE(), DReG()), (ELBO(), STL()), (IWAE(), PIWAE()), (ELBO(), REBAR())],
)
def test_a_hierarchy_is_refused_where_one_layer_would_bias_another(bound, estimator, refused):
    z = tuple(torch.randn(8, 3, 2, requires_grad=True) for _ in range(2))
    log_lik = sum(layer.sum(-1) for layer in z)
    p = Particles(
        z, log_lik, (log_lik, log_lik), (log_lik, log_lik), (None, None), equal_shares(log_lik)
    )
    with refused(type(estimator).__name__, "2 latent layers", "estimator="):
        estimator(bound, p)


@pytest.mark.parametrize(
    ("bound", "estimator"),
    [(IWAE(), Reparam()), (IWAE(), DReG()), (ELBO(), STL()), (IWAE(), PIWAE())],
)
def test_draws_without_a_gradient_are_refused(bound, estimator, refused):
    model = vae((3,), latents=2, posterior=Bernoulli, prior=Standard)
    x = torch.ones(2, 3)
    p = inferred(model, x, 8, estimator)
    with refused(type(estimator).__name__, "reparameterised", "posterior"):
        estimator(bound, p)
    with torch.no_grad():  # a value is no gradient
        p = inferred(model, x, 8, estimator)
        assert estimator(bound, p).isfinite().all()


@pytest.mark.parametrize("pair", [*PAIRS, *DISCRETE])
@pytest.mark.parametrize("prior", [CLOSED, OPEN])
def test_every_parameter_of_a_deep_model_gets_a_gradient(pair, prior):
    bound, estimator = pair
    model = vae(
        (5,),
        latents=3,
        net=partial(MLP, hidden=(6,), activation=torch.nn.Tanh),
        prior=prior,
        **({"posterior": OneHot} if pair in DISCRETE else {}),
    )
    objective, x = Variational(bound, estimator, 8), torch.ones(4, 5)
    terms = objective(model, x, None, None, torch.tensor(0), 1)
    terms.bound.sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name
    with torch.no_grad():
        assert objective(model, x, None, None, torch.tensor(0), 1).bound.isfinite().all()
