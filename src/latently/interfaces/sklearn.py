"""Estimators for scikit-learn: a recipe behind `fit`, `transform` and `score`.

Everything is in float64, whatever X is, and a row is treated by itself: what comes out of it does
not depend on the rows beside it. Rows with missing cells (NaN) and complete ones go apart, and in
blocks of one size, the last one filled up by repeating a row, so that torch multiplies matrices of
the same shapes for one row and for many.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from latently.data import Data
from latently.errors import UserError, closest
from latently.inference import ImportanceSampling, evaluate
from latently.inference.evidence import default_method
from latently.inference.noise import seeded
from latently.inference.schedules import Schedule
from latently.interfaces.making import make_model
from latently.models import Model
from latently.probability.families import SharedNormal
from latently.recipes import CLOSED_FORM, RECIPES
from latently.training import Fit, Objective
from latently.training import fit as fit_model

__all__ = ["LatentTransformer"]

_BLOCK = 256  # rows at a time
_HELD_OUT = 0.1  # share of the rows that patience looks at
_DEVICES = ("cpu", "cuda")
_OWN = ("latents", "likelihood", "net")  # recipe arguments that are the estimator's own


class _Estimator(BaseEstimator):
    """What all share: a recipe's model, built for X and fitted to it."""

    model_: Model
    history_: list[dict[str, float]]
    n_iter_: int
    seed_: int

    def __init__(
        self,
        recipe: str = "vae",
        latents: int | Sequence[int] = 8,
        *,
        likelihood: Callable[..., Any] | None = None,
        net: Callable[..., Any] | None = None,
        options: Mapping[str, Any] | None = None,
        objective: Objective | None = None,
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float | Schedule = 1e-3,
        patience: int | None = None,
        samples: int = 100,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
        verbose: int = 0,
    ) -> None:
        self.recipe = recipe
        self.latents = latents
        self.likelihood = likelihood
        self.net = net
        self.options = options
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.samples = samples
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _fit(self, X: ArrayLike) -> Data:
        """Builds the recipe's model for X and fits it; the rows as the model reads them."""
        self._check_options()
        data = self._data(X, reset=True)
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        model = self._built(data, self.seed_)
        if data.mask is not None and not model.holes:
            assert_all_finite(X, estimator_name=type(self).__name__, input_name="X")
        found = self._fitted(model, data)
        for note in found.warnings:
            warnings.warn(f"{type(self).__name__}: {note}", stacklevel=3)
        self.model_, self.history_, self.n_iter_ = model, found.history, len(found.history)
        return data

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """log p(x) of every row, (n,), in nats; of rows with NaN, of what is observed.

        Exact where the model knows it (fa, ppca, mixture, flow, and discrete latents of few
        states), else the importance weighted bound of `samples` draws. Of a model without a
        density, such as an autoencoder: minus its `anomaly_score`, the mean squared error of the
        row's reconstruction, -1 being that of the mean row.
        """
        data = self._rows(X)
        with torch.no_grad():
            if self.model_.density is None:
                strange = self.model_.anomaly_score
                return -self._apart(data, lambda x, mask: _in_blocks(strange, x, mask))
            return self._apart(data, self._log_p)

    def score(self, X: ArrayLike, y: object = None) -> float:
        """The mean of `score_samples`; higher is better. y is ignored."""
        return float(self.score_samples(X).mean())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._leaves_cells_out()
        return tags

    def _check_options(self) -> None:
        if self.recipe not in RECIPES:
            raise UserError(f"recipe={self.recipe!r}: {closest(str(self.recipe), RECIPES)}")
        for name in ("epochs", "batch_size", "samples", "patience"):
            value = getattr(self, name)
            if not _whole(value) and not (name == "patience" and value is None):
                raise UserError(f"{name}={value!r} must be a whole number of at least 1")
        rate = _number(self.learning_rate)
        if not isinstance(rate, Schedule | float | int):
            raise UserError(f"learning_rate={rate!r} must be a number or a schedule")
        if not isinstance(self.objective, Objective | None):
            raise UserError(
                f"objective={self.objective!r} must be an objective, such as Variational()"
            )
        if self.device not in _DEVICES:
            raise UserError(f"device={self.device!r}: {closest(str(self.device), _DEVICES)}")
        if not isinstance(self.options, Mapping | None):
            raise UserError(f"options={self.options!r} must be a dict of recipe arguments")
        if own := [name for name in _OWN if name in (self.options or {})]:
            raise UserError(f"options hold {own[0]!r}; give {own[0]} as an argument of its own")

    def _data(self, X: ArrayLike, *, reset: bool) -> Data:
        """X as scikit-learn checks it; NaN becomes a mask."""
        x = validate_data(
            self,
            X,
            reset=reset,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )
        mask = torch.from_numpy(~np.isnan(x))
        seen = None if bool(mask.all()) else mask
        return Data(torch.tensor(np.nan_to_num(x)), "SharedNormal", "X", mask=seen)

    def _rows(self, X: ArrayLike) -> Data:
        """Rows for the fitted model."""
        check_is_fitted(self)
        data = self._data(X, reset=False)
        if data.mask is not None and not self.model_.holes:
            assert_all_finite(X, estimator_name=type(self).__name__, input_name="X")
        self.model_.check(data.x, data.mask, data.protocol)
        return data

    def _built(self, data: Data, seed: int) -> Model:
        """The recipe's model for data, in float64."""
        try:
            with seeded(seed):  # flows draw permutations while their size is found out, too
                return make_model(self.recipe, self._arguments(), data, seed).double()
        except UserError as error:
            raise UserError(f"{error} (X has n_features={data.shape[0]})") from None

    def _arguments(self) -> dict[str, Any]:
        """Of the recipe; latents are the width of what `transform` gives wherever it is free."""
        taken = inspect.signature(RECIPES[self.recipe]).parameters
        named: dict[str, Any] = {}
        for width in ("latents", "components"):
            if width in taken:
                named[width] = _number(self.latents)
        if "likelihood" in taken and taken["likelihood"].default is not None:
            named["likelihood"] = SharedNormal
        elif "likelihood" in taken:  # a recipe that chooses by itself
            named["likelihood"] = None
        given = {"likelihood": self.likelihood, "net": self.net}
        named |= {name: value for name, value in given.items() if value is not None}
        return {**named, **(self.options or {})}

    def _fitted(self, model: Model, data: Data) -> Fit:
        """Fits a model, to leave it on the CPU, so that what is pickled opens anywhere."""
        chosen: dict[str, Any] = {}
        if self.recipe not in CLOSED_FORM:
            names = ("epochs", "batch_size", "learning_rate", "device")
            chosen = {name: _number(getattr(self, name)) for name in names}
        validation = None
        if self.patience is not None:
            rows = np.arange(len(data))
            kept, held = train_test_split(rows, test_size=_HELD_OUT, random_state=self.seed_)
            data, validation = data.rows(kept), data.rows(held)
        found = fit_model(
            model,
            data,
            self.objective,
            validation=validation,
            patience=_number(self.patience),
            seed=self.seed_,
            progress=bool(self.verbose),
            **chosen,
        )
        model.cpu().eval()
        return found

    def _log_p(self, x: Tensor, mask: Tensor | None) -> Tensor:
        method = default_method(self.model_)
        if isinstance(method, ImportanceSampling):
            method = ImportanceSampling(_number(self.samples))
        data = Data(x, "SharedNormal", "X", mask=mask)
        return evaluate(self.model_, data, method, seed=self.seed_).values

    @staticmethod
    def _apart(data: Data, function: Callable[[Tensor, Tensor | None], Tensor]) -> np.ndarray:
        """A function of complete rows and of rows with holes, apart, in the order of the rows."""
        if data.mask is None:
            return function(data.x, None).numpy()
        whole = data.mask.flatten(1).all(1)
        order = torch.cat([whole.nonzero(), (~whole).nonzero()]).flatten().argsort()
        parts = [function(data.x[~whole], data.mask[~whole])]
        if bool(whole.any()):
            parts.insert(0, function(data.x[whole], None))
        return torch.cat(parts)[order].numpy()

    def _leaves_cells_out(self) -> bool:
        """Whether X may hold NaN: the fitted model says, or one that is built to be asked."""
        if hasattr(self, "model_"):
            return self.model_.holes
        try:
            self._check_options()
            width = int(np.prod(self.latents)) + 1
            return self._built(Data(torch.zeros(2, width), "SharedNormal", "X"), 0).holes
        except (UserError, TypeError, ValueError, RuntimeError):  # fit will say what is wrong
            return False


class LatentTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Estimator):
    r"""Latents of rows as features: any recipe as a transformer of scikit-learn.

    `transform(x) = E q(z|x)`, the posterior means of all layers side by side: factors of `fa`,
    codes of `ae`, responsibilities `p(k|x)` of a `mixture`; of a `flow` the row in its base space.
    `inverse_transform(z) = E p(x|z)`. Everything is in float64.

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
        return self._apart(self._rows(X), lambda x, mask: _in_blocks(self._codes, x, mask))

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
        return _in_blocks(self._decoded, z, None).numpy()

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


def _number(value: Any) -> Any:
    """A number of numpy, which grids hold, as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _whole(value: Any) -> bool:
    value = _number(value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _in_blocks(
    function: Callable[[Tensor, Any], Tensor], x: Tensor, mask: Tensor | None
) -> Tensor:
    """A function of rows, block by block, all of one size."""
    parts = []
    for start in range(0, len(x), _BLOCK):
        rows = torch.arange(start, start + _BLOCK).clamp(max=len(x) - 1)
        parts.append(function(x[rows], None if mask is None else mask[rows]))
    return torch.cat(parts)[: len(x)]
