"""The base space of flows: the way between rows, temperatures; what a flow's page leaves out."""

import re
from dataclasses import replace

import pytest
import torch

import latently as lt
from latently.data import Context, Data
from latently.inference._codes import great_circle
from latently.inference.noise import derive
from latently.interfaces.report.conditioned import by_context
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.history import curves
from latently.interfaces.report.latents import latent_layers
from latently.interfaces.report.passages import passage
from latently.interfaces.report.subject import Subject
from latently.probability.flows import NSF, Glow

GLOW = Glow(scales=1, steps=1, hidden=4)


def subject(model, data, seed=0):
    layers = latent_layers(model, data)
    return Subject(model, data, "m", 0, seed, layers, Frame.of(data))


def flow_of(data, **options):
    """A flow of images that is not trained, and no identity."""
    torch.manual_seed(1)
    model = lt.flow(data.shape, flow=GLOW, **options)
    model.initialise(data.x, None, data.context if options.get("contexts") else None)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.eval()


@pytest.fixture(scope="module")
def rows():
    return lt.data.load("digits/test").rows(slice(0, 40))


@pytest.fixture(scope="module")
def smooth(rows):
    return Data.from_array(rows.x + torch.rand(rows.x.shape), protocol="smooth")


@pytest.fixture
def strips(monkeypatch):
    """What was drawn, by its description."""
    found, drawn = {}, Frame.strip

    def note(self, groups, alt):
        found[alt] = groups[0]
        return drawn(self, groups, alt)

    monkeypatch.setattr(Frame, "strip", note)
    return found


def test_ways_end_at_the_rows(rows, smooth, strips):
    for data, model, tolerance in (
        (rows, flow_of(rows, levels=17), 0.0),
        (smooth, flow_of(smooth), 1e-4),
    ):
        strips.clear()
        found = passage(subject(model, data))
        ways = {alt: s for alt, s in strips.items() if "through the base" in alt}
        assert len(ways) == 6
        for alt, images in ways.items():
            a, b = map(int, re.findall(r"row (\d+)", alt))
            assert float((images[0] - data.x[a]).abs().max()) <= tolerance
            assert float((images[-1] - data.x[b]).abs().max()) <= tolerance
        assert (found.apart == "0") is (tolerance == 0)
        assert len(found.ways) == 7
        line = next(s for alt, s in strips.items() if "pixel by pixel" in alt)
        first = next(iter(ways.values()))
        torch.testing.assert_close(line[[0, -1]], first[[0, -1]], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(line[3], (2 * line[0] + line[-1]) / 3)


def test_a_way_is_decoded_from_the_great_circle(smooth, strips):
    model = flow_of(smooth)
    passage(subject(model, smooth))
    alt = next(iter(strips))
    a, b = map(int, re.findall(r"row (\d+)", alt))
    (eps,) = model.encode(smooth.x[[a, b]])
    wanted = model.decode((great_circle(*eps.double(), torch.linspace(0, 1, 10)),))
    torch.testing.assert_close(strips[alt].float(), wanted, rtol=1e-4, atol=1e-4)


def test_draws_of_all_temperatures_share_their_noise(smooth, strips):
    model = flow_of(smooth)
    found = passage(subject(model, smooth, seed=3))
    titles = [(strip.title, strip.about) for strip in found.draws]
    assert [about for _, about in titles] == ["", "", "", "draws from p(x)"]
    drawn = {
        float(alt.rpartition(" ")[2]): images
        for alt, images in strips.items()
        if "temperature" in alt
    }
    noise = {t: model.encode(x.float())[0] for t, x in drawn.items()}
    for t, eps in noise.items():
        torch.testing.assert_close(eps, t * noise[1.0], rtol=1e-3, atol=1e-3)
    seed = derive(3, "report", "temperatures")
    torch.testing.assert_close(drawn[1.0], model.sample(10, seed=seed))


def test_a_context_moves_with_the_way(rows, strips):
    context = torch.linspace(-1, 1, 40)[:, None]
    data = replace(rows, context=context, conditions=Context("ink", loc=(0.0,), scale=(1.0,)))
    model = flow_of(data, levels=17, contexts=1)
    found = passage(subject(model, data))
    assert found.context
    assert found.apart == "0"
    assert found.draws[-1].about == "draws from p(x|c)"
    shown = by_context(subject(model, data))
    assert not shown.means
    assert [name for _, name in shown.heads] == ["draws", *[""] * 5]


def test_a_single_row_has_draws_and_no_way(rows):
    found = passage(subject(flow_of(rows, levels=17), rows.rows(slice(0, 1))))
    assert found.ways == ()
    assert len(found.draws) == 4


def test_only_flows_of_images_have_a_base_space_to_show(rows, table):
    data = table[0]
    assert passage(subject(lt.flow((20,), flow=NSF(transforms=1, hidden=(4,))), data)) is None
    assert passage(subject(lt.fa(rows.shape, latents=2, levels=17), rows)) is None


def titles(drawn):
    return [re.search(r'aria-label="m, (.*?) in nats by', figure)[1] for figure in drawn]


def test_models_without_latents_have_one_curve(rows):
    history = [
        {"epoch": i, "bound": -1.0 * i, "reconstruction": -1.0 * i, "kl": 0.0} for i in (1, 2)
    ]
    exact, bound = lt.flow((3,)), lt.flow((3,), levels=4)
    assert titles(curves(history, "m", 0, "", exact)) == ["log p(x)"]
    assert titles(curves(history, "m", 0, "", bound)) == ["Bound on log p(x)"]
    assert len(curves(history, "m", 0, "", lt.vae((3,), latents=1))) == 3


def test_a_page_of_flows_leaves_out_what_they_have_not(rows, fitted, entry, page, tmp_path):
    saved = fitted(flow_of(rows, levels=17), rows, epochs=2)
    for data in (rows, rows.rows(slice(3, 4))):
        _, found = page(tmp_path / "flow.html", [entry("m", saved, data)], data)
        assert {"training", "samples", "base", "rows", "record"} <= set(found.ids)
        assert not {
            "latents",
            "components",
            "plane",
            "traversals",
            "reconstructions",
            "interpolations",
            "imputations",
        } & set(found.ids)
        text = " ".join("".join(found.text).split())
        assert "every value comes back as it was" in text or len(data) == 1
        assert "only at 1 are they draws from the model" in text
        assert "p(x|z)" not in text
        assert "KL(" not in text
        assert "nan" not in text


def test_a_page_of_a_flow_beside_a_model_with_latents(rows, fitted, entry, page, tmp_path):
    flow = entry("flow", fitted(flow_of(rows, levels=17), rows, epochs=1), rows)
    fa = entry("fa", fitted(lt.fa(rows.shape, latents=3, levels=17), rows), rows)
    source, found = page(tmp_path / "both.html", [fa, flow], rows)
    text = " ".join("".join(found.text).split())
    assert {"latents", "reconstructions", "base", "interpolations"} <= set(found.ids)
    assert "p(x|z) where it has one" in text
    assert source.count("Above: data. Below: reconstruction.") == 1
    assert "no reconstructions" not in text
    assert "no latents with a posterior mean" not in text


def test_a_page_of_a_flow_of_columns(table, fitted, entry, page, tmp_path):
    data = table[0]
    saved = fitted(lt.flow((20,), flow=NSF(transforms=1, hidden=(4,))), data, epochs=2)
    source, found = page(tmp_path / "columns.html", [entry("m", saved, data)], data)
    assert not {"base", "latents", "components", "imputations"} & set(found.ids)
    assert "marginals" in found.ids
    assert "m, log p(x) in nats by epoch" in source
