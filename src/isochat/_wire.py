"""The wire's JSON and isochat's values, one into the other. Pure: no I/O, no clock, no client.

What the service sends comes in more shapes than its documentation shows, so decoding asks of each field what it is
rather than what it should be. A shape that makes sense is read; one that does not is a `MalformedReply` that names
the path. Nothing that was sent is dropped: what has no field of its own stands in `extra`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from isochat import _refusal, _sse
from isochat._gather import Gathering
from isochat._types import (
    Audio,
    ChatChunk,
    ChatResponse,
    Choice,
    ChunkChoice,
    Delta,
    File,
    Image,
    Logprobs,
    Message,
    Part,
    Reasoning,
    Refusal,
    Text,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Unknown,
    Usage,
    Video,
    number,
)
from isochat.errors import InvalidRequest, MalformedReply, ServiceError, StreamInterrupted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from isochat._types import ChatRequest

OK = 200
_NO_EVENT = (b"{", b"[", b"<")  # no field of an event begins so


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer as it was on the wire, whichever client received it. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    raw: Any = field(default=None, compare=False, repr=False)

    @property
    def request_id(self) -> str | None:
        """The identifier to quote to support."""
        return self.headers.get("x-request-id")

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of events, by its look or, where that says nothing, by its type."""
        start = self.body[:64].lstrip()
        if start.startswith((b"data:", b"event:")):
            return True
        return _says_stream(self.headers) and not start.startswith(_NO_EVENT)


# ── questions: values → JSON ─────────────────────────────────────────────────────────────────────────────────────

# What an answer's message carries and a question's may not: the service's decoder answers "Extra inputs are not
# permitted" (BerriAI/litellm#15758 and #36931, cline/cline#6515). They are about the answer, and stay readable there.
ANSWER_ONLY = frozenset(
    {
        "annotations",
        "audio",
        "content_parts",
        "function_call",
        "provider_specific_fields",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "refusal",
        "thinking",
        "thinking_blocks",
    }
)
# What stands beside a tool call and must go back with it, or the next question is refused.
_ECHOED = frozenset({"thoughtSignature", "thought_signature", "extra_content", "cache_control"})


def request_to_json(request: ChatRequest) -> dict[str, Any]:
    """The body of a chat question, without the endpoint's name. Always new: nothing of the caller's is shared."""
    body: dict[str, Any] = {"messages": [message_to_json(message) for message in request.messages]}
    body.update(request.options)
    if request.stream:
        body["stream"] = True
    body.update(request.extra_body)
    return _fresh_object(body)


def to_bytes(body: Any) -> bytes:
    """JSON as it goes over the wire: compact, UTF-8."""
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"the question cannot be written as JSON: {error}") from error


def _fresh_object(value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of JSON values all the way down: clients change what they are given (databricks-openai deletes keys)."""
    return {name: _fresh(item) for name, item in value.items()}


def _fresh(value: Any) -> Any:
    if isinstance(value, dict):
        return _fresh_object(value)
    return [_fresh(item) for item in value] if isinstance(value, list) else value


def message_to_json(message: Message, *, whole: bool = False) -> dict[str, Any]:
    """A message as the service takes it; `whole` keeps what only an answer may say, for storing."""
    calls = [call_to_json(call, whole=whole) for call in message.tool_calls]
    said: dict[str, Any] = {"role": message.role, "content": _content_to_json(message, whole=whole)}
    if calls:
        said["tool_calls"] = calls
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
    if message.name is not None and (whole or message.role != "tool"):
        # A tool's result is named by the call it answers; the service refuses the name that frameworks put beside it.
        said["name"] = message.name
    extra = message.extra
    if whole:
        said |= _said(refusal=message.refusal, reasoning_content=message.reasoning_content)
    elif message.role == "assistant":
        extra = {name: value for name, value in extra.items() if name not in ANSWER_ONLY}
    return _beside(extra, said)


def _content_to_json(message: Message, *, whole: bool) -> Any:
    content = message.content
    if isinstance(content, tuple):
        parts = content
        if not whole and message.role == "assistant" and len(content) > 1:
            # Claude sends empty text beside a tool call or reasoning and refuses it when it comes back.
            parts = tuple(part for part in content if part != Text("")) or content
        if not whole and (not parts or (message.tool_calls and parts == (Text(""),))):
            return None
        return [part_to_json(part) for part in parts]
    if content == "" and message.tool_calls and not whole:
        # The same for plain text (databricks-ai-bridge#333, tidyverse/ellmer#932): an empty string says nothing.
        return None
    return content


def part_to_json(part: Part) -> Any:
    """A content part in the form that the service documents, or as it came."""
    match part:
        case Text(text, extra):
            return {"type": "text", "text": text, **extra}
        case Image(url, detail, extra):
            return {"type": "image_url", "image_url": _said(url=url, detail=detail), **extra}
        case Audio(url, data, form, extra):
            if url is not None:
                return {"type": "audio_url", "audio_url": {"url": url}, **extra}
            return {"type": "input_audio", "input_audio": _said(data=data, format=form), **extra}
        case Video(url, extra):
            return {"type": "video_url", "video_url": {"url": url}, **extra}
        case File(data, filename, file_id, extra):
            return {"type": "file", "file": _said(file_data=data, filename=filename, file_id=file_id), **extra}
        case Reasoning():
            return dict(part.raw) if part.raw is not None else _reasoning_to_json(part)
        case Refusal(refusal, extra):
            return {"type": "refusal", "refusal": refusal, **extra}
        case Unknown(raw):
            return raw
        case _:  # a part as the caller wrote it, inside a Message made by hand
            return part


def _reasoning_to_json(part: Reasoning) -> dict[str, Any]:
    summary: list[dict[str, Any]] = []
    if part.text or part.signature is not None or part.encrypted is None:
        summary.append({"type": "summary_text", "text": part.text, **_said(signature=part.signature)})
    if part.encrypted is not None:
        summary.append({"type": "summary_encrypted_text", "data": part.encrypted})
    return {"type": "reasoning", "summary": summary}


def call_to_json(call: ToolCall, *, whole: bool = True) -> dict[str, Any]:
    extra = dict(call.extra) if whole else {name: value for name, value in call.extra.items() if name in _ECHOED}
    if call.type == "custom":
        inner, said = "custom", {"name": call.name, "input": call.arguments}
    else:
        # Claude's call of a tool without parameters has empty arguments; every other reader wants an object.
        inner, said = "function", {"name": call.name, "arguments": call.arguments if whole else call.arguments or "{}"}
    more = extra.pop(inner, None)  # what stood beside the name
    return {"id": call.id, "type": call.type, inner: {**more, **said} if isinstance(more, dict) else said, **extra}


def response_to_json(response: ChatResponse) -> dict[str, Any]:
    """An answer as an OpenAI `chat.completion`."""
    said = {
        "id": response.id,
        "object": "chat.completion",
        "created": response.created,
        "model": response.model,
        "choices": [_choice_to_json(choice) for choice in response.choices],
        "usage": usage_to_json(response.usage) if response.usage is not None else None,
    }
    return _fresh_object(_beside(response.extra, said))


def _choice_to_json(choice: Choice) -> dict[str, Any]:
    said = {
        "index": choice.index,
        "message": _answer_to_json(choice.message),
        "finish_reason": choice.finish_reason,
        "logprobs": _logprobs_to_json(choice.logprobs),
    }
    return _beside(choice.extra, said)


def usage_to_json(usage: Usage) -> dict[str, Any]:
    """A report as an OpenAI `usage` object, with every count in it whoever made it."""
    said: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    whole = _fresh_object(_beside(usage.extra, said))
    found = decode_usage(whole)
    for details, name, count, known in (
        ("prompt_tokens_details", "cached_tokens", usage.cached_tokens, found.cached_tokens),
        ("completion_tokens_details", "reasoning_tokens", usage.reasoning_tokens, found.reasoning_tokens),
    ):
        if count is not None and known is None:
            whole[details] = {**(whole.get(details) or {}), name: count}
    if usage.cache_creation_tokens is not None and found.cache_creation_tokens is None:
        whole["cache_creation_input_tokens"] = usage.cache_creation_tokens
    return whole


def _beside(extra: Mapping[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """What has fields of its own and what has none, as one object. A null hides nothing that stands there instead."""
    return {**said, **extra, **_said(**said)}


def _answer_to_json(message: Message) -> dict[str, Any]:
    said = message_to_json(message, whole=True)
    if isinstance(message.content, tuple):
        if message.content:
            said["content_parts"] = said["content"]
        said["content"] = message.text if any(isinstance(part, Text) for part in message.content) else None
    if (reasoning := message.reasoning) is not None:
        said["reasoning_content"] = reasoning
    said.setdefault("refusal", None)
    said["role"] = said.get("role") or "assistant"
    return said


def _logprobs_to_json(logprobs: Logprobs | None) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    said = {
        "content": None if logprobs.content is None else [_token_to_json(token) for token in logprobs.content],
        "refusal": None if logprobs.refusal is None else [_token_to_json(token) for token in logprobs.refusal],
    }
    return _beside(logprobs.extra, said)


def _token_to_json(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": None if token.bytes is None else list(token.bytes),
        "top_logprobs": [_token_to_json(other) for other in token.top_logprobs],
    }


def _said(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


# ── answers: JSON → values ───────────────────────────────────────────────────────────────────────────────────────


def decode_reply(reply: Reply) -> ChatResponse:
    """The answer in an HTTP reply, or the error that it amounts to.

    Raises a `ServiceError` if the service said no, under whatever status, and `MalformedReply` if it made no sense.
    """
    if not OK <= reply.status < 300:
        raise _refusal.service_error(reply.status, reply.headers, reply.body)
    raw = reply.raw if reply.raw is not None else reply.body
    if reply.is_event_stream:
        return replace(_collected(reply), request_id=reply.request_id, raw=raw)
    value = read_json(reply.body, reply)
    if _refusal.complains(value) and not (isinstance(value, dict) and value.get("choices")):
        raise _refusal.service_error(reply.status, reply.headers, value)
    try:
        return replace(decode_completion(value), request_id=reply.request_id, raw=raw)
    except MalformedReply as error:
        message = f"the answer makes no sense: {error.message}"
        raise MalformedReply(
            message, status=reply.status, request_id=reply.request_id, body=value, path=error.path
        ) from None


def _collected(reply: Reply) -> ChatResponse:
    """The answer in a stream that was not asked for: nothing says that a custom endpoint heeds `stream`."""
    gathering, complete = Gathering(), False
    try:
        for event in _sse.events_in(reply.body):
            said = decode_event(event)
            complete = complete or said is Done.DONE
            if isinstance(said, ChatChunk):
                gathering.add(said)
    except (ServiceError, MalformedReply) as error:
        error.request_id = error.request_id or reply.request_id
        raise
    if complete or gathering.complete:
        return gathering.response()
    message = "the answer is a stream, which was not asked for, and it ends too early"
    if gathering.empty:
        raise MalformedReply(message, status=reply.status, request_id=reply.request_id, body=reply.body)
    raise StreamInterrupted(message, partial=replace(gathering.response(), request_id=reply.request_id))


# The escape of half a surrogate pair, which is no character, among what it must be told from.
_ESCAPES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def _mended(body: bytes) -> bytes:
    """The body with a replacement character for each half: a model that is cut off in the middle of an emoji."""
    return _ESCAPES.sub(lambda found: rb"\ufffd" if found["half"] else found[0], body)


def read_json(body: bytes, reply: Reply | None = None) -> Any:
    """The JSON that a body holds. Raises `MalformedReply` that says what it holds instead."""
    try:
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            if (mended := _mended(body)) == body:
                raise
            return msgspec.json.decode(mended)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        start = body[:200].lstrip().lower()
        if not start:
            message = "the answer is empty"
        elif start.startswith((b"<!doctype", b"<html", b"<head")):
            message = "the answer is a web page, perhaps a login page: is the host a workspace's own address?"
        else:
            message = f"the answer is not JSON: {error}"
        malformed = MalformedReply(message, body=body)
        if reply is not None:
            malformed.status, malformed.request_id = reply.status, reply.request_id
        raise malformed from error


def decode_completion(value: Any) -> ChatResponse:
    """The answer in a chat completion, an agent's messages, or what older agents wrap around either."""
    try:
        return _answer(value)
    except RecursionError as error:
        raise MalformedReply("nested too deep", body=value) from error


def _answer(value: Any) -> ChatResponse:
    if isinstance(value, dict):
        if isinstance(value.get("choices"), list):
            return _completion(value)
        if isinstance(value.get("messages"), list):
            return _agent_answer(value)
        if "predictions" in value:  # what a plain pyfunc model answers
            return _answer(value["predictions"])
        raise _misshapen("", "a chat completion (`choices`) or an agent's `messages`", value)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        if all("role" in item for item in value):
            return _agent_answer({"messages": value})
        if len(value) == 1:
            return _answer(value[0])
    raise _misshapen("", "a chat completion", value)


def _completion(value: dict[str, Any]) -> ChatResponse:
    rest = dict(value)
    found = [_choice(item, place, f"choices[{place}]") for place, item in enumerate(rest.pop("choices"))]
    usage = _take_usage(rest)
    return ChatResponse(
        choices=tuple(sorted(found, key=lambda choice: choice.index)),
        usage=usage,
        id=_take(rest, "id", str),
        model=_take(rest, "model", str),
        created=_take_number(rest, "created"),
        extra=_left(rest, "object"),
    )


def _agent_answer(value: dict[str, Any]) -> ChatResponse:
    """A ChatAgent's reply: several messages when tools were called; the answer is the last assistant one.

    Where there are several, all of them stand in `extra["messages"]`. MLflow, mlflow/types/agent.py, has the shape.
    """
    rest = dict(value)
    messages = [decode_message(item, f"messages[{place}]") for place, item in enumerate(rest.pop("messages"))]
    answer = next((message for message in reversed(messages) if message.role == "assistant"), None)
    if answer is None:
        answer = messages[-1] if messages else None
    finish_reason = _take(rest, "finish_reason", str)
    usage = _take_usage(rest)
    if len(messages) > 1:
        rest["messages"] = [message.to_dict() for message in messages]
    return ChatResponse(
        choices=() if answer is None else (Choice(0, answer, finish_reason),),
        usage=usage,
        id=_take(rest, "id", str),
        model=_take(rest, "model", str),
        created=_take_number(rest, "created"),
        extra=_left(rest, "object"),
    )


def _choice(value: Any, place: int, path: str) -> Choice:
    if not isinstance(value, dict):
        raise _misshapen(path, "an object", value)
    rest = dict(value)
    index = _take_index(rest, place)
    if isinstance(rest.get("message"), dict):
        message = decode_message(rest.pop("message"), f"{path}.message")
    else:
        if rest.get("message") is not None:
            raise _misshapen(f"{path}.message", "an object", rest["message"])
        rest.pop("message", None)
        message = Message(role=None, content=_take(rest, "text", str))
    return Choice(
        index=index,
        message=message,
        finish_reason=_take(rest, "finish_reason", str),
        logprobs=_take_logprobs(rest),
        extra=_left(rest),
    )


def decode_message(value: Any, path: str, *, sent: bool = True) -> Message:
    """A message in any of the service's shapes; what the service `sent`, or what a caller says in the same form."""
    if not isinstance(value, dict):
        raise _misshapen(path, "an object", value)
    rest = dict(value)
    role = _take(rest, "role", str)
    content = _take_content(rest, f"{path}.content", sent=sent)
    return Message(
        role=role,
        content=content,
        tool_calls=tuple(
            ToolCall(piece.id, piece.name or "", piece.arguments, piece.type or "function", piece.extra)
            for piece in _take_calls(rest, path)
        ),
        tool_call_id=_take(rest, "tool_call_id", str),
        name=_take(rest, "name", str),
        refusal=_take(rest, "refusal", str),
        reasoning_content=_take_reasoning(rest),
        extra=_left(rest) if sent else _said(**rest),
    )


def _take_calls(rest: dict[str, Any], path: str) -> tuple[ToolCallDelta, ...]:
    """The tool calls; or the one call of the older `function_call`, which has no id."""
    found = rest.pop("tool_calls", None)
    if found is not None and not isinstance(found, list):
        raise _misshapen(f"{path}.tool_calls", "a list", found)
    calls = tuple(_call_delta(item, f"{path}.tool_calls[{place}]") for place, item in enumerate(found or ()))
    older = rest.get("function_call")
    if not calls and isinstance(older, dict) and (older.get("name") or older.get("arguments")):
        calls = (_call_delta({"function": rest.pop("function_call")}, f"{path}.function_call"),)
    return calls


def _call_delta(value: Any, path: str) -> ToolCallDelta:
    if not isinstance(value, dict):
        raise _misshapen(path, "an object", value)
    rest = dict(value)
    kind = _take(rest, "type", str)
    custom = kind == "custom" or (kind is None and "custom" in rest and "function" not in rest)
    body_key, text_key = ("custom", "input") if custom else ("function", "arguments")
    body = rest.pop(body_key, None)
    if body is None:
        body = {}
    elif not isinstance(body, dict):
        raise _misshapen(f"{path}.{body_key}", "an object", body)
    body = dict(body)
    arguments = body.pop(text_key, None)
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):  # some servers send the object itself
        arguments = msgspec.json.encode(arguments).decode()
    name = _take(body, "name", str)
    if body:
        rest[body_key] = body
    index = rest.pop("index", None)
    return ToolCallDelta(
        index=index if isinstance(index, int) else None,
        id=_take(rest, "id", str),
        name=name,
        arguments=arguments,
        type=kind,
        extra=_left(rest),
    )


def decode_part(value: Any, *, sent: bool = True) -> Part:
    """A content part; one without a name here, or with more in it than there is room for, is kept as it came."""
    if isinstance(value, str):
        return Text(value)
    if not isinstance(value, dict):
        return Unknown(value)
    rest = dict(value)
    kind = rest.pop("type", None)
    match kind:
        case "text" | "output_text" if isinstance(rest.get("text"), str):
            return Text(rest.pop("text"), _left(rest) if sent else rest)
        case "reasoning" | "thinking" | "redacted_thinking":
            return _reasoning(value)
        case "refusal" if isinstance(rest.get("refusal"), str):
            return Refusal(rest.pop("refusal"), rest)
        case "image_url" | "audio_url" | "video_url" | "input_audio" | "file":
            return _media(kind, rest.pop(kind, None), rest) or Unknown(value)
        case _:
            return Unknown(value)


def _media(kind: str, inner: Any, extra: dict[str, Any]) -> Part | None:
    if not isinstance(inner, dict) or not all(isinstance(text, str) for text in inner.values()):
        return None
    fields = set(inner)
    if kind == "image_url" and {"url"} <= fields <= {"url", "detail"}:
        return Image(inner["url"], inner.get("detail"), extra)
    if kind == "audio_url" and fields == {"url"}:
        return Audio(url=inner["url"], extra=extra)
    if kind == "video_url" and fields == {"url"}:
        return Video(inner["url"], extra)
    if kind == "input_audio" and {"data"} <= fields <= {"data", "format"}:
        return Audio(data=inner["data"], format=inner.get("format"), extra=extra)
    if kind == "file" and fields and fields <= {"file_data", "filename", "file_id"}:
        return File(inner.get("file_data"), inner.get("filename"), inner.get("file_id"), extra)
    return None


def _reasoning(value: dict[str, Any]) -> Reasoning:
    """Reasoning as Databricks blocks it (a `summary` of texts), or as a provider's own thinking block."""
    texts: list[str] = []
    signature = value.get("signature")
    encrypted = value.get("encrypted_content", value.get("data"))
    blocks = [value.get(key) for key in ("summary", "content", "thinking", "text", "reasoning")]
    for block in blocks:
        if isinstance(block, str):
            texts.append(block)
        for item in block if isinstance(block, list) else ():
            if not isinstance(item, dict):
                continue
            if isinstance(item.get("text"), str):
                texts.append(item["text"])
            signature = item.get("signature") or signature
            encrypted = item.get("data") or encrypted
    return Reasoning(
        text="".join(texts),
        signature=signature if isinstance(signature, str) else None,
        encrypted=encrypted if isinstance(encrypted, str) else None,
        raw=value,
    )


# ── streams: events → values ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a streamed reply: what can be said before anything of it has been read."""

    request_id: str | None = None


class Incoming:
    """The bytes of a reply to a question that asked for a stream, as the events that they hold.

    A reply that is no stream after all (an error, a web page, a whole answer) comes as one `Reply` at its end.
    """

    def __init__(self, status: int, headers: Mapping[str, str], raw: Any = None) -> None:
        self._whole: list[bytes] | None = [] if status != OK or not _says_stream(headers) else None
        self._status, self._headers, self._raw = status, headers, raw
        self._decoder = _sse.EventDecoder()
        self._begun = False

    @property
    def head(self) -> Head:
        """What the headers say."""
        return Head(self._headers.get("x-request-id"))

    def feed(self, read: bytes) -> Iterator[_sse.Event]:
        """Take what was read; give the events that it completes."""
        if self._whole is None and not self._begun and read.strip():
            self._begun = True
            if read.lstrip().startswith(_NO_EVENT):  # the type was wrong
                self._whole = []
        if self._whole is not None:
            self._whole.append(read)
            return
        yield from self._decoder.feed(read)

    def close(self) -> Iterator[_sse.Event | Reply]:
        """The reply has ended: give what was left."""
        if self._whole is not None or not self._begun:
            yield Reply(self._status, self._headers, b"".join(self._whole or ()), self._raw)
        else:
            yield from self._decoder.close()


def _says_stream(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").startswith("text/event-stream")


class Done(enum.Enum):
    """The service's word that a stream is complete."""

    DONE = "[DONE]"


def decode_event(event: Any) -> ChatChunk | Done | None:
    """What one event of a stream adds; None for one that adds nothing, such as a ping.

    Raises a `ServiceError` if the event is the service's complaint, and `MalformedReply` if it makes no sense.
    """
    if isinstance(event, Reply):
        return whole_as_chunk(decode_reply(event))
    if isinstance(event, Head):
        return None
    data = event.data.strip()
    if data == b"[DONE]":
        return Done.DONE
    if not data or event.type == "ping":
        return None
    try:
        value = read_json(data)
    except MalformedReply:
        if event.type == "error":
            raise _refusal.service_error(None, {}, data) from None
        raise
    if event.type == "error" and not _refusal.complains(value):
        raise _refusal.service_error(None, {}, value)
    return decode_chunk(value)


def decode_chunk(value: Any) -> ChatChunk:
    """A chunk in JSON, or an agent's delta, or a whole answer where a piece was expected."""
    if _refusal.complains(value):
        raise _refusal.service_error(None, {}, value)
    if not isinstance(value, dict):
        raise _misshapen("", "a chunk", value)
    if not value.keys() & {"choices", "delta"} and value.keys() & {"messages", "predictions"}:
        return replace(whole_as_chunk(decode_completion(value)), raw=value)  # an agent's whole answer in one event
    try:
        return _chunk(value)
    except RecursionError as error:
        raise MalformedReply("nested too deep", body=value) from error


def _chunk(value: dict[str, Any]) -> ChatChunk:
    rest = dict(value)
    choices = rest.pop("choices", None)
    if choices is None:
        choices = [_agent_piece(rest)] if "delta" in rest else []
    elif not isinstance(choices, list):
        raise _misshapen("choices", "a list", choices)
    usage = _take_usage(rest)
    return ChatChunk(
        choices=tuple(_chunk_choice(item, place, f"choices[{place}]") for place, item in enumerate(choices)),
        usage=usage,
        id=_take(rest, "id", str),
        model=_take(rest, "model", str),
        created=_take_number(rest, "created"),
        extra=_left(rest, "object"),
        raw=value,
    )


def whole_as_chunk(response: ChatResponse) -> ChatChunk:
    """A whole answer as the only chunk of a stream: what to give when a stream was asked for and did not come."""
    return ChatChunk(
        choices=tuple(
            ChunkChoice(
                index=choice.index,
                delta=Delta(
                    role=choice.message.role,
                    content=choice.message.content,
                    tool_calls=tuple(
                        ToolCallDelta(place, call.id, call.name, call.arguments, call.type, call.extra)
                        for place, call in enumerate(choice.message.tool_calls)
                    ),
                    refusal=choice.message.refusal,
                    reasoning_content=choice.message.reasoning_content,
                    extra=choice.message.extra,
                ),
                finish_reason=choice.finish_reason,
                logprobs=choice.logprobs,
                extra=choice.extra,
            )
            for choice in response.choices
        ),
        usage=response.usage,
        id=response.id,
        model=response.model,
        created=response.created,
        extra=response.extra,
        raw=response.raw,
    )


def _agent_piece(rest: dict[str, Any]) -> dict[str, Any]:
    """A ChatAgent's chunk, `{"delta": {…}}`, as the choice that it amounts to; its message id goes with the delta."""
    piece = {"index": 0, "delta": rest.pop("delta")}
    if "finish_reason" in rest:
        piece["finish_reason"] = rest.pop("finish_reason")
    return piece


def _chunk_choice(value: Any, place: int, path: str) -> ChunkChoice:
    if not isinstance(value, dict):
        raise _misshapen(path, "an object", value)
    rest = dict(value)
    index = _take_index(rest, place)
    # A server that does not stream may send its one chunk with a `message`; old completions say `text`.
    said = next((rest.pop(key) for key in ("delta", "message") if isinstance(rest.get(key), dict)), None)
    if said is None:
        if rest.get("delta") is not None:
            raise _misshapen(f"{path}.delta", "an object", rest["delta"])
        rest.pop("delta", None)
        said = {"content": rest.pop("text")} if isinstance(rest.get("text"), str) else {}
    return ChunkChoice(
        index=index,
        delta=_delta(said, f"{path}.delta"),
        finish_reason=_take(rest, "finish_reason", str),
        logprobs=_take_logprobs(rest),
        extra=_left(rest),
    )


def _delta(value: dict[str, Any], path: str) -> Delta:
    rest = dict(value)
    role = _take(rest, "role", str)
    content = _take_content(rest, f"{path}.content")
    return Delta(
        role=role,
        content=content,
        tool_calls=_take_calls(rest, path),
        refusal=_take(rest, "refusal", str),
        reasoning_content=_take_reasoning(rest),
        extra=_left(rest),
    )


# ── fields ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _take(rest: dict[str, Any], name: str, kind: type[str]) -> str | None:
    """Take a field if it is of the kind expected; of any other kind, it stays among the rest."""
    return rest.pop(name) if isinstance(rest.get(name), kind) else None


def _take_number(rest: dict[str, Any], name: str) -> float | None:
    return None if (found := number(rest.get(name))) is None else (rest.pop(name), found)[1]


def _take_index(rest: dict[str, Any], place: int) -> int:
    index = rest.get("index")
    if isinstance(index, int) and not isinstance(index, bool):
        del rest["index"]
        return index
    return place


def _take_content(rest: dict[str, Any], path: str, *, sent: bool = True) -> str | tuple[Part, ...] | None:
    content = rest.pop("content", None)
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        return tuple(decode_part(item, sent=sent) for item in content)
    if isinstance(content, dict):
        return (decode_part(content, sent=sent),)
    raise _misshapen(path, "text or a list of parts", content)


def _take_reasoning(rest: dict[str, Any]) -> str | None:
    """Reasoning beside the content, under whichever of its names; a second name for the same text is no news."""
    found: str | None = None
    for name in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(rest.get(name), str) and (not found or rest[name] in ("", found)):
            found = rest.pop(name) or found or ""
    return found


def _take_usage(rest: dict[str, Any]) -> Usage | None:
    if not isinstance(rest.get("usage"), dict):
        return None
    return decode_usage(rest.pop("usage"))


def decode_usage(report: Mapping[str, Any]) -> Usage:
    """The service's report, with the counts that hide under many names found."""
    rest = dict(report)
    counts = {}
    for name, other in (("prompt", "input"), ("completion", "output"), ("total", "total")):
        key = f"{name}_tokens"
        counts[key] = _count(rest, key) if _count(rest, key) is not None else _count(rest, f"{other}_tokens")
        if rest.get(key) is None or counts[key] is not None:
            rest.pop(key, None)
    return Usage(
        **counts,
        cached_tokens=_first_count(
            report,
            ("prompt_tokens_details", "cached_tokens"),
            ("input_tokens_details", "cached_tokens"),
            ("cache_read_input_tokens",),
            ("prompt_cache_hit_tokens",),
            ("cached_tokens",),
        ),
        cache_creation_tokens=_first_count(
            report,
            ("cache_creation_input_tokens",),
            ("prompt_tokens_details", "cache_creation_tokens"),
            ("prompt_tokens_details", "cache_write_tokens"),
        ),
        reasoning_tokens=_first_count(
            report,
            ("completion_tokens_details", "reasoning_tokens"),
            ("output_tokens_details", "reasoning_tokens"),
            ("reasoning_tokens",),
        ),
        extra=_left(rest),
    )


def _first_count(report: Mapping[str, Any], *paths: tuple[str, ...]) -> int | None:
    for *outer, last in paths:
        where: Any = report
        for key in outer:
            where = where.get(key)
            if not isinstance(where, dict):
                where = {}
        if (found := _count(where, last)) is not None:
            return found
    return None


def _count(report: Mapping[str, Any], name: str) -> int | None:
    found = number(report.get(name))
    return int(found) if found is not None and found == int(found) else None


def _take_logprobs(rest: dict[str, Any]) -> Logprobs | None:
    found = rest.get("logprobs")
    if not isinstance(found, dict):
        return None
    inner = dict(rest.pop("logprobs"))
    lists = {name: _tokens(inner.pop(name)) for name in ("content", "refusal") if _tokens(inner.get(name)) is not None}
    extra = _left(inner)
    return Logprobs(lists.get("content"), lists.get("refusal"), extra) if lists or extra else None


def _tokens(found: Any) -> tuple[TokenLogprob, ...] | None:
    """The tokens, or None if any of them is not what the field is documented to hold."""
    if not isinstance(found, list):
        return None
    tokens = [_token(item) for item in found]
    return None if None in tokens else tuple(token for token in tokens if token is not None)


def _token(item: Any) -> TokenLogprob | None:
    if not isinstance(item, dict) or not isinstance(item.get("token"), str):
        return None
    logprob = number(item.get("logprob"))
    others = _tokens(item.get("top_logprobs") or [])
    if logprob is None or others is None or not item.keys() <= {"token", "logprob", "bytes", "top_logprobs"}:
        return None
    octets = item.get("bytes")
    if octets is not None and not (isinstance(octets, list) and all(isinstance(octet, int) for octet in octets)):
        return None
    return TokenLogprob(item["token"], logprob, None if octets is None else tuple(octets), others)


def _left(rest: dict[str, Any], *also: str) -> dict[str, Any]:
    """What is left of an object. Null, an empty list and an empty object say nothing: sent and absent are the same.

    (A whole answer of GPT's has `annotations: []`, and the same answer streamed has none.)
    """
    return {name: value for name, value in rest.items() if value not in (None, [], {}) and name not in also}


def _misshapen(path: str, expected: str, got: Any) -> MalformedReply:
    where = f"{path}: " if path else ""
    kinds = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "a truth value"}
    found = kinds.get(type(got), "null" if got is None else type(got).__name__)
    return MalformedReply(f"{where}expected {expected}, got {found}", body=got, path=path)
