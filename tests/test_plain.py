"""The short way to read a plain answer gives what the long way gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from isochat import Message, _request, _sse
from isochat._decode import decode_chunk, decode_completion
from isochat._plain import plain_chunk, plain_completion

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
    assert plain_completion(WHOLE, "r", b"") == decode_completion(WHOLE)
    assert plain_chunk(CHUNK) == decode_chunk(CHUNK)
    assert plain_chunk({**CHUNK, "usage": USAGE}) == decode_chunk({**CHUNK, "usage": USAGE})


@pytest.mark.parametrize(
    ("value", "short", "long"),
    [
        (WHOLE, lambda value: plain_completion(value, None, None), decode_completion),
        (CHUNK, plain_chunk, decode_chunk),
        ({**CHUNK, "usage": USAGE}, plain_chunk, decode_chunk),
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
        value = msgspec.json.decode(body)
        short = plain_completion(value, None, None)

        assert short is None or short == decode_completion(value)
        return
    for event in _sse.events_in(body):
        if event.data.startswith(b"{"):
            value = msgspec.json.decode(event.data)
            short_chunk = plain_chunk(value)

            assert short_chunk is None or short_chunk == decode_chunk(value)


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
