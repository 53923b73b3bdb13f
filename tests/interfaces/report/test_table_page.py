"""The page of a table: its sections, and nothing in it that the table does not have."""

from dataclasses import replace

import numpy as np
import pytest

import latently as lt
from latently import expr
from latently.data import Data
from latently.interfaces.report import marginals, predictive
from latently.registry import components

SECTIONS = ["columns", "missing", "marginals", "predictive", "rows"]


def text_of(found):
    return " ".join("".join(found.text).split()).replace("\xa0", " ")


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """Pages are held to their words here; what is measured of rows is tested by section."""
    monkeypatch.setattr(predictive, "_ROWS", 40)
    monkeypatch.setattr(marginals, "_ROWS", 40)


@pytest.mark.slow
def test_a_table_with_holes_has_all_sections(people, mixed, entry, page, tmp_path):
    data = people(120)
    source, found = page(tmp_path / "x.html", [entry("mixture", mixed(data), data)], data)
    assert [i for i in found.ids if i in SECTIONS] == SECTIONS
    assert "errors" not in found.ids  # squared errors of unlike columns say nothing
    text = text_of(found)
    for words in (
        "120 of 6 columns",
        "2 more left out",
        "6 of 8 columns are modelled",
        "UK alone",
        "in the columns of numbers and probabilities in those of counts",
        "income is missing more often where",
        "not missing completely at random",
        "hidden by MCAR(share=0.2)",
        "exact distributions",
        "Strangest: lowest log p(x) first",
        "Of names the likeliest with its probability",
    ):
        assert words in text, words
    assert "x0" not in text
    assert "nan" not in text
    assert "Rows that a model was fitted to" in text
    assert len(source) < 400_000


@pytest.mark.slow
def test_a_complete_table_says_nothing_of_holes(people, mixed, entry, page, tmp_path):
    data = people(120, holes=False)
    rows = replace(people(80, seed=1, holes=False), table=data.table, protocol="others/test")
    saved = mixed(data)
    _, found = page(tmp_path / "x.html", [entry("m", saved, rows)], rows)
    assert not {"missing", "imputations"} & set(found.ids)
    assert {"columns", "marginals", "predictive", "rows"} <= set(found.ids)
    assert "Rows that a model was fitted to" not in text_of(found)


@pytest.mark.slow
def test_foreign_names_and_levels_stay_text(mixed, entry, page, tmp_path):
    evil = "<script>alert('$x_1$ & \"')</script>"
    rng = np.random.default_rng(0)
    level = np.array([evil, f"{evil} 2"], object)[rng.integers(0, 2, 80)]
    level[:9] = None
    frame = {evil: rng.normal(size=80), f"{evil} b": level}
    data = Data.from_frame(frame, protocol=evil)
    source, found = page(tmp_path / "x.html", [entry(evil, mixed(data), data)], data)
    assert "<script" not in source
    assert "".join(found.text).count(evil) > 6


@pytest.mark.slow
def test_models_of_numbers_and_rows_of_one_column(fitted, entry, page, tmp_path):
    rng = np.random.default_rng(0)
    numbers = {"a": rng.normal(size=60), "b": rng.normal(size=60), "c": rng.normal(size=60)}
    data = Data.from_frame(numbers, protocol="numbers")
    models = [fitted(lt.fa((3,), latents=1), data), fitted(lt.flow((3,)), data, steps=3)]
    entries = [entry(name, saved, data) for name, saved in zip("mn", models, strict=True)]
    _, found = page(tmp_path / "x.html", entries, data)
    assert set(SECTIONS) - {"missing"} <= set(found.ids)
    assert not {"missing", "imputations"} & set(found.ids)
    one = Data.from_frame({"a": numbers["a"]}, protocol="one")
    _, found = page(
        tmp_path / "y.html", [entry("m", fitted(lt.fa((1,), latents=1), one), one)], one
    )
    assert "predictive" not in found.ids
    assert "columns" in found.ids


@pytest.mark.slow
def test_a_plane_is_called_by_its_columns(fitted, entry, page, tmp_path):
    rng = np.random.default_rng(0)
    data = Data.from_frame({"north": rng.normal(size=60), "east": rng.normal(size=60)})
    saved = fitted(lt.ppca((2,), latents=1), data)
    source, found = page(tmp_path / "x.html", [entry("m", saved, data)], data)
    assert "per unit of north and of east" in text_of(found)
    assert ">x0<" not in source
    assert ">north<" in source


def test_autoencoders_of_a_table_are_judged_by_their_errors(fitted, page, tmp_path):
    from latently.interfaces.report import Entry

    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3)) @ rng.normal(size=(3, 3))
    data = Data.from_frame(dict(zip("abc", x.T, strict=True)), protocol="numbers")
    saved = fitted(lt.ae((3,), latents=1), data, objective=lt.training.Reconstruction(), epochs=1)
    _, found = page(tmp_path / "x.html", [Entry("ae", saved)], data)
    assert {"errors", "columns", "marginals", "rows"} <= set(found.ids)
    assert "predictive" not in found.ids


@pytest.mark.long
def test_two_deep_models_of_a_table(people, fitted, entry, page, tmp_path):
    data = people(120)
    likelihood = expr.build(data.family, components())
    made = [
        fitted(lt.table(data.shape, likelihood=likelihood, latents=k), data, epochs=2)
        for k in (1, 2)
    ]
    entries = [entry(f"model {k}", saved, data) for k, saved in enumerate(made)]
    _, found = page(tmp_path / "x.html", entries, data)
    text = text_of(found)
    assert set(SECTIONS) <= set(found.ids)
    assert "drawn by model 1" in text
    assert "weighted particles per row" in text
    assert "nan" not in text
