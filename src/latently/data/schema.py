"""Whether rows are of the kind a model was fitted on, by the schema its file keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from latently.data.base import Data
from latently.data.check import check_levels
from latently.data.contexts import Context
from latently.errors import UserError

__all__ = ["check_form", "check_schema"]


def check_form(schema: Mapping[str, Any]) -> None:
    """Refuses what is no schema: a file may say anything.

    Raises:
        UserError: a shape, family, levels or protocol that is none.
    """
    shape, levels = schema.get("shape"), schema.get("levels")
    whole = [] if not isinstance(shape, list | tuple) else [*shape]
    whole += [2 if levels is None else levels]
    if (
        len(whole) < 2
        or not all(type(n) is int and 0 < n < 2**53 for n in whole)
        or not all(isinstance(schema.get(key), str) for key in ("family", "protocol"))
    ):
        raise UserError("the record of the data it was fitted to is damaged; save the model again")


def check_schema(schema: Mapping[str, Any], data: Data) -> Data:
    """The data as a model fitted on `schema` reads them, with its levels and family.

    Levels read off a file are a guess (its largest value + 1), so values decide: what lies on the
    model's levels passes, and a continuous model takes any number. Binary data under a model of
    more levels are refused: 0 and 1 lie on any scale, and the answer would be silently wrong.

    Rows of a model of p(x | c) must carry the context it was fitted with, if it says which.

    Raises:
        UserError: Another shape, another context or none, values that are not the model's, or a
            damaged schema.
    """
    check_form(schema)
    shape, levels, fitted = tuple(schema["shape"]), schema["levels"], schema["protocol"]
    if shape != data.shape:
        raise UserError(
            f"{data.protocol}: rows of shape {data.shape}, but the model was fitted on {fitted} "
            f"with rows of shape {shape}; reshape the data or fit a model on them"
        )
    if schema.get("context") is not None:
        _check_context(Context.from_schema(schema["context"]), data, fitted)
    if levels not in (None, 2) and data.levels == 2:
        raise UserError(
            f"{data.protocol}: binary data (2 levels), but the model was fitted on {fitted} with "
            f"{levels} levels; fit a model on them, or load them with levels={levels}"
        )
    if levels is not None and data.levels != levels:
        nan = None if data.mask is None else (~data.mask).cpu().numpy()
        where = f"{data.protocol} under a model of {fitted}"
        check_levels(data.x.cpu().numpy(), nan, levels, where)
    return replace(data, levels=levels, family=schema["family"])


def _check_context(context: Context, data: Data, fitted: str) -> None:
    start = f"{data.protocol}: the model was fitted on {fitted} with context {context.name!r}"
    if data.context is None:
        raise UserError(f"{start}, and these rows have none; load them with that context")
    if data.conditions is not None and data.conditions != context:
        raise UserError(
            f"{start}, these rows have context {data.conditions.name!r} in another code; "
            "encode them as the model's rows were, load(..., like=schema)"
        )
