"""A second opinion: what two bounds say together, and what their draws leave open."""

import json
import math
from functools import partial

import pytest
import torch

from latently import AIS, PPCA, Data, Exact, ImportanceSampling, second_opinion, vae
from latently.nets import MLP
from latently.probability.families import Normal


def some_vae():
    torch.manual_seed(0)
    return vae((3,), latents=2, likelihood=Normal, net=partial(MLP, hidden=(4,))).double()


def rows(n=4):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Data(x, "Normal", "rows")


def test_the_difference_is_that_of_the_two():
    found = second_opinion(some_vae(), rows(), ImportanceSampling(50), AIS(steps=10, chains=4))
    assert found.difference.value == pytest.approx(found.second.nats - found.first.nats)
    errors = found.first.mc_stderr, found.second.mc_stderr
    assert found.difference.mc_stderr == pytest.approx(math.hypot(*errors))
    assert found.difference.kind == "estimate"
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "methods",
    [(ImportanceSampling(1), AIS(steps=10, chains=4)), (ImportanceSampling(50), AIS(10, 1))],
)
def test_a_single_draw_is_no_alarm(methods):
    """Its error was taken for 0, and the lower bound said to lack at least the difference."""
    found = second_opinion(some_vae(), rows(), *methods)
    assert math.isnan(found.difference.mc_stderr)
    (said,) = found.findings
    assert said.level == "note"
    assert "single draw" in said.text
    assert "2 or more" in said.text
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_single_draw_of_an_exact_model_has_no_error():
    found = second_opinion(PPCA((3,), 1).double(), rows(), ImportanceSampling(1), Exact())
    assert found.difference.mc_stderr == 0
    assert abs(found.difference.value) < 1e-9


def test_equal_rows_share_their_draws():
    """Their errors were added as if independent: 9 times a row had a third of its error."""
    methods = ImportanceSampling(20), ImportanceSampling(30)
    one = second_opinion(some_vae(), rows(1), *methods)
    same = second_opinion(some_vae(), rows(1).rows([0] * 9), *methods)
    assert same.difference.value == pytest.approx(one.difference.value)
    assert same.difference.mc_stderr == pytest.approx(one.difference.mc_stderr)


def test_one_method_is_no_second_opinion(refused):
    with refused("IWAE K=20 twice", "give two methods"):
        second_opinion(some_vae(), rows(), ImportanceSampling(20), ImportanceSampling(20))
