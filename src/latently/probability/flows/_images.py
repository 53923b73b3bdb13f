"""Flows of images over several scales, and what their specs share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from latently.errors import UserError
from latently.probability.flows._layers import Layer, Layers, each, params_last
from latently.probability.flows._nets import ImageNet, weights
from latently.probability.flows.base import MOST_WEIGHTS, Bijection, Flow
from latently.probability.flows.couplings import Affine, Coupling

Net = Callable[[int, int], nn.Module]
Size = tuple[int, int, int]

_STANDARD = Affine(bound=5.0)


class Split(nn.Module):
    """Half of the channels leave, as noise: `eps = (x_b - m(x_a)) / s(x_a)`.

    `|log s|` is below 5; the net that gives it and m starts at zero.

    Args:
        channels: channels before the split.
        net: constructor of the net, called with the numbers of channels in and out.
    """

    def __init__(self, channels: int, net: Net) -> None:
        super().__init__()
        self.kept, self.leaving = channels - channels // 2, channels // 2
        self.net = net(self.kept, self.leaving * _STANDARD.params)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What stays, the noise (B, leaving, H, W), and the log-determinant (B,)."""
        kept, leaving = x.split([self.kept, self.leaving], 1)
        eps, log_slope = _STANDARD.forward(leaving, self._params(kept, context))
        return kept, eps, log_slope.flatten(1).sum(1)

    def inverse(self, kept: Tensor, eps: Tensor, context: Tensor | None = None) -> Tensor:
        """All channels, of those that stayed and the noise."""
        return torch.cat([kept, _STANDARD.inverse(eps, self._params(kept, context))], 1)

    def _params(self, kept: Tensor, context: Tensor | None) -> Tensor:
        return params_last(self.net(kept, context), _STANDARD.params)


class Top(Layer):
    """What is left becomes noise: a shift and a scale of each cell, by a map of the context.

    Args:
        shape: (C, H, W).
        context: width of the context; 0: none.
    """

    def __init__(self, shape: Size, context: int) -> None:
        super().__init__()
        self.params = nn.Parameter(torch.zeros(_STANDARD.params * shape[0], *shape[1:]))
        self.given: nn.Module | None = None
        if context:
            self.given = nn.Conv2d(context, _STANDARD.params * shape[0], 1, bias=False)
            nn.init.zeros_(self.given.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, log_slope = _STANDARD.forward(x, self._params(x, context))
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        return _STANDARD.inverse(y, self._params(y, context))

    def _params(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.params.expand(len(x), *self.params.shape)
        if self.given is not None:
            h = h + self.given(context).to(h.dtype)
        return params_last(h, _STANDARD.params)


class MultiScale(Bijection):
    """Stages of layers; after each but the last, half of the channels leave as noise.

    Args:
        shape: (C, H, W) of one row.
        stages: the layers of each scale, with what leaves after each but the last.
        top: the last layer.
        sizes: (C, H, W) of what leaves each scale, the top's last.
    """

    def __init__(
        self,
        shape: Size,
        stages: Sequence[Layer],
        splits: Sequence[Split],
        top: Layer,
        sizes: Sequence[Size],
    ) -> None:
        super().__init__()
        self.shape, self.sizes = shape, tuple(sizes)
        self.stages, self.splits = nn.ModuleList(stages), nn.ModuleList(splits)
        self.top = top

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`f(x)`, (*, D), and `log |det df/dx|`, (*,), of x (*, D) given c (*, C)."""
        batch, x, context = self._images(x, context)
        log_det, noise = x.new_zeros(len(x)), []
        for number, stage in enumerate(self.stages):
            x, change = stage(x, context)
            log_det = log_det + change
            if number < len(self.splits):
                x, eps, change = self.splits[number](x, context)
                log_det = log_det + change
                noise.append(eps.flatten(1))
        x, change = self.top(x, context)
        y = torch.cat([*noise, x.flatten(1)], 1)
        return y.view(*batch, -1), (log_det + change).view(batch)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """The x with `f(x) = y`."""
        batch, y, context = self._images(y, context)
        pieces = y.flatten(1).split([prod(size) for size in self.sizes], 1)
        *noise, x = (p.unflatten(1, s) for p, s in zip(pieces, self.sizes, strict=True))
        x = self.top.inverse(x, context)
        for number in reversed(range(len(self.stages))):
            if number < len(self.splits):
                x = each(self.splits)[number].inverse(x, noise[number], context)
            x = each(self.stages)[number].inverse(x, context)
        return x.reshape(*batch, -1)

    def initialise(self, x: Tensor, context: Tensor | None = None) -> None:
        """Normalises each channel of every layer by rows (n, D), given c (n, C)."""
        with torch.no_grad():
            _, x, context = self._images(x, context)
            for number, stage in enumerate(each(self.stages)):
                x = stage.initialise(x, context)
                if number < len(self.splits):
                    x = self.splits[number](x, context)[0]

    def _images(
        self, x: Tensor, context: Tensor | None
    ) -> tuple[torch.Size, Tensor, Tensor | None]:
        """The batch shape, rows as images (B, C, H, W) and the context as (B, K, 1, 1)."""
        batch = x.shape[:-1]
        if context is not None:
            batch = torch.broadcast_shapes(batch, context.shape[:-1])
            context = context.expand(*batch, -1).reshape(-1, context.shape[-1], 1, 1)
        return batch, x.expand(*batch, -1).reshape(-1, *self.shape), context


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
            outputs = channels * max(self.coupling.params, _STANDARD.params)
            net = weights(channels, outputs, self.hidden, self.blocks, context)
            total += (self.steps + 1) * (net + 2 * channels**2)
        if total > MOST_WEIGHTS:
            raise UserError(
                f"{type(self).__name__}: rows of shape {size} need some {total:.0e} weights, more "
                f"than {MOST_WEIGHTS}; choose fewer steps, a smaller hidden, or smaller images"
            )
