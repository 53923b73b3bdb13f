import datetime as dt
import decimal

import numpy as np
import pandas as pd
import pytest

from latently.data.tables import MISSING, as_frame
from latently.data.tables.cells import as_numbers, cells
from latently.errors import UserError


def read(values, missing=MISSING):
    return cells(as_frame(pd.DataFrame({"x": values})), 0, missing)


@pytest.mark.parametrize("text", [*MISSING, "  ", " NA "])
def test_words_for_nothing_are_missing(text):
    assert read(["a", text, "b"]).present.tolist() == [True, False, True]


@pytest.mark.parametrize("text", ["-", "none", "na", "unknown", "0", "."])
def test_words_that_may_mean_something_are_not(text):
    assert read(["a", text]).present.all()


@pytest.mark.parametrize(
    "nothing", [None, np.nan, pd.NA, pd.NaT], ids=["none", "nan", "na", "nat"]
)
def test_missing_objects_of_every_sort(nothing):
    values = np.array(["a", nothing, "b"], dtype=object)
    assert cells(as_frame({"x": values}), 0).present.tolist() == [True, False, True]


def test_labels_are_stripped_and_joined():
    column = read(["a ", "b", " a", ""])
    assert [column.labels[k] for k in column.observed] == ["a", "b", "a"]
    values, counts = column.tally()
    assert dict(zip([column.labels[k] for k in values], counts.tolist(), strict=True)) == {
        "a": 2,
        "b": 1,
    }


def test_a_code_that_spells_a_number_is_that_number_in_every_form():
    codes = ["", "-999"]
    assert read([1.0, -999, 3], codes).present.tolist() == [True, False, True]
    assert read(["1", "-999.0", "3"], codes).present.tolist() == [True, False, True]
    assert read(["1", "-999", "x"], codes).present.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([decimal.Decimal("1.5"), None], "number"),
        ([True, None], "flag"),
        ([dt.date(2020, 1, 1), None], "time"),
        ([pd.Timestamp("2020-01-01", tz="UTC"), pd.NaT], "time"),
        ([1, "a", None], "text"),
        ([True, "a"], "text"),
        ([b"x", None], "object"),
        ([[1], None], "object"),
        ([None, None], "text"),
    ],
    ids=["decimal", "bool", "date", "timestamp", "mixed", "bool-text", "bytes", "list", "none"],
)
def test_objects_are_read_by_what_they_are(values, form):
    column = cells(as_frame({"x": np.array([*values, None], dtype=object)[:-1]}), 0)
    assert column.form == form
    assert column.present.tolist() == [
        value is not None and value is not pd.NaT for value in values
    ]


def test_moments_of_objects_and_of_arrays_are_the_same():
    moments = pd.to_datetime(["2020-02-29 12:00:01.5", "1969-12-31 23:59:59.0"])
    typed = cells(as_frame({"x": moments.to_numpy()}), 0).values
    plain = cells(as_frame({"x": np.array(list(moments.to_pydatetime()), dtype=object)}), 0).values
    np.testing.assert_array_equal(typed, plain)
    assert typed[1] == -1.0


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e31, 10**400])
def test_numbers_that_no_model_takes_are_named(value):
    for values in ([1.0, value], ["1", str(float(value)) if value != 10**400 else "1e400"]):
        with pytest.raises(
            UserError, match=r"column 'x', row 1 \(counted from 0\): -?[\dei+.nf]+ is"
        ):
            as_numbers(cells(as_frame({"x": values}), 0))
