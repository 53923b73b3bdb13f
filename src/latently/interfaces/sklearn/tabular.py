"""Estimators of tables: columns of many kinds, with or without holes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from latently import expr
from latently.data import Data
from latently.data.tables import MISSING, Frame, Schema
from latently.data.tables.cells import cells, is_null
from latently.errors import UserError, closest
from latently.inference import draw_given
from latently.inference.schedules import Schedule
from latently.interfaces.sklearn.base import NUMBERS, _Estimator, is_count, number
from latently.interfaces.sklearn.containers import as_table, named
from latently.models.components import Columns
from latently.probability.families import Mixed
from latently.recipes import RECIPES
from latently.registry import components
from latently.training import Objective

__all__ = ["TABLE", "Table"]

TABLE = "table"  # the recipe of estimators of tables
_PARTICLES = 1000  # draws of z at least, of which rows with given cells are chosen


@dataclass(frozen=True)
class Table:
    """X as it came and as it is read.

    Attributes:
        frame: its columns, called as in the fit.
        array: X where it is an array of numbers, float32 or float64 with NaN where missing; None
            of all else.
        missing: texts that mean missing.
    """

    frame: Frame
    array: np.ndarray | None
    missing: tuple[str, ...] = MISSING

    @cached_property
    def holes(self) -> np.ndarray:
        """True where a cell is missing, (n, columns), in columns that take no part, too."""
        if self.array is not None:
            return np.isnan(self.array)
        places = range(len(self.frame.names))
        return ~np.column_stack([cells(self.frame, j, self.missing).present for j in places])


class _TableEstimator(_Estimator):
    """What estimators of tables share; parameters as of `LatentDensity`."""

    schema_: Schema
    _names: tuple[str, ...]  # of the columns of the fit
    _like: Frame  # none of its rows

    def __init__(
        self,
        recipe: str = TABLE,
        latents: int | Sequence[int] | None = None,
        *,
        kinds: Mapping[str | int, str] | None = None,
        likelihood: Callable[..., Any] | None = None,
        net: Callable[..., Any] | None = None,
        options: Mapping[str, Any] | None = None,
        objective: Objective | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | Schedule | None = None,
        patience: int | None = None,
        samples: int = 100,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
        verbose: int = 0,
    ) -> None:
        super().__init__(
            recipe,
            latents,
            likelihood=likelihood,
            net=net,
            options=options,
            objective=objective,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            samples=samples,
            random_state=random_state,
            device=device,
            verbose=verbose,
        )
        self.kinds = kinds

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Builds the recipe's model for X, (n, columns), and fits it.

        Args:
            X: at least two rows, an array or a data frame; NaN and None are missing cells.
            y: ignored.

        Returns:
            The estimator itself.

        Raises:
            UserError: options that are none, build no model, or have no effect on it; a column
                that the recipe cannot hold.
            ValueError: what scikit-learn refuses; NaN, if the model cannot leave cells out.
        """
        self._fit(X)
        return self

    def _check_options(self) -> None:
        super()._check_options()
        if not isinstance(self.kinds, Mapping | None):
            raise UserError(f"kinds={self.kinds!r} must be a dict of columns and their kinds")

    def _told(self, note: str) -> str:
        return self.schema_.told(note)

    # ---- Rows in

    def _data(self, X: ArrayLike, *, reset: bool) -> Data:
        return self._encoded(self._table(X, reset=reset))

    def _table(self, X: Any, *, reset: bool) -> Table:
        """X as scikit-learn checks it; with `reset` it says what the columns are."""
        least = 2 if reset else 1
        held, array = as_table(X), None
        names = None if reset else self._names
        if held is None:
            array = validate_data(
                self,
                X,
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite="allow-nan",
                ensure_min_samples=least,
            )
            array = self._unsigned(array)
            self._check_texts(reset)
            frame = named(array, names)
        else:
            frame = named(held, None)
            validate_data(self, held, reset=reset, skip_check_array=True)
            if len(frame) < least:
                raise UserError(
                    f"X: found {len(frame)} row, and {type(self).__name__} needs {least} at least"
                )
            frame = named(held, names)
        if reset:
            self.schema_ = self._schema(frame, numbers=array is not None)
            given = self._given_kinds(frame)
            for column in self.schema_.columns:
                if column.kind == "identifier" and column.name not in given:
                    known = "are no numbers" not in column.note
                    end = "kinds says otherwise" if known else "make them texts or numbers"
                    note = f"column {column.name!r}: {column.note}; {end}"
                    warnings.warn(f"{type(self).__name__}: {note}", stacklevel=5)
            self._names = frame.names
            self._like = frame.take(slice(0, 0))
        return Table(frame, array, self._missing())

    def _check_texts(self, reset: bool) -> None:
        """Refuses an array of numbers where the fit had a table with texts."""
        for column in () if reset else self.schema_.columns:
            if any(isinstance(value, str) for value in column.categories):
                raise UserError(
                    f"X is an array of numbers, and column {column.name!r} held texts such as "
                    f"{column.categories[0]!r} in the fit; give a table of the same columns"
                )

    def _unsigned(self, array: np.ndarray) -> np.ndarray:
        """An array of numbers, NaN where missing; imputers know other signs."""
        return array

    def _missing(self) -> tuple[str, ...]:
        """Texts that mean missing."""
        return MISSING

    def _schema(self, frame: Frame, *, numbers: bool) -> Schema:
        """What the columns are: of an array, continuous numbers all."""
        given = self._given_kinds(frame)
        if not numbers:
            return Schema.infer(frame, missing=self._missing(), kinds=given)
        taken = {
            name: self._kind_of(column)
            for name, column in zip(frame.names, frame.columns, strict=True)
            if _varies(column)
        }
        schema = Schema.infer(frame, kinds=taken | given)
        free = [
            replace(column, decimals=None, low=None, high=None)
            if column.kind in ("real", "positive") and column.name not in given
            else column
            for column in schema.columns
        ]
        return replace(schema, columns=tuple(free))

    def _kind_of(self, column: np.ndarray) -> str:
        """What a column of an array is taken for: a density in data units compares with others."""
        return "real"

    def _of_columns(self) -> bool:
        """Whether the recipe has a likelihood for every column."""
        taken = inspect.signature(RECIPES[self.recipe]).parameters
        return "likelihood" in taken and taken["likelihood"].default is Mixed

    def _given_kinds(self, frame: Frame) -> dict[str, str]:
        return {self._name(key, frame.names, "kinds"): k for key, k in (self.kinds or {}).items()}

    def _name(self, key: str | int, names: Sequence[str], where: str) -> str:
        """The column that a user means by its name or its number; names of digits go first.

        Raises:
            UserError: there is none.
        """
        place = number(key)
        stripped = str(place).strip()
        if stripped in names and not isinstance(place, bool):
            return stripped
        if isinstance(place, int) and not isinstance(place, bool):
            if not 0 <= place < len(names):
                raise UserError(f"{where}: column {place}, but X has {len(names)} columns, from 0")
            return names[place]
        raise UserError(f"{where}: no column {key!r}; {closest(str(key), names)}")

    def _encoded(self, table: Table) -> Data:
        """Rows as models read them."""
        family = self._family()
        x, mask, _, notices = self.schema_.encode(table.frame)
        for note in notices:
            warnings.warn(f"{type(self).__name__}: {note}", stacklevel=5)
        seen = None if mask.all() else torch.from_numpy(mask)
        return Data(torch.from_numpy(x), family, "X", mask=seen)

    def _family(self) -> str:
        """Of the rows: plain numbers, unless recipe or kinds want a family for each column."""
        taken = inspect.signature(RECIPES[self.recipe]).parameters
        family = self.schema_.family  # refuses tables of which no column can be modelled
        names = self._of_names()
        if names and not {"likelihood", "family"} & taken.keys():
            raise UserError(
                f"recipe={self.recipe!r} takes numbers alone, and column {names[0]!r} is "
                "categorical; choose recipe='table' or 'mixture', or encode it first"
            )
        plain = all(column.kind == "real" for column in self.schema_.modelled)
        return NUMBERS if plain and not self._of_columns() else family

    def _of_names(self) -> list[str]:
        """The columns whose values are names, without an order."""
        return [column.name for column in self.schema_.modelled if column.kind == "categorical"]

    def _arguments(self, data: Data) -> dict[str, Any]:
        """Of the recipe; components of a table with names are independent columns (`Columns`)."""
        found = super()._arguments(data)
        if not hasattr(self, "schema_") or not self._of_names() or "likelihood" in found:
            return found
        own = expr.build(data.family, components()).keywords["columns"]
        family = found.setdefault("family", Columns(own))
        if family is not Columns and not isinstance(family, Columns):
            raise UserError(
                f"options: family={expr.show(family)} takes numbers alone, and column "
                f"{self._of_names()[0]!r} is categorical; leave it out, for Columns"
            )
        return found

    # ---- Rows out

    @property
    def _outwards(self) -> Schema:
        """By which numbers become cells: what nobody saw may lie beyond all that was seen."""
        return self.schema_ if self.model_.evidence_of == "x" else self.schema_.unbounded()

    def _sample(
        self,
        n: int,
        given: Mapping[str | int, Any] | None,
        random_state: int | np.random.RandomState | None,
    ) -> Any:
        """Rows like those of the fit, in the same kind of container."""
        check_is_fitted(self)
        if not is_count(n):
            raise UserError(f"n={n!r} must be a whole number of at least 1: the rows to draw")
        if not isinstance(given, Mapping | None):
            raise UserError(f"given={given!r} must be a dict of columns and their values")
        seed = self.seed_
        if random_state is not None:
            seed = int(check_random_state(random_state).randint(2**31 - 1))
        if not given:
            return self._as_came(self.model_.sample(number(n), seed=seed))
        row = self._row(given)
        x = self._conditioned(number(n), given, row, seed)
        return self._as_came(x, row)

    def _as_came(self, x: Tensor, held: Frame | None = None) -> Any:
        """Rows in the container of the fit, the cells of a row that are held as they stand."""
        rows, schema = x.double().numpy(), self._outwards
        if held is not None:
            rows, schema = schema.holding(held, rows)
        if self._like.native is None:
            return np.column_stack(schema.decode(rows).columns).astype(np.float64)
        return schema.decode(rows, like=self._like).native

    def _conditioned(
        self, n: int, given: Mapping[str | int, Any], row: Frame, seed: int
    ) -> Tensor:
        """Rows (n, columns) drawn given the values of some columns."""
        if not self.model_.holes or self.model_.density is None:
            raise UserError(
                f"recipe={self.recipe!r} cannot leave cells out, so it draws none given others; "
                "choose table, vae, fa, ppca or mixture"
            )
        data = self._encoded(Table(row, None))
        self._check_given(data, given)
        mask = torch.ones_like(data.x, dtype=torch.bool) if data.mask is None else data.mask
        particles = max(number(self.samples), _PARTICLES)
        found = draw_given(self.model_, data.x[0], mask[0], n, samples=particles, seed=seed)
        for note in found.warnings:
            warnings.warn(f"{type(self).__name__}: {note.replace('--', '')}", stacklevel=4)
        return found.draws

    def _check_given(self, data: Data, given: Mapping[str | int, Any]) -> None:
        """Refuses values that their columns cannot have."""
        seen = data.x.new_ones(data.x.shape, dtype=torch.bool) if data.mask is None else data.mask
        for key, value in given.items():
            name = self._name(key, self._names, "given")
            column = self.schema_.modelled[self.schema_.names.index(name)]
            if not bool(seen[0, self.schema_.names.index(name)]):
                known = closest(str(value), map(str, column.categories))
                raise UserError(f"given: column {name!r} has no value {value!r}; {known}")
        self.model_.check(data.x, data.mask, "given")

    def _row(self, given: Mapping[str | int, Any]) -> Frame:
        """One row with the given cells alone.

        Raises:
            UserError: a column that is none or takes no part, or no value.
        """
        cells: dict[str, Any] = dict.fromkeys(self._names)
        for key, value in given.items():
            name = self._name(key, self._names, "given")
            column = self.schema_.columns[self._names.index(name)]
            if name not in self.schema_.names:
                raise UserError(
                    f"given: column {name!r} takes no part in the model ({column.kind}); leave it "
                    "out"
                )
            if is_null(value):
                raise UserError(f"given: column {name!r} has no value, {value!r}; leave it out")
            if isinstance(value, Mapping) or np.ndim(value):
                kind = type(value).__name__
                raise UserError(f"given: column {name!r} is one {kind}; give one value")
            cells[name] = number(value)
        frame = Frame(tuple(cells), tuple(np.array([v], dtype=object) for v in cells.values()))
        return replace(frame, source="given")


def _varies(column: np.ndarray) -> bool:
    """Whether a column of numbers holds two that differ."""
    seen = column[~np.isnan(column)]
    return bool(len(seen)) and bool((seen != seen[0]).any())
