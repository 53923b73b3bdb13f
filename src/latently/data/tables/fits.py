r"""How well one-column distributions fit: log-likelihoods at simple estimates, in nats.

Only a choice among families rests on them: a family is fitted by moments or, for Student's t, by a
few passes of EM at fixed degrees of freedom; a few per cent below the maximum decide nothing.
Every free number costs half the logarithm of the number of values (Schwarz, "Estimating the
Dimension of a Model", 1978), so that all scores here compare:

    score = sum_i log p(v_i | estimate) - (free numbers / 2) log n
"""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "gamma",
    "histogram",
    "log_normal",
    "negative_binomial",
    "normal",
    "student_t",
    "zeros_explained",
]

_DEGREES = (2.0, 3.0, 5.0, 10.0)  # of freedom; above, a normal is as good
_PASSES = 15


def normal(values: np.ndarray) -> float:
    """Score of a normal distribution.

    >>> normal(np.array([-1.0, 1.0]))
    -3.5310...
    """
    n = len(values)
    variance = max(float(values.var()), 1e-300)
    return -0.5 * n * (math.log(2 * math.pi * variance) + 1) - math.log(n)


def student_t(values: np.ndarray) -> float:
    """Score of Student's t with the best of a few degrees of freedom."""
    n = len(values)
    centre = float(np.median(values))
    spread = float(np.median(np.abs(values - centre))) * 1.4826 or float(values.std())
    scaled = (values - centre) / max(spread, 1e-300)
    best = max(_student_t(scaled, degrees) for degrees in _DEGREES)
    return best - n * math.log(max(spread, 1e-300)) - 1.5 * math.log(n)


def _student_t(values: np.ndarray, degrees: float) -> float:
    loc, variance = 0.0, 1.0
    for _ in range(_PASSES):
        weights = (degrees + 1) / (degrees + (values - loc) ** 2 / variance)
        loc = float((weights * values).sum() / weights.sum())
        # half of all values in one place would make this 0 and the density infinite
        variance = max(float((weights * (values - loc) ** 2).mean()), 0.01)
    constant = (
        math.lgamma((degrees + 1) / 2)
        - math.lgamma(degrees / 2)
        - 0.5 * math.log(degrees * math.pi * variance)
    )
    tails = np.log1p((values - loc) ** 2 / (degrees * variance)).sum()
    return len(values) * constant - (degrees + 1) / 2 * float(tails)


def log_normal(values: np.ndarray) -> float:
    """Score of a log-normal distribution of positive values."""
    logs = np.log(values)
    return normal(logs) - float(logs.sum())


def gamma(values: np.ndarray) -> float:
    """Score of a gamma distribution of positive values, by the approximation of Minka.

    Source: Thomas Minka, "Estimating a Gamma distribution", 2002.
    """
    n, mean = len(values), float(values.mean())
    logs = float(np.log(values).mean())
    gap = max(math.log(mean) - logs, 1e-12)
    shape = (3 - gap + math.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    rate = shape / mean
    each = shape * math.log(rate) - math.lgamma(shape) + (shape - 1) * logs - rate * mean
    return n * each - math.log(n)


def negative_binomial(values: np.ndarray, counts: np.ndarray) -> float:
    """Score of a negative binomial distribution, by moments.

    Args:
        values: the different whole numbers.
        counts: how often each occurs.

    Where the variance is not above the mean, of a Poisson distribution.
    """
    n, mean, size = _moments(values, counts)
    score = -math.log(n)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        score += count * _log_negative_binomial(value, mean, size)
    return score


def _moments(values: np.ndarray, counts: np.ndarray) -> tuple[int, float, float]:
    n = int(counts.sum())
    mean = float((values * counts).sum()) / n
    variance = float((counts * (values - mean) ** 2).sum()) / n
    size = mean**2 / (variance - mean) if variance > mean * (1 + 1e-6) else math.inf
    return n, mean, size


def _log_negative_binomial(value: float, mean: float, size: float) -> float:
    if size > 1e6:
        return value * math.log(mean) - mean - math.lgamma(value + 1) if mean > 0 else 0.0
    return (
        math.lgamma(value + size)
        - math.lgamma(size)
        - math.lgamma(value + 1)
        + size * math.log(size / (size + mean))
        + value * math.log(mean / (size + mean))
    )


def zeros_explained(values: np.ndarray, counts: np.ndarray) -> float:
    """Share of zeros under the negative binomial of `negative_binomial`."""
    _, mean, size = _moments(values, counts)
    return math.exp(_log_negative_binomial(0.0, mean, size)) if mean > 0 else 1.0


def histogram(counts: np.ndarray) -> float:
    """Score of a free probability for every value.

    >>> histogram(np.array([5, 5]))
    -8.0827...
    """
    n, levels = int(counts.sum()), len(counts)
    shares = counts / n
    return float((counts * np.log(shares)).sum()) - (levels - 1) / 2 * math.log(n)
