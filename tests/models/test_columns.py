"""Mixtures of unlike columns: every family's fit, sums over what is missing, and its peers."""

import math
import warnings
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from latently import Bits, Data, Diagonal, Mixture, evaluate, fit, impute, load, mixture, save
from latently.inference import attribution
from latently.inference._blocks import blocks
from latently.inference.rows import Rows
from latently.models.components import Columns, _coded, columns
from latently.probability.families import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Embedded,
    Gamma,
    Hurdle,
    LogNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflated,
)
from latently.probability.transforms import Logit

FAMILIES = {
    "Normal": Normal,
    "LogNormal": LogNormal,
    "StudentT": StudentT,
    "Gamma": Gamma,
    "Hurdle(LogNormal)": partial(Hurdle, family=LogNormal),
    "Hurdle(Gamma)": partial(Hurdle, family=Gamma),
    "Bernoulli": Bernoulli,
    "Categorical": partial(Categorical, levels=4),
    "Embedded": partial(Embedded, levels=40),
    "Ordinal": partial(Ordinal, levels=5),
    "Poisson": Poisson,
    "NegativeBinomial": NegativeBinomial,
    "ZeroInflated(Poisson)": partial(ZeroInflated, family=Poisson),
    "ZeroInflated(NegativeBinomial)": partial(ZeroInflated, family=NegativeBinomial),
}
every_family = pytest.mark.parametrize("name", FAMILIES)
with_holes = pytest.mark.parametrize("holes", [False, True], ids=["complete", "holes"])


def column(name, k, rng):
    """Values of a family, whose parameters differ between the classes k of the rows."""
    n, zero = len(k), rng.random(len(k)) < 0.2 + 0.2 * k
    gamma, log = rng.gamma(1.5 + k, 2.0), np.exp(rng.normal(2 * k, 0.5))
    return {
        "Normal": lambda: rng.normal(3 * k, 1.0),
        "LogNormal": lambda: log,
        "StudentT": lambda: rng.standard_t(4, n) + 4 * k,
        "Gamma": lambda: gamma,
        "Hurdle(LogNormal)": lambda: np.where(zero, 0.0, log),
        "Hurdle(Gamma)": lambda: np.where(zero, 0.0, gamma),
        "Bernoulli": lambda: rng.random(n) < 0.2 + 0.3 * k,
        "Categorical": lambda: (4 * rng.random(n) + k).clip(0, 3.9) // 1,
        "Embedded": lambda: (13 * k + rng.integers(13, size=n)) % 40,
        "Ordinal": lambda: k + rng.integers(3, size=n),
        "Poisson": lambda: rng.poisson(1 + 4 * k),
        "NegativeBinomial": lambda: rng.negative_binomial(2, 0.5 / (1 + k)),
        "ZeroInflated(Poisson)": lambda: np.where(zero, 0, rng.poisson(3 + 3 * k)),
        "ZeroInflated(NegativeBinomial)": lambda: np.where(
            zero, 0, rng.negative_binomial(3, 0.4 / (1 + k))
        ),
    }[name]().astype(float)


def table(names, n=400, classes=2, holes=False, seed=0):
    """Rows of some families, their mask and the component of their columns."""
    rng = np.random.default_rng(seed)
    k = rng.integers(classes, size=n)
    x = torch.from_numpy(np.stack([column(name, k, rng) for name in names], 1))
    mask = torch.from_numpy(rng.random(x.shape) >= 0.25) if holes else None
    return x, mask, Columns(columns=tuple(FAMILIES[name] for name in names)), k


def climbed(model, x, mask=None, passes=200, gain=0.0):
    """Values of EM, to where a pass gains little."""
    values = []
    for value in islice(model.em(x, mask), passes):
        values.append(float(value))
        if len(values) > 1 and values[-1] - values[-2] < gain:
            break
    return values


@every_family
@pytest.mark.parametrize(
    ("holes", "most"),
    [
        pytest.param(False, 4096, id="complete-tables"),
        pytest.param(True, 0, id="holes-rows"),
        pytest.param(True, 4096, id="holes-tables", marks=pytest.mark.slow),
        pytest.param(False, 0, id="complete-rows", marks=pytest.mark.slow),
    ],
)
def test_em_never_decreases_and_reports_its_parameters(name, holes, most, monkeypatch):
    monkeypatch.setattr(_coded, "_MOST", most)
    x, mask, family, _ = table([name, "Normal"], 150, holes=holes)
    model = Mixture((2,), 3, family=family, restarts=1)
    values = climbed(model, x, mask, 25)
    assert all(later >= earlier - 1e-11 for earlier, later in pairwise(values))
    assert values[-1] > values[0]
    with torch.no_grad():
        now = model.log_prob(x, mask).mean() + model.log_prior() / len(x)
    assert float(now) == pytest.approx(values[-1], abs=1e-10)


def test_values_in_tables_and_in_rows_give_the_same_path(monkeypatch):
    x, mask, family, _ = table(FAMILIES, 160, holes=True)
    paths = []
    for most in (4096, 0):
        monkeypatch.setattr(_coded, "_MOST", most)
        model = Mixture((len(FAMILIES),), 2, family=family, restarts=1)
        paths.append(climbed(model, x, mask, 5))
    assert paths[0] == pytest.approx(paths[1], abs=1e-9)


@every_family
def test_em_ends_where_the_gradient_is_zero(name):
    """Of two components, so that rows have weights."""
    x, _, family, _ = table([name, "Normal"], 200)
    model = Mixture((2,), 2, family=family, restarts=1)
    climbed(model, x, None, 1500, 1e-13)
    (model.log_prob(x).mean() + model.parts.log_prior() / len(x)).backward()
    for label, p in model.named_parameters():
        assert p.grad.abs().max() < 2e-5, label


def best(name, x):
    """The greatest mean log-likelihood of a column, by closed forms, scipy or brute force."""
    zero = x == 0
    share = zero.mean()

    def least(function, start):
        found = optimize.minimize(function, start, method="Nelder-Mead", options=TIGHT)
        return -found.fun

    def counts(log_mean, log_theta):
        theta = math.exp(log_theta)
        return stats.nbinom.logpmf(x, theta, theta / (theta + math.exp(log_mean)))

    def inflated(logit, log_p):
        pi = 1 / (1 + math.exp(-logit))
        return np.where(zero, np.log(pi + (1 - pi) * np.exp(log_p)), np.log1p(-pi) + log_p)

    if name.startswith("Hurdle"):
        inside = best(name[7:-1], x[~zero])
        return share * math.log(share) + (1 - share) * (math.log1p(-share) + inside)
    if name in ("Bernoulli", "Categorical", "Embedded", "Ordinal"):
        shares = np.unique(x, return_counts=True)[1] / len(x)
        levels = {"Bernoulli": 2, "Categorical": 4, "Embedded": 40, "Ordinal": 5}[name]
        left = 1 - 1e-6 * (levels - len(shares))  # the least share of those that are not there
        return float((shares * np.log(shares * left)).sum())
    mean = math.log(abs(x.mean()))
    return {
        "Normal": lambda: stats.norm.logpdf(x, x.mean(), x.std()).mean(),
        "LogNormal": lambda: stats.lognorm.logpdf(
            x, np.log(x).std(), 0, math.exp(np.log(x).mean())
        ).mean(),
        "StudentT": lambda: stats.t.logpdf(x, *stats.t.fit(x)).mean(),
        "Gamma": lambda: stats.gamma.logpdf(x, *stats.gamma.fit(x, floc=0)).mean(),
        "Poisson": lambda: stats.poisson.logpmf(x, x.mean()).mean(),
        "NegativeBinomial": lambda: least(lambda h: -counts(*h).mean(), [mean, 0.0]),
        "ZeroInflated(Poisson)": lambda: least(
            lambda h: -inflated(h[1], stats.poisson.logpmf(x, math.exp(h[0]))).mean(), [mean, 0.0]
        ),
        "ZeroInflated(NegativeBinomial)": lambda: least(
            lambda h: -inflated(h[2], counts(*h[:2])).mean(), [mean, 0.0, 0.0]
        ),
    }[name]()


TIGHT = {"xatol": 1e-7, "fatol": 1e-12, "maxiter": 4000}


@pytest.mark.slow
@every_family
@with_holes
def test_one_component_is_the_maximum_likelihood_of_every_column(name, holes):
    x, mask, family, _ = table([name, "Normal"], 500, classes=1, holes=holes)
    family = Columns(columns=family.columns, pseudo=0.0)
    model = Mixture((2,), 1, family=family)
    reached = climbed(model, x, mask, 3000, 1e-12)[-1] * len(x)
    seen = np.ones(x.shape, bool) if mask is None else mask.numpy()
    wanted = [
        best(kind, x[:, j].numpy()[seen[:, j]]) * seen[:, j].sum()
        for j, kind in enumerate([name, "Normal"])
    ]
    assert reached == pytest.approx(sum(wanted), abs=2e-4)


def test_clusters_far_apart_are_fitted_each_on_its_own():
    x, _, family, k = table(["Normal", "Categorical", "Gamma"], 4000, classes=2)
    x[:, 0] += 100 * torch.from_numpy(k)
    model = Mixture((3,), 2, family=family, restarts=1)
    climbed(model, x, None, 60)
    order = model.parts.member(0, (3,)).mean[0] > 50
    for c in (0, 1):
        rows = x[torch.from_numpy(k) == c]
        found = model.parts.member(int(c ^ bool(order)), (3,))
        torch.testing.assert_close(found.mean[0::2], rows.mean(0)[0::2], rtol=1e-6, atol=1e-6)
        shares = torch.bincount(rows[:, 1].long(), minlength=4) / len(rows)
        cell = [
            float(found.cell_log_prob(torch.tensor([0.0, v, 1.0]))[1].detach().exp())
            for v in range(4)
        ]
        np.testing.assert_allclose(cell, shares, atol=1e-3)


def drawn_mixture(names, components=3, seed=3):
    """A mixture fitted a little, so that no parameter is at its start."""
    x, mask, family, _ = table(names, 200, classes=3, holes=True)
    model = Mixture((len(names),), components, family=family, restarts=1)
    list(islice(model.em(x, mask, seed=seed), 4))
    return model, x, mask


def test_what_is_missing_is_summed_and_integrated_out(exactly):
    names = ["Normal", "Categorical", "Hurdle(Gamma)", "Poisson", "StudentT", "Bernoulli"]
    model, x, _ = drawn_mixture(names)
    grids = {
        0: torch.linspace(-40, 40, 40_001, dtype=torch.float64),
        1: torch.arange(4.0, dtype=torch.float64),
        3: torch.arange(200.0, dtype=torch.float64),
        5: torch.arange(2.0, dtype=torch.float64),
    }
    above = torch.linspace(1e-6, 300, 200_001, dtype=torch.float64)
    with torch.no_grad():
        for j, grid in {**grids, 2: above}.items():
            rows = x[:1].expand(len(grid), -1).clone()
            rows[:, j] = grid
            mask = torch.ones(1, len(names), dtype=torch.bool)
            mask[0, j] = False
            p = model.log_prob(rows).exp()
            total = p.sum() if j in (1, 3, 5) else torch.trapezoid(p, grid)
            if j == 2:
                rows[0, 2] = 0.0
                total = total + model.log_prob(rows[:1]).exp()[0]
            exactly(model.log_prob(x[:1], mask).exp()[0] / total, 1.0, 1e-5)
        nothing = torch.zeros(1, len(names), dtype=torch.bool)
        exactly(model.log_prob(x[:1], nothing), [0.0], 1e-12)


def test_probabilities_of_all_rows_sum_to_one(exactly):
    model, _, _ = drawn_mixture(["Categorical", "Ordinal", "Bernoulli", "Embedded"])
    sizes = (4, 5, 2, 40)
    rows = torch.cartesian_prod(*(torch.arange(float(n), dtype=torch.float64) for n in sizes))
    exactly(model.log_prob(rows).exp().sum(), 1.0)
    assert model.discrete
    assert model.counted is None


def test_cells_that_are_missing_have_the_mixture_of_the_components(exactly):
    names = list(FAMILIES)
    model, x, mask = drawn_mixture(names)
    x, mask = x[:6], mask[:6]
    with torch.no_grad():
        known = model.predictive(x, mask)
        parts = [model.parts.member(k, (len(names),)) for k in range(3)]
        joint = [p.log_prob(x, mask) for p in parts]
        shares = (torch.stack(joint, 1) + model.weights.log()).softmax(1)
        exactly(model.encode(x, mask)[0], shares, 1e-9)

        def mixed(values):
            return torch.einsum("bk,kbj->bj", shares, torch.stack(values))

        mean = mixed([p.mean.expand(6, -1) for p in parts])
        square = mixed([(p.variance + p.mean.square()).expand(6, -1) for p in parts])
        exactly(known.mean, mean, 1e-8)
        exactly(known.variance, square - mean.square(), 1e-6)
        log_p = mixed([p.cell_log_prob(x).exp() for p in parts]).log()
        exactly(known.base.log_prob(x), log_p, 1e-8)
        exactly(known.cdf(x), mixed([p.cdf(x) for p in parts]), 1e-8)
        counted = model.counted
        for level in (0.03, 0.5, 0.9):
            at = known.icdf(torch.full((6, len(names)), level, dtype=torch.float64))
            reached = mixed([p.cdf(at) for p in parts])
            assert (reached >= level - 1e-7).all()
            below = mixed([p.cdf(torch.where(counted, at - 1, at - 1e-6)) for p in parts])
            assert (below <= level + 1e-7).all()
        for j, levels in ((7, 4), (8, 40), (9, 5)):
            values = torch.arange(float(levels), dtype=torch.float64)
            rows = x[:1].expand(levels, -1).clone()
            rows[:, j] = values
            each = torch.stack([p.cell_log_prob(rows)[:, j].exp() for p in parts], 1)
            exactly(known.mode[:, j], (shares @ each.T).argmax(1), 0)
        assert not model.misfit(known.mode)[0].any()


def test_every_cell_given_the_others_by_hiding_it(exactly):
    model, x, mask = drawn_mixture(list(FAMILIES))
    x, mask = x[:40], mask[:40]
    with torch.no_grad():
        known = model.left_out(x, mask)
        whole, found = model.log_prob(x, mask), known.cell_log_prob(x)
        for j in range(len(FAMILIES)):
            others = mask.clone()
            others[:, j] = False
            here = mask[:, j]
            exactly(found[here, j], (whole - model.log_prob(x, others))[here], 1e-8)
            exactly(known.mean[here, j], model.predictive(x, others).mean[here, j], 1e-8)
    told = attribution(model, replace(Data.from_array(x), mask=mask), draws=2)
    assert told.kind == "exact"
    exactly(told.values[mask], -found[mask], 1e-8)


def test_rows_are_imputed_in_blocks_whatever_their_company():
    model, x, mask = drawn_mixture([name for name in FAMILIES if name != "StudentT"])
    data = replace(Data.from_array(x[:150]), mask=mask[:150])
    _, sizes = zip(*blocks(model, Rows(data.x, data.mask), range(150), 10), strict=True)
    assert max(map(len, sizes)) > 16  # of no one pattern
    at = torch.randperm(150)[:20]
    whole = impute(model, data, draws=100, seed=1)
    part = impute(model, data.rows(at), draws=100, seed=1)
    assert torch.equal(part.mean, whole.mean[at])
    assert torch.equal(part.draws, whole.draws[:, at])
    assert not model.misfit(whole.draws.flatten(0, 1))[0].any()
    holes = ~data.mask & (whole.std > 0)
    apart = ((whole.draws.mean(0) - whole.mean) / whole.std)[holes]
    assert float(apart.square().mean()) == pytest.approx(1 / 100, rel=0.3)


def test_many_chosen_rows_are_drawn_without_a_copy_of_their_parameters(monkeypatch):
    names = ["Normal", "Categorical", "Poisson"]
    model, _, _ = drawn_mixture(names)
    index = torch.randint(3, (5000,))
    z = (torch.nn.functional.one_hot(index, 3).double()[None],)
    together = model.likelihood(z)
    monkeypatch.setattr(columns, "_AT_ONCE", 100)
    apart = model.likelihood(z)
    assert type(together) is not type(apart)
    torch.testing.assert_close(together.mean, apart.mean)
    x = apart.sample()
    torch.testing.assert_close(together.log_prob(x), apart.log_prob(x))
    assert x.shape == (1, 5000, 3)


def test_draws_of_what_is_missing_have_those_moments():
    model, x, mask = drawn_mixture([name for name in FAMILIES if name != "StudentT"])
    x, mask, draws = x[:2], mask[:2], 1000
    with torch.no_grad():
        known = model.predictive(x, mask)
        drawn = model.impute(x, mask, draws=draws, seed=1)
        alone = known.sample((20_000,))
    assert torch.equal(drawn[:, mask], x[mask].expand(draws, -1))
    for found in (drawn[:, ~mask], alone[:, ~mask]):
        error = found.std(0) / math.sqrt(len(found))
        assert ((found.mean(0) - known.mean[~mask]).abs() < 5 * error).all()
    assert not model.misfit(drawn.flatten(0, 1))[0].any()


def test_recovers_the_classes_of_a_table():
    names = ["Normal", "Poisson", "Categorical", "Hurdle(LogNormal)", "Bernoulli", "Gamma"]
    x, mask, family, k = table(names, 3000, classes=3, holes=True)
    model = Mixture((6,), 3, family=family)
    fit(model, Data.from_array(torch.where(mask, x, math.nan).numpy()), progress=False)
    shares = model.encode(x, mask)[0].numpy()
    found = np.stack([[shares[k == c, j].mean() for j in range(3)] for c in range(3)])
    at = found.argmax(1)
    assert sorted(at) == [0, 1, 2]
    assert (found[range(3), at] > 0.8).all()
    means = torch.stack([model.parts.member(j, (6,)).mean for j in range(3)])[at].detach()
    np.testing.assert_allclose(means[:, 0], [0.0, 3.0, 6.0], atol=0.2)
    np.testing.assert_allclose(means[:, 1], [1.0, 5.0, 9.0], atol=0.3)
    np.testing.assert_allclose(model.weights[at], [1 / 3] * 3, atol=0.04)


@with_holes
@pytest.mark.parametrize("pseudo", [0.0, 1.5])
def test_columns_of_bits_are_the_bits(holes, pseudo):
    x, mask, _, _ = table(["Bernoulli"] * 5, 200, holes=holes)
    peer = Mixture((5,), 3, family=Bits(pseudo))
    first = next(peer.em(x, mask))
    model = Mixture((5,), 3, family=Columns(columns=(Bernoulli,) * 5, pseudo=pseudo))
    with torch.no_grad():
        model.logits.copy_(peer.logits)
        model.parts.raw.copy_(peer.parts.logits)
    paths = [[float(v) for v in islice(m.passes(x, mask), 30)] for m in (model, peer)]
    assert paths[0] == pytest.approx(paths[1], abs=1e-12)
    assert float(first) == pytest.approx(paths[0][0], abs=1e-12)
    torch.testing.assert_close(model.parts.raw, peer.parts.logits, rtol=1e-9, atol=1e-9)


@with_holes
def test_normal_columns_are_diagonal(holes):
    x, mask, _, _ = table(["Normal"] * 4, 300, holes=holes)
    x = x * torch.tensor([1.0, 1e-6, 1e4, 3.0], dtype=torch.float64) + 100
    peer = Mixture((4,), 3, family=Diagonal())
    next(peer.em(x, mask))
    model = Mixture((4,), 3, family=Columns())
    model.parts.scale(x, mask)
    with torch.no_grad():
        (normal,) = model.parts.family.groups
        mean = (peer.parts.scatter.loc - normal.loc) / normal.scale
        log_scale = peer.parts.scatter.log_scale - normal.scale.log()
        model.logits.copy_(peer.logits)
        model.parts.raw.copy_(torch.cat([mean, 10 * torch.atanh(log_scale / 10)], 1))
    paths = [[float(v) for v in islice(m.passes(x, mask), 30)] for m in (model, peer)]
    assert paths[0] == pytest.approx(paths[1], abs=1e-8)
    assert model.degrees() == peer.degrees()
    assert not model.discrete
    assert model.counted is None


def test_columns_of_any_scale_and_place_lose_nothing():
    x, _, family, _ = table(["Normal", "LogNormal", "StudentT", "Gamma"], 200)
    scale = torch.tensor([1e-3, 1e6, 1e-5, 1e9], dtype=torch.float64)
    shift = torch.tensor([1e5, 0.0, -10.0, 0.0], dtype=torch.float64)
    values = [
        climbed(Mixture((4,), 2, family=family), rows, None, 10) for rows in (x, x * scale + shift)
    ]
    assert values[1][-1] + float(scale.log().sum()) == pytest.approx(values[0][-1], abs=1e-5)


def test_degrees_count_what_is_free():
    _, _, family, _ = table(FAMILIES, 10)
    each = 2 + 2 + 3 + 2 + 3 + 3 + 1 + 3 + 39 + 4 + 1 + 2 + 2 + 3
    assert Mixture((len(FAMILIES),), 4, family=family).degrees() == 3 + 4 * each


def test_evidence_imputation_and_files_know_the_columns(tmp_path):
    names = ["Normal", "Categorical", "ZeroInflated(NegativeBinomial)", "Hurdle(Gamma)"]
    x, mask, family, _ = table(names, 200, holes=True)
    data = Data.from_array(torch.where(mask, x, math.nan).numpy())
    model = mixture((4,), components=2, family=family)
    fit(model, data, steps=10, progress=False)
    assert model.counted.tolist() == [False, True, True, False]
    assert not model.discrete
    evidence = evaluate(model, data)
    assert evidence.kind == "exact"
    assert evidence.counted == (1, 2)
    found = impute(model, data, draws=3, seed=1)
    known = model.predictive(data.x.double(), mask)
    torch.testing.assert_close(
        found.mean[~mask].double(), known.mean[~mask].detach(), rtol=1e-5, atol=1e-5
    )
    assert not model.misfit(found.draws.flatten(0, 1))[0].any()
    save(model, tmp_path / "m")
    back = load(tmp_path / "m")
    assert str(back.call) == str(model.call)
    for label, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[label], value)
    torch.testing.assert_close(
        back.log_prob(x, mask), model.log_prob(x, mask), rtol=1e-13, atol=1e-13
    )
    assert torch.equal(back.sample(5, seed=0), model.sample(5, seed=0))
    paths = [[float(v) for v in islice(m.passes(x, mask), 3)] for m in (model, back)]
    assert paths[0] == pytest.approx(paths[1], abs=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e300])
def test_what_stands_in_a_missing_cell_is_ignored(value):
    x, mask, family, _ = table(FAMILIES, 60, holes=True)
    found = []
    for rows in (x, torch.where(mask, x, value)):
        model = Mixture((len(FAMILIES),), 2, family=family, restarts=1)
        last = climbed(model, rows, mask, 3)[-1]
        model.log_prob(rows, mask).sum().backward()
        found.append([model.parts.raw.grad, torch.tensor(last)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


def test_few_rows_copies_and_constant_columns_do_not_break():
    x, _, family, _ = table(FAMILIES, 60)
    for rows in (x[:3], x[:1].expand(12, -1), x[:4].repeat(5, 1)):
        model = Mixture((len(FAMILIES),), 3, family=family, restarts=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of constant columns
            values = climbed(model, rows, None, 8)
        assert np.isfinite(values).all()
        assert min(np.diff(values)) >= -1e-8
        assert all(len(line.splitlines()) == 1 for line in model.complaints())


def test_columns_without_spread_are_named():
    x, _, family, _ = table(["Normal", "Gamma", "Poisson"], 200)
    x[:120, 0] = 5.0
    model = Mixture((3,), 2, family=family)
    climbed(model, x, None, 60)
    (line,) = [c for c in model.complaints() if "no spread" in c]
    assert "column 0," in line
    x[:, 1] = 2.0
    with pytest.warns(UserWarning, match="column 1 is constant"):
        next(Mixture((3,), 2, family=family).em(x))


def test_wrong_options_are_refused(refused):
    with refused("column 1", "Beta", "Normal, LogNormal"):
        Columns(columns=(Normal, Beta))
    with refused("column 0", "ZeroInflated(Binomial)", "ZeroInflated(Poisson)"):
        Columns(columns=(partial(ZeroInflated, family=Binomial),))
    with refused("2 families for 3 columns"):
        Mixture((3,), 2, family=Columns(columns=(Normal, Poisson)))
    with refused("(1, 2, 2)", "vectors"):
        Mixture((1, 2, 2), 2, family=Columns())
    mixed = Columns(columns=(Normal, Poisson))
    assert isinstance(mixture((2,), components=2, family=mixed, levels=9), Mixture)
    with refused("Transformed", "discrete"):
        mixture((2,), components=2, family=mixed, transform=Logit())
    with refused("pseudo=-1"):
        Columns(pseudo=-1)
    with refused("columns=", "tuple"):
        Columns(columns=Normal)
    model = Mixture((2,), 2, family=Columns(columns=(Poisson, partial(Categorical, levels=3))))
    with refused("value 3", "column 1", "0 to 2"):
        model.check(torch.tensor([[1.0, 3.0]]))


@pytest.mark.parametrize("name", ["Poisson", "NegativeBinomial", "ZeroInflated(Poisson)"])
def test_the_mode_of_counts_is_the_likeliest_number(name):
    model = Mixture((2,), 3, family=Columns(columns=(FAMILIES[name], Normal)))
    with torch.no_grad():
        for p in model.parts.parameters():
            p.add_(torch.randn_like(p))
    x = torch.stack([torch.zeros(20), torch.linspace(-2, 2, 20)], 1).double()
    known = model.predictive(x, torch.tensor([[False, True]]).expand(20, 2))
    values = torch.arange(400.0, dtype=torch.float64)
    rows = [torch.stack([v.expand(20), x[:, 1]], 1) for v in values]
    log_p = torch.stack([known.cell_log_prob(row)[:, 0] for row in rows])
    assert torch.equal(known.mode[:, 0], values[log_p.argmax(0)])
