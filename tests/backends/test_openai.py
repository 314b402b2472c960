"""What only the OpenAI client does: the seam that is called, what it is told, and each surprise that is worked round.

The tests named `test_surprise_…` drive the client alone. They fail when an upgrade mends what they show, which is the
day to look whether the work-round may go.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

openai = pytest.importorskip("openai", reason="the openai backend needs openai: pip install 'isochat[openai]'")
pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import ConfigurationError, Connection, RequestRefused, Retry, StreamInterrupted, aquery_chat, query_chat
from isochat._request import OPTIONS
from isochat.backends.openai import KEYWORDS, OpenAIBackend
from isochat.backends.openai_responses import OpenAIResponsesBackend
from isochat.local import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isochat.local import LocalEndpoint

GPT = "databricks-gpt-5-1"
HELLO = (
    b'data: {"id":"x","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"}}]}\n\n'
)


@pytest.fixture
def backend(local: LocalEndpoint) -> Iterator[OpenAIBackend]:
    with_connection = OpenAIBackend(Connection(local.host, local.token))
    yield with_connection
    with_connection.close()


@pytest.fixture
def client(local: LocalEndpoint) -> Iterator[Any]:
    """The client as anyone makes it, without isochat."""
    with openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token, max_retries=0) as made:
        yield made


def _create(client: Any, **said: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=[{"role": "user", "content": "Hi"}], **said)


# ── the seam ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_keyword_of_create_is_used() -> None:
    """An option that `create` has a keyword for goes there, where tracers look, and any other in `extra_body`."""
    keywords = set(inspect.signature(import_module("openai.resources.chat.completions").Completions.create).parameters)

    assert keywords & set(OPTIONS) == KEYWORDS


def test_a_patched_create_sees_the_call(backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What wraps `chat.completions.create`, as tracing libraries do, sees each call with its arguments."""
    seen: list[dict[str, Any]] = []
    completions = import_module("openai.resources.chat.completions").Completions
    create = completions.create

    def traced(self: Any, **said: Any) -> Any:
        seen.append(said)
        return create(self, **said)

    monkeypatch.setattr(completions, "create", traced)
    query_chat("Hi", endpoint=GPT, backend=backend, max_tokens=5)
    assert query_chat("Hi", endpoint=GPT, backend=backend, stream=True).response.text == "Hi"

    assert [None, True] == [said.get("stream") for said in seen]
    assert seen[0]["model"] == GPT
    assert seen[0]["messages"] == [{"role": "user", "content": "Hi"}]
    assert seen[0]["max_tokens"] == 5


def test_nothing_above_sees_the_token(
    backend: OpenAIBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login is put on beneath the client: no tracer records it, and no error's request holds it."""
    seen: list[Any] = []
    completions = import_module("openai.resources.chat.completions").Completions
    create = completions.create

    def traced(self: Any, **said: Any) -> Any:
        seen.append(said)
        return create(self, **said)

    monkeypatch.setattr(completions, "create", traced)
    query_chat("Hi", endpoint=GPT, backend=backend)
    local.order(Fault(status=400))
    with pytest.raises(RequestRefused) as refused:
        query_chat("Hi", endpoint=GPT, backend=backend)
    seen.append(dict(refused.value.__cause__.response.request.headers))  # type: ignore[union-attr]

    assert [True, True] == [question.authorized for question in local.questions]
    assert local.token not in str(seen)


def test_a_client_of_yours_is_used(local: LocalEndpoint) -> None:
    """A ready client keeps its address, login and headers, is asked once an attempt, and stays open."""
    said = {"base_url": f"{local.host}/serving-endpoints", "api_key": local.token, "default_headers": {"x-mine": "1"}}
    with openai.OpenAI(**said) as mine:
        backend = OpenAIBackend(client=mine)
        answer = query_chat("Hi", endpoint=GPT, backend=backend)
        local.order(Fault(status=500, times=None))
        with pytest.raises(Exception, match=r"500|Internal"):
            query_chat("Hi", endpoint=GPT, backend=backend, retry=Retry(attempts=1))
        backend.close()

        assert answer.text == "Hi"
        assert [True, True] == [request.authorized for request in local.questions]
        assert local.questions[0].headers["x-mine"] == "1"
        assert not mine.is_closed()


def test_an_asyncio_client_of_yours_is_used(local: LocalEndpoint) -> None:
    """The same for asyncio; the one that was not handed in is asked for by name."""

    async def ask() -> str:
        said = {"base_url": f"{local.host}/serving-endpoints", "api_key": local.token}
        async with openai.AsyncOpenAI(**said) as mine:
            backend = OpenAIBackend(async_client=mine)
            with pytest.raises(ConfigurationError, match="Hand in both"):
                query_chat("Hi", endpoint=GPT, backend=backend)
            return (await aquery_chat("Hi", endpoint=GPT, backend=backend)).text

    assert asyncio.run(ask()) == "Hi"


@pytest.mark.parametrize("kind", [OpenAIBackend, OpenAIResponsesBackend])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [("client", openai.AsyncOpenAI), ("async_client", openai.OpenAI), ("client", object), ("async_client", object)],
)
def test_another_kind_of_client_is_refused(kind: Any, name: str, wrong: Any) -> None:
    """A blocking client would hold up the loop, and one for asyncio has no answer to give."""
    said = {} if wrong is object else {"base_url": "http://127.0.0.1:1", "api_key": "t"}
    with pytest.raises(ConfigurationError, match=f"^{name} must be an .*OpenAI client .* not {wrong.__name__}"):
        kind(**{name: wrong(**said)})


def test_a_client_of_yours_that_is_closed_says_so(local: LocalEndpoint) -> None:
    """What fails above HTTP is not the service's, so it comes as it is."""
    mine = openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token)
    mine.close()
    with pytest.raises(RuntimeError, match="closed"):
        query_chat("Hi", endpoint=GPT, backend=OpenAIBackend(client=mine))

    assert [] == local.questions


def test_what_a_hook_of_yours_raises_comes_as_it_is(local: LocalEndpoint) -> None:
    """openai 2 tells it as an error of the connection, and 3 no longer does."""

    def fails(_: Any) -> None:
        raise KeyError("mine")

    said = {"base_url": f"{local.host}/serving-endpoints", "api_key": local.token}
    with openai.DefaultHttpxClient(event_hooks={"request": [fails]}) as http:
        mine = openai.OpenAI(http_client=http, max_retries=0, **said)
        with pytest.raises(openai.APIConnectionError if openai.VERSION.startswith("2.") else KeyError):
            mine.chat.completions.create(model=GPT, messages=[{"role": "user", "content": "Hi"}])
        with pytest.raises(KeyError, match="mine"):
            query_chat("Hi", endpoint=GPT, backend=OpenAIBackend(client=mine))

    assert [] == local.questions


def test_the_deadline_holds_for_a_client_of_yours(local: LocalEndpoint, client: Any) -> None:
    """The client's own timeout is per read; the question's is for all of it."""
    local.order(Fault(drip=0.1))
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        query_chat("a b c d e f g h", endpoint=GPT, backend=OpenAIBackend(client=client), timeout=0.5)

    assert time.monotonic() - begun < 1.5


def test_what_is_for_openai_is_not_sent_elsewhere(
    backend: OpenAIBackend, local: LocalEndpoint, monkeypatch: Any
) -> None:
    """The organization, project, key and custom headers that the environment holds for OpenAI stay here."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-key")
    monkeypatch.setenv("OPENAI_ORG_ID", "canary-org")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "canary-project")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: canary-header\nX-Other: canary-other")
    query_chat("Hi", endpoint=GPT, backend=backend)
    sent = local.questions[-1]

    assert sent.authorized
    assert not [value for value in sent.headers.values() if "canary" in value]


def test_raw_is_the_clients_own(backend: OpenAIBackend, local: LocalEndpoint) -> None:
    """`raw` is the `ChatCompletion` that people know; it can be stored and copied, and holds no token."""
    answer = query_chat("Hi", endpoint=GPT, backend=backend)
    theirs = openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token, max_retries=0)
    own = theirs.chat.completions.create(model=GPT, messages=[{"role": "user", "content": "Hi"}])
    theirs.close()

    assert type(answer.raw) is type(own)
    assert answer.raw.to_dict().keys() == own.to_dict().keys()
    assert answer.raw.choices == own.choices
    assert answer.raw._request_id == answer.request_id
    assert answer.raw is answer.raw
    assert copy.deepcopy(answer) == answer
    assert pickle.loads(pickle.dumps(answer)) == answer
    assert backend.connection is not None
    assert backend.connection.headers()["Authorization"].split()[1].encode() not in pickle.dumps(answer)


# ── surprises ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_surprise_the_environment_leaks(local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client alone sends OpenAI's organization and custom headers to whatever host it has."""
    monkeypatch.setenv("OPENAI_ORG_ID", "canary-org")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: canary-header")
    with openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as alone:
        _create(alone)

    assert {"canary-org", "canary-header"} <= set(local.questions[-1].headers.values())


def test_surprise_a_web_page_is_an_answer(client: Any, local: LocalEndpoint) -> None:
    """The client alone gives a web page as a string, with no error."""
    local.reply(body=b"<!DOCTYPE html><title>Sign in</title>", headers={"content-type": "text/html"})

    assert isinstance(_create(client), str)


def test_surprise_an_error_event_is_a_chunk(client: Any, local: LocalEndpoint) -> None:
    """The client alone gives Databricks' error event as a chunk whose `choices` is None."""
    local.reply(chunks=[HELLO, b'data: {"error_code": "INTERNAL_ERROR", "message": "Oh."}\n\n'])

    assert None in [chunk.choices for chunk in _create(client, stream=True)]


def test_surprise_a_truncated_stream_is_a_short_answer(
    client: Any, backend: OpenAIBackend, local: LocalEndpoint
) -> None:
    """The client alone ends a stream that was cut without a word; through isochat it is an interruption."""
    local.reply(chunks=[HELLO])
    alone = [chunk.choices[0].delta.content for chunk in _create(client, stream=True)]
    local.reply(chunks=[HELLO])
    with pytest.raises(StreamInterrupted):
        list(query_chat("Hi", endpoint=GPT, backend=backend, stream=True))

    assert alone == ["Hi"]


def test_surprise_json_for_a_stream_is_nothing(client: Any, local: LocalEndpoint) -> None:
    """The client alone turns a whole answer where a stream was asked for into no chunk at all."""
    local.reply(body={"choices": [{"index": 0, "message": {"content": "Hi"}}]})

    assert [] == [*_create(client, stream=True)]


def test_surprise_it_asks_three_times(local: LocalEndpoint) -> None:
    """The client alone asks up to three times, which would multiply with our own attempts."""
    local.order(Fault(status=500, headers={"retry-after-ms": "1"}, times=None))
    with (
        openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token) as alone,
        pytest.raises(openai.InternalServerError),
    ):
        _create(alone)

    assert len(local.questions) == 3


def test_surprise_the_timeout_is_per_read(client: Any, local: LocalEndpoint) -> None:
    """The client alone waits longer than its timeout, as long as something drips."""
    local.order(Fault(drip=0.05))
    begun = time.monotonic()
    stream = client.chat.completions.create(
        model=GPT, messages=[{"role": "user", "content": "a b c d e f g h"}], stream=True, timeout=0.2
    )

    assert list(stream)
    assert time.monotonic() - begun > 0.2
