"""The `mlflow` backend: `predict` and `predict_stream` of MLflow's deployments client for Databricks.

Both are called as everyone calls them, so that what hangs on them (tracing, a patch, a subclass) sees the call. What
they lose (the HTTP status, Retry-After, the events of a stream that they cannot read) is taken from the bytes beneath.
`mlflow-skinny` is enough.
"""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from isochat import _sse, _wire
from isochat._connection import Connection
from isochat.backends import _line, _requests
from isochat.backends._base import EVERYTHING
from isochat.backends._requests import Line, OnRequests
from isochat.backends._sessions import PerProcess
from isochat.errors import ConfigurationError
from isochat.transports import finite, lowered

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from isochat._types import ChatRequest

_END = object()
_TARGET = "databricks"


@dataclass(frozen=True, slots=True)
class _Predict:
    endpoint: str
    inputs: dict[str, Any]


class _Line(Line):
    """A line through MLflow: where to, over which session, and the events of a stream beneath its chunks."""

    failure: Exception | None

    def __init__(self) -> None:
        super().__init__()
        self.host = ""
        self.session: Any = None
        self.incoming: Generator[str, None, None] | None = None
        self.events: deque[Any] = deque()

    def taken(self) -> Iterator[Any]:
        """The events that have come since the last time."""
        while self.events:
            yield self.events.popleft()

    def read(self, response: Any) -> Generator[str, None, None]:
        """A streamed answer in the lines that `predict_stream` can read; what it says to us is in `events`.

        mlflow 3.17 raises for a comment, an `event:` line and a byte order mark, breaks a line at U+2028, and waits
        for blocks of 512 bytes unless the answer is chunked (`test_surprise_…` in tests/backends/test_mlflow.py).
        """
        incoming = _wire.Incoming(response.status_code, lowered(response.headers))
        self.events.append(incoming.head)
        try:
            for read in _requests.reads(response):
                for event in incoming.feed(read):
                    yield from self._line(event)
        except Exception as error:
            self.failure = error
            raise
        for last in incoming.close():
            yield from self._line(last)

    def _line(self, event: Any) -> Iterator[str]:
        self.events.append(event)
        if isinstance(event, _sse.Event) and (data := event.data.strip()):
            yield "data: " + " ".join(data.decode("utf-8", "replace").split("\n"))


class MLflowBackend(OnRequests):
    """MLflow's deployments client, to `/serving-endpoints/{name}/invocations`.

    `client` may be a ready one of yours, what `get_deploy_client("databricks")` or `("databricks://profile")` gave, or
    anything with the same two methods around it. Then the login is MLflow's own, looked up once.

    `raw` of an answer is the `DatabricksEndpoint` that `predict` gave.
    """

    name: ClassVar[str] = "mlflow"
    carries: ClassVar[frozenset[str]] = EVERYTHING
    requires: ClassVar[tuple[str, ...]] = ("mlflow",)
    drives: ClassVar[str] = "mlflow or mlflow-skinny, get_deploy_client('databricks').predict"
    route: ClassVar[str] = "/serving-endpoints/{name}/invocations"

    line: ClassVar[type[Line]] = _Line

    def __init__(self, connection: Connection | None = None, *, client: Any = None) -> None:
        self._given = client is not None
        if self._given and not callable(getattr(client, "predict", None)):
            raise ConfigurationError(f"client must be a deployments client of MLflow, not {type(client).__name__}")
        if not self._given:
            super().__init__(connection)
        elif connection is None:
            self.connection = None  # until it is looked up
        else:
            raise ConfigurationError("a client has a login of its own; leave out the connection")
        self._client: PerProcess[Any] = PerProcess(lambda: _deploy_client() if client is None else client, _nothing)
        self._session: PerProcess[Any] = PerProcess(_requests.session, lambda session: session.close())
        self._looked_up: PerProcess[Connection] = PerProcess(lambda: _login_of(client), _nothing)

    def encode(self, request: ChatRequest) -> _Predict:
        """The endpoint and inputs of `predict`."""
        # MLflow joins a name to the path as it is: `/x` would leave `/serving-endpoints`.
        return _Predict(quote(request.endpoint, safe=""), _wire.request_to_json(request))

    def ask_on(self, line: _Line, call: _Predict, timeout: float) -> _wire.Reply:
        """Predict."""
        client = self._prepared(line, call, timeout)
        inputs = copy.deepcopy(call.inputs)
        given = _line.call_on(line, lambda: client.predict(endpoint=call.endpoint, inputs=inputs))
        if line.response is None:  # of a cache around `predict`, or of a test's stand-in
            return _wire.Reply(_wire.OK, {}, _wire.to_bytes(given), given)
        return _line.reply(line.response, given)

    def stream_on(self, line: _Line, call: _Predict, timeout: float) -> Generator[Any, None, None]:
        """Predict, and give the events beneath each chunk as they come."""
        client = self._prepared(line, call, timeout)
        inputs = {name: copy.deepcopy(value) for name, value in call.inputs.items() if name != "stream"}  # it says so
        try:
            chunks = _line.call_on(line, lambda: client.predict_stream(endpoint=call.endpoint, inputs=inputs))
            chunks = iter(() if chunks is None else chunks)
            try:
                yield from _events(line, chunks)
            finally:
                getattr(chunks, "close", lambda: None)()
        finally:
            if line.response is not None:
                line.response.close()

    def warm(self) -> None:
        """Import what `predict` imports at its first call, and the tracking client that its headers come from."""
        for module in ("mlflow.deployments", "mlflow.tracking.request_header.registry"):
            import_module(module)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()
        self._looked_up.close()
        if self._given:
            self.connection = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'a client of yours' if self._given else repr(self.connection)})"

    def _prepared(self, line: _Line, call: _Predict, timeout: float) -> Any:
        client = self._client.get()
        _lay()
        if self.connection is None:
            self.connection = self._looked_up.get_within(timeout, "MLflow found no login")
        line.path = f"/serving-endpoints/{call.endpoint}/invocations"
        line.login = self.connection.headers(timeout=finite(timeout))
        line.host, line.session = self.connection.host, self._session.get()
        return client


def _events(line: _Line, chunks: Iterator[Any]) -> Generator[Any, None, None]:
    """What has come beneath each chunk, when it comes."""
    while True:
        chunk = _line.call_on(line, functools.partial(next, chunks, _END))
        yield from line.taken()
        if line.failure is not None:
            raise line.failure
        if line.response is None and chunk is not _END:  # of a cache around `predict_stream`, or of a stand-in
            yield _sse.Event(_wire.to_bytes(chunk))
        elif chunk is _END or chunk is None:
            break
    # It is through, at `[DONE]` or at something that it cannot read; the reply may not be.
    if line.response is not None:
        rest = line.incoming or line.read(line.response)
        for _ in rest:
            yield from line.taken()
        yield from line.taken()


# ── beneath MLflow ───────────────────────────────────────────────────────────────────────────────────────────────

_laying = threading.Lock()


def _after_fork() -> None:
    """A thread that the child does not have may have held the lock."""
    global _laying  # noqa: PLW0603 - it is the module's
    _laying = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _lay() -> None:
    """Lay our line beneath MLflow: on it, the host, the login and the session are ours. Off it, nothing changes.

    `predict` of mlflow 3.17 finds its login in the environment, with a request to the workspace for each question, and
    its session in a cache that is everybody's. Both are looked up by name in their modules, and there they are asked
    on whose line they are. `test_what_it_hangs_on` holds these names against the MLflow that is installed.
    """
    deployments: Any = import_module("mlflow.deployments.databricks")
    request_utils: Any = import_module("mlflow.utils.request_utils")
    if _laid(deployments, "get_databricks_host_creds") and _laid(request_utils, "_get_request_session"):
        return
    if missing := _unknown(deployments, request_utils):
        found = import_module("mlflow.version").VERSION
        raise ConfigurationError(
            f"isochat does not know how to drive mlflow {found}: {missing}",
            hint="pip install 'mlflow-skinny<4', or use the backend 'rest', which asks the same",
        )
    with _laying:
        for where, name, instead in (
            (deployments, "get_databricks_host_creds", _creds),
            (request_utils, "_get_request_session", _session),
        ):
            if not _laid(where, name):
                setattr(where, name, _on_line(getattr(where, name), instead))


def _laid(where: Any, name: str) -> bool:
    return hasattr(getattr(where, name, None), "isochat")


def _unknown(deployments: Any, request_utils: Any) -> str | None:
    """What is not as we know it: said before anything is sent to wherever MLflow would send it."""
    calls = (
        (deployments.DatabricksDeploymentClient, "_call_endpoint", "get_databricks_host_creds"),
        (deployments.DatabricksDeploymentClient, "_call_endpoint_stream", "get_databricks_host_creds"),
        (request_utils, "_get_http_response_with_retries", "_get_request_session"),
    )
    for where, caller, called in calls:
        code = getattr(getattr(where, caller, None), "__code__", None)
        if code is None or called not in code.co_names:
            return f"{caller} does not call {called}"
    return None


def _on_line(theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(theirs)
    def either(*positional: Any, **named: Any) -> Any:
        line = _requests.current()
        return ours(line) if isinstance(line, _Line) else theirs(*positional, **named)

    either.isochat = True  # type: ignore[attr-defined]
    return either


def _creds(line: _Line) -> Any:
    return import_module("mlflow.utils.rest_utils").MlflowHostCreds(line.host)  # who asks is said by the session


def _session(line: _Line) -> Any:
    return _Dressing(line.session, line)


class _Dressing:
    """Our session for one request: its answer gives `predict_stream` lines that it can read."""

    def __init__(self, session: Any, line: _Line) -> None:
        self._session, self._line = session, line

    def request(self, *positional: Any, **named: Any) -> Any:
        response = self._session.request(*positional, **named)
        if response is self._line.response and named.get("stream") and response.status_code == _wire.OK:
            self._line.incoming = self._line.read(response)
            response.iter_lines = lambda *_, **__: self._line.incoming
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _deploy_client() -> Any:
    return import_module("mlflow.deployments").get_deploy_client(_TARGET)


def _login_of(client: Any) -> Connection:
    """The login that MLflow itself would use for this client."""
    refusal: Any = import_module("mlflow.exceptions").MlflowException
    target = str(getattr(client, "target_uri", _TARGET))
    if target.partition(":")[0] != _TARGET:
        raise ConfigurationError(
            f"the client is for {target!r}, not for Databricks", hint="Make it with get_deploy_client('databricks')"
        )
    try:
        creds = import_module("mlflow.utils.databricks_utils").get_databricks_host_creds(target)
    except refusal as error:
        raise ConfigurationError(f"MLflow finds no login for {target!r}: {error}") from error
    if creds.use_databricks_sdk:
        workspace = import_module("mlflow.utils.rest_utils").get_workspace_client(
            creds.use_secret_scope_token,
            creds.host,
            creds.token,
            creds.databricks_auth_profile,
            retry_timeout_seconds=1,
        )
        return Connection(config=workspace, allow_http=True)
    if creds.token:
        return Connection(creds.host, creds.token, allow_http=True)
    return Connection(creds.host, username=creds.username, password=creds.password, allow_http=True)


def _nothing(_: Any) -> None:
    pass
