"""What flows through isochat: messages in, answers out. Frozen values, equal whichever backend made them.

Absent is None: what the service did not say is not invented. What it said beyond the fields here stands in `extra`,
under the service's own names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, TypeAlias

import msgspec

from isochat._frozen import COVERED, changed, frozen
from isochat.errors import Attempt, MalformedReply

Extra: TypeAlias = Mapping[str, Any]


def _extra() -> Any:
    """Whatever else the service said: compared, but left out of hashes (a dictionary has none)."""
    return field(default_factory=dict, hash=False)


def _about(default: Any = None, metadata: Mapping[str, bool] | None = None) -> Any:
    """A fact about how the answer came, not about what it says: two equal answers may differ in it."""
    return field(default=default, compare=False, repr=False, metadata=metadata)


# ── content parts ────────────────────────────────────────────────────────────────────────────────────────────────


@frozen()
class Text:
    """A stretch of text. `extra` may hold `cache_control`, `citations` or a `thoughtSignature`."""

    text: str
    extra: Extra = _extra()


@frozen()
class Image:
    """A picture: `url` is an https address or a `data:image/png;base64,…` URL; `detail` is `low`, `high` or `auto`."""

    url: str
    detail: str | None = None
    extra: Extra = _extra()


@frozen()
class Audio:
    """Sound: either `url` (sent as `audio_url`), or base64 `data` in a `format` such as `wav` (as `input_audio`)."""

    url: str | None = None
    data: str | None = None
    format: str | None = None
    extra: Extra = _extra()


@frozen()
class Video:
    """A film: `url` is an https address or a data URL."""

    url: str
    extra: Extra = _extra()


@frozen()
class File:
    """A document: `data` is a data URL such as `data:application/pdf;base64,…`, or `file_id` names an uploaded one."""

    data: str | None = None
    filename: str | None = None
    file_id: str | None = None
    extra: Extra = _extra()


@frozen()
class Reasoning:
    """What the model thought before it answered.

    `signature` proves to the service that the text is its own; `encrypted` is reasoning that it will not show. Both
    must go back unmodified for a conversation to go on. `raw` is the block as it came, which is what goes back. `item`
    says that it came through the Responses API: each of the two languages takes back only its own reasoning.
    """

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None
    raw: Extra | None = field(default=None, compare=False, repr=False)
    item: bool = field(default=False, compare=False, repr=False)


@frozen()
class Refusal:
    """The model's own words for why it will not answer."""

    refusal: str
    extra: Extra = _extra()


@frozen()
class Unknown:
    """A part that isochat has no name for: kept, and sent back, as it came."""

    raw: Any = field(hash=False)


Part: TypeAlias = Text | Image | Audio | Video | File | Reasoning | Refusal | Unknown


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen()
class ToolCall:
    """The model asks for a function to be called.

    `arguments` is the JSON text as the model wrote it, which may be empty or broken; `parse()` reads it. `type` is
    `function`, or `custom` for a tool that takes free text. Gemini's `thoughtSignature` stands in `extra` and goes
    back with the message.
    """

    id: str | None
    name: str
    arguments: str = ""
    type: str = "function"
    extra: Extra = _extra()

    def parse(self) -> dict[str, Any]:
        """The arguments as a dictionary; empty text, which Claude sends for a tool without parameters, is `{}`.

        Raises `MalformedReply` if the model did not write a JSON object.
        """
        try:
            value = msgspec.json.decode(self.arguments) if self.arguments.strip() else {}
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise MalformedReply(
                f"the model's arguments for {self.name!r} are not JSON: {error}", body=self.arguments
            ) from error
        if not isinstance(value, dict):
            raise MalformedReply(
                f"the model's arguments for {self.name!r} are not a JSON object but {type(value).__name__}",
                body=self.arguments,
            )
        return value


@frozen()
class Message:
    """One turn of a conversation.

    `role` is `system`, `user`, `assistant` or `tool` (None if the service did not say). `content` is text, a sequence
    of parts, or None. `refusal` and `reasoning_content` are set when the service gave them as fields beside the
    content rather than as parts of it. The `message` of an answer can be put into the next question as it is, to
    whichever endpoint and through whichever backend.

    `origin` is the endpoint that wrote it; None of a message that you wrote yourself. What only its own model takes
    back (reasoning, signatures, encrypted thoughts) goes back to that endpoint and is left out for any other. Where
    two endpoints have the same model behind them, say so: `dataclasses.replace(message, origin="the-other")`.
    """

    role: str | None
    content: str | tuple[Part, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    extra: Extra = _extra()
    origin: str | None = _about()

    def __post_init__(self) -> None:
        # A list is what people write; a frozen value wants a tuple.
        if isinstance(self.content, list):
            object.__setattr__(self, "content", tuple(self.content))
        if isinstance(self.tool_calls, list):
            object.__setattr__(self, "tool_calls", tuple(self.tool_calls))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts, whichever form it came in."""
        if isinstance(self.content, str):
            return (Text(self.content),) if self.content else ()
        return self.content or ()

    @property
    def text(self) -> str:
        """The text alone, joined; empty if there is none."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or () if isinstance(part, Text))

    @property
    def reasoning(self) -> str | None:
        """What the model thought, joined; None if the service showed none."""
        thoughts = [part.text for part in self.content or () if isinstance(part, Reasoning)]
        if thoughts or self.reasoning_content is None:
            return "".join(thoughts) if thoughts else None
        return self.reasoning_content

    def to_dict(self) -> dict[str, Any]:
        """The message in the wire's own form, to be stored as JSON and put into a later question without loss.

        Where it makes a difference which endpoint wrote it, that stands beside the rest as `isochat_origin`.
        """
        from isochat._encode import message_to_json

        return message_to_json(self, whole=True)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen()
class Usage:
    """How many tokens the question and the answer took, as the service reported it; None where it did not.

    `cached_tokens` were read from the prompt cache and `cache_creation_tokens` written to it; `reasoning_tokens` are
    part of `completion_tokens`. Whether `prompt_tokens` includes the cached ones differs by model (on Claude it does
    not), so nothing is added up here. `extra` is the rest of the report under the service's own names.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cache_creation_tokens: int | None = None
    reasoning_tokens: int | None = None
    extra: Extra = _extra()

    def to_dict(self) -> dict[str, Any]:
        """The report as an OpenAI `usage` object."""
        from isochat._encode import usage_to_json

        return usage_to_json(self)


@frozen()
class TokenLogprob:
    """How likely the model held one token (natural logarithm), and which others it weighed."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()


@frozen()
class Logprobs:
    """Log probabilities of the tokens of an answer's content, and of its refusal. `extra` holds any other form."""

    content: tuple[TokenLogprob, ...] | None = None
    refusal: tuple[TokenLogprob, ...] | None = None
    extra: Extra = _extra()


@frozen()
class Choice:
    """One of the answers asked for with `n`.

    `finish_reason` is `stop`, `length`, `tool_calls`, `content_filter`, `function_call`, or the service's own word.
    """

    index: int
    message: Message
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    extra: Extra = _extra()


_NOTHING = Message(role=None)


@frozen(repr=False)
class ChatResponse:
    """The answer, in one form whichever client carried it.

    `model` is what the service says answered, often an upstream name and not the endpoint's. `created` is in seconds
    since 1970. `raw` is the client's own object, or the bytes. `elapsed` is the seconds from asking to having the
    whole answer, and `first_event` to the first piece of a stream. `attempts` holds what was tried before, each with
    its error. Two answers are equal when they say the same: `raw`, `backend`, `endpoint`, `request_id`, `attempts`
    and the timings do not count.
    """

    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    id: str | None = None
    model: str | None = None
    created: float | None = None
    extra: Extra = _extra()
    request_id: str | None = _about()
    raw: Any = _about(metadata=COVERED)
    backend: str | None = _about()
    endpoint: str | None = _about()
    attempts: tuple[Attempt, ...] = _about(())
    elapsed: float | None = _about()
    first_event: float | None = _about()

    @property
    def message(self) -> Message:
        """The first choice's message; an empty one if the service gave no choice."""
        return self.choices[0].message if self.choices else _NOTHING

    @property
    def text(self) -> str:
        """The first choice's text, joined and without its reasoning; empty if there is none."""
        return self.message.text

    @property
    def reasoning(self) -> str | None:
        """What the model thought before the first choice; None if the service showed none."""
        return self.message.reasoning

    @property
    def refusal(self) -> str | None:
        """Why the model would not answer, in its own words; None if it did not refuse."""
        if self.message.refusal is not None:
            return self.message.refusal
        said = [part.refusal for part in self.message.parts if isinstance(part, Refusal)]
        return "".join(said) if said else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The function calls that the first choice asks for."""
        return self.message.tool_calls

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended."""
        return self.choices[0].finish_reason if self.choices else None

    def to_dict(self) -> dict[str, Any]:
        """The answer as an OpenAI `chat.completion`.

        `content` is the text; reasoning becomes `reasoning_content`. Content that came as parts is kept beside it as
        `content_parts`, so that the message can be stored and asked with again and loses no signature.
        """
        from isochat._encode import response_to_json

        return response_to_json(self)

    def __repr__(self) -> str:
        said: list[str] = [repr(shorten(self.text))]
        if self.tool_calls:
            said.append(f"tool_calls=[{shorten(', '.join(call.name for call in self.tool_calls[:20]))}]")
        if self.reasoning:
            said.append(f"reasoning={shorten(self.reasoning, 24)!r}")
        said.append(f"finish_reason={self.finish_reason!r}")
        if len(self.choices) > 1:
            said.append(f"choices={len(self.choices)}")
        if self.usage is not None:
            said.append(f"tokens={self.usage.prompt_tokens}+{self.usage.completion_tokens}")
        said.append(f"model={None if self.model is None else shorten(self.model)!r}")
        return f"{type(self).__name__}({', '.join(said)})"


# ── pieces of a streamed answer ──────────────────────────────────────────────────────────────────────────────────


@frozen()
class ToolCallDelta:
    """A piece of a tool call: `index` says which one, `arguments` is the next stretch of its JSON text."""

    index: int | None = None
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    type: str | None = None
    extra: Extra = _extra()


@frozen()
class Delta:
    """What one chunk adds to a message. `content` is a stretch of text, or parts, or None."""

    role: str | None = None
    content: str | tuple[Part, ...] | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()
    refusal: str | None = None
    reasoning_content: str | None = None
    extra: Extra = _extra()

    @property
    def text(self) -> str:
        """The text that is added; empty if none."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or () if isinstance(part, Text))

    @property
    def reasoning(self) -> str:
        """The reasoning that is added; empty if none."""
        thoughts = "".join(part.text for part in self.content or () if isinstance(part, Reasoning))
        return thoughts or self.reasoning_content or ""


@frozen()
class ChunkChoice:
    """What one chunk adds to one choice."""

    index: int
    delta: Delta
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    extra: Extra = _extra()


@frozen(repr=False)
class ChatChunk:
    """A piece of a streamed answer. `text` may be empty: a chunk can carry reasoning, a tool call, or usage alone."""

    choices: tuple[ChunkChoice, ...] = ()
    usage: Usage | None = None
    id: str | None = None
    model: str | None = None
    created: float | None = None
    extra: Extra = _extra()
    raw: Any = _about(metadata=COVERED)

    @property
    def text(self) -> str:
        """The text that this chunk adds to the first choice."""
        return "".join(choice.delta.text for choice in self.choices if choice.index == 0)

    @property
    def reasoning(self) -> str:
        """The reasoning that this chunk adds to the first choice."""
        return "".join(choice.delta.reasoning for choice in self.choices if choice.index == 0)

    @property
    def tool_calls(self) -> tuple[ToolCallDelta, ...]:
        """The pieces of tool calls that this chunk adds to the first choice."""
        return tuple(call for choice in self.choices if choice.index == 0 for call in choice.delta.tool_calls)

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended, in the chunk that says so."""
        return next((c.finish_reason for c in self.choices if c.index == 0 and c.finish_reason is not None), None)

    def __repr__(self) -> str:
        said = [repr(shorten(self.text))]
        if self.reasoning:
            said.append(f"reasoning={shorten(self.reasoning, 24)!r}")
        if self.tool_calls:
            said.append(f"tool_calls={len(self.tool_calls)}")
        if self.finish_reason is not None:
            said.append(f"finish_reason={self.finish_reason!r}")
        return f"{type(self).__name__}({', '.join(said)})"


# ── raw ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Later(msgspec.Struct):
    """A value of `raw` that is made when it is first asked for, since few ever ask: what `how(*of)` gives."""

    how: Callable[..., Any]
    of: tuple[Any, ...]


class _OnDemand:
    """`raw` of an answer or a chunk: the slot of that name, with what is `Later` made on the way out."""

    def __init__(self, slot: Any) -> None:
        self.slot: Any = slot

    def __get__(self, said: ChatResponse | ChatChunk | None, owner: type[ChatResponse | ChatChunk]) -> Any:
        if said is None:
            return self
        value = self.slot.__get__(said)
        if isinstance(value, Later):
            value = value.how(*value.of)
            self.slot.__set__(said, value)
        return value

    def __set__(self, said: ChatResponse | ChatChunk, value: Any) -> None:
        self.slot.__set__(said, value)


for _cls in (ChatResponse, ChatChunk):
    setattr(_cls, "raw", _OnDemand(_cls.__dict__["raw"]))  # noqa: B010 - mypy knows it as a field, which it is


#: `raw` of a chunk, or the `Later` that stands for it still.
unmade_raw: Callable[[ChatChunk], Any] = ChatChunk.__dict__["raw"].slot.__get__


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen(kw_only=True)
class ChatRequest:
    """A question in its common form: what every backend is given to encode.

    `options` holds the parameters that were said, under their standard names; `extra_body` what goes to the endpoint
    as it is.
    """

    endpoint: str
    messages: tuple[Message, ...]
    stream: bool = False
    options: Extra = _extra()
    extra_body: Extra = _extra()

    @property
    def said(self) -> frozenset[str]:
        """The names of everything that a backend must be able to carry for this question."""
        names = set(self.options)
        if self.stream:
            names.add("stream")
        if self.extra_body:
            names.add("extra_body")
        return frozenset(names)


def written_by(response: ChatResponse, endpoint: str, **facts: Any) -> ChatResponse:
    """The answer of this endpoint, each of whose messages knows where it came from, with these facts about it."""
    choices = tuple(changed(choice, message=changed(choice.message, origin=endpoint)) for choice in response.choices)
    return changed(response, choices=choices, endpoint=endpoint, **facts)


def shorten(text: str, width: int = 60) -> str:
    """The text, or its beginning and an ellipsis if it is longer than `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def number(value: object) -> float | None:
    """The value if it is a finite number, else None. A truth value is not a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else None
