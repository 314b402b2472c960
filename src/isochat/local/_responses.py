"""The Responses API in front of the same answers: its question read as a chat question, the answer told as items.

Pure. The same question gets the same answer through either route; what is peculiar about this one is in `ROWS`, and a
test trips over each of them. GPT models and agents speak it, no other model does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isochat.local import _messages, _sign
from isochat.local._answer import Answer, Call
from isochat.local._dress import Dress
from isochat.local._echo import reasoning_for
from isochat.local._question import Question
from isochat.local._quirks import API, BRIDGE, Quirk
from isochat.local._rules import Refusal, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from isochat.local._answer import Piece, Usage
    from isochat.local._families import Endpoint

__all__ = ["ROWS", "Asked", "Told", "read", "speaks"]

Json = dict[str, Any]

_RESPONSES = 'D "Query with the OpenAI Responses API"'
_AGENTS = BRIDGE + "integrations/ai-sdk-provider/tests/__fixtures__/llm-output-fixtures.ts"
_CLEANING = BRIDGE + "integrations/openai/src/databricks_openai/utils/clients.py"

#: What is peculiar about the route; families are told apart by `speaks` and by being an agent.
ROWS: tuple[Quirk, ...] = (
    Quirk(
        "responses-for-gpt",
        "request",
        "Any other model than GPT or an agent is refused: `Responses API passthrough is not supported`.",
        _RESPONSES + "; " + BRIDGE + "src/databricks_ai_bridge/test_utils/fmapi.py",
    ),
    Quirk(
        "responses-stateless",
        "request",
        "`store`, `previous_response_id`, `conversation`, `background` and `service_tier` are refused.",
        API,
    ),
    Quirk(
        "responses-strict-fields",
        "request",
        "A top-level key it does not know is refused; `max_tokens`, `messages`, `stop`, `seed` and `n` are such keys.",
        API,
    ),
    Quirk(
        "responses-no-status",
        "request",
        "`status` and nulls inside an item that is sent back are refused: a dumped output is no input.",
        _CLEANING,
    ),
    Quirk(
        "responses-short-ids",
        "request",
        "The id of an item that is sent back has at most 64 characters, though replies hold longer ones, and begins "
        "with `msg_`, `fc_` or `rs_`; it may be left out.",
        _CLEANING,
    ),
    Quirk(
        "responses-signed-replay",
        "request",
        "`encrypted_content` of reasoning must come back unmodified.",
        "inferred from OpenAI's guide to reasoning models",
    ),
    Quirk(
        "responses-no-done",
        "stream",
        "A stream ends with `response.completed` or `response.incomplete`, not with `[DONE]`.",
        _AGENTS,
    ),
    Quirk(
        "responses-loose-agents",
        "reply",
        "An agent's object has no id, time, model, status or usage.",
        BRIDGE + "integrations/ai-sdk-provider (responses-agent-schema.ts)",
    ),
    Quirk(
        "responses-agent-events",
        "stream",
        "An agent's stream announces and completes nothing: text comes in deltas and again in `output_item.done`; "
        "with a trace asked for, one event has no `type`.",
        _AGENTS + "; trace-id-response.test.ts",
    ),
)

_STATEFUL = ("store", "previous_response_id", "conversation", "background", "service_tier")
#: The fields that are taken, each with its JSON type (None: several).
_FIELDS: Mapping[str, str | None] = {
    "model": "string",
    "input": None,
    "instructions": "string",
    "max_output_tokens": "integer",
    "max_tool_calls": "integer",
    "metadata": "object",
    "parallel_tool_calls": "boolean",
    "include": "array",
    "reasoning": "object",
    "temperature": "number",
    "text": "object",
    "tool_choice": None,
    "tools": "array",
    "top_logprobs": "integer",
    "top_p": "number",
    "truncation": "string",
    "stream": "boolean",
    "user": "string",
    "prompt_cache_key": "string",
    "safety_identifier": "string",
}
_AGENT_FIELDS: Mapping[str, str | None] = {
    "model": "string",
    "input": None,
    "custom_inputs": "object",
    "context": "object",
    "databricks_options": "object",
    "stream": "boolean",
}
_PREFIXES = {"message": "msg", "function_call": "fc", "custom_tool_call": "ctc", "reasoning": "rs"}
#: The kinds of calls, and where each holds what it was called with.
_SAYS: Mapping[str, str] = {"function_call": "arguments", "custom_tool_call": "input"}
_HOSTED_TOOLS = frozenset({"apply_patch", "image_generation", "mcp", "shell", "web_search"})
_LONGEST_ID = 64


def speaks(endpoint: Endpoint) -> bool:
    """Whether the endpoint answers on this route."""
    return endpoint.family.has("usage-details") or endpoint.family.kind == "agent"


@dataclass(frozen=True, slots=True)
class Asked(Question):
    """A chat question that was asked as a Responses question; `asked` is that body."""

    asked: Mapping[str, Any] = field(default_factory=dict)

    def includes(self, what: str) -> bool:
        """Whether the reply is to have something that is left out otherwise."""
        return what in (self.asked.get("include") or ())


def read(body: object, endpoint: Endpoint) -> Asked | Refusal:
    """The question in a body, or why the endpoint does not take it."""
    if not speaks(endpoint):
        words = f"Responses API passthrough is not supported for model {endpoint.name}."
        return Refusal(400, {"error_code": "BAD_REQUEST", "message": words})
    if not isinstance(body, dict):
        return _no(_messages.wrong_type("", "object", body))
    try:
        _check(body, endpoint)
        chat = _chat(body, endpoint)
    except _messages.NoError as no:
        return _no(no.words)
    return refusal(chat, endpoint, responses=True) or Asked(endpoint, chat, Question.of(chat, endpoint).key, body)


def _no(words: str) -> Refusal:
    return Refusal(400, {"error_code": "BAD_REQUEST", "message": words})


# --- the question -----------------------------------------------------------------------------------------------------


def _check(body: Json, endpoint: Endpoint) -> None:
    fields = _AGENT_FIELDS if endpoint.family.kind == "agent" else _FIELDS
    for name, value in body.items():
        if name in _STATEFUL:
            raise _messages.NoError(f"BAD_REQUEST: '{name}' is not supported: nothing is kept between two requests.")
        if name not in fields:
            raise _messages.unknown_field(name)
        expected = fields[name]
        if expected is not None and value is not None and not _messages.is_type(value, expected):
            raise _messages.NoError(_messages.wrong_type(name, expected, value))
    for name in ("reasoning", "text"):
        for key in body.get(name) or ():
            if key not in {"effort", "summary", "format", "verbosity"}:
                raise _messages.NoError(f"BAD_REQUEST: Unknown parameter: '{name}.{key}'.")
    if body.get("max_output_tokens") is not None and body["max_output_tokens"] < 1:
        raise _messages.NoError(
            f"BAD_REQUEST: max_output_tokens is {body['max_output_tokens']}; it must be at least 1."
        )


def _chat(body: Json, endpoint: Endpoint) -> Json:
    """The same question as a chat question: what the echo, a script and an upstream understand."""
    agent = endpoint.family.kind == "agent"
    messages = _conversation(body.get("input"), agent=agent)
    if body.get("instructions"):
        leads = bool(messages) and messages[0].get("role") == "system"
        messages.insert(int(leads), {"role": "developer" if leads else "system", "content": body["instructions"]})
    chat: Json = {"model": body["model"], "messages": messages}
    same = ("stream", "custom_inputs", "context", "databricks_options") if agent else ("stream", "temperature", "top_p")
    chat |= {name: body[name] for name in same if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    if (body.get("reasoning") or {}).get("effort") is not None:
        chat["reasoning_effort"] = body["reasoning"]["effort"]
    wanted = (body.get("text") or {}).get("format")
    if wanted is not None:
        chat["response_format"] = _format(wanted)
    if body.get("top_logprobs") is not None:
        chat["top_logprobs"] = body["top_logprobs"]
    if "message.output_text.logprobs" in (body.get("include") or ()):
        chat["logprobs"] = True
    tools = [made for i, tool in enumerate(body.get("tools") or ()) if (made := _tool(tool, i)) is not None]
    if tools:
        chat["tools"] = tools
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") in ("function", "custom"):
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice is not None and not (isinstance(choice, dict) and _is_hosted(choice)):
        chat["tool_choice"] = choice
    return chat


def _is_hosted(tool: Mapping[str, Any]) -> bool:
    """Whether it is a tool that the service runs itself; such a tool is taken, and never run here."""
    return _messages.is_one_of(tool.get("type"), _HOSTED_TOOLS)


def _format(wanted: object) -> object:
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        if not isinstance(wanted, dict):
            raise _messages.NoError(_messages.wrong_type("text.format", "object", wanted))
        return wanted
    return {"type": "json_schema", "json_schema": {k: v for k, v in wanted.items() if k != "type"}}


#: A tool that takes free text, as the function that a chat question has for it.
_FREE: Json = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def _tool(tool: object, i: int) -> Json | None:
    """The function that a tool is; None for one that the service runs itself."""
    if not isinstance(tool, dict):
        raise _messages.NoError(_messages.wrong_type(f"tools[{i}]", "object", tool))
    kind = tool.get("type")
    if _is_hosted(tool):
        return None
    if kind not in ("function", "custom"):
        raise _messages.NoError(
            f"BAD_REQUEST: tools[{i}]: the local endpoint knows no tools of type {kind!r}, only functions, custom "
            f"tools, and {', '.join(sorted(_HOSTED_TOOLS))}."
        )
    if not isinstance(tool.get("name"), str):
        raise _messages.NoError(f"BAD_REQUEST: Missing required parameter: 'tools[{i}].name'.")
    if kind == "custom":
        return {"type": "function", "function": {"name": tool["name"], "parameters": _FREE}}
    # Not strict is what a chat question says by saying nothing: it is the same question.
    said = {k: v for k, v in tool.items() if k != "type" and v is not None and (k, v) != ("strict", False)}
    return {"type": "function", "function": said}


def _conversation(given: object, *, agent: bool) -> list[Json]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise _messages.NoError("BAD_REQUEST: 'input' must be a text or a list of at least one item.")
    messages: list[Json] = []
    calls: dict[str, str] = {}  # of which kind each call is
    for i, item in enumerate(given):
        if not isinstance(item, dict):
            raise _messages.NoError(_messages.wrong_type(f"input[{i}]", "object", item))
        if not agent:
            _check_item(item, f"input[{i}]")
        _add(messages, item, f"input[{i}]")
        kind, call = item.get("type", "message"), item.get("call_id")
        if kind in _SAYS:
            calls[str(call)] = kind
        elif isinstance(call, str) and kind != f"{calls.get(call, 'function_call')}_output":
            raise _messages.NoError(f"BAD_REQUEST: input[{i}]: no call {call!r} has a result of the type {kind!r}.")
    return messages


def _check_item(item: Json, path: str) -> None:
    """What a dumped output holds and an input may not."""
    kind = item.get("type", "message")
    if "status" in item:
        raise _messages.NoError(f"BAD_REQUEST: Unknown parameter: '{path}.status'.")
    where = _null(item, path)
    if where is not None:
        raise _messages.NoError(f"BAD_REQUEST: Invalid type for '{where}': expected a value, but got null instead.")
    named = item.get("id")
    if named is None:
        return
    if not isinstance(named, str):
        raise _messages.NoError(_messages.wrong_type(f"{path}.id", "string", named))
    if len(named) > _LONGEST_ID:
        raise _messages.NoError(
            f"BAD_REQUEST: Invalid '{path}.id': string too long. Expected a string with maximum length {_LONGEST_ID}, "
            f"but got a string with length {len(named)} instead."
        )
    prefix = _PREFIXES.get(kind) if isinstance(kind, str) else None
    if prefix is not None and not named.startswith(f"{prefix}_"):
        raise _messages.NoError(
            f"BAD_REQUEST: Invalid '{path}.id': '{named}'. Expected an ID that begins with '{prefix}'."
        )


def _null(value: object, path: str) -> str | None:
    if value is None:
        return path
    inner: list[tuple[object, str]] = []
    if isinstance(value, dict):
        inner = [(v, f"{path}.{k}") for k, v in value.items()]
    elif isinstance(value, list):
        inner = [(v, f"{path}[{i}]") for i, v in enumerate(value)]
    return next((found for v, p in inner if (found := _null(v, p)) is not None), None)


def _add(messages: list[Json], item: Json, path: str) -> None:
    """Add an item to the conversation: calls join the assistant's message that they follow."""
    kind = item.get("type", "message")
    if not isinstance(kind, str):
        raise _messages.NoError(_messages.wrong_type(f"{path}.type", "string", kind))
    if kind == "message":
        role = item.get("role")
        content = _content(item.get("content"), f"{path}.content")
        messages.append({"role": role, "content": content})
    elif kind in _SAYS:
        call_id, name, arguments = (item.get(key) for key in ("call_id", "name", _SAYS[kind]))
        if not (isinstance(call_id, str) and isinstance(name, str) and isinstance(arguments, str)):
            raise _messages.NoError(
                f"BAD_REQUEST: {path}: a call has a call_id, a name and {_SAYS[kind]}, all of them texts."
            )
        arguments = arguments if kind == "function_call" else json.dumps({"input": arguments}, ensure_ascii=False)
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        calls = messages[-1].setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
    elif kind in ("function_call_output", "custom_tool_call_output"):
        content = _content(item.get("output"), f"{path}.output")
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
    elif kind == "reasoning":
        sealed = item.get("encrypted_content")
        if not isinstance(item.get("summary"), list):
            raise _messages.NoError(f"BAD_REQUEST: Missing required parameter: '{path}.summary'.")
        if sealed is not None and not _sign.holds(sealed, "sealed"):
            raise _messages.NoError(f"BAD_REQUEST: The encrypted content of {path} could not be verified.")
    else:
        raise _messages.NoError(f"BAD_REQUEST: Invalid value for '{path}.type': {kind!r} is not known here.")


def _content(content: object, path: str) -> object:
    """The content of an item as chat has it."""
    if not isinstance(content, list):
        return content
    parts: list[Json] = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str):
            raise _messages.NoError(f"BAD_REQUEST: Missing required parameter: '{path}[{i}].type'.")
        if kind in {"input_text", "output_text", "text", "refusal"}:
            parts.append({"type": "text", "text": part.get("refusal" if kind == "refusal" else "text")})
        elif kind == "input_image":
            detail = {"detail": part["detail"]} if "detail" in part else {}
            parts.append({"type": "image_url", "image_url": {"url": part.get("image_url"), **detail}})
        elif kind == "input_file":
            parts.append({"type": "file", "file": {k: v for k, v in part.items() if k != "type"}})
        else:
            raise _messages.NoError(f"BAD_REQUEST: Invalid value: '{kind}' at '{path}[{i}].type'.")
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    # One way to say a text, so that it is the same question however it was said.
    return "".join(texts) if texts and len(texts) == len(parts) else parts


# --- the answer -------------------------------------------------------------------------------------------------------


class Told:
    """An answer as a Responses object, or piece by piece as its events."""

    def __init__(self, question: Asked, created: int) -> None:
        """`created` is the time all replies of one endpoint name."""
        self.question, self.created = question, created
        self._dress = Dress(question, created)
        self._agent = question.endpoint.family.kind == "agent"
        #: How far a stream has come.
        self._number = 0
        self._output: list[Json] = []
        self._open: Json | None = None
        self._reason: str | None = None
        self._thought = False
        self._written = ""  # what a custom tool is called with, while it comes
        self._free = {tool["name"] for tool in question.asked.get("tools") or () if tool["type"] == "custom"}

    def whole(self, answer: Answer) -> Json:
        """The object."""
        choice = answer.choices[0]
        if self._agent:
            return self._loose([self._message(choice.text or "")])
        output = [*self._reasoning(choice.reasoning)]
        if choice.text is not None or choice.refusal is not None or not choice.calls:
            status = "incomplete" if choice.finish_reason in _CUT else "completed"
            output.append(self._message(choice.text or "", choice.refusal, status=status))
        output += [self._call(call, n) for n, call in enumerate(choice.calls)]
        return self._object(output, choice.finish_reason, answer.usage)

    def _object(self, output: Sequence[Json], finish_reason: str | None, usage: Usage | None) -> Json:
        asked = self.question.asked
        reason = _CUT.get(finish_reason or "")
        status = "in_progress" if usage is None else "incomplete" if reason else "completed"
        return {
            "id": f"resp_{self.question.digits('reply', 48)}",
            "object": "response",
            "created_at": float(self.created),
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason and usage is not None else None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "metadata": asked.get("metadata") or {},
            "model": self.question.endpoint.model,
            "output": list(output),
            "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": {"effort": "medium", "summary": None} | (asked.get("reasoning") or {}),
            "service_tier": "default",
            "store": False,
            "temperature": 1.0 if asked.get("temperature") is None else asked["temperature"],
            "text": {"format": {"type": "text"}} | (asked.get("text") or {}),
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": asked.get("tools") or [],
            "top_p": 1.0 if asked.get("top_p") is None else asked["top_p"],
            "truncation": asked.get("truncation") or "disabled",
            "usage": None if usage is None else _counted(usage),
            "user": asked.get("user"),
        }

    def _loose(self, output: list[Json]) -> Json:
        return {"object": "response", "output": output, **self._agents_own()}

    def _agents_own(self) -> Json:
        own: Json = {"custom_outputs": self.question.body.get("custom_inputs") or {}}
        if (self.question.body.get("databricks_options") or {}).get("return_trace"):
            trace = f"tr-{self.question.digits('trace', 32)}"
            own["databricks_output"] = {"trace": {"info": {"trace_id": trace}, "data": {"spans": []}}}
            own["trace_id"] = trace
        return own

    # --- items ---

    def _reasoning(self, thought: str | None) -> Iterator[Json]:
        """What was thought: a summary if one was asked for, and sealed if it is to be sent back."""
        if thought is None and not self.question.endpoint.family.has("hidden-reasoning"):
            return
        asked = self.question.asked.get("reasoning") or {}
        shown = thought or (reasoning_for(self.question) if asked.get("summary") else "")
        item: Json = {
            "id": f"rs_{self.question.digits('reasoning', 48)}",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": shown}] if shown else [],
        }
        if self.question.includes("reasoning.encrypted_content"):
            item["encrypted_content"] = _sign.sign(self.question.digits("sealed"), "sealed")
        yield item

    def _message(self, text: str, refusal: str | None = None, *, status: str = "completed") -> Json:
        if self._agent:
            content = [{"type": "output_text", "text": text}]
            return {"type": "message", "id": self._dress.agent_id(), "role": "assistant", "content": content}
        parts: list[Json] = [self._text(text)] if text or refusal is None else []
        if refusal is not None:
            parts.append({"type": "refusal", "refusal": refusal})
        # 68 characters: longer than an id may be when it comes back.
        named = f"msg_{self.question.digits('message', 64)}"
        return {"id": named, "type": "message", "status": status, "content": parts, "role": "assistant"}

    def _text(self, text: str) -> Json:
        return {"type": "output_text", "annotations": [], "logprobs": self._logprobs(text), "text": text}

    def _logprobs(self, text: str) -> list[Json]:
        return (self._dress.logprobs(text) or {}).get("content") or []

    def _call(self, call: Call, n: int) -> Json:
        if call.name in self._free:
            return {
                "id": f"ctc_{self.question.digits(f'item/{n}', 48)}",
                "type": "custom_tool_call",
                "status": "completed",
                "call_id": call.id,
                "name": call.name,
                "input": _free_text(call.arguments),
            }
        return {
            "id": f"fc_{self.question.digits(f'item/{n}', 48)}",
            "type": "function_call",
            "status": "completed",
            "arguments": call.arguments,
            "call_id": call.id,
            "name": call.name,
        }

    # --- events ---

    def open(self) -> Iterator[Json]:
        """What comes before anything is said."""
        if not self._agent:
            for kind in ("created", "in_progress"):
                yield self._event(f"response.{kind}", response=self._object([], None, None))

    def feed(self, piece: Piece) -> Iterator[Json]:
        """The events for the next piece."""
        if piece.usage is not None:
            yield from self._end(piece.usage)
        elif self._agent:
            if piece.text:
                self._open = self._open or self._message("")
                self._open["content"][0]["text"] += piece.text
                yield {"type": "response.output_text.delta", "item_id": self._open["id"], "delta": piece.text}
        elif piece.finish_reason is not None:
            self._reason = piece.finish_reason
        elif piece.reasoning is not None:
            if piece.reasoning:
                yield from self._thinking(piece.reasoning)
        else:
            yield from self._hidden()
            yield from self._saying(piece)

    def _hidden(self) -> Iterator[Json]:
        """Reasoning that is not told in pieces comes first, and at once."""
        if not self._thought:
            self._thought = True
            for item in self._reasoning(None):
                yield from self._opened(item)
                for text in (part["text"] for part in item["summary"]):
                    place: Json = {"item_id": item["id"], "output_index": 0, "summary_index": 0}
                    yield self._event("response.reasoning_summary_text.delta", **place, delta=text)
                    yield self._event("response.reasoning_summary_text.done", **place, text=text)

    def _thinking(self, text: str) -> Iterator[Json]:
        self._thought = True
        if self._open is None:
            (item,) = self._reasoning(text)
            yield from self._opened(item)
        else:
            self._open["summary"][0]["text"] += text
        item = self._output[-1]
        place: Json = {"item_id": item["id"], "output_index": len(self._output) - 1, "summary_index": 0}
        yield self._event("response.reasoning_summary_text.delta", **place, delta=text)

    def _saying(self, piece: Piece) -> Iterator[Json]:
        if piece.call is not None:
            if piece.id is not None:
                made = Call(piece.id, piece.name or "", "")
                yield from self._opened(self._call(made, piece.call))
            if self._open is not None and self._open["type"] == "custom_tool_call":
                self._written += piece.arguments
            elif self._open is not None and piece.arguments:
                self._open["arguments"] += piece.arguments
                yield self._event("response.function_call_arguments.delta", **self._place(), delta=piece.arguments)
            return
        if not piece.text and not piece.refusal:
            return
        if self._open is None or self._open["type"] != "message":
            yield from self._opened(self._message("", "" if piece.refusal else None))
            yield self._event("response.content_part.added", **self._place(), content_index=0, part=self._part())
        part = self._part()
        key, more = ("refusal", piece.refusal) if piece.refusal else ("text", piece.text or "")
        part[key] = part.get(key, "") + more
        kind = "refusal" if key == "refusal" else "output_text"
        probable = {} if key == "refusal" else {"logprobs": self._logprobs(more or "")}
        yield self._event(f"response.{kind}.delta", **self._place(), content_index=0, delta=more, **probable)

    def _part(self) -> Json:
        assert self._open is not None
        found: Json = self._open["content"][0]
        return found

    def _place(self) -> Json:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self._output) - 1}

    def _opened(self, item: Json) -> Iterator[Json]:
        yield from self._closed()
        self._open = item
        self._output.append(item)
        begun = {"status": "in_progress"} if item["type"] != "reasoning" else {}
        empty: Json = {"message": {"content": []}, "reasoning": {"summary": []}}.get(item["type"], {})
        yield self._event("response.output_item.added", output_index=len(self._output) - 1, item=item | begun | empty)

    def _closed(self, status: str = "completed") -> Iterator[Json]:
        """Say again, whole, what came in pieces."""
        if self._open is None:
            return
        item = self._open
        if item["type"] == "custom_tool_call":
            item["input"], self._written = _free_text(self._written), ""
            yield self._event("response.custom_tool_call_input.delta", **self._place(), delta=item["input"])
            yield self._event("response.custom_tool_call_input.done", **self._place(), input=item["input"])
        elif item["type"] == "function_call":
            yield self._event("response.function_call_arguments.done", **self._place(), arguments=item["arguments"])
        elif item["type"] == "message":
            item["status"], part = status, self._part()
            if part["type"] == "output_text":
                part["logprobs"] = self._logprobs(part["text"])
            said = {key: part[key] for key in ("text", "refusal", "logprobs") if key in part}
            yield self._event(f"response.{part['type']}.done", **self._place(), content_index=0, **said)
            yield self._event("response.content_part.done", **self._place(), content_index=0, part=part)
        yield self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)
        self._open = None

    def _end(self, usage: Usage) -> Iterator[Json]:
        if self._agent:
            own = self._agents_own()
            trace = own.pop("trace_id", None)
            yield {"type": "response.output_item.done", "item": self._open or self._message(""), **own}
            if trace is not None:
                yield {"trace_id": trace}
            return
        yield from self._hidden()
        if not any(item["type"] in {"message", *_SAYS} for item in self._output):
            yield from self._opened(self._message(""))
        yield from self._closed("incomplete" if self._reason in _CUT else "completed")
        final = self._object(self._output, self._reason, usage)
        yield self._event(f"response.{final['status']}", response=final)

    def _event(self, kind: str, **what: Any) -> Json:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **_copied(what)}


def _free_text(arguments: str) -> str:
    """What a custom tool is called with: the one argument of the function that stands for it."""
    try:
        said = json.loads(arguments)["input"]
    except (ValueError, TypeError, LookupError):
        return arguments
    return said if isinstance(said, str) else arguments


#: Why an answer is not complete, by the chat's finish reason.
_CUT: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _counted(usage: Usage) -> Json:
    total = usage.prompt + usage.completion if usage.total is None else usage.total
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": total,
    }


def _copied(value: Any) -> Any:
    """Events are told while their items still grow."""
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value
