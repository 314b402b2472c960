"""The echo answers the same question always the same, whichever way it is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isochat.local._question import Question

CLAUDE, OSS, GPT = "databricks-claude-sonnet-4-5", "databricks-gpt-oss-120b", "databricks-gpt-5-1"
GEMINI, LLAMA = "databricks-gemini-3-pro", "databricks-meta-llama-3-3-70b-instruct"
HOSTED = [CLAUDE, OSS, GPT, GEMINI, LLAMA, "databricks-qwen35-122b-a10b", "databricks-claude-opus-4-8", "external-gpt"]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}},
]


def parts(content: Any) -> tuple[str, str]:
    """Text and reasoning of a content, string or list."""
    if not isinstance(content, list):
        return content or "", ""
    text = "".join(p["text"] for p in content if p["type"] == "text")
    return text, "".join(s.get("text", "") for p in content if p["type"] == "reasoning" for s in p["summary"])


def gathered(reply: Any) -> dict[str, Any]:
    """What a reply or a list of chunks says in the end."""
    chunks = reply if isinstance(reply, list) else [reply]
    named = [c for c in chunks if c["id"]]
    said: dict[str, Any] = {
        "id": {c["id"] for c in named},
        "created": {c["created"] for c in named},
        "model": {c["model"] for c in named},
    }
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for row in chunk["choices"]:
            one = choices.setdefault(row["index"], {"text": "", "reasoning": "", "calls": {}, "finish": None})
            delta = row.get("delta", row.get("message"))
            text, reasoning = parts(delta.get("content"))
            one["text"] += text
            one["reasoning"] += reasoning
            one["finish"] = row["finish_reason"] or one["finish"]
            for i, call in enumerate(delta.get("tool_calls") or ()):
                kept = one["calls"].setdefault(call.get("index", i), {"id": "", "name": "", "arguments": ""})
                kept["id"] += call.get("id", "")
                kept["name"] += call["function"].get("name", "")
                kept["arguments"] += call["function"].get("arguments", "")
        said["usage"] = chunk.get("usage") or said.get("usage")
    said["choices"] = choices
    return said


@pytest.mark.parametrize("name", HOSTED)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tools": TOOLS},
        {"tools": TOOLS, "tool_choice": "required"},
        {"n": 3},
        {"max_tokens": 4},
        {"max_tokens": 13},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}}},
        {"thinking": {"type": "enabled", "budget_tokens": 10}},
    ],
    ids=str,
)
def test_the_same_question_gets_the_same_answer(asking: Any, name: str, options: dict[str, Any]) -> None:
    """Blocking, streamed, and through either route: same id, time, text, reasoning, calls, finish and usage."""
    say = "Please call get_weather\nand get_time  for me."
    if "thinking" in options and "claude" not in name:
        return
    messages = [{"role": "user", "content": say}]
    whole = gathered(asking.chat(name, say, **options))
    chat = "/serving-endpoints/chat/completions"
    assert gathered(json.loads(asking.post(chat, {"model": name, "messages": messages, **options}))) == whole
    assert gathered(asking.stream(name, say, **options)) == whole
    assert gathered(asking.chat(name, say, stream=False, user=None, **options)) == whole
    assert gathered(asking.chat(name, say + "?", **options))["id"] != whole["id"]


@pytest.mark.parametrize("say", ["What is X?", "  two\n\nlines ", "\n", "日本語 und Ümlaute 🎉\u2028", "a"])
def test_it_says_what_you_said(asking: Any, say: str) -> None:
    """The text of the last user message comes back as it is."""
    for name in (LLAMA, CLAUDE, OSS):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Before"},
            {"role": "assistant", "content": "Yes"},
            {"role": "user", "content": say},
        ]
        assert gathered(asking.chat(name, messages))["choices"][0]["text"] == say
        assert gathered(asking.stream(name, messages))["choices"][0]["text"] == say


def test_it_streams_in_several_pieces(asking: Any) -> None:
    """A stream comes word by word."""
    chunks = asking.stream(CLAUDE, "one two three")
    assert [c["choices"][0]["delta"]["content"] for c in chunks] == ["one ", "two ", "three", ""]


def test_text_parts_are_joined(asking: Any) -> None:
    """A message in parts is echoed as its text."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert (
        gathered(
            asking.chat(
                CLAUDE,
                [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "Look: "}, image, {"type": "text", "text": "there"}],
                    }
                ],
            )
        )["choices"][0]["text"]
        == "Look: there"
    )


def test_tools_named_in_the_text_are_called(asking: Any) -> None:
    """With tool_choice auto, each tool whose name the user says is called, none otherwise."""

    def called(say: str, **options: Any) -> list[str]:
        return [
            c["name"] for c in gathered(asking.chat(GPT, say, tools=TOOLS, **options))["choices"][0]["calls"].values()
        ]

    assert called("Call get_time and get_weather.") == ["get_weather", "get_time"]
    assert called("Hello") == []
    assert called("get_weather_forecast") == []
    assert called("Call get_time.", tool_choice="none") == []
    assert called("Hello", tool_choice="required") == ["get_weather"]
    assert called("Hello", tool_choice={"type": "function", "function": {"name": "get_time"}}) == ["get_time"]


def test_after_a_tools_result_it_answers_in_text(asking: Any) -> None:
    """The result of the last tool message is the answer, whatever tool_choice says, so that a loop ends."""
    asked = {"role": "user", "content": "get_weather"}
    message = asking.chat(LLAMA, [asked], tools=TOOLS)["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Sunny, 20 °C"}
    for options in ({}, {"tool_choice": "required"}):
        answer = gathered(asking.chat(LLAMA, [asked, message, result], tools=TOOLS, **options))["choices"][0]
        assert (answer["text"], answer["calls"], answer["finish"]) == ("Sunny, 20 °C", {}, "stop")


def test_the_whole_tool_round_works_on_every_family(asking: Any) -> None:
    """What a family sent, sent back unmodified, is accepted."""
    for name in HOSTED:
        asked = {"role": "user", "content": "get_weather"}
        message = asking.chat(name, [asked], tools=TOOLS)["choices"][0]["message"]
        message = {k: v for k, v in message.items() if k in {"role", "content", "tool_calls"}}
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Sunny"}
        assert gathered(asking.chat(name, [asked, message, result], tools=TOOLS))["choices"][0]["text"] == "Sunny", name


def test_thinking_can_be_continued_unmodified(asking: Any) -> None:
    """A thought sent back with its signature is accepted, shown, empty or redacted."""
    for name in (CLAUDE, "databricks-claude-opus-4-8"):
        for say in ("Hi", "ANTHROPIC_MAGIC_STRING_TRIGGER_REDACTED_THINKING_46C9"):
            think = {"thinking": {"type": "enabled", "budget_tokens": 50}}
            message = asking.chat(name, say, **think)["choices"][0]["message"]
            again = [{"role": "user", "content": say}, message, {"role": "user", "content": "Go on"}]
            assert gathered(asking.chat(name, again, **think))["choices"][0]["text"] == "Go on"


def test_stop_cuts_before_the_stop_string(asking: Any) -> None:
    """The answer ends before the first stop string and says stop."""
    answer = gathered(asking.chat(LLAMA, "one two three", stop=["three", " two"]))["choices"][0]
    assert (answer["text"], answer["finish"]) == ("one", "stop")


def test_max_tokens_cuts_the_answer(asking: Any) -> None:
    """So many words and no more, and the finish reason says why; a limit that is just enough cuts nothing."""
    answer = gathered(asking.chat(LLAMA, "one two three", max_tokens=2))
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish"]) == ("one two", "length")
    assert answer["usage"]["completion_tokens"] == 2
    assert gathered(asking.chat(LLAMA, "one two three", max_tokens=3))["choices"][0]["finish"] == "stop"


def test_a_json_object_is_one(asking: Any) -> None:
    """json_object gives a JSON object."""
    text = gathered(asking.chat(GPT, "Say json", response_format={"type": "json_object"}))["choices"][0]["text"]
    assert json.loads(text) == {"answer": "Say json"}


def test_logprobs_are_there_when_asked(asking: Any) -> None:
    """One entry a token, with as many alternatives as asked, on families that have them."""
    for name in (GPT, LLAMA):
        rows = asking.chat(name, "one two", logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
        assert [r["token"] for r in rows] == ["one ", "two"]
        assert all(len(r["top_logprobs"]) == 2 and r["logprob"] < 0 for r in rows)
        streamed = [
            c["choices"][0]["logprobs"]
            for c in asking.stream(name, "one two", logprobs=True, top_logprobs=2)
            if c["choices"]
        ]
        assert [r for one in streamed if one for r in one["content"]] == rows


def test_custom_agents_take_their_own_fields(asking: Any) -> None:
    """Custom inputs come back as custom outputs, and a trace is there when asked for; `input` works for `messages`."""
    reply = asking.chat(
        "agent-chat", "Hi", custom_inputs={"a": 1}, databricks_options={"return_trace": True}, context={"user_id": "u"}
    )
    assert reply["custom_outputs"] == {"a": 1}
    assert reply["databricks_output"]["trace"]["info"]["trace_id"]
    asked = json.loads(
        asking.post("/serving-endpoints/agent-chat/invocations", {"input": [{"role": "user", "content": "Hi"}]})
    )
    assert asked["messages"][-1]["content"] == "Hi"


def test_a_long_question_is_counted_once(asking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream costs grows with its length, not with its square: no chunk reads the question anew."""
    counted = []

    def counting(self: Question) -> int:
        counted.append(self)
        return 7

    monkeypatch.setattr(Question, "prompt_tokens", property(counting))
    chunks = asking.stream(CLAUDE, "x " * 500)

    assert 7 == chunks[-1]["usage"]["prompt_tokens"]
    assert len(chunks) > 500
    assert len(counted) <= 2  # once for the chunks, once for the usage at the end
