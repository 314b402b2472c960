"""A chat question as a SQL statement, and what a statement gives back as an answer. Pure.

`ai_query()` takes the endpoint as a literal and one prompt, and gives one text. So most of this file is about what may
stand in a statement. The caller's own text is never part of it: it is bound as a parameter. What must be a literal is
either checked against an alphabet in which nothing can be written but itself, or written in ASCII without a quote.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from isochat import _refusal, _wire
from isochat._frozen import changed
from isochat._types import ChatResponse, Choice, Message, Reasoning, Text
from isochat.errors import InvalidRequest, MalformedReply, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from isochat._types import ChatRequest

    PromptTemplate: TypeAlias = Callable[[tuple[Message, ...]], str]

#: The options that `modelParameters` says. Left out is what would not come back (`n`, `logprobs`), what one prompt and
#: one text have no room for (tools), and what is about the request and not about the model (`user`, tags).
PARAMETERS = (
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "reasoning_effort",
    "thinking",
    "output_config",
    "frequency_penalty",
    "presence_penalty",
    "seed",
)

# The names of serving endpoints are letters, digits, "-" and "_"; those of Unity Catalog have dots between them.
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BIGINT = 2**63


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement and its named parameters, all of them text. The repr shows neither prompt nor stop strings."""

    text: str
    parameters: Mapping[str, str] = field(repr=False)


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────


def statement(request: ChatRequest, template: PromptTemplate | None = None) -> Statement:
    """The statement that asks it. Raises `InvalidRequest` for what no statement should hold.

    `template` makes one prompt of a conversation; a single user message of text needs none.
    """
    bound = {"prompt": prompt(request.messages, template)}
    named: list[str] = []
    options = dict(request.options)
    wanted = options.pop("response_format", None)
    if options:
        said = (f"'{name}', {_value(value, name, bound)}" for name, value in options.items())
        named.append(f"modelParameters => named_struct({', '.join(said)})")
    if wanted is not None:
        named.append(f"responseFormat => {_json_literal(wanted)}")
    # Without it, what the model's endpoint refuses would fail the whole statement.
    named.append("failOnError => false")
    return Statement(f"SELECT ai_query({_endpoint(request.endpoint)}, :prompt, {', '.join(named)}) AS answer", bound)


def _endpoint(name: str) -> str:
    """An endpoint's name as a literal: `ai_query` takes it in no other form."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "an endpoint's name stands in the statement itself, and this one has a character that may not",
            path="endpoint",
            hint="Letters, digits, hyphens, underscores and dots may.",
        )
    return f"'{name}'"


def _value(value: Any, path: str, bound: dict[str, str]) -> str:
    """A JSON value as an expression. Text is bound."""
    match value:
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int() if -_BIGINT <= value < _BIGINT:
            return str(value)
        case float() if math.isfinite(value):
            return f"CAST({value!r} AS DOUBLE)"  # as it stands it would be a DECIMAL, which ai_query refuses
        case str():
            name = f"p{len(bound)}"
            bound[name] = value
            return f":{name}"
        case list():
            return f"array({', '.join(_value(item, f'{path}[{at}]', bound) for at, item in enumerate(value))})"
        case dict() if all(_KEY.fullmatch(key) for key in value):
            members = (f"'{key}', {_value(item, f'{path}.{key}', bound)}" for key, item in value.items())
            return f"named_struct({', '.join(members)})"
    raise InvalidRequest("SQL has no way to say this", path=path)


def _json_literal(value: Any) -> str:
    r"""JSON as a SQL literal: in ASCII, and without the characters that mean something to SQL or to Spark's `${…}`.

    Both can stand in JSON's own texts only, where `\u0027` says the same.
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    text = text.replace("'", r"\u0027").replace("$", r"\u0024").replace("\x7f", r"\u007f")
    return "'" + text.replace("\\", "\\\\") + "'"


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def prompt(messages: tuple[Message, ...], template: PromptTemplate | None) -> str:
    """The conversation as one prompt."""
    first = messages[0]
    if len(messages) == 1 and first.role == "user" and _plain(first):
        return first.text
    if template is None:
        raise Conversation
    made = template(messages)
    if not isinstance(made, str):
        raise InvalidRequest(
            f"the prompt template gave {type(made).__name__}, and a prompt is text", path="prompt_template"
        )
    return made


class Conversation(Exception):
    """More than a prompt, and nobody said how to write it as one."""


def plain(messages: tuple[Message, ...]) -> str:
    """The texts of the messages, in their order, a blank line between them; who said which is lost."""
    return "\n\n".join(_texts(messages))


def roles(messages: tuple[Message, ...]) -> str:
    """Each message after its role, as in `User: …`, a blank line between them, and `Assistant:` at the end."""
    said = [
        f"{(message.role or 'assistant').capitalize()}: {text}"
        for message, text in zip(messages, _texts(messages), strict=True)
    ]
    return "\n\n".join([*said, "Assistant:"])


#: The templates that have a name.
TEMPLATES: Mapping[str, PromptTemplate] = {"plain": plain, "roles": roles}


_SEALED = {"thoughtSignature", "thought_signature"}  # what Gemini thought, beside what it said


def _plain(message: Message) -> bool:
    """Whether its text is all there is of it."""
    bare = all(isinstance(part, Text) and not part.extra for part in message.parts)
    return bare and not (message.tool_calls or message.tool_call_id or message.name or message.extra)


def _texts(messages: tuple[Message, ...]) -> Iterator[str]:
    """The text of each message. What the model thought is left out, which the service allows; nothing else is."""
    for at, message in enumerate(messages):
        for place, part in enumerate(message.parts):
            more = part.extra.keys() - _SEALED if isinstance(part, Text) else ()
            beside = f" with {', '.join(sorted(more))}" if more else ""
            if beside or not isinstance(part, Text | Reasoning):
                raise InvalidRequest(
                    f"a prompt is text alone, and this is {type(part).__name__}{beside}",
                    path=f"messages[{at}].content[{place}]",
                )
        for name in ("tool_calls", "tool_call_id", "name"):
            if getattr(message, name):
                raise InvalidRequest("a prompt has no place for it", path=f"messages[{at}].{name}")
        if more := set(message.extra) - (_wire.ANSWER_ONLY if message.role == "assistant" else set()):
            raise InvalidRequest("a prompt has no place for it", path=f"messages[{at}].{min(more)}")
        yield message.text


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

# The official texts disagree on what the fields of the struct are called.
_RESULT = ("result", "response")
_ERROR = ("errorMessage", "errorStatus", "error")
_ID = re.compile(r"[A-Za-z0-9_-]+")
_UNFINISHED = frozenset({"PENDING", "RUNNING"})


def running(reply: _wire.Reply) -> str | None:
    """The id of a statement that has not ended; None if it has, or if the reply is none to be read."""
    if not _wire.OK <= reply.status < 300:
        return None
    try:
        said = _wire.read_json(reply.body)
    except MalformedReply:
        return None
    status = said.get("status") if isinstance(said, dict) else None
    if not isinstance(status, dict) or status.get("state") not in _UNFINISHED:
        return None
    found = said.get("statement_id")
    # It becomes part of a path, as it is: of another form it would ask something else.
    return found if isinstance(found, str) and _ID.fullmatch(found) else None


def decode(reply: _wire.Reply) -> ChatResponse:
    """The answer in what the Statement Execution API said, or the error that it amounts to."""
    if not _wire.OK <= reply.status < 300:
        raise _refusal.service_error(reply.status, reply.headers, reply.body)
    said = _wire.read_json(reply.body, reply)
    if _refusal.complains(said):
        raise _refusal.service_error(reply.status, reply.headers, said)
    try:
        response = _response(said, reply)
    except MalformedReply as error:
        error.status, error.request_id = reply.status, reply.request_id
        error.body = said if error.body is None else error.body
        raise
    return changed(response, request_id=reply.request_id, raw=reply.raw or said)


def _response(said: Any, reply: _wire.Reply) -> ChatResponse:
    status = said.get("status") if isinstance(said, dict) else None
    state = status.get("state") if isinstance(status, dict) else None
    if state == "SUCCEEDED":
        return answer(*_cell(said), reply)
    if state in {"FAILED", "CANCELED", "CLOSED"} and isinstance(status, dict):
        raise _ended(str(state), status.get("error"), reply)
    raise MalformedReply("the answer makes no sense: expected a statement's state", path="status.state")


def answer(cell: Any, kind: str | None = None, reply: _wire.Reply | None = None) -> ChatResponse:
    """The answer in the one cell of the result: a struct, as an object or as its JSON, or a text.

    `kind` is the type of its column, if that is known. `reply` is None where there was no HTTP, as under Spark.
    """
    struct = cell if isinstance(cell, dict) else _struct(cell, kind)
    if struct is None:
        return _said(cell)
    complaint = next((struct[name] for name in _ERROR if struct.get(name) is not None), None)
    if complaint is not None:
        raise refusal(complaint, reply)
    return _said(next((struct[name] for name in _RESULT if name in struct), None))


def _said(result: Any) -> ChatResponse:
    # With a return type of its own, the result is a value: its JSON is the text that the other backends give.
    text = result if result is None or isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    return ChatResponse(choices=(Choice(0, Message("assistant", text)),), raw=result)


def _struct(cell: Any, kind: str | None) -> dict[str, Any] | None:
    """The struct that a cell's text is; None for a text that is the answer itself."""
    if kind == "STRING" or not isinstance(cell, str) or not cell.startswith("{"):
        return None
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    known = {*_RESULT, *_ERROR}
    return value if kind == "STRUCT" or (value.keys() <= known and value.keys() & set(_ERROR)) else None


def _cell(said: dict[str, Any]) -> tuple[Any, str | None]:
    try:
        rows = said["result"]["data_array"]
        ((cell,),) = rows
    except (KeyError, TypeError, ValueError):
        raise MalformedReply(
            "the answer makes no sense: expected one row of one column", path="result.data_array"
        ) from None
    if not isinstance(cell, str | dict | None):
        raise MalformedReply("the answer makes no sense: expected text in its cell", path="result.data_array[0][0]")
    try:
        kind = said["manifest"]["schema"]["columns"][0]["type_name"]
    except (KeyError, TypeError, IndexError):
        kind = None
    return cell, kind if isinstance(kind, str) else None


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────

# `[REMOTE_FUNCTION_HTTP_FAILED_ERROR] The remote HTTP request failed with code 404, and error message 'HTTP request
# failed with status: {…}' SQLSTATE: 57012` (databricks-demos/dbdemos issue 220); after retrying, it says `the last
# failed HTTP error code was 503 and the message was …`.
_STATUS = re.compile(
    r"\b(?:failed with code|error code(?: was)?:?|HTTP|status(?: code)?:?)\s*([1-5]\d\d)\b", re.IGNORECASE
)
_CLASS = re.compile(r"^\s*\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]\s*")
# What Spark's Java says before it.
_FRAME = re.compile(r"^.*?Exception: (?=\[[A-Z])", re.DOTALL)
_STATE = re.compile(r"[.\s]*\bSQLSTATE:\s*\w{5}.*$", re.DOTALL)
_WITHIN = re.compile(
    r"(?:,? and error message '|failed with code \d+:\s*|the message was )(?:HTTP request failed with status: ?)?(.*)",
    re.DOTALL,
)
# What tells such a body from other JSON in an error, such as the statement's own `responseFormat` in a parser's words.
_BODY = frozenset(
    {"detail", "error", "error_code", "external_model_error", "input_guardrail", "message", "output_guardrail"}
)
_NONSENSE = re.compile(r"AI_FUNCTION_(?:INVALID_HTTP_RESPONSE|HTTP_PARSE_\w+)")
# What the statement's own error says, in its words, where it names no status.
_MEANS = (
    (
        404,
        re.compile(
            r"endpoint\b.*\b(?:does not exist|not found|doesn't exist)|ENDPOINT_NOT_FOUND", re.IGNORECASE | re.DOTALL
        ),
    ),
    (
        403,
        re.compile(
            r"PERMISSION_DENIED|INSUFFICIENT_PERMISSIONS|not authori[sz]ed|lacks? .*permission",
            re.IGNORECASE | re.DOTALL,
        ),
    ),
    (429, re.compile(r"REQUEST_LIMIT_EXCEEDED|RESOURCE_EXHAUSTED|rate limit|too many requests", re.IGNORECASE)),
    (503, re.compile(r"^\s*\[REMOTE_FUNCTION_HTTP_RETRY_TIMEOUT\]|timed out", re.IGNORECASE)),
    (400, re.compile(r"^\s*\[(?:AI_FUNCTION_(?:INVALID|UNSUPPORTED|MODEL_SCHEMA)|DATATYPE|INVALID|PARSE|UN[A-Z]+)_")),
)
# databricks-sdk, `ServiceErrorCode` of service/sql.py, where it means more than its own name says to `_refusal`.
_MEANT = {
    "ALREADY_EXISTS": 409,
    "IO_ERROR": 503,
    "SERVICE_UNDER_MAINTENANCE": 503,
    "UNKNOWN": 500,
    "WORKSPACE_TEMPORARILY_UNAVAILABLE": 503,
}


def refusal(complaint: Any, reply: _wire.Reply | None = None, code: str | None = None) -> ServiceError | MalformedReply:
    """The error that a failed statement, or a failed call of the model in one that succeeded, amounts to.

    The status is the one that the model's endpoint gave, if the words say it, else that of the statement's own reply.
    """
    headers = {} if reply is None else reply.headers
    if isinstance(complaint, dict):
        words = next((complaint[key] for key in ("message", "errorMessage") if isinstance(complaint.get(key), str)), "")
        words = words or json.dumps(complaint, ensure_ascii=False)
    else:
        words = _FRAME.sub("", str(complaint))
    named = _CLASS.match(words)
    if named and _NONSENSE.match(named[1]):
        said = _STATE.sub("", words)
        return MalformedReply(f"the endpoint's answer made no sense to ai_query: {said}", body=complaint)
    within = _within(words)
    found = _STATUS.search(words.partition("{")[0])
    status = int(found[1]) if found else None
    if status is not None and within is not None:
        error = _refusal.service_error(status, headers, within)
    else:
        body = within if isinstance(within, dict) else {"message": _STATE.sub("", words)}
        if not body.keys() & {"error_code", "error"}:
            body = {**body, "error_code": code or (named[1] if named else None)}
        means = status or (None if isinstance(within, dict) else _means(words, code))
        error = _refusal.service_error(means, headers, body)
        error.status = status if status is not None or reply is None else reply.status
    error.body = complaint
    return error


def _within(words: str) -> dict[str, Any] | str | None:
    """The body that the endpoint answered with, where the words repeat it."""
    found = _WITHIN.search(words)
    if "{" in words:
        text = words[words.index("{") :]
        for tried in (text, text.replace(r"\'", "'")):  # as dbdemos issue 220 shows it
            try:
                value, _ = json.JSONDecoder().raw_decode(tried)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict) and value.keys() & _BODY:
                return value
    return _STATE.sub("", found[1]).removesuffix("'") if found else None


def _means(words: str, code: str | None) -> int | None:
    for status, pattern in _MEANS:
        if pattern.search(words):
            return status
    return _MEANT.get((code or "").upper())


def _ended(state: str, error: Any, reply: _wire.Reply) -> ServiceError | MalformedReply:
    if isinstance(error, dict) and isinstance(error.get("message"), str) and error["message"]:
        code = error.get("error_code")
        found = refusal(error["message"], reply, code if isinstance(code, str) else None)
        if found.body == error["message"]:
            found.body = error
        return found
    words = {
        "FAILED": "the statement failed, and nothing says why",
        "CANCELED": "the statement was cancelled by somebody else",
        "CLOSED": "the statement was closed before its result was fetched",
    }[state]
    code = error.get("error_code") if isinstance(error, dict) else None
    return _refusal.service_error(reply.status, reply.headers, {"error_code": code or state, "message": words})
