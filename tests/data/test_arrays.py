"""A file is hostile until read: bombs, truncation, pickles and riddles are refused in one line."""

import io
import zipfile

import numpy as np
import pytest

from latently.data.arrays import read_npy, read_npz
from latently.data.catalog import load


def header(shape, descr="<f8", version=(1, 0), extra=b""):
    """The bytes of a .npy that declares `shape` and holds only `extra`."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    size = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + extra


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy_bytes(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "arrays",
    [{"x": 0, "y": 1, "z": 0}, {"x": 0}, {"X": 0, "y": 1}, {"data": 0}],
)
def test_npz_keys(tmp_path, save, arrays):
    parts = [np.arange(6.0).reshape(2, 3), np.array([4, 5])]
    save(tmp_path / "a.npz", **{key: parts[i] for key, i in arrays.items()})
    x, y = read_npz(tmp_path / "a.npz")
    assert np.array_equal(x, parts[0])
    assert (y is None) == ("y" not in arrays)
    data = load(tmp_path / "a.npz")
    assert data.protocol == "a.npz"
    assert (data.labels is None) == ("y" not in arrays)


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, order):
    x = np.asarray(np.random.default_rng(0).normal(size=(4, 3)), order=order)
    np.save(tmp_path / "a.npy", x)
    assert np.array_equal(read_npy(tmp_path / "a.npy")[0], x)
    assert np.array_equal(load(tmp_path / "a.npy").x.numpy(), x)


def test_unclear_keys_are_listed(tmp_path, refused):
    np.savez(tmp_path / "a.npz", train=np.zeros((2, 2)), valid=np.zeros((2, 2)))
    with refused("a.npz", "'train', 'valid'", "np.savez"):
        read_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz")
    with refused("b.npz", "no arrays"):
        read_npz(tmp_path / "b.npz")


def test_names_inside_a_file_cannot_break_the_line(tmp_path, refused):
    content = npy_bytes(np.zeros((2, 2)))
    path = npz(tmp_path / "a.npz", **{"a\nb": content, "c\x1b[31m": content})
    with refused("a.npz", "np.savez"):
        read_npz(path)
    with refused("a.npz", "limit"):
        read_npz(npz(path, **{"a\nb": header((10**6, 10**6))}))


HUGE = (10**6, 10**6)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (header(HUGE), "limit"),
        (header(HUGE, "|u1"), "limit"),
        (header((10**400,)), "limit"),
        (header(HUGE, version=(2, 0)), "limit"),
        (header((4, 4), version=(3, 0)), "version"),
        (header((4, 4)), "truncated"),
        (header((-1, 4)), ""),
        (header((2, 2), "|O", extra=b"\0" * 99), "pickled"),
        (npy_bytes(np.array([[None, {}]]), allow_pickle=True), "pickled"),
        (b"", ""),
        (b"\x93NUMPY", ""),
        (b"not an array at all", ""),
        (header("(" * 5000), ""),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': (((((", ""),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_hostile_arrays(tmp_path, refused, content, word, suffix):
    path = tmp_path / f"bad{suffix}"
    if suffix == ".npz":
        npz(path, x=content)
    else:
        path.write_bytes(content)
    with refused(f"bad{suffix}", word):
        load(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, refused, monkeypatch):
    monkeypatch.setenv("LATENTLY_MEMORY_GIB", "0.001")
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((2000, 2000), dtype=np.uint8))
    with refused("a.npz", "LATENTLY_MEMORY_GIB"):
        read_npz(tmp_path / "a.npz")
    monkeypatch.setenv("LATENTLY_MEMORY_GIB", "lots")
    with refused("LATENTLY_MEMORY_GIB='lots'"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("keep", [0, 1, 30, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_truncated_files(tmp_path, refused, keep, suffix):
    path = tmp_path / f"a{suffix}"
    x = np.random.default_rng(0).normal(size=(100, 5))
    if suffix == ".npz":
        np.savez_compressed(path, x=x)
    else:
        np.save(path, x)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with refused(f"a{suffix}"):
        load(path)


def test_flipped_bytes_never_give_a_traceback(tmp_path, refused):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(20, 5)))
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read_npz(path)
        except Exception:
            with refused("a.npz"):
                read_npz(path)


def test_a_damaged_cell_is_noticed(tmp_path, refused):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((200, 50)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with refused("a.npz", "CRC"):
        read_npz(path)


def test_a_missing_or_wrong_file(tmp_path, refused):
    with refused("no such file", "a.npz"):
        load(tmp_path / "a.npz")
    (tmp_path / "b.npz").mkdir()
    with refused("no such file", "b.npz"):
        load(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(npy_bytes(np.zeros((2, 2))))
    with refused("c.npz", "not a .npz file"):
        load(tmp_path / "c.npz")


def test_labels_of_a_file_are_checked(tmp_path, refused):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 2)), y=np.zeros(3))
    with refused("a.npz", "labels"):
        load(tmp_path / "a.npz")
