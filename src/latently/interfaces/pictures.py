"""Pictures of image rows: grids, pairs and strips, pixel for pixel, as PNG.

Every value becomes a square of whole screen pixels. Gaps, and missing values (NaN), are
transparent, so that a picture fits a light and a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from latently.data import Data
from latently.errors import UserError
from latently.training.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "grid",
    "is_image_shape",
    "pairs",
    "reduced",
    "reduction",
    "save_png",
    "strip",
    "value_range",
]

WIDTH = 720  # pixels a picture is scaled up to, as far as whole factors allow
MAX_SCALE = 16


def is_image_shape(shape: Sequence[int]) -> bool:
    """Whether rows of this shape are grey or colour images: (H, W), (1, H, W) or (3, H, W).

    >>> is_image_shape((1, 8, 8)), is_image_shape((4,)), is_image_shape((2, 8, 8))
    (True, False, False)
    """
    sides = tuple(shape[-2:])
    channels = tuple(shape[:-2])
    return len(sides) == 2 and min(sides) > 1 and channels in ((), (1,), (3,))


def value_range(data: Data) -> tuple[float, float]:
    """The values shown as black and white: 0 and levels - 1, or the extremes of the data."""
    if data.levels is not None:
        return 0.0, float(max(data.levels - 1, 1))
    seen = data.x if data.mask is None else data.x[data.mask]
    if not seen.numel():
        return 0.0, 1.0
    low, high = float(seen.min()), float(seen.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def grid(
    images: Tensor,
    *,
    low: float,
    high: float,
    columns: int | None = None,
    scale: int | None = None,
    separator: int = 1,
) -> Image:
    """Images in rows and columns.

    Args:
        images: (n, H, W), (n, 1, H, W) or (n, 3, H, W); NaN is left transparent.
        low: the value shown as black; what lies below is black, too.
        high: the value shown as white.
        columns: images per row; None: about as many as there are rows.
        scale: screen pixels per value; None: up to a width of about 700.
        separator: width of the gaps, in values.

    Raises:
        UserError: no images, rows of another shape, or an empty range.

    >>> import torch
    >>> grid(torch.zeros(6, 8, 8), low=0, high=16, columns=3, scale=2).size
    (52, 34)
    """
    return _assemble(_pixels(images, low, high), columns, scale, separator)


def pairs(
    originals: Tensor,
    reconstructions: Tensor,
    *,
    low: float,
    high: float,
    columns: int | None = None,
    scale: int | None = None,
    separator: int = 1,
) -> Image:
    """Pairs of images, the original above its reconstruction, in rows and columns.

    Args:
        originals: as `images` of `grid`.
        reconstructions: as many images of the same shape.
        low: see `grid`.
        high: see `grid`.
        columns: pairs per row.
        scale: see `grid`.
        separator: gap within a pair, in values; the gap between two pairs is three times that.

    Raises:
        UserError: see `grid`; or the two differ in shape.
    """
    if originals.shape != reconstructions.shape:
        raise UserError(
            f"originals of shape {tuple(originals.shape)} and reconstructions of shape "
            f"{tuple(reconstructions.shape)}; pairs needs one reconstruction for each original"
        )
    above, below = _pixels(originals, low, high), _pixels(reconstructions, low, high)
    gap = np.zeros((len(above), separator, *above.shape[2:]), np.uint8)
    return _assemble(np.concatenate([above, gap, below], 1), columns, scale, 3 * separator)


def strip(
    groups: Sequence[Tensor],
    *,
    low: float,
    high: float,
    scale: int | None = None,
    separator: int = 1,
) -> Image:
    """Images side by side in one row, with a wider gap between groups of them.

    Args:
        groups: each as `images` of `grid`; all of one shape of image.
        low: see `grid`.
        high: see `grid`.
        scale: see `grid`.
        separator: gap within a group, in values; the gap between two groups is three times that.

    Raises:
        UserError: see `grid`; or images of unlike shapes.

    >>> import torch
    >>> strip([torch.zeros(1, 8, 8), torch.zeros(2, 8, 8)], low=0, high=1, scale=1).size
    (28, 8)
    """
    shapes = sorted({tuple(images.shape[1:]) for images in groups})
    if len(shapes) > 1:
        raise UserError(
            f"images of shapes {shapes[0]} and {shapes[1]} in one strip; give images of one shape"
        )
    parts: list[np.ndarray] = []
    for images in groups:
        for number, cell in enumerate(_pixels(images, low, high)):
            gap = 0 if not parts else separator if number else 3 * separator
            parts += [np.zeros((cell.shape[0], gap, cell.shape[2]), np.uint8), cell]
    if not parts:
        raise UserError("a picture of no images; give at least one")
    return _assemble(np.concatenate(parts, 1)[None], 1, scale, separator)


def reduction(shape: Sequence[int], most: int) -> int:
    """The smallest whole factor that brings an image to at most `most` pixels a side.

    No side falls below two pixels for it.

    >>> reduction((3, 200, 100), 64), reduction((28, 28), 64)
    (4, 1)
    """
    return max(1, min(-(-max(shape[-2:]) // most), min(shape[-2:]) - 1))


def reduced(images: Tensor, factor: int) -> Tensor:
    """Images made smaller: each pixel is the mean of `factor x factor` pixels.

    A block with missing values (NaN) is the mean of the others, missing if most of it is; a block
    that reaches over the edge is the mean of what lies inside.

    Args:
        images: (n, *channels, H, W).
        factor: 1 gives the images themselves.

    >>> import torch
    >>> reduced(torch.arange(8.0).view(1, 2, 4), 2)
    tensor([[[2.5000, 4.5000]]])
    """
    if factor == 1:
        return images
    height, width = images.shape[-2:]
    blocks = (0, -width % factor, 0, -height % factor)
    inside = nn.functional.pad(torch.ones_like(images), blocks)
    values = nn.functional.pad(images, blocks)
    inside, values = (
        part.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor)) for part in (inside, values)
    )
    seen = inside * ~values.isnan()
    total = (values.nan_to_num(0.0) * seen).sum((-3, -1))
    count, size = seen.sum((-3, -1)), inside.sum((-3, -1))
    return torch.where(2 * count >= size, total / count.clamp(min=1), math.nan)


def save_png(image: Image, path: str | Path) -> None:
    """Writes a picture as PNG, atomically.

    Raises:
        UserError: the file cannot be written; an old one is then as before.
    """
    atomic_write(Path(path), lambda temporary: image.save(temporary, "PNG", optimize=True))


def _pixels(images: Tensor, low: float, high: float) -> np.ndarray:
    """Bytes (n, H, W, 2 or 4), grey or colour with opacity last."""
    if images.ndim < 3 or not is_image_shape(images.shape[1:]):
        raise UserError(
            f"rows of shape {tuple(images.shape[1:])} are no images; pictures need (H, W), "
            "(1, H, W) or (3, H, W): write .npz or .csv instead"
        )
    if not len(images):
        raise UserError("a picture of no images; give at least one")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"low={low:g}, high={high:g}: low must be below high")
    values = images.detach().double().cpu().numpy()
    values = values[:, None] if values.ndim == 3 else values
    seen = ~np.isnan(values).any(1, keepdims=True)
    shades = np.clip((np.where(seen, values, low) - low) / (high - low), 0, 1)
    both = np.concatenate([np.rint(255 * shades), np.where(seen, 255, 0)], 1)
    return both.astype(np.uint8).transpose(0, 2, 3, 1)


def _assemble(cells: np.ndarray, columns: int | None, scale: int | None, separator: int) -> Image:
    from PIL.Image import fromarray

    n, height, width, channels = cells.shape
    for name, value in (("columns", columns), ("scale", scale)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    columns = min(n, columns or max(1, round(math.sqrt(n * height / width))))
    rows = -(-n // columns)
    size = rows * (height + separator), columns * (width + separator)
    canvas = np.zeros((*size, channels), np.uint8)
    for i, cell in enumerate(cells):
        y, x = (i // columns) * (height + separator), (i % columns) * (width + separator)
        canvas[y : y + height, x : x + width] = cell
    canvas = canvas[: size[0] - separator, : size[1] - separator]
    scale = scale or min(MAX_SCALE, max(1, WIDTH // canvas.shape[1]))
    return fromarray(canvas.repeat(scale, 0).repeat(scale, 1))
