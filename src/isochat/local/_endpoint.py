"""Databricks Model Serving on your machine: start it, ask it with any client, look at what arrived, stop it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ipaddress
import logging
import os
import signal
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from isochat.local._cassette import Cassette, is_workspace
from isochat.local._families import FAMILIES, Endpoint, endpoints
from isochat.local._faults import Body, Fault, Verbatim, body_bytes, typed
from isochat.local._recorder import address
from isochat.local._running import Running
from isochat.local._script import Script
from isochat.local._sign_in import SignIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from isochat.local._cassette import RecordMode, Unmatched
    from isochat.local._received import Received
    from isochat.local._server import Service

__all__ = ["LocalEndpoint", "serve", "shared"]

log = logging.getLogger("isochat.local")

#: How many requests an endpoint remembers that may run for ever.
REMEMBERED = 1000

_ANY_HOST = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - only to recognise what the user said


class LocalEndpoint:
    """A local Databricks Model Serving: a real HTTP server that unmodified clients talk to.

    ```python
    with LocalEndpoint() as local:
        client = OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token)
    ```

    `script` is a YAML script (path, text or data), `upstream` the base URL of an OpenAI-compatible server to answer in
    place of the echo, `models` further endpoints (`{"my-endpoint": "claude"}`), `families` the families whose built-in
    endpoints to serve (all if not said), `faults` what shall go wrong first. It listens on loopback unless told
    otherwise and demands its token.

    `cassette` is a directory of recorded exchanges, and `record_mode` says what becomes of it: `"none"` (if not said)
    replays it and answers nothing else, `"once"` replays it if there is anything in it and records otherwise,
    `"new_episodes"` replays what is there and records what is not, `"all"` records everything anew. What is recorded is
    what answers: a workspace, if `upstream` is the address of one (`https://…`, without a path), or else this endpoint.
    `pace` times the seconds that an answer took are waited when it is replayed.

    Raises ValueError for a script, upstream, model, fault or recording that makes no sense, and OSError when the port
    is taken.
    """

    def __init__(  # noqa: PLR0917 - may be given in this order, and are as good by name
        self,
        script: str | Path | Mapping[str, Any] | list[Any] | Script | None = None,
        upstream: str | None = None,
        upstream_key: str | None = None,
        models: Mapping[str, str | Mapping[str, Any]] | None = None,
        token: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: str | Sequence[Fault | Mapping[str, Any] | str | int] | Fault | Mapping[str, Any] = (),
        *,
        families: Iterable[str] | None = None,
        cassette: str | os.PathLike[str] | None = None,
        record_mode: RecordMode | None = None,
        pace: float = 0.0,
    ) -> None:
        self._script = script if script is None or isinstance(script, Script) else Script.read(script)
        if upstream is not None:
            _check_upstream(upstream)
        self._upstream, self._upstream_key = upstream, upstream_key
        self._cassette = _inserted(cassette, record_mode, pace, upstream, answers=script is not None)
        self._pace = pace
        if token is not None and self.passes_logins:
            msg = "token: clients log in at the workspace that is recorded, unless upstream_key logs in for them"
            raise ValueError(msg)
        self._endpoints = _served(models, families)
        self._sign_in = SignIn(token)
        self._bind, self._port = host, port
        #: Every request but those to `/.isochat`, in order of arrival.
        self.received: list[Received] = []
        self._orders: deque[tuple[Fault | Verbatim, int | None]] = deque()
        self._lock = threading.Lock()
        self._running: Running | None = None
        self._address = ""
        #: For those that run for long: see `shared` and `serve`.
        self._remembers: int | None = None
        self.order(*Fault.parse_all(faults))

    # --- being there -----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start listening; returns at once when already started. It starts in its own thread."""
        if self._running is None:
            running = Running(self._service, self._bind, self._port)
            running.start()
            self._running, self._address = running, _url(self._bind, running.port)
            if not _is_loopback(self._bind):
                log.warning("%r listens on %r: whoever reaches this machine reaches it too", self, self._bind)
        return self

    def stop(self) -> None:
        """Stop listening and close every connection; nothing is left behind."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, what: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, what: BaseException | None, where: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def __repr__(self) -> str:
        return f"<LocalEndpoint {self._address if self._running else 'not started'}>"

    def _service(self) -> Service:
        from isochat.local._server import Service
        from isochat.local._tape import Tape
        from isochat.local._upstream import Upstream
        from isochat.local._workspace import Workspace

        hosts = None if self._bind in _ANY_HOST else frozenset({self._bind.lower(), f"[{self._bind.lower()}]"})
        upstream = workspace = tape = None
        if self._upstream is not None and self._cassette is not None and is_workspace(self._upstream):
            if self._cassette.records:
                workspace = Workspace(self._upstream, self._upstream_key, self.token)
        elif self._upstream is not None:
            upstream = Upstream(self._upstream, self._upstream_key)
        if self._cassette is not None:
            self._cassette.clean.secrets(self.token, self.client_secret, self._upstream_key)
            tape = Tape(self._cassette, workspace, self._pace)
        return Service(
            self._endpoints,
            self._sign_in,
            self._next_order,
            self.received,
            self._script,
            upstream,
            tape,
            hosts,
            self._remembers,
        )

    # --- where it is and who may ask -------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._running is not None

    @property
    def host(self) -> str:
        """Its base URL, such as `http://127.0.0.1:43211`. Raises RuntimeError before it is started."""
        if self._running is None:
            msg = "the local endpoint is not started: use `with LocalEndpoint() as local:` or `start()`"
            raise RuntimeError(msg)
        return self._address

    @property
    def token(self) -> str:
        """The token it demands as `Authorization: Bearer …`."""
        return self._sign_in.token

    @property
    def passes_logins(self) -> bool:
        """Whether it asks for no token of its own: a workspace is recorded, and clients log in as they do there."""
        workspace = self._upstream is not None and is_workspace(self._upstream) and self._upstream_key is None
        return workspace and self._cassette is not None and self._cassette.records

    @property
    def client_id(self) -> str:
        """For OAuth machine-to-machine, with `client_secret`."""
        return self._sign_in.client_id

    @property
    def client_secret(self) -> str:
        """For OAuth machine-to-machine, with `client_id`."""
        return self._sign_in.client_secret

    @property
    def token_lifetime(self) -> float:
        """Seconds that a token handed out by `/oidc/v1/token` is good for; may be set."""
        return self._sign_in.lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: float) -> None:
        self._sign_in.lifetime = seconds

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """The serving endpoints there are, by name."""
        return self._endpoints

    # --- what happened and what shall ------------------------------------------------------------------------------

    @property
    def questions(self) -> list[Received]:
        """Those of `received` that were chat questions."""
        return [r for r in self.received if r.question]

    @property
    def recorded(self) -> list[Path]:
        """The files that were written into the cassette, in the order in which they were."""
        return [] if self._cassette is None else list(self._cassette.recorded)

    @property
    def unmatched(self) -> list[Unmatched]:
        """The requests that no recording answered: what the client was told of each, and how it differs, whole."""
        return [] if self._cassette is None else list(self._cassette.unmatched)

    @property
    def open_connections(self) -> int:
        """How many TCP connections are open now."""
        return 0 if self._running is None else self._running.open_connections

    def order(self, *faults: Fault | Mapping[str, Any] | str | int) -> None:
        """Have the next chat questions go wrong, one fault after the other. A number is a status."""
        parsed = [Fault.parse(fault) for fault in faults]
        with self._lock:
            self._orders.extend((f, f.times) for f in parsed)

    def reply(
        self,
        status: int = 200,
        body: Body = b"",
        headers: Mapping[str, str] | None = None,
        chunks: Sequence[bytes] | None = None,
        pause: float = 0.0,
    ) -> None:
        """Give the next chat question exactly these bytes.

        `chunks` makes a streamed body of them, each sent with one write and `pause` seconds after it. The content type
        is guessed unless `headers` name one. Raises ValueError for what is of the wrong type.
        """
        for name, value in (("headers", headers), ("chunks", chunks)):
            if value is not None:
                typed("reply", name, value)
        content, kind = body_bytes(body)
        if chunks is not None:
            kind = "text/event-stream"
        named = {k.lower(): v for k, v in (headers or {}).items()}
        order = Verbatim(
            status, {"content-type": kind, **named}, content, None if chunks is None else tuple(chunks), pause
        )
        with self._lock:
            self._orders.append((order, 1))

    def reset(self) -> None:
        """Forget what was received, ordered and not matched, and which rules and recordings were used."""
        with self._lock:
            self._orders.clear()
        self.received.clear()
        if self._script is not None:
            self._script.reset()
        if self._cassette is not None:
            self._cassette.rewind()

    def _next_order(self) -> Fault | Verbatim | None:
        with self._lock:
            if not self._orders:
                return None
            order, times = self._orders[0]
            if times is not None:
                if times > 1:
                    self._orders[0] = (order, times - 1)
                else:
                    self._orders.popleft()
            return order


def _served(
    models: Mapping[str, str | Mapping[str, Any]] | None, families: Iterable[str] | None
) -> dict[str, Endpoint]:
    wanted = set(FAMILIES) if families is None else set(families)
    if unknown := wanted - set(FAMILIES):
        msg = f"families: there is no {min(unknown)!r}; there are {', '.join(FAMILIES)}"
        raise ValueError(msg)
    return {n: e for n, e in endpoints(models).items() if n in (models or {}) or e.family.name in wanted}


def _check_upstream(upstream: object) -> None:
    """Refuse what is no address, and would fail with each question as if the server were away. Raises ValueError."""
    with contextlib.suppress(ValueError):  # of urlsplit, and of a port that is none
        url = urlsplit(upstream) if isinstance(upstream, str) else None
        if url is not None and url.scheme in {"http", "https"} and url.hostname and url.port != 0:
            return
    shown = upstream.rpartition("@")[2] if isinstance(upstream, str) else upstream  # a password stands before an "@"
    msg = f"upstream: expected the address of a server, http://… or https://…, got {shown!r}"
    raise ValueError(msg)


def _inserted(
    folder: str | os.PathLike[str] | None, mode: str | None, pace: float, upstream: str | None, *, answers: bool
) -> Cassette | None:
    """The cassette, or None for none; what contradicts it is refused."""
    if not 0 <= pace < float("inf"):
        msg = f"pace: expected 0 for no wait, 1 for as long as it took, or another factor, not {pace!r}"
        raise ValueError(msg)
    if folder is None:
        if mode is not None or pace:
            msg = f"{'pace' if mode is None else 'record_mode'} is about a cassette, and none is given"
            raise ValueError(msg)
        return None
    cassette = Cassette(folder, "none" if mode is None else mode)
    if cassette.mode == "none" and (answers or upstream is not None):
        what = "script" if answers else "upstream"
        msg = f"{what}: with record_mode 'none' the cassette answers, and nothing else is asked"
        raise ValueError(msg)
    if upstream is not None and is_workspace(upstream):
        if answers:
            msg = "script: a workspace that is recorded answers everything itself (its address has no path)"
            raise ValueError(msg)
        cassette.clean.learn_host(address(upstream))
    return cassette


def _is_loopback(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost" or bind.endswith(".localhost")


def _url(bind: str, port: int) -> str:
    name = "127.0.0.1" if bind in _ANY_HOST else bind
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


# --- the one that everybody shares ------------------------------------------------------------------------------------

_shared: LocalEndpoint | None = None
_shared_lock = threading.Lock()
#: Endpoints a forked child inherited: kept, since collecting their loop would close what the parent still uses.
_inherited: list[LocalEndpoint] = []


def shared() -> LocalEndpoint:
    """The process-wide embedded endpoint: started on first use, stopped when the process ends.

    Its `received` remembers the last thousand requests.
    """
    global _shared  # noqa: PLW0603 - one per process is what it is for
    with _shared_lock:
        if _shared is None:
            local = LocalEndpoint()
            local._remembers = REMEMBERED  # noqa: SLF001 - same module
            _shared = local.start()
            atexit.register(_stop_shared)
        return _shared


def _stop_shared() -> None:
    global _shared
    with _shared_lock:
        here, _shared = _shared, None
    if here is not None:
        here.stop()


def _after_fork() -> None:
    """A child starts its own when it needs one: threads do not survive a fork."""
    global _shared, _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()
    if _shared is not None:
        _inherited.append(_shared)
        if _shared._running is not None:  # noqa: SLF001 - same module
            _shared._running.stop()  # noqa: SLF001
        _shared = None
        atexit.unregister(_stop_shared)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def serve(  # noqa: PLR0917 - as LocalEndpoint
    host: str = "127.0.0.1",
    port: int = 8377,
    script: str | Path | Mapping[str, Any] | list[Any] | None = None,
    upstream: str | None = None,
    upstream_key: str | None = None,
    families: Iterable[str] | None = None,
    models: Mapping[str, str | Mapping[str, Any]] | None = None,
    faults: str | Sequence[Fault | Mapping[str, Any] | str | int] | Fault | Mapping[str, Any] = (),
    token: str | None = None,
    ready: Callable[[LocalEndpoint], None] | None = None,
    *,
    cassette: str | os.PathLike[str] | None = None,
    record_mode: RecordMode | None = None,
    pace: float = 0.0,
) -> None:
    """Serve in the foreground until Ctrl-C, SIGTERM, or somebody stops the endpoint; then end quietly.

    `ready` is called once it listens, with the endpoint. Raises what LocalEndpoint raises.
    """
    over = threading.Event()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, lambda *_: over.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        local = LocalEndpoint(
            script,
            upstream,
            upstream_key,
            models,
            token,
            host,
            port,
            faults,
            families=families,
            cassette=cassette,
            record_mode=record_mode,
            pace=pace,
        )
        local._remembers = REMEMBERED  # noqa: SLF001 - same module
        with local:
            if ready is not None:
                ready(local)
            while local.running and not over.wait(0.2):  # with a timeout, so that Windows hears Ctrl-C
                pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
