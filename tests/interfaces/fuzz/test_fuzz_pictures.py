"""Folders of pictures and idx files: damaged, mixed, animated, and larger than they look."""

import gzip
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
FIT = "fit vae --latents 1 --net MLP(hidden=()) --epochs 1 --quiet --out {out}/m.safetensors"
KINDS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".webp": "WEBP",
}


def drawn(array=GREY, kind="PNG", **options):
    """The content of a picture."""
    file = io.BytesIO()
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(width, height, depth=8, kind=0, rows=b"", ends=True):
    """A PNG that declares whatever it likes."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + parts + (chunk(b"IEND", b"") if ends else b"")


@pytest.fixture
def fit(judge, words, tmp_path):
    """Judges a fit on a folder of files by name."""

    def call(files):
        folder = tmp_path / "pictures"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return judge(*words(FIT), "--data", folder)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(14))
@pytest.mark.parametrize("suffix", KINDS)
def test_damaged(fit, damaged, suffix, seed):
    content = drawn(COLOUR if seed % 2 else GREY, KINDS[suffix])
    fit({f"a{suffix}": content, f"b{suffix}": damaged(content, seed)})


def animated(kind):
    frames = [Image.new("L", (6, 6), shade) for shade in (0, 128, 255)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def clear(mode, kind="PNG"):
    picture = Image.new(mode, (6, 6))
    return drawn(picture, kind)


FOLDERS = {
    "nothing": {},
    "text": {"a.txt": b"x"},
    "hidden": {".a.png": drawn()},
    "text-as-picture": {"a.png": b"hello"},
    "empty-picture": {"a.png": b""},
    "zeros": {"a.png": bytes(500)},
    "sizes": {"a.png": drawn(), "b.png": drawn(GREY[:5])},
    "kinds": {"a.png": drawn(), "b.png": drawn(COLOUR)},
    "depths": {"a.png": drawn(), "b.png": drawn(GREY.astype(np.uint16))},
    "bits": {"a.png": drawn(GREY > 99), "b.png": drawn()},
    "classes-and-files": {"a.png": drawn(), "one/b.png": drawn()},
    "classes-of-other-sizes": {"one/a.png": drawn(), "two/b.png": drawn(GREY[:5])},
    "animated-gif": {"a.gif": animated("GIF")},
    "animated-webp": {"a.webp": animated("WEBP")},
    "animated-png": {"a.png": animated("PNG")},
    "pages": {"a.tif": animated("TIFF")},
    "clear": {"a.png": clear("RGBA")},
    "clear-grey": {"a.png": clear("LA")},
    "clear-palette": {"a.gif": drawn(Image.new("P", (6, 6)), "GIF", transparency=0)},
    "floats": {"a.tif": drawn(GREY.astype(np.float32), "TIFF")},
    "integers": {"a.tif": drawn(GREY.astype(np.int32) - 300, "TIFF")},
    "cmyk": {"a.jpg": drawn(Image.new("CMYK", (6, 6)), "JPEG")},
    "lab": {"a.tif": drawn(Image.new("LAB", (6, 6)), "TIFF")},
    "bomb": {"a.png": png(60_000, 60_000)},
    "bomb-below-the-limit": {"a.png": png(9000, 9000)},
    "bomb-wide": {"a.png": png(2**31 - 1, 1)},
    "bomb-endless": {"a.png": png(2**32 - 1, 2**32 - 1)},
    "no-pixels": {"a.png": png(0, 0)},
    "no-width": {"a.png": png(0, 6)},
    "depth-9": {"a.png": png(6, 6, depth=9)},
    "kind-7": {"a.png": png(6, 6, kind=7)},
    "rgb-16": {"a.png": png(6, 6, depth=16, kind=2, rows=bytes(37 * 6))},
    "short-rows": {"a.png": png(6, 6, rows=bytes(3))},
    "not-the-suffix": {"a.png": b"GIF89a" + bytes(40)},
    "pdf": {"a.png": b"%PDF-1.4\n"},
    "eps": {"a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"},
    "strange-name": {"a\n\x1b[31m.png": b""},
    "half-name": {"\udcff.png": b""},
    "strange-classes": {"a\nb/c.png": b"", "c\x1bd/c.png": b""},
}
RIGHT = {
    "one-pixel": {"a.png": drawn(GREY[:1, :1]), "b.png": drawn(GREY[1:2, :1])},
    "palette": {
        name: drawn(Image.fromarray(COLOUR).quantize(4), "PNG") for name in ("a.png", "b.png")
    },
    "opaque": {name: drawn(Image.new("RGBA", (6, 6), "red")) for name in ("a.png", "b.png")},
    "other-suffix": {"a.png": drawn(GREY, "BMP"), "b.bmp": drawn()},
    "trailing": {"a.png": drawn() + b"more", "b.png": drawn()},
    "upper-case": {"A.PNG": drawn(), "B.Png": drawn()},
    "one": {"a.png": drawn()},
    "no-palette": {"a.png": png(6, 6, kind=3, rows=bytes(42))},
    "more-rows": {"a.png": png(6, 6, rows=bytes(30_000_000))},
    "strange-classes": {"a\nb/c.png": drawn(), "c\x1bd/c.png": drawn(), "\udcff/c.png": drawn()},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(fit, name):
    assert fit(FOLDERS[name]).code == 2


@pytest.mark.parametrize("name", RIGHT)
def test_folders_that_may_be_right(fit, name):
    fit(RIGHT[name])


def idx(kind=8, shape=(3, 6, 6), content=None, zeros=0):
    head = struct.pack(">HBB", zeros, kind, len(shape)) + struct.pack(f">{len(shape)}I", *shape)
    return head + (bytes(range(108)) if content is None else content)


IDX = {
    "nothing": b"",
    "two-bytes": b"\0\0",
    "head": idx()[:4],
    "sizes": idx()[:10],
    "no-axis": idx(shape=()),
    "one-axis": idx(shape=(108,)),
    "no-rows": idx(shape=(0, 6, 6), content=b""),
    "no-columns": idx(shape=(3, 0, 6), content=b""),
    "more-axes": idx(shape=(1,) * 255, content=b"1"),
    "many-axes": idx(shape=(1,) * 80, content=b"1"),
    "huge": idx(shape=(2**32 - 1,) * 3),
    "large": idx(shape=(60_000, 28, 28)),
    "zero-times-huge": idx(shape=(0,) + (2**32 - 1,) * 30, content=b""),
    "short": idx()[:-1],
    "long": idx() + b"1",
    "another-kind": idx(kind=7),
    "not-zeros": idx(zeros=1),
    "inf": idx(kind=13, shape=(1, 4), content=struct.pack(">4f", 0, 1, 2, float("inf"))),
    "text": b"hello, world",
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", IDX)
def test_idx(judge, words, tmp_path, name, packed):
    path = tmp_path / f"a.idx{packed}"
    path.write_bytes(gzip.compress(IDX[name]) if packed else IDX[name])
    judge.refused(*words(FIT), "--data", path)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_damaged_idx(judge, words, damaged, tmp_path, packed, seed):
    path = tmp_path / f"a.idx{packed}"
    content = idx() if not packed else gzip.compress(idx(), mtime=0)
    path.write_bytes(damaged(content, seed))
    judge(*words(FIT), "--data", path)


def test_gzip_bombs(judge, words, tmp_path):
    bomb = gzip.compress(idx() + bytes(200_000_000), compresslevel=1)
    for name in ("a.idx.gz", "images"):
        (tmp_path / name).write_bytes(bomb)
        judge.refused(*words(FIT), "--data", tmp_path / name)


LABELS = {
    "short": idx(shape=(2,), content=b"12"),
    "long": idx(shape=(4,), content=b"1234"),
    "broad": idx(shape=(3, 2), content=b"123456"),
    "damaged": idx(shape=(3,), content=b"1"),
    "nothing": b"",
    "halves": idx(kind=13, shape=(3,), content=struct.pack(">3f", 0.5, 1.5, 2.5)),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_beside(judge, words, tmp_path, name):
    (tmp_path / "t-images-idx3-ubyte").write_bytes(idx())
    (tmp_path / "t-labels-idx1-ubyte").write_bytes(LABELS[name])
    judge.refused(*words(FIT), "--data", tmp_path / "t-images-idx3-ubyte")
