r"""The cells of one row, each hidden in turn, by draws that move together.

p(z | x_o without j) hardly depends on j, so that one set of draws serves all j of a row. Each j
fills its hole, and what else is missing, by a few draws of p(x_m | z), and the posteriors of all
the filled rows, J of them, are mixed:

    z_k ~ q_J = (1/J) sum_l q(z | filled row l),    w_jk = p(x_o without j, z_k) / q_J(z_k).

Cells that are independent given z make w_jk of what is decoded once: it lacks one factor of the
weight of the whole row. Draws of an encoder that is too sure of itself may have even weights and
miss where the mass is. So where latents are real numbers, the next come from a Student's t with
the moments of those before, weighed by the mean of w_j over the j that are not done yet, tempered
so far that enough of them count; its tails are heavy, and only its weights are trusted. Sources:
Cappe, Douc, Guillin, Marin, Robert, "Adaptive importance sampling in general mixture classes",
2008; and those of `_population`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Chi2, constraints

from latently.inference._by_row import RowNoise
from latently.inference._filled import cells_of
from latently.inference._population import (
    completed,
    drawn_of_mixture,
    effective,
    first_particles,
    impossible,
    inside,
    parts,
    resampled,
    settled,
    shapes,
    shares,
)
from latently.inference._usual import amounts, asked_beside, of_draws
from latently.inference.rows import Rows

__all__ = ["Scored", "can_move_together", "moved_together"]

_FILLED = 100  # rows whose posteriors are mixed, and at least two for each cell
_COUNT = 10  # effective draws for each latent, that moments are taken of
_DEGREES = 5.0  # of freedom of the Student's t
_NARROWEST = 1e-6  # share of the mean variance that the variance of no direction falls below
_NEVER = -1e300  # log of 0 that can be multiplied by 0


class Scored(NamedTuple):
    """Of B pairs of a row and a cell.

    Attributes:
        log_prob: of each value asked for, (V, B), in nats; NaN, as is `usual`, where the other
            cells have no finite density, so that nothing is known of this one.
        usual: its mean over draws from the same distribution, (B,): minus the entropy.
        k_hat: Pareto shape of the weights, (B,); 0 where the model is exact.
    """

    log_prob: Tensor
    usual: Tensor
    k_hat: Tensor

    def part(self, which: Tensor) -> Scored:
        """Some of the pairs."""
        return Scored(self.log_prob[:, which], self.usual[which], self.k_hat[which])

    def forgotten(self, which: Tensor) -> Scored:
        """The same without what is said of some of the pairs (B,)."""
        log_prob = self.log_prob.masked_fill(which, torch.nan)
        usual = self.usual.masked_fill(which, torch.nan)
        return Scored(log_prob, usual, self.k_hat.masked_fill(which, 0.0))


@torch.no_grad()
def can_move_together(model: Any, row: Rows) -> bool:
    """Whether cells are independent given z, and q(z|x) is a density at a glance."""
    if model.posterior(*row) is None:
        return False
    with RowNoise([0], row.x.device).of(0):
        p, d = model.scored(row.x, 1, row.mask, row.context)
    alone = all(hasattr(own, "fill") for _, own in cells_of(d, row.x))  # only `Factorized` has
    return alone and p.noise is None and d.given(row.x, row.mask) is d


@torch.no_grad()
def moved_together(
    model: Any,
    row: Rows,
    without: Rows,
    cells: Tensor,
    values: Tensor,
    *,
    samples: int,
    moved: int,
    draws: int,
    sweeps: int,
) -> Iterator[tuple[Tensor, Scored]]:
    """What is found after each sweep of the cells whose weights are not heavy any more.

    Yields their numbers among the cells, and what was found of them. Random numbers come from the
    global generator.

    Args:
        model: one that `can_move_together`.
        row: (1, *X), with all its cells.
        without: the row without each of its cells, (C, *X).
        cells: their numbers in the flat row, (C,).
        values: what to put there, (V, C).
        samples: draws for each cell to begin with.
        moved: draws of a sweep, at least.
        draws: to tell what is usual by; 0: `usual` is 0.
        sweeps: most moves.
    """
    each = max(2, math.ceil(_FILLED / len(cells)))
    first = first_particles(model, without, samples)
    left = torch.arange(len(cells), device=cells.device)
    unknown = impossible(first.log_w)
    if bool(unknown.any()):
        nothing = torch.full_like(values[:, unknown], torch.nan, dtype=torch.float64)
        usual = nothing.new_full((nothing.shape[1],), torch.nan)
        yield left[unknown], Scored(nothing, usual, torch.zeros_like(usual))
        left, without = left[~unknown], without.part(~unknown)
        first = first.of(~unknown)
    if not len(left):
        return
    picked = first.picked(resampled(shares(first.log_w), each).T)
    filled, contexts = completed(model, without, picked)
    q = model.posterior(filled, None, contexts)
    z, log_q = drawn_of_mixture(q, math.ceil(moved / len(filled)))
    real = model.latent_constraints() == (constraints.real,)
    for sweep in range(sweeps):
        decoded, log_w = _weighed(model, row, z, log_q, cells[left])
        light = settled(log_w) & (sweep > 0 or not real)
        found, some = left[light], without.part(light)
        if len(found):
            asked, share, log_shares = values[:, found], None, shares(log_w[:, light])
            if draws:
                own = z[resampled(log_shares, draws).T]
                drawn, share = _drawn(model, some, own, cells[found])
                asked = asked_beside(asked, drawn, share)
            log_p = _mixed(decoded, row, cells[found], asked, log_shares)
            usual = log_p.new_zeros(len(found))
            if draws:
                usual = of_draws(log_p[len(values) :], values[0, found], share)
            yield found, Scored(log_p[: len(values)], usual, shapes(log_shares))
        left, without, log_w = left[~light], without.part(~light), log_w[:, ~light]
        if not len(left) or not real:
            return
        z, log_q = _around(z, shares(log_w).logsumexp(0), moved)


def _around(z: Tensor, log_w: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n draws of a Student's t with the moments of particles (N, *Z), and their log-density."""
    flat = z.flatten(1).double()
    size = flat.shape[1]
    share = _tempered(log_w, _COUNT * size)
    mean = share @ flat
    cov = ((flat - mean) * share[:, None]).T @ (flat - mean)
    held = _NARROWEST * cov.diagonal().mean().clamp(min=_NARROWEST)
    cov = cov + held * torch.eye(size, dtype=cov.dtype, device=cov.device)
    wide = Chi2(torch.full((n,), _DEGREES, dtype=cov.dtype, device=cov.device)).sample()
    normal = torch.randn(n, size, dtype=cov.dtype, device=cov.device)
    scale = torch.linalg.cholesky(cov)
    u = normal * (_DEGREES / wide).sqrt()[:, None]
    log_q = -0.5 * (_DEGREES + size) * (u.square().sum(1) / _DEGREES).log1p()
    found = (mean + u @ scale.T).to(z.dtype)
    return found.view(n, *z.shape[1:]), log_q - scale.diagonal().log().sum()


def _tempered(log_w: Tensor, enough: float) -> Tensor:
    """Shares in proportion to a power of the weights, (N,): the largest, to 1, of ESS enough."""
    low, high = 0.0, 1.0
    if float(effective(log_w.log_softmax(0)[None])) >= enough:
        return log_w.softmax(0)
    for _ in range(20):
        power = (low + high) / 2
        many = float(effective((power * log_w).log_softmax(0)[None])) >= enough
        low, high = (power, high) if many else (low, power)
    return (low * log_w).softmax(0)


def _weighed(
    model: Any, row: Rows, z: Tensor, log_q: Tensor, cells: Tensor
) -> tuple[list[Any], Tensor]:
    """p(x|z) of latents (N, *Z), part by part, and their weights for each cell, (N, C)."""
    decoded, log_w = [], []
    others = torch.ones(row.x[0].numel(), len(cells), dtype=torch.float64, device=z.device)
    others[cells, torch.arange(len(cells), device=z.device)] = 0.0
    assert row.mask is not None
    others = others * row.mask.flatten()[:, None]
    for part in parts(len(z), row.x):
        p, d = model.scored(row.x, len(z[part]), row.mask, row.context, z=(z[part, None],))
        terms = _of_cells(d, row, row.x).nan_to_num(_NEVER, -_NEVER, _NEVER) @ others
        prior = sum(t[:, 0] for t in p.log_prior).double()
        log_w.append(terms + (prior - log_q[part].double())[:, None])
        decoded.append(d)
    return decoded, torch.cat(log_w)


def _of_cells(d: Any, row: Rows, x: Tensor) -> Tensor:
    """log p(x_j | z) of every cell of x (1, *X), (N, cells); of missing ones it means nothing."""
    assert row.mask is not None
    seen, flat = row.mask.flatten(1), x.flatten(1)
    found = torch.empty(d.batch_shape[0], flat.shape[1], dtype=torch.float64, device=x.device)
    for at, own in cells_of(d, x):
        fill = torch.as_tensor(own.fill, dtype=x.dtype, device=x.device)
        fill = fill.expand(own.event_shape).flatten()
        value = torch.where(seen[:, at], flat[:, at], fill).view(1, *own.event_shape)
        found[:, at] = own.cell_log_prob(value).flatten(1).double()
    return found


def _drawn(model: Any, without: Rows, z: Tensor, cells: Tensor) -> tuple[Tensor, Tensor | None]:
    """Draws of the cells by particles (draws, C, *Z), (draws, C), of amounts above 0.

    Beside them P(X > 0) of these, as `of_draws` takes it.
    """
    d = model.likelihood((z,), without.context)
    drawn = d.sample()
    whole = drawn.flatten(2).clone()
    share = torch.full(z.shape[:2], torch.nan, dtype=torch.float64, device=z.device)
    for at, own in cells_of(d, without.x):
        split = amounts(own)
        if split is not None:
            whole[..., at] = split[1].sample().flatten(2).to(whole.dtype)
            here, place = (cells[:, None] == at).nonzero(as_tuple=True)
            share[:, here] = split[0].double().exp().flatten(2)[:, here, place]
    whole = inside(model, whole.view(drawn.shape), without.x.dtype).flatten(2)
    own = whole[:, torch.arange(len(cells), device=cells.device), cells]
    return own, None if bool(share.isnan().all()) else share


def _mixed(
    decoded: list[Any], row: Rows, cells: Tensor, values: Tensor, log_shares: Tensor
) -> Tensor:
    """`log sum_k v_jk p(x_j | z_k)` of values (V, C) of the cells, by log_shares (C, N)."""
    assert row.mask is not None
    mask, found = row.mask.flatten(1).clone(), []
    mask[:, cells] = True
    whole = Rows(row.x, mask.view(row.x.shape), row.context)
    for value in values:
        x = row.x.flatten(1).to(torch.promote_types(row.x.dtype, value.dtype)).clone()
        x[:, cells] = value.to(x.dtype)
        terms = torch.cat([_of_cells(d, whole, x.view(row.x.shape))[:, cells] for d in decoded])
        found.append((terms.T + log_shares).logsumexp(1))
    return torch.stack(found)
