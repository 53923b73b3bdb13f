"""`latently fit`: from a recipe, data and flags to a model file."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latently import data as data_floor
from latently import expr
from latently._version import __version__
from latently.data import Data
from latently.errors import Interrupted, UserError, closest
from latently.inference.noise import derive, seeded
from latently.interfaces.flags import Flag, check_seed, flags_of, parse, usage
from latently.interfaces.memory import check_memory, is_out_of_memory
from latently.interfaces.output import check_place
from latently.io import check_savable, save
from latently.models import Model
from latently.recipes import RECIPES
from latently.registry import components
from latently.training import Fit, Variational, fit
from latently.training.files import named_tensors

__all__ = ["Request", "fit_command", "fit_flags", "fit_help", "fit_to_file", "make_model"]

MAX_THREADS = 1024  # far more than help; a hundred thousand end the process without a word
_OBJECTIVE = ("bound", "estimator", "samples")
_CLOSED_FORM = ("steps", "tolerance", "seed")
_FROM_DATA = ("likelihood", "levels", "sees_mask")  # see make_model
_SET_HERE = ("model", "data", "objective", "validation", "checkpoint", "log", "progress", "resume")


def run(
    data: str,
    out: str,
    *,
    config: str | None = None,
    validation: str | None = None,
    data_dir: str | None = None,
    force: bool = False,
    resume: bool = False,
    missing: bool = True,
    log: str | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> None:
    """The part of `latently fit` that is about files; documented here for its flags.

    Args:
        data: what to fit to: a name such as digits or mnist:binary-dynamic, or a file.
        out: the model file to write, e.g. model.safetensors.
        config: TOML file of options, e.g. batch-size = 200; those of the call come first.
        validation: a share such as 0.1, or other data; named sets have their own split.
        data_dir: folder of the data sets; default: $LATENTLY_DATA.
        force: replace an existing --out.
        resume: continue a stopped run of the same call.
        missing: allow missing values (NaN); --no-missing refuses them.
        log: CSV file for the history.
        threads: number of CPU threads.
        quiet: no progress, no summary.
    """


@dataclass(frozen=True)
class Request:
    """A parsed fit: recipe, its arguments, the objective, the options of fit, and files."""

    recipe: str
    arguments: Mapping[str, Any]
    objective: Variational
    options: Mapping[str, Any]
    files: Mapping[str, Any]


def fit_flags(recipe: str) -> list[Flag]:
    """Every flag of `latently fit RECIPE`."""
    if recipe not in RECIPES:
        raise UserError(f"unknown recipe {recipe!r}; {closest(recipe, RECIPES)}")
    model = flags_of(RECIPES[recipe], f"model ({recipe})", skip=("shape", "contexts"))
    return [
        *flags_of(run, "data and files"),
        *(replace(f, default="as the data") if f.name in _FROM_DATA else f for f in model),
        *flags_of(Variational, "objective"),
        *flags_of(fit, "training", skip=(*_SET_HERE,)),
    ]


def fit_help(recipe: str | None) -> str:
    """Help of `latently fit`, or of one recipe."""
    if recipe is None:
        lines = ["Usage: latently fit RECIPE --data SPEC --out FILE [flags]", "", "Recipes:"]
        for name, function in RECIPES.items():
            lines.append(f"  {name:<8} {(inspect.getdoc(function) or '').splitlines()[0]}")
        lines += ["", "Flags of a recipe: latently fit RECIPE --help"]
        return "\n".join(lines)
    head = f"Usage: latently fit {recipe} --data SPEC --out FILE [flags]"
    return f"{head}\n{usage(fit_flags(recipe))}"


def read_request(tokens: Sequence[str]) -> Request:
    """Parses the words after `latently fit`."""
    if not tokens or tokens[0].startswith("-"):
        raise UserError(
            f"name a recipe first: latently fit RECIPE ...; known: {', '.join(RECIPES)}"
        )
    recipe = tokens[0]
    flags = fit_flags(recipe)
    values = parse(tokens[1:], flags)
    if "config" in values:
        values = {**_from_config(values["config"], flags), **values}
    files = {f.name: values.pop(f.name, f.default) for f in flags_of(run, "")}
    for name in ("data", "out"):
        if files[name] is None:
            raise UserError(f"latently fit {recipe} needs --{name}; see latently fit --help")
    check_seed(values.get("seed", 0))
    names = {f.name for f in flags_of(RECIPES[recipe], "")}
    arguments = {k: v for k, v in values.items() if k in names}
    objective = Variational(**{k: v for k, v in values.items() if k in _OBJECTIVE})
    options = {k: v for k, v in values.items() if k not in names and k not in _OBJECTIVE}
    return Request(recipe, arguments, objective, options, files)


def _from_config(path: str, flags: Sequence[Flag]) -> dict[str, Any]:
    """Values by Python name from a TOML file, read as the same words in a call would be."""
    import tomllib

    try:
        content = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"--config {path} is no TOML: {error}") from None
    words: list[str] = []
    for name, value in content.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag}={tuple(value) if isinstance(value, list) else value}")
    try:
        return parse(words, [flag for flag in flags if flag.name != "config"])
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from None


def make_model(recipe: str, arguments: Mapping[str, Any], data: Data, seed: int) -> Model:
    """Builds a recipe's model for data: shape, likelihood and levels follow from the data."""
    signature = inspect.signature(RECIPES[recipe])
    filled: dict[str, Any] = {"shape": tuple(data.shape)}
    if "likelihood" in signature.parameters:
        filled["likelihood"] = expr.build(data.family, components())
    if "levels" in signature.parameters and data.levels is not None:
        filled["levels"] = data.levels
    if "sees_mask" in signature.parameters and data.missing:
        filled["sees_mask"] = True
    if "contexts" in signature.parameters and data.context is not None:
        filled["contexts"] = data.context.shape[1]
    call = partial(RECIPES[recipe], **{**filled, **arguments})
    with torch.device("meta"):
        size = sum(t.numel() for t in named_tensors(_built(recipe, call)).values())
    check_memory(
        4 * size,  # the values, their gradients and the optimizer's two moments
        f"training a model of {size:,} values",
        "lower --latents, or the widths of --net",
    )
    with seeded(derive(seed, "model")):
        return _built(recipe, call)


def _built(recipe: str, call: Callable[[], Model]) -> Model:
    try:
        return call()
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{recipe}: these options build no model: {reason}") from None


def fit_command(tokens: Sequence[str], write: Any = print) -> None:
    """Runs `latently fit` on the words after it."""
    request = read_request(tokens)
    files = request.files
    if files["threads"] is not None:
        if not 1 <= files["threads"] <= MAX_THREADS:
            raise UserError(f"--threads {files['threads']} must be from 1 to {MAX_THREADS}")
        torch.set_num_threads(files["threads"])
    missing = "allow" if files["missing"] else "refuse"
    train, validation = data_floor.splits(
        files["data"],
        files["data_dir"],
        files["validation"],
        request.options.get("seed", 0),
        missing=missing,
    )
    if not files["quiet"]:
        write(_about(train, validation))
    result = fit_to_file(request, train, validation)
    if not files["quiet"]:
        write(summary(result, Path(files["out"])))


def fit_to_file(request: Request, train: Data, validation: Data | None) -> Fit:
    """Builds, fits and saves; refuses before training what could not be saved after it."""
    out = Path(request.files["out"]).expanduser()
    resume, force = request.files["resume"], request.files["force"]
    checkpoint = _check_out(out, resume, force)
    log = request.files["log"]
    if log is not None:
        check_log(Path(log).expanduser(), resume or force)
    seed = request.options.get("seed", 0)
    model = make_model(request.recipe, request.arguments, train, seed)
    check_savable(model)
    command_text(request)
    closed_form = model.em(train.x) is not None
    check_effect(request, train, closed_form)
    quiet = request.files["quiet"]
    if resume and not closed_form and not quiet and not checkpoint.exists():
        print(f"nothing to resume beside {out}; starting afresh", file=sys.stderr)
    if resume and closed_form and checkpoint.exists():
        raise UserError(
            f"{checkpoint} is of another call than this closed-form {request.recipe}, which has "
            "nothing to resume; choose another --out, or --force to discard it"
        )
    for warning in _doubts(train, closed_form):
        print(f"warning: {warning}", file=sys.stderr)
    try:
        result = fit(
            model,
            train,
            request.objective,
            validation=validation,
            checkpoint=checkpoint,
            resume=resume,
            log=None if log is None else Path(log).expanduser(),
            progress=not quiet,
            **request.options,
        )
    except Interrupted as stop:
        kept = checkpoint.exists()
        how = "continue with the same call and --resume" if kept else "nothing was written"
        raise Interrupted(f"{stop}; {how}") from None
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    save(model, out, data=train, training=_record(request, result, train))
    checkpoint.unlink(missing_ok=True)
    return result


def check_effect(request: Request, train: Data, closed_form: bool) -> None:
    """Refuses flags that would change nothing, so that no record claims they did.

    Raises:
        UserError: such a flag was given.
    """
    given = {**_changed(request.objective), **request.options}
    if not closed_form:
        if "tolerance" in given:
            raise UserError(f"--tolerance has no effect on {request.recipe}; use --patience")
        rows = min(request.options.get("batch_size", 100), len(train))
        values = request.objective.samples * rows * train.x[0].numel()
        check_memory(values, "one training step", "lower --samples or --batch-size")
        return
    idle = [name for name in given if name not in _CLOSED_FORM]
    if idle:
        flag = "--" + idle[0].replace("_", "-")
        raise UserError(
            f"{flag} has no effect: {request.recipe} is fitted in closed form or by EM; leave it "
            "out (--steps bounds the passes)"
        )


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
    seen = torch.ones_like(train.x, dtype=torch.bool) if train.mask is None else train.mask
    seen = seen.flatten(1)
    unseen = ~seen.any(0)
    if bool(unseen.any()) and not bool(unseen.all()):
        yield f"no observed value in column {_listed(unseen)}; nothing is learned of it"
    if train.levels is not None or len(train) == 1:
        return
    low = train.x.flatten(1).masked_fill(~seen, math.inf).amin(0)
    constant = low == train.x.flatten(1).masked_fill(~seen, -math.inf).amax(0)
    if bool(constant.any()):
        yield (
            f"column {_listed(constant)} is constant; its density grows as long as training goes "
            "on, so this share of log p(x) means little"
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
    options = {key: _text(value) for key, value in request.options.items()}
    closed_form = bool(result.history) and "pass" in result.history[0]
    return {
        "data": train.protocol,
        "objective": "maximum likelihood" if closed_form else expr.show(request.objective),
        "options": options,
        "kept": result.kept,
        "seconds": result.seconds,
        "warnings": list(result.warnings),
        "history": result.history,
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "command": command_text(request),
    }


def command_text(request: Request) -> str:
    """The exact call that would fit this again."""
    import shlex

    words = ["latently", "fit", request.recipe, "--data", request.files["data"]]
    chosen = {**request.arguments, **_changed(request.objective), **request.options}
    if not request.files["missing"]:
        chosen["missing"] = False
    for name in ("validation", "threads"):
        if request.files[name] is not None:
            chosen[name] = request.files[name]
    for name, value in chosen.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag[2:])
        else:
            words += [flag, _text(value)]
    return shlex.join([*words, "--out", request.files["out"]])


def _changed(objective: Variational) -> dict[str, Any]:
    default = Variational()
    values = {name: getattr(objective, name) for name in _OBJECTIVE}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else expr.show(value)


def _about(train: Data, validation: Data | None) -> str:
    text = f"{train.protocol}: {len(train)} rows of shape {tuple(train.shape)}"
    if validation is not None:
        text += f", {len(validation)} for validation"
    if train.missing:
        text += f", {train.missing} missing values"
    return text


def summary(result: Fit, out: Path) -> str:
    """Two lines on a finished fit."""
    last = result.history[-1] if result.history else {}
    if "pass" in last:
        reached = f"log p(x) {last['log_prob']:.4f} nats in {last['pass']:.0f} passes"
    else:
        reached = f"bound {last.get('bound', float('nan')):.2f} nats"
        if "validation" in last:
            reached += f", validation {last['validation']:.2f}"
        reached += f" after {last.get('epoch', 0):.0f} epochs; kept: {result.kept}"
    return f"{reached} ({result.seconds:.1f} s)\nwrote {out}"
