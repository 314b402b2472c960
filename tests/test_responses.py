"""The Responses API's items and events, and isochat's values: what goes out, what comes back, and what of it goes back.

The shapes of agents' streams are those of databricks/databricks-ai-bridge, integrations/ai-sdk-provider/tests.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from isochat import (
    ChatChunk,
    ChatError,
    ChatResponse,
    ContentFiltered,
    File,
    Image,
    InvalidRequest,
    MalformedReply,
    Message,
    RateLimited,
    Reasoning,
    Refusal,
    RequestRefused,
    ServiceError,
    ServiceUnavailable,
    Text,
    ToolCall,
    UnsupportedOption,
    _wire,
)
from isochat._gather import Gathering
from isochat._request import make_request
from isochat._responses import decode_event, decode_reply, decode_response, request_to_json, unfolding
from isochat._sse import Event
from isochat._wire import Done, Reply

ASKED = [{"role": "user", "content": "Hi"}]


def body_of(messages: Any = "Hi", **options: Any) -> dict[str, Any]:
    return request_to_json(make_request(messages, endpoint="e", **options))


def input_of(*messages: Any) -> list[Any]:
    found: list[Any] = body_of(list(messages))["input"]
    return found


def said(*events: Any) -> list[ChatChunk]:
    """The chunks of a stream of these events: JSON values, or text as it is."""
    lines = [Event(each.encode() if isinstance(each, str) else json.dumps(each).encode()) for each in events]
    return [chunk for step in unfolding(lines) if isinstance(chunk := decode_event(step), ChatChunk)]


def collected(*events: Any) -> ChatResponse:
    gathering = Gathering()
    for chunk in said(*events):
        gathering.add(chunk)
    return gathering.response()


def message(text: str, **more: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part], **more}


def call(name: str = "f", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": arguments, **more}


def thought(text: str = "", **more: Any) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}] if text else []
    return {"type": "reasoning", "id": "rs_1", "summary": summary, **more}


def response(*output: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000.0,
        "status": "completed",
        "model": "gpt",
        "output": [*output],
        "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        **more,
    }


def delta(text: str, kind: str = "output_text", **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "delta": text, **more}


def done(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": item, **more}


def added(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", "item": item, **more}


CREATED = {"type": "response.created", "response": {**response(), "status": "in_progress", "usage": None}}


def completed(*output: Any, **more: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": response(*output, **more)}


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_question() -> None:
    """Text is one item; nothing is said that was not said, `store` least of all."""
    assert body_of("Hi") == {"input": ASKED}
    assert body_of("Hi", stream=True) == {"input": ASKED, "stream": True}


def test_roles_and_parts() -> None:
    """System and developer messages go as they are; parts under the names they have here."""
    parts = (
        Text("Look."),
        Image("https://x/y.png", "low"),
        Image("data:image/png;base64,AA"),
        File("data:application/pdf;base64,AA", "a.pdf"),
        File(file_id="file-1"),
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    )
    sent = input_of(
        {"role": "system", "content": "Be brief."}, ("developer", "Be."), {"role": "user", "content": list(parts)}
    )

    assert sent[:2] == [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be."}]
    assert sent[2]["content"] == [
        {"type": "input_text", "text": "Look."},
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]


@pytest.mark.parametrize(
    "odd",
    [
        {"role": "user", "content": "Hi", "name": "ada"},
        {"role": "function", "content": "Hi"},
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://x"}}]},
        {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "https://x"}}]},
    ],
    ids=["name", "function", "video", "audio"],
)
def test_what_has_no_place_is_refused(odd: dict[str, Any]) -> None:
    """What chat completions take and Responses do not is refused with where it can go, never dropped."""
    with pytest.raises(UnsupportedOption, match="no place for") as refused:
        input_of(odd)

    assert refused.value.carried_by == ("openai", "rest")


def test_a_round_of_tools() -> None:
    """Calls and their results are items of their own; a tool of free text has its own kind of both."""
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"id": "c2", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}},
    ]
    sent = input_of(
        ASKED[0],
        {"role": "assistant", "content": "Let me.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "Rain.", "name": "f"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "1"}]},
    )

    assert sent[1:] == [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me."}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "sql", "input": "SELECT 1"},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain."},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "1"},
    ]


def test_a_result_may_hold_a_picture() -> None:
    """A result that is not text alone goes as parts."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    sent = input_of(
        ASKED[0],
        Message("assistant", tool_calls=(ToolCall("c1", "f"),)),
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "See"}, picture]},
    )

    assert sent[-1]["output"] == [
        {"type": "input_text", "text": "See"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA"},
    ]


def test_a_call_needs_an_id() -> None:
    """A call that no result can name is refused, with its path."""
    with pytest.raises(InvalidRequest, match=r"messages\[0\]\.tool_calls\[0\]\.id"):
        input_of(Message("assistant", tool_calls=(ToolCall(None, "f"),)))


def test_refusals_and_thoughts_of_others() -> None:
    """A refusal goes back; thoughts that are not sealed stay behind, since the service would have to remember them."""
    claudes = Message("assistant", (Reasoning("Hm.", signature="s"), Text("Yes.")))
    assert input_of(claudes) == [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]}
    ]
    for no in (Message("assistant", refusal="No."), Message("assistant", (Refusal("No."),))):
        assert input_of(no)[0]["content"] == [{"type": "refusal", "refusal": "No."}]
    assert input_of(Message("assistant", ""))[0]["content"] == [{"type": "output_text", "text": ""}]


def test_options_under_their_names_here() -> None:
    """Each option stands where the Responses API has it."""
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}},
        {"type": "function", "function": {"name": "g"}},
        {
            "type": "custom",
            "custom": {"name": "c", "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}},
        },
        {"type": "web_search"},
    ]
    body = body_of(
        max_tokens=9,
        temperature=0.5,
        reasoning_effort="low",
        logprobs=True,
        top_logprobs=2,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": True}},
        tools=tools,
        tool_choice={"type": "function", "function": {"name": "f"}},
        extra_body={"include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}},
    )

    assert body == {
        "input": ASKED,
        "max_output_tokens": 9,
        "temperature": 0.5,
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "top_logprobs": 2,
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": True}},
        "tools": [
            {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True},
            {"type": "function", "name": "g", "strict": False},
            {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "function", "name": "f"},
    }


@pytest.mark.parametrize("choice", ["auto", "none", "required", {"type": "web_search"}])
def test_other_tool_choices_go_as_they_are(choice: Any) -> None:
    assert body_of(tool_choice=choice)["tool_choice"] == choice


def test_allowed_tools_are_flattened_too() -> None:
    inner = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}

    assert body_of(tool_choice={"type": "allowed_tools", "allowed_tools": inner})["tool_choice"] == {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "f"}],
    }


def test_two_limits_are_one() -> None:
    """Both names of the limit may be said, but not with two values."""
    assert body_of(max_tokens=9, max_completion_tokens=9)["max_output_tokens"] == 9
    with pytest.raises(InvalidRequest, match="twice"):
        body_of(max_tokens=9, max_completion_tokens=8)


def test_nothing_of_the_callers_is_shared() -> None:
    """Whatever a client does to what it is given, the caller's objects stay as they were."""
    request = make_request(
        "Hi", endpoint="e", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
    )
    before = copy.deepcopy(request)
    body = request_to_json(request)
    body["tools"][0]["parameters"]["x"] = body["input"][0]["content"] = 1

    assert before == request


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer() -> None:
    """Text, id, model, time, usage and everything else that was said."""
    answer = decode_response(response(thought(), message("Hi."), temperature=1.0, user=None, tools=[]))

    assert (answer.text, answer.finish_reason, answer.reasoning) == ("Hi.", "stop", None)
    assert (answer.id, answer.model, answer.created) == ("resp_1", "gpt", 1_700_000_000.0)
    assert answer.message == Message("assistant", "Hi.", extra={"id": "msg_1"})
    assert answer.extra == {"status": "completed", "temperature": 1.0}


def test_usage() -> None:
    """Counts under the API's own names, those in the details too."""
    report = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }
    usage = decode_response(response(message("Hi."), usage=report)).usage

    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (9, 5, 14)
    assert (usage.cached_tokens, usage.cache_creation_tokens, usage.reasoning_tokens) == (4, 3, 2)


@pytest.mark.parametrize(
    ("more", "output", "reason"),
    [
        ({}, [message("Hi.")], "stop"),
        ({}, [call()], "tool_calls"),
        ({}, [call(), {"type": "function_call_output", "call_id": "call_1", "output": "1"}, message("Hi.")], "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, [message("H")], "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_tokens"}}, [message("H")], "length"),  # xAI's
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, [], "content_filter"),
        ({"status": "incomplete", "incomplete_details": {"reason": "else"}}, [], "else"),
        ({"status": "incomplete"}, [], "incomplete"),
        ({"status": "complete"}, [message("Hi.")], "stop"),
        ({"status": None}, [message("Hi.")], "stop"),
        ({"status": "cancelled"}, [], "cancelled"),
        ({"status": "in_progress"}, [], None),
    ],
)
def test_finish_reasons(more: dict[str, Any], output: list[Any], reason: str | None) -> None:
    """Status and reason under chat's words; a call that the answer itself answers is nobody's to make."""
    assert reason == decode_response(response(*output, **more)).finish_reason


def test_calls() -> None:
    """Calls are named by `call_id`; an agent's arguments may be JSON; free text is a custom call."""
    free = {"type": "custom_tool_call", "id": "ct_1", "call_id": "call_3", "name": "sql", "input": "SELECT 1"}
    answer = decode_response(response(call(), call("g", {"a": 1}, call_id="call_2"), free))

    assert answer.tool_calls == (
        ToolCall("call_1", "f", "{}"),
        ToolCall("call_2", "g", '{"a":1}'),
        ToolCall("call_3", "sql", "SELECT 1", "custom"),
    )
    assert answer.finish_reason == "tool_calls"


def test_reasoning() -> None:
    """A summary or the thoughts themselves are reasoning; what is sealed is kept to go back."""
    open_ = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    answer = decode_response(response(open_, thought("So.", encrypted_content="E"), message("Hi.")))

    assert answer.reasoning == "Hm.So."
    assert answer.message.parts[-2:] == (Reasoning(encrypted="E"), Text("Hi."))
    assert input_of(answer.message)[0]["encrypted_content"] == "E"


def test_reasoning_with_a_signature() -> None:
    """Claude's, behind a gateway that speaks Responses: the signature closes it, whole and streamed."""
    signed = thought("So.", signature="S", format="f")
    whole, streamed = decode_response(response(signed)), collected(done(signed), completed(signed))

    assert whole.message == streamed.message
    assert whole.message.parts == (Reasoning("So.", "S", item=True),)
    assert whole.message.extra == {"item_extra": {"format": "f"}}


def test_reasoning_told_the_other_way_round() -> None:
    """Thoughts are streamed before the summary that stands before them in the item: neither is told twice."""
    item = {**thought("Sum."), "content": [{"type": "reasoning_text", "text": "Raw."}]}
    raw, summary = delta("Raw.", "reasoning_text"), delta("Sum.", "reasoning_summary_text")

    assert collected(CREATED, raw, summary, done(item), completed(item)).reasoning == "Raw.Sum."
    assert collected(CREATED, raw, done(item), completed(item)).reasoning == "Raw.Sum."
    assert decode_response(response(item)).reasoning == "Sum.Raw."


def test_what_stands_in_an_item_beside_its_words() -> None:
    """It is kept in the message's `extra`, whole and streamed, and goes back in neither language."""
    item = message("Hi.", name="planner")
    item["content"][0]["metadata"] = {"page": 3}
    whole = decode_response(response(item))

    assert whole.message.extra == {"id": "msg_1", "item_extra": {"name": "planner", "metadata": {"page": 3}}}
    assert collected(CREATED, delta("Hi."), done(item), completed(item)).message == whole.message
    assert input_of(whole.message) == input_of(Message("assistant", "Hi."))
    assert _wire.message_to_json(whole.message) == {"role": "assistant", "content": "Hi."}


@pytest.mark.parametrize("content", ["", [{"type": "output_text", "text": ""}]])
def test_an_answer_that_says_nothing(content: Any) -> None:
    """It is empty, as chat completions have it; where there is no message at all, nothing was said."""
    assert decode_response(response({**message(""), "content": content})).message.content == ""
    assert decode_response(response(call())).message.content is None


def test_the_last_message_gives_its_id() -> None:
    """It is kept for whoever looks for it, and does not go back, since it may be longer than an id may be."""
    first = {**message("Ho."), "id": "msg_0"}
    answer = decode_response(response(first, {**message("Hi."), "id": "m" * 70}))

    assert answer.message.extra["id"] == "m" * 70
    assert all("id" not in item for item in input_of(answer.message))


def test_a_picture_in_an_answer_has_no_place() -> None:
    """Gemini's answers may hold one; the Responses API takes none from the assistant, so it is refused here."""
    with pytest.raises(UnsupportedOption, match=r"picture.*messages\[0\]"):
        input_of(Message("assistant", (Image("data:image/png;base64,AA"),)))


def test_a_refusal() -> None:
    """A refusal is not text."""
    answer = decode_response(response({**message(""), "content": [{"type": "refusal", "refusal": "No."}]}))

    assert (answer.refusal, answer.text, answer.finish_reason) == ("No.", "", "stop")


def test_log_probabilities() -> None:
    """They are those of the text."""
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [{"token": "Hi", "logprob": -0.5}]}
    item = message("Hi")
    item["content"][0]["logprobs"] = [token]
    answer = decode_response(response(item))

    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert answer.choices[0].logprobs.content[0].top_logprobs[0].logprob == -0.5


@pytest.mark.parametrize(
    "loose",
    [
        {"output": [{"role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}]},
        {"output": [{"type": "message", "content": "Hi."}]},
        {"output": [{"type": "message", "content": ["Hi", "."]}]},
        {"output": [{"type": "message", "content": {"type": "output_text", "text": "Hi."}}]},
        {"output": [{"type": "message", "id": None, "content": [{"type": "text", "text": "Hi."}]}], "usage": None},
        [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}],
        {"choices": [{"message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]},
        {"messages": [{"role": "assistant", "content": "Hi."}], "finish_reason": "stop"},
    ],
)
def test_an_agents_looser_answer(loose: Any) -> None:
    """Items without types or ids, content without parts, a list alone, a chat: whatever makes sense is an answer."""
    answer = decode_response(loose)

    assert (answer.text, answer.finish_reason, answer.usage, answer.id) == ("Hi.", "stop", None, None)


def test_what_agents_say_of_their_own() -> None:
    """Custom outputs, trace and Databricks' own part stand in `extra`; somebody else's message is not the answer."""
    own = {"custom_outputs": {"a": 1}, "databricks_output": {"trace": {}}, "trace_id": "tr-1"}
    answer = decode_response(
        {"object": "response", "output": [{**message("Q"), "role": "user"}, message("Hi.")], **own}
    )

    assert answer.text == "Hi."
    assert answer.extra == own
    assert [item["type"] for item in answer.message.extra["output"]] == ["message", "message"]


def test_what_a_message_cannot_say_is_kept() -> None:
    """A hosted tool's item, a phase and an agent's rounds stand in `extra["output"]` and go back in their order."""
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}, "error": None}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "1"}
    answer = decode_response(response(search, call(), result, message("Hi.", phase="final_answer")))
    stored = json.loads(json.dumps(answer.message.to_dict()))

    expected = [
        {"type": "web_search_call", "id": "ws_1", "action": {"query": "x"}},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        result,
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hi."}],
            "phase": "final_answer",
        },
    ]
    assert expected == answer.message.extra["output"] == input_of(answer.message) == input_of(stored)


def test_a_message_that_was_changed_goes_as_it_was_changed() -> None:
    """What is kept of an answer's items does not overrule what its message says now."""
    answer = decode_response(response(message("Hi.", phase="final_answer")))
    changed = Message("assistant", "Ho.", extra=answer.message.extra)

    assert input_of(changed)[0]["content"] == [{"type": "output_text", "text": "Ho."}]


@pytest.mark.parametrize("name", ["x" * 65, "ws_1"])
def test_what_goes_back_is_what_the_service_takes(name: str) -> None:
    """No status, no null anywhere at the top, and no id of more than 64 characters."""
    answer = decode_response(response({"type": "web_search_call", "id": name, "status": "completed"}, message("Hi.")))
    (item, _) = input_of(answer.message)

    assert "status" not in item
    assert len(item.get("id", "")) <= 64


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (response(status="failed", error={"code": "server_error", "message": "Oh."}), ServiceUnavailable),
        (response(status="failed", error={"code": "rate_limit_exceeded", "message": "Oh."}), RateLimited),
        (response(status="failed"), ServiceError),
        ({"error": {"message": "Oh.", "code": "content_filter"}}, ContentFiltered),
        ({"error_code": "BAD_REQUEST", "message": "Oh."}, RequestRefused),
    ],
)
def test_a_failure_under_a_200(body: dict[str, Any], error: type[ServiceError]) -> None:
    """An answer that failed is an error, with the service's code and words."""
    with pytest.raises(error) as failed:
        decode_reply(Reply(200, {"x-request-id": "r"}, json.dumps(body).encode()))

    assert "Oh." in failed.value.message or "failed" in failed.value.message


@pytest.mark.parametrize(
    "body", [b"", b"null", b"5", b"[]", b"{}", b'{"output": {}}', b"<html>", b'{"output": [5, {}]}']
)
def test_nonsense(body: bytes) -> None:
    """What is no answer says so, or is an answer without anything in it; nothing breaks."""
    try:
        text = decode_reply(Reply(200, {}, body)).text
    except MalformedReply:
        text = ""

    assert text == ""


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _in_full() -> list[dict[str, Any]]:
    """Everything a service may say, each in stretches, as a part, as an item, and in the response at the end."""
    place: dict[str, Any] = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    part = {"type": "output_text", "text": "Hello.", "annotations": [{"type": "url_citation", "url": "u"}]}
    items = [
        thought("So.", encrypted_content="E"),
        {**message("Hello."), "content": [part]},
        call(arguments='{"a": 1}', status="completed"),
        {"type": "custom_tool_call", "id": "ct_1", "call_id": "call_2", "name": "sql", "input": "SELECT 1"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    ]
    return [
        CREATED,
        {**CREATED, "type": "response.in_progress"},
        {"type": "keepalive", "sequence_number": 1},
        added(thought(), output_index=0),
        {"type": "response.reasoning_summary_part.added", "item_id": "rs_1", "output_index": 0, "part": {}},
        delta("S", "reasoning_summary_text", item_id="rs_1", output_index=0),
        delta("o.", "reasoning_summary_text", item_id="rs_1", output_index=0),
        {"type": "response.reasoning_summary_text.done", "item_id": "rs_1", "output_index": 0, "text": "So."},
        done(items[0], output_index=0),
        added({**message(""), "content": []}, output_index=1),
        {"type": "response.content_part.added", **place, "part": {"type": "output_text", "text": ""}},
        delta("Hel", **place),
        delta("", **place),
        delta("lo.", **place),
        {"type": "response.output_text.annotation.added", **place, "annotation": part["annotations"][0]},  # type: ignore[index]
        {"type": "response.output_text.done", **place, "text": "Hello."},
        {"type": "response.content_part.done", **place, "part": part},
        done(items[1], output_index=1),
        added(call(arguments=""), output_index=2),
        delta('{"a"', "function_call_arguments", item_id="fc_1", output_index=2),
        delta(": 1}", "function_call_arguments", item_id="fc_1", output_index=2),
        {"type": "response.function_call_arguments.done", "item_id": "fc_1", "arguments": '{"a": 1}'},
        done(items[2], output_index=2),
        added({**items[3], "input": ""}, output_index=3),
        delta("SELECT 1", "custom_tool_call_input", item_id="ct_1", output_index=3),
        done(items[3], output_index=3),
        added({**items[4], "status": "in_progress"}, output_index=4),
        {"type": "response.web_search_call.searching", "item_id": "ws_1", "output_index": 4},
        done(items[4], output_index=4),
        completed(*items, metadata={"a": "b"}),
    ]


@pytest.mark.parametrize("left_out", ["nothing", "delta", "done", "added", "item", "completed list", "created"])
def test_a_stream_is_its_whole(left_out: str) -> None:
    """Whichever way of telling is left out, what is collected equals the whole answer."""
    events = _in_full()
    if left_out in ("done", "item"):
        # What is sealed comes with its item, and else after the text: nothing that was told can be told before it.
        del events[-1]["response"]["output"][0]["encrypted_content"]
    whole = decode_response(events[-1]["response"])
    if left_out == "completed list":
        events[-1] = completed(metadata={"a": "b"})
    elif left_out == "item":
        events = [event for event in events if "output_item" not in event["type"]]
    elif left_out == "created":
        events = [event for event in events if event["type"] not in ("response.created", "response.in_progress")]
    elif left_out != "nothing":
        events = [event for event in events if not event["type"].endswith(left_out)]

    assert whole == collected(*events)
    assert whole == collected(*events, "[DONE]")


def test_items_go_back_in_the_order_of_the_response() -> None:
    """Where a hosted tool's item is first told at the end, it still stands before the words that came of it."""
    search = {"type": "web_search_call", "id": "ws_1"}
    stream = collected(
        CREATED, delta("Hel", output_index=1), delta("lo.", output_index=1), completed(search, message("Hello."))
    )

    assert ["web_search_call", "message"] == [item["type"] for item in input_of(stream.message)]


def test_chunks_say_what_they_add() -> None:
    """Each stretch is a chunk; what only repeats is none; the first says who answers, the last why it ended."""
    chunks = said(
        CREATED, added(message("")), delta("Hel"), delta("lo"), done(message("Hello")), completed(message("Hello"))
    )

    assert ["Hel", "lo"] == [chunk.text for chunk in chunks if chunk.text]
    assert (chunks[0].id, chunks[0].model) == ("resp_1", "gpt")
    assert [None, None, "stop"] == [chunk.finish_reason for chunk in chunks[:3]]


def test_calls_come_in_pieces() -> None:
    """A call's name comes first, its arguments as they are written, two at a time where they are."""
    one, other = call("f", "", id="fc_1", call_id="c1"), call("g", "", id="fc_2", call_id="c2")
    events = [
        CREATED,
        added(one, output_index=0),
        added(other, output_index=1),
        delta('{"a":', "function_call_arguments", item_id="fc_1", output_index=0),
        delta("{}", "function_call_arguments", item_id="fc_2", output_index=1),
        delta("1}", "function_call_arguments", item_id="fc_1", output_index=0),
        done({**one, "arguments": '{"a":1}'}, output_index=0),
        done({**other, "arguments": "{}"}, output_index=1),
        completed({**one, "arguments": '{"a":1}'}, {**other, "arguments": "{}"}),
    ]

    assert collected(*events).tool_calls == (ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "g", "{}"))
    assert ["f", "g"] == [piece.name for chunk in said(*events)[:2] for piece in chunk.tool_calls]
    assert collected(*events).finish_reason == "tool_calls"


def test_an_agent_goes_round_twice() -> None:
    """Two rounds in one stream, the first's call answered by a bare item between them: one answer, in order."""
    result = {"type": "function_call_output", "call_id": "call_1", "output": "12"}
    first, second = message("Let me.", id="t1"), message("It is 12.", id="t2")
    events = [
        {**CREATED, "sequence_number": 0},
        added({**message(""), "id": "__fake_id__", "content": []}, output_index=0),
        delta("Let", item_id="t1", output_index=0),
        delta(" me.", item_id="t1", output_index=0),
        added(call(arguments=""), output_index=1),
        delta("{}", "function_call_arguments", item_id="fc_1", output_index=1),
        delta("", item_id="t1", output_index=0),
        done(call(), output_index=1),
        done(first, output_index=0),
        completed(first, call()),
        result,
        {**CREATED, "sequence_number": 0},
        added({**message(""), "id": "__fake_id__", "content": []}, output_index=0),
        delta("It is 12.", item_id="t2", output_index=0),
        done(second, output_index=0),
        completed(second, usage={"input_tokens": 8, "output_tokens": 1, "total_tokens": 9}),
    ]
    answer = collected(*events)

    assert (answer.text, answer.finish_reason) == ("Let me.It is 12.", "stop")
    assert answer.tool_calls == (ToolCall("call_1", "f", "{}"),)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 9
    assert ["message", "function_call", "function_call_output", "message"] == [
        item["type"] for item in answer.message.extra["output"]
    ]
    assert ["stop", "tool_calls"] != [chunk.finish_reason for chunk in said(*events) if chunk.finish_reason]


def test_all_items_have_one_id() -> None:
    """The OpenAI Agents SDK calls every item `__fake_id__`: items are told apart all the same."""
    same: dict[str, Any] = {"id": "__fake_id__"}
    one, other = message("One.", **same), message("Two.", **same)
    events = []
    for item in (one, other):
        text = item["content"][0]["text"]
        events += [CREATED, delta(text, item_id="__fake_id__", output_index=0), done(item, output_index=0)]
        events += [done(call(**same), output_index=1), completed(item, call(**same))]
        events[-2:] = [completed(item)]

    assert collected(*events).text == "One.Two."


@pytest.mark.parametrize(
    "events",
    [
        [done(message("Hello."))],
        [delta("Hel", item_id="msg_1"), delta("lo.", item_id="msg_1"), done(message("Hello."))],
        [delta("Hel"), delta("lo."), done(message("Hello."))],
        [delta("Hello.", item_id="other"), done(message("Hello."))],
        [delta("Hel"), done(message("Hello."))],
        [done(message("Hello.")), done(message("Hello."))],
        [message("Hello.")],
        [{"type": "response.output_text.done", "text": "Hello."}, completed()],
        [{"output": [message("Hello.")]}],
        [CREATED, delta("Hello."), {**completed(message("Hello.")), "type": "responses.completed"}],
        [CREATED, done(message("Hello.")), {"type": "response.completed"}],
        [{"choices": [{"index": 0, "delta": {"content": "Hello."}, "finish_reason": "stop"}]}],
    ],
    ids=[
        "whole alone",
        "both",
        "both, no ids",
        "both, two ids",
        "half",
        "twice",
        "bare",
        "part alone",
        "response alone",
        "plural",
        "completed empty",
        "chat",
    ],
)
@pytest.mark.parametrize("end", [[], ["[DONE]"]], ids=["no end", "[DONE]"])
def test_agents_ways_to_say_one_thing(events: list[Any], end: list[str]) -> None:
    """However irregular the stream, its text is there once and it has an end, with `[DONE]` or without."""
    answer = collected(*events, *end)

    assert (answer.text, answer.finish_reason) == ("Hello.", "stop")


def test_two_messages_without_a_frame() -> None:
    """An agent that announces nothing and says two things is not taken to repeat itself."""
    answer = collected(
        delta("A", item_id="1"), done(message("A", id="1")), delta("AB", item_id="2"), done(message("AB", id="2"))
    )

    assert answer.text == "AAB"


def test_an_agent_says_the_same_before_and_after_a_call() -> None:
    """Where no name says that it is the same item, it was said twice."""
    told = message("OK.", id="__fake_id__")
    events = [done(told), done(call(id="__fake_id__")), done({"type": "function_call_output", "call_id": "call_1"})]

    assert collected(*events, done(told)).text == "OK.OK."
    assert collected(*events, done(told), completed(told, call(), told)).text == "OK.OK."


def test_every_event_names_an_item_otherwise() -> None:
    """Some gateways do: what the response at the end calls by another name is not said again."""
    thoughts = thought("Hm.")
    events = [CREATED, delta("Hi.", item_id="a"), done(message("Hi.", id="b")), done(thoughts)]

    answer = collected(*events, completed({**thoughts, "id": "rs_2"}, message("Hi.", id="c")))
    assert (answer.text, answer.reasoning) == ("Hi.", "Hm.")
    assert collected(*events, completed(message("Hi.", id="b"), message("Hi.", id="c"))).text == "Hi.Hi."


def test_an_event_without_a_type() -> None:
    """A trace id in an event of its own, and what stands beside an item, are told of the answer."""
    answer = collected(
        done(message("Hi."), databricks_output={"trace": {"a": 1}}, custom_outputs={"b": 2}), {"trace_id": "tr-1"}
    )

    assert answer.extra == {"databricks_output": {"trace": {"a": 1}}, "custom_outputs": {"b": 2}, "trace_id": "tr-1"}


def test_an_error_in_a_field_of_its_own() -> None:
    """llama.cpp's server wrote its errors so."""
    event = Event(b'{"code": 400, "message": "Oh.", "type": "invalid_request_error"}', "error")
    with pytest.raises(ServiceError, match="Oh") as complaint:
        [decode_event(step) for step in unfolding([event])]

    assert complaint.value.error_code == "400"


def test_a_name_in_place_of_a_type() -> None:
    """An event's own name does where its data has none."""
    events = [
        Event(json.dumps({"delta": "Hi."}).encode(), "response.output_text.delta"),
        Event(json.dumps({"response": response()}).encode(), "response.completed"),
    ]
    gathering = Gathering()
    for step in unfolding(events):
        if isinstance(chunk := decode_event(step), ChatChunk):
            gathering.add(chunk)

    assert (gathering.response().text, gathering.response().finish_reason) == ("Hi.", "stop")


def test_an_incomplete_stream_is_cut_short() -> None:
    """`response.incomplete` ends a stream, and says why."""
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    answer = collected(CREATED, delta("Hel"), {"type": "response.incomplete", "response": response(**cut)})

    assert (answer.text, answer.finish_reason) == ("Hel", "length")


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"type": "error", "code": "server_error", "message": "Oh."}, "server_error"),
        ({"type": "error", "error": {"code": "server_error", "message": "Oh."}}, "server_error"),
        ({"type": "response.failed", "response": response(error={"code": "x", "message": "Oh."})}, "x"),
        ({"type": "response.completed", "response": response(status="failed", error={"message": "Oh."})}, None),
        ({"error": "Oh."}, None),
        ({"error": {"message": "Oh."}}, None),
        ({"error_code": "INTERNAL_ERROR", "message": "Oh."}, "INTERNAL_ERROR"),
    ],
)
def test_complaints(event: dict[str, Any], code: str | None) -> None:
    """Each way to complain in a stream is one error."""
    with pytest.raises(ServiceError) as complaint:
        said(CREATED, event)

    assert (complaint.value.message, complaint.value.error_code) == ("Oh.", code)


@pytest.mark.parametrize("junk", ["null", "[]", "5", '"x"', "{"])
def test_junk_in_a_stream(junk: str) -> None:
    """An event that makes no sense says so."""
    with pytest.raises(MalformedReply):
        said(CREATED, junk)


def test_a_stream_that_was_cut_has_no_end() -> None:
    """Stretches alone are no answer, however they look."""
    gathering = Gathering()
    for chunk in said(CREATED, delta("Hel")):
        gathering.add(chunk)

    assert not gathering.complete


def test_done_is_done() -> None:
    """`[DONE]` is told, after what was left to tell."""
    steps = [decode_event(step) for step in unfolding([Event(b"[DONE]")])]

    assert Done.DONE in steps


JUNK = (None, 5, True, "", [], {}, [None], [[]], {"type": 5}, {"text": 1})


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


def _with(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    changed = copy.copy(value)
    changed[path[0]] = _with(value[path[0]], path[1:], junk)
    return changed


@pytest.mark.parametrize("place", range(len(_in_full())))
def test_nothing_odd_breaks_it(place: int) -> None:
    """Whatever stands where something else is expected: an answer that can be asked with again, or a `ChatError`."""
    events = _in_full()
    for path in _places(events[place]):
        for junk in JUNK:
            odd = [*events[:place], _with(events[place], path, copy.deepcopy(junk)), *events[place + 1 :]]
            try:
                answer = collected(*odd)
                input_of(ASKED[0], answer.message)
            except ChatError:
                continue
            assert answer.to_dict()
