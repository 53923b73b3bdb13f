"""`latently probe`: how well classifiers do on a model's codes, from few labels to many."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latently import data as data_floor
from latently import expr
from latently._version import __version__
from latently.data import Data
from latently.data.catalog import SOURCES
from latently.data.corruptions import Corruption
from latently.errors import UserError, closest
from latently.interfaces.opening import fitted_to, open_model, short_name
from latently.interfaces.output import check_target, write_table
from latently.io import Saved
from latently.registry import KINDS, components
from latently.training.files import atomic_write
from latently.training.progress import Bar
from latently.training.transfer import METHODS, Transfer, probe

__all__ = ["Asked", "probe_command"]

_USUAL = (10, 100, 1000)
_HELD = 0.2  # share of a file's rows that is kept for testing


@dataclass(frozen=True)
class Asked:
    """What `latently probe` is asked.

    Attributes:
        data: rows that labels are drawn from: a named set or a file.
        test: rows to test on; None: the named set's test split, or a fifth of the file's rows.
        labels: numbers of labels, joined by commas; "all" for all; None: the usual ones.
        draws: of labelled rows.
        methods: joined by commas; None: all.
        corruption: call expression of what spoils test rows.
        data_dir: folder of the named sets.
        seed: of everything random.
    """

    data: str
    test: str | None = None
    labels: str | None = None
    draws: int = 5
    methods: str | None = None
    corruption: str | None = None
    data_dir: str | None = None
    seed: int = 0

    def command(self, model: str, out: str) -> str:
        """The call that gives the same page again."""
        words = ["latently", "probe", model]
        for name, value in vars(self).items():
            if value is not None and name != "data_dir":
                words += [f"--{name}", str(value)]
        return shlex.join([*words, "--out", out])


def probe_command(
    path: str, asked: Asked, *, out: str | None = None, as_json: bool = False, force: bool = False
) -> None:
    """Prints accuracies as a table or one JSON object; writes them where that is asked for.

    Args:
        path: the model file.
        asked: rows, labels and methods.
        out: .html for a page, .json or .csv.
        as_json: print JSON and nothing else.
        force: replace an existing file.

    Raises:
        UserError: rows, labels or methods that make no task.
    """
    target = None if out is None else check_target(out, (".html", ".json", ".csv"), force)
    methods = _methods(asked.methods)
    corruption = _corruption(asked.corruption)
    saved = open_model(path)
    train, test, cautions = _rows(saved, asked)
    labels = _labels(asked.labels, train)
    with Bar(1, "fit", show=not as_json) as bar:

        def progress(done: int, total: int) -> None:
            bar.resize(total)
            bar.update(done, None)

        found = probe(
            saved.model,
            train,
            test,
            labels=labels,
            draws=asked.draws,
            seed=asked.seed,
            methods=methods,
            corruption=corruption,
            progress=progress,
        )
    found = replace(found, notes=(*found.notes, *cautions))
    name = short_name(path, [path])
    told = {"version": __version__, "model": name, **found.to_dict()}
    print(json.dumps(told) if as_json else f"{name}: {found}")
    if target is not None:
        _write(target, told, found, saved, name, asked.command(path, str(out)))
        print(f"wrote {target}", file=sys.stderr if as_json else sys.stdout)


def _write(
    target: Path, told: dict[str, Any], found: Transfer, saved: Saved, name: str, command: str
) -> None:
    if target.suffix == ".html":
        from latently.interfaces.report.transfer import write_transfer

        write_transfer(target, found, saved, name=name, command=command)
    elif target.suffix == ".json":
        text = json.dumps(told, indent=2) + "\n"
        atomic_write(target, lambda temporary: temporary.write_bytes(text.encode()))
    else:
        write_table(target, _columns(found))


def _columns(found: Transfer) -> dict[str, list[Any]]:
    """One line for every method, number of labels and draw."""
    rows = [
        (score.method, score.corruption, score.labels, draw, accuracy, score.binomial)
        for score in found.scores
        for draw, accuracy in enumerate(score.accuracies.tolist())
    ]
    heads = ("method", "corruption", "labels", "draw", "accuracy_percent", "binomial_stderr")
    return {head: [row[k] for row in rows] for k, head in enumerate(heads)}


def _rows(saved: Saved, asked: Asked) -> tuple[Data, Data, tuple[str, ...]]:
    """Rows to draw labels from, rows to test on, and what is to be said of them."""
    spec = asked.data
    named = spec.partition("/")[0].partition(":")[0] in SOURCES
    if spec.rpartition("/")[2] == "test" and asked.test is None:
        raise UserError(
            f"--data {spec}: labels of test rows would train the classifiers; name the train "
            "split, or other rows by --test"
        )
    if named and "/" not in spec:
        spec += "/train"
    whole = _load(saved, spec, asked)
    beside = None
    if asked.test is not None:
        beside = asked.test
        if beside.partition(":")[0] in SOURCES and "/" not in beside:
            beside += "/test"
    elif spec.rpartition("/")[2] in ("train", "train+val"):
        beside = f"{spec.rpartition('/')[0]}/test"
    if beside is None:
        train, test = _held_out(whole, asked.seed)
        judged = whole
    else:
        train, test = whole, _load(saved, beside, asked)
        judged = test
    cautions = []
    if fitted_to(saved, judged):
        cautions.append(
            f"{judged.protocol} names rows the model was fitted to, without their labels: its "
            "codes may flatter it there"
        )
    if len(train.x) == len(test.x) and train.digest() == test.digest():
        raise UserError(f"--test {asked.test}: these are the rows of --data; name others")
    return train, test, tuple(cautions)


def _load(saved: Saved, spec: str, asked: Asked) -> Data:
    return data_floor.load(spec, data_dir=asked.data_dir, like=saved.data or None)


def _held_out(whole: Data, seed: int) -> tuple[Data, Data]:
    """Four fifths of the rows and one, drawn by seed."""
    if len(whole) < 5:
        raise UserError(f"{whole.protocol} has {len(whole)} rows; give more, or others by --test")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(whole)))
    held = round(_HELD * len(whole))
    parts = (("four fifths", order[held:]), ("a fifth", order[:held]))
    train, test = (
        whole.rows(at.sort().values, f"{whole.protocol}, {share} by seed {seed}")
        for share, at in parts
    )
    return train, test


def _labels(text: str | None, train: Data) -> tuple[int | None, ...]:
    if text is None:
        known = 0 if train.labels is None else int((train.labels != -1).sum())
        classes = 0 if train.labels is None else len(train.labels.unique())
        return (*(count for count in _USUAL if classes <= count < known), None)
    found: list[int | None] = []
    for word in (part.strip() for part in text.split(",") if part.strip()):
        if word != "all" and not (word.isascii() and word.isdigit()):
            raise UserError(f"--labels {word}: a number of labelled rows, or all")
        found.append(None if word == "all" else int(word))
    if not found:
        raise UserError(f"--labels {text!r} names none; give some, such as 10,100,all")
    return tuple(found)


def _methods(text: str | None) -> tuple[str, ...]:
    if text is None:
        return tuple(METHODS)
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise UserError(f"--methods {text!r} names none; known: {', '.join(METHODS)}")
    for name in names:
        if name not in METHODS:
            raise UserError(f"--methods {name}: {closest(name, METHODS)}")
    return names


def _corruption(text: str | None) -> Corruption | None:
    if text is None:
        return None
    name = text.partition("(")[0].strip()
    if name not in KINDS["corruptions"]:
        raise UserError(f"--corruption {text}: {closest(name, KINDS['corruptions'])}")
    built = expr.build(text, components())
    found: Corruption = built() if isinstance(built, type) else built
    return found
