"""Reports on small models fitted once, and what holds of every page."""

import math
import re
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import latently as lt
from latently import expr
from latently.data import Data
from latently.inference.bounds import IWAE
from latently.inference.evidence import evaluate
from latently.inference.methods import ImportanceSampling
from latently.interfaces.report import Entry, write_report
from latently.interfaces.report.latents import latent_layers
from latently.interfaces.report.subject import Subject
from latently.io import Saved
from latently.models.components import Columns
from latently.nets import MLP
from latently.probability.families import DiscretizedLogistic, Normal
from latently.probability.priors import VampPrior
from latently.registry import components as registered
from latently.training import Variational, fit

TOWNS = np.array(["Aberdeen", "Dover", "Exeter", "Hull"])
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use", "line", "rect"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers what the tests ask about."""

    def __init__(self, source):
        super().__init__()
        self.open, self.ids, self.tags, self.headings, self.text = [], [], [], [], []
        self.feed(source)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text.append(data)


def fit_model(model, data, **options):
    objective = options.pop("objective", None)
    done = fit(model, data, objective, progress=False, **options)
    training = {
        "history": done.history,
        "kept": done.kept,
        "seconds": done.seconds,
        "objective": "Variational()",
        "warnings": list(done.warnings),
    }
    return Saved(model, data.to_schema(), training)


def make_entry(name, saved, data, samples=20):
    exact = saved.model.density == "exact"
    found = evaluate(saved.model, data, None if exact else ImportanceSampling(samples))
    return Entry(name, saved, found)


def make_page(path, entries, data, **options):
    write_report(path, entries, data, **{"title": "Report", **options})
    source = path.read_text(encoding="utf-8")
    found = Page(source)
    assert "http:" not in source
    assert "https:" not in source
    assert len(set(found.ids)) == len(found.ids)
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    steps = zip(found.headings, found.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    for tag, attributes in found.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form", "base")
        assert not any(key.startswith("on") for key in attributes)
        if tag == "img":
            assert attributes["alt"]
            assert attributes["src"].startswith("data:image/png;base64,")
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "a":
            assert attributes["href"].removeprefix("#") in found.ids
    return source, found


def make_people(n=300, seed=0, holes=True, protocol="people/test"):
    """Age, income, children, town, smoking, day of joining; two columns are left out."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, n)
    age = np.clip(np.round(rng.normal(30 + 20 * group, 6)), 18, 90).astype(int)
    income = np.exp(rng.normal(9 + group, 0.4)).round(2)
    children = rng.poisson(0.5 + 1.5 * group)
    town = TOWNS[np.where(rng.random(n) < 0.8, 3 * group, rng.integers(0, 4, n))]
    smokes = np.where(rng.random(n) < 0.3, "yes", "no")
    joined = np.array("2015-01-01", dtype="datetime64[D]") + (500 + 400 * group).astype(int)
    joined = joined + rng.integers(0, 200, n)
    columns = {
        "age": age.astype(object),
        "income": income.astype(object),
        "children": children.astype(object),
        "town": town.astype(object),
        "smokes": smokes.astype(object),
        "joined": np.array([str(day) for day in joined], dtype=object),
        "country": np.array(["UK"] * n, dtype=object),
        "id": np.array([f"p{i:05d}" for i in range(n)], dtype=object),
    }
    if holes:
        columns["income"][(rng.random(n) < 0.5) & (group == 1)] = None
        columns["age"][rng.random(n) < 0.1] = None
    kinds = {"children": "count", "town": "categorical", "age": "count"}
    return Data.from_frame(columns, protocol=protocol, kinds=kinds)


def fit_columns(data, components=2):
    family = Columns(columns=expr.build(data.family, registered()).keywords["columns"])
    return fit_model(lt.mixture(data.shape, components=components, family=family), data)


def make_subject(model, data):
    return Subject(model, data, "m", 0, 0, latent_layers(model, data), None)


@pytest.fixture(scope="session")
def mixed():
    """Fits a mixture to the columns of a table, exact and quick."""
    return fit_columns


@pytest.fixture(scope="session")
def subject():
    """A model with rows of a table, as the sections read them."""
    return make_subject


@pytest.fixture(scope="session")
def people():
    """Makes a small table of people, with holes that go with other columns."""
    return make_people


@pytest.fixture(scope="session")
def fitted():
    """Fits a model and keeps it as a file would."""
    return fit_model


@pytest.fixture(scope="session")
def entry():
    """A fitted model with its evidence."""
    return make_entry


@pytest.fixture(scope="session")
def page():
    """Writes a report, checks what holds of every page, and gives its source and its parts."""
    return make_page


@pytest.fixture(scope="session")
def digits():
    train, test = lt.data.load("digits/train").rows(slice(0, 300)), lt.data.load("digits/test")
    test = test.rows(slice(0, 40))
    likelihood, net = partial(DiscretizedLogistic, levels=17), partial(MLP, hidden=(32,))
    vae = partial(lt.vae, train.shape, latents=4, likelihood=likelihood, net=net)
    iwae = Variational(IWAE(), samples=3)
    models = {
        "vae": fit_model(vae(), train, validation=train.rows(slice(0, 50)), epochs=3),
        "vamp": fit_model(vae(prior=VampPrior), train, objective=iwae, epochs=2),
        "fa": fit_model(lt.fa(train.shape, latents=4, levels=17), train),
        "ppca": fit_model(lt.ppca(train.shape, latents=4, levels=17), train),
        "density": fit_model(lt.fa(train.shape, latents=4), train),
    }
    return test, [make_entry(name, saved, test) for name, saved in models.items()]


@pytest.fixture(scope="session")
def table():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, generator=generator) @ torch.randn(20, 20, generator=generator)
    data = Data.from_array(x, protocol="table")
    holed = Data.from_array(x.masked_fill(x > 5, math.nan), protocol="holes")
    vae = fit_model(lt.vae((20,), latents=2, likelihood=Normal), data, epochs=2)
    return data, holed, [vae, fit_model(lt.fa((20,), latents=2), data)]
