"""The scikit-learn estimators: sklearn's own checks, and that they say what the models say."""

import copy
import os
import pickle
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.decomposition import FactorAnalysis as SklearnFactorAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import latently as lt
from latently.models.components import Bits, Diagonal
from latently.nets import MLP
from latently.probability.families import Bernoulli
from latently.probability.transforms import Logit

SMALL = {"epochs": 2, "samples": 5}
RECIPES = ("fa", "ppca", "vae", "mixture", "flow", "ae")
CHECKED = {name: lt.LatentTransformer(name, latents=1, **SMALL) for name in RECIPES}
IRIS, _ = load_iris(return_X_y=True)
DRAW = np.random.default_rng(0)
FACTORS = DRAW.normal(size=(200, 2)) @ DRAW.normal(size=(2, 6)) + DRAW.normal(size=(200, 6))

ARRAY_API = """
from functools import partial
from sklearn.utils.estimator_checks import estimator_checks_generator
from latently.interfaces import sklearn
found = 0
for name in sklearn.__all__:
    for estimator, check in estimator_checks_generator(getattr(sklearn, name)("fa", latents=1)):
        if "array_api" in check.func.__name__:
            check(estimator)
            found += 1
print("passed:", found)
"""

LAZY = """
import sys, latently, latently.registry, latently.recipes
latently.vae, dir(latently)
print("sklearn" in sys.modules)
latently.LatentTransformer
print("sklearn" in sys.modules)
"""


def fitted(recipe, X=IRIS, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lt.LatentTransformer(recipe, **{"latents": 2, **SMALL, **options}).fit(X)


@pytest.mark.slow
@parametrize_with_checks([CHECKED["fa"]])
def test_what_scikit_learn_asks_of_estimators(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


@pytest.mark.slow
@parametrize_with_checks([CHECKED[name] for name in ("vae", "ppca", "mixture", "flow", "ae")])
def test_what_scikit_learn_asks_of_all_others(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


def run(code, **variables):
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    return ran.stdout.split("\n")[:-1]


@pytest.mark.slow
def test_the_check_that_scipy_must_be_told_of_before_it_is_imported():
    (line,) = run(ARRAY_API, SCIPY_ARRAY_API="1")
    assert line == "passed: 5"


@pytest.mark.slow
def test_scikit_learn_is_imported_when_it_is_asked_for():
    assert run(LAZY) == ["False", "True"]


# ---- Truths


@pytest.fixture(scope="module")
def theirs():
    """scikit-learn's factor analysis of rows with two factors."""
    return SklearnFactorAnalysis(2, tol=1e-9, max_iter=5000, svd_method="lapack").fit(FACTORS)


def test_factor_analysis_scores_rows_as_scikit_learn_does(theirs):
    ours = fitted("fa", FACTORS)
    with torch.no_grad():
        ours.model_.loc.copy_(torch.tensor(theirs.mean_))
        ours.model_.weight.copy_(torch.tensor(theirs.components_.T))
        ours.model_.log_variance.copy_(torch.tensor(theirs.noise_variance_).log())
    scores, z = theirs.score_samples(FACTORS), theirs.transform(FACTORS)
    np.testing.assert_allclose(ours.score_samples(FACTORS), scores, rtol=1e-9)
    np.testing.assert_allclose(ours.transform(FACTORS), z, rtol=1e-7, atol=1e-9)
    assert ours.score(FACTORS) == pytest.approx(theirs.score(FACTORS), rel=1e-9)


def test_a_fit_is_as_likely_as_scikit_learns(theirs):
    assert fitted("fa", FACTORS).score(FACTORS) == pytest.approx(theirs.score(FACTORS), abs=1e-4)


def test_ppca_is_scikit_learns_pca():
    theirs, n = SklearnPCA(2).fit(IRIS), len(IRIS)
    ours = fitted("ppca")
    # sklearn divides by n - 1: its model at our scale is that of stretched rows
    stretch = np.sqrt(n / (n - 1))
    rows = IRIS.mean(0) + (IRIS - IRIS.mean(0)) * stretch
    expected = theirs.score_samples(rows) + 4 * np.log(stretch)
    np.testing.assert_allclose(ours.score_samples(IRIS), expected, rtol=1e-9)


def test_a_mixture_of_one_full_normal_is_scikit_learns():
    theirs = GaussianMixture(1, reg_covar=0).fit(IRIS)
    np.testing.assert_allclose(
        fitted("mixture", latents=1).score_samples(IRIS), theirs.score_samples(IRIS), rtol=1e-9
    )


def test_responsibilities_sum_to_one_and_are_undone_to_means():
    mixture = fitted("mixture", latents=3, options={"family": Diagonal()})
    shares = mixture.transform(IRIS)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    means = mixture.inverse_transform(np.eye(3))
    np.testing.assert_allclose(
        mixture.inverse_transform(shares), means[shares.argmax(1)], rtol=1e-12
    )


def test_a_flow_is_undone_exactly():
    flow = fitted("flow")
    noise = flow.transform(IRIS)
    assert noise.shape == IRIS.shape
    np.testing.assert_allclose(flow.inverse_transform(noise), IRIS, atol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES)
def test_transform_is_encode_and_inverse_transform_is_decode(recipe):
    estimator = fitted(recipe)
    z = estimator.model_.encode(torch.tensor(IRIS))[0]
    assert estimator.model_.dtype == torch.float64
    np.testing.assert_allclose(estimator.transform(IRIS), z.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        estimator.inverse_transform(z), estimator.model_.decode((z,)).numpy(), rtol=1e-9
    )


def test_latents_of_any_shape_lie_side_by_side():
    estimator = fitted("vae", latents=(2, 3))
    z = estimator.transform(IRIS)
    inner = estimator.model_.encode(torch.tensor(IRIS))[0]
    assert inner.shape == (150, 2, 3)
    np.testing.assert_allclose(z, inner.flatten(1).numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        estimator.inverse_transform(z), estimator.model_.decode((inner,)).numpy(), rtol=1e-9
    )


def test_the_bound_is_that_of_evaluate():
    estimator = fitted("vae", samples=7)
    data = lt.Data.from_array(IRIS)
    evidence = lt.evaluate(estimator.model_, data, lt.ImportanceSampling(7), seed=estimator.seed_)
    np.testing.assert_array_equal(estimator.score_samples(IRIS), evidence.values.numpy())
    assert estimator.score(IRIS) == pytest.approx(evidence.nats)


def test_an_autoencoder_is_scored_by_its_error():
    estimator = fitted("ae")
    back = estimator.inverse_transform(estimator.transform(IRIS))
    errors = (np.square(back - IRIS) / IRIS.var(0)).mean(1)
    scores = estimator.score_samples(IRIS)
    strange = estimator.model_.anomaly_score(torch.tensor(IRIS)).detach().numpy()
    np.testing.assert_allclose(scores, -strange, rtol=1e-12)
    np.testing.assert_allclose(scores, -errors, rtol=1e-6)  # variances of rows in float32
    assert estimator.score(IRIS) == pytest.approx(scores.mean())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_row_does_not_depend_on_its_company(recipe):
    rows = np.random.default_rng(0).normal(size=(300, 4))  # more than a block
    if recipe != "flow":
        rows[::3, 1] = np.nan
    estimator = fitted(recipe, rows)
    z, scores = estimator.transform(rows), estimator.score_samples(rows)
    order = np.random.default_rng(1).permutation(300)
    some = order[:20]
    for name, whole in (("transform", z), ("score_samples", scores)):
        answer = getattr(estimator, name)
        np.testing.assert_allclose(answer(rows[order]), whole[order], rtol=0, atol=1e-9)
        alone = np.concatenate([answer(rows[i : i + 1]) for i in some])
        np.testing.assert_allclose(alone, whole[some], rtol=0, atol=1e-9)


# ---- Missing cells


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_nan_is_what_the_model_can_leave_out(recipe):
    holed = IRIS.copy()
    holed[::4, 2] = np.nan
    estimator = lt.LatentTransformer(recipe, latents=2, **SMALL)
    before = get_tags(estimator).input_tags.allow_nan
    if before:
        assert np.isfinite(estimator.fit(holed).transform(holed)).all()
        assert np.isfinite(estimator.score_samples(holed)).all()
    else:
        with pytest.raises(ValueError, match="contains NaN"):
            estimator.fit(holed)
        with pytest.raises(ValueError, match="contains NaN"):
            estimator.fit(IRIS).transform(holed)
    assert before == get_tags(estimator).input_tags.allow_nan == estimator.model_.holes
    assert before == (recipe != "flow")


def test_what_stands_in_a_missing_cell_is_integrated_out():
    holed = IRIS.copy()
    holed[:, 3] = np.nan
    estimator = fitted("fa")
    mean, covariance = estimator.model_.loc.detach(), _covariance(estimator.model_)
    marginal = torch.distributions.MultivariateNormal(mean[:3], covariance[:3, :3])
    expected = marginal.log_prob(torch.tensor(IRIS[:, :3])).numpy()
    np.testing.assert_allclose(estimator.score_samples(holed), expected, rtol=1e-9)


def _covariance(model):
    weight = model.weight.detach()
    return weight @ weight.T + model.log_variance.detach().exp().diag()


def test_an_encoder_of_rows_with_holes_sees_the_mask():
    holed = IRIS.copy()
    holed[::4, 2] = np.nan
    assert fitted("vae", holed).model_.sees_mask
    assert not fitted("vae").model_.sees_mask


# ---- Numbers of every size


@pytest.mark.parametrize("recipe", RECIPES)
def test_columns_of_any_scale(recipe):
    scale = np.array([1e6, 1.0, 1e-6, 1e3, 1.0, 1e-3])
    rows = FACTORS * scale
    plain, scaled = fitted(recipe, FACTORS), fitted(recipe, rows)
    assert np.isfinite(scaled.transform(rows)).all()
    assert np.isfinite(scaled.score_samples(rows)).all()
    if recipe in ("fa", "vae", "flow"):  # whose columns have scales of their own
        expected = plain.transform(FACTORS)
        np.testing.assert_allclose(scaled.transform(rows), expected, rtol=1e-2, atol=1e-3)
    if recipe in ("fa", "mixture", "flow"):
        moved = plain.score(FACTORS) - np.log(scale).sum()
        assert scaled.score(rows) == pytest.approx(moved, abs=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_constant_columns_give_numbers(recipe):
    rows = np.column_stack([IRIS, np.full(150, 7.0), np.zeros(150)])
    estimator = fitted(recipe, rows)
    assert np.isfinite(estimator.transform(rows)).all()
    assert np.isfinite(estimator.score_samples(rows)).all()


def test_whole_numbers_are_continuous_unless_a_likelihood_says_otherwise():
    bits = (IRIS > IRIS.mean(0)).astype(int)
    assert not fitted("vae", bits).model_.discrete
    estimator = fitted("vae", bits, likelihood=Bernoulli)
    assert estimator.model_.discrete
    assert (estimator.score_samples(bits) <= 0).all()
    assert ((estimator.inverse_transform(estimator.transform(bits)) - 0.5) ** 2 <= 0.25).all()
    classes = fitted("mixture", bits, options={"family": Bits()})
    assert (classes.score_samples(bits) <= 0).all()


# ---- scikit-learn's machinery


def test_options_reach_model_and_training():
    net = partial(MLP, hidden=(7,))
    objective = lt.Variational(bound=lt.IWAE(), samples=3)
    estimator = fitted("vae", net=net, objective=objective, options={"transform": None}, epochs=3)
    assert next(estimator.model_.encoder.parameters()).shape[0] == 7
    assert estimator.n_iter_ == len(estimator.history_) == 3
    assert estimator.history_[-1]["epoch"] == 3
    plain = fitted("vae", net=net, epochs=3)
    assert plain.history_[-1]["bound"] != estimator.history_[-1]["bound"]
    bounded = IRIS / 10
    logit = fitted("fa", bounded, options={"transform": Logit()})
    assert logit.score(bounded) != fitted("fa", bounded).score(bounded)


def test_patience_holds_rows_out_and_stops():
    estimator = fitted("vae", patience=1, epochs=200, learning_rate=0.1)
    assert 1 < estimator.n_iter_ < 200
    assert "validation" in estimator.history_[-1]


@pytest.mark.parametrize("recipe", ["vae", "mixture"])
def test_one_seed_is_one_fit(recipe):
    rows = IRIS[::3]
    once, again = fitted(recipe, rows), fitted(recipe, rows)
    np.testing.assert_array_equal(once.transform(rows), again.transform(rows))
    other = fitted("vae", rows, random_state=1)
    assert not np.allclose(other.transform(rows), fitted("vae", rows).transform(rows))
    generator = np.random.RandomState(0)
    first, second = (fitted("vae", rows, random_state=generator).seed_ for _ in range(2))
    assert first == once.seed_ != second
    one, two = (fitted("vae", rows, random_state=None).seed_ for _ in range(2))
    assert one != two


def test_global_state_is_as_before():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    numpy_state = copy.deepcopy(np.random.get_state())
    for recipe in RECIPES:
        estimator = fitted(recipe, IRIS[::3])
        estimator.inverse_transform(estimator.transform(IRIS))
        estimator.score(IRIS[:5])
    assert torch.equal(state, torch.get_rng_state())
    assert threads == torch.get_num_threads()
    assert torch.get_default_dtype() == torch.float32
    for kept, now in zip(numpy_state, np.random.get_state(), strict=True):
        np.testing.assert_array_equal(kept, now)


@pytest.mark.parametrize("recipe", RECIPES)
def test_pickle_and_model_file_give_the_same_numbers(recipe, tmp_path):
    estimator = fitted(recipe, options={"family": Diagonal()} if recipe == "mixture" else None)
    expected = estimator.transform(IRIS)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.transform(IRIS), expected)
    np.testing.assert_array_equal(again.score_samples(IRIS), estimator.score_samples(IRIS))
    path = tmp_path / "model.safetensors"
    lt.save(estimator.model_, path)
    z = lt.load(path).encode(torch.tensor(IRIS))[0]
    np.testing.assert_allclose(z.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_clone_has_the_options_and_no_fit():
    estimator = fitted("vae", net=partial(MLP, hidden=(5,)), likelihood=Bernoulli, X=IRIS > 3)
    copied = clone(estimator)
    assert repr(copied) == repr(estimator)
    with pytest.raises(NotFittedError):
        copied.transform(IRIS)


def test_names_of_features():
    estimator = fitted("vae", latents=3)
    names = [f"latenttransformer{i}" for i in range(3)]
    assert estimator.get_feature_names_out().tolist() == names
    assert estimator.n_features_in_ == 4


def test_columns_are_transformed_apart():
    both = ColumnTransformer(
        [("a", lt.LatentTransformer("fa", latents=1), [0, 1, 2]), ("b", "passthrough", [3])]
    )
    z = both.fit_transform(IRIS)
    assert z.shape == (150, 2)
    np.testing.assert_array_equal(z[:, 1], IRIS[:, 3])
    assert both.get_feature_names_out().tolist() == ["a__latenttransformer0", "b__x3"]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables_come_out_where_tables_are_asked_for(library):
    tables = pytest.importorskip(library)
    table = tables.DataFrame({f"c{i}": IRIS[:, i] for i in range(4)})
    estimator = fitted("fa", table).set_output(transform=library)
    z = estimator.transform(table)
    assert isinstance(z, tables.DataFrame)
    assert list(z.columns) == ["latenttransformer0", "latenttransformer1"]
    assert estimator.feature_names_in_.tolist() == list(table.columns)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_grid_over_latents_finds_the_best_held_out(jobs):
    grid = GridSearchCV(
        lt.LatentTransformer("fa"), {"latents": np.arange(1, 4)}, cv=3, n_jobs=jobs
    ).fit(FACTORS)
    assert grid.best_params_["latents"] > 1  # there are two factors
    assert grid.best_score_ == pytest.approx(max(grid.cv_results_["mean_test_score"]))


def test_a_grid_may_hold_several_recipes():
    grid = {"recipe": ["fa", "ppca", "vae"], "epochs": np.array([1])}
    found = GridSearchCV(lt.LatentTransformer(latents=2, samples=5), grid, cv=2).fit(FACTORS)
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()
    assert found.best_params_["recipe"] == "ppca"  # all columns have the same noise


@pytest.mark.slow
@pytest.mark.parametrize(("load", "least"), [(load_wine, 0.93), (load_breast_cancer, 0.94)])
def test_what_the_defaults_keep_is_enough_to_tell_classes_apart(load, least):
    X, y = load(return_X_y=True)
    steps = lt.LatentTransformer(), StandardScaler(), LogisticRegression(max_iter=1000)
    assert cross_val_score(make_pipeline(*steps), X, y, cv=3).mean() > least


# ---- Mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "vea"}, ["recipe='vea'", "did you mean vae"]),
        ({"recipe": None}, ["recipe=None", "known"]),
        ({"epochs": 0}, ["epochs=0", "at least 1"]),
        ({"epochs": 2.5}, ["epochs=2.5", "whole number"]),
        ({"batch_size": "many"}, ["batch_size='many'"]),
        ({"samples": True}, ["samples=True"]),
        ({"patience": 0}, ["patience=0"]),
        ({"learning_rate": "high"}, ["learning_rate='high'"]),
        ({"learning_rate": -1.0}, ["learning_rate=-1.0"]),
        ({"objective": "ELBO"}, ["objective='ELBO'", "Variational()"]),
        ({"device": "cuba"}, ["device='cuba'", "cuda"]),
        ({"options": 3}, ["options=3", "dict"]),
        ({"options": {"latents": 3}}, ["'latents'", "an argument of its own"]),
        ({"options": {"postrior": 3}}, ["postrior", "did you mean posterior"]),
        ({"latents": 0}, ["latents=0", "at least 1"]),
        ({"recipe": "fa", "latents": 5}, ["latents=5", "n_features=4"]),
        ({"recipe": "fa", "likelihood": Bernoulli}, ["fa", "likelihood"]),
        (
            {"recipe": "fa", "latents": 1, "objective": lt.Variational()},
            ["objective", "no effect"],
        ),
        ({"recipe": "fa", "latents": 1, "patience": 3}, ["patience=3", "no effect"]),
        ({"likelihood": Bernoulli}, ["X: value", "outside 0 and 1"]),
        ({"net": 3}, ["net=3", "constructor"]),
        ({"likelihood": Bernoulli((4,))}, ["vae", "build no model"]),
    ],
)
def test_mistakes_are_named_in_one_line(refused, options, words):
    with refused(*words):
        lt.LatentTransformer(**options).fit(IRIS)


def test_tags_of_a_mistake_are_no_mistake():
    for options in ({"recipe": 3}, {"latents": "many"}, {"net": 3}, {"options": {"a": 1}}):
        assert not get_tags(lt.LatentTransformer(**options)).input_tags.allow_nan


def test_rows_that_do_not_fit_are_named(refused):
    estimator = fitted("vae", IRIS > 3, likelihood=Bernoulli)
    with refused("X: value 0.5 in row 0"):
        estimator.transform(np.full((2, 4), 0.5))
    with refused("Z has 3 columns", "2 latents"):
        estimator.inverse_transform(np.zeros((1, 3)))


def test_a_doubtful_fit_warns():
    with pytest.warns(UserWarning, match="LatentTransformer: column 4 is constant"):
        lt.LatentTransformer("fa", latents=1).fit(np.column_stack([IRIS, np.ones(150)]))
