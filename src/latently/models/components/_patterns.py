r"""Rows with holes under full covariances, by the pattern of what they hold.

With M the diagonal matrix of the observed cells, the Cholesky factor T of `M Sigma M + I - M` is
that of `Sigma_oo`, with ones elsewhere, so that every pattern and component has matrices of one
size. The expected row is `mu + Sigma a`, where `a` is `Sigma_oo^-1 (x_o - mu_o)`, and the
covariance of what is missing `Sigma - B' B`, where `B = T^-1 M Sigma`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latently.models.components._elliptical import Expected
from latently.models.components._rows import Block
from latently.probability.distributions.gaussian import half_log_det

__all__ = ["Patterns", "places"]


class Patterns:
    """A block of rows (P, R, D) by pattern under every component."""

    def __init__(self, loc: Tensor, root: Tensor, block: Block) -> None:
        assert block.mask is not None
        seen = block.mask.to(loc.dtype)[:, None]  # (P, 1, D)
        self.sigma, self._seen = root @ root.mT, seen
        eye = torch.eye(loc.shape[1], dtype=loc.dtype, device=loc.device)
        padded = self.sigma * seen[..., None] * seen[..., None, :] + (1 - seen[..., None]) * eye
        self.root = torch.linalg.cholesky_ex(padded).L  # (P, F, D, D)
        apart = (block.x[:, None] - loc[:, None]) * seen[..., None, :]  # (P, C, R, D)
        self.white = torch.linalg.solve_triangular(self.root, apart.mT, upper=False)

    def expected(self) -> Expected:
        tall, count = self.white.shape[-1], self.white.shape[1]
        energy = self.white.square().sum(-2).transpose(1, 2).flatten(0, 1)
        halves = half_log_det(self.root).expand(-1, count)
        return Expected(energy, halves[:, None].expand(-1, tall, -1).flatten(0, 1))

    def moved(self) -> Tensor:
        """`E[x | x_o] - mu`, (P, C, D, R)."""
        return self.sigma @ self._solved()

    def others(self) -> tuple[Tensor, Tensor]:
        """Each observed cell less its mean given the others, and its variance, (P R, C, D)."""
        eye = torch.eye(self.root.shape[-1], dtype=self.root.dtype, device=self.root.device)
        inverse = torch.linalg.solve_triangular(self.root, eye, upper=False)
        precision = inverse.square().sum(-2)  # (P, F, D)
        apart = (self._solved() / precision[..., None]).permute(0, 3, 1, 2)
        left = (1 / precision)[:, None].expand_as(apart)
        return apart.flatten(0, 1), left.flatten(0, 1)

    def _solved(self) -> Tensor:
        """a, (P, C, D, R), 0 in missing cells."""
        return torch.linalg.solve_triangular(self.root.mT, self.white, upper=True)

    def explained(self) -> Tensor:
        """B, (P, F, D, D)."""
        rows = (self._seen[..., None] * self.sigma).expand_as(self.root)
        return torch.linalg.solve_triangular(self.root, rows, upper=False)

    def left(self) -> Tensor:
        """Variance of every cell given the observed ones, (P, F, D); not 0 by rounding."""
        whole = self.sigma.diagonal(dim1=-2, dim2=-1)
        left = whole - self.explained().square().sum(-2)
        return torch.maximum(left, torch.finfo(left.dtype).eps * whole)

    def sums(self, r: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Of `w E[x - mu]`, (C, D), and of `w E[(x - mu) (x - mu)']`, (C, D, D)."""
        tall, count, size = self.white.shape[-1], r.shape[1], self.white.shape[-2]
        moved = self.moved()
        weighted = moved * w.view(-1, tall, count).transpose(1, 2)[:, :, None]
        second = torch.einsum("pcir,pcjr->cij", weighted, moved)
        of_pattern = r.view(-1, tall, count).sum(1)
        taken = self.explained().expand(-1, count, size, size)
        taken = taken * of_pattern.sqrt()[..., None, None]
        taken = taken.transpose(0, 1).flatten(1, 2)
        second = second + of_pattern.sum(0)[:, None, None] * self.sigma - taken.mT @ taken
        return weighted.sum((0, 3)), second


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
