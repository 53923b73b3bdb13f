r"""Covariances of low rank and a diagonal, `Sigma_k = W_k W_k' + Psi_k`, without a D x D matrix.

With `z ~ N(0, I)` of L factors, `x = mu_k + W_k z + noise`. In units of the noise, `V = W / psi`
and `u = (x - mu) / psi` with psi its deviations, the posterior of z has the precision
`M = I + V_o' V_o` and the mean `a = M^-1 V_o' u_o`, and

    (x_o - mu_o)' Sigma_oo^-1 (x_o - mu_o) = |u_o - V_o a|^2 + |a|^2,

a sum of squares that never cancels; `log |Sigma_oo| = log |M| + 2 sum_o log psi`. EM regresses
every column on (z, 1), over the rows that hold it, by the expectations of z given what a row
holds. Sources: Ghahramani, Hinton, "The EM Algorithm for Mixtures of Factor Analyzers", 1996;
Tipping, Bishop, "Mixtures of Probabilistic Principal Component Analysers", 1999.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latently.errors import UserError
from latently.models.components._elliptical import LEAST, Expected, Scatter
from latently.models.components._rows import Block, Clusters, slices
from latently.probability.distributions.gaussian import LowRankMultivariateNormal, half_log_det

__all__ = ["Loadings"]

_SLIGHT = 0.01  # least share of the noise that a factor explains at the start: none stays at 0


class _Posterior(NamedTuple):
    """Of rows under every component.

    Attributes:
        energy: distances, (C, n).
        a: mean of z, (C, n, L).
        root: Cholesky factor of M, (C, 1, L, L), or of every row (C, n, L, L).
        u: (C, n, D), 0 where missing.
    """

    energy: Tensor
    a: Tensor
    root: Tensor
    u: Tensor


@dataclass
class _Sums:
    """Of a pass, in units of the noise of the pass, `t = (z, 1)`.

    Attributes:
        centre: of the rows, (D,).
        count: sum of r, (C,).
        rows: sum of r over the rows that hold a cell, (C, D).
        tt: sum of `w E[t t']` over complete rows, (C, L + 1, L + 1).
        apart: likewise of the other rows, over those that hold a cell, (D, C, (L + 1)^2).
        ut: sum of `w u E[t']`, (C, D, L + 1).
        uu: sum of `w u^2`, (C, D).
    """

    centre: Tensor
    count: Tensor
    rows: Tensor
    tt: Tensor
    apart: Tensor
    ut: Tensor
    uu: Tensor


class Loadings(Scatter):
    """Means, loadings `weight` (C, D, L), and noise: `log_variance` (C, D), or (C, 1)."""

    advice = "use fewer latents or components"

    def __init__(self, size: int, count: int, latents: int, *, shared: bool) -> None:
        super().__init__(size, count)
        self.weight = nn.Parameter(torch.zeros(count, size, latents, dtype=torch.float64))
        self.shared = shared
        width = 1 if shared else size
        self.log_variance = nn.Parameter(torch.zeros(count, width, dtype=torch.float64))

    @property
    def width(self) -> int:
        return 3 * self.loc.numel() + len(self.loc) * (self.weight.shape[2] + 1) ** 2

    def degrees(self) -> int:
        count, size, latents = self.weight.shape
        loadings = size * latents - latents * (latents - 1) // 2
        return count * loadings + self.log_variance.numel()

    def energy(self, x: Tensor, mask: Tensor | None) -> Expected:
        energies, log_dets = [], []
        for rows in slices(len(x), self.width):
            seen = None if mask is None else mask[rows]
            found = self._posterior(x[rows] - self.loc[:, None], seen)
            energies.append(found.energy.T)
            log_dets.append(self._log_det(found.root, seen).expand_as(energies[-1]))
        return Expected(torch.cat(energies), torch.cat(log_dets))

    def given(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self._posterior(x - self.loc[:, None], mask)
        mean = self.loc[:, None] + found.a @ self.weight.mT
        shared = torch.linalg.solve_triangular(
            found.root, self.weight.mT[:, None], upper=False
        ).square()
        variance = shared.sum(-2) + self.log_variance.exp()[:, None]
        return mean.transpose(0, 1), variance.transpose(0, 1)

    def others(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self._posterior(x - self.loc[:, None], mask)
        roots = torch.linalg.solve_triangular(found.root, self.weight.mT[:, None], upper=False)
        noise = self.log_variance.exp()[:, None]
        share = 1 - roots.square().sum(-2) / noise  # of the variance given the others: the noise
        share = torch.where(mask, share, 1.0).clamp(min=torch.finfo(share.dtype).eps)
        left = x - self.loc[:, None] - found.a @ self.weight.mT
        return (x - left / share).transpose(0, 1), (noise / share).transpose(0, 1)

    def normal(self, k: int, shape: tuple[int, ...]) -> LowRankMultivariateNormal:
        log_std = self._log_std()[k].view(shape)
        return LowRankMultivariateNormal(self.loc[k].view(shape), self.weight[k], log_std)

    def fallen(self) -> list[int]:
        held = self.log_variance.exp() <= 1.01 * self._least()
        if not self.shared:
            held = held[:, self.varies]
        return held.any(1).nonzero().flatten().tolist()

    def start(self, clusters: Clusters) -> None:
        """The best loadings for a noise of half the variances, or of the eigenvalues left out."""
        latents = self.weight.shape[2]
        for k in range(len(self.loc)):
            covariance = clusters.covariance(k)
            least = self._least().expand(len(covariance))
            noise = torch.maximum(0.5 * covariance.diagonal(), least)
            if self.shared:
                left = torch.linalg.eigvalsh(covariance)[: len(covariance) - latents].mean()
                noise = torch.maximum(left, least)
            std = noise.sqrt()
            values, vectors = torch.linalg.eigh(covariance / std / std[:, None])
            above = (values.flip(0)[:latents] - 1).clamp(min=_SLIGHT)
            self.weight[k] = std[:, None] * vectors.flip(1)[:, :latents] * above.sqrt()
            self.log_variance[k] = noise[: self.log_variance.shape[1]].log()

    def begin(self, centre: Tensor) -> _Sums:
        count, size, latents = self.weight.shape
        new, width = self.loc.new_zeros, latents + 1
        return _Sums(
            centre=centre,
            count=new(count),
            rows=new(count, size),
            tt=new(count, width, width),
            apart=new(size, count, width**2),
            ut=new(count, size, width),
            uu=new(count, size),
        )

    def expect(self, block: Block, sums: _Sums) -> Expected:
        found = self._posterior(block.x - (self.loc - sums.centre)[:, None], block.mask)
        log_det = self._log_det(found.root, block.mask)
        return Expected(found.energy.T, log_det, found)

    def collect(self, block: Block, sums: _Sums, found: Expected, r: Tensor, w: Tensor) -> None:
        post: _Posterior = found.state
        r, w = r.T, w.T[..., None]
        t = torch.cat([post.a, torch.ones_like(post.a[..., :1])], -1)
        weighted = w * t
        sums.count += r.sum(1)
        sums.ut.baddbmm_(post.u.mT, weighted)
        sums.uu += (w * post.u.square()).sum(1)
        covariance = torch.cholesky_inverse(post.root)
        latents = post.a.shape[-1]
        if block.mask is None:
            sums.rows += r.sum(1)[:, None]
            sums.tt.baddbmm_(weighted.mT, t)
            sums.tt[:, :latents, :latents] += r.sum(1)[:, None, None] * covariance[:, 0]
            return
        seen = block.mask.to(r.dtype)
        sums.rows += r @ seen
        second = weighted[..., None] * t[..., None, :]
        second[..., :latents, :latents] += r[..., None, None] * covariance
        flat = second.transpose(0, 1).flatten(2)  # (n, C, (L + 1)^2)
        sums.apart += (seen.T @ flat.flatten(1)).view_as(sums.apart)

    def maximise(self, sums: _Sums) -> None:
        latents, alive = self.weight.shape[2], sums.rows > LEAST
        tt = sums.apart.transpose(0, 1).unflatten(-1, sums.tt.shape[1:]) + sums.tt[:, None]
        eye = torch.eye(latents + 1, dtype=tt.dtype, device=tt.device)
        tt = torch.where(alive[..., None, None], tt, eye)
        found = torch.linalg.solve(tt, sums.ut[..., None])[..., 0]
        std = self._log_std().exp()
        left = (sums.uu - (found * sums.ut).sum(-1)).clamp(min=0) * std.square()
        rows = sums.rows
        if self.log_variance.shape[1] == 1:
            left, rows = left.sum(1, keepdim=True), rows.sum(1, keepdim=True)
        noise = torch.maximum(left / rows.clamp(min=LEAST), self._least())
        moved = std[..., None] * found
        self.loc.add_(torch.where(alive, moved[..., latents], 0.0))
        self.weight.copy_(torch.where(alive[..., None], moved[..., :latents], self.weight))
        self.log_variance.copy_(torch.where(rows > LEAST, noise.log(), self.log_variance))

    def _posterior(self, apart: Tensor, mask: Tensor | None) -> _Posterior:
        """Of rows given as `x - mu`, (C, n, D)."""
        inverse = (-self._log_std()).exp()
        v, u = self.weight * inverse[..., None], apart * inverse[:, None]
        latents = v.shape[2]
        eye = torch.eye(latents, dtype=v.dtype, device=v.device)
        if mask is None:
            precision = (eye + v.mT @ v)[:, None]
        else:
            u = torch.where(mask, u, 0.0)
            products = (v[..., None] * v[..., None, :]).flatten(2)  # (C, D, L^2)
            precision = eye + (mask.to(v.dtype) @ products).unflatten(-1, eye.shape)
        root = torch.linalg.cholesky_ex(precision).L
        projected = u @ v
        if mask is None:
            a = torch.cholesky_solve(projected.mT, root[:, 0]).mT
        else:
            a = torch.cholesky_solve(projected[..., None], root)[..., 0]
        rest = u - a @ v.mT
        if mask is not None:
            rest = torch.where(mask, rest, 0.0)
        return _Posterior(rest.square().sum(-1) + a.square().sum(-1), a, root, u)

    def _log_det(self, root: Tensor, mask: Tensor | None) -> Tensor:
        """Half the log determinants of `Sigma_oo`, (n, C) or (1, C)."""
        of_factors = half_log_det(root).T
        log_std = self._log_std()
        of_noise = log_std.sum(1) if mask is None else mask.to(log_std.dtype) @ log_std.T
        return of_factors + of_noise

    def _log_std(self) -> Tensor:
        return (0.5 * self.log_variance).expand_as(self.loc)

    def _least(self) -> Tensor:
        least = self.floor.clamp(min=1e-300)
        return least.min()[None] if self.log_variance.shape[1] == 1 else least


def check_latents(who: str, latents: int, most: int, size: int) -> None:
    """Refuses numbers of factors that rows of a size do not have.

    Raises:
        UserError: with the number and the largest one.
    """
    if latents > most:
        raise UserError(
            f"{who}: latents={latents} of rows of {size} values; choose {most} or fewer"
        )
