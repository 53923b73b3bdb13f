"""Objectives: what a training step maximises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from latently.errors import UserError
from latently.inference.bounds import ELBO, Bound
from latently.inference.estimators import Estimator, Reparam
from latently.inference.schedules import resolve

__all__ = ["Objective", "Terms", "Variational"]


class Terms(NamedTuple):
    """Per-example results of an objective, each (B,), in nats.

    `bound` is what is maximised; the other two are the shares that curves show.
    """

    bound: Tensor
    reconstruction: Tensor
    kl: Tensor


class Objective(ABC):
    """A number per example to maximise, as a function of model, data and step."""

    @abstractmethod
    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None,
        context: Tensor | None,
        step: Tensor,
        total: int,
    ) -> Terms:
        """The terms at a 0-d `step` of a run of `total` steps."""


@dataclass(frozen=True)
class Variational(Objective):
    """A bound of log p(x) and the way it is differentiated.

    Args:
        bound: what is maximised, e.g. IWAE.
        estimator: how it is differentiated, e.g. DReG.
        samples: K, draws per example.

    Raises:
        UserError: fewer than one sample, a bound or estimator that is not one (`IWAE` in place of
            `IWAE()`), or a pair that biases the gradient.

    >>> from latently.inference import DReG, IWAE
    >>> Variational(IWAE(), DReG(), samples=5).samples
    5
    """

    bound: Bound = ELBO()  # noqa: RUF009  (frozen)
    estimator: Estimator = Reparam()  # noqa: RUF009
    samples: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise UserError(f"samples={self.samples!r} must be at least 1, a whole number")
        if not isinstance(self.bound, Bound):
            raise UserError(f"bound={self.bound!r} must be a built bound, such as IWAE()")
        if not isinstance(self.estimator, Estimator):
            raise UserError(f"estimator={self.estimator!r} must be a built one, such as DReG()")
        self.estimator.check(self.bound)
        if self.samples < self.estimator.least:
            raise UserError(
                f"samples={self.samples}: {type(self.estimator).__name__} needs at least "
                f"{self.estimator.least} draws per row; raise samples"
            )

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None,
        context: Tensor | None,
        step: Tensor,
        total: int,
    ) -> Terms:
        bound = resolve(self.bound, step, total)
        estimator = resolve(self.estimator, step, total)
        how: dict[str, Any] = {"gradient": estimator.gradient, "draw": estimator.draw}
        p = model.infer(x, self.samples, mask, context, **how)
        surrogate, p = estimator(bound, p), estimator.drawn(p)
        return Terms(
            surrogate,
            p.average(p.log_lik.detach()),
            p.average(p.divergence.detach()),
        )
