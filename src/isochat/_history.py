"""What of a conversation an endpoint is told: earlier answers as it can take them. Pure.

An answer holds more than its words: reasoning with a signature, encrypted reasoning, a thought signature beside a call.
Each is for the model that wrote it, which wants it back unmodified, and every other model refuses it. What models stand
behind two endpoints nobody can tell from their names, so an answer's message knows where it came from: its `origin`.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from isochat._frozen import changed
from isochat._types import Audio, File, Image, Message, Reasoning, Refusal, Text, ToolCall, Video

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from isochat._types import Part

#: Under this key a stored message says which endpoint wrote it. It never goes over the wire.
ORIGIN = "isochat_origin"

# What an answer's message carries and a question's may not: the service's decoder answers "Extra inputs are not
# permitted" (BerriAI/litellm#15758 and #36931, cline/cline#6515). They are about the answer, and stay readable there.
ANSWER_ONLY = frozenset(
    {
        "annotations",
        "audio",
        "content_parts",
        "function_call",
        "id",
        "item_extra",
        "output",
        "provider_specific_fields",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "refusal",
        "thinking",
        "thinking_blocks",
    }
)
_CALLERS = frozenset({"cache_control"})  # what stands beside an answer's words and only a caller can have put there
#: What Gemini takes in place of the signature of a call that another model made
#: (https://ai.google.dev/gemini-api/docs/thought-signatures).
PLACEHOLDER = "skip_thought_signature_validator"
# Claude's alphabet for the id of a call (microsoft/vscode#325813 has what it says to one of Kimi's,
# `functions.weather:0`), and no two calls of a conversation have the same one (anthropics/claude-code#28515), as
# Gemini's have, whose ids are the functions' names.
_FOREIGN_SIGN = re.compile(r"[^a-zA-Z0-9_-]")


def told(messages: Iterable[Message], endpoint: str) -> tuple[Message, ...]:
    """The conversation as this endpoint is to be told it.

    A message that this endpoint wrote, or of which nobody says who wrote it, goes as it is. Of another's answer goes
    what was said: text, pictures, tool calls. Calls whose ids only their own model takes get others, and so do the
    results that answer them.
    """
    said: list[Message] = []
    taken: set[str | None] = set()
    renamed: dict[str | None, deque[str | None]] = {}  # the calls that the results to come may answer
    for message in messages:
        foreign = message.role == "assistant" and message.origin not in (None, endpoint)
        for each in map(_loosed, _rounds(message)) if foreign else (message,):
            if each.role == "assistant":
                renamed = {}
                calls = (
                    tuple(_renamed(call, taken, renamed) for call in each.tool_calls) if foreign else each.tool_calls
                )
                taken |= {call.id for call in calls}
                said.append(changed(each, tool_calls=calls))
            elif each.role == "tool" and (names := renamed.get(each.tool_call_id)):
                # Results of calls that shared an id come in the order of the calls: nothing else tells them apart.
                said.append(changed(each, tool_call_id=names.popleft() if len(names) > 1 else names[0]))
            else:
                said.append(each)
    return tuple(said)


def bound(message: Message) -> bool:
    """Whether it makes a difference which endpoint wrote a message: only then is that worth keeping beside it."""
    return (
        isinstance(message.content, tuple)
        or bool(message.tool_calls)
        or message.name is not None
        or not message.extra.keys() <= ANSWER_ONLY - {"output"}
    )


def _loosed(message: Message) -> Message:
    """An answer without what is for the model that wrote it."""
    content: Any = message.content
    if isinstance(content, tuple):
        content = tuple(_words(part) for part in content if not isinstance(part, Reasoning))
        if all(isinstance(part, Text) and not part.extra for part in content):
            content = "".join(part.text for part in content)
    calls = tuple(changed(call, extra=_callers(call.extra)) for call in message.tool_calls)
    extra = _callers(message.extra)
    return changed(message, content=content, tool_calls=calls, name=None, reasoning_content=None, extra=extra)


def _rounds(message: Message) -> list[Message]:
    """An answer in which an agent called its own tools, as the messages that this takes.

    The Responses API tells calls and results in one answer (`extra["output"]` has them), and a call without its result
    is refused everywhere.
    """
    output = message.extra.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    results = {
        item["call_id"]: _result(item.get("output"))
        for item in items
        if str(item.get("type")).endswith("_output") and isinstance(item.get("call_id"), str)
    }
    answered = tuple(call for call in message.tool_calls if call.id in results)
    if not answered:
        return [message]
    return [
        Message("assistant", tool_calls=answered),
        *(Message("tool", results[call.id], tool_call_id=call.id) for call in answered),
        changed(message, tool_calls=tuple(call for call in message.tool_calls if call.id not in results)),
    ]


def _result(output: Any) -> str:
    """What a tool gave an agent, as text."""
    if isinstance(output, str):
        return output
    parts = output if isinstance(output, list) else []
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "".join(texts) if parts and len(texts) == len(parts) else msgspec.json.encode(output).decode()


def _words(part: Part) -> Part:
    match part:
        case Refusal(refusal):
            return Text(refusal)  # not every model has such a part, and it is what was said
        case Text() | Image() | Audio() | Video() | File():
            return changed(part, extra=_callers(part.extra))
        case _:
            return part


def _callers(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in extra.items() if name in _CALLERS or value == PLACEHOLDER}


def _renamed(call: ToolCall, taken: set[str | None], renamed: dict[str | None, deque[str | None]]) -> ToolCall:
    if call.id is None:
        return call
    wanted = name = _FOREIGN_SIGN.sub("_", call.id)
    count = 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    renamed.setdefault(call.id, deque()).append(name)
    return changed(call, id=name)
