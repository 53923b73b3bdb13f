"""The training loop: a generator of steps that the caller owns.

    for step in train(model, data, objective, epochs=10):
        if step.ends_epoch:
            tracker.log(bound=float(step.bound), step=step.index)

Everything random in step t (batch, dynamic binarisation, draws of z) is a function of (seed, t),
so a run that is stopped and continued is the same run, and nothing the caller does between two
steps can change it. The global generators are as before after every step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from latently.data import Data
from latently.errors import UserError, closest
from latently.inference.noise import derive, seeded
from latently.inference.schedules import Schedule
from latently.models import Model
from latently.probability.flows import Bijection
from latently.training.objectives import Objective, usual
from latently.training.objectives.variational import Variational
from latently.training.turns import Moved, Turns, groups
from latently.training.update import Update, check_limits

__all__ = ["DEVICES", "PRECISIONS", "BatchOrder", "Loss", "Step", "train"]

DEVICES = ("auto", "cpu", "cuda", "mps")
# no 16-true: Adam's steps overflow in it
PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed", "bf16-true")


@dataclass(frozen=True)
class Step:
    """What one step gives back; tensors are 0-d and stay on the device until read.

    Attributes:
        index: number of steps done, from 1.
        total: number of steps of the run.
        epoch: number of epochs done or under way, from 1.
        ends_epoch: True on the last step of an epoch.
        bound: mean of the objective over the batch, in nats.
        reconstruction: mean of E[log p(x|z)], in nats.
        kl: mean of KL(q || p), in nats.
        learning_rate: the rate of this step.
        optimizer: the optimizer, for checkpoints.
        gradient_norm: global norm of the gradient, before clipping.
        finite: whether loss and gradient are; a step that is not is not taken.
        skipped: whether it was left out because its norm exceeds `skip`.
        clipped: whether its gradient was shortened to `clip`.
        moved: which parameters it was for: "all", or under `inference_steps` those of "inference"
            or the "generative" ones; the others are as they were to the bit.
        scaler: the loss scaler of 16-mixed, for checkpoints.
    """

    index: int
    total: int
    epoch: int
    ends_epoch: bool
    bound: Tensor
    reconstruction: Tensor
    kl: Tensor
    learning_rate: float
    optimizer: torch.optim.Optimizer
    gradient_norm: Tensor
    finite: Tensor
    skipped: Tensor
    clipped: Tensor
    moved: Moved = "all"
    scaler: torch.amp.GradScaler | None = None

    @property
    def taken(self) -> Tensor:
        """Whether the parameters were updated."""
        return self.finite & ~self.skipped

    def state(self) -> dict[str, Any]:
        """What `train(optimizer_state=...)` goes on from."""
        scaler = {} if self.scaler is None else {"scaler": self.scaler.state_dict()}
        return self.optimizer.state_dict() | scaler


class Loss(nn.Module):
    """Model and objective in one module: what is wrapped, compiled and distributed."""

    def __init__(self, model: Model, objective: Objective, total: int) -> None:
        super().__init__()
        self.model, self.objective, self.total = model, objective, total

    def forward(
        self, x: Tensor, mask: Tensor | None, context: Tensor | None, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss (minus the mean bound) and the mean (bound, reconstruction, KL)."""
        terms = self.objective(self.model, x, mask, context, step, self.total)
        bound = terms.bound.mean()
        return -bound, torch.stack([bound.detach(), terms.reconstruction.mean(), terms.kl.mean()])


class BatchOrder:
    """Row indices of batch t: consecutive pieces of an endless stream of permutations.

    Every epoch is one permutation, a function of (seed, epoch); a batch may span two epochs, so
    that every batch has the same size and every row the same count.
    """

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, min(batch_size, rows), seed
        self._known: dict[int, Tensor] = {}

    def steps(self, epochs: int) -> int:
        """Number of whole batches in a number of epochs, at least one."""
        return max(1, epochs * self.rows // self.batch_size)

    def epoch(self, t: int) -> int:
        """The epoch, from 1, that batch t completes, or else the one it lies in."""
        complete = (t + 1) * self.batch_size // self.rows
        return complete if self.ends_epoch(t) else complete + 1

    def ends_epoch(self, t: int) -> bool:
        """Whether an epoch is complete after batch t and was not before."""
        return (t + 1) * self.batch_size // self.rows > t * self.batch_size // self.rows

    def __call__(self, t: int) -> Tensor:
        """Indices of batch t, (batch_size,)."""
        first, last = t * self.batch_size, (t + 1) * self.batch_size
        pieces = []
        while first < last:
            epoch, offset = divmod(first, self.rows)
            piece = self._permutation(epoch)[offset : offset + last - first]
            pieces.append(piece)
            first += len(piece)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._known:
            generator = torch.Generator().manual_seed(derive(self.seed, "epoch", epoch))
            self._known = {e: p for e, p in self._known.items() if e >= epoch - 1}
            self._known[epoch] = torch.randperm(self.rows, generator=generator)
        return self._known[epoch]


def train(
    model: Model,
    data: Data,
    objective: Objective | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 100,
    accumulate: int = 1,
    inference_steps: int = 0,
    inference_epochs: int | None = None,
    learning_rate: float | Schedule = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    clip: float | None = None,
    skip: float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
    start: int = 0,
    optimizer_state: dict[str, Any] | None = None,
) -> Iterator[Step]:
    """Trains a model by gradient, one step at a time.

    A step whose loss or gradient is not finite is not taken: parameters and optimizer stay as
    they are, and `Step.finite` is False. Ending a run that takes none is the caller's.

    Args:
        model: the model; changed in place, and moved to the device.
        data: training rows; they stay on the device as tensors.
        objective: what to maximise; `Variational()` if None.
        epochs: length of the run; give this or `steps`.
        steps: length of the run.
        batch_size: rows per step.
        accumulate: pieces that the rows of a step are passed in, one after the other, to save
            memory; the gradient is that of all rows.
        inference_steps: steps of `model.inference_parameters()` alone before each step of the
            other parameters alone, every one on a batch of its own and counted like any step; 0:
            every step moves all parameters.
        inference_epochs: epochs with such turns, after which every step moves all; None: all.
        learning_rate: a number or a schedule over the run.
        optimizer: constructor `(parameters, lr=...) -> Optimizer`.
        clip: largest global norm of a gradient; longer ones are shortened to it.
        skip: a step whose gradient's norm exceeds this is not taken.
        seed: of batches and draws.
        device: "auto", "cpu", "cuda" or "mps".
        precision: one of `PRECISIONS`, as in Lightning Fabric; log-densities stay in float32 or
            wider.
        compile: compile the step by `torch.compile`.
        start: number of steps done already.
        optimizer_state: `Step.state()` after them.

    Yields:
        A `Step` after every step.

    Raises:
        UserError: options out of range, or none of this machine's.
    """
    order = BatchOrder(len(data), batch_size, seed)
    total = run_length(order, epochs, steps)
    check_pieces(order, accumulate)
    turns = turns_of(order, total, inference_steps, inference_epochs)
    objective = objective or usual(model)
    check_coupling(objective, accumulate)
    objective.check_model(model)
    check_limits(clip, skip)
    fabric = _fabric(device, precision)
    _check_digits(model, precision)
    data = data.to(device=fabric.device)
    objective = objective.of_data(data)
    parameters = [p for p in model.parameters() if p.requires_grad]
    moving = groups(model, parameters) if turns.steps else {}
    rate = learning_rate if isinstance(learning_rate, int | float) else 1.0
    made = _optimizer(optimizer, parameters, rate, fused=precision != "16-mixed")
    bare: nn.Module = Loss(model, objective, total)
    if compile:
        bare = torch.compile(bare)  # type: ignore[assignment]
    loss, backward = bare.to(fabric.device), Tensor.backward
    if precision != "32-true":  # in full precision Fabric's wrappers only cost time
        loss, made = fabric.setup(bare, made)
        backward = fabric.backward
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    update = Update(made, parameters, clip=clip, skip=skip, scaler=scaler)
    _restore(made, scaler, optimizer_state)
    loss.train()
    for t in range(start, total):
        step = torch.tensor(t, device=fabric.device)
        if isinstance(learning_rate, Schedule):
            rate = _scheduled(learning_rate, t, total)
            for group in made.param_groups:
                group["lr"] = rate
        with seeded(derive(seed, "step", t), fabric.device):
            batch = data.batch(order(t).to(fabric.device))
            for parameter in parameters:
                parameter.grad = None
            moved = turns(t)
            only = backward if moved == "all" else partial(backward, inputs=moving[moved])
            value, metrics = _gradient(loss, only, batch, step, accumulate)
            outcome = update(value)
        yield Step(
            index=t + 1,
            total=total,
            epoch=order.epoch(t),
            ends_epoch=order.ends_epoch(t) or t + 1 == total,
            bound=metrics[0],
            reconstruction=metrics[1],
            kl=metrics[2],
            learning_rate=rate,
            optimizer=update.bare,
            moved=moved,
            scaler=scaler,
            **outcome._asdict(),
        )


def _scheduled(schedule: Schedule, t: int, total: int) -> float:
    rate = float(schedule(torch.tensor(t), total))
    if not rate >= 0:
        raise UserError(f"learning_rate={schedule} is {rate:g} in step {t + 1}")
    return rate


def _restore(optimizer: Any, scaler: Any, state: dict[str, Any] | None) -> None:
    if state is None:
        return
    held = {key: value for key, value in state.items() if key != "scaler"}
    optimizer.load_state_dict(held)
    if scaler is not None and "scaler" in state:
        scaler.load_state_dict(state["scaler"])


def _gradient(
    loss: nn.Module,
    backward: Callable[[Tensor], None],
    batch: tuple[Tensor, Tensor | None, Tensor | None],
    step: Tensor,
    pieces: int,
) -> tuple[Tensor, Tensor]:
    """Adds the gradient of the mean loss over the batch; returns loss and metrics."""
    if pieces == 1:
        value, metrics = _called(loss, *batch, step)
        backward(value)
        return value.detach(), metrics.detach()
    values, shown = [], []
    split = [[None] * pieces if p is None else p.tensor_split(pieces) for p in batch]
    for piece in zip(*split, strict=True):
        share = len(piece[0]) / len(batch[0])
        value, metrics = _called(loss, *piece, step)
        backward(value * share)
        values.append(value.detach() * share)
        shown.append(metrics.detach() * share)
    return torch.stack(values).sum(), torch.stack(shown).sum(0)


def _optimizer(
    make: Callable[..., torch.optim.Optimizer],
    parameters: list[nn.Parameter],
    rate: float,
    fused: bool = True,
) -> torch.optim.Optimizer:
    given = make.keywords if isinstance(make, partial) else {}
    if "lr" in given:
        raise UserError(f"optimizer: lr={given['lr']} is set by learning_rate; use that")
    # each of these is another way to run the same update, and excludes the fused one
    chosen = any(given.get(name) for name in ("foreach", "differentiable")) or "fused" in given
    fused = fused and not chosen and "fused" in inspect.signature(make).parameters
    try:
        return make(parameters, lr=rate, **({"fused": True} if fused else {}))
    except (TypeError, ValueError, RuntimeError) as error:
        name = getattr(getattr(make, "func", make), "__name__", "optimizer")
        raise UserError(f"{name}: {' '.join(str(error).split())}") from None


def _called(loss: nn.Module, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
    try:
        return loss(*inputs)
    except RuntimeError as error:
        if "C++ compiler" not in str(error):
            raise
        raise UserError("compile needs a C++ compiler; install g++ or leave compile out") from None


def _check_digits(model: Model, precision: str) -> None:
    """Refuses to round the weights of a flow to three digits, with which it is no bijection."""
    if precision == "bf16-true" and any(isinstance(part, Bijection) for part in model.modules()):
        raise UserError(
            f"precision {precision!r} keeps three digits, and a flow needs more to find its way "
            "back; use 'bf16-mixed' or '32-true'"
        )


def _fabric(device: str, precision: str) -> Any:
    """The device and precision of a run.

    Raises:
        UserError: this machine has no such device, or it cannot train in this precision.
    """
    from lightning_fabric import Fabric

    if device not in DEVICES:
        raise UserError(f"device {device!r}: {closest(device, DEVICES)}")
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}: {closest(precision, PRECISIONS)}")
    if precision == "16-mixed" and (device in ("cpu", "mps") or not torch.cuda.is_available()):
        raise UserError(f"precision {precision!r} needs a CUDA device; use 'bf16-mixed'")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device, True):
        raise UserError(f"device {device!r} is not on this machine; use 'auto' or 'cpu'")
    try:
        return Fabric(accelerator=device, devices=1, precision=precision)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"device {device!r} with precision {precision!r}: {reason}") from None


def run_length(order: BatchOrder, epochs: int | None, steps: int | None) -> int:
    """Number of steps of a run given its epochs or steps.

    Raises:
        UserError: neither or both are given, or one is below 1.
    """
    if (epochs is None) == (steps is None):
        raise UserError("give the length of the run as epochs or as steps, one of them")
    for name, value in (("epochs", epochs), ("steps", steps)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    return steps if steps is not None else order.steps(epochs or 0)


def check_pieces(order: BatchOrder, accumulate: int) -> None:
    """Refuses pieces that a batch cannot be cut into.

    Raises:
        UserError: fewer than 1 piece, or more than rows.
    """
    if not 1 <= accumulate <= order.batch_size:
        raise UserError(
            f"accumulate={accumulate} must be from 1 to the {order.batch_size} rows of a step, "
            "which it cuts into pieces"
        )


def turns_of(
    order: BatchOrder, total: int, inference_steps: int, inference_epochs: int | None
) -> Turns:
    """Whose turn each step of a run of `total` steps is.

    Raises:
        UserError: numbers out of range, epochs of turns without turns, or a run without a step of
            the generative parameters.
    """
    if inference_epochs is not None and inference_epochs < 1:
        raise UserError(f"inference_epochs={inference_epochs} must be at least 1, or left out")
    until = None if inference_epochs is None else order.steps(inference_epochs)
    turns = Turns(inference_steps, until)
    if inference_epochs is not None and not inference_steps:
        raise UserError(
            f"inference_epochs={inference_epochs} has no effect without inference steps; give "
            "inference_steps, too"
        )
    turns.check(total)
    return turns


def check_coupling(objective: Objective, accumulate: int) -> None:
    """Refuses pieces for an objective that compares all rows of a step.

    Raises:
        UserError: its gradient on the pieces would not be that on the batch.
    """
    if accumulate > 1 and objective.couples:
        raise UserError(
            f"accumulate={accumulate} would change the objective: {_named(objective)} compares "
            "the rows of a step with each other; leave accumulate out, or lower batch_size"
        )


def _named(objective: Objective) -> str:
    what = objective.bound if isinstance(objective, Variational) else objective
    return type(what).__name__
