"""Every backend that speaks chat reads every sample of the wire alike, served byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import ChatError, Connection, Retry, aquery_chat, query_chat
from isochat.backends import BUILT_IN, load
from isochat.errors import BackendNotInstalled, StreamInterrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isochat import Backend
    from isochat.local import LocalEndpoint

WIRE = Path(__file__).parents[1] / "wire"
SAMPLES = json.loads((WIRE / "index.json").read_bytes())
SAID = {"endpoint": "any", "retry": Retry(attempts=1), "timeout": 20}


ELSEWHERE = {"ai-query", "openai-responses"}  # they speak another language than chat


@pytest.fixture(scope="module")
def sessions(_local_endpoint: LocalEndpoint) -> Iterator[dict[str, Backend]]:
    """One of each backend that is installed, on one connection."""
    connection = Connection(_local_endpoint.host, _local_endpoint.token)
    made: dict[str, Backend] = {}
    for name in BUILT_IN.keys() - ELSEWHERE:
        with contextlib.suppress(BackendNotInstalled):
            made[name] = load(name)(connection)
    yield made
    for session in made.values():
        session.close()


def _session(sessions: dict[str, Backend], name: str) -> Backend:
    if name not in sessions:
        pytest.skip(f"{name} is not installed")
    return sessions[name]


def _outcome(
    backend: Backend, local: LocalEndpoint, sample: dict[str, Any], *, awaited: bool = False, otherwise: bool = False
) -> Any:
    """The answer, or what the error says; for a broken stream, what had arrived too.

    A stream is asked for where the sample is one, or `otherwise` where it is none.
    """
    body = (WIRE / sample["file"]).read_bytes()
    local.reply(status=sample["status"], body=body, headers={**sample["headers"], "x-request-id": "r"})
    stream = (sample["kind"] == "chat.sse") != otherwise
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


@pytest.mark.parametrize(
    ("name", "awaited"),
    [
        pytest.param(name, awaited, id=f"{name}-{'asyncio' if awaited else 'blocking'}")
        for name in sorted(BUILT_IN.keys() - ELSEWHERE)
        for awaited in (False, True)
        if awaited or name != "rest"  # which is what the others are compared with
    ],
)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["file"])
def test_alike(
    sessions: dict[str, Backend], name: str, local: LocalEndpoint, sample: dict[str, Any], *, awaited: bool
) -> None:
    """All give equal answers, or errors of one class that say the same."""
    rest = _outcome(sessions["rest"], local, sample)

    assert rest == _outcome(_session(sessions, name), local, sample, awaited=awaited)


@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() - ELSEWHERE))
@pytest.mark.parametrize(
    "sample", [row for row in SAMPLES if row["kind"].startswith("chat")], ids=lambda row: row["file"]
)
def test_whole_and_streamed_alike(
    sessions: dict[str, Backend], name: str, local: LocalEndpoint, sample: dict[str, Any]
) -> None:
    """A whole answer where a stream was asked for, collected, and a stream where none was, are the same answer."""
    backend = _session(sessions, name)
    asked, otherwise = (_outcome(backend, local, sample, otherwise=turned) for turned in (False, True))
    assert asked == otherwise
