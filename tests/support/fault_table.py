"""Every fault there is, how the server commits it, and what is promised of it.

What is promised holds for every backend, one that joins tomorrow too. SQL, which knows no streams and has a warehouse
between it and the model, has promises of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from raw_server import Chat, Exchange, event, json_bytes

from isochat import (
    AuthenticationFailed,
    ChatError,
    ConnectionFailed,
    ContentFiltered,
    ContextLengthExceeded,
    DeadlineExceeded,
    EndpointNotFound,
    MalformedReply,
    PermissionDenied,
    RateLimited,
    RequestRefused,
    ServiceError,
    ServiceUnavailable,
    StreamInterrupted,
    UnsupportedOption,
)

MODES = ("blocking", "asyncio", "stream", "async stream")
ATTEMPTS = 3
SHORT = 0.4  # seconds for a question whose answer never comes,
LONG = 20.0  # and for one whose end does
MIB = 1024 * 1024
BIG = 64 * MIB

#: What the server does with a question: the exchange, what the service speaks, and whether it was asked for a stream.
Does = Callable[[Exchange, Chat, bool], object]
#: What is sent, as it stands or in the words of the service.
Said = bytes | Callable[[Chat], bytes]


@dataclass(frozen=True)
class Promise:
    """How a question ends."""

    #: The class of the error, exactly; None for an answer.
    error: type[ChatError] | None = None
    #: How often it is asked.
    attempts: int = 1
    #: The text of the answer, or of what had arrived of it.
    text: str | None = None
    #: What the error says of itself.
    says: dict[str, Any] = field(default_factory=dict)
    #: What broke a stream.
    cause: type[BaseException] = BaseException
    #: Whether an error must have a cause: what the client raised, or the attempt before.
    caused: bool = True


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, and what comes of it."""

    name: str
    does: Does
    whole: Promise
    #: Where a stream was asked for, if that is another matter.
    streamed: Promise | None = None
    #: Where SQL was asked, if that is another matter.
    in_sql: Promise | None = None
    timeout: float = LONG
    #: Where the question is sent: to the server, to nobody, to no name, to one that is not trusted, to one without TLS.
    to: str = "server"
    #: Whether the login has a fresh token each time.
    fresh: bool = False
    #: Whether the question after it may need a second attempt.
    lingers: bool = False

    def promise(self, backend: str, mode: str) -> Promise:
        """What is promised of it there."""
        streams = "stream" in mode
        if backend == "ai-query":
            return NO_STREAM if streams else self.in_sql or self.whole
        return self.streamed if streams and self.streamed is not None else self.whole


def answer(text: str = "Hello", attempts: int = 1) -> Promise:
    """An answer."""
    return Promise(None, attempts, text)


def error(kind: type[ChatError], attempts: int = 1, **says: Any) -> Promise:
    """An error; what it says of itself besides."""
    return Promise(kind, attempts, says=says)


def again(kind: type[ChatError], **says: Any) -> Promise:
    """An error that may pass: asked as often as the caller allows."""
    return error(kind, ATTEMPTS, **says)


def broken(cause: type[ChatError]) -> Promise:
    """A stream that broke after it had begun: not asked for again, and what had arrived is kept."""
    return Promise(StreamInterrupted, text="Hello", cause=cause)


#: SQL has no streams: that is said before anything is sent.
NO_STREAM = error(UnsupportedOption, 0, option="stream", sent=False)
NOT_REACHED = again(ConnectionFailed, sent=False)
LOST = again(ConnectionFailed, sent=True)
LATE = error(DeadlineExceeded, timeout=SHORT)
NONSENSE = error(MalformedReply, status=200)
UNREADABLE = error(MalformedReply)


# ── what the server does ─────────────────────────────────────────────────────────────────────────────────────────────


def said(what: Said, speech: Chat) -> bytes:
    return what if isinstance(what, bytes) else what(speech)


def replies(what: Said, **how: Any) -> Does:
    """An answer in one piece."""
    return lambda exchange, speech, streams: exchange.reply(said(what, speech), **how)


def says(*parts: bytes) -> Does:
    """These bytes and no more, whatever HTTP would have."""
    return lambda exchange, speech, streams: (exchange.send(*parts), exchange.hang_up())


def tells(*events: Said) -> Does:
    """An answer in events, asked for or not."""
    return lambda exchange, speech, streams: (
        exchange.begin(),
        exchange.piece(*(said(one, speech) for one in events)),
        exchange.end(),
    )


def in_turn(*does: Does) -> Does:
    """One question so, the next one otherwise; the last of these for ever."""
    return lambda exchange, speech, streams: does[min(exchange.number, len(does)) - 1](exchange, speech, streams)


def well(exchange: Exchange, speech: Chat, streams: bool) -> None:  # noqa: FBT001 - as all of them
    """As it should be."""
    if streams:
        tells(*speech.stream("Hel", "lo"))(exchange, speech, streams)
    else:
        exchange.reply(speech.whole("Hello"))


def breaks(how: str) -> Does:
    """Half of an answer, or two pieces of a stream, which are heard before it breaks."""

    def does(exchange: Exchange, speech: Chat, streams: bool) -> None:  # noqa: FBT001
        if streams:
            exchange.begin()
            exchange.piece(hel(speech), lo(speech))
            exchange.until_heard()
        else:
            body = hello(speech)
            exchange.send(HEAD % (b"application/json", len(body)) + body[: len(body) // 2])
        getattr(exchange, how)()

    return does


def drips(exchange: Exchange, speech: Chat, streams: bool) -> None:  # noqa: FBT001
    """A byte now, a byte then: no single read takes long."""
    exchange.send(HEAD % (b"text/event-stream" if streams else b"application/json", 9999))
    if streams:
        exchange.send(hel(speech) + lo(speech))
    while True:
        exchange.pause(0.02)
        exchange.send(b":" if streams else b" ")


def drips_headers(exchange: Exchange, *_: Any) -> None:
    """The same before the answer begins."""
    exchange.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        exchange.pause(0.02)
        exchange.send(b"x")


def big(exchange: Exchange, speech: Chat, streams: bool) -> None:  # noqa: FBT001
    """64 MiB of text: in one event of a stream, or in one body."""
    before, _, after = (speech.says("@") if streams else speech.whole("@")).partition(b"@")
    blocks = [BLOCK] * (BIG // MIB)
    if streams:
        tells(speech.opening(), before, *blocks, after, DONE)(exchange, speech, streams)
    else:
        exchange.send(HEAD % (b"application/json", len(before) + BIG + len(after)), before, *blocks, after)


def hello(speech: Chat) -> bytes:
    return speech.whole("Hello")


def hel(speech: Chat) -> bytes:
    return speech.opening() + speech.says("Hel")


def lo(speech: Chat) -> bytes:
    return speech.says("lo")


def ending(speech: Chat) -> bytes:
    return speech.ending("Hello")


def saying(raw: bytes) -> Callable[[Chat], bytes]:
    """A whole answer whose text is this, as it stands."""
    return lambda speech: speech.whole("@").replace(b"@", raw)


def with_field(raw: bytes) -> Callable[[Chat], bytes]:
    """A whole answer that holds a field which is this, as it stands."""
    return lambda speech: speech.whole("Hello", extra_field="@").replace(b'"@"', raw)


def refuses(status: int, code: str | int | None = None, message: str = "No.", **headers: str) -> Does:
    """An answer that is no."""
    body = json_bytes({"message": message} if code is None else {"error_code": code, "message": message})
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return replies(body, status=status, headers=named)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
DONE = b"data: [DONE]\n\n"
BLOCK = b"x" * MIB
DEEP = b'{"choices":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
PAGE = b"<!DOCTYPE html><title>Sign in</title>"
TODAY = formatdate(1_800_000_000, usegmt=True)
SLOW_DOWN = "REQUEST_LIMIT_EXCEEDED"

#: The shapes in which the service complains in the middle of a stream, and what each is.
COMPLAINTS: dict[str, tuple[bytes, type[ServiceError]]] = {
    "error_code": (event({"error_code": "INTERNAL_ERROR", "message": "Oh."}), ServiceUnavailable),
    "an object": (event({"error": {"message": "Oh.", "type": "server_error"}}), ServiceUnavailable),
    "a number for a code": (event({"error": {"message": "Oh.", "code": 429}}), RateLimited),
    "a text": (event({"error": "Oh."}), ServiceError),
    "a filter": (event({"error": {"message": "Oh.", "code": "content_filter"}}), ContentFiltered),
    "type: error": (event({"type": "error", "code": "server_error", "message": "Oh."}), ServiceUnavailable),
    "event: error, a text": (event(b"Oh.", "error"), ServiceError),
    "event: error, an object": (event({"message": "Oh."}, "error"), ServiceError),
    "event: error, type: error": (
        event({"type": "error", "error": {"type": "overloaded_error", "message": "Oh."}}, "error"),
        ServiceUnavailable,
    ),
}


def streamed(name: str, *events: Said, ends: Promise) -> Fault:
    """Something about a stream: the same where none was asked for, but in SQL, which can read none."""
    return Fault(name, tells(*events), ends, in_sql=NONSENSE)


FAULTS: tuple[Fault, ...] = (
    # ── nobody is reached
    Fault("refused connection", well, NOT_REACHED, to="nobody"),
    Fault("DNS failure", well, NOT_REACHED, to="no name"),
    Fault("TLS, a certificate of nobody's", well, error(ConnectionFailed, sent=False), to="untrusted"),
    Fault("TLS, reset in the handshake", well, again(ConnectionFailed), to="no tls"),
    # ── the connection breaks
    Fault("reset before the headers", lambda x, *_: x.reset(), LOST),
    Fault("closed before the headers", lambda x, *_: x.hang_up(), LOST),
    Fault("closed in the headers", says(b"HTTP/1.1 200 OK\r\nContent-Ty"), LOST),
    Fault("reset in the body", breaks("reset"), LOST, broken(ConnectionFailed)),
    Fault("closed in the body", breaks("hang_up"), LOST, broken(ConnectionFailed)),
    Fault("closed before the first event",
          lambda x, *_: (x.begin(), x.piece(b": hello\n\n"), x.hang_up()), LOST),
    Fault("no HTTP", says(b"\x00\x01\x02\x03 SSH-2.0-OpenSSH\r\n\r\n"), LOST),
    Fault("a chunk without a size", says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), LOST),
    # ── it takes its time
    Fault("stall before the headers", lambda x, *_: x.hang(), LATE, timeout=SHORT),
    Fault("stall in the body", breaks("hang"), LATE, broken(DeadlineExceeded), timeout=SHORT),
    Fault("slow drip", drips, LATE, broken(DeadlineExceeded), timeout=SHORT),
    Fault("slow drip of the headers", drips_headers, LATE, timeout=SHORT),
    # ── HTTP that does not add up
    Fault("Content-Length too long", lambda x, speech, _: (x.reply(hello(speech), length=9999), x.hang_up()), LOST),
    # What HTTPX has read beyond the answer, it takes for the beginning of the next one (httpcore 1.0, httpcore2 2.16).
    Fault("Content-Length too short", replies(hello, length=20), NONSENSE, lingers=True),
    Fault("a gigantic header", replies(hello, headers=(("X-Big", "x" * 600_000),)), LOST),
    Fault("a thousand headers", replies(hello, headers=tuple((f"X-{n}", "x" * 200) for n in range(1000))), LOST),
    Fault("no Content-Type", replies(hello, kind=None), answer()),
    Fault("not the gzip that it says", replies(hello, headers=(("Content-Encoding", "gzip"),)), UNREADABLE),
    Fault("a redirect", replies(b"", status=307, headers=(("Location", "http://127.0.0.1:1/"),)),
          error(ServiceError, status=307)),
    # ── a success that is none
    Fault("truncated JSON", replies(lambda speech: hello(speech)[:-20]), NONSENSE),
    Fault("empty 200", replies(b""), NONSENSE),
    Fault("null", replies(b"null"), NONSENSE),
    Fault("junk bytes", replies(bytes(range(256)) * 4), NONSENSE),
    Fault("junk bytes, said to be events", replies(bytes(range(1, 256)) * 4, kind="text/event-stream"), UNREADABLE),
    Fault("HTML login page with status 200", replies(PAGE, kind="text/html"), NONSENSE),
    Fault("HTML login page, said to be events", replies(PAGE, kind="text/event-stream"), NONSENSE),
    Fault("JSON nested 10,000 deep", replies(DEEP), NONSENSE),
    Fault("invalid UTF-8", replies(saying(b"\xff\xfe")), NONSENSE),
    Fault("NaN", replies(with_field(b"NaN")), NONSENSE),
    Fault("a refusal with status 200", replies(json_bytes({"error_code": "RESOURCE_EXHAUSTED", "message": "Full."})),
          again(RateLimited, status=200)),
    # ── odd, and an answer all the same
    Fault("huge integers", replies(with_field(b"1" * 400)), answer()),
    Fault("duplicate keys", replies(lambda speech: hello(speech).replace(b"{", b'{"id":"a","id":"b",', 1)), answer()),
    Fault("lone surrogates", replies(saying(rb"Hello \ud83d")), answer("Hello \ufffd")),
    Fault("64 MiB", big, answer("x" * BIG)),
    Fault("JSON where a stream was asked for, and a stream where JSON was",
          lambda x, speech, streams: well(x, speech, not streams), answer(), in_sql=NONSENSE),
    Fault("a connection that is kept open after the end", lambda x, speech, streams: (
        x.begin(), x.piece(*speech.stream("Hel", "lo"), DONE), x.hang()), LATE, answer(), timeout=SHORT),
    # ── streams
    streamed("truncated stream", hel, lo, ends=broken(MalformedReply)),
    streamed("cut in an event", hel, lo, b'data: {"choi', ends=broken(MalformedReply)),
    streamed("a stream of nothing", b": hello\n\n", ends=UNREADABLE),
    streamed("JSON nested 10,000 deep in an event", hel, lo, event(DEEP), ending, ends=broken(MalformedReply)),
    streamed("invalid UTF-8 in an event", hel, lo, event(b'{"a": "\xff"}'), ending, ends=broken(MalformedReply)),
    streamed("NaN in an event", hel, lo, event(b'{"a": NaN}'), ending, ends=broken(MalformedReply)),
    streamed("HTML in an event", hel, lo, event(PAGE), ending, ends=broken(MalformedReply)),
    streamed("events after [DONE]", hel, lo, ending, DONE, event(PAGE), lo, ends=answer()),
    streamed("[DONE] without a finish reason", hel, lo, DONE, ends=answer()),
    streamed("a finish reason without [DONE]", hel, lo, lambda s: ending(s).replace(DONE, b""), ends=answer()),
    *(streamed(f"error event, {name}", hel, lo, complaint, ends=broken(kind))
      for name, (complaint, kind) in COMPLAINTS.items()),
    *(streamed(f"error event first, {name}", b": hello\n\n", complaint,
               ends=again(kind) if kind.transient else error(kind))
      for name, (complaint, kind) in COMPLAINTS.items() if name in ("error_code", "a filter", "type: error")),
    # ── refusals
    Fault("400", refuses(400, "BAD_REQUEST"), error(RequestRefused, status=400, error_code="BAD_REQUEST")),
    Fault("400, too long", refuses(400, "BAD_REQUEST", "prompt is too long"), error(ContextLengthExceeded, status=400)),
    Fault("401", refuses(401, 401), error(AuthenticationFailed, status=401)),
    Fault("401 that a fresh token cures", in_turn(refuses(401, 401), well), answer(attempts=2), fresh=True),
    Fault("401 that a fresh token does not cure", refuses(401, 401), error(AuthenticationFailed, 2, status=401),
          fresh=True),
    Fault("403, a rate limit of 0", refuses(403, "PERMISSION_DENIED", "disabled due to a rate limit of 0."),
          error(PermissionDenied, status=403)),
    Fault("404", refuses(404, "RESOURCE_DOES_NOT_EXIST"), error(EndpointNotFound, status=404)),
    Fault("408", refuses(408), again(ServiceUnavailable, status=408)),
    Fault("413 text", replies(b"Payload too large", status=413, kind="text/plain"), error(RequestRefused, status=413)),
    Fault("422", refuses(422), error(RequestRefused, status=422)),
    Fault("429 without Retry-After", refuses(429, SLOW_DOWN), again(RateLimited, status=429, retry_after=None)),
    Fault("429, Retry-After in seconds", refuses(429, SLOW_DOWN, Retry_After="0.02"),
          again(RateLimited, status=429, retry_after=0.02)),
    Fault("429, Retry-After as a date", refuses(429, SLOW_DOWN, Retry_After=TODAY, Date=TODAY),
          again(RateLimited, status=429, retry_after=0.0)),
    Fault("429, the wait in the body",
          replies(json_bytes({"error": {"message": "Slow.", "code": 429, "retry_after": 0.02}}), status=429),
          again(RateLimited, status=429, retry_after=0.02)),
    Fault("429, Retry-After beyond the deadline", refuses(429, SLOW_DOWN, Retry_After="3600"),
          error(RateLimited, status=429, retry_after=3600.0)),
    Fault("500", refuses(500, "INTERNAL_ERROR"), again(ServiceUnavailable, status=500)),
    Fault("500, nested 10,000 deep", replies(DEEP, status=500), again(ServiceUnavailable, status=500)),
    Fault("500 of 4 MiB, then success", in_turn(replies(BLOCK * 4, status=500, kind="text/plain"), well),
          answer(attempts=2)),
    Fault("HTML 502", replies(b"<html><title>502 Bad Gateway</title></html>", status=502, kind="text/html"),
          again(ServiceUnavailable, status=502)),
    Fault("503", refuses(503, "TEMPORARILY_UNAVAILABLE"), again(ServiceUnavailable, status=503)),
    Fault("503, Retry-After in seconds", refuses(503, Retry_After="0.02"),
          again(ServiceUnavailable, status=503, retry_after=0.02)),
    Fault("503, then success", in_turn(refuses(503), well), answer(attempts=2)),
    Fault("504 text", replies(b"upstream request timeout", status=504, kind="text/plain"),
          again(ServiceUnavailable, status=504)),
    Fault("reset, 429, then success", in_turn(lambda x, *_: x.reset(), refuses(429), well), answer(attempts=3)),
)  # fmt: skip


# ── behind a warehouse ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Behind:
    """What goes wrong between a SQL warehouse and the model that it asks: ordered of the local endpoint.

    What goes wrong between us and the warehouse is in the table above, as for every backend. What is wrong with the
    model's answer reaches us in the words of SQL; of its headers, Retry-After for one, nothing does.
    """

    name: str
    promise: Promise
    #: What goes wrong with each attempt,
    order: dict[str, Any] | None = None
    #: or what is answered to it.
    reply: dict[str, Any] | None = None
    timeout: float = LONG


#: A statement that runs on is no exception of anybody's.
_RUNS_ON = Promise(DeadlineExceeded, says={"timeout": SHORT}, caused=False)
_502 = again(ServiceUnavailable, status=502)
_OVERLOADED = {"error_code": SLOW_DOWN, "message": "Slow."}

BEHIND: tuple[Behind, ...] = (
    Behind("reset before the headers", _502, order={"reset": True}),
    Behind("closed in the body", _502, order={"drop_after": 10}),
    Behind("stall before the headers", _RUNS_ON, order={"stall": 60}, timeout=SHORT),
    Behind("slow drip", _RUNS_ON, order={"drip": 1}, timeout=SHORT),
    Behind("truncated JSON", UNREADABLE, reply={"body": Chat().whole("Hello")[:-20]}),
    Behind("empty 200", UNREADABLE, reply={"body": b""}),
    Behind("null", UNREADABLE, reply={"body": b"null"}),
    Behind("junk bytes", UNREADABLE, reply={"body": bytes(range(256))}),
    Behind("HTML login page with status 200", UNREADABLE, reply={"body": PAGE}),
    Behind("a stream where JSON was asked for", UNREADABLE, reply={"chunks": Chat().stream("Hel", "lo")}),
    Behind("a refusal with status 200", again(RateLimited, status=200), reply={"body": _OVERLOADED}),
    Behind("400", error(RequestRefused, status=400), order={"status": 400}),
    Behind("401", error(AuthenticationFailed, status=401), order={"status": 401}),
    Behind("403", error(PermissionDenied, status=403), order={"status": 403}),
    Behind("404", error(EndpointNotFound, status=404), order={"status": 404}),
    Behind("408", again(ServiceUnavailable, status=408), order={"status": 408}),
    Behind("413 text", error(RequestRefused, status=413), reply={"status": 413, "body": b"Payload too large"}),
    Behind("422", error(RequestRefused, status=422), order={"status": 422}),
    Behind("429, Retry-After in seconds", again(RateLimited, status=429, retry_after=None),
           order={"status": 429, "retry_after": 1}),
    Behind("500", again(ServiceUnavailable, status=500), order={"status": 500}),
    Behind("HTML 502", _502, reply={"status": 502, "body": b"<html><title>502 Bad Gateway</title></html>"}),
    Behind("503", again(ServiceUnavailable, status=503), order={"status": 503}),
    Behind("504 text", again(ServiceUnavailable, status=504), reply={"status": 504, "body": b"timeout"}),
)  # fmt: skip
