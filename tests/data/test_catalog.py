"""A SPEC names one thing; what it does not name is refused with the closest that exists."""

import gzip
import json

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
        ("table.npz/tset", ["no split 'tset'", "did you mean test?"]),
        ("table.npz/dev", ["no split 'dev'", "train, train+val, validation"]),
        ("train-images-idx3-ubyte", ["no such file"]),
        (np.zeros((2, 2)), ["ndarray", "from_array"]),
    ],
)
def test_bad_specs(spec, words, refused):
    with refused(*words):
        load(spec)
    with refused(*words):
        splits(spec)


def test_a_file_of_another_format(tmp_path, refused):
    path = tmp_path / "table.ods"
    path.write_bytes(b"PK")
    with refused("cannot read", "table.ods", ".csv", ".npz"):
        load(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("it's.csv", '"a",b\n1.25,2.5\n3.75,\n'),
        ("bare.csv", "1.25,2.5\n3.75,\n"),
        ("semicolons.csv", "a;b\n1.25;2.5\n3.75;\n"),
        ("tabs.tsv", "a\tb\n1.25\t2.5\n3.75\t\n"),
        ("blanks.txt", "1.25 2.5\n3.75 nan\n"),
        ("packed.csv.gz", "a,b\n1.25,2.5\n3.75,\n"),
    ],
)
def test_a_table_of_text(name, text, tmp_path, refused):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    first, second = load(path).table.columns
    kinds = {first.name: "real", second.name: "constant"}
    train, held = splits(path, validation=0, kinds=kinds)
    assert held is None
    assert train.x.tolist() == [[1.25], [3.75]]
    assert train.frame is not None
    path.write_bytes(b"\xff\x00")  # whatever is in it, no traceback
    with refused(name):
        load(path)


def test_rows_of_a_table_are_read_as_those_of_the_fit(tmp_path):
    path = tmp_path / "people.csv"
    lines = [f"{20 + k % 40}.5,{'yes' if k % 3 else 'no'},{k}" for k in range(60)]
    path.write_text("\n".join(["age,smokes,id", *lines]))
    data = load(path)
    assert data.table.names == ("age", "smokes")
    assert any("'id'" in notice for notice in data.notices)
    other = tmp_path / "others.csv"
    other.write_text("smokes,age\nyes,\nmaybe,31\n")
    new = load(other, like=data.to_schema())
    assert new.x.tolist() == [[0, 1], [31, 0]]
    assert new.mask.tolist() == [[False, True], [True, False]]
    assert any("maybe" in notice for notice in new.notices)


@pytest.mark.parametrize("option", [{"levels": 3}, {"binarise": "dynamic"}, {"context": "label"}])
def test_options_that_a_table_has_no_use_for(option, tmp_path, refused):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1.5,2\n2.5,1\n")
    with refused("is a table", "leave it out"):
        load(path, **option)


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
        "table.npz without validation",
        "table.npz/validation",
    ]
    order = np.random.default_rng(3).permutation(50)
    expected = {
        "test": order[:5],
        "validation": order[5:15],
        "train": order[15:],
        "train+val": order[5:],
    }
    for name, rows in expected.items():
        data = load(f"{table}/{name}", validation=0.2, seed=3)
        assert data.labels.tolist() == rows.tolist()
        assert data.protocol == f"table.npz/{name}"
        assert torch.equal(whole.x[data.labels], data.x)
    assert train.labels.tolist() == [*order[:5], *order[15:]]
    assert validation.digest() == load(f"{table}/validation", validation=0.2, seed=3).digest()
    assert splits(table, validation=0.2, seed=4)[0].digest() != train.digest()


def test_fitting_on_the_train_split_leaves_test_rows_alone(table):
    train, validation = splits(f"{table}/train", validation=0.2, seed=3)
    assert [d.protocol for d in (train, validation)] == ["table.npz/train", "table.npz/validation"]
    test = load(f"{table}/test", seed=3)
    every = torch.cat([train.labels, validation.labels, test.labels])
    assert sorted(every.tolist()) == list(range(50))
    assert splits(table, validation=0.2, seed=3)[1].digest() == validation.digest()
    both, none = splits(f"{table}/train+val", seed=3)
    assert (both.protocol, len(both), none) == ("table.npz/train+val", 45, None)
    alone, none = splits(f"{table}/train", validation=0)
    assert (alone.protocol, len(alone), none) == ("table.npz/train", 40, None)


def test_a_model_remembers_the_draw_of_its_splits(table):
    train, validation = splits(table, validation=0.2, seed=3)
    schema = json.loads(json.dumps(train.to_schema()))
    assert load(f"{table}/validation", like=schema).digest() == validation.digest()
    assert load(f"{table}/validation", like=schema, seed=0).digest() != validation.digest()
    del schema["split"]  # as earlier versions wrote it
    assert len(load(f"{table}/validation", like=schema)) == 5


@pytest.mark.parametrize(
    "split", [3, {"seed": -1}, {"seed": "1"}, {"validation": None}, {"seed": 2**70}]
)
def test_a_damaged_split_is_refused(table, split, refused):
    with refused("split", "damaged"):
        load(table, like={**load(table).to_schema(), "split": split})


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_rows(tmp_path, n, refused):
    path = tmp_path / "few.npy"
    np.save(path, 0.5 + np.arange(float(n))[:, None])
    if n == 1:
        assert splits(path)[1] is None
        for split in ("train", "validation", "test", "train+val"):
            with refused("few.npy", "1 row,"):
                load(f"{path}/{split}")
        return
    assert [len(d) for d in splits(path)] == [n - 1, 1]
    if n == 2:
        with refused("few.npy", "2 rows", "/train"):
            load(f"{path}/train")
    else:
        parts = [len(load(f"{path}/{s}")) for s in ("train", "validation", "test")]
        assert parts == [n - 2, 1, 1]


def test_default_validation_of_a_file(table, tmp_path):
    train, validation = splits(table)
    assert (len(train), len(validation)) == (45, 5)
    train, validation = splits(f"{table}/train")
    assert (len(train), len(validation)) == (40, 5)
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
        ("{table}/validation", None, "held out"),
        ("{table}/test", None, "held out"),
        ("{table}/train+val", 0.2, "holds the validation rows"),
        ("{table}/train", 0.95, "leaves none"),
        ("{table}", 0.95, "leaves none"),
        ("{table}", "{table}/test", "test rows"),
        ("{table}", "{table}/validation", "table.npz/train"),
        ("digits", 0.1, "own validation split"),
        ("digits", "digts", "did you mean"),
    ],
)
def test_bad_validation(table, spec, validation, word, refused):
    if isinstance(validation, str):
        validation = validation.format(table=table)
    with refused(word):
        splits(spec.format(table=table), validation=validation)


def test_the_validation_split_as_another_spec(table):
    train, validation = splits(f"{table}/train", validation=f"{table}/validation", seed=3)
    assert validation.digest() == splits(f"{table}/train", seed=3)[1].digest()
    assert not set(train.labels.tolist()) & set(validation.labels.tolist())


def test_hold_out_refuses_impossible_shares(table, refused):
    data = load(table)
    for fraction in (-0.1, 0, 1, 2.5, float("nan")):
        with refused("validation="):
            hold_out(data, fraction)
    with refused("validation=-1"):
        splits(table, validation="-1")
    with refused("1 row,"):
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


def test_rows_are_read_like_other_rows_and_by_corrected_kinds(tmp_path, refused):
    known, new = tmp_path / "known.csv", tmp_path / "new.csv"
    known.write_text("zip,age\n" + "".join(f"{10 + k % 4},{20.5 + k}\n" for k in range(30)))
    new.write_text("age,zip\n33,11\n41.5,99\n")
    data = load(known, kinds={"zip": "categorical"})
    assert data.table.columns[0].kind == "categorical"
    rows = load(new, like=data)
    assert rows.table == data.table
    assert rows.x[:, 1].tolist() == [33.0, 41.5]
    assert rows.x[0, 0] == 1  # the second of 10, 11, 12, 13
    assert rows.mask.tolist() == [[True, True], [False, True]]  # 99 was not among them
    with refused("kinds={'zip': 'count'}", "beside a schema"):
        load(new, like=data, kinds={"zip": "count"})
    np.save(tmp_path / "plain.npy", np.zeros((3, 2)))
    for spec in (tmp_path / "plain.npy", "digits"):
        with refused("kinds={'zip': 'count'}", "no table"):
            load(spec, kinds={"zip": "count"})
        for held in (None, tmp_path / "held.npy"):
            with refused("a schema of columns is given", "no table; leave it out"):
                splits(spec, validation=held, table=data.table)
