"""FA and PPCA against closed forms: the evidence, the posterior, imputation and the maximum."""

import math
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as SklearnFA

from latently import PPCA, Data, Exact, FactorAnalysis, evaluate, fit
from latently.probability.conditional import draw_mean

KINDS = [FactorAnalysis, PPCA]


def random_model(kind, shape=(5,), latents=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    model = kind(shape, latents)
    with torch.no_grad():
        for p in (model.loc, model.weight, model.log_variance):
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        if kind is PPCA:
            model.log_variance.fill_(-0.3)
    return model


def moments(model):
    weight = model.weight.detach().cpu().double().numpy()
    noise = model.log_variance.detach().cpu().double().exp().numpy()
    loc = model.loc.detach().cpu().double().numpy()
    return loc, weight, noise, weight @ weight.T + np.diag(noise)


def random_rows(n=7, columns=5, holes=True, seed=2):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(n, columns)) * 3)
    mask = torch.from_numpy(rng.random((n, columns)) < 0.6) if holes else None
    if mask is not None:
        mask[0], mask[1] = False, True  # nothing observed; everything observed
    return x, mask


def factor_data(n=400, columns=6, latents=2, seed=3, holes=0.0):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(columns, latents)) * 2
    noise = rng.uniform(0.3, 1.5, columns)
    x = rng.normal(size=(n, latents)) @ weight.T + rng.normal(size=(n, columns)) * noise
    x += rng.normal(size=columns) * 5
    x[rng.random(x.shape) < holes] = np.nan
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5)])
def test_every_draw_weighs_exactly_the_marginal(kind, holes, shape, exactly, device, dtype):
    model = random_model(kind, shape).to(device, dtype)
    x, mask = random_rows(holes=holes)
    loc, _, _, covariance = moments(model)
    wanted = []
    for row in range(len(x)):
        seen = np.ones(5, bool) if mask is None else mask[row].numpy()
        here = multivariate_normal(loc[seen], covariance[np.ix_(seen, seen)]) if seen.any() else 0
        wanted.append(here.logpdf(x[row].numpy()[seen]) if seen.any() else 0.0)
    there = x.view(-1, *shape).to(device, dtype)
    mask = None if mask is None else mask.view(-1, *shape).to(device)
    p = model.infer(there, 11, mask)
    assert p.log_w.shape == (11, len(x))
    exactly(p.log_w, torch.tensor(wanted).expand(11, -1))
    exactly(model.log_prob(there, mask), torch.tensor(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_mean_and_covariance_are_the_conditional(kind, exactly, device, dtype):
    model = random_model(kind).to(device, dtype)
    x, mask = random_rows()
    loc, weight, _, covariance = moments(model)
    q = model.posterior(x.to(device, dtype), mask.to(device))
    for row in range(len(x)):
        seen = mask[row].numpy()
        gain = weight[seen].T @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        exactly(q.mean[row], gain @ (x[row].numpy() - loc)[seen])
        exactly(q.covariance_matrix[row], np.eye(2) - gain @ weight[seen])
    encoded = model.encode(x.to(device, dtype), mask.to(device))[0]
    exactly(encoded, q.mean)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_imputation_is_the_closed_form_conditional(kind):
    model = random_model(kind)
    x, mask = random_rows(4)
    loc, _, _, covariance = moments(model)
    draws = 20_000
    drawn = model.impute(x, mask, draws=draws, samples=draws, seed=1)
    assert drawn.shape == (draws, 4, 5)
    assert torch.equal(drawn[:, mask], x[mask].expand(draws, -1))
    for row in range(len(x)):
        o, m = mask[row].numpy(), ~mask[row].numpy()
        if not m.any():
            continue
        gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
        mean = loc[m] + gain @ (x[row].numpy() - loc)[o]
        wanted = covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]
        found = drawn[:, row].numpy()[:, m]
        # resampling draws with replacement: about half of them are distinct in effect
        error = np.sqrt(2 * np.diag(wanted) / draws)
        assert (np.abs(found.mean(0) - mean) < 5 * error).all()
        spread = np.sqrt(np.diag(wanted))
        scaled = (np.cov(found.T).reshape(wanted.shape) - wanted) / np.outer(spread, spread)
        assert np.abs(scaled).max() < 5 * 2 / math.sqrt(draws)


def test_weights_are_exact_wherever_z_is_put(exactly):
    model = random_model(FactorAnalysis)
    x, mask = random_rows()
    elsewhere = (100 * torch.randn(3, len(x), 2, dtype=torch.float64),)
    far = model.infer(x, 3, mask, z=elsewhere)
    exactly(far.log_w, model.infer(x, 1, mask, draw=draw_mean).log_w.expand(3, -1), 1e-9)
    assert far.z is elsewhere or far.z[0] is elsewhere[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_likelihood_never_falls(kind, holes, seed):
    data = Data.from_array(factor_data(150, seed=seed, holes=holes))
    model = kind(data.shape, 3)
    values = [row["log_prob"] for row in fit(model, data, steps=60, progress=False).history]
    assert all(later >= earlier - 1e-10 for earlier, later in pairwise(values))
    assert len(values) >= (1 if kind is PPCA and not holes else 5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_reported_likelihood_is_that_of_the_parameters(kind, holes):
    data = Data.from_array(factor_data(150, columns=8, latents=1, holes=holes))
    model = kind(data.shape, 1)
    history = fit(model, data, tolerance=1e-10, progress=False).history
    evidence = evaluate(model, data)
    assert evidence.kind == "exact"
    assert evidence.nats == pytest.approx(history[-1]["log_prob"], abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_fit_ends_where_the_gradient_is_zero(kind):
    data = Data.from_array(factor_data(120, columns=8, latents=1, holes=0.2))
    model = kind(data.shape, 1)
    fit(model, data, tolerance=1e-13, steps=5000, progress=False)
    model.infer(data.x, 1, data.mask, draw=draw_mean).log_w.mean().backward()
    assert model.loc.grad.abs().max() < 1e-5
    assert model.weight.grad.abs().max() < 1e-5
    noise = model.log_variance.grad
    assert (noise.sum().abs() if kind is PPCA else noise.abs().max()) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FactorAnalysis did not converge")
@pytest.mark.parametrize("latents", [1, 2, 3])
def test_factor_analysis_equals_scikit_learn(latents):
    x = factor_data()
    peer = SklearnFA(latents, tol=1e-8, max_iter=20_000, svd_method="lapack").fit(x)
    data = Data.from_array(x)
    model = FactorAnalysis(data.shape, latents)
    found = fit(model, data, progress=False)
    assert evaluate(model, data, Exact()).nats == pytest.approx(peer.score(x), abs=1e-3)
    assert evaluate(model, data).nats >= peer.score(x) - 1e-7
    assert len(found.history) < 200
    covariance = moments(model)[3]
    assert np.abs(covariance - peer.get_covariance()).max() < 0.05 * np.abs(covariance).max()


@pytest.mark.parametrize("latents", [1, 2, 5])
def test_ppca_equals_scikit_learn(latents):
    x = factor_data()
    data = Data.from_array(x)
    model = PPCA(data.shape, latents)
    fit(model, data, progress=False)
    assert evaluate(model, data).nats == pytest.approx(PCA(latents).fit(x).score(x), abs=1e-3)


def test_ppca_is_the_closed_form():
    x = factor_data()
    model = PPCA((6,), 2)
    assert len(fit(model, Data.from_array(x), progress=False).history) <= 2
    loc, weight, noise, _ = moments(model)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    sigma2 = values[:4].mean()
    np.testing.assert_allclose(loc, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(noise, sigma2, rtol=1e-10)
    top = vectors[:, 4:]
    np.testing.assert_allclose(
        weight @ weight.T, top @ np.diag(values[4:] - sigma2) @ top.T, atol=1e-9
    )


def test_ppca_keeps_one_noise_variance_on_columns_of_unlike_scale():
    x = factor_data(300, columns=4, latents=1) * [1e5, 1, 1, 1]
    model = PPCA((4,), 1)
    found = fit(model, Data.from_array(x), progress=False)
    noise = model.log_variance.detach().exp().numpy()
    wanted = np.linalg.eigvalsh(np.cov(x.T, bias=True))[:3].mean()
    np.testing.assert_allclose(noise, wanted, rtol=1e-6)
    assert found.warnings == ()
    assert evaluate(model, Data.from_array(x)).nats == pytest.approx(
        PCA(1).fit(x).score(x), abs=1e-2
    )


def test_masked_ppca_keeps_one_noise_variance():
    x = factor_data(300, columns=4, latents=1, holes=0.2) * [1e5, 1, 1, 1]
    model = PPCA((4,), 1)
    fit(model, Data.from_array(x), steps=300, progress=False)
    noise = model.log_variance.detach()
    assert torch.equal(noise, noise[:1].expand(4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_constant_columns_work_and_warn(kind, holes):
    x = factor_data(200, holes=holes)
    x[:, 2] = 7.0
    model = kind((6,), 2)
    found = fit(model, Data.from_array(x), steps=200, progress=False)
    assert any("column 2 is constant" in w for w in found.warnings)
    assert evaluate(model, Data.from_array(x)).values.isfinite().all()
    assert model.reconstruct(Data.from_array(x).x)[:, 2].sub(7).abs().max() < 0.1


def test_heywood_case_names_its_column():
    x = factor_data(300, columns=5, latents=1)
    x[:, 3] = x[:, [0, 1, 2, 4]].mean(1)
    x = np.column_stack([x, np.random.default_rng(0).normal(size=(300, 2))])
    x[:, 6] = 2 * x[:, 5]  # two copies of one variable: a factor explains both
    model = FactorAnalysis((7,), 3)
    found = fit(model, Data.from_array(x), progress=False)
    heywood = [w for w in found.warnings if "Heywood" in w]
    assert len(heywood) == 1
    assert "5" in heywood[0]
    assert "6" in heywood[0]
    assert "use fewer latents" in heywood[0]
    assert evaluate(model, Data.from_array(x)).values.isfinite().all()


def test_no_complaint_about_an_honest_fit():
    model = FactorAnalysis((6,), 2)
    assert fit(model, Data.from_array(factor_data()), progress=False).warnings == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("x", [np.array([[1.0, 2.0, 4.0]]), np.full((20, 3), 5.5)])
def test_single_rows_and_constant_data_do_not_break(kind, x):
    model = kind((3,), 1)
    found = fit(model, Data.from_array(x), progress=False)
    assert any("constant" in w for w in found.warnings)
    assert evaluate(model, Data.from_array(x)).values.isfinite().all()
    assert model.sample(4, seed=0).sub(torch.from_numpy(x[0])).abs().max() < 0.1


def test_fewer_rows_than_columns_work():
    x = factor_data(4, columns=6)
    for kind in KINDS:
        model = kind((6,), 3)
        assert math.isfinite(
            fit(model, Data.from_array(x), progress=False).history[-1]["log_prob"]
        )
        assert evaluate(model, Data.from_array(x)).values.isfinite().all()


def test_missing_columns_and_sizes_are_refused(refused):
    x = factor_data(20)
    x[:, 4] = np.nan
    with refused("column 4", "no observed value"):
        fit(FactorAnalysis((6,), 2), Data.from_array(x), progress=False)
    with refused("latents=0"):
        FactorAnalysis((6,), 0)
    with refused("latents=7", "6"):
        FactorAnalysis((6,), 7)
    with refused("latents=6", "noise"):
        PPCA((6,), 6)
    with refused("epochs", "steps"):
        fit(PPCA((6,), 2), Data.from_array(factor_data(20)), epochs=3, progress=False)


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_fit_draws_nothing(holes, untouched):
    data = Data.from_array(factor_data(60, holes=holes))
    models = [FactorAnalysis(data.shape, 2) for _ in range(2)]
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        with untouched():
            fit(model, data, steps=20, progress=False)
    assert torch.equal(models[0].weight, models[1].weight)


def test_what_stands_in_a_missing_cell_is_ignored():
    x, mask = random_rows()
    for value in (math.nan, math.inf, 1e300):
        spoiled = torch.where(mask, x, value)
        models = [random_model(FactorAnalysis) for _ in range(2)]
        for model, there in zip(models, (x, spoiled), strict=True):
            model.infer(there, 1, mask, draw=draw_mean).log_w.sum().backward()
        assert torch.equal(*(m.weight.grad for m in models))
        assert torch.equal(*(m.loc.grad for m in models))
        assert models[1].weight.grad.isfinite().all()
        assert models[1].impute(spoiled, mask, seed=0).isfinite().all()


def test_samples_have_the_models_moments():
    model = random_model(FactorAnalysis)
    loc, _, _, covariance = moments(model)
    x = model.sample(40_000, seed=3).numpy()
    spread = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(0) - loc) < 5 * spread / 200).all()
    assert np.abs((np.cov(x.T) - covariance) / np.outer(spread, spread)).max() < 5 * 2 / 200


def regressed(n=300, holes=0.0, seed=0, classes=True):
    """Rows whose mean depends on a context: one-hot classes, or two numbers."""
    rng = np.random.default_rng(seed)
    c = np.eye(3)[rng.integers(0, 3, n)] if classes else rng.normal(size=(n, 2))
    x = factor_data(n, seed=seed + 10) + 2 * c @ rng.normal(size=(c.shape[1], 6))
    x[rng.random(x.shape) < holes] = np.nan
    return replace(Data.from_array(x), context=torch.from_numpy(c))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holes", [0.0, 0.4])
def test_context_moves_the_mean_exactly(kind, holes, exactly):
    data = regressed(50, holes)
    model = kind((6,), 2, contexts=3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn_like(p))
        if kind is PPCA:
            model.log_variance.fill_(-0.3)
    loc, _, _, covariance = moments(model)
    effect = model.effect.detach().numpy()
    wanted = []
    for i in range(len(data)):
        seen = np.ones(6, bool) if data.mask is None else data.mask[i].numpy()
        mean = loc + effect @ data.context[i].numpy()
        here = multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)])
        wanted.append(here.logpdf(data.x[i].numpy()[seen]) if seen.any() else 0.0)
    exactly(evaluate(model, data).values, torch.tensor(wanted))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("holes", [0.0, 0.4])
def test_conditional_fit_is_a_maximum_and_never_falls(kind, classes, holes):
    data = regressed(holes=holes, classes=classes)
    model = kind((6,), 2, contexts=data.context.shape[1])
    history = fit(model, data, tolerance=1e-13, steps=4000, progress=False).history
    values = [row["log_prob"] for row in history]
    assert all(later >= earlier - 1e-10 for earlier, later in pairwise(values))
    assert evaluate(model, data).nats == pytest.approx(values[-1], abs=1e-8)
    model.infer(data.x, 1, data.mask, data.context, draw=draw_mean).log_w.mean().backward()
    scale = (0.5 * model.log_variance.detach()).exp()[:, None]  # in units of each column's noise
    for gradient in (model.loc.grad[:, None], model.effect.grad, model.weight.grad):
        assert (scale * gradient).abs().max() < 1e-5


def test_a_class_never_seen_with_a_column_breaks_nothing():
    data = regressed(holes=0.3)
    gone = data.context[:, 0].bool()
    mask = data.mask.clone()
    mask[gone, 2] = False
    model = FactorAnalysis((6,), 2, contexts=3)
    history = fit(model, replace(data, mask=mask), steps=50, progress=False).history
    assert all(b["log_prob"] >= a["log_prob"] - 1e-10 for a, b in pairwise(history))
    assert all(p.isfinite().all() for p in model.parameters())


def test_contexts_must_fit_the_model(refused):
    data = regressed(30)
    conditional, plain = PPCA((6,), 2, contexts=3), PPCA((6,), 2)
    with refused("has no context", "context of 3 columns"):
        evaluate(conditional, replace(data, context=None))
    with refused("a context of 3 columns", "takes none"):
        evaluate(plain, data)
    with refused("a context of 2 columns", "one of 3"):
        evaluate(conditional, replace(data, context=data.context[:, :2]))


@pytest.mark.parametrize("kind", KINDS)
def test_no_context_is_ignored(kind, refused):
    data = regressed(30)
    x, c = data.x, data.context
    conditional, plain = kind((6,), 2, contexts=3), kind((6,), 2)
    asked = (
        lambda model, context: model.log_prob(x, context=context),
        lambda model, context: model.impute(x, x > 0, context),
        lambda model, context: model.sample(len(x), context),
        lambda model, context: model.encode(x, context=context),
        lambda model, context: model.em(x, None, context),
    )
    for ask in asked:
        with refused("built with contexts=3", "given no context"):
            ask(conditional, None)
        with refused("built without a context"):
            ask(plain, c)
        with refused("3 values"):
            ask(conditional, c[:, :2])
        ask(conditional, c)


@pytest.mark.parametrize("contexts", [0, 1])
@pytest.mark.parametrize("kind", [FactorAnalysis, PPCA])
def test_columns_far_from_zero_are_fitted_as_well(kind, contexts):
    z = torch.randn(200, 1, dtype=torch.float64)
    x = z * torch.tensor([[2.0, -1.0, 1.0, 0.5]]) + torch.randn(200, 4, dtype=torch.float64)
    mask = torch.rand(200, 4) < 0.75
    mask[:, 0] = True
    c = torch.randn(200, contexts, dtype=torch.float64) if contexts else None
    found = []
    for far in (0.0, 2.0**31):  # seconds since 1970, within a few of them
        model = kind((4,), 1, contexts=contexts)
        context = None if c is None else c + far
        passes = list(islice(model.em(x + far, mask, context), 60))
        assert all(b > a - 1e-6 for a, b in pairwise(passes))
        found.append((passes[-1], model.log_variance.detach(), model.weight.detach().abs()))
    for near, away in zip(*found, strict=True):
        assert torch.allclose(near, away, rtol=1e-4, atol=1e-5)
