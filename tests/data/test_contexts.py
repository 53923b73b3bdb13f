"""A context means the same in training, validation and on the command line, or is refused."""

import json

import numpy as np
import pytest
import torch

from latently.data.contexts import Context

CLASSES = Context("label", classes=(-2, 0, 7))
NUMBERS = Context("pose", loc=(1.0, -3.5), scale=(2.0, 1e-3))


def test_integers_are_classes_and_all_else_numbers():
    assert Context.of("label", torch.tensor([7, 0, 7, -2])) == CLASSES
    assert Context.of("label", np.array([[True], [False]])).classes == (0, 1)
    assert Context.of("a", [0.0, 1.0]).classes == ()
    assert Context.of("a", [[0, 1], [2, 3]]).width == 2
    assert Context.of("a", range(1000)).width == 1000
    assert Context.of("a", range(1001)).width == 1


def test_one_hot():
    c = CLASSES.encode(np.array([7, -2, 7], dtype=np.int16))
    assert c.dtype is torch.float32
    assert c.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert torch.equal(CLASSES.encode([[0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))


def test_training_rows_are_standardised():
    values = np.random.default_rng(0).normal(5, 3, size=(100, 2))
    c = Context.of("pose", values).encode(values)
    assert torch.allclose(c.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(c.std(0, correction=0), torch.ones(2), atol=1e-6)
    # subtracted in float64: dates a second apart stay apart
    dates = 1.7e9 + np.arange(10.0)
    assert len(Context.of("date", dates).encode(dates).unique()) == 10


def test_a_constant_column_has_scale_one():
    for value in (0.1, 0.0, -1e9):
        constant = Context.of("a", np.full(7, value))
        assert constant.scale == (1.0,)
        assert constant.encode([value + 1]).item() == pytest.approx(1)


@pytest.mark.parametrize("context", [CLASSES, NUMBERS])
def test_schema_round_trip(context):
    assert Context.from_schema(json.loads(json.dumps(context.to_schema()))) == context


@pytest.mark.parametrize("value", [-2, 0, 7])
def test_show_is_the_inverse_of_parse_for_classes(value):
    row = CLASSES.parse(f" {value} ")
    assert row.shape == (1, 3)
    assert CLASSES.show(row) == CLASSES.show(row[0]) == str(value)


@pytest.mark.parametrize("text", ["0.5,2", "-1,-3.502", "100,0", "3,-3.5"])
def test_show_is_the_inverse_of_parse_for_numbers(text):
    row = NUMBERS.parse(text)
    assert row.shape == (1, 2)
    assert NUMBERS.show(row) == text
    assert torch.equal(NUMBERS.parse(NUMBERS.show(row)), row)


def test_show_refuses_another_width(refused):
    with refused("label", "2 values", "3"):
        CLASSES.show(torch.zeros(2))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 5], ["test rows", "label", "5", "row 1", "-2, 0, 7"]),
        ([0.5], ["0.5", "row 0"]),
        ([8], ["8", "row 0"]),
        ([[0, 7]], ["2 columns", "had 1"]),
        ([0.0, float("nan")], ["nan", "row 1"]),
        ([float("inf")], ["inf", "row 0"]),
        (["a"], ["not numbers"]),
        (np.array(["a\nb"]), ["not numbers"]),
        ([[1], [1, 2]], ["test rows"]),
        ([], ["shape (0,)"]),
        (3, ["shape ()"]),
    ],
)
def test_encode_refuses_in_one_line(values, words, refused):
    with refused(*words):
        CLASSES.encode(values, "test rows")


def test_numbers_refuse(refused):
    with refused("1 column,", "had 2"):
        NUMBERS.encode([1.0])
    with refused("1e+200", "row 1", "column 0"):
        NUMBERS.encode([[0, 0], [1e200, 0]])
    with refused("finite"):
        Context.of("a", [1e308, -1e308])


@pytest.mark.parametrize("text", ["", "seven", "0,7", "7.5", "nan", "3", "1e999", "7,"])
def test_parse_refuses_in_one_line(text, refused):
    with refused("label"):
        CLASSES.parse(text)


def test_parse_says_how_many_numbers(refused):
    with refused("pose", "had 2"):
        NUMBERS.parse("1")
    with refused("pose", "2 numbers"):
        NUMBERS.parse("1;2")


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {},
        {"name": "a"},
        {"name": 3, "classes": [1]},
        {"name": "a\nb", "classes": [1]},
        {"name": "a" * 101, "classes": [1]},
        {"name": "a", "classes": [1, 1]},
        {"name": "a", "classes": [2, 1]},
        {"name": "a", "classes": [True]},
        {"name": "a", "classes": [1.5]},
        {"name": "a", "classes": ["1"]},
        {"name": "a", "classes": "123"},
        {"name": "a", "classes": [2**60]},
        {"name": "a", "classes": list(range(1001))},
        {"name": "a", "classes": [1], "loc": [0.0], "scale": [1.0]},
        {"name": "a", "loc": [0.0]},
        {"name": "a", "loc": [0.0], "scale": [0.0]},
        {"name": "a", "loc": [0.0], "scale": [-1]},
        {"name": "a", "loc": [float("nan")], "scale": [1.0]},
        {"name": "a", "loc": [10**400], "scale": [1.0]},
        {"name": "a", "loc": [None], "scale": [1.0]},
        {"name": "a", "loc": [0.0] * 20_000, "scale": [1.0] * 20_000},
        {"name": "a", "classes": [1], "code": "import os"},
    ],
)
def test_a_hostile_schema_is_refused_in_one_line(schema, refused):
    with refused("context"):
        Context.from_schema(schema)
