"""Checkpoints: everything a stopped run needs to go on as if it had not been stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from latently.errors import UserError
from latently.training.files import (
    named_tensors,
    read_header,
    read_tensors,
    set_tensors,
    write_tensors,
)

__all__ = ["Progress", "Restored", "load_checkpoint", "save_checkpoint"]

FORMAT = 2  # of the file; another is refused
_PARTS = ("model", "best", "average", "optimizer")


@dataclass
class Progress:
    """Where a run is, apart from tensors.

    Attributes:
        step: steps done.
        seconds: time spent in them.
        history: one row per finished epoch.
        sums: sums over the steps of the epoch under way, see `guard.Tally`.
        counted: how many steps these sums hold.
        streak: non-finite steps in a row up to here.
        averaged: updates that the moving average of the weights holds.
        best: best validation value, its epoch, and how many epochs passed without a better.
        finished: whether the run is complete.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: list[float] = field(default_factory=lambda: [0.0] * 7)
    counted: int = 0
    streak: int = 0
    averaged: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    finished: bool = False


class Restored(NamedTuple):
    """What a checkpoint holds beside the model: progress, optimizer, best and averaged weights."""

    progress: Progress
    optimizer: dict[str, Any]
    best: dict[str, Tensor] | None
    average: dict[str, Tensor]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Mapping[str, Any],
    progress: Progress,
    fingerprint: Mapping[str, Any],
    *,
    best: Mapping[str, Tensor] | None = None,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a checkpoint atomically; `optimizer` is `Step.state()`."""
    parts = {"model": named_tensors(model), "best": best or {}, "average": average or {}}
    parts["optimizer"] = {
        f"{index}/{key}": value
        for index, slots in optimizer["state"].items()
        for key, value in slots.items()
    }
    tensors = {f"{part}/{name}": t for part, held in parts.items() for name, t in held.items()}
    metadata = {
        "format": FORMAT,
        "progress": asdict(progress),
        "fingerprint": dict(fingerprint),
        "groups": [
            {k: v for k, v in group.items() if _plain(v)} for group in optimizer["param_groups"]
        ],
        "scaler": optimizer.get("scaler"),
    }
    write_tensors(path, tensors, metadata)


def load_checkpoint(path: Path, model: nn.Module, fingerprint: Mapping[str, Any]) -> Restored:
    """Restores the model; returns the rest.

    Raises:
        UserError: the file is damaged, of another format, or of another run; the difference is
            named.
    """
    metadata, _ = read_header(path)
    _check_format(path, metadata)
    _compare(path, metadata.get("fingerprint", {}), fingerprint)
    try:
        parts = _parts(read_tensors(path))
        state = {"state": _slots(parts["optimizer"]), "param_groups": metadata["groups"]}
        state |= {"scaler": metadata["scaler"]} if metadata["scaler"] else {}
        progress = Progress(**metadata["progress"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {error}; start again with --force") from None
    for part in filter(None, (parts["model"], parts["best"])):
        _check_same(path, named_tensors(model), part)
    if parts["average"] or fingerprint.get("ema") is not None:
        _check_same(path, _averaged(model), parts["average"])
    set_tensors(model, parts["model"])
    return Restored(progress, state, parts["best"] or None, parts["average"])


def _check_format(path: Path, metadata: Mapping[str, Any]) -> None:
    found = metadata.get("format")
    if found == FORMAT:
        return
    if "progress" not in metadata:
        raise UserError(f"cannot resume {path}: it is no checkpoint; start again with --force")
    raise UserError(
        f"cannot resume {path}: it was written by another version of latently (checkpoint format "
        f"{found or 1}, not {FORMAT}); finish it there, or start again with --force"
    )


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
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
