"""What every backend is, and what it gets for nothing.

A backend carries a question through one client. It must say how a request becomes what that client eats (`encode`),
how to send that (`send`), and how what comes back becomes an answer (`decode`); `encode` and `decode` do no I/O and
read no clock or environment. All else has a default, and retry, deadline and errors live outside, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from isochat import _wire
from isochat._connection import Connection
from isochat._request import OPTIONS
from isochat._retry import RetryBudget
from isochat.backends._http import http_error, transport_error, without_login
from isochat.backends._worker import Worker
from isochat.errors import ChatError, ConfigurationError, DeadlineExceeded, UnsupportedOption
from isochat.transports import finite
from isochat.transports.deadline import Hold, within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator

    from isochat._types import ChatChunk, ChatRequest, ChatResponse

EVERYTHING = frozenset(OPTIONS) | {"stream", "extra_body"}
_END = object()


class Backend(ABC):
    """One way of carrying a chat to a serving endpoint. An instance is a session: it holds client and connection.

    Three methods must be written: `encode`, `send` and `decode`; a backend that can stream writes `stream` and
    `decode_event` as well. It is made with a `Connection` as its only argument, may be used again after `close()`,
    keeps its client's own retries off, and reaches loopback without a proxy. `isochat.testing.conformance` holds it to
    all of that.
    """

    name: ClassVar[str]
    #: The options of a request that reach the endpoint; any other is refused before anything is sent.
    carries: ClassVar[frozenset[str]]
    #: The modules that it needs, looked for without importing them.
    requires: ClassVar[tuple[str, ...]] = ()
    #: The client and the route on the wire, in words, for the table of backends.
    drives: ClassVar[str] = ""
    route: ClassVar[str] = ""

    connection: Connection | None
    is_warm: bool = False  # whether `warm` has been called
    #: The endpoint that is asked where a question names none: of a client that is for one.
    endpoint: str | None = None

    def __init__(self, connection: Connection | None = None) -> None:
        """A session on a connection; without one, on whatever the environment and the files say."""
        if connection is not None and not isinstance(connection, Connection):
            raise ConfigurationError(f"connection must be a Connection, not {type(connection).__name__}")
        self.connection = Connection() if connection is None else connection

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
        """`send` for asyncio; by default in a thread of its own, which is cut off if the question is called off."""
        hold = self.hold()

        def work() -> Any:
            with self.bounded(timeout, hold):
                return self.send(call, timeout)

        worker = Worker(hold)
        try:
            return await worker.do(work)
        finally:
            await worker.end()

    def stream(self, call: Any, timeout: float) -> Generator[Any, None, None]:
        """Send it and give the events that come back, as they come."""
        raise NotImplementedError

    async def astream(self, call: Any, timeout: float) -> AsyncGenerator[Any, None]:
        """`stream` for asyncio; by default in a thread of its own, one event at a time."""
        hold, until = self.hold(), time.monotonic() + timeout
        events = self.stream(call, timeout)

        def pull() -> Any:
            return self.pull(events, until - time.monotonic(), _END, hold)

        worker = Worker(hold)
        try:
            while (event := await worker.do(pull)) is not _END:
                yield event
        finally:
            await worker.end(events.close)

    def decode_event(self, event: Any) -> ChatChunk | _wire.Done | None:
        """What an event of the stream adds. Pure. Raises the `ChatError` that it amounts to if it is a complaint."""
        raise NotImplementedError

    def classify(self, error: Exception) -> ChatError | None:
        """The `ChatError` that a client's exception amounts to; None if it is not about the question at all.

        What is not ours goes through untouched and is not tried again: "unknown, so try again" hides mistakes.
        """
        return http_error(error) or transport_error(error)

    def close(self) -> None:  # noqa: B027 - a backend that holds nothing has nothing to give back
        """Give back what the client holds. A closed backend may be used again; it begins anew."""

    async def aclose(self) -> None:
        """`close` for what belongs to the running loop as well."""
        self.close()

    def through(self, connection: Connection) -> Backend:
        """The same backend on another connection: `compare()` puts a recorder between client and service."""
        return type(self)(connection)

    # ── what the library calls ───────────────────────────────────────────────────────────────────────────────────

    def warm(self) -> None:
        """Import what takes long to import, where that does no harm: asyncio's callers run it in a worker thread."""
        for module in self.requires:
            import_module(module)

    @classmethod
    def streams(cls) -> bool:
        """Whether it can stream: derived, not declared."""
        return cls.stream is not Backend.stream or cls.astream is not Backend.astream

    @classmethod
    def render(cls, request: ChatRequest) -> dict[str, Any]:
        """The body that would be sent, to be looked at. Pure."""
        return _wire.request_to_json(request)

    @classmethod
    def check(cls, request: ChatRequest, carriers: Callable[[str], tuple[str, ...]] = lambda _: ()) -> None:
        """Refuse what this backend cannot carry, naming those that can."""
        for option in sorted(request.said - cls.carries):
            able = carriers(option)
            can = f"; {_listed(able)} can" if able else ""
            raise UnsupportedOption(
                f"the {cls.name!r} backend cannot carry {option}{can}", option=option, carried_by=able
            )

    def budget(self, endpoint: str) -> RetryBudget:
        """What all who ask this endpoint through this session may try again, together."""
        budgets: dict[str, RetryBudget] = self.__dict__.setdefault("_budgets", {})
        return budgets.get(endpoint) or budgets.setdefault(endpoint, RetryBudget())

    def renew(self) -> bool:
        """Forget a token that was refused; True if the next one may be another."""
        return self.connection is not None and self.connection.renew()

    def attempt(self, call: Any, timeout: float) -> Any:
        """`send`, with errors told in our words, in the thread that called the client."""
        with self.bounded(timeout):
            return self.send(call, timeout)

    async def aattempt(self, call: Any, timeout: float) -> Any:
        """`asend`, with errors told in our words."""
        async with self._abounded(timeout):
            return await self.asend(call, timeout)

    def pull(self, events: Iterator[Any], timeout: float, end: Any, hold: Hold | None = None) -> Any:
        """The next event, or `end`, with errors told in our words. Another thread may cut it off by its hold."""
        try:  # `bounded` by hand: at every chunk it would take as long as all else here
            with within(timeout, hold):
                return next(events, end)
        except Exception as error:
            self._tell(error)
            raise

    async def apull(self, events: AsyncIterator[Any], timeout: float, end: Any) -> Any:
        """`pull` for asyncio."""
        async with self._abounded(timeout):
            return await anext(events, end)

    def hold(self) -> Hold:
        """What another thread cuts off a stream by, while this one reads it. Clients that are known to us heed it."""
        return Hold()

    @contextlib.contextmanager
    def bounded(self, timeout: float, hold: Hold | None = None) -> Iterator[None]:
        """What a client does inside ends in `timeout` seconds, or when `hold` is cut; its exceptions become ours."""
        try:
            with within(timeout, hold):
                yield
        except Exception as error:
            self._tell(error)
            raise

    @contextlib.asynccontextmanager
    async def _abounded(self, timeout: float) -> AsyncIterator[None]:
        """`bounded` for asyncio."""
        try:
            async with asyncio.timeout(finite(timeout)) as limit:
                yield
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():  # not one that a client raises for its own reasons
                raise DeadlineExceeded("no answer in time", timeout=timeout) from error
            self._tell(error)
            raise

    def _tell(self, error: Exception) -> None:
        """Raise what a client's exception amounts to; nothing if it is ours already, or none of ours at all."""
        without_login(error)
        if not isinstance(error, ChatError) and (ours := self.classify(error)) is not None:
            raise ours from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.connection!r})"


def _listed(names: tuple[str, ...]) -> str:
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
