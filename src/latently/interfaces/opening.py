"""What the commands open: a model file, the rows it is asked about, and how it is measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from latently import data as data_floor
from latently import expr
from latently.data import Data
from latently.data.catalog import SOURCES
from latently.data.masks import Mask
from latently.data.partition import REST
from latently.errors import UserError, closest
from latently.inference import Evidence, ImportanceSampling, Method, evaluate
from latently.inference.evidence import default_method
from latently.inference.methods.base import Progress
from latently.io import Saved, load_saved
from latently.registry import KINDS, components
from latently.training.progress import Bar

__all__ = [
    "Rows",
    "fitted_to",
    "in_blocks",
    "load_like",
    "measured",
    "open_model",
    "opened",
    "pick_method",
    "read_mask",
    "short_name",
    "ticker",
]

MAX_SAMPLES = 10**8  # every row keeps all its log-weights, 8 bytes each


@dataclass(frozen=True)
class Rows:
    """The rows a command is asked about.

    Attributes:
        spec: a named set or a file; of a named set the test split unless another is named.
        data_dir: folder of the named sets.
        seed: of whatever is drawn, the mask included.
        mask: call expression of cells to hide, None to hide none.
    """

    spec: str
    data_dir: str | None = None
    seed: int = 0
    mask: str | None = None

    def open(self, saved: Saved) -> Data:
        """The rows as a fitted model reads them.

        Raises:
            UserError: no such data, or rows, contexts or a mask that do not fit the model.
        """
        return self.open_both(saved)[0]

    def open_both(self, saved: Saved) -> tuple[Data, Data]:
        """The rows with the cells that the mask hides missing, and the rows as they are."""
        mask = None if self.mask is None else read_mask(self.mask)
        spec, name = self.spec, self.spec.partition(":")[0]
        if name in SOURCES and "/" not in spec:
            spec += "/test"
        whole = load_like(spec, saved, self.data_dir).once(self.seed)
        data = whole
        if mask is not None:
            named = f"{whole.protocol}, hidden by {expr.show(mask)}"
            data = replace(whole.hidden(mask, self.seed), protocol=named)
        for notice in whole.notices:
            print(f"note: {notice}", file=sys.stderr)
        saved.model.check(data.x, data.mask, data.protocol)
        saved.model.check_context(data.context, data.protocol)
        return data, whole


def load_like(spec: str, saved: Saved, data_dir: str | None) -> Data:
    """Rows read as those of the fit were, without labels that the model need not see."""
    like = saved.data | ({} if saved.table is None else {"table": saved.table})
    if saved.model.context_optional:
        like = {key: value for key, value in like.items() if key != "context"}
    return data_floor.load(spec, data_dir=data_dir, like=like or None)


def read_mask(text: str) -> Mask:
    """The mask of a call expression.

    Raises:
        UserError: it is none.
    """
    name = text.partition("(")[0].strip()
    if name not in KINDS["masks"]:
        raise UserError(f"--mask {text}: {closest(name, KINDS['masks'])}")
    built: Mask = expr.build(text, components())
    return built


def open_model(path: str) -> Saved:
    """Reads a model file."""
    return load_saved(Path(path).expanduser())


def opened(
    paths: Sequence[str], rows: Rows, samples: int | None
) -> list[tuple[str, Saved, Data, Method]]:
    """Several models with their rows and methods; every mistake shows before work begins.

    Raises:
        UserError: a file is given twice, or one does not fit the data.
    """
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise UserError(f"{twice} is given twice; name each model once")
    saved = {path: open_model(path) for path in paths}
    return [
        (path, it, rows.open(it), pick_method(None, samples, it)) for path, it in saved.items()
    ]


def pick_method(method: str | None, samples: int | None, saved: Saved) -> Method:
    """The method of `--method`, importance sampling by `--samples`, or the model's default.

    A model with a closed form stays exact under `--samples`: every draw's weight is its p(x).
    """
    if method is not None and samples is not None:
        raise UserError("give --samples or --method, not both")
    if method is not None:
        name = method.partition("(")[0].strip()
        if name.isidentifier() and name not in KINDS["methods"]:
            raise UserError(f"--method {method}: {closest(method, KINDS['methods'])}")
        built = expr.build(method, components())
        if not isinstance(built, Method):
            raise UserError(f"--method {method}: {closest(method, KINDS['methods'])}")
    elif samples is None or saved.model.density == "exact":
        built = default_method(saved.model)
    else:
        built = ImportanceSampling(samples)
    if isinstance(built, ImportanceSampling) and built.samples > MAX_SAMPLES:
        raise UserError(f"{built.samples} samples a row: at most {MAX_SAMPLES:,} are drawn")
    return built


def measured(saved: Saved, data: Data, method: Method, seed: int, quiet: bool = False) -> Evidence:
    """Evidence with a progress bar, and a word of caution on rows the model was fitted to."""
    with Bar(len(data), "row", show=not quiet) as bar:
        evidence = evaluate(saved.model, data, method, seed=seed, progress=ticker(bar))
    if not fitted_to(saved, data):
        return evidence
    note = f"{data.protocol} names rows the model was fitted to; what it says of them flatters"
    return replace(evidence, notes=(*evidence.notes, note))


def ticker(bar: Bar) -> Progress:
    """What tells a bar of things done."""
    return lambda done, total: bar.update(done, None)


def in_blocks(function: Callable[..., Tensor], data: Data) -> Tensor:
    """`function(x, mask, context)` of all rows, a block at a time."""
    parts = (data.rows(rows) for rows in torch.arange(len(data)).split(500))
    return torch.cat([function(part.x, part.mask, part.context) for part in parts])


def short_name(path: str, paths: Sequence[str]) -> str:
    """A model's name in a table: the file's stem where these differ, else its path."""
    stems = [Path(p).stem for p in paths]
    return Path(path).stem if stems.count(Path(path).stem) == 1 else path


def fitted_to(saved: Saved, data: Data) -> bool:
    """Whether data, by their name, hold rows that the model was trained on."""
    fitted = str(saved.data.get("protocol", ""))
    here = data.protocol.partition(", hidden by ")[0]
    whole = fitted.removesuffix(f" {REST}")
    if not fitted or here == fitted or f"{whole}/".startswith(f"{here}/"):
        return bool(fitted)
    (name, ours), (other, theirs) = _parts(fitted), _parts(here)
    return name == other and bool(ours & theirs)


def _parts(protocol: str) -> tuple[str, set[str]]:
    """A data set's name and the disjoint parts of it that a protocol's split holds."""
    if protocol.endswith(f" {REST}"):
        return protocol.removesuffix(f" {REST}"), {"train", "test"}
    name, _, split = protocol.rpartition("/")
    parts = set(split.replace("train+val", "train+validation").split("+"))
    every = {"train", "validation", "test"}
    return (name, parts) if parts <= every and name else (protocol, every)
