"""A question as a statement and a cell as an answer, with no client, no server and no Spark."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochat import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    EndpointNotFound,
    InvalidRequest,
    MalformedReply,
    Message,
    PermissionDenied,
    RateLimited,
    RequestRefused,
    ServiceError,
    ServiceUnavailable,
)
from isochat import _sql as sql
from isochat._request import OPTIONS, make_request
from isochat._types import Reasoning, Text
from isochat._wire import Reply
from isochat.testing.conformance import REFUSALS, VALUES, Refusal

FAILED = "[REMOTE_FUNCTION_HTTP_FAILED_ERROR] The remote HTTP request failed with code "


def statement(messages: Any = "Hi", endpoint: str = "e", template: Any = None, **options: Any) -> sql.Statement:
    return sql.statement(make_request(messages, endpoint=endpoint, **options), template)


# ── the statement ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_question_is_one_statement() -> None:
    """The endpoint is a literal, the prompt is bound, and a model's refusal is no failed statement."""
    made = statement("What is X?", "databricks-x_1.y")

    assert made.text == "SELECT ai_query('databricks-x_1.y', :prompt, failOnError => false) AS answer"
    assert made.parameters == {"prompt": "What is X?"}
    assert "What is X?" not in repr(made)


def test_options_are_named() -> None:
    """Whole numbers as they are, others as doubles, texts bound, objects as structs."""
    made = statement(
        max_tokens=7,
        temperature=0.25,
        top_p=1e-7,
        stop=["a", "b"],
        seed=-1,
        thinking={"type": "enabled", "budget_tokens": 1024, "deep": {"a": [True, None]}},
    )

    assert made.text == (
        "SELECT ai_query('e', :prompt, modelParameters => named_struct('max_tokens', 7, "
        "'temperature', CAST(0.25 AS DOUBLE), 'top_p', CAST(1e-07 AS DOUBLE), 'stop', array(:p1, :p2), 'seed', -1, "
        "'thinking', named_struct('type', :p3, 'budget_tokens', 1024, 'deep', named_struct('a', array(true, NULL)))), "
        "failOnError => false) AS answer"
    )
    assert made.parameters == {"prompt": "Hi", "p1": "a", "p2": "b", "p3": "enabled"}


def test_the_parameters_are_options_there_are() -> None:
    assert set(sql.PARAMETERS) <= set(OPTIONS)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"thinking": {"it's": 1}}, "thinking"),
        ({"thinking": {"a": {"b c": 1}}}, "thinking.a"),
        ({"seed": 2**63 - 1, "thinking": {"a') --": 1}}, "thinking"),
    ],
)
def test_what_is_no_name_is_refused(options: dict[str, Any], path: str) -> None:
    """A key stands in the statement itself, so it must be a name."""
    with pytest.raises(InvalidRequest) as refused:
        statement(**options)

    assert refused.value.path == path


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "it's", "a\\", "a\n", "ü", "a;", "a)", "${x}", "a/b", "a\x00", "a`", '"']
)
def test_what_is_no_endpoint_is_refused(name: str) -> None:
    """Nothing but letters, digits, hyphens, underscores and dots, all of them ASCII."""
    with pytest.raises(InvalidRequest, match="endpoint"):
        statement(endpoint=name)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-99, 99)
    | st.text(max_size=9)
    | st.sampled_from(["'", "\\", "${a}", "\\'"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # the parser is imported in it
@given(st.text(max_size=40), st.lists(st.text(max_size=9), max_size=3), JSON)
def test_a_parser_reads_what_was_said(prompt: str, stop: list[str], schema: Any) -> None:
    """Read back by another's parser, it is one SELECT of one call, whose parts are what the caller said."""
    sqlglot = pytest.importorskip("sqlglot", reason="the other reader")
    wanted = {"type": "json_schema", "json_schema": {"name": "'; --", "schema": schema}}
    made = statement(prompt.encode("utf-8", "replace").decode(), stop=stop, response_format=wanted)
    (tree,) = sqlglot.parse(made.text, read="databricks")
    (shown,) = tree.expressions
    arguments = {a.name: a.expression for a in shown.this.expressions if isinstance(a, sqlglot.exp.Kwarg)}

    assert not tree.args.get("from_")
    assert [type(node) for node in shown.this.expressions[:2]] == [sqlglot.exp.Literal, sqlglot.exp.Placeholder]
    assert list(arguments) == ["modelParameters", "responseFormat", "failOnError"]
    assert json.loads(arguments["responseFormat"].this) == wanted
    assert {node.name for node in tree.find_all(sqlglot.exp.Placeholder)} == made.parameters.keys()
    assert [made.parameters[f"p{n}"] for n in range(1, len(stop) + 1)] == stop
    assert made.text.isascii()
    assert made.text.isprintable()
    assert "$" not in made.text


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_template_is_only_asked_for_more_than_a_prompt() -> None:
    """One user message of text is the prompt; anything else is for the template, and without one it is refused."""
    two = [Message("user", "a"), Message("user", "b")]

    assert statement(Message("user", (Text("a"), Text("b"))), template=sql.roles).parameters["prompt"] == "ab"
    assert statement(two, template=sql.plain).parameters["prompt"] == "a\n\nb"
    with pytest.raises(sql.Conversation):
        statement(two)
    with pytest.raises(InvalidRequest, match="prompt_template"):
        statement(two, template=lambda messages: messages)


def test_what_the_model_thought_is_left_out() -> None:
    """The service allows it to be; a signature would mean nothing in a prompt."""
    thought = Message("assistant", (Reasoning("Hm.", signature="s"), Text("A letter.")))

    assert sql.roles((Message("user", "X?"), thought)) == "User: X?\n\nAssistant: A letter.\n\nAssistant:"


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
            "messages[1].content[0]",
        ),
        ({"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "citations": [1]}]}, "messages[1].content[0]"),
        ({"role": "tool", "content": "a", "tool_call_id": "c"}, "messages[1].tool_call_id"),
        ({"role": "user", "content": "a", "name": "Ada"}, "messages[1].name"),
        ({"role": "user", "content": "a", "odd": 1}, "messages[1].odd"),
    ],
)
def test_what_has_no_place_in_a_prompt_is_refused(message: dict[str, Any], path: str) -> None:
    """Nothing is dropped in silence."""
    messages = make_request([{"role": "user", "content": "x"}, message], endpoint="e").messages
    with pytest.raises(InvalidRequest) as refused:
        sql.plain(messages)

    assert refused.value.path == path


# ── cells ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("result", ["result", "response"])
@pytest.mark.parametrize("error", ["errorMessage", "errorStatus", "error", None])
@pytest.mark.parametrize("as_text", [True, False])
def test_every_name_of_the_struct_is_known(result: str, error: str | None, *, as_text: bool) -> None:
    """The official texts call them differently; over HTTP it is JSON text, under Spark an object."""
    struct: dict[str, Any] = {result: "Hi", **({error: None} if error else {})}
    cell = json.dumps(struct) if as_text else struct

    assert sql.answer(cell, "STRUCT" if as_text else None).text == "Hi"
    if error:
        with pytest.raises(ServiceError, match=r"Oh\."):
            sql.answer({**struct, error: "Oh."})
        assert sql.answer(json.dumps(struct)).text == "Hi"  # of a column that does not say its type


def test_a_text_is_an_answer() -> None:
    """Where the column is a STRING, what looks like a struct is what the model wrote."""
    odd = '{"result": "x", "errorMessage": "y"}'

    assert sql.answer(odd, "STRING").text == odd
    assert sql.answer('{"result": "x"}').text == '{"result": "x"}'
    assert sql.answer("plain").text == "plain"
    assert sql.answer(None).message.content is None
    assert sql.answer({"result": {"a": [1]}, "errorMessage": None}).text == '{"a": [1]}'


def reply(body: Any, status: int = 200) -> Reply:
    return Reply(status, {"x-request-id": "r"}, body if isinstance(body, bytes) else json.dumps(body).encode())


def succeeded(*rows: list[Any]) -> dict[str, Any]:
    return {"statement_id": "s", "status": {"state": "SUCCEEDED"}, "result": {"data_array": rows}}


def failed(message: str | None, code: str = "BAD_REQUEST", state: str = "FAILED") -> dict[str, Any]:
    error = {} if message is None else {"error": {"error_code": code, "message": message}}
    return {"statement_id": "s", "status": {"state": state, **error}}


def test_a_statement_says_whether_it_runs() -> None:
    """Its id while it runs, nothing when it is over or makes no sense."""
    for state in ("PENDING", "RUNNING"):
        assert sql.running(reply({"statement_id": "s", "status": {"state": state}})) == "s"
    for body in (succeeded(["a"]), failed("x"), [], {"status": 1}, {"status": {"state": "RUNNING"}}, b"<html>", None):
        assert sql.running(reply(body)) is None
    assert sql.running(reply({"statement_id": "s", "status": {"state": "RUNNING"}}, 503)) is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"status": {"state": "ODD"}},
        {"status": {"state": "RUNNING"}},
        succeeded(),
        succeeded(["a", "b"]),
        succeeded(["a"], ["b"]),
        succeeded([5]),
        {"status": {"state": "SUCCEEDED"}},
        b"",
        b"<!DOCTYPE html>",
    ],
)
def test_what_is_no_result_makes_no_sense(body: Any) -> None:
    """It is kept, with where it was wrong."""
    with pytest.raises(MalformedReply) as malformed:
        sql.decode(reply(body))

    assert malformed.value.request_id == "r"
    assert malformed.value.status == 200


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
@pytest.mark.parametrize("where", ["cell", "statement", "retried"])
def test_the_models_refusal_is_itself(refusal: Refusal, where: str) -> None:
    """Whether in the struct or as the statement's failure, the words of SQL around it change nothing."""
    body = refusal.body.decode() if isinstance(refusal.body, bytes) else json.dumps(refusal.body)
    words = f"{FAILED}{refusal.status}, and error message 'HTTP request failed with status: {body}' SQLSTATE: 57012"
    if where == "retried":
        words = "[REMOTE_FUNCTION_HTTP_RETRY_TIMEOUT] The remote request failed after retrying 10 times; the last "
        words += f"failed HTTP error code was {refusal.status} and the message was {body}. SQLSTATE: 57012"
    with pytest.raises(ServiceError) as refused:
        sql.decode(
            reply(
                succeeded([json.dumps({"result": None, "errorMessage": words})])
                if where != "statement"
                else failed(words)
            )
        )
    error = refused.value

    assert type(error) is refusal.error
    assert error.status == refusal.status
    assert error.error_code == refusal.error_code
    assert refusal.says in error.message
    assert error.request_id == "r"
    assert "SQLSTATE" not in error.message


def test_as_it_was_recorded() -> None:
    """databricks-demos/dbdemos issue 220, with other names: the quotes inside are escaped, which JSON does not know."""
    words = (
        "An error occurred while calling o409.sql.\n: org.apache.spark.SparkException: "
        f"{FAILED}404, and error message 'HTTP request failed with status: "
        r'{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Endpoint with name \'mine\' does not exist.",'
        r'"details":[{"request_id":"q"}]}'
        "' SQLSTATE: 57012\n\tat org.apache.spark.sql.errors.QueryExecutionErrors$.remoteHttpFailedError"
    )
    with pytest.raises(EndpointNotFound, match="Endpoint with name 'mine' does not exist") as refused:
        sql.decode(reply(failed(words)))

    assert refused.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert refused.value.status == 404


@pytest.mark.parametrize(
    ("message", "code", "error"),
    [
        ("[PARSE_SYNTAX_ERROR] Syntax error at or near 'x'. SQLSTATE: 42601", "BAD_REQUEST", RequestRefused),
        ("[UNBOUND_SQL_PARAMETER] Found the unbound parameter: p. SQLSTATE: 42P02", "BAD_REQUEST", RequestRefused),
        ("PERMISSION_DENIED: User does not have permission CAN_QUERY", "BAD_REQUEST", PermissionDenied),
        ("[INSUFFICIENT_PERMISSIONS] Insufficient privileges", "BAD_REQUEST", PermissionDenied),
        ("The endpoint mine does not exist or was deleted", "BAD_REQUEST", EndpointNotFound),
        ("Exceeded workspace input tokens per minute rate limit", "BAD_REQUEST", RateLimited),
        ("The warehouse is stopping", "TEMPORARILY_UNAVAILABLE", ServiceUnavailable),
        ("The warehouse is stopping", "WORKSPACE_TEMPORARILY_UNAVAILABLE", ServiceUnavailable),
        ("Maintenance", "SERVICE_UNDER_MAINTENANCE", ServiceUnavailable),
        ("Disk", "IO_ERROR", ServiceUnavailable),
        ("Oh", "INTERNAL_ERROR", ServiceUnavailable),
        ("Full", "RESOURCE_EXHAUSTED", RateLimited),
        ("Who", "UNAUTHENTICATED", AuthenticationFailed),
        ("The prompt is too long", "BAD_REQUEST", ContextLengthExceeded),
        ("content_filter", "BAD_REQUEST", ContentFiltered),
        ('[PARSE_SYNTAX_ERROR] near responseFormat => \'{"type":"x"}\' in it', "BAD_REQUEST", RequestRefused),
    ],
)
def test_a_failed_statement_is_the_right_error(message: str, code: str, error: type[ServiceError]) -> None:
    """It comes under HTTP 200, and its class is that of what went wrong."""
    with pytest.raises(ServiceError) as refused:
        sql.decode(reply(failed(message, code)))

    assert type(refused.value) is error
    assert refused.value.status == 200
    assert refused.value.error_code == code
    assert refused.value.body == {"error_code": code, "message": message}


def test_a_statement_may_end_without_a_word() -> None:
    """Cancelled by another, closed before it was read, failed without a reason: said so, and not asked again."""
    for state, words in (("CANCELED", "somebody else"), ("CLOSED", "before"), ("FAILED", "nothing says why")):
        with pytest.raises(ServiceError, match=words) as ended:
            sql.decode(reply(failed(None, state=state)))
        assert not ended.value.transient
        assert ended.value.error_code == state


def test_what_ai_query_could_not_read_makes_no_sense() -> None:
    words = "[AI_FUNCTION_INVALID_HTTP_RESPONSE] Invalid HTTP response for function ai_query: x SQLSTATE: 08000"
    for framed in (words, f"An error occurred while calling o1.sql.\n: java.lang.SparkException: {words}"):
        with pytest.raises(MalformedReply, match="made no sense to ai_query"):
            sql.answer({"result": None, "errorMessage": framed})


@given(st.text(max_size=60) | JSON)
def test_no_error_breaks_the_reader(words: Any) -> None:
    """Whatever stands in the error, it is one of ours."""
    if words is not None:
        with pytest.raises((ServiceError, MalformedReply)):
            sql.answer({"result": None, "error": words})


def test_values_cover_the_parameters() -> None:
    """The suite has a value for each, so each is seen to arrive."""
    assert set(sql.PARAMETERS) <= set(VALUES)
