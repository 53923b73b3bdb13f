"""A residual network: its layers by hand, and how near to affine it begins."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from latently import Data, fit, load, save, vae
from latently.nets import Conv, ResNet


def weights_of(net):
    found = list(net.parameters())
    return list(zip(found[::2], found[1::2], strict=True))


def randomised(net):
    for parameter in net.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def block(h, first, second):
    inner = functional.silu(functional.conv2d(functional.silu(h), *first, padding=1))
    return h + functional.conv2d(inner, *second, padding=1)


def test_an_image_to_a_vector_by_hand(exactly):
    net = randomised(ResNet((2, 9, 8), (3,), channels=(4, 5), blocks=1))
    h = x = torch.randn(10, 2, 9, 8).double()
    one, *one_block, two, a, b, last = weights_of(net)
    h = block(functional.conv2d(h, *one, stride=2, padding=1), *one_block)
    h = block(functional.conv2d(h, *two, stride=2, padding=1), a, b)
    assert h.shape == (10, 5, 3, 2)
    exactly(net(x), functional.linear(h.flatten(1), *last))


def test_a_vector_to_an_image_is_the_mirror(exactly):
    net = randomised(ResNet((3,), (2, 9, 8), channels=(4, 5), blocks=1))
    z = torch.randn(10, 3).double()
    first, a, b, two, *one_block, one = weights_of(net)
    h = block(functional.linear(z, *first).reshape(10, 5, 3, 2), a, b)
    h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5, :4]
    h = block(functional.conv2d(h, *two, padding=1), *one_block)
    h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :9, :8]
    exactly(net(z), functional.conv2d(h, *one, padding=1))


def test_an_image_to_an_image_by_hand(exactly):
    net = randomised(ResNet((2, 9, 8), (3, 5, 4), channels=(4,), blocks=1))
    x = torch.randn(10, 2, 9, 8).double()
    first, a, b, last = weights_of(net)
    h = block(functional.conv2d(x, *first, stride=2, padding=1), a, b)
    exactly(net(x), functional.conv2d(h, *last, padding=1))


def bend(net, shape):
    """How far `f(x + y) + f(0)` is from `f(x) + f(y)`, as a share of what f does."""
    x, y, zero = torch.randn(20, *shape), torch.randn(20, *shape), torch.zeros(20, *shape)
    with torch.no_grad():
        gap = net(x + y) + net(zero) - net(x) - net(y)
        return (gap.square().mean() / (net(x + y) - net(zero)).square().mean()).sqrt()


@pytest.mark.parametrize("shapes", [((3, 16, 16), (20,)), ((20,), (3, 16, 16))])
def test_it_begins_almost_affine_however_deep(shapes):
    for blocks in (1, 8):
        deep = ResNet(*shapes, channels=(16, 32), blocks=blocks)
        assert 1e-4 < bend(deep, shapes[0]) < 0.2
    assert bend(Conv(*shapes, channels=(16, 32)), shapes[0]) > 0.4
    assert bend(ResNet(*shapes, channels=(16, 32), blocks=0), shapes[0]) < 1e-4


def test_gradients_of_a_deep_one_neither_vanish_nor_explode():
    net = ResNet((1, 16, 16), (8,), channels=(16, 16), blocks=20)
    x = torch.randn(10, 1, 16, 16, requires_grad=True)
    net(x).sum().backward()
    norms = [p.grad.norm() for name, p in net.named_parameters() if name.endswith("weight")]
    assert len(norms) == 2 + 2 * 2 * 20 + 1
    assert max(norms) < 1e3 * min(norms)


@pytest.mark.parametrize("blocks", [-1, 1001, 2.0, True, None])
def test_blocks_are_counted(blocks, refused):
    with refused("ResNet", f"blocks={blocks}", "from 0 to 1000"):
        ResNet((1, 8, 8), (2,), blocks=blocks)


def test_a_vae_is_fitted_saved_and_loaded(tmp_path):
    data = Data.from_array(torch.rand(40, 1, 7, 6).round(), levels=2)
    net = partial(ResNet, channels=(4, 6), blocks=1)
    for latents in (2, (3, 4, 3)):
        model = vae(data.shape, latents=latents, net=net)
        fit(model, data, epochs=2, batch_size=20, progress=False)
        save(model, tmp_path / "m", data=data)
        back = load(tmp_path / "m")
        assert str(back.call) == str(model.call)
        assert torch.equal(back.sample(3, seed=0), model.eval().sample(3, seed=0))
