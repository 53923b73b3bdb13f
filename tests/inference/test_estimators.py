"""Gradients against quadrature: with one latent, every expectation is an integral over noise."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from latently import vae
from latently.inference import ELBO, IWAE, DReG, Particles, Reparam
from latently.inference.particles import equal_shares
from latently.nets import MLP
from latently.probability.families import Bernoulli
from latently.probability.priors import Standard, VampPrior
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


def sampled(model, x, bound, estimator, samples, batches=100):
    """Mean of the estimator over many draws for one row, and its standard error."""
    found = []
    for _ in range(batches):
        p = model.infer(x.expand(ROWS, -1), samples, gradient=estimator.gradient)
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
    ],
)
def test_gradient_is_unbiased_against_quadrature(gaussian_vae, bound, samples, estimator):
    case = gaussian_vae(**WRONG)
    x = case.x[:1]
    wanted = quadrature(case.model, x, bound, samples)
    found, error = sampled(case.model, x, bound, estimator, samples)
    scores = z_scores(found, error, wanted)
    assert scores.abs().max() < 4


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


def test_decoder_gradients_are_the_same_draw_by_draw(gaussian_vae, exactly):
    case = gaussian_vae(**WRONG)
    found = []
    for estimator in (Reparam(), DReG()):
        torch.manual_seed(1)
        p = case.model.infer(case.x, 5, gradient=estimator.gradient)
        found.append(gradients(case.model, estimator(IWAE(), p).sum()))
    own = encoder_part(case.model)
    exactly(found[1][~own], found[0][~own])
    assert not torch.allclose(found[1][own], found[0][own])


@pytest.mark.parametrize(
    ("bound", "estimator"), [(ELBO(), Reparam()), (IWAE(), Reparam()), (IWAE(), DReG())]
)
def test_surrogate_has_the_value_of_the_bound(gaussian_vae, bound, estimator, exactly):
    case = gaussian_vae(**WRONG)
    p = case.model.infer(case.x, 7, gradient=estimator.gradient)
    surrogate = estimator(bound, p)
    exactly(surrogate, bound(p))
    assert surrogate.shape == (len(case.x),)


def test_rows_do_not_mix(gaussian_vae):
    case = gaussian_vae(**WRONG)
    x = case.x.clone().requires_grad_(True)
    for estimator in (Reparam(), DReG()):
        p = case.model.infer(x, 5, gradient=estimator.gradient)
        (gradient,) = torch.autograd.grad(estimator(IWAE(), p)[2], x)
        assert gradient[2].abs().sum() > 0
        assert (gradient[[0, 1, 3, 4, 5]] == 0).all()


def test_biased_pairs_are_refused_before_training(refused):
    with refused("DReG", "ELBO", "IWAE"):
        Variational(ELBO(), DReG())
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


def test_dreg_refuses_a_hierarchy(refused):
    z = tuple(torch.randn(4, 3, 2, requires_grad=True) for _ in range(2))
    log_lik = sum(layer.sum(-1) for layer in z)
    p = Particles(
        z, log_lik, (log_lik, log_lik), (log_lik, log_lik), (None, None), equal_shares(log_lik)
    )
    with refused("2 latent layers", "Reparam"):
        DReG()(IWAE(), p)


@pytest.mark.parametrize("estimator", [Reparam(), DReG()])
def test_draws_without_a_gradient_are_refused(estimator, refused):
    model = vae((3,), latents=2, posterior=Bernoulli, prior=Standard)
    x = torch.ones(2, 3)
    p = model.infer(x, 4, gradient=estimator.gradient)
    with refused(type(estimator).__name__, "reparameterised", "posterior"):
        estimator(IWAE(), p)
    with torch.no_grad():  # a value is no gradient
        p = model.infer(x, 4, gradient=estimator.gradient)
        assert estimator(IWAE(), p).isfinite().all()


def test_every_parameter_of_a_deep_model_gets_a_gradient():
    for prior in (None, partial(VampPrior, components=4)):
        for objective in (
            Variational(),
            Variational(IWAE(), samples=3),
            Variational(IWAE(), DReG(), 3),
        ):
            model = vae(
                (5,),
                latents=2,
                net=partial(MLP, hidden=(6,), activation=torch.nn.Tanh),
                **({} if prior is None else {"prior": prior}),
            )
            terms = objective(model, torch.ones(4, 5), None, None, torch.tensor(0), 1)
            terms.bound.sum().backward()
            for name, p in model.named_parameters():
                assert p.grad is not None, name
                assert p.grad.abs().sum() > 0, name
