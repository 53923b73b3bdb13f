"""Names in place of the numbers that models know columns by."""

import pytest

from latently.data import Data
from latently.data.tables.words import by_name

NAMES = ("age", "it's", "column 2", "town")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no spread in column 0, held at 1e-3", "no spread in column 'age', held at 1e-3"),
        ("column 1, 3 is constant", "column \"it's\", 'town' is constant"),
        ("2 columns (0, 3, ...) are", "2 columns ('age', 'town', ...) are"),
        ("row 3, column 2 is outside", "row 3, column 'column 2' is outside"),
        ("in row 1, column 0, whose median is 2", "in row 1, column 'age', whose median is 2"),
    ],
    ids=["one", "several", "brackets", "row", "aside"],
)
def test_columns_have_names(text, named):
    assert by_name(text, NAMES) == named
    assert by_name(named, NAMES) == named  # no second time


@pytest.mark.parametrize(
    "text",
    ["column 4 is none of them", "3 columns", "component 1 holds 2 rows", "column 'column 0'"],
)
def test_all_else_stays(text):
    assert by_name(text, NAMES) == text


def test_names_are_those_of_the_columns_that_are_modelled():
    data = Data.from_frame({"same": ["a"] * 4, "age": [31, 28, 50, 44], "size": [1.5, 2, 3, 4]})
    assert data.table.names == ("age", "size")
    assert data.told("column 1 is odd") == "column 'size' is odd"
    assert Data.from_array(data.x).told("column 1 is odd") == "column 1 is odd"
