"""The endpoint refuses what the service refuses, in its shapes, and takes what the service takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

CLAUDE, OPUS, OSS, GPT = (
    "databricks-claude-sonnet-4-5",
    "databricks-claude-opus-4-8",
    "databricks-gpt-oss-120b",
    "databricks-gpt-5-1",
)
GEMINI, LLAMA = "databricks-gemini-3-pro", "databricks-meta-llama-3-3-70b-instruct"
HI = [{"role": "user", "content": "Hi"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
F = {"type": "function", "function": {"name": "f", "parameters": {}}}

REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (LLAMA, {"messages": HI, "seed": 1}, "BAD_REQUEST", 'Bad request: json: unknown field "seed"\n'),
    (LLAMA, {"inputs": []}, "BAD_REQUEST", 'unknown field "inputs"'),
    (GPT, {"messages": HI, "max_completion_tokens": 5}, "BAD_REQUEST", 'unknown field "max_completion_tokens"'),
    (CLAUDE, {"messages": HI, "parallel_tool_calls": False}, "BAD_REQUEST", 'unknown field "parallel_tool_calls"'),
    (LLAMA, {}, "BAD_REQUEST", "Missing required field 'messages'"),
    (LLAMA, {"messages": []}, "BAD_REQUEST", "'messages' must be a list of at least one message"),
    (
        LLAMA,
        {"messages": "Hi"},
        "BAD_REQUEST",
        "field 'messages' expects input with json type 'array' but got 'string'",
    ),
    (
        LLAMA,
        {"messages": ["Hi"]},
        "BAD_REQUEST",
        "field 'messages.0' expects input with json type 'object' but got 'string'",
    ),
    (
        LLAMA,
        {"messages": [{"role": "user", "content": 5}]},
        "BAD_REQUEST",
        "field 'messages.0.content' expects input with json type 'string' but got 'number'",
    ),
    (LLAMA, {"messages": [{"role": "user"}]}, "BAD_REQUEST", "messages.0.content: Field required"),
    (
        LLAMA,
        {"messages": [{"role": "robot", "content": "Hi"}]},
        "BAD_REQUEST",
        'messages.0.role: "robot" is not one of',
    ),
    (
        LLAMA,
        {"messages": HI, "max_tokens": "5"},
        "BAD_REQUEST",
        "field 'max_tokens' expects input with json type 'integer' but got 'string'",
    ),
    (LLAMA, {"messages": HI, "max_tokens": True}, "BAD_REQUEST", "field 'max_tokens'"),
    (LLAMA, {"messages": HI, "max_tokens": 0}, "INVALID_PARAMETER_VALUE", "max_tokens is 0; it must be at least 1"),
    (
        LLAMA,
        {"messages": HI, "temperature": 2.5},
        "INVALID_PARAMETER_VALUE",
        "temperature is 2.5; it must be at least 0 and at most 2",
    ),
    (LLAMA, {"messages": HI, "top_p": 0}, "INVALID_PARAMETER_VALUE", "top_p is 0; it must be more than 0"),
    (LLAMA, {"messages": HI, "n": 9}, "INVALID_PARAMETER_VALUE", "n is 9"),
    (LLAMA, {"messages": HI, "stop": [1]}, "BAD_REQUEST", "field 'stop'"),
    (
        LLAMA,
        {"messages": HI, "extra_params": {"a": 1}},
        "BAD_REQUEST",
        "field 'extra_params.a' expects input with json type 'string'",
    ),
    (
        LLAMA,
        {"messages": HI, "response_format": {"type": "xml"}},
        "INVALID_PARAMETER_VALUE",
        "response_format.type 'xml'",
    ),
    (
        LLAMA,
        {"messages": HI, "response_format": {"type": "json_schema", "json_schema": {}}},
        "INVALID_PARAMETER_VALUE",
        "needs a name and a schema",
    ),
    (
        LLAMA,
        {"messages": HI, "tools": [{"type": "function"}]},
        "BAD_REQUEST",
        "Missing 'function' in the tool specification tools.0",
    ),
    (LLAMA, {"messages": HI, "tools": [F] * 33}, "INVALID_PARAMETER_VALUE", "33 tools; at most 32"),
    (
        LLAMA,
        {"messages": HI, "tools": [F], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "BAD_REQUEST",
        "tool_choice",
    ),
    (LLAMA, {"messages": HI, "tool_choice": "required"}, "BAD_REQUEST", "tool_choice"),
    (
        LLAMA,
        {"messages": [*HI, {"role": "tool", "content": "x", "tool_call_id": "c1"}]},
        "BAD_REQUEST",
        "messages.1: a tool message must follow",
    ),
    (LLAMA, {"messages": [*HI, {"role": "assistant"}]}, "BAD_REQUEST", "messages.1.content: Field required"),
    (
        LLAMA,
        {"messages": [*HI, {"role": "assistant", "tool_calls": [{**CALL, "index": 0}]}]},
        "BAD_REQUEST",
        'unknown field "index"',
    ),
    (
        LLAMA,
        {
            "messages": [
                *HI,
                {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]},
            ]
        },
        "BAD_REQUEST",
        "messages.1.tool_calls.0.function.arguments",
    ),
    (
        LLAMA,
        {
            "messages": [
                *HI,
                {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]},
            ]
        },
        "BAD_REQUEST",
        "not the text of a JSON object",
    ),
    (
        LLAMA,
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]},
        "BAD_REQUEST",
        'messages.0.content.0: a part of type "video_url"',
    ),
    (
        OSS,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "BAD_REQUEST",
        'type "image_url" is not supported',
    ),
    (
        CLAUDE,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        "BAD_REQUEST",
        '{"message": "messages.0: text content blocks must be non-empty"}',
    ),
    (
        CLAUDE,
        {"messages": [*HI, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
        "BAD_REQUEST",
        "must be non-empty",
    ),
    (
        CLAUDE,
        {"messages": [{"role": "user", "content": "Hi", "x": 1}]},
        "BAD_REQUEST",
        '{"message": "messages.0.x: Extra inputs are not permitted"}',
    ),
    (
        CLAUDE,
        {"messages": HI, "tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        "BAD_REQUEST",
        "tools.0.function.strict: Extra inputs are not permitted",
    ),
    (
        OPUS,
        {"messages": HI, "temperature": 0.1},
        "BAD_REQUEST",
        "BAD_REQUEST: Model us.anthropic.claude-opus-4-8 does not support the temperature parameter.",
    ),
    (OSS, {"messages": HI, "stop": "x"}, "BAD_REQUEST", 'Unsupported parameter: "stop"'),
    (
        OSS,
        {"messages": HI, "thinking": {"type": "enabled", "budget_tokens": 5}},
        "BAD_REQUEST",
        'unknown field "thinking"',
    ),
    (
        OSS,
        {"messages": HI, "max_tokens": 30000},
        "BAD_REQUEST",
        "max_new_tokens 30000 cannot be greater than max_output_tokens 25000.",
    ),
    (GEMINI, {"messages": HI, "stream_options": {"include_usage": True}}, "INVALID_ARGUMENT", "stream_options"),
    (
        GEMINI,
        {
            "messages": [
                *HI,
                {"role": "assistant", "tool_calls": [{**CALL, "thoughtSignature": "made up"}]},
                {"role": "tool", "tool_call_id": "c1", "content": "x"},
            ]
        },
        "INVALID_ARGUMENT",
        "missing a thought_signature in functionCall parts",
    ),
    ("external-gpt", {"messages": HI, "top_k": 3}, "BAD_REQUEST", "Unrecognized request argument supplied: top_k"),
    ("agent-chat", {"messages": HI, "temperature": 0}, "BAD_REQUEST", 'unknown field "temperature"'),
]


@pytest.mark.parametrize(("name", "body", "code", "words"), REFUSED, ids=[f"{i}-{r[0]}" for i, r in enumerate(REFUSED)])
def test_what_the_service_refuses_is_refused(
    asking: Any, name: str, body: dict[str, Any], code: str, words: str
) -> None:
    """HTTP 400, the code, and words that name the place."""
    with pytest.raises(asking.Refused) as caught:
        asking.post("/serving-endpoints/chat/completions", {**body, "model": name})
    assert caught.value.status == 400
    assert caught.value.error["error_code"] == code
    assert words in caught.value.error["message"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            LLAMA,
            {
                "temperature": 0,
                "top_p": 1.0,
                "top_k": 5,
                "n": 2,
                "stop": ["x"],
                "user": "u",
                "usage_context": {"team": "a"},
                "client_request_id": "1",
                "max_tokens": None,
            },
        ),
        (
            GPT,
            {
                "temperature": 1,
                "reasoning_effort": "minimal",
                "stream_options": None,
                "tools": [F],
                "tool_choice": "auto",
            },
        ),
        (
            CLAUDE,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}],
                    }
                ]
            },
        ),
        (CLAUDE, {"thinking": {"type": "disabled"}, "top_k": 3}),
        (OPUS, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        (
            OSS,
            {
                "reasoning_effort": "low",
                "response_format": {"type": "json_object"},
                "messages": [{"role": "user", "content": "As JSON"}],
            },
        ),
        (
            OSS,
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "a",
                        "strict": True,
                        "schema": {"type": "object", "properties": {"pattern": {"type": "string"}}},
                    },
                }
            },
        ),
        (
            GEMINI,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
                            {"type": "text", "text": "?"},
                        ],
                    }
                ]
            },
        ),
        (
            LLAMA,
            {
                "messages": [
                    *HI,
                    {"role": "assistant", "content": "A", "tool_calls": [CALL, {**CALL, "id": "c2"}]},
                    {"role": "tool", "tool_call_id": "c2", "content": "1"},
                    {"role": "tool", "tool_call_id": "c1", "content": "2"},
                    {"role": "assistant", "content": "B"},
                    {"role": "user", "content": "C"},
                ]
            },
        ),
        (
            "external-gpt",
            {
                "seed": 1,
                "frequency_penalty": 0.5,
                "max_completion_tokens": 9,
                "parallel_tool_calls": False,
                "logit_bias": {},
                "messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "y", "name": "z"}],
            },
        ),
        (
            "agent-chat",
            {"context": {"conversation_id": "1"}, "messages": [{"role": "user", "content": "Hi", "id": "m1"}]},
        ),
        ("doc-sample", {}),
    ],
)
def test_what_the_service_takes_is_taken(asking: Any, name: str, options: dict[str, Any]) -> None:
    """The documented options of each family, nulls included."""
    assert asking.chat(name, options.get("messages", "Hi"), **{k: v for k, v in options.items() if k != "messages"})


def test_a_body_that_is_no_json_is_refused(asking: Any) -> None:
    """Not JSON, or JSON that is no object."""
    for body in (b"{", b"", b"[1]", b"\xff"):
        status, _, content = asking.request("POST", f"/serving-endpoints/{LLAMA}/invocations", body)
        assert (status, json.loads(content)["error_code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("path", "model", "code"),
    [
        ("/serving-endpoints/nope/invocations", None, "RESOURCE_DOES_NOT_EXIST"),
        ("/serving-endpoints/chat/completions", "nope", "RESOURCE_DOES_NOT_EXIST"),
        ("/serving-endpoints/system.ai.claude/invocations", None, "ENDPOINT_NOT_FOUND"),
        ("/serving-endpoints/chat/completions", "system.ai.claude", "ENDPOINT_NOT_FOUND"),
        ("/serving-endpoints/databricks-gpt-5-1%2Finvocations/invocations", None, "RESOURCE_DOES_NOT_EXIST"),
        ("/serving-endpoints/a/b/invocations", None, "ENDPOINT_NOT_FOUND"),
        ("/serving-endpoints/agent%252Dchat/invocations", None, "RESOURCE_DOES_NOT_EXIST"),
        ("/serving-endpoints//invocations", None, "ENDPOINT_NOT_FOUND"),
    ],
)
def test_an_endpoint_that_is_not_there(asking: Any, path: str, model: str | None, code: str) -> None:
    """404, told apart: no such endpoint, a Unity Catalog name on the serving path, no such path."""
    with pytest.raises(asking.Refused) as caught:
        asking.post(path, {"messages": HI} | ({"model": model} if model else {}))
    assert (caught.value.status, caught.value.error["error_code"]) == (404, code)


def test_an_endpoints_name_is_decoded_once(asking: Any) -> None:
    """A percent-encoded name is the name; the route with a served entity works too."""
    assert asking.post("/serving-endpoints/agent%2Dchat/invocations", {"messages": HI})
    assert asking.post("/serving-endpoints/agent-chat/served-models/agent-chat-1/invocations", {"messages": HI})


@pytest.mark.parametrize(
    "path",
    [
        "/serving-endpoints/open-responses",
        "/ai-gateway/mlflow/v1/chat/completions",
        "/api/2.0/sql/warehouses",
        "/serving-endpoints/completions",
    ],
)
def test_what_is_not_emulated_says_so(asking: Any, path: str) -> None:
    """A Databricks-shaped error names what is not emulated, and what is."""
    with pytest.raises(asking.Refused, match=r"does not emulate .*It emulates: POST /serving-endpoints") as caught:
        asking.post(path, {})
    assert (caught.value.status, caught.value.error["error_code"]) == (501, "NOT_IMPLEMENTED")


def test_too_much_is_413(asking: Any) -> None:
    """4 MiB for models, 16 MiB for agents."""

    def sized(name: str, size: int) -> int:
        body = json.dumps({"messages": [{"role": "user", "content": "x" * size}]}).encode()
        status, _, content = asking.request("POST", f"/serving-endpoints/{name}/invocations", body)
        assert status == 200 or "larger than" in json.loads(content)["message"]
        return int(status)

    mib = 1024 * 1024
    assert [sized(LLAMA, 4 * mib - 100), sized(LLAMA, 4 * mib)] == [200, 413]
    assert [sized("agent-chat", 5 * mib), sized("agent-chat", 16 * mib)] == [200, 413]
