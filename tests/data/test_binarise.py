"""A user's own grey values are made binary by the formula of the named sets, and stay so."""

import json

import numpy as np
import pytest
import torch

from latently.data import Binarise, load, splits
from latently.data.binarise import draw

X = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)


@pytest.fixture
def grey(tmp_path):
    np.savez(tmp_path / "grey.npz", x=X, y=np.arange(40))
    return tmp_path / "grey.npz"


def test_static_is_drawn_before_it_is_split(grey):
    expected = np.random.default_rng(3).random(X.shape) < X / 255
    whole = load(grey, binarise="static-seed3")
    assert np.array_equal(whole.x.numpy(), expected)
    assert (whole.levels, whole.family, whole.redraw) == (2, "Bernoulli", None)
    assert whole.protocol == "grey.npz:binary-static-seed3"
    parts = splits(grey, binarise="static-seed3")
    for part, split in zip(parts, (" without validation", "/validation"), strict=True):
        assert np.array_equal(part.x.numpy(), expected[part.labels])
        assert part.protocol == f"grey.npz:binary-static-seed3{split}"


def test_dynamic_redraws_rows_to_fit_on_and_draws_others_once(grey):
    train, validation = splits(grey, binarise="dynamic")
    assert train.redraw == Binarise()
    assert torch.allclose(train.x, torch.from_numpy(X[train.labels] / np.float32(255)))
    assert validation.redraw is None
    expected = np.random.default_rng(0).random(validation.x.shape) < X[validation.labels] / 255
    assert np.array_equal(validation.x.numpy(), expected)
    assert train.protocol == "grey.npz:binary-dynamic without validation"
    assert load(f"{grey}/validation", binarise="dynamic").digest() == validation.digest()
    assert set(train.once().x.unique().tolist()) == {0.0, 1.0}


def test_floats_are_grey_values_as_they_are(tmp_path, refused):
    x = np.random.default_rng(0).random((9, 3))
    np.save(tmp_path / "a.npy", x)
    expected = np.random.default_rng(1).random(x.shape) < x
    found = load(tmp_path / "a.npy", binarise="static-seed1").x
    assert np.array_equal(found.numpy(), expected)
    np.save(tmp_path / "a.npy", x * 2)
    with refused("a.npy", "binarise", "0..1"):
        load(tmp_path / "a.npy", binarise="dynamic")
    x[0, 0] = np.nan
    np.save(tmp_path / "a.npy", x)
    assert load(tmp_path / "a.npy", binarise="dynamic").missing == 1


def test_the_schema_remembers(grey, tmp_path):
    train, validation = splits(grey, binarise="dynamic", seed=2)
    schema = json.loads(json.dumps(train.to_schema()))
    assert (schema["binarise"], schema["grey_levels"], schema["levels"]) == ("dynamic", 256, 2)
    assert load(f"{grey}/validation", like=schema).digest() == validation.digest()
    # a darker file has the same grey scale, and binary data stay as they are
    np.save(tmp_path / "dark.npy", (X // 4).astype(np.int64))
    dark = load(tmp_path / "dark.npy", like=schema)
    assert torch.allclose(dark.x, torch.from_numpy((X // 4) / np.float32(255)))
    np.save(tmp_path / "binary.npy", X > 127)
    assert np.array_equal(load(tmp_path / "binary.npy", like=schema).once().x.numpy(), X > 127)
    static = load(grey, like=schema, binarise="static-seed0")
    assert static.protocol == "grey.npz:binary-static-seed0"


def test_validation_by_another_spec_is_read_alike(grey, tmp_path):
    np.save(tmp_path / "b.npy", X[::-1])
    train, validation = splits(grey, validation=str(tmp_path / "b.npy"), binarise="dynamic")
    assert train.redraw is not None
    assert validation.redraw is None
    assert validation.levels == 2


@pytest.mark.parametrize(
    "rule", ["static", "static-seed", "static-seed-1", "static-seed03", "yes", "dynamic\n", 3]
)
def test_unknown_rules(grey, rule, refused):
    with refused("binarise", "static-seedN"):
        load(grey, binarise=rule)


def test_a_named_set_has_its_protocols(refused):
    with refused("digits", "binarise"):
        load("digits", binarise="dynamic")


def test_draws_do_not_depend_on_chunks():
    x = np.random.default_rng(0).random((12_000, 2))
    assert np.array_equal(draw(x, 5), np.random.default_rng(5).random(x.shape) < x)
