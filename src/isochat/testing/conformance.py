"""The suite that every backend passes, ours and yours, over real sockets against the local endpoint.

```python
class TestMine(BackendTests):
    @pytest.fixture
    def backend(self, connection):
        return MyBackend(connection)
```

Each scenario is written once and runs four ways: blocking, asyncio, streamed, async streamed. Where a backend departs
from one, the class says so, by kind and with a reason; the scenario then has to fail:

```python
    departures = {"test_thinks_apart": never("SQL gives one text")}
```

`pytest -p isochat.testing.grid` prints at the end what was held and what was departed from.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest

from isochat import (
    AsyncChatStream,
    AuthenticationFailed,
    Backend,
    ChatChunk,
    ChatError,
    ChatResponse,
    Connection,
    ConnectionFailed,
    ContentFiltered,
    ContextLengthExceeded,
    DeadlineExceeded,
    EndpointNotFound,
    MalformedReply,
    Message,
    PermissionDenied,
    RateLimited,
    RequestRefused,
    Retry,
    ServiceError,
    ServiceUnavailable,
    StreamInterrupted,
    UnsupportedOption,
    aquery_chat,
    query_chat,
)
from isochat.local import Fault, LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isochat.local import Received

MODES = ("blocking", "asyncio", "stream", "async stream")
ENDPOINTS = (
    "databricks-claude-sonnet-4-5",
    "databricks-gpt-oss-120b",
    "databricks-gpt-5-1",
    "databricks-gemini-2-5-pro",
    "databricks-meta-llama-3-3-70b-instruct",
    "agent-chat",
    "doc-sample",
)
GPT = "databricks-gpt-5-1"
QUESTION = "What is a mixture of experts model?"
MARGIN = 0.5  # seconds that a question may outlive its deadline by, on a slow machine
ONCE = Retry(attempts=1)
AT_ONCE = Retry(attempts=3, first_wait=0.0)

#: A value for each option, such as a caller would give.
VALUES: dict[str, Any] = {
    "max_tokens": 7,
    "max_completion_tokens": 7,
    "temperature": 0.25,
    "top_p": 0.5,
    "top_k": 3,
    "n": 2,
    "stop": ["END", "."],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"50256": -100.0},
    "reasoning_effort": "low",
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low"},
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "seed": 11,
    "user": "someone",
    "stream_options": {"include_usage": True},
    "enable_safety_filter": True,
    "usage_context": {"team": "a"},
    "client_request_id": "mine-1",
    "extra_params": {"a": "b"},
    "databricks_options": {"return_trace": True},
    "custom_inputs": {"a": {"b": [1]}},
    "context": {"conversation_id": "c", "user_id": "u"},
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "default",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "extra_body": {"something_new": {"deep": [1, None]}},
}

ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "some-model",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}


def _pieces(*deltas: dict[str, Any], finish_reason: str | None = "stop", done: bool = True) -> list[bytes]:
    """A stream of these deltas, an event a write."""
    events: list[Any] = [{**_about(), "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    if finish_reason is not None:
        events.append({**_about(), "choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]})
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return [*lines, b"data: [DONE]\n\n"] if done else lines


#: A conversation with a tool's call and result in it; its first message may stand alone.
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    {
        "role": "assistant",
        "content": "One moment.",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "Several networks, one of which is asked."},
    {"role": "user", "content": "And then?"},
]


def _about() -> dict[str, Any]:
    return {name: ANSWER[name] for name in ("id", "created", "model")}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal as the service sends it, and the error that it must become."""

    name: str
    status: int
    body: Any
    error: type[ServiceError]
    error_code: str | None
    says: str


REFUSALS = (
    Refusal(
        "unknown field",
        400,
        {"error_code": "BAD_REQUEST", "message": 'Bad request: json: unknown field "x"\n'},
        RequestRefused,
        "BAD_REQUEST",
        "unknown field",
    ),
    Refusal(
        "JSON inside the message",
        400,
        {"error_code": "BAD_REQUEST", "message": '{"message":"messages.1.x: Extra inputs are not permitted"}\n'},
        RequestRefused,
        "BAD_REQUEST",
        "messages.1.x: Extra inputs are not permitted",
    ),
    Refusal(
        "a model provider's error inside the message",
        400,
        {
            "error_code": "BAD_REQUEST",
            "message": json.dumps(
                {
                    "external_model_provider": "openai",
                    "external_model_error": {"error": {"code": "context_length_exceeded", "message": "Too long."}},
                }
            ),
        },
        ContextLengthExceeded,
        "BAD_REQUEST",
        "Too long.",
    ),
    Refusal(
        "a guardrail inside the message",
        400,
        {
            "error_code": "BAD_REQUEST",
            "message": json.dumps(
                {
                    "usage": {"prompt_tokens": 1},
                    "input_guardrail": [{"flagged": True, "categories": {"violence": True}}],
                    "finishReason": "input_guardrail_triggered",
                }
            ),
        },
        ContentFiltered,
        "BAD_REQUEST",
        "violence",
    ),
    Refusal(
        "OpenAI's",
        400,
        {"error": {"message": "Bad value.", "type": "invalid_request_error", "code": "bad_value", "param": "stop"}},
        RequestRefused,
        "bad_value",
        "Bad value.",
    ),
    Refusal(
        "a rate limit in the body",
        429,
        {"error": {"message": "Slow down.", "type": "rate_limit_exceeded", "code": 429, "retry_after": 0.1}},
        RateLimited,
        "429",
        "Slow down.",
    ),
    Refusal("a number for a code", 401, {"error_code": 401, "message": "Who?"}, AuthenticationFailed, "401", "Who?"),
    Refusal("no code", 403, {"message": "Not you."}, PermissionDenied, None, "Not you."),
    Refusal(
        "a rate limit of 0",
        403,
        {
            "error_code": "PERMISSION_DENIED",
            "message": "PERMISSION_DENIED: disabled due to a Databricks-set rate limit of 0.",
        },
        PermissionDenied,
        "PERMISSION_DENIED",
        "rate limit of 0",
    ),
    Refusal(
        "no such endpoint",
        404,
        {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Endpoint with name 'x' does not exist."},
        EndpointNotFound,
        "RESOURCE_DOES_NOT_EXIST",
        "does not exist",
    ),
    Refusal("plain text", 413, b"Payload too large", RequestRefused, None, "Payload too large"),
    Refusal("a web page", 502, b"<html><head><title>502 Bad Gateway</title></head></html>", ServiceUnavailable, None,
            "502 Bad Gateway"),
    Refusal("text from a proxy", 504, b"upstream request timeout", ServiceUnavailable, None, "upstream request"),
    Refusal("nothing", 503, b"", ServiceUnavailable, None, "503"),
    Refusal("an unprocessable one", 422, {"detail": [{"msg": "wrong"}]}, RequestRefused, None, "wrong"),
    Refusal("an error of its own", 500, {"error_code": "INTERNAL_ERROR", "message": "Oh."}, ServiceUnavailable,
            "INTERNAL_ERROR", "Oh."),
    Refusal("an error under a 200", 200, {"error_code": "RESOURCE_EXHAUSTED", "message": "Full."}, RateLimited,
            "RESOURCE_EXHAUSTED", "Full."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Departure:
    """Why a backend does not do what a scenario asks of it."""

    kind: Literal["notimpl", "notyet", "never"]
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def notimpl(reason: str) -> Departure:
    """The client can, and the backend does not use it yet: whoever writes the backend has to move."""
    return Departure("notimpl", reason)


def notyet(reason: str) -> Departure:
    """The client cannot do it yet: whoever writes the client has to move."""
    return Departure("notyet", reason)


def never(reason: str) -> Departure:
    """It has no meaning on this route: nobody will ever have to move."""
    return Departure("never", reason)


#: Where a test leaves, for `isochat.testing.grid`, the name of the backend that it asks and what that departs in.
ASKED = pytest.StashKey[str]()
DEPARTED = pytest.StashKey[Departure]()

# What a departure fails with: a scenario that does not hold, or a backend that refuses. Anything else is a mistake.
_DEPARTING = (AssertionError, ChatError, pytest.fail.Exception)


class Ask:
    """Asks in one of the four modes, and gives the whole answer whichever it is."""

    def __init__(self, mode: str, backend: Backend) -> None:
        self.mode: str = mode
        self.backend: Backend = backend
        self.chunks: list[ChatChunk] = []

    @property
    def streams(self) -> bool:
        """Whether it asks for a stream."""
        return "stream" in self.mode

    def __call__(
        self, messages: Any = QUESTION, *, endpoint: str = ENDPOINTS[0], leave: bool = False, **options: Any
    ) -> ChatResponse:
        """The answer, whole; the chunks that it came in, if it came in chunks, are kept.

        With `leave`, a stream is left after its first chunk.
        """
        said: Any = {"endpoint": endpoint, "backend": self.backend, "timeout": 20, "retry": ONCE, **options}
        answer: ChatResponse
        match self.mode:
            case "blocking":
                answer = query_chat(messages, **said)
            case "asyncio":
                answer = asyncio.run(aquery_chat(messages, **said))
            case "stream":
                with query_chat(messages, stream=True, **said) as stream:
                    self.chunks = [next(stream)] if leave else list(stream)
                answer = stream.response
            case _:
                answer = asyncio.run(self._collected(messages, said, leave=leave))
        return answer

    async def _collected(self, messages: Any, said: Any, *, leave: bool) -> ChatResponse:
        stream: AsyncChatStream
        async with await aquery_chat(messages, stream=True, **said) as stream:
            self.chunks = [await anext(stream)] if leave else [chunk async for chunk in stream]
        return stream.response


def _asking(request: pytest.FixtureRequest, backend: Backend, local: LocalEndpoint) -> Ask:
    """Ask in the mode of the fixture's parameter; what does not stream has to refuse to, and that is all there is."""
    ask = Ask(request.param, backend)
    if ask.streams and not backend.streams():
        _refuses_to_stream(ask, local)
        departure = never(f"{backend.name} does not stream: a stream is refused before anything is sent")
        request.node.stash[DEPARTED] = departure
        pytest.xfail(str(departure))
    return ask


def _refuses_to_stream(ask: Ask, local: LocalEndpoint) -> None:
    with pytest.raises(UnsupportedOption) as refused:
        ask()

    assert refused.value.option == "stream"
    assert "rest" in refused.value.carried_by
    assert local.received == []


def _is_of(test: pytest.Function, pattern: str) -> bool:
    """Whether a pattern is of this test: of its name alone, or of its name with the parameters."""
    pattern = pattern.replace("[", "[[]")  # which begins the parameters here, not a set of characters
    return any(fnmatchcase(name, pattern) for name in (test.originalname, test.name))


def _frozen(value: Any) -> Any:
    """The same as what cannot be changed."""
    match value:
        case dict():
            return MappingProxyType({key: _frozen(member) for key, member in value.items()})
        case list() | tuple():
            return tuple(_frozen(member) for member in value)
    return value


def _plain(value: Any) -> Any:
    """The same as lists and dictionaries."""
    match value:
        case Mapping():
            return {key: _plain(member) for key, member in value.items()}
        case list() | tuple():
            return [_plain(member) for member in value]
    return value


class BackendTests:
    """Subclass it and give it a fixture `backend`. `local` and `connection` are where it must send.

    `departures` says which tests have to fail, and why. A key is a test's name, with its parameters or without, and
    `*` and `?` in it stand for anything: `"test_thinks_apart"`, `"test_*[stream-*"`. A departure from a scenario that
    holds after all fails, and so does one that is of no test. A backend that does not stream needs none: each
    scenario sees that it refuses to.
    """

    departures: ClassVar[Mapping[str, Departure]] = {}

    #: How something stands in the body that is sent, where it is not as it was said: options, and `messages`.
    wire: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def requests(self, local: LocalEndpoint) -> list[Received]:
        """What the backend itself sent, of all that arrived.

        That is all of it, unless whoever is asked there asks on, as a SQL warehouse asks a model.
        """
        return list(local.received)

    @pytest.fixture(scope="class")
    @classmethod
    def _serving(cls) -> Iterator[LocalEndpoint]:
        with LocalEndpoint() as endpoint:
            yield endpoint

    @pytest.fixture
    def local(self, _serving: LocalEndpoint) -> LocalEndpoint:
        """The local endpoint, with nothing ordered and nothing received."""
        _serving.reset()
        return _serving

    @pytest.fixture
    def connection(self, local: LocalEndpoint) -> Connection:
        """A connection to it."""
        return Connection(local.host, local.token)

    @pytest.fixture
    def backend(self, connection: Connection) -> Backend:
        """The backend under test."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _departing(self, request: pytest.FixtureRequest, backend: Backend) -> Iterator[None]:
        """A departure has to fail; whatever the test, the connections are closed after it."""
        request.node.stash[ASKED] = backend.name
        for pattern, departure in self.departures.items():
            if _is_of(request.node, pattern):
                request.node.stash[DEPARTED] = departure
                xfail = pytest.mark.xfail(reason=str(departure), strict=True, raises=_DEPARTING)
                request.applymarker(xfail)
                break
        yield
        backend.close()

    @pytest.fixture(params=MODES)
    def ask(self, request: pytest.FixtureRequest, backend: Backend, local: LocalEndpoint) -> Ask:
        """Ask in each of the modes."""
        return _asking(request, backend, local)

    @pytest.fixture(params=MODES[2:])
    def ask_streaming(self, request: pytest.FixtureRequest, backend: Backend, local: LocalEndpoint) -> Ask:
        """Ask in the two modes that stream."""
        return _asking(request, backend, local)

    def test_no_departure_is_stale(self, request: pytest.FixtureRequest) -> None:
        """Each of the class's departures is of a test that it has."""
        suite = request.node.getparent(pytest.Class)
        # What is left out of this run counts as well, so the class is collected once more; its own `collect` would
        # also register its fixtures again.
        again = super(pytest.Class, suite).collect()  # type: ignore[misc] # mypy expects `self`
        tests = [test for test in again if isinstance(test, pytest.Function)]

        assert [] == [pattern for pattern in self.departures if not any(_is_of(test, pattern) for test in tests)]

    # ── the same answer, four ways ───────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("endpoint", ENDPOINTS)
    def test_says_the_same_in_every_mode(self, ask: Ask, backend: Backend, endpoint: str) -> None:
        """Whole or streamed, awaited or not, the answer is equal, field by field."""
        reference = query_chat(QUESTION, endpoint=endpoint, backend=backend, retry=ONCE)

        assert reference == ask(endpoint=endpoint)

    def test_says_what_the_service_said(self, ask: Ask) -> None:
        """Text, finish reason, usage, model, id and request id arrive, and where the answer came from is told."""
        answer = ask(endpoint=GPT)

        assert answer.text == QUESTION
        assert answer.finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.total_tokens
        assert answer.model
        assert answer.id
        assert answer.request_id
        assert (ask.backend.name, GPT) == (answer.backend, answer.endpoint)
        assert answer.elapsed is not None
        assert ask.streams == (answer.first_event is not None)

    def test_thinks_apart(self, ask: Ask) -> None:
        """Reasoning stands apart from the text, and its signature is kept."""
        answer = ask(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=4000)

        assert answer.reasoning
        assert answer.text == QUESTION
        assert any(getattr(part, "signature", None) for part in answer.message.parts)

    def test_goes_on_with_its_own_answer(self, ask: Ask, local: LocalEndpoint) -> None:
        """An answer's message goes into the next question as it is, signature included, and is not refused."""
        thinking = {"type": "enabled", "budget_tokens": 1024}
        first = ask(thinking=thinking, max_tokens=4000)
        ask(
            [Message("user", QUESTION), first.message, Message("user", "And then?")], thinking=thinking, max_tokens=4000
        )

        sent = local.questions[-1].json["messages"][1]
        assert sent["role"] == "assistant"
        assert any(block["type"] == "reasoning" for block in sent["content"])

    @pytest.mark.parametrize(
        "endpoint", ["databricks-claude-sonnet-4-5", "databricks-gpt-5-1", "databricks-gemini-3-pro"]
    )
    def test_calls_tools_and_takes_their_results(self, ask: Ask, endpoint: str) -> None:
        """A tool call arrives whole, goes back with its result, and an answer follows."""
        schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        tools = [{"type": "function", "function": {"name": "weather", "description": "…", "parameters": schema}}]
        first = ask("Use weather.", endpoint=endpoint, tools=tools, tool_choice="required")
        (call,) = first.tool_calls

        assert call.name == "weather"
        assert "city" in call.parse()
        assert first.finish_reason == "tool_calls"

        result = {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
        second = ask([Message("user", "Use weather."), first.message, result], endpoint=endpoint, tools=tools)
        assert second.text == "Rain."

    def test_gives_several_choices(self, ask: Ask) -> None:
        """`n` choices are told apart, streamed too."""
        answer = ask(endpoint="databricks-gpt-oss-120b", n=2)

        assert [choice.index for choice in answer.choices] == [0, 1]

    # ── every option arrives or is refused ───────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("option", sorted(VALUES))
    def test_every_option_arrives_or_is_refused(self, ask: Ask, local: LocalEndpoint, option: str) -> None:
        """There is no third outcome: an option is in the body as it should be, or nothing was sent."""
        if ask.streams:
            local.reply(chunks=_pieces({"role": "assistant", "content": "Hi."}))
        else:
            local.reply(body=ANSWER)
        if option not in ask.backend.carries:
            with pytest.raises(UnsupportedOption) as refused:
                ask(**{option: VALUES[option]})
            assert refused.value.option == option
            assert local.received == []
            return
        ask(**{option: VALUES[option]})
        body = local.questions[-1].json
        said = VALUES[option] if option == "extra_body" else {option: VALUES[option]}

        assert {**body, **self.wire.get(option, said)} == body

    @pytest.mark.parametrize("mode", MODES[2:])
    def test_a_stream_is_given_or_refused(self, backend: Backend, local: LocalEndpoint, mode: str) -> None:
        """A backend streams, or says that it cannot before anything is sent, naming those that can."""
        ask = Ask(mode, backend)
        if backend.streams():
            assert ask(endpoint=GPT).text == QUESTION
            assert len(ask.chunks) > 1
            assert local.questions[0].json["stream"] is True
        else:
            _refuses_to_stream(ask, local)

    def test_says_nothing_that_was_not_said(self, ask: Ask, local: LocalEndpoint) -> None:
        """Without options, the body holds the messages, the model where the route needs it, and `stream` if asked."""
        ask(endpoint=GPT)
        body = dict(local.questions[-1].json)
        body.pop("model", None)

        assert body == {
            **self.wire.get("messages", {"messages": [{"role": "user", "content": QUESTION}]}),
            **({"stream": True} if ask.streams else {}),
        }

    @pytest.mark.parametrize("frozen", [False, True], ids=["plain", "frozen"])
    @pytest.mark.parametrize("messages", [TALK[:1], TALK], ids=["one message", "a conversation"])
    def test_leaves_the_callers_objects_alone(
        self, ask: Ask, local: LocalEndpoint, messages: Any, *, frozen: bool
    ) -> None:
        """Nothing that the caller passes is changed, whatever a client does to what it is given.

        All options at once, but for one of the two limits; what cannot be changed at all (tuples, mapping proxies)
        serves as well.
        """
        said = {name: VALUES[name] for name in VALUES if name in ask.backend.carries - {"max_tokens"}}
        before = (messages, said)
        passed = _frozen(before) if frozen else copy.deepcopy(before)
        if ask.streams:
            local.reply(chunks=_pieces({"content": "Hi."}))
        else:
            local.reply(body=ANSWER)
        ask(passed[0], **passed[1])

        assert _plain(passed) == _plain(before)
        assert len(local.questions) == 1

    # ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
    def test_a_refusal_is_one_error(self, ask: Ask, local: LocalEndpoint, refusal: Refusal) -> None:
        """Each status and body gives the promised class, code and message, and the true status and request id."""
        local.reply(status=refusal.status, body=refusal.body, headers={"x-request-id": "r-1"})
        with pytest.raises(ServiceError) as refused:
            ask()
        error = refused.value

        assert type(error) is refusal.error
        assert error.status == refusal.status
        assert error.error_code == refusal.error_code
        assert error.request_id == "r-1"
        assert refusal.says in error.message
        assert (ask.backend.name, ENDPOINTS[0]) == (error.backend, error.endpoint)

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({}, None),
            ({"retry-after": "3"}, 3.0),
            ({"retry-after": "1.5"}, 1.5),
            ({"retry-after-ms": "250"}, 0.25),
            ({"retry-after": "Wed, 21 Oct 2026 07:28:05 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 5.0),
            ({"retry-after": "soon"}, None),
        ],
        ids=["not said", "in seconds", "in fractions", "in milliseconds", "as a date", "nonsense"],
    )
    def test_how_long_to_wait_is_told(
        self, ask: Ask, local: LocalEndpoint, headers: dict[str, str], expected: float | None
    ) -> None:
        """`retry_after` is what the service asked for, in any of its forms, and None if it asked for nothing."""
        local.reply(status=429, body={"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "Slow."}, headers=headers)
        with pytest.raises(RateLimited) as refused:
            ask()

        assert expected == refused.value.retry_after

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b"", "empty"),
            (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
            (b'{"choices": [{"mess', "not JSON"),
            (b"null", "makes no sense"),
            (b'{"choices": [{"message": 5}]}', "choices[0].message"),
            (b"\xff\xfe\x00", "not JSON"),
        ],
        ids=["empty", "login page", "cut", "null", "odd", "junk"],
    )
    def test_nonsense_is_kept_and_said(self, ask: Ask, local: LocalEndpoint, body: bytes, says: str) -> None:
        """A success that makes no sense is a `MalformedReply` that keeps what came, and is not asked again."""
        local.reply(body=body, headers={"content-type": "application/json"})
        with pytest.raises(MalformedReply) as malformed:
            ask(retry=AT_ONCE)

        assert says in malformed.value.message
        assert len(local.questions) == 1

    def test_a_redirect_is_not_followed(self, ask: Ask, local: LocalEndpoint) -> None:
        """A token goes to its own host only: a redirect is an error that says so."""
        with LocalEndpoint() as other:
            local.reply(status=307, body=b"", headers={"location": f"{other.host}/serving-endpoints/chat/completions"})
            with pytest.raises(ServiceError, match="redirects"):
                ask()

            assert other.received == []

    def test_this_machine_needs_no_proxy(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        """Loopback is reached directly, whatever proxy the environment names."""
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        ask.backend.close()

        assert ask(endpoint=GPT).text == QUESTION

    def test_nobody_there(self, ask: Ask, local: LocalEndpoint) -> None:
        """A refused connection is a `ConnectionFailed`, which is a `ConnectionError`."""
        backend = type(ask.backend)(Connection("http://127.0.0.1:1", local.token))
        with pytest.raises(ConnectionFailed) as failed:
            Ask(ask.mode, backend)(retry=AT_ONCE)
        backend.close()

        assert isinstance(failed.value, ConnectionError)
        assert len(failed.value.attempts) == AT_ONCE.attempts

    @pytest.mark.parametrize(
        "reply",
        [
            {"status": 400, "body": {"error_code": "BAD_REQUEST", "message": "No."}},
            {"status": 401, "body": {"error": {"message": "Who?"}}},
            {"status": 403, "body": b"\xff\xfe"},
            {"status": 504, "body": b"upstream"},
            {"status": 500, "body": {"detail": "Oh."}},
            {"body": b"<html>"},
        ],
        ids=["refused", "not known", "junk", "a proxy's", "another shape", "a web page"],
    )
    def test_neither_token_nor_question_is_told(self, ask: Ask, local: LocalEndpoint, reply: Any) -> None:
        """Neither an error nor what caused it, nor anything's repr or pickle, holds the token or what was asked."""
        local.reply(**reply)
        with pytest.raises(ChatError) as refused:
            ask("canary-question")
        error: BaseException | None = refused.value
        told = [repr(ask.backend), repr(ask.backend.connection), str(pickle.dumps(refused.value))]
        while error is not None:
            told += [str(error), repr(error), repr(getattr(error, "__notes__", ""))]
            error = error.__cause__

        assert not [said for said in told if local.token in said or "canary" in said]

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize(
        "fault",
        [
            *(Fault(status=status, times=None) for status in (408, 429, 500, 502, 503, 504)),
            Fault(reset=True, times=None),
        ],
        ids=["408", "429", "500", "502", "503", "504", "reset"],
    )
    def test_asks_again_as_often_as_it_says(self, ask: Ask, local: LocalEndpoint, fault: Fault) -> None:
        """What may pass is asked again, one request an attempt; the client's own retries add nothing."""
        ask("Hi", endpoint=GPT)  # which may have to log in, or to get to know the host
        local.reset()
        local.order(fault)
        with pytest.raises(ChatError) as refused:
            ask(endpoint=GPT, retry=AT_ONCE)

        attempts = refused.value.attempts
        assert len(attempts) == AT_ONCE.attempts
        assert len(local.questions) == AT_ONCE.attempts
        assert len(self.requests(local)) == AT_ONCE.attempts
        if fault.status is not None:
            assert {fault.status} == {attempt.status for attempt in attempts}

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
    def test_asks_once_where_it_was_refused(self, ask: Ask, local: LocalEndpoint, status: int) -> None:
        """What was refused is not asked again."""
        local.order(Fault(status=status, times=None))
        with pytest.raises(ServiceError):
            ask(retry=AT_ONCE)

        assert len(local.questions) == 1

    def test_asks_again_and_gets_it(self, ask: Ask, local: LocalEndpoint) -> None:
        """Two refusals, then an answer: it is the answer, and says what was tried before."""
        local.order(Fault(status=503), Fault(status=429))
        answer = ask(endpoint=GPT, retry=AT_ONCE)

        assert answer.text == QUESTION
        assert [503, 429] == [attempt.status for attempt in answer.attempts]
        assert len(local.questions) == 3

    def test_waits_as_long_as_it_is_asked_to(self, ask: Ask, local: LocalEndpoint) -> None:
        """Retry-After is honoured."""
        local.order(Fault(status=429, headers={"retry-after": "0.3"}))
        answer = ask(endpoint=GPT, retry=AT_ONCE)

        assert [0.3] == [attempt.waited for attempt in answer.attempts]
        assert local.questions[1].at - local.questions[0].at >= 0.3

    def test_does_not_begin_a_wait_that_is_too_long(self, ask: Ask, local: LocalEndpoint) -> None:
        """A Retry-After beyond the deadline is reported at once."""
        local.order(Fault(status=429, headers={"retry-after": "60"}, times=None))
        begun = time.monotonic()
        with pytest.raises(RateLimited):
            ask(retry=AT_ONCE, timeout=10)

        assert time.monotonic() - begun < 5
        assert len(local.questions) == 1

    def test_a_reset_is_asked_again(self, ask: Ask, local: LocalEndpoint) -> None:
        """A connection that is reset before the answer counts as one attempt."""
        local.order(Fault(reset=True))
        answer = ask(endpoint=GPT, retry=AT_ONCE)

        assert ["ConnectionFailed"] == [attempt.error for attempt in answer.attempts]
        assert len(local.questions) == 2

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize(
        "fault",
        [Fault(stall=30.0), Fault(delay=30.0), Fault(stall=30.0, after=1), Fault(drip=0.2)],
        ids=["no headers", "late headers", "stalls in the body", "drips"],
    )
    def test_nothing_outlives_its_deadline(self, ask: Ask, local: LocalEndpoint, fault: Fault) -> None:
        """However slowly the answer comes, the question is over when its time is."""
        local.order(fault)
        ask.backend.close()
        begun = time.monotonic()
        with pytest.raises((DeadlineExceeded, StreamInterrupted)) as late:
            ask(" ".join(["word"] * 40), endpoint=GPT, timeout=0.6)

        assert time.monotonic() - begun < 0.6 + MARGIN
        error = late.value
        assert isinstance(error if isinstance(error, DeadlineExceeded) else error.__cause__, TimeoutError)

    def test_a_stall_is_asked_once(self, ask: Ask, local: LocalEndpoint) -> None:
        """A question that is not answered in time has been sent once, and no thread waits on for its answer."""
        ask("Hi", endpoint=GPT)
        local.reset()
        before = set(threading.enumerate())
        local.order(Fault(stall=30.0, times=None))
        with pytest.raises(DeadlineExceeded):
            ask(endpoint=GPT, timeout=1.0, retry=AT_ONCE)

        assert len(local.questions) == 1
        assert len(self.requests(local)) == 1
        _settles(lambda: set(threading.enumerate()) <= before)

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize(
        "chunks",
        [
            _pieces({"content": "Hel"}, {"content": "lo"}, finish_reason=None, done=False),
            [*_pieces({"content": "Hel"}, {"content": "lo"}, finish_reason=None, done=False), b'data: {"choi'],
            [*_pieces({"content": "Hello"}, finish_reason=None, done=False),
             b'data: {"error_code": "INTERNAL_ERROR", "message": "Oh."}\n\n'],
            [*_pieces({"content": "Hello"}, finish_reason=None, done=False),
             b'data: {"error": {"message": "Oh."}}\n\n'],
            [*_pieces({"content": "Hello"}, finish_reason=None, done=False), b'data: {"error": "Oh."}\n\n'],
            [*_pieces({"content": "Hello"}, finish_reason=None, done=False), b"event: error\ndata: Oh.\n\n"],
        ],
        ids=["ends early", "cut in an event", "error_code event", "error event", "error text", "event: error"],
    )  # fmt: skip
    def test_a_broken_stream_keeps_what_it_had(
        self, ask_streaming: Ask, local: LocalEndpoint, chunks: list[bytes]
    ) -> None:
        """A stream that breaks after it began raises, is not asked again, and keeps everything that had arrived."""
        local.reply(chunks=chunks)
        with pytest.raises(StreamInterrupted) as broken:
            ask_streaming(retry=AT_ONCE)

        assert broken.value.partial is not None
        assert broken.value.partial.text == "Hello"
        assert len(local.questions) == 1
        if "Oh." in str(chunks):
            assert broken.value.error is not None
            assert broken.value.error.message == "Oh."

    @pytest.mark.parametrize(
        "fault", [Fault(reset=9), Fault(drop_after=9), Fault(cut_after=9)], ids=["reset", "dropped", "ended"]
    )
    def test_a_broken_connection_breaks_the_stream(
        self, ask_streaming: Ask, local: LocalEndpoint, fault: Fault
    ) -> None:
        """A reset, a cut or a clean end in the middle of a stream is an interruption, never a short answer."""
        local.order(fault)
        question = "one two three four five six seven eight nine ten eleven twelve"
        with pytest.raises(StreamInterrupted) as broken:
            ask_streaming(question, endpoint=GPT)

        assert broken.value.partial is not None
        assert broken.value.partial.text
        assert question != broken.value.partial.text
        assert question.startswith(broken.value.partial.text)

    def test_an_error_before_the_first_chunk_may_be_asked_again(self, ask_streaming: Ask, local: LocalEndpoint) -> None:
        """Until the first chunk has come, a stream is asked for again like any question."""
        complaint = b'data: {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "Wait."}\n\n'
        local.reply(chunks=[b": hello\n\n", complaint])
        answer = ask_streaming(endpoint=GPT, retry=AT_ONCE)

        assert answer.text == QUESTION
        assert len(answer.attempts) == 1

    def test_a_whole_answer_for_a_stream(self, ask: Ask, local: LocalEndpoint) -> None:
        """An endpoint that does not heed `stream`, either way, is answered by all the same."""
        if ask.streams:
            local.reply(body=ANSWER)
        else:
            local.reply(chunks=_pieces({"role": "assistant", "content": "H"}, {"content": "i."}))

        assert ask().text == "Hi."

    def test_chunks_come_as_they_are_sent(self, ask_streaming: Ask, local: LocalEndpoint) -> None:
        """A chunk is there before the next one is sent; comments and odd line ends do no harm."""
        pieces = [piece.replace(b"\n\n", b"\r\n\r\n") for piece in _pieces({"content": "a"}, {"content": "b"})]
        local.reply(chunks=[b": ping\r\n\r\n", *pieces], pause=0.15)
        answer = ask_streaming()

        assert answer.text == "ab"
        assert ["a", "b"] == [chunk.text for chunk in ask_streaming.chunks if chunk.text]
        assert answer.first_event is not None
        assert answer.elapsed is not None
        assert answer.first_event < answer.elapsed - 0.1

    def test_leaving_a_stream_gives_the_connection_back(self, ask_streaming: Ask, local: LocalEndpoint) -> None:
        """A stream left in the middle leaves no connection behind, and is no answer."""
        with pytest.raises(StreamInterrupted) as left:
            ask_streaming("a b c d e f", endpoint=GPT, leave=True)
        ask_streaming.backend.close()
        _settles(lambda: local.open_connections == 0)

        assert left.value.partial is not None
        assert len(ask_streaming.chunks) == 1

    # ── manners ──────────────────────────────────────────────────────────────────────────────────────────────────

    def test_leaves_the_environment_alone(self, ask: Ask) -> None:
        """No environment variable is written."""
        before = dict(os.environ)
        ask(endpoint=GPT)

        assert before == dict(os.environ)

    def test_one_request_a_question(self, ask: Ask, local: LocalEndpoint) -> None:
        """After the first question, which may have to log in or to get to know the host, ten more are ten requests."""
        ask("Hi", endpoint=GPT)
        local.reset()
        for _ in range(10):
            ask("Hi", endpoint=GPT)

        assert len(local.questions) == 10
        assert len(self.requests(local)) == 10

    def test_connections_are_used_again(self, backend: Backend) -> None:
        """Questions and streams one after the other share one connection."""
        with LocalEndpoint() as fresh:
            other = type(backend)(Connection(fresh.host, fresh.token))
            for _ in range(3):
                query_chat("Hi", endpoint=GPT, backend=other)
                if other.streams():
                    list(query_chat("Hi", endpoint=GPT, backend=other, stream=True))
            connections = fresh.open_connections
            other.close()

        assert connections == 1

    def test_a_closed_backend_begins_anew(self, ask: Ask) -> None:
        """Closing gives connections back; it does not end the backend."""
        texts = [ask("one", endpoint=GPT).text]
        ask.backend.close()
        texts.append(ask("two", endpoint=GPT).text)

        assert ["one", "two"] == texts

    def test_each_loop_has_its_own(self, backend: Backend) -> None:
        """One `asyncio.run` after another, and two loops in two threads, all get their answers."""
        texts: list[str] = []

        async def ask() -> None:
            answers = await asyncio.gather(*(aquery_chat("Hi", endpoint=GPT, backend=backend) for _ in range(5)))
            texts.extend(answer.text for answer in answers)

        asyncio.run(ask())
        asyncio.run(ask())
        _at_once(2, lambda _: asyncio.run(ask()))

        assert ["Hi"] * 20 == texts

    def test_threads_share_it(self, backend: Backend) -> None:
        """Sixteen threads asking at once through one backend get each its own answer."""
        texts: dict[int, str] = {}

        def ask(place: int) -> None:
            texts[place] = query_chat(f"number {place}", endpoint=GPT, backend=backend).text

        _at_once(16, ask)

        assert {place: f"number {place}" for place in range(16)} == texts

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_forked_child_asks_too(self, backend: Backend, local: LocalEndpoint) -> None:
        """After the parent has asked, a forked child asks on a connection of its own, and then the parent again."""
        query_chat("Hi", endpoint=GPT, backend=backend)
        child = os.fork()
        if child == 0:  # whatever happens, it must not go on with the parent's tests
            code = 1
            try:
                code = 0 if query_chat("child", endpoint=GPT, backend=backend, timeout=10).text == "child" else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert query_chat("Hi", endpoint=GPT, backend=backend).text == "Hi"
        assert len(local.questions) == 3

    def test_many_at_once(self, backend: Backend, local: LocalEndpoint) -> None:
        """Fifty questions at once on one loop are fifty answers, none mixed up."""

        async def one(place: int) -> str:
            answer = await aquery_chat(f"number {place}", endpoint=GPT, backend=backend, timeout=30)
            return answer.text

        async def many() -> list[str]:
            answers = await asyncio.gather(*(one(place) for place in range(50)))
            await backend.aclose()
            return answers

        assert [f"number {place}" for place in range(50)] == asyncio.run(many())
        assert len(local.questions) == 50

    def test_never_blocks_the_loop(self, backend: Backend) -> None:
        """Nothing blocking runs on the event loop, not even when the client is made."""
        blockbuster = pytest.importorskip("blockbuster", reason="what blocks a loop is seen with blockbuster alone")

        async def ask() -> None:
            said: Any = {"endpoint": "databricks-gpt-5-1", "backend": backend}
            with blockbuster.blockbuster_ctx():
                await aquery_chat(QUESTION, **said)
                if backend.streams():
                    stream = await aquery_chat(QUESTION, stream=True, **said)
                    await stream.collect()
            await backend.aclose()

        asyncio.run(ask())


def _at_once(threads: int, work: Callable[[int], None]) -> None:
    """Do it in so many threads, each with its number."""
    started = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def _settles(true: Callable[[], bool], within: float = 5.0) -> None:
    """Wait until something is true; fail if it does not become so."""
    until = time.monotonic() + within
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
