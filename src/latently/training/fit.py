"""`fit`: runs the loop with a progress bar, early stopping, checkpoints and a history."""

from __future__ import annotations

import contextlib
import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from latently.data import Data
from latently.errors import Interrupted, UserError
from latently.inference.criteria import Criteria
from latently.inference.noise import derive, seeded
from latently.inference.schedules import Schedule
from latently.models import Autoencoder, Model
from latently.probability.choice import families_for
from latently.training.average import check_decay
from latently.training.files import locked
from latently.training.loop import BatchOrder, check_pieces
from latently.training.objectives import Objective, usual
from latently.training.progress import Bar
from latently.training.run import BLOCK, Run, Stop, moved, write_csv
from latently.training.update import check_limits

__all__ = ["Fit", "fit"]

_HARDLY = 0.05  # of the variance, which the mean row alone all but reaches
_SOME_STEPS = 100
_TOLD = 1000  # rows that tell what is rebuilt
_LENGTH = ("epochs", "steps", "patience")  # of a run: whoever says one part of it means all

_Fitting = TypeVar("_Fitting", bound=Callable[..., "Fit"])


@dataclass(frozen=True)
class Fit:
    """What a fit leaves beside the model it changed in place.

    Attributes:
        history: one row per epoch (epoch, step, seconds, bound, reconstruction, kl,
            learning_rate, validation where there is validation data, gradient_norm, and the counts
            clipped, skipped and non_finite of its steps), or one per pass of a closed-form fit
            (pass, log_prob); nats throughout. Means are over finite steps.
        kept: which weights the model holds, in words.
        seconds: time spent.
        warnings: what a reader should know, a line each.
        criteria: AIC and BIC of a fit in closed form or by EM; of integers they are those of
            x + u, with the noise u that was drawn for the fit.
        validation: mean log p(x) of the validation rows after a fit in closed form or by EM, in
            nats, of integers the bound by one draw of u; None: there were none.
        exact: the values called "bound" in the history are log p(x) itself, as of a flow.
        rebuilt: share of the variance that an autoencoder rebuilds, of validation rows, or of the
            first training rows without them: 1 less the mean anomaly score; None: a density.
    """

    history: list[dict[str, float]]
    kept: str
    seconds: float
    warnings: tuple[str, ...] = field(default=())
    criteria: Criteria | None = None
    validation: float | None = None
    exact: bool = False
    rebuilt: float | None = None


def _by_names(function: _Fitting) -> _Fitting:
    """A fit that calls columns of a table by name, in errors and warnings: models know numbers."""

    @wraps(function)
    def named(model: Model, data: Data, *others: Any, **options: Any) -> Fit:
        try:
            found = function(model, data, *others, **options)
        except UserError as error:
            if not isinstance(data, Data):  # which is the error
                raise
            raise UserError(data.told(str(error))).with_traceback(error.__traceback__) from None
        return replace(found, warnings=tuple(map(data.told, found.warnings)))

    return cast(_Fitting, named)


@_by_names
def fit(
    model: Model,
    data: Data,
    objective: Objective | None = None,
    *,
    validation: Data | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    inference_steps: int = 0,
    inference_epochs: int | None = None,
    learning_rate: float | Schedule | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    clip: float | None = None,
    skip: float | None = None,
    ema: float | None = None,
    patience: int | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
    initialise: bool = True,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    log: str | Path | None = None,
    progress: bool = True,
) -> Fit:
    """Fits a model to data, in place.

    Models with a closed form or EM use it (until a pass gains no more than `tolerance` nats, at
    most `steps` passes, 2,000 if not said); they refuse the options of training, and validation
    data choose nothing, but are scored at the end. The others are trained by gradient. With
    validation data the weights of the best epoch are kept.

    Args:
        model: the model.
        data: training rows.
        objective: what to maximise; None: what the model is usually trained by, mostly
            `Variational()`.
        validation: rows for the choice of the epoch.
        epochs: length of the run; default, if its steps are not given either: 50, or what suits
            the objective (`Objective.habits`).
        steps: length of the run in steps, or the most passes of a closed-form fit.
        batch_size: rows per step; default: 100, or what suits the objective.
        accumulate: pieces that the rows of a step pass in one after the other: same gradient, less
            memory.
        inference_steps: steps of the encoder's own parameters before each step of the others,
            every one a step of the run; 0: all move together.
        inference_epochs: epochs with such turns, then all move together; default: all epochs.
        learning_rate: a number or a schedule over the run; default: 0.001, or what suits the
            objective.
        optimizer: constructor `(parameters, lr=...) -> Optimizer`, e.g. AdamW.
        clip: largest global norm of a gradient, longer ones are shortened to it; default: the
            model's, mostly none.
        skip: leave out a step whose gradient norm exceeds this; default: none.
        ema: decay, e.g. 0.999, of a moving average of the weights, which is then what is
            validated and kept; default: no average.
        patience: stop after so many epochs without a better validation value; default: what suits
            the objective if the length is not given either (`Objective.habits`), else never.
        tolerance: a closed-form fit ends where a pass gains no more than this, in nats; default:
            1e-8, and where EM creeps 1e-6 (missing values) or 1e-5 (mixtures).
        seed: seed of everything random.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "32-true", "64-true", "bf16-mixed", "bf16-true", or "16-mixed" on CUDA.
        compile: compile the training step by `torch.compile`.
        initialise: set scales and starting points from the data; False goes on from the model as
            it is.
        checkpoint: file that lets a stopped run continue; removed by the caller.
        resume: continue from the checkpoint if it is there.
        checkpoint_seconds: most seconds between two checkpoints.
        log: CSV file for the history, rewritten every epoch.
        progress: show a progress bar, or plain lines where the output is no terminal.

    Raises:
        UserError: data the model does not hold, options out of range or without effect, a
            checkpoint of another run, or a run that became non-finite (the last good checkpoint
            stays).
        Interrupted: Ctrl-C or SIGTERM, after the checkpoint was written.
    """
    options: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "inference_steps": inference_steps,
        "inference_epochs": inference_epochs,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "clip": clip,
        "skip": skip,
        "device": device,
        "precision": precision,
        "compile": compile,
    }
    others: dict[str, Any] = {"patience": patience, "ema": ema, "initialise": initialise}
    _check_data(model, data, validation)
    _check_options(data, validation, tolerance, options | others)
    path, log = _path(checkpoint), _path(log)
    with locked(path) if path is not None else contextlib.nullcontext():
        passes = _passes(model, data, seed)
        if passes is not None:
            others |= {"checkpoint_seconds": checkpoint_seconds, "objective": objective}
            _check_idle(model, options | others)
            if tolerance is None:
                tolerance = model.tolerance[not data.fully_observed]
            found = _fit_passes(model, passes, steps or 2000, tolerance, log, progress)
            return replace(
                found,
                criteria=_criteria(model, found, len(data)),
                validation=None if validation is None else _held_out(model, validation, seed),
            )
        _check_trained(model, tolerance)
        objective = (objective or usual(model)).suited(len(data))
        objective.check_model(model)  # before the run sets its scales
        habits = _habitual(objective, data, options | others)
        waits = habits.pop("patience", None)
        if validation is not None and others["patience"] is None:
            others["patience"] = waits
        options |= habits
        if clip is None:
            options["clip"] = model.clip
        check_pieces(BatchOrder(len(data), options["batch_size"], 0), accumulate)
        run = Run(
            model,
            data,
            validation,
            objective,
            seed=seed,
            path=path,
            log=log,
            **others,
        )
        run(resume=resume, seconds_apart=checkpoint_seconds, show=progress, **options)
        notes = [*objective.complaints(model), *run.warnings(), *model.complaints()]
        rebuilt = _rebuilt(model, data if validation is None else validation, seed)
        if rebuilt is not None and rebuilt < _HARDLY and run.progress.step >= _SOME_STEPS:
            notes.append(
                f"{rebuilt:.0%} of the variance is rebuilt, hardly more than by the mean row: the "
                "codes say nothing; train longer, let a penalty begin at 0, as in "
                "L1(Warmup(0.1)), or lower its weight"
            )
        state = run.progress
        return Fit(
            state.history,
            run.kept,
            state.seconds,
            tuple(notes),
            exact=run.exact,
            rebuilt=rebuilt,
        )


def _habitual(objective: Objective, data: Data, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the objective is used with, where nothing is said."""
    usual = dict(objective.habits(len(data)))
    if options["epochs"] is not None or options["steps"] is not None:
        usual = {name: usual[name] for name in usual if name not in _LENGTH}
    return {name: value for name, value in usual.items() if options[name] is None}


def _passes(model: Model, data: Data, seed: int) -> Iterator[Tensor] | None:
    """The passes of a closed-form fit or EM, on one draw of data that are drawn anew."""
    one = data.rows(slice(0, 1))  # enough to ask whether there are any
    if model.em(one.x, one.mask, one.context) is None:
        return None
    drawn = data.once(seed)
    return model.em(drawn.x, drawn.mask, drawn.context, seed=seed)


def _fit_passes(
    model: Model,
    passes: Iterator[Tensor],
    most: int,
    tolerance: float,
    log: Path | None,
    show: bool,
) -> Fit:
    began, history, last, gain = time.monotonic(), [], -math.inf, math.inf
    with (
        Bar(most, "pass", value=_climbed(model), show=show) as bar,
        _caught() as caught,
        Stop() as stop,
    ):
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
        write_csv(log, history)
    notes = [str(w.message) for w in caught] + list(model.complaints())
    if 1 < len(history) == most and gain > tolerance:
        notes.append(
            f"stopped after {most} passes while still gaining {gain:.1e} nats a pass; "
            "raise --steps or --tolerance"
        )
    kept = "maximum a posteriori" if model.log_prior() else "maximum likelihood"
    return Fit(history, kept, time.monotonic() - began, tuple(notes))


def _climbed(model: Model) -> str:
    """What passes maximise, in words."""
    return "log p(x) + log prior / rows" if model.log_prior() else "log p(x)"


@torch.no_grad()
def _held_out(model: Model, data: Data, seed: int) -> float:
    """Mean of log p(x), or of its bound by one draw, over rows that were not fitted to."""
    total, data = 0.0, data.once(seed)
    with seeded(derive(seed, "validation"), model.device):
        for rows in torch.arange(len(data)).tensor_split(-(-len(data) // BLOCK)):
            x, mask, context = moved(data.batch(rows), model.device)
            total += float(model.infer(x, 1, mask, context).log_w.double().sum())
    return total / len(data)


@torch.no_grad()
def _rebuilt(model: Model, data: Data, seed: int) -> float | None:
    """The share of the variance of rows that an autoencoder rebuilds."""
    if not isinstance(model, Autoencoder):
        return None
    x, mask, context = moved(
        data.rows(slice(0, _TOLD)).once(seed).batch(slice(None)), model.device
    )
    return 1 - float(model.anomaly_score(x, mask, context).mean())


def _criteria(model: Model, found: Fit, rows: int) -> Criteria | None:
    parameters = model.degrees()
    if parameters is None:
        return None
    total = rows * found.history[-1]["log_prob"] - model.log_prior()
    return Criteria(total, parameters, rows)


def _solved(passes: Iterator[Tensor]) -> Iterator[Tensor]:
    try:
        yield from passes
    except torch.linalg.LinAlgError:
        raise UserError(
            "the covariance of the data cannot be decomposed in float64: their values are too "
            "large or of too different scales; rescale the columns"
        ) from None


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)


def _check_options(
    data: Data, validation: Data | None, tolerance: float | None, options: Mapping[str, Any]
) -> None:
    patience, rate = options["patience"], options["learning_rate"]
    if patience is not None and (validation is None or patience < 1):
        raise UserError("patience needs validation data and a value of at least 1")
    if rate is not None and not isinstance(rate, Schedule) and not 0 < rate < math.inf:
        raise UserError(f"learning_rate={rate} must be positive and finite")
    for name in ("batch_size", "steps"):
        if options[name] is not None and options[name] < 1:
            raise UserError(f"{name}={options[name]} must be at least 1")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance={tolerance} must be a number of nats, 0 or more")
    check_limits(options["clip"], options["skip"])
    check_decay(options["ema"])


def _check_idle(model: Model, options: Mapping[str, Any]) -> None:
    """Refuses options that would change nothing, so that no caller believes they did."""
    defaults = inspect.signature(fit).parameters
    for name, value in options.items():
        as_usual = ("auto", "cpu") if name == "device" else (defaults[name].default,)
        if name == "steps" or value in as_usual:
            continue
        raise UserError(
            f"{name}={value!r} has no effect: {type(model).__name__} is fitted in closed form or "
            "by EM, in passes over all rows; leave it out (steps bounds the passes)"
        )


def _check_trained(model: Model, tolerance: float | None) -> None:
    if tolerance is not None:
        raise UserError(
            f"tolerance={tolerance} has no effect: {type(model).__name__} is trained by gradient; "
            "stop early by patience"
        )


def _check_data(model: Model, data: Data, validation: Data | None) -> None:
    for part in (data, validation):
        if part is None:
            continue
        if not isinstance(part, Data):
            raise UserError(
                f"rows to fit are Data, got a {type(part).__name__}; wrap an array by "
                "latently.Data.from_array(x)"
            )
        if part.mask is not None and not bool(part.mask.any()):
            raise UserError(f"{part.protocol} has no observed value at all")
        model.check_context(part.context, part.protocol)
        _check_support(model, part)


def _remedy(model: Model, data: Data) -> str:
    """What to do about values outside a model's support, by what the user chose."""
    chosen = {} if model.call is None else model.call.arguments
    if data.table is not None:
        return "give this column another likelihood, or another kind, in the schema"
    if chosen.get("transform") is not None:
        return "choose a --transform that holds them, or leave it out"
    if chosen.get("levels") is not None:
        return "choose other --levels, or leave them out"
    if chosen.get("family") is not None:
        return "choose another --family, such as Diagonal"
    best = f"these data fit --likelihood {data.family!r}"
    if chosen.get("likelihood") is None:
        return best
    own = data.family.partition("(")[0]
    others = [name for name in families_for(data.x, data.mask) if name != own]
    return f"{best}; others that hold them: {', '.join(others)}"


def _check_support(model: Model, data: Data) -> None:
    fix = partial(_remedy, model, data)
    for start in range(0, len(data), BLOCK):
        rows = torch.arange(start, min(start + BLOCK, len(data)))
        with seeded(0):
            x, mask, _ = data.batch(rows)
        model.check(x, mask, data.protocol, first=start, fix=fix)


@contextlib.contextmanager
def _caught() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield caught
