r"""The aggregate posterior of a set of rows, `q(z) = 1/N sum_n q(z|x_n)`, summed over all of them.

Its density needs every pair of a draw and a row. Both are taken in blocks, so that memory depends
on neither number; the sums are the whole ones, and nothing is estimated from a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError
from latently.inference.noise import derive, seeded
from latently.inference.particles import Particles

__all__ = ["Drawn", "Mixture", "ScoredMixture", "blocks", "infer", "posteriors"]

_PAIRS = 2**18  # values of a block of pairs: they stay in the cache
_DECODED = 2**20  # observed values decoded at once


class Drawn(NamedTuple):
    """Particles of a block of rows, and every distribution that a draw was asked of."""

    p: Particles
    q: list[Distribution]


def blocks(rows: int, cells: int, samples: int) -> list[slice]:
    """Blocks of rows, each of two at least, that decode a bounded number of values."""
    most = max(2, _DECODED // max(1, cells * samples))
    count = max(1, min(-(-rows // most), rows // 2))
    ends = [rows * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def infer(
    model: Any,
    x: Tensor,
    samples: int,
    mask: Tensor | None,
    context: Tensor | None,
    seed: int,
    z: tuple[Tensor, ...] | None = None,
) -> Drawn:
    """Particles from a seed, and what they were drawn from, layers top first.

    Raises:
        UserError: a model that sums a latent.
    """
    asked: list[Distribution] = []

    def draw(q: Distribution, count: int) -> Tensor:
        if getattr(q, "of_latents", True):  # others are of missing cells
            asked.append(q)
        return q.sample(torch.Size((count,)))

    with seeded(seed, x.device):
        p = model.infer(x, samples, mask, context, draw=draw, z=z)
    if z is None and len(p.log_lik) != samples:
        raise UserError(
            f"{type(model).__name__} sums its classes and draws none, and this part is about "
            "draws of all latents; leave it out"
        )
    return Drawn(p, asked)


def posteriors(model: Any, data: Any, seed: int, samples: int = 1) -> list[Distribution]:
    """q(z|x) of the rows, a distribution for each block of them.

    Raises:
        UserError: a model without latents, or with several layers of them.
    """
    found = []
    cells = math.prod(data.x.shape[1:])
    for number, rows in enumerate(blocks(len(data.x), cells, samples)):
        mask, context = (None if t is None else t[rows] for t in (data.mask, data.context))
        drawn = infer(model, data.x[rows], 1, mask, context, derive(seed, "q", number))
        if len(drawn.p.z) != 1:
            raise UserError(
                f"{type(model).__name__} has {len(drawn.p.z) or 'no'} layers of latents, and one "
                "is needed here; name a model with one"
            )
        found.append(drawn.q[-1])
    return found


class Mixture:
    """q(z) of one layer of latents, from the posteriors themselves.

    Args:
        parts: posteriors of blocks of rows, of batch shape (B,) each.

    Attributes:
        rows: N.
        factorizes: whether every q(z|x) does, so that q(z_d) is known, too.
    """

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = list(parts)
        self.rows = sum(q.batch_shape[0] for q in self.parts)
        self.factorizes = all(hasattr(q, "cell_log_prob") for q in self.parts)

    def sample(self, samples: int, seed: int) -> Tensor:
        """Draws of every row's q(z|x), (K, N, *Z)."""
        drawn = []
        for number, q in enumerate(self.parts):
            with seeded(derive(seed, "z", number)):
                drawn.append(q.sample(torch.Size((samples,))))
        return torch.cat(drawn, 1)

    def own(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """`log q(z|x_n)` of draws (K, N, *Z) of row n, (K, N), and of its cells, (K, N, *U)."""
        split = z.split([q.batch_shape[0] for q in self.parts], 1)
        if not self.factorizes:
            found = [q.log_prob(part) for q, part in zip(self.parts, split, strict=True)]
            return torch.cat(found, 1).double(), None
        pairs = zip(self.parts, split, strict=True)
        cells = torch.cat([q.cell_log_prob(part) for q, part in pairs], 1).double()  # type: ignore[attr-defined]
        return _over_cells(cells, 2), cells

    def log_prob(
        self, z: Tensor, progress: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`log q(z)` of draws (M, *Z), (M,), and `log q(z_d)`, (M, *U), where q factorizes."""
        joint, cells = [], []
        width = max(1, math.prod(z.shape[1:])) * max(q.batch_shape[0] for q in self.parts)
        for some in z.split(max(1, _PAIRS // width)):
            both = [self._block(q, some) for q in self.parts]
            joint.append(torch.logsumexp(torch.stack([of for of, _ in both]), 0))
            if self.factorizes:
                cells.append(torch.logsumexp(torch.stack([of for _, of in both]), 0))  # type: ignore[misc]
            if progress:
                progress(len(some))
        return torch.cat(joint), torch.cat(cells) if cells else None

    def _block(self, q: Distribution, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """The parts of log q(z) and log q(z_d) that are of one block of rows."""
        share = math.log(self.rows)
        if not self.factorizes:
            log_q = q.log_prob(z.unsqueeze(1)).double()
            return torch.logsumexp(log_q, 1) - share, None
        cells = q.cell_log_prob(z.unsqueeze(1))  # type: ignore[attr-defined]
        joint = torch.logsumexp(_over_cells(cells, 2).double(), 1)
        return joint - share, torch.logsumexp(cells, 1).double() - share


class ScoredMixture:
    """q(z_1), q(z_1, z_2), ... of a model of several layers, which is asked to score draws.

    Args:
        model: the model.
        data: N rows.
        seed: of what the model may draw besides.
    """

    def __init__(self, model: Any, data: Any, seed: int) -> None:
        self.model, self.data, self.seed = model, data, seed
        self.rows = len(data.x)

    def log_prob(
        self, z: tuple[Tensor, ...], progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """`log q(z_1, ..., z_l)` of draws (M, *Z_l) for every l, (L, M)."""
        cells = math.prod(self.data.x.shape[1:])
        at_once = max(1, _DECODED // (cells * min(self.rows, 64)))
        found = []
        for start in range(0, len(z[0]), at_once):
            some = tuple(layer[start : start + at_once] for layer in z)
            parts = [self._block(some, rows) for rows in blocks(self.rows, cells, at_once)]
            found.append(torch.logsumexp(torch.stack(parts), 0) - math.log(self.rows))
            if progress:
                progress(len(some[0]))
        return torch.cat(found, 1)

    def _block(self, z: tuple[Tensor, ...], rows: slice) -> Tensor:
        x = self.data.x[rows]
        mask, context = (
            None if t is None else t[rows] for t in (self.data.mask, self.data.context)
        )
        spread = tuple(
            layer.unsqueeze(1).expand(len(layer), len(x), *layer.shape[1:]) for layer in z
        )
        p = infer(self.model, x, len(z[0]), mask, context, self.seed, spread).p
        return torch.logsumexp(torch.stack(p.log_q).double().cumsum(0), 2)


def _over_cells(terms: Tensor, lead: int) -> Tensor:
    """Summed over all axes but the first `lead`."""
    return terms.flatten(lead).sum(-1) if terms.dim() > lead else terms
