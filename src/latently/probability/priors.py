"""Priors p(z): modules whose `forward(context)` returns a distribution over z.

A prior factory is called as `(z_shape, encoder)`, because a VampPrior needs the encoder; the
others ignore it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from latently.errors import UserError
from latently.probability.conditional import Conditional
from latently.probability.distributions import Factorized
from latently.probability.distributions import StandardNormal as StandardNormalDistribution

__all__ = ["Prior", "StandardNormal", "VampPrior"]


class Prior(nn.Module, ABC):
    """A distribution over latents, possibly given a context."""

    @abstractmethod
    def forward(self, context: Tensor | None = None) -> Distribution:
        """p(z|c), of batch shape () or (B,)."""

    def initialise(self, embedded: Tensor) -> None:
        """Starts from embedded rows (n, *embed_shape), once, before training."""
        return None


class StandardNormal(Prior):
    r"""`p(z) = N(z; 0, I)`.

    Args:
        z_shape: shape of one latent.
        encoder: ignored.

    >>> StandardNormal((3,))().log_prob(torch.zeros(3))
    tensor(-2.7568)
    """

    zeros: Tensor

    def __init__(self, z_shape: Sequence[int], encoder: Conditional | None = None) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(tuple(z_shape)))

    def forward(self, context: Tensor | None = None) -> Factorized:
        return Factorized(StandardNormalDistribution(self.zeros), self.zeros.dim())


class VampPrior(Prior):
    r"""A mixture of the encoder's posteriors at learned pseudo-inputs u_k.

    `p(z) = 1/C sum_k q(z | u_k)`. The pseudo-inputs live where the encoder reads: they are
    *embedded* inputs, complete, started at random training rows. A draw picks a component at
    random, then draws from it. Source: Tomczak, Welling, "VAE with a VampPrior", 2018.

    Args:
        z_shape: shape of one latent.
        encoder: the model's encoder.
        components: number of pseudo-inputs.

    Raises:
        UserError: fewer than one component, or no encoder.
    """

    def __init__(
        self, z_shape: Sequence[int], encoder: Conditional | None, *, components: int = 50
    ) -> None:
        super().__init__()
        if components < 1:
            raise UserError(f"VampPrior: components={components} must be at least 1")
        if encoder is None:
            raise UserError("VampPrior needs a model with an encoder; use StandardNormal")
        self.encoder = encoder
        self.pseudo_inputs = nn.Parameter(0.1 * torch.randn(components, *encoder.input_shapes[0]))
        self.extra_shapes = encoder.input_shapes[1:]

    def forward(self, context: Tensor | None = None) -> MixtureSameFamily:
        inputs: list[Tensor] = [self.pseudo_inputs]
        for shape in self.extra_shapes[: len(self.extra_shapes) - (context is not None)]:
            inputs.append(self.pseudo_inputs.new_ones(shape))  # a complete mask
        if context is not None:
            inputs.append(context.unsqueeze(-2))
        components = self.encoder(*inputs)
        weights = Categorical(
            logits=self.pseudo_inputs.new_zeros(components.batch_shape), validate_args=False
        )
        return MixtureSameFamily(weights, components, validate_args=False)

    def initialise(self, embedded: Tensor) -> None:
        """Starts the pseudo-inputs at random embedded rows (repeated if there are too few)."""
        rows = torch.randperm(len(embedded), device=embedded.device)
        chosen = rows.repeat(-(-len(self.pseudo_inputs) // len(rows)))[: len(self.pseudo_inputs)]
        with torch.no_grad():
            self.pseudo_inputs.copy_(embedded[chosen])
