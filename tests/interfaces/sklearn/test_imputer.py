"""The imputer: closed forms, cells that stay as they are, tables that stay tables."""

import functools
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from latently.interfaces.sklearn import LatentDensity, LatentImputer

QUICK = {"epochs": 2, "samples": 20}
IRIS, SPECIES = load_iris(return_X_y=True)
HOLED = IRIS.copy()
HOLED[::3, 2] = HOLED[1::5, 0] = np.nan
MISSING = np.isnan(HOLED)
STRATEGIES = ("mean", "median", "mode", "most_frequent", "draw")


def imputer(recipe="fa", **options):
    latents = None if recipe == "table" else 1
    return LatentImputer(recipe, **{"latents": latents, **QUICK, **options})


@functools.cache
def kept(call):
    """A fitted imputer, pickled."""
    X, recipe, options = pickle.loads(call)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pickle.dumps(imputer(recipe, **options).fit(X))


def fitted(X=HOLED, recipe="fa", *, strategy="mean", **options):
    """An imputer of its own for every caller; equal fits, whatever the strategy, are made once."""
    model = pickle.loads(kept(pickle.dumps((X, recipe, options))))
    return model.set_params(strategy=strategy)


def normal(model):
    """Mean and covariance of factor analysis."""
    weight, noise = model.weight.detach().numpy(), model.log_variance.detach().exp().numpy()
    return model.loc.detach().numpy(), weight @ weight.T + np.diag(noise)


@pytest.mark.slow
@parametrize_with_checks([LatentImputer("fa", latents=1, samples=20)])
def test_what_scikit_learn_asks_of_estimators(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


@pytest.mark.slow
@parametrize_with_checks([LatentImputer(**QUICK), LatentImputer("vae", **QUICK)])
def test_what_scikit_learn_asks_of_the_usual_ones(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


# ---- Truths


@pytest.mark.parametrize("strategy", ["mean", "median"])
def test_means_and_medians_are_those_of_the_conditional_normal(strategy):
    model = fitted(strategy=strategy)
    mean, cov = normal(model.model_)
    filled = model.transform(HOLED)
    for row, x, gone in zip(filled, HOLED, MISSING, strict=True):
        gain = cov[np.ix_(gone, ~gone)] @ np.linalg.inv(cov[np.ix_(~gone, ~gone)])
        expected = mean[gone] + gain @ (x[~gone] - mean[~gone])
        np.testing.assert_allclose(row[gone], expected, rtol=1e-8)


def test_draws_have_the_moments_of_the_conditional_normal():
    model = fitted()
    mean, cov = normal(model.model_)
    row = np.array([[np.nan, 3.0, np.nan, 1.0]])
    draws = model.sample_imputations(row, 5000)[:, 0][:, [0, 2]]
    gain = cov[np.ix_([0, 2], [1, 3])] @ np.linalg.inv(cov[np.ix_([1, 3], [1, 3])])
    expected = mean[[0, 2]] + gain @ (np.array([3.0, 1.0]) - mean[[1, 3]])
    spread = cov[np.ix_([0, 2], [0, 2])] - gain @ cov[np.ix_([1, 3], [0, 2])]
    np.testing.assert_allclose(draws.mean(0), expected, atol=0.04)
    np.testing.assert_allclose(np.cov(draws.T), spread, rtol=0.15)


def test_equal_rows_are_drawn_apart():
    """A hundred rows of which nothing is known are a hundred rows, not one."""
    rows = np.full((400, 4), np.nan)
    rows[::2, 1] = 3.0
    model = fitted()
    mean, cov = normal(model.model_)
    one = model.set_params(strategy="draw").transform(rows)
    error = np.diag(cov).max() ** 0.5 / 200**0.5
    for filled in (one, model.sample_imputations(rows, 1)[0]):
        assert len(np.unique(filled[:, 0])) == 400
        np.testing.assert_allclose(filled[1::2].mean(0), mean, atol=5 * error)
        np.testing.assert_allclose(filled[1::2].std(0), np.diag(cov) ** 0.5, rtol=0.25)
        assert (filled[::2, 1] == 3.0).all()


@pytest.mark.slow
def test_what_hangs_together_is_filled_together(library):
    """Column b repeats a, so that a tells what b lacks."""
    draw = np.random.default_rng(0)
    a = draw.choice(["x", "y", "z"], 200)
    b = np.array([{"x": "one", "y": "two", "z": "three"}[value] for value in a], dtype=object)
    table = library.DataFrame({"a": a, "b": np.where(draw.random(200) < 0.2, None, b)})
    model = fitted(table, "table", epochs=60, samples=100, learning_rate=0.003)
    for strategy in ("mean", "mode", "draw"):
        model.set_params(strategy=strategy)
        assert (np.asarray(model.transform(table)["b"]) == b).mean() > 0.97


# ---- What stays


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("recipe", ["fa", "table"])
def test_no_hole_is_left_and_all_else_stays(recipe, strategy):
    filled = fitted(recipe=recipe, strategy=strategy).transform(HOLED)
    assert filled.shape == HOLED.shape
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~MISSING], HOLED[~MISSING])
    assert (filled[MISSING] != HOLED[MISSING]).all()


def test_observed_bits_are_the_same():
    rows = HOLED.astype(np.float32)
    rows[1, 1], rows[4, 1] = -0.0, np.float32(0.1)
    filled = fitted(rows, "table").transform(rows)
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled.view(np.int32)[~MISSING], rows.view(np.int32)[~MISSING])
    assert fitted().transform(IRIS[:5]).tobytes() == IRIS[:5].tobytes()
    assert fitted().transform((IRIS[:5] * 10).astype(int)).dtype == np.float64


def test_x_itself_is_not_changed(library, people):
    before = HOLED.copy()
    imputer().fit_transform(HOLED)
    np.testing.assert_array_equal(HOLED, before)
    table = library.DataFrame(people.columns)
    imputer("table", epochs=1).fit_transform(table)
    assert table.equals(library.DataFrame(people.columns))


@pytest.mark.parametrize("recipe", ["fa", "mixture", "table"])
def test_a_row_does_not_depend_on_its_company(recipe):
    model = fitted(recipe=recipe)
    whole = model.transform(HOLED[:70])
    order = np.random.default_rng(0).permutation(70)
    np.testing.assert_allclose(model.transform(HOLED[order]), whole[order], rtol=0, atol=1e-9)
    alone = np.concatenate([model.transform(HOLED[i : i + 1]) for i in order[:10]])
    np.testing.assert_allclose(alone, whole[order[:10]], rtol=0, atol=1e-9)


def test_new_rows_need_no_fit():
    model = fitted(HOLED[:100])
    weights = {name: value.clone() for name, value in model.model_.state_dict().items()}
    assert np.isfinite(model.transform(HOLED[100:])).all()
    for name, value in model.model_.state_dict().items():
        assert torch.equal(value, weights[name])


# ---- Tables


@pytest.mark.parametrize("strategy", ["mean", "mode", "draw"])
def test_a_frame_stays_a_frame(library, people, strategy):
    table = library.DataFrame(people.columns)
    filled = fitted(table, "table", strategy=strategy).transform(table)
    assert type(filled) is type(table)
    assert list(filled.columns) == list(table.columns)
    assert list(filled.dtypes) == list(table.dtypes)
    for name in table.columns:
        assert None not in np.asarray(filled[name]).tolist()
        came, went = (np.asarray(frame[name], dtype=object) for frame in (table, filled))
        seen = np.array([value is not None and value == value for value in came])
        assert (came[seen] == went[seen]).all()
    assert np.asarray(filled["city"])[5] in ("Bonn", "Oslo", "Rome")
    age = float(np.asarray(filled["age"])[7])
    assert age == round(age) >= 0


def test_pandas_keeps_index_and_types(people):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(people.columns, index=[f"p{i}" for i in range(200)])
    table["city"] = table["city"].astype("category")
    table["age"] = table["age"].astype("Int64")
    filled = fitted(table, "table").transform(table)
    assert filled.index.equals(table.index)
    assert filled.dtypes.equals(table.dtypes)
    assert not filled.isna().any().any()


def test_draws_of_a_frame_are_frames(library, people):
    table = library.DataFrame(people.columns)
    draws = fitted(table, "table").sample_imputations(table, 6)
    assert len(draws) == 6
    assert all(type(draw) is type(table) for draw in draws)
    assert len({str(np.asarray(draw["height"])[3]) for draw in draws}) > 1
    array = fitted().sample_imputations(HOLED, 3)
    assert array.shape == (3, 150, 4)
    np.testing.assert_array_equal(array[:, ~MISSING], np.tile(HOLED[~MISSING], (3, 1)))
    assert not np.array_equal(array[0], array[1])


@pytest.mark.parametrize("wanted", ["pandas", "polars"])
def test_tables_come_out_where_tables_are_asked_for(library, people, wanted):
    asked = pytest.importorskip(wanted)
    table = library.DataFrame(people.columns)
    model = fitted(table, "table", add_indicator=True).set_output(transform=wanted)
    filled = model.transform(table)
    assert isinstance(filled, asked.DataFrame)
    assert list(filled.columns) == model.get_feature_names_out().tolist()
    assert set(np.asarray(filled["city"])) == {"Bonn", "Oslo", "Rome"}
    array = fitted().set_output(transform=wanted).transform(HOLED)
    assert isinstance(array, asked.DataFrame)
    assert list(array.columns) == ["x0", "x1", "x2", "x3"]


def test_arrays_of_objects_stay_arrays_of_objects():
    rows = np.array([["a", 1.0], ["b", 2.0], [None, 3.0], ["b", np.nan]] * 20, dtype=object)
    filled = fitted(rows, "table").transform(rows)
    assert filled.dtype == object
    assert set(filled[:, 0]) == {"a", "b"}
    assert filled[1].tolist() == ["b", 2.0]


def test_constants_are_filled_with_themselves():
    rows = np.column_stack([HOLED, np.full(150, 7.0)])
    rows[::4, 4] = np.nan
    assert (fitted(rows, "table").transform(rows)[:, 4] == 7.0).all()


def test_constants_of_a_frame_are_filled_with_themselves(library):
    table = library.DataFrame({"same": ["x", None] * 75, "x": IRIS[:, 0]})
    assert set(np.asarray(fitted(table, "table").transform(table)["same"])) == {"x"}


@pytest.mark.slow
def test_missing_names_of_rows_stay_missing_with_a_warning(library):
    names = [None if i == 7 else f"p{i}" for i in range(150)]
    table = library.DataFrame({"name": names, **{f"c{j}": HOLED[:, j] for j in range(4)}})
    with pytest.warns(UserWarning, match=r"'name' is left out \(identifier\) and lacks 1 cell"):
        filled = fitted(table, "table").transform(table)
    assert list(filled["name"])[6:9] == ["p6", None, "p8"]
    assert np.isfinite(np.asarray(filled["c2"])).all()


# ---- Options as scikit-learn's imputers have them


def test_indicators_stand_behind():
    model = fitted(add_indicator=True)
    filled = model.transform(HOLED)
    assert filled.shape == (150, 6)
    np.testing.assert_array_equal(filled[:, 4:], MISSING[:, [0, 2]])
    np.testing.assert_array_equal(filled[:, :4], fitted().transform(HOLED))
    names = ["x0", "x1", "x2", "x3", "missingindicator_x0", "missingindicator_x2"]
    assert model.get_feature_names_out().tolist() == names


def test_indicators_of_a_frame(library, people):
    table = library.DataFrame(people.columns)
    filled = fitted(table, "table", add_indicator=True).transform(table)
    added = ["missingindicator_height", "missingindicator_age", "missingindicator_city"]
    assert list(filled.columns)[5:] == added
    assert np.flatnonzero(np.asarray(filled[added[0]])).tolist() == [3]
    assert fitted(add_indicator=True).sample_imputations(HOLED, 2).shape == (2, 150, 4)


def test_columns_without_a_value_go_or_are_zero():
    rows = np.column_stack([HOLED[:, :2], np.full(150, np.nan), HOLED[:, 2:]])
    with pytest.warns(UserWarning, match="x2.*no value"):
        model = imputer().fit(rows)
    assert model.transform(rows).shape == (150, 4)
    assert model.get_feature_names_out().tolist() == ["x0", "x1", "x3", "x4"]
    kept = fitted(rows, keep_empty_features=True).transform(rows)
    assert kept.shape == (150, 5)
    assert (kept[:, 2] == 0).all()
    np.testing.assert_array_equal(kept[:, [0, 1, 3, 4]], model.transform(rows))


def test_columns_of_a_frame_without_a_value_are_zero():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(HOLED, columns=list("abcd")).assign(e=np.nan)
    filled = fitted(frame, "fa", keep_empty_features=True).transform(frame)
    assert list(filled.columns) == list("abcde")
    assert (filled["e"] == 0).all()
    assert not filled.isna().any().any()


def test_another_sign_for_missing():
    rows = np.where(MISSING, -1, IRIS)
    expected = fitted().transform(HOLED)
    np.testing.assert_array_equal(fitted(rows, missing_values=-1).transform(rows), expected)
    whole = np.where(MISSING, -1, (IRIS * 10).astype(int))
    assert (fitted(whole, missing_values=-1).transform(whole) > 0).all()


@pytest.mark.slow
def test_another_sign_for_missing_of_a_frame(library):
    table = library.DataFrame({"a": ["x", "y", "gone"] * 30, "b": [1.5, 2.5, 3.0] * 30})
    filled = fitted(table, "table", missing_values="gone").transform(table)
    assert set(np.asarray(filled["a"])) == {"x", "y"}


# ---- scikit-learn's machinery


@pytest.mark.slow
def test_a_pipeline_fills_scales_and_classifies():
    steps = StandardScaler(), LogisticRegression(max_iter=1000)
    rows, species = HOLED[::2], SPECIES[::2]
    pipeline = make_pipeline(imputer(), *steps).fit(rows, species)
    assert pipeline.score(rows, species) > 0.9
    grid = {"latentimputer__strategy": ["mean", "draw"], "latentimputer__latents": [1]}
    found = GridSearchCV(pipeline, grid, cv=2).fit(rows, species)
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()


def test_columns_are_filled_apart(library, people):
    table = library.DataFrame(people.columns)
    both = ColumnTransformer(
        [("some", imputer("table"), ["age", "city"]), ("rest", "passthrough", ["member"])],
        verbose_feature_names_out=False,
    ).set_output(transform=library.__name__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filled = both.fit_transform(table)
    assert list(filled.columns) == ["age", "city", "member"]
    assert set(np.asarray(filled["city"])) == {"Bonn", "Oslo", "Rome"}


def test_clones_and_pickles(library, people):
    table = library.DataFrame(people.columns)
    model = fitted(table, "table", add_indicator=True, strategy="draw")
    assert repr(clone(model)) == repr(model)
    again = pickle.loads(pickle.dumps(model))
    assert again.transform(table).equals(model.transform(table))
    assert get_tags(LatentImputer()).input_tags.allow_nan


def test_global_state_is_as_before():
    before, ours = torch.get_rng_state(), np.random.get_state()[1].copy()
    rows = HOLED[:40]
    model = imputer("table", strategy="draw").fit(rows)
    model.transform(rows)
    model.sample_imputations(rows, 2)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(ours, np.random.get_state()[1])


# ---- Mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "medain"}, ["strategy='medain'", "did you mean median"]),
        ({"recipe": "flow"}, ["recipe='flow'", "cannot leave cells out"]),
        ({"recipe": "ae"}, ["recipe='ae'", "no density"]),
        ({"sweeps": -1}, ["sweeps=-1", "at least 0"]),
        ({"samples": 0}, ["samples=0"]),
        ({"kinds": {"x9": "real"}}, ["'x9'"]),
        ({"missing_values": [-1, -2]}, ["missing_values=[-1, -2]", "one value"]),
        ({"add_indicator": "yes"}, ["add_indicator='yes'", "True or False"]),
        ({"latents": 2.5}, ["latents=2.5", "whole number"]),
        ({"latents": True}, ["latents=True", "whole number"]),
        ({"net": "MLP"}, ["net='MLP'", "constructor"]),
        ({"likelihood": "Normal"}, ["likelihood='Normal'", "constructor"]),
        ({"keep_empty_features": 1}, ["keep_empty_features=1", "True or False"]),
    ],
)
def test_mistakes_are_named_in_one_line(refused, options, words):
    with refused(*words):
        LatentImputer(**{**QUICK, **options}).fit(HOLED)


def test_a_number_of_draws_that_is_none_is_named(refused):
    for draws in (0, 2.5, True):
        with refused(f"draws={draws!r}"):
            fitted().sample_imputations(HOLED, draws)


def test_rows_without_any_column_to_model_are_named(refused):
    with refused("no column can be modelled", "constant"):
        imputer().fit(np.ones((10, 2)))


def test_masked_arrays_are_refused_as_their_masks_would_be_lost(refused):
    masked = np.ma.masked_array(np.nan_to_num(HOLED), mask=np.isnan(HOLED))
    with refused("a masked array; write NaN"):
        imputer().fit(masked)
    with refused("a masked array"):
        fitted().transform(masked)


@pytest.mark.slow
def test_many_zeros_of_an_array_have_a_probability():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 4))
    x[:, 1] = np.where(x[:, 1] > 0, np.exp(x[:, 1]), 0.0)
    x[:, 2] = np.round(np.abs(x[:, 2])).clip(max=3)  # few values: a number as before
    holed = np.where(rng.random(x.shape) < 0.3, np.nan, x)
    found = LatentImputer(epochs=20).fit(holed)
    assert kinds_of(found) == ["real", "positive", "real", "real"]
    assert found.schema_.columns[1].likelihood.startswith("Hurdle(")
    filled = found.transform(holed)
    assert (filled[:, 1] >= 0).all()
    assert np.array_equal(filled[~np.isnan(holed)], holed[~np.isnan(holed)])
    drawn = found.sample_imputations(holed, 3)[:, np.isnan(holed[:, 1]), 1]
    assert 0.1 < (drawn == 0).mean() < 0.9
    for other in (
        LatentImputer("fa", latents=2),
        LatentImputer(epochs=1, kinds={1: "real"}),
        LatentDensity(epochs=1),
    ):
        assert kinds_of(other.fit(holed)) == ["real"] * 4


def kinds_of(estimator):
    return [column.kind for column in estimator.schema_.columns]


def test_numbers_that_are_names_leave_no_hole_where_the_rare_are_pooled():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    code = pd.Series(pd.Categorical(rng.integers(1, 21, 100)))
    code = code.where(rng.random(100) > 0.2)
    table = pd.DataFrame({"a": rng.normal(size=100), "code": code})
    for strategy in STRATEGIES:
        filled = imputer("table", strategy=strategy).fit_transform(table)["code"]
        assert filled.notna().all()
        assert filled.dtype == code.dtype  # no level that was not there


def test_numbers_in_texts_have_no_second_spelling(library):
    rng = np.random.default_rng(0)
    flag = [None if k % 7 == 0 else text for k, text in enumerate(rng.choice(["0.0", "1.0"], 90))]
    columns = {"a": rng.normal(size=90), "flag": flag}
    table = library.DataFrame(columns)
    filled = imputer("table").fit_transform(table)["flag"]
    assert set(filled.to_list()) == {"0.0", "1.0"}


def test_columns_called_by_digits_are_meant_by_their_names():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    names = {2: rng.integers(0, 3, 80), 3: rng.integers(0, 30, 80), 1: rng.normal(size=80)}
    model = imputer("table", kinds={2: "categorical", "3": "real"}).fit(pd.DataFrame(names))
    assert [column.kind for column in model.schema_.columns] == ["categorical", "real", "real"]


def test_what_pandas_calls_missing_is_missing():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"a": [1.5, 2.5, np.nan, 0.5] * 5, "b": np.arange(20.0) ** 0.5})
    assert not imputer(missing_values=pd.NA).fit_transform(table).isna().any(axis=None)


def test_an_array_where_texts_were_is_refused(refused):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"a": IRIS[:, 0], "kind": np.array(["x", "y", "z"])[SPECIES]})
    model = imputer("table").fit(table)
    with refused("array of numbers", "'kind' held texts such as 'x'"):
        model.transform(np.zeros((3, 2)))
