"""Mixtures of many normals by matrix products, against the plain sum."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily

from latently.probability.distributions import Factorized, Normal, mixture


def both(scale, components=7, shape=(2, 3), dtype=torch.float64):
    mean, log_scale = torch.randn(2, components, *shape, dtype=dtype).requires_grad_(True)
    logits = torch.randn(components, dtype=dtype, requires_grad=True)
    normals = Factorized(Normal(mean, log_scale + scale), len(shape))
    plain = MixtureSameFamily(Categorical(logits=logits), normals, validate_args=False)
    return mixture(logits, normals), plain, (mean, log_scale, logits)


@pytest.mark.parametrize("scale", [-9.0, -3.0, 0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_density_and_gradient_are_those_of_the_plain_sum(scale, dtype):
    torch.manual_seed(1)
    fast, plain, parameters = both(scale, dtype=dtype)
    z = fast.sample((4, 5)).requires_grad_(True)
    rounding = 1e-15 * math.exp(2 * (3 - scale))  # z^2 / sigma^2 in float64, sigma spread by e^3
    tolerance = max(1e-9, rounding) if dtype == torch.float64 else 2e-4
    values, gradients = [], []
    for d in (fast, plain):
        values.append(d.log_prob(z))
        gradients.append(torch.autograd.grad(values[-1].sum(), (z, *parameters)))
    assert values[0].dtype == dtype
    torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance)
    for a, b in zip(*gradients, strict=True):
        size = b.abs().max()
        torch.testing.assert_close(a / size, b / size, rtol=10 * tolerance, atol=10 * tolerance)


def test_draws_are_of_the_mixture():
    fast, plain, _ = both(0.0, components=3, shape=(2,))
    draws = fast.sample((40_000,))
    error = draws.std(0) / 200
    assert ((draws.mean(0) - plain.mean).abs() < 5 * error).all()
    assert (draws.var(0) / plain.variance - 1).abs().max() < 0.05


def test_components_may_be_of_every_row():
    normals = Factorized(Normal(torch.zeros(4, 3, 2), torch.zeros(4, 3, 2)), 1)
    d = mixture(torch.zeros(4, 3), normals)
    assert d.log_prob(torch.zeros(6, 4, 2)).shape == (6, 4)
