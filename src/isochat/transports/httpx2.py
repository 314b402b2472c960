"""Questions through httpx2, blocking and awaited: whatever proxy the environment names, it finds the way."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from isochat._wire import Reply
from isochat.transports import POOL, Streamed, directly, lowered, timeouts
from isochat.transports.deadline import close_at_exit, keep_deadlines
from isochat.transports.trust import trusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping


class Httpx2:
    """A blocking client."""

    def __init__(self, host: str) -> None:
        self._client = close_at_exit(keep_deadlines(httpx2.Client(**_options(host))))

    def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Reply:
        """POST it and wait for all of the answer."""
        return _reply(self._client.post(url, content=body, headers=headers, timeout=timeouts(timeout)))

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Iterator[Streamed]:
        """POST it and give the answer's body as it comes."""
        said: dict[str, Any] = {"content": body, "headers": headers, "timeout": timeouts(timeout)}
        with self._client.stream("POST", url, **said) as response:
            yield Streamed(response.status_code, response.headers, response.iter_bytes())

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


class AsyncHttpx2:
    """A client for asyncio."""

    def __init__(self, host: str) -> None:
        self._client: Any = httpx2.AsyncClient(**_options(host))

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Reply:
        """POST it and wait for all of the answer."""
        return _reply(await self._client.post(url, content=body, headers=headers, timeout=timeouts(timeout)))

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> AsyncIterator[Streamed]:
        """POST it and give the answer's body as it comes."""
        said: dict[str, Any] = {"content": body, "headers": headers, "timeout": timeouts(timeout)}
        async with self._client.stream("POST", url, **said) as response:
            yield Streamed(response.status_code, response.headers, response.aiter_bytes())

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()


def _options(host: str) -> dict[str, Any]:
    # Redirects stay unfollowed: a token goes to its own host only. A pool without an upper bound: how many questions
    # are asked at once is the caller's to say, and a question that waits for a connection uses up its own deadline.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=POOL)
    return {"follow_redirects": False, "limits": limits, "mounts": directly(host), "verify": trusted(httpx2)}


def _reply(response: Any) -> Reply:
    return Reply(response.status_code, lowered(response.headers), response.content)
