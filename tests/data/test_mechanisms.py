"""Mechanisms: shares that are met, and what they look at."""

import math

import pytest
import torch

from latently.data.masks import MCAR
from latently.data.mechanisms import MAR, MNAR, SelfMasked, holes
from latently.expr import build, show
from latently.registry import components

RULES = {
    "MCAR": MCAR(0.3),
    "MAR": MAR(0.3),
    "MNAR": MNAR(0.3),
    "above": SelfMasked(0.3),
    "below": SelfMasked(0.3, side="below", steepness=2.0),
    "both": SelfMasked(0.3, side="both"),
    "step": SelfMasked(0.3, steepness=None),
}
every = pytest.mark.parametrize("rule", RULES)


def rows(n=4000, d=6):
    u = torch.randn(n, d, generator=torch.Generator().manual_seed(1)).double()
    return u.cumsum(1) * torch.logspace(-2, 3, d) + 7


@every
def test_holes_are_a_function_of_rows_and_seed(rule, untouched):
    x, rule = rows(), RULES[rule]
    with untouched():
        found = holes(rule, x, seed=3)
    assert found.dtype == torch.bool
    assert torch.equal(found, holes(rule, x.clone(), seed=3))
    if not (isinstance(rule, SelfMasked) and rule.steepness is None):
        assert not torch.equal(found, holes(rule, x, seed=4))
    assert build(show(rule), components()) == rule


@every
def test_the_share_is_met_and_no_row_is_empty(rule):
    x = rows(d=3)
    for share in (0.1, 0.3, 0.8):
        made = type(RULES[rule])(**{**vars(RULES[rule]), "share": share})
        seen = holes(made, x, seed=5)
        lost = (~seen).double().mean(0)
        touched = lost[lost > 0]
        assert len(touched) == (2 if rule == "MAR" else 3) or rule == "MAR"
        assert seen.any(1).all()
        if share < 0.5:  # else rows are rescued
            slack = 5 * math.sqrt(share * (1 - share) / len(x)) + (
                share**3 if rule != "MAR" else 0
            )
            assert ((touched - share).abs() < slack).all()


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


def test_at_random_looks_at_columns_that_are_all_kept():
    x = rows()
    lost = ~MAR(0.4, observed=0.5)(x, seed=2)
    kept = ~lost.any(0)
    assert int(kept.sum()) == 3
    for j in (~kept).nonzero()[:, 0]:
        design = torch.cat([x[:, kept], torch.ones(len(x), 1)], 1)
        residual = x[:, j] - design @ torch.linalg.lstsq(design, x[:, j]).solution
        # given what is kept, the value itself says nothing more
        assert abs(correlation(residual, lost[:, j])) < 4 / math.sqrt(len(x))
        fit = design @ torch.linalg.lstsq(design, lost[:, j].double()[:, None]).solution
        assert correlation(fit[:, 0], lost[:, j]) > 0.2


def test_not_at_random_the_values_of_lost_cells_differ():
    x = torch.randn(8000, 4, generator=torch.Generator().manual_seed(0)).double()
    lost = ~MNAR(0.3)(x, seed=1)
    apart = [float(x[lost[:, j], j].mean() - x[~lost[:, j], j].mean()) for j in range(4)]
    assert max(abs(a) for a in apart) > 0.2
    above = ~SelfMasked(0.3)(x)
    below = ~SelfMasked(0.3, side="below")(x)
    both = ~SelfMasked(0.3, side="both")(x)
    for j in range(4):
        assert x[above[:, j], j].mean() > 0.5
        assert x[below[:, j], j].mean() < -0.5
        assert x[both[:, j], j].abs().mean() > x[~both[:, j], j].abs().mean() + 0.5


def test_the_logistic_has_the_slope_that_was_asked_for():
    x = torch.randn(60_000, 2, generator=torch.Generator().manual_seed(0)).double()
    lost = ~SelfMasked(0.4, columns=(0,), steepness=3.0)(x, seed=1)
    assert not lost[:, 1].any()
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([w], max_iter=50)

    def loss():
        search.zero_grad()
        logits = w[0] * (x[:, 0] - w[1])
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, lost[:, 0].double())
        value.backward()
        return value

    with torch.no_grad():
        w[0] = 1.0
    search.step(loss)
    assert w[0].item() == pytest.approx(3.0, abs=0.15)


def test_the_benchmark_of_not_miwae_hides_what_is_above_the_mean_of_the_first_half():
    x = rows(d=5)
    rule = SelfMasked(None, columns="first half", steepness=None)
    seen = rule(x)
    assert torch.equal(seen[:, :2], x[:, :2] <= x[:, :2].mean(0))
    assert seen[:, 2:].all()
    assert torch.equal(seen, rule(x, seed=9))


def test_what_is_missing_stays_and_is_not_read():
    x = rows(500)
    own = torch.rand(x.shape, generator=torch.Generator().manual_seed(4)) < 0.7
    own[:, 0] = True
    for rule in RULES.values():
        found = holes(rule, x, own, seed=1)
        assert not (found & ~own).any()
        assert found.any(1).all()
        if not isinstance(rule, MCAR):
            spoilt = torch.where(own, x, math.nan)
            assert torch.equal(found, rule(spoilt, own, seed=1))


def test_names_have_no_order_and_constants_say_nothing():
    code = torch.arange(3000) % 3
    x = torch.stack([code.double(), torch.full((3000,), 4.0).double(), rows(3000)[:, 0]], 1)
    shares = []
    for seed in range(6):
        lost = ~SelfMasked(0.3, columns=(0,))(x, seed=seed, categories=(0,))
        shares.append([float(lost[code == k, 0].double().mean()) for k in range(3)])
    most = {max(range(3), key=row.__getitem__) for row in shares}
    assert len(most) > 1  # the level that is lost most is drawn
    assert not (~SelfMasked(None, steepness=None)(x))[:, 1].any()


def test_what_cannot_be_is_refused(refused):
    for rule in (MAR, MNAR, SelfMasked):
        for share in (0, 1, -0.1, math.nan, "x", True):
            with refused(rule.__name__, "share="):
                rule(share)
    with refused("observed=1.5"):
        MAR(0.2, observed=1.5)
    with refused("side='up'"):
        SelfMasked(side="up")
    with refused("steepness=0"):
        SelfMasked(steepness=0)
    with refused("columns='second half'"):
        SelfMasked(columns="second half")
    with refused("column 9", "4"):
        SelfMasked(columns=(9,))(rows(d=4))
    with refused("one column"):
        MAR(0.2)(rows(d=1))
    with refused("one column"):
        SelfMasked(columns="first half")(rows(d=1))


@pytest.mark.parametrize("before", [0.0, 0.5, 0.8])
@pytest.mark.parametrize(
    "rule",
    [
        SelfMasked(0.3, side="both"),
        SelfMasked(0.3, steepness=None),
        SelfMasked(0.3, side="both", steepness=None),
        MAR(0.3),
        MNAR(0.3),
    ],
    ids=str,
)
def test_the_share_is_of_the_cells_that_are_there(rule, before):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 6, generator=generator)
    own = torch.rand(x.shape, generator=generator) >= before
    always = torch.zeros(len(x), 2, dtype=torch.bool) + True
    x, own = torch.cat([x, torch.zeros(len(x), 2)], 1), torch.cat([own, always], 1)
    lost = own & ~holes(rule, x, own, 0)
    share = (lost.sum(0) / own.sum(0))[:6]
    concerned = share > 0 if isinstance(rule, MAR) else torch.ones(6, dtype=torch.bool)
    assert concerned.any()
    assert ((share[concerned] - 0.3).abs() < 0.04).all()


def test_ties_are_lost_together_as_near_to_the_share_as_they_go():
    x = torch.tensor([[0.0], [1.0]]).repeat(50, 1)
    x = torch.cat([x, torch.randn(100, 1)], 1)
    for share, wanted in ((0.1, 0.0), (0.3, 0.5), (0.7, 0.5), (0.9, 1.0)):
        lost = ~holes(SelfMasked(share, columns=(0,), steepness=None), x)
        assert float(lost[:, 0].double().mean()) == wanted
