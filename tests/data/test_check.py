"""Every array is numbers, finite, of a known kind; what is not is named with its place."""

import numpy as np
import pytest
import torch

from latently.data import check
from latently.data.check import check_labels, family_for

NAN, INF = float("nan"), float("inf")
IMAGES = np.zeros((2, 3, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("x", "levels"),
    [
        (np.array([[True, False]]), 2),
        ([[0, 1], [1, 1]], 2),
        ([[0.0, 1.0], [NAN, 1.0]], 2),
        ([[0.0, 0.5]], None),
        ([[0.0, 2.0]], None),
        ([[-1, 2]], None),
        (IMAGES, 2),
        (IMAGES + np.uint8(7), 256),
        ([[0, 16]], 17),
        (np.array([[0, 9]], dtype=np.uint8), 10),
        ([[0, 65535]], 65536),
        ([[0, 65536]], None),
        ([[NAN, NAN]], None),
        (torch.tensor([[0, 4]]), 5),
        (torch.tensor([[0.5]], dtype=torch.bfloat16), None),
    ],
)
def test_kind_is_read_off_dtype_and_values(x, levels):
    assert check(x).levels == levels


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (np.zeros((1, 1)), torch.float64),
        (np.zeros((1, 1), dtype=np.float32), torch.float32),
        (np.zeros((1, 1), dtype=np.float16), torch.float32),
        (np.zeros((1, 1), dtype=">f8"), torch.float64),
        (np.zeros((1, 1), dtype=np.int64), torch.float32),
        (np.array([[2**24]]), torch.float32),
        (np.array([[2**24 + 1]]), torch.float64),
        (np.array([[-(2**63)]]), torch.float64),
        (torch.zeros(1, 1, dtype=torch.float64, requires_grad=True), torch.float64),
    ],
)
def test_precision_is_kept(x, dtype):
    found = check(x).x
    assert found.dtype is dtype
    assert not found.requires_grad
    assert found.tolist() == np.asarray(x.detach() if torch.is_tensor(x) else x).tolist()


def test_nan_becomes_a_mask_and_zero():
    x = np.array([[1.5, NAN], [NAN, 2.5]], order="F")
    found = check(x)
    assert found.mask is not None
    assert found.mask.tolist() == [[True, False], [False, True]]
    assert found.x.tolist() == [[1.5, 0.0], [0.0, 2.5]]
    assert np.isnan(x).sum() == 2, "the caller's array is left alone"


def test_the_result_never_shares_memory_with_the_input():
    x = np.ones((2, 2), dtype=np.float32)
    check(x).x.zero_()
    assert x.sum() == 4


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([], ["empty"]),
        (np.zeros((0, 3)), ["empty", "(0, 3)"]),
        (np.zeros((3, 0)), ["no features"]),
        (5.0, ["no axis of features"]),
        (np.zeros(3), ["reshape(-1, 1)", "(3,)"]),
        ([[1.0, 2.0], [3.0]], ["same length"]),
        ([[1.0, INF]], ["inf", "row 0, column 1"]),
        ([[1.0], [-INF]], ["-inf", "row 1, column 0"]),
        (np.full((1, 2, 2), INF), ["row 0, position (0, 0)"]),
        ([["a", "b"]], ["text"]),
        ([[b"a"]], ["text"]),
        ([[None, 1.0]], ["Python objects", "astype(float)"]),
        ([[1j]], ["complex"]),
        (np.array([["2020-01-01"]], dtype="M8[D]"), ["dates"]),
        (np.zeros((2, 1), dtype=[("a", "f4")]), ["records"]),
        (np.ma.masked_array([[1.0, 2.0]], [[True, False]]), ["masked", "filled"]),
        (torch.eye(3).to_sparse(), ["to_dense"]),
        (torch.zeros(1, 1, dtype=torch.complex64), ["complex"]),
    ],
)
def test_bad_arrays_are_refused_in_one_line(x, words, refused):
    with refused("mine", *words):
        check(x, where="mine")


@pytest.mark.parametrize(
    ("x", "levels", "words"),
    [
        ([[0, 1], [2, 17]], 17, ["17", "row 1, column 1", "0..16"]),
        ([[0.0, 1.5]], 17, ["1.5", "column 1"]),
        ([[-1]], 17, ["-1"]),
        ([[0, 1]], 1, ["levels=1"]),
        ([[0, 1]], True, ["levels=True"]),
        ([[0, 1]], 2.0, ["levels=2.0"]),
    ],
)
def test_levels_must_hold_the_data(x, levels, words, refused):
    with refused(*words):
        check(x, levels=levels)


def test_given_levels_ignore_missing_cells():
    assert check([[0.0, NAN, 16.0]], levels=17).levels == 17


def test_missing_can_be_refused(refused):
    with refused("2 values", "row 0, column 1"):
        check([[0.5, NAN, NAN]], missing="refuse")
    with refused("'never'"):
        check([[0.5]], missing="never")


def test_labels(refused):
    assert check_labels([1.0, 2.0], 2).dtype is torch.int64
    assert check_labels(torch.tensor([True, False]), 2).tolist() == [1, 0]
    for y, word in (([1], "one label per row"), ([0.5, 1], "whole"), (["a", "b"], "whole")):
        with refused(word):
            check_labels(y, 2)
    with refused("whole"):
        check_labels([INF, 1.0], 2)
    assert check_labels([NAN, 3.0], 2).tolist() == [-1, 3]


def test_family_for():
    assert [family_for(n) for n in (None, 2, 3)] == [
        "Normal",
        "Bernoulli",
        "DiscretizedLogistic(levels=3)",
    ]


def test_the_family_of_16_bit_data_holds_them():
    from latently.probability.families import DiscretizedLogistic

    family = DiscretizedLogistic((1,), levels=check([[0, 65535]]).levels)
    x = torch.arange(65536.0)[:, None]
    for h in ([0.3, -3.0], [0.0, -12.0], [0.9, 3.0]):
        assert family(torch.tensor(h)).log_prob(x).double().exp().sum() == pytest.approx(1)
