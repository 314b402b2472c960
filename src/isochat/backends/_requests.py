"""What the clients that stand on `requests` have in common: a line beneath the public method, deadlines, and errors.

`requests` is imported only where a session is made, and urllib3 never: a session's own pools are extended.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import unquote, urlsplit

from isochat import _wire
from isochat._config import environment, is_this_machine
from isochat.backends import _line
from isochat.backends._base import Backend
from isochat.backends._line import NotFollowed
from isochat.backends._worker import Worker
from isochat.errors import ChatError, ConnectionFailed, DeadlineExceeded
from isochat.transports import CONNECT, broken, late, packed, trust, unconnected
from isochat.transports.deadline import Hold, keep_hold, sooner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator

    from isochat._types import ChatChunk, ChatResponse


_END = object()
_POOL = 256  # connections that are kept; more may be open at once
_READ = 65536


# ── the line ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Line(_line.Line, Hold):
    """A line over `requests`, and a way to cut it off. The answer is read, unless a stream was asked for and given."""

    def __init__(self) -> None:
        _line.Line.__init__(self)
        Hold.__init__(self)

    def is_for(self, request: Any) -> bool:
        """Whether this request of `requests` is the question."""
        return request.method == "POST" and _address(request.url).path.endswith(_unquoted(self.path))

    def explained(self, failure: Exception) -> ChatError | None:
        """What a failure of the connection amounts to, by the names of requests and urllib3."""
        return transport_error(failure)


class _Address(NamedTuple):
    """What is asked of an address again and again."""

    origin: str
    path: str
    is_here: bool


@functools.lru_cache(256)
def _address(url: str) -> _Address:
    parts = urlsplit(url)
    return _Address(f"{parts.scheme}://{parts.netloc}", unquote(parts.path), is_this_machine(parts.hostname))


_unquoted = functools.lru_cache(256)(unquote)


def current() -> Line | None:
    """The line over `requests` that this thread is asking on; None outside of isochat."""
    line = _line.current()
    return line if isinstance(line, Line) else None


def reads(response: Any) -> Iterator[bytes]:
    """The bytes of an unread answer, as soon as they come.

    `iter_content` fills a block of its size before it gives it, unless the answer is chunked.
    """
    raw = response.raw
    if not hasattr(raw, "read1"):  # urllib3 1
        yield from response.iter_content(chunk_size=1)
        return
    while read := raw.read1(_READ, decode_content=True):
        yield read


# ── the session beneath a client ─────────────────────────────────────────────────────────────────────────────────


def watch(session: Any) -> Any:
    """Make a session of `requests` heed lines and deadlines, in all its adapters. Gives the session back."""
    for prefix, adapter in list(session.adapters.items()):
        if not isinstance(adapter, _Watched):
            session.mount(prefix, _Watched(adapter))
    return session


def session() -> Any:
    """A session of our own, as `requests` makes it; a line says who asks, and nothing else does (no `~/.netrc`)."""
    made = import_module("requests").Session()
    made.auth = _say_who
    return roomy(made)


def roomy(session: Any) -> Any:
    """A session with adapters that wait for no connection: how many are open at once is the caller's to say.

    The proxies that the environment names are put in beneath it: `requests` looks for them anew at every request.
    """
    session.trust_env = False
    for prefix in ("https://", "http://"):
        session.mount(prefix, _Watched(_direct()(pool_maxsize=_POOL), proxies=_proxies))
    return session


@functools.cache
def _direct() -> Any:
    adapter: Any = import_module("requests.adapters").HTTPAdapter

    class Direct(adapter):  # type: ignore[misc]
        """An adapter that knows its way: `requests` asks urllib3 at every question, and takes the address apart for it.

        The two methods are those that `requests` 2.32 and later have subclasses override; earlier ones do not call
        the first.
        """

        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, **options)
            self._ways: dict[Any, Any] = {}
            _heed(self.poolmanager)

        def get_connection_with_tls_context(
            self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
        ) -> Any:
            if proxies:
                return super().get_connection_with_tls_context(request, verify, proxies, cert)
            way = _address(request.url).origin, verify, cert
            pool = self._ways.get(way)
            if pool is None or pool.pool is None:  # it was closed
                pool = self._ways[way] = super().get_connection_with_tls_context(request, verify, proxies, cert)
            return pool

        def request_url(self, request: Any, proxies: Any) -> Any:
            if proxies or (path := request.path_url).startswith("//"):
                return super().request_url(request, proxies)
            return path

    return Direct


_found: tuple[dict[Any, Any], dict[str, dict[str, str]]] = ({}, {})


def _proxies(url: str) -> dict[str, str]:
    """The proxies that the environment names for an address, looked for again when the environment has changed."""
    global _found  # noqa: PLW0603 - one for the process, as its environment
    if _found[0] != environment():
        _found = dict(environment()), {}
    known, address = _found[1], _address(url)
    if address.origin not in known:
        utils: Any = import_module("requests.utils")
        known[address.origin] = {} if address.is_here else utils.get_environ_proxies(address.origin)
    return known[address.origin]


def _say_who(request: Any) -> Any:
    line = current()
    if line is not None:
        request.headers.update(line.login)
    return request


class _Watched:
    """An adapter that, on a line, keeps what came back, sends once, follows no redirect, and ends in time."""

    def __init__(self, inner: Any, proxies: Callable[[str], dict[str, str]] | None = None) -> None:
        self._inner, self._proxies = inner, proxies
        self._process = os.getpid()
        self._inherited: list[Any] = []
        self._heeds: Any = None

    def send(self, request: Any, **said: Any) -> Any:
        if self._proxies is not None:
            said["proxies"] = {**self._proxies(request.url), **(said.get("proxies") or {})}
        line = current()
        if line is None or not line.is_for(request):
            return self._inner.send(request, **said)
        line.begin()
        if _address(request.url).is_here:
            said["proxies"] = {}  # a company's proxy would be asked for the local endpoint, and refuse
        self._prepare(request, said.get("proxies"))
        left = _left(None)
        said["timeout"] = (CONNECT if left is None else min(CONNECT, left), left)
        try:
            if request.url.startswith("https:") and said.get("verify") is not False:
                found = trust.authorities(trust.REQUESTS)  # also looks whether what requests found is there
                if said.get("verify") in (True, None):
                    said["verify"] = found or True
            response = self._inner.send(request, **said)
            if not (said.get("stream") and response.status_code == _wire.OK):
                _ = response.content  # here, where it belongs to the line if it breaks
        except Exception as error:
            line.failure = error
            raise
        line.response = response
        if response.is_redirect:
            raise NotFollowed(f"a redirect, {response.status_code}")
        return response

    def close(self) -> None:
        for manager in self._managers():
            # urllib3 2 forgets its pools here, and their connections stay open until the collector comes by.
            for key in list(manager.pools.keys()):
                with contextlib.suppress(KeyError):
                    manager.pools[key].close()
        self._inner.close()

    def _managers(self) -> list[Any]:
        proxies = getattr(self._inner, "proxy_manager", {})
        return [manager for manager in (getattr(self._inner, "poolmanager", None), *proxies.values()) if manager]

    def _prepare(self, request: Any, proxies: Any) -> None:
        """Its connections must know of the deadline, and belong to this process."""
        inner = self._inner
        if self._process != os.getpid():
            self._inherited += self._managers()  # kept, so that nothing is said here on the parent's sockets
            if hasattr(inner, "poolmanager"):
                inner.__setstate__(inner.__getstate__())  # what unpickling does: the same settings, no connections
            self._process = os.getpid()
        if proxies and hasattr(inner, "proxy_manager_for"):
            utils: Any = import_module("requests.utils")
            if proxy := utils.select_proxy(request.url, proxies):
                inner.proxy_manager_for(utils.prepend_scheme_if_needed(proxy, "http"))  # makes it, and keeps it
        pools = getattr(inner, "poolmanager", None)
        if proxies or pools is not self._heeds:
            for manager in self._managers():
                _heed(manager)
            self._heeds = pools


def _heed(manager: Any) -> None:
    """Make the connections of a urllib3 pool manager heed the deadline.

    `pool_classes_by_scheme` and `ConnectionCls` are urllib3's documented ways of doing so; `sock`, `connect` and
    `_get_conn` are as in urllib3 1.26 and 2.8. Where they are gone, the per-read timeouts remain, and
    `test_nothing_outlives_its_deadline` fails for a server that drips.
    """
    classes = manager.pool_classes_by_scheme
    if any(issubclass(pool, _HeedingPool) for pool in classes.values()):
        return
    manager.pool_classes_by_scheme = {scheme: _heeding_pool(pool) for scheme, pool in classes.items()}
    for key in list(manager.pools.keys()):  # those that ask on them now keep them
        with contextlib.suppress(KeyError):
            del manager.pools[key]


@functools.cache
def _heeding_pool(pool: Any) -> Any:
    connection = type(pool.ConnectionCls.__name__, (_HeedingConnection, pool.ConnectionCls), {})
    return type(pool.__name__, (_HeedingPool, pool), {"ConnectionCls": connection})


class _HeedingPool:
    """A pool whose connections are waited for no longer than there is time."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        return super()._get_conn(timeout=_left(timeout))  # type: ignore[misc]


class _HeedingConnection:
    """A connection whose socket heeds the deadline."""

    timeout: Any
    _heeding: _Sock | None = None

    @property
    def sock(self) -> _Sock | None:
        return self._heeding

    @sock.setter
    def sock(self, sock: Any) -> None:
        self._heeding = sock if sock is None or isinstance(sock, _Sock) else _Sock(sock)

    def connect(self) -> Any:
        if self.timeout is None or isinstance(self.timeout, int | float):
            self.timeout = _left(self.timeout)
        return super().connect()  # type: ignore[misc]


class _Sock:
    """A socket that asks before each read and write how much time is left."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._timeout: float | None = inner.gettimeout()
        if (line := current()) is not None:
            line.take(inner)

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._inner.settimeout(timeout)

    def sendall(self, data: Any, *flags: int) -> None:
        self.tick()
        self._inner.sendall(data, *flags)

    def send(self, data: Any, *flags: int) -> int:
        self.tick()
        sent: int = self._inner.send(data, *flags)
        return sent

    def recv(self, size: int, *flags: int) -> bytes:
        self.tick()
        read: bytes = self._inner.recv(size, *flags)
        return read

    def makefile(self, mode: str = "r", *_: Any, **__: Any) -> Any:
        if mode != "rb":
            raise ValueError(f"an HTTP answer is read as 'rb', not {mode!r}")
        return io.BufferedReader(_Reads(self, self._inner.makefile("rb", 0)))

    def fileno(self) -> int:
        number: int = self._inner.fileno()
        return number

    def tick(self) -> None:
        """What is left of the question is the timeout of what comes next."""
        if (line := current()) is not None:
            line.take(self._inner)
            line.check()
        keep_hold(self._inner)
        self._inner.settimeout(_left(self._timeout))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Reads(io.RawIOBase):
    """What comes in over a socket."""

    def __init__(self, sock: _Sock, inner: Any) -> None:
        super().__init__()
        self._sock, self._inner = sock, inner
        self._head: bytes | None = b""  # None once it is complete

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.tick()
        count: int | None = self._inner.readinto(buffer)
        if self._head is not None and count is not None:
            self._follow(bytes(buffer[:count]))
        return count

    def _follow(self, read: bytes) -> None:
        """Watch for the end of the headers: http.client takes half of them for all, and the answer for an empty one."""
        if not read and self._head:
            raise ConnectionResetError("the connection was closed in the middle of the headers")
        head = (self._head or b"") + read
        self._head = None if b"\r\n\r\n" in head or b"\n\n" in head else head

    def close(self) -> None:
        self._inner.close()  # the socket closes when its last reader has
        super().close()


def _left(timeout: float | None) -> float | None:
    left = sooner(timeout)
    return None if left is None or left >= threading.TIMEOUT_MAX else left


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def transport_error(error: BaseException) -> ChatError | None:
    """What an exception of requests or urllib3 amounts to; None if it is neither.

    Told by name: of the exception, of its causes, and of what it holds, since a timeout in the middle of a body is a
    `ConnectionError(ReadTimeoutError(…))` of requests 2.34, and a refused connection four exceptions deep.
    """
    chain = list(_chain(error))
    theirs = [link for link in chain if type(link).__module__.split(".")[0] in _HTTP]
    if not theirs:
        return None
    names = {cls.__name__ for link in chain for cls in type(link).__mro__}
    said = str(chain[-1]).strip()
    if "EmptyPoolError" in names:
        return DeadlineExceeded("every connection was busy until the time was over: nothing was sent", sent=False)
    if names & {"ConnectTimeout", "ConnectTimeoutError"} and "NewConnectionError" not in names:
        return unconnected(late=True)
    if names & {"ReadTimeout", "ReadTimeoutError", "Timeout"} or isinstance(chain[-1], TimeoutError):
        return late()
    if names & {"ContentDecodingError", "DecodeError"}:
        return packed(said)
    if "SSLError" in names:
        failed = ConnectionFailed(f"no secure connection could be had{f': {said}' if said else ''}")
        if "CERTIFICATE_VERIFY_FAILED" in f"{error} {said}":
            failed.transient = failed.sent = False
            failed.hint = trust.HINT
        return failed
    if names & {"NewConnectionError", "ProxyError", "NameResolutionError"}:
        return unconnected(said)
    if names & {"ConnectionError", "ProtocolError", "ChunkedEncodingError", "IncompleteRead", "MaxRetryError"}:
        return broken(said)
    return None


_HTTP = frozenset({"requests", "urllib3"})


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it is about, the deepest last."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        held = [getattr(seen, "reason", None), *reversed(seen.args), seen.__cause__]
        seen = next((inner for inner in held if isinstance(inner, BaseException)), None)


# ── backends ─────────────────────────────────────────────────────────────────────────────────────────────────────


class OnRequests(Backend):
    """A backend whose client stands on `requests`: it says how to ask on a line, and asyncio asks in a thread."""

    #: What it needs to know beneath its client.
    line: ClassVar[type[Line]] = Line

    def ask_on(self, line: Any, call: Any, timeout: float) -> _wire.Reply:
        """`send`, on a line."""
        raise NotImplementedError

    def stream_on(self, line: Any, call: Any, timeout: float) -> Generator[Any, None, None]:
        """`stream`, on a line."""
        raise NotImplementedError

    def send(self, call: Any, timeout: float) -> _wire.Reply:
        """Call the client."""
        return self.ask_on(self.line(), call, timeout)

    async def asend(self, call: Any, timeout: float) -> _wire.Reply:
        """Call the client in a thread of its own; given up, the connection is cut and the thread ends."""
        line = self.line()

        def work() -> _wire.Reply:
            with self.bounded(timeout):
                return self.ask_on(line, call, timeout)

        worker = Worker(line)
        try:
            return await worker.do(work)
        finally:
            await worker.end()

    def stream(self, call: Any, timeout: float) -> Generator[Any, None, None]:
        """Call the client and give the events that come back, as they come."""
        return self.stream_on(self.line(), call, timeout)

    async def astream(self, call: Any, timeout: float) -> AsyncGenerator[Any, None]:
        """The same, in a thread of its own."""
        line, until = self.line(), time.monotonic() + timeout
        events = self.stream_on(line, call, timeout)

        def pull() -> Any:
            return self.pull(events, until - time.monotonic(), _END)

        worker = Worker(line)
        try:
            while (event := await worker.do(pull)) is not _END:
                yield event
        finally:
            await worker.end(events.close)

    def decode(self, reply: _wire.Reply) -> ChatResponse:
        """Read the reply."""
        return _wire.decode_reply(reply)

    def decode_event(self, event: Any) -> ChatChunk | _wire.Done | None:
        """Read the event."""
        return _wire.decode_event(event)

    def classify(self, error: Exception) -> ChatError | None:
        """As every backend, and by the names of requests and urllib3."""
        return transport_error(error) or super().classify(error)
