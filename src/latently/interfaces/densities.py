"""`latently fit-density`: a density on the codes of an autoencoder."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from latently import data as data_floor
from latently import expr
from latently.data.partition import hold_out
from latently.errors import UserError, closest
from latently.interfaces.opening import open_model
from latently.interfaces.output import check_target
from latently.io import save
from latently.models import Autoencoder, Model
from latently.recipes import CLOSED_FORM, RECIPES
from latently.registry import components
from latently.training import Fit
from latently.training.density import fit_density

__all__ = ["fit_density_command"]


def fit_density_command(
    path: str,
    spec: str,
    out: str,
    codes: str,
    data_dir: str | None,
    seed: int,
    *,
    force: bool,
) -> str:
    """Fits a density to the codes of rows and writes the autoencoder with it to a new file."""
    target = check_target(out, (".safetensors",), force)
    name, recipe = read_recipe(codes)
    saved = open_model(path)
    model = saved.model
    if not isinstance(model, Autoencoder):
        raise UserError(
            f"{path} is a {model.call.recipe}, not an autoencoder (ae): it draws rows without"
        )
    data = data_floor.load(spec, data_dir=data_dir, like=saved.data or None)
    model.check(data.x, data.mask, data.protocol)
    model.check_context(data.context, data.protocol)
    rows, held = (data, None) if name in CLOSED_FORM else hold_out(data, seed=seed)
    found = fit_density(model, rows, recipe, validation=held, seed=seed)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    record = {**saved.training, "codes": f"{codes} on {data.protocol}: {_reached(found)}"}
    save(model, target, data=saved.data, training=record)
    return f"density of codes, {codes}: {_reached(found)}\nwrote {target}"


def _reached(found: Fit) -> str:
    """What the density reached on codes, which says nothing of rows."""
    last = found.history[-1]
    value = last.get("log_prob", last.get("bound", math.nan))
    return f"mean log p(z) {value:.4f} nats of codes, kept: {found.kept}"


def read_recipe(text: str) -> tuple[str, Callable[..., Model]]:
    """A recipe with its options, e.g. `mixture(components=20)`.

    Raises:
        UserError: no such recipe, or options that it does not take.
    """
    name = text.partition("(")[0].strip()
    if name not in RECIPES:
        raise UserError(f"--codes {text}: {closest(name, RECIPES)}")
    built: Callable[..., Model] = expr.build(text, {**components(), name: RECIPES[name]})
    return name, built
