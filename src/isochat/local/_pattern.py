"""A text that a regular expression matches, for schemas that ask for one."""

from __future__ import annotations

import re
from re import _constants as c  # type: ignore[attr-defined]  # the parser is private, and has been there since Python 1.5
from re import _parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["example"]

_CLASSES = {
    "CATEGORY_DIGIT": "0",
    "CATEGORY_SPACE": " ",
    "CATEGORY_WORD": "a",
    "CATEGORY_NOT_DIGIT": "a",
    "CATEGORY_NOT_SPACE": "a",
    "CATEGORY_NOT_WORD": "-",
}
_TRIED = "aA0 -_.xyzXYZ19@/"


def example(pattern: str, least: int = 0) -> str:
    """A text the pattern finds itself in, of at least so many characters if repetition allows.

    Raises ValueError for a pattern Python cannot read, and where no example comes to mind (look-arounds).
    """
    try:
        tree, compiled = _parser.parse(pattern), re.compile(pattern)
    except re.error as why:
        msg = f"cannot read the pattern {pattern!r}: {why}"
        raise ValueError(msg) from None
    for more in range(max(1, least + 1)):
        text = _text(tree, {}, more)
        if len(text) >= least and compiled.search(text):
            return text
    if not pattern.endswith("$") and compiled.search(text := _text(tree, {}, 0).ljust(least, "x")):
        return text
    msg = f"no example of the pattern {pattern!r}"
    raise ValueError(msg)


def _text(tree: Iterable[Any], groups: dict[int, str], more: int) -> str:
    return "".join(_one(op, argument, groups, more) for op, argument in tree)


def _one(op: Any, argument: Any, groups: dict[int, str], more: int) -> str:
    if op is c.LITERAL:
        return chr(argument)
    if op is c.NOT_LITERAL:
        return next(ch for ch in _TRIED if ord(ch) != argument)
    if op is c.ANY:
        return "a"
    if op is c.IN:
        return next((ch for ch in _TRIED if _within(ch, argument)), None) or _within_first(argument)
    if op is c.BRANCH:
        return _text(argument[1][0], groups, more)
    if op is c.SUBPATTERN:
        groups[argument[0]] = found = _text(argument[3], groups, more)
        return found
    if op in {c.MAX_REPEAT, c.MIN_REPEAT, c.POSSESSIVE_REPEAT}:
        low, high, inner = argument
        count = min(max(low, more), high if high is not c.MAXREPEAT else max(low, more))
        return "".join(_text(inner, groups, 0) for _ in range(count))
    if op is c.ATOMIC_GROUP:
        return _text(argument, groups, more)
    if op is c.GROUPREF:
        return groups.get(argument, "")
    return ""


def _within(ch: str, members: Iterable[Any]) -> bool:
    wanted = True
    for op, argument in members:
        if op is c.NEGATE:
            wanted = False
        elif (
            (op is c.LITERAL and ord(ch) == argument)
            or (op is c.RANGE and argument[0] <= ord(ch) <= argument[1])
            or (op is c.CATEGORY and _CLASSES.get(str(argument)) and _in_class(ch, str(argument)))
        ):
            return wanted
    return not wanted


def _in_class(ch: str, name: str) -> bool:
    base = {"DIGIT": ch.isdigit(), "SPACE": ch.isspace(), "WORD": ch.isalnum() or ch == "_"}[name.rsplit("_", 1)[1]]
    return base != name.startswith("CATEGORY_NOT")


def _within_first(members: Iterable[Any]) -> str:
    for op, argument in members:
        if op is c.LITERAL:
            return chr(argument)
        if op is c.RANGE:
            return chr(argument[0])
    return "a"
