r"""Where the ELBO loses: what q's family cannot express, and what the encoder does not find.

With q the encoder's posterior and q* one refined for the row (`refine`),

    log p(x) - ELBO(q)  =  log p(x) - ELBO(q*)  +  ELBO(q*) - ELBO(q)
    total               =  approximation        +  amortisation

The total is KL(q || p(z|x)), the approximation gap KL(q* || p(z|x)). Source: Cremer, Li,
Duvenaud, "Inference Suboptimality in Variational Autoencoders", 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._mode import evaluating
from latently.inference.estimators import FEW_STATES, Enumerate
from latently.inference.evidence import DataLike, as_evaluated, given_of
from latently.inference.methods.base import Method, Progress, Scores
from latently.inference.methods.enumeration import Enumeration
from latently.inference.methods.exact import Exact
from latently.inference.methods.refined import Refined, refined_weights
from latently.inference.number import Nature, Number, mean_of
from latently.inference.refine import STEPS, Local, Refinement
from latently.inference.rows import Rows

__all__ = ["Gaps", "compare_gaps", "gaps"]

SAMPLES = 5000
_TITLES = {
    "log_p": "log p(x)",
    "elbo": "ELBO of the encoder's q",
    "refined_elbo": "ELBO of the refined q*",
    "total": "total gap",
    "approximation": "approximation gap",
    "amortisation": "amortisation gap",
}
_GAPS = ("total", "approximation", "amortisation")
_OF_LOG_P = ("log_p", "total", "approximation")


@dataclass(frozen=True)
class Gaps:
    r"""The parts of `log p(x) - ELBO(q)` on average, in nats, and of every row.

    `total = approximation + amortisation`, on average and row by row. They are those of the q*
    that was found. A search may stop short of the best q of the family, whose approximation gap
    is then smaller, and the amortisation gap larger by as much.

    Where log p(x) is a lower bound, so are the total and the approximation gap. ELBOs and the
    amortisation gap are averages over draws, which err to either side: estimates, with their
    Monte Carlo error.

    Attributes:
        log_p: mean log p(x).
        elbo: mean ELBO of the encoder's q.
        refined_elbo: mean ELBO of q*.
        total: mean of log p(x) - ELBO(q).
        approximation: mean of log p(x) - ELBO(q*).
        amortisation: mean of ELBO(q*) - ELBO(q).
        values: the six of every row, by name, (n,) each, float64.
        mc_variance: the Monte Carlo variance of each of them.
        samples: draws per row of an ELBO; 0 where it is a sum over states, or exact.
        steps: of the search of q*.
        protocol: the data set with its protocol and split.
        seed: of the draws.
    """

    log_p: Number
    elbo: Number
    refined_elbo: Number
    total: Number
    approximation: Number
    amortisation: Number
    values: dict[str, Tensor]
    mc_variance: dict[str, Tensor]
    samples: int
    steps: int
    protocol: str
    seed: int = 0

    def __len__(self) -> int:
        return len(self.values["log_p"])

    @property
    def numbers(self) -> dict[str, Number]:
        """The six means by name."""
        return {name: getattr(self, name) for name in _TITLES}

    def to_dict(self) -> dict[str, Any]:
        """All but the single rows, for JSON."""
        about = {"n": len(self), "protocol": self.protocol, "seed": self.seed}
        about |= {"samples": self.samples, "steps": self.steps}
        return about | {name: number.to_dict() for name, number in self.numbers.items()}

    def __str__(self) -> str:
        rows = "" if self.protocol.endswith(" rows") else f", {len(self)} rows"
        head = f"{self.protocol}{rows}, nats a row"
        return "\n".join([head, *_table(self.numbers)])


class _Part(NamedTuple):
    """One of log p(x) and the two ELBOs of a row.

    `influence` is by how much a draw moves it, times K, (K,): the Monte Carlo variance of a sum
    of parts is that of its summed influences, over K, plus that of draws apart.
    """

    value: float
    influence: Tensor
    apart: float = 0.0
    exact: bool = False

    def __sub__(self, other: _Part) -> _Part:
        influence = self.influence - other.influence
        return _Part(self.value - other.value, influence, self.apart + other.apart)

    @property
    def variance(self) -> float:
        spread = float(self.influence.var()) if len(self.influence) > 1 else 0.0
        return spread / max(len(self.influence), 1) + self.apart


_NO_DRAWS = torch.zeros(1, dtype=torch.float64)


def gaps(
    model: Any,
    data: DataLike,
    *,
    method: Method | None = None,
    samples: int = SAMPLES,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Gaps:
    r"""The approximation and the amortisation gap of a model on a data set.

    ELBO(q) and ELBO(q*) are means of `log w` over K common draws (the same noise), so most of
    their error is gone from the difference. Without a `method`, log p(x) is exact where the model
    has a closed form or at most 1,024 latent states, else the importance weighted bound of the
    K draws from q*, the same draws again: an error that it shares with ELBO(q*) is gone from the
    approximation gap. Of few states the ELBOs are sums, without draws. Where q is exact, and where
    nothing can be refined, the amortisation gap is 0.

    Args:
        model: any model with a density.
        data: rows, mask, context and protocol name.
        method: how log p(x) is found.
        samples: K, draws per row, at least 2.
        steps: of the search of q*; see `refine`.
        seed: of the draws.
        progress: called with (rows done, rows).

    Raises:
        UserError: no density, no rows or rows of another kind, or options out of range.

    >>> from latently import Data, ppca
    >>> found = gaps(ppca((3,), latents=1), Data.from_array(torch.randn(5, 3)))
    >>> print(found.total)
    total gap = 0.00 +- 0.00 nats (exact)
    """
    plan = _Plan(samples, steps, seed)
    data = as_evaluated(model, data)
    if model.density is None or not len(data.x):
        why = "no density" if model.density is None else "no rows to look at"
        raise UserError(f"gaps: {type(model).__name__} has {why}")
    every = Rows(data.x, data.mask, data.context)
    method = method or _known(model)
    sums = _summed(model)
    found = []
    kinds = _natures(model, method, sums)
    with evaluating(model):
        scores = None if method is None else method.scores(model, every, seed=seed)
        for i, row in enumerate(every.singles()):
            given = None if scores is None else _given(scores, i, kinds["log_p"])
            found.append(_with_gaps(plan.parts(model, row, given, sums)))
            if progress:
                progress(i + 1, len(data.x))
    return _collected(found, kinds, method, plan, data)


def compare_gaps(train: Gaps, test: Gaps) -> dict[str, Number]:
    r"""How well an encoder does on rows that it was not fitted to: gaps of test minus train.

    An amortisation gap that is larger on test rows is the part of over-fitting that is the
    encoder's alone. Rows differ, so errors add in squares.

    Returns:
        total, approximation and amortisation, each a `Number`. A difference of bounds has no
        direction and is an estimate.

    Raises:
        UserError: two sets of gaps of the same rows' name.
    """
    if train.protocol == test.protocol:
        raise UserError(
            f"compare_gaps: both are of {test.protocol}; give those of other rows, such as train "
            "and test"
        )
    return {name: _difference(getattr(test, name), getattr(train, name)) for name in _GAPS}


def _difference(test: Number, train: Number) -> Number:
    exact = test.kind == train.kind == "exact"
    return Number(
        f"{test.name}, test minus train",
        test.value - train.value,
        "exact" if exact else "estimate",
        stderr=math.hypot(test.stderr, train.stderr),
        mc_stderr=math.hypot(test.mc_stderr, train.mc_stderr),
    )


@dataclass(frozen=True)
class _Plan:
    """What is done to every row; its options are those of `gaps`."""

    samples: int
    steps: int
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("samples", 2), ("steps", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(
                    f"gaps: {name}={value!r} must be a whole number of at least {least}"
                )

    def parts(self, model: Any, row: Rows, log_p: _Part | None, sums: bool) -> dict[str, _Part]:
        """log p(x) and the two ELBOs of a row."""
        encoder = model.local(1)
        if not encoder and model.density == "exact":
            assert log_p is not None
            elbo = log_p if log_p.exact else _given(Exact().scores(model, row), 0, "exact")
            return {"log_p": log_p, "elbo": elbo, "refined_elbo": elbo}
        refined = Refinement(steps=self.steps)(model, row, self.seed) if encoder else encoder
        if sums:
            assert log_p is not None
            elbo, refined_elbo = (_sum_over_states(model, row, own) for own in (encoder, refined))
            return {"log_p": log_p, "elbo": elbo, "refined_elbo": refined_elbo}
        drawn = [
            refined_weights(model, row, own, self.samples, self.seed) for own in (encoder, refined)
        ]
        elbo, refined_elbo = (_Part(float(log_w.mean()), log_w) for log_w in drawn)
        log_p = log_p or _importance(drawn[1])
        return {"log_p": log_p, "elbo": elbo, "refined_elbo": refined_elbo}


def _with_gaps(parts: dict[str, _Part]) -> dict[str, _Part]:
    log_p, elbo, refined = parts["log_p"], parts["elbo"], parts["refined_elbo"]
    return parts | {
        "total": log_p - elbo,
        "approximation": log_p - refined,
        "amortisation": refined - elbo,
    }


def _importance(log_w: Tensor) -> _Part:
    """The log of the mean weight; its influence is the delta method's."""
    total = torch.logsumexp(log_w, 0)
    return _Part(float(total) - math.log(len(log_w)), len(log_w) * (log_w - total).exp())


def _given(scores: Scores, row: int, kind: Nature) -> _Part:
    exact = kind == "exact"
    apart = 0.0 if exact else float(scores.mc_variance[row])
    return _Part(float(scores.values[row]), _NO_DRAWS, apart, exact)


@torch.no_grad()
def _sum_over_states(model: Any, row: Rows, own: Local) -> _Part:
    """`ELBO(q) = sum_z q(z|x) log w(z)`, without a draw."""
    x, mask, context = row
    p = model.infer(x, 1, mask, context, gradient="exact", draw=Enumerate().draw, local=own)
    shares, log_w = p.log_pi.double().exp(), p.log_w.double()
    return _Part(float(torch.where(shares > 0, shares * log_w, 0.0).sum()), _NO_DRAWS)


def _known(model: Any) -> Method | None:
    """How log p(x) is found exactly; None where it is not."""
    if model.density == "exact":
        return Exact()
    return Enumeration() if _few(model) else None


def _few(model: Any) -> bool:
    states = model.latent_states()
    return states is not None and states <= FEW_STATES


def _summed(model: Any) -> bool:
    """Whether ELBOs are sums over states."""
    return len(model.local(0)) == 1 and _few(model)


def _natures(model: Any, method: Method | None, sums: bool) -> dict[str, Nature]:
    """What each of the six is, by name."""
    of_log_p: Nature = "lower_bound" if method is None else method.kind
    if model.density == "exact" and method is not None and method.weighs:
        of_log_p = "exact"  # every weight of an exact model is p(x)
    of_elbo: Nature = "exact" if sums or model.density == "exact" else "estimate"
    of_gap = of_elbo if of_log_p == "exact" else of_log_p
    return {
        name: of_log_p if name == "log_p" else of_gap if name in _OF_LOG_P else of_elbo
        for name in _TITLES
    }


def _collected(
    found: list[dict[str, _Part]],
    kinds: dict[str, Nature],
    method: Method | None,
    plan: _Plan,
    data: DataLike,
) -> Gaps:
    """The means, and the rows they are of."""

    def column(name: str, field: str) -> Tensor:
        return torch.tensor([getattr(parts[name], field) for parts in found], dtype=torch.float64)

    values = {name: column(name, "value") for name in _TITLES}
    variance = {name: column(name, "variance") for name in _TITLES}
    how = (method or Refined(plan.samples, plan.steps)).name
    given = given_of(data)
    numbers = {
        name: mean_of(
            title.replace("p(x)", f"p(x|{given})" if given else "p(x)"),
            values[name],
            kinds[name],
            mc_variance=variance[name] * _copies(values),
            method=how if name in _OF_LOG_P and kinds[name] != "exact" else "",
        )
        for name, title in _TITLES.items()
    }
    drawn = 0 if kinds["elbo"] == "exact" else plan.samples
    return Gaps(
        **numbers,
        values=values,
        mc_variance=variance,
        samples=drawn,
        steps=plan.steps,
        protocol=data.protocol,
        seed=plan.seed,
    )


def _copies(values: dict[str, Tensor]) -> Tensor:
    """How many rows share the draws of each, (n,): equal rows do, so that their errors add."""
    rows = torch.stack([values[name] for name in ("log_p", "elbo", "refined_elbo")])
    _, group, count = torch.unique(rows, dim=1, return_inverse=True, return_counts=True)
    return count[group].double()


def _table(numbers: dict[str, Number]) -> list[str]:
    """A line for each number, aligned."""
    lines = []
    for number in numbers.values():
        sign = {"exact": "=", "lower_bound": ">=", "upper_bound": "<=", "estimate": "~"}
        error = "" if math.isnan(number.stderr) else f" +- {number.stderr:5.2f}"
        mc = f"MC +-{number.mc_stderr:.2g}" if number.mc_stderr else ""
        about = ", ".join(
            part for part in (number.kind.replace("_", " "), number.method, mc) if part
        )
        lines.append(
            f"{number.name:<25}{sign[number.kind]:>2} {number.value:8.2f}{error}  ({about})"
        )
    return lines
