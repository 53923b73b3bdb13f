"""Components of rows of bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from latently.inference.options import check_number
from latently.models._columns import moments, standardised
from latently.models.components._elliptical import LEAST
from latently.models.components._rows import Block, Clusters
from latently.models.components.base import Component, Components
from latently.probability.distributions import Bernoulli, Factorized, Joint

__all__ = ["Bits"]

_SURE = 1e-6  # no probability comes nearer to 0 or 1


@dataclass(frozen=True)
class Bits(Component):
    r"""Independent bits: `P_k(x) = prod_j p_kj^x_j (1 - p_kj)^(1 - x_j)`; latent class analysis.

    A probability that no row contradicts would be 0, and a later row that does impossible. So
    every component has seen `pseudo` rows more, of the columns' overall means: the prior of
    `p_kj` is Beta(1 + pseudo m_j, 1 + pseudo (1 - m_j)), with `m_j` the mean of the column's bits,
    one half of a 0 and of a 1 added. Its log-density counts in what EM reports. Probabilities stay
    between 1e-6 and 1 - 1e-6. Source: Lazarsfeld, Henry, "Latent Structure Analysis", 1968;
    McLachlan, Peel, "Finite Mixture Models", 2000, section 5.

    Args:
        pseudo: rows of the overall means, 0 or more; 0: maximum likelihood.

    Raises:
        UserError: pseudo below 0.

    >>> Bits(pseudo=0.5)
    Bits(pseudo=0.5)
    """

    pseudo: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "pseudo", low=0.0, scheduled=False)

    @property
    def discrete(self) -> bool:
        return True

    def build(self, size: int, count: int) -> Components:
        return _Bits(size, count, self.pseudo)


@dataclass
class _Sums:
    """Of a pass: sums of r, (C,), over rows that hold a cell and over its ones, (C, D)."""

    count: Tensor
    rows: Tensor
    ones: Tensor


class _Bits(Components):
    """Bernoulli cells by `logits` (C, D), with the columns' means `overall` (D,)."""

    centred = False
    overall: Tensor

    def __init__(self, size: int, count: int, pseudo: float) -> None:
        super().__init__()
        self.pseudo = pseudo
        self.logits = nn.Parameter(torch.zeros(count, size, dtype=torch.float64))
        self.register_buffer("overall", torch.full((size,), 0.5, dtype=torch.float64))

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return _log_bits(x, mask, self.logits)

    def member(self, k: int, shape: tuple[int, ...]) -> Joint:
        return Factorized(Bernoulli(self.logits[k].view(shape)), len(shape))

    def mixed(
        self, shares: Tensor, x: Tensor, mask: Tensor, shape: tuple[int, ...]
    ) -> Distribution:
        apart = shares[..., None]
        yes = torch.logsumexp(apart + F.logsigmoid(self.logits), 1)
        no = torch.logsumexp(apart + F.logsigmoid(-self.logits), 1)
        return Bernoulli((yes - no).unflatten(1, shape))

    def degrees(self) -> int:
        return self.logits.numel()

    def misfit(self, x: Tensor) -> tuple[Tensor, str]:
        return (x != 0) & (x != 1), "0 and 1"

    def log_prior(self) -> Tensor | float:
        yes, no = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        return self.pseudo * (self.overall * yes + (1 - self.overall) * no).sum()

    def scale(self, x: Tensor, mask: Tensor | None) -> None:
        rows = len(x) if mask is None else mask.sum(0)
        self.overall.copy_((x.sum(0) + 0.5) / (rows + 1))

    def features(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        mean, _ = moments(x, mask)
        return standardised(x, mask, mean, torch.ones_like(mean)), mask

    @torch.no_grad()
    def start(self, clusters: Clusters) -> None:
        rows = clusters.count[:, None]
        self._set(rows * clusters.mean, rows, least=1.0)

    @property
    def width(self) -> int:
        return 2 * self.logits.shape[1] + 4 * len(self.logits)

    def begin(self, centre: Tensor) -> _Sums:
        flat = torch.zeros_like(self.logits)
        return _Sums(flat[:, 0].clone(), flat, flat.clone())

    def expect(self, block: Block, sums: _Sums) -> tuple[Tensor, None]:
        return _log_bits(block.x, block.mask, self.logits), None

    def collect(self, block: Block, sums: _Sums, state: None, r: Tensor) -> None:
        sums.count += r.sum(0)
        sums.ones += r.T @ block.x
        sums.rows += r.sum(0)[:, None] if block.mask is None else r.T @ block.mask.to(r.dtype)

    def maximise(self, sums: _Sums) -> None:
        self._set(sums.ones, sums.rows)

    def _set(self, ones: Tensor, rows: Tensor, least: float = 0.0) -> None:
        """Sets probabilities from counts, with at least so many rows of the overall means."""
        pseudo = max(self.pseudo, least)
        total = rows + pseudo
        share = (ones + pseudo * self.overall) / total.clamp(min=LEAST)
        found = share.clamp(_SURE, 1 - _SURE).logit()
        self.logits.copy_(torch.where(total > LEAST, found, self.logits))


def _log_bits(x: Tensor, mask: Tensor | None, logits: Tensor) -> Tensor:
    """`log P_k(x_o)` of rows (n, D), 0 where missing; (n, C)."""
    ends = F.softplus(logits)
    if mask is None:
        return x @ logits.T - ends.sum(1)
    return x @ logits.T - mask.to(x.dtype) @ ends.T
