"""RealNVP of images: couplings on checkerboards and halves of channels."""

from __future__ import annotations

from dataclasses import dataclass

from latently.probability.flows._images import ImageFlow
from latently.probability.flows._layers import ActNorm, Checkerboard, Halves, Layer, Squeeze
from latently.probability.flows._multiscale import Net

__all__ = ["ImageRealNVP"]


@dataclass(frozen=True)
class ImageRealNVP(ImageFlow):
    r"""A flow of images: couplings on checkerboards, then on halves of the channels.

    Each scale takes `steps` couplings of one colour of a checkerboard by a net of the other, in
    turn, then, except in the last, turns squares of 2 x 2 cells into channels and takes `steps`
    couplings of halves of the channels; the last has one more on its checkerboard instead. Actnorm
    stands before every coupling, where the paper has batch normalisation. Between scales half of
    the channels leave, standardised by a normal that a net of the others gives. One pass forwards,
    one back, to some 1e-5 of standardised values in float32 (1e-12 in float64). `scales=1` halves
    nothing: it takes images of any size. Start it by `initialise` on rows. Source: Dinh,
    Sohl-Dickstein, Bengio, "Density Estimation using Real NVP", 2017.

    Attributes:
        scales: how many; rows and columns must be divisible by 2^(scales - 1).
        steps: couplings of either kind in a scale.
        hidden: channels of the nets.
        blocks: residual blocks of each net, a 3x3 and a 1x1 convolution each.
        dropout: probability of zeroing a hidden value of a net in training.
        coupling: the map of one value: `Additive`, `Affine`, `Spline` or `LogisticMixture`.

    Raises:
        UserError: an option outside its range; when built, rows that cannot be halved so often.

    >>> import torch
    >>> f = ImageRealNVP(scales=1, steps=2, hidden=8).build((3, 5, 7)).double()
    >>> x = torch.randn(5, 105).double()
    >>> bool((f.inverse(f(x)[0]) - x).abs().max() < 1e-9)
    True
    """

    steps: int = 3

    def squeezes(self, number: int) -> bool:
        return number < self.scales - 1

    def most_scales(self, halvings: int) -> int:
        return halvings + 1

    def stage(self, number: int, channels: int, net: Net) -> list[Layer]:
        squeezed = self.squeezes(number)
        layers: list[Layer] = []
        for k in range(self.steps if squeezed else self.steps + 1):
            board = Checkerboard(channels, k % 2 == 1, self.coupling, net)
            layers += [ActNorm(channels), board]
        if squeezed:
            layers.append(Squeeze())
            wide = 4 * channels
            for k in range(self.steps):
                layers += [ActNorm(wide), Halves(wide, k % 2 == 1, self.coupling, net)]
        return layers
