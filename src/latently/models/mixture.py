r"""Mixtures, fitted by EM: exact likelihood, exact missing values.

    k ~ Categorical(pi),    x | k ~ p_k(x),    p(x) = sum_k pi_k p_k(x)

The latent z is k as a one-hot row. Components know the marginals and conditionals of their rows,
so the responsibilities `p(k | x_o)` of a row with holes, its log p(x_o) and the distribution of
what it lacks are all exact, and `log_w` is log p(x_o) for *every* draw of z. Sources: Dempster,
Laird, Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm", 1977; McLachlan,
Peel, "Finite Mixture Models", 2000; short runs from several starts: Biernacki, Celeux, Govaert,
"Choosing starting values for the EM algorithm for getting the highest likelihood", 2003.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from latently.errors import UserError
from latently.inference.estimators import Gradient
from latently.inference.particles import Particles, equal_shares
from latently.models._columns import moments, standardised
from latently.models.base import Model
from latently.models.components import Component, Full
from latently.models.components._rows import Block, Clusters
from latently.models.components._starts import nearest_clusters
from latently.models.components.base import as_component
from latently.probability.conditional import Draw, check_context, draw
from latently.probability.distributions import Factorized, Joint, OneHot

__all__ = ["Mixture"]

_TRIAL = 10  # passes of every start
_ROW = 0.99  # rows that a component holds at least, but for rounding
_LEAST = 1e-300  # a weight whose logarithm is a number


class _Prepared(NamedTuple):
    """Rows flat, and as passes take them: in blocks, less a centre."""

    blocks: list[Block]
    centre: Tensor
    x: Tensor
    mask: Tensor | None


class Mixture(Model):
    r"""A mixture of components of one kind, with everything in closed form.

    Parameters are in float64: `logits` (C,), log pi up to a constant, and the components' in
    `parts`. EM starts from clusters (k-means++); of several starts the one that is best after ten
    passes goes on.

    Args:
        shape: shape of one row.
        components: how many, C.
        family: their kind, such as `Full()`, `Factors(latents=8)` or `Student(Diagonal())`.
        restarts: starts of EM.

    Raises:
        UserError: components or restarts below 1, a family that is none, or options of it that
            do not fit the rows.

    >>> from latently.models.components import Diagonal
    >>> model = Mixture((2,), 3, family=Diagonal())
    >>> model.degrees()
    14
    """

    density = "exact"
    tolerance = (1e-5, 1e-5)  # EM creeps where components overlap
    rows: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        components: int = 10,
        *,
        family: Component = Full(),  # noqa: B008  (frozen)
        restarts: int = 4,
    ) -> None:
        super().__init__()
        for name, value in (("components", components), ("restarts", restarts)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"Mixture: {name}={value!r} must be a whole number of at least 1")
        self.shape, self.restarts = tuple(shape), restarts
        self.family = as_component(family, "Mixture: family")
        self.family.check(self.shape)
        self.discrete = self.family.discrete
        self.parts = self.family.build(math.prod(self.shape), components)
        self.logits = nn.Parameter(torch.zeros(components, dtype=torch.float64))
        self.register_buffer("rows", torch.zeros((), dtype=torch.float64))

    @property
    def counted(self) -> Tensor | None:
        found = self.parts.counted
        return None if found is None else found.view(self.shape)

    @property
    def weights(self) -> Tensor:
        """pi, (C,)."""
        return self.logits.detach().softmax(0)

    def infer(
        self,
        x: Tensor,
        samples: int = 1,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        gradient: Gradient = "total",
        z: tuple[Tensor, ...] | None = None,
        draw: Draw = draw,
        local: tuple[Tensor, ...] | None = None,
    ) -> Particles:
        if local:
            raise UserError(f"{type(self).__name__} infers exactly; there is nothing to refine")
        check_context(context, 0, type(self).__name__)
        log_p, prior = self._log_parts(x, mask), self._prior()
        q = OneHot(log_p + prior.log_probs, 1)
        (z0,) = (draw(q, samples),) if z is None else z
        log_q = (OneHot(q.log_probs.detach(), 1) if gradient == "path" else q).log_prob(z0)
        log_lik = (z0 * log_p).sum(-1)
        return Particles(
            z=(z0,),
            log_lik=log_lik,
            log_prior=(prior.log_prob(z0),),
            log_q=(log_q,),
            kl=(None,),  # the draw of log q - log p makes log_w exact; the closed form would not
            log_pi=log_q if gradient == "exact" else equal_shares(log_lik),
        )

    def predictive(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Factorized:
        """p(x_j | x_observed) of missing cells: the components' mixed by responsibility."""
        check_context(context, 0, type(self).__name__)
        seen = mask.flatten(1)
        rows = torch.where(seen, x.flatten(1).to(self.dtype), 0.0)
        shares = self._shares(x, mask).log_probs
        return Factorized(self.parts.mixed(shares, rows, seen, self.shape), len(self.shape))

    def left_out(
        self, x: Tensor, mask: Tensor, context: Tensor | None = None
    ) -> Factorized | None:
        check_context(context, 0, type(self).__name__)
        seen = mask.flatten(1)
        rows = torch.where(seen, x.flatten(1).to(self.dtype), 0.0)
        log_joint = self._log_parts(x, mask) + self._prior().log_probs
        found = self.parts.left_out(log_joint, rows, seen, self.shape)
        return None if found is None else Factorized(found, len(self.shape))

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        check_context(context, 0, type(self).__name__)
        return tuple(given) or (self._prior().sample((1, n)),)

    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Joint:
        """p(x|k), k the place of the largest of z: only what is drawn or asked for is computed."""
        check_context(context, 0, type(self).__name__)
        return self.parts.chosen(z[0].argmax(-1), self.shape)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        return self.parts.misfit(x)

    def latent_states(self) -> int | None:
        return len(self.logits)

    def latent_constraints(self) -> tuple[Constraint | None, ...]:
        return (None,)

    def em(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
    ) -> Iterator[Tensor]:
        """Maximum likelihood; yields the mean log p(x_o) of each pass, which never decreases.

        With a prior of the components' parameters its log-density counts, divided by the rows.

        Raises:
            UserError: at the first pass, fewer rows than components, or a column without values.
        """
        check_context(context, 0, type(self).__name__)
        return self._search(x, mask, seed)

    def passes(self, x: Tensor, mask: Tensor | None = None) -> Iterator[Tensor]:
        """EM from the parameters as they stand; yields as `em` does."""
        return self._passes(x, mask)

    def degrees(self) -> int:
        """Weights but one, and the components' parameters."""
        return len(self.logits) - 1 + self.parts.degrees()

    @torch.no_grad()
    def log_prior(self) -> float:
        return float(self.parts.log_prior())

    def complaints(self) -> tuple[str, ...]:
        """Components that hold less than one row, or whose likelihood has no maximum."""
        rows = self.weights * self.rows
        empty = [str(k) for k in (rows < _ROW).nonzero().flatten().tolist() if self.rows > 0]
        found = self.parts.complaints()
        if not empty:
            return found
        who = (
            f"components {', '.join(empty)} hold"
            if len(empty) > 1
            else f"component {empty[0]} holds"
        )
        return (*found, f"{who} less than one row; use fewer components, or more restarts")

    # What is exact.

    def _prior(self) -> OneHot:
        return OneHot(self.logits, 1)

    def _log_parts(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`log p_k(x_o)`, (B, C)."""
        rows = x.flatten(1).to(self.dtype)
        if mask is None:
            return self.parts.log_prob(rows)
        seen = mask.flatten(1)
        return self.parts.log_prob(torch.where(seen, rows, 0.0), seen)

    def _shares(self, x: Tensor, mask: Tensor | None) -> OneHot:
        """p(k | x_o), of batch shape (B,)."""
        return OneHot(self._log_parts(x, mask) + self._prior().log_probs, 1)

    # EM.

    @torch.no_grad()
    def _search(self, x: Tensor, mask: Tensor | None, seed: int) -> Iterator[Tensor]:
        """EM from the best of several starts, by their value after ten passes."""
        rows = self._prepared(x, mask)
        generator = torch.Generator().manual_seed(seed)
        best, reached = self._start(rows, generator), -math.inf
        for trial in range(self.restarts if self.restarts > 1 else 0):
            start = best if trial == 0 else self._start(rows, generator)
            last = float(list(islice(self._climb(rows), _TRIAL))[-1])
            if last > reached:
                best, reached = start, last
        self.load_state_dict(best)
        yield from self._climb(rows)

    @torch.no_grad()
    def _passes(self, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        yield from self._climb(self._prepared(x, mask))

    def _climb(self, rows: _Prepared) -> Iterator[Tensor]:
        """Passes of EM from the parameters as they stand."""
        n = len(rows.x)
        while True:
            total, sums = self._expected(rows)
            yield (total + self.parts.log_prior()) / n
            self.logits.copy_((sums.count / n).clamp(min=_LEAST).log())
            self.parts.maximise(sums)

    def _expected(self, rows: _Prepared) -> tuple[Tensor, Any]:
        """The sum of log p(x_o), and what the components sum over the rows."""
        sums, log_pi = self.parts.begin(rows.centre), self._prior().log_probs
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        for block in rows.blocks:
            log_p, state = self.parts.expect(block, sums)
            joint = (log_p + log_pi).T.contiguous()  # sums over few components run along rows
            r = joint.softmax(0)
            log_p = joint.amax(0) - r.amax(0).log()  # one exponential for both
            if block.live is not None:
                r, log_p = r * block.live, log_p * block.live
            total += log_p.sum()
            self.parts.collect(block, sums, state, r.T)
        return total, sums

    def _prepared(self, x: Tensor, mask: Tensor | None) -> _Prepared:
        x = x.flatten(1).to(device=self.device, dtype=self.dtype)
        mask = None if mask is None or bool(mask.all()) else mask.flatten(1)
        count = len(self.logits)
        if len(x) < count:
            raise UserError(
                f"Mixture: components={count} of {len(x)} rows; use components={len(x)} or fewer"
            )
        if mask is not None:
            x = torch.where(mask, x, 0.0)
            if bool((empty := ~mask.any(0)).any()):
                column = int(empty.nonzero()[0])
                raise UserError(f"column {column} has no observed value; leave it out")
        self.parts.scale(x, mask)
        self.rows.fill_(len(x))
        mean, _ = moments(x, mask)
        centre = mean if self.parts.centred else torch.zeros_like(mean)
        centred = standardised(x, mask, centre, torch.ones_like(mean))
        return _Prepared(self.parts.blocks(centred, mask), centre, x, mask)

    def _start(self, rows: _Prepared, generator: torch.Generator) -> dict[str, Tensor]:
        """Sets the parameters by clusters of the rows, and gives a copy of them."""
        count = len(self.logits)
        features, seen = self.parts.features(rows.x, rows.mask)
        labels = nearest_clusters(features, seen, count, generator)
        clusters = Clusters(rows.x, rows.mask, labels, count)
        self.parts.start(clusters)
        shares = (clusters.count + 1) / (len(rows.x) + count)  # none starts without weight
        self.logits.copy_(shares.log())
        return {name: value.clone() for name, value in self.state_dict().items()}
