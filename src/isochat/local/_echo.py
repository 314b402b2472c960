"""The model that is always there: it says what you said, and does what the question's options ask for.

Pure and deterministic: the same question gets the same answer, blocking or streamed, today and tomorrow.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from isochat.local._answer import Answer, Call, Choice, Usage
from isochat.local._question import words
from isochat.local._schema import instance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isochat.local._question import Question, Tool

__all__ = ["REDACTED", "call_id", "echo", "finished", "reasoning_for"]

#: Anthropic's published test string: a question that holds it is answered with a redacted thought.
REDACTED = "ANTHROPIC_MAGIC_STRING_TRIGGER_REDACTED_THINKING"


def echo(question: Question) -> Answer:
    """The echo's answer to a question."""
    result = question.tool_result
    called = [] if result is not None else _called(question)
    if called:
        calls = tuple(_call(question, tool, i) for i, tool in enumerate(called))
        prose = None
        if question.endpoint.family.has("prose-with-calls") and question.tool_choice == "auto":
            prose = f"I'll use {' and '.join(t.name for t in called)}."
        choice = Choice(prose, calls=calls, finish_reason="tool_calls")
    else:
        choice = Choice(_formatted(question, question.user_text if result is None else result))
    return finished(question, [choice] * question.number("n", 1))


def _called(question: Question) -> Sequence[Tool]:
    tools, choice = question.tools, question.tool_choice
    if choice == "none" or not tools:
        return []
    if choice == "required":
        return tools[:1]
    if choice.startswith("="):
        return [t for t in tools if t.name == choice[1:]][:1]
    text = question.user_text
    return [t for t in tools if re.search(rf"(?<![\w-]){re.escape(t.name)}(?![\w-])", text)]


def call_id(question: Question, name: str, n: int) -> str:
    """The id this family gives the nth call of an answer."""
    family = question.endpoint.family
    return name if family.has("tool-id-is-name") else family.call_prefix + question.digits(f"call/{n}/{name}")


def _call(question: Question, tool: Tool, n: int) -> Call:
    if tool.takes_nothing:
        return Call(
            call_id(question, tool.name, n), tool.name, "" if question.endpoint.family.has("empty-arguments") else "{}"
        )
    return Call(call_id(question, tool.name, n), tool.name, _json(instance(tool.parameters or {})))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _formatted(question: Question, text: str) -> str:
    wanted = question.body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return _json(instance(wanted["json_schema"]["schema"], "text"))
    if wanted.get("type") == "json_object":
        return _json({"answer": text})
    return text


def reasoning_for(question: Question) -> str:
    """What a reasoning family says it thought."""
    return f"The user said {len(words(question.user_text))} words. I will answer with them."


def finished(question: Question, choices: Sequence[Choice], usage: Usage | None = None) -> Answer:
    """The choices with reasoning added where the family shows it, cut at `stop` and `max_tokens`, and counted."""
    family = question.endpoint.family
    hidden = len(words(reasoning_for(question))) if family.has("hidden-reasoning") else 0
    done = [_cut(question, _thought(question, choice)) for choice in choices]
    spent = sum(_spent(choice) + hidden for choice in done)
    if family.has("signature-only"):
        done = [replace(c, reasoning="") if c.reasoning else c for c in done]
    done = [replace(c, reasoning=None) if c.redacted else c for c in done]
    return Answer(tuple(done), usage or Usage(question.prompt_tokens, spent, reasoning=hidden * len(done)))


def _thought(question: Question, choice: Choice) -> Choice:
    """The choice with what it thought, if that is to be shown."""
    if not question.thinks:
        return replace(choice, reasoning=None, redacted=False)
    redacted = question.endpoint.family.has("redacted-thinking") and REDACTED in question.user_text
    reasoning = reasoning_for(question) if choice.reasoning is None else choice.reasoning
    return replace(choice, reasoning=reasoning, redacted=redacted)


def _spent(choice: Choice) -> int:
    calls = sum(len(words(f"{c.name} {c.arguments}")) for c in choice.calls)
    return len(words(choice.reasoning or "")) + len(words(choice.text or "")) + calls


def _cut(question: Question, choice: Choice) -> Choice:
    """The choice up to the first stop string, and no longer than `max_tokens`."""
    stop = question.body.get("stop") or []
    for mark in [stop] if isinstance(stop, str) else stop:
        if mark and choice.text and mark in choice.text:
            choice = replace(choice, text=choice.text[: choice.text.index(mark)], finish_reason="stop")
    most = question.number("max_tokens", 0) or question.number("max_completion_tokens", 0)
    thoughts, said = words(choice.reasoning or ""), words(choice.text or "")
    if not most or choice.calls or len(thoughts) + len(said) <= most:
        return choice
    if question.endpoint.family.has("length-without-text"):
        # It runs out while still thinking: there is not so much as an empty text.
        thoughts = [*thoughts, *(f" {word.strip()}" for word in said)][:most]
        return replace(choice, text=None, reasoning="".join(thoughts), finish_reason="length")
    reasoning = None if choice.reasoning is None else "".join(thoughts[:most])
    text = "".join(said[: max(0, most - len(thoughts))]).rstrip()
    return replace(choice, text=text, reasoning=reasoning, finish_reason="length")
