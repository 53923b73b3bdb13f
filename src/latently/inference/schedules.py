"""Schedules: numbers that change over a run, as functions of (step, total steps)."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from latently.errors import UserError

__all__ = ["Cosine", "Linear", "Schedule", "resolve"]

T = TypeVar("T")


class Schedule(ABC):
    """A number as a function of the step, so that compiled code never sees a changed constant."""

    @abstractmethod
    def __call__(self, step: Tensor, total: int) -> Tensor:
        """The value at a 0-d step of a run of `total` steps."""


@dataclass(frozen=True)
class Linear(Schedule):
    """From `start` to `stop` in equal steps, then constant.

    Args:
        start: value at step 0.
        stop: value from step `steps` on.
        steps: length of the ramp; None: the whole run.

    >>> Linear(0.0, 1.0, steps=10)(torch.tensor(5), total=100)
    tensor(0.5000)
    """

    start: float
    stop: float
    steps: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, step: Tensor, total: int) -> Tensor:
        return self.start + (self.stop - self.start) * _progress(step, self.steps or total)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From `start` to `stop` along half a cosine, then constant.

    Args:
        start: value at step 0.
        stop: value from step `steps` on.
        steps: length of the ramp; None: the whole run.
    """

    start: float
    stop: float = 0.0
    steps: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, step: Tensor, total: int) -> Tensor:
        angle = math.pi * _progress(step, self.steps or total)
        return self.stop + (self.start - self.stop) * 0.5 * (1 + torch.cos(angle))


def resolve(options: T, step: Tensor, total: int) -> T:
    """A frozen dataclass with every scheduled field replaced by its value at this step."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        if isinstance(value, Schedule):
            fields[field.name] = value(step, total)
    return dataclasses.replace(options, **fields) if fields else options  # type: ignore[type-var]


def _progress(step: Tensor, steps: int) -> Tensor:
    return (step / steps).clamp(max=1.0)


def _check(schedule: Linear | Cosine) -> None:
    name = type(schedule).__name__
    for end in ("start", "stop"):
        value = getattr(schedule, end)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{name}: {end}={value!r} must be a finite number")
    if schedule.steps is None:
        return
    if not isinstance(schedule.steps, int) or schedule.steps < 1:
        raise UserError(f"{name}: steps={schedule.steps!r} must be a whole number of at least 1")
