"""Every shape that the service answers in is read, and what is read can be said again."""

from __future__ import annotations

import codecs
import contextlib
import json
from typing import Any

import pytest

from isochat import _wire
from isochat._gather import Gathering
from isochat._request import make_request, read_messages
from isochat._sse import Event
from isochat._types import (
    Audio,
    ChatChunk,
    ChatRequest,
    ChatResponse,
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
)
from isochat.errors import ChatError, InvalidRequest, MalformedReply, ServiceError


def completion(message: Any, **fields: Any) -> dict[str, Any]:
    """A chat completion with one message in it."""
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 1700000000, "model": "m", "choices": [choice], **fields}


def read(value: Any, **headers: str) -> ChatResponse:
    """What is read from a reply with that body."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return _wire.decode_reply(_wire.Reply(200, {name.replace("_", "-"): said for name, said in headers.items()}, body))


def answer(content: Any, **fields: Any) -> Message:
    return read(completion({"role": "assistant", "content": content, **fields})).message


def chunk(value: Any) -> ChatChunk:
    found = _wire.decode_event(Event(json.dumps(value).encode()))

    assert isinstance(found, ChatChunk)
    return found


def asked(*messages: Any) -> list[dict[str, Any]]:
    """The messages as they would go out."""
    return list(_wire.request_to_json(make_request(list(messages), endpoint="e"))["messages"])


def replayed(message: dict[str, Any]) -> dict[str, Any]:
    """The answer's message, put into the next question."""
    return asked({"role": "user", "content": "Hi"}, read(completion(message)).message)[1]


# ── content ──────────────────────────────────────────────────────────────────────────────────────────────────────

SUMMARY = {"type": "summary_text", "text": "think", "signature": "Eo=="}
THOUGHT = {"type": "reasoning", "summary": [SUMMARY]}
SECRET_THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_encrypted_text", "data": "gAAA"}]}
ANSWER = {"type": "text", "text": "Hi"}
URL = "data:image/png;base64,AAAA"

CONTENTS = {
    "text": ("Hi", "Hi", "Hi", None),
    "empty text": ("", "", "", None),
    "white space": ("\n", "\n", "\n", None),
    "null": (None, None, "", None),
    "an empty list": ([], (), "", None),
    "a text block": ([ANSWER], (Text("Hi"),), "Hi", None),
    "text blocks": ([ANSWER, {"type": "text", "text": "!"}], (Text("Hi"), Text("!")), "Hi!", None),
    "output text": ([{"type": "output_text", "text": "Hi", "annotations": []}], (Text("Hi"),), "Hi", None),
    "a string in a list": (["Hi"], (Text("Hi"),), "Hi", None),
    "one block that is no list": (ANSWER, (Text("Hi"),), "Hi", None),
    "citations": ([{**ANSWER, "citations": [{"a": 1}]}], (Text("Hi", {"citations": [{"a": 1}]}),), "Hi", None),
    "a thought signature": (
        [{**ANSWER, "thoughtSignature": "s"}],
        (Text("Hi", {"thoughtSignature": "s"}),),
        "Hi",
        None,
    ),
    "reasoning and text": ([THOUGHT, ANSWER], (Reasoning("think", "Eo=="), Text("Hi")), "Hi", "think"),
    "reasoning alone": ([THOUGHT], (Reasoning("think", "Eo=="),), "", "think"),
    "reasoning without a signature": (
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}],
        (Reasoning("a"),),
        "",
        "a",
    ),
    "reasoning in stretches": (
        [{"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}]}],
        (Reasoning("ab"),),
        "",
        "ab",
    ),
    "encrypted reasoning": ([SECRET_THOUGHT], (Reasoning("", None, "gAAA"),), "", ""),
    "empty reasoning with a signature": (
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "", "signature": "s"}]}, ANSWER],
        (Reasoning("", "s"), Text("Hi")),
        "Hi",
        "",
    ),
    "reasoning without a summary": ([{"type": "reasoning", "summary": None}], (Reasoning(),), "", ""),
    "a provider's thinking": (
        [{"type": "thinking", "thinking": "a", "signature": "s"}],
        (Reasoning("a", "s"),),
        "",
        "a",
    ),
    "a provider's redacted thinking": (
        [{"type": "redacted_thinking", "data": "x"}],
        (Reasoning("", None, "x"),),
        "",
        "",
    ),
    "an image": ([{"type": "image_url", "image_url": {"url": URL}}], (Image(URL),), "", None),
    "an image with detail": (
        [{"type": "image_url", "image_url": {"url": URL, "detail": "low"}}],
        (Image(URL, "low"),),
        "",
        None,
    ),
    "sound": (
        [{"type": "input_audio", "input_audio": {"data": "A", "format": "wav"}}],
        (Audio(None, "A", "wav"),),
        "",
        None,
    ),
    "sound by address": ([{"type": "audio_url", "audio_url": {"url": "u"}}], (Audio("u"),), "", None),
    "a film": ([{"type": "video_url", "video_url": {"url": "u"}}], (Video("u"),), "", None),
    "a file": ([{"type": "file", "file": {"file_id": "f"}}], (File(file_id="f"),), "", None),
    "a refusal": ([{"type": "refusal", "refusal": "No."}], (Refusal("No."),), "", None),
    "an unknown block": (
        [{"type": "hologram", "depth": 3}, ANSWER],
        (Unknown({"type": "hologram", "depth": 3}), Text("Hi")),
        "Hi",
        None,
    ),
    "a text block without text": (
        [{"type": "text", "text": None}],
        (Unknown({"type": "text", "text": None}),),
        "",
        None,
    ),
    "a block without a type": ([{"a": 1}], (Unknown({"a": 1}),), "", None),
    "an image that is only its address": (
        [{"type": "image_url", "image_url": "u"}],
        (Unknown({"type": "image_url", "image_url": "u"}),),
        "",
        None,
    ),
    "an image with more in it": (
        [{"type": "image_url", "image_url": {"url": "u", "w": 3}}],
        (Unknown({"type": "image_url", "image_url": {"url": "u", "w": 3}}),),
        "",
        None,
    ),
    "a number in a list": ([5], (Unknown(5),), "", None),
    "null in a list": ([None], (Unknown(None),), "", None),
}


@pytest.mark.parametrize(("said", "content", "text", "reasoning"), CONTENTS.values(), ids=CONTENTS)
def test_content(said: Any, content: Any, text: str, reasoning: str | None) -> None:
    """Content is text, parts or None, whichever shape it came in; its text and reasoning are told apart."""
    message = answer(said)

    assert content == message.content
    assert (text, reasoning) == (message.text, message.reasoning)


@pytest.mark.parametrize("said", [content[0] for content in CONTENTS.values()], ids=CONTENTS)
def test_content_goes_back_as_it_came(said: Any) -> None:
    """A stored message is the message, reasoning blocks as they came."""
    message = answer(said)

    assert message == answer(message.to_dict()["content"])


def test_content_absent() -> None:
    """The documentation's own sample has an empty message: nothing is invented for it."""
    response = read(completion({}))

    assert Message(role=None) == response.message
    assert ("", None, ()) == (response.text, response.reasoning, response.tool_calls)


@pytest.mark.parametrize("content", [5, True, 1.5], ids=repr)
def test_content_that_makes_no_sense(content: Any) -> None:
    """What cannot be content is an error that names the place."""
    with pytest.raises(MalformedReply) as caught:
        answer(content)

    assert "choices[0].message.content" == caught.value.path


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_beside_the_content(name: str) -> None:
    """Open models give their reasoning in a field of its own, under one of several names."""
    message = answer("Hi", **{name: "think"})

    assert ("think", "think", {}) == (message.reasoning, message.reasoning_content, message.extra)


def test_reasoning_under_two_names_is_one() -> None:
    """OpenRouter says the same text twice; another text under the second name stays reachable."""
    assert {} == answer("Hi", reasoning_content="a", reasoning="a").extra
    assert {"reasoning": "b"} == answer("Hi", reasoning_content="a", reasoning="b").extra


def test_refusal_beside_the_content() -> None:
    """A refusal is no text."""
    response = read(completion({"role": "assistant", "content": None, "refusal": "No."}))

    assert ("No.", "") == (response.refusal, response.text)


def test_refusal_among_the_parts() -> None:
    """A refusal among the parts is found as well."""
    assert "No." == read(completion({"content": [{"type": "refusal", "refusal": "No."}]})).refusal


@pytest.mark.parametrize("text", ["é", "😀", "a\u2028b", "\x00", "<EMAIL_ADDRESS>", "\\u0041"], ids=ascii)
def test_text_survives(text: str) -> None:
    """Text is what was said, to the character."""
    assert text == answer(text).text


def test_half_a_character() -> None:
    r"""A server that cuts text by UTF-16 units sends `"\ud83d"`; every client reads it, and so do we."""
    assert read(b'{"choices":[{"index":0,"message":{"content":"a\\ud83d"}}]}').text.startswith("a")


def test_byte_order_mark() -> None:
    """What some servers put before their JSON is no part of it."""
    assert "Hi" == read(codecs.BOM_UTF8 + json.dumps(completion({"content": "Hi"})).encode()).text


# ── tool calls ───────────────────────────────────────────────────────────────────────────────────────────────────


def calls(*said: Any, **fields: Any) -> tuple[ToolCall, ...]:
    return answer(None, tool_calls=list(said), **fields).tool_calls


F = {"name": "f", "arguments": '{"a":1}'}
CALLS = {
    "a call": ({"id": "1", "type": "function", "function": F}, ToolCall("1", "f", '{"a":1}')),
    "with an index": ({"index": 0, "id": "1", "type": "function", "function": F}, ToolCall("1", "f", '{"a":1}')),
    "without a type": ({"id": "1", "function": F}, ToolCall("1", "f", '{"a":1}')),
    "without an id": ({"type": "function", "function": F}, ToolCall(None, "f", '{"a":1}')),
    "empty arguments": ({"id": "1", "function": {"name": "f", "arguments": ""}}, ToolCall("1", "f")),
    "null arguments": ({"id": "1", "function": {"name": "f", "arguments": None}}, ToolCall("1", "f")),
    "no arguments": ({"id": "1", "function": {"name": "f"}}, ToolCall("1", "f")),
    "arguments as an object": (
        {"id": "1", "function": {"name": "f", "arguments": {"a": 1}}},
        ToolCall("1", "f", '{"a":1}'),
    ),
    "broken arguments": ({"id": "1", "function": {"name": "f", "arguments": "{"}}, ToolCall("1", "f", "{")),
    "a thought signature": (
        {"id": "f", "function": F, "thoughtSignature": "s"},
        ToolCall("f", "f", '{"a":1}', extra={"thoughtSignature": "s"}),
    ),
    "a custom tool": (
        {"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}},
        ToolCall("1", "f", "x", "custom"),
    ),
    "no function at all": ({"id": "1", "type": "function"}, ToolCall("1", "")),
}


@pytest.mark.parametrize(("said", "expected"), CALLS.values(), ids=CALLS)
def test_tool_call(said: dict[str, Any], expected: ToolCall) -> None:
    """A tool call is read in every shape."""
    assert (expected,) == calls(said)


def test_tool_calls_with_prose() -> None:
    """Claude writes prose beside its calls; neither is lost, and two calls of one tool are two."""
    message = answer("Let me look.", tool_calls=[CALLS["a call"][0], {**CALLS["a call"][0], "id": "2"}])

    assert "Let me look." == message.text
    assert ["1", "2"] == [call.id for call in message.tool_calls]


def test_older_function_call() -> None:
    """The one call of the older form is a tool call without an id."""
    assert (ToolCall(None, "f", '{"a":1}'),) == answer(None, function_call=F).tool_calls


@pytest.mark.parametrize("said", [{}, 5, "x"], ids=repr)
def test_tool_calls_that_make_no_sense(said: Any) -> None:
    """Tool calls that are no list are an error that names the place."""
    with pytest.raises(MalformedReply) as caught:
        answer(None, tool_calls=said)

    assert "choices[0].message.tool_calls" == caught.value.path


@pytest.mark.parametrize("call", [5, "f", {"function": "f"}, {"function": [F]}], ids=repr)
def test_tool_call_that_makes_no_sense(call: Any) -> None:
    """A tool call that is no object is an error that names which one."""
    with pytest.raises(MalformedReply, match=r"tool_calls\[1\]"):
        calls(CALLS["a call"][0], call)


@pytest.mark.parametrize("beside", [{"thought_signature": "s"}, {"parsed_arguments": {"a": 1}}], ids=str)
def test_tool_call_with_more_in_its_function(beside: dict[str, Any]) -> None:
    """A field beside `name` and `arguments` (OpenAI's `parsed_arguments` is one) does not displace them."""
    message = answer(None, tool_calls=[{"id": "1", "type": "function", "function": {**F, **beside}}])

    assert {**F, **beside} == message.to_dict()["tool_calls"][0]["function"]


def test_tool_call_with_more_in_its_function_can_go_back() -> None:
    """An answer with such a call can be put into the next question."""
    call = {"id": "1", "type": "function", "function": {**F, "parsed_arguments": {"a": 1}}}

    assert F == replayed({"role": "assistant", "content": None, "tool_calls": [call]})["tool_calls"][0]["function"]


# ── choices, and what stands around them ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter", "function_call", "eos", "", None])
def test_finish_reason(reason: str | None) -> None:
    """Why it ended is the service's own word, known here or not."""
    said = completion({"content": "Hi"})
    said["choices"][0]["finish_reason"] = reason

    assert reason == read(said).finish_reason


def test_choices_without_index() -> None:
    """A choice that does not say which it is, is the one at its place."""
    said = {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}

    assert [(0, "a"), (1, "b")] == [(choice.index, choice.message.text) for choice in read(said).choices]


def test_choices_out_of_order() -> None:
    """The first choice is the one with index 0, wherever it stands, streamed or whole."""
    said = [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}}]

    assert "a" == read({"choices": said}).text


def test_no_choice() -> None:
    """An answer without a choice is empty, not an error."""
    response = read({"choices": [], "usage": {"prompt_tokens": 3}})

    assert ("", None, (), 3) == (
        response.text,
        response.finish_reason,
        response.tool_calls,
        response.usage.prompt_tokens,
    )


def test_completion_text() -> None:
    """An older completion's `text` is its message's content."""
    assert "Hi" == read({"choices": [{"index": 0, "text": "Hi"}]}).text


UNKNOWN = {"x": 1, "y": {"z": [1]}}


def test_unknown_fields_are_reachable() -> None:
    """What has no field of its own stands in `extra`, on every level, under the service's names."""
    part = {"type": "text", "text": "Hi", **UNKNOWN}
    call = {"id": "1", "function": F, **UNKNOWN}
    message = {"role": "assistant", "content": [part], "tool_calls": [call], **UNKNOWN}
    response = read({"choices": [{"index": 0, "message": message, **UNKNOWN}], "usage": dict(UNKNOWN), **UNKNOWN})
    choice = response.choices[0]
    (read_part,) = choice.message.parts

    assert isinstance(read_part, Text)
    assert response.usage is not None
    assert [UNKNOWN] * 6 == [
        response.extra,
        response.usage.extra,
        choice.extra,
        choice.message.extra,
        choice.message.tool_calls[0].extra,
        read_part.extra,
    ]


def test_filter_results_are_reachable() -> None:
    """Azure's verdicts stand beside the choice and the prompt."""
    said = completion({"content": "Hi"}, prompt_filter_results=[{"prompt_index": 0}])
    said["choices"][0]["content_filter_results"] = {"hate": {"filtered": False}}
    response = read(said)

    assert {"prompt_filter_results": [{"prompt_index": 0}]} == response.extra
    assert {"content_filter_results": {"hate": {"filtered": False}}} == response.choices[0].extra


@pytest.mark.parametrize("guardrail", ["input_guardrail", "output_guardrail"])
def test_guardrail_that_masks_is_reachable(guardrail: str) -> None:
    """A guardrail that only masks answers as usual, and says so beside the choices."""
    response = read(completion({"content": "<EMAIL_ADDRESS>"}, **{guardrail: [{"flagged": True}]}))

    assert ("<EMAIL_ADDRESS>", {guardrail: [{"flagged": True}]}) == (response.text, response.extra)


@pytest.mark.parametrize("nothing", [None, [], {}], ids=repr)
def test_nothing_said_is_nothing(nothing: Any) -> None:
    """Null, an empty list and an absent field are one: streamed answers leave out what whole ones empty."""
    assert read(completion({"content": "Hi"})) == read(
        completion({"content": "Hi", "annotations": nothing}, tier=nothing)
    )


WRONG_KINDS = {
    "id": completion({"content": "Hi"}, id=5),
    "created": completion({"content": "Hi"}, created="2025-01-01T00:00:00Z"),
    "model": completion({"content": "Hi"}, model={"name": "m"}),
    "usage": completion({"content": "Hi"}, usage=[1]),
    "role": completion({"role": 5, "content": "Hi"}),
    "finish_reason": {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": {"type": "stop"}}]},
    "logprobs": {"choices": [{"index": 0, "message": {"content": "Hi"}, "logprobs": [1]}]},
    "a token": {
        "choices": [{"message": {"content": "Hi"}, "logprobs": {"content": [{"token": "H", "logprob": -1, "id": 5}]}}]
    },
}
STORED = {name: said for name, said in WRONG_KINDS.items() if name != "role"}


@pytest.mark.parametrize("said", WRONG_KINDS.values(), ids=WRONG_KINDS)
def test_field_of_another_kind_is_no_obstacle(said: dict[str, Any]) -> None:
    """A field that is not what its name says does not make the text unreadable."""
    assert "Hi" == read(said).text


@pytest.mark.parametrize("said", STORED.values(), ids=STORED)
def test_field_of_another_kind_is_not_dropped(said: dict[str, Any]) -> None:
    """Such a field is kept, and stored with the answer."""
    response = read(said)

    assert response == _wire.decode_completion({**response.to_dict(), "choices": _with_role(response, said)})


def _with_role(response: ChatResponse, said: dict[str, Any]) -> Any:
    """The stored choices, with the role that was said: `to_dict()` fills one in, as OpenAI's type demands."""
    stored = response.to_dict()["choices"]
    for choice, original in zip(stored, said["choices"], strict=True):
        choice["message"]["role"] = original["message"].get("role")
    return stored


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({}, ""),
        ([], ""),
        ("Hi", ""),
        (5, ""),
        (None, ""),
        (True, ""),
        ([5], ""),
        ({"choices": None}, ""),
        ({"choices": {}}, ""),
        ({"choices": [5]}, "choices[0]"),
        ({"choices": [{}, None]}, "choices[1]"),
        ({"choices": [{"message": "Hi"}]}, "choices[0].message"),
        ({"messages": [{}, 5]}, "messages[1]"),
        ({"predictions": 5}, ""),
        ([{"choices": []}, {"choices": []}], ""),
    ],
    ids=repr,
)
def test_reply_that_makes_no_sense(value: Any, path: str) -> None:
    """A reply that is no answer is an error that names the place and keeps what came."""
    with pytest.raises(MalformedReply) as caught:
        read(value, x_request_id="r1")
    error = caught.value

    assert (path, 200, "r1", value) == (error.path, error.status, error.request_id, error.body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"<!DOCTYPE html><html><title>Sign in</title>", "web page"),
        (b"\n<html>", "web page"),
        (b"Hello", "not JSON"),
        (b'{"choices": [', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"choices": NaN}', "not JSON"),
        (b"{} {}", "not JSON"),
        (b'{"a":"\xff"}', "not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_reply_that_is_not_json(body: bytes, said: str) -> None:
    """What came instead of an answer is named, and kept."""
    with pytest.raises(MalformedReply, match=said) as caught:
        read(body, x_request_id="r1")

    assert (200, "r1", body) == (caught.value.status, caught.value.request_id, caught.value.body)


@pytest.mark.parametrize(
    "said",
    [
        {"error": "No."},
        {"error": {"message": "No."}},
        {"error_code": "X", "message": "No."},
        {"object": "error", "message": "No.", "type": "a_kind", "code": None},
        {"result": None, "success": False, "errors": [{"code": 7, "message": "No."}], "messages": []},
    ],
)
def test_refusal_under_a_status_that_says_success(said: dict[str, Any]) -> None:
    """A complaint is a complaint, whatever its status."""
    with pytest.raises(ServiceError, match=r"No\.") as caught:
        read(said, x_request_id="r1")

    assert (200, "r1") == (caught.value.status, caught.value.request_id)


@pytest.mark.parametrize("said", [{"error": None}, {"error": ""}, {"error": {}}, {"error_code": None}], ids=repr)
def test_no_complaint(said: dict[str, Any]) -> None:
    """A field for complaints that holds none is none."""
    assert "Hi" == read(completion({"content": "Hi"}, **said)).text


# ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_agent_answer() -> None:
    """A ChatAgent has messages and no choices; its answer is the last of the assistant's."""
    response = read(
        {
            "messages": [
                {"role": "assistant", "content": "", "id": "m1", "tool_calls": [CALLS["a call"][0]]},
                {"role": "tool", "content": "9", "id": "m2", "tool_call_id": "1", "name": "f"},
                {"role": "assistant", "content": "Nine.", "id": "m3"},
                {"role": "tool", "content": "later", "id": "m4", "tool_call_id": "2"},
            ],
            "finish_reason": "stop",
            "custom_outputs": {"a": 1},
            "usage": {"prompt_tokens": 3},
        }
    )

    assert ("Nine.", "stop", Usage(3)) == (response.text, response.finish_reason, response.usage)
    assert {"a": 1} == response.extra["custom_outputs"]
    assert ["m1", "m2", "m3", "m4"] == [message["id"] for message in response.extra["messages"]]


def test_agent_answer_of_one_message() -> None:
    """One message is the answer, and is not said twice."""
    response = read({"messages": [{"role": "assistant", "content": "Nine.", "id": "m1", "name": "sage"}]})

    assert ({}, "sage", {"id": "m1"}) == (response.extra, response.message.name, response.message.extra)


@pytest.mark.parametrize(
    "wrapped",
    [
        completion({"role": "assistant", "content": "Hi"}),
        [completion({"role": "assistant", "content": "Hi"})],
        {"predictions": completion({"role": "assistant", "content": "Hi"})},
        {"predictions": [completion({"role": "assistant", "content": "Hi"})]},
        {"messages": [{"role": "assistant", "content": "Hi"}]},
        [{"role": "assistant", "content": "Hi"}],
        {"predictions": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Hi"}]},
        {"predictions": {"messages": [{"role": "assistant", "content": "Hi"}]}},
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_wrapped_answer(wrapped: Any) -> None:
    """Older agents and pyfunc models wrap their answers; unwrapped they are alike."""
    assert "Hi" == read(wrapped).text


def test_agent_delta() -> None:
    """A ChatAgent's chunk is a delta without choices."""
    found = chunk({"delta": {"role": "assistant", "content": "Ni", "id": "m1"}})

    assert ("Ni", {"id": "m1"}) == (found.text, found.choices[0].delta.extra)


# ── usage ────────────────────────────────────────────────────────────────────────────────────────────────────────

USAGES = {
    "plain": ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}, Usage(9, 3, 12)),
    "Claude's cache": (
        {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "total_tokens": 12,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 4,
        },
        Usage(9, 3, 12, 0, 4, None, {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 4}),
    ),
    "OpenAI's details": (
        {
            "prompt_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        Usage(
            9,
            None,
            None,
            5,
            None,
            2,
            {"prompt_tokens_details": {"cached_tokens": 5}, "completion_tokens_details": {"reasoning_tokens": 2}},
        ),
    ),
    "reasoning at the top": (
        {"prompt_tokens": 9, "reasoning_tokens": 2},
        Usage(9, reasoning_tokens=2, extra={"reasoning_tokens": 2}),
    ),
    "details that are null": (
        {"prompt_tokens": 9, "prompt_tokens_details": None, "completion_tokens_details": None},
        Usage(9),
    ),
    "a count in details that is null": (
        {"prompt_tokens_details": {"cached_tokens": None}, "cache_read_input_tokens": 4},
        Usage(cached_tokens=4, extra={"prompt_tokens_details": {"cached_tokens": None}, "cache_read_input_tokens": 4}),
    ),
    "Responses": (
        {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5, "output_tokens_details": {"reasoning_tokens": 1}},
        Usage(
            3,
            2,
            5,
            None,
            None,
            1,
            {"input_tokens": 3, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}},
        ),
    ),
    "null counts": ({"prompt_tokens": 9, "completion_tokens": None, "total_tokens": None}, Usage(9)),
    "a total of its own": ({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 99}, Usage(1, 1, 99)),
    "zero": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage(0, 0, 0)),
    "a whole number with a point": ({"prompt_tokens": 9.0}, Usage(9)),
    "what is no count": (
        {"prompt_tokens": "9", "completion_tokens": True, "total_tokens": 1.5},
        Usage(extra={"prompt_tokens": "9", "completion_tokens": True, "total_tokens": 1.5}),
    ),
    "nothing": ({}, None),
    "nothing but nulls": ({"prompt_tokens": None, "completion_tokens": None, "details": {}}, None),
}


@pytest.mark.parametrize(("report", "expected"), USAGES.values(), ids=USAGES)
def test_usage(report: dict[str, Any], expected: Usage) -> None:
    """Counts are found under all their names, and what was reported stays reachable under the service's."""
    assert expected == read(completion({"content": "Hi"}, usage=report)).usage


@pytest.mark.parametrize("report", [usage[0] for usage in USAGES.values()], ids=USAGES)
def test_usage_round_trip(report: dict[str, Any]) -> None:
    """A report said again and read again is the same."""
    usage = _wire.decode_usage(report)

    assert usage == _wire.decode_usage(usage.to_dict())


@pytest.mark.parametrize("absent", [{}, {"usage": None}], ids=repr)
def test_usage_absent(absent: dict[str, Any]) -> None:
    """What was not reported is None, not zero."""
    assert read(completion({"content": "Hi"}, **absent)).usage is None


# ── log probabilities ────────────────────────────────────────────────────────────────────────────────────────────


def logprobs(said: Any) -> Logprobs | None:
    value = completion({"content": "Hi"})
    value["choices"][0]["logprobs"] = said
    return read(value).choices[0].logprobs


TOKEN = {"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": [{"token": "h", "logprob": -1, "bytes": None}]}
READ = TokenLogprob("H", -0.5, (72,), (TokenLogprob("h", -1),))
LOGPROBS = {
    "content": ({"content": [TOKEN], "refusal": None}, Logprobs((READ,))),
    "refusal": ({"content": None, "refusal": [TOKEN]}, Logprobs(None, (READ,))),
    "no alternatives": ({"content": [{"token": "a", "logprob": 0}]}, Logprobs((TokenLogprob("a", 0),))),
    "null": (None, None),
    "all null": ({"content": None, "refusal": None}, None),
    "empty": ({}, None),
    "an older form": (
        {"tokens": ["H"], "token_logprobs": [-0.5]},
        Logprobs(extra={"tokens": ["H"], "token_logprobs": [-0.5]}),
    ),
    "more in a token": ({"content": [{**TOKEN, "id": 5}]}, Logprobs(extra={"content": [{**TOKEN, "id": 5}]})),
    "no probability": (
        {"content": [{"token": "a", "logprob": None}]},
        Logprobs(extra={"content": [{"token": "a", "logprob": None}]}),
    ),
}


@pytest.mark.parametrize(("said", "expected"), LOGPROBS.values(), ids=LOGPROBS)
def test_logprobs(said: Any, expected: Logprobs | None) -> None:
    """Log probabilities are read in the documented form, and kept as they came in any other."""
    assert expected == logprobs(said)


# ── chunks and events ────────────────────────────────────────────────────────────────────────────────────────────


def test_chunk() -> None:
    """A chunk says what it adds."""
    found = chunk(
        {
            "id": "c",
            "model": "m",
            "created": 1,
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": "He"}, "finish_reason": None}],
        }
    )

    assert ("He", "c", "m", 1, None) == (found.text, found.id, found.model, found.created, found.finish_reason)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"delta": {"content": "a"}}, Delta(content="a")),
        ({"delta": {"content": [ANSWER]}}, Delta(content=(Text("Hi"),))),
        ({"delta": {}}, Delta()),
        ({"delta": None}, Delta()),
        ({}, Delta()),
        ({"message": {"role": "assistant", "content": "a"}}, Delta("assistant", "a")),
        ({"text": "a"}, Delta(content="a")),
        ({"delta": {"refusal": "No."}}, Delta(refusal="No.")),
        ({"delta": {"reasoning_content": "a"}}, Delta(reasoning_content="a")),
        ({"delta": {"tool_calls": None}}, Delta()),
        (
            {"delta": {"tool_calls": [{"index": 1, "function": {"arguments": "{"}}]}},
            Delta(tool_calls=(ToolCallDelta(1, arguments="{"),)),
        ),
        (
            {"delta": {"tool_calls": [{"id": "1", "function": {"name": "f"}}]}},
            Delta(tool_calls=(ToolCallDelta(None, "1", "f"),)),
        ),
    ],
    ids=repr,
)
def test_delta(choice: dict[str, Any], expected: Delta) -> None:
    """A delta is read in every shape."""
    assert expected == chunk({"choices": [choice]}).choices[0].delta


@pytest.mark.parametrize("said", [{"choices": []}, {"choices": None}, {}, {"trace_id": "tr-1"}], ids=repr)
def test_chunk_without_choices(said: dict[str, Any]) -> None:
    """A chunk may carry usage or a trace alone."""
    found = chunk({**said, "usage": {"prompt_tokens": 3}})

    assert ((), Usage(3), "", None) == (found.choices, found.usage, found.text, found.finish_reason)


@pytest.mark.parametrize(
    "said",
    [
        "text",
        5,
        [],
        None,
        {"choices": {}},
        {"choices": [5]},
        {"choices": [{"delta": "a"}]},
        {"choices": [{"delta": {"content": 5}}]},
    ],
    ids=repr,
)
def test_chunk_that_makes_no_sense(said: Any) -> None:
    """A chunk that is none is an error."""
    with pytest.raises(MalformedReply):
        _wire.decode_event(Event(json.dumps(said).encode()))


@pytest.mark.parametrize(
    "event", [Event(b""), Event(b"  "), Event(b"{}", "ping"), Event(b"x", "ping"), _wire.Head()], ids=repr
)
def test_event_that_adds_nothing(event: Any) -> None:
    """A ping is no chunk, and the reply's head is none either."""
    assert _wire.decode_event(event) is None


@pytest.mark.parametrize("data", [b"[DONE]", b" [DONE] "])
def test_done(data: bytes) -> None:
    """The service's word for the end."""
    assert _wire.Done.DONE is _wire.decode_event(Event(data))


@pytest.mark.parametrize(
    ("event", "message", "code"),
    [
        (Event(b'{"error":{"message":"No.","code":"x"}}'), "No.", "x"),
        (Event(b'{"error":"No."}'), "No.", None),
        (Event(b'{"error_code":"INTERNAL_ERROR","message":"No."}'), "No.", "INTERNAL_ERROR"),
        (Event(b'{"message":"No."}', "error"), "No.", None),
        (Event(b"No.", "error"), "No.", None),
        (Event(b'{"choices":[],"error":{"message":"No."}}'), "No.", None),
    ],
    ids=repr,
)
def test_complaint_in_a_stream(event: Event, message: str, code: str | None) -> None:
    """A complaint in a stream is a `ServiceError` without a status, in each of its forms."""
    with pytest.raises(ServiceError) as caught:
        _wire.decode_event(event)

    assert (message, code, None) == (caught.value.message, caught.value.error_code, caught.value.status)


# ── a stream where none was expected, and the other way round ────────────────────────────────────────────────────

STREAM = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
WHOLE = json.dumps(completion({"role": "assistant", "content": "Hi"})).encode()
TYPES = [
    "text/event-stream",
    "text/event-stream; charset=utf-8",
    "application/json",
    "text/plain",
    "Text/Event-Stream",
    "",
]


def streamed(body: bytes, content_type: str) -> list[Any]:
    """What a question for a stream reads."""
    incoming = _wire.Incoming(200, {"content-type": content_type})
    return [_wire.decode_event(event) for event in (*incoming.feed(body), *incoming.close())]


@pytest.mark.parametrize("content_type", TYPES)
def test_stream_to_a_plain_question(content_type: str) -> None:
    """A stream is read as the answer it amounts to, whatever type it is said to be."""
    assert "Hi" == read(STREAM, content_type=content_type).text


@pytest.mark.parametrize("content_type", TYPES)
def test_stream_to_a_question_for_one(content_type: str) -> None:
    """A stream is read whatever type it is said to be."""
    found = streamed(STREAM, content_type)

    assert "Hi" == "".join(event.text for event in found if isinstance(event, ChatChunk))


@pytest.mark.parametrize("content_type", TYPES)
def test_whole_to_a_plain_question(content_type: str) -> None:
    """A whole answer is read whatever type it is said to be."""
    assert "Hi" == read(WHOLE, content_type=content_type).text


@pytest.mark.parametrize("content_type", TYPES)
def test_whole_to_a_question_for_a_stream(content_type: str) -> None:
    """An endpoint that does not stream gives its whole answer as one chunk, whatever type it is said to be."""
    found = streamed(WHOLE, content_type)

    assert ["Hi"] == [event.text for event in found if isinstance(event, ChatChunk)]


@pytest.mark.parametrize(
    "opening", [b": PROCESSING\n\n", b"id: 1\n", b"retry: 5\n", b"event: x\n", b"\n", codecs.BOM_UTF8]
)
@pytest.mark.parametrize("content_type", TYPES)
def test_stream_that_begins_with_something_else(opening: bytes, content_type: str) -> None:
    """A stream is known by its look however it begins, whatever type it is said to be."""
    assert "Hi" == read(opening + STREAM, content_type=content_type).text


def test_what_is_no_stream_is_kept_whole() -> None:
    """Each of its bytes stands in the reply, those too that came before it was known to be none."""
    incoming = _wire.Incoming(200, {"content-type": "text/event-stream"})
    given = [*incoming.feed(b"\n"), *incoming.feed(b"{"), *incoming.feed(b"}"), *incoming.close()]

    assert [b"\n{}"] == [reply.body for reply in given]


@pytest.mark.parametrize(
    "read_it", [lambda body, kind: read(body, content_type=kind), streamed], ids=["plain", "stream"]
)
def test_page_said_to_be_a_stream(read_it: Any) -> None:
    """A login page is no answer."""
    with pytest.raises(ChatError):
        read_it(b"<html><title>Sign in</title></html>", "text/event-stream")


@pytest.mark.parametrize(
    "body",
    [
        b'data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}\n\n: ping\n\n',
        b"data:",
        b"data: {}\n\n",
        b"event: x\n\n",
    ],
    ids=ascii,
)
def test_stream_that_ends_too_early_to_a_plain_question(body: bytes) -> None:
    """A broken stream is not passed off as the whole answer because no stream was asked for."""
    with pytest.raises(ChatError):
        read(body)


def test_complaint_in_a_stream_to_a_plain_question() -> None:
    """A complaint found in an unasked-for stream has the reply's request id."""
    with pytest.raises(ServiceError) as caught:
        read(b'data: {"error":{"message":"No."}}\n\n', x_request_id="r1")

    assert "r1" == caught.value.request_id


@pytest.mark.parametrize(
    "said",
    [{"messages": [{"role": "assistant", "content": "Hi"}]}, {"predictions": completion({"content": "Hi"})}],
    ids=["messages", "predictions"],
)
def test_agent_answer_as_an_event(said: dict[str, Any]) -> None:
    """An agent that streams its whole answer as one event has answered."""
    assert "Hi" == chunk(said).text


# ── depth ────────────────────────────────────────────────────────────────────────────────────────────────────────

DEEP = {
    "a field": (b'{"choices":[],"x":', b"[", b"]"),
    "objects": (b'{"choices":[],"x":', b'{"a":', b"}"),
    "predictions": (b"", b'{"predictions":', b"}"),
    "content": (b'{"choices":[{"message":{"content":[', b"[", b"]"),
    "arguments": (b'{"choices":[{"message":{"tool_calls":[{"function":{"arguments":', b"[", b"]"),
    "logprobs": (b'{"choices":[{"logprobs":{"content":[', b'{"token":"a","logprob":0,"top_logprobs":[', b"]}"),
    "an error": (b'{"error":{"message":', b"[", b"]"),
}
CLOSED = {"content": b"]}}]}", "arguments": b"}}]}}]}", "logprobs": b"]}}]}", "an error": b"}}", "predictions": b""}
DEPTHS = [100, *range(300, 1300, 3), 10_000]  # around Python's own limit, wherever the tests' own frames put it


@pytest.mark.parametrize("what", DEEP)
def test_deep_nesting(what: str) -> None:
    """However deep a reply is nested, it is read or refused in our words."""
    begin, opening, closing = DEEP[what]
    for depth in DEPTHS:
        body = begin + opening * depth + b"1" * (closing != b"]}") + closing * depth + CLOSED.get(what, b"}")
        with contextlib.suppress(ChatError):
            assert isinstance(read(body), ChatResponse)


def test_deep_nesting_in_a_stream() -> None:
    """The same for chunks that are put together."""
    for depth in DEPTHS:
        gathering = Gathering()
        data = b'{"choices":[{"index":0,"delta":{"x":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}}]}"
        with contextlib.suppress(ChatError):
            for _ in range(2):
                found = _wire.decode_event(Event(data))

                assert isinstance(found, ChatChunk)
                gathering.add(found)

            assert isinstance(gathering.response(), ChatResponse)


def test_huge_numbers() -> None:
    """Numbers past 64 bits are numbers."""
    huge = 10**300
    response = read(completion({"content": "Hi"}, created=huge, usage={"prompt_tokens": huge}))

    assert response.usage is not None
    assert (huge, huge) == (response.created, response.usage.prompt_tokens)


def test_duplicate_keys() -> None:
    """Of a key said twice the last one stands, as every JSON reader has it."""
    assert "b" == read(b'{"choices":[{"message":{"content":"a","content":"b"}}]}').text


# ── said again ───────────────────────────────────────────────────────────────────────────────────────────────────

CITATION = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 1, "title": "t", "url": "u"}}
MESSAGES = {
    "text": {"role": "assistant", "content": "Hi"},
    "no parts": {"role": "assistant", "content": []},
    "nothing": {"role": "assistant", "content": None},
    "empty": {"role": "assistant", "content": ""},
    "thinking": {"role": "assistant", "content": [THOUGHT, ANSWER]},
    "encrypted": {"role": "assistant", "content": [SECRET_THOUGHT, ANSWER]},
    "prose and calls": {"role": "assistant", "content": "Look", "tool_calls": [CALLS["a call"][0]]},
    "Gemini": {"role": "assistant", "content": None, "tool_calls": [CALLS["a thought signature"][0]]},
    "reasoning beside": {"role": "assistant", "content": "Hi", "reasoning_content": "think"},
    "refusal": {"role": "assistant", "content": None, "refusal": "No."},
    "annotations": {"role": "assistant", "content": "Hi", "annotations": [CITATION]},
    "unknown part": {"role": "assistant", "content": [{"type": "hologram", "x": []}, ANSWER]},
    "no arguments": {"role": "assistant", "content": "", "tool_calls": [CALLS["empty arguments"][0]]},
    "custom tool": {"role": "assistant", "content": None, "tool_calls": [CALLS["a custom tool"][0]]},
    "agent": {"role": "assistant", "content": "Hi", "id": "m1", "name": "sage"},
    "tool": {"role": "tool", "content": "9", "tool_call_id": "1", "name": "f"},
    "pictures": {
        "role": "user",
        "content": [ANSWER, {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}],
    },
}
ANSWERS = {name: said for name, said in MESSAGES.items() if said["role"] == "assistant"}


@pytest.mark.parametrize("said", MESSAGES.values(), ids=MESSAGES)
def test_message_round_trip(said: dict[str, Any]) -> None:
    """A message stored as JSON and read again is the same message."""
    (message,) = read_messages([said])
    stored = json.loads(json.dumps(message.to_dict()))

    assert (message,) == read_messages([stored])


@pytest.mark.parametrize("said", ANSWERS.values(), ids=ANSWERS)
def test_answer_round_trip(said: dict[str, Any]) -> None:
    """An answer stored with `to_dict()` and asked with again goes out as the answer itself would."""
    response = read(completion(said))
    stored = json.loads(json.dumps(response.to_dict()))["choices"][0]["message"]

    assert asked(("user", "?"), response) == asked(("user", "?"), stored)


@pytest.mark.parametrize("said", MESSAGES.values(), ids=MESSAGES)
def test_to_dict_is_stable(said: dict[str, Any]) -> None:
    """An answer said, read and said again is said the same."""
    once = read(completion(said)).to_dict()

    assert once == read(once).to_dict()


def test_to_dict_of_an_answer() -> None:
    """`to_dict()` is an OpenAI chat completion with the text as its content, and the parts beside it."""
    response = read(completion({"role": "assistant", "content": [THOUGHT, ANSWER]}, usage={"prompt_tokens": 9}))

    assert {
        "id": "c1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hi",
                    "content_parts": [THOUGHT, ANSWER],
                    "reasoning_content": "think",
                    "refusal": None,
                },
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": None, "total_tokens": None},
    } == response.to_dict()


def test_to_dict_shares_nothing() -> None:
    """What `to_dict()` gives is the caller's to change."""
    response = read(completion({"role": "assistant", "content": "Hi"}, tags={"a": 1}))
    response.to_dict()["tags"]["a"] = 2

    assert {"tags": {"a": 1}} == response.extra


OPENAI = {
    **{name: completion(said) for name, said in ANSWERS.items()},
    "logprobs": {
        **completion({}),
        "choices": [
            {"index": 0, "message": MESSAGES["text"], "finish_reason": "stop", "logprobs": LOGPROBS["content"][0]}
        ],
    },
    "usage": completion(
        MESSAGES["text"], usage=USAGES["OpenAI's details"][0] | {"completion_tokens": 3, "total_tokens": 12}
    ),
    "unknown fields": completion({**MESSAGES["text"], **UNKNOWN}, **UNKNOWN),
}


@pytest.mark.parametrize("said", OPENAI.values(), ids=OPENAI)
def test_openai_takes_it(said: dict[str, Any]) -> None:
    """Where the service said all that OpenAI's own type demands, that type takes `to_dict()`."""
    chat = pytest.importorskip("openai.types.chat", reason="needs openai")
    taken = chat.ChatCompletion.model_validate(read(said).to_dict())

    assert read(said).text == (taken.choices[0].message.content or "")


# ── put into the next question ───────────────────────────────────────────────────────────────────────────────────


def test_reasoning_goes_back_unmodified() -> None:
    """Claude refuses a thought that is not the one it signed, to the field."""
    block = {"type": "reasoning", "summary": [{**SUMMARY, "extra": [1]}], "id": "rs_1"}

    assert [block, ANSWER] == replayed({"role": "assistant", "content": [block, ANSWER]})["content"]


def test_signed_empty_reasoning_goes_back() -> None:
    """A thought of which only the signature was shown goes back as it came."""
    block = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "", "signature": "s"}]}

    assert [block, ANSWER] == replayed({"role": "assistant", "content": [block, ANSWER]})["content"]


def test_reasoning_gathered_from_a_stream_goes_back() -> None:
    """A thought that came in pieces goes back whole and signed."""
    gathering = Gathering()
    for summary in ({"text": "th"}, {"text": "ink"}, {"text": "", "signature": "Eo=="}):
        part = {"type": "reasoning", "summary": [{"type": "summary_text", **summary}]}
        gathering.add(chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": [part]}}]}))
    gathering.add(chunk({"choices": [{"index": 0, "delta": {"content": "Hi"}}]}))

    assert [THOUGHT, ANSWER] == asked(("user", "?"), gathering.response())[1]["content"]


@pytest.mark.parametrize("name", ["thoughtSignature", "thought_signature", "extra_content", "cache_control"])
def test_what_stands_beside_a_call_goes_back(name: str) -> None:
    """Gemini refuses a call without its thought signature."""
    call = {"id": "f", "type": "function", "function": F, name: "s"}

    assert [call] == replayed({"role": "assistant", "content": None, "tool_calls": [call]})["tool_calls"]


def test_nothing_else_beside_a_call_goes_back() -> None:
    """`index` and what a service adds for its own ends would be refused."""
    call = {"index": 0, "id": "1", "type": "function", "function": F, "provider_note": "x"}
    (said,) = replayed({"role": "assistant", "content": None, "tool_calls": [call]})["tool_calls"]

    assert {"id": "1", "type": "function", "function": F} == said


@pytest.mark.parametrize("name", sorted(_wire.ANSWER_ONLY - {"content_parts", "function_call"}))
def test_what_only_an_answer_says_does_not_go_back(name: str) -> None:
    """The service refuses its own extras: "Extra inputs are not permitted"."""
    assert {"role": "assistant", "content": "Hi"} == replayed({"role": "assistant", "content": "Hi", name: {"a": "b"}})


@pytest.mark.parametrize(
    "content",
    [
        "",
        [{"type": "text", "text": ""}],
    ],
    ids=["text", "a part"],
)
def test_empty_content_beside_calls_goes_back_as_nothing(content: Any) -> None:
    """Claude sends empty text beside a call and refuses it when it comes back."""
    call = CALLS["a call"][0]
    said = replayed({"role": "assistant", "content": content, "tool_calls": [call]})["content"]

    assert said in (None, [])


def test_empty_text_beside_reasoning_does_not_go_back() -> None:
    """The same for an empty text part beside a thought."""
    assert [THOUGHT] == replayed({"role": "assistant", "content": [THOUGHT, {"type": "text", "text": ""}]})["content"]


def test_empty_arguments_go_back_as_an_object() -> None:
    """A call of a tool without parameters comes with empty arguments, which other models refuse."""
    (call,) = replayed({"role": "assistant", "content": None, "tool_calls": [CALLS["empty arguments"][0]]})[
        "tool_calls"
    ]

    assert "{}" == call["function"]["arguments"]


def test_answer_without_a_role_goes_back_as_the_assistants() -> None:
    """A message whose role the service did not say is still its answer."""
    assert {"role": "assistant", "content": "Hi"} == replayed({"content": "Hi"})


def test_tool_results_lose_their_name() -> None:
    """A tool's result is named by the call it answers; the service refuses the name beside it."""
    assert {"role": "tool", "content": "9", "tool_call_id": "1"} == asked(MESSAGES["tool"])[0]


# ── the body of a question ───────────────────────────────────────────────────────────────────────────────────────


def test_request_to_json() -> None:
    """The body holds the messages, the options, and the further fields as they are; never the endpoint's name."""
    request = make_request("Hi", endpoint="e", stream=True, max_tokens=5, stop=["a"], extra_body={"top_a": {"b": None}})

    assert {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "stop": ["a"],
        "stream": True,
        "top_a": {"b": None},
    } == _wire.request_to_json(request)


def test_stream_is_only_said_when_asked_for() -> None:
    """Endpoints that do not know `stream` are not bothered with it."""
    assert ["messages"] == list(_wire.request_to_json(make_request("Hi", endpoint="e")))


@pytest.mark.parametrize(
    "value", [object(), lambda: 0, "\ud800", {"a": [object()]}], ids=["object", "function", "half", "inside"]
)
def test_bytes_of_what_json_cannot_say(value: Any) -> None:
    """What cannot be written is refused in our words."""
    with pytest.raises(InvalidRequest):
        _wire.to_bytes({"x": value})


def test_body_is_compact_utf_8() -> None:
    """Text goes as UTF-8, not as escapes, and without spaces."""
    assert '{"a":"é😀"}'.encode() == _wire.to_bytes({"a": "é😀"})


SHARED = {
    "an option": (
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        lambda body: body["tools"][0]["function"],
    ),
    "extra_body": ({"extra_body": {"x": {"y": 1}}}, lambda body: body["x"]),
}


@pytest.mark.parametrize(("said", "inner"), SHARED.values(), ids=SHARED)
def test_a_body_is_always_new(said: dict[str, Any], inner: Any) -> None:
    """Changing one body changes neither the request nor the next body."""
    request: ChatRequest = make_request("Hi", endpoint="e", **said)
    before = _wire.to_bytes(_wire.request_to_json(request))
    inner(_wire.request_to_json(request))["changed"] = True

    assert before == _wire.to_bytes(_wire.request_to_json(request))


@pytest.mark.parametrize(
    ("message", "inner"),
    [
        (Message("user", (Unknown({"type": "hologram", "x": {}}),)), lambda said: said["content"][0]),
        (
            Message("assistant", (Reasoning("a", raw={"type": "reasoning", "summary": []}),)),
            lambda said: said["content"][0]["summary"],
        ),
        (
            Message("user", (Text("a", {"cache_control": {"type": "x"}}),)),
            lambda said: said["content"][0]["cache_control"],
        ),
        (Message("user", "a", extra={"x": {"y": 1}}), lambda said: said["x"]),
    ],
    ids=["an unknown part", "reasoning", "a part's extra", "a message's extra"],
)
def test_a_body_shares_nothing_with_a_message(message: Message, inner: Any) -> None:
    """Changing a body does not change the answer that the caller keeps."""
    before = _wire.to_bytes(message.to_dict())
    place = inner(asked(message)[0])
    place.append(1) if isinstance(place, list) else place.update(changed=True)

    assert before == _wire.to_bytes(message.to_dict())
