"""Holes from the command line: what is left stands as it was."""

import csv

import numpy as np
import pytest

from latently.interfaces.cli import main


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        [f"id{i:03}", f"{rng.normal() * 10:.3f}", rng.choice(["red", "blue", "grün"]), i % 7, ""]
        for i in range(200)
    ]
    rows[3][1] = "NA"
    path = tmp_path / "whole.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["name", "size", "colour", "count", "note"], *rows])
    return path


def cells(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def run(*words):
    with pytest.raises(SystemExit) as left:
        main(["amputate", *map(str, words)])
    return left.value.code


@pytest.mark.parametrize("rule", ["MCAR(0.3)", "MAR(0.3)", "MNAR(0.3)", "SelfMasked(0.3)"])
def test_cells_that_are_left_are_the_very_same_text(table, tmp_path, capsys, rule):
    out, truth = tmp_path / "holes.csv", tmp_path / "truth.csv"
    assert run(table, "--mechanism", rule, "--out", out, "--truth", truth) == 0
    before, after = cells(table), cells(out)
    assert len(before) == len(after)
    lost = 0
    for a, b in zip(before, after, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x == y or y == ""
            lost += x != y
    assert lost > 30
    assert [row[0] for row in before] == [row[0] for row in after]  # an identifier
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    marks = cells(truth)
    assert marks[0] == ["size", "colour", "count"]
    hidden = sum(int(v) for row in marks[1:] for v in row)
    assert f"hid {hidden} of " in told
    # the text NA was missing already: never hidden, and as it was or empty
    assert hidden in (lost, lost - (after[4][1] == ""))


def test_the_same_seed_hides_the_same(table, tmp_path):
    first, again, other = (tmp_path / f"{k}.csv" for k in "abc")
    for out, seed in ((first, 1), (again, 1), (other, 2)):
        assert run(table, "--mechanism", "MNAR", "--seed", seed, "--out", out) == 0
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_get_nan(tmp_path, suffix):
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    whole, out, truth = tmp_path / f"x{suffix}", tmp_path / f"y{suffix}", tmp_path / "t.npz"
    np.save(whole, x) if suffix == ".npy" else np.savez(whole, x=x, y=np.arange(300))
    rule = "SelfMasked(None, columns='first half', steepness=None)"
    assert run(whole, "--mechanism", rule, "--out", out, "--truth", truth) == 0
    found = np.load(out) if suffix == ".npy" else np.load(out)["x"]
    wanted = x.copy()
    wanted[:, :2][x[:, :2] > x[:, :2].astype(np.float64).mean(0)] = np.nan
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.float32
    held = np.load(truth)
    np.testing.assert_array_equal(held["lost"], np.isnan(wanted))
    np.testing.assert_array_equal(held["x"], x)
    if suffix == ".npz":
        np.testing.assert_array_equal(np.load(out)["y"], np.arange(300))


def test_parquet_keeps_its_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    whole, out = tmp_path / "x.parquet", tmp_path / "y.parquet"
    columns = {
        "a": [i * i % 11 for i in range(50)],
        "b": [i / 7 for i in range(50)],
        "c": ["u", "v"] * 25,
    }
    parquet.write_table(pa.table(columns), whole)
    assert run(whole, "--mechanism", "MCAR(0.4)", "--out", out) == 0
    found = parquet.read_table(out).to_pydict()
    assert list(found) == ["a", "b", "c"]
    for name, values in columns.items():
        left = [v for v in found[name] if v is not None and v == v]
        assert 0 < len(left) < 50
        for a, b in zip(values, found[name], strict=True):
            assert b is None or b != b or (a == b and type(a) is type(b))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mechanism", "MNARR"], "MNAR"),
        (["--mechanism", "MNAR(2)"], "share=2"),
        (["--mechanism", "Full"], "--mechanism 'Full'"),
        (["--mechanism", "SelfMasked(columns=(9,))"], "column 9"),
    ],
)
def test_mistakes_are_one_line(table, tmp_path, capsys, words, said):
    out = tmp_path / "out.csv"
    assert run(table, *words, "--out", out) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told
    assert not out.exists()


def test_nothing_is_replaced_unasked(table, tmp_path, capsys):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    assert run(table, "--mechanism", "MNAR", "--out", out) == 2
    assert out.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert run(table, "--mechanism", "MNAR", "--out", out, "--force") == 0
    assert run(tmp_path / "none.csv", "--mechanism", "MNAR", "--out", tmp_path / "b.csv") == 2


def test_two_outputs_are_two_files_and_each_is_called_by_its_option(table, tmp_path, capsys):
    out = tmp_path / "holes.csv"
    for truth, said in (
        (out, "--out is the same file; choose another name"),
        (tmp_path / "truth.txt", "--truth"),
        (table, "choose another --truth"),
    ):
        assert run(table, "--mechanism", "MCAR(0.3)", "--out", out, "--truth", truth) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert said in told
        assert not out.exists()
