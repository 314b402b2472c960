"""The plainest answers, read by the shortest way. Pure.

Most of what arrives is text under a handful of fields, and a streamed answer says the same ones hundreds of times. Here
those are read without looking for anything else; whatever has one field more, or one of another kind, is `None` here
and left to `_decode`, which gives the same for the plain ones too. `tests/test_plain.py` holds the two to each other.
"""

from __future__ import annotations

from typing import Any

from isochat._decode import decode_usage
from isochat._types import ChatChunk, ChatResponse, Choice, ChunkChoice, Delta, Message, Usage

_COMPLETION = frozenset({"id", "object", "created", "model", "choices", "usage"})
_CHOICE = frozenset({"index", "message", "finish_reason"})
_MESSAGE = frozenset({"role", "content"})
_PIECE = frozenset({"index", "delta", "finish_reason", "logprobs"})
_DELTA = frozenset({"role", "content"})
_COUNTS = {"prompt_tokens", "completion_tokens", "total_tokens"}


def plain_completion(value: Any, request_id: str | None, raw: Any) -> ChatResponse | None:
    """A completion of one choice, which is text; None if it is anything else."""
    choice, about = _only_choice(value), _about(value)
    if choice is None or about is None or choice.keys() != _CHOICE:
        return None
    message, finish_reason = choice["message"], choice["finish_reason"]
    if type(message) is not dict or message.keys() != _MESSAGE:
        return None
    role, content = message["role"], message["content"]
    if type(role) is not str or type(content) is not str or type(finish_reason) is not str:
        return None
    said = Choice(choice["index"], Message(role, content), finish_reason)
    return ChatResponse((said,), *about, request_id=request_id, raw=raw)


def plain_chunk(value: Any) -> ChatChunk | None:
    """A chunk of one choice, which is text or nothing; None if it is anything else."""
    choice, about = _only_choice(value), _about(value)
    if choice is None or about is None or not choice.keys() <= _PIECE:
        return None
    delta, finish_reason = choice.get("delta"), choice.get("finish_reason")
    if type(delta) is not dict or not delta.keys() <= _DELTA or choice.get("logprobs") is not None:
        return None
    role, content = delta.get("role"), delta.get("content")
    if not (_is_text(role) and _is_text(content) and _is_text(finish_reason)):
        return None
    return ChatChunk((ChunkChoice(choice["index"], Delta(role, content), finish_reason),), *about, raw=value)


def _only_choice(value: Any) -> dict[str, Any] | None:
    """The choice of an answer that has one, and has it in its place."""
    choices = value.get("choices") if type(value) is dict and value.keys() <= _COMPLETION else None
    if type(choices) is not list or len(choices) != 1 or type(choice := choices[0]) is not dict:
        return None
    return choice if type(choice.get("index")) is int else None


def _about(value: Any) -> tuple[Usage | None, str, str, int] | None:
    """The usage, the id, the model and the time."""
    if type(value) is not dict:
        return None
    identity, model, created, usage = value.get("id"), value.get("model"), value.get("created"), value.get("usage")
    if type(identity) is not str or type(model) is not str or type(created) is not int:
        return None
    return (_usage(usage), identity, model, created) if usage is None or type(usage) is dict else None


def _is_text(value: object) -> bool:
    return value is None or type(value) is str


def _usage(report: dict[str, Any] | None) -> Usage | None:
    if report is None:
        return None
    if report.keys() == _COUNTS and all(type(count) is int for count in report.values()):
        return Usage(report["prompt_tokens"], report["completion_tokens"], report["total_tokens"])
    return decode_usage(report)
