"""Annealed importance sampling: exact where the truth is known, warned of where it is off."""

import json
import math
from functools import partial

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.distributions.constraints import real

from latently import (
    AIS,
    PPCA,
    Data,
    Dequantized,
    Exact,
    FactorAnalysis,
    ImportanceSampling,
    Model,
    bracket,
    evaluate,
    vae,
)
from latently.inference._annealing import Noise, arrivals, pilot
from latently.inference._hmc import Tuning, evaluated, transition
from latently.inference.methods.ais import blocks, mean_weight
from latently.inference.particles import Particles, equal_shares
from latently.inference.rows import Rows
from latently.models import Transformed
from latently.nets import MLP
from latently.probability.dequantise import UniformNoise, VariationalNoise
from latently.probability.families import (
    Bernoulli,
    Beta,
    Dirichlet,
    Gamma,
    LogNormal,
    OneHot,
)
from latently.probability.families import Normal as NormalFamily
from latently.probability.priors import Learned, Standard
from latently.probability.transforms import Log

QUICK = AIS(steps=100)


class Given(Model):
    """z ~ N(0, I), x given z as told; q is the prior. Several layers: each around the last."""

    density = "bound"
    discrete = False

    def __init__(self, likelihood, columns, latents, layers=1):
        super().__init__()
        self.shape, self.told, self.sizes = (columns,), likelihood, (latents,) * layers
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def infer(self, x, samples=1, mask=None, context=None, *, z=None, **how):
        z = self.latents(samples * len(x)) if z is None else z
        z = tuple(layer.reshape(-1, len(x), layer.shape[-1]) for layer in z)
        means = [torch.zeros_like(z[0]), *z[:-1]]
        log_prior = tuple(
            Independent(Normal(m, 1.0), 1).log_prob(layer)
            for m, layer in zip(means, z, strict=True)
        )
        log_lik = self.likelihood(z).log_prob(x)
        nothing = (None,) * len(z)
        return Particles(z, log_lik, log_prior, log_prior, nothing, equal_shares(log_lik))

    def latents(self, n, context=None, given=()):
        steps = [torch.randn(1, n, size, dtype=torch.float64) for size in self.sizes]
        return tuple(torch.stack(steps).cumsum(0))

    def likelihood(self, z, context=None):
        return self.told(z[-1])

    def misfit(self, x, mask=None):
        return ~torch.isfinite(x), "finite numbers"

    def latent_constraints(self):
        return (real,) * len(self.sizes)


def linear(latents, kind=FactorAnalysis, **options):
    """A linear-Gaussian model with random weights, twice as many columns as latents."""
    torch.manual_seed(latents)
    model = kind((2 * latents,), latents, **options)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
        model.log_variance.mul_(0.3).sub_(0.7)
    return model


def hierarchy(latents):
    """Two layers of latents // 2 each, and the exact log p(x)."""
    torch.manual_seed(latents)
    half = latents // 2
    w = torch.randn(2 * half, half, dtype=torch.float64)
    model = Given(lambda z: Independent(Normal(z @ w.T, 0.7), 1), 2 * half, half, layers=2)
    covariance = 2 * w @ w.T + 0.49 * torch.eye(2 * half, dtype=torch.float64)
    return model, MultivariateNormal(torch.zeros(2 * half).double(), covariance).log_prob


def bits_model(**options):
    torch.manual_seed(0)
    return vae((4,), latents=2, net=partial(MLP, hidden=(5,)), **options).double()


def close(scores, truth, errors=4.0):
    """Whether the mean score is within so many Monte Carlo errors of the truth."""
    error = float(scores.mc_variance.sum().sqrt() / len(scores.values))
    return abs(float((scores.values - truth.detach()).mean())) <= errors * error + 1e-9


# The truth, where it is known.

SIZES = [8, pytest.param(64, marks=pytest.mark.slow)]


@pytest.mark.parametrize("latents", SIZES)
@pytest.mark.parametrize("kind", [FactorAnalysis, pytest.param(PPCA, marks=pytest.mark.slow)])
def test_linear_models_at_the_default_steps(kind, latents):
    if kind is PPCA:
        torch.manual_seed(latents)
        model = PPCA((2 * latents,), latents)
        with torch.no_grad():
            model.weight.normal_()
    else:
        model = linear(latents)
    x = model.sample(2, seed=1)
    found = AIS()(model, x)
    assert close(found, Exact()(model, x).values)
    assert found.values.dtype == found.mc_variance.dtype == torch.float64
    assert (found.ess <= 16).all()


@pytest.mark.slow
@pytest.mark.parametrize("latents", SIZES)
def test_two_layers_at_the_default_steps(latents):
    model, log_p = hierarchy(latents)
    x = model.sample(2, seed=1)
    assert close(AIS()(model, x), log_p(x))


def test_from_an_exact_posterior_every_weight_is_the_evidence(exactly):
    model = linear(4)
    x = model.sample(3, seed=1)
    found = AIS(steps=5, start="posterior")(model, x)
    exactly(found.values, Exact()(model, x).values)
    exactly(found.ess, torch.full((3,), 16.0))
    assert found.notes == ()


def test_from_a_spoiled_posterior(gaussian_vae):
    case = gaussian_vae(shift=0.5, widen=0.3)
    model, x, truth = case.model.cpu().double(), case.x.cpu().double(), case.log_p.cpu()
    found = AIS(steps=100, start="posterior")(model, x)
    assert close(found, truth)
    assert close(AIS(steps=300)(model, x), truth)
    assert found.mc_variance.mean() < AIS(steps=100)(model, x).mc_variance.mean()


@pytest.mark.slow
@pytest.mark.parametrize("latents", [4, 16])
@pytest.mark.parametrize("steps", [2, 5, 20, 60])
def test_what_is_off_by_more_than_its_error_bar_is_warned_of(latents, steps):
    model = linear(latents)
    x = model.sample(20, seed=1)
    found = AIS(steps=steps)(model, x)
    assert close(found, Exact()(model, x).values, errors=2) or found.notes
    if steps == 2:
        assert any("too low" in note and "steps, now 2" in note for note in found.notes)


def test_enough_steps_are_not_warned_of():
    model = linear(3)
    assert AIS(steps=500)(model, model.sample(4, seed=1)).notes == ()


def test_moves_that_are_seldom_accepted_are_warned_of():
    scores = AIS()._scores(torch.zeros(16, 3).double(), torch.tensor([0.1, 0.8, 0.3]).double())
    assert scores.notes == (
        "AIS: fewer than 40% of the moves were accepted in 2 of 3 rows; raise leapfrog, now 2, "
        "or steps, now 1000",
    )


def curve(z):
    return Independent(Normal(torch.sin(2 * z) + 0.3 * z.square(), 0.3), 1)


def log_integral(log_joint):
    """The log of the integral over a line of |z| < 4, by the trapezoid rule."""
    z = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    return torch.trapezoid(log_joint(z).exp(), z).log()


def test_weights_are_unbiased_however_few_the_steps():
    """`E w = p(x)` with 3 steps as with 30, on a posterior of several modes."""
    model, x = Given(curve, 1, 1), torch.tensor([[0.9]]).double()
    log_p = log_integral(lambda z: curve(z[:, None]).log_prob(x) + Normal(0.0, 1.0).log_prob(z))
    for steps in (3, 30):
        found = AIS(steps=steps, chains=4000)(model, x)
        error = float(found.mc_variance.sqrt())
        assert error < 0.1
        assert abs(float(found.values.exp() / log_p.exp()) - 1) < 4 * error


def test_more_steps_bring_the_bound_up():
    model = linear(8)
    x = model.sample(10, seed=1)
    means = [float(AIS(steps=t)(model, x).values.mean()) for t in (3, 20, 200)]
    assert means[0] < means[1] - 1 < means[2]
    assert means[2] < float(Exact()(model, x).values.mean()) + 0.5


# Constrained latents, holes, contexts, wrappers.


@pytest.mark.parametrize(
    "posterior", [Beta, *(pytest.param(f, marks=pytest.mark.slow) for f in (Gamma, LogNormal))]
)
def test_constrained_latents_against_quadrature(posterior):
    torch.manual_seed(3)
    model = vae(
        (3,), latents=1, posterior=posterior, prior=Standard, net=partial(MLP, hidden=(4,))
    ).double()
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.normal_()
    x = torch.tensor([[0.0, 1, 1], [1, 0, 1]]).double()
    u = torch.linspace(-16, 16, 40001, dtype=torch.float64)
    if posterior is Beta:
        z, slope = torch.sigmoid(u), torch.sigmoid(u) * torch.sigmoid(-u)
    else:
        z, slope = u.exp(), u.exp()
    p = model.infer(x, z=(z[:, None, None].expand(-1, 2, 1),))
    joint = (p.log_lik + p.log_prior[0]).exp() * slope[:, None]
    truth = torch.trapezoid(joint, u, dim=0).log()
    assert close(AIS(steps=100, chains=200)(model, x), truth)
    assert close(AIS(steps=100, chains=200, start="posterior")(model, x), truth)


def test_latents_on_a_simplex_against_quadrature():
    torch.manual_seed(3)
    model = vae(
        (3,), latents=2, posterior=Dirichlet, prior=Standard, net=partial(MLP, hidden=(4,))
    ).double()
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.normal_()
    x = torch.tensor([[0.0, 1, 1]]).double()
    first = (torch.arange(20_000).double() + 0.5) / 20_000
    z = torch.stack([first, 1 - first], -1)[:, None]
    p = model.infer(x, z=(z,))
    truth = (p.log_lik + p.log_prior[0]).exp().mean().log()
    assert close(AIS(steps=100, chains=200)(model, x), truth)


def test_holes_and_contexts():
    model = linear(3, contexts=2)
    c = torch.randn(4, 2).double()
    x = model.sample(4, c, seed=1)
    mask = torch.rand(4, 6) < 0.6
    truth = Exact()(model, x, mask, c).values
    found = AIS(steps=300)(model, torch.where(mask, x, math.nan).nan_to_num(), mask, c)
    assert close(found, truth)
    assert not close(AIS(steps=300)(model, x, None, c), truth)


@pytest.mark.parametrize("noise", [UniformNoise(), VariationalNoise(steps=2, hidden=4)], ids=str)
def test_noise_of_a_dequantised_model_is_annealed_with_the_latents(noise):
    model = Dequantized(FactorAnalysis((1,), 1), levels=4, noise=noise).eval()
    with torch.no_grad():
        model.model.loc.fill_(1.7)
        model.model.weight.fill_(0.8)
    x = torch.arange(4.0).view(-1, 1)
    normal = Normal(1.7, math.sqrt(1 + 0.8**2))
    truth = (normal.cdf(x + 1) - normal.cdf(x)).log()[:, 0].double()
    assert close(AIS(steps=100, chains=64)(model, x), truth)


def test_transformed_models():
    model = Transformed(linear(2), Log())
    x = model.sample(3, seed=1)
    assert close(AIS(steps=300)(model, x), Exact()(model, x).values)


# What evaluation says of it.


def test_evidence_of_it_is_a_bound_even_of_exact_models():
    model = linear(2)
    data = Data.from_array(model.sample(3, seed=1))
    found = evaluate(model, data, AIS(steps=3))
    assert (found.kind, found.method) == ("lower_bound", "AIS T=3, 16 chains")
    assert found.samples == 16
    assert found.mc_stderr > 0
    assert any(w.startswith("AIS: the weights") for w in found.warnings)
    assert "ESS" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_many_chains_have_a_k_hat_and_one_no_error_bar():
    model, x = linear(2), linear(2).sample(2, seed=1)
    assert AIS(steps=2, chains=30)(model, x).k_hat.shape == (2,)
    one = AIS(steps=2, chains=1)(model, x)
    assert one.k_hat is None
    assert one.mc_variance.isnan().all()


def test_a_row_has_the_same_draws_in_any_company():
    model = linear(3)
    x = model.sample(6, seed=1)
    whole = QUICK(model, x, seed=2)
    part = QUICK(model, x[[4, 1]], seed=2)
    for name in ("values", "mc_variance", "ess"):
        torch.testing.assert_close(
            getattr(part, name), getattr(whole, name)[[4, 1]], rtol=0, atol=1e-6
        )
    assert (QUICK(model, x, seed=3).values != whole.values).all()


def test_blocks_are_bounded_and_cover_every_row(monkeypatch):
    model = linear(3)
    x = model.sample(7, seed=1)
    whole = QUICK(model, x)
    monkeypatch.setattr("latently.inference.methods.ais.BLOCK_VALUES", 3 * 16 * 6)
    assert [len(b.keys) for b in blocks(QUICK, model, Rows(x), 0)] == [3, 3, 1]
    torch.testing.assert_close(QUICK(model, x).values, whole.values, rtol=0, atol=1e-6)


def test_it_leaves_the_model_and_the_generators_as_they_were(untouched):
    model = bits_model()
    model.train()
    model.prior.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    ticks = []
    with untouched():
        AIS(steps=3)(model, torch.ones(5, 4).double(), progress=lambda *t: ticks.append(t))
    assert model.training
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert all(p.grad is None for p in model.parameters())
    assert ticks == sorted(ticks)
    assert ticks[-1] == (5, 5)


@pytest.mark.slow
def test_float32_agrees_with_float64():
    model = bits_model()
    x = torch.tensor([[0.0, 1, 1, 0]])
    fine = AIS(steps=200)(model, x.double())
    rough = AIS(steps=200)(model.float(), x)
    error = float((fine.mc_variance + rough.mc_variance).sqrt())
    assert abs(float(rough.values - fine.values)) < 4 * error + 1e-3


def test_no_rows_have_no_scores():
    assert AIS(steps=2)(linear(2), torch.empty(0, 4).double()).values.shape == (0,)


# Refusals.


@pytest.mark.parametrize("option", ["steps", "chains", "leapfrog"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_bad_counts_are_refused(option, value, refused):
    with refused("AIS", f"{option}={value!r}", "whole number"):
        AIS(**{option: value})


def test_what_cannot_be_annealed_is_refused(refused):
    x = torch.ones(2, 4).double()
    with refused("start='encoder'", "prior"):
        AIS(start="encoder")
    for family in (Bernoulli, OneHot):
        with refused("counted", "Enumeration", "ImportanceSampling"):
            AIS()(bits_model(posterior=family, prior=Learned), x)
    noisy = Dequantized(linear(2), levels=2)
    with refused("Dequantized", "noise", "start='prior'"):
        AIS(steps=2, start="posterior")(noisy, x)
    with refused("bracket", "Dequantized", "noise"):
        bracket(noisy, 2, AIS(steps=2))
    silent = Given(curve, 1, 1)
    silent.latent_constraints = lambda: ()
    with refused("Given", "latent_constraints", "ImportanceSampling"):
        AIS(steps=2)(silent, x[:, :1])
    none = Given(curve, 1, 1)
    none.density = None
    with refused("Given", "no density"):
        AIS(steps=2)(none, x[:, :1])
    with refused("rows=0"):
        bracket(linear(2), 0)
    with refused("context"):
        bracket(linear(2), 2, context=torch.zeros(1, 3))


# Between two bounds.


@pytest.mark.slow
def test_a_bracket_holds_the_exact_value():
    model = linear(6)
    found = bracket(model, 12, AIS(steps=15), seed=4)
    assert found.lower.kind == "lower_bound"
    assert found.upper.kind == found.gap.kind == "upper_bound"
    assert found.gap.value == pytest.approx(found.upper.value - found.lower.value)
    rows = drawn_rows(model, 12, seed=4)
    truth = Exact()(model, rows).values
    assert found.lower.value < float(truth.mean()) + 4 * found.lower.mc_stderr
    assert found.upper.value > float(truth.mean()) - 4 * found.upper.mc_stderr
    assert found.gap.value > 1
    tight = bracket(model, 12, AIS(steps=300), seed=4)
    assert tight.gap.value < found.gap.value / 3
    assert (tight.lowers - truth).abs().max() < 2
    assert (tight.uppers - truth).abs().max() < 2


def drawn_rows(model, n, seed):
    """The rows that `bracket` draws."""
    seen = []
    infer = model.infer
    model.infer = lambda x, *rest, **how: seen.append(x) or infer(x, *rest, **how)
    bracket(model, n, AIS(steps=1, chains=1), seed=seed)
    del model.infer
    return next(x for x in seen if len(x) == n)


def test_a_bracket_says_what_it_is():
    found = bracket(linear(2), 3, AIS(steps=2))
    assert str(found).count("\n") == 2
    assert "log p(x) >=" in str(found)
    assert "log p(x) <=" in str(found)
    assert "bias of AIS <=" in str(found)
    fields = found.to_dict()
    assert list(fields) == ["lower", "upper", "gap", "n", "notes"]
    assert fields["n"] == 3
    assert fields["notes"]
    json.dumps(fields, allow_nan=False)


def test_a_bracket_of_one_chain_has_no_error_bar():
    """AIS was said to be off by "at most nan nats"."""
    (found,) = bracket(linear(2), 3, AIS(steps=2, chains=1)).findings
    assert found.level == "note"
    assert "nan" not in found.text
    assert "chains=2" in found.text


@pytest.mark.slow
def test_a_bracket_given_a_context(untouched):
    model = linear(2, contexts=3)
    ticks = []
    with untouched():
        one = bracket(
            model, 3, QUICK, context=torch.ones(1, 3).double(), progress=lambda *t: ticks.append(t)
        )
    each = bracket(model, 3, QUICK, context=torch.ones(3, 3).double())
    assert one.lower == each.lower
    assert ticks == sorted(ticks)
    assert ticks[-1] == (3, 3)


# The parts.


def test_a_transition_leaves_its_target_as_it_is():
    """Exact draws of a skewed, correlated density, moved 20 times, have the same moments."""
    chains, rows = 4000, 2
    torch.manual_seed(1)
    z = torch.randn(chains, rows, 2).double()
    a = torch.tensor([[1.0, 0.0], [0.8, 0.4]]).double()
    start = torch.stack([z[..., 0], z[..., 1] + z[..., 0].square()], -1) @ a.T
    inverse = torch.linalg.inv(a)

    def banana(u):
        v = u @ inverse.T
        density = -0.5 * (v[..., 0].square() + (v[..., 1] - v[..., 0].square()).square())
        return 0.3 * density, 0.7 * density  # together, at inverse temperature 1, the banana

    state, beta = evaluated(banana, start), torch.ones(rows).double()
    tuning = Tuning(torch.tensor([0.25, 0.6]).double(), torch.ones(rows, 2).double())
    rates = []
    for _ in range(20):
        p, uniform = torch.randn(chains, rows, 2).double(), torch.rand(chains, rows, 2).double()
        state, accept = transition(banana, state, beta, tuning, 5, p, uniform)
        rates.append(accept.mean(0))
    rates = torch.stack(rates).mean(0)
    assert rates[0] > 0.8
    assert rates[1] < 0.97
    v = state.u @ inverse.T
    moments = [v[..., 0], v[..., 1], v[..., 0] ** 2, v[..., 1] ** 2, v[..., 0] ** 2 * v[..., 1]]
    for found, wanted in zip(moments, (0, 1, 1, 4, 3), strict=True):
        error = found.std(0) / math.sqrt(chains)
        assert ((found.mean(0) - wanted).abs() < 4.5 * error).all()
    assert ((state.u != start).any(-1).double().mean(0) > 0.8).all()


def test_trajectories_that_leave_the_finite_numbers_are_rejected():
    def steep(u):
        density = -(u.square().sum(-1).exp())
        return density, torch.zeros_like(density)

    start = torch.full((3, 1, 2), 0.5)
    state = evaluated(steep, start)
    tuning = Tuning(torch.tensor([1e30]), torch.ones(1, 2))
    p, uniform = torch.randn(3, 1, 2), torch.rand(3, 1, 2)
    moved, accept = transition(steep, state, torch.ones(1), tuning, 4, p, uniform)
    assert (accept == 0).all()
    for new, old in zip(moved, state, strict=True):
        assert torch.equal(new, old)


def test_the_pilot_finds_the_acceptance_and_a_way_from_0_to_1():
    model = linear(6)
    x = model.sample(3, seed=1)
    (block,) = blocks(QUICK, model, Rows(x), 0)
    learned = pilot(block.target, block.keys, 500, 2, 1.0)
    assert learned.scale.shape == (101, 3, 6)
    assert (learned.scale[-1] < learned.scale[0]).all()  # posteriors are narrower than the prior
    betas = learned.betas(40, [0.25, 1.0])
    assert betas.shape == (41, 3)
    assert (betas.diff(dim=0) > 0).all()
    assert betas[0].tolist() == [0, 0, 0]
    assert betas[20].tolist() == [0.25] * 3
    assert betas[-1].tolist() == [1, 1, 1]
    accepted = torch.stack([a.mean(0) for *_, a in block.run(QUICK, learned, betas)]).mean(0)
    assert ((accepted > 0.7) & (accepted < 0.9)).all()
    assert arrivals(2, 4) == [1, 2, 3, 4]


def test_noise_is_of_the_row():
    both = Noise([3, 4], torch.device("cpu"), torch.float64)
    alone = Noise([4], torch.device("cpu"), torch.float64)
    for _ in range(2):
        assert torch.equal(both.momentum(5, 2)[:, 1:], alone.momentum(5, 2))
        assert torch.equal(both.uniform(5, 2)[:, 1:], alone.uniform(5, 2))


def test_a_chain_outside_the_support_has_no_weight():
    log_w = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]]).double()
    values, variance, ess = mean_weight(log_w)
    assert values.tolist() == [pytest.approx(math.log(0.5)), -math.inf]
    assert variance[0] == pytest.approx(0.5)
    assert ess[0] == pytest.approx(1)
    notes = AIS(chains=2)._scores(log_w, torch.ones(2).double()).notes
    assert any("too low" in note for note in notes)


@pytest.mark.slow
def test_it_agrees_with_importance_sampling_on_a_fitted_model():
    torch.manual_seed(0)
    model = vae((6,), latents=3, likelihood=NormalFamily, net=partial(MLP, hidden=(16,))).double()
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.mul_(1.5)
    x = model.sample(6, seed=2)
    ours = AIS(steps=1000)(model, x)
    theirs = ImportanceSampling(50_000)(model, x)
    error = float((ours.mc_variance + theirs.mc_variance).sum().sqrt()) / 6
    assert abs(float((ours.values - theirs.values).mean())) < 4 * error + 1e-3


def test_one_chain_says_that_it_knows_no_error():
    model = linear(2)
    (note,) = AIS(steps=50, chains=1)(model, model.sample(2, seed=1)).notes
    assert "one chain" in note
    assert AIS(steps=50, chains=1).name == "AIS T=50, 1 chain"
