"""The components of mixtures: order, rows, labels, main axes, telling columns; pages with them."""

import math
import re
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import latently as lt
from latently.data import Data
from latently.data.tables import Column, Schema
from latently.interfaces.report.axes import axis, leading, outward
from latently.interfaces.report.between import interpolations
from latently.interfaces.report.cells import Cells
from latently.interfaces.report.columns import columns
from latently.interfaces.report.figures import marginal, ordered_bars
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.kinds import kind_of
from latently.interfaces.report.latents import latent_layers
from latently.interfaces.report.parts import components
from latently.interfaces.report.plane import planes
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.walks import traversals
from latently.models import Dequantized, Mixture, Transformed
from latently.models.components import Bits, Columns, Diagonal, Factors, Full, Principal, Student
from latently.probability.families import Normal, Ordinal
from latently.probability.transforms import Logit

WEIGHTS = (0.2, 0.7, 0.1)


def subject(model, data, seed=0):
    layers = latent_layers(model, data)
    return Subject(model, data, "m", 0, seed, layers, Frame.of(data))


def hand_made(shape=(2, 2), places=(0.0, 10.0, 20.0), scale=1.0):
    """Components of variance 1 far from each other: no doubt whose a row is."""
    model = Mixture(shape, len(places), family=Diagonal())
    with torch.no_grad():
        model.logits.copy_(torch.tensor(WEIGHTS[: len(places)]).log())
        model.parts.scatter.loc.copy_(torch.tensor(places)[:, None].expand(-1, math.prod(shape)))
        model.parts.scatter.log_scale.fill_(math.log(scale))
    return model.eval()


def rows_at(places, labels=None, shape=(2, 2)):
    noise = 0.1 * torch.randn(len(places), *shape)
    x = torch.tensor(places).view(-1, *(1,) * len(shape)) + noise
    return Data.from_array(x, labels=labels, protocol="rows")


def middles(split, rows):
    """The middles of digits, which are quick to fill in."""
    data = lt.data.load(f"digits/{split}").rows(slice(0, rows))
    return replace(data, x=data.x[..., 2:6, 2:6].contiguous())


@pytest.fixture(scope="module")
def digits_mixture(fitted):
    train = middles("train", 300)
    make = partial(lt.mixture, train.shape, components=5, levels=17, restarts=1)
    return fitted(make(family=Factors(2)), train, steps=10)


def test_components_go_by_weight_with_their_rows_and_labels():
    data = rows_at([0.0, 10.0, 10.0, 10.0, 0.0], labels=[3, 1, 1, 2, 3])
    found = components(subject(hand_made(), data), {"criteria": "AIC -6.0, BIC 7.0"})
    told = [(part.number, part.weight, part.rows, part.label) for part in found.parts]
    assert told == [
        (1, "70 %", 3, "1: 67 %"),
        (0, "20 %", 2, "3: 100 %"),
        (2, "10 %", 0, ""),
    ]
    assert (found.count, found.rows, found.right, found.sure) == (3, 5, "80 %", "100 %")
    assert (found.entropy, found.alike) == ("0.00", "1.00")
    assert found.criteria == "AIC −6.0, BIC 7.0"
    assert not found.noisy


def test_components_that_are_equal_leave_all_doubt():
    data = rows_at([0.0] * 4)
    found = components(subject(hand_made(places=(0.0, 0.0, 0.0)), data), {})
    entropy = -sum(w * math.log(w) for w in WEIGHTS)
    assert found.entropy == f"{entropy:.2f}"
    assert found.alike == f"{math.exp(entropy):.2f}"
    assert found.sure == "0 %"
    assert found.right == found.criteria == ""


def test_a_strip_holds_the_mean_and_the_rows_of_the_component(monkeypatch):
    strips = {}

    def note(self, groups, alt):
        strips[alt] = groups
        return Frame.one(self, groups[0][:1], alt)

    monkeypatch.setattr(Frame, "strip", note)
    data = rows_at([0.0, 10.0, 4.6, 10.0, 0.0])
    found = components(subject(hand_made(scale=2.0), data), {})
    assert not found.axes
    first, second, last = strips.values()
    torch.testing.assert_close(first[0], torch.full((1, 2, 2), 10.0, dtype=torch.float64))
    torch.testing.assert_close(first[1][:2], data.x[[1, 3]].double())
    torch.testing.assert_close(second[1][:3], data.x[[0, 4, 2]].double())  # the least sure last
    assert second[1][3:].isnan().all()
    assert last[1].isnan().all()
    assert len(first[1]) == 6


@pytest.mark.parametrize("family", [Factors(2), Principal(2), Full(), Student(Full())], ids=str)
def test_the_main_axis_is_the_leading_eigenvector(family):
    x = torch.randn(300, 6).double() @ torch.diag(torch.arange(1.0, 7.0).double())
    x = x @ torch.linalg.qr(torch.randn(6, 6).double()).Q
    model = Mixture((2, 3), 2, family=family, restarts=1)
    for _, _ in zip(range(5), model.em(x.view(-1, 2, 3)), strict=False):
        pass
    for k in range(2):
        normal = model.parts.scatter.normal(k, (2, 3))
        rows, own = normal.parts()
        covariance = (rows.mT @ rows + torch.diag(own)).detach()
        nu = float(model.parts.df[k].detach()) if isinstance(family, Student) else math.inf
        covariance = covariance * (1 if math.isinf(nu) else nu / (nu - 2))
        values, vectors = torch.linalg.eigh(covariance)
        found = axis(model, k)
        assert float(found.norm()) == pytest.approx(float(values[-1].sqrt()), rel=1e-6)
        assert abs(float(found @ vectors[:, -1])) == pytest.approx(float(found.norm()), rel=1e-6)
        assert found[found.abs().argmax()] > 0


@pytest.mark.parametrize(("rank", "size"), [(3, 40), (60, 40), (1, 2)])
def test_leading_needs_no_matrix(rank, size):
    rows, own = torch.randn(rank, size).double(), torch.rand(size).double()
    value, direction = leading(rows, own)
    covariance = rows.mT @ rows + torch.diag(own)
    torch.testing.assert_close(value, torch.linalg.eigvalsh(covariance)[-1], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(direction.norm(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(
        (direction @ covariance @ direction), value, rtol=1e-9, atol=0.0
    )  # Rayleigh's quotient


def test_cells_on_their_own_have_no_main_axis():
    assert axis(hand_made(), 0) is None
    assert axis(Mixture((2, 2), 2, family=Bits()), 0) is None


def test_rows_of_the_inner_model_go_out_through_every_wrapper():
    inner = Transformed(hand_made(), Logit(high=4.0))
    model = Dequantized(inner, levels=4)
    y = torch.tensor([[-2.0, 0.0], [0.5, 9.0]])
    torch.testing.assert_close(outward(model, y), 4 * y.sigmoid() - 0.5)
    assert outward(inner.model, y) is y


def test_telling_columns_are_those_far_from_the_mean_of_the_rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 12, generator=generator).double()
    x[:, 7] = 5 * x[:, 7] + 100
    data = Data.from_array(x, protocol="table")
    model = hand_made(shape=(12,), places=(0.0, 0.0))
    with torch.no_grad():
        model.parts.scatter.loc[0, 3] = 4.0
        model.parts.scatter.loc[:, 7] = 100.0
        model.parts.scatter.loc[1, 7] = 110.0
    found = columns(subject(model, data), torch.tensor([1, 0]), 200)
    assert found.names[:2] == ("x3", "x7")
    assert len(found.names) == 8
    assert found.of == 12
    assert [line[1] for line in found.cells] == [("110", "1", True), ("100", "1", False)]
    assert [line[0][2] for line in found.cells] == [False, True]
    low, wide = (f"{v:.3g}" for v in (x[:, 7].mean(), x[:, 7].std(correction=0)))
    assert found.overall[1] == (low, f"{float(wide):.2g}")


@pytest.mark.parametrize("grades", [(2, 4, 6), ("low", "mid", "high")], ids=["numbers", "texts"])
def test_grades_of_components_are_told_in_the_values_of_the_table(grades):
    codes = [0] * 40 + [2] * 60
    frame = {"grade": [grades[k] for k in codes], "x": [float(k) for k in range(100)]}
    column = Column("grade", "ordinal", "Ordinal(levels=3)", categories=grades, dtype="int64")
    schema = Schema((column, Column("x", "real", "Normal", dtype="float64")))
    data = Data.from_frame(frame, schema)
    model = Mixture(data.shape, 1, family=Columns((partial(Ordinal, levels=3), Normal))).eval()
    found = columns(subject(model, data), torch.tensor([0]), 100)
    told = found.overall[found.names.index("grade")]
    mean = 2 + 2 * 1.2
    assert told == ((f"{mean:g}", "2") if grades[0] == 2 else ("mid", ""))
    assert Cells.of(data).steps(0) == ((2.0, 2.0) if grades[0] == 2 else None)


def test_a_mixture_has_categories_with_its_weights_as_prior():
    data = rows_at([0.0, 10.0, 4.9, 10.0])
    model = hand_made(scale=3.0)
    assert kind_of(model) == "categories"
    assert kind_of(Transformed(model, Logit())) == "categories"
    at = subject(model, data)
    (layer,) = at.layers
    torch.testing.assert_close(
        layer.expected[0], torch.tensor(WEIGHTS, dtype=torch.float64), rtol=1e-6, atol=0.0
    )
    joint = model.parts.log_prob(data.x.flatten(1).double()) + model.weights.log()
    r = joint.softmax(1).detach()
    kl = (r * (r.log() - model.weights.detach().log())).nan_to_num(0.0).sum(1).mean()
    torch.testing.assert_close(layer.flat, r)
    assert layer.cost.nats == pytest.approx(float(kl))
    assert layer.cost.error is None


def test_what_says_nothing_of_a_mixture_is_left_out(digits_mixture):
    data = middles("test", 60)
    at = subject(digits_mixture.model, data)
    assert planes(at) == []
    assert traversals(at) is None
    assert interpolations(at) is None


def test_a_page_of_a_mixture_of_images(digits_mixture, entry, page, tmp_path):
    data = middles("test", 60)
    training = {**digits_mixture.training, "criteria": "AIC 5.0, BIC 6.0, 7 parameters"}
    saved = replace(digits_mixture, training=training)
    source, found = page(tmp_path / "m.html", [entry("m", saved, data)], data)
    assert {"latents", "components", "samples", "reconstructions"} <= set(found.ids)
    assert not {"plane", "traversals", "interpolations", "base"} & set(found.ids)
    text = " ".join("".join(found.text).split())
    assert "of 5 categories in use · KL = " in text
    assert "AIC 5.0, BIC 6.0, 7 parameters, of the rows that it was fitted to, integers" in text
    assert "All 60 rows: " in text
    assert "the mean moved along the direction in which the component varies most" in text
    assert sorted(map(int, re.findall(r"component (\d)\d+ rows?", text))) == [0, 1, 2, 3, 4]
    assert len(re.findall(r"label \d: [\d.]+ %", text)) >= 5
    assert 'alt="m: mean of component 0"' in source


def test_a_page_of_a_mixture_of_bits_tells_the_prior(fitted, entry, page, tmp_path):
    bits = (lt.data.load("digits/train").x[:200] > 8).float()
    data = Data.from_array(bits, protocol="bits")
    saved = fitted(lt.mixture(data.shape, components=3, family=Bits(), restarts=1), data, steps=5)
    _, found = page(tmp_path / "bits.html", [entry("m", saved, data)], data)
    text = " ".join("".join(found.text).split())
    assert "log p(x) + log prior of the parameters / rows" in text
    assert "the mean; its cells vary each on its own" in text
    assert "integers with noise" not in text


@pytest.mark.parametrize(
    "labels",
    [torch.arange(60) % 2, pytest.param(None, marks=pytest.mark.slow)],
    ids=["labels", "none"],
)
def test_a_page_of_a_mixture_of_a_table(labels, table, fitted, entry, page, tmp_path):
    data, holed = (replace(rows, labels=labels) for rows in table[:2])
    saved = fitted(lt.mixture((20,), components=2, family=Diagonal(), restarts=1), data, steps=9)
    rows = data.rows(slice(0, 1)) if labels is None else holed
    _, found = page(tmp_path / "t.html", [entry("m", saved, rows)], rows)
    text = " ".join("".join(found.text).split())
    assert "components" in found.ids
    assert "the 8 most telling of 20 columns" in text
    assert ("most common label of their component" in text) is (labels is not None)
    assert "nan" not in text


def test_a_page_of_models_with_and_without_components(entry, page, tmp_path):
    data = rows_at([0.0, 10.0, 20.0] * 4, labels=[0, 1, 2] * 4)
    vae = lt.vae(data.shape, latents=2, likelihood=Normal).eval()
    parts = [
        entry(name, lt.io.Saved(model), data)
        for name, model in (("vae", vae), ("mixture", hand_made()))
    ]
    _, found = page(tmp_path / "both.html", parts, data)
    assert {"components", "interpolations", "plane"} <= set(found.ids)
    _, found = page(tmp_path / "vae.html", parts[:1], data)
    assert "components" not in found.ids


@pytest.mark.parametrize(
    "values",
    [
        np.full(5, 1e30),
        np.arange(30) * 1e30,
        np.arange(30) * 1e-310,
        np.full(30, 1e8),
        np.zeros(9),
    ],
)
def test_histograms_of_any_size(values):
    """Whole numbers above 2^63 had edges of another type, and tiny ones bins without width."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<svg" in marginal("x", values, [(0, values)], None)


def test_bars_of_what_is_not_finite_are_empty():
    values = np.array([math.inf, math.nan, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = ordered_bars(values, np.arange(3), np.ones(3, bool), "latent", 0)
        figure.canvas.draw()
    assert [bar.get_height() for bar in axes.patches] == [0, 0, 2]
