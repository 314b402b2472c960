"""A login goes to its own host only, over a connection that can be trusted, and nothing in a question changes that.

Redirects, certificates, proxies, unencrypted hosts, and names and values that would like to be more than that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")
trustme = pytest.importorskip("trustme", reason="certificates are made with trustme: the dependency group `test`")

import isochat
from isochat import (
    ChatError,
    ConfigurationError,
    Connection,
    ConnectionFailed,
    EndpointNotFound,
    InvalidRequest,
    Retry,
    ServiceError,
    UnsupportedOption,
    aquery_chat,
    query_chat,
)
from isochat.backends import BUILT_IN, find, load
from isochat.errors import BackendNotInstalled
from isochat.local import LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from isochat import Backend
    from isochat.local._server import Service

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GPT = "databricks-gpt-5-1"
WORKSPACE = "workspace.example"
CANARY = "canary-0123456789abcdef"
MODES = ("blocking", "asyncio", "stream", "async stream")
WAYS = [(name, mode) for name in BUILT_IN for mode in MODES if "stream" not in mode or find(name).streams()]
ONCE = Retry(attempts=1)
AT_ONCE = Retry(attempts=3, first_wait=0.0)


# ── who is on the way ────────────────────────────────────────────────────────────────────────────────────────────


class Gate:
    """A server on loopback, in a thread of its own, that does with each connection what it is told to."""

    def __init__(self, serve: Serve, tls: ssl.SSLContext | None = None) -> None:
        self._serve, self._tls = serve, tls
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._one, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """All that comes goes to a port of this machine, and what comes from there goes back."""
    inner, outer = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            to.write(data)
            await to.drain()

    ways = [asyncio.ensure_future(pump(reader, outer)), asyncio.ensure_future(pump(inner, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        outer.transport.abort()


@dataclass
class Proxy:
    """A company's proxy: it opens tunnels, answers 502 to anything else, and remembers what it was asked."""

    heads: list[str]
    gate: Gate
    refuses: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gate.port}"

    @property
    def asked(self) -> list[str]:
        return [head.partition(" HTTP/")[0] for head in self.heads]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        made.heads.append(head)
        method, target, _ = head.split(" ", 2)
        if made.refuses:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await passed_on(reader, writer, int(target.rpartition(":")[2]))
        else:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    made = Proxy([], Gate(serve))
    yield made
    made.gate.close()


class Anywhere(LocalEndpoint):
    """A workspace that answers to any name."""

    def _service(self) -> Service:
        service = super()._service()
        service.hosts = None
        return service


@dataclass
class Secure:
    """A workspace behind TLS."""

    local: LocalEndpoint
    port: int
    #: The certificate of the authority that vouches for it.
    ca: Path

    @property
    def host(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def named(self) -> str:
        return f"https://{WORKSPACE}:{self.port}"


@pytest.fixture(scope="module")
def _secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", WORKSPACE).configure_cert(tls)
    ca = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    with Anywhere() as local:
        port = urlsplit(local.host).port or 0
        gate = Gate(lambda reader, writer: passed_on(reader, writer, port), tls)
        yield Secure(local, gate.port, ca)
        gate.close()


@pytest.fixture
def secure(_secure: Secure, monkeypatch: pytest.MonkeyPatch) -> Secure:
    """A workspace behind TLS, at an address and under a name that leads to it."""
    _secure.local.reset()
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    look_up = socket.getaddrinfo

    def found(host: Any, *more: Any, **named: Any) -> Any:
        return look_up("127.0.0.1" if host in {WORKSPACE, WORKSPACE.encode()} else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    return _secure


_made: list[Backend] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()


def session(name: str, connection: Connection) -> Backend:
    """A session, closed at the end of the test."""
    try:
        _made.append(load(name)(connection))
    except BackendNotInstalled as error:
        pytest.skip(str(error))
    return _made[-1]


def ask(mode: str, backend: Backend, messages: Any = "Hi", **options: Any) -> Any:
    """The answer, or the error."""
    said: Any = {"endpoint": GPT, "backend": backend, "retry": ONCE, "timeout": 20, **options}

    async def awaited() -> Any:
        if mode == "asyncio":
            return await aquery_chat(messages, **said)
        async with await aquery_chat(messages, stream=True, **said) as stream:
            return [chunk async for chunk in stream] and stream.response

    try:
        if mode == "blocking":
            return query_chat(messages, **said)
        if mode == "stream":
            with query_chat(messages, stream=True, **said) as stream:
                return list(stream) and stream.response
        return asyncio.run(awaited())
    except ChatError as error:
        return error


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────────────


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
        return self.headers(timeout)


@pytest.mark.parametrize(("name", "mode"), WAYS)
def test_a_redirect_to_another_host_is_refused(
    name: str, mode: str, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the status and however the other host is named, it sees no request; nor is the question put again."""
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    connection = Connection(local.host, local.token)
    plain, backend = connection._login, session(name, connection)
    with LocalEndpoint() as other:
        place = urlsplit(other.host).netloc
        for status in (301, 302, 303, 307, 308):
            for address in (f"http://{place}/x", f"//{place}/serving-endpoints/chat/completions", "/elsewhere"):
                local.reset()
                connection._login = Ordering(plain, {"status": status, "headers": {"location": address}})
                refused = ask(mode, backend, retry=AT_ONCE)

                assert isinstance(refused, ServiceError)
                assert (status, False) == (refused.status, refused.transient)
                assert "a token goes to its own host only" in str(refused)
                assert 1 == len(local.received)
        assert [] == other.received


def test_a_token_endpoint_that_redirects_hands_over_no_secret() -> None:
    """The Databricks SDK follows a redirect of the login's, and tells the other host no secret."""
    pytest.importorskip("databricks.sdk")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        here = f"http://127.0.0.1:{gate.port}"
        if head.startswith("POST"):
            writer.write(f"HTTP/1.1 307 Moved\r\nLocation: {other.host}/oidc/v1/token\r\n".encode())
            body = b""
        else:
            words = ("authorization_endpoint", "token_endpoint", "oidc_endpoint")
            body = json.dumps(dict.fromkeys(words, f"{here}/oidc")).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    with LocalEndpoint() as other:
        gate = Gate(serve)
        try:
            with pytest.raises(ChatError):
                Connection(f"http://127.0.0.1:{gate.port}", client_id="me", client_secret=CANARY).headers(timeout=20)
        finally:
            gate.close()

        assert ["/oidc/v1/token"] == [request.path for request in other.received]
        assert not any("authorization" in request.headers for request in other.received)
        assert not any(CANARY.encode() in request.body or b"secret" in request.body for request in other.received)


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["blocking", "asyncio"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_certificate_that_nobody_vouches_for_is_refused(name: str, mode: str, secure: Secure) -> None:
    """It is said with what to do about it, and not tried again; the workspace sees nothing of the question."""
    refused = ask(mode, session(name, Connection(secure.host, CANARY)), retry=AT_ONCE)

    assert isinstance(refused, ConnectionFailed)
    assert any(said in refused.message for said in ("CERTIFICATE_VERIFY_FAILED", "UnknownIssuer"))  # OpenSSL, rustls
    assert "SSL_CERT_FILE" in (refused.hint or "")
    assert "REQUESTS_CA_BUNDLE" in (refused.hint or "")
    assert (False, False, 1) == (refused.transient, refused.sent, len(refused.attempts))
    assert [] == secure.local.received


@pytest.mark.parametrize("mode", ["blocking", "asyncio"])
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_companys_own_authority_is_trusted(
    name: str, variable: str, mode: str, secure: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either variable names it for every backend, whichever of the two its client reads."""
    monkeypatch.setenv(variable, str(secure.ca))
    answer = ask(mode, session(name, Connection(secure.host, secure.local.token)))

    assert "Hi" == getattr(answer, "text", answer)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_certificate_is_for_one_name(name: str, secure: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that somebody vouches for does not vouch for another host."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.ca))
    refused = ask("blocking", session(name, Connection(f"https://localhost:{secure.port}", CANARY)), retry=AT_ONCE)

    assert isinstance(refused, ConnectionFailed)
    assert (False, 1) == (refused.transient, len(refused.attempts))
    assert [] == secure.local.received


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_an_authority_that_is_not_there_is_named(
    name: str, variable: str, secure: Secure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A variable that names no file is told by its name."""
    monkeypatch.setenv(variable, str(tmp_path / "gone.pem"))
    refused = ask("blocking", session(name, Connection(secure.host, CANARY)))

    assert isinstance(refused, ConfigurationError)
    assert f"{variable} is {tmp_path / 'gone.pem'}, and there is no such file" == refused.message


def test_a_login_needs_a_trusted_certificate_too(secure: Secure) -> None:
    """A service principal's secret goes to no host that nobody vouches for, and what the SDK goes by is said."""
    pytest.importorskip("databricks.sdk")
    refused = ask("blocking", session("rest", Connection(secure.host, client_id="me", client_secret=CANARY)))

    assert isinstance(refused, ConnectionFailed)
    assert "REQUESTS_CA_BUNDLE" in (refused.hint or "")
    assert refused.sent is False
    assert [] == secure.local.received


def test_the_doctor_heeds_the_authority(
    secure: Secure, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`isochat doctor` trusts whom a question trusts."""
    pytest.importorskip("typer")
    from isochat._cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    monkeypatch.setattr(sys, "argv", ["isochat", "doctor", "--json", "--endpoint", GPT])
    monkeypatch.setenv("DATABRICKS_HOST", secure.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", secure.local.token)
    codes = [main()]
    untrusted = json.loads(capfd.readouterr().out)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure.ca))
    codes.append(main())
    trusted = json.loads(capfd.readouterr().out)

    assert [1, 0] == codes
    assert "CERTIFICATE_VERIFY_FAILED" in next(c["says"] for c in untrusted["checks"] if c["name"] == "connection")
    assert trusted["ok"]


# ── proxies ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["blocking", "asyncio"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_proxy_is_asked_for_a_tunnel_and_sees_no_token(
    name: str, mode: str, secure: Secure, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`HTTPS_PROXY` is heeded: the proxy learns the host, the host learns nothing of the proxy's own password."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.ca))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", f"//user:{CANARY}@"))
    answer = ask(mode, session(name, Connection(secure.named, secure.local.token)))

    assert "Hi" == getattr(answer, "text", answer)
    assert {f"CONNECT {WORKSPACE}:{secure.port}"} == set(proxy.asked)
    assert secure.local.token not in "".join(proxy.heads)
    assert all("proxy-authorization: basic" in head.lower() for head in proxy.heads)
    assert not any("proxy-authorization" in request.headers for request in secure.local.received)


@pytest.mark.parametrize("mode", ["blocking", "asyncio"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_no_proxy_is_heeded(
    name: str, mode: str, secure: Secure, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `NO_PROXY` names is reached without one."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.ca))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", f"elsewhere.example,{WORKSPACE}")
    answer = ask(mode, session(name, Connection(secure.named, secure.local.token)))

    assert "Hi" == getattr(answer, "text", answer)
    assert [] == proxy.asked


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_proxy_that_refuses_is_told_without_its_password(
    name: str, secure: Secure, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy's password stands in its address, and the error does not repeat it."""
    proxy.refuses = True
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.ca))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", f"//user:{CANARY}@"))
    refused = ask("blocking", session(name, Connection(secure.named, secure.local.token)))

    assert isinstance(refused, ConnectionFailed)
    assert refused.sent is False
    error: BaseException | None = refused
    while error is not None:
        assert CANARY not in f"{error} {error!r}"
        error = error.__cause__


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_this_machine_is_never_reached_through_a_proxy(
    name: str, host: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever proxies the environment names, and whatever loopback is called."""
    if host == "127.0.0.2" and sys.platform != "linux":
        pytest.skip("only Linux listens there unasked")
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, proxy.url)
    with LocalEndpoint(host=host) as local:
        answer = ask("blocking", session(name, Connection(local.host, local.token)))

    assert "Hi" == getattr(answer, "text", answer)
    assert [] == proxy.asked


# ── unencrypted ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", BUILT_IN)
def test_http_is_for_this_machine_unless_asked_for(
    name: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No token goes over a network in the clear, wherever the host was found, unless `allow_http` says that it may."""
    monkeypatch.chdir(tmp_path)
    session(name, Connection("https://w.example", "t"))  # or there is nothing to test
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    monkeypatch.setenv("HTTP_PROXY", proxy.url)  # it would hear of a question
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    said: dict[str, Any] = {"endpoint": GPT, "backend": name, "retry": ONCE}
    with pytest.raises(ConfigurationError, match="unencrypted"):
        query_chat("Hi", host=f"http://{WORKSPACE}", **said)
    monkeypatch.setenv("DATABRICKS_HOST", f"http://{WORKSPACE}")
    with pytest.raises(ConfigurationError, match="unencrypted"):
        query_chat("Hi", **said)
    (tmp_path / "isochat.toml").write_text(f'host = "http://{WORKSPACE}"\n')
    monkeypatch.delenv("DATABRICKS_HOST")
    with pytest.raises(ConfigurationError, match="unencrypted"):
        query_chat("Hi", **said)
    assert [] == proxy.asked
    monkeypatch.setenv("ISOCHAT_ALLOW_HTTP", "true")
    with pytest.raises(ChatError):
        query_chat("Hi", **said)
    isochat.close()

    assert [f"POST http://{WORKSPACE}/"] == [asked[: len(f"POST http://{WORKSPACE}/")] for asked in proxy.asked]


@pytest.mark.parametrize("host", ["http://localhost.evil.example", "http://10.0.0.1", "http://2130706433"])
def test_no_command_asks_in_the_clear(
    host: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The command line refuses such a host too, with the exit code of what was said wrongly."""
    pytest.importorskip("typer")
    from isochat._cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    monkeypatch.setenv("DATABRICKS_TOKEN", "t")
    monkeypatch.setattr(sys, "argv", ["isochat", "ask", "--endpoint", "e", "--host", host, "Hi"])

    assert 2 == main()
    assert "unencrypted" in capfd.readouterr().err


# ── names and values ─────────────────────────────────────────────────────────────────────────────────────────────

NAMES = [
    "..",
    ".",
    "../x",
    "a/../b",
    "/x",
    "a%2fb",
    "%2e%2e",
    "..%2f..%2fapi",
    "a?b=c",
    "a#b",
    "a b",
    " ",
    "a;b",
    "a\\b",
    "ü",
    "a\r\nX-Evil: 1",
    "a\nb",
    "a\x00b",
    "\ud800",
    "'; DROP TABLE x --",
    "x" * 3000,
]
VALUES = ["a\r\nX-Evil: 1", '"\'}], "model": "x', "'); SELECT 1 --", "ü\u2028", "../..", "x" * 20000]


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_endpoints_name_stays_one_segment(name: str, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is sent, or arrives as the name that it is: in no other place, and no header."""
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    backend = session(name, Connection(local.host, local.token))
    ask("blocking", backend)
    known = {header.lower() for request in local.received for header in request.headers}
    fixed = {request.path for request in local.received if GPT not in request.path}
    for endpoint in NAMES:
        local.reset()
        outcome = ask("blocking", backend, endpoint=endpoint)

        assert isinstance(outcome, EndpointNotFound | InvalidRequest)
        assert isinstance(outcome, EndpointNotFound) is bool(local.received)
        for request in local.received:
            own = request.path.count("/") == 3 and f"/serving-endpoints/{endpoint}/invocations" == unquote(request.path)

            assert own or request.path in fixed
            assert {header.lower() for header in request.headers} <= known


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_value_stays_in_its_place(name: str, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, tags and texts of the caller's are values of the body's JSON, and never a header or part of an address."""
    connection = Connection(local.host, local.token)
    backend = session(name, connection)
    for value in VALUES:
        monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", value)
        if name == "ai-query":
            backend = session(name, connection)
        local.reset()
        ask("blocking", backend)
        known = {header.lower() for request in local.received for header in request.headers}
        paths = {request.path for request in local.received}
        call = {"id": value, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        talk = [
            {"role": "user", "content": value},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": value, "content": value},
        ]
        options = {
            "client_request_id": value,
            "usage_context": {"team": value},
            "user": value,
            "metadata": {"a": value},
            "stop": [value],
        }
        for messages, said in [(value, {}), (talk, {}), *(("Hi", {option: one}) for option, one in options.items())]:
            local.reset()
            outcome = ask("blocking", backend, messages, **said)
            if isinstance(outcome, UnsupportedOption | InvalidRequest):
                assert [] == local.received
                continue

            assert any(value in values(request.json) for request in local.received)
            assert {request.path for request in local.received} <= paths
            assert {header.lower() for request in local.received for header in request.headers} <= known


def values(body: Any) -> list[Any]:
    """Every value in a body of JSON, however deep."""
    inner = body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()
    return [body, *(value for one in inner for value in values(one))]


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_environment_adds_no_header(name: str, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the environment for other hosts or other programs does not become a header here."""
    backend = session(name, Connection(local.host, local.token))
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_ORG_ID", CANARY)
    monkeypatch.setenv("OPENAI_PROJECT_ID", CANARY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Evil: {CANARY}\nX-Other: {CANARY}")
    monkeypatch.setenv("DATABRICKS_WORKSPACE_ID", CANARY)
    monkeypatch.setenv("DATABRICKS_TOKEN", CANARY)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", CANARY)
    ask("blocking", backend)

    assert local.received
    assert CANARY not in repr([request.headers for request in local.received])


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_netrc_says_nothing_here(name: str, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `~/.netrc` holds for the same host does not take the place of the login that was given."""
    backend = session(name, Connection(local.host, local.token))
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    place = Path(os.environ["HOME"]) / ".netrc"
    place.write_text(f"machine 127.0.0.1 login somebody password {CANARY}\n")
    place.chmod(0o600)
    answer = ask("blocking", backend)

    assert "Hi" == getattr(answer, "text", answer)
    assert {"Bearer ***"} == {r.headers.get("Authorization", "Bearer ***") for r in local.received}


def test_an_id_of_a_statement_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warehouse's own id of a statement becomes part of a path, so that it must be one."""
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        heads.append(head.partition(" HTTP/")[0])
        body = b'{"statement_id": "../../../serving-endpoints", "status": {"state": "PENDING"}}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
    gate = Gate(serve)
    try:
        refused = ask("blocking", session("ai-query", Connection(f"http://127.0.0.1:{gate.port}", "t")), timeout=5)
    finally:
        gate.close()

    assert isinstance(refused, ChatError)
    assert ["POST /api/2.0/sql/statements"] == heads
