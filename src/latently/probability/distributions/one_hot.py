"""Categories as rows of zeros with one 1."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import register_kl

from latently.probability.distributions.discrete import (
    Relaxed,
    categories,
    combinations,
    open_uniform,
)
from latently.probability.distributions.joint import Joint

__all__ = ["OneHot"]

_NEVER = -1e30  # a log-probability that no draw meets; -inf would make gradients NaN


class OneHot(Joint):
    r"""Independent categories as one-hot rows over the last axis, by logits.

    `log P(x) = sum_v sum_l x_vl log softmax(h_v)_l`, linear in x: relaxed and straight-through
    draws get a gradient. Of a row whose 1 is not among the observed cells, what is observed has
    the probability `sum_{l missing} softmax(h_v)_l`.

    Args:
        logits: (*batch, *event); the categories are on the last axis.
        ndim: number of event axes.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, ndim: int) -> None:
        self.log_probs = F.log_softmax(logits, -1)
        split = logits.dim() - ndim
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=False)

    @property
    def probs(self) -> Tensor:
        """Probability of each category, (*batch, *event)."""
        return self.log_probs.exp()

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probability of the observed cells, summed over the event, in nats."""
        if mask is None:
            terms = (value * self.log_probs).sum(-1)
        else:
            seen = torch.where(mask, value, 0.0)
            # a row without holes keeps its sum over all categories, 0, as the branch not taken
            holes = mask.all(-1, keepdim=True) | ~mask
            hidden = torch.where(holes, self.log_probs, _NEVER).logsumexp(-1)
            terms = torch.where(seen.sum(-1) > 0, (seen * self.log_probs).sum(-1), hidden)
        ndim = len(self.event_shape) - 1
        return terms.flatten(-ndim).sum(-1) if ndim else terms

    def cell_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of every category, (*batch, *event[:-1]), in nats."""
        return (value * self.log_probs).sum(-1)

    def given(self, value: Tensor, mask: Tensor) -> OneHot:
        """Without the categories that were seen to be 0, or none but the one seen to be 1."""
        known = (mask & (value > 0)).any(-1, keepdim=True)
        possible = torch.where(known, value > 0, ~mask) | mask.all(-1, keepdim=True)
        return OneHot(torch.where(possible, self.log_probs, _NEVER), len(self.event_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        with torch.no_grad():
            levels = self.log_probs.shape[-1]
            flat = self.probs.reshape(-1, levels)
            drawn = categories(flat, math.prod(sample_shape)).T.unsqueeze(-1)
            rows = (drawn == torch.arange(levels, device=flat.device)).to(flat.dtype)
            rows = torch.where(drawn < 0, torch.nan, rows)
            return rows.reshape(*sample_shape, *self.log_probs.shape)

    def relaxed(self, sample_shape: Any, temperature: float | Tensor) -> Relaxed:
        r"""`soft = softmax((h + g) / t)` with Gumbel noise g, `hard` one-hot at its largest."""
        shape = (*sample_shape, *self.log_probs.shape)
        log_p = self.log_probs.expand(shape)
        u, v = (-open_uniform(shape, log_p).log() for _ in range(2))  # exponential draws
        raw = log_p - u.log()
        top = raw.detach().argmax(-1, keepdim=True)
        hard = torch.zeros_like(raw).detach().scatter(-1, top, 1.0)
        first = v.gather(-1, top)  # the largest of Gumbels whose weights sum to one
        given = -torch.logaddexp(v.log() - log_p, first.log())
        given = torch.where(hard > 0, -first.log(), given)
        return Relaxed(
            hard, torch.softmax(raw / temperature, -1), torch.softmax(given / temperature, -1)
        )

    def states(self) -> Tensor:
        """Every row, (states, *event).

        Raises:
            UserError: there are too many.
        """
        *variables, levels = self.event_shape
        rows = torch.eye(levels, dtype=self.log_probs.dtype, device=self.log_probs.device)
        return combinations(rows, math.prod(variables)).reshape(-1, *self.event_shape)

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        return -(self.probs * self.log_probs).flatten(-len(self.event_shape)).sum(-1)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)` of each cell."""
        return torch.where(value < 0, 0.0, torch.where(value < 1, 1 - self.probs, 1.0))

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest value of each cell whose cdf reaches `q`."""
        return (q > 1 - self.probs).to(self.log_probs.dtype)

    @property
    def mean(self) -> Tensor:
        """The probabilities."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """The likeliest category; the first on a tie."""
        best = self.log_probs.argmax(-1)
        return F.one_hot(best, self.log_probs.shape[-1]).to(self.log_probs.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance of each cell."""
        return self.probs * (1 - self.probs)


@register_kl(OneHot, OneHot)
def _kl_one_hot(q: OneHot, p: OneHot) -> Tensor:
    terms = q.probs * (q.log_probs - p.log_probs)
    return terms.flatten(-len(q.event_shape)).sum(-1)
