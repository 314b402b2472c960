"""Every backend that speaks chat reads every sample of the wire alike, served byte for byte."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import ChatError, Connection, Retry, aquery_chat, query_chat
from isochat.backends import BUILT_IN, load
from isochat.errors import BackendNotInstalled, StreamInterrupted

if TYPE_CHECKING:
    from isochat import Backend
    from isochat.local import LocalEndpoint

WIRE = Path(__file__).parents[1] / "wire"
SAMPLES = json.loads((WIRE / "index.json").read_bytes())
SAID = {"endpoint": "any", "retry": Retry(attempts=1), "timeout": 20}


@pytest.fixture(params=sorted(BUILT_IN.keys() - {"ai-query", "openai-responses", "rest"}))
def backends(request: pytest.FixtureRequest, local: LocalEndpoint) -> Any:
    """`rest` and one other, on the same connection."""
    connection = Connection(local.host, local.token)
    try:
        pair = (load("rest")(connection), load(request.param)(connection))
    except BackendNotInstalled as error:
        pytest.skip(str(error))
    yield pair
    for backend in pair:
        backend.close()


def _outcome(backend: Backend, local: LocalEndpoint, sample: dict[str, Any], *, awaited: bool) -> Any:
    """The answer, or what the error says; for a broken stream, what had arrived too."""
    body = (WIRE / sample["file"]).read_bytes()
    local.reply(status=sample["status"], body=body, headers={**sample["headers"], "x-request-id": "r"})
    stream = sample["kind"] == "chat.sse"
    try:
        if awaited:
            return asyncio.run(_aask(backend, stream=stream))
        answer = query_chat("Hi", backend=backend, stream=stream, **SAID)
        return answer.response if stream else answer
    except ChatError as error:
        cause = error.error if isinstance(error, StreamInterrupted) else None
        told = {name: value for name, value in vars(error).items() if name not in ("backend", "error", "attempts")}
        return type(error), told, None if cause is None else (type(cause), cause.message, cause.error_code)


async def _aask(backend: Backend, *, stream: bool) -> Any:
    if not stream:
        return await aquery_chat("Hi", backend=backend, **SAID)
    return await (await aquery_chat("Hi", backend=backend, stream=True, **SAID)).collect()


@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "asyncio"])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["file"])
def test_alike(
    backends: tuple[Backend, Backend], local: LocalEndpoint, sample: dict[str, Any], *, awaited: bool
) -> None:
    """Both give equal answers, or errors of one class that say the same."""
    first, second = (_outcome(backend, local, sample, awaited=awaited) for backend in backends)

    assert first == second
