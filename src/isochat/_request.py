"""Whatever the caller holds, as one request. Pure; whatever is wrong is said here, before anything is sent.

Messages are recognised by their shape, so no client is imported to know its classes.
"""

from __future__ import annotations

import difflib
import enum
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

import msgspec

from isochat import _history, _wire
from isochat._types import ChatRequest, ChatResponse, Image, Message, Part, ToolCall
from isochat.errors import InvalidRequest, MalformedReply

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MOST_MESSAGES = 100_000  # an endless iterator must end in an error, not in a full memory
_LONGEST_WORD = 20
_MOST_VALUES = 1_000_000  # a list that holds itself twice, sixty times over, has no end worth waiting for
_DEEPEST = 200  # JSON nested further than any schema; beyond it lie cycles


class ChatOptions(TypedDict, total=False):
    """Every parameter of a chat question, under its standard name. None is the same as not said.

    Names and ranges are those of the Foundation model REST API reference, of what models and agents take beside it,
    and of OpenAI's chat completions; which of them a model accepts is for the endpoint to say, and it does.
    """

    max_tokens: int | None  # the longest answer, in tokens, at least 1
    max_completion_tokens: int | None  # OpenAI's newer name; models hosted by Databricks refuse it
    temperature: float | None  # 0 to 2; some newer models refuse any
    top_p: float | None  # above 0, up to 1
    top_k: int | None
    n: int | None  # how many answers, at least 1
    stop: str | list[str] | None
    tools: list[dict[str, Any]] | None  # OpenAI tool objects: {"type": "function", "function": {...}}
    tool_choice: str | dict[str, Any] | None  # "auto", "none", "required", or one function
    parallel_tool_calls: bool | None
    response_format: dict[str, Any] | None  # {"type": "json_schema", ...}, "json_object" or "text"
    logprobs: bool | None
    top_logprobs: int | None
    logit_bias: dict[str, float] | None
    reasoning_effort: str | None  # GPT, gpt-oss, some others: "low", "medium", "high", ...
    thinking: dict[str, Any] | None  # Claude: {"type": "enabled", "budget_tokens": 1024}
    output_config: dict[str, Any] | None  # newer Claude: {"effort": ...}
    frequency_penalty: float | None
    presence_penalty: float | None
    seed: int | None
    user: str | None
    stream_options: dict[str, Any] | None  # {"include_usage": True}; Databricks sends usage without it
    enable_safety_filter: bool | None
    usage_context: dict[str, str] | None  # tags for usage tracking by AI Gateway
    client_request_id: str | None  # appears in inference tables
    extra_params: dict[str, str] | None
    databricks_options: dict[str, Any] | None  # agents: {"return_trace": True}
    custom_inputs: dict[str, Any] | None  # agents
    context: dict[str, Any] | None  # agents: {"conversation_id": ..., "user_id": ...}
    metadata: dict[str, Any] | None
    store: bool | None
    service_tier: str | None
    prompt_cache_key: str | None
    safety_identifier: str | None


OPTIONS = tuple(ChatOptions.__annotations__)
_AT_LEAST_ONE = ("max_tokens", "max_completion_tokens", "n")


def make_request(
    messages: Any,
    *,
    endpoint: str | None,
    stream: bool | None = False,
    extra_body: Mapping[str, Any] | None = None,
    **options: Any,
) -> ChatRequest:
    """A question in its common form. Raises `InvalidRequest`, naming the path, if it is said wrongly."""
    if not isinstance(stream, bool | None):
        raise InvalidRequest(f"expected True or False, got {_kind(stream)}", path="stream")
    name = _endpoint(endpoint)
    return ChatRequest(
        endpoint=name,
        messages=_history.told(read_messages(messages), name),
        stream=bool(stream),
        options=_options(options),
        extra_body=_extra_body(extra_body, options),
    )


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────


def read_messages(messages: Any) -> tuple[Message, ...]:
    """The conversation that the caller holds, in whatever form."""
    try:
        found = _conversation(messages)
    except InvalidRequest:
        raise
    except Exception as error:  # the caller's own objects are run here: their attributes, iterators, dumps
        raise InvalidRequest(f"reading them raised {type(error).__name__}", path="messages") from error
    if not found:
        raise InvalidRequest("there are none; a question needs at least one", path="messages")
    return found


def _conversation(messages: Any) -> tuple[Message, ...]:
    if isinstance(messages, str):
        return (Message("user", _clean_text(messages, "messages")),)
    if type(messages) is list and len(messages) <= _MOST_MESSAGES:  # as most are: the shortest way to the last line
        return tuple([_message(item, f"messages[{place}]") for place, item in enumerate(messages)])
    if callable(getattr(messages, "to_messages", None)) and not isinstance(messages, type):
        messages = messages.to_messages()  # a LangChain prompt value
    if _is_one(messages):
        return (_message(messages, "messages[0]"),)
    if not isinstance(messages, Iterable) or isinstance(messages, bytes | bytearray | type):
        raise InvalidRequest(f"expected text, a message or a list of messages, got {_kind(messages)}", path="messages")
    several = tuple(itertools.islice(messages, _MOST_MESSAGES + 1))
    if len(several) > _MOST_MESSAGES:
        raise InvalidRequest(f"there are more than {_MOST_MESSAGES:,}", path="messages")
    return tuple(_message(item, f"messages[{place}]") for place, item in enumerate(several))


def _is_one(item: Any) -> bool:
    if isinstance(item, Message | ChatResponse | Mapping):
        return True
    return not isinstance(item, type | list | tuple) and hasattr(item, "content")


def _message(item: Any, path: str) -> Message:
    if type(item) is dict and len(item) == 2:  # who and what, as in most: the shortest way to what stands below
        role, content = item.get("role"), item.get("content")
        if type(content) is str and type(role) is str and role in ROLES and role != "tool":
            return Message(role, _clean_text(content, f"{path}.content"))
    match item:
        case Message():
            return _of_ours(item, path)
        case ChatResponse():
            return _of_ours(item.message, path)
        case Mapping():
            return _from_mapping(item, path)
        case (str() as role, content):  # the pair that LangChain users write
            return _from_mapping({"role": role, "content": content}, path)
        case str():
            raise InvalidRequest('expected a message, got text; write {"role": "user", "content": …}', path=path)
    if isinstance(getattr(item, "type", None), str) and isinstance(getattr(item, "additional_kwargs", None), dict):
        return _from_langchain(item, path)
    for dump in ("model_dump", "as_dict", "to_dict"):  # pydantic; the Databricks SDK; MLflow
        if callable(getattr(item, dump, None)) and not isinstance(item, type):
            # pydantic warns when content that its type calls text is a list, which is how Claude thinks.
            said = item.model_dump(exclude_none=True, warnings=False) if dump == "model_dump" else getattr(item, dump)()
            if isinstance(said, Mapping):
                return _from_mapping(said, path)
    if isinstance(getattr(item, "role", None), str) and hasattr(item, "content"):
        fields = ("role", "content", "tool_calls", "tool_call_id", "name")
        return _from_mapping({name: getattr(item, name, None) for name in fields}, path)
    raise InvalidRequest(f"expected a message, got {_kind(item)}", path=path)


def _of_ours(message: Message, path: str) -> Message:
    """A message of ours, made by hand or taken from an answer: as careful with it as with any other."""
    return _from_mapping({name: value for name, value in message.to_dict().items() if value is not None}, path)


def _from_mapping(said: Mapping[Any, Any], path: str) -> Message:
    plain = json_value(said, path)
    role = plain.get("role")
    if not isinstance(role, str) or role not in ROLES:
        # A role is a word; anything longer stands there by mistake and may be the question itself.
        shown = repr(role) if isinstance(role, str) and len(role) <= _LONGEST_WORD else _kind(role)
        near = difflib.get_close_matches(str(role), ROLES, n=1)
        meant = {"human": "user", "ai": "assistant"}.get(str(role), near[0] if near else None)
        raise InvalidRequest(
            "missing" if role is None else f"{shown} is none of {', '.join(ROLES)}",
            path=f"{path}.role",
            hint=f"Did you mean {meant!r}?" if meant else None,
        )
    if role == "assistant" and isinstance(plain.get("content_parts"), list):
        plain["content"] = plain.pop("content_parts")  # an answer's `to_dict()` keeps them beside the text
    content = plain.get("content")
    if content is None and role != "assistant":
        raise InvalidRequest("missing", path=f"{path}.content")
    if content is not None and not isinstance(content, str | list):
        raise InvalidRequest(f"expected text or a list of parts, got {_kind(content)}", path=f"{path}.content")
    if isinstance(content, list):
        if not content and role != "assistant":
            raise InvalidRequest("an empty list says nothing", path=f"{path}.content")
        for place, part in enumerate(content):
            _check_part(part, f"{path}.content[{place}]")
    _check_calls(plain.get("tool_calls"), f"{path}.tool_calls")
    if role == "tool" and plain.get("tool_call_id") is None:
        raise InvalidRequest("missing: a tool's result names the call that it answers", path=f"{path}.tool_call_id")
    for name in ("tool_call_id", "name", _history.ORIGIN):
        if plain.get(name) is not None and not isinstance(plain[name], str):
            raise InvalidRequest(f"expected text, got {_kind(plain[name])}", path=f"{path}.{name}")
    try:
        return _wire.decode_message(plain, path, sent=False)
    except MalformedReply as error:
        raise InvalidRequest(error.message.removeprefix(f"{error.path}: "), path=error.path) from None


_INNER = {
    "text": ("text", None),
    "refusal": ("refusal", None),
    "image_url": ("image_url", "url"),
    "audio_url": ("audio_url", "url"),
    "video_url": ("video_url", "url"),
    "input_audio": ("input_audio", "data"),
}


def _check_part(part: Any, path: str) -> None:
    """A part of a type known here must hold what its type says; any other goes to the endpoint as it is."""
    if isinstance(part, str):
        return
    if not isinstance(part, dict):
        raise InvalidRequest(f"expected a content part, got {_kind(part)}", path=path)
    kind = part.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest("missing" if kind is None else f"expected text, got {_kind(kind)}", path=f"{path}.type")
    if kind not in _INNER:
        return
    field, inner = _INNER[kind]
    value = part.get(field)
    if inner is not None:
        if not isinstance(value, dict):
            raise InvalidRequest(f"expected {{{inner!r}: …}}, got {_kind(value)}", path=f"{path}.{field}")
        value, field = value.get(inner), f"{field}.{inner}"
    if not isinstance(value, str):
        raise InvalidRequest(
            "missing" if value is None else f"expected text, got {_kind(value)}", path=f"{path}.{field}"
        )


def _check_calls(calls: Any, path: str) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        raise InvalidRequest(f"expected a list, got {_kind(calls)}", path=path)
    for place, call in enumerate(calls):
        where = f"{path}[{place}]"
        if not isinstance(call, dict):
            raise InvalidRequest(f"expected a tool call, got {_kind(call)}", path=where)
        inner = "custom" if call.get("type") == "custom" else "function"
        function = call.get(inner)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest("missing: the name of the function that was called", path=f"{where}.{inner}.name")


_LANGCHAIN_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "function"}


def _from_langchain(item: Any, path: str) -> Message:
    """A LangChain message: `HumanMessage`, `AIMessage`, `SystemMessage`, `ToolMessage`, `ChatMessage` or a chunk."""
    kind = item.type.removesuffix("MessageChunk").lower()
    role = getattr(item, "role", None) if kind == "chat" else _LANGCHAIN_ROLES.get(kind)
    if role == "system":  # a developer message is one of LangChain's system messages
        role = item.additional_kwargs.get("__openai_role__", role)
    if not isinstance(role, str):
        raise InvalidRequest(f"a LangChain message of type {item.type!r} has no role in a chat", path=path)
    content = item.content
    if isinstance(content, list):
        content = [_langchain_block(block) for block in content if not _repeats_call(block)]
    said: dict[str, Any] = {"role": role, "content": content}
    for name in ("name", "tool_call_id"):
        if getattr(item, name, None) is not None:
            said[name] = getattr(item, name)
    if calls := [*_langchain_calls(item)]:
        said["tool_calls"] = calls
        said["content"] = content or None
    return _from_mapping(said, path)


def _langchain_calls(item: Any) -> Iterable[Any]:
    """Tool calls as the service made them where LangChain kept that form (only there a thought signature survives)."""
    kept = item.additional_kwargs.get("tool_calls")
    calls = getattr(item, "tool_calls", None) or []
    broken = getattr(item, "invalid_tool_calls", None) or []
    if isinstance(kept, list) and len(kept) == len(calls) + len(broken):
        yield from kept
        return
    for call in (*calls, *broken):
        arguments = call.get("args")
        if not isinstance(arguments, str):
            arguments = _wire.to_bytes(json_value(arguments or {}, "args")).decode()
        function = {"name": call.get("name"), "arguments": arguments}
        yield {"id": call.get("id"), "type": "function", "function": function}


def _repeats_call(block: Any) -> bool:
    """Whether a content block only says again what stands in `tool_calls`."""
    return isinstance(block, dict) and block.get("type") in ("tool_use", "tool_call", "input_json_delta")


def _langchain_block(block: Any) -> Any:
    """LangChain's own image block, in the wire's form; any other is left as it is."""
    if isinstance(block, dict) and block.get("type") == "image":
        if isinstance(block.get("url"), str):
            return _wire.part_to_json(Image(block["url"]))
        data = block.get("base64", block.get("data"))
        if isinstance(data, str) and isinstance(block.get("mime_type"), str):
            return _wire.part_to_json(Image(f"data:{block['mime_type']};base64,{data}"))
    return block


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    if not options:
        return {}
    for name in options:
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1)
            hint = _ELSEWHERE.get(name) or (f"Did you mean {near[0]!r}? " if near else "")
            raise InvalidRequest("no such option", path=name, hint=f"{hint}What it lacks goes into extra_body={{…}}.")
    plain = {name: json_value(value, name) for name, value in options.items() if value is not None}
    try:
        said: dict[str, Any] = dict(msgspec.convert(plain, ChatOptions))
    except msgspec.ValidationError as error:
        what, _, where = _in_words(str(error)).partition(" - at `$")
        path = where.strip("`").removeprefix(".") or None
        raise InvalidRequest(what[:1].lower() + what[1:], path=path) from None
    for name in _AT_LEAST_ONE:
        if name in said and said[name] < 1:
            raise InvalidRequest(f"expected at least 1, got {said[name]}", path=name)
    for place, tool in enumerate(said.get("tools", ())):
        _check_tool(tool, f"tools[{place}]")
    return said


# What everybody tries first, and where it goes.
_ELSEWHERE = {
    "system": 'A system prompt is a message: {"role": "system", "content": …}. ',
    "model": "The model is named with endpoint=…. ",
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "True or False",
    "array": "a list",
    "object": "a dictionary",
    "null": "None",
}


def _in_words(said: str) -> str:
    """msgspec's message with Python's words for JSON's types: "Expected `int | null`, got `float`"."""

    def words(found: re.Match[str]) -> str:
        kinds = [kind for kind in found[1].split(" | ") if kind != "null"] or ["null"]
        return " or ".join(_WORDS.get(kind, f"`{kind}`") for kind in kinds)

    return re.sub(r"`([a-z |]+)`", words, said)


def _check_tool(tool: dict[str, Any], path: str) -> None:
    kind = tool.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest(
            'missing; a tool is {"type": "function", "function": {"name": …, "parameters": …}}', path=f"{path}.type"
        )
    if kind == "function" and not isinstance(tool.get("function"), dict):
        raise InvalidRequest("missing", path=f"{path}.function")
    if kind == "function" and not isinstance(tool["function"].get("name"), str):
        raise InvalidRequest("missing", path=f"{path}.function.name")


def _extra_body(extra: Mapping[str, Any] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise InvalidRequest(f"expected a dictionary, got {_kind(extra)}", path="extra_body")
    plain = json_value(extra, "extra_body")
    for name in plain:
        if name in ("messages", "model", "stream"):
            raise InvalidRequest(
                f"say it as an argument of its own: {'endpoint' if name == 'model' else name}=",
                path=f"extra_body.{name}",
            )
        if options.get(name) is not None:
            raise InvalidRequest("said twice: as an option too", path=f"extra_body.{name}")
    return dict(plain)


def _endpoint(endpoint: Any) -> str:
    if not isinstance(endpoint, str) or not endpoint:
        message = "missing" if endpoint in (None, "") else f"expected text, got {_kind(endpoint)}"
        hint = "Name one with endpoint=…, ISOCHAT_ENDPOINT, or `endpoint` in isochat.toml."
        raise InvalidRequest(message, path="endpoint", hint=hint)
    if endpoint in (".", "..") or any(sign in "/\\" or not sign.isprintable() for sign in endpoint):
        # The name becomes a segment of a path: one that could leave it never gets that far.
        raise InvalidRequest(f"{endpoint!r} cannot be the name of an endpoint", path="endpoint")
    return endpoint


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def json_value(value: Any, path: str) -> Any:
    """A copy of a value as plain JSON, so that nothing of the caller's is shared or changed.

    Raises `InvalidRequest` where it holds something that JSON cannot say: a set, NaN, half a character, a cycle.
    """
    return _plain(value, path, 0, itertools.count())


def _plain(value: Any, path: str, depth: int, count: Iterator[int]) -> Any:
    if next(count) > _MOST_VALUES:
        raise InvalidRequest(f"holds more than {_MOST_VALUES:,} values", path=_shorter(path))
    if depth > _DEEPEST:
        raise InvalidRequest(f"nested more than {_DEEPEST} deep", path=_shorter(path))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _clean_text(value, path)
    if isinstance(value, enum.Enum):
        return _plain(value.value, path, depth + 1, count)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InvalidRequest("a number of more than 64 bits, which few readers of JSON keep", path=path)
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"{value} is not a number that JSON can say", path=path)
        return float(value)
    if isinstance(value, Mapping):
        return _plain_object(value, path, depth, count)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{place}]", depth + 1, count) for place, item in enumerate(value)]
    if isinstance(value, Part | ToolCall):
        plain = _wire.part_to_json(value) if isinstance(value, Part) else _wire.call_to_json(value)
        return _plain(plain, path, depth + 1, count)
    for dump in ("model_dump", "as_dict"):
        if callable(getattr(value, dump, None)) and not isinstance(value, type):
            said = value.model_dump(exclude_none=True, warnings=False) if dump == "model_dump" else value.as_dict()
            if isinstance(said, dict):
                return _plain(said, path, depth + 1, count)
    raise InvalidRequest(f"expected something that JSON can say, got {_kind(value)}", path=_shorter(path))


def _plain_object(value: Mapping[Any, Any], path: str, depth: int, count: Iterator[int]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise InvalidRequest(f"expected text as a key, got {_kind(name)}", path=path)
        plain[_clean_text(name, path)] = _plain(item, f"{path}.{name}", depth + 1, count)
    return plain


def _clean_text(text: str, path: str) -> str:
    """Plain text that can be written as UTF-8: a lone half of a surrogate pair cannot."""
    if type(text) is not str:
        text = str.__str__(text)  # of somebody's own class, which may say anything when asked in other ways
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"half a character at position {error.start}: it cannot be written as UTF-8", path=path
        ) from None
    return text


def _shorter(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:80]}…"


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
