r"""One step of Hamiltonian Monte Carlo, for many chains of many rows at once.

For the density `f_b(u) = exp(base(u) + b gain(u))` of flat states u on the whole line, a
trajectory of the leapfrog integrator with momenta `p ~ N(0, I)` is proposed and accepted with
probability `min(1, exp(H(u, p) - H(u', p')))`, `H = -log f_b(u) + p'p / 2`. The step leaves f_b
invariant and is its own reversal. Source: Neal, "MCMC using Hamiltonian Dynamics", 2011.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Potential", "State", "Tuning", "evaluated", "transition"]

JITTER = 0.2  # step sizes vary by this share: a fixed one can meet the period of a Gaussian

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]  # u (C, R, D) to base and gain, (C, R)


class State(NamedTuple):
    """C chains of R rows.

    Attributes:
        u: where they are, (C, R, D).
        base: log density at inverse temperature 0, (C, R).
        gain: what inverse temperature 1 adds to it, (C, R).
        base_slope: gradient of base, (C, R, D).
        gain_slope: gradient of gain, (C, R, D).
    """

    u: Tensor
    base: Tensor
    gain: Tensor
    base_slope: Tensor
    gain_slope: Tensor


class Tuning(NamedTuple):
    """How far a leapfrog step goes, per row: `step` (R,) times `scale` (R, D)."""

    step: Tensor
    scale: Tensor


def evaluated(potential: Potential, u: Tensor) -> State:
    """The state at u."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        base, gain = potential(u)
        gain_slope = _slope(gain, u, keep=True)
        base_slope = _slope(base, u)
    return State(u.detach(), base.detach(), gain.detach(), base_slope, gain_slope)


def transition(
    potential: Potential,
    state: State,
    beta: Tensor,
    tuning: Tuning,
    leapfrog: int,
    momentum: Tensor,
    uniform: Tensor,
) -> tuple[State, Tensor]:
    """Moves every chain once.

    A trajectory that leaves the finite numbers is rejected: no state becomes NaN.

    Args:
        potential: base and gain at u.
        state: of every chain.
        beta: inverse temperature of each row, (R,).
        tuning: step sizes.
        leapfrog: steps of a trajectory.
        momentum: standard normal, (C, R, D).
        uniform: from 0 to 1, (C, R, 2): for the jitter and for the acceptance.

    Returns:
        The new state and the probability with which each proposal was accepted, (C, R).
    """
    jitter = 1 + JITTER * (2 * uniform[..., 0] - 1)
    stride = (tuning.step * jitter)[..., None] * tuning.scale
    u, p = state.u, momentum
    slope = state.base_slope + beta[:, None] * state.gain_slope
    for left in reversed(range(leapfrog)):
        p = p + 0.5 * stride * slope
        moved = u + stride * p
        finite = torch.isfinite(moved)
        u, p = torch.where(finite, moved, u), torch.where(finite, p, torch.nan)
        if left:
            slope = _tempered_slope(potential, u, beta)
        else:
            end = evaluated(potential, u)
            slope = end.base_slope + beta[:, None] * end.gain_slope
        p = p + 0.5 * stride * slope
    change = _energy(state, momentum, beta) - _energy(end, p, beta)
    accept = change.clamp(max=0).exp().nan_to_num(nan=0.0)
    taken = uniform[..., 1] < accept
    chosen = State(*(_where(taken, new, old) for new, old in zip(end, state, strict=True)))
    return chosen, accept


def _energy(state: State, p: Tensor, beta: Tensor) -> Tensor:
    """`H(u, p)`, (C, R), in float64: what is lost to rounding is that of the model alone."""
    density = state.base.double() + beta.double() * state.gain.double()
    return 0.5 * p.double().square().sum(-1) - density


def _tempered_slope(potential: Potential, u: Tensor, beta: Tensor) -> Tensor:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        base, gain = potential(u)
        return _slope(base + beta * gain, u)


def _slope(value: Tensor, u: Tensor, keep: bool = False) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(u)
    (found,) = torch.autograd.grad(value.sum(), u, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(u) if found is None else found


def _where(taken: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(taken.view(*taken.shape, *(1,) * (new.dim() - 2)), new, old)
