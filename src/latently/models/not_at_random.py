r"""Values missing not at random: the cells that a row lacks tell of what they would have been.

    p(x, s, z) = p(z) p(x|z) p(s|x),    s_j = 1 where cell j is observed

A model of x is joined by one of s (`latently.probability.missingness`). With draws x_m of the
missing cells from p(x_m|z),

    log p(x_o, s) >= log 1/K sum_k p(z_k) p(x_o|z_k) / q(z_k|x_o) * 1/M sum_m p(s|x_o, x_m^km),

where for cells that are independent given z and missing by themselves the mean over m is taken
cell by cell: M draws then do the work of M^cells. The draws of x_m have a pathwise gradient where
their cells have one. Those of counted cells have none, and are weighed by `p(x_m|z) / r(x_m)` with
r the same probability held constant: the weight's value is as before, and its gradient that of
`sum_x p(x|z) p(s|x)` without bias. x_m is kept with its particle, drawn among the M in proportion
to p(s|.), so that imputations are of p(x_m|x_o, s).

Source: Ipsen, Mattei, Frellsen, "not-MIWAE: Deep Generative Modelling with Missing not at Random
Data", 2021, whose bound is that of M = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint
from torch.nn.functional import logsigmoid

from latently.errors import UserError
from latently.inference.estimators import Gradient
from latently.inference.particles import Particles
from latently.models._missing_cells import MissingCells, WeighedRows
from latently.models.base import Model
from latently.probability.conditional import Draw, draw
from latently.probability.distributions.joint import as_joint
from latently.probability.families._moments import moments
from latently.probability.missingness import SelfMasking, built, categories_of

__all__ = ["NotAtRandom", "not_random"]

# M. One draw is the bound of the paper, and K draws of the latents bring one each: of the mean
# over K M values a larger M tightens only what one z leaves open, the spread of x_m given z. On
# tables of wines 8 draws gained little and took twice the time.
DRAWS = 1

# Norm of a gradient, times the number of columns, that no step goes beyond by itself. Usual ones
# are a tenth to a third of it; where the edge of what is missing is steep, one step in a thousand
# has a hundred times the usual, after which a run did not come back.
_CLIP = 4.0
_FARTHEST = 1e6  # observed deviations, for f: beyond it lies nothing that data could tell of


class NotAtRandom(Model):
    """A model of rows and of what they lack: p(x) p(s|x), for values missing not at random.

    Its evidence is of log p(x_o, s), the observed values together with which they are, and
    compares with that of other such models alone. Cells of columns that lacked nothing in
    training, or everything, are taken as missing at random: no data would hold their f_j back.

    Args:
        model: p(x, z): any with latents, whose p(x|z) knows its cells one by one.
        missingness: constructor `(shape, categories) -> nn.Module` of f; see `missingness`.
        categories: for every cell 0 for a number, L for an unordered category; () for numbers.
        draws: M, draws of the missing cells for each draw of the latents.

    Raises:
        UserError: `missingness` is no constructor, fewer than one draw, a model without latents
            or a density, or one that adds noise to integers.
    """

    density = "bound"
    objective = "MIWAE"
    evidence_of = "x, s"
    loc: Tensor
    scale: Tensor
    offset: Tensor
    lacking: Tensor
    numbers: Tensor

    def __init__(
        self,
        model: Model,
        missingness: Callable[..., nn.Module] = SelfMasking,
        *,
        categories: Sequence[int] = (),
        draws: int = DRAWS,
    ) -> None:
        super().__init__()
        if not isinstance(draws, int) or draws < 1:
            raise UserError(f"NotAtRandom: draws={draws!r} must be a whole number of at least 1")
        if model.density is None:
            raise UserError(f"NotAtRandom: {model.no_density}")
        if not model.latent_constraints():
            raise UserError(
                f"NotAtRandom: {type(model).__name__} has no latents to draw missing cells by; "
                "choose a vae, fa or ppca"
            )
        if any(getattr(part, "noisy", False) for part in model.modules()):
            raise UserError(
                f"NotAtRandom: {type(model).__name__} adds noise to whole numbers, which leaves "
                "no place for missing cells; choose a likelihood of integers"
            )
        self.model, self.shape, self.samples = model, model.shape, draws
        self.discrete, self.contexts = model.discrete, model.contexts
        self.clip = _CLIP * math.prod(self.shape)
        self.missingness = built(missingness, self.shape, tuple(categories))
        self.separable = bool(getattr(self.missingness, "separable", False))
        flat = tuple(categories) or (0,) * math.prod(self.shape)
        numbers = torch.tensor([not levels for levels in flat]).view(self.shape)
        self.register_buffer("numbers", numbers, persistent=False)
        self.register_buffer("loc", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(self.shape, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(self.shape))
        self.register_buffer("lacking", torch.zeros(self.shape, dtype=torch.bool))
        self._tilt = 0.0

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
        how: dict[str, Any] = {"gradient": gradient, "z": z, "draw": draw, "local": local}
        p, likelihood = self.model.scored(x, samples, mask, context, **how)
        if mask is None:
            log_s, kept = self._log_s(self._unit(x), torch.ones_like(x, dtype=torch.bool)), None
            log_s = log_s.flatten(1).sum(1)
        else:
            # all states of discrete latents are summed; missing cells are drawn
            how_drawn: Draw = _plain if gradient == "exact" else draw
            given = as_joint(likelihood, "rows").given(x, mask)
            cells = MissingCells(given, p.log_lik.shape, self.samples)
            log_s, kept = self._averaged(x, mask, cells, how_drawn)
        return p._replace(log_lik=p.log_lik + log_s.to(p.log_lik.dtype), noise=kept)

    def _averaged(
        self, x: Tensor, mask: Tensor, cells: MissingCells, draw: Draw
    ) -> tuple[Tensor, Tensor | None]:
        """`log 1/M sum_m p(s|x_o, x_m)`, (K, B), and missing cells that were weighed, (K, B, *X).

        Axes are (K, B, M, *X). What is kept costs a draw, and nobody asks for it in training.
        """
        drawn = draw(cells, cells.lead[0])
        if len(drawn) != cells.lead[0]:
            raise UserError(
                "NotAtRandom: this estimator adds draws of its own, which have no missing cells "
                "to go with them; choose another"
            )
        unit, seen = self._unit(drawn), mask.unsqueeze(1)
        known = self._unit(torch.where(mask, x, self.loc)).unsqueeze(1)
        apart = self.separable and cells.independent
        if apart:  # observed cells are the same for all draws
            log_s = self._log_s(unit, torch.zeros_like(seen))
        else:
            log_s = self._log_s(torch.where(seen, known, unit), seen)
        ratio = cells.log_ratio(drawn) if torch.is_grad_enabled() else None
        if ratio is not None:
            # of a separable f, cells that no term reads would add nothing but noise
            where = ~seen & self.lacking if apart else ~seen
            log_s = log_s + torch.where(where, ratio, 0.0).to(log_s.dtype)
        if not apart:
            log_s = log_s.flatten(3).sum(-1)
        kept = None if torch.is_grad_enabled() else _kept(drawn, log_s, seen)
        log_s = torch.logsumexp(log_s, 2) - math.log(self.samples)
        if not apart:
            return log_s, kept
        told = torch.where(mask, self._log_s(known, seen)[:, 0], log_s)
        return told.flatten(2).sum(-1), kept

    def _unit(self, x: Tensor) -> Tensor:
        """Deviations from the mean in observed deviations, at most a million; codes as they are.

        What a column's values are where it is hidden, nothing but f says: draws of amounts may
        have grown beyond the numbers of the type before f learns that this does not pay.
        """
        unit = ((x - self.loc) / self.scale).clamp(-_FARTHEST, _FARTHEST)
        return unit.to(self.offset.dtype)

    def _log_s(self, unit: Tensor, mask: Tensor) -> Tensor:
        """`log p(s_j|x)` of every cell of rows (*, *shape), 0 in columns that never vary in s."""
        found = self.missingness(unit.reshape(-1, *self.shape)).view(unit.shape) + self.offset
        # the sign of a (B, 1, *X) mask is cheaper than two branches
        log_s = logsigmoid(found * (1 - 2 * mask.to(found.dtype)))
        if self._tilt:
            log_s = log_s + torch.where(self.numbers & ~mask, self._tilt * unit, 0.0)
        return torch.where(self.lacking, log_s, 0.0)

    def posterior(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Distribution | None:
        return self.model.posterior(x, mask, context)

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        return self.model.latents(n, context, given)

    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Distribution:
        """p(x|z); its conditional on observed cells is the row whose cells were weighed."""
        return WeighedRows(as_joint(self.model.likelihood(z, context), "rows"))

    def draws(self, n: int, context: Tensor | None, temperature: float) -> Tensor:
        return self.model.draws(n, context, temperature)

    def encoded(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return self.model.encoded(x, mask, context)

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """The model's own: what is missing says nothing at one value of z."""
        return self.model.reconstruct(x, mask, context)

    def local(self, rows: int) -> tuple[Tensor, ...]:
        return self.model.local(rows)

    def inference_parameters(self) -> list[nn.Parameter]:
        return self.model.inference_parameters()

    def latent_constraints(self) -> tuple[Constraint | None, ...]:
        return self.model.latent_constraints()

    @property
    def counted(self) -> Tensor | None:
        """As the inner model's."""
        return self.model.counted

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        return self.model.misfit(x, mask)

    @torch.no_grad()
    def initialise(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        """The model's own, the units of the columns, and which of them lack cells, how often."""
        self.model.initialise(x, mask, context)
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        mean, deviation = moments(x, seen)
        varies = self.numbers & (deviation > 1e-9 * mean.abs().clamp(min=1e-12))
        self.loc.copy_(torch.where(self.numbers, mean, 0.0))
        self.scale.copy_(torch.where(varies, deviation, 1.0))
        share = (~seen).double().mean(0)
        self.lacking.copy_((share > 0) & (share < 1))
        self.offset.copy_(torch.logit(torch.where(self.lacking, share, 0.5)))

    def complaints(self) -> tuple[str, ...]:
        """That data cannot check what was assumed, beside what the model says of itself."""
        name = type(self.missingness).__name__
        if not bool(self.lacking.any()):
            said = (
                f"no column lacks some of its cells, so that {name} has nothing to say: fit "
                "without missingness"
            )
        else:
            said = (
                f"what is missing depends on values that nobody saw: {name} is an assumption that "
                "these data cannot check; fit with other signs or without, and compare what is "
                "imputed (latently.sensitivity)"
            )
        return (said, *self.model.complaints())

    @contextmanager
    def tilted(self, by: float) -> Iterator[None]:
        """With missing cells that are likelier by exp(d) for each observed deviation upwards.

        p(x_m|x_o, s) is multiplied by `exp(d sum_j (x_j - mean_j) / deviation_j)` over the missing
        numbers, and imputations are of that. Evidence is none meanwhile.

        Raises:
            UserError: no finite number.
        """
        if not math.isfinite(by):
            raise UserError(f"NotAtRandom: tilted by {by}; give a finite number, such as 0.5")
        before, self._tilt = self._tilt, float(by)
        try:
            yield
        finally:
            self._tilt = before


def not_random(
    model: Model,
    missingness: Callable[..., nn.Module] = SelfMasking,
    *,
    draws: int = DRAWS,
) -> NotAtRandom:
    """`NotAtRandom` of a model, told which of its columns are unordered categories.

    Args:
        model: a vae, fa or ppca.
        missingness: constructor of f, such as `partial(SelfMasking, sign="above")`.
        draws: M, draws of the missing cells for each draw of the latents.

    Raises:
        UserError: see `NotAtRandom`.

    >>> from latently import vae
    >>> from latently.probability.families import Normal
    >>> not_random(vae((3,), likelihood=Normal)).missingness.slope.shape
    torch.Size([3])
    """
    family = getattr(getattr(model, "decoder", None), "family", None)
    return NotAtRandom(model, missingness, categories=categories_of(family), draws=draws)


def _plain(cells: Distribution, samples: int) -> Tensor:
    return cells.rsample(Size((samples,)))


def _kept(drawn: Tensor, log_s: Tensor, seen: Tensor) -> Tensor:
    """One of the M values of every missing cell by p(s|.), or of every row; 0 where observed.

    `drawn` is (K, B, M, *X), `log_s` likewise or (K, B, M); (K, B, *X).
    """
    if drawn.shape[2] == 1:
        return torch.where(seen, 0.0, drawn)[:, :, 0]
    noise = -torch.empty_like(log_s).exponential_().log()
    index = (log_s + noise).argmax(2, keepdim=True)  # a draw in proportion to exp(log_s)
    index = index.view(*index.shape, *(1,) * (drawn.dim() - index.dim()))
    index = index.expand(*drawn.shape[:2], 1, *drawn.shape[3:])
    return torch.where(seen, 0.0, drawn.gather(2, index))[:, :, 0]
