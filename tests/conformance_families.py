"""Every family that `latently.registry` lists keeps the promises of its kind."""

import math

import pytest
import torch

from latently import UserError
from latently.errors import called
from latently.probability.distributions import Factorized, Joint, observed_log_prob
from latently.registry import KINDS


def every(kind):
    return pytest.mark.parametrize("name", KINDS[kind])


def supported(family, n):
    """Rows within a family's support, as random as it allows."""
    noise = torch.randn(n, *family.shape)
    category = torch.randint(0, family.shape[-1], (n, *family.shape[:-1]))
    for x in (
        noise,
        noise > 0,
        noise.sigmoid(),
        noise.exp(),
        noise.softmax(-1),
        torch.nn.functional.one_hot(category, family.shape[-1]),
    ):
        if not family.misfit(x.double()).any():
            return x.double()
    raise AssertionError(f"{type(family).__name__} holds none of the rows tried")


def family_of(name, shape=(3,)):
    """A family; the few shapes that one refuses are no case for it."""
    try:
        return KINDS["families"][name](shape).double()
    except UserError as error:
        assert shape[-1] == 1 or len(shape) > 1
        pytest.skip(str(error))


@every("families")
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (1, 4, 4)])
def test_family_shapes(name, shape):
    family = family_of(name, shape)
    assert family.shape == shape
    h = torch.randn(5, 4, *family.param_shape).double()
    d = family(h)
    assert d.batch_shape == (5, 4)
    assert d.event_shape == shape
    x = d.sample()
    assert x.shape == (5, 4, *shape)
    assert d.sample((7,)).shape == (7, 5, 4, *shape)
    assert d.log_prob(x).shape == (5, 4)
    assert d.mean.shape == (5, 4, *shape)
    assert not family.misfit(x).any()
    assert family.misfit(x).shape == x.shape
    flat = x.flatten(0, 1)
    assert family.embed(flat).shape == (20, *family.embed_shape)
    # refusals call it by the name that users write, or the last word of it: FixedNormal a Normal
    assert name.endswith(called(d))
    assert family.support


@pytest.mark.slow
@every("families")
@pytest.mark.parametrize("raw", [-2.0, 0.0, 0.7, 3.0])
def test_family_sums_or_integrates_to_one(name, raw):
    kind = KINDS["families"][name]
    try:
        family = kind((1,)).double()
    except UserError:  # rows that sum to one: the first cell says it all
        family = kind((2,)).double()
    d = family(torch.full(family.param_shape, raw).double())

    def rows(x):
        x = x[:, None] if family.shape == (1,) else torch.stack([x, 1 - x], -1)
        return x[~family.misfit(x).any(-1)]

    if family.discrete:
        total = d.log_prob(rows(torch.arange(40_000).double())).exp().sum().detach()
    else:
        # by y = asinh((x - mean) / std), to reach far into the tails; then x in (0, 1), (0, inf)
        y = torch.linspace(-25, 25, 400_001).double()
        mean, std = d.mean[..., 0].item(), d.variance[..., 0].sqrt().item()
        maps = {
            "numbers": lambda y: mean + std * y.sinh(),
            "above 0": lambda y: (y.sinh()).exp(),
            "0 and 1": lambda y: y.sinh().sigmoid(),
        }
        totals = []
        for transform in maps.values():
            y = y.requires_grad_(True)
            x = transform(y)
            (slope,) = torch.autograd.grad(x.sum(), y)
            inside = ~family.misfit(rows_all(x, family)).any(-1) & slope.isfinite() & (slope > 0)
            density = d.log_prob(rows_all(x, family)[inside]).exp() * slope[inside]
            totals.append(torch.trapezoid(density, y[inside]).detach().item())
        mass = sum(d.log_prob(torch.tensor([a]).double()).exp().item() for a in family.atoms)
        total = min((t + mass for t in totals), key=lambda t: abs(t - 1))
    assert float(total) == pytest.approx(1, abs=1e-6)


def rows_all(x, family):
    return x[:, None] if family.shape == (1,) else torch.stack([x, 1 - x], -1)


@every("families")
def test_family_moments_are_those_of_its_draws(name):
    family = family_of(name, (3,))
    # no higher than 0: of a lognormal with log deviation 1, the draws tell no variance
    d = family(torch.linspace(-1, 0, math.prod(family.param_shape)).double())
    x = d.sample((20_000,))
    error = x.std(0) / math.sqrt(len(x)) + 1e-9
    assert ((x.mean(0) - d.mean).abs() < 5 * error).all()
    assert ((x.var(0) / d.variance) - 1).abs().max() < 0.2


@every("families")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_family_is_finite_at_extreme_parameters(name, dtype):
    family = KINDS["families"][name]((2,)).to(dtype)
    h = torch.tensor([-1e6, -300, -30, 0, 30, 300, 1e6], dtype=dtype)
    h = h.view(-1, *(1,) * len(family.param_shape)).expand(-1, *family.param_shape)
    h = h.clone().requires_grad_(True)
    x = supported(family, len(h)).to(dtype)
    log_p = family(h).log_prob(x)
    (gradient,) = torch.autograd.grad(log_p.sum(), h)
    assert log_p.isfinite().all()
    assert gradient.isfinite().all()
    assert log_p.dtype == dtype


@every("families")
def test_family_marginalises_what_is_masked(name, refused):
    family = family_of(name, (3,))
    h = torch.randn(6, *family.param_shape).double().requires_grad_(True)
    x, mask = supported(family, 6), torch.rand(6, 3) < 0.5
    d = family(h)
    if not isinstance(d, Joint):
        with refused("cannot leave out"):
            observed_log_prob(d, x, mask)
        return
    whole = torch.ones_like(mask)
    torch.testing.assert_close(d.log_prob(x, whole), d.log_prob(x))
    if isinstance(d, Factorized):
        alone = torch.where(mask, d.base.log_prob(x), 0.0).sum(-1)
        torch.testing.assert_close(d.log_prob(x, mask), alone)
    results = []
    for bad in (0.0, math.nan, math.inf):
        spoiled = torch.where(mask, x, bad)
        log_p = d.log_prob(spoiled, mask)
        results.append((log_p, *torch.autograd.grad(log_p.sum(), h, retain_graph=True)))
        assert family.embed(spoiled, mask).isfinite().all()
        assert torch.equal(
            family.embed(spoiled, mask), family.embed(torch.where(mask, x, 0), mask)
        )
        assert not family.embed(spoiled, torch.zeros_like(mask)).any()
        assert not (family.misfit(spoiled, mask) & mask).any()
    for a, b in results[1:]:
        assert torch.equal(a, results[0][0])
        assert torch.equal(b, results[0][1])


@every("families")
def test_family_draws_what_is_missing_given_the_rest(name):
    """`log p(x) = log p(x_o) + log p(x_m | x_o)`, and the moments of the latter are its draws'."""
    family = family_of(name, (3,))
    h = torch.randn(1, *family.param_shape).double()
    d = family(h)
    if not isinstance(d, Joint):
        pytest.skip("has no marginals; masks are refused")
    x, mask = d.sample(), torch.tensor([[True, False, True]])
    conditional = d.given(torch.where(mask, x, math.nan), mask)
    assert conditional.batch_shape == (1,)
    draws = conditional.sample((20_000,))
    filled = torch.where(mask, x, draws)
    assert not family.misfit(filled).any()
    error = draws.std(0) / math.sqrt(len(draws)) + 1e-9
    missing = ~mask
    assert ((draws.mean(0) - conditional.mean).abs() < 5 * error)[missing].all()
    # the mean of 1 / p(x_m | x_o) over its draws is the length of the support, for any x_o: the
    # joint divided by the marginal must be this density up to what both share
    ratio = d.log_prob(filled[:50]) - d.log_prob(x, mask)
    alone = conditional.log_prob(filled[:50], missing.expand(50, 1, 3))
    torch.testing.assert_close(alone, ratio, rtol=1e-6, atol=1e-6)


@every("families")
def test_family_starts_near_the_data(name):
    family = family_of(name, (3,))
    x = supported(family, 200)
    mask = torch.rand(200, 3) < 0.8
    before = family(torch.zeros(family.param_shape).double()).log_prob(x).mean()
    with torch.no_grad():
        family.initialise(x, mask)
    h = family.marginal(x, mask)
    h = torch.zeros(family.param_shape).double() if h is None else h
    assert h.shape == family.param_shape
    assert family(h).log_prob(x).mean() >= before - 0.1
