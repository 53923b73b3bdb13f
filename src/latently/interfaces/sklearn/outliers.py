"""Strange rows, by their density."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import OutlierMixin

from latently.errors import UserError
from latently.inference.schedules import Schedule
from latently.interfaces.sklearn.base import in_blocks, number
from latently.interfaces.sklearn.tabular import TABLE, _TableEstimator
from latently.training import Objective

__all__ = ["LatentOutlierDetector"]

_RECIPE = TABLE


class LatentOutlierDetector(OutlierMixin, _TableEstimator):
    r"""Outliers: rows of low density `log p(x)`.

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
        recipe: name of a recipe: "table", "vae", "fa", "ppca", "mixture", "flow", or "ae", which
            has no density: its score is minus the squared error of the reconstruction.
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

        0 where a cell is missing and in columns that take no part. Of a model without a density,
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
        whole = self._scores(data)
        mask = torch.ones_like(data.x, dtype=torch.bool) if data.mask is None else data.mask
        for k, place in enumerate(places):
            others = mask.clone()
            others[:, k] = False
            lacking = replace(data, x=data.x.masked_fill(~others, 0), mask=others)
            found[:, place] = np.where(mask[:, k], self._scores(lacking) - whole, 0.0)
        return found

    def _check_options(self) -> None:
        super()._check_options()
        share = number(self.contamination)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 0.5:
            raise UserError(
                f"contamination={share!r} must be a number above 0 and at most 0.5: the share of "
                "rows to call strange"
            )
