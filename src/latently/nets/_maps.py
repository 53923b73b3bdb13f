"""Pictures in networks: what a shape means, the sizes on the way, convolutions between them."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn
from torch.nn import functional

from latently.errors import UserError
from latently.nets._linear import run_layers

HE = sqrt(2)  # the gain that half of a normal, as ReLU leaves it, asks for
NEAR_ZERO = 0.1

_Affine = TypeVar("_Affine", bound=nn.Module)


class Picture(NamedTuple):
    """Channels, rows and columns of pixels."""

    channels: int
    height: int
    width: int


class Way(NamedTuple):
    """The pictures that a network makes, in order, and its ends: None where that is a vector."""

    source: Picture | None
    inner: list[Picture]
    target: Picture | None

    @property
    def pictures(self) -> list[Picture]:
        """All of them, the ends included."""
        ends = (self.source, self.target)
        first, last = ([] if end is None else [end] for end in ends)
        return [*first, *self.inner, *last]


def way_between(
    who: str, in_shape: Sequence[int], out_shape: Sequence[int], channels: Sequence[int]
) -> Way:
    """The pictures on the way from one shape to the other, one for each of `channels`.

    Each has half the size of the larger neighbour, rounded up, until that is 1 pixel or, on the
    way to another picture, the size of the smaller end. `channels` counts from the larger end.

    Raises:
        UserError: both shapes are vectors, or one is neither a vector nor an image.
    """
    source, target = _picture(who, in_shape), _picture(who, out_shape)
    if source is None and target is None:
        raise UserError(
            f"{who} maps from or to images (C, H, W), and in_shape {tuple(in_shape)} and "
            f"out_shape {tuple(out_shape)} are both vectors; take net=MLP, or decoder_net=MLP "
            "where only the decoder has such shapes"
        )
    rising = source is None or (target is not None and _pixels(target) > _pixels(source))
    start, end = (target, source) if rising else (source, target)
    assert start is not None
    axes = [_sizes(start[k], None if end is None else end[k], len(channels)) for k in (1, 2)]
    inner = [Picture(*level) for level in zip(channels, *axes, strict=True)]
    return Way(source, inner[::-1] if rising else inner, target)


class Map(nn.Module):
    """A convolution from pictures of one size to pictures of another.

    Axes that grow are first resized to the nearest neighbour, so that all pixels are made alike
    (Odena, Dumoulin, Olah, "Deconvolution and Checkerboard Artifacts", 2016). Axes that halve
    have stride 2; where they shrink to other sizes, averages of the result are taken. The kernel
    is no wider than the picture can use.

    Args:
        before: channels, height and width of what comes in.
        after: of what goes out.
        kernel: width of the kernel, odd.
        gain: of the first weights, see `started`.
    """

    def __init__(self, before: Picture, after: Picture, kernel: int, gain: float) -> None:
        super().__init__()
        rows = _Axis.between(before.height, after.height, kernel)
        columns = _Axis.between(before.width, after.width, kernel)
        size, grown = (before.height, before.width), (rows.grown, columns.grown)
        left, to = (rows.left, columns.left), (after.height, after.width)
        self.grown = grown if grown != size else None
        self.averaged = to if left != to else None
        conv = nn.Conv2d(
            before.channels,
            after.channels,
            (rows.kernel, columns.kernel),
            (rows.stride, columns.stride),
            (rows.kernel // 2, columns.kernel // 2),
        )
        self.conv = started(conv, gain)

    def forward(self, h: Tensor) -> Tensor:
        """(B, channels, height, width) from (B, channels, height, width)."""
        if self.grown is not None:
            h = functional.interpolate(h, self.grown, mode="nearest")
        h = self.conv(h)
        return h if self.averaged is None else functional.adaptive_avg_pool2d(h, self.averaged)


class _Axis(NamedTuple):
    """Height or width on the way through a `Map`: after growing, and after the convolution."""

    grown: int
    stride: int
    kernel: int
    left: int

    @classmethod
    def between(cls, size: int, to: int, kernel: int) -> _Axis:
        grown = max(size, to)
        halves = to <= _half(grown) < grown
        return cls(
            grown,
            2 if halves else 1,
            min(kernel, 2 * grown - 1),
            _half(grown) if halves else grown,
        )


class Chain(nn.Module):
    """Layers on vectors, then on pictures, then on vectors; there may be none of each.

    Args:
        before: layers from a vector to the first picture, flat.
        maps: layers from the first picture on.
        after: layers from the last picture, flat, to a vector.
        first: the first picture.
        out_shape: shape of one output.
    """

    def __init__(
        self,
        before: Sequence[nn.Module],
        maps: Sequence[nn.Module],
        after: Sequence[nn.Module],
        first: Picture,
        out_shape: Sequence[int],
    ) -> None:
        super().__init__()
        self.before, self.maps = nn.Sequential(*before), nn.Sequential(*maps)
        self.after = nn.Sequential(*after)
        self.first, self.out_shape = tuple(first), tuple(out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *in_shape) to (B, *out_shape)."""
        h = run_layers(self.before, x.flatten(1)).unflatten(1, self.first)
        h = run_layers(self.maps, h)
        return run_layers(self.after, h.flatten(1)).unflatten(1, self.out_shape)


def started(layer: _Affine, gain: float) -> _Affine:
    """The layer or `Map` with weights from `N(0, gain^2 / inputs)` and biases of 0."""
    for parameter in layer.parameters():
        if parameter.dim() == 1:
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=gain / sqrt(parameter[0].numel()))
    return layer


def widths(who: str, name: str, value: Any, least: int) -> tuple[int, ...]:
    """Whole numbers of at least 1, at least so many; one number stands for a tuple of one."""
    found = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(found) < least or not all(_is_whole(n) and n >= 1 for n in found):
        some = f"{least} or more whole numbers" if least else "whole numbers"
        raise UserError(f"{who}: {name}={value!r} must hold {some} of at least 1")
    return found


def check_kernel(who: str, kernel: Any) -> None:
    """Refuses a kernel without a middle."""
    if not _is_whole(kernel) or kernel < 1 or kernel % 2 == 0:
        raise UserError(f"{who}: kernel={kernel!r} must be an odd whole number, such as 3")


def check_dropout(who: str, dropout: Any) -> None:
    """Refuses what is no probability below 1."""
    number = isinstance(dropout, int | float) and not isinstance(dropout, bool)
    if not number or not 0 <= dropout < 1:
        raise UserError(f"{who}: dropout={dropout!r} is outside [0, 1)")


def check_count(who: str, name: str, value: Any, least: int, most: int) -> None:
    """Refuses another number than a whole one in a range."""
    if not _is_whole(value) or not least <= value <= most:
        raise UserError(f"{who}: {name}={value!r} must be a whole number from {least} to {most}")


def _picture(who: str, shape: Sequence[int]) -> Picture | None:
    axes = tuple(shape)
    if len(axes) not in (1, 2, 3) or min(axes) < 1:
        raise UserError(
            f"{who}: shape {axes} is neither an image (C, H, W) or (H, W) nor a vector; take "
            "net=MLP, which flattens any shape"
        )
    return None if len(axes) == 1 else Picture(*(1, *axes)[-3:])


def _pixels(picture: Picture) -> int:
    return picture.height * picture.width


def _sizes(start: int, end: int | None, stages: int) -> list[int]:
    """The sizes of one axis after each stage, from `start` to `end`, or down to 1 pixel."""
    if end is not None and end > start:
        return [*_sizes(end, start, stages)[-2::-1], end]
    sizes = [start]
    for _ in range(stages):
        sizes.append(max(_half(sizes[-1]), end or 1))
    if end is not None:
        sizes[-1] = end
    return sizes[1:]


def _half(size: int) -> int:
    return -(-size // 2)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
