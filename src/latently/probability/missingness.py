r"""Missingness: p(s|x), which cells a row lacks given its values, seen or not.

    P(cell j is missing | x) = sigmoid(offset_j + f_j(x))

with s_j = 1 where cell j is observed. f is a module that is built here or by the user; the offset
is the log-odds of the column's missing share in training, so that f = 0 is missing completely at
random. Numbers reach f in units of the observed deviation around the observed mean, so that a
weight of 1 is a moderate one; unordered categories reach it as their codes.

Of these models data check next to nothing: what a column's missing values are like is not in the
data, and every such f is an assumption. Source: Ipsen, Mattei, Frellsen, "not-MIWAE: Deep
Generative Modelling with Missing not at Random Data", 2021; Rubin, "Inference and missing data",
1976.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from latently.errors import UserError, closest
from latently.nets.mlp import MLP
from latently.probability.families._special import bent
from latently.probability.families.categorical import Categorical
from latently.probability.families.embedded import Embedded
from latently.probability.families.mixed import Mixed

__all__ = ["Agnostic", "Missingness", "SelfMasking"]

_SIGNS = ("above", "below")
_START = 0.002  # deviation of weights of unknown sign at the start: none would be a saddle
_PACE = 5.0  # of log slopes beside other parameters: an edge is far from a slope of 1
_STEEPEST = 1000.0


class Missingness(nn.Module, ABC):
    """f of `P(missing) = sigmoid(offset + f(x))`: rows to one number for every cell.

    Any `nn.Module` that is called so will do; this class says what is asked of it.

    Args:
        shape: shape of one row.
        categories: for every cell of a row, in order, 0 for a number and L for an unordered
            category, whose values are 0 .. L - 1; () for numbers alone.

    Attributes:
        separable: whether f_j reads x_j alone. Missing cells are then averaged one by one, which
            takes far fewer draws than whole rows do.
    """

    separable: ClassVar[bool] = False

    def __init__(self, shape: Sequence[int], categories: Sequence[int] = ()) -> None:
        super().__init__()
        self.shape = tuple(shape)
        size = math.prod(self.shape)
        self.categories = tuple(categories) or (0,) * size
        if len(self.categories) != size:
            raise UserError(
                f"{type(self).__name__}: {len(self.categories)} categories for rows of {size} "
                "cells; give a number for each, 0 where it is no category"
            )

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Log-odds of being missing beside the offset, (B, *shape), from rows (B, *shape)."""


class SelfMasking(Missingness):
    r"""Whether a cell is missing depends on its own value: f_j(x) = w_j (x_j - c_j).

    High incomes are not told, values beyond the range of a device are not recorded. An unordered
    category has a number of its own for every level in place of both, and no sign. Source: Ipsen,
    Mattei, Frellsen, 2021 ("self-masking", with a sign "self-masking known").

    Args:
        shape: shape of one row.
        categories: see `Missingness`.
        sign: "above" where high values are the missing ones (w_j > 0), "below" where low ones
            are; None: learned, which asks the data for what they hardly say. Give one if you can.

    Raises:
        UserError: another sign.

    >>> SelfMasking((3,), sign="above")(torch.ones(1, 3))
    tensor([[1., 1., 1.]], grad_fn=...)
    """

    separable: ClassVar[bool] = True

    def __init__(
        self,
        shape: Sequence[int],
        categories: Sequence[int] = (),
        *,
        sign: str | None = None,
    ) -> None:
        super().__init__(shape, categories)
        if sign is not None and sign not in _SIGNS:
            raise UserError(f"SelfMasking: sign={sign!r}; {closest(str(sign), _SIGNS)}, or None")
        self.sign = sign
        self._numbers, self._names = (
            [j for j, levels in enumerate(self.categories) if bool(levels) == named]
            for named in (False, True)
        )
        size = len(self._numbers)
        self.weight = nn.Parameter(torch.zeros(size) if sign else _START * torch.randn(size))
        self.middle = nn.Parameter(torch.zeros(size))
        if self._names:
            self.levels = nn.Parameter(torch.zeros(len(self._names), max(self.categories)))

    @property
    def slope(self) -> Tensor:
        """w of the numbers in order, (N,): log-odds of being missing for each observed deviation.

        It grows with the exponential of its parameter: the edge of a device's range is a slope of
        a hundred, a mere tendency one of a half. At the rate of the networks' weights a run would
        end before it gets there, so its logarithm goes `_PACE` times as fast, and bends towards
        that of `_STEEPEST`, where a gradient would be an explosion.
        """
        log_slope = bent(_PACE * self.weight, math.log(_STEEPEST))
        if self.sign is None:
            return log_slope.sinh()
        return log_slope.exp() * (1 if self.sign == "above" else -1)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if not self._names:
            return (self.slope * (flat - self.middle)).view(x.shape)
        numbers = self.slope * (flat[:, self._numbers] - self.middle)
        level = flat[:, self._names].long().clamp(0, self.levels.shape[1] - 1)
        names = self.levels[torch.arange(len(self._names), device=x.device), level]
        order = torch.tensor(self._numbers + self._names, device=x.device).argsort()
        return torch.cat([numbers, names], 1)[:, order].view(x.shape)


class Agnostic(Missingness):
    """Whether a cell is missing may depend on all values of its row: f is a network.

    Linear by default: f(x) = W x + b. It assumes least and therefore is told least by the data.
    Source: Ipsen, Mattei, Frellsen, 2021 ("agnostic").

    Args:
        shape: shape of one row.
        categories: see `Missingness`; the network sees them one-hot.
        hidden: width of each hidden layer; () for none.

    >>> Agnostic((3,), hidden=(8,))(torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        shape: Sequence[int],
        categories: Sequence[int] = (),
        *,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__(shape, categories)
        width = sum(levels or 1 for levels in self.categories)
        self.net = MLP((width,), self.shape, hidden=hidden, activation=nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        cells = x.flatten(1).unbind(1)
        seen = [
            functional.one_hot(cell.long().clamp(0, levels - 1), levels).to(x.dtype)
            if levels
            else cell[..., None]
            for levels, cell in zip(self.categories, cells, strict=True)
        ]
        return self.net(torch.cat(seen, -1))


def categories_of(family: Any) -> tuple[int, ...]:
    """How many unordered categories every cell of a family has, 0 for numbers; () if all are."""
    if isinstance(family, Categorical | Embedded):
        return (family.levels,) * math.prod(family.shape)
    if not isinstance(family, Mixed):
        return ()
    found = [0] * math.prod(family.shape)
    for at, member in family.parts():
        if isinstance(member, Categorical | Embedded):
            for j in at:
                found[j] = member.levels
    return tuple(found)


def built(
    missingness: Callable[..., nn.Module], shape: tuple[int, ...], categories: tuple[int, ...]
) -> nn.Module:
    """The module of a constructor `(shape, categories) -> nn.Module`.

    Raises:
        UserError: it is no such constructor.
    """
    if not callable(missingness) or isinstance(missingness, nn.Module):
        raise UserError(
            f"missingness={missingness!r} must be a constructor (shape, categories) -> nn.Module, "
            "such as SelfMasking or partial(SelfMasking, sign='above')"
        )
    return missingness(shape, categories)
