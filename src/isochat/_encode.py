"""isochat's values as the wire's JSON: questions as the service takes them, answers as a chat completion. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from isochat._decode import decode_usage
from isochat._history import ANSWER_ONLY, ORIGIN, bound
from isochat._types import Audio, File, Image, Reasoning, Refusal, Text, Unknown, Video
from isochat.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isochat._types import (
        ChatRequest,
        ChatResponse,
        Choice,
        Logprobs,
        Message,
        Part,
        TokenLogprob,
        ToolCall,
        Usage,
    )


# What stands beside a tool call and must go back with it, or the next question is refused.
_ECHOED = frozenset({"thoughtSignature", "thought_signature", "extra_content", "cache_control"})


def request_to_json(request: ChatRequest) -> dict[str, Any]:
    """The body of a chat question, without the endpoint's name. Always new: nothing of the caller's is shared."""
    body: dict[str, Any] = {"messages": _spoken([message_to_json(message) for message in request.messages])}
    body.update(request.options)
    if request.stream:
        body["stream"] = True
    body.update(request.extra_body)
    return _fresh_object(body)


def _spoken(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without answers that say nothing: Claude refuses such an answer in every form.

    Where one stood between two messages of the user's these go as one, since Llama wants the roles to take turns.
    """
    said: list[dict[str, Any]] = []
    missed = False
    for message in messages:
        if _says_nothing(message):
            missed = True
            continue
        if missed and said and _is_users(said[-1]) and _is_users(message):
            said[-1] = {**said[-1], "content": _joined(said[-1]["content"], message["content"])}
        else:
            said.append(message)
        missed = False
    return said or messages


def _says_nothing(message: dict[str, Any]) -> bool:
    empty = message["content"] in (None, "", [], [{"type": "text", "text": ""}])
    return message["role"] == "assistant" and empty and message.keys() == {"role", "content"}


def _is_users(message: dict[str, Any]) -> bool:
    return message["role"] == "user" and message.keys() == {"role", "content"}


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, str) and isinstance(other, str):
        return f"{one}\n\n{other}"
    parts = [[{"type": "text", "text": said}] if isinstance(said, str) else said for said in (one, other)]
    return [*parts[0], *parts[1]]


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
    role = message.role or "assistant"  # an answer whose role the service did not say is still an answer
    said: dict[str, Any] = {"role": role, "content": _content_to_json(message, whole=whole)}
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
        if message.origin is not None and bound(message):
            said[ORIGIN] = message.origin
    elif message.role == "assistant":
        extra = {name: value for name, value in extra.items() if name not in ANSWER_ONLY}
    return _beside(extra, said)


def _content_to_json(message: Message, *, whole: bool) -> Any:
    content = message.content
    if whole or message.role != "assistant":
        return [part_to_json(part) for part in content] if isinstance(content, tuple) else content
    if isinstance(content, tuple):
        # Reasoning of the Responses API has no place here.
        content = tuple(part for part in content if not (isinstance(part, Reasoning) and part.item))
        if len(content) > 1:
            # Claude sends empty text beside a tool call or reasoning and refuses it when it comes back.
            content = tuple(part for part in content if part != Text("")) or content
    if content in ((), (Text(""),), "", None):
        if message.refusal:
            return message.refusal  # it is what was said, and has no field of its own in a question
        if message.tool_calls or content == ():
            # The same for plain text (databricks-ai-bridge#333, tidyverse/ellmer#932): an empty string says nothing.
            return None
    return [part_to_json(part) for part in content] if isinstance(content, tuple) else content


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
    if part.item:
        summary += [{"type": "summary_text", "text": part.text}] if part.text else []
        return {"type": "reasoning", "summary": summary, "encrypted_content": part.encrypted}
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
    return {**said, **extra, **_said(**said)} if extra else said


def _answer_to_json(message: Message) -> dict[str, Any]:
    said = message_to_json(message, whole=True)
    if isinstance(message.content, tuple):
        if message.content:
            said["content_parts"] = said["content"]
        said["content"] = message.text if any(isinstance(part, Text) for part in message.content) else None
    if (reasoning := message.reasoning) is not None:
        said["reasoning_content"] = reasoning
    said.setdefault("refusal", None)
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
