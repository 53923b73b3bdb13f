"""Objectives on the command line: named whole, kept in the record, and left out of evidence."""

import json
import shlex
import signal
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from latently import ELBO, IWAE, RBF, InfoVAE, Linear, Renyi, TotalCorrelation, Variational
from latently.interfaces import memory
from latently.interfaces.request import command_text, read_request
from latently.io import load_saved
from latently.training.progress import Bar

TINY = "vae --data {}/real.npz --latents 2 --net MLP(hidden=(4,)) --epochs 2 --batch-size 20"
CALLS = [
    "InfoVAE(alpha=0.5, weight=100.0, kernel=RBF(bandwidth=2.0))",
    "TotalCorrelation(beta=Linear(start=1.0, stop=6.0))",
]


def asked(*words):
    return read_request(["vae", "--data", "digits", "--out", "m.safetensors", *words])


@pytest.mark.parametrize(
    ("words", "objective"),
    [
        ((), Variational()),
        (("--objective", "InfoVAE"), InfoVAE()),
        (("--objective", CALLS[0]), InfoVAE(0.5, 100.0, RBF(2.0))),
        (("--objective", CALLS[1]), TotalCorrelation(beta=Linear(1.0, 6.0))),
        (("--objective", "Variational(bound=IWAE, samples=5)"), Variational(IWAE(), samples=5)),
        (("--bound", "Renyi(alpha=0.2)", "--samples", "4"), Variational(Renyi(0.2), samples=4)),
        (("--bound", "ELBO(free_bits=0.1)"), Variational(ELBO(free_bits=0.1))),
    ],
)
def test_what_a_call_maximises(words, objective):
    request = asked(*words)
    assert request.objective == objective
    assert "objective" not in request.options
    text = command_text(request)
    assert read_request(shlex.split(text)[2:]).objective == objective
    assert command_text(read_request(shlex.split(text)[2:])) == text
    whole = not isinstance(objective, Variational)
    assert ("--objective" in text) == whole
    assert ("--bound" in text) == (not whole and objective != Variational())


@pytest.mark.parametrize("part", ["--bound=IWAE", "--estimator=DReG", "--samples=5"])
def test_whole_and_parts_are_refused_together(rejected, part):
    words = ["fit", "vae", "--data", "digits", "--out", "m.safetensors", "--objective", "InfoVAE"]
    rejected([*words, part], part.partition("=")[0], "--objective InfoVAE", "one of them")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--objective InfoVEA", "did you mean InfoVAE?"),
        ("--objective Adam", "expected one of the objectives: InfoVAE, MIWAE"),
        ("--objective InfoVAE(wieght=3)", "did you mean weight?"),
        ("--objective InfoVAE(alpha=2)", "alpha=2 must be a number of at most 1"),
        ("--objective InfoVAE(kernel=IWAE)", "kernel=IWAE"),
        ("--objective TotalCorrelation(beta=-1)", "beta=-1"),
        ("--objective InfoVAE --accumulate 2", "accumulate=2"),
        ("--objective InfoVAE --batch-size=1", "at least 2"),
        ("--bound MultiplyIWAE --samples 12", "samples=12"),
        ("--bound MultiplyIWAE", "samples=8"),
        ("--bound ELBO(free_bits=0.1) --prior NormalMixture", "free_bits needs the KL"),
    ],
)
def test_mistakes_are_named(rejected, made, tmp_path, words, expected):
    out, call = tmp_path / "m.safetensors", TINY.format(made)
    if "--batch-size" in words:
        call = call.replace("--batch-size 20", "")
    rejected(["fit", *call.split(), *words.split(), "--quiet", "--out", out], expected)
    assert not out.exists()


def test_a_closed_form_has_no_objective(rejected, made, tmp_path):
    words = f"fit fa --data {made}/real.npz --latents 1 --out {tmp_path}/m.safetensors".split()
    rejected([*words, "--objective", "InfoVAE"], "--objective has no effect", "closed form")


def test_a_config_holds_an_objective(tmp_path, rejected):
    config = tmp_path / "run.toml"
    config.write_text(f'data = "digits"\nobjective = "{CALLS[0]}"\n')
    call = ["vae", "--config", str(config), "--out", "m.safetensors"]
    assert read_request(call).objective == InfoVAE(0.5, 100.0, RBF(2.0))
    assert read_request([*call, "--objective", "TotalCorrelation"]).objective == TotalCorrelation()
    rejected(["fit", *call, "--samples", "3"], "--samples", "--objective InfoVAE")


@pytest.mark.parametrize("call", CALLS)
def test_the_record_the_command_and_the_verbs(cli, done, made, tmp_path, call):
    out, data = tmp_path / "m.safetensors", made / "real.npz"
    done("fit", *TINY.format(made).split(), "--objective", call, "--quiet", "--out", out)
    training = load_saved(out).training
    assert training["objective"] == call
    assert "objective" not in training["options"]
    assert f"objective {call}" in done("show", out)
    words = shlex.split(done("show", out, "--command"))
    assert words[words.index("--objective") + 1] == call
    again = tmp_path / "again.safetensors"
    words[words.index("--out") + 1] = str(again)
    done(*words[1:], "--quiet")
    tensors = load_file(out)
    assert all(torch.equal(tensors[name], t) for name, t in load_file(again).items())
    ran = cli("evaluate", out, "--data", data, "--samples", 5)
    assert ran.code == 0
    assert "lower bound" in ran.out
    assert "InfoVAE" not in ran.out


def test_the_page_names_the_objective(done, made, tmp_path):
    out, page = tmp_path / "m.safetensors", tmp_path / "page.html"
    done("fit", *TINY.format(made).split(), "--objective", CALLS[0], "--quiet", "--out", out)
    done("report", out, "--data", made / "real.npz", "--samples", 5, "--out", page)
    assert CALLS[0] in page.read_text()


def test_a_stopped_run_goes_on_with_the_same_objective_only(
    cli, done, rejected, made, tmp_path, monkeypatch
):
    out, whole = tmp_path / "m.safetensors", tmp_path / "whole.safetensors"
    words = ["fit", *TINY.format(made).split(), "--quiet", "--objective"]
    done(*words, CALLS[1], "--out", whole)
    plain = Bar.update

    def stopping(bar, index, bound):
        plain(bar, index, bound)
        if bar.unit == "step" and index == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "update", stopping)
        assert cli(*words, CALLS[1], "--out", out).code == 130
    other = "TotalCorrelation(beta=2.0)"
    rejected([*words, other, "--out", out, "--resume"], "objective was", "is now", other)
    done(*words, CALLS[1], "--out", out, "--resume")
    tensors = load_file(whole)
    assert all(torch.equal(tensors[name], t) for name, t in load_file(out).items())


@pytest.mark.parametrize(
    ("call", "batch", "fits"),
    [
        ("TotalCorrelation", 50, True),
        ("TotalCorrelation", 60, True),
        ("TotalCorrelation(samples=30)", 60, False),
        ("InfoVAE(samples=4)", 60, True),
        ("InfoVAE(samples=30)", 60, False),
    ],
)
def test_pairs_of_rows_that_memory_does_not_hold(
    cli, made, tmp_path, monkeypatch, call, batch, fits
):
    """60 rows (48 of them for training) of 4 cells and 2 latents on a machine of 500 kB."""
    monkeypatch.setattr(memory, "machine_bytes", lambda: 500_000)
    monkeypatch.setattr("latently.interfaces.making.check_memory", lambda *_, **__: None)
    words = TINY.format(made).replace("--batch-size 20", f"--batch-size {batch}").split()
    out = tmp_path / "m.safetensors"
    ran = cli("fit", *words, "--objective", call, "--quiet", "--out", out)
    assert (ran.code == 0) == fits, ran.err
    if not fits:
        assert "one training step needs about" in ran.err
        assert "--batch-size" in ran.err


def test_help_and_lists(done):
    about = done("fit", "vae", "--help")
    assert "--objective" in about
    assert "in place of --bound --estimator --samples; see latently list objectives." in about
    listed = done("list", "objectives")
    assert [line.split()[0] for line in listed.splitlines()] == [
        "InfoVAE",
        "MIWAE",
        "Reconstruction",
        "SemiAmortised",
        "SemiSupervised",
        "TotalCorrelation",
        "Variational",
        "ReweightedWakeSleep",
        "WakeSleep",
    ]
    assert "latently list kernels" in done("list")
    assert "InverseMultiquadratic" in done("list", "kernels")


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_compile(done, made, tmp_path, monkeypatch, call):
    """Traced as torch.compile does, but run without its C++: the same numbers."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    words = [*TINY.format(made).split(), "--objective", call, "--quiet", "--out"]
    done("fit", *words, tmp_path / "plain.safetensors")
    done("fit", *words, tmp_path / "compiled.safetensors", "--compile")
    wanted = load_file(tmp_path / "plain.safetensors")
    for name, tensor in load_file(tmp_path / "compiled.safetensors").items():
        torch.testing.assert_close(tensor, wanted[name])


def test_curves_show_what_is_maximised(done, made, tmp_path):
    log = tmp_path / "history.csv"
    words = [*TINY.format(made).split(), "--objective", "InfoVAE(weight=1000.0)", "--quiet"]
    done("fit", *words, "--log", log, "--out", tmp_path / "m.safetensors")
    header, *rows = (line.split(",") for line in log.read_text().splitlines())
    last = dict(zip(header, map(float, rows[-1]), strict=True))
    gap = last["reconstruction"] - last["kl"] - last["objective"]
    history = load_saved(tmp_path / "m.safetensors").training["history"]
    assert json.dumps(history[-1]["objective"]) == json.dumps(last["objective"])
    assert abs(gap) > 1  # 999 times the MMD, which no estimate of 20 rows has at 0
