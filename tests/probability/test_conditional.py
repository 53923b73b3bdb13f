"""How inputs of a conditional become one, for networks that flatten and for those of images."""

import inspect
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from latently import Data, UserError, fit, load, save, vae
from latently.nets import MLP, Conv, ResNet
from latently.probability.conditional import Conditional
from latently.probability.distributions import Factorized
from latently.probability.families import Bernoulli, Normal
from latently.probability.priors import VampPrior
from latently.registry import KINDS

SMALL = partial(Conv, channels=(4, 5), hidden=(6,))


class Shown(nn.Module):
    """A network that gives back what it reads, and tells for what shapes it was built."""

    reads_images = True

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    def forward(self, x):
        assert x.shape[1:] == self.in_shape
        self.seen = x
        return x.new_zeros(len(x), *self.out_shape)


class Flat(Shown):
    """The same, of no images."""

    reads_images = False


def seen(net, *shapes, contexts=0, lead=(3,), family=Normal):
    """What the network of a conditional reads of random inputs, with these."""
    made = Conditional(net, family((2,)), *shapes, contexts=contexts)
    inputs = [torch.randn(*lead, *shape) for shape in made.input_shapes]
    made(*inputs)
    return made.net.seen, inputs


def constant(vector, height, width):
    """Channels that hold one number each, by a loop over pixels."""
    out = torch.zeros(*vector.shape, height, width)
    for i in range(height):
        for j in range(width):
            out[..., i, j] = vector
    return out


@pytest.mark.parametrize("net", [Shown, partial(Shown), partial(partial(Shown))])
def test_a_context_is_spread_over_constant_channels(net):
    x, (image, context) = seen(net, (2, 5, 4), contexts=3)
    assert torch.equal(x, torch.cat([image, constant(context, 5, 4)], 1))


def test_a_mask_is_stacked_and_the_context_spread():
    x, (image, mask, context) = seen(Shown, (2, 5, 4), (2, 5, 4), contexts=3)
    assert torch.equal(x, torch.cat([image, mask, constant(context, 5, 4)], 1))


def test_rows_and_columns_are_one_channel_each():
    x, (image, mask, context) = seen(Shown, (5, 4), (5, 4), contexts=3)
    wanted = torch.cat([image[:, None], mask[:, None], constant(context, 5, 4)], 1)
    assert torch.equal(x, wanted)


def test_packed_rows_are_as_many_channels():
    """Categories of (H, W) are embedded as (levels H, W), one picture for each level."""
    x, (packed, mask) = seen(Shown, (15, 4), (5, 4))
    assert torch.equal(x, torch.cat([packed.reshape(3, 3, 5, 4), mask[:, None]], 1))


def test_vectors_alone_stay_a_vector():
    x, (z, context) = seen(Shown, (4,), contexts=3)
    assert torch.equal(x, torch.cat([z, context], 1))


def test_one_input_alone_stays_what_it_is():
    for shape in ((2, 5, 4), (5, 4), (7,)):
        x, (only,) = seen(Shown, shape)
        assert torch.equal(x, only)


def test_other_networks_read_flat_inputs_as_before():
    x, (image, context) = seen(Flat, (2, 5, 4), contexts=3)
    assert torch.equal(x, torch.cat([image.flatten(1), context], 1))
    x, (image, mask) = seen(Flat, (5, 4), (5, 4))
    assert torch.equal(x, torch.cat([image, mask], 1))
    x, (image, mask, context) = seen(Flat, (1, 5, 4), (1, 5, 4), contexts=3)
    assert torch.equal(x, torch.cat([image.flatten(1), mask.flatten(1), context], 1))
    for shape, wanted in (((1, 5, 4), (6, 46)), ((46,), (6, 49))):
        made = Conditional(partial(MLP, hidden=(6,)), Normal((2,)), shape, shape, contexts=3)
        wanted = (6, 2 * torch.Size(shape).numel() + 3)
        assert next(made.net.parameters()).shape == wanted


def test_leading_axes_broadcast():
    made = Conditional(Shown, Normal((2,)), (2, 5, 4), contexts=3)
    image, context = torch.randn(7, 1, 2, 5, 4), torch.randn(6, 3)
    assert made(image, context).batch_shape == (7, 6)
    x = made.net.seen.reshape(7, 6, 5, 5, 4)
    assert torch.equal(x[3, 2, :2], image[3, 0])
    assert torch.equal(x[3, 2, 2:], constant(context[2], 5, 4))


def test_no_rows_are_no_trouble():
    made = Conditional(Shown, Normal((2,)), (2, 5, 4), (5, 4), contexts=3)
    empty = [torch.zeros(0, *shape) for shape in made.input_shapes]
    assert made(*empty).batch_shape == (0,)


@pytest.mark.parametrize("shapes", [((1, 5, 4), (1, 4, 5)), ((1, 9, 4), (4, 4)), ((5, 4), (7, 4))])
def test_images_of_unlike_sizes_are_refused(shapes, refused):
    with refused(str(shapes[0]), str(shapes[1]), "one size", "net=MLP"):
        Conditional(Shown, Normal((2,)), *shapes)
    Conditional(Flat, Normal((2,)), *shapes)


def test_a_function_may_say_that_it_reads_images():
    def net(in_shape, out_shape):
        return SMALL(in_shape, out_shape)

    with pytest.raises(UserError):  # a flat picture and a vector
        Conditional(net, Normal((2,)), (1, 5, 4), contexts=3)
    net.reads_images = True
    assert Conditional(net, Normal((2,)), (1, 5, 4), contexts=3).in_shape == (4, 5, 4)


# What a network writes: the numbers of a cell stand at its place.


def of_few_levels(name):
    kind = KINDS["families"][name]
    few = "levels" in inspect.signature(kind).parameters
    return partial(kind, levels=4) if few else kind


class Lit(nn.Module):
    """Zeros, but for the channels of one pixel, which differ."""

    reads_images = True

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.out_shape, self.value = tuple(out_shape), 0.0

    def forward(self, x):
        h = x.new_zeros(len(x), *self.out_shape)
        h[..., 2, 1] = self.value * torch.linspace(1, 2, self.out_shape[-3] if h.dim() > 3 else 1)
        return h


def cells_of_their_own():
    """Families of images whose cells are independent, with either shape of image."""
    for name in KINDS["families"]:
        for shape in ((1, 5, 4), (5, 4)):
            try:
                family = of_few_levels(name)(shape)
            except UserError:  # of the columns of a table alone
                continue
            if isinstance(family(torch.zeros(family.param_shape)), Factorized):
                yield name, shape


@pytest.mark.parametrize(("name", "shape"), sorted(cells_of_their_own()))
def test_a_pixel_of_the_network_decides_a_pixel_of_the_family(name, shape):
    made = Conditional(Lit, of_few_levels(name)(shape), (7,))
    assert made.net.out_shape[-2:] == (5, 4)
    distributions = []
    for value in (0.0, 0.7):
        made.net.value = value
        distributions.append(made(torch.zeros(1, 7)).variance.reshape(-1, 5, 4))
    changed = (distributions[0] != distributions[1]).any(0)
    assert changed[2, 1] == (name not in ("FixedNormal", "SharedNormal"))
    changed[2, 1] = False
    assert not changed.any()


# Models of images given a context.


LIKELIHOODS = ["Bernoulli", "Normal", "DiscretizedLogistic", "DiscretizedLogisticMixture"]
LIKELIHOODS += ["Categorical", "Ordinal", "StudentT", "NegativeBinomial"]


@pytest.mark.parametrize("latents", [3, (2, 3, 2)])
@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("shape", [(2, 5, 4), (5, 4)])
def test_context_and_mask_reach_every_part(name, shape, latents):
    model = vae(
        shape,
        latents=latents,
        likelihood=of_few_levels(name),
        net=SMALL,
        contexts=3,
        sees_mask=True,
    )
    context, x = torch.randn(6, 3), torch.randint(0, 2, (6, *shape)).float()
    mask = torch.rand(x.shape) < 0.8
    p = model.infer(x, 2, mask, context)
    p.log_w.sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
    assert model.encoder.in_shape[1:] == model.decoder.family.shape[-2:]
    with torch.no_grad():
        again = model.infer(x, 2, mask, context, z=p.z).log_w
        torch.testing.assert_close(again, p.log_w.detach())
        for other in (
            model.infer(x, 2, mask, -context, z=p.z),
            model.infer(x, 2, context=context),
        ):
            assert not torch.isclose(again, other.log_w).any()


@pytest.mark.parametrize("net", [Conv, partial(ResNet, channels=(4, 5), blocks=1)])
def test_a_conditional_vae_learns_what_its_context_says(net, tmp_path):
    """The picture is all of the context's number: nothing else tells them apart."""
    c, both = torch.eye(2)[torch.arange(80) % 2], torch.eye(2)
    data = Data.from_array(c[:, 0, None, None, None].expand(80, 1, 5, 4), levels=2)
    data = replace(data, context=c)
    model = vae((1, 5, 4), latents=1, net=net, contexts=2)
    fit(model, data, steps=60, batch_size=40, learning_rate=1e-2, progress=False)
    drawn = model.sample(200, context=both.repeat(100, 1), seed=0)
    assert drawn[::2].mean() > 0.9
    assert drawn[1::2].mean() < 0.1
    save(model, tmp_path / "m", data=data)
    drawn = [m.sample(2, context=both, seed=0) for m in (model, load(tmp_path / "m"))]
    assert torch.equal(*drawn)


def test_pseudo_inputs_are_images_with_mask_and_context():
    model = vae((1, 5, 4), latents=2, net=SMALL, prior=VampPrior, contexts=3, sees_mask=True)
    p = model.infer(torch.zeros(6, 1, 5, 4), 2, context=torch.randn(6, 3))
    assert p.log_prior[0].shape == (2, 6)


def test_the_default_networks_at_the_size_of_real_pictures():
    model = vae((1, 28, 28), net=Conv, contexts=10)
    assert model.encoder.in_shape == (11, 28, 28)
    assert model.decoder.in_shape == (26,)
    assert isinstance(model.decoder.family, Bernoulli)
    assert model.sample(2, context=torch.eye(10)[:2], seed=0).shape == (2, 1, 28, 28)
    spatial = vae((1, 28, 28), latents=(4, 7, 7), net=Conv, contexts=10)
    assert spatial.decoder.in_shape == (14, 7, 7)
    assert spatial.sample(2, context=torch.eye(10)[:2], seed=0).shape == (2, 1, 28, 28)
