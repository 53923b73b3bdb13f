"""`latently classify`: which class every row is of, and how often that is right."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from latently.data import Data
from latently.data.contexts import Context
from latently.data.labels import UNKNOWN
from latently.errors import UserError
from latently.inference.noise import derive, seeded
from latently.interfaces.opening import Rows, open_model
from latently.interfaces.output import check_target, write_arrays, write_table
from latently.io import Saved

__all__ = ["accuracy", "classify"]

_BLOCK = 500


def classify(
    path: str, rows: Rows, out: str, *, samples: int | None = None, force: bool = False
) -> str:
    """Writes the likeliest class of every row and the probabilities of all.

    Args:
        path: the model file.
        rows: the rows to classify; labels that they have are compared, never shown to the model.
        out: .csv with columns class, p_CLASS, ... and label where known; or .npz with class,
            classes, probabilities and label.
        samples: draws per class for the model's own p(y|x); None: the classifier q(y|x).
        force: replace an existing file.

    Raises:
        UserError: a model without classes, rows that are none of its own, or fewer than one
            sample.
    """
    target = check_target(out, (".csv", ".npz"), force)
    saved = open_model(path)
    classes = _classes(saved)
    data = rows.open(saved)
    p = _probabilities(saved, data, samples, rows.seed)
    found = torch.tensor(classes)[p.argmax(1)]
    named = {f"p_{label}": p[:, at].tolist() for at, label in enumerate(classes)}
    labels = {} if data.labels is None else {"label": data.labels.tolist()}
    if target.suffix == ".csv":
        write_table(target, {"class": found.tolist(), **named, **labels})
    else:
        arrays: dict[str, Any] = {"class": found, "classes": classes, "probabilities": p}
        write_arrays(target, {**arrays, **labels})
    told = accuracy(found, data)
    return f"wrote the classes of {len(data)} rows to {target}" + (f"; {told}" if told else "")


def accuracy(found: Tensor, data: Data) -> str:
    """The share of rows whose label is known that got it, with its binomial standard error.

    >>> data = Data.from_array([[0.0], [1.0], [2.0]], labels=[3, 5, -1])
    >>> accuracy(torch.tensor([3, 3, 3]), data)
    'accuracy 0.5000 +- 0.3536 on 2 rows with labels'
    """
    known = None if data.labels is None else data.labels != UNKNOWN
    if known is None or data.labels is None or not bool(known.any()):
        return ""
    n = int(known.sum())
    right = float((found == data.labels)[known].double().mean())
    error = math.sqrt(right * (1 - right) / n)
    return f"accuracy {right:.4f} +- {error:.4f} on {n} rows with labels"


def _classes(saved: Saved) -> list[int]:
    """What the model's classes are called."""
    if not hasattr(saved.model, "classify"):
        called = "model" if saved.model.call is None else saved.model.call.recipe
        raise UserError(
            f"this {called} knows no classes; fit one that does: latently fit ssvae --labels N"
        )
    context = saved.data.get("context")
    if context is None:
        return list(range(saved.model.contexts))
    return list(Context.from_schema(context).classes)


def _probabilities(saved: Saved, data: Data, samples: int | None, seed: int) -> Tensor:
    """Those of every row, (n, C), in float64."""
    model: Any = saved.model
    parts = []
    for number, at in enumerate(torch.arange(len(data)).split(_BLOCK)):
        x, mask, _ = data.batch(at)
        with seeded(derive(seed, "classify", number), model.device):
            parts.append(model.classify(x, mask, samples=samples))
    return torch.cat(parts).double().cpu()
