"""What every backend is, and what it gets for nothing.

A backend carries a question through one client. It must say how a request becomes what that client eats (`encode`),
how to send that (`send`), and how what comes back becomes an answer (`decode`); `encode` and `decode` do no I/O and
read no clock or environment. All else has a default, and retry, deadline and errors live outside, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from isochat import _refusal, _wire
from isochat._request import OPTIONS
from isochat.errors import ChatError, ConnectionFailed, DeadlineExceeded, MalformedReply, UnsupportedOption
from isochat.transports.deadline import within

if TYPE_CHECKING:
    from isochat._connection import Connection
    from isochat._types import ChatChunk, ChatRequest, ChatResponse

EVERYTHING = frozenset(OPTIONS) | {"stream", "extra_body"}
_END = object()
C = TypeVar("C")


class Backend(ABC):
    """One way of carrying a chat to a serving endpoint. An instance is a session: it holds client and connection."""

    name: ClassVar[str]
    #: The options of a request that reach the endpoint; any other is refused before anything is sent.
    carries: ClassVar[frozenset[str]]
    #: The modules that it needs, looked for without importing them.
    requires: ClassVar[tuple[str, ...]] = ()
    #: The client and the route on the wire, in words, for the table of backends.
    client: ClassVar[str] = ""
    route: ClassVar[str] = ""

    connection: Connection

    @abstractmethod
    def encode(self, request: ChatRequest) -> Any:
        """The request as the client eats it. Pure."""

    @abstractmethod
    def send(self, call: Any, timeout: float) -> Any:
        """Send it through the client, within `timeout` seconds (which may be infinite), and give what comes back."""

    @abstractmethod
    def decode(self, reply: Any) -> ChatResponse:
        """The answer in what came back. Pure. Raises the `ChatError` that it amounts to if it is none."""

    async def asend(self, call: Any, timeout: float) -> Any:
        """`send` for asyncio; by default in a worker thread."""
        return await asyncio.to_thread(self.attempt, call, timeout)

    def stream(self, call: Any, timeout: float) -> Generator[Any, None, None]:
        """Send it and give the events that come back, as they come."""
        raise NotImplementedError

    async def astream(self, call: Any, timeout: float) -> AsyncGenerator[Any, None]:
        """`stream` for asyncio; by default in worker threads, one event at a time."""
        events = self.stream(call, timeout)
        try:
            while (event := await asyncio.to_thread(self.pull, events, timeout, _END)) is not _END:
                yield event
        finally:
            await asyncio.to_thread(events.close)

    def decode_event(self, event: Any) -> ChatChunk | _wire.Done | None:
        """What an event of the stream adds. Pure. Raises the `ChatError` that it amounts to if it is a complaint."""
        raise NotImplementedError

    def classify(self, error: Exception) -> ChatError | None:
        """The `ChatError` that a client's exception amounts to; None if it is not about the question at all.

        What is not ours goes through untouched and is not tried again: "unknown, so try again" hides mistakes.
        """
        return transport_error(error)

    def close(self) -> None:
        """Give back what the client holds. A closed backend may be used again; it begins anew."""

    async def aclose(self) -> None:
        """`close` for what belongs to the running loop as well."""
        self.close()

    # ── what the library calls ───────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def streams(cls) -> bool:
        """Whether it can stream: derived, not declared."""
        return cls.stream is not Backend.stream or cls.astream is not Backend.astream

    @classmethod
    def check(cls, request: ChatRequest, carriers: Callable[[str], tuple[str, ...]] = lambda _: ()) -> None:
        """Refuse what this backend cannot carry, naming those that can."""
        for option in sorted(request.said - cls.carries):
            able = carriers(option)
            can = f"; {_listed(able)} can" if able else ""
            message = f"the {cls.name!r} backend cannot carry {option}{can}"
            raise UnsupportedOption(message, option=option, carried_by=able)

    def renew(self) -> bool:
        """Forget a token that was refused; True if the next one may be another."""
        return self.connection.renew()

    def attempt(self, call: Any, timeout: float) -> Any:
        """`send`, with errors told in our words, in the thread that called the client."""
        with self.classified(timeout), within(timeout):
            return self.send(call, timeout)

    async def aattempt(self, call: Any, timeout: float) -> Any:
        """`asend`, with errors told in our words."""
        with self.classified(timeout):
            async with _in_time(timeout):
                return await self.asend(call, timeout)

    def pull(self, events: Iterator[Any], timeout: float, end: Any) -> Any:
        """The next event, or `end`, with errors told in our words."""
        with self.classified(timeout), within(timeout):
            return next(events, end)

    async def apull(self, events: AsyncIterator[Any], timeout: float, end: Any) -> Any:
        """`pull` for asyncio."""
        with self.classified(timeout):
            async with _in_time(timeout):
                return await anext(events, end)

    @contextlib.contextmanager
    def classified(self, timeout: float) -> Iterator[None]:
        """Turn a client's exceptions into ours."""
        try:
            yield
        except ChatError:
            raise
        except _TooLate as error:
            message = f"no answer within {timeout:.3g} s"
            raise DeadlineExceeded(message, timeout=timeout) from error
        except Exception as error:
            ours = self.classify(error)
            if ours is None:
                raise
            raise ours from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.connection!r})"


class _TooLate(Exception):  # noqa: N818 - it never leaves this module
    """Our own deadline is over: told apart from a `TimeoutError` that a client raises for reasons of its own."""


@contextlib.asynccontextmanager
async def _in_time(timeout: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout if timeout < threading.TIMEOUT_MAX else None) as limit:
            yield
    except TimeoutError as error:
        if limit.expired():
            raise _TooLate from error
        raise


def finite(timeout: float) -> float | None:
    """A timeout as clients take it: None where there is none."""
    return timeout if timeout < threading.TIMEOUT_MAX else None


def _listed(names: tuple[str, ...]) -> str:
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


# ── the errors of the HTTP clients that most others stand on ─────────────────────────────────────────────────────


def transport_error(error: BaseException) -> ChatError | None:
    """What an exception of httpx or httpx2 amounts to, or of a client that wraps one; None if it is neither.

    Told by name along the chain of causes, so that neither library need be imported.
    """
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return None
        names = {c.__name__ for c in type(seen).__mro__ if c.__module__.split(".")[0] in _HTTP}
        if names:
            return _named(names, seen)
        seen = seen.__cause__
    return None


_HTTP = frozenset({"httpx", "httpx2", "httpcore", "httpcore2"})


def _named(names: set[str], error: BaseException) -> ChatError | None:
    detail = _detail(error)
    if "ConnectTimeout" in names:
        return ConnectionFailed(f"no connection could be made in time{detail}")
    if "PoolTimeout" in names:
        return DeadlineExceeded("every connection was busy until the time was over: nothing was sent")
    if "TimeoutException" in names:
        return DeadlineExceeded("the service did not answer in time")
    if "DecodingError" in names:
        return MalformedReply(f"the answer could not be unpacked{detail}")
    if "ConnectError" in names:
        failed = ConnectionFailed(f"no connection could be made{detail}")
        if "CERTIFICATE_VERIFY_FAILED" in detail:
            failed.transient = False
            failed.hint = "The host's certificate is not trusted here; SSL_CERT_FILE names other authorities to trust."
        return failed
    if names & {"NetworkError", "RemoteProtocolError", "ProxyError"}:
        return ConnectionFailed(f"the connection broke before the answer was there{detail}")
    return None


def _detail(error: BaseException) -> str:
    said = str(error).strip()
    return f": {said}" if said else ""


def http_error(error: Exception) -> ChatError | None:
    """What the exception of a client that keeps the HTTP response on it amounts to."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):
        return None
    headers = {name.lower(): value for name, value in response.headers.items()}  # type: ignore[union-attr]
    try:
        body = response.content  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001 - a body that was never read, or broke on the way: the status still says no
        body = b""
    return _refusal.service_error(status, headers, body)


# ── one async client per loop ────────────────────────────────────────────────────────────────────────────────────


class PerLoop(Generic[C]):
    """One async client for each running event loop, closed with its loop.

    An async client belongs to the loop it was first used on: used on a second one, httpx says "Event loop is closed"
    and openai 3 a bare RuntimeError. A forked child begins anew.
    """

    def __init__(self, make: Callable[[], C], close: Callable[[C], Any]) -> None:
        self._make, self._close = make, close
        self._held: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[C, Any]] = weakref.WeakKeyDictionary()
        self._process = os.getpid()
        self._lock = threading.Lock()

    async def get(self) -> C:
        """The running loop's client."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._process != os.getpid():
                self._held = weakref.WeakKeyDictionary()
                self._process = os.getpid()
            held = self._held.get(loop)
        if held is not None:
            return held[0]
        client = self._make()
        # asyncio.run() closes the loop's asynchronous generators at its end, and with this one the client: nothing
        # else tells a library that its loop is about to go, and a connection left behind would be reported.
        guard = self._guard(client)
        await anext(guard)
        with self._lock:
            self._held[loop] = (client, guard)
        return client

    async def _guard(self, client: C) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._close(client)

    async def aclose(self) -> None:
        """Close the running loop's client."""
        with self._lock:
            held = self._held.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held[1].aclose()


class PerProcess(Generic[C]):
    """One blocking client, made when it is first needed, and made anew in a forked child."""

    def __init__(self, make: Callable[[], C], close: Callable[[C], Any]) -> None:
        self._make, self._close = make, close
        self._held: C | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._inherited: list[C] = []

    def get(self) -> C:
        """This process's client."""
        if self._process != os.getpid():
            self._begin_anew()
        if (held := self._held) is not None:
            return held
        with self._lock:
            if self._held is None:
                self._held = self._make()
            return self._held

    def _begin_anew(self) -> None:
        """This is a forked child. The parent may have held the lock; its client's sockets are the parent's too."""
        if self._held is not None:
            self._inherited.append(self._held)  # kept, so that nothing is said on them here
        self._held, self._process, self._lock = None, os.getpid(), threading.Lock()

    def close(self) -> None:
        """Close this process's client."""
        held, self._held = self._held, None
        if held is not None and self._process == os.getpid():
            self._close(held)
