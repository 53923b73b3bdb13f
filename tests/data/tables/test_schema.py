import datetime as dt
import json
from dataclasses import replace
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from latently.data.tables import Column, Schema, as_frame
from latently.errors import UserError

N = 80
RNG = np.random.default_rng(0)


def holes(values):
    values = pd.Series(values)
    values[RNG.random(N) < 0.2] = None
    return values


TABLE = pd.DataFrame(
    {
        "whole": RNG.integers(0, 100, N),
        "small": RNG.normal(size=N).astype("float32"),
        "nullable": holes(pd.array(RNG.poisson(30, N), dtype="Int64")),
        "float_of_whole": holes(RNG.poisson(30, N).astype(float)),
        "object": holes(pd.Series(RNG.choice(["a", "b", "c"], N), dtype=object)),
        "string": holes(pd.Series(RNG.choice(["x", "y"], N), dtype="string")),
        "category": pd.Categorical(RNG.choice(["u", "v", "w"], N), ["w", "v", "u", "unused"]),
        "ordered": pd.Categorical(
            RNG.choice(["lo", "mid", "hi"], N), ["lo", "mid", "hi"], ordered=True
        ),
        "flag": RNG.random(N) < 0.5,
        "nullable_flag": holes(pd.array(RNG.random(N) < 0.5, dtype="boolean")),
        "day": holes(pd.Series(pd.date_range("2020-01-01", periods=N))),
        "zoned": pd.date_range("2020-03-20 12:00", periods=N, tz="Europe/Berlin"),
        "span": pd.to_timedelta(RNG.integers(1, 1000, N), unit="s"),
        "date": [dt.date(2020, 1, 1) + dt.timedelta(days=int(k)) for k in RNG.integers(0, 500, N)],
        "arrow": pd.array(RNG.integers(0, 100, N), dtype="int64[pyarrow]"),
        "positive": np.exp(RNG.normal(size=N)).round(3),
        "constant": 1.5,
        "nothing": np.nan,
        "name": [f"name {k}" for k in range(N)],
    }
).set_axis(pd.RangeIndex(100, 100 + N, name="key"))


def native(library):
    if library == "pandas":
        return TABLE
    table = pa.Table.from_pandas(TABLE, preserve_index=False)
    return pl.from_arrow(table) if library == "polars" else table


def columns_of(table):
    return table.column_names if isinstance(table, pa.Table) else list(table.columns)


def listed(table, name):
    column = table[name]
    values = column.to_pylist() if isinstance(table, pa.Table) else column.to_list()
    return [None if pd.isna(value) else value for value in values]


def types_of(table):
    return list(table.schema if isinstance(table, pa.Table) else table.dtypes)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_values_and_types_come_back_in_every_library(library):
    table = native(library)
    frame = as_frame(table)
    schema = Schema.infer(frame)
    x, mask, present, notices = schema.encode(frame)
    assert x.shape == mask.shape == (N, len(schema.modelled))
    assert (x[~mask] == 0).all()
    assert notices == ()
    np.testing.assert_array_equal(mask, present)
    # what is known comes back from the numbers alone, and verbatim where it is kept
    for back in (schema.decode(x, like=frame), schema.decode(x, like=frame, kept=mask)):
        assert type(back.native) is type(table)
        assert columns_of(back.native) == columns_of(table)
        assert types_of(back.native) == types_of(table)
        for name in columns_of(table):
            old, new = listed(table, name), listed(back.native, name)
            known = [value is not None for value in old]
            assert [v for v, k in zip(old, known, strict=True) if k] == [
                v for v, k in zip(new, known, strict=True) if k
            ], name
            assert name == "nothing" or None not in new, name


def test_the_index_of_pandas_stays_even_with_labels_twice():
    table = TABLE.copy()
    table.index = [5] * N
    frame = as_frame(table)
    schema = Schema.infer(frame)
    x, mask, *_ = schema.encode(frame)
    back = schema.decode(x, like=frame, kept=mask).native
    assert back.index.tolist() == [5] * N
    assert back["nullable"].notna().all()
    old = table["nullable"].to_numpy()
    known = mask[:, schema.names.index("nullable")]
    assert (back["nullable"].to_numpy()[known] == old[known]).all()


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_another_number_of_rows_takes_types_and_leaves_names_empty(library):
    frame = as_frame(native(library))
    schema = Schema.infer(frame)
    x = schema.encode(frame).x[:7]
    table = schema.decode(x, like=frame).native
    assert types_of(table) == types_of(native(library))
    assert listed(table, "name") == [None] * 7
    assert listed(table, "constant") == [1.5] * 7
    assert listed(table, "whole") == listed(native(library), "whole")[:7]


def test_without_a_table_columns_are_plain_arrays_of_their_types():
    schema = Schema.infer(as_frame(TABLE))
    x = schema.encode(as_frame(TABLE)).x
    frame = schema.decode(x)
    assert frame.names == tuple(TABLE.columns)
    assert frame["whole"].dtype == np.int64
    assert frame["flag"].dtype == bool
    assert frame["day"].dtype.kind == "M"
    assert frame["object"][0] in ("a", "b", "c")
    assert frame["name"].tolist() == [None] * N
    for library in ("pandas", "polars", "pyarrow"):
        assert listed(frame.to(library), "whole") == TABLE["whole"].tolist()


def test_numbers_stay_an_array_of_their_type():
    array = RNG.normal(size=(50, 3)).astype(np.float32)
    array[3, 1] = np.nan
    frame = as_frame(array)
    schema = Schema.infer(frame)
    x, mask, *_ = schema.encode(frame)
    back = schema.decode(x + 0.1, like=frame, kept=mask).native
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back[mask], array[mask])
    assert np.isfinite(back).all()


def test_text_stays_verbatim_where_it_is_kept():
    frame = as_frame({"x": ["1.50", "2", "", "0.25"], "y": [" a", "b", "a ", "?"]})
    schema = Schema.infer(frame)
    mask = schema.encode(frame).mask
    back = schema.decode(np.where(mask, 0, 1.234), like=frame, kept=mask)
    assert back["x"].tolist() == ["1.50", "2", "1.23", "0.25"]
    assert back["y"].tolist() == [" a", "b", "a ", "b"]


def test_what_is_put_in_is_rounded_and_within_what_was_observed():
    table = {"n": [3, 5, 9, 4], "x": [0.5, 1.25, 2.0, 0.75], "d": ["2020-01-01", "2020-02-01"] * 2}
    schema = Schema.infer(as_frame(table))
    big = schema.decode(np.full((1, 3), 1e300))
    assert [column[0] for column in big.columns] == [9, 2.0, "2020-02-01"]
    low = schema.decode(np.full((1, 3), -1e300))
    assert [column[0] for column in low.columns] == [3, 0.5, "2020-01-01"]
    between = schema.decode(np.array([[4.4, 0.777, 1578000000.0]]))
    assert [column[0] for column in between.columns] == [4, 0.78, "2020-01-03"]


def test_bounds_may_be_taken_away():
    content = Schema.infer(as_frame({"x": [0.5, 1.25, 2.0, 0.75]})).to_json()
    for key in ("low", "high", "decimals"):
        content["columns"][0][key] = None
    schema = Schema.from_json(content)
    assert schema.decode(np.array([[-7.123456]]))["x"].tolist() == [-7.123456]


def test_months_come_back_as_months():
    months = [f"{year}-{month:02}" for year in (2020, 2021) for month in range(1, 13)]
    schema = Schema.infer(as_frame({"m": months}))
    x = schema.encode(as_frame({"m": months})).x
    assert schema.decode(x)["m"].tolist() == months
    assert schema.decode(x + 20 * 86400)["m"].tolist() == months


def test_a_new_table_is_read_by_name_in_any_order_with_notices():
    schema = Schema.infer(as_frame({"a": [1, 2, 4, 9], "s": ["x", "y", "x", "y"], "c": [7] * 4}))
    new = as_frame({"c": [8], "extra": [0], "s": ["y"], "a": [3]})
    x, mask, _, notices = schema.encode(new)
    assert x.tolist() == [[3.0, 1.0]]
    assert mask.all()
    assert len(notices) == 2
    assert "columns 'extra' are not in the schema" in notices[0]
    assert "was constant 7" in notices[1]


def test_values_never_seen_are_missing_with_a_notice_and_may_stay():
    schema = Schema.infer(as_frame({"s": ["x", "y", "z"] * 10}))
    new = as_frame({"s": ["x", "Narnia", None]})
    x, mask, present, notices = schema.encode(new)
    assert mask.ravel().tolist() == [True, False, False]
    assert present.ravel().tolist() == [True, True, False]
    assert notices == (
        "column 's': 1 cell of values that the schema does not know, such as 'Narnia' in row 1, "
        "count as missing",
    )
    assert schema.decode(x, like=new, kept=mask)["s"].tolist() == ["x", "x", "x"]
    assert schema.decode(x, like=new, kept=present)["s"].tolist() == ["x", "Narnia", "x"]


def test_values_never_seen_are_other_where_rare_ones_were_pooled():
    values = ["x", "y"] * 100 + ["r1", "r2"]
    for native_type in (list, pd.Categorical):
        table = pd.DataFrame({"s": native_type(values)})
        schema = Schema.infer(as_frame(table))
        (column,) = schema.columns
        assert column.categories == ("x", "y")
        assert column.other
        assert column.levels == 3
        assert schema.family == "Mixed(columns=(Categorical(levels=3),))"
        new = as_frame(pd.DataFrame({"s": ["r1", "Narnia", "x"]}))
        x, mask, *_ = schema.encode(new)
        assert x.ravel().tolist() == [2, 2, 0]
        assert mask.all()
        assert schema.decode(x, like=new, kept=mask)["s"].tolist() == ["r1", "Narnia", "x"]
        assert schema.decode(x, like=as_frame(table))["s"].tolist() == ["other", "other", "x"]


def test_numbers_text_and_truth_values_stand_for_the_same_levels():
    schema = Schema.infer(as_frame({"n": [1, 2, 3, 4, 5] * 20, "b": [True, False] * 50}))
    assert [column.kind for column in schema.columns] == ["ordinal", "binary"]
    for n, b in [
        ([2, 5], [True, False]),
        ([2.0, 5.0], [1, 0]),
        (["2", "5.0"], ["true", "FALSE"]),
        (["2", "5"], ["1", "0"]),
    ]:
        x, mask, *_ = schema.encode(as_frame({"n": n, "b": b}))
        assert mask.all()
        assert x.tolist() == [[1, 1], [4, 0]]


def test_rows_without_any_cell_and_a_single_row_are_fine():
    schema = Schema.infer(as_frame(TABLE))
    x, mask, *_ = schema.encode(as_frame(TABLE.iloc[:1]))
    assert x.shape == (1, len(schema.modelled))
    nothing = as_frame({name: [None] for name in TABLE.columns})
    x, mask, *_ = schema.encode(nothing)
    assert not mask.any()
    assert not x.any()


def test_a_table_of_one_row_has_nothing_to_model():
    schema = Schema.infer(as_frame({"a": [1.5], "b": ["x"]}))
    assert schema.modelled == ()
    assert schema.encode(as_frame({"a": [1.5], "b": ["x"]})).x.shape == (1, 0)
    with pytest.raises(UserError, match="no column can be modelled: 'a' is constant"):
        _ = schema.family


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": None}, "no column 'age', which the schema has; add it"),
        ({"age": ["x"]}, r"column 'age', row 0 \(counted from 0\): 'x' is no number"),
        ({"age": [-1]}, "-1 has no probability under NegativeBinomial, kind count"),
        ({"age": [1.5]}, "1.5 has no probability under NegativeBinomial"),
        ({"age": [np.inf]}, "column 'age', row 0 .*: inf is no finite number"),
        ({"income": [0.0]}, "0 has no probability under LogNormal, kind positive"),
        ({"day": [3.5]}, "column 'day', row 0 .*: 3.5 is no date"),
        ({"day": ["soon"]}, "'soon' is no date"),
        ({"age": [pd.Timestamp("2020-01-01")]}, "column 'age', row 0 .*: a date is no number"),
        ({"sex": [pd.Timestamp("2020-01-01")]}, "column 'sex', row 0 .*: holds times"),
        ({"age": [[1]]}, "column 'age', row 0 .*: an object is no number"),
    ],
    ids=[
        *("lacking", "word", "negative", "half", "inf", "zero", "number", "soon", "time", "level"),
        "list",
    ],
)
def test_a_table_of_another_form_is_refused_by_column_and_row(change, message):
    table = {
        "age": [31, 40, 25, 60, 41] * 5,
        "income": np.exp(2 * RNG.normal(size=25)),
        "sex": [*(["f", "m"] * 12), "f"],
        "day": [f"2020-01-{k:02}" for k in range(1, 26)],
    }
    schema = Schema.infer(as_frame(table))
    new = {name: list(values[:1]) for name, values in table.items()} | change
    with pytest.raises(UserError, match=message) as caught:
        schema.encode(as_frame({name: v for name, v in new.items() if v is not None}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.zeros((2, 3)), {}, r"x has shape \(2, 3\); rows of this table have 2 numbers"),
        (np.zeros(2), {}, r"x has shape \(2,\)"),
        (np.array([[0, np.nan]]), {}, "column 'b', row 0: nan cannot be put in"),
        (np.zeros((1, 2)), {"kept": np.ones((1, 2), dtype=bool)}, "kept has shape"),
    ],
    ids=["wide", "flat", "nan", "kept"],
)
def test_rows_that_are_none_are_refused(x, options, message):
    schema = Schema.infer(as_frame({"a": [1, 2, 5, 9], "b": [0.5, 2.5, 1.0, 7.0]}))
    with pytest.raises(UserError, match=message):
        schema.decode(x, **options)


def test_a_kept_cell_may_have_no_number():
    frame = as_frame({"a": [1.5, 2.25, 5.0], "b": [0.5, 2.5, 1.0]})
    schema = Schema.infer(frame)
    kept = np.array([[True, False]] * 3)
    back = schema.decode(np.array([[np.nan, 0.7]] * 3), like=frame, kept=kept)
    assert back["a"].tolist() == [1.5, 2.25, 5.0]


def test_kinds_may_be_declared():
    table = {
        "coded": [1, 2, 3, 4] * 20,
        "zip": [f"0{k}" for k in range(40, 80)] * 2,
        "row": list(range(80)),
    }
    kinds = {"coded": "categorical", "zip": "real", "row": "real"}
    schema = Schema.infer(as_frame(table), kinds=kinds)
    assert [c.likelihood for c in schema.columns] == ["Categorical(levels=4)", "Normal", "Normal"]
    assert schema.encode(as_frame(table)).x[0].tolist() == [0, 40, 0]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"b": "real"}, "kinds: no column 'b'; known: a"),
        (
            {"a": "categorial"},
            "column 'a': kind 'categorial' is unknown; did you mean categorical",
        ),
        ({"a": "count"}, r"row 0 .*: -1.5 is not a whole number of 0 or more, as kind count"),
        ({"a": "positive"}, "-1.5 is not 0 or more, as kind positive needs"),
        ({"a": "binary"}, "kind binary, but it holds 3 values"),
        ({"a": "datetime"}, "kind datetime, but its cells are no dates"),
    ],
    ids=["name", "kind", "count", "positive", "binary", "datetime"],
)
def test_kinds_that_do_not_fit_are_refused(kinds, message):
    with pytest.raises(UserError, match=message):
        Schema.infer(as_frame({"a": [-1.5, 2.0, 3.0]}), kinds=kinds)


def test_text_has_no_order_of_its_own_but_may_be_given_one():
    frame = as_frame({"a": ["low", "high", "mid"] * 10})
    with pytest.raises(UserError, match="the order of its 3 texts is unknown; make it an ordered"):
        Schema.infer(frame, kinds={"a": "ordinal"})
    content = Schema.infer(frame).to_json()
    content["columns"][0] |= {"kind": "ordinal", "categories": ["low", "mid", "high"]}
    del content["columns"][0]["likelihood"]
    schema = Schema.from_json(content)
    assert schema.columns[0].likelihood == "Ordinal(levels=3)"
    assert schema.encode(frame).x[:3, 0].tolist() == [0, 2, 1]


def test_kinds_change_without_the_table_as_far_as_the_schema_knows():
    table = {"n": [1, 2, 7, 9], "s": ["x", "y"] * 2, "r": [1.5, -2.5, 3, 1]}
    schema = Schema.infer(as_frame(table))
    changed = schema.with_kinds({"n": "real", "s": "identifier"})
    assert [c.kind for c in changed.columns] == ["real", "identifier", "real"]
    assert changed.family == "Mixed(columns=(Normal, Normal))"
    assert schema.with_kinds({"s": "categorical"}).columns[1].likelihood == "Categorical(levels=2)"
    for name, kind in [("r", "positive"), ("n", "categorical"), ("s", "ordinal"), ("s", "real")]:
        with pytest.raises(UserError, match=f"cannot become {kind} without the table; use Schema"):
            schema.with_kinds({name: kind})


def test_missing_texts_may_be_chosen():
    frame = as_frame({"a": ["1", "-9", "3", "?"] * 10})
    schema = Schema.infer(frame, missing=["-9", "?"], kinds={"a": "real"})
    assert schema.columns[0].missing == 0.5
    assert schema.encode(as_frame({"a": [-9.0, 1.0]})).mask.ravel().tolist() == [False, True]
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    with pytest.raises(UserError, match="missing: -9 is no text"):
        Schema.infer(frame, missing=[-9])


def test_texts_may_be_missing_in_one_column_alone():
    frame = as_frame({"a": [0, 2, 3, 0, 5.5] * 4, "b": [0, 1, 2, 3, 4] * 4})
    schema = Schema.infer(frame, na_values={"a": ["0"]})
    a, b = schema.columns
    assert (a.missing, a.low, a.na_values, b.missing, b.low) == (0.4, 2.0, ("0",), 0.0, 0.0)
    x, mask, *_ = schema.encode(frame)
    assert mask[:4].tolist() == [[False, True], [True, True], [True, True], [False, True]]
    rows = schema.decode(x + 9.0 * ~mask, like=frame, kept=mask)
    assert rows["a"].tolist()[:5] == [5.5, 2.0, 3.0, 5.5, 5.5]  # clipped to what was seen
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert schema.with_kinds({"a": "identifier"}).columns[0].na_values == ("0",)
    with pytest.raises(UserError, match="na_values: no column 'c'"):
        Schema.infer(frame, na_values={"c": ["0"]})
    with pytest.raises(UserError, match="na_values: 0 is no text"):
        Schema.infer(frame, na_values={"a": [0]})


def test_a_schema_has_columns_of_different_names():
    with pytest.raises(UserError, match="two columns 'a'"):
        Schema((Column("a", "real", "Normal"), Column("a", "real", "Normal")))
    with pytest.raises(UserError, match="at least one column"):
        Schema(())


def test_objects_and_wide_numbers_of_polars_come_back():
    mixed = pl.Series("m", [True, None, 2.5, 7], dtype=pl.Object)
    wide = pl.Series("w", [10**20, 5, 7, 10**19], dtype=pl.Int128)
    frame = as_frame(pl.DataFrame([mixed, wide]))
    schema = Schema.infer(frame, kinds={"w": "real"})
    x, mask, *_ = schema.encode(frame)
    back = schema.decode(x, like=frame, kept=mask).native
    assert back.dtypes == [pl.Object, pl.Int128]
    assert back["w"].to_list() == wide.to_list()
    assert [v for v, k in zip(back["m"].to_list(), [1, 0, 1, 1], strict=True) if k] == [
        True,
        2.5,
        7,
    ]


def test_whole_numbers_stay_within_their_type_even_without_bounds():
    frame = as_frame({"a": np.array([1, 5, 9, 100], dtype=np.int8)})
    content = Schema.infer(frame).to_json()
    del content["columns"][0]["high"]
    back = Schema.from_json(content).decode(np.array([[1e20]] * 4), like=frame)
    assert back["a"].tolist() == [127] * 4


@pytest.mark.parametrize("name", ["Int64", "UInt64", "int64[pyarrow]"])
@pytest.mark.parametrize("step", [0, 5, 2**40])
def test_whole_numbers_at_the_end_of_their_range_stay_in_it(name, step):
    """The nearest double to the greatest number of 64 bits is greater than it."""
    most = 2**64 - 1 if name.startswith("U") else 2**63 - 1
    values = [most - step * k for k in (0, 3, 1, 4, 7, 7, 2, 5, 9, 12)]
    table = pd.DataFrame({"a": np.arange(11.0), "i": pd.array([None, *values], dtype=name)})
    for frame in (as_frame(table), as_frame(pl.from_pandas(table))):
        schema = Schema.infer(frame, kinds={"i": "real"} if step > 5 else None)
        x, mask, *_ = schema.encode(frame)
        rows = x + np.where(mask, 0, 2.0**64)
        back = schema.decode(rows, like=frame, kept=mask).native
        assert str(back["i"].dtype) == str(frame.native["i"].dtype)
        filled, *rest = map(int, back["i"])
        assert rest == values
        assert most - 2**11 <= filled <= most
        assert schema.decode(rows[:2], like=frame.take(slice(0, 0)))["i"].max() <= most


def test_a_constant_with_holes_is_constant_still():
    table = pd.DataFrame(
        {
            "a": [1.5, 2.25, 3.0, 4.5],
            "yes": pd.array([True, None, True, True], dtype="boolean"),
            "word": ["x", None, "x", "x"],
        }
    )
    schema = Schema.infer(as_frame(table))
    assert schema.encode(as_frame(table)).notices == ()
    for name, other in (("yes", False), ("word", "y")):
        (notice,) = schema.encode(
            as_frame(table.assign(**{name: [None, None, None, other]}))
        ).notices
        assert f"column {name!r}: was constant" in notice


def test_a_category_of_dates_holds_dates():
    days = [pd.Timestamp("2020-01-01"), None, pd.Timestamp("2020-03-05")] * 4
    frame = as_frame(pd.DataFrame({"day": pd.Categorical(days)}))
    schema = Schema.infer(frame)
    assert schema.columns[0].kind == "datetime"
    x, mask, *_ = schema.encode(frame)
    back = schema.decode(np.where(mask, x, x[0]), like=frame, kept=mask).native["day"]
    assert back.dtype == frame.native["day"].dtype
    assert back.tolist() == [day or days[0] for day in days]


ROME = ZoneInfo("Europe/Rome")


@pytest.mark.parametrize(
    "days",
    [
        [dt.datetime(2020, 5, 1, 7, 30), dt.datetime(2020, 5, 2, 9, 15)],
        [dt.datetime(2020, 5, 1, 7, tzinfo=ROME), dt.datetime(2020, 12, 2, 9, tzinfo=ROME)],
        [dt.date(2020, 5, 1), dt.date(2020, 12, 2)],
        [dt.datetime(2020, 5, 1, 7, 30)] * 2,
        [dt.date(2020, 5, 1)] * 2,
    ],
    ids=["moments", "of a place", "days", "one moment", "one day"],
)
def test_dates_that_are_python_objects_are_filled_with_such_objects(days):
    cells = np.array([None, *days, *days], dtype=object)
    frame = as_frame(pd.DataFrame({"a": [1.5, 2.5, 4.0, 8.0, 9.0], "day": pd.Series(cells)}))
    schema = Schema.infer(frame)
    x, mask, *_ = schema.encode(frame)
    if mask.shape[1] == 2:  # no constant
        x[0, 1] = x[1, 1]
    back = schema.decode(x, like=frame, kept=mask).native["day"]
    assert back.tolist() == [days[0], *days, *days]
    assert type(back[0]) is type(back[1])
    assert getattr(back[0], "tzinfo", None) == getattr(back[1], "tzinfo", None)


def test_the_package_knows_neither_torch_nor_data():
    import ast
    from pathlib import Path

    from latently.data import tables

    for path in Path(tables.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "module", None) or ""
            names = [name, *(alias.name for alias in getattr(node, "names", []))]
            for one in names if isinstance(node, ast.Import | ast.ImportFrom) else []:
                assert not one.startswith("torch"), path.name
                assert not one.startswith("latently") or one.startswith(
                    ("latently.data.tables", "latently.errors")
                ), (path.name, one)


@pytest.mark.parametrize("family", ["Gamma", "LogNormal"])
def test_zeros_of_counts_under_a_density_above_0_are_named(family):
    schema = Schema.infer(as_frame({"visits": [0, 3, 1, 4, 2, 7, 8, 5, 6, 12] * 5}))
    changed = replace(schema, columns=(replace(schema.columns[0], likelihood=family),))
    with pytest.raises(
        UserError, match=f"row 2 .*: 0 has no probability under {family}, kind count"
    ):
        changed.encode(as_frame({"visits": [4, 2, 0]}))
