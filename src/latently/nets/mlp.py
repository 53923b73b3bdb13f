"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from latently.errors import UserError
from latently.nets._linear import Linear, run_layers

__all__ = ["MLP"]


class MLP(nn.Module):
    """A fully connected network: linear layers with an activation between them.

    `y = W_n a(... a(W_1 x + b_1) ...) + b_n`; with `hidden=()` it is one affine map. With `skip`
    a linear map W_0 x is added: what is linear in x, as much of a table is, is then learned in
    fewer steps, and hidden units are left to what is not.

    Args:
        in_shape: shape of one input, any number of axes; it is flattened.
        out_shape: shape of one output.
        hidden: width of each hidden layer.
        activation: constructor of the elementwise non-linearity.
        dropout: probability of zeroing a hidden unit in training.
        skip: add a linear map from input to output.

    Raises:
        UserError: a width below one, a dropout outside [0, 1), or `skip` without hidden layers.

    >>> import torch
    >>> MLP((1, 8, 8), (2, 3), hidden=(16,))(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (128, 128),
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        if any(not isinstance(width, int) or width < 1 for width in hidden):
            raise UserError(f"MLP: hidden={hidden} must hold whole numbers of at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"MLP: dropout={dropout} is outside [0, 1)")
        if skip and not hidden:
            raise UserError("MLP: hidden=() is linear by itself; leave out skip")
        widths = [prod(in_shape), *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [Linear(inputs, outputs), activation()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, Linear(widths[-1], prod(out_shape)))
        self.skip = Linear(widths[0], prod(out_shape), bias=False) if skip else None
        self.out_shape = tuple(out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *in_shape) to (B, *out_shape)."""
        x = x.flatten(1)
        y = run_layers(self.layers, x)
        y = y if self.skip is None else y + self.skip(x)
        return y.unflatten(1, self.out_shape)
