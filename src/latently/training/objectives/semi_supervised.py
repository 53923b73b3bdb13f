"""A bound for rows with and without labels, and the classifier's own share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference.bounds import ELBO, Bound
from latently.inference.estimators import Enumerate, Estimator, GumbelSoftmax, Reparam
from latently.inference.options import check_count, check_number
from latently.inference.rows import Rows
from latently.training.objectives._held import held
from latently.training.objectives.base import Objective, Terms
from latently.training.objectives.variational import Variational

__all__ = ["SemiSupervised"]


@dataclass(frozen=True)
class SemiSupervised(Objective):
    r"""The bound of every row, and what the classifier makes of the rows with labels.

        mean over all rows of bound(x, y or not)  +  alpha  mean over labelled rows of log q(y|x)

    The bound is of log p(x, y) where the label is known, else of log p(x), with y summed. It does
    not teach q(y|x) on labelled rows, so the second mean does. In every step it is taken over
    `labelled` rows, drawn from all that have a label, whatever the batch: few labels are seen in
    every step, and no row counts more than once in the bound. The weight depends neither on the
    batch nor on the number of labels; the source's is 0.1 in these units (its alpha is 0.1 N for
    the sum over N rows). Values on validation rows are the bound alone.

    A model with features is trained in two stages: for the first `pretrain` of the steps the
    bound is that of the features' own autoencoder, on all rows, and all else rests; then the
    features rest, and all else is trained on draws of them. In validation the first stage counts
    as over. Source: Kingma, Rezende, Mohamed, Welling, "Semi-Supervised Learning with Deep
    Generative Models", 2014.

    Args:
        alpha: nats of the bound of one row that one of log q(y|x) is worth; 0: none.
        bound: what is maximised.
        estimator: how it is differentiated; y is summed whatever it is.
        samples: K, draws of z per row and class.
        labelled: rows with labels in every step; all of them where they are fewer.
        pretrain: share of the steps that train features alone, for a model that has any.

    Raises:
        UserError: options out of range, a pair of bound and estimator that does not suit, or an
            estimator that does not leave the shares of the classes alone; before the first step, a
            model without classes, or data without a label.

    >>> SemiSupervised(alpha=0.5).labelled
    100
    """

    alpha: float = 0.1
    bound: Bound = ELBO()  # noqa: RUF009  (frozen)
    estimator: Estimator = Reparam()  # noqa: RUF009
    samples: int = 1
    labelled: int = 100
    pretrain: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "alpha", low=0)
        check_count(self, "labelled")
        check_number(self, "pretrain", low=0, high=1)
        if self.pretrain in (0, 1):
            raise UserError(
                f"SemiSupervised: pretrain={self.pretrain} leaves no step to one of the stages; "
                "choose a share between 0 and 1"
            )
        _ = self._variational
        if not isinstance(self.estimator, Reparam | Enumerate | GumbelSoftmax):
            raise UserError(
                f"SemiSupervised: {type(self.estimator).__name__} weighs draws equally, and the "
                "classes of a draw have the shares q(y|x); use estimator=Reparam, or for discrete "
                "latents Enumerate or GumbelSoftmax"
            )

    @property
    def _variational(self) -> Variational:
        return Variational(self.bound, self.estimator, self.samples)

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        if model.features is None:
            return self._variational.terms(model, rows, step, total)
        if self.first_stage(step, total):
            rows = rows._replace(context=None)
            return self._variational.terms(model.features, rows, step, total)
        with held(model.features.parameters()):
            return self._variational.terms(model, rows, step, total)

    def first_stage(self, step: Tensor, total: int) -> bool:
        """Whether features are trained at this step."""
        return bool(step < round(self.pretrain * total))

    def of_data(self, data: Any) -> Objective:
        labels = None if data.context is None else data.context.sum(-1).nonzero()[:, 0]
        if labels is None or not len(labels):
            raise UserError(
                f"SemiSupervised: none of the {len(data)} rows has a label; give some, by "
                "latently.data.with_labels or --labels, or use the objective Variational"
            )
        return _WithLabels(self, data, labels)

    def check_model(self, model: Any) -> None:
        if model.objective != type(self).__name__:
            raise UserError(
                f"SemiSupervised trains models with classes, and this {type(model).__name__} has "
                f"none; use the objective {model.objective}, or the recipe ssvae"
            )

    @property
    def couples(self) -> bool:
        return self.bound.couples

    def size(self, rows: int, cells: int, latents: int) -> int:
        return self.samples * rows * (cells + latents) * 10  # of ten classes


@dataclass(frozen=True)
class _WithLabels(Objective):
    """`SemiSupervised` on rows of which some have labels: the classifier's share is added."""

    whole: SemiSupervised
    data: Any = field(repr=False)
    labels: Tensor = field(repr=False)

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        whole = self.whole
        terms = whole.terms(model, rows, step, total)
        staged = model.features is not None
        if whole.alpha == 0 or (staged and whole.first_stage(step, total)):
            return terms
        resting = model.features.parameters() if staged else ()
        with held(resting):
            found = self._log_labels(model).mean()
        return terms._replace(bound=terms.bound + whole.alpha * found)

    def _log_labels(self, model: Any) -> Tensor:
        """log q(y|x) of rows with labels, drawn anew, (n,)."""
        few = self.labels
        if len(few) > self.whole.labelled:
            at = torch.randint(len(few), (self.whole.labelled,), device=few.device)
            few = few[at]
        x, mask, label = self.data.batch(few)
        log_q = model.log_classes(x, mask)
        return (log_q * label.to(log_q.dtype)).sum(-1)

    def check_model(self, model: Any) -> None:
        self.whole.check_model(model)

    @property
    def couples(self) -> bool:
        return self.whole.couples
