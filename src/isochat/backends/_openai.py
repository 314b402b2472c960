"""What the backends that drive the OpenAI client have in common: the client itself, and how it is called.

The method that people call is the one that is called, so that what hangs on it (tracing, a subclass, a patch) sees
the call; its raw-response form gives the bytes beneath, since the client's own models turn a web page into a string,
an error event into a chunk without choices, and a truncated stream into a short one.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from isochat import _wire
from isochat._types import Later
from isochat.backends._base import Backend
from isochat.backends._http import aevents, directly, events, finite, lowered, timeouts
from isochat.backends._sessions import PerLoop, PerProcess
from isochat.errors import ConfigurationError
from isochat.transports.deadline import keep_deadlines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from isochat._connection import Connection
    from isochat._types import ChatRequest


class OpenAIClient(Backend):
    """A backend that drives the OpenAI client, of major 2 or 3.

    `client` and `async_client` may be ready clients of yours, an `OpenAI` and an `AsyncOpenAI` (or subclasses), in
    place of a connection: their address, login and settings are used, but for their retries, which are ours. They
    stay yours to close.
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
        if not self._given:
            super().__init__(connection)
        elif connection is None:
            self.connection = None
        else:
            raise ConfigurationError("a client has an address and a login of its own; leave out the connection")
        self._http = PerProcess(lambda: self._make() if client is None else _ours(client), self._close_own)
        self._async_http = PerLoop(
            lambda: self._make_async() if async_client is None else async_client.with_options(max_retries=0),
            self._aclose_own,
        )

    def encode(self, request: ChatRequest) -> dict[str, Any]:
        """The keywords of `create`: the body's own names where it has one, and `extra_body` for the rest."""
        body = self.render(request)
        keywords = {name: body.pop(name) for name in ("model", "stream", *self._keywords) if name in body}
        return {**keywords, "extra_body": body} if body else keywords

    def send(self, call: dict[str, Any], timeout: float) -> _wire.Reply:
        """Create the completion."""
        headers = self._headers(timeout)
        create = self._resource(self._http.get()).with_raw_response.create
        return self._reply(create(**call, extra_headers=headers, timeout=timeouts(timeout)))

    async def asend(self, call: dict[str, Any], timeout: float) -> _wire.Reply:
        """Create the completion, awaited."""
        headers = await self._aheaders(timeout)
        create = self._resource(await self._async_http.get()).with_raw_response.create
        return self._reply(await create(**call, extra_headers=headers, timeout=timeouts(timeout)))

    def stream(self, call: dict[str, Any], timeout: float) -> Generator[Any, None, None]:
        """Create the completion and give its events as they come."""
        headers = self._headers(timeout)
        create = self._resource(self._http.get()).with_streaming_response.create
        with create(**call, extra_headers=headers, timeout=timeouts(timeout)) as response:
            yield from events(response, response.iter_bytes())

    async def astream(self, call: dict[str, Any], timeout: float) -> AsyncGenerator[Any, None]:
        """Create the completion and give its events as they come, awaited."""
        headers = await self._aheaders(timeout)
        create = self._resource(await self._async_http.get()).with_streaming_response.create
        async with create(**call, extra_headers=headers, timeout=timeouts(timeout)) as response:
            async for event in aevents(response, response.iter_bytes()):
                yield event

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

    @abstractmethod
    def _resource(self, client: Any) -> Any:
        """What of the client has the `create` that is called."""

    def _reply(self, response: Any) -> _wire.Reply:
        body, headers = response.http_response.content, lowered(response.headers)
        # What the client's user gets, made from the bytes: the response itself holds the client, and the token with it.
        raw = Later(partial(_made, self._answer, body, headers.get("x-request-id")))
        return _wire.Reply(response.status_code, headers, body, raw)

    def _headers(self, timeout: float) -> dict[str, str]:
        return {} if self.connection is None else self.connection.headers(timeout=finite(timeout))

    async def _aheaders(self, timeout: float) -> dict[str, str]:
        return {} if self.connection is None else await self.connection.aheaders(timeout=finite(timeout))

    def _make(self) -> Any:
        import openai

        http = openai.DefaultHttpxClient(follow_redirects=False, mounts=directly())
        return openai.OpenAI(http_client=keep_deadlines(http), **self._options(openai))

    def _make_async(self) -> Any:
        import openai

        # Redirects stay unfollowed: a token goes to its own host only.
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False, mounts=directly())
        return openai.AsyncOpenAI(http_client=http, **self._options(openai))

    def _options(self, openai: Any) -> dict[str, Any]:
        # What OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS say is for OpenAI, not for this host, and the
        # client sends it to whatever host it has.
        others = [
            "OpenAI-Organization",
            "OpenAI-Project",
            *_custom_headers(os.environ.get("OPENAI_CUSTOM_HEADERS", "")),
        ]
        if self.connection is None:
            raise ConfigurationError(
                "only one client was handed in, a blocking or an asyncio one, and the other was needed",
                hint=f"Hand in both: {type(self).__name__}(client=…, async_client=…).",
            )
        return {
            "base_url": f"{self.connection.host}/serving-endpoints",
            "api_key": "given-with-each-request",  # the headers of the connection stand above it
            "max_retries": 0,
            "default_headers": {name: openai.Omit() for name in others},
        }

    def _close_own(self, client: Any) -> None:
        if not self._given:
            client.close()

    async def _aclose_own(self, client: Any) -> None:
        if not self._given:
            await client.close()


def _ours(client: Any) -> Any:
    """A client that was handed in, with our retries for its own, and our deadline above its per-read timeouts."""
    keep_deadlines(client._client)  # noqa: SLF001 - as above
    return client.with_options(max_retries=0)


def _custom_headers(said: str) -> list[str]:
    return [line.partition(":")[0].strip() for line in said.splitlines() if ":" in line]


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
