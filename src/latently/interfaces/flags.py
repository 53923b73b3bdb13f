"""Command-line flags read from signatures, so that an option is written once, where it is used."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from latently import expr
from latently.errors import UserError, closest
from latently.registry import KINDS, components

__all__ = ["Flag", "check_seed", "flags_of", "parse", "usage"]

# What an annotation admits, by a word in it: the kind of component, as the registry calls it.
_KIND_OF = {
    "Family": "families",
    "Component": "components",
    "Prior": "priors",
    "Flow": "flows",
    "Noise": "noises",
    "Transform": "transforms",
    "nn.Module": "nets",
    "Activation": "activations",
    "Objective": "objectives",
    "Bound": "bounds",
    "Estimator": "estimators",
    "Schedule": "schedules",
    "Optimizer": "optimizers",
    "Method": "methods",
    "Mask": "masks",
    "Mechanism": "mechanisms",
    "Missingness": "missingness",
    "Corruption": "corruptions",
    "Penalty": "penalties",
}


@dataclass(frozen=True)
class Flag:
    """One option: its Python name, annotation as written, default, help and group."""

    name: str
    annotation: str
    default: Any
    help: str
    group: str

    @property
    def text(self) -> str:
        """How it is written: `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether it stands without a value."""
        return self.annotation == "bool"

    @property
    def is_text(self) -> bool:
        """Whether its value is taken as it stands."""
        return "str" in self.annotation

    @property
    def kinds(self) -> list[str]:
        """Kinds of components it takes."""
        return [kind for word, kind in _KIND_OF.items() if word in self.annotation]


def flags_of(function: Callable[..., Any], group: str, skip: Iterable[str] = ()) -> list[Flag]:
    """The flags of a function's parameters, with help from its docstring."""
    described = _arguments(inspect.getdoc(function) or "")
    flags = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in skip or name in ("self", "cls"):
            continue
        default = None if parameter.default is parameter.empty else parameter.default
        flags.append(
            Flag(name, str(parameter.annotation), default, described.get(name, ""), group)
        )
    return flags


def parse(tokens: Sequence[str], flags: Sequence[Flag]) -> dict[str, Any]:
    """Values by Python name from command-line tokens.

    Raises:
        UserError: an unknown flag (closest ones are named), a missing value, a value of the
            wrong kind, or a flag given twice.
    """
    by_text = {flag.text: flag for flag in flags}
    values: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        text, equals, value = rest.pop(0).partition("=")
        negated = text.startswith("--no-") and "--" + text[5:] in by_text
        flag = by_text.get("--" + text[5:] if negated else text)
        if flag is None:
            raise UserError(_unknown(text, by_text))
        if flag.name in values:
            raise UserError(f"{text} is given twice")
        if flag.is_switch:
            if equals:
                raise UserError(f"{text} takes no value")
            values[flag.name] = not negated
            continue
        if negated:
            raise UserError(f"{flag.text} cannot be negated; leave it out")
        if not equals:
            if not rest or (rest[0].startswith("--") and rest[0] in by_text):
                raise UserError(f"{text} needs a value: {flag.help or flag.annotation}")
            value = rest.pop(0)
        values[flag.name] = _read(flag, value)
    return values


def check_seed(seed: int) -> int:
    """A seed that every generator in use takes.

    Raises:
        UserError: it is negative or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed} must be from 0 to 2^63 - 1")
    return seed


# what other libraries call it, and where it is here
_ELSEWHERE = {
    "--noise": ("--corruption", " 'Gaussian(0.1)'"),
    "--denoising": ("--corruption", " 'Masking(0.5)'"),
    "--regularizer": ("--penalty", ""),
    "--hidden": ("--net", " 'MLP(hidden=(256, 256))'"),
    "--layers": ("--net", " 'MLP(hidden=(256, 256))'"),
    "--dropout": ("--net", " 'MLP(dropout=0.1)'"),
    "--beta": ("--bound", " 'ELBO(beta=4.0)'"),
    "--loss": ("--likelihood", ""),
    "--lr": ("--learning-rate", ""),
    "--latent-dim": ("--latents", ""),
    "--n-components": ("--latents", ""),
}


def _unknown(text: str, known: Collection[str]) -> str:
    if not text.startswith("-"):
        return f"unexpected {text!r}; options start with -- and values follow their option"
    flag, example = _ELSEWHERE.get(text, ("", ""))
    if flag in known:
        return f"unknown option {text}; did you mean {flag}{example}?"
    return f"unknown option {text}; {closest(text, known)}"


def _read(flag: Flag, text: str) -> Any:
    if flag.is_text:
        if "\0" in text:  # from a file; no call holds one
            raise UserError(f"{flag.text}: a null byte, which no name holds")
        return text
    name = text.partition("(")[0].strip()
    members = [member for kind in flag.kinds for member in KINDS[kind]]
    try:
        value = expr.build(text, components())
    except UserError as error:
        if name in members:
            raise UserError(f"{flag.text}: {error}") from None
        value = _Unreadable
    if _fits(flag, value):
        return value
    hint = closest(name, members)
    expected = hint if hint.startswith("did you mean") else f"expected {_choices(flag)}"
    raise UserError(f"{flag.text} {text!r}: {expected}")


class _Unreadable:
    """Stands for what is no expression: it fits no flag."""


def _fits(flag: Flag, value: Any) -> bool:
    words = set(re.findall(r"\w+", flag.annotation))
    if value is None:
        return "None" in words
    if isinstance(value, bool):
        return "bool" in words
    if isinstance(value, int):
        return bool({"int", "float"} & words)
    if isinstance(value, float):
        return "float" in words and math.isfinite(value)
    if isinstance(value, tuple | list):
        whole = "int" in words or not flag.kinds
        return "Sequence" in words and all(
            isinstance(v, int) if whole else _is_member(flag, v) for v in value
        )
    return _is_member(flag, value)


def _is_member(flag: Flag, value: Any) -> bool:
    """Whether a value is a component of the kinds that a flag takes."""
    target = getattr(value, "func", value)
    target = target if isinstance(target, type) else type(target)
    return any(target is member for kind in flag.kinds for member in KINDS[kind].values())


def _choices(flag: Flag) -> str:
    words = set(re.findall(r"\w+", flag.annotation))
    parts = []
    if "int" in words:
        parts.append("a whole number")
    if "float" in words:
        parts.append("a number")
    if "Sequence" in words:
        parts.append("a shape such as (8, 4)")
    parts += [f"one of the {kind}: {', '.join(KINDS[kind])}" for kind in flag.kinds]
    return " or ".join(parts) or flag.annotation


def usage(flags: Sequence[Flag]) -> str:
    """Help text of flags, by group."""
    lines: list[str] = []
    for group in dict.fromkeys(flag.group for flag in flags):
        lines += ["", f"{group}:"]
        for flag in flags:
            if flag.group == group:
                default = "" if flag.default in (None, False) else f" [{_shown(flag.default)}]"
                about = flag.help
                for kind in flag.kinds:
                    about = f"{about.rstrip('.')}; see latently list {kind}."
                lines.append(f"  {flag.text:<22} {about}{default}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else expr.show(value)


def _arguments(doc: str) -> dict[str, str]:
    """The Args section of a google docstring, by name, in one line each."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in (section.group(1) if section else "").splitlines():
        entry = re.match(r"^ {4}(\w+): (.*)", line)
        if entry:
            name, found[entry.group(1)] = entry.group(1), entry.group(2)
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
