"""Probes: regressions against scikit-learn, draws that are balanced and paired, no leaks."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from latently import Data, features, probe, vae
from latently.data.corruptions import Adversarial, Masking
from latently.models import PPCA, VAE
from latently.nets import MLP
from latently.probability.conditional import Conditional
from latently.probability.families import Normal
from latently.probability.flows import NSF
from latently.probability.priors import StandardNormal
from latently.recipes import flow
from latently.training._classifier import fresh
from latently.training._readout import Scale, fit_readout
from latently.training._task import Task, balanced
from latently.training.transfer import METHODS, Budget

BUDGET = Budget(steps=40, learning_rate=0.02)
FEW = {"labels": (6, 30), "draws": 2, "budget": BUDGET}


def rows(n, seed, apart=6.0, classes=3, columns=4):
    """Normal clouds, one a class, `apart` deviations from each other."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = torch.randn(n, columns, generator=generator)
    x[:, :classes] += apart * torch.nn.functional.one_hot(y, classes)
    return Data(x, "Normal", f"clouds/{seed}", labels=y)


def model_of(latents=3, **options):
    torch.manual_seed(1)
    return vae((4,), latents=latents, likelihood=Normal, net=partial(MLP, hidden=(8,)), **options)


@pytest.fixture(scope="module")
def found():
    return probe(model_of(), rows(60, 1), rows(45, 2), corruption=Masking(0.5), **FEW)


@pytest.mark.parametrize("strength", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("columns", [3, 80])
def test_the_regression_is_scikit_learns(strength, columns):
    from sklearn.linear_model import LogisticRegression

    data = rows(60, 3, apart=1.0, columns=columns)
    x = data.x.double() * torch.logspace(-1, 1, columns)
    ours = fit_readout(x, data.labels, 3, strength=strength)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(x, data.labels)
    wanted = theirs.predict_proba(x)
    np.testing.assert_allclose(ours(x).softmax(1), wanted, atol=2e-4)
    assert ours.converged


def test_the_probe_is_a_regression_on_features():
    from sklearn.linear_model import LogisticRegression

    train, test, model = rows(60, 1, apart=1.5), rows(90, 2, apart=1.5), model_of()
    score = probe(model, train, test, labels=(None,), methods=("linear",)).score("linear")
    (settings,) = score.settings
    with torch.no_grad():
        a, b = (features(model.eval(), part.x).double() for part in (train, test))
    width = a.std(0, correction=0).square().mean().sqrt()
    a, b = (a - a.mean(0)) / width, (b - a.mean(0)) / width
    theirs = LogisticRegression(C=settings["strength"], tol=1e-9, max_iter=10_000)
    agree = theirs.fit(a, train.labels).predict(b) == score.predictions[0].numpy()
    assert agree.mean() > 0.98  # rows on a border may fall to either side


def test_separable_rows_are_told_apart():
    found = probe(
        model_of(), rows(90, 1, 30.0), rows(60, 2, 30.0), labels=(30,), draws=1, budget=BUDGET
    )
    for method in ("linear", "cells", "pca"):
        assert found.score(method, 30).mean == 100.0
    for method in ("fine-tuned", "scratch"):
        assert found.score(method, 30).mean > 95.0


def test_random_labels_stay_at_chance():
    train, test = rows(300, 1, 0.0, classes=2), rows(2000, 2, 0.0, classes=2)
    found = probe(model_of(), train, test, labels=(100, None), draws=2, methods=("linear", "pca"))
    for score in found.scores:
        assert abs(score.mean - 50) < 4 * score.binomial


def test_all_labels_reach_what_the_classes_allow():
    """Two clouds two deviations apart: the best rule is right for a share Phi(1)."""
    train, test = (rows(4000, seed, math.sqrt(2), classes=2) for seed in (1, 2))
    score = probe(model_of(), train, test, labels=(None,), methods=("cells",)).score("cells")
    assert abs(score.mean - 100 * 0.8413) < 4 * score.binomial


def test_draws_are_balanced_and_nested():
    y = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    order = balanced(y, seed=4)
    assert sorted(order.tolist()) == list(range(73))
    for m in (3, 6, 9):
        assert torch.bincount(y[order[:m]], minlength=3).tolist() == [m // 3] * 3
    assert torch.bincount(y[order[:21]]).tolist() == [9, 3, 9]  # one class has no more
    assert max(torch.bincount(y[order[:8]])) - min(torch.bincount(y[order[:8]])) == 1
    assert not torch.equal(order, balanced(y, seed=5))
    task = Task.of(model_of(), rows(60, 1), rows(9, 2), 0)
    assert torch.equal(task.labelled(6, 0), task.labelled(30, 0)[:6])


def test_components_are_scikit_learns():
    from sklearn.decomposition import PCA

    train, test = rows(60, 1), rows(30, 2)
    task = Task.of(model_of(), train, test, 0)
    scaled = Scale.of(train.x, shared=False)
    theirs = PCA(3).fit(scaled(train.x).numpy())
    for ours, part in ((task.components.train, train), (task.components.test, test)):
        wanted = torch.from_numpy(theirs.transform(scaled(part.x).numpy()))
        ratio = ours / wanted  # one width for all, and signs
        width = ratio.abs().median()
        torch.testing.assert_close(ours.abs(), (wanted * width).abs(), rtol=1e-3, atol=1e-4)


def test_a_missing_cell_is_its_columns_mean():
    mask = torch.ones(60, 4, dtype=torch.bool)
    mask[5, 2] = False
    train = replace(rows(60, 1), mask=mask, x=rows(60, 1).x.masked_fill(~mask, 0))
    task = Task.of(model_of(sees_mask=True), train, rows(30, 2), 0)
    assert float(task.cells.train[5, 2].abs()) < 1e-6
    found = probe(model_of(sees_mask=True), train, rows(30, 2), **FEW)
    assert {score.method for score in found.scores} == set(METHODS)


@pytest.mark.slow
def test_test_rows_leak_nowhere(found):
    """Test rows in another order are told the same; others beside them change nothing."""
    order = torch.randperm(45, generator=torch.Generator().manual_seed(0))
    again = probe(model_of(), rows(60, 1), rows(45, 2).rows(order), **FEW)
    for score in again.scores:
        first = found.score(score.method, score.labels)
        assert torch.equal(score.predictions, first.predictions[:, order])


@pytest.mark.slow
def test_a_seed_says_it_all(found, untouched):
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    with untouched():
        again = probe(model, rows(60, 1), rows(45, 2), corruption=Masking(0.5), **FEW)
    assert again.to_dict() == found.to_dict()
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    other = probe(model, rows(60, 1), rows(45, 2), seed=1, **FEW)
    assert other.to_dict()["scores"] != found.to_dict()["scores"]


def test_differences_are_paired(found):
    a, b = found.score("linear", 6), found.score("scratch", 6)
    number = found.difference("linear", "scratch", 6)
    assert number.value == pytest.approx(a.mean - b.mean)
    apart = 100 * (a.right - b.right)
    variance = apart.mean(1).var() / 2 + apart.mean(0).var() / 45
    assert number.stderr == pytest.approx(float(variance.sqrt()))
    same = found.difference("linear", "linear", 6)
    assert (same.value, same.stderr) == (0.0, 0.0)


def test_scores_say_what_they_are(found):
    score = found.score("linear", 30)
    assert score.binomial == pytest.approx(
        100 * math.sqrt(score.mean / 100 * (1 - score.mean / 100) / 45)
    )
    assert score.deviation == pytest.approx(float(score.accuracies.std()))
    told = found.to_dict()
    assert {one["unit"] for one in told["scores"]} == {"%"}
    assert told["scores"][-1]["corruption"].startswith("Masking")
    text = str(found)
    for word in (*METHODS.values(), "6 labels", "30 labels", "binomial", "paired", "Masking"):
        assert word in text
    table = [line for line in text.splitlines() if " +- " in line and line.startswith("  ")]
    assert len({len(line) for line in table[:5]}) == 1


def test_an_adversary_is_worse_than_noise():
    how = {"labels": (30,), "draws": 1, "methods": ("linear",)}
    train, test = rows(60, 1), rows(90, 2)
    clean = probe(model_of(), train, test, corruption=Adversarial(0.0), **how)
    spoilt = probe(model_of(), train, test, corruption=Adversarial(0.3), **how)
    still, worse = clean.scores[1], spoilt.scores[1]
    assert still.mean == clean.score("linear", 30).mean
    assert worse.mean < still.mean - 10


def test_features_carry_gradients_through_every_model():
    x = rows(5, 1).x
    for model in (model_of(), flow((4,), flow=NSF()), PPCA((4,), 2)):
        leaf = x.clone().requires_grad_()
        found = features(model, leaf)
        assert torch.equal(found.detach(), torch.cat([*model.encode(x)], 1).flatten(1))
        assert found.requires_grad


def test_new_weights_leave_the_old_alone():
    model, task = model_of(), Task.of(model_of(), rows(60, 1), rows(9, 2), 0)
    new, again = (fresh(model, task.train, seed=3) for _ in range(2))
    for (name, a), b, c in zip(
        model.named_parameters(), new.parameters(), again.parameters(), strict=True
    ):
        assert torch.equal(b, c)
        assert a.data_ptr() != b.data_ptr()
        assert not torch.equal(a, b) or "bias" in name
    composed = VAE(model.encoder, model.decoder, StandardNormal((3,), model.encoder))
    assert not torch.equal(
        fresh(composed, task.train, 3).encoder.net.layers[0].weight,
        model.encoder.net.layers[0].weight,
    )


class _Odd(MLP):
    def __init__(self, *shapes):
        super().__init__(*shapes)
        self.gain = torch.nn.Parameter(torch.ones(1))


def test_what_cannot_be_trained_is_left_out():
    model = model_of()
    net = Conditional(_Odd, model.encoder.family, (4,))
    composed = VAE(net, model.decoder, StandardNormal((3,), net))
    how = {**FEW, "methods": ("linear", "fine-tuned", "scratch")}
    found = probe(composed, rows(60, 1), rows(30, 2), **how)
    assert "encoder.net.gain" in found.left_out["scratch"]
    assert found.score("fine-tuned", 6).mean > 0
    found = probe(PPCA((4,), 2), rows(60, 1), rows(30, 2), **how)
    assert set(found.left_out) == {"fine-tuned", "scratch"}
    assert "by EM" in str(found)


def test_rows_without_a_known_label_are_left_out():
    train = rows(60, 1)
    unknown = replace(train, labels=torch.where(torch.arange(60) < 30, train.labels, -1))
    found = probe(model_of(), unknown, rows(30, 2), labels=(None,), methods=("linear",))
    assert found.rows == 30
    assert found.classes == (0, 1, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, ("clouds/1", "no labels")),
        ({"labels": torch.full((60,), -1)}, ("no row has a label",)),
        ({"labels": torch.ones(60, dtype=torch.long)}, ("all labels are 1",)),
        ({"labels": torch.arange(60) % 2}, ("class 2", "clouds/2")),
        ({"x": torch.zeros(60, 5)}, ("clouds/1", "(5,)")),
    ],
)
def test_rows_that_make_no_task(refused, change, words):
    with refused(*words):
        probe(model_of(), replace(rows(60, 1), **change), rows(30, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": (61,)}, ("labels=61", "60 rows")),
        ({"labels": (2,)}, ("labels=2", "3 classes")),
        ({"labels": ()}, ("labels=()",)),
        ({"labels": (6.5,)}, ("6.5",)),
        ({"draws": 0}, ("draws=0",)),
        ({"methods": ("lienar",)}, ("lienar", "linear")),
        ({"methods": ()}, ("methods=()",)),
        ({"methods": ("cells",), "corruption": Masking()}, ("Masking", "linear")),
    ],
)
def test_options_that_make_no_task(refused, options, words):
    with refused(*words):
        probe(model_of(), rows(60, 1), rows(30, 2), **{"labels": (6,), **options})


def test_a_model_that_is_told_labels_is_refused(refused):
    from latently.data.contexts import Context

    train = rows(60, 1)
    label = Context.of("label", train.labels.numpy())
    train = replace(train, context=label.encode(train.labels), conditions=label)
    with refused("p(x|label)"):
        probe(model_of(contexts=3), train, train)
