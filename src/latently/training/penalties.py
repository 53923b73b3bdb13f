"""Penalties on codes: what keeps an autoencoder from copying its rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from latently.errors import UserError
from latently.inference.options import check_count, check_number
from latently.inference.schedules import Schedule

__all__ = ["L1", "Contractive", "Penalty", "Sparsity"]

Encode = Callable[[Tensor], Tensor]
_LEAST = 1e-12  # of a variance that is divided by
_BELOW_ONE = 1e-6  # activations are held so far from 0 and 1


@dataclass(frozen=True)
class Penalty(ABC):
    """A cost of codes, added to the loss.

    Args:
        weight: its factor, at least 0, or a schedule.

    Attributes:
        second_order: whether its gradient takes derivatives of derivatives.

    Raises:
        UserError: a weight out of range.
    """

    weight: float | Schedule = 1.0
    second_order: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number(self, "weight", low=0)

    @abstractmethod
    def __call__(self, z: Tensor, seen: Tensor, encode: Encode) -> Tensor:
        """What the codes of a batch cost, (B,), in nats.

        Args:
            z: codes, (B, *Z).
            seen: what the encoder reads of the rows, (B, *X), scaled to order one.
            encode: `encode(seen)` is z.
        """

    @property
    def factor(self) -> float | Tensor:
        """The weight as a number, which a schedule is only within a run."""
        if isinstance(self.weight, Schedule):
            raise UserError(
                f"{type(self).__name__}: a scheduled weight needs a step; use "
                "Reconstruction(penalty=...)"
            )
        return self.weight

    @property
    def couples(self) -> bool:
        """Whether the cost of a row depends on the other rows of its batch."""
        return False

    def check_model(self, model: Any) -> None:
        """Raises UserError for a model whose codes it does not suit."""
        return None


@dataclass(frozen=True)
class L1(Penalty):
    r"""Sparse codes: `weight * sum_j |z_j|`.

    A decoder that grows as codes shrink makes the plain sum as small as one likes without a single
    zero. With `relative` every unit is measured by its root mean square over the batch,
    `weight * sum_j |z_j| / rms_j`, which only zeros lower. Under `activation=ReLU` a unit that is
    off for all rows stays off; `L1(Warmup(0.1))` lets units learn something first.

    Args:
        weight: of the sum, in nats.
        relative: whether units are measured by their own size.

    >>> L1(2.0, relative=False)(torch.tensor([[1.0, -3.0]]), torch.zeros(1, 1), abs)
    tensor([8.])
    """

    relative: bool = True

    @property
    def couples(self) -> bool:
        return self.relative

    def __call__(self, z: Tensor, seen: Tensor, encode: Encode) -> Tensor:
        size = z.flatten(1).abs()
        if self.relative:
            size = size / size.square().mean(0).clamp(min=_LEAST).sqrt()
        return self.factor * size.sum(1)


@dataclass(frozen=True)
class Sparsity(Penalty):
    r"""Units that are rarely on: `weight * sum_j KL(Bernoulli(target) || Bernoulli(a_j))`.

    `a_j` is the mean of unit j over the batch, so units must lie in (0, 1): fit with
    `activation=Sigmoid`. Source: Lee, Ekanadham, Ng, "Sparse deep belief net model for visual
    area V2", 2008; the KL form is Ng's, "Sparse autoencoder", 2011.

    Args:
        weight: of the sum, in nats.
        target: the mean that units are held to, between 0 and 1.

    Raises:
        UserError: options out of range; before the first step, codes outside (0, 1).

    >>> Sparsity(1.0, target=0.5)(torch.full((4, 3), 0.5), torch.zeros(4, 1), abs)
    tensor([0., 0., 0., 0.])
    """

    target: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.target < 1:
            raise UserError(f"Sparsity: target={self.target!r} must lie between 0 and 1")

    @property
    def couples(self) -> bool:
        return True

    def check_model(self, model: Any) -> None:
        if not isinstance(model.activation, nn.Sigmoid):
            raise UserError(
                "Sparsity compares mean activations with a probability, and these codes take any "
                "value; build the model with activation=Sigmoid (--activation Sigmoid), or use L1"
            )

    def __call__(self, z: Tensor, seen: Tensor, encode: Encode) -> Tensor:
        mean = z.flatten(1).mean(0).clamp(_BELOW_ONE, 1 - _BELOW_ONE)
        target = mean.new_tensor(self.target)
        kl = torch.xlogy(target, target / mean)
        kl = kl + torch.xlogy(1 - target, (1 - target) / (1 - mean))
        return self.factor * kl.sum().expand(len(z))


@dataclass(frozen=True)
class Contractive(Penalty):
    r"""Codes that move little with their rows: `weight * ||dz/dx||_F^2`.

    x is what the encoder reads, scaled to order one. An encoder that halves its codes, and a
    decoder that doubles them, lower the plain norm without being any smoother; with `relative`
    every unit is measured by its variance over the batch, `weight * sum_j |dz_j/dx|^2 / var_j`.
    Up to `exact` units the Jacobian is taken as it is, one backward pass a unit; beyond by
    Hutchinson's estimate `E |J'v|^2`, `v ~ N(0, I)`, unbiased, with `probes` passes. Sources:
    Rifai, Vincent, Muller, Glorot, Bengio, "Contractive Auto-Encoders", 2011 (tied weights, which
    fix the scale); Hutchinson, "A stochastic estimator of the trace of the influence matrix",
    1989.

    Args:
        weight: of the norm, in nats.
        relative: whether units are measured by their own variance.
        exact: most units of a code whose Jacobian is taken exactly.
        probes: draws of v beyond.

    Raises:
        UserError: options out of range.

    >>> x = torch.randn(5, 3)
    >>> Contractive(1.0, relative=False)(2 * x, x, lambda x: 2 * x)
    tensor([12., 12., 12., 12., 12.])
    """

    relative: bool = True
    exact: int = 32
    probes: int = 1
    second_order = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "exact", least=0)
        check_count(self, "probes")

    @property
    def couples(self) -> bool:
        return self.relative

    def __call__(self, z: Tensor, seen: Tensor, encode: Encode) -> Tensor:
        z = z.flatten(1)
        size = torch.ones_like(z[0])
        if self.relative and len(z) > 1:
            size = z.var(0, correction=0).clamp(min=_LEAST).sqrt()
        return self.factor * self.squared_norm(seen, encode, size)

    def squared_norm(self, seen: Tensor, encode: Encode, size: Tensor) -> Tensor:
        """`sum_j |dz_j/dx|^2 / size_j^2` of every row, (B,), exact or estimated."""
        with torch.enable_grad():
            seen = seen.detach().requires_grad_()
            z = encode(seen).flatten(1)
            if len(size) <= self.exact:
                return _sum(_slopes(z[:, j], seen) / size[j] ** 2 for j in range(len(size)))
            drawn = (torch.randn_like(z) / size for _ in range(self.probes))
            return _sum(_slopes((z * v).sum(1), seen) for v in drawn) / self.probes


def _slopes(values: Tensor, seen: Tensor) -> Tensor:
    """`|d values_i / d seen_i|^2` of every row, (B,): rows do not see each other."""
    (slope,) = torch.autograd.grad(values.sum(), seen, create_graph=True)
    return slope.flatten(1).square().sum(1)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum(0)
