"""Mixtures: what EM starts from and ends at, what is drawn, imputed, wrapped and refused."""

import math
import warnings
from itertools import islice

import numpy as np
import pytest
import torch

import latently as lt
from latently import (
    Bits,
    Data,
    Dequantized,
    Diagonal,
    Enumerate,
    Enumeration,
    Exact,
    Factors,
    Full,
    Mixture,
    Spherical,
    Student,
    Tied,
    Transformed,
    evaluate,
    fit,
    impute,
    load,
    mixture,
    save,
)
from latently.probability.transforms import Log

KINDS = [Full(), Tied(), Diagonal(), Spherical(), Factors(2), Student(), Bits()]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def clusters(n=200, columns=4, count=3, holes=0.0, seed=0, bits=False):
    rng = np.random.default_rng(seed)
    x = 4 * rng.normal(size=(count, columns))[rng.integers(count, size=n)]
    x = x + rng.normal(size=(n, columns))
    x = (x > 0).astype(float) if bits else x
    x[rng.random(x.shape) < holes] = np.nan
    return x


def fitted(kind, shape=(4,), count=3, holes=0.0, passes=15):
    data = Data.from_array(clusters(holes=holes, bits=kind.discrete).reshape(-1, *shape))
    model = Mixture(shape, count, family=kind)
    fit(model, data, steps=passes, progress=False)
    return model, data


@pytest.mark.slow
@pytest.mark.parametrize("holes", [0.0, 0.3])
@every_kind
def test_fit_finds_clusters_and_evidence_is_exact(kind, holes):
    model, data = fitted(kind, holes=holes, passes=60)
    evidence = evaluate(model, data)
    assert evidence.kind == "exact"
    by_states = evaluate(model, data, Enumeration())
    torch.testing.assert_close(by_states.values, evidence.values, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        wanted = model.log_prob(data.x, data.mask)
    torch.testing.assert_close(evaluate(model, data, Exact()).values, wanted.double())
    shares = model.encode(data.x, data.mask)[0]
    torch.testing.assert_close(shares.sum(1), torch.ones(len(data), dtype=torch.float64))
    if not kind.discrete:
        assert evidence.nats > evaluate(Mixture((4,), 1, family=kind), data).nats
        assert (shares.max(1).values > 0.9).double().mean() > 0.8


def test_recovers_what_rows_were_drawn_from():
    rng = np.random.default_rng(0)
    means = np.array([[-4.0, 0.0], [4.0, 1.0], [0.0, 6.0]])
    which = rng.choice(3, 4000, p=[0.5, 0.3, 0.2])
    x = means[which] + rng.normal(size=(4000, 2)) @ np.array([[1.0, 0.5], [0.0, 0.7]])
    model = Mixture((2,), 3, family=Tied())
    fit(model, Data.from_array(x), progress=False)
    order = model.parts.scatter.loc[:, 0].argsort()
    np.testing.assert_allclose(model.parts.scatter.loc[order].detach(), means[[0, 2, 1]], atol=0.1)
    np.testing.assert_allclose(model.weights[order].detach(), [0.5, 0.2, 0.3], atol=0.03)
    labels = model.encode(torch.from_numpy(x))[0][:, order].argmax(1).numpy()
    assert (labels == np.array([0, 2, 1])[which]).mean() > 0.98


@every_kind
def test_samples_have_the_moments_of_the_components(kind):
    model, _ = fitted(kind)
    x, n = model.sample(20_000, seed=1), 20_000
    parts = [model.parts.member(k, (4,)) for k in range(3)]
    mean = sum(w * p.mean for w, p in zip(model.weights, parts, strict=True))
    square = sum(
        w * (p.variance + p.mean.square()) for w, p in zip(model.weights, parts, strict=True)
    )
    spread = (square - mean.square()).sqrt().detach()
    assert ((x.mean(0) - mean).abs() < 5 * spread / math.sqrt(n)).all()
    error = (x - x.mean(0)).square().std(0) / math.sqrt(n)
    assert ((x.var(0) - spread.square()).abs() < 5 * error).all()


@every_kind
@pytest.mark.parametrize("shape", [(4,), (1, 2, 2)])
def test_likelihood_is_of_the_chosen_component(kind, shape):
    model, data = fitted(kind, shape)
    z = torch.eye(3, dtype=torch.float64)[torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])]
    d, x = model.likelihood((z,)), data.x[:4].double()
    assert d.batch_shape == (2, 4)
    assert d.event_shape == shape
    mask = torch.rand(4, *shape) < 0.5
    q = torch.full((), 0.3, dtype=torch.float64)
    for s in range(2):
        for b in range(4):
            member = model.parts.member(int(z[s, b].argmax()), shape)
            for name in ("mean", "variance", "mode"):
                torch.testing.assert_close(getattr(d, name)[s, b], getattr(member, name))
            torch.testing.assert_close(d.log_prob(x)[s, b], member.log_prob(x[b]))
            seen = d.log_prob(x, mask)[s, b]
            torch.testing.assert_close(seen, member.log_prob(x[b][None], mask[b][None])[0])
            torch.testing.assert_close(d.cdf(x)[s, b], member.cdf(x[b]))
            torch.testing.assert_close(d.icdf(q.expand(shape))[s, b], member.icdf(q).expand(shape))
            found = d.given(x, mask)
            wanted = member.given(x[b], mask[b])
            hidden = ~mask[b]
            for name in ("mean", "variance"):
                one = getattr(wanted, name).expand(shape)[hidden]
                torch.testing.assert_close(getattr(found, name)[s, b][hidden], one)
            one = wanted.cdf(x[b])[hidden]
            torch.testing.assert_close(found.cdf(x)[s, b][hidden], one)
    assert d.sample((5,)).shape == (5, 2, 4, *shape)


def test_thousands_of_rows_of_many_cells_are_drawn_at_once():
    model = Mixture((1, 20, 20), 6, family=Full())
    with torch.no_grad():
        model.parts.scatter.loc.copy_(torch.arange(6.0)[:, None].expand(6, 400) * 100)
    x = model.sample(3000, seed=0)  # a covariance for each row would take 3.8 GB
    near = (x.flatten(1) / 100).round()
    assert (near == near[:, :1]).all()
    assert near.unique().tolist() == [0, 1, 2, 3, 4, 5]


@every_kind
def test_impute_is_exact_and_keeps_what_is_known(kind):
    model, _ = fitted(kind)
    x = clusters(8, holes=0.4, seed=5, bits=kind.discrete)
    data = Data.from_array(x)
    found = impute(model, data, draws=4, quantiles=(0.1, 0.9), seed=1)
    known = model.predictive(data.x, data.mask)
    hidden = ~data.mask
    torch.testing.assert_close(found.mean[hidden].double(), known.mean[hidden].detach())
    torch.testing.assert_close(
        found.std[hidden].double(), known.variance[hidden].sqrt().detach(), rtol=1e-6, atol=1e-8
    )
    for level, line in zip((0.1, 0.9), found.quantiles, strict=True):
        wanted = known.icdf(torch.tensor(level, dtype=torch.float64))
        torch.testing.assert_close(line[hidden].double(), wanted[hidden].detach())
    assert torch.equal(found.draws[:, data.mask], data.x[data.mask].expand(4, -1))
    assert found.samples == 0
    alone = model.impute(data.x[2:3], data.mask[2:3], draws=2, seed=3)
    torch.testing.assert_close(alone, model.impute(data.x, data.mask, draws=2, seed=3)[:, 2:3])


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_em_starts_by_its_seed_and_draws_nothing_else(holes, untouched):
    data = Data.from_array(clusters(holes=holes))
    ends = []
    for state, seed in enumerate((3, 3, 4)):
        model = Mixture((4,), 5, restarts=2)
        torch.manual_seed(state)
        with untouched():
            values = list(islice(model.em(data.x, data.mask, seed=seed), 3))
        ends.append((values, model.parts.scatter.loc.detach().clone()))
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])
    assert not torch.equal(ends[0][1], ends[2][1])


def test_the_best_of_several_starts_goes_on():
    x = torch.from_numpy(clusters(120, count=5))
    for seed in range(4):
        reached = {}
        for restarts in (1, 6):
            model = Mixture((4,), 5, family=Spherical(), restarts=restarts)
            *_, last = islice(model.em(x, seed=seed), 10)
            reached[restarts] = float(last)
        assert reached[6] >= reached[1]


def test_nothing_is_computed_before_the_first_pass(refused):
    model = Mixture((4,), 3)
    before = model.parts.scatter.loc.detach().clone()
    passes = model.em(torch.randn(2, 4))
    assert torch.equal(model.parts.scatter.loc, before)
    with refused("components=3", "2 rows", "components=2 or fewer"):
        next(passes)


def test_passes_go_on_from_the_parameters_as_they_stand():
    x = torch.from_numpy(clusters())
    model = Mixture((4,), 3)
    first = [float(v) for v in islice(model.em(x), 8)]
    more = [float(v) for v in islice(model.passes(x), 3)]
    assert more[0] == pytest.approx(first[-1], abs=1e-12)
    assert more[0] <= more[1] + 1e-12 <= more[2] + 2e-12


def test_rows_in_narrow_and_in_wide_numbers_are_the_same():
    x = torch.from_numpy(clusters()).float()
    values = []
    for rows in (x, x.double()):
        model = Mixture((4,), 3)
        *_, last = islice(model.em(rows), 5)
        values.append((float(last), model.log_prob(rows).detach()))
    assert values[0][0] == values[1][0]
    assert values[0][1].dtype == torch.float64
    assert torch.equal(values[0][1], values[1][1])


def test_columns_far_from_zero_and_of_unlike_scale_lose_nothing():
    x = torch.from_numpy(clusters())
    scale = torch.tensor([1e-3, 1.0, 1e4, 1.0], dtype=torch.float64)
    shift = torch.tensor([0.0, 1e6, -1e7, 5.0], dtype=torch.float64)
    for kind in (Full(), Tied(), Diagonal(), Factors(2), Student()):
        values = []
        for rows in (x, x * scale + shift):
            model = Mixture((4,), 3, family=kind)
            *_, last = islice(model.em(rows), 30)
            values.append(float(last))
        assert values[1] + float(scale.log().sum()) == pytest.approx(values[0], abs=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
@every_kind
def test_what_stands_in_a_missing_cell_is_ignored(kind, value):
    model, _ = fitted(kind)
    x = torch.from_numpy(clusters(40, seed=3, bits=kind.discrete))
    mask = torch.rand(x.shape) < 0.7
    found = []
    for rows in (x, torch.where(mask, x, value)):
        other = Mixture((4,), 3, family=kind)
        other.load_state_dict(model.state_dict())
        other.log_prob(rows, mask).sum().backward()
        *_, last = islice(Mixture((4,), 2, family=kind, restarts=1).em(rows, mask), 3)
        grads = [p.grad for p in other.parameters()]
        found.append([*grads, other.predictive(rows, mask).mean.detach(), last])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


@every_kind
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    data = Data.from_array(clusters(bits=kind.discrete))
    model = mixture((4,), components=3, family=kind)
    fit(model, data, steps=5, progress=False)
    save(model, tmp_path / "m")
    back = load(tmp_path / "m")
    assert str(back.call) == str(model.call)
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)
    assert torch.equal(back.log_prob(data.x), model.log_prob(data.x))
    assert back.complaints() == model.complaints()


def test_transformed_it_carries_the_jacobian():
    rng = np.random.default_rng(0)
    y = np.exp(clusters(150) / 4)
    y[rng.random(y.shape) < 0.2] = np.nan
    data = Data.from_array(y)
    model = Transformed(Mixture((4,), 3), Log())
    found = fit(model, data, steps=20, progress=False)
    assert evaluate(model, data).nats == pytest.approx(found.history[-1]["log_prob"], abs=1e-8)
    inner = model.model.log_prob(torch.where(data.mask, data.x, 1.0).log(), data.mask)
    slopes = torch.where(data.mask, data.x.double(), 1.0).log().sum(1)
    torch.testing.assert_close(model.log_prob(data.x, data.mask), inner - slopes)
    drawn = impute(model, data, draws=2)
    assert (drawn.draws > 0).all()
    assert (drawn.quantiles > 0).all()


@pytest.mark.parametrize("kind", [Full(), Diagonal(), Student(Factors(1))], ids=str)
def test_dequantized_it_is_a_model_of_integers(kind):
    rng = np.random.default_rng(0)
    data = Data.from_array(rng.binomial(7, 0.4, (200, 3)).astype(float), levels=8)
    model = mixture((3,), components=2, family=kind, levels=8)
    assert isinstance(model, Dequantized)
    fit(model, data, steps=15, progress=False)
    evidence = evaluate(model, data)
    assert evidence.kind == "lower_bound"
    assert -7 < evidence.nats < -3
    drawn = model.sample(500, seed=0)
    assert not model.misfit(drawn)[0].any()
    assert (drawn.double().mean(0) - data.x.double().mean(0)).abs().max() < 0.4
    assert model.latent_constraints() == (None,)


def test_bits_need_no_noise_and_hold_no_more_levels(refused):
    model = mixture((4,), components=2, family=Bits, levels=2)
    assert isinstance(model, Mixture)
    assert model.discrete
    assert isinstance(mixture((4,), components=2, family=Full, levels=2), Dequantized)
    with refused("Bits", "levels=16", "another family"):
        mixture((4,), family=Bits(), levels=16)
    with refused("value 0.5", "0 and 1"):
        model.check(torch.full((1, 4), 0.5))


def test_a_log_prior_counts_in_what_em_reports():
    x = torch.from_numpy(clusters(bits=True))
    model = Mixture((4,), 3, family=Bits(pseudo=5.0))
    *_, last = islice(model.em(x), 10)
    rows = float(model.log_prob(x).sum().detach())
    assert model.log_prior() < 0
    assert float(last) == pytest.approx((rows + model.log_prior()) / len(x), abs=1e-12)
    assert Mixture((4,), 3).log_prior() == 0


def test_enumerated_states_have_their_shares():
    model, data = fitted(Full())
    p = model.infer(data.x[:5], 1, gradient="exact", draw=Enumerate().draw)
    assert p.log_w.shape == (3, 5)
    torch.testing.assert_close(p.log_pi.exp().sum(0), torch.ones(5, dtype=torch.float64))
    wanted = model.log_prob(data.x[:5])
    torch.testing.assert_close(p.average(p.log_w), wanted)
    assert model.latent_states() == 3


def test_few_rows_copies_and_clusters_of_one_row_do_not_break():
    for kind in KINDS:
        for x in (np.eye(4)[:3], np.ones((12, 4)), np.repeat(np.eye(4), 5, 0)):
            x = x if kind.discrete else x * 3
            model = Mixture((4,), 3, family=kind)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of constant columns
                values = [float(v) for v in islice(model.em(torch.from_numpy(x)), 20)]
            assert np.isfinite(values).all()
            assert model.log_prob(torch.from_numpy(x)).isfinite().all()
            assert min(np.diff(values)) >= -1e-8
            assert all(len(line.splitlines()) == 1 for line in model.complaints())


def test_a_component_without_rows_is_named():
    model, data = fitted(Diagonal())
    assert not [c for c in model.complaints() if "less than one row" in c]
    with torch.no_grad():
        model.logits[1] = model.logits[0] - 30
    assert "component 1 holds less than one row" in model.complaints()[0]
    values = [float(v) for v in islice(model.passes(data.x), 4)]
    assert np.isfinite(values).all()


def test_wrong_arguments_are_refused(refused):
    with refused("components=0"):
        Mixture((4,), 0)
    with refused("restarts=2.5"):
        Mixture((4,), 2, restarts=2.5)
    with refused("family='full'", "Full()"):
        Mixture((4,), 2, family="full")
    with refused("context", "contexts=0"):
        Mixture((4,), 2).infer(torch.zeros(2, 4), context=torch.zeros(2, 1))
    with refused("nothing to refine"):
        Mixture((4,), 2).infer(torch.zeros(2, 4), local=(torch.zeros(2, 2),))
    x = clusters(20)
    x[:, 3] = np.nan
    with refused("column 3", "no observed value"):
        fit(Mixture((4,), 2), Data.from_array(x), progress=False)
    with refused("epochs", "steps"):
        fit(Mixture((4,), 2), Data.from_array(clusters(20)), epochs=2, progress=False)


@pytest.mark.parametrize("family", [Factors(1), Full(), Diagonal(), Student(Factors(1))])
def test_one_column_is_a_row(family):
    """A factor of one column had the mean of no eigenvalue for its start: NaN."""
    x = torch.randn(20, 1, dtype=torch.float64)
    passes = Mixture((1,), 2, family=family).em(x)
    values = torch.stack([next(passes) for _ in range(5)])
    assert values.isfinite().all()
    assert (values.diff() > -1e-9).all()


@pytest.mark.parametrize("family", [Full(), Diagonal(), Factors(1)])
def test_columns_of_any_scale_and_place_vary(family):
    """1e8 + 0.01 e and 1e-12 e were called constant, and their numbers were of the floor."""
    x = torch.randn(50, 3, dtype=torch.float64)
    scale = torch.tensor([1e-13, 1e12, 1e-2], dtype=torch.float64)
    moved = x * scale + torch.tensor([0.0, 0.0, 1e8], dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, found = (next(Mixture((3,), 1, family=family).em(rows)) for rows in (x, moved))
    assert abs(found + scale.log().sum() - plain) < 1e-4


def test_no_rows_are_drawn_and_fewer_are_refused(refused):
    """torch draws no categories of 0 rows, where normals are drawn."""
    for model in (lt.mixture((3,), components=2), lt.fa((3,), latents=1), lt.flow((3,), levels=4)):
        assert model.sample(0).shape == (0, 3)
        with refused("n=-1 must be at least 0"):
            model.sample(-1)
