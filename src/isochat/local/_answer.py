"""What was answered, before any family dresses it: choices, calls, usage, and the pieces a stream is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isochat.local._question import words

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Answer", "Call", "Choice", "Piece", "Usage", "pieces"]


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; `arguments` is the text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as counted by whoever answered. `reasoning` is part of `completion`."""

    prompt: int
    completion: int
    total: int | None = None
    reasoning: int = 0
    #: What an upstream said beyond these numbers, passed on as it is.
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers."""

    text: str | None = None
    reasoning: str | None = None
    #: The reasoning is given encrypted only.
    redacted: bool = False
    calls: tuple[Call, ...] = ()
    finish_reason: str | None = "stop"
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything one question got."""

    choices: tuple[Choice, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Piece:
    """One step of a streamed answer: some text, some reasoning, some of a call, the end of a choice, or the usage."""

    choice: int = 0
    text: str | None = None
    reasoning: str | None = None
    redacted: bool = False
    refusal: str | None = None
    #: Index of a call; `id` and `name` only with its first piece.
    call: int | None = None
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


def pieces(answer: Answer) -> Iterator[Piece]:
    """The answer as a stream gives it: word by word, choice after choice, usage last."""
    for n, choice in enumerate(answer.choices):
        if choice.redacted:
            yield Piece(n, reasoning="", redacted=True)
        elif choice.reasoning is not None:
            for word in words(choice.reasoning) or [""]:
                yield Piece(n, reasoning=word)
        for word in words(choice.text or ""):
            yield Piece(n, text=word)
        if choice.refusal:
            yield Piece(n, refusal=choice.refusal)
        for i, call in enumerate(choice.calls):
            yield Piece(n, call=i, id=call.id, name=call.name)
            for part in _halves(call.arguments):
                yield Piece(n, call=i, arguments=part)
        yield Piece(n, finish_reason=choice.finish_reason or "")
    yield Piece(usage=answer.usage)


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [text[:middle], text[middle:]] if middle else [text]
