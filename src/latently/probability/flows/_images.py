"""What the specs of image flows share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from latently.errors import UserError
from latently.probability.flows._layers import Layer, Layers
from latently.probability.flows._multiscale import STANDARD, MultiScale, Net, Size, Split, Top
from latently.probability.flows._nets import ImageNet, weights
from latently.probability.flows.base import MOST_WEIGHTS, Bijection, Flow
from latently.probability.flows.couplings import Affine, Coupling


@dataclass(frozen=True)
class ImageFlow(Flow):
    """What flows of images share.

    Attributes:
        scales: how many; each but the first has half as many rows and columns as the one before.
        steps: couplings of a scale.
        hidden: channels of the nets.
        blocks: residual blocks of each net, a 3x3 and a 1x1 convolution each.
        dropout: probability of zeroing a hidden value of a net in training.
        coupling: the map of one value.
    """

    spatial: ClassVar[bool] = True

    scales: int = 2
    steps: int = 8
    hidden: int = 64
    blocks: int = 1
    dropout: float = 0.0
    coupling: Coupling = Affine()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        who = type(self).__name__
        for name in ("scales", "steps", "hidden"):
            self.check_whole(name, getattr(self, name), 1)
        self.check_whole("blocks", self.blocks, 0)
        numeric = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool)
        if not numeric or not 0 <= self.dropout < 1:
            raise UserError(f"{who}: dropout={self.dropout!r} is outside [0, 1)")
        if not isinstance(self.coupling, Coupling):
            raise UserError(
                f"{who}: coupling={self.coupling!r} is no coupling; give one such as "
                "Spline(bins=8)"
            )

    @abstractmethod
    def squeezes(self, number: int) -> bool:
        """Whether a scale, 0 the first, halves rows and columns."""

    @abstractmethod
    def most_scales(self, halvings: int) -> int:
        """The most scales that halve rows and columns so often; 0: there is none."""

    @abstractmethod
    def stage(self, number: int, channels: int, net: Net) -> list[Layer]:
        """The layers of a scale, 0 the first."""

    def build(self, shape: Sequence[int] | int, context: int = 0) -> Bijection:
        """The bijection of images, flattened.

        Built on the CPU, since rotations are taken apart there, then moved to where tensors are
        made at present.

        Args:
            shape: (C, H, W), or (H, W) for one channel.
            context: width of the context, which enters the nets as constant channels; 0: none.

        Raises:
            UserError: another number of axes, rows or columns that cannot be halved as often as
                the scales ask, or more than 2^27 weights.
        """
        size = self._size(shape)
        after = self._sizes(size)
        self._check_weights(size, after, context)
        place = torch.empty(0).device
        with torch.device("cpu"):
            return self._build(size, after, context).to(place)

    def _build(self, size: Size, after: list[Size], context: int) -> MultiScale:
        net = partial(
            ImageNet,
            hidden=self.hidden,
            blocks=self.blocks,
            dropout=self.dropout,
            context=context,
        )
        channels, stages, splits = size[0], [], []
        for number, (wide, *_) in enumerate(after):
            stages.append(Layers(self.stage(number, channels, net)))
            if number < self.scales - 1:
                splits.append(Split(wide, net))
                channels = splits[-1].kept
        left = [(s.leaving, *n[1:]) for s, n in zip(splits, after, strict=False)]
        return MultiScale(size, stages, splits, Top(after[-1], context), [*left, after[-1]])

    def _size(self, shape: Sequence[int] | int) -> Size:
        axes = (shape,) if isinstance(shape, int) else tuple(shape)
        if len(axes) not in (2, 3) or min(axes) < 1:
            raise UserError(
                f"{type(self).__name__}: shape {axes} is not (channels, rows, columns); give rows "
                "such as (1, 8, 8), or a flow of vectors such as NSF"
            )
        channels, rows, columns = (1, *axes)[-3:]
        return channels, rows, columns

    def _sizes(self, size: Size) -> list[Size]:
        """(C, H, W) at the end of each scale, before any channels leave."""
        start, found = size, []
        for number in range(self.scales):
            channels, rows, columns = size
            if self.squeezes(number):
                if rows % 2 or columns % 2:
                    raise UserError(self._odd(start, size, number))
                channels, rows, columns = 4 * channels, rows // 2, columns // 2
            found.append((channels, rows, columns))
            size = channels - channels // 2, rows, columns
        return found

    def _odd(self, start: Size, size: Size, number: int) -> str:
        fewer = self.most_scales(number)
        fix = f"choose scales={fewer}" if fewer else "choose ImageRealNVP(scales=1)"
        return (
            f"{type(self).__name__}: rows of shape {start} have {size[1]} x {size[2]} cells at "
            f"scale {number + 1} of {self.scales}, which cannot be halved; {fix}, or pad or crop "
            "to even sizes"
        )

    def _check_weights(self, size: Size, after: list[Size], context: int) -> None:
        total = 0
        for channels, *_ in after:
            outputs = channels * max(self.coupling.params, STANDARD.params)
            net = weights(channels, outputs, self.hidden, self.blocks, context)
            total += (self.steps + 1) * (net + 2 * channels**2)
        if total > MOST_WEIGHTS:
            raise UserError(
                f"{type(self).__name__}: rows of shape {size} need some {total:.0e} weights, more "
                f"than {MOST_WEIGHTS}; choose fewer steps, a smaller hidden, or smaller images"
            )
