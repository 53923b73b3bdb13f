"""Components of tables: every column has a family of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latently.errors import UserError
from latently.inference.options import check_number
from latently.models._columns import columns as columns_in_words
from latently.models.components._coded import Coded, Table, coded, tables_of
from latently.models.components._column_kinds import Kind, factors
from latently.models.components._counted_columns import (
    Bernoullis,
    Levels,
    NegativeBinomials,
    Poissons,
    ZeroInflates,
)
from latently.models.components._real_columns import (
    Gammas,
    Hurdles,
    LogNormals,
    Normals,
    Students,
)
from latently.models.components._rows import Block, Clusters, plain_blocks, slices
from latently.models.components._weighted import Part
from latently.models.components.base import Component, Components
from latently.probability.distributions import Joint
from latently.probability.families import (
    Bernoulli,
    Categorical,
    Embedded,
    Family,
    Gamma,
    Hurdle,
    LogNormal,
    Mixed,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflated,
)
from latently.probability.families._inner import inner
from latently.probability.families.mixed import _Cells

__all__ = ["Columns"]

_BEFORE = 5.0  # rows of the whole table that every starting cluster has beside its own
_AT_ONCE = 2**21  # parameters of rows of one component each that are held at once
_WORDS = (
    "Normal, LogNormal, StudentT, Gamma, Hurdle, Bernoulli, Categorical, Embedded, Ordinal, "
    "Poisson, NegativeBinomial, ZeroInflated(Poisson) and ZeroInflated(NegativeBinomial)"
)


@dataclass(frozen=True)
class Columns(Component):
    r"""Independent columns of unlike kinds: `p_k(x) = prod_j p_kj(x_j)`; latent class analysis.

    Columns depend on each other through the component alone, and every component has parameters
    of its own for each: of `NegativeBinomial` the dispersion, too, and of `Categorical`,
    `Embedded` and `Ordinal` the shares of all levels. log p(x_o) of a row with holes and the
    distribution of what it lacks are exact. As `Mixed` says of its own sum, log p is a density in
    some columns and a probability in others.

    A pass of EM fits every column by its weighted maximum likelihood, or climbs towards it. Levels
    that no row of a component has would be impossible in a later row: of every share (bits,
    levels, and the zeros of a `Hurdle`) a component has seen `pseudo` rows more, of the column's
    overall shares, half a row added to each. This is a Dirichlet prior whose log-density counts in
    what EM reports. Shares stay above 1e-6, deviations above 1e-3 of the column's. Sources:
    Lazarsfeld, Henry, "Latent Structure Analysis", 1968; Hunt, Jorgensen, "Mixture model
    clustering for mixed data with missing information", 2003.

    Args:
        columns: constructor of the family of each column, e.g. (Normal, Categorical(levels=3)) in
            text; () for normal ones, or in a recipe for those that a table's columns have.
        pseudo: rows of the overall shares, 0 or more; 0: maximum likelihood.

    Raises:
        UserError: pseudo below 0, or a family that has no such fit.

    >>> Columns(columns=(Normal, Poisson), pseudo=0.5).discrete
    False
    """

    columns: tuple[Callable[..., Family], ...] = ()
    pseudo: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "pseudo", low=0.0, scheduled=False)
        if not isinstance(self.columns, tuple | list):
            raise UserError(
                f"Columns: columns={self.columns!r} must be a tuple of families, one for each "
                "column, such as (Normal, Poisson)"
            )
        object.__setattr__(self, "columns", tuple(self.columns))
        for j, constructor in enumerate(self.columns):
            _fitted(constructor, j)

    @property
    def discrete(self) -> bool:
        made = [inner("Columns", constructor, (1,)) for constructor in self.columns]
        return bool(made) and all(family.discrete for family in made)

    def check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 1:
            raise UserError(
                f"Columns: rows of shape {shape}; a table's rows are vectors of columns"
            )
        if self.columns and len(self.columns) != shape[0]:
            raise UserError(
                f"Columns: {len(self.columns)} families for {shape[0]} columns; give one for each"
            )

    def build(self, size: int, count: int) -> Components:
        self.check((size,))
        chosen = [_fitted(constructor, j) for j, constructor in enumerate(self.columns)]
        return _Columns(Mixed((size,), columns=chosen), count, self.pseudo)


@dataclass
class _Sums:
    """Of a pass.

    Attributes:
        count: sum of r, (C,).
        held: blocks with their responsibilities, for what is fitted from the rows themselves.
        entries: log-density of every value in the tables, (rows, C); None: not computed yet.
        by_value: sums of r by value, (rows, C).
    """

    count: Tensor
    held: list[tuple[Coded, Tensor]] = field(default_factory=list)
    tables: dict[int, Table] | None = None
    entries: Tensor | None = None
    by_value: Tensor | None = None


class _Columns(Components):
    """Raw parameters (C, P) of a family of mixed columns, and the kinds that fit its groups."""

    centred = False
    varies: Tensor

    def __init__(self, family: Mixed, count: int, pseudo: float) -> None:
        super().__init__()
        self.family = family.double()
        self.groups = [at for at, _ in family.parts()]
        self.kinds = nn.ModuleList(_kind(group, pseudo) for _, group in family.parts())
        width = family.param_shape[0]
        self.raw = nn.Parameter(torch.zeros(count, width, dtype=torch.float64))
        self.register_buffer("varies", torch.ones(family.shape[0], dtype=torch.bool))

    @property
    def counted(self) -> Tensor | None:
        some = {family.discrete for _, family, _ in self._each()}
        return self.family.counted if len(some) > 1 else None

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        d = self.family(self.raw)
        found = []
        for rows in slices(len(x), self.width):
            seen = None if mask is None else mask[rows][:, None]
            found.append(d.log_prob(x[rows][:, None], seen))
        return torch.cat(found)

    def member(self, k: int, shape: tuple[int, ...]) -> Joint:
        return self.family(self.raw[k])

    def chosen(self, index: Tensor, shape: tuple[int, ...]) -> Joint:
        if index.numel() * self.raw.shape[1] > _AT_ONCE:
            return super().chosen(index, shape)
        return self.family(self.raw[index])

    def mixed(
        self, shares: Tensor, x: Tensor, mask: Tensor, shape: tuple[int, ...]
    ) -> Distribution:
        return self._blended([shares[..., None]] * len(self.groups))

    def left_out(
        self, log_joint: Tensor, x: Tensor, mask: Tensor, shape: tuple[int, ...]
    ) -> Distribution:
        own = self.family(self.raw).cell_log_prob(x[:, None])
        shares = log_joint[..., None] - torch.where(mask[:, None], own, 0.0)  # (B, C, D)
        shares = shares.log_softmax(1)  # p(k | x_o without j)
        return self._blended([shares[..., at] for at in self.groups])

    def _blended(self, shares: Sequence[Tensor]) -> Distribution:
        """Cells of the mixture by log shares of every group of columns."""
        parts = [
            kind.blend(family, raw, own)
            for (kind, family, raw), own in zip(self._each(), shares, strict=True)
        ]
        return _Cells(parts, self.groups, self.family._back)

    def degrees(self) -> int:
        each = [
            len(at) * kind.parameters_each()
            for at, (kind, _, _) in zip(self.groups, self._each(), strict=True)
        ]
        return len(self.raw) * sum(each)

    def misfit(self, x: Tensor) -> tuple[Tensor, str]:
        return self.family.misfit(x), self.family.support

    @torch.no_grad()
    def complaints(self) -> tuple[str, ...]:
        """Names components and columns whose spread is held at its least."""
        fallen = torch.zeros(len(self.raw), len(self.varies), dtype=torch.bool)
        for at, (kind, family, raw) in zip(self.groups, self._each(), strict=True):
            held = kind.held(family, raw)
            if held is not None:
                fallen[:, at] = held.cpu()
        fallen &= self.varies.cpu()
        if not bool(fallen.any()):
            return ()
        who = ", ".join(map(str, fallen.any(1).nonzero().flatten().tolist()))
        where = ", ".join(map(str, fallen.any(0).nonzero().flatten().tolist()))
        return (
            f"component {who}: no spread in column {where}, held at 1e-3 of the column's; its "
            "share of the likelihood has no maximum; count values that recur (Categorical, "
            "Poisson), or use fewer components",
        )

    def log_prior(self) -> Tensor | float:
        return sum((kind.log_prior(raw) for kind, _, raw in self._each()), 0.0)

    # EM.

    @torch.no_grad()
    def scale(self, x: Tensor, mask: Tensor | None) -> None:
        self.family.initialise(x, mask)
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        for at, (kind, family, _) in zip(self.groups, self._each(), strict=True):
            kind.scale(family, x[:, at], seen[:, at])
        filled = torch.where(seen, x, torch.inf)
        self.varies.copy_(filled.amin(0) < torch.where(seen, x, -torch.inf).amax(0))
        if bool((constant := ~self.varies & ~self.family.counted).any()):
            warnings.warn(
                f"{columns_in_words(constant)} constant: the deviation is held at its least, so "
                "this share of the density means little",
                stacklevel=2,
            )

    def features(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Each kind's own: standardised numbers, logarithms, levels one-hot."""
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        found, held = [], []
        for at, (kind, family, _) in zip(self.groups, self._each(), strict=True):
            part = kind.features(family, x[:, at], seen[:, at])
            found.append(part.flatten(1))
            held.append(seen[:, at, None].expand_as(part).flatten(1))
        return torch.cat(found, 1).to(x.dtype), None if mask is None else torch.cat(held, 1)

    @torch.no_grad()
    def start(self, clusters: Clusters) -> None:
        sums, labels = self.begin(clusters.within), clusters.labels
        before = _BEFORE / len(labels)
        for block in self.blocks(clusters.x, clusters.mask):
            own = nn.functional.one_hot(labels[block.numbers], len(self.raw))
            self.collect(block, sums, None, own.to(self.raw.dtype) + before)
        self._fit(sums, anew=True)

    @property
    def width(self) -> int:
        """Cells of the widest group, of all components: their log-densities are held at once."""
        return 4 * len(self.raw) * max(map(len, self.groups)) + len(self.varies)

    def blocks(self, x: Tensor, mask: Tensor | None) -> list[Block]:
        levels = [kind.levels for kind, _, _ in self._each()]
        tables = tables_of(x, mask, self.groups, levels)
        return [
            block._replace(state=(coded(block, self.groups, tables), tables))
            for block in plain_blocks(x, mask, self.width)
        ]

    def begin(self, centre: Tensor) -> _Sums:
        return _Sums(torch.zeros_like(self.raw[:, 0]))

    def expect(self, block: Block, sums: _Sums) -> tuple[Tensor, None]:
        rows, tables = block.state
        found = torch.zeros(len(block.x), len(self.raw), dtype=self.raw.dtype, device=self.device)
        if rows.codes is not None:
            if sums.entries is None:
                sums.entries = self._entries(tables)
            found = torch.sparse.mm(rows.codes, sums.entries)
        each = list(self._each())
        for g, (x, seen) in rows.direct.items():
            _, family, raw = each[g]
            cells = factors(family, raw)
            found += cells.log_prob(x[:, None], None if seen is None else seen[:, None])
        return found, None

    def collect(self, block: Block, sums: _Sums, state: None, r: Tensor) -> None:
        rows, sums.tables = block.state
        sums.count += r.sum(0)
        sums.held.append((rows, r))
        if rows.codes is not None:
            found = torch.sparse.mm(rows.codes.t(), r.contiguous())
            sums.by_value = found if sums.by_value is None else sums.by_value + found

    def maximise(self, sums: _Sums) -> None:
        self._fit(sums, anew=False)

    def _entries(self, tables: dict[int, Table]) -> Tensor:
        """Log-densities of all values in the tables, (rows, C)."""
        each, found = list(self._each()), []
        for g, table in tables.items():
            _, family, raw = each[g]
            cells = factors(family, raw).base
            found.append(table.entries(cells.log_prob(table.values[:, None])))
        return torch.cat(found)

    @torch.no_grad()
    def _fit(self, sums: _Sums, *, anew: bool) -> None:
        """Sets every group's parameters by its weighted rows."""
        assert sums.tables is not None
        found = []
        for g, (kind, family, raw) in enumerate(self._each()):
            if g in sums.tables:
                assert sums.by_value is not None
                parts = [sums.tables[g].part(sums.by_value)]
            else:
                parts = [Part(rows.direct[g][0], r, rows.direct[g][1]) for rows, r in sums.held]
            found.append(kind.fit(family, parts, None if anew else raw))
        self.raw.copy_(torch.cat(found, 1))

    def _each(self) -> Iterator[tuple[Kind, Family, Tensor]]:
        """Kind, family and raw parameters of every group."""
        families = [family for _, family in self.family.parts()]
        own = self.raw.split([family.param_shape[0] for family in families], 1)
        for kind, family, raw in zip(self.kinds, families, own, strict=True):
            yield cast(Kind, kind), family, raw


def _fitted(constructor: Any, column: int) -> Callable[..., Family]:
    """The family that a component has where this one is named, each with all it learns in h.

    Raises:
        UserError: it has no fit.
    """
    made: Any = inner("Columns", constructor, (1,))
    kind: Any = type(made)
    if kind in (Categorical, Embedded, Ordinal):
        return partial(Categorical, levels=made.levels)
    if kind is NegativeBinomial:
        return partial(NegativeBinomial, dispersion="cell")
    if kind in (Normal, LogNormal, StudentT, Gamma, Bernoulli, Poisson):
        return kind
    if kind is Hurdle:
        return partial(Hurdle, family=_fitted(type(made.family), column))
    if kind is ZeroInflated and type(made.family) in (Poisson, NegativeBinomial):
        return partial(ZeroInflated, family=_fitted(type(made.family), column))
    raise UserError(
        f"Columns: column {column} is {_named(made)}, which EM cannot fit; choose one of {_WORDS}"
    )


def _named(family: Any) -> str:
    inside = f"({type(family.family).__name__})" if hasattr(family, "family") else ""
    return type(family).__name__ + inside


def _kind(family: Family, pseudo: float) -> Kind:
    """What fits the columns of a family."""
    width = family.shape[0]
    if isinstance(family, Categorical):
        return Levels(pseudo, width, family.levels)
    if isinstance(family, Bernoulli):
        return Bernoullis(pseudo, width)
    if isinstance(family, Hurdle):
        return Hurdles(_kind(family.family, pseudo), pseudo, width)
    if isinstance(family, ZeroInflated):
        return ZeroInflates(_kind(family.family, pseudo))
    if isinstance(family, NegativeBinomial):
        return NegativeBinomials(width)
    if isinstance(family, Poisson):
        return Poissons(width)
    of: dict[type[Family], type[Kind]] = {
        Normal: Normals,
        LogNormal: LogNormals,
        StudentT: Students,
        Gamma: Gammas,
    }
    return of[type(family)]()
