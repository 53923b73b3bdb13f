"""Bounds on a linear-Gaussian VAE whose log p(x) is known."""

import math

import pytest
import torch

from latently.inference import ELBO, IWAE, Linear, Particles
from latently.inference.particles import equal_shares
from latently.inference.schedules import resolve

DRAWS = 4000


def test_exact_posterior_weighs_every_draw_exactly(gaussian_vae, exactly):
    case = gaussian_vae()
    p = case.model.infer(case.x, 50)
    exactly(p.log_w, case.log_p.expand(50, -1), 1e-9)
    exactly(IWAE()(p), case.log_p, 1e-9)


@pytest.mark.parametrize("wrong", [{"shift": 0.4}, {"widen": 0.3}, {"shift": -0.3, "widen": -0.4}])
def test_bounds_are_ordered_and_below_the_truth(gaussian_vae, wrong):
    case = gaussian_vae(**wrong)
    with torch.no_grad():
        log_w = case.model.infer(case.x, 16 * DRAWS).log_w.double()
    log_w = log_w.view(16, DRAWS, -1)
    values = {
        k: (log_w.view(16 // k, k, DRAWS, -1).logsumexp(1) - math.log(k)).mean(0)
        for k in (1, 2, 4, 8, 16)
    }
    for k in (1, 2, 4, 8):  # paired on the same draws, the order is Jensen's and has no exception
        assert (values[2 * k] >= values[k] - 1e-12).all()
        assert (values[2 * k].mean(0) > values[k].mean(0)).all()
    for k in (1, 2, 4, 8, 16):
        error = values[k].std(0) / math.sqrt(DRAWS)
        assert (values[k].mean(0) < case.log_p.double() + 4 * error).all()
    error = values[1].std(0) / math.sqrt(DRAWS)
    assert ((values[1].mean(0) - (case.log_p - case.gap)).abs() < 5 * error).all()
    assert (values[16].mean(0) - case.log_p).abs().max() < (
        values[1].mean(0) - case.log_p
    ).abs().min()


def test_elbo_falls_short_by_the_kl_to_the_posterior(gaussian_vae):
    case = gaussian_vae(shift=0.3, widen=0.2)
    with torch.no_grad():
        p = case.model.infer(case.x, 20_000)
    error = p.log_lik.std(0) / math.sqrt(20_000)
    assert p.kl[0] is not None
    assert ((ELBO()(p) - (case.log_p - case.gap)).abs() < 5 * error).all()


def test_importance_weights_estimate_p_of_x_without_bias(gaussian_vae):
    case = gaussian_vae(shift=0.2, widen=0.2)
    with torch.no_grad():
        ratio = (case.model.infer(case.x, 40_000).log_w - case.log_p).exp()
    assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / 200).all()


def random_particles(samples=5, rows=3, layers=2):
    def terms():
        return torch.randn(samples, rows, dtype=torch.float64)

    log_lik = terms()
    return Particles(
        z=tuple(torch.randn(samples, rows, 2) for _ in range(layers)),
        log_lik=log_lik,
        log_prior=tuple(terms() for _ in range(layers)),
        log_q=tuple(terms() for _ in range(layers)),
        kl=(None,) * layers,
        log_pi=equal_shares(log_lik),
    )


def test_values_are_what_a_loop_over_rows_and_samples_gives():
    p = random_particles()
    for b in range(3):
        log_w = [
            float(
                p.log_lik[k, b] + sum(t[k, b] for t in p.log_prior) - sum(t[k, b] for t in p.log_q)
            )
            for k in range(5)
        ]
        assert float(ELBO()(p)[b]) == pytest.approx(sum(log_w) / 5)
        assert float(IWAE()(p)[b]) == pytest.approx(math.log(sum(map(math.exp, log_w)) / 5))
    assert IWAE()(p).shape == ELBO()(p).shape == (3,)


def test_one_sample_makes_them_equal():
    p = random_particles(samples=1)
    torch.testing.assert_close(ELBO()(p), IWAE()(p))


def test_better_samples_weigh_more():
    p = random_particles()
    better = p._replace(
        log_lik=p.log_lik.index_add(0, torch.tensor([2]), torch.ones(1, 3).double())
    )
    assert (IWAE()(better) > IWAE()(p)).all()
    assert (ELBO()(better) > ELBO()(p)).all()


def test_shares_weigh_the_particles():
    p = random_particles()
    shares = torch.softmax(torch.randn(5, 3).double(), 0)
    p = p._replace(log_pi=shares.log())
    torch.testing.assert_close(ELBO()(p), (shares * p.log_w).sum(0))
    torch.testing.assert_close(IWAE()(p), (shares * p.log_w.exp()).sum(0).log())


def test_replaced_weights_are_used():
    p, other = random_particles(), torch.randn(5, 3).double()
    torch.testing.assert_close(ELBO()(p, other), other.mean(0))
    torch.testing.assert_close(IWAE()(p, other), other.logsumexp(0) - math.log(5))


def test_beta_weighs_the_kl_alone():
    p = random_particles()
    torch.testing.assert_close(ELBO(beta=0.0)(p), p.log_lik.mean(0))
    torch.testing.assert_close(ELBO(beta=2.0)(p), (p.log_lik - 2 * p.divergence).mean(0))
    known = p._replace(kl=(torch.ones(5, 3).double(), None))
    torch.testing.assert_close(known.divergence, 1 + p.log_q[1] - p.log_prior[1])


def test_scheduled_beta_needs_a_step(refused):
    p, bound = random_particles(), ELBO(beta=Linear(0.0, 1.0))
    with refused("Variational"):
        bound(p)
    halfway = resolve(bound, torch.tensor(50), 100)
    torch.testing.assert_close(halfway(p), ELBO(beta=0.5)(p))


def test_bad_options_are_refused(refused):
    for beta in (-0.1, math.nan):
        with refused("beta"):
            ELBO(beta=beta)


def test_extreme_weights_stay_finite():
    p = random_particles()
    for scale in (1e4, -1e4):
        there = p._replace(log_lik=p.log_lik + scale)
        torch.testing.assert_close(IWAE()(there), IWAE()(p) + scale)
