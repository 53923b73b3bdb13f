"""Counts with more zeros than their distribution explains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution, register_kl

from latently.probability.distributions import Factorized
from latently.probability.distributions.discrete import kl_of_levels
from latently.probability.families._inner import inner, refusal
from latently.probability.families.base import Family
from latently.probability.families.negative_binomial import NegativeBinomial
from latently.probability.families.poisson import _Poisson

__all__ = ["ZeroInflated"]

_ROWS = 500  # rows that the starting excess of zeros is read from
_SHARES = 6  # of the zeros that may be in excess, tried for a start
_WANTED = (
    "a family of independent counts from 0 on; choose e.g. Poisson, NegativeBinomial or Binomial"
)


class ZeroInflated(Family):
    r"""A family of counts that are 0 with probability pi whatever it says: ZIP, ZINB, ...

        P(0) = pi + (1 - pi) P_f(0),    P(x) = (1 - pi) P_f(x) for x > 0

    with the family's `P_f`. The raw parameters are (logit pi, h of the family), logit pi one for
    each cell, packed on the first axis. In text, `ZeroInflated(family=Poisson)`. Sources: Lambert,
    "Zero-Inflated Poisson Regression, with an Application to Defects in Manufacturing", 1992; with
    negative binomials, Greene, "Accounting for Excess Zeros and Sample Selection in Poisson and
    Negative Binomial Regression Models", 1994.

    Args:
        shape: event shape (C, *S); `param_shape` is C longer on the first axis than the family's.
        family: constructor of a family of independent counts from 0 on: `Poisson`,
            `NegativeBinomial`, `Binomial`, ...

    Raises:
        UserError: `family` is no such constructor.

    >>> import torch
    >>> from latently.probability.families import Poisson
    >>> family = ZeroInflated((1,), family=Poisson)
    >>> family(torch.zeros(2)).log_prob(torch.zeros(1)).exp()  # (1 + 1 / e) / 2
    tensor(0.6839)
    """

    discrete: bool = True

    def __init__(
        self, shape: Sequence[int], *, family: Callable[..., Family] = NegativeBinomial
    ) -> None:
        super().__init__(shape)
        self.family = inner("ZeroInflated", family, self.shape, _WANTED)
        if not _counts_from_zero(self.family):
            raise refusal("ZeroInflated", family, _WANTED)

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (self.shape[0] + self.family.param_shape[0], *self.shape[1:])

    @property
    def embed_shape(self) -> tuple[int, ...]:
        return self.family.embed_shape

    @property
    def support(self) -> str:
        return self.family.support

    def forward(self, h: Tensor) -> Factorized:
        sizes = [self.shape[0], self.family.param_shape[0]]
        logits, rest = h.split(sizes, -len(self.shape))
        return Factorized(_ZeroInflated(logits, self.family(rest).base), len(self.shape))

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.family.embed(x, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.family.misfit(x, mask)

    def unscaled(self) -> None:
        self.family.unscaled()

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets the family from the counts without their excess of zeros."""
        self.family.initialise(x, _without(x, mask, self._excess(x, mask)))

    @torch.no_grad()
    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of the excess of zeros in each column, and the family's best for the others."""
        return _raw(self.family, x, mask, self._excess(x, mask))

    def _excess(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Which share of its zeros the family is best spared in each column, of a few shares."""
        rows = slice(None, None, -(-len(x) // _ROWS))
        x, seen = x[rows], _seen(x, mask)[rows]
        trial = ZeroInflated(self.shape, family=lambda _: copy.deepcopy(self.family))
        excess = x.new_zeros(self.shape, dtype=torch.float64)
        best = torch.full_like(excess, -torch.inf)
        for share in torch.linspace(0, 1, _SHARES, dtype=torch.float64, device=x.device):
            tried = share.expand(self.shape)
            trial.family.initialise(x, _without(x, seen, tried))
            found = trial(_raw(trial.family, x, seen, tried)).base
            terms = found.log_prob(torch.where(seen, x, 0.0).double())
            log_lik = torch.where(seen, terms, 0.0).sum(0)
            excess = torch.where(log_lik > best, tried, excess)
            best = log_lik.maximum(best)
        return excess


def _seen(x: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool) if mask is None else mask


def _without(x: Tensor, mask: Tensor | None, excess: Tensor) -> Tensor:
    """A mask that hides a share of the zeros of each column: families take no weights."""
    zeros = (x == 0) & _seen(x, mask)
    return _seen(x, mask) & ~(zeros & (zeros.cumsum(0) <= excess * zeros.sum(0)))


def _raw(family: Family, x: Tensor, mask: Tensor | None, excess: Tensor) -> Tensor:
    """Raw parameters given the share of the zeros that is in excess."""
    seen = _seen(x, mask)
    share = excess * ((x == 0) & seen).sum(0) / seen.sum(0).clamp(min=1)
    margin = max(0.5 / len(x), 1e-3)
    logits = share.clamp(margin, 1 - margin).logit()
    h = family.marginal(x, _without(x, seen, excess))
    return torch.cat([logits, x.new_zeros(family.param_shape) if h is None else h])


def _counts_from_zero(family: Family) -> bool:
    """Whether cells are independent whole numbers that may be 0 and not less."""
    zero = torch.zeros(1, *family.shape, device="cpu")
    h = torch.zeros(family.param_shape)
    return (
        family.discrete
        and isinstance(family(h), Factorized)
        and not bool(family.misfit(zero).any())
        and bool(family.misfit(zero - 1).all())
    )


class _ZeroInflated(Distribution):
    """A mixture of 0 and an elementwise distribution of counts."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, base: Distribution) -> None:
        self.logits, self.base = logits, base
        super().__init__(base.batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability, in nats."""
        counted = F.logsigmoid(-self.logits) + self.base.log_prob(value)
        either = torch.logaddexp(F.logsigmoid(self.logits), counted)
        return torch.where(value == 0, either, counted)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        with torch.no_grad():
            x = self.base.sample(Size(sample_shape))
            return torch.where(torch.rand_like(x) < self.logits.sigmoid(), 0.0, x)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        counted = self._share * self.base.cdf(value)
        return torch.where(value < 0, 0.0, self.logits.sigmoid() + counted)

    def icdf(self, q: Tensor) -> Tensor:
        """The smallest count whose cdf reaches `q`."""
        rest = (q - self.logits.sigmoid()) / self._share
        return torch.where(rest <= 0, 0.0, self.base.icdf(rest.clamp(0, 1)))

    @property
    def mean(self) -> Tensor:
        """`(1 - pi) E_base[X]`."""
        return self._share * self.base.mean

    @property
    def mode(self) -> Tensor:
        """The likeliest count: 0 or the mode of the base; the latter on a tie."""
        mode = self.base.mode
        at_zero = self.log_prob(torch.zeros_like(mode))
        return torch.where(at_zero > self.log_prob(mode), 0.0, mode)

    @property
    def variance(self) -> Tensor:
        """`(1 - pi) (Var_base[X] + pi E_base[X]^2)`."""
        spread = self.logits.sigmoid() * self.base.mean.square()
        return self._share * (self.base.variance + spread)

    @property
    def values(self) -> Tensor:
        """All values of the base; an attribute only where it has finitely many."""
        return self.base.values  # type: ignore[attr-defined]

    @property
    def _share(self) -> Tensor:
        return (-self.logits).sigmoid()


@register_kl(_ZeroInflated, _ZeroInflated)
@register_kl(_ZeroInflated, _Poisson)
@register_kl(_Poisson, _ZeroInflated)
def _kl_zero_inflated(q: _ZeroInflated | _Poisson, p: _ZeroInflated | _Poisson) -> Tensor:
    """The sum over finitely many levels, or over 0 and, of Poissons, all counts above it.

    Above 0 the log ratios are those of the shares `1 - pi` and of the families, whose sum is
    `sum_{x > 0} P_q(x) log(P_q(x) / P_p(x)) = l_q (log l_q - log l_p) + (l_p - l_q)(1 - e^-l_q)`.
    """
    if hasattr(q, "values") and hasattr(p, "values"):
        return kl_of_levels(q, p)
    (share_q, f), (share_p, g) = _share_and_counts(q), _share_and_counts(p)
    if not (isinstance(f, _Poisson) and isinstance(g, _Poisson)):
        raise NotImplementedError(f"KL of counts {type(f).__name__} and {type(g).__name__}")
    zero = torch.zeros_like(f.rate)
    none = q.log_prob(zero)
    some = -torch.expm1(-f.rate)
    above = f.rate * (f.log_rate - g.log_rate) + (g.rate - f.rate) * some
    above = above + some * (share_q - share_p)
    return none.exp() * (none - p.log_prob(zero)) + share_q.exp() * above


def _share_and_counts(d: _ZeroInflated | _Poisson) -> tuple[Tensor, Distribution]:
    """`log(1 - pi)` and the distribution that pi is added to."""
    if isinstance(d, _ZeroInflated):
        return F.logsigmoid(-d.logits), d.base
    return torch.zeros_like(d.rate), d
