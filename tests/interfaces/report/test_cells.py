"""Cells are called and printed as their table has them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from latently.data import Data
from latently.data.tables import Schema
from latently.data.tables.column import Column
from latently.interfaces.report.cells import Cells, seen_of

COLUMNS = (
    Column("sex", "binary", "Bernoulli", categories=("female", "male")),
    Column(
        "town", "categorical", "Categorical(levels=3)", categories=("Hull", "a  b"), other=True
    ),
    Column("grade", "ordinal", "Ordinal(levels=3)", categories=(1.0, 2.0, 3.0)),
    Column("year", "count", "NegativeBinomial", decimals=0),
    Column("fare", "real", "Normal", decimals=4),
    Column("day", "datetime", "Normal", unit="day"),
    Column("time", "datetime", "Normal", unit="minute"),
    Column("any", "real", "Normal"),
)
CELLS = Cells(tuple(c.name for c in COLUMNS), COLUMNS)


@pytest.mark.parametrize(
    ("column", "value", "exact", "rough"),
    [
        (0, 1.0, "male", "male"),
        (1, 1.0, "a b", "a b"),
        (1, 2.0, "other", "other"),
        (1, 7.0, "–", "–"),
        (2, 2.0, "3", "3"),
        (3, 2015.0, "2015", "2015"),
        (4, 14.4542, "14.4542", "14.5"),
        (4, -0.5, "−0.5", "−0.5"),
        (4, 7.0, "7", "7"),
        (5, 86_400.0 * 365, "1971-01-01", "1971-01-01"),
        (6, 90_061.0, "1970-01-02 01:01", "1970-01-02 01:01"),
        (7, 1 / 3, "0.3333", "0.333"),
        (7, math.nan, "–", "–"),
        (7, 2.5e12, "2.500e12", "2.50e12"),
        (5, 1e20, "1.000e20", "1.000e20"),
    ],
)
def test_values_are_printed_as_the_table_has_them(column, value, exact, rough):
    assert CELLS.value(column, value) == exact
    assert CELLS.rough(column, value) == rough


def test_what_the_table_reads_is_what_cells_print():
    frame = {"day": ["2020-02-29", "2021-12-31", "2022-01-01"], "town": ["Hull", "Bath", "Hull"]}
    data = Data.from_frame(frame, kinds={"town": "categorical"})
    cells = Cells.of(data)
    for j, name in enumerate(("day", "town")):
        assert [cells.value(j, float(v)) for v in data.x[:, j]] == frame[name]


def test_names_have_no_order_and_ordered_levels_have():
    assert [CELLS.nominal(j) for j in range(4)] == [True, True, False, False]
    assert CELLS.levels(1) == ("Hull", "a b", "other")
    assert CELLS.levels(4) == ()


def test_rows_of_no_table_are_numbered_columns():
    data = Data.from_array(np.array([[1.5, np.nan], [2.5, 3.0]]))
    cells = Cells.of(data)
    assert cells.names == ("x0", "x1")
    assert cells.value(1, 123456.0) == "123,456"
    assert not cells.nominal(0)
    x, seen = seen_of(data)
    assert seen.tolist() == [[True, False], [True, True]]
    assert x.dtype == np.float64
    assert isinstance(replace(data, table=Schema(COLUMNS[:2])).table, Schema)
