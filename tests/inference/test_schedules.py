import math

import pytest
import torch

from latently.inference import ELBO, IWAE, Cosine, Linear
from latently.inference.noise import derive, row_seed, seeded
from latently.inference.schedules import resolve


def value(schedule, step, total=100):
    return float(schedule(torch.tensor(step), total))


def test_linear_is_a_ramp_then_constant():
    assert [value(Linear(0.0, 1.0), t) for t in (0, 25, 50, 100, 200)] == [0, 0.25, 0.5, 1, 1]
    assert [value(Linear(2.0, 1.0, steps=10), t) for t in (0, 5, 10, 99)] == [2, 1.5, 1, 1]


def test_cosine_is_half_a_wave_then_constant():
    found = [value(Cosine(1.0, 0.2), t) for t in (0, 50, 100, 300)]
    assert found == pytest.approx([1, 0.6, 0.2, 0.2])
    assert value(Cosine(1.0), 25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


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
