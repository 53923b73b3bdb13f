r"""Evidence: log p(x) with what it is (exact, bound or estimate), its unit and its error bars."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._mode import evaluating
from latently.inference.estimators import FEW_STATES
from latently.inference.methods.base import Kind, Method, Progress
from latently.inference.methods.enumeration import Enumeration
from latently.inference.methods.exact import Exact
from latently.inference.methods.importance import ImportanceSampling
from latently.inference.pareto import K_HAT_LIMIT
from latently.inference.rows import Rows

__all__ = ["DataLike", "Evidence", "as_evaluated", "default_method", "evaluate", "with_error"]

_SIGN = {"exact": "=", "lower_bound": ">=", "estimate": "~"}
_NUMERICAL = (
    "this model's density is itself integrated numerically, usually to 1e-3 nats, worse where its "
    "net is rough: check the number in float64, or choose another flow"
)
_WITH_HOLES = (
    "this is log p(x, s): the observed values together with which cells are missing, s; it "
    "compares with no log p(x)"
)
_WORDS = {"exact": "exact", "lower_bound": "lower bound", "estimate": "estimate"}


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
        counted: the columns of probabilities, where others have densities; () where `discrete`
            says it of all.
        seed: seed of the draws.
        notes: what else a reader should know; part of `warnings`.
        given: name of the context of a model of p(x|c); "" without.
        of: what is counted, "x", or "x, s" where it is also which cells are missing.
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
    counted: tuple[int, ...] = ()
    of: str = "x"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def what(self) -> str:
        """What the values are the logarithms of: p(x), p(x|label) or p(x, s)."""
        return f"p({self.of}|{self.given})" if self.given else f"p({self.of})"

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
        if self.of != other.of:
            raise UserError(
                f"log {self.what} and log {other.what} are of unlike events: one counts which "
                "cells are missing (s), too; compare what the models impute instead"
            )
        if self.discrete != other.discrete:
            raise UserError(
                "densities and probabilities cannot be compared; wrap the continuous model in "
                "Dequantized (recipe option levels)"
            )
        if self.counted != other.counted:
            raise UserError(
                "one model has probabilities where the other has densities: columns "
                f"{_listed(set(self.counted) ^ set(other.counted))}, counted from 0; fit both "
                "with one schema"
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
            about.append(self.method)
            if math.isfinite(self.mc_stderr):  # one draw tells no error
                about.append(f"MC +-{self.mc_stderr:.2g}")
        if self.ess is not None:
            about.append(f"ESS {float(self.ess.median()):.0f}/{self.samples}")
        if len(self) == 1:
            about.append("one row, which tells no error")
        bits = self.bits_per_dim
        parts = [
            f"log {self.what} {_SIGN[self.kind]} {with_error(self.nats, self.nats_stderr)} nats",
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
    rows = Rows(data.x, data.mask, data.context)
    with evaluating(model):
        scores = method.scores(model, rows, seed=seed, progress=progress)
    complete = data.mask is None or bool(data.mask.all())
    # every weight p(x, z) / q(z|x) of an exact model is p(x)
    exact = method.kind == "exact" or (model.density == "exact" and method.weighs)
    values, mc_variance = scores.values.detach(), scores.mc_variance.detach()
    kind: Kind = "exact" if exact else method.kind
    name = "exact" if exact else method.name
    if exact and model.numerical:
        kind, name = "estimate", "numerical integration"
    notes = (*scores.notes, _NUMERICAL) if model.numerical else scores.notes
    notes = notes if _event(model) == "x" else (*notes, _WITH_HOLES)
    return Evidence(
        values=values,
        kind=kind,
        method=name,
        protocol=data.protocol,
        mc_variance=torch.zeros_like(values) if exact else mc_variance,
        ess=None if exact else scores.ess,
        k_hat=None if exact else scores.k_hat,
        samples=0 if exact else getattr(method, "samples", 0),
        dims=math.prod(model.shape) if model.discrete and complete else None,
        discrete=model.discrete,
        seed=seed,
        notes=notes,
        given=given_of(data),
        counted=_counted(model),
        of=_event(model),
    )


def _event(model: Any) -> str:
    found: str = getattr(model, "evidence_of", "x")
    return found


def _counted(model: Any) -> tuple[int, ...]:
    found = getattr(model, "counted", None)
    return () if found is None or model.discrete else tuple(found.nonzero()[:, 0].tolist())


def given_of(data: DataLike) -> str:
    """What log p(x|...) of these rows is given: the name of their context; "" without."""
    return "" if data.context is None else getattr(getattr(data, "conditions", None), "name", "c")


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
    """The data, dynamic ones drawn once, and without labels that a model of p(x) may see.

    Raises:
        UserError: no `Data`, rows of another shape, values outside the model's support, or
            another context.
    """
    if not hasattr(data, "once"):
        framed = hasattr(data, "columns") or hasattr(data, "column_names")
        how = (
            "read a data frame by latently.load_saved(path).read(frame) or Data.from_frame(frame, "
            "schema)"
            if framed
            else "wrap an array by latently.Data.from_array(x)"
        )
        raise UserError(f"rows to judge are Data, got a {type(data).__name__}; {how}")
    data = data.once()
    model.check(data.x, data.mask, data.protocol)
    model.check_context(data.context, data.protocol)
    if getattr(model, "context_optional", False) and data.context is not None:
        data = replace(data, context=None, conditions=None)  # type: ignore[type-var]
    return data


def _listed(columns: set[int]) -> str:
    return ", ".join(map(str, sorted(columns)[:8])) + (", ..." if len(columns) > 8 else "")


def with_error(value: float, error: float, form: str = ".2f") -> str:
    """A number with its standard error, or alone where one row tells none.

    >>> with_error(1.5, 0.25), with_error(1.5, math.nan, "+.1f")
    ('1.50 +- 0.25', '+1.5')
    """
    told = f"{value:{form}}"
    return told if math.isnan(error) else f"{told} +- {error:.2f}"


def _stderr(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
