"""An answer as a family streams it: pieces in, chunks out, one after the other.

Nothing waits for the end, so that what an upstream says arrives word for word. `tests/wire` holds the shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isochat.local._answer import Call, Usage
from isochat.local._dress import PROMPT_FILTERS, SAFE
from isochat.local._question import words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isochat.local._answer import Piece
    from isochat.local._dress import Dress, Json

__all__ = ["Chunks"]


@dataclass(slots=True)
class _State:
    """How far one choice has come."""

    opened: bool = False
    #: What it thought so far; None once the thought is closed, or before there was one.
    thought: str | None = None
    thinks: bool = False
    spoke: bool = False
    #: A call whose pieces are kept until it is whole (families that give it in one piece).
    kept: list[str] = field(default_factory=list)


class Chunks:
    """The chunks of one streamed answer. Feed it pieces; what it yields goes out as `data:` lines."""

    def __init__(self, dress: Dress) -> None:
        self.dress, self.family = dress, dress.family
        self.states: dict[int, _State] = {}
        #: Counted once: a chunk that tells it must not cost the more the longer the question is.
        self.prompt = dress.question.prompt_tokens
        self.spent = 0
        #: The chunks that end the choices wait for the usage, which on some families rides on them.
        self.ends: list[Json] = []

    @property
    def says_done(self) -> bool:
        """Whether this family ends a stream with `[DONE]`."""
        return not self.family.has("agent-deltas")

    def open(self) -> Iterator[Json]:
        """What comes before anything is said."""
        if self.family.has("filter-results-first"):
            yield {
                "id": "",
                "object": "",
                "created": 0,
                "model": "",
                "choices": [],
                "prompt_filter_results": PROMPT_FILTERS,
            }

    def feed(self, piece: Piece) -> Iterator[Json]:
        """The chunks for the next piece."""
        if piece.usage is not None:
            yield from self._close(piece.usage)
            return
        state = self.states.setdefault(piece.choice, _State())
        if self.family.has("agent-deltas"):
            if piece.text or (piece.finish_reason is not None and not state.spoke):
                state.spoke = True
                yield {"delta": {"role": "assistant", "content": piece.text or "", "id": self.dress.agent_id()}}
            return
        first, state.opened = not state.opened, True
        if first and not self.family.has("role-on-every-chunk") and not self.family.has("empty-message"):
            opening: Json = {"role": "assistant", "content": "" if piece.call is None else None}
            yield self._chunk(piece.choice, opening | ({"refusal": None} if self.family.has("usage-details") else {}))
        self.spent += len(words(piece.text or piece.reasoning or ""))
        for delta in self._deltas(piece, state):
            yield self._chunk(piece.choice, delta, text=piece.text)
        if piece.finish_reason is not None:
            self.ends.append(self._last(piece))

    def _deltas(self, piece: Piece, state: _State) -> Iterator[Json]:
        if piece.redacted:
            yield {"content": [self.dress.redacted(piece.choice)]}
            return
        if piece.reasoning is not None:
            state.thought, state.thinks = (state.thought or "") + piece.reasoning, True
            if piece.reasoning:
                yield {"content": [self.dress.thought(piece.reasoning, "")]}
            return
        if state.thought is not None:
            signature = self.dress.signature(state.thought, f"thought/{piece.choice}")
            if not self.family.has("unsigned-reasoning"):
                yield {"content": [self.dress.thought("", signature)]}
            state.thought = None
        if piece.call is None or piece.id is not None:
            yield from self._kept_call(state)
        if piece.text:
            state.spoke = True
            listed = self.family.has("list-content") or (state.thinks and not self.family.has("list-then-string"))
            yield {"content": [self.dress.text_block(piece.text, piece.choice, signed=False)] if listed else piece.text}
        elif piece.refusal:
            yield {"refusal": piece.refusal}
        elif piece.call is not None:
            yield from self._call(piece, state)
        if piece.finish_reason is not None and state.spoke and self.family.has("text-thought-signature"):
            yield {"content": [self.dress.text_block("", piece.choice)]}

    def _call(self, piece: Piece, state: _State) -> Iterator[Json]:
        if self.family.has("tool-id-is-name"):
            if piece.id is not None:
                state.kept = [str(piece.call), piece.id, piece.name or ""]
            state.kept.append(piece.arguments)
            return
        call: Json = {"index": piece.call}
        if piece.id is not None:
            call |= {"id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": piece.arguments}}
        else:
            call["function"] = {"arguments": piece.arguments}
        yield ({} if self.family.has("usage-details") else {"content": None}) | {"tool_calls": [call]}

    def _kept_call(self, state: _State) -> Iterator[Json]:
        """The call kept so far, now that something else begins."""
        if state.kept:
            index, id_, name, *arguments = state.kept
            state.kept = []
            yield {
                "content": None,
                "tool_calls": [{"index": int(index)} | self.dress.call(Call(id_, name, "".join(arguments)))],
            }

    def _last(self, piece: Piece) -> Json:
        delta: Json = {} if self.family.has("usage-chunk") or self.family.has("empty-message") else {"content": ""}
        return self._chunk(piece.choice, delta, finish_reason=piece.finish_reason or None)

    def _chunk(self, choice: int, delta: Json, *, text: str | None = None, finish_reason: str | None = None) -> Json:
        chunk = self.dress.head("chat.completion.chunk")
        if self.family.has("empty-message"):
            chunk["id"], delta, finish_reason = None, {}, None
        elif self.family.has("role-on-every-chunk"):
            delta = {"role": "assistant", **delta}
        inner: dict[str, Any] = {"index": choice, "delta": delta, "finish_reason": finish_reason}
        if self.family.logprobs:
            inner["logprobs"] = self.dress.logprobs(text) if text else None
        if self.family.has("azure-filter-results"):
            inner["content_filter_results"] = SAFE if text else {}
        chunk["choices"] = [inner]
        if not self.family.has("no-model-no-usage"):
            chunk |= self._usage_so_far()
        return chunk

    def _usage_so_far(self) -> Json:
        counted = self.dress.usage(Usage(self.prompt, self.spent))
        if self.family.has("null-usage-midstream"):
            return {"usage": counted | {"completion_tokens": None, "total_tokens": None}}
        return {"usage": counted if self.family.has("cumulative-usage") else None}

    def _close(self, usage: Usage) -> Iterator[Json]:
        """The ends of the choices, and the usage where this family puts it."""
        counted = self.dress.usage(usage)
        if self.ends and "usage" in self.ends[-1] and not self.family.has("usage-chunk"):
            self.ends[-1]["usage"] = counted
        yield from self.ends
        self.ends = []
        if self.family.has("usage-chunk"):
            yield self.dress.head("chat.completion.chunk") | {"choices": [], "usage": counted}
