"""Rows of mixed columns as passes of EM take them: values that recur are looked up.

Most columns of tables take few values: names, bits, counts, ages. Of those the log-density is
computed once for every value and component, and a row's is a sum of entries of that table, the
product of a sparse matrix of ones with it; its transpose sums responsibilities by value.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from latently.models.components._rows import Block
from latently.models.components._weighted import Part

__all__ = ["Coded", "Table", "coded", "tables_of"]

_MOST = 4096  # values of a column in a table
_FEW = 4  # rows for every value, or there is no table


class Table(NamedTuple):
    """The values of a group of columns.

    Attributes:
        values: (M, w), ascending; the last one again where a column has fewer.
        first: row of the joint table of all groups where this one begins; a column has M rows.
    """

    values: Tensor
    first: int

    def entries(self, found: Tensor) -> Tensor:
        """What is found of the values, (M, C, w), as rows of the joint table, (w M, C)."""
        return found.permute(2, 0, 1).flatten(0, 1)

    def part(self, sums: Tensor) -> Part:
        """Values with their weights, from sums (rows, C) over the rows of the joint table."""
        m, w = self.values.shape
        own = sums[self.first : self.first + m * w].view(w, m, -1)
        return Part(self.values, own.permute(1, 2, 0))


class Coded(NamedTuple):
    """A block of rows, of which the columns of tables are codes.

    Attributes:
        codes: sparse (n, rows of the joint table), 1 at the values of a row; None: no tables.
        direct: the values of every other group, and which of them are observed.
    """

    codes: Tensor | None
    direct: dict[int, tuple[Tensor, Tensor | None]]


def tables_of(
    x: Tensor, mask: Tensor | None, groups: Sequence[list[int]], levels: Sequence[int | None]
) -> dict[int, Table]:
    """The tables of those groups of columns whose values are few, by the group's number."""
    found: dict[int, Table] = {}
    first = 0
    for g, (at, known) in enumerate(zip(groups, levels, strict=True)):
        if known is not None:
            values = torch.arange(known, dtype=x.dtype, device=x.device)
            table = values[:, None].expand(-1, len(at))
        else:
            each = _distinct(x, mask, at)
            if each is None:
                continue
            most = max(map(len, each))
            ends = [torch.cat([v, v[-1:].expand(most - len(v))]) for v in each]
            table = torch.stack(ends, 1)
        found[g] = Table(table.contiguous(), first)
        first += table.numel()
    return found


def coded(block: Block, groups: Sequence[list[int]], tables: dict[int, Table]) -> Coded:
    """A block with the codes of its rows."""
    x, mask = block.x, block.mask
    direct = {
        g: (x[:, at], None if mask is None else mask[:, at])
        for g, at in enumerate(groups)
        if g not in tables
    }
    if not tables:
        return Coded(None, direct)
    places, seen = [], []
    for g, table in tables.items():
        values = x[:, groups[g]].T.contiguous()
        m = len(table.values)
        code = torch.searchsorted(table.values.T.contiguous(), values).clamp(max=m - 1)
        start = table.first + m * torch.arange(len(groups[g]), device=x.device)
        places.append(code.T + start)
        seen.append(torch.ones_like(places[-1], dtype=torch.bool))
        if mask is not None:
            seen[-1] = mask[:, groups[g]]
    place, held = torch.cat(places, 1), torch.cat(seen, 1)
    row = torch.arange(len(x), device=x.device)[:, None].expand_as(place)
    last = max(table.first + table.values.numel() for table in tables.values())
    index = torch.stack([row[held], place[held]])
    ones = torch.ones_like(index[0], dtype=x.dtype)
    with warnings.catch_warnings():  # torch's word on sparse matrices is not for our reader
        warnings.simplefilter("ignore")
        codes = torch.sparse_coo_tensor(index, ones, (len(x), last), is_coalesced=True)
    return Coded(codes, direct)


def _distinct(x: Tensor, mask: Tensor | None, at: list[int]) -> list[Tensor] | None:
    """The values of every column; None: there are too many."""
    found = []
    for j in at:
        values = torch.unique(x[:, j] if mask is None else x[mask[:, j], j])
        if len(values) > min(_MOST, len(x) // _FEW):
            return None
        found.append(values)
    return found
