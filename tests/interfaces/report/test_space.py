"""Latent plane, traversals, interpolations, manifold, draws by context."""

import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch

import latently as lt
from latently.data import Context, Data
from latently.interfaces.report.between import interpolations
from latently.interfaces.report.conditioned import by_context, contexts
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.groups import MOST, groupings
from latently.interfaces.report.latents import latent_layers
from latently.interfaces.report.plane import planes, principal
from latently.interfaces.report.subject import Subject
from latently.interfaces.report.walks import manifold, traversals
from latently.probability.families import DiscretizedLogistic, Normal
from latently.probability.priors import VampPrior


def subject(model, data, seed=0):
    layers = latent_layers(model, data)
    return Subject(model, data, "m", 0, seed, layers, Frame.of(data))


@pytest.fixture(scope="module")
def rows():
    return lt.data.load("digits/test").rows(slice(0, 60))


@pytest.fixture(scope="module")
def likelihood():
    return partial(DiscretizedLogistic, levels=17)


@pytest.fixture(scope="module")
def flat(rows, likelihood):
    """Two latents that matter: started from data, not trained."""
    torch.manual_seed(0)
    model = lt.vae(rows.shape, latents=2, likelihood=likelihood).eval()
    model.initialise(rows.x)
    return subject(model, rows)


def with_labels(rows):
    code = Context.of("label", rows.labels)
    return replace(rows, context=code.encode(rows.labels), conditions=code)


def test_principal_axes_are_those_of_the_covariance():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    z = z @ torch.randn(6, 6, generator=generator, dtype=torch.float64)
    points, shares = principal(z)
    values = torch.linalg.eigvalsh(z.T.cov()).flip(0)
    torch.testing.assert_close(points.T.cov(), values[:2].diag())
    assert shares == pytest.approx((values[:2] / values.sum()).tolist())
    again, _ = principal(z + 100)
    torch.testing.assert_close(points, again)


def test_two_latents_are_the_axes_of_their_plane(flat):
    (plane,) = planes(flat)
    assert plane.shares is None
    assert plane.prior == "circle"
    assert plane.rows == 60
    (figure,) = plane.figures
    dots = re.findall(r'<path class="dots" d="([^"]*)"', figure)
    assert len(dots) == 10
    assert sum(d.count("M") for d in dots) == 60
    assert re.findall(r">([^<]*)</text>", figure)[-10:] == [str(i) for i in range(10)]


def test_a_point_stands_at_its_tick():
    data = Data(torch.zeros(3, 2), "Normal", "points")
    model = lt.ppca((2,), latents=1)
    layer = latent_layers(model, data)[0]
    means = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    (plane,) = planes(Subject(model, data, "m", 0, 0, [replace(layer, means=means)], None))
    (d,) = re.findall(r'<path class="dots" d="([^"]*)"', plane.figures[0])
    (x0, y0), (x1, y1), (x2, y2) = [map(float, p.split()) for p in re.findall(r"M([^h]*)h0", d)]
    assert y0 == y1 > y2
    assert x0 == x2 < x1
    assert x1 - x0 == pytest.approx(y0 - y2, abs=0.2)  # equal units on both axes


def test_no_plane_of_one_latent_two_rows_or_equal_means(rows, likelihood):
    one = lt.vae(rows.shape, latents=1, likelihood=likelihood).eval()
    assert planes(subject(one, rows)) == []
    two = lt.vae(rows.shape, latents=2, likelihood=likelihood).eval()
    assert planes(subject(two, rows.rows(slice(0, 2)))) == []
    assert planes(subject(two, rows.rows([0, 0, 0]))) == []


def test_groups_by_label_and_by_context(rows):
    (by_label,) = groupings(rows, 60)
    assert by_label.title == "label"
    assert by_label.names == tuple(map(str, range(10)))
    (same,) = groupings(with_labels(rows), 60)  # the context says what the label says
    assert same.title == "label"
    sums = rows.x.sum((1, 2, 3))
    code = Context.of("ink", sums)
    _, ranges = groupings(replace(rows, context=code.encode(sums), conditions=code), 60)
    assert ranges.ordered
    assert ranges.index.bincount().tolist() == [12] * 5
    lowest = sums[ranges.index == 0].max()
    assert lowest <= float(ranges.names[0].removeprefix("≤ ")) <= sums[ranges.index == 1].min()


def test_too_many_labels_and_none_are_one_group(rows):
    many = replace(rows, labels=torch.arange(60))
    (group,) = groupings(many, 60)
    assert group.names == ("",)
    assert "60 different values of label" in group.note
    (group,) = groupings(replace(rows, labels=torch.arange(60) % MOST), 60)
    assert len(group.names) == MOST
    (group,) = groupings(replace(rows, labels=None), 60)
    assert (group.names, group.note) == (("",), "")
    (group,) = groupings(replace(rows, labels=torch.zeros(60).long()), 60)
    assert group.names == ("",)


def test_a_traversal_moves_one_latent(rows, likelihood):
    model = lt.vae(rows.shape, latents=3, likelihood=likelihood).eval()
    at = subject(model, rows)
    active = replace(at.layers[0], activity=torch.tensor([0.5, 2.0, 1.0]))
    at = replace(at, layers=[active])
    decoded = []
    likelihood_of = model.likelihood

    def note(z, context=None):
        decoded.append(z[0][0])
        return likelihood_of(z, context)

    model.likelihood = note
    try:
        walk = traversals(at)
    finally:
        del model.likelihood
    z = torch.cat(decoded).double().unflatten(0, (-1, 9))
    layer = active
    row = int(re.search(r"row (\d+)", walk.start)[1])
    for number, strip in enumerate(walk.strips):
        j = int(strip.title.removeprefix("latent "))
        still = [k for k in range(3) if k != j]
        held = layer.means[row, still].expand(9, 2)
        torch.testing.assert_close(z[number][:, still], held, rtol=1e-5, atol=1e-6)
        mean, deviation = layer.means[:, j].mean(), layer.means[:, j].std()
        reach = ((z[number][[0, 4, 8], j] - mean) / deviation).tolist()
        assert reach == pytest.approx([-3, 0, 3], abs=1e-4)
    assert [name for _, name in walk.heads][::4] == ["−3", "0", "3"]


def test_interpolations_begin_and_end_at_reconstructions(flat, rows):
    made = {}

    class Noting(Frame):
        def strip(self, groups, alt, **options):
            a, b = map(int, re.findall(r"row (\d+)", alt))
            made[a, b] = groups
            return super().strip(groups, alt, **options)

    noting = Noting(flat.frame.shape, flat.frame.low, flat.frame.high)
    walk = interpolations(replace(flat, frame=noting))
    assert len(walk.strips) == 8  # two of the six pairs go along a great circle, too
    assert len(made) == 6
    rebuilt = flat.model.reconstruct(rows.x)
    for (a, b), (first, means, last) in made.items():
        assert a != b
        torch.testing.assert_close(first[0].float(), rows.x[a])
        torch.testing.assert_close(last[0].float(), rows.x[b])
        torch.testing.assert_close(means[[0, -1]], rebuilt[[a, b]], rtol=1e-4, atol=1e-4)


def test_a_conditional_model_interpolates_within_a_context(rows, likelihood):
    data = with_labels(rows)
    model = lt.vae(rows.shape, latents=2, likelihood=likelihood, contexts=10).eval()
    walk = interpolations(subject(model, data))
    assert walk.context
    titles = [strip.title for strip in walk.strips if strip.about != "great circle"]
    assert len(titles) == 6
    for title in titles:
        a, b = map(int, re.findall(r"\d+", title))
        assert data.labels[a] == data.labels[b]
    assert manifold(subject(model, data)).under == f"label {int(data.labels[0])}"


def test_the_manifold_is_of_the_prior_where_it_has_quantiles(flat, rows, likelihood):
    made = manifold(flat)
    assert made.prior
    assert made.side == 15
    assert made.ends == ("3.3", "96.7")
    vamp = lt.vae(rows.shape, latents=2, likelihood=likelihood, prior=VampPrior).eval()
    assert not manifold(subject(vamp, rows)).prior
    three = lt.vae(rows.shape, latents=3, likelihood=likelihood).eval()
    assert manifold(subject(three, rows)) is None


def test_tables_and_single_rows_have_no_walks(rows, flat):
    table = Data.from_array(torch.randn(20, 4), protocol="table")
    of_table = subject(lt.vae((4,), latents=2, likelihood=Normal).eval(), table)
    one = subject(flat.model, rows.rows(slice(0, 1)))
    for at in (of_table, one):
        assert traversals(at) is None
        assert interpolations(at) is None
    assert manifold(of_table) is None


def test_draws_by_context_name_the_classes(rows, likelihood):
    code, few = Context("label", classes=tuple(range(10))), rows.rows(rows.labels != 3)
    data = replace(few, context=code.encode(few.labels), conditions=code)
    model = lt.vae(rows.shape, latents=2, likelihood=likelihood, contexts=10).eval()
    found = by_context(subject(model, data))
    assert [strip.title for strip in found.strips] == [f"label {i}" for i in range(10)]
    assert found.means
    assert [name for _, name in found.heads] == ["draws", *[""] * 5, "means", *[""] * 5]
    assert by_context(subject(model, data)) == found
    assert by_context(subject(model, data, seed=1)) != found
    assert by_context(subject(lt.vae(rows.shape, latents=2, likelihood=likelihood), rows)) is None


def test_numbers_are_shown_at_quantiles(rows):
    code = Context("ink", loc=(3.0,), scale=(2.0,))
    values = torch.linspace(-1, 1, 60)[:, None]
    chosen = contexts(replace(rows, context=values, conditions=code))
    assert chosen.flatten().tolist() == pytest.approx([-0.9, -0.5, 0, 0.5, 0.9])
    pair = torch.stack([torch.arange(60.0), torch.arange(60.0) % 7], 1)
    chosen = contexts(replace(rows, context=pair))
    assert chosen.shape == (5, 2)
    assert all((pair == row).all(1).any() for row in chosen)


@pytest.mark.slow
def test_a_page_of_a_conditional_and_an_unconditional_model(
    rows, likelihood, fitted, entry, page, tmp_path
):
    data = with_labels(rows)
    vae = partial(lt.vae, rows.shape, latents=2, likelihood=likelihood)
    parts = [
        replace(entry("given", fitted(vae(contexts=10), data, epochs=1), data), data=data),
        entry("plain", fitted(vae(), rows, epochs=1), rows),
    ]
    for whole in (rows, data):
        source, found = page(tmp_path / "mixed.html", parts, whole)
        text = " ".join("".join(found.text).split())
        assert "By context" in text
        assert "label 7" in text
        assert "Draws from p(x|c)" in text
        assert source.count(">Draws from p(x)<") == 1
        assert "unlike questions, p(x) and p(x|label)" in text
        assert {"plane", "interpolations"} <= set(found.ids)


@pytest.mark.long
@pytest.mark.parametrize(
    "x",
    [
        torch.rand(20, 3, 150, 70),
        (65535 * torch.rand(20, 12, 5)).round(),
        torch.rand(20, 2, 200),
        torch.rand(20, 2, 2),
    ],
    ids=["large colour", "16 bits", "flat", "tiny"],
)
def test_images_of_any_size(x, fitted, entry, page, tmp_path):
    data = Data.from_array(x, family="Normal", protocol="images")
    saved = fitted(lt.vae(data.shape, latents=2, likelihood=Normal), data, epochs=1)
    source, found = page(tmp_path / "size.html", [entry("m", saved, data)], data)
    assert len(source) < 2_000_000
    assert {"plane", "interpolations", "imputations"} <= set(found.ids)
    assert ("Pictures" in "".join(found.text)) == (x.shape == (20, 3, 150, 70))
    for tag, attributes in found.tags:
        if tag == "img":
            width, height = int(attributes["width"]), int(attributes["height"])
            assert min(width, height) > 1
            assert max(width, height) < 1000 or x.shape[-1] == 200  # the page's style limits it


def test_heads_stand_in_the_middle_of_their_images():
    frame = Frame((4, 10), 0.0, 1.0)
    heads = frame.heads([["a"], ["b", "c"]])
    image = frame.strip([torch.zeros(1, 4, 10), torch.zeros(2, 4, 10)], "x")
    scale = image.width / 34  # 10 + gap of 3 + 10 + gap of 1 + 10
    assert scale == int(scale)
    middles = [100 * m / 34 for m in (5, 18, 29)]
    assert [place for place, _ in heads] == pytest.approx(middles)
    assert math.isclose(image.height, 4 * scale)
