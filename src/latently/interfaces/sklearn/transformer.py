"""Latents of rows as features."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from latently.errors import UserError
from latently.interfaces.sklearn.base import _Estimator, in_blocks

__all__ = ["LatentTransformer"]


class LatentTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Estimator):
    r"""Latents of rows as features: any recipe as a transformer of scikit-learn.

    `transform(x) = E q(z|x)`, the posterior means of all layers side by side: factors of `fa`,
    codes of `ae`, responsibilities `p(k|x)` of a `mixture`; of a `flow` the row in its base space.
    `inverse_transform(z) = E p(x|z)`. What comes out is in float64.

    Args:
        recipe: name of a recipe: "vae", "fa", "ppca", "mixture", "flow", "ae" or one of your own.
        latents: columns of the result: latents, or components of a mixture. A flow has as many as
            X, whatever this says.
        likelihood: family of p(x|z), e.g. `Bernoulli` for X of 0 and 1. Default: the recipe's
            choice (squared error of an autoencoder), or `SharedNormal`: all columns, whole numbers
            too, are taken as continuous, each with a noise of its own.
        net: network of encoder and decoder, e.g. `partial(MLP, hidden=(64,))`.
        options: further arguments of the recipe, e.g. `{"family": Full()}` of a mixture.
        objective: what is maximised, e.g. `Variational(bound=IWAE(), samples=5)`; default: the
            model's own.
        epochs: passes over the rows. This and the next two do nothing to recipes fitted in closed
            form or by EM (fa, ppca, mixture), so that one grid can hold several recipes.
        batch_size: rows per step.
        learning_rate: of Adam, a number or a schedule.
        patience: hold a tenth of the rows out, stop after so many epochs without a better bound
            on them, and keep the best epoch; None: all rows and all epochs.
        samples: draws per row of the bound that `score` reports where log p(x) is not exact.
        random_state: of weights, batches and draws; None: another fit every time.
        device: "cpu" or "cuda", where training by gradient runs; the fitted model is on the CPU.
        verbose: above 0: show the progress of the fit.

    Attributes:
        model_: the fitted model; `latently.save` writes it.
        history_: one dict per epoch, or per pass of EM; nats.
        n_iter_: how many these are.
        seed_: what `random_state` drew.
        n_features_in_: columns of X.
        feature_names_in_: their names, where X has names of text.

    >>> from sklearn.datasets import load_iris
    >>> X, _ = load_iris(return_X_y=True)
    >>> fa = LatentTransformer("fa", latents=2).fit(X)
    >>> fa.transform(X).shape
    (150, 2)
    >>> fa.score(X)  # exact, in nats per row
    -2.59
    """

    def fit(self, X: ArrayLike, y: object = None) -> LatentTransformer:
        """Builds the recipe's model for X, (n, columns), and fits it.

        NaN is a missing cell. What a reader should know of the fit is warned of.

        Args:
            X: at least two rows.
            y: ignored.

        Returns:
            The transformer itself.

        Raises:
            UserError: options that are none, build no model, or have no effect on it; a value
                outside the likelihood's support.
            ValueError: what scikit-learn refuses; NaN, if the model cannot leave cells out.
        """
        first = self._fit(X).rows(slice(0, 1))
        self._shapes = [tuple(z.shape[1:]) for z in self.model_.encode(first.x, first.mask)]
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Posterior means of X, (n, latents), layer after layer.

        Raises:
            UserError: a value outside the likelihood's support.
            NotFittedError, ValueError: what scikit-learn refuses; NaN, if the model cannot leave
                cells out.
        """
        return self._apart(self._rows(X), lambda x, mask: in_blocks(self._codes, x, mask))

    def inverse_transform(self, Z: ArrayLike) -> np.ndarray:
        """Means of p(x|z), (n, columns), of latents as `transform` gives them.

        Of a mixture, of the component with the largest share.

        Raises:
            UserError: rows of another width than `transform` gives.
            NotFittedError, ValueError: what scikit-learn refuses.
        """
        check_is_fitted(self)
        z = torch.tensor(check_array(Z, dtype=np.float64, input_name="Z"))
        if z.shape[1] != self._n_features_out:
            raise UserError(
                f"Z has {z.shape[1]} columns, the model {self._n_features_out} latents; give rows "
                "as transform returns them"
            )
        return in_blocks(self._decoded, z, None).numpy()

    @property
    def _n_features_out(self) -> int:
        return sum(map(math.prod, self._shapes))

    def _codes(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return torch.cat([z.flatten(1) for z in self.model_.encode(x, mask)], 1)

    def _decoded(self, z: Tensor, mask: None) -> Tensor:
        ends = [0, *accumulate(map(math.prod, self._shapes))]
        parts = [z[:, first:last] for first, last in pairwise(ends)]
        layers = [part.unflatten(1, s) for part, s in zip(parts, self._shapes, strict=True)]
        return self.model_.decode(tuple(layers))
