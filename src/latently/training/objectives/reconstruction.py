"""The reconstruction of autoencoders, from rows as they are or from spoilt ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latently.data.corruptions import Corruption
from latently.errors import UserError
from latently.inference.rows import Rows
from latently.inference.schedules import resolve
from latently.probability.distributions import observed_log_prob
from latently.probability.families.base import Family
from latently.training.objectives.base import Objective, Terms
from latently.training.penalties import Penalty

__all__ = ["Reconstruction"]


@dataclass(frozen=True)
class Reconstruction(Objective):
    r"""The log-likelihood of a row given the code of what is seen of it, less penalties.

        log p(x | z = f(x')) - sum_i penalty_i(z),    x' = corruption(x)

    The error is measured against the clean row: a `corruption` that draws makes the autoencoder a
    denoising one, the worst one near x (`Adversarial`) a robust one. Penalties make it sparse
    (`L1`, `Sparsity`) or contractive (`Contractive`). It is no bound of anything. On validation
    rows the corruption is drawn once. Source of denoising: Vincent, Larochelle, Lajoie, Bengio,
    Manzagol, "Stacked Denoising Autoencoders", 2010.

    Args:
        corruption: what is done to the rows that the encoder sees.
        penalty: a cost of codes, or several.

    Raises:
        UserError: what is no corruption or penalty; before the first step, a model that is no
            autoencoder, has a density on its codes already, or does not suit a penalty.

    >>> from latently.data.corruptions import Masking
    >>> Reconstruction(Masking(0.5)).is_bound
    False
    """

    corruption: Corruption | None = None
    penalty: Penalty | Sequence[Penalty] = ()
    cost = "penalty"

    def __post_init__(self) -> None:
        if self.corruption is not None and not isinstance(self.corruption, Corruption):
            raise UserError(
                f"corruption={self.corruption!r} must be a built one, such as Masking(0.5)"
            )
        for penalty in self.penalties:
            if not isinstance(penalty, Penalty):
                raise UserError(f"penalty={penalty!r} must be a built one, such as L1(0.1)")

    @property
    def penalties(self) -> tuple[Penalty, ...]:
        """The penalties, none, one or several."""
        given: Any = self.penalty
        return tuple(given) if isinstance(given, tuple | list) else (given,)

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        if torch.compiler.is_compiling() and any(p.second_order for p in self.penalties):
            torch._dynamo.graph_break()  # out of the trace, which an error would only end
            raise UserError(
                "Reconstruction: a penalty of slopes, such as Contractive, needs second "
                "derivatives, which a compiled step does not have; leave compile out"
            )
        x, mask, context = rows
        shown = x if self.corruption is None else self._spoilt(model, rows)
        seen, *others = model.seen(shown, mask)

        def encode(seen: Tensor) -> Tensor:
            return model.encoder(seen, *others, context).mean

        z = encode(seen)
        fitted = observed_log_prob(model.likelihood((z[None],), context), x, mask)[0]
        cost = torch.zeros_like(fitted)
        for penalty in self.penalties:
            cost = cost + resolve(penalty, step, total)(z, seen, encode)
        return Terms(fitted - cost, fitted.detach(), cost.detach())

    def _spoilt(self, model: Any, rows: Rows) -> Tensor:
        """What the encoder is shown; an adversary climbs the reconstruction error."""
        assert self.corruption is not None

        def loss(shown: Tensor) -> Tensor:
            z = model.encoder(*model.seen(shown, rows.mask), rows.context).mean
            likelihood = model.likelihood((z[None],), rows.context)
            return -observed_log_prob(likelihood, rows.x, rows.mask)[0]

        return self.corruption(rows.x, model.span, loss)

    @property
    def couples(self) -> bool:
        return any(penalty.couples for penalty in self.penalties)

    def check_model(self, model: Any) -> None:
        if model.objective != type(self).__name__:
            raise UserError(
                f"Reconstruction trains autoencoders, and this is a {type(model).__name__}, which "
                f"is trained by {model.objective}; leave the objective out"
            )
        if model.codes is not None:
            raise UserError(
                "the codes of this autoencoder have a density already, which training would make "
                "wrong; train a model without one, then put the density on"
            )
        if self.corruption is not None:
            _check_read(self.corruption, model.decoder.family)
        for penalty in self.penalties:
            penalty.check_model(model)

    def complaints(self, model: Any) -> Iterator[str]:
        free = self.corruption is None and not self.penalties
        numbers, cells = math.prod(model.code_shape), math.prod(model.shape)
        if free and numbers >= cells:
            yield (
                f"codes of {numbers} numbers for rows of {cells} cells: nothing keeps this "
                "autoencoder from copying its rows; lower --latents, or give a --corruption or a "
                "--penalty"
            )

    def size(self, rows: int, cells: int, latents: int) -> int:
        return rows * cells * (2 if self.corruption is None else 3)


def _check_read(corruption: Corruption, family: Family) -> None:
    """Refuses spoilt rows that the encoder cannot read, such as logarithms of negative values."""
    name = type(family).__name__
    if corruption.continuous and family.embed_shape != family.shape:
        raise UserError(
            f"{type(corruption).__name__} leaves values that {name} does not hold "
            f"({family.support}); choose Masking or SaltAndPepper, or another likelihood"
        )
    some = next(family.buffers(), torch.empty(0))
    for value in corruption.beyond:
        rows = some.new_full((1, *family.shape), value, dtype=torch.float64)
        if not bool(family.embed(rows).isfinite().all()):
            raise UserError(
                f"{corruption} leaves values that {name} does not hold ({family.support}) and the "
                "encoder cannot read; choose SaltAndPepper, which keeps to values of the rows, or "
                "another likelihood"
            )
