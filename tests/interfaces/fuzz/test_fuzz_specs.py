"""What `--data` and model files may be called, and what may lie there."""

import os
import socket
import subprocess
import sys

import pytest

from latently.data import names
from latently.data.source import SPLITS

NAMED = [*(name for name, _ in names()), *(f"digits/{split}" for split in SPLITS)]
ODD = {
    "nothing": "",
    "blank": " ",
    "here": ".",
    "up": "..",
    "root": "/",
    "slashes": "//",
    "home": "~",
    "nobody": "~nobody-of-this-name/x.npz",
    "long": "a" * 5000,
    "long-path": "a/" * 3000 + "x.npz",
    "long-file": "a" * 300 + ".npz",
    "accents": "é",
    "signs": "数据/测试",
    "right-to-left": "\u202ecod.zpn",
    "half": "\udcff",
    "half-file": "\udcff.npz",
    "escape": "\x1b[31m.npz",
    "line": "a\nb.npz",
    "return": "a\rb",
    "separator": "a\u2028b.npz",
    "bell": "\a",
    "out": "../../../../etc/passwd",
    "passwd": "/etc/passwd/x.npz",
    "null": "/dev/null",
    "zero": "/dev/zero",
    "full": "/dev/full",
    "terminal": "/dev/tty",
    "null.npz": "/dev/null/x.npz",
    "process": "/proc/self/mem",
    "url": "https://example.org/x.npz",
    "file-url": "file:///x.npz",
    "star": "*.npz",
    "brace": "{x}.npz",
    "percent": "%s%n",
    "dollar": "$HOME",
    "minus": "-",
    "option": "--data",
    "number": "3",
    "colon": ":",
    "colons": "digits:::",
    "protocol": "digits:nope",
    "no-split": "digits/",
    "two-splits": "digits/test/test",
    "spaces": "digits / test",
    "case": "DIGITS/TEST",
    "suffix": "x.parquet",
    "no-name": ".npz",
    "call": "MLP()",
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMED)
def test_misspelt(ask, edited, name, seed):
    ask(["evaluate", "encode", "score", "compare", "reconstruct"][seed], edited(name, seed))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["evaluate", "fit"])
@pytest.mark.parametrize("name", ODD)
def test_odd(ask, name, verb):
    assert ask(verb, ODD[name]).code == 2


@pytest.mark.parametrize("call", ["show", "encode --data={x} --out={out}/z.csv"])
@pytest.mark.parametrize("name", ODD)
def test_odd_models(judge, words, name, call):
    judge.refused(*words(call), "--", ODD[name])


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    here = socket.socket(socket.AF_UNIX)
    os.chdir(path.parent)  # the name of a socket is short
    here.bind(path.name)
    here.close()


def make_loop(path):
    path.symlink_to(path.name)


def make_broken(path):
    path.symlink_to("nowhere")


def make_folder(path):
    path.mkdir()


def make_link_to_fifo(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def make_device(path):
    path.symlink_to("/dev/zero")


def make_empty(path):
    path.write_bytes(b"")


def make_text(path):
    path.write_text("x,y\n1,2\n")


def make_locked(path):
    path.write_bytes(b"PK\3\4")
    path.chmod(0)


PLACES = {
    made.__name__.removeprefix("make_"): made
    for made in (
        *(make_fifo, make_socket, make_loop, make_broken, make_folder, make_link_to_fifo),
        *(make_device, make_empty, make_text, make_locked),
    )
}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".npz", ".npy", ".idx", ".idx3-ubyte.gz", ".png"])
@pytest.mark.parametrize("place", PLACES)
def test_places_of_data(ask, tmp_path, place, suffix):
    PLACES[place](tmp_path / f"it{suffix}")
    assert ask("evaluate", tmp_path / f"it{suffix}").code == 2
    assert ask("fit", tmp_path / f"it{suffix}/train").code == 2


@pytest.mark.parametrize(
    "call",
    [
        "show {}",
        "encode {} --data {{x}} --out {{out}}/z.npz",
        "compare {{m}} {} --data {{x}}",
        "fit vae --data {{x}} --quiet --init {} --out {{out}}/m.safetensors",
        "fit vae --data {{x}} --quiet --config {} --out {{out}}/m.safetensors",
        "fit vae --data {{x}} --quiet --validation {} --out {{out}}/m.safetensors",
    ],
)
@pytest.mark.parametrize("place", PLACES)
def test_places_of_files(judge, words, tmp_path, place, call):
    path = tmp_path / "it"
    PLACES[place](path)
    if place == "empty" and "config" in call:
        pytest.skip("no options are options")
    judge.refused(*words(call.format(path)))


@pytest.mark.parametrize("verb", ["evaluate", "encode", "score", "report", "fit"])
def test_half_characters_in_names_are_no_reason_to_refuse(ask, small, tmp_path, verb):
    path = tmp_path / "\udcff.npz"
    path.write_bytes((small / "x.npz").read_bytes())
    assert ask(verb, path).code == 0


@pytest.mark.slow
def test_half_characters_reach_a_terminal(small, tmp_path):
    out = tmp_path / "\udcff.npz"
    call = [sys.executable, "-m", "latently.interfaces.cli", "sample"]
    ran = subprocess.run([*call, small / "m.safetensors", "--out", out], capture_output=True)
    assert ran.returncode == 0, ran.stderr
    assert b"udcff.npz" in ran.stdout
    assert out.exists()
