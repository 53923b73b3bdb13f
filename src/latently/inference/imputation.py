r"""Imputation: what missing entries may have been, given the observed ones.

    p(x_m | x_o) = int p(x_m | z) p(z | x_o) dz  ~  sum_k v_k p(x_m | z_k),

with draws z_k and v_k their normalised importance weights. Moments are taken of this mixture in
closed form, draws and quantiles by resampling it (sampling importance resampling; Rubin, "Using
the SIR algorithm to simulate posterior distributions", 1988). Where a model knows the
distribution of every cell (factor analysis, PPCA) it is used as it is.

An encoder that never saw holes proposes poorly on rows with holes, and few of its draws carry all
the weight. Then the population moves: particles are resampled by weight, fill the holes by
p(x_m | z), and the *completed* rows are encoded,

    z_k ~ q(z | x_o, x_m^k),    w_k = p(x_o, z_k) / q(z_k | x_o, x_m^k).

Each sweep's mean weight has the expectation p(x_o) whatever the sweeps before it found. It ends
where a sweep has particles enough; else the later half of the sweeps is pooled. An encoder that
knows rows with holes proposes better than that: where moving finds no more mass and no more
effective particles, the first draws stay. Sources: Rezende, Mohamed, Wierstra, "Stochastic
Backpropagation", 2014 (imputing by turns); Cappe, Guillin, Marin, Robert, "Population Monte
Carlo", 2004 (weights and resampling).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latently.errors import UserError, called
from latently.inference._mode import evaluating
from latently.inference.evidence import DataLike, as_evaluated
from latently.inference.noise import row_seed, seeded
from latently.inference.pareto import K_HAT_LIMIT, pareto_k, tail_length

__all__ = ["Imputation", "impute"]

_MORE = 1.0  # nats of log p(x_o) by which one population beats another, whatever its ESS
QUANTILES = (0.05, 0.5, 0.95)
SWEEPS = 10
_ENOUGH = 100  # effective particles of a sweep that is the last, if k-hat is low, too
_NEGLECTED = 1e-4  # total weight of the particles that moments leave out


@dataclass(frozen=True)
class Imputation:
    """Imputations of every row; observed cells stand as they were given.

    Attributes:
        draws: (draws, n, *shape), each row's draws independent given its particles.
        mean: E[x_m | x_o], (n, *shape).
        std: standard deviation of each cell given x_o, (n, *shape); 0 where observed.
        quantiles: of each cell given x_o, (len(levels), n, *shape).
        levels: their probabilities.
        mode: the likeliest value of each cell of discrete data, (n, *shape), what to fill in
            where numbers stand for names; None for continuous data.
        mask: True where observed, (n, *shape).
        ess: effective number of particles of each row, (n,), `samples` where nothing is missing;
            None where the model is exact.
        k_hat: Pareto shape of each row's largest weights, (n,), 0 where nothing is missing, NaN
            where the particles are too few to tell; None where the model is exact.
        samples: particles per row and sweep; 0 where the model is exact.
        protocol: the data's name.
        seed: seed of the draws.
    """

    draws: Tensor
    mean: Tensor
    std: Tensor
    quantiles: Tensor
    levels: tuple[float, ...]
    mode: Tensor | None
    mask: Tensor
    ess: Tensor | None
    k_hat: Tensor | None
    samples: int
    protocol: str
    seed: int

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def missing(self) -> int:
        """How many cells were filled."""
        return int((~self.mask).sum())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before trusting the imputations."""
        found, n = [], len(self)
        heavy = 0 if self.k_hat is None else int((self.k_hat > K_HAT_LIMIT).sum())
        if heavy:
            found.append(
                f"heavy importance weights (k-hat > {K_HAT_LIMIT}) in {heavy} of {n} rows: the "
                "spread is understated there; raise --samples or --sweeps"
            )
        if self.ess is None:
            return tuple(found)
        few = int((self.ess < len(self.draws)).sum())
        if few:
            found.append(
                f"fewer effective particles than draws in {few} of {n} rows (median ESS "
                f"{float(self.ess.median()):.0f}): draws there share latents; raise --samples or "
                "--sweeps"
            )
        return tuple(found)


class _Population(NamedTuple):
    """Weighted particles of one row.

    Attributes:
        z: latents (N, 1, *Z), one per layer.
        noise: u of integers x that were scored as x + u, (N, 1, *X); None where there is none.
        log_w: log-weights, (N,).
    """

    z: tuple[Tensor, ...]
    noise: Tensor | None
    log_w: Tensor


class RowImputation(NamedTuple):
    """What `impute_row` finds of one row; shapes as in `Imputation`, without the row axis."""

    draws: Tensor
    mean: Tensor
    std: Tensor
    quantiles: Tensor
    mode: Tensor
    log_shares: Tensor


def impute(
    model: Any,
    data: DataLike,
    *,
    draws: int = 10,
    samples: int = 1000,
    sweeps: int = SWEEPS,
    quantiles: Sequence[float] = QUANTILES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Imputation:
    """Draws, means, deviations and quantiles of the missing cells of a data set.

    Args:
        model: any model with a density.
        data: rows with their mask and context.
        draws: imputations per row.
        samples: K, particles per row and sweep; exact models need none.
        sweeps: most moves of the population, for rows with few effective particles.
        quantiles: probabilities between 0 and 1.
        seed: a row's draws depend on it and the row alone.
        progress: called with (rows done, rows).

    Raises:
        UserError: no density, options out of range, or rows that are none of the model's.
    """
    _check(model, draws, samples, sweeps, quantiles)
    data = as_evaluated(model, data)
    mask = torch.ones_like(data.x, dtype=torch.bool) if data.mask is None else data.mask
    kept = torch.where(mask, data.x, 0.0)
    filled = _Filled(kept, draws, tuple(quantiles), samples)
    with evaluating(model):
        options = draws, samples, sweeps, quantiles
        for i, found in imputed_rows(model, kept, mask, data.context, *options, seed=seed):
            filled.put(i, found, mask[i])
            if progress:
                progress(i + 1, len(data.x))
        if progress:
            progress(len(data.x), len(data.x))
    exact = model.density == "exact"
    return Imputation(
        filled.draws,
        filled.mean,
        filled.std,
        filled.quantiles,
        tuple(quantiles),
        filled.mode if model.discrete else None,
        mask,
        None if exact else filled.ess,
        None if exact else filled.k_hat,
        0 if exact else samples,
        data.protocol,
        seed,
    )


def imputed_rows(
    model: Any,
    x: Tensor,
    mask: Tensor,
    context: Tensor | None,
    draws: int,
    samples: int,
    sweeps: int,
    quantiles: Sequence[float] | None = None,
    *,
    seed: int | None,
) -> Iterator[tuple[int, RowImputation]]:
    """The rows (n, *shape) that lack something, by number; missing cells of x hold 0.

    With a seed the draws of a row depend on the row alone, without one on the global generator.

    Raises:
        UserError: a model that cannot leave cells out.
    """
    if not model.holes:
        model.check(x, mask)
    for i in (~mask.flatten(1).all(1)).nonzero()[:, 0].tolist():
        row = slice(i, i + 1)
        here = None if context is None else context[row]
        key = 0 if seed is None else row_seed(seed, x[row], mask[row], here)
        with nullcontext() if seed is None else seeded(key, x.device):
            found = impute_row(model, x[row], mask[row], here, draws, samples, sweeps, quantiles)
        yield i, found


@torch.no_grad()
def impute_row(
    model: Any,
    x: Tensor,
    mask: Tensor,
    context: Tensor | None,
    draws: int,
    samples: int,
    sweeps: int = SWEEPS,
    quantiles: Sequence[float] | None = None,
) -> RowImputation:
    """One row (1, *shape), from the global generator; without `quantiles` draws alone are made.

    Observed cells of the result are the likelihood's, to be replaced by the given ones.
    """
    exact = model.density == "exact"  # every draw of z has the same weight
    count, most = (draws, 0) if exact else (samples, sweeps)
    found = _population(model, x, mask, context, count, most)
    log_shares = torch.log_softmax(found.log_w, 0)
    wanted = draws if quantiles is None or exact else max(draws, samples)
    index = torch.arange(draws) if exact else _resampled(log_shares, wanted)
    drawn = _conditioned(model, found, index, x, mask, context).sample()[:, 0]
    drawn = _inside(model, drawn, x.dtype)
    empty = x[0].new_empty(0)
    if quantiles is None:
        return RowImputation(drawn, empty, empty, empty, empty, log_shares)
    levels = torch.tensor(list(quantiles), dtype=x.dtype, device=x.device)
    known = model.predictive(x, mask, context)
    if known is None:
        mean, std = _moments(model, found, log_shares, x, mask, context)
        lines = _quantiles(drawn, levels)
    else:
        mean, std = known.mean[0], known.variance[0].sqrt()
        lines = known.icdf(levels.view(-1, 1, *(1,) * (x.dim() - 1)).to(mean.dtype))[:, 0]
    mode = drawn.mode(0).values
    mean, std, lines = (_narrowed(values, x.dtype) for values in (mean, std, lines))
    return RowImputation(drawn[:draws], mean, std, lines, mode, log_shares)


def _narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest numbers of a type; the largest, where they are beyond it."""
    most = min(torch.finfo(kind).max for kind in (dtype, values.dtype))
    return values.clamp(-most, most).to(dtype)


def _inside(model: Any, drawn: Tensor, dtype: torch.dtype) -> Tensor:
    """Draws in another type: the next number on the other side where the nearest is no value.

    In float32, 1e-50 is 0 and `1 - 1e-9` is 1, which are not above 0 and below 1.
    """
    near = _narrowed(drawn, dtype)
    apart = drawn - near.to(drawn.dtype)
    if not bool(apart.any()):
        return near
    bad, _ = model.misfit(near)
    side = torch.copysign(torch.full_like(near, torch.inf), apart.to(dtype))
    return torch.where(bad & (apart != 0), torch.nextafter(near, side), near)


def _population(
    model: Any, x: Tensor, mask: Tensor, context: Tensor | None, samples: int, sweeps: int
) -> _Population:
    p = model.infer(x, samples, mask, context)
    first = _Population(p.z, p.noise, (p.log_pi + p.log_w)[:, 0].double())
    done = [first]
    while p.z and len(done) <= sweeps and not _settled(done[-1].log_w):
        done.append(_moved(model, x, mask, context, done[-1]))
        if len(done) == 2 and not _gains(done[1].log_w, first.log_w):
            return first
    if len(done) == 1:
        return first
    late = _pooled(done[-max(1, len(done) // 2) :])
    return late if _gains(late.log_w, first.log_w) else first


def _pooled(sweeps: Sequence[_Population]) -> _Population:
    noise = [sweep.noise for sweep in sweeps if sweep.noise is not None]
    return _Population(
        tuple(torch.cat(layers) for layers in zip(*(sweep.z for sweep in sweeps), strict=True)),
        torch.cat(noise) if noise else None,
        torch.cat([sweep.log_w for sweep in sweeps]),
    )


def _gains(log_w: Tensor, before: Tensor) -> bool:
    """Whether particles found much more mass than those before, or more of them count."""
    mass = [float(torch.logsumexp(w, 0)) - math.log(len(w)) for w in (log_w, before)]
    if abs(mass[0] - mass[1]) > _MORE:
        return mass[0] > mass[1]
    count = [_effective(torch.log_softmax(w, 0)) for w in (log_w, before)]
    return count[0] > count[1]


def _moved(
    model: Any,
    x: Tensor,
    mask: Tensor,
    context: Tensor | None,
    before: _Population,
) -> _Population:
    """The next sweep: resampled, holes filled, completed rows encoded, weighed."""
    k = len(before.log_w)
    index = _resampled(torch.log_softmax(before.log_w, 0), k)
    drawn = _conditioned(model, before, index, x, mask, context).sample()[:, 0]
    contexts = None if context is None else context.expand(k, -1)
    q = model.infer(torch.where(mask, x, _inside(model, drawn, x.dtype)), 1, None, contexts)
    q = q if len(q.log_pi) == 1 else q.chosen()
    moved = tuple(z.transpose(0, 1) for z in q.z)
    p = model.infer(x, k, mask, context, z=moved)
    terms = (*(t[:, 0] for t in p.log_prior), *(-t[0] for t in q.log_q))
    log_w = (p.log_pi[:, 0] + p.log_lik[:, 0] + sum(terms)).double()
    return _Population(moved, p.noise, log_w)


def _settled(log_w: Tensor) -> bool:
    """Whether a sweep has particles enough, and no few of them that outweigh the rest."""
    log_shares = torch.log_softmax(log_w, 0)
    if _effective(log_shares) < _ENOUGH:
        return False
    return bool(_k_hat(log_shares) <= K_HAT_LIMIT)


def _k_hat(log_shares: Tensor) -> Tensor:
    """Pareto shape of the largest weights; NaN if they are too few to tell."""
    tail = tail_length(len(log_shares))
    if not tail:
        return log_shares.new_tensor(torch.nan)
    return pareto_k(log_shares.topk(tail + 1).values[None])[0]


def _effective(log_shares: Tensor) -> float:
    """ESS = 1 / sum v^2."""
    return float((-torch.logsumexp(2 * log_shares, 0)).exp())


class _Filled:
    """The arrays of an imputation, filled row by row."""

    def __init__(
        self, kept: Tensor, draws: int, quantiles: tuple[float, ...], samples: int
    ) -> None:
        self.draws = kept.repeat(draws, *(1,) * kept.dim())
        self.mean, self.mode, self.std = kept.clone(), kept.clone(), torch.zeros_like(kept)
        self.quantiles = kept.repeat(len(quantiles), *(1,) * kept.dim())
        self.ess = torch.full((len(kept),), float(samples), dtype=torch.float64)
        self.k_hat = torch.zeros(len(kept), dtype=torch.float64)

    def put(self, i: int, found: RowImputation, mask: Tensor) -> None:
        """Fills row i where the mask is False."""
        self.draws[:, i] = torch.where(mask, self.draws[:, i], found.draws)
        self.mean[i] = torch.where(mask, self.mean[i], found.mean)
        self.mode[i] = torch.where(mask, self.mode[i], found.mode)
        self.std[i] = torch.where(mask, 0.0, found.std)
        self.quantiles[:, i] = torch.where(mask, self.quantiles[:, i], found.quantiles)
        log_shares = found.log_shares.cpu()
        self.ess[i] = _effective(log_shares)
        self.k_hat[i] = _k_hat(log_shares)


def _resampled(log_shares: Tensor, n: int) -> Tensor:
    """n particle numbers, drawn independently in proportion to their weights."""
    if not bool(log_shares.isfinite().any()):
        raise UserError(
            "a row has no finite density under this model, so nothing says what it lacks; check "
            "the scale of the row, or fit the model again"
        )
    return torch.multinomial(log_shares.exp(), n, replacement=True)


def _conditioned(
    model: Any,
    particles: _Population,
    index: Tensor,
    x: Tensor,
    mask: Tensor,
    context: Tensor | None,
) -> Any:
    """p(x_missing | x_observed, z) for some of the particles, of batch shape (N, 1)."""
    d = model.likelihood(tuple(z[index] for z in particles.z), context)
    if not hasattr(d, "given"):
        raise UserError(
            f"{called(d)} cannot be conditioned on the observed cells of a row; use a "
            "likelihood that can leave out missing entries"
        )
    return d.given(x if particles.noise is None else x + particles.noise[index], mask)


def _moments(
    model: Any,
    found: _Population,
    log_shares: Tensor,
    x: Tensor,
    mask: Tensor,
    context: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the weighted mixture, over all particles but the lightest."""
    order = log_shares.argsort(descending=True)
    total = log_shares[order].exp().cumsum(0)
    heavy = order[: int((total < 1 - _NEGLECTED).sum()) + 1]
    share = torch.softmax(log_shares[heavy], 0)
    d = _conditioned(model, found, heavy, x, mask, context)
    means, variances = d.mean[:, 0].double(), d.variance[:, 0].double()
    share = share.view(-1, *(1,) * (means.dim() - 1))
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return mean, variance.sqrt()


def _quantiles(drawn: Tensor, levels: Tensor) -> Tensor:
    """Quantiles over draws, each one of the drawn values: integers stay integers."""
    ordered = drawn.sort(0).values
    index = (levels * len(drawn)).ceil().long().sub(1).clamp(0, len(drawn) - 1)
    return ordered[index]


def _check(model: Any, draws: int, samples: int, sweeps: int, quantiles: Sequence[float]) -> None:
    if model.density is None:
        raise UserError(f"imputation draws missing cells given the others: {model.no_density}")
    for name, value in (("draws", draws), ("samples", samples)):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name}={value!r} must be a whole number of at least 1")
    if not isinstance(sweeps, int) or sweeps < 0:
        raise UserError(f"sweeps={sweeps!r} must be a whole number of at least 0")
    for level in quantiles:
        if not 0 < level < 1:
            raise UserError(f"quantiles: {level!r} must lie between 0 and 1, both excluded")
