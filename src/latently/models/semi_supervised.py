r"""Semi-supervised variational autoencoders: a class that is sometimes known is a latent.

    M2:     p(x, y, z) = p(y) p(z) p(x|y, z),                   q(y, z|x) = q(y|x) q(z|x, y)
    M1+M2:  p(x, y, z, f) = p(y) p(z) p(f|y, z) p(x|f),         q = q(f|x) q(y|f) q(z|f, y)

y is one of C classes, with p(y) = 1/C, and summed, never drawn: every draw of z comes once for
each class, with the share q(y|x) / K. Where the label is known q(y|x) is 1 for it, and the bound
is of log p(x, y); elsewhere of log p(x). Source: Kingma, Rezende, Mohamed, Welling,
"Semi-Supervised Learning with Deep Generative Models", 2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from latently.errors import UserError
from latently.inference.estimators import Gradient
from latently.inference.particles import Particles, equal_shares
from latently.models.base import Model
from latently.probability.conditional import Conditional, Draw, draw, draw_centre, draw_mean, shown
from latently.probability.distributions import OneHot, kl_and_cells, observed_log_prob
from latently.probability.priors import Prior

__all__ = ["SemiSupervisedVAE"]

_NEVER = -1e30  # a log-probability that no draw meets; -inf would make gradients NaN
_Seen = tuple[Tensor, ...]
_Scored = Callable[[tuple[Tensor, ...]], Tensor]


class SemiSupervisedVAE(Model):
    r"""A variational autoencoder whose rows have classes, some of them known: M2, or M1+M2.

    Labels are the context: (B, C) one-hot rows, all zeros where unknown; no context at all is
    none known. `infer` returns K C particles, for each draw all classes: `log_pi` is
    `log q(y|x) - log K`, so the ELBO is an exact sum over y, with its gradient, and the importance
    weighted bound is `log 1/K sum_k sum_y p(x, y, z_ky) / q(z_ky|x, y)`. Layers of latents are y,
    z and, with features, f. Evidence (`latently.evaluate`) hides labels: it is of log p(x).

    With `features`, an autoencoder q(f|x), p(x|f) that the objective `SemiSupervised` trains
    first, all else sees f in place of x. The whole is one model with one bound; the features' own
    prior serves their training alone.

    Args:
        classifier: q(y|x), over `OneHot`: inputs are the embedded x, then the mask if
            `sees_mask`; with features the embedded f.
        encoder: q(z|x, y): the same inputs, then y as its context.
        decoder: p(x|y, z), with features p(f|y, z): inputs are the embedded z, then y as its
            context.
        prior: p(z).
        features: a `VAE`; None: M2.
        sees_mask: whether classifier and encoder of M2 were built with the mask as an input.

    Raises:
        UserError: the decoder is over rows of another shape than the features'.
    """

    density = "bound"
    context_optional = True
    objective = "SemiSupervised"

    def __init__(
        self,
        classifier: Conditional,
        encoder: Conditional,
        decoder: Conditional,
        prior: Prior,
        *,
        features: Any = None,
        sees_mask: bool = False,
    ) -> None:
        super().__init__()
        self.classifier, self.encoder, self.decoder = classifier, encoder, decoder
        self.prior, self.features, self.sees_mask = prior, features, sees_mask
        self.contexts = classifier.family.shape[-1]
        encoder.family.unscaled()
        whole = decoder.family if features is None else features
        self.shape, self.discrete = whole.shape, whole.discrete
        if features is None:
            return
        decoder.family.unscaled()
        if features.encoder.family.shape != decoder.family.shape:
            raise UserError(
                f"the decoder is over rows of shape {decoder.family.shape}, the features have "
                f"{features.encoder.family.shape}; build both for one shape"
            )

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
        """Latents of x, (K C, B): every class of the first draw, then of the second, and so on.

        A given z is scored as it is, (K, B). Arguments are those of every model.
        """
        how: dict[str, Any] = {"gradient": gradient, "draw": draw}
        if self.features is None:

            def scored(z: tuple[Tensor, ...]) -> Tensor:
                return observed_log_prob(self.likelihood(z), x, mask)

            return self._of_rows(self._seen(x, mask), scored, samples, context, z, local, **how)
        if gradient == "exact":
            raise UserError(
                "the states of features are not enumerated; use estimator=Reparam, or a model "
                "without features"
            )
        of_features = None if z is None else z[2:], None if local is None else local[2:]
        below = self.features.infer(
            x, samples, mask, z=of_features[0], local=of_features[1], **how
        )
        return self._above(below, context, z, local, how)

    def _above(
        self,
        below: Particles,
        context: Tensor | None,
        z: tuple[Tensor, ...] | None,
        local: tuple[Tensor, ...] | None,
        how: dict[str, Any],
    ) -> Particles:
        """M2 of features f (K, B, *F) that came with `below`: each draw of f is a row of M2."""
        lead = below.log_lik.shape
        f = below.z[0].flatten(0, 1)

        def scored(z: tuple[Tensor, ...]) -> Tensor:
            return self._decoded(z).log_prob(f)

        p = self._of_rows(
            (self.features.encoder.family.embed(f),),
            scored,
            1,
            _repeated(context, lead),
            None if z is None else tuple(layer.flatten(0, 1)[None] for layer in z[:2]),
            None if local is None else tuple(_repeated(own, lead) for own in local[:2]),
            **how,
        )
        classes = len(p.log_lik)

        def rows(t: Tensor) -> Tensor:
            return t.unflatten(1, lead).transpose(0, 1).flatten(0, 1)

        def each(t: Tensor) -> Tensor:
            return t.repeat_interleave(classes, 0)

        log_f = rows(p.log_lik)
        return Particles(
            z=(*(rows(layer) for layer in p.z), each(below.z[0])),
            log_lik=each(below.log_lik),
            log_prior=(*(rows(term) for term in p.log_prior), log_f),
            log_q=(*(rows(term) for term in p.log_q), each(below.log_q[0])),
            kl=(*(None if term is None else rows(term) for term in p.kl), None),
            log_pi=rows(p.log_pi) - math.log(lead[0]),
            kl_cells=(None, None, None),
        )

    def _of_rows(
        self,
        seen: _Seen,
        scored: _Scored,
        samples: int,
        context: Tensor | None,
        z: tuple[Tensor, ...] | None,
        local: tuple[Tensor, ...] | None,
        *,
        gradient: Gradient,
        draw: Draw,
    ) -> Particles:
        """Particles of M2 whose rows are `seen`, with `scored(y, z)` their log-likelihood."""
        label, offset = (None, None) if local is None else local[:2]
        q_y = self._classes(seen, context, label)
        y = self._every_class(q_y) if z is None else z[0]
        h = self.encoder.params(*seen, y)
        h = h if offset is None else h + offset
        q, prior = self.encoder.family(h), self.prior()
        z0 = draw(q, samples) if z is None else z[1]
        held = gradient == "path"
        log_z = self.encoder.held_log_prob(h, z0) if held else q.log_prob(z0)
        log_y = q_y.log_probs.movedim(-1, 0) if z is None else q_y.log_prob(y)
        if z is not None:
            log_pi = equal_shares(log_z)
        else:
            log_pi = log_y + (log_z if gradient == "exact" else -math.log(len(z0)))
        known, excluded = _known(y, context)
        log_q = torch.where(known, 0.0, log_y.detach() if held else log_y)
        kl_y, (kl, cells) = self._divergence(q_y), kl_and_cells(q, prior)

        def folded(t: Tensor, event: int = 0) -> Tensor:
            """(C, B, ...) or (K, C, B, ...) to (K C, B, ...); of given z (K, B, ...)."""
            wide = t.expand(*log_z.shape, *t.shape[t.dim() - event :])
            return wide.flatten(0, log_z.dim() - 2)

        layers = folded(y, 1), folded(z0, z0.dim() - log_z.dim())
        return Particles(
            z=layers,
            log_lik=scored(layers),
            log_prior=(folded(self._log_prior(excluded, log_z)), folded(prior.log_prob(z0))),
            log_q=(folded(log_q), folded(log_z)),
            kl=(folded(kl_y), None if kl is None else folded(kl)),
            log_pi=folded(log_pi),
            kl_cells=(None, None if cells is None else folded(cells, z0.dim() - log_z.dim())),
        )

    def _classes(
        self, seen: _Seen, context: Tensor | None, offset: Tensor | None = None
    ) -> OneHot:
        """q(y|x), (B,), certain where the label is known."""
        logits = self.classifier.params(*seen)
        logits = logits if offset is None else logits + offset
        if context is not None:
            context = context.to(logits.dtype)
            known = context.sum(-1, keepdim=True) > 0
            logits = torch.where(known, (1 - context) * _NEVER, logits)
        return OneHot(logits, 1)

    def _every_class(self, q_y: OneHot) -> Tensor:
        """Every y for every row, (C, B, C).

        They carry a path of slope 0: what q(y|x) learns comes through the shares, and estimators
        that go through draws ask each layer for one.
        """
        rows = torch.eye(self.contexts, dtype=q_y.log_probs.dtype, device=q_y.log_probs.device)
        y = rows[:, None].expand(-1, len(q_y.log_probs), -1)
        return y + 0.0 * q_y.log_probs if q_y.log_probs.requires_grad else y

    def _divergence(self, q_y: OneHot) -> Tensor:
        """`KL(q(y|x) || p(y))`, (B,): of a known label log C."""
        return math.log(self.contexts) - q_y.entropy()

    def _log_prior(self, excluded: Tensor, like: Tensor) -> Tensor:
        """log p(y), where y is not excluded by a label."""
        return torch.full_like(like, -math.log(self.contexts)).masked_fill(excluded, _NEVER)

    def classify(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        samples: int | None = None,
    ) -> Tensor:
        r"""Probabilities of the classes, (B, C).

        Without `samples` they are q(y|x), the classifier's opinion; with features that at the mean
        of q(f|x), so that two calls give the same. With `samples` they approach the model's own
        posterior p(y|x), in proportion to `1/K sum_k p(x, y, z_ky) / q(z_ky|x, y)`, z_ky drawn
        from the global generator: biased by O(1/K).

        Args:
            x: rows, (B, *shape).
            mask: True where observed, (B, *shape); None: everywhere.
            samples: K, draws of z per class; None: the classifier alone.

        Raises:
            UserError: fewer than one sample.
        """
        with torch.no_grad():
            if samples is None:
                return self.log_classes(x, mask, draw=draw_mean).exp()
            if samples < 1:
                raise UserError(f"samples={samples} must be at least 1, or left out")
            p = self.infer(x, samples, mask)
            joint = (p.log_pi + p.log_w).unflatten(0, (samples, self.contexts))
            return torch.softmax(torch.logsumexp(joint, 0), 0).T

    def log_classes(self, x: Tensor, mask: Tensor | None = None, *, draw: Draw = draw) -> Tensor:
        """log q(y|x) of every class, (B, C), in nats; with features log q(y|f) at a draw of f."""
        if self.features is None:
            return self._classes(self._seen(x, mask), None).log_probs
        f = self.features.infer(x, 1, mask, draw=draw).z[0][0]
        return self._classes((self.features.encoder.family.embed(f),), None).log_probs

    def latents(
        self, n: int, context: Tensor | None = None, given: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """As every model's; y is the context's class where it has one, else drawn from p(y)."""
        layers = list(given)
        if not layers:
            layers.append(self._drawn_classes(n, context)[None])
        if len(layers) < 2:
            layers.append(self.prior().sample(torch.Size((1, n))))
        if self.features is not None and len(layers) < 3:
            layers.append(self._decoded(tuple(layers)).sample())
        return tuple(layers)

    def _drawn_classes(self, n: int, context: Tensor | None) -> Tensor:
        """One-hot rows, (n, C)."""
        at = torch.randint(self.contexts, (n,), device=self.device)
        y = torch.nn.functional.one_hot(at, self.contexts).to(self.dtype)
        if context is None:
            return y
        context = context.to(y)
        return torch.where(context.sum(-1, keepdim=True) > 0, context, y)

    def likelihood(self, z: tuple[Tensor, ...], context: Tensor | None = None) -> Distribution:
        """p(x|y, z), of batch shape (K, B); the class is that of z, whatever the context."""
        return self._decoded(z) if self.features is None else self.features.likelihood(z[2:])

    def _decoded(self, z: tuple[Tensor, ...]) -> Distribution:
        return self.decoder(self.encoder.family.embed(z[1]), z[0])

    def encoded(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Means of q: the probabilities of the classes (B, C), then z, and f, averaged over y."""
        p = self.infer(x, 1, mask, context, draw=draw_mean)
        share = p.log_pi.exp()
        return tuple((share.view(*share.shape, *(1,) * (z.dim() - 2)) * z).sum(0) for z in p.z)

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """The mean of p(x|z) at the likeliest class and the mean of z given it, (B, *shape)."""
        p = self.infer(x, 1, mask, context, draw=draw_centre)
        best = p.log_pi.argmax(0), torch.arange(len(x), device=x.device)
        return self.likelihood(tuple(layer[best][None] for layer in p.z)).mean[0]

    def local(self, rows: int) -> tuple[Tensor, ...]:
        parts = [self.classifier, self.encoder]
        own = [p.offset.new_zeros(rows, *p.family.param_shape) for p in parts]
        return (*own, *(() if self.features is None else self.features.local(rows)))

    def latent_constraints(self) -> tuple[Constraint | None, ...]:
        of_features = () if self.features is None else self.features.latent_constraints()
        return (None, self.encoder.family.constraint, *of_features)

    def misfit(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, str]:
        if self.features is not None:
            return self.features.misfit(x, mask)
        return self.decoder.family.misfit(x, mask), self.decoder.family.support

    def check_context(self, context: Tensor | None, name: str = "data") -> None:
        """Raises UserError for labels that are no one-hot rows, or of another width."""
        super().check_context(context, name)
        if context is None:
            return
        wrong = ((context != 0) & (context != 1)).any(-1) | (context.sum(-1) > 1)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise UserError(
                f"{name}: the label of row {row} is no one-hot row; give one 1 among zeros, or "
                "zeros alone where it is unknown"
            )

    @torch.no_grad()
    def initialise(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> None:
        """Scales of the observation model and output offsets."""
        if self.features is not None:
            self.features.initialise(x, mask)
            return
        family = self.decoder.family
        family.initialise(x, mask)
        self.decoder.initialise(family.marginal(x, mask))

    def _seen(self, x: Tensor, mask: Tensor | None) -> _Seen:
        """What classifier and encoder of M2 read of x."""
        return shown(self.decoder.family, x, mask, with_mask=self.sees_mask)


def _known(y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where the label is known, (B,), and where y (K, B, C) is another one, (K, B)."""
    if context is None:
        none = torch.zeros((), dtype=torch.bool, device=y.device)
        return none, none
    known = context.sum(-1) > 0
    return known, known & ((y.detach() * context).sum(-1) == 0)


def _repeated(t: Tensor | None, lead: torch.Size) -> Any:
    """Rows (B, ...) once for each of K draws, (K B, ...)."""
    return None if t is None else t.expand(lead[0], *t.shape).flatten(0, 1)
