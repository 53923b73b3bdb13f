r"""Full covariances by their Cholesky factor, `Sigma_k = L_k L_k'`, one for each or one for all.

Complete rows are whitened by all components in one product, `y_k = L_k^-1 (x - mu_k)`, whose
squares sum to the distances, and one more product sums `x y_k'` over the rows with their weights:
`sum w (x - mu_k) (x - mu_k)' = (sum w x y_k' - mu_k sum w y_k') L_k'`. The factors y are in units
of the component, so that hardly anything cancels where components are narrow and far apart.

A covariance has no eigenvalue below `FLOOR` in units of the columns' variances: with
`A = D^-1/2 S D^-1/2` the expected log-density is largest, under this condition, at the
eigenvectors of A and its eigenvalues, the small ones raised to the floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latently.models._columns import FLOOR, moments
from latently.models.components._elliptical import LEAST, Expected, Scatter
from latently.models.components._patterns import Patterns, left_out, places
from latently.models.components._rows import Block, Clusters, pattern_blocks
from latently.probability.distributions.gaussian import (
    MultivariateNormal,
    half_log_det,
    inverse_lower,
)

__all__ = ["Covariance"]


@dataclass
class _Sums:
    """Of a pass, per component.

    Attributes:
        loc: means, about the centre of the rows, (C, D).
        root: Cholesky factors, (F, D, D); F is C, or 1 where all share one.
        whiten: their inverses side by side, (D, F D).
        at: whitened means, (F, D) or (C, D).
        count, weight: sums of r and w, (C,).
        white: sum of `w y` over complete rows, (C, D).
        cross: of `w x y'`, (D, C D).
        first: sum of `w (E x - mu)` over the others, (C, D).
        second: of `w E[(x - mu) (x - mu)']`, (C, D, D).
    """

    loc: Tensor
    root: Tensor
    whiten: Tensor
    at: Tensor
    count: Tensor
    weight: Tensor
    white: Tensor
    cross: Tensor
    first: Tensor
    second: Tensor


class Covariance(Scatter):
    """Means and full covariances; `lower` (F, D, D) holds L, the logarithms on its diagonal."""

    target: Tensor

    def __init__(
        self,
        size: int,
        count: int,
        *,
        shared: bool,
        prior: float = 0.0,
        share: float | None = None,
    ) -> None:
        super().__init__(size, count)
        factors, self.prior, self.share = 1 if shared else count, prior, share
        fewer = "leave out columns that others give" if shared else "use fewer components"
        self.advice = f"{fewer}, or Diagonal or Factors, or a prior of the covariance"
        if prior:
            self.register_buffer("target", torch.eye(size, dtype=torch.float64))
        self.lower = nn.Parameter(torch.zeros(factors, size, size, dtype=torch.float64))

    @property
    def root(self) -> Tensor:
        """L, (F, D, D)."""
        diagonal = self.lower.diagonal(dim1=-2, dim2=-1).exp()
        return self.lower.tril(-1) + torch.diag_embed(diagonal)

    @property
    def width(self) -> int:
        return 2 * self.loc.numel()

    def degrees(self) -> int:
        factors, size, _ = self.lower.shape
        return factors * size * (size + 1) // 2

    def scale(self, x: Tensor, mask: Tensor | None) -> None:
        super().scale(x, mask)
        if self.prior and self.share is not None:
            self.target.copy_(torch.diag(self.share * moments(x, mask)[1]))
        elif self.prior:
            one = torch.zeros(len(x), dtype=torch.long, device=x.device)
            whole = Clusters(x, mask, one, 1).covariance(0)
            self.target.copy_(whole / len(self.lower) ** (2 / len(whole)))

    def log_prior(self) -> Tensor | float:
        if not self.prior:
            return 0.0
        root = self.root
        if self.share is None:
            within = inverse_lower(root) @ torch.linalg.cholesky_ex(self.target).L
        else:  # a constant column has variance 0, of which there is no factor
            within = inverse_lower(root) * self.target.diagonal().sqrt()
        trace = within.square().sum()
        return -0.5 * self.prior * (2 * half_log_det(root).sum() + trace)

    def blocks(self, x: Tensor, mask: Tensor | None) -> list[Block]:
        count, size = self.loc.shape
        return pattern_blocks(
            x, mask, 3 * self.width, lambda holes: 2 * size + 3 * count * holes**2
        )

    def energy(self, x: Tensor, mask: Tensor | None) -> Expected:
        root = self.root
        rows = self.blocks(x, mask)
        if mask is None and len(rows) <= 1:
            return self._whole(x, root)
        found = [
            self._whole(block.x, root)
            if block.mask is None
            else Patterns(self.loc, root, block).expected()
            for block in rows
        ]
        place = places(rows, len(x))
        energy, log_det = (torch.cat([f[i] for f in found])[place] for i in (0, 1))
        return Expected(energy, log_det)

    def _whole(self, x: Tensor, root: Tensor) -> Expected:
        """Distances of complete rows."""
        white = torch.linalg.solve_triangular(root, (x - self.loc[:, None]).mT, upper=False)
        energy = white.square().sum(1).T
        return Expected(energy, half_log_det(root).expand_as(energy))

    def given(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self._by_block(x, self.blocks(x, mask), self._given)

    def _given(self, block: Block, root: Tensor) -> tuple[Tensor, Tensor]:
        if block.mask is None:
            means = block.x[:, None].expand(-1, *self.loc.shape)
            return means, torch.zeros_like(means)
        found = Patterns(self.loc, root, block)
        means = (self.loc[:, None] + found.moved).transpose(0, 1)
        left = found.left()
        shape = len(left), block.x.shape[1], *self.loc.shape
        return means, left[:, None].expand(shape).flatten(0, 1)

    def others(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        count, size = self.loc.shape
        rows = pattern_blocks(x, mask, self.width, lambda _: 5 * count * size**2)
        return self._by_block(x, rows, self._others)

    def _others(self, block: Block, root: Tensor) -> tuple[Tensor, Tensor]:
        if block.mask is None:
            within = inverse_lower(root)
            white = within @ (block.x - self.loc[:, None]).mT  # (C, D, R)
            solved, precision = within.mT @ white, within.square().sum(-2)
            apart = (solved / precision[..., None]).permute(2, 0, 1)
            left = (1 / precision).expand(len(apart), *self.loc.shape)
        else:
            apart, left = left_out(self.loc, root, block)
        return block.x.reshape(-1, block.x.shape[-1])[:, None] - apart, left

    def _by_block(
        self,
        x: Tensor,
        rows: list[Block],
        told: Callable[[Block, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Means and variances (n, C, D), of blocks of rows with their factors."""
        root = self.root
        means, variances = zip(*(told(block, root) for block in rows), strict=True)
        place = places(rows, len(x))
        return torch.cat(means)[place], torch.cat(variances)[place]

    def normal(self, k: int, shape: tuple[int, ...]) -> MultivariateNormal:
        root = self.root[k if len(self.lower) > 1 else 0]
        made = MultivariateNormal(self.loc[k].view(shape), inverse_lower(root))
        made.scale_tril = root  # known: no second inversion
        return made

    def fallen(self) -> list[int]:
        if not bool(self.varies.any()):
            return []
        scaled = (self.root / self._unit()[:, None])[:, self.varies]
        least = torch.linalg.eigvalsh(scaled @ scaled.mT)[:, 0].expand(len(self.loc))
        return (least <= 1.01 * FLOOR).nonzero().flatten().tolist()

    def start(self, clusters: Clusters) -> None:
        found = [clusters.covariance(k) for k in range(len(self.loc))]
        self._set(torch.stack(found), clusters.count)

    def begin(self, centre: Tensor) -> _Sums:
        loc, root = self.loc - centre, self.root
        inverse = inverse_lower(root)
        at = (inverse @ loc[..., None])[..., 0]
        count, size = loc.shape
        return _Sums(
            loc=loc,
            root=root,
            whiten=inverse.flatten(0, 1).T.contiguous(),
            at=at,
            count=torch.zeros_like(loc[:, 0]),
            weight=torch.zeros_like(loc[:, 0]),
            white=torch.zeros_like(loc),
            cross=loc.new_zeros(size, count * size),
            first=torch.zeros_like(loc),
            second=loc.new_zeros(count, size, size),
        )

    def expect(self, block: Block, sums: _Sums) -> Expected:
        if block.mask is not None:
            found = Patterns(sums.loc, sums.root, block)
            return found.expected()._replace(state=found)
        n, count = len(block.x), len(self.loc)
        if len(self.lower) == count:
            white = torch.addmm(-sums.at.flatten(), block.x, sums.whiten).view(n, count, -1)
        else:
            white = (block.x @ sums.whiten)[:, None] - sums.at
        energy = torch.linalg.vector_norm(white, dim=-1).square()
        return Expected(energy, half_log_det(sums.root), white)

    def collect(self, block: Block, sums: _Sums, found: Expected, r: Tensor, w: Tensor) -> None:
        sums.count += r.sum(0)
        sums.weight += w.sum(0)
        if block.mask is not None:
            first, second = found.state.sums(r, w)
            sums.first += first
            sums.second += second
            return
        weighted = found.state * w[..., None]
        sums.white += weighted.sum(0)
        sums.cross.addmm_(block.x.T, weighted.flatten(1))

    def maximise(self, sums: _Sums) -> None:
        first = (sums.root @ sums.white[..., None])[..., 0] + sums.first
        cross = sums.cross.unflatten(1, sums.loc.shape).transpose(0, 1)
        cross = cross - sums.loc[..., None] * sums.white[:, None]
        second = cross @ sums.root.mT + sums.second
        alive = sums.count > LEAST
        weight = torch.where(alive, sums.weight, 1.0)[:, None]
        step = torch.where(alive[:, None], first / weight, 0.0)
        self.loc.add_(step)
        second -= weight[..., None] * step[:, :, None] * step[:, None]
        self._set(second / torch.where(alive, sums.count, 1.0)[:, None, None], sums.count)

    def _set(self, covariance: Tensor, count: Tensor) -> None:
        """Sets L from covariances (C, D, D) of so many rows, pooled where one is shared."""
        alive = count > LEAST
        if len(self.lower) != len(self.loc):
            covariance = (count[:, None, None] * covariance).sum(0, keepdim=True) / count.sum()
            alive, count = torch.ones_like(alive[:1]), count.sum()[None]
        if self.prior:
            rows = count[:, None, None]
            covariance = (rows * covariance + self.prior * self.target) / (rows + self.prior)
            alive = torch.ones_like(alive)
        unit = self._unit()
        scaled = covariance / unit[:, None] / unit
        root = _floored((scaled + scaled.mT) / 2) * unit[:, None]
        logs = root.diagonal(dim1=-2, dim2=-1).log()
        found = root.tril(-1) + torch.diag_embed(logs)
        self.lower.copy_(torch.where(alive[:, None, None], found, self.lower))

    def _unit(self) -> Tensor:
        """Deviations of the columns, (D,)."""
        return torch.where(self.floor > 0, self.floor / FLOOR, 1.0).sqrt()


def _floored(scaled: Tensor) -> Tensor:
    """Cholesky factors of the nearest covariances, in likelihood, above the floor, (F, D, D)."""
    eye = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
    above = torch.linalg.cholesky_ex(scaled - FLOOR * eye).info == 0
    if not bool(above.all()):
        values, vectors = torch.linalg.eigh(scaled[~above])
        raised = (vectors * values.clamp(min=FLOOR)[:, None]) @ vectors.mT
        scaled = scaled.clone()
        scaled[~above] = (raised + raised.mT) / 2
    return torch.linalg.cholesky_ex(scaled).L
