r"""Densities in the plane that are known: log p(x) of any point, and the entropy.

Each is an even mixture of K parts, `p(x) = 1/K sum_k p_k(x)`, in nats and of rows (x, y):

| class | a part is | log p_k(x) |
|---|---|---|
| `Normals` | a round normal | closed form |
| `Rings` | a round normal about each point of a circle, all equally likely | closed form, by I_0 |
| `Pinwheel` | a normal in an arm, turned by an angle that grows with the radius | closed form |
| `Banana` | a normal whose mean in y is a parabola in x (one part) | closed form |
| `Checkerboard` | even on a square | closed form |
| `Moons`, `Spirals` | a round normal about each point of a curve | Gauss-Legendre quadrature |

A normal of variance s^2 about a curve c(t), t drawn by density g, has
`p_k(x) = int g(t) N(x; c(t), s^2 I) dt`: one smooth integral, whose quadrature converges faster
than any power of its nodes. Entropies have a closed form, or are the trapezoidal rule over the
plane, which converges as fast for densities that are smooth and fall off.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latently.errors import UserError

__all__ = [
    "Banana",
    "Checkerboard",
    "Moons",
    "Normals",
    "Pinwheel",
    "Rings",
    "Smooth",
    "Spirals",
    "Toy",
]

Box = tuple[tuple[float, float], tuple[float, float]]

_LOG_2PI = math.log(2 * math.pi)
_POINTS = 2048  # of a density by quadrature, evaluated at a time


class Toy(ABC):
    """A density p(x) of rows (x, y), the even mixture of its parts.

    Attributes:
        about: what it looks like, for lists.
        parts: K, how many parts; their numbers are the labels of draws.
        box: ((x low, x high), (y low, y high)): all but 1e-12 of the mass lies inside.
    """

    about: str
    parts: int = 1
    box: Box

    @abstractmethod
    def _log_parts(self, x: Tensor) -> Tensor:
        """log p_k(x), (n, K), of points (n, 2) in float64."""

    @abstractmethod
    def _draw(self, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One point of each of the parts (n,) that are named, (n, 2)."""

    @property
    @abstractmethod
    def entropy(self) -> float:
        """H(p) = -E[log p(x)] in nats, to 1e-7."""

    def log_prob(self, x: ArrayLike | Tensor) -> Tensor:
        """log p(x) in nats, (*n,) in float64, of points (*n, 2); -inf where p is 0.

        Raises:
            UserError: points that do not have two values.

        >>> from latently.data.toys import toy
        >>> toy("checkerboard").log_prob([[0.5, 0.5], [0.5, -0.5]])
        tensor([-3.4657,    -inf], dtype=torch.float64)
        """
        return self.log_parts(x).logsumexp(-1) - math.log(self.parts)

    def log_parts(self, x: ArrayLike | Tensor) -> Tensor:
        """log p(x | part) in nats, (*n, K) in float64, of points (*n, 2): p given the label.

        Raises:
            UserError: points that do not have two values.
        """
        at = torch.as_tensor(x, dtype=torch.float64)
        if not at.ndim or at.shape[-1] != 2:
            raise UserError(
                f"points of shape {tuple(at.shape)}: this density is of two columns; give (n, 2)"
            )
        return self._log_parts(at.reshape(-1, 2)).view(*at.shape[:-1], self.parts)

    def sample(self, n: int, rng: np.random.Generator) -> Tensor:
        """n draws from p, (n, 2) in float64."""
        return self.draw(n, rng)[0]

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """n draws from p, (n, 2) in float64, and the part of each, (n,) int64.

        Raises:
            UserError: n below 0.
        """
        if n < 0:
            raise UserError(f"n={n} draws; give 0 or more")
        part = rng.integers(self.parts, size=n)
        return torch.from_numpy(self._draw(part, rng)), torch.from_numpy(part)


class Smooth(Toy):
    """A density whose entropy is a sum over a grid: it is smooth at the scale `width`."""

    width: float

    @cached_property
    def entropy(self) -> float:
        """H(p) = -E[log p(x)] in nats, by the trapezoidal rule; computed once."""
        step = self.width / 3
        (left, right), (low, high) = self.box
        x = torch.arange(left, right, step, dtype=torch.float64)
        y = torch.arange(low, high, step, dtype=torch.float64)
        log_p = self._log_p(torch.cartesian_prod(x, y))
        return -float((log_p.exp() * log_p).sum()) * step**2

    def _log_p(self, x: Tensor) -> Tensor:
        """The log-density that is integrated: p, or another of the same entropy."""
        return self.log_prob(x)


class Normals(Smooth):
    """Round normals of one standard deviation about some centres, (K, 2)."""

    def __init__(self, centres: ArrayLike, scale: float, about: str) -> None:
        self._centres = np.asarray(centres, dtype=np.float64)
        self.parts, self.width, self.about = len(self._centres), scale, about
        self.box = _around(self._centres, scale)

    def _log_parts(self, x: Tensor) -> Tensor:
        return _round(x, torch.from_numpy(self._centres), self.width)

    def _draw(self, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._centres[part] + self.width * rng.standard_normal((len(part), 2))


class Rings(Smooth):
    r"""Round normals about the points of circles around 0.

    `p_k(x) = exp(-(|x|^2 + R^2) / 2s^2) I_0(|x| R / s^2) / 2 pi s^2`, with the radius R of part k.
    """

    about = "two circles around one centre"

    def __init__(self, radii: ArrayLike, scale: float) -> None:
        self._radii = np.asarray(radii, dtype=np.float64)
        self.parts, self.width = len(self._radii), scale
        reach = float(self._radii.max()) * np.ones((1, 2))
        self.box = _around(np.concatenate([-reach, reach]), scale)

    def _log_parts(self, x: Tensor) -> Tensor:
        r, radii = torch.linalg.vector_norm(x, dim=-1)[:, None], torch.from_numpy(self._radii)
        bessel = torch.special.i0e(r * radii / self.width**2).log()  # I_0(u) exp(-u)
        off = ((r - radii) / self.width).square()
        return bessel - off / 2 - _LOG_2PI - 2 * math.log(self.width)

    def _draw(self, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angle = 2 * np.pi * rng.random(len(part))
        at = self._radii[part, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        return at + self.width * rng.standard_normal(at.shape)


class Pinwheel(Smooth):
    """Five arms: normals along spokes, turned by 0.25 exp(|x| / 2) radians.

    The angle depends on the radius alone, so the turn keeps areas: the density of a point is that
    of the point turned back, and the entropy that of the spokes. After Johnson, Duvenaud,
    Wiltschko, Datta, Adams, "Composing graphical models with neural networks for structured
    representations and fast inference", 2016, where the angle follows the spoke's own coordinate.
    """

    about = "five arms that curl around one centre"
    parts = 5
    box = ((-8.0, 8.0), (-8.0, 8.0))
    width = 0.2
    _centre, _along = 2.0, 0.6

    def _log_parts(self, x: Tensor) -> Tensor:
        return self._spokes(_turned(x, -self._twist(torch.linalg.vector_norm(x, dim=-1))))

    def _spokes(self, x: Tensor) -> Tensor:
        angle = torch.arange(self.parts, dtype=x.dtype) * (2 * math.pi / self.parts)
        at = _turned(x[:, None], -angle)
        u, v = (at[..., 0] - self._centre) / self._along, at[..., 1] / self.width
        return -(u.square() + v.square()) / 2 - _LOG_2PI - math.log(self._along * self.width)

    def _log_p(self, x: Tensor) -> Tensor:
        return self._spokes(x).logsumexp(-1) - math.log(self.parts)

    def _draw(self, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        spread = np.array([self._along, self.width])
        at = torch.from_numpy(spread * rng.standard_normal((len(part), 2)) + [self._centre, 0.0])
        angle = torch.from_numpy(part) * (2 * math.pi / self.parts)
        turn = angle + self._twist(torch.linalg.vector_norm(at, dim=-1))
        return _turned(at, turn).numpy()

    @staticmethod
    def _twist(r: Tensor) -> Tensor:
        return 0.25 * (r / 2).exp()


class Banana(Toy):
    """x ~ N(0, 2^2), y | x ~ N(x^2 / 4 - 1, 0.5^2): a normal, sheared."""

    about = "a normal bent along a parabola"
    box = ((-15.0, 15.0), (-6.0, 60.0))
    _long, _short = 2.0, 0.5

    @property
    def entropy(self) -> float:
        """1 + log(2 pi) + log(2 * 0.5): a shear keeps areas."""
        return 1 + _LOG_2PI + math.log(self._long * self._short)

    def _log_parts(self, x: Tensor) -> Tensor:
        u, v = x[:, :1] / self._long, (x[:, 1:] - x[:, :1].square() / 4 + 1) / self._short
        return -(u.square() + v.square()) / 2 - _LOG_2PI - math.log(self._long * self._short)

    def _draw(self, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        u, v = rng.standard_normal((2, len(part)))
        x = self._long * u
        return np.stack([x, x**2 / 4 - 1 + self._short * v], 1)


class Checkerboard(Toy):
    """Even on the eight dark squares of a board of 4 x 4 squares, of side 2 each, around 0."""

    about = "eight squares of a board, p constant on them"
    parts = 8
    box = ((-4.0, 4.0), (-4.0, 4.0))
    _side = 2.0
    _corners = np.array([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]) * 2.0 - 4

    @property
    def entropy(self) -> float:
        """log 32, the area of the eight squares."""
        return math.log(self.parts * self._side**2)

    def _log_parts(self, x: Tensor) -> Tensor:
        at = x[:, None] - torch.from_numpy(self._corners)
        inside = ((at >= 0) & (at < self._side)).all(-1)
        height = torch.full(inside.shape, -2 * math.log(self._side), dtype=x.dtype)
        return height.masked_fill(~inside, -math.inf)

    def _draw(self, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self._corners[part] + self._side * rng.random((len(part), 2))


class _Curves(Smooth):
    """Round normals about two curves c_k(t), t between 0 and `_end` with density ~ t^(power - 1).

    The quadrature has `_nodes` nodes, enough for 1e-9 of log p within 4 of the centre.
    """

    parts = 2
    width = 0.1
    _end: float
    _power: int
    _nodes: int

    @staticmethod
    @abstractmethod
    def _curves(t: np.ndarray) -> np.ndarray:
        """c_k(t), (K, T, 2)."""

    def _log_parts(self, x: Tensor) -> Tensor:
        u, weight = np.polynomial.legendre.leggauss(self._nodes)
        u, weight = (1 + u) / 2, weight / 2
        log_weight = torch.from_numpy(np.log(self._power * u ** (self._power - 1) * weight))
        curves = torch.from_numpy(self._curves(self._end * u))
        blocks = [
            [(_round(points, c, self.width) + log_weight).logsumexp(-1) for c in curves]
            for points in x.split(_POINTS)
        ]
        return torch.cat([torch.stack(block, -1) for block in blocks])

    def _draw(self, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        t = self._end * rng.random(len(part)) ** (1 / self._power)
        at = self._curves(t)[part, np.arange(len(part))]
        return at + self.width * rng.standard_normal(at.shape)


class Moons(_Curves):
    """Two half circles that reach into each other: (cos t, sin t) and (1 - cos t, 1/2 - sin t)."""

    about = "two half circles that reach into each other"
    box = ((-1.8, 2.8), (-1.3, 1.8))
    _end, _power, _nodes = math.pi, 1, 128

    @staticmethod
    def _curves(t: np.ndarray) -> np.ndarray:
        x, y = np.cos(t), np.sin(t)
        return np.stack([np.stack([x, y], -1), np.stack([1 - x, 0.5 - y], -1)])


class Spirals(_Curves):
    """Two spirals of one turn and a half, about even along them: +-t/3 (-cos t, sin t)."""

    about = "two arms that wind around each other"
    box = ((-4.0, 4.0), (-4.0, 4.0))
    _end, _power, _nodes = 3 * math.pi, 2, 512

    @staticmethod
    def _curves(t: np.ndarray) -> np.ndarray:
        arm = t[:, None] / 3 * np.stack([-np.cos(t), np.sin(t)], -1)
        return np.stack([arm, -arm])


def _round(x: Tensor, centres: Tensor, scale: float) -> Tensor:
    """log N(x; c, s^2 I), (n, K), of points (n, 2) and centres (K, 2)."""
    apart = (x[:, None] - centres).square().sum(-1)
    return -apart / (2 * scale**2) - _LOG_2PI - 2 * math.log(scale)


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Points turned around 0 by angles, counterclockwise."""
    cos, sin = angle.cos(), angle.sin()
    u, v = x[..., 0], x[..., 1]
    return torch.stack([cos * u - sin * v, sin * u + cos * v], -1)


def _around(points: np.ndarray, scale: float) -> Box:
    """A box eight standard deviations beyond points."""
    low, high = points.min(0) - 8 * scale, points.max(0) + 8 * scale
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))
