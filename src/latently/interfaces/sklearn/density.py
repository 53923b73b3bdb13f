"""log p(x) as an estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

from latently.interfaces.sklearn.tabular import _TableEstimator

__all__ = ["LatentDensity"]


class LatentDensity(_TableEstimator):
    r"""Density of rows: `log p(x)` of tables of numbers, names and dates, with or without holes.

        score_samples(x) = log p(x_observed) = log int p(z) prod_{j observed} p(x_j | z) dz

    in nats and data units: the sum of log-densities of continuous columns and log-probabilities
    of counted ones (`schema_` says which). Exact for fa, ppca, mixture and flow, else the
    importance weighted bound of `samples` draws.

    Every column of a plain array is a continuous number, unless `kinds` says otherwise. Of data
    frames, whole numbers are counts, text is a category, and so on, as `schema_` says; columns
    that are constant or name their rows take no part.

    Args:
        recipe: name of a recipe with a density: "table", "vae", "fa", "ppca", "mixture", "flow" or
            one of your own. Of these, "table", "vae" and "mixture" hold categories.
        latents: latents, or components of a mixture; default: the recipe's own, of fa and ppca at
            most half the columns.
        kinds: of columns, by name or number, where they are not what the data look like: "real",
            "positive", "count", "binary", "categorical", "ordinal", "datetime".
        likelihood: family of all columns p(x|z) in place of those of `schema_`.
        net: network of encoder and decoder.
        options: further arguments of the recipe.
        objective: what is maximised; default: the model's own.
        epochs: passes over the rows; default of this and the next two: the recipe's own.
        batch_size: rows per step.
        learning_rate: of Adam, a number or a schedule.
        patience: hold a tenth of the rows out, stop after so many epochs without a better bound
            on them, and keep the best epoch; None: all rows and all epochs.
        samples: draws per row of the bound.
        random_state: of weights, batches and draws; None: another fit every time.
        device: "cpu" or "cuda", where training by gradient runs; the fitted model is on the CPU.
        verbose: above 0: show the progress of the fit.

    Attributes:
        model_: the fitted model.
        schema_: kind, family and values of every column.
        history_: one dict per epoch, or per pass of EM; nats.
        n_iter_: how many these are.
        seed_: what `random_state` drew.
        n_features_in_: columns of X.
        feature_names_in_: their names, where X has names of text.

    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> density = LatentDensity("fa", latents=2).fit(X)
    >>> density.score(X)  # exact, in nats per row
    -2.59
    >>> density.sample(3).shape
    (3, 4)
    """

    def sample(self, n: int = 1, random_state: int | np.random.RandomState | None = None) -> Any:
        """n rows drawn from p(x), of the kind of container that X was.

        Args:
            n: number of rows.
            random_state: of the draws; None: that of the fit, the same rows at every call.

        Raises:
            UserError: n is no whole number of at least 1.
        """
        return self._sample(n, None, random_state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        return tags
