r"""Mixtures of any distribution of rows, `p(x) = sum_k pi_k p_k(x)`: one component for a row.

Mixtures of normals have reparameterised draws although a component is chosen at random. With the
cdfs `F_d(z) = P(Z_d <= z_d | z_<d)` of one cell after the other, `F(Z; theta)` is uniform whatever
theta, so that a draw moves by

    dz / dtheta = -J^-1 dF / dtheta,    J = dF / dz lower triangular,

and `F_d = sum_k w_k Phi(y_kd)`, with y_k the whitened row under component k and w_k its weight
given the cells before d. Sources: Graves, "Stochastic Backpropagation through Mixture Density
Distributions", 2016; Figurnov, Mohamed, Mnih, "Implicit Reparameterization Gradients", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution

from latently.errors import UserError, called
from latently.probability.distributions.discrete import categories
from latently.probability.distributions.gaussian import MultivariateNormal
from latently.probability.distributions.joint import Factorized, Joint
from latently.probability.distributions.normal import Normal

__all__ = ["JointMixture", "Mixture", "mixture"]

_CLIMBS = 1000  # steps of a search for the likeliest whole number
_HALVINGS = 200
_LEAST = 1e-200  # a density that no draw meets
_LOG_2PI = math.log(2 * math.pi)


def mixture(logits: Tensor, components: Distribution, *, discrete: bool = False) -> Mixture:
    """A mixture, which is a `Joint` if its components are; arguments as those of `Mixture`."""
    kind = JointMixture if isinstance(components, Joint) else Mixture
    return kind(logits, components, discrete=discrete)


class Mixture(Distribution):
    r"""`p(x) = sum_k pi_k p_k(x)`; a draw is a draw of one component, chosen at random.

    Args:
        logits: log pi up to a constant, (*batch, K).
        components: rows, of batch shape (*batch, K); both batches broadcast.
        discrete: whether values are whole numbers, which quantiles then are, too.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, logits: Tensor, components: Distribution, *, discrete: bool = False
    ) -> None:
        self.log_weights = F.log_softmax(logits, -1)
        self.components, self.discrete = components, discrete
        batch = torch.broadcast_shapes(logits.shape, components.batch_shape)[:-1]
        super().__init__(batch, components.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        return torch.logsumexp(self.log_weights + self._parts(value), -1)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry a pathwise gradient: those of mixtures of normals do."""
        return _gaussians(self.components) is not None

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of a mixture of normals with their implicit gradient.

        Raises:
            UserError: the components are no normals.
        """
        found = _gaussians(self.components)
        if found is None:
            raise UserError(
                f"a mixture of {called(self.components)} has no reparameterised draws; "
                "choose components such as Normal, or another estimator"
            )
        z = self._drawn(found, Size(sample_shape))
        z = _implicit(z, self.log_weights.double(), *found)
        return z.to(self.log_weights.dtype).unflatten(-1, self.event_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        sample_shape = Size(sample_shape)
        with torch.no_grad():
            found = _gaussians(self.components)
            if found is not None:
                z = self._drawn(found, sample_shape).to(self.log_weights.dtype)
                return z.unflatten(-1, self.event_shape)
            drawn = self._every(sample_shape)
            index = self._chosen(sample_shape).view(*drawn.shape[: self._axis], 1, *self._ones)
            index = index.expand(*drawn.shape[: self._axis], 1, *self.event_shape)
            return drawn.gather(self._axis, index).squeeze(self._axis)

    def states(self) -> Tensor:
        """Every row of finitely many: those of the components.

        Raises:
            UserError: the components take infinitely many values, or too many.
        """
        if not hasattr(self.components, "states"):
            raise UserError(
                f"{called(self.components)} takes infinitely many values, which cannot be "
                "enumerated; choose components such as OneHot, or another estimator"
            )
        return self.components.states()

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)` of each cell, where the components know theirs."""
        return (self._weights * self.components.cdf(value.unsqueeze(self._axis))).sum(self._axis)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles of each cell, where the components know theirs: by bisection between them.

        For whole numbers the smallest whose cdf reaches `q`.
        """
        q = q.expand(torch.broadcast_shapes(q.shape, (*self._batch_shape, *self.event_shape)))
        ends = self.components.icdf(q.unsqueeze(self._axis))
        low, high = ends.amin(self._axis), ends.amax(self._axis)
        if self.discrete:
            return _bisect(self.cdf, q, low, high, lambda a, b: ((a + b) / 2).floor())
        return _bisect(self.cdf, q, low, high, lambda a, b: a / 2 + b / 2)

    @property
    def mean(self) -> Tensor:
        """Mean, (*batch, *event)."""
        return (self._weights * self.components.mean).sum(self._axis)

    @property
    def variance(self) -> Tensor:
        """Variance of each cell, (*batch, *event)."""
        apart = self.components.mean - self.mean.unsqueeze(self._axis)
        return (self._weights * (self.components.variance + apart.square())).sum(self._axis)

    @property
    def mode(self) -> Tensor:
        """The likeliest, under the mixture, of the components' modes, (*batch, *event).

        Of their means, where the modes are not known. Whole numbers go on from there while the
        mixture rises: of components with one peak each its highest lies between theirs.
        """
        shape = (*self._batch_shape, self.log_weights.shape[-1], *self.event_shape)
        modes = _peaks(self.components).expand(shape)
        if self.discrete and not self.event_shape:
            modes = self._climbed(modes)
        best = self.log_prob(modes.movedim(self._axis, 0)).argmax(0)
        index = best.view(*best.shape, 1, *self._ones)
        index = index.expand(*best.shape, 1, *self.event_shape)
        return modes.gather(self._axis, index).squeeze(self._axis)

    def _climbed(self, at: Tensor) -> Tensor:
        """Whole numbers (*batch, K), each a step at a time to where the mixture is no higher."""
        low, high = at.amin(-1, keepdim=True), at.amax(-1, keepdim=True)
        height = self._heights(at)
        for _ in range(_CLIMBS):
            before = height
            for step in (-1, 1):
                near = (at + step).clamp(low, high)
                there = self._heights(near)
                at, height = torch.where(there > height, near, at), torch.maximum(there, height)
            if torch.equal(before, height):
                break
        return at

    def _heights(self, values: Tensor) -> Tensor:
        """log p of values (*batch, K) of one cell each."""
        return self.log_prob(values.movedim(-1, 0)).movedim(0, -1)

    @property
    def _axis(self) -> int:
        """Where the components stand beside the event."""
        return -len(self.event_shape) - 1

    @property
    def _ones(self) -> tuple[int, ...]:
        return (1,) * len(self.event_shape)

    @property
    def _weights(self) -> Tensor:
        """pi, (*batch, K, 1, ..., 1)."""
        return self.log_weights.exp().view(*self.log_weights.shape, *self._ones)

    def _parts(self, value: Tensor) -> Tensor:
        """`log p_k(x)`, (*, K)."""
        return self.components.log_prob(value.unsqueeze(self._axis))

    def _chosen(self, sample_shape: Size) -> Tensor:
        """Component numbers, (*sample_shape, *batch)."""
        weights = self.log_weights.exp()
        flat = weights.expand(*self._batch_shape, -1).reshape(-1, weights.shape[-1])
        drawn = categories(flat, sample_shape.numel()).clamp(min=0)
        return drawn.T.reshape(Size((*sample_shape, *self._batch_shape)))

    def _every(self, sample_shape: Size) -> Tensor:
        """A draw of every component, (*sample_shape, *batch, K, *event).

        Where the components' batch has size 1 and the mixture's more, more draws are made.
        """
        *batch, _ = self.components.batch_shape
        ndim = len(self._batch_shape)
        held = [1] * (ndim - len(batch)) + batch
        more = [b if h == 1 else 1 for b, h in zip(self._batch_shape, held, strict=True)]
        drawn = self.components.sample(Size((*sample_shape, *more)))
        count, lead = drawn.shape[self._axis], len(sample_shape)
        drawn = drawn.reshape(*sample_shape, *more, *held, count, *self.event_shape)
        pairs = chain(*((lead + i, lead + ndim + i) for i in range(ndim)))
        rest = range(lead + 2 * ndim, drawn.dim())
        drawn = drawn.permute(*range(lead), *pairs, *rest)
        return drawn.reshape(*sample_shape, *self._batch_shape, count, *self.event_shape)

    def _drawn(self, of: _Gaussians, sample_shape: Size) -> Tensor:
        """Draws of a mixture of normals in float64, (*sample_shape, *batch, D), no gradient."""
        with torch.no_grad():
            chosen = self._chosen(sample_shape)
            count = self.log_weights.shape[-1]
            cell = torch.arange(self._batch_shape.numel(), device=chosen.device)
            place = (cell.view(self._batch_shape) * count + chosen).flatten()

            def pick(held: Tensor, ndim: int) -> Tensor:
                event = held.shape[held.dim() - ndim :]
                flat = held.expand(*self._batch_shape, count, *event).reshape(-1, *event)
                return flat[place].view(*chosen.shape, *event)

            loc, rate = pick(of.loc, 1), pick(of.rate, 1 + of.full)
            noise = torch.randn_like(loc)
            if not of.full:
                return loc + noise / rate
            moved = torch.linalg.solve_triangular(rate, noise.unsqueeze(-1), upper=False)
            return loc + moved.squeeze(-1)


class JointMixture(Mixture, Joint):
    """A mixture of rows that know their marginals, and so does it."""

    known_as = "Mixture"

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells: of the mixture of the components' marginals."""
        return torch.logsumexp(self.log_weights + self._parts(value, mask), -1)

    def given(self, value: Tensor, mask: Tensor) -> JointMixture:
        """The mixture of the components given the observed cells, weighted by how likely."""
        logits = self.log_weights + self._parts(value, mask)
        apart = value.unsqueeze(self._axis), mask.unsqueeze(self._axis)
        given = cast(Joint, self.components).given(*apart)
        return JointMixture(logits, given, discrete=self.discrete)

    def _parts(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """`log p_k(x_o)`, (*, K)."""
        normal = _shared_normals(self.components)
        if normal is not None:
            return _by_products(normal, value, mask)
        apart = None if mask is None else mask.unsqueeze(self._axis)
        return cast(Joint, self.components).log_prob(value.unsqueeze(self._axis), apart)


def _peaks(components: Distribution) -> Tensor:
    """Modes, or means where torch's word is that no mode is known."""
    try:
        return components.mode
    except NotImplementedError:
        return components.mean


def _shared_normals(components: Distribution) -> Normal | None:
    """Independent normals that are the same for all rows, (K, *event); None: others."""
    if not isinstance(components, Factorized) or type(components.base) is not Normal:
        return None
    shared = len(components.batch_shape) == 1 and components.base.loc.device.type != "mps"
    return components.base if shared else None  # mps has no float64


def _by_products(normal: Normal, value: Tensor, mask: Tensor | None) -> Tensor:
    r"""`log p_k(x_o)` of many rows under the same K normals, (*, K).

    With `t = 1 / sigma^2` the exponents are `x^2 t' - 2 x (mu t)' + m (mu^2 t)'`: two or three
    products of matrices in place of a difference for every row, component and cell. The terms
    cancel, so they are taken about the middle of the components and in float64.
    """
    ndim = normal.loc.dim() - 1
    loc, log_std = normal.loc.double().flatten(1), normal.log_scale.double().flatten(1)
    middle, precision = loc.mean(0), (-2 * log_std).exp()
    x = value.double().flatten(-ndim) - middle
    loc = loc - middle
    shift = loc * precision
    constant = loc * shift + 2 * log_std + _LOG_2PI
    if mask is None:
        ends = constant.sum(1)
    else:
        seen = mask.flatten(-ndim)
        x = torch.where(seen, x, 0.0)
        ends = seen.double() @ constant.T
    exponent = x.square() @ precision.T - 2 * (x @ shift.T) + ends
    return (-0.5 * exponent).to(normal.loc.dtype)


class _Gaussians(NamedTuple):
    """Normal components over D flattened cells, in float64.

    Attributes:
        loc: (*batch, K, D).
        rate: one over the deviations, (*batch, K, D), or the whitening W, (*batch, K, D, D).
        full: whether it is W.
    """

    loc: Tensor
    rate: Tensor
    full: bool


def _gaussians(components: Distribution) -> _Gaussians | None:
    """Components that are normals, whose draws have a gradient; None: others."""
    ndim = len(components.event_shape)
    if isinstance(components, MultivariateNormal):
        return _Gaussians(components.loc.flatten(-ndim).double(), components.whiten.double(), True)
    if isinstance(components, Factorized) and isinstance(components.base, Normal):
        rate = (-components.base.log_scale.double()).exp()
        return _Gaussians(components.base.loc.double().flatten(-ndim), rate.flatten(-ndim), False)
    return None


def _implicit(z: Tensor, log_weights: Tensor, loc: Tensor, rate: Tensor, full: bool) -> Tensor:
    """Draws z (*, D), which get the gradient of all parameters; see the module's docstring."""
    centred = z.unsqueeze(-2) - loc
    y = torch.einsum("...ij,...j->...i", rate, centred) if full else centred * rate
    slope = rate.diagonal(dim1=-2, dim2=-1) if full else rate
    log_p = slope.log() - 0.5 * (y.square() + _LOG_2PI)
    before = log_p.cumsum(-1) - log_p  # of the cells before
    weights = torch.softmax(log_weights.unsqueeze(-1) + before, -2)
    with torch.no_grad():  # the smaller tail, whose differences keep their digits
        side = torch.where((weights * torch.special.ndtr(y)).sum(-2) > 0.5, -1.0, 1.0)
    tails = torch.special.ndtr(side.unsqueeze(-2) * y)
    total = (weights * tails).sum(-2)
    moved = side * (total - total.detach())
    with torch.no_grad():
        excess = weights * side.unsqueeze(-2) * (tails - total.unsqueeze(-2))
        jacobian = _jacobian(excess, weights * (log_p - slope.log()).exp(), y, rate, full)
        density = jacobian.diagonal(dim1=-2, dim2=-1)
        met = density > _LEAST
        scale = torch.where(met, density, 1.0).reciprocal() * met
        jacobian = jacobian.tril(-1) * scale.unsqueeze(-1)
    step = torch.linalg.solve_triangular(
        jacobian, (moved * scale).unsqueeze(-1), upper=False, unitriangular=True
    )
    return z - step.squeeze(-1)


def _jacobian(excess: Tensor, heights: Tensor, y: Tensor, rate: Tensor, full: bool) -> Tensor:
    """`dF_d / dz_e`, (*, D, D), right in its lower triangle.

    `sum_k heights_kd dy_kd/dz_e`, and for e < d the change of weights, `- sum_k excess_kd
    sum_{j<d} y_kj dy_kj/dz_e`. Where cells are independent dy_kj/dz_e is 0 unless j = e.
    """
    if not full:
        diagonal = torch.diag_embed((heights * rate).sum(-2))
        return diagonal - torch.einsum("...kd,...ke->...de", excess, y * rate).tril(-1)
    terms = y.unsqueeze(-1) * rate
    before = terms.cumsum(-2) - terms
    direct = torch.einsum("...kd,...kde->...de", heights, rate)
    return direct - torch.einsum("...kd,...kde->...de", excess, before)


def _bisect(
    cdf: Callable[[Tensor], Tensor],
    q: Tensor,
    low: Tensor,
    high: Tensor,
    middle: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The smallest value from low to high whose cdf reaches q; that of high does."""
    high = torch.where(cdf(low) >= q, low, high)
    for _ in range(_HALVINGS):
        between = middle(low, high)
        inside = (between > low) & (between < high)
        if not bool(inside.any()):
            break
        reached = cdf(between) >= q
        high = torch.where(inside & reached, between, high)
        low = torch.where(inside & ~reached, between, low)
    return high
