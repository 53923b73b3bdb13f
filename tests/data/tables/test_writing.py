import gzip

import numpy as np
import pandas as pd
import polars as pl
import pytest

from latently.data.tables import Frame, as_frame, read_frame, write_frame
from latently.errors import UserError
from latently.training.files import atomic_write

TABLE = {
    "n": [1, 2, 3],
    "x": [0.1, np.nan, 1e22],
    "s": ['say "hi"', None, "a,b\nc"],
    "b": [True, False, True],
}
TEXTS = [
    ["1", "2", "3"],
    ["0.1", "", "1e+22"],
    ['say "hi"', "", "a,b\nc"],
    ["True", "False", "True"],
]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".dat", ".csv.gz", ".tsv.gz"])
def test_text_is_read_back_as_it_was_written(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    write_frame(path, as_frame(TABLE))
    frame = read_frame(path)
    assert frame.names == tuple(TABLE)
    assert [column.tolist() for column in frame.columns] == TEXTS
    write_frame(path, frame)
    assert [column.tolist() for column in read_frame(path).columns] == TEXTS


def test_a_carriage_return_in_a_cell_is_read_back(tmp_path):
    path = tmp_path / "t.csv"
    write_frame(path, Frame(("a", "b"), (np.array(["x\ry", "z"], dtype=object), np.arange(2))))
    assert b"\r\n" not in path.read_bytes()
    assert read_frame(path)["a"].tolist() == ["x\ry", "z"]


def test_moments_have_one_form_in_all_blocks_and_digits_as_few_as_they_need(tmp_path):
    path = tmp_path / "t.csv"
    times = np.full(70_000, "2020-01-01", dtype="datetime64[ns]")
    times[-1] = np.datetime64("2020-05-18T10:30:00")
    prices = np.full(70_000, 68.6, dtype=np.float32)
    write_frame(path, Frame(("t", "p"), (times, prices)))
    frame = read_frame(path)
    assert set(frame["t"].tolist()) == {"2020-01-01T00:00:00", "2020-05-18T10:30:00"}
    assert set(frame["p"].tolist()) == {"68.6"}
    days = times[:3].copy()
    for zone, text in (("", "2020-01-01"), (", UTC", "2020-01-01T00:00:00Z")):
        write_frame(path, Frame(("t",), (days,), types=(f"datetime64[ns{zone}]",)))
        assert set(read_frame(path)["t"].tolist()) == {text}


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow"])
@pytest.mark.parametrize("library", [None, "pandas", "polars"])
def test_columnar_files_keep_types(tmp_path, suffix, library):
    native = {"pandas": pd.DataFrame, "polars": pl.DataFrame}.get(library, dict)(TABLE)
    path = tmp_path / f"t{suffix}"
    write_frame(path, as_frame(native))
    frame = read_frame(path)
    assert frame.library == "pyarrow"
    assert frame["n"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(frame["x"], TABLE["x"])
    assert frame["s"].tolist() == TABLE["s"]
    assert frame["b"].tolist() == TABLE["b"]


def test_dates_and_spans_are_written_so_that_they_are_read(tmp_path):
    days = pd.to_datetime(["2020-01-31", None])
    table = pd.DataFrame({"d": days, "t": days + pd.Timedelta("1h"), "s": days - days[0]})
    write_frame(tmp_path / "t.csv", as_frame(table))
    text = (tmp_path / "t.csv").read_text()
    assert text.splitlines()[1].startswith("2020-01-31,2020-01-31T01:00:00")
    assert text.splitlines()[1].endswith(",0")
    assert text.splitlines()[2] == ",,"


def test_a_temporary_path_is_written_by_the_suffix_that_is_given(tmp_path):
    write_frame(tmp_path / ".t.csv.gz.123.tmp", as_frame({"a": [1]}), suffix=".csv.gz")
    assert gzip.decompress((tmp_path / ".t.csv.gz.123.tmp").read_bytes()) == b"a\n1\n"


def test_equal_tables_give_equal_bytes(tmp_path):
    for name in ("a.csv.gz", "b.csv.gz"):
        write_frame(tmp_path / name, as_frame(TABLE))
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_a_row_of_one_missing_cell_is_no_blank_line(tmp_path):
    frame = Frame(("a",), (np.array(["x", None, "y"], dtype=object),))
    write_frame(tmp_path / "t.csv", frame)
    assert read_frame(tmp_path / "t.csv", header=True)["a"].tolist() == ["x", "", "y"]


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"t.xls: cannot write a table to it; known: .csv"):
        write_frame(tmp_path / "t.xls", as_frame(TABLE))
    with pytest.raises(UserError, match=r"cannot write .*nowhere.*t.csv: No such file"):
        write_frame(tmp_path / "nowhere" / "t.csv", as_frame(TABLE))
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "t.csv"
    with pytest.raises(UserError, match=r"cannot write .*t\.csv: .*; nothing there was changed"):
        atomic_write(place, lambda path: write_frame(path, as_frame(TABLE), suffix=".csv"))
