"""The thread a local endpoint runs in, from listening to the last closed connection."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Running"]

#: How many connections there may be at once; one more is told to come back.
MOST = 2000
#: Seconds that a connection may go without a request: longer than a client keeps one that it means to use again.
IDLE = 90.0
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Service(Protocol):
    """What is served: it answers requests, and holds something that is to be closed at the end."""

    async def handle(self, request: Any) -> Any: ...
    async def close(self) -> None: ...


class Running:
    """A server in its thread, from start to stop."""

    def __init__(self, service: Callable[[], Service], bind: str, port: int) -> None:
        if importlib.util.find_spec("aiohttp") is None:
            msg = "the local endpoint needs aiohttp: pip install 'isochat[local]'"
            raise ImportError(msg)
        self._make_service = service
        self._socket = _listening(bind, port)
        self.port: int = self._socket.getsockname()[1]
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        #: The connections that are open, each with the time since which nothing is being answered on it.
        self._transports: dict[asyncio.Transport, float | None] = {}
        self._server: Any = None
        self._listening: list[asyncio.Server] = []
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"isochat-local-{self.port}", daemon=True)

    @property
    def open_connections(self) -> int:
        return len(self._transports)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            self._thread.join()
            raise self._failed

    def listen(self, bind: str) -> int:
        """Listen on one more port, of the system's choice; gives the port."""
        assert self._loop is not None
        sock = _listening(bind, 0)
        opened = asyncio.run_coroutine_threadsafe(self._loop.create_server(self._server, sock=sock), self._loop)
        self._listening.append(opened.result())
        port: int = sock.getsockname()[1]
        return port

    def stop(self) -> None:
        if os.getpid() != self._pid:  # a forked child has the socket but not the thread
            self._socket.close()
            return
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            # Importing aiohttp reads files, which an event loop should not do: so before there is one.
            asyncio.run(self._main(_counting(self._transports), self._make_service()))
        except BaseException as why:  # noqa: BLE001 - handed to who started it
            self._failed = why
        finally:
            self._socket.close()
            self._ready.set()

    async def _main(self, counted: Any, service: Service) -> None:
        transports = self._transports
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        clock = self._loop.time

        async def handle(request: Any) -> Any:
            transports[request.transport] = None
            try:
                return await service.handle(request)
            finally:
                if request.transport in transports:
                    transports[request.transport] = clock()

        server = self._server = counted(handle, handler_cancellation=True, access_log=None, keepalive_timeout=75.0)
        self._listening.append(await self._loop.create_server(server, sock=self._socket))
        leaving = asyncio.ensure_future(_let_go_of_the_idle(transports))
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            leaving.cancel()
            for listening in self._listening:
                listening.close()
            for transport in list(transports):  # the loss of its connection cancels a handler, however long it stalls
                transport.abort()
            for _ in range(100):  # each turn lets a transport's connection_lost run
                if not transports:
                    break
                await asyncio.sleep(0)
            await server.shutdown(1.0)
            await service.close()


async def _let_go_of_the_idle(transports: dict[asyncio.Transport, float | None]) -> None:
    """Close what is connected and asks nothing, or never ends its headers: aiohttp would wait for ever."""
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(IDLE / 10)
        for transport, since in list(transports.items()):
            if since is not None and clock() - since > IDLE:
                transport.abort()


def _counting(transports: dict[asyncio.Transport, float | None]) -> Any:
    """aiohttp's server, keeping in `transports` exactly the connections that are open, no more than there may be."""
    from aiohttp import web  # only a server needs it

    class Counting(web.Server):  # type: ignore[misc,type-arg,unused-ignore]
        def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
            full = len(transports) >= MOST
            transports[transport] = asyncio.get_running_loop().time()
            super().connection_made(handler, transport)
            if full:
                transport.write(_FULL)
                transport.close()

        def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
            for closing in [t for t in transports if t.is_closing()]:
                del transports[closing]
            super().connection_lost(handler, exc)

    return Counting


def _listening(bind: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((bind, port))
        sock.listen(256)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
