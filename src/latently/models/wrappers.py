"""Models around models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Uniform

from latently.errors import UserError
from latently.inference.estimators import Gradient
from latently.inference.noise import seeded
from latently.inference.particles import Particles, equal_shares
from latently.models.base import Model
from latently.probability.conditional import Draw, draw
from latently.probability.distributions import Factorized, Rounded

__all__ = ["Dequantized"]


class Dequantized(Model):
    r"""A continuous model of `y = x + u`, `u ~ U(0, 1)`, as a model of integers x.

    `P(x) = int_[0,1) p(x + u) du`, so every draw of u gives a weight `p(x + u)` (times the inner
    model's), and the bounds of these weights are lower bounds of log P(x): densities become
    comparable with probabilities. u is no latent: its terms stand in `log_lik`. Source: Theis,
    van den Oord, Bethge, "A note on the evaluation of generative models", 2016.

    Args:
        model: a model of continuous rows.
        levels: the integers are 0 .. levels - 1.

    Raises:
        UserError: fewer than 2 levels, or an inner model of discrete values.
    """

    density = "bound"
    discrete = True

    def __init__(self, model: Model, *, levels: int) -> None:
        super().__init__()
        if levels < 2:
            raise UserError(f"Dequantized: levels={levels} must be at least 2")
        if model.discrete:
            raise UserError(f"Dequantized: {type(model).__name__} is discrete already")
        self.model, self.levels, self.shape = model, levels, model.shape
        self.contexts = model.contexts

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
    ) -> Particles:
        lead = (samples if z is None or not z else len(z[0]), len(x))
        x = x.to(self.model.dtype)
        u = draw(Uniform(torch.zeros_like(x), torch.ones_like(x), validate_args=False), lead[0])
        drawn: list[Tensor] = []

        def draw_inner(q: Distribution, samples: int) -> Tensor:
            """Keeps the (K, B, *Z) view that log_w descends from: estimators act on it."""
            drawn.append(draw(q, samples)[0].unflatten(0, lead))
            return drawn[-1].flatten(0, 1)[None]

        p = self.model.infer(
            (x + u).flatten(0, 1),
            1,
            _repeat(mask, lead),
            _repeat(context, lead),
            gradient=gradient,
            z=None if z is None else tuple(layer.flatten(0, 1)[None] for layer in z),
            draw=draw_inner,
        )
        log_lik = p.log_lik.view(lead)
        return Particles(
            z=tuple(drawn) if z is None else z,
            log_lik=log_lik,
            log_prior=tuple(term.view(lead) for term in p.log_prior),
            log_q=tuple(term.view(lead) for term in p.log_q),
            kl=tuple(None if term is None else term.view(lead) for term in p.kl),
            log_pi=equal_shares(log_lik),
        )

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        return self.model.latents(n, context, given)

    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Distribution:
        inner = self.model.likelihood(z, context)
        if not isinstance(inner, Factorized):
            raise UserError(f"{type(inner).__name__} does not factorize; sample the inner model")
        return Factorized(Rounded(inner.base, self.levels), inner.ndim)

    def misfit(self, x: Tensor) -> tuple[Tensor, str]:
        bad = (x != x.round()) | (x < 0) | (x > self.levels - 1)
        return bad, f"whole numbers 0 to {self.levels - 1}"

    def initialise(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        self.model.initialise(self._noisy(x), mask, context)

    def em(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Iterator[Tensor] | None:
        """The inner model's, on one fixed draw of the noise."""
        return self.model.em(self._noisy(x), mask, context)

    def complaints(self) -> tuple[str, ...]:
        return self.model.complaints()

    def _noisy(self, x: Tensor) -> Tensor:
        with seeded(0, x.device):
            return x + torch.rand(x.shape, dtype=torch.float64, device=x.device).to(x.dtype)


def _repeat(tensor: Tensor | None, lead: tuple[int, int]) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.expand(lead[0], *tensor.shape).flatten(0, 1)
