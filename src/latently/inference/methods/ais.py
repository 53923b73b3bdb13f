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
    continuous,
    pilot,
    still,
)
from latently.inference.methods.base import BLOCK_VALUES, Kind, Method, Progress, Scores
from latently.inference.noise import derive, row_seed
from latently.inference.options import check_count
from latently.inference.pareto import pareto_k, tail_length
from latently.inference.rows import Rows

__all__ = ["AIS"]

LEAST_ACCEPTANCE = 0.4  # of a row's proposals, below which its chains hardly move
_SMALL = 0.02  # nats of bias that need no warning of their own


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
        chains = "1 chain" if self.chains == 1 else f"{self.chains} chains"
        return f"AIS{origin} T={self.steps}, {chains}"

    @property
    def samples(self) -> int:
        """Weights per row, beside which the ESS is read."""
        return self.chains

    def scores(
        self,
        model: Any,
        rows: Rows,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        continuous(model)
        weights = [torch.empty(self.chains, 0, dtype=torch.float64)]
        accepted = [torch.empty(0, dtype=torch.float64)]
        with still(model):
            for block in blocks(self, model, rows, seed):
                learned = block.learned(self)
                moved = torch.zeros(len(block.keys), dtype=torch.float64, device=rows.x.device)
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
        if self.chains == 1:
            found.append("AIS: one chain says nothing of its error; raise chains")
        elif len(values):
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


def blocks(method: AIS, model: Any, rows: Rows, seed: int) -> Iterator[Block]:
    """Rows in blocks that hold 2 MiB of decoded values in float32, or one row."""
    n = len(rows.x)
    if not n:
        return
    probe = Target(model, rows.part(slice(0, 1)), method.start)
    values = max(rows.x[0].numel(), probe.draw([0], 1).shape[-1])
    size = max(1, BLOCK_VALUES // (max(method.chains, PILOT_CHAINS) * values))
    for first in range(0, n, size):
        part = rows.part(slice(first, first + size))
        keys = [row_seed(seed, *row) for row in part.singles()]
        yield Block(Target(model, part, method.start), keys, first, n)


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
