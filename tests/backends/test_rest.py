"""What only `rest` does: its route, its connections, and its life across forks, loops and threads."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import Connection, EndpointNotFound, InvalidRequest, aquery_chat, query_chat
from isochat.backends.rest import RestBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isochat.local import LocalEndpoint

LLAMA = "databricks-meta-llama-3-3-70b-instruct"


@pytest.fixture
def backend(local: LocalEndpoint) -> Iterator[RestBackend]:
    with_connection = RestBackend(Connection(local.host, local.token))
    yield with_connection
    with_connection.close()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("my ep", "/serving-endpoints/my%20ep/invocations"),
        ("a?b#c", "/serving-endpoints/a%3Fb%23c/invocations"),
        ("a%2Fb", "/serving-endpoints/a%252Fb/invocations"),
        ("größe", "/serving-endpoints/gr%C3%B6%C3%9Fe/invocations"),
    ],
)
def test_the_name_stays_in_its_place(backend: RestBackend, name: str, path: str) -> None:
    """Whatever stands in an endpoint's name is quoted into its one segment of the path."""
    from isochat._request import make_request

    assert path == backend.encode(make_request("Hi", endpoint=name)).path


@pytest.mark.parametrize("name", ["../../api/2.0/secrets", "a/b", "..", ".", "a\\b", "a\nb", "", "a\x00"])
def test_a_name_that_could_leave_its_place_gets_nowhere(backend: RestBackend, local: LocalEndpoint, name: str) -> None:
    """A name that could become another path is refused, and nothing is sent."""
    with pytest.raises(InvalidRequest, match="endpoint"):
        query_chat("Hi", endpoint=name, backend=backend)

    assert local.received == []


def test_a_quoted_name_arrives_as_one(backend: RestBackend, local: LocalEndpoint) -> None:
    """The server sees one segment, and says that there is no such endpoint."""
    with pytest.raises(EndpointNotFound):
        query_chat("Hi", endpoint="no such?one", backend=backend)

    assert "no such?one" in local.received[-1].path or "%3F" in local.received[-1].path


def test_connections_are_used_again(backend: RestBackend, local: LocalEndpoint) -> None:
    """Questions and streams one after the other share one connection."""
    for _ in range(3):
        query_chat("Hi", endpoint=LLAMA, backend=backend)
        list(query_chat("Hi", endpoint=LLAMA, backend=backend, stream=True))

    assert local.open_connections == 1


def test_each_loop_has_its_own_client(backend: RestBackend) -> None:
    """One `asyncio.run` after another, and two loops in two threads, all get their answers."""
    texts: list[str] = []

    async def ask() -> None:
        answers = await asyncio.gather(*(aquery_chat("Hi", endpoint=LLAMA, backend=backend) for _ in range(5)))
        texts.extend(answer.text for answer in answers)

    asyncio.run(ask())
    asyncio.run(ask())
    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ["Hi"] * 20 == texts


def test_threads_share_it(backend: RestBackend) -> None:
    """Sixteen threads asking at once through one backend get each its own answer."""
    texts: dict[int, str] = {}

    def ask(place: int) -> None:
        texts[place] = query_chat(f"number {place}", endpoint=LLAMA, backend=backend).text

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {place: f"number {place}" for place in range(16)} == texts


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_asks_too(backend: RestBackend, local: LocalEndpoint) -> None:
    """After the parent has asked, a forked child asks on a connection of its own, and then the parent again."""
    query_chat("Hi", endpoint=LLAMA, backend=backend)
    child = os.fork()
    if child == 0:
        text = query_chat("child", endpoint=LLAMA, backend=backend, timeout=10).text
        os._exit(0 if text == "child" else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert query_chat("Hi", endpoint=LLAMA, backend=backend).text == "Hi"
    assert len(local.questions) == 3


def test_a_closed_backend_begins_anew(backend: RestBackend) -> None:
    """Closing gives connections back; it does not end the backend."""
    query_chat("Hi", endpoint=LLAMA, backend=backend)
    backend.close()

    assert query_chat("Hi", endpoint=LLAMA, backend=backend).text == "Hi"


def test_a_401_is_cured_by_a_fresh_token(local: LocalEndpoint) -> None:
    """A token that has expired is renewed once, and the question asked again; a second refusal is the answer."""
    tokens = iter(["stale", local.token])
    backend = RestBackend(Connection(local.host, lambda: next(tokens)))
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend)
    backend.close()

    assert answer.text == "Hi"
    assert ["AuthenticationFailed"] == [attempt.error for attempt in answer.attempts]
    assert [False, True] == [request.authorized for request in local.questions]


def test_a_service_principal_asks(local: LocalEndpoint) -> None:
    """OAuth machine-to-machine, through the SDK's own login: one token for many questions, of either kind."""
    pytest.importorskip("databricks.sdk", reason="the login needs databricks-sdk")
    connection = Connection(local.host, client_id=local.client_id, client_secret=local.client_secret)
    backend = RestBackend(connection)
    texts = [query_chat("Hi", endpoint=LLAMA, backend=backend).text for _ in range(3)]

    async def ask() -> str:
        return (await aquery_chat("Hi", endpoint=LLAMA, backend=backend)).text

    texts.append(asyncio.run(ask()))
    backend.close()

    assert ["Hi"] * 4 == texts
    assert [request.path for request in local.received].count("/oidc/v1/token") == 1
