"""`fit`: runs the loop with a progress bar, early stopping, checkpoints and a history."""

from __future__ import annotations

import contextlib
import csv
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
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
from latently.inference.schedules import Schedule
from latently.models import Model
from latently.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from latently.training.files import atomic_write, locked, named_tensors, set_tensors
from latently.training.loop import BatchOrder, Step, run_length, train
from latently.training.objectives import Objective, Variational
from latently.training.progress import Bar

__all__ = ["Fit", "fit"]

_BLOCK = 500  # rows at a time outside the training step


@dataclass(frozen=True)
class Fit:
    """What a fit leaves beside the model it changed in place.

    Attributes:
        history: one row per epoch (epoch, step, seconds, bound, reconstruction, kl,
            learning_rate, and validation where there is validation data), or one per pass of a
            closed-form fit (pass, log_prob); nats throughout.
        kept: which weights the model holds, in words.
        seconds: time spent.
        warnings: what a reader should know, a line each.
    """

    history: list[dict[str, float]]
    kept: str
    seconds: float
    warnings: tuple[str, ...] = field(default=())


def fit(
    model: Model,
    data: Data,
    objective: Objective | None = None,
    *,
    validation: Data | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 100,
    learning_rate: float | Schedule = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    patience: int | None = None,
    tolerance: float = 1e-8,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    log: str | Path | None = None,
    progress: bool = True,
) -> Fit:
    """Fits a model to data, in place.

    Models with a closed form or EM use it (until a pass gains no more than `tolerance` nats, at
    most `steps` passes, 2,000 if not said), and the options of training have no effect on them;
    the others are trained by gradient. With validation data the weights of the best epoch are
    kept.

    Args:
        model: the model.
        data: training rows.
        objective: what to maximise; `Variational()` if None.
        validation: rows for the choice of the epoch.
        epochs: length of the run, 50 if neither this nor its steps are given.
        steps: length of the run in steps, or the most passes of a closed-form fit.
        batch_size: rows per step.
        learning_rate: a number or a schedule over the run.
        optimizer: constructor `(parameters, lr=...) -> Optimizer`, e.g. AdamW.
        patience: stop after so many epochs without a better validation value; default: never.
        tolerance: a closed-form fit ends where a pass gains no more than this, in nats.
        seed: seed of everything random.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "32-true", "64-true", "bf16-mixed", "bf16-true", or "16-mixed" on CUDA.
        compile: compile the step.
        checkpoint: file that lets a stopped run continue; removed by the caller.
        resume: continue from the checkpoint if it is there.
        checkpoint_seconds: most seconds between two checkpoints.
        log: CSV file for the history, rewritten every epoch.
        progress: show a progress bar, or plain lines where the output is no terminal.

    Raises:
        UserError: data the model does not hold, options out of range, a checkpoint of another
            run, or a run that became non-finite (the last good checkpoint stays).
        Interrupted: Ctrl-C or SIGTERM, after the checkpoint was written.
    """
    _check_data(model, data, validation)
    if patience is not None and (validation is None or patience < 1):
        raise UserError("patience needs validation data and a value of at least 1")
    if not isinstance(learning_rate, Schedule) and not 0 < learning_rate < math.inf:
        raise UserError(f"learning_rate={learning_rate} must be positive and finite")
    for name, value in (("batch_size", batch_size), ("steps", steps)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    if not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance={tolerance} must be a number of nats, 0 or more")
    path = None if checkpoint is None else Path(checkpoint)
    with locked(path) if path is not None else contextlib.nullcontext():
        passes = model.em(data.x, data.mask, data.context)
        if passes is not None:
            if epochs is not None:
                raise UserError(
                    f"{type(model).__name__} is fitted in closed form or by EM, in passes over "
                    "all rows; leave epochs out, or bound the passes by steps"
                )
            return _fit_passes(model, passes, steps or 2000, tolerance, log, progress)
        run = _Run(model, data, validation, objective or Variational(), patience, seed, path, log)
        epochs = 50 if epochs is None and steps is None else epochs
        return run(
            resume=resume,
            seconds_apart=checkpoint_seconds,
            show=progress,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            optimizer=optimizer,
            device=device,
            precision=precision,
            compile=compile,
        )


def _fit_passes(
    model: Model,
    passes: Iterator[Tensor],
    most: int,
    tolerance: float,
    log: str | Path | None,
    show: bool,
) -> Fit:
    began, history, last, gain = time.monotonic(), [], -math.inf, math.inf
    with Bar(most, "pass", show=show) as bar, _caught() as caught, _Stop() as stop:
        for number, value in enumerate(_solved(passes), 1):
            now = float(value)
            if not math.isfinite(now):
                raise UserError(f"log p(x) became {now} in pass {number}; check the data's scale")
            history.append({"pass": number, "log_prob": now})
            bar.update(number, now)
            if stop.asked:
                raise Interrupted("stopped before the end; a closed-form fit restarts at once")
            gain, last = now - last, now
            if number >= most or gain <= tolerance:
                break
    if log is not None:
        _write_csv(Path(log), history)
    notes = [str(w.message) for w in caught] + list(model.complaints())
    if 1 < len(history) == most and gain > tolerance:
        notes.append(
            f"stopped after {most} passes while still gaining {gain:.1e} nats a pass; "
            "raise --steps or --tolerance"
        )
    return Fit(history, "maximum likelihood", time.monotonic() - began, tuple(notes))


def _solved(passes: Iterator[Tensor]) -> Iterator[Tensor]:
    try:
        yield from passes
    except torch.linalg.LinAlgError:
        raise UserError(
            "the covariance of the data cannot be decomposed in float64: their values are too "
            "large or of too different scales; rescale the columns"
        ) from None


class _Run:
    """One gradient fit: the loop plus what must survive a kill."""

    def __init__(
        self,
        model: Model,
        data: Data,
        validation: Data | None,
        objective: Objective,
        patience: int | None,
        seed: int,
        path: Path | None,
        log: str | Path | None,
    ) -> None:
        self.model, self.data, self.validation = model, data, validation
        self.objective, self.patience, self.seed = objective, patience, seed
        self.path, self.log = path, None if log is None else Path(log)
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None

    def __call__(self, *, resume: bool, seconds_apart: float, show: bool, **options: Any) -> Fit:
        order = BatchOrder(len(self.data), options["batch_size"], self.seed)
        self.total = run_length(order, options["epochs"], options["steps"])
        self.fingerprint = self._describe(options)
        state = self._begin(resume)
        steps = train(
            self.model,
            self.data,
            self.objective,
            seed=self.seed,
            start=self.total if self.progress.finished else self.progress.step,
            optimizer_state=state,
            **options,
        )
        with Bar(self.total, "step", self.progress.step, show=show) as bar, _Stop() as stop:
            self._loop(steps, stop, bar, seconds_apart)
        return self._end()

    def _begin(self, resume: bool) -> dict[str, Any] | None:
        if self.path is not None and resume and self.path.exists():
            self.progress, state, self.best = load_checkpoint(
                self.path, self.model, self.fingerprint
            )
            return state
        rows = self.data.rows(slice(0, 10_000))
        with seeded(derive(self.seed, "initialise")):
            self.model.initialise(rows.x, rows.mask, rows.context)
        return None

    def _loop(self, steps: Iterator[Step], stop: _Stop, bar: Bar, seconds_apart: float) -> None:
        state, began = self.progress, time.monotonic() - self.progress.seconds
        saved, sums = time.monotonic(), torch.tensor(self.progress.sums, dtype=torch.float64)
        for step in steps:
            metrics = torch.stack([step.bound, step.reconstruction, step.kl])
            sums = sums.to(metrics.device) + metrics
            state.step, state.counted = step.index, state.counted + 1
            state.seconds = time.monotonic() - began
            bar.update(step.index, step.bound)
            if step.ends_epoch:
                self._close_epoch(step, (sums / state.counted).tolist(), bar)
                sums, state.counted = torch.zeros_like(sums), 0
            due = time.monotonic() - saved > seconds_apart
            out_of_patience = self.patience is not None and state.waited >= self.patience
            state.finished = step.index == step.total or (step.ends_epoch and out_of_patience)
            if due or stop.asked or state.finished:
                state.sums = sums.tolist()
                self._save(step)
                saved = time.monotonic()
            if state.finished:
                return
            if stop.asked:
                raise Interrupted(f"stopped at step {step.index} of {step.total}")

    def _close_epoch(self, step: Step, means: list[float], bar: Bar) -> None:
        bound, reconstruction, kl = means
        row = {
            "epoch": step.epoch,
            "step": step.index,
            "seconds": round(self.progress.seconds, 3),
            "bound": bound,
            "reconstruction": reconstruction,
            "kl": kl,
            "learning_rate": step.learning_rate,
        }
        if not math.isfinite(bound):
            raise UserError(self._cause(step, row))
        if self.validation is not None:
            row["validation"] = self._validate(step)
            self._judge(row["validation"], step.epoch)
        self.progress.history.append(row)
        if self.log is not None:
            _write_csv(self.log, self.progress.history)
        bar.epoch(row)

    def _cause(self, step: Step, row: dict[str, float]) -> str:
        where = [n for n, t in named_tensors(self.model).items() if not torch.isfinite(t).all()]
        held = self.path is not None and self.path.exists()
        kept = f"; the last good checkpoint is {self.path}" if held else ""
        return (
            f"training became non-finite in epoch {step.epoch} (bound {row['bound']}, "
            f"reconstruction {row['reconstruction']}, KL {row['kl']}; first non-finite tensor: "
            f"{where[0] if where else 'none'}); lower --learning-rate {step.learning_rate:g} "
            f"or check the scale of the data{kept}"
        )

    def _judge(self, value: float, epoch: int) -> None:
        state = self.progress
        if state.best is None or value > state.best:
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
        self.model.eval()
        clock = torch.tensor(step.total, device=self.model.device)
        with seeded(derive(self.seed, "validation"), self.model.device):
            for start in range(0, len(data), _BLOCK):
                rows = torch.arange(start, min(start + _BLOCK, len(data)))
                x, mask, context = _moved(data.batch(rows), self.model.device)
                terms = self.objective(self.model, x, mask, context, clock, step.total)
                total += float(terms.bound.double().sum())
        self.model.train()
        return total / len(data)

    def _save(self, step: Step) -> None:
        if self.path is None:
            return
        if all(bool(torch.isfinite(t).all()) for t in named_tensors(self.model).values()):
            save_checkpoint(
                self.path,
                self.model,
                step.optimizer,
                self.best,
                self.progress,
                self.fingerprint,
            )

    def _end(self) -> Fit:
        state, kept = self.progress, "last step"
        if self.best is not None:
            set_tensors(self.model, self.best)
            kept = f"epoch {state.best_epoch}, best on validation"
        self.model.eval()
        return Fit(state.history, kept, state.seconds, self.model.complaints())

    def _describe(self, options: dict[str, Any]) -> dict[str, Any]:
        """What must be equal for a continued run to be the same run."""
        return {
            "data": self.data.digest(),
            "validation": None if self.validation is None else self.validation.digest(),
            "model": str(self.model.call or _shapes(self.model)),
            "objective": _text(self.objective),
            "seed": self.seed,
            "patience": self.patience,
            **{key: _text(value) for key, value in options.items()},
            "version": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }


class _Stop:
    """Notes Ctrl-C and SIGTERM, to be acted on between two steps; a second Ctrl-C acts at once."""

    asked = False

    def __enter__(self) -> _Stop:
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


def _check_data(model: Model, data: Data, validation: Data | None) -> None:
    for part in (data, validation):
        if part is None:
            continue
        if part.mask is not None and not bool(part.mask.any()):
            raise UserError(f"{part.protocol} has no observed value at all")
        _check_support(model, part)


def _check_support(model: Model, data: Data) -> None:
    fix = f"these data fit --likelihood {data.family!r}"
    for start in range(0, len(data), _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, len(data)))
        with seeded(0):
            x, mask, _ = data.batch(rows)
        model.check(x, mask, data.protocol, first=start, fix=fix)


def _moved(batch: tuple[Tensor | None, ...], device: torch.device) -> tuple[Any, Any, Any]:
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


@contextlib.contextmanager
def _caught() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield caught


def _write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[-1]))
            writer.writeheader()
            writer.writerows(rows)

    atomic_write(path, write)
