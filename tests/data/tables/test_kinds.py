import datetime as dt

import numpy as np
import pandas as pd
import pytest

from latently.data.tables import Schema, as_frame
from latently.data.tables.kinds import pooled
from latently.errors import UserError

N = 2000
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=N)
HEAVY = RNG.standard_t(2, N)
SKEWED = np.exp(1.2 * NORMAL)
GAMMA = RNG.gamma(0.7, 4.0, N)
COUNT = RNG.negative_binomial(3, 0.05, N)
HALF = RNG.random(N) < 0.5
WORDS = RNG.choice(["red", "green", "blue"], N)
MONTHS = [f"20{year:02}-{month:02}" for year in range(20) for month in range(1, 13)]


def as_text(values):
    return [str(value) for value in values.tolist()]


CASES = {
    "a normal": (NORMAL, "real", "Normal"),
    "text of numbers": (as_text(NORMAL), "real", "Normal"),
    "heavy tails": (HEAVY, "real", "StudentT"),
    "standardised skewed": ((SKEWED - SKEWED.mean()) / SKEWED.std(), "real", None),
    "a normal far above 0": (NORMAL + 100, "real", "Normal"),
    "log-normal": (SKEWED, "positive", "LogNormal"),
    "gamma": (GAMMA, "positive", "Gamma"),
    "zeros and log-normal": (np.where(HALF, 0, SKEWED), "positive", "Hurdle(family=LogNormal)"),
    "zeros and gamma": (np.where(HALF, 0, GAMMA), "positive", "Hurdle(family=Gamma)"),
    "count": (COUNT, "count", "NegativeBinomial"),
    "count as text": (as_text(COUNT), "count", "NegativeBinomial"),
    "count with holes": (np.where(HALF, np.nan, COUNT), "count", "NegativeBinomial"),
    "many zeros": (np.where(HALF, 0, COUNT), "count", "ZeroInflated(family=NegativeBinomial)"),
    "small counts": (RNG.poisson(1.5, N), "count", "NegativeBinomial"),
    "years": (RNG.integers(1980, 2021, N), "real", "Normal"),
    "whole amounts": (np.rint(1e6 * SKEWED), "positive", "LogNormal"),
    "negative whole amounts": (np.rint(1000 * NORMAL), "real", "Normal"),
    "rating": (RNG.integers(1, 6, N), "ordinal", "Ordinal(levels=5)"),
    "0 to 15": (RNG.binomial(15, 0.4, N), "ordinal", None),
    "negative levels": (RNG.integers(-2, 9, N), "ordinal", "Ordinal(levels=11)"),
    "a typing error": (RNG.choice([2, 3, 4, 5, 55], N), "ordinal", "Ordinal(levels=5)"),
    "half stars": (RNG.integers(1, 11, N) / 2, "ordinal", "Ordinal(levels=10)"),
    "0 and 1": (HALF.astype(int), "binary", "Bernoulli"),
    "truth values": (HALF, "binary", "Bernoulli"),
    "2 and 4": (np.where(HALF, 2, 4), "binary", "Bernoulli"),
    "yes and no": (np.where(HALF, "yes", "no"), "binary", "Bernoulli"),
    "words": (WORDS, "categorical", "Categorical(levels=3)"),
    "codes of text": (np.where(HALF, "01067", WORDS), "categorical", "Categorical(levels=4)"),
    "postal codes": (RNG.choice(["01067", "10115", "80331"], N), "categorical", None),
    "50 words": ([f"w{k % 50}" for k in range(N)], "categorical", "Embedded(levels=50)"),
    "ordered": (
        pd.Categorical(WORDS, categories=["green", "blue", "red"], ordered=True),
        "ordinal",
        "Ordinal(levels=3)",
    ),
    "dates": ([f"2020-01-{1 + k % 31:02}" for k in range(N)], "datetime", "Normal"),
    "months": (MONTHS, "datetime", "Normal"),
    "date objects": ([dt.date(2020, 1, 1 + k % 31) for k in range(N)], "datetime", "Normal"),
    "with a time zone": (pd.date_range("2020", periods=90, tz="Asia/Tokyo"), "datetime", "Normal"),
    "ambiguous dates": ([f"0{1 + k % 9}/02/2020" for k in range(N)], "categorical", None),
    "time spans": (pd.to_timedelta(COUNT + 1, unit="s"), "positive", None),
    "one value": (np.full(N, 3.5), "constant", None),
    "nothing": (np.full(N, np.nan), "empty", None),
    "only words for nothing": (["NA"] * N, "empty", None),
    "names": ([f"name {k}" for k in range(N)], "identifier", None),
    "row numbers": (np.arange(1, N + 1), "identifier", None),
    "shuffled row numbers": (RNG.permutation(N), "identifier", None),
    "increasing": (np.cumsum(RNG.integers(1, 9, N)), "identifier", None),
    "mostly rare": ([f"w{k % 900}" for k in range(N)], "identifier", None),
    "lists": ([[1]] * N, "identifier", None),
}


@pytest.mark.parametrize("case", CASES)
def test_kinds_and_families(case):
    values, kind, likelihood = CASES[case]
    schema = Schema.infer(as_frame(pd.DataFrame({"x": values})))
    assert schema.columns[0].kind == kind
    if likelihood is not None:
        assert schema.columns[0].likelihood == likelihood


@pytest.mark.parametrize("n", [3, 5, 9])
def test_a_few_different_numbers_are_neither_levels_nor_identifiers(n):
    values = RNG.permutation(np.arange(n) * 7 + 3)
    assert Schema.infer(as_frame({"x": values})).columns[0].kind == "count"
    assert Schema.infer(as_frame({"x": values + 0.5})).columns[0].kind in ("real", "positive")


@pytest.mark.parametrize("name", ["id", "ID", "PassengerId", "user_id", "customer id", "userID"])
def test_numbers_called_id_are_identifiers(name):
    values = RNG.integers(0, 10**6, 500)
    (column,) = Schema.infer(as_frame({name: values})).columns
    assert column.kind == "identifier"
    assert "called" in column.note


@pytest.mark.parametrize("name", ["acid", "width", "Madrid", "valid", "idle", "humidity"])
def test_names_that_hold_the_letters_only_are_not(name):
    values = RNG.integers(0, 10**6, 500)
    assert Schema.infer(as_frame({name: values})).columns[0].kind != "identifier"


def test_a_few_words_among_numbers_are_named_by_column_row_and_fix():
    values = [*as_text(NORMAL[:50]), "broken", *as_text(NORMAL[50:])]
    with pytest.raises(UserError) as caught:
        Schema.infer(as_frame({"x": values}))
    assert str(caught.value) == (
        "column 'x', row 50 (counted from 0): 'broken' among 2,000 numbers (1 such cell); "
        "empty these cells, count it as missing (na_values; latently schema --na-values), or "
        "choose kinds={'x': 'categorical'} (--kinds)"
    )
    schema = Schema.infer(as_frame({"x": values}), missing=["", "broken"])
    assert schema.columns[0].kind == "real"
    schema = Schema.infer(as_frame({"x": values}), kinds={"x": "categorical"})
    assert schema.columns[0].kind == "categorical"


def test_a_column_of_objects_that_changes_type_is_read_like_text():
    mixed = pd.DataFrame({"x": [*NORMAL[:50].tolist(), "broken"]})
    with pytest.raises(UserError, match=r"row 50 \(counted from 0\): 'broken' among 50 numbers"):
        Schema.infer(as_frame(mixed))
    levels = pd.DataFrame({"x": [1, 2, "3+"] * 20})
    assert Schema.infer(as_frame(levels)).columns[0].categories == ("1", "2", "3+")


def test_words_among_dates_are_named_too():
    with pytest.raises(UserError, match=r"row 0 .*'soon' among 29 dates"):
        Schema.infer(as_frame({"x": ["soon", *(f"2020-01-{k:02}" for k in range(1, 30))]}))


def test_rare_values_are_pooled_if_they_are_two_or_more():
    assert not pooled(np.array([500, 4])).any()
    assert pooled(np.array([500, 4, 4, 5])).tolist() == [False, True, True, False]
    assert not pooled(np.array([3, 4, 3])).any()  # of ten cells, nothing is rare
    many = np.full(400, 10)
    assert pooled(many).sum() == 145


def test_many_different_texts_are_left_out():
    values = np.array([f"t{k}" for k in range(200_000)], dtype=object)
    assert Schema.infer(as_frame({"x": values})).columns[0].kind == "identifier"
