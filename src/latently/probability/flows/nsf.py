"""The neural spline flow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from latently.probability.flows._vectors import VectorFlow, order, zuko
from latently.probability.flows.base import check_between

__all__ = ["NSF"]


_SLOPE = 1e-2


@dataclass(frozen=True)
class NSF(VectorFlow):
    r"""Neural spline flow: each value through a rational-quadratic spline, by a net of the others.

    Monotone splines of `bins` pieces on [-bound, bound], the identity outside: rows far out get
    the tails of a normal, so the box must hold them. More flexible than `MAF` (one feature, too,
    can have several modes) at five to ten times its cost. Source: Durkan, Bekasov, Murray,
    Papamakarios, "Neural Spline Flows", 2019.

    Attributes:
        bins: pieces of a spline, at least 2.
        coupling: let half of the features read the other half, which is inverted in two passes,
            instead of each reading all before it.
        bound: half the side of the box, in standard deviations of the columns.

    Raises:
        UserError: fewer than 2 `bins`, or a `bound` outside (0, 1000].

    >>> import torch
    >>> NSF(transforms=2, bins=4).build(3)(torch.zeros(5, 3))[0].shape
    torch.Size([5, 3])
    """

    bins: int = 8
    coupling: bool = False
    bound: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_whole("bins", self.bins, 2)
        check_between(self, "bound", self.bound, 1000.0)

    @property
    def params(self) -> int:
        return 3 * self.bins - 1

    def layer(self, number: int, features: int, context: int) -> nn.Module:
        z = zuko()
        return z.flows.MaskedAutoregressiveTransform(
            features,
            context,
            passes=2 if self.coupling else None,
            order=order(number, features),
            univariate=partial(z.transforms.MonotonicRQSTransform, bound=self.bound, slope=_SLOPE),
            shapes=[(self.bins,), (self.bins,), (self.bins - 1,)],
            hidden_features=self.hidden,
            activation=nn.Tanh,
        )
