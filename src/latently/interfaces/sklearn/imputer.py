"""Missing cells filled in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import TransformerMixin
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted
from torch import Tensor

from latently.data import Data
from latently.data.tables import MISSING
from latently.data.tables.kinds import has_atom
from latently.data.tables.native import put_back
from latently.errors import UserError, closest
from latently.inference import Imputation, impute
from latently.inference.imputation import SWEEPS
from latently.inference.schedules import Schedule
from latently.interfaces.filling import chosen, sought
from latently.interfaces.sklearn.base import is_count, number
from latently.interfaces.sklearn.containers import beside, converted, select
from latently.interfaces.sklearn.tabular import TABLE, Table, _TableEstimator
from latently.models import Model
from latently.training import Objective

__all__ = ["LatentImputer"]

_STRATEGIES = ("mean", "median", "mode", "most_frequent", "draw")


class LatentImputer(TransformerMixin, _TableEstimator):
    r"""Missing cells filled in by a latent variable model of the rows.

        p(x_missing | x_observed) = int p(x_missing | z) p(z | x_observed) dz

    Observed cells come out as they went in, to the last bit, and rows that the fit has not seen
    are filled without another fit. The integral is exact for fa, ppca and mixture, else it is
    taken by `samples` weighted draws of z (sampling importance resampling). Right where cells are
    missing at random: whether a cell is missing may depend on what is observed, not on its value.
    Source: Mattei, Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data
    Sets", 2019.

    Columns of an array are continuous numbers, unless `kinds` says otherwise. To recipe "table"
    zeros that make a twentieth or more of a column of more than 20 different numbers, with nothing
    below them, have a probability of their own, and nothing below 0 is filled in. In a data frame
    nothing is filled in beyond what a column held in the fit, but by a model of what is missing.

    Arrays of numbers come out as arrays (float32 stays, other types become float64), data frames
    as data frames with their columns, index and types, and `set_output` is obeyed.

    Args:
        recipe: name of a recipe with a density that can leave cells out: "table", "vae", "fa",
            "ppca", "mixture" or one of your own. Of these, "table", "vae" and "mixture" hold
            categories.
        strategy: what to fill in.
            "mean": the conditional mean, which has the least squared error.
            "median": the conditional median, which has the least absolute error.
            "mode", "most_frequent": the likeliest value of counted columns (whole numbers and
            names), the median of continuous ones.
            "draw": one draw, which keeps the spread of columns and their dependence. It is the
            same at every call; `sample_imputations` gives many.
            Names have no mean and no median: but for draws, their likeliest is filled in; levels
            of an order, under "mean", by their median.
        add_indicator: append a column for each that had holes in the fit: 1 where a cell is
            missing.
        keep_empty_features: keep columns without any value in the fit, filled with 0; they must
            be columns of numbers. False: they are left out of the result, with a warning.
        missing_values: what means missing besides NaN and None: a number, or a text. In columns
            of text, `schema_` knows the usual words, such as "" and "NA", anyway.
        samples: draws of z per row, of which the missing cells are told.
        sweeps: how often these draws are moved at most, in rows where few of them count.
        latents, kinds, likelihood, net, options, objective, epochs, batch_size, learning_rate,
            patience, random_state, device, verbose: as of `LatentDensity`.

    Attributes:
        model_, schema_, history_, n_iter_, seed_, n_features_in_, feature_names_in_: as of
            `LatentDensity`.

    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> holed = X.copy()
    >>> holed[::3, 2] = np.nan
    >>> filled = LatentImputer("fa", latents=2).fit_transform(holed)
    >>> error = np.sqrt(np.mean((filled - X)[::3, 2] ** 2))  # that of the column's mean is 1.7
    >>> round(float(error), 1)
    0.4
    """

    def __init__(
        self,
        recipe: str = TABLE,
        latents: int | Sequence[int] | None = None,
        *,
        strategy: str = "mean",
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        missing_values: Any = np.nan,
        kinds: Mapping[str | int, str] | None = None,
        likelihood: Callable[..., Any] | None = None,
        net: Callable[..., Any] | None = None,
        options: Mapping[str, Any] | None = None,
        objective: Objective | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | Schedule | None = None,
        patience: int | None = None,
        samples: int = 1000,
        sweeps: int = SWEEPS,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
        verbose: int = 0,
    ) -> None:
        super().__init__(
            recipe,
            latents,
            kinds=kinds,
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
        self.strategy = strategy
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.missing_values = missing_values
        self.sweeps = sweeps

    def fit(self, X: ArrayLike, y: object = None) -> LatentImputer:
        """Builds the recipe's model for X, (n, columns), and fits it to what is observed.

        Args:
            X: at least two rows, an array or a data frame; NaN, None and `missing_values` are
                missing cells.
            y: ignored.

        Returns:
            The imputer itself.

        Raises:
            UserError: options that are none, build no model, or have no effect on it; a model
                that cannot leave cells out; a column that the recipe cannot hold.
            ValueError: what scikit-learn refuses.
        """
        self._fit(X)
        return self

    def transform(self, X: ArrayLike) -> Any:
        """X, (n, columns), with its missing cells filled in as `strategy` says.

        Columns that name their rows (kind "identifier") have nothing to tell a missing name by:
        these cells stay as they are, with a warning.

        Raises:
            UserError: a value that its column cannot have.
            NotFittedError, ValueError: what scikit-learn refuses.
        """
        table, data = self._opened(X)
        return self._shaped(table, self._finished(table, self._chosen(data)))

    def sample_imputations(self, X: ArrayLike, draws: int = 10) -> Any:
        """Draws of the missing cells, for multiple imputation; `strategy` plays no part.

        Rows are drawn independently, equal ones too: each has draws of its own.

        Args:
            X: rows, an array or a data frame.
            draws: how many.

        Returns:
            (draws, n, columns) of an array, else a list of data frames.

        Raises:
            UserError: draws is no whole number of at least 1; a value that its column cannot have.
            NotFittedError, ValueError: what scikit-learn refuses.
        """
        if not is_count(draws):
            raise UserError(f"draws={draws!r} must be a whole number of at least 1")
        table, data = self._opened(X)
        filled = [self._finished(table, x) for x in self._drawn(data, number(draws))]
        filled = [select(one, self._kept) for one in filled]
        return filled if table.array is None else np.stack(filled)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> np.ndarray:
        """Names of the columns of `transform`; indicators are called missingindicator_NAME."""
        check_is_fitted(self)
        names = np.asarray(_check_feature_names_in(self, input_features), dtype=object)
        added = [f"missingindicator_{names[j]}" for j in self._indicated]
        return np.concatenate([names[self._kept], np.array(added, dtype=object)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_options(self) -> None:
        super()._check_options()
        if self.strategy not in _STRATEGIES:
            raise UserError(
                f"strategy={self.strategy!r}: {closest(str(self.strategy), _STRATEGIES)}"
            )
        sign = self.missing_values
        if np.ndim(sign) or isinstance(sign, Mapping | set):
            raise UserError(f"missing_values={sign!r} must be one value")
        for name in ("add_indicator", "keep_empty_features"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise UserError(f"{name}={getattr(self, name)!r} must be True or False")
        sweeps = number(self.sweeps)
        if sweeps != 0 and not is_count(sweeps):
            raise UserError(f"sweeps={sweeps!r} must be a whole number of at least 0")

    def _check_holes(self, data: Data, model: Model) -> None:
        """Refuses models that know no conditional distribution of cells."""
        if model.density is None or not model.holes:
            why = "has no density" if model.density is None else "cannot leave cells out"
            raise UserError(
                f"recipe={self.recipe!r} {why}, so it imputes nothing; choose table, vae, fa, "
                "ppca or mixture"
            )

    def _missing(self) -> tuple[str, ...]:
        sign = self.missing_values
        return MISSING if _is_null(sign) else (*MISSING, str(sign))

    def _unsigned(self, array: np.ndarray) -> np.ndarray:
        if _is_null(self.missing_values):
            return array
        return np.where(array == self.missing_values, np.array(np.nan, array.dtype), array)

    # ---- Rows

    def _kind_of(self, column: np.ndarray) -> str:
        """Positive where many cells are 0 and none is below: then nothing below 0 is filled in."""
        atom = self._of_columns() and has_atom(column[~np.isnan(column)])
        return "positive" if atom else "real"

    def _data(self, X: ArrayLike, *, reset: bool) -> Data:
        table = self._table(X, reset=reset)
        if reset:
            self._look(table)
        return self._encoded(table)

    def _look(self, table: Table) -> None:
        """Finds the columns without a value and those with holes."""
        holes = table.holes
        empty: np.ndarray = np.all(holes, axis=0)
        for j in empty.nonzero()[0]:
            name = table.frame.names[j]
            if not self.keep_empty_features:
                warnings.warn(
                    f"{type(self).__name__}: column {name!r} has no value in the fit and is left "
                    "out of the result; keep_empty_features=True fills it with 0",
                    stacklevel=5,
                )
            elif table.frame.columns[j].dtype.kind not in "iuf":
                raise UserError(
                    f"X: column {name!r} has no value, and is no column of numbers to fill with "
                    "0; leave it out, or set keep_empty_features=False"
                )
        self._empty = empty
        self._kept = np.flatnonzero(~empty | self.keep_empty_features).tolist()
        self._indicated = np.flatnonzero(holes.any(0) & self.add_indicator).tolist()

    def _opened(self, X: ArrayLike) -> tuple[Table, Data]:
        """X as it came, and as the model reads it."""
        check_is_fitted(self)
        table = self._table(X, reset=False)
        data = self._encoded(table)
        self.model_.check(data.x, data.mask, data.protocol)
        for note in self.schema_.unfilled(table.frame, ("identifier",)):  # empty ones are dropped
            warnings.warn(f"{type(self).__name__}: {note}", stacklevel=3)
        return table, data

    # ---- What is filled in

    def _chosen(self, data: Data) -> Tensor:
        """One value for every cell, (n, modelled columns)."""
        if self.strategy == "draw":
            return self._drawn(data, 1)[0]
        fill = "mode" if self.strategy == "most_frequent" else self.strategy
        cells = sought(self.schema_, fill)
        return chosen(self._impute(data, 0, (0.5,), cells), self.schema_, fill)

    def _impute(
        self,
        data: Data,
        draws: int,
        quantiles: tuple[float, ...] = (),
        cells: Tensor | None = None,
    ) -> Imputation:
        """In the type of the training: blocks of rows are as alike in it, and networks faster."""
        model = self._as_trained()
        return impute(
            model,
            data.to(dtype=model.dtype),
            draws=draws,
            samples=number(self.samples),
            sweeps=number(self.sweeps),
            quantiles=quantiles,
            cells=cells,
            seed=self.seed_,
        )

    def _drawn(self, data: Data, draws: int) -> Tensor:
        """Draws (draws, n, modelled columns); equal rows have draws of their own."""
        found = self._impute(data, draws)
        for note in found.warnings:
            plain = note.replace("--", "")
            warnings.warn(f"{type(self).__name__}: {plain}", stacklevel=4)
        return found.draws.to(data.x.dtype)

    def _finished(self, table: Table, x: Tensor) -> Any:
        """X with the values of x where it has holes."""
        rows, holes = x.double().numpy(), table.holes
        if table.array is not None:
            decoded = np.column_stack(self._outwards.decode(rows).columns).astype(np.float64)
            decoded[:, self._empty] = 0
            kept: np.ndarray = table.array
            filled: Any = np.where(holes, decoded, kept).astype(kept.dtype)
            return filled
        modelled = [column.modelled for column in self.schema_.columns]
        found = self._outwards.decode(rows, like=table.frame, kept=~holes[:, modelled])
        empty = [j for j in self._kept if self._empty[j]]
        zeros = {j: np.zeros(len(rows)) for j in empty}
        there = {j: ~holes[:, j] for j in empty}
        return put_back(found.native, zeros, there, len(rows)) if empty else found.native

    def _shaped(self, table: Table, filled: Any) -> Any:
        """The columns that stay, with the indicators, in the container that is asked for."""
        wanted = _get_output_config("transform", self)["dense"]
        if table.array is None and wanted in ("pandas", "polars"):
            filled = converted(filled, wanted)
        if len(self._kept) < len(self._empty):
            filled = select(filled, self._kept)
        if not len(self._indicated):
            return filled
        names = self.get_feature_names_out()[len(self._kept) :]
        holes = table.holes[:, self._indicated]
        return beside(filled, dict(zip(names.tolist(), holes.T, strict=True)))


def _is_null(sign: Any) -> bool:
    """Whether a sign for missing cells is one of those that always are."""
    return sign is None or type(sign).__name__ == "NAType" or bool(sign != sign)
