"""Bijections of images over several scales: at the end of each, half of the channels leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from latently.probability.flows._layers import Layer, each, params_last
from latently.probability.flows.base import Bijection
from latently.probability.flows.couplings import Affine

Net = Callable[[int, int], nn.Module]
Size = tuple[int, int, int]

STANDARD = Affine(bound=5.0)  # how what leaves is standardised


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
        self.net = net(self.kept, self.leaving * STANDARD.params)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What stays, the noise (B, leaving, H, W), and the log-determinant (B,)."""
        kept, leaving = x.split([self.kept, self.leaving], 1)
        eps, log_slope = STANDARD.forward(leaving, self._params(kept, context))
        return kept, eps, log_slope.flatten(1).sum(1)

    def inverse(self, kept: Tensor, eps: Tensor, context: Tensor | None = None) -> Tensor:
        """All channels, of those that stayed and the noise."""
        return torch.cat([kept, STANDARD.inverse(eps, self._params(kept, context))], 1)

    def _params(self, kept: Tensor, context: Tensor | None) -> Tensor:
        return params_last(self.net(kept, context), STANDARD.params)


class Top(Layer):
    """What is left becomes noise: a shift and a scale of each cell, by a map of the context.

    Args:
        shape: (C, H, W).
        context: width of the context; 0: none.
    """

    def __init__(self, shape: Size, context: int) -> None:
        super().__init__()
        self.params = nn.Parameter(torch.zeros(STANDARD.params * shape[0], *shape[1:]))
        self.given: nn.Module | None = None
        if context:
            self.given = nn.Conv2d(context, STANDARD.params * shape[0], 1, bias=False)
            nn.init.zeros_(self.given.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, log_slope = STANDARD.forward(x, self._params(x, context))
        return y, log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        return STANDARD.inverse(y, self._params(y, context))

    def _params(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.params.expand(len(x), *self.params.shape)
        if self.given is not None:
            h = h + self.given(context).to(h.dtype)
        return params_last(h, STANDARD.params)


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
