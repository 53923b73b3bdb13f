"""Marginals of a table: bins that split no value, and the columns that are shown first."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest

from latently.interfaces.report.cells import Cells, seen_of
from latently.interfaces.report.levels import Sample, _Axis, of_levels, of_numbers
from latently.interfaces.report.marginals import _samples, marginals


@pytest.mark.parametrize("step", [0.1, 0.25, 1.0, 5.0])
def test_rounded_values_lie_in_the_middle_of_their_bins(step):
    rng = np.random.default_rng(0)
    values = step * rng.integers(-30, 31, 5000)
    axis = _Axis.of([values, values + 0.4 * step * rng.random(5000)], step)
    edges = axis.edges / step
    assert np.abs(edges - np.floor(edges) - 0.5).max() < 1e-6  # at halves of a step
    widths = np.diff(edges)
    assert widths == pytest.approx(round(widths[0]))
    zeros, shares = axis.shares(values)
    assert zeros == 0
    assert shares.sum() == pytest.approx(1)
    inner = shares[1:-1]
    assert inner == pytest.approx(widths[0] / 61, abs=4 * math.sqrt(widths[0] / 61 / 5000))


def test_steep_columns_have_a_logarithmic_axis_with_zeros_beside_it():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(4000) < 0.3, 0.0, np.exp(rng.normal(5, 2, 4000)))
    axis = _Axis.of([values], 0.01)
    assert axis.steep
    assert axis.zeros
    zeros, shares = axis.shares(values)
    assert zeros == (values == 0).mean()
    assert zeros + shares.sum() == pytest.approx(1)
    middle = (np.log10(np.e) * 5 - axis.low) / (axis.high - axis.low)
    assert middle == pytest.approx(0.5, abs=0.06)  # the mode of the logarithms
    assert all(float(t).is_integer() for t in axis.ticks())


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [0.0] * 40, [1e300, -1e300], []])
def test_any_values_make_a_figure(people, values):
    cells = Cells.of(people(60))
    samples = [Sample(np.array(values), None, "observed"), Sample(np.array([3.5]), 0, "drawn")]
    figure = of_numbers(cells, 1, samples, "")
    assert "nan" not in figure
    assert "inf" not in re.sub("aria-label=.*?>", "", figure)


def test_bars_of_levels_are_their_shares(people):
    cells = Cells.of(people(60))
    own = np.array([0.0] * 60 + [1.0] * 30 + [3.0] * 10)
    samples = [Sample(own, None, "observed"), Sample(np.array([0.0, 1.0]), 1, "imputed")]
    figure = of_levels(cells, 3, samples, "5 % missing")
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', figure)]
    assert widths[1] / widths[0] == pytest.approx(0.5, rel=0.01)
    assert widths[2] / widths[0] == pytest.approx(1 / 6, rel=0.01)
    assert len(widths) == 3  # a level that is not there has no bar
    names = re.findall(r">([A-Z][a-z]+)<", figure)
    assert names == ["Aberdeen", "Dover", "Hull", "Exeter"]
    assert figure.count("<circle") == 4


def test_many_levels_are_pooled(people):
    data = people(60)
    cells = Cells.of(data)

    class Many(Cells):
        def levels(self, j):
            return tuple(f"level {k}" for k in range(30))

    codes = np.repeat(np.arange(30.0), np.arange(30, 0, -1))
    many = Many(cells.names, cells.columns)
    figure = of_levels(many, 3, [Sample(codes, None, "observed")], "")
    assert "23 others" in figure
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', figure)]
    assert len(widths) == 8
    assert widths[-1] / widths[0] == pytest.approx(sum(range(1, 24)) / 30, rel=0.01)


def test_columns_that_lack_most_or_fit_worst_stand_first(people, mixed, subject):
    data = people(400)
    model = mixed(data, 1).model
    found = marginals([subject(model, data)], data, 0)
    shown = [re.search(r"of (\w+):", str(c.figure))[1] for c in found.columns]
    _, seen = seen_of(data)
    gaps = [float(re.match(r"gap ([\d.]+)", c.gaps[0][1])[1]) for c in found.columns]
    lacking = [1 - seen[:, data.table.names.index(name)].mean() for name in shown]
    worth = [max(pair) for pair in zip(gaps, lacking, strict=True)]
    assert all(a >= b - 0.005 for a, b in pairwise(worth))
    assert found.drawing == found.filling == (0,)
    by = dict(zip(shown, found.columns, strict=True))
    dashed = {name for name, column in by.items() if "stroke-dasharray" in column.figure}
    assert dashed == {"income", "age"}  # those that lack cells
    # two groups of people are no single distribution of ages, and towns are shares of any kind
    assert "chance up to" in by["age"].gaps[0][1]
    assert by["town"].gaps[0][1].endswith("as chance")


def test_draws_are_shown_as_samples_are_written(people):
    data = people(60)
    cells, x = Cells.of(data), data.x.double().numpy()
    wild = 1e12 * np.random.default_rng(0).normal(size=60)
    for j, column in enumerate(data.table.modelled):
        rows = x.copy()
        rows[:, j] = wild
        written = data.table.encode(data.table.decode(rows)).x[:, j]
        np.testing.assert_array_equal(cells.held(j, wild), written)
        if column.kind == "count":
            seen = x[:, j] if data.mask is None else x[data.mask[:, j].numpy(), j]
            assert cells.held(j, wild).max() == seen.max()
    drawn = {0: np.tile(wild[:, None], (1, x.shape[1]))}
    whole = np.ones(x.shape, dtype=bool)
    _, sample = _samples(cells, 0, x, whole, drawn, {}, whole)
    assert sample.values.max() == x[:, 0].max()  # nobody is 120 where all are 18 to 70


def test_rows_of_no_table_have_marginals_of_their_own(table):
    assert marginals([], table[0], 0) is None


def test_zeros_that_would_dwarf_all_else_stand_beside_the_axis():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(4000) < 0.9, 0.0, rng.normal(1900, 200, 4000).round())
    axis = _Axis.of([values], 1.0)
    assert axis.zeros
    assert not axis.steep
    assert axis.low > 1000
    zeros, shares = axis.shares(values)
    assert zeros == (values == 0).mean()
    assert zeros + shares.sum() == pytest.approx(1)
    few = np.where(values > 0, 3.0, 0.0)
    assert not _Axis.of([few], 1.0).zeros


def test_many_ordered_levels_are_pooled_with_their_neighbours(people):
    cells = Cells.of(people(60))

    class Graded(Cells):
        def levels(self, j):
            return tuple(str(k) for k in range(1, 17))

        def nominal(self, j):
            return False

    codes = np.repeat(np.arange(16.0), 2)
    graded = Graded(cells.names, cells.columns)
    figure = of_levels(graded, 3, [Sample(codes, None, "observed")], "")
    assert "1 to 2" in figure
    assert "15 to 16" in figure
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', figure)]
    assert widths == [widths[0]] * 8
