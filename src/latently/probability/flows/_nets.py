"""The net of the image flows: images in, an image of as many rows and columns out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_FAR = 10.0  # what nets see of a value is below it: none runs away far out


class ImageNet(nn.Module):
    """A small residual net of convolutions that starts at zero everywhere.

    `h = W x + V c`, then `h = h + W_2 d(a(W_1 a(h)))` per block, with the activation a(h) the
    sigmoid linear unit and d dropout, then `y = W_0 a(h)`, whose weights start at 0. V and W_2
    are 1x1 convolutions, the others 3x3. It sees `10 tanh(x / 10)`.

    Args:
        inputs: channels of x.
        outputs: channels of y.
        hidden: channels between.
        blocks: residual blocks.
        dropout: probability of zeroing a hidden channel's cell in training.
        context: channels of c, (B, context, 1, 1) or as large as x; 0: none.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int,
        blocks: int,
        dropout: float,
        context: int,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.given = nn.Conv2d(context, hidden, 1, bias=False) if context else None
        self.blocks = nn.ModuleList(_block(hidden, dropout) for _ in range(blocks))
        self.last = nn.Conv2d(hidden, outputs, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, outputs, H, W) from x (B, inputs, H, W)."""
        h = self.first(_FAR * (x / _FAR).tanh())
        if self.given is not None:
            h = h + self.given(context)
        for block in self.blocks:
            h = h + block(h)
        return self.last(functional.silu(h)).to(x.dtype)


def weights(inputs: int, outputs: int, hidden: int, blocks: int, context: int) -> int:
    """How many weights an `ImageNet` has, but for biases."""
    return hidden * (9 * (inputs + outputs) + 10 * blocks * hidden + context)


def _block(hidden: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.SiLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.SiLU()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Conv2d(hidden, hidden, 1))
