"""The affine map of every network, by the faster of the two libraries inside torch.

On processors that MKL does not favour, its float32 matrix product runs at half the speed of
oneDNN's, which torch carries too and uses in compiled code. Both round to float32; values differ
in the last bits. Anything but plain float32 on an x86 processor takes torch's own path.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "run_layers"]

_Slope = Callable[[Tensor, Tensor], Tensor]
_backward = torch.ops.aten
# Activations that oneDNN applies in the same pass: its name for them, and the gradient through
# them given their *output*, where that determines it. Not its ReLU, which turns NaN into 0 and so
# would hide a run that has blown up.
_FUSED: dict[type[nn.Module], tuple[str, _Slope | None]] = {
    nn.Tanh: ("tanh", _backward.tanh_backward),
    nn.Sigmoid: ("sigmoid", _backward.sigmoid_backward),
    nn.SiLU: ("swish", None),
}


class Linear(nn.Linear):
    """`y = x W' + b`, as `nn.Linear`, for x of shape (B, in)."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in) to (B, out)."""
        if not _suits(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        return _Affine.apply(x, self.weight, self.bias, "none", None)


def run_layers(layers: nn.Sequential, x: Tensor) -> Tensor:
    """`layers(x)`, with activations applied inside the affine maps where that is possible."""
    steps = list(layers)
    while steps:
        layer = steps.pop(0)
        name, slope = _FUSED.get(type(steps[0]), ("", None)) if steps else ("", None)
        if (
            name
            and (slope is not None or not torch.is_grad_enabled())
            and isinstance(layer, Linear)
            and _suits(x, layer.weight)
            and not any(map(_hooked, (layer, steps[0])))
        ):
            x = _Affine.apply(x, layer.weight, layer.bias, name, slope)
            steps.pop(0)
        else:
            x = layer(x)
    return x


def _hooked(module: nn.Module) -> bool:
    """Whether somebody wants to see what goes through the module."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class _Affine(torch.autograd.Function):
    """`a(x W' + b)` with gradients of every order: its backward is made of itself."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        activation: str,
        slope: _Slope | None,
    ) -> Tensor:
        y = _product()(x, weight, bias, activation)
        ctx.slope = slope
        ctx.save_for_backward(x, weight, *(() if slope is None else (y,)))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight, *output) = gradients, ctx.saved_tensors
        if output:
            g = ctx.slope(g, *output)
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        return (
            _product_of(g, weight.t()) if of_x else None,
            _gradient_of_weight(g, x) if of_weight else None,
            g.sum(0) if of_bias else None,
            None,
            None,
        )


def _gradient_of_weight(g: Tensor, x: Tensor) -> Tensor:
    """`g' x`, (out, in). oneDNN copies the left factor to turn it: let that be the narrower."""
    if g.shape[1] <= x.shape[1]:
        return _product_of(g.t(), x.t())
    return _product_of(x.t(), g.t()).t()


def _product_of(x: Tensor, weight: Tensor) -> Tensor:
    """`x W'`, recorded only where a second derivative may be asked for."""
    if torch.is_grad_enabled():
        return _Affine.apply(x, weight, None, "none", None)
    return _product()(x, weight, None)


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.device.type == "cpu"
        and x.dim() == 2
        and _product() is not None
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


@functools.cache
def _product() -> Callable[..., Tensor]:
    """oneDNN's affine map as torch's compiler calls it, or None where it is not there."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None  # type: ignore[return-value]
    try:
        call = torch.ops.mkldnn._linear_pointwise.default

        def product(
            x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none"
        ) -> Tensor:
            return call(x, weight, bias, activation, [], "")

        product(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4), "tanh")
    except (AttributeError, RuntimeError):
        return None  # type: ignore[return-value]
    return product
