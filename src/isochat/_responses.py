"""The Responses API's items and events, and isochat's values, one into the other. Pure: no I/O, no clock, no client.

There an answer is a list of items; here it is one message: texts join, calls stand in `tool_calls`, reasoning is a part
of the content. What a message has no field for (a hosted tool's item, the order of an agent's rounds, a phase) is kept
in its `extra["output"]`: the items as they go back with the next question. Its `extra["id"]` is the message's own, and
`extra["item_extra"]` what items and their parts say beside their words, which goes back to nobody.

The service is stateless, so all of a conversation goes with each question. It takes back no `status`, no nulls and no
id that is too long or of the wrong kind; nothing needs those of messages, calls and reasoning, so they stay behind.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isochat import _decode, _refusal, _sse, _wire
from isochat._frozen import changed
from isochat._gather import Gathering
from isochat._types import (
    Audio,
    ChatChunk,
    ChatResponse,
    ChunkChoice,
    Delta,
    File,
    Image,
    Logprobs,
    Message,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolCallDelta,
    Unknown,
    Usage,
    Video,
    number,
)
from isochat.errors import InvalidRequest, MalformedReply, ServiceError, UnsupportedOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from isochat._types import ChatRequest, Part

#: The options that a Responses question has room for. It knows no `n`, `stop`, `seed`, penalties or `logit_bias`, and
#: the service, which keeps nothing, refuses `store` and `service_tier` (Foundation model REST API reference).
CARRIES = frozenset(
    {
        "context",
        "custom_inputs",
        "databricks_options",
        "extra_body",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "stream",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
    }
)
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_TEXTS = ("output_text", "text")
_THOUGHTS = ("summary", "content")  # where an item of reasoning has its words
_BESIDE = "item_extra"  # in a message's `extra`: what its items say beside their words
_LONGEST_ID = 64  # of an item that is sent back (databricks_openai/utils/clients.py cuts there)


# ── questions: values → JSON ─────────────────────────────────────────────────────────────────────────────────────


def request_to_json(request: ChatRequest) -> dict[str, Any]:
    """The body of a Responses question, without the endpoint's name. Always new: nothing of the caller's is shared."""
    body: dict[str, Any] = {"input": [*_items(request.messages)], **_options(request.options)}
    if request.stream:
        body["stream"] = True
    if "input" in request.extra_body:
        raise InvalidRequest("say it as an argument of its own: messages=", path="extra_body.input")
    for name, value in request.extra_body.items():
        body[name] = _joined(body[name], value, f"extra_body.{name}") if name in body else value
    return copy.deepcopy(body)


def _joined(said: Any, more: Any, path: str) -> Any:
    """What an option became, and what `extra_body` adds to it: `reasoning_effort` leaves room for a `summary`."""
    if isinstance(said, list) and isinstance(more, list):
        return [*said, *(item for item in more if item not in said)]
    if isinstance(said, dict) and isinstance(more, dict) and not said.keys() & more.keys():
        return {**said, **more}
    raise InvalidRequest("said twice: an option says it too", path=path)


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    said = dict(options)
    body: dict[str, Any] = {}
    limits = {said.pop(name) for name in ("max_tokens", "max_completion_tokens") if name in said}
    if len(limits) > 1:
        raise InvalidRequest("said twice, differently: as max_completion_tokens too", path="max_tokens")
    if limits:
        body["max_output_tokens"] = limits.pop()
    if "reasoning_effort" in said:
        body["reasoning"] = {"effort": said.pop("reasoning_effort")}
    if "response_format" in said:
        body["text"] = {"format": _unwrapped(said.pop("response_format"), "json_schema")}
    if said.pop("logprobs", False):
        body["include"] = ["message.output_text.logprobs"]
    if "tools" in said:
        body["tools"] = [_tool(tool) for tool in said.pop("tools")]
    if "tool_choice" in said:
        body["tool_choice"] = _choice(said.pop("tool_choice"))
    return {**body, **said}


def _unwrapped(value: Mapping[str, Any], *kinds: str) -> dict[str, Any]:
    """`{"type": "x", "x": {…}}`, as chat completions say it, without the inner object."""
    flat = dict(value)
    kind = flat.get("type")
    inner = flat.pop(kind) if kind in kinds and isinstance(flat.get(kind), dict) else {}
    return {**flat, **inner}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    flat = _unwrapped(tool, "function", "custom")
    if flat.get("type") == "function":
        # Where nothing is said, a function is not strict in chat completions and strict in Responses (OpenAI's guide
        # "Migrate to the Responses API"): the same question has to say which.
        flat.setdefault("strict", False)
    if flat.get("type") == "custom" and isinstance(flat.get("format"), dict):
        flat["format"] = _unwrapped(flat["format"], "grammar")
    return flat


def _choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    flat = _unwrapped(choice, "function", "custom", "allowed_tools")
    if flat.get("type") == "allowed_tools" and isinstance(flat.get("tools"), list):
        flat["tools"] = [_unwrapped(tool, "function", "custom") for tool in flat["tools"]]
    return flat


def _items(messages: Iterable[Message]) -> Iterator[dict[str, Any]]:
    free: set[str | None] = set()  # calls of tools that take free text: their results are of a type of their own
    for place, message in enumerate(messages):
        path = f"messages[{place}]"
        if message.name is not None and message.role != "tool":
            raise _homeless(f"the name of a message ({path})", "name")
        if message.role == "assistant":
            free |= {call.id for call in message.tool_calls if call.type == "custom"}
            yield from _answer_items(message, path)
        elif message.role == "tool":
            kind = "custom_tool_call_output" if message.tool_call_id in free else "function_call_output"
            yield {"type": kind, "call_id": message.tool_call_id, "output": _content(message, path, plain=True)}
        elif message.role == "function":
            raise _homeless(f"a message of the role 'function' ({path})", "messages")
        else:
            yield {"role": message.role, "content": _content(message, path)}


def _content(message: Message, path: str, *, plain: bool = False) -> str | list[Any]:
    """What anyone but the model says; `plain` for a tool's result, which is text where it can be."""
    content = message.content
    if not isinstance(content, tuple):
        return content or ""
    if plain and all(isinstance(part, Text) and not part.extra for part in content):
        return message.text
    return [_part(part, f"{path}.content[{place}]") for place, part in enumerate(content)]


def _part(part: Part, path: str) -> Any:
    match part:
        case Text(text, extra):
            return {"type": "input_text", "text": text, **extra}
        case Image(url, detail, extra):
            return {"type": "input_image", "image_url": url, **({"detail": detail} if detail else {}), **extra}
        case File(data, filename, file_id, extra):
            named = {"filename": filename, "file_data": data, "file_id": file_id}
            return {"type": "input_file", **{k: v for k, v in named.items() if v is not None}, **extra}
        case Audio(url=None):
            return _wire.part_to_json(part)
        case Audio() | Video():
            raise _homeless(f"sound or film by its address ({path})", "messages")
        case Unknown(raw):
            return raw
        case _:
            return _wire.part_to_json(part)


def _homeless(what: str, option: str) -> UnsupportedOption:
    return UnsupportedOption(
        f"the Responses API has no place for {what}; chat completions do",
        option=option,
        carried_by=("openai", "rest"),
        hint="Ask through the backend 'openai' or 'rest'.",
    )


def _answer_items(message: Message, path: str) -> Iterator[dict[str, Any]]:
    """An earlier answer: the items it came as, unless somebody has changed the message since."""
    for place, call in enumerate(message.tool_calls):
        if call.id is None:
            raise InvalidRequest("missing: a call's result finds it by its id", path=f"{path}.tool_calls[{place}].id")
    kept = message.extra.get("output")
    if isinstance(kept, list) and all(isinstance(item, dict) for item in kept):
        items = [item for each in kept if (item := _returning(each)) is not None]
        if items and _gist(_message_of(items)) == _gist(message):
            yield from items
            return
    yield from _made_items(message, path)


def _gist(message: Message) -> tuple[Any, ...]:
    calls = [(call.id, call.name, call.arguments or "{}", call.type) for call in message.tool_calls]
    return message.text, message.refusal or "", calls


def _made_items(message: Message, path: str = "") -> Iterator[dict[str, Any]]:
    """An answer's items, from its values alone: what was thought and may go back, what was said, what was called."""
    content: list[Any] = []
    thought = ""
    for part in message.parts:
        match part:
            case Reasoning(item=False):
                pass  # of a chat completion, which has no place here
            case Reasoning(text, _, encrypted):
                thought += text
                # Reasoning goes back encrypted or not at all: without that, the service would have to remember it.
                if encrypted is not None:
                    yield from _spoken(content)
                    summary = [{"type": "summary_text", "text": thought}] if thought else []
                    yield {"type": "reasoning", "summary": summary, "encrypted_content": encrypted}
                    content, thought = [], ""
            case Text(text):
                if text:
                    content.append({"type": "output_text", "text": text})
            case Refusal(refusal):
                content.append({"type": "refusal", "refusal": refusal})
            case Unknown(raw):
                content.append(raw)
            case _:
                raise _homeless(f"a picture, a sound, a film or a file in an answer ({path})", "messages")
    if message.refusal:
        content.append({"type": "refusal", "refusal": message.refusal})
    if not content and not message.tool_calls:
        content = [{"type": "output_text", "text": ""}]
    yield from _spoken(content)
    for call in message.tool_calls:
        yield _call_item(call)


def _spoken(content: list[Any]) -> Iterator[dict[str, Any]]:
    if content:
        yield {"type": "message", "role": "assistant", "content": content}


def _call_item(call: ToolCall) -> dict[str, Any]:
    if call.type == "custom":
        return {"type": "custom_tool_call", "call_id": call.id, "name": call.name, "input": call.arguments}
    return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments or "{}"}


def _returning(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """An item of an answer as it goes back; None for one that says nothing, or that the service would not know."""
    kind = _kind(item)
    if kind == "message":
        content = [part for each in _parts(item) if (part := _returning_part(each)) is not None]
        phase = {"phase": item["phase"]} if item.get("phase") else {}
        return {"type": kind, "role": "assistant", "content": content, **phase} if content else None
    if kind == "reasoning":
        encrypted = _word(item, "encrypted_content")
        summary = [{"type": "summary_text", "text": text} for text in _texts(item.get("summary"))]
        return {"type": kind, "summary": summary, "encrypted_content": encrypted} if encrypted else None
    if kind in _CALLS:
        said = _CALLS[kind]
        empty = "{}" if kind == "function_call" else ""
        return {
            "type": kind,
            "call_id": _call_id(item),
            "name": _word(item, "name") or "",
            said: _argued(item, kind) or empty,
        }
    too_long = isinstance(item.get("id"), str) and len(item["id"]) > _LONGEST_ID
    left_behind = {"status", "id"} if too_long or kind.endswith("_output") else {"status"}
    return {name: value for name, value in item.items() if value is not None and name not in left_behind}


def _returning_part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    if part.get("type") in _TEXTS:
        return {"type": "output_text", "text": text} if (text := _word(part, "text")) else None
    if part.get("type") == "refusal":
        return {"type": "refusal", "refusal": refusal} if (refusal := _word(part, "refusal")) else None
    return {name: value for name, value in part.items() if value is not None}


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kind(item: Mapping[str, Any]) -> str:
    """What an item is; an agent's message may not say so. A message of anyone but the model is not the answer."""
    kind = item.get("type")
    if not isinstance(kind, str):
        kind = "message" if "role" in item or "content" in item else ""
    return f"{item['role']}_message" if kind == "message" and item.get("role") not in (None, "assistant") else kind


def _parts(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = item.get("content")
    parts = content if isinstance(content, list) else [content]
    parts = [{"type": "output_text", "text": part} if isinstance(part, str) else part for part in parts]
    return [part for part in parts if isinstance(part, dict)]


def _texts(blocks: Any) -> list[str]:
    blocks = blocks if isinstance(blocks, list) else [blocks]
    found = [block.get("text") if isinstance(block, dict) else block for block in blocks]
    return [text for text in found if isinstance(text, str) and text]


def _said(item: Mapping[str, Any], kind: str, key: str = "text") -> str:
    """All that an item says under `text` or `refusal`."""
    if kind == "reasoning":
        return "".join(text for name in _THOUGHTS for text in _texts(item.get(name))) if key == "text" else ""
    types = _TEXTS if key == "text" else ("refusal",)
    found = [part.get(key) for part in _parts(item) if part.get("type") in types]
    return "".join(text for text in found if isinstance(text, str))


def _retold(item: Mapping[str, Any], kind: str, told: str) -> str:
    """All that an item says, as it goes on from what was told: a stream may tell the content of reasoning first."""
    said = _said(item, kind)
    if kind == "reasoning" and not said.startswith(told):
        turned = "".join(text for name in reversed(_THOUGHTS) for text in _texts(item.get(name)))
        return turned if turned.startswith(told) else said
    return said


def _argued(item: Mapping[str, Any], kind: str) -> str:
    arguments = item.get(_CALLS[kind])
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else _wire.to_bytes(arguments).decode()  # an agent's may be JSON


def _call_id(item: Mapping[str, Any]) -> str | None:
    return _word(item, "call_id") or _word(item, "id")


def _word(value: Mapping[str, Any], name: str) -> str | None:
    """A field that is text and says something."""
    found = value.get(name)
    return found if isinstance(found, str) and found else None


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    return found if isinstance(found, list) else []


def _finish(items: Iterable[Mapping[str, Any]]) -> str:
    """An answer whose calls are all answered is at its end: an agent calls and answers in one reply."""
    answered, calls = set(), set()
    for item in items:
        kind = _kind(item)
        if kind in _CALLS:
            calls.add(_call_id(item))
        elif kind.endswith("_output"):
            answered.add(_word(item, "call_id"))
    return "tool_calls" if calls - answered else "stop"


def _message_of(items: Iterable[Mapping[str, Any]]) -> Message:
    """The message that items amount to."""
    gathering = Gathering()
    if (chunk := Unfolding().take({"type": "response.completed", "response": {"output": [*items]}})) is not None:
        gathering.add(chunk)
    return gathering.response().message


# ── answers: JSON → values ───────────────────────────────────────────────────────────────────────────────────────


def decode_reply(reply: _wire.Reply) -> ChatResponse:
    """The answer in an HTTP reply, or the error that it amounts to.

    Raises a `ServiceError` if the service said no, under whatever status, and `MalformedReply` if it made no sense.
    """
    try:
        return _wire.read_reply(reply, decode_response, _pieces)
    except ServiceError as error:
        explained(error)
        raise


def _pieces(body: bytes) -> Iterable[ChatChunk | _wire.Done | None]:
    return map(decode_event, unfolding(_sse.events_in(body)))


def decode_response(value: Any) -> ChatResponse:
    """The answer in a Responses object, in an agent's looser one, or in a chat completion that came in its place."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "type" in item for item in value):
        value = {"output": value}
    if not isinstance(value, dict) or not isinstance(value.get("output"), list):
        if isinstance(value, dict) and value.get("status") == "failed":
            raise _failure(value)
        if isinstance(value, dict) and not value.keys() & {"choices", "messages", "predictions"}:
            message = "expected a response (`output`)"
            raise MalformedReply(message, body=value, path="output")
        return _wire.decode_completion(value)
    gathering, unfolding_ = Gathering(), Unfolding()
    for chunk in (unfolding_.take({"type": "response.completed", "response": value}), unfolding_.end()):
        if chunk is not None:
            gathering.add(chunk)
    return gathering.response()


def explained(error: ServiceError) -> ServiceError:
    """The error, with what to do about a model that has no Responses API."""
    if "responses api passthrough is not supported" in error.message.lower():
        error.hint = "Only GPT models and agents speak the Responses API: ask this one through 'openai' or 'rest'."
    return error


def _failure(response: Mapping[str, Any]) -> ServiceError:
    body = response if response.get("error") else {**response, "message": "the service says that the answer failed"}
    return explained(_refusal.service_error(None, {}, body))


# ── streams: events → values ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a stream and the stream it belongs to; None is the end of the events.

    What an event adds depends on those before it (a text may come in stretches, whole, or both), and a backend serves
    many streams at once: so each event carries its own.
    """

    event: _sse.Event | None
    stream: Unfolding


def unfolding(events: Iterable[Any]) -> Iterator[Any]:
    """The events of one stream, each with the stream, and its end before any `[DONE]`; what is no event as it is."""
    following = Following()
    for event in events:
        yield from following.steps(event)
    yield from following.end()


class Following:
    """What `unfolding` does with each event, for whoever awaits them."""

    def __init__(self) -> None:
        self._stream, self._ended = Unfolding(), False

    def steps(self, event: Any) -> Iterator[Any]:
        """The steps that an event is."""
        if not isinstance(event, _sse.Event):
            yield event
            return
        if event.data.strip() == b"[DONE]":
            yield from self.end()
        yield Step(event, self._stream)

    def end(self) -> Iterator[Any]:
        """The last step, once."""
        if not self._ended:
            self._ended = True
            yield Step(None, self._stream)


def decode_event(event: Any) -> ChatChunk | _wire.Done | None:
    """What one step of a stream adds; None for one that adds nothing.

    Raises a `ServiceError` if the event is the service's complaint, and `MalformedReply` if it makes no sense.
    """
    if isinstance(event, _wire.Reply):
        return _wire.whole_as_chunk(decode_reply(event))
    if not isinstance(event, Step):
        return None
    if event.event is None:
        return event.stream.end()
    data, named = event.event.data.strip(), event.event.type
    if data == b"[DONE]":
        return _wire.Done.DONE
    if not data or named == "ping":
        return None
    try:
        value = _wire.read_event(data, named)
    except ServiceError as error:
        explained(error)
        raise
    if isinstance(value, dict) and "type" not in value and named.startswith("response"):
        value["type"] = named
    chunk = event.stream.take(value)
    # Bytes: a dictionary with a `delta` in it would pass for an agent's chat, which may end without a finish reason.
    return changed(chunk, raw=bytes(event.event.data)) if chunk is not None and chunk.raw is None else chunk


@dataclass(slots=True, eq=False)
class _Item:
    """One item as far as it has come."""

    kind: str
    ids: set[str] = field(default_factory=set)
    index: int | None = None
    call: int | None = None  # which of the message's calls it is
    call_id: str | None = None
    name: str | None = None
    text: str = ""  # what it said, thought, or called with
    refusal: str = ""
    whole: dict[str, Any] | None = None

    @property
    def begun(self) -> bool:
        """Whether anything of it has been told."""
        return bool(self.text or self.refusal)

    def elsewhere(self, index: int | None) -> bool:
        """Whether it is known to stand at another place of the output."""
        return index is not None and self.index is not None and index != self.index

    def as_json(self) -> dict[str, Any]:
        """The item; one that never came whole, from its stretches."""
        if self.whole is not None:
            return self.whole
        if self.kind in _CALLS:
            return {"type": self.kind, "call_id": self.call_id, "name": self.name, _CALLS[self.kind]: self.text}
        if self.kind == "reasoning":
            return {"type": self.kind, "summary": [{"type": "summary_text", "text": self.text}]}
        parts = [{"type": "output_text", "text": self.text}, {"type": "refusal", "refusal": self.refusal}]
        return {"type": self.kind, "role": "assistant", "content": parts}


#: An event that brings a stretch: the kind of item it belongs to.
_STRETCHES = {
    "response.output_text.delta": "message",
    "response.refusal.delta": "message",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.function_call_arguments.delta": "function_call",
    "response.custom_tool_call_input.delta": "custom_tool_call",
}
#: An event that says again, whole, what came in stretches; or for the first time, if none came.
_WHOLES = {
    "response.output_text.done": ("response.output_text.delta", "text"),
    "response.refusal.done": ("response.refusal.delta", "refusal"),
    "response.reasoning_text.done": ("response.reasoning_text.delta", "text"),
    "response.reasoning_summary_text.done": ("response.reasoning_summary_text.delta", "text"),
    "response.function_call_arguments.done": ("response.function_call_arguments.delta", "arguments"),
    "response.custom_tool_call_input.done": ("response.custom_tool_call_input.delta", "input"),
}
_ENDS = frozenset({"response.completed", "response.incomplete", "response.done", "response.cancelled"})
#: What an event says of its own place; anything else beside an item is about the answer.
_PLACE = frozenset({"type", "item", "item_id", "output_index", "sequence_number", "response", "event_id"})


class Unfolding:
    """A streamed answer as far as it has come: asked of each event, it tells what that adds.

    A service tells an answer up to four times: in stretches, as a part, as an item, and in the whole response at the
    end. Agents leave out any of these, number nothing or everything alike (all items of the OpenAI Agents SDK are
    called `__fake_id__`), and go round several times in one stream. Whatever comes first counts, and of what comes
    again only what is new.
    """

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._round = 0  # where the items of this round begin
        self._announced = False
        self._calls = 0
        self._about: dict[str, Any] = {}  # id, model and time, until there is a chunk to carry them
        self._extra: dict[str, Any] = {}

    def take(self, value: Any) -> ChatChunk | None:
        """What an event adds; None if nothing. Raises a `ServiceError` if it is a complaint."""
        if not isinstance(value, dict):
            raise MalformedReply("expected an event", body=value)
        kind = value.get("type")
        if _refusal.complains(value) or kind == "error":
            raise explained(_refusal.service_error(None, {}, value))
        if not isinstance(kind, str):
            return self._untyped(value)
        kind = kind.replace("responses.", "response.", 1) if kind.startswith("responses.") else kind
        response = value.get("response")
        if kind == "response.failed":
            raise _failure(response if isinstance(response, dict) else value)
        if kind in _ENDS:
            return self._completed(response if isinstance(response, dict) else {}, value)
        if kind in _STRETCHES:
            return self._stretch(kind, value)
        if kind in _WHOLES:
            return self._unstretched(kind, value)
        item = value.get("item")
        if kind == "response.output_item.added" and isinstance(item, dict):
            return self._added(item, value)
        if kind == "response.output_item.done" and isinstance(item, dict):
            return self._done(item, value)
        if kind.startswith("response."):
            if kind == "response.created":
                self._announced, self._round = True, len(self._items)
            if isinstance(response, dict):
                self._introduced(response)
            return None
        return None if kind in ("ping", "keepalive") else self._done(value, {})

    def end(self) -> ChatChunk | None:
        """The events have ended: what is told of the answer as a whole, and the items that the message cannot say."""
        items = [item for each in self._items if (item := _returning(each.as_json())) is not None]
        made = [*_made_items(_message_of(items))] if items else []
        kept: dict[str, Any] = {"output": items} if items != made else {}
        spoken = [each.whole for each in self._items if each.kind == "message" and each.whole is not None]
        if named := [name for item in spoken if (name := _word(item, "id")) is not None]:
            kept["id"] = named[-1]
        extra, self._extra = self._extra, {}
        if not kept and not extra:
            return None
        choices = (ChunkChoice(0, Delta(extra=kept)),) if kept else ()
        return ChatChunk(choices=choices, extra=extra)

    # ── the kinds of events ──

    def _untyped(self, value: dict[str, Any]) -> ChatChunk | None:
        if isinstance(value.get("output"), list):
            return self._completed(value, {})
        if value.keys() & {"choices", "delta", "messages"}:
            return _wire.decode_chunk(value)  # the chat of an agent that knows no Responses
        self._extra.update(_telling(value))
        return None

    def _introduced(self, response: dict[str, Any]) -> None:
        found = {name: _word(response, name) for name in ("id", "model")}
        self._about.update({name: text for name, text in found.items() if text is not None})
        if (created := number(response.get("created_at"))) is not None:
            self._about["created"] = created

    def _stretch(self, event: str, value: dict[str, Any]) -> ChatChunk | None:
        delta = value.get("delta")
        if isinstance(delta, dict):
            delta = delta.get("text")
        if not isinstance(delta, str) or not delta:
            return None
        item = self._item_of(_STRETCHES[event], value)
        if event == "response.refusal.delta":
            item.refusal += delta
            return self._chunk(Delta(refusal=delta))
        item.text += delta
        return self._chunk(self._adding(item, delta))

    def _unstretched(self, kind: str, value: dict[str, Any]) -> ChatChunk | None:
        stretch, said = _WHOLES[kind]
        alike = [each for each in self._items[self._round :] if each.kind == _STRETCHES[stretch]]
        if any(each.begun or each.whole is not None for each in alike if not each.elsewhere(_index(value))):
            return None
        return self._stretch(stretch, {**value, "delta": value.get(said)})

    def _added(self, item: dict[str, Any], value: dict[str, Any]) -> ChatChunk | None:
        kind = _kind(item)
        if kind not in ("message", "reasoning", *_CALLS):
            return None
        added = _Item(kind, index=_index(value))
        self._items.append(added)
        _name(added, item)
        return self._chunk(self._adding(added, "")) if kind in _CALLS else None

    def _done(self, item: dict[str, Any], value: dict[str, Any]) -> ChatChunk | None:
        here = self._items[self._round :]
        same = self._same_as(item, _index(value), here)
        if same is not None and _index(value) is None and _says_again(item, same, here):
            same = None
        choices = self._whole(item, same, _index(value))
        self._extra.update(_telling({name: said for name, said in value.items() if name not in _PLACE}))
        if not self._announced and _kind(item) != "reasoning":
            # No round was announced, so none will be completed: what an agent has said so far may be all.
            finish = _finish(each.as_json() for each in self._items)
            choices.append(ChunkChoice(0, Delta(role="assistant"), finish_reason=finish))
        return self._chunk_of(choices) if choices else None

    def _completed(self, response: dict[str, Any], value: dict[str, Any]) -> ChatChunk:
        self._introduced(response)
        if response.get("status") == "failed":
            raise _failure(response)
        choices: list[ChunkChoice] = []
        told, ordered = self._items[self._round :], []
        items = [item for item in _list(response, "output") if isinstance(item, dict)]
        for item in items:
            same = self._same_as(item, None, told) or _renamed(item, told, items)
            if same is not None:
                told.remove(same)
            choices += self._whole(item, same, None)
            ordered.append(self._items[-1] if same is None else same)
        here = self._items[self._round :] = [*ordered, *told]  # as the service orders them
        reason = _finish_reason(response, [each.as_json() for each in here])
        choices.append(ChunkChoice(0, Delta(role="assistant"), finish_reason=reason))
        known = {"id", "model", "created_at", "object", "output", "usage"}
        self._extra.update(_telling({name: said for name, said in response.items() if name not in known}))
        self._extra.update(_telling({name: said for name, said in value.items() if name not in _PLACE}))
        self._round = len(self._items)
        report = response.get("usage")
        return changed(self._chunk_of(choices), usage=_usage(report) if isinstance(report, dict) else None)

    # ── items ──

    def _item_of(self, kind: str, value: dict[str, Any]) -> _Item:
        """The item that a stretch belongs to: one that is still open, and has not begun under another name."""
        name, index = _word(value, "item_id"), _index(value)
        for item in reversed(self._items[self._round :]):
            if item.whole is not None or item.kind != kind or item.elsewhere(index):
                continue
            if index is None and item.begun and name is not None and item.ids and name not in item.ids:
                continue
            break
        else:
            item = _Item(kind, index=index)
            self._items.append(item)
        if name is not None:
            item.ids.add(name)
        return item

    def _same_as(self, item: dict[str, Any], index: int | None, among: list[_Item]) -> _Item | None:
        """Which of the items told so far this one is."""
        kind, named, call_id = _kind(item), _word(item, "id"), _word(item, "call_id")
        alike = [each for each in among if each.kind == kind]
        if kind in _CALLS and call_id:
            if found := [each for each in alike if each.call_id == call_id]:
                return found[0]
            # Stretches alone do not say whose they are: by name or place, or else the first that is nobody's.
            alike = [each for each in alike if each.call_id is None and not each.elsewhere(index)]
            return next((each for each in alike if named in each.ids), next(iter(alike), None))
        closed = [each for each in alike if each.whole is not None and not each.elsewhere(index)]
        for each in closed:
            again = each.whole == item or _returning(each.as_json()) == _returning(item)
            if again and (named is None or not each.ids or named in each.ids):
                return each
        open_ = [each for each in alike if each.whole is None and _retold(item, kind, each.text).startswith(each.text)]
        if found := [each for each in open_ if (index is not None and each.index == index) or named in each.ids]:
            return found[0]
        if found := [each for each in open_ if each.begun and not each.elsewhere(index)]:
            return found[0]
        if index is None:  # in the list at the end: an item that grew after it had been told
            return next((each for each in closed if named is not None and named in each.ids), None)
        return None

    def _whole(self, item: dict[str, Any], same: _Item | None, index: int | None) -> list[ChunkChoice]:
        """What a whole item adds to what has been told of it."""
        kind = _kind(item)
        if same is not None and same.whole is not None:
            return []
        if same is None:
            same = _Item(kind, index=index)
            self._items.append(same)
        unnamed = same.name is None
        same.whole = item
        _name(same, item)
        if kind in _CALLS:
            rest = _rest(same.text, _argued(item, kind))
            same.text += rest
            extra = _beside(item, "call_id", "name", _CALLS[kind])
            return [ChunkChoice(0, self._adding(same, rest, extra))] if rest or unnamed or extra else []
        if kind == "reasoning":
            rest = _rest(same.text, _retold(item, kind, same.text))
            encrypted = _word(item, "encrypted_content")
            signature = _word(item, "signature")
            thoughts = [Reasoning(rest, signature, item=True)] if rest or signature else []
            # A part of its own: streamed, it comes after the words, and whole and streamed answers are equal.
            thoughts += [Reasoning(encrypted=encrypted, item=True)] if encrypted is not None else []
            same.text += rest
            beside = _beside(item, *_THOUGHTS, "encrypted_content", "signature")
            deltas = [Delta(role="assistant", content=(part,)) for part in thoughts]
            deltas += [Delta(role="assistant", extra={_BESIDE: beside})] if beside else []
            return [ChunkChoice(0, delta) for delta in deltas]
        if kind != "message":
            return []
        return self._spoken(item, same)

    def _spoken(self, item: dict[str, Any], same: _Item) -> list[ChunkChoice]:
        text = _rest(same.text, _said(item, "message"))
        refusal = _rest(same.refusal, _said(item, "message", "refusal"))
        same.text, same.refusal = same.text + text, same.refusal + refusal
        notes = [note for part in _parts(item) for note in _list(part, "annotations")]
        tokens = [token for part in _parts(item) for token in _list(part, "logprobs")]
        spoke = [part for part in _parts(item) if part.get("type") in (*_TEXTS, "refusal")]
        # An answer that says nothing is empty, as chat completions have it.
        silent = any(part["type"] in _TEXTS for part in spoke) and not same.begun
        beside = _beside(item, "role", "content", "phase")
        for part in spoke:
            beside |= _beside(part, "text", "refusal", "annotations", "logprobs")
        extra = _telling({"annotations": notes, _BESIDE: beside})
        if not (text or refusal or tokens or silent or extra):
            return []
        delta = Delta(role="assistant", content="" if silent else text or None, refusal=refusal or None, extra=extra)
        return [ChunkChoice(0, delta, logprobs=_logprobs(tokens))]

    def _adding(self, item: _Item, more: str, extra: dict[str, Any] | None = None) -> Delta:
        """The delta for a stretch of an item."""
        if item.kind == "reasoning":
            return Delta(role="assistant", content=(Reasoning(more, item=True),))
        if item.kind == "message":
            return Delta(role="assistant", content=more)
        if item.call is None:
            item.call, self._calls = self._calls, self._calls + 1
        kind = "custom" if item.kind == "custom_tool_call" else "function"
        call = ToolCallDelta(item.call, item.call_id, item.name, more, kind, extra or {})
        return Delta(role="assistant", tool_calls=(call,))

    def _chunk(self, delta: Delta) -> ChatChunk:
        return self._chunk_of([ChunkChoice(0, delta)])

    def _chunk_of(self, choices: list[ChunkChoice]) -> ChatChunk:
        about, self._about = self._about, {}
        return ChatChunk(choices=tuple(choices), **about)


def _index(value: Mapping[str, Any]) -> int | None:
    index = value.get("output_index")
    return index if isinstance(index, int) else None


def _name(told: _Item, item: Mapping[str, Any]) -> None:
    if (named := _word(item, "id")) is not None:
        told.ids.add(named)
    if told.kind in _CALLS:
        told.call_id = _call_id(item) or told.call_id
        told.name = _word(item, "name") or told.name


def _renamed(item: dict[str, Any], told: list[_Item], items: list[dict[str, Any]]) -> _Item | None:
    """The item among those told that this one is under another name: some gateways make one up for every event."""
    names = {_word(each, "id") for each in items}
    kind, said = _kind(item), _returning(item)
    for each in told:
        if each.kind != kind or each.whole is None or each.ids & names:
            continue
        if said == _returning(each.whole) and _said(item, kind) == _said(each.whole, kind):
            return each
    return None


def _says_again(item: dict[str, Any], same: _Item, here: list[_Item]) -> bool:
    """Whether an item that is like an earlier one comes anew: others came in between, and no name says it is that one.

    An agent may say the same before and after a call. All its items are called alike, or none has a name.
    """
    if same.whole is None or same is here[-1] or same.kind not in ("message", "reasoning"):
        return False
    return sum(_word(item, "id") in each.ids for each in here) != 1


def _rest(told: str, whole: str) -> str:
    """What the whole says beyond what was told; nothing if it contradicts that: told cannot be taken back."""
    return whole[len(told) :] if whole.startswith(told) else ""


def _finish_reason(response: Mapping[str, Any], items: list[dict[str, Any]]) -> str | None:
    status = response.get("status")
    if status == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return "length" if reason in ("max_output_tokens", "max_tokens") else str(reason or status)
    if status in ("in_progress", "queued"):
        return None
    return "cancelled" if status == "cancelled" else _finish(items)


def _usage(report: dict[str, Any]) -> Usage | None:
    usage = _decode.reported(report)
    details = report.get("input_tokens_details")
    written = details.get("cache_write_tokens") if isinstance(details, dict) else None
    if usage is not None and usage.cache_creation_tokens is None and isinstance(written, int):
        return changed(usage, cache_creation_tokens=written)
    return usage


def _logprobs(tokens: list[Any]) -> Logprobs | None:
    return _decode._take_logprobs({"logprobs": {"content": tokens}}) if tokens else None  # noqa: SLF001 - the codec below


def _beside(item: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """What an item or a part of one says that has no place of its own in a message; ids and states stay behind."""
    return _telling({name: said for name, said in item.items() if name not in (*known, "type", "id", "status")})


def _telling(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say something: sent empty and absent are the same."""
    return {name: value for name, value in found.items() if value not in (None, [], {})}
