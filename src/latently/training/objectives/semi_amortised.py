"""The bound at posteriors that are refined for every row, from where the encoder leaves off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._surrogates import valued
from latently.inference.bounds import ELBO, Bound
from latently.inference.estimators import Enumerate, Estimator, Reparam
from latently.inference.refine import Ascent, Local, check_draws, check_search
from latently.inference.rows import Rows
from latently.inference.schedules import Schedule, resolve
from latently.training.objectives._held import held
from latently.training.objectives.base import Objective, Terms, check_density, terms_of

__all__ = ["SemiAmortised"]


@dataclass(frozen=True)
class SemiAmortised(Objective):
    r"""The bound at a q refined for every row by a few steps from the encoder's.

    With `h(x)` the raw parameters of the encoder's q, local ones `l` start at 0 and take `steps`
    steps up the gradient of the bound of their row; the decoder and the prior learn at
    `h(x) + l`, so a weak encoder teaches them less of its own faults. The encoder learns

    - by its own bound, at l = 0, with `through=False`: its q stays the start of the search;
    - through the search, with `through=True`: everything gets the total derivative of
      `bound(h(x) + l(x))`, with that of l by second derivatives. The encoder is then taught where
      to start so that the steps arrive, which is not to be good without them.

    The steps are Adam's, as in `refine`, each with draws of its own; the bound reported is of
    draws that l has not seen, so it is a lower bound of log p(x) on average wherever `bound` is.
    It is that of the refined q, and so are values on validation rows. `latently evaluate` asks
    the encoder alone, unless it is told `--method Refined`. A step takes about 2 + `steps` times
    as long as one without the search, `through` about twice that. Source: Kim, Wiseman, Miller,
    Sontag, Rush, "Semi-Amortized Variational Autoencoders", 2018 (there always through the
    search, by plain gradient steps).

    Args:
        bound: what is maximised, over l as over the model.
        estimator: how it is differentiated.
        samples: K, draws per example and step.
        steps: of the search, in every training step.
        learning_rate: of the first step of the search, in raw parameters; a number or a schedule
            over the run. It falls linearly to 0 over the steps.
        through: whether gradients go through the search.

    Raises:
        UserError: options out of range, a pair of bound and estimator that does not suit;
            `through` with an estimator whose gradient is none of a function, so has no second
            one, or with latents whose draws have none (Gamma, Beta, Dirichlet, StudentT);
            before the first step, a model whose q is exact, or (without `through`) one whose
            encoder is part of its prior.

    >>> SemiAmortised(steps=10).is_bound
    True
    """

    bound: Bound = ELBO()  # noqa: RUF009  (frozen)
    estimator: Estimator = Reparam()  # noqa: RUF009
    samples: int = 1
    steps: int = 5
    learning_rate: float | Schedule = 0.03
    through: bool = False

    def __post_init__(self) -> None:
        check_search(self, scheduled=True)
        check_draws(self, self.estimator)
        if self.through and not isinstance(self.estimator, Reparam | Enumerate):
            raise UserError(
                "SemiAmortised: through=True needs second derivatives, and those of "
                f"{type(self.estimator).__name__} are wrong; use estimator=Reparam, or Enumerate "
                "for latents of few states"
            )

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        if self.through and torch.compiler.is_compiling():
            torch._dynamo.graph_break()  # out of the trace, which an error would only end
            raise UserError(
                "SemiAmortised: through=True needs second derivatives, which a compiled step does "
                "not have; leave compile out"
            )
        self.check_model(model)
        rate = self.learning_rate
        ascent = Ascent(
            resolve(self.bound, step, total),
            resolve(self.estimator, step, total),
            self.samples,
            self.steps,
            rate(step, total) if isinstance(rate, Schedule) else rate,
        )
        if not torch.is_grad_enabled():  # validation
            with torch.enable_grad():
                own, _ = _refined(ascent, model, rows)
            return _terms(ascent, model, rows, own)
        whole = _through if self.through else _in_parts
        return whole(ascent, model, rows)

    @property
    def is_bound(self) -> bool:
        return self.bound.is_bound and not self.estimator.relaxes

    @property
    def couples(self) -> bool:
        return self.bound.couples

    def check_model(self, model: Any) -> None:
        check_density(model)
        if not model.local(0):
            raise UserError(
                f"SemiAmortised: the posterior of {type(model).__name__} is exact, there is "
                "nothing to refine; use Variational"
            )
        if not self.through and not model.inference_parameters():
            raise UserError(
                "SemiAmortised: the encoder of this model is part of its prior, and its own bound "
                "would move both; choose another prior than VampPrior, or through=True"
            )

    def size(self, rows: int, cells: int, latents: int) -> int:
        return super().size(rows, cells, latents) * (1 + self.steps if self.through else 2)


def _through(ascent: Ascent, model: Any, rows: Rows) -> Terms:
    """Everything learns by the total derivative."""

    def slopes(own: Local) -> Local:
        return ascent.slopes(model, rows, own, graph=True)[0]

    own = ascent.climbed(slopes, model.local(len(rows[0])))
    value, p = ascent.value(model, rows, own)
    _check_smooth(p.z, own)
    return terms_of(value, p)


def _check_smooth(z: Sequence[Tensor], own: Local) -> None:
    """Refuses draws by way of a gamma, whose derivative torch cannot differentiate again."""
    known = {part.grad_fn for part in own}  # what is before these is the search, already checked
    ahead = [layer.grad_fn for layer in z]
    while ahead:
        node = ahead.pop()
        if node is None or node in known:
            continue
        if node.name().startswith("StandardGamma"):
            raise UserError(
                "SemiAmortised: through=True needs second derivatives, and draws of Gamma, Beta, "
                "Dirichlet and StudentT latents have none; use through=False, or a posterior "
                "such as Normal"
            )
        known.add(node)
        ahead += [before for before, _ in node.next_functions]


def _in_parts(ascent: Ascent, model: Any, rows: Rows) -> Terms:
    """Decoder and prior learn by the bound at the refined q, the encoder by that at its own."""
    encoder = model.inference_parameters()
    known = {id(p) for p in encoder}
    with held([p for p in model.parameters() if id(p) not in known]):
        own, at_encoder = _refined(ascent, model, rows)
    own = tuple(part.detach().requires_grad_() for part in own)  # estimators look for a path to q
    with held(encoder):
        terms = _terms(ascent, model, rows, own)
    return terms._replace(bound=valued(terms.bound, terms.bound + at_encoder))


def _refined(ascent: Ascent, model: Any, rows: Rows) -> tuple[Local, Tensor]:
    """Local parameters, constants, and the surrogate at the encoder's q, (B,)."""
    seen: list[Tensor] = []

    def slopes(own: Local) -> Local:
        found, value = ascent.slopes(model, rows, own, again=not seen)
        seen.append(value if not seen else value.detach())
        return found

    return ascent.climbed(slopes, model.local(len(rows[0]))), seen[0]


def _terms(ascent: Ascent, model: Any, rows: Rows, own: Local) -> Terms:
    """The bound of draws that `own` has not seen."""
    return terms_of(*ascent.value(model, rows, own))
