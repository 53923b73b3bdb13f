"""Rewrites the table of the latest results in README.md from results/*.json.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


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


def lines() -> list[str]:
    """The table, a line each."""
    made = ["| benchmark | what | result | bar |", "|---|---|---|---|"]
    for file in sorted((HERE / "results").glob("*.json")):
        result = json.loads(file.read_text())
        mark = f"`{file.stem}`" + (" (provisional)" if result["provisional"] else "")
        for row in (*timings(result), *likelihoods(result), *linear(result), *claims(result)):
            made.append("| " + " | ".join((mark, *row)) + " |")
    return made


def main() -> None:
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(before + "\n".join((BEGIN, "", *lines(), "", END)) + after)


if __name__ == "__main__":
    main()
