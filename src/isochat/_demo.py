"""`isochat demo` as data: the same question through every installed backend, in every mode, timed and compared."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import isochat
from isochat import backends
from isochat.errors import ChatError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from isochat import ChatResponse
    from isochat.backends import BackendInfo

MODES: Final = ("blocking", "asyncio", "streamed", "async streamed")
"""The four ways of asking, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """One backend: how long it took, and whether it gave the answer that the others gave.

    `first` is the first answer of all, in seconds: it includes importing the client. `times` has the seconds of a later
    answer for each mode that the backend knows. `differs` names the modes whose answer was another one. `error` is why
    there is no answer. `install` is the line to install the client with, None if it is there.
    """

    backend: str
    install: str | None = None
    first: float | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    error: str | None = None

    @property
    def same(self) -> bool | None:
        """Whether every answer was the same as the others'; None if the backend was not asked."""
        return None if self.install else self.error is None and not self.differs

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON, times in milliseconds."""
        return {
            "backend": self.backend,
            "install": self.install,
            "first_ms": _milliseconds(self.first),
            "ms": {mode: _milliseconds(seconds) for mode, seconds in self.times.items()},
            "same": self.same,
            "differs": list(self.differs),
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Demo:
    """What came of asking every backend the same thing."""

    question: str
    endpoint: str
    rows: tuple[Row, ...]
    answer: ChatResponse | None

    @property
    def same(self) -> bool:
        """Whether there was an answer, and everybody that was asked gave it."""
        return self.answer is not None and all(row.same is not False for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "question": self.question,
            "endpoint": self.endpoint,
            "same": self.same,
            "answer": self.answer.to_dict() if self.answer else None,
            "backends": [row.to_dict() for row in self.rows],
        }


def demo(
    question: str, *, endpoint: str, host: str = "local", begin: Callable[[str], object] = lambda _name: None
) -> Demo:
    """Ask every installed backend `question` in each of its modes, one after the other.

    `begin` is called with the name of each backend when its turn comes. A backend that fails is a row that says so.
    """
    isochat.Connection(host)  # starts the local endpoint, which is not to be counted as anybody's first answer
    made = []
    for info in backends.available():
        if not info.missing:
            begin(info.name)
        made.append((info, *_asked(info, question, endpoint, host)))
    isochat.close()

    by_backend = {info.name: answers for info, _, answers in made if answers}
    reference = next(iter((by_backend.get("rest") or next(iter(by_backend.values()), {})).values()), None)
    rows = tuple(_compared(info, timed, answers, reference) for info, timed, answers in made)
    return Demo(question, endpoint, rows, reference)


@dataclass(slots=True)
class _Timed:
    first: float | None = None
    times: dict[str, float] = field(default_factory=dict)
    error: str | None = None


def _asked(info: BackendInfo, question: str, endpoint: str, host: str) -> tuple[_Timed, dict[str, ChatResponse]]:
    """The times and the answers of one backend, as far as it got."""
    timed, answers = _Timed(), dict[str, "ChatResponse"]()
    if info.missing:
        return timed, answers

    def whole() -> ChatResponse:
        return isochat.query_chat(question, endpoint=endpoint, backend=info.name, host=host)

    def streamed() -> ChatResponse:
        with isochat.query_chat(question, endpoint=endpoint, backend=info.name, host=host, stream=True) as stream:
            return stream.response

    async def awaited() -> ChatResponse:
        return await isochat.aquery_chat(question, endpoint=endpoint, backend=info.name, host=host)

    async def awaited_stream() -> ChatResponse:
        asked = isochat.aquery_chat(question, endpoint=endpoint, backend=info.name, host=host, stream=True)
        async with await asked as stream:
            return await stream.collect()

    knows = dict(zip(MODES, (info.blocking, info.asyncio, info.stream, info.async_stream), strict=True))
    blocking = {"blocking": whole, "streamed": streamed}
    waiting = {"asyncio": awaited, "async streamed": awaited_stream}
    try:
        began = time.perf_counter()
        if knows["blocking"]:
            whole()
            timed.first = time.perf_counter() - began
        for mode, ask in blocking.items():
            if knows[mode]:
                ask()  # each mode may have a client of its own to make; that is `first`'s business
                began = time.perf_counter()
                answers[mode] = ask()
                timed.times[mode] = time.perf_counter() - began
        asyncio.run(_awaited({mode: ask for mode, ask in waiting.items() if knows[mode]}, timed.times, answers))
    except ChatError as error:
        timed.error = str(error)
    except Exception as error:  # noqa: BLE001 - a broken client is a row of the table, not the end of it
        timed.error = f"{type(error).__name__}: {error}"
    return timed, answers


async def _awaited(
    modes: Mapping[str, Callable[[], Awaitable[ChatResponse]]],
    times: dict[str, float],
    answers: dict[str, ChatResponse],
) -> None:
    for mode, ask in modes.items():
        await ask()
        began = time.perf_counter()
        answers[mode] = await ask()
        times[mode] = time.perf_counter() - began


def _compared(
    info: BackendInfo, timed: _Timed, answers: Mapping[str, ChatResponse], reference: ChatResponse | None
) -> Row:
    return Row(
        backend=info.name,
        install=info.install if info.missing else None,
        first=timed.first,
        times={mode: timed.times[mode] for mode in MODES if mode in timed.times},
        differs=tuple(mode for mode in MODES if mode in answers and not _agree(answers[mode], reference)),
        error=timed.error,
    )


def _agree(answer: ChatResponse, reference: ChatResponse | None) -> bool:
    """Whether two clients gave the same answer: its words, and all else that both can say.

    SQL says nothing but the text, and the Responses API has ids and counts of its own.
    """
    if reference is None or answer.text != reference.text:
        return False
    facts = ("reasoning", "refusal", "finish_reason", "tool_calls", "model")
    pairs = [(getattr(answer, name), getattr(reference, name)) for name in facts]
    return all(one == other for one, other in pairs if one and other)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
