"""What `rest` sends with: the same promises whichever carries the question.

`tests/faults` puts both through every fault.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from raw_server import settles

from isochat import Connection, DeadlineExceeded, MalformedReply, Retry, aquery_chat, query_chat
from isochat.backends import BackendNotInstalled
from isochat.backends import rest as rest_module
from isochat.backends.rest import RestBackend
from isochat.errors import ConfigurationError
from isochat.local import Fault
from isochat.testing.conformance import ANSWER, Ask, BackendTests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isochat import Backend
    from isochat.backends.rest import TransportName
    from isochat.local import LocalEndpoint

LLAMA = "databricks-meta-llama-3-3-70b-instruct"
WHOLE = json.dumps(ANSWER).encode()
AUTHORITIES = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
WITHOUT = "pip install 'isochat[fast]'"
fast = pytest.mark.skipif(find_spec("pyreqwest") is None, reason=WITHOUT)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(autouse=True)
def nobody_else_to_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """No authorities are named in the environment of whoever runs the tests."""
    for variable in AUTHORITIES:
        monkeypatch.delenv(variable, raising=False)


# ---- the suite


class OnPyreqwest(RestBackend):
    name: ClassVar[str] = "rest by pyreqwest"

    def __init__(self, connection: Connection | None = None) -> None:
        super().__init__(connection, transport="pyreqwest")


@fast
class TestFast(BackendTests):
    """`rest` by pyreqwest, in every mode."""

    @pytest.fixture
    def backend(self, connection: Connection) -> Backend:
        return OnPyreqwest(connection)


# ---- which one it is


def carriers(backend: RestBackend) -> tuple[str, str]:
    """The modules that carry its blocking and its asyncio questions."""
    blocking = backend._http.get()

    async def awaited() -> str:
        module = type(await backend._async_http.get()).__module__
        await backend.aclose()
        return module

    names = type(blocking).__module__, asyncio.run(awaited())
    backend.close()
    return tuple(name.rpartition(".")[2] for name in names)  # type: ignore[return-value]


SOMEWHERE = "https://workspace.example"


def test_what_is_installed_does_not_decide() -> None:
    """httpx2, where pyreqwest is there too: what that cannot do is for its user to know."""
    assert ("httpx2", "httpx2") == carriers(RestBackend(Connection(SOMEWHERE, "t")))


@pytest.mark.parametrize("name", ["httpx2", "pyreqwest"])
def test_the_caller_decides(name: TransportName, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is named carries both, whether in the call or in a setting, which the call is stronger than."""
    pytest.importorskip(name, reason=WITHOUT)
    said = carriers(RestBackend(Connection(SOMEWHERE, "t"), transport=name))
    monkeypatch.setenv("ISOCHAT_TRANSPORT", name)
    other: TransportName = "httpx2"

    assert (name, name) == said
    assert (name, name) == carriers(RestBackend(Connection(SOMEWHERE, "t")))
    assert (other, other) == carriers(RestBackend(Connection(SOMEWHERE, "t"), transport=other))


@fast
def test_it_goes_with_the_backend() -> None:
    """The same backend on another connection, as `compare()` makes it, sends with the same."""
    other = RestBackend(Connection(SOMEWHERE, "t"), transport="pyreqwest").through(
        Connection("http://127.0.0.1:1", "t")
    )

    assert ("pyreqwest", "pyreqwest") == carriers(other)


@fast
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
def test_a_proxy_is_for_httpx2(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy is named, httpx2 finds the way; this machine is reached without one."""
    monkeypatch.setenv(variable, "http://127.0.0.1:1")

    assert ("httpx2", "httpx2") == carriers(OnPyreqwest(Connection(SOMEWHERE, "t")))
    assert ("pyreqwest", "pyreqwest") == carriers(OnPyreqwest(Connection("http://127.0.0.1:1", "t")))


@fast
@pytest.mark.parametrize("variable", AUTHORITIES)
def test_authorities_are_for_httpx2(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where authorities are named, httpx2 trusts them and no others; unencrypted there is nobody to trust."""
    trustme = pytest.importorskip("trustme", reason="a certificate is made with trustme")
    with trustme.CA().cert_pem.tempfile() as file:
        monkeypatch.setenv(variable, str(file) if "DIR" not in variable else os.path.dirname(file))  # noqa: PTH120

        assert ("httpx2", "httpx2") == carriers(RestBackend(Connection(SOMEWHERE, "t"), transport="pyreqwest"))
        assert "pyreqwest" == carriers(RestBackend(Connection("http://127.0.0.1:1", "t"), transport="pyreqwest"))[1]


@pytest.mark.parametrize("how", ["argument", "ISOCHAT_TRANSPORT"])
def test_there_is_no_other(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is none is refused, with those there are, and where it was said."""
    said: dict[str, Any] = {}
    if how == "argument":
        said["transport"] = "carrier pigeon"
    else:
        monkeypatch.setenv(how, "carrier pigeon")
    with pytest.raises(ConfigurationError, match=f"{how}.* 'httpx2' or 'pyreqwest', not 'carrier pigeon'"):
        RestBackend(Connection(SOMEWHERE, "t"), **said)


def test_what_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyreqwest by name, where it is not installed."""
    monkeypatch.setattr(rest_module, "_has_pyreqwest", lambda: False)
    with pytest.raises(BackendNotInstalled, match="pyreqwest") as refused:
        RestBackend(Connection(SOMEWHERE, "t"), transport="pyreqwest")

    assert "pip install 'isochat[fast]'" == refused.value.install


@fast
@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_asks_through_httpx2(local: LocalEndpoint) -> None:
    """pyreqwest's threads are not in the child; httpx2 takes its place there, for both kinds of question."""
    backend = OnPyreqwest(Connection(local.host, local.token))
    said: dict[str, Any] = {"endpoint": LLAMA, "backend": backend, "timeout": 10}
    query_chat("Hi", **said)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            texts = [query_chat("child", **said).text, asyncio.run(aquery_chat("child", **said)).text]
            used = type(backend._http.get()).__name__
            code = 0 if (texts, used) == (["child", "child"], "Httpx2") else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    again = query_chat("Hi", **said).text
    backend.close()

    assert 0 == os.waitstatus_to_exitcode(status)
    assert "Hi" == again


# ---- what is unusual and allowed


@pytest.fixture(params=["httpx2", "pyreqwest"])
def transport(request: pytest.FixtureRequest) -> TransportName:
    pytest.importorskip(request.param, reason=WITHOUT)
    name: TransportName = request.param
    return name


@pytest.fixture(params=["blocking", "asyncio"])
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a question and then does as it is told to the connection."""

    def run() -> None:
        while True:
            try:
                peer, _ = listening.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(10)
                held = b""
                while b"\r\n\r\n" not in held or not held.endswith(b"}"):
                    if not (read := peer.recv(65536)):
                        break
                    held += read
                serve(peer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def reply(*fields: str, body: bytes = b"") -> bytes:
    head = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *fields]
    return "\r\n".join([*head, "\r\n"]).encode("latin-1") + body


def answer(host: str, mode: str, transport: TransportName, token: str = "t", **options: Any) -> Any:
    backend = RestBackend(Connection(host, token), transport=transport)
    try:
        return Ask(mode, backend)(**{"endpoint": "e", **options})
    finally:
        backend.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue of connections is Linux's")
def test_no_connection_in_time_carries_nothing(mode: str, transport: TransportName) -> None:
    """A host that does not take the connection never counts as one that has the question."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        waiting = [socket.socket() for _ in range(4)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(listening.getsockname())
        with pytest.raises((ConnectionError, DeadlineExceeded)) as failed:
            answer(f"http://127.0.0.1:{listening.getsockname()[1]}", mode, transport, timeout=0.4)
        for other in waiting:
            other.close()

    assert True is not failed.value.sent  # type: ignore[union-attr]


def test_a_body_that_is_not_what_it_says(mode: str, transport: TransportName) -> None:
    """A compressed answer that is none is no connection's fault, and is not asked for again."""
    asked = 0

    def lie(peer: socket.socket) -> None:
        nonlocal asked
        asked += 1
        peer.sendall(reply("content-encoding: gzip", body=WHOLE))

    with serving(lie) as host, pytest.raises(MalformedReply, match="unpacked"):
        answer(host, mode, transport, retry=Retry(first_wait=0))

    assert 1 == asked


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["content-encoding: gzip"], gzip.compress(WHOLE)),
        (["Content-Encoding: deflate"], zlib.compress(WHOLE)),
        (["x-long: one,", "  two"], WHOLE),
        (["x-odd: \xe9"], WHOLE),
        (["connection: close"], WHOLE),
    ],
    ids=["gzip", "deflate", "a folded header", "a header that is no text", "the last answer"],
)
def test_heads_and_bodies(mode: str, transport: TransportName, fields: list[str], body: bytes) -> None:
    """What is unusual and allowed is read."""
    with serving(lambda peer: peer.sendall(reply(*fields, body=body))) as host:
        assert "Hi." == answer(host, mode, transport).text


def test_a_body_without_a_length(mode: str, transport: TransportName) -> None:
    """It ends with the connection."""
    with serving(lambda peer: peer.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + WHOLE)) as host:
        assert "Hi." == answer(host, mode, transport).text


def test_what_comes_before_the_answer(mode: str, transport: TransportName) -> None:
    """A head that says to wait is not the answer's."""
    with serving(lambda peer: peer.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + reply(body=WHOLE))) as host:
        assert "Hi." == answer(host, mode, transport).text


def test_a_connection_that_was_closed_meanwhile_is_not_used(mode: str, transport: TransportName) -> None:
    """A server that hangs up after each answer is asked on a new connection each time, without a retry."""
    with serving(lambda peer: peer.sendall(reply(body=WHOLE))) as host:
        backend = RestBackend(Connection(host, "t"), transport=transport)
        with asyncio.Runner() as runner:
            for _ in range(3):
                said: dict[str, Any] = {"endpoint": "e", "backend": backend}
                asked = query_chat("Hi", **said) if mode == "blocking" else runner.run(aquery_chat("Hi", **said))

                assert () == asked.attempts
                threading.Event().wait(0.1)
            runner.run(backend.aclose())


def test_what_is_sent_is_the_same(mode: str, local: LocalEndpoint) -> None:
    """The same path, body and headers, but for those that each client adds by itself."""
    pytest.importorskip("pyreqwest", reason=WITHOUT)
    names: tuple[TransportName, ...] = ("httpx2", "pyreqwest")
    for name in names:
        answer(local.host, mode, name, local.token, endpoint=LLAMA, temperature=0.5)
    one, other = local.received
    added = {"accept-encoding", "connection"}

    assert (one.method, one.path, one.body) == (other.method, other.path, other.body)
    assert {name: value for name, value in one.headers.items() if name.lower() not in added} == {
        name: value for name, value in other.headers.items() if name.lower() not in added
    }


# ---- how it ends


def asking(local: LocalEndpoint, how: str, code: str) -> subprocess.Popen[str]:
    """A process with a backend, made with these words."""
    before = f"""
        import asyncio, threading
        from isochat import Connection, aquery_chat, query_chat
        from isochat.backends.rest import RestBackend
        backend = RestBackend(Connection({local.host!r}, {local.token!r}){how})
        said = dict(endpoint={LLAMA!r}, backend=backend)
    """
    program = textwrap.dedent(before) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


INTERRUPTED = """
    import time
    begun = time.monotonic()
    try:
        query_chat("Hi", **said, stream={stream}, timeout=2.5)
    except BaseException as error:
        print(type(error).__name__, time.monotonic() - begun < 2)
    backend.close()
"""


def interrupted(local: LocalEndpoint, how: str, *, stream: bool) -> str:
    """What comes of Ctrl-C as soon as the question has arrived, and whether it came at once."""
    local.order(Fault(stall=60))
    process = asking(local, how, INTERRUPTED.format(stream=stream))
    while not local.questions:
        assert None is process.poll()
        threading.Event().wait(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    return out.strip()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
@pytest.mark.parametrize("stream", [False, True])
def test_ctrl_c_is_heard_at_once(local: LocalEndpoint, *, stream: bool) -> None:
    """A blocking question that waits for its answer is left when the caller says so, not when the answer comes."""
    assert "KeyboardInterrupt True" == interrupted(local, "", stream=stream)


@fast
@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
def test_surprise_pyreqwest_is_deaf_while_it_waits(local: LocalEndpoint) -> None:
    """Ctrl-C is heard when the time of a blocking question is over: a reason why it is used only where it is named."""
    assert "KeyboardInterrupt False" == interrupted(local, ", transport='pyreqwest'", stream=False)


@fast
def test_surprise_a_cancelled_question_goes_on_beneath() -> None:
    """pyreqwest leaves it at once and keeps its connection, but not longer than the question's time."""
    pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")
    from isochat.local import LocalEndpoint  # one of its own: its connections are counted

    async def ask(local: LocalEndpoint, transport: TransportName) -> tuple[float, int, bool]:
        local.order(Fault(stall=60))
        before = len(local.questions)
        backend = RestBackend(Connection(local.host, local.token), transport=transport)
        task = asyncio.create_task(aquery_chat("Hi", endpoint=LLAMA, backend=backend, timeout=1.5))
        while len(local.questions) == before:  # noqa: ASYNC110 - it is the server that waits
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        took = time.monotonic() - begun
        await asyncio.sleep(0.2)
        still = local.open_connections
        ended = await asyncio.to_thread(settles, lambda: local.open_connections == 0)
        await backend.aclose()
        return took, still, ended

    with LocalEndpoint() as local:
        took, still, ended = asyncio.run(ask(local, "pyreqwest"))
    with LocalEndpoint() as local:
        _, of_httpx2, _ = asyncio.run(ask(local, "httpx2"))

    assert took < 1
    assert (1, 0) == (still, of_httpx2)
    assert ended


@fast
@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_surprise_pyreqwest_refuses_in_a_forked_child() -> None:
    """A client cannot be made where the parent had one: a RuntimeError, which httpx2 then stands in for."""
    from isochat.transports.pyreqwest import Pyreqwest

    Pyreqwest().close()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Pyreqwest()
        except RuntimeError as error:
            code = 0 if "fork" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_process_ends_with_a_stream_open(local: LocalEndpoint, transport: TransportName, kind: str) -> None:
    """Nothing that is left open keeps the interpreter from ending, or says anything."""
    local.order(Fault(stall=60, after=2))
    process = asking(
        local,
        f", transport={transport!r}",
        f"""
        async def ask():
            global stream
            stream = await aquery_chat("one two three four", stream=True, **said)
            await anext(stream)
            print('begun')
        if {kind!r} == "asyncio":
            asyncio.run(ask())
        else:
            stream = query_chat("one two three four", stream=True, **said)
            next(stream)
            print('begun')
        """,
    )
    out, err = process.communicate(timeout=20)

    assert (0, "begun\n", "") == (process.returncode, out, err)


@fast
def test_surprise_pyreqwest_may_abort_a_process_that_ends(local: LocalEndpoint) -> None:
    """What asks with asyncio and ends right after the answer ends well, sixteen times of sixteen: it pauses before.

    Without the pause one in ten ends with "Fatal Python error: PyGILState_Release".
    """
    ended = set()
    for _ in range(4):
        running = [asking(local, ", transport='pyreqwest'", 'asyncio.run(aquery_chat("Hi", **said))') for _ in range(4)]
        ended |= {(process.communicate(timeout=60)[1], process.returncode) for process in running}

    assert {("", 0)} == ended
