"""The VAE of the timings, 784-200-200-50 with tanh: ours, and the same by hand in PyTorch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

import latently
from latently.nets import MLP

__all__ = ["ByHand", "ours"]


def ours(shape: tuple[int, ...] = (1, 28, 28)) -> latently.Model:
    """Our VAE, seed 0."""
    torch.manual_seed(0)
    net = partial(MLP, hidden=(200, 200), activation=nn.Tanh)
    return latently.vae(shape, latents=50, net=net)


class ByHand(nn.Module):
    """The same network as one would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self._net(784, 100)
        self.decoder = self._net(50, 784)

    @staticmethod
    def _net(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(inputs, 200),
            nn.Tanh(),
            nn.Linear(200, 200),
            nn.Tanh(),
            nn.Linear(200, outputs),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, mean and log variance of (B, 784)."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(z), mean, log_variance
