"""What a family is: raw network output in, a distribution out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

__all__ = ["Family", "levels_in_words"]


class Family(nn.Module, ABC):
    """Turns raw parameters `h` into a distribution over `shape`.

    The same families serve as observation models p(x|z) and as posteriors q(z|x).

    Attributes:
        shape: event shape of the distribution.
        param_shape: shape of the raw parameters of one event.
        discrete: True if values are counted (probabilities), False for densities.
        atoms: values that have a probability amid a density, such as the 0 of an amount; () else.
    """

    discrete: bool = False
    atoms: tuple[float, ...] = ()

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @property
    @abstractmethod
    def param_shape(self) -> tuple[int, ...]:
        """Shape of the raw parameters, packed on the first axis, e.g. (2C, *S) for (C, *S)."""

    @abstractmethod
    def forward(self, h: Tensor) -> Distribution:
        """The distribution with raw parameters h of shape (*, *param_shape).

        Where coordinates are independent, a `Factorized`, which leaves out missing cells; give it
        a `fill` inside the support where 0 is outside.
        """

    @abstractmethod
    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What a network should see of x: scaled to order one, zero where missing."""

    @abstractmethod
    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """True where a value of x lies outside the support; same shape as x.

        The mask matters where cells of a row depend on each other (one 1, a sum of 1): missing
        ones may hold what the others lack. What is said of missing cells has no meaning.
        """

    @property
    @abstractmethod
    def support(self) -> str:
        """The support in words, for error messages."""

    @property
    def constraint(self) -> Constraint | None:
        """The support as torch names it, with its map from the whole line; None if counted."""
        return None if self.discrete else constraints.real

    @property
    def embed_shape(self) -> tuple[int, ...]:
        """Shape of one embedded event."""
        return self.shape

    def unscaled(self) -> None:
        """Drops the scaling of columns: called for posteriors, whose values are of order one."""
        return None

    def hold(self, floor: float) -> None:
        """Holds the deviation of every cell at `floor` at least, in units of its column's scale.

        Families that read no deviation from h, or none in such units, have nothing to hold.
        """
        return None

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets scaling buffers from data (n, *shape), once, before training."""
        return None

    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Raw parameters of the best distribution that ignores z; None: leave at zero."""
        return None


def levels_in_words(levels: int) -> str:
    """The support 0 .. levels - 1, in the same words for every family: priors are held to them."""
    return "0 and 1" if levels == 2 else f"whole numbers 0 to {levels - 1}"
