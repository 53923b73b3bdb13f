"""The masked autoregressive flow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from latently.probability.flows._vectors import AFFINE_SLOPE, VectorFlow, order, zuko

__all__ = ["MAF"]


@dataclass(frozen=True)
class MAF(VectorFlow):
    r"""Masked autoregressive flow: each value scaled and moved by a net of those before it.

    `y_j = x_j exp(a_j) + b_j` with `(a_j, b_j)` of `x_1 .. x_{j-1}`, and `|a_j|` below log 5.
    The cheapest of them here. Drawn from, it is the inverse autoregressive flow. Source:
    Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation", 2017;
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016.

    >>> import torch
    >>> MAF(transforms=2).build(4)(torch.zeros(7, 4))[1].shape
    torch.Size([7])
    """

    @property
    def params(self) -> int:
        return 2

    def layer(self, number: int, features: int, context: int) -> nn.Module:
        z = zuko()
        return z.flows.MaskedAutoregressiveTransform(
            features,
            context,
            order=order(number, features),
            univariate=partial(z.transforms.MonotonicAffineTransform, slope=AFFINE_SLOPE),
            hidden_features=self.hidden,
            activation=nn.Tanh,
        )
