"""What every model answers, and everything that follows from it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from latently.errors import UserError
from latently.inference.estimators import Gradient
from latently.inference.imputation import SWEEPS, check_options, imputed_rows
from latently.inference.noise import seeded
from latently.inference.particles import Particles
from latently.probability.conditional import Draw, draw, draw_centre, draw_mean

__all__ = ["Density", "Model", "check_layers"]

Density = Literal["exact", "bound"]
_BLOCK = 4096  # rows checked at a time


def check_layers(z: Sequence[Tensor]) -> None:
    """Refuses one tensor, whose rows would pass for layers.

    Raises:
        UserError: `z` is no sequence of tensors.
    """
    if isinstance(z, Tensor):
        raise UserError(
            f"latents of shape {tuple(z.shape)}: they come as a tuple, a tensor for each layer; "
            "give (z,)"
        )


class Model(nn.Module, ABC):
    """A latent variable model p(x, z), or any density p(x), over rows of a fixed shape.

    A model answers three questions: `infer` (weighted latents of given data), `latents` (draws
    from the prior) and `likelihood` (data given latents), and says which values it cannot hold
    (`misfit`). The rest is derived here, once.
    Conventions: x is (B, *shape), a mask likewise and True where observed, a context (B, C);
    latents are tuples of (K, B, *Z), one per layer. Everything is in nats.

    Attributes:
        shape: shape of one row.
        density: what `log_w` means: "exact" (log p(x) for every draw) or "bound" (its mean is
            a lower bound); None for models without a density.
        objective: name of the objective that it is usually trained by.
        discrete: True where log p is a log-probability, False where a log-density.
        contexts: width of the context c of a model of p(x|c); 0: it takes none.
        context_optional: the context is what is known of a latent, such as a label, and rows may
            come without; evidence hides it, so that it is of log p(x).
        invertible: a model without latents whose `encode` and `decode` are a bijection between
            rows and a base space, such as a flow; `infer` then returns no z.
        holes: whether rows may lack cells, because the model knows log p(x_observed).
        numerical: log p(x) holds an integral that is found numerically: evidence calls it an
            estimate, where others are exact.
        noisy: rows are scored with noise of their own added, integers x as x + u.
        clip: largest norm of a gradient in a run that is told none; None: any.
        tolerance: nats that a pass of `em` gains at least, or the fit ends: of complete rows, and
            of rows with holes, where EM creeps.
        evidence_of: what log p is of: "x", or "x, s" for the observed values together with which
            cells are missing.
        call: the recipe call that built the model, where one did; it is what files store.
    """

    density: ClassVar[Density | None]
    shape: tuple[int, ...]
    discrete: bool
    contexts: int = 0
    context_optional: bool = False
    objective: str = "Variational"
    invertible: bool = False
    holes: bool = True
    numerical: bool = False
    noisy: bool = False
    evidence_of: str = "x"
    clip: float | None = None
    tolerance: tuple[float, float] = (1e-8, 1e-6)
    call: Any = None

    @abstractmethod
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
        """Latents of x with their log-weights.

        Args:
            x: rows, (B, *shape); values under a False mask are ignored.
            samples: K, draws per row.
            mask: True where observed, (B, *shape); None: everywhere.
            context: (B, C), for models of p(x|c).
            gradient: "total", or "path" to hold q's parameters constant in `log q`.
            z: latents to score instead of drawing.
            draw: how to draw from a distribution; `draw_mean` takes its mean.
            local: what to add to the raw parameters of q for every row, as `local` makes them.

        Returns:
            `Particles` with terms of shape (K, B).
        """

    @abstractmethod
    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """n draws from the prior, one (1, n, *Z) per layer, the top layers fixed by `given`."""

    @abstractmethod
    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Distribution:
        """p(x|z), of batch shape (K, B)."""

    def posterior(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Distribution | None:
        """q(z | x_observed) of one layer of latents, of batch shape (B,).

        None: there are more or none, or its density costs more than a pass of the decoder.
        """
        return None

    @abstractmethod
    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        """True where a value lies outside the support (shape of x), and the support in words.

        What it says of missing cells has no meaning.
        """

    def check(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        name: str = "data",
        *,
        first: int = 0,
        fix: str | Callable[[], str] = "give rows of the kind it was fitted to",
    ) -> None:
        """Raises UserError for rows of another shape or values outside the support.

        Args:
            x: rows.
            mask: True where observed.
            name: what to call the rows.
            first: number of the first row.
            fix: what to do about a value outside the support, or what finds it out.
        """
        if tuple(x.shape[1:]) != tuple(self.shape):
            raise UserError(
                f"{name} has rows of shape {tuple(x.shape[1:])}, the model of "
                f"{tuple(self.shape)}; build the model with shape=data.shape"
            )
        if mask is not None and not self.holes and not bool(mask.all()):
            row, *column = (~mask).nonzero()[0].tolist()
            raise UserError(
                f"{name}: no value in row {first + row}, column {', '.join(map(str, column))}, "
                "and this model cannot leave cells out; impute them first by another one, such "
                "as a mixture, fa or vae"
            )
        for start in range(0, len(x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            seen = None if mask is None else mask[rows]
            bad, support = self.misfit(x[rows], seen)
            bad = bad if seen is None else bad & seen
            if bool(bad.any()):
                row, *column = bad.nonzero()[0].tolist()
                value = float(x[(start + row, *column)])
                raise UserError(
                    f"{name}: value {value:g} in row {first + start + row}, column "
                    f"{', '.join(map(str, column))} is outside {support}, all that the model "
                    f"holds; {fix if isinstance(fix, str) else fix()}"
                )

    def check_context(self, context: Tensor | None, name: str = "data") -> None:
        """Raises UserError for a context that is missing, not wanted or of another width."""
        width = 0 if context is None else int(context.shape[-1])
        if width == self.contexts or (context is None and self.context_optional):
            return
        if not width:
            raise UserError(
                f"{name} has no context, and this {type(self).__name__} is a model of p(x|c) "
                f"with a context of {self.contexts} columns; give one"
            )
        if not self.contexts:
            raise UserError(
                f"{name} has a context of {width} columns, and this {type(self).__name__} takes "
                f"none; leave it out, or build the model with contexts={width}"
            )
        raise UserError(
            f"{name} has a context of {width} columns, the model one of {self.contexts}; encode "
            "it as for the fit"
        )

    def initialise(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        """Sets scales and starting points from data, once, before training."""
        return None

    def em(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Iterator[Tensor] | None:
        """Passes of a closed-form or EM fit, each yielding the mean log-likelihood it reached.

        A log-prior of the parameters, where the model has one, counts in it. What is drawn to
        start from depends on the seed alone. Nothing is computed before the first pass is asked
        for. None: there is none, and `fit` trains by gradient.
        """
        return None

    def degrees(self) -> int | None:
        """Free parameters that a closed-form fit or EM chooses, for AIC and BIC; None: unknown."""
        return None

    def log_prior(self) -> float:
        """Log-density of the parameters that EM adds to log p of all rows, in nats; 0: none."""
        return 0.0

    def predictive(
        self, x: Tensor, mask: Tensor, context: Tensor | None = None
    ) -> Distribution | None:
        """p(x_j | x_observed) of every missing cell j, of batch shape (B,), where it is known.

        The cells are given as if independent: it is their marginals that are exact. None: the
        model has no closed form, and imputation resamples particles.
        """
        return None

    def left_out(
        self, x: Tensor, mask: Tensor, context: Tensor | None = None
    ) -> Distribution | None:
        """p(x_j | the other observed cells) of every *observed* cell j, of batch shape (B,).

        What `predictive` says of one cell after the other, hidden in turn, all at once. What it
        says of missing cells has no meaning. None: there is no such shortcut.
        """
        return None

    def latent_states(self) -> int | None:
        """How many values the latents of one row have, all layers together.

        A number says that `infer` can be given all of them as draws, and evidence is then summed
        exactly where they are few. None: infinitely many, or more than are ever enumerated.
        """
        return None

    def local(self, rows: int) -> tuple[Tensor, ...]:
        """Local parameters of so many rows, all zero, one (rows, *H) per latent layer.

        They are offsets of the raw parameters of `q(z_l | z_<l, x)`: `infer(x, local=...)` scores
        a q of each row's own instead of the encoder's. () where q is exact already.
        """
        return ()

    def inference_parameters(self) -> list[nn.Parameter]:
        """The parameters that q alone has: p(x, z) stays as it is when they move."""
        return []

    def latent_constraints(self) -> tuple[Constraint | None, ...]:
        """Where the latents of each layer lie, as torch names it; None where they are counted."""
        return ()

    def complaints(self) -> tuple[str, ...]:
        """What a reader should know of the fitted parameters, a line each."""
        return ()

    @property
    def counted(self) -> Tensor | None:
        """Which cells have probabilities amid others that have densities, (*shape) bool.

        None: `discrete` says it of all.
        """
        return None

    @property
    def no_density(self) -> str:
        """What to say where a density is asked for and there is none."""
        return f"{type(self).__name__} has no density"

    # Derived, once for all models.

    def scored(
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
    ) -> tuple[Particles, Distribution]:
        """What `infer` returns, and p(x|z) of its latents, which some models decode for both."""
        how: dict[str, Any] = {"gradient": gradient, "z": z, "draw": draw, "local": local}
        p = self.infer(x, samples, mask, context, **how)
        return p, self.likelihood(p.z, context)

    def log_prob(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        samples: int = 100,
    ) -> Tensor:
        """log p(x) of each row, (B,): exact, or the bound of `samples` draws; see `density`.

        All rows and draws are held at once and carry gradients; `latently.evaluate` streams them
        and adds error bars.

        Raises:
            UserError: the model has no density.
        """
        if self.density is None:
            raise UserError(self.no_density)
        p = self.infer(x, 1 if self.density == "exact" else samples, mask, context)
        return torch.logsumexp(p.log_pi + p.log_w, dim=0)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> Tensor:
        """n draws from p(x), (n, *shape).

        Args:
            n: number of rows.
            context: one row for all or one for each.
            temperature: factor of the noise of flows. Below 1 rows are more typical and less
                varied, and no longer draws from p(x).
            seed: of the draws; None: the global generator goes on.

        Raises:
            UserError: fewer than 0 rows, a temperature that is not positive, or one of a model
                that has none.
        """
        if n < 0:
            raise UserError(f"n={n} must be at least 0: the number of rows to draw")
        if not 0 < temperature < math.inf:
            raise UserError(f"temperature={temperature} must be a positive number")
        if n == 0:
            return torch.empty(0, *self.shape, dtype=self.dtype, device=self.device)
        if context is not None and len(context) == 1:
            context = context.expand(n, *context.shape[1:])
        with nullcontext() if seed is None else seeded(seed, self.device):
            return self.draws(n, context, temperature)

    def draws(self, n: int, context: Tensor | None, temperature: float) -> Tensor:
        """What `sample` returns, from the global generator."""
        if temperature != 1:
            raise UserError(
                f"temperature={temperature} has no effect on {type(self).__name__}: it scales "
                "the noise of flows; leave it out"
            )
        return self.likelihood(self.latents(n, context), context).sample()[0]

    @torch.no_grad()
    def encode(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Posterior means, one (B, *Z) per layer: two calls give the same.

        An invertible model's one layer is the row in its base space, exactly.
        """
        return self.encoded(x, mask, context)

    def encoded(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """What `encode` returns, with gradients."""
        return tuple(z[0] for z in self.infer(x, 1, mask, context, draw=draw_mean).z)

    @torch.no_grad()
    def decode(self, z: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
        """The mean of p(x|z) of latents as `encode` gives them, (B, *shape).

        An invertible model's is the row itself: `decode(encode(x))` is x.

        Raises:
            UserError: a tensor in place of a tuple of layers, such as `(z,)`.
        """
        check_layers(z)
        return self.likelihood(tuple(layer[None] for layer in z), context).mean[0]

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """The mean of p(x|z) at the posterior mean, of discrete latents the mode, (B, *shape)."""
        if self.invertible:
            return self.decode(self.encode(x, mask, context), context)
        z = self.infer(x, 1, mask, context, draw=draw_centre).z
        return self.likelihood(z, context).mean[0]

    def errors(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Squared differences of rows and their reconstructions, (B, *shape), 0 where missing.

        In squared data units.
        """
        apart = (x - self.reconstruct(x, mask, context)).square()
        return apart if mask is None else apart.where(mask, 0.0)

    @property
    def error_unit(self) -> Tensor | float:
        """What `contributions` are told in, in squared data units; broadcasts to a row."""
        return 1.0

    def contributions(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """What every cell adds to a row's reconstruction error, (B, *shape), 0 where missing.

        The error is the mean squared difference of the observed cells, in units of `error_unit`:
        squared data units, but for autoencoders.
        """
        errors = self.errors(x, mask, context)
        if mask is None:
            return errors / errors[0].numel() / self.error_unit
        seen = mask.flatten(1).sum(1).clamp(min=1)
        return errors / seen.view(-1, *(1,) * len(self.shape)) / self.error_unit

    @torch.no_grad()
    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        context: Tensor | None = None,
        *,
        draws: int = 1,
        samples: int = 1000,
        sweeps: int = SWEEPS,
        seed: int | None = None,
    ) -> Tensor:
        """Draws of the missing cells given the observed ones, (draws, B, *shape).

        Of `samples` particles, `draws` are chosen in proportion to their weights (sampling
        importance resampling), and the missing cells drawn from p(x|z). Observed cells stay. With
        a seed, the draws of a row depend on the row and on how many equal rows stand above it,
        not on its company. `latently.impute` adds means, deviations, quantiles and warnings.

        Raises:
            UserError: no density, or numbers out of range.
        """
        check_options(self, draws, samples, sweeps, ())
        if mask.shape != x.shape or mask.dtype != torch.bool:
            raise UserError(
                f"mask: {mask.dtype} of shape {tuple(mask.shape)} must be bool of the shape of x, "
                f"{tuple(x.shape)}, True where observed"
            )
        x = torch.where(mask, x, 0.0)  # what stands in a missing cell must not move the seed
        drawn = x.expand(draws, *x.shape).clone()
        for b, found in imputed_rows(self, x, mask, context, draws, samples, sweeps, seed=seed):
            drawn[:, b] = torch.where(mask[b], x[b], found.draws)
        return drawn

    def anomaly_score(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """How strange each row is, (B,): minus log p(x). Higher is stranger."""
        return -self.log_prob(x, mask, context)

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the parameters."""
        return next(chain(self.parameters(), self.buffers())).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(chain(self.parameters(), self.buffers())).device
