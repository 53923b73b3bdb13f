"""Every flag of every verb, misspelt, given twice, without a value and with wrong ones.

The flags are read from the signatures that the command line reads, so that a new one is covered
by itself.
"""

import pytest
from typer.main import get_command

from latently.interfaces.cli import app
from latently.interfaces.request import fit_flags
from latently.recipes import RECIPES

pytestmark = pytest.mark.slow

FIT = [(recipe, flag) for recipe in RECIPES for flag in fit_flags(recipe)]
FIT = {f"{recipe}{flag.text}": (recipe, flag) for recipe, flag in FIT}
SWITCHES = [key for key, (_, flag) in FIT.items() if flag.is_switch]
VALUED = [key for key, (_, flag) in FIT.items() if not flag.is_switch]
READ = [key for key in VALUED if not FIT[key][1].is_text]
# Of text: what it may say is a matter of taste for these, or named by the call already.
FREE = ("data_dir", "out", "log", "mask")

# Values that no flag takes but as text.
NEVER = ["", "x y", "()()", "{}", "b'1'", "...", "1j", "not 1", "1 if 1 else 2", "a.b", "1e400"]
NEVER += ["(lambda: 0)()", "__import__('os')", "1//0", "9**9**9", "nan", "inf", "-inf", "(1", "'"]
# Values that some numbers' flags take.
NUMBERS = ["-1", "0", "-0.0", "1e-320", "1e308", "-1e300", str(2**63), str(-(2**64)), "1" * 400]
NUMBERS += ["0.5", "1.5", "True", "None", "()", "(1,)", "(1.5, 2)", "[[1]]", "(2, 0)", "'2'", "٣"]
TRAINED = ("vae", "table")  # recipes of which one epoch is asked for
LONG_RUNS = ("epochs", "steps")  # a huge number of them is an order, if a foolish one

COMMANDS = get_command(app).commands
OPTIONS = {
    f"{verb} {parameter.opts[0]}": (verb, parameter)
    for verb, command in COMMANDS.items()
    for parameter in command.params
    if parameter.opts[0].startswith("-")
}
PLACED = {"fit": "vae", "compare": "{m}", "report": "{m}", "doctor": "", "list": "", "demo": ""}
PLACED |= {"reproduce": "digits-fa32"}


@pytest.fixture
def fit(judge, words):
    """Judges `latently fit` with some words more; the recipe's least call else."""

    def call(key, *more):
        recipe, flag = FIT[key]
        named = {"--data": "{x}", "--out": "{out}/m.safetensors", "--latents": "1"}
        named |= {"--epochs": "1", "--net": "MLP(hidden=())"} if recipe in TRAINED else {}
        own = [w for text, v in named.items() if text != flag.text for w in words(f"{text} {v}")]
        if flag.text != "--quiet":
            own.append("--quiet")
        return judge("fit", recipe, *own, *more)

    return call


@pytest.mark.parametrize("key", FIT)
def test_misspelt(fit, edited, key):
    text = "--" + edited(FIT[key][1].text[2:]).replace("=", "_")
    fit(key, *([text] if FIT[key][1].is_switch else [text, "1"]))


@pytest.mark.parametrize("key", FIT)
def test_twice(fit, key):
    flag = FIT[key][1]
    once = [flag.text] if flag.is_switch else [flag.text, "1"]
    assert fit(key, *once, *once).code == 2
    assert fit(key, *once, f"{flag.text}=1").code == 2


@pytest.mark.parametrize("key", VALUED)
def test_without_a_value(fit, key):
    text = FIT[key][1].text
    assert fit(key, text).code == 2
    assert fit(key, "--no-" + text[2:]).code == 2


@pytest.mark.parametrize("key", SWITCHES)
def test_a_switch_with_a_value(fit, key):
    text = FIT[key][1].text
    assert fit(key, f"{text}=").code == 2
    assert fit(key, f"{text}=yes").code == 2
    assert fit(key, text, "no").code == 2
    assert fit(key, f"--no-no-{text[2:]}").code == 2


@pytest.mark.parametrize("key", READ)
def test_values_of_no_flag(fit, some, key):
    for value in some(4, NEVER, key):
        assert fit(key, f"{FIT[key][1].text}={value}").code == 2, value


@pytest.mark.parametrize("key", READ)
def test_numbers(fit, some, key):
    flag = FIT[key][1]
    for text in some(4, NUMBERS, key):
        if flag.name not in LONG_RUNS or not text.isdecimal() or len(text) == 1:
            fit(key, f"{flag.text}={text}")


@pytest.mark.parametrize("key", [k for k in VALUED if k not in READ])
def test_texts(fit, some, key):
    for value in some(3, ["", "x", "-1", "nan", "\udcff", "()", "a" * 3000], key):
        ran = fit(key, f"{FIT[key][1].text}={value}")
        assert ran.code == 2 or FIT[key][1].name in FREE


@pytest.mark.parametrize("key", OPTIONS)
def test_options_of_other_verbs(judge, words, edited, key):
    verb, option = OPTIONS[key]
    text = option.opts[0]
    start = [verb, *words(PLACED.get(verb, "{m}"))]
    start = (
        start if any(p.opts == ["card"] or p.required for p in COMMANDS[verb].params) else [verb]
    )
    long = text.startswith("--")
    if long:
        judge.refused(*start, text, text)
        judge.refused(*start, edited(text[2:], 1).join(["--", "x"]))
    if option.is_flag:
        judge.refused(*start, f"{text}=yes", "more", "words")
    else:
        judge.refused(*start, text)


@pytest.mark.parametrize(
    "option",
    ["--samples", "--seed", "--method", "--mask", "-n", "--draws", "--quantiles", "--fill"],
)
def test_values_of_other_verbs(judge, words, some, option):
    verbs = {"--method": "evaluate {m}", "-n": "sample {m} --out {out}/s.csv"}
    verbs |= dict.fromkeys(["--draws", "--quantiles", "--fill"], "impute {m} --out {out}/i.npz")
    verb = words(verbs.get(option, "encode {m} --out {out}/z.csv"))
    verb = verb if option != "--samples" else words("score {m} --out {out}/z.csv")
    if option != "-n":
        verb += words("--data {small}/holes.npz")
    values = [*NEVER, *(v for v in NUMBERS if not v.isdecimal() or len(v) > 99)]
    for value in some(15, values, option):
        judge(*verb, *([f"{option}={value}"] if option != "-n" else [option, value]))
