"""The importance weighted bound for tables with holes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from latently.inference.bounds import IWAE, Bound
from latently.inference.estimators import Estimator, Reparam
from latently.inference.rows import Rows
from latently.inference.schedules import Cosine
from latently.training.objectives.base import Objective, Terms
from latently.training.objectives.variational import Variational

__all__ = ["MIWAE"]

_MANY = 2000  # rows, from which on a batch is larger and its bound looser, at the same cost
_WAITS = 1000  # steps without a better validation value: few rows are soon known by heart


class _Habits(NamedTuple):
    """What a table of some length is trained by."""

    steps: int
    batch: int
    samples: int
    rate: float

    @classmethod
    def of(cls, rows: int) -> _Habits:
        return cls(1600, 64, 20, 2.5e-3) if rows < _MANY else cls(1300, 256, 5, 8e-3)


@dataclass(frozen=True)
class MIWAE(Objective):
    r"""The bound of log p(x_observed) by K draws, trained as suits tables of some thousand rows.

        E[ log (1/K) sum_k p(x_o | z_k) p(z_k) / q(z_k | x_o) ],    z_k ~ q(z | x_o)

    in nats. Missing cells enter neither p nor q, so that the bound is right wherever what is
    missing does not depend on what is not seen (missing at random). Source: Mattei, Frellsen,
    "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets", 2019. (Others call
    the multiply importance weighted autoencoder of Rainforth et al. by the same letters.)

    A step takes 64 rows and 20 draws of each; of 2,000 rows and more, whose gradients differ by
    the rows above all, 256 rows and 5 draws, at three times the rate.

    Args:
        bound: what is maximised.
        estimator: how it is differentiated.
        samples: K, draws per row; None: 20, or 5 for 2,000 rows and more.

    Raises:
        UserError: as `Variational` does.
    """

    bound: Bound = IWAE()  # noqa: RUF009  (frozen)
    estimator: Estimator = Reparam()  # noqa: RUF009
    samples: int | None = None

    def __post_init__(self) -> None:
        self._whole()

    def _whole(self) -> Variational:
        samples = _Habits.of(0).samples if self.samples is None else self.samples
        return Variational(self.bound, self.estimator, samples)

    def suited(self, rows: int) -> MIWAE:
        given = self.samples is not None
        return self if given else replace(self, samples=_Habits.of(rows).samples)

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        return self._whole().terms(model, rows, step, total)

    def check_model(self, model: Any) -> None:
        self._whole().check_model(model)

    def habits(self, rows: int) -> Mapping[str, Any]:
        usual = _Habits.of(rows)
        return {
            "steps": usual.steps,
            "batch_size": usual.batch,
            "learning_rate": Cosine(usual.rate),
            "patience": math.ceil(_WAITS / math.ceil(rows / usual.batch)),
        }

    def size(self, rows: int, cells: int, latents: int) -> int:
        return self._whole().size(rows, cells, latents)

    @property
    def is_bound(self) -> bool:
        return self._whole().is_bound

    @property
    def couples(self) -> bool:
        return self._whole().couples
