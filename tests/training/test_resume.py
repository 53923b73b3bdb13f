"""Killed at any point and resumed, a run ends in the same weights to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from latently import (
    ELBO,
    Cosine,
    Data,
    Interrupted,
    Linear,
    Variational,
    fit,
    save,
    vae,
)
from latently.data import Binarise
from latently.nets import MLP
from latently.training.checkpoint import load_checkpoint
from latently.training.files import named_tensors, read_header, read_tensors, write_tensors

STEPS = 60
AVERAGED = {"ema": 0.9, "clip": 1.0, "accumulate": 2}

# A run with everything that has a state: Adam, schedules, dynamic rows, validation, a VampPrior,
# pieces, clipped and skipped steps, bad steps, an average.
SCRIPT = """
import os, sys, signal
import torch
from functools import partial
from latently import *
from latently.data import Binarise
from latently.inference.schedules import Warmup
from latently.nets import MLP
from latently.probability.priors import VampPrior

checkpoint, out, die_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
grey = torch.rand(37, 4, generator=torch.Generator().manual_seed(1))
data = Data(grey[:30], "Bernoulli", "grey", levels=2, redraw=Binarise())
held = Data(grey[30:], "Bernoulli", "held", levels=2, redraw=Binarise())
model = vae((4,), latents=2, net=partial(MLP, hidden=(5,), dropout=0.2),
            prior=partial(VampPrior, components=3))
class Dying(Variational):
    calls = 0

    def __call__(self, model, x, mask, context, step, total):
        terms = super().__call__(model, x, mask, context, step, total)
        if not model.training:
            return terms
        Dying.calls += 1
        if Dying.calls == 3 * die_at + 2:  # amid a step
            os.kill(os.getpid(), signal.SIGKILL)
        bad = int(step) in (5, 20, 21)
        return terms._replace(bound=terms.bound * (float("nan") if bad else 1.0))

fit(model, data, Dying(ELBO(beta=Linear(0.0, 1.0)), samples=2), validation=held,
    steps=60, batch_size=7, learning_rate=Warmup(Cosine(0.02), 9), seed=3, device="cpu",
    accumulate=3, clip=0.5, skip=0.9, ema=0.9,
    checkpoint=checkpoint, resume=True, checkpoint_seconds=0, progress=False)
save(model, out)
"""


def run(folder, out, die_at):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, folder / "run.ckpt", folder / out, str(die_at)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_killed_and_resumed_is_bit_identical(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run(whole, "m", -1)
    assert done.returncode == 0, done.stderr
    reached = []
    for die_at in (3, 0, 19, 15):  # steps after each start; 0: before any new checkpoint
        assert run(killed, "m", die_at).returncode == -signal.SIGKILL
        reached.append(read_header(killed / "run.ckpt")[0]["progress"]["step"])
    assert reached == [3, 3, 20, 35]  # steps 21 and 22 were not finite: no checkpoint of them
    done = run(killed, "m", -1)
    assert done.returncode == 0, done.stderr
    a, b = (read_tensors(folder / "m") for folder in (whole, killed))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    histories = [
        [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in read_header(folder / "run.ckpt")[0]["progress"]["history"]
        ]
        for folder in (whole, killed)
    ]
    assert histories[0] == histories[1]
    counts = [sum(row[n] for row in histories[0]) for n in ("clipped", "skipped", "non_finite")]
    assert counts[2] == 3
    assert all(0 < count < 50 for count in counts), counts


def data_of(n=30):
    generator = torch.Generator().manual_seed(0)
    return Data(
        torch.rand(n, 4, generator=generator), "Bernoulli", "grey", levels=2, redraw=Binarise()
    )


def model_of(**options):
    torch.manual_seed(0)
    return vae((4,), latents=2, net=partial(MLP, hidden=(5,), dropout=0.1), **options)


OBJECTIVE = Variational(ELBO(beta=Linear(0.0, 1.0)))


def options(path, **changed):
    return {
        "steps": STEPS,
        "batch_size": 7,
        "learning_rate": Cosine(0.02),
        "device": "cpu",
        "progress": False,
        "checkpoint": path,
        "checkpoint_seconds": 0,
        **changed,
    }


class Signalling(torch.optim.Adam):
    """Sends this process a signal at one step."""

    number, at = signal.SIGINT, 20

    def step(self, closure=None):
        super().step(closure)
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == self.at:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize(
    ("number", "more"),
    [
        (signal.SIGINT, {}),
        (signal.SIGTERM, AVERAGED),
        pytest.param(signal.SIGINT, AVERAGED, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, {}, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_writes_its_checkpoint_and_continues_exactly(
    number, precision, more, tmp_path
):
    kind = type("Adam", (Signalling,), {"number": number})
    whole, more = model_of(), {"precision": precision, **more}
    fit(whole, data_of(), OBJECTIVE, **options(tmp_path / "whole", **more))
    late = {"checkpoint_seconds": 1e9, **more}
    path = tmp_path / "run.ckpt"
    with pytest.raises(Interrupted, match="step 20 of 60"):
        fit(model_of(), data_of(), OBJECTIVE, **options(path, optimizer=kind, **late))
    assert read_header(path)[0]["progress"]["step"] == 20
    model = model_of()
    found = fit(model, data_of(), OBJECTIVE, resume=True, **options(path, **late))
    assert len(found.history) == STEPS * 7 // 30
    for a, b in zip(named_tensors(model).values(), named_tensors(whole).values(), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype


def test_a_finished_run_is_not_trained_again(tmp_path):
    path = tmp_path / "run.ckpt"
    first = model_of()
    a = fit(first, data_of(), OBJECTIVE, **options(path))
    second = model_of()
    b = fit(second, data_of(), OBJECTIVE, resume=True, **options(path))
    assert a.history == b.history
    for x, y in zip(named_tensors(first).values(), named_tensors(second).values(), strict=True):
        assert torch.equal(x, y)


def test_a_resumed_run_keeps_the_best_epoch_of_before(tmp_path):
    path = tmp_path / "run.ckpt"
    changed = {"learning_rate": 0.5, "validation": data_of(20), "patience": 3}
    whole, again = model_of(), model_of()
    a = fit(whole, data_of(), **options(path, **changed))
    assert len(a.history) < STEPS * 7 // 30
    b = fit(again, data_of(), resume=True, **options(path, **changed))
    assert a.kept == b.kept
    for x, y in zip(named_tensors(whole).values(), named_tensors(again).values(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("data", {"data": data_of(31)}),
        ("objective", {"objective": Variational(ELBO(beta=0.5))}),
        ("model", {"model": lambda: vae((4,), latents=3)}),
        ("validation", {"validation": data_of(5)}),
        ("batch_size", {"batch_size": 8}),
        ("learning_rate", {"learning_rate": 0.1}),
        ("optimizer", {"optimizer": torch.optim.SGD}),
        ("steps", {"steps": 70}),
        ("seed", {"seed": 1}),
        ("ema", {"ema": 0.9}),
        ("clip", {"clip": 1.0}),
        ("skip", {"skip": 9.0}),
        ("accumulate", {"accumulate": 2}),
        ("initialise", {"initialise": False}),
    ],
)
def test_another_run_is_refused_by_name(named, change, tmp_path, refused):
    path = tmp_path / "run.ckpt"
    fit(model_of(), data_of(), OBJECTIVE, **options(path, steps=STEPS))
    change = dict(change)
    model, data = change.pop("model", model_of)(), change.pop("data", data_of())
    objective = change.pop("objective", OBJECTIVE)
    before = path.read_bytes()
    with refused("cannot resume", f"{named} was"):
        fit(model, data, objective, resume=True, **options(path, **change))
    assert path.read_bytes() == before


def test_another_version_or_thread_count_is_refused_by_name(tmp_path, monkeypatch, refused):
    path = tmp_path / "run.ckpt"
    fit(model_of(), data_of(), OBJECTIVE, **options(path))
    with monkeypatch.context() as patch, refused("version was"):
        patch.setattr(sys.modules["latently.training.run"], "__version__", "99.0")
        fit(model_of(), data_of(), OBJECTIVE, resume=True, **options(path))
    with monkeypatch.context() as patch, refused("threads was"):
        patch.setattr(torch, "get_num_threads", lambda: 99)
        fit(model_of(), data_of(), OBJECTIVE, resume=True, **options(path))


def test_damaged_checkpoints_are_refused(tmp_path, refused):
    path = tmp_path / "run.ckpt"
    fit(model_of(), data_of(), OBJECTIVE, **options(path))
    metadata, tensors = read_header(path)[0], read_tensors(path)
    name = next(n for n in tensors if n.startswith("model/"))
    cases = {
        "lacks": ({n: t for n, t in tensors.items() if n != name}, metadata),
        "shape": ({**tensors, name: tensors[name][:1]}, metadata),
        "other": ({**tensors, "junk": torch.zeros(1)}, metadata),
        "slot": ({**tensors, "optimizer/x/step": torch.zeros(1)}, metadata),
        "progress": (tensors, {**metadata, "progress": {"steps": 3}}),
        "scaler": (tensors, {k: v for k, v in metadata.items() if k != "scaler"}),
        "groups": (tensors, {k: v for k, v in metadata.items() if k != "groups"}),
    }
    for case in cases.values():
        write_tensors(path, *case)
        with refused("damaged"):
            fit(model_of(), data_of(), OBJECTIVE, resume=True, **options(path))
    path.write_bytes(path.read_bytes()[:-3])
    with refused("truncated"):
        fit(model_of(), data_of(), OBJECTIVE, resume=True, **options(path))


def test_averages_must_be_there(tmp_path, refused):
    path, more = tmp_path / "run.ckpt", {"ema": 0.9}
    fit(model_of(), data_of(), OBJECTIVE, **options(path, **more))
    metadata, tensors = read_header(path)[0], read_tensors(path)
    assert metadata["progress"]["averaged"] == STEPS
    name = next(n for n in tensors if n.startswith("average/"))
    write_tensors(path, {n: t for n, t in tensors.items() if n != name}, metadata)
    with refused("damaged"):
        fit(model_of(), data_of(), OBJECTIVE, resume=True, **options(path, **more))


def test_a_checkpoint_of_another_format_is_refused_in_a_line(tmp_path, refused):
    path = tmp_path / "run.ckpt"
    fit(model_of(), data_of(), OBJECTIVE, **options(path))
    metadata, tensors = read_header(path)[0], read_tensors(path)
    for found, shown in ((None, 1), (3, 3)):
        metadata = {k: v for k, v in metadata.items() if k != "format"}
        metadata |= {"format": found} if found else {}
        write_tensors(path, tensors, metadata)
        with refused("cannot resume", f"checkpoint format {shown}, not 2", "--force"):
            fit(model_of(), data_of(), OBJECTIVE, resume=True, **options(path))


def test_a_run_that_went_on_from_a_model_is_resumed_exactly(tmp_path):
    def start():
        model = model_of()
        fit(model, data_of(), OBJECTIVE, **options(None, steps=10))
        return model

    whole, parts, path = start(), start(), tmp_path / "run.ckpt"
    fit(whole, data_of(), OBJECTIVE, **options(None, initialise=False))
    kind = type("Adam", (Signalling,), {})
    with pytest.raises(Interrupted):
        fit(parts, data_of(), OBJECTIVE, **options(path, optimizer=kind, initialise=False))
    fit(parts, data_of(), OBJECTIVE, resume=True, **options(path, initialise=False))
    for a, b in zip(named_tensors(whole).values(), named_tensors(parts).values(), strict=True):
        assert torch.equal(a, b)


def test_a_model_file_is_no_checkpoint(tmp_path, refused):
    save(model_of(), tmp_path / "m")
    with refused("cannot resume"):
        fit(model_of(), data_of(), OBJECTIVE, resume=True, **options(tmp_path / "m"))


def test_nothing_to_resume_starts_afresh(tmp_path):
    found = fit(model_of(), data_of(), OBJECTIVE, resume=True, **options(tmp_path / "new"))
    assert len(found.history) == STEPS * 7 // 30


@pytest.mark.slow
def test_two_fits_on_one_checkpoint_are_refused(tmp_path, refused):
    path = tmp_path / "run.ckpt"
    script = (
        "import sys, time; from pathlib import Path; from latently.training.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline().strip() == b"held"
            with refused("another fit", str(path)):
                fit(model_of(), data_of(), OBJECTIVE, **options(path))
        finally:
            holder.kill()
    for _ in range(50):
        if holder.poll() is not None:
            break
        time.sleep(0.1)
    fit(model_of(), data_of(), OBJECTIVE, **options(path, steps=1))  # the dead hold nothing


def test_a_checkpoint_restores_what_it_was_given(tmp_path):
    path, model = tmp_path / "run.ckpt", model_of()
    fit(model, data_of(), OBJECTIVE, **options(path))
    fingerprint = read_header(path)[0]["fingerprint"]
    json.dumps(fingerprint)
    other = model_of()
    progress, state, best, average = load_checkpoint(path, other, fingerprint)
    assert progress.finished
    assert progress.step == STEPS
    assert best is None
    assert not average
    assert len(state["state"]) == len(list(model.parameters()))
