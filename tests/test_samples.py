"""Real payloads of some 35 services, where they are to be had, decode to what an independent plain decoder says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isochat import _refusal, _responses, _wire
from isochat._wire import Reply

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
ABSENT = f"the recorded payloads are not in {SAMPLES.name}/ beside the repository"


def _lines(prefix: str) -> list[Any]:
    if not (SAMPLES / "expected.jsonl").exists():
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=ABSENT), id="absent")]
    index = {entry["sha256"][:10]: entry for entry in json.loads((SAMPLES / "index.json").read_bytes())}
    lines = [json.loads(line) for line in (SAMPLES / "expected.jsonl").read_bytes().splitlines() if line.strip()]
    wanted = [line for line in lines if line["kind"].startswith(prefix)]
    return [pytest.param(line, index[line["sha"]], id=index[line["sha"]]["file"]) for line in wanted]


def _reply(entry: dict[str, Any]) -> Reply:
    headers = {name.lower(): value for name, value in (entry.get("headers") or {}).items()}
    return Reply(entry.get("status") or 200, headers, (SAMPLES / entry["file"]).read_bytes())


@pytest.mark.parametrize(("expected", "entry"), _lines("chat"))
def test_chat(expected: dict[str, Any], entry: dict[str, Any]) -> None:
    """Text, reasoning, refusal, tool calls, finish reasons, usage, id and model survive."""
    response = _wire.decode_reply(_reply(entry))
    found = [
        {
            "index": choice.index,
            "text": choice.message.text,
            "reasoning": choice.message.reasoning or "",
            "refusal": choice.message.refusal,
            "tool_calls": [[call.id, call.name, call.arguments] for call in choice.message.tool_calls],
            "finish_reason": choice.finish_reason,
        }
        for choice in response.choices
    ]
    usage = response.usage
    # Where content is neither text nor parts, the line names facts that must be reachable all the same.
    facts = [choice.pop("facts", ()) for choice in expected["choices"]]

    assert found == expected["choices"]
    for choice, named in zip(response.choices, facts, strict=True):
        assert all(fact in repr(choice.message) for fact in named)
    assert expected["usage"] == (
        None if usage is None else [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]
    )
    assert expected["id"] == response.id
    assert expected["model"] == response.model


@pytest.mark.parametrize(("expected", "entry"), _lines("responses"))
def test_responses(expected: dict[str, Any], entry: dict[str, Any]) -> None:
    """Text, reasoning, refusal, function calls, usage, id, model and status survive, and the end follows from them."""
    response = _responses.decode_reply(_reply(entry))
    (choice,), usage = response.choices, response.usage
    message = choice.message
    # The plain decoder counts calls of functions; here, a call of a tool that takes free text is a call as well.
    calls = [[call.id, call.name, call.arguments] for call in message.tool_calls if call.type == "function"]
    found = {
        "text": message.text,
        "reasoning": message.reasoning or "",
        "refusal": message.refusal,
        "tool_calls": calls,
    }
    ends = {"incomplete": ("length", "content_filter")}.get(expected["status"], ("stop", "tool_calls"))

    assert [{"index": 0, "finish_reason": None, **found}] == expected["choices"]
    assert expected["usage"] == (
        None if usage is None else [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]
    )
    assert (expected["id"], expected["model"]) == (response.id, response.model)
    assert expected["status"] == response.extra.get("status")
    assert choice.finish_reason in ends


@pytest.mark.parametrize(("expected", "entry"), _lines("error"))
def test_error(expected: dict[str, Any], entry: dict[str, Any]) -> None:
    """Status, code and message survive."""
    reply = _reply(entry)
    error = _refusal.service_error(expected["error"]["status"], reply.headers, reply.body)
    code = expected["error"]["code"]

    assert expected["error"]["status"] == error.status
    assert (None if code is None else str(code)) == error.error_code
    assert expected["error"]["message"].strip() == error.message
