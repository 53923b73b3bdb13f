"""Invertible layers of images (B, C, H, W), each with its log-determinant (B,)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latently.probability.flows.couplings import Coupling

_LEAST_DEVIATION = 1e-6  # a channel that changes by less keeps its scale


class Layer(nn.Module, ABC):
    """A bijection of images given a context (B, K, 1, 1) or (B, K, H, W)."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`f(x)` and `log |det df/dx|`, (B,)."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """The x with `f(x) = y`."""

    def initialise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets what starts from data, and returns `f(x)`."""
        return self(x, context)[0]


class Layers(Layer):
    """One layer after the other."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for layer in self.layers:
            x, change = layer(x, context)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        for layer in reversed(each(self.layers)):
            y = layer.inverse(y, context)
        return y

    def initialise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for layer in each(self.layers):
            x = layer.initialise(x, context)
        return x


class Squeeze(Layer):
    """Squares of 2 x 2 cells become channels: (C, H, W) to (4 C, H / 2, W / 2)."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return functional.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        return functional.pixel_shuffle(y, 2)


class ActNorm(Layer):
    """`y = (x - m) exp(a)` per channel; `initialise` makes mean 0 and variance 1.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_slope = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = self.log_slope.sum() * (x.shape[-2] * x.shape[-1])
        return (x - self.loc) * self.log_slope.exp(), log_det.expand(len(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        return y * (-self.log_slope).exp() + self.loc

    def initialise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            loc = x.mean((0, 2, 3), keepdim=True)
            deviation = (x - loc).square().mean((0, 2, 3), keepdim=True).sqrt()
            self.loc.copy_(loc[0])
            changes = deviation[0] > _LEAST_DEVIATION
            self.log_slope.copy_(-torch.where(changes, deviation[0], 1).log())
        return self(x)[0]


class Mixing(Layer):
    r"""A 1x1 convolution `y = P L U x` of the channels of every cell.

    L is lower triangular with ones on its diagonal, U upper triangular with diagonal
    `sign exp(a)`, P a fixed permutation: `log |det| = H W sum a`. It starts at a random rotation.
    Mixed precision leaves it alone: a rounded matrix would not have the determinant that counts.

    Args:
        channels: C.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        dtype = torch.get_default_dtype()
        self.register_buffer("permutation", permutation.argmax(1))
        self.register_buffer("sign", diagonal.sign().to(dtype))
        self.log_diagonal = nn.Parameter(diagonal.abs().log().to(dtype))
        self.lower = nn.Parameter(lower.tril(-1).to(dtype))
        self.upper = nn.Parameter(upper.triu(1).to(dtype))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = self.log_diagonal.sum() * (x.shape[-2] * x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            lower, upper = self._triangles()
            y = _of_cells((lower @ upper)[self.permutation], x)
        return y, log_det.expand(len(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            lower, upper = self._triangles()
            one = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
            back = torch.linalg.solve_triangular(lower, one, upper=False)
            back = torch.linalg.solve_triangular(upper, back, upper=True)
            return _of_cells(back, y[:, self.permutation.argsort()])

    def _triangles(self) -> tuple[Tensor, Tensor]:
        one = torch.eye(len(self.lower), dtype=self.lower.dtype, device=self.lower.device)
        diagonal = (self.sign * self.log_diagonal.exp()).diag_embed()
        return self.lower.tril(-1) + one, self.upper.triu(1) + diagonal


class Halves(Layer):
    """A coupling of one half of the channels, by a net of the other half.

    Args:
        channels: C, at least 2.
        second: whether the second half stays, not the first.
        coupling: the map of one value.
        net: constructor of the net, called with the numbers of channels in and out.
    """

    def __init__(
        self, channels: int, second: bool, coupling: Coupling, net: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.first, self.second, self.coupling = channels // 2, second, coupling
        moved = self.first if second else channels - self.first
        self.net = net(channels - moved, moved * coupling.params)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._apart(x)
        moved, log_slope = self.coupling.forward(moved, self._params(kept, context))
        return self._together(kept, moved), log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        kept, moved = self._apart(y)
        return self._together(kept, self.coupling.inverse(moved, self._params(kept, context)))

    def _params(self, kept: Tensor, context: Tensor | None) -> Tensor:
        return params_last(self.net(kept, context), self.coupling.params)

    def _apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x[:, : self.first], x[:, self.first :]
        return (second, first) if self.second else (first, second)

    def _together(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((moved, kept) if self.second else (kept, moved), 1)


class Checkerboard(Layer):
    """A coupling of the cells of one colour of a checkerboard, by a net of the other colour's.

    Args:
        channels: C.
        odd: whether the cells with an odd sum of row and column stay, not those with an even one.
        coupling: the map of one value.
        net: constructor of the net, called with the numbers of channels in and out.
    """

    def __init__(
        self, channels: int, odd: bool, coupling: Coupling, net: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.odd, self.coupling = odd, coupling
        self.net = net(channels + 1, channels * coupling.params)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        stays = self._stays(x)
        y, log_slope = self.coupling.forward(x, self._params(x, stays, context))
        return torch.where(stays, x, y), log_slope.masked_fill(stays, 0).flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        stays = self._stays(y)
        x = self.coupling.inverse(y, self._params(y, stays, context))
        return torch.where(stays, y, x)

    def _params(self, x: Tensor, stays: Tensor, context: Tensor | None) -> Tensor:
        colour = stays.to(x.dtype).expand(len(x), 1, *stays.shape)
        seen = torch.cat([x.masked_fill(~stays, 0), colour], 1)
        return params_last(self.net(seen, context), self.coupling.params)

    def _stays(self, x: Tensor) -> Tensor:
        """(H, W), true where cells stay."""
        rows, columns = (torch.arange(n, device=x.device) for n in x.shape[-2:])
        return (rows[:, None] + columns) % 2 == int(self.odd)


def each(modules: nn.ModuleList) -> list[Any]:
    """Modules that have more than `nn.Module` says."""
    return list(modules)


def params_last(h: Tensor, params: int) -> Tensor:
    """(B, params * C, H, W) as (B, C, H, W, params)."""
    return h.unflatten(1, (params, -1)).movedim(1, -1)


def _of_cells(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix times the channels of every cell."""
    return (matrix @ x.flatten(2)).view_as(x)
