"""How far apart two samples of one column are: the largest difference of any share."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["chance", "counted", "gap", "ordered", "p_value"]

_DRAWS = 400  # of which is told what is chance


def ordered(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of the shares below any value (Kolmogorov-Smirnov), 0 to 1."""
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(part), at, side="right") / len(part) for part in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def counted(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of the shares of any set of names (total variation), 0 to 1."""
    first, second = _shares(a, b)
    return float(np.abs(first - second).sum() / 2)


def gap(a: np.ndarray, b: np.ndarray, *, nominal: bool) -> float:
    """`counted` of names, `ordered` of all else; NaN where a sample is empty."""
    if not len(a) or not len(b):
        return math.nan
    return counted(a, b) if nominal else ordered(a, b)


def chance(a: np.ndarray, b: np.ndarray, *, nominal: bool) -> float:
    """What a gap between samples of one distribution exceeds in about one case of twenty.

    The limit of Kolmogorov and Smirnov; of names, of draws from the shares of both together.
    """
    if not len(a) or not len(b):
        return math.nan
    if not nominal:
        return min(1.0, 1.358 * math.sqrt(1 / len(a) + 1 / len(b)))
    share = np.unique(np.concatenate([a, b]), return_counts=True)[1] / (len(a) + len(b))
    rng = np.random.default_rng(0)
    drawn = [rng.multinomial(len(part), share, _DRAWS) / len(part) for part in (a, b)]
    return float(np.quantile(np.abs(drawn[0] - drawn[1]).sum(1) / 2, 0.95))


def p_value(a: np.ndarray, b: np.ndarray, *, nominal: bool) -> float:
    """Of the hypothesis that both samples are of one distribution.

    By the limit of Kolmogorov and Smirnov, which is cautious where values repeat; of names by
    Pearson's chi-squared.
    """
    from scipy import stats

    if not nominal:
        root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
        return float(stats.kstwobign.sf(root * ordered(a, b)))
    values, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    if len(values) < 2:
        return 1.0
    table = np.stack([np.bincount(part, minlength=len(values)) for part in _split(codes, len(a))])
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def _shares(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    values, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    return [np.bincount(c, minlength=len(values)) / len(c) for c in _split(codes, len(a))]


def _split(codes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    codes = codes.reshape(-1)
    return codes[:n], codes[n:]
