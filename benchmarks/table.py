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


def main() -> None:
    lines = ["| benchmark | what | result | bar |", "|---|---|---|---|"]
    for file in sorted((HERE / "results").glob("*.json")):
        result = json.loads(file.read_text())
        mark = f"`{file.stem}`" + (" (provisional)" if result["provisional"] else "")
        rows = [*timings(result), *likelihoods(result)] or [("see the file", "", _verdict(result))]
        lines += ["| " + " | ".join((mark, *row)) + " |" for row in rows]
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(before + "\n".join((BEGIN, "", *lines, "", END)) + after)


if __name__ == "__main__":
    main()
