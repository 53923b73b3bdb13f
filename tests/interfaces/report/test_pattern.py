"""Missing cells of a report: the patterns that are there, and links that are and are not."""

import re

import numpy as np
import pytest

from latently.data import Data
from latently.interfaces.report.cells import seen_of
from latently.interfaces.report.pattern import _patterns, missing


def table(columns, **kinds):
    return Data.from_frame({k: np.array(v, dtype=object) for k, v in columns.items()}, kinds=kinds)


def holed(rule, n=2000, seed=0):
    rng = np.random.default_rng(seed)
    size, town = rng.normal(10, 2, n).round(2), np.array(["Bath", "Hull"])[rng.integers(0, 2, n)]
    other = rng.normal(0, 1, n).round(2).astype(object)
    other[rule(rng, size, town)] = None
    return table({"size": size, "town": town, "other": other}, town="categorical")


def test_patterns_are_counted_with_the_frequent_ones_first():
    lacks = np.array([[0, 1, 1], [0, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 1]], bool)
    found, counts = _patterns(lacks)
    assert counts.tolist() == [3, 1, 1]
    assert found[0].tolist() == [False, True, True]
    wide = np.random.default_rng(0).random((40, 21)) < 0.1
    found, counts = _patterns(wide)
    assert counts.sum() == 40
    for pattern, count in zip(found, counts, strict=True):
        assert (wide == pattern).all(1).sum() == count


def test_cells_missing_by_chance_alone_have_no_links():
    data = holed(lambda rng, size, town: rng.random(len(size)) < 0.3)
    found = missing(data, 0)
    assert found.links == ()
    assert found.refuted == 0
    assert (found.judged, found.pairs) == (1, 2)


def test_a_link_with_a_number_says_on_which_side():
    found = missing(holed(lambda rng, size, town: size > 11), 0)
    (link,) = found.links
    assert (link.column, link.other, link.gap) == ("other", "size", "1.00")
    assert link.where == "is higher"
    middles = [float(v) for v in re.findall(r"(?:median |other, )([\d.]+)", link.told)]
    assert middles[0] > 11 > middles[1]


def test_a_link_with_a_name_says_which():
    data = holed(
        lambda rng, size, town: rng.random(len(size)) < np.where(town == "Hull", 0.6, 0.1)
    )
    x, seen = seen_of(data)
    hull = x[:, 1] == 1
    shares = hull[~seen[:, 2]].mean(), hull[seen[:, 2]].mean()
    (link,) = missing(data, 0).links
    assert link.other == "town"
    assert link.where == "is Hull"
    assert float(link.gap) == pytest.approx(shares[0] - shares[1], abs=0.005)
    assert link.told.startswith(f"{100 * shares[0]:.0f} % of the rows that lack other")
    assert f"{100 * shares[1]:.0f} % of the others" in link.told


def test_numbers_and_figure_are_of_all_rows(people):
    data = people(400)
    found = missing(data, 0)
    _, seen = seen_of(data)
    assert found.cells == (~seen).sum()
    assert found.columns == 2
    assert found.complete.startswith(f"{seen.all(1).sum()} ")
    assert found.patterns == found.shown[0] == 4
    assert found.rest.startswith("0 ")
    lacking = f"{100 * (~seen[:, 1]).mean():.0f} %"
    assert lacking in found.figure
    assert "income" in found.figure


def test_names_of_columns_are_text():
    bad = '<script>"&'
    data = table({bad: [1.5, None, 2.5, 3.5], "other": [1.25, 2.5, 3.5, None]})
    figure = missing(data, 0).figure
    assert "<script" not in figure
    assert "&lt;script&gt;" in figure


def test_complete_rows_and_rows_of_no_table_have_no_section(people):
    assert missing(people(50, holes=False), 0) is None
    assert missing(Data.from_array(np.array([[1.0, np.nan], [2.0, 3.0]])), 0) is None
