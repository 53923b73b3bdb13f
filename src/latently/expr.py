"""Call expressions: the one text for options in Python, the command line and saved files.

`"MLP(hidden=(64, 64))"` becomes `partial(MLP, hidden=(64, 64))` and back. The text is parsed by
`ast` and walked; nothing is ever evaluated, and only the names that were handed in are known.

A name or call of an `nn.Module` or optimizer class is a *constructor* (sizes are resolved later);
any other class is a frozen dataclass and is built at once, so `IWAE` means `IWAE()`; a plain
function with arguments becomes a `partial`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from latently.errors import UserError, closest

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "build", "show"]

MAX_LENGTH = 200_000  # a family for each of some thousand columns
MAX_DEPTH = 12
MAX_BITS = 64  # of a whole number: more are none of ours, and no float or tensor takes them


def build(text: str, names: Mapping[str, Any]) -> Any:
    """The value that a call expression stands for.

    Args:
        text: a literal, a name, a call with literal, name or call arguments, or a tuple of them.
        names: what the text may refer to, by name.

    Raises:
        UserError: the text does not parse, is too long or too deep, names something unknown
            (closest names are listed) or calls it with arguments it does not take.

    >>> from latently.nets import MLP
    >>> build("(1, -2.5, None)", {})
    (1, -2.5, None)
    >>> build("MLP(hidden=(8,))", {"MLP": MLP}).keywords
    {'hidden': (8,)}
    """
    if len(text) > MAX_LENGTH:
        raise UserError(f"expression of {len(text)} characters; at most {MAX_LENGTH} are read")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or str(error) or "it nests too deeply"
        raise UserError(f"cannot read {_brief(text)}: {reason}") from None
    return _value(tree, names, _brief(text), 0)


def show(value: Any) -> str:
    """The call expression of a value: the inverse of `build`.

    >>> from latently.nets import MLP
    >>> show(partial(MLP, hidden=(64, 64)))
    'MLP(hidden=(64, 64))'
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{value} has no call expression; options must be finite numbers")
        return repr(float(value))  # a numpy float's own repr is a call
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, tuple | list):
        inner = ", ".join(show(v) for v in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, partial):
        return _show_call(value.func.__name__, [*map(show, value.args), *_show_pairs(value)])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _show_call(type(value).__name__, list(_changed_fields(value)))
    if isinstance(value, type) or inspect.isfunction(value):
        return value.__name__
    raise UserError(
        f"{type(value).__name__} object has no call expression; pass a constructor such as "
        "MLP or partial(MLP, hidden=(64,)) instead of a built object"
    )


def _show_call(name: str, arguments: list[str]) -> str:
    return f"{name}({', '.join(arguments)})" if arguments else name


def _show_pairs(call: partial[Any]) -> list[str]:
    return [f"{key}={show(value)}" for key, value in call.keywords.items()]


def _changed_fields(value: Any) -> Iterator[str]:
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if field.default is dataclasses.MISSING or current != field.default:
            yield f"{field.name}={show(current)}"


def _brief(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _value(node: ast.expr, names: Mapping[str, Any], source: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise UserError(f"{source} nests deeper than {MAX_DEPTH} calls")

    def inner(child: ast.expr) -> Any:
        return _value(child, names, source, depth + 1)

    match node:
        case ast.Constant(value=int(number)) if number.bit_length() > MAX_BITS:
            raise UserError(f"{source}: a whole number of more than {MAX_BITS} bits is not read")
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float()) as operand):
            return -inner(operand)
        case ast.Tuple(elts=items):
            return tuple(inner(item) for item in items)
        case ast.List(elts=items):
            return [inner(item) for item in items]
        case ast.Name(id=name):
            return _resolve(_lookup(name, names), [], {})
        case ast.Call(func=ast.Name(id=name), args=args, keywords=pairs):
            positional = [inner(arg) for arg in args]
            keywords = {pair.arg: inner(pair.value) for pair in pairs if pair.arg is not None}
            if len(keywords) == len(pairs):
                return _resolve(_lookup(name, names), positional, keywords)
    raise UserError(
        f"{source}: {type(node).__name__} is not allowed; "
        "only literals, names and calls such as MLP(hidden=(64, 64)) are read"
    )


def _lookup(name: str, names: Mapping[str, Any]) -> Any:
    if name in names:
        return names[name]
    raise UserError(f"unknown component {name!r}; {closest(name, names)}")


def _resolve(target: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
    if not callable(target):
        return target
    deferred = not isinstance(target, type) or issubclass(target, nn.Module | Optimizer)
    _check_arguments(target, args, keywords, complete=not deferred)
    if deferred:
        return partial(target, *args, **keywords) if args or keywords else target
    try:
        return target(*args, **keywords)
    except (TypeError, ValueError) as error:
        given = [*map(show, args), *(f"{key}={show(value)}" for key, value in keywords.items())]
        raise UserError(f"{_show_call(target.__name__, given)}: {error}") from None


def _check_arguments(
    target: Callable[..., Any], args: list[Any], keywords: dict[str, Any], complete: bool
) -> None:
    signature = inspect.signature(target)
    sizes = _SIZES if isinstance(target, type) else frozenset()
    known = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is not parameter.POSITIONAL_ONLY and name not in sizes
    ]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for keyword in keywords:
        if keyword not in known and not open_ended:
            raise UserError(
                f"{target.__name__} takes no option {keyword!r}; {closest(keyword, known)}"
            )
    if args and next(iter(signature.parameters), None) in sizes:
        raise UserError(
            f"{target.__name__}: name its options, e.g. {target.__name__}({known[0]}=...)"
            if known
            else f"{target.__name__} takes no options"
        )
    try:
        (signature.bind if complete else signature.bind_partial)(*args, **keywords)
    except TypeError as error:
        raise UserError(f"{target.__name__}: {error}") from None


# Arguments of constructors that a recipe resolves; a user never writes them.
_SIZES = frozenset(
    {"in_shape", "out_shape", "shape", "z_shape", "encoder", "params", "categories"}
)
