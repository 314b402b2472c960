"""What the clients that speak HTTP have in common: replies, events, timeouts, and the ways they fail."""

from __future__ import annotations

import re
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

from isochat import _refusal, _wire
from isochat.errors import ChatError, ConnectionFailed, DeadlineExceeded
from isochat.transports import broken, late, lowered, packed, unconnected, untrusted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator


def events(response: Any, reads: Iterator[bytes]) -> Generator[Any, None, None]:
    """The events of a streamed response, as they come."""
    incoming = _wire.Incoming(response.status_code, lowered(response.headers))
    yield incoming.head
    for read in reads:
        yield from incoming.feed(read)
    yield from incoming.close()


async def aevents(response: Any, reads: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    """`events`, awaited."""
    incoming = _wire.Incoming(response.status_code, lowered(response.headers))
    yield incoming.head
    async for read in reads:
        for event in incoming.feed(read):
            yield event
    for last in incoming.close():
        yield last


def transport_error(error: BaseException) -> ChatError | None:
    """What an exception of httpx, httpx2 or a socket amounts to, or of a client that wraps one; None if it is neither.

    Told by name along the chain of causes, so that neither library need be imported.
    """
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return None
        names = {c.__name__ for c in type(seen).__mro__ if c.__module__.split(".")[0] in _HTTP}
        if names:
            return _named(names, seen)
        if isinstance(seen, TimeoutError):
            return DeadlineExceeded("the service did not answer in time")
        if isinstance(seen, ConnectionError | ssl.SSLError | socket.gaierror):
            unsent = isinstance(seen, ConnectionRefusedError | socket.gaierror)
            return ConnectionFailed(f"the connection failed{_detail(seen)}", sent=False if unsent else None)
        seen = seen.__cause__
    return None


_HTTP = frozenset({"httpx", "httpx2", "httpcore", "httpcore2"})


def _named(names: set[str], error: BaseException) -> ChatError | None:
    detail = str(error).strip()
    if "ConnectTimeout" in names:
        return unconnected(detail, late=True)
    if "PoolTimeout" in names:
        return DeadlineExceeded("every connection was busy until the time was over: nothing was sent", sent=False)
    if "TimeoutException" in names:
        return late()
    if "DecodingError" in names:
        return packed(detail)
    if "ConnectError" in names:
        return (untrusted if "CERTIFICATE_VERIFY_FAILED" in detail else unconnected)(detail)
    if names & {"NetworkError", "RemoteProtocolError", "ProxyError"}:
        return broken(detail, sent="ProxyError" not in names)
    return None


def _detail(error: BaseException) -> str:
    said = str(error).strip()
    return f": {said}" if said else ""


LOGIN = re.compile("authorization|cookie|secret|token|api-?key", re.IGNORECASE)
"""What the name of a header has in it that says who asks."""


def without_login(error: BaseException) -> None:
    """Take out of an exception, and of all that led to it, the headers that say who asked.

    The exceptions of httpx, requests and openai keep the request, and with it the token, for whoever pickles them or
    looks. The request is over: nobody needs its login any more.
    """
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        todo += [link.__cause__, link.__context__]
        response = getattr(link, "response", None)
        for holder in (link, response):
            headers = _headers(holder)
            for name in [str(name) for name in headers if LOGIN.search(str(name))]:
                headers[name] = "***"
        if getattr(response, "is_closed", False):
            # httpx keeps what the body came out of, and with it httpcore's own copy of the request.
            package = sys.modules.get(type(response).__module__.partition(".")[0])
            if hasattr(package, "ByteStream"):
                response.stream = package.ByteStream(b"")  # type: ignore[union-attr]


def _headers(holder: Any) -> Any:
    """The headers of the request that an exception or a response keeps."""
    try:
        return holder.request.headers
    except Exception:  # noqa: BLE001 - httpx raises where there is none, and others have no such thing
        return {}


def http_error(error: Exception) -> ChatError | None:
    """What the exception of a client that keeps the HTTP response on it amounts to."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):
        return None
    try:
        body = response.content  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001 - a body that was never read, or broke on the way: the status still says no
        body = b""
    return _refusal.service_error(status, lowered(response.headers), body)  # type: ignore[union-attr]
