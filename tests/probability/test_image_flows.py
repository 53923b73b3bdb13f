"""Flows of images: every layer and coupling against the Jacobian of autograd and quadrature."""

import copy
import math
from functools import partial

import pytest
import torch

from latently import expr, load, save, vae
from latently.nets import MLP
from latently.probability.families import FlowNormal
from latently.probability.flows import (
    Additive,
    Affine,
    FlowDistribution,
    Glow,
    ImageRealNVP,
    LogisticMixture,
    Spline,
)
from latently.probability.flows._layers import (
    ActNorm,
    Checkerboard,
    Halves,
    Layers,
    Mixing,
    Squeeze,
)
from latently.probability.flows._multiscale import Split, Top
from latently.probability.flows._nets import ImageNet, weights
from latently.probability.priors import FlowPrior
from latently.registry import KINDS, components

from .oracles import quadrature, shaken

COUPLINGS = {name: kind() for name, kind in KINDS["couplings"].items()}
NET = partial(ImageNet, hidden=4, blocks=1, dropout=0.0, context=2)
LAYERS = {
    "actnorm": lambda g: ActNorm(4),
    "mixing": lambda g: Mixing(4),
    "squeeze": lambda g: Squeeze(),
    "first half": lambda g: Halves(4, False, g, NET),
    "second half": lambda g: Halves(4, True, g, NET),
    "even cells": lambda g: Checkerboard(4, False, g, NET),
    "odd cells": lambda g: Checkerboard(4, True, g, NET),
    "top": lambda g: Top((4, 2, 2), 2),
}
TINY = {
    "Glow": Glow(scales=2, steps=2, hidden=4),
    "Glow, one scale": Glow(scales=1, steps=2, hidden=4, blocks=0),
    "ImageRealNVP": ImageRealNVP(scales=2, steps=2, hidden=4),
    "ImageRealNVP, one scale": ImageRealNVP(scales=1, steps=2, hidden=4),
}
every_coupling = pytest.mark.parametrize("coupling", COUPLINGS.values(), ids=COUPLINGS)
every = pytest.mark.parametrize("flow", TINY.values(), ids=TINY)


def with_coupling(flow, coupling):
    return type(flow)(flow.scales, flow.steps, flow.hidden, flow.blocks, 0.0, coupling)


def log_det(function, x):
    jacobian = torch.autograd.functional.jacobian(lambda v: function(v).flatten(), x)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel()))[1]


def built(flow, shape, context=0, by=0.3):
    return shaken(flow.build(shape, context).double(), by)


# Couplings: maps of one value.


@every_coupling
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_coupling_has_the_slope_of_its_map(coupling, scale):
    x = (3 * torch.randn(500).double()).requires_grad_(True)
    h = scale * torch.randn(500, coupling.params).double()
    y, log_slope = coupling.forward(x, h)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), rtol=0, atol=1e-9)


@every_coupling
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_a_coupling_is_undone(coupling, scale, size):
    x = size * torch.randn(2000).double()
    h = scale * torch.randn(2000, coupling.params).double()
    y, log_slope = coupling.forward(x, h)
    error = (coupling.inverse(y, h) - x).abs() / (1 + x.abs())
    steep = (-log_slope).clamp(min=0).exp()  # what rounding of y becomes on the way back
    assert (error / steep).max() < 1e-9
    torch.testing.assert_close(coupling.forward(coupling.inverse(x, h), h)[0], x)


@pytest.mark.slow
@every_coupling
def test_the_inverse_of_a_coupling_has_its_gradient(coupling):
    y = torch.randn(10).double().requires_grad_(True)
    h = torch.randn(10, coupling.params).double().requires_grad_(True)
    assert torch.autograd.gradcheck(coupling.inverse, (y, h), atol=1e-6)


@every_coupling
def test_a_coupling_without_parameters_is_near_the_identity(coupling):
    x = torch.linspace(-9, 9, 101).double()
    y, log_slope = coupling.forward(x, torch.zeros(101, coupling.params).double())
    assert (y - x).abs().max() < 0.25
    assert log_slope.abs().max() < 0.25


@every_coupling
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_coupling_is_finite_at_extreme_parameters(coupling, dtype):
    x = torch.tensor([-1e6, -10, 0, 3, 5, 1e6]).to(dtype)[:, None].expand(6, 300)
    x = x.clone().requires_grad_(True)
    for size in (10.0, 1e3, 1e6):
        h = (size * torch.randn(6, 300, coupling.params).to(dtype)).requires_grad_(True)
        y, log_slope = coupling.forward(x, h)
        back = coupling.inverse(x, h)
        assert log_slope.isfinite().all()
        for value in (y + log_slope, back):
            assert value.isfinite().all()
            for slope in torch.autograd.grad(value.sum(), (x, h), allow_unused=True):
                assert slope is None or slope.isfinite().all()


def test_the_spline_is_that_of_zuko():
    from zuko.transforms import MonotonicRQSTransform

    ours = Spline(bins=5)
    x, h = torch.linspace(-6, 6, 101).double(), torch.randn(101, 14).double()
    theirs = MonotonicRQSTransform(h[:, :5], h[:, 5:10], h[:, 10:])
    theirs.horizontal, theirs.vertical = (
        torch.nn.functional.pad(ours._knots(part)[1], (0, 1), value=5.0)
        for part in (h[:, :5], h[:, 5:10])
    )
    slopes = torch.nn.functional.pad(3 * torch.tanh(h[:, 10:] / 3), (1, 1))
    theirs.derivatives = slopes.exp()
    for found, wanted in zip(ours.forward(x, h), theirs.call_and_ladj(x), strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(ours.inverse(x, h), theirs._inverse(x))


def test_the_logistic_mixture_is_its_distribution_function():
    g, h = LogisticMixture(components=3), torch.randn(50, 11).double()
    x = torch.linspace(-3, 3, 50).double()
    log_scale, shift = 2 * torch.tanh(h[:, 0] / 2), h[:, 1]
    pi, means = h[:, 2:5].softmax(-1), h[:, 5:8] + torch.tensor([-1.0, 0, 1])
    scales = (4 * torch.tanh(h[:, 8:] / 4)).exp()
    u = (pi * torch.sigmoid((x[:, None] - means) / scales)).sum(-1)
    wanted = (0.95 * torch.logit(u) + 0.05 * x) * log_scale.exp() + shift
    torch.testing.assert_close(g.forward(x, h)[0], wanted)


# Layers.


@every_coupling
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_the_log_det_of_its_jacobian(name, coupling):
    layer = shaken(LAYERS[name](coupling).double(), 0.3)
    x, c = torch.randn(3, 4, 2, 2).double(), torch.randn(3, 2, 1, 1).double()
    y, found = layer(x, c)
    assert found.shape == (3,)
    for b in range(3):
        wanted = log_det(lambda v, b=b: layer(v, c[b : b + 1])[0], x[b : b + 1])
        torch.testing.assert_close(found[b], wanted, rtol=0, atol=1e-8)
    torch.testing.assert_close(layer.inverse(y, c), x, rtol=0, atol=1e-9)


def test_the_split_standardises_what_leaves():
    split = shaken(Split(5, NET).double())
    x, c = torch.randn(3, 5, 2, 2).double(), torch.randn(3, 2, 1, 1).double()
    kept, eps, found = split(x, c)
    assert (kept.shape[1], eps.shape[1]) == (3, 2)
    for b in range(3):

        def noise(v, b=b):
            kept, eps, _ = split(v, c[b : b + 1])
            return torch.cat([kept, eps], 1)

        torch.testing.assert_close(found[b], log_det(noise, x[b : b + 1]), rtol=0, atol=1e-8)
    torch.testing.assert_close(split.inverse(kept, eps, c), x)


@pytest.mark.parametrize("channels", [1, 2, 5, 12])
def test_mixing_starts_at_a_rotation_and_is_its_matrix(channels):
    layer = Mixing(channels).double()
    x = torch.randn(7, channels, 1, 1).double()
    y, log_det_ = layer(x)
    torch.testing.assert_close(y.square().sum(1), x.square().sum(1), rtol=1e-5, atol=1e-5)
    assert log_det_.abs().max() < 1e-5
    shaken(layer, 0.3)
    basis = torch.eye(channels).double()[:, :, None, None]
    matrix = layer(basis)[0][:, :, 0, 0].T
    torch.testing.assert_close(layer(x)[0][..., 0, 0], x[..., 0, 0] @ matrix.T)
    torch.testing.assert_close(layer(x)[1][0], torch.linalg.slogdet(matrix)[1])


def test_actnorm_starts_at_mean_zero_and_variance_one():
    layers = Layers([ActNorm(3), Mixing(3), ActNorm(3)]).double()
    x = 5 + torch.tensor([1.0, 10.0, 0.01]).double()[:, None, None] * torch.randn(40, 3, 4, 4)
    y = layers.initialise(x)
    torch.testing.assert_close(layers(x)[0], y)
    for value in (y, layers.layers[0](x)[0]):
        torch.testing.assert_close(value.mean((0, 2, 3)), torch.zeros(3).double())
        torch.testing.assert_close(value.square().mean((0, 2, 3)), torch.ones(3).double())


def test_a_channel_that_never_changes_is_not_blown_up():
    layer = ActNorm(2)
    layer.initialise(torch.full((9, 2, 3, 3), 0.3))
    assert not layer.log_slope.any()
    assert layer(torch.full((9, 2, 3, 3), 0.3))[0].abs().max() < 1e-6


def test_the_net_has_as_many_weights_as_it_says_and_starts_at_zero():
    net = ImageNet(3, 10, hidden=8, blocks=2, dropout=0.5, context=4)
    assert sum(p.numel() for p in net.parameters() if p.dim() > 1) == weights(3, 10, 8, 2, 4)
    assert not net(torch.randn(5, 3, 4, 4), torch.randn(5, 4, 1, 1)).any()


# Flows.


@pytest.mark.slow
@every
@every_coupling
@pytest.mark.parametrize("context", [0, 3])
def test_log_det_is_that_of_the_jacobian(flow, coupling, context):
    f = built(with_coupling(flow, coupling), (1, 4, 4), context, by=0.15)
    c = torch.randn(3).double() if context else None
    x = 1.5 * torch.randn(16).double()
    y, found = f(x, c)
    assert found.shape == ()
    torch.testing.assert_close(found, log_det(lambda x: f(x, c)[0], x), rtol=0, atol=1e-8)
    back = log_det(lambda y: f.inverse(y, c), y)
    torch.testing.assert_close(found, -back, rtol=0, atol=1e-8)


@every
@every_coupling
@pytest.mark.parametrize("size", [1.0, 5.0, 50.0])
def test_inverse_undoes_it(flow, coupling, size):
    f = built(with_coupling(flow, coupling), (2, 4, 4), by=0.1)
    x = size * torch.randn(20, 32).double()
    torch.testing.assert_close(f.inverse(f(x)[0]), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(f(f.inverse(x))[0], x, rtol=1e-9, atol=1e-9)


@every
@every_coupling
def test_float32_comes_back_to_four_digits(flow, coupling):
    f = shaken(with_coupling(flow, coupling).build((1, 8, 8)), 0.1)
    x = torch.randn(100, 64)
    assert (f.inverse(f(x)[0]) - x).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (3, 3, 5), (1, 7, 7), (1, 1, 4)])
def test_one_scale_takes_any_size(shape):
    size = math.prod(shape)
    f = built(ImageRealNVP(scales=1, steps=2, hidden=4), shape)
    x = torch.randn(size).double()
    y, found = f(x)
    torch.testing.assert_close(f.inverse(y), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(found, log_det(lambda x: f(x)[0], x), rtol=0, atol=1e-8)


@pytest.mark.slow
@every_coupling
def test_density_integrates_to_one_in_the_plane(coupling):
    f = built(ImageRealNVP(scales=1, steps=2, hidden=4, coupling=coupling), (1, 1, 2), by=0.2)
    d = FlowDistribution(f, torch.zeros(1, 1, 2).double(), 3)
    with torch.no_grad():
        p, _, cell = quadrature(
            lambda grid: d.log_prob(grid[..., None, None, :]), (-15, -15), (15, 15), 301
        )
    assert float(p.sum() * cell) == pytest.approx(1, abs=2e-3)


@every_coupling
def test_density_of_a_squeezed_image_integrates_to_one(coupling):
    """By draws of a wide normal: the mean weight is 1."""
    f = built(Glow(scales=1, steps=2, hidden=4, coupling=coupling), (1, 2, 2), by=0.1)
    d = FlowDistribution(f, torch.zeros(1, 2, 2).double(), 3)
    wide = torch.distributions.Normal(torch.zeros(4).double(), 2.0)
    with torch.no_grad():
        x = wide.sample((40_000,))
        w = (d.log_prob(x.view(-1, 1, 2, 2)) - wide.log_prob(x).sum(-1)).exp()
    assert (w.mean() - 1).abs() < 5 * w.std() / 200
    assert w.std() < 10


@every
@every_coupling
def test_draws_follow_the_density(flow, coupling):
    """`E log p(x)` of draws is that of the noise less the log-determinant."""
    f = built(with_coupling(flow, coupling), (1, 4, 4), by=0.1)
    d = FlowDistribution(f, torch.zeros(1, 4, 4).double(), 3)
    with torch.no_grad():
        x = d.sample((300,))
        eps, _ = f(x.flatten(1))
    assert eps.mean(0).abs().max() < 5 / math.sqrt(300)
    assert (eps.std(0) - 1).abs().max() < 0.25


@every
@every_coupling
def test_gradients_reach_all_parameters(flow, coupling):
    f = built(with_coupling(flow, coupling), (1, 4, 4), 2, by=0.1)
    x, c = torch.randn(9, 16).double(), torch.randn(9, 2).double()
    for value in (f(x, c)[0].square().sum() + f(x, c)[1].sum(), f.inverse(x, c).square().sum()):
        named = dict(f.named_parameters())
        slopes = torch.autograd.grad(value, named.values(), allow_unused=True)
        for name, slope in zip(named, slopes, strict=True):
            assert slope is not None, name
            assert slope.isfinite().all(), name
            assert slope.any(), name


@every
def test_the_context_matters_row_by_row(flow):
    f = built(flow, (1, 4, 4), 3)
    x, c = torch.randn(2, 5, 16).double(), torch.randn(5, 3).double()
    y, found = f(x, c)
    assert (y.shape, found.shape) == ((2, 5, 16), (2, 5))
    for b in range(5):
        alone, change = f(x[:, b], c[b])
        torch.testing.assert_close(y[:, b], alone)
        torch.testing.assert_close(found[:, b], change)
    assert not torch.allclose(f(x, c.flip(0))[0], y)
    torch.testing.assert_close(f(x[0, :1], c)[0][:1], f(x[0, :1], c[:1])[0])


@every
def test_it_starts_at_the_rows(flow):
    """At first a flow of standardised rows is a rotation; rows of any scale are standardised."""
    rows = 100 + 30 * torch.randn(200, 16)
    f = flow.build((1, 4, 4))
    f.initialise(rows)
    eps, found = f(rows)
    assert eps.mean().abs() < 0.1
    assert (eps.std() - 1).abs() < 0.1
    torch.testing.assert_close(found[0], torch.tensor(-16 * math.log(30)), rtol=0, atol=2.0)


@every
def test_it_is_built_without_memory_copied_and_seeded(flow):
    with torch.device("meta"):
        made = flow.build((1, 4, 4), 2)
    assert all(value.is_meta for value in (*made.parameters(), *made.buffers()))
    f = built(flow, (1, 4, 4), 2)
    assert {n: p.shape for n, p in f.named_parameters()} == {
        n: p.shape for n, p in made.named_parameters()
    }
    x, c = torch.randn(7, 16).double(), torch.randn(7, 2).double()
    other = copy.deepcopy(f)
    assert torch.equal(other(x, c)[0], f(x, c)[0])
    other = flow.build((1, 4, 4), 2).double()
    other.load_state_dict(f.state_dict())
    assert torch.equal(other(x, c)[0], f(x, c)[0])


@every
def test_extreme_rows_are_finite(flow):
    f = shaken(flow.build((1, 4, 4)), 0.2)
    for size in (1e3, 1e6, 1e12):
        x = (size * torch.randn(20, 16)).requires_grad_(True)
        y, found = f(x)
        assert y.isfinite().all()
        assert found.isfinite().all()
        assert torch.autograd.grad(found.sum(), x)[0].isfinite().all()
        assert f.inverse(x).isfinite().all()


def test_dropout_is_for_training():
    f = shaken(Glow(scales=1, steps=1, hidden=8, dropout=0.5).build((1, 4, 4)), 0.2)
    x = torch.randn(5, 16)
    assert not torch.equal(f(x)[0], f(x)[0])
    f.eval()
    assert torch.equal(f(x)[0], f(x)[0])


def test_the_call_is_read_and_written():
    text = "Glow(steps=2, hidden=4, coupling=Spline(bins=4))"
    flow = expr.build(text, components())
    assert flow == Glow(steps=2, hidden=4, coupling=Spline(bins=4))
    assert expr.show(flow) == text
    assert expr.build("ImageRealNVP(coupling=Additive)", components()).coupling == Additive()


# Refusals.


@pytest.mark.parametrize("kind", [Glow, ImageRealNVP])
def test_bad_options_are_refused(kind, refused):
    for name in ("scales", "steps", "hidden"):
        with refused(kind.__name__, f"{name}=0"):
            kind(**{name: 0})
    with refused("blocks=-1"):
        kind(blocks=-1)
    with refused("dropout=1"):
        kind(dropout=1.0)
    with refused("coupling='Spline'", "no coupling"):
        kind(coupling="Spline")
    with refused("weights", "smaller hidden"):
        kind(hidden=10**6).build((1, 4, 4))
    with refused("weights", "fewer steps"):
        kind(steps=10**9).build((1, 4, 4))
    with refused("(64,)", "channels, rows, columns"):
        kind().build((64,))
    with refused("(5,)"):
        kind().build(5)


def test_sizes_that_cannot_be_halved_are_refused(refused):
    with refused("Glow", "(1, 28, 28)", "7 x 7", "scale 3 of 3", "scales=2"):
        Glow(scales=3).build((1, 28, 28))
    with refused("Glow", "(1, 7, 8)", "ImageRealNVP(scales=1)", "pad or crop"):
        Glow(scales=1).build((1, 7, 8))
    with refused("ImageRealNVP", "7 x 7", "scales=3"):
        ImageRealNVP(scales=4).build((1, 28, 28))
    ImageRealNVP(scales=3, steps=1, hidden=2).build((1, 28, 28))
    Glow(scales=2, steps=1, hidden=2).build((28, 28))


def test_bad_options_of_couplings_are_refused(refused):
    with refused("Affine", "bound=0"):
        Affine(bound=0)
    with refused("Affine", "bound=nan"):
        Affine(bound=math.nan)
    with refused("Spline", "bins=1"):
        Spline(bins=1)
    with refused("Spline", "bound=-1"):
        Spline(bound=-1)
    with refused("LogisticMixture", "components=0"):
        LogisticMixture(components=0)


# Where they are used.


def test_an_image_flow_is_a_prior_of_latents_with_rows_and_columns(tmp_path):
    net = partial(MLP, hidden=(5,))
    flow = Glow(scales=1, steps=1, hidden=4)
    model = vae(
        (4,), latents=(2, 2, 2), net=net, prior=partial(FlowPrior, flow=flow), contexts=2
    ).eval()
    shaken(model, 0.2)
    save(model, tmp_path / "m")
    c = torch.randn(1, 2)
    assert torch.equal(load(tmp_path / "m").sample(3, c, seed=0), model.sample(3, c, seed=0))


def test_an_image_flow_bends_a_posterior():
    family = shaken(FlowNormal((1, 2, 2), flow=TINY["Glow, one scale"], context=2).double(), 0.2)
    d = family(torch.randn(5, *family.param_shape).double())
    z = d.rsample((3,))
    torch.testing.assert_close(d.log_prob(z), d.log_prob(z + 0), rtol=0, atol=1e-8)
