"""From a recipe's call and data to a model, new or started from another."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latently import expr
from latently.data import Data
from latently.errors import UserError
from latently.inference.noise import derive, seeded
from latently.interfaces.memory import check_memory, is_out_of_memory
from latently.interfaces.request import Request
from latently.io import Saved, load_saved
from latently.models import Model
from latently.models.components import Columns
from latently.recipes import RECIPES
from latently.registry import components
from latently.training.files import named_tensors, set_tensors

__all__ = ["make_model", "open_init", "start_from", "takes"]


def make_model(
    recipe: str,
    arguments: Mapping[str, Any],
    data: Data,
    seed: int,
    init: Mapping[str, Any] | None = None,
) -> Model:
    """Builds a recipe's model for data: shape, likelihood and levels follow from the data.

    Arguments of the call come first, then those of the model to start from, then the data's.
    """
    _check_conditional(recipe, data)
    options = {**_from_data(recipe, data), **(init or {}), **arguments}
    options = _with_columns(options, data)
    _check_names(recipe, options, data)
    call = partial(RECIPES[recipe], **_with_levels(options, data))
    with torch.device("meta"):
        size = sum(t.numel() for t in named_tensors(_built(recipe, call)).values())
    check_memory(
        4 * size,  # the values, their gradients and the optimizer's two moments
        f"training a model of {size:,} values",
        "lower --latents, or the widths of --net",
    )
    with seeded(derive(seed, "model")):
        return _built(recipe, call)


def _check_conditional(recipe: str, data: Data) -> None:
    able = [name for name, build in RECIPES.items() if takes(build, "contexts")]
    if data.context is not None and recipe not in able and not takes(RECIPES[recipe], "classes"):
        raise UserError(
            f"{recipe} is no model of p(x|c); leave out --context, or choose one of "
            + ", ".join(able)
        )


def takes(build: Callable[..., Any], option: str) -> bool:
    """Whether a recipe has an option."""
    return option in inspect.signature(build).parameters


def _from_data(recipe: str, data: Data) -> dict[str, Any]:
    """What a recipe takes from the data where the call does not say."""
    known: dict[str, Any] = {"shape": tuple(data.shape)}
    known["likelihood"] = expr.build(data.family, components())
    if data.levels is not None:
        known["levels"] = data.levels
    if not data.fully_observed:
        known["sees_mask"] = True
    if data.context is not None:
        known["contexts"] = known["classes"] = data.context.shape[1]
    parameters = inspect.signature(RECIPES[recipe]).parameters
    if names_of(data) and "family" in parameters:  # refuses what EM cannot fit
        known["family"] = Columns(known["likelihood"].keywords["columns"])
    if "likelihood" in parameters and parameters["likelihood"].default is None:
        del known["likelihood"]  # the recipe has a usual one, whatever the data
    return {name: value for name, value in known.items() if name in parameters}


def names_of(data: Data) -> list[str]:
    """The columns of a table whose codes stand for names without an order."""
    columns = () if data.table is None else data.table.modelled
    return [column.name for column in columns if column.kind == "categorical"]


def _check_names(recipe: str, options: Mapping[str, Any], data: Data) -> None:
    """Refuses models that would take codes of names for numbers.

    Raises:
        UserError: the table has such a column, by its name.
    """
    names = names_of(data)
    reads = "likelihood" in options or isinstance(options.get("family"), Columns)
    if not names or reads:
        return
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise UserError(
        f"{recipe}: column {names[0]!r}{more} of {data.protocol} holds names, whose codes are no "
        f"numbers; leave it out by --kinds {names[0]}=identifier, or fit table or mixture, which "
        "read names"
    )


def _with_columns(options: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """Options whose `Columns`, if they name no families, have those of the data's columns."""
    family: Any = options.get("family")
    if family is Columns:
        family = Columns()
    own = getattr(expr.build(data.family, components()), "keywords", {}).get("columns", ())
    if not isinstance(family, Columns) or family.columns or not own:
        return dict(options)
    return {**options, "family": replace(family, columns=own)}


def _with_levels(options: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """Options whose likelihood has the data's levels where it has an option for them."""
    likelihood = options.get("likelihood")
    if likelihood is None or data.levels is None:
        return dict(options)
    given = likelihood.keywords if isinstance(likelihood, partial) else {}
    if "levels" in given or "levels" not in inspect.signature(likelihood).parameters:
        return dict(options)
    return {**options, "likelihood": partial(likelihood, levels=data.levels)}


def _built(recipe: str, call: Callable[[], Model]) -> Model:
    try:
        return call()
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{recipe}: these options build no model: {reason}") from None


def open_init(request: Request, train: Data) -> Saved | None:
    """The model to start from.

    Raises:
        UserError: it is of another recipe, or reads its context in another way.
    """
    path = request.files["init"]
    if path is None:
        return None
    saved = load_saved(Path(path).expanduser())
    if saved.model.call.recipe != request.recipe:
        raise UserError(
            f"--init {path} is a {saved.model.call.recipe}, which cannot start a {request.recipe}"
        )
    here = train.conditions.to_schema() if train.conditions else None
    there = saved.data.get("context")
    if here != there:
        raise UserError(
            f"--init {path} was fitted with context {there}, these data have {here}; give the "
            "same context"
        )
    return saved


def start_from(model: Model, saved: Saved, path: str) -> None:
    """Takes over all weights and scales.

    Raises:
        UserError: a tensor of another shape.
    """
    ours, theirs = named_tensors(model), named_tensors(saved.model)
    for name in [*ours, *theirs]:
        shapes = [tuple(t[name].shape) if name in t else "none" for t in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"--init {path}: {name!r} has shape {shapes[0]} there and {shapes[1]} here; "
                "leave out the options that change the model"
            )
    set_tensors(model, theirs)
