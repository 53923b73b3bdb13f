"""What weighted particles say of missing cells: draws, moments, quantiles, modes.

The moments are those of the mixture sum_k v_k p(x_m | z_k), and so are the quantiles and modes of
cells of few values, such as names and grades: of their probabilities. Of all others quantiles
and modes are taken of one draw x_k ~ p(x_m | z_k) for every particle, weighted by v_k; where few
particles count, of draws that were resampled in proportion to v.
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

__all__ = [
    "Found",
    "Wanted",
    "cells_of",
    "draws_of_row",
    "found_of_block",
    "found_of_row",
    "weighted_index",
]

_FEW = 64  # values of a cell, at most, whose probabilities are told one by one
_NEGLECTED = 1e-4  # total weight of the particles that moments of a single row leave out


class Wanted(NamedTuple):
    """What to find out.

    Attributes:
        draws: per row, 0 for none.
        levels: probabilities of quantiles, () for none; None: draws alone.
        counted: whether the likeliest value of cells is asked for.
        cells: those whose quantiles and modes matter, (*X); None: all. Where others would need
            draws, their mean stands in.
    """

    draws: int
    levels: tuple[float, ...] | None
    counted: bool
    cells: Tensor | None = None

    @property
    def lines(self) -> bool:
        """Whether quantiles or modes are asked for."""
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
    share, moments, lines = shares(heavy.log_w).exp().T, _Moments(), _Lines(x, wanted)
    for part in parts(len(share), x):
        d = conditioned(model, heavy.part(part), rows)
        moments.add(share[part], d)
        lines.add(share[part], d)
    if lines.of_draws:
        count = len(population.log_w)
        lines.put(draws_of_row(model, rows, population, log_shares[0], count))
    mean, std = narrowed(moments.mean, x.dtype), narrowed(moments.variance.sqrt(), x.dtype)
    alike = torch.full_like(log_shares, 1 / len(population.log_w))
    quantiles, mode = lines.told(alike, ~_of(mask, x), mean)
    return Found(draws, mean, std, quantiles, mode, ess, k_hat)


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
    empty, draws = x.new_empty(0), x.new_empty(0, *x.shape)
    if wanted.draws:
        index = weighted_index(share, noise.rand(wanted.draws, torch.float64, x.device))
        chosen = conditioned(model, population.picked(index), rows)
        draws = inside(model, noise.sample(chosen), x.dtype)
    if wanted.levels is None:
        return Found(draws, empty, empty, empty, empty, ess, k_hat)
    moments, lines = _Moments(), _Lines(x, wanted)
    for part in parts(len(share.T), x):
        d = conditioned(model, population.part(part), rows, likelihood)
        moments.add(share.T[part], d)
        lines.add(share.T[part], d)
        if lines.of_draws:
            lines.put(inside(model, lines.drawn(d, noise), x.dtype))
    mean, std = narrowed(moments.mean, x.dtype), narrowed(moments.variance.sqrt(), x.dtype)
    quantiles, mode = lines.told(share, ~_of(mask, x), mean)
    return Found(draws, mean, std, quantiles, mode, ess, k_hat)


def weighted_index(share: Tensor, u: Tensor) -> Tensor:
    """Particle numbers (N, B) by weights (B, K), from U(0, 1) of shape (N, B)."""
    total = share.cumsum(1)
    found = torch.searchsorted(total, u.T.contiguous() * total[:, -1:])
    return found.clamp(max=share.shape[1] - 1).T


def draws_of_row(
    model: Any, rows: Rows, population: Population, log_shares: Tensor, count: int
) -> Tensor:
    """Draws (count, 1, *X) of one row, of particles that are resampled by weight."""
    if not count:
        return rows.x.new_empty(0, *rows.x.shape)
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


class _Lines:
    """Quantiles and modes of the cells of rows x (B, *X), gathered part by part of the particles.

    Where nothing is asked for, it gathers nothing.
    """

    def __init__(self, x: Tensor, wanted: Wanted) -> None:
        self._x, self._wanted = x, wanted
        width = x[0].numel()
        matters = torch.ones(width, dtype=torch.bool, device=x.device)
        self._matters = matters if wanted.cells is None else wanted.cells.flatten().to(x.device)
        self._few: list[tuple[Tensor, Tensor]] = []  # places, probabilities (B, cells, values)
        self._many = torch.zeros_like(matters)
        self._drawn: list[Tensor] = []

    @property
    def of_draws(self) -> bool:
        """Whether some of the cells have many values, so that draws must tell; after `add`."""
        return bool(self._many.any())

    def add(self, share: Tensor, d: Any) -> None:
        """Adds components d of batch shape (K, B) with weights (K, B)."""
        if not self._wanted.lines:
            return
        found = []
        for places, own in cells_of(d, self._x):
            levels = own.levels if hasattr(d, "cells") else None
            if not bool(self._matters[places].any()):
                continue
            if levels is not None and levels <= _FEW:
                probs = own.level_probs
                sums = torch.einsum("kb,kbjl->bjl", share.to(probs.dtype), probs)
                found.append((places, sums.double()))
            else:
                self._many[places] = self._matters[places]
        if self._few:
            found = [(at, a + b) for (at, a), (_, b) in zip(self._few, found, strict=True)]
        self._few = found

    def drawn(self, d: Any, noise: RowNoise) -> Tensor:
        """A draw of every component (K, B) in the cells of many values, (K, B, *X)."""
        found = [
            (at, noise.sample(own))
            for at, own in cells_of(d, self._x)
            if bool(self._many[at].any())
        ]
        if len(found) == 1 and len(found[0][0]) == len(self._many):
            return found[0][1]
        whole = found[0][1].new_zeros(*d.batch_shape, len(self._many))
        for at, own in found:
            whole[..., at] = own.to(whole.dtype)
        return whole.view(*d.batch_shape, *self._x.shape[1:])

    def put(self, drawn: Tensor) -> None:
        """Takes draws (K, B, *X) in."""
        self._drawn.append(drawn)

    def told(self, share: Tensor, hole: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Quantiles (levels, B, *X) and modes (B, *X) in the holes, by weights (B, K) of draws.

        A quantile is the smallest value up to which the weights reach its level: integers stay
        integers.
        """
        assert self._wanted.levels is not None
        levels = torch.tensor(self._wanted.levels, dtype=torch.float64, device=hole.device)
        lines = mean.flatten(1).repeat(len(levels), 1, 1)
        mode = mean.flatten(1).clone() if self._wanted.counted else mean.new_empty(0)
        if self._drawn:
            at = (hole.flatten(1) & self._many).nonzero(as_tuple=True)
            _weigh(torch.cat(self._drawn).flatten(2), share, at, levels, lines, mode)
        for places, probs in self._few:
            reached = probs.cumsum(-1) / probs.sum(-1, keepdim=True)
            below = levels.view(-1, 1, 1, 1) > reached[..., :-1]
            lines[:, :, places] = below.sum(-1).to(lines.dtype)
            if self._wanted.counted:
                mode[:, places] = probs.argmax(-1).to(mode.dtype)
        return lines.view(-1, *hole.shape), mode.view(hole.shape) if len(mode) else mode


def cells_of(d: Any, x: Tensor) -> list[tuple[Tensor, Any]]:
    """The distributions that d is made of, with the places of their cells in a flat row of x."""
    parts = d.cells() if hasattr(d, "cells") else [(torch.arange(x[0].numel()), d)]
    return [(at.to(x.device), own) for at, own in parts]


def _weigh(
    drawn: Tensor,
    share: Tensor,
    at: tuple[Tensor, ...],
    levels: Tensor,
    lines: Tensor,
    mode: Tensor,
) -> None:
    """Puts quantiles of weighted draws (K, B, D) at some cells into `lines`, (levels, B, D).

    So their modes into `mode`, (B, D), unless it is empty.
    """
    cells: tuple[Any, ...] = (slice(None), *at)
    ordered, order = drawn[cells].T.contiguous().sort(1)
    total = share[at[0]].gather(1, order).cumsum(1)
    places = torch.searchsorted(total, (levels * total[:, -1:]).contiguous())
    lines[cells] = ordered.gather(1, places.clamp(max=ordered.shape[1] - 1)).T
    if len(mode):
        mode[at] = _likeliest(ordered, total)


def _likeliest(ordered: Tensor, total: Tensor) -> Tensor:
    """The value of most weight in rows of sorted values with their cumulated weights, (n,)."""
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    reached = torch.where(last, total, 0.0)
    before = torch.cat([torch.zeros_like(total[:, :1]), reached.cummax(1).values[:, :-1]], 1)
    best = torch.where(last, total - before, -1.0).argmax(1, keepdim=True)
    return ordered.gather(1, best)[:, 0]
