"""What isochat adds to a client's own call, as a ratio of CPU time, client and facade side by side in one run.

    python benchmarks/overhead.py [--rounds N] [--calls N]

A bare server in its own process answers with a fixed reply. Each round asks `calls` times through the client alone and
then through isochat; rounds alternate, so that a machine that slows down slows both. Shown are the median CPU time of
a call and the ratio, with the spread of the rounds' ratios (quartiles).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGES = [{"role": "user", "content": "What is a mixture of experts model?"}]
REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "some-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Words. " * 40}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 80, "total_tokens": 89},
    }
).encode()


def answer_for_ever(listening: socket.socket) -> None:
    """One connection after the other, one reply a request, nothing read but the length of the body."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(REPLY)}\r\n\r\n".encode()
    import threading

    def serve(peer: socket.socket) -> None:
        with peer:
            held = b""
            while True:
                while b"\r\n\r\n" not in held:
                    if not (read := peer.recv(65536)):
                        return
                    held += read
                headers, _, held = held.partition(b"\r\n\r\n")
                length = int(headers.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                while len(held) < length:
                    held += peer.recv(65536)
                held = held[length:]
                peer.sendall(head + REPLY)

    while True:
        threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()


def pairs(host: str) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Each client's own call, and the same question through isochat."""
    import httpx2

    from isochat import Connection, query_chat
    from isochat.backends.rest import RestBackend

    url, headers = f"{host}/serving-endpoints/e/invocations", {"Authorization": "Bearer t"}
    http, rest = httpx2.Client(), RestBackend(Connection(host, "t"))
    found: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "rest (httpx2)": (
            lambda: http.post(url, json={"messages": MESSAGES}, headers=headers).json(),
            lambda: query_chat(MESSAGES, endpoint="e", backend=rest),
        )
    }
    try:
        import openai
    except ImportError:
        return found
    from isochat.backends.openai import OpenAIBackend

    client = openai.OpenAI(base_url=f"{host}/serving-endpoints", api_key="t", max_retries=0)
    backend = OpenAIBackend(Connection(host, "t"))
    found[f"openai {openai.__version__}"] = (
        lambda: client.chat.completions.create(model="e", messages=MESSAGES),
        lambda: query_chat(MESSAGES, endpoint="e", backend=backend),
    )
    return found


def cpu(call: Callable[[], object], calls: int) -> float:
    """CPU seconds of one call."""
    begun = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - begun) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200)
    asked = parser.parse_args()
    listening = socket.create_server(("127.0.0.1", 0))
    server = multiprocessing.get_context("fork").Process(target=answer_for_ever, args=(listening,), daemon=True)
    server.start()
    for name, (alone, through) in pairs(f"http://127.0.0.1:{listening.getsockname()[1]}").items():
        cpu(alone, 20), cpu(through, 20)
        rounds = [(cpu(alone, asked.calls), cpu(through, asked.calls)) for _ in range(asked.rounds)]
        low, middle, high = statistics.quantiles([facade / client for client, facade in rounds], n=4)
        client, facade = (statistics.median(column) * 1e6 for column in zip(*rounds, strict=True))
        spread = f"{middle:.2f} ({low:.2f}-{high:.2f})"
        print(f"{name:<16} alone {client:6.0f} µs   isochat {facade:6.0f} µs   ratio {spread}")
    server.terminate()


if __name__ == "__main__":
    main()
