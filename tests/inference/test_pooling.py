"""Rubin's rules against numbers worked by hand and the coverage of intervals."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from latently.inference.pooling import pool


def test_the_rules_worked_by_hand():
    found = pool([10.0, 12.0, 14.0], [1.0, 2.0, 3.0])
    # Qbar = 12, Ubar = 2, B = (4 + 0 + 4) / 2 = 4, T = 2 + 4/3 * 4 = 22/3
    assert found.mean == pytest.approx(12)
    assert found.within == pytest.approx(2)
    assert found.between == pytest.approx(4)
    assert found.variance == pytest.approx(22 / 3)
    assert found.relative_increase == pytest.approx(8 / 3)
    # lambda = (16/3) / (22/3) = 8/11, df = 2 / (64/121) = 121/32
    assert found.df == pytest.approx(121 / 32)
    assert found.df == pytest.approx(2 * (1 + 3 / 8) ** 2)  # Rubin's (M - 1) (1 + 1/r)^2
    assert found.fraction_missing == pytest.approx((8 / 3 + 2 / (121 / 32 + 3)) / (11 / 3))
    low, high = found.interval(0.9)
    half = stats.t.ppf(0.95, 121 / 32) * (22 / 3) ** 0.5
    assert low == pytest.approx(12 - half)
    assert high == pytest.approx(12 + half)


def test_small_samples_by_hand():
    found = pool([10.0, 12.0, 14.0], [1.0, 2.0, 3.0], complete_df=20)
    observed = 21 / 23 * 20 * (3 / 11)
    assert found.df == pytest.approx(1 / (32 / 121 + 1 / observed))
    assert found.df < 20


def test_nothing_missing_gives_the_complete_analysis():
    same = pool([2.0, 2.0], [0.25, 0.25], complete_df=30)
    assert same.variance == 0.25
    assert same.df == pytest.approx(31 / 33 * 30)
    assert same.fraction_missing == pytest.approx(2 / (same.df + 3))
    endless = pool([2.0, 2.0], [0.25, 0.25])
    assert np.isinf(endless.df)
    assert endless.fraction_missing == 0
    assert endless.interval()[1] == pytest.approx(2 + 1.959964 * 0.5)


def test_variances_of_zero_leave_what_lies_between():
    found = pool([1.0, 3.0], [0.0, 0.0])
    assert found.variance == pytest.approx(3.0)
    assert found.df == pytest.approx(1.0)
    assert np.isinf(found.relative_increase)
    assert found.fraction_missing == pytest.approx(1.0)
    few = pool([1.0, 3.0], [0.0, 0.0], complete_df=20)
    assert few.df == pytest.approx(1.0)
    assert np.isfinite(few.interval()).all()


@pytest.mark.parametrize(
    "make",
    [partial(torch.tensor, dtype=torch.float64), np.asarray, list],
    ids=["torch", "numpy", "list"],
)
def test_every_entry_is_pooled_by_itself(make):
    q, u = [[1.0, 5.0], [2.0, 9.0]], [[0.1, 0.2], [0.3, 0.4]]
    found = pool(make(q), make(u))
    for j in range(2):
        alone = pool([row[j] for row in q], [row[j] for row in u])
        assert found.mean[j] == alone.mean
        assert found.df[j] == alone.df


def test_intervals_cover():
    """The mean of a normal sample of which a part is missing, imputed with its uncertainty."""
    rng, n, seen, m, runs = np.random.default_rng(0), 30, 18, 5, 4000
    x = rng.normal(size=(runs, seen))
    mean, s2 = x.mean(1), x.var(1, ddof=1)
    shape = m, runs
    variance = (seen - 1) * s2 / rng.chisquare(seen - 1, shape)  # posterior draws
    centre = mean + np.sqrt(variance / seen) * rng.normal(size=shape)
    rest = centre[..., None] + np.sqrt(variance)[..., None] * rng.normal(size=(*shape, n - seen))
    whole = np.concatenate([np.broadcast_to(x, (m, *x.shape)), rest], 2)
    found = pool(whole.mean(2), whole.var(2, ddof=1) / n, complete_df=n - 1)
    low, high = found.interval(0.95)
    cover = ((low < 0) & (high > 0)).mean()
    assert 0.94 < cover < 0.97
    single = whole[0].mean(1), np.sqrt(whole[0].var(1, ddof=1) / n)
    naive = (np.abs(single[0]) < stats.t.ppf(0.975, n - 1) * single[1]).mean()
    assert naive < 0.9  # one imputation taken for data


def test_bad_input(refused):
    with refused("estimates: 1 of them", "two or more"):
        pool([1.0], [1.0])
    with refused("single number"):
        pool(1.0, 1.0)
    with refused("(2,)", "(3,)"):
        pool([1.0, 2.0], [1.0, 2.0, 3.0])
    with refused("-1", "squared standard errors"):
        pool([1.0, 2.0], [1.0, -1.0])
    with refused("[1]", "not finite"):
        pool([1.0, np.nan], [1.0, 1.0])
    with refused("complete_df=0"):
        pool([1.0, 2.0], [1.0, 1.0], complete_df=0)
    with refused("array (M, ...)"):
        pool(["a", "b"], [1.0, 1.0])
    with refused("level=1"):
        pool([1.0, 2.0], [1.0, 1.0]).interval(1)
