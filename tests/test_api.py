"""`query_chat()` itself: what is found where, what is refused before anything is sent, what is kept between calls."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any

import pytest

import isochat
from isochat import (
    BackendNotFound,
    BackendNotInstalled,
    ConfigurationError,
    Connection,
    InvalidRequest,
    StreamInterrupted,
    UnsupportedOption,
    _api,
    aquery_chat,
    backends,
    query_chat,
    render,
)
from isochat.backends.rest import RestBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isochat.local import LocalEndpoint

LLAMA = "databricks-meta-llama-3-3-70b-instruct"


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Each test begins and ends without sessions."""
    yield
    isochat.close()


@pytest.fixture
def workspace(local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEndpoint]:
    """The environment of someone who has a workspace, to which nobody else has a connection open."""
    with type(local)() as mine:
        monkeypatch.setenv("DATABRICKS_HOST", mine.host)
        monkeypatch.setenv("DATABRICKS_TOKEN", mine.token)
        monkeypatch.setenv("ISOCHAT_ENDPOINT", LLAMA)
        yield mine


def test_the_environment_is_enough(workspace: LocalEndpoint) -> None:
    """With DATABRICKS_HOST, DATABRICKS_TOKEN and ISOCHAT_ENDPOINT set, a question is one argument."""
    assert query_chat("Hi").text == "Hi"
    assert workspace.questions[-1].path == f"/serving-endpoints/{LLAMA}/invocations"


@pytest.mark.parametrize(("name", "path"), [("rest", f"/serving-endpoints/{LLAMA}/invocations"),
                                            ("openai", "/serving-endpoints/chat/completions")])  # fmt: skip
def test_isochat_backend_changes_the_client(
    workspace: LocalEndpoint, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    """ISOCHAT_BACKEND changes the client, with no change to the code."""
    if name != "rest":
        pytest.importorskip(name)
    monkeypatch.setenv("ISOCHAT_BACKEND", name)
    answer = query_chat("Hi")

    assert (name, "Hi", path) == (answer.backend, answer.text, workspace.questions[-1].path)


def test_a_session_is_kept(workspace: LocalEndpoint) -> None:
    """The same name and connection is the same session, so its connection is used again."""
    for _ in range(3):
        query_chat("Hi")

    assert workspace.open_connections == 1


@pytest.mark.parametrize("name", ["rest", "openai", "mlflow"])
def test_sessions_are_not_kept_for_ever(name: str, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks with every user's own token holds on to so many connections, and no more."""
    if name != "rest":
        pytest.importorskip(name)
    monkeypatch.setattr(_api, "_MOST", 3)
    with type(local)() as mine:
        for _ in range(8):
            connection = Connection(mine.host, lambda: mine.token)
            assert query_chat("Hi", endpoint=LLAMA, backend=name, connection=connection).text == "Hi"
        del connection
        until = time.monotonic() + 10
        while mine.open_connections > 3:
            assert time.monotonic() < until
            gc.collect()

        assert len(_api._kept) == 3


def test_closing_closes_what_is_kept_no_longer(workspace: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session of the environment stays while others come and go, and ends with all of them."""
    monkeypatch.setattr(_api, "_MOST", 1)
    query_chat("Hi")
    query_chat("Hi", connection=Connection(workspace.host, lambda: workspace.token))
    query_chat("Hi")
    isochat.close()
    until = time.monotonic() + 10
    while workspace.open_connections:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_host_local_is_the_embedded_endpoint() -> None:
    """`host="local"` needs no workspace and no account."""
    pytest.importorskip("aiohttp")

    assert query_chat("Hi", endpoint=LLAMA, host="local").text == "Hi"


def test_never_local_by_itself() -> None:
    """With nothing configured, the error names the places that were looked at; nothing is made up."""
    with pytest.raises(ConfigurationError, match="DATABRICKS_HOST"):
        query_chat("Hi", endpoint=LLAMA)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"backend": "opnai"}, BackendNotFound, "openai"),
        ({"temprature": 1}, InvalidRequest, "temperature"),
        ({"endpoint": ""}, InvalidRequest, "endpoint"),
        ({"max_tokens": "many"}, InvalidRequest, "max_tokens"),
        ({"timeout": -1}, ConfigurationError, "timeout"),
        ({"timeout": float("inf")}, ConfigurationError, r"timeout.* finite number of seconds"),
        ({"stream": "yes"}, InvalidRequest, "stream: expected True or False"),
        ({"extra_body": {"stream": True}}, InvalidRequest, "extra_body.stream"),
    ],
)
def test_refused_before_anything_is_sent(
    local: LocalEndpoint, said: dict[str, Any], error: type[Exception], words: str
) -> None:
    """What is said wrongly is an error that names the place, in either way of asking, and nothing is sent."""
    everything = {"endpoint": LLAMA, "host": local.host, "token": local.token, **said}
    with pytest.raises(error, match=words):
        query_chat("Hi", **everything)
    with pytest.raises(error, match=words):
        asyncio.run(aquery_chat("Hi", **everything))

    assert local.received == []


def test_a_backend_holds_its_own_connection(local: LocalEndpoint) -> None:
    """A session and a host at once would leave open who is asked."""
    session = RestBackend(isochat.Connection(local.host, local.token))
    with pytest.raises(InvalidRequest, match="connection"):
        query_chat("Hi", endpoint=LLAMA, backend=session, host="https://other.example")


class _Poor(RestBackend):
    name = "poor"
    carries = frozenset({"max_tokens"})


def test_an_option_that_cannot_be_carried_names_who_can(local: LocalEndpoint) -> None:
    """A backend that cannot carry an option says so, and which can; nothing is sent."""
    poor = _Poor(isochat.Connection(local.host, local.token))
    with pytest.raises(UnsupportedOption, match="'rest'") as refused:
        query_chat("Hi", endpoint=LLAMA, backend=poor, top_p=0.5)
    with pytest.raises(UnsupportedOption, match="stream"):
        query_chat("Hi", endpoint=LLAMA, backend=poor, stream=True)

    assert refused.value.option == "top_p"
    assert "rest" in refused.value.carried_by
    assert local.received == []


def test_render_sends_nothing(workspace: LocalEndpoint) -> None:
    """What would be sent can be looked at."""
    assert render("Hi", max_tokens=3, stream=True) == {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "stream": True,
    }
    assert workspace.received == []


def test_a_client_that_is_not_there_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose client is not installed gives the line that installs it, and the others go on."""
    monkeypatch.setattr(backends, "_is_there", lambda module: module != "openai")
    with pytest.raises(BackendNotInstalled, match="pip install 'isochat\\[openai\\]'"):
        backends.load("openai")

    assert [info.name for info in backends.available() if info.missing] == ["openai", "openai-responses"]
    assert backends.load("rest") is RestBackend


def test_aclose_closes_the_loops_connections(workspace: LocalEndpoint) -> None:
    """After `aclose()` nothing of this loop is open, and asking again works."""

    async def ask() -> int:
        await aquery_chat("Hi")
        await isochat.aclose()
        for _ in range(100):
            if workspace.open_connections == 0:
                break
            await asyncio.sleep(0.02)
        return workspace.open_connections

    assert asyncio.run(ask()) == 0
    assert query_chat("Hi").text == "Hi"


@pytest.mark.parametrize("name", ["rest", "openai", "mlflow", "databricks-sdk"])
def test_a_stream_that_the_caller_left_is_no_whole_answer(workspace: LocalEndpoint, name: str) -> None:
    """After its reader was cancelled, what had come of an agent's stream is not passed off as the answer."""
    if any(info.missing for info in backends.available() if info.name == name):
        pytest.skip(f"the client of {name!r} is not installed")
    from isochat.local import Fault

    workspace.order(Fault(stall=8, after=2))

    async def leave() -> None:
        stream = await aquery_chat("one two three four", endpoint="agent-chat", backend=name, stream=True)
        reading = asyncio.create_task(stream.collect())
        await asyncio.sleep(0.2)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with pytest.raises(StreamInterrupted) as left:
            await stream.collect()
        await isochat.aclose()

        assert left.value.partial is not None
        assert "one two three four".startswith(left.value.partial.text.strip())

    asyncio.run(leave())


def test_a_choice_that_never_came_is_missed(workspace: LocalEndpoint) -> None:
    """Of three answers asked for, one that ends is not all of them."""
    piece = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
    workspace.reply(chunks=[piece])
    with pytest.raises(StreamInterrupted):
        list(query_chat("Hi", n=3, stream=True))


def test_a_client_that_cannot_be_imported_says_so(workspace: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is there and broken is named, with what it said."""

    def broken(self: RestBackend) -> None:
        raise ImportError("numpy is broken")

    monkeypatch.setattr(RestBackend, "warm", broken)
    with pytest.raises(BackendNotInstalled, match="numpy is broken"):
        query_chat("Hi")
