"""Whatever body a refusal has, the same class, code, message and wait come of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isochat import _refusal, errors
from isochat._refusal import retry_after, service_error
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

CLASS_OF = {
    400: RequestRefused,
    401: AuthenticationFailed,
    402: RequestRefused,
    403: PermissionDenied,
    404: EndpointNotFound,
    405: RequestRefused,
    408: ServiceUnavailable,
    409: RequestRefused,
    413: RequestRefused,
    418: RequestRefused,
    422: RequestRefused,
    429: RateLimited,
    499: RequestRefused,
    500: ServiceUnavailable,
    501: ServiceUnavailable,
    502: ServiceUnavailable,
    503: ServiceUnavailable,
    504: ServiceUnavailable,
    529: ServiceUnavailable,
    301: ServiceError,
    302: ServiceError,
    304: ServiceError,
    600: ServiceError,
}


def within(value: Any) -> str:
    """JSON text, as the service puts it into its own messages."""
    return json.dumps(value)


def refusal(body: Any, status: int | None = 400, **headers: str) -> ServiceError:
    said = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service_error(status, {name.replace("_", "-"): value for name, value in headers.items()}, said)


PAGE = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502</h1></body></html>"
GUARDRAIL = {
    "usage": {"prompt_tokens": 12},
    "input_guardrail": [
        {
            "flagged": True,
            "categories": {"violent-crimes": True, "hate": False},
            "pii_detection": True,
            "anonymized_input": "my secret",
        }
    ],
    "finishReason": "input_guardrail_triggered",
}
# body, message, code
SHAPES: dict[str, tuple[Any, str, str | None]] = {
    "1: code and message": ({"error_code": "BAD_REQUEST", "message": "No."}, "No.", "BAD_REQUEST"),
    "1: with details": (
        {"error_code": "BAD_REQUEST", "message": "No.", "details": [{"@type": "x"}]},
        "No.",
        "BAD_REQUEST",
    ),
    "2: JSON in the message": (
        {"error_code": "BAD_REQUEST", "message": within({"message": "No."})},
        "No.",
        "BAD_REQUEST",
    ),
    "2: ending in a line end": (
        {"error_code": "BAD_REQUEST", "message": within({"message": "No."}) + "\n"},
        "No.",
        "BAD_REQUEST",
    ),
    "2: behind its code": (
        {"error_code": "BAD_REQUEST", "message": "BAD_REQUEST: " + within({"message": "No."})},
        "No.",
        "BAD_REQUEST",
    ),
    "2: twice": ({"error_code": "X", "message": within({"message": within({"message": "No."})})}, "No.", "X"),
    "3: a provider's error": (
        {
            "error_code": "X",
            "message": within(
                {
                    "external_model_provider": "openai",
                    "external_model_error": {"error": {"code": "c", "message": "No.", "status": 400}},
                }
            ),
        },
        "No.",
        "X",
    ),
    "3: a provider's error, flat": (
        {
            "error_code": "X",
            "message": within({"external_model_provider": "a", "external_model_error": {"message": "No."}}),
        },
        "No.",
        "X",
    ),
    "3: a provider's words": (
        {"error_code": "X", "message": within({"external_model_provider": "a", "external_model_error": "No."})},
        "No.",
        "X",
    ),
    "3: a provider's list": (
        {
            "error_code": "X",
            "message": within(
                {"external_model_provider": "a", "external_model_error": [{"error": {"message": "No."}}]}
            ),
        },
        "No.",
        "X",
    ),
    "5: OpenAI's": (
        {"error": {"message": "No.", "type": "invalid_request_error", "code": "c", "param": None}},
        "No.",
        "c",
    ),
    "5: OpenAI's without a code": (
        {"error": {"message": "No.", "type": "invalid_request_error", "code": None}},
        "No.",
        "invalid_request_error",
    ),
    "5: only text": ({"error": "No."}, "No.", None),
    "6: a rate limiter's": (
        {"error": {"message": "No.", "type": "rate_limit_exceeded", "code": 429, "retry_after": 5}},
        "No.",
        "429",
    ),
    "7: a number for a code": ({"error_code": 401, "message": "No."}, "No.", "401"),
    "7: no code": ({"message": "No."}, "No.", None),
    "8: plain text": (b"No.\n", "No.", None),
    "8: text in JSON": ("No.", "No.", None),
    "9: a page": (PAGE, "a web page titled '502 Bad Gateway'", None),
    "9: a page without a title": (b"\n<!DOCTYPE html><p>Hi", "a web page", None),
    "9: a page in a message": (
        {"error_code": "X", "message": PAGE.decode()},
        "a web page titled '502 Bad Gateway'",
        "X",
    ),
    "9: a title with entities": (b"<html><TITLE>a &amp; b</TITLE>", "a web page titled 'a & b'", None),
    "FastAPI's": ({"detail": [{"loc": ["body"], "msg": "No."}, {"msg": "Never."}]}, "No.; Never.", None),
    "FastAPI's text": ({"detail": "No."}, "No.", None),
    "FastAPI's within Mistral's": ({"message": {"detail": [{"msg": "No."}]}, "code": None}, "No.", None),
    "Cloudflare's list": ({"success": False, "errors": [{"code": 10000, "message": "No."}]}, "No.", "10000"),
    "watsonx's list": ({"errors": [{"code": "no", "message": "No."}], "trace": "t"}, "No.", "no"),
    "AWS's": ({"Message": "No."}, "No.", None),
    "FastAPI's places": (
        {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "No."}]},
        "messages.0.role: No.",
        None,
    ),
    "FastAPI's object": ({"detail": {"error": "No."}}, "No.", None),
    "FastAPI's error": ({"detail": {"error": {"message": "No.", "code": "c"}}}, "No.", "c"),
    "FastAPI's code": ({"detail": {"code": "c", "message": "No."}}, "No.", "c"),
    "Mistral's": ({"object": "error", "message": "No.", "type": "a_kind", "code": None}, "No.", "a_kind"),
    "OpenAI's, flat": ({"message": "No.", "type": "a_kind", "param": None, "code": None}, "No.", "a_kind"),
    "an event's": ({"type": "error", "message": "No.", "param": None, "code": None}, "No.", None),
    "a stream of events": (b'id:1\nevent:error\ndata:{"code":"c","message":"No."}\n\n', "No.", "c"),
    "Mistral's with a code": ({"object": "error", "message": "No.", "type": "a_kind", "code": 3}, "No.", "3"),
    "Mistral's places": (
        {"object": "error", "message": {"detail": [{"msg": "No."}]}, "type": "a_kind", "code": None},
        "No.",
        "a_kind",
    ),
    "an error's list": ({"error": {"message": ["No.", "Never."], "code": "c"}}, "No.; Never.", "c"),
    "an error's detail": ({"error": {"detail": "No."}}, "No.", None),
    "an error's error": ({"error": {"error": "No.", "code": 3}}, "No.", "3"),
    "an error that says nothing": ({"error": {"x": 1}, "message": "No."}, "No.", None),
    "a list of texts": ({"errors": ["No.", "Never."]}, "No.; Never.", None),
    "another name": ({"code": 1002, "msg": "No."}, "No.", "1002"),
    "RFC 9457's": ({"type": "about:blank", "title": "No.", "status": 401}, "No.", "401"),
    "RFC 9457's with a detail": ({"title": "Never.", "status": 401, "detail": "No."}, "No.", "401"),
    "RFC 6749's": ({"error": "invalid_client", "error_description": "No."}, "No.", "invalid_client"),
    "JSON behind words": ({"error_code": "X", "message": 'Say {"message": "x"}'}, 'Say {"message": "x"}', "X"),
    "a byte order mark": (b'\xef\xbb\xbf{"error_code": "X", "message": "No."}', "No.", "X"),
    "SCIM's": ({"detail": "No.", "status": "404", "schemas": []}, "No.", "404"),
    "control characters": ({"message": "N\x00o\x1b[31m."}, "N o [31m.", None),
    "not UTF-8": (b"N\xff.", "N\ufffd.", None),
}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
@pytest.mark.parametrize(("body", "message", "code"), SHAPES.values(), ids=SHAPES)
def test_shape(body: Any, message: str, code: str | None, status: int) -> None:
    """Each shape says its innermost sentence and its outermost code, and the status alone decides the class."""
    error = refusal(body, status)

    assert (CLASS_OF[status], message, code, status) == (type(error), error.message, error.error_code, error.status)


@pytest.mark.parametrize(("status", "kind"), CLASS_OF.items())
@pytest.mark.parametrize("body", [b"", b" ", {}, [], {"x": 1}, 0, None, False], ids=repr)
def test_class_of_status(status: int, kind: type[ServiceError], body: Any) -> None:
    """A body that says nothing is told as one, and the status decides the class."""
    error = refusal(body, status)

    assert kind is type(error)
    assert str(status) in error.message


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_worth_asking_again(status: int) -> None:
    """What may pass is transient."""
    assert refusal(b"", status).transient


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422, 499])
def test_not_worth_asking_again(status: int) -> None:
    """What was refused is not."""
    assert not refusal(b"", status).transient


def test_body_is_kept() -> None:
    """The body is kept as it came: as JSON, or as text."""
    assert {"message": "No.", "x": [1]} == refusal({"message": "No.", "x": [1]}).body
    assert "No." == refusal(b"No.").body


def test_googles_list() -> None:
    """Google wraps its error in a list."""
    error = refusal([{"error": {"code": 400, "message": "No.", "status": "INVALID_ARGUMENT"}}])

    assert ("No.", "400") == (error.message, error.error_code)


# ── what a message means ─────────────────────────────────────────────────────────────────────────────────────────

TOO_LONG = [
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "Input is too long for requested model.",
    "input length and `max_tokens` exceed context limit: 1 + 2 > 2",
    "The input exceeds the maximum input length of 4096",
    "context_length_exceeded",
    "Your request exceeds the context window of this model",
]


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("message", TOO_LONG)
def test_context_length(message: str, status: int) -> None:
    """A question that is too long is told from other refusals, in every model's words."""
    assert ContextLengthExceeded is type(refusal({"error_code": "BAD_REQUEST", "message": message}, status))


def test_context_length_by_code() -> None:
    """OpenAI says it in the code."""
    assert ContextLengthExceeded is type(refusal({"error": {"message": "No.", "code": "context_length_exceeded"}}))


@pytest.mark.parametrize(
    "message",
    [
        "max_new_tokens 9000 cannot be greater than max_output_tokens 8192.",
        "max_tokens (9000) cannot exceed 8192",
        'Bad request: json: unknown field "seed"',
        'Unsupported parameter: "stop"',
        "messages.1.annotations: Extra inputs are not permitted",
        "rpc error: code = InvalidArgument desc = Chat message input roles must alternate",
    ],
)
def test_not_context_length(message: str) -> None:
    """A refusal about something else, the answer's length among it, is only a refusal."""
    assert RequestRefused is type(refusal({"error_code": "BAD_REQUEST", "message": message}))


@pytest.mark.parametrize("status", [429, 500])
def test_tokens_per_minute_are_not_context(status: int) -> None:
    """Too many tokens a minute are not too many tokens for the model."""
    error = refusal({"message": "Too many tokens: exceeded workspace input tokens per minute rate limit"}, status)

    assert CLASS_OF[status] is type(error)


FILTERED = {
    "a guardrail": {"error_code": "BAD_REQUEST", "message": within(GUARDRAIL)},
    "an output guardrail": {"error_code": "BAD_REQUEST", "message": within({"output_guardrail": [{"flagged": True}]})},
    "a bare guardrail": GUARDRAIL,
    "Azure's": {"error": {"code": "content_filter", "message": "The response was filtered."}},
    "Azure's, inside": {
        "error_code": "BAD_REQUEST",
        "message": within(
            {"external_model_error": {"error": {"code": "content_filter", "message": "The response was filtered."}}}
        ),
    },
    "Azure's inner error": {
        "message": within(
            {
                "external_model_error": {
                    "error": {"message": "No.", "innererror": {"code": "ResponsibleAIPolicyViolation"}}
                }
            }
        )
    },
    "in words": {"message": "The prompt triggered Azure OpenAI's content management policy."},
}


@pytest.mark.parametrize("body", FILTERED.values(), ids=FILTERED)
def test_filter(body: Any) -> None:
    """A filter that spoke is told from other refusals."""
    assert ContentFiltered is type(refusal(body))


def test_guardrail_is_named() -> None:
    """A guardrail's verdict has no sentence: which it was and what it found make one."""
    assert "input guardrail stopped it: pii, violent-crimes" == refusal(FILTERED["a guardrail"]).message


@pytest.mark.parametrize(
    "words",
    [
        1,
        400,
    ],
)
def test_guardrail_shows_no_prompt(words: int) -> None:
    """A guardrail repeats the question; the message does not, however long the question was."""
    verdict = {
        **GUARDRAIL,
        "input_guardrail": [{**GUARDRAIL["input_guardrail"][0], "anonymized_input": "my secret " * words}],
    }
    error = refusal({"error_code": "BAD_REQUEST", "message": within(verdict)})

    assert ContentFiltered is type(error)
    assert "my secret" not in str(error)


def test_long_message_in_a_message() -> None:
    """The sentence inside a long message is found as in a short one."""
    inner = "messages.1.x: Extra inputs are not permitted" + "." * 3000

    assert refusal({"error_code": "X", "message": within({"message": inner})}).message.startswith("messages.1.x: Extra")


@pytest.mark.parametrize(
    "message", ["Invalid access token.", "Credential was not sent or was of an unsupported type", "Token is expired"]
)
def test_403_for_a_bad_token(message: str) -> None:
    """A token that is not accepted is an authentication matter under 403 too, so that it is renewed."""
    assert AuthenticationFailed is type(refusal({"message": message}, 403))


def test_403_for_a_rate_limit_of_0() -> None:
    """A rate limit of 0 is a switch, not a limit: it is no use to wait, and the hint says so."""
    message = "PERMISSION_DENIED: The endpoint is temporarily disabled due to a Databricks-set rate limit of 0."
    error = refusal({"error_code": "PERMISSION_DENIED", "message": message}, 403)

    assert (PermissionDenied, False) == (type(error), error.transient)
    assert "switched off" in str(error)


@pytest.mark.parametrize("status", [401, 404, 302])
def test_hint(status: int) -> None:
    """Where something can be done, the error says what."""
    assert refusal({"message": "No."}, status).hint


# ── how long to wait, and whom to quote ──────────────────────────────────────────────────────────────────────────

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
WAITS = {
    "seconds": ({"retry-after": "3"}, 3.0),
    "a part of a second": ({"retry-after": "0.5"}, 0.5),
    "none": ({"retry-after": "0"}, 0.0),
    "negative": ({"retry-after": "-5"}, 0.0),
    "spaces": ({"retry-after": " 3 "}, 3.0),
    "a date": ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": DATE}, 30.0),
    "a date in another zone": ({"retry-after": "Wed, 21 Oct 2026 09:28:30 +0200", "date": DATE}, 30.0),
    "a date gone by": ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": DATE}, 0.0),
    "a date without the reply's": ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
    "a date with a senseless one": ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "today"}, None),
    "a date without a zone": ({"retry-after": "Wed, 21 Oct 2026 07:28:30 -0000", "date": DATE}, None),
    "no date at all": ({"retry-after": "Wed, 99 Oct 99999999 07:28:30 GMT", "date": DATE}, None),
    "milliseconds": ({"retry-after-ms": "1500"}, 1.5),
    "milliseconds first": ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    "senseless milliseconds": ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
    "words": ({"retry-after": "soon"}, None),
    "empty": ({"retry-after": ""}, None),
    "infinite": ({"retry-after": "inf"}, None),
    "no number": ({"retry-after": "nan"}, None),
    "past all floats": ({"retry-after": "1e999"}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize(("headers", "expected"), WAITS.values(), ids=WAITS)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """The wait that was asked for, in every form; a date is held against the reply's own clock, not ours."""
    assert expected == retry_after(headers)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({"error": {"message": "No.", "retry_after": 7}}, {}, 7.0),
        ({"error": {"message": "No.", "retry_after": "7.5"}}, {}, 7.5),
        ({"message": "No.", "retry_after": 7}, {}, 7.0),
        ({"message": within({"message": "No.", "retry_after": 7})}, {}, 7.0),
        ({"error": {"message": "No.", "retry_after": 7}}, {"retry_after": "0"}, 0.0),
        ({"error": {"message": "No.", "retry_after": 7}}, {"retry_after": "soon"}, 7.0),
        ({"error": {"message": "No.", "retry_after": None}}, {}, None),
        ({"error": {"message": "No.", "retry_after": True}}, {}, None),
        ({"error": {"message": "No.", "retry_after": 10**400}}, {}, None),
    ],
    ids=repr,
)
def test_wait_in_the_body(body: Any, headers: dict[str, str], expected: float | None) -> None:
    """The header counts first, were it 0; then what the body says."""
    assert expected == refusal(body, 429, **headers).retry_after


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({"message": "No."}, {"x_request_id": "r"}, "r"),
        ({"message": "No.", "request_id": "b"}, {"x_request_id": "r"}, "r"),
        ({"message": "No.", "request_id": "b"}, {}, "b"),
        ({"error": {"message": "No."}, "request_id": "b"}, {}, "b"),
        ({"message": "No.", "details": [{"x": 1}, {"request_id": "d"}]}, {}, "d"),
        ({"message": within({"message": "No.", "request_id": "i"})}, {}, "i"),
        ({"message": "No.", "request_id": 5, "details": "x"}, {}, None),
        ({"message": "No."}, {}, None),
    ],
    ids=repr,
)
def test_request_id(body: Any, headers: dict[str, str], expected: str | None) -> None:
    """The identifier to quote is the header's, else the body's."""
    assert expected == refusal(body, 400, **headers).request_id


# ── in a stream ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("BAD_REQUEST", RequestRefused),
        ("INVALID_PARAMETER_VALUE", RequestRefused),
        ("invalid_request_error", RequestRefused),
        ("UNAUTHENTICATED", AuthenticationFailed),
        ("PERMISSION_DENIED", PermissionDenied),
        ("RESOURCE_DOES_NOT_EXIST", EndpointNotFound),
        ("REQUEST_LIMIT_EXCEEDED", RateLimited),
        ("RESOURCE_EXHAUSTED", RateLimited),
        ("rate_limit_exceeded", RateLimited),
        ("INTERNAL_ERROR", ServiceUnavailable),
        ("internal_error", ServiceUnavailable),
        ("TEMPORARILY_UNAVAILABLE", ServiceUnavailable),
        ("context_length_exceeded", ContextLengthExceeded),
        ("content_filter", ContentFiltered),
        (400, RequestRefused),
        (401, AuthenticationFailed),
        (429, RateLimited),
        ("503", ServiceUnavailable),
        ("SOMETHING_ELSE", ServiceError),
        (None, ServiceError),
        (7, ServiceError),
        (99999, ServiceError),
    ],
)
@pytest.mark.parametrize("status", [None, 200])
def test_class_without_a_status(code: Any, kind: type[ServiceError], status: int | None) -> None:
    """In a stream, and under a status that says success, the code decides the class; the status is not made up."""
    error = refusal({"error": {"message": "No.", "code": code}}, status)

    assert (kind, status) == (type(error), error.status)


@pytest.mark.parametrize(
    "value",
    [
        {"error": "x"},
        {"error": {"a": 1}},
        {"error_code": "X"},
        {"error_code": 5, "choices": []},
        {"object": "error", "message": "x", "type": "a_kind", "code": None},
        {"success": False, "result": None, "errors": [{"message": "x"}], "messages": []},
    ],
)
def test_complains(value: Any) -> None:
    """An object with an error in it is a complaint."""
    assert _refusal.complains(value)


@pytest.mark.parametrize("value", [{}, {"error": None}, {"error": ""}, {"choices": []}, "error", ["error"], None, 5])
def test_does_not_complain(value: Any) -> None:
    """Anything else is none."""
    assert not _refusal.complains(value)


# ── how much ─────────────────────────────────────────────────────────────────────────────────────────────────────

HUGE = "x" * 1_000_000


@pytest.mark.parametrize(
    "body",
    [
        HUGE.encode(),
        f"<html><title>{HUGE}</title>".encode(),
        f"<html>{HUGE}".encode(),
        {"message": HUGE},
        {"error": {"message": HUGE}},
        {"error": HUGE},
        {"detail": [{"msg": HUGE}]},
        [HUGE],
        {"message": within({"message": HUGE})},
        {"message": "\x00" * 1_000_000},
        {"input_guardrail": [{"categories": {HUGE: True}}]},
        {"message": {"x": HUGE}},
    ],
    ids=lambda body: str(body)[:24],
)
def test_message_is_never_huge(body: Any) -> None:
    """However much the service says, a message can be read."""
    assert len(str(refusal(body))) < 2500


def test_page_of_titles_takes_no_time() -> None:
    """A page that opens very many titles and closes none does not hang whoever reads it."""
    assert "a web page" == refusal(b"<html>" + b"<title>" * 1_000_000).message


@pytest.mark.parametrize(
    "opening",
    [
        b"[",
        b'{"error":',
        b'{"message":',
        b'{"detail":[',
        b'{"detail":[1,',
        b'{"detail":[{"loc":[1,',
        b"[1,",
    ],
)
def test_deep_nesting(opening: bytes) -> None:
    """A body nested however deep is some refusal."""
    for depth in (100, *range(300, 1300, 7), 10_000):
        assert isinstance(refusal(opening * depth + b"1" + _closing(opening) * depth), RequestRefused)


@pytest.mark.parametrize(
    "begin", [b'{"error":{"message":', b'{"error":{"innererror":', b'{"detail":[{"msg":', b'{"errors":[1,', b"[1,"]
)
def test_deep_nesting_in_a_field(begin: bytes) -> None:
    """So is one of which a field is."""
    for depth in (100, *range(300, 1300, 7), 10_000):
        assert isinstance(refusal(begin + b"[" * depth + b"]" * depth + _closing(begin)), RequestRefused)


def _closing(opening: bytes) -> bytes:
    return bytes({ord("{"): ord("}"), ord("["): ord("]")}[sign] for sign in reversed(opening) if sign in b"{[")


def test_every_code_is_of_a_class() -> None:
    """Each code known here means an HTTP status that has a class of its own kind."""
    kinds = {type(refusal({"error_code": code, "message": "No."}, None)) for code in _refusal._STATUS_OF_CODE}

    assert kinds <= {getattr(errors, name) for name in errors.__all__} - {ServiceError}
