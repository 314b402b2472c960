"""The `databricks-sdk` backend: `serving_endpoints.query` of the Databricks SDK's `WorkspaceClient`.

What `query` can say goes through `query`, so that what hangs on it (a patch, a subclass, a cache) sees the call. What
it cannot say (tools, `top_p`, any field of tomorrow) or would harm (it reads a stream to its end, and then fails on
it) goes through the same client's `api_client.do`. What both lose of the answer (`finish_reason`, tool calls, the HTTP
status) is read from the bytes beneath them.
"""

from __future__ import annotations

import copy
import functools
import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from isochat import _refusal, _wire
from isochat._connection import Connection
from isochat.backends import _line, _requests
from isochat.backends._base import EVERYTHING
from isochat.backends._http import events
from isochat.backends._requests import Line, OnRequests
from isochat.backends._sessions import PerProcess
from isochat.backends._workspace import NoSecondTime, session, workspace
from isochat.errors import ConfigurationError
from isochat.transports import finite

if TYPE_CHECKING:
    from collections.abc import Generator

    from isochat._types import ChatRequest
    from isochat.errors import ChatError

#: The options that `query` has keywords for; with any other, the question goes through `api_client.do`.
#: tests/backends/test_databricks_sdk.py holds this against the signature of the SDK that is installed.
KEYWORDS = frozenset({"client_request_id", "extra_params", "max_tokens", "n", "stop", "temperature", "usage_context"})

# What a `ChatMessage` of the SDK can say.
_ROLES = frozenset({"assistant", "system", "user"})


@dataclass(frozen=True, slots=True)
class _Query:
    """For `serving_endpoints.query`, which makes the path of the name."""

    path: str
    name: str
    keywords: dict[str, Any]
    messages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Do:
    """For `api_client.do`."""

    path: str
    body: dict[str, Any]


class DatabricksSDKBackend(OnRequests):
    """The Databricks SDK, to `/serving-endpoints/{name}/invocations`.

    `client` may be a ready `WorkspaceClient` of yours, in place of a connection: its host, login and settings are
    used, and its retries only by others. It stays yours.

    `raw` of an answer is a `QueryEndpointResponse` where the question went through `query`, else the dictionary that
    `api_client.do` gave.
    """

    name: ClassVar[str] = "databricks-sdk"
    carries: ClassVar[frozenset[str]] = EVERYTHING
    requires: ClassVar[tuple[str, ...]] = ("databricks.sdk",)
    drives: ClassVar[str] = "databricks-sdk, WorkspaceClient().serving_endpoints.query"
    route: ClassVar[str] = "/serving-endpoints/{name}/invocations"

    connection: Connection

    def __init__(self, connection: Connection | None = None, *, client: Any = None) -> None:
        if client is not None:
            if connection is not None:
                raise ConfigurationError("a client has a host and a login of its own; leave out the connection")
            connection = Connection(config=client, allow_http=True)
        super().__init__(connection)
        self._given = client is not None
        self._client = PerProcess(lambda: self._make() if client is None else _ours(client), self._close_own)

    def encode(self, request: ChatRequest) -> _Query | _Do:
        """The keywords of `query`, or, where it cannot say all of it, the path and body for `do`."""
        # The SDK puts a name into the path as it is: `a/../b` would ask another endpoint.
        name = quote(request.endpoint, safe="")
        path = f"/serving-endpoints/{name}/invocations"
        body = _wire.request_to_json(request)
        if _is_a_query(body):
            messages = body.pop("messages")
            return _Query(path, name, body, messages)
        return _Do(path, body)

    def ask_on(self, line: Line, call: _Query | _Do, timeout: float) -> _wire.Reply:
        """Query the endpoint."""
        client = self._prepared(line, call, timeout)
        given = _line.call_on(line, lambda: _query(client, call) if isinstance(call, _Query) else _do(client, call))
        if line.response is None:
            return _without_bytes(given)
        return _line.reply(line.response, given)

    def stream_on(self, line: Line, call: _Query | _Do, timeout: float) -> Generator[Any, None, None]:
        """Post the question with `do`, and give the events that come back as they come."""
        client = self._prepared(line, call, timeout)
        given: Any = _line.call_on(line, lambda: _do(client, call, raw=True))
        response = line.response if line.response is not None else given["contents"]._response  # noqa: SLF001
        try:
            yield from events(response, _requests.reads(response))
        finally:
            response.close()

    def classify(self, error: Exception) -> ChatError | None:
        """What an exception of the SDK amounts to that did not come from the bytes: a wrapper's around `query`, say."""
        ours = super().classify(error)
        if ours is None and any(cls.__name__ == "DatabricksError" for cls in type(error).__mro__):
            said = {"error_code": getattr(error, "error_code", None), "message": str(error)}
            return _refusal.service_error(None, {}, said)
        return ours

    def warm(self) -> None:
        """Import the SDK, all of whose services come with its first line."""
        import_module("databricks.sdk")

    def close(self) -> None:
        """Close the connections, unless the client was handed in."""
        self._client.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'a client of yours' if self._given else repr(self.connection)})"

    def _prepared(self, line: Line, call: _Query | _Do, timeout: float) -> Any:
        client = self._client.get()
        line.path, line.login = call.path, self.connection.headers(timeout=finite(timeout))
        return client

    def _make(self) -> Any:
        return workspace(self.connection)

    def _close_own(self, client: Any) -> None:
        if not self._given:
            session(client).close()


def _ours(client: Any) -> Any:
    """A client that was handed in, with our retries for its own, and our deadline above its per-read timeouts.

    Both hold for what isochat asks only; whatever else is done with the client is as before.
    """
    _requests.watch(session(client))
    below = client.api_client._api_client  # noqa: SLF001 - see `session`
    if not isinstance(below._clock, NoSecondTime):  # noqa: SLF001
        below._clock = NoSecondTime(below._clock)  # noqa: SLF001
    return client


def _is_a_query(body: dict[str, Any]) -> bool:
    """Whether `query` can say all of it, and would."""
    said = {name: value for name, value in body.items() if name != "messages"}
    return (
        said.keys() <= KEYWORDS
        and None not in said.values()  # it leaves out a null
        and isinstance(said.get("stop", []), list)  # it takes a text apart, letter by letter
        and all(
            message.keys() == {"role", "content"}
            and message["role"] in _ROLES
            and message["content"] is not None  # it leaves it out
            for message in body["messages"]
        )
    )


def _query(client: Any, call: _Query) -> Any:
    serving: Any = import_module("databricks.sdk.service.serving")
    taken = _keywords(serving.ServingEndpointsAPI.query)
    if taken is not None and not call.keywords.keys() <= taken:  # 0.60 knew no `usage_context`
        return _do(client, _Do(call.path, {"messages": call.messages, **call.keywords}))
    message, role = serving.ChatMessage, serving.ChatMessageRole
    messages = [message(content=_fresh(said["content"]), role=role(said["role"])) for said in call.messages]
    keywords = {name: _fresh(value) for name, value in call.keywords.items()}
    return client.serving_endpoints.query(call.name, messages=messages, **keywords)


@functools.cache
def _keywords(method: Any) -> frozenset[str] | None:
    """What a method takes; None if it takes any."""
    parameters = inspect.signature(method).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if anything else frozenset(parameters)


def _fresh(value: Any) -> Any:
    return copy.deepcopy(value) if isinstance(value, (dict, list)) else value


def _do(client: Any, call: _Query | _Do, *, raw: bool = False) -> Any:
    if isinstance(call, _Query):  # never encoded so for a stream
        raise TypeError("query() cannot stream")
    headers = {"Accept": "text/event-stream" if raw else "application/json", "Content-Type": "application/json"}
    if workspace := getattr(client.config, "workspace_id", None):
        headers["X-Databricks-Workspace-Id"] = str(workspace)  # as `query` does
    return client.api_client.do("POST", call.path, headers=headers, body=copy.deepcopy(call.body), raw=raw)


def _without_bytes(given: Any) -> _wire.Reply:
    """An answer that did not come over the wire: of a cache around `query`, or of a test's stand-in."""
    body = given if isinstance(given, dict) else given.as_dict()
    return _wire.Reply(_wire.OK, {}, _wire.to_bytes(body), given)
