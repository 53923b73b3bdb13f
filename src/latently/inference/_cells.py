r"""log p(x_j | the other observed cells) for many pairs of a row and a cell.

    log p(x_j | x_o) = log sum_k v_k p(x_j | x_o, z_k),    z_k ~ q(z | x_o),

where o lacks j: the cell is hidden before z is proposed. Draws of the row with all of its cells
would have followed a strange x_j. Source of the weights v: `_population`.

Pairs whose weights are heavy (k-hat) are treated again with more draws, and where these are heavy,
too, with draws that move: those of all such cells of a row together (`_together`), and one by
one, as in imputation, where that does not do. Rows of many cells begin with that. k-hat itself is
found from few weights and is too large by chance in some pairs, so that the worst of a row's cells
would otherwise tell of chance as much as of the model. Pairs of one column stand together, so that
of most blocks the density of few columns is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError, called
from latently.inference._blocks import blocks, blocks_of, exact_rows, row_keys
from latently.inference._by_row import Inseparable, RowNoise
from latently.inference._filled import cells_of, weighted_index
from latently.inference._population import (
    Population,
    conditioned,
    decoded_particles,
    first_particles,
    impossible,
    inside,
    moved_particles,
    parts,
    shapes,
    shares,
)
from latently.inference._together import Scored, can_move_together, moved_together
from latently.inference._usual import amounts, asked_beside, of_amounts, of_draws
from latently.inference.pareto import K_HAT_LIMIT
from latently.inference.rows import Rows

__all__ = ["Scored", "check_cells", "left_out_rows", "scored_pairs"]

_VALUES = 2**18  # of rows that are held once for each of their cells
_MORE = 4  # times K, for pairs whose weights are heavy
_MOVED = 8  # times K, for those whose weights are heavy still
_SWEEPS = 3  # most moves of these draws
_TURNS = 8  # and of those of a row's cells together
_LEAST = 1000  # draws of these: all cells share them
_WIDE = 24  # cells of a row, from which on they move together at once: that is faster, too
_MANY = 8  # heavy cells of a row, from which on they move without more draws before
_GROUP = 128  # cells of a row that move together, at most


def check_cells(model: Any, rows: Rows) -> None:
    """Refuses models whose cells cannot be told one by one.

    Raises:
        UserError: no density, no way to leave cells out, or a likelihood without log p of cells.
    """
    if model.density is None:
        raise UserError(f"log p of one cell given the others: {model.no_density}")
    name = type(model).__name__
    if not model.holes:
        raise UserError(
            f"{name} cannot leave cells out, so that p(x_j | the others) is unknown; fit another "
            "model, such as a mixture, fa or table"
        )
    if getattr(model, "evidence_of", "x") != "x":
        raise UserError(
            f"{name} counts which cells are missing, so that hiding one more changes what is "
            "known of the others; fit a model without missingness"
        )
    one = rows.part(slice(0, 1))
    with torch.no_grad(), RowNoise([0], one.x.device).of(0):
        p = model.infer(one.x, 1, one.mask, one.context)
        d = model.likelihood(p.z, one.context)
    if not hasattr(d, "given") or type(d).log_prob is torch.distributions.Distribution.log_prob:
        raise UserError(
            f"{called(d)} has no log p of its cells; use a likelihood that factorizes, such as "
            "Normal or Mixed"
        )


def scored_pairs(
    model: Any,
    rows: Rows,
    pairs: Tensor,
    values: Tensor,
    *,
    samples: int,
    draws: int,
    seed: int,
) -> Iterator[tuple[Tensor, Scored]]:
    """log p of values in cells given the others, in blocks, by the numbers of the pairs.

    Args:
        model: with a density.
        rows: (n, *X); missing cells hold 0.
        pairs: row and flat cell of each, (P, 2); the cell is hidden if it is observed.
        values: what to put there, (V, P).
        samples: K; four times as many where their weights are heavy, and eight times as many,
            which move, where they are so still.
        draws: to tell what is usual by; 0: `usual` is 0.
        seed: what is found of a pair depends on it, the row and the cells asked for of the row.
    """
    together = len(pairs) > 0 and can_move_together(model, rows.part(slice(0, 1)))
    how: dict[str, Any] = {
        "samples": samples,
        "draws": draws,
        "moved": max(_MOVED * samples, _LEAST),
        "sweeps": _TURNS,
    }
    for groups in _packed(pairs, max(1, _VALUES // max(rows.x[0].numel(), 1))):
        some = torch.cat(groups)
        without = _hidden(rows, pairs[some])
        left = torch.arange(len(some), device=pairs.device)
        keys = row_keys(without, left, seed)
        for count, least in (0, _WIDE), (samples, _MANY), (_MORE * samples, 1):
            if count:
                heavy, own = [left[:0]], [keys[i] for i in left.tolist()]
                lone, asked = without.part(left), (pairs[some[left], 1], values[:, some[left]])
                for which, found in _in_blocks(model, lone, own, *asked, count, draws):
                    bad = found.k_hat > K_HAT_LIMIT
                    heavy.append(left[which[bad]])
                    if not bool(bad.all()):
                        yield some[left[which[~bad]]], found.part(~bad)
                left = torch.cat(heavy).sort().values
            for alike in _same_group(groups, left, least) if together else ():
                pair, key = some[alike], keys[int(alike[0])]
                row, noise = rows.part(pairs[pair[:1], 0]), RowNoise([key], pairs.device)
                asked = pairs[pair, 1], values[:, pair]
                with noise.of(0):
                    moves = [*moved_together(model, row, without.part(alike), *asked, **how)]
                for which, found in moves:
                    left = left[~torch.isin(left, alike[which])]
                    yield pair[which], found
        for i in left.tolist():
            row, noise = without.part(slice(i, i + 1)), RowNoise([keys[i]], pairs.device)
            pair, count = some[i : i + 1], _MOVED * samples
            asked = pairs[pair, 1], values[:, pair]
            yield pair, _scored(model, row, *asked, noise, count, draws, _SWEEPS)


def _packed(pairs: Tensor, most: int) -> Iterator[list[Tensor]]:
    """Numbers of pairs in groups of one row each, so many groups as hold `most` pairs, or one."""
    if not len(pairs):
        return
    every = torch.arange(len(pairs), device=pairs.device)
    counts = torch.unique_consecutive(pairs[:, 0], return_counts=True)[1].tolist()
    packed: list[Tensor] = []
    for group in (part for own in every.split(counts) for part in own.split(_GROUP)):
        if packed and sum(map(len, packed)) + len(group) > most:
            yield packed
            packed = []
        packed.append(group)
    yield packed


def _same_group(groups: Sequence[Tensor], left: Tensor, least: int) -> Iterator[Tensor]:
    """Those of some places in the joined groups that are of one group, if they are so many."""
    sizes = torch.tensor([len(group) for group in groups], device=left.device)
    group = torch.arange(len(groups), device=left.device).repeat_interleave(sizes)[left]
    for number in group.unique().tolist():
        alike = left[group == number]
        if len(alike) >= least:
            yield alike


def _in_blocks(
    model: Any,
    rows: Rows,
    keys: Sequence[int],
    cells: Tensor,
    values: Tensor,
    samples: int,
    draws: int,
) -> Iterator[tuple[Tensor, Scored]]:
    """Rows (P, *X) with their hidden cells (P,) and values (V, P), by their numbers."""
    order = cells.argsort(stable=True)
    ordered = [keys[i] for i in order.tolist()]
    for numbers, places in blocks(model, rows.part(order), ordered, samples):
        which = order[numbers]
        noise = RowNoise([ordered[i] for i in numbers], cells.device)
        found = _scored(
            model, rows.part(which), cells[which], values[:, which], noise, samples, draws
        )
        yield which[places], found.part(torch.tensor(places, device=cells.device))


def _hidden(rows: Rows, pairs: Tensor) -> Rows:
    """Each pair's row without its cell, (P, *X)."""
    found = rows.part(pairs[:, 0])
    assert found.mask is not None
    at = torch.arange(len(pairs), device=pairs.device), pairs[:, 1]
    x, mask = found.x.flatten(1).clone(), found.mask.flatten(1).clone()
    x[at], mask[at] = 0.0, False
    return Rows(x.view(found.x.shape), mask.view(found.x.shape), found.context)


@torch.no_grad()
def _scored(
    model: Any,
    rows: Rows,
    cells: Tensor,
    values: Tensor,
    noise: RowNoise,
    samples: int,
    draws: int,
    sweeps: int = 0,
) -> Scored:
    """Values (V, B) of the cells (B,) of rows (B, *X), by flat number, each hidden in its row.

    The draws of one row may move, by so many sweeps.
    """
    if model.density == "exact":
        known = model.predictive(*rows)
        if known is not None and hasattr(known, "cell_log_prob"):
            return _exact(known, rows, cells, values, noise, draws)
    likelihood = None
    if len(rows.x) == 1:
        with noise.of(0):
            particles = first_particles(model, rows, samples)
            particles = moved_particles(model, rows, particles, sweeps)
    else:
        particles, likelihood = decoded_particles(model, rows, samples, noise)
    unknown = impossible(particles.log_w)
    if bool(unknown.any()):
        particles, likelihood = particles.instead(unknown), None
    log_shares = shares(particles.log_w)
    asked, share = values, None
    if draws:
        drawn, share = _drawn(model, rows, particles, cells, noise, draws)
        asked = asked_beside(values, drawn, share)
    found = _mixed(model, rows, particles, log_shares.T, cells, asked, likelihood)
    usual = found.new_zeros(found.shape[1])
    if draws:
        usual = of_draws(found[len(values) :], values[0], share)
    return Scored(found[: len(values)], usual, shapes(log_shares)).forgotten(unknown)


def _exact(
    known: Any, rows: Rows, cells: Tensor, values: Tensor, noise: RowNoise, draws: int
) -> Scored:
    at = torch.arange(len(cells), device=cells.device), cells

    def log_prob(values: Tensor) -> Tensor:
        whole = _put(rows.x, cells, values)
        return torch.stack([known.cell_log_prob(x).flatten(1)[at] for x in whole]).double()

    usual = torch.zeros(len(cells), dtype=torch.float64, device=cells.device)
    if draws:
        (truth,) = _put(rows.x, cells, values[:1])
        usual = _usual(known, truth, noise, draws).flatten(1)[at]
    return Scored(log_prob(values), usual, torch.zeros_like(usual))


def _usual(known: Any, x: Tensor, noise: RowNoise, draws: int) -> Tensor:
    """Usual log p of every cell of x, (B, *X): minus its entropy, or over draws."""
    try:
        entropy: Tensor = known.base.entropy()
    except (AttributeError, NotImplementedError):
        found = _mean_log_p(known, noise, draws).flatten(1)
        for at, own in cells_of(known, x):
            split = amounts(own)
            if split is not None:
                mean = _mean_log_p(split[1], noise, draws)
                found[:, at] = of_amounts(split[0].double(), mean, _at(x, at, own)).flatten(1)
        return found.view(x.shape)
    return -entropy.double()


def _mean_log_p(known: Any, noise: RowNoise, draws: int) -> Tensor:
    """The mean of log p of every cell over draws of it."""
    drawn = _of_known(known, noise, draws)
    return torch.stack([known.cell_log_prob(x) for x in drawn]).double().mean(0)


def left_out_rows(
    model: Any, rows: Rows, *, draws: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]] | None:
    """log p(x_j | the other observed cells) of all cells at once, in blocks; None: no model so.

    Yields numbers of rows, log p of their cells (B, *X), and its mean over what could be there.
    """
    if model.density != "exact" or model.left_out(*rows.part(slice(0, 1))) is None:
        return None
    return _left_out(model, rows, draws, seed)


@torch.no_grad()
def _left_out(
    model: Any, rows: Rows, draws: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    keys = row_keys(rows, torch.arange(len(rows.x), device=rows.x.device), seed)
    for numbers, places in blocks_of(keys, exact_rows(rows.x)):
        which = torch.tensor(numbers, device=rows.x.device)
        some, noise = rows.part(which), RowNoise([keys[i] for i in numbers], rows.x.device)
        known = model.left_out(*some)
        log_p = known.cell_log_prob(some.x).double()
        yield which[places], log_p[places], _usual(known, some.x, noise, draws)[places]


def _of_known(known: Any, noise: RowNoise, draws: int) -> Tensor:
    """Draws of every cell, (draws, B, *X)."""
    try:
        return noise.copy().latents(known, draws)
    except Inseparable:  # stratified quantiles: no noise at all
        u = (torch.arange(draws, dtype=known.mean.dtype, device=known.mean.device) + 0.5) / draws
        return known.icdf(u.view(-1, *(1,) * known.mean.dim()))


def _drawn(
    model: Any, rows: Rows, particles: Population, cells: Tensor, noise: RowNoise, draws: int
) -> tuple[Tensor, Tensor | None]:
    """Draws of the cells, (draws, B), of amounts above 0; P(X > 0) of these, as `of_draws`."""
    log_shares = shares(particles.log_w)
    u = noise.rand(draws, torch.float64, rows.x.device)
    chosen = conditioned(model, particles.picked(weighted_index(log_shares.exp(), u)), rows)
    found = rows.x.new_zeros(draws, len(cells))
    share = torch.full_like(found, torch.nan, dtype=torch.float64)
    for at, own in _asked(chosen, cells, rows.x):
        here, place = _places(at, cells)
        split = amounts(own)
        if split is not None:
            log_share, own = split
            share[:, here] = log_share.double().exp().flatten(2)[:, here, place]
        try:
            drawn = noise.copy().sample(own)  # whatever else is drawn for others of the block
        except Inseparable:
            if len(rows.x) > 1:
                raise
            with noise.copy().of(0):
                drawn = own.sample()
        drawn = drawn.flatten(2)[:, here, place]
        found = found.to(torch.promote_types(found.dtype, drawn.dtype))
        found[:, here] = drawn.to(found.dtype)
    whole = inside(model, torch.stack([*_put(rows.x, cells, found)]), rows.x.dtype).flatten(2)
    own = whole[:, torch.arange(len(cells), device=cells.device), cells]
    return own, None if bool(share.isnan().all()) else share


def _mixed(
    model: Any,
    rows: Rows,
    particles: Population,
    log_share: Tensor,
    cells: Tensor,
    asked: Tensor,
    likelihood: Any = None,
) -> Tensor:
    """`log sum_k v_k p(x_j | x_o, z_k)` of values (V, B); p(x|z) of all particles, if known."""
    x, mask, context = rows
    assert mask is not None
    only = torch.zeros_like(x, dtype=torch.bool)
    only.flatten(1)[torch.arange(len(cells), device=cells.device), cells] = True
    whole = _put(x, cells, asked)
    terms: list[list[Tensor]] = [[] for _ in asked]
    for part in parts(len(log_share), x):
        d = likelihood
        if d is None:
            d = model.likelihood(tuple(z[part] for z in particles.z), context)
        if d.given(x, mask) is d:  # other cells say nothing of this one
            some = [(at, own, _at(only, at, own)) for at, own in _asked(d, cells, x)]
            for v, value in enumerate(whole):
                log_p = [own.log_prob(_at(value, at, own), seen) for at, own, seen in some]
                terms[v].append(sum(t.double() for t in log_p) + log_share[part])
            continue
        under = d.log_prob(x, mask).double()
        for v, value in enumerate(whole):
            log_p = d.log_prob(value, mask | only).double() - under
            terms[v].append(log_p + log_share[part])
    return torch.stack([torch.cat(own).T.contiguous().logsumexp(1) for own in terms])


def _asked(d: Any, cells: Tensor, x: Tensor) -> list[tuple[Tensor, Any]]:
    """The parts of d that some of the cells belong to, with the places of theirs in a flat row."""
    parts = cells_of(d, x)
    return [(at, own) for at, own in parts if bool(torch.isin(cells, at).any())]


def _places(at: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the cells (B,) are among those at some places, and the number there of each."""
    here, place = (cells[:, None] == at).nonzero(as_tuple=True)
    return here, place


def _at(rows: Tensor, at: Tensor, own: Any) -> Tensor:
    """The part of rows (B, *X) that a part of their distribution speaks of."""
    return rows.flatten(1)[:, at].view(len(rows), *own.event_shape)


def _put(x: Tensor, cells: Tensor, values: Tensor) -> Sequence[Tensor]:
    """The rows with each value in its cell, V of (B, *X)."""
    found = []
    for value in values:
        row = x.flatten(1).to(torch.promote_types(x.dtype, value.dtype)).clone()
        row[torch.arange(len(cells), device=cells.device), cells] = value.to(row.dtype)
        found.append(row.view(x.shape))
    return found
