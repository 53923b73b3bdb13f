"""What a model draws, rebuilds and finds strange, ready to be shown."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latently.data import Data
from latently.errors import UserError
from latently.inference.noise import derive, seeded
from latently.interfaces import pictures
from latently.interfaces.report.numbers import plain, significant
from latently.models import Model

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Example",
    "Picture",
    "chosen_rows",
    "draws",
    "examples",
    "picture",
    "reconstructions",
    "sample_pictures",
    "shown_count",
]

_PIXELS = 70_000  # values per picture: bounds the size of the file
_WIDTH = 420  # CSS pixels of a grid, about
_TELLING = 4  # columns told of an unusual row


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, with its size in CSS pixels and what it shows."""

    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Example:
    """One row of the data with its log p(x)."""

    row: int
    label: str
    log_prob: str
    picture: Picture | None
    cells: tuple[str, ...]


def picture(image: Image, alt: str) -> Picture:
    """A picture ready for `<img>`."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/png;base64,{code}", image.width, image.height, alt)


def shown_count(shape: Sequence[int], most: int) -> int:
    """How many images of this shape go into one picture."""
    return max(4, min(most, _PIXELS // max(1, math.prod(shape))))


def draws(model: Model, data: Data, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """n draws from p(x), (n, *shape), and the means of p(x|z) at the same z where known.

    A conditional model draws under the contexts of the first rows.
    """
    context = data.context
    if context is not None:
        context = context[torch.arange(n) % len(context)].to(model.device)
    with torch.no_grad(), seeded(derive(seed, "report", "draws"), model.device):
        p = model.likelihood(model.latents(n, context), context)
        x = p.sample()[0].cpu()
        try:
            return x, p.mean[0].cpu()
        except NotImplementedError:
            return x, None


def sample_pictures(model: Model, data: Data, name: str, seed: int) -> list[tuple[str, Picture]]:
    """Grids of draws and of means at the same latents, each with its caption."""
    n = shown_count(data.shape, 64)
    low, high = pictures.value_range(data)
    x, mean = draws(model, data, n, seed)
    columns = max(1, round(math.sqrt(n)))
    scale = max(1, round(_WIDTH / (columns * (data.shape[-1] + 1))))
    shown = [("Draws from p(x)", x)]
    if mean is not None:
        shown.append(("Means of p(x|z) at the same z; no draws from the model", mean))
    return [
        (
            caption,
            picture(
                pictures.grid(
                    torch.nan_to_num(values), low=low, high=high, columns=columns, scale=scale
                ),
                f"{name}: {n} images. {caption}",
            ),
        )
        for caption, values in shown
    ]


def chosen_rows(data: Data, most: int, seed: int) -> Tensor:
    """Rows to rebuild, drawn by seed, never by eye; in their order."""
    n = min(len(data), shown_count((2, *data.shape), most))
    generator = torch.Generator().manual_seed(derive(seed, "report", "rows"))
    return torch.randperm(len(data), generator=generator)[:n].sort().values


def reconstructions(model: Model, data: Data, rows: Tensor, name: str) -> Picture | None:
    """Rows above their reconstructions; None for a model that has none."""
    part = data.rows(rows)
    moved = part.to(model.device)
    try:
        rebuilt = model.reconstruct(moved.x, moved.mask, moved.context).cpu()
    except (NotImplementedError, UserError, IndexError):
        return None
    x = part.x if part.mask is None else part.x.masked_fill(~part.mask, math.nan)
    low, high = pictures.value_range(data)
    columns = 8 if len(rows) > 8 else len(rows)
    image = pictures.pairs(
        x, torch.nan_to_num(rebuilt).to(x.dtype), low=low, high=high, columns=columns
    )
    return picture(image, f"{name}: {len(rows)} pairs, a row of the data above its reconstruction")


def examples(data: Data, values: Tensor, most: int) -> tuple[list[Example], list[Example]]:
    """The strangest and the most typical rows by log p(x), at most `most` of each."""
    order = torch.nan_to_num(values, nan=-math.inf).argsort(stable=True)
    k = min(most, max(1, len(order) // 2))
    strange = order[:k].tolist()
    typical = order.flip(0)[:k].tolist() if len(order) > 1 else []
    return [_example(data, values, i) for i in strange], [
        _example(data, values, i) for i in typical
    ]


def _example(data: Data, values: Tensor, row: int) -> Example:
    label = "" if data.labels is None else str(int(data.labels[row]))
    shown: Picture | None = None
    cells: tuple[str, ...] = ()
    if pictures.is_image_shape(data.shape):
        low, high = pictures.value_range(data)
        x = data.x[row : row + 1]
        if data.mask is not None:
            x = x.masked_fill(~data.mask[row : row + 1], math.nan)
        scale = max(1, 72 // data.shape[-1])
        image = pictures.grid(x, low=low, high=high, scale=scale)
        shown = picture(image, f"row {row}" + (f", label {label}" if label else ""))
    else:
        cells = _cells(data, row)
    return Example(row, label, plain(float(values[row])), shown, cells)


def _cells(data: Data, row: int) -> tuple[str, ...]:
    """The row's most unusual columns, in standard deviations from their mean."""
    x = data.x.flatten(1).double()
    mask = torch.ones_like(x) if data.mask is None else data.mask.flatten(1).double()
    count = mask.sum(0).clamp(min=1)
    mean = (x * mask).sum(0) / count
    deviation = (((x - mean).square() * mask).sum(0) / count).sqrt()
    z = torch.where(deviation > 0, (x[row] - mean) / deviation, 0.0) * mask[row]
    order = z.abs().argsort(descending=True, stable=True)[:_TELLING].tolist()
    seen = [j for j in order if mask[row, j]]
    spread = len(data) > 1
    return tuple(
        f"x{j} = {significant(float(x[row, j]))}"
        + (f" ({plain(float(z[j]), 1, sign=True)} sd)" if spread else "")
        for j in seen
    )
