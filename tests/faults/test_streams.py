"""No stream ends in silence: it is complete, or it is a `StreamInterrupted` with what had arrived, and nothing else.

Streams are made by chance, of what the service sends and of what goes wrong with it, and each is told over a socket to
the backend's real client. Whoever makes one knows what it says; that is all that its end is held against.

`ISOCHAT_EXAMPLES` says how many for each backend and mode; `nox -s fuzz` makes it 10,000.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from fault_table import COMPLAINTS, PAGE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_server import Exchange, Responses, Server, event, language, named, settles

from isochat import (
    ChatError,
    Connection,
    MalformedReply,
    Retry,
    ServiceError,
    StreamInterrupted,
    aquery_chat,
    query_chat,
)
from isochat.backends import BUILT_IN, find, load
from isochat.backends.rest import RestBackend
from isochat.errors import BackendNotInstalled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isochat import Backend, ChatResponse

EXAMPLES = int(os.environ.get("ISOCHAT_EXAMPLES", "60"))
STREAMING = [name for name in sorted(BUILT_IN) if find(name).streams()]
examples = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)


# ── streams by chance ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Telling:
    """A stream, and what it says: its oracle, kept while it is made."""

    events: list[bytes] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    calls: dict[int, list[str]] = field(default_factory=dict)
    usage: tuple[int, int] | None = None
    #: Whether anything of an answer was sent.
    begun: bool = False
    #: How it must end: None if complete, else the service's complaint, or what is wrong with it.
    broken: type[ChatError] | None = None
    #: How long the pieces are that it comes in; 0 for one piece.
    size: int = 0
    crlf: bool = False

    def pieces(self) -> list[bytes]:
        """It, cut up."""
        whole = b"".join(self.events)
        if self.crlf:
            whole = whole.replace(b"\n", b"\r\n")
        size = self.size or len(whole) or 1
        return [whole[at : at + size] for at in range(0, len(whole), size)]


texts = st.text(max_size=8) | st.sampled_from(
    ["", "\n", "\r\n", "data: ", "\u2028", "🦆", "[DONE]", '"}', "\\", "\x00"]
)
numbers = st.integers(0, 50)
noise = st.sampled_from(
    [b": ping\n\n", b"\n", b"event: ping\ndata: {}\n\n", b"id: 1\nretry: 5\n\n", b"data:\n\n", b":\n"]
)
broken_off = ["early", "cut", "complaint", "nonsense"]
what_breaks = [complaint for complaint, _ in COMPLAINTS.values()]


def breaks(draw: st.DrawFn, telling: Telling, how: str, piece: bytes) -> None:
    """End it before its time."""
    if how == "cut":
        begin = piece.index(b"data: ") + 7
        telling.events.append(piece[: draw(st.integers(begin, len(piece) - 4))])
        telling.broken = MalformedReply
    elif how == "complaint":
        complaint, telling.broken = draw(st.sampled_from(list(COMPLAINTS.values())))
        telling.events += [complaint, *draw(st.lists(st.just(piece), max_size=1))]
    elif how == "nonsense":
        telling.events += [event(draw(st.sampled_from([PAGE, b"{", b"[[[", b"5", b"\xff"])))]
        telling.broken = MalformedReply
    else:
        telling.broken = MalformedReply


@st.composite
def chats(draw: st.DrawFn) -> Telling:
    """Of chat completions."""
    telling = Telling(size=draw(st.sampled_from([0, 1, 2, 3, 7, 50])), crlf=draw(st.booleans()))
    about = {"id": "c", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m"}

    def chunk(**said: Any) -> bytes:
        return event({**about, "choices": [], **said})

    def delta(index: int, **said: Any) -> dict[str, Any]:
        telling.texts.setdefault(index, "")
        return {"index": index, "delta": said, "finish_reason": None}

    for kind in draw(
        st.lists(st.sampled_from(["text", "text", "parts", "call", "usage", "empty", "noise"]), max_size=8)
    ):
        index = draw(st.sampled_from([0, 0, 0, 1]))
        said = draw(texts)
        also: dict[str, Any] = {}
        if kind == "noise":
            telling.events.append(draw(noise))
            continue
        telling.begun = True
        if kind == "usage" or draw(st.sampled_from([False, False, True])):
            telling.usage = (draw(numbers), draw(numbers))
            also["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), telling.usage, strict=True))
        match kind:
            case "text":
                telling.events.append(chunk(choices=[delta(index, role="assistant", content=said)], **also))
                telling.texts[index] += said
            case "parts":
                parts = [{"type": "text", "text": said}]
                telling.events.append(chunk(choices=[delta(index, content=parts)], **also))
                telling.texts[index] += said
            case "call":
                number = draw(st.integers(0, 2))
                opens = number not in telling.calls
                function = {"name": f"f{number}", "arguments": said} if opens else {"arguments": said}
                call = {"index": number, "function": function, **({"id": f"call-{number}"} if opens else {})}
                telling.calls.setdefault(number, []).append(said)
                telling.events.append(chunk(choices=[delta(0, tool_calls=[call])], **also))
            case "usage":
                telling.events.append(chunk(**also))
            case "empty":
                telling.events.append(chunk(choices=[delta(index)], **also))
    how = draw(st.sampled_from(["whole", "whole", "done", *broken_off]))
    last = [{"index": index, "delta": {}, "finish_reason": "stop"} for index in telling.texts or {0: ""}]
    if how == "whole":
        telling.texts = telling.texts or {0: ""}
        telling.events.append(chunk(choices=last))
        telling.begun = True
        if draw(st.booleans()):
            telling.usage = (draw(numbers), draw(numbers))
            both = dict(zip(("prompt_tokens", "completion_tokens"), telling.usage, strict=True))
            telling.events.append(chunk(usage=both))
    if how in broken_off:
        breaks(draw, telling, how, chunk(choices=[{"index": 0, "delta": {"content": "never"}}]))
    elif how == "done" or draw(st.booleans()):
        telling.events.append(b"data: [DONE]\n\n")
        after = st.sampled_from(
            [chunk(choices=[{"index": 0, "delta": {"content": "after"}}]), event(PAGE), *what_breaks]
        )
        telling.events += draw(st.lists(after, max_size=2))
    return telling


@st.composite
def agents(draw: st.DrawFn) -> Telling:
    """Of an agent: pieces without a finish reason, and an end that nothing announces."""
    telling = Telling(size=draw(st.sampled_from([0, 1, 7])), crlf=draw(st.booleans()))
    for said in draw(st.lists(texts, min_size=1, max_size=6)):
        telling.events.append(event({"delta": {"role": "assistant", "content": said, "id": "m"}}))
        telling.texts[0] = telling.texts.get(0, "") + said
        telling.begun = True
    how = draw(st.sampled_from(["early", "cut", "complaint", "nonsense"]))
    if how != "early":
        breaks(draw, telling, how, event({"delta": {"role": "assistant", "content": "never", "id": "m"}}))
    return telling


@st.composite
def responses(draw: st.DrawFn) -> Telling:
    """Of the Responses API: each text is said up to three times, and counts once."""
    telling = Telling(size=draw(st.sampled_from([0, 1, 2, 3, 7, 50])), crlf=draw(st.booleans()), begun=False)
    speech = Responses()
    telling.events.append(named(type="response.created", response=speech.response("in_progress", [])))
    output: list[dict[str, Any]] = []
    for place, kind in enumerate(draw(st.lists(st.sampled_from(["message", "call"]), max_size=3))):
        stretches = draw(st.lists(texts.filter(bool), max_size=4))
        said, one = "".join(stretches), {"output_index": place, "item_id": f"i{place}"}
        if kind == "message":
            opened = {"id": f"i{place}", "type": "message", "role": "assistant", "content": []}
            stretch, item = "response.output_text.delta", {**opened, "content": [{"type": "output_text", "text": said}]}
        else:
            opened = {"id": f"i{place}", "type": "function_call", "call_id": f"call-{place}", "name": f"f{place}"}
            stretch, item = "response.function_call_arguments.delta", {**opened, "arguments": said}
            opened = {**opened, "arguments": ""}
        telling.events.append(named(type="response.output_item.added", output_index=place, item=opened))
        telling.begun = True
        if kind == "call":
            telling.calls[len(telling.calls)] = stretches
        for part in stretches:
            telling.events.append(named(type=stretch, **one, delta=part))
            telling.events += draw(st.lists(noise, max_size=1))
            if kind == "message":
                telling.texts[0] = telling.texts.get(0, "") + part
        if draw(st.booleans()):
            telling.events.append(named(type="response.output_item.done", output_index=place, item=item))
        output.append(item)
    how = draw(st.sampled_from(["whole", "whole", *broken_off]))
    if how == "whole":
        telling.usage = (draw(numbers), draw(numbers))
        usage = dict(zip(("input_tokens", "output_tokens"), telling.usage, strict=True))
        response = {**speech.response("completed", draw(st.sampled_from([output, []]))), "usage": usage}
        telling.events.append(named(type="response.completed", response=response))
        telling.begun = True
        if draw(st.booleans()):
            telling.events.append(b"data: [DONE]\n\n")
            telling.events += draw(st.lists(st.sampled_from([event(PAGE), *what_breaks]), max_size=2))
    else:
        breaks(draw, telling, how, named(type="response.output_text.delta", output_index=9, item_id="z", delta="never"))
    return telling


def tellings(name: str) -> st.SearchStrategy[Telling]:
    return responses() if isinstance(language(name), Responses) else chats() | chats() | chats() | agents()


# ── what becomes of them ─────────────────────────────────────────────────────────────────────────────────────────────


def says_the_same(telling: Telling, answer: ChatResponse) -> None:
    """What arrived is what was told: nothing is missing, nothing is there twice."""
    got = {choice.index: choice.message.text for choice in answer.choices}
    told = telling.texts or {0: ""}

    assert {index: text for index, text in told.items() if text} == {index: text for index, text in got.items() if text}
    assert ["".join(said) for said in telling.calls.values()] == [call.arguments for call in answer.tool_calls]
    usage = answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert telling.usage == usage


def ends_well(telling: Telling, outcome: ChatResponse | ChatError) -> None:
    """It has the end that it must have."""
    if telling.broken is None:
        assert not isinstance(outcome, ChatError), repr(outcome)
        says_the_same(telling, outcome)
    elif telling.begun:
        assert isinstance(outcome, StreamInterrupted), repr(outcome)
        assert type(outcome.__cause__) is telling.broken
        assert outcome.error is (outcome.__cause__ if issubclass(telling.broken, ServiceError) else None)
        assert outcome.partial is not None
        says_the_same(telling, outcome.partial)
    else:
        assert type(outcome) is telling.broken, repr(outcome)


@pytest.fixture(params=[*STREAMING, "rest by pyreqwest"])
def backend(request: pytest.FixtureRequest, server: Server) -> Backend:
    connection = Connection(server.host, "token", allow_http=True)
    name, _, transport = request.param.partition(" by ")
    if transport:
        pytest.importorskip(transport, reason="pip install 'isochat[fast]'")
        return RestBackend(connection, transport=transport)
    try:
        return load(name)(connection)
    except BackendNotInstalled as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=["stream", "async stream"])
def streamed(request: pytest.FixtureRequest, backend: Backend) -> Iterator[Callable[[], ChatResponse | ChatError]]:
    """Ask for a stream and read it to its end, whichever it is."""
    said: Any = {"endpoint": "e", "backend": backend, "retry": Retry(attempts=1), "timeout": 20}

    def ask() -> ChatResponse | ChatError:
        try:
            with query_chat("Hi", stream=True, **said) as stream:
                return stream.response
        except ChatError as error:
            return error

    async def aask() -> ChatResponse | ChatError:
        try:
            async with await aquery_chat("Hi", stream=True, **said) as stream:
                return await stream.collect()
        except ChatError as error:
            return error

    if request.param == "stream":
        yield ask
        backend.close()
    else:
        with asyncio.Runner() as runner:
            yield lambda: runner.run(aask())
            runner.run(backend.aclose())


def test_no_stream_ends_in_silence(
    backend: Backend, streamed: Callable[[], ChatResponse | ChatError], server: Server
) -> None:
    """Complete, or interrupted with what had arrived; never cut short, counted twice, or an exception of others."""

    @examples
    @given(tellings(backend.name))
    def each(telling: Telling) -> None:
        def tell(exchange: Exchange) -> None:
            exchange.begin()
            exchange.send(b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in telling.pieces()))
            exchange.end()

        count = server.answer(tell)
        outcome = streamed()

        assert count() == 1
        ends_well(telling, outcome)

    each()


@pytest.mark.parametrize("how", ["leaves the block", "closes"])
@pytest.mark.parametrize("mode", ["stream", "async stream"])
def test_a_stream_that_is_left_gives_its_connection_back(backend: Backend, server: Server, mode: str, how: str) -> None:
    """However it is left, and while the service has more to say; the session need not be closed for it."""

    def tell(exchange: Exchange) -> None:
        exchange.begin()
        exchange.piece(*language(backend.name).stream("a", "b")[:2])
        exchange.hang()

    async def aleave() -> bool:
        async with await aquery_chat("Hi", endpoint="e", backend=backend, stream=True) as stream:
            await anext(stream)
            if how == "closes":
                await stream.aclose()
                return await asyncio.to_thread(settles, lambda: server.open_connections == 0)
        return await asyncio.to_thread(settles, lambda: server.open_connections == 0)

    def leave() -> bool:
        with query_chat("Hi", endpoint="e", backend=backend, stream=True) as stream:
            next(stream)
            if how == "closes":
                stream.close()
                return settles(lambda: server.open_connections == 0)
        return settles(lambda: server.open_connections == 0)

    count = server.answer(tell)
    given_back = leave() if mode == "stream" else asyncio.run(aleave())
    backend.close()

    assert given_back
    assert count() == 1
