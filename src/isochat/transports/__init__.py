"""What the `rest` backend sends with. A transport carries one POST and knows nothing of what is in it.

| module | is |
|---|---|
| `httpx2` | httpx2, which is always there |
| `pyreqwest` | reqwest, which is written in Rust; the extra `fast` brings it |

Both have a blocking class and one for asyncio. Each gives a `Reply` for a question asked whole and a `Streamed` for one
that streams, under the same names, and fails in the words that stand here, so that what went wrong is one error
whichever carried it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from isochat._config import is_this_machine
from isochat.errors import ConnectionFailed, DeadlineExceeded, MalformedReply
from isochat.transports import trust

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from isochat._wire import Reply

CONNECT: Final = 10.0  # seconds to make a connection: a host that is down is told from one that thinks
POOL: Final = 100  # connections that are kept while no question needs them


@dataclass(frozen=True, slots=True)
class Streamed:
    """A reply whose head has come and whose body is coming. `headers` have lower-case names."""

    status_code: int
    headers: Mapping[str, str]
    reads: Any  # Iterator[bytes], or AsyncIterator[bytes]


class Transport(Protocol):
    """One process's way to send."""

    def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Reply:
        """POST it and wait for all of the answer."""

    def stream(
        self, url: str, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> AbstractContextManager[Streamed]:
        """POST it and give the answer's body as it comes."""

    def close(self) -> None:
        """Close its connections."""


class AsyncTransport(Protocol):
    """One event loop's way to send."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Reply:
        """POST it and wait for all of the answer."""

    def stream(
        self, url: str, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> AbstractAsyncContextManager[Streamed]:
        """POST it and give the answer's body as it comes."""

    async def aclose(self) -> None:
        """Close its connections."""


# ── what the clients that speak HTTP are told ────────────────────────────────────────────────────────────────────


def finite(timeout: float) -> float | None:
    """A timeout as clients take it: None where there is none."""
    return timeout if timeout < threading.TIMEOUT_MAX else None


def timeouts(timeout: float) -> tuple[float | None, ...]:
    """To connect, to read, to write, to wait for the pool: a tuple, which httpx and httpx2 both understand."""
    limit = finite(timeout)
    return (min(CONNECT, timeout), limit, limit, limit)


def directly(host: str = "") -> dict[str, None]:
    """What is on this machine is reached without a proxy, whatever the environment says: `mounts` of httpx and httpx2.

    A company's proxy would otherwise be asked for the local endpoint, and refuse. `host` is the address that is asked,
    for loopback has more names than can be listed.
    """
    names = ["127.0.0.1", "localhost", "::1"]
    if is_this_machine(asked := urlsplit(host).hostname):
        names.append(str(asked))
    return dict.fromkeys(f"all://[{name}]" if ":" in name else f"all://{name}" for name in names)


def ways(library: Any, host: str) -> dict[str, Any]:
    """How a client of ours, of `library` (the module httpx or httpx2), reaches a host: what it is made with.

    Redirects stay unfollowed: a token goes to its own host only. The pool has no upper bound: how many questions are
    asked at once is the caller's to say, and one that waits for a connection uses up its own deadline.
    """
    return {
        "follow_redirects": False,
        "limits": library.Limits(max_connections=None, max_keepalive_connections=POOL),
        "mounts": directly(host),
        "verify": trust.trusted(library),
    }


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers under lower-case names."""
    return {name.lower(): value for name, value in headers.items()}


# ── how sending fails ────────────────────────────────────────────────────────────────────────────────────────────


def unconnected(detail: str = "", *, late: bool = False) -> ConnectionFailed:
    """No connection: nothing was sent. `detail` is what the transport says of it."""
    said = "no connection could be made in time" if late else "no connection could be made"
    return ConnectionFailed(_and(said, detail), sent=False)


def untrusted(detail: str) -> ConnectionFailed:
    """No connection, because the host could not prove who it is. Asking again would not help."""
    failed = unconnected(detail)
    failed.transient = False
    failed.hint = trust.HINT
    return failed


def broken(detail: str = "", *, sent: bool = True) -> ConnectionFailed:
    """The connection broke after the question had gone out on it, or some of it had."""
    return ConnectionFailed(_and("the connection broke before the answer was there", detail), sent=sent)


def late() -> DeadlineExceeded:
    """The question went out and the answer took too long."""
    return DeadlineExceeded("the service did not answer in time", sent=True)


def packed(detail: str = "") -> MalformedReply:
    """The answer came in a compression that it is not in."""
    return MalformedReply(_and("the answer could not be unpacked", detail))


def _and(said: str, detail: str) -> str:
    return f"{said}: {detail}" if detail else said
