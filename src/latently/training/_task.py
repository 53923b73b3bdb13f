"""Rows with labels as a task: what is labelled in which draw, and what linear methods see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from latently.data import Data
from latently.errors import UserError
from latently.inference.noise import derive, seeded
from latently.inference.rows import Rows
from latently.models import Model
from latently.training._classifier import BLOCK, features, placed
from latently.training._readout import Scale

__all__ = ["Source", "Task", "balanced"]

_UNKNOWN = -1  # a label that nobody knows


@dataclass(frozen=True)
class Source:
    """Standardised features of all training rows and of the test rows, on the CPU."""

    train: Tensor
    test: Tensor
    scale: Scale

    @classmethod
    def of(cls, train: Tensor, test: Tensor, *, shared: bool) -> Source:
        """Standardised by the training rows."""
        scale = Scale.of(train, shared=shared)
        return cls(scale(train), scale(test), scale)


@dataclass(frozen=True)
class Task:
    """Rows as the model reads them, and their classes from 0 to K - 1.

    Attributes:
        model: whose codes are judged.
        train: all training rows, those without a label too.
        known: places of those with one, (n,).
        y: their classes, (n,).
        test: test rows with a label.
        truth: their classes.
        classes: the labels that occur, (K,).
        names: of the training rows and of the test rows.
        seed: of draws.
        notes: what a reader should know.
    """

    model: Model
    train: Rows
    known: Tensor
    y: Tensor
    test: Rows
    truth: Tensor
    classes: Tensor
    names: tuple[str, str]
    seed: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model, train: Data, test: Data, seed: int) -> Task:
        """The task, checked.

        Raises:
            UserError: rows or labels that make none.
        """
        train, notes = _opened(model, train, seed)
        test, _ = _opened(model, test, seed)
        known, labels = _known(train)
        places, wanted = _known(test)
        classes, y = labels.unique(return_inverse=True)
        _check_classes(train, test, classes, wanted)
        held = test.rows(places)
        return cls(
            model=model,
            train=Rows(train.x, train.mask, train.context),
            known=known,
            y=y,
            test=Rows(held.x, held.mask, held.context),
            truth=torch.searchsorted(classes, wanted),
            classes=classes,
            names=(train.protocol, test.protocol),
            seed=seed,
            notes=notes,
        )

    def number(self, count: int | None) -> int:
        """How many labels are meant; None: all.

        Raises:
            UserError: more than rows, or fewer than classes.
        """
        rows, classes = len(self.y), len(self.classes)
        if count is None:
            return rows
        if count > rows:
            raise UserError(
                f"labels={count}: {self.names[0]} has {rows:,} rows with a label; ask for fewer, "
                "or for all"
            )
        if count < classes:
            raise UserError(
                f"labels={count}: {self.names[0]} has {classes} classes; ask for one row of each "
                "at least"
            )
        return count

    def labelled(self, number: int, draw: int) -> Tensor:
        """Places among the known rows that a draw labels, (number,)."""
        if number == len(self.y):
            return torch.arange(number)
        return balanced(self.y, derive(self.seed, "labelled", draw))[:number]

    @torch.no_grad()
    def codes_of(self, model: Model, rows: Rows) -> Tensor:
        """Features of rows, (n, D), on the CPU.

        Raises:
            UserError: some are not finite.
        """
        parts = (rows.part(at) for at in torch.arange(len(rows.x)).split(BLOCK))
        with seeded(derive(self.seed, "codes"), model.device):
            found = torch.cat([features(model, *placed(p, model.device)).cpu() for p in parts])
        if not bool(torch.isfinite(found).all()):
            raise UserError(
                f"{type(model).__name__}: codes of {self.names[0]} or {self.names[1]} are not "
                "finite; look at the model first, by latently diagnose"
            )
        return found

    @cached_property
    def codes(self) -> Source:
        """The model's codes, which share a unit."""
        both = (self.codes_of(self.model, rows) for rows in (self.train, self.test))
        return Source.of(*both, shared=True)

    @cached_property
    def cells(self) -> Source:
        """The rows themselves; a missing cell is its column's mean."""
        means = _means(self.train)
        train, test = (_filled(rows, means) for rows in (self.train, self.test))
        return Source.of(train, test, shared=self.train.x.dim() > 2)

    @cached_property
    def components(self) -> Source:
        """Principal components of the standardised rows, as many as codes have numbers."""
        train, test = self.cells.train, self.cells.test
        axes = _axes(train, min(self.codes.train.shape[1], train.shape[1], len(train) - 1))
        return Source.of(train @ axes, test @ axes, shared=True)


def balanced(y: Tensor, seed: int) -> Tensor:
    """All places, (n,), in random order but class by class in turn.

    The first m hold every class equally often, as far as m and its rows allow.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    turn = torch.randperm(int(y.max()) + 1, generator=generator)  # who goes first
    sorted_order = order[y[order].argsort(stable=True)]
    counts = torch.bincount(y)
    first = (counts.cumsum(0) - counts)[y[sorted_order]]
    rank = torch.arange(len(y)) - first  # how many of its class come before
    return sorted_order[(rank * len(turn) + turn[y[sorted_order]]).argsort()]


def _opened(model: Model, data: Data, seed: int) -> tuple[Data, tuple[str, ...]]:
    """The rows drawn once and checked, without a context that holds the answer."""
    notes: tuple[str, ...] = ()
    data = data.once(seed)
    if data.conditions is not None and data.conditions.name == "label":
        data = replace(data, context=None, conditions=None)
        notes = ("the model takes labels as its context, and was shown none",)
        if model.contexts:
            try:
                model.check_context(None)
            except UserError:
                raise UserError(
                    "codes of a model of p(x|label) are told the labels that they should tell; "
                    "fit it without --context label"
                ) from None
    model.check(data.x, data.mask, data.protocol)
    model.check_context(data.context, data.protocol)
    return data, notes


def _known(data: Data) -> tuple[Tensor, Tensor]:
    """Places of the rows with a label, and their labels."""
    if data.labels is None:
        raise UserError(
            f"{data.protocol} has no labels, which a classifier needs; give some, such as an "
            "array y in a .npz"
        )
    labels = data.labels.cpu()
    places = (labels != _UNKNOWN).nonzero()[:, 0]
    if not len(places):
        raise UserError(f"{data.protocol}: no row has a label ({_UNKNOWN} means unknown)")
    return places, labels[places]


def _check_classes(train: Data, test: Data, classes: Tensor, wanted: Tensor) -> None:
    if len(classes) < 2:
        raise UserError(
            f"{train.protocol}: all labels are {train.label_name(classes[0])}; a classifier needs "
            "two classes at least"
        )
    strange = wanted[~torch.isin(wanted, classes)]
    if len(strange):
        raise UserError(
            f"{test.protocol}: {len(strange)} rows are of class {test.label_name(strange[0])}, "
            f"which no row of {train.protocol} has; split the rows so that both have all classes"
        )


def _means(rows: Rows) -> Tensor:
    """Of observed cells, (D,)."""
    x = rows.x.flatten(1)
    if rows.mask is None:
        return x.double().mean(0).to(x.dtype)
    seen = rows.mask.flatten(1)
    total = x.double().where(seen, 0.0).sum(0) / seen.sum(0).clamp(min=1)
    return total.to(x.dtype)


def _filled(rows: Rows, means: Tensor) -> Tensor:
    x = rows.x.flatten(1)
    return (x if rows.mask is None else x.where(rows.mask.flatten(1), means)).cpu()


def _axes(s: Tensor, count: int) -> Tensor:
    """The directions of most variance of centred rows (n, D), (D, count)."""
    if len(s) <= s.shape[1]:
        return torch.linalg.svd(s.double(), full_matrices=False).Vh[:count].T.to(s.dtype)
    total = torch.zeros(s.shape[1], s.shape[1], dtype=torch.float64)
    for block in s.split(BLOCK):
        total += block.T @ block
    return torch.linalg.eigh(total).eigenvectors.flip(1)[:, :count].to(s.dtype)
