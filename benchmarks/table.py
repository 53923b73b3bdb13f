"""Rewrites the tables in README.md from results/*.json and the scripts.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = "table", "scripts"


def timings(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for peer, found in result.get("ours_over", {}).items():
        low, high = found["ratio_lowest"], found["ratio_highest"]
        text = f"{found['ratio_of_medians']:.2f} ({low:.2f} to {high:.2f})"
        yield f"time, ours over {peer}", text, _verdict(found)
    if "memory" in result:
        memory = result["memory"]
        yield "peak memory", f"{memory['peak_mib']:.0f} MiB", _verdict(memory)


def likelihoods(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, case in result.get("cases", {}).items():
        peer = case.get("scikit-learn, tol over all rows", case["scikit-learn"])
        stopped = "" if peer.get("converged", True) else ", scikit-learn not converged"
        difference = case["ours_minus_scikit-learn_nats"]
        text = f"{difference:+.1e} nats{stopped}; time {case['time']['ratio_of_medians']:.2f}"
        yield f"{name}: ours minus scikit-learn", text, _verdict(case)


def _verdict(found: dict[str, Any]) -> str:
    return "" if "met" not in found else "met" if found["met"] else "**not met**"


def linear(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    if "gaps_nats" in result:
        gap = max(result["gaps_nats"])
        yield (
            "PPCA's maximum minus a linear VAE, worst of the seeds",
            f"{gap:.1e} nats",
            _verdict(result),
        )


def claims(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for claim in result.get("claims", []):
        yield claim["what"], claim["text"], _verdict(claim)


def found() -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
    """Every benchmark with results: its name, whether provisional, its rows."""
    for file in sorted((HERE / "results").glob("*.json")):
        result = json.loads(file.read_text())
        rows = (*timings(result), *likelihoods(result), *linear(result), *claims(result))
        yield file.stem, " (provisional)" if result["provisional"] else "", list(rows)


def lines() -> list[str]:
    """The whole table, a line each."""
    made = ["| benchmark | what | result | bar |", "|---|---|---|---|"]
    for name, mark, rows in found():
        made += [cells(f"`{name}`{mark}", *row) for row in rows]
    return made


def scripts() -> list[str]:
    """A line for every script: what it asks, and how many results are recorded."""
    made = ["| script | question | results |", "|---|---|---|"]
    made += [cells(f"`{name}.py`", question(name), str(len(rows))) for name, _, rows in found()]
    return made


def cells(*texts: str) -> str:
    """A line of a table; a bar in a text is none of the table's."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def summary() -> list[str]:
    """A line for every benchmark that has bars: its question, one result, how many are met.

    The result is that of a missed bar where there is one, else of the first.
    """
    made = ["| question | for example | bars met |", "|---|---|---|"]
    for name, mark, rows in found():
        barred = [row for row in rows if row[2]]
        if not barred:
            continue
        missed = [row for row in barred if row[2] != "met"]
        what, text, _ = (missed or barred)[0]
        link = f"[{question(name)}](benchmarks/{name}.py){mark}"
        met = f"{len(barred) - len(missed)} of {len(barred)}"
        made.append(cells(link, f"{what}: {text}", met))
    return made


def question(name: str) -> str:
    """The first line of a script: what it asks."""
    first = (HERE / f"{name}.py").read_text().partition("\n")[0]
    return first.removeprefix('"""').removesuffix('"""').rstrip(".")


def main() -> None:
    readme = HERE / "README.md"
    text = readme.read_text()
    for part, made in zip(PARTS, (lines(), scripts()), strict=True):
        begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
        before, _, rest = text.partition(begin)
        text = before + "\n".join((begin, "", *made, "", end)) + rest.partition(end)[2]
    readme.write_text(text)


if __name__ == "__main__":
    main()
