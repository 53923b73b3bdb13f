"""Rows drawn given some cells, and probabilities of cells, against closed forms."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from latently import Data, not_random, vae
from latently.inference.given import draw_given, predictive
from latently.models.not_at_random import SelfMasking
from latently.nets import MLP
from latently.probability.families import Categorical, Gamma, Mixed, Normal

from .test_attribution import Inexact, dense, factors, rows


def conditional(model, x, seen):
    loc, cov = dense(model)
    o, m = seen, ~seen
    gain = cov[np.ix_(m, o)] @ np.linalg.inv(cov[np.ix_(o, o)])
    return loc[m] + gain @ (x[o] - loc[o]), cov[np.ix_(m, m)] - gain @ cov[np.ix_(o, m)]


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "particles"])
def test_draws_have_the_conditional_mean_and_covariance(exact):
    truth = factors()
    model = truth if exact else Inexact((5,), 2)
    model.load_state_dict(truth.state_dict())
    x = truth.sample(1, seed=3)[0]
    mask = torch.tensor([True, False, True, False, False])
    found = draw_given(model, x, mask, 20_000, samples=20_000)
    mean, cov = conditional(truth, x.numpy(), mask.numpy())
    drawn = found.draws[:, ~mask].numpy()
    assert found.draws.shape == (20_000, 5)
    assert torch.equal(found.draws[:, mask], x[mask].expand(20_000, -1))
    std = cov.diagonal() ** 0.5
    assert np.abs((drawn.mean(0) - mean) / std).max() < 0.06
    assert np.abs((np.cov(drawn.T) - cov) / std / std[:, None]).max() < 0.08
    assert (found.ess is None) == exact
    assert not found.warnings or not exact


def test_nothing_given_and_all_given():
    model = factors()
    x = torch.full((5,), torch.nan, dtype=torch.float64)
    found = draw_given(model, x, torch.zeros(5, dtype=torch.bool), 20_000)
    loc, cov = dense(model)
    std = cov.diagonal() ** 0.5
    assert np.abs((found.draws.mean(0).numpy() - loc) / std).max() < 0.04
    whole = draw_given(model, torch.ones(5), torch.ones(5, dtype=torch.bool), 3)
    assert torch.equal(whole.draws, torch.ones(3, 5))
    assert whole.warnings == ()


def test_a_seed_gives_the_same_draws_and_hidden_values_do_not_matter(untouched):
    model = factors()
    x, mask = torch.randn(5), torch.tensor([True, False, True, True, False])
    with untouched():
        first = draw_given(model, x, mask, 4).draws
    other = torch.where(mask, x, torch.randn(5))
    assert torch.equal(draw_given(model, other, mask, 4).draws, first)
    assert not torch.equal(draw_given(model, x, mask, 4, seed=1).draws, first)


def test_of_a_model_of_what_is_missing_others_are_no_lost_cells():
    """Given x_0, x_1 is drawn from p(x_1|x_0), though high values are lost more often."""
    model = not_random(factors(), partial(SelfMasking, sign="above"))
    model.lacking.fill_(True)
    none = torch.zeros(5, dtype=torch.bool)
    found = draw_given(model, torch.zeros(5), none, 20_000).draws
    loc, cov = dense(model.model)
    assert np.abs((found.mean(0).numpy() - loc) / cov.diagonal() ** 0.5).max() < 0.04
    x, mask = model.sample(1, seed=3)[0], torch.tensor([True, False, True, False, False])
    mean, cov = conditional(model.model, x.numpy(), mask.numpy())
    found = draw_given(model, x, mask, 20_000).draws[:, ~mask].mean(0).numpy()
    assert np.abs((found - mean) / cov.diagonal() ** 0.5).max() < 0.04


def test_few_particles_are_said():
    exact = factors()
    model = Inexact((5,), 2)
    model.load_state_dict(exact.state_dict())
    x, mask = exact.sample(1, seed=3)[0], torch.tensor([True, True, True, True, False])
    found = draw_given(model, x, mask, 1000, samples=20, sweeps=0)
    assert any("fewer effective particles" in line for line in found.warnings)


def test_predictive_density_is_the_conditional_normal():
    model = factors()
    data = rows(model)
    hidden = replace(data, mask=data.mask & (torch.arange(5) != 1))
    grid = torch.linspace(-30, 30, 601, dtype=torch.float64)
    found = predictive(model, hidden, grid)
    assert found.kind == "exact"
    assert found.log_prob.shape == (601, 8, 5)
    assert torch.equal(found.log_prob.isnan().all(0), hidden.mask)
    mass = found.probs[:, ~hidden.mask].sum(0) * 0.1
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-3, atol=0)
    truth = predictive(model, hidden, data.x[None])
    for i in range(8):
        x, seen = data.x[i].numpy(), hidden.mask[i].numpy()
        mean, cov = conditional(model, x, seen)
        wanted = -0.5 * (x[~seen] - mean) ** 2 / cov.diagonal() - 0.5 * np.log(
            2 * math.pi * cov.diagonal()
        )
        np.testing.assert_allclose(truth.log_prob[0, i].numpy()[~seen], wanted, rtol=1e-8)


def mixed():
    columns = (Normal, partial(Categorical, levels=3), Gamma)
    model = vae(
        (3,),
        latents=1,
        net=partial(MLP, hidden=(8,)),
        likelihood=partial(Mixed, columns=columns),
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.6)
    return model


def test_levels_of_a_category_by_integration():
    model = mixed()
    x = torch.tensor([[0.3, 0.0, 1.4], [-1.0, 2.0, 0.2]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    data = replace(Data.from_array(x), mask=mask)
    found = predictive(model, data, torch.arange(4), samples=5000)
    z = torch.linspace(-9, 9, 4001).double()[:, None, None]
    with torch.no_grad():
        decoded, prior = model.decoder(z), model.prior().log_prob(z)[:, 0]
        for i in range(2):
            share = torch.softmax(prior + decoded.log_prob(x[i], mask[i])[:, 0], 0)
            for level in range(3):
                row = x[i].clone()
                row[1] = level
                wanted = (share * decoded.cell_log_prob(row)[:, 0, 1].exp()).sum()
                assert float(found.probs[level, i, 1]) == pytest.approx(float(wanted), abs=0.02)
    assert (found.log_prob[3, :, 1] == -torch.inf).all()  # no such level
    assert torch.allclose(found.probs[:, :, 1].sum(0), torch.ones(2).double())


def test_what_is_refused(refused):
    model = factors()
    data = rows(model)
    row, mask = torch.zeros(5), torch.ones(5, dtype=torch.bool)
    with refused("n=0"):
        draw_given(model, row, mask, 0)
    with refused("row of shape (4,)"):
        draw_given(model, row[:4], mask, 1)
    with refused("mask of shape (1, 5)"):
        draw_given(model, row, mask[None], 1)
    with refused("samples=0"):
        predictive(model, data, torch.zeros(2), samples=0)
    with refused("values of shape (2, 3)"):
        predictive(model, data, torch.zeros(2, 3))
    with refused("values: there are none"):
        predictive(model, data, torch.zeros(0))
