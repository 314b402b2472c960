"""The bytes of an event stream, cut into its events, as the WHATWG standard says.

No I/O: feed it what was read, in whatever pieces, and it gives back the events that are complete.
https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r")
#: How a stream of events may begin, and JSON, a text or a page cannot.
OPENINGS = (b"data:", b"event:", b"id:", b"retry:", b":")
#: How a line begins that the standard ignores and that is meant. llama.cpp's server wrote `error: {…}` until September
#: 2025 (ggml-org/llama.cpp#16109), and what fails in front of a model writes `{"error": …}` as it would have answered.
_ERRORS = frozenset({b"error", b'{"error"'})


class Event(msgspec.Struct, frozen=True):
    """One event: its `data`, still bytes, and the type it was given, `message` if none."""

    data: bytes
    type: str = "message"


class EventDecoder:
    """Bytes in, events out."""

    __slots__ = ("_after_cr", "_between", "_data", "_started", "_tail", "_type")

    def __init__(self) -> None:
        self._tail: list[bytes] = []  # the pieces of a line whose end has not arrived
        self._data: list[bytes] = []  # the data lines of the event being read
        self._type = ""
        self._after_cr = False  # a CR ended the last line: an LF that comes next belongs to it
        self._started = False
        self._between = False  # one event has ended, and nothing of the next has come

    def feed(self, read: bytes) -> Iterator[Event]:
        """Take what was read; give the events that it completes."""
        if b"\r" in read:
            return self._feed(read)
        if self._between and read.startswith(b"data: ") and read.find(b"\n") == len(read) - 2 and read.endswith(b"\n"):
            return iter((Event(read[6:-2]),))  # one event, whole, as most reads of a stream are
        return self._several(read)

    def _several(self, read: bytes) -> Iterator[Event]:
        """What holds no CR: the events of one line are taken out whole, and only the rest is read line by line."""
        if not self._between:
            begun, end, read = read.partition(b"\n\n")
            yield from self._feed(begun + end)
        *events, tail = read.split(b"\n\n")
        for event in events:
            if self._between and event.startswith(b"data: ") and b"\n" not in event:
                yield Event(event[6:])
            else:
                yield from self._feed(event + b"\n\n")
        if tail:
            yield from self._feed(tail)

    def _feed(self, read: bytes) -> Iterator[Event]:
        if self._after_cr and read:
            self._after_cr = False
            read = read.removeprefix(b"\n")
        if not read:
            return
        self._between = False
        if b"\n" not in read and b"\r" not in read:
            # No line ends here. Only collect: joining each time would make a long line cost its length squared.
            self._tail.append(read)
            return
        lines = _LINE_END.split(read)
        self._after_cr = read.endswith(b"\r")
        if self._tail:
            lines[0] = b"".join([*self._tail, lines[0]])
        tail = lines.pop()
        self._tail = [tail] if tail else []
        for line in lines:
            yield from self._line(line)
        self._between = not (self._after_cr or self._tail or self._data or self._type)

    def close(self) -> Iterator[Event]:
        """The stream has ended: give what was left.

        The standard discards an event whose blank line never came. A server that stops right after its last event
        meant it, though, and losing it in silence is worse than reading it; a half of one does not parse as JSON.
        """
        self._after_cr = False
        tail, self._tail = b"".join(self._tail), []
        if tail:
            yield from self._line(tail)
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[Event]:
        if not self._started:
            self._started = True
            line = line.removeprefix(BOM_UTF8)
        if not line:
            data, kind = self._data, self._type
            self._data, self._type = [], ""
            if data:
                yield Event(b"\n".join(data), kind or "message")
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._type = value.removeprefix(b" ").decode("utf-8", "replace")
        elif field in _ERRORS:
            self._data.append(value.removeprefix(b" ") if field == b"error" else line)
            self._type = "error"
        # A comment has an empty field name; `id` and `retry` are for browsers that reconnect; others are ignored.


def events_in(body: bytes) -> Iterator[Event]:
    """All the events of a stream that was read to its end."""
    decoder = EventDecoder()
    yield from decoder.feed(body)
    yield from decoder.close()
