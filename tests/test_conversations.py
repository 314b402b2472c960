"""A conversation begun on one backend goes on on any other, and one begun at one model goes on at another.

Every cell asks two questions of the local endpoint, whose decoder is as strict as the service's: the second holds the
answer to the first, as it was given and as it was stored in between. What must go back unmodified (signatures, sealed
thoughts, the ids of calls) is read off the wire of the first answer, not off isochat's idea of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import urllib.request
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import ChatError, Connection, Message, Retry, aquery_chat, query_chat
from isochat._request import make_request, read_messages
from isochat.backends import BUILT_IN, load
from isochat.errors import BackendNotInstalled, InvalidRequest, RequestRefused, UnsupportedOption
from isochat.local import FAMILIES, LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isochat import Backend, ChatResponse
    from isochat.local import Endpoint, Family

ONCE = Retry(attempts=1)
#: The backends that are not chat completions: one speaks of items, one of a single prompt.
RESPONSES, PROMPT = "openai-responses", "ai-query"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TWICE = [{"name": "get_weather", "arguments": {"city": city}} for city in ("Oslo", "Rome")]
SCRIPT = [
    {"when": {"contains": "two cities", "tool_result": False}, "reply": {"tool_calls": TWICE}},
    {
        "when": {"contains": "call, and say nothing", "tool_result": False},
        "reply": {"text": "", "tool_calls": [{"name": "get_time"}]},
    },
    {"when": {"regex": "say nothing.$", "tool_result": False}, "reply": {"text": ""}},
]
SECRET = "ANTHROPIC_MAGIC_STRING_TRIGGER_REDACTED_THINKING_46C9"
THINK = {"thinking": {"type": "enabled", "budget_tokens": 100}, "max_tokens": 1000}
SEALED = {"extra_body": {"include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}}}


# ── the shapes ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Shape:
    """How a conversation begins, and what of a model that needs."""

    name: str
    text: str
    system: bool = False
    picture: bool = False
    tools: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()  # any of these quirks
    options: dict[str, Any] = field(default_factory=dict)

    def begins(self) -> list[dict[str, Any]]:
        """What is asked first."""
        content: Any = [{"type": "text", "text": self.text}, PICTURE] if self.picture else self.text
        system = [{"role": "system", "content": "Be brief."}] if self.system else []
        return [*system, {"role": "user", "content": content}]

    def goes_on(self, answer: Message) -> list[Any]:
        """What is asked next: the results of the calls if there were any, else another question."""
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": f"{call.name}: 7"} for call in answer.tool_calls
        ]
        return [*self.begins(), answer, *(results or [{"role": "user", "content": "And then?"}])]

    def said(self) -> dict[str, Any]:
        """The options of both questions."""
        return {**({"tools": [*self.tools]} if self.tools else {}), **self.options}

    def fits(self, family: Family, backend: str) -> bool:
        """Whether a model can have it, asked through this backend."""
        if backend == PROMPT and (self.tools or self.picture):
            return False
        if self.tools and (family.kind == "agent" or family.has("empty-message")):
            return False
        if self.options is SEALED and (backend != RESPONSES or not family.has("hidden-reasoning")):
            return False
        return (
            (not self.picture or "image_url" in family.parts)
            and (not self.needs or any(family.has(quirk) for quirk in self.needs))
            and speaks(backend, family)
        )


SHAPES = (
    Shape("plain", "Hello there, you."),
    Shape("system", "Hello there, you.", system=True),
    Shape("multimodal", "What is on it?", picture=True),
    Shape("tool call and result", "Call get_weather.", tools=(WEATHER,)),
    Shape("parallel tool calls", "Call get_weather and get_time.", tools=(WEATHER, TIME)),
    Shape("parallel tool calls: of one function", "Look at two cities.", tools=(WEATHER,)),
    Shape("reasoning with signature", "Think hard.", needs=("thinking-blocks",), options=THINK),
    Shape("reasoning with signature: redacted", f"Think {SECRET}.", needs=("thinking-blocks",), options=THINK),
    Shape(
        "reasoning with signature: and a call",
        "Call get_weather.",
        tools=(WEATHER,),
        needs=("thinking-blocks",),
        options=THINK,
    ),
    Shape("reasoning with signature: none", "Think hard.", needs=("unsigned-reasoning",)),
    Shape("reasoning with signature: sealed", "Think hard.", options=SEALED),
    Shape("reasoning with signature: sealed, and a call", "Call get_weather.", tools=(WEATHER,), options=SEALED),
    Shape("thought signature", "Hello there, you.", needs=("text-thought-signature",)),
    Shape("thought signature: on a call", "Call get_weather.", tools=(WEATHER,), needs=("tool-thought-signature",)),
    Shape("empty content", "Now say nothing."),
    Shape("empty content: beside a call", "Now call, and say nothing.", tools=(TIME,)),
)


def speaks(backend: str, family: Family) -> bool:
    """Whether this backend's language is one of the model's: GPT and agents speak Responses, Codex nothing else."""
    if backend == RESPONSES:
        return family.has("usage-details") or family.kind == "agent"
    return not family.has("responses-only")


# ── whom to ask ──────────────────────────────────────────────────────────────────────────────────────────────────


class Talk:
    """The endpoints, a session of each backend, and the first answers, each asked for once."""

    def __init__(self, local: LocalEndpoint) -> None:
        self.local = local
        self.sessions: dict[str, Backend] = {}
        self.answers: dict[Any, ChatResponse] = {}
        self.sealed: dict[Any, Any] = {}
        self.endpoints: dict[str, Endpoint] = {}
        for at in local.endpoints.values():  # one of each family
            self.endpoints.setdefault(at.family.name, at)

    def session(self, name: str) -> Backend:
        if name not in self.sessions:
            kind: Any = load(name)
            more = {"prompt_template": "roles", "warehouse_id": "w"} if name == PROMPT else {}
            self.sessions[name] = kind(Connection(self.local.host, self.local.token), **more)
        return self.sessions[name]

    def first(self, backend: str, at: Endpoint, shape: Shape, *, streamed: bool = False) -> ChatResponse:
        """The answer to what is asked first."""
        key = (backend, at.name, shape.name, streamed)
        if key not in self.answers:
            session = self.session(backend)
            said: Any = {"endpoint": at.name, "backend": session, "retry": ONCE, "timeout": 20, **shape.said()}
            if streamed:
                self.answers[key] = query_chat(shape.begins(), stream=True, **said).response
            else:
                self.answers[key] = query_chat(shape.begins(), **said)
        return self.answers[key]

    def must_return(self, backend: str, at: Endpoint, shape: Shape) -> Any:
        """What the first answer holds, on the wire, that is to go back unmodified."""
        language = RESPONSES if backend == RESPONSES else "rest"
        key = (language, at.name, shape.name)
        if key not in self.sealed:
            request = make_request(shape.begins(), endpoint=at.name, **shape.said())
            body = {"model": at.name, **load(language).render(request)}
            path = "responses" if language == RESPONSES else "chat/completions"
            headers = {"Authorization": f"Bearer {self.local.token}", "Content-Type": "application/json"}
            sent = urllib.request.Request(
                f"{self.local.host}/serving-endpoints/{path}", json.dumps(body).encode(), headers
            )
            with urllib.request.urlopen(sent, timeout=20) as reply:
                found = json.load(reply)
            answer = found.get("output") or found.get("choices", [{}])[0].get("message") or found.get("messages")
            self.sealed[key] = sealed(answer)
            if language == RESPONSES:  # which takes reasoning back sealed or not at all
                self.sealed[key] = [each for each in self.sealed[key] if isinstance(each[1], str)]
        return self.sealed[key]

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()


def sealed(value: Any) -> list[tuple[str, Any]]:
    """The blocks of reasoning, signatures, sealed thoughts and ids of calls in an answer or a question, in order."""
    found: list[tuple[str, Any]] = []
    if isinstance(value, list):
        return [each for item in value for each in sealed(item)]
    if not isinstance(value, dict) or value.get("role") == "tool" or value.get("type") == "function_call_output":
        return found
    if value.get("type") == "reasoning":
        return [("reasoning", value.get("encrypted_content", value))]
    if value.get("type") in ("function", "function_call"):
        found.append(("call", value.get("call_id") or value["id"]))
    for key, inner in value.items():
        if key in ("thoughtSignature", "signature", "encrypted_content"):
            found.append((key, inner))
        else:
            found += sealed(inner)
    return found


@pytest.fixture(scope="module")
def serving() -> Iterator[Talk]:
    with LocalEndpoint(SCRIPT) as local:
        talk = Talk(local)
        yield talk
        talk.close()


@pytest.fixture
def talk(serving: Talk) -> Talk:
    serving.local.reset()
    return serving


def installed(name: str) -> str:
    try:
        load(name)
    except BackendNotInstalled as error:
        pytest.skip(str(error))
    return name


def stored(messages: list[Any]) -> list[Any]:
    """The conversation as JSON, and read again."""
    return json.loads(json.dumps([each.to_dict() if isinstance(each, Message) else each for each in messages]))


def is_stable(message: Message) -> bool:
    """Whether a message that is stored and read again is stored as the same JSON."""
    said = json.dumps(message.to_dict())
    (again,) = read_messages([json.loads(said)])
    return json.dumps(again.to_dict()) == said and again == read_messages([message])[0]


@contextlib.contextmanager
def every() -> Iterator[Any]:
    """Run all cells of a row, and fail with those that did, each by its name."""
    failures: list[str] = []

    @contextlib.contextmanager
    def cell(name: str) -> Iterator[None]:
        try:
            yield
        except (AssertionError, ChatError, pytest.fail.Exception) as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")

    yield cell
    if failures:
        pytest.fail("\n".join(failures))


# ── the same model, another client ───────────────────────────────────────────────────────────────────────────────


def cells(begun: str, on: str, shape: Shape) -> list[str]:
    """The families that a conversation of this shape can be had with; that one cannot speak, asked once, is a cell."""
    asked = [name for name, family in FAMILIES.items() if shape.fits(family, begun)]
    return [name for name in asked if shape.name == "plain" or speaks(on, FAMILIES[name])]


ROWS = [
    pytest.param(begun, on, shape, id=f"{begun}->{on}, {shape.name}")
    for begun in sorted(BUILT_IN)
    for on in sorted(BUILT_IN)
    for shape in SHAPES
    if cells(begun, on, shape)
]


@pytest.mark.parametrize(("begun", "on", "shape"), ROWS)
def test_goes_on_through_another_client(talk: Talk, begun: str, on: str, shape: Shape) -> None:
    """Whole or streamed, handed on or stored, the answer goes on through any client, with all that must go back."""
    installed(begun)
    session = talk.session(installed(on))
    with every() as cell:
        for name in cells(begun, on, shape):
            with cell(name):
                _goes_on(talk, begun, session, talk.endpoints[name], shape)


def _goes_on(talk: Talk, begun: str, session: Backend, at: Endpoint, shape: Shape) -> None:
    options = shape.said()
    if shape.options is SEALED and session.name != RESPONSES:  # chat completions have no word for it
        del options["extra_body"]
    answers = [talk.first(begun, at, shape)]
    if load(begun).streams():
        answers.append(talk.first(begun, at, shape, streamed=True))
    assert all(is_stable(answer.message) for answer in answers)
    ways = [way for answer in answers for way in (shape.goes_on(answer.message), stored(shape.goes_on(answer.message)))]
    before = copy.deepcopy(ways)
    said: Any = {"endpoint": at.name, "backend": session, "retry": ONCE, "timeout": 20, **options}
    talk.local.reset()
    if not speaks(session.name, at.family):
        with pytest.raises(RequestRefused) as unspoken:
            query_chat(ways[0], **said)
        others = "'openai-responses'" if at.family.has("responses-only") else "'openai' or 'rest'"
        assert others in (unspoken.value.hint or "")
    elif session.name == PROMPT and (shape.tools or shape.picture):  # a prompt is text
        with pytest.raises((InvalidRequest, UnsupportedOption)):
            query_chat(ways[0], **said)
        assert [] == talk.local.received
    else:
        again = query_chat(ways[0], **said)
        first, *others = [session.encode(make_request(way, endpoint=at.name, **options)) for way in ways]
        for other in others:
            assert first == other
        if shape.tools:
            assert ": 7" in again.text
        _check(talk, begun, session.name, at, shape)
    assert before == ways


def _check(talk: Talk, begun: str, on: str, at: Endpoint, shape: Shape) -> None:
    """Look at the second question on the wire."""
    answer, body = talk.first(begun, at, shape), talk.local.questions[-1].json
    assert "isochat" not in json.dumps(body)
    if on == PROMPT:
        (prompt,) = body["messages"]
        for text in (shape.text, answer.text, "And then?"):
            assert text in prompt["content"]
        return
    earlier = body["input" if on == RESPONSES else "messages"]
    expected = [] if begun == PROMPT else talk.must_return(begun, at, shape)
    if (begun == RESPONSES) != (on == RESPONSES):
        expected = [each for each in expected if each[0] == "call"]  # each language takes back only its own thoughts
    assert expected == sealed(earlier)
    assert json.dumps(answer.text)[1:-1] in json.dumps(earlier)


@pytest.mark.parametrize("name", ["databricks-gpt-5-1", "databricks-gpt-5-1-codex-max"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_of_free_text_goes_on(talk: Talk, name: str, *, streamed: bool) -> None:
    """A tool that takes text as it is, which only the Responses API has, is called and gives its result."""
    tools = [{"type": "custom", "custom": {"name": "run_sql"}}]
    said: Any = {"endpoint": name, "backend": talk.session(installed(RESPONSES)), "retry": ONCE, "tools": tools}
    asked = Message("user", "Use run_sql.")
    answer = query_chat(asked, stream=True, **said).response if streamed else query_chat(asked, **said)
    (call,) = answer.tool_calls
    messages = [asked, answer.message, Message("tool", "7", tool_call_id=call.id)]

    assert ("custom", "run_sql") == (call.type, call.name)
    assert "7" == query_chat(messages, **said).text
    assert "7" == query_chat(stored(messages), **said).text
    assert "custom_tool_call_output" == talk.local.questions[-1].json["input"][-1]["type"]


@pytest.mark.parametrize("mode", ["stream", "asyncio", "async stream"])
@pytest.mark.parametrize("on", sorted(BUILT_IN.keys() - {PROMPT}))
def test_goes_on_in_every_mode(talk: Talk, on: str, mode: str) -> None:
    """Awaited, streamed, or both, the second question is the one that a blocking one would be, and so is its answer."""
    session = talk.session(installed(on))
    begun = RESPONSES if on == RESPONSES else "rest"
    with every() as cell:
        for place, shape in enumerate(SHAPES):
            if not (names := [name for name in cells(begun, on, shape) if speaks(on, FAMILIES[name])]):
                continue
            at = talk.endpoints[names[place % len(names)]]  # each shape with another family: all come up
            messages = stored(shape.goes_on(talk.first(begun, at, shape, streamed=True).message))
            said: Any = {"endpoint": at.name, "backend": session, "retry": ONCE, "timeout": 20, **shape.said()}
            with cell(f"{shape.name}, {at.family.name}"):
                if mode == "stream":
                    again = query_chat(messages, stream=True, **said).response
                else:
                    again = asyncio.run(_awaited(messages, said, streamed=mode == "async stream"))
                sent = talk.local.questions[-1].json
                assert query_chat(messages, **said) == again
                sent.pop("stream", None)
                assert talk.local.questions[-1].json == sent


async def _awaited(messages: list[Any], said: Any, *, streamed: bool) -> ChatResponse:
    if not streamed:
        return await aquery_chat(messages, **said)
    return await (await aquery_chat(messages, stream=True, **said)).collect()


# ── another model ────────────────────────────────────────────────────────────────────────────────────────────────

#: What a model may be told of another's answer on the wire, and what not.
BOUND = {"reasoning", "thoughtSignature", "signature", "encrypted_content"}
LANGUAGES = ("rest", RESPONSES)
MOVES = [
    pytest.param(begun, on, shape, id=f"{begun}->{on}, {shape.name}")
    for begun in LANGUAGES
    for on in LANGUAGES
    for shape in SHAPES
    if any(shape.fits(family, begun) for family in FAMILIES.values())
]


@pytest.mark.parametrize(("begun", "on", "shape"), MOVES)
def test_goes_on_at_another_model(talk: Talk, begun: str, on: str, shape: Shape) -> None:
    """Every model is told what any other said and called, and nothing that only the other could read."""
    with every() as cell:
        for wrote in (name for name, family in FAMILIES.items() if shape.fits(family, begun)):
            for reads, family in FAMILIES.items():
                if wrote != reads and speaks(on, family) and not (shape.picture and "image_url" not in family.parts):
                    with cell(f"{wrote} -> {reads}"):
                        _moves(talk, (begun, talk.endpoints[wrote]), (on, talk.endpoints[reads]), shape)


def _moves(talk: Talk, here: tuple[str, Endpoint], there: tuple[str, Endpoint], shape: Shape) -> None:
    (begun, wrote), (on, reads) = here, there
    answer = talk.first(begun, wrote, shape)
    assert wrote.name == answer.message.origin
    messages = shape.goes_on(answer.message)
    if answer.tool_calls and reads.family.has("thought-signature-echo"):
        _wants_signatures(talk, on, reads, shape, messages)
        messages += [Message("assistant", "It is 7."), Message("user", "And then?")]
    options = shape.said() if reads.family.kind != "agent" else {}
    options = {name: value for name, value in options.items() if name == "tools"}
    session = talk.session(on)
    query_chat(messages, endpoint=reads.name, backend=session, retry=ONCE, timeout=20, **options)
    body = talk.local.questions[-1].json
    ways = (messages, stored(messages))
    one, other = (session.encode(make_request(way, endpoint=reads.name, **options)) for way in ways)

    assert one == other
    earlier = body["input" if on == RESPONSES else "messages"]
    kept = [value for kind, value in sealed(earlier) if kind == "call"]
    assert len(answer.tool_calls) == len(kept) == len(set(kept))
    assert not BOUND & {kind for kind, _ in sealed(earlier)}
    assert json.dumps(answer.text)[1:-1] in json.dumps(earlier)
    assert "isochat" not in json.dumps(body)


def _wants_signatures(talk: Talk, on: str, reads: Endpoint, shape: Shape, messages: list[Any]) -> None:
    """Gemini refuses another's call while its turn lasts, and says so; Google documents what to say instead."""
    said: Any = {"endpoint": reads.name, "backend": talk.session(on), "retry": ONCE, "tools": [*shape.tools]}
    with pytest.raises(RequestRefused, match="thought_signature") as refused:
        query_chat(messages, **said)
    assert "skip_thought_signature_validator" in (refused.value.hint or "")

    signed = [for_gemini(each) if isinstance(each, Message) else each for each in messages]
    assert ": 7" in query_chat(signed, **said).text
    assert ": 7" in query_chat(stored(signed), **said).text


def for_gemini(message: Message) -> Message:
    """An answer whose calls have what Google documents for those that another model made."""
    extra = {"thoughtSignature": "skip_thought_signature_validator"}
    return replace(message, tool_calls=tuple(replace(call, extra=extra) for call in message.tool_calls))
