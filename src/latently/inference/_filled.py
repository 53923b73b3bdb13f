"""What weighted particles say of missing cells: draws, moments, quantiles, modes.

The moments are those of the mixture sum_k v_k p(x_m | z_k). Its quantiles are taken of one draw
x_k ~ p(x_m | z_k) for every particle, weighted by v_k; where few particles count, of draws that
were resampled in proportion to v.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from latently.inference._by_row import RowNoise
from latently.inference._population import (
    Population,
    conditioned,
    effective,
    inside,
    narrowed,
    parts,
    resampled,
    shapes,
    shares,
)
from latently.inference.rows import Rows

__all__ = ["Found", "Wanted", "draws_of_row", "found_of_block", "found_of_row", "weighted_index"]

_NEGLECTED = 1e-4  # total weight of the particles that moments of a single row leave out


class Wanted(NamedTuple):
    """What to find out.

    Attributes:
        draws: per row.
        levels: probabilities of quantiles, () for none; None: draws alone.
        counted: whether the likeliest value of cells is asked for.
    """

    draws: int
    levels: tuple[float, ...] | None
    counted: bool

    @property
    def lines(self) -> bool:
        """Whether a draw of every particle is needed, of which quantiles and modes are told."""
        return self.counted or bool(self.levels)


class Found(NamedTuple):
    """Of B rows; what stands in observed cells has no meaning.

    Attributes:
        draws: (draws, B, *X).
        mean: (B, *X), and so are `std` and `mode`; empty where draws alone were wanted.
        std: standard deviations.
        quantiles: (levels, B, *X).
        mode: the most frequent value.
        ess: effective number of particles, (B,).
        k_hat: Pareto shape of the largest weights, (B,).
    """

    draws: Tensor
    mean: Tensor
    std: Tensor
    quantiles: Tensor
    mode: Tensor
    ess: Tensor
    k_hat: Tensor

    def rows(self, which: list[int]) -> Found:
        """Some of the rows."""
        own = (self.mean, self.std, self.mode, self.ess, self.k_hat)
        mean, std, mode, ess, k_hat = (t[which] if len(t) else t for t in own)
        lines = self.quantiles[:, which] if self.quantiles.dim() > 1 else self.quantiles
        return Found(self.draws[:, which], mean, std, lines, mode, ess, k_hat)


def found_of_row(model: Any, rows: Rows, population: Population, wanted: Wanted) -> Found:
    """Of one row, whatever its weights, from the global generator."""
    x, mask, _ = rows
    assert mask is not None
    log_shares = shares(population.log_w)
    ess, k_hat = effective(log_shares).cpu(), shapes(log_shares).cpu()
    draws = draws_of_row(model, rows, population, log_shares[0], wanted.draws)
    empty = x.new_empty(0)
    if wanted.levels is None:
        return Found(draws, empty, empty, empty, empty, ess, k_hat)
    order = log_shares[0].argsort(descending=True)
    total = log_shares[0][order].exp().cumsum(0)
    heavy = population.part(order[: int((total < 1 - _NEGLECTED).sum()) + 1])
    mean, variance = _Moments.of(model, heavy, rows)
    lines, mode = x.new_empty(0, *x.shape), empty
    if wanted.lines:
        count = len(population.log_w)
        drawn = draws_of_row(model, rows, population, log_shares[0], count)
        ordered = drawn.sort(0).values
        levels = torch.tensor(wanted.levels, dtype=torch.float64, device=x.device)
        lines = ordered[(levels * count).ceil().long().sub(1).clamp(0, count - 1)]
        mode = drawn.mode(0).values if wanted.counted else empty
    mean, std = (narrowed(values, x.dtype) for values in (mean, variance.sqrt()))
    return Found(draws, mean, std, lines, mode, ess, k_hat)


def found_of_block(
    model: Any,
    rows: Rows,
    population: Population,
    wanted: Wanted,
    noise: RowNoise,
    likelihood: Any = None,
) -> Found:
    """Of rows whose weights are settled, each from its own generator; p(x|z), if it is known."""
    x, mask, _ = rows
    log_shares = shares(population.log_w)
    share = log_shares.exp()  # (B, K)
    ess, k_hat = effective(log_shares).cpu(), shapes(log_shares).cpu()
    index = weighted_index(share, noise.rand(wanted.draws, torch.float64, x.device))
    chosen = conditioned(model, population.picked(index), rows)
    draws = inside(model, noise.sample(chosen), x.dtype)
    empty = x.new_empty(0)
    if wanted.levels is None:
        return Found(draws, empty, empty, empty, empty, ess, k_hat)
    moments, drawn = _Moments(), []
    for part in parts(len(share.T), x):
        d = conditioned(model, population.part(part), rows, likelihood)
        moments.add(share.T[part], d)
        if wanted.lines:
            drawn.append(inside(model, noise.sample(d), x.dtype))
    lines, mode = x.new_empty(0, *x.shape), empty
    if wanted.lines:
        lines, mode = _weighted(torch.cat(drawn), share, ~_of(mask, x), wanted)
    mean, std = narrowed(moments.mean, x.dtype), narrowed(moments.variance.sqrt(), x.dtype)
    return Found(draws, mean, std, lines, mode, ess, k_hat)


def weighted_index(share: Tensor, u: Tensor) -> Tensor:
    """Particle numbers (N, B) by weights (B, K), from U(0, 1) of shape (N, B)."""
    total = share.cumsum(1)
    found = torch.searchsorted(total, u.T.contiguous() * total[:, -1:])
    return found.clamp(max=share.shape[1] - 1).T


def draws_of_row(
    model: Any, rows: Rows, population: Population, log_shares: Tensor, count: int
) -> Tensor:
    """Draws (count, 1, *X) of one row, of particles that are resampled by weight."""
    index = resampled(log_shares, count)
    drawn = [
        conditioned(model, population.part(index[part]), rows).sample()
        for part in parts(count, rows.x)
    ]
    return inside(model, torch.cat(drawn), rows.x.dtype)


class _Moments:
    """Mean and variance of a weighted mixture, part by part (Chan, Golub, LeVeque, 1983)."""

    weight: Tensor
    mean: Tensor
    _squares: Tensor

    def __init__(self) -> None:
        self._started = False

    @classmethod
    def of(cls, model: Any, population: Population, rows: Rows) -> tuple[Tensor, Tensor]:
        """Of all particles of rows, (B, *X)."""
        share, found = shares(population.log_w).exp().T, cls()
        for part in parts(len(share), rows.x):
            found.add(share[part], conditioned(model, population.part(part), rows))
        return found.mean, found.variance

    def add(self, share: Tensor, d: Any) -> None:
        """Adds components d of batch shape (K, B) with weights (K, B)."""
        means, variances = d.mean.double(), d.variance.double()
        share = share.reshape(*share.shape, *(1,) * (means.dim() - 2))
        weight = share.sum(0)
        mean = _summed(share, means) / weight.clamp(min=torch.finfo(torch.float64).tiny)
        squares = _summed(share, variances + (means - mean).square())
        if not self._started:
            self.weight, self.mean, self._squares, self._started = weight, mean, squares, True
            return
        both = self.weight + weight
        ratio = weight / both
        apart = mean - self.mean
        self.mean = self.mean + ratio * apart
        self._squares = self._squares + squares + self.weight * ratio * apart.square()
        self.weight = both

    @property
    def variance(self) -> Tensor:
        """(B, *X)."""
        return self._squares / self.weight


def _summed(share: Tensor, values: Tensor) -> Tensor:
    """Over particles, a weight of 0 times a value beyond all numbers counting 0."""
    return torch.where(share > 0, share * values, 0.0).sum(0)


def _of(mask: Tensor | None, x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool) if mask is None else mask


def _weighted(drawn: Tensor, share: Tensor, hole: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """Quantiles (levels, B, *X) and modes (B, *X) of weighted draws (K, B, *X) in the holes.

    A quantile is the smallest draw up to which the weights reach its level: integers stay
    integers.
    """
    assert wanted.levels is not None
    at = hole.nonzero(as_tuple=True)
    cells: tuple[Any, ...] = (slice(None), *at)
    ordered, order = drawn[cells].T.contiguous().sort(1)
    total = share[at[0]].gather(1, order).cumsum(1)
    levels = torch.tensor(wanted.levels, dtype=total.dtype, device=total.device)
    places = torch.searchsorted(total, (levels * total[:, -1:]).contiguous())
    lines = drawn.new_zeros(len(levels), *hole.shape)
    lines[cells] = ordered.gather(1, places.clamp(max=ordered.shape[1] - 1)).T
    mode = drawn.new_empty(0)
    if wanted.counted:
        mode = drawn.new_zeros(hole.shape)
        mode[at] = _likeliest(ordered, total)
    return lines, mode


def _likeliest(ordered: Tensor, total: Tensor) -> Tensor:
    """The value of most weight in rows of sorted values with their cumulated weights, (n,)."""
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    reached = torch.where(last, total, 0.0)
    before = torch.cat([torch.zeros_like(total[:, :1]), reached.cummax(1).values[:, :-1]], 1)
    best = torch.where(last, total - before, -1.0).argmax(1, keepdim=True)
    return ordered.gather(1, best)[:, 0]
