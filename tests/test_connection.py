"""A connection knows who to ask and as whom, logs in no more than it must, and shows no secret."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import http.server
import importlib.metadata
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from isochat import _connection
from isochat._config import settings
from isochat._connection import Connection, connect
from isochat.errors import (
    AuthenticationFailed,
    ChatError,
    ConfigurationError,
    ConnectionFailed,
    DeadlineExceeded,
    MalformedReply,
    ServiceUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isochat.local import LocalEndpoint

HOST = "https://w.example"
try:
    SDK = tuple(map(int, importlib.metadata.version("databricks-sdk").split(".")[:2]))
except importlib.metadata.PackageNotFoundError:
    SDK = (0, 0)
since_0_156 = pytest.mark.skipif(
    SDK < (0, 156), reason="an older databricks-sdk asks and fails in other ways; the caller's time bounds it"
)
CANARY = "dose0canary0secret0"


def everything(error: BaseException) -> str:
    """All that an error shows, to whoever prints, logs or pickles it."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(pickle.dumps(error))


@pytest.fixture(autouse=True)
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)


# --------------------------------------------------------------------------------------------------- a workspace's door


@dataclass
class Door:
    """The part of a workspace that logs people in: discovery and the token endpoint, on this machine."""

    host: str = ""
    asked: list[str] = field(default_factory=list)
    token: Callable[[int], tuple[int, Any]] = lambda n: (
        200,
        {"access_token": f"token-{n}", "token_type": "Bearer", "expires_in": 3600},
    )
    metadata: int = 200
    discovery: int = 200
    open: threading.Event = field(default_factory=threading.Event)
    """Unset, the token endpoint does not answer."""

    @property
    def tokens(self) -> int:
        return self.asked.count("/oidc/v1/token")


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    door.open.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: Any) -> None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(body, bytes) else "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def do_GET(self) -> None:
            door.asked.append(self.path)
            if self.path == "/.well-known/databricks-config":
                self.answer(door.metadata, {"oidc_endpoint": f"{door.host}/oidc", "workspace_id": "1"})
            elif self.path == "/oidc/.well-known/oauth-authorization-server":
                answer = {k: f"{door.host}/oidc/v1/{k[:5]}" for k in ("authorization_endpoint", "token_endpoint")}
                self.answer(door.discovery, answer)
            else:
                self.answer(404, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            door.asked.append(self.path)
            door.open.wait(20)
            with contextlib.suppress(OSError):  # nobody waits any more
                self.answer(*door.token(door.tokens))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    door.host = f"http://127.0.0.1:{server.server_port}"
    try:
        yield door
    finally:
        door.open.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def principal(door: Door) -> Connection:
    """A service principal at that door."""
    pytest.importorskip("databricks.sdk")
    return Connection(door.host, client_id="principal", client_secret=CANARY)


# ------------------------------------------------------------------------------------------------------ host and token


def test_host_and_token() -> None:
    """A host and a token are a connection, and the headers are the caller's to change."""
    connection = Connection("w.example/", "dapi1")
    headers = connection.headers()
    headers["x"] = "y"

    assert (HOST, "argument", "argument") == (connection.host, connection.host_source, connection.login_source)
    assert {"Authorization": "Bearer dapi1"} == connection.headers(timeout=0)
    assert {"Authorization": "Bearer dapi1"} == asyncio.run(connection.aheaders(timeout=0))
    assert connection.is_static
    assert not connection.renew()


def test_host_and_token_load_nothing() -> None:
    """A host and a token load neither the Databricks SDK nor an HTTP library, and read no file."""
    program = (
        "import sys; from isochat._connection import Connection\n"
        "Connection('https://w.example', 'dapi1').headers()\n"
        "print([name for name in ('databricks', 'requests', 'httpx2', 'httpx', 'configparser') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (f"{CANARY}\n", "contains a line break"),
        (f"{CANARY}\r\nX-Evil: 1", "contains a line break"),
        (f" {CANARY}", "contains white space"),
        (f"{CANARY}\x00", "contains a control character"),
        (f"{CANARY}é", "contains a character that no header may hold"),
        (f"Bearer {CANARY}", "begins with the word Bearer"),
        (CANARY.encode(), "must be text, and it is bytes"),
    ],
)
def test_token_that_is_unfit_for_a_header(token: Any, said: str) -> None:
    """A token that would break the header is refused, and never shown."""
    for make in (lambda: Connection(HOST, token), lambda: Connection(HOST, lambda: token).headers()):
        with pytest.raises(ConfigurationError) as caught:
            make()

        assert said in str(caught.value)
        assert CANARY not in everything(caught.value)


def test_token_of_the_environment_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad token in the environment is refused with the variable's name."""
    monkeypatch.setenv("DATABRICKS_HOST", HOST)
    monkeypatch.setenv("DATABRICKS_TOKEN", f"{CANARY}\n")

    with pytest.raises(ConfigurationError, match=r"The token \(DATABRICKS_TOKEN\) contains a line break"):
        Connection()


def test_unencrypted_host() -> None:
    """A token does not go over the network in the clear, unless the caller says that the network is theirs."""
    with pytest.raises(ConfigurationError, match="unencrypted"):
        Connection("http://w.example", "dapi1")

    assert Connection("http://w.example", "dapi1", allow_http=True).host == "http://w.example"


def test_unencrypted_host_allowed_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same may be said in the environment, as for a local endpoint in another container."""
    monkeypatch.setenv("ISOCHAT_ALLOW_HTTP", "1")

    assert Connection("http://w.example", "dapi1").host == "http://w.example"


def test_everything_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments the environment says it, as it does for databricks-sdk."""
    monkeypatch.setenv("DATABRICKS_HOST", "w.example")
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi1")
    connection = Connection()

    assert connection == connect(settings())
    assert connection == Connection(HOST, "dapi1")
    assert ("DATABRICKS_HOST", "DATABRICKS_TOKEN") == (connection.host_source, connection.login_source)


def test_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that holds a host and a token needs no SDK either."""
    (Path.home() / ".databrickscfg").write_text("[prod]\nhost = https://w.example\ntoken = dapi1\n")

    assert Connection(profile="prod") == Connection(HOST, "dapi1")


# ------------------------------------------------------------------------------------------------- a token by function


def test_token_function_is_called_for_each_request_where_it_is_asked() -> None:
    """A token function runs for every request, in the thread and the context that asks: the token may be the user's."""
    user = contextvars.ContextVar("user", default="nobody")
    threads = []

    def token() -> str:
        threads.append(threading.current_thread())
        return f"token-of-{user.get()}"

    connection = Connection(HOST, token)
    user.set("ann")
    assert {"Authorization": "Bearer token-of-ann"} == connection.headers(timeout=5)
    assert [threading.current_thread()] == threads
    assert {"Authorization": "Bearer token-of-ann"} == asyncio.run(connection.aheaders(timeout=5))
    assert not connection.is_static
    assert connection.renew()


def test_token_function_that_fails() -> None:
    """What the token function raises goes through untouched."""
    connection = Connection(HOST, lambda: 1 / 0)  # type: ignore[arg-type,return-value]

    with pytest.raises(ZeroDivisionError):
        connection.headers()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(connection.aheaders())


def test_token_function_that_is_asynchronous() -> None:
    """An asynchronous token function is refused, not sent as the name of a coroutine."""

    async def token() -> str:
        return "x"

    with pytest.raises(ConfigurationError, match="asynchronous"):
        Connection(HOST, token).headers()  # type: ignore[arg-type]


def test_slow_token_function_leaves_the_loop_alone() -> None:
    """A token function that sleeps does not stop the event loop, and asyncio waits for it no longer than it may."""
    release = threading.Event()

    def token() -> str:
        release.wait(10)
        return "late"

    async def main() -> int:
        connection, beats = Connection(HOST, token), 0
        asking = asyncio.create_task(connection.aheaders(timeout=0.2))
        while not asking.done():
            await asyncio.sleep(0.01)
            beats += 1
        with pytest.raises(DeadlineExceeded):
            await asking
        return beats

    try:
        assert asyncio.run(main()) > 5
    finally:
        release.set()


# ----------------------------------------------------------------------------------------------------- what is missing


def test_no_host() -> None:
    """Without a host, the error lists every place that was looked at, and what would help."""
    with pytest.raises(ConfigurationError) as caught:
        Connection()
    said = str(caught.value)

    for place in (
        "argument host",
        "ISOCHAT_HOST",
        "DATABRICKS_HOST",
        "isochat.toml",
        "[tool.isochat]",
        "databrickscfg",
    ):
        assert place in said
    assert "host='local' gives the local endpoint" in said


def test_other_tools_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a host, another tool's variable is mentioned, and its value is not."""
    monkeypatch.setenv("DATABRICKS_API_BASE", HOST)
    monkeypatch.setenv("DATABRICKS_API_KEY", CANARY)
    with pytest.raises(ConfigurationError) as caught:
        Connection()

    assert "DATABRICKS_API_BASE is set, and isochat does not read it" in str(caught.value)
    assert CANARY not in everything(caught.value)


def test_pat_without_a_token() -> None:
    """auth_type='pat' without a token says where one was looked for."""
    with pytest.raises(ConfigurationError, match=r"no token\. Looked at: argument token; ISOCHAT_TOKEN; DATABR"):
        Connection(HOST, auth_type="pat")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ({"auth_type": "pta"}, "auth_type is 'pta': did you mean 'pat'?"),
        ({"client_id": "id"}, "oauth-m2m needs client_secret too. A token was looked for at"),
        ({"auth_type": "basic"}, "basic needs password and username too. A token was looked for at"),
    ],
)
def test_half_a_login(door: Door, said: dict[str, str], advice: str) -> None:
    """A login that lacks a part, or is misspelt, names it."""
    pytest.importorskip("databricks.sdk")
    with pytest.raises(ConfigurationError) as caught:
        Connection(door.host, **said).headers(timeout=10)

    assert advice in str(caught.value)


def test_two_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two logins in the environment are refused until auth_type says which."""
    monkeypatch.setenv("DATABRICKS_HOST", HOST)
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "id")
    with pytest.raises(ConfigurationError, match="more than one login") as caught:
        Connection()

    assert "auth_type" in str(caught.value)
    assert CANARY not in everything(caught.value)
    assert Connection(auth_type="pat").headers() == {"Authorization": f"Bearer {CANARY}"}


def test_unknown_login() -> None:
    """A keyword that is no login is refused."""
    with pytest.raises(ConfigurationError, match=r"There is no setting 'client_secert'\nDid you mean 'client_secret'"):
        Connection(HOST, client_secert="x")
    with pytest.raises(ConfigurationError, match="timeout is no part of a login"):
        Connection(HOST, timeout="5")


def test_sdk_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that needs the SDK says the line that installs it, at once, and where a token was looked for."""
    monkeypatch.setattr(_connection, "_installed", lambda: False)
    with pytest.raises(ConfigurationError) as caught:
        Connection(HOST, client_id="id", client_secret=CANARY)

    assert "pip install 'isochat[databricks-sdk]'" in str(caught.value)
    assert "argument token; ISOCHAT_TOKEN; DATABRICKS_TOKEN" in str(caught.value)
    assert CANARY not in everything(caught.value)


# ------------------------------------------------------------------------------------------------- login by the SDK


@since_0_156
def test_nothing_is_asked_before_the_first_headers(door: Door, principal: Connection) -> None:
    """Making a connection asks nobody; the first headers log in, the next ones use the token while it is valid."""
    assert [] == door.asked

    assert [{"Authorization": "Bearer token-1"}] * 3 == [principal.headers(timeout=10) for _ in range(3)]
    assert asyncio.run(principal.aheaders(timeout=10)) == {"Authorization": "Bearer token-1"}
    assert (1, 3) == (door.tokens, len(door.asked))
    assert principal.login == "oauth-m2m"


def test_sixty_threads_log_in_once(door: Door, principal: Connection) -> None:
    """Threads that ask at the same time cause one login."""
    door.open.clear()
    answers: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: answers.append(principal.headers(timeout=10))) for _ in range(60)]
    for thread in threads:
        thread.start()
    door.open.set()
    for thread in threads:
        thread.join()

    assert [{"Authorization": "Bearer token-1"}] * 60 == answers
    assert door.tokens == 1


def test_token_of_another_workspace_in_the_environment(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK does not fall back to a token in the environment that belongs to another workspace."""
    pytest.importorskip("databricks.sdk")
    monkeypatch.setenv("DATABRICKS_HOST", "https://other.example")
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    with pytest.raises(ConfigurationError) as caught:
        Connection(door.host).headers(timeout=10)

    assert "cannot configure default credentials" in str(caught.value)
    assert "token of DATABRICKS_TOKEN was not used: it stands there with the host https://other" in str(caught.value)
    assert CANARY not in everything(caught.value)


def test_parts_of_several_logins_of_another_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment holds several logins, all for another workspace, nothing is left to log in with."""
    monkeypatch.setenv("DATABRICKS_HOST", "https://other.example")
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "id")
    with pytest.raises(ConfigurationError, match=r"none is complete for https://w\.example") as caught:
        Connection(HOST)

    assert "client_id of DATABRICKS_CLIENT_ID was not used" in str(caught.value)
    assert CANARY not in everything(caught.value)


@pytest.mark.parametrize(
    ("login", "way"),
    [
        ({"username": "u", "password": CANARY}, "basic"),
        ({"azure_client_id": "i", "azure_client_secret": CANARY}, "azure-client-secret"),
        ({"google_credentials": CANARY}, "google-credentials"),
        ({"metadata_service_url": f"http://127.0.0.1/{CANARY}"}, "metadata-service"),
        ({"oidc_token_filepath": "token.jwt"}, "file-oidc"),
        ({"auth_type": "databricks-cli"}, "databricks-cli"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_complete_login_is_the_one_that_is_used(
    door: Door, monkeypatch: pytest.MonkeyPatch, login: dict[str, str], way: str
) -> None:
    """A login that is complete is the one the SDK is asked for, whatever else is in the environment."""
    sdk = pytest.importorskip("databricks.sdk.config")
    monkeypatch.setenv("DATABRICKS_TOKEN", "env-token")
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "env-id")
    asked: dict[str, str] = {}

    def record(self: Any, **arguments: Any) -> None:
        asked.update(arguments)
        raise ValueError(f"not today, {arguments}")

    monkeypatch.setattr(sdk.Config, "__init__", record)
    connection = Connection(door.host, **login)
    with pytest.raises(ConfigurationError) as caught:
        connection.headers(timeout=5)

    assert way == connection.login == asked["auth_type"]
    assert {"host": door.host, **login}.items() <= asked.items()
    assert not asked.get("token") or "auth_type" in login  # then the SDK heeds that alone
    assert CANARY not in everything(caught.value)
    assert "env-token" not in everything(caught.value)


def test_principal_beside_a_token_in_the_environment(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service principal as an argument holds, whatever login is in the environment."""
    pytest.importorskip("databricks.sdk")
    monkeypatch.setenv("DATABRICKS_TOKEN", "env-token")
    monkeypatch.setenv("DATABRICKS_AUTH_TYPE", "pat")
    connection = Connection(door.host, client_id="principal", client_secret=CANARY)

    assert connection.headers(timeout=10) == {"Authorization": "Bearer token-1"}


def test_principal_of_a_profile(door: Door) -> None:
    """A profile with a service principal logs in by the SDK."""
    pytest.importorskip("databricks.sdk")
    (Path.home() / ".databrickscfg").write_text(
        f"[prod]\nhost = {door.host}\nclient_id = principal\nclient_secret = {CANARY}\n"
    )
    connection = Connection(profile="prod")

    assert connection.headers(timeout=10) == {"Authorization": "Bearer token-1"}
    assert connection.login_source == "~/.databrickscfg [prod]"


def test_hanging_token_endpoint(door: Door, principal: Connection) -> None:
    """A token endpoint that hangs costs the caller no more than the time there was, and loses nothing that arrives."""
    door.open.clear()
    begin = time.monotonic()
    for _ in range(3):
        with pytest.raises(DeadlineExceeded, match=r"as oauth-m2m took longer than the 0\.1 s there were") as caught:
            principal.headers(timeout=0.1)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(principal.aheaders(timeout=0.1))

    assert time.monotonic() - begin < 5
    assert caught.value.timeout == 0.1
    door.open.set()
    assert principal.headers(timeout=10) == {"Authorization": "Bearer token-1"}
    assert door.tokens == 1


def test_login_that_hangs_for_good_is_left_behind(
    door: Door, principal: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a minute of hanging, the next caller logs in anew instead of waiting at the SDK's lock."""
    monkeypatch.setattr(_connection, "_PATIENCE", 0.05)
    door.open.clear()
    with pytest.raises(DeadlineExceeded):
        principal.headers(timeout=0.3)
    hung = door.open
    door.open = threading.Event()
    door.open.set()
    try:
        assert principal.headers(timeout=10) == {"Authorization": "Bearer token-2"}
    finally:
        hung.set()


def test_slow_login_leaves_the_loop_alone(door: Door, principal: Connection) -> None:
    """Logging in never blocks the event loop, and a cancelled task cancels only its own waiting."""
    door.open.clear()

    async def main() -> tuple[dict[str, str], int]:
        cancelled = asyncio.create_task(principal.aheaders(timeout=10))
        asking = asyncio.create_task(principal.aheaders(timeout=10))
        beats = 0
        for _ in range(20):
            await asyncio.sleep(0.01)
            beats += 1
        cancelled.cancel()
        door.open.set()
        return await asking, beats

    begin = time.monotonic()
    headers, beats = asyncio.run(main())

    assert ({"Authorization": "Bearer token-1"}, 20, 1) == (headers, beats, door.tokens)
    assert time.monotonic() - begin < 5


def test_loop_that_ends_before_the_login(door: Door, principal: Connection) -> None:
    """An event loop may be closed while a login is under way, without a word on stderr."""
    door.open.clear()

    async def main() -> None:
        task = asyncio.create_task(principal.aheaders(timeout=10))
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(main())
    door.open.set()

    assert principal.headers(timeout=10) == {"Authorization": "Bearer token-1"}


# ------------------------------------------------------------------------------------------------- a login that fails


def refused(principal: Connection) -> list[ChatError]:
    """The error of `headers()`, and that of `aheaders()`."""
    errors = []
    for ask in (lambda: principal.headers(timeout=10), lambda: asyncio.run(principal.aheaders(timeout=10))):
        with pytest.raises(ChatError) as caught:
            ask()
        errors.append(caught.value)
    one, other = errors

    assert one is not other
    assert (type(one), str(one)) == (type(other), str(other))
    assert CANARY not in everything(one) + everything(other)
    return errors


def test_refused_principal(door: Door, principal: Connection) -> None:
    """A secret that is refused is an AuthenticationFailed with the service's code, not a network failure."""
    door.token = lambda _: (401, {"error": "invalid_client", "error_description": "nope"})
    error, _ = refused(principal)

    assert isinstance(error, AuthenticationFailed)
    assert ("invalid_client", None, False) == (error.error_code, error.status, error.transient)
    assert f"Logging in to {door.host} as oauth-m2m failed: invalid_client: nope" in str(error)
    assert isinstance(error.__cause__, ValueError)


def test_refusal_that_repeats_the_secret(door: Door, principal: Connection) -> None:
    """A token endpoint that repeats the secret does not get it into an error or a traceback."""
    door.token = lambda _: (401, {"error": "invalid_client", "error_description": f"{CANARY} is wrong"})

    assert "*** is wrong" in str(refused(principal)[0])


@pytest.mark.parametrize(
    ("status", "body"), [(503, b"<html>bad gateway</html>"), (503, {"error": "temporarily_unavailable"})]
)
def test_ailing_token_endpoint(door: Door, principal: Connection, status: int, body: Any) -> None:
    """A token endpoint that is ailing is ServiceUnavailable: asking again may help."""
    door.token = lambda _: (status, body)

    assert isinstance(refused(principal)[0], ServiceUnavailable)


def test_token_reply_that_makes_no_sense(door: Door, principal: Connection) -> None:
    """A token reply without a token is a MalformedReply."""
    door.token = lambda _: (200, {"hello": "there"})

    assert isinstance(refused(principal)[0], MalformedReply)


def test_token_endpoint_recovers(door: Door, principal: Connection) -> None:
    """A login that failed is tried again at the next request."""
    well = door.token
    door.token = lambda n: (503, b"") if n == 1 else well(n)
    with pytest.raises(ServiceUnavailable):
        principal.headers(timeout=10)

    assert principal.headers(timeout=10) == {"Authorization": "Bearer token-2"}


@since_0_156
def test_host_that_does_not_say_where_to_log_in(door: Door, principal: Connection) -> None:
    """databricks-sdk 0.156 says "Invalid URL 'None'" where a host describes no login; here it is said in words."""
    door.metadata = 404
    error, _ = refused(principal)

    assert isinstance(error, ConnectionFailed)
    assert "the host does not say where to log in" in str(error)


@since_0_156
def test_nobody_answers() -> None:
    """A host where nobody listens is a ConnectionFailed within seconds, not after the SDK's 300."""
    pytest.importorskip("databricks.sdk")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        port = server.server_port
    begin = time.monotonic()
    with pytest.raises(ConnectionFailed) as caught:
        Connection(f"http://127.0.0.1:{port}", client_id="principal", client_secret=CANARY).headers(timeout=20)

    assert time.monotonic() - begin < 8
    assert caught.value.transient
    assert CANARY not in everything(caught.value)


# -------------------------------------------------------------------------------------------------------- a new token


def test_renew(door: Door, principal: Connection) -> None:
    """A token that the service refused is forgotten, and the next headers hold another."""
    first = principal.headers(timeout=10)

    assert principal.renew()
    assert first != principal.headers(timeout=10)


def test_renew_by_many(door: Door, principal: Connection) -> None:
    """Threads and tasks that were all refused the same token cause one login more."""
    together = threading.Barrier(20)
    answers: list[dict[str, str]] = []

    def ask() -> None:
        principal.headers(timeout=10)
        together.wait(10)
        assert principal.renew()
        answers.append(principal.headers(timeout=10))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [{"Authorization": "Bearer token-2"}] * 20 == answers

    async def aask(refused: asyncio.Event) -> dict[str, str]:
        await principal.aheaders(timeout=10)
        await refused.wait()
        assert principal.renew()
        return await principal.aheaders(timeout=10)

    async def main() -> list[dict[str, str]]:
        refused = asyncio.Event()
        tasks = [asyncio.create_task(aask(refused)) for _ in range(20)]
        await asyncio.sleep(0.3)
        refused.set()
        return await asyncio.gather(*tasks)

    assert [{"Authorization": "Bearer token-3"}] * 20 == asyncio.run(main())


# -------------------------------------------------------------------------------------------------- a login handed over


def config(door: Door, **login: Any) -> Any:
    sdk = pytest.importorskip("databricks.sdk.config")
    return sdk.Config(host=door.host, retry_timeout_seconds=1, **login)


def test_config_of_the_caller(door: Door) -> None:
    """A Config or a WorkspaceClient of the caller's logs in, its own token cache included."""
    sdk = pytest.importorskip("databricks.sdk")
    mine = config(door, client_id="principal", client_secret=CANARY)
    mine.authenticate()
    client = sdk.WorkspaceClient(config=mine)
    connection = Connection(config=client)

    assert connection.host == door.host
    assert connection.headers(timeout=10) == {"Authorization": "Bearer token-1"}
    assert connection == Connection(config=client.config)
    assert connection.renew()
    assert connection.headers(timeout=10) == {"Authorization": "Bearer token-2"}


def test_config_with_a_token_is_not_renewed(door: Door) -> None:
    """A Config that holds a plain token has no other."""
    connection = Connection(config=config(door, token="dapi1", auth_type="pat"))

    assert connection.headers() == {"Authorization": "Bearer dapi1"}
    assert not connection.renew()


def test_config_that_says_who_the_user_is(door: Door) -> None:
    """A strategy of the caller's own runs in the thread that asks, and all its headers are kept."""
    threads = []

    class OnBehalf:
        def auth_type(self) -> str:
            return "on-behalf"

        def __call__(self, _: Any) -> Callable[[], dict[str, str]]:
            def headers() -> dict[str, str]:
                threads.append(threading.current_thread())
                return {"Authorization": "Bearer users", "X-Databricks-Azure-SP-Management-Token": "more"}

            return headers

    connection = Connection(config=config(door, credentials_strategy=OnBehalf()))

    assert connection.headers(timeout=10)["X-Databricks-Azure-SP-Management-Token"] == "more"
    assert [threading.current_thread()] == threads
    assert asyncio.run(connection.aheaders(timeout=10))["Authorization"] == "Bearer users"


def test_config_and_something_else(door: Door) -> None:
    """A login handed over is not mixed with another one, nor taken to another workspace."""
    mine = config(door, token="dapi1", auth_type="pat")
    with pytest.raises(ConfigurationError, match="token would be another one"):
        Connection(config=mine, token="x")
    with pytest.raises(ConfigurationError, match="a login is sent only to its own workspace"):
        Connection(HOST, config=mine)
    with pytest.raises(ConfigurationError, match=r"must be a databricks\.sdk Config or WorkspaceClient, not str"):
        Connection(config="prod")
    assert Connection(door.host, config=mine).host == door.host


def test_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the SDK knows the workspace, host asks it."""
    sdk = pytest.importorskip("databricks.sdk.config")

    class Notebook:
        host, auth_type = "https://notebook.example/", "runtime"

        def __init__(self, **_: Any) -> None:
            pass

        def authenticate(self) -> dict[str, str]:
            return {"Authorization": "Bearer of-the-notebook"}

        attributes = staticmethod(sdk.Config.attributes)

    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.1")
    monkeypatch.setattr(sdk, "Config", Notebook)
    connection = Connection()
    before = hash(connection)

    assert "the workspace it runs in" in repr(connection)
    assert connection.host == "https://notebook.example"
    assert connection.headers() == {"Authorization": "Bearer of-the-notebook"}
    assert before == hash(connection)


# ----------------------------------------------------------------------------------------------------- local endpoint


def test_local_endpoint(local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """host='local' is the local endpoint with its own token, whatever login is in the environment."""
    monkeypatch.setattr("isochat.local.shared", lambda: local)
    monkeypatch.setenv("ISOCHAT_HOST", "local")
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    for connection in (Connection(), Connection("local"), connect(settings())):
        assert local.host == connection.host
        assert connection.headers() == {"Authorization": f"Bearer {local.token}"}
        assert "local endpoint" in repr(connection)


def test_local_endpoint_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the local endpoint needs, host='local' says the line that installs it."""
    monkeypatch.setitem(sys.modules, "isochat.local", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'isochat\[local\]'"):
        Connection("local")


# ---------------------------------------------------------------------------------------------------- identity, secrets


def test_equality() -> None:
    """Connections are equal when they ask the same host as the same principal."""
    one = Connection(HOST, "a")

    assert one == Connection("w.example/", "a")
    assert hash(one) == hash(Connection("w.example/", "a"))
    assert one != Connection(HOST, "b")
    assert one != Connection("https://v.example", "a")
    assert one != "w.example"


class Vault:
    def token(self) -> str:
        return "x"


def test_equality_of_functions() -> None:
    """Two connections with the same function, or the same method of the same object, are equal."""
    vault, other = Vault(), Vault()

    assert Connection(HOST, vault.token) == Connection(HOST, vault.token)
    assert hash(Connection(HOST, vault.token)) == hash(Connection(HOST, vault.token))
    assert Connection(HOST, vault.token) != Connection(HOST, other.token)
    assert Connection(HOST, functools.partial(str, CANARY)) != Connection(HOST, functools.partial(str, CANARY))


def test_no_secret_is_shown(door: Door) -> None:
    """Neither the repr nor the key of any connection shows a secret."""
    pytest.importorskip("databricks.sdk")
    for connection in (
        Connection(HOST, CANARY),
        Connection(HOST, functools.partial(str, CANARY)),
        Connection(door.host, client_id="id", client_secret=CANARY),
        Connection(config=config(door, token=CANARY, auth_type="pat")),
    ):
        assert CANARY not in f"{connection!r} {connection} {connection.key()!r} {connection.login}"
        assert CANARY not in f"{vars(type(connection))} {connection._login!r}"


def test_token_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token without a host is refused in a notebook too, not passed over for the notebook's own login."""
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.1")

    with pytest.raises(ConfigurationError, match="No workspace host is set"):
        Connection(token="dapi1")


def test_copies_and_pickles(door: Door, principal: Connection) -> None:
    """A copy is the same; a pickle works elsewhere, and logs in there for itself."""
    principal.headers(timeout=10)
    for connection in (Connection(HOST, "a"), Connection(HOST, Vault().token), principal):
        assert connection is copy.copy(connection) is copy.deepcopy(connection)
        elsewhere = pickle.loads(pickle.dumps(connection))
        assert (connection.host, repr(connection)) == (elsewhere.host, repr(elsewhere))
    assert Connection(HOST, "a") == pickle.loads(pickle.dumps(Connection(HOST, "a")))
    assert elsewhere == principal
    assert elsewhere.headers(timeout=10) == {"Authorization": "Bearer token-2"}


def test_pickle_of_a_config_is_refused(door: Door) -> None:
    """A connection with a Config of the caller's says why it cannot be pickled."""
    with pytest.raises(TypeError, match="cannot be pickled: the Config holds locks"):
        pickle.dumps(Connection(config=config(door, token="dapi1", auth_type="pat")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork(door: Door, principal: Connection) -> None:
    """A forked child logs in for itself, even where the parent was logging in at the moment of the fork."""
    door.open.clear()
    waiting = threading.Thread(target=lambda: principal.headers(timeout=20))
    waiting.start()
    while not door.tokens:
        time.sleep(0.01)
    fork = multiprocessing.get_context("fork")
    answer = fork.SimpleQueue()
    child = fork.Process(target=lambda: answer.put(principal.headers(timeout=10)))
    child.start()
    door.open.set()
    child.join(15)
    waiting.join()

    assert child.exitcode == 0
    assert answer.get()["Authorization"].startswith("Bearer token-")
    answer.close()
