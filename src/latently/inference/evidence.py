r"""Evidence: log p(x) with what it is (exact, bound or estimate), its unit and its error bars."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from latently.errors import UserError
from latently.inference.estimators import all_states
from latently.inference.noise import row_seed, seeded
from latently.inference.pareto import K_HAT_LIMIT, pareto_k, tail_length

__all__ = [
    "Enumeration",
    "Evidence",
    "Exact",
    "ImportanceSampling",
    "Kind",
    "Method",
    "Scores",
    "default_method",
    "evaluate",
]

Kind = Literal["exact", "lower_bound", "estimate"]
Progress = Callable[[int, int], None]
_SIGN = {"exact": "=", "lower_bound": ">=", "estimate": "~"}
_WORDS = {"exact": "exact", "lower_bound": "lower bound", "estimate": "estimate"}

BLOCK_VALUES = 2**19  # observed values decoded at once: 2 MiB in float32, whatever K is
MAX_BLOCK = 4096
FEW_STATES = 1024  # about the default draws per row: the exact sum costs no more than the bound


class Scores(NamedTuple):
    """Per-row results of a method: nats, Monte Carlo variance, ESS and k-hat of the weights.

    `notes` say why the method doubts them, a line each.
    """

    values: Tensor
    mc_variance: Tensor
    ess: Tensor | None
    k_hat: Tensor | None
    notes: tuple[str, ...] = ()


class DataLike(Protocol):
    """What `evaluate` reads of a data set."""

    @property
    def x(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor | None: ...
    @property
    def context(self) -> Tensor | None: ...
    @property
    def protocol(self) -> str: ...
    def once(self) -> DataLike: ...


class Method(ABC):
    """A way to compute log p(x)."""

    kind: ClassVar[Kind]

    @property
    @abstractmethod
    def name(self) -> str:
        """What is printed beside every number."""

    @abstractmethod
    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        """Scores of every row of x, (B, *X)."""


@dataclass(frozen=True)
class Exact(Method):
    """The model's own closed form; refused by models that have none.

    Args:
        block: rows at a time.
    """

    kind: ClassVar[Kind] = "exact"
    block: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.block, int) or self.block < 1:
            raise UserError(f"Exact: block={self.block!r} must be a whole number of at least 1")

    @property
    def name(self) -> str:
        return "exact"

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        if model.density != "exact":
            raise UserError(
                f"{type(model).__name__} has no exact density; use ImportanceSampling(samples)"
            )
        values = []
        with torch.inference_mode(), seeded(seed, x.device):
            for start in range(0, len(x), self.block):
                rows = slice(start, start + self.block)
                p = model.infer(x[rows], 1, _rows(mask, rows), _rows(context, rows))
                values.append(p.average(p.log_w).double().cpu())
                if progress:
                    progress(min(start + self.block, len(x)), len(x))
        joined = torch.cat(values)
        return Scores(joined, torch.zeros_like(joined), None, None)


@dataclass(frozen=True)
class Enumeration(Method):
    r"""`log p(x) = log sum_z p(z) p(x|z)` over all states of discrete latents: exact.

    Every state is decoded for every row, in blocks of a size fixed by the model alone, so memory
    does not grow with the states. Refused where there are infinitely many, or more than 4,096.
    """

    kind: ClassVar[Kind] = "exact"

    @property
    def name(self) -> str:
        return "enumeration"

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        if model.density is None:
            raise UserError(f"{type(model).__name__} has no density")
        values = torch.empty(len(x), dtype=torch.float64)
        with torch.inference_mode():
            for i in range(len(x)):
                row = slice(i, i + 1)
                joint = self._log_joint(model, x[row], _rows(mask, row), _rows(context, row))
                values[i] = torch.logsumexp(joint, 0)
                if progress:
                    progress(i + 1, len(x))
        return Scores(values, torch.zeros_like(values), None, None)

    def _log_joint(
        self, model: Any, x: Tensor, mask: Tensor | None, context: Tensor | None
    ) -> Tensor:
        """log p(x, z) of one row and every state, (states,), in float64."""
        first, more = self._part(model, x, mask, context, 0)
        rest = (self._part(model, x, mask, context, start)[0] for start in more)
        return torch.cat([first, *rest])

    def _part(
        self, model: Any, x: Tensor, mask: Tensor | None, context: Tensor | None, start: int
    ) -> tuple[Tensor, range]:
        """log p(x, z) of a block of states, and where the later blocks start."""
        block, count = _block(x), 0

        def states_from(q: Distribution, _: int) -> Tensor:
            nonlocal count
            if count:
                raise UserError(
                    f"{type(model).__name__} has several layers of latents and Enumeration sums "
                    "over one; use ImportanceSampling(samples)"
                )
            states = all_states(q)
            count = len(states)
            return states[start : start + block]

        p = model.infer(x, 1, mask, context, gradient="exact", draw=states_from)
        joint = p.log_lik + sum(p.log_prior)
        return joint[:, 0].double().cpu(), range(start + block, count, block)


@dataclass(frozen=True)
class ImportanceSampling(Method):
    r"""The importance weighted bound with K draws from the posterior, per row.

    `log p(x) >= E log 1/K sum_k w_k`. Exactly K draws, streamed in blocks of a size fixed by
    the model alone, so memory is bounded at any K. Every (seed, row content, block) has its own
    generator and every row is scored alone, so a row's score is the same to the last bit in any
    subset and order. Source: Burda, Grosse, Salakhutdinov, 2016; error by the delta method,
    `Var = sum_k v_k^2 - 1/K` with normalised weights v.

    Args:
        samples: K, the number of draws per row.

    Raises:
        UserError: fewer than one sample, or a model without a density.
    """

    kind: ClassVar[Kind] = "lower_bound"
    samples: int = 1000

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise UserError(
                f"ImportanceSampling: samples={self.samples!r} must be a whole number, 1 or more"
            )

    @property
    def name(self) -> str:
        return f"IWAE K={self.samples}" if self.samples > 1 else "ELBO, one draw"

    def __call__(
        self,
        model: Any,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Scores:
        if model.density is None:
            raise UserError(f"{type(model).__name__} has no density")
        values, variance, ess = (torch.empty(len(x), dtype=torch.float64) for _ in range(3))
        tail = tail_length(self.samples)
        tops = torch.empty(len(x), tail + 1, dtype=torch.float64)
        with torch.inference_mode():
            for i in range(len(x)):
                row = slice(i, i + 1)
                log_w = self._log_weights(
                    model, x[row], _rows(mask, row), _rows(context, row), seed
                )
                total = torch.logsumexp(log_w, 0)
                share = torch.logsumexp(2 * log_w, 0) - 2 * total  # log of sum v^2 = -log ESS
                values[i] = total - math.log(self.samples)
                ess[i] = (-share).exp()
                variance[i] = self._variance(share)
                if tail:
                    tops[i] = log_w.topk(tail + 1).values
                if progress:
                    progress(i + 1, len(x))
        return Scores(values, variance, ess, pareto_k(tops) if tail else None)

    def _variance(self, share: Tensor) -> Tensor:
        """Of the log of the mean weight; one draw says nothing about it."""
        spread = (share.exp() - 1 / self.samples).clamp(min=0)
        return spread if self.samples > 1 else torch.full_like(spread, math.nan)

    def _log_weights(
        self, model: Any, x: Tensor, mask: Tensor | None, context: Tensor | None, seed: int
    ) -> Tensor:
        """All K log-weights of one row, in float64."""
        block = _block(x)
        key = row_seed(seed, x, mask, context)
        parts = []
        for number, start in enumerate(range(0, self.samples, block)):
            with seeded((key + number) % 2**63, x.device):
                p = model.infer(x, min(block, self.samples - start), mask, context)
            parts.append(p.log_w[:, 0].double().cpu())
        return torch.cat(parts)


@dataclass(frozen=True)
class Evidence:
    r"""Log-likelihoods of a data set that say what they are. Higher is better.

    Attributes:
        values: log p(x) of each row, (n,), in nats.
        kind: exact, lower_bound or estimate.
        method: e.g. "IWAE K=5000".
        protocol: the data set with its protocol and split, e.g. "mnist:binary-dynamic/test".
        mc_variance: Monte Carlo variance of each value, (n,).
        ess: effective number of draws of each row, (n,), or None.
        k_hat: Pareto shape of each row's largest weights, (n,), or None.
        samples: draws per row; 0 for exact methods.
        dims: values per row where bits/dim makes sense (discrete, fully observed), else None.
        discrete: True for probabilities, False for densities; the two are never ranked.
        seed: seed of the draws.
        notes: what else a reader should know; part of `warnings`.
        given: name of the context of a model of p(x|c); "" without.
    """

    values: Tensor
    kind: Kind
    method: str
    protocol: str
    mc_variance: Tensor
    ess: Tensor | None = None
    k_hat: Tensor | None = None
    samples: int = 0
    dims: int | None = None
    discrete: bool = False
    seed: int = 0
    notes: tuple[str, ...] = field(default=())
    given: str = ""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def what(self) -> str:
        """What the values are the logarithms of: p(x), or p(x|label)."""
        return f"p(x|{self.given})" if self.given else "p(x)"

    @property
    def nats(self) -> float:
        """Mean log p(x)."""
        return float(self.values.mean())

    @property
    def nats_stderr(self) -> float:
        """Standard error of the mean over the data set."""
        return _stderr(self.values)

    @property
    def mc_stderr(self) -> float:
        """Monte Carlo standard error of the mean.

        Draws of different rows are independent, so their variances add; equal rows share their
        draws (a score depends on the row alone), so their errors add.
        """
        found, count = torch.unique(
            torch.stack([self.values, self.mc_variance]), dim=1, return_counts=True
        )
        return float((count.double().square() * found[1]).sum().sqrt() / len(self))

    @property
    def bits_per_dim(self) -> float | None:
        """`-nats / (dims log 2)`, for discrete, fully observed data."""
        return None if self.dims is None else -self.nats / (self.dims * math.log(2))

    @property
    def heavy_rows(self) -> int:
        """Number of rows whose weights have no variance to speak of (k-hat above 0.7)."""
        return 0 if self.k_hat is None else int((self.k_hat > K_HAT_LIMIT).sum())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before trusting the number."""
        found = [*self.notes]
        if self.heavy_rows:
            found.append(
                f"heavy importance weights (k-hat > {K_HAT_LIMIT}) in {self.heavy_rows} of "
                f"{len(self)} rows: the bound is loose and its Monte Carlo error understated "
                "there; raise --samples"
            )
        if not bool(torch.isfinite(self.values).all()):
            row = int((~torch.isfinite(self.values)).nonzero()[0])
            found.append(f"row {row} has log p(x) = {float(self.values[row])}")
        return tuple(found)

    def paired(self, other: Evidence) -> tuple[float, float]:
        """Mean and standard error of `self - other`, row by row, in nats.

        Raises:
            UserError: the rows differ, or one holds densities and the other probabilities.
        """
        if self.protocol != other.protocol or len(self) != len(other):
            raise UserError(
                f"cannot pair {self.protocol} ({len(self)} rows) with {other.protocol} "
                f"({len(other)} rows); evaluate both on the same data"
            )
        if self.discrete != other.discrete:
            raise UserError(
                "densities and probabilities cannot be compared; wrap the continuous model in "
                "Dequantized (recipe option levels)"
            )
        difference = self.values - other.values
        return float(difference.mean()), _stderr(difference)

    def to_dict(self) -> dict[str, Any]:
        """The fixed fields of `latently evaluate --json` (version is added there).

        JSON has no inf and nan: what is not finite is None.
        """
        fields = {
            "kind": self.kind,
            "method": self.method,
            "nats": self.nats,
            "nats_stderr": self.nats_stderr,
            "mc_stderr": self.mc_stderr,
            "bits_per_dim": self.bits_per_dim,
            "ess": None if self.ess is None else float(self.ess.median()),
            "k_hat": None if self.k_hat is None else float(self.k_hat.median()),
            "n": len(self),
            "protocol": self.protocol,
            "given": self.given or None,
            "seed": self.seed,
            "warnings": list(self.warnings),
        }
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in fields.items()
        }

    def __str__(self) -> str:
        about = [_WORDS[self.kind]]
        if self.kind != "exact":
            about += [self.method, f"MC +-{self.mc_stderr:.2g}"]
        if self.ess is not None:
            about.append(f"ESS {float(self.ess.median()):.0f}/{self.samples}")
        bits = self.bits_per_dim
        parts = [
            f"log {self.what} {_SIGN[self.kind]} {self.nats:.2f} +- {self.nats_stderr:.2f} nats",
            f"({', '.join(about)})",
            f"{bits:.3f} bits/dim" if bits is not None else "",
            self.protocol,
        ]
        return "  ".join(part for part in parts if part)


def evaluate(
    model: Any,
    data: DataLike,
    method: Method | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evidence:
    """Evidence of a model on a data set.

    Args:
        model: any model with a density.
        data: rows, mask, context and protocol name.
        method: how; that of `default_method` if None.
        seed: seed of the draws.
        progress: called with (rows done, rows).

    Raises:
        UserError: the model has no density, or the rows are none of its own.
    """
    data = as_evaluated(model, data)
    if method is None:
        method = default_method(model)
    was_training = model.training
    model.eval()
    try:
        scores = method(model, data.x, data.mask, data.context, seed=seed, progress=progress)
    finally:
        model.train(was_training)
    complete = data.mask is None or bool(data.mask.all())
    named = getattr(data, "conditions", None)
    # every weight p(x, z) / q(z|x) of an exact model is p(x)
    sampled = isinstance(method, ImportanceSampling)
    exact = method.kind == "exact" or (model.density == "exact" and sampled)
    return Evidence(
        values=scores.values,
        kind="exact" if exact else method.kind,
        method="exact" if exact else method.name,
        protocol=data.protocol,
        mc_variance=torch.zeros_like(scores.values) if exact else scores.mc_variance,
        ess=None if exact else scores.ess,
        k_hat=None if exact else scores.k_hat,
        samples=0 if exact else getattr(method, "samples", 0),
        dims=math.prod(model.shape) if model.discrete and complete else None,
        discrete=model.discrete,
        seed=seed,
        notes=scores.notes,
        given="" if data.context is None else getattr(named, "name", "c"),
    )


def default_method(model: Any) -> Method:
    """The method for a model where none is named: exact where that is cheap.

    `Exact()` for a closed form; `Enumeration()` for discrete latents of at most 1,024 states
    (`Model.latent_states`), which decodes about as many rows as the bound it replaces and needs
    no error bar; `ImportanceSampling(1000)` for all others.
    """
    if model.density == "exact":
        return Exact()
    states = model.latent_states()
    few = states is not None and states <= FEW_STATES
    return Enumeration() if few else ImportanceSampling()


def as_evaluated(model: Any, data: DataLike) -> DataLike:
    """The data, dynamic ones drawn once.

    Raises:
        UserError: rows of another shape, values outside the model's support, or another context.
    """
    data = data.once()
    model.check(data.x, data.mask, data.protocol)
    model.check_context(data.context, data.protocol)
    return data


def _block(x: Tensor) -> int:
    """Latents of one row x decoded at once: a number fixed by the shape of a row."""
    return max(1, min(BLOCK_VALUES // x.numel(), MAX_BLOCK))


def _rows(tensor: Tensor | None, rows: slice) -> Tensor | None:
    return None if tensor is None else tensor[rows]


def _stderr(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
