"""Rows with holes in blocks, and what is found of each, whatever its company.

A matrix product may round row 3 of its rows otherwise than row 4, and one of 5 rows otherwise than
one of 6. So blocks of one run are of one size, and a row has its place in a block: its seed modulo
that size. What stands in the other places then changes no bit of it. Models that factorise a
matrix for each pattern of missing cells get rows of one pattern in a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._by_row import Inseparable, RowNoise
from latently.inference._filled import Found, Wanted, found_of_block, found_of_row
from latently.inference._population import (
    NO_DENSITY,
    Population,
    block_rows,
    conditioned,
    decoded_particles,
    first_particles,
    impossible,
    inside,
    moved_particles,
    narrowed,
    settled,
)
from latently.inference.noise import derive, row_seed
from latently.inference.rows import Rows

__all__ = ["blocks", "blocks_of", "found_rows", "is_exact", "row_keys", "told_apart"]

_EXACT_ROWS = 64  # rows of a block whose distributions are known
_STATES = 256  # of latents, at most, that are drawn from one by one
_PATTERN_ROWS = 16  # the same, of rows that lack the same cells
_EXACT_CELLS = 2**15  # and their cells
_WIDEST = 256  # rows with more cells have matrices of a size of their own


def found_rows(
    model: Any,
    every: Rows,
    lacking: Tensor,
    keys: Sequence[int],
    wanted: Wanted,
    *,
    samples: int,
    sweeps: int,
    names: Sequence[str] | None = None,
) -> Iterator[tuple[Tensor, Found]]:
    """Rows (n, *X) that lack something, in blocks, by their numbers.

    Args:
        model: with a density.
        every: the rows; missing cells hold 0.
        lacking: numbers of those that lack something.
        keys: a seed for each of them; equal ones are told apart.
        wanted: what is to be found.
        samples: particles per row and sweep.
        sweeps: most moves of them.
        names: of the columns of a table, for messages.

    Raises:
        UserError: a model that cannot leave cells out, or a row of no finite density.
    """
    if not model.holes:
        model.check(every.x, every.mask)
    if not len(lacking):
        return
    exact, keys = is_exact(model, every), told_apart(keys)
    for numbers, places in blocks(model, every.part(lacking), keys, samples):
        which = lacking[numbers]
        rows, noise = every.part(which), RowNoise([keys[i] for i in numbers], every.x.device)
        with torch.no_grad():
            if exact:
                found = _exact(model, rows, wanted, noise, places)
            else:
                try:
                    found = _weighted(model, rows, wanted, noise, samples, sweeps, places)
                except _NoDensity as error:
                    raise _refused(every, int(which[error.place]), names) from None
        yield which[places], found.rows(places)


def blocks(
    model: Any, rows: Rows, keys: Sequence[int], samples: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Blocks of rows (n, *X) with seeds, as `blocks_of` gives them, as they suit a model."""
    assert rows.mask is not None
    if not keys:
        return
    one = rows.part(slice(0, 1))
    exact, alone = is_exact(model, rows), not separable(model, one)
    if not exact:
        yield from blocks_of(keys, 1 if alone else block_rows(rows.x, samples))
    elif not alone:
        yield from blocks_of(keys, exact_rows(rows.x))
    else:
        size = min(_PATTERN_ROWS, exact_rows(rows.x))
        _, pattern = torch.unique(rows.mask.flatten(1), dim=0, return_inverse=True)
        order, counts = pattern.argsort(stable=True), pattern.bincount().tolist()
        for members in (group.tolist() for group in order.split(counts)):
            for numbers, places in blocks_of([keys[i] for i in members], size):
                yield [members[i] for i in numbers], places


def row_keys(rows: Rows, which: Tensor, seed: int | None) -> list[int]:
    """A seed for each of some rows: of its content, or of its number where `seed` is None."""
    if seed is None:
        drawn = int(torch.randint(2**62, ()))
        return [derive(drawn, i) for i in range(len(which))]
    x, mask, context = (None if t is None else t[which].cpu() for t in rows)
    return [
        row_seed(seed, *(None if t is None else t[i : i + 1] for t in (x, mask, context)))
        for i in range(len(which))
    ]


def told_apart(keys: Sequence[int]) -> list[int]:
    """Seeds of rows that equal rows do not share: the first keeps it, others derive theirs.

    >>> told_apart([5, 7, 5])[:2], told_apart([5, 7, 5])[2] in (5, 7)
    ([5, 7], False)
    """
    count: Counter[int] = Counter()
    found = []
    for key in keys:
        found.append(derive(key, "equal", count[key]) if count[key] else key)
        count[key] += 1
    return found


def blocks_of(keys: Sequence[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Blocks of things with seeds: the number of the thing at each place, and which places count.

    >>> list(blocks_of([4, 7, 6, 9], 2))
    [([0, 1], [0, 1]), ([2, 3], [0, 1])]
    >>> list(blocks_of([4, 6], 2))
    [([0, 0], [0]), ([1, 1], [0])]
    """
    queues: list[list[int]] = [[] for _ in range(size)]
    for i, key in enumerate(keys):
        queues[key % size].append(i)
    for turn in range(max(map(len, queues))):
        filled = [place for place in range(size) if turn < len(queues[place])]
        spare = queues[filled[0]][turn]
        yield [queues[j][turn] if turn < len(queues[j]) else spare for j in range(size)], filled


def _weighted(
    model: Any,
    rows: Rows,
    wanted: Wanted,
    noise: RowNoise,
    samples: int,
    sweeps: int,
    places: Sequence[int],
) -> Found:
    """Of a block of rows, of which those at some places count."""
    if len(rows.x) == 1:
        with noise.of(0):
            particles = _possible(first_particles(model, rows, samples))
            particles = moved_particles(model, rows, particles, sweeps)
            return found_of_row(model, rows, particles, wanted)
    first, likelihood = decoded_particles(model, rows, samples, noise)
    _possible(first)
    enough, after, found = settled(first.log_w).tolist(), noise.copy(), {}
    for b in places:
        if not enough[b]:
            row, own = rows.part(slice(b, b + 1)), first.of(slice(b, b + 1))
            with after.of(b):
                particles = moved_particles(model, row, own, sweeps)
                if particles is not own:
                    found[b] = found_of_row(model, row, particles, wanted)
    if any(b not in found for b in places):
        block = found_of_block(model, rows, first, wanted, noise, likelihood)
        found = {b: block.rows([b]) for b in range(len(rows.x))} | found
    some = next(iter(found.values()))
    return _joined([found.get(b, some) for b in range(len(rows.x))])


class _NoDensity(Exception):
    """A row of a block that no particle explains, by its place there."""

    def __init__(self, place: int) -> None:
        self.place = place


def _possible(particles: Population) -> Population:
    bad = impossible(particles.log_w)
    if bool(bad.any()):
        raise _NoDensity(int(bad.nonzero()[0]))
    return particles


def _refused(rows: Rows, row: int, names: Sequence[str] | None) -> UserError:
    """What is said of a row that no particle explains, with its largest cell."""
    place = torch.unravel_index(rows.x[row].abs().argmax(), rows.x.shape[1:])
    at = repr(names[int(place[0])]) if names else ", ".join(str(int(i)) for i in place)
    value = float(rows.x[row][place])
    return UserError(f"row {row} (largest is {value:.6g} in column {at}) {NO_DENSITY}")


def _exact(
    model: Any, rows: Rows, wanted: Wanted, noise: RowNoise, places: Sequence[int]
) -> Found:
    """Of a block of rows of a model that knows the distribution of every cell."""
    x = rows.x
    none, empty = torch.zeros(len(x), dtype=torch.float64), x.new_empty(0)
    draws = _exact_draws(model, rows, wanted.draws, noise, places)
    if wanted.levels is None:
        return Found(draws, empty, empty, empty, empty, none, none)
    known = _known(model, rows)
    lines = x.new_empty(0, *x.shape)
    if wanted.levels:
        levels = torch.tensor(wanted.levels, dtype=known.mean.dtype, device=x.device)
        lines = known.icdf(levels.view(-1, *(1,) * x.dim()))
    mode = known.mode if wanted.counted else empty
    mean, std = narrowed(known.mean, x.dtype), narrowed(known.variance.sqrt(), x.dtype)
    lines = narrowed(lines, x.dtype)
    return Found(draws, mean, std, lines, mode.to(x.dtype), none, none)


def _exact_draws(
    model: Any, rows: Rows, draws: int, noise: RowNoise, places: Sequence[int]
) -> Tensor:
    """(draws, B, *X): together where rows can be told apart, else one by one those that count."""
    x = rows.x
    if not draws:
        return x.new_empty(0, *x.shape)
    if len(x) > 1:
        try:
            together = noise.copy()
            particles = first_particles(model, rows, draws, together)
            d, states = model.likelihood(particles.z, rows.context), model.latent_states()
            if states is not None and states <= _STATES and not hasattr(d, "cell_log_prob"):
                return _of_states(model, rows, particles, together)
            chosen = conditioned(model, particles, rows, d)
            return inside(model, together.sample(chosen), x.dtype)
        except Inseparable:
            pass
    found = {}
    for b in places:
        row = rows.part(slice(b, b + 1))
        with noise.of(b):
            particles = first_particles(model, row, draws)
            found[b] = conditioned(model, particles, row).sample()
    some = found[places[0]]
    drawn = torch.cat([found.get(b, some) for b in range(len(x))], 1)
    return inside(model, drawn, x.dtype)


def _of_states(model: Any, rows: Rows, particles: Population, noise: RowNoise) -> Tensor:
    """A draw for every particle (K, B), state by state, each with the same noise of its row."""
    z = particles.z[0].flatten(2).flatten(0, 1)
    kinds, which = torch.unique(z, dim=0, return_inverse=True)
    which = which.view(particles.log_w.shape)
    found = rows.x.new_zeros(*which.shape, *rows.x.shape[1:])
    for k, kind in enumerate(kinds):
        state = kind.view(1, 1, *particles.z[0].shape[2:]).expand(1, len(rows.x), -1)
        all_in = Population((state,), None, particles.log_w[:1])
        drawn = noise.copy().repeated(conditioned(model, all_in, rows), len(which))[:, 0]
        here = (which == k).view(*which.shape, *(1,) * (rows.x.dim() - 1))
        found = torch.where(here, inside(model, drawn, rows.x.dtype), found)
    return found


def _known(model: Any, rows: Rows) -> Any:
    with torch.no_grad():
        return model.predictive(*rows)


def is_exact(model: Any, rows: Rows) -> bool:
    """Whether a model knows the distribution of every missing cell."""
    return model.density == "exact" and _known(model, rows.part(slice(0, 1))) is not None


def exact_rows(x: Tensor) -> int:
    """Rows of a block of a model that knows the distribution of every cell."""
    cells = max(x[0].numel(), 1)
    if cells > _WIDEST:
        return 1
    return min(_EXACT_ROWS, 2 ** (_EXACT_CELLS // cells).bit_length() // 2)


@torch.no_grad()
def separable(model: Any, row: Rows) -> bool:
    """Whether draws of this model's rows can be told apart in a block; tried on two."""
    two = row.part(torch.zeros(2, dtype=torch.long, device=row.x.device))
    noise = RowNoise([0, 0], row.x.device)
    try:
        particles = first_particles(model, two, 3, noise)
        noise.sample(conditioned(model, particles, two))
    except Inseparable:
        return False
    return len(particles.log_w) == 3  # a model that sums a latent has more


def _joined(found: Sequence[Found]) -> Found:
    """Rows that were found one by one."""
    draws, mean, std, lines, mode, ess, k_hat = zip(*found, strict=True)
    quantiles = torch.cat(lines, 1) if lines[0].dim() > 1 else lines[0]
    return Found(
        torch.cat(draws, 1),
        torch.cat(mean),
        torch.cat(std),
        quantiles,
        torch.cat(mode),
        torch.cat(ess),
        torch.cat(k_hat),
    )
