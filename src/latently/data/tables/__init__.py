"""Tables: from files and data frames of mixed columns to numbers with a mask, and back.

| module | holds |
|---|---|
| `frame` | `Frame`, a neutral table; `as_frame` takes those of other libraries (`native`) |
| `reading`, `sniffing`, `writing` | files |
| `cells`, `numbers`, `dates` | what the cells of one column are |
| `kinds`, `fits` | the rules that find a column's kind and family |
| `column`, `infer`, `coding` | what one column is, found in its cells; cells to numbers and back |
| `schema`, `document` | all columns of a table; as JSON and as text |
"""

from latently.data.tables.cells import MISSING
from latently.data.tables.column import KINDS, Column
from latently.data.tables.frame import Frame, as_frame
from latently.data.tables.reading import SUFFIXES, read_frame
from latently.data.tables.schema import Encoded, Schema
from latently.data.tables.writing import write_frame

__all__ = [
    "KINDS",
    "MISSING",
    "SUFFIXES",
    "Column",
    "Encoded",
    "Frame",
    "Schema",
    "as_frame",
    "read_frame",
    "write_frame",
]
