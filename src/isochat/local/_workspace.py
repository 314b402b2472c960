"""A real workspace behind the local endpoint, while it records: each question goes there as it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from isochat.local._carry import Reply
from isochat.local._recorder import HOP, address, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = ["Workspace"]

#: What is this endpoint's business, not the workspace's; the reply is asked for uncompressed.
_MINE = HOP | {"host", "content-length", "expect", "accept-encoding", "x-isochat-fault"}
#: What is true of the body on its way from there to here only.
_SIZES = frozenset({"content-length", "content-encoding"})


class _BrokenOff(Exception):
    """The workspace's reply ended before its end. Not a ConnectionError: the client is still there."""


class Workspace:
    """A workspace that answers. Belongs to the event loop it is first used on."""

    def __init__(self, far: str, key: str | None, own_token: str) -> None:
        self.far, self.key, self._own_token = address(far), key, own_token
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """The workspace's own reply to this request; an error of ours, not to be recorded, if there is none."""
        sent = [(k, v) for k, v in headers.items() if k.lower() not in _MINE]
        if self.key is not None:
            sent = [(k, v) for k, v in sent if k.lower() != "authorization"]
            sent.append(("Authorization", f"Bearer {self.key}"))
        elif headers.get("authorization", "").rpartition(" ")[2] == self._own_token:
            words = (
                "This is the local endpoint's token, which the workspace does not know: log in as at the workspace, "
                "or give the endpoint the workspace's token (upstream_key, --upstream-key-env)."
            )
            return Reply.of_json(401, {"error_code": 401, "message": words}, record=False)
        if self._session is None:
            self._session = session(self.far, unpack=True)
        try:
            reply = await self._session.request(
                method,
                URL(self.far + path, encoded=True),
                headers=[*sent, ("Accept-Encoding", "identity")],
                data=body or None,
                skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as why:
            return _no_reply(f"{type(why).__name__}: {why}")
        kept = {k.lower(): v for k, v in reply.headers.items() if k.lower() not in HOP | _SIZES}
        if reply.content_type == "text/event-stream":
            return Reply(reply.status, kept, events=_events(reply))
        async with reply:
            try:
                return Reply(reply.status, kept, await reply.read())
            except (aiohttp.ClientError, OSError, TimeoutError) as why:
                return _no_reply(f"it broke off: {type(why).__name__}: {why}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


async def _events(reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with reply:
        try:
            async for piece in reply.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError, TimeoutError) as why:
            raise _BrokenOff from why


def _no_reply(why: str) -> Reply:
    body: dict[str, Any] = {"error_code": "TEMPORARILY_UNAVAILABLE", "message": f"No reply from the workspace: {why}"}
    return Reply.of_json(502, body, record=False)
