"""Strange rows, by their density."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import OutlierMixin

from latently import expr
from latently.data import Data
from latently.data.tables import Column, Frame, Schema
from latently.errors import UserError
from latently.inference import attribution
from latently.inference.schedules import Schedule
from latently.interfaces.sklearn.base import NUMBERS, in_blocks, number
from latently.interfaces.sklearn.tabular import _TableEstimator
from latently.models import Model
from latently.models.components import Columns, Diagonal, Full
from latently.models.components.base import Component
from latently.registry import components
from latently.training import Fit, Objective
from latently.training import fit as fit_model

__all__ = ["LatentOutlierDetector"]

_RECIPE = "mixture"
_ROWS, _MOST = 20, 60  # rows of a component, and the most components
_SHARE = 0.03  # of the columns' variances: how wide a component is of which there are no rows
_PASSES, _GAIN = 20, 1e-3  # of EM, and nats below which a pass is the last
_NUMBERS = 2**22  # in the covariances of all components
_WORK = 2**32  # multiplications of a pass, about a second
_FACTOR = 8  # what a factorisation costs beside as many multiplications of a product


class LatentOutlierDetector(OutlierMixin, _TableEstimator):
    r"""Outliers: rows of low density `log p(x)`.

    By default the density is a mixture of K full normals for n rows of D columns, fitted by EM
    from one start in at most 20 passes,

        K = round(n / 20), from 1 to 60,    Sigma_k = (n_k S_k + rho T) / (n_k + rho),
        rho = D / 2,    T = 0.03 diag(v),

    S_k being the covariance of the n_k rows of a component and v the variances of the columns:
    `Full(prior=D / 2, share=0.03)`. So many narrow components follow the rows wherever they lie,
    as nearest neighbours do, and weigh directions as covariances do. Where a pass of EM would take
    long, in tables of very many columns, and of some thirty where many rows lack unlike cells,
    components are `Diagonal(prior=1)`. Source of the prior: Fraley, Raftery, "Bayesian
    Regularization for Normal Mixture Estimation and Model-Based Clustering", 2007.

    All numbers are continuous, unless `kinds` says otherwise, those of data frames, too; so are
    dates, and truth values beside numbers alone. Where a table has names, components are
    `Columns`, independent ones of a family each.

    Two conventions are in use, and both are here:

    | scikit-learn | | PyOD | |
    |---|---|---|---|
    | `score_samples(X)` | log p(x), higher is normal | `anomaly_score(X)` | -log p(x), higher is stranger |
    | `decision_function(X)` | `score_samples(X) - offset_`, below 0 is strange | `decision_scores_` | `anomaly_score` of the rows of the fit |
    | `predict(X)` | +1 normal, -1 strange | `labels_` | of the rows of the fit: 0 normal, 1 strange |
    | `offset_` | | `threshold_` | `-offset_` |

    A row with holes is judged by what is observed, `log p(x_observed)`, which is a sum over fewer
    cells and so mostly higher: compare rows with about equally many holes.

    Args:
        recipe: name of a recipe: "mixture", "table", "vae", "fa", "ppca", "flow", or "ae", which
            has no density: its score is minus the squared error of the reconstruction. Of a
            mixture, what neither `latents` (its components) nor `options` say is as above.
        contamination: share of the rows of the fit that are called strange, above 0 and at most
            0.5; it moves the threshold alone, not the order of rows.
        latents, kinds, likelihood, net, options, objective, epochs, batch_size, learning_rate,
            patience, samples, random_state, device, verbose: as of `LatentDensity`.

    Attributes:
        offset_: the `contamination` quantile of `score_samples` of the rows of the fit, nats.
        threshold_: `-offset_`.
        decision_scores_: `anomaly_score` of the rows of the fit, (n,).
        labels_: 1 where `decision_scores_` is above `threshold_`, else 0, (n,).
        model_, schema_, history_, n_iter_, seed_, n_features_in_, feature_names_in_: as of
            `LatentDensity`.

    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> detector = LatentOutlierDetector("fa", latents=2, contamination=0.02).fit(X)
    >>> detector.labels_.sum(), detector.predict([[5.0, 3.5, 9.0, 0.2]])
    (np.int64(3), array([-1]))
    """  # noqa: E501  (a table)

    def __init__(
        self,
        recipe: str = _RECIPE,
        latents: int | Sequence[int] | None = None,
        *,
        contamination: float = 0.1,
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
        self.contamination = contamination

    def fit(self, X: ArrayLike, y: object = None) -> LatentOutlierDetector:
        """Builds the recipe's model for X, (n, columns), fits it, and sets the threshold.

        Args:
            X: at least two rows, an array or a data frame; NaN and None are missing cells.
            y: ignored.

        Returns:
            The detector itself.

        Raises:
            UserError: options that are none, build no model, or have no effect on it; a column
                that the recipe cannot hold.
            ValueError: what scikit-learn refuses; NaN, if the model cannot leave cells out.
        """
        data = self._fit(X)
        self.decision_scores_ = -self._scores(data)
        share = 1 - number(self.contamination)
        self.threshold_ = float(np.quantile(self.decision_scores_, share))
        self.offset_ = -self.threshold_
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """`score_samples(X) - offset_`, (n,), in nats: below 0 is strange."""
        scores: np.ndarray = self.score_samples(X) - self.offset_
        return scores

    def predict(self, X: ArrayLike) -> np.ndarray:
        """-1 for strange rows, +1 for others, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def anomaly_score(self, X: ArrayLike) -> np.ndarray:
        """-log p(x), (n,), in nats: higher is stranger."""
        return -self.score_samples(X)

    def attribute(self, X: ArrayLike) -> np.ndarray:
        """How strange each cell is given the others of its row, (n, columns), in nats.

            -log p(x_j | x_others) = log p(x_others) - log p(x)

        0 where a cell is missing and in columns that take no part; NaN where the others have no
        finite density, for one of them is too far out. Of a model without a density,
        such as an autoencoder: what each cell adds to the error of the reconstruction.

        Raises:
            UserError: a model with a density that cannot leave cells out.
            NotFittedError, ValueError: what scikit-learn refuses.
        """
        data = self._rows(X)
        found = np.zeros((len(data), self.n_features_in_))
        places = [j for j, column in enumerate(self.schema_.columns) if column.modelled]
        if self.model_.density is None:
            shares = self.model_.contributions
            found[:, places] = self._apart(data, lambda x, mask: in_blocks(shares, x, mask))
            return found
        if not self.model_.holes:
            raise UserError(
                f"recipe={self.recipe!r} cannot leave cells out, so it knows no cell given the "
                "others; choose table, vae, fa, ppca or mixture"
            )
        told = attribution(
            self.model_, data, samples=number(self.samples), draws=1, seed=self.seed_
        )
        found[:, places] = told.values.numpy()
        return found

    def _schema(self, frame: Frame, *, numbers: bool) -> Schema:
        """What the columns are; to a mixture all numbers are continuous, as those of an array.

        Covariances then tell how they hang together, and no number is refused, such as a count
        below 0. Truth values are 0 and 1 where all others are numbers.
        """
        found = super()._schema(frame, numbers=numbers)
        if numbers or not self._reads_all():
            return found
        given = self._given_kinds(frame)
        places = [
            j
            for j, column in enumerate(found.columns)
            if column.modelled or (column.kind == "identifier" and column.name not in given)
        ]
        taken = [j for j in places if _is_number(found.columns[j], frame.columns[j])]
        others = [found.columns[j] for j in places if j not in taken and found.columns[j].modelled]
        if all(column.kind == "datetime" or _is_flag(column) for column in others):
            taken += [j for j in places if _is_flag(found.columns[j])]
        kinds = {frame.names[j]: "real" for j in taken}
        return Schema.infer(frame, missing=self._missing(), kinds=kinds | given)

    def _reads_all(self) -> bool:
        """Whether components follow the columns: those of a mixture that the user left open."""
        return self.recipe == _RECIPE and "family" not in (self.options or {})

    def _family(self) -> str:
        """Of the rows; a mixture whose components are not named reads every kind of column."""
        if not self._reads_all():
            return super()._family()
        family = self.schema_.family
        plain = all(column.kind in ("real", "datetime") for column in self.schema_.modelled)
        return NUMBERS if plain else family

    def _arguments(self, data: Data) -> dict[str, Any]:
        found = super()._arguments(data)
        return found if self.recipe != _RECIPE else {**_usual(data), **found}

    def _fitted(self, model: Model, data: Data) -> Fit:
        """Fits a model; a mixture by few passes, whose end and size were not the user's choice."""
        if self.recipe != _RECIPE or self.patience is not None:
            return super()._fitted(model, data)
        found = fit_model(
            model,
            data,
            self.objective,
            steps=_PASSES,
            tolerance=_GAIN,
            seed=self.seed_,
            progress=bool(self.verbose),
        )
        self._keep(model)
        idle = {} if self._names_components() else set(model.complaints())
        kept = (n for n in found.warnings if n not in idle and not n.startswith("stopped after"))
        return replace(found, warnings=tuple(kept))

    def _names_components(self) -> bool:
        """Whether the mixture is the user's, who should hear what is wrong with it."""
        return self.latents is not None or bool({"components", "family"} & set(self.options or {}))

    def _check_options(self) -> None:
        super()._check_options()
        share = number(self.contamination)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 0.5:
            raise UserError(
                f"contamination={share!r} must be a number above 0 and at most 0.5: the share of "
                "rows to call strange"
            )


def _is_number(column: Column, cells: np.ndarray) -> bool:
    """Whether a column holds numbers, which may have been taken for levels."""
    return column.kind in ("real", "positive", "count") or cells.dtype.kind in "iuf"


def _is_flag(column: Column) -> bool:
    """Whether a column holds truth values."""
    return column.kind == "binary" and all(isinstance(c, bool) for c in column.categories)


def _usual(data: Data) -> dict[str, Any]:
    """Arguments of the mixture for rows (n, D).

    Where covariances of all components are too dear they have none: to be many is worth more.
    """
    n, size = len(data), data.shape[0]
    count = min(max(round(n / _ROWS), 1), _MOST)
    family: Component = Full(prior=size / 2, share=_SHARE)
    if data.family != NUMBERS:
        family = Columns(expr.build(data.family, components()).keywords["columns"])
    elif count * size**2 > _NUMBERS or count * _work(data) > _WORK:
        family = Diagonal(prior=1.0)
    return {"components": count, "family": family, "restarts": 1}


def _work(data: Data) -> int:
    """About how many multiplications a pass makes for a component of full covariance."""
    n, size = len(data), data.shape[0]
    patterns = 0 if data.mask is None else len(torch.unique(data.mask, dim=0))
    return n * size**2 + _FACTOR * patterns * size**3
