"""Every fault, through every backend, in every mode: what is promised of it, and nothing else.

A cell is one question. It ends in its time, in the class that is promised, after as many attempts as are promised, with
everything that had arrived; the question after it is answered; and nothing is left behind, no connection and no thread.
The size of the matrix and its result are printed at the end of the run.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from fault_table import ATTEMPTS, BEHIND, FAULTS, LONG, MODES, NO_STREAM, Behind, Does, Fault, Promise, well
from figures import WAREHOUSE
from raw_server import Server, language

from isochat import (
    ChatError,
    ChatResponse,
    Connection,
    ConnectionFailed,
    DeadlineExceeded,
    Retry,
    StreamInterrupted,
    aquery_chat,
    query_chat,
)
from isochat.backends import BUILT_IN, load
from isochat.backends.rest import RestBackend
from isochat.errors import BackendNotInstalled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isochat import Backend
    from isochat.local import LocalEndpoint

AT_ONCE = Retry(attempts=ATTEMPTS, first_wait=0.0)
MARGIN = 0.5  # seconds that a question may outlive its deadline by, on a slow machine
ENDPOINT = "databricks-gpt-5-1"


# ── where a question goes ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def untrusted() -> Iterator[Server]:
    """A server whose certificate no authority has signed that anybody knows."""
    trustme = pytest.importorskip("trustme", reason="a certificate is made with trustme")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = Server(context)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def nobody() -> Iterator[str]:
    """An address that is taken, at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def no_name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A host that no name server knows. None is asked, but by pyreqwest, which knows nothing of Python's look-ups.

    `.invalid` is nobody's, and a resolver says so by itself (RFC 6761).
    """
    guarded = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in ("workspace.invalid", b"workspace.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return guarded(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return "https://workspace.invalid"


@pytest.fixture(autouse=True)
def nobody_else_to_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """No authorities are named in the environment of whoever runs the tests: `rest` goes by that."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def host(fault: Fault, server: Server, request: pytest.FixtureRequest) -> str:
    named: dict[str, Callable[[], str]] = {
        "nobody": lambda: request.getfixturevalue("nobody"),
        "no name": lambda: request.getfixturevalue("no_name"),
        "untrusted": lambda: request.getfixturevalue("untrusted").host,
        "no tls": lambda: server.host.replace("http://", "https://"),
        "server": lambda: server.host,
    }
    return named[fault.to]()


class Tokens:
    """A login that has a fresh token each time."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"token-{self.count}"


def made(name: str, connection: Connection) -> Backend:
    """A session of its own, its client imported: that takes seconds, and is no part of a question's time."""
    try:
        backend = load(name)(connection)
    except BackendNotInstalled as missing:
        pytest.skip(str(missing))
    backend.warm()
    return backend


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Asked:
    """What became of a question, how long it took, and how often it arrived."""

    outcome: ChatResponse | ChatError
    seconds: float
    arrived: int


@dataclass(frozen=True)
class Step:
    """A question: what is told to the server before it, and how much time it has."""

    #: It gives what counts the questions that arrive from then on.
    tell: Callable[[], Callable[[], int]]
    timeout: float = LONG


def ask(backend: Backend, mode: str, *steps: Step, heard: Callable[[], object] = lambda: None) -> list[Asked]:
    """Ask these questions one after the other, in one mode and one session, and close it."""
    said: Any = {"endpoint": ENDPOINT, "backend": backend, "retry": AT_ONCE}
    if mode.startswith("async"):
        return asyncio.run(_aask(backend, mode, steps, said, heard))
    asked = []
    for step in steps:
        count, begun = step.tell(), time.monotonic()
        outcome: ChatResponse | ChatError
        try:
            if "stream" not in mode:
                outcome = query_chat("Hi", timeout=step.timeout, **said)
            else:
                with query_chat("Hi", stream=True, timeout=step.timeout, **said) as stream:
                    for _ in stream:
                        if stream.partial.text == "Hello":
                            heard()
                    outcome = stream.response
        except ChatError as error:
            outcome = error
        asked.append(Asked(outcome, time.monotonic() - begun, count()))
    backend.close()
    return asked


async def _aask(
    backend: Backend, mode: str, steps: tuple[Step, ...], said: Any, heard: Callable[[], object]
) -> list[Asked]:
    asked = []
    for step in steps:
        count, begun = step.tell(), time.monotonic()
        outcome: ChatResponse | ChatError
        try:
            if "stream" not in mode:
                outcome = await aquery_chat("Hi", timeout=step.timeout, **said)
            else:
                async with await aquery_chat("Hi", stream=True, timeout=step.timeout, **said) as stream:
                    async for _ in stream:
                        if stream.partial.text == "Hello":
                            heard()
                    outcome = stream.response
        except ChatError as error:
            outcome = error
        asked.append(Asked(outcome, time.monotonic() - begun, count()))
    await backend.aclose()
    return asked


def is_answered(asked: Asked, text: str = "Hello", attempts: int = 1) -> None:
    """All is well."""
    assert isinstance(asked.outcome, ChatResponse), repr(asked.outcome)
    assert text == asked.outcome.text
    assert asked.arrived in {1, attempts}


def keeps(promise: Promise, outcome: ChatResponse | ChatError) -> None:
    """It ended as was promised."""
    if promise.error is None:
        assert isinstance(outcome, ChatResponse), repr(outcome)
        as_said = outcome.text == promise.text  # not in the assert, which would show where 64 MiB differ
        assert as_said, outcome.text[:200]
        assert len(outcome.attempts) == promise.attempts - 1
        return
    assert type(outcome) is promise.error, repr(outcome)
    assert promise.says == {name: getattr(outcome, name) for name in promise.says}
    assert len(outcome.attempts) == promise.attempts
    if isinstance(outcome, StreamInterrupted):
        assert outcome.partial is not None
        assert outcome.partial.text == promise.text
        assert isinstance(outcome.__cause__, promise.cause)
    if promise.attempts > 1 or isinstance(outcome, ConnectionFailed | DeadlineExceeded):
        assert outcome.__cause__ is not None or not promise.caused
    if promise.attempts:
        assert outcome.endpoint == ENDPOINT
        assert outcome.backend


def leaves_nothing(open_connections: Callable[[], int], before: set[threading.Thread]) -> None:
    """No connection and no thread is left behind; each has a moment to end."""
    until = time.monotonic() + 5
    while open_connections() or left_behind(before):
        assert time.monotonic() < until, f"{open_connections()} connections, {left_behind(before)}"
        time.sleep(0.002)


def left_behind(before: set[threading.Thread]) -> set[threading.Thread]:
    """The threads that were not there before, but for the server's own (the local endpoint's are asyncio's)."""
    return {
        each for each in set(threading.enumerate()) - before if not each.name.startswith(("raw-server", "asyncio_"))
    }


@pytest.fixture(autouse=True)
def _cell(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Which cell this is, for the summary: before anything may go wrong, or be found to be missing."""
    said = getattr(request.node, "callspec", None) and request.node.callspec.params
    if said and "transport" not in said:
        record_property("cell", [said.get("name", WAREHOUSE), said["mode"], said["fault"].name])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(BUILT_IN))
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_cell(  # noqa: PLR0917 - fixtures
    fault: Fault,
    name: str,
    mode: str,
    host: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """One fault, through one backend, in one mode."""
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    backend = made(name, Connection(host, Tokens() if fault.fresh else "token", allow_http=True))
    wrong = is_as_promised(fault, backend, mode, server)
    record_property("seconds", [wrong.seconds, fault.timeout])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_cell_of_rest_by_pyreqwest(fault: Fault, mode: str, host: str, server: Server) -> None:
    """One fault, through `rest` by pyreqwest."""
    pytest.importorskip("pyreqwest", reason="pip install 'isochat[fast]'")
    connection = Connection(host, Tokens() if fault.fresh else "token", allow_http=True)
    backend = RestBackend(connection, transport="pyreqwest")
    backend.warm()
    is_as_promised(fault, backend, mode, server)


def is_as_promised(fault: Fault, backend: Backend, mode: str, server: Server) -> Asked:
    """Ask, hold what comes of it to the promise, and give it."""
    name = backend.name
    promise, speech, streams = fault.promise(name, mode), language(name), "stream" in mode
    arrives = fault.to == "server" and promise is not NO_STREAM
    threads = set(threading.enumerate())

    def tell(does: Does) -> Step:
        def now() -> Callable[[], int]:
            return server.answer(lambda exchange: does(exchange, speech, streams))

        return Step(now, fault.timeout if does is fault.does else LONG)

    # Where there is little time, a question before it sees to it that the client is made.
    steps = [tell(well)] * (arrives and fault.timeout < LONG) + [tell(fault.does)] + [tell(well)] * arrives
    asked = ask(backend, mode, *steps, heard=server.heard.set)
    wrong = asked.pop(-2 if arrives else -1)

    assert wrong.seconds < fault.timeout + MARGIN
    keeps(promise, wrong.outcome)
    assert wrong.arrived == (promise.attempts if arrives else 0)
    for other in asked:
        is_answered(other, attempts=2 if fault.lingers else 1)
    leaves_nothing(lambda: server.open_connections, threads)
    return wrong


# ── behind a warehouse ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def _serving() -> Iterator[LocalEndpoint]:
    for module in ("aiohttp", "sqlglot", "databricks.sdk"):
        pytest.importorskip(module, reason=f"a warehouse on this machine needs {module}")
    from isochat.backends.ai_query import AIQueryBackend
    from isochat.local import LocalEndpoint

    with LocalEndpoint() as endpoint:
        backend = AIQueryBackend(Connection(endpoint.host, endpoint.token), warehouse_id="w")
        query_chat("Hi", endpoint=ENDPOINT, backend=backend)  # it imports sqlglot, which takes its time
        backend.close()
        yield endpoint


@pytest.fixture
def warehouse(request: pytest.FixtureRequest) -> LocalEndpoint:
    """The local endpoint, with a warehouse that is awake."""
    endpoint: LocalEndpoint = request.getfixturevalue("_serving")
    return endpoint


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("fault", BEHIND, ids=lambda fault: fault.name)
def test_cell_behind_a_warehouse(
    fault: Behind,
    mode: str,
    warehouse: LocalEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """The model's fault, through SQL."""
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    backend = made("ai-query", Connection(warehouse.host, warehouse.token))
    threads = set(threading.enumerate())

    def goes_wrong() -> Callable[[], int]:
        warehouse.reset()
        for _ in range(ATTEMPTS):
            if fault.order is not None:
                warehouse.order(fault.order)
            else:
                warehouse.reply(**(fault.reply or {}))
        return lambda: len(warehouse.questions)

    def is_well() -> Callable[[], int]:
        warehouse.reset()
        return lambda: len(warehouse.questions)

    first, wrong, last = ask(backend, mode, Step(is_well), Step(goes_wrong, fault.timeout), Step(is_well))
    record_property("seconds", [wrong.seconds, fault.timeout])

    assert wrong.seconds < fault.timeout + MARGIN
    keeps(fault.promise, wrong.outcome)
    assert wrong.arrived == fault.promise.attempts
    for other in (first, last):
        is_answered(other, "Hi")
    leaves_nothing(lambda: warehouse.open_connections, threads)


def test_each_cell_has_a_name_of_its_own() -> None:
    """No fault hides another."""
    for table in (FAULTS, BEHIND):
        names = [fault.name for fault in table]

        assert sorted(set(names)) == sorted(names)
