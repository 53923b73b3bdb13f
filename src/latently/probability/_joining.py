"""How the inputs of a network become one: stacked, flattened, or as channels of an image."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from latently.errors import UserError

Shape = tuple[int, ...]


class Joining:
    """One input made of several, for event shapes that are known.

    Along the first axis where their other axes agree, else flattened. For a network that reads
    images, to one image (C, H, W) if there is any among them: an image (C, H, W) gives its
    channels, rows (H, W) are one, (k H, W) are k of them, and a vector (n,) gives n constant ones.

    Args:
        shapes: event shape of each input.
        reads_images: whether the network reads images.

    Attributes:
        shape: event shape of the result; that of the input where there is one only.

    Raises:
        UserError: the network reads images, and these are of unlike sizes.
    """

    def __init__(self, shapes: Sequence[Shape], reads_images: bool) -> None:
        self.shapes = tuple(shapes)
        images = [shape for shape in self.shapes if len(shape) > 1]
        spread = reads_images and bool(images) and len(self.shapes) > 1
        self.size = _size(images) if spread else None
        first = self.shapes[0]
        self.stacked = all(len(s) == len(first) and s[1:] == first[1:] for s in self.shapes)
        if self.size is not None:
            self.shape: Shape = (sum(map(self._channels, self.shapes)), *self.size)
        elif self.stacked:
            self.shape = (sum(s[0] for s in self.shapes), *first[1:])
        else:
            self.shape = (sum(map(prod, self.shapes)),)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """(*lead, *shape) from inputs (*, *event) whose leading axes broadcast to `lead`."""
        if len(inputs) == 1:
            return inputs[0]
        pairs = list(zip(inputs, self.shapes, strict=True))
        lead = torch.broadcast_shapes(*(v.shape[: v.dim() - len(s)] for v, s in pairs))
        whole = [v.to(inputs[0].dtype).expand(*lead, *s) for v, s in pairs]
        if self.size is not None:
            return torch.cat([self._image(v, len(lead)) for v in whole], dim=len(lead))
        if self.stacked:
            return torch.cat(whole, dim=len(lead))
        return torch.cat([v.flatten(len(lead)) for v in whole], dim=-1)

    def _image(self, value: Tensor, ndim: int) -> Tensor:
        """The channels (*lead, c, H, W) of one input."""
        lead, shape = value.shape[:ndim], value.shape[ndim:]
        assert self.size is not None
        if len(shape) == 1:
            return value[..., None, None].expand(*lead, *shape, *self.size)
        return value.reshape(*lead, self._channels(shape), *self.size)

    def _channels(self, shape: Sequence[int]) -> int:
        assert self.size is not None
        return shape[0] if len(shape) == 1 else prod(shape) // prod(self.size)


def as_image(param_shape: Shape, shape: Shape) -> Shape:
    """The raw parameters (k H, W) of events (H, W) as an image (k, H, W); others as they are."""
    if len(shape) == len(param_shape) == 2 and param_shape[0] > shape[0]:
        blocks, rest = divmod(param_shape[0], shape[0])
        if not rest and param_shape[1] == shape[1]:
            return (blocks, *shape)
    return param_shape


def _size(images: Sequence[Shape]) -> tuple[int, int]:
    """Height and width that all images share; (k H, W) counts as k images."""
    height, width = min(shape[-2] for shape in images), images[0][-1]
    for shape in images:
        agrees = len(shape) == 2 and shape[0] % height == 0
        agrees = agrees or (len(shape) == 3 and shape[1] == height)
        if not agrees or shape[-1] != width:
            raise UserError(
                f"inputs of shapes {' and '.join(map(str, images))} are no images of one size, "
                "and the network reads one image; give them one height and width, or take "
                "net=MLP, which flattens them"
            )
    return height, width
