"""Reconstructions under corruption: all models of a report beside each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from latently import expr
from latently.data import Data
from latently.data.corruptions import (
    Adversarial,
    Corruption,
    Gaussian,
    Masking,
    SaltAndPepper,
    Span,
)
from latently.errors import UserError
from latently.inference.robustness import Corrupted, corrupted
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.numbers import significant
from latently.interfaces.report.subject import Subject, shuffled
from latently.interfaces.report.svg import FAINT, MUTED, panel, series, svg
from latently.interfaces.report.walks import Strip
from latently.registry import components

__all__ = ["Spoilt", "chosen", "spoilt"]

_ROWS = 500  # whose errors are measured, fewer of long rows
_CELLS = 2_000_000
_SHOWN = 3  # rows that are drawn
_MOST = 3  # corruptions
_LEVELS: dict[type[Corruption], tuple[float, ...]] = {
    Gaussian: (0.0, 0.1, 0.2, 0.3, 0.5),
    SaltAndPepper: (0.0, 0.1, 0.2, 0.3, 0.5),
    Adversarial: (0.0, 0.02, 0.05, 0.1, 0.2),
}
_USUAL = (0.0, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Spoilt:
    """One corruption at growing levels.

    Attributes:
        name: of the corruption.
        about: what it does at a level.
        strips: of images: the rows as they are spoilt, then what each model makes of them.
        heads: the levels.
        figure: mean squared error by level, a line for each model.
        rows: rows behind the figure.
        models: numbers of the models that are in it.
        trained: names of the models that were trained under it, with how much of it.
        own: every model has rows of its own: an adversary spoils them for it.
    """

    name: str
    about: str
    strips: tuple[Strip, ...]
    heads: tuple[tuple[float, str], ...]
    figure: Markup
    rows: int
    models: tuple[int, ...]
    trained: tuple[tuple[str, str], ...]
    own: bool


def spoilt(
    subjects: Sequence[Subject], records: Sequence[Mapping[str, Any]], data: Data, seed: int
) -> list[Spoilt]:
    """A section for each corruption; none where no model has a reconstruction.

    Args:
        subjects: the models.
        records: of their training.
        data: the rows of the report.
        seed: of the choice of rows, and of what spoils them.
    """
    met = [_met(record) for record in records]
    n = max(_SHOWN, min(_ROWS, _CELLS // data.x[0].numel()))
    order = shuffled(len(data), seed, "corruptions")[:n]
    found = [_spoilt(c, subjects, met, order, seed) for c in chosen(met, Frame.of(data))]
    return [one for one in found if one is not None]


def chosen(met: Sequence[Corruption | None], frame: Frame | None) -> list[Corruption]:
    """What models were trained under, then masking (of images) and noise; one of a kind."""
    usual: list[Corruption] = [Gaussian()] if frame is None else [Masking(), Gaussian()]
    found: dict[type[Corruption], Corruption] = {}
    for one in [*met, *usual]:
        if one is not None:
            found.setdefault(type(one), one)
    return list(found.values())[:_MOST]


def _met(record: Mapping[str, Any]) -> Corruption | None:
    """The corruption that a model was trained under, as the record of its fit says."""
    found = re.search(r"corruption=(\w+(\([^()]*\))?)", str(record.get("objective", "")))
    if found is None:
        return None
    try:
        built = expr.build(found[1], components())
        built = built() if isinstance(built, type) else built
    except (UserError, TypeError):
        return None
    return built if isinstance(built, Corruption) else None


def _spoilt(
    corruption: Corruption,
    subjects: Sequence[Subject],
    met: Sequence[Corruption | None],
    order: torch.Tensor,
    seed: int,
) -> Spoilt | None:
    found = {
        subject.index: made
        for subject in subjects
        if (made := _made(corruption, subject, order, seed)) is not None
    }
    if not found:
        return None
    named = {subject.index: subject.name for subject in subjects}
    own, frame = isinstance(corruption, Adversarial), subjects[0].frame
    strips = () if frame is None else tuple(_strips(frame, found, named, own))
    pairs = zip(subjects, met, strict=True)
    kind = type(corruption)
    return Spoilt(
        name=kind.__name__,
        about=_about(corruption),
        strips=strips,
        heads=() if frame is None else _heads(frame, next(iter(found.values()))),
        figure=_figure(kind.__name__, found, named, own),
        rows=len(order),
        models=tuple(found),
        trained=tuple((s.name, expr.show(c)) for s, c in pairs if isinstance(c, kind)),
        own=own,
    )


def _made(
    corruption: Corruption, subject: Subject, order: torch.Tensor, seed: int
) -> Corrupted | None:
    """None of models that have no finite reconstruction, or cannot see such rows."""
    model, data = subject.model, subject.data
    if model.invertible or (corruption.continuous and not _continuous(subject)):
        return None
    levels = _LEVELS.get(type(corruption), _USUAL)
    span = Span.of(data.x, data.mask)
    shown = 0 if subject.frame is None else subject.frame.fitting(len(levels), _SHOWN)
    try:
        found = corrupted(
            model, data.rows(order), corruption, levels, span=span, keep=shown, seed=seed
        )
    except (UserError, NotImplementedError, IndexError):
        return None
    return found if bool(found.mse.isfinite().all()) else None


def _continuous(subject: Subject) -> bool:
    """Whether the model can be shown values between those of counted data."""
    family = getattr(getattr(subject.model, "decoder", None), "family", None)
    return family is None or family.embed_shape == family.shape


def _strips(
    frame: Frame, found: Mapping[int, Corrupted], named: Mapping[int, str], own: bool
) -> list[Strip]:
    strips = []
    for number, (index, made) in enumerate(found.items()):
        if own or number == 0:
            whose = f"seen by {named[index]}" if own else "spoilt rows"
            strips.append(
                Strip(whose, "", _strip(frame, made.rows, f"{whose}, {made.corruption}"))
            )
        name = named[index]
        alt = f"{name}: reconstructions of rows spoilt by {made.corruption}"
        strips.append(Strip(name, "", _strip(frame, made.rebuilt, alt), index))
    return strips


def _strip(frame: Frame, rows: torch.Tensor, alt: str) -> Any:
    return frame.strip(list(rows), f"{alt}, {len(rows[0])} rows at each of {len(rows)} levels")


def _heads(frame: Frame, made: Corrupted) -> tuple[tuple[float, str], ...]:
    """The level over the middle image of its group."""
    middle = made.rows.shape[1] // 2
    groups = [
        [significant(level) if i == middle else "" for i in range(made.rows.shape[1])]
        for level in made.levels
    ]
    return frame.heads(groups)


def _figure(
    name: str, found: Mapping[int, Corrupted], named: Mapping[int, str], own: bool
) -> Markup:
    """Mean squared error by level with two standard errors, and that of the spoilt rows."""
    figure, axes = panel(430, 270)
    for index, made in found.items():
        levels, mean = np.array(made.levels), made.mse.numpy()
        margin = 2 * np.nan_to_num(made.stderr.numpy())
        axes.fill_between(
            levels, mean - margin, mean + margin, color=series(index), alpha=0.2, linewidth=0
        )
        axes.plot(levels, mean, "-o", color=series(index), markersize=4, linewidth=1.6)
    if not own:
        one = next(iter(found.values()))
        damage = one.damage.mean(1).numpy()
        axes.plot(one.levels, damage, color=MUTED, linewidth=1.1, linestyle=(0, (3, 2)))
    top = max(float(made.mse.max()) for made in found.values())
    axes.set_ylim(0, 1.12 * top or 1.0)
    axes.set_xlabel(f"level of {name}", color=MUTED, fontsize=10)
    axes.set_ylabel("mean squared error", color=MUTED, fontsize=10)
    axes.axhline(0, color=FAINT, linewidth=0.5)
    told = "; ".join(
        f"{named[index]}: {float(made.mse[0]):.3g} to {float(made.mse[-1]):.3g}"
        for index, made in found.items()
    )
    return svg(figure, f"Mean squared error by level of {name}, {told}")


def _about(corruption: Corruption) -> str:
    if isinstance(corruption, Masking):
        return f"sets each cell to {corruption.value:g} with this probability"
    if isinstance(corruption, Gaussian):
        return "adds normal noise, its standard deviation this share of the range of the rows"
    if isinstance(corruption, SaltAndPepper):
        return "sets cells to the least or the greatest value, with this probability in all"
    if isinstance(corruption, Adversarial):
        return (
            "moves each row to where the error of the model at hand is largest, by at most this "
            f"share of the range of the rows ({corruption.steps} steps of gradient ascent)"
        )
    return f"({expr.show(corruption)}) at this level"
