r"""Annealed importance sampling: a second opinion on log p(x), from chains instead of an encoder.

    log w = sum_t (b_t - b_{t-1}) log p(x|z_{t-1}),    0 = b_0 < ... < b_T = 1

with z_0 drawn from the prior and z_t moved from z_{t-1} by Hamiltonian Monte Carlo under
`p(z) p(x|z)^{b_t}`. However short the chains and however badly they mix, `E w = p(x)`: the log of
the mean weight is a lower bound of log p(x), on average over draws, which tends to it as T grows.
Run backwards from an exact draw of the posterior the chain gives `E 1/w = 1 / p(x)`, hence an
upper bound: `bracket` puts the two around the truth, on rows that the model drew itself.

Sources: Neal, "Annealed Importance Sampling", 2001; Wu, Burda, Salakhutdinov, Grosse, "On the
Quantitative Analysis of Decoder-Based Generative Models", 2017; Grosse, Ghahramani, Adams,
"Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from latently.errors import UserError, closest
from latently.inference._annealing import (
    PILOT_CHAINS,
    Noise,
    Pilot,
    Start,
    Target,
    ahead,
    back,
    called,
    continuous,
    pilot,
    still,
)
from latently.inference._findings import Finding
from latently.inference.evidence import BLOCK_VALUES, Kind, Method, Progress, Scores
from latently.inference.noise import derive, row_seed, seeded
from latently.inference.number import Number, mean_of
from latently.inference.options import check_count
from latently.inference.pareto import pareto_k, tail_length

__all__ = ["AIS", "Bracket", "bracket"]

LEAST_ACCEPTANCE = 0.4  # of a row's proposals, below which its chains hardly move
_SMALL = 0.02  # nats of bias that need no warning of their own
_FAR = 0.5  # nats between two bounds that are no longer one number


@dataclass(frozen=True)
class AIS(Method):
    r"""Annealed importance sampling from the prior by Hamiltonian Monte Carlo.

    `log p(x) >= E log 1/C sum_c w_c`, with one weight from each of C chains. From the prior it
    asks nothing of the encoder, so it tells a loose bound from a poor model. From the posterior,
    `q(z|x)^{1-b} p(x, z)^b`, it starts nearer and needs fewer steps, but a mode that q leaves
    out may stay unseen.

    A pilot run with draws of its own finds the step sizes of every row at every temperature
    (for an acceptance of 0.8, where weights varied least) and spaces the temperatures; both are
    held in the run that counts. A row's draws are a function of (seed, content of the row), so
    its company moves its score by rounding only. Rounding can turn the odd acceptance around,
    which moves a score within its Monte Carlo error; it is not equal to the last bit.

    Every row decodes about `1.2 steps * leapfrog * chains` latents, each with a gradient.

    Sources: Neal, "Annealed Importance Sampling", 2001; Wu, Burda, Salakhutdinov, Grosse, "On the
    Quantitative Analysis of Decoder-Based Generative Models", 2017.

    Args:
        steps: T, inverse temperatures after 0.
        chains: C, weights per row.
        leapfrog: gradient steps at each temperature. Few, at more temperatures, did better.
        start: "prior", or "posterior" for q(z|x).

    Raises:
        UserError: an option out of range; when called, a model without density, with counted
            latents, or (from the posterior) with noise of its own such as `Dequantized`.

    >>> AIS(steps=50).name
    'AIS T=50, 16 chains'
    """

    kind: ClassVar[Kind] = "lower_bound"
    steps: int = 1000
    chains: int = 16
    leapfrog: int = 2
    start: Start = "prior"

    def __post_init__(self) -> None:
        for name in ("steps", "chains", "leapfrog"):
            check_count(self, name)
        if self.start not in ("prior", "posterior"):
            hint = closest(str(self.start), ("prior", "posterior"))
            raise UserError(f"AIS: start={self.start!r} is no starting point; {hint}")

    @property
    def name(self) -> str:
        origin = "" if self.start == "prior" else " from q"
        return f"AIS{origin} T={self.steps}, {self.chains} chains"

    @property
    def samples(self) -> int:
        """Weights per row, beside which the ESS is read."""
        return self.chains

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        continuous(model)
        weights = [torch.empty(self.chains, 0, dtype=torch.float64)]
        accepted = [torch.empty(0, dtype=torch.float64)]
        with still(model):
            for block in blocks(self, model, x, mask, context, seed):
                learned = block.learned(self)
                moved = torch.zeros(len(block.keys), dtype=torch.float64, device=x.device)
                run = block.run(self, learned, learned.betas(self.steps, [1.0]))
                for t, (log_w, _, accept) in enumerate(run, start=1):
                    last, moved = log_w, moved + accept.mean(0)
                    block.tell(progress, t, self.steps)
                weights.append(last.cpu())
                accepted.append(moved.cpu() / self.steps)
        return self._scores(torch.cat(weights, 1), torch.cat(accepted))

    def _scores(self, log_w: Tensor, accepted: Tensor) -> Scores:
        values, variance, ess = mean_weight(log_w)
        tail = tail_length(self.chains)
        k_hat = pareto_k(log_w.T.topk(tail + 1).values) if tail else None
        notes = self._doubts(log_w, values, variance, accepted)
        return Scores(values, variance, ess, k_hat, notes)

    def _doubts(
        self, log_w: Tensor, values: Tensor, variance: Tensor, accepted: Tensor
    ) -> tuple[str, ...]:
        """Why not to trust these weights, a line each."""
        found = []
        stuck = int((accepted < LEAST_ACCEPTANCE).sum())
        if stuck:
            found.append(
                f"AIS: fewer than {LEAST_ACCEPTANCE:.0%} of the moves were accepted in {stuck} of "
                f"{len(values)} rows; raise leapfrog, now {self.leapfrog}, or steps, now "
                f"{self.steps}"
            )
        if self.chains > 1 and len(values):
            low = float(shortfall(log_w, values, variance).mean())
            error = float(variance.sum().sqrt() / len(values))
            if not low <= error + _SMALL:
                amount = f"about {low:.2f} nats" if low <= 1 else "a nat or more"
                found.append(
                    f"AIS: the weights of a row's chains differ so much that the bound may be "
                    f"{amount} a row too low, beside a Monte Carlo error of {error:.2g}; raise "
                    f"steps, now {self.steps}"
                )
        return tuple(found)


@dataclass(frozen=True)
class Bracket:
    """log p(x) between two bounds, on rows that the model drew itself.

    Attributes:
        lower: mean over rows of the forward bound.
        upper: mean over rows of the reverse bound.
        gap: their difference, above the bias of either on such rows.
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
        scores = method(model, x, None, context, seed=seed, progress=_half(progress, 0))
        for block in blocks(method, model, x, None, context, seed):
            reverse.append(_reversed(block, method, z, _half(progress, 1)))
    return _bracket(method, scores, *map(torch.cat, zip(*reverse, strict=True)))


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


def _bracket(method: AIS, scores: Scores, uppers: Tensor, variance: Tensor) -> Bracket:
    name, both = "log p(x)", scores.mc_variance + variance
    how = {"method": method.name}
    lower = mean_of(name, scores.values, "lower_bound", mc_variance=scores.mc_variance, **how)
    how = {"method": f"{method.name}, in reverse"}
    upper = mean_of(name, uppers, "upper_bound", mc_variance=variance, **how)
    gap = mean_of("bias of AIS", uppers - scores.values, "upper_bound", mc_variance=both)
    return Bracket(lower, upper, gap, scores.values, uppers, scores.notes)


def _half(progress: Progress | None, part: int) -> Progress | None:
    """Progress of the first or second of two runs over the same rows."""
    return progress and (lambda done, total: progress((done + part * total) // 2, total))


class Block(NamedTuple):
    """Rows that are annealed together.

    Attributes:
        target: base and gain of the rows.
        keys: a seed of each row.
        first: number of the first row.
        total: rows of all blocks.
    """

    target: Target
    keys: list[int]
    first: int
    total: int

    def learned(self, method: AIS, end: float = 1.0) -> Pilot:
        """What a pilot run to inverse temperature `end` learned."""
        return pilot(self.target, self.keys, method.steps, method.leapfrog, end)

    def run(self, method: AIS, learned: Pilot, betas: Tensor) -> Iterator[Any]:
        """The run that counts, as `ahead`."""
        u = self.target.draw([derive(key, "start") for key in self.keys], method.chains)
        return ahead(self.target, u, betas, learned, method.leapfrog, self._noise("ahead", u))

    def reverse(
        self, method: AIS, learned: Pilot, betas: Tensor, z: tuple[Tensor, ...]
    ) -> Iterator[Any]:
        """The run backwards from exact draws z of the posterior, as `back`."""
        u = self.target.place(z).expand(method.chains, -1, -1)
        return back(self.target, u, betas, learned, method.leapfrog, self._noise("back", u))

    def tell(self, progress: Progress | None, step: int, steps: int) -> None:
        """Tells of rows done after a step, as if some were done before others."""
        done, before = (len(self.keys) * t // steps for t in (step, step - 1))
        if progress and done > before:
            progress(self.first + done, self.total)

    def _noise(self, use: str, u: Tensor) -> Noise:
        return Noise([derive(key, use) for key in self.keys], u.device, u.dtype)


def blocks(
    method: AIS,
    model: Any,
    x: Tensor,
    mask: Tensor | None,
    context: Tensor | None,
    seed: int,
) -> Iterator[Block]:
    """Rows in blocks that hold 2 MiB of decoded values in float32, or one row."""
    if not len(x):
        return
    probe = Target(model, *_cut(x, mask, context, slice(0, 1)), method.start)
    values = max(x[0].numel(), probe.draw([0], 1).shape[-1])
    size = max(1, BLOCK_VALUES // (max(method.chains, PILOT_CHAINS) * values))
    for first in range(0, len(x), size):
        part = _cut(x, mask, context, slice(first, first + size))
        rows = [_cut(*part, slice(i, i + 1)) for i in range(len(part[0]))]
        keys = [row_seed(seed, *row) for row in rows]
        yield Block(Target(model, *part, method.start), keys, first, len(x))


def mean_weight(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The log of the mean of C weights of each row, its variance (delta method), and the ESS."""
    chains, total = len(log_w), torch.logsumexp(log_w, 0)
    share = torch.logsumexp(2 * log_w, 0) - 2 * total  # log of sum v^2 = -log ESS
    variance = (share.exp() - 1 / chains).clamp(min=0)  # NaN where no weight is above 0
    if chains == 1:
        variance = torch.full_like(variance, math.nan)
    return total - math.log(chains), variance, (-share).exp()


def shortfall(log_w: Tensor, values: Tensor, variance: Tensor) -> Tensor:
    """By how much the log of the mean of C weights falls short of log p(x), (R,); a guess.

    To second order that is half its variance. Where weights are so unequal that a few carry the
    sum, what a lognormal of the same moments leaves to the tail that was not met.
    """
    spread = log_w.var(0)
    tail = log_w.mean(0) + 0.5 * spread - values
    return torch.maximum(0.5 * variance, tail.nan_to_num(nan=math.inf)).clamp(min=0)


def _cut(
    x: Tensor, mask: Tensor | None, context: Tensor | None, rows: slice
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    seen = None if mask is None else mask[rows]
    return x[rows], seen, None if context is None else context[rows]
