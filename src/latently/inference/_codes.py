"""Codes of rows, what values they can take, and the ways between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints

from latently.errors import UserError
from latently.inference._mode import evaluating
from latently.inference.noise import derive, seeded
from latently.inference.rows import Rows

__all__ = [
    "Codes",
    "Kind",
    "Quantiles",
    "as_rows",
    "centre",
    "decoded",
    "encoded",
    "great_circle",
    "moved",
    "moved_to",
    "one_layer",
    "quantiles",
    "straight",
    "switching",
    "walked",
    "with_share",
]

Kind = Literal["real", "range", "shares", "categories", "levels"]
"""Any number; numbers of a range; rows above 0 that sum to 1; one-hot rows; whole numbers."""

_VALUES = 2**22  # observed values of a block of rows
_DRAWS = 2**14  # from a prior without quantiles of its own
_FLAT = 1e-6  # of an angle: directions that are equal, or opposite


class Codes(NamedTuple):
    """Latents of rows, layer by layer, top first.

    Attributes:
        centres: what the decoder is shown, (B, *Z) each: posterior means, of discrete latents the
            likeliest values; of a flow the rows in its base space.
        means: posterior means, (B, *Z) each.
        kinds: what values each layer takes.
    """

    centres: tuple[Tensor, ...]
    means: tuple[Tensor, ...]
    kinds: tuple[Kind, ...]

    @property
    def flat(self) -> Tensor:
        """The means of all layers as vectors, (B, D), in float64 on the CPU."""
        return torch.cat([z.flatten(1).double().cpu() for z in self.means], 1)


class Quantiles(NamedTuple):
    """Quantiles of each number of the only layer.

    Attributes:
        shape: of the latents, (*Z).
        kind: what values they take.
        levels: the quantiles, (levels, D), in float64.
    """

    shape: tuple[int, ...]
    kind: Kind
    levels: Tensor


def as_rows(data: Any, context: Tensor | None = None, mask: Tensor | None = None) -> Rows:
    """A tensor, or anything with x, mask and context, as rows; dynamic data drawn once."""
    if isinstance(data, Tensor):
        return Rows(data, mask, context)
    data = data.once() if hasattr(data, "once") else data
    if not isinstance(getattr(data, "x", None), Tensor):
        raise UserError(
            f"rows are a tensor or Data, got a {type(data).__name__}; wrap an array by "
            "torch.as_tensor(x) or latently.Data.from_array(x)"
        )
    return Rows(data.x, data.mask, data.context)


def centre(q: Distribution, samples: int) -> Tensor:
    """What the decoder is shown of q: its mean, of discrete latents the mode; (samples, B, *Z)."""
    value = q.mean if q.has_rsample else q.mode
    return value.expand(samples, *value.shape)


def moved_to(model: Any, rows: Rows) -> Rows:
    """Rows where the model is, in its precision.

    Raises:
        UserError: rows, or a context, that are not of the model's kind.
    """
    model.check(rows.x, rows.mask)
    model.check_context(rows.context)
    x, mask, context = rows
    return Rows(
        x.to(model.device, model.dtype) if x.is_floating_point() else x.to(model.device),
        None if mask is None else mask.to(model.device),
        None if context is None else context.to(model.device, model.dtype),
    )


@torch.no_grad()
def encoded(model: Any, rows: Rows) -> Codes:
    """The codes of rows, block by block.

    Raises:
        UserError: rows, or a context, that are not of the model's kind, no rows, or a model
            without latents.
    """
    if not len(rows.x):
        raise UserError("no rows to encode; give at least one")
    with evaluating(model):
        parts = [_encoded(model, moved_to(model, part)) for part in _blocks(rows)]
    layers = range(len(parts[0].centres))
    return Codes(
        tuple(torch.cat([part.centres[i] for part in parts]) for i in layers),
        tuple(torch.cat([part.means[i] for part in parts]) for i in layers),
        parts[0].kinds,
    )


def _blocks(rows: Rows) -> Iterator[Rows]:
    size = max(1, _VALUES // max(1, math.prod(rows.x.shape[1:])))
    return (rows.part(slice(i, i + size)) for i in range(0, len(rows.x), size))


def _encoded(model: Any, rows: Rows) -> Codes:
    x, mask, context = rows
    if model.invertible:
        z = tuple(model.encode(x, mask, context))
        return Codes(z, z, ("real",))
    with seeded(derive(0, "codes"), x.device):  # noise of integers, where a model adds it
        p = model.infer(x, 1, mask, context, draw=centre)
    if not p.z:
        raise UserError(f"{type(model).__name__} has no latents; name a model that has some")
    best = p.log_pi.argmax(0), torch.arange(len(x), device=x.device)  # of states, the likeliest
    z = tuple(layer[best] for layer in p.z)
    known = _constraints(model, len(z))
    means = tuple(model.encode(x, mask, context)) if None in known else z
    return Codes(z, means, tuple(_kind(c, m) for c, m in zip(known, means, strict=True)))


def _constraints(model: Any, layers: int) -> tuple[Any, ...]:
    """Where latents lie, layer by layer; codes behind an activation within its range."""
    free = isinstance(getattr(model, "activation", None), torch.nn.Identity | None)
    usual = constraints.real if free else constraints.interval
    return tuple(model.latent_constraints()) or (usual,) * layers


def _kind(constraint: Any, means: Tensor) -> Kind:
    """The kind of a layer: means of counted latents that sum to one are of one-hot rows."""
    if constraint is constraints.real:
        return "real"
    if constraint is constraints.simplex:
        return "shares"
    if constraint is not None:
        return "range"
    one = means.dim() > 1 and bool(((means.sum(-1) - 1).abs() < 1e-4).all())
    return "categories" if one else "levels"


def one_layer(z: Sequence[Tensor], who: str) -> Tensor:
    """The only layer.

    Raises:
        UserError: there are several.
    """
    if len(z) != 1:
        raise UserError(
            f"{who}: the model has {len(z)} layers of latents, and one is needed; interpolate "
            "instead, which moves all of them"
        )
    return z[0]


def quantiles(
    model: Any, levels: Tensor, rows: Rows | None, context: Tensor | None, who: str
) -> Quantiles:
    """Quantiles of the codes of rows, or else of the prior.

    Those of a prior are in closed form where it has one, else of 16,384 draws from a fixed seed.

    Raises:
        UserError: several layers, or neither rows nor a prior.
    """
    if rows is not None:
        codes = encoded(model, rows)
        shape = tuple(one_layer(codes.centres, who).shape[1:])
        return Quantiles(shape, codes.kinds[0], torch.quantile(codes.flat, levels, 0))
    if model.invertible:
        normal, size = Normal(torch.zeros(1, dtype=torch.float64), 1.0), math.prod(model.shape)
        return Quantiles((size,), "real", normal.icdf(levels[:, None]).expand(-1, size))
    return _of_prior(model, levels, context, who)


@torch.no_grad()
def _of_prior(model: Any, levels: Tensor, context: Tensor | None, who: str) -> Quantiles:
    given = None if context is None else context.to(model.device, model.dtype)
    many = None if given is None else given.expand(_DRAWS, -1)
    with evaluating(model), seeded(derive(0, "codes", "prior"), model.device):
        try:
            drawn = model.latents(_DRAWS, many)
        except UserError as error:
            raise UserError(f"{who}: {error}; or give rows, among=x") from error
        z = one_layer(drawn, who)[0]
        exact = _closed(model, levels, given, tuple(z.shape[1:]))
    known = _constraints(model, 1)
    found = torch.quantile(z.flatten(1).double().cpu(), levels, 0) if exact is None else exact
    return Quantiles(tuple(z.shape[1:]), _kind(known[0], z), found)


def _closed(
    model: Any, levels: Tensor, context: Tensor | None, shape: tuple[int, ...]
) -> Tensor | None:
    """Quantiles of a prior with independent cells, (levels, D), where it knows them."""
    while isinstance(getattr(model, "model", None), torch.nn.Module):
        model = model.model  # wrappers leave latents as they are
    prior = getattr(model, "prior", None)
    if not callable(prior):
        return None
    p = prior(context)
    try:
        at = levels.to(model.device).view(-1, *(1,) * len(shape))
        return p.icdf(at).double().cpu().expand(len(levels), *shape).flatten(1)
    except (NotImplementedError, AttributeError, RuntimeError):
        return None


@torch.no_grad()
def decoded(model: Any, z: Sequence[Tensor], context: Tensor | None) -> Tensor:
    """The means of p(x|z) of codes, (n, *shape); a context has one row for all or one for each."""
    n = len(z[0])
    if context is not None:
        context = context.to(model.device, model.dtype).expand(n, -1)
    size = max(1, _VALUES // max(1, math.prod(model.shape)))
    with evaluating(model):
        parts = [
            model.decode(
                [layer[i : i + size].to(model.device, model.dtype) for layer in z],
                None if context is None else context[i : i + size],
            )
            for i in range(0, n, size)
        ]
    return torch.cat(parts)


def walked(a: Tensor, b: Tensor, t: Tensor, kind: Kind, how: str = "linear") -> Tensor:
    """Latents from a to b, (*Z) each, at shares t (n,) of the way, (n, *Z).

    Raises:
        UserError: great circles of latents that are no free numbers, or a single category that
            differs, as there is no value between two.
    """
    if how == "spherical":
        if kind != "real":
            raise UserError(
                'how="spherical" walks through latents of any value, and these are limited '
                f'({kind}); take how="linear"'
            )
        return great_circle(a, b, t)
    if kind not in ("categories", "levels"):
        return straight(a, b, t)
    units = a[..., 0].numel() if kind == "categories" else a.numel()
    if units == 1 and not torch.equal(a, b):
        raise UserError(
            "one discrete latent has no values between those of two rows; traverse it, or choose "
            "rows that share it"
        )
    return switching(a, b, t, rows=kind == "categories")


def straight(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """`(1 - t) a + t b`, (n, *Z)."""
    t = t.to(a).view(-1, *(1,) * a.dim())
    return (1 - t) * a + t * b


def great_circle(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    r"""From a to b, (*Z) each, in equal steps of angle and of length, (n, *Z).

    With the directions u and v of a and b, `cos w = u' v`, and t from 0 to 1,

        (1 - t) |a| + t |b|   times   (sin((1 - t) w) u + sin(t w) v) / sin w,

    the straight line where directions are equal or opposite, or an end is zero. Noise of many
    dimensions has nearly one length, which the straight line leaves. Source: Shoemake, "Animating
    Rotation with Quaternion Curves", 1985.
    """
    first, last = a.flatten(), b.flatten()
    t = t.to(a).view(-1, 1)
    line = (1 - t) * first + t * last
    u, v = (end / end.norm().clamp(min=torch.finfo(a.dtype).tiny) for end in (first, last))
    w = 2 * torch.atan2((u - v).norm(), (u + v).norm())  # keeps its digits at small angles
    if _FLAT < float(w) < math.pi - _FLAT and bool(first.any()) and bool(last.any()):
        turned = (torch.sin((1 - t) * w) * u + torch.sin(t * w) * v) / torch.sin(w)
        round_way = ((1 - t) * first.norm() + t * last.norm()) * turned
        line = torch.where((t == 0) | (t == 1), line, round_way)  # exact at the ends
    return line.view(-1, *a.shape)


def switching(a: Tensor, b: Tensor, t: Tensor, *, rows: bool) -> Tensor:
    """Discrete latents that switch from a to b one after the other, (n, *Z).

    Args:
        a: the first, (*Z).
        b: the last, (*Z).
        t: shares of the way, (n,).
        rows: they switch by rows of the last axis: categories.
    """
    differ = a != b
    if rows:
        differ = differ.any(-1, keepdim=True)
    place = differ.flatten().cumsum(0).view_as(differ)
    t = t.to(a.device).view(-1, *(1,) * a.dim())
    return torch.where(place <= (t * int(differ.sum())).round(), b, a)


def moved(z: Tensor, unit: int, values: Tensor, kind: Kind) -> Tensor:
    """Latents (*Z) with one unit at each of some values, the others held, (n, *Z).

    A unit is a number; of categories a row of the last axis, whose values are their numbers; of
    shares a share, and the others of its row keep their proportions.
    """
    out = z.expand(len(values), *z.shape).clone()
    width = z.shape[-1] if z.dim() else 1
    if kind == "categories":
        eye = torch.eye(width, dtype=z.dtype, device=z.device)
        out.view(len(values), -1, width)[:, unit] = eye[values.long()]
    elif kind == "shares":
        row, share = divmod(unit, width)
        rows = out.view(len(values), -1, width)
        rows[:, row] = with_share(rows[:, row], share, values.to(z))
    else:
        out.view(len(values), -1)[:, unit] = values.to(z)
    return out


def with_share(rows: Tensor, share: int, value: Tensor) -> Tensor:
    """Rows (n, L) with one share set to a value, and the others scaled to the rest of the sum.

    Where the others are nothing, they get equal parts of the rest.
    """
    left = rows.clone()
    left[:, share] = 0
    total = left.sum(-1, keepdim=True)
    left = torch.where(total > 0, left / total, 1 / max(1, rows.shape[-1] - 1))
    left = left * (1 - value[:, None])
    left[:, share] = value
    return left
