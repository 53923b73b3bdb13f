"""`latently doctor`: what there is on this machine, as a bug report or a puzzled user needs it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from latently._version import __version__
from latently.data.catalog import SOURCES
from latently.data.source import Source
from latently.errors import UserError
from latently.interfaces.cards import hardware
from latently.interfaces.memory import machine_bytes

__all__ = ["doctor"]

_SHOWN = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "lightning-fabric")


def doctor(data_dir: str | None = None) -> str:
    """Versions, devices, threads, compiler, and which data sets can be read."""
    lines = [*_software(), *_machine(), *_data(None if data_dir is None else Path(data_dir))]
    return "\n".join(f"{name:<17}{about}" for name, about in lines)


def _software() -> Iterator[tuple[str, str]]:
    yield "latently", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in _SHOWN:
        yield name, metadata.version(name)


def _machine() -> Iterator[tuple[str, str]]:
    found = hardware()
    yield "processor", f"{found['cpu']}, {found['cores']} cores"
    yield "threads", f"{found['threads']}; fit --threads sets another number"
    yield "memory", f"{machine_bytes() / 2**30:.1f} GiB"
    mps = "mps" if torch.backends.mps.is_available() else None
    yield "accelerator", found["gpu"] or mps or "none; --device auto is the processor"
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    yield "C++ compiler", compiler or "none; fit --compile needs one"


def _data(folder: Path | None) -> Iterator[tuple[str, str]]:
    for name, source in SOURCES.items():
        yield f"data {name}", _found(source, folder)


def _found(source: Source, folder: Path | None) -> str:
    """Whether a set can be read, by any of its protocols."""
    missing = ""
    for protocol in source.protocols or ("",):
        try:
            data = source(protocol, "test", folder)
        except UserError as error:
            missing = missing or f"no: {error}"
        else:
            where = f" ({data.protocol})" if missing else ""
            return f"yes: {len(data):,} test rows{where}"
    return missing
