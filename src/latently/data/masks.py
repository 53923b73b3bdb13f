"""Masks: which cells of a row are observed, where some are hidden on purpose.

For training on holes (`Data.hide`) and for testing imputation (`Data.hidden`). The holes of a
picture go through all its channels; a row is (C, H, W), (H, W), or anything for `MCAR`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latently.errors import UserError, closest

__all__ = ["MCAR", "Box", "Half", "Mask", "Sometimes"]

_SIDES = ("upper", "lower", "left", "right")


class Mask(ABC):
    """A rule that draws which cells of n rows are observed.

    `mask(n, shape, seed)` is a function of its arguments and leaves every generator alone.
    No row is left with nothing observed.
    """

    def __call__(
        self, n: int, shape: tuple[int, ...], seed: int = 0, own: Tensor | None = None
    ) -> Tensor:
        """The observed cells of n rows, bool `(n, *shape)`, True = observed.

        Args:
            n: The number of rows.
            shape: Of one row.
            seed: Of the draw.
            own: The cells `(n, *shape)` that the rows observe to begin with; None for all.

        Raises:
            UserError: Rows of a shape that the mask cannot be drawn on.
        """
        return self.within(own, n, shape, _generator(seed))

    def within(
        self,
        own: Tensor | None,
        n: int,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw, and keep of it what rows with gaps of their own observe.

        A row in which that leaves nothing keeps one of its pixels, picked at random.

        Args:
            own: Observed cells `(n, *shape)` to begin with; None for all.
            n: The number of rows.
            shape: Of one row.
            generator: Where the draw comes from; None for the global one of the device.
            device: Where the draw is made.

        Raises:
            UserError: See `__call__`.
        """
        channels, pixels = (shape[:1], shape[1:]) if len(shape) == 3 else ((1,), shape)
        seen = self.pixels(n, pixels, generator, device)
        kept = seen.new_ones(()) if own is None else own.reshape(n, *channels, *pixels)
        known = kept.expand(n, *channels, *pixels).any(1)
        score = torch.rand(seen.shape, generator=generator, device=device).masked_fill(~known, -1)
        spare = score.flatten(1).argmax(1, keepdim=True)
        lost = ~(seen & known).flatten(1).any(1, keepdim=True)
        rescued = torch.zeros_like(seen).flatten(1).scatter(1, spare, lost).view_as(seen)
        cells = (seen | rescued)[:, None] & kept
        return cells.expand(n, *channels, *pixels).reshape(n, *shape)

    @abstractmethod
    def pixels(
        self,
        n: int,
        shape: tuple[int, ...],
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Tensor:
        """The observed pixels `(n, *shape)` of rows whose shape has no channels."""


@dataclass(frozen=True)
class Half(Mask):
    """Hides one half of a picture, `floor(H / 2)` rows or `floor(W / 2)` columns of pixels.

    Args:
        side: The half that is hidden: "upper", "lower", "left" or "right".

    Raises:
        UserError: Another side; rows that are no pictures, or too small to halve.

    >>> Half("lower")(1, (1, 3, 2))[0, 0]
    tensor([[ True,  True],
            [ True,  True],
            [False, False]])
    """

    side: str = "lower"

    def __post_init__(self) -> None:
        """Refuse another side."""
        if self.side not in _SIDES:
            raise UserError(f"Half: side={self.side!r}; {closest(str(self.side), _SIDES)}")

    def pixels(
        self,
        n: int,
        shape: tuple[int, ...],
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Tensor:
        height, width = _picture(shape, self)
        upright = self.side in ("upper", "lower")
        size = height if upright else width
        hidden = size // 2
        if not hidden:
            raise UserError(f"{self}: pictures of {height} x {width} pixels have no such half")
        at = torch.arange(size, device=device)
        line = at >= hidden if self.side in ("upper", "left") else at < size - hidden
        line = line[:, None] if upright else line[None, :]
        return line.expand(n, height, width)


@dataclass(frozen=True)
class Box(Mask):
    """Hides a box of the picture's proportions, at a random place in every row.

    Its sides are `round(sqrt(share) H)` and `round(sqrt(share) W)`, at least 1 pixel.

    Args:
        share: Of the picture's area that is hidden, about; between 0 and 1.

    Raises:
        UserError: Another share; rows that are no pictures, or hidden as a whole.

    >>> Box(0.25)(1, (4, 4)).sum()
    tensor(12)
    """

    share: float = 0.25

    def __post_init__(self) -> None:
        """Refuse a share outside (0, 1)."""
        _check_share("Box", self.share)

    def pixels(
        self,
        n: int,
        shape: tuple[int, ...],
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Tensor:
        height, width = _picture(shape, self)
        sides = [max(1, round(math.sqrt(self.share) * size)) for size in (height, width)]
        if sides == [height, width]:
            raise UserError(f"{self}: hides all of {height} x {width} pixels; lower the share")
        inside = []
        for size, side in zip((height, width), sides, strict=True):
            first = torch.randint(size - side + 1, (n, 1), generator=generator, device=device)
            at = torch.arange(size, device=device)
            inside.append((at >= first) & (at < first + side))
        return ~(inside[0][:, :, None] & inside[1][:, None, :])


@dataclass(frozen=True)
class MCAR(Mask):
    """Hides every cell with the same probability: missing completely at random.

    A cell of a table's row; a pixel, through all channels, of a picture (C, H, W).

    Args:
        share: The probability of a cell to be hidden; between 0 and 1.

    Raises:
        UserError: Another share.

    >>> bool(MCAR(0.9)(100, (3,)).any(1).all())
    True
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a share outside (0, 1)."""
        _check_share("MCAR", self.share)

    def pixels(
        self,
        n: int,
        shape: tuple[int, ...],
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Tensor:
        return torch.rand((n, *shape), generator=generator, device=device) >= self.share


@dataclass(frozen=True)
class Sometimes(Mask):
    """Hides by another mask in a share of the rows, and nothing in the others.

    For training: a model whose rows all lack the same cells learns nothing of them.

    Args:
        mask: What hides, e.g. `Half("lower")`.
        share: Of the rows that are touched; between 0 and 1.

    Raises:
        UserError: Another share; no mask; rows that it cannot be drawn on.

    >>> Sometimes(Half("lower"), 0.5)(1000, (2, 2)).flatten(1).all(1).float().mean()
    tensor(0.5...)
    """

    mask: Mask = Half()
    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no mask, and a share outside (0, 1)."""
        if not isinstance(self.mask, Mask):
            raise UserError(f"Sometimes: mask={self.mask!r} must be a mask, such as Half()")
        _check_share("Sometimes", self.share)

    def pixels(
        self,
        n: int,
        shape: tuple[int, ...],
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Tensor:
        seen = self.mask.pixels(n, shape, generator, device)
        whole = torch.rand(n, generator=generator, device=device) >= self.share
        return seen | whole.view(n, *(1,) * len(shape))


def _generator(seed: int) -> torch.Generator:
    # not manual_seed(seed): values redrawn from the same seed would decide what is hidden
    state = np.random.SeedSequence([abs(seed), int(seed < 0), 0x6D61736B]).generate_state(1, "u8")
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def _picture(shape: tuple[int, ...], mask: Mask) -> tuple[int, int]:
    if len(shape) != 2:
        raise UserError(
            f"{mask}: rows are no pictures (C, H, W) or (H, W) but have {len(shape)} "
            f"ax{'is' if len(shape) == 1 else 'es'}; MCAR hides cells of any shape"
        )
    return shape[0], shape[1]


def _check_share(name: str, share: float) -> None:
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not 0 < share < 1:
        raise UserError(f"{name}: share={share!r} must lie between 0 and 1, both excluded")
