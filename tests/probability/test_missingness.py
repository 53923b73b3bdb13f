"""What is missing given values: the equations, cell by cell."""

from functools import partial

import pytest
import torch

from latently.expr import build, show
from latently.probability.families import Bernoulli, Categorical, Embedded, Mixed, Normal
from latently.probability.missingness import Agnostic, SelfMasking, categories_of
from latently.registry import KINDS, components


def shaken(module):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p))
    return module.double()


@pytest.mark.parametrize("name", KINDS["missingness"])
@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 2, 2)], ids=str)
def test_every_form_maps_rows_to_cells_and_starts_near_chance(name, shape):
    member = KINDS["missingness"][name]
    module = member(shape)
    x = torch.randn(5, *shape)
    assert module(x).shape == (5, *shape)
    assert isinstance(module.separable, bool)
    names = shaken(member((4,), (0, 3, 0, 2)))
    rows = torch.tensor([[0.5, 2.0, -1.0, 1.0], [0.1, 0.0, 3.0, 0.0]]).double()
    whole = names(rows)
    for b in range(2):  # rows do not see each other
        torch.testing.assert_close(names(rows[b : b + 1])[0], whole[b])


def test_self_masking_reads_a_cell_and_nothing_else():
    module = shaken(SelfMasking((4,), (0, 3, 0, 2)))
    x = torch.tensor([[0.5, 2.0, -1.0, 1.0]]).double().requires_grad_()
    for j in (0, 2):
        (slope,) = torch.autograd.grad(module(x)[0, j], x)
        assert slope[0].nonzero()[:, 0].tolist() == [j]
        place = (0, None, 1)[j]
        torch.testing.assert_close(slope[0, j], module.slope[place])
        wanted = module.slope[place] * (x[0, j] - module.middle[place])
        torch.testing.assert_close(module(x)[0, j], wanted)
    for level in range(3):
        rows = torch.tensor([[0.0, level, 0.0, 0.0]]).double()
        torch.testing.assert_close(module(rows)[0, 1], module.levels[0, level])
    assert module(x)[0, 3] == module.levels[1, 1]


@pytest.mark.parametrize(("sign", "wanted"), [("above", 1), ("below", -1)])
def test_a_sign_holds_whatever_the_parameters(sign, wanted):
    module = shaken(SelfMasking((50,), sign=sign))
    assert (module.slope.sign() == wanted).all()
    assert SelfMasking((3,), sign=sign).slope.tolist() == [wanted] * 3  # a moderate start


@pytest.mark.parametrize("sign", ["above", "below", None])
def test_no_slope_is_steeper_than_an_edge_needs(sign):
    module = SelfMasking((2,), sign=sign)
    module.weight.data = torch.tensor([100.0, -100.0])
    assert module.slope.abs().max() <= 1001
    assert module(torch.tensor([[3.0, -3.0]])).isfinite().all()
    module.weight.data.fill_(1.0)  # as far as a thousand steps of Adam at 1e-3 go
    assert module.slope.abs().min() > 30


def test_agnostic_sees_names_one_hot():
    module = shaken(Agnostic((2,), (3, 0)))
    weight, bias = module.net.layers[0].weight, module.net.layers[0].bias
    x = torch.tensor([[1.0, 0.7]]).double()
    torch.testing.assert_close(module(x)[0], weight[:, 1] + 0.7 * weight[:, 3] + bias)


def test_categories_are_those_of_unordered_families():
    columns = (Normal, partial(Categorical, levels=3), Bernoulli, partial(Embedded, levels=40))
    assert categories_of(Mixed((4,), columns=columns)) == (0, 3, 0, 40)
    assert categories_of(Categorical((2,), levels=5)) == (5, 5)
    assert categories_of(Normal((2,))) == ()
    assert categories_of(None) == ()


def test_they_are_named_in_call_expressions(refused):
    made = build("SelfMasking(sign='above')", components())
    assert show(made) == "SelfMasking(sign='above')"
    assert made((3,), ()).sign == "above"
    assert build("Agnostic(hidden=(8,))", components())((3,)).net is not None
    with refused("no option 'categories'"):
        build("SelfMasking(categories=(1,))", components())
    with refused("sign='up'"):
        SelfMasking((3,), sign="up")
    with refused("2 categories", "3"):
        Agnostic((3,), (0, 1))
