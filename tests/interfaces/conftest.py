"""The command line in this process, and small models fitted by it once."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import pytest

from latently.interfaces.cli import main


@dataclass(frozen=True)
class Ran:
    """What a call left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def run(*words):
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        main([str(word) for word in words])
    return Ran(left.value.code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def cli():
    """Calls `latently` in this process."""
    return run


@pytest.fixture(scope="session")
def done():
    """Calls `latently`, which must succeed, and gives what it printed."""

    def call(*words):
        ran = run(*words)
        assert ran.code == 0, ran.err
        return ran.out

    return call


@pytest.fixture(scope="session")
def rejected():
    """Calls `latently`, which must refuse in one line that holds every one of `expected`."""

    def call(words, *expected):
        ran = run(*words)
        assert ran.code == 2, ran
        assert "wrote" not in ran.out
        assert ran.err.startswith("latently: "), ran.err
        assert ran.err.count("\n") == 1, ran.err
        assert ran.err.endswith("\n")
        for word in expected:
            assert word in ran.err, f"{word!r} not in {ran.err!r}"

    return call


def write_data(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)) @ np.diag([1, 2, 3, 4]) + 1
    holes = np.where(rng.random(x.shape) < 0.2, np.nan, x)
    constant = x.copy()
    constant[:, 2] = 7
    unseen = x.copy()
    unseen[:, 1] = np.nan
    arrays = {
        "real": x,
        "holes": holes,
        "constant": constant,
        "twins": x[:, [0, 0, 1]],
        "flat": np.full((20, 3), 0.7),
        "unseen": unseen,
        "row": x[:1],
        "column": x[:, :1],
        "wide": rng.random((20, 10_000), dtype=np.float32),
        "huge": rng.integers(0, 2**60, (30, 3)),
        "vast": x * 1e300,
        "grey": rng.random((30, 5)),
        "bits": rng.random((30, 5)) < 0.5,
        "images": rng.integers(0, 256, (30, 6, 6), dtype=np.uint8),
        "inf": np.array([[1.5, 2.0], [3.0, np.inf]]),
        "nothing": np.full((5, 2), np.nan),
        "empty": np.zeros((0, 3)),
        "words": np.array([["a", "b"]]),
        "objects": np.array([[None, {}]], dtype=object),
    }
    for name, array in arrays.items():
        np.savez(folder / f"{name}.npz", x=array)
    np.save(folder / "vector.npy", np.arange(5.0))


FITS = {
    "fa": "fa --data digits --latents 2 --steps 4",
    "vae": "vae --data digits --latents 2 --net MLP(hidden=(8,)) --epochs 1",
    "real": "vae --data {}/real.npz --latents 2 --net MLP(hidden=(8,)) --epochs 2",
    "holes": "vae --data {}/holes.npz --latents 2 --net MLP(hidden=(8,)) --epochs 2",
    "lines": "fa --data {}/real.npz --latents 1",
    "gaps": "fa --data {}/holes.npz --latents 1",
}


@pytest.fixture(scope="session")
def made(tmp_path_factory, done):
    """A folder with data (`NAME.npz`) and fitted models (`NAME.safetensors`)."""
    folder = tmp_path_factory.mktemp("made")
    write_data(folder)
    for name, words in FITS.items():
        words = words.format(folder).split()
        done("fit", *words, "--quiet", "--out", folder / f"{name}.safetensors")
    return folder
