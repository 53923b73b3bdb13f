"""Independent cells: a variance for every cell of a component, or one for all of them.

Cells that are missing leave the sums: nothing is expected of them that could move a parameter.
Distances and sums are products of matrices with x and x^2, taken about the centre of the rows;
where a component is so narrow that the terms of a distance would cancel, it is a sum of squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latently.models._columns import moments
from latently.models.components._elliptical import LEAST, Expected, Scatter
from latently.models.components._rows import Block, Clusters, slices
from latently.probability.distributions import Factorized, Normal

__all__ = ["Cells"]

_NARROW = 1e4  # (mu / sigma)^2 up to which products keep twelve digits


@dataclass
class _Sums:
    """Of a pass: about the centre, per component.

    Attributes:
        loc: means about the centre, (C, D).
        products: what x^2 and x are multiplied by for distances, (2 D, C).
        constant: of the distance, per cell, (C, D).
        count: sum of r, (C,).
        rows, weight: sums of r and w over the rows that hold a cell, (C, D).
        first, second: sums of `w x` and `w x^2`, (C, D).
        narrow: whether a component is so narrow that distances are sums of squares.
    """

    loc: Tensor
    products: Tensor
    constant: Tensor
    count: Tensor
    rows: Tensor
    weight: Tensor
    first: Tensor
    second: Tensor
    narrow: bool


class Cells(Scatter):
    """Means and variances; `log_scale` is (C, D), or (C, 1) where one is for all cells."""

    target: Tensor

    def __init__(self, size: int, count: int, *, shared: bool, prior: float = 0.0) -> None:
        super().__init__(size, count)
        self.prior = prior
        if prior:
            self.register_buffer("target", torch.ones(size, dtype=torch.float64))
        width = 1 if shared else size
        self.log_scale = nn.Parameter(torch.zeros(count, width, dtype=torch.float64))

    @property
    def width(self) -> int:
        return 2 * self.loc.shape[1] + 4 * len(self.loc)

    def degrees(self) -> int:
        return self.log_scale.numel()

    def scale(self, x: Tensor, mask: Tensor | None) -> None:
        super().scale(x, mask)
        if self.prior:
            self.target.copy_(moments(x, mask)[1] / len(self.loc) ** (2 / len(self.target)))

    def log_prior(self) -> Tensor | float:
        if not self.prior:
            return 0.0
        log_scale = self.log_scale.expand_as(self.loc)
        terms = 2 * log_scale + self.target * (-2 * log_scale).exp()
        return -0.5 * self.prior * terms.sum()

    def energy(self, x: Tensor, mask: Tensor | None) -> Expected:
        return self._squares(x, mask, self.loc)

    def given(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        shape = len(x), *self.loc.shape
        variance = (2 * self.log_scale).exp().expand_as(self.loc)
        return self.loc.expand(shape), variance.expand(shape)

    def others(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.given(x, mask)

    def normal(self, k: int, shape: tuple[int, ...]) -> Factorized:
        scale = self.log_scale[k].expand_as(self.loc[k])
        return Factorized(Normal(self.loc[k].view(shape), scale.view(shape)), len(shape))

    def fallen(self) -> list[int]:
        held = (2 * self.log_scale).exp() <= 1.01 * self._least()
        if held.shape[1] > 1:
            held = held[:, self.varies]
        return held.any(1).nonzero().flatten().tolist()

    def start(self, clusters: Clusters) -> None:
        self._set(clusters.variance, clusters.count[:, None].expand_as(self.loc))

    def begin(self, centre: Tensor) -> _Sums:
        loc, scale = self.loc - centre, self.log_scale.expand_as(self.loc)
        rate = (-2 * scale).exp()
        products = torch.cat([rate, -2 * loc * rate], 1).T.contiguous()
        constant = loc.square() * rate
        return _Sums(
            loc=loc,
            products=products,
            constant=constant,
            count=torch.zeros_like(loc[:, 0]),
            rows=torch.zeros_like(loc),
            weight=torch.zeros_like(loc),
            first=torch.zeros_like(loc),
            second=torch.zeros_like(loc),
            narrow=bool(constant.max() > _NARROW),
        )

    def expect(self, block: Block, sums: _Sums) -> Expected:
        both = torch.cat([block.x.square(), block.x], 1)
        if sums.narrow:
            return self._squares(block.x, block.mask, sums.loc)._replace(state=both)
        scale = self.log_scale.expand_as(self.loc)
        if block.mask is None:
            energy = torch.addmm(sums.constant.sum(1), both, sums.products)
            return Expected(energy, scale.sum(1), both)
        seen = block.mask.to(both.dtype)
        energy = torch.addmm(seen @ sums.constant.T, both, sums.products)
        return Expected(energy, seen @ scale.T, both)

    def collect(self, block: Block, sums: _Sums, found: Expected, r: Tensor, w: Tensor) -> None:
        second, first = (w.T @ found.state).chunk(2, 1)
        sums.first += first
        sums.second += second
        sums.count += r.sum(0)
        if block.mask is None:
            sums.rows += r.sum(0)[:, None]
            sums.weight += w.sum(0)[:, None]
        else:
            seen = block.mask.to(r.dtype)
            sums.rows += r.T @ seen
            sums.weight += w.T @ seen

    def maximise(self, sums: _Sums) -> None:
        alive = sums.rows > LEAST
        mean = torch.where(alive, sums.first / sums.weight.clamp(min=1e-300), sums.loc)
        self.loc.add_(mean - sums.loc)
        square = (sums.second - mean * sums.first).clamp(min=0)
        self._set(torch.where(alive, square / sums.rows.clamp(min=LEAST), 0.0), sums.rows)

    def _squares(self, x: Tensor, mask: Tensor | None, loc: Tensor) -> Expected:
        """Distances from means (C, D) as sums of squares, in blocks of rows."""
        scale, found = self.log_scale.expand_as(loc), []
        for rows in slices(len(x), loc.numel()):
            here = x[rows] if mask is None else torch.where(mask[rows], x[rows], 0.0)
            white = (here[:, None] - loc) * (-scale).exp()
            if mask is not None:
                white = torch.where(mask[rows][:, None], white, 0.0)
            found.append(white.square().sum(-1))
        log_det = scale.sum(-1) if mask is None else mask.to(scale.dtype) @ scale.T
        return Expected(torch.cat(found), log_det)

    def _set(self, variance: Tensor, rows: Tensor) -> None:
        """Sets variances (C, D) of so many rows, pooled over the cells where one is shared."""
        if self.prior:
            variance = (rows * variance + self.prior * self.target) / (rows + self.prior)
            rows = rows + self.prior
        if self.log_scale.shape[1] == 1:
            total = rows.sum(1, keepdim=True)
            variance = (variance * rows).sum(1, keepdim=True) / total.clamp(min=LEAST)
            rows = total
        found = 0.5 * torch.maximum(variance, self._least()).log()
        self.log_scale.copy_(torch.where(rows > LEAST, found, self.log_scale))

    def _least(self) -> Tensor:
        least = self.floor.clamp(min=1e-300)
        return least.min()[None] if self.log_scale.shape[1] == 1 else least
