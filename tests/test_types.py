"""Messages and answers are values: frozen, compared by what they say, stored without loss."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
from typing import Any

import pytest

from isochat import _types, _wire
from isochat._types import (
    Audio,
    ChatChunk,
    ChatRequest,
    ChatResponse,
    Choice,
    ChunkChoice,
    Delta,
    File,
    Image,
    Logprobs,
    Message,
    Reasoning,
    Refusal,
    Text,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Unknown,
    Usage,
    Video,
    number,
    shorten,
)
from isochat.errors import Attempt, MalformedReply

X = {"x": [1, {"y": None}]}
TOKEN = TokenLogprob("H", -0.5, (72,), (TokenLogprob("h", -1.0),))
PARTS = (
    Text("Hi", X),
    Image("u", "low", X),
    Audio("u", extra=X),
    Video("u", X),
    File("d", "f.pdf", None, X),
    Reasoning("a", "s", None, {"type": "reasoning"}),
    Refusal("No.", X),
    Unknown({"type": "x", "y": [1]}),
)
MESSAGE = Message("assistant", PARTS, (ToolCall("1", "f", "{}", extra=X),), None, None, "No.", "think", X)
RESPONSE = ChatResponse(
    (Choice(0, MESSAGE, "stop", Logprobs((TOKEN,)), X),),
    Usage(1, 2, 3, extra=X),
    "c",
    "m",
    1.0,
    X,
    "r",
    b"raw",
    "rest",
    "e",
    (Attempt("X", 429, 0.5),),
    1.0,
    0.5,
)
CHUNK = ChatChunk(
    (ChunkChoice(0, Delta("assistant", PARTS, (ToolCallDelta(0, "1", "f", "{}", None, X),), extra=X)),), extra=X
)
VALUES = [
    *PARTS,
    MESSAGE,
    MESSAGE.tool_calls[0],
    RESPONSE,
    RESPONSE.choices[0],
    Usage(1, extra=X),
    Logprobs((TOKEN,), extra=X),
    TOKEN,
    CHUNK,
    CHUNK.choices[0],
    CHUNK.choices[0].delta,
    ToolCallDelta(0, extra=X),
    ChatRequest(endpoint="e", messages=(MESSAGE,), options=X),
]
EACH = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)


def test_every_class_is_tried() -> None:
    """No value is left out of what follows."""
    there = {kind for _, kind in inspect.getmembers(_types, inspect.isclass) if kind.__module__ == _types.__name__}

    assert {kind for kind in there if dataclasses.is_dataclass(kind)} == {type(value) for value in VALUES}


@EACH
def test_frozen(value: Any) -> None:
    """A value cannot be changed, nor given what it has no field for."""
    for name in (dataclasses.fields(value)[0].name, "no_such_field"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(value, name, None)


@EACH
def test_slotted(value: Any) -> None:
    """A value is small."""
    assert not hasattr(value, "__dict__")


@EACH
@pytest.mark.parametrize(
    "carry",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_survives(value: Any, carry: Any) -> None:
    """A copied or stored value is the same value, to the last field."""
    other = carry(value)

    assert value == other
    for field in dataclasses.fields(value):
        assert getattr(value, field.name) == getattr(other, field.name)


@EACH
def test_hashable(value: Any) -> None:
    """A value can be kept in a set, whatever the service put into it; equal values are one."""
    assert 1 == len({value, copy.deepcopy(value)})


@EACH
def test_replace(value: Any) -> None:
    """A value is changed by making another."""
    assert value == dataclasses.replace(value)


@pytest.mark.parametrize("kind", [Text, Refusal, Message, ChatResponse, Usage], ids=lambda kind: kind.__name__)
def test_extra_is_not_shared(kind: Any) -> None:
    """Two values with nothing in `extra` do not have the same nothing."""
    needed = {Text: ("a",), Refusal: ("a",), Message: ("user",)}.get(kind, ())

    assert kind(*needed).extra is not kind(*needed).extra


def test_lists_become_tuples() -> None:
    """A list is what people write."""
    call = ToolCall("1", "f")

    assert Message("user", (Text("a"),), (call,)) == Message("user", [Text("a")], [call])


@pytest.mark.parametrize("name", ["request_id", "raw", "backend", "endpoint", "attempts", "elapsed", "first_event"])
def test_how_an_answer_came_does_not_count(name: str) -> None:
    """Two answers that say the same are equal, whichever way they came."""
    other = dataclasses.replace(RESPONSE, **{name: object()})

    assert (RESPONSE, hash(RESPONSE)) == (other, hash(other))


@pytest.mark.parametrize("name", ["choices", "usage", "id", "model", "created", "extra"])
def test_what_an_answer_says_counts(name: str) -> None:
    """Two answers that say something else are not equal."""
    assert RESPONSE != dataclasses.replace(RESPONSE, **{name: None})


# ── what a user reads ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "parts", "text", "reasoning"),
    [
        (None, (), "", None),
        ("", (), "", None),
        ("Hi", (Text("Hi"),), "Hi", None),
        ((), (), "", None),
        ((Text("H"), Image("u"), Text("i")), (Text("H"), Image("u"), Text("i")), "Hi", None),
        ((Reasoning("a"), Text("Hi"), Reasoning("b")), (Reasoning("a"), Text("Hi"), Reasoning("b")), "Hi", "ab"),
        ((Reasoning(""),), (Reasoning(""),), "", ""),
    ],
    ids=str,
)
def test_message(content: Any, parts: Any, text: str, reasoning: str | None) -> None:
    """Whichever form the content has, its parts, text and reasoning can be read."""
    message = Message("assistant", content)

    assert (parts, text, reasoning) == (message.parts, message.text, message.reasoning)


def test_reasoning_among_the_parts_counts_first() -> None:
    """Reasoning in both places is not said twice."""
    assert "a" == Message("assistant", (Reasoning("a"),), reasoning_content="b").reasoning


def test_empty_response() -> None:
    """An answer without choices can be read like any other."""
    response = ChatResponse()

    assert (Message(None), "", None, None, (), None) == (
        response.message,
        response.text,
        response.reasoning,
        response.refusal,
        response.tool_calls,
        response.finish_reason,
    )
    assert [] == response.to_dict()["choices"]


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (Message("assistant", "Hi"), None),
        (Message("assistant", None, refusal="No."), "No."),
        (Message("assistant", (Refusal("N"), Refusal("o."))), "No."),
        (Message("assistant", None, refusal=""), ""),
    ],
    ids=str,
)
def test_refusal(message: Message, refusal: str | None) -> None:
    """A refusal is found beside the content and among its parts."""
    assert refusal == ChatResponse((Choice(0, message),)).refusal


def test_chunk_reads_the_first_choice() -> None:
    """Text, reasoning, calls and reason are those of choice 0, on whichever place it stands."""
    call = ToolCallDelta(0, "1", "f")
    chunk = ChatChunk(
        (
            ChunkChoice(1, Delta(content="b", reasoning_content="y"), "length"),
            ChunkChoice(0, Delta(content="a", tool_calls=(call,), reasoning_content="x"), "stop"),
        )
    )

    assert ("a", "x", (call,), "stop") == (chunk.text, chunk.reasoning, chunk.tool_calls, chunk.finish_reason)


def test_chunk_of_nothing() -> None:
    """A chunk may say nothing at all."""
    assert ("", "", (), None) == (
        ChatChunk().text,
        ChatChunk().reasoning,
        ChatChunk().tool_calls,
        ChatChunk().finish_reason,
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [("", {}), (" \n", {}), ("{}", {}), ('{"a": [1, null]}', {"a": [1, None]}), ('{"a":1,"a":2}', {"a": 2})],
)
def test_arguments(written: str, expected: dict[str, Any]) -> None:
    """Arguments are read from JSON; none at all are no arguments."""
    assert expected == ToolCall("1", "f", written).parse()


@pytest.mark.parametrize(
    "written",
    [
        "{",
        "Hi",
        "[1]",
        "1",
        '"a"',
        "null",
        "{'a': 1}",
        '{"a": NaN}',
        "{} {}",
        "[" * 100_000,
        '{"a":' + "9" * 5000 + "}",
        '"\ud800"',
    ],
    ids=lambda written: ascii(written)[:12],
)
def test_arguments_that_are_none(written: str) -> None:
    """What the model wrote instead of arguments is kept in the error."""
    with pytest.raises(MalformedReply) as caught:
        ToolCall("1", "f", written).parse()

    assert written == caught.value.body


@pytest.mark.parametrize("name", ["cached_tokens", "cache_creation_tokens", "reasoning_tokens"])
def test_usage_made_by_hand(name: str) -> None:
    """A report made by a backend of one's own keeps all its counts when it is stored."""
    usage = Usage(1, 2, 3, **{name: 5})

    assert 5 == getattr(_wire.decode_usage(usage.to_dict()), name)


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────

LONG = "x" * 100_000
SHOWN = {
    "text": (Message("assistant", LONG), {}),
    "reasoning": (Message("assistant", "Hi", reasoning_content=LONG), {}),
    "tool calls": (Message("assistant", None, (ToolCall("1", "f"),) * 10_000), {}),
    "a tool's name": (Message("assistant", None, (ToolCall("1", LONG),)), {}),
    "model": (Message("assistant", "Hi"), {"model": LONG}),
    "arguments": (Message("assistant", None, (ToolCall("1", "f", LONG),)), {}),
    "raw": (Message("assistant", "Hi"), {"raw": LONG}),
    "extra": (Message("assistant", "Hi"), {"extra": {"x": LONG}}),
}


@pytest.mark.parametrize(
    ("message", "fields"),
    SHOWN.values(),
    ids=SHOWN,
)
def test_repr_is_short(message: Message, fields: dict[str, Any]) -> None:
    """An answer fits on a line, however much it says."""
    assert len(repr(ChatResponse((Choice(0, message),), **fields))) < 300


def test_repr() -> None:
    """An answer shows its text, how it ended, what it took and who gave it."""
    response = ChatResponse((Choice(0, Message("assistant", "Hi"), "stop"),), Usage(9, 3, 12), model="m")

    assert "ChatResponse('Hi', finish_reason='stop', tokens=9+3, model='m')" == repr(response)


def test_repr_of_a_chunk() -> None:
    """A chunk shows what it adds."""
    assert "ChatChunk('Hi', finish_reason='stop')" == repr(ChatChunk((ChunkChoice(0, Delta(content="Hi"), "stop"),)))
    assert len(repr(ChatChunk((ChunkChoice(0, Delta(content=LONG)),)))) < 100


@pytest.mark.parametrize(("text", "expected"), [("", ""), ("abcde", "abcde"), ("abcdef", "abcd…")])
def test_shorten(text: str, expected: str) -> None:
    """A long text is cut to the width, with a sign that it was."""
    assert expected == shorten(text, 5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (1.5, 1.5),
        (0, 0),
        (True, None),
        ("1", None),
        (None, None),
        (math.nan, None),
        (math.inf, None),
        ([], None),
    ],
    ids=repr,
)
def test_number(value: Any, expected: float | None) -> None:
    """A number is a finite one, and a truth value is none."""
    assert expected == number(value)


# ── a question ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, []),
        ({"stream": True}, ["stream"]),
        ({"options": {"stop": "x", "n": 2}}, ["n", "stop"]),
        ({"extra_body": {"x": 1}}, ["extra_body"]),
        ({"extra_body": {}, "options": {}}, []),
    ],
    ids=str,
)
def test_said(fields: dict[str, Any], said: list[str]) -> None:
    """A question names everything that a backend must be able to carry for it."""
    assert said == sorted(ChatRequest(endpoint="e", messages=(), **fields).said)
