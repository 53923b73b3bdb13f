r"""Multinomial logistic regression on given features, its strength chosen by cross-validation.

    log p(y|s) = log softmax(W s + b)_y,    W, b = argmin  sum_i -log p(y_i|s_i) + |W|^2 / (2 C)

with b left alone. The maximum is unique in W and found by L-BFGS. Without a penalty (C = infinity)
there is none where classes can be separated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["DEFAULT", "GRID", "Readout", "Scale", "fit_readout"]

GRID = tuple(10.0**k for k in range(-3, 3))
DEFAULT = 0.1
_FOLDS, _LEAST = 5, 3  # rows of the rarest class that make a choice possible
_MANY = 5000  # rows from which one held-out fifth does for five, and float32 for float64
_ITERATIONS = 1000
_WIDEST = 4096  # columns whose curvature is decomposed

_Way = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scale:
    """What features are standardised by: `(h - loc) / width`, each (D,)."""

    loc: Tensor
    width: Tensor

    @classmethod
    def of(cls, h: Tensor, *, shared: bool) -> Scale:
        """Of features (n, D) their means and deviations.

        Args:
            h: the features.
            shared: one width for all columns, the root mean square of their deviations, for those
                that share a unit: a latent that says nothing must not be blown up to the size of
                the others.
        """
        wide = h.detach().double()
        width = wide.std(0, correction=0)
        # of equal numbers it is rounding, not 0
        equal = width <= 1e-9 * wide.abs().amax(0)
        width = width.masked_fill(equal, 0)
        if shared:
            width = width.square().mean().sqrt().expand_as(width)
        return cls(wide.mean(0).to(h.dtype), width.where(width > 0, 1.0).to(h.dtype))

    def to(self, device: torch.device) -> Scale:
        """On a device."""
        return Scale(self.loc.to(device), self.width.to(device))

    def __call__(self, h: Tensor) -> Tensor:
        """Standardised features."""
        return (h - self.loc) / self.width


@dataclass(frozen=True)
class Readout:
    """A fitted regression.

    Attributes:
        weight: (D, K).
        bias: (K,).
        strength: C, the variance of the normal prior on W.
        chosen: how C was chosen, in words.
        converged: whether L-BFGS came to an end by itself.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    chosen: str
    converged: bool

    def __call__(self, s: Tensor) -> Tensor:
        """Log-odds of standardised features (B, D): (B, K)."""
        return s.to(self.weight.dtype) @ self.weight + self.bias


def fit_readout(
    s: Tensor,
    y: Tensor,
    classes: int,
    *,
    strength: float | None = None,
    seed: int = 0,
) -> Readout:
    """The regression of classes on standardised features.

    Args:
        s: (n, D).
        y: (n,), from 0 to classes - 1.
        classes: K.
        strength: C; None: that of `GRID` with the least cross-entropy of held-out rows, where the
            rarest class has three rows, else `DEFAULT`. Held out is every fifth in turn, of more
            than 5,000 rows one fifth; C grows until the cross-entropy does.
        seed: of the folds.
    """
    s = s.detach().to("cpu", torch.float32 if len(s) > _MANY else torch.float64)
    y = y.cpu()
    if strength is not None:
        return _fitted(s, y, classes, strength, "given")
    rarest = int(torch.bincount(y, minlength=classes).min())
    if rarest < _LEAST:
        return _fitted(s, y, classes, DEFAULT, "by default, for want of rows")
    folds = _folds(y, min(_FOLDS, rarest), seed)
    turns = 1 if len(s) > _MANY else int(folds.max()) + 1
    best, start = _best_strength(s, y, classes, folds, turns)
    how = "a held-out fifth" if turns == 1 else f"{turns}-fold cross-validation"
    return _fitted(s, y, classes, best, f"by {how}", start)


def _folds(y: Tensor, count: int, seed: int) -> Tensor:
    """The fold of every row, (n,): each class is spread evenly."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    order = order[y[order].argsort(stable=True)]
    return torch.empty_like(y).scatter_(0, order, torch.arange(len(y)) % count)


def _best_strength(
    s: Tensor, y: Tensor, classes: int, folds: Tensor, turns: int
) -> tuple[float, Tensor | None]:
    """The C of the grid with the least cross-entropy of held-out rows, and a fit with it."""
    searches = [_Search(s[folds != k], y[folds != k], classes) for k in range(turns)]
    starts: list[Tensor | None] = [None] * turns
    best, least, start = GRID[0], math.inf, None
    for strength in GRID:
        losses = []
        for k, search in enumerate(searches):
            found, _ = search(strength, starts[k])
            starts[k] = found
            logits = s[folds == k] @ found[:-1].to(s.dtype) + found[-1].to(s.dtype)
            losses.append(torch.nn.functional.cross_entropy(logits, y[folds == k]))
        loss = float(torch.stack(losses).mean())
        if loss > least:
            break
        best, least, start = strength, loss, starts[0]
    return best, start


def _fitted(
    s: Tensor,
    y: Tensor,
    classes: int,
    strength: float,
    chosen: str,
    start: Tensor | None = None,
) -> Readout:
    found, converged = _Search(s, y, classes)(strength, start)
    found = found.to(s.dtype)
    return Readout(found[:-1], found[-1], strength, chosen, converged)


class _Search:
    """The minimum over W and b, (D + 1, K) in float64, for rows (n, D) and any strength.

    Where rows outnumber columns, the search is for `V = P^-1 W`, `P P' = (S'S / 4n + I / Cn)^-1`:
    its curvature is alike in all directions, which W's is not by factors of thousands. Source:
    Böhning, "Multinomial logistic regression algorithm", 1992.
    """

    def __init__(self, s: Tensor, y: Tensor, classes: int) -> None:
        self.s, self.y, self.classes = s, y, classes
        self.one_hot = torch.nn.functional.one_hot(y, classes).to(s.dtype)
        self.axes: Tensor | None = None
        if s.shape[1] <= min(len(s), _WIDEST):
            curvature = (s.T @ s).double() / (4 * len(s))
            self.sizes, self.axes = torch.linalg.eigh(curvature)

    def __call__(self, strength: float, start: Tensor | None) -> tuple[Tensor, bool]:
        """What is found, and whether the search ended by itself."""
        from scipy.optimize import minimize

        ridge = 1 / (strength * len(self.s))
        into, back = self._ways(ridge)

        def weights(flat: np.ndarray) -> Tensor:
            both = torch.from_numpy(flat).view(-1, self.classes)
            return torch.cat([back(both[:-1]), both[-1:]])

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self._loss(weights(flat), ridge)
            # the way back is V -> A (V / r), so a slope goes by its transpose, (A'G) / r
            slope[:-1] = into(slope[:-1], -1)
            return value, slope.flatten().numpy()

        first = torch.zeros(self.s.shape[1] + 1, self.classes, dtype=torch.float64)
        if start is not None:
            first = torch.cat([into(start[:-1], 1), start[-1:]])
        wide = self.s.dtype == torch.float64
        found = minimize(
            loss,
            first.flatten().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": _ITERATIONS,
                "maxfun": 2 * _ITERATIONS,
                "gtol": 1e-6 if wide else 5e-4,
                "ftol": 1e-12 if wide else 1e-6,
            },
        )
        return weights(found.x), bool(found.success)

    def _ways(self, ridge: float) -> tuple[Callable[[Tensor, int], Tensor], _Way]:
        """From W to V (power 1; -1 for slopes), and from V to W."""
        axes = self.axes
        if axes is None:
            return (lambda w, power: w), (lambda v: v)
        root = (self.sizes.clamp(min=0) + ridge).sqrt()[:, None]
        return (lambda w, power: (axes.T @ w) * root**power), (lambda v: axes @ (v / root))

    def _loss(self, both: Tensor, ridge: float) -> tuple[float, Tensor]:
        """The penalised mean cross-entropy, and its slope (D + 1, K)."""
        weight, bias = both[:-1].to(self.s.dtype), both[-1].to(self.s.dtype)
        logits = torch.nn.functional.linear(self.s, weight.T.contiguous(), bias)
        log_p = logits.log_softmax(1)
        value = -float(log_p.gather(1, self.y[:, None]).double().mean())
        apart = log_p.exp_().sub_(self.one_hot).div_(len(self.s))
        slope = torch.cat([(apart.T @ self.s).T, apart.sum(0, keepdim=True)]).double()
        slope[:-1] += ridge * both[:-1]
        return value + 0.5 * ridge * float(both[:-1].square().sum()), slope
