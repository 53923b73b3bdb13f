"""Contexts by name: encoded as the training rows are, wherever they are loaded."""

import json

import numpy as np
import pytest
import torch

from latently.data import Context, load, splits

N = 60


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "table.npz",
        x=rng.normal(size=(N, 2)),
        y=np.arange(N) % 3,
        age=rng.normal(50, 9, size=N),
        pose=rng.normal(size=(N, 2)),
        names=np.array(["a"] * N),
        short=np.zeros(3),
    )
    return tmp_path / "table.npz"


def test_labels(table):
    data = load(table, context="label")
    assert data.conditions == Context("label", classes=(0, 1, 2))
    assert data.context.argmax(1).tolist() == data.labels.tolist()
    assert load("digits/test", context="label").context.shape == (360, 10)


@pytest.mark.parametrize(("name", "width"), [("label", 3), ("age", 1), ("pose", 2), ("y", 3)])
def test_held_out_rows_are_encoded_as_the_training_rows(table, name, width):
    train, validation = splits(f"{table}/train", context=name, seed=1)
    assert train.context.shape == (len(train), width)
    assert validation.conditions == train.conditions
    if name in ("age", "pose"):
        assert torch.allclose(train.context.mean(0), torch.zeros(width), atol=1e-5)
        assert validation.context.mean(0).abs().max() > 1e-3
    assert load(f"{table}/validation", context=name, seed=1).digest() == validation.digest()
    schema = json.loads(json.dumps(train.to_schema()))
    test = load(f"{table}/test", like=schema)
    assert test.conditions == train.conditions
    assert load(f"{table}/test", context=name, seed=1).digest() == test.digest()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lable", ["did you mean label?"]),
        ("zzz", ["known: age, label, names, pose, short"]),
        ("x", ["known"]),
        ("names", ["takes numbers"]),
        ("short", ["(3,)", "60 rows"]),
    ],
)
def test_what_is_not_there(table, name, words, refused):
    with refused("table.npz", *words):
        load(table, context=name)


def test_nothing_to_be_conditioned_on(tmp_path, refused):
    np.save(tmp_path / "a.npy", np.full((3, 2), 0.5))
    with refused("a.npy", "'label'", "none at all"):
        splits(tmp_path / "a.npy", context="label")
    with refused("digits", "'drawer'", "known: label"):
        load("digits", context="drawer")


def test_a_model_asks_for_its_context(table, tmp_path, refused):
    schema = load(table, context="age").to_schema()
    np.savez(tmp_path / "other.npz", x=np.zeros((2, 2)) + 0.5, y=[0, 1])
    with refused("fitted with context 'age'", "other.npz", "label"):
        load(tmp_path / "other.npz", like=schema)
    with refused("context 'age'", "leave it out"):
        load(table, like=schema, context="label")
    with refused("without a context"):
        load(table, like=load(table).to_schema(), context="label")
    np.savez(tmp_path / "other.npz", x=np.zeros((2, 2)) + 0.5, age=[50.0, np.nan])
    with refused("other.npz", "nan", "row 1"):
        load(tmp_path / "other.npz", like=schema)


def test_an_unseen_class_is_named(table, tmp_path, refused):
    schema = load(table, context="label").to_schema()
    np.savez(tmp_path / "other.npz", x=np.zeros((2, 2)) + 0.5, y=[0, 7])
    with refused("other.npz", "7 in row 1", "0, 1, 2"):
        load(tmp_path / "other.npz", like=schema)
