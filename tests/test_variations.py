"""The same answer in other words of the wire is the same answer.

Services differ in how they frame events, where they repeat themselves and what they leave empty. Each variation is one
such habit, put upon every sample stream: those of `tests/wire`, and the recorded ones where they are to be had.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isochat import _sse, _wire
from isochat._wire import Reply

WIRE = Path(__file__).parent / "wire"
RECORDED = Path(__file__).parents[2] / "shared" / "samples"

Chunks = list[dict[str, Any]]


def events(body: bytes) -> Chunks:
    """The JSON of the events of a stream."""
    said = [event.data.strip() for event in _sse.events_in(body)]
    return [json.loads(data) for data in said if data and data != b"[DONE]"]


def _streams() -> Iterator[Any]:
    for row in json.loads((WIRE / "index.json").read_bytes()):
        if row["kind"] == "chat.sse" and "error" not in row["expected"]:
            yield pytest.param(events((WIRE / row["file"]).read_bytes()), id=row["file"])
    if not (RECORDED / "index.json").exists():
        absent = f"the recorded payloads are not in {RECORDED.name}/ beside the repository"
        yield pytest.param(None, marks=pytest.mark.skip(reason=absent), id="recorded")
        return
    for entry in json.loads((RECORDED / "index.json").read_bytes()):
        if entry["kind"] == "chat.sse":
            yield pytest.param(events((RECORDED / entry["file"]).read_bytes()), id=entry["file"])


STREAMS = [*_streams()]


def framed(chunks: Chunks, *, end: str = "\n", before: str = "", prefix: str = "data: ", done: bool = True) -> bytes:
    said = [json.dumps(chunk) for chunk in chunks] + (["[DONE]"] if done else [])
    return "".join(f"{before}{prefix}{data}{end}{end}" for data in said).encode()


def facts(body: bytes) -> Any:
    """All that the answer says, without the forms it came in."""
    response = _wire.decode_reply(Reply(200, {"content-type": "text/event-stream"}, body))
    choices = [
        (
            choice.index,
            choice.message.text,
            choice.message.reasoning or "",
            choice.message.refusal,
            [(call.id, call.name, call.arguments) for call in choice.message.tool_calls],
            choice.finish_reason,
        )
        for choice in response.choices
    ]
    usage = response.usage
    counts = usage and (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    return choices, counts, response.id, response.model


# ── how events are framed ────────────────────────────────────────────────────────────────────────────────────────

FRAMES: dict[str, Callable[[Chunks], bytes]] = {
    "CR LF": lambda chunks: framed(chunks, end="\r\n"),
    "CR": lambda chunks: framed(chunks, end="\r"),
    "a byte order mark": lambda chunks: b"\xef\xbb\xbf" + framed(chunks),
    "comments between": lambda chunks: framed(chunks, before=": ping\n\n"),
    "named events": lambda chunks: framed(chunks, before="event: message\nid: 1\nretry: 5\n"),
    "no space": lambda chunks: framed(chunks, prefix="data:"),
}


@pytest.mark.parametrize("chunks", STREAMS)
def test_framed_otherwise(chunks: Chunks) -> None:
    """Line ends, comments, names and spaces are not part of an answer."""
    expected = facts(framed(chunks))

    assert dict.fromkeys(FRAMES, expected) == {name: facts(frame(chunks)) for name, frame in FRAMES.items()}


# ── what is said again, or empty ─────────────────────────────────────────────────────────────────────────────────

Change = Callable[[dict[str, Any], dict[str, Any]], None]
CHANGES: dict[str, Change] = {}


def change(name: str) -> Callable[[Change], Change]:
    """A habit: given a choice and its delta, it changes them."""

    def keep(made: Change) -> Change:
        CHANGES[name] = made
        return made

    return keep


@change("role with every piece")
def _role(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    delta["role"] = "assistant"


@change("role empty later")
def _empty_role(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    delta.setdefault("role", "")


@change("nulls everywhere")
def _nulls(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("role", "content", "tool_calls", "refusal", "reasoning_content", "function_call", "audio"):
        delta.setdefault(name, None)
    for name in ("finish_reason", "logprobs", "stop_reason"):
        choice.setdefault(name, None)


@change("empty finish reason")
def _unfinished(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    if choice.get("finish_reason") is None:
        choice["finish_reason"] = ""


@change("empty text and no calls")
def _empty(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    delta.setdefault("content", "")
    delta.setdefault("tool_calls", [])


@change("text as a part")
def _part(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    if isinstance(delta.get("content"), str) and delta["content"]:
        delta["content"] = [{"type": "text", "text": delta["content"]}]


@change("a list first, then text")
def _first_part(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    if delta.get("role"):
        _part(choice, delta)


REASONING = ("reasoning_content", "reasoning", "thinking")


@change("reasoning by another name")
def _renamed(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    for place, name in enumerate(REASONING):
        if isinstance(delta.get(name), str):
            delta[REASONING[place - 1]] = delta.pop(name)
            return


@change("reasoning by two names")
def _twice(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    said = next((delta[name] for name in REASONING if isinstance(delta.get(name), str)), None)
    if said is not None:
        delta.update(dict.fromkeys(REASONING, said))


@change("reasoning as a part")
def _thought(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    if isinstance(delta.get("content"), list):
        return
    thoughts = [said for name in REASONING if isinstance(said := delta.pop(name, None), str) and said]
    text = [{"type": "text", "text": delta["content"]}] if delta.get("content") else []
    if thoughts:
        block = {"type": "reasoning", "summary": [{"type": "summary_text", "text": thoughts[0]}]}
        delta["content"] = [block, *text]


@change("empty names and ids of calls")
def _nameless(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    for call in delta.get("tool_calls") or ():
        if not call.get("id"):
            call["id"] = ""
        if isinstance(call.get("function"), dict) and not call["function"].get("name"):
            call["function"]["name"] = ""


@change("call indexes as floats")
def _floats(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    for call in delta.get("tool_calls") or ():
        if isinstance(call.get("index"), int):
            call["index"] = float(call["index"])


@change("fields that nobody knows")
def _unknown(choice: dict[str, Any], delta: dict[str, Any]) -> None:
    delta["x_delta"], choice["x_choice"] = {"a": [1]}, "b"


def changed(chunks: Chunks, made: Change) -> Chunks:
    said = copy.deepcopy(chunks)
    for chunk in said:
        for choice in chunk.get("choices") or ():
            if isinstance(choice.get("delta"), dict):
                made(choice, choice["delta"])
    return said


@pytest.mark.parametrize("chunks", STREAMS)
def test_said_otherwise(chunks: Chunks) -> None:
    """What is repeated, empty, null or by another name changes nothing."""
    expected = facts(framed(chunks))
    found = {name: facts(framed(changed(chunks, made))) for name, made in CHANGES.items()}

    assert dict.fromkeys(CHANGES, expected) == found


# ── pieces more, and less ────────────────────────────────────────────────────────────────────────────────────────


def cut_text(chunks: Chunks) -> Chunks:
    """Each stretch of text in two."""
    said: Chunks = []
    for chunk in chunks:
        choices = chunk.get("choices") or []
        delta = choices[0].get("delta") if len(choices) == 1 else None
        text = delta.get("content") if isinstance(delta, dict) else None
        if isinstance(text, str) and len(text) > 1:
            begun = {"index": choices[0].get("index", 0), "delta": {**delta, "content": text[:1]}}
            said.append({**{k: v for k, v in chunk.items() if k != "usage"}, "choices": [begun]})
            rest = {**choices[0], "delta": {"content": text[1:]}}
            said.append({**chunk, "choices": [rest]})
        else:
            said.append(chunk)
    return said


def ids_again(chunks: Chunks) -> Chunks:
    """The id of a call with every piece of it."""
    said, ids = copy.deepcopy(chunks), dict[Any, Any]()
    for chunk in said:
        for choice in chunk.get("choices") or ():
            for call in (choice.get("delta") or {}).get("tool_calls") or ():
                key = (choice.get("index"), call.get("index"))
                call["id"] = ids[key] = call.get("id") or ids.get(key)
    return said


def usage(chunks: Chunks) -> dict[str, Any] | None:
    return next((chunk["usage"] for chunk in reversed(chunks) if isinstance(chunk.get("usage"), dict)), None)


PIECES: dict[str, Callable[[Chunks], Chunks]] = {
    "text in more pieces": cut_text,
    "ids with every piece": ids_again,
    "an empty chunk at the end": lambda chunks: [*chunks, {"choices": []}],
    "an empty chunk at the beginning": lambda chunks: [{"id": "", "model": "", "choices": []}, *chunks],
    "usage once more": lambda chunks: [*chunks, {"choices": [], "usage": usage(chunks)}],
    "usage of nothing first": lambda chunks: [
        {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
        if usage(chunks)
        else {"choices": []},
        *chunks,
    ],
}


@pytest.mark.parametrize("chunks", STREAMS)
def test_cut_otherwise(chunks: Chunks) -> None:
    """Where an answer is cut, and what is said of it twice, changes nothing."""
    expected = facts(framed(chunks))
    found = {name: facts(framed(made(copy.deepcopy(chunks)))) for name, made in PIECES.items()}

    assert dict.fromkeys(PIECES, expected) == found
