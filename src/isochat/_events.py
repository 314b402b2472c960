"""What happens to a question while it is asked, for whoever wants to see it."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from isochat.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from isochat._types import ChatRequest, ChatResponse

EventKind: TypeAlias = Literal["attempt", "wait", "first_token", "done", "failed", "abandoned"]

_log = logging.getLogger("isochat")


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """One thing that happened to a question.

    `kind` says what:

    * `attempt`: it is about to be sent.
    * `wait`: that attempt failed with `error`, and the next one comes in `seconds`.
    * `first_token`: a stream's first piece of text, reasoning or tool call is there.
    * `done`: the whole answer is there, as `response`.
    * `failed`: it is given up with `error`; if a stream had begun, `response` is what had come of it.
    * `abandoned`: the caller left (a stream closed before its end, a cancelled task, Ctrl-C); `response` likewise.

    The last three are ends, and each question has one. `attempt` counts from 1, and is 0 where nothing was tried.
    `elapsed` is the seconds since the question was asked.
    """

    kind: EventKind
    elapsed: float
    attempt: int
    backend: str
    endpoint: str
    stream: bool = False
    seconds: float | None = None
    error: BaseException | None = None
    response: ChatResponse | None = field(default=None, repr=False)


def listener(on_event: object, request: ChatRequest, backend: str) -> Listener | None:
    """What tells the caller's function of this question, if there is one and it can be called from here."""
    if on_event is None:
        return None
    if not callable(on_event):
        raise InvalidRequest(f"a value of type {type(on_event).__name__} is no function", path="on_event")
    if inspect.iscoroutinefunction(on_event):
        raise InvalidRequest("a coroutine function: it is called, and nobody awaits it", path="on_event")
    return Listener(on_event, request, backend)


class Listener:
    """Tells the caller's function of one question."""

    def __init__(self, on_event: Callable[[ChatEvent], Any], request: ChatRequest, backend: str) -> None:
        self._on_event, self._request, self._backend = on_event, request, backend

    def __call__(
        self,
        kind: EventKind,
        elapsed: float,
        attempt: int,
        *,
        seconds: float | None = None,
        error: BaseException | None = None,
        response: ChatResponse | None = None,
    ) -> None:
        """Tell it. What goes wrong in it is logged: an answer that was paid for is not lost over it."""
        endpoint, stream = self._request.endpoint, self._request.stream
        event = ChatEvent(kind, elapsed, attempt, self._backend, endpoint, stream, seconds, error, response)
        try:
            self._on_event(event)
        except Exception:  # noqa: BLE001 - whatever it is, it is the caller's
            _log.warning("on_event failed at %r", kind, exc_info=True)
