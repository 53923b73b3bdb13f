"""Rows of unlike columns: the sum over columns, by every family alone."""

import math
from functools import partial

import pytest
import torch
from scipy import stats

from latently.probability.families import (
    Bernoulli,
    Categorical,
    Embedded,
    Hurdle,
    LogNormal,
    Mixed,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    StudentT,
)

THREE = partial(Categorical, levels=3)
COLUMNS = (
    *(Normal, THREE, Bernoulli, Normal, partial(Ordinal, levels=4), Hurdle),
    *(NegativeBinomial, THREE, StudentT, partial(Hurdle, family=LogNormal)),
)


def rows(n=400, seed=0):
    """Rows that lie in every column's support, with their holes."""
    g = torch.Generator().manual_seed(seed)
    normal = torch.randn(n, 4, generator=g, dtype=torch.float64)
    zero = torch.rand(n, 2, generator=g) < 0.4
    amount = (5 * normal[:, 2:].exp()).masked_fill(zero, 0)
    x = [
        *(100 + 3 * normal[:, 0], torch.randint(0, 3, (n,), generator=g)),
        *(torch.randint(0, 2, (n,), generator=g), normal[:, 1]),
        *(torch.randint(0, 4, (n,), generator=g), amount[:, 0]),
        *(torch.randint(0, 30, (n,), generator=g), torch.randint(0, 3, (n,), generator=g)),
        *(normal[:, 0] * 0.1, amount[:, 1]),
    ]
    mask = torch.rand(n, len(COLUMNS), generator=g) < 0.7
    return torch.stack([c.double() for c in x], 1), mask


def alone(h, x, mask):
    """Every column by its own family, set from its own cells, given the parameters of the row."""
    found = []
    for j, (own, column) in enumerate(zip(h, COLUMNS, strict=True)):
        family = column((1,)).double()
        family.initialise(x[:, j : j + 1], mask[:, j : j + 1])
        found.append((family, family(own)))
    return found


@pytest.fixture
def both():
    """A Mixed family and its parts, each set from the same rows."""
    torch.manual_seed(0)
    x, mask = rows()
    mixed = Mixed((10,), columns=COLUMNS).double()
    mixed.initialise(x, mask)
    own = [torch.randn(len(x), *column((1,)).param_shape).double() for column in COLUMNS]
    # what Mixed packs: group after group, in each parameter after parameter
    packed = []
    for at in mixed._at:
        sizes = own[at[0]].shape[1]
        packed += [own[j][:, p : p + 1] for p in range(sizes) for j in at]
    return mixed, torch.cat(packed, 1), alone(own, x, mask), x, mask


def test_the_density_is_the_sum_over_columns(both):
    mixed, h, parts, x, mask = both
    terms = torch.stack([d.log_prob(x[:, j : j + 1]) for j, (_, d) in enumerate(parts)], 1)
    d = mixed(h)
    torch.testing.assert_close(d.cell_log_prob(x), terms)
    torch.testing.assert_close(d.log_prob(x), terms.sum(1))
    torch.testing.assert_close(d.log_prob(x, mask), torch.where(mask, terms, 0.0).sum(1))


@pytest.mark.parametrize("what", ["mean", "variance", "mode"])
def test_moments_stand_in_the_order_of_the_columns(both, what):
    mixed, h, parts, _, _ = both
    single = torch.cat([getattr(d, what).double() for _, d in parts], 1)
    torch.testing.assert_close(getattr(mixed(h), what).double(), single)


def test_quantiles_and_cdf_stand_in_the_order_of_the_columns(both):
    mixed, h, parts, x, _ = both
    q = torch.tensor([0.1, 0.5, 0.9]).double().view(3, 1, 1)
    single = torch.cat([d.icdf(q).double() for _, d in parts], 2)
    torch.testing.assert_close(mixed(h).icdf(q).double(), single)
    cdf = torch.cat([d.cdf(x[:, j : j + 1]).double() for j, (_, d) in enumerate(parts)], 1)
    torch.testing.assert_close(mixed(h).cdf(x).double(), cdf)


def test_the_best_start_is_every_columns_own(both):
    mixed, _, parts, x, mask = both
    start = mixed(mixed.marginal(x, mask)).cell_log_prob(x)
    for j, (family, _) in enumerate(parts):
        column, seen = x[:, j : j + 1], mask[:, j : j + 1]
        h = family.marginal(column, seen)
        h = torch.zeros(family.param_shape).double() if h is None else h
        torch.testing.assert_close(start[:, j], family(h).log_prob(column))


def test_supports_are_told_by_column(both):
    mixed, _, _, x, _ = both
    assert not mixed.misfit(x).any()
    bad = x[:1].clone()
    bad[0, 1], bad[0, 5] = 7, -1
    assert mixed.misfit(bad)[0].nonzero().flatten().tolist() == [1, 5]
    assert "whole numbers 0 to 2 in columns 1, 7" in mixed.support
    assert mixed.counted.nonzero().flatten().tolist() == [1, 2, 4, 6, 7]
    assert not mixed.discrete
    assert Mixed((2,), columns=(THREE, Bernoulli)).discrete


def test_draws_lie_in_the_support(both):
    mixed, h, _, _, _ = both
    drawn = mixed(h).sample((50,))
    assert drawn.shape == (50, *h.shape[:1], 10)
    assert not mixed.misfit(drawn).any()
    assert not mixed(h).has_rsample
    torch.manual_seed(1)
    numbers = Mixed((2,), columns=(Normal, StudentT)).double()
    h = torch.randn(3, *numbers.param_shape).double().requires_grad_(True)
    assert numbers(h).has_rsample
    (gradient,) = torch.autograd.grad(numbers(h).rsample((4,)).sum(), h)
    assert gradient.any()


def test_a_table_of_one_kind_is_that_kind():
    torch.manual_seed(0)
    x = torch.randn(50, 3).double() * 4 + 7
    mixed, normal = Mixed((3,)).double(), Normal((3,)).double()
    for family in (mixed, normal):
        family.initialise(x)
    h = torch.randn(50, 6).double()
    torch.testing.assert_close(mixed(h).log_prob(x), normal(h).log_prob(x))
    assert mixed.support == normal.support


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Mixed((2, 3)), ("Mixed", "(2, 3)", "vectors of columns")),
        (lambda: Mixed((3,), columns=(Normal,)), ("1 families for 3 columns",)),
        (lambda: Mixed((1,), columns=(torch.nn.ReLU,)), ("no constructor of a family",)),
        (lambda: Hurdle((2,), family=Normal), ("Hurdle", "Gamma or LogNormal")),
        (lambda: Embedded((2,), levels=1), ("levels=1", "at least 2")),
        (lambda: Embedded((2, 2), levels=3), ("Categorical",)),
    ],
    ids=["images", "few", "module", "hurdle", "levels", "cells"],
)
def test_mistakes_are_named(build, words, refused):
    with refused(*words):
        build()


def test_correlated_columns_have_no_cells_of_their_own(refused):
    with refused("MultivariateNormal", "depend on each other"):
        Mixed((2,), columns=(MultivariateNormal, MultivariateNormal))


def test_a_hurdle_is_a_share_of_zeros_and_a_density():
    x = torch.tensor([[0.0], [0.5], [3.0]]).double()
    family = Hurdle((1,), family=LogNormal).double()
    h = torch.tensor([0.3, 0.2, -0.4]).double()
    d, pi = family(h), 1 / (1 + math.exp(-0.3))
    scale = math.exp(10 * math.tanh(-0.04))
    truth = [math.log(pi)]
    truth += [
        math.log(1 - pi) + stats.lognorm.logpdf(float(v), scale, scale=math.exp(0.2))
        for v in x[1:]
    ]
    torch.testing.assert_close(d.log_prob(x), torch.tensor(truth).double())
    assert float(d.cdf(x)[0]) == pytest.approx(pi)
    median = (0.8 - pi) / (1 - pi)
    assert float(d.icdf(torch.tensor([0.8]).double())) == pytest.approx(
        stats.lognorm.ppf(median, scale, scale=math.exp(0.2))
    )


def test_embedded_levels_are_a_softmax_of_products():
    torch.manual_seed(0)
    family = Embedded((2,), levels=5, width=3).double()
    h = torch.randn(4, 6).double()
    probs = family(h).base.probs
    for c in range(2):
        logits = h[:, 3 * c : 3 * c + 3] @ family.vectors[c].T / math.sqrt(3) + family.bias[c]
        torch.testing.assert_close(probs[:, c], logits.softmax(-1))
    x = torch.tensor([[4.0, 1.0]]).double()
    seen = family.embed(x, torch.tensor([[True, False]]))
    torch.testing.assert_close(seen[0, :3], family.vectors[0, 4])
    assert not seen[0, 3:].any()
