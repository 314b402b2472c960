"""The sample replies of `tests/wire` decode to what their index says, however the bytes come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isochat import _refusal, _wire
from isochat._gather import Gathering
from isochat._types import ChatChunk, ChatResponse
from isochat.errors import ServiceError, StreamInterrupted

WIRE = Path(__file__).parent / "wire"
INDEX = json.loads((WIRE / "index.json").read_bytes())


def rows(*kinds: str) -> list[Any]:
    return [pytest.param(row, id=row["file"]) for row in INDEX if row["kind"] in kinds]


def body(row: dict[str, Any]) -> bytes:
    return (WIRE / row["file"]).read_bytes()


def events(row: dict[str, Any], *pieces: bytes) -> list[Any]:
    incoming = _wire.Incoming(row["status"], row["headers"])
    return [*(event for piece in pieces for event in incoming.feed(piece)), *incoming.close()]


def collected(found: list[Any]) -> tuple[ChatResponse, ServiceError | None]:
    """What had been gathered when the events ended, or when one of them was a complaint."""
    gathering = Gathering()
    try:
        for event in found:
            if isinstance(chunk := _wire.decode_event(event), ChatChunk):
                gathering.add(chunk)
    except ServiceError as error:
        return gathering.response(), error
    return gathering.response(), None


def facts(response: ChatResponse) -> dict[str, Any]:
    """An answer in the words of the index."""
    usage = response.usage
    return {
        "choices": [
            {
                "index": choice.index,
                "text": choice.message.text,
                "reasoning": choice.message.reasoning or "",
                "refusal": choice.message.refusal,
                "tool_calls": [[call.id, call.name, call.arguments] for call in choice.message.tool_calls],
                "finish_reason": choice.finish_reason,
            }
            for choice in response.choices
        ],
        "usage": None if usage is None else [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens],
        "id": response.id,
        "model": response.model,
    }


def test_index_lists_every_file() -> None:
    """A sample that no row names would be tested by nobody."""
    files = {path.name for path in WIRE.glob("[!.]*.*")} - {"README.md", "index.json"}

    assert sorted(files) == sorted(row["file"] for row in INDEX)


@pytest.mark.parametrize("row", rows("chat.json", "chat.sse", "error.json", "error.text"))
def test_source_is_named(row: dict[str, Any]) -> None:
    """Where a shape was seen stands beside it."""
    assert row["source"].strip()
    assert row["shape"].strip()


@pytest.mark.parametrize("row", rows("chat.json"))
def test_whole(row: dict[str, Any]) -> None:
    """A whole answer says what its row says."""
    response = _wire.decode_reply(_wire.Reply(row["status"], row["headers"], body(row)))

    assert row["expected"] == facts(response)


@pytest.mark.parametrize("row", rows("chat.sse"))
def test_stream(row: dict[str, Any]) -> None:
    """A collected stream says what its row says, up to the error in its middle if it has one."""
    expected = dict(row["expected"])
    complaint = expected.pop("error", None)
    response, error = collected(events(row, body(row)))

    assert expected == facts(response)
    assert complaint == (error and {"status": error.status, "code": error.error_code, "message": error.message})


@pytest.mark.parametrize("row", rows("chat.sse"))
def test_stream_split_anywhere(row: dict[str, Any]) -> None:
    """Where the network cuts a stream in two makes no difference."""
    said = body(row)
    whole = events(row, said)

    for cut in range(1, len(said)):
        assert whole == events(row, said[:cut], said[cut:]), cut


@pytest.mark.parametrize("row", rows("chat.sse"))
def test_stream_byte_by_byte(row: dict[str, Any]) -> None:
    """A stream that comes a byte at a time is the same stream."""
    said = body(row)

    assert events(row, said) == events(row, *(said[place : place + 1] for place in range(len(said))))


@pytest.mark.parametrize("row", rows("chat.sse"))
def test_stream_to_a_plain_question(row: dict[str, Any]) -> None:
    """An endpoint that streams although nobody asked it to is read all the same; what breaks, breaks as a stream."""
    reply = _wire.Reply(row["status"], row["headers"], body(row))
    response, error = collected(events(row, body(row)))
    if error is not None:
        with pytest.raises(StreamInterrupted) as broken:
            _wire.decode_reply(reply)

        assert type(error) is type(broken.value.error)
        assert response == broken.value.partial
        return

    assert response == _wire.decode_reply(reply)


@pytest.mark.parametrize("row", rows("chat.json"))
def test_whole_to_a_question_for_a_stream(row: dict[str, Any]) -> None:
    """An endpoint that does not stream although it was asked to gives, collected, the same answer."""
    whole = _wire.decode_reply(_wire.Reply(row["status"], row["headers"], body(row)))
    response, error = collected(events(row, body(row)))

    assert error is None
    assert whole == response
    assert whole.to_dict() == response.to_dict()


@pytest.mark.parametrize("row", rows("error.json", "error.text"))
def test_error(row: dict[str, Any]) -> None:
    """A refusal keeps its status and code, and says the innermost sentence that the body holds."""
    expected = row["expected"]["error"]
    reply = _wire.Reply(row["status"], row["headers"], body(row))
    with pytest.raises(ServiceError) as caught:
        _wire.decode_reply(reply)
    error = caught.value

    assert expected["status"] == error.status
    assert (None if expected["code"] is None else str(expected["code"])) == error.error_code
    if "guardrail" in expected.get("inner", ""):  # a verdict has no sentence: ours names what it found
        assert "input guardrail stopped it: violent-crimes" == error.message
    elif expected["message"]:
        assert expected.get("inner", expected["message"]).strip() in error.message
    else:
        assert "an empty body" in error.message


@pytest.mark.parametrize("row", rows("error.json", "error.text"))
def test_error_to_a_question_for_a_stream(row: dict[str, Any]) -> None:
    """A refusal is the same whether or not a stream was asked for."""
    plain = _refusal.service_error(row["status"], row["headers"], body(row))
    _, error = collected(events(row, body(row)))

    assert (type(plain), plain.message, plain.error_code, plain.status, plain.retry_after) == (
        type(error),
        error and error.message,
        error and error.error_code,
        error and error.status,
        error and error.retry_after,
    )
