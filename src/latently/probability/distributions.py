r"""Distributions that `torch.distributions` lacks.

All are elementwise unless said otherwise: parameters broadcast to the batch shape, the event is
a scalar. `Factorized` turns the last axes into one event and knows about missing entries.
Instances never validate their arguments: support is checked once, at the data boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, kl_divergence, register_kl
from torch.distributions import Normal as TorchNormal

from latently.errors import UserError

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiscretizedLogistic",
    "Factorized",
    "Normal",
    "Rounded",
    "Scaled",
    "StandardNormal",
    "analytic_kl",
    "observed_log_prob",
]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_BLOCK_VALUES = 2**20  # values held at once where a sum runs over the levels


class Normal(TorchNormal):
    r"""Normal by location and *log* scale.

    `log N(x; mu, sigma) = -((x - mu) / sigma)^2 / 2 - log sigma - log(2 pi) / 2`.

    Draws are made out of place, so that they work under `vmap`.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        self.scale = self.log_scale.exp()
        Distribution.__init__(self, self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        return -0.5 * ((value - self.loc) / self.scale).square() - self.log_scale - _HALF_LOG_2PI

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws `mu + sigma eps`."""
        shape = (*sample_shape, *self._batch_shape)
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * eps

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)


class Scaled(Distribution):
    """`x = loc + scale u` with u from an elementwise base: column scaling, with its Jacobian.

    `log p(x) = log p_u((x - loc) / scale) - log scale`. The difference is taken in the wider type
    of x and loc, then cast to the base's: columns may lie far from zero.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: Distribution, loc: Tensor, scale: Tensor) -> None:
        self.base, self.loc, self.scale = base, loc, scale
        super().__init__(base.batch_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry a pathwise gradient."""
        return self.base.has_rsample

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in data units, in nats."""
        log_p = self.base.log_prob(self._unit(value))
        return log_p - self.scale.log().to(log_p.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a pathwise gradient."""
        return self.loc + self.scale * self.base.rsample(Size(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        return self.loc + self.scale * self.base.sample(Size(sample_shape))

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        entropy = self.base.entropy()
        return entropy + self.scale.log().to(entropy.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        return self.base.cdf(self._unit(value))

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles."""
        return self.loc + self.scale * self.base.icdf(q)

    @property
    def mean(self) -> Tensor:
        """Mean."""
        return self.loc + self.scale * self.base.mean

    @property
    def mode(self) -> Tensor:
        """Mode."""
        return self.loc + self.scale * self.base.mode

    @property
    def variance(self) -> Tensor:
        """Variance."""
        return self.scale.square() * self.base.variance

    def _unit(self, value: Tensor) -> Tensor:
        return ((value - self.loc) / self.scale).to(self.base.mean.dtype)


class StandardNormal(Normal):
    """N(0, 1) in every coordinate: the same as `Normal(0, 0)`, in fewer operations."""

    def __init__(self, zeros: Tensor) -> None:
        self.loc = self.log_scale = zeros
        self.scale = torch.ones_like(zeros)
        Distribution.__init__(self, zeros.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        return -0.5 * value.square() - _HALF_LOG_2PI

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        shape = (*sample_shape, *self._batch_shape)
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)


@register_kl(Normal, Normal)
def _kl_normal(q: Normal, p: Normal) -> Tensor:
    """`(s^2 + d^2 - 1) / 2 - log s`, with s the ratio of scales and d the scaled difference."""
    log_ratio = q.log_scale - p.log_scale
    shift = (q.loc - p.loc) / p.scale
    return 0.5 * (torch.expm1(2 * log_ratio) + shift.square()) - log_ratio


@register_kl(Normal, StandardNormal)
def _kl_standard(q: Normal, p: StandardNormal) -> Tensor:
    return 0.5 * (q.scale.square() + q.loc.square() - 1) - q.log_scale


class Bernoulli(TorchBernoulli):
    r"""Bernoulli by logits: `log p(x) = x h - softplus(h)` for `x` in {0, 1}."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability, in nats."""
        return value * self.logits - F.softplus(self.logits)

    def total_log_prob(self, value: Tensor, ndim: int) -> Tensor:
        r"""`log_prob` summed over the last axes, at half the cost.

        `sum softplus(h) = sum max(h, 0) - log prod sigmoid(|h|)`: factors between 1/2 and 1, of
        which 32 at a time are multiplied before one logarithm is taken.
        """
        h = self.logits.flatten(-ndim)
        rest = (value.flatten(-ndim) * h).sub_(h.relu())
        return rest.sum(-1) + _log_product(h.abs().sigmoid_())

    @property
    def mode(self) -> Tensor:
        """The likelier value; 1 on a tie."""
        return (self.logits >= 0).to(self.logits.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        return torch.where(value < 0, 0.0, torch.where(value < 1, 1 - self.probs, 1.0))

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest value whose cdf reaches `q`."""
        return (q > 1 - self.probs).to(self.logits.dtype)


class Categorical(Distribution):
    r"""Categories 0 .. L - 1 by logits h over the last axis: `P(x) = exp(h_x) / sum_l exp(h_l)`.

    Draws, like all values here, are floats. Mean, variance, cdf and quantiles are those of the
    codes, which mean something only where the order of the categories does; `mode` always does.

    Args:
        logits: of shape (*batch, L).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = F.log_softmax(logits, -1)
        super().__init__(logits.shape[:-1], validate_args=False)

    @property
    def probs(self) -> Tensor:
        """Probability of each category, (*batch, L)."""
        return self.log_probs.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of integers in 0 .. L - 1, in nats."""
        return self._at(self.log_probs, value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        with torch.no_grad():
            flat = self.probs.reshape(-1, self.probs.shape[-1])
            drawn = torch.multinomial(flat, math.prod(sample_shape), replacement=True)
            return drawn.T.reshape(*sample_shape, *self._batch_shape).to(flat.dtype)

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        return -(self.probs * self.log_probs).sum(-1)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)` of the codes."""
        last = self.log_probs.shape[-1] - 1
        inside = self._at(self.probs.cumsum(-1), value.floor().clamp(0, last))
        return torch.where(value < 0, 0.0, torch.where(value >= last, 1.0, inside))

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest code whose cdf reaches `q`."""
        below = self.probs.cumsum(-1)[..., :-1]
        return (q.unsqueeze(-1) > below).sum(-1).to(self.log_probs.dtype)

    @property
    def mean(self) -> Tensor:
        """Mean of the codes."""
        return self.probs @ self._codes

    @property
    def mode(self) -> Tensor:
        """The likeliest category; the first on a tie."""
        return self.log_probs.argmax(-1).to(self.log_probs.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance of the codes."""
        return (self.probs * (self._codes - self.mean.unsqueeze(-1)).square()).sum(-1)

    @property
    def _codes(self) -> Tensor:
        return torch.arange(
            self.log_probs.shape[-1], dtype=self.log_probs.dtype, device=self.log_probs.device
        )

    def _at(self, terms: Tensor, value: Tensor) -> Tensor:
        """Entries of (*batch, L) at the codes `value`, of any shape that broadcasts to batch."""
        shape = torch.broadcast_shapes(value.shape, self._batch_shape)
        index = value.long().expand(shape).unsqueeze(-1)
        return terms.expand(*shape, -1).gather(-1, index).squeeze(-1)


class DiscretizedLogistic(Distribution):
    r"""A logistic distribution rounded to the integers 0 .. levels - 1.

    With `a = (x + 1/2 - mu) / s`, `b = (x - 1/2 - mu) / s` and the outer bins reaching to
    infinity, `P(x) = sigmoid(a) - sigmoid(b)`. The difference is evaluated as

        log P(x) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(-1/s)),

    an identity without cancellation, so the probabilities sum to one at any parameters.

    Source: PixelCNN++ (Salimans, Karpathy, Chen, Kingma, 2017), whose evaluation of the same
    difference falls back on the density where it loses precision; this one never does.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (the base class declares a property)

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        self.levels = levels
        self.rate = (-self.log_scale).exp()
        super().__init__(self.loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of integers in 0 .. levels - 1, in nats."""
        centred = value - self.loc
        below = F.logsigmoid((centred + 0.5) * self.rate)
        above = F.logsigmoid((0.5 - centred) * self.rate)
        lowest, highest = value <= 0, value >= self.levels - 1
        inside = torch.where(lowest | highest, 0.0, _log1mexp(self.rate))
        below = torch.where(highest, 0.0, below)
        return below + torch.where(lowest, 0.0, above) + inside

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws by inversion: round `mu + s logit(u)` and clip."""
        with torch.no_grad():
            shape = (*sample_shape, *self._batch_shape)
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return (self.loc + torch.logit(u, eps=1e-7) / self.rate).round().clamp(*self._range)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        inside = torch.sigmoid((value.floor() + 0.5 - self.loc) * self.rate)
        return torch.where(value < 0, 0.0, torch.where(value >= self.levels - 1, 1.0, inside))

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest integer whose cdf reaches `q`."""
        return (self.loc + torch.logit(q) / self.rate - 0.5).ceil().clamp(*self._range)

    @property
    def mean(self) -> Tensor:
        """`E[X]`, exact; the sum runs over the levels."""
        return self._moments()[0]

    @property
    def mode(self) -> Tensor:
        """The likeliest integer: the nearest to `mu`, or an end that gathers a tail."""
        ends = [torch.full_like(self.loc, end) for end in self._range]
        candidates = torch.stack([self.loc.round().clamp(*self._range), *ends])
        best = self.log_prob(candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best)[0]

    @property
    def variance(self) -> Tensor:
        """`Var[X]`, exact; the sum runs over the levels."""
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        def tails(k: Tensor) -> tuple[Tensor, Tensor]:
            a = (k + 0.5 - self.loc) * self.rate
            return torch.sigmoid(a), torch.sigmoid(-a)

        return _integer_moments(tails, self.loc.detach().round(), self.levels)

    @property
    def _range(self) -> tuple[int, int]:
        return 0, self.levels - 1


def _integer_moments(
    tails: Callable[[Tensor], tuple[Tensor, Tensor]], centre: Tensor, levels: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance of integers 0 .. levels - 1 from `tails(k) = P(X <= k), P(X > k)`.

    `E[X - c] = sum_{k >= c} P(X > k) - sum_{k < c} P(X <= k)`, and the same sum with weights
    `|2 (k - c) + 1|` and plus signs is `E[(X - c)^2]`: with an integer c near the mean nothing
    cancels, in float32 neither. The levels are summed in blocks, which bounds memory.
    """
    centre = centre.clamp(0, levels - 1)
    first, second = torch.zeros_like(centre), torch.zeros_like(centre)
    block = max(1, _BLOCK_VALUES // max(1, centre.numel()))
    for ks in torch.arange(levels - 1, dtype=centre.dtype, device=centre.device).split(block):
        k = ks.view(-1, *(1,) * centre.dim())
        odd = 2 * (k - centre) + 1
        below, above = tails(k)
        beyond = torch.where(odd > 0, above, below)
        first = first + (odd.sign() * beyond).sum(0)
        second = second + (odd.abs() * beyond).sum(0)
    return centre + first, (second - first.square()).clamp(min=0)


def _log1mexp(rate: Tensor) -> Tensor:
    """`log(1 - exp(-rate))` for positive rates, stable at both ends."""
    small = rate < math.log(2)
    near = torch.where(small, rate, 1.0)
    far = torch.where(small, 1.0, rate)
    return torch.where(small, (-torch.expm1(-near)).log(), torch.log1p(-(-far).exp()))


class Rounded(Distribution):
    r"""The integers `floor(y)`, clipped to 0 .. levels - 1, of a continuous elementwise `y`.

    `P(x) = F(x + 1) - F(x)` with the outer bins reaching to infinity; `F` is the cdf of `y`. Far
    in the tails the difference loses its digits: it serves samples and moments, while evidence
    goes through the density of y.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: Distribution, levels: int) -> None:
        self.base, self.levels = base, levels
        super().__init__(base.batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of integers in 0 .. levels - 1, in nats."""
        upper = torch.where(value >= self.levels - 1, 1.0, self.base.cdf(value + 1))
        lower = torch.where(value <= 0, 0.0, self.base.cdf(value))
        tiny = torch.finfo(upper.dtype).tiny
        return (upper - lower).clamp(min=tiny).log()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        return self.base.sample(sample_shape).floor().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """`E[X]`, exact; the sum runs over the levels."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """`Var[X]`, exact; the sum runs over the levels."""
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        def tails(k: Tensor) -> tuple[Tensor, Tensor]:
            below = self.base.cdf(k + 1)
            return below, 1 - below

        return _integer_moments(tails, self.base.mean.detach().floor(), self.levels)


class Factorized(Distribution):
    r"""Independent coordinates: the last `ndim` batch axes of `base` become one event.

    `log p(x) = sum_j m_j log p_j(x_j)`, where the mask `m` is 1 for observed coordinates. Under
    a mask this *is* the marginal of the observed part, because coordinates are independent.

    Args:
        base: an elementwise distribution of batch shape (*, *event).
        ndim: number of event axes.
        fill: a value inside the support, put into missing cells before `log_prob`, so that
            neither the value nor its gradient can be NaN.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: Distribution, ndim: int, fill: float | Tensor = 0.0) -> None:
        self.base, self.ndim, self.fill = base, ndim, fill
        split = len(base.batch_shape) - ndim
        shape = base.batch_shape
        super().__init__(shape[:split], shape[split:], validate_args=False)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed coordinates, summed over the event, in nats."""
        if mask is None:
            if isinstance(self.base, Bernoulli) and self.ndim and not torch.is_grad_enabled():
                return self.base.total_log_prob(value, self.ndim)
            return _sum_last(self.base.log_prob(value), self.ndim)
        fill = torch.as_tensor(self.fill, dtype=value.dtype, device=value.device)
        terms = self.base.log_prob(torch.where(mask, value, fill))
        return _sum_last(torch.where(mask, terms, 0.0), self.ndim)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry a pathwise gradient."""
        return self.base.has_rsample

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a pathwise gradient, of shape (*sample_shape, *batch, *event)."""
        return self.base.rsample(Size(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape (*sample_shape, *batch, *event)."""
        return self.base.sample(Size(sample_shape))

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        return _sum_last(self.base.entropy(), self.ndim)

    def cdf(self, value: Tensor) -> Tensor:
        """The cdf of each coordinate, of shape (*batch, *event)."""
        return self.base.cdf(value)

    def icdf(self, q: Tensor) -> Tensor:
        """The quantile of each coordinate, of shape (*batch, *event)."""
        return self.base.icdf(q)

    @property
    def mean(self) -> Tensor:
        """Mean, of shape (*batch, *event)."""
        return self.base.mean

    @property
    def mode(self) -> Tensor:
        """Mode, of shape (*batch, *event)."""
        return self.base.mode

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, of shape (*batch, *event)."""
        return self.base.variance


@register_kl(Factorized, Factorized)
def _kl_factorized(q: Factorized, p: Factorized) -> Tensor:
    return _sum_last(kl_divergence(q.base, p.base), q.ndim)


def analytic_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """`KL(q || p)` in nats where a closed form is registered, else None."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def observed_log_prob(distribution: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
    """`log p(x_observed)` in nats.

    Raises:
        UserError: entries are missing and the distribution cannot marginalise them.
    """
    if mask is None:
        return distribution.log_prob(x)
    if not isinstance(distribution, Factorized):
        raise UserError(
            f"{type(distribution).__name__} cannot leave out missing entries; use a likelihood "
            "that factorizes over columns"
        )
    return distribution.log_prob(x, mask)


def _log_product(factors: Tensor, halvings: int = 5) -> Tensor:
    """Log of the product over the last axis, for factors in [1/2, 1]."""
    for _ in range(halvings):
        half, odd = divmod(factors.shape[-1], 2)
        if not half:
            break
        halved = factors[..., :half] * factors[..., half : 2 * half]
        if odd:
            halved[..., :1] *= factors[..., -1:]
        factors = halved
    return factors.log().sum(-1)


def _sum_last(terms: Tensor, ndim: int) -> Tensor:
    return terms.flatten(-ndim).sum(-1) if ndim else terms
