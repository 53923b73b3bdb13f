"""The drawn set: every factor changes what it says and nothing else; no picture comes twice."""

import numpy as np
import pytest
import torch

from latently.data import factors, load

SPLITS = ("train", "validation", "test", "train+val")
EVERY = factors.values(torch.arange(2304))


@pytest.fixture(scope="module")
def pictures():
    return np.stack([factors.draw(row) for row in EVERY.tolist()])


def box(picture):
    """First and last row, first and last column of what is drawn."""
    down, right = picture.nonzero()
    return down.min(), down.max(), right.min(), right.max()


def test_every_combination_is_a_picture_of_its_own(pictures):
    assert pictures.shape == (2304, 16, 16)
    assert set(np.unique(pictures)) == {0.0, 1.0}
    assert len({picture.tobytes() for picture in pictures}) == 2304


def test_labels_are_the_combination_in_mixed_radix(refused):
    weight = torch.tensor([3 * 4 * 64, 4 * 64, 64, 8, 1])
    assert ((EVERY * weight).sum(1) == torch.arange(2304)).all()
    assert (EVERY.amax(0) + 1).tolist() == list(factors.SIZES)
    assert len(factors.SHAPES) == factors.SIZES[0]
    with refused("2304", "0 to 2303"):
        factors.values([3, 2304])


@pytest.mark.parametrize(("name", "axis"), [("x", 1), ("y", 0)])
def test_position_moves_the_shape_and_nothing_else(pictures, name, axis):
    at = factors.NAMES.index(name)
    for start in EVERY[EVERY[:, at] == 0][::7]:
        first = factors.draw(start.tolist())
        for step in (1, 7):
            moved = start.clone()
            moved[at] = step
            assert np.array_equal(factors.draw(moved.tolist()), np.roll(first, step, axis))


def test_size_is_the_width_and_keeps_the_centre():
    for row in EVERY[::11].tolist():
        top, bottom, left, right = box(factors.draw(row))
        assert bottom - top == right - left == 2 * (row[1] + 2)
        assert (left + right, top + bottom) == (2 * (4 + row[3]), 2 * (4 + row[4]))


def test_turn_is_a_quarter_turn_about_the_centre():
    for row in EVERY[EVERY[:, 2] == 0][::5].tolist():
        top, bottom, left, right = box(factors.draw(row))
        upright = factors.draw(row)[top : bottom + 1, left : right + 1]
        for turn in range(4):
            row[2] = turn
            turned = factors.draw(row)[top : bottom + 1, left : right + 1]
            assert np.array_equal(turned, np.rot90(upright, turn))


def test_shapes_are_what_they_are_called():
    """Of a triangle rows widen downwards, a T is widest at the top, an L has its corner below."""

    def rows(shape):
        return factors.draw([shape, 2, 0, 0, 0])[:9, :9].sum(1)

    assert (np.diff(rows(0)) >= 0).all()
    assert rows(0)[0] == 1
    assert rows(1)[0] == 9 > rows(1)[-1] > 0
    assert rows(2)[-1] == 9 > rows(2)[0] > 0


def test_splits_share_no_row_and_leave_none_out():
    parts = {split: load(f"factors/{split}") for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [1612, 230, 462, 1842]
    labels = {split: set(part.labels.tolist()) for split, part in parts.items()}
    assert labels["train"] | labels["validation"] == labels["train+val"]
    assert labels["train+val"] | labels["test"] == set(range(2304))
    assert sum(len(labels[split]) for split in SPLITS[:3]) == 2304


def test_rows_belong_to_their_labels():
    data = load("factors/test")
    assert (data.shape, data.levels, data.family) == ((1, 16, 16), 2, "Bernoulli")
    for x, row in list(zip(data.x, factors.values(data.labels).tolist(), strict=True))[::50]:
        assert np.array_equal(x[0].numpy(), factors.draw(row))


@pytest.mark.parametrize("name", factors.NAMES)
def test_every_factor_is_a_context(name):
    data = load("factors/validation", context=name)
    found = data.context.argmax(1)
    assert torch.equal(found, factors.values(data.labels)[:, factors.NAMES.index(name)])
