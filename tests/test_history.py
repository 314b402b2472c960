"""What an endpoint is told of earlier answers: all of its own, and of another's what was said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from isochat import (
    Image,
    InvalidRequest,
    Message,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Unknown,
    query_chat,
    render,
)
from isochat._history import PLACEHOLDER
from isochat._responses import decode_response

HERE, THERE = "here", "there"
USER = {"role": "user", "content": "Hi"}
SIGNED = Reasoning("Hm.", "s", raw={"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]})


def told(*messages: Any, endpoint: str = HERE, backend: str = "rest") -> list[Any]:
    """The messages on the wire."""
    body = render(list(messages), endpoint=endpoint, backend=backend)
    found: list[Any] = body["messages" if backend == "rest" else "input"]
    return found


def answer(content: Any = "Hello", *calls: ToolCall, origin: str | None = THERE, **more: Any) -> Message:
    return Message("assistant", content, calls, origin=origin, **more)


def result(call_id: str, content: str = "7") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


# ── where an answer came from ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_knows_who_wrote_it(stream: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Whole or streamed; of two messages that say the same it makes no difference, nor does it show."""
    pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")
    got = query_chat("Hi", endpoint="databricks-claude-sonnet-4-5", host="local", stream=stream)
    message = (got.response if stream else got).message  # type: ignore[union-attr] - as the overloads have it

    assert "databricks-claude-sonnet-4-5" == message.origin
    assert message == replace(message, origin=None)
    assert hash(message) == hash(replace(message, origin=None))
    assert "databricks" not in repr(message)


DIFFERENT = {
    "parts": answer((SIGNED, Text("Hello"))),
    "a call": answer(None, ToolCall("1", "f")),
    "a name": answer(name="sage"),
    "an extra": answer(extra={"channel": "final"}),
    "items": answer(extra={"output": []}),
}


@pytest.mark.parametrize("message", DIFFERENT.values(), ids=DIFFERENT)
def test_stored_where_it_makes_a_difference(message: Message) -> None:
    """A message that another endpoint is told otherwise says so when it is stored."""
    stored = json.loads(json.dumps(message.to_dict()))

    assert THERE == stored["isochat_origin"]
    assert told(USER, message) == told(USER, stored)
    assert told(USER, message, endpoint=THERE) == told(USER, stored, endpoint=THERE)


@pytest.mark.parametrize("message", [answer(), answer(refusal="No."), answer(reasoning_content="Hm.")])
def test_not_stored_where_it_makes_none(message: Message) -> None:
    """A plain answer, stored, is a message for any client."""
    assert "isochat_origin" not in message.to_dict()
    assert told(USER, message) == told(USER, message, endpoint=THERE)


def test_it_is_text() -> None:
    """Said wrongly it is refused, and never sent."""
    with pytest.raises(InvalidRequest, match=r"messages\[1\]\.isochat_origin: expected text"):
        told(USER, {"role": "assistant", "content": "Hello", "isochat_origin": 5})


# ── what goes to whom ────────────────────────────────────────────────────────────────────────────────────────────

CALL = ToolCall("call_1", "f", "{}", extra={"thoughtSignature": "s"})
WHOLE = answer((SIGNED, Text("Hello", {"thoughtSignature": "t"})), CALL, extra={"channel": "final"}, name="sage")


@pytest.mark.parametrize("origin", [HERE, None], ids=["its own", "nobody's"])
def test_goes_as_it_is(origin: str | None) -> None:
    """To the endpoint that wrote it, and where nobody says who wrote it, an answer goes unmodified."""
    assert told(USER, replace(WHOLE, origin=origin))[1] == {
        "role": "assistant",
        "content": [dict(SIGNED.raw or {}), {"type": "text", "text": "Hello", "thoughtSignature": "t"}],
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "f", "arguments": "{}"},
                "thoughtSignature": "s",
            }
        ],
        "name": "sage",
        "channel": "final",
    }


def test_of_anothers_goes_what_was_said() -> None:
    """Text and calls go; what it thought, what seals that, its name, and what stood beside, stay behind."""
    assert told(USER, WHOLE)[1] == {
        "role": "assistant",
        "content": "Hello",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }


def test_two_names_of_one_model() -> None:
    """Whoever knows that the same model stands behind another endpoint says so, and all of it goes."""
    known = replace(WHOLE, origin=HERE)

    assert told(USER, known) == told(USER, replace(WHOLE, origin=None))


def test_what_is_content_goes() -> None:
    """A picture that the other model made, a refusal of its own and a part that nobody knows are what was said."""
    picture, hologram = (
        Image("data:image/png;base64,AA", extra={"thoughtSignature": "s"}),
        Unknown({"type": "hologram"}),
    )

    assert told(USER, answer((SIGNED, picture, Refusal("No."), hologram)))[1]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
        {"type": "text", "text": "No."},
        {"type": "hologram"},
    ]


def test_what_the_caller_put_there_goes() -> None:
    """`cache_control` and the placeholder that Google documents for another's call are nobody else's to say."""
    cached = Text("Hello", {"cache_control": {"type": "ephemeral"}, "citations": []})
    call = replace(CALL, extra={"thoughtSignature": PLACEHOLDER})
    said = told(USER, answer((cached,), call))[1]

    assert said["content"] == [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]
    assert said["tool_calls"][0]["thoughtSignature"] == PLACEHOLDER


def test_nothing_of_the_callers_is_changed() -> None:
    """The message that the caller holds is still the whole of it."""
    before = json.dumps(WHOLE.to_dict())
    told(USER, WHOLE)

    assert json.dumps(WHOLE.to_dict()) == before


# ── ids of calls ─────────────────────────────────────────────────────────────────────────────────────────────────


def ids(messages: list[Any]) -> list[str]:
    """The ids of the calls, and of the results that answer them, in order."""
    return [
        name
        for message in messages
        for name in (*(call["id"] for call in message.get("tool_calls") or ()), message.get("tool_call_id"))
        if name
    ]


def test_ids_that_only_their_own_model_takes() -> None:
    """Kimi's `functions.f:0` is refused by Claude; the result is renamed with its call."""
    kimis = answer(None, ToolCall("functions.f:0", "f"), ToolCall("functions.g:1", "g"))
    results = [result("functions.g:1"), result("functions.f:0")]

    renamed = ["functions_f_0", "functions_g_1", "functions_g_1", "functions_f_0"]
    assert ids(told(USER, kimis, *results)) == renamed
    as_they_are = ["functions.f:0", "functions.g:1", "functions.g:1", "functions.f:0"]
    assert ids(told(USER, kimis, *results, endpoint=THERE)) == as_they_are


def test_ids_that_are_the_functions_names() -> None:
    """Gemini's two calls of one function have one id; told to another, results go to the calls in their order."""
    geminis = answer(None, ToolCall("f", "f", '{"a":1}'), ToolCall("f", "f", '{"a":2}'))
    turn = [geminis, result("f", "one"), result("f", "two")]

    assert ids(told(USER, *turn, USER, *turn)) == ["f", "f_2", "f", "f_2", "f_3", "f_4", "f_3", "f_4"]
    assert ids(told(USER, *turn, endpoint=THERE)) == ["f", "f", "f", "f"]


def test_ids_beside_its_own() -> None:
    """A call of another's gives way to one that has the name already."""
    own = answer(None, ToolCall("f", "f"), origin=HERE)

    assert ids(told(USER, own, result("f"), answer(None, ToolCall("f", "f")), result("f"))) == ["f", "f", "f_2", "f_2"]


def test_ids_of_nobodys_calls_stay() -> None:
    """A conversation of the caller's own goes as it was said, results of calls that are not there among it."""
    call = ToolCall("a.b", "f")

    assert ids(told(USER, answer(None, call, call, origin=None), result("a.b"), result("x"))) == [
        "a.b",
        "a.b",
        "a.b",
        "x",
    ]


# ── from one language into the other ─────────────────────────────────────────────────────────────────────────────

THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "So."}]}
SPOKEN = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}
SEALED = {**THOUGHT, "encrypted_content": "E"}


def responded(*items: Any, origin: str = HERE) -> Message:
    return replace(decode_response({"output": [*items]}).message, origin=origin)


@pytest.mark.parametrize("thought", [THOUGHT, SEALED], ids=["shown", "sealed"])
def test_reasoning_of_responses_is_nothing_for_chat(thought: Any) -> None:
    """Its own model takes it back where it came from, sealed; as a chat it is told what was said."""
    message = responded(thought, SPOKEN)
    stored = json.loads(json.dumps(message.to_dict()))

    for each in (message, stored):
        assert told(USER, each)[1] == {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}
        items = told(USER, each, backend="openai-responses")[1:]
        assert [item.get("encrypted_content") for item in items] == ["E", None][-1 - (thought is SEALED) :]
    assert message.reasoning == "So."


def test_reasoning_of_chat_is_nothing_for_responses() -> None:
    """Claude's redacted thought is no encrypted content of GPT's."""
    redacted = {"type": "reasoning", "summary": [{"type": "summary_encrypted_text", "data": "E"}]}
    said = {"role": "assistant", "content": [redacted, {"type": "text", "text": "Hello"}]}

    assert [item["type"] for item in told(USER, said, backend="openai-responses")[1:]] == ["message"]
    assert told(USER, said)[1] == said


def test_an_agents_rounds() -> None:
    """Another model is told an agent's calls with the results that they had; its own agent gets its items back."""
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    asks = {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"}
    got = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "output_text", "text": "7"}]}
    message = responded(call, got, SPOKEN, asks)

    assert told(USER, message, endpoint=THERE)[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "7", "tool_call_id": "c1"},
        {
            "role": "assistant",
            "content": "Hello",
            "tool_calls": [{"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}}],
        },
    ]
    assert told(USER, message, backend="openai-responses")[1:] == [call, got, SPOKEN, asks]
    assert [item["type"] for item in told(USER, message, endpoint=THERE, backend="openai-responses")[1:]] == [
        "function_call",
        "function_call_output",
        "message",
        "function_call",
    ]


@pytest.mark.parametrize(("output", "text"), [("7", "7"), ({"a": 1}, '{"a":1}'), ([{"image": 1}], '[{"image":1}]')])
def test_what_a_tool_gave_an_agent(output: Any, text: str) -> None:
    """Text as it is, anything else as its JSON."""
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    got = {"type": "function_call_output", "call_id": "c1", "output": output}

    assert told(USER, responded(call, got, SPOKEN), endpoint=THERE)[2]["content"] == text


# ── answers that say nothing ─────────────────────────────────────────────────────────────────────────────────────

NOTHING = {
    "empty text": answer("", origin=None),
    "no content": answer(None, origin=None),
    "no parts": answer((), origin=None),
    "an empty part": answer((Text(""),), origin=None),
    "thoughts of another's": answer((SIGNED,)),
    "thoughts in Responses": answer((Reasoning("Hm.", item=True),), origin=None),
    "thoughts beside it": answer("", origin=None, reasoning_content="Hm."),
}


@pytest.mark.parametrize("message", NOTHING.values(), ids=NOTHING)
def test_an_answer_that_says_nothing_is_left_out(message: Message) -> None:
    """Claude refuses it in every form. What the user said before and after it goes as one message, for Llama."""
    assert told(USER, message, {"role": "user", "content": "Ho"}) == [{"role": "user", "content": "Hi\n\nHo"}]
    assert told(USER, message) == [USER]
    assert told(USER, message, answer()) == [USER, {"role": "assistant", "content": "Hello"}]


def test_messages_with_parts_go_as_one_too() -> None:
    """Their parts, one after the other."""
    parts = [{"type": "text", "text": "Ho"}, {"type": "image_url", "image_url": {"url": "https://a/b.png"}}]

    assert told(USER, NOTHING["empty text"], {"role": "user", "content": parts}) == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, *parts]}
    ]


def test_what_the_user_said_in_two_messages_stays_two() -> None:
    """Only what an answer stood between is joined, and only where nothing stands beside the content."""
    named = {"role": "user", "content": "Ho", "name": "ada"}

    assert told(USER, USER) == [USER, USER]
    assert told(USER, NOTHING["empty text"], named) == [USER, named]


def test_a_conversation_of_nothing_goes_as_it_is() -> None:
    """There is no question without messages."""
    assert told(NOTHING["empty text"]) == [{"role": "assistant", "content": ""}]


def test_a_refusal_is_what_was_said() -> None:
    """A question has no field for a refusal, and an answer that refused says something all the same."""
    assert told(USER, answer(None, refusal="No."), USER)[1] == {"role": "assistant", "content": "No."}
    assert told(USER, answer("Hello", refusal="No."))[1] == {"role": "assistant", "content": "Hello"}
