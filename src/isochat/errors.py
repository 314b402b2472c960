"""What can go wrong, and who has to move.

```
ChatError
├─ ConfigurationError (ValueError)      no host, no token, a bad file: names where each setting was looked for
├─ InvalidRequest (ValueError)          said wrongly; nothing was sent; names the path: messages[1].content[0].type
├─ UnsupportedOption (ValueError)       this backend cannot carry it; names those that can
├─ BackendNotFound (LookupError)        with the nearest names
├─ BackendNotInstalled (ImportError)    with the exact pip line
├─ ServiceError                         an answer came and it was no: status, error_code, retry_after, request_id, body
│  ├─ AuthenticationFailed              401
│  ├─ PermissionDenied                  403
│  ├─ EndpointNotFound                  404
│  ├─ RequestRefused                    any other 4xx: 400, 413, 422, …
│  │  ├─ ContextLengthExceeded          the question is longer than the model's context
│  │  └─ ContentFiltered                a guardrail or content filter stopped the question or the answer
│  ├─ RateLimited                       429
│  └─ ServiceUnavailable                5xx, and 408
├─ ConnectionFailed (ConnectionError)   no answer came
├─ DeadlineExceeded (TimeoutError)      the time given for the whole question is over
├─ MalformedReply                       an answer came and made no sense; keeps it as `body`
└─ StreamInterrupted                    it broke in the middle; `.partial` is what had arrived
```

Every error can say which `backend` and `endpoint` it belongs to and, in `attempts`, what was tried before it. None
ever holds a token or a prompt. All of them can be pickled and copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isochat._types import ChatResponse

__all__ = [
    "Attempt",
    "AuthenticationFailed",
    "BackendNotFound",
    "BackendNotInstalled",
    "ChatError",
    "ConfigurationError",
    "ConnectionFailed",
    "ContentFiltered",
    "ContextLengthExceeded",
    "DeadlineExceeded",
    "EndpointNotFound",
    "InvalidRequest",
    "MalformedReply",
    "PermissionDenied",
    "RateLimited",
    "RequestRefused",
    "ServiceError",
    "ServiceUnavailable",
    "StreamInterrupted",
    "UnsupportedOption",
]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time the question was sent in vain.

    `error` is the class name of what came of it; `status` its HTTP status if there was one; `waited` the seconds that
    were waited afterwards, before the next attempt (0.0 when there was none); `sent` whether the question had gone out,
    as in `ChatError`. An answer's attempts are those before it.
    """

    error: str
    status: int | None
    waited: float
    sent: bool | None = None


class ChatError(Exception):
    """Anything that isochat raises on purpose.

    `str(error)` says what happened, to which endpoint, through which backend and, where something can be done, what
    to do. `transient` is True where the same question may well be answered if it is asked again. `sent` is False if
    nothing of the question went out, True if it did, so that it may have been answered and may have to be paid for,
    and None where that is not known.
    """

    transient: bool = False
    sent: bool | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.backend: str | None = None
        self.endpoint: str | None = None
        self.attempts: tuple[Attempt, ...] = ()

    def _place(self) -> list[str]:
        place = [f"endpoint {self.endpoint!r}"] if self.endpoint else []
        if self.backend:
            place.append(f"backend {self.backend!r}")
        if len(self.attempts) > 1:
            place.append(f"{len(self.attempts)} attempts")
        return place

    def __str__(self) -> str:
        place = self._place()
        said = f"{self.message} ({', '.join(place)})" if place else self.message
        return f"{said}\n{self.hint}" if self.hint else said

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive BaseException's own pickling, which calls cls(*args).
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(cls: type[ChatError], args: tuple[Any, ...], state: dict[str, Any]) -> ChatError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(ChatError, ValueError):
    """A setting is missing, contradicts another one, or stands in a file that cannot be read."""

    sent: bool | None = False


class InvalidRequest(ChatError, ValueError):
    """The question was said wrongly; nothing was sent.

    `path` is where: `messages[1].content[0].type`, `temperature`, `tools[0].function.name`.
    """

    sent: bool | None = False

    def __init__(self, message: str, *, path: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{path}: {message}" if path else message, hint=hint)
        self.path = path


class UnsupportedOption(ChatError, ValueError):
    """The chosen backend cannot carry `option`; nothing was sent. `carried_by` names the backends that can."""

    sent: bool | None = False

    def __init__(self, message: str, *, option: str, carried_by: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.option = option
        self.carried_by: tuple[str, ...] = tuple(carried_by)


class BackendNotFound(ChatError, LookupError):
    """No backend has that name. `nearest` are the names that come close."""

    sent: bool | None = False

    def __init__(self, message: str, *, nearest: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.nearest: tuple[str, ...] = tuple(nearest)


class BackendNotInstalled(ChatError, ImportError):
    """The backend is there but the client it drives is not. `install` is the line that installs it."""

    sent: bool | None = False

    def __init__(self, message: str, *, install: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or f"Install it with: {install}")
        self.install = install


class ServiceError(ChatError):
    """An answer came and it was no.

    `status` is the HTTP status as it was on the wire, `error_code` the service's own code as text, `retry_after` the
    seconds it asked to wait, `request_id` the identifier to quote to support (header `x-request-id`), `body` the body
    as it came (parsed if it was JSON, else text). Each is None if the service did not say.
    """

    sent: bool | None = True

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        error_code: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        body: Any = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.error_code = error_code
        self.retry_after = retry_after
        self.request_id = request_id
        self.body = body


class AuthenticationFailed(ServiceError):
    """The service did not accept who you say you are (401, or 403 "Invalid access token")."""


class PermissionDenied(ServiceError):
    """The service knows who you are and will not let you (403), a rate limit of 0 among the reasons."""


class EndpointNotFound(ServiceError):
    """There is no such endpoint, or none that you may see (404)."""


class RequestRefused(ServiceError):
    """The service read the request and refused it (400, 413, 422 and the other 4xx). The message says which field."""


class ContextLengthExceeded(RequestRefused):
    """The question, or the question together with the answer asked for, is longer than the model's context."""


class ContentFiltered(RequestRefused):
    """A guardrail or content filter stopped the question or the answer."""


class RateLimited(ServiceError):
    """Too many requests or tokens for now (429). `retry_after` says how long the service asked to wait, if it did."""

    transient = True


class ServiceUnavailable(ServiceError):
    """The service, or a proxy before it, is ailing (5xx, 408)."""

    transient = True


class ConnectionFailed(ChatError, ConnectionError):
    """No answer came: the connection could not be made, or broke before one arrived. `sent` tells the two apart."""

    transient = True

    def __init__(self, message: str, *, sent: bool | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class DeadlineExceeded(ChatError, TimeoutError):
    """The time given for the whole question was over before the answer was there. `timeout` is that time in seconds."""

    def __init__(
        self, message: str, *, timeout: float | None = None, sent: bool | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.timeout = timeout
        self.sent = sent

    def _place(self) -> list[str]:
        return [*([] if self.timeout is None else [f"timeout {self.timeout:g} s"]), *super()._place()]


class MalformedReply(ChatError):
    """An answer came, with a status that says success, and made no sense.

    `body` is what it was (parsed if it was JSON), `status` its status, `path` the place in it if there is one.
    """

    sent: bool | None = True

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        body: Any = None,
        path: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.request_id = request_id
        self.body = body
        self.path = path


class StreamInterrupted(ChatError):
    """The stream broke after it had begun.

    `partial` is a `ChatResponse` of everything that had arrived. `error` is the service's own complaint when it sent
    one (a `ServiceError`), else None. `__cause__` is what broke.
    """

    sent: bool | None = True

    def __init__(
        self,
        message: str,
        *,
        partial: ChatResponse | None = None,
        error: ServiceError | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.partial = partial
        self.error = error
