"""One model of a report with all that its sections read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latently.data import Data
from latently.errors import UserError
from latently.inference.noise import derive
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.latents import Layer
from latently.models import Model
from latently.probability.families import Categorical

__all__ = ["Subject", "shown_context", "shuffled"]

_BLOCK = 64  # images decoded at a time


@dataclass(frozen=True)
class Subject:
    """A model, the rows it is shown on, and how.

    Attributes:
        model: the model.
        data: the rows of the report.
        name: what the report calls the model.
        index: its position; it gives the colour.
        seed: of the report.
        layers: what the posteriors of the first rows say of each layer of latents.
        frame: how images are drawn; None for rows that are no images.
    """

    model: Model
    data: Data
    name: str
    index: int
    seed: int
    layers: Sequence[Layer]
    frame: Frame | None

    @property
    def only_layer(self) -> Layer | None:
        """The layer of latents, where there is one."""
        return self.layers[0] if len(self.layers) == 1 and self.layers[0].size else None

    @property
    def size(self) -> int:
        """Numbers in a code, all layers together; 0 where that is unknown."""
        return sum(layer.size for layer in self.layers)

    @property
    def scored(self) -> bool:
        """Whether the model has a density."""
        return self.model.density is not None

    @property
    def draws(self) -> bool:
        """Whether rows can be drawn: by a density of its own, or one put on codes afterwards."""
        return self.scored or getattr(self.model, "codes", None) is not None

    @property
    def nominal(self) -> bool:
        """Whether values are names, or 0 and 1: then quantiles of them say nothing."""
        family = getattr(getattr(self.model, "decoder", None), "family", None)
        return self.data.levels == 2 or isinstance(family, Categorical)

    def context(self, rows: Tensor | slice | list[int]) -> Tensor | None:
        """The context of some rows."""
        return None if self.data.context is None else self.data.context[rows]

    def means(self, z: Tensor, context: Tensor | None = None) -> Tensor | None:
        """The means of p(x|z), (n, *shape), of latents (n, *Z); None where they are unknown.

        A context has one row for all or one for each.
        """
        if context is not None:
            context = context.expand(len(z), -1)
        parts = []
        with torch.no_grad():
            for rows in torch.arange(len(z)).split(_BLOCK):
                here = None if context is None else context[rows].to(self.model.device)
                latents = z[rows].to(self.model.device, self.model.dtype)[None]
                try:
                    parts.append(self.model.likelihood((latents,), here).mean[0].cpu())
                except (NotImplementedError, UserError):
                    return None
        return torch.cat(parts)

    def label(self, row: int) -> str:
        """The label of a row in words, "" if there is none."""
        labels = self.data.labels
        return "" if labels is None else f"label {self.data.label_name(labels[row])}"


def shuffled(n: int, seed: int, use: str) -> Tensor:
    """The numbers 0 to n - 1 in an order drawn by seed."""
    generator = torch.Generator().manual_seed(derive(seed, "report", use))
    return torch.randperm(n, generator=generator)


def shown_context(data: Data, row: Tensor) -> str:
    """A context in words: "label 3", or its numbers."""
    conditions = data.conditions
    if conditions is None:
        return "context " + ", ".join(f"{value:.3g}" for value in row.tolist())
    shown = conditions.show(row)
    if conditions.name == "label" and conditions.classes:
        shown = data.label_name(float(shown))
    return f"{conditions.name} {shown}"
