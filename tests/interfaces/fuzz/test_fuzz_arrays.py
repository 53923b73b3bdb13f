"""Files of numpy: damaged, of other kinds of values and shapes, and larger than they look."""

import io
import struct
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

# Rows that no verb takes; each is written to .npy and to .npz.
REFUSED = {
    "objects": np.array([[None, {}]], dtype=object),
    "complex": np.ones((3, 4), complex),
    "dates": np.zeros((3, 4), "datetime64[s]"),
    "spans": np.zeros((3, 4), "timedelta64[D]"),
    "text": np.array([["a", "b", "c", "d"]]),
    "bytes": np.array([[b"a", b"b", b"c", b"d"]]),
    "void": np.zeros((3, 4), "V3"),
    "records": np.zeros((3, 4), [("a", float), ("b", int)]),
    "nested-records": np.zeros(3, [("x", float, (4,))]),
    "strange-names": np.zeros((3, 4), [("a\nb", float)]),
    "half-inf": np.full((3, 4), np.inf, np.float16),
    "inf": np.array([[0, 1, 2, np.inf]]),
    "minus-inf": np.array([[0, 1, 2, -np.inf]]),
    "no-axis": np.float64(3),
    "one-axis": np.arange(4.0),
    "no-rows": np.zeros((0, 4)),
    "no-columns": np.zeros((4, 0)),
    "nothing-at-all": np.zeros((0, 0, 0)),
    "narrow": np.zeros((3, 3)) + 0.5,
    "deep": np.zeros((2,) * 20) + 0.5,
    "pictures": np.zeros((3, 2, 2)) + 0.5,
    "empty-words": np.zeros((3, 4), "U0"),
}
# Rows that are odd, and right where they fit the model.
ODD = {
    "all-missing": np.full((3, 4), np.nan),
    "long-double": np.ones((3, 4), np.longdouble) / 3,
    "big-endian": np.ones((3, 4), ">f8") / 3,
    "half": np.ones((3, 4), np.float16) / 3,
    "fortran": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
    "huge-integers": np.full((3, 4), 2**63 - 1),
    "unsigned": np.full((3, 4), 2**64 - 1, np.uint64),
    "tiny": np.full((3, 4), 5e-324),
    "vast": np.full((3, 4), 1.7e308),
    "vast-32": np.full((3, 4), 3e38, np.float32),
    "bits": np.ones((3, 4), bool),
    "minus-zero": np.full((3, 4), -0.0),
}
FIT = "fit {} --latents 1 --quiet --data {{}} --out {{{{out}}}}/m.safetensors"
CALLS = [
    "evaluate {{m}} --samples 2 --data {}",
    "impute {{small}}/fa.safetensors --draws 2 --samples 2 --out {{out}}/i.csv --data {}",
    FIT.format("fa"),
    FIT.format("ppca"),
    FIT.format("vae") + " --epochs 1",
]


def saved(array, suffix):
    """The content of a file of one array."""
    file = io.BytesIO()
    if suffix == ".npy":
        np.save(file, array, allow_pickle=True)
    else:
        np.savez_compressed(file, x=array)
    return file.getvalue()


def header(shape, descr="<f8", order="False", version=(1, 0), extra=""):
    """The beginning of a .npy that declares whatever it likes."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, {extra}}}"
    text = text.encode("utf-8").ljust(117) + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return npy.magic(*version) + size + text


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    """An archive of pairs of names and contents; names may come twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def read(judge, words, tmp_path):
    """Judges a call on a file of some content."""

    def call(content, suffix, number=0):
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(content)
        return judge(*words(CALLS[number].format(path)))

    return call


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("name", REFUSED)
def test_rows_of_other_kinds(read, name, suffix):
    assert read(saved(REFUSED[name], suffix), suffix, suffix == ".npy").code == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("number", range(len(CALLS)))
def test_odd_rows(read, name, number):
    read(saved(ODD[name], ".npy"), ".npy", number)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged(read, small, damaged, suffix, seed):
    read(damaged((small / f"x{suffix}").read_bytes(), seed), suffix)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        *("(10**9, 4)", "(1000000000, 4)", "(-1, 4)", "(4,)", "4", "()", "None", "[3, 4]"),
        *("(3.0, 4)", "(True, 4)", "('3', 4)", f"({2**63}, 4)", f"(0, {2**80})", f"({2**40}, 0)"),
        *("(1,) * 99", f"({'1,' * 60} 4)", "(3, 4, -12)", "((3, 4),)", "{3: 4}", "3, 4"),
        *("(3, 4)" * 50, "(" * 60, f"({'9' * 90},)", "(-3, -4)", "(__import__('os'),)"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_headers_that_lie_about_shapes(read, shape, suffix):
    content = header(shape) + bytes(24)
    content = content if suffix == ".npy" else zipped([("x.npy", content)])
    assert read(content, suffix).code == 2


@pytest.mark.parametrize(
    "descr",
    [
        *("|O", "<f3", "f99", "", "<U999999999", "|S0", "|V0", "x", "<c16", ">M8[Y]", "<m8"),
        *([("a", "<f8")], [("a", "|O")], [], [("", "<f8")], None, 3, "f8,f8", "O8", "<f8\x00"),
        *({"names": ["a"], "formats": ["<f8"]}, "object", "<f8" * 500, [("a", "<f8", (10**9,))]),
    ],
    ids=repr,
)
def test_headers_of_other_types(read, descr):
    read(header("(3, 4)", descr) + bytes(96), ".npy")


@pytest.mark.parametrize(
    "content",
    [
        header("(1, 4)", version=(2, 0)),
        header("(1, 4)", version=(3, 0)),
        header("(1, 4)", order="3"),
        header("(1, 4)", extra="'more': 1"),
        header("(1, 4)").replace(b"'shape'", b"'sahpe'"),
        npy.magic(1, 0),
        npy.magic(9, 9) + bytes(99),
        npy.magic(2, 0) + struct.pack("<I", 2**32 - 1) + bytes(99),
        npy.magic(1, 0) + struct.pack("<H", 0),
        npy.magic(1, 0) + struct.pack("<H", 9000) + b"(" * 9000,
        npy.magic(1, 0) + struct.pack("<H", 20) + b"\xff" * 20,
        b"\x80\x04\x95\x00.",
        b"",
        b"1,2\n3,4\n",
    ],
)
def test_headers_that_are_none(read, content):
    assert read(content, ".npy").code == 2


ROWS = saved(np.ones((3, 4)) / 3, ".npy")
ARCHIVES = {
    "empty": zipped([]),
    "several": zipped([("a.npy", ROWS), ("b.npy", ROWS)]),
    "strange-names": zipped([("a\nb\x1b[31m.npy", ROWS), ("c.npy", ROWS)]),
    "long-names": zipped([("a" * 9000 + ".npy", ROWS), ("c.npy", ROWS)]),
    "text": zipped([("x.npy", b"1,2,3,4")]),
    "nothing": zipped([("x.npy", b"")]),
    "folder": zipped([("x.npy/", b"")]),
    "nested": zipped([("x.npy", zipped([("x.npy", ROWS)]))]),
    "nested.npz": zipped([("x.npz", zipped([("x.npy", ROWS)]))]),
    "bomb": zipped([("x.npy", header("(2000000, 4)") + bytes(64_000_000))]),
    "bomb-of-text": zipped([("x.npy", bytes(50_000_000))]),
    "bomb-of-labels": zipped(
        [("x.npy", ROWS), ("y.npy", header("(2000000, 4)") + bytes(64_000_000))]
    ),
    "pickle": zipped([("x.npy", saved(np.array([{}], object), ".npy"))]),
    "labels-pickle": zipped([("x.npy", ROWS), ("y.npy", saved(np.array([{}], object), ".npy"))]),
    "labels-short": zipped([("x.npy", ROWS), ("y.npy", saved(np.arange(2), ".npy"))]),
    "labels-broad": zipped([("x.npy", ROWS), ("y.npy", saved(np.ones((3, 2)), ".npy"))]),
    "labels-halves": zipped([("x.npy", ROWS), ("y.npy", saved(np.full(3, 0.5), ".npy"))]),
    "labels-text": zipped([("x.npy", ROWS), ("y.npy", saved(np.array(["a", "b", "c"]), ".npy"))]),
    "labels-vast": zipped([("x.npy", ROWS), ("y.npy", saved(np.full(3, 1e300), ".npy"))]),
    "labels-unsigned": zipped(
        [("x.npy", ROWS), ("y.npy", saved(np.full(3, 2**64 - 1, np.uint64), ".npy"))]
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("number", [0, 4])
def test_archives(read, name, number):
    assert read(ARCHIVES[name], ".npz", number).code == 2


@pytest.mark.parametrize("number", [0, 4])
def test_labels_that_nobody_knows(read, number):
    unknown = saved(np.full(3, np.nan), ".npy")
    assert read(zipped([("x.npy", ROWS), ("y.npy", unknown)]), ".npz", number).code == 0


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("seed", range(5))
def test_damaged_archives(read, damaged, compression, seed):
    read(damaged(zipped([("x.npy", ROWS)], compression), seed), ".npz")


CONTEXTS = {
    "short": np.arange(2),
    "long": np.arange(13),
    "three-axes": np.zeros((12, 2, 2)),
    "scalar": np.float64(1),
    "missing": np.full(12, np.nan),
    "inf": np.full(12, np.inf),
    "text": np.array(list("abcdefghijkl")),
    "objects": np.array([None] * 12),
    "complex": np.ones(12, complex),
    "records": np.zeros(12, [("a\nb", float)]),
    "none": np.zeros((12, 0)),
    "dates": np.zeros(12, "M8[s]"),
}


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("call", ["fit vae --epochs 1 --latents 1 --context age", "score"])
def test_contexts(judge, words, tmp_path, name, call):
    path = tmp_path / "rows.npz"
    x = np.random.default_rng(0).normal(size=(12, 4))
    np.savez(path, x=x, age=CONTEXTS[name])
    end = " --quiet --out {out}/m.safetensors" if call != "score" else " --out {out}/z.csv"
    call = "score {small}/age.safetensors" if call == "score" else call
    judge.refused(*words(f"{call}{end}"), "--data", path)


@pytest.mark.parametrize("key", ["", "x", "no", "y.npy", "../y", "a" * 999, "\n", "LABEL", "0"])
def test_names_of_contexts(judge, words, key):
    call = words("fit vae --data {x} --epochs 1 --latents 1 --quiet --out {out}/m.safetensors")
    judge.refused(*call, f"--context={key}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("verb", ["impute", "score", "reconstruct"])
def test_odd_rows_with_holes(judge, words, tmp_path, name, verb):
    x = ODD[name].astype(np.float64)
    x[0, 0] = np.nan
    np.save(tmp_path / "rows.npy", x)
    ends = {"impute": "--draws 2 --out {out}/i.npz", "score": "--out {out}/s.csv"}
    ends |= {"reconstruct": "--out {out}/r.csv"}
    draws = "" if verb == "reconstruct" else "--samples 3"
    judge(*words(f"{verb} {{m}} {draws} {ends[verb]} --data"), tmp_path / "rows.npy")


def test_rows_that_no_figure_shows(judge, words, tmp_path):
    np.save(tmp_path / "rows.npy", ODD["vast"])
    judge.refused(*words("report {m} --out {out}/r.html --data"), tmp_path / "rows.npy")
