"""Folders of pictures: every file one row, or one line that names the file."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from latently.data import load, splits

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (4, 5)).astype(np.uint16)
DEEP[0, 0] = 65535


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def save(path, array=GREY, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "tif", "tiff", "webp", "gif"])
def test_lossless_formats(photos, suffix):
    save(photos / f"a.{suffix}", COLOUR if suffix == "webp" else GREY, **{"lossless": True})
    data = load(photos)
    grey = torch.from_numpy(GREY)[None, None].float()
    colour = torch.from_numpy(COLOUR).permute(2, 0, 1)[None].float()
    assert torch.equal(data.x, colour if suffix == "webp" else grey)
    assert (data.levels, data.protocol, data.labels) == (256, "photos", None)
    assert data.family == "DiscretizedLogistic(levels=256)"


def test_jpeg_and_its_orientation(photos):
    save(photos / "a.jpg", np.full((4, 5, 3), 77, np.uint8))
    assert load(photos).x.unique().tolist() == [77]
    upright = Image.Exif()
    upright[0x0112] = 6
    save(photos / "a.jpg", np.full((5, 4, 3), 77, np.uint8), exif=upright)
    assert load(photos).shape == (3, 4, 5)


def test_kinds(photos):
    save(photos / "a.png", DEEP)
    data = load(photos)
    assert torch.equal(data.x[0, 0], torch.from_numpy(DEEP.astype(np.float32)))
    assert data.levels == 65536
    save(photos / "a.png", GREY > 99)
    assert load(photos).levels == 2
    save(photos / "a.png", (GREY > 99).astype(np.uint8))  # nearly black, and still of 256 levels
    assert load(photos).levels == 256


def test_order_is_by_name_and_hidden_files_are_ignored(photos):
    for i, name in enumerate(["b.png", "a.png", "c10.png", "c9.png"]):
        save(photos / name, GREY + np.uint8(i))
    save(photos / ".hidden.png", COLOUR)
    save(photos / ".cache" / "a.png", COLOUR)
    (photos / "notes.txt").write_text("none")
    (photos / "empty").mkdir()
    first = load(photos).x[:, 0, 0, 0] - float(GREY[0, 0])
    assert (first % 256).tolist() == [1, 0, 2, 3]


def test_sub_folders_are_classes(photos, tmp_path, refused):
    for name in ("dog", "cat", "eel"):
        for i in range(2):
            save(photos / name / f"{i}.png")
    data = load(photos)
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.to_schema()["classes"] == ["cat", "dog", "eel"]
    # a model's classes keep their numbers in a folder that lacks some
    other = tmp_path / "other"
    save(other / "eel" / "0.png")
    assert load(other).labels.tolist() == [0]
    assert load(other, like=data.to_schema()).labels.tolist() == [2]
    fitted = load(photos, context="label")
    assert load(other, like=fitted.to_schema()).context.tolist() == [[0, 0, 1]]
    save(other / "ant" / "0.png")
    with refused("label", "other"):
        load(other, like=fitted.to_schema())
    save(photos / "loose.png")
    with refused("loose.png", "cat"):
        load(photos)


def test_a_real_folder_wins_over_a_split(photos, monkeypatch, refused):
    for i in range(5):
        save(photos / "train" / f"{i}.png", GREY + np.uint8(i))
        save(photos / "more" / f"{i}.png")
    monkeypatch.chdir(photos.parent)
    assert (len(load("photos/train")), load("photos/train").protocol) == (5, "photos/train")
    assert load("photos/train/test").protocol == "photos/train/test"
    assert (len(load("photos")), len(load("photos/test"))) == (10, 1)
    assert [d.protocol for d in splits("photos/more")] == [
        "more without validation",
        "more/validation",
    ]
    with refused("photos has no split 'tset'", "did you mean test?"):
        load("photos/tset")
    with refused("no such file"):
        load("photos/more/tset.png")


def test_a_name_of_a_set_means_the_set(tmp_path, monkeypatch):
    save(tmp_path / "digits" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert len(load("digits")) == 1257
    assert len(load("./digits")) == 1


def test_alpha_is_dropped_where_it_is_opaque(photos, refused):
    opaque = np.dstack([COLOUR, np.full((4, 5), 255, np.uint8)])
    save(photos / "a.png", opaque)
    assert torch.equal(load(photos).x[0].byte().permute(1, 2, 0), torch.from_numpy(COLOUR))
    opaque[1, 1, 3] = 254
    save(photos / "a.png", opaque)
    with refused("photos/a.png", "transparent"):
        load(photos)


def test_palettes(photos, refused):
    for array, shape in ((GREY, (1, 4, 5)), (COLOUR, (3, 4, 5))):
        Image.fromarray(array).convert("P").save(photos / "a.png")
        assert load(photos).shape == shape
    Image.fromarray(GREY).convert("P").save(photos / "a.png", transparency=int(GREY[0, 0]))
    with refused("photos/a.png", "transparent"):
        load(photos)


def frames(path):
    images = [Image.fromarray(GREY + np.uint8(i)) for i in range(2)]
    images[0].save(path, save_all=True, append_images=images[1:])


def deep_colour(path):
    """A PNG of 16 bits a channel in colour, which Pillow reads as 8 bits."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(5 * 3 * 2) for _ in range(4))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def bomb(path):
    save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def cut(path):
    save(path, RNG.integers(0, 256, (50, 50), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("b.gif", frames, ["animated"]),
        ("b.tif", frames, ["pages"]),
        ("b.png", cut, ["damaged"]),
        ("b.png", lambda p: p.write_bytes(b""), ["damaged or no picture"]),
        ("b.jpg", lambda p: p.write_text("no\npicture"), ["damaged or no picture"]),
        ("b.png", bomb, ["bomb"]),
        ("b.png", deep_colour, ["16 bits", ".npz"]),
        ("b.tif", lambda p: Image.new("F", (5, 4)).save(p), ["mode F"]),
        ("b.jpg", lambda p: Image.new("CMYK", (5, 4)).save(p), ["mode CMYK"]),
        ("b.png", lambda p: save(p, GREY.T), ["a.png", "5 x 4", "4 x 5", "size"]),
        ("b.png", lambda p: save(p, COLOUR), ["a.png", "grey, 8 bit", "RGB, 8 bit"]),
        ("b.png", lambda p: save(p, DEEP), ["a.png", "grey, 16 bit"]),
    ],
)
def test_a_bad_picture_is_named(photos, name, spoil, words, refused):
    save(photos / "a.png")
    spoil(photos / name)
    with refused(name, *words):
        load(photos)


def test_no_pictures(photos, refused):
    with refused("no pictures", "photos", ".png"):
        load(photos)
    (photos / "sub").mkdir()
    (photos / "notes.txt").write_text("none")
    with refused("no pictures"):
        load(photos)


def test_the_memory_limit(photos, refused, monkeypatch):
    for i in range(4):
        save(photos / f"{i}.png", np.zeros((100, 100), np.uint8))
    monkeypatch.setenv("LATENTLY_MEMORY_GIB", "0.0001")
    with refused("4 pictures", "LATENTLY_MEMORY_GIB"):
        load(photos)
    monkeypatch.setenv("LATENTLY_MEMORY_GIB", "0.00001")
    with refused("0.png", "100 x 100", "LATENTLY_MEMORY_GIB"):
        load(photos)


def test_flipped_bytes_never_give_a_traceback(photos, refused):
    save(photos / "a.png", COLOUR)
    content = (photos / "a.png").read_bytes()
    for _ in range(200):
        damaged = bytearray(content)
        damaged[RNG.integers(len(content))] ^= 1 << RNG.integers(8)
        (photos / "a.png").write_bytes(damaged)
        try:
            load(photos)
        except Exception:
            with refused("a.png"):
                load(photos)


def test_no_picture_is_left_open(photos, recwarn):
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "png")
    (photos / "a.png").write_bytes(buffer.getvalue())
    load(photos)
    assert not [w for w in recwarn if w.category is ResourceWarning]
