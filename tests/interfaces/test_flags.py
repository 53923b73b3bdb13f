import re

import pytest
import torch

from latently.data import Data
from latently.interfaces.flags import Flag, flags_of, parse, usage
from latently.interfaces.making import make_model
from latently.interfaces.request import fit_flags, fit_help, taken_flags
from latently.recipes import CLOSED_FORM, RECIPES


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
    listed = re.findall(r"^  (--[a-z-]+) ", fit_help(recipe), re.MULTILINE)
    assert listed == [flag.text for flag in taken_flags(recipe)]
    names = [flag.name for flag in fit_flags(recipe)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_truly_whether_it_has_a_closed_form(recipe):
    data = Data.from_array(torch.randn(20, 9))
    model = make_model(recipe, {}, data, seed=0)
    assert (model.em(data.x) is not None) == (recipe in CLOSED_FORM)


@pytest.mark.parametrize("recipe", sorted(CLOSED_FORM))
def test_help_of_a_closed_form_says_so_and_offers_no_training(recipe):
    text = fit_help(recipe)
    assert "The model is fitted in closed form or by EM" in text
    assert "\nobjective:\n" not in text
    for flag in ("--epochs", "--bound", "--estimator", "--learning-rate", "--init", "--device"):
        assert flag not in text
    assert {"--steps", "--tolerance", "--seed"} <= {flag.text for flag in taken_flags(recipe)}


def test_help_of_a_trained_recipe_offers_all_but_the_tolerance():
    assert "closed form or by EM" not in fit_help("vae")
    left_out = {flag.name for flag in fit_flags("vae")} - {f.name for f in taken_flags("vae")}
    assert left_out == {"tolerance"}


IDLE = {  # their defaults, mostly: to say them is a mistake all the same
    "bound": "ELBO",
    "estimator": "Reparam",
    "samples": "1",
    "objective": "Variational",
    "epochs": "50",
    "batch-size": "100",
    "accumulate": "1",
    "inference-steps": "0",
    "inference-epochs": "None",
    "learning-rate": "0.001",
    "optimizer": "Adam",
    "clip": "None",
    "skip": "None",
    "ema": "None",
    "patience": "None",
    "device": "cpu",
    "precision": "32-true",
    "compile": "",
    "checkpoint-seconds": "30",
}


@pytest.mark.parametrize("recipe", sorted(CLOSED_FORM))
def test_what_the_help_of_a_closed_form_leaves_out_is_refused(rejected, made, tmp_path, recipe):
    idle = {flag.text[2:] for flag in fit_flags(recipe)}
    idle -= {flag.text[2:] for flag in taken_flags(recipe)}
    assert idle == {"init", *IDLE}
    size = (
        "--latents" if "latents" in {flag.name for flag in fit_flags(recipe)} else "--components"
    )
    call = f"fit {recipe} {size} 1 --data {made / 'real.npz'} --out {tmp_path / 'm.safetensors'}"
    for name, value in IDLE.items():
        said = f"--{name} has no effect: {recipe} is fitted in closed form or by EM"
        rejected([*call.split(), f"--{name}", *value.split()], said)


def test_help_lists_every_recipe():
    assert all(f"  {name} " in fit_help(None) for name in RECIPES)


def test_help_says_where_components_are_listed_and_what_follows_the_data():
    text = fit_help("vae")
    assert "latently list priors. [StandardNormal]" in text
    assert "latently list families. [as the data]" in text
    assert "[Bernoulli]" not in text
