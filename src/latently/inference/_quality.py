"""What comparing samples with held-out rows found: numbers, a table, and findings in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from latently.inference.number import Number

__all__ = ["NEAR", "Better", "Measure", "SampleQuality", "percent"]

SURE = 3  # standard errors from which a difference is told in words
NEAR = 0.01  # share of held-out rows that lie as near to training rows as a suspicious sample

Better = Literal["lower", "higher", "reference"]


@dataclass(frozen=True)
class Measure:
    """One measure of samples, and of real rows in their place.

    Attributes:
        value: of samples against held-out rows.
        reference: of real rows against real rows, at the same n: what perfect samples reach.
        difference: value minus reference, with the error of the difference.
        better: "lower", "higher", or "reference" where only the reference is right.
    """

    value: Number
    reference: Number
    difference: Number
    better: Better

    @property
    def sigmas(self) -> float:
        """The difference in its standard errors; 0 where there is no difference."""
        if self.difference.value == 0:
            return 0.0
        error = self.difference.stderr
        return (
            self.difference.value / error
            if error > 0
            else math.copysign(math.inf, self.difference.value)
        )

    @property
    def suspicious(self) -> bool:
        """Whether the value is above thrice the reference (1 % if that is less), and surely."""
        return self.sigmas >= SURE and self.value.value > 3 * max(self.reference.value, NEAR)

    def to_dict(self) -> dict[str, Any]:
        """The three numbers for JSON."""
        numbers = {key: getattr(self, key).to_dict() for key in ("value", "reference")}
        return {**numbers, "difference": self.difference.to_dict(), "better": self.better}


@dataclass(frozen=True)
class SampleQuality:
    """How samples compare with held-out rows, in one feature space.

    Attributes:
        measures: by name: "frechet" (over the variance of held-out rows: 1 is what repeating
            their mean costs), "kernel", "precision", "recall", "density", "coverage"; with
            training rows also "near_train", "copying_z" and "duplicates".
        features: the feature space, in words.
        n: rows on each side of a comparison.
        samples: how many samples were given.
        heldout: how many held-out rows were compared.
        train: how many training rows were searched for copies; None without.
        protocol: of the held-out rows; "" for tensors.
        seed: of the halves, the features and the draws.
        warnings: what a reader should know before trusting the numbers.
    """

    measures: Mapping[str, Measure]
    features: str
    n: int
    samples: int
    heldout: int
    train: int | None = None
    protocol: str = ""
    seed: int = 0
    warnings: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Measure:
        return self.measures[name]

    @property
    def findings(self) -> tuple[str, ...]:
        """What the measures say, a line each, where a difference exceeds three errors."""
        found = [self._copies(), self._duplicates(), self._distance()]
        found += [self._lack(name) for name in ("precision", "recall", "coverage")]
        return tuple(line for line in (*found, self._crowding()) if line)

    @property
    def alarms(self) -> tuple[str, ...]:
        """The findings that say that something is wrong: samples that are training rows."""
        copied = (self._copies(), self._duplicates())
        return tuple(
            line for line in copied if line.startswith("samples are copies") or "equal" in line
        )

    def _copies(self) -> str:
        spaces = [m for name, m in self.measures.items() if name.startswith("near_train")]
        if not spaces or any(not m.suspicious for m in spaces):
            return self._closeness()
        least = min(spaces, key=lambda m: m.value.value)
        return (
            f"samples are copies: {percent(least.value.value)} lie nearer to a training row than "
            f"{percent(least.reference.value)} of held-out rows do"
        )

    def _closeness(self) -> str:
        found = [
            m.value.value for name, m in self.measures.items() if name.startswith("copying_z")
        ]
        if not found or max(found) > -SURE:
            return ""
        return (
            "samples lie nearer to training rows than held-out rows do, as crowding ones do, too: "
            f"z = {max(found):.1f}"
        )

    def _duplicates(self) -> str:
        measure = self.measures.get("duplicates")
        if measure is None or not measure.suspicious:
            return ""
        return (
            f"{percent(measure.value.value)} of the samples equal a training row, of held-out "
            f"rows {percent(measure.reference.value)}"
        )

    def _distance(self) -> str:
        frechet, kernel = self["frechet"], self["kernel"].value
        if frechet.sigmas >= SURE:
            floor = _shown(frechet.reference)
            return (
                f"unlike held-out rows: Frechet distance {_shown(frechet.value)}, two halves of "
                f"these {floor}"
            )
        # unbiased, so that of equals is 0 and the error of the reference does not come in
        if kernel.value > SURE * kernel.stderr:
            return f"unlike held-out rows: {kernel.name} {_shown(kernel)}, of equals 0"
        return f"not told apart from held-out rows by distances, at {self.n} rows a side"

    def _lack(self, name: str) -> str:
        measure = self[name]
        share = measure.value.value / measure.reference.value if measure.reference.value else 1.0
        if measure.sigmas > -SURE or share > 0.9:
            return ""
        much = "much" if share < 0.5 else "some"
        meaning = {
            "precision": f"{'many' if share < 0.5 else 'some'} samples lie where no data are",
            "recall": f"the model misses {much} of the data",
            "coverage": f"{much} of the data has no sample near",
        }[name]
        return (
            f"{name} {measure.value.value:.2f} (held-out rows {measure.reference.value:.2f}): "
            f"{meaning}"
        )

    def _crowding(self) -> str:
        density = self["density"]
        if density.sigmas < SURE or density.difference.value < 0.1:
            return ""
        return (
            f"density {density.value.value:.2f} (held-out rows {density.reference.value:.2f}): "
            "samples crowd where data are dense"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything for JSON."""
        own = {key: value for key, value in vars(self).items() if key != "measures"}
        measures = {name: measure.to_dict() for name, measure in self.measures.items()}
        return {
            **own,
            "warnings": list(self.warnings),
            "measures": measures,
            "findings": list(self.findings),
        }

    def __str__(self) -> str:
        of = f" of {self.protocol}" if self.protocol else ""
        rows = [("estimates", "samples", "real rows", "difference")]
        rows += [
            (m.value.name, _shown(m.value), _shown(m.reference), _shown(m.difference, "+"))
            for m in self.measures.values()
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        head = f"{self.samples} samples and {self.heldout} held-out rows{of}, {self.n} a side"
        told = [f"- {line}" for line in self.findings]
        told += [f"warning: {line}" for line in self.warnings]
        return "\n".join([head, f"features: {self.features}", *table, *told])


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.0139), percent(0.312)
    ('1.4 %', '31 %')
    """
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _shown(number: Number, sign: str = "") -> str:
    """A value to the digits that its error leaves."""
    error = number.stderr
    if not (math.isfinite(error) and error > 0):
        return f"{number.value:{sign}.3g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{number.value:{sign}.{digits}f} +- {error:.{digits}f}"
