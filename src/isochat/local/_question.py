"""One chat question as it arrived: what was asked, of which endpoint, and the key everything else is derived from."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from isochat.local._families import Endpoint

__all__ = ["Question", "Tool", "text_of", "words"]

#: What says how to carry the answer, not what is asked; the same question must get the same answer without it.
CARRIAGE = frozenset({"model", "stream", "stream_options", "client_request_id", "usage_context", "user"})


def words(text: str) -> list[str]:
    """The text in pieces of one word and the space after it; joined, they are the text."""
    return re.findall(r"\S+\s*|^\s+", text)


def text_of(content: object) -> str:
    """The text of a message's content: the string, or its text parts joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(
            p.get("text") or "" for p in content if isinstance(p, dict) and p.get("type") in {"text", "input_text"}
        )
    return ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call."""

    name: str
    parameters: Mapping[str, Any] | None

    @property
    def takes_nothing(self) -> bool:
        """Whether it has no parameters at all."""
        return not self.parameters or not (
            {"properties", "$ref", "anyOf", "oneOf", "allOf"} & set(self.parameters)
            and self.parameters.get("properties", True)
        )


@dataclass(frozen=True, slots=True)
class Question:
    """A chat question that passed the endpoint's checks (`_rules`)."""

    endpoint: Endpoint
    body: Mapping[str, Any]
    #: Hex digits derived from what was asked; the same blocking and streamed, through whichever route.
    key: str

    @classmethod
    def of(cls, body: Mapping[str, Any], endpoint: Endpoint) -> Question:
        """The question a body asks of an endpoint."""
        asked = {k: v for k, v in body.items() if k not in CARRIAGE and v is not None}
        text = json.dumps([endpoint.name, asked], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return cls(endpoint, body, hashlib.sha256(text.encode()).hexdigest())

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The conversation; an agent's may be called `input`."""
        found = self.body.get("messages")
        if found is None:
            found = self.body.get("input")
        return found if isinstance(found, list) else [{"role": "user", "content": found or ""}]

    @property
    def streams(self) -> bool:
        """Whether the answer was asked for as a stream."""
        return bool(self.body.get("stream"))

    @property
    def user_text(self) -> str:
        """The text of the last user message."""
        return next((text_of(m.get("content")) for m in reversed(self.messages) if m.get("role") == "user"), "")

    @property
    def tool_result(self) -> str | None:
        """The text of the tool message the conversation ends with, or None when it ends otherwise."""
        last = self.messages[-1] if self.messages else {}
        return text_of(last.get("content")) if last.get("role") == "tool" else None

    @property
    def turn(self) -> int:
        """How many times the user has spoken."""
        return sum(m.get("role") == "user" for m in self.messages)

    @property
    def tools(self) -> list[Tool]:
        """The functions offered."""
        return [Tool(t["function"]["name"], t["function"].get("parameters")) for t in self.body.get("tools") or ()]

    @property
    def tool_choice(self) -> str:
        """`auto`, `none`, `required`, or `=` and the name of the one function to call."""
        choice = self.body.get("tool_choice")
        if isinstance(choice, dict):
            return f"={choice['function']['name']}"
        return choice or "auto"

    @property
    def thinks(self) -> bool:
        """Whether reasoning is to be shown."""
        reasons = self.endpoint.family.reasons
        if reasons != "asked":
            return reasons == "always"
        return (self.body.get("thinking") or {}).get("type") in {"enabled", "adaptive"}

    @property
    def prompt_tokens(self) -> int:
        """Words in the conversation: what this endpoint counts for tokens."""
        return max(1, sum(len(words(text_of(m.get("content")))) for m in self.messages))

    def number(self, name: str, default: int) -> int:
        """An integer option, or what it is when absent or null."""
        value = self.body.get(name)
        return value if isinstance(value, int) else default

    def digits(self, salt: str, count: int = 24) -> str:
        """Deterministic hex digits for one purpose within this question."""
        return hashlib.sha256(f"{self.key}/{salt}".encode()).hexdigest()[:count]
