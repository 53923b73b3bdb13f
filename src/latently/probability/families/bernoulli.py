"""Binary values."""

from __future__ import annotations

from torch import Tensor

from latently.probability.distributions import Bernoulli as BernoulliDistribution
from latently.probability.distributions import Factorized
from latently.probability.families._moments import moments, zero_missing
from latently.probability.families.base import Family, levels_in_words

__all__ = ["Bernoulli"]


class Bernoulli(Family):
    r"""Independent binary values; raw parameters are logits.

    `log p(x|h) = sum_j x_j h_j - softplus(h_j)` nats for `x` in {0, 1}. Grey values are refused:
    the formula then is no log-probability (it does not sum to one).

    Args:
        shape: event shape.

    >>> import torch
    >>> Bernoulli((3,))(torch.zeros(3)).log_prob(torch.ones(3)).exp()
    tensor(0.1250)
    """

    discrete: bool = True

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, h: Tensor) -> Factorized:
        return Factorized(BernoulliDistribution(h), len(self.shape))

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return zero_missing(x, mask)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return (x != 0) & (x != 1)

    @property
    def support(self) -> str:
        return levels_in_words(2)

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of the column means, kept away from 0 and 1 by half a row or 1 in 1,000."""
        mean, _ = moments(x, mask)
        margin = max(0.5 / len(x), 1e-3)
        return mean.clamp(margin, 1 - margin).logit()
