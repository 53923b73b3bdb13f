"""Idx files say what they hold; what they do not hold is refused in one line."""

import gzip
import struct

import numpy as np
import pytest

from latently.data import load
from latently.data.idx import is_idx, read_idx

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5), dtype=np.uint8)
LABELS = np.arange(7, dtype=np.uint8)
CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array):
    code = CODES[array.dtype.newbyteorder("=").str[1:]]
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "train-images-idx3-ubyte",
        "train-images-idx3-ubyte.gz",
        "train-images.idx3-ubyte",
        "my-images.idx",
        "my-images.idx.gz",
        "pictures",
        "pictures.gz",
        "pictures.data",
    ],
)
def test_known_by_name_or_content(tmp_path, name, refused):
    pack = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(pack(idx(IMAGES)))
    data = load(tmp_path / name)
    assert np.array_equal(data.x.numpy(), IMAGES)
    assert (data.levels, data.protocol, data.labels) == (256, name, None)
    assert load(f"{tmp_path / name}/test").protocol == f"{name}/test"
    if "images" in name:
        (tmp_path / name.replace("images", "labels").replace("idx3", "idx1")).write_bytes(
            pack(idx(LABELS))
        )
        assert load(tmp_path / name).labels.tolist() == LABELS.tolist()


def test_labels_may_be_packed_otherwise(tmp_path, refused):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES))
    beside = tmp_path / "t10k-labels-idx1-ubyte.gz"
    beside.write_bytes(gzip.compress(idx(LABELS)))
    assert load(tmp_path / "t10k-images-idx3-ubyte").labels.tolist() == LABELS.tolist()
    beside.write_bytes(gzip.compress(idx(LABELS[:3])))
    with refused("t10k-images", "labels", "(3,)"):
        load(tmp_path / "t10k-images-idx3-ubyte")


@pytest.mark.parametrize("kind", list(CODES))
def test_every_type(tmp_path, kind):
    array = np.array([[0, 1], [100, 7]]).astype(kind)
    (tmp_path / "a.idx").write_bytes(idx(array))
    found = read_idx(tmp_path / "a.idx")[0]
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype


HUGE = struct.pack(">HBB3I", 0, 8, 3, 2**20, 2**20, 2**20)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "damaged"),
        (b"\0\0\x08", "damaged"),
        (b"\0\0\x08\x03\0\0", "damaged"),
        (b"\0\0\x07\x01\0\0\0\x01a", "not an idx file"),
        (b"\0\0\x08\0", "not an idx file"),
        (b"PNG and more", "not an idx file"),
        (idx(IMAGES)[:-1], "139"),
        (idx(IMAGES) + b"\0", "more"),
        (HUGE, "LATENTLY_MEMORY_GIB"),
        (struct.pack(">HBB255I", 0, 8, 255, *[2**32 - 1] * 255), "limit"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_hostile_files(tmp_path, content, word, pack, refused):
    name = "a.idx.gz" if pack is gzip.compress else "a.idx"
    (tmp_path / name).write_bytes(pack(content))
    with refused(name, word):
        load(tmp_path / name)


def test_damaged_compression(tmp_path, refused):
    content = gzip.compress(idx(IMAGES))
    for broken in (content[:-20], content[:5], content[:15] + b"????" + content[19:]):
        (tmp_path / "a.idx.gz").write_bytes(broken)
        with refused("a.idx.gz"):
            load(tmp_path / "a.idx.gz")


def test_a_bomb_unpacks_to_no_more_than_it_declares(tmp_path, refused):
    bomb = gzip.compress(idx(IMAGES) + bytes(10**8))
    (tmp_path / "a.idx.gz").write_bytes(bomb)
    with refused("a.idx.gz", "more"):
        load(tmp_path / "a.idx.gz")


def test_other_files_are_no_idx(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "zeros").write_bytes(bytes(9))
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"hello"))
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8bhello")
    assert not any(is_idx(path) for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "none"))
