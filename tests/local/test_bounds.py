"""Who may reach the local endpoint, and how much of it one of them may take."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

pytest.importorskip("aiohttp")

from isochat.local import LocalEndpoint, _running, _server

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
CHAT = "/serving-endpoints/chat/completions"
QUESTION = {"model": "databricks-gpt-5-1", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def endpoint() -> Iterator[LocalEndpoint]:
    with LocalEndpoint() as local:
        yield local


def connected(local: LocalEndpoint) -> socket.socket:
    place = urlsplit(local.host)
    return socket.create_connection((place.hostname or "", place.port or 0), timeout=20)


def told(connection: socket.socket, *said: bytes) -> bytes:
    """All that it answers until it closes the connection, or nothing if it only hangs up."""
    answer = b""
    with connection, contextlib.suppress(ConnectionError):
        for part in said:
            connection.sendall(part)
        while part := connection.recv(65536):
            answer += part
    return answer


def request(local: LocalEndpoint, *headers: str, host: str = "127.0.0.1", path: str = CHAT, body: bytes = b"") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# ── who may ask ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_listens_on_loopback(endpoint: LocalEndpoint) -> None:
    """Unless it is told otherwise, nobody else's machine reaches it."""
    assert "127.0.0.1" == urlsplit(endpoint.host).hostname
    assert ("127.0.0.1", urlsplit(endpoint.host).port) == endpoint._running._socket.getsockname()


@pytest.mark.parametrize(("bind", "warns"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_it_says_so_where_it_listens_elsewhere(bind: str, warns: bool, caplog: pytest.LogCaptureFixture) -> None:  # noqa: FBT001
    """Whoever binds it to the network is told what that means."""
    with caplog.at_level(logging.WARNING, "isochat.local"), LocalEndpoint(host=bind) as local:
        assert warns is ("whoever reaches this machine" in caplog.text)
        assert local.token not in caplog.text


@pytest.mark.parametrize(
    ("host", "answers"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8377", True),
        ("localhost:1", True),
        ("LOCALHOST", True),
        ("[::1]:8377", True),
        ("my.localhost", True),
        ("evil.example", False),
        ("evil.example:127", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example@127.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/.isochat", "/.well-known/databricks-config", "/oidc/v1/token"])
def test_a_web_page_cannot_reach_it_by_a_name_of_its_own(
    endpoint: LocalEndpoint,
    path: str,
    host: str,
    answers: bool,  # noqa: FBT001
) -> None:
    """A page's own name may lead to loopback (DNS rebinding), but the Host header then says that name."""
    said = request(endpoint, f"Authorization: Bearer {endpoint.token}", host=host, path=path, body=b"{}")
    answer = told(connected(endpoint), said)

    assert answers is (b"The Host header names another host." not in answer)
    assert answers or 403 == status(answer)


@pytest.mark.parametrize(
    "login", ["", "Authorization: Bearer ", "Authorization: Bearer wrong", "Authorization: Basic dG9rZW46eA=="]
)
def test_without_its_token_nothing_is_answered(endpoint: LocalEndpoint, login: str) -> None:
    """Nor is a fault ordered, a statement run, or a list of endpoints given."""
    body = json.dumps(QUESTION).encode()
    for path in (CHAT, "/api/2.0/sql/statements", "/api/2.0/serving-endpoints", "/nothing"):
        said = request(endpoint, *filter(None, [login]), "X-Isochat-Fault: 503", path=path, body=body)

        assert status(told(connected(endpoint), said)) in {401, 403}
    assert not any(received.authorized for received in endpoint.received)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/serving-endpoints/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/serving-endpoints/..%2f..%2fetc%2fpasswd/invocations",
        "/.isochat/../pyproject.toml",
        "//etc/passwd",
        "http://evil.example/etc/passwd",
    ],
)
def test_no_path_leads_to_a_file(endpoint: LocalEndpoint, path: str) -> None:
    """It has no files: every path that it does not know is not there."""
    said = request(endpoint, f"Authorization: Bearer {endpoint.token}", path=path, body=b"{}")

    assert 404 == status(told(connected(endpoint), said))


# ── how much ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_body_has_a_limit(endpoint: LocalEndpoint) -> None:
    """No more of a body is read than any endpoint takes, whether or not its length was said."""
    login = f"Authorization: Bearer {endpoint.token}"
    large = b"x" * (17 * MIB)
    chunks = b"".join(b"100000\r\n%s\r\n" % large[:MIB] for _ in range(17)) + b"0\r\n\r\n"
    whole = told(connected(endpoint), request(endpoint, login, body=large))
    chunked = told(connected(endpoint), request(endpoint, login, "Transfer-Encoding: chunked"), chunks)

    assert [413, 413] == [status(answer) for answer in (whole, chunked)]
    assert [b"", b""] == [received.body for received in endpoint.received]


def test_a_body_that_unpacks_to_more_has_the_same_limit(endpoint: LocalEndpoint) -> None:
    """A small body that says it is compressed is measured by what comes out."""
    import gzip

    bomb = gzip.compress(b"x" * (64 * MIB))
    said = request(endpoint, f"Authorization: Bearer {endpoint.token}", "Content-Encoding: gzip", body=bomb)
    answer = told(connected(endpoint), said)

    assert status(answer) in {400, 413}
    assert all(len(received.body) <= 16 * MIB for received in endpoint.received)


@pytest.mark.parametrize("path", [CHAT, "/oidc/v1/token"])
def test_a_strangers_body_is_not_kept(endpoint: LocalEndpoint, path: str) -> None:
    """Who has no token cannot fill the memory with requests that are remembered."""
    answer = told(connected(endpoint), request(endpoint, path=path, body=b"x" * (2 * MIB)))

    assert status(answer) in {400, 401}
    assert [b""] == [received.body for received in endpoint.received]


def test_headers_have_a_limit(endpoint: LocalEndpoint) -> None:
    """One header of a megabyte, or ten thousand of them, are refused."""
    long = told(connected(endpoint), request(endpoint, f"X-Long: {'x' * MIB}"))
    many = told(connected(endpoint), request(endpoint, *(f"X-{number}: x" for number in range(10_000))))

    assert all(answer == b"" or status(answer) == 400 for answer in (long, many))
    assert [] == endpoint.received


def test_connections_have_a_limit(endpoint: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection too many is told to come back; the others are served, and room is made when one goes."""
    monkeypatch.setattr(_running, "MOST", 3)
    said = request(endpoint, f"Authorization: Bearer {endpoint.token}", body=json.dumps(QUESTION).encode())
    held = [connected(endpoint) for _ in range(3)]
    settled(endpoint, 3)
    refused = told(connected(endpoint))
    served = told(held.pop(), said)
    settled(endpoint, 2)
    again = told(connected(endpoint), said)
    for connection in held:
        connection.close()

    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in refused
    assert [200, 200] == [status(served), status(again)]


@pytest.mark.parametrize("said", [b"", b"POST /serving-endpoints/chat/completions HTTP/1.1\r\nHost: 127.0"])
def test_a_connection_that_asks_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Neither silence nor a request whose headers never end keeps a connection for ever; an answer in work does."""
    monkeypatch.setattr(_running, "IDLE", 0.3)
    with LocalEndpoint(faults=[{"delay": 1.0}]) as local:
        asked = request(local, f"Authorization: Bearer {local.token}", body=json.dumps(QUESTION).encode())
        slow = connected(local)
        slow.sendall(asked)

        assert told(connected(local), said) == b""
        assert 200 == status(told(slow))


def test_a_body_that_never_ends_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is whole in a minute, or refused."""
    monkeypatch.setattr(_server, "SLOWEST", 0.3)
    with LocalEndpoint() as local:
        login = f"Authorization: Bearer {local.token}"
        answer = told(connected(local), request(local, login, "Content-Length: 100"), b"{")

        assert 408 == status(answer)
        assert [] == local.received


def settled(local: LocalEndpoint, connections: int) -> None:
    """Wait until it has noticed."""
    patience = time.monotonic() + 10
    while local.open_connections != connections and time.monotonic() < patience:
        time.sleep(0.01)


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1", "ü", "x" * 9000])
def test_a_questions_own_names_are_no_headers(endpoint: LocalEndpoint, name: str) -> None:
    """A field that no endpoint knows is refused, and named in the body of the refusal only."""
    body = json.dumps({**QUESTION, name: 1}).encode()
    said = request(endpoint, f"Authorization: Bearer {endpoint.token}", body=body)
    head, _, rest = told(connected(endpoint), said).partition(b"\r\n\r\n")

    assert 400 == status(head)
    assert b"evil" not in head.lower()
    assert json.loads(rest)["message"]


def test_an_upstreams_key_stays_with_it() -> None:
    """Neither is its key sent where it redirects to, nor the password in its address told to whoever asks here."""
    with LocalEndpoint() as other, LocalEndpoint() as model:
        model._sign_in.refusal = lambda *_: None  # type: ignore[method-assign]
        model.reply(307, headers={"location": f"{other.host}{CHAT}"})
        with LocalEndpoint(upstream=f"{model.host}/serving-endpoints", upstream_key="key-canary") as local:
            login, body = f"Authorization: Bearer {local.token}", json.dumps(QUESTION).encode()
            redirected = told(connected(local), request(local, login, body=body))
        assert [] == other.received
    with LocalEndpoint(upstream="http://user:password-canary@127.0.0.1:9/v1") as local:
        login = f"Authorization: Bearer {local.token}"
        down = told(connected(local), request(local, login, body=body))

    assert 400 == status(redirected)
    assert 502 == status(down)
    assert b"canary" not in redirected + down
