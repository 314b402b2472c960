"""Getting an answer onto the wire, and getting it wrong where a fault says so.

Cuts and resets work on the connection itself: what a client sees is what it would see from a proxy that died.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from isochat.local._faults import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

__all__ = ["Reply", "carry", "event", "reset"]

_NOTHING = Fault()


@dataclass(slots=True)
class Reply:
    """What goes out: a whole body, or `events` written one by one (each a piece of bytes)."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    events: AsyncIterator[bytes] | None = None
    pause: float = 0.0
    #: Whether it is worth recording: not if it comes from a recording, or says that there is no answer.
    record: bool = True

    @classmethod
    def of_json(cls, status: int, body: object, headers: dict[str, str] | None = None, *, record: bool = True) -> Reply:
        """A reply whose body is JSON."""
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return cls(status, {"content-type": "application/json", **(headers or {})}, content, record=record)


def event(data: object) -> bytes:
    """A server-sent event holding JSON (a text goes as it is)."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "surrogatepass") + b"\n\n"


async def carry(request: web.BaseRequest, reply: Reply, fault: Fault | None = None) -> web.StreamResponse:
    """Send the reply as the fault would have it."""
    fault = fault or _NOTHING
    await asyncio.sleep(fault.delay or 0)
    if fault.stall and fault.after is None:
        await asyncio.sleep(fault.stall)
    if fault.reset is True:
        return reset(request)
    reply.headers.update(fault.heading)
    if fault.junk is not None:
        reply.body, reply.events = fault.junk.encode() if isinstance(fault.junk, str) else fault.junk, None
    if reply.events is not None and fault.content_length is not None:
        reply.body, reply.events = b"".join([part async for part in reply.events]), None
    if reply.events is not None:
        return await _carry_events(request, reply, reply.events, fault)
    return await _carry_body(request, reply, fault)


async def _carry_events(
    request: web.BaseRequest, reply: Reply, events: AsyncIterator[bytes], fault: Fault
) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    sent, error_at = 0, 1 if fault.after is None else fault.after
    try:
        async for part in events:
            if await _interrupted(request, response, fault, sent, error_at):
                return response
            await response.write(part)
            sent += 1
            pause = fault.drip or reply.pause
            if pause:
                await asyncio.sleep(pause)
        if not await _interrupted(request, response, fault, sent, error_at):
            await response.write_eof()
    except ConnectionResetError:
        return response  # the client left the stream, as it may
    return response


async def _interrupted(
    request: web.BaseRequest, response: web.StreamResponse, fault: Fault, sent: int, error_at: int
) -> bool:
    """Do what the fault wants after so many events; True when that was the end."""
    if fault.stall and fault.after == sent:
        await asyncio.sleep(fault.stall)
    if fault.reset is not False and fault.reset == sent:
        reset(request)
        return True
    if fault.drop_after == sent:
        _hang_up(request)
        return True
    if fault.error_event is not None and sent == error_at:
        await response.write(event(fault.error_event))
    elif fault.cut_after != sent:
        return False
    await response.write_eof()
    return True


async def _carry_body(request: web.BaseRequest, reply: Reply, fault: Fault) -> web.StreamResponse:
    body = reply.body if fault.cut_after is None else reply.body[: fault.cut_after]
    in_parts = fault.drip or fault.drop_after is not None or fault.reset is not False or fault.after is not None
    if not in_parts and not fault.content_length:
        return web.Response(status=reply.status, headers=reply.headers, body=body)
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.content_length = max(0, len(body) + (fault.content_length or 0))
    if fault.content_length:
        response.force_close()
    await response.prepare(request)
    for start, end in _segments(len(body), fault):
        if fault.stall and fault.after == start:
            await asyncio.sleep(fault.stall)
        if fault.reset is not False and fault.reset == start:
            return reset(request)
        if fault.drop_after == start:
            _hang_up(request)
            return response
        if start < end:
            await response.write(body[start:end])
            await asyncio.sleep(fault.drip or 0)
    await response.write_eof()
    return response


def _segments(length: int, fault: Fault) -> Iterable[tuple[int, int]]:
    """Where to write from and to, so that every place something happens at is between two writes."""
    step = 1 if fault.drip else max(1, length)
    places = {0, length, *range(0, length, step)}
    places |= {p for p in (fault.after, fault.drop_after, int(fault.reset) or None) if p is not None and p <= length}
    ordered = sorted(places)
    return zip(ordered, [*ordered[1:], length], strict=True)


def reset(request: web.BaseRequest) -> web.Response:
    """Close with RST, not FIN: what was not read yet is lost to the client."""
    transport = request.transport
    if transport is not None:
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
        transport.abort()
    return web.Response(status=500)


def _hang_up(request: web.BaseRequest) -> None:
    """Close in the middle: what was written still arrives."""
    if request.transport is not None:
        request.transport.close()
