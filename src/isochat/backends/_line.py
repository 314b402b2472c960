"""One attempt as it is beneath a client: a line, over which the question goes once, and what came back on it.

A client loses on its way up what the service said: the status, Retry-After, whole fields of the answer. So each
attempt has a line. The client's own method is called, and beneath it, in the session that it sends with, the line
keeps the HTTP answer as it was. Whoever uses the same session without a line, sees no difference.

What a line is beneath depends on what the client stands on: `_requests` and `_httpx` have one each.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, TypeVar

from isochat import _refusal, _wire
from isochat.backends._http import transport_error
from isochat.errors import ChatError
from isochat.transports import lowered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Line:
    """One attempt as it is beneath the client: who asks, and what came back."""

    def __init__(self) -> None:
        #: The headers that say who asks.
        self.login: dict[str, str] = {}
        #: Where the question goes. What a wrapper around the method asks of other paths is no attempt of ours.
        self.path = ""
        #: The answer, as the library beneath the client holds it.
        self.response: Any = None
        #: What went wrong with the connection.
        self.failure: Exception | None = None
        self.begun: bool = False

    def begin(self) -> None:
        """The question is about to be sent."""
        if self.begun:
            raise AskedTwice("the client would have asked a second time")
        self.begun = True

    @property
    def answered(self) -> bool:
        """Whether there is an answer to be read, whatever the client made of it."""
        return self.response is not None

    def stumbled(self, error: Exception) -> bool:  # noqa: ARG002 - for a line that can tell
        """Whether it is the client itself that could not read the answer, and not somebody above who refuses it."""
        return True

    def reply(self, raw: Any = None) -> _wire.Reply:
        """The answer as it was on the wire, once it was read to its end."""
        return reply(self.response, raw)

    def explained(self, failure: Exception) -> ChatError | None:
        """What a failure of the connection amounts to."""
        return transport_error(failure)

    def refusal(self) -> ChatError | None:
        """What the answer or the connection amounts to, if it is none to be read."""
        if self.response is not None and not _wire.OK <= self.response.status_code < 300:
            said = self.reply()
            return _refusal.service_error(said.status, said.headers, said.body)
        if isinstance(self.failure, ChatError):
            return self.failure
        if self.response is None and self.failure is not None:
            return self.explained(self.failure)
        return None


_line: contextvars.ContextVar[Line | None] = contextvars.ContextVar("isochat_line", default=None)


def current() -> Line | None:
    """The line that this thread or task is asking on; None outside of isochat."""
    return _line.get()


class on:  # noqa: N801 - read as a word: `with on(line):`; classes, here and below, since they are entered at every call
    """What a client sends inside goes over this line."""

    __slots__ = ("_before", "_line")

    def __init__(self, line: Line) -> None:
        self._line = line

    def __enter__(self) -> None:
        self._before = _line.set(self._line)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool | None:
        _line.reset(self._before)
        return None


class AskedTwice(Exception):
    """A client would have sent the question again by itself: how often it is sent is isochat's to decide."""


class NotFollowed(Exception):
    """The answer is a redirect. A token goes to its own host only."""


class heeding(on):  # noqa: N801 - as above
    """A client is called inside, on this line. If it stumbles over an answer that is there all the same, so be it.

    Raises what the answer or the connection amounts to, with the client's exception as the cause.
    """

    __slots__ = ()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        super().__exit__(kind, error, trace)
        line = self._line
        if error is None:
            # A method that swallowed a refusal, as a wrapper around it may.
            if line.response is not None and (refusal := line.refusal()) is not None:
                raise refusal
            return False
        if isinstance(error, ChatError) or not isinstance(error, Exception):
            return False
        refusal = line.refusal()
        if refusal is not None:
            # What databricks-sdk cannot read it tells with a log of the request; in 0.60 that holds the prompt.
            raise refusal from None if "unable to parse response" in str(error) else error
        return line.answered and line.stumbled(error)


def call_on(line: Line, call: Callable[[], T]) -> T | None:
    """What a client's method gives; None if it stumbled over an answer that is there all the same."""
    with heeding(line):
        return call()
    return None


async def acall_on(line: Line, call: Callable[[], Awaitable[T]]) -> T | None:
    """`call_on`, awaited."""
    with heeding(line):
        return await call()
    return None


def reply(response: Any, raw: Any = None) -> _wire.Reply:
    """An HTTP answer that was read to its end, as it was on the wire."""
    return _wire.Reply(response.status_code, lowered(response.headers), response.content or b"", raw)
