r"""Mixtures of discretized logistics: integer pixels whose channels depend on each other.

A pixel x_1 .. x_C picks one of K components for all of its channels; within a component, channel
c is a discretized logistic whose location moves with the channels before it. Pixels are
independent. Given the first channels, those after them are a mixture of the same form, with other
weights; a hole *before* an observed channel is summed over its levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from latently.errors import UserError
from latently.probability.distributions import DiscretizedLogistic as Logistic
from latently.probability.distributions import Joint
from latently.probability.distributions.discrete import categories, combinations
from latently.probability.distributions.integers import integer_moments
from latently.probability.families._moments import moments, zero_missing
from latently.probability.families.discretized_logistic import DiscretizedLogistic

__all__ = ["DiscretizedLogisticMixture"]

_LOG_SCALE_LIMIT = 12.0
_MOST_CHANNELS = 32
_MOST_STATES = 2**16  # of the holes of one pixel
_BLOCK_VALUES = 2**22  # values held at once where holes are summed out
_POINTS, _GENERATOR = 67, 18  # of the lattice for the moments of coupled channels
_FAR = 1e12  # levels: an edge that no logistic reaches
_ROWS = 2000  # read to place the components


class DiscretizedLogisticMixture(DiscretizedLogistic):
    r"""Pixels of integers, each a mixture of discretized logistics with coupled channels.

    For the C channels of a pixel, `P(x) = sum_k pi_k prod_c P(x_c; mu_kc, s_kc)` with the P of
    `DiscretizedLogistic` and `mu_kc = (1 + m_kc + sum_{c'<c} tanh(r_kcc') u_c') (levels - 1) / 2`,
    where `u = 2 x / (levels - 1) - 1`. Raw parameters are the logits of pi, m, the log scales t
    and r: K (1 + 2 C + C (C - 1) / 2) numbers a pixel, 100 for ten components and three colours.
    Exactly normalised at any parameters.

    Holes are summed out exactly: whole pixels, and last channels, at no cost; channels before an
    observed one while they have at most 65,536 values (two of 256 levels). The mode is the
    likeliest value of one channel, and of each channel given the modes of those before it.

    Mean and variance are exact for the first channel. Those of channels coupled to it are averages
    over a lattice of 67 quantiles of each component. Of random mixtures of 5 and 10 components, in
    2 to 4 channels of 2 to 64 levels, half of the means and deviations are off by less than 0.6%
    of the deviation and 95 in 100 by less than 3%. Values rarer than 1 in 67 may be missed: a
    deviation that comes from these alone, which is common with one component, may be called 0.
    No error found, of any number of components, was above a fifth of the range of levels.

    Source: Salimans, Karpathy, Chen, Kingma, "PixelCNN++: Improving the PixelCNN with Discretized
    Logistic Mixture Likelihood and Other Modifications", 2017.

    Args:
        shape: event shape (C, *S): the first axis holds the channels, all others are pixels.
        levels: number of integer levels, at least 2.
        components: number of logistics K.

    Raises:
        UserError: fewer than 2 levels or 1 component, or more than 32 channels.

    >>> family = DiscretizedLogisticMixture((2, 1), levels=4, components=3)
    >>> x = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))[:, :, None]
    >>> family(torch.randn(18, 1)).log_prob(x).exp().sum()
    tensor(1.0000)
    """

    def __init__(self, shape: Sequence[int], *, levels: int = 256, components: int = 10) -> None:
        if levels < 2:
            raise UserError(f"DiscretizedLogisticMixture: levels={levels} must be at least 2")
        super().__init__(shape, levels=levels)
        if isinstance(components, bool) or not isinstance(components, int) or components < 1:
            raise UserError(
                f"DiscretizedLogisticMixture: components={components!r} must be a whole number "
                "of at least 1"
            )
        if self.shape[0] > _MOST_CHANNELS:
            raise UserError(
                f"DiscretizedLogisticMixture: shape {self.shape} has {self.shape[0]} channels on "
                f"its first axis, which are all coupled; at most {_MOST_CHANNELS}: give pixels "
                "axes of their own, e.g. (1, 28, 28), or choose DiscretizedLogistic"
            )
        self.components = components

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (sum(self._sizes), *self.shape[1:])

    @property
    def _sizes(self) -> list[int]:
        """Logits, means, log scales and couplings on the first axis of h."""
        k, channels = self.components, self.shape[0]
        return [k, k * channels, k * channels, k * (channels * (channels - 1) // 2)]

    def forward(self, h: Tensor) -> PixelMixture:  # type: ignore[override]  # not factorized
        logits, mean, log_scale, coupling = _flat(h, len(self.shape)).split(self._sizes, -2)
        k = self.components
        pixels = Pixels(
            logits.log_softmax(-2),
            (1 + mean.unflatten(-2, (k, -1))) * self.half_range,
            log_scale.clamp(-_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT).unflatten(-2, (k, -1))
            + math.log(self.half_range),
            coupling.unflatten(-2, (k, coupling.shape[-2] // k)).tanh(),
            self.levels,
        )
        return PixelMixture(pixels, self.shape)

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Components at groups of rows, from the darkest to the brightest in each pixel.

        Each has the group's means and deviations, an equal weight and no coupling; those that
        are alike are set apart by less than a level.
        """
        step = max(1, len(x) // _ROWS)
        mean, deviation = moments(x, mask)
        x, mask = x[::step].double(), None if mask is None else mask[::step]
        unit = zero_missing((x - mean) / deviation.clamp(min=1e-6), mask)
        order = unit.sum(1, keepdim=True).argsort(dim=0, stable=True).expand_as(x)
        x, seen = x.gather(0, order), torch.ones_like(x, dtype=torch.bool)
        seen = seen if mask is None else mask.gather(0, order)
        means, scales = [], []
        for k in range(self.components):
            rows = _group(len(x), k, self.components)
            centre, spread = moments(x[rows], seen[rows])
            centre = torch.where(seen[rows].any(0), centre, mean)
            means.append(centre + 0.5 * ((k + 0.5) / self.components - 0.5))
            scales.append(torch.maximum(spread, 0.1 * deviation))
        location = torch.stack(means) / self.half_range - 1
        scale = torch.stack(scales) * math.sqrt(3) / math.pi
        log_scale = (scale.clamp(min=0.1) / self.half_range).log()
        logits, _, _, coupling = (x.new_zeros(size, *self.shape[1:]) for size in self._sizes)
        return torch.cat([logits, location.flatten(0, 1), log_scale.flatten(0, 1), coupling])


class Pixels(NamedTuple):
    """Mixtures of P pixels in K components of C channels.

    Attributes:
        log_weights: (*, K, P), normalised.
        loc: locations without coupling, in levels, (*, K, C, P).
        log_scale: log scales, in levels, (*, K, C, P).
        coupling: factors of the channels before, (*, K, C (C - 1) / 2, P), row by row.
        levels: number of levels.
    """

    log_weights: Tensor
    loc: Tensor
    log_scale: Tensor
    coupling: Tensor
    levels: int

    def terms(self, x: Tensor) -> Tensor:
        """`log P(x_c | x_1 .. x_{c-1})` in each component, (*, K, C, P), of x (*, C, P)."""
        x = x.unsqueeze(-3)
        loc, channels = self.loc, x.shape[-2]
        if channels > 1:
            placed = (self.location(c, x[..., :c, :]) for c in range(channels))
            loc = torch.stack(torch.broadcast_tensors(*placed), -2)
        return _log_prob(x, loc, self.log_scale, self.levels)

    def location(self, c: int, before: Tensor) -> Tensor:
        """Locations of channel c, (*, K, P), given the channels before it, (*, K or 1, c, P)."""
        loc = self.loc[..., c, :]
        if c == 0:
            return loc
        first, half = c * (c - 1) // 2, (self.levels - 1) / 2
        return loc + (self.coupling[..., first : first + c, :] * (before - half)).sum(-2)

    def channel(self, c: int, before: Tensor) -> Logistic:
        """Channel c in each component, (*, K, P), given those before it."""
        return Logistic(self.location(c, before), self.log_scale[..., c, :], self.levels)

    def each(self, change: Callable[[Tensor, int], Tensor]) -> Pixels:
        """The same with all tensors changed, by a function of each and its number of own axes."""
        return Pixels(
            change(self.log_weights, 2),
            change(self.loc, 3),
            change(self.log_scale, 3),
            change(self.coupling, 3),
            self.levels,
        )

    def at(self, lead: Sequence[int], index: tuple[Tensor, ...]) -> Pixels:
        """Some n pixels, (K, n) and (K, C, n), of a batch of leading axes `lead`."""

        def chosen(values: Tensor, own: int) -> Tensor:
            wide = values.expand(*lead, *values.shape[-own:])
            return wide.movedim(-1, len(lead))[index].movedim(0, -1)

        return self.each(chosen)


class PixelMixture(Joint):
    """Independent pixels, each a mixture over the channels; possibly given some of them.

    Args:
        pixels: the mixtures.
        shape: event shape (C, *S).
        known: channels that were seen, (*, C, P), and where, of a batch shape that holds the
            pixels' own; None: none.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    known_as = "DiscretizedLogisticMixture"

    def __init__(
        self, pixels: Pixels, shape: Sequence[int], known: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.pixels, self.known = pixels, known
        lead = pixels.log_weights.shape[:-2] if known is None else known[0].shape[:-2]
        super().__init__(lead, torch.Size(shape), validate_args=False)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probability of the observed channels, in nats."""
        ndim = len(self.event_shape)
        x, seen = _flat(value, ndim), None if mask is None else _flat(mask, ndim)
        if self.known is None:
            return self._evidence(x, seen)
        given, there = self.known
        whole = torch.where(there, given, x)
        return self._evidence(whole, None if seen is None else seen | there) - self._evidence(
            given, there
        )

    def given(self, value: Tensor, mask: Tensor) -> PixelMixture:
        """The channels that are missing given those that are seen, in every pixel."""
        if self.event_shape[0] == 1:
            return self.expand(torch.broadcast_shapes(self.batch_shape, self._lead(value)))
        lead = torch.broadcast_shapes(self.batch_shape, self._lead(value), self._lead(mask))
        ndim = len(self.event_shape)
        x, seen = (_flat(v, ndim).expand(*lead, *self._rows) for v in (value, mask))
        x = torch.where(seen, x, 0.0)
        if self.known is not None:
            x, seen = torch.where(self.known[1], self.known[0], x), seen | self.known[1]
        return PixelMixture(self.pixels, self.event_shape, (x, seen))

    def expand(self, batch_shape: Any, _instance: Any = None) -> PixelMixture:
        """The same with a larger batch shape."""

        def wide(values: Tensor, own: int) -> Tensor:
            return values.expand(*batch_shape, *values.shape[-own:])

        known = None if self.known is None else (wide(self.known[0], 2), wide(self.known[1], 2))
        return PixelMixture(self.pixels.each(wide), self.event_shape, known)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws: a component for each pixel, then channel by channel."""
        with torch.no_grad():
            n = math.prod(sample_shape)
            x, seen = self._completed(lambda p: categories(p.exp().T, n).clamp(min=0).T)
            x = x.expand(n, *x.shape[1:])
            picked = self._picked(x, seen)
            for c in range(x.shape[-2]):
                drawn = picked.channel(c, x[..., None, :c, :]).sample()[..., 0, :]
                x = _set(x, c, torch.where(seen[..., c, :], x[..., c, :], drawn))
            return self._whole(x).reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def states(self) -> Tensor:
        """Every row, (states, *event).

        Raises:
            UserError: there are too many.
        """
        like, shape = self.pixels.log_weights, self.event_shape
        values = torch.arange(self.pixels.levels, dtype=like.dtype, device=like.device)
        return combinations(values, shape.numel()).unflatten(-1, shape)

    @property
    def mean(self) -> Tensor:
        """Mean of each cell, by the rule of the family."""
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        """Variance of each cell, by the rule of the family."""
        return self._moments[1]

    @property
    def mode(self) -> Tensor:
        """The likeliest value of each channel given the modes of those before it."""
        x, seen = self._completed(lambda log_p: log_p.argmax(0, keepdim=True))
        log_w = self._log_shares(x, seen)
        for c in range(x.shape[-2]):
            channel = self.pixels.channel(c, x[..., None, :c, :])
            best = _likeliest(log_w, channel)
            x = _set(x, c, torch.where(seen[..., c, :], x[..., c, :], best))
            new = torch.where(seen[..., None, c, :], 0.0, channel.log_prob(x[..., None, c, :]))
            log_w = log_w + new
        return self._whole(x[0])

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)` of each cell; see `icdf`."""
        weights, channel = self._alone()
        x = _flat(value, len(self.event_shape))
        return self._whole((weights * channel.cdf(x)).sum(-2, keepdim=True))

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest value of each cell whose cdf reaches `q`.

        Raises:
            UserError: there are several channels, whose quantiles are not those of one pixel.
        """
        weights, channel = self._alone()
        q = _flat(
            q.expand(*q.shape[: q.dim() - len(self.event_shape)], *self.event_shape),
            len(self.event_shape),
        )[..., 0, :]
        low = torch.zeros(torch.broadcast_shapes(q.shape, weights[..., 0, :].shape)).to(weights)
        high = torch.full_like(low, self.pixels.levels - 1)
        for _ in range((self.pixels.levels - 1).bit_length()):
            middle = ((low + high) / 2).floor()
            enough = (weights * channel.cdf(middle.unsqueeze(-2))).sum(-2) >= q
            high, low = torch.where(enough, middle, high), torch.where(enough, low, middle + 1)
            low = torch.minimum(low, high)
        return self._whole(high.unsqueeze(-2))

    def _alone(self) -> tuple[Tensor, Logistic]:
        if self.event_shape[0] > 1:
            raise UserError(
                f"DiscretizedLogisticMixture: the {self.event_shape[0]} channels of a pixel are "
                "coupled, and the quantiles of one are not known; draw samples instead"
            )
        return self.pixels.log_weights.exp(), self.pixels.channel(0, self.pixels.loc[..., :0, :])

    def _evidence(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """`log P(x_seen)` of (*, C, P), (*,)."""
        if seen is not None:
            x = torch.where(seen, x, 0.0)
        terms = self.pixels.terms(x)
        if seen is not None:
            terms = torch.where(seen.unsqueeze(-3), terms, 0.0)
        found = (self.pixels.log_weights + terms.sum(-2)).logsumexp(-2)
        if seen is not None and x.shape[-2] > 1:
            for index, table in _tables(self.pixels, *torch.broadcast_tensors(x, seen)):
                total = table.log_p().logsumexp(0)
                found = found.expand(torch.broadcast_shapes(found.shape, seen[..., 0, :].shape))
                found = found.index_put(index, total)
        return found.sum(-1)

    def _completed(self, choose: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """What is known, with its holes filled by `choose`, which picks states of a table.

        Returns (n, *batch, C, P) and where a value now stands, which is all up to some channel.
        """
        lead = self.batch_shape
        if self.known is None:
            zeros = self.pixels.log_weights.new_zeros(1, *lead, *self._rows)
            return zeros, torch.zeros_like(zeros, dtype=torch.bool)
        x, seen = self.known[0].unsqueeze(0), self.known[1].unsqueeze(0)
        for index, table in _tables(self.pixels, *self.known):
            chosen = choose(table.log_p().log_softmax(0))
            x = x.expand(len(chosen), *x.shape[1:])
            for c, values in zip(table.holes, table.states.T, strict=True):
                every: Any = (slice(None), *index[:-1], c, index[-1])
                x, seen = x.clone(), seen.clone()
                x[every], seen[every] = values[chosen], True
        return x, seen

    def _log_shares(self, x: Tensor, seen: Tensor) -> Tensor:
        """Log-weights of the components given the first channels, (*, K, P)."""
        if self.known is None:
            return self.pixels.log_weights.unsqueeze(0)
        terms = torch.where(seen.unsqueeze(-3), self.pixels.terms(x), 0.0).sum(-2)
        return (self.pixels.log_weights + terms).log_softmax(-2)

    def _picked(self, x: Tensor, seen: Tensor) -> Pixels:
        """One component for every pixel of every draw."""
        below = self._log_shares(x, seen).exp().cumsum(-2)[..., :-1, :]
        u = torch.rand_like(x[..., :1, :])
        index = (u > below).sum(-2, keepdim=True)

        def picked(values: Tensor) -> Tensor:
            wide = values.expand(*x.shape[:-2], *values.shape[-3:])
            shape = (*index.shape[:-1], *values.shape[-2:])
            return wide.gather(-3, index.unsqueeze(-2).expand(shape))

        p = self.pixels
        ones = torch.zeros_like(u)
        return Pixels(ones, picked(p.loc), picked(p.log_scale), picked(p.coupling), p.levels)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance: the first channel's exact, those of others over fixed points."""
        points = _lattice(self.event_shape[0]).to(self.pixels.log_weights)
        x, seen = self._completed(lambda log_p: _quantiles(log_p, points[:, 0]))
        shares = self._log_shares(x, seen).exp()
        mean = square = torch.zeros_like(x[0])
        if x.shape[-2] > 1:
            sums = self._sums(points, x, seen, shares)
            mean, square = (sums[0] / _POINTS, sums[1] / _POINTS)
        if self.known is None:
            first = self.pixels.channel(0, x[0, ..., None, :0, :])
            mean_0, square_0 = ((shares[0] * v).sum(-2) for v in _two_moments(first))
            mean, square = _set(mean, 0, mean_0), _set(square, 0, square_0)
        return self._whole(mean), self._whole((square - mean.square()).clamp(min=0))

    def _sums(
        self, points: Tensor, x: Tensor, seen: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sums over the points of x and of x^2, in blocks of points, (*batch, C, P)."""
        first = second = torch.zeros_like(x[0])
        at_once = max(1, _BLOCK_VALUES // max(1, self.pixels.loc[..., 0, :].numel()))
        for rows in torch.arange(_POINTS, device=x.device).split(at_once):
            held = (v[rows] if len(v) > 1 else v for v in (x, seen, shares))
            found = self._placed(points[rows], *held)
            first, second = first + found[0], second + found[1]
        return first, second

    def _placed(
        self, points: Tensor, x: Tensor, seen: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sums of x and of x^2 over some points, averaged over the components."""
        before = x.new_zeros(*x.shape[:-2], shares.shape[-2], 0, x.shape[-1])
        found = []
        for c in range(x.shape[-2]):
            channel = self.pixels.channel(c, before)
            u = points[:, c].view(-1, *(1,) * (before.dim() - 2))
            placed = torch.where(seen[..., None, c, :], x[..., None, c, :], channel.icdf(u))
            found.append([(shares * v).sum(-2).sum(0) for v in (placed, placed.square())])
            before = _append(before, placed)
        first, second = (torch.stack(values, -2) for values in zip(*found, strict=True))
        return first, second

    def _lead(self, value: Tensor) -> torch.Size:
        return value.shape[: value.dim() - len(self.event_shape)]

    @property
    def _rows(self) -> tuple[int, int]:
        """Channels and pixels."""
        return self.event_shape[0], math.prod(self.event_shape[1:])

    def _whole(self, x: Tensor) -> Tensor:
        """(*, C, P) in the event shape."""
        return x.reshape(*x.shape[:-2], *self.event_shape)


class _Table(NamedTuple):
    """Some pixels that lack the same channels, and every value that these may have.

    Attributes:
        pixels: their mixtures, (K, n) and (K, C, n).
        x: what is known up to the last channel seen, (c, n).
        holes: the channels among these that are summed out.
        states: their values, (S, holes), the last hole's changing fastest.
    """

    pixels: Pixels
    x: Tensor
    holes: list[int]
    states: Tensor

    def log_p(self) -> Tensor:
        """`log P(state, x_seen)`, (S, n); not kept for the backward pass, but made again."""
        if not torch.is_grad_enabled():
            return self._joint()
        return checkpoint(self._joint, use_reentrant=False, preserve_rng_state=False)

    def _joint(self) -> Tensor:
        """Every hole is an axis of its own: a channel is scored for the holes before it only."""
        pixels, levels = self.pixels, self.pixels.levels
        ks = torch.arange(levels, dtype=self.x.dtype, device=self.x.device)
        total, placed = pixels.log_weights, list[Tensor]()
        for c in range(len(self.x)):
            x = self.x[c]
            if c in self.holes:
                axes = [1] * len(self.holes)
                axes[self.holes.index(c)] = levels
                x = ks.view(*axes, 1, 1)
            loc, first = pixels.loc[:, c], c * (c - 1) // 2
            for j, before in enumerate(placed):
                loc = loc + pixels.coupling[:, first + j] * (before - (levels - 1) / 2)
            total = total + _log_prob(x, loc, pixels.log_scale[:, c], levels)
            placed.append(x)
        return total.logsumexp(-2).flatten(0, len(self.holes) - 1)


def _tables(
    pixels: Pixels, x: Tensor, seen: Tensor
) -> Iterator[tuple[tuple[Tensor, ...], _Table]]:
    """Pixels that lack a channel before one that was seen, in blocks, with their places.

    Raises:
        UserError: the holes of a pixel have too many values.
    """
    lead = torch.broadcast_shapes(x.shape[:-2], pixels.log_weights.shape[:-2])
    x, seen = (v.expand(*lead, *v.shape[-2:]) for v in (x, seen))
    bits = 2 ** torch.arange(x.shape[-2], device=x.device)
    pattern = (seen * bits[:, None]).sum(-2)
    for number in pattern.unique().tolist():
        last = number.bit_length()
        holes = [c for c in range(last) if not number >> c & 1]
        if not holes:
            continue
        states = _states(pixels.levels, len(holes)).to(x)
        block = max(1, _BLOCK_VALUES // (len(states) * pixels.loc.shape[-3]))
        for rows in (pattern == number).nonzero().split(block):
            index = tuple(rows.T)
            known = x.movedim(-1, len(lead))[index].T[:last]
            yield index, _Table(pixels.at(lead, index), known, holes, states)


def _log_prob(x: Tensor, loc: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """That of `DiscretizedLogistic`, with far edges in place of branches: half the time."""
    rate = (-log_scale).exp()
    lowest, highest = x <= 0, x >= levels - 1
    upper, lower = torch.where(highest, _FAR, x + 0.5), torch.where(lowest, -_FAR, x - 0.5)
    inside = (~(lowest | highest)).to(rate.dtype)
    between = F.logsigmoid((upper - loc) * rate) + F.logsigmoid((loc - lower) * rate)
    return between + inside * (-torch.expm1(-rate)).log()


def _states(levels: int, holes: int) -> Tensor:
    """All values of some channels, (levels^holes, holes)."""
    if levels**holes > _MOST_STATES:
        raise UserError(
            f"DiscretizedLogisticMixture: {holes} missing channels of {levels} levels before an "
            f"observed one have {levels}^{holes} values, more than the {_MOST_STATES} that are "
            "summed; hide whole pixels, or choose DiscretizedLogistic"
        )
    return torch.cartesian_prod(*[torch.arange(levels)] * holes).view(-1, holes)


def _flat(x: Tensor, ndim: int) -> Tensor:
    """(*, C, *S) as (*, C, P)."""
    return x.unsqueeze(-1) if ndim == 1 else x.flatten(1 - ndim)


def _set(x: Tensor, c: int, values: Tensor) -> Tensor:
    """x (*, C, P) with other values in channel c."""
    return torch.cat([x[..., :c, :], values.unsqueeze(-2), x[..., c + 1 :, :]], -2)


def _append(before: Tensor, placed: Tensor) -> Tensor:
    """Channels (*, K, c, P) and one more, (*, K, P)."""
    lead = torch.broadcast_shapes(before.shape[:-2], placed.shape[:-1])
    before = before.expand(*lead, *before.shape[-2:])
    placed = placed.expand(*lead, placed.shape[-1])
    return torch.cat([before, placed.unsqueeze(-2)], -2)


def _two_moments(channel: Logistic) -> tuple[Tensor, Tensor]:
    """`E[x]` and `E[x^2]`, over the levels."""

    def tails(k: Tensor) -> tuple[Tensor, Tensor]:
        a = (k + 0.5 - channel.loc) * channel.rate
        return torch.sigmoid(a), torch.sigmoid(-a)

    mean, variance = integer_moments(tails, channel.loc.detach().round(), channel.levels)
    return mean, variance + mean.square()


def _likeliest(log_w: Tensor, channel: Logistic) -> Tensor:
    """The likeliest level of a mixture over the components, (*, P)."""
    best, value = torch.full_like(log_w[..., 0, :], -math.inf), torch.zeros_like(log_w[..., 0, :])
    size = max(1, _BLOCK_VALUES // max(1, log_w.numel()))
    for ks in torch.arange(channel.levels, device=log_w.device).to(log_w.dtype).split(size):
        k = ks.view(-1, *(1,) * log_w.dim())
        top, index = (log_w + channel.log_prob(k)).logsumexp(-2).max(0)
        value = torch.where(top > best, ks[index], value)
        best = torch.maximum(top, best)
    return value


def _quantiles(log_p: Tensor, u: Tensor) -> Tensor:
    """Indices of the states (S, n) whose cumulated probability reaches u (Q,), (Q, n)."""
    below = log_p.exp().cumsum(0).T.contiguous()
    index = torch.searchsorted(below, u.expand(len(below), -1).contiguous())
    return index.clamp(max=len(log_p) - 1).T


def _lattice(size: int) -> Tensor:
    """The rank-one lattice `((i 18^j mod 67) + 1/2) / 67` in the unit cube, (67, size).

    Every coordinate takes each of 67 midpoints once, so that linear functions are exact.
    """
    i = torch.arange(_POINTS)
    rows = [i * pow(_GENERATOR, j, _POINTS) % _POINTS for j in range(size)]
    return (torch.stack(rows, -1).double() + 0.5) / _POINTS


def _group(n: int, k: int, groups: int) -> slice:
    """Rows of the k-th of some groups of n sorted rows; groups overlap where rows are few."""
    size = -(-n // groups)
    first = min(k * n // groups, n - size)
    return slice(first, first + size)
