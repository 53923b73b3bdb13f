import json

import numpy as np
import pandas as pd
import pytest

from latently.data.tables import MISSING, Schema, as_frame
from latently.data.tables.column import Column
from latently.errors import UserError

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "age": RNG.poisson(40, 50),
        "height": RNG.normal(170, 9, 50).round(1),
        "sex": RNG.choice(["f", "m"], 50),
        "day": pd.date_range("2020-01-05", periods=50),
        "ok": RNG.random(50) < 0.5,
        "same": "x",
        "name": [f"name {k}" for k in range(50)],
        "city": RNG.choice(["Bonn", "Köln", "Rome"], 50),
    }
)


def test_json_is_the_schema_and_small_and_stable():
    schema = Schema.infer(as_frame(TABLE))
    content = schema.to_json()
    text = json.dumps(content)
    assert Schema.from_json(json.loads(text)) == schema
    assert json.dumps(Schema.infer(as_frame(TABLE)).to_json()) == text
    assert list(content) == ["version", "missing", "columns"]
    assert (
        content["columns"][2]
        == {
            "name": "sex",
            "kind": "binary",
            "likelihood": "Bernoulli",
            "categories": ["f", "m"],
            "dtype": "object",
        }
        or content["columns"][2]["dtype"] == "str"
    )  # pandas 3
    assert content["columns"][3]["low"] == "2020-01-05T00:00:00"


def test_what_is_left_out_is_the_usual():
    content = {
        "columns": [{"name": "a", "kind": "positive", "low": 0}, {"name": "b", "kind": "real"}]
    }
    schema = Schema.from_json(content)
    assert schema.missing == MISSING
    assert [c.likelihood for c in schema.columns] == ["Hurdle(family=LogNormal)", "Normal"]


def test_the_text_is_aligned_and_one_line_for_each_column():
    lines = str(Schema.infer(as_frame(TABLE))).splitlines()
    assert len(lines) == 1 + TABLE.shape[1]
    start = lines[0].index("likelihood")
    families = [line[start:].split("  ")[0].strip() for line in lines[1:]]
    assert families[2] == "Bernoulli"
    assert families[5] == "left out"
    assert lines[6].endswith("always x")
    wild = Schema((Column("a\nb" * 100, "real", "Normal", note="x\ny" * 90),))
    assert len(str(wild).splitlines()) == 2


def one(**fields):
    return {"columns": [{"name": "a", "kind": "real"} | fields]}


LEVELS = {"kind": "categorical", "categories": ["x", "y", "z"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a schema is an object with columns, not None"),
        ([], "not a list of 0"),
        ({3: 1}, "a schema has no field 3"),
        ({"columns": []}, "columns is a list of 0; write a list of 1 to 100,000"),
        ({"columns": {}}, "columns is a mapping of 0"),
        ({"columns": [3]}, "column 1 is 3; write an object"),
        ({"columns": [{}]}, "column 1: name is None; write a text"),
        ({"columns": [{"name": "a"}]}, "column 'a': kind is None"),
        ({"columns": [{"name": "", "kind": "real"}]}, "a column is called ''"),
        (one() | {"version": 2}, "schema of version 2; this latently reads version 1"),
        (one() | {"missing": "x"}, "missing is 'x'; write a list"),
        (one() | {"missing": [3]}, "missing: 3 is no short text"),
        (one(hi=1), "column 'a': no field 'hi'; did you mean high"),
        (one(kind="reel"), "kind is 'reel'; choose one of .*did you mean real"),
        (one(low="2020-01-31"), "low is '2020-01-31', and the kind is 'real'; write a number"),
        (one(kind="datetime", low="x"), "low is 'x'; write a date"),
        (one(low=float("inf")), "low is inf; a finite number"),
        (one(low=10**400), "low is 1000.*; a finite number"),
        (one(low=True), "low is True; a number"),
        (one(low=2, high=1), "low is 2; it lies above high, 1"),
        (one(decimals=-1), "decimals is -1; a whole number of 0 to 15"),
        (one(decimals=1.5), "decimals is 1.5"),
        (one(unit=[]), "unit is .*; choose one of second"),
        (one(missing=2), "missing is 2; a share of 0 to 1"),
        (one(missing=None), "missing is None; a number"),
        (one(other=3), "other is 3; true or false"),
        (one(na_values="0"), "column 'a': na_values is '0'; write a list of texts"),
        (one(na_values=[0]), r"na_values is \(0,\); a list of at most 1,000 short texts"),
        (one(dtype=3), "dtype is 3; text"),
        (one(note="x" * 10**6), "note is 'x+'...; text of at most 500"),
        (one(likelihood=5), "likelihood is 5; write a family"),
        (one(likelihood="__import__('os')"), "write a family of one column"),
        (one(likelihood="Bernoulli"), "the kind is real, it is for kind binary; leave the field"),
        (one(kind="identifier", likelihood="Normal"), "a column of kind identifier has none"),
        (one(kind="binary"), "kind binary takes two values or more"),
        (one(kind="binary", categories=[1, 2, 3]), "kind binary takes two values, and no"),
        (one(kind="constant"), "a constant has one value"),
        (one(kind="constant", categories=[None]), "category None is no text"),
        (one(categories="ab"), "categories is 'ab'; write a list"),
        (one(**LEVELS | {"categories": [1, [2]]}), r"category \[2\] is no text"),
        (one(**LEVELS | {"categories": [1, True]}), "a value stands there twice"),
        (one(**LEVELS | {"categories": ["x", float("nan")]}), "category nan is no text"),
        (one(**LEVELS, likelihood="Categorical(levels=7)"), "the column has 3 levels"),
        (one(**LEVELS, likelihood="Categorical"), r"3 levels.*write Categorical\(levels=3\)"),
        (one(**LEVELS, likelihood="Ordinal"), r"write Ordinal\(levels=3\)"),
        ({"columns": [{"name": "a" * 501, "kind": "real"}]}, "1 to 500 characters; rename it"),
        (one() | {"columns": [{"name": "a", "kind": "real"}] * 2}, "two columns 'a'"),
    ],
    ids=range(47),
)
def test_every_field_is_checked_in_one_line(content, message):
    with pytest.raises(UserError, match=message) as caught:
        Schema.from_json(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
