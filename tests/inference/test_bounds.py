"""Bounds on a linear-Gaussian VAE whose log p(x) is known."""

import math
from itertools import pairwise

import pytest
import torch

from latently import vae
from latently.inference import (
    CIWAE,
    ELBO,
    IWAE,
    Linear,
    MultiplyIWAE,
    Particles,
    Renyi,
)
from latently.inference.particles import equal_shares
from latently.inference.schedules import resolve
from latently.probability.families import Bernoulli
from latently.probability.priors import NormalMixture, Standard
from latently.training import Variational

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


# Bounds between the ELBO and log p(x), and beyond.

WRONG = {"shift": 0.4, "widen": 0.3}


@pytest.fixture
def weights(gaussian_vae):
    """log w of 16 draws for each of 4,000 repetitions of 6 rows, and their exact log p(x)."""
    case = gaussian_vae(**WRONG)
    with torch.no_grad():
        log_w = case.model.infer(case.x, 16 * DRAWS).log_w.double()
    return log_w.view(16, -1), case.log_p.double().repeat(DRAWS)


def particles_of(log_w):
    """Particles of these log-weights and nothing else."""
    return Particles((), log_w, (), (), (), equal_shares(log_w))


def z_score(differences):
    return float(differences.mean() / differences.std() * math.sqrt(differences.numel()))


def test_the_ladder_from_the_elbo_to_log_p(weights):
    """Every step up is positive in expectation, paired on the same draws; none passes log p(x)."""
    log_w, log_p = weights
    p = particles_of(log_w)
    ladder = [
        ELBO(),
        MultiplyIWAE(groups=8),
        MultiplyIWAE(groups=4),
        MultiplyIWAE(groups=2),
        IWAE(),
    ]
    values = [bound(p) for bound in ladder]
    for low, high in zip(values, [*values[1:], log_p], strict=True):
        assert z_score(high - low) > 4


def test_iwae_grows_with_its_samples(weights):
    log_w, log_p = weights
    values = [IWAE()(particles_of(log_w[:k])) for k in (1, 2, 4, 8, 16)]
    for low, high in zip(values, [*values[1:], log_p], strict=True):
        assert z_score(high - low) > 4


def test_renyi_falls_as_alpha_grows(weights):
    log_w, log_p = weights
    p = particles_of(log_w)
    orders = (-2.0, -0.5, 0.0, 0.3, 0.7, 1.0, 1.5, 4.0)
    values = [Renyi(alpha)(p) for alpha in orders]
    for high, low in pairwise(values):
        assert (high >= low - 1e-12).all()  # power means: no exception
        assert z_score(high - low) > 4
    for value in values[2:]:
        assert z_score(log_p - value) > 4
    below = Renyi(-2.0)(particles_of(log_w))
    assert z_score(below - log_p) > 4  # no lower bound


def test_renyi_ends_are_iwae_and_the_mean(weights, exactly):
    p = particles_of(weights[0][:, :50])
    exactly(Renyi(0.0)(p), IWAE()(p))
    exactly(Renyi(1.0)(p), ELBO()(p))
    exactly(Renyi(1e4)(p), p.log_w.amin(0), 1e-3)
    exactly(Renyi(-1e4)(p), p.log_w.amax(0), 1e-3)


@pytest.mark.parametrize("narrow", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1e-12, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, -1e-6])
def test_renyi_is_precise_where_alpha_is_close_to_one(narrow, gap):
    """To first order it is the mean of log w plus half their variance times 1 - alpha."""
    log_w = 3 * torch.randn(7, 200, dtype=torch.float64)
    wide = (gap * log_w).exp().mean(0).log() / gap
    taylor = log_w.mean(0) + gap / 2 * log_w.var(0, correction=0)
    wanted = taylor if abs(gap) < 1e-5 else wide
    found = Renyi(1 - gap)(particles_of(log_w.to(narrow)))
    tolerance = 1e-5 if narrow == torch.float32 else 1e-8
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


def test_renyi_passes_through_one_on_a_schedule():
    p, bound = random_particles(), Renyi(alpha=Linear(0.0, 2.0))
    with pytest.raises(ValueError, match="scheduled alpha needs a step"):
        bound(p)
    at = {step: resolve(bound, torch.tensor(step), 100)(p) for step in (0, 25, 50, 100)}
    torch.testing.assert_close(at[0], IWAE()(p))
    torch.testing.assert_close(at[25], Renyi(0.5)(p))
    torch.testing.assert_close(at[50], ELBO()(p), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(at[100], Renyi(2.0)(p))


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.5, 1.0])
def test_ciwae_is_the_mixture(gaussian_vae, exactly, beta):
    case = gaussian_vae(**WRONG)
    p = case.model.infer(case.x, 8)
    assert p.kl[0] is not None
    exactly(CIWAE(beta)(p), beta * ELBO()(p) + (1 - beta) * IWAE()(p), 1e-12)
    halfway = resolve(CIWAE(Linear(0.0, 2 * beta)), torch.tensor(5), 10) if beta < 0.6 else None
    if halfway is not None:
        exactly(halfway(p), CIWAE(beta)(p), 1e-6)


def test_groups_of_one_and_of_all():
    p = random_particles(samples=12)
    torch.testing.assert_close(MultiplyIWAE(groups=1)(p), IWAE()(p))
    torch.testing.assert_close(MultiplyIWAE(groups=12)(p), p.log_w.mean(0))
    parts = [IWAE()(p.only(slice(start, start + 4))) for start in (0, 4, 8)]
    torch.testing.assert_close(MultiplyIWAE(groups=3)(p), torch.stack(parts).mean(0))


def test_groups_that_cannot_share_the_samples_are_refused_before_any_is_drawn(refused):
    with refused("samples=12", "groups=8", "samples=16"):
        MultiplyIWAE(groups=8)(random_particles(samples=12))
    with refused("samples=5", "groups=8", "samples=8"):
        Variational(MultiplyIWAE(groups=8), samples=5)
    with refused("samples=1 ", "groups=8"):
        Variational(MultiplyIWAE())
    assert Variational(MultiplyIWAE(groups=8), samples=16).bound.groups == 8


# Discrete latents whose states are enumerated: shares are q(z|x), and sums over them are exact.


@pytest.fixture
def states(dtype):
    model = vae((4,), latents=3, posterior=Bernoulli, prior=Standard).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    bits = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    z = bits.to(dtype)[:, None].expand(8, 5, 3)
    x = torch.rand(5, 4).lt(0.5).to(dtype)
    return model.infer(x, 8, z=(z,), gradient="exact")


@pytest.mark.parametrize("bound", [ELBO(), IWAE(), Renyi(0.3), Renyi(1.0), Renyi(3.0), CIWAE()])
def test_enumerated_states_give_the_exact_expectation(states, exactly, bound):
    q, log_w = states.log_pi.exp(), states.log_w
    exactly(q.sum(0), torch.ones(5), 1e-6)
    mean, log_p = (q * log_w).sum(0), (q * log_w.exp()).sum(0).log()
    wanted = {
        "ELBO": mean,
        "IWAE": log_p,
        "CIWAE": 0.5 * mean + 0.5 * log_p,
    }.get(type(bound).__name__)
    if isinstance(bound, Renyi):
        power = 1 - bound.alpha
        wanted = (q * log_w.exp() ** power).sum(0).log() / power if power else mean
    exactly(bound(states), wanted, 1e-6)


def test_groups_of_states_are_refused(states, refused):
    with refused("MultiplyIWAE", "enumerated"):
        MultiplyIWAE(groups=4)(states)
    unlike = states._replace(log_pi=states.log_pi.detach())
    with refused("MultiplyIWAE", "enumerated"), torch.no_grad():
        MultiplyIWAE(groups=4)(unlike)
    with refused("MultiplyIWAE", "enumerated"):
        MultiplyIWAE(groups=4).check(8, states=True)


# Free bits and capacity.


def with_kl(kl, samples=4):
    """Particles of one layer whose cells have the given KL, (B, D), and no likelihood."""
    cells = kl.expand(samples, *kl.shape)
    zeros = torch.zeros(samples, len(kl), dtype=kl.dtype)
    return Particles(
        z=(torch.zeros_like(cells),),
        log_lik=zeros,
        log_prior=(zeros,),
        log_q=(zeros,),
        kl=(cells.sum(-1),),
        log_pi=equal_shares(zeros),
        kl_cells=(cells,),
    )


def test_free_bits_floor_the_mean_of_a_cell_and_stop_its_gradient():
    kl = torch.tensor([[0.1, 0.6, 2.0], [0.3, 0.2, 1.0]], dtype=torch.float64, requires_grad=True)
    value = ELBO(beta=3.0, free_bits=0.3)(with_kl(kl)).mean()
    torch.testing.assert_close(value, torch.tensor(-3 * (0.3 + 0.4 + 1.5)).double())
    (gradient,) = torch.autograd.grad(value, kl)
    (plain,) = torch.autograd.grad(ELBO(beta=3.0)(with_kl(kl)).mean(), kl)
    assert (gradient[:, 0] == 0).all()
    torch.testing.assert_close(gradient[:, 1:], plain[:, 1:], rtol=1e-12, atol=0)
    assert (plain != 0).all()


def test_free_bits_stop_the_kl_of_a_model_and_nothing_else(gaussian_vae, exactly):
    """The threshold lies between the KLs of the two latents."""
    case = gaussian_vae(**WRONG)
    layer = case.model.encoder.net.layers[0]
    p = case.model.infer(case.x, 3)
    kl = p.kl_cells[0][0].mean(0).detach()
    low, high = kl.argmin(), kl.argmax()
    assert low != high

    def slopes(value):
        found = torch.autograd.grad(value.mean(), (layer.weight, layer.bias), retain_graph=True)
        return torch.cat([found[0], found[1][:, None]], 1).unflatten(0, (2, 2))

    lik = slopes(p.log_lik.mean(0))
    floored = slopes(ELBO(free_bits=float(kl.mean()))(p)) - lik
    plain = slopes(ELBO()(p)) - lik
    exactly(floored[:, low], torch.zeros_like(floored[:, low]), 1e-12)
    exactly(floored[:, high], plain[:, high], 1e-10)
    assert plain[:, low].abs().sum() > 1e-3


def test_no_free_bits_are_the_elbo_and_many_a_constant(gaussian_vae, exactly):
    case = gaussian_vae(**WRONG)
    p = case.model.infer(case.x, 5)
    exactly(ELBO(free_bits=1e-9)(p), ELBO()(p))
    exactly(ELBO(free_bits=100.0)(p), p.log_lik.mean(0) - 200)
    assert ELBO(free_bits=0.5)(p).mean() <= ELBO()(p).mean() + 1e-12
    warm = resolve(ELBO(free_bits=Linear(0.0, 1.0)), torch.tensor(5), 10)
    exactly(warm(p), ELBO(free_bits=0.5)(p))


def test_free_bits_need_the_kl_of_the_cells(refused):
    mixed = vae((3,), latents=2, prior=NormalMixture)
    p = mixed.infer(torch.ones(4, 3), 2)
    with refused("free_bits", "layer 0", "StandardNormal"):
        ELBO(free_bits=0.1)(p)
    with refused("free_bits", "layer 0"):
        ELBO(free_bits=0.1)(random_particles())


def test_capacity_is_what_the_mean_kl_is_held_to():
    kl = torch.tensor([[0.5, 1.0], [3.0, 0.5]], dtype=torch.float64, requires_grad=True)
    p = with_kl(kl)  # rows of 1.5 and 3.5 nats, 2.5 on average
    for capacity, sign in ((2.0, -1), (4.0, 1), (0.0, -1)):
        rows = ELBO(beta=10.0, capacity=capacity)(p)
        torch.testing.assert_close(rows.mean(), torch.tensor(-10 * abs(2.5 - capacity)).double())
        (gradient,) = torch.autograd.grad(rows.mean(), kl, retain_graph=True)
        torch.testing.assert_close(gradient, torch.full_like(gradient, sign * 10 / 2))
    assert ELBO(beta=10.0, capacity=2.5)(p).mean() == 0
    torch.testing.assert_close(ELBO(capacity=0.0)(p), ELBO()(p))
    warm = resolve(ELBO(beta=10.0, capacity=Linear(0.0, 8.0)), torch.tensor(5), 10)
    torch.testing.assert_close(warm(p), ELBO(beta=10.0, capacity=4.0)(p))


def test_capacity_takes_a_kl_of_draws():
    p = random_particles()
    excess = (p.log_q[0] + p.log_q[1] - p.log_prior[0] - p.log_prior[1]).mean() - 1
    found = ELBO(beta=2.0, capacity=1.0)(p).mean()
    torch.testing.assert_close(found, p.log_lik.mean() - 2 * excess.abs())


def test_replaced_weights_leave_no_room_for_terms(refused):
    p, other = random_particles(), torch.randn(5, 3).double()
    for bound, name in (
        (ELBO(beta=0.5), "beta=0.5"),
        (ELBO(free_bits=0.1), "free_bits=0.1"),
        (ELBO(capacity=3.0), "capacity=3.0"),
    ):
        with refused("ELBO", name, "log_w"):
            bound(p, other)


def test_only_terms_of_a_batch_couple_its_rows():
    assert ELBO(free_bits=0.1).couples
    assert ELBO(capacity=0.0).couples
    assert ELBO(free_bits=Linear(0.0, 1.0)).couples
    for bound in (ELBO(), ELBO(beta=4.0), IWAE(), Renyi(), CIWAE(), MultiplyIWAE()):
        assert not bound.couples


# Options and numerics.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ELBO(free_bits=-0.1), ("ELBO", "free_bits=-0.1", "at least 0")),
        (lambda: ELBO(free_bits="x"), ("ELBO", "free_bits='x'")),
        (lambda: ELBO(capacity=math.inf), ("ELBO", "capacity=inf")),
        (lambda: ELBO(free_bits=0.1, capacity=3.0), ("free_bits=0.1", "capacity=3.0", "one of")),
        (lambda: Renyi(math.nan), ("Renyi", "alpha=nan", "finite")),
        (lambda: Renyi(True), ("Renyi", "alpha=True")),
        (lambda: CIWAE(1.1), ("CIWAE", "beta=1.1", "from 0 to 1")),
        (lambda: CIWAE(-0.1), ("CIWAE", "beta=-0.1")),
        (lambda: MultiplyIWAE(0), ("MultiplyIWAE", "groups=0", "at least 1")),
        (lambda: MultiplyIWAE(2.5), ("MultiplyIWAE", "groups=2.5", "whole")),
    ],
)
def test_bad_options_of_every_bound_are_refused(make, words, refused):
    with refused(*words):
        make()


@pytest.mark.parametrize(
    "bound",
    [
        ELBO(),
        IWAE(),
        *(Renyi(alpha) for alpha in (-3.0, 0.0, 0.5, 0.999999, 1.0, 1.000001, 5.0)),
        CIWAE(),
        MultiplyIWAE(groups=1),
        MultiplyIWAE(groups=3),
        MultiplyIWAE(groups=6),
    ],
    ids=str,
)
def test_extreme_log_weights_leave_value_and_gradient_finite_in_float32(bound):
    for scales in ((1e4, -1e4), (1e4, 1e4), (-1e4, -1e4), (0.0, 1e4), (1e4, 1e4 + 1)):
        log_w = torch.tensor(scales).repeat(3)[:, None] + torch.randn(6, 4)
        log_w.requires_grad_(True)
        value = bound(particles_of(log_w))
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        assert (value >= log_w.amin(0) - 1).all()
        assert (value <= log_w.amax(0) + 1).all()
        (gradient,) = torch.autograd.grad(value.sum(), log_w)
        assert gradient.isfinite().all()
        # every bound moves one to one with all its log-weights
        torch.testing.assert_close(gradient.sum(0), torch.ones(4), rtol=1e-3, atol=1e-3)
