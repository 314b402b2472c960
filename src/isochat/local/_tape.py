"""What stands in front of whatever answers, and replays or records it: a cassette at work."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isochat.local._carry import Reply
from isochat.local._recording import Asked, Recording, cleaned, route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from isochat.local._cassette import Cassette
    from isochat.local._faults import Fault
    from isochat.local._workspace import Workspace

__all__ = ["Take", "Tape"]

_DONE = re.compile(rb"(^|\n)data: ?\[DONE\]\s*$")
_TAIL = 32  # bytes that hold the end of a stream, however it is cut


@dataclass(slots=True)
class Take:
    """One request that a recording answers, or that is to be recorded."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    asked: Asked
    began: float
    number: int | None = None


class Tape:
    """A cassette in front of a workspace, or of the local endpoint's own answers.

    `pace` times the seconds that were recorded are waited when replaying.
    """

    def __init__(self, cassette: Cassette, workspace: Workspace | None = None, pace: float = 0.0) -> None:
        self.cassette, self.workspace, self.pace = cassette, workspace, pace

    @property
    def passes_logins(self) -> bool:
        """Whether a client logs in at the workspace, with a login of its own."""
        return self.workspace is not None and self.workspace.key is None

    def begin(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Take | None:
        """A request that just came, or None for one that no recording is about."""
        if body is None or route(method, path) is None:
            return None
        clean = self.cassette.clean
        clean.scrubber.learn(headers.items())
        clean = clean.knowing(headers.items())
        asked = Asked.of(method, clean.text(path), cleaned(clean, body))
        return None if asked is None else Take(method, path, headers, body, asked, time.perf_counter())

    async def reply(self, take: Take) -> Reply | None:
        """What answers it from here; None if the local endpoint is to answer."""
        if self.cassette.replays and (found := self.cassette.next(take.asked)) is not None:
            if found.events is None and self.pace:
                await asyncio.sleep(found.after * self.pace)
            return self._played(found, take.began)
        if not self.cassette.records:
            said = await asyncio.to_thread(self.cassette.refuse, take.method, take.path, take.asked)
            error = {"error_code": "RECORDING_NOT_FOUND", "message": said.message}
            return Reply.of_json(404, error, record=False)
        take.number = self.cassette.number()
        return (
            None
            if self.workspace is None
            else await self.workspace.ask(take.method, take.path, take.headers, take.body)
        )

    def _played(self, found: Recording, began: float) -> Reply:
        headers = {"content-type": "application/json", **found.headers}
        if found.events is None:
            return Reply(found.status, headers, found.content(), record=False)
        return Reply(found.status, headers, events=_paced(found.events, began, self.pace), record=False)

    async def keep(self, take: Take, reply: Reply, fault: Fault | None) -> None:
        """Record a reply that is about to go out; a stream, when its end has come.

        What breaks a connection is no reply, and is not recorded.
        """
        if not (self.cassette.records and reply.record) or (fault is not None and fault.breaks):
            return
        if take.number is None:
            take.number = self.cassette.number()
        headers = dict(reply.headers)
        if fault is not None:
            headers |= fault.heading
        if reply.events is None:
            await self._write(take, reply.status, headers, reply.body)
        else:
            reply.events = self._heard(take, reply.status, headers, reply.events)

    async def _heard(
        self, take: Take, status: int, headers: dict[str, str], events: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """The events as they go by; at the end they are recorded. A stream that breaks off, or is left, is not."""
        heard: list[tuple[float, bytes]] = []
        tail, over = b"", False
        async for part in events:
            heard.append((time.perf_counter() - take.began, part))
            tail = (tail + part)[-_TAIL:]
            if not over and _DONE.search(tail):  # many a client leaves here, and does not wait for the end
                over = True
                await self._write(take, status, headers, heard)
            yield part
        if not over:
            await self._write(take, status, headers, heard)

    async def _write(
        self, take: Take, status: int, headers: dict[str, str], reply: bytes | list[tuple[float, bytes]]
    ) -> None:
        after = time.perf_counter() - take.began if isinstance(reply, bytes) else reply[0][0] if reply else 0.0
        request = (take.method, take.path, take.headers, take.body)

        def write() -> None:
            assert take.number is not None
            made = Recording.made(self.cassette.clean, request, status, headers, after, reply)
            self.cassette.keep(take.number, made)

        await asyncio.to_thread(write)

    async def close(self) -> None:
        """Close the connections to the workspace."""
        if self.workspace is not None:
            await self.workspace.close()


async def _paced(events: tuple[tuple[float, bytes], ...], began: float, pace: float) -> AsyncIterator[bytes]:
    for at, data in events:
        await asyncio.sleep(max(0.0, began + at * pace - time.perf_counter()) if pace else 0)
        yield data
