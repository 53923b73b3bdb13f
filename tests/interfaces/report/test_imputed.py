"""Imputations of a report: which holes, what is shown of them, and whether coverage is right."""

import math
import re
from functools import partial

import pytest
import torch

import latently as lt
from latently.data import Data
from latently.data.masks import MCAR, Box, Half
from latently.errors import UserError
from latently.interfaces.report.frame import Frame
from latently.interfaces.report.imputed import filled, holes
from latently.interfaces.report.latents import latent_layers
from latently.interfaces.report.subject import Subject
from latently.probability.families import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Normal,
)


def subject(model, data):
    return Subject(model, data, "m", 0, 0, latent_layers(model, data), Frame.of(data))


def table(n=400, width=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=generator) @ torch.randn(2, width, generator=generator)
    return Data.from_array(x + 0.5 * torch.randn(n, width, generator=generator), protocol="t")


@pytest.fixture(scope="module")
def digits():
    return lt.data.load("digits/test").rows(slice(0, 30))


def test_complete_images_lose_their_lower_half(digits):
    made = holes(digits, None, 0)
    assert made.mask == str(Half("lower"))
    assert len(made.rows) == 6
    assert made.data.mask[..., :4, :].all()
    assert not made.data.mask[..., 4:, :].any()
    assert torch.equal(made.truth.x, digits.x[made.rows])
    assert torch.equal(holes(digits, None, 0).rows, made.rows)
    assert not torch.equal(holes(digits, None, 1).rows, made.rows)


def test_rows_with_holes_of_their_own_are_found():
    x = table().x.clone()
    x[5, 2] = x[9, :3] = math.nan
    x[11] = math.nan  # nothing is known of it
    made = holes(Data.from_array(x), None, 0)
    assert made.rows.tolist() == [5, 9]
    assert made.truth is None
    assert made.mask == ""
    asked = holes(Data.from_array(x), MCAR(0.5), 0)
    assert asked.mask == str(MCAR(0.5))
    assert not asked.data.mask[(asked.rows == 9).nonzero()[:, 0], :3].any()


def test_nothing_to_hide_and_masks_that_do_not_fit(digits):
    assert holes(Data.from_array(torch.randn(9, 1)), None, 0) is None
    with pytest.raises(UserError, match="Half"):
        holes(table(), Half("lower"), 0)


@pytest.mark.slow
def test_the_coverage_of_the_right_model_is_ninety_percent():
    data = table()
    model = lt.fa(data.shape, latents=2)
    lt.fit(model, data, progress=False)
    made = holes(data, MCAR(0.3), 0)
    found = filled(subject(model, data), made)
    assert found.count == int((~made.data.mask).sum()) > 300
    assert found.inside / found.count == pytest.approx(0.9, abs=0.04)
    assert found.samples == 0
    assert len(found.figures) == 6
    d = re.findall(r'd="(M[^"]*h0)"', found.figures[0])[-1]
    assert d.count("M") == min(60, int((~made.data.mask[:, 0]).sum()))


def test_missing_cells_are_listed_with_what_the_model_knows():
    x = table().x.masked_fill(torch.rand(400, 6, generator=torch.manual_seed(0)) < 0.1, math.nan)
    data = Data.from_array(x)
    model = lt.fa(data.shape, latents=2)
    lt.fit(model, data, progress=False, steps=20)
    found = filled(subject(model, data), holes(data, None, 0))
    assert len(found.cells) == 12
    assert len({cell.row for cell in found.cells}) == 12  # one of each row
    for cell in found.cells:
        column = int(cell.column.removeprefix("x"))
        assert x[cell.row, column].isnan()
        with torch.no_grad():
            p = model.predictive(data.x[[cell.row]], data.mask[[cell.row]])
        mean, deviation = p.mean[0, column], p.variance[0, column].sqrt()
        shown = [float(t.replace("−", "-")) for t in (cell.low, cell.value, cell.high)]
        ends = [float(mean + t * deviation) for t in (-1.6449, 0, 1.6449)]
        assert shown == pytest.approx(ends, rel=0.01, abs=0.01)


@pytest.mark.parametrize(
    "family", ["Bernoulli", pytest.param("Categorical", marks=pytest.mark.slow)]
)
def test_names_have_a_likeliest_value_and_no_interval(family, fitted, entry, page, tmp_path):
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 2 if family == "Bernoulli" else 3, (60, 1), generator=generator)
    x = first.expand(60, 5).float().clone()  # every column says the same
    x[::10, 0] = 0
    likelihood = Bernoulli if family == "Bernoulli" else partial(Categorical, levels=3)
    data = Data.from_array(x, protocol="names")
    saved = fitted(lt.vae((5,), latents=2, likelihood=likelihood), data, epochs=30, batch_size=10)
    found = filled(subject(saved.model, data), holes(data, None, 0))
    assert found.figures == ()
    assert found.likeliest > 0.75 * found.count
    _, told = page(tmp_path / "x.html", [entry("m", saved, data)], data)
    text = " ".join("".join(told.text).split())
    assert "hold the value that is likeliest" in text
    assert "90 % interval" not in text.replace("\xa0", " ")
    holed = Data.from_array(x.masked_fill(torch.eye(5).repeat(12, 1).bool(), math.nan))
    cells = filled(subject(saved.model, holed), holes(holed, None, 0)).cells
    assert len(cells) == 12
    assert all(cell.low == "" and cell.value in "012" for cell in cells)


@pytest.mark.slow
def test_strips_show_what_was_seen_and_what_was_not(digits):
    strips = []

    class Noting(Frame):
        def strip(self, groups, alt, **options):
            strips.append(groups)
            return super().strip(groups, alt, **options)

    model = lt.vae(digits.shape, latents=2, likelihood=partial(DiscretizedLogistic, levels=17))
    at = Subject(model.eval(), digits, "m", 0, 0, [], Noting(digits.shape, 0.0, 16.0))
    made = holes(digits, Box(0.25), 0)
    found = filled(at, made)
    assert [name for _, name in found.heads] == [
        *("data", "seen", "draw 1", "2", "3", "4", "mean", "spread")
    ]
    for i, (first, draws, mean, spread) in enumerate(strips):
        mask = made.data.mask[i]
        assert torch.equal(first[0].float(), made.truth.x[i])
        assert torch.equal(first[1].isnan(), ~mask)
        for image in (*draws, *mean):
            assert torch.equal(image[mask].float(), made.truth.x[i][mask])
        assert torch.equal(spread[0].isnan(), mask)
        assert spread[0][~mask].max() <= 16
    assert max(s[3].nan_to_num(0).max() for s in strips) == 16


@pytest.mark.long
def test_a_page_tells_known_holes_from_unknown_ones(digits, fitted, entry, page, tmp_path):
    complete = table(30)
    holed = Data.from_array(complete.x.masked_fill(complete.x > 1.5, math.nan), protocol="holes")
    images = Data.from_array(digits.x.masked_fill(digits.x == 7, math.nan), levels=17)
    for data, words in (
        (complete, "hidden cells lie in their 90"),
        (holed, "nobody knows what stood there"),
        (digits, "cells were hidden by Half(side='lower') with seed 0"),
        (images, "nobody knows what stood there"),
    ):
        likelihood = Normal if data.levels is None else partial(DiscretizedLogistic, levels=17)
        saved = [
            fitted(lt.vae(data.shape, latents=2, likelihood=likelihood), data, epochs=1),
            fitted(lt.fa(data.shape, latents=2), data, steps=3),
        ]
        entries = [entry(name, it, data) for name, it in zip("ab", saved, strict=True)]
        _, found = page(tmp_path / "x.html", entries, data)
        text = " ".join("".join(found.text).split())
        assert words in text, words
        assert "nan" not in text
        assert "raise --samples" not in text.split("Imputations")[-1].split("Strangest")[0]
    _, found = page(tmp_path / "x.html", entries, images, mask=Box(0.5))
    assert "Box(share=0.5)" in "".join(found.text)


@pytest.mark.slow
def test_a_column_alone_has_nothing_to_impute(fitted, entry, page, tmp_path):
    data = Data.from_array(torch.randn(20, 1), protocol="column")
    saved = fitted(lt.vae((1,), latents=1, likelihood=Normal), data, epochs=1)
    _, found = page(tmp_path / "x.html", [entry("m", saved, data)], data)
    assert not {"imputations", "plane", "traversals", "interpolations"} & set(found.ids)
