"""The bytes of an event stream become its events by the rules of the WHATWG standard."""

from __future__ import annotations

import time

import pytest

from isochat._sse import Event, EventDecoder, events_in

RULES = {
    "one event": (b"data: a\n\n", [Event(b"a")]),
    "two events": (b"data: a\n\ndata: b\n\n", [Event(b"a"), Event(b"b")]),
    "lines of data are joined with LF": (b"data: a\ndata: b\ndata\n\n", [Event(b"a\nb\n")]),
    "a comment is nothing": (b": ping\n\ndata: a\n: ping\ndata: b\n\n", [Event(b"a\nb")]),
    "an event has a type": (b"event: error\ndata: a\n\n", [Event(b"a", "error")]),
    "the type may follow the data": (b"data: a\nevent: error\n\n", [Event(b"a", "error")]),
    "the last type counts": (b"event: a\nevent: b\ndata: x\n\n", [Event(b"x", "b")]),
    "an empty type is message": (b"event:\ndata: x\n\n", [Event(b"x")]),
    "a type does not outlive its event": (b"event: ping\n\ndata: a\n\n", [Event(b"a")]),
    "no data, no event": (b"event: ping\nid: 1\n\n", []),
    "blank lines are nothing": (b"\n\n\n\ndata: a\n\n\n\n", [Event(b"a")]),
    "LF": (b"data: a\ndata: b\n\n", [Event(b"a\nb")]),
    "CR": (b"data: a\rdata: b\r\r", [Event(b"a\nb")]),
    "CRLF": (b"data: a\r\ndata: b\r\n\r\n", [Event(b"a\nb")]),
    "line ends mixed": (
        b"data: a\r\ndata: b\ndata: c\rdata: d\r\n\ndata: e\n\r\n",
        [Event(b"a\nb\nc\nd"), Event(b"e")],
    ),
    "LF CR is two line ends": (b"data: a\n\rdata: b\n\r", [Event(b"a"), Event(b"b")]),
    "a byte order mark at the start": (b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
    "only one byte order mark": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    "no byte order mark later": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event(b"a")]),
    "a byte order mark alone": (b"\xef\xbb\xbf", []),
    "no colon: the line is the field": (b"data\n\n", [Event(b"")]),
    "empty data is an event": (b"data:\n\n", [Event(b"")]),
    "one leading space goes": (
        b"data:a\n\ndata: a\n\ndata:  a\n\ndata:\ta\n\n",
        [Event(b"a"), Event(b"a"), Event(b" a"), Event(b"\ta")],
    ),
    "trailing space stays": (b"data: a \n\n", [Event(b"a ")]),
    "a colon in the value": (b"data: a: b\n\n", [Event(b"a: b")]),
    "field names are exact": (b"Data: a\n data: b\ndata : c\nxdata: d\n\n", []),
    "an error as a field": (b'data: a\n\nerror: {"code":400}\n\n', [Event(b"a"), Event(b'{"code":400}', "error")]),
    "an error without a field": (
        b'data: a\n\n{"error":{"message":"b"}}\n',
        [Event(b"a"), Event(b'{"error":{"message":"b"}}', "error")],
    ),
    "unknown fields are ignored": (b"id: 1\nretry: 5\nfoo: bar\ndata: a\n\n", [Event(b"a")]),
    "U+2028 and U+0085 are no line ends": (
        "data: a\u2028b\u0085c\u2029d\x0b\x0ce\n\n".encode(),
        [Event("a\u2028b\u0085c\u2029d\x0b\x0ce".encode())],
    ),
    "data need not be UTF-8": (b"data: \xff\xfe\n\n", [Event(b"\xff\xfe")]),
    "a NUL is data": (b"data: a\x00b\n\n", [Event(b"a\x00b")]),
    "several bytes a character": ("event: é\ndata: 😀\n\n".encode(), [Event("😀".encode(), "é")]),
    "no blank line at the end": (b"data: a\n\ndata: b\n", [Event(b"a"), Event(b"b")]),
    "no line end at the end": (b"data: a\n\ndata: b", [Event(b"a"), Event(b"b")]),
    "a CR at the very end": (b"data: a\r", [Event(b"a")]),
    "nothing": (b"", []),
}


def decoded(*pieces: bytes) -> list[Event]:
    decoder = EventDecoder()
    return [*(event for piece in pieces for event in decoder.feed(piece)), *decoder.close()]


@pytest.mark.parametrize(("body", "expected"), RULES.values(), ids=RULES)
def test_rule(body: bytes, expected: list[Event]) -> None:
    """Each rule holds for a stream that comes at once."""
    assert expected == list(events_in(body))


@pytest.mark.parametrize(("body", "expected"), RULES.values(), ids=RULES)
def test_rule_split_anywhere(body: bytes, expected: list[Event]) -> None:
    """Each rule holds wherever the stream is cut in three, in a character or between CR and LF too."""
    for first in range(len(body) + 1):
        for second in range(first, len(body) + 1):
            assert expected == decoded(body[:first], body[first:second], body[second:]), (first, second)


@pytest.mark.parametrize(("body", "expected"), RULES.values(), ids=RULES)
def test_rule_byte_by_byte(body: bytes, expected: list[Event]) -> None:
    """Each rule holds for a stream that comes a byte at a time, with nothing in between."""
    pieces = [piece for place in range(len(body)) for piece in (b"", body[place : place + 1])]

    assert expected == decoded(*pieces)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_event_is_given_when_its_blank_line_comes(end: bytes) -> None:
    """An event does not wait for the one after it."""
    assert [Event(b"a")] == list(EventDecoder().feed(b"data: a" + end))


def test_event_is_given_at_the_cr_of_its_blank_line() -> None:
    """An event ended by CR CR does not wait to see whether an LF follows."""
    assert [Event(b"a")] == list(EventDecoder().feed(b"data: a\r\r"))


def test_closing_twice_gives_nothing_twice() -> None:
    """What was left is given once."""
    decoder = EventDecoder()

    assert [] == list(decoder.feed(b"data: a"))
    assert [Event(b"a")] == list(decoder.close())
    assert [] == list(decoder.close())


def seconds_for(pieces: int) -> float:
    decoder = EventDecoder()
    begun = time.perf_counter()
    for _ in range(pieces):
        list(decoder.feed(b"x" * 64))
    list(decoder.close())
    return time.perf_counter() - begun


def test_a_long_line_costs_its_length() -> None:
    """Twenty times the pieces of one line take about twenty times as long, not four hundred."""
    seconds_for(1000)
    short = min(seconds_for(1000) for _ in range(5))

    assert min(seconds_for(20_000) for _ in range(3)) < 200 * short


def test_many_events_in_one_read() -> None:
    """A read that holds very many events is no different."""
    assert 50_000 == len(list(events_in(b"data: a\n\n" * 50_000)))
