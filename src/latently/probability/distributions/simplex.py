"""Distributions of rows above 0 that sum to 1: shares, proportions, topics."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Gamma, kl_divergence, register_kl

from latently.probability.distributions.discrete import open_uniform
from latently.probability.distributions.gaussian import Gaussian, MultivariateNormal, independent
from latently.probability.distributions.joint import Factorized, Joint
from latently.probability.distributions.normal import Normal

__all__ = ["Dirichlet", "LogisticNormal"]

POINTS = 1024  # of quasi-Monte Carlo, for moments of logistic normals
_BLOCK_VALUES = 2**22


class Dirichlet(Joint):
    r"""Independent rows over the last axis, `p(x) = Gamma(A) prod_l x_l^(a_l - 1) / Gamma(a_l)`.

    `A = sum_l a_l`; the density is one of the first L - 1 cells, as the last follows. Observed
    cells together with what they leave, `(x_o, 1 - sum x_o)`, are again Dirichlet with parameters
    `(a_o, sum a_m)`, and the missing ones given them are `1 - sum x_o` times a Dirichlet with
    parameters `a_m`. This class therefore has rows that sum to any total over any cells.

    Args:
        concentration: a, above 0, (*batch, *event).
        ndim: number of event axes.
        total: what rows sum to, (*batch, *event[:-1], 1).
        among: the cells that are random, (*batch, *event); None: all.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(
        self,
        concentration: Tensor,
        ndim: int,
        total: float | Tensor = 1.0,
        among: Tensor | None = None,
    ) -> None:
        self.concentration, self.total, self.among = concentration, total, among
        split = concentration.dim() - ndim
        shape = concentration.shape
        super().__init__(shape[:split], shape[split:], validate_args=False)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells, in nats; evaluated in float64."""
        among, total = self._random, torch.as_tensor(self.total).double()
        seen = among if mask is None else among & mask
        a, x = self.concentration.double(), value.double() / total
        hidden = among & ~seen
        # where nothing is hidden the rest is 0 of 0: left out as a cell of a = 1 at 1
        whole = ~hidden.any(-1)
        left = torch.where(whole, 1.0, torch.where(hidden, a, 0.0).sum(-1))
        rest = (1 - torch.where(seen, x, 0.0).sum(-1)).clamp(min=torch.finfo(torch.float64).tiny)
        kept, shares = torch.where(seen, a, 1.0), torch.where(seen, x, 1.0)
        terms = (kept - 1) * shares.log() - torch.lgamma(kept)
        free = seen.sum(-1) - whole.long()
        log_p = torch.lgamma(self._sum) + terms.sum(-1) - torch.lgamma(left)
        log_p = log_p + (left - 1) * torch.where(whole, 1.0, rest).log()
        log_p = log_p - free.clamp(min=0) * total.squeeze(-1).log()
        ndim = len(self.event_shape) - 1
        return (log_p.flatten(-ndim).sum(-1) if ndim else log_p).to(self.concentration.dtype)

    def given(self, value: Tensor, mask: Tensor) -> Dirichlet:
        """The rest of the total, shared by the missing cells."""
        seen = self._random & mask
        rest = self.total - torch.where(seen, value, 0.0).sum(-1, keepdim=True)
        rest = rest.clamp(min=torch.finfo(rest.dtype).tiny)
        among = (self._random & ~mask).expand(
            torch.broadcast_shapes(rest.shape, self.concentration.shape)
        )
        a = self.concentration.expand_as(among)
        return Dirichlet(a, len(self.event_shape), rest.to(a.dtype), among)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        r"""Draws with a pathwise gradient, normalised gammas; 0 in cells that are not random.

        `log G_a = log G_(a + 1) + log(U) / a` keeps what would be 0 as a number: G_(a + 1) by its
        implicit gradient (Figurnov, Mohamed, Mnih, "Implicit Reparameterization Gradients",
        2018). No random cell is below `smallest`.
        """
        shape = (*sample_shape, *self._batch_shape, *self._event_shape)
        a = self.concentration.expand(shape)
        u, least = open_uniform(shape, a), smallest(a.dtype)
        boosted = Gamma(a + 1, torch.ones_like(a), validate_args=False).rsample()
        log_gamma = boosted.log() + u.log() / a
        if self.among is None:
            return (torch.softmax(log_gamma, -1) * self.total).clamp(min=least)
        shares = torch.softmax(log_gamma.masked_fill(~self.among, -1e30), -1)
        return torch.where(self.among, (shares * self.total).clamp(min=least), 0.0)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def entropy(self) -> Tensor:
        r"""Entropy, in nats, of rows that sum to 1 over all cells.

        `log B(a) + (A - L) psi(A) - sum_l (a_l - 1) psi(a_l)`.
        """
        a, total = self.concentration.double(), self._sum
        terms = torch.lgamma(a) - (a - 1) * torch.digamma(a)
        entropy = terms.sum(-1) - torch.lgamma(total)
        entropy = entropy + (total - a.shape[-1]) * torch.digamma(total)
        return _sum_rows(entropy, len(self.event_shape) - 1).to(self.concentration.dtype)

    @property
    def mean(self) -> Tensor:
        """`a / A` of the total."""
        return self._share * self.total

    @property
    def mode(self) -> Tensor:
        """`(a - 1) / (A - L)` where every a exceeds 1; else the mean, as there is none inside."""
        above = torch.where(self._random, self.concentration - 1, 0.0)
        inside = ((above > 0) | ~self._random).all(-1, keepdim=True)
        peak = above / torch.where(inside, above.sum(-1, keepdim=True), 1.0)
        return torch.where(inside, peak, self._share) * self.total

    @property
    def variance(self) -> Tensor:
        """`s (1 - s) / (A + 1)` with `s = a / A`, times the square of the total."""
        spread = self._share * (1 - self._share) / (self._sum.unsqueeze(-1) + 1)
        return (spread * self.total * self.total).to(self.concentration.dtype)

    @property
    def _random(self) -> Tensor:
        if self.among is None:
            return torch.ones_like(self.concentration, dtype=torch.bool)
        return self.among

    @property
    def _sum(self) -> Tensor:
        """A, in float64; 1 where no cell is random."""
        total = torch.where(self._random, self.concentration.double(), 0.0).sum(-1)
        return torch.where(total > 0, total, 1.0)

    @property
    def _share(self) -> Tensor:
        share = torch.where(self._random, self.concentration, 0.0) / self._sum.unsqueeze(-1)
        return share.to(self.concentration.dtype)


class LogisticNormal(Distribution):
    r"""Independent rows `x = softmax(y_1, ..., y_(L-1), 0)` over the last axis, y normal.

    `log p(x) = log N(y) - sum_l log x_l` with `y_l = log x_l - log x_L`, a density of the first
    L - 1 cells. Its marginals have no closed form, so it takes no mask. `mean` and `variance` are
    by quasi-Monte Carlo with 1,024 Sobol points, always the same. Source: Aitchison, Shen,
    "Logistic-Normal Distributions: Some Properties and Uses", 1980.

    Args:
        logits: a normal over L - 1 cells, of batch shape (*batch, *event[:-1]).
        ndim: number of event axes.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, logits: MultivariateNormal | Factorized, ndim: int) -> None:
        self.logits = logits
        shape = (*logits.batch_shape, logits.event_shape[0] + 1)
        split = len(shape) - ndim
        super().__init__(Size(shape[:split]), Size(shape[split:]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        logs = value.log()
        logits = (logs[..., :-1] - logs[..., -1:]).to(self.logits.mean.dtype)
        log_p = self.logits.log_prob(logits) - logs.sum(-1).to(logits.dtype)
        return _sum_rows(log_p, len(self.event_shape) - 1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, no cell below `smallest`."""
        return _softmax(self.logits.rsample(Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """Mean, by quasi-Monte Carlo with 1,024 points."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """Variance of each cell, by quasi-Monte Carlo with 1,024 points."""
        return self._moments()[1]

    @property
    def median(self) -> Tensor:
        """The softmax of the logits' mean: the median of every ratio of cells."""
        return _softmax(self.logits.mean)

    def _moments(self) -> tuple[Tensor, Tensor]:
        centre = self.median
        first, second = torch.zeros_like(centre), torch.zeros_like(centre)
        block = max(1, _BLOCK_VALUES // max(1, centre.numel()))
        for noise in _normal_points(self.logits.event_shape[0]).to(centre).split(block):
            noise = noise.view(-1, *(1,) * (centre.dim() - 1), noise.shape[-1])
            apart = _softmax(_moved(self.logits, noise)) - centre
            first = first + apart.sum(0) / POINTS
            second = second + apart.square().sum(0) / POINTS
        return centre + first, (second - first.square()).clamp(min=0)


@register_kl(Dirichlet, Dirichlet)
def _kl_dirichlet(q: Dirichlet, p: Dirichlet) -> Tensor:
    """`log B(b) - log B(a) + sum_l (a_l - b_l) (psi(a_l) - psi(A))`."""
    if q.among is not None or p.among is not None:  # torch's word for: no closed form is known
        raise NotImplementedError("KL of Dirichlet rows whose cells are known in part")
    a, b = q.concentration.double(), p.concentration.double()
    terms = torch.lgamma(b) - torch.lgamma(a)
    terms = terms + (a - b) * (torch.digamma(a) - torch.digamma(q._sum).unsqueeze(-1))
    kl = terms.sum(-1) + torch.lgamma(q._sum) - torch.lgamma(p._sum)
    return _sum_rows(kl, len(q.event_shape) - 1).to(q.concentration.dtype)


@register_kl(LogisticNormal, LogisticNormal)
def _kl_logistic_normal(q: LogisticNormal, p: LogisticNormal) -> Tensor:
    """That of the logits: a bijection changes no KL."""
    return _sum_rows(kl_divergence(q.logits, p.logits), len(q.event_shape) - 1)


@register_kl(Dirichlet, LogisticNormal)
def _kl_dirichlet_to_normal(q: Dirichlet, p: LogisticNormal) -> Tensor:
    """`-H(q) - E log N(y) + sum_l E log x_l`: the logs of q's cells have known moments.

    `E log x_l = psi(a_l) - psi(A)`; of the logits y the mean is `psi(a_l) - psi(a_L)` and the
    covariance `diag psi'(a_l) + psi'(a_L)`.
    """
    if q.among is not None:
        raise NotImplementedError("KL of Dirichlet rows whose cells are known in part")
    a = q.concentration.double()
    log_x, spread = torch.digamma(a), torch.polygamma(1, a)
    y = _wide(p.logits)
    shift = (log_x[..., :-1] - log_x[..., -1:] - y.loc).unsqueeze(-2)
    ones = torch.ones_like(shift) * spread[..., -1:].unsqueeze(-1).sqrt()
    energy = (y.energy(shift) + y.energy(ones)).squeeze(-1)
    energy = energy + (y.precision_diagonal() * spread[..., :-1]).sum(-1)
    total = q._sum
    logs = (log_x - torch.digamma(total).unsqueeze(-1)).sum(-1)
    log_p = -0.5 * energy - y.log_det() - 0.5 * shift.shape[-1] * math.log(2 * math.pi) - logs
    rows = Dirichlet(a, 1).entropy() + log_p
    return -_sum_rows(rows, len(q.event_shape) - 1).to(q.concentration.dtype)


def _wide(logits: MultivariateNormal | Factorized) -> Gaussian:
    """The logits as a normal of rows, in float64."""
    if isinstance(logits, MultivariateNormal):
        return MultivariateNormal(logits.loc.double(), logits.whiten.double())
    base = cast(Normal, logits.base)
    return independent(Factorized(Normal(base.loc.double(), base.log_scale.double()), 1))


def smallest(dtype: torch.dtype) -> float:
    """The least value of a drawn cell, 3e-29 in float32: a gradient through 1 / x stays finite."""
    return torch.finfo(dtype).tiny ** 0.75


def _softmax(logits: Tensor) -> Tensor:
    whole = torch.cat([logits, torch.zeros_like(logits[..., :1])], -1)
    return torch.softmax(whole, -1).clamp(min=smallest(logits.dtype))


def _moved(logits: MultivariateNormal | Factorized, noise: Tensor) -> Tensor:
    """Standard normal noise turned into draws of the logits."""
    if isinstance(logits, Factorized):
        base = cast(Normal, logits.base)
        return base.loc + base.scale * noise
    return logits.affine(noise)


def _normal_points(cells: int) -> Tensor:
    """Sobol points (1024, cells), moved off 0 by half a cell, as standard normals."""
    points = torch.quasirandom.SobolEngine(cells).draw(POINTS, dtype=torch.float64)
    return torch.special.ndtri(points + 0.5 / POINTS)


def _sum_rows(terms: Tensor, ndim: int) -> Tensor:
    return terms.flatten(-ndim).sum(-1) if ndim else terms
