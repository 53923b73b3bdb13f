"""Checkpoints: everything a stopped run needs to go on as if it had not been stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latently.errors import UserError
from latently.training.files import (
    named_tensors,
    read_header,
    read_tensors,
    set_tensors,
    write_tensors,
)

__all__ = ["Progress", "load_checkpoint", "save_checkpoint"]


@dataclass
class Progress:
    """Where a run is, apart from tensors.

    Attributes:
        step: steps done.
        seconds: time spent in them.
        history: one row per finished epoch.
        sums: sums of (bound, reconstruction, KL) over the steps of the epoch under way.
        counted: how many steps these sums hold.
        best: best validation value, its epoch, and how many epochs passed without a better.
        finished: whether the run is complete.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    counted: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    finished: bool = False


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor] | None,
    progress: Progress,
    fingerprint: Mapping[str, Any],
) -> None:
    """Writes a checkpoint atomically."""
    state = optimizer.state_dict()
    tensors = {f"model/{name}": tensor for name, tensor in named_tensors(model).items()}
    tensors |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    tensors |= {
        f"optimizer/{index}/{key}": value
        for index, slots in state["state"].items()
        for key, value in slots.items()
    }
    metadata = {
        "progress": asdict(progress),
        "fingerprint": dict(fingerprint),
        "groups": [
            {k: v for k, v in group.items() if _plain(v)} for group in state["param_groups"]
        ],
    }
    write_tensors(path, tensors, metadata)


def load_checkpoint(
    path: Path, model: nn.Module, fingerprint: Mapping[str, Any]
) -> tuple[Progress, dict[str, Any], dict[str, Tensor] | None]:
    """Restores the model; returns progress, optimizer state and the best weights so far.

    Raises:
        UserError: the file is damaged, or the run it belongs to differs; the difference is
            named.
    """
    metadata, _ = read_header(path)
    _compare(path, metadata.get("fingerprint", {}), fingerprint)
    try:
        parts = _parts(read_tensors(path))
        state = {"state": _slots(parts["optimizer"]), "param_groups": metadata["groups"]}
        progress = Progress(**metadata["progress"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {error}; start again with --force") from None
    for part in filter(None, (parts["model"], parts["best"])):
        _check_same(path, named_tensors(model), part)
    set_tensors(model, parts["model"])
    return progress, state, parts["best"] or None


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    return parts


def _slots(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        slots.setdefault(int(index), {})[key] = tensor
    return slots


def _check_same(path: Path, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    for name in old.keys() | new.keys():
        if name not in old or name not in new or old[name].shape != new[name].shape:
            raise UserError(f"{path} is damaged at {name!r}; start again with --force")


def _compare(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key in {**new, **old}:
        if old.get(key) != new.get(key):
            raise UserError(
                f"cannot resume {path}: {key} was {old.get(key)!r} and is now {new.get(key)!r}; "
                "run the same call, or start again with --force"
            )


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple)
