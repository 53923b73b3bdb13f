"""Shares that sum to 1, and know their marginals."""

from __future__ import annotations

from torch import Tensor

from latently.probability.distributions.simplex import Dirichlet as DirichletDistribution
from latently.probability.families._moments import moments
from latently.probability.families._simplex import Simplex, between, raw_between

__all__ = ["Dirichlet"]

_LOG_RANGE = -1.0, 10.0


class Dirichlet(Simplex):
    r"""Rows above 0 that sum to 1 over the last axis; raw parameters are log concentrations.

    `log p(x|h) = log Gamma(A) + sum_l (a_l - 1) log x_l - log Gamma(a_l)` nats with `A = sum_l
    a_l`, a density of all cells of a row but its last. `log a = h` near 0, bounded smoothly to
    [-1, 10]: a row of much smaller concentrations has cells nearer to 0 and 1 than numbers tell
    apart. h = 0 is uniform. Missing cells are integrated out exactly. As a posterior it makes
    latents proportions, e.g. of topics, with reparameterised draws and a closed KL; its prior is
    `Standard` (uniform) or `Learned`. Source of the gradient of draws: Figurnov, Mohamed, Mnih,
    "Implicit Reparameterization Gradients", 2018.

    Args:
        shape: event shape; the last axis holds the cells that sum to 1.

    Raises:
        UserError: the last axis has fewer than 2 cells.

    >>> import torch
    >>> family = Dirichlet((3,))
    >>> x = torch.tensor([0.2, 0.3, 0.5])
    >>> family(torch.zeros(3)).log_prob(x).exp()  # uniform on a triangle of area 1/2
    tensor(2.0000)
    """

    @property
    def param_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, h: Tensor) -> DirichletDistribution:
        return DirichletDistribution(between(h, *_LOG_RANGE).exp(), len(self.shape))

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """By moments: `a = A mean`, A the geometric mean of `mean (1 - mean) / variance - 1`."""
        mean, deviation = moments(x, mask)
        mean = mean.clamp(1e-6, 1 - 1e-6)
        ratio = mean * (1 - mean) / deviation.square().clamp(min=1e-12) - 1
        total = ratio.clamp(min=0.1).log().mean(-1, keepdim=True)
        return raw_between(total + mean.log(), *_LOG_RANGE)
