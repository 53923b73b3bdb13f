"""Scores of strange rows where the truth is known, and the area that says how well they do."""

import math
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import roc_auc_score

import latently as lt
from latently.inference.out_of_distribution import (
    auroc,
    complexity,
    likelihood_ratio,
    strangeness,
    typicality,
)


def normal_log_p(x):
    return -0.5 * x.square().sum(-1) - 0.5 * x.shape[-1] * math.log(2 * math.pi)


# -------------------------------------------------------------------------------------- the area


def test_auroc_is_scikit_learns_with_ties():
    inside, outside = torch.randn(300).mul(5).round(), torch.randn(200).mul(5).round() + 4
    truth = roc_auc_score([0] * 300 + [1] * 200, torch.cat([inside, outside]))
    assert auroc(inside, outside).value == pytest.approx(truth, abs=1e-12)
    assert auroc(outside, inside).value == pytest.approx(1 - truth, abs=1e-12)


def test_auroc_of_normals_is_known_and_its_error_covers_it():
    """P(a + shift > b) = Phi(shift / sqrt 2); 400 repetitions, their errors and their spread."""
    shift, truth = 0.8, 0.5 * (1 + math.erf(0.8 / 2))
    found = [auroc(torch.randn(60), torch.randn(90) + shift) for _ in range(400)]
    values = torch.tensor([number.value for number in found])
    errors = torch.tensor([number.stderr for number in found])
    assert (values.mean() - truth).abs() < 4 * values.std() / 20
    assert errors.square().mean().sqrt() == pytest.approx(float(values.std()), rel=0.12)


def test_auroc_at_its_ends():
    low, high = torch.zeros(5), torch.ones(4)
    assert (auroc(low, high).value, auroc(low, high).stderr) == (1.0, 0.0)
    assert auroc(high, low).value == 0.0
    assert auroc(low, torch.zeros(3)).value == 0.5
    assert auroc(low, torch.full((2,), math.inf)).value == 1.0
    assert math.isnan(auroc(torch.zeros(1), high).stderr)
    assert auroc(low, high).kind == "exact"


def test_auroc_refuses(refused):
    with refused("inside", "no rows"):
        auroc(torch.zeros(0), torch.zeros(2))
    with refused("outside", "NaN"):
        auroc(torch.zeros(2), torch.tensor([1.0, math.nan]))


# -------------------------------------------------------------------------------------- the scores


def test_the_mode_of_a_normal_is_likely_and_atypical():
    """In 200 dimensions no draw comes near the mode, whose density is the highest there is."""
    draws, held_out = torch.randn(2, 500, 200, dtype=torch.float64)
    usual = normal_log_p(held_out)
    assert -usual.mean() == pytest.approx(100 * (1 + math.log(2 * math.pi)), rel=0.01)
    near_mode = 0.3 * torch.randn(500, 200, dtype=torch.float64)
    by_density = auroc(-normal_log_p(draws), -normal_log_p(near_mode))
    scores = (typicality(normal_log_p(x), usual) for x in (draws, near_mode))
    assert by_density.value == 0.0
    assert auroc(*scores).value == 1.0


def test_a_shift_that_rows_hide_shows_in_groups():
    """-log p of N(0, 1.05^2) rows is 0.05 x 100 nats higher: half a deviation of one row."""
    draws, held_out = torch.randn(2, 4000, 100, dtype=torch.float64)
    usual = normal_log_p(held_out)
    wider = 1.05 * torch.randn(4000, 100, dtype=torch.float64)
    areas = {}
    for group in (1, 25):
        pair = (typicality(normal_log_p(x), usual, group=group) for x in (draws, wider))
        areas[group] = auroc(*pair)
    assert areas[1].value < 0.65
    assert areas[25].value > 0.95
    assert len(typicality(usual[:11], usual, group=3)) == 3


def test_typicality_cannot_tell_what_is_as_likely():
    """A rotation changes no -log p: no function of log p alone sees it."""
    draws, held_out = torch.randn(2, 2000, 4, dtype=torch.float64)
    std = torch.tensor([3.0, 3.0, 0.5, 0.5]).double()

    def log_p(x):
        return normal_log_p(x / std) - std.log().sum()

    inside, usual = draws * std, log_p(held_out * std)
    outside = torch.randn(2000, 4, dtype=torch.float64) * std
    outside[:, 0] = outside[:, 1].sign() * outside[:, 0].abs()  # the same density, another law
    area = auroc(typicality(log_p(inside), usual), typicality(log_p(outside), usual))
    assert abs(area.value - 0.5) < 4 * area.stderr


def test_the_ratio_of_the_true_models_is_the_best_score():
    """Neyman and Pearson: against the true alternative no score beats the likelihood ratio."""
    n, d, shift = 4000, 10, 0.5
    inside = torch.randn(n, d, dtype=torch.float64)
    outside = torch.randn(n, d, dtype=torch.float64) + shift
    scores = [
        likelihood_ratio(normal_log_p(x), normal_log_p(x - shift)) for x in (inside, outside)
    ]
    best = auroc(*scores)
    truth = 0.5 * (1 + math.erf(shift * math.sqrt(d) / 2))
    assert abs(best.value - truth) < 4 * best.stderr
    assert best.value > auroc(-normal_log_p(inside), -normal_log_p(outside)).value + 0.1


def test_a_background_that_is_the_model_leaves_nothing():
    log_p = torch.randn(5)
    assert torch.equal(likelihood_ratio(log_p, log_p), torch.zeros(5))


def test_scores_refuse(refused):
    with refused("(2,)", "(3,)"):
        likelihood_ratio(torch.zeros(2), torch.zeros(3))
    with refused("no rows"):
        typicality(torch.zeros(2), torch.zeros(0))
    with refused("group=3", "2 rows"):
        typicality(torch.zeros(2), torch.zeros(2), group=3)


# ---------------------------------------------------------------------------------- the compressor


def test_noise_costs_its_entropy_and_a_flat_row_next_to_nothing():
    cells = 28 * 28
    noise = complexity(torch.randint(256, (4, 1, 28, 28)))
    assert (noise >= cells * math.log(256)).all()
    assert (noise < 1.03 * cells * math.log(256)).all()
    assert (complexity(torch.full((2, 1, 28, 28), 7.0)) < 120).all()
    ramp = torch.arange(28.0).expand(1, 1, 28, 28)
    assert complexity(ramp) < 200
    bits = complexity(torch.randint(2, (4, 1, 28, 28)))
    assert (bits >= 0.98 * cells * math.log(2)).all()
    assert (bits < 1.15 * cells * math.log(2)).all()


def test_it_is_a_code_no_shorter_than_the_entropy_on_average():
    """Rows of rare ones: their mean code is longer than their entropy, and much below raw bits."""
    share, cells = 0.05, 784
    rows = (torch.rand(200, 1, 28, 28) < share).float()
    entropy = -cells * (share * math.log(share) + (1 - share) * math.log(1 - share))
    assert entropy < complexity(rows).mean() < cells * math.log(2)


def test_complexity_refuses_what_it_cannot_code(refused):
    for x in (torch.tensor([[0.5]]), torch.tensor([[-1.0]]), torch.tensor([[256.0]])):
        with refused("complexity", "0 to 255"):
            complexity(x)


# ------------------------------------------------------------------------------------- of a model


def test_strangeness_of_an_exact_model_is_its_density():
    x = torch.randn(400, 5) @ torch.randn(5, 5)
    model = lt.fa((5,), latents=2)
    lt.fit(model, lt.Data.from_array(x.numpy()), progress=False)
    held_out = lt.Data.from_array(x[:100].numpy())
    strange = lt.Data.from_array((x[:50] + 30).numpy())
    found = strangeness(model, strange, held_out, background=model)
    assert found.evidence.kind == "exact"
    assert torch.equal(found.surprise, -lt.evaluate(model, strange).values)
    assert torch.equal(found.likelihood_ratio, torch.zeros(50).double())
    assert found.complexity_ratio is None
    assert set(found.scores()) == {"surprise", "typicality", "likelihood_ratio"}
    usual = lt.evaluate(model, held_out)
    again = strangeness(model, strange, usual)
    assert torch.equal(found.typicality, again.typicality)
    assert auroc(typicality(usual.values, usual.values), found.typicality).value > 0.99


def test_strangeness_of_pixels_has_a_complexity_and_fixed_draws():
    model = lt.vae((1, 4, 4), latents=2, likelihood=lt.families.Bernoulli)
    rows = (torch.rand(6, 1, 4, 4) < 0.3).float()
    data = SimpleNamespace(x=rows, mask=None, context=None, protocol="rows")
    data.once = lambda: data
    method = lt.ImportanceSampling(20)
    found = strangeness(model, data, data, method=method)
    torch.testing.assert_close(found.complexity_ratio, found.surprise - complexity(rows))
    assert found.evidence.kind == "lower_bound"
    assert found.likelihood_ratio is None
