"""Any flow of Zuko, by its name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from latently.errors import UserError, closest
from latently.probability.flows._layers import each
from latently.probability.flows._vectors import Chain, zuko
from latently.probability.flows._whole import Whole
from latently.probability.flows.base import MOST_WEIGHTS, Bijection, Flow

__all__ = ["Zuko"]

_BY_SEARCH = ("BPF", "GF", "NAF", "SOSPF", "UNAF")
_INTEGRATED = ("CNF", "UNAF")
_BY_AUTOGRAD = ("BPF", "GF", "NAF")  # whose slopes Zuko has as logarithms only, of 0 at worst


@dataclass(frozen=True)
class Zuko(Flow):
    r"""Any flow of Zuko's, by its name, with its own start.

    `MAF`, `NSF`, `NICE` and `RealNVP` have inverses in closed form: as many passes of their nets
    as there are features in the first two (or `passes`), two in the others. `BPF` (Bernstein
    polynomials), `SOSPF` (sums of squared polynomials), `NAF` and `UNAF` (monotone nets) have as
    many passes, each of some 34 evaluations of a map of one value; `GF` (mixtures of normals and
    rotations) one of those per transform. `CNF` (an ordinary differential equation) takes a solver
    either way, to some 1e-3 in float32 and 1e-6 in float64; it is the dearest, its log-determinant
    has one gradient per feature, and its weights have a gradient in training mode only. `UNAF`
    integrates its net by 32 points: where the net is rough, its density is off by as much.

    Five of them are monotone on [-10, 10] only, or flat somewhere. Here their maps g of one value
    are linear beyond, with the slope they have there, and x is added, so that they are onto all
    real numbers and back: `y = 0.95 g(x) + 0.05 x`. Zuko's soft clipping between transforms, which
    would lose mass, is left out. The gradient of their inverse is of first order only. `NCSF`, a
    flow on circles, is refused. Source: Rozet et al., "Zuko: Normalizing flows in PyTorch", 2022.

    Attributes:
        name: Zuko's name of the flow.
        transforms: number of transforms; None: Zuko's choice, as below.
        hidden: widths of the hidden layers of the nets.
        passes: of MAF and its kin: 2 makes couplings of them.
        bins: of NSF: pieces of a spline.
        degree: of BPF and SOSPF: degree of the polynomials.
        polynomials: of SOSPF: how many are squared.
        components: of GF: normals of a mixture.
        signal: of NAF and UNAF: values that a monotone net is given.
        freqs: of CNF: frequencies of time.

    Raises:
        UserError: no flow of that name, one on circles, or an option that the flow has not.

    >>> import torch
    >>> f = Zuko("SOSPF", transforms=2, degree=3, hidden=(8,)).build(3).double()
    >>> x = torch.randn(5, 3).double()
    >>> bool((f.inverse(f(x)[0]) - x).abs().max() < 1e-9)
    True
    """

    name: str = "NAF"
    transforms: int | None = None
    hidden: tuple[int, ...] = (64, 64)
    passes: int | None = None
    bins: int | None = None
    degree: int | None = None
    polynomials: int | None = None
    components: int | None = None
    signal: int | None = None
    freqs: int | None = None

    def __post_init__(self) -> None:
        hidden = (self.hidden,) if isinstance(self.hidden, int) else tuple(self.hidden)
        object.__setattr__(self, "hidden", hidden)
        known = _known()
        if self.name not in known:
            raise UserError(
                f"Zuko: no flow is called {self.name!r}; {closest(str(self.name), known)}"
            )
        if self.name == "NCSF":
            raise UserError(
                "Zuko: NCSF is a flow on circles, [-pi, pi), not on all real numbers; choose NSF"
            )
        for width in hidden:
            self.check_whole("hidden", width, 1)
        for option, value in self._options().items():
            if option not in known[self.name]:
                raise UserError(
                    f"Zuko: {self.name} takes no option {option!r}; it takes "
                    f"{', '.join(known[self.name])}"
                )
            self.check_whole(option, value, 2 if option == "bins" else 1)

    @property
    def numerical(self) -> bool:
        return self.name in _INTEGRATED

    def _options(self) -> dict[str, int]:
        """The options that are given, but for `hidden`."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            option: value
            for option, value in given.items()
            if option not in ("name", "hidden") and value is not None
        }

    def build(self, shape: Sequence[int] | int, context: int = 0) -> Bijection:
        """The bijection of rows as vectors.

        Masks are computed from values, so that it is built on the CPU, then moved to where
        tensors are made at present.
        """
        features = shape if isinstance(shape, int) else prod(shape)
        self._check_size(features, context)
        place = torch.empty(0).device
        with torch.device("cpu"):
            made = getattr(zuko().flows, self.name)(
                features, context, hidden_features=self.hidden, **self._options()
            )
            layers = _layers(made)
        if self.name in _BY_SEARCH:
            for layer in layers:
                _make_whole(layer, self.name in _BY_AUTOGRAD)
        return (_Solved if self.name == "CNF" else Chain)(layers).to(place)

    def _check_size(self, features: int, context: int) -> None:
        size = {**_known()[self.name], **self._options()}
        params = {
            "NSF": lambda: 3 * size["bins"] - 1,
            "BPF": lambda: size["degree"] + 1,
            "SOSPF": lambda: size["polynomials"] * (size["degree"] + 1) + 1,
            "GF": lambda: 2 * size["components"] + features,
            "NAF": lambda: size["signal"] + 64 * (size["signal"] + 66),
            "UNAF": lambda: size["signal"] + 64 * (size["signal"] + 66),
        }.get(self.name, lambda: 2)()
        widths = (features + context + 2 * size.get("freqs", 0), *self.hidden, features * params)
        total = size.get("transforms", 1) * sum(a * b for a, b in pairwise(widths))
        if total > MOST_WEIGHTS:
            raise UserError(
                f"Zuko: {features} features need some {total:.0e} weights of {self.name}, more "
                f"than {MOST_WEIGHTS}; choose fewer transforms, a smaller hidden, or fewer "
                "features"
            )


class _Solved(Chain):
    """A chain of differential equations, solved as closely as the type of the values bears."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._tolerate(x)
        return super().forward(x, context)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        self._tolerate(y)
        return super().inverse(y, context)

    def _tolerate(self, x: Tensor) -> None:
        tolerance = 1e-8 if x.dtype == torch.float64 else 1e-6
        for layer in each(self.layers):
            layer.atol, layer.rtol = tolerance, 10 * tolerance


def _make_whole(layer: Any, by_autograd: bool) -> None:
    if hasattr(layer, "univariate"):
        inner = layer.univariate
        del layer.univariate  # a module or a function
        layer.univariate = Whole(inner, by_autograd)


def _layers(flow: Any) -> list[nn.Module]:
    """The transforms of a flow of Zuko's, without the clipping between them."""
    z = zuko()
    layers = list(getattr(flow.transform, "transforms", [flow.transform]))
    return [
        layer
        for layer in layers
        if getattr(layer, "f", None) is not z.transforms.SoftclipTransform
    ]


@lru_cache(maxsize=1)
def _known() -> dict[str, dict[str, Any]]:
    """Options with their defaults, by the name of the flow."""
    flows = zuko().flows
    found = {}
    for name, kind in vars(flows).items():
        if isinstance(kind, type) and issubclass(kind, flows.Flow) and kind is not flows.Flow:
            found[name] = _options_of(kind, flows)
    return found


def _options_of(kind: type, flows: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"hidden": None}
    if issubclass(kind, flows.MAF):
        given["passes"] = None
    bases = [*kind.__mro__, *([flows.FFJTransform] if issubclass(kind, flows.CNF) else [])]
    for base in bases:
        for name, parameter in inspect.signature(base.__init__).parameters.items():
            given.setdefault(name, parameter.default)
    return {field.name: given[field.name] for field in fields(Zuko) if field.name in given}
