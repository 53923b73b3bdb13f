"""The progress bar: steps/s, what is reached and time left; plain lines without a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from torch import Tensor

__all__ = ["Bar"]

_REFRESH = 0.2  # seconds between two looks at the value; each look waits for the device
_LINES = 10.0  # seconds between two plain lines


class Bar:
    """A bar on standard error while it is open.

    Args:
        total: number of steps.
        unit: what one step is called.
        done: steps done before.
        value: what the value of a step is called.
        show: False: silent.
    """

    def __init__(
        self, total: int, unit: str, done: int = 0, *, value: str = "bound", show: bool = True
    ) -> None:
        self.total, self.unit, self.done, self.first = total, unit, done, done
        self.units = f"{unit}es" if unit.endswith("s") else f"{unit}s"
        self.value = value
        self.show, self.live = show, show and sys.stderr.isatty()
        self._rich: Any = None
        self._line = ""
        self._rate: float | None = None
        self._shown = done
        self._begun = False

    def __enter__(self) -> Bar:
        self.began = self._since = self._last = time.monotonic()
        if self.live:
            self._rich = _rich_bar(self.total)
            self._rich.start()
            self._task = self._rich.add_task("", total=self.total, completed=self.done, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def resize(self, total: int) -> None:
        """Sets another number of steps, where it is known only once work has begun."""
        self.total = total
        if self._rich is not None:
            self._rich.update(self._task, total=total)

    def update(self, done: int, value: Tensor | float | None) -> None:
        """Shows that `done` steps are done; the value is read only when it is shown."""
        self.done = done
        now = time.monotonic()
        if not self._begun and done < self.total:  # the first holds what comes before all steps
            self.began = self._since = now
            self.first = self._shown = done
        self._begun = True
        apart = _REFRESH if self.live else _LINES
        ends = done == self.total != self._shown
        if not self.show or (now - self._last < apart and not ends):
            return
        self._last = now
        rate = None if done == self.first else self._rate_until(done, now)
        reached = "" if value is None else f"{self.value} {float(value):.2f}  "
        speed = "" if rate is None else f"{_short(rate)} {self.units}/s"
        text = f"{reached}{speed}{self._line}".rstrip()
        if self._rich is not None:
            self._rich.update(self._task, completed=done, note=text)
            return
        left = "" if rate is None else f"  {_clock((self.total - done) / max(rate, 1e-9))} left"
        print(f"{self.unit} {done}/{self.total}  {text}{left}", file=sys.stderr, flush=True)

    def _rate_until(self, done: int, now: float) -> float:
        """Steps per second: lately, while under way, and over the whole run at its end."""
        lately = (done - self._shown) / max(now - self._since, 1e-9)
        self._rate = lately if self._rate is None else 0.7 * self._rate + 0.3 * lately
        self._since, self._shown = now, done
        if done == self.total:
            return (done - self.first) / max(now - self.began, 1e-9)
        return self._rate

    def epoch(self, number: float, value: float, validation: float | None = None) -> None:
        """Adds the results of an epoch to what the next update shows."""
        self._line = f"  epoch {number}: {value:.2f}"
        if validation is not None:
            self._line += f", validation {validation:.2f}"


def _rich_bar(total: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (BarColumn(), MofNCompleteColumn(), Left(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _short(rate: float) -> str:
    """Two digits at least: 0.35, 3.5, 35, 350."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
