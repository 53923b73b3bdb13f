"""The prior over a plane of two latents: regions of most density, and draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.inference.noise import derive, seeded
from latently.interfaces.report.kinds import latent_family
from latently.interfaces.report.latents import prior_of
from latently.interfaces.report.subject import Subject
from latently.probability.distributions import Factorized, StandardNormal

__all__ = ["SHARES", "Regions", "is_standard", "only_prior", "regions"]

SHARES = (0.95, 0.5)
_DRAWS = 4000  # that find the heights of the contours
_SHOWN = 300  # of them
_SIDE = 121  # points of the grid a side
_MARGIN = 0.1  # beyond them
_FLAT = 1e-3  # nats between heights that no contour tells apart


@dataclass(frozen=True)
class Regions:
    """The smallest regions that hold a share of the prior.

    Attributes:
        x: of the grid, (n,).
        y: of the grid, (n,).
        log_p: log-density at (y, x), (n, n); NaN outside the latents' range.
        heights: log-density at the edge of the region of each of `SHARES`; none where the prior
            is as good as uniform.
        draws: some draws, (m, 2).
    """

    x: np.ndarray
    y: np.ndarray
    log_p: np.ndarray
    heights: tuple[float, ...]
    draws: np.ndarray


def only_prior(subject: Subject) -> Distribution | None:
    """The prior of the only layer, None where there is none or it depends on the context."""
    if subject.only_layer is None:
        return None
    context = subject.context(slice(0, 1))
    context = None if context is None else context.to(subject.model.device)
    with torch.no_grad():
        prior = prior_of(subject.model, context)
    return None if prior is None or prior.batch_shape else prior


def is_standard(prior: Distribution | None) -> bool:
    """Whether a prior is the standard normal."""
    if not isinstance(prior, Factorized):
        return False
    base = prior.base
    if isinstance(base, StandardNormal):
        return True
    parts = (getattr(base, "loc", None), getattr(base, "log_scale", None))
    return all(isinstance(part, Tensor) and not part.any() for part in parts)


def regions(subject: Subject, points: Tensor) -> Regions | None:
    """Those of the prior of two continuous latents; None where it has no density of its own.

    A share s of the draws has a density above the (1 - s) quantile of their densities: that is
    the height of its contour. The grid covers 99 % of the draws and all points (n, 2).
    """
    layer, prior = subject.only_layer, only_prior(subject)
    if layer is None or prior is None or layer.kind not in ("real", "range"):
        return None
    device, event = subject.model.device, layer.means.shape[1:]
    with torch.no_grad(), seeded(derive(subject.seed, "report", "prior"), device):
        z = prior.sample(torch.Size((_DRAWS,)))
        reached = prior.log_prob(z).double().cpu()
        draws = z.flatten(1).double().cpu()
        ends = torch.quantile(draws, torch.tensor([0.005, 0.995], dtype=torch.float64), 0)
        low, high = torch.cat([ends, points.double()]).aminmax(dim=0)
        low, high = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
        axes = [torch.linspace(float(a), float(b), _SIDE) for a, b in zip(low, high, strict=True)]
        up, right = torch.meshgrid(axes[1], axes[0], indexing="ij")
        at = torch.stack([right, up], -1).reshape(-1, *event).to(z)
        log_p = prior.log_prob(at).double().cpu()
    family = latent_family(subject.model)
    if family is not None:
        log_p = log_p.masked_fill(family.misfit(at).flatten(1).any(1).cpu(), torch.nan)
    log_p = log_p.masked_fill(log_p.isinf(), torch.nan)
    shares = torch.tensor([1 - share for share in SHARES], dtype=torch.float64)
    heights = torch.quantile(reached, shares).tolist()
    flat = heights[1] - heights[0] < _FLAT
    return Regions(
        x=axes[0].numpy(),
        y=axes[1].numpy(),
        log_p=log_p.view(_SIDE, _SIDE).numpy(),
        heights=() if flat else tuple(heights),
        draws=draws[:_SHOWN].numpy(),
    )
