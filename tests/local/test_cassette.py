"""What is recorded through one client replays through every other, holds no secret, and misses nothing in silence."""

from __future__ import annotations

import gc
import http.client
import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

yaml = pytest.importorskip("yaml")

import isochat
from isochat import ChatError, Connection, RateLimited, RequestRefused, Retry, query_chat
from isochat.backends import available
from isochat.local import Fault, LocalEndpoint, serve
from isochat.local._recording import Cleaner, Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Ask

#: An endpoint of the workspace that no replaying endpoint has of itself, and others of other families.
TEAM, GPT, LLAMA = "team-claude", "databricks-gpt-5-1", "databricks-meta-llama-3-3-70b-instruct"
PATH = f"/serving-endpoints/{LLAMA}/invocations"
PAT = "dapi0123456789abcdef0123456789abcdef"
KEY = "a-workspace-token-canary"
ONCE = Retry(attempts=1)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDw"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture
def swept() -> Iterator[None]:
    """What a client leaves open is collected in its own test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def workspace() -> Iterator[LocalEndpoint]:
    """What is recorded."""
    with LocalEndpoint(models={TEAM: "claude"}, token=KEY) as there:
        yield there


def body(text: str = "one two three", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def parts(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


def texts(folder: Path) -> dict[str, str]:
    """What stands in a directory, hidden files included."""
    return {each.name: each.read_text(encoding="utf-8") for each in sorted(folder.iterdir())}


# ── through one client, through every other ──────────────────────────────────────────────────────────────────────

CHAT = ["rest", "openai", "mlflow", "databricks-sdk", "langchain"]
INSTALLED = {info.name for info in available() if not info.missing}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "whole": ("What is a mixture of experts?", {"temperature": 0.5, "max_tokens": 10, "stop": ["xyz"]}),
    "stream": ("What is a stream?", {"stream": True}),
    "calls": ("get_weather, please", {"tools": [WEATHER]}),
    "calls in a stream": ("get_weather, please", {"tools": [WEATHER], "stream": True}),
    "thinking": ("Hm?", {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4000}),
    "thinking in a stream": (
        "Hm?",
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4000, "stream": True},
    ),
    "schema": (
        "Some json.",
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "it", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    "image": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": PIXEL}},
                ],
            }
        ],
        {},
    ),
    "several lines": ("one\n\ttwo: three\n\n# 'four' \"five\" Grüße 🦉 \x85 \u2028", {}),
}


def ask(connection: Connection, backend: str, case: str, endpoint: str = TEAM, **more: Any) -> Any:
    messages, options = CASES[case]
    given = {"backend": backend, "connection": connection, "endpoint": endpoint, "timeout": 30, **options, **more}
    answer = query_chat(messages, **given)
    return answer.collect() if options.get("stream") else answer


def conversation(connection: Connection, backend: str) -> list[Any]:
    """A call, its result, and what is said of it."""
    given: dict[str, Any] = {
        "backend": backend, "connection": connection, "endpoint": TEAM, "timeout": 30, "tools": [WEATHER],
    }  # fmt: skip
    first = query_chat("get_weather in Oslo", **given)
    (call,) = first.tool_calls
    messages = [
        {"role": "user", "content": "get_weather in Oslo"},
        first.message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    return [first, query_chat(messages, **given)]


@pytest.fixture(scope="module")
def recorded(workspace: LocalEndpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A directory that was recorded through `rest`, and what was answered then."""
    folder = tmp_path_factory.mktemp("cassettes") / "new" / "one"
    with LocalEndpoint(cassette=folder, record_mode="all", upstream=workspace.host, upstream_key=KEY) as local:
        connection = Connection(local.host, local.token)
        answers = {case: ask(connection, "rest", case) for case in CASES}
        answers["conversation"] = conversation(connection, "rest")
        files = local.recorded

        assert [] == local.unmatched
    assert [each.name for each in files] == sorted(each.name for each in folder.iterdir())
    assert len(CASES) + 2 == len(files)
    return folder, answers


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("backend", CHAT)
def test_recorded_through_rest_replays_through_every_client(
    recorded: tuple[Path, dict[str, Any]], backend: str
) -> None:
    """Each client gets the answers that `rest` got: text, reasoning, calls, usage, ids; and nobody else is asked."""
    if backend not in INSTALLED:
        pytest.skip(f"{backend} is not installed")
    folder, answers = recorded
    before = texts(folder)
    with LocalEndpoint(cassette=folder) as local:
        connection = Connection(local.host, local.token)
        for case in CASES:
            answer = ask(connection, backend, case)

            assert answers[case] == answer, case
            assert answers[case].id == answer.id, case
        replayed = conversation(connection, backend)

        assert answers["conversation"] == replayed
        assert [] == local.unmatched == local.recorded
    assert before == texts(folder)


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("backend", CHAT)
def test_recorded_through_any_client_replays_through_rest(
    workspace: LocalEndpoint, tmp_path: Path, backend: str
) -> None:
    """And the other way round."""
    if backend not in INSTALLED:
        pytest.skip(f"{backend} is not installed")
    with LocalEndpoint(cassette=tmp_path, record_mode="all", upstream=workspace.host, upstream_key=KEY) as local:
        through = Connection(local.host, local.token)
        answers = [ask(through, backend, case) for case in CASES]
        told = conversation(through, backend)
    with LocalEndpoint(cassette=tmp_path) as local:
        through = Connection(local.host, local.token)

        assert answers == [ask(through, "rest", case) for case in CASES]
        assert told == conversation(through, "rest")


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize(
    "scripted",
    [
        (Fault(status=429, retry_after=0, message="Too many."), RateLimited),
        (Fault(status=400, message="No."), RequestRefused),
        (Fault(status=503, body="<html>away</html>"), isochat.ServiceUnavailable),
    ],
    ids=["429", "400", "503"],
)
@pytest.mark.parametrize("backend", CHAT)
def test_errors_are_replayed(tmp_path: Path, backend: str, scripted: tuple[Fault, type[ChatError]]) -> None:
    """Status, body and `Retry-After` are as recorded; what was asked again is answered in the order recorded."""
    if backend not in INSTALLED:
        pytest.skip(f"{backend} is not installed")
    fault, kind = scripted
    given: dict[str, Any] = {"endpoint": LLAMA, "timeout": 30}
    with LocalEndpoint() as there:
        there.order(fault)
        with LocalEndpoint(
            cassette=tmp_path, record_mode="all", upstream=there.host, upstream_key=there.token
        ) as local:
            connection = Connection(local.host, local.token)
            with pytest.raises(kind) as first:
                query_chat("Hi", backend="rest", connection=connection, retry=ONCE, **given)
            query_chat("Hi", backend="rest", connection=connection, retry=ONCE, **given)
    with LocalEndpoint(cassette=tmp_path) as local:
        connection = Connection(local.host, local.token)
        with pytest.raises(kind) as again:
            query_chat("Hi", backend=backend, connection=connection, retry=ONCE, **given)
        answer = query_chat("Hi", backend=backend, connection=connection, **given)

    assert (first.value.status, first.value.message) == (again.value.status, again.value.message)
    assert first.value.retry_after == again.value.retry_after == (0 if fault.retry_after is not None else None)
    assert "Hi" == answer.text


def test_a_client_that_retries_gets_through(tmp_path: Path, ask_of: type[Ask]) -> None:
    """Recorded were a 429 and what came after it: so it is for the first to ask, and for nobody else."""
    with (
        LocalEndpoint(faults=[Fault(status=429, retry_after=0)]) as there,
        LocalEndpoint(cassette=tmp_path, record_mode="all", upstream=there.host, upstream_key=there.token) as local,
    ):
        query_chat("Hi", endpoint=LLAMA, backend="rest", connection=Connection(local.host, local.token))
    with LocalEndpoint(cassette=tmp_path) as local:
        replies = [ask_of(local).request("POST", PATH, json.dumps(body("Hi")).encode()) for _ in range(3)]
        local.reset()
        rewound = ask_of(local).request("POST", PATH, json.dumps(body("Hi")).encode())

    assert [429, 200, 200, 429] == [status for status, _, _ in [*replies, rewound]]
    assert "0" == replies[0][1]["retry-after"]


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_responses_api(workspace: LocalEndpoint, tmp_path: Path, *, stream: bool) -> None:
    """A recorded question to the Responses API is replayed; it is another one than the same words in chat."""
    pytest.importorskip("openai")
    given: dict[str, Any] = {"endpoint": GPT, "tools": [WEATHER], "stream": stream, "timeout": 30, "retry": ONCE}

    def told(local: LocalEndpoint, messages: Any) -> Any:
        connection = Connection(local.host, local.token)
        answer = query_chat(messages, backend="openai-responses", connection=connection, **given)
        return answer.collect() if stream else answer

    def both(local: LocalEndpoint) -> list[Any]:
        first = told(local, "get_weather")
        result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}
        return [first, told(local, [{"role": "user", "content": "get_weather"}, first.message, result])]

    with LocalEndpoint(cassette=tmp_path, record_mode="all", upstream=workspace.host, upstream_key=KEY) as local:
        recorded = both(local)
    with LocalEndpoint(cassette=tmp_path) as local:
        assert recorded == both(local)
        with pytest.raises(RequestRefused, match="No chat question is recorded"):
            query_chat("get_weather", backend="rest", connection=Connection(local.host, local.token), **given)


@pytest.mark.usefixtures("swept")
def test_statements(workspace: LocalEndpoint, tmp_path: Path) -> None:
    """`ai_query` is replayed from the statement that was recorded, whatever the warehouse is called."""
    pytest.importorskip("databricks.sdk")
    pytest.importorskip("sqlglot")
    from isochat.backends.ai_query import AIQueryBackend

    def told(local: LocalEndpoint, warehouse: str) -> Any:
        backend = AIQueryBackend(Connection(local.host, local.token), warehouse_id=warehouse)
        return query_chat("What is X?", endpoint=TEAM, backend=backend, max_tokens=5, timeout=30, retry=ONCE)

    with LocalEndpoint(cassette=tmp_path, record_mode="all", upstream=workspace.host, upstream_key=KEY) as local:
        recorded = told(local, "warehouse-canary-1")
    with LocalEndpoint(cassette=tmp_path) as local:
        replayed = told(local, "warehouse-canary-2")

        assert [] == local.unmatched
    assert recorded == replayed
    assert ["0001-sql-statement.yaml"] == list(texts(tmp_path))
    assert "canary" not in "".join(texts(tmp_path).values())


def test_statements_that_take_their_time(workspace: LocalEndpoint, tmp_path: Path, ask_of: type[Ask]) -> None:
    """A statement that is looked at until it is done is the same when it is replayed."""
    pytest.importorskip("sqlglot")
    statement = {"statement": "SELECT 1 AS one", "warehouse_id": "w", "wait_timeout": "0s"}
    path = "/api/2.0/sql/statements"

    def told(local: LocalEndpoint) -> list[Any]:
        begun = json.loads(ask_of(local).post(path, statement))
        looks = [begun]
        while looks[-1]["status"]["state"] in {"PENDING", "RUNNING"}:
            looks.append(ask_of(local).get(f"{path}/{begun['statement_id']}"))
        return looks

    with LocalEndpoint(cassette=tmp_path, record_mode="all", upstream=workspace.host, upstream_key=KEY) as local:
        recorded = told(local)
    with LocalEndpoint(cassette=tmp_path) as local:
        assert recorded == told(local)
        assert [["1"]] == recorded[-1]["result"]["data_array"]


# ── unmodified clients, without isochat ──────────────────────────────────────────────────────────────────────────


def _openai(local: LocalEndpoint, *, stream: bool) -> str:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{local.host}/serving-endpoints", api_key=local.token, max_retries=0) as client:
        given = {"model": TEAM, "messages": body()["messages"], "n": 1, "temperature": 1}
        if not stream:
            return client.chat.completions.create(**given).choices[0].message.content
        chunks = client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def _mlflow(local: LocalEndpoint, *, stream: bool) -> str:
    deployments = pytest.importorskip("mlflow.deployments")
    client = deployments.get_deploy_client("databricks")
    if not stream:
        return client.predict(endpoint=TEAM, inputs=body(temperature=1.0))["choices"][0]["message"]["content"]
    chunks = client.predict_stream(endpoint=TEAM, inputs=body(temperature=1.0))
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


def _sdk(local: LocalEndpoint, *, stream: bool) -> str:
    sdk = pytest.importorskip("databricks.sdk")
    from databricks.sdk.service.serving import ChatMessage, ChatMessageRole

    assert not stream  # which it cannot read
    client = sdk.WorkspaceClient(host=local.host, token=local.token)
    messages = [ChatMessage(role=ChatMessageRole.USER, content="one two three")]
    return client.serving_endpoints.query(TEAM, messages=messages, temperature=1.0).choices[0].message.content


def _langchain(local: LocalEndpoint, *, stream: bool) -> str:
    langchain = pytest.importorskip("databricks_langchain")
    pytest.importorskip("openai")
    model = langchain.ChatDatabricks(endpoint=TEAM, temperature=1)
    if not stream:
        return model.invoke("one two three").content
    return "".join(chunk.content for chunk in model.stream("one two three"))


@pytest.mark.usefixtures("swept")
@pytest.mark.filterwarnings("ignore")  # what some of them import warns of much, and they leave sockets open
@pytest.mark.parametrize(
    ("client", "stream"),
    [
        (_openai, False),
        (_openai, True),
        (_mlflow, False),
        (_mlflow, True),
        (_sdk, False),
        (_langchain, False),
        (_langchain, True),
    ],
)
def test_unmodified_clients_replay_what_rest_recorded(
    workspace: LocalEndpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    client: Callable[..., str],
    *,
    stream: bool,
) -> None:
    """A client of somebody else's, as it is: what it adds of its own (`n`, `stream_options`, nulls) is no question."""
    with LocalEndpoint(cassette=tmp_path, record_mode="all", upstream=workspace.host, upstream_key=KEY) as local:
        connection = Connection(local.host, local.token)
        given: dict[str, Any] = {"endpoint": TEAM, "backend": "rest", "connection": connection, "temperature": 1.0}
        answer = query_chat("one two three", stream=stream, **given)
        text = answer.collect().text if stream else answer.text
    with LocalEndpoint(cassette=tmp_path) as local:
        monkeypatch.setenv("DATABRICKS_HOST", local.host)
        monkeypatch.setenv("DATABRICKS_TOKEN", local.token)

        assert text == client(local, stream=stream) == "one two three"
        assert [] == local.unmatched
        assert 1 == len(local.questions)


# ── no secret ────────────────────────────────────────────────────────────────────────────────────────────────────

CANARIES = [
    "login-canary-0123",
    PAT,
    PAT[::-1].upper(),
    "cookie-canary-1",
    "cookie-canary-2",
    "gateway-canary-11",
    "header-canary-1",
    "password-canary",
    "client-secret-canary",
    "person-canary@example.com",
    "person-canary-2",
    "6543210987654321",
    "5f1a0d3c-request-canary",
    "session-canary-12",
    "sk-canary-0123456789abcdefghij",
    "client-request-canary",
    "tenant-canary",
]


def test_no_canary_is_found(tmp_path: Path, ask_of: type[Ask], caplog: pytest.LogCaptureFixture) -> None:
    """Tokens in headers, bodies and answers, ids of a request, a workspace or a person: none is in a file."""
    said = f"{PAT} login-canary-0123 sk-canary-0123456789abcdefghij for 6543210987654321"
    escaped = json.dumps({"content": "x"}).replace("x", "".join(f"\\u{ord(each):04x}" for each in PAT))
    answer = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        "access_token": PAT[::-1].upper(),
        "databricks_request_id": "5f1a0d3c-request-canary",
        "user_name": "person-canary-2",
        PAT: "as a key",
        "within": json.dumps({"client_secret": "client-secret-canary"}),
        "again": "session-canary-12 and 5f1a0d3c-request-canary",
    }
    cut = (
        f'data: {{"choices":[{{"index":0,"delta":{{"content":"{said}"}}}}],"user_name":"person-canary-2"}}\n\n'.encode()
    )
    reply_headers = {
        "x-request-id": "5f1a0d3c-request-canary",
        "x-databricks-org-id": "6543210987654321",
        "set-cookie": "session=session-canary-12; Path=/",
        "x-mine": "header-canary-1",
    }
    sent = body(
        f"my key is {PAT}, {said}",
        user="person-canary@example.com",
        client_request_id="client-request-canary",
        usage_context={"project": "tenant-canary"},
    )
    login = {
        "Authorization": "Bearer login-canary-0123",
        "Cookie": "a=cookie-canary-1; b=cookie-canary-2",
        "X-Databricks-AI-Gateway-Token": "gateway-canary-11",
        "X-Api-Key": "header-canary-1",
        "X-Forwarded-User": "person-canary@example.com",
        "X-Databricks-Org-Id": "6543210987654321",
    }
    with (
        LocalEndpoint(token="login-canary-0123") as there,
        LocalEndpoint(cassette=tmp_path, record_mode="all", upstream=there.host) as local,
    ):
        there.reply(body=answer, headers=reply_headers)
        ask_of(local).post(PATH + "?password=password-canary", sent, login)
        there.reply(chunks=[cut[:60], cut[60:], b"data: [DONE]\n\n"], headers=reply_headers)
        ask_of(local).post(PATH, {**sent, "stream": True}, login)
        there.reply(chunks=[f"data: {escaped}\n\n".encode(), b": 6543210987654321\n\n"], headers=reply_headers)
        ask_of(local).post(PATH, {**sent, "stream": True}, login)
        there.reply(body=f"<html>{said}</html>", headers=reply_headers)
        ask_of(local).post(PATH, body("a page"), login)
        there.reply(chunks=[b"data: \xff " + said.encode() + b"\n\n"], headers=reply_headers)
        ask_of(local).post(PATH, body("bytes", stream=True), login)
        there.reply(body=b"\xff\xfe " + said.encode(), headers=reply_headers)
        ask_of(local).post(PATH, body("bytes"), login)
        there.reply(500, body={"error_code": "X", "message": said}, headers=reply_headers)
        with pytest.raises(ask_of.Refused):
            ask_of(local).post(PATH, body("an error"), login)
    files = texts(tmp_path)
    replies = b"".join(Recording.parse(text).content() for text in files.values()).decode("latin-1")
    values = "".join(map(str, (yaml.safe_load(text) for text in files.values()))) + replies

    assert 7 == len(files)
    assert [] == [each for each in CANARIES if each in "".join(files.values()) or each in values]

    with LocalEndpoint(cassette=tmp_path) as local:
        ask_of(local).post(PATH, sent)  # it is still the same question
        with pytest.raises(ask_of.Refused) as no:
            ask_of(local).post(PATH, {**sent, "temperature": 0.5, "password": "password-canary"}, {"X-Api-Key": KEY})
        (unmatched,) = local.unmatched
    told = f"{no.value.body.decode()} {unmatched!r} {unmatched} {caplog.text}"

    assert "+temperature: 0.5" in unmatched.diff
    # The replaying endpoint has never seen that login or that workspace: to it, both are words like any others.
    assert {"login-canary-0123", "6543210987654321"} == {each for each in CANARIES if each in told}


def test_a_scrubbed_answer_says_all_the_rest(tmp_path: Path, ask_of: type[Ask]) -> None:
    """Stand-ins are always the same, and everything else is as it was."""
    answer = {"id": "chatcmpl-1", "created": 1700000000, "choices": [], "databricks_request_id": "123", "n": 1.0}
    for number in (1, 2):
        with LocalEndpoint() as local:
            local.reply(body={**answer, "databricks_request_id": f"id-{number}"}, headers={"x-request-id": "1" * 9})
            with LocalEndpoint(
                cassette=tmp_path / str(number), record_mode="all", upstream=local.host, upstream_key=local.token
            ) as recording:
                ask_of(recording).post(PATH, body(user=f"somebody {number}"), {"X-Request-Id": f"2345678{number}"})
    one, two = (texts(tmp_path / str(number)) for number in (1, 2))

    def timeless(files: dict[str, str]) -> list[str]:
        return [line for text in files.values() for line in text.splitlines() if not line.startswith("  after:")]

    assert timeless(one) == timeless(two)

    response = yaml.safe_load(*one.values())["response"]

    assert {**answer, "databricks_request_id": response["body"]["databricks_request_id"]} == response["body"]
    assert {"content-type": "application/json"} == response["headers"]


# ── record modes ─────────────────────────────────────────────────────────────────────────────────────────────────


def asks(folder: Path, mode: str | None, *says: str, ask_of: type[Ask], faults: Any = (), **more: Any) -> list[Any]:
    """What each question got, from an endpoint with this cassette that answers itself."""
    got = []
    with LocalEndpoint(cassette=folder, record_mode=mode, faults=faults, **more) as local:  # type: ignore[arg-type]
        for say in says:
            status, _, content = ask_of(local).request("POST", PATH, json.dumps(body(say)).encode())
            got.append(json.loads(content)["choices"][0]["message"]["content"] if status == 200 else status)
    return got


def test_mode_none(tmp_path: Path, ask_of: type[Ask]) -> None:
    """It replays, records nothing and asks nobody."""
    asks(tmp_path, "all", "a", ask_of=ask_of)
    before = texts(tmp_path)

    assert ["a", 404, "a"] == asks(tmp_path, "none", "a", "b", "a", ask_of=ask_of)
    assert ["a", 404] == asks(tmp_path, None, "a", "b", ask_of=ask_of)
    assert before == texts(tmp_path)


def test_mode_once(tmp_path: Path, ask_of: type[Ask]) -> None:
    """It records into an empty directory, and replays one that is not."""
    assert ["a", "b"] == asks(tmp_path, "once", "a", "b", ask_of=ask_of)
    before = texts(tmp_path)

    assert ["b", 404, "a"] == asks(tmp_path, "once", "b", "c", "a", ask_of=ask_of)
    assert before == texts(tmp_path)
    assert 2 == len(before)


def test_mode_new_episodes(tmp_path: Path, ask_of: type[Ask]) -> None:
    """It replays what is there, and adds what is not."""
    asks(tmp_path, "all", "a", ask_of=ask_of)
    before = texts(tmp_path)
    script = [{"when": {"contains": "a"}, "reply": "not this"}, {"when": {"contains": "b"}, "reply": "new"}]

    assert ["a", "new"] == asks(tmp_path, "new_episodes", "a", "b", ask_of=ask_of, script={"rules": script})
    assert before.items() < texts(tmp_path).items()
    assert ["a", "new", 404] == asks(tmp_path, "none", "a", "b", "c", ask_of=ask_of)


def test_mode_all(tmp_path: Path, ask_of: type[Ask]) -> None:
    """It asks anew whatever is there, and replaces what there was of the same question, every time of it."""
    asks(tmp_path, "all", "a", "b", "a", ask_of=ask_of)
    script = [{"when": {"contains": "a"}, "reply": "new", "times": 1}, {"when": {"contains": "a"}, "reply": "newer"}]

    assert ["new", "newer"] == asks(tmp_path, "all", "a", "a", ask_of=ask_of, script={"rules": script})
    assert ["new", "newer", "newer", "b"] == asks(tmp_path, "none", "a", "a", "a", "b", ask_of=ask_of)
    assert 3 == len(texts(tmp_path))


def test_what_is_ordered_goes_first(tmp_path: Path, ask_of: type[Ask]) -> None:
    """A fault can be ordered of a replay too; the recording is there for the next question."""
    asks(tmp_path, "all", "a", ask_of=ask_of)

    assert [503, "a"] == asks(tmp_path, "none", "a", "a", ask_of=ask_of, faults=[503])


# ── what there is no recording of ────────────────────────────────────────────────────────────────────────────────


def test_a_mismatch_shows_what_differs(tmp_path: Path, ask_of: type[Ask], caplog: pytest.LogCaptureFixture) -> None:
    """Databricks' error names the nearest recording and the difference, `unmatched` too; the log holds no prompt."""
    asks(tmp_path, "all", "something else entirely", "What is X?", ask_of=ask_of)
    with LocalEndpoint(cassette=tmp_path) as local:
        with pytest.raises(ask_of.Refused) as no:
            ask_of(local).chat(LLAMA, "What is Y?", temperature=0.5)
        (unmatched,) = local.unmatched
        local.reset()

        assert [] == local.unmatched
    nearest = tmp_path / f"0002-{LLAMA}-chat.yaml"
    added = [line for line in unmatched.diff.splitlines() if line[0] in "+-"]

    assert (404, "RECORDING_NOT_FOUND") == (no.value.status, no.value.error["error_code"])
    assert no.value.error["message"] == str(unmatched) == unmatched.message
    assert unmatched.message.startswith(f"No recording in {tmp_path} answers this chat question. The nearest is ")
    assert unmatched.message.endswith(unmatched.diff)
    assert ("POST", PATH, nearest) == (unmatched.method, unmatched.path, unmatched.nearest)
    assert [
        f"--- recorded in {nearest.name}",
        "+++ asked",
        "-- content: What is X?",
        "+- content: What is Y?",
        "+temperature: 0.5",
    ] == added
    assert nearest.name in caplog.text
    assert "What is" not in caplog.text


def test_a_long_difference_is_cut_in_the_error_only(tmp_path: Path, ask_of: type[Ask]) -> None:
    """What does not fit into an error's message is in `unmatched`."""
    asks(tmp_path, "all", "a", ask_of=ask_of)
    with LocalEndpoint(cassette=tmp_path) as local:
        with pytest.raises(RequestRefused) as no:
            query_chat(
                "\n".join(f"line {n}" for n in range(500)),
                endpoint=LLAMA,
                backend="rest",
                connection=Connection(local.host, local.token),
            )
        (unmatched,) = local.unmatched

    assert "lines more" in str(no.value)
    assert "line 499" in unmatched.diff


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("backend", CHAT)
def test_no_backend_asks_again(tmp_path: Path, backend: str) -> None:
    """A mismatch is one request and one error, through every client."""
    if backend not in INSTALLED:
        pytest.skip(f"{backend} is not installed")
    with LocalEndpoint(cassette=tmp_path) as local:
        with pytest.raises(RequestRefused, match="No chat question is recorded in"):
            query_chat("Hi", endpoint=LLAMA, backend=backend, connection=Connection(local.host, local.token))

        assert (1, 1) == (len(local.questions), len(local.unmatched))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_other_way_of_answering_is_not_guessed(tmp_path: Path, ask_of: type[Ask], *, stream: bool) -> None:
    """What was recorded whole is not made a stream, nor the other way round: the error says which it was."""
    with LocalEndpoint(cassette=tmp_path, record_mode="all") as local:
        ask_of(local).post(PATH, body(stream=stream))
    with LocalEndpoint(cassette=tmp_path) as local, pytest.raises(ask_of.Refused) as no:
        ask_of(local).post(PATH, body(stream=not stream))

    assert 404 == no.value.status
    was, wanted = ("as a stream", "whole") if stream else ("whole", "as a stream")
    (file,) = texts(tmp_path)
    assert (
        f"This was recorded {was} ({file}) and is asked for {wanted}: record it {wanted} as well."
        == no.value.error["message"]
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (body(), body(stream=False, stream_options=None, n=1, temperature=None, tools=[], user="me")),
        (body(temperature=1), body(temperature=1.0)),
        (body(), parts({"type": "text", "text": "one two three"})),
        (body(), {**body(), "model": LLAMA}),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1,"y":2}'}}]},
                {"role": "tool", "tool_call_id": "a", "content": "1"}]},
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [
                {"id": "b", "type": "function", "function": {"name": "f", "arguments": '{"y": 2, "x": 1}'}}]},
                {"role": "tool", "tool_call_id": "b", "content": "1", "name": None}]},
        ),
    ],
    ids=["what says nothing", "numbers", "text", "model", "calls"],
)  # fmt: skip
def test_what_means_the_same_is_the_same(tmp_path: Path, ask_of: type[Ask], one: Any, other: Any) -> None:
    """Key order, nulls, a text as one part, ids of calls: written otherwise, it is the same question."""
    reply = {"choices": [], "id": "x"}
    with LocalEndpoint(cassette=tmp_path, record_mode="all") as local:
        local.reply(body=reply)
        ask_of(local).post(PATH, one)
    with LocalEndpoint(cassette=tmp_path) as local:
        assert reply == json.loads(ask_of(local).post(PATH, dict(reversed(other.items()))))
        assert reply == json.loads(ask_of(local).post("/serving-endpoints/chat/completions", {**other, "model": LLAMA}))


@pytest.mark.parametrize(
    "other",
    [
        body(n=2),
        body(logprobs=True),
        body("one two  three"),
        body(tools=[WEATHER]),
        {"messages": [{"role": "system", "content": "Be brief."}, *body()["messages"]]},
        parts({"type": "text", "text": "one two three", "cache_control": {"type": "ephemeral"}}),
        parts({"type": "text", "text": "one two"}, {"type": "text", "text": " three"}),
    ],
    ids=["n", "logprobs", "words", "tools", "system", "cache_control", "parts"],
)  # fmt: skip
def test_what_means_something_else_is_another_question(tmp_path: Path, ask_of: type[Ask], other: Any) -> None:
    """Anything that a model might answer otherwise is not replayed."""
    asks(tmp_path, "all", "one two three", ask_of=ask_of)
    with LocalEndpoint(cassette=tmp_path) as local:
        with pytest.raises(ask_of.Refused, match="RECORDING_NOT_FOUND"):
            ask_of(local).post(PATH, other)
        with pytest.raises(ask_of.Refused, match="RECORDING_NOT_FOUND"):
            ask_of(local).chat(GPT, "one two three")


def test_results_that_change_places_are_another_question(tmp_path: Path, ask_of: type[Ask]) -> None:
    """The ids of calls may be others, but not which result belongs to which call."""

    def turn(first: str, second: str) -> dict[str, Any]:
        calls = [{"id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id_ in ("a", "b")]
        results = [{"role": "tool", "tool_call_id": id_, "content": say} for id_, say in ((first, "1"), (second, "2"))]
        return {"messages": [*body()["messages"], {"role": "assistant", "tool_calls": calls}, *results]}

    with LocalEndpoint(cassette=tmp_path, record_mode="all") as local:
        local.reply(body={"choices": []})
        ask_of(local).post(PATH, turn("a", "b"))
    with LocalEndpoint(cassette=tmp_path) as local:
        ask_of(local).post(PATH, turn("a", "b"))
        with pytest.raises(ask_of.Refused, match="RECORDING_NOT_FOUND"):
            ask_of(local).post(PATH, turn("b", "a"))


# ── the files ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_can_be_read_and_written_by_hand(tmp_path: Path, ask_of: type[Ask]) -> None:
    """A recording is YAML of which every line says something."""
    (tmp_path / "README.md").write_text("What is here.", encoding="utf-8")
    (tmp_path / "1-mine.yml").write_text(
        textwrap.dedent("""\
            recording: 1
            request:
              method: POST
              path: /serving-endpoints/mine/invocations
              body: {messages: [{role: user, content: Hi}], stream: true}
            response:
              status: 200
              headers: {content-type: text/event-stream}
              stream:
              - {data: '{"choices": []}'}
              - {after: 0.5, event: named, data: '{"x": 1}'}
              - {text: ": a comment\\r\\n\\r\\n"}
              - {base64: /w==}
            """),
        encoding="utf-8",
    )
    with LocalEndpoint(cassette=tmp_path) as local:
        got = ask_of(local).post("/serving-endpoints/mine/invocations", body("Hi", stream=True))

    assert b'data: {"choices": []}\n\nevent: named\ndata: {"x": 1}\n\n: a comment\r\n\r\n\xff' == got


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it is not YAML: "),
        ("- 1", "there is no `recording: 1` at its top level"),
        ("interactions: []\nversion: 1", "there is no `recording: 1` at its top level"),
        ("recording: 2", "it is of format 2; this version of isochat reads 1"),
        ("recording: 1\nrequest: {}\n", "response: expected a mapping, got None"),
        ("recording: 1\nrequest: {}\nresponse: {}", "request.method: expected a text, got None"),
        ("recording: 1\nrequest: {url: x}\nresponse: {}", "request.url: there is no such field"),
        (
            "recording: 1\nrequest: {method: GET, path: /x}\nresponse: {}",
            "request.path: GET /x is no chat question and no SQL statement",
        ),
        (f"recording: 1\nrequest: {{method: POST, path: {PATH}}}\nresponse: {{status: 99}}", "response.status: 99 is"),
        (
            f"recording: 1\nrequest: {{method: POST, path: {PATH}}}\nresponse: {{status: 200, stream: [1]}}",
            "response.stream[0]: expected a mapping",
        ),
        (
            f"recording: 1\nrequest: {{method: POST, path: {PATH}}}\nresponse: {{status: 200, body: 1}}",
            "response.body: expected a mapping, a list or a text, got 1",
        ),
        (
            f"recording: 1\nrequest: {{method: POST, path: {PATH}}}\nresponse: {{status: 200, base64: '*'}}",
            "response.base64: it is none",
        ),
        (
            f"recording: 1\nrequest: {{method: POST, path: {PATH}}}\nresponse: {{status: 200, after: -1}}",
            "response.after: expected seconds, got -1",
        ),
    ],
)
def test_a_file_that_is_no_recording(tmp_path: Path, text: str, reason: str) -> None:
    """It is refused before anything listens, with its path and the reason."""
    (tmp_path / "odd.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="odd") as refused:
        LocalEndpoint(cassette=tmp_path, record_mode="all")

    assert str(refused.value).startswith(f"cassette: {tmp_path / 'odd.yaml'}")
    assert reason in str(refused.value)


def test_whatever_is_said_comes_back(tmp_path: Path, ask_of: type[Ask]) -> None:
    """Any JSON, any text and any bytes are replayed as they were, and a JSON number stays the number it is."""
    odd = [
        "yes",
        "1e3",
        "~",
        "",
        " x ",
        "a: b",
        "- x",
        "*x",
        "&x",
        "'",
        '"',
        "\t",
        "\r\n",
        "\x00\x1b\x7f",
        "2026-11-21",
    ]
    odd += ["\ufeff", "🦉"]
    bodies: list[Any] = [
        {"odd": odd, "keys": dict.fromkeys(odd, 1), "numbers": [1, 1.0, -0.0, 1e-7, 1e300, 2**70, True, None]},
        b'{"half": "\\ud800"}',
        b'{"x": NaN}',
        b'"a text"',
        b"12",
        b"",
        b"\xff\x00",
        "Grüße\r\nx\n",
        "#: [not yaml",
    ]
    got: list[list[bytes]] = []
    for mode in ("all", "none"):
        with LocalEndpoint(cassette=tmp_path, record_mode=mode) as local:  # type: ignore[arg-type]
            got.append([])
            for number, each in enumerate(bodies):
                if mode == "all":
                    local.reply(body=each)
                got[-1].append(ask_of(local).post(PATH, body(f"number {number}")))

    assert [json.loads(each[0]) for each in got] == [bodies[0]] * 2
    assert got[0] == got[1]


def test_any_body_comes_back() -> None:
    """Whatever an answer holds, a file gives it back: JSON as JSON, everything else byte for byte."""
    hypothesis = pytest.importorskip("hypothesis")
    st = pytest.importorskip("hypothesis.strategies")
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
    lines = values.map(lambda value: f"data: {json.dumps(value)}\n\n".encode())

    @hypothesis.settings(deadline=None)
    @hypothesis.given(
        values.map(lambda value: json.dumps(value).encode()) | st.binary(),
        st.lists(st.tuples(st.floats(0, 100), lines | st.binary())),
    )
    def holds(whole: bytes, pieces: list[tuple[float, bytes]]) -> None:
        clean, asked = Cleaner(), ("POST", PATH, {}, b"{}")
        made = [Recording.made(clean, asked, 200, {}, 0.1, reply) for reply in (whole, pieces)]
        back = [Recording.parse(each.text()) for each in made]

        assert made == back or [each.content() for each in made] == [each.content() for each in back]
        hypothesis.assume(clean.scrubber.bytes(whole) == whole)
        if isinstance(back[0].body, dict | list):
            assert json.loads(whole) == json.loads(back[0].content())
        else:
            assert whole == back[0].content()

    holds()


def test_streams_keep_their_bytes_and_their_times(tmp_path: Path, ask_of: type[Ask]) -> None:
    """However it was cut on its way, a stream is replayed byte for byte; at pace 1 as slowly as it came."""
    whole = b'data: {"a": 1}\n\nevent: x\ndata: {"b": "\xc3\xbc"}\n\n: still here\r\n\r\n'
    whole += b"data: x\ndata: y\n\ndata: [DONE]\n\n"
    pieces = [whole[:5], whole[5:40], whole[40:41], whole[41:]]
    with LocalEndpoint() as there:
        there.reply(chunks=pieces, pause=0.1)
        with LocalEndpoint(
            cassette=tmp_path, record_mode="all", upstream=there.host, upstream_key=there.token
        ) as local:
            ask_of(local).post(PATH, body(stream=True))
    (text,) = texts(tmp_path).values()
    rows = yaml.safe_load(text)["response"]["stream"]
    with LocalEndpoint(cassette=tmp_path) as local:
        assert whole == ask_of(local).post(PATH, body(stream=True))
    with LocalEndpoint(cassette=tmp_path, pace=1) as local:
        began = time.monotonic()

        assert whole == ask_of(local).post(PATH, body(stream=True))
        assert time.monotonic() - began >= rows[-1]["after"] - 0.01

    assert ['{"a": 1}', '{"b": "ü"}', None, None, "[DONE]"] == [row.get("data") for row in rows]
    assert rows[-1]["after"] - rows[0]["after"] >= 0.15


def test_a_stream_that_breaks_is_not_recorded(tmp_path: Path, ask_of: type[Ask]) -> None:
    """Half an answer is none: the client sees it break as it broke, and no file says otherwise."""
    with LocalEndpoint() as there:
        there.order(Fault(drop_after=2), Fault(reset=True), Fault(drop_after=5))
        with LocalEndpoint(
            cassette=tmp_path, record_mode="all", upstream=there.host, upstream_key=there.token
        ) as local:
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                ask_of(local).post(PATH, body(stream=True))
            with pytest.raises(ask_of.Refused, match="No reply from the workspace"):
                ask_of(local).post(PATH, body())
            with pytest.raises(ask_of.Refused, match="No reply from the workspace: it broke off"):
                ask_of(local).post(PATH, body())

            assert [] == local.recorded
    assert {} == texts(tmp_path)


def test_a_killed_server_leaves_no_half_file(tmp_path: Path) -> None:
    """Whenever it is killed, what has a recording's name is a recording."""
    code = f"""
        import json, urllib.request
        from isochat.local import LocalEndpoint
        with LocalEndpoint(cassette={str(tmp_path)!r}, record_mode="all") as local:
            for n in range(10000):
                said = {{"messages": [{{"role": "user", "content": f"{{n}} " + "x " * 20000}}]}}
                request = urllib.request.Request(local.host + {PATH!r}, json.dumps(said).encode(), {{
                    "Authorization": "Bearer " + local.token, "Content-Type": "application/json"}})
                urllib.request.urlopen(request).read()
                print(n, flush=True)
    """
    env = {**os.environ, "NO_PROXY": "*"}
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        time.sleep(0.01)
        process.kill()
    with LocalEndpoint(cassette=tmp_path):  # which reads every file
        assert len([name for name in texts(tmp_path) if not name.startswith(".")]) >= 5


def test_many_record_at_once(tmp_path: Path, ask_of: type[Ask]) -> None:
    """Threads and servers that record into one directory lose nothing and overwrite nothing."""
    with (
        LocalEndpoint(cassette=tmp_path, record_mode="new_episodes") as one,
        LocalEndpoint(cassette=tmp_path, record_mode="new_episodes") as two,
        ThreadPoolExecutor(16) as pool,
    ):
        says = [f"question {n}" for n in range(60)]
        answers = pool.map(
            lambda each: ask_of(each[0]).chat(LLAMA, each[1]), zip(itertools.cycle((one, two)), says, strict=False)
        )

        assert says == [each["choices"][0]["message"]["content"] for each in answers]
        assert len(says) == len({*one.recorded, *two.recorded})
    assert says == asks(tmp_path, "none", *says, ask_of=ask_of)
    assert len(says) == len(texts(tmp_path))


def test_files_stand_in_the_order_asked(tmp_path: Path, ask_of: type[Ask]) -> None:
    """Who asked first stands first, even if answered last."""
    with (
        LocalEndpoint(faults=[Fault(delay=0.5)]) as there,
        LocalEndpoint(cassette=tmp_path, record_mode="all", upstream=there.host, upstream_key=there.token) as local,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(ask_of(local).post, PATH, body("first"))
        while not there.questions:
            time.sleep(0.01)
        ask_of(local).post(PATH, body("second"))
        first.result()
        said = [yaml.safe_load(text)["request"]["body"]["messages"][0]["content"] for text in texts(tmp_path).values()]

    assert ["first", "second"] == said
    assert [f"0001-{LLAMA}-chat.yaml", f"0002-{LLAMA}-chat.yaml"] == list(texts(tmp_path))


def test_a_client_may_leave_at_the_end(tmp_path: Path) -> None:
    """Who has read `[DONE]` need not wait for the connection's end: the recording is there already."""
    with LocalEndpoint() as there:
        there.reply(chunks=[b"data: {}\n\n", b"data: [DO", b"NE]\n\n", b": late\n\n"], pause=0.3)
        with LocalEndpoint(
            cassette=tmp_path, record_mode="all", upstream=there.host, upstream_key=there.token
        ) as local:
            place = urlsplit(local.host)
            connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
            connection.request("POST", PATH, json.dumps(body(stream=True)), {"Authorization": f"Bearer {local.token}"})
            response, got = connection.getresponse(), b""
            while b"[DONE]" not in got:
                got += response.read1()
            response.close()
            connection.close()
    (text,) = texts(tmp_path).values()

    assert ["{}", "[DONE]"] == [row["data"] for row in yaml.safe_load(text)["response"]["stream"]]


def test_files_are_counted_as_people_count(tmp_path: Path, ask_of: type[Ask]) -> None:
    """The tenth thousand comes after the ninth, and what has no number last."""
    asks(tmp_path, "all", "a", ask_of=ask_of)
    (text,) = texts(tmp_path).values()
    for name, said in (("10000-x.yaml", "second"), ("9999-x.yaml", "first"), ("mine.yaml", "third")):
        (tmp_path / name).write_text(text.replace("content: a", f"content: {said}").replace(said, "a", 1))
    (tmp_path / f"0001-{LLAMA}-chat.yaml").unlink()

    assert ["first", "second", "third"] == asks(tmp_path, "none", "a", "a", "a", ask_of=ask_of)
    asks(tmp_path, "new_episodes", "b", ask_of=ask_of)
    assert f"10001-{LLAMA}-chat.yaml" in texts(tmp_path)


# ── who may ask, and what is refused ─────────────────────────────────────────────────────────────────────────────


def test_clients_log_in_at_the_workspace(workspace: LocalEndpoint, tmp_path: Path, ask_of: type[Ask]) -> None:
    """Without `upstream_key` a client's own login goes on, and the workspace judges it."""
    with LocalEndpoint(cassette=tmp_path, record_mode="all", upstream=workspace.host) as local:
        path = f"/serving-endpoints/{TEAM}/invocations"
        good = ask_of(local).request("POST", path, json.dumps(body()).encode(), {"Authorization": f"Bearer {KEY}"})
        bad = ask_of(local).request("POST", path, json.dumps(body()).encode(), {"Authorization": "Bearer wrong-one"})
        mine = ask_of(local).request("POST", path, json.dumps(body()).encode())
        none = ask_of(local).request("POST", path, json.dumps(body()).encode(), {"Authorization": ""})

        assert local.passes_logins
    assert [200, 403, 401, 401] == [status for status, _, _ in (good, bad, mine, none)]
    assert "log in as at the workspace" in json.loads(mine[2])["message"]
    assert [200, 403] == [yaml.safe_load(text)["response"]["status"] for text in texts(tmp_path).values()]


def test_a_replay_demands_its_token(recorded: tuple[Path, dict[str, Any]], ask_of: type[Ask]) -> None:
    """It is a local endpoint like any other: its own token, its own surfaces for clients to log in."""
    with LocalEndpoint(cassette=recorded[0]) as local:
        asked = ask_of(local)

        assert 401 == asked.request("POST", PATH, b"{}", {"Authorization": ""})[0]
        assert not local.passes_logins
        assert asked.get("/.well-known/databricks-config")["oidc_endpoint"] == f"{local.host}/oidc"
        assert "local@example.com" == asked.get("/api/2.0/preview/scim/v2/Me")["userName"]
        assert [] == local.unmatched


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"record_mode": "all"}, "record_mode is about a cassette, and none is given"),
        ({"pace": 1}, "pace is about a cassette, and none is given"),
        ({"cassette": ".", "pace": -1}, "pace: expected 0 for no wait"),
        ({"cassette": ".", "record_mode": "rewrite"}, "record_mode: there is no 'rewrite'; there are none, once, new_"),
        ({"cassette": "nowhere"}, "cassette: there is no directory nowhere, and nothing is recorded with"),
        ({"cassette": "file", "record_mode": "all"}, "cassette: file is not a directory"),
        ({"cassette": ".", "upstream": "https://x"}, "upstream: with record_mode 'none' the cassette answers"),
        ({"cassette": ".", "script": [{"reply": "x"}]}, "script: with record_mode 'none' the cassette answers"),
        (
            {"cassette": ".", "record_mode": "all", "upstream": "https://x", "script": [{"reply": "x"}]},
            "script: a workspace that is recorded answers everything itself",
        ),
        ({"cassette": ".", "record_mode": "all", "upstream": "https://me:secret@x"}, "the address of the service must"),
        ({"cassette": ".", "record_mode": "all", "upstream": "https://x", "token": "t"}, "token: clients log in at"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], reason: str
) -> None:
    """Before anything listens, and with the reason."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^(record|pace|cass|up|script|the|token)") as refused:
        serve(port=0, ready=lambda local: local.stop(), **said)

    assert str(refused.value).startswith(reason)
    assert "secret" not in str(refused.value)


def test_another_model_can_be_recorded(workspace: LocalEndpoint, tmp_path: Path, ask_of: type[Ask]) -> None:
    """An OpenAI-compatible upstream, whose address has a path, is dressed as ever, and so it is recorded."""
    with LocalEndpoint(
        cassette=tmp_path,
        record_mode="all",
        upstream=f"{workspace.host}/serving-endpoints",
        upstream_key=KEY,
        models={"mine": "llama:" + TEAM},
    ) as local:
        answer = ask_of(local).chat("mine", "Hi")
    with LocalEndpoint(cassette=tmp_path) as local:
        assert answer == ask_of(local).chat("mine", "Hi")


# ── on the command line ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def served(tmp_path: Path) -> Callable[..., Any]:
    """Run `isochat serve …` while a function asks; gives the endpoint's variables to it, then its output."""
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    env = {**os.environ, "WORKSPACE_TOKEN": KEY, "NO_PROXY": "*"}

    def run(asks: Callable[[dict[str, str]], Any], *words: str) -> tuple[Any, str, int]:
        command = [sys.executable, "-m", "isochat", "serve", "--port", "0", *words]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env
        ) as process:
            try:
                assert process.stdout is not None
                lines = [process.stdout.readline()]
                if "--upstream" not in words or "--upstream-key-env" in words:
                    lines.append(process.stdout.readline())
                told = asks(dict(line.removeprefix("export ").strip().split("=", 1) for line in lines))
                process.terminate()
                _, err = process.communicate(timeout=30)
            finally:
                process.kill()
            return told, err, process.returncode

    return run


@pytest.mark.skipif(os.name != "posix", reason="a process is asked to end as on POSIX")
def test_recorded_and_replayed_on_the_command_line(
    workspace: LocalEndpoint, tmp_path: Path, served: Callable[..., Any]
) -> None:
    """`--record`, then `--replay`: the same answer, and the workspace is not asked again."""

    def asking(token: str | None = None) -> Callable[[dict[str, str]], str]:
        def asks(given: dict[str, str]) -> str:
            connection = Connection(given["DATABRICKS_HOST"], token or given["DATABRICKS_TOKEN"])
            return query_chat("Hi there", endpoint=TEAM, backend="rest", connection=connection, retry=ONCE).text

        return asks

    there = ("--upstream", workspace.host)
    text, err, code = served(asking(), "--record", "tape", *there, "--upstream-key-env", "WORKSPACE_TOKEN")

    assert ("Hi there", 0) == (text, code)
    assert "isochat: 1 exchange recorded in tape\n" in err

    before, asked = texts(tmp_path / "tape"), len(workspace.received)
    text, err, code = served(asking(), "--replay", "tape", "--pace", "0.5")

    assert ("Hi there", 0, 0) == (text, code, len(workspace.received) - asked)
    assert "recorded" not in err

    text, err, code = served(asking(KEY), "--record", "tape", "--record-mode", "new_episodes", *there)

    assert ("Hi there", 0, before) == (text, code, texts(tmp_path / "tape"))
    assert "isochat: 0 exchanges recorded in tape\n" in err
    assert "clients log in with the workspace's own tokens" in err
    assert KEY not in err + "".join(before.values())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--replay", "nowhere"), "there is no directory nowhere"),
        (("--replay", "a", "--record", "b"), "either that or --record"),
        (("--record-mode", "all"), "which is not given"),
        (("--record", "a", "--record-mode", "none"), "that is what --replay DIR does"),
        (("--record", "a", "--record-mode", "often"), "there is no 'often'"),
        (("--replay", ".", "--upstream", "https://x"), "the cassette answers, and nothing else is asked"),
        (("--pace", "1"), "pace is about a cassette"),
    ],
)
def test_what_is_typed_wrongly_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    reason: str,
) -> None:
    """One message, and exit code 2."""
    pytest.importorskip("typer")
    from isochat._cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["isochat", "serve", "--port", "0", *words])

    assert 2 == main()
    assert reason in capsys.readouterr().err
