r"""log p(x) from both sides, by annealed importance sampling forwards and backwards.

Source: Grosse, Ghahramani, Adams, "Sandwiching the marginal likelihood using bidirectional Monte
Carlo", 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._annealing import called, continuous, still
from latently.inference._findings import Finding
from latently.inference.methods.ais import AIS, Block, blocks, mean_weight
from latently.inference.methods.base import Progress, Scores
from latently.inference.noise import derive, seeded
from latently.inference.number import Number, mean_of
from latently.inference.rows import Rows

__all__ = ["Bracket", "bracket"]

_FAR = 0.5  # nats between two bounds that are no longer one number


@dataclass(frozen=True)
class Bracket:
    """log p(x) between two bounds, on rows that the model drew itself.

    Attributes:
        lower: mean over rows of the forward bound.
        upper: mean over rows of the reverse bound.
        gap: their difference, above the bias of either on such rows; of one chain each, its Monte
            Carlo error is NaN, not known.
        lowers: forward bound of each row, (n,), in nats.
        uppers: reverse bound of each row, (n,), in nats.
        notes: why not to trust the forward run, a line each.
    """

    lower: Number
    upper: Number
    gap: Number
    lowers: Tensor
    uppers: Tensor
    notes: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """How far AIS can be off, in a line."""
        most = self.gap.value + 2 * self.gap.mc_stderr
        if math.isnan(most):
            text = (
                f"the gap of {self.gap.value:.2f} nats has no Monte Carlo error to add, of one "
                "chain; take chains=2 or more"
            )
            return (Finding("note", "bracket", text),)
        text = f"on rows that the model drew, AIS is off by at most {most:.2f} nats on average"
        if most <= _FAR:
            return (Finding("note", "bracket", text),)
        return (Finding("alarm", "wide bracket", f"{text}; raise its steps"),)

    def to_dict(self) -> dict[str, Any]:
        """The three numbers and the notes, for JSON."""
        numbers = {name: getattr(self, name).to_dict() for name in ("lower", "upper", "gap")}
        return {**numbers, "n": len(self.lowers), "notes": list(self.notes)}

    def __str__(self) -> str:
        return "\n".join(map(str, (self.lower, self.upper, self.gap)))


def bracket(
    model: Any,
    rows: int = 50,
    method: AIS | None = None,
    *,
    context: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Bracket:
    r"""Bidirectional Monte Carlo: log p(x) from both sides, on rows drawn from the model.

    With (z, x) ~ p(x, z), z is an exact draw of p(z|x). AIS forward from the prior gives
    `E log 1/C sum_c w_c <= log p(x)`; backward from z it gives
    `E -log 1/C sum_c 1/w_c >= log p(x)`, by the same step sizes and temperatures. The mean gap
    is therefore at least the mean bias of AIS, on rows like these: data of another kind may be
    harder. Rows where the chains mix badly show as a wide gap. Source: Grosse, Ghahramani, Adams,
    "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015.

    Args:
        model: any with a density and continuous latents.
        rows: n, how many to draw.
        method: the forward run, `AIS()` if None; the reverse has as many steps and chains.
        context: one row for all, or one for each, (n, C), for models of p(x|c).
        seed: of the rows and of the chains.
        progress: called with (rows done, rows).

    Returns:
        `Bracket`, in nats.

    Raises:
        UserError: `rows` is no count, or a model that `AIS` refuses or whose score of a latent
            holds noise.
    """
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise UserError(f"bracket: rows={rows!r} must be a whole number of at least 1")
    continuous(model)
    model.check_context(context, "bracket")
    method = AIS() if method is None else method
    if context is not None:
        context = context.expand(rows, *context.shape[1:])
    reverse = []
    with still(model):
        with torch.no_grad(), seeded(derive(seed, "bracket"), model.device):
            z = model.latents(rows, context)
            x = model.likelihood(z, context).sample()[0]
        drawn = Rows(x, None, context)
        scores = method.scores(model, drawn, seed=seed, progress=_half(progress, 0))
        for block in blocks(method, model, drawn, seed):
            reverse.append(_reversed(block, method, z, _half(progress, 1)))
    name = "log p(x|c)" if model.contexts else "log p(x)"
    return _bracket(method, scores, name, *map(torch.cat, zip(*reverse, strict=True)))


def _reversed(
    block: Block, method: AIS, z: tuple[Tensor, ...], progress: Progress | None
) -> tuple[Tensor, Tensor]:
    """The upper bound and its Monte Carlo variance of the rows of a block."""
    learned = block.learned(method)
    if block.target.noisy:
        raise UserError(
            f"bracket: {called(block.target.model)} draws noise whenever it scores a latent, "
            "whose exact posterior is not known; bracket the model inside"
        )
    rows = slice(block.first, block.first + len(block.keys))
    exact = tuple(layer[:, rows] for layer in z)
    betas = learned.betas(method.steps, [1.0])
    run = block.reverse(method, learned, betas, exact)
    for t, (log_w, _, _) in enumerate(run, start=1):
        last = log_w
        block.tell(progress, t, method.steps)
    values, variance, _ = mean_weight(-last.cpu())
    return -values, variance


def _bracket(method: AIS, scores: Scores, name: str, uppers: Tensor, variance: Tensor) -> Bracket:
    both = scores.mc_variance + variance
    how = {"method": method.name}
    lower = mean_of(name, scores.values, "lower_bound", mc_variance=scores.mc_variance, **how)
    how = {"method": f"{method.name}, in reverse"}
    upper = mean_of(name, uppers, "upper_bound", mc_variance=variance, **how)
    gap = mean_of("bias of AIS", uppers - scores.values, "upper_bound", mc_variance=both)
    return Bracket(lower, upper, gap, scores.values, uppers, scores.notes)


def _half(progress: Progress | None, part: int) -> Progress | None:
    """Progress of the first or second of two runs over the same rows."""
    return progress and (lambda done, total: progress((done + part * total) // 2, total))
