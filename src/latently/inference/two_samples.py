r"""Two sets of vectors: how far apart their distributions are, and which covers which.

Everything here reads rows (n, F) in some feature space and knows neither models nor pixels.
`frechet_distance` compares two moments, the kernel distance all of them; precision and density ask
whether samples lie where data lie, recall and coverage whether data lie where samples do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.kernels import Kernel

__all__ = [
    "Pair",
    "density_coverage",
    "frechet_distance",
    "mann_whitney",
    "nearest_distances",
    "precision_recall",
]

_BLOCK = 4096  # rows searched at a time
_CANDIDATES = 4  # nearest rows found in float32, measured again in float64
_TIE = 1e-9  # relative: equal distances that rounding tells apart


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""The squared Frechet (2-Wasserstein) distance of two Gaussians with the sets' moments.

    `d^2 = |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x^(1/2) S_y S_x^(1/2))^(1/2))`. With the
    centred rows `X = Q R`, and `S_x = R^T R / (n - 1)`, the last trace is the sum of the singular
    values of `R_x R_y^T`. No covariance is formed and no root taken, so singular ones (constant
    features, fewer rows than features) do no harm. It is biased upwards at few rows: compare
    equal numbers. Source: Dowson, Landau, "The Frechet distance between
    multivariate normal distributions", 1982.

    Args:
        x: rows (n, F).
        y: rows (m, F).

    Raises:
        UserError: fewer than two rows, or another number of features.

    >>> x = torch.tensor([[-1.0], [1.0]])
    >>> round(frechet_distance(x, 3 * x + 1), 6)  # (mean 0, deviation 1.41) and (1, 4.24)
    9.0
    """
    x, y = _checked("frechet_distance", x, y, 2)
    (mean_x, root_x), (mean_y, root_y) = _moments(x), _moments(y)
    cross = torch.linalg.svdvals(root_x @ root_y.T).sum()
    apart = (mean_x - mean_y).square().sum()
    found = apart + root_x.square().sum() + root_y.square().sum() - 2 * cross
    return max(float(found), 0.0)


def precision_recall(samples: Tensor, rows: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Precision and recall of samples (n, F) against rows (m, F).

    A set's support is the union of balls around its points, each as wide as the distance to the
    point's k-th nearest neighbour in the set. Precision is the share of samples within the support
    of the rows, recall the share of rows within that of the samples. One outlier among the rows
    has a wide ball, so read density and coverage, too. Source: Kynkaanniemi, Karras, Laine,
    Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing Generative Models", 2019.

    Raises:
        UserError: sets of `neighbours` rows or fewer.

    >>> x = torch.arange(8.0)[:, None]
    >>> precision_recall(x[:4], x)  # half of the data
    (1.0, 0.875)
    """
    pair = Pair.of(*_checked("precision_recall", samples, rows, neighbours + 1))
    return pair.precision(neighbours), pair.recall(neighbours)


def density_coverage(samples: Tensor, rows: Tensor, neighbours: int = 5) -> tuple[float, float]:
    """Density and coverage of samples (n, F) against rows (m, F).

    With the balls of the rows, as in `precision_recall`: density is how many of them a sample
    lies in, over k, 1 on average where samples are like rows, above where they crowd. Coverage is
    the share of balls that hold a sample: `1 - prod_(i<k) (m-1-i)/(n+m-1-i)` on average where they
    are like rows, about `1 - 2^-k` for n = m. Balls of samples, which outliers widen, are not
    used. Source: Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative
    Models", 2020.

    Raises:
        UserError: sets of `neighbours` rows or fewer.
    """
    pair = Pair.of(*_checked("density_coverage", samples, rows, neighbours + 1))
    return pair.density(neighbours), pair.coverage(neighbours)


@dataclass(frozen=True)
class Pair:
    """Samples x and rows y with all their squared distances, from which the measures follow.

    Attributes:
        x: samples, (n, F).
        y: rows, (m, F).
        xx: squared distances within x, (n, n).
        yy: squared distances within y, (m, m).
        xy: squared distances across, (n, m).
    """

    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Pair:
        """The pair with its distances, in float64."""
        x, y = x.double(), y.double()
        return cls(x, y, _squares(x, x), _squares(y, y), _squares(x, y))

    def without(self, x: Tensor, y: Tensor) -> Pair:
        """The pair without the samples at True in x, (n,), and the rows at True in y, (m,)."""
        i, j = (~x).nonzero()[:, 0], (~y).nonzero()[:, 0]
        within = self.xx[i][:, i], self.yy[j][:, j]
        return Pair(self.x[i], self.y[j], *within, self.xy[i][:, j])

    def swapped(self) -> Pair:
        """The same with samples and rows in each other's place."""
        return replace(self, x=self.y, y=self.x, xx=self.yy, yy=self.xx, xy=self.xy.T)

    def frechet(self) -> float:
        """`frechet_distance(x, y)`."""
        return frechet_distance(self.x, self.y)

    def mmd(self, kernel: Kernel) -> float:
        """The mean of `latently.inference.mmd(x, y, kernel)`, from the distances at hand."""
        unit = 2 * self.x.shape[1] * kernel.bandwidth**2
        (n, m), k = self.xy.shape, lambda squares: kernel.of(squares / unit)
        own = (k(self.xx).sum() - n) / (n * (n - 1))
        other = (k(self.yy).sum() - m) / (m * (m - 1))
        return float(own - 2 * k(self.xy).mean() + other)

    def precision(self, neighbours: int) -> float:
        """Share of samples within a ball of a row."""
        return float(self._inside(neighbours).any(1).double().mean())

    def recall(self, neighbours: int) -> float:
        """Share of rows within a ball of a sample."""
        return self.swapped().precision(neighbours)

    def density(self, neighbours: int) -> float:
        """Balls of rows that a sample lies in, over k, on average."""
        return float(self._inside(neighbours).double().sum(1).mean() / neighbours)

    def coverage(self, neighbours: int) -> float:
        """Share of balls of rows that hold a sample."""
        return float(self._inside(neighbours).any(0).double().mean())

    def _inside(self, neighbours: int) -> Tensor:
        """Whether sample i is in the ball of row j, (n, m)."""
        # a row's distance to itself is 0 and comes first
        radii = self.yy.kthvalue(neighbours + 1, dim=1).values
        return self.xy <= radii * (1 + _TIE)


def nearest_distances(x: Tensor, rows: Tensor) -> Tensor:
    """Distance of every x (n, F) to the nearest of rows (m, F): (n,) in float64; 0 if they equal.

    The nearest are found in float32 and measured in float64.
    """
    x, rows = x.flatten(1), rows.flatten(1)
    centre = rows.mean(0, dtype=torch.float64)
    query = (x - centre).float()
    best = torch.full((len(x), _CANDIDATES), torch.inf)
    where = torch.zeros(len(x), _CANDIDATES, dtype=torch.long)
    for start in range(0, len(rows), _BLOCK):
        block = (rows[start : start + _BLOCK] - centre).float()
        found = _squares(query, block)
        near = found.topk(min(_CANDIDATES, len(block)), largest=False)
        both = torch.cat([best, near.values], 1).topk(_CANDIDATES, largest=False)
        best = both.values
        where = torch.cat([where, near.indices + start], 1).gather(1, both.indices)
    return torch.stack(
        [(x.double() - rows[at].double()).square().sum(1).sqrt() for at in where.T]
    ).amin(0)


def mann_whitney(x: Tensor, y: Tensor) -> float:
    r"""The z-score of the Mann-Whitney test: below 0 where values x (n,) are smaller than y (m,).

    `z = (U - n m / 2) / sd(U)`, U the number of pairs with x > y (ties count half), standard
    normal for x and y of one distribution. Source: Mann, Whitney, "On a Test of Whether one of Two
    Random Variables is Stochastically Larger than the Other", 1947, with the deviation for ties.

    >>> round(mann_whitney(torch.arange(5.0), torch.arange(5.0) + 10), 2)
    -2.61
    """
    from scipy.stats import rankdata

    n, m = len(x), len(y)
    pooled = torch.cat([x, y]).double()
    ranks = torch.from_numpy(rankdata(pooled.cpu().numpy())).double()
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    ties = pooled.unique(return_counts=True)[1].double()
    total = n + m
    correction = float((ties**3 - ties).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - correction)
    return (u - n * m / 2) / variance**0.5 if variance > 0 else 0.0


def jackknife(
    pair: Pair, measure: Callable[[Pair], dict[str, float]], groups: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """A measure of the pair, and of it without every one of `groups` equal parts of its rows."""
    parts = [torch.arange(n) % groups for n in pair.xy.shape]
    left = (pair.without(parts[0] == g, parts[1] == g) for g in range(groups))
    return measure(pair), [measure(part) for part in left]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (F,) and R (min(n, F), F) with covariance R^T R."""
    mean = x.mean(0)
    root = torch.linalg.qr(x - mean, mode="r").R
    return mean, root / (len(x) - 1) ** 0.5


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (n, m) by one matrix product; those of equal rows are 0."""
    centre = y.mean(0)
    x, y = x - centre, y - centre
    sizes_x, sizes_y = x.square().sum(1), y.square().sum(1)
    found = torch.addmm(sizes_x[:, None] + sizes_y, x, y.T, alpha=-2)
    noise = 16 * torch.finfo(x.dtype).eps * (sizes_x[:, None] + sizes_y)
    return found.masked_fill_(found <= noise, 0)


def _checked(name: str, x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(
            f"{name}: shapes {tuple(x.shape)} and {tuple(y.shape)}; give (n, F) and (m, F)"
        )
    if min(len(x), len(y)) < least:
        raise UserError(f"{name}: {len(x)} and {len(y)} rows; give at least {least} of each")
    return x.double(), y.double()
