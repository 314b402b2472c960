"""What the hot path may cost, in bytecode instructions: times are too noisy to be checked.

A figure is what was counted on Python 3.12 when it was last lowered; other versions compile the same code to somewhat
fewer or more (3.13 counts 4 % more for a chunk). What slips in by accident (a search of the environment, an inspection,
a copy) costs more than the tolerance. When a path gets cheaper, lower its figure. What C does (msgspec, the sockets) is
not counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from isochat import Connection, _api, aquery_chat, query_chat
from isochat._gather import Gathering
from isochat._request import make_request
from isochat._types import ChatChunk
from isochat._wire import Incoming, Reply
from isochat.backends.rest import RestBackend
from isochat.transports import Streamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.version_info < (3, 12):
    pytest.skip("Python 3.12 is the first that can count its instructions", allow_module_level=True)

MESSAGES = [{"role": "user", "content": "What is a mixture of experts model?"}]
ABOUT = {"id": "c", "created": 1_700_000_000, "model": "m"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 80, "total_tokens": 89}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Words. " * 40}, "finish_reason": "stop"}
WHOLE = json.dumps({**ABOUT, "object": "chat.completion", "choices": [CHOICE], "usage": USAGE}).encode()
PIECE = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
LAST = {"index": 0, "delta": {}, "finish_reason": "stop"}
EVENT, END = (
    b"data: " + json.dumps({**ABOUT, "object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
    for choice in (PIECE, LAST)
)
CHUNKS = 50
TOLERANCE = 0.08


class Unsent:
    """A transport with the socket left out."""

    def post(self, *_: Any) -> Reply:
        return Reply(200, {"content-type": "application/json", "x-request-id": "r"}, WHOLE)

    def stream(self, *_: Any) -> Unsent:
        return self

    def __enter__(self) -> Streamed:
        reads = iter([EVENT] * CHUNKS + [END, b"data: [DONE]\n\n"])
        return Streamed(200, {"content-type": "text/event-stream"}, reads)

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


class AsyncUnsent(Unsent):
    async def post(self, *_: Any) -> Reply:  # type: ignore[override]
        return super().post()

    async def aclose(self) -> None:
        pass


class Answered(RestBackend):
    def _blocking(self) -> Any:
        return Unsent()

    def _awaited(self) -> Any:
        return AsyncUnsent()


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RestBackend:
    (tmp_path / ".git").mkdir()  # how many folders are looked into for settings is no matter of the machine's then
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_api, "_FRESH", 3600.0)  # nor how long it takes
    return Answered(Connection("http://127.0.0.1:1", "t"))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def encode(backend: RestBackend, _: asyncio.Runner) -> None:
    backend.encode(make_request(MESSAGES, endpoint="e"))


def decode(backend: RestBackend, _: asyncio.Runner) -> None:
    backend.decode(Reply(200, {"content-type": "application/json", "x-request-id": "r"}, WHOLE))


def ask(backend: RestBackend, _: asyncio.Runner) -> None:
    """All that a question costs beyond its transport."""
    query_chat(MESSAGES, endpoint="e", backend=backend)


def chunk(backend: RestBackend, _: asyncio.Runner) -> None:
    """What streamed chunks cost to read and to gather."""
    incoming, gathering = Incoming(200, {"content-type": "text/event-stream"}), Gathering()
    for _ in range(CHUNKS):
        for event in incoming.feed(EVENT):
            said = backend.decode_event(event)
            assert isinstance(said, ChatChunk)
            gathering.add(said)


def stream(backend: RestBackend, _: asyncio.Runner) -> None:
    """All that a stream costs beyond its transport."""
    for _ in query_chat(MESSAGES, endpoint="e", backend=backend, stream=True):
        pass


def aask(backend: RestBackend, runner: asyncio.Runner) -> None:
    """All that a question costs beyond its transport, and what its event loop does for it."""
    # Not `runner.run`, which has a signal's handler put up, and that the last answer written out (Python 3.12).
    runner.get_loop().run_until_complete(aquery_chat(MESSAGES, endpoint="e", backend=backend))


def counted(work: Callable[[], object]) -> int:
    """The bytecode instructions that it executes."""
    count = 0

    def one(*_: object) -> None:
        nonlocal count
        count += 1

    watch = sys.monitoring
    # Nobody else's: coverage, a debugger and a profiler have numbers of their own.
    tool = next(tool for tool in (3, 4) if watch.get_tool(tool) is None)
    watch.use_tool_id(tool, "isochat")
    watch.register_callback(tool, watch.events.INSTRUCTION, one)
    gc.disable()  # it would run others' finalizers here
    watch.set_events(tool, watch.events.INSTRUCTION)
    try:
        work()
    finally:
        gc.enable()
        watch.set_events(tool, 0)
        watch.register_callback(tool, watch.events.INSTRUCTION, None)
        watch.free_tool_id(tool)
    return count


FIGURES: dict[str, tuple[Callable[[RestBackend, asyncio.Runner], None], int]] = {
    "encode": (encode, 776),
    "decode": (decode, 411),
    "ask": (ask, 2_384),
    "chunk": (chunk, 18_912),
    "stream": (stream, 30_733),
    "aask": (aask, 3_489),
}


@pytest.mark.parametrize("path", FIGURES)
def test_the_hot_path_costs_no_more_than_it_did(path: str, backend: RestBackend, runner: asyncio.Runner) -> None:
    """The same work, counted the same way every time."""
    work, figure = FIGURES[path]
    for _ in range(3):  # what is done once, is done
        work(backend, runner)
    count = counted(lambda: work(backend, runner))

    assert count <= figure * (1 + TOLERANCE), f"{path} cost {figure} and costs {count}"
    assert count >= figure * (1 - 2 * TOLERANCE), f"{path} costs {count} now: lower its figure of {figure}"


@pytest.mark.parametrize("path", sorted(FIGURES.keys() - {"aask"}))  # a loop has turns of its own
def test_the_same_work_counts_the_same(path: str, backend: RestBackend, runner: asyncio.Runner) -> None:
    """The count is no measurement: it does not waver."""
    work, _ = FIGURES[path]
    for _ in range(3):
        work(backend, runner)

    assert 1 == len({counted(lambda: work(backend, runner)) for _ in range(3)})
