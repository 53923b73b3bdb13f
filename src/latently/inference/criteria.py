"""Information criteria: likelihood of the training rows less a price per parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from latently.errors import UserError
from latently.inference.evidence import DataLike, evaluate

__all__ = ["Criteria", "information_criteria"]


@dataclass(frozen=True)
class Criteria:
    r"""AIC and BIC of a model fitted by maximum likelihood. Lower is better.

    `AIC = 2 d - 2 log L`, `BIC = d log n - 2 log L`, with log L the sum of log p(x) over the n
    rows that the model was *fitted* to, in nats, and d its free parameters. They rank models of
    the same rows. In mixtures and factor models the theory behind them holds only roughly: rows
    held out are the safer judge. Sources: Akaike, "A new look at the statistical model
    identification", 1974; Schwarz, "Estimating the dimension of a model", 1978.

    Attributes:
        log_likelihood: log L, in nats.
        parameters: d.
        rows: n.

    >>> Criteria(log_likelihood=-100.0, parameters=3, rows=50).aic
    206.0
    """

    log_likelihood: float
    parameters: int
    rows: int

    @property
    def aic(self) -> float:
        """`2 d - 2 log L`."""
        return 2 * self.parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """`d log n - 2 log L`."""
        return self.parameters * math.log(self.rows) - 2 * self.log_likelihood

    def __str__(self) -> str:
        return f"AIC {self.aic:.1f}, BIC {self.bic:.1f}, {self.parameters:,} parameters"


def information_criteria(model: Any, data: DataLike) -> Criteria:
    """AIC and BIC of a model with an exact density, on the rows that it was fitted to.

    Raises:
        UserError: a model that was not fitted in closed form or by EM, or has a bound only.
    """
    parameters = model.degrees()
    if parameters is None:
        raise UserError(
            f"{type(model).__name__} is not fitted by maximum likelihood with a known number of "
            "parameters, so AIC and BIC say nothing; compare on held-out rows"
        )
    if model.density != "exact":
        raise UserError(
            f"{type(model).__name__} has a bound of log p(x) only, of which AIC and BIC are not "
            "known; compare on held-out rows"
        )
    evidence = evaluate(model, data)
    return Criteria(float(evidence.values.sum()), parameters, len(evidence))
