"""The sampler: rows as likely as those of the table, with cells given or not."""

import functools
import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.utils.estimator_checks import parametrize_with_checks

from latently.interfaces.sklearn import LatentDensity, LatentSampler

QUICK = {"epochs": 2, "samples": 5}
IRIS, _ = load_iris(return_X_y=True)


@functools.cache
def kept(call):
    """A fitted sampler, pickled."""
    X, recipe, options = pickle.loads(call)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pickle.dumps(LatentSampler(recipe, **{**QUICK, **options}).fit(X))


def fitted(X=IRIS, recipe="fa", **options):
    """A sampler of its own for every caller; equal fits are made once."""
    return pickle.loads(kept(pickle.dumps((X, recipe, options))))


@parametrize_with_checks([LatentSampler("fa", latents=1)])
def test_what_scikit_learn_asks_of_estimators(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


@pytest.mark.slow
@parametrize_with_checks([LatentSampler(**QUICK)])
def test_what_scikit_learn_asks_of_the_usual_one(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


def test_given_cells_condition_the_others():
    """The conditional normal of factor analysis, in closed form."""
    sampler = fitted(latents=2)
    model = sampler.model_
    mu = model.loc.detach().numpy()
    weight, noise = model.weight.detach().numpy(), model.log_variance.detach().exp().numpy()
    cov = weight @ weight.T + np.diag(noise)
    gain = cov[[0, 1, 3], 2] / cov[2, 2]
    mean = mu[[0, 1, 3]] + gain * (6.0 - mu[2])
    spread = cov[np.ix_([0, 1, 3], [0, 1, 3])] - np.outer(gain, cov[2, [0, 1, 3]])
    rows = sampler.sample(5000, given={2: 6.0})
    assert (rows[:, 2] == 6.0).all()
    np.testing.assert_allclose(rows[:, [0, 1, 3]].mean(0), mean, atol=0.04)
    np.testing.assert_allclose(np.cov(rows[:, [0, 1, 3]].T), spread, atol=0.02)


def test_rows_with_a_cell_given_are_as_the_free_ones_that_have_it(people):
    pandas = pytest.importorskip("pandas")
    sampler = fitted(pandas.DataFrame(people.columns), "table", epochs=20, samples=1000)
    free = sampler.sample(8000)
    rows = sampler.sample(2000, given={"city": "Oslo"})
    assert (rows["city"] == "Oslo").all()
    chosen = np.asarray(free["age"])[np.asarray(free["city"] == "Oslo")]
    error = np.hypot(chosen.std() / len(chosen) ** 0.5, rows["age"].std() / 2000**0.5)
    assert abs(rows["age"].mean() - chosen.mean()) < 5 * error
    assert rows["member"].mean() == pytest.approx(
        np.asarray(free["member"])[np.asarray(free["city"] == "Oslo")].mean(), abs=0.05
    )


def test_all_cells_given_are_the_row(library, people):
    table = library.DataFrame(people.columns)
    sampler = fitted(table, "table")
    names = list(table.columns)
    row = dict(zip(names, (170.5, 31, "Rome", True, np.datetime64("2021-05-01")), strict=True))
    rows = sampler.sample(3, given=row)
    assert [str(value) for value in np.asarray(rows["city"])] == ["Rome"] * 3
    assert np.asarray(rows["height"]).tolist() == [170.5] * 3
    assert np.asarray(rows["age"]).tolist() == [31] * 3


def test_rows_come_as_they_went_in(library, people):
    table = library.DataFrame(people.columns)
    for given in (None, {"city": "Rome"}):
        rows = fitted(table, "table").sample(7, given=given)
        assert type(rows) is type(table)
        assert rows.shape == (7, 5)
        assert list(rows.columns) == list(table.columns)
        assert list(rows.dtypes) == list(table.dtypes)
    assert isinstance(fitted().sample(2, given={0: 5.0}), np.ndarray)
    assert fitted().sample(2, given={"x0": 5.0})[1, 0] == 5.0


def test_one_seed_is_one_sample():
    sampler = fitted()
    np.testing.assert_array_equal(sampler.sample(5), sampler.sample(5))
    for given in (None, {1: 3.0}):
        one, again = (sampler.sample(5, given, random_state=3) for _ in range(2))
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(sampler.sample(5, given, random_state=4), one)
        assert len(np.unique(one, axis=0)) == 5
    generator = np.random.RandomState(0)
    one, other = (sampler.sample(5, random_state=generator) for _ in range(2))
    assert not np.array_equal(one, other)


def test_a_flow_draws_rows_but_none_given_cells(refused):
    sampler = fitted(recipe="flow", latents=None)
    assert sampler.sample(3).shape == (3, 4)
    with refused("recipe='flow'", "cannot leave cells out"):
        sampler.sample(3, given={0: 1.0})


def test_samples_are_those_of_the_density():
    density = LatentDensity("fa", latents=2).fit(IRIS)
    np.testing.assert_array_equal(fitted(latents=2).sample(9), density.sample(9))


def test_a_pickle_draws_the_same(library, people):
    table = library.DataFrame(people.columns)
    sampler = fitted(table, "table")
    again = pickle.loads(pickle.dumps(sampler))
    assert again.sample(4).equals(sampler.sample(4))
    assert again.sample(4, {"age": 30}).equals(sampler.sample(4, {"age": 30}))
    assert clone(sampler).get_params() == sampler.get_params()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, ["given=3", "column"]),
        ({"ctiy": "Rome"}, ["'ctiy'", "did you mean city"]),
        ({9: 1.0}, ["9", "5 columns"]),
        ({"city": "Paris"}, ["city", "Paris"]),
        ({"age": "old"}, ["age", "old"]),
        ({"height": np.nan}, ["height", "nan"]),
        ({"height": [1, 2]}, ["height", "is one list", "give one value"]),
        ({"height": {}}, ["height", "is one dict"]),
    ],
)
def test_given_cells_that_cannot_be_are_named(refused, library, people, given, words):
    sampler = fitted(library.DataFrame(people.columns), "table")
    with refused(*words):
        sampler.sample(2, given=given)


def test_the_missing_value_of_pandas_is_no_given_cell(refused, people):
    pandas = pytest.importorskip("pandas")
    sampler = fitted(pandas.DataFrame(people.columns), "table")
    with refused("'height' has no value, <NA>"):
        sampler.sample(2, given={"height": pandas.NA})
