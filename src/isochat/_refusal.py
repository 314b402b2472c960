"""An answer that is no: any of the service's error bodies, as one kind of error.

The service's bodies come in ten shapes (Databricks' own, the same with JSON inside its message, a model provider's or a
guardrail's words inside that, OpenAI's, a rate limiter's, a number for a code, no code, plain text, a web page,
nothing). A model or an agent behind it answers in those of its framework. Pure: the same status, headers and body give
the same error through every backend.
"""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF8
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from html import unescape
from typing import TYPE_CHECKING, Any

import msgspec

from isochat import _sse
from isochat._history import PLACEHOLDER
from isochat.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    EndpointNotFound,
    PermissionDenied,
    RateLimited,
    RequestRefused,
    ServiceError,
    ServiceUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What a code means when no HTTP status comes with it: inside a stream, or under a 200.
# databricks-sdk-py, databricks/sdk/errors/platform.py, has the service's codes; the rest are OpenAI's and Google's.
_STATUS_OF_CODE = {
    "BAD_REQUEST": 400,
    "INVALID_ARGUMENT": 400,
    "INVALID_PARAMETER_VALUE": 400,
    "INVALID_REQUEST": 400,
    "MALFORMED_REQUEST": 400,
    "INVALID_REQUEST_ERROR": 400,
    "CONTEXT_LENGTH_EXCEEDED": 400,
    "CONTENT_FILTER": 400,
    "UNAUTHENTICATED": 401,
    "AUTHENTICATION_ERROR": 401,
    "INVALID_API_KEY": 401,
    "PERMISSION_DENIED": 403,
    "PERMISSION_ERROR": 403,
    "ENDPOINT_NOT_FOUND": 404,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "NOT_FOUND": 404,
    "NOT_FOUND_ERROR": 404,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "RESOURCE_EXHAUSTED": 429,
    "RATE_LIMIT_EXCEEDED": 429,
    "RATE_LIMIT_ERROR": 429,
    "INTERNAL_ERROR": 500,
    "INTERNAL_SERVER_ERROR": 500,
    "SERVER_ERROR": 500,
    "API_ERROR": 500,
    "NOT_IMPLEMENTED": 501,
    "TEMPORARILY_UNAVAILABLE": 503,
    "SERVICE_UNAVAILABLE": 503,
    "OVERLOADED_ERROR": 503,
    "DEADLINE_EXCEEDED": 504,
}

_TOO_LONG = re.compile(
    r"context_length_exceeded|context (length|window)|maximum context|prompt is too long|input is too long"
    r"|exceeds? the (model's )?maximum (input|sequence|prompt)|too many (input )?tokens|input length and `?max_tokens",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content_?filter|content management policy|guardrail_triggered|ResponsibleAIPolicyViolation", re.IGNORECASE
)
_BAD_TOKEN = re.compile(r"invalid access token|credential was not sent|token (is|has) expired", re.IGNORECASE)
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{0,500})", re.IGNORECASE)
_PAGE = re.compile(r"^\s*(<!doctype html|<html|<head)", re.IGNORECASE)
_WITHIN = re.compile(r"\s*(?:[A-Z][A-Z0-9_]*:\s*)*(?=\{)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]+")
# `Message` is AWS's, `title` RFC 9457's, `error_description` OAuth's, beside the code that is its `error`.
_MESSAGES = (
    *("external_model_error", "message", "detail", "error_description"),
    *("error", "error_message", "Message", "msg", "title"),
)
_LONGEST = 2000  # characters of a message
_HEAD = 20_000  # how far into a text or a web page anything is looked for


@dataclass(frozen=True, slots=True)
class _Complaint:
    """What a body says: its message, its code, how long to wait, and whether a filter spoke.

    `within` is the code of an error that the message holds: Databricks' own code stands above it.
    """

    message: str | None = None
    code: str | None = None
    within: str | None = None
    retry_after: float | None = None
    request_id: str | None = None
    filtered: bool = False


def service_error(status: int | None, headers: Mapping[str, str], body: Any) -> ServiceError:
    """The error that a refusal amounts to.

    `headers` have lower-case names. `body` is bytes, text, or JSON already read. `status` is None inside a stream.
    """
    read = _read(body)
    complaint = _complaint(read)
    message = _shortened(complaint.message or _plain(status, read))
    code = complaint.code
    kind = _kind(status, code, f"{complaint.within} {message}", filtered=complaint.filtered)
    return kind(
        message,
        status=status,
        error_code=code,
        retry_after=retry_after(headers) if retry_after(headers) is not None else complaint.retry_after,
        request_id=headers.get("x-request-id") or complaint.request_id,
        body=read,
        hint=_hint(kind, status, message),
    )


def complains(value: object) -> bool:
    """Whether a JSON value, under a status that says success, is an error all the same."""
    return isinstance(value, dict) and bool(
        value.get("error")
        or value.get("error_code")
        or value.get("type") == "error"
        or value.get("object") == "error"  # Mistral's, and vLLM's before it had `error`
        or (value.get("success") is False and value.get("errors"))  # Cloudflare's
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that the service asks to wait: a number, or a date against the reply's own `Date`; None if unsaid."""
    if (milliseconds := _seconds(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    if said is None or (seconds := _seconds(said)) is not None:
        return None if said is None else seconds
    try:
        wait = parsedate_to_datetime(said) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, wait.total_seconds())


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _read(body: Any) -> Any:
    """The body as JSON if it is JSON, else as text."""
    if not isinstance(body, bytes | str):
        return body
    if isinstance(body, bytes):
        body = body.removeprefix(BOM_UTF8)
        if body[:64].lstrip().startswith(_sse.OPENINGS):  # DashScope's, to a question that asked for a stream
            body = next((event.data for event in _sse.events_in(body)), body)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return body.decode("utf-8", "replace") if isinstance(body, bytes) else body


def _complaint(body: Any, depth: int = 3) -> _Complaint:
    """What the body complains of; its message may be JSON text that holds the real one, a few levels down."""
    if isinstance(body, str):
        return _Complaint(_text(body[:_HEAD])) if body.strip() else _Complaint()
    if isinstance(body, list) and len(body) == 1:  # Google's: a list of one error
        return _complaint(body[0], depth - 1) if depth else _Complaint()
    if not isinstance(body, dict):
        return _Complaint(_text(_shown(body))) if body else _Complaint()
    outer = _fields(body)
    inner = _inner(outer.message) if depth else None
    if inner is None:
        return outer
    below = _complaint(inner, depth - 1)
    return _Complaint(
        message=below.message or outer.message,
        code=outer.code or below.code,
        within=below.within or below.code,
        retry_after=outer.retry_after if outer.retry_after is not None else below.retry_after,
        request_id=outer.request_id or below.request_id,
        filtered=outer.filtered or below.filtered,
    )


def _fields(body: dict[str, Any], depth: int = 5, *, within: bool = False) -> _Complaint:
    """What the fields of a body say, or those of the object that stands `within` one of them."""
    guardrails = [name for name in ("input_guardrail", "output_guardrail") if body.get(name)]
    if guardrails and not isinstance(body.get("message"), str):
        flagged = ", ".join(sorted(set(_flagged(body))))
        what = f"{' and '.join(guardrails).replace('_', ' ')} stopped it"
        return _Complaint(f"{what}: {flagged}" if flagged else what, filtered=True)
    several = body.get("errors")
    said = next((body[key] for key in ("external_model_error", "error") if isinstance(body.get(key), dict)), None)
    if not said and isinstance(several, list) and several:  # Cloudflare's, watsonx's: a list
        said = several[0] if isinstance(several[0], dict) else several
    said = said or next((body[key] for key in _MESSAGES if body.get(key)), None)
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], dict) and "msg" not in said[0]:
        said = said[0]  # Google's: a list of one error
    below = _fields(said, depth - 1, within=True) if isinstance(said, dict) and depth else _Complaint()
    return _Complaint(
        message=below.message or _words(said) or _words(body.get("message")),
        code=below.code or _code_in(body, within=within),
        retry_after=_seconds(body.get("retry_after")) if below.retry_after is None else below.retry_after,
        request_id=_word(body.get("request_id")) or _request_id(body.get("details")),
        filtered=below.filtered or bool(_FILTERED.search(_shown(body.get("innererror", "")))),
    )


def _words(said: object) -> str | None:
    """A message: text, or the faults that FastAPI finds, each at its place: `{"loc": ["body", …], "msg": "…"}`."""
    if isinstance(said, list):
        return _text("; ".join(_fault(item) for item in said))
    return _text(said) if isinstance(said, str) else None


def _fault(item: object) -> str:
    if not isinstance(item, dict):
        return _shown(item)
    where = item.get("loc")
    place = ".".join(map(_shown, where[1:])) if isinstance(where, list) else ""
    said = _shown(item.get("msg", item))
    return f"{place}: {said}" if place else said


def _shown(value: object) -> str:
    try:
        return str(value)
    except RecursionError:  # Python 3.11's, of a list in a list in a list…
        return "…"


def _code_in(body: dict[str, Any], *, within: bool) -> str | None:
    """The code under whichever of its names; OpenAI's `type`, and Mistral's, where there is none more exact."""
    names = ["error_code", "code"]
    if (within or "code" in body or body.get("object") == "error") and body.get("type") != "error":
        names.append("type")
    if "detail" in body or "title" in body:  # SCIM: {"detail": "...", "status": "404"}; and RFC 9457
        names.append("status")
    if "error_description" in body:  # RFC 6749: {"error": "invalid_client", "error_description": "..."}
        names.append("error")
    return next((code for name in names if (code := _code(body.get(name))) is not None), None)


def _inner(message: str | None) -> dict[str, Any] | None:
    """The JSON object that a message is, alone or behind its code: `BAD_REQUEST: {"message": …}`.

    Behind any other words it is a part of what they say.
    """
    if message is None or not (found := _WITHIN.match(message)):
        return None
    try:
        value = msgspec.json.decode(message[found.end() :])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    known = ("message", "error", "external_model_error", "input_guardrail", "output_guardrail")
    return value if isinstance(value, dict) and any(key in value for key in known) else None


def _flagged(body: dict[str, Any]) -> Iterator[str]:
    """The categories that a guardrail says it found."""
    for name in ("input_guardrail", "output_guardrail"):
        found = body.get(name)
        for verdict in found if isinstance(found, list) else [found]:
            if not isinstance(verdict, dict):
                continue
            categories = verdict.get("categories")
            if isinstance(categories, dict):
                yield from (str(category) for category, hit in categories.items() if hit)
            if verdict.get("pii_detection"):
                yield "pii"


def _request_id(details: object) -> str | None:
    if not isinstance(details, list):
        return None
    return next((i["request_id"] for i in details if isinstance(i, dict) and _word(i.get("request_id"))), None)


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _code(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) and value != "" else None


def _text(said: str) -> str:
    """Words fit for an error message: a web page's title, and no control characters."""
    if _PAGE.match(said):
        found = _TITLE.search(said[:_HEAD])
        title = unescape(found[1]).strip() if found else ""
        said = f"a web page titled {title!r}" if title else "a web page"
    return _CONTROL.sub(" ", said).strip()


def _shortened(message: str) -> str:
    return message if len(message) <= _LONGEST else message[:_LONGEST] + "…"


def _plain(status: int | None, read: Any) -> str:
    what = "an empty body" if read in ("", None) else "a body without a message"
    return f"the service answered with HTTP status {status} and {what}" if status else f"the service sent {what}"


def _kind(status: int | None, code: str | None, message: str, *, filtered: bool) -> type[ServiceError]:
    if status is None or status < 300:
        status = _STATUS_OF_CODE.get((code or "").upper())
        if status is None:
            status = int(code) if code and code.isdigit() and len(code) == 3 else 0
    about = f"{code} {message}"
    if filtered or (status in (400, 422, 0) and _FILTERED.search(about)):
        return ContentFiltered
    if status in (400, 413, 422, 0) and _TOO_LONG.search(about):
        return ContextLengthExceeded
    if status == 401 or (status == 403 and _BAD_TOKEN.search(message)):
        return AuthenticationFailed
    if code == "RECORDING_NOT_FOUND":  # a replay's, with 404: the endpoint may well be there
        return RequestRefused
    known: dict[int, type[ServiceError]] = {
        403: PermissionDenied,
        404: EndpointNotFound,
        408: ServiceUnavailable,
        429: RateLimited,
    }
    if status in known:
        return known[status]
    if 400 <= status < 500:
        return RequestRefused
    return ServiceUnavailable if 500 <= status < 600 else ServiceError


def _hint(kind: type[ServiceError], status: int | None, message: str) -> str | None:
    if kind is AuthenticationFailed:
        return "Check the token, or sign in again; `isochat doctor` shows where it was found."
    if kind is PermissionDenied and "rate limit of 0" in message:
        # The service says "rate limit", and waiting does not help: docs "Foundation Model APIs limits and quotas".
        return "The endpoint is switched off for this workspace; asking again will not help."
    if kind is EndpointNotFound:
        return "`isochat doctor` lists the endpoints that this login can see."
    if kind is RequestRefused and "thought_signature" in message:
        return (
            "Another model made the call. Google documents a placeholder for the missing signature, which goes beside "
            f"the call: {PLACEHOLDER!r}."
        )
    if kind is RequestRefused and "only supported in v1/responses" in message:
        return "This model speaks the Responses API alone: ask it through 'openai-responses'."
    if status is not None and 300 <= status < 400:
        return (
            "The host redirects: is it the workspace's own address? "
            "Redirects are not followed, since a token goes to its own host only."
        )
    return None
