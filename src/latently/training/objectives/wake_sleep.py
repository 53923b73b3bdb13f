r"""Wake-sleep: p learns from draws of q, q from draws of p or from weighted ones of its own.

    wake, theta:   d/dtheta  E_q(z|x)  log p(x, z)          p explains what q makes of the data
    sleep, phi:    d/dphi    E_p(x, z) log q(z|x)           q explains the dreams (z, x) of p
    wake, phi:     d/dphi    E_p(z|x)  log q(z|x)           the same of the data, by weighted draws

No draw carries a gradient and no score function is multiplied by a bound, so latents may be
discrete or continuous, in any number of layers, and need no baseline. q follows the KL from
p(z|x) to q, where a variational bound has the KL from q to p(z|x): the two gradients are of two
functions, and no single one is climbed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from latently.errors import UserError, called
from latently.inference._surrogates import valued
from latently.inference.bounds import ELBO, IWAE
from latently.inference.options import check_count, check_number
from latently.inference.particles import Particles
from latently.inference.rows import Rows
from latently.inference.schedules import Schedule, resolve
from latently.training.objectives.base import Objective, Terms, check_density, terms_of

__all__ = ["ReweightedWakeSleep", "WakeSleep"]


class _TwoGradients(Objective):
    """An objective whose gradient by p's parameters and by q's are of different functions."""

    @property
    def is_bound(self) -> bool:
        return True

    def check_model(self, model: Any) -> None:
        check_density(model)
        if not model.inference_parameters():
            raise UserError(
                f"{type(self).__name__} trains q apart from p, and this {type(model).__name__} "
                "has no parameters that q alone has (an exact posterior, or a VampPrior, which "
                f"shares the encoder); use the objective {model.objective}, or another prior"
            )
        if getattr(model, "learned", False):
            raise UserError(
                f"{type(self).__name__} has no gradient for noise that is learned; use the "
                "objective Variational, or UniformNoise"
            )

    def _awake(self, model: Any, rows: Rows) -> Particles:
        """Draws from q(z|x) that carry no gradient."""
        x, mask, context = rows
        return model.infer(x, self.samples, mask, context, draw=_without_path)


@dataclass(frozen=True)
class WakeSleep(_TwoGradients):
    r"""The wake-sleep algorithm: `grad log p(x, z)` at draws of q, `grad log q(z|x)` at dreams.

        theta:  1/K sum_k grad log p(x, z_k),      z_k ~ q(z|x)
        phi:    1/K sum_k grad log q(z_k|x_k),     z_k, x_k ~ p(z) p(x|z)

    The value is the ELBO of the draws of the first line, and the gradient by theta is on average
    its own. That by phi is of `-E_p(x) KL(p(z|x) || q(z|x))`, over rows that the model dreams:
    where q cannot be p(z|x), or the model is far from the data, phi does not climb the ELBO, and
    the pair may settle below its maximum, or, at a hot learning rate, run away. Where q can be
    p(z|x) the maximum of log p(x) is a fixed point. Dreams have the contexts and the masks of the
    rows of the batch, and are whole where there is no mask; of `Dequantized` models they are
    integers, to which noise is added anew. Source: Hinton, Dayan, Frey, Neal, "The Wake-Sleep
    Algorithm for Unsupervised Neural Networks", 1995.

    Args:
        samples: K, draws per row, and dreams per row.

    Raises:
        UserError: fewer than one sample; before training, a model without parameters that q alone
            has; at the call, a likelihood that cannot be sampled.

    >>> WakeSleep(samples=2).is_bound
    True
    """

    samples: int = 1

    def __post_init__(self) -> None:
        check_count(self, "samples")

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        p = self._awake(model, rows)
        value = ELBO()(p)
        if torch.is_grad_enabled():
            surrogate = _log_joint(p).mean(0) + _dreams(model, rows, self.samples)
            value = valued(value, surrogate)
        return terms_of(value, p)

    def size(self, rows: int, cells: int, latents: int) -> int:
        return 2 * super().size(rows, cells, latents)


@dataclass(frozen=True)
class ReweightedWakeSleep(_TwoGradients):
    r"""Reweighted wake-sleep: both gradients at draws of q, weighted to be of p(z|x).

    With K draws `z_k ~ q(z|x)`, `w_k = p(x, z_k) / q(z_k|x)` and `v_k = w_k / sum_j w_j`,

        theta:  sum_k v_k grad log p(x, z_k)
        phi:    (1 - sleep) sum_k v_k grad log q(z_k|x) + sleep 1/K sum_k grad log q(z'_k|x'_k)

    with dreams z', x' as in `WakeSleep`. The value is the importance weighted bound, and the
    gradient by theta is its own; that by phi is of `-KL(p(z|x) || q(z|x))` at the data. Weighted
    averages are biased by O(1/K); more draws make both gradients better, where they make that of
    the importance weighted bound by phi noisier. Sources: Bornschein, Bengio, "Reweighted
    Wake-Sleep", 2015; Le, Kosiorek, Siddharth, Teh, Wood, "Revisiting Reweighted Wake-Sleep for
    Models with Stochastic Control Flow", 2019.

    Args:
        samples: K, draws per row, at least 2, and dreams per row where there are any.
        sleep: share of the dreams in q's gradient, from 0 to 1; a number or a schedule.

    Raises:
        UserError: fewer than 2 samples (the weight of one draw is 1, and its score has mean
            zero), a share outside 0 to 1; before training, a model without parameters that q
            alone has; at the call, a likelihood that cannot be sampled, where there are dreams.

    >>> ReweightedWakeSleep(samples=10, sleep=0.5).samples
    10
    """

    samples: int = 5
    sleep: float | Schedule = 0.0

    def __post_init__(self) -> None:
        check_count(self, "samples", least=2)
        check_number(self, "sleep", low=0, high=1)

    def terms(self, model: Any, rows: Rows, step: Tensor, total: int) -> Terms:
        sleep: Any = resolve(self, step, total).sleep
        p = self._awake(model, rows)
        value = IWAE()(p)
        if torch.is_grad_enabled():
            weights = torch.softmax(p.log_w.detach(), 0)
            surrogate = (weights * (_log_joint(p) + (1 - sleep) * sum(p.log_q))).sum(0)
            if self._dreams:
                dreams = _dreams(model, rows, self.samples)
                surrogate = surrogate + sleep * dreams
            value = valued(value, surrogate)
        return terms_of(value, p)

    @property
    def _dreams(self) -> bool:
        return isinstance(self.sleep, Schedule) or self.sleep > 0

    def size(self, rows: int, cells: int, latents: int) -> int:
        return (1 + self._dreams) * super().size(rows, cells, latents)


def _without_path(q: Distribution, samples: int) -> Tensor:
    """Draws (K, *batch, *event) that carry no gradient."""
    return q.sample(Size((samples,)))


def _log_joint(p: Particles) -> Tensor:
    """`log p(x, z)`, (K, B): at draws without a gradient, a function of p's parameters alone."""
    return p.log_lik + sum(p.log_prior)


def _dreams(model: Any, rows: Rows, samples: int) -> Tensor:
    """`log q(z|x)`, the mean over dreams of the mask and context of each row, (B,)."""
    mask, context = _repeated(rows.mask, samples), _repeated(rows.context, samples)
    n = len(rows.x)
    with torch.no_grad():
        z = model.latents(samples * n, context)
        likelihood = model.likelihood(z, context)
        try:
            x = likelihood.sample()[0]
        except NotImplementedError:
            raise UserError(
                f"the sleep phase dreams rows, and {called(likelihood)} cannot be sampled; use "
                "ReweightedWakeSleep(sleep=0.0), or another likelihood"
            ) from None
    log_q = model.infer(x, 1, mask, context, z=z).log_q
    return sum(log_q[1:], log_q[0]).view(samples, n).mean(0)


def _repeated(tensor: Tensor | None, samples: int) -> Tensor | None:
    """K copies of every row, (K B, *row)."""
    return None if tensor is None else tensor.expand(samples, *tensor.shape).flatten(0, 1)
