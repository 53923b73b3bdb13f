r"""Mechanisms: rules that make holes by looking at values, to test what is done about holes.

What is missing may depend on nothing (MCAR), on what is seen (MAR) or on what is not (MNAR;
Rubin, "Inference and missing data", 1976). `masks` holds rules of the shape of a row alone,
which pictures and training use; missing completely at random is one of these, and there is one
`MCAR` for both purposes. A mechanism asks for the rows, too. `holes` takes either.

Numbers are standardised by column over their observed cells; an unordered category has a random
number for each of its levels. A cell that is missing stays missing, and reads as the column's
mean. A row that would lose all its cells keeps one of them, picked at random: nothing can be said
of an empty row. Holes are a function of rows and seed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latently.data.masks import Mask
from latently.errors import UserError, closest

__all__ = ["MAR", "MNAR", "Mechanism", "SelfMasked", "holes"]

_SIDES = ("above", "below", "both")
_COLUMNS = ("all", "first half")
_HALVINGS = 60
_FAR = 1e3  # beyond every standardised value by more than a logistic can tell


@dataclass(frozen=True)
class Mechanism(ABC):
    """A rule that decides by their values which cells of rows are lost."""

    def __call__(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        seed: int = 0,
        categories: Collection[int] = (),
    ) -> Tensor:
        """The cells that are left, bool (n, *shape), True = observed.

        Args:
            x: rows (n, *shape); what stands in missing cells is not read.
            mask: True where observed to begin with; None: everywhere.
            seed: of the draws.
            categories: columns that hold codes of unordered categories, counted from 0.

        Raises:
            UserError: rows of too few columns for the rule.
        """
        generator = _generator(seed)
        own = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        seen = own.flatten(1)
        u = _standardised(x.flatten(1).double().cpu(), seen, set(categories), generator)
        p = self.lost(u, seen.cpu(), generator)
        left = seen & (torch.rand(p.shape, generator=generator, dtype=p.dtype) >= p)
        score = torch.rand(p.shape, generator=generator).masked_fill(~seen, -1)
        empty = ~left.any(1) & seen.any(1)
        left[empty, score.argmax(1)[empty]] = True
        return left.view(x.shape)

    @abstractmethod
    def lost(self, u: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
        """P(cell is lost | row), (n, D).

        Args:
            u: standardised rows (n, D), 0 where a cell is missing.
            seen: bool (n, D), the cells that can be lost: shares are of these.
            generator: for what the rule draws.
        """


@dataclass(frozen=True)
class MAR(Mechanism):
    r"""Missing at random: cells are lost by a logistic model of columns that are all kept.

    `logit P(cell j is lost) = a_j + w_j . u`, u the standardised kept columns, `w_j . u` scaled to
    a deviation of 1, and a_j such that the expected share is met.

    Args:
        share: expected share of the cells lost, in columns that may lose any; between 0 and 1.
        observed: share of the columns that are kept, drawn by the seed; at least one is, and one
            is not.

    Raises:
        UserError: shares outside (0, 1), or rows of one column.

    >>> x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    >>> (~MAR(0.3)(x)).float().mean(0)
    tensor([0.0000, 0.0000, 0.3080, 0.3000])
    """

    share: float = 0.3
    observed: float = 0.5

    def __post_init__(self) -> None:
        """Refuse shares outside (0, 1)."""
        _check_share(self, "share")
        _check_share(self, "observed")

    def lost(self, u: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
        columns = u.shape[1]
        if columns < 2:
            raise UserError(f"{self}: one column cannot be lost by another; give two or more")
        kept = min(max(round(self.observed * columns), 1), columns - 1)
        order = torch.randperm(columns, generator=generator)
        by, of = order[:kept], order[kept:]
        weights = torch.randn(kept, columns - kept, generator=generator, dtype=u.dtype)
        p = torch.zeros_like(u)
        p[:, of] = _logistic(u[:, by] @ weights, seen[:, of], self.share)
        return p


@dataclass(frozen=True)
class MNAR(Mechanism):
    r"""Missing not at random: cells are lost by a logistic model of all columns of their row.

    As `MAR`, with u all columns, the lost cell's own and other lost ones among them.

    Args:
        share: expected share of the cells lost; between 0 and 1.

    Raises:
        UserError: a share outside (0, 1).
    """

    share: float = 0.3

    def __post_init__(self) -> None:
        """Refuse a share outside (0, 1)."""
        _check_share(self, "share")

    def lost(self, u: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
        columns = u.shape[1]
        weights = torch.randn(columns, columns, generator=generator, dtype=u.dtype)
        return _logistic(u @ weights, seen, self.share)


@dataclass(frozen=True)
class SelfMasked(Mechanism):
    r"""Missing not at random: high values (or low, or both) are lost by themselves.

    `P(cell j is lost) = sigmoid(steepness (u_j - c_j))`, u_j the standardised value, its negative
    or its size; `c_j` such that the expected share is met. The benchmark of Ipsen, Mattei,
    Frellsen, "not-MIWAE", 2021, is `SelfMasked(None, columns="first half", steepness=None)`.

    Args:
        share: expected share of the cells lost in the columns concerned; None: c_j is the mean
            (of "both": one deviation from it).
        side: "above", "below" or "both".
        columns: "all", "first half" (floor(D / 2) of D), or their numbers, from 0.
        steepness: in log-odds for each deviation; None: a step, whatever lies beyond is lost.

    Raises:
        UserError: options out of range, or columns that the rows do not have.

    >>> SelfMasked(None, steepness=None)(torch.tensor([[1.0, 5.0], [3.0, 1.0], [2.0, 9.0]]))
    tensor([[ True,  True],
            [False,  True],
            [ True, False]])
    """

    share: float | None = 0.3
    side: str = "above"
    columns: str | Sequence[int] = "all"
    steepness: float | None = 4.0

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        if self.share is not None:
            _check_share(self, "share")
        if self.side not in _SIDES:
            raise UserError(f"SelfMasked: side={self.side!r}; {closest(str(self.side), _SIDES)}")
        steep = self.steepness
        if steep is not None and not (_number(steep) and 0 < steep < math.inf):
            raise UserError(
                f"SelfMasked: steepness={steep!r} must be a positive number, or None for a step"
            )
        if isinstance(self.columns, str) and self.columns not in _COLUMNS:
            raise UserError(
                f"SelfMasked: columns={self.columns!r}; {closest(self.columns, _COLUMNS)}, or "
                "numbers such as (0, 2)"
            )

    def lost(self, u: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
        at = self._chosen(u.shape[1])
        v = {"above": u, "below": -u, "both": u.abs()}[self.side][:, at]
        p, seen = torch.zeros_like(u), seen[:, at]
        if self.share is None:
            beyond, steep = v - float(self.side == "both"), self.steepness
            p[:, at] = (beyond > 0).to(p.dtype) if steep is None else (steep * beyond).sigmoid()
        elif self.steepness is None:
            p[:, at] = _highest(v, seen, self.share)
        else:
            p[:, at] = _logistic(v, seen, self.share, self.steepness, scaled=True)
        return p

    def _chosen(self, columns: int) -> list[int]:
        if self.columns == "all":
            return list(range(columns))
        if self.columns == "first half":
            if columns < 2:
                raise UserError(f"{self}: rows of one column have no first half")
            return list(range(columns // 2))
        for j in self.columns:
            if not isinstance(j, int) or not 0 <= j < columns:
                raise UserError(f"{self}: column {j!r} is none of the {columns}, counted from 0")
        return [int(j) for j in self.columns]


def holes(
    rule: Mask | Mechanism,
    x: Tensor,
    mask: Tensor | None = None,
    seed: int = 0,
    categories: Collection[int] = (),
) -> Tensor:
    """The cells that a mask or a mechanism leaves, bool (n, *shape); see `Mechanism`.

    >>> from latently.data.masks import MCAR
    >>> holes(MCAR(0.5), torch.zeros(1000, 2)).float().mean()
    tensor(0.6...)
    """
    if isinstance(rule, Mask):
        return rule(len(x), tuple(x.shape[1:]), seed, mask)
    return rule(x, mask, seed, categories)


def _standardised(
    x: Tensor, seen: Tensor, categories: set[int], generator: torch.Generator
) -> Tensor:
    """Mean 0 and deviation 1 by column over the observed cells, the others 0."""
    x = torch.where(seen, x, 0.0)
    for j in sorted(categories):
        levels, code = torch.unique(x[:, j], return_inverse=True)
        x[:, j] = torch.randn(len(levels), generator=generator, dtype=x.dtype)[code]
    count = seen.sum(0).clamp(min=1)
    mean = torch.where(seen, x, 0.0).sum(0) / count
    u = torch.where(seen, x - mean, 0.0)
    deviation = (u.square().sum(0) / count).sqrt()
    return torch.where(deviation > 1e-9 * mean.abs(), u / deviation, 0.0)


def _highest(score: Tensor, seen: Tensor, share: float) -> Tensor:
    """1 for the highest cells of a column that can be lost: as near to the share as ties go.

    >>> two = torch.tensor([[0.0, 1.0, 0.0, 1.0]]).T
    >>> _highest(two, torch.ones_like(two, dtype=torch.bool), 0.3).flatten()
    tensor([0., 1., 0., 1.])
    """
    middle = score.masked_fill(~seen, torch.nan).nanquantile(1 - share, dim=0)
    count = seen.sum(0).clamp(min=1)
    few, many = ((way(score, middle) & seen).to(score.dtype) for way in (torch.gt, torch.ge))
    off = [(found.sum(0) / count - share).abs() for found in (few, many)]
    return torch.where(off[0] <= off[1], few, many)


def _logistic(
    score: Tensor, seen: Tensor, share: float, steepness: float = 1.0, *, scaled: bool = False
) -> Tensor:
    """`sigmoid(steepness (score - c))` by column, with the mean of the cells seen at the share."""
    seen = seen.to(score.dtype)
    count = seen.sum(0).clamp(min=1)
    if not scaled:
        deviation = score.std(0, correction=0)
        score = torch.where(deviation > 0, score / deviation, 0.0)
    low, high = score.new_full((2, score.shape[1]), _FAR).unbind()
    low = -low
    for _ in range(_HALVINGS):
        c = (low + high) / 2
        more = (torch.sigmoid(steepness * (score - c)) * seen).sum(0) / count > share
        low, high = torch.where(more, c, low), torch.where(more, high, c)
    return torch.sigmoid(steepness * (score - (low + high) / 2))


def _generator(seed: int) -> torch.Generator:
    # not manual_seed(seed): values drawn from the same seed would decide what is lost
    state = np.random.SeedSequence([abs(seed), int(seed < 0), 0x686F6C65]).generate_state(1, "u8")
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_share(rule: Mechanism, name: str) -> None:
    share = getattr(rule, name)
    if not _number(share) or not 0 < share < 1:
        raise UserError(
            f"{type(rule).__name__}: {name}={share!r} must lie between 0 and 1, both excluded"
        )
