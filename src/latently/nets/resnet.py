"""Residual networks of convolutions, from images, to images, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import ClassVar

from torch import Tensor, nn

from latently.nets._linear import Linear
from latently.nets._maps import (
    HE,
    NEAR_ZERO,
    Chain,
    Map,
    Picture,
    check_count,
    check_dropout,
    check_kernel,
    started,
    way_between,
    widths,
)

__all__ = ["ResNet"]

_MOST_BLOCKS = 1000  # of a stage: a file's call must not keep its reader busy


class ResNet(nn.Module):
    r"""A residual network of convolutions: affine maps between pictures, and blocks at each.

    A block is `h + W_2 * a(W_1 * a(h))`. From an image to a vector, each stage is a convolution
    of stride 2 to a picture of half the height and width, rounded up (an axis of 1 pixel stays),
    then blocks; the last picture is flattened and mapped. From a vector to an image all of it is
    mirrored: blocks, then a stage's doubling (each pixel repeated, then a convolution), to the
    very sizes that halving gives. From an image to an image as in `Conv`.

    There is no normalisation: rows do not depend on their company, nor pixels on the whole
    picture. Instead every path is affine but for the blocks' branches, whose last weights W_2
    start at a variance of 0.01 / inputs: however deep, it begins almost affine. W_1 starts at
    2 / inputs, maps at 1 / inputs, the last one at 0.01 / inputs, biases at 0. Sources: He, Zhang,
    Ren, Sun, "Identity Mappings in Deep Residual Networks", 2016, for the blocks; Zhang, Dauphin,
    Ma, "Fixup Initialization: Residual Learning Without Normalization", 2019; Child, "Very Deep
    VAEs Generalize Autoregressive Models and Can Outperform Them on Images", 2021.

    Args:
        in_shape: an image (C, H, W), or (H, W) of one channel, of any size; or a vector (n,).
        out_shape: as well; one of the two is an image.
        channels: of each stage, from the larger picture to the smaller; between equals, from in to
            out.
        blocks: residual blocks of each stage.
        kernel: width of the convolutions, odd; where a picture is small, no wider than reaches
            all of it from each pixel.
        activation: constructor of the elementwise non-linearity.
        dropout: probability of zeroing a value between the convolutions of a block in training.

    Raises:
        UserError: two vectors, for which there is MLP; a shape of other axes; an option outside
            its range.

    >>> import torch
    >>> ResNet((1, 28, 28), (32,), channels=(8, 16))(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 32])
    >>> ResNet((16,), (3, 9, 7), channels=(8, 16))(torch.zeros(5, 16)).shape
    torch.Size([5, 3, 9, 7])
    """

    reads_images: ClassVar[bool] = True

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        kernel: int = 3,
        activation: Callable[[], nn.Module] = nn.SiLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels = widths("ResNet", "channels", channels, 1)
        check_count("ResNet", "blocks", blocks, 0, _MOST_BLOCKS)
        check_kernel("ResNet", kernel)
        check_dropout("ResNet", dropout)
        way = way_between("ResNet", in_shape, out_shape, channels)
        first, last = way.pictures[0], way.pictures[-1]

        def stage(picture: Picture) -> list[nn.Module]:
            return [_Block(picture, kernel, activation, dropout) for _ in range(blocks)]

        before = [] if way.source else [started(Linear(prod(in_shape), prod(first)), 1)]
        after = [] if way.target else [started(Linear(prod(last), prod(out_shape)), 1)]
        maps: list[nn.Module] = [] if way.source else stage(first)
        for old, new in pairwise(way.pictures):
            maps.append(Map(old, new, kernel, 1))
            maps += [] if new is way.target else stage(new)
        started((after or maps)[-1], NEAR_ZERO)
        self.layers = Chain(before, maps, after, first, out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *in_shape) to (B, *out_shape)."""
        return self.layers(x)


class _Block(nn.Module):
    """`h + W_2 * d(a(W_1 * a(h)))`, with dropout d."""

    def __init__(
        self,
        picture: Picture,
        kernel: int,
        activation: Callable[[], nn.Module],
        dropout: float,
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            activation(),
            Map(picture, picture, kernel, HE),
            activation(),
            *([nn.Dropout(dropout)] if dropout else []),
            Map(picture, picture, kernel, NEAR_ZERO),
        )

    def forward(self, h: Tensor) -> Tensor:
        """(B, channels, height, width) from the same."""
        return h + self.branch(h)
