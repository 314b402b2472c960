"""Whatever comes from outside, be it from the service or from the caller, ends in a value or in an error of ours."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import math
import os
import types
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import MagicMock, Mock, NonCallableMock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isochat import _refusal, _sse, _wire
from isochat._gather import Gathering
from isochat._request import make_request, read_messages
from isochat._retry import Retry, Tries
from isochat._stream import ChatStream
from isochat._types import ChatChunk, ChatResponse, Image, Message, Text, ToolCall, Unknown, written_by
from isochat.backends import Backend
from isochat.backends._base import EVERYTHING
from isochat.errors import ChatError, InvalidRequest, MalformedReply, ServiceError

if TYPE_CHECKING:
    from collections.abc import Generator

examples = settings(
    max_examples=int(os.environ.get("ISOCHAT_EXAMPLES", "120")),
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)

# ── what may come ────────────────────────────────────────────────────────────────────────────────────────────────

# The words of the wire, so that chance builds what is nearly an answer.
WORDS = """
id object created model choices index message delta role content tool_calls function function_call name arguments type
text reasoning summary signature data usage prompt_tokens completion_tokens total_tokens prompt_tokens_details
cached_tokens logprobs token logprob bytes top_logprobs refusal reasoning_content thinking image_url url detail
messages predictions finish_reason error error_code code status retry_after details request_id external_model_error
input_guardrail output_guardrail categories annotations audio transcript custom input tool_call_id custom_outputs x
""".split()  # noqa: SIM905 - a list of words
SAYINGS = [
    "assistant",
    "user",
    "tool",
    "stop",
    "length",
    "text",
    "reasoning",
    "function",
    "custom",
    "image_url",
    "",
    "{}",
    '{"message": "x"}',
]
text = st.text(max_size=8) | st.sampled_from(SAYINGS)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.just(10**40)
)
json_values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=24,
)


def some(**fields: Any) -> Any:
    """An object with some of these fields, and perhaps others."""
    return st.fixed_dictionaries({}, optional=fields | {"x": json_values})


# Answers that are nearly right: every field is there, not there, or something else.
parts = st.lists(
    some(
        type=st.sampled_from(SAYINGS),
        text=text,
        summary=st.lists(some(text=text, signature=text, data=text), max_size=3),
        image_url=json_values,
    )
    | json_values,
    max_size=4,
)
calls = st.lists(
    some(
        index=st.integers(0, 2) | json_values,
        id=text,
        type=st.sampled_from(["function", "custom"]),
        function=some(name=text, arguments=text | json_values),
    )
    | json_values,
    max_size=3,
)
messages = some(
    role=text | json_values,
    content=text | parts | json_values,
    tool_calls=calls | json_values,
    refusal=json_values,
    reasoning_content=text,
    function_call=json_values,
    id=text,
)
token_lists = st.lists(
    some(token=text, logprob=st.floats(-9, 0) | json_values, bytes=json_values, top_logprobs=json_values), max_size=3
)
choices = some(
    index=st.integers(0, 2) | json_values,
    message=messages | json_values,
    delta=messages | json_values,
    finish_reason=text | json_values,
    logprobs=some(content=token_lists | json_values, refusal=json_values) | json_values,
    text=json_values,
)
usages = some(
    **dict.fromkeys(
        ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "prompt_tokens_details"), json_values
    )
)
nearly = some(
    id=text | json_values,
    model=text | json_values,
    created=json_values,
    choices=st.lists(choices, max_size=3),
    usage=usages | json_values,
    messages=st.lists(messages, max_size=3),
    delta=messages,
    error=json_values,
    error_code=json_values,
    predictions=json_values,
)
answers = nearly | json_values
types_said = st.sampled_from(["application/json", "text/event-stream", "text/html", "", "nonsense; charset=x"])
headers = st.fixed_dictionaries(
    {"content-type": types_said},
    optional={"x-request-id": text, "retry-after": text | st.integers().map(str), "retry-after-ms": text, "date": text},
)
statuses = st.sampled_from(
    [200, 200, 200, 201, 204, 299, 301, 400, 401, 403, 404, 408, 413, 422, 429, 499, 500, 502, 503, 599]
) | st.integers(100, 999)


def used(response: ChatResponse) -> ChatResponse:
    """Read all of an answer that a user may read."""
    for each in (
        response.message,
        response.text,
        response.reasoning,
        response.refusal,
        response.tool_calls,
        response.finish_reason,
    ):
        repr(each)
    for call in response.tool_calls:
        with contextlib.suppress(MalformedReply):
            call.parse()
    repr(response)
    hash(response)
    json.dumps(response.to_dict())
    json.dumps(response.message.to_dict())

    assert isinstance(response, ChatResponse)
    assert response == response  # noqa: PLR0124 - that it can be compared is the question
    return response


def ends_well(reply: _wire.Reply) -> None:
    try:
        used(_wire.decode_reply(reply))
    except ChatError as error:
        assert len(str(error)) < 5000  # noqa: PT017 - one of two good ends


# ── whole replies ────────────────────────────────────────────────────────────────────────────────────────────────


@examples
@given(statuses, headers, answers)
def test_any_json_as_a_reply(status: int, said: dict[str, str], value: Any) -> None:
    """Any JSON under any status is an answer that can be read, or an error of ours."""
    ends_well(_wire.Reply(status, said, json.dumps(value).encode()))


@examples
@given(statuses, headers, st.binary(max_size=200))
def test_any_bytes_as_a_reply(status: int, said: dict[str, str], body: bytes) -> None:
    """Any bytes under any status are an answer that can be read, or an error of ours."""
    ends_well(_wire.Reply(status, said, body))


@examples
@given(headers, answers, st.data())
def test_any_damage_to_a_reply(said: dict[str, str], value: Any, data: st.DataObject) -> None:
    """A reply cut short or with a byte changed is an answer that can be read, or an error of ours."""
    body = bytearray(json.dumps(value, ensure_ascii=False).encode())
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    ends_well(_wire.Reply(200, said, bytes(body[: data.draw(st.integers(0, len(body)))])))


@examples
@given(answers)
def test_to_dict_settles(value: Any) -> None:
    """An answer that is stored, read and stored again and again stays as it is, and never loses its text."""
    try:
        response = _wire.decode_completion(value)
    except ChatError:
        return
    once = _wire.decode_completion(json.loads(json.dumps(response.to_dict())))
    twice = _wire.decode_completion(json.loads(json.dumps(once.to_dict())))

    assert once.to_dict() == twice.to_dict()
    assert response.text == once.text == twice.text


@examples
@given(messages)
def test_what_was_answered_can_be_asked_with(value: dict[str, Any]) -> None:
    """An answer's message goes into the next question as JSON, or is left out for it says nothing, or is refused."""
    try:
        response = _wire.decode_completion({"choices": [{"message": value}]})
        request = make_request([("user", "Hi"), response], endpoint="e")
    except ChatError:
        return

    (_, *said) = json.loads(_wire.to_bytes(_wire.request_to_json(request)))["messages"]

    assert len(said) <= 1
    assert all((response.message.role or "assistant") == message["role"] for message in said)
    assert said or not (response.text or response.tool_calls)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────


@examples
@given(
    st.none() | statuses,
    headers,
    json_values
    | st.binary(max_size=100)
    | json_values.map(lambda value: {"error_code": "X", "message": json.dumps(value)}),
)
def test_any_refusal(status: int | None, said: dict[str, str], body: Any) -> None:
    """Any body of any refusal gives a `ServiceError` with a message, and a wait that can be waited."""
    error = _refusal.service_error(status, said, body)

    assert isinstance(error, ServiceError)
    assert error.message
    assert status == error.status
    assert error.retry_after is None or 0 <= error.retry_after < math.inf
    assert error.error_code is None or isinstance(error.error_code, str)


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Canned(Backend):
    """A backend whose service sends these bytes, in these pieces."""

    name: ClassVar[str] = "canned"
    carries: ClassVar[frozenset[str]] = EVERYTHING

    def __init__(self, status: int, headers: dict[str, str], pieces: list[bytes]) -> None:
        self.status, self.headers, self.pieces = status, headers, pieces

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


def streamed(status: int, said: dict[str, str], pieces: list[bytes]) -> ChatResponse | str:
    """What a stream comes to when it is read to its end, or what its error says."""
    request = make_request("Hi", endpoint="e", stream=True)
    try:
        stream = ChatStream.open(Canned(status, said, pieces), request, Tries(Retry(attempts=1)))
        for chunk in stream:
            repr((chunk, chunk.text, chunk.reasoning, chunk.tool_calls, chunk.finish_reason))
        return used(stream.response)
    except ChatError as error:
        return f"{type(error).__name__}: {error}"


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[begin:end] for begin, end in itertools.pairwise(edges)]


cuts = st.lists(st.integers(0, 10**6), max_size=5)


@examples
@given(
    statuses,
    headers,
    st.binary(max_size=200)
    | st.lists(
        st.sampled_from(
            [
                b"data:",
                b"event:",
                b"\r",
                b"\n",
                b"{",
                b"}",
                b"[DONE]",
                b" ",
                b'{"choices":[]}',
                b"\xef\xbb\xbf",
                b"error",
                b":",
            ]
        ),
        max_size=20,
    ).map(b"".join),
    cuts,
)
def test_any_bytes_as_a_stream(status: int, said: dict[str, str], body: bytes, places: list[int]) -> None:
    """Any bytes as a stream are an answer or an error of ours, and the same wherever the network cuts them."""
    assert streamed(status, said, [body]) == streamed(status, said, cut(body, places))


def sse(values: list[Any], end: bytes) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values) + end


@examples
@given(st.lists(answers, max_size=5), st.sampled_from([b"", b"data: [DONE]\n\n", b"data: [DO"]), cuts)
def test_any_json_as_a_stream(values: list[Any], end: bytes, places: list[int]) -> None:
    """Any JSON as a stream's events is an answer or an error of ours, and the same wherever the network cuts it."""
    said = {"content-type": "text/event-stream"}
    body = sse(values, end)

    assert streamed(200, said, [body]) == streamed(200, said, cut(body, places))


LINES = [b"data: ", b"data:", b"event: x", b"a", b":", b"\n", b"\n\n", b"data: a\n\n", b"\r\n", b"\r", b"\xef\xbb\xbf"]


@examples
@given(st.binary(max_size=80) | st.lists(st.sampled_from(LINES), max_size=20).map(b"".join), cuts)
def test_events_do_not_depend_on_the_cuts(body: bytes, places: list[int]) -> None:
    """The same bytes are the same events: at once, in pieces, and byte by byte."""

    def fed(pieces: list[bytes]) -> list[_sse.Event]:
        decoder = _sse.EventDecoder()
        return [*(event for piece in pieces for event in decoder.feed(piece)), *decoder.close()]

    found = fed([bytes([byte]) for byte in body])

    assert list(_sse.events_in(body)) == found
    assert fed(cut(body, places)) == found


class Spoken:
    """A message, and the deltas that a service may cut it into."""

    def __init__(self, message: dict[str, Any], deltas: list[dict[str, Any]]) -> None:
        self.message, self.deltas = message, deltas


def stretches(draw: Any, said: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(said)), max_size=3)))
    edges = [0, *places, len(said)]
    return [said[begin:end] for begin, end in itertools.pairwise(edges)]


@st.composite
def spoken(draw: Any) -> Spoken:
    """A message as whole answers have it, with the same in pieces."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    deltas: list[dict[str, Any]] = []
    thought = draw(st.none() | st.text(min_size=1, max_size=12))
    said = draw(st.none() | st.text(min_size=1, max_size=12))
    signature = draw(st.none() | st.just("Eo=="))
    if thought is not None:
        summary = {"type": "summary_text", "text": thought} | ({"signature": signature} if signature else {})
        message["content"] = [{"type": "reasoning", "summary": [summary]}]
        pieces = [{"type": "summary_text", "text": piece} for piece in stretches(draw, thought)]
        pieces += [{"type": "summary_text", "text": "", "signature": signature}] if signature else []
        deltas += [{"content": [{"type": "reasoning", "summary": [piece]}]} for piece in pieces]
    if said is not None:
        in_blocks = draw(st.booleans())
        whole_block = {"type": "text", "text": said}
        if thought is not None:
            message["content"].append(whole_block)
        else:
            message["content"] = [whole_block] if in_blocks else said
        deltas += [
            {"content": [{"type": "text", "text": piece}] if in_blocks else piece} for piece in stretches(draw, said)
        ]
    for place in range(draw(st.integers(0, 2))):
        written = draw(st.sampled_from(["", "{}", '{"a": [1, "é"]}']))
        call = {"id": f"call_{place}", "type": "function", "function": {"name": "f", "arguments": written}}
        message.setdefault("tool_calls", []).append(call)
        first, *rest = stretches(draw, written)
        deltas.append({"tool_calls": [{**call, "index": place, "function": {"name": "f", "arguments": first}}]})
        deltas += [{"tool_calls": [{"index": place, "function": {"arguments": piece}}]} for piece in rest]
    if draw(st.booleans()):
        message["refusal"] = "No."
        deltas += [{"refusal": piece} for piece in ("N", "o.")]
    return Spoken(message, deltas or [{}])


@examples
@given(st.lists(spoken(), min_size=1, max_size=2), st.data(), cuts)
def test_a_stream_collected_is_the_whole_answer(said: list[Spoken], data: st.DataObject, places: list[int]) -> None:
    """However an answer is cut into chunks, mixed with another's, and cut again on its way, it is the same answer."""
    report = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    about = {"id": "c", "model": "m", "created": 1}
    whole = {
        **about,
        "usage": report,
        "choices": [
            {"index": index, "message": each.message, "finish_reason": "stop"} for index, each in enumerate(said)
        ],
    }
    waiting = [(index, [*each.deltas, None]) for index, each in enumerate(said)]
    chunks: list[Any] = []
    while waiting:
        index, deltas = waiting[data.draw(st.integers(0, len(waiting) - 1))]
        delta = deltas.pop(0)
        choice = {
            "index": index,
            "delta": {"role": "assistant", **(delta or {})},
            "finish_reason": None if delta is not None else "stop",
        }
        chunks.append({**about, "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": None}})
        waiting = [each for each in waiting if each[1]]
    chunks.append({**about, "choices": [], "usage": report})
    expected = _wire.decode_completion(whole)
    found = streamed(200, {"content-type": "text/event-stream"}, cut(sse(chunks, b"data: [DONE]\n\n"), places))

    assert expected == found
    assert isinstance(found, ChatResponse)
    assert written_by(expected, "e").to_dict() == found.to_dict()


@examples
@given(st.lists(nearly, max_size=3))
def test_gathering_by_hand(values: list[Any]) -> None:
    """Chunks put together one by one can be read at any time, and the last reading is that of all."""
    gathering, all_at_once = Gathering(), Gathering()
    chunks: list[ChatChunk] = []
    for value in values:
        with contextlib.suppress(ChatError):
            chunks.append(_wire.decode_chunk(value))
    for chunk in chunks:
        gathering.add(chunk)
        used(gathering.response())
    for chunk in chunks:
        all_at_once.add(chunk)

    assert all_at_once.response() == gathering.response()


# ── the caller's objects ─────────────────────────────────────────────────────────────────────────────────────────


class Hostile:
    """An object each of whose attributes raises."""

    def __init__(self, error: type[Exception]) -> None:
        object.__setattr__(self, "_error", error)

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Hostile
        raise object.__getattribute__(self, "_error")("no")


class HostileIteration:
    content = "x"

    def __iter__(self) -> Any:
        raise ArithmeticError


class HostileMapping(collections.UserDict[str, Any]):
    def items(self) -> Any:
        raise LookupError


class HostileText(str):
    __slots__ = ()

    def isascii(self) -> bool:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = str.__hash__


class Dumping:
    """An object that dumps itself as itself."""

    role = content = "user"

    def model_dump(self, **_: Any) -> Any:
        return {"role": "user", "content": self}


# Made anew each time, and only when wanted: looking at some of them raises.
ODD: list[Any] = [
    object,
    Mock,
    MagicMock,
    lambda: NonCallableMock(spec=Message),
    Dumping,
    HostileIteration,
    ChatResponse,
    lambda: Message,
    lambda: len,
    lambda: types,
    lambda: ...,
    lambda: NotImplemented,
    lambda: 1j,
    lambda: bytearray(b"x"),
    lambda: memoryview(b"x"),
    lambda: range(3),
    lambda: {1},
    lambda: frozenset("x"),
    lambda: float("nan"),
    lambda: "\ud800",
    lambda: types.SimpleNamespace(role="user", content="x"),
    lambda: types.SimpleNamespace(type="ai", additional_kwargs={}),
    lambda: Message("user"),
    lambda: Message("assistant", (Text("x"), Image("u"), Unknown(object()))),
    lambda: Message("user", "x", extra={"x": {1}}),
    lambda: Message("assistant", None, (ToolCall(None, ""),)),
    lambda: Message(5, [5], 5),
]
HOSTILE: list[Any] = [
    *(lambda error=error: Hostile(error) for error in (ValueError, RecursionError, AttributeError, OSError)),
    lambda: HostileMapping(role="user", content="x"),
    lambda: HostileText("x"),
]
odd = st.sampled_from(ODD).map(lambda make: make())
hostile = st.sampled_from(HOSTILE).map(lambda make: make())
python_values = st.recursive(
    leaves
    | odd
    | hostile
    | st.floats()
    | st.binary(max_size=3)
    | st.sampled_from(["user", "assistant", "tool", "system", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.sampled_from([*WORDS, "role", "content"]) | st.integers() | st.text(max_size=3), inner, max_size=5
        )
        | st.builds(iter, st.lists(inner, max_size=2))
    ),
    max_leaves=16,
)


@examples
@given(
    python_values
    | st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "tool"]), "content": python_values},
            optional={"tool_calls": python_values, "name": python_values, "tool_call_id": python_values},
        ),
        max_size=3,
    )
)
def test_any_object_as_messages(value: Any) -> None:
    """Any object of the caller's is a conversation that can be sent, or an `InvalidRequest`."""
    try:
        found = read_messages(value)
        request = make_request(found, endpoint="e")
    except InvalidRequest as error:
        assert error.path  # noqa: PT017 - one of two good ends
        return

    assert found
    assert all(isinstance(message, Message) for message in found)
    assert found == request.messages
    with contextlib.suppress(InvalidRequest):  # text of a class of one's own, and numbers past 64 bits
        json.loads(_wire.to_bytes(_wire.request_to_json(request)))


@examples
@given(
    st.dictionaries(
        st.sampled_from(["temperature", "stop", "tools", "metadata", "logit_bias", "n", "nonsense"]),
        json_values | odd,
        max_size=3,
    )
)
def test_any_options(options: dict[str, Any]) -> None:
    """Any options are a request that can be sent as they are, or an `InvalidRequest`."""
    try:
        request = make_request("Hi", endpoint="e", **options)
    except InvalidRequest as error:
        assert error.path  # noqa: PT017 - one of two good ends
        return
    body = json.loads(_wire.to_bytes(_wire.request_to_json(request)))

    assert {name: value for name, value in options.items() if value is not None} == {
        name: value for name, value in body.items() if name != "messages"
    }


@examples
@given(st.text(max_size=20) | st.text("./\\%a", max_size=6) | leaves)
def test_any_endpoint(endpoint: Any) -> None:
    """Any name stays in its place in a path, or is refused."""
    try:
        name = make_request("Hi", endpoint=endpoint).endpoint
    except InvalidRequest as error:
        assert "endpoint" == error.path  # noqa: PT017 - as above
        return

    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\\r\n\x00")


def test_a_list_that_holds_itself() -> None:
    """A list that holds itself, many times over, is refused at once."""
    cycle: list[Any] = []
    cycle += [cycle] * 5

    for value in (cycle, [cycle], [{"role": "user", "content": cycle}]):
        with pytest.raises(InvalidRequest):
            read_messages(value)
