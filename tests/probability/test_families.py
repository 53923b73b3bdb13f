"""What a family sets from data, and what it refuses; the rest of it is in conformance.py."""

import math

import pytest
import torch

from latently.probability.choice import families_for
from latently.probability.families import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    Embedded,
    FixedNormal,
    Mixed,
    Normal,
    Ordinal,
    SharedNormal,
)


def columns():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    return x * torch.tensor([1e-3, 1.0, 1e4]) + torch.tensor([5.0, -2.0, 1e5])


@pytest.mark.parametrize("kind", [Normal, SharedNormal, FixedNormal])
def test_embedding_is_of_order_one_and_density_in_data_units(kind):
    x = columns()
    family = kind((3,)).double()
    family.initialise(x)
    embedded = family.embed(x)
    assert embedded.mean(0).abs().max() < 1e-9
    assert (embedded.std(0, correction=0) - 1).abs().max() < 1e-9
    if kind is FixedNormal:
        return
    d = family(torch.zeros(family.param_shape).double())  # the best that ignores z
    wanted = torch.distributions.Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum(1)
    torch.testing.assert_close(d.log_prob(x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [Normal, SharedNormal])
def test_change_of_units_is_an_exact_jacobian(kind):
    x, units = columns(), torch.tensor([2.0, 1e-4, 7.0], dtype=torch.float64)
    h = torch.randn(200, 6 if kind is Normal else 3).double()
    results = []
    for there in (x, x * units):
        family = kind((3,)).double()
        family.initialise(there)
        results.append(family(h).log_prob(there))
    torch.testing.assert_close(results[0], results[1] + units.log().sum(), rtol=1e-9, atol=1e-9)


def test_scales_come_from_observed_values_only():
    x, mask = columns(), torch.rand(200, 3) < 0.7
    spoiled = torch.where(mask, x, 1e9)
    family = Normal((3,)).double()
    family.initialise(spoiled, mask)
    for j in range(3):
        seen = x[mask[:, j], j]
        assert family.loc[j] == pytest.approx(float(seen.mean()))
        assert family.scale[j] == pytest.approx(float(seen.std(correction=0)))
    assert (family.embed(spoiled, mask)[~mask] == 0).all()


def test_constant_and_unobserved_columns_keep_scale_one():
    x = columns()
    x[:, 1], mask = 1 / 3, torch.ones(200, 3, dtype=torch.bool)
    mask[:, 2] = False
    family = Normal((3,)).double()
    family.initialise(x, mask)
    assert family.scale[1:].tolist() == [1, 1]
    assert family.loc.isfinite().all()


def test_isotropic_noise_is_one_deviation_in_data_units():
    family = SharedNormal((3,), isotropic=True).double()
    family.initialise(columns())
    d = family(torch.zeros(3).double())
    assert torch.equal(d.variance, d.variance[:1].expand(3))
    assert family.log_scale.shape == ()


def test_fixed_deviation_is_in_data_units():
    family = FixedNormal((3,), std=0.25).double()
    family.initialise(columns())
    torch.testing.assert_close(
        family(torch.zeros(3).double()).variance, torch.full((3,), 0.0625).double()
    )


def test_scale_is_bounded_with_a_gradient_everywhere():
    h = torch.tensor([0.0, 300.0], requires_grad=True)
    log_p = Normal((1,))(h).log_prob(torch.zeros(1))
    log_p.backward()
    assert log_p.item() == pytest.approx(-10 - 0.5 * math.log(2 * math.pi), abs=1e-4)
    near = torch.tensor([0.0, 30.0], requires_grad=True)
    Normal((1,))(near).log_prob(torch.zeros(1)).backward()
    assert near.grad[1] < 0


@pytest.mark.parametrize("holes", [False, True])
def test_marginal_of_bits_is_the_best_constant(holes):
    x = (torch.rand(300, 4) < torch.tensor([0.1, 0.5, 0.8, 0.0])).double()
    mask = torch.rand(300, 4) < 0.7 if holes else None
    family = Bernoulli((4,))
    h = family.marginal(x, mask).requires_grad_(True)
    (gradient,) = torch.autograd.grad(family(h).log_prob(x, mask).sum(), h)
    assert gradient[:3].abs().max() < 1e-9
    assert h[3].isfinite()  # never seen is not impossible


def test_marginal_of_levels_is_near_the_best_constant():
    x = torch.distributions.Binomial(16, torch.tensor([0.3, 0.6])).sample((500,)).double()
    family = DiscretizedLogistic((2,), levels=17)
    h = family.marginal(x)
    best = h.clone().requires_grad_(True)
    search = torch.optim.LBFGS([best], max_iter=100)

    def loss():
        search.zero_grad()
        value = -family(best).log_prob(x).mean()
        value.backward()
        return value

    search.step(loss)
    assert -family(h).log_prob(x).mean() - loss() < 0.05


def test_levels_are_embedded_to_one_and_never_past_it():
    family = DiscretizedLogistic((1,), levels=256)
    assert family.embed(torch.tensor([[0.0], [255.0], [127.5]])).flatten().tolist() == [-1, 1, 0]


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 3)])
def test_logits_of_categories_are_packed_level_by_level(shape):
    family, x = Categorical(shape, levels=4), torch.randint(0, 4, (5, *shape)).double()
    assert family.param_shape == family.embed_shape == (8, *shape[1:])
    h = torch.randn(5, *family.param_shape).double()
    logits = h.view(5, 4, *shape)
    wanted = logits.log_softmax(1).gather(1, x.long()[:, None])[:, 0].flatten(1).sum(1)
    torch.testing.assert_close(family(h).log_prob(x), wanted)
    one_hot = torch.nn.functional.one_hot(x.long(), 4).movedim(-1, 1).double()
    assert torch.equal(family.embed(x), one_hot.flatten(1, 2))
    best = family(100 * family.embed(x))  # what a network sees and what it says: one packing
    assert torch.equal(best.mode, x)


@pytest.mark.parametrize("kind", [Categorical, Embedded, Ordinal])
@pytest.mark.parametrize("holes", [False, True])
def test_levels_start_at_their_smoothed_shares(holes, kind):
    x, mask = torch.randint(0, 3, (200, 2)).double(), torch.rand(200, 2) < 0.7
    x[:, 1] = x[:, 1].clamp(max=1)
    spoiled = torch.where(mask, x, math.nan) if holes else x
    family = kind((2,), levels=3).double()
    family.initialise(spoiled, mask if holes else None)
    h = family.marginal(spoiled, mask if holes else None)
    found = family(torch.zeros(family.param_shape).double() if h is None else h).base.level_probs
    for j in range(2):
        seen = x[mask[:, j], j] if holes else x[:, j]
        counts = torch.bincount(seen.long(), minlength=3).double() + 0.5
        torch.testing.assert_close(found[j], counts / counts.sum(), rtol=1e-5, atol=0)
    assert (found > 0).all()  # never seen is not impossible


LEVELLED = {
    "Bernoulli": Bernoulli((3,)),
    "Categorical": Categorical((3,), levels=4),
    "Embedded": Embedded((3,), levels=5),
    "Ordinal": Ordinal((3,), levels=4),
    "Ordinal, two": Ordinal((3,), levels=2),
    "Ordinal, cell": Ordinal((3,), levels=4, scale="cell"),
    "Binomial": Binomial((3,), levels=6),
    "DiscretizedLogistic": DiscretizedLogistic((3,), levels=8),
    "images": Categorical((3, 2, 2), levels=4),
}


@pytest.mark.parametrize("family", LEVELLED.values(), ids=LEVELLED)
def test_probabilities_of_levels_are_those_of_log_prob(family):
    family.double()
    d = family(4 * torch.randn(5, 2, *family.param_shape, dtype=torch.float64))
    (places, own), *rest = d.cells()
    width = math.prod(family.shape)
    assert not rest
    assert places.tolist() == list(range(width))
    found = own.level_probs
    assert found.shape == (5, 2, width, own.levels)
    torch.testing.assert_close(found.sum(-1), torch.ones(5, 2, width).double())
    for k in range(own.levels):
        wanted = d.cell_log_prob(torch.full(family.shape, float(k)).double()).exp()
        torch.testing.assert_close(found[..., k], wanted.flatten(2), rtol=1e-9, atol=1e-300)


def test_cells_without_few_values_have_no_levels():
    assert Normal((3,))(torch.zeros(6)).levels is None
    mixed = Mixed((3,), columns=(Normal, Bernoulli, Normal))
    found = mixed(torch.zeros(mixed.param_shape)).cells()
    assert [(at.tolist(), own.levels) for at, own in found] == [([0, 2], None), ([1], 2)]


@pytest.mark.parametrize(
    ("family", "bad"),
    [
        (Bernoulli((1,)), [0.5, -1, 2]),
        (DiscretizedLogistic((1,), levels=4), [-1, 4, 1.5]),
        (Categorical((1,), levels=4), [-1, 4, 1.5, math.nan]),
        (Normal((1,)), [math.inf, math.nan]),
    ],
)
def test_values_outside_the_support_are_found(family, bad):
    assert family.misfit(torch.tensor(bad)[:, None]).all()
    assert not family.misfit(torch.tensor([[0.0], [1.0]])).any()


def test_options_are_checked(refused):
    with refused("levels=1", "at least 2"):
        DiscretizedLogistic((1,), levels=1)
    for levels in (1, 0, 2.5):
        with refused("Categorical", f"levels={levels}", "at least 2"):
            Categorical((1,), levels=levels)
    for std in (0.0, -1.0, math.inf, math.nan):
        with refused("std", "positive"):
            FixedNormal((1,), std=std)


@pytest.mark.parametrize("kind", [Normal, SharedNormal, FixedNormal])
def test_columns_far_from_zero(kind):
    """Seconds since 1970 are equal in float32 for over a minute, yet density and draws hold."""
    x = 1_600_000_037 + torch.arange(200, dtype=torch.float64)[:, None]
    family = kind((1,))
    family.initialise(x)
    with torch.no_grad():
        found = family(torch.zeros(family.param_shape))
        std = 1.0 if kind is FixedNormal else x.std(correction=0)
        expected = torch.distributions.Normal(x.mean(), std).log_prob(x)[:, 0]
        torch.testing.assert_close(found.log_prob(x).double(), expected, rtol=1e-5, atol=1e-5)
        assert len(found.sample((500,)).unique()) > 400
    assert family.embed(x).abs().max() < 2


def test_values_that_no_family_can_count_have_families_still():
    found = families_for(torch.tensor([[0.0] * 100, [1e10] * 100]))
    assert "Normal" in found
    assert "Ordinal" not in found
