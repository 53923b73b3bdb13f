"""What the continuous families share: bounds on raw parameters, special functions, quantiles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "bent",
    "digamma_remainder",
    "excess",
    "exp_inside",
    "inside_unit",
    "quantiles",
    "scipy_special",
    "unbent",
]

_SERIES_FROM = 12.0  # here six terms of the asymptotic series have every digit of float64
_MARGIN = 0.99  # how near to a bound a start may lie: beyond, no gradient is left


def bent(x: Tensor, limit: float) -> Tensor:
    """`limit tanh(x / limit)`: x itself near 0, smoothly bounded, a gradient everywhere."""
    return limit * torch.tanh(x / limit)


def unbent(value: Tensor, limit: float) -> Tensor:
    """The x whose `bent` is a value, which is moved inside the bounds."""
    return limit * torch.atanh((value / limit).clamp(-_MARGIN, _MARGIN))


def excess(v: Tensor) -> Tensor:
    r"""`1 + v - e^v`, which is at most 0: of `r = e^v`, this is `log r - r + 1`.

    In exponents of gamma and beta densities the terms linear in r cancel; what is left are such
    excesses, zero where a value is what was expected, so that a factor of a million does no harm.
    """
    return v - torch.expm1(v)


def digamma_remainder(x: Tensor) -> Tensor:
    """`R'(x) = psi(x) - log x + 1 / (2 x)`, the slope of Stirling's remainder, for positive x."""
    small = x < _SERIES_FROM
    near = torch.where(small, x, 1.0)
    square = (1 / torch.where(small, _SERIES_FROM, x)).square()
    series = 1 / 252 - square * (1 / 240 - square * (1 / 132 - square * 691 / 32760))
    series = square * (-1 / 12 + square * (1 / 120 - square * series))
    exact = torch.digamma(near) - near.log() + 0.5 / near
    return torch.where(small, exact, series)


def exp_inside(y: Tensor) -> Tensor:
    """`e^y`, or the nearest number that its type holds: never 0, never infinite."""
    low, high = (-87.0, 88.0) if y.dtype == torch.float32 else (-708.0, 709.0)
    return y.clamp(low, high).exp()


def inside_unit(x: Tensor) -> Tensor:
    """The nearest number between 0 and 1, both excluded, that the type of x holds."""
    info = torch.finfo(x.dtype)
    return x.clamp(info.tiny, 1 - info.eps / 2)


@torch.no_grad()
def scipy_special(name: str, *values: Tensor) -> Tensor:
    """A function of `scipy.special`, in float64 and without a gradient; type of the first."""
    from scipy import special  # only where probabilities or quantiles are asked for

    arrays = [v.detach().double().cpu().numpy() for v in values]
    return torch.as_tensor(getattr(special, name)(*arrays)).to(values[0])


def quantiles(x: Tensor, mask: Tensor | None, levels: Sequence[float]) -> Tensor:
    """Quantiles of every coordinate over the observed rows, (levels, *shape); 0 where none."""
    x = x.double()
    seen = x.isfinite() if mask is None else mask
    ordered = torch.where(seen, x, torch.inf).sort(0).values
    last = (seen.sum(0) - 1).clamp(min=0)
    places = torch.tensor(levels, dtype=x.dtype, device=x.device).view(-1, *(1,) * last.dim())
    places = places * last
    low, high = (ordered.gather(0, place.long()) for place in (places.floor(), places.ceil()))
    found = low + (places - places.floor()) * (high - low)
    return torch.where(seen.any(0), found, 0.0)
