"""Any client of the OpenAI family can be handed in: it is the one that is called, and what it does above is undone.

Each test is asked of both backends (`openai`, `openai-responses`), and where it says so in each of the four modes, with
the OpenAI client, with what the Databricks SDK makes of it, and with databricks-openai's. The tests named
`test_surprise_…` drive a client alone: they fail when an upgrade mends it.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import importlib.util
import json
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

openai = pytest.importorskip("openai", reason="the backends need openai: pip install 'isochat[openai]'")
pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import (
    ConnectionFailed,
    DeadlineExceeded,
    Message,
    RateLimited,
    Retry,
    ServiceError,
    StreamInterrupted,
    aquery_chat,
    query_chat,
)
from isochat.backends.openai import OpenAIBackend
from isochat.backends.openai_responses import OpenAIResponsesBackend
from isochat.local import Fault, LocalEndpoint
from isochat.testing.conformance import MODES, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isochat.backends._openai import OpenAIClient

GPT = "databricks-gpt-5-1"
ONCE = Retry(attempts=1)
AT_ONCE = Retry(attempts=3, first_wait=0.0)
STRICT = {
    "name": "f",
    "strict": True,
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS = [{"type": "function", "function": STRICT}]

ASYNC = MODES[1::2]
NEEDS = {
    "OpenAI": ("openai",),
    "get_open_ai_client": ("databricks.sdk", "httpx"),
    "DatabricksOpenAI": ("databricks_openai",),
}


def _missing(modules: tuple[str, ...]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name.partition(".")[0]) is None]


class Yours:
    """Clients of one kind, made as anyone makes them, with retries of their own; closed at the end of the test."""

    def __init__(self, kind: str, local: LocalEndpoint, **login: str) -> None:
        self.kind, self.local = kind, local
        self._made: list[Any] = []
        if kind != "OpenAI":
            self._workspace = importlib.import_module("databricks.sdk").WorkspaceClient(
                host=local.host, **(login or {"token": local.token})
            )
            local.reset()  # it has asked the host what logins there are

    def make(self, **said: Any) -> Any:
        match self.kind:
            case "OpenAI":
                made = openai.OpenAI(base_url=f"{self.local.host}/serving-endpoints", api_key=self.local.token, **said)
            case "get_open_ai_client":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    made = self._workspace.serving_endpoints.get_open_ai_client(**said)
            case _:
                import databricks_openai

                made = databricks_openai.DatabricksOpenAI(workspace_client=self._workspace, **said)
        self._made.append(made)
        return made

    def make_async(self, **said: Any) -> Any:
        if self.kind == "OpenAI":
            return openai.AsyncOpenAI(base_url=f"{self.local.host}/serving-endpoints", api_key=self.local.token, **said)
        import databricks_openai

        return databricks_openai.AsyncDatabricksOpenAI(workspace_client=self._workspace, **said)

    def close(self) -> None:
        for client in self._made:
            client.close()
        if self.kind != "OpenAI":
            self._workspace.api_client._api_client._session.close()


def _clients(kind: str, local: LocalEndpoint) -> Iterator[Yours]:
    if missing := _missing(NEEDS[kind]):
        pytest.skip(f"{kind} needs {', '.join(missing)}")
    clients = Yours(kind, local)
    yield clients
    clients.close()


@pytest.fixture(params=sorted(NEEDS))
def yours(request: pytest.FixtureRequest, local: LocalEndpoint) -> Iterator[Yours]:
    """Clients of each kind."""
    yield from _clients(request.param, local)


@pytest.fixture
def theirs(local: LocalEndpoint) -> Iterator[Yours]:
    """Clients of databricks-openai."""
    pytest.importorskip("databricks_openai", reason="needs databricks-openai: pip install 'isochat[langchain]'")
    clients = Yours("DatabricksOpenAI", local)
    yield clients
    clients.close()


@pytest.fixture(params=[OpenAIBackend, OpenAIResponsesBackend], ids=["chat", "responses"])
def kind(request: pytest.FixtureRequest) -> type[OpenAIClient]:
    """Which of the backends."""
    made: type[OpenAIClient] = request.param
    return made


class Ask:
    """Asks in one of the four modes, with a client made for it."""

    def __init__(self, mode: str, kind: type[OpenAIClient], yours: Yours) -> None:
        self.mode, self.kind, self.yours = mode, kind, yours

    def __call__(self, messages: Any = "Hi", *, hang: Any = None, **options: Any) -> Any:
        said: dict[str, Any] = {"endpoint": GPT, "retry": ONCE, "timeout": 20, **options}
        if self.mode in ASYNC:
            return asyncio.run(self._awaited(messages, hang, said))
        client = self.yours.make()
        if hang is not None:
            hang(client)
        backend = self.kind(client=client)
        if self.mode == "stream":
            return query_chat(messages, backend=backend, stream=True, **said).response
        return query_chat(messages, backend=backend, **said)

    async def _awaited(self, messages: Any, hang: Any, said: dict[str, Any]) -> Any:
        async with await asyncio.to_thread(self.yours.make_async) as client:
            if hang is not None:
                hang(client)
            backend = self.kind(async_client=client)
            if self.mode == "async stream":
                return await (await aquery_chat(messages, backend=backend, stream=True, **said)).collect()
            return await aquery_chat(messages, backend=backend, **said)


# The Databricks SDK makes no client for asyncio.
WAYS = [(kind, mode) for kind in NEEDS for mode in MODES if (kind, mode in ASYNC) != ("get_open_ai_client", True)]


@pytest.fixture(params=WAYS, ids=", ".join)
def ask(request: pytest.FixtureRequest, kind: type[OpenAIClient], local: LocalEndpoint) -> Iterator[Ask]:
    """Each kind of client in each of the modes it has."""
    made, mode = request.param
    for clients in _clients(made, local):
        yield Ask(mode, kind, clients)


# ── it is used as it is ──────────────────────────────────────────────────────────────────────────────────────────


def test_it_answers(ask: Ask, local: LocalEndpoint) -> None:
    """A client that is handed in answers, with its own login, in one request, and is not closed."""
    answer = ask("Hello")

    assert ("Hello", "stop") == (answer.text, answer.finish_reason)
    assert [True] == [request.authorized for request in local.received]


def test_it_asks_once_an_attempt(ask: Ask, local: LocalEndpoint) -> None:
    """Its retries are isochat's, after a refusal and after a broken connection, and its own are not waited for."""
    local.order(Fault(status=503, headers={"retry-after": "60"}), Fault(reset=True), Fault(status=429))
    for error in (ServiceError, ConnectionFailed, RateLimited):
        with pytest.raises(error):
            ask(retry=ONCE)
    assert ask().text == "Hi"

    assert len(local.questions) == 4


def test_its_own_questions_are_as_before(kind: type[OpenAIClient], yours: Yours, local: LocalEndpoint) -> None:
    """Whoever else uses the client, before, after and meanwhile, has its own retries and its own body."""
    client = yours.make(max_retries=1)
    before = repr(client.max_retries)
    backend = kind(client=client)
    query_chat("Hi", endpoint=GPT, backend=backend)
    local.reset()
    with query_chat("a b c", endpoint=GPT, backend=backend, stream=True) as stream:
        next(stream)
        local.order(Fault(status=500, headers={"retry-after-ms": "1"}))
        alone = client.chat.completions.create(model=GPT, messages=[{"role": "user", "content": "Mine"}])
    backend.close()

    assert alone.choices[0].message.content == "Mine"
    assert len(local.questions) == 3
    assert local.questions[-1].json == {"model": GPT, "messages": [{"role": "user", "content": "Mine"}]}
    assert before == repr(client.max_retries)
    assert client.max_retries == 1
    assert not client.is_closed()


def test_what_hangs_on_the_one_client_sees_the_call(
    ask: Ask, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracer that wraps the method of this one object, as `wrap_openai` of LangSmith does, sees the call."""
    seen: list[dict[str, Any]] = []

    def trace(client: Any) -> None:
        traced = client.chat.completions if ask.kind is OpenAIBackend else client.responses
        if client.chat is not client.chat:  # databricks-openai's is another one each time: nothing can hang on it
            traced = type(traced)
        create = traced.create

        def wrapped(*args: Any, **said: Any) -> Any:
            seen.append(said)
            return create(*args, **said)

        monkeypatch.setattr(traced, "create", wrapped)

    answer = ask(hang=trace, max_tokens=50)

    assert answer.text == "Hi"
    assert [GPT] == [said["model"] for said in seen]
    assert 50 in seen[0].values()
    assert len(local.questions) == 1
    assert local.token not in str(seen)


def test_a_subclass_of_yours_has_its_say(local: LocalEndpoint) -> None:
    """What your own subclass changes on the way down goes as it changed it: names that it hides stay hidden."""

    class Hiding(importlib.import_module("openai.resources.chat.completions").Completions):
        def create(self, *, messages: Any, **said: Any) -> Any:
            hidden = [{**turn, "content": turn["content"].replace("Ada", "somebody")} for turn in messages]
            return super().create(messages=hidden, **{**said, "max_tokens": 60})

    class Mine(openai.OpenAI):
        @property
        def chat(self) -> Any:
            chat = super().chat
            chat.completions = Hiding(self)
            return chat

    with Mine(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client:
        backend = OpenAIBackend(client=client)
        answer = query_chat("I am Ada.", endpoint=GPT, backend=backend, max_tokens=50, tools=TOOLS)

    assert answer.text == "I am somebody."
    assert local.questions[-1].json["max_tokens"] == 60
    assert local.questions[-1].json["tools"] == TOOLS


def test_a_wrapper_may_ask_something_else_first(local: LocalEndpoint) -> None:
    """What a wrapper asks another model before, a moderation say, is not taken for the answer; asking twice is."""
    other = "databricks-gpt-oss-120b"
    with openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as client:
        completions = client.chat.completions
        create = completions.create

        def stubborn(**said: Any) -> Any:
            create(model=other, messages=[{"role": "user", "content": "Is it fine?"}])
            try:
                return create(**said)
            except openai.InternalServerError:
                return create(**said)

        completions.create = stubborn
        backend = OpenAIBackend(client=client)
        answer = query_chat("Hi", endpoint=GPT, backend=backend)
        local.order(Fault(), Fault(status=503))
        with pytest.raises(ServiceError) as refused:
            query_chat("Hi", endpoint=GPT, backend=backend, retry=ONCE)

    assert answer.text == "Hi"
    assert refused.value.status == 503
    assert [other, GPT, other, GPT] == [question.json["model"] for question in local.questions]


def test_no_redirect_is_followed(ask: Ask, local: LocalEndpoint) -> None:
    """A token goes to its own host only, whatever the client would follow by itself."""
    with LocalEndpoint() as other:
        local.reply(status=307, body=b"", headers={"location": f"{other.host}/serving-endpoints/chat/completions"})
        with pytest.raises(ServiceError, match="redirects"):
            ask()

        assert other.received == []


def test_nothing_outlives_its_deadline(ask: Ask, local: LocalEndpoint) -> None:
    """The client's own timeout is per read, and 600 seconds; the question's is for all of it."""
    local.order(Fault(drip=0.2))
    begun = time.monotonic()
    with pytest.raises((DeadlineExceeded, StreamInterrupted)):
        ask(" ".join(["word"] * 40), timeout=0.6)

    assert time.monotonic() - begun < 2


def test_the_token_is_never_told(ask: Ask, local: LocalEndpoint) -> None:
    """Neither an error nor anything that hangs on its causes holds the token of a Databricks client."""
    local.order(Fault(status=401))
    with pytest.raises(ServiceError) as refused:
        ask()
    error: BaseException | None = refused.value
    while error is not None:
        request = getattr(error, "request", None)
        told = f"{error!r} {getattr(error, '__notes__', '')}"
        if ask.yours.kind != "OpenAI":  # that one holds its key, and so does each of its requests
            told += "" if request is None else str(dict(request.headers))
        assert local.token not in told
        error = error.__cause__


# ── what it does to a question ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model", ["some-claude", "some-gpt"])
def test_the_question_arrives_as_it_was_meant(ask: Ask, local: LocalEndpoint, model: str) -> None:
    """Tools keep their `strict`, ids their length, an empty answer stays empty; the caller's own objects stay whole."""
    call = {"id": "c" * 80, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c" * 80, "content": "Done."},
    ]
    given = copy.deepcopy({"messages": asked, "tools": TOOLS, "metadata": {"strict": "yes"}})
    before = copy.deepcopy(given)
    expected = _whole() if "stream" not in ask.mode else {"chunks": [_piece()]}
    if ask.kind is OpenAIResponsesBackend:
        expected = {"body": _response()} if "stream" not in ask.mode else {"chunks": [_completed()]}
    local.reply(**expected)
    ask(given["messages"], endpoint=model, tools=given["tools"], metadata=given["metadata"])
    sent = local.questions[-1].json

    assert before == given
    assert sent == ask.kind.render(_request(before, model, stream="stream" in ask.mode))


def test_every_option_arrives(kind: type[OpenAIClient], yours: Yours, local: LocalEndpoint) -> None:
    """All options at once arrive through it as they do through a client of isochat's own."""
    options = {name: value for name, value in VALUES.items() if name in kind.carries}
    options.pop("max_completion_tokens")
    local.reply(body=_response() if kind is OpenAIResponsesBackend else _whole()["body"])
    query_chat("Hi", endpoint="some-claude", backend=kind(client=yours.make()), retry=ONCE, **options)

    request = _request({"messages": "Hi", **options}, "some-claude", stream=False)
    assert kind.render(request) == local.questions[-1].json


def test_ids_are_not_cut(yours: Yours, local: LocalEndpoint) -> None:
    """An id longer than 64 characters is the service's own; databricks-openai would cut it."""
    local.reply(body={**_response(), "id": "resp_" + "x" * 80})
    answer = query_chat("Hi", endpoint=GPT, backend=OpenAIResponsesBackend(client=yours.make()), retry=ONCE)

    assert answer.id == "resp_" + "x" * 80
    assert answer.raw.id == answer.id


def test_its_own_answer_goes_on(ask: Ask, local: LocalEndpoint) -> None:
    """An answer's message goes back as it came, through it as through any other client."""
    first = ask("Hello")
    second = ask([Message("user", "Hello"), first.message, Message("user", "And then?")])

    assert second.text == "And then?"
    assert len(local.questions[-1].json["messages" if ask.kind is OpenAIBackend else "input"]) == 3


# ── its login ────────────────────────────────────────────────────────────────────────────────────────────────────


def _machine(local: LocalEndpoint) -> Yours:
    return Yours("DatabricksOpenAI", local, client_id=local.client_id, client_secret=local.client_secret)


@pytest.mark.parametrize("mode", MODES)
def test_its_login_is_renewed(mode: str, kind: type[OpenAIClient], theirs: Yours, local: LocalEndpoint) -> None:
    """A token that is refused is asked for anew, once, though the client itself never would."""
    machine = _machine(local)

    def expire(client: Any) -> None:
        client._workspace_client.config.authenticate()
        local._sign_in._issued.clear()

    answer = Ask(mode, kind, machine)(hang=expire, retry=AT_ONCE)
    machine.close()

    assert answer.text == "Hi"
    assert ["AuthenticationFailed"] == [attempt.error for attempt in answer.attempts]
    assert len([request for request in local.received if request.path.endswith("/token")]) == 2


def test_logging_in_never_blocks_the_loop(kind: type[OpenAIClient], theirs: Yours, local: LocalEndpoint) -> None:
    """The token of databricks-openai's asyncio client is fetched off the event loop, where alone it would block it."""
    blockbuster = pytest.importorskip("blockbuster")
    machine = _machine(local)

    async def ask() -> list[str]:
        async with await asyncio.to_thread(machine.make_async) as client:
            backend = kind(async_client=client)
            with blockbuster.blockbuster_ctx():
                whole = await aquery_chat("Hi", endpoint=GPT, backend=backend)
                stream = await aquery_chat("Hi", endpoint=GPT, backend=backend, stream=True)
                return [whole.text, (await stream.collect()).text]

    texts = asyncio.run(ask())
    machine.close()

    assert ["Hi", "Hi"] == texts
    assert len([request for request in local.received if request.path.endswith("/token")]) == 1


# ── surprises ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_surprise_it_cannot_be_copied(theirs: Yours, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """`with_options` of databricks-openai's client looks for another login, and fails even if it finds one."""
    monkeypatch.setenv("DATABRICKS_HOST", local.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", "another")
    with pytest.raises(TypeError, match="not iterable"):
        theirs.make().with_options(max_retries=0)


def test_surprise_strict_is_taken_from_the_callers_tools(theirs: Yours, local: LocalEndpoint) -> None:
    """databricks-openai's client alone changes the caller's own tools, unless the model's name has "gpt" in it."""
    mine = copy.deepcopy(TOOLS)
    local.reply(**_whole())
    theirs.make().chat.completions.create(model="some-claude", messages=[_user()], tools=mine)

    assert "strict" not in mine[0]["function"]
    assert "strict" not in local.questions[-1].json["tools"][0]["function"]


def test_surprise_an_empty_answer_is_filled(theirs: Yours, local: LocalEndpoint) -> None:
    """databricks-openai's client alone writes a blank into the caller's own message."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    mine: Any = [_user(), {"role": "assistant", "content": None, "tool_calls": [call]}]
    local.reply(**_whole())
    theirs.make().chat.completions.create(model="some-claude", messages=mine)

    assert mine[1]["content"] == " "


def test_surprise_ids_are_cut(theirs: Yours, local: LocalEndpoint) -> None:
    """databricks-openai's client alone cuts the id of a response."""
    local.reply(body={**_response(), "id": "resp_" + "x" * 80})

    assert len(theirs.make().responses.create(model=GPT, input="Hi").id) == 64


def test_surprise_it_logs_in_on_the_loop(theirs: Yours, local: LocalEndpoint) -> None:
    """databricks-openai's asyncio client alone asks for its token on the event loop, with a blocking request."""
    blockbuster = pytest.importorskip("blockbuster")
    machine = _machine(local)

    async def ask() -> None:
        async with await asyncio.to_thread(machine.make_async, max_retries=0) as client:
            with blockbuster.blockbuster_ctx():
                await client.chat.completions.create(model=GPT, messages=[_user()])

    with pytest.raises(openai.APIConnectionError) as failed:
        asyncio.run(ask())
    machine.close()

    assert isinstance(failed.value.__cause__, blockbuster.BlockingError)


# ── what is said ─────────────────────────────────────────────────────────────────────────────────────────────────


def _user() -> Any:
    return {"role": "user", "content": "Hi"}


def _request(said: dict[str, Any], endpoint: str, *, stream: bool) -> Any:
    from isochat._request import make_request

    return make_request(endpoint=endpoint, stream=stream, **said)


def _whole() -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hi."}
    return {"body": {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}}


def _piece() -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


def _response() -> dict[str, Any]:
    text = {"type": "output_text", "text": "Hi.", "annotations": []}
    item = {"id": "m", "type": "message", "status": "completed", "role": "assistant", "content": [text]}
    return {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": [item]}


def _completed() -> bytes:
    return b"data: " + json.dumps({"type": "response.completed", "response": _response()}).encode() + b"\n\n"
