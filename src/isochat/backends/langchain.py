"""The `langchain` backend: LangChain's `ChatDatabricks`, by `invoke`, `stream`, `ainvoke` and `astream`.

The conversation goes in as LangChain's messages and the options as keywords, so that what hangs on the model (a
callback, a tracer, a cache, your subclass) sees the call as it is. What `ChatDatabricks` loses on the way down (names,
signatures, `strict`) is put back beneath it, and what it loses of the answer (parts, reasoning, all choices but the
first, the error in the middle of a stream) is read from the bytes beneath it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from isochat import _sse, _wire
from isochat._request import read_messages
from isochat.backends import _httpx, _line
from isochat.backends._base import EVERYTHING, Backend
from isochat.backends._line import on
from isochat.backends._openai import ahold, hold, not_for_this_host, uncover, ways_to
from isochat.backends._over_responses import OverResponses
from isochat.backends._sessions import PerLoop, PerProcess
from isochat.backends._workspace import workspace
from isochat.errors import (
    ChatError,
    ConfigurationError,
    InvalidRequest,
    MalformedReply,
    ServiceError,
    UnsupportedOption,
)
from isochat.transports import finite
from isochat.transports.deadline import close_at_exit, keep_deadlines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
    from typing import Self

    from isochat._connection import Connection
    from isochat._types import ChatChunk, ChatRequest, ChatResponse, Message

_END = object()
_ENDPOINTS = 100  # whose models are kept
_DEEPEST = 20  # that anything is bound to a model
# Of a `ChatDatabricks`; there they stand above what a question says.
_SETTINGS = ("temperature", "max_tokens", "stop", "n")


@dataclass(frozen=True, slots=True)
class _Model:
    """What is invoked for an endpoint, the `ChatDatabricks` in it, and what is bound around that."""

    runnable: Any
    chat: Any
    bound: dict[str, Any]

    @property
    def is_yours(self) -> bool:
        """Whether it is of a class that may say something else than the service did."""
        return type(self.chat).__module__.partition(".")[0] != "databricks_langchain"


@dataclass(frozen=True, slots=True)
class _Models:
    """The model of each endpoint, the client beneath them, and whose login is put on beneath that."""

    of: Callable[[str], _Model]
    client: Any
    login: Connection | None


class LangChainBackend(Backend):
    """LangChain's `ChatDatabricks`, to `/serving-endpoints/chat/completions`, or to `/serving-endpoints/responses`.

    `use_responses_api=True` asks through the Responses API, as it does in `ChatDatabricks`.

    `llm` may be a ready `ChatDatabricks` of yours (or a subclass), also as `bind_tools()`, `bind()` or `with_config()`
    gave it, in place of a connection: its login, callbacks, cache and settings are used, and whether it speaks the
    Responses API; its retries are ours. What a question says goes before what is set or bound there. A question that
    names no endpoint goes to the model that `llm` names; one that does, to that, through the same `llm`.

    `raw` of an answer is the `AIMessage` that `invoke` gave; the bytes, where it stumbled over them.
    """

    name: ClassVar[str] = "langchain"
    carries: ClassVar[frozenset[str]] = EVERYTHING
    requires: ClassVar[tuple[str, ...]] = ("databricks_langchain",)
    drives: ClassVar[str] = "databricks-langchain, ChatDatabricks.invoke and stream"
    route: ClassVar[str] = "/serving-endpoints/chat/completions"

    _path: ClassVar[str] = "/chat/completions"
    _speaks_responses: ClassVar[bool] = False

    connection: Connection | None

    def __new__(
        cls, connection: Connection | None = None, *, llm: Any = None, use_responses_api: bool | None = None
    ) -> Self:
        """One that speaks the Responses API is of a class of its own, which carries other options."""
        del connection
        if cls is LangChainBackend and (use_responses_api if llm is None else _chat_in(llm).use_responses_api):
            return super().__new__(_OverResponses)  # type: ignore[return-value]
        return super().__new__(cls)

    def __init__(
        self, connection: Connection | None = None, *, llm: Any = None, use_responses_api: bool | None = None
    ) -> None:
        if use_responses_api not in (None, self._speaks_responses):
            raise ConfigurationError(
                f"use_responses_api is {use_responses_api}, and the model says otherwise",
                hint="An llm of yours says it itself: ChatDatabricks(model=…, use_responses_api=True).",
            )
        self._llm = llm
        if llm is None:
            super().__init__(connection)
        elif connection is None:
            self.connection = None  # until a login is found on it
            self.endpoint: str | None = str(_chat_in(llm).model)
        else:
            raise ConfigurationError("an llm has a host and a login of its own; leave out the connection")
        self._models: PerProcess[_Models] = PerProcess(self._make, self._close_own)
        self._async_models: PerLoop[_Models] = PerLoop(self._make_async, self._aclose_own)

    @classmethod
    def render(cls, request: ChatRequest) -> dict[str, Any]:
        """The body, the endpoint's name in it."""
        return {"model": request.endpoint, **_wire.request_to_json(request)}

    def encode(self, request: ChatRequest) -> dict[str, Any]:
        """The body: LangChain's messages and the keywords of `invoke` are made of it at each attempt."""
        return self.render(request)

    def send(self, call: dict[str, Any], timeout: float) -> _wire.Reply:
        """Invoke the model."""
        models = self._ready(timeout)
        model, line = self._begun(models, call, timeout)
        line.login = self._login(models, timeout)
        messages, keywords = _messages(call), _keywords(model, call)
        try:
            given = _line.call_on(line, lambda: model.runnable.invoke(messages, **keywords))
            for _ in line.unread():
                pass  # the model has made a stream of it, for a callback say, and stumbled over it
            return self._reply(model, line, given)
        finally:
            line.close()

    async def asend(self, call: dict[str, Any], timeout: float) -> _wire.Reply:
        """Invoke the model, awaited."""
        models = await self._async_models.get()
        model, line = self._begun(models, call, timeout)
        line.login = await self._alogin(models, timeout)
        messages, keywords = _messages(call), _keywords(model, call)
        try:
            given = await _line.acall_on(line, lambda: model.runnable.ainvoke(messages, **keywords))
            async for _ in line.aunread():
                pass
            return self._reply(model, line, given)
        finally:
            await line.aclose()

    def stream(self, call: dict[str, Any], timeout: float) -> Generator[Any, None, None]:
        """Stream from the model, and give the events beneath each of its chunks as they come."""
        models = self._ready(timeout)
        model, line = self._begun(models, call, timeout)
        line.login = self._login(models, timeout)
        messages, keywords = _messages(call), _keywords(model, call)
        hearing = _Hearing(model, line)
        chunks: Any = None
        try:
            chunks = _line.call_on(line, lambda: iter(model.runnable.stream(messages, **keywords)))
            while hearing.goes_on(chunk := _line.call_on(line, lambda: next(chunks, _END))):
                yield from hearing.taken(chunk)
            for _ in hearing.rest():
                yield from line.taken()
            yield from hearing.end()
        finally:
            with on(line):
                getattr(chunks, "close", _nothing)()
            line.close()

    async def astream(self, call: dict[str, Any], timeout: float) -> AsyncGenerator[Any, None]:
        """`stream`, awaited."""
        models = await self._async_models.get()
        model, line = self._begun(models, call, timeout)
        line.login = await self._alogin(models, timeout)
        messages, keywords = _messages(call), _keywords(model, call)
        hearing = _Hearing(model, line)
        chunks: Any = None
        try:
            chunks = _line.call_on(line, lambda: aiter(model.runnable.astream(messages, **keywords)))
            while hearing.goes_on(chunk := await _line.acall_on(line, lambda: anext(chunks, _END))):
                for event in hearing.taken(chunk):
                    yield event
            async for _ in hearing.arest():
                for event in line.taken():
                    yield event
            for event in hearing.end():
                yield event
        finally:
            with on(line):
                await getattr(chunks, "aclose", _anothing)()
            await line.aclose()

    def decode(self, reply: _wire.Reply) -> ChatResponse:
        """Read the reply."""
        return _wire.decode_reply(reply)

    def decode_event(self, event: Any) -> ChatChunk | _wire.Done | None:
        """Read the event."""
        return _wire.decode_event(event)

    def classify(self, error: Exception) -> ChatError | None:
        """As any HTTP client's, where a line has not told it already."""
        ours = super().classify(error)
        if ours is None:
            uncover(error)
        return self._explained(ours) if isinstance(ours, ServiceError) else ours

    def close(self) -> None:
        """Close the blocking client, unless an `llm` was handed in."""
        self._models.close()

    async def aclose(self) -> None:
        """Close both clients, unless an `llm` was handed in."""
        self.close()
        await self._async_models.aclose()

    def __repr__(self) -> str:
        responses = ", use_responses_api=True" if self._speaks_responses else ""
        return f"LangChainBackend({repr(self.connection) if self._llm is None else 'an llm of yours'}{responses})"

    # ── one attempt ──

    def _ready(self, timeout: float) -> _Models:
        if self._llm is None:
            return self._models.get()
        # Yours makes its client when it is first asked for it, and may ask the host for minutes whether it is there.
        return self._models.get_within(timeout, "the llm made no client")

    def _begun(self, models: _Models, call: dict[str, Any], timeout: float) -> tuple[_Model, _httpx.Line]:
        model = models.of(call["model"])
        settings = {name: said for name in _SETTINGS if (said := getattr(model.chat, name, None)) is not None}
        line = _httpx.Line(self._path, timeout, body=call, settings=settings, listens=True, explain=self._explained)
        return model, line

    def _explained(self, refusal: ServiceError) -> ServiceError:
        """A refusal, with what is to be said of it on this route."""
        return refusal

    def _login(self, models: _Models, timeout: float) -> dict[str, str]:
        self.connection = models.login  # whose token it is that may be renewed
        return {} if models.login is None else models.login.headers(timeout=finite(timeout))

    async def _alogin(self, models: _Models, timeout: float) -> dict[str, str]:
        self.connection = models.login
        return {} if models.login is None else await models.login.aheaders(timeout=finite(timeout))

    def _reply(self, model: _Model, line: _httpx.Line, given: Any) -> _wire.Reply:
        """What came over the wire; what the model says, where nothing did or your subclass says otherwise."""
        if line.response is None:
            return _wire.Reply(_wire.OK, {}, _wire.to_bytes(_completion(given)), given)
        reply = line.reply(given)
        if given is None or not model.is_yours:
            return reply
        try:
            answer, message = self.decode(reply), _message_in(given)
        except ChatError:
            return reply
        if _alike(message, answer.message) or (given.content and not message.parts):  # of an agent: messages in one
            return reply
        said = {**answer.to_dict(), "choices": _completion(given)["choices"]}
        return _wire.Reply(reply.status, {**reply.headers, "content-type": ""}, _wire.to_bytes(said), given)

    # ── models ──

    def _make(self) -> _Models:
        """Over a client of ours for a connection; of yours, over its own."""
        if self._llm is not None:
            held = hold(_chat_in(self._llm).client)
            return self._yours(held.client, held.login)
        openai: Any = import_module("openai")
        http = close_at_exit(keep_deadlines(openai.DefaultHttpxClient(**ways_to(self.connection))))
        client = self._client("DatabricksOpenAI")
        client._client.close()  # noqa: SLF001 - it takes none from outside
        client._client = _httpx.watch(http)  # noqa: SLF001 - as above
        return self._ours("client", client)

    def _make_async(self) -> _Models:
        if self._llm is not None:
            held = ahold(_chat_in(self._llm).async_client)
            return self._yours(held.client, held.login)
        openai: Any = import_module("openai")
        http = openai.DefaultAsyncHttpxClient(**ways_to(self.connection))
        client = self._client("AsyncDatabricksOpenAI")
        client._client = _httpx.watch(http)  # noqa: SLF001 - as above; the one before has opened nothing
        return self._ours("async_client", client)

    def _client(self, kind: str) -> Any:
        assert self.connection is not None
        made = getattr(import_module("databricks_openai"), kind)
        return made(workspace_client=workspace(self.connection), max_retries=0, default_headers=not_for_this_host())

    def _ours(self, where: str, client: Any) -> _Models:
        chat_databricks: Any = import_module("databricks_langchain").ChatDatabricks

        @functools.lru_cache(_ENDPOINTS)
        def of(endpoint: str) -> _Model:
            chat = chat_databricks(model=endpoint, max_retries=0, use_responses_api=self._speaks_responses)
            # Where it keeps its client once it has made one. It would make one for each endpoint, and many in threads.
            chat.__dict__[where] = client
            return _Model(chat, chat, {})

        return _Models(of, client, self.connection)

    def _yours(self, client: Any, login: Connection | None) -> _Models:
        bound: dict[str, Any] = {}
        chat, found = _chat_in(self._llm), self._llm
        while found is not chat:
            bound = {**found.kwargs, **bound}  # what is bound last stands above
            found = found.bound
        model = _Model(self._llm, chat, bound)
        return _Models(lambda _: model, client, login)

    def _close_own(self, models: _Models) -> None:
        if self._llm is None:
            models.client.close()

    async def _aclose_own(self, models: _Models) -> None:
        if self._llm is None:
            await models.client.close()


class _OverResponses(OverResponses, LangChainBackend):
    """The same, to `/serving-endpoints/responses`."""

    _path: ClassVar[str] = "/responses"
    _speaks_responses: ClassVar[bool] = True

    @classmethod
    def check(cls, request: ChatRequest, carriers: Callable[[str], tuple[str, ...]] = lambda _: ()) -> None:
        """Refuse what the Responses API has no place for."""
        try:
            super().check(request, lambda option: tuple(name for name in carriers(option) if name != cls.name))
        except UnsupportedOption as error:
            error.hint = error.hint or "The Responses API has no place for it; without use_responses_api there is one."
            raise


def _chat_in(llm: Any) -> Any:
    """The `ChatDatabricks` in what was handed in, through whatever is bound around it."""
    found = llm
    for _ in range(_DEEPEST):
        if not hasattr(found, "bound"):
            break
        found = found.bound
    if not any(cls.__name__ == "ChatDatabricks" for cls in type(found).__mro__):
        raise ConfigurationError(
            f"llm must be a ChatDatabricks, or one with something bound to it, and it is {type(found).__name__}",
            hint="What parses an answer goes around query_chat(), not into it.",
        )
    return found


# ── a question as LangChain has it ───────────────────────────────────────────────────────────────────────────────


def _keywords(model: _Model, call: dict[str, Any]) -> dict[str, Any]:
    """The options as keywords of `invoke`: under their own names where `create` has them, else in `extra_body`.

    New for each attempt, since databricks-openai changes what it is given. No timeout: they are what a cache goes by.
    """
    options = {name: copy.deepcopy(said) for name, said in call.items() if name not in _THE_QUESTION}
    known = _known(bool(model.chat.use_responses_api))
    keywords = {name: options.pop(name) for name in [*options] if name in known}
    if not keywords.get("stop", True):
        options["stop"] = keywords.pop("stop")  # LangChain leaves out an empty one
    if call["model"] != model.chat.model:
        keywords["model"] = call["model"]
    if options:
        theirs = [getattr(model.chat, "extra_params", None) or {}, model.bound]
        below = {name: said for said_by in theirs for name, said in (said_by.get("extra_body") or {}).items()}
        if model.bound.get("custom_inputs") is not None:  # LangChain puts them in the place of any `extra_body`
            below["custom_inputs"] = model.bound["custom_inputs"]
            keywords["custom_inputs"] = None
        keywords["extra_body"] = {**below, **options}
    return keywords


_THE_QUESTION = frozenset({"input", "messages", "model", "stream"})


@functools.cache
def _known(responses: bool) -> frozenset[str]:  # noqa: FBT001 - the one thing there is to know
    """What can be said to `create` by way of `invoke`, which takes some names, `metadata` one of them, for its own."""
    resources: Any = import_module("openai.resources")
    create = resources.responses.Responses.create if responses else resources.chat.completions.Completions.create
    generate = import_module("langchain_core.language_models").BaseChatModel.generate
    taken = inspect.signature(generate).parameters.keys() - {"stop"}
    return frozenset(inspect.signature(create).parameters.keys() - taken - {"timeout"})


def _messages(call: dict[str, Any]) -> list[Any]:
    """The conversation in LangChain's messages, new for each attempt. What they have no field for is beside it.

    So a callback sees it, and a cache tells two conversations apart that differ in nothing else.
    """
    if "input" in call:
        return [*_items(copy.deepcopy(call["input"]))]
    return [_turn(copy.deepcopy(turn)) for turn in call["messages"]]


def _turn(said: dict[str, Any]) -> Any:
    kinds: Any = import_module("langchain_core.messages")
    role, content, name = said.pop("role"), said.pop("content", None), said.pop("name", None)
    known = {"content": "" if content is None else content, "name": name, "additional_kwargs": said}
    if role == "tool":
        return kinds.ToolMessage(tool_call_id=said.pop("tool_call_id"), **known)
    kind = {"assistant": kinds.AIMessage, "system": kinds.SystemMessage, "user": kinds.HumanMessage}.get(role)
    return kinds.ChatMessage(role=role, **known) if kind is None else kind(**known)


def _items(items: list[Any]) -> Iterator[Any]:
    """What the model said comes as one message of content blocks, until somebody else speaks."""
    kinds: Any = import_module("langchain_core.messages")
    blocks: list[Any] = []
    for item in items:
        role, kind = item.get("role"), str(item.get("type", "message"))
        if role in (None, "assistant") and not kind.endswith("_output"):
            blocks += [_block(part) for part in item["content"]] if kind == "message" else [item]
            continue
        if blocks:
            yield kinds.AIMessage(content=blocks)
            blocks = []
        if role is not None:
            yield _turn({"role": role, "content": item["content"]})
        else:
            output = item.get("output")
            content = output if isinstance(output, str | list) else [output or {}]
            yield kinds.ToolMessage(content=content, tool_call_id=str(item.get("call_id") or ""))
    if blocks:
        yield kinds.AIMessage(content=blocks)


def _block(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "type": "text"} if part.get("type") == "output_text" else part


# ── an answer as LangChain has it ────────────────────────────────────────────────────────────────────────────────


class _Hearing:
    """A stream as the model gives it, and as it comes in beneath. Decides which of them counts; does not read."""

    def __init__(self, model: _Model, line: _httpx.Line) -> None:
        self._line = line
        self._yours = model.is_yours
        self._over = False  # the model has ended it

    def goes_on(self, chunk: Any) -> bool:
        """Whether there is more to be had from the model: it may be through, or have stumbled."""
        self._over = chunk is _END
        return chunk is not None and not self._over

    def taken(self, chunk: Any) -> Iterator[Any]:
        """What has come beneath a chunk; the chunk, where nothing did, or where your subclass says otherwise."""
        events = [*self._line.taken()]
        self._fail()
        if self._line.response is not None and self._line.incoming is None:
            return  # the model has asked for a whole answer, which comes at the end
        if self._line.response is not None and (not self._yours or _agree(chunk, events)):
            yield from events
            return
        yield from (event for event in events if isinstance(event, _wire.Head))
        if type(chunk).__name__.endswith("Chunk"):
            yield _sse.Event(_wire.to_bytes(_piece(chunk)))
        else:  # of a cache, where the model is told not to stream
            yield _wire.Reply(_wire.OK, {}, _wire.to_bytes(_completion(chunk)), chunk)

    def rest(self) -> Iterable[Any]:
        """What is still to be read when the model is through, at `[DONE]` or at something that it could not read."""
        return () if self._heard_enough or self._line.incoming is None else self._line.incoming

    async def arest(self) -> AsyncGenerator[Any, None]:
        """`rest`, awaited."""
        if not self._heard_enough and self._line.incoming is not None:
            async for read in self._line.incoming:
                yield read

    @property
    def _heard_enough(self) -> bool:
        """Whether your subclass has ended it, at the service's end or before."""
        return self._yours and self._over

    def end(self) -> Iterator[Any]:
        """The last events."""
        yield from self._line.taken()
        self._fail()
        if self._line.response is None or (self._heard_enough and not self._line.ended):
            yield _sse.Event(b"[DONE]")  # the model's word for it: a cache's, or a subclass's that has heard enough
        elif self._line.incoming is None:
            yield self._line.reply()

    def _fail(self) -> None:
        if self._line.failure is not None:
            raise self._line.failure


def _agree(chunk: Any, events: list[Any]) -> bool:
    """Whether a chunk says what the events beneath it say, as `ChatDatabricks` reads them."""
    said, told = _text_of(chunk), [*_told_in(events)]
    if any(kind for kind, _ in told):
        # Of the Responses API it leaves out what it has said already, so that nothing can be told from silence.
        return said in "".join(text for _, text in told)
    return said == "".join(text for _, text in told)


def _told_in(events: list[Any]) -> Iterator[tuple[str, str]]:
    """What events say in their first choice, each with its kind in the Responses API."""
    for event in events:
        value = _parsed(event)
        kind = value.get("type")
        if isinstance(kind, str):
            item = value.get("item")
            parts = item.get("content") if isinstance(item, dict) else [{"text": value.get("delta")}]
            texts = [part.get("text") for part in parts or () if isinstance(part, dict)]
            yield kind, "".join(text for text in texts if isinstance(text, str))
            continue
        choices = value.get("choices") or [value]
        delta = choices[0].get("delta") if isinstance(choices, list) and isinstance(choices[0], dict) else None
        content = delta.get("content") if isinstance(delta, dict) else None
        yield "", content if isinstance(content, str) else json.dumps(content) if content else ""


def _parsed(event: Any) -> dict[str, Any]:
    if not isinstance(event, _sse.Event):
        return {}
    try:
        value = _wire.read_json(event.data)
    except MalformedReply:
        return {}
    return value if isinstance(value, dict) else {}


def _text_of(message: Any) -> str:
    content = message.content
    parts = [content] if isinstance(content, str) else content
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _alike(given: Message, told: Message) -> bool:
    """Whether the model gave what the service said."""
    calls = [[(call.name, call.id) for call in message.tool_calls] for message in (given, told)]
    return given.text == told.text and calls[0] == calls[1]


def _completion(given: Any) -> dict[str, Any]:
    """A message of LangChain's as a chat completion. What it does not say is not in it: its id is the run's."""
    about = given.response_metadata
    choice = {"index": 0, "message": _message_in(given).to_dict(), "finish_reason": about.get("finish_reason")}
    said = {"choices": [choice], "model": about.get("model_name"), "usage": _usage_in(given)}
    return {name: value for name, value in said.items() if value is not None}


def _piece(chunk: Any) -> dict[str, Any]:
    """A chunk of LangChain's as a chunk of a chat completion."""
    said = _message_in(chunk, calls=False).to_dict()
    calls = [
        {
            "index": call.get("index") or 0,
            "id": call.get("id"),
            "function": {"name": call.get("name"), "arguments": call.get("args") or ""},
        }
        for call in getattr(chunk, "tool_call_chunks", ())
    ]
    delta = {"role": said["role"], "content": said["content"], "tool_calls": calls}
    choice = {"index": 0, "delta": delta, "finish_reason": chunk.response_metadata.get("finish_reason")}
    return {"choices": [choice], "usage": _usage_in(chunk)}


def _message_in(given: Any, *, calls: bool = True) -> Message:
    """What a message of LangChain's says, as a message."""
    content = given.content
    if isinstance(content, str):
        content = _undumped(content)
    elif isinstance(content, list):
        # A call stands in `tool_calls` too; what else is no part of a message is an item of the Responses API.
        content = [part for block in content if (part := _part(block)) is not None]
        if all(isinstance(part, dict) and part.keys() == {"type", "text"} for part in content):
            content = "".join(part["text"] for part in content)
    bare: dict[str, Any] = {} if calls else {"tool_calls": [], "invalid_tool_calls": [], "additional_kwargs": {}}
    try:
        return read_messages([given.model_copy(update={"content": content, **bare})])[0]
    except InvalidRequest as error:
        raise MalformedReply(f"the llm gave what is no message: {error.message}", body=content) from error


_PARTS = frozenset({"text", "reasoning", "refusal"})


def _part(block: Any) -> Any:
    """A block as a part, without what says nothing; None if it is no part, or nothing is left."""
    if not isinstance(block, dict):
        return block
    said = {name: value for name, value in block.items() if value not in (None, []) and name not in ("id", "index")}
    return said if said.get("type") in _PARTS and len(said) > 1 else None


def _undumped(text: str) -> Any:
    """`ChatDatabricks` writes content that is a list of parts as JSON text."""
    if not text.startswith('[{"type": "'):
        return text
    try:
        parts = json.loads(text)
    except ValueError:
        return text
    kinds = {part.get("type") if isinstance(part, dict) else None for part in parts}
    return parts if kinds & _PARTS and None not in kinds and json.dumps(parts) == text else text


def _usage_in(given: Any) -> dict[str, Any] | None:
    """The usage as the service said it, where LangChain kept that; else in LangChain's own count."""
    if isinstance(said := given.response_metadata.get("usage"), dict):
        return said
    counted = getattr(given, "usage_metadata", None) or {}
    read = counted.get("input_token_details", {}).get("cache_read")
    thought = counted.get("output_token_details", {}).get("reasoning")
    usage = {
        "prompt_tokens": counted.get("input_tokens"),
        "completion_tokens": counted.get("output_tokens"),
        "total_tokens": counted.get("total_tokens"),
        "prompt_tokens_details": None if read is None else {"cached_tokens": read},
        "completion_tokens_details": None if thought is None else {"reasoning_tokens": thought},
    }
    return {name: count for name, count in usage.items() if count is not None} or None


def _nothing() -> None:
    pass


async def _anothing() -> None:
    pass
