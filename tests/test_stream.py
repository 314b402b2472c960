"""A stream may be left, closed, shared and forgotten, and gives its connection back without a word."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import Backend, ChatEvent, Connection, StreamInterrupted, aquery_chat, query_chat
from isochat.backends import BUILT_IN, EVERYTHING, Incoming, decode_event, find, keep_deadlines, load
from isochat.errors import BackendNotInstalled
from isochat.local import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from isochat.local import LocalEndpoint

STREAMING = [name for name in BUILT_IN if find(name).streams()]
ENDPOINT = "databricks-gpt-5-1"
WORDS = "one two three four five six seven eight nine ten eleven twelve"
SLOWLY = Fault(stall=30.0, after=8)  # events: the first four of the Responses API say nothing
AT_ONCE = 5.0  # seconds: less than what it would be waited for otherwise


@pytest.fixture(params=STREAMING)
def backend(request: pytest.FixtureRequest, local: LocalEndpoint) -> Iterator[Backend]:
    """Every backend that streams."""
    try:
        session = load(request.param)(Connection(local.host, local.token))
    except BackendNotInstalled as error:
        pytest.skip(str(error))
    yield session
    session.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Callable[[Any], Any]:
    """`asyncio.run`, on either loop; nothing is said of what is left behind."""
    make = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None

    def run(main: Any) -> Any:
        with asyncio.Runner(loop_factory=make) as runner:
            given = runner.run(main)
        gc.collect()

        assert [] == [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        return given

    return run


def settles(true: Callable[[], bool]) -> None:
    until = time.monotonic() + AT_ONCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def streamed(backend: Backend, **said: Any) -> Any:
    return query_chat(WORDS, endpoint=ENDPOINT, backend=backend, stream=True, timeout=20, **said)


async def astreamed(backend: Backend, **said: Any) -> Any:
    return await aquery_chat(WORDS, endpoint=ENDPOINT, backend=backend, stream=True, timeout=20, **said)


# ── left, at the end of its loop ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["dropped", "unread", "in the middle", "being read", "cancelled", "in a cycle"])
def test_left_behind(backend: Backend, local: LocalEndpoint, run: Callable[[Any], Any], how: str) -> None:
    """A stream that nobody closes goes with its loop: the connection too, and nothing is printed."""
    kept: list[Any] = []
    local.order(SLOWLY)

    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    async def main() -> None:
        stream = await astreamed(backend)
        if how == "dropped":
            return
        if how == "in a cycle":
            cycle: list[Any] = [stream]
            cycle.append(cycle)
            return
        kept.append(stream)
        if how == "in the middle":
            await anext(stream)
        if how in {"being read", "cancelled"}:
            task = asyncio.create_task(read(stream))
            await asyncio.sleep(0.05)
            kept.append(task)
            if how == "cancelled":
                task.cancel()
                await asyncio.wait([task])

    run(main())
    backend.close()

    settles(lambda: local.open_connections == 0)
    assert all(task.cancelled() for task in kept[1:])


def test_forgotten_while_the_loop_goes_on(backend: Backend, local: LocalEndpoint, run: Callable[[Any], Any]) -> None:
    """A stream that nobody holds any more gives its connection back at once, and the next question is answered."""
    local.order(SLOWLY)

    async def main() -> str:
        stream = await astreamed(backend)
        before = local.open_connections
        del stream
        gc.collect()
        until = time.monotonic() + AT_ONCE
        while local.open_connections >= before:
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        answer = await aquery_chat(WORDS, endpoint=ENDPOINT, backend=backend, timeout=20)
        await backend.aclose()
        return answer.text

    assert run(main()) == WORDS


def test_after_its_loop(backend: Backend, local: LocalEndpoint) -> None:
    """On a later loop a stream gives what it had; there is no more to come."""
    local.order(SLOWLY)
    stream = asyncio.run(astreamed(backend))
    with pytest.raises(StreamInterrupted, match="event loop has ended") as ended:
        asyncio.run(stream.collect())
    asyncio.run(stream.aclose())

    assert ended.value.partial == stream.partial
    assert ended.value.attempts[-1].sent


def test_on_another_loop(backend: Backend, local: LocalEndpoint) -> None:
    """While its loop runs, another one is told that the stream is not its own."""
    local.order(SLOWLY)

    async def main() -> None:
        stream = await astreamed(backend)
        await anext(stream)
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            await asyncio.to_thread(asyncio.run, one_more(stream))
        await backend.aclose()

    async def one_more(stream: Any) -> None:
        await stream.__anext__()

    asyncio.run(main())


# ── closed by somebody else ──────────────────────────────────────────────────────────────────────────────────────


def test_a_thread_closes_what_another_one_reads(backend: Backend, local: LocalEndpoint) -> None:
    """The reader's loop ends there, at once; the whole answer is not to be had, and what had come is."""
    local.order(SLOWLY)
    heard: list[ChatEvent] = []
    stream, read = streamed(backend, on_event=heard.append), []
    reader = threading.Thread(target=lambda: read.extend(stream))
    reader.start()
    settles(lambda: bool(read))
    time.sleep(0.1)  # it waits for the next one by now
    begun = time.monotonic()
    stream.close()
    reader.join(AT_ONCE)

    assert not reader.is_alive()
    assert time.monotonic() - begun < AT_ONCE
    with pytest.raises(StreamInterrupted) as left:
        stream.collect()
    assert left.value.partial.text == "".join(chunk.text for chunk in read)
    assert [] == list(stream)
    assert ["attempt", "first_token", "abandoned"] == [event.kind for event in heard]
    settles(lambda: local.open_connections == 0)
    assert query_chat(WORDS, endpoint=ENDPOINT, backend=backend).text == WORDS


def test_a_task_closes_what_another_one_reads(backend: Backend, local: LocalEndpoint) -> None:
    """As between threads."""
    local.order(SLOWLY)
    heard: list[ChatEvent] = []

    async def main() -> str:
        stream = await astreamed(backend, on_event=heard.append)
        task = asyncio.create_task(read(stream))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(AT_ONCE):
            await asyncio.gather(stream.aclose(), stream.aclose())
            chunks = await task
        with pytest.raises(StreamInterrupted) as left:
            await stream.collect()
        assert left.value.partial.text == "".join(chunk.text for chunk in chunks)
        answer = await aquery_chat(WORDS, endpoint=ENDPOINT, backend=backend)
        await backend.aclose()
        return answer.text

    async def read(stream: Any) -> list[Any]:
        return [chunk async for chunk in stream]

    assert asyncio.run(main()) == WORDS
    assert ["attempt", "first_token", "abandoned"] == [event.kind for event in heard]


# ── shared ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_threads_share_a_stream(backend: Backend) -> None:
    """Each chunk goes to one of them, and whoever asks for the whole answer gets it."""
    stream, answers = streamed(backend), []
    threads = [threading.Thread(target=lambda: answers.append(stream.collect())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [WORDS] * 4 == [answer.text for answer in answers]


def test_tasks_share_a_stream(backend: Backend, local: LocalEndpoint) -> None:
    """As threads do; one that is cancelled while it reads takes the stream with it, and the others hear."""

    async def main() -> None:
        stream = await astreamed(backend)
        answers = await asyncio.gather(*(stream.collect() for _ in range(3)))
        assert [WORDS] * 3 == [answer.text for answer in answers]

        local.order(SLOWLY)
        stream = await astreamed(backend)
        reading = asyncio.create_task(stream.collect())
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(stream.collect())
        await asyncio.sleep(0.01)
        reading.cancel()
        results = await asyncio.gather(reading, waiting, return_exceptions=True)
        assert [asyncio.CancelledError, StreamInterrupted] == [type(result) for result in results]
        await backend.aclose()

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_parents_stream_alone(backend: Backend) -> None:
    """A child may not read its parent's stream, whose bytes it would take away; closing it there changes nothing."""
    stream = streamed(backend)
    first = next(stream)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            next(stream)
        except RuntimeError as error:
            stream.close()
            code = 0 if "belongs to the process that opened it" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    rest = list(stream)

    assert os.waitstatus_to_exitcode(status) == 0
    assert "".join(chunk.text for chunk in [first, *rest]) == WORDS


# ── a backend of somebody else's ─────────────────────────────────────────────────────────────────────────────────


class Plain(Backend):
    """A blocking client and nothing more: what asyncio needs comes with `Backend`."""

    name: ClassVar[str] = "plain"
    carries: ClassVar[frozenset[str]] = EVERYTHING
    requires: ClassVar[tuple[str, ...]] = ("httpx2",)

    @functools.cached_property
    def http(self) -> Any:
        import httpx2

        return keep_deadlines(httpx2.Client(timeout=60))

    def encode(self, request: Any) -> Any:
        return {"path": f"/serving-endpoints/{request.endpoint}/invocations", "json": self.render(request)}

    def send(self, call: Any, timeout: float) -> Any:
        raise NotImplementedError

    def decode(self, reply: Any) -> Any:
        raise NotImplementedError

    def stream(self, call: Any, timeout: float) -> Generator[Any, None, None]:
        assert self.connection is not None
        url, headers = self.connection.host + call["path"], self.connection.headers()
        with self.http.stream("POST", url, json=call["json"], headers=headers) as response:
            incoming = Incoming(response.status_code, dict(response.headers))
            yield incoming.head
            for read in response.iter_bytes():
                yield from incoming.feed(read)

    def decode_event(self, event: Any) -> Any:
        return decode_event(event)

    def close(self) -> None:
        self.http.close()


def test_cancelled_in_a_backend_without_asyncio(local: LocalEndpoint) -> None:
    """A task that waits for a blocking client is cancelled at once, and its thread with it."""
    local.order(SLOWLY)
    backend = Plain(Connection(local.host, local.token))

    async def main() -> None:
        stream = await astreamed(backend)
        task = asyncio.create_task(stream.collect())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, AT_ONCE)

    asyncio.run(main())
    settles(lambda: local.open_connections == 0)
    backend.close()
