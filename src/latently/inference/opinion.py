r"""A second opinion: two independent lower bounds of log p(x) on the same rows.

Both say `log p(x) >= L`, so the higher one is nearer, and by how much it is higher the other one
lacks at least. Bounds that agree may both be loose, but for different reasons: importance weights
fail where the encoder misses a part of the posterior, annealed chains where they are too short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._findings import Finding
from latently.inference.evidence import DataLike, Evidence, as_evaluated, evaluate
from latently.inference.methods.ais import AIS
from latently.inference.methods.base import Method, Progress
from latently.inference.methods.importance import ImportanceSampling
from latently.inference.number import Number, mean_of

__all__ = ["Opinion", "second_opinion"]

AGREE = 0.5  # nats a row


@dataclass(frozen=True)
class Opinion:
    """Two methods on the same rows.

    Attributes:
        first: evidence by the first method.
        second: evidence by the second.
        difference: second minus first, mean over rows, in nats; its Monte Carlo error is NaN where
            a method has a single draw, which says nothing of its error.
    """

    first: Evidence
    second: Evidence
    difference: Number

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the two say together, in a line."""
        d, error = self.difference.value, self.difference.mc_stderr
        if not math.isfinite(d + error):
            return (Finding("note", "second opinion", self._untold()),)
        low, high = sorted((self.first, self.second), key=lambda one: one.nats)
        if abs(d) <= AGREE:
            text = f"{self.second.method} and {self.first.method} agree within {AGREE} nats"
            return (Finding("note", "second opinion", f"{text} ({d:+.2f}, MC +-{error:.2g})"),)
        lacks = abs(d) - 2 * error
        if low.kind == "lower_bound":
            text = f"{low.method} lacks at least {lacks:.2f} nats of {high.method}: {_why(low)}"
        else:
            text = f"{high.method} is {abs(d):.2f} nats above {low.method}"
        return (Finding("alarm", "bounds apart", text),)

    def _untold(self) -> str:
        """Why the difference has nothing to say."""
        d, names = self.difference.value, f"{self.second.method} and {self.first.method}"
        if not math.isfinite(d):
            return f"{names} cannot be compared where log p(x) is not finite; leave such rows out"
        return (
            f"{names} differ by {d:+.2f} nats, and a single draw has no Monte Carlo error to hold "
            "that against; take 2 or more"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "difference": self.difference.to_dict(),
            "findings": [dict(vars(found)) for found in self.findings],
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know of each method; what to do about it is in the findings."""
        both = (self.first, self.second)
        lines = [line.removesuffix("; raise --samples") for one in both for line in one.warnings]
        return tuple(dict.fromkeys(lines))

    def __str__(self) -> str:
        told = [f"- {line}" for line in self.warnings]
        lines = [self.first, self.second, self.difference, *told, *self.findings]
        return "\n".join(map(str, lines))


def second_opinion(
    model: Any,
    data: DataLike,
    first: Method | None = None,
    second: Method | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Opinion:
    """Evidence of the same rows by two methods.

    Args:
        model: a model with a density; AIS needs continuous latents.
        data: the rows, few of them: AIS takes about a second a row.
        first: `ImportanceSampling(5000)` if None.
        second: `AIS()` if None.
        seed: of the draws.
        progress: called with (rows done, rows) of both methods together.

    Raises:
        UserError: a method refuses the model, or both are the same.
    """
    methods = first or ImportanceSampling(5000), second or AIS()
    if methods[0] == methods[1]:
        raise UserError(f"{methods[0].name} twice is no second opinion; give two methods")
    data = as_evaluated(model, data)
    n = len(data.x)
    found = []
    for at, method in enumerate(methods):

        def ticked(done: int, total: int, at: int = at) -> None:
            if progress:
                progress(at * n + done, 2 * n)

        found.append(evaluate(model, data, method, seed=seed, progress=ticked))
    one, other = found
    values, copies = other.values - one.values, _copies(data)
    variance = torch.where(values.isfinite(), one.mc_variance + other.mc_variance, 0.0)
    difference = mean_of(
        f"{other.method} - {one.method}",
        values,
        "exact" if one.kind == other.kind == "exact" else "estimate",
        mc_variance=variance * copies,
    )
    return Opinion(one, other, difference)


def _copies(data: DataLike) -> Tensor:
    """How many rows are equal to each, (n,): they share their draws, so that their errors add."""
    x = data.x if data.mask is None else torch.where(data.mask, data.x, torch.inf)
    parts = [x.double().flatten(1)]
    parts += [] if data.context is None else [data.context.double()]
    _, group, count = torch.unique(
        torch.cat(parts, 1).cpu(), dim=0, return_inverse=True, return_counts=True
    )
    return count[group].double()


def _why(low: Evidence) -> str:
    """What makes a bound loose, by its kind."""
    if low.k_hat is not None and low.heavy_rows:
        return (
            f"its weights are heavy in {low.heavy_rows} of {len(low)} rows; raise the samples, or "
            "train the encoder longer"
        )
    return "take more samples or steps of it"
