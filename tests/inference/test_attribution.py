"""Surprise of single cells against dense Gaussian algebra, enumeration and mixtures."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from latently import Data, FactorAnalysis, Mixture, NormalizingFlow, fit, vae
from latently.inference import _cells
from latently.inference.attribution import attribution
from latently.inference.pareto import K_HAT_LIMIT
from latently.models.components import (
    Columns,
    Diagonal,
    Factors,
    Full,
    Principal,
    Spherical,
    Student,
    Tied,
)
from latently.nets import MLP
from latently.probability.families import (
    Bernoulli,
    Gamma,
    Hurdle,
    LogNormal,
    Mixed,
    MultivariateNormal,
    Normal,
)
from latently.probability.flows import NSF


def factors(columns=5, latents=2):
    model = FactorAnalysis((columns,), latents)
    with torch.no_grad():
        model.loc.normal_()
        model.weight.normal_()
        model.log_variance.normal_(std=0.5)
    return model


def dense(model):
    weight = model.weight.detach().numpy()
    cov = weight @ weight.T + np.diag(model.log_variance.detach().exp().numpy())
    return model.loc.detach().numpy(), cov


def of_gaussian(loc, cov, x, seen, j):
    """-log p(x_j | others) and its entropy by dense algebra."""
    o = seen.copy()
    o[j] = False
    gain = cov[j, o] @ np.linalg.inv(cov[np.ix_(o, o)]) if o.any() else np.zeros(0)
    mean, var = loc[j] + gain @ (x[o] - loc[o]), cov[j, j] - gain @ cov[o, j]
    return -stats.norm.logpdf(x[j], mean, var**0.5), 0.5 * math.log(2 * math.pi * math.e * var)


def test_rows_without_any_cell_have_nothing_to_tell():
    model = factors()
    data = rows(model, n=3, share=1.0)
    found = attribution(model, data)
    assert not found.mask.any()
    assert found.values.eq(0).all()


def rows(model, n=8, share=0.3):
    x = model.sample(n, seed=1)
    return replace(Data.from_array(x), mask=torch.rand(x.shape) > share)


class Inexact(FactorAnalysis):
    """The generic path, with a posterior that is not exact."""

    density = "bound"

    def predictive(self, x, mask, context=None):
        return None

    def posterior(self, x, mask=None, context=None):
        q = super().posterior(x, mask, context)
        return type(q)(
            q.mean + 0.1, precision_matrix=0.8 * q.precision_matrix, validate_args=False
        )


def test_factor_analysis_is_exact():
    model = factors()
    data = rows(model)
    found = attribution(model, data)
    assert found.kind == "exact"
    assert found.samples == 0
    loc, cov = dense(model)
    for i in range(len(data)):
        x, seen = data.x[i].numpy(), data.mask[i].numpy()
        for j in range(5):
            value, entropy = of_gaussian(loc, cov, x, seen, j) if seen[j] else (0.0, 0.0)
            assert float(found.values[i, j]) == pytest.approx(value, abs=1e-9)
            assert float(found.usual[i, j]) == pytest.approx(entropy, abs=1e-9)
    assert torch.equal(found.excess, found.values - found.usual)


def test_particles_agree_with_the_exact_model():
    exact = factors()
    model = Inexact((5,), 2)
    model.load_state_dict(exact.state_dict())
    data = rows(exact)
    wanted = attribution(exact, data)
    found = attribution(model, data, samples=1000, draws=100)
    assert found.kind == "estimate"
    assert (found.values - wanted.values).abs().max() < 0.3
    assert (found.values - wanted.values).abs().mean() < 0.05
    assert (found.usual - wanted.usual)[data.mask].abs().max() < 0.3  # 200 draws: 0.05


def test_the_strange_cell_is_found_whatever_the_units():
    model = factors(6, 2)
    x = model.sample(20, seed=2)
    std = dense(model)[1].diagonal() ** 0.5
    x[3, 4] += 8 * std[4]
    whole = attribution(model, Data.from_array(x))
    assert whole.ranked(3)[0] == (4,)
    scale = torch.tensor([1.0, 1e4, 1e-4, 1.0, 1e3, 1.0]).double()
    with torch.no_grad():
        model.loc.mul_(scale)
        model.weight.mul_(scale[:, None])
        model.log_variance.add_(2 * scale.log())
    scaled = attribution(model, Data.from_array(x * scale))
    torch.testing.assert_close(scaled.excess, whole.excess, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(scaled.values, whole.values)


def test_mixture_by_the_direct_formula():
    model = Mixture((3,), 2, family=Full())
    data = Data.from_array(torch.randn(40, 3, dtype=torch.float64) * 2 + 1)
    for _ in zip(range(3), model.em(data.x), strict=False):
        pass
    data = data.rows(slice(0, 6))
    found = attribution(model, data)
    hidden = torch.ones(6, 3, dtype=torch.bool)
    for j in range(3):
        mask = hidden.clone()
        mask[:, j] = False
        with torch.no_grad():
            wanted = model.log_prob(data.x, mask) - model.log_prob(data.x)
        torch.testing.assert_close(found.values[:, j], wanted, rtol=1e-6, atol=1e-6)
    assert found.kind == "exact"


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize(
    "family",
    [
        Full(),
        *(
            pytest.param(family, marks=pytest.mark.slow)
            for family in (
                *(Tied(), Diagonal(), Spherical()),
                *(Factors(2), Principal(1), Student(Full())),
            )
        ),
    ],
    ids=lambda family: type(family).__name__,
)
def test_every_kind_of_component_by_hiding_cells(family, share, monkeypatch):
    """log p(x_others) - log p(x); all cells at once say what one after the other says."""
    model = Mixture((2, 3), 3, family=family)
    x = torch.randn(60, 2, 3, dtype=torch.float64)
    x = x + x[:, :1] * torch.arange(3) + 50 * torch.arange(6).view(2, 3)
    mask = torch.rand(x.shape) >= share
    for _ in zip(range(4), model.em(x, mask), strict=False):
        pass
    data = replace(Data.from_array(x[:12]), mask=mask[:12])
    found = attribution(model, data, draws=1)
    for j in range(6):
        others = data.mask.flatten(1).clone()
        others[:, j] = False
        with torch.no_grad():
            wanted = model.log_prob(data.x, others.view(12, 2, 3)) - model.log_prob(
                data.x, data.mask
            )
        own = found.values.flatten(1)[:, j]
        wanted = torch.where(data.mask.flatten(1)[:, j], wanted, 0.0)
        torch.testing.assert_close(own, wanted, rtol=1e-7, atol=1e-7)
    monkeypatch.setattr(Mixture, "left_out", lambda *_: None)
    apart = attribution(model, data, draws=1)
    torch.testing.assert_close(found.values, apart.values, rtol=1e-7, atol=1e-7)
    assert found.k_hat.eq(0).all()


@pytest.mark.slow
def test_what_is_usual_is_the_entropy_of_the_cell_given_the_others():
    model = Mixture((2,), 2, family=Full())
    x = torch.randn(80, 2, dtype=torch.float64)
    for _ in zip(range(3), model.em(x + x[:, :1].abs()), strict=False):
        pass
    data = Data.from_array(x[:3])
    found = attribution(model, data, draws=4000)
    grid = torch.linspace(-15, 15, 4001, dtype=torch.float64)
    for i in range(3):
        rows = torch.stack([grid, data.x[i, 1].expand_as(grid)], 1)
        with torch.no_grad():
            log_p = model.log_prob(rows)
        log_p = log_p - torch.logsumexp(log_p, 0) - math.log(30 / 4000)
        entropy = -float((log_p.exp() * log_p).sum() * 30 / 4000)
        assert float(found.usual[i, 0]) == pytest.approx(entropy, abs=0.06)


@pytest.mark.slow
def test_binary_cells_by_integration():
    model = vae((4,), latents=1, net=partial(MLP, hidden=(8,)), likelihood=Bernoulli).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.8)
        for p in model.encoder.parameters():
            p.zero_()  # proposes from the prior, whose weights are bounded
    x = torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1]]).double()
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    found = attribution(model, replace(Data.from_array(x), mask=mask), samples=4000, draws=400)
    z = torch.linspace(-9, 9, 4001).double()[:, None, None]
    with torch.no_grad():
        decoded, prior = model.decoder(z), model.prior().log_prob(z)[:, 0]

        def log_p(row, seen):
            return torch.logsumexp(prior + decoded.log_prob(row, seen)[:, 0], 0)

        for i, j in mask.nonzero().tolist():
            without = mask[i].clone()
            without[j] = False
            wanted = log_p(x[i], without) - log_p(x[i], mask[i])
            assert float(found.values[i, j]) == pytest.approx(float(wanted), abs=0.05)
            p = float((-wanted).exp())
            entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
            assert float(found.usual[i, j]) == pytest.approx(entropy, abs=0.15)
    assert found.values[0, 3] == 0


def test_cells_that_depend_on_each_other_given_z():
    """A likelihood of full covariance whose decoder ignores z: the conditional is a normal's."""
    model = vae((3,), latents=1, likelihood=MultivariateNormal).double()
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.zero_()
        model.decoder.offset.normal_(std=0.5)
    x = torch.randn(4, 3, dtype=torch.float64)
    found = attribution(model, Data.from_array(x), samples=20, draws=5)
    d = model.decoder(torch.zeros(1, 1, 1, dtype=torch.float64))
    loc = d.mean[0, 0].detach().numpy()
    draws = d.sample((200_000,))[:, 0, 0].numpy()
    cov = np.cov(draws.T)
    for i in range(4):
        for j in range(3):
            value, _ = of_gaussian(loc, cov, x[i].numpy(), np.ones(3, bool), j)
            assert float(found.values[i, j]) == pytest.approx(value, abs=0.05 * (1 + abs(value)))


def test_rows_do_not_depend_on_their_company():
    exact = factors()
    model = Inexact((5,), 2)
    model.load_state_dict(exact.state_dict())
    data = rows(exact)
    whole = attribution(model, data, samples=50, seed=4)
    part = attribution(model, data.rows([6, 2, 3]), samples=50, seed=4)
    assert torch.equal(part.values, whole.values[[6, 2, 3]])
    assert torch.equal(part.usual, whole.usual[[6, 2, 3]])
    assert not torch.equal(attribution(model, data, samples=50, seed=5).values, whole.values)


def test_a_strange_value_does_not_move_its_own_draws():
    exact = factors()
    model = Inexact((5,), 2)
    model.load_state_dict(exact.state_dict())
    data = rows(exact, share=0.0)
    far = data.x.clone()
    far[0, 2] += 3.0
    two = [attribution(model, replace(data, x=x), samples=50).k_hat for x in (data.x, far)]
    assert torch.equal(two[0][1:], two[1][1:])
    few = attribution(model, replace(data, x=far), samples=5)
    assert few.k_hat.isnan().all()
    assert few.warnings == ()


def test_what_is_refused(refused):
    model = factors()
    data = rows(model)
    with refused("samples=0"):
        attribution(model, data, samples=0)
    with refused("draws=0"):
        attribution(model, data, draws=0)
    flow = NormalizingFlow((5,), NSF())
    with refused("NormalizingFlow cannot leave cells out"):
        attribution(flow, replace(data, mask=None))


class Narrow(Inexact):
    """A posterior so narrow that weights of its draws have no variance."""

    def posterior(self, x, mask=None, context=None):
        q = super().posterior(x, mask, context)
        return type(q)(q.mean, precision_matrix=3 * q.precision_matrix, validate_args=False)


@pytest.mark.slow
def test_cells_of_heavy_weights_get_more_draws_which_move(monkeypatch):
    exact = factors()
    model = Narrow((5,), 2)
    model.load_state_dict(exact.state_dict())
    data, errors, found = rows(exact, n=100, share=0.0), {}, {}
    truth = attribution(exact, data).values
    once, more, moved = (math.inf, 4, 0), (K_HAT_LIMIT, 4, 0), (K_HAT_LIMIT, 8, 3)
    for how in (once, more, moved):
        for name, value in zip(("K_HAT_LIMIT", "_MOVED", "_SWEEPS"), how, strict=True):
            monkeypatch.setattr(_cells, name, value)
        monkeypatch.setattr(_cells, "_TURNS", how[-1])
        found[how] = attribution(model, data, samples=100, draws=1)
        errors[how] = (found[how].values - truth).square()
    again = errors[once] != errors[more]
    heavy = found[once].k_hat > K_HAT_LIMIT
    assert 0.2 < float(heavy.double().mean()) < 1  # of rows: some, not all, hold a heavy cell
    assert torch.equal(again.any(1), heavy)  # all else stays to the number
    assert torch.equal(errors[moved][~again], errors[once][~again])
    assert float(errors[more][again].mean()) < 0.5 * float(errors[once][again].mean())
    went = errors[moved] != errors[more]
    assert float(errors[moved][went].mean()) < 0.5 * float(errors[more][went].mean())
    left = [int((found[how].k_hat > K_HAT_LIMIT).sum()) for how in (once, more, moved)]
    assert left[0] > left[1] > left[2]
    alone = attribution(model, data.rows(heavy.nonzero()[:1, 0]), samples=100, draws=1)
    assert torch.equal(alone.values[0], found[moved].values[heavy][0])


def test_what_is_advised_is_an_option_of_the_command_line():
    heavy = replace(attribution(factors(), rows(factors())), k_hat=torch.ones(8))
    assert heavy.warnings[0].endswith("raise --samples")


def hurdles(unit=1.0, seed=0):
    """A normal column and an amount, 0 in nine rows of ten, log-normal of deviation 1.2 else."""
    torch.manual_seed(seed)
    x = torch.randn(2000, 2).double()
    amount = unit * (1 + 1.2 * torch.randn(2000).double()).exp()
    return torch.stack([x[:, 0], torch.where(torch.rand(2000) < 0.9, 0.0, amount)], 1)


def as_inexact(model):
    """The same model by particles."""

    class Particles(type(model)):
        density = "bound"

        def predictive(self, *_):
            return None

        def left_out(self, *_):
            return None

    model.__class__ = Particles
    return model


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "particles"])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_excess_of_an_amount_has_no_unit(unit, exact):
    """At 0 -log P(0) less the entropy of the branch; above, the number's own excess besides."""
    x = hurdles(unit)
    columns = (Normal, partial(Hurdle, family=LogNormal))
    model = Mixture((2,), components=1, family=Columns(columns))
    fit(model, Data.from_array(x), progress=False)
    zeros, above = x[:, 1] == 0, x[:, 1] > 0
    logs = x[above, 1].log()
    loc, std, p0 = logs.mean(), logs.std(unbiased=False), zeros.double().mean()
    entropy = -(p0 * p0.log() + (1 - p0) * (1 - p0).log())
    wanted = torch.where(zeros, -p0.log() - entropy, -(1 - p0).log() - entropy)
    r = (logs - loc) / std  # log-normal: -log p less its entropy is log x - E log x and r^2
    wanted[above] += (r.square() - 1) / 2 + logs - loc
    some = torch.cat([above.nonzero()[:20, 0], zeros.nonzero()[:4, 0]])
    model = model if exact else as_inexact(model)
    found = attribution(model, Data.from_array(x[some]), samples=20, draws=2000).excess[:, 1]
    error = 1.4 / math.sqrt(2000)  # 1.4 nats is the deviation of -log p above 0
    torch.testing.assert_close(found, wanted[some], rtol=0, atol=5 * error)


def test_an_amount_has_its_like_in_all_ways_to_go(monkeypatch):
    """Cells one by one, in blocks and together; one hurdle beside columns of other kinds."""
    torch.manual_seed(0)
    x = torch.cat([hurdles()[:, 1:], torch.randn(2000, 3).double()], 1)
    x[:, 3] = (x[:, 3] > 0).double()
    columns = (partial(Hurdle, family=Gamma), Normal, Normal, Bernoulli)
    model = vae((4,), latents=1, likelihood=partial(Mixed, columns=columns)).double()
    model.initialise(x)
    data = Data(x[:8], "Mixed", "amounts")
    told = attribution(model, data, samples=200, draws=600)
    monkeypatch.setattr(_cells, "_WIDE", 2)
    moved = attribution(model, data, samples=200, draws=600)
    torch.testing.assert_close(told.excess, moved.excess, rtol=0.05, atol=0.15)
    alone = [attribution(model, data.rows([i]), samples=200, draws=600) for i in (0, 5)]
    single = torch.cat([found.excess for found in alone])
    torch.testing.assert_close(single, moved.excess[[0, 5]], rtol=0.05, atol=0.15)


@pytest.mark.parametrize("columns", [4, _cells._WIDE], ids=["blocks", "together"])
def test_beside_a_cell_out_of_all_proportion_nothing_is_known_of_the_others(columns):
    net = partial(MLP, hidden=(8,))
    model = vae((columns,), latents=2, net=net, likelihood=Normal).float()
    x = torch.randn(6, columns)
    usual = attribution(model, Data.from_array(x), samples=20)
    assert usual.values.isfinite().all()
    x[2, 1] = x[4, 0] = x[4, 3] = 1e25  # whose squares are none of float32
    found = attribution(model, Data.from_array(x), samples=20)
    near = torch.tensor([0, 1, 3, 5])
    assert torch.equal(found.values[near], usual.values[near])
    assert found.values[2, 1] == math.inf == found.excess[2, 1]
    assert found.values[2].isnan().sum() == found.usual[2].isnan().sum() == columns - 1
    assert found.values[4].isnan().all()
    assert [found.ranked(row) for row in (2, 4)] == [((1,),), ()]
    assert found.warnings[-1].startswith("2 of 6 rows, the first is row 2, hold a cell so far out")
    assert not any("the first is" in said for said in usual.warnings)
