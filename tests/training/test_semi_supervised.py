"""The objective for few labels: what is added to the bound, and who rests when."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from latently import ELBO, IWAE, Data, SemiSupervised, Variational, fit, ssvae, train, vae
from latently.data import Binarise, with_labels
from latently.inference import STL, DReG, Score
from latently.inference.noise import seeded
from latently.inference.schedules import Warmup
from latently.nets import MLP

SMALL = partial(MLP, hidden=(6,), activation=torch.nn.Tanh)
LAST = torch.tensor(1)


def data_of(n=30, labels=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 4, generator=generator).lt(0.5).to(dtype)
    y = torch.arange(n) % 3
    return with_labels(Data.from_array(x, levels=2, labels=y), labels)


def model_of(features=None, **options):
    torch.manual_seed(0)
    return ssvae((4,), classes=3, latents=2, features=features, net=SMALL, **options)


def values(model, data, objective, at=slice(None)):
    """The objective on rows of the data, after its first stage, from one seed."""
    with seeded(3):
        made = objective.of_data(data)
        return made(model, data.x[at], None, data.context[at], LAST, 1).bound


def test_the_bound_of_every_row_counts_once_whatever_the_labels(exactly):
    """The classifier's share is added; what is left is the mean over all rows."""
    data, model = data_of(dtype=torch.float64), model_of().double()
    data = replace(data, context=data.context.double())
    bound = values(model, data, SemiSupervised(alpha=0.0))
    with seeded(3):
        exactly(bound, ELBO()(model.infer(data.x, 1, None, data.context)))
    known = data.context.sum(1) > 0
    log_q = (model.log_classes(data.x) * data.context).sum(1)[known].mean()
    exactly(values(model, data, SemiSupervised(alpha=0.7)), bound + 0.7 * log_q)
    assert not torch.equal(bound[known], ELBO()(model.infer(data.x, 1))[known])


def test_few_labels_are_drawn_into_every_step_without_a_bias():
    data, model = data_of(labels=9), model_of()
    with torch.no_grad():
        log_q = (model.log_classes(data.x) * data.context).sum(1)[data.context.sum(1) > 0]
        made = SemiSupervised(alpha=1.0, labelled=2).of_data(data)
        drawn = torch.stack([made._log_labels(model) for _ in range(4000)])
    assert drawn.shape == (4000, 2)
    error = float(drawn.mean(1).std()) / math.sqrt(4000)
    assert abs(float(drawn.mean() - log_q.mean())) < 5 * error
    assert torch.isclose(drawn.reshape(-1, 1), log_q).any(1).all()


def test_a_batch_without_labels_still_teaches_the_classifier():
    data, model = data_of(), model_of()
    unknown = (data.context.sum(1) == 0).nonzero()[:5, 0]
    plain = values(model, data, SemiSupervised(alpha=0.0), unknown)
    more = values(model, data, SemiSupervised(alpha=2.0), unknown)
    assert (more < plain).all()


def test_labelled_rows_are_drawn_anew_like_all_others():
    data = data_of()
    data = replace(data, x=data.x * 0.6 + 0.2, redraw=Binarise())
    made = SemiSupervised().of_data(data)
    seen = []
    model = model_of()
    classes = model.log_classes
    model.log_classes = lambda x, mask: seen.append(x) or classes(x, mask)
    with torch.no_grad():
        for _ in range(2):
            made._log_labels(model)
    assert ((seen[0] == 0) | (seen[0] == 1)).all()
    assert not torch.equal(*seen)


def parts(model):
    features = dict(model.features.named_parameters())
    above = {n: p for n, p in model.named_parameters() if not n.startswith("features.")}
    return features, above


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_each_stage_moves_its_own_parameters_and_rests_the_others(optimizer):
    data, model = data_of(), model_of(features=2)
    kept = [{n: p.detach().clone() for n, p in part.items()} for part in parts(model)]
    objective = SemiSupervised(pretrain=0.4)
    for step in train(
        model, data, objective, steps=10, batch_size=10, optimizer=optimizer, learning_rate=0.01
    ):
        now = [{n: p.detach().clone() for n, p in part.items()} for part in parts(model)]
        first = step.index <= 4
        moving, resting = (0, 1) if first else (1, 0)
        assert all(torch.equal(now[resting][n], kept[resting][n]) for n in now[resting])
        assert all(not torch.equal(now[moving][n], kept[moving][n]) for n in now[moving])
        kept = now


def test_the_first_stage_is_the_bound_of_the_features_alone():
    data, model = data_of(), model_of(features=2)
    objective = SemiSupervised(pretrain=0.5).of_data(data)
    with seeded(1):
        found = objective(model, data.x, None, data.context, torch.tensor(4), 10)
    with seeded(1):
        wanted = Variational()(model.features, data.x, None, None, torch.tensor(4), 10)
    assert torch.equal(found.bound, wanted.bound)
    for step in (5, 10):
        with seeded(1):
            found = objective(model, data.x, None, data.context, torch.tensor(step), 10)
        found.bound.mean().backward()
        assert all(p.grad is None for p in model.features.parameters())
        assert all(p.requires_grad for p in model.parameters())


def test_validation_is_the_bound_after_all_stages():
    data, model = data_of(), model_of(features=2)
    objective = SemiSupervised(pretrain=0.5)
    with torch.no_grad(), seeded(1):
        found = objective(model, data.x, None, None, torch.tensor(10), 10).bound
    with torch.no_grad(), seeded(1):
        assert torch.equal(found, ELBO()(model.infer(data.x, 1)))


@pytest.mark.parametrize("features", [None, 2])
@pytest.mark.parametrize("at", [2, 5, 7])
def test_a_resumed_run_is_the_same_run(features, at):
    data = data_of()
    options = {"steps": 10, "batch_size": 8, "seed": 4}
    objective = SemiSupervised(labelled=3, bound=IWAE(), samples=2)
    model, stopped = model_of(features), None
    for step in train(model, data, objective, **options):
        if step.index == at:
            stopped = copy.deepcopy((model.state_dict(), step.state()))
    again = model_of(features)
    again.load_state_dict(stopped[0])
    for _ in train(again, data, objective, start=at, optimizer_state=stopped[1], **options):
        pass
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_checkpoint_continues_a_run_with_features(tmp_path):
    data, objective = data_of(), SemiSupervised(labelled=3)
    how = {"batch_size": 8, "progress": False, "seed": 4, "validation": data_of(9, 3)}
    whole = model_of(features=2)
    found = fit(whole, data, objective, epochs=4, **how)
    assert "objective" in found.history[0]
    assert "validation" in found.history[0]
    again = model_of(features=2)
    fit(again, data, objective, epochs=4, checkpoint=tmp_path / "c", resume=True, **how)
    fit(again, data, objective, epochs=4, checkpoint=tmp_path / "c", resume=True, **how)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True)
    )


def test_pieces_of_a_step_have_the_gradient_of_the_step():
    data, objective = data_of(), SemiSupervised(bound=ELBO(beta=Warmup(1.0, steps=2)))
    model = model_of()
    steps = train(model, data, objective, steps=3, batch_size=8, accumulate=2)
    assert all(bool(step.finite) for step in steps)


@pytest.mark.slow
def test_few_labels_name_the_groups_that_the_bound_finds():
    """Three kinds of rows, one label each: all rows get the name of their kind."""
    generator = torch.Generator().manual_seed(2)
    kind = torch.arange(300) % 3
    on = torch.full((3, 12), 0.05)
    for row in range(3):
        on[row, 4 * row : 4 * row + 4] = 0.95
    x = torch.rand(300, 12, generator=generator).lt(on[kind]).float()
    data = with_labels(Data.from_array(x, levels=2, labels=kind), 6)
    torch.manual_seed(0)
    model = ssvae((12,), classes=3, latents=1, net=partial(MLP, hidden=(16,)))
    fit(
        model,
        data,
        SemiSupervised(alpha=1.0),
        epochs=60,
        batch_size=50,
        learning_rate=0.01,
        progress=False,
    )
    assert float((model.classify(x).argmax(1) == kind).float().mean()) > 0.97


def test_the_usual_objective_of_the_model():
    data, model = data_of(), model_of()
    assert "objective" in fit(model, data, steps=2, progress=False).history[0]


def test_mistakes_are_named(refused):
    for option in ({"alpha": -1.0}, {"labelled": 0}, {"pretrain": 1.5}, {"samples": 0}):
        with refused(next(iter(option))):
            SemiSupervised(**option)
    for share in (0, 1, 0.0):
        with refused("pretrain", "no step"):
            SemiSupervised(pretrain=share)
    for estimator, bound in ((Score(), ELBO()), (STL(), ELBO()), (DReG(), IWAE())):
        with refused(type(estimator).__name__, "shares"):
            SemiSupervised(bound=bound, estimator=estimator, samples=2)
    data, model = data_of(), model_of()
    bare = replace(data, context=None, conditions=None)
    with refused("none of the 30 rows has a label"):
        fit(model, bare, steps=1, progress=False)
    with refused("none of the 30 rows has a label"):
        fit(model, replace(data, context=torch.zeros_like(data.context)), steps=1, progress=False)
    with refused("VAE", "ssvae"):
        fit(vae((4,), latents=1, net=SMALL), bare, SemiSupervised(), steps=1, progress=False)


# Labels.


def test_labels_are_kept_in_equal_numbers_by_the_seed():
    y = torch.tensor([2, 7, 7, 2, 5, 5, 7, -1, 2, 5, -1, 7])
    data = Data.from_array(torch.randn(12, 2), labels=y)
    whole = with_labels(data)
    assert whole.conditions.classes == (2, 5, 7)
    assert torch.equal(whole.context.sum(1) > 0, y != -1)
    assert torch.equal(
        whole.context.argmax(1)[y != -1], torch.searchsorted(torch.tensor([2, 5, 7]), y[y != -1])
    )
    for seed in range(5):
        few = with_labels(data, 6, seed)
        assert few.context.sum(0).tolist() == [2, 2, 2]
        assert torch.equal(few.context, whole.context * few.context.sum(1, keepdim=True))
    assert with_labels(data, 5).context.sum(0).sort().values.tolist() == [1, 2, 2]
    several = {tuple(with_labels(data, 3, seed).context.argmax(0).tolist()) for seed in range(20)}
    assert len(several) > 5
    assert torch.equal(with_labels(data, 6, 1).context, with_labels(data, 6, 1).context)


def test_labels_that_cannot_be_kept_are_named(refused):
    def of(y):
        return Data.from_array(torch.randn(len(y), 2), labels=torch.tensor(y))

    with refused("array", "no labels"):
        with_labels(Data.from_array(torch.randn(3, 2)), 2)
    with refused("unknown"):
        with_labels(of([-1, -1]))
    with refused("all known labels are 4", "at least 2"):
        with_labels(of([4, 4, -1]))
    with refused("labels=2", "3 classes"):
        with_labels(of([0, 1, 2]), 2)
    with refused("labels=4", "has 3"):
        with_labels(of([0, 1, 2, -1]), 4)
    with refused("labels=4", "1 of class 1"):
        with_labels(of([0, 0, 0, 1]), 4)
    for wrong in (2.0, "some", True, None):
        with refused("labels=", "'all'"):
            with_labels(of([0, 1]), wrong)
    with refused("1,001 different"):
        with_labels(of(list(range(1001))))
