"""The density estimator: sums to one, says what the model says, takes tables as they come."""

import functools
import itertools
import pickle
import warnings

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import latently as lt
from latently.interfaces.sklearn import LatentDensity
from latently.models.components import Full

QUICK = {"epochs": 2, "samples": 5}
IRIS, _ = load_iris(return_X_y=True)


@functools.cache
def kept(call):
    """A fitted estimator, pickled."""
    X, recipe, options = pickle.loads(call)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pickle.dumps(LatentDensity(recipe, **{**QUICK, **options}).fit(X))


def fitted(X=IRIS, recipe="table", **options):
    """An estimator of its own for every caller; equal fits are made once."""
    return pickle.loads(kept(pickle.dumps((X, recipe, options))))


@pytest.mark.slow
@parametrize_with_checks([LatentDensity("fa", latents=1)])
def test_what_scikit_learn_asks_of_estimators(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


@pytest.mark.slow
@parametrize_with_checks([LatentDensity(**QUICK)])
def test_what_scikit_learn_asks_of_the_usual_one(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


# ---- Truths


def test_probabilities_of_all_rows_sum_to_one(library):
    draw = np.random.default_rng(0)
    first = draw.choice(["a", "b", "c"], 300)
    second = np.where(first == "a", "yes", draw.choice(["yes", "no"], 300))
    density = fitted(library.DataFrame({"first": first, "second": second}), epochs=5, samples=4000)
    rows = list(itertools.product(["a", "b", "c"], ["yes", "no"]))
    every = library.DataFrame({"first": [a for a, _ in rows], "second": [b for _, b in rows]})
    assert np.exp(density.score_samples(every)).sum() == pytest.approx(1, abs=0.02)


def test_components_of_a_table_with_names_are_independent_columns(library, people):
    """Exact: the sum over all names is one, and so it is given the other columns."""
    columns = {name: people.columns[name] for name in ("height", "age", "city")}
    density = LatentDensity("mixture", latents=3).fit(library.DataFrame(columns))
    assert type(density.model_.family).__name__ == "Columns"
    rows = {name: [values[0]] * 3 for name, values in columns.items()}
    every = library.DataFrame({**rows, "city": ["Bonn", "Oslo", "Rome"]})
    without = library.DataFrame({**rows, "city": ["Bonn", None, None]})[1:]
    whole = density.score_samples(without)[0]
    assert np.logaddexp.reduce(density.score_samples(every)) == pytest.approx(whole, abs=1e-9)
    assert set(density.sample(20)["city"]) <= {"Bonn", "Oslo", "Rome"}


def test_the_density_of_a_column_integrates_to_one():
    density = fitted(IRIS[:, 2:3], latents=1, epochs=10, samples=500)
    grid = np.linspace(-10, 20, 301)[:, None]
    p = np.exp(density.score_samples(grid))
    assert np.trapezoid(p, grid[:, 0]) == pytest.approx(1, abs=0.02)


def test_an_array_is_scored_as_by_the_transformer():
    theirs = lt.LatentTransformer("fa", latents=2).fit(IRIS)
    ours = fitted(recipe="fa", latents=2)
    np.testing.assert_array_equal(ours.score_samples(IRIS), theirs.score_samples(IRIS))
    assert ours.score(IRIS) == pytest.approx(ours.score_samples(IRIS).mean())


def test_what_is_missing_is_left_out():
    holed = np.full_like(IRIS[:5], np.nan)
    holed[:, 1] = IRIS[:5, 1]
    density = fitted(recipe="fa", latents=1)
    weight, noise = density.model_.weight.detach(), density.model_.log_variance.detach().exp()
    std = ((weight**2).sum(1) + noise).sqrt().numpy()
    expected = norm(float(density.model_.loc[1]), std[1]).logpdf(IRIS[:5, 1])
    np.testing.assert_allclose(density.score_samples(holed), expected, rtol=1e-9)


def test_samples_have_the_moments_of_the_density():
    density = fitted(recipe="fa", latents=2)
    rows = density.sample(20000)
    assert rows.shape == (20000, 4)
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows.mean(0), IRIS.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(rows.T), np.cov(IRIS.T), atol=0.1)


# ---- Tables


def test_columns_of_a_frame_have_kinds(library, people):
    density = fitted(library.DataFrame(people.columns))
    kinds = {column.name: column.kind for column in density.schema_.columns}
    assert kinds["city"] == "categorical"
    assert kinds["member"] == "binary"
    assert kinds["age"] == "count"
    assert kinds["joined"] == "datetime"
    assert kinds["height"] in ("real", "positive")
    assert density.feature_names_in_.tolist() == list(kinds)


def test_a_frame_of_any_library_gives_the_same(people):
    tables = [pytest.importorskip(name).DataFrame(people.columns) for name in ("pandas", "polars")]
    one, other = (fitted(table).score_samples(table) for table in tables)
    np.testing.assert_array_equal(one, other)


def test_kinds_say_otherwise(library, people):
    table = library.DataFrame(people.columns)
    density = fitted(table, kinds={"age": "real", "member": "categorical"})
    kinds = {column.name: column.kind for column in density.schema_.columns}
    assert (kinds["age"], kinds["member"]) == ("real", "categorical")
    array = np.random.default_rng(0).integers(0, 3, (100, 2)).astype(float)
    kinds = [column.kind for column in fitted(array, kinds={1: "categorical"}).schema_.columns]
    assert kinds == ["real", "categorical"]


def test_numbers_of_an_array_are_continuous():
    bits = (IRIS > IRIS.mean(0)).astype(int)
    density = fitted(bits)
    assert {column.kind for column in density.schema_.columns} == {"real"}
    assert not density.model_.discrete


def test_arrays_of_objects_are_tables(people):
    columns = people.columns
    rows = np.array([columns["height"], columns["city"]], dtype=object).T
    density = fitted(rows)
    assert density.schema_.columns[1].kind == "categorical"
    assert np.isfinite(density.score_samples(rows)).all()
    assert fitted(rows.tolist()).score(rows) == density.score(rows)


def test_what_takes_no_part_changes_nothing(library):
    columns = {f"c{i}": IRIS[:, i] for i in range(4)}
    alone = fitted(library.DataFrame(columns))
    beside = library.DataFrame({"same": ["x"] * 150, **columns})
    np.testing.assert_array_equal(
        fitted(beside).score_samples(beside), alone.score_samples(library.DataFrame(columns))
    )


def test_samples_of_a_frame_are_a_frame(library, people):
    table = library.DataFrame(people.columns)
    density = fitted(table)
    rows = density.sample(20)
    assert type(rows) is type(table)
    assert list(rows.columns) == list(table.columns)
    assert list(rows.dtypes) == list(table.dtypes)
    assert set(rows["city"]) <= {"Bonn", "Oslo", "Rome"}
    assert np.isfinite(density.score_samples(rows)).all()
    assert type(rows)(density.sample(20)).equals(rows)
    assert not density.sample(20, random_state=1).equals(rows)


# ---- scikit-learn's machinery


def test_folds_and_grids_compare_densities():
    table = pytest.importorskip("pandas").DataFrame({f"c{i}": IRIS[:, i] for i in range(4)})
    assert np.isfinite(cross_val_score(LatentDensity("fa", latents=1), table, cv=2)).all()
    grid = {"recipe": ["fa", "table"], "latents": [1]}
    found = GridSearchCV(LatentDensity(**QUICK), grid, cv=2).fit(table)
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()


def test_a_pipeline_scales_first():
    pipeline = make_pipeline(StandardScaler(), LatentDensity("fa", latents=2)).fit(IRIS)
    moved = fitted(recipe="fa", latents=2).score(IRIS) + np.log(IRIS.std(0)).sum()
    assert pipeline.score(IRIS) == pytest.approx(moved, abs=1e-4)


def test_options_survive_cloning_setting_and_pickling(library, people):
    table = library.DataFrame(people.columns)
    density = LatentDensity(kinds={"age": "real"}, **QUICK)
    assert clone(density).get_params() == density.get_params()
    with pytest.raises(NotFittedError):
        clone(density.fit(table)).score(table)
    again = pickle.loads(pickle.dumps(density))
    np.testing.assert_array_equal(again.score_samples(table), density.score_samples(table))
    assert again.sample(3).equals(density.sample(3))
    assert density.set_params(recipe="fa").recipe == "fa"
    assert get_tags(density).estimator_type == "density_estimator"


def test_defaults_are_the_recipes_own(monkeypatch):
    from latently.interfaces.sklearn import base

    told = {}

    def short(model, data, objective, **options):
        told.update(options)
        return lt.fit(model, data, objective, epochs=1, seed=options["seed"])

    monkeypatch.setattr(base, "fit_model", short)
    LatentDensity(samples=2).fit(IRIS[:20])
    assert not {"epochs", "batch_size", "learning_rate"} & set(told)
    LatentDensity(epochs=7, samples=2).fit(IRIS[:20])
    assert told["epochs"] == 7


def test_global_state_is_as_before(library, people):
    import torch

    before, ours = torch.get_rng_state(), np.random.get_state()[1].copy()
    density = LatentDensity("table", **QUICK).fit(library.DataFrame(people.columns))
    density.sample(3)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(ours, np.random.get_state()[1])


# ---- Mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "tabel"}, ["recipe='tabel'", "did you mean table"]),
        ({"kinds": 3}, ["kinds=3", "dict"]),
        ({"kinds": {"aeg": "real"}}, ["'aeg'", "did you mean age"]),
        ({"kinds": {9: "real"}}, ["9", "5 columns"]),
        ({"kinds": {"age": "reel"}}, ["reel", "real"]),
        ({"recipe": "fa", "latents": 1}, ["fa", "'city'", "table"]),
        (
            {"recipe": "mixture", "options": {"family": Full()}, "epochs": None},
            ["family=Full", "'city'", "Columns"],
        ),
        ({"epochs": 0}, ["epochs=0"]),
    ],
)
def test_mistakes_are_named_in_one_line(refused, library, options, words, people):
    with refused(*words):
        LatentDensity(**{**QUICK, **options}).fit(library.DataFrame(people.columns))


def test_columns_in_another_order_are_refused(library, people):
    table = library.DataFrame(people.columns)
    density = fitted(table)
    with pytest.raises(ValueError, match="feature names"):
        density.score(table[list(table.columns)[::-1]])


def test_a_number_of_rows_that_is_none_is_named(refused):
    for n in (0, -1, 2.5, True, "many"):
        with refused(f"n={n!r}", "at least 1"):
            fitted(recipe="fa", latents=1).sample(n)


def test_warnings_of_the_fit_name_columns():
    x = np.random.default_rng(0).normal(size=(60, 2))
    with pytest.warns(UserWarning, match=r"2 columns \('x0', 'x2'\) are explained by the latents"):
        LatentDensity("fa", latents=1).fit(np.c_[x, 2 * x[:, 0]])
