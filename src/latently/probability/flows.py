r"""Normalizing flows: bijections f with a triangular Jacobian, made of nets.

A flow is a small frozen object, such as `NSF(transforms=2)`, that builds the bijection
`y = f(x; c)` of a number of features. Two parts of the library use it, in its two directions:

    FlowPrior:   eps = f(z),        log p(z) = log N(f(z); 0, I) + log |det df/dz|;
    FlowNormal:  z = m + s f(eps),  log q(z) = log N(eps; 0, I) - log |det s df/deps|.

Forwards f takes one pass of its nets. Backwards, an autoregressive flow takes as many as there are
features and a coupling flow two. All start near the identity, and hidden units are tanh, so that
no net runs away far out. Sources: Rezende, Mohamed, "Variational Inference with Normalizing
Flows", 2015; Papamakarios et al., "Normalizing Flows for Probabilistic Modeling and Inference",
2021. The transforms are those of Zuko (Rozet et al.), of which the members here are the ones whose
inverse is exact on all real numbers.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import _InverseTransform

from latently.errors import UserError

__all__ = ["MAF", "NSF", "Bijection", "Flow", "FlowDistribution", "RealNVP", "check_flow"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_START = 1e-2  # of what the last layers of the nets would start at: f(x) is x, to two digits
_AFFINE_SLOPE = 0.2  # least slope of an affine map, the largest is 5: no scale runs away
_SPLINE_SLOPE = 1e-2
_MOST_WEIGHTS = 2**27
_PAIRS = 64
_BLOCK_VALUES = 2**20  # values pushed through a flow at once where moments are taken


class Bijection(nn.Module):
    """The bijection `y = f(x; c)` of vectors, as a chain of Zuko's transforms.

    Args:
        layers: Zuko's lazy transforms, over the last axis, in order.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`f(x)`, (*, D), and `log |det df/dx|`, (*,), of x (*, D) given c (*, C)."""
        log_det = x.new_zeros(())
        for layer in self.layers:
            x, change = layer(context).call_and_ladj(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """The x with `f(x) = y`, with its gradient."""
        for layer in reversed(self.layers):
            y = layer(context).inv(y)
        return y


@dataclass(frozen=True)
class Flow(ABC):
    """What bijection to build: a chain of `transforms` of one kind.

    Attributes:
        transforms: number of transforms; each second one takes the features in reverse.
        hidden: widths of the hidden layers of each transform's net. In an autoregressive flow,
            units are dealt to the features in turn: a width below the number of features leaves
            some features unread by the ones after them.

    Raises:
        UserError: an option that is no positive whole number.
    """

    transforms: int = 3
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        hidden = (self.hidden,) if isinstance(self.hidden, int) else tuple(self.hidden)
        object.__setattr__(self, "hidden", hidden)
        for name, value in (("transforms", self.transforms), *(("hidden", n) for n in hidden)):
            self._check_whole(name, value, 1)

    @abstractmethod
    def layer(self, number: int, features: int, context: int) -> nn.Module:
        """Zuko's lazy transform at a place in the chain, 0 the first."""

    @property
    @abstractmethod
    def params(self) -> int:
        """Parameters of the map of one feature."""

    def build(self, features: int, context: int = 0) -> Bijection:
        """The bijection of `features` values given a context of `context` values; 0: none.

        Masks are computed from values, so that it is built on the CPU, then moved to where
        tensors are made at present.

        Raises:
            UserError: it would have more than 2^27 weights.
        """
        self._check_size(features, context)
        place = torch.empty(0).device
        with torch.device("cpu"):
            layers = [self.layer(i, features, context) for i in range(self.transforms)]
            for layer in layers:
                _start_small(layer)
        return Bijection(layers).to(place)

    def _check_whole(self, name: str, value: Any, least: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(
                f"{type(self).__name__}: {name}={value!r} must be a whole number of at least "
                f"{least}"
            )

    def _check_size(self, features: int, context: int) -> None:
        widths = (features + context, *self.hidden, features * self.params)
        nets = sum(a * b for a, b in pairwise(widths))
        weights = self.transforms * (nets + widths[0] * widths[-1])
        if weights > _MOST_WEIGHTS:
            raise UserError(
                f"{type(self).__name__}: {features} features need some {weights:.0e} weights, "
                f"more than {_MOST_WEIGHTS}; choose fewer transforms, a smaller hidden, or fewer "
                "features"
            )


@dataclass(frozen=True)
class MAF(Flow):
    r"""Masked autoregressive flow: each value scaled and moved by a net of those before it.

    `y_j = x_j exp(a_j) + b_j` with `(a_j, b_j)` of `x_1 .. x_{j-1}`, and `|a_j|` below log 5.
    The cheapest of them here. Drawn from, it is the inverse autoregressive flow. Source:
    Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation", 2017;
    Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", 2016.

    >>> MAF(transforms=2).build(4)(torch.zeros(7, 4))[1].shape
    torch.Size([7])
    """

    @property
    def params(self) -> int:
        return 2

    def layer(self, number: int, features: int, context: int) -> nn.Module:
        zuko = _zuko()
        return zuko.flows.MaskedAutoregressiveTransform(
            features,
            context,
            order=_order(number, features),
            univariate=partial(zuko.transforms.MonotonicAffineTransform, slope=_AFFINE_SLOPE),
            hidden_features=self.hidden,
            activation=nn.Tanh,
        )


@dataclass(frozen=True)
class NSF(Flow):
    r"""Neural spline flow: each value through a rational-quadratic spline, by a net of the others.

    Monotone splines of `bins` pieces on [-5, 5], the identity outside. More flexible than `MAF`
    (one feature, too, can have several modes) at five to ten times its cost. Source: Durkan,
    Bekasov, Murray, Papamakarios, "Neural Spline Flows", 2019.

    Attributes:
        bins: pieces of a spline, at least 2.
        coupling: let half of the features read the other half, which is inverted in two passes,
            instead of each reading all before it.

    >>> NSF(transforms=2, bins=4).build(3)(torch.zeros(5, 3))[0].shape
    torch.Size([5, 3])
    """

    bins: int = 8
    coupling: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_whole("bins", self.bins, 2)

    @property
    def params(self) -> int:
        return 3 * self.bins - 1

    def layer(self, number: int, features: int, context: int) -> nn.Module:
        zuko = _zuko()
        return zuko.flows.MaskedAutoregressiveTransform(
            features,
            context,
            passes=2 if self.coupling else None,
            order=_order(number, features),
            univariate=partial(zuko.transforms.MonotonicRQSTransform, slope=_SPLINE_SLOPE),
            shapes=[(self.bins,), (self.bins,), (self.bins - 1,)],
            hidden_features=self.hidden,
            activation=nn.Tanh,
        )


@dataclass(frozen=True)
class RealNVP(Flow):
    r"""Affine coupling: half of the values scaled and moved by a net of the other half, in turn.

    `y_b = x_b exp(a(x_a)) + b(x_a)`, `y_a = x_a`, with a and b every second feature, changing
    places, and `|a|` below log 5. One pass forwards and one back. Source: Dinh, Sohl-Dickstein,
    Bengio, "Density Estimation using Real NVP", 2017.

    >>> f = RealNVP(transforms=4).build(6)
    >>> x = torch.randn(6)
    >>> bool((f.inverse(f(x)[0]) - x).abs().max() < 1e-5)
    True
    """

    transforms: int = 6

    @property
    def params(self) -> int:
        return 2

    def layer(self, number: int, features: int, context: int) -> nn.Module:
        zuko = _zuko()
        return zuko.flows.GeneralCouplingTransform(
            features,
            context,
            mask=torch.arange(features) % 2 == number % 2,
            univariate=partial(zuko.transforms.MonotonicAffineTransform, slope=_AFFINE_SLOPE),
            hidden_features=self.hidden,
            activation=nn.Tanh,
        )


class FlowDistribution(Distribution):
    r"""`eps = f(z)` is N(0, I): the density in one pass, draws by the inverse.

    `log p(z) = log N(f(z); 0, I) + log |det df/dz|`, in nats. Mean and variance are those of the
    128 draws from a fixed set of noise, 64 scrambled Sobol points and their mirror images: two
    calls give the same, and both are exact where f is linear (the variance for at most 63
    values). Where f is strongly bent the mean is good to some percent of the deviation.

    Args:
        bijection: f, over the flattened event.
        zeros: zeros of shape (*batch, *event), which set type and device.
        ndim: number of event axes.
        context: what f is given, (*batch, C).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(
        self, bijection: Bijection, zeros: Tensor, ndim: int, context: Tensor | None = None
    ) -> None:
        self.bijection, self.zeros, self.context = bijection, zeros, context
        split = zeros.dim() - ndim
        super().__init__(zeros.shape[:split], zeros.shape[split:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        eps, log_det = self._to_noise(self._flat(value))
        return log_normal(eps) + log_det

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a pathwise gradient, of shape (*sample_shape, *batch, *event)."""
        return self._whole(self._from_noise(self._noise(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """Mean, by the rule of the class."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, by the rule of the class."""
        return self._moments()[1]

    def _to_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The noise that becomes z, (*, D), and `log |det deps/dz|`, (*,)."""
        return self.bijection(z, self.context)

    def _from_noise(self, eps: Tensor) -> Tensor:
        return self.bijection.inverse(eps, self.context)

    def _moments(self) -> tuple[Tensor, Tensor]:
        size = self.event_shape.numel()
        points = _normal_points(size).to(self.zeros)
        points = points.view(len(points), *(1,) * len(self.batch_shape), size)
        at_once = max(1, _BLOCK_VALUES // max(1, self.zeros.numel()))
        shape = (*self.batch_shape, size)
        centre = self._from_noise(torch.zeros_like(points[0]).expand(shape))
        first = second = torch.zeros_like(centre)
        for eps in points.split(at_once):
            moved = self._from_noise(eps.expand(len(eps), *shape)) - centre
            first, second = first + moved.sum(0), second + moved.square().sum(0)
        first, second = first / len(points), second / len(points)
        variance = (second - first.square()).clamp(min=0)
        return self._whole(centre + first), self._whole(variance)

    def _noise(self, sample_shape: Any) -> Tensor:
        shape = (*sample_shape, *self.batch_shape, self.event_shape.numel())
        return torch.randn(shape, dtype=self.zeros.dtype, device=self.zeros.device)

    def _flat(self, value: Tensor) -> Tensor:
        """(*, *event) as (*, D), of the batch shape at least."""
        return value.expand(torch.broadcast_shapes(value.shape, self.zeros.shape)).flatten(
            -len(self.event_shape)
        )

    def _whole(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, self.event_shape)


def log_normal(eps: Tensor) -> Tensor:
    """`log N(eps; 0, I)` over the last axis, in nats."""
    return -0.5 * eps.square().sum(-1) - eps.shape[-1] * _HALF_LOG_2PI


def check_flow(who: str, flow: Any) -> Flow:
    """A flow, or a refusal of anything else.

    Raises:
        UserError: it is none.
    """
    if not isinstance(flow, Flow):
        raise UserError(f"{who}: flow={flow!r} is no flow; give one such as MAF(transforms=3)")
    return flow


@lru_cache(maxsize=16)
def _normal_points(size: int) -> Tensor:
    """Sobol points as noise, then their mirror images, (128, size).

    Variances are 1 and, below 64 values, covariances 0: the nearest such points to the Sobol ones.
    """
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=0)
    uniform = engine.draw(_PAIRS, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    eps = math.sqrt(2) * torch.erfinv(2 * uniform - 1)
    if size < _PAIRS:
        u, _, v = torch.linalg.svd(eps, full_matrices=False)
        eps = math.sqrt(_PAIRS) * u @ v
    else:
        eps = eps / eps.square().mean(0).sqrt()
    return torch.cat([eps, -eps])


def _order(number: int, features: int) -> Tensor:
    order = torch.arange(features)
    return order.flip(0) if number % 2 else order


def _start_small(layer: nn.Module) -> None:
    """Brings a transform near the identity: all of ours are it where their parameters are 0."""
    hyper = getattr(layer, "hyper", None)
    last = layer if hyper is None else hyper[-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(_START)


def _zuko() -> Any:
    """Zuko, with what its import changes in `torch.distributions` put back.

    It switches off the validation of arguments everywhere and renames a class. The method
    `Transform.call_and_ladj` that it adds stays: its transforms, the user's among them, need it.
    """
    if "zuko" not in sys.modules:
        validates = Distribution._validate_args
        constraints = Distribution.__dict__["arg_constraints"]
        name = _InverseTransform.__name__
        import zuko

        Distribution._validate_args = validates
        Distribution.arg_constraints = constraints  # type: ignore[method-assign]
        _InverseTransform.__name__ = name
    import zuko

    return zuko
