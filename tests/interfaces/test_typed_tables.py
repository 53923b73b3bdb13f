"""Typed tables on the command line: the types that went in come out, on every way."""

import csv
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from latently.data.tables import read_frame

FIT = "--epochs 2 --quiet --net MLP(hidden=(8,)) --latents 2 --samples 2"
EAST = timezone(timedelta(hours=1))


def typed(n=80, seed=0):
    """Numbers, names, grades, days and moments with a time zone; all but prices lack cells."""
    rng = np.random.default_rng(seed)
    start = datetime(2020, 1, 1, 22, 30, 15, tzinfo=EAST)
    columns = {
        "age": pa.array(rng.integers(20, 70, n).tolist(), pa.int64()),
        "price": pa.array(np.round(rng.normal(68.6, 5, n), 1), pa.float32()),
        "when": pa.array(
            [start + timedelta(hours=float(h)) for h in rng.integers(0, 9000, n)],
            pa.timestamp("ns", tz="Europe/Berlin"),
        ),
        "day": pa.array(
            [date(2020, 1, 1) + timedelta(days=int(d)) for d in rng.integers(0, 300, n)]
        ),
        "town": pa.array(rng.choice(["Bonn", "Oslo", "Rome"], n)).dictionary_encode(),
        "grade": pa.DictionaryArray.from_arrays(
            pa.array(rng.integers(0, 3, n), pa.int32()), ["low", "mid", "high"], ordered=True
        ),
    }
    lost = {name: rng.random(n) < 0.1 for name in columns if name != "price"}
    for name, gone in lost.items():
        columns[name] = columns[name].take(pa.array(np.arange(n), mask=gone))
    return pa.table(columns)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("typed") / "holes.parquet"
    pq.write_table(typed(), path)
    return path


@pytest.fixture(scope="module")
def model(table, done):
    out = table.parent / "m.safetensors"
    done("fit", "table", "--data", table, *FIT.split(), "--out", out)
    return out


def unchanged(before, after):
    """Whether all cells that are there stand in another table of the same types, too."""
    assert after.schema.equals(before.schema)
    for name in before.column_names:
        pairs = zip(before[name].to_pylist(), after[name].to_pylist(), strict=True)
        assert all(old is None or old == new for old, new in pairs), name
    return after


@pytest.mark.parametrize("draws", [1, 2])
def test_imputed_tables_keep_all_types(table, model, done, tmp_path, draws):
    out = tmp_path / "filled.parquet"
    done("impute", model, "--data", table, "--draws", draws, "--samples", 20, "--out", out)
    before, after = pq.read_table(table), pq.read_table(out)
    if draws == 2:
        assert after["draw"].to_pylist() == [0] * 80 + [1] * 80
        after = after.drop(["draw"])
    for part in range(draws):
        filled = unchanged(before, after.slice(80 * part, 80))
        assert all(column.null_count == 0 for column in filled.columns)


def test_amputated_tables_keep_all_types_and_all_other_cells(table, done, tmp_path):
    out = tmp_path / "less.parquet"
    done("amputate", table, "--mechanism", "MCAR(0.3)", "--out", out)
    before, after = pq.read_table(table), pq.read_table(out)
    assert unchanged(after, before) is before  # what is left
    assert sum(c.null_count for c in after.columns) > 80 + sum(
        c.null_count for c in before.columns
    )


def test_samples_have_days_and_time_zones(table, model, done, tmp_path):
    out = tmp_path / "drawn.parquet"
    done("sample", model, "-n", 5, "--out", out)
    found = pq.read_table(out)
    assert found.schema.field("when").type == pa.timestamp("us", tz="Europe/Berlin")
    assert found.schema.field("day").type == pa.date32()
    assert found.schema.field("age").type == pa.int64()
    first = min(t for t in pq.read_table(table)["when"].to_pylist() if t)
    assert min(found["when"].to_pylist()) >= first


def test_text_says_moments_with_their_zone_and_numbers_at_their_shortest(
    table, model, done, tmp_path
):
    out = tmp_path / "filled.csv"
    done("impute", model, "--data", table, "--samples", 20, "--out", out)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for old, new in zip(pq.read_table(table).to_pylist(), rows, strict=True):
        if old["when"]:
            assert new["when"].endswith("Z")
            assert datetime.fromisoformat(new["when"]) == old["when"].astimezone(UTC)
        if old["age"] is not None:
            assert new["age"] == str(old["age"])
        assert new["price"] == str(np.float32(old["price"])).removesuffix(".0")


def test_orders_that_a_file_declares_are_known(table, done):
    told = dict(line.split()[:2] for line in done("schema", table).splitlines()[1:])
    assert told["grade"] == "ordinal"
    assert told["town"] == "categorical"


def test_text_in_views_is_text(done, tmp_path):
    path, n = tmp_path / "views.feather", 40
    words = pa.array(np.random.default_rng(0).choice(["a", "b", "c"], n).tolist())
    numbers = pa.array(np.random.default_rng(1).normal(size=n), mask=np.arange(n) == 3)
    columns = {"s": words.cast(pa.string_view()), "x": numbers}
    feather.write_feather(pa.table(columns), str(path), compression="uncompressed")
    model, out = tmp_path / "m.safetensors", tmp_path / "out.feather"
    done("fit", "table", "--data", path, *FIT.split(), "--out", model)
    done("impute", model, "--data", path, "--samples", 20, "--out", out)
    assert read_frame(out)["s"].tolist() == words.to_pylist()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_whole_numbers_with_holes_take_whole_numbers(done, tmp_path, suffix):
    rng = np.random.default_rng(0)
    rows = pa.table({"p": np.round(rng.normal(10, 3, 60), 2), "x": rng.normal(size=60)})
    new = pa.table({"p": pa.array([1, None, 13, 7]), "x": [0.1, 0.2, 0.3, 0.4]})
    for name, one in (("old", rows), ("new", new)):
        pq.write_table(one, tmp_path / f"{name}.parquet")
    model, out = tmp_path / "m.safetensors", tmp_path / f"out.{suffix}"
    done("fit", "table", "--data", tmp_path / "old.parquet", *FIT.split(), "--out", model)
    done("impute", model, "--data", tmp_path / "new.parquet", "--samples", 20, "--out", out)
    filled = [int(v) for v in read_frame(out)["p"].tolist()]
    assert filled[0] == 1
    assert filled[2:] == [13, 7]


def test_decimals_and_short_floats_stand_as_written_and_come_out_so(done, tmp_path):
    rng = np.random.default_rng(0)
    written = [f"{value:.2f}" for value in rng.random(80)]
    lost = rng.random(80) < 0.2
    seen = [None if gone else text for gone, text in zip(lost, written, strict=True)]
    columns = {
        "exact": pa.array([text and Decimal(text) for text in seen], pa.decimal128(10, 2)),
        "short": pa.array([text and float(text) for text in seen], pa.float32()),
        "small": pa.array(rng.integers(0, 90, 80), pa.int8()),
        "long": pa.array(rng.choice(["a", "b", "c"], 80), pa.large_string()),
        "coded": pa.array(rng.choice(["a", "b", "c"], 80)).dictionary_encode(),
        "person": pa.array([f"p{k:03d}" for k in range(80)]),
    }
    table, model, out = (tmp_path / name for name in ("t.parquet", "m.safetensors", "f.csv"))
    pq.write_table(pa.table(columns), table)
    done("fit", "table", "--data", table, *FIT.split(), "--out", model)
    done("impute", model, "--data", table, "--samples", 20, "--out", out)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("exact", "short"):
        for text, row in zip(seen, rows, strict=True):
            assert text is None or float(text) == float(row[name])
            assert len(row[name].partition(".")[2]) <= 2
    drawn = tmp_path / "d.parquet"
    done("sample", model, "-n", 30, "--out", drawn)
    assert pq.read_table(drawn).schema.remove_metadata().equals(pq.read_table(table).schema)
