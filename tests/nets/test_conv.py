"""A convolutional network: its layers by hand, and a VAE of images by all verbs."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from latently import Data, fit, load, save, vae
from latently.nets import Conv
from latently.probability.families import Normal


def weights_of(net):
    found = list(net.parameters())
    return list(zip(found[::2], found[1::2], strict=True))


def randomised(net):
    for parameter in net.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def test_an_image_to_a_vector_by_hand(exactly):
    net = randomised(Conv((2, 9, 8), (3,), channels=(4, 5), hidden=(6, 7)))
    x = torch.randn(10, 2, 9, 8).double()
    first, second, *linear, last = weights_of(net)
    h = functional.conv2d(x, *first, stride=2, padding=1).relu()
    h = functional.conv2d(h, *second, stride=2, padding=1).relu()
    assert h.shape == (10, 5, 3, 2)
    h = h.flatten(1)
    for layer in linear:
        h = functional.linear(h, *layer).relu()
    exactly(net(x), functional.linear(h, *last))
    assert [len(bias) for _, bias in linear] == [6, 7]


def test_a_vector_to_an_image_is_the_mirror(exactly):
    net = randomised(Conv((3,), (2, 9, 8), channels=(4, 5), hidden=(6, 7)))
    z = torch.randn(10, 3).double()
    *linear, first, last = weights_of(net)
    h = z
    for layer in linear:
        h = functional.linear(h, *layer).relu()
    h = h.reshape(10, 5, 3, 2)
    h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5, :4]
    h = functional.conv2d(h, *first, padding=1).relu()
    h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :9, :8]
    exactly(net(z), functional.conv2d(h, *last, padding=1))
    assert [len(bias) for _, bias in linear] == [7, 6, 30]


def test_an_image_to_an_image_by_hand(exactly):
    net = randomised(Conv((2, 9, 8), (3, 5, 4), channels=(4, 5)))
    x = torch.randn(10, 2, 9, 8).double()
    first, second, last = weights_of(net)
    h = functional.conv2d(x, *first, stride=2, padding=1).relu()
    h = functional.conv2d(h, *second, padding=1).relu()
    exactly(net(x), functional.conv2d(h, *last, padding=1))


def test_hidden_layers_begin_at_the_scale_of_what_they_read():
    net = Conv((3, 64, 64), (64,), channels=(64, 64, 64), hidden=(256, 256))
    h, scales = torch.randn(20, 3, 64, 64), []
    for layer in [*net.layers.maps, nn.Flatten(), *net.layers.after]:
        h = layer(h)
        if isinstance(layer, nn.ReLU):
            scales.append(h.square().mean().item())
    assert len(scales) == 5
    assert 0.4 < min(scales) <= max(scales) < 2


@pytest.mark.parametrize(
    "hidden", [(0,), (8, -1), (2.0,), "a", None, (True,)], ids=lambda value: str(value)
)
def test_widths_are_whole_numbers(hidden, refused):
    with refused("Conv", "hidden=", "whole numbers of at least 1"):
        Conv((1, 8, 8), (2,), hidden=hidden)


def test_without_hidden_layers_the_smallest_picture_is_mapped():
    shapes = [p.shape for p in Conv((1, 8, 8), (2,), channels=(3,), hidden=()).parameters()]
    assert shapes == [(3, 1, 3, 3), (3,), (2, 48), (2,)]


SMALL = partial(Conv, channels=(4, 6), hidden=(8,))


def digits_like(n=40):
    """Pictures of a bar at one of six places."""
    x = torch.zeros(n, 1, 7, 6)
    x[torch.arange(n), :, :, torch.arange(n) % 6] = 1
    return Data.from_array(x, levels=2)


def test_a_vae_is_fitted_saved_and_loaded(tmp_path):
    data = digits_like()
    model = vae(data.shape, latents=2, net=SMALL)
    fit(model, data, epochs=2, batch_size=20, progress=False)
    save(model, tmp_path / "m", data=data)
    back = load(tmp_path / "m")
    assert str(back.call) == str(model.call)
    assert "net=Conv(channels=(4, 6), hidden=(8,))" in str(back.call)
    assert torch.equal(back.sample(3, seed=0), model.eval().sample(3, seed=0))
    assert torch.equal(back.encode(data.x)[0], model.encode(data.x)[0])


def test_latents_may_be_an_image(tmp_path):
    data = digits_like()
    for latents in ((3, 4, 3), (2, 7, 6), (1, 1, 1)):
        model = vae(data.shape, latents=latents, net=SMALL)
        fit(model, data, steps=2, batch_size=20, progress=False)
        assert model.encode(data.x)[0].shape == (40, *latents)
        assert model.sample(5, seed=0).shape == (5, 1, 7, 6)


@pytest.mark.slow
def test_it_learns_where_the_bar_is():
    data = digits_like(120)
    model = vae(data.shape, latents=2, net=SMALL)
    fit(model, data, epochs=80, batch_size=40, learning_rate=5e-3, progress=False)
    rebuilt = model.reconstruct(data.x)
    assert (rebuilt.round() == data.x).float().mean() > 0.97  # the mean picture is right in 0.83


def test_colours_and_holes_reach_the_encoder():
    model = vae((3, 5, 4), latents=2, net=SMALL, likelihood=Normal, sees_mask=True)
    assert model.encoder.in_shape == (6, 5, 4)
    x, mask = torch.randn(4, 3, 5, 4), torch.rand(4, 3, 5, 4) < 0.7
    spoiled = torch.where(mask, x, torch.nan)
    assert torch.equal(model.encode(x, mask)[0], model.encode(spoiled, mask)[0])
    assert not torch.equal(model.encode(x, mask)[0], model.encode(x * mask)[0])
