"""A SPEC names one thing; what it does not name is refused with the closest that exists."""

import numpy as np
import pytest
import torch

from latently.data import Data, hold_out, load, names, splits


@pytest.fixture
def table(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3))
    np.savez(tmp_path / "table.npz", x=x, y=np.arange(50))
    return tmp_path / "table.npz"


def test_names_hold_every_protocol():
    found = dict(names())
    assert "digits" in found
    for name in ("mnist", "fashion"):
        for protocol in ("binary-dynamic", "binary-static-seed0", "8bit"):
            assert f"{name}:{protocol}" in found
    assert all(about and "\n" not in about for about in found.values())


def test_split_in_the_spec_or_as_argument():
    assert load("digits").protocol == "digits/train"
    assert load("digits", "test").protocol == "digits/test"
    assert load("digits/test", "test").protocol == "digits/test"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digts", ["digts", "did you mean digits?"]),
        ("mnits:8bit", ["did you mean"]),
        ("", ["known", "digits"]),
        ("zzzz", ["known", "digits", ".npz"]),
        ("digits/tests", ["did you mean test?"]),
        ("digits:8bit", ["one protocol"]),
        ("mnist:8bits", ["did you mean 8bit?"]),
        ("mnist:8bit/dev", ["no split 'dev'", "known", "validation"]),
        ("nowhere.npz", ["no such file", "nowhere.npz"]),
        ("nowhere.npz/train", ["no such file", "nowhere.npz"]),
        ("table.csv", ["no such file", "table.csv"]),
        ("a/b/c", ["no such file"]),
        ("table.npz/test", ["no split 'test'", "train, validation"]),
        (np.zeros((2, 2)), ["ndarray", "from_array"]),
    ],
)
def test_bad_specs(spec, words, refused):
    with refused(*words):
        load(spec)
    with refused(*words):
        splits(spec)


def test_a_file_of_another_format(tmp_path, refused):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n")
    with refused("cannot read", "table.csv", ".npz"):
        load(path)


def test_conflicting_splits(refused):
    with refused("'test'", "'train'"):
        load("digits/test", "train")


def test_a_real_path_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("digits.npz", x=np.full((2, 2), 0.5))
    assert load("digits.npz").shape == (2,)
    (tmp_path / "odd.npz").mkdir()
    np.savez("odd.npz/train.npz", x=np.full((2, 4), 0.5))
    assert load("odd.npz/train.npz").shape == (4,)


def test_file_splits_are_a_partition_by_seed(table):
    whole = load(table)
    train, validation = splits(table, validation=0.2, seed=3)
    assert [d.protocol for d in (whole, train, validation)] == [
        "table.npz",
        "table.npz/train",
        "table.npz/validation",
    ]
    assert [len(d) for d in (train, validation)] == [40, 10]
    both = torch.cat([train.labels, validation.labels])
    assert sorted(both.tolist()) == list(range(50))
    assert torch.equal(whole.x[train.labels], train.x)
    order = np.random.default_rng(3).permutation(50)
    assert validation.labels.tolist() == order[:10].tolist()
    for part in (train, validation):
        again = load(f"{table}/{part.protocol.split('/')[1]}", validation=0.2, seed=3)
        assert again.digest() == part.digest()
    assert splits(table, validation=0.2, seed=4)[0].digest() != train.digest()


def test_default_validation_of_a_file(table, tmp_path):
    for spec in (table, f"{table}/train"):
        train, validation = splits(spec)
        assert (len(train), len(validation)) == (45, 5)
    for none in (0, 0.0, "0"):
        train, validation = splits(table, validation=none)
        assert (train.protocol, len(train), validation) == ("table.npz", 50, None)
    np.save(tmp_path / "one.npy", np.full((1, 3), 0.5))
    assert splits(tmp_path / "one.npy")[1] is None


def test_splits_of_a_named_set():
    train, validation = splits("digits")
    assert [d.protocol for d in (train, validation)] == ["digits/train", "digits/validation"]
    assert splits("digits/train")[1].digest() == validation.digest()
    both, none = splits("digits/train+val")
    assert (both.protocol, none) == ("digits/train+val", None)
    assert splits("digits", validation=0)[1] is None


def test_validation_from_another_spec(table, tmp_path, refused):
    x = np.random.default_rng(1).integers(0, 9, size=(20, 3))
    np.savez(tmp_path / "a.npz", x=np.vstack([x, [[9, 9, 9]]]))
    np.savez(tmp_path / "b.npz", x=x)
    train, validation = splits(tmp_path / "a.npz", validation=str(tmp_path / "b.npz"))
    assert (len(train), len(validation)) == (21, 20)
    assert train.levels == validation.levels == 10
    with refused("(1, 8, 8)", "(3,)"):
        splits(table, validation="digits/validation")
    with refused("training data"):
        splits(table, validation=table)


@pytest.mark.parametrize(
    ("spec", "validation", "word"),
    [
        ("digits/test", None, "held out"),
        ("digits/validation", None, "held out"),
        ("table.npz/validation", None, "held out"),
        ("digits", 0.1, "own validation split"),
        ("digits", "digts", "did you mean"),
    ],
)
def test_bad_validation(spec, validation, word, refused):
    with refused(word):
        splits(spec, validation=validation)


def test_hold_out_refuses_impossible_shares(table, refused):
    data = load(table)
    for fraction in (-0.1, 0, 1, 2.5, float("nan")):
        with refused("validation="):
            hold_out(data, fraction)
    with refused("validation=-1"):
        splits(table, validation="-1")
    with refused("1 row "):
        hold_out(data.rows([0]), 0.5)
    train, validation = hold_out(data.rows([0, 1]), 0.1)
    assert (len(train), len(validation)) == (1, 1)


def test_options(table, refused):
    assert load(table, family="StudentT").family == "StudentT"
    assert load("digits", family="Normal").levels == 17
    with refused("levels=256", "17"):
        load("digits", levels=256)
    with refused("0..4"):
        load(table, levels=5)


def test_like_reads_a_file_as_the_model_does(tmp_path, refused):
    schema = Data.from_array([[0, 16]], protocol="digits/train").to_schema()
    np.save(tmp_path / "one.npy", np.array([[0, 1]]))
    assert load(tmp_path / "one.npy", like=schema).levels == 17
    np.save(tmp_path / "two.npy", np.array([[0, 17]]))
    with refused("17", "two.npy"):
        load(tmp_path / "two.npy", like=schema)
    with refused("(1, 8, 8)", "(2,)"):
        load("digits/test", like=schema)
