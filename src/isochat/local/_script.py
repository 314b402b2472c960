"""A script: what to say to what, written in YAML.

Reading it checks everything and names the line (or the path, for a script given as data); playing it is a pure step
from a question to the first rule that fits.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isochat.local._answer import Answer, Call, Choice, Usage
from isochat.local._echo import call_id, finished
from isochat.local._faults import Fault
from isochat.local._question import Question, words

__all__ = ["Rule", "Script", "ScriptError", "said"]

_WHEN = frozenset({"contains", "regex", "endpoint", "turn", "tool_result"})
_REPLY = frozenset({"text", "reasoning", "tool_calls", "finish_reason", "usage", "refusal"})
_FINISH = frozenset({"stop", "length", "tool_calls", "content_filter"})


class ScriptError(ValueError):
    """A script that cannot be played; the message names the line or path."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a question looks like this, answer so, or go wrong so."""

    path: str
    contains: str | None = None
    regex: re.Pattern[str] | None = None
    endpoint: str | None = None
    turn: int | None = None
    tool_result: str | bool | None = None
    reply: Mapping[str, Any] | None = None
    fault: Fault | None = None
    times: int | None = None

    def fits(self, question: Question) -> bool:
        """Whether everything the rule asks for holds."""
        result = question.tool_result
        text = question.user_text
        return (
            (self.contains is None or self.contains in text)
            and (self.regex is None or self.regex.search(text) is not None)
            and (self.endpoint is None or fnmatch.fnmatchcase(question.endpoint.name, self.endpoint))
            and (self.turn is None or self.turn == question.turn)
            and (
                self.tool_result is None
                or (
                    (result is not None) is self.tool_result
                    if isinstance(self.tool_result, bool)
                    else result is not None and self.tool_result in result
                )
            )
        )


@dataclass(slots=True)
class Script:
    """Rules in order, and what to do when none fits: echo, or with `strict` an error."""

    rules: tuple[Rule, ...]
    strict: bool = False
    #: How often each rule was used, by its place.
    used: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any] | list[Any]) -> Script:
        """A script from a path, its YAML text, or the data it would hold. Raises ScriptError."""
        name = "script"
        lines: dict[str, int] = {}
        if isinstance(source, Path) or (
            isinstance(source, str) and "\n" not in source and source.endswith((".yaml", ".yml", ".json"))
        ):
            name = str(source)
            try:
                source = Path(source).read_text(encoding="utf-8")
            except OSError as why:
                msg = f"{name}: cannot be read: {why.strerror}"
                raise ScriptError(msg) from None
        data: Any = source
        if isinstance(source, str):
            data, lines = _parsed(source, name)
        return _Reader(name, lines).script(data)

    def rule_for(self, question: Question) -> Rule | None:
        """The first rule that fits and is not used up; using it counts."""
        for n, rule in enumerate(self.rules):
            if rule.fits(question) and (rule.times is None or self.used.get(n, 0) < rule.times):
                self.used[n] = self.used.get(n, 0) + 1
                return rule
        return None

    def reset(self) -> None:
        """Forget which rules were used."""
        self.used.clear()


def said(question: Question, reply: Mapping[str, Any]) -> Answer:
    """The answer a rule's `reply` stands for, to this question."""
    calls = tuple(
        Call(call.get("id") or call_id(question, call["name"], i), call["name"], call["arguments"])
        for i, call in enumerate(reply.get("tool_calls", ()))
    )
    finish = reply.get("finish_reason") or ("tool_calls" if calls else "stop")
    choice = Choice(
        reply.get("text"), reply.get("reasoning"), calls=calls, finish_reason=finish, refusal=reply.get("refusal")
    )
    usage = None
    if reply.get("usage"):
        given = reply["usage"]
        prompt = given.get("prompt_tokens", question.prompt_tokens)
        completion = given.get("completion_tokens", len(words(reply.get("text") or "")))
        usage = Usage(prompt, completion, given.get("total_tokens"), given.get("reasoning_tokens", 0))
    return finished(question, [choice] * question.number("n", 1), usage)


def _parsed(text: str, name: str) -> tuple[Any, dict[str, int]]:
    """The data in a YAML text, and the line each path of it is on."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as why:
        mark = getattr(why, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        msg = f"{where}: not YAML: {getattr(why, 'problem', None) or why}"
        raise ScriptError(msg) from None
    lines: dict[str, int] = {}

    def walk(at: Any, path: str) -> None:
        if at is None:
            return
        lines[path] = at.start_mark.line + 1
        if isinstance(at, yaml.MappingNode):
            for key, value in at.value:
                walk(value, f"{path}.{key.value}" if path else str(key.value))
                lines[f"{path}.{key.value}" if path else str(key.value)] = key.start_mark.line + 1
        elif isinstance(at, yaml.SequenceNode):
            for i, item in enumerate(at.value):
                walk(item, f"{path}[{i}]")

    walk(node, "")
    return data, lines


@dataclass(frozen=True, slots=True)
class _Reader:
    """Checks a script's data, saying where each thing wrong is."""

    name: str
    lines: Mapping[str, int]

    def wrong(self, path: str, what: str) -> ScriptError:
        at = path
        while at and at not in self.lines:
            at = re.sub(r"(\.[^.\[]*|\[\d+\]|^[^.\[]+)$", "", at)
        line = f":{self.lines[at]}" if at in self.lines else ""
        return ScriptError(f"{self.name}{line}: {path or 'the script'}: {what}")

    def script(self, data: Any) -> Script:
        if data is None:
            return Script(())
        strict, prefix = False, ""
        if isinstance(data, Mapping):
            self.keys(data, "", {"rules", "strict"})
            strict, prefix = data.get("strict", False), "rules"
            if not isinstance(strict, bool):
                raise self.wrong("strict", f"expected true or false, got {strict!r}")
            data = data.get("rules", [])
        if not isinstance(data, list):
            raise self.wrong(prefix, "expected a list of rules, each with `when` and `reply` or `fault`")
        return Script(tuple(self.rule(row, f"{prefix}[{i}]") for i, row in enumerate(data)), strict)

    def keys(self, row: Any, path: str, allowed: set[str] | frozenset[str]) -> None:
        if not isinstance(row, Mapping):
            raise self.wrong(path, f"expected a mapping with {', '.join(sorted(allowed))}, got {row!r}")
        for key in row:
            if key not in allowed:
                where = f"{path}.{key}" if path else str(key)
                raise self.wrong(where, f"there is no {key!r} here; there are {', '.join(sorted(allowed))}")

    def typed(self, row: Mapping[str, Any], key: str, path: str, *types: type) -> Any:
        value = row.get(key)
        if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            words_ = " or ".join(
                {str: "a text", int: "a number", bool: "true or false", dict: "a mapping", list: "a list"}[t]
                for t in types
            )
            raise self.wrong(f"{path}.{key}", f"expected {words_}, got {value!r}")
        return value

    def rule(self, row: Any, path: str) -> Rule:
        self.keys(row, path, {"when", "reply", "fault", "times"})
        if "reply" not in row and "fault" not in row:
            raise self.wrong(path, "a rule needs a `reply` or a `fault`")
        when = row.get("when")
        when = {} if when is None else when
        self.keys(when, f"{path}.when", _WHEN)
        pattern = self.typed(when, "regex", f"{path}.when", str)
        try:
            compiled = None if pattern is None else re.compile(pattern)
        except re.error as why:
            raise self.wrong(f"{path}.when.regex", f"not a regular expression: {why}") from None
        times = self.typed(row, "times", path, int)
        if times is not None and times < 1:
            raise self.wrong(f"{path}.times", "at least 1")
        return Rule(
            path,
            contains=self.typed(when, "contains", f"{path}.when", str),
            regex=compiled,
            endpoint=self.typed(when, "endpoint", f"{path}.when", str),
            turn=self.typed(when, "turn", f"{path}.when", int),
            tool_result=self.typed(when, "tool_result", f"{path}.when", str, bool),
            reply=self.reply(row["reply"], f"{path}.reply") if "reply" in row else None,
            fault=self.fault(row["fault"], f"{path}.fault") if "fault" in row else None,
            times=times,
        )

    def fault(self, row: Any, path: str) -> Fault:
        try:
            return Fault.parse(row)
        except ValueError as why:
            raise self.wrong(path, str(why)) from None

    def reply(self, row: Any, path: str) -> Mapping[str, Any]:
        if isinstance(row, str):
            return {"text": row}
        self.keys(row, path, _REPLY)
        for key in ("text", "reasoning", "refusal", "finish_reason"):
            self.typed(row, key, path, str)
        if row.get("finish_reason") not in {None, *_FINISH}:
            raise self.wrong(
                f"{path}.finish_reason", f"{row['finish_reason']!r} is not one of {', '.join(sorted(_FINISH))}"
            )
        usage = self.typed(row, "usage", path, dict) or {}
        self.keys(usage, f"{path}.usage", {"prompt_tokens", "completion_tokens", "total_tokens", "reasoning_tokens"})
        for key in usage:
            self.typed(usage, key, f"{path}.usage", int)
        calls = self.typed(row, "tool_calls", path, list) or []
        return {**row, "tool_calls": [self.call(c, f"{path}.tool_calls[{i}]") for i, c in enumerate(calls)]}

    def call(self, row: Any, path: str) -> Mapping[str, Any]:
        self.keys(row, path, {"id", "name", "arguments"})
        if not self.typed(row, "name", path, str):
            raise self.wrong(path, "a tool call needs a `name`")
        arguments = self.typed(row, "arguments", path, str, dict)
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        return {"id": self.typed(row, "id", path, str), "name": row["name"], "arguments": text}
