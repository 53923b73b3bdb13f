"""What the estimators share: a recipe's model, built for X, fitted to it and asked by rows.

Networks are trained in float32, where that tells the values of X apart, and asked in float64,
whatever X is. A row is treated by itself: what comes out of it does not depend on the rows beside
it. Rows with missing cells (NaN) and complete ones go apart, and in blocks of one size, the last
one filled up by repeating a row, so that torch multiplies matrices of the same shapes for one row
and for many.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from latently import expr
from latently.data import Data
from latently.errors import UserError, closest
from latently.inference import ImportanceSampling, evaluate
from latently.inference.evidence import default_method
from latently.inference.noise import seeded
from latently.inference.schedules import Schedule
from latently.interfaces.making import make_model
from latently.models import Model
from latently.recipes import CLOSED_FORM, RECIPES
from latently.registry import components
from latently.training import Fit, Objective
from latently.training import fit as fit_model

NUMBERS = "SharedNormal"  # family of rows of which nothing is known but that they are numbers
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
    _types: dict[str, torch.dtype]  # of parameters and buffers in training

    def __init__(
        self,
        recipe: str = "vae",
        latents: int | Sequence[int] | None = 8,
        *,
        likelihood: Callable[..., Any] | None = None,
        net: Callable[..., Any] | None = None,
        options: Mapping[str, Any] | None = None,
        objective: Objective | None = None,
        epochs: int | None = 100,
        batch_size: int | None = 64,
        learning_rate: float | Schedule | None = 1e-3,
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
        self._check_holes(data, model)
        found = self._fitted(model, data)
        for note in found.warnings:
            warnings.warn(f"{type(self).__name__}: {self._told(note)}", stacklevel=3)
        self.model_, self.history_, self.n_iter_ = model, found.history, len(found.history)
        return data

    def _told(self, note: str) -> str:
        """What the model says of columns, which it knows by number."""
        return note

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """log p(x) of every row, (n,), in nats; of rows with NaN, of what is observed.

        Exact where the model knows it (fa, ppca, mixture, flow, and discrete latents of few
        states), else the importance weighted bound of `samples` draws. Of a model without a
        density, such as an autoencoder: minus its `anomaly_score`, the mean squared error of the
        row's reconstruction, -1 being that of the mean row.
        """
        return self._scores(self._rows(X))

    def _scores(self, data: Data) -> np.ndarray:
        """What `score_samples` says of rows that are read already."""
        with torch.no_grad():
            if self.model_.density is None:
                strange = self.model_.anomaly_score
                return -self._apart(data, lambda x, mask: in_blocks(strange, x, mask))
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
            if not is_count(value) and not (name != "samples" and value is None):
                raise UserError(f"{name}={value!r} must be a whole number of at least 1")
        several = isinstance(self.latents, Sequence) and not isinstance(self.latents, str)
        latents: Any = self.latents if several else [self.latents]
        if self.latents is not None and not (latents and all(map(is_count, latents))):
            raise UserError(f"latents={self.latents!r} must be a whole number of at least 1")
        for name in ("net", "likelihood"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise UserError(f"{name}={value!r} must be a constructor, such as MLP or Normal")
        rate = number(self.learning_rate)
        if not isinstance(rate, Schedule | float | int | None):
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
        return Data(torch.tensor(np.nan_to_num(x)), NUMBERS, "X", mask=seen)

    def _rows(self, X: ArrayLike) -> Data:
        """Rows for the fitted model."""
        check_is_fitted(self)
        data = self._data(X, reset=False)
        self._check_holes(data, self.model_)
        self.model_.check(data.x, data.mask, data.protocol)
        return data

    def _check_holes(self, data: Data, model: Model) -> None:
        """Refuses NaN in scikit-learn's words where the model cannot leave cells out."""
        if data.mask is not None and not model.holes:
            x = data.x.masked_fill(~data.mask, math.nan).numpy()
            assert_all_finite(x, estimator_name=type(self).__name__, input_name="X")

    def _built(self, data: Data, seed: int) -> Model:
        """The recipe's model for data."""
        try:
            with seeded(seed):  # flows draw permutations while their size is found out, too
                return make_model(self.recipe, self._arguments(data), data, seed)
        except UserError as error:
            raise UserError(f"{error} (X has n_features={data.shape[0]})") from None

    def _arguments(self, data: Data) -> dict[str, Any]:
        """Of the recipe; latents are the width of what `transform` gives wherever it is free."""
        taken = inspect.signature(RECIPES[self.recipe]).parameters
        named: dict[str, Any] = {}
        for width in ("latents", "components"):
            if width in taken and self.latents is not None:
                named[width] = number(self.latents)
        if self.latents is None and self.recipe in CLOSED_FORM and "latents" in taken:
            named["latents"] = min(taken["latents"].default, max(math.prod(data.shape) // 2, 1))
        if "likelihood" in taken:
            own = taken["likelihood"].default is None and data.family == NUMBERS
            named["likelihood"] = None if own else expr.build(data.family, components())
        given = {"likelihood": self.likelihood, "net": self.net}
        named |= {name: value for name, value in given.items() if value is not None}
        return {**named, **(self.options or {})}

    def _fitted(self, model: Model, data: Data) -> Fit:
        """Fits a model, to leave it on the CPU, so that what is pickled opens anywhere."""
        chosen: dict[str, Any] = {}
        if self.recipe not in CLOSED_FORM:
            names = ("epochs", "batch_size", "learning_rate", "device")
            given = {name: number(getattr(self, name)) for name in names}
            chosen = {name: value for name, value in given.items() if value is not None}
        validation = None
        if self.patience is not None:
            rows = np.arange(len(data))
            kept, held = train_test_split(rows, test_size=_HELD_OUT, random_state=self.seed_)
            data, validation = data.rows(kept), data.rows(held)
        short = data if self.recipe in CLOSED_FORM else data.short()
        if short is data:
            model.double()
        else:
            data = short
            validation = None if validation is None else validation.to(dtype=torch.float32)
        found = fit_model(
            model,
            data,
            self.objective,
            validation=validation,
            patience=number(self.patience),
            seed=self.seed_,
            progress=bool(self.verbose),
            **chosen,
        )
        self._keep(model)
        return found

    def _keep(self, model: Model) -> None:
        """Notes the types of a trained model, which is then in float64."""
        self._types = {name: tensor.dtype for name, tensor in _tensors(model)}
        model.cpu().double().eval()

    def _as_trained(self) -> Model:
        """A copy of the model in the types of its training; units of columns stay in float64."""
        model = copy.deepcopy(self.model_)
        for name, tensor in _tensors(model):
            tensor.data = tensor.data.to(self._types[name])
        return model

    def _log_p(self, x: Tensor, mask: Tensor | None) -> Tensor:
        method = default_method(self.model_)
        if isinstance(method, ImportanceSampling):
            method = ImportanceSampling(number(self.samples))
        data = Data(x, NUMBERS, "X", mask=mask)
        return evaluate(self.model_, data, method, seed=self.seed_).values

    @staticmethod
    def _apart(data: Data, function: Callable[[Tensor, Tensor | None], Tensor]) -> np.ndarray:
        """A function of complete rows and of rows with holes, apart, in the order of the rows."""
        if data.mask is None:
            return function(data.x, None).numpy()
        complete = data.mask.flatten(1).all(1)
        order = torch.cat([complete.nonzero(), (~complete).nonzero()]).flatten().argsort()
        parts = [function(data.x[~complete], data.mask[~complete])]
        if bool(complete.any()):
            parts.insert(0, function(data.x[complete], None))
        return torch.cat(parts)[order].numpy()

    def _leaves_cells_out(self) -> bool:
        """Whether X may hold NaN: the fitted model says, or one that is built to be asked."""
        if hasattr(self, "model_"):
            return self.model_.holes
        try:
            self._check_options()
            width = 1 + (1 if self.latents is None else int(np.prod(self.latents)))
            return self._built(Data(torch.zeros(2, width), NUMBERS, "X"), 0).holes
        except (UserError, TypeError, ValueError, RuntimeError):  # fit will say what is wrong
            return False


def _tensors(model: Model) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def number(value: Any) -> Any:
    """A number of numpy, which grids hold, as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1, numpy's too."""
    value = number(value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def in_blocks(function: Callable[[Tensor, Any], Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
    """A function of rows, block by block, all of one size."""
    parts = []
    for start in range(0, len(x), _BLOCK):
        rows = torch.arange(start, start + _BLOCK).clamp(max=len(x) - 1)
        parts.append(function(x[rows], None if mask is None else mask[rows]))
    return torch.cat(parts)[: len(x)]
