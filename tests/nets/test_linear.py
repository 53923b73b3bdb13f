"""The fast affine map is the affine map, with its gradients; and when it steps aside."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from latently.nets import MLP, _linear
from latently.nets._linear import Linear, run_layers


def reference(layer, x):
    return nn.functional.linear(x, layer.weight, layer.bias)


@pytest.fixture(params=[(7, 5), (5, 7)], ids=["narrows", "widens"])
def layer(request):
    torch.manual_seed(0)
    return Linear(*request.param)


def test_values_and_first_gradients(layer):
    x = torch.randn(11, layer.in_features, requires_grad=True)
    inputs = (x, layer.weight, layer.bias)
    found = torch.autograd.grad(layer(x).square().sum(), inputs)
    expected = torch.autograd.grad(reference(layer, x).square().sum(), inputs)
    torch.testing.assert_close(layer(x), reference(layer, x))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_second_gradients(layer):
    """A contractive penalty differentiates a gradient."""
    x = torch.randn(11, layer.in_features, requires_grad=True)

    def penalty(y):
        (slope,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), layer.weight)[0]

    torch.testing.assert_close(penalty(layer(x)), penalty(reference(layer, x)))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.ELU])
def test_activations_without_gradients(activation):
    torch.manual_seed(0)
    net = MLP((7,), (3,), hidden=(9, 8), activation=activation)
    x = 3 * torch.randn(6, 7)
    with torch.no_grad():
        fast = run_layers(net.layers, x)
    torch.testing.assert_close(fast, net.layers(x).detach(), atol=2e-6, rtol=1e-5)
    wide = net.double().layers(x.double())
    torch.testing.assert_close(fast.double(), wide.detach(), atol=1e-5, rtol=1e-5)


def test_a_skip_adds_a_linear_map(refused):
    torch.manual_seed(0)
    net = MLP((2, 3), (4,), hidden=(9,), activation=nn.SiLU, skip=True)
    x = torch.randn(5, 2, 3)
    bent = net.layers[2](nn.functional.silu(net.layers[0](x.flatten(1))))
    torch.testing.assert_close(net(x), bent + x.flatten(1) @ net.skip.weight.T)
    with refused("hidden=()", "leave out skip"):
        MLP((2,), (3,), hidden=(), skip=True)


def test_dropout_still_drops():
    torch.manual_seed(0)
    net = MLP((7,), (3,), hidden=(64,), dropout=0.5)
    x = torch.randn(2, 7)
    with torch.no_grad():
        assert not torch.equal(net(x), net(x))
        net.eval()
        assert torch.equal(net(x), net(x))


def test_steps_aside(layer, monkeypatch):
    """Other types, functorch transforms and machines without oneDNN take torch's own path."""
    x = torch.randn(4, layer.in_features)
    expected = reference(layer, x)
    monkeypatch.setattr(_linear, "_product", lambda: None)
    assert torch.equal(layer(x), expected)
    monkeypatch.undo()
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(layer(x), expected)
    stacked = torch.vmap(lambda v: layer(v))(torch.stack([x, 2 * x]))
    torch.testing.assert_close(stacked[0], expected)
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    jacobian = torch.func.jacrev(lambda v: functional_call(layer, weights, (v,)))(x[:1])
    torch.testing.assert_close(jacobian[0, :, 0], layer.weight.detach())
    assert layer.double()(x.double()).dtype == torch.float64
    assert layer.to(torch.bfloat16)(x.to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.ELU])
def test_gradients_through_activations(activation):
    """First and second derivatives equal those of the layers one by one, in float64."""
    torch.manual_seed(0)
    net = MLP((7,), (3,), hidden=(9, 8), activation=activation)

    def derivatives(run, dtype):
        made = net.to(dtype)
        x = torch.linspace(-2, 2, 42, dtype=dtype).view(6, 7).requires_grad_(True)
        y = run(made.layers, x).square().sum()
        first = torch.autograd.grad(y, (x, *made.parameters()), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), tuple(made.parameters())[:-1])
        return [g.double().clone() for g in (*first, *second)]

    fast = derivatives(run_layers, torch.float32)
    truth = derivatives(lambda layers, x: layers(x), torch.float64)
    for found, expected in zip(fast, truth, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


def test_hooks_see_activations():
    net = MLP((7,), (3,), hidden=(9,), activation=nn.Tanh)
    seen = []
    net.layers[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(torch.randn(2, 7))
    assert len(seen) == 1


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.SiLU, nn.Sigmoid])
@pytest.mark.parametrize("gradients", [True, False])
def test_nan_is_never_hidden(activation, gradients):
    net = MLP((7,), (3,), hidden=(9,), activation=activation)
    x = torch.randn(4, 7)
    x[0, 0] = torch.nan
    with torch.set_grad_enabled(gradients):
        y = net(x)
    assert y[0].isnan().all()
    assert y[1:].isfinite().all()
