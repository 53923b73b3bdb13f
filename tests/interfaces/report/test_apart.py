"""Gaps between samples: against SciPy, and against how often chance exceeds its limit."""

import math

import numpy as np
import pytest
from scipy import stats

from latently.interfaces.report import apart


def test_gaps_of_numbers_are_those_of_kolmogorov_and_smirnov():
    rng = np.random.default_rng(0)
    for n, m in ((5, 9), (200, 31)):
        a, b = rng.normal(size=n).round(1), rng.normal(0.5, size=m).round(1)  # with ties
        known = stats.ks_2samp(a, b, method="asymp")
        assert apart.gap(a, b, nominal=False) == pytest.approx(known.statistic, abs=1e-12)
    # SciPy's asymptotic value rounds the number of rows, and corrects for few of them
    assert apart.p_value(a, b, nominal=False) == pytest.approx(known.pvalue, rel=0.25)


def test_gaps_of_names_are_half_the_sum_of_differences():
    a, b = np.array([0, 0, 1, 2.0]), np.array([0, 1, 1, 1, 3.0])
    assert apart.gap(a, b, nominal=True) == pytest.approx((0.3 + 0.35 + 0.25 + 0.2) / 2)
    table = [[2, 1, 1, 0], [1, 3, 0, 1]]
    known = stats.chi2_contingency(table, correction=False).pvalue
    assert apart.p_value(a, b, nominal=True) == pytest.approx(known)
    assert apart.p_value(np.ones(4), np.ones(9), nominal=True) == 1.0


def test_gaps_of_two_levels_agree_whatever_they_are_called():
    rng = np.random.default_rng(1)
    a, b = (rng.random(50) < 0.3).astype(float), (rng.random(70) < 0.5).astype(float)
    assert apart.gap(a, b, nominal=True) == pytest.approx(apart.gap(a, b, nominal=False))
    assert math.isnan(apart.gap(a, b[:0], nominal=True))


@pytest.mark.parametrize("nominal", [False, True])
def test_chance_is_exceeded_once_in_twenty(nominal):
    rng = np.random.default_rng(2)

    def draw(n):
        return rng.integers(0, 12, n).astype(float) if nominal else rng.normal(size=n)

    pairs = [(draw(300), draw(500)) for _ in range(800)]
    above = [apart.gap(*p, nominal=nominal) > apart.chance(*p, nominal=nominal) for p in pairs]
    assert 0.025 < np.mean(above) < 0.075
