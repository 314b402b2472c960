"""A server that is not the bottleneck: one process, fixed replies, nothing read but the length of the body.

`python benchmarks/server.py` prints its port and serves until its standard input ends. What it answers:

* `/serving-endpoints/chat/completions` and `/serving-endpoints/{name}/invocations`: a chat completion; a stream of
  `CHUNKS` events, each a write of its own, where the body asks for one. The endpoint `hold` streams one event and then
  says nothing more.
* `/serving-endpoints/responses`: a response. `/api/2.0/sql/statements`: the result of an `ai_query`.
* anything else (the Databricks SDK asks for its host's configuration): 404.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys

CHUNKS = 200
_ABOUT = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "some-model"}
_USAGE = {"prompt_tokens": 9, "completion_tokens": 80, "total_tokens": 89}
_TEXT = "Words. " * 40


def _chat() -> dict[str, object]:
    message = {"role": "assistant", "content": _TEXT}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {**_ABOUT, "object": "chat.completion", "choices": choices, "usage": _USAGE}


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    event = json.dumps({**_ABOUT, "object": "chat.completion.chunk", "choices": choices})
    return _piece(f"data: {event}\n\n".encode())


def _response() -> dict[str, object]:
    content = [{"type": "output_text", "text": _TEXT, "annotations": []}]
    output = [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}]
    usage = {"input_tokens": 9, "output_tokens": 80, "total_tokens": 89}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}  # type: ignore[dict-item]
    about = {"id": "resp_1", "object": "response", "created_at": 1_700_000_000, "model": "some-model"}
    fixed = {"status": "completed", "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {**about, **fixed, "output": output, "usage": usage}


def _statement() -> dict[str, object]:
    cell = json.dumps({"result": _TEXT, "errorMessage": None})
    column = {"name": "answer", "position": 0, "type_name": "STRUCT"}
    column["type_text"] = "STRUCT<result: STRING, errorMessage: STRING>"
    manifest = {"format": "JSON_ARRAY", "schema": {"column_count": 1, "columns": [column]}, "total_row_count": 1}
    manifest |= {"total_chunk_count": 1, "truncated": False}
    return {
        "statement_id": "01",
        "status": {"state": "SUCCEEDED"},
        "manifest": manifest,
        "result": {"chunk_index": 0, "row_offset": 0, "row_count": 1, "data_array": [[cell]]},
    }


def _whole(body: object, status: str = "200 OK") -> bytes:
    said = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-request-id: r-1\r\ncontent-length: {len(said)}"
    return f"{head}\r\n\r\n".encode() + said


def _piece(said: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(said), said)


CHAT, RESPONSE, STATEMENT = _whole(_chat()), _whole(_response()), _whole(_statement())
MISSING = _whole({"error_code": "ENDPOINT_NOT_FOUND", "message": "no"}, "404 Not Found")
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = [
    _chunk({"role": "assistant", "content": ""}),
    *[_chunk({"content": f"word{place} "}) for place in range(CHUNKS - 2)],  # litellm takes repetition for a loop
    _chunk({}, "stop"),
    _piece(b"data: [DONE]\n\n") + b"0\r\n\r\n",
]


class Peer(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self.held = b""

    def data_received(self, data: bytes) -> None:
        held = self.held + data if self.held else data
        while (end := held.find(b"\r\n\r\n")) >= 0:
            head = held[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(held) < end + 4 + length:
                break
            self.answer(held[:end], held[end + 4 : end + 4 + length])
            held = held[end + 4 + length :]
        self.held = held

    def answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path.endswith((b"/chat/completions", b"/invocations")):
            if b'"stream":true' in body.replace(b" ", b""):
                held = path.endswith(b"/hold/invocations") or b'"hold"' in body
                self.transport.write(STREAM)
                self.say(0, 1 if held else len(EVENTS))
            else:
                self.transport.write(CHAT)
        elif path.endswith(b"/responses"):
            self.transport.write(RESPONSE)
        elif path.startswith(b"/api/2.0/sql/statements"):
            self.transport.write(STATEMENT)
        else:
            self.transport.write(MISSING)

    def say(self, place: int, end: int) -> None:
        """One event a turn of the loop, so that each is a segment of its own."""
        if place < end and not self.transport.is_closing():
            self.transport.write(EVENTS[place])
            asyncio.get_running_loop().call_soon(self.say, place + 1, end)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Peer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    asyncio.run(main())
