"""A classifier on a model's codes: encoder and linear head, trained together."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latently.errors import UserError
from latently.inference.noise import derive, seeded
from latently.inference.options import check_count, check_number
from latently.inference.rows import Rows
from latently.models import Model
from latently.training._readout import Scale
from latently.training.loop import BatchOrder
from latently.training.run import moved

__all__ = [
    "BLOCK",
    "Budget",
    "Classifier",
    "features",
    "fresh",
    "placed",
    "predicted",
    "trained",
    "untold",
]

BLOCK = 1000  # rows at a time outside of training
_PASSES = 5


@dataclass(frozen=True)
class Budget:
    """How long classifiers are trained, whatever they start from; nothing is chosen on the way.

    Args:
        steps: of Adam, at least. Where five passes over the rows take more, so many, and at most
            five times `steps`.
        batch_size: rows a step, or all there are.
        learning_rate: at the start; it falls to 0 by half a cosine.

    Raises:
        UserError: counts below 1, or a rate that is not positive.

    >>> [Budget().steps_for(rows) for rows in (10, 1000, 60_000, 1_000_000)]
    [1000, 1000, 3000, 5000]
    """

    steps: int = 1000
    batch_size: int = 100
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_count(self, "steps")
        check_count(self, "batch_size")
        check_number(self, "learning_rate", scheduled=False)
        if self.learning_rate <= 0:
            raise UserError(f"Budget: learning_rate={self.learning_rate!r} must be above 0")

    def steps_for(self, rows: int) -> int:
        """Steps on so many rows."""
        passes = math.ceil(_PASSES * rows / self.batch_size)
        return min(_PASSES * self.steps, max(self.steps, passes))


class Classifier(nn.Module):
    """Log-odds of classes: a linear map of a model's standardised codes, 0 at first.

    Args:
        model: it is trained with the head.
        scale: of the codes that it starts from.
        classes: K.
    """

    def __init__(self, model: Model, scale: Scale, classes: int) -> None:
        super().__init__()
        self.model, self.scale = model, scale
        like = scale.loc
        self.weight = nn.Parameter(like.new_zeros(classes, len(like)))
        self.bias = nn.Parameter(like.new_zeros(classes))

    def forward(self, rows: Rows) -> Tensor:
        """(B, K)."""
        codes = self.scale(features(self.model, *rows))
        return nn.functional.linear(codes, self.weight, self.bias)


def features(
    model: Any, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
) -> Tensor:
    """Codes of rows: the posterior means of all layers, flat and side by side, (B, D).

    Of an invertible model its base space. They carry gradients, as a classifier that is trained
    with its encoder needs.

    Args:
        model: any model.
        x: rows, (B, *shape).
        mask: True where observed.
        context: (B, C), for models of p(x|c).

    >>> from latently.models import PPCA
    >>> features(PPCA((3,), 2), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    return torch.cat([z.flatten(1) for z in model.encoded(x, mask, context)], 1)


def trained(
    model: Model, rows: Rows, y: Tensor, scale: Scale, classes: int, budget: Budget, seed: int
) -> Classifier:
    """A classifier on the model, which is trained in place.

    Args:
        model: where it starts.
        rows: n labelled rows.
        y: (n,), from 0 to classes - 1.
        scale: of the codes of the model as it stands.
        classes: K.
        budget: how long.
        seed: of the order of rows, and of what the model draws in training.
    """
    classifier = Classifier(model, scale, classes).train()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=budget.learning_rate)
    order = BatchOrder(len(y), budget.batch_size, seed)
    steps = budget.steps_for(len(y))
    with seeded(derive(seed, "training"), model.device), torch.enable_grad():
        for step in range(steps):
            share = 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = share * budget.learning_rate
            at = order(step)
            logits = classifier(placed(rows.part(at), model.device))
            loss = nn.functional.cross_entropy(logits, y[at].to(logits.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier.eval()


@torch.no_grad()
def predicted(classifier: Classifier, rows: Rows) -> Tensor:
    """The likeliest class of every row, (n,), on the CPU."""
    device = classifier.model.device
    parts = (rows.part(at) for at in torch.arange(len(rows.x)).split(BLOCK))
    return torch.cat([classifier(placed(part, device)).argmax(1).cpu() for part in parts])


def placed(rows: Rows, device: torch.device) -> Rows:
    """Rows on a device."""
    return Rows(*moved(rows, device))


def fresh(model: Model, rows: Rows, seed: int) -> Model:
    """The same network with new weights, started from rows as for a fit; the model stays.

    A recipe's call builds it again; of a model composed by hand a copy is started anew.

    Raises:
        UserError: a model composed by hand with parameters that nobody knows how to start.
    """
    with seeded(seed, model.device):
        if model.call is None:
            new = _restarted(model)
        else:
            new = model.call.build().to(model.device)
            new = new if new.dtype == model.dtype else new.to(model.dtype)
        new.initialise(*placed(rows, model.device))
    return new


def _restarted(model: Model) -> Model:
    new = copy.deepcopy(model)
    started: set[int] = set()
    for part in new.modules():
        if callable(getattr(part, "reset_parameters", None)):
            part.reset_parameters()  # type: ignore[operator]
            started |= {id(p) for p in part.parameters(recurse=False)}
    for name, parameter in new.named_parameters():
        if parameter.requires_grad and id(parameter) not in started:
            raise UserError(
                f"{name} of this model, composed by hand, cannot be started anew; build the "
                "model by a recipe"
            )
    return new


def untold(model: Model, rows: Rows) -> str:
    """Why no classifier can be trained with this encoder; "" where one can."""
    name = type(model).__name__ if model.call is None else model.call.recipe
    few = placed(rows.part(slice(0, 2)), model.device)
    if model.em(*few) is not None:
        return f"{name} is fitted in closed form or by EM, not by gradient"
    with torch.enable_grad(), seeded(0, model.device):
        moves = features(model, *few).requires_grad
    return "" if moves else f"the codes of this {name} depend on no trained parameter"
