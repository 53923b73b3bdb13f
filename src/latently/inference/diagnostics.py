r"""What the latents of a model do: what they cost, what they hold, whether the decoder reads them.

    -ELBO = distortion + rate,    distortion = -E log p(x|z),    rate = mean KL(q(z|x) || p(z))

and with the aggregate posterior `q(z) = 1/N sum_n q(z|x_n)` the rate has parts of its own:

    rate = I(x; z) + KL(q(z) || p(z)),
    KL(q(z) || p(z)) = KL(q(z) || prod_d q(z_d)) + sum_d KL(q(z_d) || p(z_d)).

The sum over n is over all N rows, never over a batch, so averages over draws are unbiased for
*these* rows. Of the source of the rows, N of them show an I(x; z) that is too low on average, and
a KL(q(z) || p(z)) too high: no more than log N nats of information can be seen. Of several layers,
each is given the ones above. Sources: Hoffman, Johnson, "ELBO surgery", 2016; Alemi et al.,
"Fixing a Broken ELBO", 2018; Chen, Li, Grosse, Duvenaud, "Isolating Sources of Disentanglement in
Variational Autoencoders", 2018; the direction of the bias: Poole et al., "On Variational Bounds of
Mutual Information", 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latently.errors import UserError
from latently.inference._findings import (
    ACTIVE,
    NEAR,
    Finding,
    few_rows,
    inactive,
    not_finite,
    prior_mismatch,
    seen_before,
    unread,
    without_information,
)
from latently.inference._latents import LayerTerms, Progress, Terms, collect
from latently.inference._mode import evaluating
from latently.inference.evidence import DataLike, as_evaluated
from latently.inference.number import Nature, Number, mean_of

__all__ = ["Diagnosis", "Dimension", "Finding", "Layer", "diagnose"]

_SHOWN = 32  # dimensions printed


@dataclass(frozen=True)
class Dimension:
    """One unit of a layer: a cell of z, or one categorical variable of one-hot latents.

    Attributes:
        index: its place in z.
        variance: `Var_n E[z_d|x_n]`, over that of the prior, which is 1 for N(0, I).
        kl: mean KL(q(z_d|x) || p(z_d)), where q and p factorize and it has a closed form.
        information: I(x; z_d), where q factorizes.
        active: whether it says anything of x: `variance` above 0.01 (Burda, Grosse,
            Salakhutdinov, "Importance Weighted Autoencoders", 2016); of counted latents, whose
            variance says less, `information` above 0.01 nats where it is known.
    """

    index: tuple[int, ...]
    variance: Number
    kl: Number | None
    information: Number | None
    active: bool

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "index": list(self.index),
            "active": self.active,
            **{name: _plain(getattr(self, name)) for name in ("variance", "kl", "information")},
        }


@dataclass(frozen=True)
class Layer:
    """One layer of latents; of several, everything is given the layers above.

    Attributes:
        name: "z", or "z1", "z2" and so on, top first.
        shape: of the latents of one row.
        rate: mean KL(q(z|x) || p(z)).
        information: I(x; z); None where q(z) is out of reach.
        aggregate: KL(q(z) || p(z)), which is `rate` less `information`; None where the prior
            depends on a context, and the rows have no one prior.
        total_correlation: KL(q(z) || prod_d q(z_d)), where q factorizes, of one layer.
        dimension_wise: sum_d KL(q(z_d) || p(z_d)), the rest of `aggregate`.
        dimensions: of every unit.
    """

    name: str
    shape: tuple[int, ...]
    rate: Number
    information: Number | None
    aggregate: Number | None
    total_correlation: Number | None
    dimension_wise: Number | None
    dimensions: tuple[Dimension, ...]

    @property
    def active(self) -> int:
        """How many units are active."""
        return sum(unit.active for unit in self.dimensions)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        names = ("rate", "information", "aggregate", "total_correlation", "dimension_wise")
        return {
            "name": self.name,
            "shape": list(self.shape),
            "active": self.active,
            **{name: _plain(getattr(self, name)) for name in names},
            "dimensions": [unit.to_dict() for unit in self.dimensions],
        }


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found: printed as a table, or as JSON by `to_dict`.

    Attributes:
        elbo: `-distortion - rate`, a lower bound of log p(x).
        distortion: `-E log p(x|z)` with z ~ q(z|x).
        rate: of all layers.
        information: I(x; z) of all layers.
        aggregate: KL(q(z) || p(z)) of all layers.
        decoder: `E log p(x_n|z_n) - log p(x_n|z_m)` with z_m ~ q(z|x_m) of another row m: what
            the decoder makes of z.
        layers: top first.
        findings: alarms first.
        rows: N, how many rows were looked at.
        samples: draws per row.
        seed: of the draws and of the choice of the rows.
        protocol: name of the data.
    """

    elbo: Number
    distortion: Number
    rate: Number
    information: Number | None
    aggregate: Number | None
    decoder: Number
    layers: tuple[Layer, ...]
    findings: tuple[Finding, ...]
    rows: int
    samples: int
    seed: int
    protocol: str

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The findings that say that something is wrong."""
        return tuple(found for found in self.findings if found.level == "alarm")

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        names = ("elbo", "distortion", "rate", "information", "aggregate", "decoder")
        return {
            "protocol": self.protocol,
            "n": self.rows,
            "samples": self.samples,
            "seed": self.seed,
            **{name: _plain(getattr(self, name)) for name in names},
            "layers": [layer.to_dict() for layer in self.layers],
            "findings": [dict(vars(found)) for found in self.findings],
        }

    def __str__(self) -> str:
        head = f"{self.protocol}: {self.rows} rows, {self.samples} draws each"
        whole = (self.elbo, self.distortion, self.rate, self.information, self.aggregate)
        lines = [head, *_lines(*whole, self.decoder)]
        for layer in self.layers:
            own = (layer.rate, layer.information, layer.aggregate)
            lines += ["", f"{layer.name}: {layer.active} of {len(layer.dimensions)} units active"]
            lines += _lines(*own) if len(self.layers) > 1 else []
            lines += _lines(layer.total_correlation, layer.dimension_wise)
            lines += _table(layer.dimensions)
        return "\n".join([*lines, "", *map(str, self.findings)]).rstrip()


def diagnose(
    model: Any,
    data: DataLike,
    *,
    samples: int = 10,
    rows: int | None = None,
    seed: int = 0,
    train: DataLike | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    r"""What the latents do: rate, information, aggregate posterior, active units, and findings.

    Equations, and what their estimates are biased for: see the module. Alarms are

    - posterior collapse: the rate or the information of a layer is below 0.1 nats a row, two
      Monte Carlo errors included;
    - a decoder that ignores z: a row loses less than 0.1 nats by the z of another;
    - rows that the model was fitted to, where `train` is given.

    Notes are

    - a prior mismatch: KL(q(z) || p(z)) above 1 nat, or its part sum_d KL(q(z_d) || p(z_d))
      where N is too small for the whole; a prior that equals q(z) raises the ELBO by as much;
    - an I(x; z) within 1 nat of log N: it is only known to be no less;
    - units that are not active in a layer that is well: harmless.

    A model that draws noise besides its latents (`Dequantized`) has in q(z) one draw of it for
    every row.

    Args:
        model: a model with latents and a density.
        data: the rows, with their mask and context.
        samples: K, draws per row, at least 2: one has no error.
        rows: N, chosen by the seed where there are more; None: as many as take seconds, 2,000 at
            most. Time grows with its square.
        seed: of the draws and of the choice of rows.
        train: the rows that the model was fitted to, to look for equal ones.
        progress: called with (units done, units in all).

    Raises:
        UserError: a model without a density or latents; fewer than 2 draws or rows; data that
            are none of the model's.

    >>> from latently import Data, fit, ppca
    >>> noise = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    >>> data = Data.from_array(noise * torch.tensor([3.0, 1.0, 1.0]))
    >>> model = ppca((3,), latents=1)
    >>> _ = fit(model, data, progress=False)
    >>> print(diagnose(model, data).rate)
    rate, KL(q(z|x) || p(z)) ~ 1.1 +- 0.1 nats (estimate, MC +-0.01)
    """
    if model.density is None:
        raise UserError(model.no_density)
    _check_count("samples", samples)
    _check_count("rows", rows)
    given, data = data, as_evaluated(model, data)
    _check_count(f"{data.protocol}: rows", len(data.x))
    with evaluating(model), torch.no_grad():
        terms = collect(model, data, samples, rows, seed, progress)
    found = _numbers(terms, exact=model.density == "exact", seed=seed, protocol=data.protocol)
    findings = [*_findings(found, terms), *seen_before(given, train)]
    findings.sort(key=lambda one: one.level != "alarm")
    return replace(found, findings=tuple(findings))


def _numbers(terms: Terms, *, exact: bool, seed: int, protocol: str) -> Diagnosis:
    rate, held = terms.rate, terms.information
    log_w = terms.log_lik - rate
    return Diagnosis(
        elbo=_mean("ELBO", log_w, "exact" if exact else "lower_bound"),
        distortion=_mean("distortion, -E log p(x|z)", -terms.log_lik),
        rate=_mean("rate, KL(q(z|x) || p(z))", rate, _nature(rate)),
        information=_information("I(x; z)", held, terms.rows),
        aggregate=_apart("KL(q(z) || p(z))", rate, held, terms),
        decoder=_mean("log p(x|z) lost by the z of another row", terms.loss),
        layers=tuple(_layer(terms, at) for at in range(len(terms.layers))),
        findings=(),
        rows=terms.rows,
        samples=len(rate),
        seed=seed,
        protocol=protocol,
    )


def _layer(terms: Terms, at: int) -> Layer:
    own, one = terms.layers[at], len(terms.layers) == 1
    name = "z" if one else f"z{at + 1}"
    above = ",".join(f"z{i + 1}" for i in range(at))
    given = f"|{above}" if above else ""
    rest = None
    if own.correlation is not None and own.information is not None and terms.one_prior:
        rest = own.rate - own.information - own.correlation
    return Layer(
        name=name,
        shape=own.shape,
        rate=_mean(
            f"rate, KL(q({name}|{above + ',' if above else ''}x) || p({name}{given}))",
            own.rate,
            _nature(own.rate),
        ),
        information=_information(f"I(x; {name}{given})", own.information, terms.rows),
        aggregate=_apart(
            f"KL(q({name}{given}) || p({name}{given}))", own.rate, own.information, terms
        ),
        total_correlation=_maybe("total correlation, KL(q(z) || prod_d q(z_d))", own.correlation),
        dimension_wise=_maybe("sum_d KL(q(z_d) || p(z_d))", rest),
        dimensions=_dimensions(own),
    )


def _dimensions(layer: LayerTerms) -> tuple[Dimension, ...]:
    shape = layer.shape if layer.of_units is None else tuple(layer.of_units.shape[2:])
    variance = _variances(layer, len(shape))
    units = [
        None if terms is None or tuple(terms.shape[2:]) != shape else terms.flatten(2)
        for terms in (layer.cells, None if not shape else layer.of_units)
    ]
    if not shape and layer.of_units is not None:  # one categorical variable
        units[1] = layer.of_units.unsqueeze(-1)
    found = []
    for place, spread in enumerate(variance):
        kl, held = (None if terms is None else terms[..., place] for terms in units)
        told = _maybe("I(x; z_d)", held)
        says = told if layer.counted and told is not None else spread
        found.append(
            Dimension(
                index=_index(place, shape),
                variance=spread,
                kl=None if kl is None else _mean("KL(q(z_d|x) || p(z_d))", kl, _nature(kl)),
                information=told,
                active=says.value > ACTIVE,
            )
        )
    return tuple(found)


def _variances(layer: LayerTerms, ndim: int) -> list[Number]:
    """Of every unit of `ndim` axes; the noise of K drawn means is taken off."""
    draws, rows = layer.means.shape[:2]
    centre = layer.means.mean(0)
    square = (centre - centre.mean(0)).square() * rows / (rows - 1)
    if draws > 1:
        square = square - layer.means.var(0) / draws
    units = math.prod(layer.shape[:ndim])
    whole = layer.prior_variance.reshape(units, -1).sum(-1)
    share = square.reshape(rows, units, -1).sum(-1) / whole.clamp(
        min=torch.finfo(whole.dtype).tiny
    )
    kind: Nature = "estimate" if draws > 1 else "exact"
    errors = share.std(0) / math.sqrt(rows)
    return [
        Number("Var E[z_d|x] / Var z_d", float(value), kind, "", float(error))
        for value, error in zip(share.mean(0), errors, strict=True)
    ]


def _index(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    found: list[int] = []
    for size in reversed(shape):
        place, digit = divmod(place, size)
        found.insert(0, digit)
    return tuple(found)


def _findings(found: Diagnosis, terms: Terms) -> list[Finding]:
    if (wrong := not_finite(found)) is not None:
        return [wrong]
    collapsed = without_information(found)
    others = [unread(found)] if len(collapsed) < len(found.layers) else []
    others += [prior_mismatch(found), few_rows(terms, found.information)]
    well = [layer for layer in found.layers if layer.name not in collapsed]
    notes = [*others, *map(inactive, well)]
    return [*collapsed.values(), *(note for note in notes if note is not None)]


# Numbers.


def _mean(name: str, terms: Tensor, kind: Nature = "estimate", method: str = "") -> Number:
    """Of terms (K, N), over draws and then over rows."""
    constant = kind == "exact" or bool((terms == terms[:1]).all())  # but for rounding
    noise = torch.zeros_like(terms[0]) if constant else terms.var(0) / len(terms)
    values = terms[0] if constant else terms.mean(0)
    return mean_of(name, values, kind, mc_variance=noise, method=method)


def _maybe(name: str, terms: Tensor | None) -> Number | None:
    return None if terms is None else _mean(name, terms)


def _nature(terms: Tensor) -> Nature:
    """Closed forms are the same for every draw."""
    return "exact" if bool((terms == terms[:1]).all()) else "estimate"


def _information(name: str, terms: Tensor | None, rows: int) -> Number | None:
    if terms is None:
        return None
    near = _near(terms, rows)
    kind: Nature = "lower_bound" if near else "estimate"
    return _mean(name, terms, kind, f"log N = {math.log(rows):.2f}" if near else "")


def _near(information: Tensor, rows: int) -> bool:
    """Whether the information is so near log N, the most that N rows show, that it may be more."""
    most = math.log(rows)
    return float(information.mean()) > most - min(NEAR, most / 5)


def _apart(name: str, rate: Tensor, held: Tensor | None, terms: Terms) -> Number | None:
    """The part of the rate that is no information: an upper bound where that is a lower one."""
    if held is None or terms.information is None or not terms.one_prior:
        return None
    near = _near(terms.information, terms.rows)
    return _mean(name, rate - held, "upper_bound" if near else "estimate")


def _check_count(name: str, count: int | None) -> None:
    whole = isinstance(count, int) and not isinstance(count, bool)
    if count is not None and not (whole and count >= 2):
        raise UserError(f"diagnose: {name}={count!r} must be a whole number of at least 2")


# Print.


def _plain(number: Number | None) -> dict[str, Any] | None:
    return None if number is None else number.to_dict()


def _lines(*numbers: Number | None) -> list[str]:
    return [f"  {number}" for number in numbers if number is not None]


def _table(units: tuple[Dimension, ...]) -> list[str]:
    """The units that cost or hold most, in the order of z."""

    def weight(unit: Dimension) -> float:
        number = unit.kl or unit.information or unit.variance
        return number.value

    most = sorted(units, key=weight, reverse=True)[:_SHOWN]
    lines = [f"  {'unit':>8} {'KL':>8} {'I(x; z_d)':>10} {'variance':>9}"]
    for unit in sorted(most, key=lambda one: one.index):
        place = ",".join(map(str, unit.index)) or "all"
        kl, held, spread = (
            "" if number is None else f"{round(number.value, 3) + 0.0:.3f}"  # no -0.000
            for number in (unit.kl, unit.information, unit.variance)
        )
        mark = "" if unit.active else "  not active"
        lines.append(f"  {place:>8} {kl:>8} {held:>10} {spread:>9}{mark}")
    hidden = len(units) - len(most)
    return [*lines, f"  and {hidden} more"] if hidden else lines
