"""Call expressions of every member of the registry, damaged; and what Python has besides calls."""

import inspect

import pytest

from latently import expr
from latently.interfaces.request import fit_flags
from latently.registry import KINDS

pytestmark = pytest.mark.slow

# The call that takes a kind of component; the flags of fit are found by their annotation.
TAKEN = {
    kind: f"fit vae --data {{x}} --quiet --out {{out}}/m.safetensors {flag.text}"
    for flag in reversed(fit_flags("vae"))
    for kind in flag.kinds
}
SHORT = " --latents=2 --epochs=1"
TAKEN["methods"] = "evaluate {m} --data {x} --method"
PYTHON = [
    *("{0}.__class__", "{0}.__init__()", "{0}.__subclasses__", "{0}().__dict__", "{0}()()"),
    *("{0}(__class__=1)", "{0}(self=1)", "{0}(**{{}})", "{0}(*())", "{0}(*[1, 2])", "{0}(**1)"),
    *("lambda: {0}", "(lambda: {0}())()", "[{0} for x in ()]", "{{{0}: 1}}", "{{{0}}}", "-{0}"),
    *("(x := {0})", "{0} if 1 else 0", "{0} or 1", "not {0}", "{0} == {0}", "f'{{{0}}}'"),
    *("{0}[0]", "{0}[0:1]", "{0}; {0}", "{0}\n{0}", "{0}  # a", "({0})", "({0},)", "[{0}]"),
    *("await {0}", "yield {0}", "import os", "{0}(1 + 1)", "{0}(9**9**9)", "{0}('a' * 10**9)"),
    *("{0}(x=1, x=1)", "{0}(1, 1, 1, 1, 1, 1, 1, 1, 1)", "{0}(x=lambda: 0)", "{0}({0}, {0})"),
    *("{0}(b'1')", "{0}(...)", "{0}(1j)", "{0}(u'\\ud800')", "{0}('\\x00')", "{0}(1e999)"),
    *("{0}(" * 300, "{0}(" * 20 + ")" * 20, "(" * 5000, "-" * 5000 + "1", "{0}" * 9000),
    *("{0}(" + "1," * 30000 + ")", "{0}(" + "9" * 5000 + ")", "{0}((" + "(" * 15 + ")" * 16 + ")"),
    *("{0}(0x" + "f" * 9000 + ")", "{0}(None)", "{0}(True)", "{0}('')", "{0}(())", "{0}([])"),
    *("{0}(-1)", "{0}(0)", "{0}(1e308)", "{0}(5e-324)", "{0}(-0.0)", "{0}(10**1)"),
]


def valid(member):
    """A call with all options of a component that have a default."""
    pairs = []
    for name, parameter in inspect.signature(member).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            try:
                pairs.append(f"{name}={expr.show(parameter.default)}")
            except ValueError:
                continue
    return f"{member.__name__}({', '.join(pairs[:4])})"


MEMBERS = [(kind, name) for kind, members in KINDS.items() if kind in TAKEN for name in members]


@pytest.fixture
def give(judge, words):
    """Judges the call that takes a kind of component."""

    def call(kind, text):
        start, _, flag = TAKEN[kind].rpartition(" ")
        short = words(SHORT) if start.startswith("fit") else []
        return judge(*words(start), *short, f"{flag}={text}")

    return call


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_damaged(give, edited, kind, name, seed):
    give(kind, edited(valid(KINDS[kind][name]), seed))


@pytest.mark.parametrize("form", range(len(PYTHON)))
def test_python(give, some, form):
    for kind in some(2, TAKEN, form):
        give(kind, PYTHON[form].format(next(iter(KINDS[kind]))))


@pytest.mark.parametrize("kind", TAKEN)
def test_members_of_other_kinds(give, some, kind):
    others = {name for members in KINDS.values() for name in members} - {*KINDS[kind]}
    for name in some(6, sorted(others), kind):
        assert give(kind, name).code == 2, name
