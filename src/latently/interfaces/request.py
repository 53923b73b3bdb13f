"""What `latently fit` is asked: its flags, read from signatures, and the call that repeats it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latently import expr
from latently.data.masks import Mask
from latently.errors import UserError, closest
from latently.interfaces.flags import Flag, check_seed, flags_of, parse, usage
from latently.recipes import CLOSED_FORM, OBJECTIVES, RECIPES
from latently.training import Objective, fit
from latently.training.files import check_regular

__all__ = [
    "CLOSED_FORM_OPTIONS",
    "Request",
    "changed",
    "command_text",
    "fit_flags",
    "fit_help",
    "option_text",
    "read_request",
    "taken_flags",
]

CLOSED_FORM_OPTIONS = ("steps", "tolerance", "seed")  # those of `fit` that change such a fit
_NOT_ASKED = ("shape", "contexts", "classes", "codes")  # follow the data, or come after the fit
_FROM_DATA = ("likelihood", "levels", "sees_mask")  # see making.make_model
_SET_HERE = (
    *("model", "data", "objective", "validation", "checkpoint", "log", "progress", "resume"),
    "initialise",
)


def run(
    data: str,
    out: str,
    *,
    config: str | None = None,
    validation: str | None = None,
    context: str | None = None,
    labels: str | None = None,
    binarise: str | None = None,
    mask: Mask | None = None,
    init: str | None = None,
    data_dir: str | None = None,
    force: bool = False,
    resume: bool = False,
    missing: bool = True,
    schema: str | None = None,
    kinds: str | None = None,
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
        context: fit p(x|c): label, or the key of an array beside x.
        labels: how many labels a semi-supervised model sees, as many of each class and drawn by
            the seed, or all that are known; -1 and NaN are unknown.
        binarise: dynamic, static-seed0 or none, for grey images of your own.
        mask: cells to hide, drawn anew at every use: for a model that is to impute.
        init: a model file to start from: its weights, and its options where none are given.
        data_dir: folder of the data sets; default: $LATENTLY_DATA.
        force: replace an existing --out.
        resume: continue a stopped run of the same call.
        missing: allow missing values (NaN); --no-missing refuses them.
        schema: JSON file that says what the columns of a table are: see latently schema.
        kinds: what some columns of a table are, e.g. zip=categorical,age=count.
        log: CSV file for the history.
        threads: number of CPU threads.
        quiet: no progress, no summary.
    """


@dataclass(frozen=True)
class Request:
    """A parsed fit: recipe, its arguments, the objective, the options of fit, and files.

    `said` names the options of the objective that the call gave, be they the default ones.
    """

    recipe: str
    arguments: Mapping[str, Any]
    objective: Objective
    options: Mapping[str, Any]
    files: Mapping[str, Any]
    said: Sequence[str] = ()


def fit_flags(recipe: str) -> list[Flag]:
    """Every flag of `latently fit RECIPE` that is read, be it to be refused with its reason."""
    if recipe not in RECIPES:
        raise UserError(f"unknown recipe {recipe!r}; {closest(recipe, RECIPES)}")
    model = flags_of(RECIPES[recipe], f"model ({recipe})", skip=_NOT_ASKED)
    return [
        *flags_of(run, "data and files"),
        *(replace(f, default="as the data") if _follows(f) else f for f in model),
        *_objective_flags(recipe),
        *flags_of(fit, "training", skip=(*_SET_HERE,)),
    ]


def taken_flags(recipe: str) -> list[Flag]:
    """The flags that a fit of this recipe does not refuse: those that its help lists."""
    flags = fit_flags(recipe)
    if recipe not in CLOSED_FORM:
        return [flag for flag in flags if flag.name != "tolerance"]
    known = {*inspect.signature(run).parameters, *inspect.signature(RECIPES[recipe]).parameters}
    taken = (known - {"init"}) | set(CLOSED_FORM_OPTIONS)
    return [flag for flag in flags if flag.name in taken]


def _follows(flag: Flag) -> bool:
    """Whether the data say what the recipe's own default is not."""
    return flag.name in _FROM_DATA and (flag.name != "likelihood" or flag.default is not None)


def _objective_flags(recipe: str) -> list[Flag]:
    """The objective by parts, or whole."""
    parts = flags_of(OBJECTIVES[recipe], "objective")
    names = " ".join(flag.text for flag in parts)
    whole = next(flag for flag in flags_of(fit, "objective") if flag.name == "objective")
    about = f"what to maximise, whole, in place of {names}"
    return [*parts, replace(whole, help=about)]


def _parts(objective: type[Objective]) -> list[str]:
    """Options of an objective."""
    return list(inspect.signature(objective).parameters)


def fit_help(recipe: str | None) -> str:
    """Help of `latently fit`, or of one recipe."""
    if recipe is None:
        lines = ["Usage: latently fit RECIPE --data SPEC --out FILE [flags]", "", "Recipes:"]
        for name, function in RECIPES.items():
            lines.append(f"  {name:<8} {(inspect.getdoc(function) or '').splitlines()[0]}")
        lines += ["", "Flags of a recipe: latently fit RECIPE --help"]
        return "\n".join(lines)
    flags = usage(taken_flags(recipe))
    head = f"Usage: latently fit {recipe} --data SPEC --out FILE [flags]\n"
    if recipe in CLOSED_FORM:
        head += (
            f"\nThe model is fitted in closed form or by EM, in passes over all rows: {recipe} "
            "takes no\nobjective and no option of training by gradient.\n"
        )
    return head + flags


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
    usual = OBJECTIVES[recipe]
    said = {k: v for k, v in values.items() if k in (*_parts(usual), "objective")}
    options = {k: v for k, v in values.items() if k not in names and k not in said}
    return Request(recipe, arguments, _objective(usual, said), options, files, tuple(said))


def _objective(usual: type[Objective], said: Mapping[str, Any]) -> Objective:
    """The objective that a call names, whole or by parts of the usual one."""
    whole: Objective | None = said.get("objective")
    if whole is None:
        return usual(**{name: value for name, value in said.items() if name != "objective"})
    if parts := [name for name in _parts(usual) if name in said]:
        name = type(whole).__name__
        raise UserError(
            f"--{parts[0]} is part of {usual.__name__} and --objective {name} stands in its "
            f"place; give one of them (options of {name} go inside: latently list objectives)"
        )
    return whole


def _from_config(path: str, flags: Sequence[Flag]) -> dict[str, Any]:
    """Values by Python name from a TOML file, read as the same words in a call would be."""
    import tomllib

    file = Path(path).expanduser()
    try:
        check_regular(file)
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
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


def command_text(request: Request) -> str:
    """The exact call that would fit this again."""
    import shlex

    words = ["latently", "fit", request.recipe, "--data", request.files["data"]]
    chosen = {**request.arguments, **changed(request.objective, request.recipe), **request.options}
    if not request.files["missing"]:
        chosen["missing"] = False
    for name in (
        *("validation", "context", "labels", "binarise", "mask", "init", "threads"),
        *("schema", "kinds"),
    ):
        if request.files[name] is not None:
            chosen[name] = request.files[name]
    for name, value in chosen.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag[2:])
        else:
            words += [flag, option_text(value)]
    return shlex.join([*words, "--out", request.files["out"]])


def changed(objective: Objective, recipe: str) -> dict[str, Any]:
    """Options of the call that make this objective in place of the recipe's usual one."""
    usual = OBJECTIVES[recipe]
    if not isinstance(objective, usual):
        return {"objective": objective}
    default = usual()
    values = {name: getattr(objective, name) for name in _parts(usual)}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def option_text(value: Any) -> str:
    """An option as it is written on the command line."""
    return value if isinstance(value, str) else expr.show(value)
