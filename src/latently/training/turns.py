"""Whose turn it is: steps of q's parameters alone before each step of the others.

With n inference steps, the steps of a run are cycles of n that move the parameters of q(z|x), and
one that moves those of p(x, z), each on a batch of its own:

    t:      0  1  ...  n-1  n   n+1 ...
    moves:  q  q  ...  q    p   q   ...

so q is closer to p(z|x) whenever p is moved. Which it is follows from t alone, like everything
else in a step. Source: He, Spokoyny, Neubig, Berg-Kirkpatrick, "Lagging Inference Networks and
Posterior Collapse in Variational Autoencoders", 2019, which stops when q has caught up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from latently.errors import UserError
from latently.models import Model

__all__ = ["Moved", "Turns", "groups"]

Moved = Literal["all", "inference", "generative"]


@dataclass(frozen=True)
class Turns:
    """Which parameters step t moves.

    Args:
        steps: n, inference steps before each generative one; 0: every step moves all.
        until: steps of the run in turns, after which every step moves all; None: the whole run.

    Raises:
        UserError: negative steps.

    >>> turns = Turns(2, until=4)
    >>> [turns(t) for t in range(6)]
    ['inference', 'inference', 'generative', 'inference', 'all', 'all']
    """

    steps: int = 0
    until: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"inference_steps={self.steps} must be at least 0, a whole number")

    def __call__(self, t: int) -> Moved:
        """What step t, from 0, moves."""
        if self.steps == 0 or (self.until is not None and t >= self.until):
            return "all"
        return "generative" if t % (self.steps + 1) == self.steps else "inference"

    def check(self, total: int) -> None:
        """Refuses a run that ends before p is moved.

        Raises:
            UserError: all of its `total` steps are inference steps.
        """
        if total <= self.steps and self(total - 1) == "inference":
            raise UserError(
                f"inference_steps={self.steps} leaves none of the {total} steps of this run to "
                "the generative parameters; choose fewer, or a longer run"
            )


def groups(model: Model, parameters: list[nn.Parameter]) -> dict[Moved, list[nn.Parameter]]:
    """The trained parameters that each kind of step moves.

    Raises:
        UserError: q or p has none of its own.
    """
    own = {id(p) for p in model.inference_parameters()}
    found: dict[Moved, list[nn.Parameter]] = {
        "all": parameters,
        "inference": [p for p in parameters if id(p) in own],
        "generative": [p for p in parameters if id(p) not in own],
    }
    if not found["inference"]:
        raise UserError(
            f"inference_steps has no parameters to move: this {type(model).__name__} has none "
            "that q alone has (an exact posterior, a VampPrior, which shares the encoder, or a "
            "frozen encoder); leave it out, or choose another prior"
        )
    if not found["generative"]:
        raise UserError(
            "inference_steps leaves no parameters to the generative steps: only q is trained; "
            "leave it out"
        )
    return found
