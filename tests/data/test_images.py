"""The protocols: splits are disjoint and complete, held-out images follow the formula."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from latently.data import load
from latently.data.images import DIGITS, MNIST

PROTOCOLS = ["binary-dynamic", "binary-static-seed0", "8bit"]


def raw(folder, file, name="mnist"):
    with np.load(folder / name / f"{file}.npz") as arrays:
        return arrays["x"]


def test_digits_splits_cover_the_set_once():
    parts = [load(f"digits/{split}") for split in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [1257, 180, 360]
    order = np.random.default_rng(0).permutation(1797)
    x = torch.cat([p.x for p in parts]).squeeze(1).numpy()
    assert np.array_equal(x, load_digits().images[order])
    labels = torch.cat([p.labels for p in parts]).numpy()
    assert np.array_equal(labels, load_digits().target[order])
    both = load("digits/train+val")
    assert torch.equal(both.x, torch.cat([p.x for p in parts[:2]]))


def test_digits_kind():
    data = load("digits")
    assert data.protocol == "digits/train"
    assert (data.shape, data.levels, data.x.dtype) == ((1, 8, 8), 17, torch.float32)
    assert data.family == "DiscretizedLogistic(levels=17)"
    assert load("digits/test").digest() != data.digest()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sizes_and_kind(image_folder, protocol):
    sizes = {"train": 50_000, "validation": 10_000, "test": 10_000, "train+val": 60_000}
    for split, n in sizes.items():
        data = load(f"mnist:{protocol}/{split}", data_dir=image_folder)
        assert (len(data), data.shape) == (n, (1, 28, 28))
        assert data.x.dtype is torch.float32
        assert data.levels == (256 if protocol == "8bit" else 2)
        assert data.protocol == f"mnist:{protocol}/{split}"
        assert data.labels.tolist() == [
            (i + 50_000 * (split == "validation")) % 10 for i in range(n)
        ]
        assert (data.redraw is not None) == (
            protocol == "binary-dynamic" and split.startswith("train")
        )


def test_8bit_is_the_file(image_folder):
    x = raw(image_folder, "train")
    for split, part in (("train", slice(50_000)), ("validation", slice(50_000, None))):
        data = load(f"mnist:8bit/{split}", data_dir=image_folder)
        assert np.array_equal(data.x.squeeze(1).numpy(), x[part])


@pytest.mark.slow
def test_held_out_images_follow_the_formula(image_folder):
    def formula(x):
        return np.random.default_rng(0).random(x.shape) < x / 255

    train, test = raw(image_folder, "train"), raw(image_folder, "test")
    expected = {
        "mnist:binary-dynamic/test": formula(test),
        "mnist:binary-dynamic/validation": formula(train[50_000:]),
        "mnist:binary-static-seed0/test": formula(test),
        "mnist:binary-static-seed0/validation": formula(train)[50_000:],
    }
    for spec, x in expected.items():
        assert np.array_equal(load(spec, data_dir=image_folder).x.squeeze(1).numpy(), x), spec


def test_dynamic_training_images_are_grey_until_drawn(image_folder):
    data = load("mnist:binary-dynamic", data_dir=image_folder)
    assert torch.allclose(
        data.x[:9].squeeze(1) * 255, torch.tensor(raw(image_folder, "train")[:9]).float()
    )
    torch.manual_seed(0)
    first, second = data.batch(slice(0, 9))[0], data.batch(slice(0, 9))[0]
    torch.manual_seed(0)
    assert torch.equal(first, data.batch(slice(0, 9))[0])
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 1.0}


def test_any_seed_of_a_static_protocol(image_folder, refused):
    test = raw(image_folder, "test")
    expected = np.random.default_rng(3).random(test.shape) < test / 255
    data = load("mnist:binary-static-seed3/test", data_dir=image_folder)
    assert np.array_equal(data.x.squeeze(1).numpy(), expected)
    assert data.protocol == "mnist:binary-static-seed3/test"
    for bad in ("seed03", "seed-1", "seed", "seed1234567890", "seed1\n"):
        with refused("no protocol"):
            load(f"mnist:binary-static-{bad}/test", data_dir=image_folder)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_the_original_idx_files(image_folder, tmp_path, suffix, dot):
    (tmp_path / "mnist").mkdir()
    with np.load(image_folder / "mnist" / "test.npz") as arrays:
        for kind, axes, array in (("images", 3, arrays["x"]), ("labels", 1, arrays["y"])):
            sizes = struct.pack(f">HBB{axes}I", 0, 8, axes, *array.shape)
            content = sizes + array.tobytes()
            path = tmp_path / "mnist" / f"t10k-{kind}{dot}idx{axes}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content, 1) if suffix else content)
    data = load("mnist:8bit/test", data_dir=tmp_path)
    assert data.digest() == load("mnist:8bit/test", data_dir=image_folder).digest()
    assert data.labels.tolist() == [i % 10 for i in range(10_000)]


@pytest.mark.slow
def test_other_containers_pass_and_other_contents_do_not(image_folder, tmp_path, refused):
    (tmp_path / "mnist").mkdir()
    path = tmp_path / "mnist" / "test.npz"
    with np.load(image_folder / "mnist" / "test.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    np.savez_compressed(path, y=y.astype(np.int64), x=x.astype(np.int32))
    assert len(load("mnist:8bit/test", data_dir=tmp_path)) == 10_000
    np.savez(path, x=x[::-1], y=y[::-1])
    with refused("test.npz", "not the original images of mnist", "by its path"):
        load("mnist:8bit/test", data_dir=tmp_path)


def test_fashion_has_its_own_folder_and_name(image_folder, monkeypatch):
    monkeypatch.setenv("LATENTLY_DATA", str(image_folder))
    data = load("fashion:8bit/test")
    assert data.protocol == "fashion:8bit/test"
    x = raw(image_folder, "test", "fashion_mnist")
    assert np.array_equal(data.x.squeeze(1).numpy(), x)


def test_a_bare_name_is_no_benchmark(refused):
    with refused("nats", *(f"mnist:{p}" for p in PROTOCOLS)):
        load("mnist")
    with refused("nats"):
        load("fashion/test")


def test_missing_folder(tmp_path, refused, monkeypatch):
    monkeypatch.delenv("LATENTLY_DATA", raising=False)
    hint = ("LATENTLY_DATA", "--data-dir", "mnist/train.npz", "mnist/test.npz", "keys x, y")
    hint += ("-ubyte.gz", "http://yann.lecun.com")
    with refused("no folder set", *hint):
        load("mnist:8bit")
    with refused(str(tmp_path), *hint):
        load("mnist:8bit", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((100, 28, 28), np.uint8), "y": np.zeros(100, int)}, ["(100, 28, 28)"]),
        ({"x": np.zeros((10_000, 784), np.uint8), "y": np.zeros(10_000, int)}, ["(10000, 784)"]),
        ({"x": np.zeros((10_000, 28, 28)), "y": np.zeros(10_000, int)}, ["float64"]),
        ({"x": np.zeros((10_000, 28, 28), np.uint8), "y": np.zeros(10_000, int)}, ["SHA-256"]),
        ({"x": np.zeros((10_000, 28, 28), np.uint8)}, ["labels y is missing"]),
        ({"x": np.zeros((10_000, 28, 28), np.uint8), "y": np.zeros(9, int)}, ["(9,)"]),
        ({"x": np.zeros((10_000, 28, 28), np.uint8), "y": np.zeros(10_000)}, ["float64"]),
    ],
)
def test_wrong_contents(tmp_path, refused, arrays, words):
    (tmp_path / "mnist").mkdir()
    np.savez_compressed(tmp_path / "mnist" / "test.npz", **arrays)
    with refused("test.npz", *words):
        load("mnist:8bit/test", data_dir=tmp_path)


def test_sources_refuse_unknown_words(refused):
    with refused("'binary-dynamc'", "did you mean binary-dynamic"):
        MNIST("binary-dynamc", "train")
    with refused("one protocol"):
        DIGITS("8bit")
    with refused("no split 'tset'", "did you mean test?"):
        DIGITS("", "tset")


@pytest.mark.skipif("LATENTLY_DATA" not in os.environ, reason="needs the real images")
def test_the_real_mnist():
    folder = Path(os.environ["LATENTLY_DATA"])
    if not (folder / "mnist").is_dir():
        pytest.skip("no MNIST there")
    both, test = (load(f"mnist:8bit/{split}") for split in ("train+val", "test"))
    # mean and standard deviation of the training pixels, as every tutorial quotes them
    assert float(both.x.double().mean()) / 255 == pytest.approx(0.1307, abs=5e-5)
    assert float(both.x.double().std()) / 255 == pytest.approx(0.3081, abs=5e-5)
    assert both.labels.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert test.labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


def test_heavy_libraries_wait_for_their_use():
    code = (
        "import sys, latently.data\n"
        "print([m for m in ('sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
