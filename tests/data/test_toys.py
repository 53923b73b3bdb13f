"""Known densities: they sum to one, draws follow them, and entropies are what they say."""

import math

import numpy as np
import pytest
import torch

import latently as lt
from latently.data import load
from latently.data.densities import Smooth
from latently.data.toys import DENSITIES, density_of, toy

NAMES = sorted(DENSITIES)
SPLITS = ("train", "validation", "test", "train+val")
SIDES = {"pinwheel": 1 / 60, "spirals": 1 / 20, "banana": 1 / 10}  # steps of the grid


def plane(name):
    """Midpoints of cells over the box, (n, 2), and the area of a cell.

    A cell's edges meet those of the checkerboard, whose sums are then exact.
    """
    step = SIDES.get(name, 1 / 25)
    axes = []
    for low, high in toy(name).box:
        axes.append(torch.arange(low + step / 2, high, step, dtype=torch.float64))
    return torch.cartesian_prod(*axes), step**2


@pytest.fixture(scope="module")
def heights():
    """log p over the plane and the area of a cell, by name."""
    found = {}
    for name in NAMES:
        x, area = plane(name)
        found[name] = torch.cat([toy(name).log_prob(block) for block in x.split(200_000)]), area
    return found


@pytest.mark.parametrize("name", NAMES)
def test_densities_sum_to_one(heights, name):
    log_p, area = heights[name]
    assert float(log_p.exp().sum() * area) == pytest.approx(1, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_entropies_are_what_quadrature_in_the_plane_gives(heights, name):
    log_p, area = heights[name]
    found = -float(torch.special.xlogy(log_p.exp(), log_p.exp()).sum() * area)
    assert toy(name).entropy == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_log_density_of_test_rows_is_minus_the_entropy(name):
    log_p = toy(name).log_prob(load(f"toys:{name}/test").x)
    error = float(log_p.std()) / math.sqrt(len(log_p))
    assert abs(float(log_p.mean()) + toy(name).entropy) <= 4 * error + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_draws_fall_into_cells_as_often_as_the_density_says(name):
    """Chi-square of 10,000 draws over 20 x 20 cells, their mass by a grid of 10 x 10 in each."""
    density, n, cells, fine = toy(name), 10_000, 20, 10
    low, high = np.array([(-6.5, 6.5), (-2.5, 9.0)] if name == "banana" else density.box).T
    edges = [np.linspace(a, b, cells + 1) for a, b in zip(low, high, strict=True)]
    middle = [
        np.linspace(a, b, 2 * cells * fine + 1)[1::2] for a, b in zip(low, high, strict=True)
    ]
    grid = torch.cartesian_prod(*map(torch.from_numpy, middle))
    mass = density.log_prob(grid).exp().view(cells, fine, cells, fine).sum((1, 3)).numpy()
    mass *= np.prod((high - low) / (cells * fine))
    drawn = density.sample(n, np.random.default_rng(3)).numpy()
    counts = np.histogram2d(*drawn.T, bins=edges)[0]
    enough = n * mass >= 5
    expected = np.append(n * mass[enough], n * (1 - mass[enough].sum()))
    found = np.append(counts[enough], n - counts[enough].sum())
    keep = expected > 1
    chi = ((found - expected)[keep] ** 2 / expected[keep]).sum()
    freedom = keep.sum() - 1
    assert enough.sum() > 20
    assert chi < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("name", [name for name in NAMES if toy(name).parts > 1])
def test_labels_are_the_parts_that_rows_come_from(name):
    """Given its rows, a part's density has the mean log that its own mass says: Gibbs' inequality.

    No other part explains the rows of a label better, and labels are as calibrated as
    p(part | x) = p_k(x) / sum p_j(x).
    """
    data = load(f"toys:{name}/validation")
    assert set(data.labels.tolist()) == set(range(toy(name).parts))
    log_parts = toy(name).log_parts(data.x)
    share = log_parts.softmax(-1)
    own = share.gather(1, data.labels[:, None])[:, 0]
    spread = (share * (1 - share)).gather(1, data.labels[:, None]).sum()
    expected = share.square().sum(-1)
    assert abs(float((own - expected).sum())) < 4 * float(spread.sqrt()) + 1e-6
    assert float(own.mean()) > 0.95
    both = log_parts.logsumexp(-1) - math.log(toy(name).parts)
    assert torch.equal(both, toy(name).log_prob(data.x))


@pytest.mark.parametrize("name", ["moons", "spirals"])
def test_the_quadrature_along_a_curve_has_converged(name):
    """Against twice the nodes, near the curves and up to 4 from the centre."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 2, generator=generator, dtype=torch.float64)
    x = x[torch.linalg.vector_norm(x, dim=1) < 2]
    x = torch.cat([x, 2 * x])
    finer = type(toy(name))()
    finer._nodes *= 2
    error = toy(name).log_prob(x) - finer.log_prob(x)
    assert float(error.abs().max()) < 1e-9


def test_an_arm_of_moons_by_a_plain_sum():
    """A point's density as a sum over a million points of the arcs."""
    t = np.linspace(0, np.pi, 1_000_001)
    t = (t[1:] + t[:-1]) / 2
    for x, y in ((0.3, 0.8), (1.5, -0.6), (2.3, 0.1)):
        upper = np.exp(-((x - np.cos(t)) ** 2 + (y - np.sin(t)) ** 2) / 0.02)
        lower = np.exp(-((x - 1 + np.cos(t)) ** 2 + (y - 0.5 + np.sin(t)) ** 2) / 0.02)
        p = (upper.mean() + lower.mean()) / 2 / (2 * np.pi * 0.01)
        assert float(toy("moons").log_prob([x, y])) == pytest.approx(math.log(p), abs=1e-10)


def test_a_ring_by_a_plain_sum():
    t = 2 * np.pi * np.arange(4000) / 4000
    for r in (0.0, 0.9, 2.05):
        rings = [
            np.exp(-((r - radius * np.cos(t)) ** 2 + (radius * np.sin(t)) ** 2) / 0.02).mean()
            for radius in (1, 2)
        ]
        p = sum(rings) / 2 / (2 * np.pi * 0.01)
        assert float(toy("circles").log_prob([0.0, r])) == pytest.approx(math.log(p), abs=1e-10)


def test_a_turn_by_the_radius_keeps_areas():
    """The Jacobian of the pinwheel's map has determinant 1, by autograd."""
    pinwheel = toy("pinwheel")

    def turn(x):
        r = torch.linalg.vector_norm(x)
        cos, sin = pinwheel._twist(r).cos(), pinwheel._twist(r).sin()
        return torch.stack([cos * x[0] - sin * x[1], sin * x[0] + cos * x[1]])

    for x in torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double():
        jacobian = torch.autograd.functional.jacobian(turn, 3 * x)
        assert float(torch.linalg.det(jacobian)) == pytest.approx(1, abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_what_they_say(name):
    parts = {split: load(f"toys:{name}/{split}") for split in SPLITS}
    assert [len(part) for part in parts.values()] == [20_000, 2_000, 10_000, 22_000]
    both = torch.cat([parts["train"].x, parts["validation"].x])
    assert torch.equal(both, parts["train+val"].x)
    for split, part in parts.items():
        assert (part.shape, part.family, part.levels) == ((2,), "Normal", None)
        assert part.x.dtype == torch.float64
        assert part.protocol == f"toys:{name}/{split}"
        assert (part.labels is None) == (toy(name).parts == 1)
        assert torch.equal(load(part.protocol).x, part.x)
        assert density_of(part) is toy(name)
        assert bool(toy(name).log_prob(part.x).isfinite().all())
    rows = torch.cat([both, parts["test"].x])
    assert len(rows.unique(dim=0)) == len(rows)


def test_draws_are_a_function_of_the_generator():
    for name in NAMES:
        first, second = (toy(name).draw(50, np.random.default_rng(1)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert toy(name).sample(0, np.random.default_rng(1)).shape == (0, 2)


def test_densities_are_computed_of_points_in_any_arrangement():
    for name in NAMES:
        x = toy(name).sample(6, np.random.default_rng(2))
        log_p = toy(name).log_prob(x)
        assert log_p.shape == (6,)
        assert torch.equal(toy(name).log_prob(x.view(2, 3, 2)), log_p.view(2, 3))
        assert toy(name).log_parts(x[0]).shape == (toy(name).parts,)
        assert torch.equal(toy(name).log_prob(x.numpy()), log_p)


def test_the_divergence_of_a_model_from_the_truth_is_paired():
    """KL(p || N(m, S)) in closed form where p is the banana: its moments suffice.

    E[x^2] = 4, E[y] = 0, Var y = 2 + 1/4, Cov = 0, so the best normal lacks log of the deviations.
    """
    data = load("toys:banana/test")
    model = lt.ppca((2,), latents=1)
    lt.fit(model, load("toys:banana/train"), progress=False)
    lacks = lt.toy("banana").log_prob(data.x) - lt.evaluate(model, data).values
    error = float(lacks.std()) / math.sqrt(len(lacks))
    expected = 0.5 * math.log(4 * 2.25)
    assert error < 0.02
    assert float(lacks.mean()) == pytest.approx(expected, abs=4 * error)


def test_other_data_have_no_density():
    assert density_of(load("digits/test")) is None
    assert density_of(lt.Data.from_array([[0.5, 1.5]], protocol="toys")) is None
    assert density_of(lt.Data.from_array([[0.5, 1.5]], protocol="toys:sun/test")) is None


def test_entropies_are_computed_once():
    density = next(density for density in DENSITIES.values() if isinstance(density, Smooth))
    assert density.entropy == vars(density)["entropy"]


def test_mistakes(refused):
    with refused("moon", "did you mean moons"):
        lt.toy("moon")
    with refused("toys has no protocol 'moon'", "did you mean moons"):
        load("toys:moon/test")
    with refused("toys", "choose toys:banana"):
        load("toys")
    with refused("(3,)", "(n, 2)"):
        lt.toy("grid").log_prob([1.0, 2.0, 3.0])
    with refused("n=-1"):
        lt.toy("grid").draw(-1, np.random.default_rng(0))
