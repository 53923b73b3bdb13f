"""Fills the generated parts of README.md: cards, benchmarks and what the demo prints.

python docs/update.py           tables only
python docs/update.py --demo    runs the demo, too: its output and docs/demo.png
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
OUTPUT = ROOT / "docs" / "demo.txt"
PICTURE = ROOT / "docs" / "demo.png"


def filled(text: str, part: str, content: str) -> str:
    """The text with one generated part replaced."""
    pattern = re.compile(rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no part {part!r}")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def benchmark_table() -> str:
    """The table of benchmarks/README.md."""
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    return "\n".join(table.lines())


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


def main() -> None:
    """Writes README.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="run the demo, too")
    if parser.parse_args().demo:
        run_demo()
    README.write_text(generated(), encoding="utf-8")


if __name__ == "__main__":
    main()
