"""A secret is told to nobody but the host that it belongs to.

Canaries are planted as a token, as a service principal's secret and in addresses, and then looked for in everything
that an answer, an error or a command leaves behind: its text, its pickle, every object that can be reached from it,
what was logged (by every logger, at every level), printed and warned of.

What is not promised: the local variables of a traceback's frames, which some reporters of errors collect, and a
pickled `Connection`, which is of no use without its secret. SECURITY.md says so.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import gc
import json
import logging
import pickle
import sys
import traceback
import types
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

import isochat
from isochat import (
    AuthenticationFailed,
    ChatError,
    ChatEvent,
    ConfigurationError,
    Connection,
    Retry,
    aquery_chat,
    query_chat,
    render,
)
from isochat._config import settings
from isochat.backends import BUILT_IN, find, load
from isochat.errors import BackendNotInstalled
from isochat.local import LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from isochat import Backend

TOKEN = "dapi-canary-0123456789abcdef"
GPT = "databricks-gpt-5-1"  # has a Responses API too
ONCE = Retry(attempts=1)
MODES = ("blocking", "asyncio", "stream", "async stream")
WAYS = [(name, mode) for name in BUILT_IN for mode in MODES if "stream" not in mode or find(name).streams()]
STREAM = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

#: What can become of a request. Each backend is asked with each, as the fault of whatever it sends.
FAULTS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "401": {"status": 401},
    "403": {"status": 403},
    "500": {"status": 500},
    "a web page": {"status": 502, "body": "<html><title>Bad gateway</title></html>"},
    "a redirect": {"status": 307, "headers": {"location": "http://127.0.0.1:9/elsewhere"}},
    "reset": {"reset": True},
    "stall": {"stall": 30},
    "junk": {"junk": "<html>Sign in"},
    "cut short": {"cut_after": 2},
    "dropped": {"drop_after": 2},
    "not as long as it says": {"content_length": 100, "drop_after": 5},
    "a stream to nobody's wish": {"junk": STREAM.decode(), "headers": {"content-type": "text/event-stream"}},
}


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

_NOT_FOLLOWED = (types.ModuleType, type, types.FrameType, types.TracebackType, types.CodeType)


def path_to(secret: str, root: object) -> str | None:
    """How the secret can be reached from an object, and None if it cannot: every reference is followed.

    Not followed are frames (and so a traceback's local variables), modules and classes: all is reached from those.
    """
    held: list[tuple[object, int]] = [(root, -1)]
    seen = {id(root)}
    for at, (thing, _) in enumerate(held):  # it grows
        if isinstance(thing, str | bytes | bytearray):
            text = thing if isinstance(thing, str) else bytes(thing).decode("latin-1")
            if secret in text:
                way, place = [], at
                while place >= 0:
                    way.append(type(held[place][0]).__qualname__)
                    place = held[place][1]
                return " < ".join(way)
            continue
        if isinstance(thing, types.FunctionType):
            inner: list[Any] = [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, vars(thing)]
        elif isinstance(thing, types.GeneratorType | types.CoroutineType | types.AsyncGeneratorType):
            inner = []  # its frame
        else:
            inner = gc.get_referents(thing)
        for other in inner:
            if id(other) not in seen and not isinstance(other, _NOT_FOLLOWED):
                seen.add(id(other))
                held.append((other, at))
        assert len(held) < 300_000, f"half the process can be reached from a {type(root).__name__}"
    return None


def links(error: BaseException) -> list[BaseException]:
    """An error and all that led to it."""
    found: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is not None and link not in found:
            found.append(link)
            todo += [link.__cause__, link.__context__]
    return found


def pickled(thing: object) -> str:
    """Its pickle, as text; nothing for what cannot be pickled."""
    try:
        return pickle.dumps(thing).decode("latin-1")
    except Exception:  # noqa: BLE001 - whatever keeps it from being pickled
        return ""


def shown(error: BaseException) -> str:
    """All that an error shows, to whoever prints, logs or pickles it or one of its causes."""
    said = ["".join(traceback.format_exception(error))]
    for link in links(error):
        said += [str(link), repr(link), repr(link.args), repr(getattr(link, "__notes__", "")), pickled(link)]
    return "\n".join(said)


@dataclass
class Ears:
    """What is logged, by whichever logger at whichever level, and what is warned of."""

    logged: list[str] = field(default_factory=list)
    warned: list[warnings.WarningMessage] = field(default_factory=list)

    def heard(self) -> str:
        return "\n".join([*self.logged, *(str(warning) for warning in self.warned)])


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ears]:
    """Every logger of the process says all that it can, and is listened to."""
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        hearing = Ears(warned=warned)

        def handle(logger: logging.Logger, record: logging.LogRecord) -> None:
            if logger.filter(record):
                hearing.logged.append(f"{formatter.format(record)} {vars(record)!r}")

        monkeypatch.setattr(logging.Logger, "isEnabledFor", lambda *_: True)
        monkeypatch.setattr(logging.Logger, "handle", handle)
        yield hearing


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ordering:
    """A login that orders a fault along with each request: for the statement of `ai-query` as for a question."""

    inner: Any
    fault: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def headers(self, timeout: float | None) -> dict[str, str]:
        return {**self.inner.headers(timeout), "X-Isochat-Fault": json.dumps(self.fault)}

    async def aheaders(self, timeout: float | None) -> dict[str, str]:
        return {**await self.inner.aheaders(timeout), "X-Isochat-Fault": json.dumps(self.fault)}


_made: dict[tuple[str, str], Backend] = {}


@pytest.fixture(autouse=True, scope="module")
def _closed() -> Iterator[None]:
    yield
    while _made:
        _made.popitem()[1].close()


def session(name: str, connection: Connection) -> Backend:
    """A session, closed at the end of this file: one for all the tests that ask the same host."""
    try:
        made = _made.get((name, connection.host)) or load(name)(connection)
    except BackendNotInstalled as error:
        pytest.skip(str(error))
    made.connection = connection
    _made[name, connection.host] = made
    return made


def ask(mode: str, backend: Backend, **options: Any) -> Any:
    """The answer with all its chunks, or the error."""
    said: Any = {"endpoint": GPT, "backend": backend, "retry": ONCE, "timeout": 20, **options}

    async def awaited() -> Any:
        if mode == "asyncio":
            return await aquery_chat("Hi", **said)
        async with await aquery_chat("Hi", stream=True, **said) as stream:
            return [chunk async for chunk in stream], stream.response, repr(stream)

    try:
        if mode == "blocking":
            return query_chat("Hi", **said)
        if mode == "stream":
            with query_chat("Hi", stream=True, **said) as stream:
                return list(stream), stream.response, repr(stream)
        return asyncio.run(awaited())
    except ChatError as error:
        return error


def everything(left: Any, backend: Backend, events: list[ChatEvent]) -> str:
    """All that a question leaves behind, as text."""
    said = [repr(left), str(left), pickled(left), repr(events), repr(backend), str(backend), repr(backend.connection)]
    said += [shown(event.error) for event in events if event.error is not None]
    if isinstance(left, BaseException):
        said.append(shown(left))
    if hasattr(left, "to_dict"):
        said.append(json.dumps(left.to_dict()))
    return "\n".join(said)


@pytest.fixture(scope="module")
def _workspace() -> Iterator[LocalEndpoint]:
    with LocalEndpoint(token=TOKEN) as endpoint:
        yield endpoint


@pytest.fixture
def workspace(_workspace: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> LocalEndpoint:
    """A workspace whose token is the canary."""
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    _workspace.reset()
    return _workspace


# ── a token ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("name", "mode"), WAYS)
def test_a_token_is_told_to_nobody(  # noqa: PLR0917 - fixtures
    name: str, mode: str, fault: str, workspace: LocalEndpoint, ears: Ears, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever becomes of a question, nothing that it leaves behind holds the token."""
    connection = Connection(workspace.host, TOKEN)
    backend = session(name, connection)
    if (ordered := FAULTS[fault]) is not None:
        connection._login = Ordering(connection._login, ordered)
    events: list[ChatEvent] = []
    left = ask(mode, backend, timeout=0.5 if fault == "stall" else 20, on_event=events.append)

    assert workspace.received or fault == "stall"  # the first question of a client may take longer than that
    assert TOKEN not in everything(left, backend, events)
    assert TOKEN not in ears.heard()
    assert TOKEN not in "".join(capfd.readouterr())
    assert path_to(TOKEN, left) is None
    assert path_to(TOKEN, [event.error or event.response for event in events]) is None
    assert TOKEN not in repr(workspace.received)


@pytest.mark.parametrize(("name", "mode"), WAYS)
def test_a_login_cannot_begin_another_header(name: str, mode: str, workspace: LocalEndpoint, ears: Ears) -> None:
    """A login that gives a header with a line break in it is an error that does not quote it, and nothing is sent."""

    class Login:
        host = workspace.host
        auth_type = "mine"

        def authenticate(self) -> dict[str, str]:
            return {"Authorization": f"Bearer {TOKEN}\r\nx-more: 1"}

    try:
        backend = load(name)(Connection(config=Login(), allow_http=True))
    except BackendNotInstalled as error:
        pytest.skip(str(error))
    left = ask(mode, backend)
    backend.close()

    assert isinstance(left, ConfigurationError)
    assert "Authorization" in left.message
    assert path_to(TOKEN, left) is None
    assert TOKEN not in ears.heard()
    assert [] == workspace.received


def test_the_look_finds_what_is_there() -> None:
    """What the tests above rely on: the search follows attributes, closures, causes and causes' requests."""

    def keeping(held: str) -> Callable[[], str]:
        return lambda: held

    class Holder:
        def __init__(self) -> None:
            self.inner = {"deep": [keeping(f"Bearer {TOKEN}")]}

    error = ValueError("no")
    error.__cause__ = KeyError(f"x{TOKEN}".encode())

    assert path_to(TOKEN, Holder()) is not None
    assert path_to(TOKEN, [error]) is not None
    assert path_to("another secret", [Holder(), error]) is None
    assert TOKEN in shown(error)


@dataclass(frozen=True, slots=True)
class Azure:
    """A login as that of a service principal of Entra ID, whose second token stands in a header of its own."""

    inner: Any
    more: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def headers(self, timeout: float | None) -> dict[str, str]:
        return {**self.inner.headers(timeout), "X-Databricks-Azure-SP-Management-Token": self.more}

    async def aheaders(self, timeout: float | None) -> dict[str, str]:
        return self.headers(timeout)


@pytest.mark.parametrize("fault", ["none", "401", "reset"])
@pytest.mark.parametrize("mode", ["blocking", "asyncio"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_header_of_a_login_is_a_secret(
    name: str, mode: str, fault: str, workspace: LocalEndpoint, ears: Ears
) -> None:
    """A login may need more headers than one: each arrives, and none is told."""
    second = "second-canary-0123456789"
    connection = Connection(workspace.host, TOKEN)
    if (shared := _made.pop((name, connection.host), None)) is not None:
        shared.close()  # a client that is made knows its login
    connection._login = Azure(connection._login, second)
    backend = session(name, connection)
    if (ordered := FAULTS[fault]) is not None:
        connection._login = Ordering(connection._login, ordered)
    left = ask(mode, backend)

    assert any(request.headers.get("X-Databricks-Azure-SP-Management-Token") == "***" for request in workspace.received)
    assert second not in everything(left, backend, []) + ears.heard() + repr(workspace.received)
    assert path_to(second, left) is None


@pytest.mark.parametrize("name", BUILT_IN)
def test_nobody_there_is_told_without_the_token(name: str, ears: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is down is an error without the token."""
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    backend = session(name, Connection("http://127.0.0.1:1", TOKEN))
    left = ask("blocking", backend)

    assert isinstance(left, ChatError)
    assert TOKEN not in everything(left, backend, []) + ears.heard()
    assert path_to(TOKEN, left) is None


@pytest.mark.parametrize(("name", "logger"), [("openai", "openai"), ("ai-query", "databricks.sdk")])
def test_surprise_clients_log_prompts(name: str, logger: str, workspace: LocalEndpoint, ears: Ears) -> None:
    """At DEBUG these say what was asked: SECURITY.md names them."""
    backend = session(name, Connection(workspace.host, TOKEN))
    if name == "openai" and version("openai").startswith("3."):
        pytest.skip("openai 3 says only where the request goes")
    query_chat("a prompt to be seen", endpoint=GPT, backend=backend, retry=ONCE)

    assert any(said.startswith(logger) and "a prompt to be seen" in said for said in ears.logged)


def test_isochat_logs_no_prompt(workspace: LocalEndpoint, ears: Ears) -> None:
    """Nor does anything beneath `rest`."""
    backend = session("rest", Connection(workspace.host, TOKEN))
    query_chat("a prompt to be seen", endpoint=GPT, backend=backend, retry=ONCE)

    assert "a prompt to be seen" not in ears.heard()


# ── a service principal ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", ["none", "401", "reset"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_client_secret_is_told_to_nobody(
    name: str, fault: str, workspace: LocalEndpoint, ears: Ears, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither the secret of a service principal nor the token that it is given is told, in any form."""
    pytest.importorskip("databricks.sdk")
    secret = workspace.client_secret
    connection = Connection(workspace.host, client_id=workspace.client_id, client_secret=secret)
    backend = session(name, connection)
    token = connection.headers()["Authorization"].removeprefix("Bearer ")
    if (ordered := FAULTS[fault]) is not None:
        connection._login = Ordering(connection._login, ordered)
    events: list[ChatEvent] = []
    left = ask("blocking", backend, on_event=events.append)
    basic = base64.b64encode(f"{workspace.client_id}:{secret}".encode()).decode()

    assert token in workspace._sign_in._issued
    for canary in (secret, token, basic):
        assert canary not in everything(left, backend, events)
        assert canary not in ears.heard()
        assert canary not in "".join(capfd.readouterr())
        assert path_to(canary, left) is None
        assert canary not in repr(workspace.received) + repr([request.body for request in workspace.received])


@pytest.mark.parametrize("mode", ["blocking", "asyncio"])
def test_a_login_that_is_refused_tells_no_secret(mode: str, workspace: LocalEndpoint, ears: Ears) -> None:
    """A wrong client secret is an error that does not repeat it."""
    pytest.importorskip("databricks.sdk")
    secret = "client-secret-canary-0123"
    backend = session("rest", Connection(workspace.host, client_id=workspace.client_id, client_secret=secret))
    left = ask(mode, backend)

    assert isinstance(left, AuthenticationFailed)
    assert secret not in everything(left, backend, []) + ears.heard()
    assert path_to(secret, left) is None


# ── in an address ────────────────────────────────────────────────────────────────────────────────────────────────

ADDRESSES = [
    f"https://user:{TOKEN}@w.example",
    f"user:{TOKEN}@w.example",
    f"https://{TOKEN}@w.example",
    f"https://w.example/?token={TOKEN}",
    f"https://w.example?o=1&token={TOKEN}",
    f"w.example?token={TOKEN}",
    f"http://127.0.0.1:1/#token={TOKEN}",
    f"http://user:{TOKEN}@w.example/?token={TOKEN}#{TOKEN}",
    f"https://w.example:{TOKEN}",
    f"https://user:{TOKEN}@w.example\n",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_secret_in_an_address_is_not_shown(
    address: str, ears: Ears, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """People paste addresses with secrets in them: wherever it was found, only what is no secret is shown."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    places: list[Callable[[], Any]] = [
        lambda: Connection(address, "t"),
        lambda: query_chat("Hi", endpoint="e", host=address, token="t", retry=ONCE),
        lambda: query_chat("Hi", endpoint="e", retry=ONCE),
        Connection,
    ]
    for place in places:
        monkeypatch.setenv("DATABRICKS_HOST", address)
        monkeypatch.setenv("DATABRICKS_TOKEN", "t")
        try:
            said.append(repr(place()))
        except ChatError as error:
            said.append(shown(error))
    found = settings({"host": address})
    said += [repr(found), str(found), repr(list(found)), *(setting.shown for setting in found), found.looked("host")]

    assert TOKEN not in "\n".join(said) + ears.heard()


# ── where settings stand ─────────────────────────────────────────────────────────────────────────────────────────


def test_settings_show_no_secret() -> None:
    """A setting that is a secret is there to be used and not to be seen."""
    found = settings({"host": "https://w.example", "token": TOKEN})
    connection = Connection("https://w.example", TOKEN)

    assert TOKEN == found.get("token")
    assert TOKEN not in repr(found) + str(found) + "".join(setting.shown for setting in found)
    assert TOKEN not in repr(connection) + str(connection) + repr(connection.key()) + repr(copy.copy(connection))
    assert TOKEN not in str(hash(connection)) + repr({connection: connection}) + f"{connection}"


def test_a_pickled_connection_holds_its_secret() -> None:
    """It would be of no use without: keep it as you would keep the secret. Nothing else that is pickled holds one."""
    connection = Connection("https://w.example", TOKEN)
    again = pickle.loads(pickle.dumps(connection))

    assert {"Authorization": f"Bearer {TOKEN}"} == again.headers()
    assert TOKEN in pickled(connection)


def test_what_would_be_sent_holds_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """`render()` gives the body, which says what is asked and not who asks."""
    monkeypatch.setenv("DATABRICKS_HOST", "https://w.example")
    monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
    for name in BUILT_IN:
        body = render("Hi", endpoint=GPT, backend=name)

        assert TOKEN not in repr(body)
        assert path_to(TOKEN, body) is None


# ── at the command line ──────────────────────────────────────────────────────────────────────────────────────────

COMMANDS = [
    ["ask", "--endpoint", GPT, "Hi"],
    ["ask", "--endpoint", GPT, "--json", "Hi"],
    ["ask", "--endpoint", GPT, "--stream", "Hi"],
    ["ask", "--endpoint", "no-such-endpoint", "Hi"],
    ["ask", "Hi"],
    ["render", "--endpoint", GPT, "Hi"],
    ["doctor"],
    ["doctor", "--json"],
    ["doctor", "--endpoint", GPT],
    ["doctor", "--endpoint", "no-such-endpoint", "--json"],
    ["backends"],
    ["backends", "--json"],
    ["--version"],
]


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[[list[str]], str]:
    """Type a command into this process; gives all that it printed."""
    pytest.importorskip("typer", reason="the command line needs typer: pip install 'isochat[cli]'")
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)

    def run(words: list[str]) -> str:
        from isochat._cli import main

        monkeypatch.setattr(sys, "argv", ["isochat", *words])
        code = main()
        return f"{code}\n" + "".join(capfd.readouterr())

    return run


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("token", [TOKEN, "dapi-canary-refused-0123"], ids=["accepted", "refused"])
def test_no_command_prints_a_token(  # noqa: PLR0917 - fixtures
    words: list[str],
    token: str,
    workspace: LocalEndpoint,
    typed: Callable[[list[str]], str],
    ears: Ears,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is typed, and whether or not the workspace accepts it, the token is not printed."""
    monkeypatch.setenv("DATABRICKS_HOST", workspace.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", token)
    printed = typed(words)
    isochat.close()

    assert token not in printed + ears.heard()


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("command", ["ask", "doctor"])
def test_no_command_prints_a_secret_of_an_address(
    command: str, address: str, typed: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host with a secret in it is refused and not repeated."""
    monkeypatch.setenv("DATABRICKS_TOKEN", "t")
    monkeypatch.setenv("DATABRICKS_HOST", address)
    words = [command, "--endpoint", "e", *(["--attempts", "1", "Hi"] if command == "ask" else [])]
    from_environment = typed(words)
    monkeypatch.delenv("DATABRICKS_HOST")
    from_argument = typed([*words, "--host", address])

    assert from_environment[0] in "124"
    assert TOKEN not in from_environment + from_argument
