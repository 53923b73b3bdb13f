"""What a diagnosis is arithmetic on: every term of every draw of every row, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError
from latently.inference._aggregate import Drawn, Mixture, ScoredMixture, blocks, infer
from latently.inference.noise import derive, seeded
from latently.inference.rows import Rows

__all__ = ["LayerTerms", "Terms", "collect"]

MOST_ROWS, LEAST_ROWS = 2_000, 50
_PAIRS = 4e8  # values of pairs of a draw and a row: some seconds
_PRIOR_DRAWS = 4_096

Progress = Callable[[int, int], None]


@dataclass
class LayerTerms:
    """Of one layer of latents, given those above; K draws of N rows, U the shape of its units.

    Attributes:
        rate: log q(z|x) - log p(z), or the KL in closed form, (K, N).
        log_q: log q(z|x), (K, N).
        cells: the KL of every cell, (K, N, *Z), where known.
        means: E[z|x], (1, N, *Z); (K, N, *Z) where it is of what was drawn above.
        prior_variance: of every cell, (*Z,).
        counted: whether z takes counted values.
        information: log q(z|x) - log q(z), (K, N); its mean is I(x; z).
        correlation: log q(z) - sum_d log q(z_d), (K, N).
        of_units: log q(z_d|x) - log q(z_d), (K, N, *U).
    """

    rate: Tensor
    log_q: Tensor
    cells: Tensor | None
    means: Tensor
    prior_variance: Tensor
    counted: bool
    information: Tensor | None = None
    correlation: Tensor | None = None
    of_units: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the latents of one row."""
        return tuple(self.prior_variance.shape)


@dataclass
class Terms:
    """Of the whole model.

    Attributes:
        log_lik: log p(x|z), (K, N).
        loss: log p(x_n|z_n) - log p(x_n|z_m) with z_m drawn for another row, (K, N).
        layers: top first.
        one_prior: whether p(z) is the same for all rows.
        rows: N, of which there are `available`.
        chosen: whether N is our choice, not the caller's.
    """

    log_lik: Tensor
    loss: Tensor
    layers: list[LayerTerms]
    one_prior: bool
    rows: int
    available: int
    chosen: bool

    @property
    def rate(self) -> Tensor:
        """Of all layers, (K, N)."""
        return torch.stack([layer.rate for layer in self.layers]).sum(0)

    @property
    def information(self) -> Tensor | None:
        """Of all layers, (K, N)."""
        found = [layer.information for layer in self.layers if layer.information is not None]
        return torch.stack(found).sum(0) if found else None


def collect(
    model: Any, data: Any, samples: int, rows: int | None, seed: int, progress: Progress | None
) -> Terms:
    """Draws, scores and sums over all pairs of a draw and a row.

    Raises:
        UserError: a model without latents.
    """
    every = Rows(data.x, data.mask, data.context)
    probe = infer(model, *_ordered(every.part(slice(0, 2)), 1), seed)
    if not probe.p.z:
        raise UserError(f"{type(model).__name__} has no latents to diagnose")
    n = min(len(every.x), rows or _affordable(probe, every.x, samples))
    pass_ = _Pass(model, _chosen(every, n, seed), samples, seed, len(probe.p.z), progress)
    # a model that draws besides its latents drew more often than it has layers
    pass_.noisy = len(probe.q) > pass_.layers
    layers = pass_.run()
    (pass_.several if pass_.layers > 1 else pass_.one)(layers)
    log_lik, loss = (torch.cat(part, 1) for part in (pass_.log_lik, pass_.loss))
    return Terms(log_lik, loss, layers, pass_.one_prior, n, len(every.x), rows is None)


def _affordable(probe: Drawn, x: Tensor, samples: int) -> int:
    """N whose pairs of a draw and a row take seconds."""
    cost = sum(layer[0, 0].numel() for layer in probe.p.z)
    if len(probe.p.z) > 1:
        cost += 8 * x[0].numel()  # the pairs are decoded, too
    elif not hasattr(probe.q[-1], "cell_log_prob"):
        cost *= 20
    return min(MOST_ROWS, max(LEAST_ROWS, int(math.sqrt(_PAIRS / (samples * cost)))))


def _chosen(every: Rows, n: int, seed: int) -> Rows:
    """n rows by the seed, in their order; all where there are no more."""
    if n == len(every.x):
        return every
    generator = torch.Generator().manual_seed(derive(seed, "rows"))
    index = torch.randperm(len(every.x), generator=generator)[:n].sort().values
    return every.part(index.to(every.x.device))


def _ordered(part: Rows, samples: int) -> tuple[Tensor, int, Tensor | None, Tensor | None]:
    return part.x, samples, part.mask, part.context


@dataclass
class _Pass:
    """One pass over the rows for what is a row's own, then the pairs."""

    model: Any
    data: Rows
    samples: int
    seed: int
    layers: int
    progress: Progress | None
    noisy: bool = False
    one_prior: bool = True
    done: int = 0
    log_lik: list[Tensor] = field(default_factory=list)
    loss: list[Tensor] = field(default_factory=list)
    z: list[tuple[Tensor, ...]] = field(default_factory=list)
    q: list[Distribution] = field(default_factory=list)

    def run(self) -> list[LayerTerms]:
        """What is a row's own, layer by layer."""
        found: list[list[LayerTerms]] = []
        variance = self._prior_variance()
        counted = [constraint is None for constraint in self.model.latent_constraints()]
        counted += [False] * (self.layers - len(counted))
        for number, rows in enumerate(
            blocks(len(self.data.x), self.data.x[0].numel(), self.samples)
        ):
            part = self.data.part(rows)
            seed = derive(self.seed, "diagnose", number)
            p, asked = infer(self.model, *_ordered(part, self.samples), seed)
            self._swap(p, part, seed)
            asked = asked[-self.layers :]
            found.append(
                [
                    LayerTerms(
                        rate=_cpu(log_q - prior if kl is None else kl),
                        log_q=_cpu(log_q),
                        cells=None if cells is None else _cpu(cells),
                        means=_means(q, z),
                        prior_variance=own,
                        counted=count,
                    )
                    for kl, log_q, prior, cells, q, z, own, count in zip(
                        p.kl,
                        p.log_q,
                        p.log_prior,
                        [*p.kl_cells, *[None] * (self.layers - len(p.kl_cells))],
                        asked,
                        p.z,
                        variance,
                        counted,
                        strict=True,
                    )
                ]
            )
            self.z.append(p.z)
            if self.layers == 1:
                self.q.append(self._once(part, seed) if self.noisy else asked[0])
            self._advance(len(part.x))
        return [_joined([block[at] for block in found]) for at in range(self.layers)]

    def _swap(self, p: Any, part: Rows, seed: int) -> None:
        """What the rows lose by the draws of the row before them, the noise besides as it was."""
        others = tuple(z.roll(1, 1) for z in p.z)
        of_others = infer(self.model, *_ordered(part, self.samples), seed, others).p
        self.log_lik.append(_cpu(p.log_lik))
        self.loss.append(_cpu(p.log_lik) - _cpu(of_others.log_lik))
        if part.context is not None:
            there, here = p.log_prior[0].roll(1, 1), of_others.log_prior[0]
            self.one_prior &= bool(torch.allclose(there, here, rtol=1e-4, atol=1e-4))

    def _once(self, part: Rows, seed: int) -> Distribution:
        """q(z|x) with one draw for each row of what the model draws besides."""
        return infer(self.model, *_ordered(part, 1), derive(seed, "once")).q[-1]

    def _prior_variance(self) -> list[Tensor]:
        """Of every cell of z by draws, under the contexts of the rows where there are any."""
        count, context = _PRIOR_DRAWS, self.data.context
        if context is not None:
            count = max(count, len(context))
            context = context[torch.arange(count, device=context.device) % len(context)]
        with seeded(derive(self.seed, "prior"), self.data.x.device):
            drawn = self.model.latents(count, context)
        return [_cpu(z[0]).var(0) for z in drawn]

    def one(self, layers: list[LayerTerms]) -> None:
        """Adds the aggregate terms of a model of one layer."""
        (layer,), mixture = layers, Mixture(self.q)
        if self.noisy:
            z = mixture.sample(self.samples, derive(self.seed, "aggregate"))
        else:
            z = torch.cat([drawn for (drawn,) in self.z], 1)
        own, own_cells = mixture.own(z)
        joint, cells = mixture.log_prob(z.flatten(0, 1), self._advance)
        joint = joint.view(own.shape)
        layer.information = (own - joint).cpu()
        if own_cells is not None and cells is not None:
            cells = cells.view(own_cells.shape)
            product = cells.flatten(2).sum(-1) if cells.dim() > 2 else cells
            layer.correlation = (joint - product).cpu()
            layer.of_units = (own_cells - cells).cpu()

    def several(self, layers: list[LayerTerms]) -> None:
        """Adds the aggregate terms of a model of several layers."""
        if self.noisy:  # q(z) would need the noise of every row again for every draw
            return
        z = tuple(
            torch.cat([drawn[at] for drawn in self.z], 1).flatten(0, 1)
            for at in range(self.layers)
        )
        mixture = ScoredMixture(self.model, self.data, derive(self.seed, "pairs"))
        joint = mixture.log_prob(z, self._advance).cpu().view(self.layers, self.samples, -1)
        down = torch.stack([layer.log_q for layer in layers]).cumsum(0) - joint
        above = torch.zeros_like(down[0])
        for layer, information in zip(layers, down, strict=True):
            layer.information = information - above
            above = information

    def _advance(self, units: int) -> None:
        self.done += units
        if self.progress:
            total = len(self.data.x) * (1 + self.samples * (self.layers == 1 or not self.noisy))
            self.progress(self.done, total)


def _joined(parts: list[LayerTerms]) -> LayerTerms:
    first = parts[0]
    cells = [part.cells for part in parts if part.cells is not None]
    return LayerTerms(
        rate=torch.cat([part.rate for part in parts], 1),
        log_q=torch.cat([part.log_q for part in parts], 1),
        cells=torch.cat(cells, 1) if cells else None,
        means=torch.cat([part.means for part in parts], 1),
        prior_variance=first.prior_variance,
        counted=first.counted,
    )


def _means(q: Distribution, z: Tensor) -> Tensor:
    """E[z|x] of a block of rows, (1, B, *Z), or given what was drawn besides, (K, B, *Z)."""
    mean, rows = q.mean, z.shape[1]
    if not bool(torch.isfinite(mean).all()):  # heavy tails have none: the draws' own
        return _cpu(z)
    return _cpu(mean.reshape(-1, rows, *z.shape[2:]))


def _cpu(terms: Tensor) -> Tensor:
    return terms.double().cpu()
