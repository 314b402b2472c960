"""What only `rest` does: its route, and the logins that it asks with."""

from __future__ import annotations

import asyncio
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
