"""A stream, collected, is the answer that the same question gets unstreamed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from isochat import _wire
from isochat._gather import Gathering
from isochat._request import make_request
from isochat._retry import Retry, Tries
from isochat._sse import Event
from isochat._stream import ChatStream
from isochat._types import ChatChunk, ChatResponse, Logprobs, Message, Reasoning, Text, ToolCall, Usage
from isochat.backends import Backend
from isochat.backends._base import EVERYTHING
from isochat.errors import MalformedReply, ServiceError, StreamInterrupted

if TYPE_CHECKING:
    from collections.abc import Generator


def chunk(value: Any) -> ChatChunk:
    found = _wire.decode_event(Event(json.dumps(value).encode()))

    assert isinstance(found, ChatChunk)
    return found


def gathered(*chunks: Any) -> Gathering:
    gathering = Gathering()
    for value in chunks:
        gathering.add(chunk(value))
    return gathering


def collected(*chunks: Any) -> ChatResponse:
    return gathered(*chunks).response()


def piece(delta: Any, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, **fields}]}


def call(index: int | None = None, arguments: str = "", **fields: Any) -> dict[str, Any]:
    """A delta with a piece of a call in it."""
    name = fields.pop("name", None)
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"tool_calls": [{**({} if index is None else {"index": index}), **fields, "function": function}]}


def thought(text: str = "", signature: str | None = None) -> dict[str, Any]:
    summary = {"type": "summary_text", "text": text} | ({} if signature is None else {"signature": signature})
    return {"type": "reasoning", "summary": [summary]}


# ── twins ────────────────────────────────────────────────────────────────────────────────────────────────────────

SECRET = {"type": "reasoning", "summary": [{"type": "summary_encrypted_text", "data": "gAAA"}]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
F = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
G = {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{}"}}
NAMELESS = {"id": "", "function": F["function"]}


TWINS: dict[str, Any] = {
    "text": ([{"content": "He"}, {"content": "llo"}], {"content": "Hello"}),
    "empty text": ([{"content": ""}], {"content": ""}),
    "no content": ([{}, {}], {"content": None}),
    "null content": ([{"content": None}], {"content": None}),
    "thinking, then text": (
        [
            {"content": [thought("a")]},
            {"content": [thought("b")]},
            {"content": [thought("", "s")]},
            {"content": "Hi"},
            {"content": ""},
        ],
        {"content": [thought("ab", "s"), {"type": "text", "text": "Hi"}]},
    ),
    "thinking without a signature, text in blocks": (
        [
            {"content": [thought("a")]},
            {"content": [thought("b")]},
            {"content": [{"type": "text", "text": "H"}]},
            {"content": [{"type": "text", "text": "i"}]},
        ],
        {"content": [thought("ab"), {"type": "text", "text": "Hi"}]},
    ),
    "two signed thoughts": (
        [
            {"content": [thought("a")]},
            {"content": [thought("", "s")]},
            {"content": [thought("b")]},
            {"content": [thought("", "t")]},
        ],
        {"content": [thought("a", "s"), thought("b", "t")]},
    ),
    "two thoughts of which only the signatures are shown": (
        [{"content": [thought("", "s")]}, {"content": [thought("", "t")]}, {"content": "Hi"}],
        {"content": [thought("", "s"), thought("", "t"), {"type": "text", "text": "Hi"}]},
    ),
    "encrypted thoughts": (
        [{"content": [SECRET]}, {"content": [SECRET]}, {"content": "Hi"}],
        {"content": [SECRET, SECRET, {"type": "text", "text": "Hi"}]},
    ),
    "text, then thinking": (
        [{"content": "Hm."}, {"content": [thought("a")]}, {"content": "Hi"}],
        {"content": [{"type": "text", "text": "Hm."}, thought("a"), {"type": "text", "text": "Hi"}]},
    ),
    "a thought signature on text": (
        [
            {"content": [{"type": "text", "text": "H"}]},
            {"content": [{"type": "text", "text": "i", "thoughtSignature": "s"}]},
            {"content": ""},
        ],
        {"content": [{"type": "text", "text": "Hi", "thoughtSignature": "s"}]},
    ),
    "a picture": (
        [{"content": [{"type": "text", "text": "Here:"}]}, {"content": [PICTURE]}, {"content": ""}],
        {"content": [{"type": "text", "text": "Here:"}, PICTURE]},
    ),
    "an unknown block": (
        [{"content": [{"type": "hologram"}]}, {"content": "Hi"}],
        {"content": [{"type": "hologram"}, {"type": "text", "text": "Hi"}]},
    ),
    "text blocks in one piece": (
        [{"content": [{"type": "text", "text": "a", "citations": [1]}, {"type": "text", "text": "b"}]}],
        {"content": [{"type": "text", "text": "a", "citations": [1]}, {"type": "text", "text": "b"}]},
    ),
    "refusal": ([{"refusal": "N"}, {"refusal": "o."}], {"content": None, "refusal": "No."}),
    "a refusal in parts": (
        [{"content": [{"type": "refusal", "refusal": "N"}]}, {"content": [{"type": "refusal", "refusal": "o."}]}],
        {"content": [{"type": "refusal", "refusal": "No."}]},
    ),
    "reasoning beside": (
        [{"reasoning_content": "a"}, {"reasoning_content": "b"}, {"content": "Hi"}],
        {"content": "Hi", "reasoning_content": "ab"},
    ),
    "reasoning under two names": (
        [{"reasoning": "a", "reasoning_content": "a"}, {"content": "Hi"}],
        {"content": "Hi", "reasoning_content": "a"},
    ),
    "calls by index": (
        [
            call(0, id="1", type="function", name="f"),
            call(0, '{"a"'),
            call(0, ":1}"),
            call(1, id="2", type="function", name="g"),
            call(1, "{}"),
        ],
        {"content": None, "tool_calls": [F, G]},
    ),
    "calls mixed": (
        [
            call(0, id="1", type="function", name="f"),
            call(1, id="2", type="function", name="g"),
            call(0, '{"a":1}'),
            call(1, "{}"),
        ],
        {"content": None, "tool_calls": [F, G]},
    ),
    "calls without an index": (
        [
            call(id="1", type="function", name="f"),
            call(arguments='{"a":1}'),
            call(id="2", type="function", name="g", arguments="{}"),
        ],
        {"content": None, "tool_calls": [F, G]},
    ),
    "calls told apart by id alone": (
        [
            call(id="1", name="f"),
            call(id="2", name="g"),
            call(id="1", arguments='{"a":1}'),
            call(id="2", arguments="{}"),
        ],
        {"content": None, "tool_calls": [F, G]},
    ),
    "a new id under an old index": (
        [call(0, '{"a":1}', id="1", type="function", name="f"), call(0, "{}", id="2", type="function", name="g")],
        {"content": None, "tool_calls": [F, G]},
    ),
    "the same id with every piece": (
        [call(0, id="1", name="f"), call(0, '{"a"', id="1", name="f"), call(0, ":1}", id="1", name="f")],
        {"content": None, "tool_calls": [F]},
    ),
    "an empty id with later pieces": (
        [call(0, id="1", name="f"), call(0, '{"a":1}', id="", name="")],
        {"content": None, "tool_calls": [F]},
    ),
    "calls whose indexes begin at 1": ([call(1, '{"a":1}', id="1", name="f")], {"content": None, "tool_calls": [F]}),
    "empty arguments": (
        [call(0, id="1", name="f")],
        {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
    ),
    "prose and a call": (
        [{"content": "Look."}, call(0, '{"a":1}', id="1", name="f"), {"content": ""}],
        {"content": "Look.", "tool_calls": [F]},
    ),
    "a call with a thought signature": (
        [call(0, '{"a":1}', id="1", name="f", thoughtSignature="s")],
        {"content": None, "tool_calls": [{**F, "thoughtSignature": "s"}]},
    ),
    "the older function call": (
        [{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": '{"a":1}'}}],
        {"content": None, "function_call": F["function"]},
    ),
    "two calls in one piece whose ids are their names": (
        [
            {
                "tool_calls": [
                    {"id": "f", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "f", "function": {"name": "f", "arguments": "[]"}},
                ]
            }
        ],
        {
            "content": None,
            "tool_calls": [
                {"id": "f", "function": {"name": "f", "arguments": "{}"}},
                {"id": "f", "function": {"name": "f", "arguments": "[]"}},
            ],
        },
    ),
    "two calls in one piece, which only their names tell apart": (
        [{"tool_calls": [NAMELESS, {**NAMELESS, "function": G["function"]}, NAMELESS]}],
        {"content": None, "tool_calls": [NAMELESS, {**NAMELESS, "function": G["function"]}, NAMELESS]},
    ),
    "calls that only their names tell apart": (
        [
            call(id="", name="f"),
            call(arguments='{"a"', name="f"),
            call(arguments=":1}"),
            call(arguments="{}", name="g"),
        ],
        {"content": None, "tool_calls": [NAMELESS, {"function": G["function"]}]},
    ),
    "one call, not in a list": (
        [{"tool_calls": F | {"index": 0}}],
        {"content": None, "tool_calls": [F]},
    ),
    "a custom tool": (
        [
            {"tool_calls": [{"index": 0, "id": "1", "type": "custom", "custom": {"name": "f", "input": "a"}}]},
            {"tool_calls": [{"index": 0, "custom": {"input": "b"}}]},
        ],
        {"content": None, "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f", "input": "ab"}}]},
    ),
    "fields of their own": (
        [{"x": 1, "y": {"a": 1}}, {"y": {"b": 2}, "z": [1]}, {"z": [2]}],
        {"content": None, "x": 1, "y": {"a": 1, "b": 2}, "z": [1, 2]},
    ),
    "a null in an object": ([{"y": {"a": None}}, {"y": {"b": None}}], {"content": None, "y": {"a": None, "b": None}}),
    "equal pieces of a list that comes in pieces": (
        [{"reasoning_details": [{"text": "a"}]}, {"reasoning_details": [{"text": "a"}]}],
        {"content": None, "reasoning_details": [{"text": "a"}, {"text": "a"}]},
    ),
    "other reasoning under a second name": (
        [{"reasoning_content": "a", "reasoning": "x"}, {"reasoning_content": "b", "reasoning": "y"}],
        {"content": None, "reasoning_content": "ab", "reasoning": "xy"},
    ),
    "sound": (
        [{"audio": {"id": "a", "data": "AA", "transcript": "He"}}, {"audio": {"data": "BB", "transcript": "llo"}}],
        {"content": None, "audio": {"id": "a", "data": "AABB", "transcript": "Hello"}},
    ),
    "a message's id": ([{"id": "m1", "content": "a"}, {"id": "m1", "content": "b"}], {"id": "m1", "content": "ab"}),
    "a message's name": ([{"name": "sage", "content": "a"}, {"content": "b"}], {"name": "sage", "content": "ab"}),
    "a tool's result": ([{"tool_call_id": "1", "content": "9"}], {"tool_call_id": "1", "content": "9"}),
}


@pytest.mark.parametrize(
    ("deltas", "message"),
    TWINS.values(),
    ids=TWINS,
)
def test_twins(deltas: list[Any], message: dict[str, Any]) -> None:
    """Pieces put together equal the whole, and are said again like the whole."""
    role = {"role": "assistant"}
    chunks = [piece({**role, **deltas[0]}), *map(piece, deltas[1:]), piece({}, finish_reason="stop")]
    whole = _wire.decode_completion(
        {"choices": [{"index": 0, "message": {**role, **message}, "finish_reason": "stop"}]}
    )

    assert whole == collected(*chunks)
    assert whole.to_dict() == collected(*chunks).to_dict()


def test_role_on_every_piece_is_said_once() -> None:
    """Claude repeats the role on every chunk."""
    assert "assistant" == collected(*[piece({"role": "assistant", "content": "a"})] * 3).message.role


@pytest.mark.parametrize("content", ["a", [{"type": "text", "text": "a"}]], ids=["text", "parts"])
def test_choices_are_kept_apart(content: Any) -> None:
    """Two answers that come mixed are two answers, in order."""
    chunks = [{"choices": [{"index": index, "delta": {"content": content}}]} for index in (1, 0, 1)]

    assert [(0, "a"), (1, "aa")] == [(choice.index, choice.message.text) for choice in collected(*chunks).choices]


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([None, "stop"], "stop"),
        (["stop", None], "stop"),
        (["stop", ""], "stop"),
        (["", "stop"], "stop"),
        (["stop", "length"], "length"),
        ([None], None),
    ],
    ids=str,
)
def test_finish_reason(reasons: list[str | None], expected: str | None) -> None:
    """The last reason given stands; none later takes it back."""
    assert expected == collected(*(piece({}, finish_reason=reason) for reason in reasons)).finish_reason


@pytest.mark.parametrize(
    ("reasons", "finished"),
    [
        ([None], False),
        (["stop"], True),
        (["stop", None], True),
        (["", ""], False),
    ],
    ids=str,
)
def test_finished(reasons: list[str | None], *, finished: bool) -> None:
    """An answer has ended when it has said why."""
    assert finished is gathered(*(piece({}, finish_reason=reason) for reason in reasons)).finished


def test_finished_when_every_choice_is() -> None:
    """One of two choices that has ended is not the end."""
    begun = {"choices": [{"index": 1, "delta": {"content": "a"}}]}

    assert not gathered(begun, piece({}, finish_reason="stop")).finished


# ── what stands around the choices ───────────────────────────────────────────────────────────────────────────────


def test_names_are_the_first_that_say_something() -> None:
    """Azure's first chunk has an empty id and model, and a time of 0."""
    response = collected(
        {"id": "", "model": "", "created": 0, "choices": []},
        {"id": "c", "model": "m", "created": 5, "choices": []},
        {"id": "c", "model": "m", "created": 5, "choices": []},
    )

    assert ("c", "m", 5) == (response.id, response.model, response.created)


USAGES = {
    "null until the end, as Claude": (
        [
            {"prompt_tokens": 9, "completion_tokens": None},
            {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
        ],
        Usage(9, 5, 14),
    ),
    "growing with every chunk, as Llama": (
        [{"prompt_tokens": 9, "completion_tokens": n, "total_tokens": 9 + n} for n in (1, 2, 3)],
        Usage(9, 3, 12),
    ),
    "null after numbers": (
        [{"prompt_tokens": 9, "completion_tokens": 5}, {"prompt_tokens": None, "completion_tokens": None}],
        Usage(9, 5),
    ),
    "absent after numbers": ([{"prompt_tokens": 9, "completion_tokens": 5}, None], Usage(9, 5)),
    "smaller at the end": ([{"completion_tokens": 5}, {"completion_tokens": 3}], Usage(None, 3)),
    "nothing": ([None, None], None),
    "caches": (
        [{"cache_read_input_tokens": 4, "cache_creation_input_tokens": 0}, {"completion_tokens": 5}],
        Usage(None, 5, None, 4, 0, None, {"cache_read_input_tokens": 4, "cache_creation_input_tokens": 0}),
    ),
}


@pytest.mark.parametrize(("reports", "expected"), USAGES.values(), ids=USAGES)
@pytest.mark.parametrize("choices", [True, False], ids=["beside choices", "alone"])
def test_usage_is_the_last_number_never_a_sum(reports: list[Any], expected: Usage | None, *, choices: bool) -> None:
    """Each count is the last that was one, on whichever chunks it comes."""
    chunks = [{"choices": [], **(piece({}) if choices else {}), "usage": report} for report in reports]

    assert expected == collected(*chunks).usage


def test_other_fields_fold() -> None:
    """What stands beside the choices is kept: objects fold, null says nothing, else the latest stands."""
    response = collected(
        {"choices": [], "trace_id": "a", "filters": {"hate": 1}},
        {"choices": [], "trace_id": None, "filters": {"rage": {"x": 1}}},
        {"trace_id": "b"},
    )

    assert {"trace_id": "b", "filters": {"hate": 1, "rage": {"x": 1}}} == response.extra


def token(text: str, **more: Any) -> dict[str, Any]:
    return {"token": text, "logprob": -1.0, **more}


LOGPROBS = {
    "content": ([{"content": [token("a")]}, {"content": [token("b")]}], {"content": [token("a"), token("b")]}),
    "refusal": ([{"refusal": [token("a")]}, {"refusal": [token("b")]}], {"refusal": [token("a"), token("b")]}),
    "some chunks without": ([None, {"content": [token("a")]}, None], {"content": [token("a")]}),
    "null at the end": ([{"content": [token("a")]}, {"content": None}], {"content": [token("a")]}),
    "empty at the end": ([{"content": [token("a")]}, {"content": []}], {"content": [token("a")]}),
    "empty": ([{"content": []}], {"content": []}),
    "empty twice": ([{"content": []}, {"content": []}], {"content": []}),
    "more in a token": (
        [{"content": [token("a", id=1)]}, {"content": [token("b", id=2)]}],
        {"content": [token("a", id=1), token("b", id=2)]},
    ),
    "an older form": ([{"tokens": ["a"]}, {"tokens": ["b"]}], {"tokens": ["a", "b"]}),
}


@pytest.mark.parametrize(
    ("said", "whole"),
    LOGPROBS.values(),
    ids=LOGPROBS,
)
def test_logprobs(said: list[Any], whole: dict[str, Any]) -> None:
    """Log probabilities add up to those of the whole answer."""
    expected = _wire.decode_completion({"choices": [{"index": 0, "message": {}, "logprobs": whole}]}).choices[0]
    found = collected(*(piece({}, logprobs=logprobs) for logprobs in said)).choices[0].logprobs

    assert isinstance(expected.logprobs, Logprobs)
    assert expected.logprobs == found


# ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────

ROUND = [
    {
        "role": "assistant",
        "content": "",
        "id": "m1",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "content": "9", "id": "m2", "tool_call_id": "1", "name": "f"},
    {"role": "assistant", "content": "Nine.", "id": "m3"},
]


def test_agent_round() -> None:
    """An agent's stream of several messages is its unstreamed answer: the last assistant's, with all in `extra`."""
    assert _wire.decode_completion({"messages": ROUND}) == collected(*({"delta": message} for message in ROUND))


def test_agent_message_in_pieces() -> None:
    """Pieces with the same id are one message."""
    response = collected(*({"delta": {"role": "assistant", "content": text, "id": "m1"}} for text in ("Ni", "ne.")))

    assert (Message("assistant", "Nine.", extra={"id": "m1"}), {}) == (response.message, response.extra)


def test_whole_answer_of_an_agent_where_a_piece_was_expected() -> None:
    """Nothing of its message is lost."""
    answer = {"messages": [{"role": "assistant", "content": "Nine.", "id": "m", "name": "sage", "tool_call_id": "1"}]}

    assert _wire.decode_completion(answer) == collected(answer)


def test_agent_round_without_ids() -> None:
    """A new role is a new message, id or none: a tool's result is no part of the answer."""
    deltas = [{name: value for name, value in message.items() if name != "id"} for message in ROUND]

    assert "Nine." == collected(*({"delta": delta} for delta in deltas)).text


def test_agent_outputs() -> None:
    """What an agent says beside its delta is kept."""
    response = collected(
        {"delta": {"content": "a", "id": "m"}, "custom_outputs": {"x": 1}}, {"databricks_output": {"trace": {}}}
    )

    assert {"custom_outputs": {"x": 1}, "databricks_output": {"trace": {}}} == response.extra


# ── so far ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_gathered() -> None:
    """Before anything has come, the answer is an empty one."""
    gathering = Gathering()

    assert (ChatResponse(), True, False) == (gathering.response(), gathering.empty, gathering.finished)


def test_so_far() -> None:
    """What has come so far can be had at any time, and more may come after."""
    gathering = gathered(piece({"role": "assistant", "content": "He"}))
    before = gathering.response()
    gathering.add(chunk(piece({"content": "llo"})))

    assert ("He", "Hello") == (before.text, gathering.response().text)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"x": {"a": 1}}, {"x": {"b": 1}}),
        ({"x": [1]}, {"x": [2]}),
        (call(0, "{", id="1", name="f"), call(0, "}", thoughtSignature="s")),
        ({"content": [{"type": "text", "text": "a", "x": {}}]}, {"content": [{"type": "text", "text": "b", "y": 1}]}),
    ],
    ids=["an object", "a list", "a call", "a part"],
)
def test_so_far_does_not_change_afterwards(first: Any, second: Any) -> None:
    """An answer once given stays as it is when more arrives."""
    gathering = gathered(piece(first))
    before = gathering.response()
    said = json.dumps(before.to_dict())
    gathering.add(chunk(piece(second)))
    gathering.response()

    assert said == json.dumps(before.to_dict())


def test_chunks_stay_as_they_are() -> None:
    """Gathering changes nothing of the chunks that the caller holds."""
    values = [
        piece({"x": {"a": [1]}, "content": [{"type": "text", "text": "a", "y": {"b": 1}}]}),
        piece({"x": {"a": [2]}}),
    ]
    chunks = [chunk(value) for value in values]
    gathering = Gathering()
    for each in (*chunks, *chunks):
        gathering.add(each)
    gathering.response()

    assert [chunk(value) for value in values] == chunks


def test_very_many_chunks() -> None:
    """A long answer costs its length."""
    gathering = Gathering()
    each = chunk(piece({"content": "ab", "reasoning_content": "c"}))
    for _ in range(20_000):
        gathering.add(each)

    assert 40_000 == len(gathering.response().text)


# ── as a stream is read ──────────────────────────────────────────────────────────────────────────────────────────


class Canned(Backend):
    """A backend whose service sends these bytes, in these pieces."""

    name: ClassVar[str] = "canned"
    carries: ClassVar[frozenset[str]] = EVERYTHING

    def __init__(self, *pieces: bytes, status: int = 200, content_type: str = "text/event-stream") -> None:
        self.pieces, self.status = pieces, status
        self.headers = {"content-type": content_type, "x-request-id": "r1"}

    def encode(self, request: Any) -> None:
        return None

    def send(self, call: Any, timeout: float) -> Any:
        raise NotImplementedError

    def decode(self, reply: Any) -> ChatResponse:
        raise NotImplementedError

    def stream(self, call: Any, timeout: float) -> Generator[Any, None, None]:
        incoming = _wire.Incoming(self.status, self.headers)
        yield incoming.head
        for read in self.pieces:
            yield from incoming.feed(read)
        yield from incoming.close()

    def decode_event(self, event: Any) -> Any:
        return _wire.decode_event(event)


def opened(*pieces: bytes, **fields: Any) -> ChatStream:
    request = make_request("Hi", endpoint="e", stream=True)
    return ChatStream.open(Canned(*pieces, **fields), request, Tries(Retry(attempts=1)))


def sse(*values: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


BEGUN = sse(piece({"role": "assistant", "content": "Hel"}))
ENDED = sse(piece({"content": "lo"}, finish_reason="stop"))
DONE = b"data: [DONE]\n\n"
COMPLAINT = sse({"error": {"message": "No.", "code": "INTERNAL_ERROR"}})


@pytest.mark.parametrize("end", [ENDED, ENDED + DONE, sse(piece({"content": "lo"})) + DONE, ENDED + b": bye\n\n"])
def test_complete_stream(end: bytes) -> None:
    """A stream is complete with a finish reason or with `[DONE]`."""
    stream = opened(BEGUN, end)

    assert ["Hel", "lo"] == [chunk.text for chunk in stream]
    assert ("Hello", "r1") == (stream.response.text, stream.response.request_id)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_stream_in_small_reads(size: int) -> None:
    """However small the reads, the answer is the same."""
    body = BEGUN + ENDED + DONE
    stream = opened(*(body[place : place + size] for place in range(0, len(body), size)))

    assert "Hello" == stream.response.text


@pytest.mark.parametrize("rest", [b"", COMPLAINT, b"data: {\n\n"], ids=["nothing", "a complaint", "half an event"])
def test_broken_stream_keeps_what_came(rest: bytes) -> None:
    """A stream that breaks says so, and keeps what had arrived."""
    stream = opened(BEGUN, rest)
    with pytest.raises(StreamInterrupted) as caught:
        list(stream)

    assert caught.value.partial is not None
    assert ("Hel", "r1") == (caught.value.partial.text, caught.value.partial.request_id)
    assert (rest == COMPLAINT) is isinstance(caught.value.error, ServiceError)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b": ping\n\n",
        b"event: x\n\n",
    ],
    ids=ascii,
)
def test_stream_of_nothing(body: bytes) -> None:
    """A stream that holds nothing is no answer."""
    with pytest.raises(MalformedReply):
        opened(body)


def test_complaint_at_the_start_has_the_request_id() -> None:
    """A stream that begins with a complaint is that complaint, with the identifier to quote."""
    with pytest.raises(ServiceError) as caught:
        opened(COMPLAINT)

    assert "r1" == caught.value.request_id


def test_complaint_in_the_middle_has_the_request_id() -> None:
    """The same in the middle."""
    with pytest.raises(StreamInterrupted) as caught:
        list(opened(BEGUN, COMPLAINT))

    assert caught.value.error is not None
    assert "r1" == caught.value.error.request_id


def test_broken_stream_has_no_whole_answer() -> None:
    """After the stream has broken, `response` does not pass off its beginning as the answer; `partial` has that."""
    stream = opened(BEGUN)
    with pytest.raises(StreamInterrupted):
        list(stream)

    assert "Hel" == stream.partial.text
    with pytest.raises(StreamInterrupted):
        stream.response  # noqa: B018 - reading it is the question


def test_stream_left_early_has_no_whole_answer() -> None:
    """The same for a stream that the caller left."""
    with opened(BEGUN, ENDED, DONE) as stream:
        next(stream)

    assert "Hel" == stream.partial.text
    with pytest.raises(StreamInterrupted):
        stream.response  # noqa: B018 - reading it is the question


def test_values_of_a_gathered_answer() -> None:
    """What is put together is made of the same values as what came whole."""
    response = collected(
        piece({"role": "assistant", "content": [thought("a", "s")]}),
        piece({"content": "Hi"}),
        piece(call(0, id="1", name="f")),
    )

    assert (Reasoning("a", "s"), Text("Hi")) == response.message.content
    assert (ToolCall("1", "f"),) == response.tool_calls
