"""What the backends that drive the OpenAI client have in common: the client itself, and how it is called.

The method that people call is the one that is called, so that what hangs on it (tracing, a subclass, a patch) sees
the call; its raw-response form gives the bytes beneath, since the client's own models turn a web page into a string,
an error event into a chunk without choices, and a truncated stream into a short one.

Each attempt is a line beneath the client: there the login is put on, so that no tracer sees the token, and a client
that was handed in asks once and sends what was meant, whoever made it and whatever it does above.
"""

from __future__ import annotations

import copy
import os
import sys
from abc import abstractmethod
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from isochat import _wire
from isochat._connection import Connection
from isochat._types import Later
from isochat.backends import _httpx, _line
from isochat.backends._base import Backend
from isochat.backends._http import aevents, events
from isochat.backends._sessions import PerLoop, PerProcess
from isochat.errors import ConfigurationError, ServiceError
from isochat.transports import finite, lowered, timeouts, ways
from isochat.transports.deadline import close_at_exit, keep_deadlines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from isochat._types import ChatRequest
    from isochat.errors import ChatError


class OpenAIClient(Backend):
    """A backend that drives the OpenAI client, of major 2 or 3.

    `client` and `async_client` may be ready clients of yours, an `OpenAI` and an `AsyncOpenAI` or any of their family
    (`DatabricksOpenAI`, what `get_open_ai_client()` gives, your subclass), in place of a connection: their address,
    login and settings are used, but for their retries, which are ours. They stay yours to close.
    """

    requires: ClassVar[tuple[str, ...]] = ("openai",)

    #: The module that the client imports when `_resource` is first touched.
    _resources: ClassVar[str]
    #: The client's own type for a whole answer.
    _answer: ClassVar[str]
    #: What of a question's body `create` has keywords for, beside the model and `stream`.
    _keywords: ClassVar[frozenset[str]]

    connection: Connection | None

    def __init__(self, connection: Connection | None = None, *, client: Any = None, async_client: Any = None) -> None:
        self._given = client is not None or async_client is not None
        _check("client", client, "OpenAI", not_="AsyncOpenAI")
        _check("async_client", async_client, "AsyncOpenAI", not_="OpenAI")
        if not self._given:
            super().__init__(connection)
        elif connection is None:
            self.connection = None  # until a login is found on the client
        else:
            raise ConfigurationError("a client has an address and a login of its own; leave out the connection")
        self._http: PerProcess[Held] = PerProcess(
            lambda: Held(self._make(), self.connection) if client is None else hold(client), self._close_own
        )
        self._async_http: PerLoop[Held] = PerLoop(
            lambda: self._touched(
                Held(self._make_async(), self.connection) if async_client is None else ahold(async_client)
            ),
            self._aclose_own,
        )

    def encode(self, request: ChatRequest) -> dict[str, Any]:
        """The keywords of `create`: the body's own names where it has one, and `extra_body` for the rest."""
        body = self.render(request)
        keywords = {name: body.pop(name) for name in ("model", "stream", *self._keywords) if name in body}
        return {**keywords, "extra_body": body} if body else keywords

    def send(self, call: dict[str, Any], timeout: float) -> _wire.Reply:
        """Create the completion."""
        held = self._http.get()
        line = self._line(call, timeout)
        line.login = self._login(held, timeout)
        create, said = self._resource(held.client).with_raw_response.create, self._said(call, timeout)
        return self._reply(line, _line.call_on(line, lambda: create(**said)))

    async def asend(self, call: dict[str, Any], timeout: float) -> _wire.Reply:
        """Create the completion, awaited."""
        held = await self._async_http.get()
        line = self._line(call, timeout)
        line.login = await self._alogin(held, timeout)
        create, said = self._resource(held.client).with_raw_response.create, self._said(call, timeout)
        return self._reply(line, await _line.acall_on(line, lambda: create(**said)))

    def stream(self, call: dict[str, Any], timeout: float) -> Generator[Any, None, None]:
        """Create the completion and give its events as they come."""
        held = self._http.get()
        line = self._line(call, timeout)
        line.login = self._login(held, timeout)
        create = self._resource(held.client).with_streaming_response.create
        with ExitStack() as open_:
            said = self._said(call, timeout)
            response: Any = _line.call_on(line, lambda: open_.enter_context(create(**said)))
            if response is None:
                yield line.reply()
            else:
                yield from events(response, response.iter_bytes())

    async def astream(self, call: dict[str, Any], timeout: float) -> AsyncGenerator[Any, None]:
        """Create the completion and give its events as they come, awaited."""
        held = await self._async_http.get()
        line = self._line(call, timeout)
        line.login = await self._alogin(held, timeout)
        create = self._resource(held.client).with_streaming_response.create
        async with AsyncExitStack() as open_:
            said = self._said(call, timeout)
            response: Any = await _line.acall_on(line, lambda: open_.enter_async_context(create(**said)))
            if response is None:
                yield line.reply()
                return
            async for event in aevents(response, response.iter_bytes()):
                yield event

    def classify(self, error: Exception) -> ChatError | None:
        """As any HTTP client's, where a line has not told it already."""
        ours = super().classify(error)
        if ours is None:
            uncover(error)
        return self._explained(ours) if isinstance(ours, ServiceError) else ours

    def warm(self) -> None:
        """The client imports a resource when it is first touched, which takes as long again as importing the client."""
        super().warm()
        import_module(self._resources)

    def close(self) -> None:
        """Close the blocking client, unless it was handed in."""
        self._http.close()

    async def aclose(self) -> None:
        """Close both clients, unless they were handed in."""
        self.close()
        await self._async_http.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'a client of yours' if self._given else repr(self.connection)})"

    def _explained(self, refusal: ServiceError) -> ServiceError:
        """A refusal, with what is to be said of it on this route."""
        return refusal

    def _touched(self, held: Held) -> Held:
        """A client that has imported what it asks with: it does so when it is first asked, on the loop."""
        self._resource(held.client)
        return held

    @abstractmethod
    def _resource(self, client: Any) -> Any:
        """What of the client has the `create` that is called."""

    def _reply(self, line: _line.Line, response: Any) -> _wire.Reply:
        if response is None:  # what is above the client stumbled over it
            return line.reply()
        body, headers = response.http_response.content, lowered(response.headers)
        # What the client's user gets, made from the bytes: the response itself holds the client, and the token with it.
        raw = Later(_made, (self._answer, body, headers.get("x-request-id")))
        return _wire.Reply(response.status_code, headers, body, raw)

    def _said(self, call: dict[str, Any], timeout: float) -> dict[str, Any]:
        """What `create` is told in one attempt: a client that was handed in may change what it is given."""
        return {**(copy.deepcopy(call) if self._given else call), "timeout": timeouts(timeout)}

    def _line(self, call: dict[str, Any], timeout: float) -> _httpx.Line:
        meant = {**call, **call.get("extra_body", {})}
        meant.pop("extra_body", None)
        path = self.route.removeprefix("/serving-endpoints")
        # What a client of ours makes of the body is what was meant; what one that was handed in does, nobody knows.
        return _httpx.Line(path, timeout, body=meant if self._given else None, explain=self._explained)

    def _login(self, held: Held, timeout: float) -> dict[str, str]:
        self.connection = held.login  # whose token it is that may be renewed
        return {} if held.login is None else held.login.headers(timeout=finite(timeout))

    async def _alogin(self, held: Held, timeout: float) -> dict[str, str]:
        self.connection = held.login
        return {} if held.login is None else await held.login.aheaders(timeout=finite(timeout))

    def _make(self) -> Any:
        import openai

        self._only_one_if_given()
        http = close_at_exit(keep_deadlines(openai.DefaultHttpxClient(**ways_to(self.connection))))
        return openai.OpenAI(http_client=_httpx.watch(http), **self._options())

    def _make_async(self) -> Any:
        import openai

        self._only_one_if_given()
        http = openai.DefaultAsyncHttpxClient(**ways_to(self.connection))
        return openai.AsyncOpenAI(http_client=_httpx.watch(http), **self._options())

    def _options(self) -> dict[str, Any]:
        assert self.connection is not None
        return {
            "base_url": f"{self.connection.host}/serving-endpoints",
            "api_key": "put-on-beneath",  # by the line, with each request
            "max_retries": 0,
            "default_headers": not_for_this_host(),
        }

    def _only_one_if_given(self) -> None:
        if self._given:
            raise ConfigurationError(
                "only one client was handed in, a blocking or an asyncio one, and the other was needed",
                hint=f"Hand in both: {type(self).__name__}(client=…, async_client=…).",
            )

    def _close_own(self, held: Held) -> None:
        if not self._given:
            held.client.close()

    async def _aclose_own(self, held: Held) -> None:
        if not self._given:
            await held.client.close()


def ways_to(connection: Connection | None) -> dict[str, Any]:
    """How a client of ours for a connection reaches its host: by httpx, or in the client's third major by httpx2."""
    import openai

    assert connection is not None
    tops = [cls.__module__.partition(".")[0] for cls in openai.DefaultHttpxClient.__mro__]
    return ways(next(sys.modules[top] for top in tops if top in {"httpx", "httpx2"}), connection.host)


def not_for_this_host() -> dict[str, Any]:
    """Headers that the client would send to whatever host it has, left out.

    What OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS say is for OpenAI.
    """
    import openai

    custom = os.environ.get("OPENAI_CUSTOM_HEADERS", "")
    others = [line.partition(":")[0].strip() for line in custom.splitlines() if ":" in line]
    return {name: openai.Omit() for name in ("OpenAI-Organization", "OpenAI-Project", *others)}


# ── clients that were handed in ──────────────────────────────────────────────────────────────────────────────────


def _check(name: str, client: Any, kind: str, *, not_: str) -> None:
    """Refuse what is no such client. One that somebody has wrapped is one, as far as can be seen."""
    kinds = {cls.__name__ for cls in type(client).__mro__}
    if client is not None and kind not in kinds and (not_ in kinds or not hasattr(client, "with_options")):
        raise ConfigurationError(f"{name} must be an {kind} client or one of its family, not {type(client).__name__}")


@dataclass(frozen=True, slots=True)
class Held:
    """A client of the OpenAI family, and whose login is put on beneath it; None if it says that by itself."""

    client: Any
    login: Connection | None


def uncover(error: Exception) -> None:
    """Raise what openai 2 tells as an error of the connection and is none: that it is closed, or a hook of yours."""
    if type(error).__name__ == "APIConnectionError" and isinstance(error.__cause__, Exception):
        raise error.__cause__


def hold(client: Any) -> Held:
    """Make a client that was handed in heed our lines, and on them the deadline. Off a line, it is as it was.

    It is the client itself that is called, never a copy: what hangs on it, hangs on that one object, and
    databricks-openai 0.18 cannot be copied (`test_surprise_it_cannot_be_copied`).
    """
    keep_deadlines(_http_of(client))
    return ahold(client)


def ahold(client: Any) -> Held:
    """`hold` for a client of asyncio's, where a deadline cancels what it is over for."""
    http = _httpx.watch(_http_of(client))
    if isinstance(getattr(client, "max_retries", None), int):
        client.max_retries = _Retries(client.max_retries)
    auth: Any = getattr(http, "auth", None)
    ask = getattr(auth, "get_headers_func", None)
    if ask is None:
        return Held(client, None)
    if not isinstance(ask, _Asked):
        ask = auth.get_headers_func = _Asked(ask)
    return Held(client, ask.login())


def _http_of(client: Any) -> Any:
    return getattr(client, "_client", None)  # so called in openai 1 to 3


class _Retries(int):
    """How often a client asks again by itself: not at all on a line, where that is ours to say.

    `max_retries` counts in openai 2 and 3 by adding to it and subtracting from it, when a request begins.
    """

    def __add__(self, other: int) -> int:
        return self._here() + other

    def __sub__(self, other: int) -> int:
        return self._here() - other

    def _here(self) -> int:
        return int(self) if _line.current() is None else 0


class _Asked:
    """Where a client of Databricks asks for its headers, with each request, on the event loop if it is on one.

    On a line they have been asked for already, off the loop and within the deadline, and are put on beneath.
    """

    def __init__(self, ask: Callable[[], dict[str, str]]) -> None:
        self._ask = ask

    def __call__(self) -> dict[str, str]:
        line = _line.current()
        return self._ask() if line is None or not line.login else {"Authorization": "put on beneath"}

    def login(self) -> Connection | None:
        """The login as isochat knows it, if what is asked is a `databricks.sdk` Config."""
        config = getattr(self._ask, "__self__", None)
        return Connection(config=config, allow_http=True) if hasattr(config, "authenticate") else None


def _made(kind: str, body: bytes, request_id: str | None) -> Any:
    """The client's own object for an answer, as its `parse()` makes it; the bytes where it can make none of them."""
    module, _, name = kind.partition(":")
    try:
        value = _wire.read_json(body)
        made = getattr(import_module(module), name).construct(**value)
    except Exception:  # noqa: BLE001 - what the client cannot read is read from the bytes all the same
        return body
    made._request_id = request_id  # noqa: SLF001 - the documented name of it
    return made
