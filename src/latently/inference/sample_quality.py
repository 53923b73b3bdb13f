r"""Are samples like held-out data, and are they copies of training rows?

Distances and shares in a named feature space (`features`), each beside the same number of real
rows against real rows. Held-out rows are cut into halves A and B of n rows each, and samples into
S and S' (the same S where there are fewer than 2n). A measure is the mean of (S, A) and (S', B),
its reference the mean of (A, B) and (B, A): everything at equal n, so that what n does to a
measure (a Frechet distance of few rows is too long, a ball among few rows too wide) it does to
both. Errors are those of the delete-a-group jackknife over rows of all four parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._quality import NEAR, Better, Measure, SampleQuality, percent
from latently.inference.evidence import DataLike
from latently.inference.features import (
    ClassifierFeatures,
    ColumnFeatures,
    FeatureMap,
    Features,
    PCAFeatures,
    shuffled,
)
from latently.inference.kernels import InverseMultiquadratic
from latently.inference.noise import derive, seeded
from latently.inference.number import Number
from latently.inference.two_samples import Pair, jackknife, mann_whitney, nearest_distances

__all__ = ["Measure", "SampleQuality", "judge_samples", "sample_quality"]

LEAST, MOST = 20, 3000  # rows a side; the most bounds memory at three matrices of 72 MB
GROUPS = 10  # of the jackknife
SUPPORT, BALLS = 3, 5  # neighbours of precision and recall, of density and coverage
RESAMPLES = 200
_DRAWN = 500  # samples drawn at a time

_TITLES: dict[str, tuple[str, Better]] = {
    "frechet": ("Frechet distance", "lower"),
    "kernel": ("kernel distance, MMD^2", "lower"),
    "precision": ("precision", "higher"),
    "recall": ("recall", "higher"),
    "density": ("density", "reference"),
    "coverage": ("coverage", "higher"),
    "near_train": ("near training rows", "reference"),
    "near_train_columns": ("near training rows, columns", "reference"),
    "copying_z": ("z of distance to training", "reference"),
    "copying_z_columns": ("z of that distance, columns", "reference"),
    "duplicates": ("equal to a training row", "reference"),
}


class LabelledData(DataLike, Protocol):
    """What `judge_samples` reads of a data set."""

    @property
    def labels(self) -> Tensor | None: ...
    def once(self, seed: int = 0) -> LabelledData: ...


def sample_quality(
    samples: Tensor,
    heldout: Tensor,
    train: Tensor | None = None,
    *,
    features: FeatureMap | Features | None = None,
    seed: int = 0,
) -> SampleQuality:
    """How samples compare with held-out rows, and whether they are copies of training rows.

    What features have to learn they learn from the training rows, or, without these, from a half
    of the held-out rows, which is then not compared. At most 3,000 rows a side are compared, and
    as many searched for among the training rows. The result depends on the rows and the seed, not
    on the order of the rows.

    Args:
        samples: draws of a model, (M, *X).
        heldout: rows that it was not fitted to, (N, *X).
        train: rows that it was fitted to, (T, *X); without them copies cannot be told.
        features: a space, fitted or to be fitted; None for 50 principal components, of rows that
            are vectors after division by the columns' deviations.
        seed: of the halves and of what features learn.

    Raises:
        UserError: too few rows, rows of unlike shapes, values that are not finite, features that
            need labels or are constant.

    >>> x = torch.randn(900, 3, generator=torch.Generator().manual_seed(0))
    >>> quality = sample_quality(x[:200] / 2, x[200:500], x[500:])
    >>> quality.findings[2]
    'recall 0.58 (held-out rows 0.96): the model misses some of the data'
    """
    real = _Rows(heldout, name="half of the held-out rows")
    fitted = None if train is None else _Rows(train, name="training rows")
    return _quality(samples, real, fitted, features, seed)


def judge_samples(
    model: Any,
    heldout: LabelledData,
    train: LabelledData | None = None,
    *,
    n: int = 2000,
    features: FeatureMap | Features | None = None,
    seed: int = 0,
) -> SampleQuality:
    """`sample_quality` of n draws of a model, given the contexts of held-out rows if conditional.

    Args:
        model: any model that draws.
        heldout: rows that it was not fitted to.
        train: rows that it was fitted to.
        n: how many draws.
        features: the space; None for `ClassifierFeatures` where the rows to learn from have
            labels, `PCAFeatures` otherwise.
        seed: of the draws, of the halves and of what features learn.

    Raises:
        UserError: rows that are none of the model's, missing cells, or what `sample_quality`
            refuses.
    """
    if not isinstance(n, int) or n < LEAST:
        raise UserError(f"judge_samples: n={n!r} must be a whole number of at least {LEAST}")
    heldout, train = heldout.once(seed), None if train is None else train.once(seed)
    for data in (heldout, train):
        if data is not None:
            _complete(data)
            model.check(data.x, None, data.protocol)
    model.check_context(heldout.context, heldout.protocol)
    samples = _draws(model, heldout.context, n, seed)
    real = _Rows(heldout.x, heldout.labels, f"half of {heldout.protocol}", heldout.protocol)
    fitted = None if train is None else _Rows(train.x, train.labels, train.protocol)
    return _quality(samples, real, fitted, features, seed)


@dataclass(frozen=True)
class _Rows:
    """Real rows, and what features that learn from them are called after."""

    x: Tensor
    labels: Tensor | None = None
    name: str = ""
    protocol: str = ""

    def at(self, index: Tensor) -> _Rows:
        index = index.to(self.x.device)
        labels = None if self.labels is None else self.labels[index]
        return replace(self, x=self.x[index], labels=labels)


def _quality(
    samples: Tensor,
    heldout: _Rows,
    train: _Rows | None,
    features: FeatureMap | Features | None,
    seed: int,
) -> SampleQuality:
    samples, heldout, train = _checked(samples, heldout, train)
    space, rows = _space(features, heldout, train, seed)
    if min(len(samples), len(rows) // 2) < LEAST:
        raise UserError(
            f"sample_quality: {len(samples)} samples and {len(rows)} held-out rows to compare; "
            f"give at least {LEAST} and {2 * LEAST}"
        )
    drawn = samples[shuffled(samples, seed, "samples")[: 2 * MOST]]
    real = rows[shuffled(rows, seed, "held-out")[: 2 * MOST]]
    x, y = space(drawn), space(real)
    spread = float(y.var(0).sum().sqrt())
    if not spread > 0:
        raise UserError(
            f"sample_quality: all held-out rows are equal in {space.name}; use other features"
        )
    _check_reach(x / spread, space.name)
    n = min(len(x), len(y) // 2)
    measures = _compared(x / spread, y[: 2 * n] / spread, space.name)
    if train is not None:
        measures |= _memorised(drawn[:MOST], real[:MOST], train.x, space, seed)
    return SampleQuality(
        measures=measures,
        features=space.name,
        n=n,
        samples=len(samples),
        heldout=len(rows),
        train=None if train is None else len(train.x),
        protocol=heldout.protocol,
        seed=seed,
        warnings=_overlap(measures),
    )


def _check_reach(x: Tensor, space: str) -> None:
    """Refuses samples (M, F), in deviations of real rows, whose squares leave the numbers."""
    reach = float(x.abs().amax()) if bool(x.isfinite().all()) else math.inf
    if not reach * reach * x.numel() < torch.finfo(x.dtype).max / 1e4:
        raise UserError(
            f"sample_quality: a sample is {reach:.1e} deviations of held-out rows away in "
            f"{space}, too far to measure; train the model longer, or "
            "choose a likelihood of lighter tails"
        )


def _checked(
    samples: Tensor, heldout: _Rows, train: _Rows | None
) -> tuple[Tensor, _Rows, _Rows | None]:
    """The rows on the CPU, in the coarsest of their types, so that equal rows are equal bits.

    Raises:
        UserError: rows of unlike shapes, or values that are not finite.
    """
    given = {"samples": samples, "heldout": heldout.x}
    given |= {} if train is None else {"train": train.x}
    for name, x in given.items():
        if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[1:] != heldout.x.shape[1:]:
            raise UserError(
                f"sample_quality: {name} of shape {tuple(getattr(x, 'shape', ()))} beside "
                f"held-out rows {tuple(heldout.x.shape)}; give tensors (n, *X) of one X"
            )
        finite = torch.isfinite(x).flatten(1).all(1)
        if not bool(finite.all()):
            raise UserError(
                f"sample_quality: row {int((~finite).nonzero()[0])} of {name} holds NaN or inf; "
                "impute missing cells, or leave such rows out"
            )
    narrow = any(x.dtype not in (torch.float64, torch.int64) for x in given.values())
    dtype = torch.float32 if narrow else torch.float64
    # adding 0 makes -0 the same bits as 0
    clean = {name: x.detach().to("cpu", dtype) + 0.0 for name, x in given.items()}
    return (
        clean["samples"],
        replace(heldout, x=clean["heldout"]),
        None if train is None else replace(train, x=clean["train"]),
    )


def _space(
    features: FeatureMap | Features | None, heldout: _Rows, train: _Rows | None, seed: int
) -> tuple[FeatureMap, Tensor]:
    """The fitted feature space, and the held-out rows that it has not seen."""
    if isinstance(features, FeatureMap):
        return features, heldout.x
    if features is not None and not isinstance(features, Features):
        raise UserError(f"features={features!r} must be features such as PCAFeatures(), or fitted")
    source, rest = train, heldout.x
    if source is None and (features is None or features.learns):
        if len(heldout.x) < 4 * LEAST:
            raise UserError(
                f"sample_quality: {len(heldout.x)} held-out rows, half of which features are "
                f"learned from; give train=, or at least {4 * LEAST} rows"
            )
        order = shuffled(heldout.x, seed, "learn")
        half = len(order) // 2
        source, rest = heldout.at(order[:half]), heldout.x[order[half:]]
    source = heldout if source is None else source
    if features is None:
        features = _default(source)
    return features.fit(source.x, source.labels, seed=seed, of=source.name), rest


def _default(rows: _Rows) -> Features:
    """A classifier where every class has ten rows or more on average, else components."""
    classes = 0 if rows.labels is None else len(rows.labels.unique())
    if 2 <= classes <= len(rows.x) // 10:
        return ClassifierFeatures()
    return PCAFeatures(standardise=rows.x.ndim == 2)


def _compared(x: Tensor, y: Tensor, space: str) -> dict[str, Measure]:
    """All measures of samples (m, F) against rows (2n, F), with jackknife errors."""
    n = len(y) // 2
    halves = y[:n], y[n:]
    twice = x[:n], x[n : 2 * n] if len(x) >= 2 * n else x[:n]
    # for equal kernels of any features: 1 for rows a typical distance apart
    kernel = InverseMultiquadratic(bandwidth=float(y.var(0).mean().sqrt()))

    def measured(pair: Pair) -> dict[str, float]:
        return {
            "frechet": pair.frechet(),
            "kernel": pair.mmd(kernel),
            "precision": pair.precision(SUPPORT),
            "recall": pair.recall(SUPPORT),
            "density": pair.density(BALLS),
            "coverage": pair.coverage(BALLS),
        }

    def reference(pair: Pair) -> dict[str, float]:
        one, other = measured(pair), measured(pair.swapped())
        return {name: (one[name] + other[name]) / 2 for name in one}

    found = [
        jackknife(Pair.of(*pair), measured, GROUPS) for pair in zip(twice, halves, strict=True)
    ]
    real = jackknife(Pair.of(*halves), reference, GROUPS)
    values = [_mean(parts) for parts in zip(*map(_listed, found), strict=True)]
    return {
        name: _measure(name, [v[name] for v in values], [r[name] for r in _listed(real)], space)
        for name in values[0]
    }


def _listed(found: tuple[dict[str, float], list[dict[str, float]]]) -> list[dict[str, float]]:
    return [found[0], *found[1]]


def _mean(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


def _measure(name: str, values: list[float], references: list[float], space: str) -> Measure:
    """Value and reference, the first of each of all rows, the others with a group left out."""
    title, better = _TITLES[name]

    def number(what: str, found: list[float]) -> Number:
        return Number(what, found[0], "estimate", "", _jackknifed(found[1:]), method=space)

    differences = [v - r for v, r in zip(values, references, strict=True)]
    return Measure(
        number(title, values),
        number(f"{title}, real rows", references),
        number(f"{title}, difference", differences),
        better,
    )


def _jackknifed(left_out: list[float]) -> float:
    """`sqrt((G-1)/G sum_g (t_g - mean)^2)` of G estimates, each without a group."""
    found = torch.tensor(left_out, dtype=torch.float64)
    return float((len(found) - 1) ** 0.5 * found.std(correction=0))


def _memorised(
    samples: Tensor, heldout: Tensor, train: Tensor, space: FeatureMap, seed: int
) -> dict[str, Measure]:
    """Distances of samples to their nearest training rows against those of held-out rows.

    Taken in the features and in the columns: a copy is near in any space, a smooth sample only
    in some.
    """
    columns = ColumnFeatures().fit(samples)
    spaces = {"": space} if space.name == columns.name else {"": space, "_columns": columns}
    measures: dict[str, Measure] = {}
    for suffix, of in spaces.items():
        rows = of(train)
        near, usual = (nearest_distances(of(x), rows) for x in (samples, heldout))
        measures |= _nearness(near, usual, of.name, suffix, seed)
    # the columns came last
    same, natural = (float((d == 0).double().mean()) for d in (near, usual))
    measures["duplicates"] = _shares("duplicates", (same, len(near)), (natural, len(usual)))
    return measures


def _nearness(
    near: Tensor, usual: Tensor, space: str, suffix: str, seed: int
) -> dict[str, Measure]:
    """Share of samples nearer than the q-quantile of held-out rows, and the Mann-Whitney z."""
    q = max(NEAR, 5 / len(usual))
    value, reference = _nearer(near, usual, q)
    with seeded(derive(seed, "bootstrap")):
        again = [_nearer(_resampled(near), _resampled(usual), q) for _ in range(RESAMPLES)]
    error = float(torch.tensor([a - b for a, b in again], dtype=torch.float64).std())
    share, z = f"near_train{suffix}", f"copying_z{suffix}"
    return {
        share: _known(share, value, reference, error, space),
        z: _known(z, mann_whitney(near, usual), 0.0, 1.0, space),
    }


def _nearer(near: Tensor, usual: Tensor, q: float) -> tuple[float, float]:
    """Shares of samples and of held-out rows below the q-quantile of held-out rows."""
    limit = usual.kthvalue(int(q * len(usual)) + 1).values
    return float((near < limit).double().mean()), float((usual < limit).double().mean())


def _resampled(x: Tensor) -> Tensor:
    return x[torch.randint(len(x), (len(x),))]


def _known(name: str, value: float, reference: float, error: float, space: str) -> Measure:
    """A measure whose reference has no error of its own: a quantile, or the mean of a z-score."""
    title, better = _TITLES[name]
    return Measure(
        Number(title, value, "estimate", "", error, method=space),
        Number(f"{title}, real rows", reference, "exact", "", method=space),
        Number(f"{title}, difference", value - reference, "estimate", "", error, method=space),
        better,
    )


def _shares(name: str, value: tuple[float, int], reference: tuple[float, int]) -> Measure:
    """Two shares of so many rows, with binomial errors."""
    title, better = _TITLES[name]
    errors = [math.sqrt(share * (1 - share) / rows) for share, rows in (value, reference)]
    difference = value[0] - reference[0]
    return Measure(
        Number(title, value[0], "estimate", "", errors[0], method="equal in every column"),
        Number(f"{title}, real rows", reference[0], "estimate", "", errors[1]),
        Number(f"{title}, difference", difference, "estimate", "", math.hypot(*errors)),
        better,
    )


def _overlap(measures: Mapping[str, Measure]) -> tuple[str, ...]:
    """A warning where held-out rows are training rows."""
    share = measures["duplicates"].reference.value if "duplicates" in measures else 0.0
    if share < NEAR:
        return ()
    return (
        f"{percent(share)} of the held-out rows equal a training row: are they held out? "
        "Copies of training rows then look like held-out rows",
    )


def _draws(model: Any, context: Tensor | None, n: int, seed: int) -> Tensor:
    """n rows from the model, in blocks that bound memory."""
    parts = []
    for start in range(0, n, _DRAWN):
        count = min(_DRAWN, n - start)
        given = None
        if context is not None:
            given = context[
                torch.arange(start, start + count, device=context.device) % len(context)
            ]
        parts.append(model.sample(count, given, seed=derive(seed, "samples", start)).cpu())
    return torch.cat(parts)


def _complete(data: LabelledData) -> None:
    """Refuses rows with holes."""
    if data.mask is not None and not bool(data.mask.all()):
        rows = int((~data.mask).flatten(1).any(1).sum())
        raise UserError(
            f"{data.protocol}: {rows} of {len(data.x)} rows have missing cells and samples have "
            "none; compare the complete rows, data.rows(data.mask.flatten(1).all(1)), or imputed "
            "ones"
        )
