"""Amounts that are often exactly 0: rain, spending, word frequencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from latently.probability.distributions import Factorized
from latently.probability.families._inner import inner, refusal
from latently.probability.families._moments import zero_missing
from latently.probability.families._positive import Positive
from latently.probability.families.base import Family
from latently.probability.families.gamma import Gamma

__all__ = ["Hurdle"]

_WANTED = "a family of numbers above 0, such as Gamma or LogNormal"


class Hurdle(Family):
    r"""Amounts that are 0 with probability pi, else of a family of numbers above 0.

        log P(0) = log pi,    log p(x) = log(1 - pi) + log p_f(x) for x > 0

    in nats: a probability at 0 and a density elsewhere, so that columns full of zeros have no
    density that grows without limit there. The raw parameters are (logit pi, h of the family).
    A network sees which cells are above 0, and of those what the family shows. Source: Cragg,
    "Some Statistical Models for Limited Dependent Variables with Application to the Demand for
    Durable Goods", 1971.

    Args:
        shape: event shape (C, *S); `param_shape` is C longer on the first axis than the family's.
        family: constructor of a family of numbers above 0: `Gamma` or `LogNormal`.

    Raises:
        UserError: `family` is no such constructor.

    >>> Hurdle((1,))(torch.zeros(3)).log_prob(torch.zeros(1)).exp()
    tensor(0.5000)
    """

    atoms = (0.0,)

    def __init__(self, shape: Sequence[int], *, family: Callable[..., Family] = Gamma) -> None:
        super().__init__(shape)
        self.family = inner("Hurdle", family, self.shape, _WANTED)
        if not isinstance(self.family, Positive):
            raise refusal("Hurdle", family, _WANTED)

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (self.shape[0] + self.family.param_shape[0], *self.shape[1:])

    @property
    def embed_shape(self) -> tuple[int, ...]:
        return (2 * self.shape[0], *self.shape[1:])

    @property
    def support(self) -> str:
        return "numbers of at least 0"

    @property
    def constraint(self) -> Constraint | None:
        return None

    def forward(self, h: Tensor) -> Factorized:
        sizes = [self.shape[0], self.family.param_shape[0]]
        logits, rest = h.split(sizes, -len(self.shape))
        above = self.family(rest)
        return Factorized(_Hurdle(logits, above.base, above.fill), len(self.shape))

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the family shows above 0, then 1 above 0 and -1 at 0; zeros where missing."""
        above = x > 0
        size = self.family.embed(x, above if mask is None else above & mask)
        sign = zero_missing(2 * above.to(x.dtype) - 1, mask)
        return torch.cat([size, sign.to(size.dtype)], -len(self.shape))

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return ~((x >= 0) & torch.isfinite(x))

    def hold(self, floor: float) -> None:
        self.family.hold(floor)

    def unscaled(self) -> None:
        self.family.unscaled()

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets the family from what is above 0."""
        self.family.initialise(x, _above(x, mask))

    @torch.no_grad()
    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logit of the share of zeros, half a row added to each side, and the family's best."""
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        above = _above(x, mask)
        zeros = ((seen & ~above).sum(0) + 0.5) / (seen.sum(0) + 1.0)
        h = self.family.marginal(x, above)
        rest = x.new_zeros(self.family.param_shape) if h is None else h
        rest = torch.where(rest.isfinite(), rest, 0.0)  # of a column without a number above 0
        return torch.cat([zeros.to(rest.dtype).logit(), rest])


def _above(x: Tensor, mask: Tensor | None) -> Tensor:
    return x > 0 if mask is None else (x > 0) & mask


class _Hurdle(Distribution):
    """0 with a probability, else an elementwise distribution of numbers above 0."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, base: Distribution, inside: float | Tensor) -> None:
        self.logits, self.base, self.inside = logits, base, inside
        super().__init__(base.batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of 0, log-density above it, in nats."""
        zero = value == 0
        inside = torch.as_tensor(self.inside, dtype=value.dtype, device=value.device)
        above = self.base.log_prob(torch.where(zero, inside, value))
        return torch.where(zero, F.logsigmoid(self.logits), F.logsigmoid(-self.logits) + above)

    def above(self) -> tuple[Tensor, Distribution]:
        """log P(X > 0), and the distribution of X | X > 0."""
        return F.logsigmoid(-self.logits), self.base

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws."""
        with torch.no_grad():
            x = self.base.sample(Size(sample_shape))
            return torch.where(torch.rand_like(x) < self.logits.sigmoid(), 0.0, x)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)`."""
        inside = torch.as_tensor(self.inside, dtype=value.dtype, device=value.device)
        above = self.base.cdf(torch.where(value > 0, value, inside))
        above = torch.where(value > 0, above, 0.0)
        return torch.where(value < 0, 0.0, self.logits.sigmoid() + self._share * above)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles: 0 up to its probability."""
        rest = (q - self.logits.sigmoid()) / self._share
        return torch.where(rest <= 0, 0.0, self.base.icdf(rest.clamp(1e-12, 1)))

    @property
    def mean(self) -> Tensor:
        """`(1 - pi) E_f[X]`."""
        return self._share * self.base.mean

    @property
    def mode(self) -> Tensor:
        """0 where it has at least half of the probability, else the mode above 0."""
        return torch.where(self.logits >= 0, 0.0, self.base.mode)

    @property
    def variance(self) -> Tensor:
        """`(1 - pi) (Var_f[X] + pi E_f[X]^2)`."""
        spread = self.logits.sigmoid() * self.base.mean.square()
        return self._share * (self.base.variance + spread)

    @property
    def _share(self) -> Tensor:
        return (-self.logits).sigmoid()
