"""Data: from names, files and arrays to rows with a mask, a family and a protocol."""

from latently.data.base import Binarise, Data, Redraw, check_schema
from latently.data.catalog import hold_out, load, names, splits
from latently.data.check import check

__all__ = [
    "Binarise",
    "Data",
    "Redraw",
    "check",
    "check_schema",
    "hold_out",
    "load",
    "names",
    "splits",
]
