r"""Refinement: a posterior of each row's own, found from where the encoder leaves off.

An encoder gives every row its q(z|x) by one map. Per row, the raw parameters `h = h(x) + l` of q
can be searched instead: stochastic variational inference started at the encoder, over the local
parameters `l` that `Model.local` makes. What that gains is the amortisation gap (`gaps`).

Sources: Hoffman, Blei, Wang, Paisley, "Stochastic Variational Inference", 2013; Kim, Wiseman,
Miller, Sontag, Rush, "Semi-Amortized Variational Autoencoders", 2018; Cremer, Li, Duvenaud,
"Inference Suboptimality in Variational Autoencoders", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._mode import evaluating
from latently.inference.bounds import ELBO, Bound
from latently.inference.estimators import (
    FEW_STATES,
    STL,
    VIMCO,
    DReG,
    Enumerate,
    Estimator,
    Reparam,
    Score,
)
from latently.inference.noise import derive, row_seed, seeded
from latently.inference.options import check_count
from latently.inference.particles import Particles
from latently.inference.rows import Rows
from latently.inference.schedules import Schedule

__all__ = ["refine"]

SAMPLES = 32  # a step of a small net takes as long with one draw
STEPS = 100  # 0.01 nats from the best q on digits, where the amortisation gap is 1.6
RATE = 0.1
_TURNS = 16  # groups of draws by which start and end are compared
_CLEARLY = 2.0  # standard errors
_MOMENTS = (0.5, 0.9)  # of Adam; the usual 0.9 and 0.999 are for thousands of steps
_TINY = 1e-8

Local = tuple[Tensor, ...]
Progress = Callable[[int, int], None]


def refine(
    model: Any,
    x: Tensor,
    mask: Tensor | None = None,
    context: Tensor | None = None,
    *,
    bound: Bound = ELBO(),  # noqa: B008  (frozen)
    estimator: Estimator | None = None,
    samples: int = SAMPLES,
    steps: int = STEPS,
    learning_rate: float = RATE,
    seed: int = 0,
    progress: Progress | None = None,
) -> Local:
    r"""Local parameters that raise a bound for every row, found from the encoder's q.

    `l* = argmax_l E[bound(x; h(x) + l)]` by Adam, its rate falling linearly to 0, so that the
    noise of the gradient averages out. `model.infer(x, K, mask, context, local=l*)` draws from
    the refined q. Nothing but l moves: parameters of the model get no gradient and stay as they
    are, to the bit.

    No row is made worse as far as draws can tell: a row keeps its l* only where, on 16 groups of
    common draws, the bound at l* exceeds that at 0 by more than two standard errors (of all
    states: at all); else its l is 0, the encoder's q.

    Rows are refined one at a time, each with draws of its own, a function of (seed, row): the
    result of a row is the same to the last bit in any company. A step of a small net costs
    a millisecond at any of up to some 32 draws, so the draws are many and the steps few.

    Args:
        model: any model with latents.
        x: rows, (B, *X).
        mask: True where observed, (B, *X).
        context: (B, C), for models of p(x|c).
        bound: what is raised.
        estimator: how it is differentiated; None: for reparameterised draws `STL`, or `DReG`
            where that suits the bound, or `Reparam`; for others `Enumerate` up to 1,024 states,
            else `Score`, or `VIMCO`.
        samples: K, draws per step.
        steps: of Adam, per row.
        learning_rate: of the first step, in units of raw parameters.
        seed: of the draws.
        progress: called with (rows done, rows).

    Returns:
        One (B, *H) per latent layer, constants; () where the model's q is exact.

    Raises:
        UserError: options out of range; a bound that compares rows or has a schedule; an
            estimator that does not suit the bound or the latents.

    >>> from functools import partial
    >>> from latently import nets, vae
    >>> model = vae((4,), latents=2, net=partial(nets.MLP, hidden=()))
    >>> (local,) = refine(model, torch.ones(3, 4), steps=5)
    >>> local.shape
    torch.Size([3, 4])
    """
    search = Refinement(bound, estimator, samples, steps, learning_rate)
    if not model.local(0):
        return ()
    with evaluating(model):
        found = []
        for i, row in enumerate(Rows(x, mask, context).singles()):
            found.append(search(model, row, seed))
            if progress:
                progress(i + 1, len(x))
    if not found:
        return model.local(0)
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


@dataclass(frozen=True)
class Refinement:
    """The search of `refine`, for one row at a time; see there."""

    bound: Bound = ELBO()  # noqa: RUF009  (frozen)
    estimator: Estimator | None = None
    samples: int = SAMPLES
    steps: int = STEPS
    learning_rate: float = RATE

    def __post_init__(self) -> None:
        check_search(self)
        _check_rows_alone(self.bound)

    def __call__(self, model: Any, row: Rows, seed: int) -> Local:
        """The local parameters of a row (x, mask, context) of a model with latents."""
        key = row_seed(seed, *row)
        start = model.local(1)
        estimator = self.estimator or suited(model, row, self.bound)
        check_draws(self, estimator)
        ascent = Ascent(self.bound, estimator, self.samples, self.steps, float(self.learning_rate))
        with seeded(derive(key, "refine"), row[0].device), torch.enable_grad():
            end = ascent.climbed(lambda own: ascent.slopes(model, row, own)[0], start)
        states = estimator.gradient == "exact"
        return end if self._gains(model, row, (start, end), key, states) else start

    @torch.no_grad()
    def _gains(
        self, model: Any, row: Rows, ends: tuple[Local, Local], key: int, states: bool
    ) -> bool:
        """Whether the bound at the second of the ends is above that at the first, clearly."""
        turns = range(1 if states else _TURNS)
        pairs = [[self._value(model, row, own, key, i, states) for own in ends] for i in turns]
        gain = torch.tensor([end - start for start, end in pairs], dtype=torch.float64)
        if states:
            return bool(gain > 0)
        return bool(gain.mean() > _CLEARLY * gain.std() / math.sqrt(_TURNS))

    def _value(
        self, model: Any, row: Rows, own: Local, key: int, turn: int, states: bool
    ) -> float:
        """The bound of a group of draws, that are the same for every `own`."""
        x, mask, context = row
        exact = {"gradient": "exact", "draw": Enumerate().draw} if states else {}
        with seeded(derive(key, "compare", turn), x.device):
            p = model.infer(x, self.samples, mask, context, local=own, **exact)
        return float(self.bound(p))


class Ascent(NamedTuple):
    """Steps of Adam up a bound over local parameters, the rate falling linearly to 0.

    A step is of about the rate in every raw parameter, whatever the scale of the bound: plain
    gradient steps that raise a model of 64 pixels throw one of 784 far off.
    """

    bound: Bound
    estimator: Estimator
    samples: int
    steps: int
    rate: float | Tensor

    def value(self, model: Any, rows: Rows, own: Local) -> tuple[Tensor, Particles]:
        """The estimator's surrogate, (B,), and the particles that are draws."""
        x, mask, context = rows
        how: dict[str, Any] = {"gradient": self.estimator.gradient, "draw": self.estimator.draw}
        p = model.infer(x, self.samples, mask, context, local=own, **how)
        return self.estimator(self.bound, p), self.estimator.drawn(p)

    def slopes(
        self, model: Any, rows: Rows, own: Local, *, again: bool = False, graph: bool = False
    ) -> tuple[Local, Tensor]:
        """The gradient of every row's bound with respect to `own`, and the surrogate, (B,).

        Args:
            model: whose q it is.
            rows: x, mask, context.
            own: local parameters.
            again: whether the surrogate will be differentiated once more.
            graph: whether the gradient will be, back to what `own` came from.
        """
        own = tuple(part if graph else part.detach() for part in own)
        own = tuple(part if part.requires_grad else part.requires_grad_() for part in own)
        value, _ = self.value(model, rows, own)
        keep = again or graph
        slopes = torch.autograd.grad(value.sum(), own, retain_graph=keep, create_graph=graph)
        return slopes, value

    def climbed(self, slopes: Callable[[Local], Local], own: Local) -> Local:
        """Where the steps lead from `own`: differentiable as far as the slopes are."""
        a, b = _MOMENTS
        first = second = tuple(torch.zeros_like(part) for part in own)
        for step in range(1, self.steps + 1):
            found = slopes(own)
            first = tuple(a * m + (1 - a) * g for m, g in zip(first, found, strict=True))
            second = tuple(b * v + (1 - b) * g * g for v, g in zip(second, found, strict=True))
            size = self.rate * (1 - (step - 1) / self.steps) / (1 - a**step)
            own = tuple(
                part + size * m / (v / (1 - b**step) + _TINY**2).sqrt()
                for part, m, v in zip(own, first, second, strict=True)
            )
        return own


def suited(model: Any, row: Rows, bound: Bound) -> Estimator:
    """The estimator for a bound and a model's latents where none is named; see `refine`.

    Raises:
        UserError: none takes the bound.
    """
    x, mask, context = row
    own = tuple(part.requires_grad_() for part in model.local(len(x)))
    with torch.enable_grad(), seeded(0, x.device):
        z = model.infer(x, 1, mask, context, local=own).z
    single = len(own) == 1
    if all(layer.requires_grad for layer in z):
        fit: Sequence[Estimator] = (STL(), DReG(), Reparam()) if single else (Reparam(),)
    else:
        states = model.latent_states() if single else None
        few = states is not None and states <= FEW_STATES
        fit = (Enumerate(), Score(), VIMCO()) if few else (Score(), VIMCO())
    for estimator in fit:
        try:
            estimator.check(bound)
        except UserError:
            continue
        return estimator
    raise UserError(f"refine: no gradient of {bound} suits these latents; use bound=ELBO")


def check_search(search: Any, *, scheduled: bool = False) -> None:
    """Refuses a search with bad options: bound, estimator, samples, steps, learning_rate.

    `scheduled`: whether there is a run that the rate may follow.

    Raises:
        UserError: with the name, the value and the fix.
    """
    who = type(search).__name__
    check_count(search, "samples")
    check_count(search, "steps")
    rate, bound, estimator = search.learning_rate, search.bound, search.estimator
    is_schedule = scheduled and isinstance(rate, Schedule)
    if not is_schedule and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise UserError(f"{who}: learning_rate={rate!r} must be a positive number")
    if not isinstance(bound, Bound):
        raise UserError(f"{who}: bound={bound!r} must be a built bound, such as ELBO()")
    if estimator is not None:
        if not isinstance(estimator, Estimator):
            raise UserError(f"{who}: estimator={estimator!r} must be a built one, such as STL()")
        check_draws(search, estimator)


def check_draws(search: Any, estimator: Estimator) -> None:
    """Refuses a bound or a number of draws that the estimator does not take."""
    estimator.check(search.bound)
    if search.samples < estimator.least:
        raise UserError(
            f"{type(search).__name__}: samples={search.samples} are too few, "
            f"{type(estimator).__name__} needs at least {estimator.least} draws per row; raise "
            "samples"
        )
    search.bound.check(search.samples, states=estimator.gradient == "exact")


def _check_rows_alone(bound: Bound) -> None:
    """Refuses bounds that one row at one time has no value of."""
    if bound.couples:
        raise UserError(
            f"Refinement: {bound} compares the rows of a batch, and rows are refined one by one; "
            "use bound=ELBO"
        )
    for name, value in vars(bound).items():
        if isinstance(value, Schedule):
            raise UserError(
                f"Refinement: {type(bound).__name__} has a scheduled {name}={value}, and there is "
                "no run to follow; give a number"
            )
