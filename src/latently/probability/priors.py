r"""Priors p(z|c): modules whose `forward(context)` returns a distribution over z.

Their parameters are free, or a map of the context c where the model has one: then
p(x|c) = E_p(z|c) p(x|z, c). A prior factory is called as `(z_shape, encoder)`: a VampPrior needs
the encoder, and all read from `encoder.contexts` how wide the context is.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latently.errors import UserError
from latently.nets.mlp import MLP
from latently.probability.conditional import Conditional, check_context
from latently.probability.distributions import Factorized
from latently.probability.distributions import StandardNormal as StandardNormalDistribution
from latently.probability.distributions.mixture import Mixture as MixtureDistribution
from latently.probability.distributions.mixture import mixture
from latently.probability.families._inner import inner
from latently.probability.families.base import Family
from latently.probability.families.mixture import Mixture
from latently.probability.families.normal import Normal
from latently.probability.flows import MAF, Flow, FlowDistribution, check_flow

__all__ = [
    "FlowPrior",
    "Learned",
    "LearnedNormal",
    "NormalMixture",
    "Prior",
    "Standard",
    "StandardNormal",
    "VampPrior",
]

_AFFINE = partial(MLP, hidden=())


class Prior(nn.Module, ABC):
    """A distribution over latents, possibly given a context.

    Attributes:
        contexts: width of the context it reads; 0: none.
    """

    contexts: int = 0

    @abstractmethod
    def forward(self, context: Tensor | None = None) -> Distribution:
        """p(z|c), of batch shape () or (B,)."""

    @property
    @abstractmethod
    def support(self) -> str:
        """The support in words; a model refuses a posterior that says otherwise."""

    def initialise(self, embedded: Tensor) -> None:
        """Starts from embedded rows (n, *embed_shape), once, before training."""
        return None


class StandardNormal(Prior):
    r"""`p(z|c) = N(z; 0, I)`: a context, where there is one, is ignored, so `p(z|c) = p(z)`.

    Args:
        z_shape: shape of one latent.
        encoder: ignored.

    >>> StandardNormal((3,))().log_prob(torch.zeros(3))
    tensor(-2.7568)
    """

    zeros: Tensor

    def __init__(self, z_shape: Sequence[int], encoder: Conditional | None = None) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(tuple(z_shape)))

    def forward(self, context: Tensor | None = None) -> Factorized:
        return Factorized(StandardNormalDistribution(self.zeros), self.zeros.dim())

    @property
    def support(self) -> str:
        return "finite numbers"


class Standard(Prior):
    r"""The posterior's family at raw parameters 0: `p(z|c) = family(z; h = 0)`.

    Uniform for `OneHot`, `Bernoulli` and other discrete latents, uniform on the simplex for
    `Dirichlet`, N(0, I) for `Normal` (where `StandardNormal` is the same in fewer operations).
    A context, where there is one, is ignored: `p(z|c) = p(z)`.

    Args:
        z_shape: shape of one latent.
        encoder: the model's encoder, whose family is taken.
        family: constructor of another family, over the same latents; None: the posterior's.

    Raises:
        UserError: `family` is no such constructor, or neither it nor an encoder is there.

    >>> from latently.probability.families import OneHot
    >>> Standard((4,), family=OneHot)().mean
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    zeros: Tensor

    def __init__(
        self,
        z_shape: Sequence[int],
        encoder: Conditional | None = None,
        *,
        family: Callable[..., Family] | None = None,
    ) -> None:
        super().__init__()
        self.family = _family("Standard", z_shape, encoder, family)
        self.family.requires_grad_(False)
        self.register_buffer("zeros", torch.zeros(self.family.param_shape))

    def forward(self, context: Tensor | None = None) -> Distribution:
        return self.family(self.zeros)

    @property
    def support(self) -> str:
        return self.family.support


class _Given(nn.Module):
    """A distribution with free parameters h, or with `h = net(c)` given a context."""

    def __init__(
        self,
        who: str,
        family: Family,
        contexts: int,
        net: Callable[..., nn.Module] | None,
    ) -> None:
        super().__init__()
        self.who, self.contexts = who, contexts
        if contexts:
            self.map = Conditional(net or _AFFINE, family, contexts=contexts)
            return
        if net is not None:
            raise UserError(f"{who}: net has no effect without a context; leave it out")
        self.family, self.h = family, nn.Parameter(torch.zeros(family.param_shape))

    def forward(self, context: Tensor | None) -> Distribution:
        check_context(context, self.contexts, self.who)
        return self.family(self.h) if context is None else self.map(context)

    @property
    def support(self) -> str:
        return (self.map if self.contexts else self).family.support


class _OfFamily(Prior):
    """A prior of one family, whose raw parameters are free or a map of the context."""

    def __init__(
        self,
        family: Family,
        encoder: Conditional | None,
        net: Callable[..., nn.Module] | None,
    ) -> None:
        super().__init__()
        self.given = _Given(type(self).__name__, family, _width(encoder), net)
        self.contexts = self.given.contexts

    def forward(self, context: Tensor | None = None) -> Distribution:
        return self.given(context)

    @property
    def support(self) -> str:
        return self.given.support


class Learned(_OfFamily):
    r"""A family with learned parameters: `p(z|c) = family(z; h(c))`.

    Without a context h is a free parameter that starts at 0; with one it is a map of the context,
    by default affine, that starts near 0: every context has its own region of latents.

    Args:
        z_shape: shape of one latent.
        encoder: the model's encoder, whose family and `contexts` are read.
        family: constructor of another family, over the same latents; None: the posterior's.
        net: network from the context to h; None: an affine map.

    Raises:
        UserError: `family` is no such constructor, or neither it nor an encoder is there, or a
            `net` without a context; when called, a context missing or of another width.

    >>> from latently.probability.families import OneHot
    >>> sum(p.numel() for p in Learned((4,), family=OneHot).parameters())
    4
    """

    def __init__(
        self,
        z_shape: Sequence[int],
        encoder: Conditional | None = None,
        *,
        family: Callable[..., Family] | None = None,
        net: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__(_family("Learned", z_shape, encoder, family), encoder, net)


class LearnedNormal(_OfFamily):
    r"""A normal with learned parameters: `p(z|c) = N(z; mu(c), diag sigma(c)^2)`.

    Without a context mu and sigma are free parameters that start at 0 and 1; with one, mu and
    log sigma are a map of it, by default affine, so that every context has its own region of
    latents. |log sigma| is bounded by 10. With normal posteriors the KL has a closed form.
    Source of the conditional prior: Sohn, Lee, Yan, "Learning Structured Output Representation
    using Deep Conditional Generative Models", 2015.

    Args:
        z_shape: shape of one latent, (C, *S).
        encoder: the model's encoder, whose `contexts` is read; None: no context.
        net: network from the context to (mu, log sigma); None: an affine map.

    Raises:
        UserError: a `net` without a context; when called, a context missing or of another width.

    >>> LearnedNormal((3,))().log_prob(torch.zeros(3))
    tensor(-2.7568, ...)
    """

    def __init__(
        self,
        z_shape: Sequence[int],
        encoder: Conditional | None = None,
        *,
        net: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__(_family("LearnedNormal", z_shape, encoder, Normal), encoder, net)


class NormalMixture(_OfFamily):
    r"""A mixture of normals, `p(z|c) = sum_k pi_k(c) N(z; mu_k(c), diag sigma_k(c)^2)`.

    Weights, means and deviations are free parameters, or a map of the context. It starts with
    mean 0 and variance 1 in every latent, half of it within components and half between their
    means: no two components are alike, or their gradients would stay alike. A draw picks a
    component at random, then draws from it. The KL has no closed form; bounds use the draws.
    Source: Dilokthanakul et al., "Deep Unsupervised Clustering with Gaussian Mixture Variational
    Autoencoders", 2016, where the component is a latent; here it is summed out.

    Args:
        z_shape: shape of one latent.
        encoder: the model's encoder, whose `contexts` is read; None: no context.
        components: number of normals.
        net: network from the context to all parameters; None: an affine map.

    Raises:
        UserError: fewer than one component, or a `net` without a context; when called, a
            context missing or of another width.

    >>> NormalMixture((2,), components=5)().sample((7,)).shape
    torch.Size([7, 2])
    """

    def __init__(
        self,
        z_shape: Sequence[int],
        encoder: Conditional | None = None,
        *,
        components: int = 10,
        net: Callable[..., nn.Module] | None = None,
    ) -> None:
        _check_components("NormalMixture", components)
        mixed = partial(Mixture, components=components)
        super().__init__(_family("NormalMixture", z_shape, encoder, mixed), encoder, net)


class VampPrior(Prior):
    r"""A mixture of the encoder's posteriors at learned pseudo-inputs u_k.

    `p(z|c) = 1/C sum_k q(z | u_k, c)`. The pseudo-inputs live where the encoder reads: they are
    *embedded* inputs, complete, started at random training rows. A draw picks a component at
    random, then draws from it. Source: Tomczak, Welling, "VAE with a VampPrior", 2018.

    Args:
        z_shape: shape of one latent.
        encoder: the model's encoder.
        components: number of pseudo-inputs.

    Raises:
        UserError: fewer than one component, or no encoder; when called, a context missing or
            of another width than the encoder's.
    """

    def __init__(
        self, z_shape: Sequence[int], encoder: Conditional | None, *, components: int = 50
    ) -> None:
        super().__init__()
        _check_components("VampPrior", components)
        if encoder is None:
            raise UserError("VampPrior needs a model with an encoder; use StandardNormal")
        self.encoder, self.contexts = encoder, encoder.contexts
        self.pseudo_inputs = nn.Parameter(0.1 * torch.randn(components, *encoder.input_shapes[0]))
        self.masks = encoder.input_shapes[1 : len(encoder.input_shapes) - (encoder.contexts > 0)]

    def forward(self, context: Tensor | None = None) -> MixtureDistribution:
        check_context(context, self.encoder.contexts, "VampPrior")
        inputs = [self.pseudo_inputs, *(self.pseudo_inputs.new_ones(s) for s in self.masks)]
        if context is not None:
            inputs.append(context.unsqueeze(-2))
        components = self.encoder(*inputs)
        return mixture(self.pseudo_inputs.new_zeros(components.batch_shape), components)

    @property
    def support(self) -> str:
        return self.encoder.family.support

    def initialise(self, embedded: Tensor) -> None:
        """Starts the pseudo-inputs at random embedded rows (repeated if there are too few)."""
        rows = torch.randperm(len(embedded), device=embedded.device)
        chosen = rows.repeat(-(-len(self.pseudo_inputs) // len(rows)))[: len(self.pseudo_inputs)]
        with torch.no_grad():
            self.pseudo_inputs.copy_(embedded[chosen])


class FlowPrior(Prior):
    r"""A normal seen through a flow: `p(z|c) = N(f(z; c); 0, I) |det df/dz|`.

    The flow maps latents to noise, so that their density takes one pass and a draw the inverse:
    as many passes as there are latents, or two with `RealNVP` and `NSF(coupling=True)`. It
    reads the context where the model has one, and starts near N(0, I). Mean and variance are
    those of `FlowDistribution`, by a fixed rule; the KL has no closed form. Source: Chen et al.,
    "Variational Lossy Autoencoder", 2017.

    Args:
        z_shape: shape of one latent; the flow is over the flattened latent.
        encoder: the model's encoder, whose `contexts` is read; None: no context.
        flow: the flow, such as `NSF(transforms=2)`.

    Raises:
        UserError: `flow` is no flow; when called, a context missing or of another width.

    >>> FlowPrior((3,), flow=MAF(transforms=2))().sample((7,)).shape
    torch.Size([7, 3])
    """

    zeros: Tensor

    def __init__(
        self,
        z_shape: Sequence[int],
        encoder: Conditional | None = None,
        *,
        flow: Flow = MAF(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        self.contexts = _width(encoder)
        self.bijection = check_flow("FlowPrior", flow).build(z_shape, self.contexts)
        self.register_buffer("zeros", torch.zeros(tuple(z_shape)))

    def forward(self, context: Tensor | None = None) -> FlowDistribution:
        check_context(context, self.contexts, "FlowPrior")
        ndim = self.zeros.dim()
        if context is None:
            return FlowDistribution(self.bijection, self.zeros, ndim)
        context = context.to(self.zeros.dtype)
        zeros = self.zeros.expand(*context.shape[:-1], *self.zeros.shape)
        return FlowDistribution(self.bijection, zeros, ndim, context)

    @property
    def support(self) -> str:
        return "finite numbers"


def _family(
    who: str,
    z_shape: Sequence[int],
    encoder: Conditional | None,
    family: Callable[..., Family] | None,
) -> Family:
    """A family of its own, or a copy of the posterior's."""
    if family is not None:
        made = inner(who, family, z_shape)
    elif encoder is not None:
        made = copy.deepcopy(encoder.family)
    else:
        raise UserError(f"{who} needs a model with an encoder, or a family")
    made.unscaled()
    return made


def _width(encoder: Conditional | None) -> int:
    return 0 if encoder is None else encoder.contexts


def _check_components(who: str, components: int) -> None:
    if not isinstance(components, int) or components < 1:
        raise UserError(f"{who}: components={components} must be at least 1")
