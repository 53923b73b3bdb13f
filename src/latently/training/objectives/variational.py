"""A bound of log p(x) and the way it is differentiated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latently.errors import UserError
from latently.inference.bounds import ELBO, Bound
from latently.inference.estimators import Estimator, Reparam
from latently.inference.rows import Rows
from latently.inference.schedules import resolve
from latently.training.objectives.base import Objective, Terms, check_density, terms_of

__all__ = ["Variational"]


@dataclass(frozen=True)
class Variational(Objective):
    """A bound of log p(x) and the way it is differentiated.

    Args:
        bound: what is maximised, e.g. IWAE.
        estimator: how it is differentiated, e.g. DReG.
        samples: K, draws per example.

    Raises:
        UserError: fewer than one sample, a bound or estimator that is not one (`IWAE` in place of
            `IWAE()`), a pair that biases the gradient, or samples that the bound does not take.

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
        self.bound.check(self.samples, states=self.estimator.gradient == "exact")

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        bound = resolve(self.bound, step, total)
        estimator = resolve(self.estimator, step, total)
        how: dict[str, Any] = {"gradient": estimator.gradient, "draw": estimator.draw}
        x, mask, context = rows
        p = model.infer(x, self.samples, mask, context, **how)
        surrogate, p = estimator(bound, p), estimator.drawn(p)
        return terms_of(surrogate, p)

    def check_model(self, model: Any) -> None:
        check_density(model)

    @property
    def is_bound(self) -> bool:
        return self.bound.is_bound and not self.estimator.relaxes

    @property
    def couples(self) -> bool:
        return self.bound.couples
