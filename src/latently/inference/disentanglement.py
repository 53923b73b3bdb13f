r"""Disentanglement: whether each known factor of the data has one latent to itself.

For codes z of n rows and factors v of n rows, both measures make a matrix over pairs of a latent
and a factor and take, for every factor, the best latent's entry less the second best's:

    MIG = mean_k (I(z_(1); v_k) - I(z_(2); v_k)) / H(v_k),
    SAP = mean_k (S_(1)k - S_(2)k),

with I the mutual information and S the balanced accuracy of a guess of v_k from z_j alone. Where
every factor can be read off one latent and off no other, MIG is 1, and SAP is 1 less the accuracy
of guessing blindly, 1 over the number of values. Both are near 0 where a factor can be read off
two latents, or off none. Sources: Chen, Li, Grosse, Duvenaud, "Isolating Sources of
Disentanglement in Variational Autoencoders", 2018; Kumar, Sattigeri, Balakrishnan, "Variational
Inference of Disentangled Latent Concepts from Unlabeled Observations", 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError
from latently.inference._aggregate import Mixture, posteriors
from latently.inference._mode import evaluating
from latently.inference.evidence import DataLike, as_evaluated
from latently.inference.noise import derive
from latently.inference.number import Number

__all__ = ["Disentanglement", "Gap", "disentanglement", "mig", "sap"]

BINS = 20
_REPLICATES = 200  # of the bootstrap
_PAIRS = 2**18


@dataclass(frozen=True)
class Gap:
    """A measure of disentanglement with the matrix behind it.

    Attributes:
        number: the mean over factors of the gap, with its standard error over rows.
        matrix: (D, F): mutual information in nats, or balanced accuracy.
        scale: (F,), what a gap is divided by: H(v_k) in nats, or 1.
    """

    number: Number
    matrix: Tensor
    scale: Tensor

    @property
    def best(self) -> Tensor:
        """The latent with the largest entry for every factor, (F,)."""
        return self.matrix.argmax(0)

    @property
    def gaps(self) -> Tensor:
        """Of every factor, (F,)."""
        return _gaps(self.matrix, self.scale)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "number": self.number.to_dict(),
            "matrix": self.matrix.tolist(),
            "scale": self.scale.tolist(),
            "best": self.best.tolist(),
            "gaps": self.gaps.tolist(),
        }


@dataclass(frozen=True)
class Disentanglement:
    """MIG and SAP of a model.

    Attributes:
        mig: by the posteriors, not by bins.
        sap: of the posterior means.
        rows: how many.
        protocol: name of the data.
        names: of the factors; () for their numbers.
    """

    mig: Gap
    sap: Gap
    rows: int
    protocol: str
    names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "protocol": self.protocol,
            "n": self.rows,
            "names": list(self.names),
            "mig": self.mig.to_dict(),
            "sap": self.sap.to_dict(),
        }

    def __str__(self) -> str:
        lines = [f"{self.protocol}: {self.rows} rows"]
        names = self.names or tuple(map(str, range(len(self.mig.best))))
        for gap in (self.mig, self.sap):
            each = ", ".join(
                f"{name} z[{at}] {value:.2f}"
                for name, at, value in zip(names, gap.best, gap.gaps, strict=True)
            )
            lines += [f"  {gap.number}", f"    best latent and gap of every factor: {each}"]
        return "\n".join(lines)


def disentanglement(
    model: Any,
    data: DataLike,
    factors: Tensor,
    *,
    names: Sequence[str] = (),
    samples: int = 10,
    seed: int = 0,
) -> Disentanglement:
    """MIG and SAP of a model of one layer of latents.

    Args:
        model: its posterior must factorize over the latents, as Normal, Bernoulli or OneHot do.
        data: n rows.
        factors: (n, F) integers, one column for every factor.
        names: what the factors are called, F of them or none.
        samples: draws of z per row, for MIG.
        seed: of the draws, of the halves for SAP and of the bootstrap.

    Raises:
        UserError: a posterior that does not factorize, several layers or one latent, factors of
            another number of rows or with a column of one value; see `mig` and `sap`.
    """
    data = as_evaluated(model, data)
    if names and len(names) != factors.shape[1]:
        raise UserError(
            f"disentanglement: {len(names)} names of {factors.shape[1]} factors; give one for each"
        )
    with evaluating(model), torch.no_grad():
        parts = posteriors(model, data, seed)
        found = mig(parts, factors, samples=samples, seed=seed)
        means = torch.cat([q.mean for q in parts]).flatten(1)
    threshold = sap(means.cpu(), factors, seed=seed)
    return Disentanglement(found, threshold, len(data.x), data.protocol, tuple(names))


@torch.no_grad()
def mig(
    z: Tensor | Sequence[Distribution],
    factors: Tensor,
    *,
    bins: int = BINS,
    samples: int = 10,
    seed: int = 0,
) -> Gap:
    r"""The mutual information gap.

    Given posteriors, as in the source: `I(z_j; v_k) = E log q(z_j|v_k) - log q(z_j)` over draws of
    z from q(z|x), with q(z_j|v_k) the mixture over *all* rows that have the value v_k and q(z_j)
    that over all rows. Given codes, they are sorted into bins of equal width, and the information
    is that of the table of counts. Either is that of the rows themselves; as an estimate for their
    source it is too high for a latent that knows nothing, by about (bins - 1)(values - 1) / 2n,
    which the gap of two such latents loses again.

    The error is by a bootstrap of rows, with the densities held: correct to first order.

    Args:
        z: codes (n, D), or the posteriors of rows, each of batch shape (B,), in order.
        factors: (n, F) integers.
        bins: for codes.
        samples: draws per row, for posteriors.
        seed: of the draws and of the bootstrap.

    Raises:
        UserError: fewer than two latents; posteriors that do not factorize; factors of another
            number of rows, not of integers, or with a column of one value.

    >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    >>> print(mig(factors.float(), factors).number)
    MIG ~ 1.00 +- 0.00 (estimate, 20 bins)
    """
    if isinstance(z, Tensor):
        codes, factors = _checked(z, factors, "mig")
        terms, method = _of_bins(codes, factors, bins), f"{bins} bins"
    else:
        mixture = Mixture(z)
        factors = _checked(torch.zeros(mixture.rows, 2), factors, "mig")[1]
        terms, method = _of_mixture(mixture, factors, samples, seed), f"{samples} draws a row"
    if terms.shape[1] < 2:
        raise UserError("mig: one latent has no second best; it needs a model of two at least")
    scale = torch.stack([_entropy(factors[:, k]) for k in range(factors.shape[1])])
    rows = len(terms)

    def resampled(weight: Tensor) -> Tensor:
        return _gaps((weight @ terms.flatten(1)).unflatten(1, terms.shape[1:]), scale).mean(1)

    matrix = terms.mean(0)
    value = float(_gaps(matrix, scale).mean())
    error = float(resampled(_weights(rows, seed)).std())
    return Gap(Number("MIG", value, "estimate", "", error, method=method), matrix, scale)


@torch.no_grad()
def sap(z: Tensor, factors: Tensor, *, seed: int = 0) -> Gap:
    """The separated attribute predictability score.

    For every pair of a latent and a factor, thresholds on the latent, one fewer than the factor
    has values, are fitted to half of the rows, with all values weighing the same; the entry is
    the balanced accuracy on the other half: 1 over the number of values for a latent that knows
    nothing. The error is by a bootstrap of the held-out half, given the thresholds.

    Args:
        z: codes (n, D), such as posterior means.
        factors: (n, F) integers.
        seed: of the halves and of the bootstrap.

    Raises:
        UserError: fewer than two latents; factors of another number of rows, not of integers, or
            with a column of one value.

    >>> factors = torch.cartesian_prod(*[torch.arange(2)] * 2).repeat(20, 1)
    >>> print(sap(factors.float(), factors).number)
    SAP ~ 0.5 +- 0.1 (estimate, thresholds, half of the rows held out)
    """
    codes, factors = _checked(z, factors, "sap")
    if codes.shape[1] < 2:
        raise UserError("sap: one latent has no second best; it needs a model of two at least")
    generator = torch.Generator().manual_seed(derive(seed, "halves"))
    order = torch.randperm(len(codes), generator=generator)
    fitted, held = order[: len(order) // 2], order[len(order) // 2 :]
    weight = _weights(len(held), seed)
    columns, replicates = [], []
    for k in range(factors.shape[1]):
        right = _guessed(codes, factors[:, k], fitted, held)
        one_hot = _one_hot(factors[held, k]).double()
        columns.append(_balanced(right, one_hot, torch.ones(1, len(held)).double())[0])
        replicates.append(_balanced(right, one_hot, weight))
    matrix, scale = torch.stack(columns, 1), torch.ones(factors.shape[1], dtype=torch.float64)
    value = float(_gaps(matrix, scale).mean())
    error = float(_gaps(torch.stack(replicates, 2), scale).mean(1).std())
    method = "thresholds, half of the rows held out"
    return Gap(Number("SAP", value, "estimate", "", error, method=method), matrix, scale)


def _of_mixture(mixture: Mixture, factors: Tensor, samples: int, seed: int) -> Tensor:
    """`log q(z_j|v_k) - log q(z_j)` of every row, the mean of its draws, (n, D, F)."""
    if not mixture.factorizes:
        raise UserError(
            "mig: this posterior does not factorize over latents, so q(z_j) is unknown; give "
            "codes, such as posterior means"
        )
    z = mixture.sample(samples, derive(seed, "mig"))
    rows = mixture.rows
    counts = torch.stack(
        [torch.bincount(v)[v] for v in factors.T], 1
    ).double()  # rows of the same value, (n, F)
    found = []
    at_once = max(1, _PAIRS // max(1, z[0, 0].numel() * rows))
    for at in torch.arange(rows).split(at_once):
        same = (factors[at, None] == factors[None]).double()  # (m, n, F)
        terms = []
        for some in z[:, at]:
            pairs = torch.cat(
                [q.cell_log_prob(some.unsqueeze(1)) for q in mixture.parts],  # type: ignore[attr-defined]
                1,
            )
            pairs = pairs.reshape(len(at), rows, -1).double().cpu()  # (m, n, D)
            top = pairs.amax(1, keepdim=True)
            share = (pairs - top).exp()
            of_value = torch.einsum("mnd,mnf->mdf", share, same) / counts[at, None]
            whole = share.mean(1)
            terms.append(of_value.log() - whole.log()[..., None])
        found.append(torch.stack(terms).mean(0))
    return torch.cat(found)


def _of_bins(codes: Tensor, factors: Tensor, bins: int) -> Tensor:
    """`log p(bin, v) / (p(bin) p(v))` of every row, (n, D, F)."""
    if not isinstance(bins, int) or bins < 2:
        raise UserError(f"mig: bins={bins!r} must be a whole number of at least 2")
    low, high = codes.amin(0), codes.amax(0)
    width = torch.where(high > low, high - low, 1.0)
    place = ((codes - low) / width * bins).long().clamp(max=bins - 1)
    found = []
    for k in range(factors.shape[1]):
        value = factors[:, k]
        cell = place * (int(value.max()) + 1) + value[:, None]
        counts = [[torch.bincount(column)[column] for column in t.T] for t in (cell, place)]
        both, alone = (torch.stack(columns, 1).double() for columns in counts)
        of_value = torch.bincount(value)[value].double()[:, None]
        found.append((both * len(codes) / (alone * of_value)).log())
    return torch.stack(found, 2)


def _guessed(codes: Tensor, value: Tensor, fitted: Tensor, held: Tensor) -> Tensor:
    """Whether thresholds on each latent guess the value of held-out rows, (n, D)."""
    from sklearn.tree import DecisionTreeClassifier

    found = []
    for column in codes.T:
        tree = DecisionTreeClassifier(
            max_leaf_nodes=int(value.max()) + 1, class_weight="balanced", random_state=0
        )
        tree.fit(column[fitted, None].numpy(), value[fitted].numpy())
        found.append(torch.from_numpy(tree.predict(column[held, None].numpy())) == value[held])
    return torch.stack(found, 1).double()


def _balanced(right: Tensor, one_hot: Tensor, weight: Tensor) -> Tensor:
    """Mean over values of the share that is right, (R, D), for R weightings of the rows (R, n)."""
    values = one_hot.shape[1]
    whole = (weight @ one_hot)[:, None]
    part = (weight @ (right[:, :, None] * one_hot[:, None]).flatten(1)).unflatten(1, (-1, values))
    drawn = (whole > 0).double()  # a resample may lack a value
    return (part / whole.clamp(min=1e-12) * drawn).sum(2) / drawn.sum(2)


def _gaps(matrix: Tensor, scale: Tensor) -> Tensor:
    """Best less second best over latents, of (*, D, F), divided by the scale, (*, F)."""
    best = matrix.topk(2, dim=-2).values
    return (best[..., 0, :] - best[..., 1, :]) / scale


def _weights(rows: int, seed: int) -> Tensor:
    """Shares of the rows in resamples of as many, (R, n)."""
    generator = torch.Generator().manual_seed(derive(seed, "bootstrap"))
    drawn = torch.randint(rows, (_REPLICATES, rows), generator=generator)
    counts = torch.zeros(_REPLICATES, rows, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn).double()) / rows


def _entropy(value: Tensor) -> Tensor:
    share = torch.bincount(value).double() / len(value)
    return -torch.special.xlogy(share, share).sum()


def _one_hot(value: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(value, int(value.max()) + 1)


def _checked(z: Tensor, factors: Tensor, who: str) -> tuple[Tensor, Tensor]:
    """Codes as float64 (n, D), and factors (n, F) renumbered from 0 without gaps."""
    factors = torch.as_tensor(factors).cpu()
    if z.dim() != 2 or factors.dim() != 2 or len(z) != len(factors):
        raise UserError(
            f"{who}: codes of shape {tuple(z.shape)} and factors of {tuple(factors.shape)}; give "
            "(n, D) and (n, F) of the same n rows"
        )
    if factors.is_floating_point() or factors.dtype == torch.bool:
        raise UserError(f"{who}: factors of type {factors.dtype}; number their values as integers")
    columns = [torch.unique(column, return_inverse=True)[1] for column in factors.T]
    for k, column in enumerate(columns):
        if int(column.max()) == 0:
            raise UserError(f"{who}: factor {k} has one value in all rows; leave it out")
    if not bool(torch.isfinite(z).all()):
        raise UserError(f"{who}: codes hold values that are not finite; look at the model first")
    return z.detach().double().cpu(), torch.stack(columns, 1)
