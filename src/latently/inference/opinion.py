r"""A second opinion: two independent lower bounds of log p(x) on the same rows.

Both say `log p(x) >= L`, so the higher one is nearer, and by how much it is higher the other one
lacks at least. Bounds that agree may both be loose, but for different reasons: importance weights
fail where the encoder misses a part of the posterior, annealed chains where they are too short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
        difference: second minus first, mean over rows, in nats.
    """

    first: Evidence
    second: Evidence
    difference: Number

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the two say together, in a line."""
        d, error = self.difference.value, self.difference.mc_stderr
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

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "difference": self.difference.to_dict(),
            "findings": [dict(vars(found)) for found in self.findings],
        }

    def __str__(self) -> str:
        told = [f"- {line}" for one in (self.first, self.second) for line in one.warnings]
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
    difference = mean_of(
        f"{other.method} - {one.method}",
        other.values - one.values,
        "exact" if one.kind == other.kind == "exact" else "estimate",
        mc_variance=(one.mc_variance + other.mc_variance).nan_to_num(0.0),
    )
    return Opinion(one, other, difference)


def _why(low: Evidence) -> str:
    """What makes a bound loose, by its kind."""
    if low.k_hat is not None and low.heavy_rows:
        return (
            f"its weights are heavy in {low.heavy_rows} of {len(low)} rows; raise the samples, or "
            "train the encoder longer"
        )
    return "take more samples or steps of it"
