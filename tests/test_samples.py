"""Real payloads of some 35 services, where they are to be had, decode to what an independent plain decoder says.

Once from the bytes alone, and once served byte for byte by the local endpoint, through every backend whose language
they are in.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from isochat import ChatError, Connection, Retry, _refusal, _responses, _wire, query_chat
from isochat._wire import Reply
from isochat.backends import BUILT_IN, load
from isochat.errors import BackendNotInstalled, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isochat import Backend, ChatResponse
    from isochat.local import LocalEndpoint

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


# ── from the bytes ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("expected", "entry"), _lines("chat"))
def test_chat(expected: dict[str, Any], entry: dict[str, Any]) -> None:
    """Text, reasoning, refusal, tool calls, finish reasons, usage, id and model survive."""
    _check_chat(expected, _wire.decode_reply(_reply(entry)))


@pytest.mark.parametrize(("expected", "entry"), _lines("responses"))
def test_responses(expected: dict[str, Any], entry: dict[str, Any]) -> None:
    """Text, reasoning, refusal, function calls, usage, id, model and status survive, and the end follows from them."""
    _check_response(expected, _responses.decode_reply(_reply(entry)))


@pytest.mark.parametrize(("expected", "entry"), _lines("error"))
def test_error(expected: dict[str, Any], entry: dict[str, Any]) -> None:
    """Status, code and message survive."""
    reply = _reply(entry)
    _check_error(expected, _refusal.service_error(expected["error"]["status"], reply.headers, reply.body))


def _check_chat(expected: dict[str, Any], response: ChatResponse) -> None:
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
    facts = [choice.get("facts", ()) for choice in expected["choices"]]

    assert found == [{name: said for name, said in each.items() if name != "facts"} for each in expected["choices"]]
    for choice, named in zip(response.choices, facts, strict=True):
        assert all(fact in repr(choice.message) for fact in named)
    assert expected["usage"] == (
        None if usage is None else [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]
    )
    assert expected["id"] == response.id
    assert expected["model"] == response.model


def _check_response(expected: dict[str, Any], response: ChatResponse) -> None:
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


def _check_error(expected: dict[str, Any], error: ServiceError) -> None:
    code = expected["error"]["code"]

    assert expected["error"]["status"] == error.status
    assert (None if code is None else str(code)) == error.error_code
    assert expected["error"]["message"].strip() == error.message


# ── through every backend ────────────────────────────────────────────────────────────────────────────────────────

RESPONSES = "openai-responses"
CHAT = sorted(BUILT_IN.keys() - {RESPONSES, "ai-query"})
# Of the connection that they came over, not of the bytes.
HOPS = {"connection", "content-encoding", "content-length", "transfer-encoding"}


@pytest.fixture(scope="module")
def sessions(_local_endpoint: LocalEndpoint) -> Iterator[dict[str, Backend]]:
    connection = Connection(_local_endpoint.host, _local_endpoint.token)
    made: dict[str, Backend] = {}
    for name in (*CHAT, RESPONSES):
        with contextlib.suppress(BackendNotInstalled):
            made[name] = load(name)(connection)
    yield made
    for session in made.values():
        session.close()


def _asked(sessions: dict[str, Backend], name: str, local: LocalEndpoint, entry: dict[str, Any]) -> ChatResponse:
    """The answer through a backend, streamed if the payload is a stream."""
    if name not in sessions:
        pytest.skip(f"{name} is not installed")
    reply = _reply(entry)
    headers = {header: value for header, value in reply.headers.items() if header not in HOPS}
    local.reply(status=reply.status, body=reply.body, headers=headers)
    said: Any = {"endpoint": "any", "backend": sessions[name], "retry": Retry(attempts=1), "timeout": 20}
    if entry["kind"].endswith(".sse"):
        return query_chat("Hi", stream=True, **said).response
    return query_chat("Hi", **said)


@pytest.mark.parametrize("name", CHAT)
@pytest.mark.parametrize(("expected", "entry"), _lines("chat"))
def test_chat_through_a_client(
    sessions: dict[str, Backend], name: str, local: LocalEndpoint, expected: dict[str, Any], entry: dict[str, Any]
) -> None:
    """No client loses anything of it: the answer is the one that the bytes give."""
    response = _asked(sessions, name, local, entry)

    _check_chat(expected, response)
    assert _wire.decode_reply(_reply(entry)) == response


@pytest.mark.parametrize(("expected", "entry"), _lines("responses"))
def test_responses_through_the_client(
    sessions: dict[str, Backend], local: LocalEndpoint, expected: dict[str, Any], entry: dict[str, Any]
) -> None:
    """Nor does the client of the Responses API."""
    response = _asked(sessions, RESPONSES, local, entry)

    _check_response(expected, response)
    assert _responses.decode_reply(_reply(entry)) == response


@pytest.mark.parametrize("name", [*CHAT, RESPONSES])
@pytest.mark.parametrize(("expected", "entry"), _lines("error"))
def test_error_through_a_client(
    sessions: dict[str, Backend], name: str, local: LocalEndpoint, expected: dict[str, Any], entry: dict[str, Any]
) -> None:
    """A refusal is one error whichever client got it."""
    with pytest.raises(ChatError) as refused:
        _asked(sessions, name, local, entry)
    error, reply = refused.value, _reply(entry)
    plain = _refusal.service_error(reply.status, reply.headers, reply.body)

    assert isinstance(error, ServiceError)
    _check_error(expected, error)
    assert (type(plain), plain.retry_after) == (type(error), error.retry_after)
