r"""Flows of vectors: chains of the transforms of Zuko.

The package is that of Rozet et al. Hidden units of our own choices are tanh, so that no net runs
away far out, and all start near the identity.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import _InverseTransform

from latently.errors import UserError
from latently.probability.flows.base import MOST_WEIGHTS, Bijection, Flow

AFFINE_SLOPE = 0.2  # least slope of an affine map, the largest is 5: no scale runs away
_START = 1e-2  # of what the last layers of the nets would start at: f(x) is x, to two digits


class Chain(Bijection):
    """A chain of Zuko's transforms.

    Args:
        layers: Zuko's lazy transforms, over the last axis, in order.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(())
        for layer in self.layers:
            x, change = layer(context).call_and_ladj(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        for layer in reversed(self.layers):
            y = layer(context).inv(y)
        return y


@dataclass(frozen=True)
class VectorFlow(Flow):
    """A chain of `transforms` of one kind.

    Forwards it takes one pass of its nets. Backwards, an autoregressive flow takes as many as
    there are features and a coupling flow two.

    Attributes:
        transforms: number of transforms; each second one takes the features in reverse.
        hidden: widths of the hidden layers of each transform's net. In an autoregressive flow,
            units are dealt to the features in turn: a width below the number of features leaves
            some features unread by the ones after them.

    Raises:
        UserError: an option that is no positive whole number.
    """

    transforms: int = 3
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        hidden = (self.hidden,) if isinstance(self.hidden, int) else tuple(self.hidden)
        object.__setattr__(self, "hidden", hidden)
        for name, value in (("transforms", self.transforms), *(("hidden", n) for n in hidden)):
            self.check_whole(name, value, 1)

    @abstractmethod
    def layer(self, number: int, features: int, context: int) -> nn.Module:
        """Zuko's lazy transform at a place in the chain, 0 the first."""

    @property
    @abstractmethod
    def params(self) -> int:
        """Parameters of the map of one feature."""

    def build(self, shape: Sequence[int] | int, context: int = 0) -> Bijection:
        """The bijection of rows as vectors.

        Masks are computed from values, so that it is built on the CPU, then moved to where
        tensors are made at present.
        """
        features = shape if isinstance(shape, int) else prod(shape)
        self._check_size(features, context)
        place = torch.empty(0).device
        with torch.device("cpu"):
            layers = [self.layer(i, features, context) for i in range(self.transforms)]
            for layer in layers:
                _start_small(layer)
        return Chain(layers).to(place)

    def _check_size(self, features: int, context: int) -> None:
        widths = (features + context, *self.hidden, features * self.params)
        nets = sum(a * b for a, b in pairwise(widths))
        weights = self.transforms * (nets + widths[0] * widths[-1])
        if weights > MOST_WEIGHTS:
            raise UserError(
                f"{type(self).__name__}: {features} features need some {weights:.0e} weights, "
                f"more than {MOST_WEIGHTS}; choose fewer transforms, a smaller hidden, or fewer "
                "features"
            )


def order(number: int, features: int) -> Tensor:
    ahead = torch.arange(features)
    return ahead.flip(0) if number % 2 else ahead


def _start_small(layer: nn.Module) -> None:
    """Brings a transform near the identity: all of ours are it where their parameters are 0."""
    hyper = getattr(layer, "hyper", None)
    last = layer if hyper is None else hyper[-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(_START)


def zuko() -> Any:
    """Zuko, with what its import changes in `torch.distributions` put back.

    It switches off the validation of arguments everywhere and renames a class. The method
    `Transform.call_and_ladj` that it adds stays: its transforms, the user's among them, need it.
    """
    if "zuko" not in sys.modules:
        validates = Distribution._validate_args
        constraints = Distribution.__dict__["arg_constraints"]
        name = _InverseTransform.__name__
        import zuko

        Distribution._validate_args = validates
        Distribution.arg_constraints = constraints  # type: ignore[method-assign]
        _InverseTransform.__name__ = name
    import zuko

    return zuko
