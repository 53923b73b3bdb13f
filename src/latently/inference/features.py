r"""Features in which samples are compared with data: columns, components, a classifier's.

A distance between sets of rows means nothing without the space it was measured in, so every map
of rows to features carries a name, which is printed beside every number. What a map has to learn,
it learns from rows that are not compared.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.noise import derive
from latently.inference.options import check_count

__all__ = ["ClassifierFeatures", "ColumnFeatures", "FeatureMap", "Features", "PCAFeatures"]

_BLOCK = 2048  # rows mapped at a time
_HELD_BACK = 2000  # rows at most on which a classifier is tested


@dataclass(frozen=True)
class FeatureMap:
    """A map of rows to features, ready to use.

    Args:
        name: what is printed beside every number, e.g. "PCA(50) of training rows".
        of: rows (n, D) in float64 to features (n, F).
        accuracy: of a classifier, on rows it was not fitted to; None for others.
    """

    name: str
    of: Callable[[Tensor], Tensor]
    accuracy: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Features of rows (n, *X): (n, F) in float64 on the CPU."""
        flat = x.detach().flatten(1).cpu()
        return torch.cat([self.of(rows.double()) for rows in flat.split(_BLOCK)])


class Features(ABC):
    """A kind of features. A new one is one subclass with one method.

    Attributes:
        learns: whether `fit` looks at the rows; such features are fitted to rows apart.
    """

    learns: ClassVar[bool] = True

    @abstractmethod
    def fit(
        self, rows: Tensor, labels: Tensor | None = None, *, seed: int = 0, of: str = "rows"
    ) -> FeatureMap:
        """The map, learned from rows (n, *X) and labels (n,); `of` names them in its name.

        The same rows, labels and seed give the same map, in any order of the rows.

        Raises:
            UserError: the rows do not suffice.
        """


@dataclass(frozen=True)
class ColumnFeatures(Features):
    """The cells of a row as they are: pixels, columns.

    Args:
        standardise: divide every column by its deviation, for columns in different units.

    >>> ColumnFeatures().fit(torch.zeros(4, 1, 2, 2)).name
    'the 4 columns'
    """

    learns: ClassVar[bool] = False
    standardise: bool = False

    def fit(
        self, rows: Tensor, labels: Tensor | None = None, *, seed: int = 0, of: str = "rows"
    ) -> FeatureMap:
        columns = rows[0].numel()
        if not self.standardise:
            return FeatureMap(f"the {columns} columns", lambda x: x)
        scale = _deviations(rows.detach().flatten(1).cpu().double())
        return FeatureMap(f"the {columns} columns over their deviations", lambda x: x / scale)


@dataclass(frozen=True)
class PCAFeatures(Features):
    """The leading principal components, for rows without labels.

    What lies outside of their span is not seen: the name says how much of the variance is inside.

    Args:
        components: how many, at most; never more than rows or columns allow.
        standardise: divide every column by its deviation first, for columns in different units.
        rows: how many rows are learned from, at most.

    Raises:
        UserError: components or rows below 1.
    """

    components: int = 50
    standardise: bool = False
    rows: int = 10_000

    def __post_init__(self) -> None:
        check_count(self, "components")
        check_count(self, "rows", 2)

    def fit(
        self, rows: Tensor, labels: Tensor | None = None, *, seed: int = 0, of: str = "rows"
    ) -> FeatureMap:
        from sklearn.decomposition import PCA

        chosen = _enough("PCAFeatures", rows, 2)
        chosen = chosen[shuffled(chosen, seed, "PCA")[: self.rows]].cpu().flatten(1).double()
        scale = _deviations(chosen) if self.standardise else torch.ones(chosen.shape[1])
        count = min(self.components, chosen.shape[1], len(chosen) - 1)
        if not bool(chosen.std(0).any()):
            raise UserError(
                f"PCAFeatures: all {len(chosen)} rows are equal; give rows that differ"
            )
        found = PCA(count, random_state=derive(seed, "PCA") % 2**32).fit((chosen / scale).numpy())
        mean, axes = (torch.from_numpy(a).double() for a in (found.mean_, found.components_))
        share = 100 * found.explained_variance_ratio_.sum()
        scaled = ", columns over their deviations" if self.standardise else ""
        name = f"PCA({count}) of {of}{scaled}, {share:.1f} % of their variance"
        return FeatureMap(name, lambda x: (x / scale - mean) @ axes.T)


@dataclass(frozen=True)
class ClassifierFeatures(Features):
    """Activations of the last hidden layer of a classifier of the rows' labels.

    A perceptron with ReLU, trained here, so it knows the very data that are judged, and no network
    of photographs is asked about digits. How well it classifies rows it was not fitted to (a fifth
    of those given, 2,000 at most) is part of its name.

    Args:
        hidden: units of the hidden layers.
        rows: how many rows are learned from, at most.
        epochs: passes over them, at most.

    Raises:
        UserError: no hidden layer, or a count below 1.
    """

    hidden: tuple[int, ...] = (128,)
    rows: int = 10_000
    epochs: int = 30

    def __post_init__(self) -> None:
        widths = self.hidden if isinstance(self.hidden, tuple) else ()
        if not widths or any(not isinstance(width, int) or width < 1 for width in widths):
            raise UserError(
                f"ClassifierFeatures: hidden={self.hidden!r} must be whole numbers of at least 1 "
                "in a tuple, e.g. (128,)"
            )
        check_count(self, "rows", 2)
        check_count(self, "epochs")

    def fit(
        self, rows: Tensor, labels: Tensor | None = None, *, seed: int = 0, of: str = "rows"
    ) -> FeatureMap:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        x, y = self._labelled(rows, labels, seed)
        back = min(_HELD_BACK, len(x) // 5)
        fitted = x[back:][: self.rows]
        mean, scale = fitted.mean(0), fitted.std().clamp(min=torch.finfo(torch.float32).tiny)
        net = MLPClassifier(
            self.hidden, max_iter=self.epochs, random_state=derive(seed, "classifier") % 2**32
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are a choice
            net.fit(((fitted - mean) / scale).numpy(), y[back:][: self.rows].numpy())
        score = float(net.score(((x[:back] - mean) / scale).numpy(), y[:back].numpy()))
        layers = [
            (torch.from_numpy(w).double(), torch.from_numpy(b).double())
            for w, b in zip(net.coefs_[:-1], net.intercepts_[:-1], strict=True)
        ]

        def activations(x: Tensor) -> Tensor:
            h = (x - mean) / scale
            for weight, bias in layers:
                h = torch.relu(h @ weight + bias)
            return h

        sizes = ", ".join(map(str, self.hidden))
        name = (
            f"MLP({sizes}) classifier of the labels of {of}, {100 * score:.1f} % on held-out rows"
        )
        return FeatureMap(name, activations, score)

    def _labelled(self, rows: Tensor, labels: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
        """As many rows and labels as are used, shuffled, in float32."""
        if labels is None:
            raise UserError(
                "ClassifierFeatures: no labels; fit it first, "
                "ClassifierFeatures().fit(rows, labels), or use PCAFeatures()"
            )
        x, y = _enough("ClassifierFeatures", rows, 10), labels.detach().cpu()
        if y.shape != (len(x),):
            raise UserError(
                f"ClassifierFeatures: labels of shape {tuple(y.shape)}; they must be ({len(x)},)"
            )
        if len(y.unique()) < 2:
            raise UserError(f"ClassifierFeatures: all labels are {y[0].item()}; use PCAFeatures()")
        order = shuffled(x, seed, "classifier", y)[: self.rows + _HELD_BACK]
        return x[order].cpu().flatten(1).float(), y[order]


def shuffled(x: Tensor, seed: int, use: str, labels: Tensor | None = None) -> Tensor:
    """A random order of rows, (n,), that depends on their content and not on how they lie.

    Rows are sorted by a hash of (seed, use, row, its how-manieth occurrence).
    """
    key = derive(seed, use).to_bytes(8, "little")
    flat = x.detach().flatten(1).cpu().contiguous().numpy()
    marks = [b""] * len(x) if labels is None else [bytes(str(y), "ascii") for y in labels.tolist()]
    seen: Counter[bytes] = Counter()
    keys = []
    for row, mark in zip(flat, marks, strict=True):
        digest = hashlib.blake2b(row.tobytes() + mark, digest_size=8, key=key).digest()
        seen[digest] += 1
        again = digest + seen[digest].to_bytes(8, "little")
        keys.append(hashlib.blake2b(again, digest_size=8, key=key).digest())
    return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__), dtype=torch.long)


def _enough(name: str, rows: Tensor, least: int) -> Tensor:
    if len(rows) < least:
        raise UserError(f"{name}: {len(rows)} rows to learn from; give at least {least}")
    return rows.detach()


def _deviations(flat: Tensor) -> Tensor:
    """Deviation of every column, (D,); 1 for columns that are constant."""
    found = flat.std(0) if len(flat) > 1 else torch.zeros(flat.shape[1])
    return torch.where(found > 0, found, 1.0).double()
