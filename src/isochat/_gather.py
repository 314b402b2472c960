"""The pieces of a streamed answer, put together into the answer they are pieces of.

The rules are those of reading a whole answer: a stream collected equals the unstreamed answer to the same question.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isochat._types import (
    ChatResponse,
    Choice,
    Later,
    Logprobs,
    Message,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Usage,
    unmade_raw,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isochat._types import ChatChunk, ChunkChoice, Delta, Part, ToolCallDelta


#: Lists that come in stretches, which may well be equal: OpenRouter's, and vLLM's.
_STRETCHES = frozenset({"reasoning_details", "token_ids"})
#: Text that does, inside of sound: OpenAI's base64 and its transcript.
_SOUND = frozenset({"data", "transcript"})
#: And in a message: reasoning under a second name, where that says something else.
_THOUGHT = frozenset({"reasoning", "reasoning_content", "reasoning_text", "thinking"})
_DEEPEST = 50  # beyond any object that comes in pieces; the latest stands


class Gathering:
    """What has arrived so far."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None
        self._id: str | None = None
        self._model: str | None = None
        self._created: float | None = None
        self._extra: dict[str, Any] = {}
        self._agent = False

    def add(self, chunk: ChatChunk) -> None:
        """Take one more piece."""
        raw = unmade_raw(chunk)
        if not isinstance(raw, Later):  # which only what has choices is
            self._agent = self._agent or _is_agents(raw)
        if not (self._id and self._model and self._created):
            # The first that says something: Azure's first chunk has empty names, and they are constant afterwards.
            self._id = self._id or chunk.id
            self._model = self._model or chunk.model
            self._created = self._created or chunk.created
        if chunk.usage is not None:
            self._usage = _latest_usage(self._usage, chunk.usage)
        if chunk.extra:
            _merge(self._extra, chunk.extra)
        for choice in chunk.choices:
            if (gathered := self._choices.get(choice.index)) is None:
                gathered = self._choices[choice.index] = _Choice()
            gathered.add(choice)

    @property
    def finished(self) -> bool:
        """Whether every choice that has begun has said why it ended."""
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    @property
    def choices(self) -> int:
        """How many choices have begun."""
        return len(self._choices)

    @property
    def complete(self) -> bool:
        """Whether the answer may end here.

        An agent's pieces carry no finish reason and may end without `[DONE]`: there the reply's own end must do.
        """
        return self.finished or (self._agent and bool(self._choices))

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived."""
        return not self._choices and self._usage is None and self._id is None

    def response(self) -> ChatResponse:
        """The answer as far as it has come."""
        first = self._choices.get(0)
        messages = first.agent_messages() if first is not None else []
        if messages:
            self._extra["messages"] = messages
        return ChatResponse(
            choices=tuple(choice.whole(index) for index, choice in sorted(self._choices.items())),
            usage=self._usage,
            id=self._id,
            model=self._model,
            created=self._created,
            extra=dict(self._extra),
        )


def _is_agents(raw: Any) -> bool:
    """Whether a chunk came from an agent: its message, or a piece of it, without choices."""
    return isinstance(raw, dict) and "choices" not in raw and bool(raw.keys() & {"delta", "messages", "predictions"})


@dataclass(slots=True)
class _Choice:
    role: str | None = None
    text: list[str] = field(default_factory=list)  # while the content is plain text
    parts: list[Part] | None = None  # once any delta brought a list
    calls: list[_Call] = field(default_factory=list)
    refusal: list[str] | None = None
    reasoning: list[str] | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    message_extra: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    spoke: bool = False  # whether any content came, were it empty
    earlier: list[Message] = field(default_factory=list)  # an agent's messages before this one

    def add(self, choice: ChunkChoice) -> None:
        delta = choice.delta
        if (delta.role or delta.extra) and self._begins_message(delta):
            self.earlier.append(self._message())
            self.role, self.text, self.parts, self.calls, self.spoke = None, [], None, [], False
            self.refusal, self.reasoning, self.message_extra = None, None, {}
        self.role = self.role or delta.role
        if delta.content is not None:
            self._add_content(delta.content)
        if delta.tool_calls:
            before = len(self.calls)
            for piece in delta.tool_calls:
                self._add_call(piece, before)
        if delta.refusal is not None:
            self.refusal = [*(self.refusal or ()), delta.refusal]
        if delta.reasoning_content is not None:
            self.reasoning = [] if self.reasoning is None else self.reasoning
            self.reasoning.append(delta.reasoning_content)
        if delta.extra:
            _merge(self.message_extra, delta.extra, _THOUGHT)
        # The last reason given; an empty one does not take back an earlier one.
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason or self.finish_reason or ""
        if choice.logprobs is not None:
            self.logprobs = _more_logprobs(self.logprobs, choice.logprobs)
        if choice.extra:
            _merge(self.extra, choice.extra)

    def _begins_message(self, delta: Delta) -> bool:
        """An agent's stream holds several messages, told apart by their deltas' `id`, or where there is none, role."""
        before, now = self.message_extra.get("id"), delta.extra.get("id")
        if isinstance(before, str) and isinstance(now, str):
            return before != now
        return bool(self.role and delta.role) and self.role != delta.role  # an empty role is none

    def _add_content(self, content: str | tuple[Part, ...]) -> None:
        self.spoke = True
        if isinstance(content, str):
            if self.parts is None:
                self.text.append(content)
            elif content:
                _append(self.parts, Text(content))
            return
        if self.parts is None:
            begun = "".join(self.text)
            self.parts = [Text(begun)] if begun else []
        # Only the first can go on where the last delta stopped; what came apart in one list is apart.
        for part in content[:1]:
            _append(self.parts, part)
        self.parts.extend(content[1:])

    def _add_call(self, piece: ToolCallDelta, before: int) -> None:
        call = self._call_of(piece, before)
        if call is None:
            self.calls.append(_Call(index=piece.index, id=piece.id))
            call = self.calls[-1]
        if piece.id is not None:
            call.id = call.id or piece.id
        # Names come whole, once or with every piece; no service recorded so far sends one in stretches.
        call.name = call.name or piece.name or ""
        call.type = call.type or piece.type
        call.arguments.append(piece.arguments)
        if piece.extra:
            _merge(call.extra, piece.extra)

    def _call_of(self, piece: ToolCallDelta, before: int) -> _Call | None:
        """The call that a piece belongs to: by index, unless a new id stands under it; else by id; else the last.

        Without an index, the pieces of one delta are calls of their own: Gemini's ids are the functions' names, so
        that two calls of one function have the same, or empty, so that only a name begins a call.
        """
        if piece.index is None and piece.id:
            return next((call for call in self.calls[:before] if call.id == piece.id), None)
        if piece.index is None and piece.name and self.calls:
            last = self.calls[-1]
            return None if len(self.calls) > before or last.name not in ("", piece.name) else last
        same = [call for call in self.calls if piece.index is None or call.index == piece.index]
        if not same:
            return None
        call = same[-1]
        return None if piece.id and call.id and piece.id != call.id else call

    def _message(self) -> Message:
        content: str | tuple[Part, ...] | None = None
        if self.parts is not None:
            content = tuple(self.parts)
        elif self.spoke:
            content = "".join(self.text)
        extra = dict(self.message_extra)
        named = {name: extra.pop(name) for name in ("name", "tool_call_id") if isinstance(extra.get(name), str)}
        return Message(
            role=self.role,
            content=content,
            tool_calls=tuple(
                ToolCall(call.id, call.name, "".join(call.arguments), call.type or "function", dict(call.extra))
                for call in self.calls
            ),
            refusal=None if self.refusal is None else "".join(self.refusal),
            reasoning_content=None if self.reasoning is None else "".join(self.reasoning),
            extra=extra,
            **named,
        )

    def _messages(self) -> list[Message]:
        return [*self.earlier, self._message()]

    def agent_messages(self) -> list[dict[str, Any]]:
        """An agent's whole round, in the wire's form, if it was one of several messages."""
        return [message.to_dict() for message in self._messages()] if self.earlier else []

    def whole(self, index: int) -> Choice:
        messages = self._messages()
        answer = next((message for message in reversed(messages) if message.role == "assistant"), messages[-1])
        return Choice(index, answer, self.finish_reason, self.logprobs, dict(self.extra))


@dataclass(slots=True)
class _Call:
    index: int | None = None
    id: str | None = None
    name: str = ""
    type: str | None = None
    arguments: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


def _append(parts: list[Part], piece: Part) -> None:
    """Add a part, or make the last one longer if the piece goes on where it stopped."""
    last = parts[-1] if parts else None
    match last, piece:
        case (Text(), Text()) if _agree(last.extra, piece.extra):
            parts[-1] = Text(last.text + piece.text, {**last.extra, **piece.extra})
        case (Refusal(), Refusal()):
            parts[-1] = Refusal(last.refusal + piece.refusal, {**last.extra, **piece.extra})
        case (Reasoning(), Reasoning()) if _goes_on(last, piece):
            # No longer any one block that came: what goes back is built of its values.
            text, signature = last.text + piece.text, piece.signature or last.signature
            parts[-1] = Reasoning(text, signature, last.encrypted, item=last.item)
        case _:
            parts.append(piece)


def _goes_on(last: Reasoning, piece: Reasoning) -> bool:
    """A signature closes a block of reasoning, and encrypted reasoning is a block by itself."""
    if last.encrypted is not None or piece.encrypted is not None or last.item != piece.item:
        return False
    return last.signature is None


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _latest_usage(before: Usage | None, now: Usage) -> Usage:
    """The last value that is one, count by count; never a sum.

    Claude's counts are null until the last chunk, Llama's grow with every chunk, others come once at the end.
    """
    if before is None:
        return now
    return Usage(
        prompt_tokens=_last(before.prompt_tokens, now.prompt_tokens),
        completion_tokens=_last(before.completion_tokens, now.completion_tokens),
        total_tokens=_last(before.total_tokens, now.total_tokens),
        cached_tokens=_last(before.cached_tokens, now.cached_tokens),
        cache_creation_tokens=_last(before.cache_creation_tokens, now.cache_creation_tokens),
        reasoning_tokens=_last(before.reasoning_tokens, now.reasoning_tokens),
        extra={**before.extra, **now.extra},
    )


def _last(before: int | None, now: int | None) -> int | None:
    return before if now is None else now


def _more_logprobs(before: Logprobs | None, now: Logprobs) -> Logprobs:
    if before is None:
        return now
    extra = dict(before.extra)
    _merge(extra, now.extra)
    return Logprobs(_joined(before.content, now.content), _joined(before.refusal, now.refusal), extra)


def _joined(before: tuple[Any, ...] | None, now: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    return before if now is None else (before or ()) + now


def _merge(into: dict[str, Any], more: Mapping[str, Any], joined: frozenset[str] = frozenset(), depth: int = 0) -> None:
    """Fold one chunk's other fields into what came before: lists grow, objects fold, else the latest stands.

    `joined` are the names of text that comes in stretches.
    """
    for name, value in more.items():
        before = into.get(name)
        if isinstance(before, list) and isinstance(value, list):
            # Some repeat with every chunk what they have said so far.
            again = name not in _STRETCHES and value[: len(before)] == before
            into[name] = value if again else before + value
        elif isinstance(value, dict) and depth < _DEEPEST:
            inner = dict(before) if isinstance(before, dict) else {}
            _merge(inner, value, _SOUND if name == "audio" else frozenset(), depth + 1)
            into[name] = inner
        elif name in joined and isinstance(before, str) and isinstance(value, str):
            into[name] = before + value
        elif value is not None or name not in into:
            into[name] = value
