"""The server that what breaks is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from raw_server import Exchange, Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def _server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(_server: Server) -> Iterator[Server]:
    """A server on this machine that has been told nothing yet."""
    _server.answer(Exchange.hang_up)
    yield _server
    mistakes, _server.mistakes = _server.mistakes, []

    assert [] == mistakes
