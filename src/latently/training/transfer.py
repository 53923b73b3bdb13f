r"""What codes are worth to a classifier that has few labels: linear probes and their rivals.

For every number of labels, rows are drawn by seed, as many of each class as can be, the smaller
numbers within the larger ones. Every method gets the same rows, so that differences are paired:

    linear      multinomial logistic regression on the codes
    fine-tuned  encoder and linear head, trained together from the fitted weights
    scratch     the same network and training, from new weights
    cells       logistic regression on the rows themselves
    pca         logistic regression on principal components, as many as the code has numbers

Regressions have an L2 penalty whose strength cross-validation chooses on the labelled rows; the
training of networks is fixed beforehand. Neither meets a test row. Scales of columns, principal
components and starting points of new networks are read off all training rows, which needs no
label. Sources: probes, Alain, Bengio, "Understanding intermediate layers using linear classifier
probes", 2016; the protocol, Kingma et al., "Semi-supervised Learning with Deep Generative Models",
2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latently.data import Data
from latently.data.corruptions import Corruption
from latently.errors import UserError, closest
from latently.inference._mode import evaluating
from latently.inference.number import Number
from latently.models import Model
from latently.training._classifier import Budget, features
from latently.training._rivals import METHODS, Guess, Rivals
from latently.training._task import Task

__all__ = ["METHODS", "Budget", "Score", "Transfer", "features", "probe"]

_BASES = ("scratch", "cells", "pca")  # what the others are compared with: the first there is

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Score:
    """How one method does with one number of labels.

    Attributes:
        method: one of `METHODS`.
        labels: how many rows had one.
        predictions: class of every test row, for every draw of labelled rows, (R, n).
        truth: (n,).
        settings: how it was fitted in every draw, R of them.
        corruption: what spoilt the test rows; "" for nothing.
    """

    method: str
    labels: int
    predictions: Tensor
    truth: Tensor
    settings: tuple[Mapping[str, Any], ...]
    corruption: str = ""

    @property
    def name(self) -> str:
        """The method in words."""
        return METHODS[self.method] + (f", {self.corruption}" if self.corruption else "")

    @property
    def right(self) -> Tensor:
        """1 where a prediction is right, (R, n), in float64."""
        return (self.predictions == self.truth).double()

    @property
    def accuracies(self) -> Tensor:
        """Of every draw, (R,), in %."""
        return 100 * self.right.mean(1)

    @property
    def mean(self) -> float:
        """Over draws, in %."""
        return float(self.accuracies.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over draws, in %; NaN for one draw."""
        return float(self.accuracies.std()) if len(self.accuracies) > 1 else math.nan

    @property
    def binomial(self) -> float:
        """Standard error from the number of test rows: `sqrt(p (1 - p) / n)`, in %."""
        share = self.mean / 100
        return 100 * math.sqrt(share * (1 - share) / len(self.truth))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, for JSON."""
        return {
            "method": self.method,
            "labels": self.labels,
            "corruption": self.corruption or None,
            "kind": "estimate",
            "unit": "%",
            "accuracies": [round(value, 6) for value in self.accuracies.tolist()],
            "mean": self.mean,
            "deviation_over_draws": None if math.isnan(self.deviation) else self.deviation,
            "binomial_stderr": self.binomial,
            "settings": [dict(one) for one in self.settings],
        }


@dataclass(frozen=True)
class Transfer:
    """Accuracies on test rows, by method and number of labels. All are estimates, in %.

    Attributes:
        train: name of the rows that labels were drawn from.
        rows: how many of them have a label.
        protocol: name of the test rows.
        classes: the labels that occur.
        features: numbers in a code.
        components: principal components; 0 where they were not asked for.
        draws: draws of labelled rows; of all rows there is one.
        seed: of everything random.
        scores: in the order of the methods, the numbers of labels ascending; corrupted ones last.
        left_out: methods that this model does not allow, and why.
        notes: what a reader should know, a line each.
    """

    train: str
    rows: int
    protocol: str
    classes: tuple[int, ...]
    features: int
    components: int
    draws: int
    seed: int
    scores: tuple[Score, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of test rows."""
        return len(self.scores[0].truth)

    @property
    def labels(self) -> tuple[int, ...]:
        """Numbers of labels, ascending."""
        return tuple(sorted({score.labels for score in self.scores}))

    @property
    def rivals(self) -> tuple[tuple[str, str], ...]:
        """Methods with the corruption of their test rows, in order."""
        return tuple(dict.fromkeys((score.method, score.corruption) for score in self.scores))

    @property
    def base(self) -> str | None:
        """The method that others are compared with, None where none was asked for."""
        there = {score.method for score in self.scores}
        return next((method for method in _BASES if method in there), None)

    @property
    def chance(self) -> float:
        """Accuracy, in %, of naming one class for all test rows: the one most frequent there."""
        truth = self.scores[0].truth
        return 100 * float(torch.unique(truth, return_counts=True)[1].max()) / len(truth)

    def score(self, method: str, labels: int | None = None, corruption: str = "") -> Score:
        """The score of a method; None: with all labels.

        Raises:
            UserError: it was not asked for, or left out.
        """
        labels = self.rows if labels is None else labels
        for score in self.scores:
            if (score.method, score.labels, score.corruption) == (method, labels, corruption):
                return score
        why = self.left_out.get(method)
        told = f"left out: {why}" if why else "not measured; name it in methods and labels"
        raise UserError(f"{METHODS.get(method, method)}, {labels} labels: {told}")

    def difference(self, method: str, base: str, labels: int | None = None) -> Number:
        """Accuracy of one method minus that of another, in points, paired.

        Both meet the same draws of labelled rows and the same test rows. The standard error joins
        those over draws and over test rows, `sqrt(s_draws^2 / R + s_rows^2 / n)`; with one draw it
        is that over test rows alone.

        Raises:
            UserError: one of them was not measured.
        """
        here, there = self.score(method, labels), self.score(base, labels)
        apart = 100 * (here.right - there.right)
        draws, rows = apart.shape
        variance = float(apart.mean(0).var()) / rows if rows > 1 else math.nan
        over = "test rows"
        if draws > 1:
            variance += float(apart.mean(1).var()) / draws
            over = f"{draws} draws and test rows"
        name = f"{METHODS[method]} minus {METHODS[base]}, {here.labels:,} labels"
        return Number(
            name,
            float(apart.mean()),
            "estimate",
            "points",
            math.sqrt(variance),
            method=f"paired, error over {over}",
        )

    def differences(self) -> tuple[tuple[str, tuple[Number, ...]], ...]:
        """Every method against the base, for every number of labels."""
        base = self.base
        if base is None:
            return ()
        methods = [m for m, corruption in self.rivals if m != base and not corruption]
        return tuple((m, tuple(self.difference(m, base, k) for k in self.labels)) for m in methods)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, for JSON."""
        return {
            "protocol": self.protocol,
            "n": len(self),
            "train": self.train,
            "rows": self.rows,
            "classes": list(self.classes),
            "features": self.features,
            "components": self.components,
            "draws": self.draws,
            "seed": self.seed,
            "one_class_for_all": self.chance,
            "scores": [score.to_dict() for score in self.scores],
            "differences": [n.to_dict() for _, numbers in self.differences() for n in numbers],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        named = {rival: self._row(*rival) for rival in self.rivals}
        heads = [f"{k:,} labels" if k < self.rows else f"all {k:,}" for k in self.labels]
        table = [["", *heads]]
        table += [[row[0].name, *map(_spread, row)] for row in named.values()]
        apart = [
            [METHODS[method], *(f"{n.value:+.1f} +- {n.stderr:.1f}" for n in numbers)]
            for method, numbers in self.differences()
        ]
        widths = [max(map(len, column)) for column in zip(*table, *apart, strict=True)]
        errors = [score.binomial for score in self.scores]
        lines = [
            f"accuracy on {self.protocol}, {len(self):,} rows, %: mean +- deviation over "
            f"{self.draws} draw{'s' * (self.draws > 1)} of labelled rows of {self.train}",
            *_aligned(table, widths),
            f"binomial standard error from the number of test rows: {min(errors):.2f} to "
            f"{max(errors):.2f}; one class for all rows: {self.chance:.1f}",
        ]
        if apart:
            assert self.base is not None
            lines.append(
                f"minus {METHODS[self.base]}, points, paired: mean +- standard error over draws "
                "and test rows"
            )
            lines += _aligned(apart, widths)
        lines += [f"{METHODS[method]} is left out: {why}" for method, why in self.left_out.items()]
        return "\n".join([*lines, *self.notes])

    def _row(self, method: str, corruption: str) -> list[Score]:
        return [self.score(method, labels, corruption) for labels in self.labels]


def _spread(score: Score) -> str:
    if math.isnan(score.deviation):
        return f"{score.mean:.1f}"
    return f"{score.mean:.1f} +- {score.deviation:.1f}"


def _aligned(table: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    return [
        f"  {row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in table
    ]


def probe(
    model: Model,
    train: Data,
    test: Data,
    *,
    labels: Sequence[int | None] = (10, 100, 1000, None),
    draws: int = 5,
    seed: int = 0,
    methods: Sequence[str] = tuple(METHODS),
    corruption: Corruption | None = None,
    budget: Budget = Budget(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> Transfer:
    """Accuracy of classifiers on a model's codes, and of their rivals, from few labels to many.

    The model stays as it is. Dynamic rows are drawn once, by seed, and are the same for all.
    Codes and principal components are centred and divided by one number, the root mean square of
    their deviations, and so are the cells of pictures, which share a unit; columns of tables are
    standardised one by one. A missing cell is given to the model as its mask, and to the
    regressions on cells and components as its column's mean.

    Args:
        model: a fitted model.
        train: rows with labels; -1 is a label that nobody knows.
        test: rows with labels, that neither the model nor a classifier has met.
        labels: numbers of labelled rows; None: all there are.
        draws: of labelled rows, for every number but that of all rows, of which there is one.
        seed: of the draws of rows, of folds, new weights and the order of training.
        methods: which of `METHODS`.
        corruption: spoils test rows for the linear probe, which is then scored on those too; what
            an adversary climbs is the probe's cross-entropy, through the encoder.
        budget: of the training of networks, whatever they start from.
        progress: told (fits done, fits in all).

    Raises:
        UserError: rows without labels, of one class, of a class that only the test rows have, or
            that the model does not hold; more labels than rows or fewer than classes; a model of
            p(x|label), whose codes are told the answer; unknown methods.
    """
    chosen = _chosen(methods, corruption)
    _check_counts(labels, draws)
    task = Task.of(model, train, test, seed)
    numbers = sorted({task.number(count) for count in labels})
    rivals = Rivals(task, budget, corruption)
    with evaluating(model):
        left_out = rivals.impossible(chosen)
        chosen = [method for method in chosen if method not in left_out]
        if not chosen:
            raise UserError(f"no method is left: {'; '.join(set(left_out.values()))}")
        scores = _scores(rivals, chosen, numbers, draws, progress)
        return Transfer(
            train=task.names[0],
            rows=len(task.y),
            protocol=task.names[1],
            classes=tuple(task.classes.tolist()),
            features=task.codes.train.shape[1],
            components=task.components.train.shape[1] if "pca" in chosen else 0,
            draws=draws,
            seed=seed,
            scores=scores,
            left_out=left_out,
            notes=(*task.notes, *_unfinished(scores)),
        )


def _scores(
    rivals: Rivals,
    methods: Sequence[str],
    numbers: Sequence[int],
    draws: int,
    progress: Progress | None,
) -> tuple[Score, ...]:
    """Every method with every number of labels, in the order of `Transfer.scores`."""
    task = rivals.task
    jobs = [
        (method, number, draw)
        for method in methods
        for number in numbers
        for draw in range(1 if number == len(task.y) else draws)
    ]
    found: dict[tuple[str, str, int], list[Guess]] = {}
    for done, (method, number, draw) in enumerate(jobs, 1):
        for guess in rivals.guesses(method, number, draw):
            found.setdefault((guess.corruption, method, number), []).append(guess)
        if progress is not None:
            progress(done, len(jobs))
    plain_first = sorted(found.items(), key=lambda item: bool(item[0][0]))
    return tuple(
        Score(
            method=method,
            labels=number,
            predictions=task.classes[torch.stack([guess.classes for guess in guesses])],
            truth=task.classes[task.truth],
            settings=tuple(guess.settings for guess in guesses),
            corruption=corruption,
        )
        for (corruption, method, number), guesses in plain_first
    )


def _chosen(methods: Sequence[str], corruption: Corruption | None) -> list[str]:
    for method in methods:
        if method not in METHODS:
            raise UserError(f"methods: {method!r} is none; {closest(str(method), METHODS)}")
    if not methods:
        raise UserError(f"methods=() names none; known: {', '.join(METHODS)}")
    if corruption is not None and "linear" not in methods:
        raise UserError(f"corruption={corruption} spoils rows of the linear probe; ask for linear")
    return [method for method in METHODS if method in methods]


def _check_counts(labels: Sequence[int | None], draws: int) -> None:
    if not labels:
        raise UserError("labels=() names no number of labels; give some, such as (10, 100, None)")
    for count in (*labels, draws):
        if count is not None and (not isinstance(count, int) or isinstance(count, bool)):
            raise UserError(f"labels and draws are whole numbers, not {count!r}")
    if draws is None or draws < 1:
        raise UserError(f"draws={draws} must be at least 1")


def _unfinished(scores: Sequence[Score]) -> tuple[str, ...]:
    count = sum(not one.get("converged", True) for score in scores for one in score.settings)
    if not count:
        return ()
    return (f"{count} logistic regressions stopped before they converged",)
