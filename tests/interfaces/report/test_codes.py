"""Models without a density, reconstruction errors, sheets, neighbours, corruption, UMAP."""

import re
import sys
from dataclasses import replace
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch

import latently as lt
from latently.data import Data
from latently.data.corruptions import Adversarial, Gaussian, Masking, SaltAndPepper
from latently.interfaces.report import Entry
from latently.interfaces.report.between import corners, interpolations, sheets
from latently.interfaces.report.content import examples
from latently.interfaces.report.errors import anomalies, fits, row_errors
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.latents import latent_layers
from latently.interfaces.report.near import near, same_label_in_data
from latently.interfaces.report.paths import moves
from latently.interfaces.report.plane import embedding, planes
from latently.interfaces.report.spoilt import chosen, spoilt
from latently.interfaces.report.subject import Subject
from latently.nets import MLP
from latently.probability.families import Categorical, DiscretizedLogistic, Normal
from latently.training import Reconstruction

NET = partial(MLP, hidden=(16,))


def subject(model, data, index=0):
    return Subject(model, data, f"m{index}", index, 0, latent_layers(model, data), Frame.of(data))


@pytest.fixture(scope="module")
def rows():
    return lt.data.load("digits/test").rows(slice(0, 60))


@pytest.fixture(scope="module")
def auto(rows):
    """An autoencoder that has seen a little of the digits."""
    torch.manual_seed(0)
    model = lt.ae(rows.shape, latents=3, net=NET)
    lt.fit(model, rows, epochs=30, progress=False)
    return model.eval()


@pytest.fixture(scope="module")
def plain(rows):
    torch.manual_seed(0)
    model = lt.vae(
        rows.shape, latents=2, likelihood=partial(DiscretizedLogistic, levels=17), net=NET
    )
    model.initialise(rows.x)
    return model.eval()


@pytest.fixture(scope="module")
def saved(rows, fitted):
    first = fitted(lt.ae(rows.shape, latents=3, net=NET), rows, epochs=1)
    second = fitted(
        lt.ae(rows.shape, latents=2, net=NET), rows, objective=Reconstruction(Masking()), epochs=1
    )
    told = "Reconstruction(corruption=SaltAndPepper(level=0.1))"
    return [first, replace(second, training={**second.training, "objective": told})]


def text_of(found):
    return " ".join("".join(found.text).split())


# Pages.


def test_autoencoders_alone_have_no_evidence(rows, saved, page, tmp_path):
    for models in (saved[:1], saved):
        entries = [Entry(f"auto {i}", one) for i, one in enumerate(models)]
        _, found = page(tmp_path / "ae.html", entries, rows)
        text = text_of(found)
        assert {"errors", "latents", "plane", "interpolations", "neighbours"} <= set(found.ids)
        assert {"corruptions", "rows", "reconstructions"} <= set(found.ids)
        assert not {"evidence", "samples", "imputations"} & set(found.ids)
        assert "mean squared error" in text
        several = len(models) > 1
        assert ("auto 0, auto 1 have no densities" if several else "auto 0 has no density") in text
        assert "% of the variance rebuilt" in text
        assert "An autoencoder has no prior" in text
        assert "largest error first" in text
        assert not re.search(r"\bnan\b|KL \d|log p\(x\) in nats, lowest", text)
    assert "Trained under it: auto 1 (SaltAndPepper(level=0.1))" in text


@pytest.mark.slow
def test_an_autoencoder_beside_a_vae(rows, saved, plain, entry, fitted, page, tmp_path):
    vae = entry("vae", fitted(plain, rows, epochs=1), rows)
    _, found = page(tmp_path / "both.html", [Entry("auto", saved[0]), vae], rows)
    text = text_of(found)
    assert {"evidence", "errors", "samples", "imputations"} <= set(found.ids)
    assert "lowest log p(x) first" in text
    assert "largest error first" in text
    assert "best of its ranking" in text


def test_draws_of_a_density_on_codes_are_named_as_such(rows, fitted, page, tmp_path):
    part = fitted(lt.ae(rows.shape, latents=3, net=NET), rows, epochs=1)
    codes = partial(lt.mixture, components=2)
    lt.fit_density(part.model, rows, codes, progress=False)
    _, found = page(tmp_path / "drawn.html", [Entry("m", part)], rows)
    text = text_of(found)
    assert "samples" in found.ids
    assert "evidence" not in found.ids
    assert "drawn from a density that was put on them afterwards (Mixture)" in text
    assert "Draws are what the model says" not in text
    assert "Draws from p(x)" not in text


def test_tables_of_autoencoders(fitted, page, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=generator)
    for values in (x, x.masked_fill(x > 1.2, torch.nan)):
        data = Data.from_array(values, protocol="table")
        model = lt.ae((2,), latents=1, net=NET, sees_mask=data.mask is not None)
        _, found = page(tmp_path / "t.html", [Entry("m", fitted(model, data, epochs=1))], data)
        text = text_of(found)
        assert {"errors", "marginals", "corruptions", "rows"} <= set(found.ids)
        assert "no model here draws rows" in text
        assert not re.search(r"\bnan\b", text)


def test_evidence_is_asked_of_densities_alone(rows, plain, fitted, page, tmp_path, refused):
    with refused("m has a density", "latently.evaluate"):
        page(tmp_path / "x.html", [Entry("m", fitted(plain, rows, epochs=1))], rows)


# Numbers.


def test_errors_are_means_over_cells_then_rows(rows, auto, plain):
    both = [subject(auto, rows, 0), subject(plain, rows, 1)]
    found = [row_errors(s) for s in both]
    for model, errors in zip((auto, plain), found, strict=True):
        wanted = (model.reconstruct(rows.x) - rows.x).double().square().flatten(1).mean(1)
        torch.testing.assert_close(errors, wanted, rtol=1e-5, atol=1e-6)
    table = fits(both, ["a", "b"], found, rows)
    means = [float(e.mean()) for e in found]
    order = sorted(range(2), key=lambda i: means[i])
    assert [m.index for m in table.models] == order
    assert float(table.models[0].mean) == pytest.approx(means[order[0]], rel=0.02)
    apart = means[order[1]] - means[order[0]]
    assert float(table.models[1].difference) == pytest.approx(apart, rel=0.05)
    assert table.models[0].difference == "best"
    assert table.unlike
    x = rows.x.double().flatten(1)
    variance = float((x - x.mean(0)).square().mean())
    share = float(table.models[0].share.removesuffix(" %"))
    assert share == pytest.approx(100 * (1 - means[order[0]] / variance), abs=0.06)


def test_missing_cells_have_no_error():
    x = torch.randn(40, 5)
    mask = torch.rand(40, 5) > 0.3
    mask[0] = False
    mask[1:, 0] = True
    data = Data(x, "Normal", "holes", mask=mask)
    model = lt.vae((5,), latents=2, likelihood=Normal, net=NET, sees_mask=True).eval()
    found = row_errors(subject(model, data))
    assert found[0].isnan()
    apart = (model.reconstruct(x, mask) - x).square().where(mask, 0.0).sum(1) / mask.sum(1)
    torch.testing.assert_close(found[1:], apart[1:].double(), rtol=1e-5, atol=1e-6)
    assert "nan" not in fits([subject(model, data)], [""], [found], data).models[0].mean
    assert row_errors(subject(lt.flow((5,)).eval(), Data(x, "Normal", "x"))) is None


def test_the_strangest_rows_have_the_largest_score(rows, auto):
    at = subject(auto, rows)
    scores = anomalies(at)
    torch.testing.assert_close(scores, auto.anomaly_score(rows.x).double())
    strange, typical = examples(rows, scores, 4, strange="high")
    assert [e.row for e in strange] == scores.argsort(descending=True)[:4].tolist()
    assert [e.row for e in typical] == scores.argsort()[:4].tolist()


def test_latents_of_autoencoders_are_compared_with_the_widest(rows, auto):
    (layer,) = latent_layers(auto, rows)
    assert layer.without_prior
    assert layer.kl is None
    assert layer.cost is None
    tiny = replace(layer, activity=torch.tensor([1e-6, 1e-9, 2e-8]))
    assert tiny.active.tolist() == [True, False, True]


def test_codes_behind_an_activation_stay_in_its_range(rows):
    torch.manual_seed(0)
    model = lt.ae(rows.shape, latents=3, net=NET, activation=torch.nn.ReLU).eval()
    at = subject(model, rows)
    assert at.layers[0].kind == "range"
    paths, _ = moves(at.layers[0], 3)
    assert paths
    assert all(bool((path.z >= 0).all()) for path in paths)
    assert not interpolations(at).rounds


def test_a_model_that_enumerates_classes_has_means_over_them(rows):
    torch.manual_seed(0)
    likelihood = partial(DiscretizedLogistic, levels=17)
    model = lt.ssvae(rows.shape, classes=4, latents=3, likelihood=likelihood, net=NET).eval()
    layers = latent_layers(model, rows)
    assert [layer.kind for layer in layers] == ["categories", "real"]
    for layer, means in zip(layers, model.encode(rows.x), strict=True):
        torch.testing.assert_close(layer.flat, means.flatten(1).double(), rtol=1e-5, atol=1e-6)
    assert layers[0].use.sum() == pytest.approx(1, abs=1e-5)
    assert near(subject(model, rows)).of == 7


# Between four rows.


def test_a_sheet_has_the_reconstructions_of_its_rows_at_its_corners(rows, auto, monkeypatch):
    drawn = {}

    def note(self, images, alt, **options):
        drawn[alt] = images
        return None

    monkeypatch.setattr(Frame, "grid", note)
    found = sheets(subject(auto, rows))
    (images,) = drawn.values()
    assert images.shape[0] == 49
    wanted = auto.reconstruct(rows.x[list(found.rows)])
    torch.testing.assert_close(images[[0, 6, 42, 48]], wanted, rtol=1e-4, atol=1e-4)
    labels = rows.labels[list(found.rows)].tolist()
    assert labels[0] == labels[1] != labels[2] == labels[3]
    assert found.labels == (str(labels[0]), str(labels[2]))


def test_corners_are_of_the_two_nearest_labels(rows, auto):
    at = subject(auto, rows)
    _, names = corners(at, 60)
    means = {
        int(k): rows.x[rows.labels == k].flatten(1).mean(0)
        for k in rows.labels.unique()
        if (rows.labels == k).sum() > 1
    }
    pairs = {(a, b): (means[a] - means[b]).norm() for a in means for b in means if a < b}
    assert set(map(int, names)) == set(min(pairs, key=pairs.get))
    bare = replace(at, data=replace(rows, labels=None))
    chosen_rows, names = corners(bare, 60)
    assert len(set(chosen_rows)) == 4
    assert names == ("", "")
    assert corners(replace(bare, data=bare.data.rows(slice(0, 3))), 3) is None


# Neighbours.


def test_neighbours_are_found_by_brute_force(rows, auto):
    at = subject(auto, rows)
    found = near(at)
    codes = at.layers[0].flat
    codes = codes / codes.std(0, correction=0)
    right = []
    for a in range(60):
        apart = (codes - codes[a]).norm(dim=1)
        apart[a] = torch.inf
        right.append((rows.labels[apart.argsort()[:5]] == rows.labels[a]).double().mean())
    assert found.same.startswith(f"{100 * float(torch.stack(right).mean()):.1f} ±")
    assert len(found.lines) == 6
    for asked, *others in found.lines:
        apart = (codes - codes[asked.row]).norm(dim=1)
        apart[asked.row] = torch.inf
        assert [n.row for n in others] == apart.argsort()[:5].tolist()
        assert [float(n.distance) for n in others] == pytest.approx(
            apart.sort().values[:5].tolist(), abs=0.006
        )
        assert [n.other for n in others] == [n.label != asked.label for n in others]


def test_equal_rows_are_neighbours_of_each_other(rows, auto):
    twice = rows.rows([*range(10), *range(10), *range(10)])
    found = near(subject(auto, twice))
    for asked, *others in found.lines:
        assert asked.row not in [n.row for n in others]
        assert [n.row % 10 for n in others[:2]] == [asked.row % 10] * 2
        assert others[0].distance == "0.00"
    same = same_label_in_data(twice)
    assert float(same.split()[0]) >= 40  # two of five are the row again


def test_no_neighbours_of_few_rows_or_equal_codes(rows, auto):
    assert near(subject(auto, rows.rows(slice(0, 5)))) is None
    assert near(subject(auto, rows.rows([0] * 20))) is None
    assert near(subject(lt.flow((4,)).eval(), Data(torch.randn(20, 4), "Normal", "x"))) is None


# Corruption.


def test_corruptions_are_those_of_the_records_first(rows, auto):
    frame = Frame.of(rows)
    assert [type(c) for c in chosen([None], frame)] == [Masking, Gaussian]
    assert [type(c) for c in chosen([None], None)] == [Gaussian]
    met = [SaltAndPepper(0.1), Masking(0.3, value=2.0)]
    found = chosen(met, frame)
    assert found == [SaltAndPepper(0.1), Masking(0.3, value=2.0), Gaussian()]
    for told, kinds in (
        ("Reconstruction(corruption=Masking)", ["Masking", "Gaussian"]),
        (
            "Reconstruction(corruption=Adversarial(steps=2))",
            ["Adversarial", "Masking", "Gaussian"],
        ),
        ("Reconstruction(corruption=Nothing(1))", ["Masking", "Gaussian"]),
        ("Reconstruction(corruption=Masking(level=7))", ["Masking", "Gaussian"]),
    ):
        made = spoilt([subject(auto, rows)], [{"objective": told}], rows, 0)
        assert [one.name for one in made] == kinds
        assert [bool(one.trained) for one in made][1:] == [False] * (len(kinds) - 1)


def test_all_models_see_the_same_spoilt_rows(rows, auto, plain, monkeypatch):
    drawn, strip = {}, Frame.strip

    def note(self, groups, alt):
        drawn[alt] = torch.stack(list(groups))
        return strip(self, groups, alt)

    monkeypatch.setattr(Frame, "strip", note)
    both = [subject(auto, rows, 0), subject(plain, rows, 1)]
    made = spoilt(both, [{}, {}], rows, 0)
    assert [one.models for one in made] == [(0, 1), (0, 1)]
    assert [s.title for s in made[0].strips] == ["spoilt rows", "m0", "m1"]
    seen, first, second = list(drawn.values())[:3]
    for level in range(5):
        for model, images in ((auto, first), (plain, second)):
            wanted = model.reconstruct(seen[level])
            torch.testing.assert_close(images[level], wanted, rtol=1e-4, atol=1e-4)
    hidden = [float((part == 0).double().mean()) for part in seen]
    assert hidden == sorted(hidden)
    assert made[0].heads[1][1] == "0"


def test_models_that_cannot_see_noise_are_left_out():
    x = torch.randint(0, 3, (40, 3)).float()
    data = Data(x, "Categorical", "names", levels=3)
    model = lt.vae((3,), latents=2, likelihood=partial(Categorical, levels=3), net=NET).eval()
    assert spoilt([subject(model, data)], [{}], data, 0) == []
    own = Adversarial(steps=1)
    assert own.continuous


# UMAP.


def test_umap_is_drawn_where_it_is_installed(rows, auto, monkeypatch):
    asked = []

    class UMAP:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, z):
            return np.asarray(z)[:, :2].astype(np.float32)

    at = subject(auto, rows)
    module = ModuleType("umap")
    module.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    by_pca, by_umap = planes(at)
    assert by_pca.shares is not None
    assert not by_pca.umap
    assert by_umap.umap
    assert "UMAP" in by_umap.figures[0]
    assert asked == [{"n_components": 2, "random_state": 0, "n_jobs": 1}]
    assert embedding(at.layers[0].flat[:40], 0) is None
    monkeypatch.setitem(sys.modules, "umap", ModuleType("umap"))
    assert len(planes(at)) == 1
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    assert len(planes(at)) == 1
