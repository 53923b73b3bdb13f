"""Starting clusters: k-means++ and some steps of Lloyd's algorithm, cells missing or not.

Distances of rows with holes are partial: the mean over the cells that they hold, times D. Sources:
Arthur, Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007; partial distances:
Dixon, "Pattern Recognition with Partly Missing Data", 1979.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest_clusters"]

_STEPS = 5


def nearest_clusters(
    x: Tensor, mask: Tensor | None, count: int, generator: torch.Generator
) -> Tensor:
    """Numbers of the clusters of standardised rows (N, D), (N,); missing cells hold 0."""
    lengths = x.square().sum(1, keepdim=True)
    centres = _seeded(x, lengths, mask, count, generator)
    labels = _distances(x, lengths, mask, centres).argmin(1)
    for _ in range(_STEPS):
        share = torch.nn.functional.one_hot(labels, count).to(x.dtype)
        cells = share.sum(0)[:, None] if mask is None else share.T @ mask.to(x.dtype)
        centres = torch.where(cells > 0, share.T @ x / cells.clamp(min=1), centres)
        labels = _distances(x, lengths, mask, centres).argmin(1)
    return labels


def _seeded(
    x: Tensor, lengths: Tensor, mask: Tensor | None, count: int, generator: torch.Generator
) -> Tensor:
    """Rows drawn one after the other, by their squared distance to those drawn before."""
    first = int(torch.randint(len(x), (), generator=generator))
    chosen = [first]
    best = _distances(x, lengths, mask, x[first : first + 1])[:, 0]
    while len(chosen) < count:
        reach = best.cumsum(0)
        if float(reach[-1]) > 0:
            at = torch.rand((), generator=generator, dtype=torch.float64).to(reach) * reach[-1]
            new = min(int(torch.searchsorted(reach, at, right=True)), len(x) - 1)
        else:
            new = int(torch.randint(len(x), (), generator=generator))
        chosen.append(new)
        best = torch.minimum(best, _distances(x, lengths, mask, x[new : new + 1])[:, 0])
    return x[chosen]


def _distances(x: Tensor, lengths: Tensor, mask: Tensor | None, centres: Tensor) -> Tensor:
    """Squared distances, (N, C), not below 0; `lengths` are those of the rows, squared, (N, 1)."""
    twice = lengths - x @ (2 * centres).T  # no copy of the rows
    if mask is None:
        return (twice + centres.square().sum(1)).clamp(min=0)
    seen = mask.to(x.dtype)
    held = seen.sum(1, keepdim=True).clamp(min=1)
    return ((twice + seen @ centres.square().T) * (x.shape[1] / held)).clamp(min=0)
