"""The server: which request is what, and who answers it.

One aiohttp server without a router: the paths are few, and an endpoint's name has to be decoded exactly once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from isochat.local import _surfaces as surfaces
from isochat.local._answer import pieces
from isochat.local._carry import Reply, carry, event
from isochat.local._chunks import Chunks
from isochat.local._dress import Dress
from isochat.local._echo import echo
from isochat.local._faults import Fault, Verbatim, error_body
from isochat.local._question import Question
from isochat.local._received import Headers, Received, without_secret
from isochat.local._responses import Asked, Told, read
from isochat.local._rules import Refusal, refusal
from isochat.local._script import said
from isochat.local._sql import Warehouse, is_statement
from isochat.local._upstream import Upstream, UpstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from isochat.local._answer import Answer, Piece
    from isochat.local._families import Endpoint
    from isochat.local._script import Script
    from isochat.local._sign_in import SignIn
    from isochat.local._tape import Take, Tape

__all__ = ["Service"]

_T = TypeVar("_T")

log = logging.getLogger("isochat.local")

MIB = 1024 * 1024
#: D "Model Serving limits and regions": 4 MB for foundation and external models, 16 MB for custom ones.
LARGEST = {"hosted": 4 * MIB, "external": 4 * MIB, "agent": 16 * MIB}
#: Seconds for a request's body to arrive.
SLOWEST = 60.0
_CONTROL = frozenset({"/.isochat", "/.well-known/isochat-local.json"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(slots=True)
class Service:
    """Everything one local endpoint serves, independent of where it listens."""

    endpoints: Mapping[str, Endpoint]
    sign_in: SignIn
    #: Asked once for each chat question: what was ordered for it.
    next_order: Callable[[], Fault | Verbatim | None]
    received: list[Received]
    script: Script | None = None
    upstream: Upstream | None = None
    #: Asked before anything else answers, and told what was answered.
    tape: Tape | None = None
    #: Host names it answers to besides loopback's; None for any.
    hosts: frozenset[str] | None = frozenset()
    #: How many requests `received` remembers; None for all.
    remembers: int | None = None
    #: The SQL statements there are.
    warehouse: Warehouse = field(default_factory=Warehouse)
    #: The `created` of every reply.
    created: int = field(default_factory=lambda: int(time.time()))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            path = request.raw_path.partition("?")[0]
            segments = [unquote(s) for s in path.split("/")[1:]]
            named = _chat_name(request.method, segments)
            refused = None if _is_open(path) else self._refused(request.headers.get("Authorization"))
            # A stranger could otherwise fill the memory with what is remembered of each request.
            body = await _read(request, LARGEST["agent"] if refused is None and not _is_open(path) else MIB)
            if path not in _CONTROL:
                kept = b"" if body is None else body
                self.received.append(
                    Received(
                        request.method,
                        path,
                        dict(parse_qsl(request.query_string)),
                        Headers(list(request.headers.items())),
                        without_secret(kept) if path == "/oidc/v1/token" else kept,
                        refused is None,
                        time.monotonic(),
                        named is not None,
                    )
                )
                if self.remembers is not None:
                    del self.received[: -self.remembers]
            if not self._host_is_mine(request.headers.get("Host", "")):
                return await self._send(
                    request, _error(403, "PERMISSION_DENIED", "The Host header names another host.")
                )
            if refused is not None:
                return await self._send(request, _json(*refused))
            take = None if self.tape is None else self.tape.begin(request.method, path, request.headers, body)
            if is_statement(segments):
                reply, fault = await self._sql(request, segments, body, take)
            elif named is None:
                reply, fault = self._other(request, path, segments, body), None
            else:
                reply, fault = await self._chat(request, body, named, take)
            if self.tape is not None and take is not None:
                await self.tape.keep(take, reply, fault)
            return await self._send(request, reply, fault)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except _TooSlow:
            said = await self._send(request, _error(408, "BAD_REQUEST", f"No whole request came within {SLOWEST:g} s."))
            said.force_close()
            return said
        except Exception as why:
            log.exception("the local endpoint failed at %s %s", request.method, request.path)
            if request.writer.output_size and request.transport is not None:  # too late for a status
                request.transport.close()
                return web.Response(status=500)
            return await self._send(request, _error(500, "INTERNAL_ERROR", f"The local endpoint failed: {why!r}"))

    async def close(self) -> None:
        """Close the connections to what is behind it."""
        for behind in (self.upstream, self.tape):
            if behind is not None:
                await behind.close()

    def _refused(self, authorization: str | None) -> tuple[int, dict[str, Any]] | None:
        """Who may not ask; where a workspace answers clients with logins of their own, it judges them."""
        if authorization and self.tape is not None and self.tape.passes_logins:
            return None
        return self.sign_in.refusal(authorization)

    def _host_is_mine(self, host: str) -> bool:
        """Loopback by name, so that no web page can reach the endpoint through a name of its own (DNS rebinding)."""
        name = (host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]).lower()
        return self.hosts is None or name in _LOOPBACK or name.endswith(".localhost") or name in self.hosts

    async def _send(self, request: web.BaseRequest, reply: Reply, fault: Fault | None = None) -> web.StreamResponse:
        number = str(uuid.uuid4())
        defaults = {
            "server": "databricks",
            "x-request-id": number,
            "x-databricks-org-id": surfaces.WORKSPACE,
            "server-timing": f'request_id;dur=0;desc="{number}"',
        }
        reply.headers = {**defaults, **reply.headers}
        return await carry(request, reply, fault)

    # --- everything but chat ---------------------------------------------------------------------------------------

    def _other(self, request: web.BaseRequest, path: str, segments: list[str], body: bytes | None) -> Reply:
        base = f"{request.scheme}://{request.headers.get('Host', '')}"
        match request.method, *segments:
            case "GET", ".isochat":
                return _json(200, surfaces.statement(self.endpoints))
            case "GET", ".well-known", "isochat-local.json":
                return _json(200, surfaces.statement(self.endpoints))
            case "GET", ".well-known", "databricks-config":
                return _json(200, surfaces.config(base))
            case "GET", "oidc", ".well-known", "oauth-authorization-server" | "openid-configuration":
                return _json(200, surfaces.discovery(base))
            case "POST", "oidc", "v1", "token":
                return _json(*self.sign_in.issue(request.headers.get("Authorization"), body or b""))
            case "GET", "api", "2.0", "serving-endpoints":
                return _json(200, surfaces.listed(self.endpoints))
            case "GET", "api", "2.0", "serving-endpoints", name if name in self.endpoints:
                return _json(200, surfaces.described(self.endpoints[name]))
            case "GET", "api", "2.0", "serving-endpoints", name:
                return _no_endpoint(name)
            case "GET", "api", "2.0", "preview", "scim", "v2", "Me":
                return _json(200, surfaces.me())
        emulated = "; ".join(f"{m} {p}" for m, p, _ in surfaces.EMULATED)
        for prefix, what in surfaces.NOT_EMULATED:
            if path == prefix or path.startswith(prefix + "/"):
                words = (
                    f"The local endpoint does not emulate {what} ({request.method} {path}). It emulates: {emulated}."
                )
                # The OpenAI clients would try a 501 three times; this header tells them not to.
                return _error(501, "NOT_IMPLEMENTED", words, {"x-should-retry": "false"})
        return _error(
            404,
            "ENDPOINT_NOT_FOUND",
            f"No API found for '{request.method} {path}'. The local endpoint emulates: {emulated}.",
        )

    async def _sql(
        self, request: web.BaseRequest, segments: list[str], body: bytes | None, take: Take | None
    ) -> tuple[Reply, Fault | None]:
        """A SQL statement; what is ordered for the next chat question happens to the model that it asks."""
        order = self._ordered(request) if "X-Isochat-Fault" in request.headers else None
        if isinstance(order, Reply):
            return order, None
        if isinstance(order, Fault) and order.answers:
            return _ordered_answer(order), order
        reply = await self._taped(take)
        if reply is None:
            reply = _json(*await self.warehouse.answer(self, request.method, segments, body))
        return reply, order if isinstance(order, Fault) else None

    async def _taped(self, take: Take | None) -> Reply | None:
        """What a recording answers, or the workspace that is being recorded; None if neither does."""
        return None if self.tape is None or take is None else await self.tape.reply(take)

    # --- chat ------------------------------------------------------------------------------------------------------

    async def _chat(
        self, request: web.BaseRequest, raw: bytes | None, name: str, take: Take | None
    ) -> tuple[Reply, Fault | None]:
        order = self._ordered(request)
        if isinstance(order, Reply):
            return order, None
        if isinstance(order, Verbatim):
            return _verbatim(order), None
        if order is not None and order.answers:
            return _ordered_answer(order), order
        reply = await self._taped(take)
        if reply is not None:
            return reply, order
        path = request.raw_path.partition("?")[0]
        reply, fault = await self._answered(
            raw, name, invocations=path.endswith("/invocations"), responses=path.endswith("/responses")
        )
        return reply, order or fault

    def _ordered(self, request: web.BaseRequest) -> Fault | Verbatim | Reply | None:
        spec = request.headers.get("X-Isochat-Fault")
        if spec is None:
            return self.next_order()
        try:
            return Fault.parse(spec)
        except (ValueError, TypeError) as why:
            return _error(400, "BAD_REQUEST", f"X-Isochat-Fault: {why}")

    async def _answered(
        self, raw: bytes | None, name: str, *, invocations: bool, responses: bool = False
    ) -> tuple[Reply, Fault | None]:
        try:
            body = None if raw is None else json.loads(raw, parse_constant=_no_constant)
        except ValueError as why:
            return _error(400, "BAD_REQUEST", f"BAD_REQUEST: Unable to parse json body for request: {why}"), None
        if not name and raw is not None:
            if not isinstance(body, dict) or not isinstance(body.get("model"), str):
                return _error(400, "BAD_REQUEST", "BAD_REQUEST: Missing required field 'model'."), None
            name = body["model"]
        endpoint = self.endpoints.get(name)
        if raw is None or len(raw) > LARGEST["hosted" if endpoint is None else endpoint.family.kind]:
            limit = LARGEST["agent" if endpoint is None else endpoint.family.kind] // MIB
            return _error(413, "BAD_REQUEST", f"The request is larger than {limit} MiB."), None
        if endpoint is None:
            return _no_endpoint(name), None
        asked = read(body, endpoint) if responses else None
        no = asked if isinstance(asked, Refusal) else None
        if asked is None:
            no = refusal(body, endpoint, invocations=invocations)
        if no is not None:
            if isinstance(no.body, str):
                return Reply(no.status, {"content-type": "text/plain; charset=utf-8"}, no.body.encode()), None
            return _json(no.status, no.body), None
        assert isinstance(body, dict)  # or it had been refused
        return await self._model(asked if isinstance(asked, Asked) else Question.of(body, endpoint))

    async def _model(self, question: Question) -> tuple[Reply, Fault | None]:
        rule = self.script.rule_for(question) if self.script is not None else None
        if self.script is not None and rule is None and self.script.strict:
            words = (
                f"No rule of the script fits turn {question.turn} of {question.endpoint.name!r}: the user said "
                f"{question.user_text[:200]!r}, and the last tool result is {question.tool_result!r}."
            )
            return _error(400, "BAD_REQUEST", words), None
        fault = rule.fault if rule is not None else None
        if fault is not None and fault.answers:
            return _ordered_answer(fault), fault
        try:
            if rule is not None and rule.reply is not None:
                return self._dressed(question, said(question, rule.reply)), fault
            if self.upstream is not None:
                return await self._from_upstream(self.upstream, question), fault
            return self._dressed(question, echo(question)), fault
        except UpstreamError as no:
            headers = {"retry-after": no.retry_after} if no.retry_after else {}
            return _json(no.status, no.body(), headers), fault
        except ValueError as why:  # a schema nothing satisfies
            return _error(400, "BAD_REQUEST", f"BAD_REQUEST: Invalid JSON schema - {why}"), fault

    def _dressed(self, question: Question, answer: Answer) -> Reply:
        if question.streams:
            return _streamed(self._events(question, _each(pieces(answer))))
        if isinstance(question, Asked):
            return _json(200, Told(question, self.created).whole(answer))
        dress = Dress(question, self.created)
        reply = _json(200, dress.whole(answer))
        if question.endpoint.family.has("bedrock-ids"):
            # Recorded on whole replies only (posit-dev/chatlas tests/_vcr/test_provider_databricks).
            reply.headers |= {
                "x-amzn-requestid": str(uuid.UUID(question.digits("amzn", 32))),
                "x-amzn-bedrock-input-token-count": str(answer.usage.prompt),
                "x-amzn-bedrock-output-token-count": str(answer.usage.completion),
            }
        return reply

    async def _from_upstream(self, upstream: Upstream, question: Question) -> Reply:
        if question.streams:
            found, left = await upstream.stream(question)
            reply = _streamed(self._events(question, found))
        else:
            answer, left = await upstream.ask(question)
            reply = self._dressed(question, answer)
        if left:
            reply.headers["x-isochat-not-forwarded"] = ", ".join(left)
        return reply

    def _events(self, question: Question, found: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        if isinstance(question, Asked):
            return _told(Told(question, self.created), found)
        return _sse(Dress(question, self.created), found)


class _TooSlow(Exception):
    """A body did not arrive in time."""


async def _read(request: web.BaseRequest, most: int) -> bytes | None:
    """The request's body, or None for one that is larger than that."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts, size = [], 0
    try:
        async with asyncio.timeout(SLOWEST):
            async for part in request.content.iter_any():
                size += len(part)
                if size > most:
                    return None
                parts.append(part)
    except TimeoutError:
        raise _TooSlow from None
    except web.RequestPayloadError:  # it would unpack to more than aiohttp takes, or not at all
        return None
    return b"".join(parts)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _chat_name(method: str, segments: list[str]) -> str | None:
    """The endpoint a chat path names, "" where the body names it, None for any other path."""
    match method, *segments:
        case ("POST", "serving-endpoints", "chat", "completions") | ("POST", "serving-endpoints", "responses"):
            return ""
        case "POST", "serving-endpoints", name, "invocations" if name:
            return name
        case "POST", "serving-endpoints", name, "served-models", _, "invocations" if name:
            return name
    return None


def _is_open(path: str) -> bool:
    return path in _CONTROL or path == "/.well-known/databricks-config" or path.startswith("/oidc/")


_json = Reply.of_json


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Reply:
    return _json(status, {"error_code": code, "message": message}, headers)


def _no_endpoint(name: str) -> Reply:
    """A Unity Catalog name means another surface; any other name is simply not there."""
    if name.count(".") > 1:
        return _error(
            404,
            "ENDPOINT_NOT_FOUND",
            f"The given endpoint does not exist: {name}. It looks like a Unity Catalog "
            "name, which the serving path does not know.",
        )
    details = [
        {"@type": "type.googleapis.com/google.rpc.RequestInfo", "request_id": str(uuid.uuid4()), "serving_data": ""}
    ]
    return _json(
        404,
        {
            "error_code": "RESOURCE_DOES_NOT_EXIST",
            "message": f"Endpoint with name '{name}' does not exist.",
            "details": details,
        },
    )


def _ordered_answer(fault: Fault) -> Reply:
    status, body, kind = error_body(fault)
    return Reply(status, {"content-type": kind}, body)


def _verbatim(order: Verbatim) -> Reply:
    if order.chunks is None:
        return Reply(order.status, dict(order.headers), order.body)
    return Reply(order.status, dict(order.headers), events=_each(order.chunks), pause=order.pause)


def _streamed(events: AsyncIterator[bytes]) -> Reply:
    return Reply(200, {"content-type": "text/event-stream"}, events=events)


async def _each(items: Iterable[_T]) -> AsyncIterator[_T]:
    for item in items:
        yield item


async def _sse(dress: Dress, found: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
    """The events of a stream, and its end; an upstream that breaks off says so in an event of its own."""
    chunks = Chunks(dress)
    for chunk in chunks.open():
        yield event(chunk)
    try:
        async for piece in found:
            for chunk in chunks.feed(piece):
                yield event(chunk)
    except UpstreamError as why:
        yield event(why.body())
        return
    if chunks.says_done:
        yield event("[DONE]")


async def _told(told: Told, found: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
    """The events of a Responses stream; each is named as in its `type`."""
    for fact in told.open():
        yield _named(fact)
    try:
        async for piece in found:
            for fact in told.feed(piece):
                yield _named(fact)
    except UpstreamError as why:
        yield event(why.body())


def _named(fact: dict[str, Any]) -> bytes:
    # Recorded of OpenAI and Azure, whose events Databricks passes on; an agent's have no sequence and no names.
    name = f"event: {fact['type']}\n".encode() if "sequence_number" in fact else b""
    return name + event(fact)
