"""A thread for a question of asyncio's, where the client knows no asyncio."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from isochat.transports.deadline import Hold

T = TypeVar("T")

_LETTING_GO = 2.0  # seconds for a thread to notice that its connection is cut; only a name look-up takes longer


class Worker:
    """A thread for one question of asyncio's, so that waiting questions keep nobody else's from being asked.

    `asyncio.to_thread` has six threads on two processors, for the whole program.
    """

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="isochat")
        self._doing: asyncio.Future[Any] | None = None

    async def do(self, work: Callable[[], T]) -> T:
        """Do it there."""
        run: Callable[..., T] = contextvars.copy_context().run
        self._doing = asyncio.get_running_loop().run_in_executor(self._pool, run, work)
        # Whoever waits may be gone by the time it fails, and then nobody asks what became of it.
        self._doing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._doing)

    async def end(self, last: Callable[[], Any] | None = None) -> None:
        """Cut what is going on, do one last thing, and let the thread go."""
        doing = [] if self._doing is None or self._doing.done() else [self._doing]
        if doing:
            self._hold.cut()
        if last is not None:  # the thread does one thing after the other: it comes when nothing is going on any more
            doing.append(asyncio.wrap_future(self._pool.submit(last)))
        self._pool.shutdown(wait=False)
        if doing:
            await asyncio.wait(doing, timeout=_LETTING_GO)
