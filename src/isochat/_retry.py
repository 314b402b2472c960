"""How long to keep trying. Objects you ask: they never sleep and read no clock but the one they were given."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from isochat.errors import Attempt, AuthenticationFailed, ChatError, ConnectionFailed, DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from isochat._events import EventKind, Listener

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

    A question that went out, and whose answer was lost with the connection, may have been answered, and will then be
    paid for twice; an agent may act twice. `resend=False` asks again only where nothing had been sent. The default is
    to ask again, as every client of the service does.

    `budget` keeps a fleet of tasks from storming an endpoint that is ailing. By default all who ask an endpoint through
    one session share one.
    """

    attempts: int = 3
    first_wait: float = 0.5
    longest_wait: float = 30.0
    resend: bool = True
    budget: RetryBudget | None = None

    def __post_init__(self) -> None:
        first_too = "attempts counts the first one too, so it is a whole number of at least 1"
        _want(first_too, self.attempts, fine=_whole(self.attempts) and self.attempts >= 1)
        for name in ("first_wait", "longest_wait"):
            seconds = getattr(self, name)
            _want(f"{name} is in seconds, 0 or more", seconds, fine=_number(seconds) and seconds >= 0)
        _want("resend is True or False", self.resend, fine=isinstance(self.resend, bool))
        _want("budget is a RetryBudget", self.budget, fine=isinstance(self.budget, RetryBudget | None))


def _want(what: str, got: object, *, fine: bool) -> None:
    if not fine:
        raise ValueError(f"{what}, not {got!r}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class RetryBudget:
    """How many attempts at questions that failed before may be made, by all who share it.

    `burst` of them may come at once; after that they queue, `rate` a second, and each answer that comes lets one more
    go. So a thousand tasks whose endpoint fails for a moment do not ask it a thousand times at once when it is least
    able to answer, and none of them is given up that has the time to wait for its turn.
    """

    def __init__(self, *, burst: int = 50, rate: float = 10.0) -> None:
        _want("burst is a number of attempts, at least 1", burst, fine=_whole(burst) and burst >= 1)
        _want("rate is a number of attempts a second, above 0", rate, fine=_number(rate) and rate > 0)
        self.burst: int = burst
        self.rate: float = rate
        self._left = float(burst)
        self._seen = -math.inf

    def reserve(self, now: float) -> float:
        """Take a turn; the seconds until it comes."""
        # No lock: one that a forking parent held would never be given back, and a lost race costs a turn, no more.
        self._left = min(self.burst, self._left + max(0.0, now - self._seen) * self.rate) - 1
        self._seen = now
        return max(0.0, -self._left / self.rate)

    def give_back(self) -> None:
        """A turn was not needed, or an answer came."""
        self._left = min(self.burst, self._left + 1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(burst={self.burst}, rate={self.rate:g})"


class Tries:
    """One question's attempts: what is left of its time, and whether to ask again."""

    def __init__(
        self,
        retry: Retry,
        timeout: float = math.inf,
        *,
        renew: Callable[[], bool] = lambda: False,
        budget: RetryBudget | None = None,
        tell: Listener | None = None,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._retry = retry
        self._timeout = timeout
        self._renew: Callable[[], bool] | None = renew
        self._budget = retry.budget or budget or RetryBudget()
        self._tell = tell
        self._now = now
        self._chance = chance
        self._begun = now()
        self._last: ChatError | None = None
        self._sent = 0
        self._over = False
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

    def begin(self) -> float:
        """`left`, for an attempt that is made now."""
        left = self.left()
        self._sent += 1
        self.tell("attempt")
        return left

    def tell(self, kind: EventKind, **said: Any) -> None:
        """Tell whoever listens what has happened."""
        if self._tell is not None:
            self._tell(kind, self.elapsed(), self._sent, **said)

    def end(self, kind: EventKind, **said: Any) -> None:
        """The question is over: told once, whatever else may come of it."""
        if self._over:
            return
        self._over = True
        if kind == "done":
            self._budget.give_back()
        self.tell(kind, **said)

    def too_late(self) -> DeadlineExceeded:
        """The error for a question whose time is over."""
        sent = True if any(attempt.sent for attempt in self.attempts) else None
        error = DeadlineExceeded("no answer in time", timeout=self._timeout, sent=sent)
        error.attempts = self.attempts
        return error

    def wait(self, error: ChatError) -> float:
        """The seconds to wait before asking again. Raises the error if there is no point in it."""
        seconds = self._seconds(error)
        attempt = Attempt(type(error).__name__, getattr(error, "status", None), seconds or 0.0, error.sent)
        self.attempts = (*self.attempts, attempt)
        if error.__cause__ is None and self._last is not error:
            error.__cause__ = self._last  # where the answer says it all, the attempt before is what led here
        self._last = error
        error.attempts = self.attempts
        if isinstance(error, DeadlineExceeded):
            error.timeout = self._timeout  # the attempt knew only what was left
        if seconds is not None:
            self.tell("wait", error=error, seconds=seconds)
            return seconds
        if error.transient and self.elapsed() >= self._timeout:
            raise self.too_late() from error
        raise error

    def _seconds(self, error: ChatError) -> float | None:
        if len(self.attempts) + 1 >= self._retry.attempts:
            return None
        if isinstance(error, AuthenticationFailed):
            return 0.0 if self.elapsed() < self._timeout and self._renewed() else None
        if not error.transient:
            return None
        if isinstance(error, ConnectionFailed) and error.sent is not False and not self._retry.resend:
            return None
        asked = getattr(error, "retry_after", None)
        seconds = self._own_wait() if asked is None else asked
        now = self._now()
        seconds = max(seconds, self._budget.reserve(now))
        if now - self._begun + seconds < min(self._timeout, _LONGEST_SLEEP):
            return seconds
        self._budget.give_back()
        return None

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
        left = tries.begin()
        try:
            return send(left)
        except ChatError as error:
            time.sleep(tries.wait(error))


async def aask(send: Callable[[float], Awaitable[T]], tries: Tries) -> T:
    """`ask`, awaited."""
    while True:
        left = tries.begin()
        try:
            return await send(left)
        except ChatError as error:
            await asyncio.sleep(tries.wait(error))
