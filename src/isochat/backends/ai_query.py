"""The `ai-query` backend: `SELECT ai_query(…)`, on a SQL warehouse or in a Spark session.

On a warehouse the statement goes through `statement_execution.execute_statement` of the Databricks SDK's
`WorkspaceClient`. It is executed once an attempt: the SDK would execute it again after a 429, a 503, a reset or a
timeout, and each time the model would be asked again. A statement that is not waited for any longer is cancelled.

SQL asks with one prompt and is answered with one text. What else an answer has (finish reason, usage, model, id) it
does not say, and it is None.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from isochat import _config, _refusal, _sql, _wire
from isochat._frozen import changed
from isochat.backends import BUILT_IN, _line, _requests
from isochat.backends._base import Backend
from isochat.backends._http import http_error
from isochat.backends._requests import Line
from isochat.backends._sessions import PerProcess
from isochat.backends._worker import Worker
from isochat.backends._workspace import session, workspace
from isochat.errors import ChatError, ConfigurationError, DeadlineExceeded, EndpointNotFound, UnsupportedOption
from isochat.transports import finite
from isochat.transports.deadline import within

if TYPE_CHECKING:
    from collections.abc import Callable

    from isochat._connection import Connection
    from isochat._sql import PromptTemplate
    from isochat._types import ChatRequest, ChatResponse

# Seconds that the service holds the first reply back, of those it offers ("0s", or "5s" to "50s"): most answers are
# there by then, and of those that are not, the id is known, without which no statement can be cancelled.
_WAIT = 5
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 2.0  # seconds between two looks at a running statement: a tenth of its age
_LOOKS_LOST = 3  # looks in a row that may fail before the statement is given up
_CANCELLING = 5.0  # seconds that cancelling may take,
_HELD_UP = 0.25  # and how long it may hold up whoever asked


class AIQueryBackend(Backend):
    """SQL's `ai_query()`, on a warehouse: `AIQueryBackend(warehouse_id="…")`, or the setting `warehouse_id`.

    In a notebook or job, `AIQueryBackend(spark=spark)` runs the same statement in the session there is.

    A prompt is one text, so a conversation has to be made one, and how is the caller's to say. `prompt_template` is

    * `"plain"`: the texts of the messages, in their order, with a blank line between them;
    * `"roles"`: the same, each after its role and a colon (`System: …`, `User: …`, `Assistant: …`), and `Assistant:`
      at the end;
    * or a function that takes the messages (a tuple of `Message`) and gives the prompt.

    A question that is a single user message of text needs none, and goes as it is. With the named ones, what the model
    thought is left out, and anything else that is not text is refused.
    """

    name: ClassVar[str] = "ai-query"
    carries: ClassVar[frozenset[str]] = frozenset({*_sql.PARAMETERS, "response_format"})
    requires: ClassVar[tuple[str, ...]] = ("databricks.sdk",)
    drives: ClassVar[str] = "databricks-sdk, WorkspaceClient().statement_execution; or a SparkSession"
    route: ClassVar[str] = "/api/2.0/sql/statements"

    connection: Connection | None

    def __init__(
        self,
        connection: Connection | None = None,
        *,
        warehouse_id: str | None = None,
        prompt_template: str | PromptTemplate | None = None,
        spark: Any = None,
    ) -> None:
        if spark is None:
            super().__init__(connection)
        elif connection is None and warehouse_id is None:
            self.connection = None
        else:
            raise ConfigurationError("a Spark session runs the statement itself; leave out connection and warehouse_id")
        self._spark = spark
        self._template = _template(prompt_template)
        self._found_warehouse = warehouse_id
        self._client = PerProcess(self._make, lambda client: session(client).close())

    @classmethod
    def render(cls, request: ChatRequest) -> dict[str, Any]:
        """The statement and its parameters."""
        said = cls._statement(request, None)
        return {"statement": said.text, "parameters": dict(said.parameters)}

    def encode(self, request: ChatRequest) -> _sql.Statement:
        """The statement and its parameters."""
        return self._statement(request, self._template)

    @classmethod
    def _statement(cls, request: ChatRequest, template: PromptTemplate | None) -> _sql.Statement:
        try:
            return _sql.statement(request, template)
        except _sql.Conversation:
            others = tuple(name for name in BUILT_IN if name != cls.name)
            raise UnsupportedOption(
                f"the {cls.name!r} backend carries one prompt: a single user message of plain text, and this is more",
                option="messages",
                carried_by=others,
                hint="isochat.backends.ai_query.AIQueryBackend(prompt_template='roles') writes a conversation as one "
                f"prompt, and so may a function of yours; {', '.join(others)} carry it as it is.",
            ) from None

    def send(self, call: _sql.Statement, timeout: float) -> Any:
        """Execute the statement and wait for its end."""
        return self._run(_Asking(), call, timeout)

    async def asend(self, call: _sql.Statement, timeout: float) -> Any:
        """The same in a thread of its own; given up, the statement is cancelled and the thread ends."""
        asking = _Asking()

        def work() -> Any:
            with self.bounded(timeout):
                return self._run(asking, call, timeout)

        worker = Worker(asking)
        try:
            return await worker.do(work)
        finally:
            await worker.end()

    def decode(self, reply: Any) -> ChatResponse:
        """Read the one cell of the result."""
        if isinstance(reply, _wire.Reply):
            return _sql.decode(reply)
        return changed(_sql.answer(_plain(reply)), raw=reply)

    def classify(self, error: Exception) -> ChatError | None:
        """What an exception of the SDK or of Spark amounts to that did not come from the bytes."""
        ours = http_error(error) or _requests.transport_error(error)
        names = {cls.__name__ for cls in type(error).__mro__}
        if ours is None and "DatabricksError" in names:
            said = {"error_code": getattr(error, "error_code", None), "message": str(error)}
            return _refusal.service_error(None, {}, said)
        if ours is None and names & {"PySparkException", "Py4JJavaError", "SparkConnectException"}:
            return _sql.refusal(str(error))
        return ours

    def through(self, connection: Connection) -> AIQueryBackend:
        """The same on another connection; the warehouse is the one that this connection's host has."""
        return type(self)(connection, warehouse_id=self._place()[1], prompt_template=self._template)

    def warm(self) -> None:
        """Import the SDK, all of whose services come with its first line."""
        if self._spark is None:
            import_module("databricks.sdk")

    def close(self) -> None:
        """Close the connections; a Spark session is not ours to stop."""
        self._client.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'spark=…' if self._spark is not None else repr(self.connection)})"

    # ── on a warehouse ───────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, asking: _Asking, call: _sql.Statement, timeout: float) -> Any:
        if self._spark is not None:
            return _in_spark(self._spark, asking, call, timeout)
        until = time.monotonic() + timeout
        connection, warehouse = self._place()
        api = self._client.get().statement_execution
        asking.login = connection.headers(timeout=finite(timeout))
        begun = time.monotonic()
        reply = asking.ask(lambda: _execute(api, call, warehouse, until - begun))
        if (running := _sql.running(reply)) is None:
            return reply
        try:
            return self._ended(asking, api, running, begun, until)
        except BaseException as error:
            _cancel(asking, api, running)
            if isinstance(error, ChatError):
                error.sent = True  # the statement has run, whatever became of the look at it
            raise

    def _ended(self, asking: _Asking, api: Any, running: str, begun: float, until: float) -> _wire.Reply:
        """Look after a running statement until it has ended. A look that fails is repeated: looking runs nothing."""
        lost = 0
        while True:
            age = time.monotonic() - begun
            asking.sleep(min(max(_FIRST_LOOK, age / 10), _LONGEST_LOOK, max(0.0, until - time.monotonic())))
            if time.monotonic() >= until:
                raise DeadlineExceeded("the statement had not ended in time")
            try:
                reply = asking.ask(lambda: api.get_statement(running))
            except ChatError as error:
                lost += 1
                if not error.transient or lost > _LOOKS_LOST or time.monotonic() >= until:
                    raise
                continue
            lost = 0
            if _sql.running(reply) is None:
                return reply

    def _place(self) -> tuple[Connection, str]:
        """Who asks, and the warehouse to ask on. Raises `ConfigurationError`, naming every place that was looked at."""
        connection = self.connection
        if connection is None:  # there is one wherever there is no Spark session
            raise ConfigurationError("there is no connection")
        if not self._found_warehouse:
            # Asked with the host, since a warehouse is one workspace's, and a file may speak of another.
            found = _config.settings({"host": connection.host})
            self._found_warehouse = found.get("warehouse_id")
            if not self._found_warehouse and connection.login_source == "local endpoint":
                self._found_warehouse = "local"  # which has one, whatever it is called
            if not self._found_warehouse:
                withheld = [note for note in found.withheld if note.startswith("warehouse_id ")]
                way_out = (
                    "Set DATABRICKS_WAREHOUSE_ID, or hand it over: AIQueryBackend(warehouse_id=…). In a notebook, "
                    "AIQueryBackend(spark=spark) needs none."
                )
                raise ConfigurationError(
                    f"No SQL warehouse is set. Looked at: {found.looked('warehouse_id')}",
                    hint="\n".join([*withheld, way_out]),
                )
        return connection, self._found_warehouse

    def _make(self) -> Any:
        connection, _ = self._place()
        return workspace(connection)


def _template(said: str | PromptTemplate | None) -> PromptTemplate | None:
    if said is None or callable(said):
        return said
    if said not in _sql.TEMPLATES:
        raise ConfigurationError(
            f"prompt_template is {said!r}, and there are {', '.join(map(repr, _sql.TEMPLATES))}",
            hint="It may be a function too, which takes the messages and gives the prompt.",
        )
    return _sql.TEMPLATES[said]


def _execute(api: Any, call: _sql.Statement, warehouse: str, left: float) -> Any:
    from databricks.sdk.service.sql import (
        Disposition,
        ExecuteStatementRequestOnWaitTimeout,
        Format,
        StatementParameterListItem,
    )

    return api.execute_statement(
        statement=call.text,
        warehouse_id=warehouse,
        parameters=[StatementParameterListItem(name, "STRING", value) for name, value in call.parameters.items()],
        wait_timeout=f"{_WAIT}s" if left > _WAIT + 1 else "0s",
        on_wait_timeout=ExecuteStatementRequestOnWaitTimeout.CONTINUE,
        disposition=Disposition.INLINE,
        format=Format.JSON_ARRAY,
    )


def _cancel(asking: _Asking, api: Any, running: str) -> None:
    """Have a statement cancelled, and do not wait long for the word that it was."""
    login = asking.login

    def cancel() -> None:
        line = _Request()
        line.login = login
        # Nobody is there to hear of it: the question has failed already, and says why.
        with contextlib.suppress(Exception), within(_CANCELLING), _line.on(line):
            api.cancel_execution(running)

    cancelling = threading.Thread(target=cancel, name="isochat-cancel", daemon=True)
    cancelling.start()
    cancelling.join(_HELD_UP)


class _Request(Line):
    """One request of an attempt: to execute a statement, to look at it, or to cancel it."""

    def is_for(self, request: Any) -> bool:
        """Whether this request of `requests` is of the Statement Execution API."""
        return "/api/2.0/sql/statements" in str(request.url)

    def refusal(self) -> ChatError | None:
        """As for any request; but what is not there is then no endpoint of a model."""
        error = super().refusal()
        if isinstance(error, EndpointNotFound):
            error.hint = (
                "The warehouse is not there, or the statement is forgotten: `warehouse_id` says which warehouse."
            )
        return error


class _Asking(Line):
    """One attempt: all its requests, the one that is under way, and a way to call them off."""

    def __init__(self) -> None:
        super().__init__()
        self._under_way: Line | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()

    def ask(self, call: Callable[[], Any]) -> _wire.Reply:
        """Send one request through the client, and give the reply as it was on the wire."""
        line = _Request()
        line.login = self.login
        with self._lock:
            if self._over.is_set():
                raise DeadlineExceeded("the question was called off")
            self._under_way = line
        try:
            given: Any = _line.call_on(line, call)
        finally:
            # Its connection goes back to the pool, where the next to use it may be the one that cancels.
            with self._lock:
                self._under_way = None
        if line.response is not None:
            return _line.reply(line.response, given)
        # An answer that did not come over the wire: of a wrapper around the client, or of a test's stand-in.
        return _wire.Reply(_wire.OK, {}, _wire.to_bytes(given.as_dict()), given)

    def sleep(self, seconds: float) -> None:
        """Wait, unless it is called off."""
        if self._over.wait(seconds):
            raise DeadlineExceeded("the question was called off")

    def cut(self) -> None:
        """Call off what is under way, and whatever would come after it."""
        with self._lock:
            self._over.set()
            if self._under_way is not None:
                self._under_way.cut()

    def wait_for(self, done: threading.Event, seconds: float) -> bool:
        """Wait for something else; True if it came before the time was over and before it was called off."""
        until = time.monotonic() + seconds
        while not (came := done.wait(min(0.05, max(0.0, until - time.monotonic())))):
            if self._over.is_set() or time.monotonic() >= until:
                break
        return came


# ── in a Spark session ───────────────────────────────────────────────────────────────────────────────────────────


def _in_spark(spark: Any, asking: _Asking, call: _sql.Statement, timeout: float) -> Any:
    """The one cell of the result. Spark's own call waits as long as it takes, so it waits in a thread of its own.

    Where the session can be told to (Spark 3.5 with Spark Connect, Spark 4), what is not waited for is interrupted.
    """
    done = threading.Event()
    came: list[Any] = []
    failed: list[BaseException] = []
    tag = f"isochat-{uuid.uuid4().hex}"

    def work() -> None:
        try:
            if callable(getattr(spark, "addTag", None)):
                spark.addTag(tag)
            came.extend(spark.sql(call.text, args=dict(call.parameters)).collect())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            failed.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name="isochat-spark", daemon=True).start()
    if not asking.wait_for(done, timeout):
        if callable(getattr(spark, "interruptTag", None)):
            with contextlib.suppress(Exception):
                spark.interruptTag(tag)
        raise DeadlineExceeded("the statement had not ended in time")
    if failed:
        raise failed[0]
    return came[0][0]  # one question, one row, one column


def _plain(cell: Any) -> Any:
    """A cell of Spark's as Python's own values: a `Row` as a dictionary."""
    return cell.asDict(recursive=True) if callable(getattr(cell, "asDict", None)) else cell
