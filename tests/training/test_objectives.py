"""Objectives of whole batches, against closed forms, quadrature and loops."""

import math
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch

from latently import (
    CIWAE,
    ELBO,
    IWAE,
    RBF,
    Data,
    Dequantized,
    GumbelSoftmax,
    InfoVAE,
    InverseMultiquadratic,
    Linear,
    MultiplyIWAE,
    Objective,
    Renyi,
    TotalCorrelation,
    Transformed,
    Variational,
    evaluate,
    expr,
    fit,
    ppca,
    train,
    vae,
)
from latently.inference import Particles
from latently.inference.kernels import mmd
from latently.inference.particles import equal_shares
from latently.nets import MLP
from latently.probability.distributions import Factorized
from latently.probability.distributions import Normal as NormalDistribution
from latently.probability.families import Bernoulli, Normal, SharedNormal
from latently.probability.priors import LearnedNormal, NormalMixture, Standard
from latently.probability.transforms import Log
from latently.registry import components
from latently.training.objectives.total_correlation import aggregate_log_prob

QUIET = {"progress": False, "device": "cpu"}
TINY = partial(MLP, hidden=(6,), activation=torch.nn.Tanh)
WHOLE = [TotalCorrelation(), InfoVAE(), InfoVAE(alpha=1.0, weight=50.0)]


def terms_of(objective, model, x, mask=None, context=None, seed=1):
    torch.manual_seed(seed)
    return objective(model, x, mask, context, torch.tensor(0), 1)


def posteriors(loc, scale):
    return Factorized(NormalDistribution(loc, torch.as_tensor(scale).log().expand_as(loc)), 1)


# What all promise.


@pytest.mark.parametrize("objective", WHOLE, ids=str)
def test_terms_have_their_shapes_and_reach_every_parameter(objective):
    for options in ({}, {"prior": LearnedNormal}, {"prior": NormalMixture}):
        model = vae((4,), latents=3, net=TINY, **options)
        terms = terms_of(replace(objective, samples=2), model, torch.rand(7, 4).lt(0.5).float())
        assert all(term.shape == (7,) for term in terms)
        assert not terms.reconstruction.requires_grad
        assert not terms.kl.requires_grad
        terms.bound.mean().backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            untrained = name.startswith("prior") and objective == InfoVAE(1.0, 50.0)
            assert untrained or p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("objective", WHOLE, ids=str)
def test_an_objective_is_its_expression(objective):
    assert expr.build(expr.show(objective), components()) == objective


def test_a_kernel_is_named_within_an_objective():
    text = "InfoVAE(weight=Linear(start=1.0, stop=5.0), kernel=RBF(bandwidth=2.0))"
    made = expr.build(text, components())
    assert made == InfoVAE(weight=Linear(1.0, 5.0), kernel=RBF(bandwidth=2.0))
    assert expr.show(made) == text


@pytest.mark.parametrize("objective", WHOLE, ids=str)
@pytest.mark.parametrize("contexts", [0, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_masks_contexts_and_samples(objective, contexts, masked):
    model = vae((4,), latents=2, net=TINY, sees_mask=masked, contexts=contexts, likelihood=Normal)
    x = torch.randn(6, 4)
    mask = torch.rand(6, 4) < 0.6 if masked else None
    context = torch.randn(6, 2) if contexts else None
    for samples in (1, 3):
        terms = terms_of(replace(objective, samples=samples), model, x, mask, context)
        assert terms.bound.shape == (6,)
        assert terms.bound.isfinite().all()
    if masked:
        other = torch.where(mask, x, 99.0)
        again = terms_of(replace(objective, samples=3), model, other, mask, context)
        assert torch.equal(again.bound, terms.bound)


@pytest.mark.parametrize("objective", WHOLE, ids=str)
def test_scheduled_weights_follow_the_step(objective, gaussian_vae, exactly):
    case = gaussian_vae(shift=0.3)
    name = "beta" if isinstance(objective, TotalCorrelation) else "weight"
    rising = replace(objective, **{name: Linear(2.0, 6.0)})
    torch.manual_seed(1)
    halfway = rising(case.model, case.x, None, None, torch.tensor(5), 10)
    fixed = terms_of(replace(objective, **{name: 4.0}), case.model, case.x)
    exactly(halfway.bound, fixed.bound)


@pytest.mark.parametrize("objective", WHOLE, ids=str)
def test_wrapped_models(objective):
    inner = vae((4,), latents=2, net=TINY, likelihood=Normal)
    x = torch.randint(0, 8, (6, 4)).float()
    for model in (Dequantized(inner, levels=8), Transformed(inner, Log(shift=1.0))):
        terms = terms_of(replace(objective, samples=3), model, x)
        assert terms.bound.shape == (6,)
        assert terms.bound.isfinite().all()


@pytest.mark.parametrize("objective", WHOLE, ids=str)
def test_what_cannot_be_compared_is_refused(objective, refused):
    name = type(objective).__name__
    with refused(name, "at least 2", "batch_size"):
        terms_of(objective, vae((4,), latents=2, net=TINY), torch.zeros(1, 4))
    discrete = vae((4,), latents=2, net=TINY, posterior=Bernoulli, prior=Standard)
    with refused(name, "reparameterised", "Normal"):
        terms_of(objective, discrete, torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TotalCorrelation(beta=-1.0), ("TotalCorrelation", "beta=-1.0")),
        (lambda: TotalCorrelation(alpha=math.nan), ("alpha=nan",)),
        (lambda: TotalCorrelation(samples=0), ("TotalCorrelation", "samples=0")),
        (lambda: TotalCorrelation(rows=1), ("rows=1", "at least 2")),
        (lambda: InfoVAE(alpha=1.5), ("InfoVAE", "alpha=1.5", "at most 1")),
        (lambda: InfoVAE(weight=-1.0), ("InfoVAE", "weight=-1.0")),
        (lambda: InfoVAE(alpha=0.2, weight=0.5), ("alpha=0.2", "weight=0.5", "at least 0.8")),
        (lambda: InfoVAE(alpha=-3.0, weight=2.0), ("weight of at least 4",)),
        (lambda: InfoVAE(samples=1.5), ("InfoVAE", "samples=1.5")),
        (lambda: InfoVAE(kernel=RBF), ("InfoVAE", "kernel=", "RBF()")),
        (lambda: RBF(bandwidth=0.0), ("RBF", "bandwidth=0.0", "positive")),
        (lambda: InverseMultiquadratic(bandwidth=math.inf), ("bandwidth=inf",)),
    ],
)
def test_bad_options_are_refused(make, words, refused):
    with refused(*words):
        make()


# The total correlation.


def test_with_unit_weights_it_is_the_elbo_exactly(gaussian_vae, exactly):
    case = gaussian_vae(shift=0.4, widen=0.3)
    for samples in (1, 5):
        one = TotalCorrelation(1.0, 1.0, 1.0, samples=samples)
        found = terms_of(one, case.model, case.x)
        wanted = terms_of(Variational(ELBO(), samples=samples), case.model, case.x)
        for name in found._fields:
            exactly(getattr(found, name), getattr(wanted, name), 1e-12)


def test_weights_multiply_the_three_parts(gaussian_vae, exactly):
    """The weighted parts, drawn, as their definition has them: q and z are known here."""
    case = gaussian_vae(shift=0.4, widen=0.3)
    torch.manual_seed(1)
    p = case.model.infer(case.x, 1)
    q = case.model.encoder(case.model.decoder.family.embed(case.x))
    joint, product = aggregate_log_prob(q, p.z[0])
    parts = p.log_q[0] - joint, joint - product, product - p.log_prior[0]
    drawn = p._replace(kl=(None,))
    exactly(sum(parts), drawn.divergence, 1e-12)
    for weights in ((2.0, 1.0, 1.0), (1.0, 3.0, 1.0), (0.0, 6.0, 1.0), (1.0, 2.0, 0.5)):
        found = terms_of(TotalCorrelation(*weights), case.model, case.x).bound
        wanted = p.log_lik - sum(w * part for w, part in zip(weights, parts, strict=True))
        gamma = weights[2]  # that share of the KL is in closed form
        wanted = wanted + gamma * (drawn.divergence - p.divergence)
        exactly(found, wanted[0], 1e-10)


@pytest.mark.parametrize("rows", [None, 5, 40])
def test_the_aggregate_posterior_is_what_a_loop_gives(rows):
    loc, scale = torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.2
    q = posteriors(loc, scale)
    z = q.sample((2,))
    joint, product = aggregate_log_prob(q, z, rows)
    n = rows or 5
    for k in range(2):
        for i in range(5):
            shares = [1 / n if j == i else (n - 1) / (n * 4) for j in range(5)]
            assert sum(shares) == pytest.approx(1)
            density = torch.stack(
                [
                    torch.distributions.Normal(loc[j], scale[j]).log_prob(z[k, i]).exp()
                    for j in range(5)
                ]
            )
            share = torch.tensor(shares).double()
            whole = float((share * density.prod(1)).sum().log())
            each = float((share[:, None] * density).sum(0).log().sum())
            assert float(joint[k, i]) == pytest.approx(whole)
            assert float(product[k, i]) == pytest.approx(each)


def test_the_estimated_density_is_unbiased_over_batches():
    """Over all batches that hold a row, the mean of the estimate is q(z) of the data set."""
    loc = torch.randn(7, 2).double()
    z = torch.randn(1, 1, 2).double()
    truth = posteriors(loc, 0.6 * torch.ones(7, 2).double()).log_prob(z[0]).exp().mean()
    found = []
    for others in combinations(range(1, 7), 3):
        batch = loc[[0, *others]]
        q = posteriors(batch, 0.6 * torch.ones(4, 2).double())
        joint, _ = aggregate_log_prob(q, z.expand(1, 4, 2), rows=7)
        found.append(joint[0, 0].exp())
    assert float(torch.stack(found).mean()) == pytest.approx(float(truth), rel=1e-12)


def test_several_posteriors_of_a_row_share_its_part():
    """As under a dequantised model: C posteriors of each row, all of the same aggregate."""
    loc = torch.randn(2, 4, 3).double()
    scale = torch.full((2, 4, 3), 0.5).double()
    z = torch.randn(2, 4, 3).double()
    joint, _ = aggregate_log_prob(posteriors(loc.flatten(0, 1), scale.flatten(0, 1)), z)
    mixed = posteriors(loc.flatten(0, 1), scale.flatten(0, 1)).log_prob(z[:, :, None])
    torch.testing.assert_close(joint, mixed.logsumexp(-1) - math.log(8))


def grid(n=40, correlation=0.8):
    """n^2 means whose aggregate with N(0, I) noise is close to a Gaussian, and its covariance."""
    one = torch.distributions.Normal(0, 1).icdf((torch.arange(n) + 0.5) / n).double()
    pairs = torch.cartesian_prod(one, one)
    factor = torch.linalg.cholesky(torch.tensor([[1, correlation], [correlation, 1]]).double())
    loc = 1.5 * pairs @ factor.T
    return loc, torch.cov(loc.T, correction=0) + torch.eye(2).double()


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_total_correlation_of_a_gaussian_aggregate(correlation):
    """`-log det(R) / 2`, with R the correlations, on a batch that is the whole data set."""
    loc, covariance = grid(correlation=correlation)
    q = posteriors(loc, torch.ones_like(loc))
    joint, product = aggregate_log_prob(q, q.sample((4,)), rows=len(loc))
    found = joint - product
    wanted = 0.5 * (covariance.diagonal().log().sum() - covariance.logdet())
    error = float(found.std()) / math.sqrt(found.numel())
    assert abs(float(found.mean() - wanted)) < 4 * error + 2e-3
    assert (float(found.mean()) > 0.05) == (correlation > 0)


def test_total_correlation_against_quadrature(gaussian_vae):
    """Three rows, two latents: the integral over a grid, and the objective's own estimate."""
    case = gaussian_vae(shift=0.2, widen=0.6)
    x = case.x[:3]
    q = case.model.encoder(case.model.decoder.family.embed(x))
    axis = torch.linspace(-9, 9, 1201).to(x)
    points = torch.cartesian_prod(axis, axis)
    log_q = q.base.log_prob(points[:, None])  # (points, rows, 2)
    joint = log_q.sum(-1).logsumexp(1) - math.log(3)
    product = (log_q.logsumexp(1) - math.log(3)).sum(-1)
    area = (axis[1] - axis[0]) ** 2
    total = (joint.exp() * area).sum()
    wanted = float((joint.exp() * (joint - product) * area).sum().detach())
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=0)
    unit, heavy = (TotalCorrelation(1.0, beta, 1.0, samples=20_000) for beta in (1.0, 2.0))
    with torch.no_grad():
        found = [terms_of(o, case.model, x).bound for o in (unit, heavy)]
    assert float((found[0] - found[1]).mean()) == pytest.approx(wanted, abs=0.01)
    assert wanted > 0.03


@pytest.mark.slow
def test_a_weight_takes_the_total_correlation_away():
    """On two correlated factors and an entangled start: what is free stays, what costs goes."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1000, 2, generator=generator)
    mix = torch.tensor([[1.0, 0.0], [1.0, 0.3], [0.0, 1.0], [0.7, 0.7]])
    data = Data.from_array(z @ mix.T + torch.randn(1000, 4, generator=generator))
    left, correlation = {}, {}
    for beta in (0.0, 6.0):
        torch.manual_seed(0)
        model = vae((4,), latents=2, likelihood=SharedNormal, net=partial(MLP, hidden=()))
        with torch.no_grad():
            model.encoder.net.layers[0].weight[:2] = torch.ones(2, 4) / 4
        how = {"steps": 400, "batch_size": 200, "learning_rate": 1e-2, **QUIET}
        fit(model, data, TotalCorrelation(beta=beta), **how)
        with torch.no_grad():
            q = model.encoder(model.decoder.family.embed(data.x))
            joint, product = aggregate_log_prob(q, q.sample((4,)))
        left[beta] = float((joint - product).mean())
        correlation[beta] = abs(float(torch.corrcoef(q.mean.T)[0, 1]))
    assert left[6.0] < 0.2 * left[0.0]
    assert correlation[6.0] < 0.15 < 0.3 < correlation[0.0]


def test_a_posterior_that_does_not_factorize_is_refused(refused):
    together = torch.distributions.MultivariateNormal(torch.zeros(3, 2), torch.eye(2))
    with refused("TotalCorrelation", "independent", "MultivariateNormal"):
        aggregate_log_prob(together, torch.zeros(1, 3, 2))


def test_extreme_posteriors_leave_the_aggregate_finite_in_float32():
    loc = torch.tensor([[-1e6, 1e6], [1e6, 0.0], [0.0, 0.0]]).requires_grad_(True)
    log_scale = torch.tensor([[-10.0, 10.0], [10.0, -10.0], [0.0, 0.0]]).requires_grad_(True)
    q = Factorized(NormalDistribution(loc, log_scale), 1)
    joint, product = aggregate_log_prob(q, q.rsample((2,)), rows=1000)
    value = (joint - product).sum()
    assert value.isfinite()
    for gradient in torch.autograd.grad(value, (loc, log_scale)):
        assert gradient.isfinite().all()


# The maximum mean discrepancy.


@pytest.mark.parametrize(
    "kernel", [RBF(), RBF(0.3), InverseMultiquadratic(), InverseMultiquadratic(4)]
)
def test_mmd_is_what_a_double_loop_gives(kernel):
    z, y = torch.randn(2, 5, 3).double(), torch.randn(2, 4, 3).double() + 0.5

    def k(a, b):
        u = float((a - b).square().sum()) / (2 * 3 * kernel.bandwidth**2)
        return math.exp(-u) if isinstance(kernel, RBF) else 1 / (1 + u)

    found = mmd(z, y, kernel)
    assert found.shape == (2, 5)
    for s in range(2):
        own = [sum(k(z[s, i], z[s, j]) for j in range(5) if j != i) / 4 for i in range(5)]
        cross = [sum(k(z[s, i], y[s, j]) for j in range(4)) / 4 for i in range(5)]
        other = sum(k(y[s, i], y[s, j]) for i in range(4) for j in range(4) if j != i) / 12
        for i in range(5):
            assert float(found[s, i]) == pytest.approx(own[i] - 2 * cross[i] + other)


@pytest.mark.parametrize("kernel", [RBF(), InverseMultiquadratic()])
def test_mmd_is_zero_in_expectation_for_equal_samples_and_above_it_for_others(kernel):
    z, y = torch.randn(20_000, 6, 2).double(), torch.randn(20_000, 8, 2).double()
    alike = mmd(z, y, kernel).mean(1)
    error = float(alike.std()) / math.sqrt(len(alike))
    assert abs(float(alike.mean())) < 4 * error
    assert float(alike.min()) < 0
    unlike = mmd(z * 1.5 + 0.3, y, kernel).mean(1)
    assert float(unlike.mean()) > 10 * error


def test_mmd_of_normals_has_its_closed_form():
    """RBF between N(m, s^2) and N(0, 1): `E k = (c / (c + v))^(d/2) exp(-m^2 / (2 (c + v)))`."""
    m, s, d = 0.7, 0.5, 2
    c = d * 1.0  # of exp(-|.|^2 / (2 c))

    def mean_kernel(shift, variance):
        return (c / (c + variance)) ** (d / 2) * math.exp(-d * shift**2 / (2 * (c + variance)))

    wanted = mean_kernel(0, 2 * s**2) + mean_kernel(0, 2) - 2 * mean_kernel(m, s**2 + 1)
    z, y = torch.randn(20_000, 6, d).double() * s + m, torch.randn(20_000, 6, d).double()
    found = mmd(z, y, RBF()).mean(1)
    assert abs(float(found.mean()) - wanted) < 4 * float(found.std()) / math.sqrt(len(found))


def test_mmd_takes_extreme_draws_in_float32():
    for scale in (0.0, 1e-6, 1e6, 1e15):
        z = (scale * torch.randn(4, 2)).requires_grad_(True)
        for kernel in (RBF(), InverseMultiquadratic()):
            value = mmd(z, torch.randn(4, 2), kernel).mean()
            assert value.isfinite()
            assert torch.autograd.grad(value, z)[0].isfinite().all()


def test_mmd_needs_pairs(refused):
    with refused("1 and 3 draws", "at least 2"):
        mmd(torch.zeros(1, 2), torch.zeros(3, 2), RBF())


# InfoVAE.


def test_info_vae_is_the_elbo_at_alpha_zero_and_weight_one(gaussian_vae, exactly):
    case = gaussian_vae(shift=0.4, widen=0.3)
    found = terms_of(InfoVAE(alpha=0.0, weight=1.0, samples=3), case.model, case.x)
    wanted = terms_of(Variational(samples=3), case.model, case.x)
    for name in found._fields:
        exactly(getattr(found, name), getattr(wanted, name))


def test_info_vae_is_the_sum_of_its_parts(gaussian_vae, exactly):
    case = gaussian_vae(shift=0.4, widen=0.3)
    torch.manual_seed(1)
    p = case.model.infer(case.x, 2)
    (y,) = case.model.latents(12)
    apart = mmd(p.z[0], y.view(2, 6, 2), RBF(2.0))
    found = terms_of(InfoVAE(0.3, 20.0, RBF(2.0), samples=2), case.model, case.x)
    exactly(found.bound, (p.log_lik - 0.7 * p.divergence - 19.3 * apart).mean(0))
    exactly(found.kl, p.divergence.mean(0))
    exactly(found.reconstruction, p.log_lik.mean(0))


def test_all_layers_are_compared_together():
    class Two(torch.nn.Module):
        """Two layers, of 1 and 2 x 2 numbers, that ignore the data."""

        def infer(self, x, samples, mask, context, draw):
            self.z = tuple(
                draw(posteriors(torch.zeros(len(x), *s), 1.0), samples) for s in ((1,), (2, 2))
            )
            zero = torch.zeros(samples, len(x))
            return Particles(
                self.z, zero, (zero,) * 2, (zero,) * 2, (zero,) * 2, equal_shares(zero)
            )

        def latents(self, n, context):
            self.y = torch.randn(1, n, 1), torch.randn(1, n, 2, 2)
            return self.y

    model = Two()
    bound = terms_of(InfoVAE(weight=1.0 + 1.0), model, torch.zeros(5, 3)).bound
    z, y = (torch.cat([a, b.flatten(2)], -1) for a, b in (model.z, model.y))
    torch.testing.assert_close(-bound, mmd(z, y, InverseMultiquadratic())[0])
    with pytest.raises(ValueError, match="2; use"):
        terms_of(TotalCorrelation(), model, torch.zeros(5, 3))


def bits(n=300, columns=6):
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(3, columns, generator=generator)
    kind = torch.randint(0, 3, (n,), generator=generator)
    x = torch.rand(n, columns, generator=generator) < (0.9 * kinds[kind].round() + 0.05)
    return Data.from_array(x.float(), levels=2)


@pytest.mark.slow
def test_a_wasserstein_autoencoder_trains():
    """alpha = 1: the KL is free, the aggregate posterior still comes to the prior."""
    data, apart, history = bits(), {}, {}
    for weight in (1e-3, 200.0):
        torch.manual_seed(0)
        model = vae((6,), latents=2, net=TINY)
        with torch.no_grad():
            model.encoder.net.layers[0].weight.mul_(5)
        how = {"steps": 400, "batch_size": 100, "learning_rate": 1e-2, **QUIET}
        history[weight] = fit(model, data, InfoVAE(alpha=1.0, weight=weight), **how).history
        torch.manual_seed(1)
        with torch.no_grad():
            (z,), (y,) = model.infer(data.x, 1).z, model.latents(len(data))
            apart[weight] = float(mmd(z, y, InverseMultiquadratic()).mean())
    assert apart[200.0] < 0.02
    assert apart[200.0] < 0.2 * apart[1e-3]
    first, last = (history[200.0][i]["reconstruction"] for i in (0, -1))
    assert last > first + 0.5


# In training.


@pytest.mark.parametrize("objective", [*WHOLE, Variational(ELBO(free_bits=0.2))], ids=str)
def test_it_trains_and_the_curves_show_what_is_maximised(objective):
    model, data = vae((6,), latents=2, net=TINY), bits()
    found = fit(model, data, objective, validation=bits(70), epochs=6, batch_size=50, **QUIET)
    assert found.history[-1]["objective"] > found.history[0]["objective"]
    assert found.history[-1]["validation"] > found.history[0]["validation"]
    plain = fit(
        vae((6,), latents=2, net=TINY), data, Variational(), epochs=1, batch_size=50, **QUIET
    )
    row = found.history[-1]
    assert row["objective"] != pytest.approx(row["reconstruction"] - row["kl"], abs=1e-4)
    shown = plain.history[-1]
    assert shown["bound"] == pytest.approx(shown["reconstruction"] - shown["kl"], abs=1e-4)


class Told(Objective):
    """Notes what it is told of the rows."""

    def __init__(self, seen, rows=None):
        self.seen, self.rows = seen, rows

    def of_rows(self, rows):
        return Told(self.seen, rows)

    def terms(self, model, rows, step, total):
        self.seen.add((self.rows, len(rows.x), torch.is_grad_enabled()))
        return Variational().terms(model, rows, step, total)


def test_the_objective_is_told_the_rows_of_what_it_sees():
    seen = set()
    model = vae((6,), latents=2, net=TINY)
    fit(model, bits(60), Told(seen), validation=bits(501), epochs=1, batch_size=20, **QUIET)
    assert seen == {(60, 20, True), (501, 251, False), (501, 250, False)}
    seen.clear()
    for _ in train(model, bits(60), Told(seen), steps=2, batch_size=20, device="cpu"):
        pass
    assert seen == {(60, 20, True)}


def test_rows_of_the_data_set():
    assert TotalCorrelation().of_rows(70) == TotalCorrelation(rows=70)
    assert TotalCorrelation(rows=5).of_rows(70) == TotalCorrelation(rows=5)
    assert InfoVAE().of_rows(70) == InfoVAE()
    assert Variational().of_rows(70) == Variational()


def test_pieces_of_a_step_are_refused_where_its_rows_are_compared(refused):
    model, data = vae((6,), latents=2, net=TINY), bits(60)
    for objective, name in (
        (TotalCorrelation(), "TotalCorrelation"),
        (InfoVAE(), "InfoVAE"),
        (Variational(ELBO(free_bits=0.1)), "ELBO"),
    ):
        with refused("accumulate=2", name, "batch_size"):
            fit(model, data, objective, epochs=1, accumulate=2, **QUIET)
    fit(model, data, Variational(IWAE(), samples=2), epochs=1, accumulate=2, **QUIET)


@pytest.mark.parametrize("objective", WHOLE, ids=str)
def test_one_row_is_refused_before_training(objective, refused):
    model = vae((6,), latents=2, net=TINY)
    before = [p.clone() for p in model.parameters()]
    with refused("at least 2"):
        fit(model, bits(60), objective, validation=bits(1), epochs=1, **QUIET)
    with refused("at least 2"):
        fit(model, bits(60), objective, batch_size=1, steps=3, initialise=False, **QUIET)
    with refused("at least 2"):
        fit(model, bits(1), objective, steps=3, initialise=False, **QUIET)
    assert all(map(torch.equal, before, model.parameters()))


def test_evidence_knows_no_objective():
    """A step too short to change the model changes no number, whatever was maximised."""
    model, data = vae((6,), latents=2, net=TINY), bits(60)
    before = evaluate(model, data)
    still = {"steps": 1, "learning_rate": 1e-12, "initialise": False, **QUIET}
    fit(model, data, InfoVAE(weight=1000.0), **still)
    after = evaluate(model, data)
    assert (after.kind, after.method) == (before.kind, before.method)
    torch.testing.assert_close(after.values, before.values, rtol=0, atol=1e-4)


def test_objectives_have_no_effect_on_a_closed_form(refused):
    with refused("objective=", "no effect", "PPCA"):
        fit(ppca((3,), latents=1), Data.from_array(torch.randn(20, 3)), InfoVAE(), progress=False)


def test_sizes_grow_with_the_pairs_of_rows():
    assert Variational(IWAE(), samples=3).size(10, 4, 2) == 120
    assert TotalCorrelation(samples=3).size(10, 4, 2) == 120 + 3600
    assert InfoVAE(samples=3).size(10, 4, 2) == 120 + 3000


@pytest.mark.parametrize("bound", [Renyi(0.5), Renyi(-0.5), MultiplyIWAE(groups=2)])
def test_other_bounds_train(bound):
    found = fit(
        vae((6,), latents=2, net=TINY), bits(), Variational(bound, samples=4), epochs=4, **QUIET
    )
    called = "bound" if bound.is_bound else "objective"
    values = np.array([row[called] for row in found.history])
    assert values[-1] > values[0]


# What is called a bound.

BOUNDS = [
    Variational(),
    Variational(IWAE(), samples=5),
    Variational(CIWAE(beta=Linear(1.0, 0.0)), samples=5),
    Variational(Renyi(alpha=0.5), samples=5),
    Variational(estimator=GumbelSoftmax()),
    TotalCorrelation(1.0, 1.0, 1.0),
    InfoVAE(alpha=0.0, weight=1.0),
]
NO_BOUNDS = [
    Variational(ELBO(beta=0.5)),
    Variational(ELBO(beta=Linear(0.0, 1.0))),
    Variational(ELBO(free_bits=0.25)),
    Variational(ELBO(beta=100.0, capacity=5.0)),
    Variational(Renyi(alpha=-1.0), samples=5),
    Variational(Renyi(alpha=Linear(1.0, 0.0)), samples=5),
    Variational(estimator=GumbelSoftmax(hard=False)),
    TotalCorrelation(),
    InfoVAE(),
]


@pytest.mark.parametrize("objective", [*BOUNDS, *NO_BOUNDS], ids=str)
def test_only_a_bound_is_called_one(objective):
    assert objective.is_bound is (objective in BOUNDS)


@pytest.mark.parametrize("objective", [BOUNDS[0], NO_BOUNDS[2]], ids=["bound", "none"])
def test_the_history_names_what_was_maximised(objective, capsys):
    data = Data(torch.randn(20, 3), "Normal", "rows")
    found = fit(vae((3,), likelihood=Normal), data, objective, epochs=1, device="cpu")
    name, other = ("bound", "objective") if objective.is_bound else ("objective", "bound")
    assert name in found.history[-1]
    assert other not in found.history[-1]
    shown = capsys.readouterr().err
    assert f"{name} -" in shown
    assert f"{other} -" not in shown
