import numpy as np
import pytest

from latently.data.tables.numbers import decimals_of, number_text, parse_numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12),
        ("-3.50", -3.5),
        (".5", 0.5),
        ("5.", 5),
        ("1e-3", 1e-3),
        ("+7E2", 700),
        ("0", 0),
        ("0.25", 0.25),
        ("-0.5", -0.5),
        ("inf", np.inf),
        ("-Infinity", -np.inf),
    ],
)
def test_numbers_are_read_alone_and_among_words(text, number):
    np.testing.assert_array_equal(parse_numbers([text]).values, [number])
    np.testing.assert_array_equal(parse_numbers([text, "word"]).values, [number, np.nan])


@pytest.mark.parametrize(
    "text",
    ["1_000", "1,234", "1,5 kg", "$5", "0x1F", "nan", "--1", "1e", "1-2", "e5", "٣", "1 2", "."],
)
def test_what_python_or_a_reader_would_doubt_is_no_number(text):
    assert np.isnan(parse_numbers([text]).values).all()
    assert np.isnan(parse_numbers([text, "5"]).values[0])


def test_leading_zeros_make_codes_of_all_unless_numbers_are_known():
    assert np.isnan(parse_numbers(["10115", "01067"]).values).all()
    assert np.isnan(parse_numbers(["word", "10115", "01067"]).values).all()
    assert parse_numbers(["10115", "01067"], codes=False).values.tolist() == [10115, 1067]
    assert parse_numbers(["0", "0.5", "-0.5", "0e1"]).values.tolist() == [0, 0.5, -0.5, 0]


def test_commas_are_decimal_signs_where_they_cannot_be_thousands():
    assert parse_numbers(["1,5", "2,25", "3"]).values.tolist() == [1.5, 2.25, 3]
    assert np.isnan(parse_numbers(["1,234", "2,345"]).values).all()
    assert parse_numbers(["1,234"], comma=True).values.tolist() == [1.234]
    assert np.isnan(parse_numbers(["1,5", "2.5"]).values[0])


def test_many_numbers_are_those_of_python():
    numbers = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-20, 20).repeat(25)
    texts = [number_text(value) for value in numbers.tolist()]
    np.testing.assert_array_equal(parse_numbers(texts).values, numbers)
    np.testing.assert_array_equal(parse_numbers([*texts, "x"]).values[:-1], numbers)


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        ([1, 2], 0),
        ([0.5, 3], 1),
        ([0.1 + 0.2], None),
        ([1e-7], 7),
        ([1e14, 0.5], None),
        ([], None),
        ([123456.789], 3),
        ([-0.001, 5], 3),
    ],
)
def test_decimals_are_the_fewest_that_lose_nothing(values, decimals):
    assert decimals_of(np.array(values, dtype=float)) == decimals


def test_a_number_is_written_as_the_shortest_text():
    assert [number_text(v) for v in (1.0, -2.5, 1e22, 0.1)] == ["1", "-2.5", "1e+22", "0.1"]
    assert number_text(-0.0) == "0"
    assert number_text(0.5, comma=True) == "0,5"
