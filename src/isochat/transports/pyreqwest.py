"""Questions through pyreqwest, which is reqwest, which is written in Rust. What version 0.15 cannot do:

* Awaited, a question that is cancelled while it waits for the beginning of its answer is left at once, and goes on
  beneath: its connection is closed when the answer is there, or when the question's time is over.
* Awaited, it may swallow a cancellation that comes as what it waits for is there. So each wait is asked whether it was
  cancelled.
* Blocking, it is deaf while it waits. No signal handler of Python's runs, so that Ctrl-C is heard when the answer is
  there or the time is over; and a read that is under way can be neither shortened nor cut off by another thread.
* Its thread may hold a reference to what it has just told an event loop, and a process that ends at that moment may be
  aborted ("Fatal Python error: PyGILState_Release"). So one that used it pauses before it ends, in which the thread
  lets go.
* Its threads do not survive a fork. It says so with a `RuntimeError` where a client is made in a child.
* It reads proxies and authorities from the environment by rules of its own. So it is not used where any are named.

So it is used where it is chosen by name, and only there.

`tests/backends/test_transports.py` holds each of these as a surprise, which fails when it is none any more.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pyreqwest.client import ClientBuilder, SyncClientBuilder
from pyreqwest.exceptions import PyreqwestError, RequestTimeoutError

from isochat._wire import Reply
from isochat.transports import CONNECT, POOL, Streamed, broken, finite, late, packed, unconnected, untrusted
from isochat.transports.deadline import sooner, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping
    from typing import Self

    from isochat.errors import ChatError

_PAUSE = 0.02
_SAME = 0.01  # seconds between two deadlines that are one


class Pyreqwest:
    """A blocking client. Raises `RuntimeError` in a child of a process that had one."""

    def __init__(self) -> None:
        self._client: Any = _told(SyncClientBuilder()).build()

    def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Reply:
        """POST it and wait for all of the answer."""
        try:
            response = _request(self._client, url, headers, body, timeout).build().send()
            return Reply(response.status, _lowered(response), response.bytes().to_bytes())
        except PyreqwestError as error:
            raise _failed(error) from error

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Iterator[Streamed]:
        """POST it and give the answer's body as it comes."""
        request = _request(self._client, url, headers, body, timeout)
        opened = request.streamed_read_buffer_limit(0).build_streamed()
        try:
            with opened as response:
                yield Streamed(response.status, _lowered(response), _reads(response.body_reader))
        except PyreqwestError as error:
            raise _failed(error) from error

    def close(self) -> None:
        """Close its connections."""
        self._client.close()
        self._client = None  # idle ones are open until nothing holds it


class AsyncPyreqwest:
    """A client for asyncio. Raises `RuntimeError` like the other."""

    def __init__(self) -> None:
        self._client: Any = _told(ClientBuilder()).build()
        _let_go_at_exit()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Reply:
        """POST it and wait for all of the answer."""
        try:
            response = await _heard(_request(self._client, url, headers, body, timeout).build().send())
            return Reply(response.status, _lowered(response), (await _heard(response.bytes())).to_bytes())
        except PyreqwestError as error:
            raise _failed(error) from error

    def stream(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> _Coming:
        """POST it and give the answer's body as it comes."""
        request = _request(self._client, url, headers, body, timeout)
        return _Coming(request.streamed_read_buffer_limit(0).build_streamed())

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()
        self._client = None  # as above


async def _heard(waiting: Awaitable[Any]) -> Any:
    """What it gives, unless the task was cancelled meanwhile."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    given = await waiting
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return given


@functools.cache
def _let_go_at_exit() -> None:
    atexit.register(time.sleep, _PAUSE)


def _told(builder: Any) -> Any:
    """What both kinds of client are told."""
    return (
        builder.no_proxy()  # behind one the questions are httpx2's
        .follow_redirects(False)  # a token goes to its own host only
        .referer(False)
        .http1_only()  # as the other does
        .connect_timeout(timedelta(seconds=CONNECT))
        .pool_max_idle_per_host(POOL)
        .http1_allow_obsolete_multiline_headers_in_responses(True)  # as the other does
    )


def _request(client: Any, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Any:
    if client is None:
        raise RuntimeError("the session was closed while it was asked")  # as httpx2 has it
    request = client.post(url).headers(headers).body_bytes(body)
    left = sooner(finite(timeout))
    return request if left is None else request.timeout(timedelta(seconds=left))


def _reads(reader: Any) -> Iterator[bytes]:
    """What comes, each within the time that the question had when it was sent."""
    over = until()
    try:
        while True:
            # Where less is allowed, as for what comes after `[DONE]`, nothing is read. Of a reply that is left, hyper
            # reads what is there already, and uses the connection again if that was all.
            if until() < over - _SAME:
                raise late()
            if (read := reader.read_chunk()) is None:
                return
            yield read.to_bytes()
    except PyreqwestError as error:
        raise _failed(error) from error


class _Coming:
    """A streamed reply, opened and left by `async with`, and its body.

    No generators: asyncio closes every one of a loop's at its end, all at once, and those within each other trip.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._reader: Any = None

    async def __aenter__(self) -> Streamed:
        try:
            response = await _heard(self._request.__aenter__())
        except PyreqwestError as error:
            raise _failed(error) from error
        except asyncio.CancelledError:
            with suppress(Exception):  # whether it has begun is not known
                await self._request.__aexit__(None, None, None)
            raise
        self._reader = response.body_reader
        return Streamed(response.status, _lowered(response), self)

    async def __aexit__(self, *why: object) -> None:
        await self._request.__aexit__(*why)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            read = await _heard(self._reader.read_chunk())
        except PyreqwestError as error:
            raise _failed(error) from error
        if read is None:
            raise StopAsyncIteration
        return read.to_bytes()  # type: ignore[no-any-return]


def _lowered(response: Any) -> dict[str, str]:
    """The headers, already in lower case; one that says what is no text is left out, for it can say nothing here."""
    fields: dict[str, str] = {}
    headers = response.headers
    for name in headers:
        try:
            fields[name] = ", ".join(headers.getall(name))
        except ValueError:
            continue
    return fields


def _failed(error: PyreqwestError) -> ChatError:
    """What an exception of pyreqwest 0.15 amounts to.

    Its class does not say how far it came (a server that does not answer is a `ConnectTimeoutError`, one that resets
    the connection a `ConnectError`); the causes do, in reqwest's and hyper's words.
    """
    details = getattr(error, "details", None) or {}
    causes = [cause["message"] for cause in details.get("causes") or ()]
    said = causes[-1] if causes else error.message
    if "client error (Connect)" in causes:
        if "certificate" in said:
            return untrusted(said)
        return unconnected(said, late=isinstance(error, RequestTimeoutError))
    if isinstance(error, RequestTimeoutError):
        slow = late()
        if len(causes) == 2:  # it was being sent, or was waited for, or there was no connection yet: it does not say
            slow.sent = None
        return slow
    if causes[:1] in _UNPACKING and not _ON_THE_WAY & set(causes):
        return packed(said)
    return broken(said)


_UNPACKING = (["error decoding response body"], ["request or response body error"])  # read whole, or streamed
_ON_THE_WAY = frozenset({"client error (SendRequest)", "error reading a body from connection"})
