r"""Factor analysis and probabilistic PCA: linear-Gaussian models with everything in closed form.

    z ~ N(0, I),    x | z ~ N(W z + mu + B c, Psi),    x ~ N(mu + B c, W W' + Psi)

`Psi` is diagonal (factor analysis) or `sigma^2 I` (PPCA); a context c, where there is one, moves
the mean by `B c`. With observed columns o, the posterior is
`N(M^-1 W_o' Psi_o^-1 (x_o - mu_o), M^-1)`, `M = I + W_o' Psi_o^-1 W_o`, so `log_w` is log p(x_o)
for *every* draw of z. Sources: Rubin, Thayer, "EM Algorithms for ML Factor Analysis", 1982;
Tipping, Bishop, "Probabilistic Principal Component Analysis", 1999; the best W given Psi: Barber,
"Bayesian Reasoning and Machine Learning", 2012, section 21.2.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, constraints
from torch.distributions.constraints import Constraint

from latently.errors import UserError
from latently.inference.estimators import Gradient
from latently.inference.particles import Particles, equal_shares
from latently.models._columns import FLOOR, columns, noise_floor
from latently.models.base import Model
from latently.probability.conditional import Draw, check_context, draw
from latently.probability.distributions import Factorized, Normal, StandardNormal

__all__ = ["PPCA", "FactorAnalysis", "LinearGaussian"]

_TRIAL = 10  # passes of every start of factor analysis
_BLOCK = 256  # rows per step of EM with missing entries
_LOG_2PI = math.log(2 * math.pi)


class _Sums(NamedTuple):
    """Of a pass of EM: mean log p(x_o); per column, sums of E[u u'], x E[u] and x^2."""

    log_p: Tensor
    uu: Tensor
    xu: Tensor
    xx: Tensor


class LinearGaussian(Model):
    """What factor analysis and PPCA share; they differ in the noise variances only.

    Parameters are in float64: `loc` (D,), `weight` (D, L), `log_variance` (D,), and `effect`
    (D, C) of a context of C columns.
    """

    density = "exact"
    discrete = False

    def __init__(self, shape: Sequence[int], latents: int, *, contexts: int = 0) -> None:
        super().__init__()
        self.shape, self.contexts = tuple(shape), contexts
        size = math.prod(self.shape)
        if not 1 <= latents <= size:
            raise UserError(
                f"{type(self).__name__}: latents={latents} must be between 1 and the "
                f"{size} values of a row"
            )
        self.loc = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        self.weight = nn.Parameter(torch.zeros(size, latents, dtype=torch.float64))
        self.log_variance = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        if contexts:
            self.effect = nn.Parameter(torch.zeros(size, contexts, dtype=torch.float64))

    @abstractmethod
    def _noise(self, residual: Tensor, rows: Tensor) -> Tensor:
        """Noise variances (D,) from the mean squared residual of each column, (D,).

        `rows` is the number of observed rows of each column.
        """

    @abstractmethod
    def _noises(self) -> int:
        """How many noise variances are free."""

    @abstractmethod
    def _floor(self, columns: Tensor) -> Tensor:
        """The smallest noise variances allowed, (D,), from those of the single columns."""

    @abstractmethod
    def _maximise(
        self, covariance: Tensor, floor: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Maximum likelihood given the covariance (D, D) of complete data.

        Yields the mean log p(x), the weight and the noise variances after each pass; no noise
        variance falls below `floor`.
        """

    def infer(
        self,
        x: Tensor,
        samples: int = 1,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        gradient: Gradient = "total",
        z: tuple[Tensor, ...] | None = None,
        draw: Draw = draw,
        local: tuple[Tensor, ...] | None = None,
    ) -> Particles:
        if local:
            raise UserError(f"{type(self).__name__} infers exactly; there is nothing to refine")
        x = x.to(self.dtype)
        q = self.posterior(x, mask, context)
        (z0,) = (draw(q, samples),) if z is None else z
        log_q = (_held(q) if gradient == "path" else q).log_prob(z0)
        log_lik = self.likelihood((z0,), context).log_prob(x, mask)
        return Particles(
            z=(z0,),
            log_lik=log_lik,
            log_prior=(self._prior().log_prob(z0),),
            log_q=(log_q,),
            kl=(None,),  # the draw of log q - log p makes log_w exact; the closed form would not
            log_pi=equal_shares(log_lik),
        )

    def latent_constraints(self) -> tuple[Constraint | None, ...]:
        return (constraints.real,)

    def posterior(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> MultivariateNormal:
        """p(z|x_observed), of batch shape (B,)."""
        scaled = self.weight * (-0.5 * self.log_variance).exp()[:, None]
        y = x.flatten(1).to(self.dtype) - self._mean(context)
        y = y * (-0.5 * self.log_variance).exp()
        eye = torch.eye(scaled.shape[1], dtype=self.dtype, device=self.device)
        if mask is None:
            precision = eye + scaled.T @ scaled
            mean = torch.linalg.solve(precision, (y @ scaled).T).T
        else:
            seen = mask.flatten(1).to(self.dtype)
            y = torch.where(mask.flatten(1), y, 0.0)
            products = (scaled[:, :, None] * scaled[:, None, :]).flatten(1)
            precision = eye + (seen @ products).view(-1, *eye.shape)
            mean = torch.linalg.solve(precision, (y @ scaled)[..., None])[..., 0]
        return MultivariateNormal(mean, precision_matrix=precision, validate_args=False)

    def predictive(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Factorized:
        """p(x_j | x_observed) = N(mu + B c + W E[z], diag(W V W') + psi) of missing cells."""
        q = self.posterior(x, mask, context)
        mean = self._mean(context) + q.mean @ self.weight.T
        shared = ((self.weight @ q.covariance_matrix) * self.weight).sum(-1)
        log_scale = 0.5 * (shared + self.log_variance.exp()).log()
        base = Normal(mean.unflatten(-1, self.shape), log_scale.unflatten(-1, self.shape))
        return Factorized(base, len(self.shape))

    def left_out(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Factorized:
        """N(x_j - e_j / s_j, psi_j / s_j), e the residuals and s_j = 1 - (W V W')_jj / psi_j."""
        q, seen = self.posterior(x, mask, context), mask.flatten(1)
        noise = self.log_variance.exp()
        share = 1 - ((self.weight @ q.covariance_matrix) * self.weight).sum(-1) / noise
        share = torch.where(seen, share, 1.0).clamp(min=torch.finfo(share.dtype).eps)
        mean = self._mean(context) + q.mean @ self.weight.T
        rows = torch.where(seen, x.flatten(1).to(mean.dtype), mean)
        loc, log_scale = rows - (rows - mean) / share, 0.5 * (noise / share).log()
        base = Normal(loc.unflatten(-1, self.shape), log_scale.unflatten(-1, self.shape))
        return Factorized(base, len(self.shape))

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        return tuple(given) or (self._prior().sample((1, n)),)

    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Factorized:
        mean = (z[0] @ self.weight.T + self._mean(context)).unflatten(-1, self.shape)
        log_scale = (0.5 * self.log_variance).view(self.shape).expand_as(mean)
        return Factorized(Normal(mean, log_scale), len(self.shape))

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        return ~torch.isfinite(x), "finite numbers"

    def em(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Iterator[Tensor]:
        """Maximum likelihood; yields the mean log p(x) of each pass, which never decreases.

        Complete data: closed form (PPCA), or a search over Psi with W in closed form (factor
        analysis). Missing entries: EM over latents and parameters, in blocks of rows.
        """
        check_context(context, self.contexts, type(self).__name__)
        x = x.flatten(1).to(self.dtype)
        c = x.new_zeros(len(x), 0) if context is None else context.to(x.dtype)
        if mask is not None and not bool(mask.all()):
            return self._em_masked(x, mask.flatten(1), c, seed)
        return self._complete(x, c)

    @torch.no_grad()
    def _complete(self, x: Tensor, c: Tensor) -> Iterator[Tensor]:
        """Least squares on c, then the covariance of the residuals: columns share c."""
        mean = x.mean(0)
        total = (x - mean).square().mean(0)
        offset = c.mean(0)
        effect = torch.linalg.pinv(c - offset) @ (x - mean)  # (C, D); classes sum to one
        centred = x - mean - (c - offset) @ effect
        covariance = centred.T @ centred / len(x)
        self._set_mean(mean - offset @ effect, effect.T)
        floor = self._floor(noise_floor(mean, total))
        for log_p, weight, noise in self._maximise(covariance, floor):
            self._set(weight, noise)
            yield log_p

    @torch.no_grad()
    def _em_masked(self, x: Tensor, mask: Tensor, c: Tensor, seed: int) -> Iterator[Tensor]:
        """EM: each column is regressed on the expected u = (z, 1, c) of the rows that hold it.

        Around the means: moments of numbers far from 0 would leave no digits of the variances.
        No pass decreases log p(x).
        """
        count = mask.sum(0).to(x.dtype)
        if bool((count == 0).any()):
            column = int((count == 0).nonzero()[0])
            raise UserError(f"column {column} has no observed value; leave it out")
        x = torch.where(mask, x, 0.0)
        mean = x.sum(0) / count
        total = torch.where(mask, (x - mean).square(), 0.0).sum(0) / count
        floor = self._floor(noise_floor(mean, total))
        self._start(mean, total, self._noise(0.5 * total, count).clamp(min=floor), seed)
        latents, offset = self.weight.shape[1], c.mean(0)
        while True:
            sums = self._expected(x, mask, c, mean, offset)
            yield sums.log_p
            inverse = torch.linalg.pinv(sums.uu, hermitian=True)  # classes sum to one
            coefficients = (inverse @ sums.xu[..., None])[..., 0]
            residual = (sums.xx - (coefficients * sums.xu).sum(1)) / count
            noise = self._noise(residual, count).clamp(min=floor)
            self._set(coefficients[:, :latents], noise)
            effect = coefficients[:, latents + 1 :]
            self._set_mean(mean + coefficients[:, latents] - effect @ offset, effect)

    def _start(self, mean: Tensor, total: Tensor, noise: Tensor, seed: int) -> None:
        """Random loadings that explain half of each column's variance."""
        generator = torch.Generator().manual_seed(seed)
        shape, latents = self.weight.shape, self.weight.shape[1]
        weight = torch.randn(shape, dtype=mean.dtype, generator=generator).to(mean.device)
        self._set(weight * (0.5 * total / latents).sqrt()[:, None], noise)
        self._set_mean(mean, mean.new_zeros(len(mean), self.contexts))

    def _expected(self, x: Tensor, mask: Tensor, c: Tensor, mean: Tensor, offset: Tensor) -> _Sums:
        """Expectations of everything a pass needs, of x - mean and u = (z, 1, c - offset)."""
        size, latents = self.weight.shape
        width = latents + 1 + c.shape[1]
        uu = x.new_zeros(size, width**2)
        xu, log_p = x.new_zeros(size, width), x.new_zeros(())
        xx = x.new_zeros(size)
        for rows in torch.arange(len(x), device=x.device).split(_BLOCK):
            here, seen = x[rows], mask[rows]
            context = c[rows] if self.contexts else None
            q = self.posterior(here, seen, context)
            u = torch.cat([q.mean, torch.ones_like(q.mean[:, :1]), c[rows] - offset], 1)
            second = u[:, :, None] * u[:, None, :]
            second[:, :latents, :latents] += q.covariance_matrix
            uu += seen.to(x.dtype).T @ second.flatten(1)
            centred = torch.where(seen, here - mean, 0.0)
            xu += centred.T @ u
            xx += centred.square().sum(0)
            log_p += self._log_p(q, here, seen, context).sum()
        return _Sums(log_p / len(x), uu.view(size, width, width), xu, xx)

    def _log_p(
        self, q: MultivariateNormal, x: Tensor, mask: Tensor, context: Tensor | None
    ) -> Tensor:
        """log p(x_o) by Bayes' rule at the posterior mean; any other z gives the same."""
        at = q.mean[None]
        likelihood = self.likelihood((at,), context)
        rows = x.view(-1, *self.shape), mask.view(-1, *self.shape)
        return (likelihood.log_prob(*rows) + self._prior().log_prob(at) - q.log_prob(at))[0]

    def degrees(self) -> int:
        """Means, effects, loadings up to a rotation of the latents, and noise variances."""
        size, latents = self.weight.shape
        loadings = size * latents - latents * (latents - 1) // 2
        return size * (1 + self.contexts) + loadings + self._noises()

    def complaints(self) -> tuple[str, ...]:
        """Names columns in a Heywood case: a noise variance that fell to its floor."""
        signal = self.weight.detach().square().sum(1)
        noise = self.log_variance.detach().exp()
        fallen = noise <= 1.01 * self._floor(FLOOR * (signal + noise))
        if not bool(fallen.any()):
            return ()
        return (
            f"Heywood case: {columns(fallen)} explained by the latents alone (noise variance at "
            "its floor); the likelihood has no maximum there, use fewer latents",
        )

    def _mean(self, context: Tensor | None) -> Tensor:
        """mu + B c, (D,) or (B, D)."""
        check_context(context, self.contexts, type(self).__name__)
        if context is None:
            return self.loc
        return self.loc + context.to(self.dtype) @ self.effect.T

    def _set_mean(self, loc: Tensor, effect: Tensor) -> None:
        self.loc.copy_(loc)
        if self.contexts:
            self.effect.copy_(effect)

    def _set(self, weight: Tensor, noise: Tensor) -> None:
        self.weight.copy_(weight)
        self.log_variance.copy_(noise.log())

    def _prior(self) -> Factorized:
        zeros = torch.zeros(self.weight.shape[1], dtype=self.dtype, device=self.device)
        return Factorized(StandardNormal(zeros), 1)


def _held(q: MultivariateNormal) -> MultivariateNormal:
    precision = q.precision_matrix.detach()
    return MultivariateNormal(q.loc.detach(), precision_matrix=precision, validate_args=False)


class FactorAnalysis(LinearGaussian):
    r"""Factor analysis: `x ~ N(mu, W W' + diag(psi))`, one noise variance per column.

    Args:
        shape: shape of one row.
        latents: number of factors L.
        contexts: width C of the context; 0: none.

    Raises:
        UserError: latents below 1 or above the number of values of a row.
    """

    def _noise(self, residual: Tensor, rows: Tensor) -> Tensor:
        return residual

    def _noises(self) -> int:
        return len(self.loc)

    def _floor(self, columns: Tensor) -> Tensor:
        return columns

    def _maximise(
        self, covariance: Tensor, floor: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """L-BFGS over the noise variances, with the best W for each in closed form.

        The likelihood has several maxima: of four starts the one that is best after ten passes
        goes on. At the best W, `dlog p / dpsi_j = (S_jj - sum_l W_jl^2 - psi_j) / (2 psi_j^2)`.
        Source: Joereskog, "Some contributions to maximum likelihood factor analysis", 1967.
        """
        diagonal = covariance.diagonal()
        level = diagonal.mean().expand_as(diagonal)
        starts = (0.5 * diagonal, 0.1 * diagonal, 0.5 * level, level)
        runs = [self._search(covariance, floor, start) for start in starts]
        trials = [list(islice(run, _TRIAL)) for run in runs]
        best = max(range(len(runs)), key=lambda i: float(trials[i][-1][0]))
        yield from trials[best]
        yield from runs[best]

    @torch.no_grad()
    def _search(
        self, covariance: Tensor, floor: Tensor, start: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The passes of L-BFGS from given noise variances."""
        t = start.clamp(min=2 * floor).sub(floor).log()
        t.requires_grad_(True)
        search = torch.optim.LBFGS(
            [t],
            max_iter=4,
            history_size=50,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            noise = floor + t.detach().exp()
            weight, log_p = _best_weight(covariance, noise, self.weight.shape[1])
            residual = covariance.diagonal() - weight.square().sum(1)
            t.grad = -0.5 * (residual - noise) / noise.square() * t.detach().exp()
            return -log_p

        while True:
            search.step(loss)
            noise = floor + t.detach().exp()
            weight, log_p = _best_weight(covariance, noise, self.weight.shape[1])
            yield log_p, weight, noise


class PPCA(LinearGaussian):
    r"""Probabilistic PCA: `x ~ N(mu, W W' + sigma^2 I)`, one noise variance for all columns.

    Its maximum likelihood is closed: W spans the leading eigenvectors of the covariance,
    `sigma^2` is the mean of the eigenvalues left out.

    Args:
        shape: shape of one row.
        latents: number of components L, below the number of values of a row.
        contexts: width C of the context; 0: none.

    Raises:
        UserError: latents below 1, or not below the number of values of a row.
    """

    def __init__(self, shape: Sequence[int], latents: int, *, contexts: int = 0) -> None:
        super().__init__(shape, latents, contexts=contexts)
        if latents >= len(self.loc):
            raise UserError(
                f"PPCA: latents={latents} must be below the {len(self.loc)} values of a row, "
                "or no direction is left for the noise"
            )

    def _noise(self, residual: Tensor, rows: Tensor) -> Tensor:
        return ((residual * rows).sum() / rows.sum()).expand_as(residual)

    def _noises(self) -> int:
        return 1

    def _floor(self, columns: Tensor) -> Tensor:
        return columns.min().expand_as(columns)

    def _maximise(
        self, covariance: Tensor, floor: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The closed form: the noise variance is the mean of the eigenvalues left out."""
        latents = self.weight.shape[1]
        left_out = torch.linalg.eigvalsh(covariance)[: len(covariance) - latents]
        noise = left_out.mean().expand(len(covariance)).clamp(min=floor)
        weight, log_p = _best_weight(covariance, noise, latents)
        yield log_p, weight, noise


def _best_weight(covariance: Tensor, noise: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """The best W (D, L) given the noise variances, and the mean log p(x) it reaches.

    With `U diag(l) U'` the leading eigenvectors of `Psi^-1/2 S Psi^-1/2`,
    `W = Psi^1/2 U (diag(l) - I)^1/2`.
    """
    root = noise.sqrt()
    values, vectors = torch.linalg.eigh(covariance / root / root[:, None])
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)[:, :latents]
    top, rest = values[:latents], values[latents:].sum()
    weight = root[:, None] * vectors * (top - 1).clamp(min=0).sqrt()
    kept = torch.where(top > 1, top.clamp(min=1).log() + 1, top).sum()
    return weight, -0.5 * (len(noise) * _LOG_2PI + noise.log().sum() + kept + rest)
