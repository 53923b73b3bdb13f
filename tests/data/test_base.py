"""Data keeps its parts together, redraws by the global generator, and knows when it changed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from latently.data import Binarise, Context, Data, check_schema

NAN = float("nan")


@pytest.fixture
def grey():
    x = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return Data(x, "Bernoulli", "fake/train", levels=2, redraw=Binarise())


def test_properties():
    data = Data.from_array([[0.5, NAN], [1.5, 2.5]], labels=[0, 1], protocol="mine")
    assert len(data) == 2
    assert data.shape == (2,)
    assert data.missing == 1
    assert not data.discrete
    assert not data.fully_observed
    assert data.labels.tolist() == [0, 1]
    assert "1 missing" in repr(data)
    full = Data.from_array([[0, 3]])
    assert full.discrete
    assert full.fully_observed
    assert full.family == "DiscretizedLogistic(levels=4)"


def test_a_given_family_leaves_the_levels():
    data = Data.from_array([[0, 3]], family="Normal")
    assert (data.family, data.levels) == ("Normal", 4)


@pytest.mark.parametrize(
    "index", [slice(1, 3), [1, 2], np.array([1, 2]), torch.tensor([False, True, True])]
)
def test_rows_keep_every_part(index):
    data = Data.from_array([[1.5, NAN], [2.5, 1], [NAN, 3]], labels=[7, 8, 9])
    part = data.rows(index, "mine")
    assert part.x.tolist() == [[2.5, 1], [0, 3]]
    assert part.mask.tolist() == [[True, True], [False, True]]
    assert part.labels.tolist() == [8, 9]
    assert part.protocol == "mine"
    assert len(data.rows([])) == 0


def test_batch_redraws_reproducibly(grey):
    index = torch.arange(32)
    torch.manual_seed(0)
    first, second = grey.batch(index)[0], grey.batch(index)[0]
    torch.manual_seed(0)
    again = grey.batch(index)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.dtype is grey.x.dtype


def test_binarise_has_the_grey_value_as_its_mean():
    x = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64).expand(40_000, 4)
    torch.manual_seed(0)
    mean = Binarise()(x).mean(0)
    assert mean[0] == 0
    assert mean[3] == 1
    assert torch.allclose(mean, x[0], atol=5 * 0.5 / 200)


def test_once_is_fixed_and_leaves_the_generator_alone(grey):
    before = torch.get_rng_state()
    one, two, other = grey.once(), grey.once(), grey.once(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, other.x)
    assert one.redraw is None
    assert one.once() is one


def test_batch_without_redraw_is_the_rows():
    data = Data.from_array([[1.5, NAN], [2.5, 1.0]])
    x, mask, context = data.batch(torch.tensor([1, 0]))
    assert x.tolist() == [[2.5, 1.0], [1.5, 0.0]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert context is None


def test_digest_sees_every_change():
    x = (1 + np.arange(12.0)).reshape(4, 3) / 7
    hole = x.copy()
    hole[0, 0] = NAN
    zero = x.copy()
    zero[0, 0] = 0
    data = Data.from_array(x)
    others = [
        Data.from_array(x + 1e-12),
        Data.from_array(x.reshape(3, 4)),
        Data.from_array(x[::-1]),
        Data.from_array(x.astype(np.float32)),
        Data.from_array(x, protocol="other"),
        Data.from_array(hole),
        Data.from_array(zero),
        Data(data.x, "Normal", "array", context=torch.zeros(4, 1)),
        Data(data.x, "Normal", "array", context=torch.full((4, 1), NAN)),
    ]
    digests = {d.digest() for d in [data, *others]}
    assert len(digests) == len(others) + 1
    assert data.digest() == Data.from_array(x.copy()).digest()
    assert len(data.digest()) == 64


def test_digest_does_not_depend_on_memory_layout():
    x = torch.rand(5000, 3)
    flipped = x.T.contiguous().T
    assert Data(x, "Normal", "a").digest() == Data(flipped, "Normal", "a").digest()


def test_to_changes_x_and_context_only():
    data = Data.from_array([[1.5, NAN]], labels=[3]).to(device="cpu", dtype=torch.float32)
    assert data.x.dtype is torch.float32
    assert data.mask.dtype is torch.bool
    assert data.labels.dtype is torch.int64


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, "from_array"),
        ({"x": torch.zeros(2)}, "from_array"),
        ({"mask": torch.ones(2, 3)}, "mask"),
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, "mask"),
        ({"context": torch.zeros(3, 1)}, "context"),
        ({"context": torch.zeros(2)}, "context"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels"),
    ],
)
def test_parts_must_belong_together(parts, word, refused):
    with refused("mine", word):
        Data(**{"x": X, "family": "Normal", "protocol": "mine"} | parts)


def test_schema_is_json_and_accepts_its_own_data():
    data = Data.from_array([[0, 16]])
    schema = json.loads(json.dumps(data.to_schema()))
    assert check_schema(schema, data).to_schema() == data.to_schema()


def test_schema_settles_guessed_levels():
    schema = Data.from_array([[0, 16]], protocol="a").to_schema()
    for x in ([[0, 12]], [[0.0, 12.0]], [[0.0, NAN], [12.0, 3.0]]):
        data = check_schema(schema, Data.from_array(x))
        assert (data.levels, data.family) == (17, "DiscretizedLogistic(levels=17)")
    continuous = Data.from_array([[0.5, 1.5]]).to_schema()
    assert check_schema(continuous, Data.from_array([[0, 1]])).levels is None


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[0, 12, 3]], ["(3,)", "(2,)", "fit a model"]),
        ([[0, 17]], ["17", "row 0, column 1"]),
        ([[0, 0.5]], ["0.5"]),
        ([[0, 1]], ["binary", "17"]),
    ],
)
def test_schema_refuses_other_data(x, words, refused):
    schema = Data.from_array([[0, 16]], protocol="digits/train").to_schema()
    with refused("digits/train", "mine", *words):
        check_schema(schema, Data.from_array(x, protocol="mine"))


@pytest.fixture
def conditional():
    digit = Context.of("label", [3, 5, 3])
    x = torch.tensor([[0.5], [1.5], [2.5]])
    context = digit.encode([3, 5, 3])
    return Data(x, "Normal", "mine/train", context=context, conditions=digit)


def test_conditions_belong_to_the_context(conditional, refused):
    assert conditional.rows([1]).conditions is conditional.conditions
    assert conditional.once().to(dtype=torch.float64).conditions is conditional.conditions
    bare = Data(conditional.x, "Normal", "mine/train", context=conditional.context)
    assert bare.digest() != conditional.digest()
    with refused("label", "2 columns", "none"):
        Data(conditional.x, "Normal", "mine", conditions=conditional.conditions)
    with refused("label", "2 columns", "are 3"):
        Data(
            conditional.x,
            "Normal",
            "mine",
            context=torch.zeros(3, 3),
            conditions=conditional.conditions,
        )


def test_a_schema_holds_its_context(conditional, refused):
    schema = json.loads(json.dumps(conditional.to_schema()))
    assert check_schema(schema, conditional).context is conditional.context
    with refused("mine/train", "'label'", "none"):
        check_schema(schema, Data(conditional.x, "Normal", "other"))
    other = Context("label", classes=(3, 4))
    with refused("'label'", "another code"):
        check_schema(
            schema,
            Data(
                conditional.x, "Normal", "other", context=other.encode([3] * 3), conditions=other
            ),
        )
    with refused("context"):
        check_schema(schema | {"context": {"name": "a\nb", "classes": [1]}}, conditional)
    del schema["context"]
    check_schema(schema, Data(conditional.x, "Normal", "other"))


def test_digests_of_plain_data_are_those_of_earlier_versions():
    # a checkpoint holds the digest: another one would refuse to resume
    assert Data(torch.ones(2, 2), "Normal", "a").digest().startswith("5e5b9b0154c1afc8")


def test_labels_have_the_names_of_their_folders():
    data = Data.from_array(torch.rand(3, 2), labels=[0, 1, 7])
    assert data.label_name(data.labels[2]) == "7"
    named = replace(data, reading={"classes": ["cat", "dog"]})
    assert [named.label_name(label) for label in named.labels] == ["cat", "dog", "7"]


def test_values_that_a_schema_does_not_know_are_missing_but_not_empty(refused):
    towns = {"age": [31.5, 28.0, 40.0], "town": ["Bonn", "Rome", "Bonn"]}
    fitted = Data.from_frame(towns, kinds={"town": "categorical"})
    assert fitted.unknown is None
    rows = {"age": [None, 28.0, 40.0], "town": ["Oslo", None, "Bonn"]}
    data = Data.from_frame(rows, fitted.table)
    assert data.mask.tolist() == [[False, False], [True, False], [True, True]]
    assert data.unknown.tolist() == [[False, True], [False, False], [False, False]]
    assert data.rows([2, 0]).unknown.tolist() == [[False, False], [False, True]]
    with refused("unknown", "(2, 2)", "(3, 2)"):
        replace(data, unknown=data.unknown[:2])
