import math

import pytest
import torch

from latently import expr
from latently.inference import ELBO, IWAE, Cosine, Linear
from latently.inference.noise import derive, row_seed, seeded
from latently.inference.schedules import Warmup, resolve
from latently.registry import components


def value(schedule, step, total=100):
    return float(schedule(torch.tensor(step), total))


def test_linear_is_a_ramp_then_constant():
    assert [value(Linear(0.0, 1.0), t) for t in (0, 25, 50, 100, 200)] == [0, 0.25, 0.5, 1, 1]
    assert [value(Linear(2.0, 1.0, steps=10), t) for t in (0, 5, 10, 99)] == [2, 1.5, 1, 1]


def test_cosine_is_half_a_wave_then_constant():
    found = [value(Cosine(1.0, 0.2), t) for t in (0, 50, 100, 300)]
    assert found == pytest.approx([1, 0.6, 0.2, 0.2])
    assert value(Cosine(1.0), 25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_warm_up_rises_evenly_to_where_its_schedule_begins():
    rates = [value(Warmup(0.5, steps=4), t) for t in (0, 1, 2, 4, 50)]
    assert rates == [0, 0.125, 0.25, 0.5, 0.5]
    assert [value(Warmup(2.0), t) for t in (0, 5, 10, 99)] == [0, 1, 2, 2]  # a tenth of 100


def test_what_follows_a_warm_up_is_shifted_by_it():
    inner = Cosine(0.8, 0.1)
    outer = Warmup(then=inner, steps=20)
    assert [value(outer, t) for t in (0, 5, 10)] == pytest.approx([0, 0.2, 0.4])
    for t in (20, 45, 60, 100, 130):
        assert value(outer, t) == pytest.approx(value(inner, t - 20, 80))
    own = Warmup(Linear(1.0, 3.0, steps=10), steps=20)  # steps of its own are kept
    assert [value(own, t) for t in (20, 25, 30, 90)] == [1, 2, 3, 3]
    twice = Warmup(Warmup(1.0, steps=10), steps=10)
    assert [value(twice, t) for t in (5, 10, 15, 20)] == [0, 0, 0.5, 1]


def test_a_warm_up_longer_than_the_run_only_rises():
    assert [value(Warmup(Cosine(1.0), steps=1000), t) for t in (0, 50, 100)] == pytest.approx(
        [0, 0.05, 0.1]
    )
    assert value(Warmup(1.0), 0, total=1) == 0


@pytest.mark.parametrize(
    "text",
    [
        "Warmup(then=Cosine(start=0.001), steps=500)",
        "Warmup(then=0.001)",
        "ELBO(beta=Warmup(then=Linear(start=1, stop=0.5)))",
        "ELBO(beta=Linear(start=0, stop=1, steps=2000))",
        "Warmup(then=Warmup(then=1, steps=3), steps=2)",
    ],
)
def test_nested_schedules_are_shown_and_built_again(text):
    built = expr.build(text, components())
    assert expr.show(built) == text
    assert expr.build(expr.show(built), components()) == built


def test_warm_ups_are_checked(refused):
    for then in (math.nan, math.inf, "1", None, ELBO()):
        with refused("Warmup: then=", "number, or a schedule"):
            Warmup(then)
    for steps in (0, -1, 2.5):
        with refused(f"Warmup: steps={steps}"):
            Warmup(1.0, steps=steps)


def test_every_scheduled_field_is_resolved_and_nothing_else():
    bound = ELBO(beta=Linear(0.0, 1.0))
    assert float(resolve(bound, torch.tensor(30), 100).beta) == pytest.approx(0.3)
    assert resolve(IWAE(), torch.tensor(30), 100) == IWAE()


def test_ramps_without_steps_are_refused(refused):
    for kind in (Linear, Cosine):
        with refused("steps=0"):
            kind(0.0, 1.0, steps=0)


def test_seeds_depend_on_all_that_is_given_and_on_nothing_else():
    x = torch.arange(4.0)
    seeds = {
        row_seed(0, x, None),
        row_seed(1, x, None),
        row_seed(-1, x, None),
        row_seed(0, x + 1, None),
        row_seed(0, x, x > 1),
        row_seed(0, None, x),
    }
    assert len(seeds) == 6
    assert row_seed(0, x, None) == row_seed(0, x.clone(), None)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({derive(0, "step", t) for t in range(1000)}) == 1000


def test_seeded_draws_repeat_and_leave_the_generator_alone(untouched):
    with untouched():
        with seeded(3):
            first = torch.rand(5)
        with pytest.raises(RuntimeError), seeded(3):
            raise RuntimeError
    with seeded(3):
        assert torch.equal(first, torch.rand(5))
