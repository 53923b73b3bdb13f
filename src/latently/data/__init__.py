"""Data: from names, files and arrays to rows with a mask, a family and a protocol."""

from latently.data import contexts, masks
from latently.data.base import Binarise, Data, Redraw
from latently.data.catalog import hold_out, load, names, splits
from latently.data.check import check
from latently.data.contexts import Context
from latently.data.labels import with_labels
from latently.data.masks import Mask
from latently.data.schema import check_schema

__all__ = [
    "Binarise",
    "Context",
    "Data",
    "Mask",
    "Redraw",
    "check",
    "check_schema",
    "contexts",
    "hold_out",
    "load",
    "masks",
    "names",
    "splits",
    "with_labels",
]
