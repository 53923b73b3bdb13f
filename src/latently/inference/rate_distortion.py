r"""The rate-distortion curve of a decoder: what a code of so many nats could reach at best.

With the prior p(z) as the code and `-log p(x|z)` as the distortion, the best encoder at each
trade-off b is `p_b(z|x) ~ p(z) p(x|z)^b`. Annealed importance sampling passes through all of them.
Its chains at b, taken as an encoder, have a distortion D that their mean measures, and a rate

    KL(q_b(z|x) || p(z)) <= E[-log w_b] - b D

so every point (D, rate) lies on or above the curve of the model, on average over draws. A VAE's
own encoder is one more such point: its distance from the curve is what its q(z|x) loses.

Source: Huang, Makhzani, Cao, Grosse, "Evaluating Lossy Compression Rates of Deep Generative
Models", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._annealing import arrivals, called, continuous, still
from latently.inference._findings import Finding
from latently.inference.evidence import DataLike, as_evaluated
from latently.inference.methods.ais import AIS, Block, blocks
from latently.inference.methods.base import Progress
from latently.inference.noise import derive, seeded
from latently.inference.number import Nature, Number, mean_of
from latently.inference.rows import Rows

__all__ = ["BETAS", "RateDistortion", "rate_distortion"]

BETAS = tuple(10 ** (k / 4) for k in range(-12, 1))  # 0.001 to 1


@dataclass(frozen=True)
class RateDistortion:
    """Points on or above a model's rate-distortion curve, means over n rows, in nats.

    Attributes:
        betas: trade-offs b, (K,), ascending.
        rate: upper bound on the rate of the annealed encoder at each b, (K,).
        distortion: its distortion, `E[-log p(x|z)]`, an estimate, (K,).
        rate_stderr: standard error over the rows, (K,); NaN for one row.
        distortion_stderr: standard error over the rows, (K,); NaN for one row.
        rate_mc_stderr: standard error of the chains, (K,); NaN for one chain.
        distortion_mc_stderr: standard error of the chains, (K,); NaN for one chain.
        own_rate: `KL(q(z|x) || p(z))` of the model's own encoder.
        own_distortion: `E_q[-log p(x|z)]` of the model's own encoder.
        method: how the chains were run.
        protocol: the data.
        n: rows.
    """

    rate_kind: ClassVar[Nature] = "upper_bound"
    distortion_kind: ClassVar[Nature] = "estimate"
    unit: ClassVar[str] = "nats"

    betas: Tensor
    rate: Tensor
    distortion: Tensor
    rate_stderr: Tensor
    distortion_stderr: Tensor
    rate_mc_stderr: Tensor
    distortion_mc_stderr: Tensor
    own_rate: Number
    own_distortion: Number
    method: str
    protocol: str
    n: int

    @property
    def excess(self) -> float | None:
        """Nats that the encoder's rate is above the line through the points at its distortion.

        None beyond the points. The curve is convex, so the line between two points lies above it,
        and the excess over the curve itself is no less than over the line.
        """
        distortion, order = self.distortion.sort()
        own = torch.tensor(self.own_distortion.value, dtype=distortion.dtype)
        if not distortion[0] <= own <= distortion[-1] or len(order) < 2:
            return None
        rate = self.rate[order]
        at = int(torch.searchsorted(distortion, own).clamp(1, len(order) - 1))
        left, right = distortion[at - 1], distortion[at]
        share = (own - left) / (right - left).clamp(min=torch.finfo(own.dtype).tiny)
        line = rate[at - 1] + share * (rate[at] - rate[at - 1])
        return self.own_rate.value - float(line)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the encoder pays for its distortion, in a line."""
        excess = self.excess
        if excess is None or not math.isfinite(excess):
            return ()
        if excess <= 0:
            best = self.own_rate.value - excess
            text = (
                f"the encoder's rate, {self.own_rate.value:.2f}, is no more than the "
                f"{best:.2f} nats that the chains show for its distortion: nothing to gain"
            )
            return (Finding("note", "rate", text),)
        text = (
            f"a best code would need {self.own_rate.value - excess:.2f} nats or less for the "
            f"encoder's distortion; its own rate is {self.own_rate.value:.2f}"
        )
        return (Finding("note", "rate", text),)

    def to_dict(self) -> dict[str, Any]:
        """All fields for JSON; what is not finite is None."""
        curve = {key: _plain(value) for key, value in vars(self).items()}
        about = {key: getattr(self, key) for key in ("rate_kind", "distortion_kind", "unit")}
        own = {
            "own_rate": self.own_rate.to_dict(),
            "own_distortion": self.own_distortion.to_dict(),
        }
        return {**about, **curve, **own}

    def __str__(self) -> str:
        lines = [f"{'beta':>8} {'rate <=':>18} {'distortion ~':>20}  nats, {self.protocol}"]
        for k, beta in enumerate(self.betas.tolist()):
            rate = f"{self.rate[k]:.2f} +- {self.rate_stderr[k]:.2f}"
            distortion = f"{self.distortion[k]:.2f} +- {self.distortion_stderr[k]:.2f}"
            lines.append(f"{beta:8.3g} {rate:>18} {distortion:>20}")
        return "\n".join([*lines, str(self.own_rate), str(self.own_distortion)])


def rate_distortion(
    model: Any,
    data: DataLike,
    method: AIS | None = None,
    *,
    betas: Sequence[float] = BETAS,
    seed: int = 0,
    progress: Progress | None = None,
) -> RateDistortion:
    r"""The rate-distortion curve of a model's decoder and prior, on data.

    One annealed run passes through every b; betas above 1 go on beyond the posterior, to codes of
    more nats and less distortion. The chains are not reweighted: a mean over them is that of an
    encoder that exists, which is what makes the rate an upper bound. Distortions of densities may
    be negative.

    Args:
        model: any with a density and continuous latents.
        data: rows, mask and context; of missing cells the distortion knows nothing.
        method: the run, from the prior; `AIS()` if None.
        betas: trade-offs, ascending and above 0.
        seed: of the chains.
        progress: called with (rows done, rows).

    Returns:
        `RateDistortion`, in nats.

    Raises:
        UserError: a run from the posterior, betas that do not ascend from above 0, a model that
            `AIS` refuses or whose score of a latent holds noise, or rows that are none of its own.
    """
    method = AIS() if method is None else method
    stops = _checked(method, betas)
    continuous(model)
    data = as_evaluated(model, data)
    if not len(data.x):
        raise UserError(f"rate_distortion: {data.protocol} has no rows")
    points, own = [], []
    with still(model):
        for block in blocks(method, model, Rows(data.x, data.mask, data.context), seed):
            points.append(_points(block, method, stops, progress))
            own.append(_own(block, method.chains))
    rate, distortion = (torch.cat(part, -1) for part in zip(*points, strict=True))
    (rates, rate_mc), (errors, errors_mc) = _moments(rate), _moments(distortion)
    own_rate, own_distortion = _own_numbers(own)
    return RateDistortion(
        betas=torch.tensor(stops, dtype=torch.float64),
        rate=rates.mean(1),
        distortion=errors.mean(1),
        rate_stderr=_stderr(rates),
        distortion_stderr=_stderr(errors),
        rate_mc_stderr=rate_mc,
        distortion_mc_stderr=errors_mc,
        own_rate=own_rate,
        own_distortion=own_distortion,
        method=method.name,
        protocol=data.protocol,
        n=len(data.x),
    )


def _checked(method: AIS, betas: Sequence[float]) -> list[float]:
    if method.start != "prior":
        raise UserError(
            f"rate_distortion: start={method.start!r} leaves the curve of the prior; use "
            "AIS(start='prior')"
        )
    stops = [float(beta) for beta in betas]
    rising = all(low < high for low, high in zip([0.0, *stops], stops, strict=False))
    if not stops or not rising or not math.isfinite(stops[-1]):
        raise UserError(
            f"rate_distortion: betas={betas!r} must be finite numbers that ascend from above 0"
        )
    return stops


def _points(
    block: Block, method: AIS, stops: list[float], progress: Progress | None
) -> tuple[Tensor, Tensor]:
    """Rate and distortion of every chain at every stop, (K, C, R)."""
    learned = block.learned(method, stops[-1])
    if block.target.noisy:
        raise UserError(
            f"rate_distortion: {called(block.target.model)} draws noise whenever it scores a "
            "latent, which no code holds; give the model inside"
        )
    betas = learned.betas(method.steps, stops)
    ends = arrivals(method.steps, len(stops))
    rates: list[Tensor] = []
    distortions: list[Tensor] = []
    for t, (log_w, state, _) in enumerate(block.run(method, learned, betas), start=1):
        if t == ends[len(rates)]:
            log_lik = state.gain.double().cpu()
            rates.append(stops[len(rates)] * log_lik - log_w.cpu())
            distortions.append(-log_lik)
        block.tell(progress, t, ends[-1])
    return torch.stack(rates), torch.stack(distortions)


@torch.no_grad()
def _own(block: Block, draws: int) -> tuple[Tensor, Tensor, bool]:
    """Rate and distortion of the model's encoder, (C, R), and whether the rate is exact."""
    target = block.target
    with seeded(derive(block.keys[0], "own"), target.rows.x.device):
        x, mask, context = target.rows
        p = target.model.infer(x, draws, mask, context)
    known = all(term is not None for term in p.kl)
    return p.divergence.double().cpu(), -p.log_lik.double().cpu(), known


def _own_numbers(own: list[tuple[Tensor, Tensor, bool]]) -> tuple[Number, Number]:
    rates, distortions, known = zip(*own, strict=True)
    kind: Nature = "exact" if all(known) else "estimate"
    made = []
    for name, parts, nature in (
        ("KL(q(z|x) || p(z))", rates, kind),
        ("E_q[-log p(x|z)]", distortions, "estimate"),
    ):
        terms = torch.cat(parts, 1)
        variance = None if nature == "exact" else _variance(terms, 0)
        made.append(mean_of(name, terms.mean(0), nature, mc_variance=variance))
    return made[0], made[1]


def _moments(terms: Tensor) -> tuple[Tensor, Tensor]:
    """Means over chains (K, R), and the Monte Carlo error of their means over rows, (K,)."""
    variance = _variance(terms, 1)
    return terms.mean(1), variance.sum(1).sqrt() / terms.shape[2]


def _stderr(rows: Tensor) -> Tensor:
    """Over rows, (K, R) to (K,); NaN for one."""
    return _variance(rows, 1).sqrt()


def _variance(terms: Tensor, dim: int) -> Tensor:
    """Of the mean over an axis; NaN of a single term, which says nothing about it."""
    n = terms.shape[dim]
    return terms.var(dim) / n if n > 1 else torch.full_like(terms.sum(dim), torch.nan)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [v if math.isfinite(v) else None for v in value.tolist()]
    return value
