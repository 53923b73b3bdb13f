r"""The exponential moving average of the weights over the steps of a run.

    avg_n = avg_{n-1} + w_n (theta_n - avg_{n-1}),    w_n = (1 - d) / (1 - d^n)

with decay d. `w_1 = 1`: the average starts at the first weights, is their plain mean while n is
small against `1 / (1 - d)`, and forgets the beginning after that; no start value is left in it.
It is `(1 - d) sum_m d^(n-m) theta_m / (1 - d^n)`. Averages of late iterates have less noise than
the last one: Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; the
correction is that of Kingma, Ba, "Adam", 2015.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from latently.errors import UserError

__all__ = ["Average", "check_decay"]


class Average:
    """The averaged parameters of a module; buffers are the module's own.

    Args:
        module: whose parameters are averaged; it stays as it is.
        decay: d, between 0 and 1; about the last `1 / (1 - d)` steps count.

    Raises:
        UserError: a decay that is not between 0 and 1.

    >>> layer = nn.Linear(1, 1)
    >>> average = Average(layer, decay=0.5)
    >>> for value in (1.0, 4.0):
    ...     _ = nn.init.constant_(layer.weight, value)
    ...     average.update()
    >>> average.tensors()["weight"]
    tensor([[3.]])
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        check_decay(decay)
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        self.values = [_wide(p.detach()).clone() for p in self.parameters]
        self.decay = decay
        self.count = torch.zeros((), device=self.parameters[0].device)

    def update(self, taken: Tensor | bool = True) -> None:
        """Takes the weights in; where `taken` is False nothing happens."""
        current = [_wide(p.detach()) for p in self.parameters]
        if self.count.device.type != "cpu":
            self._unseen(current, taken)
        elif taken:
            self.count += 1
            torch._foreach_lerp_(self.values, current, float(self._weight()))

    def _unseen(self, current: list[Tensor], taken: Tensor | bool) -> None:
        """The same without a look at `taken`, which would wait for the device."""
        self.count += taken
        apart = torch._foreach_sub(current, self.values)
        torch._foreach_mul_(apart, self._weight() * taken)
        torch._foreach_add_(self.values, apart)

    def _weight(self) -> Tensor:
        count = self.count.clamp(min=1)
        return (1 - self.decay) / -torch.expm1(count * math.log(self.decay))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module holds the average inside, and its own weights again afterwards."""
        own = [p.data for p in self.parameters]
        self.apply()
        try:
            yield
        finally:
            for p, kept in zip(self.parameters, own, strict=True):
                p.data = kept

    def apply(self) -> None:
        """Gives the module the average for good."""
        for p, value in zip(self.parameters, self.values, strict=True):
            p.data = value.to(p.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """The average by parameter name."""
        return dict(zip(self.names, self.values, strict=True))

    def restore(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Goes on from `tensors()` and the number of updates in it."""
        self.values = [
            tensors[name].to(p.device) for name, p in zip(self.names, self.parameters, strict=True)
        ]
        self.count.fill_(count)


def check_decay(decay: float | None) -> None:
    """Refuses a decay that is not between 0 and 1; None is no average.

    Raises:
        UserError: such a decay.
    """
    if decay is not None and not 0 < decay < 1:
        raise UserError(f"ema={decay} must be between 0 and 1, e.g. 0.999")


def _wide(tensor: Tensor) -> Tensor:
    """In float32 or wider: steps of a thousandth are lost in bfloat16."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
