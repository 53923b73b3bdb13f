"""Rows of a table: every column has a family of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from latently import expr
from latently.errors import UserError
from latently.probability.distributions import Factorized
from latently.probability.families._inner import inner
from latently.probability.families.base import Family
from latently.probability.families.normal import Normal

__all__ = ["Mixed"]


class Mixed(Family):
    r"""Columns of unlike kinds, independent given the parameters: numbers, counts, names, ...

        log p(x | h) = sum_j log p_j(x_j | h_j)

    with the family p_j of column j. The sum is the logarithm of a density in the continuous
    columns and of a probability in the counted ones (`counted`), in nats and data units: it
    compares between models that count the same columns. Columns of equal families are computed
    together. Source: Nazabal, Olmos, Ghahramani, Valera, "Handling incomplete heterogeneous data
    using VAEs", 2020.

    Args:
        shape: (D,), the columns.
        columns: constructor of the family of each column, e.g. (Normal, Categorical(levels=3)) in
            text; () for normal ones.

    Attributes:
        counted: (D,) bool, the columns of probabilities.
        atoms: values of single cells of a probability above 0 amid a density, such as the zeros of
            a `Hurdle`.

    Raises:
        UserError: rows that are no vectors, as many families as there are no columns, or what is
            no constructor of one.

    >>> from functools import partial
    >>> from latently.probability.families import Categorical
    >>> family = Mixed((2,), columns=(Normal, partial(Categorical, levels=3)))
    >>> family(torch.zeros(5)).cell_log_prob(torch.tensor([0.0, 2.0]))
    tensor([-0.9189, -1.0986])
    """

    counted: Tensor

    def __init__(
        self, shape: Sequence[int], *, columns: Sequence[Callable[..., Family]] = ()
    ) -> None:
        super().__init__(shape)
        if len(self.shape) != 1:
            raise UserError(
                f"Mixed: rows of shape {self.shape}; a table's rows are vectors of columns"
            )
        (width,) = self.shape
        columns = tuple(columns) or (Normal,) * width
        if len(columns) != width:
            raise UserError(
                f"Mixed: {len(columns)} families for {width} columns; give one for each column"
            )
        self._at = _grouped(columns)
        groups = [inner("Mixed", columns[at[0]], (len(at),)) for at in self._at]
        for family in groups:
            if not isinstance(family(torch.zeros(family.param_shape)), Factorized):
                raise UserError(
                    f"Mixed: {type(family).__name__} is a family of columns that depend on each "
                    "other; choose one of independent cells, such as Normal or Categorical"
                )
        self.groups = nn.ModuleList(groups)
        self._back = _inverse([j for at in self._at for j in at])
        counted = torch.zeros(width, dtype=torch.bool)
        for at, family in self.parts():
            counted[at] = family.discrete
        self.register_buffer("counted", counted, persistent=False)
        self.discrete = all(family.discrete for family in groups)
        self.atoms = tuple(sorted({atom for family in groups for atom in family.atoms}))

    def parts(self) -> Iterator[tuple[list[int], Family]]:
        """The columns of equal families, by their places in a row, with that family over them."""
        return zip(self._at, cast("Iterable[Family]", self.groups), strict=True)

    @property
    def param_shape(self) -> tuple[int, ...]:
        return (sum(family.param_shape[0] for _, family in self.parts()),)

    @property
    def embed_shape(self) -> tuple[int, ...]:
        return (sum(family.embed_shape[0] for _, family in self.parts()),)

    def forward(self, h: Tensor) -> Factorized:
        sizes = [family.param_shape[0] for _, family in self.parts()]
        own = h.split(sizes, -1)
        parts = [family(h) for (_, family), h in zip(self.parts(), own, strict=True)]
        cells = _Cells([part.base for part in parts], self._at, self._back)
        fill = [
            torch.as_tensor(part.fill, dtype=torch.float64, device=h.device).expand(len(at))
            for at, part in zip(self._at, parts, strict=True)
        ]
        return Factorized(cells, 1, torch.cat(fill)[self._back])

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        seen = [
            family.embed(x[..., at], None if mask is None else mask[..., at])
            for at, family in self.parts()
        ]
        return _joined(seen)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = [
            family.misfit(x[..., at], None if mask is None else mask[..., at])
            for at, family in self.parts()
        ]
        return torch.cat(parts, -1)[..., self._back]

    @property
    def support(self) -> str:
        said: dict[str, list[int]] = {}
        for at, family in self.parts():
            said.setdefault(family.support, []).extend(at)
        if len(said) == 1:
            return next(iter(said))
        return "; ".join(f"{what} in column{_listed(at)}" for what, at in said.items())

    def hold(self, floor: float) -> None:
        for _, family in self.parts():
            family.hold(floor)

    @property
    def constraint(self) -> Constraint | None:
        """The whole line where all columns lie on it; else None: torch has no name for it."""
        whole = all(family.constraint is constraints.real for _, family in self.parts())
        return constraints.real if whole else None

    def unscaled(self) -> None:
        for _, family in self.parts():
            family.unscaled()

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Every family's own, of its columns."""
        for at, family in self.parts():
            family.initialise(x[..., at], None if mask is None else mask[..., at])

    @torch.no_grad()
    def marginal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Every family's own, of its columns; 0 where it has none."""
        parts = []
        for at, family in self.parts():
            found = family.marginal(x[..., at], None if mask is None else mask[..., at])
            parts.append(x.new_zeros(family.param_shape) if found is None else found)
        return _joined(parts)


class _Cells(Distribution):
    """Independent cells of several elementwise distributions, put into the order of the columns.

    Args:
        groups: distributions of batch shape (*, n_g).
        at: the columns of each.
        back: where in their sequence every column stands.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    known_as = "Mixed"

    def __init__(
        self, groups: Sequence[Distribution], at: Sequence[list[int]], back: list[int]
    ) -> None:
        self.groups, self.at, self.back = groups, at, back
        lead = groups[0].batch_shape[:-1]
        super().__init__(Size((*lead, len(back))), validate_args=False)

    def parts(self) -> Iterator[tuple[list[int], Distribution]]:
        """The columns of every distribution, with that distribution."""
        return zip(self.at, self.groups, strict=True)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of continuous cells, log-probability of counted ones, in nats."""
        return self._of(value, lambda group, own: group.log_prob(own))

    def cdf(self, value: Tensor) -> Tensor:
        """`P(X_j <= x_j)`."""
        return self._of(value, lambda group, own: group.cdf(own))

    def icdf(self, q: Tensor) -> Tensor:
        """The quantile of every cell."""
        return self._of(q, lambda group, own: group.icdf(own))

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the draws of all cells carry a pathwise gradient."""
        return all(group.has_rsample for group in self.groups)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a pathwise gradient."""
        return self._all(lambda group: group.rsample(Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradients."""
        return self._all(lambda group: group.sample(Size(sample_shape)))

    def entropy(self) -> Tensor:
        """Entropy of every cell, in nats."""
        return self._all(lambda group: group.entropy())

    @property
    def mean(self) -> Tensor:
        """Mean of every cell; of categories, of their codes."""
        return self._all(lambda group: group.mean)

    @property
    def mode(self) -> Tensor:
        """Mode of every cell."""
        return self._all(lambda group: group.mode)

    @property
    def variance(self) -> Tensor:
        """Variance of every cell."""
        return self._all(lambda group: group.variance)

    def _of(self, value: Tensor, function: Callable[[Any, Tensor], Tensor]) -> Tensor:
        value = value.expand(*value.shape[:-1], len(self.back))
        return self._ordered([function(group, value[..., at]) for at, group in self.parts()])

    def _all(self, function: Callable[[Any], Tensor]) -> Tensor:
        return self._ordered([function(group) for group in self.groups])

    def _ordered(self, parts: Sequence[Tensor]) -> Tensor:
        """Groups beside each other, in the order of the columns."""
        whole = _joined(parts)
        back = torch.tensor(self.back, device=whole.device)
        return whole.index_select(-1, back)  # its gradient takes half the time of an index's


def _grouped(columns: Sequence[Any]) -> list[list[int]]:
    """The columns of every family, by what the constructors say."""
    found: dict[str, list[int]] = {}
    for j, constructor in enumerate(columns):
        try:
            key = expr.show(constructor)
        except UserError:  # no expression says what it is: a group of its own
            key = f"#{j}"
        found.setdefault(key, []).append(j)
    return list(found.values())


def _inverse(order: Sequence[int]) -> list[int]:
    back = [0] * len(order)
    for place, j in enumerate(order):
        back[j] = place
    return back


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Beside each other, in the widest of their types and the common leading axes."""
    if len(parts) == 1:
        return parts[0]
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.to(dtype).expand(*lead, part.shape[-1]) for part in parts], -1)


def _listed(at: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(at)[:8])) + (", ..." if len(at) > 8 else "")
    return f"{'s' * (len(at) > 1)} {shown}"
