r"""Is a row of another kind than the training rows? Scores, higher is stranger, and their AUROC.

`-log p(x)` alone is no answer: a density may be higher at simple rows that never occur than at
any training row. Three repairs are here, each with a blind spot of its own: typicality, which
asks whether log p(x) is *usual*; and ratios, which divide by how likely the row is under a
background model or how far a compressor shortens it.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.evidence import DataLike, Evidence, evaluate
from latently.inference.methods.base import Method
from latently.inference.number import Number

__all__ = ["Strangeness", "auroc", "complexity", "likelihood_ratio", "strangeness", "typicality"]

_LZMA = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**16, "nice_len": 273}]
_MOST_LEVELS = 256


def _deflated(data: bytes) -> int:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)  # no header: it is the same for all rows
    return len(coder.compress(data) + coder.flush())


_COMPRESSORS: tuple[Callable[[bytes], int], ...] = (
    _deflated,
    lambda data: len(bz2.compress(data)),
    lambda data: len(lzma.compress(data, lzma.FORMAT_RAW, filters=_LZMA)),
)


@dataclass(frozen=True)
class Strangeness:
    """Scores of rows under a model, higher is stranger; all in nats, (n,).

    Attributes:
        evidence: log p(x) of the rows: exact, a bound or an estimate.
        surprise: `-log p(x)`; an upper bound where the evidence is a lower one.
        typicality: `|-log p(x) - H|`.
        likelihood_ratio: `log p_background(x) - log p(x)`; None without a background model.
        complexity_ratio: `-log p(x) - C(x)`; None where rows are no whole numbers to compress.

    The last three are differences of log-densities: estimates, unless the evidence is exact.
    """

    evidence: Evidence
    surprise: Tensor
    typicality: Tensor
    likelihood_ratio: Tensor | None
    complexity_ratio: Tensor | None

    def scores(self) -> dict[str, Tensor]:
        """The scores there are, by name."""
        names = ("surprise", "typicality", "likelihood_ratio", "complexity_ratio")
        found = {name: getattr(self, name) for name in names}
        return {name: score for name, score in found.items() if score is not None}


def strangeness(
    model: Any,
    data: DataLike,
    typical: Evidence | DataLike,
    *,
    background: Any | None = None,
    method: Method | None = None,
    seed: int = 0,
) -> Strangeness:
    """Scores every row of a data set by every score that the model and the rows allow.

    Args:
        model: a model with a density.
        data: rows to score.
        typical: rows like the training rows, held out from the fit, or their evidence: the H of
            typicality is their mean `-log p(x)`. Training rows themselves are scored too well.
        background: a model of what all rows share, such as one fitted to perturbed rows.
        method: how log p is computed; None: as `evaluate` chooses.
        seed: seed of the draws.

    Raises:
        UserError: what `evaluate` refuses.
    """

    def found(of: Any, rows: DataLike) -> Evidence:
        return evaluate(of, rows, method, seed=seed)

    usual = typical if isinstance(typical, Evidence) else found(model, typical)
    data = data.once()  # the background scores the same draws of dynamic rows
    own = found(model, data)
    other = None if background is None else found(background, data).values
    length = complexity(data.x) if _compressible(model, data) else None
    return Strangeness(
        evidence=own,
        surprise=-own.values,
        typicality=typicality(own.values, usual.values),
        likelihood_ratio=None if other is None else likelihood_ratio(own.values, other),
        complexity_ratio=None if length is None else likelihood_ratio(own.values, -length),
    )


def typicality(log_p: Tensor, typical: Tensor, *, group: int = 1) -> Tensor:
    r"""`|-1/M sum_m log p(x_m) - H|` of groups of M rows, H the mean `-log p` of typical rows.

    Draws of a distribution have `-log p` near its entropy; a row whose log p is much *higher*
    than that of any training row is strange, too. Groups are of consecutive rows; what is left
    over is dropped. Source: Nalisnick, Matsukawa, Teh, Lakshminarayanan, "Detecting
    Out-of-Distribution Inputs to Deep Generative Models Using Typicality", 2019.

    Args:
        log_p: log p(x) of the rows, (n,), in nats.
        typical: log p(x) of held-out rows of the training distribution, (m,).
        group: M, rows that are judged together because they are of one kind.

    Returns:
        (n // M,), in nats, at least 0.

    Raises:
        UserError: no typical rows, or groups of fewer than one row or more than there are.

    >>> typicality(torch.tensor([-3.0, -10.0, -6.0]), torch.tensor([-9.0, -11.0]))
    tensor([7., 0., 4.])
    """
    if not len(typical):
        raise UserError("typicality: typical has no rows; give held-out rows of the training set")
    if not isinstance(group, int) or not 1 <= group <= len(log_p):
        raise UserError(
            f"typicality: group={group!r} must be a whole number from 1 to the {len(log_p)} rows"
        )
    whole = len(log_p) // group * group
    return (log_p[:whole].view(-1, group).mean(1) - typical.mean()).abs()


def likelihood_ratio(log_p: Tensor, background: Tensor) -> Tensor:
    r"""`log p_background(x) - log p(x)`, (n,): what is common to all rows cancels.

    Sources: Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", 2019, with a model
    of perturbed rows as the background; Serra et al., "Input Complexity and Out-of-distribution
    Detection with Likelihood-based Generative Models", 2020, with `-complexity(x)`.

    Raises:
        UserError: the two are of unlike rows.
    """
    if log_p.shape != background.shape:
        raise UserError(
            f"likelihood_ratio: log_p is of shape {tuple(log_p.shape)} and background of "
            f"{tuple(background.shape)}; score the same rows under both"
        )
    return background - log_p


def complexity(x: Tensor) -> Tensor:
    r"""Compressed length C(x) of each row, (n,), in nats: an upper bound of its information.

    The shortest of deflate, bzip2 and LZMA, each of the values as they are and of their
    differences along either of the last two axes (as PNG does), plus log 9 for saying which. By
    Kraft's inequality `sum_x exp(-C(x)) <= 1`: it is minus the log-probability of a background
    model that was fitted to nothing. Source: Serra et al., "Input Complexity and
    Out-of-distribution Detection with Likelihood-based Generative Models", 2020.

    Args:
        x: whole numbers 0 .. 255, (n, *shape); rows of 0 and 1 take one bit a cell.

    Raises:
        UserError: other values, or more levels.

    >>> flat, noise = torch.zeros(1, 28, 28), torch.randint(256, (1, 28, 28))
    >>> bool(complexity(flat) < 0.05 * complexity(noise))
    True
    """
    low, high = (float(x.min()), float(x.max())) if x.numel() else (0.0, 0.0)
    if not (0 <= low and high < _MOST_LEVELS and bool((x == x.round()).all())):
        raise UserError(
            f"complexity: values from {low:g} to {high:g} are not whole numbers 0 to 255; give "
            "rows of 8 bits or fewer"
        )
    levels = 2 if high <= 1 else _MOST_LEVELS
    rows = x.cpu().numpy().astype(np.int16)
    return torch.tensor([_length(row, levels) for row in rows], dtype=torch.float64)


def auroc(inside: Tensor, outside: Tensor) -> Number:
    r"""Probability that a row from outside is scored above one from inside; ties count half.

    The area under the receiver operating characteristic, `P(s_out > s_in) + P(s_out = s_in) / 2`:
    1/2 is chance, below it the score is worse than none. Exact for these rows; `stderr` is over
    rows of both kinds, and 0 where they are separated completely, which says no more than that
    the area lies above 1 - 3/n. Source: DeLong, DeLong, Clarke-Pearson, "Comparing the Areas
    under Two or More Correlated Receiver Operating Characteristic Curves", 1988.

    Args:
        inside: scores of rows like the training rows, (n,).
        outside: scores of other rows, (m,); higher should mean stranger.

    Raises:
        UserError: no rows, or scores that are NaN.

    >>> print(auroc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.5, 4.0])))
    AUROC = 0.83 +- 0.24 (exact, 3 rows in, 2 out)
    """
    for name, scores in (("inside", inside), ("outside", outside)):
        if not len(scores) or bool(scores.isnan().any()):
            problem = "is NaN in places" if len(scores) else "has no rows"
            raise UserError(f"auroc: {name} {problem}; give a score for every row")
    inside, outside = inside.double(), outside.double()
    above = _share_below(outside, inside)  # of each row outside, how many inside it exceeds
    below = 1 - _share_below(inside, outside)
    variance = _variance(above) / len(above) + _variance(below) / len(below)
    about = f"{len(inside)} rows in, {len(outside)} out"
    value = float(above.mean())
    return Number("AUROC", value, "exact", "", math.sqrt(variance), method=about)


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """Share of `others` below each value, ties as half."""
    ordered = others.sort().values
    low, high = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (low + high).double() / (2 * len(others))


def _variance(values: Tensor) -> float:
    return float(values.var()) if len(values) > 1 else math.nan


def _compressible(model: Any, data: DataLike) -> bool:
    complete = data.mask is None or bool(data.mask.all())
    return complete and bool(model.discrete) and float(data.x.max()) < _MOST_LEVELS


def _length(row: np.ndarray, levels: int) -> float:
    """Shortest code of one row, in nats."""
    codes = [row, *(_steps(row, axis) for axis in range(max(-2, -row.ndim), 0))]
    packed = [np.mod(code, levels).astype(np.uint8) for code in codes]
    data = [(np.packbits(code) if levels == 2 else code).tobytes() for code in packed]
    shortest = min(compress(part) for part in data for compress in _COMPRESSORS)
    return 8 * shortest * math.log(2) + math.log(len(data) * len(_COMPRESSORS))


def _steps(row: np.ndarray, axis: int) -> np.ndarray:
    """Differences of neighbours; the first cell as it is."""
    return np.diff(row, axis=axis, prepend=0)
