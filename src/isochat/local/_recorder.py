"""A proxy on loopback, between any client and the service, that notes what passes between the two.

A client is pointed at it as at a workspace; the service may be anywhere, with TLS or without. Bytes go through as
they are and when they come. What is noted holds no secret: see `Scrubber`.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import re
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from isochat.local._received import masked
from isochat.local._running import Running

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable
    from types import TracebackType

    import aiohttp
    from aiohttp import web

__all__ = ["Door", "Exchange", "Recorder", "Scrubber"]

_BIND = "127.0.0.1"
_PATIENCE = 2.0  # seconds that `take` waits for the end of what is under way
HOP = frozenset(  # RFC 9110 §7.6.1: about one connection, not about the question
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)

# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────

#: What is a secret by its look, wherever it stands.
_SHAPES = re.compile(
    rb"\b(?:dapi|dkea|dose|dsapi|dpat)[0-9a-fA-F]{32,}(?:-\d+)?"  # Databricks: tokens, OAuth secrets
    rb"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+"  # a JSON Web Token
    rb"|\bsk-[\w-]{20,}|\bgh[opsu]_\w{30,}|\bxox[abprs]-[\w-]{10,}|\bAKIA[0-9A-Z]{16}\b"
)
#: What is a secret by its name: in JSON, in JSON inside JSON, in a form or an address.
_NAMED = re.compile(
    rb"((?:access_token|refresh_token|id_token|client_secret|client_assertion|assertion|token_value|password|api_key"
    rb"|X-Amz-Signature|X-Amz-Security-Token|X-Goog-Signature|[?&]sig)"
    rb'(?:\\*"\s*:\s*\\*"|=))([^"\\&\s]+)',
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"(?i)(authorization|cookie2?|token|secret|assertion|api[-_]?key|password|signature)$")
_SHORTEST = 8  # characters: a shorter credential would be found in any text


class Scrubber:
    """Takes secrets out of what is noted.

    A secret is the credential in a header, wherever it comes up again; what looks like a token; and what stands where
    a token or secret is named. In a body, as many asterisks stand in its place, so that lengths stay true.
    """

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def learn(self, headers: Iterable[tuple[str, str]]) -> None:
        """Remember the credentials in a request's headers."""
        for name, value in headers:
            if _SECRET_NAME.search(name):
                found = [part.strip() for part in re.split(r"[;, ]", value)]
                found += [part.partition("=")[2] for part in found]  # a cookie's
                found += [_password(part) for part in found if value[:6].lower() == "basic "]
                self._known |= {part.encode("utf-8", "surrogateescape") for part in found if len(part) >= _SHORTEST}

    def copy(self) -> Scrubber:
        """One that knows the same, and may learn more."""
        other = Scrubber()
        other._known = set(self._known)
        return other

    def headers(self, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Header lines without their secrets."""
        return tuple((name, self._header(name, value)) for name, value in headers)

    def _header(self, name: str, value: str) -> str:
        if _SECRET_NAME.search(name):
            return masked("authorization" if name.lower().endswith("authorization") else "cookie", value)
        return self.text(value)

    def text(self, text: str) -> str:
        """A text without its secrets."""
        found = text.encode("utf-8", "surrogatepass")
        clean = self.bytes(found)
        return text if clean is found else clean.decode("utf-8", "surrogatepass")

    def bytes(self, data: bytes) -> bytes:
        """A body without its secrets: the same object if there is none in it."""
        clean = data
        for secret in tuple(self._known):
            if secret in clean:
                clean = clean.replace(secret, b"*" * len(secret))
        clean = _NAMED.sub(lambda found: found[1] + b"*" * len(found[2]), clean)
        clean = _SHAPES.sub(lambda found: b"*" * len(found[0]), clean)
        return data if clean == data else clean

    def anything(self, value: Any) -> Any:
        """JSON without its secrets."""
        match value:
            case str():
                return self.text(value)
            case bytes():
                return self.bytes(value)
            case list() | tuple():
                return type(value)(map(self.anything, value)) if type(value) in (list, tuple) else value
            case dict():
                return {self.anything(key): self._named(key, each) for key, each in value.items()}
        return value

    def _named(self, key: Any, value: Any) -> Any:
        secret = isinstance(key, str) and isinstance(value, str) and _NAMED.match(f'{key}":"{value}'.encode())
        return "*" * len(value) if secret else self.anything(value)


def _password(basic: str) -> str:
    try:
        return base64.b64decode(basic, validate=True).decode("utf-8", "replace").partition(":")[2]
    except ValueError:
        return ""


# ── what is noted ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its reply, as they passed by, without their secrets.

    Times are of `time.perf_counter()`, taken at the client's side of the proxy: `began` when the request's head was
    there, `asked` when it had gone out to the service, `answered` when the reply's head was there, `first` when the
    first byte of its body was, `ended` when the last one had gone to the client. `status` is None where no reply came,
    and `error` says what went wrong on either side. A secret in a body is as many asterisks.
    """

    method: str
    #: As sent, with its query.
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)
    status: int | None
    reply_headers: tuple[tuple[str, str], ...] = field(repr=False)
    #: The reply's body as it came: each piece with the seconds since `began`.
    pieces: tuple[tuple[float, bytes], ...] = field(repr=False)
    began: float
    asked: float | None
    answered: float | None
    first: float | None
    ended: float
    error: str | None = None

    @property
    def duration(self) -> float:
        """Seconds from the request's head to the reply's last byte."""
        return self.ended - self.began

    @property
    def reply(self) -> bytes:
        """The reply's body, unpacked if it was compressed."""
        body = b"".join(piece for _, piece in self.pieces)
        return _unpacked(body, self.reply_header("content-encoding") or "")

    def header(self, name: str) -> str | None:
        """The first header of the request that is called so."""
        return _first(self.headers, name)

    def reply_header(self, name: str) -> str | None:
        """The first header of the reply that is called so."""
        return _first(self.reply_headers, name)


def _first(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    return next((value for key, value in headers if key.lower() == name.lower()), None)


def _unpacked(body: bytes, coding: str) -> bytes:
    try:
        if coding == "gzip":
            return gzip.decompress(body)
        if coding == "deflate":
            return zlib.decompress(body)
    except (OSError, EOFError, zlib.error):  # cut in the middle: as it came
        return body
    return body


@dataclass(slots=True)
class _Note:
    """An exchange while it is under way."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    began: float
    body: bytes = b""
    status: int | None = None
    reply_headers: tuple[tuple[str, str], ...] = ()
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    asked: float | None = None
    answered: float | None = None
    first: float | None = None
    ended: float | None = None
    error: str | None = None

    def exchange(self, scrub: Scrubber) -> Exchange:
        still = self.ended is None
        return Exchange(
            self.method,
            scrub.text(self.path),
            scrub.headers(self.headers),
            scrub.bytes(self.body),
            self.status,
            scrub.headers(self.reply_headers),
            self._clean(scrub),
            self.began,
            self.asked,
            self.answered,
            self.first,
            time.perf_counter() if self.ended is None else self.ended,
            "it is still under way" if still else scrub.text(self.error) if self.error else None,
        )

    def _clean(self, scrub: Scrubber) -> tuple[tuple[float, bytes], ...]:
        """The pieces without secrets, one that is cut over two pieces included."""
        whole = b"".join(piece for _, piece in self.pieces)
        clean = scrub.bytes(whole)
        if clean is whole:
            return tuple(self.pieces)
        cut, place = [], 0
        for at, piece in self.pieces:
            cut.append((at, clean[place : place + len(piece)]))
            place += len(piece)
        return tuple(cut)


# ── the proxy ────────────────────────────────────────────────────────────────────────────────────────────────────


class Door:
    """One address of a recorder: whatever comes in here goes to one host, and is noted here."""

    def __init__(self, host: str, far: str, scrubber: Scrubber) -> None:
        #: The address for clients, such as `http://127.0.0.1:43211`.
        self.host = host
        #: The service's address.
        self.far = far
        #: What takes the secrets out.
        self.scrubber: Scrubber = scrubber
        self._notes: list[_Note] = []
        self._changed = threading.Condition()

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """What has passed, in the order in which it began; what is under way is waited for a moment."""
        with self._changed:
            self._settle()
            return tuple(note.exchange(self.scrubber) for note in self._notes)

    def take(self) -> tuple[Exchange, ...]:
        """`exchanges`, which are then forgotten here."""
        with self._changed:
            self._settle()
            taken = tuple(note.exchange(self.scrubber) for note in self._notes)
            self._notes.clear()
        return taken

    def _settle(self) -> None:
        # The client has the last byte a moment before it is noted here.
        self._changed.wait_for(lambda: all(note.ended is not None for note in self._notes), _PATIENCE)

    def _begin(self, note: _Note) -> None:
        with self._changed:
            self.scrubber.learn(note.headers)
            self._notes.append(note)

    def _end(self, note: _Note) -> None:
        with self._changed:
            note.ended = time.perf_counter()
            self._changed.notify_all()

    def __repr__(self) -> str:
        return f"<Door {self.host} to {self.far}>"


class Recorder:
    """A proxy on loopback that notes what a client and the service say to each other.

    ```python
    with Recorder("https://dbc-1.cloud.databricks.com") as recorder:
        client = OpenAI(base_url=f"{recorder.host}/serving-endpoints", api_key=token)
        ...
        recorder.exchanges[-1].status
    ```

    A client logs in as it would without it: its Authorization goes on to the service, and is noted as `Bearer ***`.
    `door()` opens a further address, whose exchanges are kept apart. The service is asked not to compress what it
    sends. `ssl` is for a service whose certificate needs a context of its own.

    Raises ValueError for an address that is none, and ImportError without aiohttp (`pip install 'isochat[local]'`).
    """

    def __init__(self, far: str, *, ssl: ssl.SSLContext | None = None) -> None:
        self._far, self._ssl = address(far), ssl
        #: Knows every credential that has passed by any door.
        self.scrubber: Scrubber = Scrubber()
        self._doors: dict[int, Door] = {}
        self._running: Running | None = None
        self._first: Door | None = None

    def start(self) -> Self:
        """Start listening, in a thread of its own."""
        if self._running is None:
            running = Running(lambda: _Proxy(self._doors, self._ssl), _BIND, 0)
            self._first = self._open(running.port, self._far)
            running.start()
            self._running = running
        return self

    def stop(self) -> None:
        """Stop listening and close every connection. What was noted stays."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def door(self, far: str | None = None) -> Door:
        """A further address for clients, to the same host or another one."""
        if self._running is None:
            msg = "the recorder is not started"
            raise RuntimeError(msg)
        return self._open(self._running.listen(_BIND), self._far if far is None else address(far))

    @property
    def host(self) -> str:
        """The first address for clients."""
        return self._opened.host

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """What has passed by the first address."""
        return self._opened.exchanges

    def take(self) -> tuple[Exchange, ...]:
        """`exchanges`, which are then forgotten."""
        return self._opened.take()

    @property
    def _opened(self) -> Door:
        if self._first is None:
            msg = "the recorder was never started: use `with Recorder(…) as recorder:` or `start()`"
            raise RuntimeError(msg)
        return self._first

    def _open(self, port: int, far: str) -> Door:
        door = self._doors[port] = Door(f"http://{_BIND}:{port}", far, self.scrubber)
        return door

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, what: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Recorder of {self._far}{'' if self._running else ', not running'}>"


def address(far: str) -> str:
    """The address of a service, checked. Raises ValueError."""
    url = urlsplit(far)
    if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc or url.query or url.fragment:
        msg = "the address of the service must be http://… or https://…, without a login and without a query"
        raise ValueError(msg)
    return far.rstrip("/")


def session(far: str, context: ssl.SSLContext | None = None, *, unpack: bool = False) -> aiohttp.ClientSession:
    """Connections to the service, over which bytes go as they are; with `unpack`, not compressed."""
    import aiohttp

    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        connector=aiohttp.TCPConnector(limit=0, ssl=context or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=unpack,
        read_bufsize=2**20,
        max_line_size=2**16,
        max_field_size=2**16,
        # What is on this machine is reached without a proxy, whatever the environment says.
        trust_env=urlsplit(far).hostname not in {"127.0.0.1", "localhost", "::1"},
    )


class _Proxy:
    """What the thread of a recorder serves."""

    def __init__(self, doors: dict[int, Door], context: ssl.SSLContext | None) -> None:
        self._doors, self._ssl = doors, context
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Carry one request to the service, and its reply back."""
        assert request.transport is not None
        door = self._doors[request.transport.get_extra_info("sockname")[1]]
        headers = tuple(
            (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
            for name, value in request.raw_headers
        )
        note = _Note(request.method, request.raw_path, headers, time.perf_counter())
        door._begin(note)  # noqa: SLF001 - same module
        try:
            return await self._carry(request, door, note)
        except asyncio.CancelledError:
            note.error = note.error or "the client left"
            raise
        finally:
            door._end(note)  # noqa: SLF001

    async def close(self) -> None:
        """Close the connections to the service."""
        for session in self._sessions.values():
            await session.close()

    def _to(self, far: str) -> aiohttp.ClientSession:
        if far not in self._sessions:
            self._sessions[far] = session(far, self._ssl)
        return self._sessions[far]

    async def _carry(self, request: web.BaseRequest, door: Door, note: _Note) -> web.StreamResponse:
        from aiohttp import ClientError, web
        from yarl import URL

        from isochat.local._carry import reset

        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        note.body = b"".join([part async for part in request.content.iter_any()])
        kept = [(k, v) for k, v in note.headers if k.lower() not in HOP | {"host", "content-length", "expect"}]
        sent = [(k, v) for k, v in kept if k.lower() != "accept-encoding"]
        response = None
        try:
            url = URL(door.far + note.path, encoded=True)
            skip = ("User-Agent", "Accept", "Content-Type")
            note.asked = time.perf_counter()
            async with self._to(door.far).request(
                note.method,
                url,
                headers=[*sent, ("Accept-Encoding", "identity")],
                data=note.body if note.body or note.method in {"POST", "PUT", "PATCH"} else None,
                skip_auto_headers=skip,
                allow_redirects=False,
            ) as reply:
                note.answered, note.status = time.perf_counter(), reply.status
                note.reply_headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in reply.raw_headers)
                response = web.StreamResponse(status=reply.status, reason=reply.reason)
                for name, value in note.reply_headers:
                    if name.lower() not in HOP:
                        response.headers.add(name, value)
                if (
                    "content-length" not in reply.headers
                    and request.version >= (1, 1)
                    and reply.status not in {204, 304}
                ):
                    response.enable_chunked_encoding()
                await response.prepare(request)
                async for piece in reply.content.iter_any():
                    now = time.perf_counter()
                    if note.first is None:
                        note.first = now
                    note.pieces.append((now - note.began, piece))
                    await response.write(piece)
                await response.write_eof()
                return response
        except (ClientError, OSError, TimeoutError) as why:
            # What broke on the other side breaks on this one, at the same place.
            note.error = f"{type(why).__name__}: {why}".rstrip(": ")
            if response is None:
                return reset(request)
            if request.transport is not None:
                request.transport.close()
            return response
