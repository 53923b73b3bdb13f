"""The importance weighted bound for tables with holes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latently.inference.bounds import IWAE, Bound
from latently.inference.estimators import Estimator, Reparam
from latently.inference.rows import Rows
from latently.inference.schedules import Cosine
from latently.training.objectives.base import Objective, Terms
from latently.training.objectives.variational import Variational

__all__ = ["MIWAE"]

_STEPS, _BATCH = 2000, 64
_WAITS = (
    1000  # steps without a better validation value: a few hundred rows are soon known by heart
)


@dataclass(frozen=True)
class MIWAE(Objective):
    r"""The bound of log p(x_observed) by K draws, trained as suits tables of some thousand rows.

        E[ log (1/K) sum_k p(x_o | z_k) p(z_k) / q(z_k | x_o) ],    z_k ~ q(z | x_o)

    in nats. Missing cells enter neither p nor q, so that the bound is right wherever what is
    missing does not depend on what is not seen (missing at random). Source: Mattei, Frellsen,
    "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets", 2019. (Others call
    the multiply importance weighted autoencoder of Rainforth et al. by the same letters.)

    Args:
        bound: what is maximised.
        estimator: how it is differentiated.
        samples: K, draws per row.

    Raises:
        UserError: as `Variational` does.
    """

    bound: Bound = IWAE()  # noqa: RUF009  (frozen)
    estimator: Estimator = Reparam()  # noqa: RUF009
    samples: int = 20

    def __post_init__(self) -> None:
        self._whole()

    def _whole(self) -> Variational:
        return Variational(self.bound, self.estimator, self.samples)

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        return self._whole().terms(model, rows, step, total)

    def check_model(self, model: Any) -> None:
        self._whole().check_model(model)

    def habits(self, rows: int) -> Mapping[str, Any]:
        return {
            "steps": _STEPS,
            "batch_size": _BATCH,
            "learning_rate": Cosine(2e-3),
            "patience": math.ceil(_WAITS / math.ceil(rows / _BATCH)),
        }

    @property
    def is_bound(self) -> bool:
        return self._whole().is_bound

    @property
    def couples(self) -> bool:
        return self._whole().couples
