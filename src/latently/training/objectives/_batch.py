"""Objectives that compare the rows of a batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError
from latently.inference.particles import Particles
from latently.inference.rows import Rows
from latently.probability.conditional import draw
from latently.training.objectives.base import Objective, check_density

__all__ = ["OfBatch"]


class OfBatch(Objective):
    """An objective that compares the rows of a batch, by plain pathwise gradients."""

    @property
    def couples(self) -> bool:
        return True

    def check_rows(self, rows: int) -> None:
        if rows < 2:
            raise UserError(
                f"{type(self).__name__} compares the rows of a batch and was given {rows}; it "
                "needs at least 2, so raise batch_size, or give more rows"
            )

    def check_model(self, model: Any) -> None:
        check_density(model)

    def _infer(self, model: Any, rows: Rows) -> tuple[Particles, Distribution]:
        """Particles, and the posterior that the last of their draws are from."""
        x, mask, context = rows
        self.check_rows(len(x))
        drawn_from: list[Distribution] = []

        def draw_and_keep(q: Distribution, samples: int) -> Tensor:
            drawn_from.append(q)
            return draw(q, samples)

        p = model.infer(x, self.samples, mask, context, draw=draw_and_keep)
        for z, log_q in zip(p.z, p.log_q, strict=True):
            if log_q.requires_grad and not z.requires_grad:
                raise UserError(
                    f"{type(self).__name__} needs reparameterised draws, and this posterior has "
                    "none: its encoder's gradient would be biased; choose a posterior such as "
                    "Normal"
                )
        if not p.z:
            raise UserError(f"{type(self).__name__}: {type(model).__name__} has no latents")
        return p, drawn_from[-1]
