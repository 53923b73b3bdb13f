"""Fills what is generated in the docs: README.md's tables, and what commands print and draw.

python docs/update.py             what follows from cards and benchmarks only
python docs/update.py --demo      runs the demo, too: its output and docs/demo.png
python docs/update.py --pages     runs every page, or those named (tables.md): the numbers it shows
python docs/update.py --pictures  runs docs/missing-data.md: docs/imputation.png; docs/pictures.py
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CHOOSING = ROOT / "docs" / "choosing.md"
STRANGE = ROOT / "docs" / "out_of_distribution.md"
RESULTS = ROOT / "benchmarks" / "results"
OUTPUT = ROOT / "docs" / "demo.txt"
PICTURE = ROOT / "docs" / "demo.png"
IMPUTATION = ROOT / "docs" / "imputation.png"  # a command of docs/missing-data.md draws it


def filled(text: str, part: str, content: str) -> str:
    """The text with one generated part replaced."""
    pattern = re.compile(rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"no page has the part {part!r}")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def benchmark_table() -> str:
    """A line for every benchmark; benchmarks/README.md has all results."""
    return "\n".join(script(ROOT / "benchmarks" / "table.py").summary())


def script(path: Path) -> ModuleType:
    """A file of Python that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def likelihood_table() -> str:
    """What every likelihood reached on every set, best first."""
    lines = ["| data | held-out log p, nats a row; in brackets below the best |", "|---|---|"]
    for name, found in result("likelihoods")["data"].items():
        ranked = sorted(found, key=lambda key: -found[key]["nats"])
        parts = [f"`{ranked[0]}` {found[ranked[0]]['nats']:.2f}"]
        for key in ranked[1:]:
            less, error = found[key]["below_best"]
            parts.append(f"`{key}` ({less:.2f} +- {error:.2f})")
        lines.append(f"| {name} | {', '.join(parts)} |")
    return "\n".join(lines)


def estimator_table() -> str:
    """Variance and bias of the encoder's gradient, by latents, bound and draws."""
    lines = [
        "| latents | bound | K | estimator | variance | bias | rows decoded |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result("gradient_variance")["estimators"]:
        bias = row.get("relative_bias", 0.0)
        shown = f"{bias:.2f}" if bias else ""
        head = f"| {row['latents']} | {row['bound']} | {row['samples']} | `{row['estimator']}` "
        lines.append(head + f"| {row['relative_variance']:.3g} | {shown} | {row['decoded']} |")
    return "\n".join(lines)


def strangeness_table() -> str:
    """AUROC of every score, one column a model; in bold what is worse than chance."""
    runs = result("ood")["runs"]
    heads = [f"{run['likelihood']}, {run['model_of']}" for run in runs]
    lines = [f"| score | {' | '.join(heads)} |", "|---|" + "---|" * len(runs)]
    for name in runs[0]["auroc"]:
        found = [run["auroc"][name] for run in runs]
        cells = [f"{number['value']:.3f} +- {number['stderr']:.3f}" for number in found]
        marked = [
            f"**{cell}**" if number["value"] < 0.5 else cell
            for cell, number in zip(cells, found, strict=True)
        ]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(marked)} |")
    return "\n".join(lines)


def surprise_table() -> str:
    """Mean log p(x) of both sets under every model."""
    lines = ["| model | log p(x) of its own set | of the other |", "|---|---|---|"]
    for run in result("ood")["runs"]:
        own, other = (run["nats"][run[key]] for key in ("model_of", "against"))
        cells = [f">= {n['nats']:.0f} +- {n['nats_stderr']:.0f}" for n in (own, other)]
        lines.append(f"| {run['likelihood']}, {run['model_of']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def result(name: str) -> dict[str, Any]:
    """The latest result of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def pages_generated() -> dict[Path, str]:
    """Every page with generated parts, as it should read."""
    text = CHOOSING.read_text(encoding="utf-8")
    text = filled(text, "likelihoods", likelihood_table())
    strange = filled(STRANGE.read_text(encoding="utf-8"), "scores", strangeness_table())
    return {
        README: generated(),
        CHOOSING: filled(text, "estimators", estimator_table()),
        STRANGE: filled(strange, "surprise", surprise_table()),
    }


def generated() -> str:
    """README.md as it should read."""
    from latently.interfaces.cards import markdown_table

    text = README.read_text(encoding="utf-8")
    text = filled(text, "cards", markdown_table())
    text = filled(text, "benchmarks", benchmark_table())
    shown = OUTPUT.read_text(encoding="utf-8").rstrip()
    return filled(text, "demo", f"```\n{shown}\n```")


def run_demo() -> None:
    """Runs the demo as a user does; keeps what it printed and a picture of its best model."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("latently")), "demo"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        OUTPUT.write_text(re.sub(r"[ \t]+$", "", done.stdout, flags=re.MULTILINE), "utf-8")
        draw_picture(Path(folder) / "demo")


def draw_picture(folder: Path) -> None:
    """Originals, reconstructions and samples of the demo's best model, in one picture."""
    from PIL import Image

    parts = [Image.open(folder / name) for name in ("reconstructions.png", "samples.png")]
    height = max(part.height for part in parts)
    gap = 24
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    picture = Image.new("RGB", (width, height), "white")
    left = 0
    for part in parts:
        picture.paste(part, (left, (height - part.height) // 2))
        left += part.width + gap
    picture.save(PICTURE, optimize=True)


def run_pages(names: Sequence[str]) -> None:
    """Runs pages, all without names; refreshes the numbers of what they show."""
    pages = script(ROOT / "docs" / "pages.py")
    os.environ["COLUMNS"] = "80"
    for page in filter(pages.runs, pages.PAGES):
        if names and page.name not in names:
            continue
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for shown in pages.run(page):
                text = text.replace(
                    f"```text\n{shown.text}", f"```text\n{pages.refreshed(shown)}", 1
                )
                lost = pages.missing(shown)
                if lost is not None:
                    print(f"{page.name} shows what is not printed:\n{lost}\nbut\n{shown.printed}")
        page.write_text(text, encoding="utf-8")


def draw_imputation() -> None:
    """Runs the page of missing data; keeps the picture that it makes."""
    pages = script(ROOT / "docs" / "pages.py")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        list(pages.run(ROOT / "docs" / "missing-data.md"))
        shutil.copy(IMPUTATION.name, IMPUTATION)


def main() -> None:
    """Writes what is asked for, and what follows from cards and benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="run the demo, too")
    parser.add_argument("--pages", nargs="*", help="run every page, or those of these names, too")
    parser.add_argument("--pictures", action="store_true", help="draw the pages' pictures, too")
    asked = parser.parse_args()
    if asked.demo:
        run_demo()
    if asked.pages is not None:
        run_pages(asked.pages)
    if asked.pictures:
        draw_imputation()
        script(ROOT / "docs" / "pictures.py").main()
    for page, text in pages_generated().items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
