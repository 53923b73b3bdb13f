import gzip

import pandas as pd
import pytest

from latently.data.tables import Schema, as_frame, read_frame, write_frame
from latently.errors import UserError


@pytest.fixture
def save(tmp_path):
    def write(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def cells(frame):
    return [column.tolist() for column in frame.columns]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "a,b\n1,x\n2,y\n"),
        ("t.csv", "a, b\n1, x\n2, y\n\n"),
        ("t.csv", "a;b\n1;x\n2;y\n"),
        ("t.csv", "a|b\r\n1|x\r\n2|y\r\n"),
        ("t.tsv", "a\tb\n1\tx\n2\ty"),
        ("t.txt", "  a   b\n  1   x \n  2  y\n"),
        ("t.dat", "# of a machine\n# called z\na,b\n1,x\n2,y\n"),
        ("t.csv", b"\xef\xbb\xbfa,b\n1,x\n2,y\n"),
        ("t.csv", "a,b\n1,x\n2,y\n".encode("utf-16")),
        ("t.csv.gz", gzip.compress(b"a,b\n1,x\n2,y\n")),
        ("t.csv", '"a","b"\n"1","x"\n"2","y"\n'),
    ],
    ids=[
        "comma",
        "blanks",
        "semicolon",
        "bar",
        "tab",
        "runs",
        "comment",
        "bom",
        "16",
        "gz",
        "quotes",
    ],
)
def test_ways_to_write_the_same_table(save, name, content):
    frame = read_frame(save(content, name))
    assert frame.names == ("a", "b")
    assert cells(frame) == [["1", "2"], ["x", "y"]]
    assert frame.types == ("text", "text")
    assert frame.source == name


def test_the_original_form_of_an_old_table(save):
    lines = [
        "|1x3 Cross validator",
        "25, Private, 226802, 11th, 0, <=50K.",
        "38, ?, 89814, HS-grad, 0, >50K.",
        "28, State-gov, 336951, HS-grad, 7688, >50K.",
    ]
    frame = read_frame(save("\n".join(lines) + "\n\n", "old.test"))
    assert frame.names == tuple(f"column {k}" for k in range(1, 7))
    assert frame["column 2"].tolist() == ["Private", "?", "State-gov"]
    assert any("1 line of comment" in notice for notice in frame.notices)
    assert any("no names" in notice for notice in frame.notices)
    schema = Schema.infer(frame)
    assert schema.columns[1].missing == pytest.approx(1 / 3, abs=1e-5)


def test_quotes_hold_delimiters_newlines_and_quotes(save):
    frame = read_frame(save('a,b\n1,"x, ""y""\nz"\n2,w\n'))
    assert frame["b"].tolist() == ['x, "y"\nz', "w"]


def test_cells_are_verbatim_but_for_blanks_after_the_delimiter(save):
    frame = read_frame(save("a,b\n1.50, x \n007,NA\n"))
    assert cells(frame) == [["1.50", "007"], ["x ", "NA"]]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("1,2\n3,4\n", ("column 1", "column 2")),
        ("p,x,s\ne,x,s\n", ("column 1", "column 2", "column 3")),
        ("kind,shape\np,x\ne,y\n", ("kind", "shape")),
        (",a\n0,1\n1,2\n", ("column 1", "a")),
        ("day,2\n2020-01-01,3\n", ("column 1", "column 2")),
        ("day,x\n2020-01-01,y\n", ("day", "x")),
        ("?,3\n1,2\n", ("column 1", "column 2")),
        ("a\n1\n2\n", ("a",)),
        ("country,2019,2020\nx,1.5,\ny,70000,3\n", ("country", "2019", "2020")),
        ("country,2019,2021\nx,1,2\n", ("column 1", "column 2", "column 3")),
        ("from,to\n,\n", ("from", "to")),
        ("2019,2020\n2020,2021\n", ("column 1", "column 2")),
    ],
)
def test_names_are_found_in_the_first_line_or_not(save, content, names):
    assert read_frame(save(content)).names == names


def test_the_caller_may_know_whether_there_are_names(save):
    path = save("country,7,8\nx,1,2\n")
    assert read_frame(path).names[1] == "column 2"
    assert read_frame(path, header=True).names == ("country", "7", "8")
    assert len(read_frame(path, header=False)) == 2


def test_text_of_one_column_may_hold_blanks(save):
    frame = read_frame(save("title\nhello big world\nhi you\n"))
    assert cells(frame) == [["hello big world", "hi you"]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_text_that_says_its_encoding_is_read_without_a_word(save, encoding):
    frame = read_frame(save("größe,b\n1,Köln\n2,Oslo\n".encode(encoding)))
    assert frame.names == ("größe", "b")
    assert frame["b"].tolist() == ["Köln", "Oslo"]
    assert frame.notices == ()


def test_windows_text_is_read_with_a_notice_wherever_it_begins(save):
    late = ("a,b\n" + "1,x\n" * 70_000 + "1,Köln\n").encode("latin-1")
    frame = read_frame(save(late))
    assert frame["b"][-1] == "Köln"
    assert len(frame) == 70_001
    assert frame.notices == ("t.csv: not UTF-8; read as Windows-1252",)
    signs = read_frame(save("a,b\n1,5 €\n2,“q”\n".encode("cp1252")))
    assert signs["b"].tolist() == ["5 €", "“q”"]
    odd = read_frame(save(b"a,b\n1,K\xf6ln\n2,\x81\n"))  # no sign of Windows-1252
    assert odd["b"].tolist() == ["Köln", "\x81"]
    assert odd.notices == ("t.csv: not UTF-8; read as Latin-1",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3\n", "t.csv, line 3: 1 cell where the first row has 2"),
        ("a,b\n\n1,2\n3,4,5\n", "t.csv, line 4: 3 cells where the first row has 2"),
        ('a,b\n1,"2\n3,4\n', "line 3: unexpected end of data; see whether a quote is left open"),
        ('a,b\n1,"' + "x" * 200_000 + '"\n', "line 2: field larger than field limit"),
        ("a,b\n1,2\n".encode("utf-16-le"), "UTF-16 without its mark is none either; save it as"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a binary file, not a table of text"),
        (b"a,b\n" + b"1,2\n" * 5000 + b"1,\0\n", "line 5002: a NUL byte"),
        ("", "has no rows"),
        ("a,b\n", "has a line of names and no rows"),
        ("a,a\n1,2\n", "columns 1 and 2 are both called 'a'"),
    ],
    ids=["short", "long", "quote", "large", "utf16", "binary", "nul", "empty", "names", "twice"],
)
def test_what_is_wrong_is_named_by_line(save, content, message):
    with pytest.raises(UserError) as caught:
        read_frame(save(content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "t.feather"])
def test_files_that_are_not_there_or_damaged(save, tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: No such file"):
        read_frame(tmp_path / name)
    if name != "t.csv":
        with pytest.raises(UserError, match=r"damaged gzip file|pyarrow cannot read it"):
            read_frame(save("no such thing", name))
    with pytest.raises(UserError, match="Is a directory"):
        read_frame(tmp_path)


def test_a_gzip_file_that_was_cut_short(save):
    packed = gzip.compress(b"".join(b"%d,x\n" % k for k in range(20_000)))
    with pytest.raises(UserError, match="damaged gzip file"):
        read_frame(save(packed[:-20], "t.csv.gz"))


def test_decimal_commas_are_read_and_written_back(save):
    frame = read_frame(save("a;b\n1,5;x\n2,25;y\n3;x\n"))
    schema = Schema.infer(frame, kinds={"a": "real"})
    x, mask, *_ = schema.encode(frame)
    assert x[:, 0].tolist() == [1.5, 2.25, 3.0]
    assert schema.decode(x)["a"].tolist() == ["1,5", "2,25", "3"]
    assert schema.decode(x, like=frame, kept=mask)["a"].tolist() == ["1,5", "2,25", "3"]
    new = as_frame({"a": ["1,234"], "b": ["x"]})
    assert schema.encode(new).x[0, 0] == 1.234


def test_a_long_table_is_read_whole(tmp_path):
    table = pd.DataFrame({"a": range(70_000), "b": ["x", "y"] * 35_000})
    write_frame(tmp_path / "t.csv", as_frame(table))
    frame = read_frame(tmp_path / "t.csv")
    assert frame["a"].tolist() == [str(k) for k in range(70_000)]


@pytest.mark.parametrize("first", ["#id", "%share", "|x"])
def test_names_that_begin_like_a_comment_are_names(save, tmp_path, first):
    frame = read_frame(save(f"# of a machine\n{first},b\n1,2\n"), header=True)
    assert frame.names == (first, "b")
    for table in ({first: ["1", "2"]}, {first: ["1"], "b": ["2"]}):
        write_frame(tmp_path / "w.csv", as_frame(table))
        assert read_frame(tmp_path / "w.csv").names == tuple(table)
