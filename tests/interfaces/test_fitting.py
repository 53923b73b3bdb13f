import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latently.data import Data
from latently.interfaces.fitting import _doubts
from latently.interfaces.request import command_text, read_request
from latently.io import describe, load_saved
from latently.training.files import locked
from latently.training.progress import Bar

SMALL = "vae --data digits --latents 2 --net MLP(hidden=(8,)) --epochs 3 --batch-size 400"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def checkpoint(out):
    return out.with_name("model.safetensors.checkpoint")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, done):
    """The tensors of the small fit, run in one go."""
    out = tmp_path_factory.mktemp("whole") / "model.safetensors"
    done("fit", *SMALL.split(), "--quiet", "--out", out)
    return load_file(out)


@pytest.fixture
def stop_at(monkeypatch):
    """Has a signal arrive after a step of the next fit."""

    def arrange(step, number):
        plain = Bar.update

        def update(bar, index, bound):
            plain(bar, index, bound)
            if bar.unit == "step" and index == step:
                signal.raise_signal(number)

        monkeypatch.setattr(Bar, "update", update)

    yield arrange
    monkeypatch.undo()


def test_a_config_holds_options_and_the_call_comes_first(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        'data = "digits"\nlatents = [4, 2]\nnet = "MLP(hidden=(8,))"\nbatch-size = 20\n'
        "learning_rate = 0.01\nsees-mask = true\nmissing = false\nepochs = 9\n"
    )
    words = f"--config {config} --epochs 3 --out m.safetensors"
    request = read_request(["vae", *words.split()])
    call = (
        "vae --data digits --latents (4,2) --net MLP(hidden=(8,)) --batch-size 20 "
        "--learning-rate 0.01 --sees-mask --no-missing --epochs 3 --out m.safetensors"
    )
    alone = read_request(call.split())
    assert str(request.arguments) == str(alone.arguments)
    assert request.options == alone.options
    assert {**request.files, "config": None} == alone.files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("latents 3", "is no TOML"),
        ("latnets = 3", "unknown option --latnets; did you mean --latents"),
        ("latents = 'two'", "--latents 'two': expected a whole number"),
        ("config = 'other.toml'", "unknown option --config"),
        ("[vae]\nlatents = 3", "unknown option --vae"),
    ],
)
def test_a_wrong_config_is_named(tmp_path, rejected, text, said):
    config = tmp_path / "run.toml"
    if text is not None:
        config.write_text(text)
    call = f"fit vae --data digits --config {config} --out {tmp_path / 'm.safetensors'}"
    rejected(call.split(), f"--config {config}", said)


def same(path, tensors):
    found = load_file(path)
    return found.keys() == tensors.keys() and all(
        torch.equal(found[name], tensors[name]) for name in tensors
    )


def test_summary_and_nothing_left_behind(cli, out, whole):
    ran = cli("fit", *SMALL.split(), "--out", out)
    about, reached, wrote = ran.out.splitlines()
    assert about == "digits/train: 1257 rows of shape (1, 8, 8), 180 for validation"
    assert reached.startswith("bound -")
    assert "kept: epoch" in reached
    assert wrote == f"wrote {out}"
    assert ran.err.startswith("step 9/9")
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert same(out, whole)


def test_rows_of_a_file_are_called_by_its_name(done, made, out):
    said = done("fit", "fa", "--data", made / "holes.npz", "--latents", 1, "--out", out)
    assert said.startswith("holes.npz: 54 rows of shape (4,), 6 for validation, ")


def test_a_closed_form_fit_tells_of_the_validation_rows(done, made, out):
    about, reached, _ = done(
        "fit", "mixture", "--data", made / "real.npz", "--components", 2, "--out", out
    ).splitlines()
    assert about.endswith("for validation")
    assert ", validation " in reached
    assert " parameters (" in reached


def test_quiet_prints_nothing(cli, out):
    ran = cli("fit", *SMALL.split(), "--quiet", "--out", out)
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_the_record(made):
    training = load_saved(made / "holes.safetensors").training
    assert training["data"] == "holes.npz without validation"
    assert training["objective"] == "ELBO by Reparam, 1 sample"
    assert training["options"] == {"epochs": "2"}
    assert training["kept"].endswith("best on validation")
    assert len(training["history"]) == 2
    exact = load_saved(made / "lines.safetensors").training
    assert exact["objective"] == exact["kept"] == "maximum likelihood"


def test_an_existing_model_needs_force(done, rejected, out, whole):
    words = ["fit", *SMALL.split(), "--quiet", "--out", out]
    done(*words)
    rejected(words, "model.safetensors exists", "--force")
    rejected([*words, "--resume"], "is complete", "--force replaces it")
    rejected([*words, "--resume", "--force"], "give one of them")
    done(*words, "--force", "--seed", 1)
    assert not same(out, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_fit_goes_on_as_if_it_had_not(
    cli, done, rejected, out, checkpoint, whole, stop_at, monkeypatch, number
):
    words = ["fit", *SMALL.split(), "--out", out]
    stop_at(4, number)
    ran = cli(*words)
    assert ran.code == 130
    said = ran.err.splitlines()[-1]
    assert said == (
        "latently: interrupted: stopped at step 4 of 9; continue with the same call and --resume"
    )
    assert checkpoint.exists()
    assert not out.exists()
    monkeypatch.undo()
    rejected([*words, "--quiet"], "holds a stopped run", "--resume continues it")
    changed = [*words, "--quiet", "--resume", "--learning-rate", "0.1"]
    rejected(changed, "cannot resume", "learning_rate was 0.001 and is now 0.1")
    rejected(["fit", *"fa --data digits --resume --out".split(), out], "is of another call")
    done(*words, "--resume")
    assert same(out, whole)
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (("reproduce", "digits-vae", "--quick"), "the same call continues it"),
        (("demo", "--quick"), "a demo starts anew"),
    ],
)
def test_what_fits_by_itself_says_how_it_goes_on(cli, tmp_path, stop_at, words, how):
    stop_at(4, signal.SIGINT)
    ran = cli(*words, "--out", tmp_path)
    assert ran.code == 130
    assert ran.err.splitlines()[-1] == f"latently: interrupted: stopped at step 4 of 58; {how}"


def test_nothing_to_resume_says_so(cli, out, whole):
    ran = cli("fit", *SMALL.split(), "--resume", "--out", out)
    assert ran.err.startswith("nothing to resume beside")
    assert same(out, whole)


def test_a_stopped_closed_form_fit(cli, out, monkeypatch):
    monkeypatch.setattr(Bar, "update", lambda *_: signal.raise_signal(signal.SIGINT))
    ran = cli("fit", "fa", "--data", "digits", "--out", out)
    assert ran.code == 130
    assert "nothing was written" in ran.err
    assert list(out.parent.iterdir()) == []


@pytest.mark.slow
def test_kill_and_resume_is_bit_identical(done, out, checkpoint, whole):
    words = [*SMALL.split(), "--out", str(out), "--checkpoint-seconds", "0"]
    code = (
        "import sys, time\n"
        "from latently.interfaces.cli import main\n"
        "from latently.training.progress import Bar\n"
        "plain = Bar.update\n"
        "def update(bar, index, bound):\n"
        "    plain(bar, index, bound)\n"
        "    if index == 6: print('six', flush=True); time.sleep(600)\n"
        "Bar.update = update\n"
        "main(sys.argv[1:])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    call = [sys.executable, "-c", code, "fit", *words, "--quiet"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, env=environment) as running:
        assert running.stdout.readline() == b"six\n"
        running.kill()
    assert checkpoint.exists()
    assert not out.exists()
    done("fit", *words, "--quiet", "--resume")
    assert same(out, whole)


def test_two_fits_on_one_file(rejected, out, checkpoint):
    words = ["fit", *SMALL.split(), "--quiet", "--out", out]
    with locked(checkpoint):
        rejected(words, "another fit is writing", "choose another --out")
    assert list(out.parent.iterdir()) == []


def full_disk(path, *_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_keeps_the_old_model_and_the_run(
    done, rejected, out, checkpoint, whole, monkeypatch
):
    words = ["fit", *SMALL.split(), "--quiet", "--out", out]
    done(*words, "--seed", 1)
    old = out.read_bytes()

    def save(*args, **keywords):
        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.write_bytes", full_disk)
            write(*args, **keywords)

    from latently.interfaces import fitting

    write = fitting.save
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "save", save)
        rejected([*words, "--force"], "No space left on device", "nothing there was changed")
    assert out.read_bytes() == old
    assert checkpoint.exists()
    began = time.monotonic()
    done(*words, "--resume")  # the run was complete: only the writing is made up for
    assert time.monotonic() - began < 5
    assert same(out, whole)


def test_a_damaged_checkpoint(cli, rejected, out, checkpoint, stop_at, monkeypatch):
    words = ["fit", *SMALL.split(), "--quiet", "--out", out]
    stop_at(4, signal.SIGINT)
    assert cli(*words).code == 130
    monkeypatch.undo()
    content = checkpoint.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"\xff" * 100):
        checkpoint.write_bytes(damaged)
        rejected([*words, "--resume"], checkpoint.name)
    assert not out.exists()


def test_log(done, rejected, made, tmp_path):
    log = tmp_path / "new" / "history.csv"
    words = f"fit vae --data {made}/real.npz --epochs 2 --quiet --log".split()
    done(*words, log, "--out", tmp_path / "a.safetensors")
    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    wanted = "step seconds bound reconstruction kl learning_rate validation gradient_norm "
    wanted += "clipped skipped non_finite"
    assert list(rows[0])[1:] == wanted.split()
    rejected([*words, log, "--out", tmp_path / "b.safetensors"], "history.csv exists", "--force")


def test_log_of_passes(done, made, tmp_path):
    log, out = tmp_path / "history.csv", tmp_path / "a.safetensors"
    done("fit", "fa", "--data", made / "holes.npz", "--latents", 1, "--log", log, "--out", out)
    header, *rows = log.read_text().splitlines()
    assert header == "pass,log_prob"
    values = np.array([row.split(",")[1] for row in rows], dtype=float)
    assert (np.diff(values) > -1e-9).all()


@pytest.mark.parametrize(
    "words",
    [
        "fa --data digits --latents 3 --steps 7 --tolerance 1e-05",
        "vae --data digits --latents (2,3) --seed 5 --no-missing --sees-mask --threads 1",
        "vae --data 'my data.npz' --prior VampPrior(components=7) --bound IWAE --samples 3 "
        "--estimator DReG --learning-rate Cosine(start=0.01,stop=0.0001) --validation 0.2 "
        "--net 'MLP(hidden=(4, 4), activation=Tanh)' --optimizer AdamW(weight_decay=0.01)",
        "vae --data digits --bound ELBO(beta=Linear(0.0,1.0,steps=5)) --compile --patience 3",
    ],
)
def test_command_text_can_be_read_again(words):
    request = read_request([*shlex.split(words), "--out", "a b.safetensors"])
    text = command_text(request)
    again = read_request(shlex.split(text)[2:])
    assert command_text(again) == text
    assert again.files == request.files
    assert again.objective == request.objective
    assert again.options.keys() == request.options.keys()


def test_show_command_fits_the_same_model(done, made, tmp_path):
    words = shlex.split(done("show", made / "holes.safetensors", "--command"))
    assert words[:3] == ["latently", "fit", "vae"]
    out = tmp_path / "again.safetensors"
    words[words.index("--out") + 1] = str(out)
    done(*words[1:], "--quiet")
    assert same(out, load_file(made / "holes.safetensors"))


def test_missing_values_are_counted_and_can_be_refused(cli, rejected, made, tmp_path):
    words = f"fit vae --data {made}/holes.npz --epochs 1 --out {tmp_path}/m.safetensors".split()
    missing = int(np.isnan(np.load(made / "holes.npz")["x"]).sum())
    rejected([*words, "--no-missing"], f"{missing} values are missing", "the first at row")
    ran = cli(*words)
    assert "6 for validation" in ran.out
    assert "missing values" in ran.out
    assert "sees_mask=True" in describe(tmp_path / "m.safetensors")[0]["call"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("vae --data {}/row.npz --epochs 1", "warning: one training row"),
        ("vae --data {}/unseen.npz --epochs 1", "warning: no observed value in column 1"),
        ("vae --data {}/constant.npz --epochs 1", "warning: column 2 is constant"),
        ("fa --data {}/flat.npz --latents 1", "warning: 3 columns (0, 1, 2) are constant"),
        ("fa --data {}/constant.npz --latents 1", "warning: column 2 is constant"),
        ("ppca --data {}/constant.npz --latents 1", "warning: column 2 is constant"),
        ("fa --data {}/twins.npz --latents 1", "warning: Heywood case: 2 columns (0, 1) are"),
        ("fa --data {}/holes.npz --latents 1 --steps 2", "raise --steps or --tolerance"),
    ],
)
def test_what_works_and_warns(cli, made, tmp_path, words, said):
    out = tmp_path / "m.safetensors"
    ran = cli("fit", *words.format(made).split(), "--out", out)
    assert ran.code == 0
    assert said in ran.err
    assert said not in ran.out
    spec = words.format(made).split()[2]
    assert cli("evaluate", out, "--data", spec, "--samples", 2).code == 0


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *((name, "vae --epochs 1") for name in "column wide huge grey bits images".split()),
        *((name, "fa --steps 3") for name in "column huge grey bits images".split()),
    ],
)
def test_data_of_every_kind(cli, done, made, tmp_path, name, recipe):
    out, data = tmp_path / "m.safetensors", made / f"{name}.npz"
    net = ("--net", "MLP(hidden=(8,))") if recipe.startswith("vae") else ()
    done("fit", *recipe.split(), "--data", data, "--latents", 1, *net, "--quiet", "--out", out)
    done("reconstruct", out, "--data", data, "--out", tmp_path / "r.npy")
    assert np.load(tmp_path / "r.npy").shape == np.load(data)["x"].shape
    assert np.isfinite(np.load(tmp_path / "r.npy")).all()
    assert cli("evaluate", out, "--data", data, "--samples", 2).code == 0


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_every_precision_trains_and_is_read_again(done, made, tmp_path, precision):
    out, data = tmp_path / "m.safetensors", made / "holes.npz"
    words = f"vae --data {data} --latents 2 --epochs 2 --quiet --precision {precision}".split()
    done("fit", *words, "--out", out)
    for verb in ("encode", "reconstruct", "impute", "score"):
        done(verb, out, "--data", data, "--out", tmp_path / f"{verb}.npz", "--force")
    x = np.load(tmp_path / "impute.npz")["x"]
    seen = ~np.isnan(np.load(data)["x"])
    assert (x[:, seen] == np.load(data)["x"][seen]).all()


def test_stop_handlers_are_put_back(done, out):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    done("fit", *SMALL.split(), "--quiet", "--out", out)
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


@pytest.mark.parametrize(
    "objective",
    ["", pytest.param("--bound IWAE --estimator DReG --samples 3", marks=pytest.mark.slow)],
)
def test_compile(done, out, made, tmp_path, monkeypatch, objective):
    """Traced as torch.compile does, but run without its C++: the same numbers."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    words = f"vae --data {made}/real.npz --latents 1 --net MLP(hidden=(4,)) --steps 2 {objective}"
    plain = tmp_path / "plain.safetensors"
    done("fit", *words.split(), "--quiet", "--out", plain)
    done("fit", *words.split(), "--compile", "--quiet", "--out", out)
    assert load_saved(out).training["options"]["compile"] == "True"
    wanted = load_file(plain)
    for name, tensor in load_file(out).items():
        torch.testing.assert_close(tensor, wanted[name])


def test_arrays_of_a_model_in_bfloat16_are_written(done, made, tmp_path):
    """numpy has no such type: a traceback of seven calls."""
    model = tmp_path / "m.safetensors"
    fit = f"fit vae --data {made}/real.npz --latents 2 --net MLP(hidden=(4,)) --steps 2 --quiet"
    done(*fit.split(), "--precision", "bf16-true", "--likelihood", "Normal", "--out", model)
    for verb in ("sample", "encode", "reconstruct"):
        rows = () if verb == "sample" else ("--data", f"{made}/real.npz")
        done(verb, model, *rows, "--out", tmp_path / f"{verb}.npz")
        assert all(a.dtype == np.float32 for a in np.load(tmp_path / f"{verb}.npz").values())


def test_an_exact_flow_says_log_p_and_integers_say_bound(done, tmp_path):
    out = tmp_path / "exact.safetensors"
    words = ("--epochs", 1, "--batch-size", 2000)
    told = done("fit", "flow", "--data", "toys:moons", *words, "--out", out)
    assert "log p(x) " in told
    assert "bound" not in told
    assert "log p(x), exact" in done("show", out)
    out = tmp_path / "bound.safetensors"
    flow = ("--flow", "Glow(steps=1, hidden=2)")
    told = done("fit", "flow", "--data", "digits", *flow, *words, "--out", out)
    assert "bound " in told
    assert "ELBO" in done("show", out)


def test_a_prior_in_what_em_reached_is_said(done, tmp_path):
    words = ("fit", "mixture", "--data", "toys:moons", "--components", 2, "--steps", 3)
    told = done(*words, "--family", "Full(prior=5)", "--out", tmp_path / "prior.safetensors")
    assert "log p(x) + log prior / rows " in told
    told = done(*words, "--out", tmp_path / "plain.safetensors")
    assert "log p(x) " in told
    assert "log prior" not in told


def test_doubts_of_a_table_name_its_columns():
    rows = Data.from_frame({"age": [31.5, 28.0, 50.25], "size": [1.5, 2.5, 3.75]})
    flat = replace(rows, x=torch.stack([rows.x[:, 0], torch.ones(3)], 1))
    assert any(line.startswith("column 'size' is constant;") for line in _doubts(flat, False))
    seen = torch.tensor([True, False]).expand(3, 2)
    unseen = list(_doubts(replace(rows, mask=seen), False))
    assert unseen[0] == "no observed value in column 'size'; nothing is learned of it"
