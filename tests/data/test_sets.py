"""OMNIGLOT, Frey faces, CIFAR-10: splits are disjoint, complete and what they say."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from latently.data import cifar, load

SPLITS = ("train", "validation", "test", "train+val")
SIZES = {
    "omniglot:8bit": (22_722, 1_623, 8_115, 24_345),
    "frey:8bit": (1_565, 200, 200, 1_765),
    "cifar10:subset-8bit": (9_000, 1_000, 2_000, 10_000),
}
SHAPES = {
    "omniglot:8bit": (1, 28, 28),
    "frey:8bit": (1, 28, 20),
    "cifar10:subset-8bit": (3, 32, 32),
}


@pytest.mark.slow
@pytest.mark.parametrize("spec", list(SIZES))
def test_sizes_and_kind(image_folder, spec):
    parts = [load(f"{spec}/{split}", data_dir=image_folder) for split in SPLITS]
    assert tuple(map(len, parts)) == SIZES[spec]
    for split, part in zip(SPLITS, parts, strict=True):
        assert (part.shape, part.levels) == (SHAPES[spec], 256)
        assert part.protocol == f"{spec}/{split}"
        assert part.x.is_contiguous()
        assert (part.labels is None) == spec.startswith("frey")
    rows = [{row.numpy().tobytes() for row in part.x} for part in parts]
    assert rows[0] | rows[1] == rows[3]
    assert not rows[0] & rows[1]
    assert not rows[2] & rows[3]


def test_omniglot_is_split_by_drawer(image_folder):
    validation = load("omniglot:8bit/validation", data_dir=image_folder)
    with np.load(image_folder / "omniglot" / "omniglot28.npz") as arrays:
        x = arrays["x"]
    assert np.array_equal(validation.x[:, 0].numpy(), x[14::20])
    static = load("omniglot:binary-static-seed2/validation", data_dir=image_folder)
    expected = np.random.default_rng(2).random(x.shape) < x / 255
    assert np.array_equal(static.x[:, 0].numpy(), expected[14::20])
    dynamic = load("omniglot:binary-dynamic/validation", data_dir=image_folder)
    expected = np.random.default_rng(0).random(x[14::20].shape) < x[14::20] / 255
    assert np.array_equal(dynamic.x[:, 0].numpy(), expected)
    assert load("omniglot:binary-dynamic", data_dir=image_folder).redraw is not None


def test_omniglot_contexts(image_folder, refused):
    data = load("omniglot:8bit/test", data_dir=image_folder, context="alphabet")
    assert data.context.argmax(1).tolist() == data.labels.tolist()
    schema = load("omniglot:8bit", data_dir=image_folder, context="alphabet").to_schema()
    again = load("omniglot:8bit/test", data_dir=image_folder, like=schema)
    assert torch.equal(again.context, data.context)
    with refused("drawer", "no training row had"):  # held out are other drawers
        load("omniglot:8bit/test", data_dir=image_folder, context="drawer")
    with refused("known: alphabet, character, drawer, label"):
        load("omniglot:8bit", data_dir=image_folder, context="style")


def test_frey_is_split_by_blocks_of_frames(image_folder):
    with np.load(image_folder / "frey_faces" / "frey_faces.npz") as arrays:
        frames = {x.tobytes(): i for i, x in enumerate(arrays["x"])}
    test = load("frey:8bit/test", data_dir=image_folder).x.byte()[:, 0].numpy()
    found = [frames[x.tobytes()] for x in test]
    blocks = np.random.default_rng(0).permutation(40)[:4]
    assert found == [i for i in range(1965) if i // 50 in blocks]


def test_cifar_subset_is_channels_first(image_folder):
    with np.load(image_folder / "cifar10" / "test.npz") as arrays:
        x = arrays["x"]
    data = load("cifar10:subset-8bit/test", data_dir=image_folder)
    assert np.array_equal(data.x.numpy(), x.transpose(0, 3, 1, 2))


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """Fake batches of 20 rows each, as the official archive holds them."""
    monkeypatch.setattr(cifar, "_PER_FILE", 20)
    rows = np.random.default_rng(0).integers(0, 256, (6, 20, 3073), dtype=np.uint8)
    rows[:, :, 0] = np.arange(20) % 10
    x = rows[:5, :, 1:].reshape(100, 3, -1).transpose(1, 0, 2).reshape(3, -1)
    monkeypatch.setitem(cifar._MEAN, "train", tuple(x.mean(1)))
    monkeypatch.setitem(cifar._DEVIATION, "train", tuple(x.std(1)))
    (tmp_path / "cifar10").mkdir()
    return tmp_path, dict(zip([*cifar._FILES["train"], "test_batch.bin"], rows, strict=True))


def check_official(root, batches):
    data = load("cifar10:8bit/train+val", data_dir=root)
    rows = np.concatenate([batches[name] for name in cifar._FILES["train"]])
    assert np.array_equal(data.x.numpy().reshape(100, -1), rows[:, 1:])
    assert data.labels.tolist() == rows[:, 0].tolist()
    validation = load("cifar10:8bit/validation", data_dir=root)
    assert torch.equal(validation.x, data.x[90:])
    assert len(load("cifar10:8bit/test", data_dir=root)) == 20


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin/"])
def test_official_cifar_as_files(batches, inner, refused):
    root, files = batches
    (root / "cifar10" / inner).mkdir(exist_ok=True)
    for name, rows in files.items():
        (root / "cifar10" / f"{inner}{name}").write_bytes(rows.tobytes())
    check_official(root, files)
    path = root / "cifar10" / f"{inner}data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with refused("data_batch_3.bin", "61,459 bytes, not 61,460"):
        load("cifar10:8bit", data_dir=root)
    path.write_bytes(bytes(61_460))
    with refused("not the original images"):
        load("cifar10:8bit", data_dir=root)
    path.unlink()
    with refused("no such file", "data_batch_3.bin"):
        load("cifar10:8bit", data_dir=root)


def test_official_cifar_as_an_archive(batches, monkeypatch, refused):
    root, files = batches
    path = root / "cifar10" / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, rows in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = rows.nbytes
            archive.addfile(member, io.BytesIO(rows.tobytes()))
    with refused("cifar-10-binary.tar.gz", "SHA-256"):
        load("cifar10:8bit", data_dir=root)
    monkeypatch.setattr(cifar, "_SHA", hashlib.sha256(path.read_bytes()).hexdigest())
    check_official(root, files)


def test_the_pickled_cifar_is_never_read(tmp_path, refused):
    (tmp_path / "cifar10").mkdir()
    with refused("cifar-10-binary.tar.gz", "https://", "--data-dir"):
        load("cifar10:8bit", data_dir=tmp_path)
    (tmp_path / "cifar10" / "cifar-10-python.tar.gz").write_bytes(b"")
    with refused("cifar-10-python.tar.gz holds pickles", "cifar-10-binary.tar.gz"):
        load("cifar10:8bit", data_dir=tmp_path)


@pytest.mark.parametrize("spec", list(SIZES))
def test_missing_sets_say_where_they_belong(spec, tmp_path, refused):
    with refused(str(tmp_path), "LATENTLY_DATA", "--data-dir", ".npz"):
        load(spec, data_dir=tmp_path)


@pytest.mark.skipif("LATENTLY_DATA" not in os.environ, reason="needs the real images")
@pytest.mark.parametrize("spec", ["mnist:8bit", "fashion:8bit", *SIZES])
def test_the_real_sets_are_the_originals(spec):
    folder = {"fashion": "fashion_mnist", "frey": "frey_faces"}
    name = spec.partition(":")[0]
    if not (Path(os.environ["LATENTLY_DATA"]) / folder.get(name, name)).is_dir():
        pytest.skip(f"no {name} there")
    assert [len(load(f"{spec}/{split}")) for split in SPLITS] == list(
        SIZES.get(spec, (50_000, 10_000, 10_000, 60_000))
    )
