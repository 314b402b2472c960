"""Forked, spawned, pooled, preloaded; one loop after another, two at once, one that runs already."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.abc
import importlib.util
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import Backend, Connection, aquery_chat, query_chat
from isochat.backends import BUILT_IN, load
from isochat.backends.ai_query import AIQueryBackend
from isochat.errors import BackendNotInstalled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from isochat.local import LocalEndpoint

ENDPOINT = "databricks-gpt-5-1"
WORDS = "one two three four five six seven eight"
METHODS = multiprocessing.get_all_start_methods()
forks = pytest.mark.skipif("fork" not in METHODS, reason="this system does not fork")


@pytest.fixture(params=BUILT_IN)
def backend(request: pytest.FixtureRequest, local: LocalEndpoint) -> Iterator[Backend]:
    """Every backend."""
    session = made(request.param, local)
    yield session
    session.close()


def made(name: str, local: LocalEndpoint) -> Backend:
    connection = Connection(local.host, local.token)
    try:
        return AIQueryBackend(connection, warehouse_id="w") if name == "ai-query" else load(name)(connection)
    except BackendNotInstalled as error:
        pytest.skip(str(error))


def asked(backend: Backend) -> dict[str, Any]:
    return {"endpoint": ENDPOINT, "backend": backend, "timeout": 60}


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────

# Run in an interpreter of its own, so that nothing of this one (threads, pytest) is in the way of a fork. A spawned
# child imports it again.
PROGRAM = '''
import asyncio, functools, multiprocessing, os, sys, threading
from isochat import Connection, aquery_chat, query_chat
from isochat.backends import load
from isochat.backends.ai_query import AIQueryBackend

name, host, token, how = sys.argv[1:]
WORDS = "one two three four five six seven eight"

@functools.cache
def backend():
    connection = Connection(host, token)
    return AIQueryBackend(connection, warehouse_id="w") if name == "ai-query" else load(name)(connection)

def ask(text):
    """Blocking, streamed, and on a loop."""
    said = {"endpoint": "databricks-gpt-5-1", "backend": backend(), "timeout": 60}
    answers = {query_chat(text, **said).text, asyncio.run(aask(text, said))}
    if backend().streams():
        answers.add(query_chat(text, stream=True, **said).collect().text)
    return answers == {text}

async def aask(text, said):
    if not backend().streams():
        return (await aquery_chat(text, **said)).text
    return (await (await aquery_chat(text, stream=True, **said)).collect()).text

def child(text):
    sys.exit(0 if ask(text) else 1)

def main():
    assert ask("before")
    rest, first = (), ""
    if backend().streams():
        rest = query_chat(WORDS, endpoint="databricks-gpt-5-1", backend=backend(), stream=True, timeout=60)
        first = next(rest).text
    if how == "os.fork":
        pid = os.fork()
        if not pid:
            child("in a child")  # which ends as any program does, and takes its copy of the stream with it
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    elif how == "while others ask":
        over = threading.Event()
        def others():
            while not over.is_set():
                ask("beside it")
        threads = [threading.Thread(target=others) for _ in range(2)]
        [thread.start() for thread in threads]
        children = [multiprocessing.get_context("fork").Process(target=child, args=(f"{i}",)) for i in range(3)]
        [process.start() for process in children]
        [process.join(60) for process in children]
        over.set()
        [thread.join() for thread in threads]
        assert [0] * 3 == [process.exitcode for process in children]
    else:
        with multiprocessing.get_context(how).Pool(2) as pool:
            assert [True] * 4 == pool.map(ask, [f"number {place}" for place in range(4)])
    if backend().streams():
        assert first + "".join(chunk.text for chunk in rest) == WORDS
    assert ask("after")
    print("well")

if __name__ == "__main__":
    main()
'''


def runs_well(folder: Path, local: LocalEndpoint, name: str, how: str, *flags: str) -> None:
    made(name, local).close()
    program = folder / "program.py"
    program.write_text(PROGRAM)
    if name == "langchain":  # databricks-langchain cannot be imported where what is deprecated is an error
        flags = (*flags, "-W", "ignore::DeprecationWarning")
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *flags, program, name, local.host, local.token, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=100)
    finally:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children too
        process.communicate()

    assert (0, "well\n", "") == (process.returncode, out, err)


@forks
@pytest.mark.parametrize("name", BUILT_IN)
def test_fork(local: LocalEndpoint, tmp_path: Path, name: str) -> None:
    """A child of a parent that has asked, and is in the middle of a stream, asks too; the stream goes on unharmed."""
    runs_well(tmp_path, local, name, "os.fork")


@forks
@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"mlflow"}))  # test_surprise_mlflow_imports_at_every_question
def test_fork_while_others_ask(local: LocalEndpoint, tmp_path: Path, name: str) -> None:
    """Whatever lock a thread of the parent's holds at the moment of the fork, the child does not wait for it.

    For a lock of a C library it may: one child in a hundred spun in OpenSSL's SSL_CTX_new for ever, since a thread of
    the parent's was making a context too. So a program that hangs has a second chance; for a lock of ours it would hang
    again.
    """
    said = (tmp_path, local, name, "while others ask", "-W", "ignore:This process:DeprecationWarning")
    try:
        runs_well(*said)
    except subprocess.TimeoutExpired:
        runs_well(*said)


def test_surprise_mlflow_imports_at_every_question(local: LocalEndpoint) -> None:
    """It looks for a module that is not there, and holds a lock of Python's that a forked child then waits for.

    Until mlflow has mended it, a process should not fork while another of its threads asks through `mlflow`.
    """
    backend = made("mlflow", local)
    query_chat("Hi", **asked(backend))
    looked_for: list[str] = []

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: Any) -> None:
            looked_for.append(name)

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        query_chat("Hi", **asked(backend))
    finally:
        sys.meta_path.remove(finder)
        backend.close()

    assert "dbruntime" in looked_for


@pytest.mark.parametrize("how", METHODS)
def test_pool(local: LocalEndpoint, tmp_path: Path, how: str) -> None:
    """A pool of processes, begun in the middle of the parent's stream, answers; the stream goes on."""
    runs_well(tmp_path, local, "rest", how)


GUNICORN = """
import os
from isochat import query_chat
from isochat.backends import load
from isochat import Connection

backend = load(os.environ["TEST_BACKEND"])(Connection(os.environ["TEST_HOST"], os.environ["TEST_TOKEN"]))
said = {"endpoint": "databricks-gpt-5-1", "backend": backend, "timeout": 30}
assert query_chat("preloaded", **said).text == "preloaded"
MASTER = os.getpid()

def app(environ, start_response):
    text = query_chat(environ["PATH_INFO"], **said).text
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{text} {os.getpid() != MASTER}".encode()]
"""


@forks
@pytest.mark.parametrize("name", ["rest", "databricks-sdk"])
def test_gunicorn_preload(local: LocalEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Workers of an application that was loaded, and has asked, before they were forked, ask too."""
    if importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed")
    made(name, local).close()
    (tmp_path / "preloaded.py").write_text(GUNICORN)
    for variable, value in {"BACKEND": name, "HOST": local.host, "TOKEN": local.token}.items():
        monkeypatch.setenv(f"TEST_{variable}", value)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"fd://{number}",
             "--no-control-socket", "preloaded:app"],
            cwd=tmp_path, pass_fds=[number], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            said = [get(listening.getsockname()[1], f"/{place}") for place in range(6)]
        finally:
            server.terminate()
            log, _ = server.communicate(timeout=30)

    assert [f"/{place} True" for place in range(6)] == said, log
    assert server.returncode == 0


def get(port: int, path: str) -> str:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read().decode()


# ── loops ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def several(backend: Backend) -> list[str]:
    """Answers to questions and streams at once."""

    async def streamed(text: str) -> str:
        return (await (await aquery_chat(text, stream=True, **asked(backend))).collect()).text

    async def whole(text: str) -> str:
        return (await aquery_chat(text, **asked(backend))).text

    ways = (whole, streamed) if backend.streams() else (whole, whole)
    return await asyncio.gather(*(way("Hi") for way in ways for _ in range(3)))


def test_one_loop_after_another(backend: Backend, local: LocalEndpoint) -> None:
    """`asyncio.run` twice: the second loop has connections of its own, and the first has left none."""
    for _ in range(2):
        assert ["Hi"] * 6 == asyncio.run(several(backend))


def test_two_loops_at_once(backend: Backend) -> None:
    """Two loops in two threads share a backend, and nothing else."""
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.extend(asyncio.run(several(backend)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ["Hi"] * 12 == answers


def test_blocking_where_a_loop_runs(backend: Backend) -> None:
    """In Jupyter a loop runs already: the blocking functions answer there, beside the awaited ones."""

    async def cell() -> list[str]:
        first = query_chat("Hi", **asked(backend)).text
        if backend.streams():
            with query_chat(WORDS, stream=True, **asked(backend)) as stream:
                assert "".join(chunk.text for chunk in stream) == WORDS
        return [first, *await several(backend)]

    assert ["Hi"] * 7 == asyncio.run(cell())


def test_uvloop(backend: Backend) -> None:
    """uvloop is a loop like any other."""
    uvloop = pytest.importorskip("uvloop")
    for _ in range(2):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert ["Hi"] * 6 == runner.run(several(backend))


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_free_threads(local: LocalEndpoint) -> None:
    """On a Python without a GIL, isochat and what `rest` stands on leave it off, and threads get their answers."""
    backend = made("rest", local)
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(query_chat("Hi", **asked(backend)).text)) for _ in range(32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.close()

    assert ["Hi"] * 32 == answers
    assert not sys._is_gil_enabled()  # type: ignore[attr-defined]
