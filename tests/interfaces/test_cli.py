import json
import os
import subprocess
import sys

import pytest

from latently.errors import Interrupted
from latently.interfaces.cli import main

VERBS = (
    "demo fit evaluate compare sample reconstruct encode score impute report show list doctor "
    "reproduce"
).split()

LAZY = """
import sys, latently
from latently.interfaces.cli import main
try:
    main(["--help"])
except SystemExit as left:
    assert left.code == 0
heavy = {"torch", "numpy", "matplotlib", "sklearn", "scipy", "lightning_fabric"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""


def process(*words, **options):
    options.setdefault("stdout", subprocess.PIPE)
    call = [sys.executable, "-m", "latently.interfaces.cli", *map(str, words)]
    return subprocess.Popen(call, stderr=subprocess.PIPE, text=True, **options)


def test_help_and_import_wait_for_nothing_heavy():
    ran = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "loaded: []"
    assert all(verb in ran.stdout for verb in VERBS)


def test_no_words_is_help(cli):
    assert cli() == cli("--help")
    assert cli().code == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(cli, verb):
    ran = cli(verb, "-h")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == cli(verb, "--help").out
    assert "Usage: latently" in ran.out


def test_doctor_says_what_is_here_and_what_is_not(done, monkeypatch, tmp_path):
    monkeypatch.delenv("LATENTLY_DATA", raising=False)
    found = done("doctor")
    for word in ("latently", "python", "torch", "threads", "accelerator", "C++ compiler"):
        assert f"\n{word} " in f"\n{found}"
    assert "data digits      yes: 360 test rows" in found
    assert "data mnist       no: " in found
    assert str(tmp_path) in done("doctor", "--data-dir", tmp_path)


@pytest.mark.slow
def test_json_is_the_same_in_a_fresh_process(made, done):
    words = ("evaluate", made / "vae.safetensors", "--data", "digits", "--samples", 3, "--json")
    out, err = process(*words).communicate()
    assert err == ""
    assert json.loads(out) == json.loads(done(*words))


def test_a_reader_that_leaves_early_is_no_mistake():
    with process("--help") as running:
        running.stdout.close()
        assert running.wait() == 0
        assert running.stderr.read() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full, process("--help", stdout=full) as running:
        assert running.wait() == 2
        said = running.stderr.read()
    assert said.startswith("latently: ")
    assert "No space left" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Interrupted("stopped at step 3"), 130, "latently: interrupted"),
        (KeyboardInterrupt(), 130, "latently: interrupted"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."), 2, "out of memory"),
        (PermissionError(13, "Permission denied", "x.npz"), 2, "x.npz: Permission denied"),
    ],
)
def test_exit_codes(monkeypatch, cli, error, code, words):
    def fail(*args, **keywords):
        raise error

    monkeypatch.setattr("latently.interfaces.verbs.list_kind", fail)
    ran = cli("list")
    assert (ran.code, ran.err.count("\n")) == (code, 1)
    assert words in ran.err


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*args, **keywords):
        raise RuntimeError("a bug")

    monkeypatch.setattr("latently.interfaces.verbs.list_kind", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["list"])
