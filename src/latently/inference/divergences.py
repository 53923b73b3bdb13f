r"""KL(q || p) of any two distributions, saying what the number is; and Gaussians that minimise it.

`KL(q || p) = E_q[log q(z) - log p(z)]`, in nats, at least 0 and not symmetric. Of the two ways to
fit q to a target p, the forward one punishes q for missing mass of p, the reverse one for having
mass where p has none: q covers all modes, or finds one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from latently.errors import UserError, called
from latently.inference.noise import seeded
from latently.inference.number import Nature, Number, mean_of
from latently.inference.pareto import pareto_k, tail_length

__all__ = ["Divergence", "GaussianFit", "fit_gaussian", "kl"]

K_HAT_VARIANCE = 0.5  # a Pareto tail of a larger shape has no variance
_BLOCK_VALUES = 2**21
_PROBES = 64
_SHORTEST_QUARTER = 20
_STARTS = 8
_NODES = {1: 2001, 2: 161}  # of the trapezoid rule in each dimension: log p may bend sharply
_WIDTH = 8.0  # deviations
_POINTS = 4096  # quasi-random, in more dimensions


@dataclass(frozen=True)
class Divergence:
    """KL(q || p) of every element of a batch.

    Attributes:
        name: which divergence of what.
        values: in nats, (*batch); infinite where q has values that p has not.
        kind: "exact" for closed forms and sums over states, else "estimate".
        method: how it was found.
        mc_variance: Monte Carlo variance of each value, (*batch); 0 where exact.
        k_hat: Pareto shape of the largest log ratios of each element, (*batch); None if exact.
    """

    name: str
    values: Tensor
    kind: Nature
    method: str
    mc_variance: Tensor
    k_hat: Tensor | None = None

    @property
    def heavy(self) -> Tensor:
        """Where the log ratios may have no variance, so that no error bar is right; (*batch)."""
        if self.k_hat is None:
            return torch.zeros_like(self.values, dtype=torch.bool)
        heavy = ~(self.k_hat < K_HAT_VARIANCE) | ~self.values.isfinite()
        return heavy & (self.values != math.inf)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before trusting an error bar."""
        count = int(self.heavy.sum())
        if not count:
            return ()
        return (
            f"heavy tails in {count} of {self.values.numel()} elements: log q - log p may have no "
            f"variance there (k-hat of {K_HAT_VARIANCE} or more), and its error bar is too short",
        )

    def numbers(self) -> list[Number]:
        """Every element of the batch, flattened."""
        heavy, errors = self.heavy.flatten().tolist(), self.mc_variance.sqrt().flatten().tolist()
        parts = zip(self.values.flatten().tolist(), errors, heavy, strict=True)
        return [
            Number(
                self.name, value, self.kind, mc_stderr=error, method=self._method(int(is_heavy), 1)
            )
            for value, error, is_heavy in parts
        ]

    def mean(self) -> Number:
        """The mean over the batch: of one element, the element."""
        variance = None if self.kind == "exact" else self.mc_variance.flatten()
        method = self._method(int(self.heavy.sum()), self.values.numel())
        flat = self.values.flatten()
        return mean_of(self.name, flat, self.kind, mc_variance=variance, method=method)

    def __str__(self) -> str:
        return str(self.mean())

    def _method(self, heavy: int, of: int) -> str:
        if not heavy:
            return self.method
        where = "" if of == 1 else f" in {heavy} of {of}"
        return f"{self.method}, heavy tails{where}: error understated"


@torch.no_grad()
def kl(
    q: Distribution, p: Distribution, *, samples: int = 10_000, seed: int = 0, name: str = ""
) -> Divergence:
    r"""`KL(q || p) = E_q[log q(z) - log p(z)]` of every element of the batch, in nats.

    Exact where a closed form is registered, or both have the same few states, which are summed.
    Otherwise the mean of `log q - log p` over draws of q with its standard error. Its lower tail
    is always light, `P_q(log q - log p < -a) <= e^-a`; its upper one may be so heavy that there
    is no variance, and then no error bar: k-hat, the shape of a Pareto distribution fitted to the
    largest log ratios (Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance
    Sampling", 2024), says so from 1/2 on. Elements of p's batch that share one q share its draws.
    One draw outside the support of p makes it infinite, without an error.

    There is no gradient; losses take closed forms or their own draws.

    Args:
        q: any distribution that can be sampled and scored, of batch shape (*batch).
        p: another over the same events; the batches broadcast.
        samples: draws of q where there is no closed form, at least 2.
        seed: seed of the draws; the global generators stay as they are.
        name: what the number is called; "KL(q || p)" if empty.

    Raises:
        UserError: events of unlike shapes, one counts and the other is a density, or too few
            samples.

    >>> from torch.distributions import Normal, StudentT
    >>> print(kl(Normal(0.0, 1.0), Normal(1.0, 1.0)))
    KL(q || p) = 0.50 nats (exact, closed form)
    >>> print(kl(Normal(0.0, 1.0), StudentT(5.0, loc=2.0)))
    KL(q || p) ~ 1.41 nats (estimate, 10000 draws, MC +-0.013)
    """
    name = name or "KL(q || p)"
    if q.event_shape != p.event_shape:
        raise UserError(
            f"kl: q has events of shape {tuple(q.event_shape)} and p of {tuple(p.event_shape)}; "
            "give distributions over the same values"
        )
    if not isinstance(samples, int) or samples < 2:
        raise UserError(f"kl: samples={samples!r} must be a whole number of at least 2")
    _check_batches(q, p)
    for way, found in (("closed form", _closed(q, p)), ("sum over states", _summed(q, p))):
        if found is not None:
            values = found.double()
            return Divergence(name, values, "exact", way, torch.zeros_like(values))
    with seeded(seed, _device(q)):
        _check_kinds(q, p)
    with seeded(seed, _device(q)):  # whatever the check drew
        t = _log_ratios(q, p, samples)
    mean = t.mean(0)
    variance = torch.where(mean == math.inf, 0.0, t.var(0) / samples)
    return Divergence(name, mean, "estimate", f"{samples} draws", variance, _tail(t))


@dataclass(frozen=True)
class GaussianFit:
    """A Gaussian that minimises one of the two divergences to a target.

    Attributes:
        distribution: the Gaussian, over (D,), in float64.
        divergence: what it reached: KL(p || q) if forward, KL(q || p) if reverse.
    """

    distribution: MultivariateNormal
    divergence: Number


def fit_gaussian(
    target: Distribution,
    *,
    direction: Literal["forward", "reverse"] = "forward",
    start: Tensor | None = None,
    start_std: float = 1.0,
    samples: int = 100_000,
    seed: int = 0,
) -> GaussianFit:
    r"""The Gaussian q of full covariance nearest to a target p, in either direction.

    Forward, `min_q KL(p || q)`: q has the mean and covariance of p, the only stationary point,
    here of draws of p; it covers all of p's mass. Reverse, `min_q KL(q || p)`: by L-BFGS on

        KL(q || p) = -sum_i w_i log p(m + L e_i) - sum_j log L_jj - D (1 + log(2 pi)) / 2

    over the mean m and the lower triangular L; the nodes e are those of the trapezoid rule in one
    and two dimensions, and fixed quasi-random ones in more. It may have a minimum at every mode,
    and the start decides. Sources: Bishop, "Pattern Recognition and Machine Learning", 2006,
    section 10.1; Minka, "Divergence Measures and Message Passing", 2005.

    Args:
        target: p over real vectors, of event shape (D,) or (), without a batch.
        direction: "forward" or "reverse".
        start: mean to start at, (D,); None: the best of eight starts at draws of p. Reverse only.
        start_std: deviation of every cell to start at. Reverse only.
        samples: draws for the moments, and for the divergence where it has no closed form.
        seed: seed of all draws.

    Raises:
        UserError: another direction, a target with a batch or of matrices, a start of another
            shape, or a target that has no density at a start.

    >>> from torch.distributions import Normal
    >>> fit = fit_gaussian(Normal(2.0, 3.0), direction="reverse", start=torch.zeros(1))
    >>> fit.distribution.mean, fit.distribution.stddev
    (tensor([2.0000], dtype=torch.float64), tensor([3.0000], dtype=torch.float64))
    """
    if direction not in ("forward", "reverse"):
        raise UserError(f'fit_gaussian: direction={direction!r} must be "forward" or "reverse"')
    if target.batch_shape or len(target.event_shape) > 1:
        raise UserError(
            f"fit_gaussian: the target has batch shape {tuple(target.batch_shape)} and events of "
            f"shape {tuple(target.event_shape)}; give one distribution of vectors or numbers"
        )
    with seeded(seed, _device(target)):
        draws = target.sample(Size((samples if direction == "forward" else _STARTS,)))
    draws = draws.detach().double().reshape(len(draws), -1)
    if direction == "forward":
        covariance = torch.atleast_2d(draws.T.cov())
        q = MultivariateNormal(draws.mean(0), scale_tril=torch.linalg.cholesky(covariance))
        found = kl(target, _like(target, q), samples=samples, seed=seed + 1, name="KL(p || q)")
        return GaussianFit(q, found.mean())
    starts = draws if start is None else _checked(start, draws.shape[1])
    fits = [_descended(target, mean, start_std) for mean in starts]
    _, q = min(fits, key=lambda fit: fit[0])
    found = kl(_like(target, q), target, samples=samples, seed=seed + 1, name="KL(q || p)")
    return GaussianFit(q, found.mean())


def _check_batches(q: Distribution, p: Distribution) -> None:
    try:
        torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    except RuntimeError as error:
        raise UserError(
            f"kl: q has batch shape {tuple(q.batch_shape)} and p {tuple(p.batch_shape)}; give one "
            "of them a single distribution, or both as many"
        ) from error


def _closed(q: Distribution, p: Distribution) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:  # torch's word for: no closed form is known
        return None
    except RuntimeError as error:  # such as categories of unlike number
        raise UserError(
            f"kl: {called(q)} and {called(p)} are not over the same values ({error}); give two "
            "distributions that are"
        ) from error


def _summed(q: Any, p: Any) -> Tensor | None:
    """The sum over all states, where both list the same number of them."""
    try:
        states, others = q.states(), p.states()
    except (AttributeError, UserError):  # infinitely many, or too many
        return None
    if states.shape != others.shape:
        return None
    batch = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    states = _lifted(states, 0, len(batch), len(q.event_shape))
    log_q = q.log_prob(states).double()
    return (log_q.exp() * (log_q - p.log_prob(states).double())).sum(0)


def _lifted(values: Tensor, held: int, wanted: int, ndim: int) -> Tensor:
    """(K, *batch, *event) with ones in front of a batch of `held` axes, up to `wanted`."""
    split = values.dim() - ndim - held
    ones = (1,) * (wanted - held)
    return values.reshape(*values.shape[:split], *ones, *values.shape[split:])


def _log_ratios(q: Distribution, p: Distribution, samples: int) -> Tensor:
    """`log q(z) - log p(z)` of draws of q, (samples, *batch), in float64."""
    batch = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    held, ndim = len(q.batch_shape), len(q.event_shape)
    size = max(1, batch.numel() * q.event_shape.numel())
    block, parts = max(1, _BLOCK_VALUES // size), []
    for start in range(0, samples, block):
        z = q.sample(Size((min(block, samples - start),)))
        z = _lifted(z, held, len(batch), ndim)
        t = q.log_prob(z).double() - _log_prob(p, z).double()
        parts.append(t.expand(len(z), *batch))
    return torch.cat(parts)


def _log_prob(d: Distribution, z: Tensor) -> Tensor:
    """Log-density of z (n, *batch, *event), minus infinity outside the support.

    torch asks for the support only where it checks arguments, which `torch.compile` turns off
    for the whole process; without its checks it gives a number there.
    """
    inside = _inside(d, z)
    if bool(inside.all()):
        return d.log_prob(z)
    ndim = len(d.event_shape)
    own = _lifted(d.sample(Size(z.shape[:1])), len(d.batch_shape), z.dim() - 1 - ndim, ndim)
    kept = inside.view(*inside.shape, *(1,) * ndim)
    return torch.where(inside, d.log_prob(torch.where(kept, z, own)), -math.inf)


def _inside(d: Distribution, z: Tensor) -> Tensor:
    """Whether d can take z (n, *batch, *event), over its batch; True where d does not say."""
    try:
        support = d.support
    except NotImplementedError:
        support = None
    if support is None:
        return torch.ones((), dtype=torch.bool, device=z.device)
    return support.check(z)


def _tail(t: Tensor) -> Tensor:
    """k-hat of the largest of (K, *batch), (*batch); NaN with too few, or where not finite.

    The smaller of two: of the usual tail, and of its largest quarter. Where p has several modes
    the largest ratios may bend, which one fit takes for a heavy tail; a heavy one is so in both.
    """
    length = tail_length(len(t))
    if not length:
        return t.new_full(t.shape[1:], math.nan)
    flat = t.flatten(1).T if t.dim() > 1 else t.unsqueeze(0)
    known = flat.isfinite().all(1)
    above = torch.where(known.unsqueeze(1), flat - flat.amin(1, keepdim=True), 1.0)
    tops = above.clamp(min=torch.finfo(t.dtype).tiny).log().topk(length + 1).values
    k_hat = pareto_k(tops)
    if length // 4 >= _SHORTEST_QUARTER:
        k_hat = k_hat.minimum(pareto_k(tops[:, : length // 4 + 1]))
    return torch.where(known, k_hat, math.nan).view(t.shape[1:])


def _check_kinds(q: Distribution, p: Distribution) -> None:
    """Refuses a density beside probabilities: draws of one are whole numbers, of the other not."""
    counted = [bool((z := d.sample(Size((_PROBES,)))).eq(z.round()).all()) for d in (q, p)]
    if counted[0] != counted[1]:
        counts, density = (q, p) if counted[0] else (p, q)
        raise UserError(
            f"kl: {called(counts)} has probabilities and {called(density)} a density; give two "
            "distributions over the same values"
        )


def _device(d: Any) -> torch.device | None:
    """Where the draws are made: as far as the first tensor tells."""
    tensors = (value for value in vars(d).values() if isinstance(value, Tensor))
    first = next(tensors, None)
    if first is not None:
        return first.device
    inner = getattr(d, "base", None) or getattr(d, "components", None)
    return None if inner is None else _device(inner)


_NO_DENSITY = (
    "fit_gaussian: the target has no density somewhere near the start; give a target over all "
    "real numbers, or a narrower start_std"
)


def _like(target: Distribution, q: MultivariateNormal) -> Distribution:
    """q over the target's events, numbers or vectors of one."""
    if target.event_shape:
        return q
    return torch.distributions.Normal(q.mean[0], q.stddev[0])


def _checked(start: Tensor, cells: int) -> Tensor:
    if start.shape != (cells,):
        raise UserError(
            f"fit_gaussian: start has shape {tuple(start.shape)} and the target {cells} cells; "
            f"give ({cells},)"
        )
    return start.detach().double().unsqueeze(0)


def _descended(
    target: Distribution, start: Tensor, start_std: float
) -> tuple[float, MultivariateNormal]:
    """A minimum of KL(q || p) from a start, by quadrature, and its q."""
    cells = len(start)
    nodes, weights = (part.to(start) for part in _rule(cells))
    mean = start.clone().requires_grad_()
    rows = torch.arange(cells)
    raw = torch.zeros(cells, cells, dtype=start.dtype, device=start.device)
    raw[rows, rows] = math.log(start_std)
    raw.requires_grad_()

    def scale() -> Tensor:
        return raw.tril(-1) + raw.diagonal().exp().diag()

    def objective() -> Tensor:
        z = mean + nodes @ scale().T
        z = z if target.event_shape else z.squeeze(-1)
        if not bool(_inside(target, z).all()):
            raise UserError(_NO_DENSITY)
        log_p = target.log_prob(z)
        return -(weights * log_p).sum() - raw.diagonal().sum()

    value = _minimised(objective, [mean, raw])
    value -= 0.5 * cells * (1 + math.log(2 * math.pi))
    with torch.no_grad():
        return value, MultivariateNormal(mean.detach(), scale_tril=scale())


def _minimised(objective: Callable[[], Tensor], parameters: list[Tensor]) -> float:
    """L-BFGS until nothing moves."""
    if not bool(objective().isfinite()):
        raise UserError(_NO_DENSITY)
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(objective().detach())


def _rule(cells: int) -> tuple[Tensor, Tensor]:
    """Nodes (n, cells) and weights (n,) of means under N(0, I)."""
    if cells in _NODES:
        axis = torch.linspace(-_WIDTH, _WIDTH, _NODES[cells], dtype=torch.float64)
        nodes = torch.cartesian_prod(*[axis] * cells).view(-1, cells)
        return nodes, torch.softmax(-0.5 * nodes.square().sum(-1), 0)
    sobol = torch.quasirandom.SobolEngine(cells).draw(_POINTS // 2, dtype=torch.float64)
    half = torch.special.ndtri(sobol + 0.5 / _POINTS)
    return torch.cat([half, -half]), torch.full((_POINTS,), 1 / _POINTS, dtype=torch.float64)
