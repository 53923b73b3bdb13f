r"""Normals whose cells depend on each other: full covariance, or low rank plus diagonal.

Both know their marginals and conditionals exactly, and KL(q || p) has a closed form for any two
of them and for rows of independent normals. Where a result hangs on a matrix that may be nearly
singular it is computed in float64, and cast to the type of the parameters at the end.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence, register_kl

from latently.probability.distributions.joint import Factorized, Joint
from latently.probability.distributions.normal import Normal, Scaled

__all__ = [
    "Gaussian",
    "LowRankMultivariateNormal",
    "MultivariateNormal",
    "ScaledJoint",
    "half_log_det",
    "independent",
    "inverse_lower",
]

_LOG_2PI = math.log(2 * math.pi)


class Gaussian(Joint):
    """What normals of rows have in common; `loc` is of shape (*batch, *event)."""

    has_rsample = True

    def __init__(self, loc: Tensor, batch: torch.Size) -> None:
        self.loc = loc
        event = loc.shape[len(batch) :]
        self._cells = math.prod(event)
        super().__init__(batch, event, validate_args=False)

    @abstractmethod
    def affine(self, noise: Tensor) -> Tensor:
        """Standard normal noise (*, n) turned into rows (*, *event)."""

    @property
    @abstractmethod
    def noises(self) -> int:
        """How many standard normals `affine` takes for a row."""

    @abstractmethod
    def log_det(self) -> Tensor:
        """Half the log determinant of the covariance, (*batch,)."""

    @abstractmethod
    def energy(self, rows: Tensor) -> Tensor:
        """`r' Sigma^-1 r` of flat rows (*batch, n, cells), (*batch, n)."""

    @abstractmethod
    def precision_diagonal(self) -> Tensor:
        """Diagonal of `Sigma^-1`, (*batch, cells)."""

    @abstractmethod
    def parts(self) -> tuple[Tensor, Tensor]:
        """Rows (*batch, n, cells) and v (*batch, cells): `Sigma = sum_n r_n r_n' + diag v`."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, (*sample_shape, *batch, *event)."""
        shape = (*sample_shape, *self._batch_shape, self.noises)
        return self.affine(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        return self.log_det() + 0.5 * self._cells * (1 + _LOG_2PI)

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X <= x)` of each cell."""
        return self._marginals.cdf(value)

    def icdf(self, q: Tensor) -> Tensor:
        """Quantiles of each cell."""
        return self._marginals.icdf(q)

    @property
    def mean(self) -> Tensor:
        """Mean, (*batch, *event)."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """Mode: the mean."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Variance of each cell, (*batch, *event)."""
        rows, v = self.parts()
        return (rows.square().sum(-2) + v).view_as(self.loc)

    @property
    def _marginals(self) -> Normal:
        return Normal(self.loc, 0.5 * self.variance.log())

    def _centred(self, value: Tensor, mask: Tensor | None) -> Tensor:
        """`x - loc` as flat rows, 0 where missing."""
        seen = value if mask is None else torch.where(mask, value, self.loc)
        return self._flat(seen - self.loc)

    def _flat(self, rows: Tensor) -> Tensor:
        return rows.flatten(-len(self.event_shape))


class MultivariateNormal(Gaussian):
    r"""Normal of full covariance by a lower triangular W that whitens: `W (x - mu) ~ N(0, I)`.

    `log p(x) = -|W (x - mu)|^2 / 2 + sum_j log W_jj - D log(2 pi) / 2`, and `Sigma^-1 = W' W`.
    Cells observed before cell j explain it by regression: `W_jj` is one over the deviation of what
    they leave. With the missing cells m at their most probable values `u_m`,

        log p(x_o) = log p(x_o, u_m) - log p(u_m | x_o),    p(x_m | x_o) = N(u_m, (W_m' W_m)^-1),

    where `W_m` are the missing cells' columns of W; a QL factorisation of them yields both.

    Args:
        loc: mu, (*batch, *event).
        whiten: W over the D flattened cells, (*batch, D, D), lower triangular, diagonal above 0.
    """

    def __init__(self, loc: Tensor, whiten: Tensor) -> None:
        self.whiten = whiten
        super().__init__(loc, whiten.shape[:-2])

    @cached_property
    def scale_tril(self) -> Tensor:
        """The lower triangular L with `Sigma = L L'`: the inverse of W."""
        return inverse_lower(self.whiten)

    @property
    def noises(self) -> int:
        return self._cells

    def affine(self, noise: Tensor) -> Tensor:
        rows = torch.einsum("...ij,...j->...i", self.scale_tril, noise)
        return self.loc + rows.unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells, in nats."""
        if mask is not None:
            given = self._given(value, mask)
            missing = self._flat(~mask).sum(-1, dtype=torch.float64)
            wide = MultivariateNormal(self.loc.double(), self.whiten.double())
            log_p = wide.log_prob(given.loc) + given.log_det() + 0.5 * _LOG_2PI * missing
            return log_p.to(self.loc.dtype)
        centred = self._centred(value, None).to(self.whiten.dtype)
        white = torch.einsum("...ij,...j->...i", self.whiten, centred)
        return -0.5 * white.square().sum(-1) - self.log_det() - 0.5 * self._cells * _LOG_2PI

    def given(self, value: Tensor, mask: Tensor) -> MultivariateNormal:
        """The normal of the missing cells; observed ones are independent, of variance 1."""
        found = self._given(value, mask)
        dtype = self.whiten.dtype
        given = MultivariateNormal(found.loc.to(self.loc.dtype), found.whiten.to(dtype))
        if "scale_tril" in vars(found):
            given.scale_tril = found.scale_tril.to(dtype)
        return given

    def log_det(self) -> Tensor:
        return -self.whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def energy(self, rows: Tensor) -> Tensor:
        return (rows @ self.whiten.mT).square().sum(-1)

    def precision_diagonal(self) -> Tensor:
        return self.whiten.square().sum(-2)

    def parts(self) -> tuple[Tensor, Tensor]:
        return self.scale_tril.mT, torch.zeros_like(self.whiten[..., 0])

    def _given(self, value: Tensor, mask: Tensor) -> MultivariateNormal:
        """`given` in float64; its mean holds the observed values.

        Rows that share one mask share one factor.
        """
        seen = self._flat(mask)
        whiten, centred = self.whiten.double(), self._centred(value, mask).double()
        white = torch.einsum("...ij,...j->...i", whiten, centred).unsqueeze(-1)
        hidden = torch.where(seen.unsqueeze(-2), 0.0, whiten)
        stacked = torch.cat([hidden, torch.diag_embed(seen.double()).expand_as(hidden)], -2)
        q, r = torch.linalg.qr(stacked.flip(-1))
        lower = r.flip(-2, -1)  # lower' lower = stacked' stacked
        lower = lower * lower.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)
        step = q[..., : self._cells, :].mT @ white
        best = -torch.linalg.solve_triangular(r, step, upper=True).squeeze(-1).flip(-1)
        row = torch.where(seen, centred, best).unflatten(-1, self.event_shape)
        loc = self.loc.double() + row
        batch = loc.shape[: loc.dim() - len(self.event_shape)]
        found = MultivariateNormal(loc, lower.expand(*batch, -1, -1))
        if lower.shape[:-2].numel() < batch.numel():
            found.scale_tril = inverse_lower(lower).expand(*batch, -1, -1)  # one inverse for all
        return found


class LowRankMultivariateNormal(Gaussian):
    r"""Normal of covariance `F F' + diag(sigma^2)`, at a cost linear in the number of cells.

    With `V = F / sigma`, `u = (x - mu) / sigma` and `C = I + V' V` of the size of the rank,

        log p(x) = -(|u - V a|^2 + |a|^2) / 2 - log |C| / 2 - sum_j log sigma_j - D log(2 pi) / 2,

    where `a = C^-1 V' u` is the mean of the factors given x (the matrix inversion lemma, with the
    quadratic form as a sum of squares, which never cancels). Missing cells are rows left out of V.

    Args:
        loc: mu, (*batch, *event).
        factor: F over the D flattened cells, (*batch, D, rank); rank may be 0.
        log_std: log sigma, (*batch, *event).
    """

    def __init__(self, loc: Tensor, factor: Tensor, log_std: Tensor) -> None:
        self.factor, self.log_std = factor, log_std
        super().__init__(loc, factor.shape[:-2])

    @property
    def noises(self) -> int:
        return self.factor.shape[-1] + self._cells

    def affine(self, noise: Tensor) -> Tensor:
        shared, own = noise.split([self.factor.shape[-1], self._cells], -1)
        rows = torch.einsum("...ij,...j->...i", self.factor, shared)
        rows = rows + self._flat(self.log_std).exp() * own
        return self.loc + rows.unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells, in nats."""
        seen = None if mask is None else self._flat(mask)
        loadings, root = self._factors(seen)
        log_std = self._flat(self.log_std).double()
        white = self._centred(value, mask).double() * (-log_std).exp()
        energy = _ridge(white.unsqueeze(-2), loadings, root)[0].squeeze(-1)
        cells = self._cells if seen is None else seen.sum(-1, dtype=torch.float64)
        spread = (log_std if seen is None else torch.where(seen, log_std, 0.0)).sum(-1)
        log_p = -0.5 * (energy + cells * _LOG_2PI) - half_log_det(root) - spread
        return log_p.to(self.loc.dtype)

    def given(self, value: Tensor, mask: Tensor) -> LowRankMultivariateNormal:
        """Again of low rank: `mu + F a` in place of mu, `F C^(-1/2)` in place of F."""
        value, mask = torch.broadcast_tensors(value, mask)
        loadings, root = self._factors(self._flat(mask))
        log_std = self._flat(self.log_std).double()
        white = self._centred(value, mask).double() * (-log_std).exp()
        _, a = _ridge(white.unsqueeze(-2), loadings, root)
        factor = self.factor.double()
        moved = (factor @ a.mT).squeeze(-1).unflatten(-1, self.event_shape)
        left = torch.linalg.solve_triangular(
            root, factor.mT.expand(*root.shape[:-1], -1), upper=False
        )
        dtype, loc = self.loc.dtype, self.loc + moved
        return LowRankMultivariateNormal(
            loc.to(dtype), left.mT.to(dtype), self.log_std.expand_as(loc)
        )

    def log_det(self) -> Tensor:
        _, root = self._factors(None)
        return half_log_det(root).to(self.loc.dtype) + self._flat(self.log_std).sum(-1)

    def energy(self, rows: Tensor) -> Tensor:
        loadings, root = self._factors(None)
        white = rows.double() * (-self._flat(self.log_std).double()).exp().unsqueeze(-2)
        return _ridge(white, loadings, root)[0].to(self.loc.dtype)

    def precision_diagonal(self) -> Tensor:
        """`(1 - |R^-1 v_j|^2) / sigma_j^2` with `C = R R'`."""
        loadings, root = self._factors(None)
        explained = torch.linalg.solve_triangular(root, loadings.mT, upper=False)
        left = (1 - explained.square().sum(-2)).clamp(min=0)
        return (left * (-2 * self._flat(self.log_std).double()).exp()).to(self.loc.dtype)

    def parts(self) -> tuple[Tensor, Tensor]:
        return self.factor.mT, (2 * self._flat(self.log_std)).exp()

    def _factors(self, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """V, 0 in the rows of missing cells, and the Cholesky factor of C, in float64."""
        inverse = (-self._flat(self.log_std).double()).exp()
        loadings = self.factor.double() * inverse.unsqueeze(-1)
        if seen is not None:
            loadings = torch.where(seen.unsqueeze(-1), loadings, 0.0)
        eye = torch.eye(loadings.shape[-1], dtype=torch.float64, device=loadings.device)
        return loadings, torch.linalg.cholesky_ex(eye + loadings.mT @ loadings).L


class ScaledJoint(Scaled, Joint):
    """`x = loc + scale u` with u from a joint distribution: column scaling, with its Jacobian.

    The difference `x - loc` is taken in the wider type of both, then cast to the base's.
    """

    def __init__(self, base: Joint, loc: Tensor, scale: Tensor) -> None:
        self.base, self.loc, self.scale = base, loc, scale
        Distribution.__init__(self, base.batch_shape, base.event_shape, validate_args=False)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of the observed cells in data units, in nats."""
        log_p = cast(Joint, self.base).log_prob(self._unit(value), mask)
        log_scale = self.scale.log()
        seen = log_scale if mask is None else torch.where(mask, log_scale, 0.0)
        return log_p - seen.flatten(-len(self.event_shape)).sum(-1).to(log_p.dtype)

    def given(self, value: Tensor, mask: Tensor) -> ScaledJoint:
        """The base given the observed cells, scaled likewise."""
        given = cast(Joint, cast(Joint, self.base).given(self._unit(value), mask))
        return ScaledJoint(given, self.loc, self.scale)

    def entropy(self) -> Tensor:
        """Entropy, in nats."""
        entropy = self.base.entropy()
        return entropy + self.scale.log().sum().to(entropy.dtype)


@register_kl(Gaussian, Gaussian)
def _kl_gaussian(q: Gaussian, p: Gaussian) -> Tensor:
    """`(tr(P S) + d' P d - D) / 2 + log |S_p|^(1/2) - log |S_q|^(1/2)`, P the precision of p.

    With the covariance S of q in parts, `sum r r' + diag v`, the trace is `sum r' P r + v . P_jj`.
    """
    rows, v = q.parts()
    shift = p._flat(q.loc - p.loc).unsqueeze(-2)
    trace = p.energy(rows).sum(-1) + (v * p.precision_diagonal()).sum(-1)
    cells = q._cells
    return 0.5 * (trace + p.energy(shift).squeeze(-1) - cells) + p.log_det() - q.log_det()


@register_kl(Factorized, Gaussian)
def _kl_from_independent(q: Factorized, p: Gaussian) -> Tensor:
    """That of p without its correlations, and what they add: cells of q move independently.

    With P the precision of p and d the difference of means, the expected energies of p and of
    independent normals of the precisions P_jj differ by `d' P d - sum_j P_jj d_j^2`.
    """
    if isinstance(q.base, Normal):
        return _kl_gaussian(independent(q), p)
    precision = p.precision_diagonal()
    log_std = -0.5 * precision.log()
    apart = Normal(p.loc, log_std.view_as(p.loc))
    kl = p._flat(kl_divergence(q.base, apart)).sum(-1)
    d = p._flat(q.base.mean - p.loc)
    energy = p.energy(d.unsqueeze(-2)).squeeze(-1) - (precision * d.square()).sum(-1)
    return kl + 0.5 * energy + p.log_det() - log_std.sum(-1)


@register_kl(Gaussian, Factorized)
def _kl_to_independent(q: Gaussian, p: Factorized) -> Tensor:
    """That of q's marginals, and by how much their entropies exceed that of q."""
    if isinstance(p.base, Normal):
        return _kl_gaussian(q, independent(p))
    apart = q._marginals
    kl = q._flat(kl_divergence(apart, p.base)).sum(-1)
    return kl + q._flat(apart.entropy()).sum(-1) - q.entropy()


def independent(d: Factorized) -> LowRankMultivariateNormal:
    """Independent normals as a normal of rank 0."""
    cells = math.prod(d.event_shape)
    base = cast(Normal, d.base)
    factor = base.loc.new_zeros(*d.batch_shape, cells, 0)
    return LowRankMultivariateNormal(base.loc, factor, base.log_scale)


def inverse_lower(lower: Tensor) -> Tensor:
    """The inverse of lower triangular matrices, (*, D, D)."""
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)


def _ridge(rows: Tensor, loadings: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """`min_a |u - V a|^2 + |a|^2` for every row u, (*, n), and the a, (*, n, rank)."""
    projected = torch.einsum("...nd,...dr->...nr", rows, loadings)  # copies no V for a draw
    a = torch.cholesky_solve(projected.mT, root).mT
    rest = rows - torch.einsum("...nr,...dr->...nd", a, loadings)
    return rest.square().sum(-1) + a.square().sum(-1), a


def half_log_det(root: Tensor) -> Tensor:
    """Half the log determinant of `L L'`, (*,), of triangular L (*, D, D)."""
    return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
