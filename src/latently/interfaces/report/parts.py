"""The components of a mixture: what each of them is, and which rows it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latently.interfaces.report.axes import axis, outward
from latently.interfaces.report.columns import Columns, columns
from latently.interfaces.report.frame import Frame, Picture
from latently.interfaces.report.kinds import bare
from latently.interfaces.report.latents import Layer
from latently.interfaces.report.numbers import plain, share
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.walks import Strip
from latently.models import Mixture

__all__ = ["Components", "Part", "components"]

_MOST = 60  # components of a grid
_FEW = 8  # components with a strip, or in a table
_ROWS = 6  # beside a strip
_STOPS = (-2.0, -1.0, 0.0, 1.0, 2.0)
_SURE = 0.9


@dataclass(frozen=True)
class Part:
    """One component.

    Attributes:
        number: as warnings call it, from 0.
        weight: in percent.
        rows: whose likeliest component it is.
        label: the most common one of these rows with its share; "" without rows or labels.
        picture: the mean, of images.
    """

    number: int
    weight: str
    rows: int
    label: str
    picture: Picture | None = None


@dataclass(frozen=True)
class Components:
    """The components of one mixture.

    Attributes:
        count: how many there are.
        rows: how many were divided among them.
        entropy: of p(k|x), the mean over rows, in nats.
        alike: so many components, equally likely, have that entropy.
        sure: percent of the rows that have a component of 0.9 or more.
        right: percent of the rows whose label is the most common one of their component; ""
            without labels.
        criteria: AIC and BIC, as the record of the fit has them; "" if it has none.
        noisy: they are of integers with noise added.
        parts: the components, the heaviest first; of tables a few.
        strips: of images, the heaviest components: their main axis, or their mean, and rows.
        heads: what stands above the strips.
        axes: the strips show main axes.
        columns: of tables.
    """

    count: int
    rows: int
    entropy: str
    alike: str
    sure: str
    right: str
    criteria: str
    noisy: bool
    parts: tuple[Part, ...]
    strips: tuple[Strip, ...] = ()
    heads: tuple[tuple[float, str], ...] = ()
    axes: bool = False
    columns: Columns | None = None


def components(subject: Subject, training: Mapping[str, Any]) -> Components | None:
    """The components of a mixture; None of any other model."""
    model, layer = bare(subject.model), subject.only_layer
    if not isinstance(model, Mixture) or layer is None:
        return None
    order = model.weights.cpu().argsort(descending=True, stable=True)
    frame = subject.frame
    most = _FEW if frame is None else frame.count(_MOST)
    entropy = float(torch.special.entr(layer.flat).sum(1).mean())
    found = Components(
        count=len(order),
        rows=layer.rows,
        entropy=plain(entropy),
        alike=plain(math.exp(entropy)),
        sure=share((layer.flat.amax(1) >= _SURE).double().mean()),
        right=_right(subject, layer.flat.argmax(1)),
        criteria=str(training.get("criteria") or "").replace("-", "−"),
        noisy=subject.model.discrete and not model.discrete,
        parts=_parts(subject, model, layer, order[:most]),
    )
    if frame is None:
        return replace(found, columns=columns(subject, order[:most], layer.rows))
    strips, heads, axes = _strips(subject, model, layer, found.parts[:_FEW], frame)
    return replace(found, strips=strips, heads=heads, axes=axes)


def _right(subject: Subject, assigned: Tensor) -> str:
    labels = subject.data.labels
    if labels is None:
        return ""
    right = sum(_commonest(labels[: len(assigned)][assigned == k])[1] for k in assigned.unique())
    return share(right / len(assigned))


def _commonest(labels: Tensor) -> tuple[Tensor, int]:
    """The most common of some labels, and how often it is there."""
    values, counts = labels.unique(return_counts=True)
    at = counts.argmax()
    return values[at], int(counts[at])


def _parts(subject: Subject, model: Mixture, layer: Layer, order: Tensor) -> tuple[Part, ...]:
    assigned, weights = layer.flat.argmax(1), model.weights.cpu()
    means, frame = None if subject.frame is None else _means(subject, order), subject.frame
    parts = []
    for place, k in enumerate(order.tolist()):
        here = assigned == k
        shown: Picture | None = None
        if frame is not None and means is not None:
            alt = f"{subject.name}: mean of component {k}"
            shown = frame.one(means[place : place + 1], alt)
        part = Part(k, share(weights[k]), int(here.sum()), _label(subject, here), shown)
        parts.append(part)
    return tuple(parts)


def _label(subject: Subject, here: Tensor) -> str:
    labels = subject.data.labels
    if labels is None or not bool(here.any()):
        return ""
    label, count = _commonest(labels[: len(here)][here])
    return f"{subject.data.label_name(label)}: {share(count / int(here.sum()))}"


def _means(subject: Subject, order: Tensor) -> Tensor:
    """E[x|k], (n, *shape); what the inner mean becomes where that is unknown."""
    model = bare(subject.model)
    assert isinstance(model, Mixture)
    states = torch.eye(len(model.logits), dtype=torch.float64)[order]
    means = subject.means(states)
    if means is not None:
        return means.double()
    with torch.no_grad():
        inner = model.decode((states.to(model.device),))
        return outward(subject.model, inner).double().cpu()


def _strips(
    subject: Subject, model: Mixture, layer: Layer, parts: tuple[Part, ...], frame: Frame
) -> tuple[tuple[Strip, ...], tuple[tuple[float, str], ...], bool]:
    """Main axes, or means, beside the rows that a component is most responsible for."""
    found = [axis(model, part.number) for part in parts]
    axes = all(one is not None for one in found)
    means = _means(subject, torch.tensor([part.number for part in parts]))
    strips = []
    for part, mean, own in zip(parts, means, found, strict=True):
        left = mean[None] if own is None or not axes else _walked(subject, model, part, own)
        what = "the mean moved along its main axis" if axes else "the mean"
        alt = f"{subject.name}, component {part.number}: {what}, then rows"
        picture = frame.strip([left, _held(subject, layer, part.number)], alt)
        about = f"{part.weight}, label {part.label}" if part.label else part.weight
        strips.append(Strip(f"component {part.number}", about, picture))
    names = ["−2 sd", "−1 sd", "0", "1 sd", "2 sd"] if axes else ["mean"]
    return tuple(strips), frame.heads([names, ["rows", *[""] * (_ROWS - 1)]]), axes


def _walked(subject: Subject, model: Mixture, part: Part, own: Tensor) -> Tensor:
    """The inner mean moved by deviations along the axis, as rows (stops, *shape)."""
    with torch.no_grad():
        mean = model.parts.member(part.number, model.shape).mean
        by = torch.tensor(_STOPS, dtype=own.dtype, device=own.device)
        moved = mean + by.view(-1, *(1,) * mean.dim()) * own.view(mean.shape)
        return outward(subject.model, moved).double().cpu()


def _held(subject: Subject, layer: Layer, k: int) -> Tensor:
    """The rows with the largest p(k|x) among those of a component, blank where there are none.

    Shares that are equal to three decimals keep the order of the rows.
    """
    held = (1000 * layer.flat[:, k]).round()
    held[layer.flat.argmax(1) != k] = -1
    at = held.argsort(descending=True, stable=True)[:_ROWS]
    at = at[held[at] >= 0]
    x = subject.data.x[at].cpu().double()
    if subject.data.mask is not None:
        x = x.masked_fill(~subject.data.mask[at].cpu(), math.nan)
    blank = x.new_full((_ROWS - len(at), *subject.data.shape), math.nan)
    return torch.cat([x, blank])
