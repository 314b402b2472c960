"""How long to keep trying. An object you ask: it never sleeps and reads no clock but the one it was given."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from isochat.errors import Attempt, AuthenticationFailed, ChatError, DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
_LONGEST_SLEEP = 86_400.0 * 365  # what is more is a mistake, and more than time.sleep can do


@dataclass(frozen=True, slots=True)
class Retry:
    """When to ask again.

    `attempts` counts all of them, the first included: `Retry(attempts=1)` never asks twice. Asked again is what may
    well succeed (429, 5xx, 408, no answer at all), never what was refused. The wait is what the service asked for
    (`Retry-After`); where it asked for nothing, `first_wait` seconds, doubled each time up to `longest_wait`, less a
    random part of up to half so that a fleet does not come back as one. A wait that would overrun the deadline is not
    begun.
    """

    attempts: int = 3
    first_wait: float = 0.5
    longest_wait: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts counts the first one too, so it is at least 1, not {self.attempts}")
        if not (self.first_wait >= 0 and self.longest_wait >= 0):
            raise ValueError("first_wait and longest_wait are seconds, 0 or more")


class Tries:
    """One question's attempts: what is left of its time, and whether to ask again."""

    def __init__(
        self,
        retry: Retry,
        timeout: float = math.inf,
        *,
        renew: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._retry = retry
        self._timeout = timeout
        self._renew: Callable[[], bool] | None = renew
        self._now = now
        self._chance = chance
        self._begun = now()
        self._last: ChatError | None = None
        self.attempts: tuple[Attempt, ...] = ()

    def elapsed(self) -> float:
        """The seconds since the question was asked."""
        return self._now() - self._begun

    def left(self) -> float:
        """The seconds that are left, infinite if no deadline was set. Raises `DeadlineExceeded` if none are."""
        left = self._timeout - self.elapsed()
        if left <= 0:
            raise self.too_late() from self._last
        return left

    def too_late(self) -> DeadlineExceeded:
        """The error for a question whose time is over."""
        error = DeadlineExceeded("no answer in time", timeout=self._timeout)
        error.attempts = self.attempts
        return error

    def wait(self, error: ChatError) -> float:
        """The seconds to wait before asking again. Raises the error if there is no point in it."""
        seconds = self._seconds(error)
        attempt = Attempt(type(error).__name__, getattr(error, "status", None), seconds or 0.0)
        self.attempts = (*self.attempts, attempt)
        self._last = error
        error.attempts = self.attempts
        if isinstance(error, DeadlineExceeded):
            error.timeout = self._timeout  # the attempt knew only what was left
        if seconds is not None:
            return seconds
        if error.transient and self.elapsed() >= self._timeout:
            raise self.too_late() from error
        raise error

    def _seconds(self, error: ChatError) -> float | None:
        if len(self.attempts) + 1 >= self._retry.attempts:
            return None
        if isinstance(error, AuthenticationFailed):
            return 0.0 if self._renewed() else None
        if not error.transient:
            return None
        asked = getattr(error, "retry_after", None)
        seconds = self._own_wait() if asked is None else asked
        return seconds if self.elapsed() + seconds < min(self._timeout, _LONGEST_SLEEP) else None

    def _own_wait(self) -> float:
        doubled = self._retry.first_wait * 2.0 ** min(len(self.attempts), 62)
        return min(doubled, self._retry.longest_wait) * (1 - self._chance() / 2)

    def _renewed(self) -> bool:
        """Whether a fresh token could be had: asked once, since a second refusal is not about its age."""
        renew, self._renew = self._renew, None
        return renew is not None and renew()


def ask(send: Callable[[float], T], tries: Tries) -> T:
    """Send until there is an answer or no point in trying."""
    while True:
        left = tries.left()
        try:
            return send(left)
        except ChatError as error:
            time.sleep(tries.wait(error))


async def aask(send: Callable[[float], Awaitable[T]], tries: Tries) -> T:
    """`ask`, awaited."""
    while True:
        left = tries.left()
        try:
            return await send(left)
        except ChatError as error:
            await asyncio.sleep(tries.wait(error))
