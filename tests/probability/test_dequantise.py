"""Noise for integers: a density on (0, 1), draws inside it, and the bound that it gives."""

import copy
import math

import pytest
import torch

from latently import expr
from latently.probability.dequantise import UniformNoise, VariationalNoise
from latently.registry import KINDS, components

from .oracles import quadrature, shaken

NOISES = {"uniform": UniformNoise(), "variational": VariationalNoise(steps=3, hidden=6)}
SHAPES = [(1,), (3,), (1, 2, 2), (3, 3, 5), (2, 3), (2, 1, 1), (2, 2, 1, 2)]
every = pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)


def built(noise, shape, by=0.3, levels=8):
    return shaken(noise.build(shape, levels).double(), by)


def rows(n, shape, levels=8):
    return torch.randint(levels, (n, *shape)).double()


@every
@pytest.mark.parametrize("shape", SHAPES)
def test_draws_lie_inside_and_log_q_is_that_of_the_inverse(noise, shape):
    module = built(noise, shape, by=0.08)
    x = rows(5, shape)
    q = module(x)
    assert (q.batch_shape, q.event_shape) == ((5,), shape)
    u = q.rsample((4,))
    assert u.shape == (4, 5, *shape)
    assert ((u > 0) & (u < 1)).all()
    known, found = q.log_prob(u), q.log_prob(u + 0)
    assert known.shape == (4, 5)
    torch.testing.assert_close(known, found, rtol=1e-7, atol=1e-7)


@every
def test_q_integrates_to_one_on_the_line(noise):
    x = rows(3, (1,))
    q = built(noise, (1,), by=0.5)(x)
    v = torch.linspace(-40, 40, 20_001).double()
    u = torch.sigmoid(v)
    with torch.no_grad():
        p = q.log_prob(u[:, None, None]).exp() * (u * (1 - u))[:, None]
    torch.testing.assert_close(
        torch.trapezoid(p.where(p.isfinite(), 0), v, dim=0),
        torch.ones(3).double(),
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.slow
@every
@pytest.mark.parametrize("shape", [(2,), (1, 1, 2), (1, 2)])
def test_q_integrates_to_one_in_the_plane(noise, shape):
    q = built(noise, shape, by=0.2)(rows(1, shape))

    def log_density(v):
        u = torch.sigmoid(v)
        return q.log_prob(u.view(*v.shape[:-1], 1, *shape))[..., 0] + (u * (1 - u)).log().sum(-1)

    with torch.no_grad():
        p, _, cell = quadrature(log_density, (-14, -14), (14, 14), 301)
    assert float(p.sum() * cell) == pytest.approx(1, abs=2e-3)


def test_log_q_is_the_change_of_variables():
    module = built(VariationalNoise(steps=2, hidden=4), (1, 2, 2))
    q = module(rows(1, (1, 2, 2)))
    eps = torch.randn(4).double()
    jacobian = torch.autograd.functional.jacobian(lambda e: q._from_noise(e[None])[0], eps)
    wanted = -0.5 * eps.square().sum() - 2 * math.log(2 * math.pi)
    wanted = wanted - torch.linalg.slogdet(jacobian)[1]
    found = q.log_prob(q._from_noise(eps[None]).view(1, 1, 2, 2))
    torch.testing.assert_close(found[0], wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(4,), (1, 4, 4)])
def test_it_starts_close_to_uniform(shape):
    q = VariationalNoise().build(shape, 8).double()(rows(2, shape))
    with torch.no_grad():
        u = q.sample((1000,))
        gap = q.log_prob(u).mean() / math.prod(shape)
    assert 0 < gap < 0.03
    assert (u.mean((0, 1)) - 0.5).abs().max() < 0.03


@pytest.mark.parametrize("shape", [(3,), (2, 3, 3)])
def test_gradients_reach_the_net_by_the_draw_and_by_its_density(shape):
    module = built(NOISES["variational"], shape, by=0.1)
    q = module(rows(6, shape))
    u = q.rsample((2,))
    value = (u.square().flatten(2).sum(-1) - q.log_prob(u)).mean()
    slopes = torch.autograd.grad(value, module.parameters(), allow_unused=True)
    for (name, _), slope in zip(module.named_parameters(), slopes, strict=True):
        assert slope is not None, name
        assert slope.isfinite().all(), name
        assert slope.any(), name


def test_what_is_remembered_is_not_taken_for_another_gradient():
    module = built(NOISES["variational"], (3,))
    q = module(rows(2, (3,)))
    u = q.sample((2,))
    assert q.log_prob(u).requires_grad
    with torch.no_grad():
        assert not q.log_prob(u).requires_grad


@every
@pytest.mark.parametrize("shape", [(3,), (1, 3, 3)])
def test_missing_cells_are_not_read(noise, shape):
    module, x = built(noise, shape), rows(4, shape)
    mask = torch.rand(4, *shape) < 0.5
    mask[:, 0] = True
    other = torch.where(mask, x, rows(4, shape))
    u = torch.rand(2, 4, *shape).double()
    found = module(x, mask).log_prob(u)
    torch.testing.assert_close(module(torch.where(mask, x, math.nan), mask).log_prob(u), found)
    torch.testing.assert_close(module(other, mask).log_prob(u), found)


def test_it_reads_the_row():
    for shape in ((3,), (1, 3, 3)):
        module = built(NOISES["variational"], shape)
        u = torch.rand(1, *shape).double()
        assert module(torch.zeros(1, *shape)).log_prob(u) != module(
            torch.ones(1, *shape)
        ).log_prob(u)


def test_the_bound_is_learned_and_stays_below():
    """A density that is steep within cells: learned noise finds it, uniform noise cannot."""
    torch.manual_seed(0)
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]]).double()

    def log_p(y):  # piles up at the lower end of every cell: P(x) = 1/4
        u = y - y.floor()
        return math.log(0.25) + math.log(8) - 8 * u - math.log(1 - math.exp(-8))

    u = torch.rand(20_000, 4, 1).double()
    even = log_p(x + u).mean()
    module = VariationalNoise(steps=1, hidden=8).build((1,), 4).double()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(300):
        q = module(x)
        u = q.rsample((64,))
        loss = -(log_p(x + u)[..., 0] - q.log_prob(u)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        q = module(x)
        u = q.sample((4000,))
        bound = (log_p(x + u)[..., 0] - q.log_prob(u)).mean()
    assert even < math.log(0.25) - 1.5
    assert math.log(0.25) - 0.15 < bound < math.log(0.25) + 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_and_log_q_are_finite_at_extreme_parameters(dtype):
    for shape in ((3,), (1, 3, 3)):
        module = shaken(NOISES["variational"].build(shape, 8).to(dtype), 5.0)
        q = module(rows(50, shape).to(dtype))
        u = q.rsample((20,))
        assert ((u > 0) & (u < 1)).all()
        assert ((rows(50, shape).to(dtype) + u).floor() < 8).all()
        assert q.log_prob(u).isfinite().all()
        assert q.log_prob(u + 0).isfinite().all()


def test_values_outside_have_no_density():
    q = built(NOISES["variational"], (2,))(rows(1, (2,)))
    assert q.log_prob(torch.tensor([[0.5, 1.5]]).double()) == -math.inf


def test_the_density_of_uniform_noise_is_one():
    q = UniformNoise().build((2, 2), 8)(torch.ones(3, 2, 2, dtype=torch.int64))
    u = q.rsample((5,))
    assert u.dtype == torch.float32
    assert not q.log_prob(u).any()


@every
def test_it_is_built_without_memory_and_copied(noise):
    for shape in ((3,), (1, 4, 4)):
        with torch.device("meta"):
            made = noise.build(shape, 8)
        assert all(p.is_meta for p in made.parameters())
        module, x, u = built(noise, shape), rows(2, shape), torch.rand(2, *shape).double()
        again = noise.build(shape, 8).double()
        again.load_state_dict(module.state_dict())
        for other in (again, copy.deepcopy(module)):
            assert torch.equal(other(x).log_prob(u), module(x).log_prob(u))


def test_the_calls_are_read_and_written(refused):
    assert set(KINDS["noises"]) == {"UniformNoise", "VariationalNoise"}
    noise = VariationalNoise(steps=2, dropout=0.1)
    assert expr.build(expr.show(noise), components()) == noise
    with refused("VariationalNoise", "steps=0"):
        VariationalNoise(steps=0)
    with refused("hidden=True"):
        VariationalNoise(hidden=True)
    with refused("dropout=1"):
        VariationalNoise(dropout=1)
    with refused("levels=1", "at least 2"):
        UniformNoise().build((2,), 1)
    with refused("weights", "smaller hidden"):
        VariationalNoise(hidden=10**6).build((1, 4, 4), 8)
