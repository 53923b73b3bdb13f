"""Cells of a row, hidden in turn, by one set of draws: against dense algebra and integrals."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.stats import multivariate_t
from torch.distributions import constraints

from latently import Data, FactorAnalysis, vae
from latently.inference import _cells
from latently.inference._population import effective
from latently.inference._together import _around, _tempered, can_move_together
from latently.inference.attribution import attribution
from latently.inference.given import predictive
from latently.inference.pareto import K_HAT_LIMIT
from latently.inference.rows import Rows
from latently.models.wrappers import Dequantized
from latently.nets import MLP
from latently.probability.families import (
    Categorical,
    Gamma,
    LogNormal,
    Mixed,
    MultivariateNormal,
    Normal,
    OneHot,
)
from latently.probability.priors import Standard

from .test_attribution import Inexact


class Rough(Inexact):
    """A posterior two deviations beside the truth, and too narrow, of latents that are real."""

    def posterior(self, x, mask=None, context=None):
        q = super().posterior(x, mask, context)
        beside = 2 * q.variance.sqrt()
        return type(q)(q.mean + beside, precision_matrix=4 * q.precision_matrix)

    def latent_constraints(self):
        return (constraints.real,)


def pair(contexts=0):
    exact, rough = (kind((6,), 2, contexts=contexts) for kind in (FactorAnalysis, Rough))
    with torch.no_grad():
        for p in exact.parameters():
            p.normal_()
        exact.log_variance.sub_(2.0)
    rough.load_state_dict(exact.state_dict())
    return exact, rough


def holed(model, n=8, share=0.2, contexts=0):
    context = torch.randn(n, contexts, dtype=torch.float64) if contexts else None
    x = model.sample(n, context, seed=1)
    return replace(Data.from_array(x), mask=torch.rand(x.shape) > share, context=context)


@pytest.fixture
def at_once(monkeypatch):
    """Counts of cells that move together, all of which do, and of those that move alone."""
    count = {"together": 0, "alone": 0}

    def together(*args, **how):
        for found in moved(*args, **how):
            count["together"] += len(found[0])
            yield found

    def alone(*args):
        count["alone"] += args[-1] != args[-2] and len(args) == 8
        return scored(*args)

    moved, scored = _cells.moved_together, _cells._scored
    monkeypatch.setattr(_cells, "moved_together", together)
    monkeypatch.setattr(_cells, "_scored", alone)
    monkeypatch.setattr(_cells, "K_HAT_LIMIT", -torch.inf)
    monkeypatch.setattr(_cells, "_MANY", 1)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("contexts", [0, 2])
def test_a_rough_encoder_is_made_up_for(contexts, at_once, monkeypatch):
    exact, rough = pair(contexts)
    data = holed(exact, contexts=contexts)
    wanted = attribution(exact, data)
    found = attribution(rough, data, samples=200, draws=40)
    assert at_once == {"together": int(data.mask.sum()), "alone": 0}
    assert found.kind == "estimate"
    assert bool((found.k_hat <= K_HAT_LIMIT).all())
    assert (found.values - wanted.values)[data.mask].abs().mean() < 0.05
    assert (found.values - wanted.values).abs().max() < 0.4
    assert (found.usual - wanted.usual)[data.mask].abs().mean() < 0.15  # 40 draws: 0.09
    monkeypatch.setattr(_cells, "_TURNS", 0)
    first = attribution(rough, data, samples=200, draws=1)
    assert (first.values - wanted.values)[data.mask].abs().mean() > 0.2


def test_a_strange_cell_is_as_strange_as_it_is(at_once):
    exact, rough = pair()
    data = holed(exact, share=0.0)
    x = data.x.clone()
    x[:, 3] += 5.0
    wanted = attribution(exact, replace(data, x=x))
    found = attribution(rough, replace(data, x=x))
    assert at_once["together"] > 0
    ratio = found.values[:, 3] / wanted.values[:, 3]
    assert (ratio - 1).abs().max() < 0.1
    assert [found.ranked(i)[0] for i in range(8)] == [wanted.ranked(i)[0] for i in range(8)]


def test_rows_do_not_depend_on_their_company_nor_chunks(at_once, monkeypatch):
    exact, rough = pair()
    data = holed(exact)
    whole = attribution(rough, data, samples=50, seed=4)
    part = attribution(rough, data.rows([6, 2, 3]), samples=50, seed=4)
    assert torch.equal(part.values, whole.values[[6, 2, 3]])
    assert torch.equal(part.usual, whole.usual[[6, 2, 3]])
    monkeypatch.setattr(_cells, "_VALUES", 1)
    assert torch.equal(attribution(rough, data, samples=50, seed=4).values, whole.values)
    monkeypatch.setattr(_cells, "_GROUP", 2)
    apart = attribution(rough, data, samples=50, seed=4)
    assert not torch.equal(apart.values, whole.values)
    assert (apart.values - whole.values)[data.mask].abs().mean() < 0.1


def columns(posterior):
    kinds = (Normal, partial(Categorical, levels=3), Gamma, Normal)
    model = vae(
        (4,),
        latents=1,
        net=partial(MLP, hidden=(8,)),
        likelihood=partial(Mixed, columns=kinds),
        posterior=posterior,
        prior=Standard,
        sees_mask=True,
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.6)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("posterior", [Normal, LogNormal])
def test_columns_of_every_kind_by_integration(posterior, at_once):
    """Latents above 0 have no Student's t: what the encoder does not find is moved one by one."""
    model = columns(posterior)
    x = torch.tensor([[0.3, 1.0, 1.4, -0.5], [-1.0, 2.0, 0.2, 0.1]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    data = replace(Data.from_array(x), mask=mask)
    found = attribution(model, data, samples=1000, draws=200)
    levels = predictive(model, replace(data, mask=mask & ~torch.eye(4).bool()[1]), torch.arange(3))
    assert at_once["together"] > 0
    grid = torch.linspace(-9, 9, 4001).double()[:, None, None]
    z = grid if posterior is Normal else grid.exp()
    slope = 0.0 if posterior is Normal else grid[:, :, 0]
    with torch.no_grad():
        decoded, prior = model.decoder(model.encoder.family.embed(z)), model.prior().log_prob(z)

        def log_p(row, seen):
            return float((prior + slope + decoded.log_prob(row, seen)).logsumexp(0))

        for i, j in mask.nonzero().tolist():
            without = mask[i].clone()
            without[j] = False
            wanted = log_p(x[i], without) - log_p(x[i], mask[i])
            assert float(found.values[i, j]) == pytest.approx(wanted, abs=0.06)
            if j == 1:
                rows = x[i].repeat(3, 1)
                rows[:, 1] = torch.arange(3)
                p = torch.tensor([log_p(row, mask[i]) - log_p(row, without) for row in rows])
                entropy = -float((p.exp() * p).sum())
                assert float(p.exp().sum()) == pytest.approx(1.0, abs=1e-6)
                torch.testing.assert_close(
                    levels.probs[:, i, 1].float(), p.exp(), atol=0.03, rtol=0
                )
                assert float(found.usual[i, 1]) == pytest.approx(entropy, abs=0.12)
    assert found.values[0, 3] == 0


def test_who_can_move_together():
    def rows(x):
        return Rows(x, torch.ones_like(x, dtype=torch.bool))

    plain = vae((3,), latents=2, likelihood=Normal)
    assert can_move_together(plain, rows(torch.randn(1, 3)))
    assert can_move_together(columns(Normal), rows(torch.ones(1, 4).double()))
    joint = vae((3,), latents=2, likelihood=MultivariateNormal)
    assert not can_move_together(joint, rows(torch.randn(1, 3)))
    named = vae((2, 3), latents=2, likelihood=OneHot)
    assert not can_move_together(named, rows(torch.eye(3)[:2][None]))
    levels = Dequantized(plain, levels=4)
    assert not can_move_together(levels, rows(torch.ones(1, 3)))


def test_a_power_of_weights_that_lets_enough_of_them_count():
    log_w = 30 * torch.randn(500, dtype=torch.float64)
    for enough in (2.0, 20.0, 400.0):
        share = _tempered(log_w, enough)
        assert float(effective(share.log()[None])) == pytest.approx(enough, rel=1e-3)
        slope = (share[0] / share[1]).log() / (log_w[0] - log_w[1])
        assert 0 < float(slope) < 1
    even = torch.randn(500, dtype=torch.float64) / 10
    assert torch.equal(_tempered(even, 20.0), even.softmax(0))


def test_students_t_has_the_moments_of_the_particles_and_its_own_density():
    z = torch.randn(4000, 1, 3, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.0]).double() + 2
    z[..., 1] += z[..., 0]
    log_w = -(z[:, 0, 0] - 1).square()
    drawn, log_q = _around(z, log_w, 50_000)
    share = log_w.softmax(0)
    mean = (share[:, None] * z[:, 0]).sum(0)
    cov = ((z[:, 0] - mean) * share[:, None]).T @ (z[:, 0] - mean)
    assert drawn.shape == (50_000, 1, 3)
    found = torch.cov(drawn[:, 0, :2].T) * 3 / 5  # of 5 degrees of freedom
    torch.testing.assert_close(drawn[:, 0].mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(found, cov[:2, :2], rtol=0.1, atol=0.02)
    held = cov + 1e-6 * cov.diagonal().mean() * torch.eye(3)
    known = multivariate_t(mean.numpy(), held.numpy(), 5).logpdf(drawn[:100, 0].numpy())
    constant = torch.as_tensor(known) - log_q[:100]
    torch.testing.assert_close(constant, constant[:1].expand(100), rtol=0, atol=1e-6)
