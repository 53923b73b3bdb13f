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

__all__ = ["Cosine", "Linear", "Schedule", "Warmup", "resolve"]

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


@dataclass(frozen=True)
class Warmup(Schedule):
    """From 0 up to where `then` begins, in equal steps; then `then`, shifted to begin there.

    `then` counts its steps, and the length of its run, from the end of the warm-up, so that
    `Warmup(then=Cosine(0.001), steps=500)` rises to 0.001 in 500 steps and falls to 0 at the end
    of the run. Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017; of the KL weight:
    Bowman et al., "Generating Sentences from a Continuous Space", 2016.

    Args:
        then: a number or a schedule.
        steps: length of the warm-up; None: a tenth of the run.

    >>> rise = Warmup(then=Linear(1.0, 0.0), steps=10)
    >>> [float(rise(torch.tensor(t), total=20)) for t in (0, 5, 10, 15, 20)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    then: float | Schedule
    steps: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.then, Schedule):
            _check_number(self, "then", ", or a schedule")
        _check_steps(self)

    def __call__(self, step: Tensor, total: int) -> Tensor:
        steps = self.steps or max(1, total // 10)
        then: float | Tensor | Schedule = self.then
        if isinstance(then, Schedule):
            then = then((step - steps).clamp(min=0), max(1, total - steps))
        return then * _progress(step, steps)


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
    for end in ("start", "stop"):
        _check_number(schedule, end)
    _check_steps(schedule)


def _check_number(schedule: Schedule, field: str, other: str = "") -> None:
    value = getattr(schedule, field)
    if not isinstance(value, int | float) or not math.isfinite(value):
        name = type(schedule).__name__
        raise UserError(f"{name}: {field}={value!r} must be a finite number{other}")


def _check_steps(schedule: Linear | Cosine | Warmup) -> None:
    steps = schedule.steps
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        name = type(schedule).__name__
        raise UserError(f"{name}: steps={steps!r} must be a whole number of at least 1")
