"""One update of the parameters, or none: clipping, skipping and the non-finite guard.

With the gradient g of a step, its global norm `|g|` over all parameters, a clip c and a limit s:

    not finite (loss or |g|)  ->  nothing happens, counted as non-finite
    |g| > s                   ->  nothing happens, counted as skipped
    |g| > c                   ->  the optimizer steps along `g c / |g|`, counted as clipped

"Nothing happens" leaves parameters and optimizer state as they were to the bit. Clipping: Pascanu,
Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latently.errors import UserError

__all__ = ["Outcome", "Update", "check_limits"]


class Outcome(NamedTuple):
    """What became of a step; tensors are 0-d and stay on the device until read.

    Attributes:
        gradient_norm: global norm of the gradient before clipping.
        finite: whether loss and norm are finite.
        skipped: whether a finite step was left out because of its norm.
        clipped: whether the gradient was shortened.
    """

    gradient_norm: Tensor
    finite: Tensor
    skipped: Tensor
    clipped: Tensor


class Update:
    """Applies an optimizer to the gradients in place, where they deserve it.

    Most decide by a branch on plain numbers. On a CUDA device that would wait for the device in
    every step, so fused Adam and AdamW are told there, through `found_inf`, to leave everything as
    it is. (Fused SGD takes that, too, but its momentum is uninitialised memory if that happens in
    its first step.)

    Args:
        optimizer: as it is stepped, in Fabric's wrapper where there is one.
        parameters: those it holds, on the device of the run.
        clip: largest norm of a gradient; None: any.
        skip: norm above which a step is left out; None: none is.
        scaler: the loss scaler of 16-mixed; its gradients are unscaled first.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        *,
        clip: float | None = None,
        skip: float | None = None,
        scaler: Any = None,
    ) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        self.bare: Any = getattr(optimizer, "optimizer", optimizer)
        self.clip = math.inf if clip is None else clip
        self.skip = math.inf if skip is None else skip
        self.scaler = scaler
        self.waits = scaler is not None or not (
            type(self.bare) in (torch.optim.Adam, torch.optim.AdamW)
            and self.bare.defaults.get("fused")
            and all(p.device.type == "cuda" for p in parameters)
        )
        device = parameters[0].device
        self._flags = torch.tensor(False, device=device), torch.tensor(True, device=device)

    def __call__(self, loss: Tensor) -> Outcome:
        """Steps, or not; `loss` is the 0-d value the gradients are of, detached."""
        if self.scaler is not None:
            self.scaler.unscale_(self.bare)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return (self._now if self.waits else self._unseen)(loss, gradients)

    def _now(self, loss: Tensor, gradients: list[Tensor]) -> Outcome:
        norm = math.hypot(*_norms(gradients).tolist() if gradients else (0.0,))
        finite = math.isfinite(norm + loss.item())
        skipped = finite and norm > self.skip
        clipped = finite and not skipped and norm > self.clip
        if clipped:
            torch._foreach_mul_(gradients, self.clip / norm)
        if finite and not skipped:
            self.optimizer.step()
        elif self.scaler is not None:
            self.scaler.update()  # lowers a scale that overflows
        flags = self._flags
        return Outcome(loss.new_tensor(norm), flags[finite], flags[skipped], flags[clipped])

    def _unseen(self, loss: Tensor, gradients: list[Tensor]) -> Outcome:
        """The same in tensors, which nobody waits for."""
        norm = torch.linalg.vector_norm(_norms(gradients)) if gradients else loss * 0
        finite = torch.isfinite(norm + loss)
        skipped = finite & (norm > self.skip)
        clipped = finite & ~skipped & (norm > self.clip)
        if self.clip < math.inf:
            torch._foreach_mul_(gradients, (self.clip / norm).clamp(max=1.0))
        self.bare.found_inf = (~finite | skipped).float()
        self.optimizer.step()
        return Outcome(norm, finite, skipped, clipped)


def _norms(gradients: list[Tensor]) -> Tensor:
    """The norm of every gradient, in float32 or wider."""
    narrow = gradients[0].dtype in (torch.bfloat16, torch.float16)
    return torch.stack(torch._foreach_norm(gradients, 2, torch.float32 if narrow else None))


def check_limits(clip: float | None, skip: float | None) -> None:
    """Refuses limits that are no positive number.

    Raises:
        UserError: such a limit.
    """
    for name, value in (("clip", clip), ("skip", skip)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name}={value} must be a positive gradient norm, or left out")
    if clip is not None and skip is not None and skip <= clip:
        raise UserError(
            f"clip={clip} has no effect with skip={skip}, which leaves out every step that would "
            "be clipped; choose skip above clip"
        )
