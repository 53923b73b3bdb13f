"""Objectives: what a training step maximises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from latently.errors import UserError
from latently.inference.particles import Particles
from latently.inference.rows import Rows

__all__ = ["Objective", "Terms", "check_density", "terms_of"]


class Terms(NamedTuple):
    """Per-example results of an objective, each (B,), in nats.

    `bound` is what is maximised, a bound of log p(x) if the objective `is_bound`; the other two
    are the shares that curves show.
    """

    bound: Tensor
    reconstruction: Tensor
    kl: Tensor


class Objective(ABC):
    """A number per example to maximise, as a function of model, data and step.

    Attributes:
        samples: draws per row; None: as suits the data (`suited`).
        cost: what the history calls the share of `Terms.kl`.
    """

    samples: int | None = 1
    cost: ClassVar[str] = "kl"

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None,
        context: Tensor | None,
        step: Tensor,
        total: int,
    ) -> Terms:
        """The terms of rows x (B, *X) at a 0-d `step` of a run of `total` steps."""
        return self.terms(model, Rows(x, mask, context), step, total)

    @abstractmethod
    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        """The terms of the rows at a 0-d `step` of a run of `total` steps."""

    @property
    def is_bound(self) -> bool:
        """Whether its mean is a lower bound of log p(x), at every step: else none is claimed."""
        return False

    @property
    def couples(self) -> bool:
        """Whether the terms of a row depend on the other rows of its batch."""
        return False

    def suited(self, rows: int) -> Objective:
        """This objective for a run on so many rows, nothing that depends on them left open."""
        return self

    def of_rows(self, rows: int) -> Objective:
        """This objective for batches of a data set of so many rows."""
        return self

    def of_data(self, data: Any) -> Objective:
        """This objective for training on these rows, which are where the run computes.

        Raises:
            UserError: rows that it cannot be trained on.
        """
        return self.of_rows(len(data))

    def habits(self, rows: int) -> Mapping[str, Any]:
        """The options of a run on so many rows where the caller of `fit` says nothing of them.

        Its length ("epochs" or "steps"), "batch_size" and "learning_rate"; and "patience" in
        epochs, for runs of that length that have validation rows.
        """
        return {"epochs": 50, "batch_size": 100, "learning_rate": 1e-3}

    def check_rows(self, rows: int) -> None:
        """Raises UserError for a batch of too few rows."""
        return None

    def check_model(self, model: Any) -> None:
        """Raises UserError for a model that it cannot train, before the first step."""
        return None

    def complaints(self, model: Any) -> Iterable[str]:
        """What a reader should know of training this model by it, a line each."""
        return ()

    def size(self, rows: int, cells: int, latents: int) -> int:
        """Numbers that a step holds at once, in its order of magnitude."""
        return (self.samples or 1) * rows * cells


def check_density(model: Any) -> None:
    """Refuses a model without a density, whose log p(x) nothing bounds.

    Raises:
        UserError: it has none.
    """
    if model.density is None:
        raise UserError(
            f"{type(model).__name__} has no density, so there is no bound to maximise; leave "
            f"the objective out, or use {model.objective}"
        )


def terms_of(bound: Tensor, p: Particles) -> Terms:
    """The terms of a bound on particles, with the shares that its curves show."""
    return Terms(bound, p.average(p.log_lik.detach()), p.average(p.divergence.detach()))
