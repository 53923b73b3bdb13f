"""Packages that list themselves: a new member is one new file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

__all__ = ["gather"]


def gather(package: str, path: Iterable[str], skip: Iterable[str] = ()) -> dict[str, Any]:
    """Public names (`__all__`) of every module of a package, but private ones and `skip`."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith("_") and module.name not in skip:
            loaded = importlib.import_module(f"{package}.{module.name}")
            found |= {name: getattr(loaded, name) for name in loaded.__all__}
    return found
