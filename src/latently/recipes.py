"""Recipes: plain functions from shapes and constructors to a model.

A recipe's call is the config, its signature the command line, and call + weights the saved
file. `shape`, `likelihood` and `levels` are taken from the data where a recipe has them and the
caller does not say.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from torch import nn

from latently import expr
from latently.errors import UserError, closest
from latently.models import (
    PPCA,
    VAE,
    Autoencoder,
    Dequantized,
    FactorAnalysis,
    Mixture,
    Model,
    NormalizingFlow,
    SemiSupervisedVAE,
    Transformed,
    not_random,
)
from latently.models.components import Bits, Component, Full
from latently.nets.mlp import MLP
from latently.probability.conditional import Conditional
from latently.probability.dequantise import Noise, UniformNoise
from latently.probability.families._point import Codes
from latently.probability.families.base import Family
from latently.probability.families.bernoulli import Bernoulli
from latently.probability.families.mixed import Mixed
from latently.probability.families.normal import FixedNormal, Normal
from latently.probability.families.one_hot import OneHot
from latently.probability.flows import NSF, Flow, Glow
from latently.probability.missingness import Missingness
from latently.probability.priors import Prior, Standard, StandardNormal
from latently.probability.transforms import Transform
from latently.training.objectives import (
    MIWAE,
    Objective,
    Reconstruction,
    SemiSupervised,
    Variational,
)

__all__ = [
    "CLOSED_FORM",
    "OBJECTIVES",
    "RECIPES",
    "Call",
    "ae",
    "fa",
    "flow",
    "mixture",
    "ppca",
    "recipe",
    "ssvae",
    "table",
    "vae",
]

_SQUARED = functools.partial(FixedNormal, std=None)
_SMOOTH = functools.partial(MLP, activation=nn.SiLU, skip=True)
Activation = Callable[[], nn.Module]
R = TypeVar("R", bound=Callable[..., Model])
RECIPES: dict[str, Callable[..., Model]] = {}
CLOSED_FORM: set[str] = set()  # recipes whose models are fitted by `Model.em`
OBJECTIVES: dict[str, type[Objective]] = {}  # what a recipe's models are usually trained by


@dataclass(frozen=True)
class Call:
    """A recipe call: its name and the arguments that were given."""

    recipe: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={expr.show(value)}" for key, value in self.arguments.items())
        return f"{self.recipe}({inner})"

    def build(self) -> Model:
        """The call again: the same model with new weights."""
        return RECIPES[self.recipe](**self.arguments)


@overload
def recipe(function: R) -> R: ...
@overload
def recipe(
    *, closed_form: bool = False, objective: type[Objective] = Variational
) -> Callable[[R], R]: ...
def recipe(
    function: R | None = None,
    *,
    closed_form: bool = False,
    objective: type[Objective] = Variational,
) -> R | Callable[[R], R]:
    """Registers a recipe and lets its models remember their call.

    Args:
        function: from shapes and constructors to a model.
        closed_form: its models are fitted by `Model.em`, so that the command line offers none of
            the options of training by gradient.
        objective: what its models are usually trained by, as `Model.objective` says: the command
            line offers its options as flags.

    Raises:
        UserError: a recipe of that name exists.
    """
    if function is None:
        return functools.partial(_registered, closed_form=closed_form, objective=objective)
    return _registered(function, closed_form, objective)


def _registered(function: R, closed_form: bool, objective: type[Objective]) -> R:
    name = function.__name__
    if name in RECIPES:
        raise UserError(f"a recipe named {name!r} exists already; choose another name")
    signature = inspect.signature(function)

    @functools.wraps(function)
    def build(*args: Any, **keywords: Any) -> Model:
        try:
            bound = signature.bind(*args, **keywords)
        except TypeError as error:
            unknown = [key for key in keywords if key not in signature.parameters]
            hint = f"; {closest(unknown[0], signature.parameters)}" if unknown else ""
            raise UserError(f"{name}: {error}{hint}") from None
        model = function(*bound.args, **bound.kwargs)
        model.call = Call(name, dict(bound.arguments))
        return model

    RECIPES[name], OBJECTIVES[name] = build, objective
    if closed_form:
        CLOSED_FORM.add(name)
    return build  # type: ignore[return-value]


@recipe(closed_form=True)
def fa(
    shape: Sequence[int],
    *,
    latents: int = 8,
    levels: int | None = None,
    transform: Transform | None = None,
    contexts: int = 0,
) -> Model:
    """Factor analysis: x ~ N(mu, W W' + diag(psi)), exact.

    Args:
        shape: shape of one row.
        latents: number of factors.
        levels: for integers 0 .. levels - 1: fit x + u, u ~ U(0, 1), and report a lower bound
            of log P(x); None: a density.
        transform: bijection of the columns before the model, with its Jacobian in the density;
            under levels it is of x + u, e.g. Logit(high=256).
        contexts: width of the context c of a model of p(x|c), which moves the mean by B c; 0:
            none. It follows the data.
    """
    return _wrapped(FactorAnalysis(shape, latents, contexts=contexts), transform, levels)


@recipe(closed_form=True)
def ppca(
    shape: Sequence[int],
    *,
    latents: int = 8,
    levels: int | None = None,
    transform: Transform | None = None,
    contexts: int = 0,
) -> Model:
    """Probabilistic PCA: x ~ N(mu, W W' + sigma^2 I), exact and in closed form.

    Args:
        shape: shape of one row.
        latents: number of components.
        levels: for integers 0 .. levels - 1: fit x + u, u ~ U(0, 1), and report a lower bound
            of log P(x); None: a density.
        transform: bijection of the columns before the model, with its Jacobian in the density;
            under levels it is of x + u, e.g. Logit(high=256).
        contexts: width of the context c of a model of p(x|c), which moves the mean by B c; 0:
            none. It follows the data.
    """
    return _wrapped(PPCA(shape, latents, contexts=contexts), transform, levels)


@recipe(closed_form=True)
def mixture(
    shape: Sequence[int],
    *,
    components: int = 10,
    family: Component = Full(),  # noqa: B008  (frozen)
    restarts: int = 4,
    levels: int | None = None,
    transform: Transform | None = None,
) -> Model:
    """Mixture fitted by EM: p(x) = sum_k pi_k p_k(x), exact.

    Args:
        shape: shape of one row.
        components: how many.
        family: their kind, such as Full, Diagonal or Factors(8).
        restarts: starts of EM, of which the best goes on.
        levels: for integers 0 .. levels - 1: fit x + u, u ~ U(0, 1), and report a lower bound
            of log P(x); None: a density. Bits and counted columns stay as they are.
        transform: bijection of the columns before the model, with its Jacobian in the density;
            under levels it is of x + u, e.g. Logit(high=256).
    """
    model = Mixture(shape, components, family=family, restarts=restarts)
    if (model.discrete or model.counted is not None) and levels is not None:
        if levels > 2 and isinstance(model.family, Bits):
            raise UserError(
                f"mixture: {expr.show(model.family)} hold 0 and 1, not levels={levels}; choose "
                "another family, or data of 2 levels"
            )
        levels = None
    return _wrapped(model, transform, levels)


@recipe
def vae(
    shape: Sequence[int],
    *,
    latents: int | Sequence[int] = 16,
    likelihood: Callable[..., Family] = Bernoulli,
    posterior: Callable[..., Family] = Normal,
    prior: Callable[..., Prior] = StandardNormal,
    net: Callable[..., nn.Module] = MLP,
    decoder_net: Callable[..., nn.Module] | None = None,
    sees_mask: bool = False,
    transform: Transform | None = None,
    contexts: int = 0,
) -> Model:
    """Variational autoencoder; trained with bound IWAE it is an IWAE.

    Args:
        shape: shape of one row.
        latents: number of latents, or their shape.
        likelihood: family of p(x|z).
        posterior: family of q(z|x).
        prior: p(z).
        net: network of the encoder, and of the decoder unless that has its own.
        decoder_net: network of the decoder, where it differs.
        sees_mask: show the encoder which entries are observed; on where data have holes.
        transform: bijection of the columns before the model, with its Jacobian in the density.
        contexts: width of the context of a conditional model; 0: none. It follows the data.
    """
    z_shape = _latent_shape("vae", latents)
    observed, latent = likelihood(tuple(shape)), posterior(z_shape)
    mask_shape = [tuple(shape)] if sees_mask else []
    encoder = Conditional(net, latent, observed.embed_shape, *mask_shape, contexts=contexts)
    decoder = Conditional(decoder_net or net, observed, latent.embed_shape, contexts=contexts)
    model = VAE(encoder, decoder, prior(z_shape, encoder), sees_mask=sees_mask)
    return _wrapped(model, transform)


@recipe(objective=MIWAE)
def table(
    shape: Sequence[int],
    *,
    latents: int | None = None,
    likelihood: Callable[..., Family] = Mixed,
    posterior: Callable[..., Family] = Normal,
    prior: Callable[..., Prior] = StandardNormal,
    net: Callable[..., nn.Module] = _SMOOTH,
    decoder_net: Callable[..., nn.Module] | None = None,
    floor: float = 0.1,
    missingness: Callable[..., Missingness] | None = None,
    sees_mask: bool = True,
    contexts: int = 0,
) -> Model:
    """Deep model of a table's rows, numbers and names alike, with or without holes (MIWAE).

    Args:
        shape: shape of one row, (columns,).
        latents: number of latents; default: as many as columns, up to 10.
        likelihood: family of p(x|z), with a family for every column. It follows the data.
        posterior: family of q(z|x).
        prior: p(z).
        net: network of the encoder, and of the decoder unless that has its own.
        decoder_net: network of the decoder, where it differs.
        floor: least deviation of a number given z, in deviations of its column: a few hundred
            rows are soon known by heart; 0: none.
        missingness: model of which cells are missing where that depends on what they hold, such
            as SelfMasking(sign="above") for values that are lost when they are high
            (not-MIWAE); without: they are missing at random.
        sees_mask: show the encoder which cells are observed.
        contexts: width of the context of a conditional model; 0: none. It follows the data.
    """
    if latents is None:
        latents = min(math.prod(shape), 10)
    if not isinstance(floor, int | float) or not 0 <= floor < math.inf:
        raise UserError(f"table: floor={floor!r} must be a number of at least 0")
    model = vae(
        shape,
        latents=latents,
        likelihood=functools.partial(_held, likelihood, floor),
        posterior=posterior,
        prior=prior,
        net=net,
        decoder_net=decoder_net,
        sees_mask=sees_mask,
        contexts=contexts,
    )
    model.objective = MIWAE.__name__
    return model if missingness is None else not_random(model, missingness)


@recipe(objective=Reconstruction)
def ae(
    shape: Sequence[int],
    *,
    latents: int | Sequence[int] = 16,
    likelihood: Callable[..., Family] | None = None,
    net: Callable[..., nn.Module] = MLP,
    decoder_net: Callable[..., nn.Module] | None = None,
    activation: Activation = nn.Identity,
    codes: Callable[..., Model] | None = None,
    sees_mask: bool = False,
    contexts: int = 0,
) -> Model:
    """Autoencoder: sparse, denoising, contractive or robust by what it is trained by.

    Args:
        shape: shape of one row.
        latents: number of latents in a code, or their shape.
        likelihood: family of the error around a reconstruction; default: squared error, in
            variances of the training rows (each column's own for vectors, one for pictures).
        net: network of the encoder, and of the decoder unless that has its own.
        decoder_net: network of the decoder, where it differs.
        activation: what codes pass last, such as Sigmoid or ReLU.
        codes: recipe of the density that `fit_density` put on codes; None: there is none.
        sees_mask: show the encoder which entries are observed; on where data have holes.
        contexts: width of the context of both networks; 0: none. It follows the data.
    """
    z_shape = _latent_shape("ae", latents)
    observed = (likelihood or _SQUARED)(tuple(shape))
    mask_shape = [tuple(shape)] if sees_mask else []
    encoder = Conditional(
        net, Codes(z_shape, activation), observed.embed_shape, *mask_shape, contexts=contexts
    )
    decoder = Conditional(decoder_net or net, observed, z_shape, contexts=contexts)
    density = None if codes is None else codes((math.prod(z_shape),))
    return Autoencoder(encoder, decoder, sees_mask=sees_mask, codes=density)


@recipe(objective=SemiSupervised)
def ssvae(
    shape: Sequence[int],
    *,
    classes: int = 10,
    latents: int = 50,
    features: int | None = None,
    likelihood: Callable[..., Family] = Bernoulli,
    posterior: Callable[..., Family] = Normal,
    net: Callable[..., nn.Module] = MLP,
    decoder_net: Callable[..., nn.Module] | None = None,
    classifier_net: Callable[..., nn.Module] | None = None,
    features_net: Callable[..., nn.Module] | None = None,
    sees_mask: bool = False,
) -> Model:
    """Semi-supervised VAE: classes that few rows know, M2 or M1+M2.

    Args:
        shape: shape of one row.
        classes: number of classes. It follows the data.
        latents: number of latents beside the class.
        features: number of features of an autoencoder that is trained first and stands between
            rows and classes (M1+M2); None: none (M2).
        likelihood: family of p(x|y, z), with features of p(x|f).
        posterior: family of q(z|x, y), and of the features.
        net: network of q(z|x, y), and of the others unless they have their own.
        decoder_net: network of p(x|y, z), with features of p(f|y, z).
        classifier_net: network of q(y|x).
        features_net: network of q(f|x) and p(x|f).
        sees_mask: show the encoder which entries are observed; on where data have holes.
    """
    for name, least, value in (("classes", 2, classes), ("latents", 1, latents)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"ssvae: {name}={value} must be a whole number of at least {least}")
    if features is not None and (not isinstance(features, int) or features < 1):
        raise UserError(f"ssvae: features={features} must be at least 1, or left out")
    if features is None and features_net is not None:
        raise UserError("ssvae: features_net has no effect without features; give their number")
    below, rows = None, likelihood(tuple(shape))
    if features is not None:
        own = features_net or net
        below = vae(
            shape,
            latents=features,
            likelihood=likelihood,
            posterior=posterior,
            prior=Standard,
            net=own,
            sees_mask=sees_mask,
        )
        rows = posterior((features,))
    latent = posterior((latents,))
    mask_shape = [tuple(shape)] if sees_mask and features is None else []
    seen = rows.embed_shape, *mask_shape
    encoder = Conditional(net, latent, *seen, contexts=classes)
    return SemiSupervisedVAE(
        Conditional(classifier_net or net, OneHot((classes,)), *seen),
        encoder,
        Conditional(decoder_net or net, rows, latent.embed_shape, contexts=classes),
        Standard((latents,), encoder),
        features=below,
        sees_mask=bool(mask_shape),
    )


@recipe
def flow(
    shape: Sequence[int],
    *,
    flow: Flow | None = None,
    levels: int | None = None,
    noise: Noise = UniformNoise(),  # noqa: B008  (frozen)
    transform: Transform | None = None,
    contexts: int = 0,
) -> Model:
    """Normalizing flow: a bijection of rows onto noise, exact.

    Args:
        shape: shape of one row.
        flow: the bijection; default: Glow for images (C, H, W) of even height and width, over two
            scales where they can be halved twice, else NSF.
        levels: for integers 0 .. levels - 1: fit x + u, u in [0, 1), and report a lower bound of
            log P(x); None: a density.
        noise: where u comes from: UniformNoise, or VariationalNoise, learned with the flow.
        transform: bijection of the columns before the model, with its Jacobian in the density;
            under levels it is of x + u, e.g. Logit(high=256).
        contexts: width of the context c of a model of p(x|c); 0: none. It follows the data.
    """
    if levels is None and noise != UniformNoise():
        raise UserError(f"flow: noise={noise} has no effect without levels; leave it out")
    model = NormalizingFlow(shape, flow or _usual_flow(shape), contexts=contexts)
    return _wrapped(model, transform, levels, noise)


def _held(likelihood: Callable[..., Family], floor: float, shape: Sequence[int]) -> Family:
    family = likelihood(shape)
    family.hold(floor)
    return family


def _latent_shape(recipe: str, latents: int | Sequence[int]) -> tuple[int, ...]:
    shape = (latents,) if isinstance(latents, int) else tuple(latents)
    if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
        raise UserError(f"{recipe}: latents={latents} must be at least 1")
    return shape


def _usual_flow(shape: Sequence[int]) -> Flow:
    if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
        return NSF()
    return Glow(scales=1 if shape[1] % 4 or shape[2] % 4 else 2)


def _wrapped(
    model: Model,
    transform: Transform | None,
    levels: int | None = None,
    noise: Noise = UniformNoise(),  # noqa: B008  (frozen)
) -> Model:
    model = model if transform is None else Transformed(model, transform)
    return model if levels is None else Dequantized(model, levels=levels, noise=noise)
