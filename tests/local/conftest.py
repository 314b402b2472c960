"""A local endpoint for each test, and the plainest of clients to ask it with."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("aiohttp")

from isochat.local import LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


class Refused(Exception):
    """The endpoint said no."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__(f"{status}: {body!r}")
        self.status, self.body, self.headers = status, body, headers

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Ask:
    """A client of a dozen obvious lines."""

    local: LocalEndpoint
    Refused = Refused

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        place = urlsplit(self.local.host)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
        try:
            sent = {
                "Authorization": f"Bearer {self.local.token}",
                "Content-Type": "application/json",
                **(headers or {}),
            }
            connection.request(method, path, body, {k: v for k, v in sent.items() if v})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> bytes:
        status, got, content = self.request("POST", path, json.dumps(body).encode(), headers)
        if status != 200:
            raise Refused(status, content, got)
        return content

    def chat(self, name: str, say: Any, **options: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": say}] if isinstance(say, str) else say
        return json.loads(self.post(f"/serving-endpoints/{name}/invocations", {"messages": messages, **options}))

    def stream(self, name: str, say: Any, **options: Any) -> list[dict[str, Any]]:
        messages = [{"role": "user", "content": say}] if isinstance(say, str) else say
        body = {"messages": messages, "stream": True, **options}
        return events(self.post(f"/serving-endpoints/{name}/invocations", body))

    def get(self, path: str) -> Any:
        status, headers, body = self.request("GET", path)
        if status != 200:
            raise Refused(status, body, headers)
        return json.loads(body)


def events(body: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.fixture
def local() -> Iterator[LocalEndpoint]:
    """A fresh local endpoint."""
    with LocalEndpoint() as here:
        yield here


@pytest.fixture
def ask(local: LocalEndpoint) -> Ask:
    """A plain client of the fresh local endpoint."""
    return Ask(local)


@pytest.fixture(scope="module")
def asking() -> Iterator[Ask]:
    """A plain client of one endpoint for the whole file: for questions that leave nothing behind."""
    with LocalEndpoint() as here:
        yield Ask(here)


@pytest.fixture
def ask_of() -> type[Ask]:
    """A plain client of whichever endpoint."""
    return Ask
