"""Grey values made binary: a pixel of grey value x in [0, 1] is 1 with probability x.

Integer levels 0..L-1 are grey values `x / (L - 1)`, floats must lie in [0, 1] as they are.

| rule | rows to fit on | held-out rows |
|---|---|---|
| "dynamic" | stay grey, redrawn at every use in training | drawn once, each split on its own |
| "static-seedN" | drawn once: all rows by seed N, *then* split | the same |

A draw is `default_rng(seed).random(x.shape) < x`, with seed 0 for the held-out rows of "dynamic".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from latently.data.base import Binarise, Data
from latently.data.check import family_for
from latently.errors import UserError

__all__ = ["check_rule", "draw", "grey", "static_seed", "undrawn"]


def static_seed(rule: str) -> int | None:
    """The seed N of a rule `static-seedN`, or None.

    >>> static_seed("static-seed3"), static_seed("dynamic")
    (3, None)
    """
    found = re.fullmatch(r"static-seed(0|[1-9]\d{0,8})", rule, re.ASCII)
    return int(found[1]) if found else None


def check_rule(rule: str) -> None:
    """Refuse a rule that is not in the table above."""
    if not isinstance(rule, str) or (rule != "dynamic" and static_seed(rule) is None):
        raise UserError(
            f"binarise={str(rule)[:40]!r}: choose 'dynamic' or 'static-seedN', e.g. 'static-seed0'"
        )


def draw(
    x: np.ndarray, seed: int = 0, scale: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Bool of x's shape: `default_rng(seed).random(x.shape) < scale(x)`."""
    # in chunks, or the random numbers take eight bytes a pixel; the stream is the same
    rng = np.random.default_rng(seed)
    chunks = np.array_split(x, max(1, len(x) // 5000))
    return np.concatenate([rng.random(c.shape) < (scale(c) if scale else c) for c in chunks])


def grey(data: Data, rule: str) -> Data:
    """All rows of a file made ready: grey values in [0, 1] for "dynamic", else drawn.

    The data's name gets ":binary-RULE", and its schema keeps the rule and the number of levels.

    Raises:
        UserError: An unknown rule; values that are no grey values.
    """
    check_rule(rule)
    if data.levels is None and not bool(((data.x >= 0) & (data.x <= 1)).all()):
        raise UserError(
            f"{data.protocol}: binarise={rule!r} takes whole numbers 0, 1, ... or grey values "
            f"within 0..1, not {float(data.x.min()):g}..{float(data.x.max()):g}; rescale them"
        )
    top = (data.levels or 2) - 1
    seed = static_seed(rule)
    x = data.x / top
    if seed is not None:
        drawn = draw(data.x.numpy(), seed, lambda part: part.astype(np.float64) / top)
        x = torch.from_numpy(drawn)
    return replace(
        data,
        x=x.to(torch.float32),
        levels=2,
        family=family_for(2),
        protocol=f"{data.protocol}:binary-{rule}",
        reading={**data.reading, "binarise": rule, "grey_levels": data.levels},
    )


def undrawn(data: Data, held_out: bool) -> Data:
    """Rows of `grey(data, "dynamic")`: drawn once if held out, else at every use."""
    if held_out:
        return replace(data, x=torch.from_numpy(draw(data.x.numpy().astype(np.float64))).float())
    return replace(data, redraw=Binarise())
