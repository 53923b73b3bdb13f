"""What every flow is: a spec that builds a bijection of rows, and the density that it gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latently.errors import UserError

__all__ = ["Bijection", "Flow", "FlowDistribution", "check_between", "check_flow", "log_normal"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_PAIRS = 64
_BLOCK_VALUES = 2**20  # values pushed through a flow at once where moments are taken
MOST_WEIGHTS = 2**27


class Bijection(nn.Module, ABC):
    """The bijection `y = f(x; c)` of flattened rows."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`f(x)`, (*, D), and `log |det df/dx|`, (*,), of x (*, D) given c (*, C)."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """The x with `f(x) = y`, with its gradient."""

    def initialise(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets what starts from data by rows (n, D), given c (n, C); most flows have none."""


@dataclass(frozen=True)
class Flow(ABC):
    """What bijection to build.

    Attributes:
        spatial: whether it sees rows as images (C, H, W), whose pixels then share one scale.
    """

    spatial: ClassVar[bool] = False

    @property
    def numerical(self) -> bool:
        """Whether its log-determinant is integrated numerically, and so an estimate."""
        return False

    @abstractmethod
    def build(self, shape: Sequence[int] | int, context: int = 0) -> Bijection:
        """The bijection of rows of a shape, flattened, given a context of `context` values.

        Args:
            shape: shape of one row; a number: that of a vector.
            context: width of the context; 0: none.

        Raises:
            UserError: the flow does not fit the shape, or would have more than 2^27 weights.
        """

    def check_whole(self, name: str, value: Any, least: int) -> None:
        """Refuses an option that is no whole number of at least `least`."""
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(
                f"{type(self).__name__}: {name}={value!r} must be a whole number of at least "
                f"{least}"
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


def check_between(spec: Any, name: str, value: Any, most: float) -> None:
    """Refuses an option that is no number above 0, at most `most`."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or not 0 < value <= most:
        raise UserError(
            f"{type(spec).__name__}: {name}={value!r} must be a number above 0, at most {most:g}"
        )


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
    """Sobol points as noise (random ones above 21,201 values), then their mirror images.

    Variances are 1 and, below 64 values, covariances 0: the nearest such points to the Sobol ones.
    """
    if size > torch.quasirandom.SobolEngine.MAXDIM:  # of so many values each averages out
        generator = torch.Generator().manual_seed(0)
        uniform = torch.rand(_PAIRS, size, dtype=torch.float64, generator=generator)
    else:
        engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=0)
        uniform = engine.draw(_PAIRS, dtype=torch.float64)
    uniform = uniform.clamp(1e-6, 1 - 1e-6)
    eps = math.sqrt(2) * torch.erfinv(2 * uniform - 1)
    if size < _PAIRS:
        u, _, v = torch.linalg.svd(eps, full_matrices=False)
        eps = math.sqrt(_PAIRS) * u @ v
    else:
        eps = eps / eps.square().mean(0).sqrt()
    return torch.cat([eps, -eps])
