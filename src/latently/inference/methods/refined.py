"""The importance weighted bound by a q that was refined for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._mode import evaluating
from latently.inference.methods.base import Kind, Method, Progress, Scores
from latently.inference.methods.importance import ImportanceSampling
from latently.inference.options import check_count
from latently.inference.particles import Particles
from latently.inference.refine import STEPS, Local, Refinement
from latently.inference.rows import Rows

__all__ = ["Refined"]


@dataclass(frozen=True)
class Refined(Method):
    r"""The importance weighted bound with K draws from a q refined for each row.

    q is first fitted to the row (`refine`, from the encoder's q), then serves as the proposal of
    `ImportanceSampling`. It is searched with other draws than those the weights are of, so the
    value is a lower bound of log p(x) on average, as with any q that does not know its draws. It
    is the tighter the closer q comes to p(z|x): with few draws by about the amortisation gap.

    Args:
        samples: K, the number of draws per row that are weighted.
        steps: of the search, per row.

    Raises:
        UserError: fewer than one sample or step, or a model without a density.

    >>> Refined(samples=100).name
    'refined IWAE K=100'
    """

    kind: ClassVar[Kind] = "lower_bound"
    samples: int = 1000
    steps: int = STEPS

    def __post_init__(self) -> None:
        check_count(self, "samples")
        check_count(self, "steps")

    @property
    def weighs(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return f"refined {ImportanceSampling(self.samples).name}"

    def scores(
        self,
        model: Any,
        rows: Rows,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        weighted = ImportanceSampling(self.samples)
        if not model.local(0):
            return weighted.scores(model, rows, seed=seed, progress=progress)
        if model.density is None:
            raise UserError(model.no_density)
        search, found = Refinement(steps=self.steps), []
        with evaluating(model):
            for i, row in enumerate(rows.singles()):
                own = At(model, search(model, row, seed))
                found.append(weighted.scores(own, row, seed=seed))
                if progress:
                    progress(i + 1, len(rows.x))
        return _joined(found) if found else weighted.scores(model, rows, seed=seed)


@dataclass(frozen=True)
class At:
    """A model whose q is that of one row's own local parameters."""

    model: Any
    local: Local

    @property
    def density(self) -> Any:
        return self.model.density

    def infer(
        self,
        x: Tensor,
        samples: int = 1,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        **how: Any,
    ) -> Particles:
        return self.model.infer(x, samples, mask, context, local=self.local or None, **how)


def refined_weights(model: Any, row: Rows, own: Local, samples: int, seed: int) -> Tensor:
    """K log-weights of one row at its local parameters, (K,), as `ImportanceSampling` has them."""
    with torch.no_grad():
        return ImportanceSampling(samples).log_weights(At(model, own), row, seed)


def _joined(found: Sequence[Scores]) -> Scores:
    """The scores of single rows, of all of them."""

    def column(name: str) -> Any:
        parts = [getattr(scores, name) for scores in found]
        return None if parts[0] is None else torch.cat(parts)

    notes = dict.fromkeys(note for scores in found for note in scores.notes)
    return Scores(
        values=column("values"),
        mc_variance=column("mc_variance"),
        ess=column("ess"),
        k_hat=column("k_hat"),
        notes=tuple(notes),
    )
