"""Imputation against closed forms, and what it says of itself."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm

from latently import PPCA, Data, Dequantized, FactorAnalysis, Mixture, fit, impute, vae
from latently.inference import _blocks, _population
from latently.inference._population import (
    Population,
    effective,
    first_particles,
    moved_particles,
    shares,
)
from latently.inference._population import _moved as moved
from latently.inference.rows import Rows
from latently.models import Model
from latently.models.components import Columns, Diagonal, Full, Student, columns
from latently.nets import MLP
from latently.probability.families import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Gamma,
    Mixed,
    Normal,
    Ordinal,
    Poisson,
)


def fitted(kind=FactorAnalysis, n=60, holes=0.4):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 5)) * 2 + rng.normal(size=(n, 5))
    x[rng.random(x.shape) < holes] = np.nan
    x[0] = np.arange(5)
    data = Data.from_array(x)
    model = kind((5,), 2)
    fit(model, data, steps=30, progress=False)
    return model, data


def conditional(model, x, seen):
    """Mean and deviation of the missing cells of one row, by the textbook formula."""
    weight = model.weight.detach().numpy()
    covariance = weight @ weight.T + np.diag(model.log_variance.detach().exp().numpy())
    loc = model.loc.detach().numpy()
    o, m = seen, ~seen
    gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
    left = covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]
    return loc[m] + gain @ (x[o] - loc[o]), np.sqrt(np.diag(left))


@pytest.mark.parametrize("kind", [FactorAnalysis, PPCA])
def test_linear_models_impute_in_closed_form(kind):
    model, data = fitted(kind)
    found = impute(model, data, draws=3)
    assert found.ess is None
    assert found.k_hat is None
    assert found.mode is None
    assert found.warnings == ()
    assert found.draws.shape == (3, 60, 5)
    assert found.missing == data.missing
    for i in range(len(data)):
        seen = data.mask[i].numpy()
        if seen.all():
            continue
        mean, std = conditional(model, data.x[i].numpy(), seen)
        np.testing.assert_allclose(found.mean[i].numpy()[~seen], mean, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found.std[i].numpy()[~seen], std, rtol=1e-10)
        for level, line in zip(found.levels, found.quantiles, strict=True):
            np.testing.assert_allclose(
                line[i].numpy()[~seen], norm.ppf(level, mean, std), rtol=1e-8, atol=1e-8
            )


@pytest.mark.parametrize("kind", [FactorAnalysis, PPCA])
def test_resampling_agrees_with_the_closed_form(kind):
    """The generic path, with a posterior that is not exact."""

    class Inexact(kind):
        density = "bound"

        def predictive(self, x, mask, context=None):
            return None

        def posterior(self, x, mask=None, context=None):
            q = super().posterior(x, mask, context)
            return type(q)(
                q.mean + 0.1, precision_matrix=0.8 * q.precision_matrix, validate_args=False
            )

    exact, data = fitted(kind)
    model = Inexact((5,), 2)
    model.load_state_dict(exact.state_dict())
    data = data.rows(slice(1, 12))
    samples = 20_000
    found = impute(model, data, draws=4000, samples=samples)
    wanted = impute(exact, data)
    assert (found.ess < samples).all()
    assert (found.ess > samples / 3).all()
    hole, error = ~data.mask, 5 / float(found.ess.min()) ** 0.5
    relative = ((found.mean - wanted.mean) / wanted.std)[hole]
    assert relative.abs().max() < error
    assert ((found.std / wanted.std)[hole] - 1).abs().max() < error
    assert ((found.draws.mean(0) - wanted.mean) / wanted.std)[hole].abs().max() < 5 / 4000**0.5
    lines = (found.quantiles - wanted.quantiles) / wanted.std
    assert lines[:, hole].abs().max() < 2.5 * error  # 5 % quantiles are twice as noisy


@pytest.mark.parametrize("kind", ["exact", "settled", "moving"])
def test_without_quantiles_all_else_is_the_same(kind):
    model, data = fitted() if kind == "exact" else (table_model(torch.float64), None)
    if data is None:
        x = model.sample(20, seed=3)
        data = replace(Data.from_array(x), mask=torch.rand(x.shape) > 0.4)
    samples = 20 if kind == "moving" else 300
    whole, lean = (impute(model, data, samples=samples, quantiles=q) for q in ((0.5,), ()))
    assert lean.quantiles.shape == (0, *data.x.shape)
    for name in ("draws", "mean", "std", "k_hat", "ess"):
        one, other = getattr(whole, name), getattr(lean, name)
        assert one is other is None or torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


def test_discrete_mixture_by_enumeration():
    """Binary columns given z: the mean is the weighted mean of probabilities, to Monte Carlo."""
    model = vae((6,), latents=1, net=partial(MLP, hidden=(8,)), likelihood=Bernoulli).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.8)
    x = torch.tensor([[1.0, 0, 1, 0, 0, 0]]).double()
    mask = torch.tensor([[True, True, True, False, False, False]])
    data = replace(Data.from_array(x), mask=mask)
    found = impute(model, data, samples=200_000, draws=10, quantiles=(0.5,))
    z = torch.linspace(-9, 9, 4001).double()[:, None, None]
    decoded = model.decoder(z)
    log_p = model.prior().log_prob(z)[:, 0] + decoded.log_prob(x, mask)[:, 0]
    share = torch.softmax(log_p, 0)
    wanted = (share[:, None] * decoded.mean[:, 0]).sum(0)
    error = (wanted * (1 - wanted) / float(found.ess.min())).sqrt()
    assert ((found.mean[0] - wanted).abs() < 5 * error)[3:].all()
    assert torch.equal(found.mean[0, :3], x[0, :3])
    assert torch.equal(found.mode[0, 3:], (wanted[3:] > 0.5).double())
    assert ((found.std[0] - (wanted * (1 - wanted)).sqrt()).abs() < 0.02)[3:].all()
    assert (found.std[0, :3] == 0).all()


def holey(n=6, share=0.5, levels=5):
    data = Data.from_array(torch.randint(0, levels, (n, 4)), levels=levels)
    return replace(data, mask=torch.rand(n, 4) < share)


def little(levels=5):
    return vae(
        (4,),
        latents=2,
        net=partial(MLP, hidden=(8,)),
        likelihood=partial(DiscretizedLogistic, levels=levels),
    )


def test_integers_stay_integers_and_seen_cells_stay(untouched):
    model, data = little(), holey()
    with untouched():
        found = impute(model, data, samples=200)
    seen = data.mask
    assert torch.equal(found.draws, found.draws.round())
    assert torch.equal(found.quantiles, found.quantiles.round())
    for part in (found.mean, found.mode, *found.draws, *found.quantiles):
        assert torch.equal(part[seen], data.x[seen])
    assert (found.quantiles.diff(dim=0) >= 0).all()
    assert found.draws.min() >= 0
    assert found.draws.max() <= 4


def test_rows_do_not_depend_on_their_company():
    model, data = little(), holey()
    whole = impute(model, data, samples=100, seed=3)
    part = impute(model, data.rows([4, 1]), samples=100, seed=3)
    assert torch.equal(part.draws, whole.draws[:, [4, 1]])
    assert torch.equal(part.mean, whole.mean[[4, 1]])
    assert not torch.equal(impute(model, data, samples=100, seed=4).draws, whole.draws)


def test_draws_are_those_of_the_model_method():
    model, data = little(), holey()
    found = impute(model, data, draws=100, samples=100, seed=3)
    assert torch.equal(
        model.impute(data.x, data.mask, draws=100, samples=100, seed=3), found.draws
    )


def test_few_effective_particles_are_said():
    model, data = little(), holey(share=0.8)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(6)
    found = impute(model, data, draws=50, samples=100)
    assert any("fewer effective particles than draws" in w for w in found.warnings)
    complete = impute(model, replace(data, mask=None), draws=5, samples=100)
    assert complete.warnings == ()
    assert complete.missing == 0


def test_bad_options(refused):
    model, data = little(), holey()
    with refused("draws=-1", "at least 0"):
        impute(model, data, draws=-1)
    with refused("samples=1.5"):
        impute(model, data, samples=1.5)
    with refused("quantiles: 1.2", "between 0 and 1"):
        impute(model, data, quantiles=(0.5, 1.2))
    with refused("rows of shape"):
        impute(model, Data.from_array(torch.zeros(3, 2)))
    for quantiles in (0.5, "a"):
        with refused("quantiles=", "must be numbers"):
            impute(model, data, quantiles=quantiles)
    with refused("quantiles: 'a'"):
        impute(model, data, quantiles=("a",))
    with refused("draws=True"):
        impute(model, data, draws=True)
    for wrong, said in (({"samples": 0}, "samples=0"), ({"draws": -1}, "draws=-1")):
        with refused(said, "at least 1"):
            model.impute(data.x, data.mask, **wrong)
    for mask in (data.mask[:, :2], data.mask.float()):
        with refused("mask: ", "must be bool of the shape of x"):
            model.impute(data.x, mask)
    for cells in (torch.zeros(99, dtype=torch.bool), torch.zeros(model.shape)):
        with refused("cells: ", "one for each cell"):
            impute(model, data, cells=cells)

    class NoDensity(type(model)):
        density = None

    model.__class__ = NoDensity
    with refused("no density"):
        impute(model, data)
    assert isinstance(model, Model)


@pytest.mark.parametrize("samples", [50, 9000], ids=["blocks", "rows"])
def test_a_row_of_no_density_is_named_with_its_largest_cell(samples, refused):
    model = table_model(torch.float32)
    x = torch.randn(40, 5)
    x[:, 3] = torch.nan
    x[17, 1] = -1e25
    told = {name: x[:, j].tolist() for j, name in enumerate("abcde")}
    told["d"][0] = 0.5  # or it would be left out
    table = Data.from_frame(told, kinds=dict.fromkeys("abcde", "real"))
    for data, column in ((Data.from_array(x), "column 1"), (table, "column 'b'")):
        with refused("row 17", f"largest is -1e+25 in {column}", "no finite density"):
            impute(model, data, draws=2, samples=samples)
    assert impute(model, Data.from_array(x[:17]), draws=2, samples=samples).missing == 17


def test_without_a_seed_the_global_generator_goes_on():
    model, data = little(), holey()
    torch.manual_seed(0)
    first, second = (model.impute(data.x, data.mask, draws=3, samples=200) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(model.impute(data.x, data.mask, draws=3, samples=200), first)
    twice = torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool)
    one, other = model.impute(*twice, draws=50, samples=200).unbind(1)
    assert not torch.equal(one, other)  # equal rows are drawn apart


def naive(kind):
    """A posterior that reads holes as if they were far-off values, and complete rows well."""

    class Naive(kind):
        density = "bound"

        def predictive(self, x, mask, context=None):
            return None

        def posterior(self, x, mask=None, context=None):
            if mask is not None:
                x = torch.where(mask, x, 4.0)
            q = super().posterior(x)
            return type(q)(q.mean, precision_matrix=0.7 * q.precision_matrix, validate_args=False)

    exact, data = fitted(kind)
    model = Naive((5,), 2)
    model.load_state_dict(exact.state_dict())
    return exact, model, data.rows((data.mask.sum(1) == 3).nonzero()[:8, 0])


class OneByOne:
    """A model whose posterior is known by its own draws alone, as that of several layers."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def posterior(self, *_):
        return None


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FactorAnalysis, PPCA])
def test_the_population_moves_where_the_encoder_never_saw_holes(kind):
    exact, model, data = naive(kind)
    wanted, hole = impute(exact, data), ~data.mask

    def found(sweeps):  # of eight seeds: a row that no sweep brings anywhere is rare, not unknown
        every = [impute(model, data, samples=2000, sweeps=sweeps, seed=s) for s in range(8)]
        miss = [((one.mean - wanted.mean) / wanted.std)[hole].abs() for one in every]
        return torch.stack([one.ess for one in every]), torch.stack(miss).mean()

    (still_ess, still_miss), (moved_ess, moved_miss) = found(0), found(30)
    assert still_ess.median() < 60
    assert (moved_ess[0] >= 30).all()  # where a sweep is enough
    assert (moved_ess >= 30).double().mean() > 0.9
    assert moved_miss < 0.3 * still_miss
    assert moved_miss < 0.15


@pytest.mark.parametrize("wrap", [lambda model: model, OneByOne])
def test_the_mean_weight_of_a_sweep_is_the_evidence_wherever_it_started(wrap):
    exact, model, data = naive(FactorAnalysis)
    rows = Rows(data.x[:1], data.mask[:1], None)
    torch.manual_seed(0)
    with torch.no_grad():
        first = first_particles(model, rows, 300)
        sweeps = [moved(wrap(model), rows, first).log_w for _ in range(400)]
        log_p = exact.log_prob(*rows)
    ratio = (torch.stack(sweeps) - log_p).exp().mean((1, 2))
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert error < 0.05
    assert abs(float(ratio.mean()) - 1) < 4 * error


def test_draws_weighed_by_all_posteriors_are_worth_more_than_each_by_its_own():
    _, model, data = naive(FactorAnalysis)
    torch.manual_seed(0)
    ess = []
    with torch.no_grad():
        for b in range(len(data)):
            rows = Rows(data.x[b : b + 1], data.mask[b : b + 1], None)
            first = moved(model, rows, first_particles(model, rows, 1000))
            ess.append(
                [effective(shares(moved(m, rows, first).log_w)) for m in (model, OneByOne(model))]
            )
    mixed, alone = torch.tensor(ess).T
    assert (mixed > alone).all()
    assert mixed.median() > 3 * alone.median()


def test_a_sweep_with_particles_enough_is_not_spoiled_by_those_before_it(monkeypatch):
    even, few = torch.zeros(1000, 1).double(), torch.full((1000, 1), -40.0).double()
    few[:3] = 0.0
    heavy = Population((torch.zeros(1000, 1, 2),), None, few)
    more = heavy._replace(log_w=few.where(few < 0, 0.0).index_fill(0, torch.tensor([3, 4]), 0.0))
    sweeps = iter([more, more, more._replace(log_w=even), None])
    monkeypatch.setattr(_population, "_moved", lambda *_: next(sweeps))
    found = moved_particles(None, None, heavy, 10)
    assert torch.equal(found.log_w, even)


def test_good_proposals_do_not_move():
    model, data = little(), holey()
    same = [impute(model, data, samples=300, sweeps=n, seed=1).draws for n in (0, 10)]
    assert torch.equal(*same)  # with more than a hundred effective particles


def table_model(dtype, columns=5):
    """Weights that make rows of every kind: settled at once, and moved."""
    model = vae(
        (columns,), latents=2, net=partial(MLP, hidden=(16,)), likelihood=Normal, sees_mask=True
    ).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_rows_of_a_block_do_not_depend_on_their_company(dtype):
    model = table_model(dtype)
    x = torch.randn(70, 5, dtype=dtype)
    seen = torch.rand(70, 5) < 0.6
    seen[:, 0] |= ~seen.any(1)  # no two rows are equal
    data = replace(Data.from_array(x), mask=seen)
    how = {"samples": 300, "draws": 3, "sweeps": 2, "seed": 3}
    whole = impute(model, data, **how)
    settled = whole.ess > 100
    assert settled.any()
    assert not settled.all()
    for n in (1, 33, 70):
        at = torch.randperm(70)[:n]
        part = impute(model, data.rows(at), **how)
        for name in ("mean", "std", "ess", "k_hat"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[at]), name
        for name in ("draws", "quantiles"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[:, at]), name


def test_a_block_draws_the_numbers_of_its_rows_alone(monkeypatch):
    model = table_model(torch.float64)
    x = torch.randn(40, 5, dtype=torch.float64)
    data = replace(Data.from_array(x), mask=torch.rand(40, 5) < 0.8)
    together = impute(model, data, samples=300, draws=3, sweeps=0)
    monkeypatch.setattr("latently.inference._blocks.block_rows", lambda x, samples: 1)
    alone = impute(model, data, samples=300, draws=3, sweeps=0)
    settled = (together.ess > 150) & ~data.mask.all(1)
    assert settled.any()
    torch.testing.assert_close(alone.ess, together.ess, rtol=1e-9, atol=0)
    # the same particles; of a row alone draws are taken by another algorithm
    torch.testing.assert_close(alone.mean, together.mean, rtol=0, atol=2e-3)
    lines = (alone.quantiles - together.quantiles)[:, settled] / together.std[settled].nan_to_num()
    assert lines.nan_to_num().abs().median() < 0.05


def test_mixed_columns_have_their_likeliest_level_or_their_median():
    columns = (Normal, partial(Categorical, levels=4), Gamma)
    model = vae(
        (3,), latents=1, net=partial(MLP, hidden=(8,)), likelihood=partial(Mixed, columns=columns)
    ).double()
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.normal_(std=0.6)
        for p in model.encoder.parameters():
            p.zero_()  # proposes from the prior, whose weights are bounded
    x = torch.stack([torch.randn(30), torch.randint(4, (30,)), torch.rand(30) + 0.1], 1).double()
    mask = torch.rand(30, 3) < 0.5
    found = impute(model, replace(Data.from_array(x), mask=mask), samples=4000, quantiles=(0.9,))
    z = torch.linspace(-9, 9, 2001).double()[:, None, None]
    with torch.no_grad():
        decoded, prior = model.decoder(z), model.prior().log_prob(z)[:, 0]
        for i in range(30):
            share = torch.softmax(prior + decoded.log_prob(x[i], mask[i])[:, 0], 0)
            row = found.mode[i]
            below = (share * decoded.cdf(row)[:, 0].T).sum(1)
            for j in (0, 2):
                if not mask[i, j]:
                    assert float(below[j]) == pytest.approx(0.5, abs=0.05)
            if not mask[i, 1]:
                levels = torch.arange(4.0).double()[:, None].expand(4, 3).clamp(min=0.1)
                levels[:, 1] = torch.arange(4)
                p = torch.stack(
                    [(share * decoded.cell_log_prob(v)[:, 0, 1].exp()).sum() for v in levels]
                )
                assert float(p[int(row[1])]) > float(p.max()) - 0.05
    assert found.quantiles.shape == (1, 30, 3)
    assert torch.equal(found.mode[mask], x[mask])


def test_weighted_quantiles_and_modes_by_hand():
    from latently.inference._filled import _weigh

    drawn = torch.tensor([[1.0], [3.0], [1.0], [2.0]])[:, None]  # (K, B, D)
    share = torch.tensor([[0.2, 0.4, 0.3, 0.1]], dtype=torch.float64)
    levels = torch.tensor([0.1, 0.45, 0.55, 0.65], dtype=torch.float64)
    lines, mode = torch.zeros(4, 1, 1), torch.zeros(1, 1)
    _weigh(drawn, share, (torch.tensor([0]), torch.tensor([0])), levels, lines, mode)
    assert lines[:, 0, 0].tolist() == [1.0, 1.0, 2.0, 3.0]
    assert mode.item() == 1.0


def barely_told():
    """Cells that ignore z: 51 and 49 % of two values, and a number and a count beside them."""
    columns = (
        Bernoulli,
        Normal,
        partial(Categorical, levels=4),
        partial(Ordinal, levels=3),
        Poisson,
    )
    model = vae(
        (5,), latents=2, net=partial(MLP, hidden=(4,)), likelihood=partial(Mixed, columns=columns)
    ).double()
    with torch.no_grad():
        for p in model.decoder.net.parameters():
            p.zero_()
    more = (torch.arange(10000) < 5100).double()
    x = torch.stack([more, torch.randn(10000), 3 * more, 1 + more, 2 + more], 1).double()
    model.decoder.family.initialise(x)
    model.decoder.initialise(model.decoder.family.marginal(x))
    return model


@pytest.mark.parametrize("sweeps", [0, 3])
def test_names_and_grades_are_told_by_probabilities_not_by_draws(sweeps):
    """Of 50 draws, 49 % of a value would often be the more frequent."""
    model = barely_told()
    data = replace(
        Data.from_array(torch.tensor([[0.0, 1.0, 0.0, 1.0, 2.0]]).repeat(40, 1).double()),
        mask=torch.rand(40, 5) < 0.5,
    )
    lines = (0.3, 0.485, 0.495)
    found = impute(model, data, samples=50, sweeps=sweeps, quantiles=lines)
    at = ~data.mask
    for j, (low, high) in {0: (0, 1), 2: (0, 3), 3: (1, 2)}.items():
        assert at[:, j].sum() > 5
        assert set(found.mode[at[:, j], j].tolist()) == {high}
        told = [set(found.quantiles[i, at[:, j], j].tolist()) for i in range(3)]
        assert told == [{low}, {low}, {high}]


def test_cells_that_do_not_matter_are_not_drawn():
    model = table_model(torch.float64)
    x = torch.randn(40, 5, dtype=torch.float64)
    data = replace(Data.from_array(x), mask=torch.rand(40, 5) < 0.6)
    cells = torch.tensor([True, False, True, False, False])
    whole, part = (impute(model, data, samples=100, cells=c) for c in (None, cells))
    assert torch.equal(part.draws, whole.draws)
    torch.testing.assert_close(part.mean, whole.mean)
    assert torch.equal(part.quantiles[..., cells], whole.quantiles[..., cells])
    without = impute(model, data, samples=100, draws=0, sweeps=0)
    assert without.draws.shape == (0, 40, 5)
    assert not any("fewer effective particles" in note for note in without.warnings)
    torch.testing.assert_close(without.mean, impute(model, data, samples=100, sweeps=0).mean)
    none = impute(model, data, samples=100, cells=torch.zeros(5, dtype=torch.bool))
    assert torch.equal(none.quantiles, none.mean.expand(3, 40, 5))
    assert not torch.equal(whole.quantiles[0], whole.mean)
    few = barely_told()
    x = torch.tensor([[0.0, 1.0, 0.0, 1.0, 2.0]]).repeat(40, 1).double()
    data = replace(Data.from_array(x), mask=torch.rand(40, 5) < 0.6)
    cells = torch.tensor([True, False, True, True, False])
    found = impute(few, data, samples=100, cells=cells)
    at = ~data.mask[:, 1]
    assert torch.equal(found.mode[at, 1], found.mean[at, 1])
    alone = impute(few, data.rows([3, 17]), samples=100, cells=cells)
    assert torch.equal(alone.draws, found.draws[:, [3, 17]])
    assert torch.equal(alone.quantiles, found.quantiles[:, [3, 17]])


@pytest.mark.parametrize("kind", [FactorAnalysis, PPCA])
def test_exact_rows_do_not_depend_on_their_company(kind):
    model, data = fitted(kind)
    whole = impute(model, data, seed=2)
    part = impute(model, data.rows([40, 3, 17]), seed=2)
    for name in ("mean", "std"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[[40, 3, 17]])
    assert torch.equal(part.draws, whole.draws[:, [40, 3, 17]])
    assert torch.equal(part.quantiles, whole.quantiles[:, [40, 3, 17]])


@pytest.mark.parametrize("component", [Full(), Diagonal(), Student(Full())], ids=str)
def test_rows_of_mixtures_do_not_depend_on_their_company(component):
    x = torch.randn(60, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    data = replace(Data.from_array(x), mask=torch.rand(60, 4) < 0.7)
    model = Mixture((4,), 3, family=component)
    fit(model, data, steps=3, progress=False)
    whole = impute(model, data, draws=200, seed=1)
    at = torch.randperm(60)[:9]
    part = impute(model, data.rows(at), draws=200, seed=1)
    for name in ("mean", "std"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[at])
    for name in ("draws", "quantiles"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, at])
    hole = ~data.mask
    if not isinstance(component, Student):  # whose variance may be that of a few far draws
        apart = (whole.draws.mean(0) - whole.mean) / whole.std
        assert apart[hole].abs().max() < 5 / 200**0.5
        assert (whole.draws.std(0) / whole.std)[hole].log().abs().median() < 0.1
    below = (whole.draws <= whole.quantiles[1]).double().mean(0)[hole]
    assert (below - 0.5).abs().max() < 5 * 0.5 / 200**0.5


def test_rows_that_only_fill_a_block_are_not_drawn(monkeypatch):
    """Chosen categories are drawn row by row: once for each row that counts, out of a block."""
    monkeypatch.setattr(columns, "_AT_ONCE", 0)  # too many parameters to hold them by row
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 5.0]])
    mask = torch.tensor([[True, False], [True, False], [False, True]])
    model = Mixture((2,), 2, family=Columns(columns=(partial(Categorical, levels=6),) * 2))
    data = replace(Data.from_array(x * mask), mask=mask, family="Categorical(levels=6)")
    drawn, real = [], _blocks.conditioned

    def counted(model, particles, rows):
        drawn.append(len(rows.x))
        return real(model, particles, rows)

    monkeypatch.setattr(_blocks, "conditioned", counted)
    whole = impute(model, data, draws=2)
    assert drawn.count(1) == len(x)
    alone = impute(model, data.rows([2]), draws=2)
    assert torch.equal(whole.draws[:, 2:], alone.draws)


@pytest.mark.parametrize("density", ["exact", "bound"])
def test_equal_rows_have_draws_of_their_own_and_one_mean(density):
    class Inexact(FactorAnalysis):
        def predictive(self, x, mask, context=None):
            return None

    exact, data = fitted()
    Inexact.density = "bound"
    model = exact if density == "exact" else Inexact((5,), 2)
    model.load_state_dict(exact.state_dict())
    row = int((data.mask.sum(1) == 3).nonzero()[0])
    some = data.rows([0, row, 1, *[row] * 400])
    how = {"samples": 200, "draws": 4, "sweeps": 0, "seed": 3}
    found, alone = impute(model, some, **how), impute(model, data.rows([row]), **how)
    equal = [1, *range(3, 403)]
    assert torch.equal(found.draws[:, 1], alone.draws[:, 0])  # the first is as without the others
    for part in (found.mean, found.std, *found.quantiles):
        assert torch.equal(part[equal], part[1].expand(401, 5))
    assert torch.equal(found.mean[1], alone.mean[0])
    hidden = found.draws[:, equal][..., ~data.mask[row]]
    assert len(hidden[0].unique(dim=0)) > 350
    spread = found.std[1][~data.mask[row]]
    apart = hidden.mean(1) - found.mean[1][~data.mask[row]]  # one mean over equal rows per draw
    assert bool((apart.abs() < 0.35 * spread).all())  # of shared draws it would be a draw: 1
    drawn = model.impute(some.x, some.mask, draws=1, samples=200, seed=3)[0]
    assert len(drawn[equal].unique(dim=0)) > 350


def test_draws_of_equal_rows_do_not_hang_on_others():
    model, data = fitted()
    row = int((data.mask.sum(1) == 3).nonzero()[0])
    one = impute(model, data.rows([row, row, row]), seed=1).draws
    other = impute(model, data.rows([5, row, 2, row, 7, row]), seed=1).draws
    assert torch.equal(one, other[:, [1, 3, 5]])


def test_rows_rounded_as_a_whole_are_told_by_draws():
    """Their cells depend on each other: no cell's probabilities stand alone."""
    x = torch.randint(0, 4, (40, 3)).double()
    data = replace(
        Data.from_array(x, family="DiscretizedLogistic(levels=4)"), mask=torch.rand(40, 3) < 0.6
    )
    model = Dequantized(Mixture((3,), 2, family=Full()), levels=4).double()
    fit(model, data, steps=3, progress=False)
    found = impute(model, data, samples=50, draws=2)
    assert torch.equal(found.mode, found.mode.round().clamp(0, 3))
    assert torch.equal(found.quantiles, found.quantiles.round().clamp(0, 3))


def test_whole_numbers_of_numpy_are_whole_numbers(refused):
    model, data = little(), holey()
    found = impute(model, data, draws=np.int64(2), samples=np.int64(50), seed=np.int64(3))
    assert torch.equal(found.draws, impute(model, data, draws=2, samples=50, seed=3).draws)
    for seed in (1.5, "a", 2**70):
        with refused(f"seed={seed!r}", "whole number"):
            impute(model, data, draws=2, samples=50, seed=seed)
