"""Masks hide what they say, by their seed, and never a whole row."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from latently.data import Binarise, Data, masks
from latently.data.masks import MCAR, Box, Half, Sometimes

ALL = [Half("upper"), Half("lower"), Half("left"), Half("right"), Box(0.25), MCAR(0.5)]


@pytest.mark.parametrize("mask", ALL, ids=str)
@pytest.mark.parametrize("shape", [(6, 7), (1, 6, 7), (3, 6, 7)])
def test_a_mask_is_a_function_of_its_seed(mask, shape, untouched):
    with untouched():
        seen = mask(9, shape, seed=3)
    assert seen.shape == (9, *shape)
    assert seen.dtype is torch.bool
    assert torch.equal(seen, mask(9, shape, seed=3))
    assert isinstance(mask, Half) == torch.equal(seen, mask(9, shape, seed=4))
    assert not seen.all()
    assert seen.flatten(1).any(1).all()
    if len(shape) == 3:
        assert (seen == seen[:, :1]).all(), "holes go through the channels"
    assert mask(0, shape).shape == (0, *shape)


@pytest.mark.parametrize(
    ("side", "hidden"),
    [
        ("upper", np.s_[:2, :]),
        ("lower", np.s_[3:, :]),
        ("left", np.s_[:, :1]),
        ("right", np.s_[:, 2:]),
    ],
)
def test_half(side, hidden):
    expected = torch.ones(5, 3, dtype=torch.bool)
    expected[hidden] = False
    assert torch.equal(Half(side)(2, (5, 3))[1], expected)


def test_box_is_one_box_of_its_share_anywhere():
    holes = ~Box(0.25)(2000, (8, 12))
    rows, columns = holes.any(2), holes.any(1)
    assert (rows.sum(1) == 4).all()
    assert (columns.sum(1) == 6).all()
    assert torch.equal(holes, rows[:, :, None] & columns[:, None, :])
    first = rows.int().argmax(1)
    assert first.bincount().tolist() == pytest.approx([400] * 5, abs=100)
    assert len(columns.int().argmax(1).unique()) == 7
    # corners are as likely as they can be: every place, not only those near the middle
    assert holes[:, 0, 0].any()
    assert holes[:, 7, 11].any()


def test_mcar_hides_its_share():
    seen = MCAR(0.3)(1000, (10, 10))
    assert float((~seen).double().mean()) == pytest.approx(0.3, abs=0.01)
    table = MCAR(0.9)(4000, (4,))
    assert table.any(1).all()
    # a row with nothing left keeps one cell, any of them: 0.9^4 of the rows, a quarter each
    assert table.double().mean(0).tolist() == pytest.approx([0.1 + 0.9**4 / 4] * 4, abs=0.03)


@pytest.mark.parametrize("mask", [Half("lower"), Box(0.7), MCAR(0.9)], ids=str)
def test_gaps_of_the_rows_stay_and_no_row_is_lost(mask):
    own = torch.zeros(200, 3, 4, 4, dtype=torch.bool)
    own[:, 1, 3] = True  # observed in the last line only, which the lower half hides
    own[7] = False
    seen = mask(200, (3, 4, 4), seed=0, own=own)
    assert not (seen & ~own).any()
    assert seen.flatten(1).any(1).tolist() == [i != 7 for i in range(200)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Half("middle"), ["Half", "middle", "lower"]),
        (lambda: Half(None), ["Half"]),
        (lambda: Half("uper"), ["did you mean upper?"]),
        *((lambda s=s: Box(s), ["Box", "share"]) for s in (0, 1, -0.1, float("nan"), "a", True)),
        *((lambda s=s: MCAR(s), ["MCAR", "share"]) for s in (0, 1.0, 2, float("inf"), None)),
        (lambda: Half()(2, (5,)), ["Half", "no pictures", "1 axis", "MCAR"]),
        (lambda: Box()(2, (5,)), ["Box", "no pictures"]),
        (lambda: Box()(2, (2, 3, 4, 5)), ["4 axes"]),
        (lambda: Sometimes(share=1), ["Sometimes", "share=1"]),
        (lambda: Sometimes("Half"), ["Sometimes", "mask='Half'", "Half()"]),
        (lambda: Half("lower")(2, (1, 5)), ["1 x 5", "no such half"]),
        (lambda: Box(0.99)(2, (3, 3)), ["all of 3 x 3"]),
    ],
)
def test_nonsense_is_refused_in_one_line(make, words, refused):
    with refused(*words):
        make()


def test_sometimes_leaves_the_other_rows_alone():
    seen = Sometimes(Half("lower"), 0.3)(2000, (1, 4, 4), seed=5)
    touched = ~seen.flatten(1).all(1)
    assert abs(float(touched.float().mean()) - 0.3) < 0.05
    assert torch.equal(seen[touched], Half("lower")(int(touched.sum()), (1, 4, 4)))


def test_everything_public_is_listed():
    assert set(masks.__all__) == {"MCAR", "Box", "Half", "Mask", "Sometimes"}


@pytest.fixture
def grey():
    x = torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return Data(x, "Bernoulli", "fake/train", levels=2, redraw=Binarise())


def test_hidden_removes_cells_once():
    data = Data.from_array([[1.5, float("nan"), 3, 4]] * 50)
    part = data.hidden(MCAR(0.5), seed=2)
    assert not (part.mask & ~data.mask).any()
    assert (part.x == data.x * part.mask).all()
    assert part.missing > data.missing
    assert part.mask.any(1).all()
    assert part.digest() == data.hidden(MCAR(0.5), seed=2).digest()
    assert part.digest() != data.hidden(MCAR(0.5), seed=3).digest()


def test_holes_are_drawn_anew_by_batch_and_once_by_once(grey):
    data = replace(grey, hide=MCAR(0.5))
    assert not data.fully_observed
    torch.manual_seed(0)
    x, mask, _ = data.batch(slice(0, 64))
    again = data.batch(slice(0, 64))[1]
    assert not torch.equal(mask, again)
    assert (x[~mask] == 0).all()
    assert x[mask].any()
    torch.manual_seed(0)
    assert torch.equal(mask, data.batch(slice(0, 64))[1])
    fixed = data.once(seed=5)
    assert fixed.hide is None
    assert fixed.redraw is None
    assert fixed.digest() == data.once(seed=5).digest() != data.once(seed=6).digest()
    assert torch.equal(fixed.mask, grey.hidden(MCAR(0.5), seed=5).mask)
    assert data.missing == data.once().missing > 0
    assert data.digest() != grey.digest()


def test_holes_do_not_depend_on_the_values_drawn_beside_them(grey):
    data = replace(grey, x=torch.full((20_000, 1, 1, 2), 0.5), hide=MCAR(0.5)).once()
    full = replace(grey, x=torch.full((20_000, 1, 1, 2), 0.5)).once()
    assert float(full.x[data.mask].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(full.x[~data.mask].mean()) == pytest.approx(0.5, abs=0.02)


def test_rows_keep_the_rule(grey):
    data = replace(grey, hide=Half("left"))
    part = data.rows([4, 2]).to(dtype=torch.float64)
    assert part.hide == Half("left")
    assert not part.batch(slice(None))[1][..., :2].any()
    assert "missing" in repr(data)
