"""Every quirk of every family trips the obvious code, and that code works where the quirk is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from isochat.local import FAMILIES, QUIRKS

CLAUDE, OPUS, OSS, GPT = (
    "databricks-claude-sonnet-4-5",
    "databricks-claude-opus-4-8",
    "databricks-gpt-oss-120b",
    "databricks-gpt-5-1",
)
GEMINI, LLAMA, QWEN = "databricks-gemini-3-pro", "databricks-meta-llama-3-3-70b-instruct", "databricks-qwen35-122b-a10b"
CODEX = "databricks-gpt-5-1-codex-max"
EXTERNAL, AGENT, LEGACY, SAMPLE = "external-gpt", "agent-chat", "agent-legacy", "doc-sample"

THINK = {"thinking": {"type": "enabled", "budget_tokens": 100}, "max_tokens": 1000}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}

Naive = Callable[[Any, str], object]
NAIVE: dict[str, tuple[Naive, str, str | None]] = {}


def naive(quirk: str, *, on: str, but_not: str | None) -> Callable[[Naive], Naive]:
    """Mark obvious code that fails on one endpoint because of a quirk, and works on another that lacks it."""

    def keep(client: Naive) -> Naive:
        assert quirk not in NAIVE
        NAIVE[quirk] = (client, on, but_not)
        return client

    return keep


# --- refused --------------------------------------------------------------------------------------------------------


@naive("strict-fields", on=OSS, but_not=EXTERNAL)
def _seed(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", seed=7)


@naive("strict-message-keys", on=LLAMA, but_not=EXTERNAL)
def _name(ask: Any, name: str) -> None:
    ask.chat(name, [{"role": "user", "content": "Hi", "name": "ada"}])


@naive("extra-inputs", on=CLAUDE, but_not=EXTERNAL)
def _dumped(ask: Any, name: str) -> None:
    dumped = {"role": "assistant", "content": "Hello", "refusal": None, "annotations": []}
    ask.chat(name, [{"role": "user", "content": "Hi"}, dumped, {"role": "user", "content": "Again"}])


@naive("system-first", on=LLAMA, but_not=EXTERNAL)
def _two_systems(ask: Any, name: str) -> None:
    ask.chat(
        name,
        [{"role": "system", "content": "A"}, {"role": "system", "content": "B"}, {"role": "user", "content": "Hi"}],
    )


@naive("no-empty-text", on=CLAUDE, but_not=LLAMA)
def _empty(ask: Any, name: str) -> None:
    ask.chat(name, "")


@naive("no-temperature-with-top-p", on=CLAUDE, but_not=LLAMA)
def _both(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", temperature=0.5, top_p=0.9)


@naive("no-sampling", on=OPUS, but_not=LLAMA)
def _cool(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", temperature=0.2)


@naive("no-prefill", on=OPUS, but_not=CLAUDE)
def _prefill(ask: Any, name: str) -> None:
    ask.chat(name, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "{"}])


@naive("no-reasoning-effort", on=CLAUDE, but_not=GPT)
def _effort(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", reasoning_effort="low")


@naive("no-tool-strict", on=CLAUDE, but_not=GPT)
def _strict_tool(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", tools=[{"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}}])


@naive("thinking-budget", on=CLAUDE, but_not=None)
def _budget(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", thinking={"type": "enabled", "budget_tokens": 2000}, max_tokens=1000)


@naive("no-adaptive-thinking", on=CLAUDE, but_not=OPUS)
def _adaptive(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", thinking={"type": "adaptive"})


@naive("signed-replay", on=CLAUDE, but_not=OSS)
def _unsigned(ask: Any, name: str) -> None:
    first = ask.chat(name, "Hi", **(THINK if name == CLAUDE else {}))["choices"][0]["message"]
    for block in first["content"]:
        for piece in block.get("summary", ()):
            piece.pop("signature", None)
    ask.chat(name, [{"role": "user", "content": "Hi"}, first, {"role": "user", "content": "Go on"}])


@naive("call-ids", on=CLAUDE, but_not=GPT)
def _another_models_ids(ask: Any, name: str) -> None:
    asked = {"role": "user", "content": "get_weather now"}
    first = ask.chat(GEMINI, [asked], tools=[WEATHER])["choices"][0]["message"]["tool_calls"][0]
    call = {key: first[key] for key in ("id", "type", "function")}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "Sun"}
    again = [{"role": "assistant", "content": None, "tool_calls": [call]}, result]
    ask.chat(name, [asked, *again, *again], tools=[WEATHER])


@naive("no-thinking", on=LLAMA, but_not=CLAUDE)
def _think(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", **THINK)


@naive("no-stop", on=OSS, but_not=LLAMA)
def _stop(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", stop="\n")


@naive("json-word", on=OSS, but_not=LLAMA)
def _json_object(ask: Any, name: str) -> None:
    ask.chat(name, "Who are you?", response_format={"type": "json_object"})


@naive("no-schema-pattern", on=OSS, but_not=LLAMA)
def _pattern(ask: Any, name: str) -> None:
    schema = {"type": "object", "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}}}
    ask.chat(
        name,
        "Hi",
        response_format={"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}},
    )


@naive("max-tokens-25000", on=OSS, but_not=GPT)
def _long(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", max_tokens=30_000)


@naive("max-tokens-8192", on=LLAMA, but_not=GPT)
def _longish(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", max_tokens=10_000)


@naive("plain-text-refusals", on=LLAMA, but_not=OSS)
def _json_error(ask: Any, name: str) -> None:
    with pytest.raises(ask.Refused) as caught:
        ask.chat(name, "Hi", max_tokens=30_000)
    assert caught.value.error["message"]


@naive("alternation", on=LLAMA, but_not=GPT)
def _twice(ask: Any, name: str) -> None:
    ask.chat(name, [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Are you there?"}])


@naive("default-temperature", on=GPT, but_not=EXTERNAL)
def _temperature(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", temperature=0.2)


@naive("no-stream-options", on=GEMINI, but_not=LLAMA)
def _usage_please(ask: Any, name: str) -> None:
    ask.stream(name, "Hi", stream_options={"include_usage": True})


@naive("thought-signature-echo", on=GEMINI, but_not=LLAMA)
def _replay_call(ask: Any, name: str) -> None:
    asked = {"role": "user", "content": "get_weather now"}
    call = ask.chat(name, [asked], tools=[WEATHER])["choices"][0]["message"]["tool_calls"][0]
    known = {key: call[key] for key in ("id", "type", "function")}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "Sun"}
    ask.chat(name, [asked, {"role": "assistant", "content": None, "tool_calls": [known]}, result], tools=[WEATHER])


@naive("responses-only", on=CODEX, but_not=GPT)
def _chat(ask: Any, name: str) -> None:
    ask.chat(name, "Hi")


@naive("agent-fields", on=AGENT, but_not=LLAMA)
def _limited(ask: Any, name: str) -> None:
    ask.chat(name, "Hi", max_tokens=5)


@naive("external-errors", on=EXTERNAL, but_not=LLAMA)
def _readable(ask: Any, name: str) -> None:
    with pytest.raises(ask.Refused) as caught:
        ask.chat(name, "Hi", nonsense=1)
    assert "{" not in caught.value.error["message"]


# --- the reply ------------------------------------------------------------------------------------------------------


def _message(ask: Any, name: str, say: Any = "Hi there", **options: Any) -> Any:
    return ask.chat(name, say, **options)["choices"][0]["message"]


@naive("upstream-model", on=CLAUDE, but_not=None)
def _same_model(ask: Any, name: str) -> None:
    assert ask.chat(name, "Hi")["model"] == name


@naive("bedrock-ids", on=CLAUDE, but_not=GPT)
def _openai_id(ask: Any, name: str) -> None:
    assert ask.chat(name, "Hi")["id"].startswith("chatcmpl")


@dataclass
class Usage:
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@naive("cache-counts", on=CLAUDE, but_not=GEMINI)
def _three_numbers(ask: Any, name: str) -> None:
    Usage(**ask.chat(name, "Hi")["usage"])


@naive("usage-details", on=GPT, but_not=GEMINI)
def _three_numbers_again(ask: Any, name: str) -> None:
    Usage(**ask.chat(name, "Hi")["usage"])


@naive("hidden-reasoning", on=GPT, but_not=EXTERNAL)
def _words(ask: Any, name: str) -> None:
    assert ask.chat(name, "one two three")["usage"]["completion_tokens"] == 3


@naive("null-details", on=LLAMA, but_not=GEMINI)
def _reasoning_tokens(ask: Any, name: str) -> None:
    ask.chat(name, "Hi")["usage"].get("completion_tokens_details", {}).get("reasoning_tokens", 0)


@naive("thinking-blocks", on=CLAUDE, but_not=None)
def _thought_text(ask: Any, name: str) -> None:
    _message(ask, name, **THINK)["content"].strip()


@naive("redacted-thinking", on=CLAUDE, but_not=None)
def _thought(ask: Any, name: str) -> None:
    secret = "ANTHROPIC_MAGIC_STRING_TRIGGER_REDACTED_THINKING_46C9"
    assert _message(ask, name, secret, **THINK)["content"][0]["summary"][0]["text"]


@naive("signature-only", on=OPUS, but_not=CLAUDE)
def _shown(ask: Any, name: str) -> None:
    assert _message(ask, name, **THINK)["content"][0]["summary"][0]["text"]


@naive("prose-with-calls", on=CLAUDE, but_not=LLAMA)
def _calls_or_text(ask: Any, name: str) -> None:
    message = _message(ask, name, "get_weather now", tools=[WEATHER])
    assert bool(message["content"]) != bool(message["tool_calls"])


@naive("empty-arguments", on=CLAUDE, but_not=LLAMA)
def _arguments(ask: Any, name: str) -> None:
    call = _message(ask, name, "get_time now", tools=[TIME])["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {}


@naive("list-content", on=OSS, but_not=LLAMA)
def _stripped(ask: Any, name: str) -> None:
    _message(ask, name)["content"].strip()


@naive("unsigned-reasoning", on=OSS, but_not=None)
def _signature(ask: Any, name: str) -> None:
    assert _message(ask, name)["content"][0]["summary"][0]["signature"]


@naive("length-without-text", on=OSS, but_not=QWEN)
def _cut_text(ask: Any, name: str) -> None:
    content = _message(ask, name, "one two three four five", max_tokens=12)["content"]
    assert next(part for part in content if part["type"] == "text")


@dataclass
class Part:
    type: str
    text: str


@naive("text-thought-signature", on=GEMINI, but_not=OSS)
def _plain_part(ask: Any, name: str) -> None:
    Part(**_message(ask, name)["content"][-1])


@naive("tool-id-is-name", on=GEMINI, but_not=GPT)
def _distinct(ask: Any, name: str) -> None:
    first = _message(ask, name, "get_weather now", tools=[WEATHER])["tool_calls"][0]["id"]
    assert first != _message(ask, name, "get_weather then", tools=[WEATHER])["tool_calls"][0]["id"]


@dataclass
class Call:
    id: str
    type: str
    function: dict[str, str]


@naive("tool-thought-signature", on=GEMINI, but_not=LLAMA)
def _plain_call(ask: Any, name: str) -> None:
    Call(**_message(ask, name, "get_weather now", tools=[WEATHER])["tool_calls"][0])


@dataclass
class Choice:
    index: int
    message: dict[str, Any]
    finish_reason: str
    logprobs: Any = None


@naive("azure-filter-results", on=EXTERNAL, but_not=LLAMA)
def _plain_choice(ask: Any, name: str) -> None:
    Choice(**ask.chat(name, "Hi")["choices"][0])


@naive("agent-messages", on=AGENT, but_not=LEGACY)
def _choices(ask: Any, name: str) -> None:
    assert _message(ask, name)["content"] == "Hi there"


@naive("no-model-no-usage", on=LEGACY, but_not=LLAMA)
def _counted(ask: Any, name: str) -> None:
    assert ask.chat(name, "Hi")["usage"]["total_tokens"]


@naive("empty-message", on=SAMPLE, but_not=LLAMA)
def _content(ask: Any, name: str) -> None:
    assert _message(ask, name)["content"] == "Hi there"


# --- the stream -----------------------------------------------------------------------------------------------------


@naive("null-usage-midstream", on=CLAUDE, but_not=LLAMA)
def _progress(ask: Any, name: str) -> None:
    assert all(chunk["usage"]["completion_tokens"] >= 0 for chunk in ask.stream(name, "one two three"))


@naive("cumulative-usage", on=LLAMA, but_not=GPT)
def _summed(ask: Any, name: str) -> None:
    counts = [chunk["usage"]["total_tokens"] for chunk in ask.stream(name, "one two three") if chunk["usage"]]
    assert sum(counts) == ask.chat(name, "one two three")["usage"]["total_tokens"]


@naive("usage-chunk", on=GPT, but_not=LLAMA)
def _first_choice(ask: Any, name: str) -> None:
    assert all(chunk["choices"][0] for chunk in ask.stream(name, "Hi"))


@naive("role-on-every-chunk", on=CLAUDE, but_not=LLAMA)
def _one_message(ask: Any, name: str) -> None:
    chunks = ask.stream(name, "one two three")
    assert sum("role" in chunk["choices"][0]["delta"] for chunk in chunks) == 1


@naive("list-then-string", on=CLAUDE, but_not=None)
def _joined(ask: Any, name: str) -> None:
    chunks = ask.stream(name, "one two three", **THINK)
    content = chunks[0]["choices"][0]["delta"]["content"]
    for chunk in chunks[1:]:
        content += chunk["choices"][0]["delta"]["content"]
    assert "".join(part["text"] for part in content if part["type"] == "text") == "one two three"


@naive("filter-results-first", on=EXTERNAL, but_not=GPT)
def _first_id(ask: Any, name: str) -> None:
    assert ask.stream(name, "Hi")[0]["id"]


@naive("agent-deltas", on=AGENT, but_not=LEGACY)
def _choice_deltas(ask: Any, name: str) -> None:
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in ask.stream(name, "Hi there")) == "Hi there"


# --- the tests, now that the rows are there -------------------------------------------------------------------------


@pytest.mark.parametrize("quirk", list(QUIRKS))
def test_a_quirk_trips_the_obvious_code(asking: Any, quirk: str) -> None:
    """Code that knows nothing of the quirk fails on an endpoint that has it."""
    client, on, _ = NAIVE[quirk]
    assert asking.local.endpoints[on].family.has(quirk)
    with pytest.raises(
        (AssertionError, AttributeError, LookupError, TypeError, ValueError, StopIteration, asking.Refused)
    ):
        client(asking, on)


@pytest.mark.parametrize("quirk", [q for q, (_, _, control) in NAIVE.items() if control])
def test_without_the_quirk_the_obvious_code_works(asking: Any, quirk: str) -> None:
    """The same code works on an endpoint without the quirk: it is the quirk that trips it, nothing else."""
    client, _, control = NAIVE[quirk]
    assert control is not None
    assert not asking.local.endpoints[control].family.has(quirk)
    client(asking, control)


def test_every_quirk_belongs_to_a_family_and_has_a_source() -> None:
    """No row is idle, and none is without evidence."""
    for row in QUIRKS.values():
        assert any(f.has(row.id) for f in FAMILIES.values()), row.id
        assert row.source, row.id
        assert row.says.endswith((".", ")")), row.id
    for family in FAMILIES.values():
        assert family.quirks <= set(QUIRKS), family.name
