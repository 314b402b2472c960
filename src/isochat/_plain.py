"""The plainest answers, read by the shortest way. Pure.

Most of what arrives is text under a handful of fields, and a streamed answer says the same ones hundreds of times. Here
those are read straight from the bytes into the fields that they are expected in; whatever has one field more, or one of
another kind, is `None` here and left to `_decode`, which gives the same for the plain ones too. `tests/test_plain.py`
holds the two to each other.
"""

from __future__ import annotations

from typing import Any

import msgspec

from isochat._decode import reported
from isochat._frozen import maker
from isochat._types import ChatChunk, ChatResponse, Choice, ChunkChoice, Delta, Later, Message, Usage


class _Fields(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON object of these fields, and of no other."""


class _Said(_Fields, kw_only=True):
    """What a completion and a chunk say of themselves."""

    id: str
    model: str
    created: int
    usage: dict[str, Any] | None = None
    object: Any = None


class _Message(_Fields):
    role: str
    content: str


class _Choice(_Fields):
    index: int
    message: _Message
    finish_reason: str


class _Completion(_Said):
    choices: tuple[_Choice]


class _Delta(_Fields):
    role: str | None = None
    content: str | None = None


class _Piece(_Fields):
    index: int
    delta: _Delta
    finish_reason: str | None = None
    logprobs: None = None


class _Chunk(_Said):
    choices: tuple[_Piece]


_COUNTS = {"prompt_tokens", "completion_tokens", "total_tokens"}
_completion = msgspec.json.Decoder(_Completion).decode
_chunk = msgspec.json.Decoder(_Chunk).decode
_make_answer, _make_choice, _make_message = maker(ChatResponse), maker(Choice), maker(Message)
_make_chunk, _make_piece, _make_delta, _make_usage = maker(ChatChunk), maker(ChunkChoice), maker(Delta), maker(Usage)
_NOT_PLAIN = (msgspec.DecodeError, UnicodeError, RecursionError)  # or no JSON at all, which `_decode` says better


def plain_completion(body: bytes, request_id: str | None, raw: Any) -> ChatResponse | None:
    """A completion of one choice, which is text; None if it is anything else."""
    try:
        said = _completion(body)
    except _NOT_PLAIN:
        return None
    (choice,) = said.choices
    message = _make_message(choice.message.role, choice.message.content)
    choices = (_make_choice(choice.index, message, choice.finish_reason),)
    usage = None if said.usage is None else _usage(said.usage)
    return _make_answer(choices, usage, said.id, said.model, said.created, request_id=request_id, raw=raw)


def plain_chunk(data: bytes) -> ChatChunk | None:
    """A chunk of one choice, which is text or nothing; None if it is anything else."""
    try:
        said = _chunk(data)
    except _NOT_PLAIN:
        return None
    (piece,) = said.choices
    choices = (_make_piece(piece.index, _make_delta(piece.delta.role, piece.delta.content), piece.finish_reason),)
    usage = None if said.usage is None else _usage(said.usage)
    return _make_chunk(choices, usage, said.id, said.model, said.created, raw=Later(msgspec.json.decode, (data,)))


def _usage(report: dict[str, Any]) -> Usage | None:
    if report.keys() == _COUNTS and all(type(count) is int for count in report.values()):
        return _make_usage(report["prompt_tokens"], report["completion_tokens"], report["total_tokens"])
    return reported(report)
