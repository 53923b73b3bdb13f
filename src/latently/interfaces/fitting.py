"""`latently fit`: from a recipe, data and flags to a model file."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from latently import data as data_floor
from latently import expr
from latently._version import __version__
from latently.data import Data
from latently.data.partition import REST
from latently.errors import Interrupted, UserError
from latently.inference.noise import seeded
from latently.interfaces.making import make_model, open_init, start_from, takes
from latently.interfaces.memory import check_memory
from latently.interfaces.output import check_place
from latently.interfaces.request import (
    CLOSED_FORM_OPTIONS,
    Request,
    command_text,
    option_text,
    read_request,
)
from latently.interfaces.tabular import read_kinds, read_schema
from latently.io import check_savable, save
from latently.models import Model
from latently.recipes import RECIPES
from latently.training import Fit, Objective, Variational, fit

__all__ = ["fit_command", "fit_to_file"]

MAX_THREADS = 1024  # far more than help; a hundred thousand end the process without a word


def fit_command(tokens: Sequence[str], write: Any = print) -> None:
    """Runs `latently fit` on the words after it."""
    request = read_request(tokens)
    files = request.files
    if files["threads"] is not None:
        if not 1 <= files["threads"] <= MAX_THREADS:
            raise UserError(f"--threads {files['threads']} must be from 1 to {MAX_THREADS}")
        torch.set_num_threads(files["threads"])
    train, validation = open_splits(request)
    if not files["quiet"]:
        write(_about(train, validation))
    result = fit_to_file(request, train, validation)
    if not files["quiet"]:
        write(summary(result, Path(files["out"])))


def open_splits(request: Request) -> tuple[Data, Data | None]:
    """The rows to fit on and to validate on, with holes where the call wants them."""
    files, seed = request.files, request.options.get("seed", 0)
    labels = _labels(request)
    train, validation = data_floor.splits(
        files["data"],
        files["data_dir"],
        files["validation"],
        seed,
        missing="allow" if files["missing"] else "refuse",
        context=files["context"],
        binarise=None if files["binarise"] == "none" else files["binarise"],
        table=None if files["schema"] is None else read_schema(files["schema"]),
        kinds=read_kinds(files["kinds"]),
    )
    if labels is not None:
        train = data_floor.with_labels(train, labels, seed)
    if files["mask"] is None:
        return train, validation
    if validation is not None:
        validation = validation.once(seed).hidden(files["mask"], seed)
    return replace(train, hide=files["mask"]), validation


def _labels(request: Request) -> int | Literal["all"] | None:
    """How many labels the model may see; None: it is no model of labels.

    Raises:
        UserError: they are missing, not wanted, or no number.
    """
    text, recipe = request.files["labels"], request.recipe
    optional = [name for name, build in RECIPES.items() if takes(build, "classes")]
    if recipe not in optional:
        if text is not None:
            raise UserError(
                f"--labels {text}: {recipe} has no use for some labels; leave it out, or choose "
                f"{', '.join(optional)} (--context label is for models of p(x|label))"
            )
        return None
    if request.files["context"] is not None:
        raise UserError(f"{recipe} takes no --context but --labels N, or --labels all")
    if text is None:
        raise UserError(f"{recipe} needs --labels N, how many it may see, or --labels all")
    try:
        return "all" if text == "all" else int(text)
    except ValueError:
        raise UserError(f"--labels {text[:40]!r} must be a whole number, or all") from None


def fit_to_file(request: Request, train: Data, validation: Data | None) -> Fit:
    """Builds, fits and saves; refuses before training what could not be saved after it."""
    request = replace(request, objective=request.objective.suited(len(train)))
    out = Path(request.files["out"]).expanduser()
    resume, force = request.files["resume"], request.files["force"]
    checkpoint = _check_out(out, resume, force)
    log = request.files["log"]
    if log is not None:
        check_log(Path(log).expanduser(), resume or force)
    seed = request.options.get("seed", 0)
    saved = open_init(request, train)
    init = None if saved is None else saved.model.call.arguments
    model = make_model(request.recipe, request.arguments, train, seed, init)
    if saved is not None:
        start_from(model, saved, request.files["init"])
    check_savable(model)
    command_text(request)
    one = train.rows(slice(0, 1))  # enough to ask
    closed_form = model.em(one.x, None, one.context) is not None
    check_effect(request, train, model, closed_form)
    quiet = request.files["quiet"]
    if resume and not closed_form and not quiet and not checkpoint.exists():
        print(f"nothing to resume beside {out}; starting afresh", file=sys.stderr)
    if resume and closed_form and checkpoint.exists():
        raise UserError(
            f"{checkpoint} is of another call than this closed-form {request.recipe}, which has "
            "nothing to resume; choose another --out, or --force to discard it"
        )
    if not closed_form:
        request.objective.check_model(model)
    known = [] if closed_form else list(map(train.told, request.objective.complaints(model)))
    for warning in (*_doubts(train, closed_form), *known):
        print(f"warning: {warning}", file=sys.stderr)
    try:
        result = fit(
            model,
            train,
            None if closed_form else request.objective,
            validation=validation,
            checkpoint=checkpoint,
            resume=resume,
            log=None if log is None else Path(log).expanduser(),
            progress=not quiet,
            initialise=saved is None,
            **request.options,
        )
    except Interrupted as stop:
        kept = checkpoint.exists()
        how = "continue with the same call and --resume" if kept else "nothing was written"
        raise Interrupted(f"{stop}; {how}") from None
    for warning in result.warnings:
        if warning not in known:  # said before the fit
            print(f"warning: {warning}", file=sys.stderr)
    save(model, out, data=train, training=_record(request, result, train))
    checkpoint.unlink(missing_ok=True)
    return result


def check_effect(request: Request, train: Data, model: Model, closed_form: bool) -> None:
    """Refuses flags that would change nothing, so that no record claims they did.

    Raises:
        UserError: such a flag was given, or a step does not fit into memory.
    """
    given = (*request.said, *request.options)
    if closed_form and request.files["init"] is not None:
        raise UserError(
            f"--init has no effect: {request.recipe} is fitted in closed form or by EM"
        )
    if not closed_form:
        _check_sampled(given, model, request.recipe)
        if "tolerance" in given:
            raise UserError(f"--tolerance has no effect on {request.recipe}; use --patience")
        rows = (
            request.options.get("batch_size") or request.objective.habits(len(train))["batch_size"]
        )
        rows = min(rows, len(train))
        rows = -(-rows // max(1, request.options.get("accumulate", 1)))  # fit refuses others
        latents = _latents(model, train)
        values = request.objective.size(rows, train.x[0].numel(), latents)
        check_memory(values, "one training step", "lower --samples or --batch-size")
        return
    idle = [name for name in given if name not in CLOSED_FORM_OPTIONS]
    if idle:
        flag = "--" + idle[0].replace("_", "-")
        raise UserError(
            f"{flag} has no effect: {request.recipe} is fitted in closed form or by EM; leave it "
            "out (--steps bounds the passes)"
        )


def _check_sampled(given: Sequence[str], model: Model, recipe: str) -> None:
    """Refuses options of draws where log p(x) is maximised itself."""
    drawn = [name for name in ("bound", "estimator", "samples") if name in given]
    if model.density == "exact" and drawn:
        raise UserError(
            f"--{drawn[0]} has no effect: {recipe} knows log p(x) of these rows exactly and "
            "maximises it; leave it out"
        )


@torch.no_grad()
def _latents(model: Model, train: Data) -> int:
    """Numbers in the latents of one row."""
    with seeded(0):
        x, mask, context = train.batch(slice(0, 1))
        return sum(z[0, 0].numel() for z in model.infer(x, 1, mask, context).z)


def check_log(log: Path, replace: bool) -> None:
    """Refuses a history that would overwrite something else.

    Raises:
        UserError: no .csv, a file that is there, or a place that cannot be written.
    """
    if log.suffix != ".csv":
        raise UserError(f"--log {str(log)!r}: end the name in .csv")
    check_place(log)
    if log.exists() and not replace:
        raise UserError(f"{log} exists; choose another --log, or --force to replace it")


def _doubts(train: Data, closed_form: bool) -> Iterator[str]:
    """What a reader should know of the data, a line each."""
    if len(train) == 1:
        yield "one training row; every likelihood is degenerate"
    if closed_form:  # these say the rest themselves
        return
    shown = train.hidden(train.hide) if train.hide else train
    seen = torch.ones_like(train.x, dtype=torch.bool) if shown.mask is None else shown.mask
    seen = seen.flatten(1)
    unseen = ~seen.any(0)
    if bool(unseen.any()) and not bool(unseen.all()):
        fix = f'; hide it in some rows only, "Sometimes({expr.show(train.hide)})"'
        yield (
            train.told(f"no observed value in column {_listed(unseen)}; nothing is learned of it")
            + (fix if train.hide else "")
        )
    if train.levels is not None or len(train) == 1:
        return
    low = train.x.flatten(1).masked_fill(~seen, math.inf).amin(0)
    constant = low == train.x.flatten(1).masked_fill(~seen, -math.inf).amax(0)
    if bool(constant.any()):
        yield (
            train.told(f"column {_listed(constant)} is constant; its density grows as long as ")
            + "training goes on, so this share of log p(x) means little"
        )


def _listed(which: torch.Tensor) -> str:
    columns = which.nonzero().flatten().tolist()
    return ", ".join(map(str, columns[:8])) + (", ..." if len(columns) > 8 else "")


def _check_out(out: Path, resume: bool, force: bool) -> Path:
    """The checkpoint beside an --out that may be written."""
    if resume and force:
        raise UserError("--resume continues a run and --force replaces it; give one of them")
    if not out.name or out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file, e.g. {out / 'model.safetensors'}")
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: end the name in .safetensors")
    check_place(out)
    checkpoint = out.with_name(out.name + ".checkpoint")
    if resume and out.exists() and not checkpoint.exists():
        raise UserError(f"{out} is complete, there is nothing to resume; --force replaces it")
    if not (resume or force):
        if out.exists():
            raise UserError(f"{out} exists; choose another --out, or --force to replace it")
        if checkpoint.exists():
            raise UserError(
                f"{checkpoint} holds a stopped run; --resume continues it, --force starts again"
            )
    return checkpoint


def _record(request: Request, result: Fit, train: Data) -> dict[str, Any]:
    """What the model file says of its fit."""
    named = ("context", "labels", "binarise", "mask", "init")
    given = {key: request.files[key] for key in named if request.files[key] is not None}
    options = {key: option_text(v) for key, v in {**given, **request.options}.items()}
    return {
        "data": train.protocol,
        "objective": _maximised(request, result),
        "options": options,
        "kept": result.kept,
        "criteria": "" if result.criteria is None else str(result.criteria),
        "seconds": result.seconds,
        "warnings": list(result.warnings),
        "history": result.history,
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "command": command_text(request),
    }


def _maximised(request: Request, result: Fit) -> str:
    """What was maximised, in words."""
    if result.history and "pass" in result.history[0]:
        return result.kept
    return "log p(x), exact" if result.exact else _objective(request.objective)


def _objective(objective: Objective) -> str:
    """What was maximised, defaults included: `ELBO by Reparam, 1 sample`."""
    if not isinstance(objective, Variational):
        return expr.show(objective)
    many = f"{objective.samples} sample{'s' * (objective.samples > 1)}"
    if objective.estimator.gradient == "exact":
        many = "all states"
    return f"{expr.show(objective.bound)} by {expr.show(objective.estimator)}, {many}"


def _about(train: Data, validation: Data | None) -> str:
    name = train.protocol.removesuffix(f" {REST}")  # said by the number of validation rows
    shape = f"{len(train.table.names)} columns" if train.table else f"shape {tuple(train.shape)}"
    text = f"{name}: {len(train)} rows of {shape}"
    if validation is not None:
        text += f", {len(validation)} for validation"
    if missing := train.missing:
        text += f", {missing} missing values"
    return "\n".join([text, *(f"note: {notice}" for notice in train.notices)])


def summary(result: Fit, out: Path) -> str:
    """Two lines on a finished fit."""
    last = result.history[-1] if result.history else {}
    if "pass" in last:
        climbed = "log p(x)" + " + log prior / rows" * (result.kept == "maximum a posteriori")
        reached = f"{climbed} {last['log_prob']:.4f} nats in {last['pass']:.0f} passes"
        if result.validation is not None:
            reached += f", validation {result.validation:.4f}"
        if result.criteria is not None:
            reached += f", {result.criteria}"
    else:
        name = "bound" if "bound" in last else "objective"
        called = "log p(x)" if result.exact else name
        reached = f"{called} {last.get(name, math.nan):.2f} nats"
        if "validation" in last:
            reached += f", validation {last['validation']:.2f}"
        if result.rebuilt is not None:
            reached += f", {result.rebuilt:.0%} of the variance rebuilt,"
        step, epoch = (int(last.get(key, 0)) for key in ("step", "epoch"))
        reached += f" after {step:,} steps, in epoch {epoch}; kept: {result.kept}"
    return f"{reached} ({result.seconds:.1f} s)\nwrote {out}"
