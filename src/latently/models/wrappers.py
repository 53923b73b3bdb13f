"""Models around models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from latently.errors import UserError
from latently.inference.estimators import Gradient
from latently.inference.noise import seeded
from latently.inference.particles import Particles, equal_shares
from latently.models.base import Density, Model
from latently.probability.conditional import Draw, draw
from latently.probability.dequantise import Noise, UniformNoise
from latently.probability.distributions import Factorized, Relaxed, Rounded, RoundedRows
from latently.probability.transforms import Transform, Transported, TransportedRows

__all__ = ["Dequantized", "Transformed"]


_PROBES = 67  # values between 0 and the levels that an inner model is asked for


class _Drawn(Distribution):
    """Noise u that any estimator can draw: its own path, its own relaxation, 1/2 for a centre."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True
    support = constraints.unit_interval

    def __init__(self, q: Distribution, x: Tensor) -> None:
        self.q, self.x = q, x
        super().__init__(x.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats, of the shape that q gives."""
        return self.q.log_prob(value)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a pathwise gradient, if q has one."""
        shape = Size(sample_shape)
        return self.q.rsample(shape) if self.q.has_rsample else self.q.sample(shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws as `rsample` makes them: estimators without a path score latents, never noise."""
        return self.rsample(sample_shape)

    def relaxed(self, sample_shape: Any, temperature: float | Tensor) -> Relaxed:
        """One draw, in all roles."""
        u = self.rsample(sample_shape)
        return Relaxed(u, u, u)

    @property
    def mean(self) -> Tensor:
        """The middle of every cell."""
        return torch.full_like(self.x, 0.5)

    mode = mean


class Dequantized(Model):
    r"""A continuous model of `y = x + u`, `u ~ q(u|x)` in (0, 1), as a model of integers x.

    `P(x) = int_[0,1) p(x + u) du`, so every draw of u gives a weight `p(x + u) / q(u|x)` (times
    the inner model's), and the bounds of these weights are lower bounds of log P(x): densities
    become comparable with probabilities. u is no latent: its terms stand in `log_lik`. Source:
    Theis, van den Oord, Bethge, "A note on the evaluation of generative models", 2016; q learned:
    Ho et al., "Flow++", 2019.

    Args:
        model: a model of continuous rows.
        levels: the integers are 0 .. levels - 1.
        noise: q, uniform or learned with the model. EM draws uniform noise once, whatever q.

    Raises:
        UserError: fewer than 2 levels, an inner model of discrete values, or one that does not
            hold all of 0 to levels.
    """

    density = "bound"
    discrete = True
    noisy = True

    def __init__(
        self,
        model: Model,
        *,
        levels: int,
        noise: Noise = UniformNoise(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        if levels < 2:
            raise UserError(f"Dequantized: levels={levels} must be at least 2")
        _check_event(self, model)
        if model.discrete or _counts(model):
            raise UserError(f"Dequantized: {type(model).__name__} is discrete already")
        if model.context_optional:
            raise UserError(
                f"Dequantized: {type(model).__name__} sums its classes, which noise drawn with z "
                "cannot follow; choose a likelihood of integers, such as DiscretizedLogistic"
            )
        if isinstance(model, Transformed):
            low, high = model.transform.bounds
            if low > 0 or high < levels:
                raise UserError(
                    f"Dequantized: {model.transform} holds {model.transform.support}, and x + u "
                    f"lies between 0 and levels={levels}; choose e.g. Logit(high={levels})"
                )
        inside = torch.linspace(0, levels, _PROBES, device="cpu")[1:-1]
        row = inside.view(-1, *(1,) * len(model.shape)).expand(-1, *model.shape)
        bad, support = model.misfit(row)
        if bool(bad.any()):
            raise UserError(
                f"Dequantized: {type(model).__name__} holds {support}, and x + u lies anywhere "
                f"between 0 and levels={levels}; choose a likelihood that holds it, e.g. Normal"
            )
        self.model, self.levels, self.shape = model, levels, model.shape
        self.noise = noise.build(model.shape, levels)
        self.learned = any(True for _ in self.noise.parameters())
        self.contexts, self.invertible, self.holes = model.contexts, model.invertible, model.holes
        self.tolerance, self.numerical = model.tolerance, model.numerical

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
        if gradient == "exact":
            raise UserError(
                "Dequantized: the noise takes infinitely many values, which cannot be enumerated; "
                "choose another estimator"
            )
        lead = (samples if z is None or not z else len(z[0]), len(x))
        x = x.to(self.model.dtype)
        q = self.noise(x, mask)
        u = draw(_Drawn(q, x), lead[0])
        if len(u) != lead[0]:
            raise UserError(
                "Dequantized: this estimator adds draws of its own, which have no noise to go "
                "with them; choose another"
            )
        drawn: list[Tensor] = []

        def draw_inner(q: Distribution, samples: int) -> Tensor:
            """Keeps the (K, B, *Z) view that log_w descends from: estimators act on it."""
            found = draw(q, samples)
            drawn.append(found[0].unflatten(0, lead))
            return drawn[-1].flatten(0, 1)[None]

        p = self.model.infer(
            _between(x, u).flatten(0, 1),
            1,
            _repeat(mask, lead),
            _repeat(context, lead),
            gradient=gradient,
            z=None if z is None else tuple(layer.flatten(0, 1)[None] for layer in z),
            draw=draw_inner,
            local=None if local is None else tuple(_repeat(own, lead) for own in local),
        )
        log_lik = p.log_lik.view(lead)
        if self.learned:  # else log q is 0
            log_lik = log_lik - q.log_prob(u).to(log_lik.dtype)
        return Particles(
            z=tuple(drawn) if z is None else z,
            log_lik=log_lik,
            log_prior=tuple(term.view(lead) for term in p.log_prior),
            log_q=tuple(term.view(lead) for term in p.log_q),
            kl=tuple(None if term is None else term.view(lead) for term in p.kl),
            log_pi=equal_shares(log_lik),
            kl_cells=tuple(
                None if term is None else term[0].unflatten(0, lead) for term in p.kl_cells
            ),
            noise=u.detach(),
        )

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        return self.model.latents(n, context, given)

    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Distribution:
        inner = self.model.likelihood(z, context)
        if isinstance(inner, Factorized):
            return Factorized(Rounded(inner.base, self.levels), inner.ndim)
        return RoundedRows(inner, self.levels)

    def draws(self, n: int, context: Tensor | None, temperature: float) -> Tensor:
        return self._rounded(self.model.draws(n, context, temperature))

    def encoded(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The inner model's, of the middle of every cell."""
        x = x.to(self.model.dtype)
        return self.model.encoded(_between(x, torch.full_like(x, 0.5)), mask, context)

    @torch.no_grad()
    def decode(self, z: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
        if not self.invertible:
            return super().decode(z, context)
        return self._rounded(self.model.decode(z, context))

    def _rounded(self, y: Tensor) -> Tensor:
        return y.floor().clamp(0, self.levels - 1)

    def local(self, rows: int) -> tuple[Tensor, ...]:
        return self.model.local(rows)

    def inference_parameters(self) -> list[nn.Parameter]:
        return [*self.model.inference_parameters(), *self.noise.parameters()]

    def latent_constraints(self) -> tuple[Constraint | None, ...]:
        return self.model.latent_constraints()

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        bad = (x != x.round()) | (x < 0) | (x > self.levels - 1)
        return bad, f"whole numbers 0 to {self.levels - 1}"

    def initialise(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        self.model.initialise(self._noisy(x), mask, context)

    def em(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Iterator[Tensor] | None:
        """The inner model's, on one fixed draw of the noise."""
        return self.model.em(self._noisy(x), mask, context, seed=seed)

    def degrees(self) -> int | None:
        return self.model.degrees()

    def log_prior(self) -> float:
        return self.model.log_prior()

    def complaints(self) -> tuple[str, ...]:
        return self.model.complaints()

    def _noisy(self, x: Tensor) -> Tensor:
        with seeded(0, x.device):
            u = torch.rand(x.shape, dtype=torch.float64, device=x.device)
        return _between(x, u.to(x.dtype))


class Transformed(Model):
    r"""A model of `y = T(x)` as a model of x, T acting on every cell.

    `log p(x) = log p_Y(T(x)) + sum_j log T'(x_j)`, the sum over observed cells. The slopes are
    of no latent and stand in `log_lik`; z is the inner model's. What was exact stays exact, and
    numbers of different T are in the same units and can be compared.

    Args:
        model: a model of continuous rows y.
        transform: T, such as `Log()`.

    Raises:
        UserError: an inner model of discrete values, or no built transform.

    >>> from latently.models.linear import PPCA
    >>> from latently.probability.transforms import Log
    >>> Transformed(PPCA((3,), 1), Log()).misfit(torch.tensor([[0.0, 1.0, -1.0]]))
    (tensor([[ True, False,  True]]), 'numbers above 0')
    """

    discrete = False

    def __init__(self, model: Model, transform: Transform) -> None:
        super().__init__()
        if not isinstance(transform, Transform):
            raise UserError(
                f"Transformed: transform={transform!r} must be a built one, such as Log()"
            )
        _check_event(self, model)
        if model.discrete or _counts(model):
            raise UserError(
                f"Transformed: {type(model).__name__} is a model of discrete values, which have "
                "no density to carry over; choose a continuous one, e.g. likelihood=Normal"
            )
        self.model, self.transform, self.shape = model, transform, model.shape
        self.contexts, self.invertible, self.holes = model.contexts, model.invertible, model.holes
        self.context_optional = model.context_optional
        self.tolerance, self.numerical = model.tolerance, model.numerical
        _, support = model.misfit(torch.zeros(1, *model.shape, device=model.device))
        self.whole = support == "finite numbers"

    @property
    def density(self) -> Density | None:  # type: ignore[override]
        """As the inner model's."""
        return self.model.density

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
        y = self._forward(x, mask)
        how: dict[str, Any] = {"gradient": gradient, "z": z, "draw": draw, "local": local}
        p = self.model.infer(y, samples, mask, context, **how)
        return p._replace(log_lik=p.log_lik + self._log_slopes(x, mask).to(p.log_lik.dtype))

    def posterior(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Distribution | None:
        return self.model.posterior(self._forward(x, mask), mask, context)

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        return self.model.latents(n, context, given)

    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Distribution:
        return self._carried(self.model.likelihood(z, context))

    def draws(self, n: int, context: Tensor | None, temperature: float) -> Tensor:
        return self.transform.inverse(self.model.draws(n, context, temperature))

    def encoded(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return self.model.encoded(self._forward(x, mask), mask, context)

    @torch.no_grad()
    def decode(self, z: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
        if not self.invertible:
            return super().decode(z, context)
        return self.transform.inverse(self.model.decode(z, context))

    def predictive(
        self, x: Tensor, mask: Tensor, context: Tensor | None = None
    ) -> Distribution | None:
        known = self.model.predictive(self._forward(x, mask), mask, context)
        return None if known is None else self._carried(known)

    def latent_states(self) -> int | None:
        return self.model.latent_states()

    def local(self, rows: int) -> tuple[Tensor, ...]:
        return self.model.local(rows)

    def inference_parameters(self) -> list[nn.Parameter]:
        return self.model.inference_parameters()

    def latent_constraints(self) -> tuple[Constraint | None, ...]:
        return self.model.latent_constraints()

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        inside = self.transform.clip(self._filled(x, None))
        inner, support = self.model.misfit(self.transform.forward(inside), mask)
        if not self.whole:
            support = f"{self.transform.support} whose {self.transform} is {support}"
        else:
            support = self.transform.support
        return self.transform.misfit(x) | inner, support

    def initialise(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        self.model.initialise(self._forward(x, mask), mask, context)

    def em(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Iterator[Tensor] | None:
        """The inner model's, its log-likelihoods in the units of x."""
        passes = self.model.em(self._forward(x, mask), mask, context, seed=seed)
        if passes is None:
            return None
        slopes = self._log_slopes(x, mask).mean()
        return (log_p + slopes for log_p in passes)

    def degrees(self) -> int | None:
        return self.model.degrees()

    def log_prior(self) -> float:
        return self.model.log_prior()

    def complaints(self) -> tuple[str, ...]:
        return self.model.complaints()

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """T(x), zero where missing."""
        return self.transform.forward(self._filled(x, mask))

    def _log_slopes(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`sum_j log T'(x_j)` over observed cells, (B,)."""
        terms = self.transform.log_slope(self._filled(x, mask))
        return (terms if mask is None else torch.where(mask, terms, 0.0)).flatten(1).sum(1)

    def _filled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x in a type no narrower than the model's, T^-1(0) where missing."""
        x = x.to(torch.promote_types(x.dtype, self.dtype))
        return x if mask is None else torch.where(mask, x, self._at_zero(x.dtype))

    def _at_zero(self, dtype: torch.dtype) -> Tensor:
        return self.transform.inverse(torch.zeros((), dtype=dtype, device=self.device))

    def _carried(self, inner: Distribution) -> Distribution:
        if not isinstance(inner, Factorized):
            return TransportedRows(inner, self.transform)
        fill = self._at_zero(self.dtype)
        return Factorized(
            Transported(inner.base, self.transform, whole=self.whole), inner.ndim, fill
        )


def _between(x: Tensor, u: Tensor) -> Tensor:
    """x + u, kept below x + 1 and above 0 where rounding would reach them."""
    least = x + torch.finfo(x.dtype).eps / 4
    return torch.minimum(torch.maximum(x + u, least), torch.nextafter(x + 1, x))


def _repeat(tensor: Any, lead: tuple[int, int]) -> Any:
    if tensor is None:
        return None
    return tensor.expand(lead[0], *tensor.shape).flatten(0, 1)


def _check_event(outer: Model, model: Model) -> None:
    """Refuses models of more than x: what is missing would depend on the wrapper's values."""
    if model.evidence_of != "x":
        name, inside = type(outer).__name__, type(model).__name__
        raise UserError(
            f"{name}: {inside} says which cells are missing by their values, which the wrapper "
            f"would change; wrap the model first, {inside}({name}(...))"
        )


def _counts(model: Model) -> bool:
    """Whether some of its cells have probabilities amid densities."""
    found = model.counted
    return found is not None and not found.is_meta and bool(found.any())  # on loading, no values
