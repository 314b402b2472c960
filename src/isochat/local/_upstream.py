"""A real model behind the local endpoint: any server that speaks OpenAI's chat completions (Ollama, vLLM, llama.cpp).

The question is forwarded with what such a server understands; what it does not is named in the reply's
`x-isochat-not-forwarded` header rather than lost. The answer comes back as an `Answer`, or as `Piece`s while it is
being written, and is dressed like any other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp

from isochat.local._answer import Answer, Call, Choice, Piece, Usage
from isochat.local._echo import call_id
from isochat.local._question import text_of, words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from isochat.local._question import Question

__all__ = ["Upstream", "UpstreamError", "forwarded"]

#: What an OpenAI-compatible server takes as it is.
_FORWARDED = frozenset(
    [
        "messages",
        "input",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "n",
        "stop",
        "tools",
        "tool_choice",
        "response_format",
        "logprobs",
        "top_logprobs",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "user",
        "reasoning_effort",
        "parallel_tool_calls",
    ]
)
#: What is about carrying the answer and decided here.
_CARRIAGE = frozenset({"model", "stream", "stream_options", "client_request_id", "usage_context"})
_LONGEST_LINE = 8 * 1024 * 1024


class UpstreamError(Exception):
    """The upstream said no, or nothing: the status to pass on and what it said."""

    def __init__(self, status: int, error: Any, retry_after: str | None = None) -> None:
        super().__init__(status)
        self.status, self.error, self.retry_after = status, error, retry_after

    def body(self) -> dict[str, Any]:
        """The error as Databricks wraps an external model's: JSON text inside the message."""
        code = {429: "REQUEST_LIMIT_EXCEEDED", 401: "PERMISSION_DENIED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        inner = {"external_model_provider": "custom", "external_model_error": self.error}
        fallback = "BAD_REQUEST" if self.status < 500 else "TEMPORARILY_UNAVAILABLE"
        return {"error_code": code.get(self.status, fallback), "message": json.dumps(inner, ensure_ascii=False)}


def forwarded(question: Question, model: str) -> tuple[dict[str, Any], list[str]]:
    """The body for an OpenAI-compatible server, and the names of the options that it would not understand."""
    body = {
        k: v for k, v in question.body.items() if k in _FORWARDED and v is not None and k not in {"messages", "input"}
    }
    left = sorted(k for k, v in question.body.items() if v is not None and k not in _FORWARDED | _CARRIAGE)
    body |= {"model": model, "messages": [_message(m) for m in question.messages], "stream": question.streams}
    if question.streams:
        body["stream_options"] = {"include_usage": True}
    return body, left


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = {k: v for k, v in message.items() if k in {"role", "content", "name", "tool_calls", "tool_call_id"}}
    content = message.get("content")
    if isinstance(content, list):
        parts = [
            {k: v for k, v in p.items() if k not in {"cache_control", "thoughtSignature"}}
            for p in content
            if p.get("type") != "reasoning"
        ]
        only_text = all(p.get("type") == "text" for p in parts)
        plain["content"] = text_of(parts) if only_text else parts
    if message.get("tool_calls"):
        plain["tool_calls"] = [
            {
                "id": c["id"],
                "type": "function",
                "function": {"name": c["function"]["name"], "arguments": c["function"]["arguments"] or "{}"},
            }
            for c in message["tool_calls"]
        ]
    return plain


class Upstream:
    """An OpenAI-compatible server. Belongs to the event loop it is first used on."""

    def __init__(self, base_url: str, key: str | None = None) -> None:
        self.base_url, self.key = base_url.rstrip("/"), key
        self._session: aiohttp.ClientSession | None = None
        self._models: list[str] | None = None

    def session(self) -> aiohttp.ClientSession:
        """The connections to the upstream, opened on first use."""
        if self._session is None:
            headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
            self._session = aiohttp.ClientSession(
                headers=headers, timeout=aiohttp.ClientTimeout(total=None, sock_connect=10), read_bufsize=2**20
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def model_for(self, question: Question) -> str:
        """The upstream's name for the model: as configured, the endpoint's own name if it has that, or its first."""
        if question.endpoint.upstream:
            return question.endpoint.upstream
        if self._models is None:
            try:
                async with self.session().get(f"{self.base_url}/models", allow_redirects=False) as response:
                    listed = await response.json(content_type=None)
                self._models = [str(m["id"]) for m in listed["data"]]
            except (aiohttp.ClientError, OSError, ValueError, TypeError, KeyError):
                self._models = None
        names = self._models or []
        return question.endpoint.name if question.endpoint.name in names or not names else names[0]

    async def _post(self, question: Question) -> tuple[aiohttp.ClientResponse, list[str]]:
        body, left = forwarded(question, await self.model_for(question))
        try:
            # No redirect is followed: the key is this host's only.
            response = await self.session().post(f"{self.base_url}/chat/completions", json=body, allow_redirects=False)
        except (aiohttp.ClientError, OSError) as why:
            place = self.base_url.rpartition("@")[2]  # people write a password before an "@"
            said = str(why).replace(self.base_url, place)
            raise UpstreamError(502, {"error": {"message": f"no answer from {place}: {said}"}}) from None
        if response.status != 200:
            async with response:
                text = await response.text(errors="replace")
            raise UpstreamError(max(response.status, 400), _decoded(text), response.headers.get("Retry-After"))
        return response, left

    async def ask(self, question: Question) -> tuple[Answer, list[str]]:
        """The whole answer, and the options that were not forwarded. Raises UpstreamError."""
        response, left = await self._post(question)
        async with response:
            try:
                text = await response.text()
            except (aiohttp.ClientError, OSError) as why:
                raise UpstreamError(502, {"error": {"message": f"the upstream broke off: {why}"}}) from None
        reply = _decoded(text)
        if not isinstance(reply, dict) or not isinstance(reply.get("choices"), list):
            raise UpstreamError(502, {"error": {"message": "the upstream's reply is not a chat completion"}})
        choices = tuple(_choice(question, c) for c in reply["choices"])
        return Answer(choices, _usage(reply.get("usage")) or _counted(question, choices)), left

    async def stream(self, question: Question) -> tuple[AsyncIterator[Piece], list[str]]:
        """The answer piece by piece as it is written, and the options that were not forwarded. Raises UpstreamError."""
        response, left = await self._post(question)
        return _pieces(question, response), left


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"error": {"message": text[:2000]}}


def _reasoning(message: Mapping[str, Any]) -> str | None:
    return next(
        (v for k in ("reasoning_content", "reasoning", "thinking") if isinstance(v := message.get(k), str) and v), None
    )


def _choice(question: Question, row: Mapping[str, Any]) -> Choice:
    message = row.get("message") or {}
    calls = []
    for i, call in enumerate(message.get("tool_calls") or ()):
        name = call["function"]["name"]
        arguments = call["function"].get("arguments") or ""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(Call(call_id(question, name, i), name, _arguments(question, text)))
    content = message.get("content")
    reasoning = _reasoning(message) if question.thinks else None
    if reasoning and question.endpoint.family.has("signature-only"):
        reasoning = ""
    said = None if content is None or (calls and not content) else text_of(content)
    return Choice(
        said, reasoning, calls=tuple(calls), finish_reason=row.get("finish_reason"), refusal=message.get("refusal")
    )


def _arguments(question: Question, text: str) -> str:
    return "" if text.strip() == "{}" and question.endpoint.family.has("empty-arguments") else text


def _usage(row: Any) -> Usage | None:
    if not isinstance(row, dict) or not isinstance(row.get("prompt_tokens"), int):
        return None
    details = row.get("completion_tokens_details") or {}
    return Usage(
        row["prompt_tokens"],
        row.get("completion_tokens") or 0,
        row.get("total_tokens"),
        details.get("reasoning_tokens") or 0,
    )


def _counted(question: Question, choices: tuple[Choice, ...]) -> Usage:
    return Usage(question.prompt_tokens, sum(len(words((c.text or "") + (c.reasoning or ""))) for c in choices))


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """The JSON of each `data:` line."""
    rest = b""
    async for block in response.content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise UpstreamError(502, {"error": {"message": "the upstream sent an endless line"}})
        for line in lines:
            if line.startswith(b"data:") and line[5:].strip() not in {b"", b"[DONE]"}:
                yield _decoded(line[5:].strip().decode("utf-8", "replace"))


async def _pieces(question: Question, response: aiohttp.ClientResponse) -> AsyncIterator[Piece]:
    usage, spent = None, 0
    calls: dict[tuple[int, int], tuple[int, str]] = {}
    counts: dict[int, int] = {}
    family = question.endpoint.family
    try:
        async with response:
            async for chunk in _events(response):
                if not isinstance(chunk, dict) or "error" in chunk:
                    raise UpstreamError(502, chunk)
                usage = _usage(chunk.get("usage")) or usage
                for row in chunk.get("choices") or ():
                    n, delta = row.get("index") or 0, row.get("delta") or {}
                    thought, text = _reasoning(delta), text_of(delta.get("content"))
                    if thought and question.thinks:
                        yield Piece(n, reasoning="" if family.has("signature-only") else thought)
                    if text:
                        spent += len(words(text))
                        yield Piece(n, text=text)
                    for call in delta.get("tool_calls") or ():
                        slot, function = (n, call.get("index") or 0), call.get("function") or {}
                        known, id_ = calls.get(slot), call.get("id")
                        if known is None or (id_ and id_ != known[1]):
                            at = counts[n] = counts.get(n, -1) + 1
                            calls[slot] = known = (at, id_ or "")
                            name = function.get("name") or ""
                            yield Piece(n, call=at, id=call_id(question, name, at), name=name)
                        arguments = _arguments(question, function.get("arguments") or "")
                        if arguments:
                            yield Piece(n, call=known[0], arguments=arguments)
                    if row.get("finish_reason"):
                        yield Piece(n, finish_reason=row["finish_reason"])
    except (aiohttp.ClientError, OSError) as why:
        raise UpstreamError(502, {"error": {"message": f"the upstream broke off: {why}"}}) from None
    yield Piece(usage=usage or Usage(question.prompt_tokens, spent))
