"""Rows like those of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from latently.interfaces.sklearn.tabular import _TableEstimator

__all__ = ["LatentSampler"]


class LatentSampler(_TableEstimator):
    r"""Synthetic rows of a table, free or with some of their cells given.

        z ~ p(z),  x ~ p(x | z),        or        x ~ p(x_missing | x_given)

    where the condition is drawn by sampling importance resampling of `samples` draws of z, exactly
    for fa, ppca and mixture. Rows come in the kind of container that X was, with its columns and
    types.

    A sample is no anonymous table: categories, bounds and rare combinations of the rows it was
    fitted to may show in it.

    Args:
        samples: draws of z per row of what `score_samples` reports, and for the condition on given
            cells.
        recipe, latents, kinds, likelihood, net, options, objective, epochs, batch_size,
            learning_rate, patience, random_state, device, verbose: as of `LatentDensity`.

    Attributes:
        model_, schema_, history_, n_iter_, seed_, n_features_in_, feature_names_in_: as of
            `LatentDensity`.

    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> sampler = LatentSampler("fa", latents=2).fit(X)
    >>> rows = sampler.sample(1000, given={0: 7.0})  # long sepals come with long petals
    >>> rows.mean(0) > X.mean(0)
    array([ True, False,  True,  True])
    """

    def sample(
        self,
        n: int = 1,
        given: Mapping[str | int, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> Any:
        """n rows, drawn independently.

        Args:
            n: number of rows.
            given: values of columns, by name or number, that all rows are to have; the others are
                drawn given them.
            random_state: of the draws; None: that of the fit, the same rows at every call.

        Raises:
            UserError: n is no whole number of at least 1; a column that is none, or a value that
                it cannot have; a model that cannot leave cells out.
        """
        return self._sample(n, given, random_state)
