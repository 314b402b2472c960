"""Things that go wrong, to order: a status, a wait, a cut, a reset, junk.

A `Fault` says what shall happen to one answer; all its fields can be combined. It changes nothing by itself: the
server carries it out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

__all__ = ["Fault", "Verbatim", "body_bytes", "error_body", "typed"]

Body = bytes | str | dict[str, Any] | list[Any]

#: The error code and words a status stands for when the fault names none.
_STATUS: Mapping[int, tuple[str | int, str]] = {
    400: ("BAD_REQUEST", "BAD_REQUEST: ordered from the local endpoint."),
    401: (401, "Credential was not sent or was of an unsupported type for this API."),
    403: ("PERMISSION_DENIED", "PERMISSION_DENIED: ordered from the local endpoint."),
    404: ("RESOURCE_DOES_NOT_EXIST", "Endpoint does not exist: ordered from the local endpoint."),
    429: (
        "REQUEST_LIMIT_EXCEEDED",
        "REQUEST_LIMIT_EXCEEDED: Exceeded workspace output tokens per minute rate limit (ordered).",
    ),
    500: ("INTERNAL_ERROR", "Internal error: ordered from the local endpoint."),
    503: ("TEMPORARILY_UNAVAILABLE", "The endpoint is scaling from zero: ordered from the local endpoint."),
}
_CODE: Mapping[str, int] = {
    "BAD_REQUEST": 400,
    "INVALID_PARAMETER_VALUE": 400,
    "INVALID_ARGUMENT": 400,
    "PERMISSION_DENIED": 403,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "NOT_FOUND": 404,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "RESOURCE_EXHAUSTED": 429,
    "RATE_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "NOT_IMPLEMENTED": 501,
    "TEMPORARILY_UNAVAILABLE": 503,
}
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "status": ((int,), "a number"),
    "error_code": ((str, int), "a text"),
    "message": ((str,), "a text"),
    "body": ((bytes, bytearray, str, dict, list), "a text, mapping or list"),
    "headers": ((Mapping,), "a mapping"),
    "retry_after": ((int, float, str), "seconds or a date"),
    "delay": ((int, float), "seconds"),
    "stall": ((int, float), "seconds"),
    "after": ((int,), "a number"),
    "cut_after": ((int,), "a number"),
    "drop_after": ((int,), "a number"),
    "reset": ((bool, int), "true or a number"),
    "junk": ((bytes, str), "a text"),
    "error_event": ((dict, str), "a mapping or text"),
    "content_length": ((int,), "a number"),
    "drip": ((int, float), "seconds"),
    "times": ((int,), "a number"),
    "chunks": ((list, tuple), "a list of bytes"),
    "pause": ((int, float), "seconds"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that shall go wrong with the next chat question.

    In a stream, "after N" counts events; in a whole reply it counts bytes of the body.
    """

    #: HTTP status; without `body` and `junk` the body is Databricks' error for it.
    status: int | None = None
    #: The error's code and words. A code alone brings its usual status.
    error_code: str | int | None = None
    message: str | None = None
    #: Exactly this body (a dict or list as JSON).
    body: Body | None = None
    #: Headers to add or replace.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The `Retry-After` header: seconds, or an HTTP date as it is.
    retry_after: float | str | None = None
    #: Seconds to wait before the headers.
    delay: float | None = None
    #: Seconds to say nothing: before the headers, or after `after` events or bytes.
    stall: float | None = None
    after: int | None = None
    #: End the body after so many events or bytes, as if that were all (no `[DONE]`, nothing amiss in HTTP).
    cut_after: int | None = None
    #: Close the connection after so many events or bytes, in the middle of the body.
    drop_after: int | None = None
    #: Reset the connection: True before the headers, a number after so many events or bytes.
    reset: bool | int = False
    #: These bytes in place of the answer's body, with the status and content type of the answer.
    junk: bytes | str | None = None
    #: Sent as an event of its own after `after` events (1 if not said), and the stream ends there.
    error_event: dict[str, Any] | str | None = None
    #: Added to the true `Content-Length`; too much makes the client wait for bytes that never come.
    content_length: int | None = None
    #: Seconds between single bytes of a whole reply, or between events.
    drip: float | None = None
    #: For how many questions; None for every one until `reset()`.
    times: int | None = 1

    def __post_init__(self) -> None:
        """Refuse what could not be carried out, naming the field."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value is not None or each.name in {"headers", "reset"}:
                typed("Fault", each.name, value)
        object.__setattr__(self, "headers", {str(k): str(v) for k, v in self.headers.items()})
        if self.times is not None and self.times < 1:
            msg = "Fault.times: at least 1, or None for ever"
            raise ValueError(msg)
        if self.status is not None and not 200 <= self.status <= 599:
            msg = f"Fault.status: {self.status} is not an HTTP status between 200 and 599"
            raise ValueError(msg)
        for name in ("delay", "stall", "drip", "after", "cut_after", "drop_after"):
            value = getattr(self, name)
            if value is not None and value < 0:
                msg = f"Fault.{name}: {value} is less than nothing"
                raise ValueError(msg)

    @property
    def answers(self) -> bool:
        """Whether it takes the place of the answer, so that the question is not even read."""
        return any(v is not None for v in (self.status, self.error_code, self.message, self.body))

    @property
    def heading(self) -> dict[str, str]:
        """The headers it adds, their names in lower case."""
        retry_after = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return {name.lower(): value for name, value in self.headers.items()} | retry_after

    @property
    def breaks(self) -> bool:
        """Whether the answer does not arrive as it is: cut, reset, or other bytes in its place."""
        ends = (self.cut_after, self.drop_after, self.error_event, self.content_length, self.junk)
        return self.reset is not False or any(end is not None for end in ends)

    @classmethod
    def parse(cls, spec: Fault | Mapping[str, Any] | str | int) -> Fault:
        """A fault from a mapping, from its JSON or YAML text, or from a bare status (`"429"`).

        Raises ValueError naming the field that is unknown or of the wrong type.
        """
        if isinstance(spec, Fault):
            return spec
        if isinstance(spec, str):
            spec = _loaded(spec)
        if isinstance(spec, int) and not isinstance(spec, bool):
            return cls(status=spec)
        if not isinstance(spec, Mapping):
            msg = f"a fault is a mapping such as {{status: 429, retry_after: 1}}, not {type(spec).__name__}"
            raise ValueError(msg)  # noqa: TRY004 - what is wrong is the text's content
        names = [each.name for each in dataclasses.fields(cls)]
        for name in spec:
            if name not in names:
                msg = f"fault has no field {name!r}; it has {', '.join(names)}"
                raise ValueError(msg)
        return cls(**{k: v for k, v in spec.items() if v is not None or k == "times"})

    @classmethod
    def parse_all(cls, spec: str | Sequence[Any] | Mapping[str, Any] | Fault) -> tuple[Fault, ...]:
        """Several faults: a list (or its JSON or YAML text) of what `parse` takes; a single one counts as a list."""
        if isinstance(spec, str):
            spec = _loaded(spec)
        if isinstance(spec, list | tuple):
            return tuple(cls.parse(one) for one in spec)
        return (cls.parse(cast("Mapping[str, Any]", spec)),)


@dataclass(frozen=True, slots=True)
class Verbatim:
    """An answer given byte for byte, as ordered with `LocalEndpoint.reply()`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    chunks: tuple[bytes, ...] | None = None
    pause: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what could not be sent, naming the field."""
        typed("reply", "status", self.status)
        typed("reply", "pause", self.pause)
        if not all(isinstance(chunk, bytes | bytearray) for chunk in self.chunks or ()):
            msg = "reply.chunks: expected a list of bytes, and one of them is something else"
            raise ValueError(msg)


def typed(owner: str, name: str, value: object) -> None:
    """Refuse a field's value that is of no type that the field can have. Raises ValueError."""
    types, words = _TYPES[name]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        msg = f"{owner}.{name}: expected {words}, got {value!r}"
        raise ValueError(msg)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as why:
            msg = f"a fault's text must be JSON or YAML: {why}"
            raise ValueError(msg) from None


def body_bytes(body: Body) -> tuple[bytes, str]:
    """The bytes of a body and the content type they go by."""
    if isinstance(body, bytes | bytearray):
        return bytes(body), "application/octet-stream" if not body else _guess(bytes(body[:1]).decode("latin-1"))
    if isinstance(body, str):
        return body.encode(), _guess(body.lstrip()[:1])
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(), "application/json"


def _guess(first: str) -> str:
    return {"{": "application/json", "[": "application/json", "<": "text/html"}.get(first, "text/plain")


def error_body(fault: Fault) -> tuple[int, bytes, str]:
    """The status, body and content type of a fault that answers in place of the endpoint."""
    status = fault.status
    if fault.body is not None:
        content, kind = body_bytes(fault.body)
        return status or 200, content, kind
    if status is None:
        status = _CODE.get(str(fault.error_code), 400)
    code, words = _STATUS.get(
        status, ("INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST", f"HTTP {status}, as ordered.")
    )
    error = {
        "error_code": code if fault.error_code is None else fault.error_code,
        "message": words if fault.message is None else fault.message,
    }
    content, kind = body_bytes(error)
    return status, content, kind
