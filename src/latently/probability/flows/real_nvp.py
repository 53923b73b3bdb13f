"""Affine couplings of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from latently.probability.flows._vectors import AFFINE_SLOPE, VectorFlow, zuko

__all__ = ["RealNVP"]


@dataclass(frozen=True)
class RealNVP(VectorFlow):
    r"""Affine coupling: half of the values scaled and moved by a net of the other half, in turn.

    `y_b = x_b exp(a(x_a)) + b(x_a)`, `y_a = x_a`, with a and b every second feature, changing
    places, and `|a|` below log 5. One pass forwards and one back. Source: Dinh, Sohl-Dickstein,
    Bengio, "Density Estimation using Real NVP", 2017.

    >>> f = RealNVP(transforms=4).build(6)
    >>> x = torch.randn(6)
    >>> bool((f.inverse(f(x)[0]) - x).abs().max() < 1e-5)
    True
    """

    transforms: int = 6

    @property
    def params(self) -> int:
        return 2

    def layer(self, number: int, features: int, context: int) -> nn.Module:
        z = zuko()
        return z.flows.GeneralCouplingTransform(
            features,
            context,
            mask=torch.arange(features) % 2 == number % 2,
            univariate=partial(z.transforms.MonotonicAffineTransform, slope=AFFINE_SLOPE),
            hidden_features=self.hidden,
            activation=nn.Tanh,
        )
