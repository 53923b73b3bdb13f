"""Values missing not at random: against numerical integrals over what is missing."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional

from latently import AIS, Data, ImportanceSampling, ae, evaluate, fit, flow, impute, vae
from latently.inference import IWAE, DReG, Enumerate, Reparam
from latently.inference.estimators import REBAR
from latently.inference.sensitivity import sensitivity
from latently.models import FactorAnalysis
from latently.models.autoencoder import Autoencoder
from latently.models.not_at_random import NotAtRandom, not_random
from latently.models.wrappers import Dequantized
from latently.nets import MLP
from latently.probability.families import (
    Bernoulli,
    Categorical,
    Hurdle,
    LogNormal,
    Mixed,
    Normal,
    OneHot,
)
from latently.probability.missingness import Agnostic, SelfMasking
from latently.probability.priors import Standard
from latently.training import Variational

GRID = torch.linspace(-14, 14, 2801).double()
STEP = float(GRID[1] - GRID[0])
TINY = partial(MLP, hidden=(4,), activation=torch.nn.Tanh)
HIDDEN = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])


def prepared(model, x, mask, by=0.8):
    """Units and shares as in a fit, then every parameter of f somewhere."""
    model = model.double()
    model.loc.copy_(x.mean(0))
    model.scale.copy_(x.std(0))
    model.lacking.fill_(True)
    model.offset.copy_(torch.linspace(-0.5, 0.5, x.shape[1]))
    with torch.no_grad():
        for p in model.missingness.parameters():
            p.add_(by * torch.randn_like(p))
    return model.requires_grad_(False)


def log_s(model, x, mask):
    """`log p(s|x)` of whole rows, by the equation."""
    logits = model.missingness((x - model.loc) / model.scale) + model.offset
    return torch.where(mask, functional.logsigmoid(-logits), functional.logsigmoid(logits)).sum(-1)


def one_missing(model, truth, row, mask):
    """log p(x_o, s), mean and deviation of x_m given both, of a row that lacks one cell."""
    (j,) = (~mask).nonzero()[:, 0].tolist()
    rows = row.expand(len(GRID), -1).clone()
    rows[:, j] = GRID
    weight = (truth.log_prob(rows) + log_s(model, rows, mask)).exp()
    total = weight.sum()
    mean = (weight * GRID).sum() / total
    deviation = ((weight * (GRID - mean).square()).sum() / total).sqrt()
    return float((total * STEP).log()), float(mean), float(deviation)


def gaussian(make, missingness, widen=0.4, **options):
    """A model of which everything is known, its p(x), and rows."""
    found = make(widen=widen)
    truth = torch.distributions.MultivariateNormal(
        found.model.decoder.net.layers[0].bias.detach(),
        covariance_matrix=_covariance(found.model),
    )
    model = prepared(NotAtRandom(found.model, missingness, **options), found.x, None)
    return model, truth, found.x


def _covariance(model):
    weight = model.decoder.net.layers[0].weight.detach()
    return weight @ weight.T + 0.49 * torch.eye(len(weight)).double()


FORMS = {
    "self-masking": SelfMasking,
    "above": partial(SelfMasking, sign="above"),
    "below": partial(SelfMasking, sign="below"),
    "agnostic": Agnostic,
    "network": partial(Agnostic, hidden=(4,)),
}
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.mark.slow
@every_form
@pytest.mark.parametrize("draws", [1, 5])
def test_weights_have_the_mean_of_the_integral(gaussian_vae, form, draws):
    model, truth, x = gaussian(gaussian_vae, FORMS[form], draws=draws)
    x = x[:3]
    p = model.infer(torch.where(HIDDEN, x, math.nan), 60_000, HIDDEN)
    w = p.log_w.exp()
    for b in range(3):
        wanted = math.exp(one_missing(model, truth, x[b], HIDDEN[b])[0])
        error = float(w[:, b].std()) / math.sqrt(len(w))
        assert abs(float(w[:, b].mean()) - wanted) < 5 * error < 0.3 * wanted


@pytest.mark.parametrize("form", ["above", "network"])
def test_two_missing_cells_are_integrated_together(gaussian_vae, form):
    model, truth, x = gaussian(gaussian_vae, FORMS[form], draws=4)
    mask = torch.tensor([[False, True, False]])
    grid = GRID[::8]
    rows = x[:1].expand(len(grid) ** 2, -1).clone()
    rows[:, [0, 2]] = torch.cartesian_prod(grid, grid)
    log_p = truth.log_prob(rows) + log_s(model, rows, mask)
    wanted = float(torch.logsumexp(log_p, 0)) + 2 * math.log(8 * STEP)
    log_w = model.infer(x[:1], 100_000, mask).log_w
    assert float(torch.logsumexp(log_w, 0)) - math.log(100_000) == pytest.approx(wanted, abs=0.03)


@every_form
@pytest.mark.parametrize("draws", [1, 6])
def test_imputations_are_of_the_values_that_would_be_missing(gaussian_vae, form, draws):
    model, truth, x = gaussian(gaussian_vae, FORMS[form], draws=draws)
    data = Data.from_array(torch.where(HIDDEN, x[:3], math.nan))
    found = impute(model, data, draws=4, samples=15_000, sweeps=0)
    for b in range(3):
        _, mean, deviation = one_missing(model, truth, x[b], HIDDEN[b])
        j = (~HIDDEN[b]).nonzero()[0, 0]
        assert float(found.mean[b, j]) == pytest.approx(mean, abs=0.1 * deviation)
        assert float(found.std[b, j]) == pytest.approx(deviation, rel=0.1)


@pytest.mark.slow
def test_more_draws_of_missing_cells_tighten_the_bound(gaussian_vae):
    model, truth, x = gaussian(gaussian_vae, FORMS["above"], draws=1)
    model.missingness.weight.fill_(0.3)  # a slope of 4.3
    bounds = []
    for draws in (1, 4, 64):
        model.samples = draws
        bounds.append(float(model.infer(x[:3], 20_000, HIDDEN).log_w.mean()))
    assert bounds[0] + 0.01 < bounds[1]
    assert bounds[1] + 0.001 < bounds[2]
    exact = sum(one_missing(model, truth, x[b], HIDDEN[b])[0] for b in range(3)) / 3
    assert bounds[2] < exact


def test_nothing_missing_is_what_was_observed_and_that_it_was(gaussian_vae):
    model, truth, x = gaussian(gaussian_vae, Agnostic, widen=0.0)
    whole = torch.ones_like(x, dtype=torch.bool)
    wanted = truth.log_prob(x) + log_s(model, x, whole)
    for mask in (None, whole):
        # q(z|x) is exact: every draw has the weight of the row
        found = model.infer(x, 3, mask).log_w
        torch.testing.assert_close(found, wanted.expand(3, -1), rtol=0, atol=1e-10)


def test_evidence_names_its_event_and_compares_with_none_of_p_of_x(gaussian_vae, refused):
    model, truth, x = gaussian(gaussian_vae, FORMS["above"])
    data = Data.from_array(torch.where(HIDDEN, x[:3], math.nan))
    found = evaluate(model, data, ImportanceSampling(500_000))
    for b in range(3):
        wanted = one_missing(model, truth, x[b], HIDDEN[b])[0]
        assert float(found.values[b]) == pytest.approx(wanted, abs=0.02)
    assert found.kind == "lower_bound"
    assert str(found).startswith("log p(x, s) >= ")
    assert any("log p(x, s)" in warning for warning in found.warnings)
    plain = evaluate(model.model, data, ImportanceSampling(100))
    assert plain.what == "p(x)"
    with refused("log p(x, s)", "log p(x)"):
        found.paired(plain)


@pytest.mark.slow
def test_chains_move_missing_cells_to_the_same_evidence(gaussian_vae):
    model, truth, x = gaussian(gaussian_vae, FORMS["above"], draws=2)
    data = Data.from_array(torch.where(HIDDEN, x[:3], math.nan))
    found = evaluate(model, data, AIS(steps=100, chains=16, start="prior"))
    for b in range(3):
        wanted = one_missing(model, truth, x[b], HIDDEN[b])[0]
        assert float(found.values[b]) == pytest.approx(wanted, abs=0.15)


def test_a_rows_imputations_do_not_depend_on_its_company(gaussian_vae):
    for draws in (1, 3):
        model, _, x = gaussian(gaussian_vae, FORMS["above"], draws=draws)
        data = Data.from_array(torch.where(HIDDEN, x[:3], math.nan))
        how = {"draws": 2, "samples": 400, "sweeps": 0, "seed": 4}
        together = impute(model, data, **how)
        for b in range(3):
            alone = impute(model, data.rows(slice(b, b + 1)), **how)
            torch.testing.assert_close(alone.draws[:, 0], together.draws[:, b], rtol=0, atol=1e-12)
            torch.testing.assert_close(alone.mean[0], together.mean[b], rtol=0, atol=1e-12)


# Cells without a path.


def counted(family, **options):
    return vae((3,), latents=1, likelihood=family, net=TINY, **options).double()


def every_value(row, mask, levels):
    """All rows that the missing cells allow, levels of each of them."""
    missing = (~mask).nonzero()[:, 0].tolist()
    values = torch.cartesian_prod(*(torch.arange(levels[j]).double() for j in missing))
    rows = row.expand(len(values), -1).clone()
    rows[:, missing] = values.view(len(values), -1)
    return rows


@pytest.mark.parametrize("form", [SelfMasking, Agnostic], ids=["self-masking", "agnostic"])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize(
    ("family", "levels"),
    [(Bernoulli, (2, 2, 2)), (partial(Categorical, levels=3), (3, 3, 3))],
    ids=["bits", "names"],
)
def test_gradients_through_counted_cells_are_those_of_the_sum(form, draws, family, levels):
    model = not_random(counted(family), form, draws=draws).double()
    row, mask = torch.tensor([1.0, 0.0, 1.0]).double(), torch.tensor([False, True, False])
    model.lacking.fill_(True)
    parameters = [*model.model.decoder.parameters(), *model.missingness.parameters()]
    with torch.no_grad():
        for p in parameters:
            p.add_(0.5 * torch.randn_like(p))
    z, rows = torch.tensor([[[0.7]]]).double(), every_value(row, mask, levels)
    likelihood = model.model.likelihood((z,))
    log_p = torch.stack([likelihood.log_prob(r)[0, 0] for r in rows])
    # f reads codes of names as they are, bits in units of 1 around 0
    logits = model.missingness(rows) + model.offset
    s = torch.where(mask, -logits, logits)
    exact = (log_p + functional.logsigmoid(s).sum(-1)).exp().sum()
    wanted = torch.autograd.grad(exact, parameters)
    batches, k = 20, 1500
    values, found = [], [[] for _ in parameters]
    for _ in range(batches):
        w = model.infer(row[None], k, mask[None], z=(z.expand(k, 1, 1),)).log_lik.exp().mean()
        values.append(w.detach())
        for parts, gradient in zip(found, torch.autograd.grad(w, parameters), strict=True):
            parts.append(gradient)
    for parts, truth in [(values, exact.detach()), *zip(found, wanted, strict=True)]:
        stack = torch.stack(parts)
        if not stack.numel():  # names alone have no slopes
            continue
        error = stack.std(0) / math.sqrt(batches)
        assert ((stack.mean(0) - truth).abs() <= 5 * error + 1e-12).all()


def test_mixed_rows_take_paths_where_cells_have_them():
    family = partial(Mixed, columns=(partial(Categorical, levels=3), Normal, Normal))
    model = not_random(counted(family), partial(SelfMasking, sign="above"), draws=2).double()
    assert model.missingness.categories == (3, 0, 0)
    model.lacking.fill_(True)
    x, mask = torch.tensor([[2.0, 0.3, -1.0]]).double(), torch.tensor([[False, False, True]])
    z = torch.tensor([[[0.7]]]).double().requires_grad_()
    cells = []

    def draw(q, samples):
        cells.append(q.rsample((samples,)))
        return cells[-1]

    p = model.infer(x, 1, mask, z=(z,), draw=draw)
    (drawn,) = cells
    assert drawn.shape == (1, 1, 2, 3)
    assert (drawn[..., 0] == drawn[..., 0].round()).all()
    (slope,) = torch.autograd.grad(drawn[..., 1].sum(), z, retain_graph=True)
    assert float(slope.abs()) > 0
    assert torch.autograd.grad(drawn[..., 0].sum(), z, retain_graph=True)[0].abs() == 0
    p.log_lik.sum().backward()
    table = model.missingness.levels.grad
    assert (table != 0).any()
    with torch.no_grad():
        kept = model.infer(x, 200, mask).noise
    assert kept.shape == (200, 1, 3)
    assert (kept[..., 2] == 0).all()
    assert set(kept[..., 0].flatten().tolist()) <= {0.0, 1.0, 2.0}


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [DReG()], ids=["DReG"])
def test_estimators_agree_on_the_gradient(gaussian_vae, estimator):
    model, _, x = gaussian(gaussian_vae, FORMS["above"], draws=2)
    weight = model.model.encoder.net.layers[0].weight.requires_grad_()
    with torch.no_grad():
        weight.mul_(0.7)
    means = []
    for one in (Reparam(), estimator):
        found = []
        for _ in range(250):
            p = model.infer(x[:3], 8, HIDDEN, gradient=one.gradient)
            (g,) = torch.autograd.grad(one(IWAE(), p).sum(), weight)
            found.append(g)
        stack = torch.stack(found)
        means.append((stack.mean(0), stack.std(0) / math.sqrt(len(stack))))
    (a, error), (b, other) = means
    assert float((a.abs() / error).max()) > 5
    assert ((a - b).abs() < 5 * (error.square() + other.square()).sqrt()).all()


# What a fit sets, and what it finds.


def test_a_fit_starts_at_the_shares_of_the_columns():
    x = torch.randn(400, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([5.0, 0.0, -2.0])
    mask = torch.ones(400, 3, dtype=torch.bool)
    mask[:100, 0], mask[:, 2] = False, False
    mask[0, 2] = True
    model = not_random(vae((3,), latents=2, likelihood=Normal, net=TINY))
    model.initialise(torch.where(mask, x, math.nan), mask)
    assert model.lacking.tolist() == [True, False, True]
    torch.testing.assert_close(model.offset.sigmoid(), torch.tensor([0.25, 0.5, 399 / 400]))
    torch.testing.assert_close(model.loc[0], x[100:, 0].double().mean())
    torch.testing.assert_close(model.scale[1], x[:, 1].double().std(correction=0))
    assert model.scale[2] == 1  # one value: no deviation
    with torch.no_grad():  # a column that lacked nothing has no term, whatever f says of it
        z = model.infer(x[:4], 2).z
        before = model.infer(x[:4], 2, z=z).log_lik
        model.missingness.middle[1] += 3
        torch.testing.assert_close(model.infer(x[:4], 2, z=z).log_lik, before)
        model.missingness.middle[0] += 3
        assert not torch.allclose(model.infer(x[:4], 2, z=z).log_lik, before)


def high_hidden(n=600):
    """Two columns of correlation 0.8; high values of the first are mostly missing."""
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(n, 2, generator=generator)
    x = torch.stack([u[:, 0], 0.8 * u[:, 0] + 0.6 * u[:, 1]], 1)
    mask = torch.ones(n, 2, dtype=torch.bool)
    mask[:, 0] = torch.rand(n, generator=generator) > torch.sigmoid(4 * (x[:, 0] - 0.3))
    return x, mask


@pytest.mark.slow
def test_a_known_sign_takes_the_bias_off_the_imputed_mean():
    x, mask = high_hidden()
    data = Data.from_array(torch.where(mask, x, math.nan))
    linear = partial(MLP, hidden=())
    biases = []
    for missingness in (None, partial(SelfMasking, sign="above")):
        torch.manual_seed(1)
        model = vae((2,), latents=1, likelihood=Normal, net=TINY, decoder_net=linear)
        if missingness is not None:
            model = not_random(model, missingness, draws=4)
        objective = Variational(IWAE(), samples=4)
        found = fit(
            model, data, objective, steps=400, learning_rate=1e-2, batch_size=100, progress=False
        )
        some = data.rows(slice(0, 150))
        imputed = impute(model, some, draws=1, samples=100, sweeps=0, quantiles=())
        biases.append(float((imputed.mean - x[:150])[~mask[:150]].mean()))
    assert biases[0] < -0.4  # at random: as if the missing ones were like the others
    assert abs(biases[1]) < 0.5 * abs(biases[0])
    assert any("SelfMasking is an assumption" in line for line in found.warnings)
    moved = sensitivity(model, some, tilts=(-1.0, 0.0, 1.0), samples=200)
    assert moved.means[0, 0] < moved.means[1, 0] < moved.means[2, 0]
    assert moved.means[:, 1].isnan().all()
    assert float(moved.moves[0]) > 0
    slope = (moved.means[2, 0] - moved.means[0, 0]) / 2 / model.scale[0]
    torch.testing.assert_close(moved.moves[0], slope)
    assert moved.warnings[0].startswith("column 0: ")


def test_a_tilt_multiplies_the_density_of_missing_cells_and_ends_with_its_block(gaussian_vae):
    model, truth, x = gaussian(gaussian_vae, FORMS["above"])
    data = Data.from_array(torch.where(HIDDEN, x[:3], math.nan))
    before = impute(model, data, samples=200, sweeps=0)
    with model.tilted(0.7):
        tilted = impute(model, data, samples=20_000, sweeps=0)
    after = impute(model, data, samples=200, sweeps=0)
    torch.testing.assert_close(before.mean, after.mean, rtol=0, atol=0)
    for b in (1, 2):  # few particles of row 0 count
        (j,) = (~HIDDEN[b]).nonzero()[:, 0].tolist()
        rows = x[b].expand(len(GRID), -1).clone()
        rows[:, j] = GRID
        log_p = truth.log_prob(rows) + log_s(model, rows, HIDDEN[b])
        share = torch.softmax(log_p + 0.7 * (GRID - model.loc[j]) / model.scale[j], 0)
        mean = (share * GRID).sum()
        deviation = (share * (GRID - mean).square()).sum().sqrt()
        assert float(tilted.mean[b, j]) == pytest.approx(float(mean), abs=0.06 * float(deviation))


def test_codes_and_reconstructions_are_the_models_own(gaussian_vae, untouched):
    model, _, x = gaussian(gaussian_vae, SelfMasking)
    with untouched():
        (z,), (own,) = model.encode(x[:3], HIDDEN), model.model.encode(x[:3], HIDDEN)
        torch.testing.assert_close(z, own)
        torch.testing.assert_close(
            model.reconstruct(x[:3], HIDDEN), model.model.reconstruct(x[:3], HIDDEN)
        )
    assert model.sample(5, seed=1).equal(model.model.sample(5, seed=1))


def test_exact_models_become_bounds_of_the_joint():
    model = prepared(NotAtRandom(FactorAnalysis((3,), 1), SelfMasking), torch.randn(9, 3), None)
    with torch.no_grad():
        model.model.weight.normal_()
    weight = model.model.weight
    truth = torch.distributions.MultivariateNormal(
        model.model.loc, weight @ weight.T + torch.eye(3).double()
    )
    x = truth.sample((3,))
    log_w = model.infer(x, 50_000, HIDDEN).log_w
    for b in range(3):
        wanted = one_missing(model, truth, x[b], HIDDEN[b])[0]
        found = float(torch.logsumexp(log_w[:, b], 0)) - math.log(50_000)
        assert found == pytest.approx(wanted, abs=0.02)
    assert model.density == "bound"
    assert model.em(x) is None


def test_states_of_discrete_latents_are_summed_and_missing_cells_drawn():
    model = vae(
        (3,), latents=(2, 2), likelihood=Normal, posterior=OneHot, prior=Standard, net=TINY
    ).double()
    model = prepared(NotAtRandom(model, SelfMasking, draws=3), torch.randn(9, 3).double(), None)
    assert model.latent_states() is None  # the sum over states would still be an estimate
    x = torch.randn(3, 3).double()
    draws = [
        model.infer(x, 4, HIDDEN, gradient="exact", draw=Enumerate().draw) for _ in range(120)
    ]
    summed = torch.stack([(p.log_pi + p.log_w).logsumexp(0) for p in draws])
    sampled = model.infer(x, 20_000, HIDDEN).log_w
    a, b = summed.exp(), sampled.exp()
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()


# Refusals.


def test_what_cannot_be_is_refused(refused):
    plain = vae((3,), latents=1, likelihood=Normal, net=TINY)
    with refused("draws=0"):
        not_random(plain, draws=0)
    with refused("missingness=", "partial(SelfMasking"):
        not_random(plain, SelfMasking((3,)))
    with refused("categories", "3"):
        NotAtRandom(plain, categories=(1, 0))
    with refused("NormalizingFlow", "latents"):
        NotAtRandom(flow((3,)))
    with refused("tilted", "nan"), not_random(plain).tilted(math.nan):
        pass
    with refused("noise", "whole numbers"):
        NotAtRandom(Dequantized(FactorAnalysis((3,), 1), levels=4))
    some = Data.from_array(torch.tensor([[1.0, math.nan, 0.0]]))
    with refused("sensitivity", "VAE"):
        sensitivity(plain, some)
    with refused("two numbers"):
        sensitivity(not_random(plain), some, tilts=(0.5,))
    with refused("no missing value"):
        sensitivity(not_random(plain), Data.from_array(torch.zeros(2, 3)))


def test_a_model_that_met_no_holes_says_so():
    model = not_random(vae((3,), latents=1, likelihood=Normal, net=TINY))
    model.initialise(torch.randn(20, 3))
    assert "no column lacks some" in model.complaints()[0]


def test_models_without_a_density_are_refused(refused):
    model = ae((3,), latents=1)
    assert isinstance(model, Autoencoder)
    with refused("density"):
        not_random(model)


def test_relaxed_draws_have_no_cells_to_go_with_them(refused):
    model = vae(
        (3,), latents=(1, 2), likelihood=Normal, posterior=OneHot, prior=Standard, net=TINY
    )
    model = not_random(model)
    with refused("no continuous relaxation"):
        model.infer(torch.zeros(1, 3), 2, HIDDEN[:1], draw=REBAR().draw)


@pytest.mark.parametrize("family", [LogNormal, partial(Hurdle, family=LogNormal)])
@pytest.mark.parametrize("slope", [-1.0, 1.0])
def test_draws_beyond_all_numbers_leave_weights_and_gradients_finite(family, slope):
    """Draws of a hidden amount are 1e308, which a float32 does not hold."""
    inner = vae((2,), latents=1, net=TINY, likelihood=partial(Mixed, columns=(family, Normal)))
    model = NotAtRandom(inner, draws=5)
    model.lacking.fill_(True)
    with torch.no_grad():
        inner.decoder.offset.add_(1e4)
        if family is not LogNormal:
            inner.decoder.offset[0] = -1e4  # log-odds of 0
        model.missingness.weight.fill_(slope)
    x, mask = torch.tensor([[0.0, 1.0]]), torch.tensor([[False, True]])
    p = model.infer(x, 20, mask)
    assert bool(p.log_w.isfinite().all())
    p.log_w.logsumexp(0).sum().backward()
    grads = [q.grad for q in model.parameters() if q.grad is not None]
    assert all(bool(g.isfinite().all()) for g in grads)
    assert bool((model.missingness.weight.grad != 0).any())
