"""Whoever listens to a question hears of each thing that happens to it, once."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import (
    ChatError,
    ChatEvent,
    Connection,
    ConnectionFailed,
    InvalidRequest,
    RateLimited,
    Retry,
    StreamInterrupted,
    aquery_chat,
    query_chat,
)
from isochat.backends import BUILT_IN, load
from isochat.backends.rest import RestBackend
from isochat.errors import BackendNotInstalled
from isochat.local import Fault

if TYPE_CHECKING:
    from isochat.local import LocalEndpoint

LLAMA = "databricks-meta-llama-3-3-70b-instruct"
GPT = "databricks-gpt-5-1"
AT_ONCE = Retry(attempts=3, first_wait=0.0)


class Asking:
    """Asks in one of the four ways and keeps what it heard."""

    def __init__(self, local: LocalEndpoint, *, stream: bool, awaited: bool) -> None:
        self.backend: RestBackend = RestBackend(Connection(local.host, local.token))
        self.heard: list[ChatEvent] = []
        self.stream, self.awaited = stream, awaited

    def __call__(self, text: str = "one two", **said: Any) -> Any:
        given = {"endpoint": LLAMA, "backend": self.backend, "retry": AT_ONCE, "on_event": self.heard.append, **said}
        if self.awaited:
            return asyncio.run(self._awaited(text, given))
        if not self.stream:
            return query_chat(text, **given)
        with query_chat(text, stream=True, **given) as stream:
            return stream.collect()

    async def _awaited(self, text: str, given: dict[str, Any]) -> Any:
        try:
            if not self.stream:
                return await aquery_chat(text, **given)
            async with await aquery_chat(text, stream=True, **given) as stream:
                return await stream.collect()
        finally:
            await self.backend.aclose()

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.heard]


@pytest.fixture(params=["blocking", "asyncio", "stream", "async stream"])
def ask(local: LocalEndpoint, request: pytest.FixtureRequest) -> Asking:
    asking = Asking(local, stream="stream" in request.param, awaited="async" in request.param)
    request.addfinalizer(asking.backend.close)  # noqa: PT021 - what is given has no end of its own
    return asking


def test_an_answer(ask: Asking) -> None:
    """It is sent, it answers; a stream's first token is told apart."""
    answer = ask()

    assert ["attempt", *(["first_token"] if ask.stream else []), "done"] == ask.kinds
    done = ask.heard[-1]
    assert answer == done.response
    assert ("rest", LLAMA, 1, ask.stream) == (done.backend, done.endpoint, done.attempt, done.stream)
    assert [event.elapsed for event in ask.heard] == sorted(event.elapsed for event in ask.heard)


def test_an_answer_after_failures(ask: Asking, local: LocalEndpoint) -> None:
    """Each attempt and each wait is told, with what was wrong and how long it waits."""
    local.order(Fault(status=503), Fault(status=429, retry_after=0.05))
    ask()

    waits = [event for event in ask.heard if event.kind == "wait"]
    assert ["attempt", "wait", "attempt", "wait", "attempt"] == ask.kinds[:5]
    assert [0.0, 0.05] == [event.seconds for event in waits]
    assert ["ServiceUnavailable", "RateLimited"] == [type(event.error).__name__ for event in waits]
    assert [1, 2, 3] == [event.attempt for event in ask.heard if event.kind == "attempt"]
    assert ("done", 3) == (ask.heard[-1].kind, ask.heard[-1].attempt)


def test_no_answer(ask: Asking, local: LocalEndpoint) -> None:
    """What is raised is what is told."""
    local.order(Fault(status=429, times=None))
    with pytest.raises(RateLimited) as raised:
        ask()

    assert ["attempt", "wait", "attempt", "wait", "attempt", "failed"] == ask.kinds
    assert raised.value is ask.heard[-1].error


def test_a_broken_stream(local: LocalEndpoint) -> None:
    """It fails once, with what had arrived, however often it is asked for its answer."""
    ask = Asking(local, stream=True, awaited=False)
    local.order(Fault(cut_after=3))
    with query_chat(
        "one two three four", endpoint=LLAMA, backend=ask.backend, stream=True, on_event=ask.heard.append
    ) as stream:
        with pytest.raises(StreamInterrupted):
            stream.collect()
        with pytest.raises(StreamInterrupted):
            stream.collect()
    ask.backend.close()

    assert ["attempt", "first_token", "failed"] == ask.kinds
    assert ask.heard[-1].response == stream.partial


def test_a_stream_that_is_left(local: LocalEndpoint) -> None:
    """Leaving a stream is an end too, and no failure."""
    ask = Asking(local, stream=True, awaited=False)
    with query_chat("one two", endpoint=LLAMA, backend=ask.backend, stream=True, on_event=ask.heard.append) as stream:
        next(stream)
    stream.close()
    ask.backend.close()

    assert ("abandoned", None) == (ask.heard[-1].kind, ask.heard[-1].error)
    assert 1 == len([event for event in ask.heard if event.kind in ("done", "failed", "abandoned")])


@pytest.mark.parametrize("stream", [False, True])
def test_a_task_that_is_cancelled(local: LocalEndpoint, *, stream: bool) -> None:
    """A question whose task is cancelled is abandoned."""
    ask = Asking(local, stream=stream, awaited=True)
    local.order(Fault(stall=30.0))

    async def main() -> None:
        sent = asyncio.Event()

        def hear(event: ChatEvent) -> None:
            ask.heard.append(event)
            sent.set()

        said = {"endpoint": LLAMA, "backend": ask.backend, "on_event": hear}
        task = asyncio.ensure_future(ask._awaited("Hi", said))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert ["attempt", "abandoned"] == ask.kinds


def test_a_listener_that_fails_costs_no_answer(ask: Asking, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, with its traceback, and the question goes on."""
    with caplog.at_level(logging.WARNING, "isochat"):
        answer = ask(on_event=lambda event: 1 / 0)

    assert answer.text == "one two"
    assert {"on_event failed at 'attempt'", "on_event failed at 'done'"} <= set(caplog.messages)
    assert "ZeroDivisionError" in caplog.text


async def _awaited(event: ChatEvent) -> None:
    raise NotImplementedError


@pytest.mark.parametrize("wrong", [3, "print", _awaited])
def test_what_cannot_be_called_is_refused(ask: Asking, local: LocalEndpoint, wrong: Any) -> None:
    """A coroutine function would be called and never run."""
    with pytest.raises(InvalidRequest, match="on_event"):
        ask(on_event=wrong)

    assert local.received == []


def test_an_event_is_a_frozen_value(ask: Asking) -> None:
    """It can be kept and logged; the answer is in it, and not in its repr."""
    ask("a secret question")

    with pytest.raises(dataclasses.FrozenInstanceError):
        ask.heard[0].kind = "done"  # type: ignore[misc]
    assert not any("secret" in repr(event) for event in ask.heard)


# ── what went out ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=sorted(BUILT_IN))
def backend(request: pytest.FixtureRequest) -> Any:
    try:
        return load(request.param)
    except BackendNotInstalled as error:
        pytest.skip(str(error))


def _asked(backend: Any, how: str, **said: Any) -> ChatError:
    """The error that the question ends in."""
    if "stream" in how and not backend.streams():
        pytest.skip(f"{backend.name} does not stream")

    async def main() -> None:
        answer = await aquery_chat("Hi", endpoint=GPT, backend=backend, stream="stream" in how, **said)
        if "stream" in how:
            await answer.collect()

    with pytest.raises(ConnectionFailed) as failed:
        if "async" in how:
            asyncio.run(main())
        else:
            answer = query_chat("Hi", endpoint=GPT, backend=backend, stream="stream" in how, **said)
            if "stream" in how:
                answer.collect()
    backend.close()
    return failed.value


@pytest.mark.parametrize("how", ["blocking", "asyncio", "stream", "async stream"])
def test_a_question_that_went_out_is_not_sent_again(backend: Any, local: LocalEndpoint, how: str) -> None:
    """A connection that is reset after the question was read: it may have been answered, and is asked once."""
    if backend.name == "ai-query":
        pytest.skip("a warehouse stands between: test_a_statement_that_went_out_is_not_run_again")
    local.order(Fault(reset=True, times=None))
    error = _asked(backend(Connection(local.host, local.token)), how, retry=Retry(attempts=3, resend=False))

    assert [True] == [attempt.sent for attempt in error.attempts]
    assert error.sent is True
    assert 1 == len(local.questions)


@pytest.mark.parametrize("how", ["blocking", "asyncio", "stream", "async stream"])
def test_a_question_that_never_went_out_is_sent_again(backend: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused has taken nothing."""
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    nobody = Connection("http://127.0.0.1:1", "t")
    error = _asked(backend(nobody), how, retry=Retry(attempts=3, first_wait=0.0, resend=False))

    assert [False] * 3 == [attempt.sent for attempt in error.attempts]
