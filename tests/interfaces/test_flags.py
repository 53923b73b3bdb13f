import pytest

from latently.interfaces.flags import Flag, flags_of, parse, usage
from latently.interfaces.request import fit_flags, fit_help
from latently.recipes import RECIPES


def example(
    name: str,
    size: int = 3,
    *,
    rate: float | None = 0.5,
    shape: "int | Sequence[int]" = (2,),  # noqa: F821
    bound: "Bound" = None,  # noqa: F821
    loud: bool = False,
    quiet: bool = True,
):
    """An example.

    Args:
        name: what it is called,
            over two lines.
        size: how large.
    """


@pytest.fixture
def flags():
    made = flags_of(example, "group")
    return [
        Flag(f.name, f.annotation.removeprefix("<class '").removesuffix("'>"), *rest(f))
        for f in made
    ]


def rest(flag):
    return flag.default, flag.help, flag.group


def test_a_flag_is_read_off_the_signature(flags):
    assert [flag.text for flag in flags[:3]] == ["--name", "--size", "--rate"]
    assert flags[0].help == "what it is called, over two lines."
    assert (flags[1].default, flags[1].help) == (3, "how large.")
    assert Flag("batch_size", "int", 1, "", "").text == "--batch-size"
    assert flags_of(example, "", skip=("name",))[0].name == "size"


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("", {}),
        ("--name 3", {"name": "3"}),
        ("--name=", {"name": ""}),
        ("--name=a=b", {"name": "a=b"}),
        ("--name -x", {"name": "-x"}),
        ("--size -3", {"size": -3}),
        ("--rate 2", {"rate": 2}),
        ("--rate 1e-3", {"rate": 1e-3}),
        ("--rate None", {"rate": None}),
        ("--shape 4", {"shape": 4}),
        ("--shape (4,5)", {"shape": (4, 5)}),
        ("--loud", {"loud": True}),
        ("--no-quiet --loud", {"quiet": False, "loud": True}),
    ],
)
def test_values(flags, words, values):
    assert parse(words.split(), flags) == values


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--siz 3", "unknown option --siz; did you mean --size?"),
        ("size 3", "unexpected 'size'"),
        ("--size", "--size needs a value: how large."),
        ("--size --name x", "--size needs a value"),
        ("--size 1 --size=1", "--size is given twice"),
        ("--size 1.0", "--size '1.0': expected a whole number"),
        ("--size None", "expected a whole number"),
        ("--size True", "expected a whole number"),
        ("--rate inf", "expected a number"),
        ("--rate 1e999", "expected a number"),
        ("--rate 'a'", "expected a number"),
        ("--shape (1,'a')", "expected a whole number or a shape such as (8, 4)"),
        ("--loud=yes", "--loud takes no value"),
        ("--no-size", "--size cannot be negated"),
        ("--bound IWEA", "did you mean IWAE or CIWAE?"),
        ("--bound Adam", "expected one of the bounds: CIWAE, ELBO, IWAE, "),
        ("--bound ELBO(bta=1)", "--bound: ELBO takes no option 'bta'; did you mean beta?"),
    ],
)
def test_mistakes(flags, refused, words, said):
    with refused(said):
        parse(words.split(), flags)


def test_usage_shows_every_flag_with_its_default(flags):
    text = usage(flags)
    assert text.startswith("\ngroup:\n")
    assert "--size                 how large. [3]" in text
    assert all(flag.text in text for flag in flags)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_flag_of_fit_is_explained(recipe):
    for flag in fit_flags(recipe):
        assert flag.help, flag.text
        assert flag.text in fit_help(recipe)
    names = [flag.name for flag in fit_flags(recipe)]
    assert len(set(names)) == len(names)


def test_help_lists_every_recipe():
    assert all(f"  {name} " in fit_help(None) for name in RECIPES)


def test_help_says_where_components_are_listed_and_what_follows_the_data():
    text = fit_help("vae")
    assert "latently list priors. [StandardNormal]" in text
    assert "latently list families. [as the data]" in text
    assert "[Bernoulli]" not in text
