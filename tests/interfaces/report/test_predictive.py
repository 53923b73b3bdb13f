"""Predictive fit by column: against what normal columns know of each other in closed form."""

import math
import re

import numpy as np
import pytest

import latently as lt
from latently.data import Data
from latently.data.masks import MCAR, Half
from latently.errors import UserError
from latently.interfaces.report import predictive
from latently.interfaces.report.predictive import hidden, scores

RHO = 0.8


def number(text):
    return float(text.replace("−", "-").replace("±", "").rstrip("%"))


@pytest.fixture(scope="module")
def pair():
    """Two columns of correlation 0.8, one of them in other units, and a model that knows it."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=4000)
    b = 100 + 7 * (RHO * a + math.sqrt(1 - RHO**2) * rng.normal(size=4000))
    data = Data.from_frame({"a": a, "b": b}, protocol="pair/test")
    model = lt.fa(data.shape, latents=1)
    lt.fit(model, data, progress=False)
    return data, model


def test_the_right_model_knows_what_correlated_columns_tell(pair, subject, monkeypatch):
    data, model = pair
    monkeypatch.setattr(predictive, "_ROWS", 3000)
    made = hidden(data, MCAR(0.4), 0)
    found = scores(subject(model, data), made)
    assert found.samples == 0
    assert len(made.rows) > 1800
    assert made.after.mask.any(1).all()  # the other column is seen in every row
    for column in found.columns:
        assert number(column.ratio[0]) == pytest.approx(math.sqrt(1 - RHO**2), abs=0.05)
        assert number(column.coverage[0]) == pytest.approx(90, abs=2.5)
        assert number(column.gain[0]) == pytest.approx(-math.log(1 - RHO**2) / 2, abs=0.06)
        heights = [float(h) for h in re.findall(r'height="([\d.]+)"', column.histogram)]
        assert len(heights) == 10
        assert max(heights) < 1.4 * min(heights)
    total = number(found.gain[0])
    assert total == pytest.approx(-math.log(1 - RHO**2), abs=0.1)


def test_errors_are_told_in_the_units_of_the_table(pair, subject):
    data, model = pair
    found = scores(subject(model, data), hidden(data, None, 0))
    errors = {c.name: number(c.error.removeprefix("RMSE ")) for c in found.columns}
    assert errors["b"] / errors["a"] == pytest.approx(7, rel=0.3)
    spread = [number(c.ratio[1]) for c in found.columns]
    assert all(0.02 < s < 0.2 for s in spread)


def test_names_are_right_or_wrong_and_the_best_known_columns_stand_first(
    people, mixed, subject, monkeypatch
):
    monkeypatch.setattr(predictive, "_ROWS", 150)
    data = people(400, holes=False)
    model = mixed(data).model
    made = hidden(data, None, 0)
    found = scores(subject(model, data), made)
    kinds = {c.name: c for c in found.columns}
    assert set(kinds) == {"age", "income", "children", "town", "smokes", "joined"}
    assert kinds["town"].error.endswith("% wrong")
    assert kinds["town"].told.endswith("%")
    assert kinds["town"].histogram == ""
    assert kinds["joined"].error.endswith("days")
    ratios = [number(c.ratio[0]) for c in found.columns]
    assert ratios == sorted(ratios)
    assert number(kinds["town"].ratio[0]) < 0.6 < 0.9 < number(kinds["smokes"].ratio[0])
    right = 100 - number(kinds["town"].error.removesuffix("% wrong"))
    assert number(kinds["town"].coverage[0]) == pytest.approx(right, abs=0.6)
    assert abs(number(kinds["town"].told) - right) < 12


def test_equal_values_are_shared_among_their_intervals():
    lines = np.array([[0.0]] + [[float(q)] for q in (0, 0, 1, 1, 1, 2, 2, 3, 4)] + [[5.0]])
    column = object.__new__(predictive._Column)
    column.lines, column.truth = lines, np.array([1.0])
    expected = np.zeros(10)
    expected[2:6] = 0.25  # between the quantiles 0.2 and 0.6
    assert column.histogram == pytest.approx(expected)


def test_only_observed_cells_are_hidden_and_rows_of_the_fit_are_called_so(people):
    data = people(200)
    made = hidden(data, MCAR(0.3), 1)
    assert not (made.after.mask & ~made.before.mask).any()
    assert ((made.before.mask & ~made.after.mask).any(1)).all()
    assert not made.training
    assert not hidden(data, None, 0, ["people/train"]).training
    assert hidden(data, None, 0, ["people/test without validation"]).training
    assert hidden(people(50, protocol="p/train"), None, 0, ["p/train"]).training
    with pytest.raises(UserError, match="Half"):
        hidden(data, Half("lower"), 0)
    assert hidden(Data.from_array(np.eye(5)), None, 0) is None
