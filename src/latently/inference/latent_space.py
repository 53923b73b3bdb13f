r"""Walks through the latents of a model: between rows, along one latent, over a plane; neighbours.

A code of a row is what the decoder is shown of it: the posterior mean, of discrete latents the
likeliest value, of a flow the row in its base space. What comes back is decoded: the means of
p(x|z), of a flow rows. No walk leaves the values that the latents can take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._codes import (
    Codes,
    Kind,
    as_rows,
    decoded,
    encoded,
    moved,
    one_layer,
    quantiles,
    walked,
)
from latently.inference.rows import Rows

__all__ = ["Neighbours", "bilinear", "interpolate", "manifold", "neighbours", "traverse"]

How = Literal["linear", "spherical"]

HARDLY = 0.1  # of the largest spread: latents below it are hardly used
_PAIRS = 2**22  # distances at once


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows in code space, nearest first.

    Attributes:
        index: which of the rows searched, (B, k).
        distance: in standard deviations of the codes of these rows, (B, k), in float64.
        latents: how many numbers of a code were compared.
        of: how many it has.
    """

    index: Tensor
    distance: Tensor
    latents: int
    of: int


def interpolate(
    model: Any,
    a: Tensor,
    b: Tensor,
    steps: int = 8,
    *,
    how: How = "linear",
    mask: Tensor | None = None,
    context: Tensor | None = None,
) -> Tensor:
    r"""Rows on the way from the code of a to the code of b, (steps, *shape).

    With codes u and v and t from 0 to 1, the first and the last being the reconstructions:

    - "linear": `(1 - t) u + t v`. Discrete latents switch from one row's value to the other's,
      one after the other.
    - "spherical": the great circle between the directions of u and v, its length changing evenly,
      `((1 - t) |u| + t |v|) (sin((1 - t) w) u/|u| + sin(t w) v/|v|) / sin w` with w their angle;
      the straight line where the codes point the same or the opposite way, or one is zero.

    Noise of many dimensions has nearly one length, which the straight line leaves and the great
    circle keeps. All layers of latents are walked together. Sources: Shoemake, "Animating Rotation
    with Quaternion Curves", 1985; White, "Sampling Generative Networks", 2016.

    Args:
        model: one with latents, or a flow.
        a: a row, (*shape).
        b: another.
        steps: how many, ends included.
        how: the way.
        mask: True where observed, (2, *shape): of a and of b.
        context: (C,) or (1, C) for both rows, or (2, C): it moves on the straight line.

    Raises:
        UserError: rows, a mask or a context of another shape, fewer than two steps, great circles
            of latents that are limited, or a single discrete latent.

    >>> import latently as lt
    >>> model = lt.ppca((3,), latents=2)
    >>> lt.interpolate(model, torch.zeros(3), torch.ones(3), steps=5).shape
    torch.Size([5, 3])
    """
    t = _shares(steps, "interpolate: steps")
    rows, given = _corners("interpolate", model, [a, b], mask, context)
    codes = encoded(model, rows)
    return decoded(model, _way(codes, 0, 1, t, how), _moving(given, t))


def bilinear(
    model: Any,
    corners: Tensor | Sequence[Tensor],
    side: int = 6,
    *,
    how: How = "linear",
    mask: Tensor | None = None,
    context: Tensor | None = None,
) -> Tensor:
    r"""A sheet of rows between the codes of four, (side, side, *shape).

    With codes u_00, u_01, u_10, u_11 of the rows at the upper left, upper right, lower left and
    lower right, and s downwards and t to the right from 0 to 1,

        (1 - s) (1 - t) u_00 + (1 - s) t u_01 + s (1 - t) u_10 + s t u_11:

    the upper and the lower edge are walked, then the ways between them, which for "spherical" are
    great circles (see `interpolate`).

    Args:
        model: one with latents, or a flow.
        corners: four rows, (4, *shape).
        side: rows a side, corners included.
        how: the way.
        mask: True where observed, (4, *shape).
        context: (C,) or (1, C) for all, or (4, C): it moves along.

    Raises:
        UserError: as for `interpolate`; or another number of corners.

    >>> import latently as lt
    >>> lt.bilinear(lt.ppca((3,), latents=2), torch.rand(4, 3), side=6).shape
    torch.Size([6, 6, 3])
    """
    t = _shares(side, "bilinear: side")
    if len(corners) != 4:
        raise UserError(f"bilinear: {len(corners)} corners; give four rows, the upper two first")
    rows, given = _corners("bilinear", model, list(corners), mask, context)
    codes = encoded(model, rows)
    z = tuple(
        sheet(layer, kind, t, how) for layer, kind in zip(codes.centres, codes.kinds, strict=True)
    )
    if given is not None and len(given) == 4:
        given = sheet(given, "real", t, "linear")
    return decoded(model, z, given).unflatten(0, (side, side))


def traverse(
    model: Any,
    x: Tensor,
    unit: int,
    values: Tensor | Sequence[float] | None = None,
    *,
    steps: int = 9,
    among: Any = None,
    mask: Tensor | None = None,
    context: Tensor | None = None,
) -> Tensor:
    """Rows decoded as one latent moves and the others stay as they are in a row.

    A unit is a latent by its number; among shares one share, while the others of its row keep
    their proportions; among categories one variable, whose values are the numbers of its
    categories.

    Args:
        model: one with a single layer of latents, or a flow.
        x: rows, (B, *shape), or a single one, (*shape).
        unit: which latent moves.
        values: where it goes, (steps,); None: to the quantiles `(i + 1/2) / steps` of the codes of
            `among`, or of the prior without it; categories go through all of theirs.
        steps: how many, where no values are given.
        among: rows, a tensor or Data, whose codes tell the quantiles.
        mask: True where observed, of the shape of x.
        context: (C,) or (1, C) for all rows, or (B, C).

    Returns:
        (B, steps, *shape), for a single row (steps, *shape).

    Raises:
        UserError: a unit that is not there, values that it cannot take, or no values and neither
            rows nor a prior to take them from.

    >>> import latently as lt
    >>> lt.traverse(lt.ppca((3,), latents=2), torch.zeros(3), 1, [-2, 0, 2]).shape
    torch.Size([3, 3])
    """
    single = x.dim() == len(model.shape)
    rows = Rows(x[None], None if mask is None else mask[None]) if single else Rows(x, mask)
    rows = rows._replace(context=_each(context, len(rows.x), "traverse"))
    codes = encoded(model, rows)
    z, given = one_layer(codes.centres, "traverse").double(), rows.context
    kind = codes.kinds[0]
    unit = _checked_unit(z, kind, unit)
    known = None if among is None else as_rows(among)
    stops = _stops(
        model, z, kind, unit, values, steps, known, None if given is None else given[:1]
    ).to(z.device)
    ways = torch.stack([moved(row, unit, stops, kind) for row in z])
    if given is not None:
        given = given.repeat_interleave(len(stops), 0)
    found = decoded(model, (ways.flatten(0, 1),), given).unflatten(0, (len(z), len(stops)))
    if values is not None and not bool(found.isfinite().all()):
        raise UserError(
            f"traverse: values={stops.tolist()} lead to rows that are not finite, as latents of "
            "this model do not go there; leave values out, to stay within their quantiles"
        )
    return found[0] if single else found


def manifold(
    model: Any, side: int = 15, *, among: Any = None, context: Tensor | None = None
) -> Tensor:
    """A model of two latents, decoded over the plane, (side, side, *shape).

    The first latent runs to the right, the second upwards, each through its quantiles
    `(i + 1/2) / side`: under the prior every row then stands for an equal share of it, where the
    latents are independent.

    Args:
        model: one with a single layer of two latents, or a flow of two columns.
        side: rows a side.
        among: rows, a tensor or Data, whose codes tell the quantiles; None: the prior tells them.
        context: (C,) or (1, C), for all.

    Raises:
        UserError: other than two latents, discrete ones, or neither rows nor a prior.

    >>> import latently as lt
    >>> lt.manifold(lt.ppca((3,), latents=2), side=4).shape
    torch.Size([4, 4, 3])
    """
    _checked(side, 1, "manifold: side")
    given = _each(context, 1, "manifold")
    model.check_context(given, "manifold")
    levels = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    found = quantiles(model, levels, None if among is None else as_rows(among), given, "manifold")
    if math.prod(found.shape) != 2 or found.kind not in ("real", "range"):
        raise UserError(
            f"manifold: a latent is {math.prod(found.shape)} numbers ({found.kind}), and a plane "
            "needs two continuous ones; traverse it, or fit with latents=2"
        )
    z = over_plane(found.levels).reshape(-1, *found.shape)
    return decoded(model, (z,), given).unflatten(0, (side, side))


def neighbours(model: Any, x: Any, among: Any, k: int = 5) -> Neighbours:
    """The k rows of `among` whose codes lie nearest to those of x.

    Codes are posterior means, of a flow rows of its base space; distances are Euclidean, after
    every latent was divided by its standard deviation over the codes of `among`. Latents that vary
    less than a tenth as much as the one that varies most are left out: they are hardly used, and
    dividing would make their noise count as much as the rest. A row that is among those searched
    is its own nearest: ask for one more.

    Args:
        model: one with latents, or a flow.
        x: rows, (B, *shape), or Data.
        among: the rows to search, likewise.
        k: how many.

    Raises:
        UserError: rows of another kind, or more neighbours than rows.

    >>> import latently as lt
    >>> x = torch.arange(5.0)[:, None] * torch.ones(3)
    >>> model = lt.ppca((3,), latents=1)
    >>> lt.neighbours(model, x[:1], x, k=2).index.shape
    torch.Size([1, 2])
    """
    found, wanted = encoded(model, as_rows(among)), encoded(model, as_rows(x))
    return nearest(wanted.flat, found.flat, k)


def nearest(wanted: Tensor, among: Tensor, k: int) -> Neighbours:
    """The k of some codes (N, D) nearest to others (B, D), as `neighbours` compares them."""
    _checked(k, 1, "neighbours: k")
    if k > len(among):
        raise UserError(f"neighbours: k={k} of {len(among)} rows; ask for at most {len(among)}")
    spread = among.std(0, correction=0)
    used = spread >= HARDLY * spread.max()
    scale = torch.where(spread[used] > 0, spread[used], 1.0)
    among, wanted = among[:, used] / scale, wanted[:, used] / scale
    exactly = "donot_use_mm_for_euclid_dist"  # products would lose the digits of near rows
    parts = [
        torch.cdist(block, among, compute_mode=exactly).topk(k, largest=False)
        for block in wanted.split(max(1, _PAIRS // len(among)))
    ]
    index = torch.cat([part.indices for part in parts])
    distance = torch.cat([part.values for part in parts])
    return Neighbours(index, distance, int(used.sum()), len(used))


def over_plane(axes: Tensor) -> Tensor:
    """Values of two latents, (side, 2), as a grid, (side, side, 2), the second upwards."""
    right, up = torch.meshgrid(axes[:, 0], axes[:, 1].flip(0), indexing="xy")
    return torch.stack([right, up], -1)


def _checked(value: Any, least: int, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}={value!r} must be a whole number of at least {least}")


def _shares(steps: int, name: str) -> Tensor:
    _checked(steps, 2, name)
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def _each(context: Tensor | None, n: int, who: str) -> Tensor | None:
    """A context (C,), (1, C) or (n, C) as (n, C)."""
    if context is None:
        return None
    context = context[None] if context.dim() == 1 else context
    if context.dim() != 2 or len(context) not in (1, n):
        raise UserError(
            f"{who}: a context of shape {tuple(context.shape)}; give (C,) for all or ({n}, C)"
        )
    return context.expand(n, -1)


def _corners(
    who: str, model: Any, rows: list[Tensor], mask: Tensor | None, context: Tensor | None
) -> tuple[Rows, Tensor | None]:
    """Single rows together, and the context as it moves: (1, C) or one for each."""
    for row in rows:
        if tuple(row.shape) != tuple(model.shape):
            raise UserError(
                f"{who}: a row of shape {tuple(row.shape)}, the model has rows of "
                f"{tuple(model.shape)}; give single rows, such as x[0]"
            )
    if mask is not None and tuple(mask.shape) != (len(rows), *model.shape):
        raise UserError(
            f"{who}: a mask of shape {tuple(mask.shape)}; give {(len(rows), *model.shape)}"
        )
    full = _each(context, len(rows), who)
    held = full is None or context is None or len(context) != len(rows) or context.dim() == 1
    return Rows(torch.stack(rows), mask, full), full[:1] if held and full is not None else full


def _way(codes: Codes, a: int, b: int, t: Tensor, how: How) -> tuple[Tensor, ...]:
    """All layers from one row's to another's."""
    _checked_how(how)
    pairs = zip(codes.centres, codes.kinds, strict=True)
    return tuple(walked(z[a].double(), z[b].double(), t, kind, how) for z, kind in pairs)


def _checked_how(how: str) -> None:
    if how not in ("linear", "spherical"):
        raise UserError(f'how={how!r} must be "linear" or "spherical"')


def _moving(context: Tensor | None, t: Tensor) -> Tensor | None:
    if context is None or len(context) == 1:
        return context
    return walked(context[0].double(), context[1].double(), t, "real")


def sheet(z: Tensor, kind: Kind, t: Tensor, how: How) -> Tensor:
    """Latents between four, (side * side, *Z), row by row from the upper left."""
    _checked_how(how)
    first, second, third, fourth = z.double()
    upper = walked(first, second, t, kind, how)
    lower = walked(third, fourth, t, kind, how)
    columns = [walked(a, b, t, kind, how) for a, b in zip(upper, lower, strict=True)]
    return torch.stack(columns, 1).flatten(0, 1)


def _checked_unit(z: Tensor, kind: Kind, unit: int) -> int:
    count = z[0].numel() // (z.shape[-1] if kind == "categories" else 1)
    if not isinstance(unit, int) or isinstance(unit, bool) or not 0 <= unit < count:
        noun = {"categories": "variables", "shares": "shares"}.get(kind, "latents")
        raise UserError(f"traverse: unit={unit!r}; the model has {noun} 0 to {count - 1}")
    return unit


def _stops(
    model: Any,
    z: Tensor,
    kind: Kind,
    unit: int,
    values: Tensor | Sequence[float] | None,
    steps: int,
    rows: Rows | None,
    context: Tensor | None,
) -> Tensor:
    """The values of one unit, (steps,), in float64."""
    if values is not None:
        return _checked_values(torch.as_tensor(values, dtype=torch.float64).flatten(), z, kind)
    if kind == "categories":
        return torch.arange(z.shape[-1], dtype=torch.float64)
    _checked(steps, 1, "traverse: steps")
    levels = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    found = quantiles(model, levels, rows, context, "traverse").levels[:, unit]
    return found.round().unique() if kind == "levels" else found


def _checked_values(values: Tensor, z: Tensor, kind: Kind) -> Tensor:
    wanted, low, high = {
        "categories": ("numbers of categories", 0.0, z.shape[-1] - 1.0),
        "shares": ("shares", 0.0, 1.0),
    }.get(kind, ("finite numbers", -math.inf, math.inf))
    whole = kind not in ("categories", "levels") or bool((values == values.round()).all())
    inside = bool(values.isfinite().all()) and bool(((values >= low) & (values <= high)).all())
    if len(values) and whole and inside:
        return values
    ends = f" from {low:g} to {high:g}" if math.isfinite(high) else ""
    wanted = "whole numbers" if kind == "levels" else wanted
    raise UserError(f"traverse: values={values.tolist()} must be {wanted}{ends}")
