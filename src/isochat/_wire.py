"""A reply of the service, whole or coming in, as the answer or the error that it is. Pure: no I/O, no clock, no client.

The codec of the JSON itself stands in `_encode` and `_decode`, and is reached through here.
"""

from __future__ import annotations

import enum
import re
from codecs import BOM_UTF8
from dataclasses import field
from typing import TYPE_CHECKING, Any

import msgspec

from isochat import _refusal, _sse
from isochat._decode import (
    decode_chunk,
    decode_completion,
    decode_message,
    decode_part,
    decode_usage,
    whole_as_chunk,
)
from isochat._encode import (
    call_to_json,
    message_to_json,
    part_to_json,
    request_to_json,
    response_to_json,
    to_bytes,
    usage_to_json,
)
from isochat._frozen import changed, frozen
from isochat._gather import Gathering
from isochat._history import ANSWER_ONLY
from isochat._plain import plain_chunk, plain_completion
from isochat._types import ChatChunk
from isochat.errors import MalformedReply, ServiceError, StreamInterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from isochat._types import ChatResponse

__all__ = [
    "ANSWER_ONLY",
    "Done",
    "Head",
    "Incoming",
    "Reply",
    "call_to_json",
    "decode_chunk",
    "decode_completion",
    "decode_event",
    "decode_message",
    "decode_part",
    "decode_reply",
    "decode_usage",
    "message_to_json",
    "part_to_json",
    "read_event",
    "read_json",
    "read_reply",
    "request_to_json",
    "response_to_json",
    "to_bytes",
    "usage_to_json",
    "whole_as_chunk",
]

OK = 200
_NO_EVENT = (b"{", b"[", b"<")  # no field of an event begins so


@frozen()
class Reply:
    """An HTTP answer as it was on the wire, whichever client received it. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    raw: Any = field(default=None, compare=False, repr=False)

    @property
    def request_id(self) -> str | None:
        """The identifier to quote to support."""
        return self.headers.get("x-request-id")

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of events, by its look or, where that says nothing, by its type."""
        start = self.body[:64].removeprefix(BOM_UTF8).lstrip()
        if start.startswith(_sse.OPENINGS):
            return True
        return _says_stream(self.headers) and not start.startswith(_NO_EVENT)


def decode_reply(reply: Reply) -> ChatResponse:
    """The answer in an HTTP reply, or the error that it amounts to.

    Raises a `ServiceError` if the service said no, under whatever status, and `MalformedReply` if it made no sense.
    """
    return read_reply(reply, decode_completion, _pieces, plain_completion)


def _pieces(body: bytes) -> Iterator[ChatChunk | Done | None]:
    return map(decode_event, _sse.events_in(body))


def read_reply(
    reply: Reply,
    whole: Callable[[Any], ChatResponse],
    pieces: Callable[[bytes], Iterable[ChatChunk | Done | None]],
    plain: Callable[[bytes, str | None, Any], ChatResponse | None] | None = None,
) -> ChatResponse:
    """`decode_reply` for any of the service's languages: how it says an answer whole, and how in a stream.

    `plain` is a shorter way to read most whole ones.
    """
    if not OK <= reply.status < 300:
        raise _refusal.service_error(reply.status, reply.headers, reply.body)
    raw = reply.raw if reply.raw is not None else reply.body
    if reply.is_event_stream:
        return changed(_collected(reply, pieces), request_id=reply.request_id, raw=raw)
    if plain is not None and (answer := plain(reply.body, reply.request_id, raw)) is not None:
        return answer
    value = read_json(reply.body, reply)
    if _refusal.complains(value) and not (isinstance(value, dict) and value.get("choices")):
        raise _refusal.service_error(reply.status, reply.headers, value)
    try:
        return changed(whole(value), request_id=reply.request_id, raw=raw)
    except MalformedReply as error:
        message = f"the answer makes no sense: {error.message}"
        raise MalformedReply(
            message, status=reply.status, request_id=reply.request_id, body=value, path=error.path
        ) from None


def _collected(reply: Reply, pieces: Callable[[bytes], Iterable[ChatChunk | Done | None]]) -> ChatResponse:
    """The answer in a stream that was not asked for: nothing says that a custom endpoint heeds `stream`."""
    gathering = Gathering()
    try:
        for said in pieces(reply.body):
            if said is Done.DONE:
                return gathering.response()
            if isinstance(said, ChatChunk):
                gathering.add(said)
    except (ServiceError, MalformedReply) as error:
        broke: ServiceError | MalformedReply = error
    else:
        if gathering.complete:
            return gathering.response()
        broke = MalformedReply("the answer is a stream that ends too early", body=reply.body)
    broke.request_id = broke.request_id or reply.request_id
    if isinstance(broke, MalformedReply):
        broke.status = reply.status
    if gathering.empty:
        raise broke
    raise StreamInterrupted(
        f"the stream broke in the middle: {broke.message}",
        partial=changed(gathering.response(), request_id=reply.request_id),
        error=broke if isinstance(broke, ServiceError) else None,
    ) from broke


# The escape of half a surrogate pair, which is no character, among what it must be told from.
_ESCAPES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def _mended(body: bytes) -> bytes:
    """The body with a replacement character for each half: a model that is cut off in the middle of an emoji."""
    return _ESCAPES.sub(lambda found: rb"\ufffd" if found["half"] else found[0], body)


def read_json(body: bytes, reply: Reply | None = None) -> Any:
    """The JSON that a body holds. Raises `MalformedReply` that says what it holds instead."""
    try:
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            if (mended := _mended(body.removeprefix(BOM_UTF8))) == body:
                raise
            return msgspec.json.decode(mended)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        start = body[:200].lstrip().lower()
        if not start:
            message = "the answer is empty"
        elif start.startswith((b"<!doctype", b"<html", b"<head")):
            message = "the answer is a web page, perhaps a login page: is the host a workspace's own address?"
        else:
            message = f"the answer is not JSON: {error}"
        malformed = MalformedReply(message, body=body)
        if reply is not None:
            malformed.status, malformed.request_id = reply.status, reply.request_id
        raise malformed from error


# ── a reply that is coming in ────────────────────────────────────────────────────────────────────────────────────


@frozen()
class Head:
    """The beginning of a streamed reply: what can be said before anything of it has been read."""

    request_id: str | None = None


class Incoming:
    """The bytes of a reply to a question that asked for a stream, as the events that they hold.

    A reply that is no stream after all (an error, a web page, a whole answer) comes as one `Reply` at its end.
    """

    def __init__(self, status: int, headers: Mapping[str, str], raw: Any = None) -> None:
        self._whole: list[bytes] | None = [] if status != OK or not _says_stream(headers) else None
        self._status, self._headers, self._raw = status, headers, raw
        self._decoder = _sse.EventDecoder()
        self._blank: list[bytes] = []  # what came before anything that could tell one from the other
        self._begun = False

    @property
    def head(self) -> Head:
        """What the headers say."""
        return Head(self._headers.get("x-request-id"))

    def feed(self, read: bytes) -> Iterator[_sse.Event]:
        """Take what was read; give the events that it completes."""
        if self._whole is None and not self._begun:
            self._begun = bool(read.strip())
            if not self._begun:
                self._blank.append(read)
            elif read.lstrip().startswith(_NO_EVENT):  # the type was wrong
                self._whole = self._blank
        if self._whole is not None:
            self._whole.append(read)
            return iter(())
        return self._decoder.feed(read)

    def close(self) -> Iterator[_sse.Event | Reply]:
        """The reply has ended: give what was left."""
        if self._whole is not None or not self._begun:
            yield Reply(self._status, self._headers, b"".join(self._whole or ()), self._raw)
        else:
            yield from self._decoder.close()


def _says_stream(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").startswith("text/event-stream")


class Done(enum.Enum):
    """The service's word that a stream is complete."""

    DONE = "[DONE]"


def decode_event(event: Any) -> ChatChunk | Done | None:
    """What one event of a stream adds; None for one that adds nothing, such as a ping.

    Raises a `ServiceError` if the event is the service's complaint, and `MalformedReply` if it makes no sense.
    """
    if isinstance(event, Reply):
        return whole_as_chunk(decode_reply(event))
    if isinstance(event, Head):
        return None
    if event.type == "message" and (chunk := plain_chunk(event.data)) is not None:
        return chunk
    data = event.data.strip()
    if data == b"[DONE]":
        return Done.DONE
    if not data or event.type == "ping":
        return None
    return decode_chunk(read_event(data, event.type))


def read_event(data: bytes, named: str) -> Any:
    """The JSON that an event holds. Raises `MalformedReply` if it is none, and a `ServiceError` if it is named so."""
    try:
        value = read_json(data)
    except MalformedReply:
        if named == "error":
            raise _refusal.service_error(None, {}, data) from None
        raise
    if named == "error" and not _refusal.complains(value):
        raise _refusal.service_error(None, {}, value)
    return value
