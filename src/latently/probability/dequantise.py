r"""Where the noise u comes from that makes densities of integers: of `y = x + u`, u in (0, 1).

For any density p of y and any noise q,

    log P(x) = log int_[0,1) p(x + u) du >= E_q(u|x) [log p(x + u) - log q(u|x)].

Uniform noise has log q = 0, and asks of p that it be flat over every cell. Noise that is learned
with p puts u where p is: the bound is tighter by what p and uniform noise disagree. With cells
missing, q reads the observed ones, and u of the missing ones counts as noise for which 1 is the
density: the bound of log P(x_o) holds as it is, with log q of all cells. Sources: Theis, van den
Oord, Bethge, "A note on the evaluation of generative models", 2016; Ho et al., "Flow++", 2019;
Hoogeboom, Cohen, Tomczak, "Learning Discrete Distributions by Dequantization", 2020.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Uniform
from torch.nn import functional

from latently.errors import UserError
from latently.nets import MLP
from latently.probability.flows import Bijection, FlowDistribution, RealNVP, log_normal
from latently.probability.flows._layers import Checkerboard, Layers
from latently.probability.flows._nets import ImageNet, weights
from latently.probability.flows.base import MOST_WEIGHTS
from latently.probability.flows.couplings import Affine

__all__ = ["Noise", "UniformNoise", "VariationalNoise"]

_WIDTH = 1.6  # sigmoid of a normal with this deviation is closest to uniform
_EDGE = 1e-6  # u keeps this far from 0 and 1: x + u is never another integer, in float32 either


@dataclass(frozen=True)
class Noise(ABC):
    """What noise to build."""

    @abstractmethod
    def build(self, shape: Sequence[int], levels: int) -> nn.Module:
        """The noise of rows of integers.

        Args:
            shape: shape of one row.
            levels: the integers are 0 .. levels - 1.

        Returns:
            A module whose `forward(x, mask=None)` gives, for integers x (B, *shape) and a mask of
            that shape, True where observed, the distribution of u: batch shape (B,), event shape
            `shape`, with `rsample` and `log_prob` (nats).

        Raises:
            UserError: fewer than 2 levels, or more than 2^27 weights.
        """


@dataclass(frozen=True)
class UniformNoise(Noise):
    """Noise spread evenly, `u ~ U(0, 1)`: log q = 0."""

    def build(self, shape: Sequence[int], levels: int) -> nn.Module:
        _check_levels("UniformNoise", levels)
        return _Even(len(tuple(shape)))


@dataclass(frozen=True)
class VariationalNoise(Noise):
    r"""Noise learned from the row, `u = sigmoid(1.6 f(eps; x))` with eps standard normal.

    `log q(u|x) = log N(eps; 0, I) - log |det du/deps|`. f is a chain of affine couplings: for
    images (C, H, W) or (H, W) of the colours of a checkerboard, in turn, by convolutional nets
    that read features of x at full resolution; for other rows of every second value, by nets that
    read features of x. f starts at the identity, or near it, where u is close to uniform (0.01
    nats per cell). u keeps 1e-6 away from 0 and 1. A draw takes one pass and knows its log q;
    other values take the inverse, which loses digits within 1e-6 of these ends.

    Attributes:
        steps: couplings; with fewer than 2 some cells follow no net.
        hidden: channels of the nets, or their units for rows that are no images.
        dropout: probability of zeroing a hidden value of a net of images in training.

    Raises:
        UserError: an option outside its range; when built, fewer than 2 levels or more than 2^27
            weights.

    >>> import torch
    >>> q = VariationalNoise(steps=2, hidden=8).build((1, 4, 4), 16)(torch.zeros(5, 1, 4, 4))
    >>> u = q.rsample((3,))
    >>> u.shape, q.log_prob(u).shape
    (torch.Size([3, 5, 1, 4, 4]), torch.Size([3, 5]))
    """

    steps: int = 4
    hidden: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "hidden"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(
                    f"VariationalNoise: {name}={value!r} must be a whole number of at least 1"
                )
        numeric = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool)
        if not numeric or not 0 <= self.dropout < 1:
            raise UserError(f"VariationalNoise: dropout={self.dropout!r} is outside [0, 1)")

    def build(self, shape: Sequence[int], levels: int) -> nn.Module:
        shape = tuple(shape)
        _check_levels("VariationalNoise", levels)
        if len(shape) not in (2, 3):
            features = MLP((2 * prod(shape),), (self.hidden,), hidden=(self.hidden,))
            f = RealNVP(transforms=self.steps, hidden=(self.hidden,)).build(shape, self.hidden)
            return _Learned(shape, levels, nn.Sequential(nn.Flatten(), features), f)
        channels, rows, columns = (1, *shape)[-3:]
        self._check_weights(channels)
        image = (channels, rows, columns)
        return _Learned(shape, levels, _Features(image, self.hidden), self._board(image))

    def _board(self, image: tuple[int, int, int]) -> Bijection:
        net = partial(
            ImageNet, hidden=self.hidden, blocks=1, dropout=self.dropout, context=self.hidden
        )
        steps = [Checkerboard(image[0], k % 2 == 1, Affine(), net) for k in range(self.steps)]
        return _Board(image, self.hidden, steps)

    def _check_weights(self, channels: int) -> None:
        coupling = weights(channels + 1, 2 * channels, self.hidden, 1, self.hidden)
        total = self.steps * coupling + 9 * self.hidden * (2 * channels + self.hidden)
        if total > MOST_WEIGHTS:
            raise UserError(
                f"VariationalNoise: {channels} channels need some {total:.0e} weights, more than "
                f"{MOST_WEIGHTS}; choose fewer steps or a smaller hidden"
            )


class _Even(nn.Module):
    """U(0, 1) in every cell.

    Args:
        ndim: number of event axes.
    """

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.ndim = ndim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Distribution:
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        even = Uniform(torch.zeros_like(x), torch.ones_like(x), validate_args=False)
        return Independent(even, self.ndim, validate_args=False)


class _Learned(nn.Module):
    """q(u|x), by features of x that a flow reads.

    Args:
        shape: shape of one row.
        levels: the integers are 0 .. levels - 1.
        features: from (B, 2, size), scaled integers and what is observed, to (B, *).
        bijection: f, given the flattened features.
    """

    def __init__(
        self, shape: tuple[int, ...], levels: int, features: nn.Module, bijection: Bijection
    ) -> None:
        super().__init__()
        self.shape, self.levels = shape, levels
        self.features, self.bijection = features, bijection

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Distribution:
        dtype = next(self.parameters()).dtype
        scaled = (2 * x.to(dtype) + 1) / self.levels - 1
        observed = torch.ones_like(scaled) if mask is None else mask.to(dtype)
        scaled = torch.where(observed > 0, scaled, 0)
        seen = torch.stack([scaled.flatten(1), observed.flatten(1)], 1)
        context = self.features(seen).flatten(1).to(dtype)
        return _Squashed(self.bijection, torch.zeros_like(scaled), len(self.shape), context)


class _Features(nn.Module):
    """Two convolutions of an image and its mask.

    Args:
        image: (C, H, W).
        hidden: channels out.
    """

    def __init__(self, image: tuple[int, int, int], hidden: int) -> None:
        super().__init__()
        self.image = image
        self.first = nn.Conv2d(2 * image[0], hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, hidden, 3, padding=1)

    def forward(self, seen: Tensor) -> Tensor:
        """(B, hidden, H, W) from (B, 2, C H W)."""
        x = seen.view(len(seen), 2 * self.image[0], *self.image[1:])
        return functional.silu(self.second(functional.silu(self.first(x))))


class _Board(Bijection):
    """Couplings of images, given features of their size.

    Args:
        image: (C, H, W) of one row.
        features: channels of the features.
        steps: the couplings.
    """

    def __init__(
        self, image: tuple[int, int, int], features: int, steps: Sequence[Checkerboard]
    ) -> None:
        super().__init__()
        self.image, self.maps = image, (features, *image[1:])
        self.layers = Layers(steps)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, image, maps = self._images(x, context)
        y, log_det = self.layers(image, maps)
        return y.reshape(*batch, -1), log_det.view(batch)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        batch, image, maps = self._images(y, context)
        return self.layers.inverse(image, maps).reshape(*batch, -1)

    def _images(self, x: Tensor, context: Tensor | None) -> tuple[torch.Size, Tensor, Tensor]:
        if context is None:
            raise UserError("VariationalNoise: its flow reads features, and was given none")
        batch = torch.broadcast_shapes(x.shape[:-1], context.shape[:-1])
        maps = context.expand(*batch, -1).reshape(-1, *self.maps)
        return batch, x.expand(*batch, -1).reshape(-1, *self.image), maps


class _Squashed(FlowDistribution):
    """`u = e + (1 - 2 e) sigmoid(1.6 f(eps; c))`, with e = 1e-6; the last draw knows its log q."""

    known_as = "VariationalNoise"
    _drawn: tuple[Tensor, Tensor, bool] | None = None

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats; minus infinity outside of the interval."""
        if self._drawn is not None:
            u, log_q, with_gradient = self._drawn
            if value is u and (with_gradient or not torch.is_grad_enabled()):
                return log_q
        inside = ((value >= _EDGE) & (value <= 1 - _EDGE)).flatten(-len(self.event_shape)).all(-1)
        return torch.where(inside, super().log_prob(value), -math.inf)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a pathwise gradient, of shape (*sample_shape, *batch, *event)."""
        eps = self._noise(sample_shape)
        v, log_det = self.bijection(eps, self.context)
        u = self._whole(_squashed(v))
        self._drawn = u, log_normal(eps) - log_det - _log_slope(v), torch.is_grad_enabled()
        return u

    def _to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        share = (z - _EDGE) / (1 - 2 * _EDGE)
        v = torch.logit(share, eps=torch.finfo(z.dtype).eps) / _WIDTH
        eps = self.bijection.inverse(v, self.context)
        return eps, -self.bijection(eps, self.context)[1] - _log_slope(v)

    def _from_noise(self, eps: Tensor) -> Tensor:
        return _squashed(self.bijection(eps, self.context)[0])


def _squashed(v: Tensor) -> Tensor:
    u = _EDGE + (1 - 2 * _EDGE) * torch.sigmoid(_WIDTH * v)
    return u.clamp(_EDGE, 1 - _EDGE)  # but for rounding it is


def _log_slope(v: Tensor) -> Tensor:
    """`log |det du/dv|`, summed over the last axis."""
    v = _WIDTH * v
    steep = functional.logsigmoid(v) + functional.logsigmoid(-v)
    return steep.sum(-1) + v.shape[-1] * math.log(_WIDTH * (1 - 2 * _EDGE))


def _check_levels(who: str, levels: Any) -> None:
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
        raise UserError(f"{who}: levels={levels!r} must be a whole number of at least 2")
