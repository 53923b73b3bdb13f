"""Constants, words and texts of unusual length come back as they were written."""

from dataclasses import replace

import numpy as np
import pytest

from latently.data.tables import Frame, Schema, as_frame

WORDS = ["Fin", "Inf", "Part"] * 10


def text(**columns):
    arrays = tuple(np.array(column, dtype=object) for column in columns.values())
    return Frame(tuple(columns), arrays, types=("text",) * len(columns))


@pytest.mark.parametrize(
    ("written", "other"),
    [("31.01.2020", "01.02.2020"), ("1.50", "1.51"), ("3,5", "3,6"), ("yes", "no"), ("7", "8")],
)
def test_a_constant_is_filled_in_as_it_is_written(written, other):
    x = [str(v) for v in np.random.default_rng(0).normal(size=30)]
    frame = text(x=x, c=["", *[written] * 29])
    schema = Schema.infer(frame)
    assert [c.kind for c in schema.columns] == ["real", "constant"]
    found = schema.encode(frame)
    assert found.notices == ()
    back = schema.decode(found.x, like=frame, kept=found.present)
    assert back["c"].tolist() == [written] * 30
    assert Schema.from_json(schema.to_json()) == schema
    (notice,) = schema.encode(text(x=x[:2], c=[written, other])).notices
    assert repr(written) in notice or written in notice


def test_constants_are_compared_by_their_value():
    x = [str(v) for v in np.random.default_rng(0).normal(size=30)]
    for one, same in (("1.50", "1.5"), ("2020-01-31", "2020-01-31T00:00:00")):
        schema = Schema.infer(text(x=x, c=[one] * 30))
        assert schema.encode(text(x=x[:2], c=[same, one])).notices == ()


def test_a_word_may_be_spelled_like_infinity():
    schema = Schema.infer(text(verb=WORDS))
    assert schema.columns[0].categories == ("Fin", "Inf", "Part")
    codes = Schema.infer(
        text(code=["12E400", "3E500", "7E999"] * 9), kinds={"code": "categorical"}
    )
    assert codes.columns[0].categories == ("12E400", "3E500", "7E999")
    x, mask, *_ = codes.encode(text(code=["7E999", "12E400"]))
    assert mask.all()
    assert x[:, 0].tolist() == [2, 0]


def test_what_is_put_at_an_end_and_what_is_pooled_is_counted():
    rng = np.random.default_rng(0)
    rare = ["a"] * 60 + ["b"] * 50 + ["c", "d", "e"]
    codes = ["101"] * 60 + ["102"] * 50 + ["7", "8", "9"]
    x = [f"{v:.1f}" for v in rng.normal(size=113)]
    schema = Schema.infer(text(x=x, name=rare, code=codes), kinds={"code": "categorical"})
    low, high = schema.columns[0].low, schema.columns[0].high
    rows = np.array([[low - 0.04, 0, 0], [high + 3, 2, 2], [low - 1, 2, 1]])
    pooled, numbers, beyond = schema.remarks(rows)
    assert "'name': 2 cells of 3" in pooled
    assert "read 'other'" in pooled
    assert "'code': 1 cell of 3" in numbers
    assert "read 7, the commonest" in numbers
    assert schema.decode(rows).columns[2].tolist() == ["101", "7", "102"]
    bare = replace(
        schema, columns=(*schema.columns[:2], replace(schema.columns[2], commonest=None))
    )
    assert "stay empty" in bare.remarks(rows)[1]
    assert bare.decode(rows).columns[2].tolist() == ["101", None, "102"]
    assert beyond.startswith("2 of 9 values lay beyond")
    assert "(2) in 'x'" in beyond
    kept = np.ones((3, 3), dtype=bool)
    assert schema.remarks(rows, kept) == ()
    assert schema.unbounded().remarks(rows[:, :])[2:] == ()


def test_texts_in_an_array_may_become_longer():
    rows = np.array([["-2.5", "a"], ["1.5", "b"], ["", "a"]] * 8)
    frame = as_frame(rows)
    schema = Schema.infer(frame, kinds={"column 1": "real"})
    found = schema.encode(frame)
    schema = schema.unbounded()
    x = np.where(found.mask, found.x, [-123456.7, 0])
    back = schema.decode(x, like=frame, kept=found.present).native
    assert back.dtype.kind == "U"
    assert back[2, 0] == "-123456.7"
    assert back[0].tolist() == ["-2.5", "a"]


@pytest.mark.parametrize("kind", ["binary", "ordinal", "categorical"])
@pytest.mark.parametrize("form", ["{:.1f}", "{:+d}", "{:.2e}"])
def test_levels_that_are_numbers_are_written_as_they_were(kind, form):
    rng = np.random.default_rng(0)
    values = rng.integers(1, 3 if kind == "binary" else 6, 90)
    written = [form.format(float(v) if "d" not in form else v) for v in values]
    schema = Schema.infer(text(level=written), kinds={"level": kind})
    x, mask, *_ = schema.encode(text(level=written))
    assert mask.all()
    assert schema.decode(x).columns[0].tolist() == written
    for same in (values.astype(float), np.array([str(v) for v in values], dtype=object)):
        again, there, *_ = schema.encode(Frame(("level",), (same,)))
        assert there.all()
        assert np.array_equal(again, x)
    assert Schema.from_json(schema.to_json()) == schema


def test_grades_that_do_not_occur_are_written_as_the_others():
    written = ["1.0", "2.0", "4.0", "5.0"] * 20
    schema = Schema.infer(text(grade=written), kinds={"grade": "ordinal"})
    assert schema.columns[0].categories == ("1.0", "2.0", "3.0", "4.0", "5.0")


def test_postal_codes_are_none_of_these():
    schema = Schema.infer(text(code=["02139", "2139", "10115"] * 20))
    assert schema.columns[0].categories == ("02139", "10115", "2139")
    x, mask, *_ = schema.encode(text(code=["2139", "02139"]))
    assert mask.all()
    assert x[:, 0].tolist() == [2, 0]


def test_objects_of_many_types_come_back_as_they_are():
    held = np.array([1, "a", 2.5, True, None] * 12, dtype=object)
    frame = Frame(("m",), (held,))
    schema = Schema.infer(frame)
    x, mask, *_ = schema.encode(frame)
    back = schema.decode(x, like=frame).columns[0]
    for old, new, there in zip(held, back, mask[:, 0], strict=True):
        assert not there or (type(new) is type(old) and new == old)
    filled = schema.decode(np.zeros_like(x), like=frame, kept=mask).columns[0]
    assert {type(value) for value in filled[4::5]} <= {int, str, float, bool}
