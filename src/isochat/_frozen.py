"""Frozen dataclasses that are made, and changed, in half the time.

Each field of a frozen dataclass is set through `object.__setattr__`, which looks its name up first; that is most of
what making one costs, and a question makes a dozen. Here each goes straight into its slot. `maker` and `changed` are
faster still: they fill an object of a class that is alike and not frozen, and then give it its own class.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

#: `metadata` of a field that another descriptor will stand before: what lies in its slot is not what it shows.
COVERED: Mapping[str, bool] = {"covered": True}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(**options: Any) -> Callable[[type[T]], type[T]]:
    """`dataclass(frozen=True, slots=True, **options)`, made faster."""

    def made(cls: Any) -> Any:
        cls = dataclass(frozen=True, slots=True, **options)(cls)
        cls.__init__ = _init(cls)
        _changers[cls] = _changer(cls)
        return cls

    return made


def changed(value: T, **facts: Any) -> T:
    """The same value with these facts: `dataclasses.replace` without `__init__`, so that nothing is looked at again."""
    changer = _changers.get(type(value))
    return replace(value, **facts) if changer is None else changer(value, facts)  # type: ignore[type-var]


def maker(cls: Callable[..., T]) -> Callable[..., T]:
    """A function that makes what the class makes of the same arguments, save for its `__post_init__`."""
    scope = _open(cls)
    lines = ["self = new(alike)", *_factories(cls, scope), *(f"self.{name} = {name}" for name in _fields(cls))]
    return _taking(cls, "make", [], [*lines, "self.__class__ = cls", "return self"], scope)  # type: ignore[no-any-return]


_changers: dict[type, Callable[[Any, dict[str, Any]], Any]] = {}


def _init(cls: Any) -> Any:
    """`__init__` as `dataclass` made it, but for how a field is set."""
    scope = {f"put_{name}": cls.__dict__[name].__set__ for name in _fields(cls)}
    lines = [*_factories(cls, scope), *(f"put_{name}(self, {name})" for name in _fields(cls))]
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    return functools.update_wrapper(_taking(cls, "__init__", ["self"], lines, scope), cls.__init__)


def _taking(cls: Any, name: str, first: list[str], lines: list[str], scope: dict[str, Any]) -> Any:
    """A function that takes what the class takes, with the same defaults."""
    star = ["*"] if any(each.kw_only for each in fields(cls)) else []  # `dataclass` has those last
    by_place = [name for name, each in _fields(cls).items() if not each.kw_only]
    by_name = [name for name, each in _fields(cls).items() if each.kw_only]
    ours = _defined(f"{name}({', '.join([*first, *by_place, *star, *by_name])})", lines, scope)
    ours.__defaults__, ours.__kwdefaults__ = cls.__init__.__defaults__, cls.__init__.__kwdefaults__
    return ours


def _factories(cls: Any, scope: dict[str, Any]) -> list[str]:
    """The lines that make what was not given and has no constant for a default."""
    known, lines = inspect.signature(cls.__init__).parameters, []
    for name, each in _fields(cls).items():
        if each.default_factory is not MISSING:
            scope |= {f"no_{name}": known[name].default, f"make_{name}": each.default_factory}
            lines.append(f"if {name} is no_{name}: {name} = make_{name}()")
    return lines


def _changer(cls: Any) -> Any:
    """A copy with some fields changed, field by field."""
    scope = {**_open(cls), "put": {name: cls.__dict__[name].__set__ for name in _fields(cls)}}
    lines = ["other = new(alike)"]
    for name, each in _fields(cls).items():
        scope[f"get_{name}"] = cls.__dict__[name].__get__
        held = f"get_{name}(self)" if "covered" in each.metadata else f"self.{name}"
        lines.append(f"other.{name} = {held}")
    lines += ["other.__class__ = cls", "for name, fact in facts.items(): put[name](other, fact)", "return other"]
    return _defined("changed(self, facts)", lines, scope)


def _open(cls: Any) -> dict[str, Any]:
    """What a value is filled by as an object of a class that is alike and not frozen, before it gets its own class."""
    return {"new": object.__new__, "cls": cls, "alike": type("alike", (), {"__slots__": [*_fields(cls)]})}


def _fields(cls: Any) -> dict[str, Field[Any]]:
    return {each.name: each for each in fields(cls)}


def _defined(head: str, lines: list[str], scope: dict[str, Any]) -> Any:
    exec("\n    ".join([f"def {head}:", *lines]), scope)  # noqa: S102 - names of our own classes' fields
    return scope[head.partition("(")[0]]
