"""Every difference between backends is found, with the right reason, and nothing else is."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the recorder needs aiohttp: pip install 'isochat[local]'")
pytest.importorskip("httpx2")

import httpx2

import isochat
from isochat import Comparison, ConfigurationError, Connection, InvalidRequest, Message, Reasoning, Retry, compare
from isochat import _compare as whole
from isochat import _difference as differ
from isochat.backends import BUILT_IN, Done, available, find
from isochat.backends.rest import RestBackend
from isochat.local import Fault, LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from isochat import ChatRequest, ChatResponse

GPT, CLAUDE, LLAMA = "databricks-gpt-5-1", "databricks-claude-sonnet-4-5", "databricks-meta-llama-3-3-70b-instruct"
THINKING: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4000}
ONCE = Retry(attempts=1)
AT_ONCE = Retry(attempts=3, first_wait=0.0)
COMPLAINT = b'data: {"error_code": "INTERNAL_ERROR", "message": "Oh."}\n\n'


def tool(name: str, **properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "parameters": {**schema, "required": list(properties)}}}


TOOLS = [tool("weather", city="string"), tool("time", zone="string"), tool("now")]


@pytest.fixture
def asked(local: LocalEndpoint) -> Callable[..., Comparison]:
    """`compare()` on the local endpoint."""

    def ask(messages: Any = "What is a mixture of experts model?", **said: Any) -> Comparison:
        where = {"host": local.host, "token": local.token, "endpoint": GPT, "retry": ONCE}
        return compare(messages, **{**where, **said})

    return ask


# ── seeded faults ────────────────────────────────────────────────────────────────────────────────────────────────


class Broken(RestBackend):
    """`rest`, but for one thing."""

    name = "broken"


def sends(change: Callable[[dict[str, Any]], dict[str, Any]]) -> type[Broken]:
    """It sends another body."""

    class Sends(Broken):
        def encode(self, request: ChatRequest) -> Any:
            post = super().encode(request)
            return replace(post, body=json.dumps(change(json.loads(post.body))).encode())

    return Sends


def gives(change: Callable[[ChatResponse], ChatResponse]) -> type[Broken]:
    """It gives another answer than it got."""

    class Gives(Broken):
        def decode(self, reply: Any) -> ChatResponse:
            return change(super().decode(reply))

    return Gives


def without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {name: value for name, value in body.items() if name not in names}


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {new if name == old else name: value for name, value in body.items()}


def message(change: Callable[[Message], Message]) -> Callable[[ChatResponse], ChatResponse]:
    def changed(answer: ChatResponse) -> ChatResponse:
        first, *others = answer.choices
        return replace(answer, choices=(replace(first, message=change(first.message)), *others))

    return changed


def doubled(answer: ChatResponse) -> ChatResponse:
    usage = answer.usage
    assert usage is not None
    twice = {
        name: 2 * value
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        if (value := getattr(usage, name))
    }
    return replace(answer, usage=replace(usage, **twice))


def unsigned(said: Message) -> Message:
    return replace(
        said,
        content=tuple(replace(part, signature=None) if isinstance(part, Reasoning) else part for part in said.parts),
    )


def finished(answer: ChatResponse) -> ChatResponse:
    first, *others = answer.choices
    return replace(answer, choices=(replace(first, finish_reason="stop"), *others))


class EatsErrors(Broken):
    """It takes the service's complaint in a stream for the end of it."""

    def decode_event(self, event: Any) -> Any:
        try:
            return super().decode_event(event)
        except isochat.ServiceError:
            return Done.DONE


class RetriesInSecret(Broken):
    """It asks again by itself."""

    def send(self, call: Any, timeout: float) -> Any:
        reply = super().send(call, timeout)
        return super().send(call, timeout) if reply.status == 503 else reply


class RaisesForNothing(Broken):
    """It cannot read an answer that is in order."""

    def decode(self, reply: Any) -> ChatResponse:
        raise isochat.MalformedReply("I cannot read this")


class BlursErrors(Broken):
    """Every error is the same to it."""

    def decode(self, reply: Any) -> ChatResponse:
        try:
            return super().decode(reply)
        except isochat.RateLimited as error:
            raise isochat.ServiceUnavailable("it failed", status=500) from error


class CutsTheStream(Broken):
    """The last words before the end get lost."""

    def stream(self, call: Any, timeout: float) -> Generator[Any, None, None]:
        *events, _, end, done = super().stream(call, timeout)
        yield from (*events, end, done)


class AsksAnother(Broken):
    """It asks another endpoint."""

    def encode(self, request: ChatRequest) -> Any:
        return super().encode(replace(request, endpoint="databricks-gpt-5-mini"))


class AsksAround(Broken):
    """It looks around before each question."""

    def send(self, call: Any, timeout: float) -> Any:
        httpx2.get(f"{self.connection.host}/api/2.0/serving-endpoints", headers=self.connection.headers())
        return super().send(call, timeout)


WEATHER = {"messages": "Use weather and time.", "tools": TOOLS}
#: The fault, what it takes to see it, and what must be found: `where` and `reason`, once.
SEEDED: dict[str, tuple[type[Broken], dict[str, Any], tuple[str, str]]] = {
    "drops an option": (
        sends(without("temperature")),
        {"temperature": 0.5, "endpoint": LLAMA},
        ("temperature", "option dropped"),
    ),
    "renames a field": (
        sends(renamed("max_tokens", "max_completion_tokens")),
        {"max_tokens": 50, "endpoint": LLAMA},
        ("max_tokens", "option renamed"),
    ),
    "says an option otherwise": (
        sends(lambda body: {**body, "top_p": str(body["top_p"])}),
        {"top_p": 0.5},
        ("top_p", "option changed"),
    ),
    "adds an option": (sends(lambda body: {**body, "max_tokens": 256}), {}, ("max_tokens", "option added")),
    "rewrites a message": (
        sends(lambda body: {**body, "messages": [{"role": "user", "content": "Hi."}]}),
        {},
        ("messages[0].content", "option changed"),
    ),
    "does not stream": (sends(without("stream")), {"stream": True}, ("stream", "option dropped")),
    "loses usage": (gives(lambda answer: replace(answer, usage=None)), {}, ("usage", "lost")),
    "doubles usage": (gives(doubled), {"endpoint": LLAMA}, ("usage", "doubled")),
    "eats an error event": (
        EatsErrors,
        {"stream": True, "fault": Fault(error_event=json.loads(COMPLAINT[6:]), after=2, times=None)},
        ("error", "error eaten"),
    ),
    "retries in secret": (RetriesInSecret, {"fault": Fault(status=503, times=None)}, ("question", "sent in secret")),
    "reorders tool calls": (
        gives(message(lambda said: replace(said, tool_calls=said.tool_calls[::-1]))),
        WEATHER,
        ("tool_calls", "reordered"),
    ),
    "loses a tool call": (
        gives(message(lambda said: replace(said, tool_calls=said.tool_calls[:1]))),
        WEATHER,
        ("tool_calls[1]", "lost"),
    ),
    "loses a signature": (
        gives(message(unsigned)),
        {"endpoint": CLAUDE, **THINKING},
        ("reasoning.signatures", "lost"),
    ),
    "loses reasoning": (
        gives(message(lambda said: replace(said, content=said.text))),
        {"endpoint": "databricks-gpt-oss-120b"},
        ("reasoning.text", "lost"),
    ),
    "cuts a stream": (CutsTheStream, {"stream": True, "endpoint": LLAMA}, ("text", "cut")),
    "says the text twice": (
        gives(message(lambda said: replace(said, content=said.text * 2))),
        {},
        ("text", "doubled"),
    ),
    "relabels the end": (gives(finished), {"max_tokens": 3, "endpoint": LLAMA}, ("finish_reason", "changed")),
    "loses a choice": (
        gives(lambda answer: replace(answer, choices=answer.choices[:1])),
        {"n": 2, "endpoint": "databricks-gpt-oss-120b"},
        ("choices[1]", "lost"),
    ),
    "names another model": (
        gives(lambda answer: replace(answer, model=GPT)),
        {},
        ("model", "changed"),
    ),
    "makes up an id": (gives(lambda answer: replace(answer, id="mine")), {}, ("id", "changed")),
    "raises for nothing": (RaisesForNothing, {}, ("error", "error made up")),
    "asks another endpoint": (AsksAnother, {}, ("endpoint", "wrong endpoint")),
}


@pytest.mark.parametrize("fault", SEEDED)
def test_a_seeded_fault_is_found_and_nothing_else(
    fault: str, asked: Callable[..., Comparison], local: LocalEndpoint
) -> None:
    """One thing is wrong with the second backend; one difference is reported, of that backend, for the right reason."""
    kind, said, expected = SEEDED[fault]
    options = dict(said)
    if (ordered := options.pop("fault", None)) is not None:
        local.order(ordered)
    comparison = asked(options.pop("messages", "one two three four five six"), backends=["rest", kind], **options)

    found = [(each.backend, each.where, each.reason) for each in comparison.faults()]
    assert [("broken", *expected)] == found
    assert ["client"] == [each.cause for each in comparison.faults(may_vary=True)]
    assert comparison.notes == ()
    assert [] == [each for each in comparison.wire_differences if each.cause == "own"]
    assert comparison.verdict("broken") == "differs"
    assert comparison.verdict("rest") == ("failed" if ordered else "same")
    with pytest.raises(AssertionError, match="broken"):
        comparison.assert_equal()


def test_an_error_told_wrongly_is_one_difference_for_each_fact(
    asked: Callable[..., Comparison], local: LocalEndpoint
) -> None:
    """Class, status and code of an error are each told."""
    local.order(Fault(status=429, times=None))
    comparison = asked(backends=["rest", BlursErrors])

    found = {each.where: (each.expected, each.found) for each in comparison.faults()}
    assert found["error.class"] == ("RateLimited", "ServiceUnavailable")
    assert found["error.status"] == (429, 500)
    assert set(found) == {"error.class", "error.status", "error.error_code", "error.request_id"}


def test_the_reference_is_looked_at_too(asked: Callable[..., Comparison]) -> None:
    """The fault is the backend's that has it, in whatever order they stand."""
    kind, said, expected = SEEDED["loses usage"]
    comparison = asked(backends=[kind, "rest"], **said)

    assert [("broken", *expected)] == [(each.backend, each.where, each.reason) for each in comparison.faults()]


def test_a_backend_alone_is_held_against_the_wire(asked: Callable[..., Comparison]) -> None:
    """It takes no second backend to see what one loses."""
    comparison = asked(backends=[SEEDED["loses usage"][0]])

    assert [("usage", "lost")] == [(each.where, each.reason) for each in comparison.faults()]


def test_further_requests_are_shown_and_are_no_fault(asked: Callable[..., Comparison]) -> None:
    """What a client asks beside the question is its own way, and can be seen."""
    comparison = asked(backends=["rest", AsksAround])

    own = [(each.where, each.reason) for each in comparison.wire_differences if each.cause == "own"]
    assert own == [("GET /api/2.0/serving-endpoints", "extra request")]
    comparison.assert_equal()


def test_a_model_that_varies_is_not_the_clients_doing(local: LocalEndpoint) -> None:
    """What the service itself says otherwise is told as such, and may be let pass."""
    script = [{"reply": "Heads.", "times": 1}, {"reply": "Tails, I am sure.", "times": 1}]
    with LocalEndpoint(script) as fickle:
        said: Any = {"host": fickle.host, "token": fickle.token, "endpoint": LLAMA}
        comparison = compare(
            "Toss a coin.", backends=["rest", type("Other", (RestBackend,), {"name": "other"})], **said
        )

    assert ("text", "said otherwise") in {(each.where, each.reason) for each in comparison.differences}
    assert {each.cause for each in comparison.differences} == {"service"}
    assert (comparison.verdict("other"), comparison.same) == ("varies", False)
    comparison.assert_equal(may_vary=True)
    with pytest.raises(AssertionError, match=r'- "Heads\."\n    \+ "Tails'):
        comparison.assert_equal()


# ── sixty scenarios, every backend ───────────────────────────────────────────────────────────────────────────────

FAULTS = {
    "busy": {"status": 429, "retry_after": 0},
    "down": {"status": 503},
    "wrong": {"status": 400},
    "forbidden": {"status": 403},
    "gone": {"status": 404},
    "broken inside": {"status": 500},
    "a web page": {"status": 502, "body": "<html><title>502 Bad Gateway</title></html>"},
    "no JSON": {"junk": "what is this"},
}
SCRIPT = [
    *({"when": {"contains": f"fault: {name}"}, "fault": {**fault, "times": 1}} for name, fault in FAULTS.items()),
    {
        "when": {"contains": "both calls"},
        "reply": {
            "text": "",
            "tool_calls": [
                {"name": "weather", "arguments": {"city": "Oslo"}},
                {"name": "time", "arguments": {"zone": "CET"}},
            ],
        },
    },
    {"when": {"contains": "will not"}, "reply": {"refusal": "I will not."}},
    {"when": {"contains": "too long"}, "reply": {"text": "It goes on and", "finish_reason": "length"}},
    {"when": {"contains": "filtered"}, "reply": {"text": "I", "finish_reason": "content_filter"}},
    {
        "when": {"contains": "counted"},
        "reply": {"text": "One.", "usage": {"prompt_tokens": 11, "completion_tokens": 1}},
    },
]


def scenarios() -> Iterator[dict[str, Any]]:
    """Sixty questions: every family, every kind of content, tools, options and errors, whole and streamed."""
    endpoints = [
        GPT,
        CLAUDE,
        LLAMA,
        "databricks-gpt-oss-120b",
        "databricks-gemini-2-5-pro",
        "databricks-qwen35-122b-a10b",
    ]
    for endpoint in endpoints:
        yield {"messages": "What is a mixture of experts model?", "endpoint": endpoint}
        yield {"messages": "What is a mixture of experts model?", "endpoint": endpoint, "stream": True}
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": 'Grüße 🙂, dapi, "quotes" and \\n'},
    ]
    picture = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            ],
        }
    ]
    both: list[dict[str, Any]] = [
        {"messages": talk},
        {"messages": picture},
        {"messages": "say it twice", "max_tokens": 2, "endpoint": LLAMA},
        {"messages": "with care", "top_p": 0.5, "max_tokens": 100, "endpoint": LLAMA},
        {"messages": "up to END of it", "stop": ["END"], "endpoint": LLAMA},
        {"messages": "think", "endpoint": CLAUDE, **THINKING},
        {"messages": "Use weather.", "tools": TOOLS, "tool_choice": "required"},
        {"messages": "Use now.", "tools": TOOLS, "endpoint": CLAUDE},
        {"messages": "both calls", "tools": TOOLS},
        {
            "messages": "as JSON",
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "a",
                    "schema": {
                        "type": "object",
                        "properties": {"text": {"type": "string"}},
                        "required": ["text"],
                        "additionalProperties": False,
                    },
                    "strict": True,
                },
            },
        },
        {"messages": "two of them", "n": 2, "endpoint": "databricks-gpt-oss-120b"},
        {"messages": "will not", "endpoint": LLAMA},
        {"messages": "too long"},
        {"messages": "filtered", "endpoint": LLAMA},
        {"messages": "counted"},
        {"messages": "hello", "temperature": 7.5, "endpoint": LLAMA},
    ]
    for each in both:
        yield each
        yield {**each, "stream": True}
    for name in FAULTS:
        yield {"messages": f"fault: {name}"}
        yield {"messages": f"fault: {name}", "stream": True}


def test_sixty_scenarios_through_every_backend_are_the_same() -> None:
    """Whatever is asked, nobody's client loses, changes or adds anything; who cannot carry it says so."""
    questions = [{"name": f"{place}: {each['messages']!r:.30}", **each} for place, each in enumerate(scenarios())]
    assert len(questions) == 60
    there = {info.name for info in available() if not info.missing and info.name in BUILT_IN}
    with LocalEndpoint(SCRIPT) as local:
        connection = Connection(local.host, local.token)
        chosen: list[Any] = ["rest", *sorted(there - {"rest", "ai-query"})]
        if "ai-query" in there:
            chosen.append(find("ai-query")(connection, warehouse_id="w"))
        comparison = compare(questions=questions, backends=chosen, endpoint=GPT, connection=connection, retry=ONCE)

    shown = [f"{each.backend}, {comparison.questions[each.question].name}: {each}" for each in comparison.faults()]
    assert shown == []
    for name in comparison.backends:
        carried = [asking for asking in comparison.of(name) if not asking.refused]
        assert carried
        assert all(len(differ.asked(asking.exchanges)) == 1 for asking in carried)
    asked_of_rest = comparison.of("rest")
    assert len([asking for asking in asked_of_rest if asking.response is not None]) >= 40
    assert len([asking for asking in asked_of_rest if asking.error is not None]) >= 12


# ── what is asked, of whom, how often ────────────────────────────────────────────────────────────────────────────


class Other(RestBackend):
    """`rest` under another name."""

    name = "other"


def test_each_is_asked_in_each_round_and_takes_its_turn(asked: Callable[..., Comparison], local: LocalEndpoint) -> None:
    """Backends take turns, the first question of a session is told apart, and progress is told."""
    told: list[tuple[int, int]] = []
    comparison = asked(backends=["rest", Other], repeat=3, progress=lambda done, of: told.append((done, of)))

    assert [(each.round, each.backend, each.cold) for each in comparison.askings] == [
        (0, "rest", True),
        (0, "other", True),
        (1, "rest", False),
        (1, "other", False),
        (2, "rest", False),
        (2, "other", False),
    ]
    assert told == [(done, 6) for done in range(7)]
    began = sorted(comparison.askings, key=lambda each: each.exchanges[0].began)
    assert [each.backend for each in began] == ["rest", "other", "other", "rest", "rest", "other"]
    assert len(local.questions) == 6
    assert comparison.same
    summary = comparison.summary("rest")
    assert summary is not None
    assert len(summary.values) == 2


def test_many_at_once_are_not_mixed_up(asked: Callable[..., Comparison]) -> None:
    """However many are under way, each asking has its own answer and its own exchange."""
    questions = [{"messages": f"number {place}", "name": f"n{place}"} for place in range(12)]
    comparison = asked(None, questions=questions, backends=["rest", Other], concurrency=4)

    assert len(comparison.askings) == 24
    for each in comparison.askings:
        assert each.response is not None
        assert each.response.text == f"number {each.question}"
        (exchange,) = each.exchanges
        assert f"number {each.question}" in exchange.body.decode()
    assert [question.name for question in comparison.questions] == [f"n{place}" for place in range(12)]
    assert comparison.same


def test_time_is_told_apart(asked: Callable[..., Comparison], local: LocalEndpoint) -> None:
    """What the service took is on the wire, what was waited is waited, and the first token comes before the end."""
    local.order(Fault(status=429, retry_after=0.2), Fault(drip=0.05))
    comparison = asked("one two three four five six", backends=["rest"], endpoint=LLAMA, stream=True, retry=AT_ONCE)
    (asking,) = comparison.askings

    assert (asking.attempts, len(asking.exchanges)) == (2, 2)
    assert asking.waited >= 0.2
    assert asking.wire is not None
    assert asking.wire >= 0.3
    assert asking.overhead is not None
    assert asking.total == pytest.approx(asking.wire + asking.waited + asking.overhead)
    assert asking.first_token is not None
    assert 0.2 < asking.first_token < asking.total - 0.1
    assert comparison.faults() == ()


def test_a_question_of_its_own_kind(asked: Callable[..., Comparison], local: LocalEndpoint) -> None:
    """Each of several questions may have its own endpoint, options and way; the others hold for all."""
    questions = [
        {"messages": "a b c d", "endpoint": LLAMA, "max_tokens": 2},
        {"messages": [{"role": "user", "content": "e"}], "stream": True, "extra_body": {"user": "me"}},
    ]
    comparison = asked(None, questions=questions, backends="rest", max_tokens=100, stream=False)

    assert [each.json.get("max_tokens") for each in local.questions] == [2, 100]
    assert [each.json.get("stream") for each in local.questions] == [None, True]
    assert local.questions[1].json["user"] == "me"
    assert local.questions[0].path.split("/")[2] == LLAMA
    assert [question.stream for question in comparison.questions] == [False, True]
    assert [question.text for question in comparison.questions] == ["a b c d", "e"]


def test_who_cannot_carry_it_says_so(asked: Callable[..., Comparison]) -> None:
    """A refusal is shown, and is no difference."""

    class Small(RestBackend):
        name = "small"
        carries = RestBackend.carries - {"temperature"}

    comparison = asked(backends=["rest", Small], endpoint=LLAMA, temperature=0.5)
    refused = comparison.of("small")[0]

    assert (comparison.verdict("rest"), comparison.verdict("small")) == ("same", "refused")
    assert (refused.refused, refused.exchanges, refused.response) == (True, (), None)
    assert "cannot carry temperature" in repr(comparison)
    comparison.assert_equal()


def test_nobody_asked_proves_nothing(asked: Callable[..., Comparison]) -> None:
    """Where every backend refuses, the answers are not the same."""

    class Small(RestBackend):
        name = "small"
        carries = RestBackend.carries - {"temperature"}

    comparison = asked(backends=[Small], endpoint=LLAMA, temperature=0.5)

    assert not comparison.same
    with pytest.raises(AssertionError, match=r"nobody could be asked:\n  small: .*temperature"):
        comparison.assert_equal()


def test_the_same_error_everywhere_is_the_same(asked: Callable[..., Comparison]) -> None:
    """An endpoint that is not there is not there for anybody."""
    comparison = asked(backends=["rest", Other], endpoint="nowhere")

    assert comparison.faults() == ()
    assert {comparison.verdict(name) for name in comparison.backends} == {"failed"}
    assert comparison.headline() == "1 question through 2 backends: the same error"


@pytest.mark.parametrize("may_vary", [False, True])
def test_nobody_answered_proves_nothing(
    asked: Callable[..., Comparison], local: LocalEndpoint, *, may_vary: bool
) -> None:
    """Where everybody gets an error, a test that holds the answers to be the same fails and shows it."""
    local.order(Fault(status=503, times=2))
    comparison = asked(backends=["rest", Other])

    assert comparison.faults() == ()
    assert not comparison.same
    with pytest.raises(AssertionError, match=r"nobody got an answer:\n  other: .*\n  rest: .*scaling from zero"):
        comparison.assert_equal(may_vary=may_vary)


def test_the_headline_counts_those_that_answered(asked: Callable[..., Comparison], local: LocalEndpoint) -> None:
    """A backend whose API does not have the model, and one that failed where that may be, gave no same answer."""
    pytest.importorskip("openai")
    refused = asked(backends=["rest", Other, "openai-responses"], endpoint=LLAMA)
    local.order(Fault(status=503))
    failed = asked(backends=["rest", Other])

    assert refused.verdict("openai-responses") == "refused"
    assert refused.headline() == "1 question through 2 backends: the same answer"
    assert failed.headline() == "1 question through 2 backends: 1 thing differs that must not"
    assert failed.headline(may_vary=True) == "1 question through 1 backend: the answer that came over the wire"


def test_who_was_not_asked_has_no_verdict(asked: Callable[..., Comparison]) -> None:
    """A backend, a question or a time that is not there is named, and is neither the same nor nothing."""
    comparison = asked(backends=["rest"])

    with pytest.raises(InvalidRequest, match=r"backend: 'nope' was not asked; asked were rest"):
        comparison.summary("nope", "total")
    with pytest.raises(InvalidRequest, match=r"backend: 'nope'"):
        comparison.verdict("nope")
    with pytest.raises(InvalidRequest, match=r"question: there is no 1"):
        comparison.verdict("rest", 1)
    with pytest.raises(InvalidRequest, match=r"time: there is no 'foo'; there are total, first_token, wire, overhead"):
        comparison.summary("rest", "foo")


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"messages": None}, "questions"),
        ({"messages": "a", "questions": [{"messages": "b"}]}, "questions"),
        ({"messages": None, "questions": []}, "questions"),
        ({"messages": None, "questions": ["b"]}, "questions"),
        ({"messages": "a", "repeat": 0}, "repeat"),
        ({"messages": "a", "concurrency": True}, "concurrency"),
        ({"messages": "a", "backends": []}, "backends"),
        ({"messages": "a", "temperature": "warm"}, "temperature"),
        ({"messages": [{"role": "user"}], "nonsense": 1}, ""),
    ],
)
def test_what_is_said_wrongly_is_refused(
    asked: Callable[..., Comparison], local: LocalEndpoint, said: dict[str, Any], path: str
) -> None:
    """A question that is none raises, and nothing is asked."""
    with pytest.raises((InvalidRequest, TypeError)) as refused:
        asked(**{"backends": ["rest"], **said})

    assert path in str(refused.value)
    assert local.received == []


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"messages": [{"role": "usr", "content": "a"}]}, r"^questions\[1\]\.messages\[0\]\.role: "),
        (
            {"messages": "a", "temprature": 1},
            r"^questions\[1\]\.temprature: no such option\nDid you mean 'temperature'",
        ),
        ({"messages": "a", "stream": "yes"}, r"^questions\[1\]\.stream: expected True or False"),
        ({"messages": "a", "n": 0, "name": "line 3"}, r"^questions\[1\]\.n: expected at least 1, got 0 \(line 3\)"),
        (
            {"messages": "a", "backend": "rest"},
            r"^questions\[1\]\.backend: not one question's own\nSay it for all of them, with backends=",
        ),
        (
            {"messages": "a", "timeout": 5},
            r"^questions\[1\]\.timeout: not one question's own\nSay it for all of them, with timeout=",
        ),
    ],
)
def test_a_bad_question_among_several_is_named(
    asked: Callable[..., Comparison], local: LocalEndpoint, bad: dict[str, Any], says: str
) -> None:
    """Among a thousand questions, the one that is said wrongly is found; what is the whole comparison's is said so."""
    with pytest.raises(InvalidRequest, match=says) as refused:
        asked(None, backends=["rest"], questions=[{"messages": "good"}, bad])

    assert str(refused.value.path).startswith("questions[1].")
    assert local.received == []


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"messages": [{"role": "usr", "content": "a"}]}, "messages[0].role"),
        ({"messages": None, "questions": [{"messages": "a"}], "n": 0}, "n"),
    ],
)
def test_what_is_no_questions_own_is_named_as_it_was_said(
    asked: Callable[..., Comparison], said: dict[str, Any], path: str
) -> None:
    """Where there is one question, or it is the option of all that is wrong, there is no place in a list to name."""
    with pytest.raises(InvalidRequest) as refused:
        asked(**{"backends": ["rest"], **said})

    assert path == refused.value.path


def test_without_the_recorder_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder is an extra."""
    monkeypatch.setattr(whole, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"isochat\[local\]"):
        compare("a", endpoint=GPT, host="http://127.0.0.1:9", token="x")


def test_a_client_of_yours_is_asked_without_a_record(local: LocalEndpoint) -> None:
    """A client that was handed in keeps its address; its answers are compared, its wire is unknown."""
    openai = pytest.importorskip("openai")
    from isochat.backends.openai import OpenAIBackend

    with openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client:
        mine = OpenAIBackend(client=client)
        comparison = compare("Hi.", endpoint=GPT, backends=["rest", mine], host=local.host, token=local.token)
    (asking,) = comparison.of("openai")

    assert (asking.recorded, asking.exchanges, asking.overhead) == (False, (), None)
    assert comparison.same


def test_what_no_record_explains_is_not_let_pass(asked: Callable[..., Comparison]) -> None:
    """By a route that nobody here can read, a difference may be the client's; so it counts as one."""

    class Elsewhere(RestBackend):
        name = "elsewhere"

        def encode(self, request: ChatRequest) -> Any:
            return replace(super().encode(request), path="/api/ask")

        def decode(self, reply: Any) -> ChatResponse:
            return isochat.ChatResponse(choices=(isochat.Choice(0, Message("assistant", "Something else.")),))

    comparison = asked("Hi.", backends=["rest", Elsewhere])
    found = [(each.where, each.reason, each.cause) for each in comparison.faults(may_vary=True)]

    assert [("text", "unexplained", "client")] == found
    assert "expected 'Hi.', found 'Something else.'" in str(comparison.faults()[0])
    assert comparison.verdict("elsewhere") == "differs"


# ── what it is ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_a_plain_value(asked: Callable[..., Comparison]) -> None:
    """It can be pickled and copied, is equal to its copy, and is JSON."""
    comparison = asked(backends=["rest", SEEDED["loses usage"][0]], stream=False)
    again = pickle.loads(pickle.dumps(replace(comparison, backends=("rest", "broken"))))

    assert again.differences == comparison.differences
    assert copy.deepcopy(comparison) == comparison
    told = json.loads(json.dumps(comparison.to_dict()))
    assert told["same"] is False
    assert [each["where"] for each in told["differences"]] == ["usage"]
    assert told["backends"][1]["verdicts"] == ["differs"]
    assert told["askings"][0]["exchanges"][0]["body"]["messages"][0]["content"]
    assert set(told["askings"][0]["ms"]) == {"total", "first_token", "waited", "wire", "overhead"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_no_token_is_in_it(local: LocalEndpoint, *, stream: bool) -> None:
    """Not in the record, an error, a repr, the JSON or the pickle: not even where the service echoes it."""

    class Careless(RestBackend):
        name = "careless"

        def decode(self, reply: Any) -> ChatResponse:
            raise RuntimeError(f"oh no: {self.connection.headers()}")

        def decode_event(self, event: Any) -> Any:
            raise RuntimeError(f"oh no: {self.connection.headers()}")

    echo = {"error_code": 401, "message": f"Who is {local.token}?"}
    for _ in range(3):
        local.reply(status=401, body=echo, headers={"x-you-sent": local.token})
    comparison = compare(
        f"My token is {local.token}.",
        endpoint=GPT,
        backends=["rest", Other, Careless],
        host=local.host,
        token=local.token,
        stream=stream,
        retry=ONCE,
    )
    answered = compare(
        f"My token is {local.token}.",
        endpoint=GPT,
        backends=["rest"],
        host=local.host,
        token=local.token,
        stream=stream,
    )

    assert len(local.questions) == 4
    assert local.token in local.questions[0].body.decode()
    for each in (comparison, answered):
        told = repr(each) + str(each.askings) + json.dumps(each.to_dict()) + str(each.differences)
        assert local.token not in told
        assert local.token.encode() not in pickle.dumps(each.askings)
        assert all(asking.error is None or asking.error.__traceback__ is None for asking in each.askings)
    assert answered.faults() == ()
    assert "oh no" in str(comparison.of("careless")[0].error)


def test_it_shows_itself(asked: Callable[..., Comparison]) -> None:
    """As text, as a table of rich, and as HTML without anything that runs."""
    rich = pytest.importorskip("rich.console")
    comparison = asked("<script>alert(1)</script>", backends=["rest", SEEDED["loses usage"][0]])

    text = repr(comparison)
    assert text.startswith("Comparison: 1 question through 2 backends: 1 thing differs that must not\nbackend ")
    assert "usage lost" in text
    console = rich.Console(width=120, record=True, file=__import__("io").StringIO())
    console.print(comparison)
    assert "usage lost" in console.export_text()
    shown = comparison._repr_html_()
    assert "<td>broken</td><td>differs</td>" in shown
    assert "<script" not in shown


def test_a_failed_assertion_can_be_read(asked: Callable[..., Comparison]) -> None:
    """It names backend, question and field, and shows both sides."""
    kind, said, _ = SEEDED["relabels the end"]
    with pytest.raises(AssertionError) as failed:
        asked("one two three four five six", backends=["rest", kind], **said).assert_equal()

    assert str(failed.value).splitlines() == [
        "1 that must not differ:",
        "  broken, question 1: finish_reason is not what came over the wire",
        '    - "length"',
        '    + "stop"',
    ]
