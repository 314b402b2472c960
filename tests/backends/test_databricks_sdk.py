"""What only the Databricks SDK does: the seam that is called, what it is told, and each surprise that is worked round.

The tests named `test_surprise_…` drive the client alone. They fail when an upgrade mends what they show, which is the
day to look whether the work-round may go.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

sdk = pytest.importorskip(
    "databricks.sdk", reason="the databricks-sdk backend needs databricks-sdk: pip install 'isochat[databricks-sdk]'"
)
pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from databricks.sdk.errors import DatabricksError, TooManyRequests
from databricks.sdk.service.serving import ChatMessage, QueryEndpointResponse, ServingEndpointsAPI

from isochat import (
    AuthenticationFailed,
    ConfigurationError,
    Connection,
    DeadlineExceeded,
    RateLimited,
    Retry,
    ServiceError,
    ServiceUnavailable,
    aquery_chat,
    query_chat,
)
from isochat._request import OPTIONS, make_request
from isochat.backends import _requests
from isochat.backends.databricks_sdk import KEYWORDS, DatabricksSDKBackend
from isochat.local import Fault, LocalEndpoint
from isochat.testing.conformance import ANSWER, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

LLAMA = "databricks-meta-llama-3-3-70b-instruct"
ONCE = Retry(attempts=1)
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "…", "parameters": {"type": "object"}}}]


@pytest.fixture
def backend(local: LocalEndpoint) -> Iterator[DatabricksSDKBackend]:
    with_connection = DatabricksSDKBackend(Connection(local.host, local.token))
    yield with_connection
    with_connection.close()


@pytest.fixture
def client(local: LocalEndpoint) -> Iterator[Any]:
    """The client as anyone makes it, without isochat; a second for its retrying, so that a test need not wait."""
    made = _client(local, retry_timeout_seconds=1)
    local.reset()
    yield made
    made.api_client._api_client._session.close()


def _client(local: LocalEndpoint, **said: Any) -> Any:
    config = sdk.config.Config(host=local.host, token=local.token, auth_type="pat", **said)
    return sdk.WorkspaceClient(config=config)


def _query(client: Any, **said: Any) -> Any:
    return client.serving_endpoints.query(said.pop("name", LLAMA), messages=[_message()], **said)


def _message() -> ChatMessage:
    return ChatMessage.from_dict({"role": "user", "content": "Hi"})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a patch around `ServingEndpointsAPI.query`, as a tracing library makes it, sees."""
    calls: list[dict[str, Any]] = []
    query = ServingEndpointsAPI.query

    def traced(self: Any, name: str, **said: Any) -> Any:
        calls.append({"name": name, **said})
        return query(self, name, **said)

    monkeypatch.setattr(ServingEndpointsAPI, "query", traced)
    return calls


# ── the seam ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_keyword_of_query_is_used() -> None:
    """An option that `query` has a keyword for goes there, and any other question through `do`."""
    assert set(inspect.signature(ServingEndpointsAPI.query).parameters) & set(OPTIONS) == KEYWORDS


def test_a_patched_query_sees_the_call(
    backend: DatabricksSDKBackend, local: LocalEndpoint, seen: list[dict[str, Any]]
) -> None:
    """What wraps `serving_endpoints.query` sees each call that `query` can say, asyncio's too."""
    said: dict[str, Any] = {name: VALUES[name] for name in KEYWORDS}
    query_chat("Hi", endpoint=LLAMA, backend=backend, **(said | {"n": 1}))
    asyncio.run(aquery_chat("Hi", endpoint=LLAMA, backend=backend))

    assert [LLAMA, LLAMA] == [call["name"] for call in seen]
    assert seen[0].keys() == {"name", "messages", *KEYWORDS}
    assert [_message()] == seen[0]["messages"]
    assert local.questions[0].headers["accept"] == "application/json"


@pytest.mark.parametrize("option", sorted(set(VALUES) - KEYWORDS))
def test_what_query_cannot_say_goes_through_do(
    backend: DatabricksSDKBackend, local: LocalEndpoint, seen: list[dict[str, Any]], option: str
) -> None:
    """Anything else goes through the same client's `api_client.do`, whole."""
    local.reply(body=ANSWER)
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend, **{option: VALUES[option]})

    assert [] == seen
    assert answer.text == "Hi."
    assert isinstance(answer.raw, dict)
    assert "databricks-sdk-py" in local.questions[0].headers["user-agent"]


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([{"role": "user", "content": "Hi", "name": "me"}], {}),
        ([{"role": "tool", "content": "Rain.", "tool_call_id": "1"}], {}),
        ([{"role": "developer", "content": "Be brief."}], {}),
        ([{"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "user", "content": "Hi"}], {}),
        ("Hi", {"stop": "END"}),
        ("Hi", {"extra_body": {"max_tokens": None}}),
    ],
)
def test_what_query_would_lose_goes_through_do(
    backend: DatabricksSDKBackend, local: LocalEndpoint, seen: list[dict[str, Any]], messages: Any, options: Any
) -> None:
    """`query` drops a null and a message's other fields, and takes a text apart letter by letter: it is not called."""
    local.reply(body=ANSWER)
    query_chat(messages, endpoint=LLAMA, backend=backend, **options)
    body = local.questions[0].json

    assert [] == seen
    assert body.items() >= options.get("extra_body", options).items()
    if isinstance(messages, list):
        assert messages == body["messages"]


def test_query_sends_content_parts(
    backend: DatabricksSDKBackend, local: LocalEndpoint, seen: list[dict[str, Any]]
) -> None:
    """A list of parts passes through `ChatMessage`, and the caller's list stays as it was."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    query_chat(messages, endpoint=LLAMA, backend=backend)

    assert messages == local.questions[0].json["messages"]
    assert len(seen) == 1
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


def test_nothing_is_lost_on_the_way_up(backend: DatabricksSDKBackend, local: LocalEndpoint) -> None:
    """What `query` loses is there all the same, and `raw` is what `query` gave."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {
        **ANSWER,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, "tool_calls": [call]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {**ANSWER["usage"], "prompt_tokens_details": {"cached_tokens": 4}},
        "input_guardrail": [{"flagged": False}],
    }
    local.reply(body=body, headers={"content-type": "application/json; charset=iso-8859-1"})
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend)

    assert isinstance(answer.raw, QueryEndpointResponse)
    assert answer.finish_reason == "tool_calls"
    assert answer.tool_calls[0].name == "f"
    assert answer.usage is not None
    assert answer.usage.cached_tokens == 4
    assert answer.extra["input_guardrail"] == [{"flagged": False}]


def test_an_answer_that_query_stumbles_over(backend: DatabricksSDKBackend, local: LocalEndpoint) -> None:
    """Where `query` raises although an answer came, it is read, and not asked for a second time."""
    local.reply(body={**ANSWER, "created": "yesterday"})
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend)

    assert answer.text == "Hi."
    assert len(local.questions) == 1


@pytest.mark.parametrize("name", ["my ep", "a?b#c", "größe", "a%2Fb"])
def test_the_name_stays_in_its_place(backend: DatabricksSDKBackend, local: LocalEndpoint, name: str) -> None:
    """Whatever stands in an endpoint's name is quoted into its one segment of the path, through `query` and `do`."""
    from urllib.parse import quote

    for options in ({}, {"top_p": 0.5}):
        local.reply(body=ANSWER)
        query_chat("Hi", endpoint=name, backend=backend, **options)

    assert {f"/serving-endpoints/{quote(name, safe='')}/invocations"} == {question.path for question in local.questions}


def test_what_is_encoded_is_not_what_is_sent(backend: DatabricksSDKBackend) -> None:
    """What was encoded may be sent again: the client gets a copy."""
    local_call = backend.encode(make_request("Hi", endpoint=LLAMA, stop=["a"]))
    before = json.dumps([local_call.keywords, local_call.messages])
    backend.decode(backend.attempt(local_call, 10))

    assert before == json.dumps([local_call.keywords, local_call.messages])


# ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_asked_but_the_question(backend: DatabricksSDKBackend, local: LocalEndpoint) -> None:
    """Making the client asks nothing of the host, nor does any question but itself."""
    for _ in range(3):
        query_chat("Hi", endpoint=LLAMA, backend=backend)

    assert len(local.received) == 3
    assert local.received[0].headers["user-agent"].startswith("isochat/")


def test_the_environment_is_somebody_elses(
    backend: DatabricksSDKBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment holds for another workspace is neither sent to this one nor in the way."""
    for name in ("HOST", "TOKEN", "CLIENT_ID", "CLIENT_SECRET", "WORKSPACE_ID", "ACCOUNT_ID", "CONFIG_PROFILE"):
        monkeypatch.setenv(f"DATABRICKS_{name}", f"canary-{name.lower()}")
    before = dict(os.environ)
    query_chat("Hi", endpoint=LLAMA, backend=backend)
    query_chat("Hi", endpoint=LLAMA, backend=backend, top_p=0.5)

    assert [True, True] == [question.authorized for question in local.received]
    assert "canary" not in str([question.headers for question in local.received])
    assert before == dict(os.environ)


def test_the_workspace_of_this_host_is_said(local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace that the environment names together with this host is said as the SDK says it."""
    monkeypatch.setenv("DATABRICKS_HOST", local.host)
    monkeypatch.setenv("DATABRICKS_WORKSPACE_ID", "17")
    backend = DatabricksSDKBackend(Connection(local.host, local.token))
    query_chat("Hi", endpoint=LLAMA, backend=backend)
    query_chat("Hi", endpoint=LLAMA, backend=backend, top_p=0.5)
    backend.close()

    assert ["17", "17"] == [question.headers["x-databricks-workspace-id"] for question in local.questions]


def test_it_logs_in_as_a_machine(local: LocalEndpoint) -> None:
    """OAuth, by the connection: one token for many questions, and a new one when it is refused."""
    login = Connection(local.host, client_id=local.client_id, client_secret=local.client_secret)
    backend = DatabricksSDKBackend(login)
    for _ in range(3):
        query_chat("Hi", endpoint=LLAMA, backend=backend)
    local._sign_in._issued.clear()
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend)
    backend.close()

    assert answer.text == "Hi"
    assert ["AuthenticationFailed"] == [attempt.error for attempt in answer.attempts]
    assert len([request for request in local.received if request.path.endswith("/token")]) == 2


def test_a_client_of_yours_is_used(local: LocalEndpoint, client: Any) -> None:
    """A ready client keeps its host, login and adapters, is asked once an attempt, and stays open."""
    backend = DatabricksSDKBackend(client=client)
    answer = query_chat("Hi", endpoint=LLAMA, backend=backend)
    streamed = query_chat("Hi", endpoint=LLAMA, backend=backend, stream=True).response
    for status in (429, 503, 500):
        local.order(Fault(status=status))
        with pytest.raises(ServiceError) as refused:
            query_chat("Hi", endpoint=LLAMA, backend=backend, retry=ONCE)
        assert status == refused.value.status
    backend.close()

    assert answer == streamed
    assert len(local.received) == 5
    assert "yours" in repr(backend)
    assert _query(client).choices[0].message.content == "Hi"
    with pytest.raises(ConfigurationError, match="leave out the connection"):
        DatabricksSDKBackend(Connection(local.host, local.token), client=client)


def test_a_client_of_yours_is_yours(local: LocalEndpoint, client: Any) -> None:
    """What else is done with it is as before: its own retries go on, in other threads and after our questions."""
    query_chat("Hi", endpoint=LLAMA, backend=DatabricksSDKBackend(client=client))
    local.order(Fault(status=429, retry_after=0))
    answer = _query(client)

    assert answer.choices[0].message.content == "Hi"
    assert len(local.questions) == 3


def test_what_hangs_on_a_client_of_yours_sees_the_call(local: LocalEndpoint, client: Any) -> None:
    """A method that was replaced on the object itself is called; a refusal reaches it as the SDK's own error."""
    met: list[str] = []
    query = client.serving_endpoints.query

    def counting(name: str, **said: Any) -> Any:
        try:
            return query(name, **said)
        except DatabricksError as error:
            met.append(type(error).__name__)
            raise

    client.serving_endpoints.query = counting
    local.order(Fault(status=429, retry_after=60))
    with pytest.raises(RateLimited) as limited:
        query_chat("Hi", endpoint=LLAMA, backend=DatabricksSDKBackend(client=client), retry=ONCE)

    assert ["RequestLimitExceeded"] == met
    assert isinstance(limited.value.__cause__, TooManyRequests)
    assert limited.value.retry_after == 60
    assert len(local.questions) == 1


def test_an_answer_from_a_cache(local: LocalEndpoint, client: Any) -> None:
    """An answer that a cache around `query` gives is an answer, though no bytes came."""
    client.serving_endpoints.query = lambda *_, **__: QueryEndpointResponse.from_dict(ANSWER)
    answer = query_chat("Hi", endpoint=LLAMA, backend=DatabricksSDKBackend(client=client))

    assert answer.text == "Hi."
    assert local.questions == []


def test_an_adapter_of_yours_is_used(local: LocalEndpoint, client: Any) -> None:
    """An adapter that was mounted on the client's session still carries the question."""
    from requests.adapters import HTTPAdapter

    carried: list[str] = []

    class Mine(HTTPAdapter):
        def send(self, request: Any, **said: Any) -> Any:
            carried.append(request.method)
            return super().send(request, **said)

    client.api_client._api_client._session.mount("http://", Mine())
    query_chat("Hi", endpoint=LLAMA, backend=DatabricksSDKBackend(client=client))

    assert ["POST"] == carried


def test_the_deadline_holds_for_a_client_of_yours(local: LocalEndpoint, client: Any) -> None:
    """Its own timeout is 60 s for each read; the question's is for all of it, on kept connections too."""
    _query(client)
    local.order(Fault(drip=0.1))
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        query_chat("a b c d e f g h", endpoint=LLAMA, backend=DatabricksSDKBackend(client=client), timeout=0.5)

    assert time.monotonic() - begun < 1.5


def test_a_client_that_is_made_otherwise_is_refused(local: LocalEndpoint, client: Any) -> None:
    """Where the SDK no longer sends as we know it, that is said before anything is sent."""
    session = client.api_client._api_client._session
    del client.api_client._api_client._session
    with pytest.raises(ConfigurationError, match="how to drive databricks-sdk"):
        query_chat("Hi", endpoint=LLAMA, backend=DatabricksSDKBackend(client=client))
    client.api_client._api_client._session = session

    assert local.questions == []


# ── manners ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_question_that_is_called_off_is_cut(backend: DatabricksSDKBackend, local: LocalEndpoint) -> None:
    """A cancelled task does not leave its thread waiting for an answer."""

    async def ask() -> float:
        task = asyncio.create_task(aquery_chat("Hi", endpoint=LLAMA, backend=backend, timeout=60))
        while not local.questions:  # noqa: ASYNC110 - they arrive in another thread
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - begun

    local.order(Fault(stall=30.0))

    assert asyncio.run(ask()) < 1
    _threads_end()


def test_more_at_once_than_the_loop_has_threads(backend: DatabricksSDKBackend, local: LocalEndpoint) -> None:
    """Forty questions that take 0.3 s each take no forty times as long."""

    async def ask() -> float:
        begun = time.monotonic()
        await asyncio.gather(*(aquery_chat("Hi", endpoint=LLAMA, backend=backend) for _ in range(40)))
        return time.monotonic() - begun

    query_chat("Hi", endpoint=LLAMA, backend=backend)
    local.order(Fault(delay=0.3, times=None))

    assert asyncio.run(ask()) < 1.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_asks_with_a_client_of_yours(local: LocalEndpoint, client: Any) -> None:
    """After the parent has asked, a forked child asks on a connection of its own, and then the parent again."""
    backend = DatabricksSDKBackend(client=client)
    query_chat("Hi", endpoint=LLAMA, backend=backend)
    child = os.fork()
    if child == 0:
        text = query_chat("child", endpoint=LLAMA, backend=backend, timeout=10).text
        os._exit(0 if text == "child" else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert query_chat("Hi", endpoint=LLAMA, backend=backend).text == "Hi"
    assert len(local.questions) == 3


def test_an_error_of_the_sdk_without_bytes(local: LocalEndpoint, client: Any) -> None:
    """An error of the SDK's that a wrapper raised by itself is classified by its code."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise DatabricksError("Wait.", error_code="TEMPORARILY_UNAVAILABLE")

    client.serving_endpoints.query = refuse
    with pytest.raises(ServiceUnavailable, match="Wait"):
        query_chat("Hi", endpoint=LLAMA, backend=DatabricksSDKBackend(client=client), retry=ONCE)


def _threads_end() -> None:
    """The thread that asked for asyncio ends with its question."""
    until = time.monotonic() + 2
    while [thread for thread in threading.enumerate() if thread.name.startswith("isochat_")]:
        assert time.monotonic() < until
        time.sleep(0.01)


# ── surprises ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_surprise_the_constructor_asks_the_host(local: LocalEndpoint) -> None:
    """The client alone asks the host for its configuration when it is made."""
    made = sdk.WorkspaceClient(host=local.host, token=local.token, auth_type="pat")
    made.api_client._api_client._session.close()

    assert ["/.well-known/databricks-config"] == [request.path for request in local.received]


def test_surprise_query_loses_the_finish_reason(client: Any) -> None:
    """The client alone has no finish reason, since it looks for `finishReason`."""
    assert _query(client).choices[0].finish_reason is None


def test_surprise_query_loses_tool_calls(client: Any, local: LocalEndpoint) -> None:
    """The client alone has no tool calls."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    local.reply(body={"choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": [call]}}]})

    assert "tool_calls" not in json.dumps(_query(client).as_dict())


def test_surprise_query_cannot_stream(client: Any, local: LocalEndpoint) -> None:
    """The client alone reads a stream to its end, and fails on it."""
    with pytest.raises(ValueError, match="Expecting value"):
        _query(client, stream=True)

    assert len(local.questions) == 1


def test_surprise_it_asks_for_minutes(client: Any, local: LocalEndpoint) -> None:
    """The client alone asks again, here for a second, by default for 300, and then raises a bare `TimeoutError`."""
    local.order(Fault(status=429, times=None))
    with pytest.raises(TimeoutError) as late:
        _query(client)

    assert type(late.value) is TimeoutError
    assert isinstance(late.value.__cause__, TooManyRequests)


def test_surprise_the_status_is_lost(client: Any, local: LocalEndpoint) -> None:
    """The client alone has an error without a status."""
    local.reply(status=413, body={"error_code": "SOME", "message": "Too much."})
    with pytest.raises(DatabricksError) as refused:
        _query(client)

    assert type(refused.value) is DatabricksError
    assert "413" not in str([refused.value, vars(refused.value)])


def test_surprise_a_name_is_a_path(client: Any, local: LocalEndpoint) -> None:
    """The client alone lets a name leave its place."""
    with pytest.raises(DatabricksError):
        _query(client, name="a/../../api/2.0/other")

    assert not local.received[-1].path.startswith("/serving-endpoints/")


def test_surprise_a_wrong_charset_is_believed(client: Any, local: LocalEndpoint) -> None:
    """The client alone garbles an answer whose header names another charset than its bytes are in."""
    body = json.dumps({"choices": [{"index": 0, "message": {"content": "größe"}}]}, ensure_ascii=False).encode()
    local.reply(body=body, headers={"content-type": "application/json; charset=iso-8859-1"})

    assert _query(client).choices[0].message.content != "größe"


def test_surprise_the_timeout_is_per_read(local: LocalEndpoint) -> None:
    """The client alone waits longer than its timeout, as long as something drips."""
    alone = _client(local, http_timeout_seconds=0.3)
    local.order(Fault(drip=0.005))
    begun = time.monotonic()
    _query(alone)
    alone.api_client._api_client._session.close()

    assert time.monotonic() - begun > 0.3


def test_surprise_a_login_in_the_environment_is_one_too_many(
    local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client alone refuses a token beside the client id of another login in the environment."""
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "other")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "other")
    with pytest.raises(ValueError, match="more than one authorization method"):
        sdk.WorkspaceClient(host=local.host, token=local.token)


def test_a_refused_login_is_told(local: LocalEndpoint) -> None:
    """A login that the workspace refuses is an `AuthenticationFailed`, asked for once."""
    backend = DatabricksSDKBackend(Connection(local.host, client_id=local.client_id, client_secret="wrong"))
    with pytest.raises(AuthenticationFailed):
        query_chat("Hi", endpoint=LLAMA, backend=backend)

    assert local.questions == []


# ── proxies ──────────────────────────────────────────────────────────────────────────────────────────────────────


def looked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that a proxy was looked for in the environment, from now on."""
    found: list[str] = []
    utils = import_module("requests.utils")
    real = utils.get_environ_proxies

    def seen(url: str, *more: Any, **named: Any) -> Any:
        found.append(url)
        return real(url, *more, **named)

    for module in (utils, import_module("requests.sessions")):
        monkeypatch.setattr(module, "get_environ_proxies", seen)
    return found


def test_surprise_requests_looks_for_a_proxy_at_every_request(
    local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is read anew each time, which costs a good part of a question."""
    looked = looked_for(monkeypatch)
    with import_module("requests").Session() as session:
        for _ in range(2):
            session.get(local.host)

    assert 2 == len(looked)


def test_a_proxy_is_looked_for_when_the_environment_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And at no other time."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    looked, url = looked_for(monkeypatch), "https://somewhere.cloud.databricks.com/path"
    monkeypatch.setenv("HTTPS_PROXY", "http://one.test:1")
    before = [_requests._proxies(url) for _ in range(2)]
    monkeypatch.setenv("HTTPS_PROXY", "http://two.test:2")
    after = _requests._proxies(url)

    assert ["http://one.test:1"] * 2 == [each["https"] for each in before]
    assert "http://two.test:2" == after["https"]
    assert 2 == len(looked)
