import math
import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch

import latently as lt
from latently.data import Data
from latently.errors import UserError
from latently.inference.evidence import Evidence
from latently.interfaces.report import Entry, write_report
from latently.interfaces.report.figures import _edges
from latently.interfaces.report.latents import latent_layers
from latently.interfaces.report.numbers import decimals, error, plain, significant
from latently.interfaces.report.tables import rankings
from latently.io import Saved
from latently.probability.families import Normal

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use", "line", "rect"}
SECTIONS = ["evidence", "training", "latents", "rows", "record"]
IMAGES, TABLE = ["samples", "reconstructions"], ["marginals"]


@pytest.mark.slow
def test_many_models_of_images(digits, tmp_path, page):
    data, entries = digits
    source, found = page(tmp_path / "many.html", entries, data, command="latently report a b")
    assert [i for i in found.ids if i in SECTIONS + IMAGES] == [
        *SECTIONS[:3],
        *IMAGES,
        *SECTIONS[3:],
    ]
    text = " ".join("".join(found.text).split())
    for part in entries:
        assert str(part.saved.model.call) in text
    for words in (
        "Two rankings",
        "Probabilities, log P(x)",
        "Densities, log p(x)",
        "differences between lower bounds",
        "4 of 4 latents active",
        "latently report a b",
        "digits/test",
        "Fitted in closed form, in one pass",
        "the prior or the posterior does not factorize",
        "Above: data. Below: reconstruction.",
    ):
        assert words in text, words
    assert len(source) < 2_000_000


@pytest.mark.slow
def test_the_policy_allows_styles_and_embedded_pictures_only(digits, tmp_path, page):
    data, entries = digits
    _, found = page(tmp_path / "one.html", entries[:1], data)
    (policy,) = [a for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"] == ("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


@pytest.mark.slow
def test_foreign_text_stays_text(digits, tmp_path, page):
    data, entries = digits
    evil = "<script>alert('$x_1$ & \"')</script>"
    data = replace(data, protocol=evil)
    bad = [
        Entry(
            f"{evil}{i}",
            replace(part.saved, training={"objective": evil, "kept": evil, "note": evil}),
            replace(part.evidence, protocol=evil, notes=(evil,), method=evil),
        )
        for i, part in enumerate(entries[:2])
    ]
    source, found = page(tmp_path / "evil.html", bad, data, title=evil, command=evil)
    assert "<script" not in source
    assert "".join(found.text).count(evil) > 10


@pytest.mark.parametrize(
    "which", [pytest.param(i, marks=pytest.mark.slow) if i in (1, 3) else i for i in range(5)]
)
def test_a_single_row(digits, which, tmp_path, page, entry):
    data, entries = digits
    one = data.rows(slice(3, 4))
    part = entries[which]
    _, found = page(tmp_path / "one.html", [entry("m", part.saved, one)], one)
    text = "".join(found.text)
    assert set(SECTIONS + IMAGES) <= set(found.ids)
    assert "The only row" in text
    assert "nan" not in text


@pytest.mark.slow
def test_tables_show_marginals(table, tmp_path, page, entry):
    data, holed, saved = table
    for rows in (data, holed, holed.rows(slice(0, 1))):
        entries = [entry(f"model {i}", part, rows) for i, part in enumerate(saved)]
        _, found = page(tmp_path / "table.html", entries, rows)
        text = " ".join("".join(found.text).split())
        assert set(SECTIONS + TABLE) <= set(found.ids)
        assert not set(IMAGES) & set(found.ids)
        assert "16 of 20 columns" in text
        assert "mixes exact values and lower bounds" in text
        assert "nan" not in text


RECORDS = [
    {},
    {"history": [], "kept": None, "seconds": None},
    {"history": "damaged", "warnings": "damaged"},
    {"history": [{"epoch": 1, "bound": math.nan}, {"epoch": 2, "bound": -1.0}]},
    {"history": [{"pass": 1, "log_prob": -3.0}]},
    {"history": [{"pass": 1, "log_prob": -3.0}, {"pass": 2, "log_prob": -3.0}]},
    {"history": [{"epoch": 2, "kl": 1.0}, {"epoch": 2, "kl": 1}, "x"], "kept": "best"},
    {"history": [{"other": 1.0}], "seconds": 4000, "device": "cpu"},
]


@pytest.fixture(scope="module")
def small(fitted):
    """Six rows and a model of them."""
    data = Data.from_array(torch.arange(18.0).view(6, 3).cos(), protocol="small")
    return data, fitted(lt.ppca((3,), latents=1), data).model


@pytest.mark.slow
def test_training_records_of_all_kinds(small, tmp_path, page, entry):
    data, model = small
    parts = [
        entry(f"m{i}", Saved(model, {}, training), data) for i, training in enumerate(RECORDS)
    ]
    _, found = page(tmp_path / "records.html", parts, data)
    assert set(SECTIONS) <= set(found.ids)


@pytest.mark.slow
@pytest.mark.parametrize("training", RECORDS)
def test_any_training_record_alone(training, small, tmp_path, page, entry):
    data, model = small
    part = entry("m", Saved(model, {}, training), data)
    _, found = page(tmp_path / "record.html", [part], data)
    assert set(SECTIONS) <= set(found.ids)


def test_colour_and_binary_images(tmp_path, page, entry):
    generator = torch.Generator().manual_seed(0)
    colour = Data.from_array(torch.randn(6, 3, 5, 4, generator=generator), protocol="colour")
    bits = Data.from_array(torch.rand(6, 9, 9, generator=generator).round(), protocol="bits")
    for data, model in (
        (colour, lt.vae(colour.shape, latents=2, likelihood=Normal)),
        (bits, lt.vae(bits.shape, latents=2)),
    ):
        _, found = page(tmp_path / "x.html", [entry("m", Saved(model.eval()), data)], data)
        assert set(SECTIONS + IMAGES) <= set(found.ids)
        assert "made by hand" not in "".join(found.text)


def test_values_that_are_not_finite(small, tmp_path, page, entry):
    data, model = small
    part = entry("m", Saved(model), data)
    values = part.evidence.values.clone()
    values[3] = -math.inf
    bad = replace(part, evidence=replace(part.evidence, values=values))
    _, found = page(tmp_path / "inf.html", [part, bad], data)
    assert "row 3 has log p(x) = -inf" in "".join(found.text)


@pytest.mark.slow
def test_the_same_report_twice_and_nothing_of_the_host_changes(digits, tmp_path, page):
    data, entries = digits
    before, state = dict(matplotlib.rcParams), torch.random.get_rng_state()
    sources = [page(tmp_path / name, entries[:2], data, seed=1)[0] for name in ("a", "b")]
    same = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", source) for source in sources]
    assert same[0] == same[1]
    assert dict(matplotlib.rcParams) == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_refusals(digits, table, tmp_path):
    data, entries = digits
    for parts, rows, words in (
        ([], data, "no models"),
        (entries[:1], data.rows(slice(0, 5)), "evaluate all models"),
        (entries[:1], replace(data, protocol="other"), "evaluate all models"),
        (entries[:1], table[0], "rows of shape"),
    ):
        with pytest.raises(UserError, match=words):
            write_report(tmp_path / "x.html", parts, rows, title="x")
    assert not list(tmp_path.iterdir())


def test_latents_of_factor_analysis_are_the_closed_form(table):
    data, _, saved = table
    (layer,) = latent_layers(saved[1].model, data)
    q = saved[1].model.posterior(data.x)
    variance = q.covariance_matrix.diagonal(dim1=-2, dim2=-1)
    kl = 0.5 * (variance + q.mean.square() - 1 - variance.log())
    torch.testing.assert_close(layer.kl, kl.mean(0))
    torch.testing.assert_close(layer.activity, q.mean.var(0))
    assert not layer.marginal  # maximum likelihood: the posterior covariance is diagonal


def test_kl_per_latent_sums_to_the_kl_of_the_particles(digits):
    data, entries = digits
    model = entries[0].saved.model
    (layer,) = latent_layers(model, data)
    with torch.no_grad():
        total = model.infer(data.x).kl[0].mean()
    torch.testing.assert_close(layer.kl.sum().float(), total)
    assert layer.size == 4


def ranked(*rows):
    made = [
        Evidence(torch.tensor(values), kind, method, "p", torch.zeros(len(values)), discrete=d)
        for values, kind, method, d in rows
    ]
    names = [f"m{i}" for i in range(len(made))]
    return rankings(names, names, made)


def test_ranking_is_paired_and_never_mixes_densities_with_probabilities():
    probabilities, densities = ranked(
        ([-3.0, -5.0, -7.0], "lower_bound", "IWAE K=5", True),
        ([-2.0, -4.0, -6.1], "lower_bound", "IWAE K=5", True),
        ([9.0, 9.0, 9.0], "exact", "exact", False),
    )
    assert [row.name for row in probabilities.rows] == ["m1", "m0"]
    assert [row.name for row in densities.rows] == ["m2"]
    assert probabilities.rows[0].difference is None
    mean, stderr = probabilities.rows[1].difference
    assert mean == pytest.approx(-2.9 / 3)
    assert stderr == pytest.approx(0.1 / 3, rel=1e-4)
    assert probabilities.rows[1].verdict == "clear"
    assert densities.notes == ()


def test_unlike_kinds_and_methods_are_flagged():
    (ranking,) = ranked(
        ([-3.0, -5.0], "lower_bound", "IWAE K=5", True),
        ([-2.0, -4.0], "lower_bound", "IWAE K=50", True),
        ([-2.0, -4.5], "estimate", "AIS", True),
    )
    text = " ".join(ranking.notes)
    assert "mixes estimates and lower bounds" in text
    assert "either side" in text
    assert "IWAE K=5, IWAE K=50" in text
    assert [row.sign for row in ranking.rows] == ["≥", "≈", "≥"]


def test_numbers():
    assert plain(-0.004) == "−0.00"
    assert plain(math.nan) == "–"
    assert plain(-math.inf) == "−∞"
    assert error(0.0) == "± 0.00"
    assert error(1e-9) == "± <1e−6"
    assert decimals(0.00049) == 5
    assert significant(0.0) == "0"
    assert significant(1e-9) == "1.00e−9"
    assert significant(100.0) == "100"


def test_bars_of_counts_split_no_number():
    counts = np.arange(60) % 7
    assert _edges(counts, [counts + 2], None).tolist() == [k - 0.5 for k in range(10)]
    wide = _edges(1000 * counts, [1000 * counts], None)
    assert set(np.diff(wide)) == {250}
    assert all(edge % 1 == 0.5 for edge in wide)
    assert len(_edges(counts + 0.25, [counts], None)) == 25
