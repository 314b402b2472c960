"""A line beneath the clients that stand on httpx or httpx2: what they send is what was meant, and what came is kept.

Neither library is imported here: a client's own transports are extended. Off a line, nothing changes.
"""

from __future__ import annotations

import contextlib
import math
import sys
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any

from isochat import _sse, _wire
from isochat.backends import _line
from isochat.errors import MalformedReply, ServiceError
from isochat.transports import lowered, timeouts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
    from typing import Self

    from isochat.errors import ChatError

_CLIENTS = frozenset(
    {"databricks_langchain", "databricks_openai", "httpx", "httpx2", "isochat", "langchain_core", "openai"}
)


class Line(_line.Line):
    """A line over httpx. `body` is what is meant to be sent; None if what the client makes of it is.

    `settings` is what the client says by itself, even where it is told otherwise. `listens` is for a client whose
    streams are pulled through it, and read beneath it. `explain` adds to a refusal what is to be said of it.
    """

    def __init__(
        self,
        path: str,
        timeout: float = math.inf,
        *,
        body: dict[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        listens: bool = False,
        explain: Callable[[ServiceError], ServiceError] = lambda refusal: refusal,
    ) -> None:
        super().__init__()
        self.path = path
        self.timeout = timeout
        self.body = body
        #: A stream as it comes in: whoever reads it, the client or we, moves it forward.
        self.incoming: Any = None
        #: Its events, until they are taken.
        self.events: deque[Any] = deque()
        #: Whether a stream has come in to its end.
        self.ended = False
        self._done = False  # and whether the service has said so
        self._settings = settings or {}
        self._listens = listens
        self._explain = explain
        self._bytes: list[bytes] = []

    # ── what goes ──

    def dressed(self, request: Any) -> Any:
        """The request as it goes out if it is the question, with the login on it; None if it is another one.

        It is a copy, so that no exception and no answer of the client's leads to the token.
        """
        if request.method != "POST" or not request.url.path.endswith(self.path):
            return None
        content = request.content
        if self.body is not None:
            made = _object(content)
            if made.get("model") != self.body.get("model"):
                return None
            going = mended(made, self.body, self._settings)
            self._listens = self._listens and going.get("stream") is True
            content = _wire.to_bytes(going)
        self.begin()
        stream = request.stream if content is request.content else type(request.stream)(content)
        # Given a stream, a request leaves the headers as they are, which are nearly all right.
        ours = type(request)(request.method, request.url, headers=request.headers, stream=stream)
        ours.read()
        if stream is not request.stream:
            ours.headers["Content-Length"] = str(len(content))
        for name, value in self.login.items():
            ours.headers[name] = value
        seconds = dict(zip(("connect", "read", "write", "pool"), timeouts(self.timeout), strict=True))
        ours.extensions = {**request.extensions, "timeout": seconds}
        return ours

    # ── what comes ──

    def took(self, response: Any, *, awaited: bool) -> Any:
        """The answer to the question, before anything of it has been read."""
        self.response = response
        if 300 <= response.status_code < 400:
            response.headers.pop("location", None)  # what points nowhere is not followed
        if not self._listens or response.status_code != _wire.OK:
            return response
        # The client gets what it can read, and may close it: it is through at `[DONE]`, or at what it stumbles over.
        if awaited:
            self.incoming = self._aread(response)
            response.aiter_bytes = lambda *_, **__: self.incoming
            response.aclose = _anothing
        else:
            self.incoming = self._read(response)
            response.iter_bytes = lambda *_, **__: self.incoming
            response.close = _nothing
        return response

    def _read(self, response: Any) -> Generator[bytes, None, None]:
        incoming = self._head(response)
        try:
            for read in type(response).iter_bytes(response):
                for event in self._fed(incoming, read):
                    yield from _written(event)
        except Exception as error:
            self.failure = error
            raise
        for last in self._last(incoming):
            yield from _written(last)

    async def _aread(self, response: Any) -> AsyncGenerator[bytes, None]:
        incoming = self._head(response)
        try:
            async for read in type(response).aiter_bytes(response):
                for event in self._fed(incoming, read):
                    for line in _written(event):
                        yield line
        except Exception as error:
            self.failure = error
            raise
        for last in self._last(incoming):
            for line in _written(last):
                yield line

    def _head(self, response: Any) -> _wire.Incoming:
        incoming = _wire.Incoming(response.status_code, lowered(response.headers))
        self.events.append(incoming.head)
        return incoming

    def _fed(self, incoming: _wire.Incoming, read: bytes) -> Iterator[Any]:
        if self.body is not None and self.body.get("stream") is not True:
            self._bytes.append(read)  # a whole answer was asked for, and the client has made a stream of it
        for event in incoming.feed(read):
            self._done = self._done or event.data.strip() == b"[DONE]"
            self.events.append(event)
            yield event

    def _last(self, incoming: _wire.Incoming) -> Iterator[Any]:
        self.ended = True
        for event in incoming.close():
            self.events.append(event)
            yield event

    def unread(self) -> Iterator[bytes]:
        """What is still to come of a stream that the client has left before its end."""
        if self.incoming is not None and not self._done:
            yield from self.incoming

    async def aunread(self) -> AsyncGenerator[bytes, None]:
        """`unread`, awaited."""
        if self.incoming is not None and not self._done:
            async for read in self.incoming:
                yield read

    def taken(self) -> Iterator[Any]:
        """The events that have come since the last time."""
        while self.events:
            yield self.events.popleft()

    @property
    def answered(self) -> bool:
        """Whether there is an answer to be read. One that broke on the way is none."""
        return self.incoming is not None or _content(self.response) is not None

    def stumbled(self, error: Exception) -> bool:
        """Whether it is the client that could not read the answer.

        What a guard in a callback, a wrapper or a subclass raises over it was meant, and goes to the caller.
        """
        return not _others(error)

    def reply(self, raw: Any = None) -> _wire.Reply:
        """The answer as it was on the wire; of a stream, what has been read of it."""
        body = b"".join(self._bytes) if self.incoming is not None else _content(self.response)
        return _wire.Reply(self.response.status_code, lowered(self.response.headers), body or b"", raw)

    def refusal(self) -> ChatError | None:
        """What the answer or the connection amounts to, if it is none to be read."""
        ours = super().refusal()
        return self._explain(ours) if isinstance(ours, ServiceError) else ours

    def close(self) -> None:
        """Give the connection back."""
        if self.incoming is not None:
            self.incoming.close()
            type(self.response).close(self.response)

    async def aclose(self) -> None:
        """Give the connection back, awaited."""
        if self.incoming is not None:
            await self.incoming.aclose()
            await type(self.response).aclose(self.response)


def _written(event: Any) -> Iterator[bytes]:
    """An event in the one form that every client can read; nothing of what is no event.

    The OpenAI client loses the first event after a byte order mark and the last one without its blank line.
    """
    if isinstance(event, _sse.Event) and event.data.strip():
        kind = b"" if event.type == "message" else f"event: {event.type}\n".encode()
        yield kind + b"".join(b"data: " + line + b"\n" for line in event.data.split(b"\n")) + b"\n"


def _others(error: Exception) -> bool:
    """Whether an exception was raised by somebody else's code than the clients' own, told by where it comes from."""
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    for module in reversed(modules):
        top = module.partition(".")[0]
        if top in _CLIENTS:
            return False
        if top not in sys.stdlib_module_names and top != "pydantic":  # these were called by somebody
            return True
    return False


def _content(response: Any) -> bytes | None:
    """The body of an answer; None if there is none, or it was not read to its end."""
    try:
        body: bytes = response.content
    except Exception:  # noqa: BLE001 - httpx and httpx2 have each their own class for it
        return None
    return body


def _nothing() -> None:
    pass


async def _anothing() -> None:
    pass


def _object(content: bytes) -> dict[str, Any]:
    with contextlib.suppress(MalformedReply):
        value = _wire.read_json(content)
        if isinstance(value, dict):
            return value
    return {}


# ── what was meant ───────────────────────────────────────────────────────────────────────────────────────────────


def mended(made: dict[str, Any], meant: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The body that a client made, with what the client itself has done to it undone.

    LangChain loses names and signatures on the way down, databricks-openai takes `strict` out of tools, and both leave
    the words alone. So a conversation of the same words, and tools of the same names, stand here as they were meant.
    What says something else has been changed by somebody who wanted it so (a subclass that hides names, say, or a
    wrapper that adds a tool): that goes as it came.
    """
    body = dict(made)
    if made.get("stream") is False and "stream" not in meant:
        del body["stream"]  # what is not said is not sent
    if body == meant:
        return body
    for name in ("messages", "input"):
        if name in meant and _words(made.get(name)) == _words(meant[name]):
            body[name] = meant[name]
    if "tools" in meant and _names(made.get("tools")) == _names(meant["tools"]):
        body["tools"] = meant["tools"]
    for name, setting in settings.items():
        if name in meant and made.get(name) == setting:
            body[name] = meant[name]
    return body


def _words(turns: Any) -> Any:
    """What a conversation says, and who says it, in whichever form; blanks say nothing."""
    if not isinstance(turns, list):
        return turns
    return [(who, said) for turn in turns if isinstance(turn, dict) for who, said in _turn(turn)]


def _turn(turn: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    kind = str(turn.get("type", "message"))
    if kind == "message":
        yield from ((turn.get("role"), said) for said in _said(turn.get("content")))
    elif kind.endswith("_output"):
        yield from (("tool", said) for said in _said(turn.get("output")))
    elif kind == "reasoning":
        yield from ((kind, said) for said in _said(turn.get("summary")))


def _said(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, list):
        for part in value:
            yield from _said(part)
    elif isinstance(value, dict):
        told = [value[name] for name in ("text", "refusal", "summary") if name in value]
        yield from _said(told) if told else ("…",)  # a picture, say: that there is one


def _names(tools: Any) -> Any:
    if not isinstance(tools, list):
        return tools
    found = [tool.get("function", tool) if isinstance(tool, dict) else tool for tool in tools]
    return [tool.get("name", tool.get("type")) if isinstance(tool, dict) else tool for tool in found]


# ── the client above ─────────────────────────────────────────────────────────────────────────────────────────────


def watch(client: Any) -> Any:
    """Make a client of httpx or httpx2, blocking or not, heed lines, in all its transports. Gives the client back.

    `_transport` and `_mounts` are so called in httpx 0.28 and httpx2 2.16. Where they are gone, the tests of what a
    line does fail.
    """
    transport, mounts = getattr(client, "_transport", None), getattr(client, "_mounts", {})
    if transport is not None and not isinstance(transport, _Watched):
        client._transport = _Watched(transport)  # noqa: SLF001 - as above
    for pattern, mounted in list(mounts.items()):
        if mounted is not None and not isinstance(mounted, _Watched):
            mounts[pattern] = _Watched(mounted)
    return client


class _Watched:
    """A transport that, on a line, sends what was meant, once, and keeps what comes back."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def handle_request(self, request: Any) -> Any:
        line, ours = _asking(request)
        if line is None:
            return self._inner.handle_request(request)
        try:
            return line.took(self._inner.handle_request(ours), awaited=False)
        except Exception as error:
            line.failure = error
            raise

    async def handle_async_request(self, request: Any) -> Any:
        line, ours = _asking(request)
        if line is None:
            return await self._inner.handle_async_request(request)
        try:
            return line.took(await self._inner.handle_async_request(ours), awaited=True)
        except Exception as error:
            line.failure = error
            raise

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._inner.__exit__(*raised)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._inner.__aexit__(*raised)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _asking(request: Any) -> tuple[Line | None, Any]:
    """The line that this request is the question of, and the request that goes out on it."""
    line = _line.current()
    ours = line.dressed(request) if isinstance(line, Line) else None
    return (line, ours) if isinstance(line, Line) and ours is not None else (None, request)
