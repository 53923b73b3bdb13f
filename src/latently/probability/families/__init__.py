"""Families: observation models and posteriors, one file each, gathered by `__all__`."""

import importlib
import pkgutil

from latently.probability.families.base import Family

__all__ = ["Family"]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_") and _module.name != "base":
        _loaded = importlib.import_module(f"{__name__}.{_module.name}")
        globals().update({_name: getattr(_loaded, _name) for _name in _loaded.__all__})
        __all__ += _loaded.__all__
