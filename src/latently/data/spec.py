"""SPEC: what text or path names, before anything is read; and the sets known by name.

`NAME[:PROTOCOL][/SPLIT]` or `PATH[/SPLIT]`. Text that is a set's name means the set, even where
there is a folder of that name: `./mnist` is the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from latently.data import cifar, factors, files, frey, images, omniglot, toys
from latently.data.source import SPLITS, Source
from latently.errors import UserError, closest

__all__ = ["SOURCES", "Spec", "names", "parse"]

SOURCES: dict[str, Source] = {
    source.name: source
    for module in (images, factors, toys, omniglot, frey, cifar)
    for source in (getattr(module, name) for name in module.__all__)
}


class Spec(NamedTuple):
    """A named set with its protocol, or a path; the split, if one is named."""

    name: str
    protocol: str
    split: str | None
    path: Path | None


def names() -> list[tuple[str, str]]:
    """Every named set, as `NAME[:PROTOCOL]`, with one line about it."""
    return [pair for source in SOURCES.values() for pair in source.specs.items()]


def parse(spec: str | Path, split: str | None = None) -> Spec:
    """What a SPEC names; `split` may name the split instead.

    Raises:
        UserError: Text that names nothing, an unknown split of a path, or two splits.
    """
    if not isinstance(spec, str | Path):
        raise UserError(
            f"data of type {type(spec).__name__}: a SPEC is a name, a file or a folder; "
            "arrays go through Data.from_array"
        )
    text = str(spec)
    name, slash, own = text.partition("/")
    name, _, protocol = name.partition(":")
    if name in SOURCES and isinstance(spec, str):
        if slash and not own:
            raise UserError(f"{text} names no split after the slash; {closest(own, SPLITS)}")
        parsed = Spec(name, protocol, own or split, None)
    else:
        parsed = _path(text, split)
    if split is not None and parsed.split != split:
        raise UserError(f"{text} names the split {parsed.split!r}, not {split!r}; give it once")
    return parsed


def _path(text: str, split: str | None) -> Spec:
    """A path may hold slashes: what it is decides, with its last part and then without."""
    head, _, tail = text.rpartition("/")
    whole, parent = Path(text).expanduser(), Path(head).expanduser()
    if text and files.is_data(whole):
        return _split_of(text, whole, split)
    picture = parent.is_dir() and Path(tail).suffix  # a missing one, no split of its folder
    if head and files.is_data(parent) and not whole.exists() and not picture:
        return _split_of(head, parent, tail or split)
    raise UserError(_unknown(text))


def _split_of(text: str, path: Path, split: str | None) -> Spec:
    if split is not None and split not in SPLITS:
        raise UserError(
            f"{text} has no split {split!r}; {closest(split, SPLITS)}, "
            "or leave it out for all rows"
        )
    return Spec(text, "", split, path)


def _unknown(text: str) -> str:
    path = Path(text).expanduser()
    if text and path.exists():
        return f"cannot read {text!r}; a path is a folder of pictures or a file {files.KINDS}"
    if path.suffix or len(path.parts) > 2:
        return f"no such file: {text!r}; check the path (files are {files.KINDS})"
    name = text.partition("/")[0]
    hint = closest(name, [*SOURCES, *(spec for spec, _ in names())])
    if hint.startswith("known"):  # nothing near: the sets suffice
        hint = closest(name, SOURCES)
    return (
        f"no data set is called {text!r}; {hint}; a file ends in {files.KINDS}, and there is no "
        "folder of that name"
    )
