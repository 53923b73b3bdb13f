r"""Imputation: what missing entries may have been, given the observed ones.

    p(x_m | x_o) = int p(x_m | z) p(z | x_o) dz  ~  sum_k v_k p(x_m | z_k),

with draws z_k and v_k their normalised importance weights. Moments are taken of this mixture in
closed form, draws by resampling it (sampling importance resampling; Rubin, "Using the SIR
algorithm to simulate posterior distributions", 1988), quantiles and modes of weighted draws, but
of probabilities in cells that have few values, such as names and grades. Where a model knows the
distribution of every cell (factor analysis, PPCA, mixtures) it is used as it is.

Rows of a table are treated in blocks of a size that their shape and K fix, the last one filled up
by repeating a row; each row has a generator of its own. Rows whose first draws are not enough go
on by themselves: their particles move (`_population`).

Equal rows are not drawn alike, as if they were one person: the first has the draws that it would
have without the others, each of these has draws of its own. All else of them is that of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._blocks import found_rows, row_keys
from latently.inference._filled import Found, Wanted
from latently.inference._mode import evaluating
from latently.inference.evidence import DataLike, as_evaluated
from latently.inference.pareto import K_HAT_LIMIT
from latently.inference.rows import Rows

__all__ = ["Imputation", "impute"]

QUANTILES = (0.05, 0.5, 0.95)
SWEEPS = 10


@dataclass(frozen=True)
class Imputation:
    """Imputations of every row; observed cells stand as they were given.

    Attributes:
        draws: (draws, n, *shape), each row's draws independent given its particles; equal rows
            have particles of their own.
        mean: E[x_m | x_o], (n, *shape).
        std: standard deviation of each cell given x_o, (n, *shape); 0 where observed.
        quantiles: of each cell given x_o, (len(levels), n, *shape).
        levels: their probabilities.
        mode: the likeliest value of each counted cell, (n, *shape), what to fill in where numbers
            stand for names; beside counted columns continuous ones have their median. None where
            no column is counted.
        mask: True where observed, (n, *shape).
        ess: effective number of particles of each row, (n,), `samples` where nothing is missing;
            None where the model is exact.
        k_hat: Pareto shape of each row's largest weights, (n,), 0 where nothing is missing, NaN
            where the particles are too few to tell; None where the model is exact.
        samples: particles per row and sweep; 0 where the model is exact.
        protocol: the data's name.
        seed: seed of the draws.
    """

    draws: Tensor
    mean: Tensor
    std: Tensor
    quantiles: Tensor
    levels: tuple[float, ...]
    mode: Tensor | None
    mask: Tensor
    ess: Tensor | None
    k_hat: Tensor | None
    samples: int
    protocol: str
    seed: int

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def missing(self) -> int:
        """How many cells were filled."""
        return int((~self.mask).sum())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before trusting the imputations."""
        found, n = [], len(self)
        heavy = 0 if self.k_hat is None else int((self.k_hat > K_HAT_LIMIT).sum())
        if heavy:
            found.append(
                f"heavy importance weights (k-hat > {K_HAT_LIMIT}) in {heavy} of {n} rows: the "
                "spread is understated there; raise --samples or --sweeps"
            )
        if self.ess is None:
            return tuple(found)
        few = int((self.ess < len(self.draws)).sum())
        if few:
            found.append(
                f"fewer effective particles than draws in {few} of {n} rows (median ESS "
                f"{float(self.ess.median()):.0f}): draws there share latents; raise --samples or "
                "--sweeps"
            )
        return tuple(found)


def impute(
    model: Any,
    data: DataLike,
    *,
    draws: int = 10,
    samples: int = 1000,
    sweeps: int = SWEEPS,
    quantiles: Sequence[float] = QUANTILES,
    cells: Tensor | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Imputation:
    """Draws, means, deviations and quantiles of the missing cells of a data set.

    Args:
        model: any model with a density.
        data: rows with their mask and context.
        draws: imputations per row; 0: none, where means, quantiles and modes are enough.
        samples: K, particles per row and sweep; exact models need none.
        sweeps: most moves of the population, for rows with few effective particles.
        quantiles: probabilities between 0 and 1.
        cells: those whose quantiles and modes matter, (*shape); None: all. Where others would
            need draws, their mean stands in, which is faster.
        seed: a row's draws depend on it, the row and how many equal rows stand above it.
        progress: called with (rows done, rows).

    Raises:
        UserError: no density, options out of range, rows that are none of the model's, or one
            whose known cells have no finite density under it.
    """
    check_options(model, draws, samples, sweeps, quantiles, least=0)
    if cells is not None:
        cells = torch.as_tensor(cells)
        if cells.dtype != torch.bool or cells.shape != tuple(model.shape):
            raise UserError(
                f"cells: {cells.dtype} of shape {tuple(cells.shape)} must be bool of shape "
                f"{tuple(model.shape)}, one for each cell of a row"
            )
    data = as_evaluated(model, data)
    mask = torch.ones_like(data.x, dtype=torch.bool) if data.mask is None else data.mask
    kept = torch.where(mask, data.x, 0.0)
    counted = _counted(model)
    levels = tuple(float(level) for level in quantiles)
    middle = () if counted is None else (0.5,)  # the mode of cells that are not counted
    wanted = Wanted(draws, (*levels, *middle), counted is not None, cells)
    filled, n = _Filled(kept, wanted, samples), len(kept)
    rows, lacking = Rows(kept, mask, data.context), _lacking(mask)
    keys = row_keys(rows, lacking, seed)
    how: dict[str, Any] = {"samples": samples, "sweeps": sweeps, "names": _names(data)}
    with evaluating(model):
        found = found_rows(model, rows, lacking, keys, wanted, **how)
        done = n - len(lacking)
        for which, block in found:
            filled.put(which, block, mask[which])
            done += len(which)
            if progress:
                progress(done, n)
    filled.share(lacking, keys)
    if progress:
        progress(n, n)
    exact = model.density == "exact"
    mode = None
    if counted is not None:
        mode = torch.where(counted, filled.mode, filled.quantiles[-1])
    return Imputation(
        filled.draws,
        filled.mean,
        filled.std,
        filled.quantiles[: len(levels)],
        tuple(quantiles),
        mode,
        mask,
        None if exact else filled.ess,
        None if exact else filled.k_hat,
        0 if exact else samples,
        data.protocol,
        seed,
    )


def imputed_rows(
    model: Any,
    x: Tensor,
    mask: Tensor,
    context: Tensor | None,
    draws: int,
    samples: int,
    sweeps: int,
    *,
    seed: int | None,
) -> Iterator[tuple[Tensor, Found]]:
    """Draws (draws, B, *shape) of the rows (n, *shape) that lack something, with their numbers.

    Missing cells of x hold 0. With a seed the draws of a row depend on the row and on how many
    equal ones stand above it, without one on the global generator.

    Raises:
        UserError: a model that cannot leave cells out.
    """
    wanted, rows, lacking = Wanted(draws, None, False), Rows(x, mask, context), _lacking(mask)
    keys = row_keys(rows, lacking, seed) if len(lacking) else []
    return found_rows(model, rows, lacking, keys, wanted, samples=samples, sweeps=sweeps)


def _names(data: Any) -> Sequence[str] | None:
    """Those of a table's columns."""
    return None if data.table is None else data.table.names


def _lacking(mask: Tensor) -> Tensor:
    """Numbers of the rows that lack something."""
    return (~mask.flatten(1).all(1)).nonzero()[:, 0]


class _Filled:
    """The arrays of an imputation, filled block by block."""

    def __init__(self, kept: Tensor, wanted: Wanted, samples: int) -> None:
        self.draws = kept.repeat(wanted.draws, *(1,) * kept.dim())
        self.mean, self.mode, self.std = kept.clone(), kept.clone(), torch.zeros_like(kept)
        self.quantiles = kept.repeat(len(wanted.levels or ()), *(1,) * kept.dim())
        self.ess = torch.full((len(kept),), float(samples), dtype=torch.float64)
        self.k_hat = torch.zeros(len(kept), dtype=torch.float64)

    def put(self, i: Tensor, found: Found, mask: Tensor) -> None:
        """Fills rows i where the mask is False."""
        self.draws[:, i] = torch.where(mask, self.draws[:, i], found.draws)
        self.mean[i] = torch.where(mask, self.mean[i], found.mean)
        self.std[i] = torch.where(mask, 0.0, found.std)
        self.quantiles[:, i] = torch.where(mask, self.quantiles[:, i], found.quantiles)
        if len(found.mode):
            self.mode[i] = torch.where(mask, self.mode[i], found.mode)
        self.ess[i.cpu()], self.k_hat[i.cpu()] = found.ess, found.k_hat

    def share(self, rows: Tensor, keys: Sequence[int]) -> None:
        """Gives rows of equal keys what the first of them has, their draws apart."""
        first: dict[int, int] = {}
        numbers = rows.tolist()
        source = [first.setdefault(key, i) for key, i in zip(keys, numbers, strict=True)]
        pairs = [(i, j) for i, j in zip(numbers, source, strict=True) if i != j]
        if not pairs:
            return
        i, j = torch.tensor(pairs, device=rows.device).T
        for part in (self.mean, self.std, self.mode):
            part[i] = part[j]
        self.quantiles[:, i] = self.quantiles[:, j]
        for part in (self.ess, self.k_hat):
            part[i.cpu()] = part[j.cpu()]


def _counted(model: Any) -> Tensor | None:
    """Which cells have a likeliest value, (*shape) or (); None: none of them."""
    if model.discrete:
        return torch.ones((), dtype=torch.bool, device=model.device)
    found = getattr(model, "counted", None)
    return found if found is not None and bool(found.any()) else None


def check_options(
    model: Any,
    draws: int,
    samples: int,
    sweeps: int,
    quantiles: Sequence[float],
    *,
    draws_name: str = "draws",
    least: int = 1,
) -> None:
    """Refuses what no imputation can be made with, fewer draws than `least` among it.

    Raises:
        UserError: no density, or numbers out of range.
    """
    if model.density is None:
        raise UserError(f"imputation draws missing cells given the others: {model.no_density}")
    for name, value, low in ((draws_name, draws, least), ("samples", samples, 1)):
        if not _is_count(value, low):
            raise UserError(f"{name}={value!r} must be a whole number of at least {low}")
    if not _is_count(sweeps, 0):
        raise UserError(f"sweeps={sweeps!r} must be a whole number of at least 0")
    if not isinstance(quantiles, Sequence) or isinstance(quantiles, str):
        raise UserError(f"quantiles={quantiles!r} must be numbers, such as (0.05, 0.95)")
    for level in quantiles:
        if not isinstance(level, int | float) or not 0 < level < 1:
            raise UserError(f"quantiles: {level!r} must lie between 0 and 1, both excluded")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
