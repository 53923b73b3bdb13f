"""A density of codes, put on them after an autoencoder was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latently.data import Data
from latently.errors import UserError
from latently.inference.noise import derive, seeded
from latently.models import Autoencoder, Model
from latently.training.fit import Fit, fit

__all__ = ["fit_density"]

_BLOCK = 1000  # rows encoded at a time


def fit_density(
    model: Autoencoder,
    data: Data,
    codes: Callable[..., Model],
    *,
    validation: Data | None = None,
    seed: int = 0,
    **options: Any,
) -> Fit:
    """Fits a density to the codes of an autoencoder, so that `sample` can draw from it.

    The autoencoder itself stays as it is. What it then draws are decoded codes of the density; it
    has no p(x) for that, and evidence stays refused. Source: Ghosh, Sajjadi, Vergari, Black,
    Scholkopf, "From Variational to Deterministic Autoencoders", 2020.

    Args:
        model: a trained autoencoder; it gets the density in place.
        data: the rows whose codes are fitted to, mostly the training rows.
        codes: recipe of the density with its options, e.g. `partial(mixture, components=20)` or
            `flow`; its shape follows the codes.
        validation: rows whose codes choose among epochs, as `fit` has it.
        seed: seed of everything random.
        **options: as `fit` takes them.

    Returns:
        The fit of the density: its values are of codes, not of rows.

    Raises:
        UserError: no autoencoder, a recipe of no density, or what `fit` refuses.
    """
    if not isinstance(model, Autoencoder):
        raise UserError(
            "fit_density puts a density on the codes of an autoencoder, and "
            f"{type(model).__name__} is none; it draws rows without"
        )
    rows = _codes_of(model, data)
    with seeded(derive(seed, "density")):
        made = codes(rows.shape)
    _check(made)
    held = None if validation is None else _codes_of(model, validation)
    found = fit(made, rows, validation=held, seed=seed, **options)
    model.put_density(made.to(model.device))
    if model.call is not None:
        model.call = replace(model.call, arguments={**model.call.arguments, "codes": codes})
    return found


def _check(made: Model) -> None:
    if made.density is None or made.discrete:
        raise UserError(
            f"codes={type(made).__name__} is no density of real numbers; choose mixture, flow, fa "
            "or ppca"
        )
    if made.contexts:
        raise UserError("codes: a density p(z|c) of codes is not drawn from; leave contexts out")


@torch.no_grad()
def _codes_of(model: Autoencoder, data: Data) -> Data:
    """The codes of rows as data of their own, (n, D)."""
    data = data.once(0)
    parts: list[Tensor] = []
    for rows in torch.arange(len(data)).split(_BLOCK):
        part = data.rows(rows).to(model.device)
        parts.append(model.encode(part.x, part.mask, part.context)[0].flatten(1).cpu())
    return Data.from_array(torch.cat(parts), family="Normal", protocol=f"codes of {data.protocol}")
