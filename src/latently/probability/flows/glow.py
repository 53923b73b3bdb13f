"""Glow: a flow of images of couplings and 1x1 convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from latently.probability.flows._images import ImageFlow
from latently.probability.flows._layers import ActNorm, Halves, Layer, Mixing, Squeeze
from latently.probability.flows._multiscale import Net

__all__ = ["Glow"]


@dataclass(frozen=True)
class Glow(ImageFlow):
    r"""A flow of images: actnorm, an invertible 1x1 convolution and a coupling, in turn.

    Each scale turns squares of 2 x 2 cells into channels, then takes `steps` times

        actnorm:   y = (x - m) exp(a) per channel, which starts with mean 0 and variance 1;
        mixing:    y = P L U x of the channels of a cell, which starts at a random rotation;
        coupling:  half of the channels, by a convolutional net of the other half, at first
                   the identity or near it.

    Between scales half of the channels leave, standardised by a normal that a net of the others
    gives. One pass forwards, one back, to some 1e-5 of standardised values in float32 (1e-12 in
    float64). Start it by `initialise` on rows. With `dropout`, training sees another flow at each
    pass, and only in evaluation is the inverse that of the same one.
    Source: Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018.

    Attributes:
        scales: how many; rows and columns must be divisible by 2^scales.
        steps: couplings of a scale.
        hidden: channels of the nets.
        blocks: residual blocks of each net, a 3x3 and a 1x1 convolution each.
        dropout: probability of zeroing a hidden value of a net in training.
        coupling: the map of one value: `Additive`, `Affine`, `Spline` or `LogisticMixture`.

    Raises:
        UserError: an option outside its range; when built, rows that cannot be halved so often.

    >>> import torch
    >>> f = Glow(scales=2, steps=2, hidden=8).build((1, 8, 8)).double()
    >>> x = torch.randn(5, 64).double()
    >>> bool((f.inverse(f(x)[0]) - x).abs().max() < 1e-9)
    True
    """

    def squeezes(self, number: int) -> bool:
        return True

    def most_scales(self, halvings: int) -> int:
        return halvings

    def stage(self, number: int, channels: int, net: Net) -> list[Layer]:
        wide = 4 * channels
        layers: list[Layer] = [Squeeze()]
        for _ in range(self.steps):
            layers += [ActNorm(wide), Mixing(wide), Halves(wide, False, self.coupling, net)]
        return layers
