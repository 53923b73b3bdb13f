r"""Couplings: monotone maps of one value whose parameters a net computes from other values.

A coupling keeps the values a of a row and maps the others, `y_b = g(x_b; h(a))`, one by one: its
Jacobian is triangular, `log |det| = sum_b log g'(x_b)`, and it is inverted by the inverse of g
with the same h. Every g here maps all real numbers onto all real numbers, and is the identity, or
near it, where its parameters are 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latently.errors import UserError
from latently.probability.flows.base import check_between

__all__ = ["Additive", "Affine", "Coupling", "LogisticMixture", "Spline"]

_LEAST_SHARE = 0.1  # of a spline's box, dealt evenly to its bins
_LOG_SLOPE_LIMIT = 3.0  # of a spline's knots
_LOG_SCALE_LIMIT = 4.0  # of logistics
_LEAST_SLOPE = 0.05  # of a mixture's logit: without it there is no way back from between modes
_HALVINGS = 24
_NEWTON_STEPS = 4


@dataclass(frozen=True)
class Coupling(ABC):
    """A monotone map of one value, from parameters h (*, params)."""

    @property
    @abstractmethod
    def params(self) -> int:
        """Parameters of the map of one value."""

    @abstractmethod
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """`g(x; h)` and `log g'(x; h)`, both (*), of x (*) and h (*, params)."""

    @abstractmethod
    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        """The x (*) with `g(x; h) = y`, with its gradient."""


@dataclass(frozen=True)
class Additive(Coupling):
    r"""A shift, `y = x + b`: volumes are kept, nothing can overflow.

    The cheapest coupling and the least flexible: scales must come from other layers. Source: Dinh,
    Krueger, Bengio, "NICE: Non-linear Independent Components Estimation", 2015.
    """

    @property
    def params(self) -> int:
        return 1

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x + h[..., 0], torch.zeros_like(x)

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        return y - h[..., 0]


@dataclass(frozen=True)
class Affine(Coupling):
    r"""A shift and a scale, `y = x exp(a) + b` with `|a|` below `bound`.

    Source: Dinh, Sohl-Dickstein, Bengio, "Density Estimation using Real NVP", 2017.

    Attributes:
        bound: the largest |a|; 2 lets one coupling scale by 7.4.

    Raises:
        UserError: `bound` outside (0, 10].

    >>> Affine().forward(torch.ones(3), torch.zeros(3, 2))[0]
    tensor([1., 1., 1.])
    """

    bound: float = 2.0

    def __post_init__(self) -> None:
        check_between(self, "bound", self.bound, 10.0)

    @property
    def params(self) -> int:
        return 2

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        log_slope = _bounded(h[..., 0], self.bound)
        return x * log_slope.exp() + h[..., 1], log_slope

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        return (y - h[..., 1]) * (-_bounded(h[..., 0], self.bound)).exp()


@dataclass(frozen=True)
class Spline(Coupling):
    r"""A monotone rational-quadratic spline on [-`bound`, `bound`], the identity outside.

    In bin k, of width w_k, height v_k and slope `s = v_k / w_k`, with `t = (x - x_k) / w_k` and
    slopes d at the knots,

        y = y_k + v_k (s t^2 + d_k t (1 - t)) / (s + (d_{k+1} + d_k - 2 s) t (1 - t)),

    inverted by the root of a quadratic. Each bin has at least a tenth of an even share of the box,
    and `|log d|` is below 3. Source: Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows",
    2019.

    Attributes:
        bins: pieces, at least 2; a spline has 3 bins - 1 parameters.
        bound: half the side of the box; values are about standardised where couplings see them.

    Raises:
        UserError: fewer than 2 or more than 256 `bins`, or a `bound` outside (0, 1000].

    >>> Spline(bins=4).forward(torch.tensor([0.5, 9.0]), torch.zeros(2, 11))[0]
    tensor([0.5000, 9.0000])
    """

    bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        _check_count(self, "bins", self.bins, 2, 256)
        check_between(self, "bound", self.bound, 1000.0)

    @property
    def params(self) -> int:
        return 3 * self.bins - 1

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        left, low, width, height, d_0, d_1 = self._bin(x, h, inverse=False)
        s = height / width
        t = ((x.clamp(-self.bound, self.bound) - left) / width).clamp(0, 1)
        u = 1 - t
        below = s * (t * t + u * u) + (d_0 + d_1) * t * u
        y = low + height * t * (s * t + d_0 * u) / below
        log_slope = (d_1 * t * t + 2 * s * t * u + d_0 * u * u).log() + 2 * (s / below).log()
        inside = x.abs() < self.bound
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0)

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        left, low, width, height, d_0, d_1 = self._bin(y, h, inverse=True)
        s = height / width
        r = ((y.clamp(-self.bound, self.bound) - low) / height).clamp(0, 1)
        bend = r * (d_1 + d_0 - 2 * s)
        a, b = s - d_0 + bend, d_0 - bend
        root = (b * b + 4 * a * s * r).clamp(min=torch.finfo(y.dtype).tiny).sqrt()
        t = (2 * s * r / (b + root)).clamp(0, 1)
        return torch.where(y.abs() < self.bound, left + t * width, y)

    def _bin(self, value: Tensor, h: Tensor, inverse: bool) -> tuple[Tensor, ...]:
        """Of the bin with the value: left, low, width, height and the slopes at both ends."""
        raw_widths, raw_heights, raw_slopes = h.split([self.bins, self.bins, self.bins - 1], -1)
        widths, x = self._knots(raw_widths)
        heights, y = self._knots(raw_heights)
        slopes = functional.pad(_bounded(raw_slopes, _LOG_SLOPE_LIMIT), (1, 1)).exp()
        inner = (y if inverse else x)[..., 1:]
        k = (inner <= value.unsqueeze(-1)).sum(-1, keepdim=True)
        chosen = [(x, k), (y, k), (widths, k), (heights, k), (slopes, k), (slopes, k + 1)]
        return tuple(values.gather(-1, place).squeeze(-1) for values, place in chosen)

    def _knots(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Sizes of the bins and where each begins."""
        shares = _LEAST_SHARE / self.bins + (1 - _LEAST_SHARE) * raw.softmax(-1)
        sizes = 2 * self.bound * shares
        return sizes, functional.pad(sizes[..., :-1].cumsum(-1), (1, 0)) - self.bound


@dataclass(frozen=True)
class LogisticMixture(Coupling):
    r"""The distribution function of a mixture of logistics, its logit, a scale and a shift.

    `y = (0.95 logit(sum_k pi_k sigmoid((x - m_k) / s_k)) + 0.05 x) exp(a) + b`, with `|a|` below 2
    and `|log s_k|` below 4. It makes one mode of two. It is computed from logarithms on both
    sides, so that nothing overflows; x is added, which the source does not, so that no slope
    vanishes between two modes; at first the means lie spread on [-1, 1], or all components would
    learn the same. The inverse brackets x by the components' own inverses, halves 24 times, then
    takes Newton steps; its gradient is implicit, and of first order only. Source:
    Ho, Chen, Srinivas, Duan, Abbeel, "Flow++: Improving Flow-Based Generative Models with
    Variational Dequantization and Architecture Design", 2019.

    Attributes:
        components: logistics; a map has 3 components + 2 parameters.

    Raises:
        UserError: fewer than 1 or more than 256 `components`.

    >>> g, h = LogisticMixture(components=4), torch.randn(5, 14).double()
    >>> x = torch.linspace(-9, 9, 5).double()
    >>> bool((g.inverse(g.forward(x, h)[0], h) - x).abs().max() < 1e-9)
    True
    """

    components: int = 8

    def __post_init__(self) -> None:
        _check_count(self, "components", self.components, 1, 256)

    @property
    def params(self) -> int:
        return 3 * self.components + 2

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift, *mixture = self._parts(h)
        y, log_slope = self._logit(x, *mixture)
        return y * log_scale.exp() + shift, log_slope + log_scale

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        log_scale, shift, *mixture = self._parts(h)
        y = (y - shift) * (-log_scale).exp()
        with torch.no_grad():
            x = self._solve(y, *mixture)
        found, log_slope = self._logit(x, *mixture)
        return x - (found - y) * (-log_slope.detach()).exp()

    def _parts(self, h: Tensor) -> tuple[Tensor, ...]:
        """Log scale and shift of y; log pi, means and log scales of the logistics."""
        n = self.components
        outer, logits, means, log_scales = h.split([2, n, n, n], -1)
        if n > 1:
            means = means + torch.linspace(-1, 1, n, dtype=h.dtype, device=h.device)
        log_scales = _bounded(log_scales, _LOG_SCALE_LIMIT)
        log_scale = _bounded(outer[..., 0], 2.0)
        return log_scale, outer[..., 1], logits.log_softmax(-1), means, log_scales

    def _logit(
        self, x: Tensor, log_pi: Tensor, means: Tensor, log_scales: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The logit of the mixture's distribution function with some x, and its log slope."""
        z = (x.unsqueeze(-1) - means) * (-log_scales).exp()
        log_below, log_above = functional.logsigmoid(z), functional.logsigmoid(-z)
        below, above = (log_pi + log_below).logsumexp(-1), (log_pi + log_above).logsumexp(-1)
        log_p = (log_pi + log_below + log_above - log_scales).logsumexp(-1)
        slope = _LEAST_SLOPE + (1 - _LEAST_SLOPE) * (log_p - below - above).exp()
        return _LEAST_SLOPE * x + (1 - _LEAST_SLOPE) * (below - above), slope.log()

    def _solve(self, y: Tensor, log_pi: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
        steep = (1 - _LEAST_SLOPE) * (-log_scales).exp()
        own = (y.unsqueeze(-1) + steep * means) / (_LEAST_SLOPE + steep)
        low, high = own.amin(-1), own.amax(-1)
        for _ in range(_HALVINGS):
            x = 0.5 * (low + high)
            over = self._logit(x, log_pi, means, log_scales)[0] > y
            low, high = torch.where(over, low, x), torch.where(over, x, high)
        x = 0.5 * (low + high)
        for _ in range(_NEWTON_STEPS):
            found, log_slope = self._logit(x, log_pi, means, log_scales)
            step = (found - y) * (-log_slope).exp()
            x = torch.minimum(torch.maximum(x - step, low), high)
        return x


def _bounded(value: Tensor, limit: float) -> Tensor:
    return limit * torch.tanh(value / limit)


def _check_count(coupling: Coupling, name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(
            f"{type(coupling).__name__}: {name}={value!r} must be a whole number from {least} "
            f"to {most}"
        )
