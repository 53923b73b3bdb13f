"""The methods that a probe compares, each from labelled rows to classes of the test rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from latently.data.corruptions import Adversarial, Corruption
from latently.errors import UserError
from latently.inference.noise import derive, seeded
from latently.inference.rows import Rows
from latently.models import Model
from latently.probability.span import Span
from latently.training._classifier import (
    BLOCK,
    Budget,
    features,
    fresh,
    placed,
    predicted,
    trained,
    untold,
)
from latently.training._readout import Readout, Scale, fit_readout
from latently.training._task import Source, Task

__all__ = ["METHODS", "NETWORKS", "Guess", "Rivals"]

METHODS = {
    "linear": "linear probe",
    "fine-tuned": "fine-tuned",
    "scratch": "from scratch",
    "cells": "linear on cells",
    "pca": "linear on PCA",
}
NETWORKS = ("fine-tuned", "scratch")


@dataclass(frozen=True)
class Guess:
    """Classes of the test rows, (n,), from 0 to K - 1, and how they came about."""

    classes: Tensor
    settings: Mapping[str, Any]
    corruption: str = ""


@dataclass
class Rivals:
    """All methods on one task.

    Attributes:
        task: rows and labels.
        budget: of the training of networks.
        corruption: of test rows, for the linear probe.
    """

    task: Task
    budget: Budget
    corruption: Corruption | None = None
    _spoilt: Tensor | None = field(default=None, init=False)

    def impossible(self, methods: list[str]) -> dict[str, str]:
        """Those of the methods that the model does not allow, and why."""
        task, asked = self.task, [method for method in NETWORKS if method in methods]
        why = untold(task.model, task.train) if asked else ""
        if why:
            return dict.fromkeys(asked, why)
        if "scratch" in asked:
            try:
                fresh(task.model, task.train.part(slice(0, BLOCK)), task.seed)
            except UserError as error:
                return {"scratch": str(error)}
        return {}

    def guesses(self, method: str, number: int, draw: int) -> Iterator[Guess]:
        """Of one method with so many labels; of corrupted test rows, too, where they are asked."""
        at = self.task.labelled(number, draw)
        if method in NETWORKS:
            yield self._network(method, at, draw)
            return
        sources: dict[str, Callable[[], Source]] = {
            "linear": lambda: self.task.codes,
            "cells": lambda: self.task.cells,
            "pca": lambda: self.task.components,
        }
        source = sources[method]()
        seed = derive(self.task.seed, "folds", number, draw)
        shown, y = source.train[self.task.known[at]], self.task.y[at]
        readout = fit_readout(shown, y, len(self.task.classes), seed=seed)
        settings = {
            "strength": readout.strength,
            "chosen": readout.chosen,
            "converged": readout.converged,
        }
        yield Guess(readout(source.test).argmax(1), settings)
        if method == "linear" and self.corruption is not None:
            found = self._corrupted(self.corruption, readout, source.scale)
            yield Guess(found, settings, str(self.corruption))

    def _network(self, method: str, at: Tensor, draw: int) -> Guess:
        """Encoder and head, trained from the fitted weights or from new ones."""
        task, number = self.task, len(at)
        if method == "scratch":
            model = fresh(task.model, task.train, derive(task.seed, "weights", number, draw))
            model.eval()
            scale = Scale.of(task.codes_of(model, task.train), shared=True)
        else:
            model, scale = copy.deepcopy(task.model), task.codes.scale
        classifier = trained(
            model,
            task.train.part(task.known[at]),
            task.y[at],
            scale.to(model.device),
            len(task.classes),
            self.budget,
            derive(task.seed, "classifier", number, draw),
        )
        settings = {
            "steps": self.budget.steps_for(number),
            "batch_size": min(number, self.budget.batch_size),
            "learning_rate": self.budget.learning_rate,
        }
        return Guess(predicted(classifier, task.test), settings)

    def _corrupted(self, corruption: Corruption, readout: Readout, scale: Scale) -> Tensor:
        """Classes of spoilt test rows; an adversary spoils them for this very readout."""
        if not isinstance(corruption, Adversarial):
            if self._spoilt is None:
                self._spoilt = scale(self.task.codes_of(self.task.model, self._spoil(corruption)))
            return readout(self._spoilt).argmax(1)
        rows = self._spoil(corruption, readout, scale)
        return readout(scale(self.task.codes_of(self.task.model, rows))).argmax(1)

    def _spoil(
        self, corruption: Corruption, readout: Readout | None = None, scale: Scale | None = None
    ) -> Rows:
        """The test rows, spoilt block by block; what is missing stays so."""
        task, model = self.task, self.task.model
        span = Span.of(task.train.x, task.train.mask)
        found = []
        for k, at in enumerate(torch.arange(len(task.test.x)).split(BLOCK)):
            rows = placed(task.test.part(at), model.device)
            loss = None
            if readout is not None and scale is not None:
                loss = _loss(model, rows, task.truth[at], readout, scale)
            with seeded(derive(task.seed, "corruption", k), model.device):
                x = corruption(rows.x, span, loss).detach()
            found.append((x if rows.mask is None else x.where(rows.mask, 0.0)).cpu())
        return task.test._replace(x=torch.cat(found))


def _loss(
    model: Model, rows: Rows, truth: Tensor, readout: Readout, scale: Scale
) -> Callable[[Tensor], Tensor]:
    """The cross-entropy of each row, through the encoder."""
    scale, truth = scale.to(model.device), truth.to(model.device)
    weight, bias = (part.to(scale.loc) for part in (readout.weight, readout.bias))

    def loss(x: Tensor) -> Tensor:
        logits = scale(features(model, x, rows.mask, rows.context)) @ weight + bias
        return nn.functional.cross_entropy(logits, truth, reduction="none")

    return loss
