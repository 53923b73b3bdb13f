r"""The Pareto shape k-hat of importance weights: do they have a variance, or a mean?

Above 0.7 an average of the weights is not to be trusted at its apparent precision. Source:
Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance Sampling", 2024; the fit of
the generalised Pareto distribution follows Zhang, Stephens, "A New and Efficient Estimation
Method for the Generalized Pareto Distribution", 2009.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["K_HAT_LIMIT", "pareto_k", "tail_length"]

K_HAT_LIMIT = 0.7
_SHORTEST = 5
_VALUES = 2**18  # of a part of the grid
_EQUAL = 1e-3, 1e-6  # nats, and of |log w|: what float32 rounding makes of equal weights, and more


def tail_length(samples: int) -> int:
    """How many of the largest weights are fitted: min(K/5, 3 sqrt K); 0 if too few."""
    length = math.ceil(min(0.2 * samples, 3 * math.sqrt(samples)))
    return length if length >= _SHORTEST else 0


def pareto_k(log_tops: Tensor) -> Tensor:
    r"""k-hat of each row from its M + 1 largest log-weights, (n, M + 1) in descending order.

    The exceedances `x_i = w_i - w_{M+1}` are fitted by a generalised Pareto distribution: with
    a grid of `b_j` and profile log-likelihood `l(b) = M (log(-b / k(b)) - k(b) - 1)`,
    `k(b) = mean log(1 - b x_i)`, the estimate is `k(sum_j v_j b_j)`, `v = softmax(l(b_j))`, drawn
    towards 1/2 with the weight of ten exceedances.

    0 is as good as it gets. It stands for every shape below, where weights are bounded, and for
    weights that are equal up to rounding, `log w_1 - log w_{M+1} <= 1e-3 + 1e-6 |log w_1|`: a fit
    would describe the rounding. NaN: no weight of the row is above 0.

    >>> pareto_k(torch.zeros(1, 11))
    tensor([0.])
    """
    if len(log_tops) == 0:
        return log_tops.new_empty(0)
    ratios = (log_tops - log_tops[:, :1]).exp()
    x = (ratios[:, :-1] - ratios[:, -1:]).flip(1)  # ascending
    m = x.shape[1]
    largest, quartile = x[:, -1:], x[:, max(int(m / 4 + 0.5) - 1, 0)][:, None]
    nats, share = _EQUAL
    flat = log_tops[:, 0] - log_tops[:, -1] <= nats + share * log_tops[:, 0].abs()
    largest = largest.clamp(min=torch.finfo(x.dtype).tiny)
    quartile = torch.where(quartile > 0, quartile, largest * 1e-10)
    grid = torch.arange(1, 31 + int(math.sqrt(m)), dtype=x.dtype, device=x.device)
    b = 1 / largest + (1 - (len(grid) / (grid - 0.5)).sqrt()) / (3 * quartile)
    b = torch.where(b == 0, 1e-12 / largest, b)
    k = _shape(b, x)
    log_likelihood = m * ((-b / k).log() - k - 1)
    weights = torch.softmax(torch.nan_to_num(log_likelihood, nan=-math.inf), dim=1)
    best = (b * weights).sum(1, keepdim=True)
    k_hat = _shape(best, x)[:, 0]
    k_hat = (m * k_hat + 5) / (m + 10)
    return torch.where(flat, 0.0, k_hat.clamp(min=0))


def _shape(b: Tensor, x: Tensor) -> Tensor:
    """`k(b) = mean_i log(1 - b x_i)` for each b, (n, G), as many at once as memory is cheap."""
    at_once = max(1, _VALUES // max(x.numel(), 1))
    return torch.cat(
        [torch.log1p(-some[..., None] * x[:, None]).mean(2) for some in b.split(at_once, 1)], 1
    )
