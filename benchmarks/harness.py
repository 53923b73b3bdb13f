"""What every benchmark shares: sides that take turns, ratios of medians, results that say where.

Each side (ours, a peer) is a process of its own that stays alive, so that sides may live in
different environments, share no allocator and have a peak memory of their own. A side prepares,
warms up, says it is ready and then does one repetition whenever it is asked; the sides take turns
in an order that is reversed every round, so that a slow minute of the machine hits both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["Partial", "Timed", "alternate", "parser", "ratio", "save", "serve", "summary"]

HERE = Path(__file__).resolve().parent
Timed = dict[str, Any]


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Options every script has."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--repeats", type=int, default=repeats, help="turns of each side")
    found.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each side")
    found.add_argument(
        "--data-dir", default=os.environ.get("LATENTLY_DATA"), help="default: LATENTLY_DATA"
    )
    found.add_argument("--provisional", action="store_true", help="mark the result as such")
    found.add_argument("--side", help=argparse.SUPPRESS)
    return found


class Partial(dict[str, Any]):
    """Results of a long run by name, kept in a file after each, so that it may be stopped.

    Args:
        name: of the benchmark; the file is `results/NAME.partial`.
        resume: go on with what the file holds.
    """

    def __init__(self, name: str, resume: bool) -> None:
        self.file = HERE / "results" / f"{name}.partial"
        super().__init__(
            json.loads(self.file.read_text()) if resume and self.file.exists() else {}
        )

    def keep(self, name: str, result: Any) -> None:
        """Adds a result."""
        self[name] = result
        part = self.file.with_suffix(".new")
        part.write_text(json.dumps(self))
        part.replace(self.file)

    def close(self) -> None:
        """The whole is saved elsewhere."""
        self.file.unlink(missing_ok=True)


def serve(repetition: Callable[[], Mapping[str, Any]]) -> None:
    """The worker's loop: one timed repetition for every line read, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be read as a result
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.perf_counter()
        facts = repetition()
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
        timed = {
            "seconds": seconds,
            "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "page_faults": after.ru_minflt - before.ru_minflt,
            "peak_mib": after.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
        }
        print(json.dumps({**timed, **facts}), file=answers, flush=True)


def alternate(
    sides: Mapping[str, Sequence[str]], repeats: int, threads: int
) -> dict[str, list[Timed]]:
    """Runs the sides' commands in turns; one list of timed repetitions per side."""
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with ExitStack() as stack:
        workers = {}
        for name, command in sides.items():
            worker = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if os.environ.get("BENCHMARK_VERBOSE") else subprocess.DEVNULL,
                text=True,
                env={**os.environ, **counts},
            )
            workers[name] = stack.enter_context(worker)
            _answer(name, worker)
            print(f"{name}: ready", file=sys.stderr)
        found: dict[str, list[Timed]] = {name: [] for name in sides}
        for turn in range(repeats):
            for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
                worker = workers[name]
                print("go", file=worker.stdin, flush=True)
                found[name].append(_answer(name, worker))
                print(f"{name}: {found[name][-1]['seconds']:.3f} s", file=sys.stderr)
        for worker in workers.values():
            worker.stdin.close()  # type: ignore[union-attr]
    return found


def _answer(name: str, worker: subprocess.Popen[str]) -> Timed:
    line = worker.stdout.readline()  # type: ignore[union-attr]
    if not line:
        raise SystemExit(f"{name} died; run again with BENCHMARK_VERBOSE=1 to see why")
    return json.loads(line)


def summary(timed: Sequence[Timed]) -> dict[str, Any]:
    """Median, extremes and all times of one side, its peak memory, and its other facts."""
    seconds = [t["seconds"] for t in timed]
    own = {"seconds", "cpu_seconds", "page_faults", "peak_mib"}
    return {
        "median_seconds": statistics.median(seconds),
        "fastest_seconds": min(seconds),
        "slowest_seconds": max(seconds),
        "seconds": seconds,
        "cpu_seconds": [t["cpu_seconds"] for t in timed],
        "page_faults": [t["page_faults"] for t in timed],
        "peak_mib": max(t["peak_mib"] for t in timed),
        **{key: value for key, value in timed[-1].items() if key not in own},
    }


def ratio(ours: Sequence[Timed], peer: Sequence[Timed], bar: float | None = None) -> Timed:
    """Ratio of medians, and the range of the ratios of single turns; below 1: we are faster."""
    pairs = [a["seconds"] / b["seconds"] for a, b in zip(ours, peer, strict=True)]
    medians = [statistics.median(t["seconds"] for t in side) for side in (ours, peer)]
    found: Timed = {
        "ratio_of_medians": medians[0] / medians[1],
        "ratio_lowest": min(pairs),
        "ratio_highest": max(pairs),
    }
    if bar is not None:
        found |= {"bar": bar, "met": found["ratio_of_medians"] <= bar}
    return found


def save(name: str, result: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Writes results/NAME.json with date, commit and hardware, and prints it."""
    where = {
        "benchmark": name,
        "provisional": bool(options.provisional),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_source": bool(_git("status", "--porcelain", "--", "src")),
        "command": "python " + " ".join(_shown(sys.argv)),
        "hardware": _hardware(options.threads),
    }
    text = json.dumps({**where, **result}, indent=2)
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(text + "\n")
    print(text)


def _hardware(threads: int) -> dict[str, Any]:
    from importlib.metadata import version

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((s.split(":")[1].strip() for s in lines if "model name" in s), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average_1_min": os.getloadavg()[0],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": version("torch"),
        "scikit-learn": version("scikit-learn"),
    }


def _git(*arguments: str) -> str:
    try:
        return subprocess.check_output(
            ["git", "-C", str(HERE.parent), *arguments], text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _shown(argv: Sequence[str]) -> list[str]:
    """The command without this machine's folders."""
    shown, private = [], False
    for word in [f"benchmarks/{Path(argv[0]).name}", *argv[1:]]:
        shown.append("..." if private else word)
        private = word in ("--data-dir", "--pythae-python", "--runs")
    return shown
