"""Cards: published numbers with the call that makes them, and `latently reproduce`.

A card is one JSON file in this folder: what is claimed, the fit and evaluation calls, the budget,
what was expected and from where, and what we got, when and on what. The README's table is
generated from the cards, so a number cannot be published without its call.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from latently._version import __version__
from latently.errors import Interrupted, UserError, closest

__all__ = ["Card", "card", "cards", "hardware", "markdown_table", "reproduce_card"]


@dataclass(frozen=True)
class Card:
    """One published number.

    Attributes:
        name: what `latently reproduce` takes.
        claim: what the number is of, in a line.
        fit: words after `latently fit`, without --out.
        evaluate: words after `latently evaluate MODEL`.
        quick: words that replace budget options of fit for `--quick`, and of evaluate.
        expected: the number to meet and its source.
        bar: the least mean log p(x), in nats, that we promise.
        ours: the recorded result, {} if it was not yet run.
    """

    name: str
    claim: str
    fit: Sequence[str]
    evaluate: Sequence[str]
    quick: dict[str, Sequence[str]]
    expected: str
    bar: float | None = None
    ours: dict[str, Any] = field(default_factory=dict)

    @property
    def call(self) -> str:
        """The command that reproduces the number."""
        return f"latently reproduce {self.name}"

    def budget(self, quick: bool) -> tuple[list[str], list[str]]:
        """Words of the fit and of the evaluation, at the full or the quick budget."""
        if not quick:
            return list(self.fit), list(self.evaluate)
        return (
            _replaced(self.fit, self.quick.get("fit", ())),
            _replaced(self.evaluate, self.quick.get("evaluate", ())),
        )


def cards() -> dict[str, Card]:
    """All cards by name."""
    folder = resources.files(__package__)
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    found = (Card(**json.loads(file.read_text(encoding="utf-8"))) for file in files)
    return {made.name: made for made in found}


def card(name: str) -> Card:
    """The card of a name.

    Raises:
        UserError: there is none.
    """
    known = cards()
    if name not in known:
        raise UserError(f"no card {name!r}; {closest(name, known)}")
    return known[name]


def reproduce_card(
    name: str, out: str = "runs", *, quick: bool = False, data_dir: str | None = None
) -> dict[str, Any]:
    """Fits and evaluates a card again, resuming where an earlier try stopped.

    Writes the model and `NAME.json` with the result into `out`, and prints both numbers.
    """
    from latently.interfaces import verbs
    from latently.interfaces.fitting import fit_command
    from latently.interfaces.opening import Rows
    from latently.interfaces.output import check_folder
    from latently.training.files import atomic_write

    chosen = card(name)
    folder = check_folder(out)
    model = folder / f"{name}{'.quick' if quick else ''}.safetensors"
    where = ["--data-dir", data_dir] if data_dir else []
    fit_words, evaluate_words = chosen.budget(quick)
    print(f"{name}: {chosen.claim}\nexpected: {chosen.expected}", flush=True)
    began = time.monotonic()
    if not model.exists():
        try:
            fit_command([*fit_words, "--out", str(model), "--resume", *where])
        except Interrupted as stop:
            done = str(stop).partition(";")[0]
            raise Interrupted(f"{done}; the same call continues it") from None
    else:
        print(f"{model} is there; only evaluating it")
    options = _evaluate_options(evaluate_words)
    result = json.loads(
        verbs.evaluate_model(
            str(model),
            Rows(options["spec"], data_dir, options["seed"]),
            samples=options["samples"],
            method=None,
            as_json=True,
            progress=True,
        )
    )
    record = {
        **{key: result[key] for key in ("kind", "method", "nats", "nats_stderr", "mc_stderr")},
        **{key: result[key] for key in ("bits_per_dim", "n", "protocol", "seed", "warnings")},
        "fit_seconds": verbs.training_seconds(str(model)),
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "version": __version__,
        "quick": quick,
    }
    target = folder / f"{name}{'.quick' if quick else ''}.json"
    atomic_write(target, lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))
    print(_verdict(chosen, record, quick), f"wrote {target}", sep="\n")
    return record


def _replaced(words: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Words with the values of some options changed."""
    kept = list(words)
    for option, value in zip(changes[::2], changes[1::2], strict=True):
        if option in kept:
            kept[kept.index(option) + 1] = value
        else:
            kept += [option, value]
    return kept


def _evaluate_options(words: Sequence[str]) -> dict[str, Any]:
    named = dict(zip(words[::2], words[1::2], strict=True))
    return {
        "spec": named["--data"],
        "samples": int(named["--samples"]) if "--samples" in named else None,
        "seed": int(named.get("--seed", 0)),
    }


def _verdict(chosen: Card, record: dict[str, Any], quick: bool) -> str:
    sign = "=" if record["kind"] == "exact" else ">="
    text = f"log p(x) {sign} {record['nats']:.2f} +- {record['nats_stderr']:.2f} nats"
    if quick:
        return f"{text} with the quick budget; the full one takes the numbers of the card"
    if chosen.ours:
        text += f"; recorded {chosen.ours['nats']:.2f} ({chosen.ours['date']})"
    if chosen.bar is not None:
        met = record["nats"] >= chosen.bar
        text += f"; bar {chosen.bar:.1f} {'met' if met else 'MISSED'}"
    return text


def hardware() -> dict[str, Any]:
    """The processor, its cores and the threads in use."""
    import torch

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def markdown_table() -> str:
    """The README's table of numbers."""
    lines = [
        "| number | log p(x), nats | bits/dim | expected | fit time | command |",
        "|---|---|---|---|---|---|",
    ]
    for made in cards().values():
        ours = made.ours
        if ours:
            sign = "=" if ours["kind"] == "exact" else "≥"
            value = f"{sign} {ours['nats']:.2f} ± {ours['nats_stderr']:.2f} ({ours['method']})"
            bits = f"{ours['bits_per_dim']:.3f}" if ours["bits_per_dim"] else ""
            spent = _duration(ours["fit_seconds"]) + ("*" if "note" in ours else "")
        else:
            value, bits, spent = "not yet run", "", ""
        lines.append(
            f"| {made.claim} | {value} | {bits} | {made.expected} | {spent} | `{made.call}` |"
        )
    notes = {made.ours["note"] for made in cards().values() if "note" in made.ours}
    return "\n".join([*lines, *("\n\\* " + note for note in sorted(notes))])


def _duration(seconds: float) -> str:
    if seconds < 0.05:
        return "< 0.1 s"
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
