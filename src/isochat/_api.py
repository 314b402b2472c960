"""`query_chat()`: make the request, find the backend, refuse what it cannot carry, ask, and give the answer."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from typing import TYPE_CHECKING, Any, Final, Literal, overload
from weakref import WeakKeyDictionary

from isochat import _config, backends
from isochat._connection import Connection, connect
from isochat._events import listener
from isochat._request import make_request
from isochat._retry import Retry, Tries, aask, ask
from isochat._stream import AsyncChatStream, ChatStream
from isochat._types import written_by
from isochat.backends import Backend
from isochat.errors import BackendNotInstalled, ChatError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping
    from typing import Unpack

    from isochat._events import ChatEvent
    from isochat._request import ChatOptions
    from isochat._types import ChatRequest, ChatResponse

_kept: dict[tuple[str, Hashable], Backend] = {}
_homes: WeakKeyDictionary[_config.Settings, Backend] = WeakKeyDictionary()  # the way from remembered settings to those
_kept_lock = threading.Lock()
_MOST: Final = 256  # sessions that are kept, each with its open connections: a server may have a token for every user
_FRESH: Final = 1.0  # seconds for which asyncio's callers do not look at the configuration files again


def _after_fork() -> None:
    """A thread that the child does not have may have held the lock."""
    global _kept_lock  # noqa: PLW0603 - it is the module's
    _kept_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@overload
def query_chat(
    messages: Any,
    *,
    endpoint: str | None = ...,
    backend: str | Backend | None = ...,
    connection: Connection | None = ...,
    host: str | None = ...,
    token: str | None = ...,
    timeout: float | None = ...,
    retry: Retry | None = ...,
    on_event: Callable[[ChatEvent], Any] | None = ...,
    stream: Literal[False] = ...,
    extra_body: Mapping[str, Any] | None = ...,
    **options: Unpack[ChatOptions],
) -> ChatResponse: ...
@overload
def query_chat(
    messages: Any,
    *,
    endpoint: str | None = ...,
    backend: str | Backend | None = ...,
    connection: Connection | None = ...,
    host: str | None = ...,
    token: str | None = ...,
    timeout: float | None = ...,
    retry: Retry | None = ...,
    on_event: Callable[[ChatEvent], Any] | None = ...,
    stream: Literal[True],
    extra_body: Mapping[str, Any] | None = ...,
    **options: Unpack[ChatOptions],
) -> ChatStream: ...
@overload
def query_chat(
    messages: Any,
    *,
    endpoint: str | None = ...,
    backend: str | Backend | None = ...,
    connection: Connection | None = ...,
    host: str | None = ...,
    token: str | None = ...,
    timeout: float | None = ...,
    retry: Retry | None = ...,
    on_event: Callable[[ChatEvent], Any] | None = ...,
    stream: bool,
    extra_body: Mapping[str, Any] | None = ...,
    **options: Unpack[ChatOptions],
) -> ChatResponse | ChatStream: ...
def query_chat(
    messages: Any,
    *,
    endpoint: str | None = None,
    backend: str | Backend | None = None,
    connection: Connection | None = None,
    host: str | None = None,
    token: str | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    on_event: Callable[[ChatEvent], Any] | None = None,
    stream: bool = False,
    extra_body: Mapping[str, Any] | None = None,
    **options: Unpack[ChatOptions],
) -> ChatResponse | ChatStream:
    """Ask a chat model on Databricks Model Serving, through whichever client you choose, and get the same answer.

    `messages` is text, a message, or a list of them: OpenAI-style dictionaries, `Message`, LangChain messages, the
    SDK's `ChatMessage`, OpenAI's message objects, or the `message` of an earlier answer. What the keyword arguments
    leave open comes from the environment and the configuration files (`docs/configuration.md` has the order).

    * `endpoint`: the name of the serving endpoint.
    * `backend`: which client carries the question: a name (`isochat backends` lists them; `rest` is the default) or
      a `Backend`, which is a session of your own.
    * `connection`, or `host` and `token`: the workspace and who asks. `host="local"` is the embedded local endpoint.
    * `timeout`: seconds for the whole question, all attempts, waits and the whole stream included. Default 600.
    * `retry`: when to ask again; default `Retry()`, three attempts in all.
    * `on_event`: a function that is called with a `ChatEvent` for each attempt, each wait, a stream's first token, and
      the end. It is called where the question is asked, so it should be quick.
    * `stream`: True gives a `ChatStream` as soon as the first chunk is there.
    * `extra_body`: further fields of the request's body, sent as they are.
    * every other keyword is a parameter of the question under its standard name; `ChatOptions` lists them. Each
      reaches the endpoint or is refused before anything is sent.

    Returns a `ChatResponse`, or a `ChatStream` if `stream` is True.

    Raises `InvalidRequest`, `UnsupportedOption`, `ConfigurationError`, `BackendNotFound` or `BackendNotInstalled`
    before anything is sent; a `ServiceError`, `ConnectionFailed`, `DeadlineExceeded` or `MalformedReply` after. All
    are a `ChatError`.
    """
    asked = {"endpoint": endpoint, "host": host, "token": token, "timeout": timeout}
    session, found = _ready(backend, connection, asked)
    request = _question(messages, session, found, stream, extra_body, options)
    if not session.is_warm:
        _warm(session)
    tries = _tries(retry, on_event, session, request, found)
    with _asking(session, request, tries):
        if stream:
            return ChatStream.open(session, request, tries)
        call = session.encode(request)
        return _finished(ask(lambda left: session.decode(session.attempt(call, left)), tries), session, request, tries)


@overload
async def aquery_chat(
    messages: Any,
    *,
    endpoint: str | None = ...,
    backend: str | Backend | None = ...,
    connection: Connection | None = ...,
    host: str | None = ...,
    token: str | None = ...,
    timeout: float | None = ...,
    retry: Retry | None = ...,
    on_event: Callable[[ChatEvent], Any] | None = ...,
    stream: Literal[False] = ...,
    extra_body: Mapping[str, Any] | None = ...,
    **options: Unpack[ChatOptions],
) -> ChatResponse: ...
@overload
async def aquery_chat(
    messages: Any,
    *,
    endpoint: str | None = ...,
    backend: str | Backend | None = ...,
    connection: Connection | None = ...,
    host: str | None = ...,
    token: str | None = ...,
    timeout: float | None = ...,
    retry: Retry | None = ...,
    on_event: Callable[[ChatEvent], Any] | None = ...,
    stream: Literal[True],
    extra_body: Mapping[str, Any] | None = ...,
    **options: Unpack[ChatOptions],
) -> AsyncChatStream: ...
@overload
async def aquery_chat(
    messages: Any,
    *,
    endpoint: str | None = ...,
    backend: str | Backend | None = ...,
    connection: Connection | None = ...,
    host: str | None = ...,
    token: str | None = ...,
    timeout: float | None = ...,
    retry: Retry | None = ...,
    on_event: Callable[[ChatEvent], Any] | None = ...,
    stream: bool,
    extra_body: Mapping[str, Any] | None = ...,
    **options: Unpack[ChatOptions],
) -> ChatResponse | AsyncChatStream: ...
async def aquery_chat(
    messages: Any,
    *,
    endpoint: str | None = None,
    backend: str | Backend | None = None,
    connection: Connection | None = None,
    host: str | None = None,
    token: str | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    on_event: Callable[[ChatEvent], Any] | None = None,
    stream: bool = False,
    extra_body: Mapping[str, Any] | None = None,
    **options: Unpack[ChatOptions],
) -> ChatResponse | AsyncChatStream:
    """`query_chat()` for asyncio: the same arguments, answers and errors. A stream is an `AsyncChatStream`.

    Nothing blocks the event loop: a client that knows no asyncio runs in a worker thread.
    """
    asked = {"endpoint": endpoint, "host": host, "token": token, "timeout": timeout}
    ready = _at_hand(backend, connection, asked)
    if ready is None:
        ready = await asyncio.to_thread(_ready, backend, connection, asked)
    session, found = ready
    request = _question(messages, session, found, stream, extra_body, options)
    if not session.is_warm:
        await asyncio.to_thread(_warm, session)
    tries = _tries(retry, on_event, session, request, found)

    async def send(left: float) -> ChatResponse:
        return session.decode(await session.aattempt(call, left))

    with _asking(session, request, tries):
        if stream:
            return await AsyncChatStream.open(session, request, tries)
        call = session.encode(request)
        return _finished(await aask(send, tries), session, request, tries)


def _ready(
    backend: str | Backend | None, connection: Connection | None, asked: Mapping[str, Any]
) -> tuple[Backend, _config.Settings]:
    """The session that carries the question, and the settings that hold.

    Files may be read here and the local endpoint started, neither of which belongs on an event loop.
    """
    for name, value, kind in (("backend", backend, str | Backend), ("connection", connection, Connection)):
        if value is not None and not isinstance(value, kind):
            raise InvalidRequest(f"a value of type {type(value).__name__} is none", path=name)
    own = asked["host"] is not None or asked["token"] is not None
    if connection is not None and own:
        raise InvalidRequest("a Connection is a host and a login already; leave out host and token", path="connection")
    if isinstance(backend, Backend) and (connection is not None or own):
        raise InvalidRequest("a Backend holds its own connection; leave out connection, host and token", path="backend")
    found = _config.settings({**asked, "backend": _named(backend)})
    return (backend if isinstance(backend, Backend) else _session(found, connection)), found


def _at_hand(
    backend: str | Backend | None, connection: Connection | None, asked: Mapping[str, Any]
) -> tuple[Backend, _config.Settings] | None:
    """What `_ready` would give, if that is known without touching the disk."""
    if connection is not None or (isinstance(backend, Backend) and asked["host"] is not None):
        return None
    found = _config.recall({**asked, "backend": _named(backend)}, max_age=_FRESH)
    if found is None:
        return None
    session = backend if isinstance(backend, Backend) else _homes.get(found)
    return None if session is None else (session, found)


def _named(backend: str | Backend | None) -> str | None:
    return backend if isinstance(backend, str) else None


def _session(found: _config.Settings, connection: Connection | None) -> Backend:
    """The backend of that name for that connection: made once, and kept, since it holds open connections."""
    if connection is None and (known := _homes.get(found)) is not None:
        return known
    kind = backends.load(found.backend)
    to = connect(found) if connection is None else connection
    key = found.backend, to.key()
    with _kept_lock:
        session = _kept.pop(key, None)
        _kept[key] = session = kind(to) if session is None else session  # the one asked last is last
        if len(_kept) > _MOST:
            del _kept[next(iter(_kept))]  # closed when nobody asks through it any more
        if connection is None and found.get("host") != _config.LOCAL:  # a forked child has a local endpoint of its own
            _homes[found] = session
        return session


def _question(  # noqa: PLR0917 - what the two above share
    messages: Any,
    session: Backend,
    found: _config.Settings,
    stream: bool,  # noqa: FBT001 - it was a keyword where the caller wrote it
    extra_body: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> ChatRequest:
    """The question in its common form, which this session can carry."""
    # A client that is for an endpoint of its own is asked for that, unless the caller names another.
    own = session.endpoint if found.source("endpoint") != "argument" else None
    asks = own or found.endpoint
    request = make_request(messages, endpoint=asks, stream=stream, extra_body=extra_body, **options)
    session.check(request, backends.carriers)
    return request


def _warm(session: Backend) -> None:
    """Have the client imported, before the question's time begins."""
    try:
        session.warm()
    except ImportError as error:
        line = backends.install_line(session.name)
        raise BackendNotInstalled(
            f"the {session.name!r} backend's client is there and cannot be imported: {error}", install=line
        ) from error
    session.is_warm = True


def _tries(
    retry: Retry | None, on_event: object, session: Backend, request: ChatRequest, found: _config.Settings
) -> Tries:
    """The question's time, which begins now."""
    if retry is not None and not isinstance(retry, Retry):
        raise InvalidRequest(f"a value of type {type(retry).__name__} is none", path="retry")
    return Tries(
        retry or _retry(found.attempts),
        found.timeout,
        renew=session.renew,
        budget=session.budget(request.endpoint),
        tell=listener(on_event, request, session.name),
    )


@functools.cache
def _retry(attempts: int) -> Retry:
    return Retry(attempts=attempts)


class _asking:  # noqa: N801 - read as a word: `with _asking(…):`
    """What goes wrong while it is asked says where, and whoever listens hears of it."""

    __slots__ = ("_request", "_session", "_tries")

    def __init__(self, session: Backend, request: ChatRequest, tries: Tries) -> None:
        self._session, self._request, self._tries = session, request, tries

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if isinstance(error, ChatError):
            error.backend, error.endpoint = self._session.name, self._request.endpoint
        self._tries.end("failed" if isinstance(error, Exception) else "abandoned", error=error)


def close() -> None:
    """Close the connections of every backend that `query_chat()` keeps. They may be used again afterwards."""
    for session in _given_up():
        session.close()


async def aclose() -> None:
    """`close()` for asyncio: the running loop's connections as well."""
    for session in _given_up():
        await session.aclose()


def _given_up() -> Iterable[Backend]:
    """Every session that was kept, and is no longer."""
    with _kept_lock:
        sessions = {id(session): session for session in (*_kept.values(), *_homes.values())}
        _kept.clear()
        _homes.clear()
    return sessions.values()


def render(
    messages: Any,
    *,
    endpoint: str | None = None,
    backend: str | None = None,
    stream: bool = False,
    extra_body: Mapping[str, Any] | None = None,
    **options: Unpack[ChatOptions],
) -> dict[str, Any]:
    """What would be sent: the body of the question as JSON, sending nothing. Raises what `query_chat()` would."""
    found = _config.settings({"endpoint": endpoint, "backend": backend})
    request = make_request(messages, endpoint=found.endpoint, stream=stream, extra_body=extra_body, **options)
    kind = backends.find(found.backend)
    kind.check(request, backends.carriers)
    return kind.render(request)


def _finished(response: ChatResponse, session: Backend, request: ChatRequest, tries: Tries) -> ChatResponse:
    finished = written_by(
        response,
        request.endpoint,
        backend=session.name,
        attempts=tries.attempts,
        elapsed=tries.elapsed(),
    )
    tries.end("done", response=finished)
    return finished
