"""MIG and SAP on codes whose values are known, and of models against plain loops."""

import json
import math
from functools import partial

import pytest
import torch

from latently import Data, ppca, vae
from latently.inference._aggregate import posteriors
from latently.inference.disentanglement import disentanglement, mig, sap
from latently.nets import MLP
from latently.probability.families import Bernoulli, Normal
from latently.probability.priors import Standard

TINY = partial(MLP, hidden=(8,), activation=torch.nn.Tanh)
GRID = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(50, 1)
CHANCE = (1 / 3 + 1 / 4) / 2


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def posterior(loc, scale):
    h = torch.cat([loc, 10 * torch.atanh(torch.tensor(scale).log() / 10).expand_as(loc)], 1)
    return [Normal(loc.shape[1:])(part) for part in h.double().split(128)]


def test_one_latent_for_every_factor():
    codes = torch.cat([GRID.flip(1).float(), torch.zeros(600, 1)], 1)
    found = mig(codes, GRID)
    assert found.number.value == pytest.approx(1)
    assert found.number.stderr == pytest.approx(0, abs=1e-12)
    assert found.best.tolist() == [1, 0]
    truth = torch.tensor([[0, math.log(4)], [math.log(3), 0], [0, 0]]).double()
    torch.testing.assert_close(found.matrix, truth, rtol=1e-6, atol=1e-6)
    score = sap(codes, GRID)
    assert abs(score.number.value - (1 - CHANCE)) < 0.05
    assert score.matrix.amax(0).tolist() == [1, 1]
    assert score.best.tolist() == [1, 0]


def test_two_latents_that_know_the_same():
    """Both hold both factors: no latent is better than the other."""
    both = (GRID[:, 0] * 4 + GRID[:, 1]).float()
    codes = torch.stack([both, both], 1)
    assert mig(codes, GRID).number.value == 0
    torch.testing.assert_close(
        mig(codes, GRID).matrix[:, 0], torch.full((2,), math.log(3)).double()
    )
    assert sap(codes, GRID).number.value == 0


def test_rotated_codes_are_entangled():
    """Two factors of equal range, turned by 45 degrees: both latents know as much of each."""
    factors = torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat(60, 1)
    turned = torch.stack([factors.sum(1), factors[:, 0] - factors[:, 1]], 1).float()
    found = mig(turned, factors)
    assert found.number.value == pytest.approx(0, abs=1e-9)
    assert found.matrix.min() > 0.3
    assert sap(turned, factors).number.value < 0.1
    assert mig(factors.float(), factors).number.value == pytest.approx(1)


def test_noise_knows_nothing():
    codes = noise(600, 3)
    assert mig(codes, GRID).number.value < 0.05
    bias = 19 * 2.5 / (2 * 600)
    assert float(mig(codes, GRID).matrix.mean()) < 2 * bias
    score = sap(codes, GRID)
    assert abs(float(score.matrix.mean()) - CHANCE) < 0.05


def test_information_of_bins_is_that_of_the_table():
    codes, value = noise(500, 2, seed=3), torch.randint(0, 3, (500, 1))
    codes = codes + value
    found = mig(codes, value, bins=5).matrix
    for j in range(2):
        low, high = codes[:, j].min(), codes[:, j].max()
        place = ((codes[:, j] - low) / (high - low) * 5).long().clamp(max=4)
        table = torch.zeros(5, 3).double()
        for a, b in zip(place, value[:, 0], strict=True):
            table[a, b] += 1 / 500
        apart = table / (table.sum(1, keepdim=True) * table.sum(0))
        assert float(found[j, 0]) == pytest.approx(float(torch.special.xlogy(table, apart).sum()))


def test_posteriors_by_quadrature():
    """I(z_j; v) of a mixture of normals for each value, on a grid."""
    loc = torch.tensor([[0.0, 0.3], [1.0, 0.0], [0.4, -2.0], [2.0, 1.0], [0.1, 0.0], [3.0, 0.5]])
    value = torch.tensor([[0], [0], [1], [1], [1], [2]])
    found = mig(posterior(loc.repeat(40, 1), 0.5), value.repeat(40, 1), samples=100)
    z = torch.linspace(-10, 12, 20_001).double()
    for j in range(2):
        density = torch.distributions.Normal(loc[:, j].double(), 0.5).log_prob(z[:, None]).exp()
        whole, truth = density.mean(1), 0.0
        for v in range(3):
            of_value = density[:, value[:, 0] == v].mean(1)
            share = float((value == v).double().mean())
            truth += share * torch.trapezoid(of_value * (of_value / whole).log(), z).item()
        assert float(found.matrix[j, 0]) == pytest.approx(truth, abs=0.02)


def test_sharp_posteriors_give_what_bins_give():
    codes = torch.cat([GRID.float(), torch.zeros(600, 1)], 1)
    found = mig(posterior(codes, 0.01), GRID, samples=2)
    assert found.number.value == pytest.approx(1, abs=1e-6)
    wide = mig(posterior(codes, 100.0), GRID, samples=2)
    assert wide.number.value == pytest.approx(0, abs=1e-3)


def test_the_error_is_that_of_other_rows():
    """The bootstrap's error is about the spread of MIG over fresh sets of rows."""
    values, errors = [], []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        value = torch.randint(0, 3, (300, 1), generator=generator)
        codes = torch.cat(
            [value + 0.6 * noise(300, 1, seed=seed), noise(300, 1, seed=99 + seed)], 1
        )
        number = mig(codes, value, bins=8).number
        values.append(number.value)
        errors.append(number.stderr)
    spread = float(torch.tensor(values).std())
    assert 0.7 < float(torch.tensor(errors).mean()) / spread < 1.4


def test_of_a_model_both_are_of_its_posteriors():
    torch.manual_seed(0)
    model = vae((2,), latents=2, net=partial(MLP, hidden=()), likelihood=Normal).double()
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.zero_()
        model.encoder.net.layers[0].weight[:2] = 10 * torch.eye(2)
    data = Data(GRID.float(), "Normal", "rows")
    found = disentanglement(model, data, GRID, samples=3)
    q = posteriors(model, data, 0)
    torch.testing.assert_close(found.mig.matrix, mig(q, GRID, samples=3).matrix)
    assert found.mig.number.value > 0.99
    assert found.sap.number.value > 1 - CHANCE - 0.05
    assert model.training
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["n"] == 600
    assert "MIG ~ 1.00" in str(found)


def test_bits_are_latents_too():
    torch.manual_seed(0)
    model = vae((2,), latents=3, net=TINY, posterior=Bernoulli, prior=Standard)
    data = Data(GRID.gt(0).float(), "Bernoulli", "rows", levels=2)
    assert disentanglement(model, data, GRID).mig.matrix.shape == (3, 2)


def test_refusals(refused):
    codes = GRID.float()
    with refused("(600, 2)", "(600,)"):
        mig(codes, GRID[:, 0])
    with refused("float32", "integers"):
        sap(codes, codes)
    with refused("factor 1 has one value"):
        mig(codes, torch.stack([GRID[:, 0], torch.zeros(600).long()], 1))
    for measure in (mig, sap):
        with refused("no second best"):
            measure(codes[:, :1], GRID)
        with refused("not finite"):
            measure(codes / 0, GRID)
    with refused("bins=1"):
        mig(codes, GRID, bins=1)
    data = Data(codes, "Normal", "rows")
    with refused("does not factorize"):
        disentanglement(ppca((2,), latents=1), data, GRID)
