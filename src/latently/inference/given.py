r"""What a row's other cells may be, given some of them: draws, and probabilities of values.

    p(x_m | x_o) = int p(x_m | z) p(z | x_o) dz

`draw_given` answers "what if": it draws whole rows that hold the given cells. `predictive` gives
log p(x_j = v | x_o) of values v in every missing cell: probabilities of the levels of a category,
the density of a hidden truth. Both use the particles of imputation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._blocks import is_exact, row_keys
from latently.inference._by_row import RowNoise
from latently.inference._cells import check_cells, scored_pairs
from latently.inference._filled import draws_of_row
from latently.inference._mode import evaluating
from latently.inference._population import (
    conditioned,
    effective,
    first_particles,
    inside,
    moved_particles,
    parts,
    shapes,
    shares,
)
from latently.inference.evidence import DataLike, as_evaluated
from latently.inference.imputation import SWEEPS, check_options
from latently.inference.pareto import K_HAT_LIMIT
from latently.inference.rows import Rows

__all__ = ["Given", "Predictive", "draw_given", "predictive"]


@dataclass(frozen=True)
class Given:
    """Rows drawn given some of their cells.

    Attributes:
        draws: (n, *shape), the given cells as they were given.
        ess: effective number of particles; None where the model is exact.
        k_hat: Pareto shape of their weights; None where the model is exact.
    """

    draws: Tensor
    ess: float | None
    k_hat: float | None

    def __len__(self) -> int:
        return len(self.draws)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before trusting the draws."""
        found = []
        if self.k_hat is not None and self.k_hat > K_HAT_LIMIT:
            found.append(
                f"heavy importance weights (k-hat {self.k_hat:.2f} > {K_HAT_LIMIT}): the spread "
                "is understated; raise --samples or --sweeps"
            )
        if self.ess is not None and self.ess < len(self):
            found.append(
                f"fewer effective particles ({self.ess:.0f}) than draws ({len(self)}): draws "
                "share latents; raise --samples or --sweeps"
            )
        return tuple(found)


@dataclass(frozen=True)
class Predictive:
    """log p(x_j = v | x_observed) of values v in missing cells.

    Attributes:
        log_prob: (V, n, *shape), in nats; NaN where the cell is observed, or what is observed of
            its row has no finite density; -inf where the value is none that the model holds. Of
            counted cells log P, of others a log-density in data units.
        mask: True where observed, (n, *shape).
        kind: "exact" where the model knows its conditionals, else "estimate", of K draws.
        k_hat: the worst Pareto shape of a row's weights, (n,); 0 where exact.
    """

    log_prob: Tensor
    mask: Tensor
    kind: Literal["exact", "estimate"]
    k_hat: Tensor

    @property
    def probs(self) -> Tensor:
        """P(x_j = v | x_observed) of counted cells, of others the density, (V, n, *shape)."""
        return self.log_prob.exp()


def draw_given(
    model: Any,
    row: Tensor,
    mask: Tensor,
    n: int,
    *,
    context: Tensor | None = None,
    samples: int = 1000,
    sweeps: int = SWEEPS,
    seed: int = 0,
) -> Given:
    """n draws of a row's other cells given those it has.

    Args:
        model: any model with a density that can leave cells out.
        row: (*shape); what stands in cells that are not given is ignored.
        mask: True where given, (*shape); all False draws from p(x). Of a model of what is missing
            the others are drawn from its p(x), too: they are not cells that were lost.
        n: number of draws. They are made in parts, so that memory holds their values and no more.
        context: (C,), of a model of p(x|c).
        samples: K, particles; exact models need none.
        sweeps: most moves of the particles, where few of them count.
        seed: the draws depend on it and on what is given alone.

    Raises:
        UserError: no density, cells that cannot be left out, options out of range, or values that
            are none of the model's.
    """
    if model.evidence_of != "x":  # what is given is a condition, and nothing was lost
        model = model.model
    check_options(model, n, samples, sweeps, (), draws_name="n")
    shape, (row, mask) = tuple(model.shape), map(torch.as_tensor, (row, mask))
    for name, value in (("row", row), ("mask", mask)):
        if tuple(value.shape) != shape:
            raise UserError(
                f"{name} of shape {tuple(value.shape)}, the model has rows of {shape}; give one "
                "row"
            )
    mask = mask.bool()
    x = torch.where(mask, row, 0.0)[None]
    c = None if context is None else context.reshape(1, -1)
    model.check(x, mask[None], "row")
    model.check_context(c, "row")
    rows = Rows(x, mask[None], c)
    (key,) = row_keys(rows, torch.zeros(1, dtype=torch.long, device=x.device), seed)
    with evaluating(model), torch.no_grad(), RowNoise([key], x.device).of(0):
        if bool(mask.all()):
            return Given(x.expand(n, *shape).clone(), None, None)
        if is_exact(model, rows):
            drawn = [
                conditioned(model, first_particles(model, rows, part.stop - part.start), rows)
                for part in parts(n, x)
            ]
            found = torch.cat([inside(model, d.sample(), x.dtype) for d in drawn])[:, 0]
            return Given(torch.where(mask, x[0], found), None, None)
        first, enough = first_particles(model, rows, samples), max(min(n, samples // 4), 1)
        particles = moved_particles(model, rows, first, sweeps, enough)
        log_shares = shares(particles.log_w)
        found = draws_of_row(model, rows, particles, log_shares[0], n)[:, 0]
        return Given(
            torch.where(mask, x[0], found),
            float(effective(log_shares)),
            float(shapes(log_shares)),
        )


def predictive(
    model: Any,
    data: DataLike,
    values: Tensor,
    *,
    samples: int = 200,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Predictive:
    """log p(x_j = v | x_observed) of every missing cell j.

    For a category of L levels `values=torch.arange(L)` gives the probability of each; for numbers
    a grid gives the density; one row of hidden truths for each row, (1, n, *shape), their score.

    Args:
        model: any model with a density that can leave cells out.
        data: rows with their mask and context.
        values: (V,), the same for all cells, or (V, n, *shape).
        samples: K, draws of z for every cell; where their weights are heavy four times as many,
            where they are so still at least eight times, which move. Exact models need none.
        seed: what is found of a row depends on it and the row alone.
        progress: called with (cells done, cells).

    Raises:
        UserError: no density, cells that cannot be left out, options out of range, or values of
            another shape.
    """
    if not isinstance(samples, Integral) or samples < 1:
        raise UserError(f"samples={samples!r} must be a whole number of at least 1")
    data = as_evaluated(model, data)
    mask = torch.ones_like(data.x, dtype=torch.bool) if data.mask is None else data.mask
    rows = Rows(torch.where(mask, data.x, 0.0), mask, data.context)
    check_cells(model, rows)
    values = torch.as_tensor(values, device=mask.device)
    if not values.numel() and mask.numel():
        raise UserError("values: there are none; give those to score, such as [0, 1]")
    if values.dim() != 1 and tuple(values.shape[1:]) != tuple(mask.shape):
        raise UserError(
            f"values of shape {tuple(values.shape)}: give (V,) for all cells, or (V, *shape) with "
            f"the shape of the data, {tuple(mask.shape)}"
        )
    ones = (1,) * mask.dim()
    whole = (values if values.dim() > 1 else values.view(-1, *ones)).expand(-1, *mask.shape)
    log_prob = torch.full(whole.shape, torch.nan, dtype=torch.float64)
    k_hat, done = torch.zeros(len(mask), dtype=torch.float64), 0
    with evaluating(model), torch.no_grad():
        pairs = (~mask).flatten(1).nonzero()
        i, j = pairs.T
        asked = whole.flatten(2)[:, i, j].to(data.x.dtype)
        held = torch.stack([~model.misfit(v.to(data.x.dtype))[0] for v in whole])
        held = held.flatten(2)[:, i, j]
        safe = _held(model, rows.x).flatten()[j]
        how = {"samples": samples, "draws": 0, "seed": seed}
        for which, found in scored_pairs(
            model, rows, pairs, torch.where(held, asked, safe), **how
        ):
            own = found.log_prob.masked_fill(~held[:, which], -torch.inf).cpu()
            r, c = i[which].cpu(), j[which].cpu()
            log_prob.flatten(2)[:, r, c] = own
            worst = torch.where(found.k_hat.isnan(), torch.inf, found.k_hat).cpu()
            k_hat.scatter_reduce_(0, r, worst, "amax")
            done += len(which)
            if progress:
                progress(done, len(pairs))
    exact = is_exact(model, rows)
    k_hat = torch.where(k_hat.isinf(), torch.nan, k_hat)
    return Predictive(log_prob, mask.cpu(), "exact" if exact else "estimate", k_hat)


def _held(model: Any, x: Tensor) -> Tensor:
    """A value that the model holds for every cell, of the shape of one row (1, *shape)."""
    found = torch.full_like(x[:1], 0.5)
    for value in (1.0, 0.0):
        tried = torch.full_like(found, value)
        found = torch.where(model.misfit(tried)[0], found, tried)
    return found
