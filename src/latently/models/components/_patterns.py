r"""Rows with holes under full covariances, by the pattern of what they lack.

With m the missing and o the observed cells of a row and `P = Sigma^-1`, what is missing has, given
what is observed, the covariance `P_mm^-1` and the mean `mu_m - P_mm^-1 P_mo (x_o - mu_o)`. A row e
filled with it is the nearest to mu that holds x_o, so that

    (x_o - mu_o)' Sigma_oo^-1 (x_o - mu_o) = (e - mu)' P (e - mu) = |L^-1 (e - mu)|^2,
    log |Sigma_oo| = log |Sigma| + log |P_mm|.

Matrices are of the size of what a pattern lacks, `holes`; patterns that lack less are filled up by
ones. All sums are of squares: nothing cancels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latently.models.components._elliptical import Expected
from latently.models.components._rows import Block
from latently.probability.distributions.gaussian import half_log_det, inverse_lower

__all__ = ["Patterns", "left_out", "places"]


class Patterns:
    """A block of rows (P, R, D) by pattern under every component.

    Attributes:
        moved: `E[x | x_o] - mu`, (C, P R, D).
    """

    def __init__(self, loc: Tensor, root: Tensor, block: Block) -> None:
        assert block.mask is not None
        patterns, tall, self._size = block.x.shape
        self._tall, self._count = tall, len(loc)
        lacks = ~block.mask
        holes = lacks.sum(1, keepdim=True)
        most = int(holes.max())
        first = (~lacks).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        live = torch.arange(most, device=holes.device) < holes
        self._at = torch.where(live, first, self._size)  # D: no cell
        inverse = inverse_lower(root)
        precision = inverse.mT @ inverse
        rows, columns = first[:, :, None], first[:, None]
        both = (live[:, :, None] & live[:, None]).to(loc.dtype)
        eye = torch.eye(most, dtype=loc.dtype, device=loc.device)
        of_holes = precision[:, rows, columns] * both + eye * (1 - live[:, None].to(loc.dtype))
        of_holes = torch.linalg.cholesky_ex(of_holes).L
        within = inverse_lower(of_holes)
        self._left = within.mT @ within  # covariance of what a pattern lacks, (F, P, H, H)
        seen = block.mask[:, None].expand(-1, tall, -1).flatten(0, 1).to(loc.dtype)
        apart = (block.x.flatten(0, 1) - loc[:, None]) * seen  # (C, P R, D)
        where = self._at.repeat_interleave(tall, 0).expand(self._count, -1, -1)
        drawn = (apart @ precision).gather(2, where.clamp(max=self._size - 1))
        drawn = drawn.unflatten(1, (patterns, tall)).mT * live[:, :, None]
        solved = (self._left @ drawn).mT.flatten(1, 2)  # (C, P R, H)
        filled = apart.new_zeros(self._count, len(seen), self._size + 1).scatter(2, where, -solved)
        self.moved = apart + filled[..., :-1]
        self._white = self.moved @ inverse.mT
        self._halves = half_log_det(of_holes) + half_log_det(root)[:, None]  # (F, P)

    def expected(self) -> Expected:
        energy = self._white.square().sum(-1).T
        halves = self._halves.T.expand(-1, self._count).repeat_interleave(self._tall, 0)
        return Expected(energy, halves)

    def left(self) -> Tensor:
        """Variance of every cell given the observed ones, (P, F, D), 0 in these."""
        found = self._left.diagonal(dim1=-2, dim2=-1)
        where = self._at.expand_as(found)
        whole = found.new_zeros(*found.shape[:2], self._size + 1).scatter(2, where, found)
        return whole[..., :-1].transpose(0, 1)

    def sums(self, r: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Of `w E[x - mu]`, (C, D), and of `w E[(x - mu) (x - mu)']`, (C, D, D)."""
        weighted = self.moved * w.T[..., None]
        of_pattern = r.T.unflatten(1, (-1, self._tall)).sum(2)
        left = (self._left * of_pattern[..., None, None]).flatten(1)
        wide = self._size + 1
        cells = (self._at[:, :, None] * wide + self._at[:, None]).flatten()
        whole = left.new_zeros(self._count, wide**2).index_add_(1, cells, left)
        whole = whole.unflatten(1, (wide, wide))[:, :-1, :-1]
        return weighted.sum(1), weighted.mT @ self.moved + whole


def left_out(loc: Tensor, root: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Each observed cell less its mean given the others, and its variance, (P R, C, D).

    With M the diagonal matrix of the observed cells, the Cholesky factor T of
    `M Sigma M + I - M` is that of `Sigma_oo`, with ones elsewhere: the precision of a cell is a
    sum of squares of the inverse of T.
    """
    assert block.mask is not None
    seen = block.mask.to(loc.dtype)[:, None]  # (P, 1, D)
    eye = torch.eye(loc.shape[1], dtype=loc.dtype, device=loc.device)
    sigma = root @ root.mT
    padded = sigma * seen[..., None] * seen[..., None, :] + (1 - seen[..., None]) * eye
    inverse = inverse_lower(torch.linalg.cholesky_ex(padded).L)  # (P, F, D, D)
    precision = inverse.square().sum(-2)
    apart = (block.x[:, None] - loc[:, None]) * seen[..., None, :]  # (P, C, R, D)
    solved = inverse.mT @ (inverse @ apart.mT)
    found = (solved / precision[..., None]).permute(0, 3, 1, 2)
    return found.flatten(0, 1), (1 / precision)[:, None].expand_as(found).flatten(0, 1)


def places(rows: list[Block], n: int) -> Tensor:
    """Where row i stands among the rows of the blocks; those that fill up stand aside."""
    index = torch.cat([block.numbers for block in rows])
    place = torch.arange(len(index), device=index.device)
    found = torch.empty(n, dtype=torch.long, device=index.device)
    live = [
        torch.ones_like(b.numbers, dtype=torch.bool) if b.live is None else b.live > 0
        for b in rows
    ]
    alive = torch.cat(live)
    found[index[alive]] = place[alive]
    return found
