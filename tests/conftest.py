"""What the tests of truth share: options, one-line refusals, and a VAE whose evidence is known."""

import math
import random
from collections import Counter
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Distribution, MultivariateNormal

from latently import vae
from latently.errors import UserError
from latently.nets import MLP
from latently.probability.families import FixedNormal


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the tests of truth run")
    parser.addoption("--dtype", default="float64", choices=("float32", "float64"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Files with most long and slow tests go first: no process ends long after the others."""
    if hasattr(config, "workerinput"):  # one of several
        count = Counter(
            (item.path, name)
            for item in items
            for name in ("long", "slow")
            if item.get_closest_marker(name)
        )
        items.sort(key=lambda item: (-count[item.path, "long"], -count[item.path, "slow"]))


@pytest.fixture(scope="session")
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def dtype(request):
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(scope="session")
def exactly(dtype):
    """Asserts equality to a float64 tolerance, or to what float32 can hold if that was asked."""

    def check(found, wanted, tolerance=1e-10):
        tolerance = tolerance if dtype == torch.float64 else max(tolerance, 2e-4)
        found, wanted = (torch.as_tensor(v).detach().double().cpu() for v in (found, wanted))
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)

    return check


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def _checks():
    Distribution.set_default_validate_args(True)  # compiling a step switches them off for good


@contextmanager
def refused(*words):
    """Expect a UserError of exactly one line that holds every one of `words`."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert message.strip() == message != ""
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message, f"{word!r} not in {message!r}"


@pytest.fixture(scope="session", name="refused")
def refused_fixture():
    return refused


@contextmanager
def _untouched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


@pytest.fixture(scope="session")
def untouched():
    """A block that must leave every global generator as it was."""
    return _untouched


def _set_affine(conditional, weight, bias):
    layer = conditional.net.layers[0]
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


@pytest.fixture
def gaussian_vae(dtype, device):
    """A maker of linear-Gaussian VAEs, with their exact log p(x) beside them.

    The weight has orthogonal columns, so that the posterior factorizes and a Normal can be exact.
    `shift` and `widen` spoil it: mean + shift, log deviation + widen.
    """

    def make(columns=3, latents=2, std=0.7, shift=0.0, widen=0.0, **options):
        model = vae(
            (columns,),
            latents=latents,
            likelihood=partial(FixedNormal, std=std),
            net=partial(MLP, hidden=()),
            **options,
        ).to(device, dtype)
        generator = torch.Generator().manual_seed(5)
        square = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
        weight = torch.linalg.qr(square).Q[:, :latents] * torch.arange(1.0, latents + 1)
        loc = torch.linspace(-1, 1, columns, dtype=torch.float64)
        precision = 1 + weight.square().sum(0) / std**2
        gain = (weight / std**2 / precision).T
        log_scale = -0.5 * precision.log() + widen
        raw = 10 * torch.atanh(log_scale / 10)  # the family bounds it by 10 tanh(raw / 10)
        _set_affine(model.decoder, weight, loc)
        _set_affine(
            model.encoder,
            torch.cat([gain, torch.zeros_like(gain)]),
            torch.cat([shift - gain @ loc, raw]),
        )
        covariance = weight @ weight.T + std**2 * torch.eye(columns, dtype=torch.float64)
        truth = MultivariateNormal(loc, covariance)
        x = truth.sample((6,)).to(device, dtype)
        kl = 0.5 * (math.exp(2 * widen) - 1 - 2 * widen + shift**2 * precision).sum()
        return SimpleNamespace(
            model=model,
            x=x,
            log_p=truth.log_prob(x.double().cpu()).to(device),
            gap=float(kl),  # KL(q || posterior): by how much the ELBO falls short
        )

    return make
