"""What a model makes of spoilt rows: its reconstructions, against the rows as they were."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._codes import as_rows, centre, moved_to
from latently.inference._mode import evaluating
from latently.inference.noise import derive, seeded
from latently.inference.rows import Rows

__all__ = ["Corrupted", "corrupted"]

_LEVELS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75)
_ROWS = 500  # at once


@dataclass(frozen=True)
class Corrupted:
    """Rows that were spoilt more and more, and what a model rebuilds from them.

    Attributes:
        corruption: what spoilt them, at its first level.
        levels: how much, (L,).
        clean: the rows that are kept, (n, *shape).
        rows: what the model saw of these, (L, n, *shape).
        rebuilt: their reconstructions, (L, n, *shape).
        errors: mean squared error of every row, (L, B): over its observed cells, of the
            reconstruction against the clean row, in squared data units; 0 of a row without any.
        damage: the same of what the model saw, (L, B): what doing nothing would leave.

    Printed: a line for each level, the mean over rows with its standard error.
    """

    corruption: str
    levels: tuple[float, ...]
    clean: Tensor
    rows: Tensor
    rebuilt: Tensor
    errors: Tensor
    damage: Tensor

    @property
    def mse(self) -> Tensor:
        """The mean over rows at each level, (L,)."""
        return self.errors.mean(1)

    @property
    def stderr(self) -> Tensor:
        """Its standard error over rows, (L,); NaN of a single row."""
        n = self.errors.shape[1]
        return self.errors.std(1) / math.sqrt(n) if n > 1 else self.errors[:, 0] * math.nan

    def __str__(self) -> str:
        lines = zip(self.levels, self.mse.tolist(), self.stderr.tolist(), strict=True)
        head = f"mean squared error against the clean rows, {self.corruption} at each level"
        return "\n".join([head, *(f"{a:g}: {b:.4g} +- {c:.2g}" for a, b, c in lines)])


def corrupted(
    model: Any,
    data: Any,
    corruption: Any,
    levels: Sequence[float] = _LEVELS,
    *,
    span: Any = None,
    keep: int | None = None,
    seed: int = 0,
) -> Corrupted:
    """Reconstructions of rows under a corruption at several levels.

    The corruption draws the same noise at every level, so that levels differ by the level alone.
    An adversary climbs the squared error of the reconstruction of x' against the clean row.

    Args:
        model: one with reconstructions.
        data: rows, (B, *shape), or Data.
        corruption: such as `Masking(0.5)`; its own level is not used.
        levels: shares from 0 to 1.
        span: range of the cells of the training rows, `Span.of(x)`; None: the model's own.
        keep: rows whose pictures are kept, the first ones; None: all.
        seed: of the corruption.

    Raises:
        UserError: no corruption, rows of another kind, no levels or one outside [0, 1], no span,
            or a model whose reconstruction is the row itself.

    >>> import latently as lt
    >>> from latently.data.corruptions import Masking, Span
    >>> x = torch.randn(20, 3)
    >>> lt.corrupted(lt.ppca((3,), latents=1), x, Masking(), [0, 0.5], span=Span.of(x)).mse.shape
    torch.Size([2])
    """
    if isinstance(corruption, type) or not hasattr(corruption, "at"):
        raise UserError(f"corruption={corruption!r} must be a built one, such as Masking(0.5)")
    rows, kinds = as_rows(data), [corruption.at(float(level)) for level in levels]
    if not kinds or not len(rows.x):
        raise UserError(f"corrupted: {len(kinds)} levels of {len(rows.x)} rows; give some of both")
    if model.invertible:
        raise UserError(
            f"corrupted: the reconstruction of a {type(model).__name__} is the row itself; name a "
            "model with a code"
        )
    span = getattr(model, "span", None) if span is None else span
    if span is None:
        raise UserError(
            "corrupted: the model does not know the range of its training rows; give "
            "span=Span.of(train.x), of latently.data.corruptions"
        )
    span = type(span)(*(end.to(model.device) for end in span))
    kept = len(rows.x) if keep is None else keep
    with evaluating(model):
        found = [_level(model, rows, kind, span, kept, seed) for kind in kinds]
    parts = [torch.stack(part) for part in zip(*found, strict=True)]
    return Corrupted(str(corruption), tuple(map(float, levels)), rows.x[:kept].cpu(), *parts)


def _level(
    model: Any, rows: Rows, corruption: Any, span: Any, kept: int, seed: int
) -> tuple[Tensor, ...]:
    """Spoilt rows and reconstructions of the first `kept`, errors and damage of all."""
    seen, rebuilt, errors, damage = [], [], [], []
    for start in range(0, len(rows.x), _ROWS):
        part = moved_to(model, rows.part(slice(start, start + _ROWS)))
        with seeded(derive(seed, "corrupted", start), model.device):
            x = corruption(part.x, span, _loss(model, part))
            found = model.reconstruct(x, part.mask, part.context)
        _check_finite(model, corruption, x, found)
        errors.append(_error(found, part).double().cpu())
        damage.append(_error(x, part).double().cpu())
        seen.append(x[: max(0, kept - start)].cpu())
        rebuilt.append(found[: max(0, kept - start)].cpu())
    return tuple(map(torch.cat, (seen, rebuilt, errors, damage)))


def _check_finite(model: Any, corruption: Any, x: Tensor, found: Tensor) -> None:
    outside, support = model.misfit(x)
    if bool(outside.any()) and not bool(found.isfinite().all()):
        raise UserError(
            f"corrupted: {corruption} leaves values outside {support}, which the model cannot "
            "read; choose another corruption, such as SaltAndPepper"
        )


def _loss(model: Any, clean: Rows) -> Callable[[Tensor], Tensor]:
    """What an adversary climbs: x' to the error of its reconstruction, (B,)."""

    def loss(x: Tensor) -> Tensor:
        z = model.infer(x, 1, clean.mask, clean.context, draw=centre).z
        return _error(model.likelihood(z, clean.context).mean[0], clean)

    return loss


def _error(found: Tensor, clean: Rows) -> Tensor:
    """Mean squared error of every row over its observed cells, (B,)."""
    apart = (found - clean.x).square().flatten(1)
    if clean.mask is None:
        return apart.mean(1)
    seen = clean.mask.flatten(1)
    return torch.where(seen, apart, 0.0).sum(1) / seen.sum(1).clamp(min=1)
