"""What only LangChain does: the seam that is called, what hangs on it, and each surprise that is worked round.

The tests named `test_surprise_…` drive `ChatDatabricks` alone. They fail when an upgrade mends what they show, which is
the day to look whether the work-round may go.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

langchain = pytest.importorskip(
    "databricks_langchain", reason="the langchain backend needs it: pip install 'isochat[langchain]'"
)
pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

import openai
from databricks.sdk import WorkspaceClient
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langchain_core.tracers.context import collect_runs

from isochat import (
    ConfigurationError,
    Connection,
    Message,
    RateLimited,
    Retry,
    ServiceError,
    StreamInterrupted,
    UnsupportedOption,
    aquery_chat,
    query_chat,
)
from isochat._request import make_request
from isochat.backends.langchain import LangChainBackend
from isochat.local import Fault, LocalEndpoint
from isochat.testing.conformance import ANSWER, MODES, TALK, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

GPT = "databricks-gpt-5-1"
CLAUDE = "databricks-claude-sonnet-4-5"
ONCE = Retry(attempts=1)
AT_ONCE = Retry(attempts=3, first_wait=0.0)
TOOLS = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}]
THINKING: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4000}


@pytest.fixture
def backend(local: LocalEndpoint) -> Iterator[LangChainBackend]:
    with_connection = LangChainBackend(Connection(local.host, local.token))
    yield with_connection
    with_connection.close()


@pytest.fixture
def workspace(local: LocalEndpoint) -> Iterator[Any]:
    made = WorkspaceClient(host=local.host, token=local.token)
    local.reset()  # it has asked the host what logins there are
    yield made
    made.api_client._api_client._session.close()


@pytest.fixture
def llm(workspace: Any) -> Iterator[Any]:
    """The model as anyone makes it, without isochat, with its two retries."""
    made = langchain.ChatDatabricks(model=GPT, workspace_client=workspace)
    yield made
    made.client.close()


def _ask(mode: str, backend: LangChainBackend, messages: Any = "Hi", **said: Any) -> Any:
    """Ask in one of the four modes."""
    said = {"backend": backend, "retry": ONCE, "timeout": 20, **said}
    match mode:
        case "blocking":
            return query_chat(messages, **said)
        case "stream":
            return query_chat(messages, stream=True, **said).response
        case _:
            return asyncio.run(_aask(mode, backend, messages, said))


async def _aask(mode: str, backend: LangChainBackend, messages: Any, said: dict[str, Any]) -> Any:
    try:
        if mode == "asyncio":
            return await aquery_chat(messages, **said)
        return await (await aquery_chat(messages, stream=True, **said)).collect()
    finally:
        if backend._llm is not None:  # it is yours to close
            chat = backend._llm
            while hasattr(chat, "bound"):
                chat = chat.bound
            await chat.async_client.close()


def _events(*texts: str, **about: Any) -> list[bytes]:
    choices = [{"index": 0, "delta": {"role": "assistant", "content": text}} for text in texts]
    choices.append({"index": 0, "delta": {"content": ""}, "finish_reason": "stop"})
    said = [{"id": "x", "created": 1, "model": "m", "choices": [choice], **about} for choice in choices]
    return [*(b"data: " + json.dumps(event).encode() + b"\n\n" for event in said), b"data: [DONE]\n\n"]


def _whole(**message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": "Hi.", **message}
    return {**ANSWER, "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}


class Seen(BaseCallbackHandler):
    """A callback handler that writes down what it hears."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.params: list[Any] = []
        self.tokens: list[str] = []
        self.ended: list[Any] = []
        self.failed: list[BaseException] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **about: Any) -> None:
        self.started.append(messages[0])
        self.params.append(about["invocation_params"])

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: Any, **_: Any) -> None:
        self.ended.append(response)

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.failed.append(error)


# ── the seam ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("mode", "method"), [*zip(MODES, ("invoke", "ainvoke", "stream", "astream"), strict=True)])
def test_the_public_method_is_called(
    mode: str, method: str, backend: LangChainBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What wraps `invoke`, `ainvoke`, `stream` or `astream` sees each call, with LangChain's messages and options."""
    seen: list[Any] = []
    there = getattr(langchain.ChatDatabricks, method)

    def wrapped(self: Any, *args: Any, **said: Any) -> Any:
        seen.append(copy.deepcopy((self.model, args, said)))
        return there(self, *args, **said)

    monkeypatch.setattr(langchain.ChatDatabricks, method, wrapped)
    local.reply(**({"chunks": _events("Hi.")} if "stream" in mode else {"body": _whole()}))
    answer = _ask(mode, backend, endpoint="agent", max_tokens=50, tools=TOOLS, context={"user_id": "u"})

    assert answer.text == "Hi."
    assert seen == [
        (
            "agent",
            ([HumanMessage("Hi")],),
            {"max_tokens": 50, "tools": TOOLS, "extra_body": {"context": {"user_id": "u"}}},
        )
    ]


@pytest.mark.parametrize("mode", MODES)
def test_callbacks_of_yours_see_the_call(mode: str, llm: Any, local: LocalEndpoint) -> None:
    """A handler on the model is told of the start, with the messages and options, of each token, and of the end."""
    llm.callbacks = [seen := Seen()]
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two three", "name": "ada"}]
    answer = _ask(mode, LangChainBackend(llm=llm), talk, endpoint="external-gpt", max_completion_tokens=99)

    assert answer.text == "one two three"
    assert [["system", "human"]] == [[message.type for message in messages] for messages in seen.started]
    assert seen.started[0][1].name == "ada"
    assert [99] == [params["max_completion_tokens"] for params in seen.params]
    assert ["external-gpt"] == [params["model"] for params in seen.params]
    assert ["one two three"] == [ended.generations[0][0].text for ended in seen.ended]
    assert ("stream" in mode) == ("".join(seen.tokens).endswith("one two three"))
    assert len(local.questions) == 1


def test_an_asyncio_callback_hears_of_it(llm: Any) -> None:
    """A handler for asyncio is awaited, on the loop that asks."""
    heard: list[Any] = []

    class Awaited(AsyncCallbackHandler):
        async def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            await asyncio.sleep(0)
            heard.append(asyncio.get_running_loop())

    async def ask() -> Any:
        llm.callbacks = [Awaited()]
        backend = LangChainBackend(llm=llm)
        with contextlib.suppress(ServiceError):
            await aquery_chat("Hi", endpoint=GPT, backend=backend)
            await (await aquery_chat("Hi", endpoint=GPT, backend=backend, stream=True)).collect()
        await llm.async_client.close()
        return asyncio.get_running_loop()

    loop = asyncio.run(ask())

    assert [loop, loop] == heard


@pytest.mark.parametrize("mode", MODES)
def test_a_tracer_around_it_sees_the_call(mode: str, backend: LangChainBackend) -> None:
    """Whatever collects LangChain's runs, LangSmith for one, sees those of the backend by its name as well."""
    with collect_runs() as runs:
        _ask(mode, backend, endpoint=GPT)

    assert ["ChatDatabricks"] == [run.name for run in runs.traced_runs]
    assert "Hi" in str(runs.traced_runs[0].inputs)


def test_a_chain_around_it_is_its_parent(backend: LangChainBackend) -> None:
    """Asked inside a chain, it is a step of that chain."""
    chain = RunnableLambda(lambda question: query_chat(question, endpoint=GPT, backend=backend).text)
    seen = Seen()

    assert chain.invoke("Hi", config={"callbacks": [seen]}) == "Hi"
    assert len(seen.started) == len(seen.ended) == 1


def test_a_failure_is_told_to_callbacks(llm: Any, local: LocalEndpoint) -> None:
    """They hear of an error as LangChain has it; the caller, of the one that it is."""
    llm.callbacks = [seen := Seen()]
    local.order(Fault(status=429, headers={"retry-after": "7"}))
    with pytest.raises(RateLimited) as refused:
        _ask("blocking", LangChainBackend(llm=llm), endpoint=GPT)

    assert refused.value.retry_after == 7
    assert [openai.RateLimitError] == [type(error) for error in seen.failed]


def test_a_handler_may_forbid_it(llm: Any, local: LocalEndpoint) -> None:
    """What a handler that raises says of an answer that came is the caller's to hear, not something to be read past."""

    class Guard(BaseCallbackHandler):
        raise_error = True

        def on_llm_end(self, response: Any, **_: Any) -> None:
            raise PermissionError("not for you")

    llm.callbacks = [Guard()]
    for mode in ("blocking", "stream"):
        with pytest.raises(PermissionError, match="not for you"):
            _ask(mode, LangChainBackend(llm=llm), endpoint=GPT)


def test_raw_is_langchains_own(backend: LangChainBackend) -> None:
    """`raw` is the `AIMessage` that `invoke` gave, which can be stored and goes into the next question."""
    answer = query_chat("Hi", endpoint=GPT, backend=backend)

    assert isinstance(answer.raw, AIMessage)
    assert answer.raw.content == "Hi"
    assert copy.deepcopy(answer) == answer
    assert query_chat([answer.raw, HumanMessage("And?")], endpoint=GPT, backend=backend).text == "And?"


# ── caches ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["blocking", "stream"])
def test_a_model_whose_client_is_closed_says_so(llm: Any, mode: str, local: LocalEndpoint) -> None:
    """What fails above HTTP is not the service's, so it comes as it is."""
    llm.client.close()
    with pytest.raises(RuntimeError, match="closed"):
        _ask(mode, LangChainBackend(llm=llm), endpoint=GPT)

    assert [] == local.questions


@pytest.fixture
def cache() -> Iterator[Any]:
    """A cache for all models."""
    made = InMemoryCache()
    set_llm_cache(made)
    yield made
    set_llm_cache(None)


@pytest.mark.parametrize("mode", ["blocking", "asyncio"])
@pytest.mark.parametrize(
    "said",
    [
        {"endpoint": "databricks-meta-llama-3-3-70b-instruct"},
        {"endpoint": CLAUDE, **THINKING},
        {"endpoint": GPT, "messages": "Use weather.", "tools": [{"type": "function", "function": {"name": "weather"}}],
         "tool_choice": "required"},
        {"endpoint": "doc-sample-with-role"},
    ],
    ids=["text", "thinking", "tools", "bare"],
)  # fmt: skip
def test_a_cache_of_langchains_answers(
    mode: str, said: dict[str, Any], backend: LangChainBackend, local: LocalEndpoint, cache: Any
) -> None:
    """`set_llm_cache` keeps an answer: asked again, nothing is sent, and what LangChain kept of it is said again."""
    said = dict(said)
    messages = said.pop("messages", "Hi")
    if said["endpoint"] == "doc-sample-with-role":
        local.reply(body={"choices": [{"message": {"role": "assistant", "content": "Hi."}}]})
    first, second = (_ask(mode, backend, messages, **said) for _ in range(2))

    assert len(local.questions) == 1
    assert (first.text, first.reasoning, first.finish_reason) == (second.text, second.reasoning, second.finish_reason)
    assert first.model == second.model
    assert [call.parse() for call in first.tool_calls] == [call.parse() for call in second.tool_calls]
    assert (first.usage is None) == (second.usage is None)
    if first.usage is not None and second.usage is not None:
        assert first.usage.total_tokens == second.usage.total_tokens
    # What LangChain does not keep is not made up: the id would be that of its own run.
    assert (second.id, second.created, second.request_id) == (None, None, None)


def test_a_cache_tells_questions_apart(backend: LangChainBackend, local: LocalEndpoint, cache: Any) -> None:
    """Two questions that differ in anything are two, be it a name, an option in `extra_body`, or the endpoint."""
    questions: list[Any] = [
        [{"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "Hi", "name": "ada"}],
        [{"role": "user", "content": "Hi", "name": "bob"}],
    ]
    for messages in questions:
        query_chat(messages, endpoint="external-gpt", backend=backend)
    query_chat("Hi", endpoint="external-gpt", backend=backend, user="ada")
    query_chat("Hi", endpoint="external-gpt", backend=backend, extra_body={"verbosity": "low"})
    query_chat("Hi", endpoint=GPT, backend=backend)
    asked = len(local.questions)
    for messages in questions:
        query_chat(messages, endpoint="external-gpt", backend=backend, timeout=5)

    assert [6, 6] == [asked, len(local.questions)]


def test_a_cache_knows_questions_of_langchain(llm: Any, local: LocalEndpoint, cache: Any) -> None:
    """What was asked without isochat need not be asked again with it."""
    llm.invoke("Hi")
    answer = query_chat("Hi", backend=LangChainBackend(llm=llm))

    assert (answer.text, answer.finish_reason) == ("Hi", "stop")
    assert len(local.questions) == 1


def test_a_cache_may_answer_a_stream(workspace: Any, local: LocalEndpoint, cache: Any) -> None:
    """A model that is told not to stream asks its cache, and so a stream may come of it."""
    chat = langchain.ChatDatabricks(model=GPT, workspace_client=workspace, disable_streaming=True)
    backend = LangChainBackend(llm=chat)
    texts = [_ask("stream", backend, "Hi").text for _ in range(2)]
    chat.client.close()

    assert ["Hi", "Hi"] == texts
    assert [False] == [question.json.get("stream", False) for question in local.questions]


def test_a_cache_for_responses(local: LocalEndpoint, cache: Any) -> None:
    """The same through the Responses API, reasoning and calls included."""
    backend = LangChainBackend(Connection(local.host, local.token), use_responses_api=True)
    sealed = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    tools = [{"type": "function", "function": {"name": "weather"}}]
    said: list[dict[str, Any]] = [{"extra_body": sealed}, {"tools": tools, "tool_choice": "required"}]
    for options in said:
        first, second = (_ask("blocking", backend, "Use weather.", endpoint=GPT, **options) for _ in range(2))
        assert (first.text, first.reasoning) == (second.text, second.reasoning)
        assert [call.name for call in first.tool_calls] == [call.name for call in second.tool_calls]
        assert second.finish_reason is None
    backend.close()

    assert len(local.questions) == 2


# ── a model of yours ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
@pytest.mark.parametrize("mode", MODES)
def test_a_model_of_yours_is_used(mode: str, workspace: Any, local: LocalEndpoint, *, responses: bool) -> None:
    """Its login, its settings and its language are used; it is asked for its own endpoint, and once an attempt."""
    chat = langchain.ChatDatabricks(
        model=GPT, workspace_client=workspace, use_responses_api=responses, extra_params={"user": "ada"}
    )
    backend = LangChainBackend(llm=chat)
    local.order(Fault(status=503, headers={"retry-after": "60"}))
    with pytest.raises(ServiceError):
        _ask(mode, backend)
    if mode in MODES[1::2]:  # for another event loop
        chat = langchain.ChatDatabricks(
            model=GPT, workspace_client=workspace, use_responses_api=responses, extra_params={"user": "ada"}
        )
    answer = _ask(mode, LangChainBackend(llm=chat), "Hello")
    chat.client.close()

    assert (answer.text, answer.endpoint, answer.backend) == ("Hello", GPT, "langchain")
    assert [True, True] == [request.authorized for request in local.received]
    assert ["ada", "ada"] == [question.json["user"] for question in local.questions]
    assert ["/serving-endpoints/responses" if responses else "/serving-endpoints/chat/completions"] * 2 == [
        question.path for question in local.questions
    ]
    assert "yours" in repr(backend)


def test_its_own_questions_are_as_before(llm: Any, local: LocalEndpoint) -> None:
    """Whoever else uses the model, before, after and meanwhile, has its retries and its body."""
    backend = LangChainBackend(llm=llm)
    query_chat("Hi", backend=backend)
    with query_chat("a b c", backend=backend, stream=True) as stream:
        next(stream)
        local.order(Fault(status=500, headers={"retry-after-ms": "1"}))
        alone = llm.invoke("Mine")
    backend.close()

    assert alone.content == "Mine"
    assert len(local.questions) == 4
    assert local.questions[-1].json == {
        "model": GPT,
        "stream": False,
        "messages": [{"role": "user", "content": "Mine"}],
    }
    assert not llm.client.is_closed()


def test_which_endpoint_is_asked(llm: Any, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that names an endpoint goes there; one that names none, to the model's own before the settings'."""
    monkeypatch.setenv("ISOCHAT_ENDPOINT", CLAUDE)
    backend = LangChainBackend(llm=llm)
    answers = [query_chat("Hi", backend=backend), query_chat("Hi", endpoint="external-gpt", backend=backend)]

    assert [GPT, "external-gpt"] == [answer.endpoint for answer in answers]
    assert [GPT, "external-gpt"] == [question.json["model"] for question in local.questions]
    assert llm.model == GPT


@pytest.mark.parametrize("mode", MODES)
def test_bound_tools_go_along(mode: str, llm: Any, local: LocalEndpoint) -> None:
    """What `bind_tools` bound is sent, and called; a question's own tools go before it."""

    def weather(city: str) -> str:
        """The weather in a city."""
        return city

    bound = llm.bind_tools([weather], tool_choice="any").with_config(tags=["mine"])
    answer = _ask(mode, LangChainBackend(llm=bound), "Use weather.")
    (call,) = answer.tool_calls

    assert (call.name, answer.finish_reason) == ("weather", "tool_calls")
    assert local.questions[-1].json["tool_choice"] == "required"


def test_a_questions_tools_go_before_bound_ones(llm: Any, local: LocalEndpoint) -> None:
    """What a question says goes before what is bound, as with `invoke`; nothing of the caller's is changed."""
    theirs = [{"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}]
    bound = llm.bind(tools=theirs, temperature=1.0, extra_body={"verbosity": "low", "context": {"user_id": "x"}})
    mine = copy.deepcopy(TOOLS)
    local.reply(body=_whole())
    query_chat("Hi", endpoint="some", backend=LangChainBackend(llm=bound), tools=mine, context={"user_id": "u"})
    sent = local.questions[-1].json

    assert (mine, theirs[0]["function"]["name"]) == (TOOLS, "g")
    assert sent["tools"] == TOOLS
    assert (sent["temperature"], sent["verbosity"], sent["context"]) == (1.0, "low", {"user_id": "u"})


def test_a_question_goes_before_the_settings_of_the_model(workspace: Any, local: LocalEndpoint) -> None:
    """Where `ChatDatabricks` alone would send its own settings, the question's are sent; else its own are."""
    chat = langchain.ChatDatabricks(
        model=GPT, workspace_client=workspace, temperature=0.1, max_tokens=11, stop=["A"], n=2, extra_params={"seed": 1}
    )
    bound = chat.bind(custom_inputs={"a": 1})
    backend = LangChainBackend(llm=bound)
    for options in ({}, {"temperature": 0.2, "max_tokens": 22, "stop": ["B"], "n": 1, "seed": 2, "top_k": 3}):
        local.reply(body=_whole())
        query_chat("Hi", endpoint="some", backend=backend, **options)
    chat.client.close()
    body: dict[str, Any] = {"model": "some", "messages": [{"role": "user", "content": "Hi"}], "custom_inputs": {"a": 1}}

    assert [question.json for question in local.questions] == [
        {**body, "temperature": 0.1, "max_tokens": 11, "stop": ["A"], "n": 2, "seed": 1},
        {**body, "temperature": 0.2, "max_tokens": 22, "stop": ["B"], "n": 1, "seed": 2, "top_k": 3},
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_subclass_of_yours_sees_the_call(mode: str, workspace: Any, local: LocalEndpoint) -> None:
    """What your subclass changes on the way down goes as it changed it, and what on the way up comes so."""

    class Hiding(langchain.ChatDatabricks):
        """Hides a name from the service, and puts it back."""

        asked: int = 0

        def _hidden(self, messages: Any) -> Any:
            self.asked += 1
            return [m.model_copy(update={"content": m.content.replace("Ada", "X1")}) for m in messages]

        def _shown(self, result: Any) -> Any:
            for generation in result.generations if hasattr(result, "generations") else [result]:
                generation.message.content = generation.message.content.replace("X1", "Ada")
            return result

        def _generate(self, messages: Any, *args: Any, **said: Any) -> Any:
            return self._shown(super()._generate(self._hidden(messages), *args, **said))

        async def _agenerate(self, messages: Any, *args: Any, **said: Any) -> Any:
            return self._shown(await super()._agenerate(self._hidden(messages), *args, **said))

        def _stream(self, messages: Any, *args: Any, **said: Any) -> Any:
            for chunk in super()._stream(self._hidden(messages), *args, **said):
                yield self._shown(chunk)

        async def _astream(self, messages: Any, *args: Any, **said: Any) -> Any:
            async for chunk in super()._astream(self._hidden(messages), *args, **said):
                yield self._shown(chunk)

    chat = Hiding(model="databricks-meta-llama-3-3-70b-instruct", workspace_client=workspace)
    answer = _ask(mode, LangChainBackend(llm=chat), "I am Ada of here", max_tokens=99)
    chat.client.close()

    assert chat.asked == 1
    assert local.questions[0].json["messages"] == [{"role": "user", "content": "I am X1 of here"}]
    assert local.questions[0].json["max_tokens"] == 99
    assert (answer.text, answer.finish_reason) == ("I am Ada of here", "stop")
    assert answer.usage is not None


def test_a_subclass_of_yours_may_hear_enough(workspace: Any, local: LocalEndpoint) -> None:
    """A stream that your subclass ends is at its end, and what it keeps back does not come by another way."""

    class Short(langchain.ChatDatabricks):
        def _stream(self, *args: Any, **said: Any) -> Iterator[Any]:
            for place, chunk in enumerate(super()._stream(*args, **said)):
                if place == 2:
                    return
                yield chunk

    chat = Short(model="databricks-meta-llama-3-3-70b-instruct", workspace_client=workspace)
    local.reply(chunks=_events("one ", "two ", "three"))
    answer = _ask("stream", LangChainBackend(llm=chat))
    chat.client.close()

    assert answer.text == "one two "


@pytest.mark.parametrize("mode", MODES)
def test_a_subclass_of_yours_may_answer_itself(mode: str, workspace: Any, local: LocalEndpoint) -> None:
    """A stand-in for tests, say, that sends nothing at all."""
    said = {"finish_reason": "stop", "model_name": "none"}

    class StandIn(langchain.ChatDatabricks):
        def invoke(self, *_: Any, **__: Any) -> Any:
            return AIMessage("Made up.", response_metadata=said)

        async def ainvoke(self, *_: Any, **__: Any) -> Any:
            return AIMessage("Made up.", response_metadata=said)

        def _stream(self, *_: Any, **__: Any) -> Iterator[Any]:
            yield ChatGenerationChunk(message=AIMessageChunk("Made "))
            yield ChatGenerationChunk(message=AIMessageChunk("up."), generation_info=said)

        async def _astream(self, *_: Any, **__: Any) -> Any:
            for chunk in self._stream():
                yield chunk

    chat = StandIn(model=GPT, workspace_client=workspace)
    answer = _ask(mode, LangChainBackend(llm=chat))
    chat.client.close()

    assert (answer.text, answer.finish_reason, answer.usage) == ("Made up.", "stop", None)
    assert local.received == []


def test_a_subclass_that_fails_is_heard(workspace: Any) -> None:
    """An exception of your own code goes through as it is, though the service has answered."""

    class Failing(langchain.ChatDatabricks):
        def _generate(self, *args: Any, **said: Any) -> Any:
            super()._generate(*args, **said)
            raise LookupError("mine")

    chat = Failing(model=GPT, workspace_client=workspace)
    with pytest.raises(LookupError, match="mine"):
        _ask("blocking", LangChainBackend(llm=chat))
    chat.client.close()


@pytest.mark.parametrize("mode", ["blocking", "asyncio"])
def test_a_model_may_stream_by_itself(mode: str, llm: Any, local: LocalEndpoint) -> None:
    """For a handler that wants tokens, LangChain makes a stream of a question for a whole answer: it is read as one."""

    class Streaming(Seen, _StreamingCallbackHandler):  # what `astream_events` puts on a model
        def tap_output_iter(self, run_id: Any, output: Any) -> Any:
            return output

        def tap_output_aiter(self, run_id: Any, output: Any) -> Any:
            return output

    llm.callbacks = [seen := Streaming()]
    answer = _ask(mode, LangChainBackend(llm=llm), "one two three", endpoint="databricks-meta-llama-3-3-70b-instruct")

    assert (answer.text, answer.finish_reason) == ("one two three", "stop")
    assert len(seen.tokens) > 3
    assert local.questions[0].json["stream"] is True


def test_a_model_may_not_ask_again(llm: Any, local: LocalEndpoint) -> None:
    """How often a question is sent is isochat's to decide: `with_retry` has no say in it."""
    local.order(Fault(status=503, times=None))
    stubborn = llm.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    with pytest.raises(ServiceError) as refused:
        _ask("blocking", LangChainBackend(llm=stubborn))

    assert refused.value.status == 503
    assert len(local.questions) == 1


def test_what_is_no_model_is_refused(llm: Any, local: LocalEndpoint) -> None:
    """A chain that parses the answer is no chat model, and a model has a login and a language already."""
    with pytest.raises(ConfigurationError, match="RunnableSequence"):
        LangChainBackend(llm=llm | RunnableLambda(str))
    with pytest.raises(ConfigurationError, match="leave out the connection"):
        LangChainBackend(Connection(local.host, local.token), llm=llm)
    with pytest.raises(ConfigurationError, match="says otherwise"):
        LangChainBackend(llm=llm, use_responses_api=True)


def test_a_token_of_its_login_is_renewed(local: LocalEndpoint) -> None:
    """A token that is refused is asked for anew, once, though the model itself never would."""
    login = WorkspaceClient(host=local.host, client_id=local.client_id, client_secret=local.client_secret)
    chat = langchain.ChatDatabricks(model=GPT, workspace_client=login)
    login.config.authenticate()
    local._sign_in._issued.clear()
    answer = _ask("blocking", LangChainBackend(llm=chat), retry=AT_ONCE)
    chat.client.close()
    login.api_client._api_client._session.close()

    assert ["AuthenticationFailed"] == [attempt.error for attempt in answer.attempts]
    assert answer.text == "Hi"


# ── a connection ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_logs_in_as_a_machine(local: LocalEndpoint) -> None:
    """OAuth, by the connection: one token for many questions, endpoints and modes, and a new one when it is refused."""
    login = Connection(local.host, client_id=local.client_id, client_secret=local.client_secret)
    backend = LangChainBackend(login)
    for endpoint in (GPT, "external-gpt"):
        for mode in MODES:
            _ask(mode, backend, endpoint=endpoint)
    local._sign_in._issued.clear()
    answer = query_chat("Hi", endpoint=GPT, backend=backend)
    backend.close()

    assert ["AuthenticationFailed"] == [attempt.error for attempt in answer.attempts]
    assert len(local.questions) == 10
    assert len([request for request in local.received if request.path.endswith("/token")]) == 2


def test_nothing_is_asked_but_the_question(backend: LangChainBackend, local: LocalEndpoint) -> None:
    """No discovery, not even once."""
    for mode in MODES:
        _ask(mode, backend, endpoint=GPT)

    assert len(local.received) == len(local.questions) == 4


def test_the_environment_is_somebody_elses(
    backend: LangChainBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither another workspace's login nor what is for OpenAI goes to this host."""
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("DATABRICKS_TOKEN", "canary-token")
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
    monkeypatch.setenv("OPENAI_ORG_ID", "canary-org")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: canary-header")
    query_chat("Hi", endpoint=GPT, backend=backend)
    (sent,) = local.received

    assert sent.authorized
    assert not [value for value in sent.headers.values() if "canary" in value]


def test_callbacks_see_no_token(backend: LangChainBackend, local: LocalEndpoint) -> None:
    """Neither a run nor what it failed with holds the token."""
    local.order(Fault(status=400))
    with collect_runs() as runs, pytest.raises(ServiceError) as refused:
        query_chat("Hi", endpoint=GPT, backend=backend)
    cause: Any = refused.value.__cause__
    told = [str(run.__dict__) for run in runs.traced_runs] + [str(dict(cause.response.request.headers))]

    assert not [said for said in told if local.token in said]


def test_many_threads_make_one_client(local: LocalEndpoint) -> None:
    """Sixty threads at a fresh backend share one client, which LangChain by itself makes over and over."""
    backend = LangChainBackend(Connection(local.host, local.token))
    ready = threading.Barrier(60)

    def ask(place: int) -> tuple[str, int]:
        ready.wait()
        return query_chat(f"number {place}", endpoint=GPT, backend=backend).text, id(backend._models.get().client)

    with ThreadPoolExecutor(60) as pool:
        told = list(pool.map(ask, range(60)))
    backend.close()

    assert [f"number {place}" for place in range(60)] == [text for text, _ in told]
    assert len({client for _, client in told}) == 1


def test_a_forked_child_begins_anew(backend: LangChainBackend) -> None:
    """The child asks with a client of its own, and the parent goes on."""
    query_chat("Hi", endpoint=GPT, backend=backend)
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)

    def child() -> None:
        theirs.send(query_chat("From the child", endpoint=GPT, backend=backend).text)
        backend.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    said = ours.recv() if ours.poll(20) else None
    process.join(20)
    ours.close()
    theirs.close()

    assert said == "From the child"
    assert query_chat("Hi", endpoint=GPT, backend=backend).text == "Hi"


def test_a_connection_of_a_stream_is_used_again() -> None:
    """A stream is read to its end, past the `[DONE]` where LangChain stops, and so its connection serves the next."""
    with LocalEndpoint() as own:
        backend = LangChainBackend(Connection(own.host, own.token))
        for _ in range(3):
            assert query_chat("one two", endpoint=GPT, backend=backend, stream=True).response.text == "one two"

        assert own.open_connections == 1
        backend.close()


def test_which_options_responses_carry(local: LocalEndpoint) -> None:
    """What the Responses API has no place for is refused before anything is sent, with where there is one."""
    backend = LangChainBackend(Connection(local.host, local.token), use_responses_api=True)
    with pytest.raises(UnsupportedOption, match="cannot carry n") as refused:
        query_chat("Hi", endpoint=GPT, backend=backend, n=2)

    assert "langchain" not in refused.value.carried_by
    assert "without use_responses_api" in str(refused.value)
    assert local.received == []


# ── what is lost on the way, and is not ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", MODES)
def test_every_option_arrives_at_once(mode: str, backend: LangChainBackend, local: LocalEndpoint) -> None:
    """The body is that of plain HTTP, whatever is said: names, parts, signatures, calls with more beside them."""
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm.", "signature": "c2ln"}]}
    call = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": ""}, "thoughtSignature": "c2ln"}
    talk: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        *TALK,
        {"role": "assistant", "content": [thought, {"type": "text", "text": "Yes."}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "1", "cache_control": {"a": "b"}}]},
        {"role": "user", "content": "And?", "name": "ada"},
    ]
    before = copy.deepcopy(talk)
    local.reply(**({"chunks": _events("Hi.")} if "stream" in mode else {"body": _whole()}))
    _ask(mode, backend, talk, endpoint="some-claude", **{**VALUES, "stop": []})
    request = make_request(before, endpoint="some-claude", stream="stream" in mode, **{**VALUES, "stop": []})

    assert before == talk
    assert LangChainBackend.render(request) == local.questions[0].json


@pytest.mark.parametrize("mode", MODES)
def test_what_it_stumbles_over_is_read(mode: str, backend: LangChainBackend, local: LocalEndpoint) -> None:
    """An answer that LangChain cannot read is an answer all the same; then `raw` is the bytes."""
    odd = {"id": None, "choices": [{"message": {"content": "Hi."}, "finish_reason": None}]}
    if "stream" in mode:
        delta = {"content": "Hi."}
        events = [{"choices": [{"index": 0, "delta": None}]}, {"choices": [{"delta": delta, "finish_reason": "stop"}]}]
        local.reply(chunks=[b"data: " + json.dumps(event).encode() + b"\n\n" for event in events])
    else:
        local.reply(body=odd)
    answer = _ask(mode, backend, endpoint=GPT)

    assert answer.text == "Hi."
    if "stream" not in mode:
        assert json.loads(answer.raw) == odd
        assert answer.finish_reason is None


def test_usage_is_not_added_up(backend: LangChainBackend, local: LocalEndpoint) -> None:
    """Usage that stands on every chunk is counted once, as it was sent last."""
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    local.reply(chunks=_events("a", "b", "c", "d", usage=usage))
    answer = query_chat("Hi", endpoint=GPT, backend=backend, stream=True).response

    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (9, 13)


# ── surprises ────────────────────────────────────────────────────────────────────────────────────────────────────


def _alone(llm: Any, local: LocalEndpoint, **reply: Any) -> Any:
    local.reply(**reply)
    return [*llm.stream("Hi")] if "chunks" in reply else llm.invoke("Hi")


def test_surprise_content_is_json(llm: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone makes one text of a list of parts: brackets and all."""
    parts = [{"type": "reasoning", "summary": []}, {"type": "text", "text": "Hi."}]

    assert _alone(llm, local, body=_whole(content=parts)).content == json.dumps(parts)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"choices": [{"message": {"content": "Hi."}}]}, KeyError),
        ({"choices": [], "id": "x"}, IndexError),
        ({"predictions": ["Hi."]}, TypeError),
        ({"error_code": "INTERNAL_ERROR", "message": "Oh."}, TypeError),
        (b"<html>", AttributeError),
    ],
    ids=["no role", "no choice", "predictions", "an error", "a web page"],
)
def test_surprise_it_stumbles(llm: Any, local: LocalEndpoint, body: Any, error: type[Exception]) -> None:
    """`ChatDatabricks` alone raises whatever it stumbled over: an error under a 200 is a `TypeError`."""
    with pytest.raises(error):
        _alone(
            llm, local, body=body, headers={"content-type": "text/html" if body == b"<html>" else "application/json"}
        )


def test_surprise_reasoning_is_lost(llm: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone drops reasoning, the id, log probabilities and all else that it has no field for."""
    answer = _alone(llm, local, body=_whole(reasoning_content="Hm.", annotations=[{"url": "x"}]))

    assert "Hm." not in str(answer.model_dump())
    assert "chatcmpl-1" not in str(answer.model_dump())


def test_surprise_usage_is_added_up(llm: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone multiplies the usage of a stream by its chunks."""
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    chunks = _alone(llm, local, chunks=_events("a", "b", "c", usage=usage))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk

    assert total.usage_metadata["input_tokens"] == 9 * 5


def test_surprise_an_error_event_is_swallowed(llm: Any, backend: LangChainBackend, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone ends a stream that the service broke off, or that was cut, as if it were whole."""
    complaint = b'data: {"error_code": "INTERNAL_ERROR", "message": "Oh."}\n\n'
    for last in ([complaint], []):
        alone = _alone(llm, local, chunks=[_events("Hel")[0], *last])
        assert "".join(chunk.content for chunk in alone) == "Hel"
        local.reply(chunks=[_events("Hel")[0], *last])
        with pytest.raises(StreamInterrupted):
            list(query_chat("Hi", endpoint=GPT, backend=backend, stream=True))


def test_surprise_only_the_first_choice_is_streamed(llm: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone gives the first choice of each chunk, whichever it is."""
    choices = [{"index": place, "delta": {"content": text}} for place, text in enumerate(("a", "b"))]
    chunk = b"data: " + json.dumps({"choices": choices}).encode() + b"\n\n"

    assert "".join(said.content for said in _alone(llm, local, chunks=[chunk])) == "a"


def test_surprise_names_and_signatures_are_dropped(llm: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone sends no name, and a tool call without what stood beside it."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{ }"}, "thoughtSignature": "s"}
    local.reply(body=_whole())
    llm.invoke([HumanMessage("Hi", name="ada"), AIMessage("", additional_kwargs={"tool_calls": [call]})])
    user, assistant = local.questions[-1].json["messages"]

    assert "name" not in user
    assert assistant["tool_calls"] == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def test_surprise_an_unknown_setting_is_nothing(workspace: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone takes any keyword where it is made, and sends those that it knows."""
    chat = langchain.ChatDatabricks(model=GPT, workspace_client=workspace, top_p=0.3)
    local.reply(body=_whole())
    chat.invoke("Hi")
    chat.client.close()

    assert "top_p" not in local.questions[-1].json


def test_surprise_its_settings_go_before_the_question(workspace: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone sends the temperature that it was made with, whatever it is told."""
    chat = langchain.ChatDatabricks(model=GPT, workspace_client=workspace, temperature=0.5)
    local.reply(body=_whole())
    chat.invoke("Hi", temperature=0.9)
    chat.client.close()

    assert local.questions[-1].json["temperature"] == 0.5


def test_surprise_custom_inputs_replace_the_rest(llm: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone drops `extra_body` where there are custom inputs."""
    local.reply(body=_whole())
    llm.invoke("Hi", extra_body={"verbosity": "low"}, custom_inputs={"a": 1})

    assert "verbosity" not in local.questions[-1].json


def test_surprise_metadata_cannot_be_said(llm: Any) -> None:
    """`invoke` alone takes `metadata` for its own, so OpenAI's of that name goes in `extra_body`."""
    with pytest.raises(TypeError, match="metadata"):
        llm.invoke("Hi", metadata={"a": "b"})


def test_surprise_strict_is_taken_out(llm: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone takes `strict` out of the caller's own tools."""
    mine = copy.deepcopy(TOOLS)
    local.reply(body=_whole())
    llm.invoke("Hi", model="some-claude", tools=mine)

    assert "strict" not in mine[0]["function"]


def test_surprise_it_asks_three_times(llm: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone asks up to three times, which would multiply with our own attempts."""
    local.order(Fault(status=500, headers={"retry-after-ms": "1"}, times=None))
    with pytest.raises(openai.InternalServerError):
        llm.invoke("Hi")

    assert len(local.questions) == 3


def test_surprise_a_call_goes_back_twice(workspace: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone sends each call of its own answer twice when that goes back through the Responses API."""
    chat = langchain.ChatDatabricks(model=GPT, workspace_client=workspace, use_responses_api=True)
    tools = [{"type": "function", "function": {"name": "weather"}}]
    first = chat.invoke("Use weather.", tools=tools, tool_choice="required")
    with contextlib.suppress(openai.APIStatusError):
        chat.invoke([HumanMessage("Use weather."), first, HumanMessage("And?")])
    chat.client.close()

    sent = [item["call_id"] for item in local.questions[-1].json["input"] if item.get("type") == "function_call"]
    assert [sent[0], sent[0]] == sent


def test_surprise_a_failed_response_is_no_failure(workspace: Any, local: LocalEndpoint) -> None:
    """`ChatDatabricks` alone ends a stream of the Responses API that failed as if it were whole."""
    chat = langchain.ChatDatabricks(model=GPT, workspace_client=workspace, use_responses_api=True)
    delta = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "delta": "Hel"}
    failed = {"type": "response.failed", "response": {"status": "failed", "error": {"message": "Oh."}}}
    local.reply(chunks=[b"data: " + json.dumps(event).encode() + b"\n\n" for event in (delta, failed)])
    texts = [chunk.text for chunk in chat.stream("Hi")]
    chat.client.close()

    assert "".join(texts) == "Hel"


def test_the_name_of_a_speaker_is_kept(backend: LangChainBackend, local: LocalEndpoint) -> None:
    """A message of ours with a name arrives with it."""
    local.reply(body=_whole())
    query_chat([Message("user", "Hi", name="ada")], endpoint="some", backend=backend)

    assert local.questions[-1].json["messages"] == [{"role": "user", "content": "Hi", "name": "ada"}]
