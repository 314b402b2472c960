"""The `rest` backend: no client at all, only HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from isochat import _wire
from isochat._version import __version__
from isochat.backends._base import EVERYTHING, Backend
from isochat.backends._http import aevents, directly, events, finite, lowered, timeouts
from isochat.backends._sessions import PerLoop, PerProcess
from isochat.transports.deadline import close_at_exit, keep_deadlines
from isochat.transports.trust import trusted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from isochat._connection import Connection
    from isochat._types import ChatChunk, ChatRequest, ChatResponse

_HEADERS = {"Content-Type": "application/json", "User-Agent": f"isochat/{__version__}"}


@dataclass(frozen=True, slots=True)
class _Post:
    path: str
    accept: str
    body: bytes


class RestBackend(Backend):
    """Raw REST, to `/serving-endpoints/{name}/invocations`."""

    name: ClassVar[str] = "rest"
    carries: ClassVar[frozenset[str]] = EVERYTHING
    requires: ClassVar[tuple[str, ...]] = ("httpx2",)
    drives: ClassVar[str] = "none: plain HTTP"
    route: ClassVar[str] = "/serving-endpoints/{name}/invocations"

    connection: Connection

    def __init__(self, connection: Connection | None = None) -> None:
        super().__init__(connection)
        self._http = PerProcess(lambda: _client(self.connection.host), lambda client: client.close())
        self._async_http = PerLoop(lambda: _async_client(self.connection.host), lambda client: client.aclose())

    def encode(self, request: ChatRequest) -> _Post:
        """A path, and a body of JSON."""
        return _Post(
            path=f"/serving-endpoints/{quote(request.endpoint, safe='')}/invocations",
            accept="text/event-stream" if request.stream else "application/json",
            body=_wire.to_bytes(_wire.request_to_json(request)),
        )

    def send(self, call: _Post, timeout: float) -> _wire.Reply:
        """POST it."""
        headers = self.connection.headers(timeout=finite(timeout))
        return _reply(self._http.get().post(**self._request(call, headers, timeout)))

    async def asend(self, call: _Post, timeout: float) -> _wire.Reply:
        """POST it, awaited."""
        headers = await self.connection.aheaders(timeout=finite(timeout))
        client = await self._async_http.get()
        return _reply(await client.post(**self._request(call, headers, timeout)))

    def stream(self, call: _Post, timeout: float) -> Generator[Any, None, None]:
        """POST it and give the events as they come."""
        headers = self.connection.headers(timeout=finite(timeout))
        with self._http.get().stream("POST", **self._request(call, headers, timeout)) as response:
            yield from events(response, response.iter_bytes())

    async def astream(self, call: _Post, timeout: float) -> AsyncGenerator[Any, None]:
        """POST it and give the events as they come, awaited."""
        headers = await self.connection.aheaders(timeout=finite(timeout))
        client = await self._async_http.get()
        async with client.stream("POST", **self._request(call, headers, timeout)) as response:
            async for event in aevents(response, response.aiter_bytes()):
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

    def _request(self, call: _Post, headers: dict[str, str], timeout: float) -> dict[str, Any]:
        return {
            "url": self.connection.host + call.path,
            "content": call.body,
            "headers": {**_HEADERS, "Accept": call.accept, **headers},
            "timeout": timeouts(timeout),
        }


def _client(host: str) -> Any:
    import httpx2

    return close_at_exit(keep_deadlines(httpx2.Client(**_options(httpx2, host))))


def _async_client(host: str) -> Any:
    import httpx2

    return httpx2.AsyncClient(**_options(httpx2, host))


def _options(httpx2: Any, host: str) -> dict[str, Any]:
    # Redirects stay unfollowed: a token goes to its own host only. A pool without an upper bound: how many questions
    # are asked at once is the caller's to say, and a question that waits for a connection uses up its own deadline.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    return {"follow_redirects": False, "limits": limits, "mounts": directly(host), "verify": trusted()}


def _reply(response: Any) -> _wire.Reply:
    return _wire.Reply(response.status_code, lowered(response.headers), response.content)
