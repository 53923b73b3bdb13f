import math

import numpy as np
import pytest
import torch
from PIL import Image

from latently.data import Data
from latently.errors import UserError
from latently.interfaces.pictures import (
    grid,
    is_image_shape,
    pairs,
    reduced,
    reduction,
    save_png,
    strip,
    value_range,
)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 8, 8), (2, 3)])
def test_image_shapes(shape):
    assert is_image_shape(shape)


@pytest.mark.parametrize("shape", [(), (4,), (1, 8), (8, 1), (2, 8, 8), (1, 1, 8, 8), (3, 1, 5)])
def test_other_shapes(shape):
    assert not is_image_shape(shape)


@pytest.mark.parametrize("lead", [(), (1,), (3,)])
def test_every_value_is_a_square_of_its_shade(lead):
    x = torch.arange(6 * 4 * 5).view(6, 4, 5).double()
    images = x if not lead else x[:, None].expand(6, *lead, 4, 5)
    made = np.asarray(grid(images, low=0, high=119, columns=3, scale=2, separator=1))
    assert made.shape == (2 * (2 * 5 - 1), 2 * (3 * 6 - 1), 4 if lead == (3,) else 2)
    shades = np.rint(255 * x.numpy() / 119)
    for i in range(6):
        top, left = 10 * (i // 3), 12 * (i % 3)
        cell = made[top : top + 8, left : left + 10]
        assert (cell[..., -1] == 255).all()
        for channel in range(cell.shape[-1] - 1):
            squares = shades[i].repeat(2, 0).repeat(2, 1)
            assert (cell[..., channel] == squares).all()


def test_gaps_and_missing_values_are_transparent():
    x = torch.zeros(3, 2, 2)
    x[0, 0, 1] = math.nan
    opacity = np.asarray(grid(x, low=0, high=1, columns=2, scale=1))[..., -1]
    assert opacity.shape == (5, 5)
    assert opacity[0].tolist() == [255, 0, 0, 255, 255]  # value, missing, gap, values
    assert (opacity[2] == 0).all()
    assert (opacity[3:, 2:] == 0).all()  # there is no fourth image


def test_values_outside_the_range_are_black_and_white():
    x = torch.tensor([[[-5.0, 0.0], [2.0, 9.0]]])
    assert np.asarray(grid(x, low=0, high=2, scale=1))[..., 0].tolist() == [[0, 0], [255, 255]]


def test_pairs_stand_one_above_the_other():
    x = torch.zeros(2, 1, 3, 3)
    made = np.asarray(pairs(x, x + 1, low=0, high=1, columns=2, scale=1, separator=1))
    assert made.shape == (7, 9, 2)
    assert (made[:3, :3, 0] == 0).all()
    assert (made[4:, :3, 0] == 255).all()
    assert (made[3, :, 1] == 0).all()
    assert (made[:, 3:6, 1] == 0).all()


def test_a_strip_has_wider_gaps_between_its_groups():
    x = torch.ones(3, 3, 2, 2)
    made = np.asarray(strip([x[:1], x[1:]], low=0, high=1, scale=1, separator=1))
    assert made.shape == (2, 2 + 3 + 2 + 1 + 2, 4)
    assert made[0, :, -1].tolist() == [255, 255, 0, 0, 0, 255, 255, 0, 255, 255]


def test_a_reduced_image_holds_the_means_of_blocks():
    x = torch.rand(2, 3, 6, 9, dtype=torch.float64)
    blocks = x.unflatten(-1, (3, 3)).unflatten(-3, (2, 3)).mean((-3, -1))
    torch.testing.assert_close(reduced(x, 3), blocks)
    assert reduced(x, 1) is x


def test_reduction_leaves_out_the_edge_and_what_is_missing():
    x = torch.tensor([[[1.0, 3.0, 5.0], [math.nan, 5.0, math.nan], [7.0, 9.0, 4.0]]])
    small = reduced(x, 2)
    torch.testing.assert_close(small, torch.tensor([[[3.0, 5.0], [8.0, 4.0]]]), equal_nan=True)
    x[0, :2, 1] = math.nan  # now three of four are missing
    assert reduced(x, 2)[0, 0, 0].isnan()
    assert reduction((28, 28), 28) == 1
    assert reduction((3, 29, 5), 28) == 2
    assert reduction((2, 500), 28) == 1  # an image keeps two pixels a side


def test_scale_fills_a_page_by_whole_factors():
    assert grid(torch.zeros(64, 8, 8), low=0, high=1, columns=8).size == (71 * 10, 71 * 10)
    assert grid(torch.zeros(1, 900, 900), low=0, high=1).size == (900, 900)
    assert grid(torch.zeros(1, 2, 2), low=0, high=1).size == (32, 32)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (torch.zeros(5, 4), {}, ["(4,)", "(H, W)", ".npz"]),
        (torch.zeros(5, 2, 8, 8), {}, ["(2, 8, 8)"]),
        (torch.zeros(0, 8, 8), {}, ["at least one"]),
        (torch.zeros(1, 8, 8), {"high": 0.0}, ["low must be below high"]),
        (torch.zeros(1, 8, 8), {"high": math.inf}, ["inf"]),
        (torch.zeros(1, 8, 8), {"columns": 0}, ["columns=0"]),
        (torch.zeros(1, 8, 8), {"scale": -1}, ["scale=-1"]),
    ],
)
def test_refusals_are_one_line(images, options, words):
    with pytest.raises(UserError) as caught:
        grid(images, **{"low": 0.0, "high": 1.0, **options})
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert all(word in message for word in words), message


def test_pairs_of_unlike_shapes_are_refused():
    with pytest.raises(UserError, match="one reconstruction for each"):
        pairs(torch.zeros(2, 4, 4), torch.zeros(3, 4, 4), low=0, high=1)


def test_strips_of_unlike_shapes_and_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"\(4, 4\) and \(5, 5\)"):
        strip([torch.zeros(1, 4, 4), torch.zeros(1, 5, 5)], low=0, high=1)
    with pytest.raises(UserError, match="at least one"):
        strip([], low=0, high=1)


def test_value_range():
    x = torch.tensor([[-3.0, 2.0], [0.0, 7.0]])
    assert value_range(Data(x, "Normal", "array")) == (-3.0, 7.0)
    assert value_range(Data(x, "Normal", "array", mask=x < 5)) == (-3.0, 2.0)
    assert value_range(Data(x.clamp(0, 1), "Bernoulli", "array", levels=2)) == (0.0, 1.0)
    assert value_range(Data(torch.ones(2, 2), "Normal", "array")) == (0.5, 1.5)
    assert value_range(Data(x, "Normal", "array", mask=torch.zeros(2, 2).bool())) == (0.0, 1.0)


def test_png_keeps_every_pixel(tmp_path):
    made = grid(torch.rand(4, 3, 5, 5), low=0, high=1)
    save_png(made, tmp_path / "deep" / "grid.png")
    with Image.open(tmp_path / "deep" / "grid.png") as read:
        assert (np.asarray(read) == np.asarray(made)).all()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["grid.png"]


def test_png_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_png(grid(torch.zeros(1, 2, 2), low=0, high=1), tmp_path / "file" / "grid.png")
