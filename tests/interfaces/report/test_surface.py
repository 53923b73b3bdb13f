"""Maps of densities over two columns: what they show is what the models say."""

import base64
import io
import math
import re
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import latently as lt
from latently.data import Data
from latently.interfaces.report import anatomy, maps, surface
from latently.interfaces.report.anatomy import ellipses, warped
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.latents import latent_layers
from latently.interfaces.report.maps import Window
from latently.interfaces.report.subject import Subject
from latently.models.components import Diagonal, Full, Student
from latently.nets import MLP
from latently.probability.families import Normal
from latently.probability.transforms import Log

WINDOW = Window((-3.0, -2.0), (3.0, 2.0))


def subject(model, data, index=0):
    return Subject(model, data, "m", index, 0, latent_layers(model, data), Frame.of(data))


def text_of(found):
    return " ".join("".join(found.text).split())


@pytest.fixture(scope="module")
def moons():
    return lt.data.load("toys:moons/test").rows(slice(0, 400))


@pytest.fixture(scope="module")
def normal():
    """A PPCA with known parameters, and its mean and covariance."""
    model = lt.ppca((2,), latents=1)
    with torch.no_grad():
        model.loc.copy_(torch.tensor([0.3, -0.2], dtype=torch.float64))
        model.weight.copy_(torch.tensor([[0.7], [-0.4]], dtype=torch.float64))
        model.log_variance.fill_(math.log(0.09))
    covariance = np.array([[0.7**2, -0.28], [-0.28, 0.16]]) + 0.09 * np.eye(2)
    return model.eval(), np.array([0.3, -0.2]), covariance


@pytest.fixture(scope="module")
def flow(moons):
    torch.manual_seed(0)
    model = lt.flow((2,)).eval()
    model.initialise(moons.x)
    return model


# The window.


def test_cells_are_midpoints_from_the_upper_left():
    points, (down, across) = WINDOW.cells(30)
    assert down / across == pytest.approx(4 / 6, rel=0.05)
    assert down * across == pytest.approx(900, rel=0.05)
    assert points[0] == pytest.approx([-3 + 3 / across, 2 - 2 / down])
    assert points[-1] == pytest.approx([3 - 3 / across, -2 + 2 / down])
    assert points[1] - points[0] == pytest.approx([6 / across, 0])
    assert WINDOW.inside(points).all()
    assert not WINDOW.inside(points + np.array([6.0, 0.0])).any()


def test_columns_of_one_scale_are_drawn_alike():
    assert WINDOW.equal
    assert WINDOW.height == pytest.approx(4 / 6)
    far = Window((0.0, 0.0), (1.0, 1000.0))
    assert not far.equal
    assert far.height == 1
    assert far.cells(10)[1] == (10, 10)


@pytest.mark.parametrize("window", [WINDOW, Window((0.0, -1e-4), (1e5, 1e-4))])
def test_places_are_those_of_the_axes(window):
    """The corners of a window are the corners of what is drawn, the upper left one above."""
    canvas = maps._Canvas(window)
    corners = canvas.at(np.array([window.low, window.high]))
    found = dict(re.findall(r'(\w+)="([-\d.]+)"', canvas.place))
    assert float(found["x"]) == pytest.approx(corners[0, 0], abs=0.1)
    assert float(found["y"]) == pytest.approx(corners[1, 1], abs=0.1)
    wide, high = float(found["width"]), float(found["height"])
    assert high / wide == pytest.approx(window.height, rel=0.08)
    assert wide > 200


# What is drawn.


def pixels(figure):
    code = re.search(r'href="data:image/png;base64,([^"]*)"', figure)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))


def test_shades_are_the_root_of_a_density():
    density = np.array([[0.0, 0.25], [1.0, 4.0], [0.01, np.inf]])
    found = pixels(maps.shades(WINDOW, density, 1.0, "alt", 0))
    assert found.tolist() == [[0, 128], [255, 255], [26, 255]]


def test_figures_of_one_page_share_no_id():
    made = [maps.shades(WINDOW, np.ones((2, 2)), 1.0, alt, key) for alt in "ab" for key in (0, 1)]
    made += [
        maps.lines(WINDOW, np.zeros((1, 2)), [], [], "lines", 0),
        maps.scale(0.5),
    ]
    ids = [found for figure in made for found in re.findall(r' id="([^"]*)"', figure)]
    assert len(ids) == len(set(ids)) >= 6
    for figure in made:
        own = set(re.findall(r' id="([^"]*)"', figure))
        assert set(re.findall(r"url\(#([^)]*)\)", figure)) <= own


def test_points_outside_are_not_drawn():
    points = np.array([[0.0, 0.0], [2.9, -1.9], [3.1, 0.0], [np.nan, 0.0], [np.inf, 0.0]])
    assert maps.dots(WINDOW, points, "#123456", "alt", 0).count("h0") == 2


def test_lines_break_where_nothing_is_known():
    curve = np.array([[0.0, 0.0], [1.0, 0.0], [np.nan, 1.0], [1.0, 1.0], [1e300, 1.0]])
    drawn = maps.lines(WINDOW, np.zeros((0, 2)), [(curve, 1.5)], [(0, 0, "<b>")], "alt", 0)
    (d,) = re.findall(r'd="([^"]*)" stroke-width="1.5"', drawn)
    assert re.findall("[ML]", d) == list("MLML")
    assert "nan" not in d
    assert "&lt;b&gt;</text>" in drawn


# Densities.


def test_the_map_is_the_density_of_the_model(normal, moons):
    model, mean, covariance = normal
    made = surface._density(subject(model, moons), WINDOW)
    points, shape = WINDOW.cells(160)
    assert made.values.shape == shape
    apart = points - mean
    energy = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart)
    expected = np.exp(-energy / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    assert made.values.ravel() == pytest.approx(expected, rel=1e-9, abs=1e-30)
    assert made.values.sum() * 24 / np.prod(shape) == pytest.approx(1, abs=1e-3)


def test_the_map_of_the_truth_is_the_truth(moons):
    made = surface._true(lt.toy("moons"), WINDOW)
    points, shape = WINDOW.cells(160)
    assert torch.from_numpy(made.values.ravel()).log().isfinite().any()
    expected = lt.toy("moons").log_prob(points).exp().view(shape).numpy()
    assert np.array_equal(made.values, expected)


def test_a_bound_lies_below_the_density_it_bounds(normal, moons):
    """A VAE that is a PPCA but for its q: its map lacks what the bound lacks, no more."""
    torch.manual_seed(0)
    model = lt.vae((2,), latents=1, likelihood=Normal, net=partial(MLP, hidden=(16,))).eval()
    model.initialise(moons.x)
    made = surface._density(subject(model, moons), WINDOW)
    points, shape = WINDOW.cells(96)
    assert made.values.shape == shape
    with torch.no_grad():
        z = torch.linspace(-6, 6, 2001)[:, None, None].expand(-1, len(points), -1)
        some = torch.arange(0, len(points), 97)
        x = torch.from_numpy(points)[some].float()
        p = model.likelihood((z[:, some],))
        prior = -z[:, some, 0].square() / 2 - 0.5 * math.log(2 * math.pi)
        truth = (p.log_prob(x) + prior).logsumexp(0) + math.log(12 / 2000)
    found = np.log(made.values.ravel()[some.numpy()])
    assert float(np.mean(found - truth.numpy())) < 0.02
    assert np.corrcoef(found, truth.numpy())[0, 1] > 0.99


def test_contexts_are_averaged_over(fitted):
    data = lt.data.load("toys:circles/test", context="label").rows(slice(0, 300))
    model = fitted(lt.ppca((2,), latents=1, contexts=2), data).model
    made = surface._density(subject(model, data), WINDOW)
    assert made.contexts == 2
    points, _ = WINDOW.cells(160 * 2 // 3)
    x = torch.from_numpy(points)
    share = data.context.double().mean(0)
    one_hot = torch.eye(2, dtype=data.context.dtype)
    with torch.no_grad():
        parts = [model.log_prob(x, context=c.expand(len(x), -1)).exp() for c in one_hot]
    expected = share[0] * parts[0] + share[1] * parts[1]
    assert made.values.ravel() == pytest.approx(expected.numpy(), rel=1e-6)


def test_too_many_contexts_are_not_averaged_over(normal):
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)).double()
    data = replace(Data.from_array(x, protocol="x"), context=torch.arange(60.0)[:, None])
    model = lt.ppca((2,), latents=1, contexts=1).eval()
    assert "60 different contexts" in surface._density(subject(model, data), WINDOW)


def test_no_density_outside_the_support(fitted):
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double().exp()
    data = Data.from_array(x, protocol="positive")
    model = fitted(lt.ppca((2,), latents=1, transform=Log()), data).model
    made = surface._density(subject(model, data), WINDOW)
    points, shape = WINDOW.cells(160)
    positive = (points > 0).all(1).reshape(shape)
    assert (made.values[~positive] == 0).all()
    assert (made.values[positive] > 0).all()


def test_the_strongest_shade_is_a_density_that_few_rows_exceed(normal, moons):
    model, *_ = normal
    rows = model.sample(2000, seed=0).numpy()
    window = surface._window(rows)
    made = surface._density(subject(model, moons), window)
    with torch.no_grad():
        density = model.log_prob(torch.from_numpy(rows)).exp().numpy()
    top = surface._top([made], window, rows)
    assert top == pytest.approx(np.quantile(density, 0.99), rel=0.02)
    spike = surface._Map(np.where(made.values == made.values.max(), np.inf, made.values))
    assert np.isfinite(surface._top([spike], window, rows))
    assert surface._top([], window, rows) == 0


@pytest.mark.parametrize("rows", [np.zeros((1, 2)), np.array([[1.0, 5.0], [2.0, 5.0]])])
def test_a_window_is_never_empty(rows):
    window = surface._window(rows)
    assert window.inside(rows).all()
    assert window.high[1] - window.low[1] >= 1


def test_a_window_leaves_far_rows_out():
    x = np.random.default_rng(0).standard_normal((10_000, 2))
    x[7] = 1e6
    assert surface._window(x).high[0] < 10


# Divergence.


def test_divergences_are_means_of_paired_differences(normal, moons, entry, fitted):
    model = fitted(lt.ppca((2,), latents=1), moons)
    evidence = entry("m", model, moons).evidence
    one = subject(model.model, moons)
    lacks = lt.toy("moons").log_prob(moons.x) - evidence.values
    given, text = surface._lacks(one, evidence)
    assert given == ""
    mean, stderr = (float(part) for part in text.split(" ± "))
    assert mean == pytest.approx(float(lacks.mean()), abs=0.01)
    assert stderr == pytest.approx(float(lacks.std()) / 20, abs=0.01)
    holed = replace(moons, mask=torch.ones_like(moons.x, dtype=torch.bool))
    assert surface._lacks(subject(model.model, holed), evidence) == ("", "")
    other = replace(moons, protocol="table.npz/test")
    assert surface._lacks(subject(model.model, other), evidence) == ("", "")


def test_given_the_label_both_densities_are_told_it(fitted, entry):
    data = lt.data.load("toys:eight/test", context="label").rows(slice(0, 800))
    saved = fitted(
        lt.ppca((2,), latents=1, contexts=8), lt.data.load("toys:eight/train", context="label")
    )
    given, text = surface._lacks(subject(saved.model, data), entry("m", saved, data).evidence)
    assert given == "|label"
    mean, stderr = (float(part) for part in text.split(" ± "))
    assert abs(mean) < 4 * stderr < 0.05  # a normal about each mean is the truth


# What models are made of.


def test_ellipses_are_at_one_and_two_deviations():
    mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
    for r, curve in zip((1, 2), ellipses(mean, covariance), strict=True):
        apart = curve - mean
        energy = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart)
        assert energy == pytest.approx(r**2 * np.ones(len(curve)))
        assert curve[0] == pytest.approx(curve[-1])


@pytest.mark.parametrize("family", [Full(), Diagonal(), Student()])
def test_moments_are_those_of_the_components(family, moons, fitted):
    rows = moons.rows(slice(0, 100))
    model = fitted(lt.mixture((2,), components=3, family=family, restarts=1), rows).model
    for k in range(3):
        mean, covariance = anatomy._moments(model.parts, k)
        member = model.parts.member(k, (2,))
        assert mean == pytest.approx(member.mean.detach().numpy())
        assert np.linalg.eigvalsh(covariance).min() > 0
        if not isinstance(family, Student):
            with torch.no_grad():
                draws = member.sample((20_000,)).numpy()
            assert np.cov(draws.T) == pytest.approx(covariance, rel=0.1, abs=0.01)
    found = anatomy.anatomy(subject(model, moons), WINDOW, moons.x.numpy())
    assert (found.kind, found.parts, found.words) == ("components", 3, True)
    assert found.figure.count('class="named"') == 3


def test_the_grid_of_a_flow_is_where_it_puts_the_base(flow):
    lines = warped(flow, None)
    assert lines.shape == (30, 361, 2)
    with torch.no_grad():
        (eps,) = flow.encode(torch.from_numpy(lines[:6].reshape(-1, 2)))
    radii = torch.linalg.vector_norm(eps, dim=1).view(6, 361).double().numpy()
    expected = np.arange(1, 7)[:, None] / 2 * np.ones((6, 361))
    assert radii == pytest.approx(expected, abs=2e-3)


def test_other_models_have_no_anatomy(normal, moons):
    assert anatomy.anatomy(subject(normal[0], moons), WINDOW, moons.x.numpy()) is None


# The page.


@pytest.mark.slow
def test_a_page_of_many_models(moons, flow, fitted, entry, page, tmp_path):
    vae = lt.vae((2,), latents=2, likelihood=Normal, net=partial(MLP, hidden=(16,)))
    saved = {
        "ppca": fitted(lt.ppca((2,), latents=1), moons),
        "fa": fitted(lt.fa((2,), latents=1), moons),
        "mixture": fitted(lt.mixture((2,), components=4), moons),
        "flow": fitted(flow, moons, epochs=1),
        "vae": fitted(vae, moons, epochs=1),
    }
    entries = [entry(name, one, moons) for name, one in saved.items()]
    source, found = page(tmp_path / "toys.html", entries, moons)
    text = text_of(found)
    assert "density" in found.ids
    for words in (
        "Exact: two half circles that reach into each other. Its entropy is 1.0076 nats",
        "All 400 rows.",
        "A lower bound, by 100 draws of z for every point",
        "4 components over the rows",
        "Circles and spokes of the normal",
        "log q is a lower bound here",
        "400 draws from the model",
    ):
        assert words in text, words
    assert text.count("KL(p ‖ model) ≈") == 4
    assert text.count("KL(p ‖ model) ≤") == 1
    assert len(re.findall("<image ", source)) == 6
    assert len(source) < 1_500_000


def test_pages_of_a_conditional_model(fitted, entry, page, tmp_path):
    data = lt.data.load("toys:circles/train", context="label").rows(slice(0, 200))
    saved = fitted(lt.ppca((2,), latents=1, contexts=2), data)
    _, found = page(tmp_path / "c.html", [entry("m", saved, data)], data)
    text = text_of(found)
    assert "KL(p|label ‖ model|label) ≈" in text
    assert "p(x|c) averaged over the 2 contexts of the rows" in text
    assert "draws from p(x|c) under contexts of the rows" in text
    assert "rows of a training split" in text


@pytest.mark.parametrize("part", [slice(27, 29), slice(27, 30), slice(0, 30)])
def test_rows_of_one_s_own_with_holes(part, fitted, entry, page, tmp_path):
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 1e4])
    x[::3, 0] = math.nan
    data = Data.from_array(x, protocol="table")
    saved = fitted(lt.fa((2,), latents=1), data)
    rows = data.rows(part)
    _, found = page(tmp_path / "t.html", [entry("m", saved, rows)], rows)
    text = text_of(found)
    assert "density" in found.ids
    assert "complete row" in text
    assert "True density" not in text
    assert "KL(p" not in text


@pytest.mark.slow
def test_where_there_is_no_section(fitted, entry, page, tmp_path, table, digits):
    wide, _, saved = table
    _, found = page(tmp_path / "w.html", [entry("m", saved[1], wide)], wide)
    assert "density" not in found.ids
    _, found = page(tmp_path / "d.html", digits[1][2:3], digits[0])
    assert "density" not in found.ids
    counted = Data.from_array(torch.randint(0, 5, (40, 2)), protocol="counts")
    model = fitted(lt.fa((2,), latents=1, levels=5), counted)
    _, found = page(tmp_path / "n.html", [entry("m", model, counted)], counted)
    assert "density" not in found.ids
    empty = Data.from_array([[math.nan, 1.5], [0.5, math.nan], [0.25, math.nan]], protocol="e")
    model = fitted(lt.ppca((2,), latents=1), empty)
    _, found = page(tmp_path / "e.html", [entry("m", model, empty)], empty)
    assert "density" not in found.ids


@pytest.mark.parametrize(("cells", "top"), [([0.0, 0.0], 0.0), ([1.0, np.inf], np.inf)])
def test_shades_of_a_density_that_vanishes_or_overflows(cells, top):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<image" in maps.shades(
            Window((0.0, 0.0), (1.0, 1.0)), np.array([cells]), top, "cells", 0
        )
