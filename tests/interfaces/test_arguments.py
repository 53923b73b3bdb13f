"""Words of the command line as numbers: exact where they are some, one line where they are not."""

import pytest
import typer

from latently.interfaces.arguments import number, seed_number, whole


def test_numbers_are_read_exactly():
    assert whole("12345678901234567890") == 12345678901234567890
    assert number("1e-3") == 0.001
    assert seed_number(str(2**63 - 1)) == 2**63 - 1


@pytest.mark.parametrize(
    ("read", "word", "said"),
    [
        (whole, "2.0", "'2.0' is not a whole number"),
        (number, "two", "'two' is not a number"),
        (seed_number, "seven", "'seven' is not a whole number"),
        (seed_number, "-1", "-1 is not from 0 to 2^63 - 1"),
        (seed_number, str(2**63), "is not from 0 to 2^63 - 1"),
    ],
)
def test_other_words_are_named(read, word, said):
    with pytest.raises(typer.BadParameter) as refused:
        read(word)
    assert said in refused.value.message
    assert len(refused.value.message.splitlines()) == 1
