"""The outlier detector: both conventions say what the density says."""

import pickle
import warnings

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import latently as lt
from latently.inference import attribution
from latently.interfaces.sklearn import LatentOutlierDetector
from latently.models.components import Columns, Diagonal, Full

QUICK = {"epochs": 2, "samples": 5}
IRIS, _ = load_iris(return_X_y=True)
DRAW = np.random.default_rng(0)
CLOUD = DRAW.normal(size=(300, 1)) @ DRAW.normal(size=(1, 3)) + DRAW.normal(size=(300, 3))


def fitted(X=CLOUD, recipe="fa", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = LatentOutlierDetector(recipe, **{"latents": 1, **QUICK, **options})
        return detector.fit(X)


@pytest.mark.slow
@parametrize_with_checks([LatentOutlierDetector("fa", latents=1)])
def test_what_scikit_learn_asks_of_outlier_detectors(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


@pytest.mark.slow
@parametrize_with_checks([LatentOutlierDetector(**QUICK)])
def test_what_scikit_learn_asks_of_the_usual_one(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


def test_both_conventions_are_log_p():
    detector = fitted(contamination=0.07)
    model = detector.model_
    weight, noise = model.weight.detach().numpy(), model.log_variance.detach().exp().numpy()
    normal = multivariate_normal(model.loc.detach().numpy(), weight @ weight.T + np.diag(noise))
    log_p = normal.logpdf(CLOUD)
    np.testing.assert_allclose(detector.score_samples(CLOUD), log_p, rtol=1e-9)
    np.testing.assert_allclose(detector.anomaly_score(CLOUD), -log_p, rtol=1e-9)
    assert detector.offset_ == -detector.threshold_ == pytest.approx(np.quantile(log_p, 0.07))
    above = detector.decision_function(CLOUD)
    np.testing.assert_allclose(above, log_p - detector.offset_, rtol=1e-9)
    np.testing.assert_array_equal(detector.predict(CLOUD), np.where(above < 0, -1, 1))


def test_the_rows_of_the_fit_are_judged_as_others_are():
    detector = fitted(contamination=0.07)
    np.testing.assert_array_equal(detector.decision_scores_, detector.anomaly_score(CLOUD))
    np.testing.assert_array_equal(detector.labels_, (detector.predict(CLOUD) == -1).astype(int))
    above = detector.decision_scores_ > detector.threshold_
    np.testing.assert_array_equal(detector.labels_, above)
    assert detector.labels_.sum() == 21
    again = clone(detector).fit_predict(CLOUD)
    np.testing.assert_array_equal(again, detector.predict(CLOUD))


def test_contamination_moves_the_threshold_alone():
    few, many = fitted(contamination=0.01), fitted(contamination=0.5)
    np.testing.assert_array_equal(few.decision_scores_, many.decision_scores_)
    assert few.threshold_ > many.threshold_
    assert many.labels_.sum() == 150


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fa", "mixture", "table"])
def test_a_row_off_the_line_is_strange(recipe):
    """Both its values are usual, their combination is not."""
    x = np.random.default_rng(1).normal(size=(400, 1))
    line = np.hstack([x, x]) + 0.05 * np.random.default_rng(2).normal(size=(400, 2))
    options = {"epochs": 80, "samples": 50} if recipe == "table" else {}
    detector = fitted(line, recipe, **options)
    off, on = detector.anomaly_score([[1.0, -1.0], [1.0, 1.0]])
    assert off > on + 5
    assert detector.predict([[1.0, -1.0]]) == -1


def test_holes_leave_the_rest_to_judge():
    detector = fitted()
    holed = CLOUD.copy()
    holed[:, 0] = np.nan
    model = detector.model_
    weight, noise = model.weight.detach().numpy(), model.log_variance.detach().exp().numpy()
    covariance = weight @ weight.T + np.diag(noise)
    normal = multivariate_normal(model.loc.detach().numpy()[1:], covariance[1:, 1:])
    expected = normal.logpdf(CLOUD[:, 1:])
    np.testing.assert_allclose(detector.score_samples(holed), expected, rtol=1e-9)


def test_a_cell_is_strange_given_the_others():
    """The conditional normal of factor analysis, in closed form."""
    detector = fitted()
    model = detector.model_
    weight, noise = model.weight.detach().numpy(), model.log_variance.detach().exp().numpy()
    mean, cov = model.loc.detach().numpy(), weight @ weight.T + np.diag(noise)
    gain = cov[0, 1:] @ np.linalg.inv(cov[1:, 1:])
    spread = cov[0, 0] - gain @ cov[1:, 0]
    centre = mean[0] + (CLOUD[:, 1:] - mean[1:]) @ gain
    expected = -norm(centre, np.sqrt(spread)).logpdf(CLOUD[:, 0])
    np.testing.assert_allclose(detector.attribute(CLOUD)[:, 0], expected, rtol=1e-7, atol=1e-9)
    holed = np.column_stack([CLOUD, np.ones(300)])  # a constant takes no part
    holed[::2, 0] = np.nan
    found = fitted(holed).attribute(holed)
    assert found.shape == (300, 4)
    assert (found[::2, 0] == 0).all()
    assert (found[1::2, 0] != 0).all()
    assert (found[:, 3] == 0).all()


def test_the_errors_of_an_autoencoder_are_those_of_its_cells(refused):
    detector = fitted(recipe="ae")
    np.testing.assert_allclose(detector.attribute(CLOUD).sum(1), detector.decision_scores_)
    with refused("recipe='flow'", "cannot leave cells out"):
        fitted(recipe="flow").attribute(CLOUD)


def test_an_autoencoder_judges_by_its_error():
    detector = fitted(recipe="ae")
    assert (detector.decision_scores_ > 0).all()
    assert detector.labels_.sum() == 30


def test_a_pipeline_asks_and_a_pickle_keeps():
    pipeline = make_pipeline(StandardScaler(), LatentOutlierDetector("fa", latents=1)).fit(CLOUD)
    assert (pipeline.predict(CLOUD) == -1).sum() == 30
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(
        again.decision_function(CLOUD), pipeline.decision_function(CLOUD)
    )


@pytest.mark.parametrize("share", [0, 0.6, -0.1, "auto", True, None])
def test_a_contamination_that_is_none_is_named(refused, share):
    with refused(f"contamination={share!r}", "at most 0.5"):
        LatentOutlierDetector("fa", contamination=share).fit(IRIS)


def test_the_usual_one_is_a_mixture_of_as_many_components_as_the_rows_allow(exactly):
    detector = LatentOutlierDetector().fit(CLOUD)
    usual = Full(prior=1.5, share=0.03)
    model = lt.mixture((3,), components=15, family=usual, restarts=1)
    rows = lt.Data.from_array(CLOUD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lt.fit(model, rows, steps=20, tolerance=1e-3, seed=detector.seed_, progress=False)
    assert detector.model_.family == usual
    exactly(detector.score_samples(CLOUD), lt.evaluate(model, rows).values)
    assert len(LatentOutlierDetector().fit(np.tile(CLOUD, (5, 1))).model_.logits) == 60


def test_options_of_the_user_win():
    three = LatentOutlierDetector(latents=3).fit(CLOUD).model_
    assert (len(three.logits), three.restarts, three.family) == (3, 1, Full(1.5, share=0.03))
    options = {"family": Diagonal(), "restarts": 2, "components": 4}
    own = LatentOutlierDetector(options=options).fit(CLOUD).model_
    assert (len(own.logits), own.restarts, own.family) == (4, 2, Diagonal())
    assert LatentOutlierDetector("fa", latents=1).fit(CLOUD).model_.latent_states() is None


@pytest.mark.parametrize(
    ("rows", "columns"), [(3, 1), (2, 3), (3, 3), (10, 4), (10, 50), (5, 300), (4, 2100)]
)
@pytest.mark.parametrize("holes", [False, True], ids=["complete", "holes"])
def test_few_rows_and_wide_ones_have_finite_scores(rows, columns, holes):
    x = np.random.default_rng(rows).normal(size=(rows, columns))
    test = np.vstack([x, 100 * x])
    if holes:
        x[0, 0] = np.nan
        test[0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = LatentOutlierDetector().fit(np.column_stack([x, np.ones(rows)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a column of two rows and a hole was constant
        found = detector.anomaly_score(np.column_stack([test, np.ones(2 * rows)]))
    assert np.isfinite(found).all()
    assert (found[rows:] > found[:rows].max()).all()


def test_covariances_that_are_too_dear_are_left_out_and_components_are_not():
    x = np.random.default_rng(0).normal(size=(400, 60))
    holed = np.where(np.random.default_rng(1).random(x.shape) < 0.1, np.nan, x)
    full, apart = (LatentOutlierDetector().fit(rows).model_ for rows in (x, holed))
    assert full.family == Full(30, share=0.03)
    assert apart.family == Diagonal(1)
    assert len(full.logits) == len(apart.logits) == 20
    alike = x.copy()
    alike[:, 0] = np.where(np.arange(400) < 200, np.nan, alike[:, 0])  # one pattern alone
    assert LatentOutlierDetector().fit(alike).model_.family == full.family


def test_equal_rows_and_rows_far_off_have_finite_scores():
    x = np.repeat([[0.0, 1.0], [0.0, 2.0], [3.0, 1.0]], 20, 0)
    detector = LatentOutlierDetector().fit(x)
    assert np.isfinite(detector.decision_scores_).all()
    off, on = detector.anomaly_score([[1e12, -1e12], [0.0, 1.0]])
    assert off > on


def test_holes_of_the_fit_are_integrated_out():
    """Rows that lack every second cell know as much of each column as those that are there."""
    x = CLOUD.copy()
    x[::2, 0], x[1::2, 1] = np.nan, np.nan
    detector = LatentOutlierDetector(latents=1).fit(x)
    scatter = detector.model_.parts.scatter
    np.testing.assert_allclose(scatter.loc[0].detach(), np.nanmean(x, 0), atol=0.15)
    assert (detector.predict(CLOUD.mean(0)[None]) == 1).all()
    assert (detector.predict(CLOUD.mean(0)[None] + 20) == -1).all()


def test_names_and_numbers_are_told_by_a_mixture_of_columns(library, people):
    table = library.DataFrame(people.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = LatentOutlierDetector().fit(table)
        model = detector.model_
        assert isinstance(model.family, Columns)
        assert len(model.logits) == 10
        assert np.isfinite(detector.decision_scores_).all()
        odd = {name: cells[:2] for name, cells in people.columns.items()}
        odd["city"], odd["age"] = ["Rome", "Bonn"], [20, 20]  # of age 60 there, of 20 here
        rome, bonn = detector.anomaly_score(library.DataFrame(odd))
    assert rome > bonn + 2


def test_numbers_are_those_of_an_array_whatever_their_kind(library):
    """Counts, shares, dates and truth values; a later count below 0 is strange, not refused."""
    draw, n = np.random.default_rng(0), 200
    columns = {
        "count": draw.poisson(5, n),
        "level": draw.integers(1, 4, n),
        "share": draw.random(n),
        "flag": draw.random(n) < 0.4,
        "day": (np.datetime64("2020-01-01") + draw.integers(0, 900, n)).astype("M8[us]"),
    }
    detector = LatentOutlierDetector().fit(library.DataFrame(columns))
    assert {column.kind for column in detector.schema_.columns} == {"real", "datetime"}
    seconds = columns["day"].astype("M8[s]").astype(float)
    array = np.column_stack([*[v.astype(float) for v in list(columns.values())[:4]], seconds])
    wanted = LatentOutlierDetector().fit(array).decision_scores_
    np.testing.assert_allclose(detector.decision_scores_, wanted, rtol=1e-9)
    below = library.DataFrame({name: v[:1] for name, v in columns.items()} | {"count": [-15]})
    assert detector.predict(below) == -1
    counted = LatentOutlierDetector(kinds={"count": "count"}).fit(library.DataFrame(columns))
    assert isinstance(counted.model_.family, Columns)
    assert counted.schema_.columns[0].kind == "count"


def test_cells_of_a_model_without_exact_conditionals_are_those_of_attribution():
    detector = fitted(CLOUD[:20], "table")
    rows = lt.Data.from_array(CLOUD[:20])
    known = attribution(detector.model_, rows, samples=5, seed=detector.seed_)
    np.testing.assert_allclose(detector.attribute(CLOUD[:20]), known.values, rtol=1e-9)


def test_a_mixture_that_the_user_names_complains_and_the_usual_does_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LatentOutlierDetector().fit(CLOUD)
    spread = np.r_[np.zeros((60, 1)), [[1.0]]] + 1e-9 * np.arange(61)[:, None]
    with pytest.warns(UserWarning, match="covariance singular"):
        LatentOutlierDetector(latents=2, options={"family": Full()}).fit(spread)


def test_whole_numbers_that_only_increase_are_numbers():
    """They look like keys; the other estimators say that they are left out."""
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    log = pd.DataFrame({"t": np.cumsum(rng.integers(1, 60, 200)), "load": rng.normal(size=200)})
    detector = LatentOutlierDetector().fit(log)
    assert detector.schema_.names == ("t", "load")
    assert detector.predict(pd.DataFrame({"t": [10**7], "load": [0.0]})).tolist() == [-1]
    kept = LatentOutlierDetector(kinds={"t": "identifier"}).fit(log)
    assert kept.schema_.names == ("load",)
    with pytest.warns(UserWarning, match="LatentDensity: column 't': left out.*kinds"):
        lt.LatentDensity("fa", latents=1).fit(log.assign(b=rng.normal(size=200)))
