"""A real model's answers come through dressed as the family would give them."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from isochat.local import LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

CLAUDE, OPUS, OSS, GPT = (
    "databricks-claude-sonnet-4-5",
    "databricks-claude-opus-4-8",
    "databricks-gpt-oss-120b",
    "databricks-gpt-5-1",
)
GEMINI, LLAMA = "databricks-gemini-3-pro", "databricks-meta-llama-3-3-70b-instruct"
THINK = {"thinking": {"type": "enabled", "budget_tokens": 100}}
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]


class Ollama:
    """A tiny server that speaks OpenAI's chat completions and thinks aloud."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = ""
        self.go_on = threading.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "llama3.2:3b"}, {"id": GPT}]})
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("Authorization"))
        said = body["messages"][-1]["content"]
        if said == "fail":
            return web.json_response(
                {"error": {"message": "model is loading", "type": "api_error"}},
                status=503,
                headers={"Retry-After": "7"},
            )
        usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
        call = {"id": "call_x", "type": "function", "function": {"name": "now", "arguments": "{}"}}
        if not body["stream"]:
            message: dict[str, Any] = {"role": "assistant", "content": "Four.", "reasoning": "Two and two."}
            if body.get("tools"):
                message |= {"content": "", "tool_calls": [call]}
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if body.get("tools") else "stop"}
            return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)

        async def send(choices: list[Any], **more: Any) -> None:
            await response.write(b"data: " + json.dumps({"id": "x", "choices": choices, **more}).encode() + b"\n\n")

        await send([{"index": 0, "delta": {"role": "assistant", "content": "", "reasoning": "Two "}}])
        await send([{"index": 0, "delta": {"reasoning_content": "and two."}}])
        if body.get("tools"):
            await send([{"index": 0, "delta": {"tool_calls": [{"index": 0, **call}]}}])
            await send(
                [
                    {
                        "index": 0,
                        "delta": {"tool_calls": [{"index": 0, **call, "id": "call_y"}]},
                        "finish_reason": "tool_calls",
                    }
                ]
            )
        else:
            await send([{"index": 0, "delta": {"content": "Fo"}, "finish_reason": None}])
            if said == "wait":
                await asyncio.to_thread(self.go_on.wait, 10)
            if said == "break":
                await send([], error={"message": "out of memory"})
                return response
            await send([{"index": 0, "delta": {"content": "ur."}, "finish_reason": "stop"}])
        await send([], usage=usage)
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture(scope="module")
def ollama() -> Iterator[Ollama]:
    """The tiny server, in a thread of its own."""
    there, ready = Ollama(), threading.Event()
    stop: list[Any] = []

    async def main() -> None:
        over = asyncio.Event()
        stop.extend([asyncio.get_running_loop(), over])
        server = web.Server(there.handle)
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        there.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await over.wait()
        listening.close()
        await server.shutdown(0)
        await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    ready.wait()
    yield there
    stop[0].call_soon_threadsafe(stop[1].set)
    thread.join()


@pytest.fixture
def through(ollama: Ollama, ask_of: Any) -> Iterator[Any]:
    """A plain client of a local endpoint with the tiny server behind it."""
    ollama.asked.clear()
    ollama.keys.clear()
    with LocalEndpoint(upstream=ollama.url, upstream_key="k", models={"mine": "claude:qwen3:8b"}) as local:
        yield ask_of(local)


def test_answers_are_dressed(through: Any) -> None:
    """List content, ids, usage with the family's keys, the family's model id; reasoning only where it is shown."""
    reply = through.chat(CLAUDE, "2+2?", **THINK)
    assert reply["choices"][0]["message"]["content"][0]["summary"][0]["text"] == "Two and two."
    assert reply["choices"][0]["message"]["content"][1]["text"] == "Four."
    assert reply["id"].startswith("msg_bdrk_")
    assert reply["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "total_tokens": 16,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
    }
    assert through.chat(CLAUDE, "2+2?")["choices"][0]["message"]["content"] == "Four."
    assert through.chat(OPUS, "2+2?", **THINK)["choices"][0]["message"]["content"][0]["summary"][0]["text"] == ""
    assert [p["type"] for p in through.chat(OSS, "2+2?")["choices"][0]["message"]["content"]] == ["reasoning", "text"]
    assert through.chat(LLAMA, "2+2?")["choices"][0]["message"]["content"] == "Four."
    assert through.chat("agent-chat", "2+2?")["messages"][0]["content"] == "Four."


def test_streams_are_dressed(through: Any) -> None:
    """The same in chunks: list deltas, then strings, usage where the family puts it."""
    chunks = through.stream(CLAUDE, "2+2?", **THINK)
    contents = [c["choices"][0]["delta"]["content"] for c in chunks]
    assert [type(c) for c in contents] == [list, list, list, str, str, str]
    assert contents[2][0]["summary"][0]["signature"]
    assert chunks[-1]["usage"]["total_tokens"] == 16
    assert chunks[0]["usage"]["total_tokens"] is None
    assert through.stream(GPT, "2+2?")[-1] | {"id": "", "created": 0} == {
        "id": "",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "gpt-5.1-2025-11-13",
        "service_tier": "default",
        "system_fingerprint": None,
        "choices": [],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 5,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_streams_arrive_as_they_are_written(through: Any, ollama: Ollama) -> None:
    """The first words are there while the model still writes the rest."""
    httpx = pytest.importorskip("httpx")
    body = {"messages": [{"role": "user", "content": "wait"}], "stream": True}
    headers = {"Authorization": f"Bearer {through.local.token}"}
    with httpx.stream(
        "POST", f"{through.local.host}/serving-endpoints/{LLAMA}/invocations", json=body, headers=headers
    ) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data:"))
        assert '"Fo"' in next(line for line in lines if '"Fo"' in line)
        ollama.go_on.set()
        assert list(lines)[-1] == "data: [DONE]"


def test_tool_calls_are_dressed(through: Any) -> None:
    """Calls get the family's ids, arguments and signatures; a new id under an old index is a new call."""
    call = through.chat(CLAUDE, "time?", tools=TOOLS)["choices"][0]["message"]["tool_calls"][0]
    assert call["id"].startswith("toolu_bdrk_")
    assert call["function"] == {"name": "now", "arguments": ""}
    chunks = through.stream(GEMINI, "time?", tools=TOOLS)
    calls = [c for chunk in chunks for c in chunk["choices"][0]["delta"].get("tool_calls") or ()]
    assert [(c["index"], c["id"], c["function"]["arguments"], "thoughtSignature" in c) for c in calls] == [
        (0, "now", "{}", True),
        (1, "now", "{}", True),
    ]


def test_the_question_is_forwarded_as_such_a_server_takes_it(through: Any, ollama: Ollama) -> None:
    """Its model's name, plain messages, the key; and what it would not understand is named in the reply."""
    block = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "user", "content": [block]},
        {
            "role": "assistant",
            "content": "A",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "now", "arguments": ""}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "12:00"},
    ]
    body = {"messages": messages, "top_k": 3, "temperature": 0.5, "usage_context": {"a": "b"}, **THINK}
    _, headers, _ = through.request("POST", f"/serving-endpoints/{CLAUDE}/invocations", json.dumps(body).encode())
    assert headers["x-isochat-not-forwarded"] == "thinking, top_k"
    assert ollama.asked[-1] == {
        "model": "llama3.2:3b",
        "stream": False,
        "temperature": 0.5,
        "messages": [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": "A",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "12:00"},
        ],
    }
    assert ollama.keys == ["Bearer k"]
    through.chat(GPT, "Hi")
    through.stream("mine", "Hi")
    assert [a["model"] for a in ollama.asked[-2:]] == [GPT, "qwen3:8b"]
    assert ollama.asked[-1]["stream_options"] == {"include_usage": True}


def test_an_upstreams_no_is_an_external_models_no(through: Any) -> None:
    """Its status and Retry-After, and its error as JSON text inside the message, as for external models."""
    with pytest.raises(through.Refused) as caught:
        through.chat(LLAMA, "fail")
    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "7")
    inner = json.loads(caught.value.error["message"])
    assert inner["external_model_error"]["error"]["message"] == "model is loading"


def test_an_upstream_that_breaks_off_says_so_in_the_stream(through: Any) -> None:
    """What had arrived, then an error event, and no [DONE]."""
    chunks = through.stream(LLAMA, "break")
    assert chunks[-1]["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert "out of memory" in chunks[-1]["message"]


def test_an_upstream_that_is_not_there(ask_of: Any) -> None:
    """502, naming the address."""
    with (
        LocalEndpoint(upstream="http://127.0.0.1:9/v1") as local,
        pytest.raises(ask_of.Refused, match=r"no answer from http://127.0.0.1:9/v1"),
    ):
        ask_of(local).chat(LLAMA, "Hi")


def test_the_endpoints_own_rules_come_first(through: Any, ollama: Ollama) -> None:
    """What the family refuses never reaches the upstream."""
    with pytest.raises(through.Refused):
        through.chat(LLAMA, "Hi", seed=1)
    assert ollama.asked == []
