"""Distributions over two or more codes, and what stands in for their missing gradient."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, register_kl

from latently.errors import UserError

__all__ = [
    "Bernoulli",
    "Categorical",
    "Levels",
    "Relaxed",
    "categories",
    "combinations",
    "kl_of_levels",
    "open_uniform",
]

MOST_STATES = 4096  # rows of latents decoded for every row of data; more is no step's work


class Relaxed(NamedTuple):
    """Discrete draws and continuous ones that share their noise.

    Attributes:
        hard: draws, without a gradient.
        soft: the same draws before rounding: the concrete distribution at a temperature.
        given: an independent draw of `soft` given `hard`, as REBAR needs.

    Source: Maddison, Mnih, Teh, "The Concrete Distribution", 2017; Jang, Gu, Poole, "Categorical
    Reparameterization with Gumbel-Softmax", 2017; `given`: Tucker et al., "REBAR", 2017.
    """

    hard: Tensor
    soft: Tensor
    given: Tensor


def combinations(values: Tensor, cells: int) -> Tensor:
    """Every row of `cells` cells that each take one of `values` (n, ...), (n^cells, cells, ...).

    Raises:
        UserError: there are more than 4,096.
    """
    if len(values) ** cells > MOST_STATES:
        raise UserError(
            f"{cells} latents of {len(values)} values have {len(values)}^{cells} states, more "
            f"than the {MOST_STATES} that are enumerated; choose fewer, or another estimator"
        )
    index = torch.cartesian_prod(*[torch.arange(len(values), device=values.device)] * cells)
    return values[index.view(-1, cells)]


class Levels(Distribution):
    """Elementwise, over the whole numbers 0 .. n - 1: the KL of any two is a sum of n terms."""

    @property
    @abstractmethod
    def values(self) -> Tensor:
        """The n numbers."""

    @property
    def level_probs(self) -> Tensor:
        """Probability of each number, (*batch, n)."""
        rows = self.values.view(-1, *(1,) * len(self.batch_shape))
        return self.log_prob(rows.expand(-1, *self.batch_shape)).exp().movedim(0, -1)


def kl_of_levels(q: Any, p: Any) -> Tensor:
    """`sum_k q(k) (log q(k) - log p(k))` over the levels; infinite where p lacks some of q's."""
    k, batch = q.values, torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    if len(k) > len(p.values):
        return k.new_full(batch, math.inf)
    k = k.view(-1, *(1,) * len(batch)).expand(-1, *batch)
    log_q = q.log_prob(k)
    return (log_q.exp() * (log_q - p.log_prob(k))).sum(0)


class Bernoulli(TorchBernoulli, Levels):
    r"""Bernoulli by logits: `log p(x) = x h - softplus(h)` for `x` in {0, 1}."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability, in nats."""
        return value * self.logits - F.softplus(self.logits)

    def total_log_prob(self, value: Tensor, ndim: int) -> Tensor:
        """`log_prob` summed over the last axes, at half the cost; its gradient too."""
        h, x = self.logits.flatten(-ndim), value.flatten(-ndim)
        if torch.compiler.is_compiling():  # fuses by itself, and better
            return (x * h - F.softplus(h)).sum(-1)
        return _TotalLogProb.apply(h, x)

    def relaxed(self, sample_shape: Any, temperature: float | Tensor) -> Relaxed:
        r"""`soft = sigmoid((h + logit u) / t)`, `hard = 1` where it exceeds 1/2."""
        shape = (*sample_shape, *self._batch_shape)
        h = self.logits.expand(shape)
        u, v = (open_uniform(shape, h) for _ in range(2))
        raw = h + u.logit()
        hard = (raw.detach() >= 0).to(h.dtype)
        odds = v.logit()
        above, below = F.softplus(odds + F.softplus(h)), -F.softplus(odds + F.softplus(-h))
        given = torch.where(hard > 0, above, below)
        return Relaxed(hard, (raw / temperature).sigmoid(), (given / temperature).sigmoid())

    @property
    def values(self) -> Tensor:
        """The two values."""
        return torch.arange(2, dtype=self.logits.dtype, device=self.logits.device)

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


class _TotalLogProb(torch.autograd.Function):
    r"""`sum_j x_j h_j - softplus(h_j)`; the gradient of h is `x - sigmoid(h)`, that of x is h.

    `softplus(h) = (h + |h|) / 2 - log sigmoid(|h|)`: factors between 1/2 and 1, of which 32 at a
    time are multiplied before one logarithm is taken. Nothing but h and x is kept, and the
    backward pass makes one array of the size of h.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, x: Tensor) -> Tensor:
        size = h.abs()
        rest = ((x - 0.5) * h).sub_(size, alpha=0.5)
        return rest.sum(-1) + _log_product(size.sigmoid_())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (h, x), (of_h, of_x) = ctx.saved_tensors, tangents
        return ((x - h.sigmoid()) * of_h + h * of_x).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        h, x = ctx.saved_tensors
        g = gradients[0].unsqueeze(-1)
        of_h, of_x = ctx.needs_input_grad
        return (
            _misses(h, x, g).sum_to_size(h.shape) if of_h else None,
            (h * g).sum_to_size(x.shape) if of_x else None,
        )


def _misses(h: Tensor, x: Tensor, g: Tensor) -> Tensor:
    """`(x - sigmoid(h)) g`: in one array, unless a second derivative or `vmap` may follow."""
    p = h.sigmoid()
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return (x - p) * g
    if p.shape != torch.broadcast_shapes(h.shape, x.shape):
        return (x - p).mul_(g)
    return p.neg_().add_(x).mul_(g)


class Categorical(Levels):
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

    @property
    def level_probs(self) -> Tensor:
        """The same."""
        return self.probs

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of integers in 0 .. L - 1, in nats."""
        return self._at(self.log_probs, value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        with torch.no_grad():
            flat = self.probs.reshape(-1, self.probs.shape[-1])
            drawn = categories(flat, math.prod(sample_shape)).T
            drawn = torch.where(drawn < 0, torch.nan, drawn.to(flat.dtype))
            return drawn.reshape(*sample_shape, *self._batch_shape)

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
        return self.probs @ self.values

    @property
    def mode(self) -> Tensor:
        """The likeliest category; the first on a tie."""
        return self.log_probs.argmax(-1).to(self.log_probs.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance of the codes."""
        return (self.probs * (self.values - self.mean.unsqueeze(-1)).square()).sum(-1)

    @property
    def values(self) -> Tensor:
        """The codes."""
        return torch.arange(
            self.log_probs.shape[-1], dtype=self.log_probs.dtype, device=self.log_probs.device
        )

    def _at(self, terms: Tensor, value: Tensor) -> Tensor:
        """Entries of (*batch, L) at the codes `value`, of any shape that broadcasts to batch."""
        shape = torch.broadcast_shapes(value.shape, self._batch_shape)
        index = value.nan_to_num(0.0).long().expand(shape).unsqueeze(-1)
        return terms.expand(*shape, -1).gather(-1, index).squeeze(-1)


@register_kl(Bernoulli, Bernoulli)
def _kl_bernoulli(q: Bernoulli, p: Bernoulli) -> Tensor:
    """`q1 (log q1 - log p1) + q0 (log q0 - log p0)`; no logarithm of a rounded 0."""
    ones = q.logits.sigmoid() * (F.logsigmoid(q.logits) - F.logsigmoid(p.logits))
    zeros = (-q.logits).sigmoid() * (F.logsigmoid(-q.logits) - F.logsigmoid(-p.logits))
    return ones + zeros


register_kl(Levels, Levels)(kl_of_levels)


@register_kl(Categorical, Categorical)
def _kl_categorical(q: Categorical, p: Categorical) -> Tensor:
    if q.log_probs.shape[-1] != p.log_probs.shape[-1]:
        return kl_of_levels(q, p)
    return (q.probs * (q.log_probs - p.log_probs)).sum(-1)


@torch.no_grad()
def categories(probs: Tensor, count: int) -> Tensor:
    """Draws (rows, count) of category numbers, by probabilities (rows, L).

    -1 where a row of probabilities holds NaN, which torch's own draws answer with an error, or on
    a GPU with the end of the process: a network that blew up is for the training loop to report.
    """
    known = ~probs.isnan().any(-1, keepdim=True)
    drawn = torch.multinomial(torch.where(known, probs, 1.0), count, replacement=True)
    return torch.where(known, drawn, -1)


def open_uniform(shape: Any, like: Tensor) -> Tensor:
    """U(0, 1), both ends excluded."""
    u = torch.rand(shape, dtype=like.dtype, device=like.device)
    return u.clamp(torch.finfo(like.dtype).tiny, 1 - torch.finfo(like.dtype).eps)


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
