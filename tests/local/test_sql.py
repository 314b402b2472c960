"""SQL statements: `ai_query` in a real parser's hands, and a statement's life from PENDING to its end."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sqlglot", reason="SQL on the local endpoint needs sqlglot")

from isochat.local import Fault, LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable

LLAMA = "databricks-meta-llama-3-3-70b-instruct"
PATH = "/api/2.0/sql/statements"


def execute(ask: Any, statement: str, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """What the service says of a statement at once."""
    body = {"statement": statement, "warehouse_id": "w", **more}
    return json.loads(ask.post(PATH, {k: v for k, v in body.items() if v is not None}, headers))


def cells(ask: Any, statement: str, **parameters: str | None) -> list[list[str | None]]:
    """The rows of a statement that succeeds."""
    given = [{"name": name, "value": value} for name, value in parameters.items()]
    said = execute(ask, statement, parameters=given)
    assert said["status"] == {"state": "SUCCEEDED"}, said
    return said["result"]["data_array"]


def failure(ask: Any, statement: str, **more: Any) -> str:
    """Why a statement fails: under HTTP 200."""
    said = execute(ask, statement, **more)
    assert said["status"]["state"] == "FAILED", said
    assert said["status"]["error"]["error_code"] == "BAD_REQUEST"
    assert said["status"]["sql_state"] in said["status"]["error"]["message"]
    return said["status"]["error"]["message"]


def until(state: str, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Look until the statement is in that state."""
    patience = time.monotonic() + 5
    while (said := look())["status"]["state"] != state:
        assert time.monotonic() < patience, said
        time.sleep(0.01)
    return said


# ── ai_query ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_asks_the_model(asking: Any) -> None:
    """The prompt, bound or literal, is a chat question to the endpoint, and its text the cell."""
    assert cells(asking, f"SELECT ai_query('{LLAMA}', 'It\\'s -- me') AS a") == [["It's -- me"]]
    assert cells(asking, f"select AI_QUERY('{LLAMA}', :p)", p="\\'; -- :p") == [["\\'; -- :p"]]
    assert cells(asking, f"SELECT ai_query(endpoint => '{LLAMA}', request => :p) a, 1 b", p="x") == [["x", "1"]]


def test_the_question_is_recorded(ask: Any) -> None:
    """In `questions` stands what the model was asked, with everything that the statement says."""
    execute(
        ask,
        f"""SELECT ai_query('{LLAMA}', :p, modelParameters => named_struct('max_tokens', 2, 'temperature',
        CAST(0.1 AS DOUBLE), 'stop', array('a', :s)), responseFormat => '{{"type":"json_object"}}') AS r""",
        parameters=[{"name": "p", "value": "json"}, {"name": "s", "value": "b", "type": "STRING"}],
    )
    (question,) = ask.local.questions

    assert question.path == f"/serving-endpoints/{LLAMA}/invocations"
    assert question.json == {
        "messages": [{"role": "user", "content": "json"}],
        "max_tokens": 2,
        "temperature": 0.1,
        "stop": ["a", "b"],
        "response_format": {"type": "json_object"},
    }
    assert [PATH, question.path] == [request.path for request in ask.local.received]


def test_options_do_what_they_say(asking: Any) -> None:
    """They reach the same answerer as any question."""
    said = f"ai_query('{LLAMA}', 'one two three json', modelParameters => named_struct('max_tokens', 2))"
    assert cells(asking, f"SELECT {said}") == [["one two"]]
    ((cell,),) = cells(asking, f"SELECT ai_query('{LLAMA}', 'json', responseFormat => 'json_object')")
    assert json.loads(cell or "") == {"answer": "json"}


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("databricks-claude-sonnet-4-5", "Hi"),
        ("databricks-gpt-oss-120b", "Hi"),
        ("agent-chat", "Hi"),
        ("doc-sample", None),
    ],
)
def test_every_family_answers_in_text(asking: Any, endpoint: str, text: str | None) -> None:
    """Reasoning blocks stay behind; what has no text is null."""
    assert cells(asking, f"SELECT ai_query('{endpoint}', 'Hi')") == [[text]]


def test_an_agent_takes_a_struct(asking: Any) -> None:
    """A request that is a STRUCT is the body itself."""
    messages = "array(named_struct('role', 'user', 'content', 'Hi'))"
    assert cells(asking, f"SELECT ai_query('agent-chat', named_struct('messages', {messages}))") == [["Hi"]]


def test_rows_are_questions(ask: Any) -> None:
    """From VALUES, a subselect or both; each row asks once."""
    rows = "(VALUES ('a', 1), ('b', 2), ('c', 3)) AS t(p, n)"
    assert cells(ask, f"SELECT n, ai_query('{LLAMA}', 'say ' || t.p) FROM {rows} LIMIT 2") == [
        ["1", "say a"],
        ["2", "say b"],
    ]
    union = "(SELECT 'x' AS p UNION ALL SELECT :q) s"
    assert cells(ask, f"SELECT ai_query('{LLAMA}', concat(p, '!')) FROM {union}", q="y") == [["x!"], ["y!"]]
    assert cells(ask, f"SELECT * FROM {rows}") == [["a", "1"], ["b", "2"], ["c", "3"]]
    assert len(ask.local.questions) == 4


def test_a_failed_question_fails_the_statement(ask: Any) -> None:
    """Unless `failOnError => false`: then it is a field of the cell, which is a struct in JSON."""
    for fault in (Fault(status=400), Fault(status=503)):
        ask.local.order(fault, fault)
        words = failure(ask, f"SELECT ai_query('{LLAMA}', 'Hi')")
        assert "[REMOTE_FUNCTION_HTTP_" in words
        assert str(fault.status) in words
        ((cell,),) = cells(ask, f"SELECT ai_query('{LLAMA}', 'Hi', failOnError => false) AS r")
        assert json.loads(cell or "") == {"result": None, "errorMessage": words}
    said = execute(ask, f"SELECT ai_query('{LLAMA}', 'Hi', failOnError => false) AS r")
    (column,) = said["manifest"]["schema"]["columns"]
    assert column == {
        "name": "r",
        "position": 0,
        "type_name": "STRUCT",
        "type_text": "STRUCT<result: STRING, errorMessage: STRING>",
    }
    assert cells(ask, f"SELECT ai_query('{LLAMA}', 'Hi', failOnError => false).result") == [["Hi"]]


def test_an_endpoint_that_is_not_there_fails_it_either_way(asking: Any) -> None:
    """It is looked up before there is a row to put an error in."""
    for end in ("", ", failOnError => false"):
        assert "code 404" in failure(asking, f"SELECT ai_query('nope', 'Hi'{end})")


def test_a_model_goes_wrong_as_ordered(ask: Any) -> None:
    """What is ordered for the next question happens to the model that the statement asks."""
    for fault in (Fault(reset=True), Fault(drop_after=3), Fault(junk="zz"), Fault(cut_after=4)):
        ask.local.order(fault)
        assert failure(ask, f"SELECT ai_query('{LLAMA}', 'Hi')")
    ask.local.reply(status=418, body="teapot")
    assert "'HTTP request failed with status: teapot'" in failure(ask, f"SELECT ai_query('{LLAMA}', 'Hi')")
    ask.local.order(Fault(delay=0.3))
    begun = time.monotonic()
    assert cells(ask, f"SELECT ai_query('{LLAMA}', 'Hi')") == [["Hi"]]
    assert time.monotonic() - begun >= 0.3


def test_a_script_answers_too(ask_of: Any) -> None:
    """The same rules as for any question."""
    with LocalEndpoint([{"when": {"contains": "weather"}, "reply": "It is sunny."}]) as local:
        assert cells(ask_of(local), f"SELECT ai_query('{LLAMA}', 'The weather?')") == [["It is sunny."]]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELECT ai_query(", "PARSE_SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", "exactly one statement"),
        ("", "is required"),
        ("SELECT ai_query(:e, 'x')", "must be a literal"),
        (f"SELECT ai_query(p, 'x') FROM VALUES ('{LLAMA}') AS t(p)", "must be a literal"),
        (f"SELECT ai_query('{LLAMA}')", "needs the parameter `request`"),
        (f"SELECT ai_query('{LLAMA}', :nope)", "UNBOUND_SQL_PARAMETER"),
        (f"SELECT ai_query('{LLAMA}', ?)", "UNBOUND_SQL_PARAMETER"),
        (f"SELECT ai_query('{LLAMA}', nope)", "UNRESOLVED_COLUMN"),
        (f"SELECT ai_query('{LLAMA}', 'x', odd => 1)", "UNRECOGNIZED_PARAMETER_NAME"),
        (f"SELECT ai_query('{LLAMA}', 'x', modelParameters => named_struct('temperature', 0.1))", "DOUBLE"),
        (f"SELECT ai_query('{LLAMA}', 'x', modelParameters => named_struct('odd', 1))", "unknown field"),
        (f"SELECT ai_query('{LLAMA}', 'x', files => 'y')", "`files` of ai_query"),
        (f"SELECT ai_query('{LLAMA}', 'x', returnType => 'STRUCT<a: INT>')", "`returnType`"),
        (f"SELECT ai_query('{LLAMA}', 'x', responseFormat => 'STRUCT<a: STRUCT<b: INT>>')", "`responseFormat`"),
        ("SELECT * FROM main.default.t", "the table main.default.t"),
        ("SELECT 1 WHERE true", "WHERE"),
        ("SELECT uuid()", "UUID()"),
        ("SELECT CAST('x' AS INT)", "CAST_INVALID_INPUT"),
        ("DROP TABLE t", "DROP"),
    ],
)
def test_what_it_does_not_know_it_says(asking: Any, statement: str, words: str) -> None:
    """A statement that cannot be run fails with a reason, never with a made-up answer."""
    if not statement:
        with pytest.raises(asking.Refused, match=words):
            execute(asking, statement)
        return
    assert words in failure(asking, statement, parameters=[{"name": "e", "value": LLAMA}])


def test_cells_are_texts(asking: Any) -> None:
    """Whatever its type, a cell is a text or null; the manifest has the type."""
    said = execute(
        asking,
        "SELECT 1 a, -2.50 b, 1e3 c, true d, NULL e, array(1, 'x') f, named_struct('k', :n) g, CAST(:n AS BIGINT) h",
        parameters=[{"name": "n", "value": "7", "type": "INT"}],
    )
    assert said["result"]["data_array"] == [["1", "-2.50", "1000.0", "true", None, '[1,"x"]', '{"k":7}', "7"]]
    kinds = [column["type_name"] for column in said["manifest"]["schema"]["columns"]]
    assert kinds == ["INT", "DECIMAL", "DOUBLE", "BOOLEAN", "STRING", "ARRAY", "STRUCT", "INT"]


# ── a statement's life ───────────────────────────────────────────────────────────────────────────────────────────────


def test_it_may_be_looked_at_later(ask: Any) -> None:
    """Without waiting it is PENDING, then RUNNING, then SUCCEEDED, its result there as often as it is asked for."""
    ask.local.order(Fault(delay=0.3))
    said = execute(ask, f"SELECT ai_query('{LLAMA}', 'Hi')", wait_timeout="0s")
    assert said["status"] == {"state": "PENDING"}
    place = f"{PATH}/{said['statement_id']}"
    assert until("RUNNING", lambda: ask.get(place)) == {**said, "status": {"state": "RUNNING"}}
    for _ in range(2):
        assert until("SUCCEEDED", lambda: ask.get(place))["result"]["data_array"] == [["Hi"]]


def test_it_may_be_cancelled(ask: Any) -> None:
    """And then has no result; a statement that is over stays as it was."""
    ask.local.order(Fault(stall=30))
    running = execute(ask, f"SELECT ai_query('{LLAMA}', 'Hi')", wait_timeout="0s")["statement_id"]
    over = execute(ask, "SELECT 1")["statement_id"]
    for number, state in ((running, "CANCELED"), (over, "SUCCEEDED")):
        assert ask.post(f"{PATH}/{number}/cancel", {}) == b"{}"
        assert ask.get(f"{PATH}/{number}")["status"] == {"state": state}


def test_it_waits_no_longer_than_it_is_told(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_wait_timeout` says what then: CONTINUE, or CANCEL."""
    monkeypatch.setattr("isochat.local._sql._seconds", lambda said: 0.2)
    for then, state in ((None, "RUNNING"), ("CONTINUE", "RUNNING"), ("CANCEL", "CANCELED")):
        ask.local.order(Fault(stall=30))
        begun = time.monotonic()
        said = execute(ask, f"SELECT ai_query('{LLAMA}', 'Hi')", on_wait_timeout=then)
        assert said["status"]["state"] == state
        assert 0.2 <= time.monotonic() - begun < 2


def test_old_results_are_closed(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It remembers the last results, of those before only that they were, and of those before nothing."""
    monkeypatch.setattr("isochat.local._sql.REMEMBERED", 3)
    monkeypatch.setattr("isochat.local._sql.OPEN", 1)
    numbers = [execute(ask, f"SELECT {n}")["statement_id"] for n in range(4)]
    with pytest.raises(ask.Refused) as gone:
        ask.get(f"{PATH}/{numbers[0]}")
    assert (gone.value.status, gone.value.error["error_code"]) == (404, "NOT_FOUND")
    states = [ask.get(f"{PATH}/{number}")["status"]["state"] for number in numbers[1:]]
    assert states == ["CLOSED", "CLOSED", "SUCCEEDED"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"warehouse_id": None}, "warehouse_id is required"),
        ({"warehouse_id": " "}, "warehouse_id is required"),
        ({"statement": 5}, "statement is required"),
        ({"wait_timeout": "3s"}, "from 5s to 50s"),
        ({"wait_timeout": 10}, "from 5s to 50s"),
        ({"wait_timeout": "51s"}, "from 5s to 50s"),
        ({"on_wait_timeout": "WAIT"}, "on_wait_timeout"),
        ({"disposition": "EXTERNAL_LINKS"}, "disposition"),
        ({"format": "CSV"}, "format"),
        ({"odd": 1}, "unknown field 'odd'"),
        ({"parameters": [{"value": "x"}]}, "parameters"),
        ({"parameters": {"p": "x"}}, "parameters"),
        ({"parameters": [{"name": "p"}, {"name": "p"}]}, "twice"),
        ({"parameters": [{"name": "p", "value": 5}]}, "must be a text"),
        ({"parameters": [{"name": "p", "value": "x", "type": "INT"}]}, "is no INT"),
        ({"parameters": [{"name": "p", "value": "x", "type": "MAP<STRING, STRING>"}]}, "is no MAP"),
    ],
)
def test_a_request_that_is_wrong_is_refused(asking: Any, change: dict[str, Any], words: str) -> None:
    """Under its own status, before there is a statement."""
    with pytest.raises(asking.Refused) as refused:
        execute(asking, **{"statement": "SELECT 1", **change})

    assert refused.value.status == 400
    assert words in refused.value.error["message"]


def test_who_has_no_token_executes_nothing(asking: Any) -> None:
    with pytest.raises(asking.Refused) as refused:
        execute(asking, "SELECT 1", {"Authorization": ""})
    assert refused.value.status == 401


def test_other_paths_are_not_emulated(asking: Any) -> None:
    """Chunks and warehouses say so."""
    number = execute(asking, "SELECT 1")["statement_id"]
    for method, path in (
        ("GET", f"{PATH}/{number}/result/chunks/0"),
        ("GET", "/api/2.0/sql/warehouses"),
        ("GET", PATH),
    ):
        assert asking.request(method, path)[0] == 501


def test_the_statement_api_goes_wrong_by_a_header(ask: Any) -> None:
    """`X-Isochat-Fault` is for the request it comes with: here, the statement's own."""
    with pytest.raises(ask.Refused) as busy:
        execute(ask, "SELECT 1", {"X-Isochat-Fault": '{"status": 429, "retry_after": 3}'})
    assert (busy.value.status, busy.value.headers["retry-after"]) == (429, "3")
    ask.local.order(Fault(status=503))
    assert execute(ask, "SELECT 1")["status"]["state"] == "SUCCEEDED"  # it asks no model: the order stands
    assert "503" in failure(ask, f"SELECT ai_query('{LLAMA}', 'Hi')")


def test_the_databricks_sdk_is_content(local: LocalEndpoint) -> None:
    """Unmodified: it executes, waits, looks, cancels, and reads errors."""
    sdk = pytest.importorskip("databricks.sdk")
    from databricks.sdk.service.sql import StatementParameterListItem, StatementState

    client = sdk.WorkspaceClient(host=local.host, token=local.token, auth_type="pat")
    api = client.statement_execution
    bound = [StatementParameterListItem(name="p", value="Hi")]
    done = api.execute_statement(f"SELECT ai_query('{LLAMA}', :p) AS r", "w", parameters=bound, wait_timeout="50s")
    assert done.status.state is StatementState.SUCCEEDED
    assert done.result.data_array == [["Hi"]]
    assert done.manifest.schema.columns[0].type_name.value == "STRING"
    assert api.get_statement(done.statement_id).result.data_array == [["Hi"]]
    local.order(Fault(stall=30))
    running = api.execute_statement(f"SELECT ai_query('{LLAMA}', :p) AS r", "w", parameters=bound, wait_timeout="0s")
    assert running.status.state is StatementState.PENDING
    api.cancel_execution(running.statement_id)
    assert api.get_statement(running.statement_id).status.state is StatementState.CANCELED
    no = api.execute_statement("SELECT nope", "w")
    assert (no.status.state, no.status.error.error_code.value) == (StatementState.FAILED, "BAD_REQUEST")
    with pytest.raises(sdk.errors.InvalidParameterValue):
        api.execute_statement("SELECT 1", "")
    client.api_client._api_client._session.close()
