"""Source: a named set of the catalog, with its protocols and splits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from latently.data.base import Data
from latently.data.files import no_column
from latently.errors import UserError, closest

__all__ = ["SPLITS", "Source"]

SPLITS = ("train", "validation", "test", "train+val")


@dataclass(frozen=True)
class Source:
    """A data set known by name; the protocol says how its numbers are made comparable.

    Args:
        name: What it is called in a SPEC.
        about: One line for `latently list data`.
        read: `(protocol, split, data_dir) -> Data`, given a known protocol and split.
        protocols: What each protocol means; empty if there is only one. One that ends in "seed0"
            stands for any seed.
        columns: What else there is of every row, `(split, data_dir) -> {name: (n,) values}`.
    """

    name: str
    about: str
    read: Callable[[str, str, Path | None], Data]
    protocols: Mapping[str, str] = field(default_factory=dict)
    columns: Callable[[str, Path | None], Mapping[str, np.ndarray]] | None = None

    @property
    def specs(self) -> dict[str, str]:
        """Every `NAME[:PROTOCOL]` with one line about it."""
        if not self.protocols:
            return {self.name: self.about}
        return {f"{self.name}:{p}": f"{self.about}; {why}" for p, why in self.protocols.items()}

    def __call__(
        self, protocol: str = "", split: str = "train", data_dir: Path | None = None
    ) -> Data:
        """Read one split.

        Raises:
            UserError: An unknown protocol or split, or data that are not there.
        """
        general = re.sub(r"seed[1-9]\d{0,8}\Z", "seed0", protocol, flags=re.ASCII)
        if general not in self.protocols and (protocol or self.protocols):
            raise UserError(self._protocol_error(protocol))
        if split not in SPLITS:
            name = f"{self.name}:{protocol}" if protocol else self.name
            raise UserError(f"{name} has no split {split!r}; {closest(split, SPLITS)}")
        return self.read(protocol, split, data_dir)

    def column(
        self, name: str, data: Data, split: str = "train", data_dir: Path | None = None
    ) -> np.ndarray:
        """The values of a context, one row per row of a split's data: "label", or a column.

        Raises:
            UserError: No column of that name.
        """
        there = {} if self.columns is None else dict(self.columns(split, data_dir))
        if data.labels is not None:
            there["label"] = data.labels.numpy()
        if name not in there:
            raise UserError(no_column(data.protocol, name, list(there)))
        return there[name]

    def _protocol_error(self, protocol: str) -> str:
        if not self.protocols:
            return f"{self.name} has one protocol, not {protocol!r}; write {self.name}"
        if protocol:
            return f"{self.name} has no protocol {protocol!r}; {closest(protocol, self.protocols)}"
        return (
            f"{self.name} alone names no benchmark: its protocols differ by nats, and their "
            f"numbers do not compare; choose {', '.join(self.specs)}"
        )
