r"""Corruptions: what a denoising or robust autoencoder sees in place of its rows.

Their level is a share, from 0 (rows as they are) to 1. Where it is a size it is a share of the
span of the data, so that 0.1 means the same on pixels of 0 to 1 and of 0 to 255.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from latently.errors import UserError
from latently.probability.span import Span

__all__ = ["Adversarial", "Corruption", "Gaussian", "Masking", "SaltAndPepper", "Span"]

Loss = Callable[[Tensor], Tensor]
_FAR = 1e3  # noise goes anywhere


@dataclass(frozen=True)
class Corruption(ABC):
    """A rule that spoils rows, drawn from the global generator.

    Args:
        level: how much of it, from 0 (none) to 1.

    Attributes:
        continuous: whether it leaves values between those of counted data.
        beyond: values that it leaves even where the rows have none like them.

    Raises:
        UserError: a level outside [0, 1].
    """

    level: float = 0.5
    continuous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse a level outside [0, 1]."""
        number = isinstance(self.level, int | float) and not isinstance(self.level, bool)
        if not number or not 0 <= self.level <= 1:
            raise UserError(
                f"{type(self).__name__}: level={self.level!r} must lie between 0 (rows as they "
                "are) and 1"
            )

    @property
    def beyond(self) -> tuple[float, ...]:
        return ()

    @abstractmethod
    def __call__(self, x: Tensor, span: Span, loss: Loss | None = None) -> Tensor:
        """Spoilt rows.

        Args:
            x: rows (B, *shape), in data units.
            span: of the training rows.
            loss: `loss(x') -> (B,)`, what an adversary makes large; others do not ask for it.

        Returns:
            (B, *shape), without gradient.
        """

    def at(self, level: float) -> Corruption:
        """The same at another level."""
        return replace(self, level=level)


@dataclass(frozen=True)
class Gaussian(Corruption):
    """Noise on every cell: `x' = x + level * span * e`, `e ~ N(0, 1)`.

    Args:
        level: deviation of the noise, as a share of the span of the training rows.

    >>> span = Span(torch.tensor(0.0), torch.tensor(255.0))
    >>> Gaussian(0.1)(torch.zeros(1000, 4), span).std()
    tensor(25...)
    """

    level: float = 0.25
    continuous = True

    @property
    def beyond(self) -> tuple[float, ...]:
        return (-_FAR, _FAR) if self.level else ()

    def __call__(self, x: Tensor, span: Span, loss: Loss | None = None) -> Tensor:
        return x + self.level * span.width.to(x) * torch.randn_like(x)


@dataclass(frozen=True)
class Masking(Corruption):
    """Sets cells to a value, each with probability `level`; a pixel in all its channels.

    Source: Vincent et al., "Stacked Denoising Autoencoders", 2010.

    Args:
        level: probability of a cell to be masked.
        value: what it becomes, in data units.

    Raises:
        UserError: a level outside [0, 1], or a value that is no finite number.

    >>> span = Span(torch.tensor(0.0), torch.tensor(1.0))
    >>> Masking(0.5)(torch.ones(1000, 4), span).mean()
    tensor(0.5...)
    """

    level: float = 0.5
    value: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.value, int | float) or not math.isfinite(self.value):
            raise UserError(f"Masking: value={self.value!r} must be a finite number")

    @property
    def beyond(self) -> tuple[float, ...]:
        return (self.value,) if self.level else ()

    def __call__(self, x: Tensor, span: Span, loss: Loss | None = None) -> Tensor:
        return x.masked_fill(_uniform(x) < self.level, self.value)


@dataclass(frozen=True)
class SaltAndPepper(Corruption):
    """Sets cells to either end of the span, each with probability `level`, half of them to one.

    A pixel goes in all its channels.

    Args:
        level: probability of a cell to be touched.

    >>> span = Span(torch.tensor(0.0), torch.tensor(1.0))
    >>> SaltAndPepper(1.0)(torch.full((1000, 4), 0.3), span).unique()
    tensor([0., 1.])
    """

    level: float = 0.25

    def __call__(self, x: Tensor, span: Span, loss: Loss | None = None) -> Tensor:
        u = _uniform(x)
        x = torch.where(u < self.level, span.high.to(x), x)
        return torch.where(u < self.level / 2, span.low.to(x), x)


@dataclass(frozen=True)
class Adversarial(Corruption):
    r"""The worst rows near x that projected gradient ascent finds.

        x' = argmax loss(x')  subject to  |x' - x| <= level * span

    in the norm "inf" (every cell) or "2" (the root mean square over the cells of a row, in units
    of the span), and within the span itself. It starts anywhere in the ball and takes `steps`
    steps of 2.5 level / steps, projected back each time. What it climbs is given by whoever asks:
    in training the reconstruction error, of a classifier its cross-entropy. It finds a strong
    x', not surely the worst. Source: Madry et al., "Towards Deep Learning Models Resistant to
    Adversarial Attacks", 2018.

    Args:
        level: radius of the ball, as a share of the span.
        norm: "inf" or "2".
        steps: of the ascent.

    Raises:
        UserError: options out of range; at the call, no loss to climb.

    >>> span = Span(torch.tensor(0.0), torch.tensor(1.0))
    >>> Adversarial(0.1)(torch.full((1, 3), 0.5), span, loss=lambda x: x.sum(1))
    tensor([[0.6000, 0.6000, 0.6000]])
    """

    level: float = 0.1
    norm: str = "inf"
    steps: int = 10
    continuous = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("inf", "2"):
            raise UserError(f'Adversarial: norm={self.norm!r} must be "inf" or "2"')
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise UserError(
                f"Adversarial: steps={self.steps!r} must be a whole number of at least 1"
            )

    def __call__(self, x: Tensor, span: Span, loss: Loss | None = None) -> Tensor:
        if loss is None:
            raise UserError(
                "Adversarial climbs a loss of the rows, and here there is none; choose another "
                "corruption, such as Gaussian"
            )
        x, width = x.detach(), span.width.to(x)
        apart = self._start(x)
        rate = 2.5 * self.level / self.steps
        for _ in range(self.steps):
            apart = self._within(apart + rate * self._uphill(x + width * apart, width, loss))
            apart = torch.where(width > 0, (span.clamp(x + width * apart) - x) / width, 0.0)
        return x + width * apart

    def _start(self, x: Tensor) -> Tensor:
        """Anywhere in the ball, in units of the span."""
        if self.norm == "inf":
            return self.level * (2 * torch.rand_like(x) - 1)
        e = torch.randn_like(x)
        share = torch.rand(len(x), device=x.device, dtype=x.dtype) ** (1 / math.prod(x.shape[1:]))
        return self.level * _rows(share, x) * e / _size(e)

    def _uphill(self, x: Tensor, width: Tensor, loss: Loss) -> Tensor:
        """The steepest direction of unit length in the norm, in units of the span."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value, slope = loss(x).sum(), None
            if value.requires_grad:
                (slope,) = torch.autograd.grad(value, x, allow_unused=True)
        if slope is None:
            raise UserError(
                "Adversarial climbs the slope of a loss, and this one has none: rows or codes "
                "are read as categories; choose Masking or SaltAndPepper"
            )
        slope = slope * width
        return slope.sign() if self.norm == "inf" else slope / _size(slope)

    def _within(self, apart: Tensor) -> Tensor:
        """The nearest point of the ball."""
        if self.norm == "inf":
            return apart.clamp(-self.level, self.level)
        return apart * (self.level / _size(apart)).clamp(max=1)


def _uniform(x: Tensor) -> Tensor:
    """U(0, 1) for every cell, of pictures (C, H, W) for every pixel; broadcasts to x."""
    shape = (len(x), 1, *x.shape[2:]) if x.dim() == 4 else x.shape
    return torch.rand(shape, device=x.device, dtype=x.dtype)


def _size(x: Tensor) -> Tensor:
    """Root mean square of every row, (B, 1, ...)."""
    size = x.flatten(1).square().mean(1).sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    return _rows(size, x)


def _rows(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (x.dim() - 1))
