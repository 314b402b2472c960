"""What passes the recorder arrives unchanged, and what it notes holds everything but secrets."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import pickle
import shutil
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from isochat.local import Fault, LocalEndpoint, Recorder, Scrubber

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LLAMA = "databricks-meta-llama-3-3-70b-instruct"
PATH = f"/serving-endpoints/{LLAMA}/invocations"
TOKEN = "dapi0123456789abcdef0123456789abcdef"


@pytest.fixture
def local() -> Iterator[LocalEndpoint]:
    with LocalEndpoint(token=TOKEN) as endpoint:
        yield endpoint


@pytest.fixture
def recorder(local: LocalEndpoint) -> Iterator[Recorder]:
    with Recorder(local.host) as running:
        yield running


def request(
    host: str, body: Any = None, path: str = PATH, method: str = "POST", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    place = urlsplit(host)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
    with contextlib.closing(connection):
        sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body), sent)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


def question(text: str = "one two three", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


@pytest.mark.parametrize("more", [{}, {"stream": True}], ids=["whole", "streamed"])
def test_both_sides_see_what_they_would_see_without_it(
    local: LocalEndpoint, recorder: Recorder, more: dict[str, Any]
) -> None:
    """The service gets the same request, the client the same reply, and the note has both."""
    sent = json.dumps(question("Grüße", **more)).encode()
    direct = request(local.host, sent)
    through = request(recorder.host, sent, headers={"X-Mine": "1", "Accept-Encoding": "gzip, br"})
    first, second = local.received
    (noted,) = recorder.exchanges

    varies = {"x-request-id", "server-timing", "date"}
    assert direct[0] == through[0] == noted.status
    assert {k: v for k, v in direct[1].items() if k not in varies} == {
        k: v for k, v in through[1].items() if k not in varies
    }
    assert direct[2] == through[2] == noted.reply
    assert first.body == second.body == noted.body == sent
    assert (second.path, second.headers["x-mine"]) == (PATH, "1")
    assert second.headers["host"] == urlsplit(local.host).netloc
    assert second.headers["accept-encoding"] == "identity"
    assert second.authorized
    assert noted.header("x-mine") == "1"
    assert noted.header("accept-encoding") == "gzip, br"
    assert noted.reply_header("x-request-id") == through[1]["x-request-id"]
    assert noted.began <= (noted.asked or 0) <= (noted.answered or 0) <= (noted.first or 0) <= noted.ended
    assert noted.error is None


def test_other_methods_and_odd_paths_pass(local: LocalEndpoint, recorder: Recorder) -> None:
    """A path goes on as it is, percent signs and query included."""
    path = "/api/2.0/serving-endpoints/a%2Fb%20c?x=%41&y="
    status, _, _ = request(recorder.host, path=path, method="GET")

    assert status == 404
    assert (local.received[-1].method, local.received[-1].path) == ("GET", "/api/2.0/serving-endpoints/a%2Fb%20c")
    assert recorder.exchanges[-1].path == path


def test_pieces_come_when_they_are_sent(local: LocalEndpoint, recorder: Recorder) -> None:
    """A stream is not held back, and the note knows when each piece came."""
    local.reply(chunks=[b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"], pause=0.1)
    request(recorder.host, question(stream=True))
    (noted,) = recorder.take()
    times = [at for at, _ in noted.pieces]

    assert [b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"] == [piece for _, piece in noted.pieces]
    assert times[-1] - times[0] >= 0.19
    assert noted.duration >= times[-1]
    assert recorder.exchanges == ()


@pytest.mark.parametrize(
    ("fault", "fails"),
    [
        (Fault(reset=True), (ConnectionError, http.client.RemoteDisconnected)),
        (Fault(drop_after=2), (http.client.IncompleteRead,)),
        (Fault(reset=2), (http.client.IncompleteRead, ConnectionError)),
    ],
    ids=["before the head", "in the body", "reset in the body"],
)
def test_what_breaks_there_breaks_here(
    local: LocalEndpoint, recorder: Recorder, fault: Fault, fails: tuple[type[Exception], ...]
) -> None:
    """A connection that breaks on the service's side breaks on the client's, and the note says so."""
    local.order(fault)
    with pytest.raises(fails):
        request(recorder.host, question(stream=True))
    (noted,) = recorder.exchanges

    assert noted.error
    assert "still under way" not in noted.error


def test_nobody_there() -> None:
    """A service that is not there is a broken connection, and a note."""
    with Recorder("http://127.0.0.1:1") as recorder:
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            request(recorder.host, question())
        (noted,) = recorder.exchanges

    assert (noted.status, noted.reply) == (None, b"")
    assert noted.error is not None
    assert "ClientConnectorError" in noted.error


def test_doors_are_kept_apart(local: LocalEndpoint, recorder: Recorder) -> None:
    """Each address has its own notes, and may lead elsewhere."""
    with LocalEndpoint(token=TOKEN) as other:
        one, two = recorder.door(), recorder.door(other.host)
        request(one.host, question("a"))
        request(two.host, question("b"))
        request(two.host, question("c"))

        assert (len(recorder.exchanges), len(one.exchanges), len(two.exchanges)) == (0, 1, 2)
        assert (len(local.received), len(other.received)) == (1, 2)


def test_stopping_leaves_nothing_open(local: LocalEndpoint) -> None:
    """The recorder closes what it opened on both sides, and keeps its notes."""
    before = threading.active_count()
    with Recorder(local.host) as recorder:
        request(recorder.host, question())

    assert threading.active_count() == before
    assert len(recorder.exchanges) == 1
    with pytest.raises(ConnectionError):
        request(recorder.host, question())


@pytest.mark.parametrize("far", ["dbc.example.com", "ftp://x", "https://user:secret@x", "https://x?token=secret"])
def test_an_address_that_is_none(far: str) -> None:
    """It is refused, without a word of what stands in it."""
    with pytest.raises(ValueError, match="address of the service") as refused:
        Recorder(far)

    assert "secret" not in str(refused.value)


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────

_JWT = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"none"}', b'{"sub":"me, of course"}', b"signature-signature")
)
#: A secret, and where it stands: in a header of the request, or in a body that goes either way.
HEADERS = {
    "X-Databricks-Azure-SP-Management-Token": "azure-management-canary",
    "X-Api-Key": "api-key-canary-12345",
    "Cookie": "session=cookie-canary-1; other=cookie-canary-2",
    "Proxy-Authorization": "Basic " + base64.b64encode(b"me:password-canary").decode(),
    "X-Databricks-AI-Gateway-Token": "gateway-token-canary",
}
CANARIES = [
    TOKEN,
    "azure-management-canary",
    "api-key-canary-12345",
    "cookie-canary-1",
    "cookie-canary-2",
    base64.b64encode(b"me:password-canary").decode(),
    "password-canary",
    "gateway-token-canary",
]
BODIES = [
    ("dapifedcba98765432100123456789abcdef", "my token is {} ok"),
    ("dapifedcba98765432100123456789abcdef-3", "{}"),
    ("dose0123456789abcdef0123456789abcdef", "the secret is {}."),
    (_JWT, "Bearer {}"),
    ("sk-proj-abcdefghijklmnopqrstuvwxyz", "key={}"),
    ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "{}"),
    ("xoxb-12345678901-abcdefgh", "{}"),
    ("AKIAIOSFODNN7EXAMPLE", "{}"),
    ("named-canary-1", '{{"access_token": "{}", "expires_in": 3600}}'),
    ("named-canary-2", '{{"message": "{{\\"refresh_token\\": \\"{}\\"}}"}}'),
    ("named-canary-3", "grant_type=client_credentials&client_secret={}&scope=all-apis"),
    ("named-canary-4", "https://bucket.example/part?X-Amz-Signature={}&x=1"),
    ("named-canary-5", '{{"client_assertion":"{}"}}'),
]


def test_no_secret_is_noted(local: LocalEndpoint, recorder: Recorder) -> None:
    """Whatever a secret looks like and wherever it stands, nothing of it is in the notes; both sides still get it."""
    for secret, form in BODIES:
        body = form.format(secret).encode()
        local.reply(
            status=400, body=body, headers={"x-echo": f"you are {TOKEN}", "set-cookie": "sid=set-cookie-canary"}
        )
        _, headers, reply = request(recorder.host, body, path=f"{PATH}?access_token=query-canary-1", headers=HEADERS)
        assert (reply, headers["x-echo"]) == (body, f"you are {TOKEN}")
        assert local.received[-1].body == body
    # A service that echoes what it was logged in with, in two pieces.
    echo = " ".join(CANARIES).encode()
    local.reply(chunks=[echo[:20], echo[20:]], pause=0.05)
    request(recorder.host, question(), headers=HEADERS)
    notes = recorder.exchanges

    told = repr(notes) + str([(each.reply, each.pieces, each.body) for each in notes])
    pickled = pickle.dumps(notes)
    secrets = [*CANARIES, *(secret for secret, _ in BODIES), "query-canary-1", "set-cookie-canary"]
    assert len(set(secrets)) > 20
    assert [] == [secret for secret in secrets if secret in told or secret.encode() in pickled]
    assert len(notes[-1].reply) == len(echo)
    assert notes[0].header("authorization") == "Bearer ***"


def test_what_is_no_secret_is_left_alone(local: LocalEndpoint, recorder: Recorder) -> None:
    """Counts of tokens, and words like token and key, stay as they are."""
    text = "The token count is 12; max_tokens: 5; the key is in the door; dapi is a prefix; sk-1."
    request(recorder.host, question(text), headers={"X-Token-Count": "12345678"})
    (noted,) = recorder.exchanges

    assert json.loads(noted.reply)["choices"][0]["message"]["content"] == text
    assert noted.header("x-token-count") == "12345678"


def test_values_are_scrubbed_like_bytes() -> None:
    """JSON is scrubbed value by value, by name and by look, and lengths stay."""
    found = Scrubber().anything({"password": "hunter22", "a": [{"b": f"x {TOKEN}"}], "n": 5, "tokens": None, TOKEN: 1})
    gone = "*" * len(TOKEN)

    assert found == {"password": "*" * 8, "a": [{"b": f"x {gone}"}], "n": 5, "tokens": None, gone: 1}


# ── TLS on the far side ──────────────────────────────────────────────────────────────────────────────────────────


class Hello(http.server.BaseHTTPRequestHandler):
    """Says how it was asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_far_side_may_speak_tls(tmp_path: Path) -> None:
    """A client without TLS reaches a service that has it; its certificate is checked."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        [*make, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        server.daemon_threads = False
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            far = f"https://127.0.0.1:{server.server_port}"
            with Recorder(far, ssl=ssl.create_default_context(cafile=str(certificate))) as trusting:
                assert request(trusting.host, b"hello")[2] == b"hello"
                assert trusting.exchanges[0].reply == b"hello"
            with Recorder(far) as doubting:
                with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
                    request(doubting.host, b"hello")
                assert "certificate" in (doubting.exchanges[0].error or "").lower()
        finally:
            server.shutdown()
            thread.join()
