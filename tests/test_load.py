"""Many at once, many threads, cancelled anywhere, left open at the end: the short form of benchmarks/soak.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import threading
import time
import types
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import Backend, Connection, Retry, StreamInterrupted, aquery_chat, query_chat
from isochat.backends import BUILT_IN, load
from isochat.backends.ai_query import AIQueryBackend
from isochat.backends.rest import RestBackend
from isochat.errors import BackendNotInstalled
from isochat.local import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator

    from isochat.local import LocalEndpoint

ENDPOINT = "databricks-gpt-5-1"
AGAIN = Retry(attempts=5, first_wait=0.01)
AT_ONCE = 100  # questions, and as many streams
THREADS = 64
MORE_THAN_A_THOUSAND = 1_010


@pytest.fixture(params=BUILT_IN)
def backend(request: pytest.FixtureRequest, local: LocalEndpoint) -> Iterator[Backend]:
    """Every backend."""
    session = made(request.param, local)
    yield session
    session.close()


def made(name: str, local: LocalEndpoint) -> Backend:
    connection = Connection(local.host, local.token)
    try:
        if name == "rest by pyreqwest":
            return RestBackend(connection, transport="pyreqwest")
        return AIQueryBackend(connection, warehouse_id="w") if name == "ai-query" else load(name)(connection)
    except BackendNotInstalled as error:
        pytest.skip(str(error))


def settles(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


# ── many ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_many_at_once(backend: Backend, local: LocalEndpoint) -> None:
    """Questions and streams at once, two in a hundred of them faulted: each is its own answer, or a stream cut off."""
    modes = (False, True) if backend.streams() else (False,)
    nothing = Fault(times=49)
    for fault in (Fault(status=503), Fault(reset=True), Fault(status=429, retry_after=0.05), Fault(drop_after=8)):
        local.order(nothing, fault)

    async def ask(text: str, *, stream: bool) -> str:
        said: Any = {"endpoint": ENDPOINT, "backend": backend, "timeout": 60, "retry": AGAIN}
        if not stream:
            return (await aquery_chat(text, **said)).text
        try:
            return (await (await aquery_chat(text, stream=True, **said)).collect()).text
        except StreamInterrupted as error:
            return "interrupted" if error.partial and text.startswith(error.partial.text) else str(error)

    async def main() -> list[tuple[str, str]]:
        texts = [f"this is question number {place} of a great many" for place in range(AT_ONCE)]
        asked = [(text, stream) for text in texts for stream in modes]
        answers = await asyncio.gather(*(ask(text, stream=stream) for text, stream in asked))
        await backend.aclose()
        return [(text, answer) for (text, _), answer in zip(asked, answers, strict=True)]

    wrong = [(text, answer) for text, answer in asyncio.run(main()) if text != answer]

    assert [] == [answer for _, answer in wrong if answer != "interrupted"]
    assert len(wrong) <= 1  # by the one order to drop the connection
    settles(lambda: local.open_connections == 0)


class Patient(asyncio.Protocol):
    """Answers nobody before so many have asked."""

    opened: list[Any]
    asked: list[Any]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.opened.append(transport)

    def data_received(self, data: bytes) -> None:
        if b'"messages"' in data:
            self.asked.append(self.transport)
        if len(self.asked) == MORE_THAN_A_THOUSAND:
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
            body = json.dumps({"id": "c", "model": "m", "created": 1, "object": "chat.completion", "choices": [choice]})
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            for transport in self.asked:
                transport.write((head + body).encode())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Such a server, to be entered on a loop, which gives its address."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * MORE_THAN_A_THOUSAND:
        pytest.skip("a process may not open so many files here")
    monkeypatch.setattr(Patient, "opened", [], raising=False)
    monkeypatch.setattr(Patient, "asked", [], raising=False)

    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        server = await asyncio.get_running_loop().create_server(Patient, "127.0.0.1", 0, backlog=MORE_THAN_A_THOUSAND)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for transport in Patient.opened:
                transport.abort()
            await asyncio.sleep(0)  # which is when they are closed

    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * MORE_THAN_A_THOUSAND)), hard))
    yield serving
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", ["rest", "openai", "langchain"])
def test_more_than_a_thousand_at_once(name: str, patient: Callable[[], Any]) -> None:
    """No question waits for another one's connection."""

    async def main() -> set[str]:
        async with patient() as host:
            try:
                backend = load(name)(Connection(host, "t"))
            except BackendNotInstalled as error:
                pytest.skip(str(error))
            said: Any = {"endpoint": ENDPOINT, "backend": backend, "timeout": 40, "retry": Retry(attempts=1)}
            try:
                answers = await asyncio.gather(*(aquery_chat("Hi", **said) for _ in range(MORE_THAN_A_THOUSAND)))
                return {answer.text for answer in answers}
            finally:
                await backend.aclose()

    assert asyncio.run(main()) == {"Hi."}


def test_surprise_the_openai_client_lets_a_thousand_go(patient: Callable[[], Any]) -> None:
    """By itself it has the next one wait for a connection until its time is over."""
    openai = pytest.importorskip("openai")
    timeout = openai.Timeout(60, pool=5)

    async def main() -> list[BaseException | None]:
        async with (
            patient() as host,
            openai.AsyncOpenAI(base_url=host, api_key="t", max_retries=0, timeout=timeout) as client,
        ):
            said: Any = {"model": ENDPOINT, "messages": [{"role": "user", "content": "Hi"}]}
            asking = [asyncio.create_task(client.chat.completions.create(**said)) for _ in range(MORE_THAN_A_THOUSAND)]
            done, going_on = await asyncio.wait(asking, return_when=asyncio.FIRST_EXCEPTION)
            for task in going_on:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            return [task.exception() for task in done]

    failed = asyncio.run(main())

    assert {type(error) for error in failed} == {openai.APITimeoutError}
    assert len(Patient.asked) <= 1_000


def test_threads_share_one_backend(backend: Backend) -> None:
    """Sixty-four threads that ask and stream through one backend get each its own answers."""
    answers: dict[str, str] = {}

    def ask(place: int) -> None:
        for turn in range(2):
            text = f"this is question number {turn} of thread {place}"
            said: Any = {"endpoint": ENDPOINT, "backend": backend, "timeout": 60}
            if turn and backend.streams():
                with query_chat(text, stream=True, **said) as stream:
                    answers[text] = stream.collect().text
            else:
                answers[text] = query_chat(text, **said).text

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 2 * THREADS
    assert {text: text for text in answers} == answers


@pytest.mark.parametrize("seconds", [1e10, sys.maxsize])
def test_a_deadline_may_be_as_far_as_one_likes(backend: Backend, seconds: float) -> None:
    """What no clock of a client's can count to is no limit."""
    said: Any = {"endpoint": ENDPOINT, "backend": backend, "timeout": seconds}

    assert query_chat("Hi", **said).text == "Hi"
    if backend.streams():
        assert query_chat("Hi", stream=True, **said).response.text == "Hi"


def test_memory_is_flat(backend: Backend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question leaves nothing behind, once what is kept for all of them is there: not one object each."""
    monkeypatch.setattr("isochat.local._sql.REMEMBERED", 3)  # it is not the endpoint that is looked at
    times = 20

    async def ask() -> int:
        for _ in range(times):
            await aquery_chat("Hi", endpoint=ENDPOINT, backend=backend, timeout=60)
            if backend.streams():
                await (await aquery_chat("Hi", endpoint=ENDPOINT, backend=backend, timeout=60, stream=True)).collect()
        local.reset()
        gc.collect()
        # The loop keeps the timers of deadlines that were not needed until half of all it has are such.
        timers = {"TimerHandle", "Context"}
        return sum(type(held).__name__ not in timers for held in gc.get_objects())

    async def main() -> list[int]:
        held = [await ask() for _ in range(4)]
        await backend.aclose()
        return held

    held = asyncio.run(main())

    assert held[3] - held[1] < times


# ── cancelled ────────────────────────────────────────────────────────────────────────────────────────────────────


class Cancelling:
    """Runs a coroutine as a task, and cancels it when it, or a task that it began, gives way for the nth time."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.times = 0
        self._task: asyncio.Task[Any] | None = None

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What it gives; None if it was cancelled."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine, **said: asyncio.Task(self._counted(coroutine), loop=loop, **said))
        try:
            self._task = loop.create_task(coroutine)
        finally:
            inner = self._task
        await asyncio.wait([inner])  # type: ignore[list-item,type-var]
        loop.set_task_factory(None)
        return None if inner.cancelled() else inner.result()  # type: ignore[union-attr]

    async def _counted(self, coroutine: Any) -> Any:
        return await self._stepped(coroutine)

    @types.coroutine
    def _stepped(self, coroutine: Any) -> Generator[Any, Any, Any]:
        try:
            waits_for = coroutine.send(None)
            while True:
                self.times += 1
                if self.times == self.at and self._task is not None:
                    self._task.cancel()
                try:
                    given = yield waits_for
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's to see
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(given)
        except StopIteration as done:
            return done.value


# LangChain makes coroutines for callbacks that it then has no time to wait for.
@pytest.mark.filterwarnings("ignore:coroutine '(AsyncCallbackManager|BaseChatModel).*was never awaited")
@pytest.mark.parametrize("backend", [*BUILT_IN, "rest by pyreqwest"], indirect=True)
@pytest.mark.parametrize("begun", ["cold", "warm"])
@pytest.mark.parametrize("stream", [False, True], ids=["question", "stream"])
def test_cancelled_anywhere(
    backend: Backend, local: LocalEndpoint, caplog: pytest.LogCaptureFixture, *, stream: bool, begun: str
) -> None:
    """Wherever a task is cancelled, nothing is said, the next question is answered, and no connection is left."""
    if stream and not backend.streams():
        pytest.skip("it does not stream")

    # pyreqwest asks in a thread of its own: it may be done before anything is waited for, and what is left goes on.
    beneath = getattr(backend, "transport", None) == "pyreqwest"

    async def ask() -> str:
        said: Any = {"endpoint": ENDPOINT, "backend": backend, "timeout": 30}
        if stream:
            return (await (await aquery_chat("one two", stream=True, **said)).collect()).text
        return (await aquery_chat("one two", **said)).text

    async def main() -> int:
        at = 0
        if begun == "warm":
            await ask()
        while True:
            at += 1
            cancelling = Cancelling(at)
            given = await cancelling.run(ask())
            assert given in {None, "one two"}
            assert await ask() == "one two"
            assert beneath or local.open_connections <= 2  # of what was asked just now, and of what is being closed
            if begun == "cold":
                await backend.aclose()
            if cancelling.times < at:
                break
        await backend.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return at

    assert asyncio.run(main()) > (0 if beneath else 1)
    gc.collect()
    # The endpoint's own server tells of clients that are gone.
    assert [] == [record.getMessage() for record in caplog.records if record.name != "aiohttp.server"]
    settles(lambda: local.open_connections == 0)


# ── left ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_abandoned_streams(backend: Backend, local: LocalEndpoint) -> None:
    """Fifty streams that are begun and forgotten leave no connection behind."""
    if not backend.streams():
        pytest.skip("it does not stream")
    for _ in range(50):
        next(query_chat("one two three four", endpoint=ENDPOINT, backend=backend, stream=True, timeout=30))
    gc.collect()
    settles(lambda: local.open_connections <= 1)

    assert query_chat("Hi", endpoint=ENDPOINT, backend=backend).text == "Hi"


LEAVES = """
import asyncio, sys, threading, time
from isochat import Connection, aquery_chat, query_chat
from isochat.backends import load
from isochat.backends.ai_query import AIQueryBackend

name, host, token = sys.argv[1:]
connection = Connection(host, token)
backend = AIQueryBackend(connection, warehouse_id="w") if name == "ai-query" else load(name)(connection)
said = {"endpoint": "databricks-gpt-5-1", "backend": backend, "timeout": 30}
kept = []

def read(stream):
    for chunk in stream:
        kept.append(chunk)

async def aread(stream):
    async for chunk in stream:
        kept.append(chunk)

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # -X dev would tell of a machine that is busy
    kept.append(asyncio.create_task(aquery_chat("Hi", **said)))
    if backend.streams():
        kept.extend([await aquery_chat("one two three", stream=True, **said) for _ in range(3)])
        await anext(kept[-1])
        kept.append(asyncio.create_task(aread(kept[-2])))
    await asyncio.sleep(0.1)

if backend.streams():
    kept.extend(query_chat("one two three", stream=True, **said) for _ in range(3))
    next(kept[0])
    threading.Thread(target=read, args=(kept[1],), daemon=True).start()
    cycle = [query_chat("one two three", stream=True, **said)]
    cycle.append(cycle)
    del cycle
asyncio.run(main())
threading.Thread(target=query_chat, args=("Hi",), kwargs=said, daemon=True).start()
time.sleep(0.1)
print("left")
"""


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_interpreter_exits_without_a_word(local: LocalEndpoint, name: str) -> None:
    """Whatever is open, being read or being asked when the program ends, it ends, and says nothing."""
    made(name, local).close()
    local.order(Fault(stall=30.0, after=8, times=None))
    # databricks-langchain cannot be imported where what is deprecated is an error.
    heard = ["-W", "error", *(["-W", "ignore::DeprecationWarning"] if name == "langchain" else [])]
    done = subprocess.run(
        [sys.executable, "-X", "dev", *heard, "-c", LEAVES, name, local.host, local.token],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (0, "left\n", "") == (done.returncode, done.stdout, done.stderr)
    settles(lambda: local.open_connections == 0)
