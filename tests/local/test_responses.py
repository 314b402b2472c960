"""The Responses API of the local endpoint: chat's answers as items, its quirks, and the unmodified client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from isochat.local import LocalEndpoint, statement
from isochat.local._responses import ROWS

GPT, EXTERNAL, AGENT, CLAUDE = "databricks-gpt-5-1", "external-gpt", "agent-chat", "databricks-claude-sonnet-4-5"
CODEX = "databricks-gpt-5-1-codex-max"
WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SEALED = {"include": ["reasoning.encrypted_content"]}
PATH = "/serving-endpoints/responses"


def post(ask: Any, name: str, given: Any = "one two three", **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask.post(PATH, {"model": name, "input": given, **options}))
    return found


def stream(ask: Any, name: str, given: Any = "one two three", **options: Any) -> list[dict[str, Any]]:
    body = ask.post(PATH, {"model": name, "input": given, "stream": True, **options}).decode()
    return [json.loads(line.removeprefix("data: ")) for line in body.split("\n") if line.startswith("data: ")]


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


# --- the same answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [GPT, EXTERNAL])
@pytest.mark.parametrize(
    ("chat", "here"),
    [
        ({}, {}),
        ({"max_tokens": 2}, {"max_output_tokens": 2}),
        (
            {"tools": [{"type": "function", "function": WEATHER}], "tool_choice": "required"},
            {"tools": [{"type": "function", **WEATHER, "strict": False}], "tool_choice": "required"},
        ),
        (
            {
                "tools": [{"type": "function", "function": WEATHER}],
                "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
            },
            {
                "tools": [{"type": "function", **WEATHER}],
                "tool_choice": {"type": "function", "name": "get_weather"},
            },
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": WEATHER["parameters"]},
                }
            },
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": WEATHER["parameters"]}}},
        ),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
    ],
    ids=["plain", "cut", "tool", "named tool", "schema", "effort"],
)
def test_the_answer_is_chats(asking: Any, name: str, chat: dict[str, Any], here: dict[str, Any]) -> None:
    """Text, calls with their ids, cut and counts are those of the chat route; streamed, the same object ends it."""
    message, response = asking.chat(name, "one two three", **chat), post(asking, name, **here)
    choice = message["choices"][0]
    events = stream(asking, name, **here)
    calls = [(c["call_id"], c["name"], c["arguments"]) for c in response["output"] if c["type"] == "function_call"]

    assert (choice["message"]["content"] or "") == text_of(response)
    assert calls == [
        (c["id"], c["function"]["name"], c["function"]["arguments"]) for c in choice["message"].get("tool_calls") or ()
    ]
    assert ("incomplete" if choice["finish_reason"] == "length" else "completed") == response["status"]
    assert message["usage"]["total_tokens"] == response["usage"]["total_tokens"]
    assert response == events[-1]["response"]
    assert f"response.{response['status']}" == events[-1]["type"]


def test_a_cut_answer_says_so(asking: Any) -> None:
    """`max_output_tokens` makes it incomplete, for that reason."""
    response = post(asking, GPT, max_output_tokens=2)

    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert text_of(response) == "one two"


def test_events_tell_it_four_times(asking: Any) -> None:
    """In stretches, as a part, as an item, and in the response at the end; numbered, and named as their type says."""
    body = asking.post(PATH, {"model": GPT, "input": "one two", "stream": True}).decode()
    names = [line.removeprefix("event: ") for line in body.split("\n") if line.startswith("event: ")]
    events = stream(asking, GPT, "one two")

    assert names == [event["type"] for event in events]
    assert list(range(len(events))) == [event["sequence_number"] for event in events]
    assert names == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[0]["response"]["status"] == "in_progress"
    assert events[2]["item"]["type"] == "reasoning"
    assert events[-2]["item"] == events[-1]["response"]["output"][1]


def test_a_conversation_goes_on(asking: Any) -> None:
    """Calls, results, sealed reasoning, instructions and parts are taken; the result is what is said."""
    tools = [{"type": "function", **WEATHER}]
    first = post(asking, GPT, "get_weather", tools=tools, **SEALED)
    output = [{k: v for k, v in item.items() if k not in {"id", "status"}} for item in first["output"]]
    result = {"type": "function_call_output", "call_id": output[-1]["call_id"], "output": "Sunny."}
    asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "get_weather"}]}

    assert ["reasoning", "function_call"] == [item["type"] for item in output]
    assert text_of(post(asking, GPT, [asked, *output, result], tools=tools, instructions="Be brief.")) == "Sunny."


def test_pictures_and_files_are_taken(asking: Any) -> None:
    parts = [
        {"type": "input_text", "text": "See."},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
    ]

    assert text_of(post(asking, GPT, [{"role": "user", "content": parts}])) == "See."


def test_reasoning_is_shown_as_it_was_asked_for(asking: Any) -> None:
    """Nothing of it, a summary, or sealed."""
    bare, shown, sealed = (
        post(asking, GPT, **said)["output"][0] for said in ({}, {"reasoning": {"summary": "auto"}}, SEALED)
    )

    assert (bare["type"], bare["summary"]) == ("reasoning", [])
    assert "three" not in shown["summary"][0]["text"]
    assert shown["summary"][0]["text"]
    assert sealed["encrypted_content"]


def test_log_probabilities(asking: Any) -> None:
    """They come when they are to be included, as many as asked for."""
    options = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    (part,) = post(asking, GPT, **options)["output"][-1]["content"]

    assert ["one ", "two ", "three"] == [token["token"] for token in part["logprobs"]]
    assert len(part["logprobs"][0]["top_logprobs"]) == 2


def test_a_script_answers_here_too(ask_of: Any) -> None:
    """What a script says, a refusal among it, is told as items."""
    rules = [
        {"when": {"contains": "bomb"}, "reply": {"refusal": "No."}},
        {"when": {"contains": "weather"}, "reply": {"text": "Wait.", "tool_calls": [{"name": "get_weather"}]}},
        {"when": {"contains": "filter"}, "reply": {"text": "", "finish_reason": "content_filter"}},
    ]
    with LocalEndpoint({"rules": rules}) as local:
        here = ask_of(local)
        for said in ("bomb", "weather", "filter"):
            whole = post(here, GPT, said)
            assert whole == stream(here, GPT, said)[-1]["response"]
            if said == "bomb":
                assert whole["output"][-1]["content"] == [{"type": "refusal", "refusal": "No."}]
            elif said == "weather":
                assert ["reasoning", "message", "function_call"] == [item["type"] for item in whole["output"]]
            else:
                assert whole["incomplete_details"] == {"reason": "content_filter"}


SQL = {"type": "custom", "name": "run_sql", "format": {"type": "grammar", "syntax": "lark", "definition": "s: /.+/"}}


@pytest.mark.parametrize("name", [GPT, CODEX])
def test_a_tool_that_takes_free_text(asking: Any, name: str) -> None:
    """It is called with text, streamed too, and its result is of a type of its own."""
    call = post(asking, name, "Use run_sql.", tools=[SQL])["output"][-1]
    events = stream(asking, name, "Use run_sql.", tools=[SQL])
    back = {key: value for key, value in call.items() if key not in {"id", "status"}}
    asked = {"role": "user", "content": "Use run_sql."}
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "7"}

    assert (call["type"], call["name"]) == ("custom_tool_call", "run_sql")
    assert isinstance(call["input"], str)
    assert events[-1]["response"]["output"][-1] == call
    assert [call["input"]] == [e["delta"] for e in events if e["type"] == "response.custom_tool_call_input.delta"]
    assert text_of(post(asking, name, [asked, back, result], tools=[SQL])) == "7"
    with pytest.raises(asking.Refused, match="no call"):
        post(asking, name, [asked, back, {**result, "type": "function_call_output"}], tools=[SQL])


@pytest.mark.parametrize("kind", ["apply_patch", "image_generation", "mcp", "shell", "web_search"])
def test_tools_that_the_service_runs(asking: Any, kind: str) -> None:
    """They are taken, and never run here."""
    response = post(asking, GPT, tools=[{"type": kind}], tool_choice={"type": kind})

    assert text_of(response) == "one two three"
    assert [{"type": kind}] == response["tools"]


def test_an_agent_with_a_trace(asking: Any) -> None:
    """An agent answers with what it was given beside the question, and its trace if that was asked for."""
    asked = {"custom_inputs": {"a": 1}, "databricks_options": {"return_trace": True}}
    whole, events = post(asking, AGENT, **asked), stream(asking, AGENT, **asked)

    assert whole["custom_outputs"] == {"a": 1}
    assert events[-1] == {"trace_id": whole["trace_id"]}
    assert events[-2]["item"] == whole["output"][0]
    assert events[-2]["databricks_output"] == whole["databricks_output"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": "Hi"}, "Missing required field 'model'"),
        ({"model": GPT}, "'input' must be"),
        ({"model": GPT, "input": []}, "'input' must be"),
        ({"model": GPT, "input": ["Hi"]}, "input[0]"),
        ({"model": GPT, "input": [{"type": "item_reference", "id": "msg_1"}]}, "item_reference"),
        ({"model": GPT, "input": [{"role": "user", "content": [{"type": "video"}]}]}, "content[0].type"),
        ({"model": GPT, "input": [{"role": "ada", "content": "Hi"}]}, "role"),
        ({"model": GPT, "input": [{"type": "function_call", "name": "f"}]}, "call_id"),
        ({"model": GPT, "input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, "must follow"),
        ({"model": GPT, "input": [{"type": "reasoning"}]}, "summary"),
        ({"model": GPT, "input": "Hi", "temperature": 0.5}, "temperature"),
        ({"model": GPT, "input": "Hi", "max_output_tokens": 0}, "max_output_tokens"),
        ({"model": GPT, "input": "Hi", "max_output_tokens": "1"}, "max_output_tokens"),
        ({"model": GPT, "input": "Hi", "tools": [{"type": "computer"}]}, "only functions"),
        ({"model": GPT, "input": "Hi", "tools": [{"type": []}]}, "only functions"),
        ({"model": GPT, "input": "Hi", "tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"model": GPT, "input": "Hi", "tools": [{"type": "function", "function": WEATHER}]}, "tools[0].name"),
        ({"model": GPT, "input": "Hi", "tools": [5]}, "tools[0]"),
        ({"model": GPT, "input": "Hi", "tool_choice": "required"}, "tool_choice"),
        ({"model": GPT, "input": "Hi", "text": {"format": "json"}}, "text.format"),
        ({"model": GPT, "input": "Hi", "text": {"format": {"type": "json_object"}}}, "json"),
        ({"model": GPT, "input": "Hi", "reasoning": {"budget": 5}}, "reasoning.budget"),
        ({"model": AGENT, "input": "Hi", "max_output_tokens": 5}, "unknown field"),
        ({"model": "nope", "input": "Hi"}, "does not exist"),
    ],
)
def test_what_is_said_wrongly_is_refused(asking: Any, body: dict[str, Any], says: str) -> None:
    """The words name what was wrong."""
    with pytest.raises(asking.Refused) as refused:
        asking.post(PATH, body)

    assert says in refused.value.error["message"]


@pytest.mark.parametrize(
    "value", [None, 5, True, "x", [], {}, [None], [[]], [{}], {"type": 5}, [{"type": []}], [{"role": "user"}]]
)
@pytest.mark.parametrize(
    "name", ["input", "instructions", "include", "reasoning", "text", "tools", "tool_choice", "top_logprobs", "stream"]
)
def test_no_body_breaks_it(asking: Any, name: str, value: Any) -> None:
    """Whatever stands under a field, it is an answer or a refusal."""
    for model in (GPT, AGENT):
        body = json.dumps({"model": model, "input": "Hi", name: value}).encode()
        status, _, _ = asking.request("POST", PATH, body)

        assert status in {200, 400}


# --- quirks -----------------------------------------------------------------------------------------------------------


def _other_models(ask: Any) -> None:
    post(ask, CLAUDE)


def _stateful(ask: Any) -> None:
    post(ask, GPT, previous_response_id=post(ask, GPT)["id"])


def _chats_options(ask: Any) -> None:
    post(ask, GPT, max_tokens=5)


def _dumped(ask: Any) -> None:
    post(ask, GPT, [{"role": "user", "content": "Hi"}, *post(ask, GPT)["output"], {"role": "user", "content": "Ho"}])


def _without_status(ask: Any) -> None:
    output = [{k: v for k, v in item.items() if k != "status"} for item in post(ask, GPT)["output"]]
    post(ask, GPT, [*output, {"role": "user", "content": "Ho"}])


def _resealed(ask: Any) -> None:
    thought = post(ask, GPT, **SEALED)["output"][0]
    thought["encrypted_content"] = thought["encrypted_content"][::-1]
    post(ask, GPT, [thought, {"role": "user", "content": "Ho"}])


def _until_done(ask: Any) -> None:
    assert "[DONE]" in ask.post(PATH, {"model": GPT, "input": "Hi", "stream": True}).decode()


def _of_an_agent(ask: Any) -> None:
    assert post(ask, AGENT)["status"] == "completed"


def _framed(ask: Any) -> None:
    assert stream(ask, AGENT)[-1]["type"] == "response.completed"


NAIVE = {
    "responses-for-gpt": _other_models,
    "responses-stateless": _stateful,
    "responses-strict-fields": _chats_options,
    "responses-no-status": _dumped,
    "responses-short-ids": _without_status,
    "responses-signed-replay": _resealed,
    "responses-no-done": _until_done,
    "responses-loose-agents": _of_an_agent,
    "responses-agent-events": _framed,
}
WORDS = {
    "responses-for-gpt": "Responses API passthrough is not supported for model",
    "responses-stateless": "previous_response_id",
    "responses-strict-fields": "unknown field",
    "responses-no-status": ".status",
    "responses-short-ids": "maximum length 64",
    "responses-signed-replay": "could not be verified",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_quirk_trips_the_obvious_code(asking: Any, row: Any) -> None:
    """Code that knows nothing of the quirk fails; the row has a source, and the statement has the row."""
    with pytest.raises((AssertionError, LookupError, asking.Refused)) as tripped:
        NAIVE[row.id](asking)

    assert WORDS.get(row.id, "") in str(tripped.value)
    assert row.source
    assert row.id in {said["id"] for said in statement()["responses"]}


# --- the unmodified client --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [GPT, EXTERNAL, AGENT])
def test_openai_asks_and_streams(local: Any, name: str) -> None:
    """The OpenAI client gets the same text whole and streamed, and its helper for streams is content with GPT."""
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client:
        whole = client.responses.create(model=name, input="What is X?")
        events = list(client.responses.create(model=name, input="What is X?", stream=True))
        if name != AGENT:
            with client.responses.stream(model=name, input="What is X?") as helped:
                final = helped.get_final_response()
            assert final.output_text == "What is X?"
            assert final.usage.total_tokens == whole.usage.total_tokens

    assert whole.output_text == "What is X?"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "What is X?"
    assert {PATH} == {request.path for request in local.questions}


def test_openai_runs_a_tool(local: Any) -> None:
    """The OpenAI client's tool call can be answered, and the answer comes back."""
    openai = pytest.importorskip("openai")
    tools = [{"type": "function", "strict": False, **WEATHER}]
    with openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client:
        first = client.responses.create(model=GPT, input="Call get_weather.", tools=tools)
        call = next(item for item in first.output if item.type == "function_call")
        items = [
            {"role": "user", "content": "Call get_weather."},
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."},
        ]

        assert client.responses.create(model=GPT, input=items, tools=tools).output_text == "Sunny."


def test_async_openai_asks_and_streams(local: Any) -> None:
    """The asynchronous client works as well, many at once."""
    openai = pytest.importorskip("openai")

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client:
            many = await asyncio.gather(*[client.responses.create(model=GPT, input=f"Number {n}") for n in range(20)])
            assert [f"Number {n}" for n in range(20)] == [one.output_text for one in many]
            events = await client.responses.create(model=GPT, input="What is X?", stream=True)
            texts = [event.delta async for event in events if event.type == "response.output_text.delta"]
            assert "".join(texts) == "What is X?"

    asyncio.run(main())
