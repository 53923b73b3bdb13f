r"""Chains from a distribution that can be drawn from to the posterior, and back.

On the way the target at inverse temperature b is `f_b(u) = exp(base(u) + b gain(u))`:

    from the prior:      base = log p(z),      gain = log p(x|z)
    from the posterior:  base = log q(z|x),    gain = log p(x, z) - log q(z|x)

with all layers of z side by side, on the whole line: `z = T(u)`, and base takes in `log |dT/du|`.
A model that adds noise of its own when it scores z (dequantization) has that noise beside z, under
its own density. So `f_0` is normalised and `f_1` sums to p(x).

How far a leapfrog step goes at each b, and which b are visited, is learned by a pilot run with
draws of its own and then held: chains that adapt while they are weighted are no valid chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to
from torch.distributions.constraints import Constraint

from latently.errors import UserError
from latently.inference._hmc import State, Tuning, evaluated, transition
from latently.inference._mode import evaluating
from latently.inference.noise import derive, seeded
from latently.inference.rows import Rows

__all__ = [
    "PILOT_CHAINS",
    "Noise",
    "Pilot",
    "Start",
    "Target",
    "ahead",
    "arrivals",
    "back",
    "called",
    "continuous",
    "pilot",
    "still",
]

Start = Literal["prior", "posterior"]

ACCEPTANCE = 0.8  # what the pilot steers to; at 0.65 log-weights varied up to twice as much
PILOT_CHAINS = 16
PILOT_SHARE = 5  # the pilot takes a fifth of the steps,
PILOT_LEAST = 50  # but this many at least
_WARM = 15  # moves before the first temperature
_GAIN = 0.8  # nats that a wholly wrong acceptance moves the log step size by
_MEMORY = 0.85  # of the running variance that scales the steps
_POWER = 4.0  # the pilot visits b = s^4: the prior changes fastest near 0
_EVEN = 0.2  # share of the temperatures that stay where the pilot had them


@contextmanager
def still(model: Any) -> Iterator[None]:
    """The model in eval mode, its parameters out of the graph, and as it was afterwards."""
    moving = [p for p in model.parameters() if p.requires_grad]
    for p in moving:
        p.requires_grad_(False)
    try:
        with evaluating(model):
            yield
    finally:
        for p in moving:
            p.requires_grad_(True)


class Noise:
    """Draws of R rows from R generators, so that a row's do not depend on its company."""

    def __init__(self, keys: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        self.generators = [torch.Generator(device).manual_seed(key) for key in keys]
        self.device, self.dtype = device, dtype

    def momentum(self, chains: int, size: int) -> Tensor:
        """Standard normal, (chains, R, size)."""
        return self._filled(torch.Tensor.normal_, chains, size)

    def uniform(self, chains: int, size: int) -> Tensor:
        """From 0 to 1, (chains, R, size)."""
        return self._filled(torch.Tensor.uniform_, chains, size)

    def _filled(self, fill: Callable[..., Tensor], chains: int, size: int) -> Tensor:
        shape = (len(self.generators), chains, size)
        found = torch.empty(shape, dtype=self.dtype, device=self.device)
        for row, generator in zip(found, self.generators, strict=True):
            fill(row, generator=generator)
        return found.transpose(0, 1)


class Target:
    """`base` and `gain` of R rows at flat states u on the whole line.

    Args:
        model: any with a density and continuous latents.
        rows: R of them.
        start: where the chains come from.

    Raises:
        UserError: the model has no density, counted latents, or does not say where they lie.
    """

    def __init__(self, model: Any, rows: Rows, start: Start) -> None:
        self.model, self.rows, self.start = model, rows, start
        self.transforms = [biject_to(c) for c in continuous(model)]
        self.shapes: list[tuple[int, ...]] = []
        self.noisy = False

    def draw(self, keys: Sequence[int], chains: int) -> Tensor:
        """Starting states (chains, R, D), those of row r from the generator of `keys[r]`."""
        found = []
        for i, key in enumerate(keys):
            with torch.no_grad(), seeded(key, self.rows.x.device):
                found.append(self._draw_row(slice(i, i + 1), chains))
        return torch.cat(found, 1)

    def place(self, z: tuple[Tensor, ...]) -> Tensor:
        """The states (C, R, D) of latents z, one (C, R, *Z) per layer."""
        pairs = zip(self.transforms, z, strict=True)
        return self._joined([t.inv(layer) for t, layer in pairs])

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = zip(u.split(sizes, -1), self.shapes, strict=True)
        pieces = iter([part.reshape(*u.shape[:2], *shape) for part, shape in parts])
        z, log_det = [], torch.zeros_like(u[..., 0])
        for t in self.transforms:
            part = next(pieces)
            z.append(t(part))
            log_det = log_det + _per_row(t.log_abs_det_jacobian(part, z[-1]))

        def noise(q: Distribution, samples: int) -> Tensor:
            nonlocal log_det
            part, t = next(pieces), biject_to(q.support)
            value: Tensor = t(part)
            slopes = _per_row(t.log_abs_det_jacobian(part, value))
            log_det = log_det + _per_row(q.log_prob(value)) + slopes
            return value

        how: dict[str, Any] = {"z": tuple(z), "draw": noise}
        p = self.model.infer(self.rows.x, len(u), self.rows.mask, self.rows.context, **how)
        log_prior = sum(p.log_prior) + log_det
        if self.start == "prior":
            return log_prior, p.log_lik
        log_q = sum(p.log_q) + log_det
        return log_q, p.log_lik + log_prior - log_q

    def _draw_row(self, row: slice, chains: int) -> Tensor:
        """Latents, and whatever else is drawn when they are scored, of one row."""
        x, mask, context = self.rows.part(row)
        drawn: list[Tensor] = []

        def noise(q: Distribution, samples: int) -> Tensor:
            value = q.sample(torch.Size((samples,)))
            drawn.append(biject_to(q.support).inv(value))
            return value

        if self.start == "prior":
            each = None if context is None else context.expand(chains, *context.shape[1:])
            z = tuple(layer.transpose(0, 1) for layer in self.model.latents(chains, each))
        else:
            z = self.model.infer(x, chains, mask, context).z
        if len(z) != len(self.transforms):
            raise UserError(
                f"AIS: {called(self.model)} has {len(z)} layers of latents and says where "
                f"{len(self.transforms)} lie (latent_constraints); use ImportanceSampling(samples)"
            )
        self.model.infer(x, chains, mask, context, z=z, draw=noise)
        self.noisy = bool(drawn)
        if self.noisy and self.start == "posterior":
            raise UserError(
                f"AIS: {called(self.model)} draws noise whenever it scores a latent, which "
                "start='posterior' has no density for; use start='prior'"
            )
        pairs = zip(self.transforms, z, strict=True)
        return self._joined([t.inv(layer) for t, layer in pairs] + drawn)

    def _joined(self, pieces: list[Tensor]) -> Tensor:
        self.shapes = [tuple(piece.shape[2:]) for piece in pieces]
        u = torch.cat([piece.reshape(*piece.shape[:2], -1) for piece in pieces], -1)
        edge = 0.9 * math.log(torch.finfo(u.dtype).max)  # for draws rounded to the end of a range
        return u.nan_to_num(nan=0.0, posinf=edge, neginf=-edge)


class Pilot(NamedTuple):
    """What a trial run learned of each row.

    Attributes:
        grid: the inverse temperatures it visited, (P + 1,), ascending from 0.
        log_step: log step size at each, (P + 1, R).
        scale: relative step size of each value of u, (P + 1, R, D).
        position: how far along the way each lies, from 0 to 1, (P + 1, R).
    """

    grid: Tensor
    log_step: Tensor
    scale: Tensor
    position: Tensor

    def betas(self, steps: int, stops: Sequence[float]) -> Tensor:
        """The way of each row through all `stops`, (T + 1, R), from 0 to the last of them.

        Rows share the number of steps between two stops, and are there at the steps of `arrivals`.
        """
        position = self.position.T
        grid = self.grid.expand_as(position)
        parts = [torch.zeros_like(position[:, :1])]
        reached, done = parts[0], 0
        for stop, end in zip(stops, arrivals(steps, len(stops)), strict=True):
            at = torch.full_like(reached, stop)
            next_ = _interpolated(grid, at, position)
            share = torch.linspace(0, 1, end - done + 1, dtype=at.dtype, device=at.device)[1:-1]
            between = _interpolated(position, torch.lerp(reached, next_, share), grid)
            parts += [between, at]
            reached, done = next_, end
        return torch.cat(parts, 1).T

    def tuning(self, beta: Tensor) -> Tuning:
        """Step sizes at one inverse temperature per row, (R,)."""
        last = len(self.grid) - 1
        right = torch.searchsorted(self.grid, beta.double().contiguous()).clamp(1, last)
        left, row = right - 1, torch.arange(len(beta), device=beta.device)
        low, high = self.grid[left], self.grid[right]
        share = ((beta - low) / (high - low)).to(self.scale.dtype)
        step = torch.lerp(self.log_step[left, row], self.log_step[right, row], share).exp()
        scale = torch.lerp(self.scale[left, row], self.scale[right, row], share[:, None])
        return Tuning(step, scale)


def pilot(target: Target, keys: Sequence[int], steps: int, leapfrog: int, end: float) -> Pilot:
    """A quick trial run of every row to inverse temperature `end`, with draws of its own.

    Step sizes follow the acceptance (Robbins, Monro, 1951), their scales a running variance over
    chains. Temperatures are to be spaced by the deviation of the gain, so that every step of the
    run adds as much variance to its log-weights.
    """
    count = max(PILOT_LEAST, -(-steps // PILOT_SHARE))
    own = [derive(key, "pilot") for key in keys]
    state = evaluated(target, target.draw(own, PILOT_CHAINS))
    device, dtype, size = state.u.device, state.u.dtype, state.u.shape[-1]
    noise = Noise([derive(key, "moves") for key in own], device, dtype)
    grid = torch.linspace(0, 1, count + 1, dtype=torch.float64, device=device) ** _POWER * end
    log_step = torch.full((len(keys),), -0.25 * math.log(size), dtype=dtype, device=device)
    variance = _variance(state.u)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for b in [0.0] * _WARM + grid.tolist():
        beta = torch.full_like(log_step, b)
        tuning = Tuning(log_step.exp(), variance.sqrt())
        drawn = noise.momentum(PILOT_CHAINS, size), noise.uniform(PILOT_CHAINS, 2)
        state, accept = transition(target, state, beta, tuning, leapfrog, *drawn)
        log_step = log_step + _GAIN * (accept.mean(0).to(dtype) - ACCEPTANCE)
        variance = torch.lerp(_variance(state.u), variance, _MEMORY)
        spread = state.gain.double().nan_to_num(nan=0.0, neginf=0.0).std(0)
        found.append((log_step, variance.sqrt(), spread))
    steps_, scales, spreads = (torch.stack(part[_WARM:]) for part in zip(*found, strict=True))
    return Pilot(grid, steps_, scales, _position(grid, spreads))


def arrivals(steps: int, stops: int) -> list[int]:
    """The steps at which each of so many stops is reached: T or more, if there are more stops.

    >>> arrivals(10, 3)
    [3, 6, 10]
    """
    return [max(k, steps * k // stops) for k in range(1, stops + 1)]


def ahead(
    target: Target, u: Tensor, betas: Tensor, learned: Pilot, leapfrog: int, noise: Noise
) -> Iterator[tuple[Tensor, State, Tensor]]:
    """Annealing of chains from draws of `f_0`.

    Yields, for every temperature, `log w` (C, R) in float64, the state moved at it, and the
    acceptance (C, R); `E w` is the sum of `f_b`.
    """
    state = evaluated(target, u)
    betas = betas.to(u.dtype)
    log_w = torch.zeros_like(state.gain, dtype=torch.float64)
    for last, beta in pairwise(betas):
        log_w = log_w + _gained(state, last, beta)
        state, accept = _moved(target, state, beta, learned, leapfrog, noise)
        yield log_w, state, accept


def back(
    target: Target, u: Tensor, betas: Tensor, learned: Pilot, leapfrog: int, noise: Noise
) -> Iterator[tuple[Tensor, State, Tensor]]:
    """The same way in reverse, from draws of `f_1` normalised: `E 1/w` is 1 over its sum."""
    state = evaluated(target, u)
    betas = betas.to(u.dtype).flip(0)
    log_w = torch.zeros_like(state.gain, dtype=torch.float64)
    for beta, after in pairwise(betas):
        state, accept = _moved(target, state, beta, learned, leapfrog, noise)
        log_w = log_w + _gained(state, after, beta)
        yield log_w, state, accept


def continuous(model: Any) -> tuple[Constraint, ...]:
    """Where the latents of a model lie.

    Raises:
        UserError: it has no density, an exact one without latents, or latents that are counted.
    """
    if model.density is None:
        raise UserError(f"AIS: {model.no_density}")
    found = tuple(model.latent_constraints())
    if not found and model.density == "exact":
        raise UserError(f"AIS: {called(model)} has no latents to move; leave the method out")
    if any(c is None for c in found):
        raise UserError(
            f"AIS: {called(model)} has latents that are counted, and Hamiltonian Monte Carlo "
            "moves continuous ones; use Enumeration or ImportanceSampling(samples)"
        )
    return found


def called(model: Any) -> str:
    """A model's name in a message."""
    return type(model).__name__


def _moved(
    target: Target, state: State, beta: Tensor, learned: Pilot, leapfrog: int, noise: Noise
) -> tuple[State, Tensor]:
    chains, _, size = state.u.shape
    drawn = noise.momentum(chains, size), noise.uniform(chains, 2)
    return transition(target, state, beta, learned.tuning(beta), leapfrog, *drawn)


def _gained(state: State, low: Tensor, high: Tensor) -> Tensor:
    """`(b - b') gain`, (C, R); a state outside the support has weight 0 from there on."""
    gained = (high.double() - low.double()) * state.gain.double()
    return gained.nan_to_num(nan=-math.inf, neginf=-math.inf)


def _position(grid: Tensor, spreads: Tensor) -> Tensor:
    """`int_0^b sd(gain) db'` over its whole, (P + 1, R), with a share of evenly spaced points."""
    pieces = 0.5 * (spreads[1:] + spreads[:-1]) * grid.diff()[:, None]
    total = pieces.sum(0).clamp(min=torch.finfo(pieces.dtype).tiny)
    pieces = (1 - _EVEN) * pieces / total + _EVEN / len(pieces)
    found = torch.cat([torch.zeros_like(pieces[:1]), pieces.cumsum(0)])
    return found / found[-1]


def _interpolated(x: Tensor, at: Tensor, y: Tensor) -> Tensor:
    """y at points (R, M), linear between points x, (R, P), ascending."""
    right = torch.searchsorted(x.contiguous(), at.contiguous()).clamp(1, x.shape[1] - 1)
    low, high = x.gather(1, right - 1), x.gather(1, right)
    share = (at - low) / (high - low)
    return torch.lerp(y.gather(1, right - 1), y.gather(1, right), share)


def _variance(u: Tensor) -> Tensor:
    """Over chains, (R, D), never 0."""
    return u.var(0).clamp(min=1e-12)


def _per_row(terms: Tensor) -> Tensor:
    """(C, R, *) summed to (C, R)."""
    return terms.flatten(2).sum(-1) if terms.dim() > 2 else terms
