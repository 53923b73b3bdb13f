r"""Weighted particles of rows with holes: first draws, moves, and whether they are enough.

    w_k = p(x_o, z_k) / q(z_k | x_o),    z_k ~ q,    v_k = w_k / sum_l w_l

Where few of the particles carry all the weight, they move: J of them, resampled by weight, fill
the holes by p(x_m | z), and the *completed* rows are encoded,

    z_k ~ q_J = (1/J) sum_j q(z | x_o, x_m^j),    w_k = p(x_o, z_k) / q_J(z_k).

If q is near the posterior of complete rows and the completions are draws from p(x_m | x_o), q_J is
near p(z | x_o). Each sweep's mean weight has the expectation p(x_o) whatever the sweeps before it
found. It ends where a sweep has particles enough; else the later half of the sweeps is pooled. An
encoder that knows rows with holes may propose better: where moving finds no more mass and no more
effective particles, the first draws stay. Where q has several layers or is no density at a glance,
J = K and every z_k is weighed by its own q(z | x_o, x_m^k), which is right, too, but uneven.
Sources: Rezende, Mohamed, Wierstra, "Stochastic Backpropagation", 2014 (imputing by turns);
Cappe, Guillin, Marin, Robert, "Population Monte Carlo", 2004 (weights and resampling); Elvira,
Martino, Luengo, Bugallo, "Generalized Multiple Importance Sampling", 2019 (weights of mixtures).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latently.errors import UserError, called
from latently.inference._by_row import RowNoise
from latently.inference.methods.base import BLOCK_VALUES, MAX_BLOCK
from latently.inference.pareto import K_HAT_LIMIT, pareto_k, tail_length
from latently.inference.particles import Particles
from latently.inference.rows import Rows

__all__ = [
    "NO_DENSITY",
    "Population",
    "block_rows",
    "completed",
    "conditioned",
    "decoded_particles",
    "drawn_of_mixture",
    "effective",
    "first_particles",
    "impossible",
    "inside",
    "moved_particles",
    "parts",
    "resampled",
    "settled",
    "shapes",
    "shares",
]

NO_DENSITY = (
    "has no finite density under this model, so nothing says what it lacks; check its scale, or "
    "leave the cell empty"
)
_MORE = 1.0  # nats of log p(x_o) by which one population beats another, whatever its ESS
_ENOUGH = 30  # effective particles, or half of all, of a sweep that is the last if k-hat is low
_COMPLETED = 100  # rows with their holes filled, whose posteriors are mixed
_MOST_ROWS = 32  # of a block
_TOGETHER = 2**13  # latents of a block decoded at once: their hidden layers stay in the cache


class Population(NamedTuple):
    """Weighted particles of B rows.

    Attributes:
        z: latents (K, B, *Z), one per layer.
        noise: u of integers x that were scored as x + u, (K, B, *X); None where there is none.
        log_w: log-weights, (K, B), up to a constant of the sweep.
    """

    z: tuple[Tensor, ...]
    noise: Tensor | None
    log_w: Tensor

    def part(self, which: slice | Tensor) -> Population:
        """Some of the particles."""
        noise = None if self.noise is None else self.noise[which]
        return Population(tuple(z[which] for z in self.z), noise, self.log_w[which])

    def of(self, rows: slice | Tensor) -> Population:
        """The particles of some rows."""
        noise = None if self.noise is None else self.noise[:, rows]
        return Population(tuple(z[:, rows] for z in self.z), noise, self.log_w[:, rows])

    def instead(self, which: Tensor) -> Population:
        """The same with latents 0 and even weights in some rows (B,), for what must be numbers."""
        z = tuple(torch.where(_beside(which, z), 0, z) for z in self.z)
        noise = self.noise
        noise = None if noise is None else torch.where(_beside(which, noise), 0.5, noise)
        return Population(z, noise, self.log_w.masked_fill(which, 0.0))

    def picked(self, index: Tensor) -> Population:
        """Particles (N, B) by number, each row's own."""
        at = index, torch.arange(index.shape[1], device=index.device)
        noise = None if self.noise is None else self.noise[at]
        return Population(tuple(z[at] for z in self.z), noise, self.log_w[at])


def _beside(rows: Tensor, values: Tensor) -> Tensor:
    """Rows (B,) in the shape of values (K, B, ...)."""
    return rows.view(1, -1, *(1,) * (values.dim() - 2))


def block_rows(x: Tensor, samples: int) -> int:
    """Rows of x (n, *X) that are treated together: a power of two, fixed by their shape and K."""
    size = max(x[0].numel(), 1) * samples
    most = min(BLOCK_VALUES // size, _TOGETHER // samples, _MOST_ROWS)
    return 2 ** int(math.log2(most)) if most > 1 else 1


def parts(samples: int, rows: Tensor) -> Iterator[slice]:
    """K particles of a block of rows (B, *X) in parts that are decoded at once."""
    most = MAX_BLOCK if len(rows) == 1 else _TOGETHER // len(rows)
    at_once = max(1, min(BLOCK_VALUES // max(rows.numel(), 1), most))
    for start in range(0, samples, at_once):
        yield slice(start, min(start + at_once, samples))


def first_particles(
    model: Any, rows: Rows, samples: int, noise: RowNoise | None = None
) -> Population:
    """Draws from q(z|x_o) with their weights; from the global generator without `noise`."""
    found = []
    how: dict[str, Any] = {} if noise is None else {"draw": noise.latents}
    for part in parts(samples, rows.x):
        count = part.stop - part.start
        found.append(_weighed(model.infer(rows.x, count, rows.mask, rows.context, **how)))
    return pooled(found)


def decoded_particles(
    model: Any, rows: Rows, samples: int, noise: RowNoise
) -> tuple[Population, Any]:
    """`first_particles` and p(x|z) of them, of a block that is decoded at once."""
    p, likelihood = model.scored(rows.x, samples, rows.mask, rows.context, draw=noise.latents)
    return _weighed(p), likelihood


def _weighed(p: Particles) -> Population:
    log_w = (p.log_pi + p.log_w).double() + math.log(len(p.log_pi))  # parts differ in size
    return Population(p.z, p.noise, log_w)


def pooled(sweeps: Sequence[Population]) -> Population:
    """Particles of several sweeps as one population."""
    if len(sweeps) == 1:
        return sweeps[0]
    noise = [sweep.noise for sweep in sweeps if sweep.noise is not None]
    return Population(
        tuple(torch.cat(layers) for layers in zip(*(sweep.z for sweep in sweeps), strict=True)),
        torch.cat(noise) if noise else None,
        torch.cat([sweep.log_w for sweep in sweeps]),
    )


def moved_particles(
    model: Any, rows: Rows, first: Population, sweeps: int, enough: int = _ENOUGH
) -> Population:
    """What the particles of one row become by at most so many sweeps; `first` where none helps."""
    done = [first]
    while first.z and len(done) <= sweeps and not bool(settled(done[-1].log_w, enough)):
        done.append(_moved(model, rows, done[-1]))
        if len(done) == 2 and not _gains(done[1].log_w, first.log_w):
            return first
    if len(done) == 1:
        return first
    alone = bool(settled(done[-1].log_w, enough))
    found = done[-1] if alone else pooled(done[-max(1, len(done) // 2) :])
    return found if _gains(found.log_w, first.log_w) else first


def _moved(model: Any, rows: Rows, before: Population) -> Population:
    """The next sweep of one row: resampled, holes filled, completed rows encoded, weighed."""
    samples, log_shares = len(before.log_w), shares(before.log_w)[0]
    if model.posterior(*rows) is not None:
        at_once = next(parts(samples, rows.x)).stop
        some = before.part(resampled(log_shares, min(at_once, _COMPLETED)))
        complete, contexts = completed(model, rows, some)
        q = model.posterior(complete, None, contexts)
        drawn, log_q = drawn_of_mixture(q, math.ceil(samples / len(complete)))
        return pooled(
            [
                _reweighed(model, rows, (drawn[part, None],), log_q[part])
                for part in parts(len(drawn), rows.x)
            ]
        )
    index, found = resampled(log_shares, samples), []
    for part in parts(samples, rows.x):
        complete, contexts = completed(model, rows, before.part(index[part]))
        p = model.infer(complete, 1, None, contexts)
        p = p if len(p.log_pi) == 1 else p.chosen()
        z = tuple(layer.transpose(0, 1) for layer in p.z)
        found.append(_reweighed(model, rows, z, sum(t[0] for t in p.log_q)))
    return pooled(found)


def completed(model: Any, rows: Rows, particles: Population) -> tuple[Tensor, Tensor | None]:
    """Rows with their holes filled by each of K particles, (K B, *X), and their contexts."""
    x, mask, context = rows
    assert mask is not None
    drawn = conditioned(model, particles, rows).sample()
    whole = torch.where(mask, x, inside(model, drawn, x.dtype)).flatten(0, 1)
    return whole, None if context is None else context.repeat(len(drawn), 1)


def drawn_of_mixture(q: Any, each: int) -> tuple[Tensor, Tensor]:
    """Draws from each of J posteriors, (N, *Z), and the log-density (N,) of the J together."""
    z = q.sample((each,)).flatten(0, 1)
    count = q.batch_shape[0]
    at_once = max(1, BLOCK_VALUES // (count * max(z[0].numel(), 1)))
    log_q = [
        q.log_prob(some[:, None].expand(-1, count, *some.shape[1:])).logsumexp(1)
        for some in z.split(at_once)
    ]
    return z, torch.cat(log_q) - math.log(count)


def _reweighed(model: Any, rows: Rows, z: tuple[Tensor, ...], log_q: Any) -> Population:
    """Latents (K, 1, *Z) of one row with the log-density (K,) that they were drawn with."""
    x, mask, context = rows
    p = model.infer(x, len(z[0]), mask, context, z=z)
    log_w = (p.log_lik[:, 0] + sum(t[:, 0] for t in p.log_prior) - log_q).double()
    return Population(z, p.noise, log_w[:, None])


def impossible(log_w: Tensor) -> Tensor:
    """Rows that no particle explains, (B,): all weights (K, B) are 0, or not known."""
    return ~torch.log_softmax(log_w, 0).isfinite().any(0)


def shares(log_w: Tensor) -> Tensor:
    """Log of the normalised weights v, (B, K).

    Raises:
        UserError: a row whose weights are all 0, or not known.
    """
    found = torch.log_softmax(log_w.T.contiguous(), 1)
    if not bool(found.isfinite().any(1).all()):
        raise UserError(f"what is given {NO_DENSITY}")
    return found


def settled(log_w: Tensor, enough: int = _ENOUGH) -> Tensor:
    """Rows with particles enough, and no few of them that outweigh the rest, (B,)."""
    log_shares = shares(log_w)
    many = effective(log_shares) >= min(enough, len(log_w) / 2)
    return many & (shapes(log_shares) <= K_HAT_LIMIT)


def effective(log_shares: Tensor) -> Tensor:
    """ESS = 1 / sum v^2 of every row, (B,), from (B, K)."""
    return (-torch.logsumexp(2 * log_shares, 1)).exp()


def shapes(log_shares: Tensor) -> Tensor:
    """Pareto shape k-hat of the largest weights of every row, (B,); NaN if they are too few."""
    tail = tail_length(log_shares.shape[1])
    if not tail:
        return log_shares.new_full((len(log_shares),), torch.nan)
    return pareto_k(log_shares.topk(tail + 1, 1).values)


def resampled(log_shares: Tensor, n: int) -> Tensor:
    """n particle numbers of a row (K,) or of each (B, K), drawn in proportion to their weights."""
    return torch.multinomial(log_shares.exp(), n, replacement=True)


def conditioned(model: Any, particles: Population, rows: Rows, d: Any = None) -> Any:
    """p(x_missing | x_observed, z) of the particles, of batch shape (K, B); d: their p(x|z).

    Raises:
        UserError: the likelihood cannot be conditioned.
    """
    d = model.likelihood(particles.z, rows.context) if d is None else d
    if not hasattr(d, "given"):
        raise UserError(
            f"{called(d)} cannot be conditioned on the observed cells of a row; use a "
            "likelihood that can leave out missing entries"
        )
    return d.given(rows.x if particles.noise is None else rows.x + particles.noise, rows.mask)


def inside(model: Any, drawn: Tensor, dtype: torch.dtype) -> Tensor:
    """Draws in another type: the next number on the other side where the nearest is no value.

    In float32, 1e-50 is 0 and `1 - 1e-9` is 1, which are not above 0 and below 1.
    """
    near = narrowed(drawn, dtype)
    apart = drawn - near.to(drawn.dtype)
    if not bool(apart.any()):
        return near
    lead = drawn.shape[: drawn.dim() - len(model.shape)]
    bad = model.misfit(near.reshape(-1, *model.shape))[0].view(*lead, *model.shape)
    side = torch.copysign(torch.full_like(near, torch.inf), apart.to(dtype))
    return torch.where(bad & (apart != 0), torch.nextafter(near, side), near)


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest numbers of a type; the largest, where they are beyond it."""
    most = min(torch.finfo(kind).max for kind in (dtype, values.dtype))
    return values.clamp(-most, most).to(dtype)


def _gains(log_w: Tensor, before: Tensor) -> bool:
    """Whether one row's particles found much more mass than those before, or more count."""
    mass = [_mass(w) for w in (log_w, before)]
    if abs(mass[0] - mass[1]) > _MORE:
        return mass[0] > mass[1]
    count = [float(effective(shares(w))) for w in (log_w, before)]
    return count[0] > count[1]


def _mass(log_w: Tensor) -> float:
    """Log of the mean weight of one row, an estimate of log p(x_o) but for a constant."""
    return float(torch.logsumexp(log_w, 0)) - math.log(len(log_w))
