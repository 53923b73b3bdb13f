"""A number that says what it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Number", "mean_of"]

Nature = Literal["exact", "lower_bound", "upper_bound", "estimate"]
_SIGN = {"exact": "=", "lower_bound": ">=", "upper_bound": "<=", "estimate": "~"}
_WORDS = {
    "exact": "exact",
    "lower_bound": "lower bound",
    "upper_bound": "upper bound",
    "estimate": "estimate",
}


@dataclass(frozen=True)
class Number:
    """A value with its kind, unit and errors.

    Attributes:
        name: what it is of, e.g. "KL(q(z|x) || p(z))".
        value: the number.
        kind: exact, a lower bound, an upper bound or an estimate (of unknown direction).
        unit: e.g. "nats"; "" for a pure number.
        stderr: standard error over the rows of the data; NaN where there is none.
        mc_stderr: standard error of the Monte Carlo draws on these rows; 0 where there are none.
        method: how it was found, in a few words.

    >>> print(Number("rate", 21.5, "exact", stderr=0.125))
    rate = 21.50 +- 0.12 nats (exact)
    """

    name: str
    value: float
    kind: Nature
    unit: str = "nats"
    stderr: float = math.nan
    mc_stderr: float = 0.0
    method: str = ""

    def __str__(self) -> str:
        spread = "" if math.isnan(self.stderr) else f" +- {self.stderr:.2f}"
        about = [_WORDS[self.kind], self.method]
        about += [f"MC +-{self.mc_stderr:.2g}"] if self.mc_stderr else []
        unit = f" {self.unit}" if self.unit else ""
        detail = ", ".join(part for part in about if part)
        return f"{self.name} {_SIGN[self.kind]} {self.value:.2f}{spread}{unit} ({detail})"

    def to_dict(self) -> dict[str, Any]:
        """All fields for JSON, which has no NaN: what is not finite is None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in vars(self).items()
        }


def mean_of(
    name: str,
    values: Tensor,
    kind: Nature,
    *,
    mc_variance: Tensor | None = None,
    unit: str = "nats",
    method: str = "",
) -> Number:
    """The mean of per-row values (n,), whose Monte Carlo variances (n,) are independent."""
    n = len(values)
    values = values.double()
    mc = 0.0 if mc_variance is None else float(mc_variance.double().sum().sqrt() / n)
    stderr = float(values.std() / math.sqrt(n)) if n > 1 else math.nan
    return Number(name, float(torch.mean(values)), kind, unit, stderr, mc, method)
