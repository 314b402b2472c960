"""The short way to read a plain answer gives what the long way gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isochat import ChatChunk, ChatResponse, Message, _request, _sse
from isochat._decode import decode_chunk, decode_completion
from isochat._plain import plain_chunk, plain_completion
from isochat._types import Later, unmade_raw
from isochat._wire import read_json

WIRE = Path(__file__).parent / "wire"
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
ABOUT = {"id": "c", "object": "chat.completion", "created": 1_700_000_000, "model": "m"}
MESSAGE = {"role": "assistant", "content": "Hi."}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}
PIECE = {"index": 0, "delta": {"role": "assistant", "content": "Hi."}, "finish_reason": None}
WHOLE = {**ABOUT, "choices": [CHOICE], "usage": USAGE}
CHUNK = {**ABOUT, "choices": [PIECE]}

#: What may stand in place of any field, or beside it.
ODD: list[Any] = [None, True, 0, 1, 1.5, "", "x", [], [1], {}, {"a": 1}, 2**70]


def odd_ones(value: Any) -> list[Any]:
    """The value with one field gone, of another kind, or too many, anywhere in it."""
    if isinstance(value, list):
        return [[odd] for item in value for odd in odd_ones(item)] + [[], value * 2, *ODD]
    if not isinstance(value, dict):
        return list(ODD)
    without = [{k: v for k, v in value.items() if k != name} for name in value]
    changed = [{**value, name: odd} for name, item in value.items() for odd in odd_ones(item)]
    more = [{**value, name: odd} for name in ("error", "error_code", "reasoning", "tool_calls", "n") for odd in ODD]
    return [value, *without, *changed, *more, *ODD]


def outcome(read: Any, value: Any) -> Any:
    try:
        return read(value)
    except Exception as error:  # noqa: BLE001 - that it refuses is the outcome
        return type(error), str(error)


def test_the_plain_ones_are_read_here() -> None:
    """The answers and the chunks that most are take the short way."""
    assert whole(WHOLE) == decode_completion(WHOLE)
    assert piece(CHUNK) == decode_chunk(CHUNK)
    assert piece({**CHUNK, "usage": USAGE}) == decode_chunk({**CHUNK, "usage": USAGE})


def whole(value: Any) -> ChatResponse | None:
    return plain_completion(json.dumps(value).encode(), None, None)


def piece(value: Any) -> ChatChunk | None:
    return plain_chunk(json.dumps(value).encode())


def test_a_chunks_raw_is_read_when_it_is_asked_for() -> None:
    chunk = piece(CHUNK)

    assert chunk is not None
    assert isinstance(unmade_raw(chunk), Later)
    assert chunk.raw == CHUNK
    assert unmade_raw(chunk) is chunk.raw


@pytest.mark.parametrize(
    "said",
    [
        b'{"created": 1.0}',
        b'{"created": 1e3}',
        b'{"created": -0}',
        b'{"created": 123456789012345678901234567890}',
        b'{"id": "one", "id": "other"}',
        b'{"id": "\\ud83d"}',
        b'{"id": "\xff"}',
        b'{"id": "\\u0000"}',
        b'{"created": NaN}',
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b"{",
        b"",
        b"[]",
        b'{"usage": ' + b"[" * 5000,
    ],
)
@pytest.mark.parametrize("plain", [WHOLE, CHUNK], ids=["a completion", "a chunk"])
def test_any_odd_bytes_are_read_the_same(said: bytes, plain: dict[str, Any]) -> None:
    """What JSON can say and `json.dumps` does not."""
    inner = said[1:].removesuffix(b"}") if said.startswith(b"{") and len(said) > 1 else None
    body = said if inner is None else json.dumps(plain).encode()[:-1] + b", " + inner + b"}"
    short = plain_completion(body, None, None) if plain is WHOLE else plain_chunk(body)
    long = outcome(lambda body: (decode_completion if plain is WHOLE else decode_chunk)(read_json(body)), body)

    assert short is None or short == long


@pytest.mark.parametrize(
    ("value", "short", "long"),
    [
        (WHOLE, whole, decode_completion),
        (CHUNK, piece, decode_chunk),
        ({**CHUNK, "usage": USAGE}, piece, decode_chunk),
    ],
    ids=["a completion", "a chunk", "a chunk with usage"],
)
def test_any_odd_one_is_read_the_same(value: Any, short: Any, long: Any) -> None:
    """Whatever differs from the plain one is left to the long way, or read as that reads it."""
    differ = [odd for odd in odd_ones(value) if (said := short(odd)) is not None and said != outcome(long, odd)]

    assert [] == differ


@pytest.mark.parametrize("sample", sorted(path.name for path in WIRE.iterdir() if path.suffix in {".json", ".sse"}))
def test_every_sample_is_read_the_same(sample: str) -> None:
    """The samples of the service's own replies too."""
    body = (WIRE / sample).read_bytes()
    if sample.endswith(".json"):
        short = plain_completion(body, None, None)

        assert short is None or short == decode_completion(msgspec.json.decode(body))
        return
    for event in _sse.events_in(body):
        if event.data.startswith(b"{"):
            short_chunk = plain_chunk(event.data)

            assert short_chunk is None or short_chunk == decode_chunk(msgspec.json.decode(event.data))


def test_a_message_is_read_the_same() -> None:
    """A caller's message that only says who and what, and any that differs from one."""
    said = {"role": "user", "content": "Hi."}
    roles = ["user", "assistant", "system", "developer", "tool", "function", "human", "", None, 1]
    texts: list[Any] = ["", "Hi.", "grün", "\ud83d", None, ["Hi."], [{"type": "text", "text": "Hi."}]]
    several = [*odd_ones(said), *({"role": role, "content": text} for role in roles for text in texts)]
    found = [_request._message(one, "m") for one in several if isinstance(outcome(read_one, one), Message)]

    assert 20 < len(found) < len(several)
    assert [] == [one for one in several if isinstance(one, dict) and outcome(read_one, one) != outcome(read_long, one)]


def read_one(said: Any) -> Message:
    return _request._message(said, "m")


def read_long(said: Any) -> Message:
    return _request._from_mapping(said, "m")
