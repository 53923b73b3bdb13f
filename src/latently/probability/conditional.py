"""Conditional distributions: `family(net(inputs))`, and draws from distributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from latently.errors import UserError
from latently.probability._joining import Joining, as_image
from latently.probability.families.base import Family

__all__ = [
    "Conditional",
    "Draw",
    "check_context",
    "draw",
    "draw_centre",
    "draw_mean",
    "flat_call",
    "shown",
]

Draw = Callable[[Distribution, int], Tensor]


def draw(distribution: Distribution, samples: int) -> Tensor:
    """`samples` draws, (samples, *batch, *event), with a pathwise gradient where one exists."""
    if distribution.has_rsample:
        return distribution.rsample(torch.Size((samples,)))
    return distribution.sample(torch.Size((samples,)))


def draw_mean(distribution: Distribution, samples: int) -> Tensor:
    """The mean in place of every draw: what `encode` uses."""
    mean = distribution.mean
    return mean.expand(samples, *mean.shape)


def draw_centre(distribution: Distribution, samples: int) -> Tensor:
    """A value in place of every draw: what `reconstruct` uses.

    The mean where draws have a pathwise gradient, else the mode: the mean of discrete latents is
    no value of theirs, and no decoder has met it.
    """
    centre = distribution.mean if distribution.has_rsample else distribution.mode
    return centre.expand(samples, *centre.shape)


def flat_call(net: nn.Module, x: Tensor, ndim: int) -> Tensor:
    """Calls a network with all leading axes of (*, *event) folded into one batch axis."""
    lead = x.shape[: x.dim() - ndim]
    if len(lead) == 1:
        return net(x)
    out = net(x.reshape(-1, *x.shape[x.dim() - ndim :]))
    return out.reshape(*lead, *out.shape[1:])


def check_context(context: Tensor | None, contexts: int, who: str) -> None:
    """Holds a context against the width that `who` was built for.

    Raises:
        UserError: it is missing, of another width, or given where none is read.
    """
    if context is None:
        if contexts:
            raise UserError(
                f"{who} was built with contexts={contexts} and was given no context; pass "
                f"context=c of shape (rows, {contexts})"
            )
    elif not contexts:
        raise UserError(
            f"{who} was built without a context (contexts=0) and was given one of shape "
            f"{tuple(context.shape)}; leave it out, or build with contexts={context.shape[-1]}"
        )
    elif context.shape[-1] != contexts:
        raise UserError(
            f"{who} was built with contexts={contexts} and was given a context of shape "
            f"{tuple(context.shape)}; its rows must have {contexts} values"
        )


def shown(
    family: Family, x: Tensor, mask: Tensor | None, *, with_mask: bool
) -> tuple[Tensor, ...]:
    """What an encoder reads of x: scaled, zero where missing, then the mask if it wants it."""
    embedded = family.embed(x, mask)
    if not with_mask:
        return (embedded,)
    return embedded, torch.ones_like(x) if mask is None else mask.to(x.dtype)


class Conditional(nn.Module):
    """A conditional distribution: `forward(*inputs)` is `family(offset + net(inputs))`.

    Inputs broadcast over their leading axes and are joined: along the first axis where their
    other axes agree, else flattened. An input built in must be given at every call, in the order
    of the shapes and the context last.

    A network that reads images, one whose constructor has an attribute `reads_images = True`,
    gets one image instead, if any input is one: (C, H, W) gives its channels, (H, W) is one
    channel, and a vector (n,), such as a context, is spread over n constant channels. The
    parameters of a family over (H, W) are then channels, too.

    `offset` is a buffer that `initialise` sets from data, so that training starts at the best
    distribution that ignores the inputs.

    Args:
        net: constructor `(in_shape, out_shape) -> nn.Module`, or a `partial` of one.
        family: what to do with its output.
        *input_shapes: event shape of each input but the context.
        contexts: width of the context, the last input; 0: there is none.

    Attributes:
        contexts: as given; priors read it from the encoder.
        input_shapes: event shape of each input, the context among them.

    Raises:
        UserError: `contexts` is negative, or images of unlike sizes for a network that reads
            images; when called, an input is missing, too many, or the context of another width.

    >>> from latently.nets import MLP
    >>> from latently.probability.families import Normal
    >>> encoder = Conditional(MLP, Normal((2,)), (5,), contexts=3)
    >>> encoder(torch.zeros(4, 5), torch.zeros(4, 3)).mean.shape
    torch.Size([4, 2])
    """

    offset: Tensor

    def __init__(
        self,
        net: Callable[[Sequence[int], Sequence[int]], nn.Module],
        family: Family,
        *input_shapes: Sequence[int],
        contexts: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(contexts, int) or contexts < 0:
            raise UserError(f"contexts={contexts!r} must be a width of at least 1, or 0 for none")
        self.family, self.contexts = family, contexts
        context_shape = [(contexts,)] if contexts else []
        self.input_shapes = tuple(tuple(shape) for shape in [*input_shapes, *context_shape])
        spatial = _reads_images(net)
        self._join = Joining(self.input_shapes, spatial)
        self.in_shape = self._join.shape
        out_shape = family.param_shape
        if spatial:
            out_shape = as_image(out_shape, family.shape)
        self._packed = out_shape != family.param_shape
        self.net = net(self.in_shape, out_shape)
        self.register_buffer("offset", torch.zeros(family.param_shape))
        self._score = (
            _Score(family),
        )  # in a tuple: not a submodule, its tensors are the family's

    def params(self, *inputs: Tensor | None) -> Tensor:
        """Raw parameters h, (*lead, *param_shape), in float32 or wider."""
        x = self._join(self._given(inputs)).to(self.offset.dtype)
        h = flat_call(self.net, x, len(self.in_shape))
        h = h.flatten(-3, -2) if self._packed else h
        h = h if h.dtype == torch.float64 else h.float()
        return h + self.offset

    def forward(self, *inputs: Tensor | None) -> Distribution:
        """The distribution given the inputs, of batch shape (*lead)."""
        return self.family(self.params(*inputs))

    def held_log_prob(self, h: Tensor, value: Tensor) -> Tensor:
        """`log q(value; h)` with h and the family's parameters held constant.

        The gradient then flows through `value` only: the path derivative of the sticking the
        landing and doubly reparameterised estimators.
        """
        score = self._score[0]
        constants = {name: p.detach() for name, p in score.named_parameters()}
        return functional_call(score, constants, (h.detach(), value))

    def initialise(self, marginal: Tensor | None) -> None:
        """Starts at the given raw parameters, whatever the inputs."""
        if marginal is not None:
            self.offset.copy_(marginal)

    def _given(self, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        if self.contexts:
            has_context = len(inputs) >= len(self.input_shapes)
            check_context(inputs[-1] if has_context else None, self.contexts, "a conditional")
        given = [value for value in inputs if value is not None]
        if len(given) != len(self.input_shapes):
            raise UserError(
                f"{len(given)} inputs for a conditional built on {len(self.input_shapes)}; "
                "a context or mask it was built with must be given, and no other"
            )
        return given


class _Score(nn.Module):
    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    def forward(self, h: Tensor, value: Tensor) -> Any:
        return self.family(h).log_prob(value)


def _reads_images(net: Callable[..., nn.Module]) -> bool:
    """Whether a network says that it reads images, seen through `partial`."""
    while isinstance(net, partial):
        net = net.func
    return bool(getattr(net, "reads_images", False))
