"""How the images of one report are drawn: one range of shades, small files, cells of one size."""

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
from latently.interfaces import pictures

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Frame", "Picture"]

GRID_SIDE, STRIP_SIDE = 96, 64  # pixels an image may have a side in a grid, in a strip
_VALUES = 70_000  # per grid: bounds the size of the file
_GRID = 430  # CSS pixels of the longer side of a grid, about
_STRIP = 1020  # CSS pixels of a strip, about
_CELL, _NARROW = 56, 40  # CSS pixels of one image in a strip: the longer side; width at least


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, with its size in CSS pixels and what it shows."""

    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Frame:
    """Draws images of one shape, with the same shades for the same values in every picture.

    Attributes:
        shape: of one image.
        low: the value shown as black.
        high: the value shown as white.
    """

    shape: tuple[int, ...]
    low: float
    high: float

    @classmethod
    def of(cls, data: Data) -> Frame | None:
        """The frame of these data, None if their rows are no images."""
        if not pictures.is_image_shape(data.shape):
            return None
        return cls(data.shape, *pictures.value_range(data))

    @property
    def reductions(self) -> tuple[int, int]:
        """By how much images are reduced a side, in grids and in strips."""
        return (
            pictures.reduction(self.shape, GRID_SIDE),
            pictures.reduction(self.shape, STRIP_SIDE),
        )

    def count(self, most: int, *, least: int = 4, parts: int = 1) -> int:
        """How many images (of several parts each) go into one grid."""
        sides = [-(-side // self.reductions[0]) for side in self.shape[-2:]]
        return max(least, min(most, _VALUES // (parts * math.prod([*self.shape[:-2], *sides]))))

    def grid(
        self, images: Tensor, alt: str, *, columns: int, gap: int = 1, dense: bool = False
    ) -> Picture:
        """Images in rows and columns; in a dense grid none is larger than its share of it."""
        most = max(8, _GRID // columns) if dense else GRID_SIDE
        image = pictures.grid(
            self._small(images, pictures.reduction(self.shape, most)),
            low=self.low,
            high=self.high,
            columns=columns,
            scale=1,
            separator=gap,
        )
        return _embedded(image, round(_GRID / max(image.size)), alt)

    def pairs(self, above: Tensor, below: Tensor, alt: str, *, columns: int) -> Picture:
        """Pairs of images, one above the other."""
        factor = self.reductions[0]
        image = pictures.pairs(
            self._small(above, factor),
            self._small(below, factor),
            low=self.low,
            high=self.high,
            columns=columns,
            scale=1,
        )
        return _embedded(image, min(10, round(500 / image.width)), alt)

    def strip(self, groups: Sequence[Tensor], alt: str) -> Picture:
        """Images in one row."""
        factor = self.reductions[1]
        small = [self._small(images, factor) for images in groups]
        image = pictures.strip(small, low=self.low, high=self.high, scale=1)
        return _embedded(image, self._enlarged(), alt)

    def fitting(self, groups: int, most: int) -> int:
        """How many images go into each of some groups of a strip as wide as the page."""
        width = -(-self.shape[-1] // self.reductions[1])
        return max(1, min(most, (_STRIP // groups // self._enlarged() - 2) // (width + 1)))

    def _enlarged(self) -> int:
        """CSS pixels of a pixel of a strip."""
        height, width = (-(-side // self.reductions[1]) for side in self.shape[-2:])
        return max(round(_CELL / max(height, width)), -(-_NARROW // width))

    def heads(self, groups: Sequence[Sequence[str]]) -> tuple[tuple[float, str], ...]:
        """Names of the images of a strip, each with its middle in percent of the strip's width."""
        width = -(-self.shape[-1] // self.reductions[1])
        places, left = [], 0
        for names in groups:
            for name in names:
                places.append((left + width / 2, name))
                left += width + 1
            left += 2  # the gap between groups is three wide
        return tuple((100 * place / (left - 3), name) for place, name in places)

    def one(self, image: Tensor, alt: str, *, side: int = 72, most: int = GRID_SIDE) -> Picture:
        """A single image, (1, *shape), of at most so many pixels a side."""
        small = self._small(image, pictures.reduction(self.shape, most))
        made = pictures.grid(small, low=self.low, high=self.high, scale=1)
        return _embedded(made, side // max(small.shape[-2:]), alt)

    def _small(self, images: Tensor, factor: int) -> Tensor:
        images = torch.where(images.isinf(), math.nan, images.double())
        return pictures.reduced(images.cpu(), factor)


def _embedded(image: Image, scale: int, alt: str) -> Picture:
    """A picture for `<img>`, every pixel a square of `scale` CSS pixels.

    It is enlarged here, not by the page: printers smooth what they enlarge.
    """
    image = image.resize((max(1, scale) * image.width, max(1, scale) * image.height), 0)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/png;base64,{code}", image.width, image.height, alt)
