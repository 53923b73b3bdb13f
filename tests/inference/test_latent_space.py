"""Walks between codes, along latents, over the plane; neighbours; rebuilt spoilt rows."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import constraints

import latently as lt
from latently.data import Data
from latently.data.corruptions import Adversarial, Gaussian, Masking
from latently.inference._codes import great_circle, moved, switching
from latently.inference.latent_space import nearest
from latently.nets import MLP
from latently.probability.families import (
    Bernoulli,
    Beta,
    Dirichlet,
    FixedNormal,
    Gamma,
    Normal,
    OneHot,
    Poisson,
)
from latently.probability.priors import Standard, VampPrior
from latently.probability.span import Span


@pytest.fixture
def linear(dtype, device):
    """A PPCA with a known loading matrix (5, 3), and rows."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    loc = torch.randn(5, generator=generator, dtype=torch.float64)
    z = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    x = (loc + z @ weight.T + 0.1 * torch.randn(40, 5, generator=generator)).to(device, dtype)
    model = lt.ppca((5,), latents=3).to(device, dtype)
    lt.fit(model, Data(x, "Normal", "rows"), progress=False)
    return SimpleNamespace(model=model.eval(), x=x, weight=model.weight.double().cpu())


def small(shape=(4,), **options):
    torch.manual_seed(0)
    return lt.vae(shape, likelihood=Normal, net=partial(MLP, hidden=(8,)), **options).eval()


class Layers(torch.nn.Module):
    """Two layers of latents, both shown by a linear map: as much of a model as walks ask for."""

    invertible, shape, dtype, device = False, (4,), torch.float64, torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.top = torch.randn(4, 2, dtype=torch.float64)
        self.low = torch.randn(4, 3, dtype=torch.float64)

    def check(self, x, mask):
        assert x.shape[1:] == self.shape

    def check_context(self, context):
        assert context is None

    def infer(self, x, samples, mask, context, draw):
        qs = [torch.distributions.Normal(x @ w, 1.0) for w in (self.top, self.low)]
        z = tuple(draw(q, samples) for q in qs)
        return SimpleNamespace(z=z, log_pi=torch.zeros(samples, len(x)))

    def latent_constraints(self):
        return constraints.real, constraints.real

    def latents(self, n, context=None):
        return torch.zeros(1, n, 2), torch.zeros(1, n, 3)

    def decode(self, z, context=None):
        return z[0] @ self.top.T + z[1] @ self.low.T


# Ways between rows.


def test_a_linear_decoder_turns_the_straight_line_into_one(linear, exactly):
    a, b = linear.x[0], linear.x[1]
    ends = linear.model.reconstruct(linear.x[:2])
    t = torch.linspace(0, 1, 7, dtype=a.dtype, device=a.device)[:, None]
    exactly(lt.interpolate(linear.model, a, b, 7), (1 - t) * ends[0] + t * ends[1])


def test_the_great_circle_is_that_of_quaternions():
    from scipy.spatial.transform import Rotation, Slerp

    turns = Rotation.random(2, random_state=0)
    a, b = (torch.from_numpy(q) for q in turns.as_quat())
    b = b if a @ b > 0 else -b  # the same rotation, the shorter way
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    wanted = torch.from_numpy(Slerp([0, 1], turns)(t.numpy()).as_quat())
    found = great_circle(a, b, t)
    wanted = wanted * (wanted * found).sum(1, keepdim=True).sign()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_great_circle_has_equal_angles_and_even_lengths():
    a, b = torch.randn(2, 3, 4, dtype=torch.float64)
    b = 3 * b
    way = great_circle(a, b, torch.linspace(0, 1, 6, dtype=torch.float64)).flatten(1)
    wanted = torch.linspace(float(a.norm()), float(b.norm()), 6, dtype=torch.float64)
    torch.testing.assert_close(way.norm(dim=1), wanted)
    u = way / way.norm(dim=1, keepdim=True)
    angles = (u[1:] * u[:-1]).sum(1).arccos()
    torch.testing.assert_close(angles, angles[:1].expand(5))
    assert torch.equal(way[0], a.flatten())
    assert torch.equal(way[-1], b.flatten())


@pytest.mark.parametrize("b", [[2.0, 4.0], [-1.0, -2.0], [0.0, 0.0], [1.0, 2.0]])
def test_equal_opposite_and_empty_directions_are_joined_by_the_line(b):
    a, b = torch.tensor([1.0, 2.0]).double(), torch.tensor(b).double()
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    wanted = (1 - t[:, None]) * a + t[:, None] * b
    torch.testing.assert_close(great_circle(a, b, t), wanted, rtol=0, atol=1e-12)


def test_spherical_walks_decode_the_great_circle(linear, exactly):
    a, b = linear.x[0], linear.x[1]
    (z,) = linear.model.encode(linear.x[:2])
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    way = great_circle(z[0].double(), z[1].double(), t).to(z)
    wanted = linear.model.decode((way,))
    exactly(lt.interpolate(linear.model, a, b, 5, how="spherical"), wanted)


def test_a_flow_walks_in_its_base_space_and_gives_the_rows_back():
    torch.manual_seed(0)
    model = lt.flow((2,)).double().eval()
    x = torch.randn(30, 2, dtype=torch.float64)
    model.initialise(x)
    for how in ("linear", "spherical"):
        way = lt.interpolate(model, x[0], x[1], 5, how=how)
        torch.testing.assert_close(way[[0, -1]], x[:2], rtol=1e-5, atol=1e-5)
    sheet = lt.bilinear(model, x[:4], 3)
    corners = sheet[[0, 0, 2, 2], [0, 2, 0, 2]]
    torch.testing.assert_close(corners, x[:4], rtol=1e-5, atol=1e-5)


def test_all_layers_are_walked_together():
    model = Layers()
    a, b = torch.randn(2, 4, dtype=torch.float64)
    found = lt.interpolate(model, a, b, 3)
    ends = [model.decode((x @ model.top, x @ model.low)) for x in (a, b)]
    torch.testing.assert_close(found, torch.stack([ends[0], (ends[0] + ends[1]) / 2, ends[1]]))


def test_a_sheet_is_bilinear_with_its_corners_exact(linear, exactly):
    corners = linear.x[:4]
    u = linear.model.reconstruct(corners)
    sheet = lt.bilinear(linear.model, corners, side=5)
    for i, s in enumerate([0, 0.25, 0.5, 0.75, 1]):
        for j, t in enumerate([0, 0.25, 0.5, 0.75, 1]):
            wanted = (1 - s) * ((1 - t) * u[0] + t * u[1]) + s * ((1 - t) * u[2] + t * u[3])
            exactly(sheet[i, j], wanted)
    model = small(latents=3)
    corners = torch.randn(4, 4)
    found = lt.bilinear(model, corners, side=4)[[0, 0, 3, 3], [0, 3, 0, 3]]
    torch.testing.assert_close(found, model.reconstruct(corners), rtol=1e-5, atol=1e-6)


def test_contexts_are_held_or_moved():
    model = small(latents=2, contexts=3)
    a, b = torch.randn(2, 4)
    first, second = torch.eye(3)[:2]
    found = lt.interpolate(model, a, b, 3, context=torch.stack([first, second]))
    (u,), (v,) = (model.encode(x[None], context=c[None]) for x, c in ((a, first), (b, second)))
    middle = model.decode(((u + v) / 2,), ((first + second) / 2)[None])
    torch.testing.assert_close(found[1], middle[0], rtol=1e-5, atol=1e-6)
    held = lt.interpolate(model, a, b, 3, context=first)
    (u,), (v,) = (model.encode(x[None], context=first[None]) for x in (a, b))
    torch.testing.assert_close(held[1], model.decode(((u + v) / 2,), first[None])[0])
    rows = torch.randn(4, 4)
    assert lt.bilinear(model, rows, 3, context=torch.eye(3)[[0, 1, 2, 0]]).shape == (3, 3, 4)
    assert lt.traverse(model, rows, 0, [0.0], context=torch.eye(3)[[0, 1, 2, 0]]).shape[:2] == (
        4,
        1,
    )
    assert lt.manifold(model, 2, context=first).shape == (2, 2, 4)


def test_missing_cells_do_not_matter():
    model = small(latents=2, sees_mask=True)
    a, b = torch.randn(2, 4)
    mask = torch.tensor([[True, False, True, True], [True, True, True, True]])
    found = lt.interpolate(model, a, b, 3, mask=mask)
    other = lt.interpolate(model, a + 100 * ~mask[0], b, 3, mask=mask)
    torch.testing.assert_close(found, other)


def test_discrete_latents_switch_one_after_the_other():
    a, b = torch.zeros(4), torch.tensor([1.0, 0, 1, 1])
    way = switching(a, b, torch.linspace(0, 1, 4, dtype=torch.float64), rows=False)
    assert way.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    one = torch.eye(3)
    way = switching(one[[0, 1]], one[[2, 0]], torch.tensor([0.0, 0.5, 1.0]), rows=True)
    assert way.argmax(-1).tolist() == [[0, 1], [2, 1], [2, 0]]
    model = small(latents=(3, 4), posterior=OneHot, prior=Standard)
    x = torch.randn(2, 4)
    found = lt.interpolate(model, x[0], x[1], 6)
    torch.testing.assert_close(found[[0, -1]], model.reconstruct(x))
    binary = small(latents=5, posterior=Bernoulli, prior=Standard)
    torch.testing.assert_close(
        lt.interpolate(binary, x[0], x[1], 4)[[0, -1]], binary.reconstruct(x)
    )


def test_enumerated_classes_count_by_the_likeliest():
    torch.manual_seed(0)
    model = lt.ssvae((4,), latents=2, classes=3, likelihood=Normal, net=partial(MLP, hidden=(8,)))
    model, x = model.eval(), torch.randn(40, 4)
    label = model.encode(x)[0].argmax(1)
    a, b = (label == label.mode().values).nonzero()[:2, 0].tolist()
    found = lt.interpolate(model, x[a], x[b], 4)
    torch.testing.assert_close(found[[0, -1]], model.reconstruct(x[[a, b]]))
    assert lt.neighbours(model, x[:2], x, k=1).index.tolist() == [[0], [1]]


def test_ways_that_are_none(refused):
    x = torch.randn(4, 4)
    model = small(latents=2)
    single = small(latents=(1, 4), posterior=OneHot, prior=Standard)
    many = 10 * torch.randn(60, 4)
    label = single.encode(many)[0][:, 0].argmax(1)
    a, b = int(label.argmin()), int(label.argmax())
    with refused("one discrete latent", "traverse"):
        lt.interpolate(single, many[a], many[b])
    assert lt.interpolate(single, many[a], many[a], 3).shape == (3, 4)
    for posterior in (Dirichlet, Beta):
        with refused('how="spherical"', "linear"):
            lt.interpolate(
                small(latents=3, posterior=posterior, prior=Standard), x[0], x[1], how="spherical"
            )
    with refused("how='round'", "linear", "spherical"):
        lt.interpolate(model, x[0], x[1], how="round")
    with refused("steps=1", "at least 2"):
        lt.interpolate(model, x[0], x[1], 1)
    with refused("shape (2, 4)", "single rows"):
        lt.interpolate(model, x[:2], x[1])
    with refused("3 corners", "four rows"):
        lt.bilinear(model, x[:3])
    with refused("side=2.5", "whole number"):
        lt.bilinear(model, x, 2.5)
    with refused("context", "contexts=2"):
        lt.interpolate(model, x[0], x[1], context=torch.zeros(2))
    with refused("(3, 2)", "(C,)"):
        lt.interpolate(model, x[0], x[1], context=torch.zeros(3, 2))
    with refused("a mask of shape (4,)", "(2, 4)"):
        lt.interpolate(model, x[0], x[1], mask=torch.ones(4, dtype=torch.bool))


# Along one latent, over the plane.


def test_traversals_of_ppca_run_along_its_loadings(linear, exactly):
    values = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    for unit in range(3):
        found = lt.traverse(linear.model, linear.x[:2], unit, values).double().cpu()
        assert found.shape == (2, 4, 5)
        along = linear.weight[:, unit]
        for row in found:
            exactly(row[1:] - row[:1], (values[1:] - values[0])[:, None] * along)
        single = lt.traverse(linear.model, linear.x[1], unit, values)
        exactly(single, found[1])


def test_values_are_quantiles_of_the_prior_or_of_codes(linear):
    levels = (torch.arange(5, dtype=torch.float64) + 0.5) / 5
    model = small(latents=2)
    seen = []

    def note(z, context=None):
        seen.append(z[0])
        return torch.zeros(len(z[0]), 4)

    model.decode = note
    lt.traverse(model, torch.randn(4), 1, steps=5)
    wanted = torch.distributions.Normal(0.0, 1.0).icdf(levels)
    torch.testing.assert_close(seen[0][:, 1].double(), wanted, rtol=1e-5, atol=1e-6)
    assert len(seen[0][:, 0].unique()) == 1
    rows = torch.randn(50, 4)
    (codes,) = model.encode(rows)
    lt.traverse(model, torch.randn(4), 0, steps=5, among=rows)
    torch.testing.assert_close(
        seen[1][:, 0].double(), torch.quantile(codes[:, 0].double(), levels), rtol=1e-5, atol=1e-6
    )
    linear.model.decode = note  # a prior known by its draws
    lt.traverse(linear.model, linear.x[0], 1, steps=5)
    torch.testing.assert_close(seen[2][:, 1].double().cpu(), wanted, rtol=0, atol=0.05)


def test_units_keep_to_the_values_they_can_take(refused):
    x = torch.randn(4)
    shares = torch.tensor([0.2, 0.3, 0.5])
    found = moved(shares, 0, torch.tensor([0.0, 0.6, 1.0]), "shares")
    torch.testing.assert_close(found.sum(-1), torch.ones(3))
    torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 0.6, 1.0]))
    torch.testing.assert_close(found[:2, 1] / found[:2, 2], torch.tensor([0.6, 0.6]))
    corner = moved(torch.tensor([1.0, 0.0, 0.0]), 0, torch.tensor([0.5]), "shares")
    assert corner.tolist() == [[0.5, 0.25, 0.25]]
    model = small(latents=(2, 3), posterior=OneHot, prior=Standard)
    assert lt.traverse(model, x, 1).shape == (3, 4)
    with refused("unit=2", "variables 0 to 1"):
        lt.traverse(model, x, 2)
    with refused("numbers of categories from 0 to 2"):
        lt.traverse(model, x, 0, [3])
    of_shares = small(latents=3, posterior=Dirichlet, prior=Standard)
    assert lt.traverse(of_shares, x, 2, steps=4).shape == (4, 4)
    with refused("shares from 0 to 1"):
        lt.traverse(of_shares, x, 2, [1.5])
    binary = small(latents=3, posterior=Bernoulli, prior=Standard)
    assert lt.traverse(binary, x, 0).shape == (2, 4)
    with refused("whole numbers"):
        lt.traverse(binary, x, 0, [0.5])
    with refused("finite numbers"):
        lt.traverse(small(latents=2), x, 0, [math.nan])
    with refused("2 layers", "interpolate"):
        lt.traverse(Layers(), x.double(), 0, [0.0])


def test_the_manifold_runs_right_and_up(linear):
    model = small(latents=2)
    side = 3
    at = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(3) + 0.5) / 3)
    found = lt.manifold(model, side)
    for row in range(side):
        for column in range(side):
            z = torch.stack([at[column], at[side - 1 - row]])[None]
            torch.testing.assert_close(
                found[row, column], model.decode((z,))[0], rtol=1e-4, atol=1e-5
            )
    rows = torch.randn(30, 4)
    (codes,) = model.encode(rows)
    middle = lt.manifold(model, 1, among=rows)[0, 0]
    median = torch.quantile(codes, 0.5, 0)[None]
    torch.testing.assert_close(middle, model.decode((median,))[0], rtol=1e-4, atol=1e-5)
    vamp = small(latents=2, prior=VampPrior)
    assert lt.manifold(vamp, 2).isfinite().all()
    assert lt.manifold(lt.flow((2,)).eval(), 3).shape == (3, 3, 2)


@pytest.mark.parametrize(("posterior", "value"), [(Gamma, 0.0), (Gamma, -1.0), (Poisson, -1.0)])
def test_values_that_latents_do_not_take_are_named(posterior, value, refused):
    model = small(latents=2, posterior=posterior, prior=Standard)
    with refused("traverse", f"values=[{value}]"):
        lt.traverse(model, torch.zeros(4), 0, [value])
    assert lt.traverse(model, torch.zeros(4), 0, [1.0]).isfinite().all()


def test_planes_that_are_none(linear, refused):
    with refused("3 numbers", "latents=2"):
        lt.manifold(linear.model)
    with refused("categories", "latents=2"):
        lt.manifold(small(latents=(1, 2), posterior=OneHot, prior=Standard))
    with refused("side=0"):
        lt.manifold(small(latents=2), 0)
    for model in (small(latents=2, contexts=3), lt.ssvae((4,), classes=3, latents=2)):
        with refused("context", "4", "3"):
            lt.manifold(model, 2, context=torch.ones(4))


def test_codes_without_a_prior_ask_for_rows(refused):
    torch.manual_seed(0)
    model = lt.ae((4,), latents=2, net=partial(MLP, hidden=(8,))).eval()
    x = torch.randn(30, 4)
    with refused("manifold", "among=x"):
        lt.manifold(model)
    with refused("traverse", "among=x"):
        lt.traverse(model, x[0], 0)
    assert lt.manifold(model, 3, among=x).shape == (3, 3, 4)
    assert lt.traverse(model, x[0], 0, among=x).shape == (9, 4)
    ends = lt.interpolate(model, x[0], x[1], 4)[[0, -1]]
    torch.testing.assert_close(ends, model.reconstruct(x[:2]), rtol=1e-5, atol=1e-6)
    bent = lt.ae((4,), latents=2, net=partial(MLP, hidden=(8,)), activation=torch.nn.Sigmoid)
    with refused('how="spherical"', "range"):
        lt.interpolate(bent.eval(), x[0], x[1], how="spherical")


# Neighbours.


def test_neighbours_are_those_of_scikit_learn(linear):
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import StandardScaler

    (codes,) = (z.double().cpu() for z in linear.model.encode(linear.x))
    scaled = StandardScaler().fit_transform(codes.numpy())
    distance, index = NearestNeighbors(n_neighbors=4).fit(scaled).kneighbors(scaled[:9])
    found = lt.neighbours(linear.model, linear.x[:9], linear.x, k=4)
    assert (found.latents, found.of) == (3, 3)
    assert found.index[:, 0].tolist() == list(range(9))
    assert found.index.tolist() == index.tolist()
    torch.testing.assert_close(found.distance, torch.from_numpy(distance), rtol=1e-5, atol=1e-6)


def test_blocks_do_not_change_neighbours(monkeypatch):
    from latently.inference import _codes, latent_space

    model, x = small(latents=3), torch.randn(60, 4)
    whole = lt.neighbours(model, x, x, k=3)
    monkeypatch.setattr(latent_space, "_PAIRS", 200)
    monkeypatch.setattr(_codes, "_VALUES", 28)
    parts = lt.neighbours(model, x, Data(x, "Normal", "rows"), k=3)
    assert torch.equal(whole.index, parts.index)
    torch.testing.assert_close(whole.distance, parts.distance, rtol=1e-5, atol=1e-6)


def test_latents_hardly_used_do_not_count():
    among = torch.stack([torch.arange(6.0), 0.01 * torch.tensor([0.0, 9, 3, 7, 1, 5])], 1)
    found = nearest(among[:1], among, 3)
    assert (found.latents, found.of) == (1, 2)
    assert found.index.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(found.distance[0, 1], 1 / among[:, 0].std(correction=0))
    same = nearest(torch.zeros(1, 2), torch.zeros(3, 2), 2)
    assert same.distance.tolist() == [[0, 0]]


def test_neighbours_that_are_none(refused):
    model, x = small(latents=2), torch.randn(5, 4)
    with refused("k=6", "at most 5"):
        lt.neighbours(model, x, x, k=6)
    with refused("k=0"):
        lt.neighbours(model, x, x, k=0)
    with refused("list", "Data.from_array"):
        lt.neighbours(model, x.tolist(), x)
    with refused("no rows"):
        lt.neighbours(model, x[:0], x)
    with refused("(3,)", "shape=data.shape"):
        lt.neighbours(model, x[:, :3], x)


# Spoilt rows.


def test_errors_of_spoilt_rows_by_hand(linear, exactly):
    span = Span.of(linear.x)
    found = lt.corrupted(linear.model, linear.x, Masking(0.9), [0, 0.5, 1], span=span)
    assert torch.equal(found.rows[0], linear.x.cpu())
    assert torch.equal(found.rows[2], torch.zeros_like(found.rows[2]))
    hidden = found.rows[1] == 0
    assert 0.4 < hidden.double().mean() < 0.6
    assert torch.equal(found.rows[1][~hidden], linear.x.cpu()[~hidden])
    wanted = linear.model.reconstruct(found.rows[1].to(linear.x)).cpu()
    exactly(found.rebuilt[1], wanted)
    errors = (wanted - linear.x.cpu()).square().double().mean(1)
    exactly(found.errors[1], errors)
    exactly(found.mse[1], errors.mean())
    exactly(found.stderr[1], errors.std() / math.sqrt(40))
    exactly(found.mse[0], linear.model.errors(linear.x).mean())
    exactly(found.damage, (found.rows - linear.x.cpu()).square().double().mean(2))
    assert found.mse[0] < found.mse[1] < found.mse[2]
    assert "Masking(level=0.9" in str(found).splitlines()[0]
    assert len(str(found).splitlines()) == 4


def test_all_levels_share_their_noise(linear, untouched):
    span = Span.of(linear.x)
    with untouched():
        found = lt.corrupted(linear.model, linear.x, Gaussian(), [0.1, 0.2], span=span, keep=7)
    noise = (found.rows - found.clean).double()
    torch.testing.assert_close(noise[1], 2 * noise[0], rtol=1e-4, atol=1e-5)
    assert found.rows.shape == (2, 7, 5)
    assert found.errors.shape == (2, 40)
    again = lt.corrupted(linear.model, linear.x, Gaussian(), [0.1, 0.2], span=span)
    assert torch.equal(again.errors, found.errors)
    other = lt.corrupted(linear.model, linear.x, Gaussian(), [0.1, 0.2], span=span, seed=1)
    assert not torch.equal(other.errors, found.errors)


def test_an_adversary_does_more_harm_than_chance():
    torch.manual_seed(0)
    x = torch.randn(30, 4)
    model = lt.vae((4,), latents=2, likelihood=partial(FixedNormal, std=0.5)).eval()
    span = Span.of(x)
    worst = lt.corrupted(model, x, Adversarial(), [0.1], span=span)
    apart = ((worst.rows[0] - x) / span.width).abs()
    assert apart.max() <= 0.1 + 1e-5
    signs = torch.randn(30, 4).sign()
    chance = (model.reconstruct(x + 0.1 * span.width * signs) - x).square().mean(1)
    assert worst.mse[0] > chance.mean()


def test_missing_cells_count_nothing():
    x = torch.randn(20, 4)
    mask = torch.rand(20, 4) > 0.3
    mask[:, 0] = True
    model = small(latents=2, sees_mask=True)
    rows = SimpleNamespace(x=x, mask=mask, context=None)
    found = lt.corrupted(model, rows, Masking(), [0.0], span=Span.of(x, mask))
    errors = (model.reconstruct(x, mask) - x).square().where(mask, 0.0).sum(1) / mask.sum(1)
    torch.testing.assert_close(found.errors[0], errors.double(), rtol=1e-5, atol=1e-6)


def test_an_autoencoder_knows_its_span():
    x = 5 * torch.randn(50, 4)
    model = lt.ae((4,), latents=2, net=partial(MLP, hidden=(8,))).eval()
    model.initialise(x)
    found = lt.corrupted(model, x, Gaussian(), [0.3])
    wanted = lt.corrupted(model, x, Gaussian(), [0.3], span=Span.of(x))
    torch.testing.assert_close(found.rows, wanted.rows)


def test_spoilt_rows_that_are_none(refused):
    x, model = torch.randn(5, 4), small(latents=2)
    for corruption in ("Masking", Masking):
        with refused("corruption=", "Masking(0.5)"):
            lt.corrupted(model, x, corruption)
    with refused("span=Span.of"):
        lt.corrupted(model, x, Masking())
    with refused("0 levels"):
        lt.corrupted(model, x, Masking(), [], span=Span.of(x))
    with refused("level=1.5"):
        lt.corrupted(model, x, Masking(), [1.5], span=Span.of(x))
    with refused("NormalizingFlow", "row itself"):
        lt.corrupted(lt.flow((4,)), x, Masking(), span=Span.of(x))


def test_public_names():
    for name in ("interpolate", "bilinear", "traverse", "manifold", "neighbours", "corrupted"):
        assert name in lt.__all__
        assert getattr(lt, name).__doc__
