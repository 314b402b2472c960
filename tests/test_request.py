"""Whatever the caller holds becomes one request, or is refused with the place where it is wrong."""

from __future__ import annotations

import collections
import copy
import enum
import fractions
import json
import math
import types
from typing import TYPE_CHECKING, Any

import pytest

from isochat import _wire
from isochat._request import OPTIONS, make_request, read_messages
from isochat._types import ChatRequest, ChatResponse, Choice, File, Image, Message, Reasoning, Text, ToolCall, Unknown
from isochat.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

HI = (Message("user", "Hi"),)
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def sent(messages: Any) -> list[dict[str, Any]]:
    """The messages as they would go out, through bytes and back."""
    body = _wire.to_bytes(_wire.request_to_json(make_request(messages, endpoint="e")))
    return list(json.loads(body)["messages"])


def refused(messages: Any = "Hi", **options: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        make_request(messages, **{"endpoint": "e", **options})
    return caught.value


# ── forms of messages ────────────────────────────────────────────────────────────────────────────────────────────


class Role(enum.Enum):
    USER = "user"


class TextRole(str, enum.Enum):  # noqa: UP042 - what clients have
    USER = "user"


class Words(str):
    """Text of somebody's own class, such as the `text` of a LangChain message."""

    __slots__ = ()


class Dumps:
    """An object that can say itself as a dictionary, under one of the usual names."""

    content = "unused"

    def __init__(self, how: str, said: Any) -> None:
        setattr(self, how, lambda **_: said)


FORMS: dict[str, Any] = {
    "text": "Hi",
    "a dictionary": {"role": "user", "content": "Hi"},
    "a list of one": [{"role": "user", "content": "Hi"}],
    "a tuple of one": ({"role": "user", "content": "Hi"},),
    "a generator": ({"role": "user", "content": "Hi"} for _ in range(1)),
    "another mapping": types.MappingProxyType({"role": "user", "content": "Hi"}),
    "an ordered one": collections.OrderedDict(role="user", content="Hi"),
    "a message": Message("user", "Hi"),
    "a list of messages": [Message("user", "Hi")],
    "a pair": [("user", "Hi")],
    "a pair as a list": [["user", "Hi"]],
    "a role of its own class": {"role": TextRole.USER, "content": "Hi"},
    "words of their own class inside": {Words("role"): Words("user"), "content": Words("Hi")},
    "a namespace": types.SimpleNamespace(role="user", content="Hi"),
    "a namespace in a list": [types.SimpleNamespace(role="user", content="Hi")],
    "model_dump": [Dumps("model_dump", {"role": "user", "content": "Hi"})],
    "as_dict": Dumps("as_dict", {"role": "user", "content": "Hi"}),
    "to_dict": Dumps("to_dict", {"role": "user", "content": "Hi"}),
    "words of their own class": Words("Hi"),
    "a message of such words": Message("user", Words("Hi")),
    "a role that is no text": {"role": Role.USER, "content": "Hi"},
    "null fields": {"role": "user", "content": "Hi", "name": None, "tool_calls": None},
}


@pytest.mark.parametrize("messages", FORMS.values(), ids=FORMS)
def test_form(messages: Any) -> None:
    """Every form of one message is that message, and goes out as it."""
    assert [{"role": "user", "content": "Hi"}] == sent(messages)


def test_forms_mixed() -> None:
    """A conversation may mix forms, in order."""
    conversation = (
        ["system", "Be brief."],
        {"role": "user", "content": "Hi"},
        Message("assistant", "Hello"),
        ("user", "Again"),
    )

    assert ["system", "user", "assistant", "user"] == [message.role for message in read_messages(list(conversation))]


ANSWERS = {
    "a response": ChatResponse((Choice(0, Message("assistant", "Hello")),)),
    "its message": Message("assistant", "Hello"),
    "a message without a role": Message(None, "Hello"),
    "a message with an empty role": Message("", "Hello"),
    "a stored message": ChatResponse((Choice(0, Message("assistant", "Hello")),)).to_dict()["choices"][0]["message"],
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_earlier_answer(answer: Any) -> None:
    """An earlier answer goes into the next question."""
    assert {"role": "assistant", "content": "Hello"} == sent([("user", "Hi"), answer, ("user", "Again")])[1]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_role(role: str) -> None:
    """Every role that a chat can have."""
    assert role == sent([(role, "Hi")])[0]["role"]


PARTS = [
    {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    {"type": "audio_url", "audio_url": {"url": "data:audio/mp3;base64,AAAA"}},
    {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
    {"type": "file", "file": {"file_id": "f"}},
    {"type": "document", "source": {"type": "base64", "data": "AAAA"}},
    {"type": "image", "image_url": "https://example.com/a.png"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a", "signature": "s"}]},
    {"type": "hologram", "depth": [None, {}]},
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: str(part)[:48])
def test_part_goes_out_as_it_was_written(part: dict[str, Any]) -> None:
    """Content parts, known here or not, reach the endpoint as they are."""
    assert [part] == sent({"role": "user", "content": [part]})[0]["content"]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Text("Hi"), {"type": "text", "text": "Hi"}),
        (Image("u"), {"type": "image_url", "image_url": {"url": "u"}}),
        (File("d", "a.pdf"), {"type": "file", "file": {"file_data": "d", "filename": "a.pdf"}}),
        (
            Reasoning("a", "s"),
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a", "signature": "s"}]},
        ),
        (Unknown({"type": "x"}), {"type": "x"}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "form",
    [lambda parts: Message("user", parts), lambda parts: {"role": "user", "content": parts}],
    ids=["message", "dictionary"],
)
def test_our_own_parts(part: Any, expected: dict[str, Any], form: Callable[[Any], Any]) -> None:
    """Our own parts can be written in our messages and in dictionaries."""
    assert [expected] == sent(form([part]))[0]["content"]


@pytest.mark.parametrize("part", [{"type": "text", "text": "Hi"}, "Hi"], ids=["dictionary", "text"])
def test_plain_parts_in_our_message(part: Any) -> None:
    """A dictionary that would do in a dictionary does in a `Message`."""
    assert [{"type": "text", "text": "Hi"}] == sent(Message("user", [part]))[0]["content"]


def test_tool_round() -> None:
    """A call and its result go out as they were."""
    said = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "9", "tool_call_id": "1"},
    ]

    assert said == sent(said)


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a":1}'], ids=["object", "text"])
def test_arguments_may_be_an_object(arguments: Any) -> None:
    """People write the arguments as an object; the wire wants their text."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}

    assert CALL == sent([("user", "?"), {"role": "assistant", "tool_calls": [call]}])[1]["tool_calls"][0]


def test_fields_of_ones_own_go_out() -> None:
    """What isochat has no name for, an agent may."""
    assert {"role": "user", "content": "Hi", "id": "m1", "attachments": {"a": [1]}} == sent(
        {"role": "user", "content": "Hi", "id": "m1", "attachments": {"a": [1]}}
    )[0]


@pytest.mark.parametrize("empty", [[], {}], ids=repr)
def test_empty_field_of_ones_own_goes_out(empty: Any) -> None:
    """What the caller wrote is not ours to leave out, were it empty."""
    assert {"role": "user", "content": "Hi", "attachments": empty} == sent(
        {"role": "user", "content": "Hi", "attachments": empty}
    )[0]


# ── the clients' own messages ────────────────────────────────────────────────────────────────────────────────────


def langchain(kind: str, /, *args: Any, **fields: Any) -> Any:
    messages = pytest.importorskip("langchain_core.messages", reason="needs langchain-core")
    return getattr(messages, kind)(*args, **fields)


CALLED = {"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}
ASSISTANT_CALL = {"role": "assistant", "content": None, "tool_calls": [CALL]}
LANGCHAIN: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "human": ("HumanMessage", {"content": "Hi"}, {"role": "user", "content": "Hi"}),
    "human with a name": (
        "HumanMessage",
        {"content": "Hi", "name": "ada"},
        {"role": "user", "content": "Hi", "name": "ada"},
    ),
    "human chunk": ("HumanMessageChunk", {"content": "Hi"}, {"role": "user", "content": "Hi"}),
    "system": ("SystemMessage", {"content": "Hi"}, {"role": "system", "content": "Hi"}),
    "ai": ("AIMessage", {"content": "Hi"}, {"role": "assistant", "content": "Hi"}),
    "ai chunk": ("AIMessageChunk", {"content": "Hi"}, {"role": "assistant", "content": "Hi"}),
    "ai that calls": ("AIMessage", {"content": "", "tool_calls": [CALLED]}, ASSISTANT_CALL),
    "ai that calls, chunk": (
        "AIMessageChunk",
        {
            "content": "",
            "tool_call_chunks": [{"name": "f", "args": '{"a":1}', "id": "1", "index": 0, "type": "tool_call_chunk"}],
        },
        ASSISTANT_CALL,
    ),
    "ai whose arguments are broken": (
        "AIMessage",
        {
            "content": "",
            "invalid_tool_calls": [{"name": "f", "args": "{", "id": "1", "error": "x", "type": "invalid_tool_call"}],
        },
        {**ASSISTANT_CALL, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]},
    ),
    "Gemini's signature": (
        "AIMessage",
        {
            "content": "",
            "tool_calls": [CALLED],
            "additional_kwargs": {"tool_calls": [{**CALL, "thoughtSignature": "s"}]},
        },
        {**ASSISTANT_CALL, "tool_calls": [{**CALL, "thoughtSignature": "s"}]},
    ),
    "blocks": ("HumanMessage", {"content": [PARTS[0], PARTS[1]]}, {"role": "user", "content": [PARTS[0], PARTS[1]]}),
    "a call repeated in the content": (
        "AIMessage",
        {
            "content": [
                {"type": "text", "text": "Look."},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
            ],
            "tool_calls": [CALLED],
        },
        {**ASSISTANT_CALL, "content": [{"type": "text", "text": "Look."}]},
    ),
    "an image of LangChain's": (
        "HumanMessage",
        {"content": [{"type": "image", "base64": "AAAA", "mime_type": "image/png"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
    ),
    "an image by address": (
        "HumanMessage",
        {"content": [{"type": "image", "url": "https://example.com/a.png"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
    ),
    "tool": (
        "ToolMessage",
        {"content": "9", "tool_call_id": "1", "name": "f"},
        {"role": "tool", "content": "9", "tool_call_id": "1"},
    ),
    "chat": ("ChatMessage", {"content": "Hi", "role": "developer"}, {"role": "developer", "content": "Hi"}),
}


@pytest.mark.parametrize(("name", "fields", "expected"), LANGCHAIN.values(), ids=LANGCHAIN)
def test_langchain_message(name: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """LangChain's messages and their chunks are recognised by their shape."""
    assert expected == sent([langchain(name, **fields)])[0]


def test_langchain_prompt() -> None:
    """A prompt value is the messages that it makes."""
    prompts = pytest.importorskip("langchain_core.prompts", reason="needs langchain-core")
    prompt = prompts.ChatPromptTemplate([("system", "Be {how}."), ("human", "Hi")]).invoke({"how": "brief"})

    assert [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}] == sent(prompt)


def test_langchain_text() -> None:
    """The text of one message can be the next question: it is of a class of LangChain's own."""
    text = langchain("AIMessage", "Hi").text
    if type(text) is str:
        pytest.skip("this langchain-core gives plain text")

    assert [{"role": "user", "content": "Hi"}] == sent(text)


def test_langchain_message_without_a_role() -> None:
    """A message about messages is no turn of a chat."""
    assert "messages[0]" == refused([langchain("RemoveMessage", id="1")]).path


def test_sdk_message() -> None:
    """The Databricks SDK's own message."""
    serving = pytest.importorskip("databricks.sdk.service.serving", reason="needs databricks-sdk")
    message = serving.ChatMessage(role=serving.ChatMessageRole.USER, content="Hi")

    assert [{"role": "user", "content": "Hi"}] == sent([message]) == sent(message)


OPENAI = {
    "text": ({"role": "assistant", "content": "Hi"}, {"role": "assistant", "content": "Hi"}),
    "a call": (ASSISTANT_CALL, ASSISTANT_CALL),
    "answer's extras": (
        {
            "role": "assistant",
            "content": "Hi",
            "refusal": None,
            "annotations": [],
            "audio": None,
            "reasoning_content": "a",
        },
        {"role": "assistant", "content": "Hi"},
    ),
    "content that is a list": (
        {"role": "assistant", "content": [PARTS[9]]},
        {"role": "assistant", "content": [PARTS[9]]},
    ),
}


@pytest.mark.parametrize(("said", "expected"), OPENAI.values(), ids=OPENAI)
def test_openai_message(said: dict[str, Any], expected: dict[str, Any]) -> None:
    """The message of an OpenAI answer, made as that client makes it: without validation."""
    chat = pytest.importorskip("openai.types.chat", reason="needs openai")

    assert expected == sent([("user", "?"), chat.ChatCompletionMessage.construct(**said)])[1]


# ── messages that are none ───────────────────────────────────────────────────────────────────────────────────────

CYCLE: list[Any] = []
CYCLE.append(CYCLE)
LOOP: dict[str, Any] = {"role": "user", "content": "Hi"}
LOOP["self"] = LOOP
BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "nothing": (None, "messages"),
    "an empty list": ([], "messages"),
    "a number": (5, "messages"),
    "bytes": (b"Hi", "messages"),
    "a class": (Message, "messages"),
    "a list of text": (["Hi"], "messages[0]"),
    "a list of numbers": ([("user", "Hi"), 5], "messages[1]"),
    "null in a list": ([None], "messages[0]"),
    "an unknown role": ([{"role": "usr", "content": "Hi"}], "messages[0].role"),
    "no role": ([{"content": "Hi"}], "messages[0].role"),
    "a role that is no text": ([{"role": 5, "content": "Hi"}], "messages[0].role"),
    "no content": ([{"role": "user"}], "messages[0].content"),
    "null content": ([{"role": "user", "content": None}], "messages[0].content"),
    "an empty list of parts": ([{"role": "user", "content": []}], "messages[0].content"),
    "content that is a number": ([{"role": "user", "content": 5}], "messages[0].content"),
    "content that is an object": ([{"role": "user", "content": {"type": "text"}}], "messages[0].content"),
    "a part that is a number": ([{"role": "user", "content": [5]}], "messages[0].content[0]"),
    "a part without a type": ([{"role": "user", "content": [PARTS[0], {"text": "Hi"}]}], "messages[0].content[1].type"),
    "a part whose type is a number": ([{"role": "user", "content": [{"type": 5}]}], "messages[0].content[0].type"),
    "a text part without text": ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    "a text part of a number": (
        [{"role": "user", "content": [{"type": "text", "text": 5}]}],
        "messages[0].content[0].text",
    ),
    "an image that is text": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}],
        "messages[0].content[0].image_url",
    ),
    "an image without an address": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        "messages[0].content[0].image_url.url",
    ),
    "a result without its call": ([{"role": "tool", "content": "9"}], "messages[0].tool_call_id"),
    "calls that are no list": ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls"),
    "a call that is text": ([{"role": "assistant", "tool_calls": ["f"]}], "messages[0].tool_calls[0]"),
    "a call without a name": (
        [{"role": "assistant", "tool_calls": [CALL, {"id": "1", "function": {}}]}],
        "messages[0].tool_calls[1].function.name",
    ),
    "a name that is a number": ([{"role": "user", "content": "Hi", "name": 5}], "messages[0].name"),
    "a set inside": ([{"role": "user", "content": "Hi", "x": {"y": [{1}]}}], "messages[0].x.y[0]"),
    "bytes inside": ([{"role": "user", "content": b"Hi"}], "messages[0].content"),
    "NaN inside": ([{"role": "user", "content": "Hi", "x": math.nan}], "messages[0].x"),
    "infinity inside": ([{"role": "user", "content": "Hi", "x": [-math.inf]}], "messages[0].x[0]"),
    "half a character": ([{"role": "user", "content": "a\ud800"}], "messages[0].content"),
    "half a character alone": ("a\udc00", "messages"),
    "half a character in a part": (
        [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}],
        "messages[0].content[0].text",
    ),
    "half a character in a key": ([{"role": "user", "content": "Hi", "\ud800": 1}], "messages[0]"),
    "half a character in our message": (Message("user", "\ud800"), "messages[0].content"),
    "a key that is a number": ([{"role": "user", "content": "Hi", "x": {1: 2}}], "messages[0].x"),
    "our message with a wrong role": ([Message("usr", "Hi")], "messages[0].role"),
    "our message with wrong content": ([Message("user", 5)], "messages[0].content"),
    "our result without its call": ([Message("tool", "9")], "messages[0].tool_call_id"),
    "our message with NaN": ([Message("user", "Hi", extra={"x": math.nan})], "messages[0].x"),
    "a message with a number for a dump": ([Dumps("as_dict", 5)], "messages[0]"),
}


@pytest.mark.parametrize(("messages", "path"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_bad_messages(messages: Any, path: str) -> None:
    """What is no message is refused, and the error says where it is wrong."""
    error = refused(messages)

    assert path == error.path
    assert str(error).startswith(f"{path}: ")


def test_a_call_named_by_a_number() -> None:
    """What is there is not said to be missing."""
    said = refused([{"role": "tool", "content": "9", "tool_call_id": 5}]).message

    assert said == "messages[0].tool_call_id: expected text, got a value of type int"


@pytest.mark.parametrize(
    "messages",
    [CYCLE, [LOOP], [{"role": "user", "content": [CYCLE]}], {"role": "user", "content": CYCLE}],
    ids=["list", "message", "part", "content"],
)
def test_cycle(messages: Any) -> None:
    """A value that holds itself is refused, with a path that can be read."""
    error = refused(messages)

    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("role", "meant"), [("human", "user"), ("ai", "assistant"), ("asistant", "assistant"), ("System", "system")]
)
def test_hint_for_a_role(role: str, meant: str) -> None:
    """A role by another name is refused with the name that is meant."""
    assert repr(meant) in str(refused([(role, "Hi")]))


def test_error_shows_no_prompt() -> None:
    """Text that stands where a role should is not repeated at length."""
    assert len(str(refused([("my secret " * 1000, "Hi")]))) < 400


def test_endless_messages() -> None:
    """An iterator without end is an error, not a full memory."""

    def endless() -> Any:
        while True:
            yield HI[0]

    assert "messages" == refused(endless()).path


class Hostile:
    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError


class HostileContent:
    role = "user"

    @property
    def content(self) -> str:
        raise KeyError("no")


class HostileIterator:
    def __iter__(self) -> Any:
        raise OSError


@pytest.mark.parametrize("kind", [Hostile, HostileContent, HostileIterator], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("form", [lambda item: item, lambda item: [item]], ids=["alone", "in a list"])
def test_hostile_object(kind: Any, form: Callable[[Any], Any]) -> None:
    """An object that raises when it is looked at is no message."""
    assert isinstance(refused(form(kind())), InvalidRequest)


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────

FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
GOOD: dict[str, list[Any]] = {
    "max_tokens": [1, 4096],
    "max_completion_tokens": [1],
    "temperature": [0, 0.5, 2],
    "top_p": [1, 0.1],
    "top_k": [1, 40],
    "n": [1, 5],
    "stop": ["x", ["x", "y"], []],
    "tools": [[FUNCTION], [], [{"type": "web_search"}], [{"type": "custom", "custom": {"name": "f"}}]],
    "tool_choice": ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}],
    "parallel_tool_calls": [True, False],
    "response_format": [{"type": "text"}, {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}],
    "logprobs": [True, False],
    "top_logprobs": [0, 5],
    "logit_bias": [{"50256": -100}, {"1": 0.5}, {}],
    "reasoning_effort": ["low", "xhigh"],
    "thinking": [{"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}],
    "output_config": [{"effort": "low"}],
    "frequency_penalty": [-2, 0.0],
    "presence_penalty": [1.5],
    "seed": [0, -1, 2**62],
    "user": ["ada", ""],
    "stream_options": [{"include_usage": True}],
    "enable_safety_filter": [True],
    "usage_context": [{"a": "b"}],
    "client_request_id": ["x"],
    "extra_params": [{"a": "b"}],
    "databricks_options": [{"return_trace": True}],
    "custom_inputs": [{"a": [1, None, {"b": "é"}]}],
    "context": [{"user_id": "u"}],
    "metadata": [{"a": "b"}],
    "store": [False],
    "service_tier": ["auto"],
    "prompt_cache_key": ["k"],
    "safety_identifier": ["s"],
}


def test_every_option_is_tried() -> None:
    """No option is left out of what follows."""
    assert set(OPTIONS) == set(GOOD)


@pytest.mark.parametrize(
    ("name", "value"),
    [pytest.param(name, value, id=f"{name}={value!r}"[:60]) for name, values in GOOD.items() for value in values],
)
def test_option(name: str, value: Any) -> None:
    """Every option arrives, as it was said."""
    request = make_request("Hi", endpoint="e", **{name: value})

    assert frozenset({name}) == request.said
    assert value == json.loads(_wire.to_bytes(_wire.request_to_json(request)))[name]


@pytest.mark.parametrize("name", OPTIONS)
def test_none_is_not_said(name: str) -> None:
    """None is the same as leaving it out."""
    assert ChatRequest(endpoint="e", messages=HI) == make_request("Hi", endpoint="e", **{name: None})


def wrong(name: str) -> Any:
    """A value of the wrong type for an option."""
    return 5 if isinstance(GOOD[name][0], str | list | dict | bool) else "5"


@pytest.mark.parametrize("name", OPTIONS)
def test_option_of_a_wrong_type(name: str) -> None:
    """A wrong type is refused by name."""
    assert name == refused(**{name: wrong(name)}).path


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", -5, "max_tokens"),
        ("max_tokens", True, "max_tokens"),
        ("max_tokens", 1.5, "max_tokens"),
        ("max_completion_tokens", 0, "max_completion_tokens"),
        ("n", 0, "n"),
        ("temperature", math.nan, "temperature"),
        ("temperature", math.inf, "temperature"),
        ("temperature", True, "temperature"),
        ("top_p", "0.5", "top_p"),
        ("temperature", fractions.Fraction(1, 2), "temperature"),
        ("stop", ["a", 5], "stop[1]"),
        ("stop", {"a"}, "stop"),
        ("stop", b"a", "stop"),
        ("stop", "\ud800", "stop"),
        ("tools", FUNCTION, "tools"),
        ("tools", [FUNCTION, "f"], "tools[1]"),
        ("tools", [{}], "tools[0].type"),
        ("tools", [{"type": "function"}], "tools[0].function"),
        ("tools", [{"type": "function", "function": {}}], "tools[0].function.name"),
        (
            "tools",
            [{"type": "function", "function": {"name": "f", "parameters": {"a": {1}}}}],
            "tools[0].function.parameters.a",
        ),
        ("tools", [len], "tools[0]"),
        ("custom_inputs", {"a": [1, {"b": math.inf}]}, "custom_inputs.a[1].b"),
        ("custom_inputs", {1: 2}, "custom_inputs"),
        ("metadata", {"a": 1j}, "metadata.a"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_option(name: str, value: Any, path: str) -> None:
    """What cannot be right is refused before anything is sent, and the error says where it is wrong."""
    error = refused(**{name: value})

    assert path == error.path
    assert str(error).startswith(f"{path}: ")


def test_option_that_holds_itself() -> None:
    """An option that holds itself is refused."""
    assert str(refused(custom_inputs=LOOP)).startswith("custom_inputs.self")


@pytest.mark.parametrize(
    ("name", "near"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("maxtokens", "max_tokens"), ("zzz", None)],
)
def test_unknown_option(name: str, near: str | None) -> None:
    """An option that there is not is refused with the nearest that there is, and with the way past us."""
    error = refused(**{name: 5})

    assert name == error.path
    assert (f"{near!r}" if near else "extra_body") in str(error)


# ── extra_body ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_extra_body() -> None:
    """Further fields go out as they are, null included."""
    extra = {"top_a": 0.5, "nested": {"a": [1, None]}, "nothing": None}
    request = make_request("Hi", endpoint="e", extra_body=extra)

    assert extra == request.extra_body
    assert {"messages", *extra} == set(_wire.request_to_json(request))


@pytest.mark.parametrize("extra", [None, {}], ids=repr)
def test_no_extra_body(extra: Any) -> None:
    """Nothing further is nothing."""
    assert frozenset() == make_request("Hi", endpoint="e", extra_body=extra).said


def test_option_in_extra_body() -> None:
    """An option may be said there, past our own idea of its type."""
    assert {"max_tokens": "many"} == make_request(
        "Hi", endpoint="e", extra_body={"max_tokens": "many"}, temperature=None
    ).extra_body


@pytest.mark.parametrize(
    ("extra", "options", "path"),
    [
        ({"messages": []}, {}, "extra_body.messages"),
        ({"model": "m"}, {}, "extra_body.model"),
        ({"stream": True}, {}, "extra_body.stream"),
        ({"max_tokens": 5}, {"max_tokens": 5}, "extra_body.max_tokens"),
        ([], {}, "extra_body"),
        ("x", {}, "extra_body"),
        ({"x": {"y": {1}}}, {}, "extra_body.x.y"),
        ({"x": math.nan}, {}, "extra_body.x"),
        ({1: 2}, {}, "extra_body"),
        ({"x": "\ud800"}, {}, "extra_body.x"),
    ],
    ids=repr,
)
def test_bad_extra_body(extra: Any, options: dict[str, Any], path: str) -> None:
    """What is said twice, or belongs elsewhere, or cannot be sent, is refused."""
    assert path == refused(extra_body=extra, **options).path


# ── endpoint ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "endpoint",
    ["databricks-claude-sonnet-4-5", "my.endpoint", "a_b", "system.ai.model", "ünï", "a b", "a%2fb", "a?b#c"],
)
def test_endpoint(endpoint: str) -> None:
    """A name is a name, and is quoted where it becomes a path."""
    assert endpoint == make_request("Hi", endpoint=endpoint).endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        None,
        "",
        ".",
        "..",
        "../../api/2.0/secrets",
        "a/b",
        "/a",
        "a/",
        "a\\b",
        "..\\a",
        "a\nb",
        "a\rb",
        "a\x00b",
        "a\tb",
        "\x7f",
        "a\u2028b",
        "\ud800",
        "a\u200bb",
        5,
        b"e",
        ["e"],
        True,
        0,
    ],
    ids=ascii,
)
def test_bad_endpoint(endpoint: Any) -> None:
    """A name that could leave its place in a path, or that no endpoint can have, is refused."""
    error = refused(endpoint=endpoint)

    assert "endpoint" == error.path


def test_missing_endpoint_says_where_to_name_it() -> None:
    """Without an endpoint, the error says how to name one."""
    assert "ISOCHAT_ENDPOINT" in str(refused(endpoint=None))


# ── what is the caller's stays the caller's ──────────────────────────────────────────────────────────────────────


def test_nothing_of_the_callers_is_changed() -> None:
    """The caller's own lists and dictionaries are as they were."""
    call = copy.deepcopy(CALL)
    messages = [
        {"role": "user", "content": [copy.deepcopy(part) for part in PARTS]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call],
            "refusal": None,
            "content_parts": [{"type": "text", "text": ""}],
        },
        {"role": "tool", "content": "9", "tool_call_id": "1", "name": "f"},
    ]
    said = {"tools": [FUNCTION], "metadata": {"a": "b"}, "extra_body": {"x": {"y": [1]}}}
    before = copy.deepcopy((messages, said))
    _wire.request_to_json(make_request(messages, endpoint="e", **said))

    assert before == (messages, said)


@pytest.mark.parametrize(
    ("messages", "said", "change"),
    [
        (
            [{"role": "user", "content": [{"type": "x", "y": [1]}]}],
            {},
            lambda messages, said: messages[0]["content"][0]["y"].append(2),
        ),
        ([{"role": "user", "content": "Hi", "x": [1]}], {}, lambda messages, said: messages[0]["x"].append(2)),
        ("Hi", {"tools": [copy.deepcopy(FUNCTION)]}, lambda messages, said: said["tools"][0]["function"].clear()),
        ("Hi", {"stop": ["a"]}, lambda messages, said: said["stop"].append("b")),
        ("Hi", {"extra_body": {"x": [1]}}, lambda messages, said: said["extra_body"]["x"].append(2)),
        (
            [Message("user", (Unknown({"type": "x", "y": [1]}),))],
            {},
            lambda messages, said: messages[0].content[0].raw["y"].append(2),
        ),
        (
            [Message("user", "Hi", extra={"x": [1]})],
            {},
            lambda messages, said: messages[0].extra["x"].append(2),
        ),
    ],
    ids=["a part", "a message", "a tool", "stop", "extra_body", "a part of ours", "a message of ours"],
)
def test_nothing_of_the_callers_is_shared(
    messages: Any, said: dict[str, Any], change: Callable[[Any, Any], Any]
) -> None:
    """What the caller changes afterwards does not change a request that was made."""
    request = make_request(messages, endpoint="e", **said)
    before = _wire.to_bytes(_wire.request_to_json(request))
    change(messages, said)

    assert before == _wire.to_bytes(_wire.request_to_json(request))


def test_a_call_made_by_hand() -> None:
    """A conversation may be made of our own values from the start."""
    message = Message("assistant", None, [ToolCall("1", "f", '{"a":1}')])

    assert ASSISTANT_CALL == sent([("user", "?"), message])[1]


def test_shared_nesting_has_an_end() -> None:
    """A value that holds itself twice, many times over, is refused, not copied for ever."""
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]

    assert "values" in str(refused({"role": "user", "content": "Hi", "x": value}))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_numbers_past_64_bits(number: int) -> None:
    """A number that would arrive as another one is refused."""
    with pytest.raises(InvalidRequest, match="seed"):
        make_request("Hi", endpoint="e", seed=number)
