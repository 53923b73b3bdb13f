"""What the tests by random damage share: a judge of calls, a clock, and damage by seed.

A case is a test id: run it alone by `pytest "FILE::TEST[ID]"`. Nothing depends on the order of
cases, and a case is the same in every run.
"""

import contextlib
import faulthandler
import functools
import random
import shutil
import signal
import sys
import time
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

SECONDS = 30  # of a call on a busy machine, three in a processor; most take some milliseconds
MILLION = 0.05  # seconds in which the processor that is meant adds up a million squares
FIT = "fit vae --latents 2 --net MLP(hidden=(4,)) --epochs 1 --quiet"
VERBS = {
    "evaluate": "evaluate {m} --samples 2",
    "compare": "compare {m} --samples 2",
    "encode": "encode {m} --out {out}/z.npz",
    "reconstruct": "reconstruct {m} --out {out}/r.npy",
    "score": "score {m} --samples 2 --out {out}/s.csv",
    "impute": "impute {m} --samples 5 --draws 2 --out {out}/i.npz",
    "report": "report {m} --samples 2 --out {out}/r.html",
    "fit": FIT + " --out {out}/m.safetensors",
}

# What a file must have refused, which a change of its generators must not make small unseen.
LEAST = {
    "test_fuzz_algebra.py": 4,
    "test_fuzz_arrays.py": 250,
    "test_fuzz_autoencoders.py": 95,
    "test_fuzz_calls.py": 400,
    "test_fuzz_flags.py": 1400,
    "test_fuzz_models.py": 400,
    "test_fuzz_options.py": 430,
    "test_fuzz_pictures.py": 150,
    "test_fuzz_specs.py": 350,
}


class Hung(BaseException):
    """The clock rang; no `except Exception` swallows it."""


@functools.cache
def slowness():
    """How many times as long this processor takes for a piece of work as the one that is meant."""
    took = []
    for _ in range(3):
        began = time.process_time()
        sum(i * i for i in range(1_000_000))
        took.append(time.process_time() - began)
    return max(1.0, max(took) / MILLION)


@contextlib.contextmanager
def in_time():
    """Ends a block that waits or works too long; the process, if it is deaf to signals."""
    work = SECONDS / 10 * slowness()

    def ring(*_):
        raise Hung(f"no end after {SECONDS} s, or {work:.1f} of work")

    before = [(number, signal.signal(number, ring)) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    signal.setitimer(signal.ITIMER_PROF, work)
    faulthandler.dump_traceback_later(5 * SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before:
            signal.signal(number, handler)


@dataclass(frozen=True)
class Judge:
    """Calls `latently` and holds what it leaves against the contract of refusals."""

    cli: object
    out: object
    capfd: object
    tally: Counter

    def __call__(self, *words):
        """A call that must be refused, or be right after all and succeed without a word."""
        ran, others = self._run(words)
        if ran.code == 0:
            self.tally["right"] += 1
            shutil.rmtree(self.out)
            self.out.mkdir()
            return ran
        self._check(ran, others, words)
        self.tally["refused"] += 1
        return ran

    def refused(self, *words):
        """A call that must be refused."""
        ran = self(*words)
        assert ran.code == 2, f"taken as right: {words}"
        return ran

    def _run(self, words):
        self.capfd.readouterr()
        with in_time(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            ran = self.cli(*words)
        shown = [w for w in caught if not issubclass(w.category, DeprecationWarning)]
        return ran, [*map(str, shown), *self.capfd.readouterr()]

    def _check(self, ran, others, words):
        assert ran.code == 2, (words, ran)
        # a fit speaks of odd rows before it begins, and may fail by them later
        lines = [line for line in ran.err.split("\n") if not line.startswith("warning: column")]
        assert len(lines) == 2, (words, ran.err)
        assert lines[0].startswith("latently: "), (words, ran.err)
        assert lines[0].isprintable(), (words, ran.err)
        assert lines[1] == "", (words, ran.err)
        assert not any(others), (words, others)  # by libraries, past the command line
        assert "wrote" not in ran.out, (words, ran.out)
        assert list(self.out.iterdir()) == [], words


@pytest.fixture(scope="module")
def tally(request):
    """How many calls of a file were refused and how many were right; of a whole file, enough."""
    tally = Counter()
    yield tally
    if whole(request) and not request.session.testsfailed:
        assert tally["refused"] >= LEAST[request.path.name], tally


def whole(request):
    """Whether all tests of a file were chosen, with all their cases."""
    config, module = request.config, request.module
    chosen = {item.originalname for item in request.session.items if item.path == request.path}
    tests = {name for name in vars(module) if name.startswith("test_")}
    return tests <= chosen and not config.option.keyword and "::" not in "".join(config.args)


@pytest.fixture
def out(tmp_path):
    """The folder that calls write to."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("LATENTLY_DATA", str(tmp_path / "no data"))
    monkeypatch.setenv("LATENTLY_MEMORY_GIB", "0.03")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def judge(cli, out, capfd, tally):
    """Judges calls."""
    return Judge(cli, out, capfd, tally)


@pytest.fixture(scope="session")
def small(tmp_path_factory, done):
    """A folder with rows `x.npz`, a table with names `y.npz`, and models of them."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4))
    holes = np.where(rng.random(x.shape) < 0.2, np.nan, x)
    np.savez(folder / "x.npz", x=x, y=np.arange(12) % 3, age=x[:, 0])
    np.savez(folder / "holes.npz", x=holes)
    np.save(folder / "x.npy", x)
    for name, extra in {"m": "", "label": "--context label", "age": "--context age"}.items():
        target = folder / f"{name}.safetensors"
        done(*FIT.split(), *extra.split(), "--data", folder / "x.npz", "--out", target)
    fa = folder / "fa.safetensors"
    done("fit", "fa", "--latents", 1, "--data", folder / "holes.npz", "--quiet", "--out", fa)
    return folder


@pytest.fixture
def words(small, out):
    """The words of a call, with its places filled in: {m}, {x}, {small}, {out}."""

    def fill(text):
        places = {"m": small / "m.safetensors", "x": small / "x.npz", "small": small, "out": out}
        return [word.format(**places) for word in text.split()]

    return fill


@pytest.fixture
def ask(judge, words):
    """Asks a verb about `--data=SPEC`."""
    return lambda verb, spec: judge(*words(VERBS[verb]), f"--data={spec}")


def chance(*key):
    """A generator that depends on the key alone."""
    return random.Random(zlib.crc32(repr(key).encode()))


JUNK = "()[]{},=.:*'\"\\ -_/~@#$%0123456789eExyé\t\n"


def edit(text, *key):
    """`text` with one to three letters left out, doubled, exchanged or put in; never the same."""
    rng, made = chance(text, *key), text
    while made == text:
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(made) + 1)
            head, letter, tail = made[:at], made[at : at + 1], made[at + 1 :]
            turned = tail[:1] + letter + tail[1:]
            made = head + rng.choice([tail, letter * 2 + tail, turned, rng.choice(JUNK) + tail])
    return made


def damage(content, *key):
    """`content` cut off, with bits or bytes turned, or with a piece left out, doubled or lost."""
    rng = chance(len(content), *key)
    kind = rng.choice(["cut", "bits", "bytes", "gap", "double", "zeros"])
    # most of a file's meaning stands near its beginning
    reach = rng.choice([8, 64, 512, len(content)])
    at = rng.randrange(max(1, min(reach, len(content))))
    size = rng.randint(1, 16)
    if kind == "cut":
        return content[:at]
    held = bytearray(content)
    for place in range(at, min(at + size, len(held))):
        turned = {"bits": held[place] ^ 1 << rng.randrange(8), "bytes": rng.randrange(256)}
        held[place] = turned.get(kind, 0 if kind == "zeros" else held[place])
        if kind == "bits":
            break
    if kind == "gap":
        del held[at : at + size]
    if kind == "double":
        held[at:at] = held[at : at + size]
    return bytes(held)


@pytest.fixture(scope="session")
def some():
    """A few of many values; which, depends on the key alone."""
    return lambda count, values, *key: chance(*key).sample(list(values), count)


@pytest.fixture(scope="session")
def edited():
    """See `edit`."""
    return edit


@pytest.fixture(scope="session")
def damaged():
    """See `damage`."""
    return damage
