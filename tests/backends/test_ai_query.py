"""What only SQL does: one prompt, one text, a statement that runs by itself and has to be looked after.

The tests named `test_surprise_…` drive the client alone. They fail when an upgrade mends what they show, which is the
day to look whether the work-round may go.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

pytest.importorskip("databricks.sdk", reason="the ai-query backend needs databricks-sdk")
pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")
pytest.importorskip("sqlglot", reason="SQL on the local endpoint needs sqlglot")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isochat import (
    AuthenticationFailed,
    ChatError,
    ConfigurationError,
    Connection,
    ConnectionFailed,
    DeadlineExceeded,
    EndpointNotFound,
    InvalidRequest,
    MalformedReply,
    Message,
    RateLimited,
    RequestRefused,
    Retry,
    ServiceError,
    ServiceUnavailable,
    UnsupportedOption,
    aquery_chat,
    query_chat,
)
from isochat.backends.ai_query import AIQueryBackend
from isochat.local import Fault, LocalEndpoint
from isochat.testing.conformance import REFUSALS, Ask, BackendTests, Departure, Refusal, never

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GPT = "databricks-gpt-5-1"
STATEMENTS = "/api/2.0/sql/statements"
ONCE = Retry(attempts=1)
AT_ONCE = Retry(attempts=3, first_wait=0.0)
MARGIN = 0.5


class TestAIQuery(BackendTests):
    """The suite, but for what SQL cannot say."""

    departures: ClassVar[dict[str, Departure]] = {
        "test_says_what_the_service_said": never("SQL gives the text: no finish reason, usage, model or id"),
        "test_thinks_apart": never("SQL gives the text: no reasoning"),
        "test_goes_on_with_its_own_answer": never("a prompt has no place for a reasoning block"),
        "test_calls_tools_and_takes_their_results": never("a prompt has no tools"),
        "test_gives_several_choices": never("SQL gives one text"),
        "test_leaves_the_callers_objects_alone[*-a conversation-*]": never("a prompt is one message"),
        "test_a_refusal_is_one_error": never("the model's request id stays with the warehouse"),
        "test_how_long_to_wait_is_told[*-in *]": never("Retry-After stays with the warehouse"),
        "test_how_long_to_wait_is_told[*-as a date]": never("Retry-After stays with the warehouse"),
        "test_waits_as_long_as_it_is_asked_to": never("Retry-After stays with the warehouse"),
        "test_does_not_begin_a_wait_that_is_too_long": never("Retry-After stays with the warehouse"),
        "test_nonsense_is_kept_and_said": never("the warehouse reads the model's reply, and says what came of it"),
        "test_a_whole_answer_for_a_stream": never("the warehouse reads the model's reply, and asks for no stream"),
        "test_a_reset_is_asked_again": never("the connection that is reset is the warehouse's"),
    }

    def requests(self, local: LocalEndpoint) -> list[Any]:
        """The statements; the question that each asks of the model is the warehouse's request."""
        return statements(local)

    @pytest.fixture
    def backend(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> AIQueryBackend:
        monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "w")
        return AIQueryBackend(connection)

    @pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
    def test_a_refusal_through_sql(self, ask: Ask, local: LocalEndpoint, refusal: Refusal) -> None:
        """What the model's endpoint refuses has the class, status, code and words that it has elsewhere."""
        local.reply(status=refusal.status, body=refusal.body)
        with pytest.raises(ServiceError) as refused:
            ask()
        error = refused.value

        assert type(error) is refusal.error
        assert error.status == refusal.status
        assert error.error_code == refusal.error_code
        assert error.request_id
        assert refusal.says in error.message

    @pytest.mark.parametrize("body", [b"", b"<!DOCTYPE html><title>Sign in</title>", b'{"choices": [{"mess', b"null"])
    def test_nonsense_through_sql(self, ask: Ask, local: LocalEndpoint, body: bytes) -> None:
        """A reply that ai_query can make nothing of is a `MalformedReply`, and not asked again."""
        local.reply(body=body)
        with pytest.raises(MalformedReply, match="made no sense to ai_query"):
            ask(retry=AT_ONCE)

        assert len(local.questions) == 1

    def test_no_time_to_wait_is_made_up(self, ask: Ask, local: LocalEndpoint) -> None:
        """What the model's endpoint asks for stays with the warehouse, and is None."""
        local.reply(status=429, body={"error_code": "REQUEST_LIMIT_EXCEEDED"}, headers={"retry-after": "3"})
        with pytest.raises(RateLimited) as refused:
            ask()

        assert refused.value.retry_after is None

    def test_a_statement_asks_one_question(self, ask: Ask, local: LocalEndpoint) -> None:
        """Ten questions are ten statements, which ask the model once each, with nothing beside them."""
        for _ in range(10):
            ask("Hi", endpoint=GPT)

        assert len(statements(local)) == 10
        assert len(local.received) == 20


# ── a session on a warehouse ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def backend(local: LocalEndpoint) -> Iterator[AIQueryBackend]:
    made = AIQueryBackend(Connection(local.host, local.token), warehouse_id="w")
    # The first statement waits for sqlglot to be imported, here in the same process.
    query_chat("Hi", endpoint=GPT, backend=made)
    local.reset()
    yield made
    made.close()


class Asked:
    """Asks, blocking or with asyncio."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def __call__(self, messages: Any = "Hi", **said: Any) -> Any:
        said = {"endpoint": GPT, "retry": ONCE, "timeout": 20, **said}
        if self.mode == "blocking":
            return query_chat(messages, **said)
        return asyncio.run(aquery_chat(messages, **said))


@pytest.fixture(params=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Asked:
    return Asked(request.param)


def statements(local: LocalEndpoint, method: str = "POST", end: str = STATEMENTS) -> list[Any]:
    """The requests to the Statement Execution API of a kind."""
    found = [(sent, sent.path.rstrip("/")) for sent in local.received if sent.method == method]
    return [sent for sent, path in found if path.startswith(STATEMENTS) and path.endswith(end)]


def cancels(local: LocalEndpoint) -> list[Any]:
    return statements(local, end="/cancel")


def order(backend: AIQueryBackend, fault: dict[str, Any] | None) -> None:
    """Have the statement API itself go wrong: the header that orders a fault for the request it comes with."""
    headers = backend._client.get().api_client._api_client._session.headers
    headers.pop("X-Isochat-Fault", None)
    if fault is not None:
        headers["X-Isochat-Fault"] = json.dumps(fault)


def test_the_answer_is_the_text_and_nothing_is_made_up(backend: AIQueryBackend, local: LocalEndpoint) -> None:
    """What SQL does not say is None; the raw answer is the SDK's own object, the request id the statement's."""
    answer = query_chat("What is X?", endpoint=GPT, backend=backend)

    assert answer.text == "What is X?"
    assert (answer.finish_reason, answer.usage, answer.id, answer.model) == (None, None, None, None)
    assert type(answer.raw).__name__ == "StatementResponse"
    assert answer.request_id
    assert answer.message.role == "assistant"
    assert answer.backend == "ai-query"
    (sent,) = statements(local)
    assert sent.json["warehouse_id"] == "w"
    assert sent.json["statement"] == f"SELECT ai_query('{GPT}', :prompt, failOnError => false) AS answer"
    assert sent.json["parameters"] == [{"name": "prompt", "type": "STRING", "value": "What is X?"}]
    assert sent.headers["user-agent"].startswith("isochat/")


def test_options_reach_the_model(backend: AIQueryBackend, local: LocalEndpoint) -> None:
    """Numbers, texts, lists and objects arrive at the model's endpoint as they were said."""
    options: dict[str, Any] = {
        "max_tokens": 4000,
        "stop": ["'; --", "\\"],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "response_format": {"type": "json_schema", "json_schema": {"name": "it's", "schema": {"type": "object"}}},
    }
    query_chat("Hi", endpoint="databricks-claude-sonnet-4-5", backend=backend, **options)
    query_chat("Hi", endpoint="databricks-meta-llama-3-3-70b-instruct", backend=backend, temperature=0.1, top_p=0.9)

    asked = [{k: v for k, v in question.json.items() if k != "messages"} for question in local.questions]
    assert asked == [options, {"temperature": 0.1, "top_p": 0.9}]


def test_a_patched_execute_sees_the_call(backend: AIQueryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What wraps `execute_statement`, as tracing libraries do, sees each call with its arguments."""
    from databricks.sdk.service.sql import StatementExecutionAPI

    seen: list[dict[str, Any]] = []
    execute = StatementExecutionAPI.execute_statement

    def traced(self: Any, *args: Any, **said: Any) -> Any:
        seen.append(said)
        return execute(self, *args, **said)

    monkeypatch.setattr(StatementExecutionAPI, "execute_statement", traced)
    query_chat("Hi", endpoint=GPT, backend=backend)

    assert [said["parameters"][0].value for said in seen] == ["Hi"]


ODD = [
    "'",
    "''",
    '"',
    "`",
    "\\",
    "\\'",
    "-- ",
    "/*",
    "*/",
    ";",
    ":p",
    ":prompt",
    "?",
    "{prompt}",
    "${env:HOME}",
    "\u0000",
    "\n",
    "\u2028",
    "ü",
    "🦆",
    "\u202e",
    "', failOnError => true) AS answer; DROP TABLE t; --",
    "' || :prompt || '",
    "$$",
    "r'",
    "NULL",
]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(ODD) | st.text(max_size=8), max_size=6).map("".join))
def test_a_prompt_is_only_ever_a_prompt(backend: AIQueryBackend, local: LocalEndpoint, said: str) -> None:
    """Whatever the caller's texts hold, the statement is the same one, and the model is told what was said."""
    local.reset()
    clean = said.encode("utf-8", "replace").decode()
    try:
        query_chat(clean, endpoint=GPT, backend=backend, stop=[clean], retry=ONCE)
    except RequestRefused as error:  # an empty stop or prompt is the model's to refuse, not SQL's
        assert error.status == 400  # noqa: PT017
    (sent,) = statements(local)
    stop = "modelParameters => named_struct('stop', array(:p1))"
    assert sent.json["statement"] == f"SELECT ai_query('{GPT}', :prompt, {stop}, failOnError => false) AS answer"
    (question,) = local.questions
    assert question.json == {"messages": [{"role": "user", "content": clean}], "stop": [clean]}


@pytest.mark.parametrize("name", ["it's", "a\\", "a b", 'a"', "ü", "a;b", "a${x}", "a/b", ":p", "a\n", "--"])
def test_an_endpoint_that_is_no_name_is_refused(backend: AIQueryBackend, local: LocalEndpoint, name: str) -> None:
    """An endpoint's name is part of the statement, so it must be one; two hyphens are one, and quoted."""
    with pytest.raises(EndpointNotFound if name == "--" else InvalidRequest):
        query_chat("Hi", endpoint=name, backend=backend, retry=ONCE)
    assert len(statements(local)) == (name == "--")


def test_a_service_principal_logs_in(local: LocalEndpoint) -> None:
    """Machine-to-machine: one login, and the statement comes with its token."""
    login = Connection(local.host, client_id=local.client_id, client_secret=local.client_secret)
    backend = AIQueryBackend(login, warehouse_id="w")
    answers = [query_chat("Hi", endpoint=GPT, backend=backend).text for _ in range(2)]
    backend.close()

    assert answers == ["Hi", "Hi"]
    assert [True, True] == [sent.authorized for sent in statements(local)]
    assert len([sent for sent in local.received if sent.path == "/oidc/v1/token"]) == 1


# ── the warehouse ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_warehouse_is_a_setting(local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """DATABRICKS_WAREHOUSE_ID says it; an argument is stronger."""
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "from-environment")
    for given_id in (None, "given"):
        backend = AIQueryBackend(Connection(local.host, local.token), warehouse_id=given_id)
        query_chat("Hi", endpoint=GPT, backend=backend)
        backend.close()

    assert ["from-environment", "given"] == [sent.json["warehouse_id"] for sent in statements(local)]


def test_a_warehouse_of_another_workspace_is_not_used(
    local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch, ask: Asked
) -> None:
    """What stands with another host is that host's; without one the error says where it was looked for."""
    monkeypatch.setenv("DATABRICKS_HOST", "https://other.cloud.databricks.com")
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "theirs")
    backend = AIQueryBackend(Connection(local.host, local.token))
    with pytest.raises(ConfigurationError, match="DATABRICKS_WAREHOUSE_ID") as missing:
        ask(backend=backend)

    assert "it stands there with the host" in str(missing.value)

    assert local.received == []


def test_the_local_endpoint_has_a_warehouse() -> None:
    """`host="local"` needs none to be named."""
    backend = AIQueryBackend(Connection("local"))
    assert query_chat("Hi", endpoint=GPT, backend=backend).text == "Hi"
    backend.close()


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is X?"}]},
    {"role": "assistant", "content": "A letter."},
    {"role": "user", "content": "And Y?"},
]


@pytest.mark.parametrize("messages", [TALK, TALK[:1], [{"role": "user", "content": "Hi", "name": "Ada"}]])
def test_a_conversation_is_refused_with_the_way_out(
    ask: Asked, backend: AIQueryBackend, local: LocalEndpoint, messages: Any
) -> None:
    """More than a prompt is not carried, unless the caller says how to write it as one."""
    with pytest.raises(UnsupportedOption, match="prompt_template='roles'") as refused:
        ask(messages, backend=backend)

    assert refused.value.option == "messages"
    assert "rest" in refused.value.carried_by
    assert local.received == []


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("plain", "Be brief.\n\nWhat is X?\n\nA letter.\n\nAnd Y?"),
        ("roles", "System: Be brief.\n\nUser: What is X?\n\nAssistant: A letter.\n\nUser: And Y?\n\nAssistant:"),
        (lambda messages: "|".join(message.text for message in messages), "Be brief.|What is X?|A letter.|And Y?"),
    ],
)
def test_a_template_makes_one_prompt(local: LocalEndpoint, template: Any, prompt: str) -> None:
    """By name or by a function; a single user message goes as it is."""
    backend = AIQueryBackend(Connection(local.host, local.token), warehouse_id="w", prompt_template=template)
    query_chat(TALK, endpoint=GPT, backend=backend)
    query_chat("Hi", endpoint=GPT, backend=backend)
    backend.close()

    assert [prompt, "Hi"] == [question.json["messages"][0]["content"] for question in local.questions]


def test_a_template_has_a_name() -> None:
    """An unknown one is refused with those that there are."""
    with pytest.raises(ConfigurationError, match="'plain', 'roles'"):
        AIQueryBackend(Connection("http://127.0.0.1:1", "t"), prompt_template="rolls")


@pytest.mark.parametrize("option", ["n", "tools", "logprobs", "extra_body", "stream"])
def test_what_sql_cannot_say_is_refused(backend: AIQueryBackend, local: LocalEndpoint, option: str) -> None:
    """Before anything is sent, naming those that can."""
    value: Any = {"n": 2, "tools": [], "logprobs": True, "extra_body": {"a": 1}, "stream": True}[option]
    with pytest.raises(UnsupportedOption, match="rest") as refused:
        query_chat("Hi", endpoint=GPT, backend=backend, **{option: value})

    assert refused.value.option == option
    assert local.received == []


# ── the statement API goes wrong ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "error", "times"),
    [
        (400, RequestRefused, 1),
        (401, AuthenticationFailed, 1),
        (404, EndpointNotFound, 1),
        (429, RateLimited, 3),
        (500, ServiceUnavailable, 3),
        (503, ServiceUnavailable, 3),
    ],
)
def test_a_statement_is_executed_once_an_attempt(  # noqa: PLR0917 - fixtures
    ask: Asked, backend: AIQueryBackend, local: LocalEndpoint, status: int, error: type[ServiceError], times: int
) -> None:
    """Each attempt is one POST, with the true status and Retry-After: the SDK would repeat it for minutes."""
    order(backend, {"status": status, "retry_after": 0})
    with pytest.raises(error) as refused:
        ask(backend=backend, retry=AT_ONCE)

    assert type(refused.value) is error
    assert refused.value.status == status
    assert refused.value.retry_after == 0.0
    assert len(statements(local)) == times
    assert local.questions == []


def test_a_reset_of_the_statement_is_asked_again(ask: Asked, backend: AIQueryBackend, local: LocalEndpoint) -> None:
    """A reset counts as one attempt; so does a host that is not there."""
    order(backend, {"reset": True})
    with pytest.raises(ConnectionFailed) as failed:
        ask(backend=backend, retry=AT_ONCE)

    assert [attempt.error for attempt in failed.value.attempts] == ["ConnectionFailed"] * 3
    assert len(statements(local)) == 3


def test_a_statement_that_went_out_is_not_run_again(ask: Asked, backend: AIQueryBackend, local: LocalEndpoint) -> None:
    """With `resend=False`, neither one whose reply was lost nor one that was lost sight of while it ran."""
    policy = Retry(attempts=3, first_wait=0.0, resend=False)
    order(backend, {"reset": True})
    with pytest.raises(ConnectionFailed) as failed:
        ask(backend=backend, retry=policy)

    assert [True] == [attempt.sent for attempt in failed.value.attempts]
    assert len(statements(local)) == 1


def test_the_statement_apis_refusal_may_be_a_page(ask: Asked, backend: AIQueryBackend) -> None:
    """A web page under a 200 is nonsense, and a redirect is not followed."""
    order(backend, {"junk": "<!DOCTYPE html><title>Sign in</title>"})
    with pytest.raises(MalformedReply, match="web page"):
        ask(backend=backend)
    order(backend, {"status": 307, "headers": {"location": "/elsewhere"}})
    with pytest.raises(ServiceError, match="redirects"):
        ask(backend=backend)


@pytest.mark.parametrize(
    "fault", [{"stall": 30}, {"drip": 0.05}, {"stall": 30, "after": 1}], ids=["no headers", "drips", "stalls"]
)
def test_no_reply_outlives_the_deadline(ask: Asked, backend: AIQueryBackend, fault: dict[str, Any]) -> None:
    """However the statement API answers, the question is over when its time is."""
    order(backend, fault)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        ask(backend=backend, timeout=0.6)

    assert time.monotonic() - begun < 0.6 + MARGIN


# ── a statement that runs ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slow_statement_is_looked_after(ask: Asked, backend: AIQueryBackend, local: LocalEndpoint) -> None:
    """Where there is no time to be kept waiting, the statement is looked after until it has ended."""
    local.order(Fault(delay=0.5))
    answer = ask(backend=backend, timeout=5)

    assert answer.text == "Hi"
    assert len(statements(local)) == len(local.questions) == 1
    assert statements(local)[0].json["wait_timeout"] == "0s"
    assert statements(local, "GET", "")
    assert cancels(local) == []


def test_a_statement_that_never_ends_is_cancelled(ask: Asked, backend: AIQueryBackend, local: LocalEndpoint) -> None:
    """At the deadline, and the caller is not held up for it."""
    local.order(Fault(stall=30))
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded) as late:
        ask(backend=backend, timeout=0.6)

    assert time.monotonic() - begun < 0.6 + MARGIN
    assert isinstance(late.value, TimeoutError)
    settles(lambda: len(cancels(local)) == 1)
    (cancelled,) = cancels(local)
    assert statements(local, "GET", "")[0].path in cancelled.path
    assert len(statements(local)) == 1


def test_a_cancelled_task_cancels_its_statement(backend: AIQueryBackend, local: LocalEndpoint) -> None:
    """Asked with asyncio, a question that is called off leaves no statement running."""

    async def ask() -> None:
        task = asyncio.create_task(aquery_chat("Hi", endpoint=GPT, backend=backend, timeout=5))
        while not statements(local, "GET", ""):  # noqa: ASYNC110 - it happens in another thread
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    local.order(Fault(stall=30))
    asyncio.run(ask())
    settles(lambda: len(cancels(local)) == 1)


def test_a_look_that_fails_is_only_a_look(
    backend: AIQueryBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 503 while looking is looked past: the statement runs on, and is not executed again."""
    from databricks.sdk.service.sql import StatementExecutionAPI

    look, looks = StatementExecutionAPI.get_statement, []

    def shaky(self: Any, number: str) -> Any:
        looks.append(number)
        order(backend, {"status": 503} if len(looks) < 3 else None)
        return look(self, number)

    monkeypatch.setattr(StatementExecutionAPI, "get_statement", shaky)
    local.order(Fault(delay=0.3))
    assert query_chat("Hi", endpoint=GPT, backend=backend, timeout=5, retry=ONCE).text == "Hi"
    assert len(statements(local)) == 1


def test_a_statement_that_is_lost_is_given_up(
    backend: AIQueryBackend, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When looking fails again and again, the statement is cancelled and the error told."""
    from databricks.sdk.service.sql import StatementExecutionAPI

    look, cancel = StatementExecutionAPI.get_statement, StatementExecutionAPI.cancel_execution

    def broken(self: Any, number: str) -> Any:
        order(backend, {"status": 503})
        return look(self, number)

    def mended(self: Any, number: str) -> Any:
        order(backend, None)
        return cancel(self, number)

    monkeypatch.setattr(StatementExecutionAPI, "get_statement", broken)
    monkeypatch.setattr(StatementExecutionAPI, "cancel_execution", mended)
    local.order(Fault(stall=30))
    with pytest.raises(ServiceUnavailable):
        query_chat("Hi", endpoint=GPT, backend=backend, timeout=5, retry=ONCE)
    settles(lambda: len(cancels(local)) == 1)
    assert len(statements(local)) == 1


def test_somebody_else_cancels_it(backend: AIQueryBackend, local: LocalEndpoint) -> None:
    """An administrator's cancel is an error that says so, and is not asked again."""
    local.order(Fault(stall=30))

    async def ask() -> None:
        task = asyncio.create_task(aquery_chat("Hi", endpoint=GPT, backend=backend, timeout=5, retry=AT_ONCE))
        while not (looks := statements(local, "GET", "")):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        number = looks[0].path.rpartition("/")[2]
        await asyncio.to_thread(backend._client.get().statement_execution.cancel_execution, number)
        await task

    with pytest.raises(ServiceError, match="cancelled by somebody else"):
        asyncio.run(ask())
    assert len(statements(local)) == 1


def test_the_token_is_never_told(ask: Asked, backend: AIQueryBackend, local: LocalEndpoint) -> None:
    """Neither the statement's refusal nor anything's repr or pickle holds the token or the prompt."""
    order(backend, {"status": 401})
    with pytest.raises(ChatError) as refused:
        ask("a secret prompt", backend=backend)
    told = [repr(backend), str(pickle.dumps(refused.value))]
    error: BaseException | None = refused.value
    while error is not None:
        told += [str(error), repr(error)]
        error = error.__cause__

    assert not any(secret in said for said in told for secret in (local.token, "a secret prompt"))


def test_surprise_it_executes_again(local: LocalEndpoint) -> None:
    """The SDK alone executes a statement again when the service is busy: each time the model would be asked."""
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.config import Config

    config = Config(host=local.host, token=local.token, auth_type="pat", retry_timeout_seconds=3)
    client = WorkspaceClient(config=config)
    session = client.api_client._api_client._session
    session.headers["X-Isochat-Fault"] = '{"status": 503}'
    with pytest.raises(TimeoutError):
        client.statement_execution.execute_statement("SELECT 1", "w")
    session.close()

    assert len(statements(local)) > 1


def settles(true: Callable[[], bool], within: float = 5.0) -> None:
    """Wait until something is true; fail if it does not become so."""
    until = time.monotonic() + within
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


# ── in a Spark session ───────────────────────────────────────────────────────────────────────────────────────────────

# There is no JVM here: a stand-in with the four methods of a SparkSession that are used.


class Row:
    """A row as PySpark has it: values in a row, which know their names."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def __getitem__(self, place: int) -> Any:
        return list(self.fields.values())[place]

    def asDict(self, recursive: bool = False) -> dict[str, Any]:  # noqa: N802, FBT001, FBT002 - as PySpark's
        return self.fields


class Spark:
    """A session whose every statement gives one cell, or takes its time, or raises."""

    def __init__(self, cell: Any = None, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.cell, self.seconds, self.error = cell, seconds, error
        self.ran: list[tuple[str, dict[str, Any]]] = []
        self.tags: list[str] = []
        self.interrupted: list[str] = []

    def sql(self, text: str, args: dict[str, Any]) -> Spark:
        self.ran.append((text, args))
        return self

    def collect(self) -> list[Row]:
        until = time.monotonic() + self.seconds
        while time.monotonic() < until and not self.interrupted:
            time.sleep(0.01)
        if self.error is not None:
            raise self.error
        return [Row(answer=self.cell)]

    def addTag(self, tag: str) -> None:  # noqa: N802
        self.tags.append(tag)

    def interruptTag(self, tag: str) -> None:  # noqa: N802
        self.interrupted.append(tag)


class PySparkException(Exception):
    """Named as PySpark's own: it is told by its name."""


def test_a_spark_session_runs_it(ask: Asked) -> None:
    """The same statement and parameters; a struct is a `Row`; nothing is asked of a workspace."""
    spark = Spark(Row(result="Hello", errorMessage=None))
    backend = AIQueryBackend(spark=spark)
    answer = ask("It's", backend=backend, max_tokens=5)

    assert answer.text == "Hello"
    assert answer.request_id is None
    ((text, args),) = spark.ran
    assert text.startswith(f"SELECT ai_query('{GPT}', :prompt, modelParameters => named_struct('max_tokens', 5)")
    assert args == {"prompt": "It's"}
    assert repr(backend) == "AIQueryBackend(spark=…)"


def test_a_spark_session_has_errors(ask: Asked) -> None:
    """A model's refusal in the struct, a statement's failure as an exception, and a bug that is nobody's."""
    words = "[REMOTE_FUNCTION_HTTP_FAILED_ERROR] The remote HTTP request failed with code 403, and error message "
    refused = words + '\'HTTP request failed with status: {"error_code":"PERMISSION_DENIED","message":"No."}\''
    for spark in (Spark(Row(response=None, errorStatus=refused)), Spark(error=PySparkException(refused))):
        with pytest.raises(ServiceError, match=r"No\.") as no:
            ask(backend=AIQueryBackend(spark=spark))
        assert (no.value.status, no.value.error_code) == (403, "PERMISSION_DENIED")
    with pytest.raises(ZeroDivisionError):
        ask(backend=AIQueryBackend(spark=Spark(error=ZeroDivisionError())))


def test_a_spark_statement_that_never_ends_is_interrupted(ask: Asked) -> None:
    """At the deadline, by its tag."""
    spark = Spark(seconds=30)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        ask(backend=AIQueryBackend(spark=spark), timeout=0.4)

    assert time.monotonic() - begun < 0.4 + MARGIN
    settles(lambda: spark.interrupted == spark.tags != [])


def test_a_spark_session_is_no_warehouse(local: LocalEndpoint) -> None:
    """One or the other."""
    with pytest.raises(ConfigurationError, match="leave out"):
        AIQueryBackend(Connection(local.host, local.token), spark=Spark())


def test_messages_of_ours_are_prompts_too(backend: AIQueryBackend) -> None:
    """A `Message` with one text part is a plain prompt."""
    assert query_chat(Message("user", "Hi"), endpoint=GPT, backend=backend).text == "Hi"
