import math
import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from torch import nn

from latently.errors import UserError
from latently.expr import MAX_DEPTH, MAX_LENGTH, build, show
from latently.inference import ELBO, IWAE, DReG, Linear
from latently.nets import MLP
from latently.probability.priors import VampPrior
from latently.registry import components

NAMES = components()


def random_value(rng, depth=0):
    """A value of the kinds that options take, any of them nested."""
    kinds = ["none", "bool", "int", "float", "text"]
    kinds += ["tuple", "list", "module", "frozen"] if depth < 4 else []
    match rng.choice(kinds):
        case "none":
            return None
        case "bool":
            return rng.random() < 0.5
        case "int":
            return rng.randint(-(10**12), 10**12)
        case "float":
            return rng.choice([rng.gauss(0, 1), 1e-300, -0.0, 1e22, 5e-324, 0.1 + 0.2, 2.0])
        case "text":
            return "".join(
                rng.choice("aB'\"\\\n\t{}(),=é\x00漢 #") for _ in range(rng.randint(0, 9))
            )
        case "tuple":
            return tuple(random_value(rng, depth + 1) for _ in range(rng.randint(0, 3)))
        case "list":
            return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
        case "module":
            options = {"hidden": random_value(rng, depth + 1), "dropout": rng.random()}
            return partial(MLP, **options) if rng.random() < 0.7 else MLP
        case _:
            return rng.choice([IWAE(), DReG(), ELBO(rng.random()), ELBO(Linear(0.0, 1.0, 9))])


def same(a, b):
    if isinstance(a, partial):
        return a.func is b.func and same(list(a.keywords.items()), list(b.keywords.items()))
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b and str(a) == str(b)  # str: tells -0.0 from 0.0


def test_build_undoes_show_for_any_value():
    rng = random.Random(0)
    for _ in range(500):
        value = random_value(rng)
        text = show(value)
        assert same(build(text, NAMES), value), text
        assert show(build(text, NAMES)) == text


def test_show_is_the_text_a_person_writes():
    assert show(partial(VampPrior, components=500)) == "VampPrior(components=500)"
    assert show(partial(MLP, hidden=(8,), activation=nn.Tanh)) == (
        "MLP(hidden=(8,), activation=Tanh)"
    )
    assert show(IWAE()) == "IWAE"
    assert show(ELBO(beta=0.5)) == "ELBO(beta=0.5)"


def test_numpy_numbers_are_shown_as_numbers():
    assert build(show(np.float64(1.5)), {}) == 1.5


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_cannot_be_read_back_is_not_shown(value, refused):
    with refused("finite"):
        show(value)


def test_built_objects_are_refused_with_the_fix(refused):
    with refused("ReLU", "constructor"):
        show(nn.ReLU())


@pytest.mark.parametrize(
    "text",
    [
        "MLP.__init__",
        "MLP.__class__.__mro__",
        "().__class__",
        "__import__('os').system('true')",
        "eval('1')",
        "(lambda: 1)()",
        "lambda: 1",
        "[x for x in (1,)]",
        "(x for x in (1,))",
        "{1: 2}",
        "{1, 2}",
        "f'{1}'",
        "f'{().__class__}'",
        "MLP(*(1, 2))",
        "MLP(**{'hidden': 1})",
        "MLP(hidden=*(1,))",
        "MLP(hidden=(1,), hidden=(2,))",
        "1 if True else 2",
        "1 + 1",
        "2 ** 999",
        "'a' * 99999",
        "not 1",
        "~1",
        "+1",
        "1 < 2",
        "(1, 2)[0]",
        "(y := 1)",
        "1j",
        "b'bytes'",
        "...",
        "MLP(hidden=(1,)).layers",
        "MLP()()",
        "await MLP",
        "yield 1",
        "import os",
        "x = 1",
        "1; 2",
        "1\n2",
        "\x00",
        "",
        "(",
        "-MLP",
        "--1",
        "-'a'",
        "9" * 5000,
        "\ud800",
    ],
)
def test_only_literals_names_and_calls_are_read(text):
    with pytest.raises(UserError) as caught:
        build(text, NAMES)
    assert len(str(caught.value)) < 400
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("size", [20, 300, 1000, 2500, 6000])
@pytest.mark.parametrize(
    "shape", ["1{}1", "{}1", "a{}", "({}", "[{}]"], ids=["plus", "minus", "dots", "open", "lists"]
)
def test_deep_expressions_are_refused_whatever_their_shape(size, shape):
    piece = {"1{}1": "+1", "{}1": "-", "a{}": ".b", "({}": "(", "[{}]": "["}[shape]
    body = piece * size
    text = f"[{body}{']' * (size + 1)}" if shape == "[{}]" else shape.format(body)
    with pytest.raises(UserError):
        build(text, NAMES)


def test_depth_and_length_have_stated_limits(refused):
    def nested(depth):
        return "(" * depth + "1" + ",)" * depth

    build(nested(MAX_DEPTH), {})
    with refused(str(MAX_DEPTH)):
        build(nested(MAX_DEPTH + 1), {})
    build(repr("a" * (MAX_LENGTH - 2)), {})
    with refused(str(MAX_LENGTH)):
        build(repr("a" * (MAX_LENGTH - 1)), {})


def test_unknown_names_list_the_closest(refused):
    with refused("MPL", "did you mean MLP?"):
        build("MPL(hidden=(1,))", NAMES)
    with refused("hiden", "did you mean hidden?"):
        build("MLP(hiden=(1,))", NAMES)
    with refused("known", "Adam"):
        build("zzzzzzzz", {"Adam": 1})


def test_arguments_are_checked_when_read_not_when_used(refused):
    with refused("ELBO"):
        build("ELBO(1, 2, 3, 4)", NAMES)
    with refused("beta=-1"):
        build("ELBO(beta=-1)", NAMES)
    with refused("MLP", "hidden"):  # sizes are the recipe's to give
        build("MLP((3,))", NAMES)
    with refused("samples"):
        build("ImportanceSampling(samples='many')", NAMES)


def test_user_components_are_known_by_the_names_handed_in():
    @dataclass(frozen=True)
    class Mine:
        width: int = 3

    assert build("Mine(width=4)", {"Mine": Mine}) == Mine(4)
    assert build("Mine", {"Mine": Mine}) == Mine()
    with pytest.raises(UserError):
        build("Mine", NAMES)
