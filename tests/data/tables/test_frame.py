import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from latently.data.tables import Frame, as_frame
from latently.data.tables.frame import column_names
from latently.errors import UserError

DATA = {
    "n": [1, 2, None],
    "x": [0.5, None, 2.0],
    "s": ["a", None, "b"],
    "b": [True, None, False],
    "d": [dt.datetime(2020, 1, 1), None, dt.datetime(2021, 1, 1)],
}


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_libraries_give_the_same_arrays(library):
    native = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library](DATA)
    frame = as_frame(native)
    assert frame.library == library
    assert frame.native is native
    np.testing.assert_array_equal(frame["n"], [1, 2, np.nan])
    np.testing.assert_array_equal(frame["x"], [0.5, np.nan, 2])
    assert frame["s"].tolist() == ["a", None, "b"]
    assert frame["b"].tolist() == [True, None, False]
    assert frame["d"].dtype.kind == "M"
    assert np.isnat(frame["d"]).tolist() == [False, True, False]


def test_missing_cells_of_a_category_are_none_in_every_library():
    cells = pd.Categorical(["a", None, "b"])
    arrow = pa.table({"c": pa.array(["a", None, "b"]).dictionary_encode()})
    for native in (pd.DataFrame({"c": cells}), arrow, pl.from_arrow(arrow)):
        assert as_frame(native)["c"].tolist() == ["a", None, "b"]


def test_large_whole_numbers_beside_missing_ones_lose_no_digit():
    large = 2**60 + 1
    native = pd.DataFrame({"n": pd.array([large, None], dtype="Int64")})
    assert as_frame(native)["n"].tolist() == [large, None]


def test_declared_categories_and_their_order_are_kept():
    ordered = pd.Categorical(["lo", "hi"], categories=["lo", "mid", "hi"], ordered=True)
    frame = as_frame(pd.DataFrame({"o": ordered, "u": pd.Categorical([2, 1])}))
    assert frame.levels == (("lo", "mid", "hi"), (1, 2))
    assert frame.ordered == (True, False)
    enum = as_frame(pl.DataFrame({"e": pl.Series(["b"], dtype=pl.Enum(["b", "a"]))}))
    assert enum.levels == (("b", "a"),)
    assert enum.types == ("Enum",)


def test_an_array_has_columns_by_place_and_a_dict_keeps_text():
    frame = as_frame(np.arange(6.0).reshape(3, 2))
    assert frame.names == ("column 1", "column 2")
    assert frame.library == "numpy"
    frame = as_frame({"a": ("x", None), 5: [1, 2]})
    assert frame.names == ("a", "5")
    assert frame["a"].tolist() == ["x", None]
    assert frame["5"].dtype == np.int64
    assert as_frame(frame) is frame


def test_rows_are_taken_from_the_native_table_too():
    for native in (pd.DataFrame(DATA, index=[7, 8, 9]), pl.DataFrame(DATA), pa.table(DATA)):
        part = as_frame(native).take(np.array([True, False, True]))
        assert part["s"].tolist() == ["a", "b"]
        assert len(part.native) == 2
    assert as_frame(pd.DataFrame(DATA, index=[7, 8, 9])).take([2]).native.index.tolist() == [9]


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_columns_become_a_table_of_a_library(library):
    frame = Frame(("a", "s"), (np.arange(2), np.array(["x", None], dtype=object)))
    back = as_frame(frame.to(library))
    assert back.library == library
    assert back["a"].tolist() == [0, 1]
    assert back["s"].tolist() == ["x", None]
    with pytest.raises(UserError, match="library='excel': choose one of pandas"):
        frame.to("excel")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "has no columns"),
        ({"a": []}, "has no rows"),
        ({"a": 3}, "column 'a' is one int"),
        ({"a": [1], "b": [1, 2]}, r"column 'b' has shape \(2,\), the first one \(1,\)"),
        ({"a": [1], " a ": [2]}, "columns 1 and 2 are both called 'a'; rename one"),
        (np.zeros(3), r"array of shape \(3,\); a table has two axes"),
        (np.zeros((2, 2), dtype=complex), "dtype complex128"),
        (np.ma.masked_array(np.zeros((2, 2))), "a masked array; write NaN"),
        ([[1, 2]], "a list is no table; pass a data frame"),
        (pd.Series([1.0]), "a Series is no table"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "both called 'a'"),
        (pd.DataFrame({"a": []}), "has no rows"),
        (pl.DataFrame({"a": [1]}).lazy(), r"a LazyFrame is no table; call .collect\(\) first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_table_is_refused_in_one_line(table, message):
    with pytest.raises(UserError, match=message) as caught:
        as_frame(table, source="t.csv")
    assert str(caught.value).startswith("t.csv: ")
    assert "\n" not in str(caught.value)


def test_columns_without_a_name_are_called_by_their_place():
    assert column_names(["", "a", None]) == ("column 1", "a", "column 3")
    with pytest.raises(UserError, match="both called 'column 2'"):
        column_names(["column 2", ""])


def test_an_unknown_column_is_named_with_those_that_are_there():
    with pytest.raises(UserError, match="no column 'c'; its columns are 'a', 'b'"):
        as_frame({"a": [1], "b": [2]})["c"]
