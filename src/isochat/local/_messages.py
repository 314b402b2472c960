"""The rules a conversation has to keep, for each family.

Sources: D "Foundation model REST API reference" for roles and parts; for the rest the quirk's own source (`_families`).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from isochat.local import _sign
from isochat.local._question import text_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from isochat.local._families import Family

__all__ = ["NoError", "check", "check_alternation", "is_one_of", "is_type", "mentions", "unknown_field", "wrong_type"]


class NoError(Exception):
    """The endpoint's no, raised where it is found and given its shape in `_rules`.

    `nested` puts the words as JSON text inside the message, `plain` makes the whole body plain text.
    """

    def __init__(
        self,
        words: str,
        *,
        code: str = "BAD_REQUEST",
        field: str | None = None,
        nested: bool = False,
        plain: bool = False,
    ) -> None:
        super().__init__(words)
        self.words, self.code, self.field, self.nested, self.plain = words, code, field, nested, plain


_NAMES: Mapping[type, str] = {
    str: "string",
    list: "array",
    dict: "object",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}
_ROLES = frozenset({"system", "user", "assistant", "tool"})
_KEYS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content"}),
    "developer": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}
#: A part's type and the key that holds what it is about.
_PARTS: Mapping[str, tuple[str, str]] = {
    "text": ("text", "string"),
    "image_url": ("image_url", "object"),
    "file": ("file", "object"),
    "document": ("source", "object"),
    "video_url": ("video_url", "object"),
    "audio_url": ("audio_url", "object"),
    "input_audio": ("input_audio", "object"),
    "refusal": ("refusal", "string"),
    "reasoning": ("summary", "array"),
}


def is_type(value: object, name: str) -> bool:
    """Whether a decoded value has this JSON type (`integer` and `number` are not booleans)."""
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return _NAMES.get(type(value)) == name


def is_one_of(value: object, names: Collection[str]) -> bool:
    """Whether a decoded value is one of these words."""
    return isinstance(value, str) and value in names


def wrong_type(path: str, expected: str, value: object) -> str:
    """The decoder's words for a value of the wrong type (as quoted in run-llama/llama_index issue 17239)."""
    where = f"field '{path}' expects" if path else "it expects"
    got = _NAMES.get(type(value), "unknown")
    return (
        f"BAD_REQUEST: Unable to parse json body for request, {where} input with json type '{expected}' but got '{got}'"
    )


def unknown_field(name: str) -> NoError:
    """The decoder's refusal of a key it does not know (as quoted in microsoft/autogen issue 4761)."""
    return NoError(f"Bad request: json: unknown field {json.dumps(name, ensure_ascii=False)}\n", field=name)


def mentions(messages: Sequence[Mapping[str, Any]], word: str) -> bool:
    """Whether any message says the word, in upper or lower case."""
    return any(word in text_of(m.get("content")).lower() for m in messages)


def check(body: Mapping[str, Any], family: Family) -> None:
    """Raise NoError at the first thing in the conversation that this family does not take."""
    name = "input" if family.kind == "agent" and "messages" not in body else "messages"
    messages = body.get(name)
    if messages is None:
        raise NoError("BAD_REQUEST: Missing required field 'messages'.", field="messages")
    if name == "input" and isinstance(messages, str):
        return
    if not isinstance(messages, list) or not messages:
        raise NoError(f"BAD_REQUEST: '{name}' must be a list of at least one message.", field="messages")
    open_calls: set[str] = set()
    called: set[str] = set()
    asked = max((i for i, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "user"), default=-1)
    for i, message in enumerate(messages):
        path = f"{name}.{i}"
        if not isinstance(message, dict):
            raise NoError(wrong_type(path, "object", message), field="messages")
        _check_message(message, path, family)
        role = message["role"]
        if family.has("system-first") and role == "system" and i:
            raise NoError(
                f"BAD_REQUEST: {path}: a system message must be the only one and come first.", field="messages"
            )
        if role == "tool" and family.kind != "agent":
            _check_answered(message, path, open_calls)
        elif role != "tool":
            open_calls = {c["id"] for c in message.get("tool_calls") or ()}
            if family.has("call-ids"):
                _check_ids(message, path, called)
            if family.has("thought-signature-echo") and i > asked:  # of earlier turns nothing is demanded
                _check_signatures(message, path)
    if family.has("no-prefill") and messages[-1]["role"] == "assistant":
        words = "This model does not support assistant message prefill. The conversation must end with a user message."
        raise NoError(words, nested=True)


def _check_answered(message: Mapping[str, Any], path: str, open_calls: set[str]) -> None:
    if not isinstance(message.get("tool_call_id"), str):
        raise NoError(f"BAD_REQUEST: {path}.tool_call_id: Field required", field="messages")
    if message["tool_call_id"] not in open_calls:
        words = f"BAD_REQUEST: {path}: a tool message must follow the assistant message that made the call it answers."
        raise NoError(words, field="messages")


def _extra(path: str, key: str, family: Family) -> NoError:
    if family.has("extra-inputs"):
        return NoError(f"{path}.{key}: Extra inputs are not permitted", nested=True)
    return unknown_field(key)


def _check_message(message: Mapping[str, Any], path: str, family: Family) -> None:
    role: Any = message.get("role")
    roles = _ROLES if family.has("system-first") and not family.has("usage-details") else _ROLES | {"developer"}
    if not is_one_of(role, roles):
        words = f"BAD_REQUEST: {path}.role: {json.dumps(role)} is not one of {', '.join(sorted(roles))}"
        raise NoError(words, field="messages")
    if family.has("extra-inputs") or family.has("strict-message-keys"):
        for key in message:
            if key not in _KEYS[role]:
                raise _extra(path, key, family)
    calls = message.get("tool_calls")
    if calls is not None:
        _check_calls(calls, path, family)
    content = message.get("content")
    if content is None:
        if role != "assistant" or not (calls or message.get("refusal") or family.kind == "agent"):
            raise NoError(f"BAD_REQUEST: {path}.content: Field required", field="messages")
    elif isinstance(content, list):
        _check_parts(content, path, role, family)
    elif not isinstance(content, str):
        raise NoError(wrong_type(f"{path}.content", "string", content), field="messages")
    elif not content and family.has("no-empty-text"):
        raise NoError(f"{path}: text content blocks must be non-empty", nested=True)


def _check_calls(calls: object, path: str, family: Family) -> None:
    if not isinstance(calls, list):
        raise NoError(wrong_type(f"{path}.tool_calls", "array", calls), field="messages")
    allowed = {"id", "type", "function"} | (
        {"thoughtSignature"} if family.has("thought-signature-echo") else {"cache_control"}
    )
    for j, call in enumerate(calls):
        where = f"{path}.tool_calls.{j}"
        function = call.get("function") if isinstance(call, dict) else None
        if (
            not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or not isinstance(call.get("id"), str)
        ):
            raise NoError(
                f"BAD_REQUEST: {where}: a call has an id and a function with a name and arguments.", field="messages"
            )
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            raise NoError(wrong_type(f"{where}.function.arguments", "string", arguments), field="messages")
        try:
            fine = not arguments or isinstance(json.loads(arguments), dict)
        except ValueError:
            fine = False
        if not fine and family.kind == "hosted":
            raise NoError(f"BAD_REQUEST: {where}.function.arguments: not the text of a JSON object", field="messages")
        for key in call:
            if key not in allowed and family.kind == "hosted":
                raise _extra(where, key, family)


def _check_ids(message: Mapping[str, Any], path: str, called: set[str]) -> None:
    for j, call in enumerate(message.get("tool_calls") or ()):
        if not re.fullmatch(r"[a-zA-Z0-9_-]+", call["id"]):
            words = f"{path}.content.{j}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
            raise NoError(words, nested=True)
        if call["id"] in called:
            raise NoError(f"{path}.content.{j}: `tool_use` ids must be unique", nested=True)
        called.add(call["id"])


#: What Google documents for a call that another model made, in place of a signature.
_PLACEHOLDERS = frozenset({"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"})


def _check_signatures(message: Mapping[str, Any], path: str) -> None:
    """The first call of each step has to be signed; any other may be."""
    for j, call in enumerate(message.get("tool_calls") or ()):
        signed, function = call.get("thoughtSignature"), call["function"]
        if (isinstance(signed, str) and signed in _PLACEHOLDERS) or (j and signed is None):
            continue
        if not _sign.holds(signed, function["name"] + function["arguments"]):
            words = (
                f"INVALID_ARGUMENT: {path}.tool_calls.{j}: Function call is missing a thought_signature in functionCall"
                " parts."
            )
            raise NoError(words, code="INVALID_ARGUMENT", field="messages")


def _check_parts(parts: Sequence[Any], path: str, role: str, family: Family) -> None:
    if not parts and family.has("no-empty-text"):
        raise NoError(f"{path}: content must be non-empty", nested=True)
    for j, part in enumerate(parts):
        where = f"{path}.content.{j}"
        kind = part.get("type") if isinstance(part, dict) else None
        takes = family.parts | ({"reasoning"} if role == "assistant" else frozenset())
        if not is_one_of(kind, takes):
            words = f"BAD_REQUEST: {where}: a part of type {json.dumps(kind)} is not supported by this model."
            raise NoError(words, field="messages")
        key, expected = _PARTS[str(kind)]
        if not is_type(part.get(key), expected):
            raise NoError(wrong_type(f"{where}.{key}", expected, part.get(key)), field="messages")
        if kind == "text" and not part["text"] and family.has("no-empty-text"):
            raise NoError(f"{path}: text content blocks must be non-empty", nested=True)
        if kind == "reasoning" and family.has("signed-replay"):
            _check_thought(part["summary"], where)


def _check_thought(summary: Sequence[Any], where: str) -> None:
    for piece in summary:
        if not isinstance(piece, dict):
            raise NoError(wrong_type(where, "object", piece), field="messages")
        redacted = piece.get("type") == "summary_encrypted_text"
        signed, text = (
            (piece.get("data"), "redacted") if redacted else (piece.get("signature"), piece.get("text") or "")
        )
        if not _sign.holds(signed, text):
            raise NoError(f"{where}: Invalid `signature` in `thinking` block", nested=True)


def check_alternation(messages: Sequence[Mapping[str, Any]], *, plain: bool) -> None:
    """Raise NoError unless user and assistant take turns (a tool's results speak for the user)."""
    before = ""
    for message in messages:
        side = {"tool": "tool", "assistant": "assistant"}.get(message["role"], "user")
        if message["role"] in {"system", "developer"}:
            continue
        if side == before != "tool" or (side == "user" and before == "tool"):
            words = (
                "Bad request: rpc error: code = InvalidArgument desc = Chat message input roles must alternate between"
            )
            raise NoError(f"{words} 'user' and 'assistant' roles.", plain=plain)
        before = side
