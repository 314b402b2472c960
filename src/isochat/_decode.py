"""The wire's JSON as isochat's values: answers, whole and in pieces. Pure.

What the service sends comes in more shapes than its documentation shows, so decoding asks of each field what it is
rather than what it should be. A shape that makes sense is read; one that does not is a `MalformedReply` that names
the path. Nothing that was sent is dropped: what has no field of its own stands in `extra`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from isochat import _refusal
from isochat._frozen import changed
from isochat._history import ORIGIN
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
from isochat.errors import MalformedReply

if TYPE_CHECKING:
    from collections.abc import Mapping

# ── whole answers ────────────────────────────────────────────────────────────────────────────────────────────────


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
        origin=_take(rest, ORIGIN, str),
        extra=_left(rest) if sent else _stated(rest),
    )


def _take_calls(rest: dict[str, Any], path: str) -> tuple[ToolCallDelta, ...]:
    """The tool calls; or the one call of the older `function_call`, which has no id."""
    found = rest.pop("tool_calls", None)
    if isinstance(found, dict) and "function" in found:  # an older TGI's, in a stream
        found = [found]
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
    return ToolCallDelta(
        index=_whole_number(rest.pop("index", None)),
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
        case "reasoning" | "reasoning_text" | "thinking" | "redacted_thinking":
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
        item="encrypted_content" in value,
    )


# ── pieces ───────────────────────────────────────────────────────────────────────────────────────────────────────


def decode_chunk(value: Any) -> ChatChunk:
    """A chunk in JSON, or an agent's delta, or a whole answer where a piece was expected."""
    if _refusal.complains(value):
        raise _refusal.service_error(None, {}, value)
    if not isinstance(value, dict):
        raise _misshapen("", "a chunk", value)
    if not value.keys() & {"choices", "delta"} and value.keys() & {"messages", "predictions"}:
        return changed(whole_as_chunk(decode_completion(value)), raw=value)  # an agent's whole answer in one event
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
                    extra={**choice.message.extra, **_named(choice.message)},
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


def _named(message: Message) -> dict[str, str]:
    """What a delta has no field for and a message has: it goes with the rest, and is found there again."""
    said = {"name": message.name, "tool_call_id": message.tool_call_id}
    return {name: value for name, value in said.items() if value is not None}


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
    index = _whole_number(rest.get("index"))
    if index is None:
        return place
    del rest["index"]
    return index


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
    return reported(rest.pop("usage")) if isinstance(rest.get("usage"), dict) else None


def reported(report: Mapping[str, Any]) -> Usage | None:
    """A report as it came; None for one in which nothing stands, as in Claude's chunks before the last."""
    usage = decode_usage(report)
    return None if usage == _NOTHING else usage


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


_NOTHING = Usage()


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
    return _whole_number(report.get(name))


def _whole_number(value: Any) -> int | None:
    found = number(value)
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


def _stated(rest: dict[str, Any]) -> dict[str, Any]:
    """What is left of what a caller said: an empty value may be meant, a null is not."""
    return {name: value for name, value in rest.items() if value is not None}


def _misshapen(path: str, expected: str, got: Any) -> MalformedReply:
    where = f"{path}: " if path else ""
    kinds = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "a truth value"}
    found = kinds.get(type(got), "null" if got is None else type(got).__name__)
    return MalformedReply(f"{where}expected {expected}, got {found}", body=got, path=path)
