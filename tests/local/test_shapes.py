"""The endpoint's own answers have the structure of real ones: the same keys, in the same places, of the same types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

WIRE = Path(__file__).parent.parent / "wire"
INDEX = {row["file"]: row for row in json.loads((WIRE / "index.json").read_text(encoding="utf-8"))}

CLAUDE, OPUS, CLAUDE3 = "databricks-claude-sonnet-4-5", "databricks-claude-opus-4-8", "databricks-claude-3-7-sonnet"
OSS, GPT, GEMINI = "databricks-gpt-oss-120b", "databricks-gpt-5-1", "databricks-gemini-3-pro"
LLAMA, QWEN = "databricks-meta-llama-3-3-70b-instruct", "databricks-qwen35-122b-a10b"

THINK = {"thinking": {"type": "enabled", "budget_tokens": 100}, "max_tokens": 1000}
REDACT = "ANTHROPIC_MAGIC_STRING_TRIGGER_REDACTED_THINKING_46C9"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"tools": [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}]}
TIME = {
    "tools": [
        {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
    ]
}
BOTH = {"tools": WEATHER["tools"] + TIME["tools"]}

#: sample file, endpoint, what to ask, options
SAME = [
    ("claude-text.json", CLAUDE3, "Hi", {}),
    ("claude-thinking.json", CLAUDE, "Hi", THINK),
    ("claude-thinking-redacted.json", CLAUDE, REDACT, THINK),
    ("claude-thinking-empty-text.json", OPUS, "Hi", {"thinking": {"type": "adaptive"}}),
    ("claude-tool-call.json", CLAUDE3, "get_weather", WEATHER),
    ("claude-tool-calls-parallel.json", CLAUDE, "get_weather", WEATHER | {"tool_choice": "required"}),
    (
        "claude-json-schema.json",
        CLAUDE3,
        "Hi",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}}},
    ),
    ("llama-text.json", LLAMA, "Hi", {}),
    ("llama-tool-call.json", LLAMA, "get_time", TIME),
    ("gpt-text.json", GPT, "Hi", {}),
    ("gpt-oss-text.json", OSS, "Hi", {}),
    ("gpt-oss-length.json", OSS, "Hi", {"max_tokens": 5}),
    ("qwen-text.json", QWEN, "Hi", {}),
    ("gemini-text.json", GEMINI, "Hi", {}),
    ("gemini-tool-call.json", GEMINI, "get_weather", WEATHER),
    ("external-gpt-text.json", "external-gpt", "Hi", {}),
    ("doc-sample.json", "doc-sample", "Hi", {}),
    ("agent-chat.json", "agent-chat", "Hi", {}),
    ("agent-legacy.json", "agent-legacy", "Hi", {}),
    ("claude-stream.sse", CLAUDE3, "Hi", {}),
    ("claude-stream-thinking.sse", CLAUDE, "Hi", THINK),
    ("claude-stream-tools.sse", CLAUDE3, "get_weather", WEATHER | {"tool_choice": "required"}),
    ("claude-stream-tool-no-arguments.sse", CLAUDE3, "get_time", TIME),
    ("llama-stream.sse", LLAMA, "Hi", {}),
    ("gpt-stream.sse", GPT, "Hi", {}),
    ("gpt-stream-choices.sse", GPT, "Hi", {"n": 2}),
    ("gpt-stream-tools.sse", GPT, "get_weather and get_time", BOTH),
    ("gpt-oss-stream.sse", OSS, "Hi", {}),
    ("gemini-stream.sse", GEMINI, "Hi", {}),
    ("gemini-stream-tool.sse", GEMINI, "get_weather", WEATHER),
    ("external-gpt-stream.sse", "external-gpt", "Hi", {}),
    ("agent-chat-stream.sse", "agent-chat", "Hi", {}),
]

#: Keys that are an OpenAI reply's ornaments: present or absent as OpenAI likes, and of no account to a reader.
ORNAMENTS = {"service_tier", "system_fingerprint", "annotations", "refusal", "logprobs"}


def structure(value: Any, path: str = "") -> set[str]:
    """Where there is what: every path with the JSON type at its end; list items share one."""
    if isinstance(value, dict):
        inner = {p for k, v in value.items() if k not in ORNAMENTS for p in structure(v, f"{path}.{k}")}
        return inner | {f"{path}: object"}
    if isinstance(value, list):
        return {p for v in value for p in structure(v, f"{path}[]")} | {f"{path}: array"}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {f"{path}: {'number' if number else type(value).__name__}"}


def chunks(text: str) -> list[Any]:
    """The JSON of each event."""
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize(("file", "name", "say", "options"), SAME, ids=[row[0] for row in SAME])
def test_answers_have_the_structure_of_real_ones(
    asking: Any, file: str, name: str, say: str, options: dict[str, Any]
) -> None:
    """Key for key and type for type, the endpoint's answer looks like the sample of its family."""
    text = (WIRE / file).read_text(encoding="utf-8")
    if file.endswith(".sse"):
        assert structure(asking.stream(name, say, **options)) == structure(chunks(text))
    else:
        assert structure(asking.chat(name, say, **options)) == structure(json.loads(text))


@pytest.mark.parametrize(("file", "name"), [("claude-stream.sse", CLAUDE3), ("agent-chat-stream.sse", "agent-chat")])
def test_streams_end_like_real_ones(asking: Any, file: str, name: str) -> None:
    """A stream ends with [DONE] where the real one does, and without where it does not."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    sent = asking.post(f"/serving-endpoints/{name}/invocations", body)
    assert sent.endswith(b"data: [DONE]\n\n") == (WIRE / file).read_bytes().endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("file", "name", "options"),
    [
        ("error-unknown-field.json", LLAMA, {"name": "x"}),
        ("error-message-json.json", CLAUDE, {"messages": [{"role": "user", "content": "Hi", "annotations": []}]}),
        ("error-external-model.json", "external-gpt", {"nonsense": 1}),
        ("error-not-found.json", "nope", {}),
        ("error-code-number.json", LLAMA, {"headers": {"Authorization": ""}}),
    ],
)
def test_errors_have_the_structure_of_real_ones(asking: Any, file: str, name: str, options: dict[str, Any]) -> None:
    """A refusal has the status and the keys of the recorded one, also inside a message that is JSON text."""
    body = {"messages": [{"role": "user", "content": "Hi"}], **options}
    headers = body.pop("headers", None)
    path = f"/serving-endpoints/{name}/invocations"
    status, _, content = asking.request("POST", path, json.dumps(body).encode(), headers)
    real = json.loads((WIRE / file).read_text(encoding="utf-8"))
    mine = json.loads(content)
    assert status == INDEX[file]["status"]
    assert structure(mine) == structure(real)
    assert real["message"].lstrip().startswith("{") == mine["message"].lstrip().startswith("{")


def test_the_samples_are_listed_and_the_list_is_sound() -> None:
    """Every sample has a row with a source, a shape and what must survive; every row has its file."""
    files = {p.name for p in WIRE.iterdir() if p.suffix in {".json", ".sse", ".txt"}} - {"index.json"}
    assert set(INDEX) == files
    for row in INDEX.values():
        assert row["source"]
        assert row["shape"].endswith(".")
        assert row["expected"].keys() & {"choices", "error"}
        content = (WIRE / row["file"]).read_bytes()
        if row["kind"].endswith(".json"):
            json.loads(content)
        elif row["kind"] == "chat.sse":
            assert b"data:" in content
