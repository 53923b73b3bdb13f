"""Rows in blocks that fit the caches, rows with holes by their pattern, and starting clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Block", "Clusters", "pattern_blocks", "plain_blocks", "slices"]

_CACHE = 2**19  # numbers held for a block of rows
_LEAST, _MOST = 128, 8192  # rows of a block
_PATTERNS = 2**22  # numbers held for a block of patterns
_TALL = 1024  # rows of a pattern that are processed together


class Block(NamedTuple):
    """Rows that a pass takes together.

    Attributes:
        x: (n, D), 0 where missing; of patterns (P, R, D), n = P R.
        mask: True where observed, (n, D), or (P, D), one of each pattern; None: complete.
        numbers: which rows they are, (n,).
        live: (n,), 0 for rows that only fill up a pattern; None: there are none.
        state: what the components have prepared of the rows.
    """

    x: Tensor
    mask: Tensor | None
    numbers: Tensor
    live: Tensor | None = None
    state: Any = None

    @property
    def cells(self) -> Tensor | int:
        """Observed cells, (n, 1), or D."""
        if self.mask is None:
            return self.x.shape[-1]
        cells = self.mask.sum(-1).to(self.x.dtype)
        if self.x.dim() == 3:
            cells = cells[:, None].expand(self.x.shape[:2]).flatten()
        return cells[:, None]


def slices(n: int, width: int) -> list[slice]:
    """n rows in blocks, each of whose rows holds so many numbers."""
    size = _height(width)
    return [slice(first, first + size) for first in range(0, max(n, 1), size)]


def _height(width: int) -> int:
    """Rows of a block."""
    return min(max(_CACHE // width, _LEAST), _MOST)


def plain_blocks(x: Tensor, mask: Tensor | None, width: int) -> list[Block]:
    """Complete rows first, then the others, in blocks of about `_CACHE / width` rows."""
    size = _height(width)
    index = torch.arange(len(x), device=x.device)
    if mask is None:
        return [Block(x[i[0] : i[-1] + 1], None, i) for i in index.split(size) if len(i)]
    whole = mask.all(1)
    full, part = index[whole], index[~whole]
    found = [Block(x[i], None, i) for i in full.split(size) if len(i)]
    holes = [(torch.where(mask[i], x[i], 0.0), mask[i], i) for i in part.split(size) if len(i)]
    return found + [Block(*block) for block in holes]


def pattern_blocks(
    x: Tensor, mask: Tensor | None, width: int, square: Callable[[int], int]
) -> list[Block]:
    """Complete rows as `plain_blocks`, the others by which of their cells are missing.

    Patterns of about as many rows and holes stand in a block, so that few rows fill up, and
    matrices of what a pattern lacks have about one size.

    Args:
        x: rows, (N, D).
        mask: True where observed, (N, D).
        width: numbers held for a row.
        square: numbers held for a pattern of so many holes.
    """
    if mask is None:
        return plain_blocks(x, None, width)
    index = torch.arange(len(x), device=x.device)
    whole = mask.all(1)
    full, part = index[whole], index[~whole]
    size = _height(width)
    found = [Block(x[i], None, i) for i in full.split(size) if len(i)]
    if not len(part):
        return found
    kinds, which = torch.unique(mask[part], dim=0, return_inverse=True)
    part = part[which.argsort(stable=True)]
    pieces = _pieces(which.bincount().tolist(), (~kinds).sum(1).tolist())
    for chunk in _chunks(pieces, width, square):
        tall = max(piece.rows for piece in chunk)
        begin, count = torch.tensor([c[1:3] for c in chunk], device=x.device).unbind(1)
        row = torch.arange(tall, device=x.device)
        live = (row < count[:, None]).flatten()
        numbers = part[(begin[:, None] + torch.minimum(row, count[:, None] - 1)).flatten()]
        seen = kinds[torch.tensor([piece.pattern for piece in chunk], device=x.device)]
        rows = torch.where(seen[:, None], x[numbers].view(len(chunk), tall, -1), 0.0)
        alive = None if bool(live.all()) else live.to(x.dtype)
        found.append(Block(rows, seen, numbers, alive))
    return found


class _Piece(NamedTuple):
    """Rows of one pattern, from `first` on."""

    pattern: int
    first: int
    rows: int
    holes: int


def _pieces(counts: list[int], holes: list[int]) -> list[_Piece]:
    """Of at most `_TALL` rows each; short ones first, and of these those of few holes."""
    pieces, begin = [], 0
    for pattern, count in enumerate(counts):
        for first in range(0, count, _TALL):
            rows = min(_TALL, count - first)
            pieces.append(_Piece(pattern, begin + first, rows, holes[pattern]))
        begin += count
    return sorted(pieces, key=lambda piece: (piece.rows, piece.holes))


def _chunks(pieces: list[_Piece], width: int, square: Callable[[int], int]) -> list[list[_Piece]]:
    """Pieces of about as many rows and holes, as many as memory holds."""
    chunks: list[list[_Piece]] = [[]]
    for piece in pieces:
        chunk = chunks[-1]
        room = (len(chunk) + 1) * (square(piece.holes) + piece.rows * width) <= _PATTERNS
        if chunk and not (room and _alike(chunk, piece)):
            chunks.append(chunk := [])
        chunk.append(piece)
    return chunks


def _alike(chunk: list[_Piece], piece: _Piece) -> bool:
    """Whether few of the rows, and of the holes, fill up where the piece joins the others."""
    least = min(one.holes for one in chunk[:1] + chunk[-1:])
    return piece.rows <= 1.25 * chunk[0].rows and piece.holes <= max(1.25 * least, least + 4)


class Clusters:
    """Rows divided among C starting clusters, each with a share of what they have in common.

    A cluster's covariance is that of its rows and of D more with the variances within clusters:
    it is never singular, even of few rows. Missing cells count with their mean and variance.

    Attributes:
        x: rows, (N, D).
        mask: True where observed, (N, D); None: complete.
        labels: numbers of the clusters, (N,).
        count: rows, (C,).
        mean: (C, D), of the observed cells; that of the column where a cluster has none.
        variance: (C, D).
        within: variances within clusters, (D,).
    """

    def __init__(self, x: Tensor, mask: Tensor | None, labels: Tensor, count: int) -> None:
        self.x, self.mask, self.labels = x, mask, labels
        share = torch.zeros(count, len(x), dtype=x.dtype, device=x.device)
        share[labels, torch.arange(len(x), device=x.device)] = 1.0
        self.count = share.sum(1)
        seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
        kept = x if mask is None else torch.where(mask, x, 0.0)
        cells, total = share @ seen, seen.sum(0)
        column = kept.sum(0) / total
        self.mean = torch.where(cells > 0, share @ kept / cells.clamp(min=1), column)
        apart = seen * (kept - self.mean[labels]).square()
        sums = share @ apart
        self.within = sums.sum(0) / total
        size = x.shape[1]
        self.variance = (sums + size * self.within) / (cells + size)

    def covariance(self, k: int) -> Tensor:
        """Of cluster k, (D, D)."""
        which = self.labels == k
        apart = self.x[which] - self.mean[k]
        size, hidden = apart.shape[1], torch.zeros_like(self.within)
        if self.mask is not None:
            seen = self.mask[which]
            apart = torch.where(seen, apart, 0.0)
            hidden = (~seen).sum(0) * self.within
        added = torch.diag(size * self.within + hidden)
        return (apart.T @ apart + added) / (len(apart) + size)
