r"""Attribution: which cells make a row strange.

    s_j = -log p(x_j | the row's other observed cells),    e_j = s_j - H[x_j | the others]

s_j is the surprise of a cell, H the average surprise of draws from the same distribution, its
entropy; e_j, the excess, says by how many nats more than usual the model is surprised. Densities
have units: halve the scale of a column, and log 2 is taken off every s_j of it, so that s_j ranks
rows within a column, never columns within a row. The excess has no unit and is on one scale for
numbers, counts and names: it is 0 for what is as likely as what the model itself draws, of a
normal column `(r^2 - 1) / 2` at r standard deviations, 4 nats at 3. Rank by it. Of amounts
with zeros (`Hurdle`), which have a probability at 0 and a density above, H is that of the branch,
and above 0 of the density besides: the excess says how surprising it is that there is something,
and how surprising the amount is, given that there is one.

The s_j do not sum to -log p(x): the chain rule conditions each cell on those before it, here each
has all others. Two cells that contradict each other are both strange, and each is hidden in turn,
so that the one explains the other; only a third cell tells which is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._blocks import is_exact
from latently.inference._cells import check_cells, left_out_rows, scored_pairs
from latently.inference._mode import evaluating
from latently.inference.evidence import DataLike, as_evaluated
from latently.inference.pareto import K_HAT_LIMIT
from latently.inference.rows import Rows

__all__ = ["Attribution", "attribution"]


@dataclass(frozen=True)
class Attribution:
    """How strange each observed cell is, given the others of its row.

    Attributes:
        values: -log p(x_j | the others), (n, *shape), in nats; 0 where missing. Of counted cells
            -log P, of others minus a log-density, in data units. NaN where the others have no
            finite density, for one of them is too far out: nothing is known of this cell.
        usual: what -log p(x_j | the others) is on average, its entropy, (n, *shape), in nats;
            0 where missing, NaN as above.
        mask: True where observed, (n, *shape).
        kind: "exact" where the model knows its conditionals, else "estimate", of K draws.
        k_hat: the worst Pareto shape of the weights of a row's cells, (n,); 0 where exact.
        samples: K, eight times as many or more for cells whose weights were heavy; 0 where exact.
        protocol: the data's name.
        seed: seed of the draws.
    """

    values: Tensor
    usual: Tensor
    mask: Tensor
    kind: Literal["exact", "estimate"]
    k_hat: Tensor
    samples: int
    protocol: str
    seed: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def excess(self) -> Tensor:
        """`values - usual`, (n, *shape): nats above the usual; what columns are ranked by."""
        return self.values - self.usual

    def ranked(self, row: int, most: int = 3) -> tuple[tuple[int, ...], ...]:
        """The strangest observed cells of a row by excess, at most so many, worst first.

        Each is a place in the row: (column,) of a table. Cells that are not known are left out.
        """
        excess = self.excess[row]
        known = self.mask[row] & ~excess.isnan()
        order = excess.masked_fill(~known, -torch.inf).flatten().argsort(descending=True)
        order = order[: min(most, int(known.sum()))]
        places = torch.unravel_index(order, self.mask.shape[1:])
        return tuple(zip(*(axis.tolist() for axis in places), strict=True))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before trusting the numbers."""
        found, n = [], len(self)
        heavy = int((self.k_hat > K_HAT_LIMIT).sum())
        if heavy:
            found.append(
                f"heavy importance weights (k-hat > {K_HAT_LIMIT}) in {heavy} of {n} rows: "
                "surprises are overstated there; raise --samples"
            )
        dark = self.values.isnan().flatten(1).any(1).nonzero()[:, 0]
        if len(dark):
            found.append(
                f"{len(dark)} of {n} rows, the first is row {int(dark[0])}, hold a cell so far "
                "out that the model gives it no finite density: nothing is known of the others"
            )
        return tuple(found)


def attribution(
    model: Any,
    data: DataLike,
    *,
    samples: int = 200,
    draws: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """How strange every observed cell is, given the other observed cells of its row.

    For every cell the row is inferred anew without it, so the work is that of rows times columns
    rows; models of normals and mixtures of them tell all cells of a row at once (`left_out`).

    Args:
        model: any model with a density that can leave cells out.
        data: rows with their mask and context.
        samples: K, draws of z for every cell; where their weights are heavy four times as many,
            where they are so still at least eight times, which move. Exact models need none.
        draws: of each cell, to tell what is usual. Their error is about 0.7 / sqrt(draws) nats.
        seed: what is found of a row depends on it and the row alone.
        progress: called with (cells done, cells).

    Raises:
        UserError: no density, cells that cannot be left out, options out of range, or rows that
            are none of the model's.
    """
    for name, value in (("samples", samples), ("draws", draws)):
        if not isinstance(value, Integral) or value < 1:
            raise UserError(f"{name}={value!r} must be a whole number of at least 1")
    data = as_evaluated(model, data)
    mask = torch.ones_like(data.x, dtype=torch.bool) if data.mask is None else data.mask
    rows = Rows(torch.where(mask, data.x, 0.0), mask, data.context)
    check_cells(model, rows)
    values = torch.zeros(mask.shape, dtype=torch.float64)
    usual, k_hat = values.clone(), torch.zeros(len(mask), dtype=torch.float64)
    with evaluating(model):
        known = left_out_rows(model, rows, draws=draws, seed=seed)
        pairs, done = mask.flatten(1).nonzero(), 0
        for numbers, log_p, mean in known or ():
            values[numbers.cpu()], usual[numbers.cpu()] = -log_p.cpu(), -mean.cpu()
            done += int(mask[numbers].sum())
            if progress:
                progress(done, len(pairs))
        if known is not None:
            seen = mask.cpu()
            values, usual, pairs = values.where(seen, 0), usual.where(seen, 0), pairs[:0]
        truth = rows.x.flatten(1)[pairs[:, 0], pairs[:, 1]][None]
        how = {"samples": samples, "draws": draws, "seed": seed}
        for which, found in scored_pairs(model, rows, pairs, truth, **how):
            i, j = pairs[which].cpu().T
            values.view(len(mask), -1)[i, j] = -found.log_prob[0].cpu()
            usual.view(len(mask), -1)[i, j] = -found.usual.cpu()
            worst = torch.where(found.k_hat.isnan(), torch.inf, found.k_hat).cpu()
            k_hat.scatter_reduce_(0, i, worst, "amax")
            done += len(which)
            if progress:
                progress(done, len(pairs))
    exact = is_exact(model, rows)
    k_hat = torch.where(k_hat.isinf(), torch.nan, k_hat)
    kind: Literal["exact", "estimate"] = "exact" if exact else "estimate"
    count = 0 if exact else samples
    return Attribution(values, usual, mask.cpu(), kind, k_hat, count, data.protocol, seed)
