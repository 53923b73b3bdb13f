"""The docs are run, page by page and in order, and what they show is what is printed.

How: docs/pages.py.
"""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def script(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = script("pages")
RUN = [pytest.param(page, id=page.name) for page in pages.PAGES if pages.runs(page)]


@pytest.mark.long
@pytest.mark.parametrize("page", RUN)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for shown in pages.run(page):
        lost = pages.missing(shown)
        assert lost is None, f"shown, but not printed:\n{lost}\nprinted:\n{shown.printed}"


def test_what_is_shown_must_be_printed():
    printed = "log p(x)   =\n-12.25 \nand so on\nwrote x.csv"
    assert (
        pages.missing(pages.Shown("log p(x) = -3.5\n...\nwrote x.csv\n", printed, False)) is None
    )
    assert pages.missing(pages.Shown("wrote x.csv\n...\nand so on\n", printed, False)) is not None
    assert pages.missing(pages.Shown("log p(x) = -3.5\n", printed, True)) is not None


def test_a_command_must_end_as_the_page_says():
    with pytest.raises(AssertionError, match="exit code 2"):
        pages.run_lines("latently nothing")
    with pytest.raises(AssertionError, match="exit code 0"):
        pages.run_lines("latently --version  # refused")
    with pytest.raises(AssertionError, match="NOT_RUN"):
        pages.run_lines("rm model.safetensors")


def test_pages_are_generated():
    for page, text in script("update").pages_generated().items():
        assert text == page.read_text(encoding="utf-8"), "run python docs/update.py"


def test_quickstart_is_short():
    code, *_ = [content for kind, content in pages.fences(ROOT / "README.md") if kind == "python"]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 20


def test_links_lead_somewhere():
    for page in pages.PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_names_that_the_docs_take_from_the_package_are_listed_by_it():
    """What resolves on first use alone is seen by no editor, type checker or `dir`."""
    import latently

    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    used = {
        name for text in texts for name in re.findall(r"\blt\.([A-Za-z]\w*)", text.read_text())
    }
    assert used - set(latently.__all__) == set()


def test_the_names_for_type_checkers_are_the_listed_ones():
    import latently

    source = Path(latently.__file__).read_text()
    (block,) = re.findall(r"if TYPE_CHECKING:\n(.*?)\n_HOMES", source, re.DOTALL)
    names = re.sub(r"#.*|from \S+ import|[()]", "", block)
    given = {name.strip() for name in re.split(r"[,\n]", names)} - {""}
    assert given | {"__version__"} == set(latently.__all__)
