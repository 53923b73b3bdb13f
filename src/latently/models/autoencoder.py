r"""Autoencoders: a code for every row, and the row from its code.

    z = f(x),    p(x|z): a mean that is read from z, and an error around it

There is no p(z), so there is no p(x): `density` is None, `log_prob` refuses, and a density that
is put on the codes afterwards (`latently.fit_density`) lets it draw rows, no more. Which kind it
is (sparse, denoising, contractive, robust) lies in what it is trained by, the objective
`Reconstruction`. Sources: Hinton, Salakhutdinov, "Reducing the Dimensionality of Data with Neural
Networks", 2006; a density of codes afterwards: Ghosh et al., "From Variational to Deterministic
Autoencoders", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latently.errors import UserError
from latently.inference.estimators import Gradient
from latently.inference.particles import Particles, equal_shares
from latently.models.base import Model
from latently.probability.conditional import Conditional, Draw, draw, shown
from latently.probability.distributions import observed_log_prob
from latently.probability.span import Span, variance_of

__all__ = ["Autoencoder"]


class Autoencoder(Model):
    """A code z = f(x) and rows from codes.

    Args:
        encoder: z given x, a `Conditional` over the family `Codes`; inputs are the embedded x,
            then the mask if `sees_mask`, then the context if there is one.
        decoder: p(x|z): inputs are z, then the context if there is one.
        sees_mask: whether the encoder was built with the mask as an input.
        codes: a model of codes, fitted to them afterwards, from which `sample` draws.

    Attributes:
        low, high: span of the training rows; every column's own for vectors, one for pictures.
        unit: variance of the training rows, likewise; errors are told in it.

    Raises:
        UserError: a model of codes of another shape.
    """

    density = None
    objective = "Reconstruction"

    low: Tensor
    high: Tensor
    unit: Tensor

    def __init__(
        self,
        encoder: Conditional,
        decoder: Conditional,
        *,
        sees_mask: bool = False,
        codes: Model | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.sees_mask = encoder, decoder, sees_mask
        self.shape = decoder.family.shape
        self.discrete = decoder.family.discrete
        self.contexts = encoder.contexts
        for name, value in (("low", 0.0), ("high", 1.0), ("unit", 1.0)):
            self.register_buffer(name, torch.full(self.shape, value, dtype=torch.float64))
        self.put_density(codes)

    @property
    def activation(self) -> nn.Module:
        """What codes pass last."""
        return self.encoder.family.activation  # type: ignore[return-value]

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one code."""
        return self.encoder.family.shape

    def put_density(self, codes: Model | None) -> None:
        """Takes a model of flat codes to draw from; None: there is none."""
        size = math.prod(self.code_shape)
        if codes is not None and tuple(codes.shape) != (size,):
            raise UserError(
                f"Autoencoder: a model of codes of shape {tuple(codes.shape)}, and these codes "
                f"have {size} numbers; build it with shape=({size},)"
            )
        self.codes = codes

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
        """The code of x, as often as there are samples; log p(z) and log q(z|x) count 0."""
        if z is None:
            z = (draw(self.encoder(*self.seen(x, mask), context), samples),)
        log_lik = observed_log_prob(self.likelihood(z, context), x, mask)
        nothing = torch.zeros_like(log_lik)
        return Particles(z, log_lik, (nothing,), (nothing,), (nothing,), equal_shares(log_lik))

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """n codes from the density put on them afterwards, (1, n, *Z)."""
        if given:
            return tuple(given)
        if self.codes is None:
            raise UserError(
                "an Autoencoder has no p(z) to draw from; put a density on its codes by "
                "latently.fit_density (latently fit-density), or fit a vae"
            )
        return (self.codes.sample(n).view(1, n, *self.code_shape),)

    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Distribution:
        return self.decoder(z[0], context)

    def draws(self, n: int, context: Tensor | None, temperature: float) -> Tensor:
        """The means of p(x|z) of drawn codes: the error around them is no part of a row."""
        if temperature != 1:
            return super().draws(n, context, temperature)
        return self.likelihood(self.latents(n, context), context).mean[0]

    def log_prob(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        samples: int = 100,
    ) -> Tensor:
        """Refuses: there is no p(x)."""
        raise UserError(self.no_density)

    @property
    def no_density(self) -> str:
        return (
            "an Autoencoder has no density, so no log p(x); its anomaly_score (latently score) is "
            "the reconstruction error, fit_density (latently fit-density) lets it draw rows, and "
            "for log p(x) there is vae"
        )

    def anomaly_score(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the observed cells, (B,), in variances of the training rows.

        1 is the error of the mean row. Higher is stranger.
        """
        return self.contributions(x, mask, context).flatten(1).sum(1)

    @property
    def error_unit(self) -> Tensor:
        """Variances of the training rows, so that contributions add up to the anomaly score."""
        return self.unit

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        return self.decoder.family.misfit(x, mask), self.decoder.family.support

    @torch.no_grad()
    def initialise(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        """Scales of rows and of their errors, and output offsets."""
        family = self.decoder.family
        family.initialise(x, mask)
        self.decoder.initialise(family.marginal(x, mask))
        span = Span.of(x, mask)
        self.low.copy_(span.low.expand(self.shape))
        self.high.copy_(span.high.expand(self.shape))
        self.unit.copy_(variance_of(x, mask).expand(self.shape))

    @property
    def span(self) -> Span:
        """Of the training rows."""
        return Span(self.low, self.high)

    def seen(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """What the encoder reads of x: scaled, zero where missing, with the mask if it wants."""
        return shown(self.decoder.family, x, mask, with_mask=self.sees_mask)
