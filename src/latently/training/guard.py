"""What is counted of the steps of an epoch, and why a run that cannot go on cannot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from latently.data import Data
from latently.models import Model
from latently.training.files import named_tensors
from latently.training.loop import Step

__all__ = ["PATIENCE", "Tally", "cause", "extreme", "first_layer"]

PATIENCE = 20  # non-finite steps in a row that end a run
_EXTREME = 1e4  # times a column's median distance from its median
_HEAVY = 1e6  # times the reconstruction: a cost that nothing else can be heard beside
_MEANS = ("bound", "reconstruction", "kl", "gradient_norm")
_COUNTS = ("clipped", "skipped", "non_finite")


class Tally:
    """Sums over the steps of the epoch under way; steps are read when somebody asks.

    They are added one by one in float64, so that a sum does not depend on when it was read.

    Args:
        sums: of (bound, reconstruction, KL, gradient norm) over finite steps, then the counts of
            clipped, skipped and non-finite steps.
        streak: non-finite steps in a row up to now.
    """

    def __init__(self, sums: Sequence[float], streak: int) -> None:
        self._sums, self._streak = list(sums), streak
        self._unread: list[Step] = []

    def add(self, step: Step) -> None:
        """Counts a step."""
        self._unread.append(step)

    @property
    def sums(self) -> list[float]:
        """The sums up to now; waits for the device."""
        self._read()
        return self._sums

    @property
    def streak(self) -> int:
        """Non-finite steps in a row up to now; waits for the device."""
        self._read()
        return self._streak

    def _read(self) -> None:
        if not self._unread:
            return
        names = ("finite", *_MEANS, "clipped", "skipped")
        columns = [torch.stack([getattr(s, name) for s in self._unread]) for name in names]
        self._unread = []
        for finite, *values in zip(*(column.tolist() for column in columns), strict=True):
            self._streak = 0 if finite else self._streak + 1
            values = [*values, False] if finite else [0.0] * 6 + [True]
            self._sums = [a + b for a, b in zip(self._sums, values, strict=True)]

    def row(self, counted: int) -> dict[str, float]:
        """Means over the finite ones of `counted` steps, and the counts."""
        *means, clipped, skipped, lost = self.sums
        finite = counted - lost
        row = dict.fromkeys(_MEANS, math.nan)
        if finite:
            row = {name: s / finite for name, s in zip(_MEANS, means, strict=True)}
        return row | dict(zip(_COUNTS, map(int, (clipped, skipped, lost)), strict=True))

    def clear(self) -> None:
        """Begins an epoch; a streak goes on."""
        self._read()
        self._sums = [0.0] * len(self._sums)


def cause(model: Model, step: Step, objective: Any, batch: tuple[Any, Any, Any]) -> str:
    """What is not finite in a step that was not taken, in words: the term and where it begins.

    Args:
        model: with the gradients of that step.
        step: what the step gave.
        objective: what was maximised.
        batch: x, mask and context of the step.
    """
    maximised = "bound" if objective.is_bound else "objective"
    cost = "KL" if objective.cost == "kl" else objective.cost
    terms = {"reconstruction": step.reconstruction, cost: step.kl, maximised: step.bound}
    bad = [f"{name} is {float(v):g}" for name, v in terms.items() if not torch.isfinite(v)]
    what = bad[0] if bad else f"the gradient's norm is {float(step.gradient_norm):g}"
    beside = float(step.reconstruction.abs())  # NaN counts as nothing
    beside = beside if math.isfinite(beside) else 0.0
    if objective.cost != "kl" and not float(step.kl.abs()) < _HEAVY * (1 + beside):
        what += (
            f", the {objective.cost} {float(step.kl):.3g} beside a reconstruction of "
            f"{float(step.reconstruction):.3g}: lower its weight"
        )
    return f"{what}; first non-finite tensor: {_first(model, step, objective, batch)}"


def _first(model: Model, step: Step, objective: Any, batch: tuple[Any, Any, Any]) -> str:
    for name, tensor in named_tensors(model).items():
        if not torch.isfinite(tensor).all():
            return name
    if layer := first_layer(model, step, objective, batch):
        return f"the output of {layer}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name}"
    return "none in the network, so in the densities"


@torch.no_grad()
def first_layer(
    model: Model, step: Step, objective: Any, batch: tuple[Any, Any, Any]
) -> str | None:
    """The first network layer, in the order they run, whose output is not finite."""
    found: list[str] = []
    clock = torch.tensor(step.index - 1, device=model.device)
    with _watched(model, found):
        try:
            objective(model, *batch, clock, step.total)
        except (RuntimeError, ValueError):  # it fails on such numbers; what was seen counts
            pass
    return found[0] if found else None


@contextmanager
def _watched(model: nn.Module, found: list[str]) -> Iterator[None]:
    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return hook

    leaves = [(n, m) for n, m in model.named_modules() if not any(m.children())]
    handles = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def extreme(data: Data) -> str:
    """The cell that lies absurdly far from its column's median, in words, if there is one."""
    x = data.x.flatten(1)
    seen = torch.ones_like(x, dtype=torch.bool) if data.mask is None else data.mask.flatten(1)
    size = x.abs().masked_fill(~seen, 0.0).double()
    column = int((size.amax(0) / size.mean(0).clamp(min=1e-300)).argmax())
    values = x[:, column].double().masked_fill(~seen[:, column], math.nan)
    middle = values.nanmedian()
    apart = (values - middle).abs()
    row = int(apart.nan_to_num(0.0).argmax())
    usual = float(apart.nanmedian()) or 1.0  # more than half of the column is one value
    if not float(apart[row]) > _EXTREME * usual:
        return ""
    return (
        f"{data.protocol} holds {float(values[row]):g} in row {row}, column {column}, whose "
        f"median is {float(middle):g}"
    )
