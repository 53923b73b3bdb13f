"""How rows are read: the options of `load`, completed by what a fitted model remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latently.data.binarise import check_rule
from latently.data.contexts import Context
from latently.data.partition import FRACTION
from latently.data.tables import Schema
from latently.errors import UserError

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """See `load` for what each means.

    Args:
        family: Observation model.
        levels: Integers 0..levels-1.
        missing: "allow" or "refuse".
        validation: Share of a file's rows.
        seed: Of the split.
        binarise: The rule, or None.
        context: Name of the context, or None.
        fitted: The context of a fitted model, or None.
        classes: Class names of a fitted model, by label.
        table: What the columns of a table are, or None to find it out.
        kinds: Kinds of columns of a table by name, where the ones found are wrong.
        grey_levels: Levels of a file before it is made binary, as a fitted model knew them.
    """

    family: str | None = None
    levels: int | None = None
    missing: str = "allow"
    validation: float = FRACTION
    seed: int = 0
    binarise: str | None = None
    context: str | None = None
    fitted: Context | None = None
    classes: tuple[str, ...] = ()
    grey_levels: int | None = None
    table: Schema | None = None
    kinds: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown rule before anything is read."""
        if self.binarise is not None:
            check_rule(self.binarise)

    @classmethod
    def of(
        cls,
        like: Mapping[str, Any] | None,
        *,
        levels: int | None,
        validation: float | None,
        seed: int | None,
        binarise: str | None,
        context: str | None,
        **given: Any,
    ) -> Options:
        """What is given, else what the schema of a fitted model says, else the defaults.

        Raises:
            UserError: A context other than the model's, or a damaged schema.
        """
        like = like or {}
        split, fitted = _split(like), _fitted(like, context)
        grey = "binarise" in like
        return cls(
            levels=levels if levels is not None or grey else like.get("levels"),
            validation=split[0] if validation is None else validation,
            seed=split[1] if seed is None else seed,
            binarise=binarise or like.get("binarise"),
            context=context if fitted is None else fitted.name,
            fitted=fitted,
            classes=_classes(like),
            grey_levels=like.get("grey_levels"),
            table=_table(like),
            **given,
        )


def _fitted(like: Mapping[str, Any], context: str | None) -> Context | None:
    if like.get("context") is None:
        if like and context is not None:
            raise UserError(
                f"context={context!r}: the model was fitted on {like.get('protocol')} without "
                "a context that its file describes; leave it out"
            )
        return None
    fitted = Context.from_schema(like["context"])
    if context not in (None, fitted.name):
        raise UserError(
            f"context={context!r}: the model was fitted with context {fitted.name!r}; leave it out"
        )
    return fitted


def _split(like: Mapping[str, Any]) -> tuple[float, int]:
    split = like.get("split", {})
    share, seed = (
        (split.get("validation", FRACTION), split.get("seed", 0))
        if isinstance(split, Mapping)
        else (None, None)
    )
    if not isinstance(share, float) or type(seed) is not int or not 0 <= seed < 2**63:
        raise UserError("the split of this file is damaged; save the model again")
    return share, seed


def _table(like: Mapping[str, Any]) -> Schema | None:
    found = like.get("table")
    return found if isinstance(found, Schema | None) else Schema.from_json(found)


def _classes(like: Mapping[str, Any]) -> tuple[str, ...]:
    classes = like.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError("the class names of this file are damaged; save the model again")
    return tuple(classes)
