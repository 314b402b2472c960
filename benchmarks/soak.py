"""A thousand questions and a thousand streams at once, and memory over 200,000 questions.

    python benchmarks/soak.py [--at-once N] [--questions N] [--backends rest,openai,…]

A bare server in its own process answers, and lets every fiftieth question fail: in turn a 503, a reset, and an end in
the middle. Every answer is compared with what was asked. Shown are, for each backend that has a client for asyncio:
how many answers came and were right, how many streams were interrupted, the time a question took (median, 99th
percentile), the most memory and the most connections. Then questions are asked one hundred at a time, and memory is
read as it goes: the blocks that Python holds after a collection, and the resident set.

Exits with 1 if an answer is wrong, an error is one that was not ordered, or memory grows.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import itertools
import json
import multiprocessing
import resource
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isochat import Connection, Retry, StreamInterrupted, aquery_chat
from isochat.backends import Backend, load

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTS = ("503", "reset", "end")
EVERY = 50
RETRY = Retry(attempts=5, first_wait=0.01)
SLACK = 0.02  # blocks a question that memory may seem to grow by after the first tenth


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────


def serve(listening: socket.socket) -> None:
    asyncio.run(_serve(listening))


async def _serve(listening: socket.socket) -> None:
    numbers = itertools.count(1)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length:")[2].partition("\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                number = next(numbers)
                fault = FAULTS[number // EVERY % len(FAULTS)] if number % EVERY == 0 else None
                await asyncio.sleep(0.01)  # a thousand are to be there at once
                if not answer(writer, asked, fault, responses="/responses" in head.partition("\r\n")[0]):
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, sock=listening, limit=1 << 20)
    await server.serve_forever()


def answer(writer: asyncio.StreamWriter, asked: Any, fault: str | None, *, responses: bool) -> bool:
    """Write one answer; False if the connection is over."""
    text = (asked.get("messages") or asked.get("input"))[-1]["content"]
    if fault == "503":
        writer.write(whole(b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "Wait."}', status="503 Busy"))
        return True
    if fault == "reset":
        writer.transport.abort()
        return False
    if asked.get("stream"):
        events = (streamed_response if responses else streamed_chat)(text)
        events = events[: len(events) // 2] if fault == "end" else events
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n")
        return True
    body = json.dumps(response(text) if responses else completion(text)).encode()
    if fault == "end":
        writer.write(whole(body)[:-10])
        return False
    writer.write(whole(body))
    return True


def whole(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "some-model",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17},
    }


def streamed_chat(text: str) -> list[bytes]:
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "some-model"}
    deltas: list[dict[str, Any]] = [{"delta": {"content": f"{word} "}} for word in text.split()]
    chunks = [
        {**about, "choices": [{"index": 0, **delta}]} for delta in [*deltas, {"delta": {}, "finish_reason": "stop"}]
    ]
    return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


def response(text: str, status: str = "completed") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": content}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": "some-model",
        "status": status,
        "output": [item] if text else [],
        "usage": {"input_tokens": 9, "output_tokens": 8, "total_tokens": 17},
    }


def streamed_response(text: str) -> list[bytes]:
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    said = f"{' '.join(text.split())} "
    item = response(said)["output"][0]
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response("", "in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        *({"type": "response.output_text.delta", **where, "delta": f"{word} "} for word in text.split()),
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response(said)},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


# ── at once ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def at_once(backend: Backend, number: int) -> bool:
    took: list[float] = []
    told: collections.Counter[str] = collections.Counter()

    async def ask(place: int, *, stream: bool) -> None:
        text = f"this is question number {place} of a great many"
        begun = time.perf_counter()
        try:
            given = await aquery_chat(text, endpoint="e", backend=backend, timeout=300, retry=RETRY, stream=stream)
            answered = await given.collect() if stream else given  # type: ignore[union-attr]
        except StreamInterrupted as error:
            right = text.startswith((error.partial.text if error.partial else "").strip())
            told["interrupted" if right else "WRONG"] += 1
        except Exception as error:  # noqa: BLE001 - counted, and shown
            told[type(error).__name__] += 1
        else:
            told["right" if answered.text.strip() == text else "WRONG"] += 1  # type: ignore[union-attr]
            told["asked again"] += bool(answered.attempts)  # type: ignore[union-attr]
        took.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(ask(place, stream=stream) for place in range(number) for stream in (False, True)))
    seconds = time.perf_counter() - begun
    await backend.aclose()
    middle, worst = statistics.median(took), statistics.quantiles(took, n=100)[-1]
    print(
        f"{backend.name:<17} {2 * number} at once in {seconds:.1f} s: {told['right']} right "
        f"({told['asked again']} asked again), {told['interrupted']} streams interrupted; "
        f"median {middle:.2f} s, 99th percentile {worst:.2f} s; resident {resident():.0f} MiB"
    )
    if wrong := {kind: count for kind, count in told.items() if kind not in {"right", "interrupted", "asked again"}}:
        print(f"{'':<17} NOT AS ORDERED: {wrong}")
    return not wrong


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def flat(backend: Backend, number: int) -> bool:
    read: list[int] = []

    async def ask(places: Iterator[int]) -> None:
        for place in places:
            text = f"this is question number {place}"
            asked: Any = {"endpoint": "e", "backend": backend, "timeout": 60, "retry": RETRY}
            if place % 10:
                answer = await aquery_chat(text, **asked)
            else:
                stream = await aquery_chat(text, stream=True, **asked)
                try:
                    answer = await stream.collect()
                except StreamInterrupted:
                    continue
            assert answer.text.strip() == text

    begun = time.perf_counter()
    for part in range(10):
        places = iter(range(number // 10))
        await asyncio.gather(*(ask(places) for _ in range(100)))
        gc.collect()
        read.append(sys.getallocatedblocks())
        print(f"{'':<17} after {(part + 1) * (number // 10):>7}: {read[-1]:>9} blocks, resident {resident():.0f} MiB")
    seconds = time.perf_counter() - begun
    await backend.aclose()
    growth = (read[-1] - read[0]) / (number - number // 10)
    print(f"{backend.name:<17} {number} questions in {seconds:.0f} s: {growth:+.4f} blocks a question")
    return growth < SLACK


def resident() -> float:
    """Now, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text(encoding="ascii").partition("VmRSS:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--at-once", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=200_000)
    parser.add_argument("--backends", default="rest,openai,openai-responses")
    asked = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8 * asked.at_once)), hard))
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server = multiprocessing.get_context("fork").Process(target=serve, args=(listening,), daemon=True)
    server.start()
    connection = Connection(f"http://127.0.0.1:{listening.getsockname()[1]}", "t")
    listening.close()
    well = True
    try:
        for name in asked.backends.split(","):
            well &= asyncio.run(at_once(load(name)(connection), asked.at_once))
        for name in asked.backends.split(","):
            if asked.questions:
                well &= asyncio.run(flat(load(name)(connection), asked.questions))
    finally:
        server.terminate()
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
