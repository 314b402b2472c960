"""The `rest` backend: no client at all, only HTTP."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, cast
from urllib.parse import quote, urlsplit

from isochat import _config, _wire
from isochat._version import __version__
from isochat.backends._base import EVERYTHING, Backend
from isochat.backends._http import aevents, events
from isochat.backends._sessions import PerLoop, PerProcess
from isochat.errors import BackendNotInstalled
from isochat.transports import finite, trust

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from typing import Self

    from isochat._connection import Connection
    from isochat._types import ChatChunk, ChatRequest, ChatResponse
    from isochat.transports import AsyncTransport, Transport

TransportName: TypeAlias = Literal["httpx2", "pyreqwest"]
_HEADERS = {"Content-Type": "application/json", "User-Agent": f"isochat/{__version__}"}


@dataclass(frozen=True, slots=True)
class _Post:
    path: str
    accept: str
    body: bytes


class RestBackend(Backend):
    """Raw REST, to `/serving-endpoints/{name}/invocations`.

    `transport` is what the bytes travel by; without one, the setting of that name: `httpx2`, or `pyreqwest`
    (`pip install 'isochat[fast]'`), which takes less and cannot do all (docs/backends.md). httpx2 takes pyreqwest's
    place where the environment names a proxy for the host or authorities to trust, and in a child of a process that
    used pyreqwest before the fork.
    """

    name: ClassVar[str] = "rest"
    carries: ClassVar[frozenset[str]] = EVERYTHING
    requires: ClassVar[tuple[str, ...]] = ("httpx2",)
    drives: ClassVar[str] = "none: plain HTTP"
    route: ClassVar[str] = "/serving-endpoints/{name}/invocations"

    connection: Connection

    def __init__(self, connection: Connection | None = None, *, transport: TransportName | None = None) -> None:
        super().__init__(connection)
        self.transport = cast("TransportName", _config.settings({"transport": transport}).get("transport"))
        if self.transport == "pyreqwest" and not _has_pyreqwest():
            raise BackendNotInstalled("pyreqwest is not installed", install="pip install 'isochat[fast]'")
        self._http: PerProcess[Transport] = PerProcess(self._blocking, lambda client: client.close())
        self._async_http: PerLoop[AsyncTransport] = PerLoop(self._awaited, lambda client: client.aclose())

    def encode(self, request: ChatRequest) -> _Post:
        """A path, and a body of JSON."""
        return _Post(
            path=f"/serving-endpoints/{quote(request.endpoint, safe='')}/invocations",
            accept="text/event-stream" if request.stream else "application/json",
            body=_wire.to_bytes(_wire.request_to_json(request)),
        )

    def send(self, call: _Post, timeout: float) -> _wire.Reply:
        """POST it."""
        headers = self._headers(call, self.connection.headers(timeout=finite(timeout)))
        return self._http.get().post(self.connection.host + call.path, headers, call.body, timeout)

    async def asend(self, call: _Post, timeout: float) -> _wire.Reply:
        """POST it, awaited."""
        headers = self._headers(call, await self.connection.aheaders(timeout=finite(timeout)))
        client = await self._async_http.get()
        return await client.post(self.connection.host + call.path, headers, call.body, timeout)

    def stream(self, call: _Post, timeout: float) -> Generator[Any, None, None]:
        """POST it and give the events as they come."""
        headers = self._headers(call, self.connection.headers(timeout=finite(timeout)))
        with self._http.get().stream(self.connection.host + call.path, headers, call.body, timeout) as streamed:
            yield from events(streamed, streamed.reads)

    async def astream(self, call: _Post, timeout: float) -> AsyncGenerator[Any, None]:
        """POST it and give the events as they come, awaited."""
        headers = self._headers(call, await self.connection.aheaders(timeout=finite(timeout)))
        client = await self._async_http.get()
        async with client.stream(self.connection.host + call.path, headers, call.body, timeout) as streamed:
            async for event in aevents(streamed, streamed.reads):
                yield event

    def decode(self, reply: _wire.Reply) -> ChatResponse:
        """Read the reply."""
        return _wire.decode_reply(reply)

    def decode_event(self, event: Any) -> ChatChunk | _wire.Done | None:
        """Read the event."""
        return _wire.decode_event(event)

    def close(self) -> None:
        """Close the connections of the blocking client."""
        self._http.close()

    async def aclose(self) -> None:
        """Close the connections of both clients."""
        self.close()
        await self._async_http.aclose()

    def through(self, connection: Connection) -> Self:
        """The same on another connection, sending with the same."""
        other = type(self)(connection)
        other.transport = self.transport
        return other

    def warm(self) -> None:
        """Import what takes long to import."""
        import_module(f"isochat.transports.{self._carrier()}")

    def _headers(self, call: _Post, login: dict[str, str]) -> dict[str, str]:
        return {**_HEADERS, "Accept": call.accept, **login}

    def _carrier(self) -> str:
        """What carries the questions here."""
        return "httpx2" if _environment_decides(self.connection.host) else self.transport

    def _blocking(self) -> Transport:
        if self._carrier() == "pyreqwest":
            from isochat.transports.pyreqwest import Pyreqwest

            with contextlib.suppress(RuntimeError):  # a forked child
                return Pyreqwest()
        from isochat.transports.httpx2 import Httpx2

        return Httpx2(self.connection.host)

    def _awaited(self) -> AsyncTransport:
        if self._carrier() == "pyreqwest":
            from isochat.transports.pyreqwest import AsyncPyreqwest

            with contextlib.suppress(RuntimeError):  # as above
                return AsyncPyreqwest()
        from isochat.transports.httpx2 import AsyncHttpx2

        return AsyncHttpx2(self.connection.host)


@functools.cache
def _has_pyreqwest() -> bool:
    return find_spec("pyreqwest") is not None


def _environment_decides(host: str) -> bool:
    """Whether the environment, or the system, says by which way such a host is reached, or who vouches for it.

    httpx2 reads that as every other client does. Which hosts go without a proxy, it knows as well.
    """
    from urllib.request import getproxies

    parts = urlsplit(host)
    named = parts.scheme == "https" and any(os.environ.get(variable) for variable in trust.HTTPX)
    proxied = not _config.is_this_machine(parts.hostname) and not {parts.scheme, "all"}.isdisjoint(getproxies())
    return named or proxied
