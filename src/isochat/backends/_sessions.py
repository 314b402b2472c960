"""Clients that live as long as what they belong to: an event loop, a process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from isochat.errors import DeadlineExceeded
from isochat.transports import finite

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

C = TypeVar("C")


class _Held:
    """One loop's client, once it is made."""

    def __init__(self) -> None:
        self.client: Any = None
        self.guard: AsyncGenerator[None, None] | None = None
        self.making = asyncio.Lock()


class PerLoop(Generic[C]):
    """One async client for each running event loop, closed with its loop.

    An async client belongs to the loop it was first used on: used on a second one, httpx says "Event loop is closed"
    and openai 3 a bare RuntimeError. A forked child begins anew.
    """

    def __init__(self, make: Callable[[], C], close: Callable[[C], Any]) -> None:
        self._make, self._close = make, close
        self._held: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Held] = weakref.WeakKeyDictionary()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._inherited: list[Any] = []

    async def get(self) -> C:
        """The running loop's client."""
        if self._process != os.getpid():
            self._inherited.append(self._held)  # kept, so that nothing is said here on the parent's sockets
            self._held, self._process, self._lock = weakref.WeakKeyDictionary(), os.getpid(), threading.Lock()
        loop = asyncio.get_running_loop()
        with self._lock:
            held = self._held.get(loop) or self._held.setdefault(loop, _Held())
        if held.guard is None:
            async with held.making:
                if held.guard is None:
                    # In a thread: making one reads the certificates of every authority from disk.
                    held.client = await asyncio.to_thread(self._make_ready)
                    held.guard = self._guard(held.client)
                    await anext(held.guard)
        client: C = held.client
        return client

    def _make_ready(self) -> C:
        # httpx and httpx2 stand on anyio, which imports this when a connection is first made: a tenth of a second and
        # more, in which the loop would do nothing else.
        with contextlib.suppress(ImportError):
            importlib.import_module("anyio._backends._asyncio")
        return self._make()

    async def _guard(self, client: C) -> AsyncGenerator[None, None]:
        """asyncio.run() closes the loop's asynchronous generators at its end, and with this one the client.

        Nothing else tells a library that its loop is about to go, and a connection left behind would be reported.
        """
        try:
            yield
        finally:
            await self._close(client)

    async def aclose(self) -> None:
        """Close the running loop's client."""
        with self._lock:
            held = self._held.pop(asyncio.get_running_loop(), None)
        if held is not None and held.guard is not None:
            await held.guard.aclose()


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

    def get_within(self, timeout: float, failed: str) -> C:
        """`get`, where making one may take minutes: that goes on in a thread that nobody has to wait for.

        Raises `DeadlineExceeded`, with `failed` for what has not been done.
        """
        if self._held is not None and self._process == os.getpid():
            return self._held
        return _in_time(self.get, timeout, failed)

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


def _in_time(work: Callable[[], C], timeout: float, failed: str) -> C:
    done: deque[tuple[C | None, BaseException | None]] = deque()

    def run() -> None:
        try:
            done.append((work(), None))
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            done.append((None, error))

    looking = threading.Thread(target=run, name="isochat-session", daemon=True)
    looking.start()
    looking.join(finite(timeout))
    if not done:
        raise DeadlineExceeded(f"{failed} within {timeout:g} s", timeout=timeout, sent=False)
    found, error = done[0]
    if error is not None:
        raise error
    return found  # type: ignore[return-value]
