"""A deadline that a blocking read cannot outlive, and a hold on it for other threads.

The timeouts of httpx and httpx2 are per read: a server that drips a byte a second keeps a call with `timeout=1` alive
for ever. Both stand on a network backend (httpcore's, httpcore2's) whose streams are told a timeout at each read; the
one here tells them what is left of the whole question instead. asyncio needs none of this: there, `asyncio.timeout`
cancels the read itself.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import weakref
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

_within: ContextVar[within | None] = ContextVar("isochat_within", default=None)
_NEXT_TO_NOTHING = 0.001  # a timeout of 0 would mean "do not block", and fail otherwise


class Hold:
    """What is being read or written, for another thread to cut off."""

    def __init__(self) -> None:
        self._sock: Any = None
        self._cut = False

    def take(self, sock: Any) -> None:
        """This is the socket it goes over."""
        self._sock = sock

    def check(self) -> None:
        """Nothing more is read or written once it is cut."""
        if self._cut:
            raise ConnectionAbortedError("the question was called off")

    def cut(self) -> None:
        """End whatever is being read or written, in whichever thread it is. No thread waits for an answer in vain."""
        self._cut = True
        sock = self._sock
        if sock is None:
            return
        with suppress(OSError):
            if isinstance(sock, socket.socket):
                # Not SSLSocket.shutdown: it takes the session away under the thread that is reading.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            else:
                sock.shutdown(socket.SHUT_RDWR)


class within:  # noqa: N801 - read as a word: `with within(2.0):`; a class, since it is entered at every chunk
    """Everything that is read or written inside ends in a timeout once these seconds are over, or if `hold` is cut."""

    __slots__ = ("_before", "hold", "until")

    def __init__(self, seconds: float, hold: Hold | None = None) -> None:
        self.until: float = time.monotonic() + seconds
        if hold is None and (around := _within.get()) is not None:
            hold = around.hold
        self.hold: Hold | None = hold

    def __enter__(self) -> None:
        self._before = _within.set(self)

    def __exit__(self, *_: object) -> None:
        _within.reset(self._before)


def keep_hold(sock: Any) -> None:
    """What comes next goes over this socket. Raises `ConnectionAbortedError` if it is cut off already."""
    inside = _within.get()
    if inside is not None and inside.hold is not None:
        inside.hold.take(sock)
        inside.hold.check()


def keep_deadlines(client: Any) -> Any:
    """Make a blocking httpx or httpx2 client heed `within`, through a proxy too. Gives the client back.

    Outside `within` nothing changes. The attributes are private ones of httpx 0.28 and httpx2 2.16; where they are
    gone, the client keeps its per-read timeouts, and `test_nothing_outlives_its_deadline` fails for a server that
    drips.
    """
    for pool in _pools(client):
        backend = getattr(pool, "_network_backend", None)
        if backend is not None and not isinstance(backend, _Network):
            pool._network_backend = _Network(backend)  # noqa: SLF001
    return client


def close_at_exit(client: Any) -> Any:
    """Have what is idle of a blocking httpx or httpx2 client closed when the process ends, or nobody holds it any more.

    urllib3 does so of itself; here each would be an unclosed socket to be warned of. What a thread still waits for is
    left to it. Gives the client back.
    """
    weakref.finalize(client, _close_idle, _pools(client), os.getpid())
    return client


def _close_idle(pools: list[Any], process: int) -> None:
    if process != os.getpid():
        return  # they are the parent's
    for pool in pools:
        for connection in list(getattr(pool, "connections", ())):
            if connection.is_idle():
                connection.close()


def _pools(client: Any) -> list[Any]:
    transports = (getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values())
    pools = [getattr(transport, "_pool", None) for transport in transports]
    return [pool for pool in pools if pool is not None]


def until() -> float:
    """When the question's time is over, as `time.monotonic()` counts; infinity where it never is."""
    inside = _within.get()
    return math.inf if inside is None else inside.until


def sooner(timeout: float | None) -> float | None:
    """What is left of the question, or the timeout given if that is sooner; None where there is neither."""
    left = max(until() - time.monotonic(), _NEXT_TO_NOTHING)
    return left if left < (threading.TIMEOUT_MAX if timeout is None else timeout) else timeout


class _Network:
    """A network backend whose connections heed the deadline."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> _Stream:
        return _Stream(self._inner.connect_tcp(host, port, timeout=sooner(timeout), **options))

    def connect_unix_socket(self, path: str, timeout: float | None = None, **options: Any) -> _Stream:
        return _Stream(self._inner.connect_unix_socket(path, timeout=sooner(timeout), **options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream:
    """One connection."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        keep_hold(self._inner.get_extra_info("socket"))
        return self._inner.read(max_bytes, timeout=sooner(timeout))  # type: ignore[no-any-return]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        keep_hold(self._inner.get_extra_info("socket"))
        self._inner.write(buffer, timeout=sooner(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout=sooner(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
