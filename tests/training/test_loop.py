"""The generator of steps: every row equally often, every step a function of (seed, t)."""

from functools import partial

import pytest
import torch

from latently import ELBO, IWAE, Cosine, Data, Linear, Variational, train, vae
from latently.data import Binarise
from latently.nets import MLP
from latently.probability.conditional import draw_mean
from latently.training import Objective, Terms
from latently.training.loop import BatchOrder, run_length


def bits(n=23):
    generator = torch.Generator().manual_seed(0)
    return Data.from_array(torch.rand(n, 4, generator=generator).lt(0.5).float(), levels=2)


def model_of(seed=0, **options):
    torch.manual_seed(seed)
    return vae((4,), latents=2, net=partial(MLP, hidden=(5,)), **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(("rows", "batch"), [(23, 5), (10, 10), (10, 1), (7, 100), (100, 33)])
def test_every_row_is_visited_equally_often(rows, batch):
    order = BatchOrder(rows, batch, seed=3)
    size = min(batch, rows)
    epochs = 2 * size  # whole batches fill these epochs exactly
    steps = order.steps(epochs)
    assert steps * size == epochs * rows
    batches = [order(t) for t in range(steps)]
    assert all(len(b) == size for b in batches)
    stream = torch.cat(batches)
    assert (torch.bincount(stream, minlength=rows) == epochs).all()
    for e in range(epochs):
        assert len(stream[e * rows : (e + 1) * rows].unique()) == rows
    assert sum(order.ends_epoch(t) for t in range(steps)) == epochs
    assert [order.epoch(t) for t in range(steps)][-1] == epochs


def test_batches_are_a_function_of_seed_and_step():
    a, b, other = BatchOrder(50, 7, 1), BatchOrder(50, 7, 1), BatchOrder(50, 7, 2)
    assert torch.equal(a(40), [b(t) for t in range(41)][-1])
    assert not torch.equal(a(0), other(0))
    assert not torch.equal(torch.cat([a(t) for t in range(7)]).sort().values[:7], a(0))
    first, second = (torch.cat([a(t) for t in range(50)])[e * 50 : e * 50 + 50] for e in (0, 1))
    assert not torch.equal(first, second)


def test_the_caller_owns_the_loop(untouched):
    model, seen = model_of(), []
    before = weights(model)
    with untouched():
        for step in train(model, bits(), steps=12, batch_size=5, device="cpu"):
            seen.append(step)
    assert [s.index for s in seen] == list(range(1, 13))
    assert all(s.total == 12 for s in seen)
    assert [s.epoch for s in seen if s.ends_epoch] == [1, 2, 3]
    assert seen[-1].ends_epoch
    assert not torch.equal(before, weights(model))
    assert all(
        float(s.bound) == pytest.approx(float(s.reconstruction - s.kl), abs=1e-4) for s in seen
    )


def test_nothing_the_caller_does_between_steps_changes_the_run():
    quiet, noisy = model_of(), model_of()
    for _ in train(quiet, bits(), steps=8, batch_size=5, device="cpu"):
        pass
    for step in train(noisy, bits(), steps=8, batch_size=5, device="cpu"):
        torch.manual_seed(step.index)
        noisy.sample(3)
        noisy.infer(bits().x, 5)
    assert torch.equal(weights(quiet), weights(noisy))


def test_a_run_is_continued_exactly_from_its_state():
    whole, parts = model_of(), model_of()
    options = {"steps": 9, "batch_size": 5, "device": "cpu"}
    for _ in train(whole, bits(), **options):
        pass
    for step in train(parts, bits(), **options):
        if step.index == 4:
            state = step.optimizer.state_dict()
            break
    for _ in train(parts, bits(), start=4, optimizer_state=state, **options):
        pass
    assert torch.equal(weights(whole), weights(parts))


def test_seeds_make_runs_differ():
    found = []
    for seed in (0, 0, 1):
        model = model_of()
        for _ in train(model, bits(), steps=3, seed=seed, device="cpu"):
            pass
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_learning_rate_follows_its_schedule():
    for schedule in (Linear(0.1, 0.0), Cosine(0.1), 0.05):
        rates = [
            (s.learning_rate, s.optimizer.param_groups[0]["lr"])
            for s in train(model_of(), bits(), steps=10, learning_rate=schedule, device="cpu")
        ]
        wanted = [
            schedule if isinstance(schedule, float) else float(schedule(torch.tensor(t), 10))
            for t in range(10)
        ]
        assert [a for a, _ in rates] == [b for _, b in rates] == pytest.approx(wanted)


def test_beta_follows_its_schedule():
    objective = Variational(ELBO(beta=Linear(0.0, 1.0, steps=4)))
    for t, step in enumerate(train(model_of(), bits(), objective, steps=6, device="cpu")):
        beta = min(t / 4, 1)
        wanted = float(step.reconstruction) - beta * float(step.kl)
        assert float(step.bound) == pytest.approx(wanted, abs=1e-4)


def test_reported_bound_is_the_bound():
    model, data = model_of(), bits(20)
    objective = Variational(IWAE(), samples=7)
    (step,) = train(
        model, data, objective, steps=1, learning_rate=1e-30, batch_size=20, device="cpu"
    )
    with torch.no_grad():
        long = torch.stack([IWAE()(model.infer(data.x, 7)).mean() for _ in range(300)])
    assert abs(float(step.bound) - long.mean()) < 5 * long.std()


def test_dynamic_rows_are_redrawn_at_every_use():
    class Spy(Binarise):
        seen = []  # noqa: RUF012

        def __call__(self, x):
            self.seen.append(super().__call__(x))
            return self.seen[-1]

    data = Data(torch.full((4, 4), 0.5), "Bernoulli", "grey", levels=2, redraw=Spy())
    for _ in train(model_of(), data, steps=6, batch_size=4, device="cpu"):
        pass
    assert all(set(x.flatten().tolist()) <= {0.0, 1.0} for x in Spy.seen)
    assert len({tuple(x.flatten().tolist()) for x in Spy.seen}) > 3


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
def test_log_densities_are_wide_under_any_precision(precision):
    steps = list(train(model_of(), bits(), steps=2, precision=precision, device="cpu"))
    assert all(s.bound.dtype in (torch.float32, torch.float64) for s in steps)
    assert all(torch.isfinite(s.bound) for s in steps)


@pytest.mark.long
def test_compiled_steps_repeat_and_estimate_the_same_bound():
    objective, found = Variational(ELBO(beta=Linear(1.0, 1.0)), samples=50), []
    for compiled in (False, True, True):
        model = model_of()
        options = {"steps": 2, "batch_size": 20, "compile": compiled, "device": "cpu"}
        bounds = [float(s.bound) for s in train(model, bits(), objective, **options)]
        found.append((bounds, weights(model)))
    assert found[1][0] == found[2][0]  # its noise differs from eager noise, but repeats
    assert torch.equal(found[1][1], found[2][1])
    assert found[0][0] == pytest.approx(found[1][0], abs=0.1)


def test_lengths_are_checked(refused):
    order = BatchOrder(10, 4, 0)
    assert run_length(order, 2, None) == 5
    assert run_length(order, None, 7) == 7
    for lengths in ((None, None), (1, 1)):
        with refused("epochs", "steps"):
            run_length(order, *lengths)
    with refused("epochs=0"):
        run_length(order, 0, None)
    with refused("steps=-1"):
        run_length(order, None, -1)


class AtTheMean(Objective):
    """The ELBO with the mean of q for its draw: nothing is random."""

    def terms(self, model, rows, step, total):
        x, mask, context = rows
        p = model.infer(x, 1, mask, context, draw=draw_mean)
        return Terms(ELBO()(p), p.average(p.log_lik), p.average(p.divergence))


@pytest.mark.parametrize("pieces", [2, 3, 7, 20])
def test_pieces_have_the_gradient_of_the_whole_batch(pieces, refused):
    found = []
    for accumulate in (1, pieces):
        model = model_of().double()
        data = bits().to(dtype=torch.float64)
        options = {"batch_size": 20, "accumulate": accumulate, "device": "cpu"}
        steps = [
            (float(s.bound), float(s.kl), float(s.gradient_norm), weights(model).tolist())
            for s in train(model, data, AtTheMean(), steps=4, optimizer=torch.optim.SGD, **options)
        ]
        found.append(steps)
    for whole, cut in zip(*found, strict=True):
        assert cut[:3] == pytest.approx(whole[:3], rel=1e-12)
        assert cut[3] == pytest.approx(whole[3], rel=1e-11, abs=1e-13)


def test_pieces_see_their_own_rows_masks_and_contexts():
    seen = []

    class Spy(AtTheMean):
        def terms(self, model, rows, step, total):
            seen.append(tuple(part.clone() for part in rows))
            return super().terms(model, rows._replace(context=None), step, total)

    x = torch.arange(40.0).view(10, 4).remainder(2)
    data = Data(x, "Bernoulli", "d", mask=x < 2, context=torch.arange(10.0)[:, None], levels=2)
    next(train(model_of(), data, Spy(), steps=1, batch_size=10, accumulate=3, device="cpu"))
    assert [len(part) for part, _, _ in seen] == [4, 3, 3]
    rows = torch.cat([context for _, _, context in seen]).flatten().long()
    assert sorted(rows.tolist()) == list(range(10))
    assert torch.equal(torch.cat([part for part, _, _ in seen]), x[rows])
    assert all(mask.shape == part.shape for part, mask, _ in seen)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_pieces_learn(precision):
    options = {"steps": 200, "batch_size": 20, "learning_rate": 0.02, "device": "cpu"}
    data = Data.from_array(bits(40).x[:, :1].expand(-1, 4), levels=2)  # one bit, four times
    steps = list(train(model_of(), data, accumulate=4, precision=precision, **options))
    first, last = (sum(float(s.bound) for s in part) / 20 for part in (steps[:20], steps[-20:]))
    assert last > first + 0.5


def test_pieces_are_counted(refused):
    for accumulate in (0, -1, 6):
        with refused(f"accumulate={accumulate}", "1 to the 5 rows"):
            next(train(model_of(), bits(), steps=1, batch_size=5, accumulate=accumulate))


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
@pytest.mark.parametrize("option", ["foreach", "differentiable", "fused"])
def test_optimizers_take_every_way_to_run_them(name, option):
    for value in (True, False):
        make = partial(getattr(torch.optim, name), **{option: value})
        if (option, value) == ("differentiable", True):
            continue
        (step,) = train(model_of(), bits(), steps=1, optimizer=make, device="cpu")
        assert step.optimizer.defaults[option] is value
        assert bool(step.optimizer.defaults["fused"]) == (option != "foreach" or not value) or (
            option == "fused"
        )


def test_optimizers_that_refuse_their_options_say_so_in_a_line(refused):
    with refused("Adam", "foreach"):
        make = partial(torch.optim.Adam, fused=True, foreach=True)
        next(train(model_of(), bits(), steps=1, optimizer=make, device="cpu"))
    with refused("SGD", "momentum"):
        make = partial(torch.optim.SGD, momentum=-1.0)
        next(train(model_of(), bits(), steps=1, optimizer=make, device="cpu"))
