"""Particles: weighted latent samples, the one thing every model returns and every bound reads."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Particles", "equal_shares"]


class Particles(NamedTuple):
    r"""K weighted samples of the latents of B examples.

    With `w = p(x, z) / q(z|x)`, `E_q[w] = p(x)`: the mean of `log w` is the ELBO, the log of the
    mean of `w` the importance weighted bound, and where the posterior is exact `w` is p(x) for
    every draw. All terms are kept per sample, per example and per layer, in nats.

    Attributes:
        z: one (K, B, *Z) per latent layer, top first; () for a model without latents.
        log_lik: `log p(x_observed | z)`, (K, B).
        log_prior: `log p(z_l | z_<l)`, one (K, B) per layer.
        log_q: `log q(z_l | z_<l, x)`, one (K, B) per layer.
        kl: `KL(q || p)` in closed form, one (K, B) per layer, None where unknown.
        log_pi: log share of each particle, (K, B): -log K for K draws, `log q` where the
            particles are all states of discrete latents.
        kl_cells: the terms of `kl`, one (K, B, *Z) per layer, where q and p factorize; free bits
            read them.
        noise: u of integers x that were scored as x + u, (K, B, *X); None where there is none.
    """

    z: tuple[Tensor, ...]
    log_lik: Tensor
    log_prior: tuple[Tensor, ...]
    log_q: tuple[Tensor, ...]
    kl: tuple[Tensor | None, ...]
    log_pi: Tensor
    kl_cells: tuple[Tensor | None, ...] = ()
    noise: Tensor | None = None

    @property
    def log_w(self) -> Tensor:
        """`log p(x, z) - log q(z|x)`, (K, B)."""
        return self.log_lik + sum(self.log_prior) - sum(self.log_q)

    @property
    def divergence(self) -> Tensor:
        """What the latents cost, `KL(q || p)`: closed form where known, else its draw; (K, B)."""
        layers = zip(self.kl, self.log_prior, self.log_q, strict=True)
        costs = [log_q - log_prior if kl is None else kl for kl, log_prior, log_q in layers]
        return sum(costs[1:], costs[0]) if costs else torch.zeros_like(self.log_lik)

    def only(self, which: slice) -> Particles:
        """Some of the draws, equally weighted."""

        def cut(terms: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(None if term is None else term[which] for term in terms)

        return Particles(
            cut(self.z),
            self.log_lik[which],
            cut(self.log_prior),
            cut(self.log_q),
            cut(self.kl),
            equal_shares(self.log_lik[which]),
            cut(self.kl_cells),
            None if self.noise is None else self.noise[which],
        )

    def chosen(self) -> Particles:
        """One particle of every row, drawn by its share: of states that were summed, a draw."""
        at = torch.multinomial(self.log_pi.exp().T, 1)[:, 0], torch.arange(self.log_pi.shape[1])

        def taken(terms: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(None if term is None else term[at][None] for term in terms)

        (log_lik,) = taken((self.log_lik,))
        return Particles(
            taken(self.z),
            log_lik,
            taken(self.log_prior),
            taken(self.log_q),
            taken(self.kl),
            equal_shares(log_lik),
            taken(self.kl_cells),
            *taken((self.noise,)),
        )

    def average(self, terms: Tensor) -> Tensor:
        """The share-weighted sum over particles, (K, B) to (B,)."""
        if len(terms) == 1:
            return terms[0]
        return (self.log_pi.exp() * terms).sum(0)


def equal_shares(log_lik: Tensor) -> Tensor:
    """`log_pi` of K equally weighted draws, (K, B)."""
    return torch.full_like(log_lik, -math.log(len(log_lik)), requires_grad=False)
