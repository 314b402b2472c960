"""Questions through httpx2, blocking and awaited: whatever proxy the environment names, it finds the way."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from isochat._wire import Reply
from isochat.transports import Streamed, lowered, timeouts, ways
from isochat.transports.deadline import close_at_exit, keep_deadlines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping


class Httpx2:
    """A blocking client."""

    def __init__(self, host: str) -> None:
        self._client = close_at_exit(keep_deadlines(httpx2.Client(**ways(httpx2, host))))

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
        self._client: Any = httpx2.AsyncClient(**ways(httpx2, host))

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


def _reply(response: Any) -> Reply:
    return Reply(response.status_code, lowered(response.headers), response.content)
