"""One gradient fit: the loop plus everything that must survive a kill."""

from __future__ import annotations

import csv
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latently import expr
from latently._version import __version__
from latently.data import Data
from latently.errors import Interrupted, UserError
from latently.inference.noise import derive, seeded
from latently.models import Model
from latently.training.average import Average
from latently.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from latently.training.files import atomic_write, named_tensors, set_tensors
from latently.training.guard import PATIENCE, Tally, cause, extreme
from latently.training.loop import BatchOrder, Step, run_length, train
from latently.training.objectives.base import Objective
from latently.training.progress import Bar

__all__ = ["BLOCK", "Run", "Stop", "moved", "write_csv"]

BLOCK = 500  # rows at a time outside the training step


@dataclass
class Run:
    """A gradient fit; the options are those of `fit`, `path` is the checkpoint.

    Attributes:
        progress: where it is.
        best: weights of the best epoch so far.
        average: the moving average of the weights, from the first step on.
    """

    model: Model
    data: Data
    validation: Data | None
    objective: Objective
    patience: int | None
    ema: float | None
    initialise: bool
    seed: int
    path: Path | None
    log: Path | None
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] | None = None
    average: Average | None = None
    _held: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, *, resume: bool, seconds_apart: float, show: bool, **options: Any) -> None:
        """Trains until the end, to leave the weights to keep in the model."""
        self.order = BatchOrder(len(self.data), options["batch_size"], self.seed)
        self.options = options
        total = run_length(self.order, options["epochs"], options["steps"])
        if self.validation is not None:
            self.objective.check_rows(len(self.validation))
        self.fingerprint = self._describe()
        state = self._begin(resume)
        steps = train(
            self.model,
            self.data,
            self.objective,
            seed=self.seed,
            start=total if self.progress.finished else self.progress.step,
            optimizer_state=state,
            **options,
        )
        named = "log p(x)" if self.exact else self._maximised
        bar = Bar(total, "step", self.progress.step, value=named, show=show)
        with bar, Stop() as stop:
            self._loop(steps, stop, bar, seconds_apart)
        self._end()

    @property
    def exact(self) -> bool:
        """Whether the bound that is maximised is log p(x) itself."""
        return self.model.density == "exact" and self.objective.is_bound

    @property
    def kept(self) -> str:
        """Which weights the model holds after the run, in words."""
        state = self.progress
        which = (
            "last step" if self.best is None else f"epoch {state.best_epoch}, best on validation"
        )
        return which if self.ema is None else f"{which}, averaged (EMA, decay {self.ema:g})"

    def warnings(self) -> Iterator[str]:
        """What was counted over the whole run, a line each."""
        told = {
            "non_finite": "were not taken: their loss or gradient was not finite",
            "skipped": f"were not taken: their gradient norm exceeded skip={self.options['skip']}",
            "clipped": f"had their gradient shortened to clip={self.options['clip']}",
        }
        for name, text in told.items():
            if count := self._counted(name):
                yield f"{count:,} of {self.progress.step:,} steps {text}"
        values = [row.get("validation", 0.0) for row in self.progress.history]
        if bad := sum(not math.isfinite(value) for value in values):
            yield f"the validation value was not finite after {bad} of {len(values)} epochs"

    @property
    def _maximised(self) -> str:
        """What the history calls the value that is maximised."""
        return "bound" if self.objective.is_bound else "objective"

    def _counted(self, name: str) -> int:
        return int(sum(row[name] for row in self.progress.history))

    def _begin(self, resume: bool) -> dict[str, Any] | None:
        if self.path is not None and resume and self.path.exists():
            self.progress, state, self.best, self._held = load_checkpoint(
                self.path, self.model, self.fingerprint
            )
            return state
        if self.initialise:
            rows = self.data.rows(slice(0, 10_000))
            with seeded(derive(self.seed, "initialise")):
                self.model.initialise(rows.x, rows.mask, rows.context)
        return None

    def _loop(self, steps: Iterator[Step], stop: Stop, bar: Bar, seconds_apart: float) -> None:
        state, began = self.progress, time.monotonic() - self.progress.seconds
        saved, tally = time.monotonic(), Tally(state.sums, state.streak)
        for step in steps:
            self._take_in(step)
            tally.add(step)
            state.step, state.counted = step.index, state.counted + 1
            state.seconds = time.monotonic() - began
            bar.update(step.index, step.bound)
            if step.ends_epoch or step.index % PATIENCE == 0:
                self._look(step, tally)
            if step.ends_epoch:
                self._close_epoch(step, tally.row(state.counted), bar)
                tally.clear()
                state.counted = 0
            due = time.monotonic() - saved > seconds_apart
            out_of_patience = self.patience is not None and state.waited >= self.patience
            state.finished = step.index == step.total or (step.ends_epoch and out_of_patience)
            # amid steps that fail, the checkpoint of before them is the better one
            if stop.asked or state.finished or (due and not tally.streak):
                self._save(step, tally)
                saved = time.monotonic()
            if state.finished:
                return
            if stop.asked:
                raise Interrupted(f"stopped at step {step.index} of {step.total}")

    def _take_in(self, step: Step) -> None:
        """Adds the weights of a step to their average."""
        if self.ema is not None:
            self._averaging().update(step.taken)

    def _averaging(self) -> Average:
        """The average, made where the weights have the device and type of the run."""
        if self.average is None:
            assert self.ema is not None
            self.average = Average(self.model, self.ema)
            if self._held:
                self.average.restore(self._held, self.progress.averaged)
        return self.average

    def _look(self, step: Step, tally: Tally) -> None:
        """Ends a run that cannot go on: too many steps were not taken."""
        row, counted = tally.row(self.progress.counted), self.progress.counted
        # a loss scaler may need some bad steps to find its scale
        lost = step.ends_epoch and 2 * tally.streak > counted and step.scaler is None
        if lost or tally.streak >= PATIENCE:
            raise UserError(self._cause(step, tally.streak))
        if self.progress.step < PATIENCE or row["skipped"] < counted:
            return
        if self._counted("skipped") + row["skipped"] == self.progress.step:
            raise UserError(
                f"skip={self.options['skip']} left out every one of {self.progress.step} steps, "
                f"whose gradient norms are about {row['gradient_norm']:.3g}; raise skip, or use "
                "clip to shorten them"
            )

    def _cause(self, step: Step, streak: int) -> str:
        t, device = step.index - 1, self.model.device
        with seeded(derive(self.seed, "step", t), device):
            batch = moved(self.data.batch(self.order(t)), device)
            where = cause(self.model, step, self.objective, batch)
        held = self.path is not None and self.path.exists()
        kept = f"; the last good checkpoint is {self.path}" if held else ""
        limit = "" if self.options["clip"] else ", set --clip"
        data = extreme(self.data)
        return (
            f"training became non-finite in epoch {step.epoch}: the last {streak} of {step.index} "
            f"steps could not be taken ({where}); lower --learning-rate {step.learning_rate:g}"
            f"{limit} or check the scale of the data{': ' if data else ''}{data}{kept}"
        )

    def _close_epoch(self, step: Step, means: dict[str, float], bar: Bar) -> None:
        row: dict[str, float] = {
            "epoch": step.epoch,
            "step": step.index,
            "seconds": round(self.progress.seconds, 3),
            self._maximised: means.pop("bound"),
            "reconstruction": means.pop("reconstruction"),
            self.objective.cost: means.pop("kl"),
            "learning_rate": step.learning_rate,
        }
        if self.validation is not None:
            with self._shown():
                row["validation"] = self._validate(step)
                self._judge(row["validation"], step.epoch)
        self.progress.history.append(row | means)
        if self.log is not None:
            write_csv(self.log, self.progress.history)
        bar.epoch(step.epoch, row[self._maximised], row.get("validation"))

    def _shown(self) -> AbstractContextManager[None]:
        """The model holds the weights that would be kept."""
        return nullcontext() if self.ema is None else self._averaging().applied()

    def _judge(self, value: float, epoch: int) -> None:
        state = self.progress
        if math.isfinite(value) and (state.best is None or value > state.best):
            state.best, state.best_epoch, state.waited = value, epoch, 0
            self.best = {name: t.clone() for name, t in named_tensors(self.model).items()}
        else:
            state.waited += 1

    @torch.no_grad()
    def _validate(self, step: Step) -> float:
        """The mean objective on validation rows, comparable between epochs.

        The noise is the same in every epoch, and schedules stand at their end: under a warm-up
        of beta the early epochs, almost free of KL, would look best.
        """
        assert self.validation is not None
        data, total = self.validation, 0.0
        objective = self.objective.of_rows(len(data))
        self.model.eval()
        clock = torch.tensor(step.total, device=self.model.device)
        with seeded(derive(self.seed, "validation"), self.model.device):
            for rows in torch.arange(len(data)).tensor_split(-(-len(data) // BLOCK)):
                x, mask, context = moved(data.batch(rows), self.model.device)
                terms = objective(self.model, x, mask, context, clock, step.total)
                total += float(terms.bound.double().sum())
        self.model.train()
        return total / len(data)

    def _save(self, step: Step, tally: Tally) -> None:
        finite = all(bool(torch.isfinite(t).all()) for t in named_tensors(self.model).values())
        if self.path is None or not finite:
            return
        average, state = self.average, self.progress
        state.sums, state.streak = tally.sums, tally.streak
        state.averaged = 0 if average is None else int(average.count)
        save_checkpoint(
            self.path,
            self.model,
            step.state(),
            state,
            self.fingerprint,
            best=self.best,
            average=None if average is None else average.tensors(),
        )

    def _end(self) -> None:
        if self.best is not None:
            set_tensors(self.model, self.best)
        elif self.ema is not None:
            self._averaging().apply()
        self.model.eval()

    def _describe(self) -> dict[str, Any]:
        """What must be equal for a continued run to be the same run."""
        return {
            "data": self.data.digest(),
            "validation": None if self.validation is None else self.validation.digest(),
            "model": str(self.model.call or _shapes(self.model)),
            "objective": _text(self.objective),
            "seed": self.seed,
            "patience": self.patience,
            "ema": self.ema,
            "initialise": self.initialise,
            **{key: _text(value) for key, value in self.options.items()},
            "version": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }


class Stop:
    """Notes Ctrl-C and SIGTERM, to be acted on between two steps; a second Ctrl-C acts at once."""

    asked = False

    def __enter__(self) -> Stop:
        self._old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def moved(batch: tuple[Tensor | None, ...], device: torch.device) -> tuple[Any, Any, Any]:
    """x, mask and context of a batch, on the device."""
    x, mask, context = (None if part is None else part.to(device) for part in batch)
    return x, mask, context


def _text(value: Any) -> Any:
    """A value as the fingerprint holds it: JSON as is, anything else as its expression."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    try:
        return expr.show(value)
    except UserError:
        return f"{type(value).__module__}.{type(value).__qualname__}"


def _shapes(model: Model) -> list[str]:
    return [f"{name}{tuple(t.shape)}" for name, t in named_tensors(model).items()]


def write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    """Writes rows of numbers by the names of the last one, atomically."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[-1]))
            writer.writeheader()
            writer.writerows(rows)

    atomic_write(path, write)
