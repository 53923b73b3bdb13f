"""Convolutional networks, from images, to images, or both."""

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
    check_dropout,
    check_kernel,
    started,
    way_between,
    widths,
)

__all__ = ["Conv"]


class Conv(nn.Module):
    r"""A convolutional network: an activation after every map but the last.

    `h_i = a(W_i * h_(i-1) + b_i)`. From an image to a vector, each stage is a convolution of
    stride 2 to a picture of half the height and width, rounded up (an axis of 1 pixel stays); the
    last picture is flattened and goes through linear layers. From a vector to an image all of it
    is mirrored, where a stage doubles a picture (each pixel repeated, then a convolution), to the
    very sizes that halving gives. From an image to an image there are no linear layers: stages
    halve the larger to the smaller, or double the smaller to the larger, and those that are left
    keep the size, as all do where both sizes agree; an axis that no halving brings to its size
    takes averages, or nearest pixels, at the last stage that changes it.

    Weights start as normals of variance 2 / inputs, the last ones of 0.01 / inputs, biases at 0.
    Sources: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document
    Recognition", 1998; He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, for the start;
    Odena, Dumoulin, Olah, "Deconvolution and Checkerboard Artifacts", 2016, for the doubling.

    Args:
        in_shape: an image (C, H, W), or (H, W) of one channel, of any size; or a vector (n,).
        out_shape: as well; one of the two is an image.
        channels: of each stage, from the larger picture to the smaller; between equals, from in to
            out.
        kernel: width of the convolutions, odd; where a picture is small, no wider than reaches
            all of it from each pixel.
        hidden: width of each linear layer between the smallest picture and the vector, in this
            order; without effect from image to image.
        activation: constructor of the elementwise non-linearity.
        dropout: probability of zeroing a hidden value in training.

    Raises:
        UserError: two vectors, for which there is MLP; a shape of other axes; an option outside
            its range.

    >>> import torch
    >>> Conv((1, 28, 28), (32,), channels=(8, 16))(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 32])
    >>> Conv((16,), (3, 9, 7), channels=(8, 16))(torch.zeros(5, 16)).shape
    torch.Size([5, 3, 9, 7])
    """

    reads_images: ClassVar[bool] = True

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        kernel: int = 3,
        hidden: Sequence[int] = (128,),
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels = widths("Conv", "channels", channels, 1)
        hidden = widths("Conv", "hidden", hidden, 0)
        check_kernel("Conv", kernel)
        check_dropout("Conv", dropout)
        way = way_between("Conv", in_shape, out_shape, channels)
        first, last = way.pictures[0], way.pictures[-1]
        into = [] if way.source else [prod(in_shape), *hidden[::-1], prod(first)]
        out = [] if way.target else [prod(last), *hidden, prod(out_shape)]

        def active(layers: Sequence[nn.Module]) -> list[nn.Module]:
            drop = [nn.Dropout(dropout)] if dropout else []
            return [step for layer in layers for step in (layer, activation(), *drop)]

        before = active([started(Linear(*pair), HE) for pair in pairwise(into)])
        maps = active([Map(*pair, kernel, HE) for pair in pairwise(way.pictures)])
        after = active([started(Linear(*pair), HE) for pair in pairwise(out)])
        end = after or maps
        while not isinstance(end[-1], Linear | Map):
            end.pop()
        started(end[-1], NEAR_ZERO)
        self.layers = Chain(before, maps, after, first, out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *in_shape) to (B, *out_shape)."""
        return self.layers(x)
