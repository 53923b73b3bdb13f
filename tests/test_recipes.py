"""A recipe's call is the config: it is remembered, shown, and read back."""

import inspect
from functools import partial

import pytest
from torch import nn

from latently import ae, expr, fa, mixture, ppca, recipe, vae
from latently.models import PPCA, VAE, Dequantized, FactorAnalysis
from latently.nets import MLP
from latently.probability.families import Normal
from latently.probability.priors import VampPrior
from latently.recipes import OBJECTIVES, RECIPES
from latently.registry import components
from latently.training.objectives import usual


def test_recipes_build_what_they_say():
    assert isinstance(fa((9,)), FactorAnalysis)
    assert isinstance(ppca((9,)), PPCA)
    assert isinstance(vae((3,)), VAE)
    assert isinstance(fa((9,), levels=4), Dequantized)
    assert isinstance(fa((9,), levels=4).model, FactorAnalysis)
    assert fa((9,), levels=4).levels == 4


@pytest.mark.parametrize(
    "model",
    [
        fa((3,), latents=2),
        ppca((2, 2), latents=1, levels=5),
        vae((1, 4, 4), latents=(2, 3), net=partial(MLP, hidden=(7,), activation=nn.Tanh)),
        vae((3,), likelihood=Normal, prior=partial(VampPrior, components=2), contexts=2),
    ],
    ids=str,
)
def test_the_call_is_remembered_and_rebuilds_the_model(model):
    text = str(model.call)
    built = expr.build(text, {**components(), model.call.recipe: RECIPES[model.call.recipe]})()
    assert str(built.call) == text
    assert str(built) == str(model)
    assert [p.shape for p in built.parameters()] == [p.shape for p in model.parameters()]


def test_only_given_arguments_are_remembered():
    assert str(vae((3,), latents=4).call) == "vae(shape=(3,), latents=4)"
    assert vae((3,)).call.arguments == {"shape": (3,)}


def test_mistakes_name_the_recipe_and_the_closest_option(refused):
    with refused("fa", "latent", "did you mean latents?"):
        fa((3,), latent=2)
    with refused("vae", "shape"):
        vae()
    with refused("levels=1"):
        fa((9,), levels=1)


def test_names_are_registered_once(refused):
    def vae(shape):
        """Another."""

    with refused("'vae' exists already"):
        recipe(vae)


def test_the_decorator_keeps_signature_and_documentation():
    assert vae.__doc__.startswith("Variational autoencoder")
    assert "latents" in inspect.signature(vae).parameters
    assert RECIPES["vae"] is vae


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_and_its_model_name_the_same_objective(name):
    options = {"latents": 2} if "latents" in inspect.signature(RECIPES[name]).parameters else {}
    model = RECIPES[name]((4,), **options)
    assert model.objective == OBJECTIVES[name].__name__
    assert type(usual(model)) is OBJECTIVES[name]


def test_a_recipe_inside_a_call_is_rebuilt():
    model = ae((4,), latents=3, codes=partial(mixture, components=2))
    assert "codes=mixture(components=2)" in str(model.call)
    built = expr.build(str(model.call), {**components(), **RECIPES})()
    assert str(built.call) == str(model.call)
    assert built.codes.shape == (3,)
