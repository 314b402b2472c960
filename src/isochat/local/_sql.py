"""A SQL warehouse that knows one function: `ai_query()`, over literals, parameters and lists of values.

The statement is read by a real parser (sqlglot, in the dialect `databricks`), so what is a literal, a parameter or a
comment is not decided here. What it evaluates is small, and what it does not know it refuses by name. Each call of
`ai_query` is a chat question to the serving endpoint it names, and is recorded, ordered wrong and answered like one.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from isochat.local._faults import Fault, Verbatim, error_body
from isochat.local._question import text_of
from isochat.local._received import Headers, Received

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from isochat.local._carry import Reply

__all__ = ["Warehouse", "is_statement"]

Json = dict[str, Any]

#: Statements it remembers, the oldest forgotten first; of those before the last so many the result is CLOSED.
REMEMBERED, OPEN = 1000, 100
_PATH = ["api", "2.0", "sql", "statements"]
_OVER = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "CLOSED"})
_REQUEST = frozenset(
    [
        "byte_limit",
        "catalog",
        "disposition",
        "format",
        "on_wait_timeout",
        "parameters",
        "query_tags",
        "row_limit",
        "schema",
        "statement",
        "wait_timeout",
        "warehouse_id",
    ]
)
_NAMED = ("endpoint", "request", "returntype", "failonerror", "modelparameters", "responseformat", "files")


def is_statement(segments: list[str]) -> bool:
    """Whether a path is the Statement Execution API's."""
    return segments[:4] == _PATH


class Model(Protocol):
    """What is behind `ai_query`: the serving endpoints, as the server has them."""

    received: list[Received]

    def next_order(self) -> Fault | Verbatim | None:
        """What was ordered for the next chat question."""

    async def _answered(self, raw: bytes | None, name: str, *, invocations: bool) -> tuple[Reply, Fault | None]: ...


class _Failed(Exception):
    """The statement fails: `status.error` under HTTP 200."""

    def __init__(self, message: str, state: str, code: str = "BAD_REQUEST") -> None:
        super().__init__(message)
        self.message, self.state, self.code = f"{message} SQLSTATE: {state}", state, code


class _Refused(Exception):
    """The request itself is refused, under an HTTP status of its own."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(slots=True)
class _Statement:
    id: str
    state: str = "PENDING"
    result: Json = field(default_factory=dict)
    error: Json = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    def said(self) -> Json:
        return {"statement_id": self.id, "status": {"state": self.state, **self.error}, **self.result}


class Warehouse:
    """The statements of one local endpoint, by their ids."""

    def __init__(self) -> None:
        self._statements: dict[str, _Statement] = {}

    async def answer(self, model: Model, method: str, segments: list[str], body: bytes | None) -> tuple[int, Json]:
        """Status and body for a request to `/api/2.0/sql/statements…`."""
        try:
            match method, *segments[4:]:
                case ("POST",) | ("POST", ""):  # databricks-sdk 0.60 ends the path with a slash
                    return 200, await self._execute(model, body)
                case "GET", number:
                    return 200, self._known(number).said()
                case "POST", number, "cancel":
                    _cancel(self._known(number))
                    return 200, {}
        except _Refused as no:
            return no.status, {"error_code": no.code, "message": no.message}
        path = "/".join(["", *segments])
        return 501, {
            "error_code": "NOT_IMPLEMENTED",
            "message": f"The local endpoint does not emulate {method} {path}: a result is inline and has one chunk.",
        }

    def _known(self, number: str) -> _Statement:
        if not re.fullmatch(r"[0-9a-f-]{36}", number):
            raise _invalid(f"{number!r} is not the id of a statement")
        if number not in self._statements:
            raise _Refused(404, "NOT_FOUND", f"The statement {number} was not found.")
        return self._statements[number]

    async def _execute(self, model: Model, body: bytes | None) -> Json:
        asked = _read(body)
        seconds = _seconds(asked.get("wait_timeout"))
        bound = dict(_parameters(asked.get("parameters")))
        tree = await asyncio.to_thread(_parsed, asked["statement"])
        made = _Statement(str(uuid.uuid4()))
        made.task = asyncio.create_task(_run(made, tree, _Scope(model, bound)))
        self._keep(made)
        if seconds:
            await asyncio.wait({made.task}, timeout=seconds)
            if made.state not in _OVER and asked.get("on_wait_timeout") == "CANCEL":
                _cancel(made)
        return made.said()

    def _keep(self, made: _Statement) -> None:
        self._statements[made.id] = made
        numbers = list(self._statements)
        for number in numbers[:-REMEMBERED]:
            _cancel(self._statements.pop(number))
        for number in numbers[-REMEMBERED:-OPEN]:
            if self._statements[number].state == "SUCCEEDED":
                self._statements[number].state, self._statements[number].result = "CLOSED", {}


def _cancel(statement: _Statement) -> None:
    if statement.state not in _OVER:
        statement.state = "CANCELED"
        if statement.task is not None:
            statement.task.cancel()


async def _run(statement: _Statement, tree: Any, scope: _Scope) -> None:
    statement.state = "RUNNING"
    try:
        columns, rows = await _select(tree, scope)
        statement.result = _table(columns, rows)
        statement.state = "SUCCEEDED"
    except _Failed as why:
        statement.error = {"error": {"error_code": why.code, "message": why.message}, "sql_state": why.state}
        statement.state = "FAILED"
    except Exception as why:  # noqa: BLE001 - a statement that cannot be evaluated fails like any other
        words = f"[INTERNAL_ERROR] The local endpoint failed: {why!r}"
        statement.error = {"error": {"error_code": "INTERNAL_ERROR", "message": words}, "sql_state": "XX000"}
        statement.state = "FAILED"


# --- the request ------------------------------------------------------------------------------------------------------


def _read(body: bytes | None) -> Json:
    if body is None:
        raise _Refused(413, "BAD_REQUEST", "The request is larger than 16 MiB.")
    try:
        asked = json.loads(body)
    except ValueError as why:
        raise _Refused(400, "MALFORMED_REQUEST", f"Could not parse the request: {why}") from None
    if not isinstance(asked, dict):
        raise _Refused(400, "MALFORMED_REQUEST", "Could not parse the request: it is no object.")
    if unknown := asked.keys() - _REQUEST:
        raise _invalid(f"unknown field {min(unknown)!r}")
    for name in ("statement", "warehouse_id"):
        if not isinstance(asked.get(name), str) or not asked[name].strip():
            raise _invalid(f"{name} is required")
    for name, known in (
        ("disposition", "INLINE"),
        ("format", "JSON_ARRAY"),
        ("on_wait_timeout", "CONTINUE CANCEL"),
    ):
        if asked.get(name) not in (None, *known.split()):
            raise _invalid(f"{name} is {asked[name]!r}; the local endpoint has {known.replace(' ', ' and ')}")
    return asked


def _invalid(words: str) -> _Refused:
    return _Refused(400, "INVALID_PARAMETER_VALUE", f"INVALID_PARAMETER_VALUE: {words}.")


def _seconds(said: object) -> int:
    found = re.fullmatch(r"(\d{1,2})s", said if isinstance(said, str) else "10s" if said is None else "")
    if found is None or not (int(found[1]) == 0 or 5 <= int(found[1]) <= 50):
        raise _invalid(f"wait_timeout is {said!r}; it must be 0s, or from 5s to 50s")
    return int(found[1])


def _parameters(said: object) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for one in said if isinstance(said, list) else () if said is None else (None,):
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not one["name"]:
            raise _invalid("parameters are objects with a name, a value and a type")
        name, value = one["name"], one.get("value")
        if name in seen:
            raise _invalid(f"parameter {name!r} is given twice")
        seen.add(name)
        if value is not None and not isinstance(value, str):
            raise _invalid(f"the value of parameter {name!r} must be a text or null")
        try:
            yield name, None if value is None else _cast(value, str(one.get("type") or "STRING").upper())
        except _Failed:
            raise _invalid(f"the value of parameter {name!r} is no {one.get('type')}") from None


# --- the statement ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scope:
    """What an expression may speak of: the model, the parameters, and the row it is evaluated for."""

    model: Model
    bound: Mapping[str, Any]
    row: Mapping[str, Any] = field(default_factory=dict)

    def at(self, row: Mapping[str, Any]) -> _Scope:
        return _Scope(self.model, self.bound, row)


def _parsed(text: str) -> Any:
    """The statement as a tree, or the failure that its text amounts to."""
    try:
        import sqlglot
    except ImportError:
        words = "SQL on the local endpoint needs sqlglot: pip install 'isochat[local]'"
        raise _Refused(501, "NOT_IMPLEMENTED", words) from None
    try:
        trees = sqlglot.parse(text, read="databricks")
    except (sqlglot.errors.SqlglotError, RecursionError) as why:
        return _Failed(f"[PARSE_SYNTAX_ERROR] {str(why).splitlines()[0]}", "42601")
    trees = [tree for tree in trees if tree is not None]
    if len(trees) != 1 or trees[0] is None:
        return _Failed("[PARSE_SYNTAX_ERROR] Expected exactly one statement.", "42601")
    return trees[0]


def _unknown(what: str) -> _Failed:
    words = f"[UNSUPPORTED_FEATURE] The local endpoint does not know {what}: it evaluates SELECT over literals, "
    return _Failed(f"{words}parameters, VALUES and ai_query.", "0A000")


async def _select(tree: Any, scope: _Scope) -> tuple[list[str], list[list[Any]]]:
    """Names and rows of a query."""
    from sqlglot import exp

    if isinstance(tree, _Failed):  # its text could not be read
        raise tree
    if isinstance(tree, exp.Subquery):
        return await _select(tree.this, scope)
    if isinstance(tree, exp.Union):
        if tree.args.get("distinct"):
            raise _unknown("UNION without ALL")
        names, rows = await _select(tree.left, scope)
        _, more = await _select(tree.right, scope)
        return names, rows + more
    if isinstance(tree, exp.Values):
        rows = [[await _value(v, scope) for v in _members(row)] for row in tree.expressions]
        return [f"col{n}" for n in range(1, len(rows[0]) + 1)], rows
    if not isinstance(tree, exp.Select):
        raise _unknown(type(tree).__name__.upper())
    known = {"expressions", "from", "from_", "limit", "kind", "hint", "operation_modifiers"}
    for clause, there in tree.args.items():
        if there and clause not in known:
            raise _unknown(clause.strip("_").upper())
    source = tree.args.get("from_") or tree.args.get("from")
    names, columns = [], []
    scopes = [scope] if source is None else [scope.at(row) async for row in _rows(source.this, scope)]
    if (limit := tree.args.get("limit")) is not None:
        scopes = scopes[: int(await _value(limit.expression, scope))]
    for place, shown in enumerate(tree.expressions):
        if isinstance(shown, exp.Star):
            plain = [k for k in (scopes[0].row if scopes else {}) if "." not in k]
            names += plain
            columns += [exp.column(name) for name in plain]
            continue
        names.append(shown.alias_or_name or shown.sql("databricks") or f"col{place}")
        columns.append(shown.this if isinstance(shown, exp.Alias) else shown)
    return names, [[await _value(column, at) for column in columns] for at in scopes]


async def _rows(source: Any, scope: _Scope) -> Any:
    """The rows of a FROM, each by the names of its columns, with and without that of the table."""
    from sqlglot import exp

    if not isinstance(source, exp.Subquery | exp.Values):
        raise _unknown(f"the table {source.sql('databricks')}")
    names, rows = await _select(source, scope)
    alias = source.args.get("alias")
    given = [c.name for c in (alias.args.get("columns") or [])] if alias is not None else []
    table = alias.name.lower() if alias is not None and alias.this is not None else ""
    for row in rows:
        plain = dict(zip([n.lower() for n in (given or names)], row, strict=False))
        yield plain | ({f"{table}.{name}": value for name, value in plain.items()} if table else {})


def _members(row: Any) -> list[Any]:
    from sqlglot import exp

    return list(row.expressions) if isinstance(row, exp.Tuple) else [row.this if isinstance(row, exp.Paren) else row]


async def _value(node: Any, scope: _Scope) -> Any:
    """What an expression amounts to: a decimal literal is a Decimal, a double a float, a struct a dictionary."""
    from sqlglot import exp

    match node:
        case exp.Literal():
            return node.this if node.is_string else _number(node.this)
        case exp.RawString():
            return node.this
        case exp.Null():
            return None
        case exp.Boolean():
            return bool(node.this)
        case exp.Paren() | exp.Alias():
            return await _value(node.this, scope)
        case exp.Neg():
            return -await _value(node.this, scope)
        case exp.Placeholder():
            if node.name not in scope.bound:
                raise _Failed(f"[UNBOUND_SQL_PARAMETER] Found the unbound parameter: {node.name or '?'}.", "42P02")
            return scope.bound[node.name]
        case exp.Cast() | exp.TryCast():
            return _cast(await _value(node.this, scope), node.to.sql("databricks").upper())
        case exp.Array():
            return [await _value(item, scope) for item in node.expressions]
        case exp.Struct():
            return {_key(item): await _value(item.expression, scope) for item in node.expressions}
        case exp.Concat() | exp.DPipe():
            parts = node.expressions if isinstance(node, exp.Concat) else [node.left, node.right]
            said = [await _value(part, scope) for part in parts]
            return None if None in said else "".join(_text(part) or "" for part in said)
        case exp.Column():
            name = ".".join(part.name for part in node.parts).lower()
            if name in scope.row:
                return scope.row[name]
            words = f"[UNRESOLVED_COLUMN.WITHOUT_SUGGESTION] A column with name `{name}` cannot be resolved."
            raise _Failed(words, "42703")
        case exp.Dot():
            whole = await _value(node.this, scope)
            if isinstance(whole, dict) and node.name in whole:
                return whole[node.name]
            raise _Failed(f"[FIELD_NOT_FOUND] No such struct field {node.name}.", "42704")
        case exp.Anonymous() if node.name.lower() == "ai_query":
            return await _ai_query(node, scope)
    raise _unknown(node.sql("databricks")[:80])


def _key(item: Any) -> str:
    from sqlglot import exp

    if not isinstance(item, exp.PropertyEQ):
        raise _Failed("[DATATYPE_MISMATCH] named_struct needs names that are literals.", "42K09")
    return str(item.this.name)


def _number(text: str) -> int | float | Decimal:
    if "e" in text.lower():
        return float(text)
    return Decimal(text) if "." in text else int(text)


def _cast(value: Any, to: str) -> Any:
    if value is None:
        return None
    kind = to.partition("(")[0]
    try:
        match kind:
            case "STRING" | "VARCHAR" | "CHAR" | "DATE" | "TIMESTAMP" | "TIMESTAMP_NTZ":
                return _text(value)
            case "TINYINT" | "SMALLINT" | "INT" | "BIGINT" | "LONG" | "SHORT" | "BYTE":
                return int(Decimal(value)) if isinstance(value, str) else int(value)
            case "DOUBLE" | "FLOAT":
                return float(value)
            case "DECIMAL" | "NUMERIC":
                return Decimal(str(value))
            case "BOOLEAN":
                return {"true": True, "false": False}[str(value).lower()]
    except (ValueError, ArithmeticError, KeyError, TypeError):
        raise _Failed(f"[CAST_INVALID_INPUT] The value cannot be cast to {kind}.", "22018") from None
    raise _unknown(f"the type {to}")


# --- ai_query ---------------------------------------------------------------------------------------------------------


async def _ai_query(node: Any, scope: _Scope) -> Any:
    said = dict(_arguments(node))
    for needed in ("endpoint", "request"):
        if needed not in said:
            raise _Failed(f"[REQUIRED_PARAMETER_NOT_FOUND] ai_query needs the parameter `{needed}`.", "4274K")
    endpoint = _constant(said, "endpoint", None)
    if not isinstance(endpoint, str):
        raise _Failed("[DATATYPE_MISMATCH] The endpoint of ai_query must be a STRING.", "42K09")
    if "files" in said:
        raise _unknown("`files` of ai_query")
    if _constant(said, "returntype", "STRING").upper() != "STRING":
        raise _unknown("any `returnType` of ai_query but STRING")
    asked = await _value(said["request"], scope)
    body: Json = dict(asked) if isinstance(asked, dict) else {"messages": [{"role": "user", "content": _text(asked)}]}
    body |= _model_parameters(await _value(said["modelparameters"], scope) if "modelparameters" in said else {})
    if "responseformat" in said:
        body["response_format"] = _format(_constant(said, "responseformat", None))
    status, content = await _asked(endpoint, body, scope)
    text, complaint = _outcome(status, content)
    if _constant(said, "failonerror", True):
        if complaint is not None:
            raise _Failed(complaint, "57012")
        return text
    if complaint is not None and status == 404 and "does not exist" in complaint:
        # The endpoint is looked up when the statement is analysed, before there is a row to put an error in
        # (databricks-demos/dbdemos issue 220: AIFunctionsUtils.getEndpointAPI).
        raise _Failed(complaint, "57012")
    return {"result": text, "errorMessage": None if complaint is None else f"{complaint} SQLSTATE: 57012"}


def _arguments(node: Any) -> Iterator[tuple[str, Any]]:
    from sqlglot import exp

    for place, argument in enumerate(node.expressions):
        if not isinstance(argument, exp.Kwarg):
            if place > 2:
                raise _Failed("[WRONG_NUM_ARGS] ai_query takes three arguments without names.", "42605")
            yield _NAMED[place], argument
            continue
        name = argument.this.name.lower()
        if name not in _NAMED:
            raise _Failed(f"[UNRECOGNIZED_PARAMETER_NAME] ai_query has no parameter `{argument.this.name}`.", "4274K")
        yield name, argument.expression


def _constant(said: Mapping[str, Any], name: str, default: Any) -> Any:
    """An argument that must be a literal: neither a column nor a parameter."""
    from sqlglot import exp

    node = said.get(name)
    if node is None:
        return default
    if isinstance(node, exp.Literal):
        return node.this if node.is_string else _number(node.this)
    if isinstance(node, exp.RawString):
        return node.this
    if isinstance(node, exp.Boolean):
        return bool(node.this)
    raise _Failed(f"[NON_FOLDABLE_ARGUMENT] The parameter `{name}` of ai_query must be a literal.", "42K08")


def _model_parameters(said: Any) -> Json:
    if not isinstance(said, dict):
        raise _Failed("[DATATYPE_MISMATCH] modelParameters must be a STRUCT.", "42K09")
    if any(_holds_decimal(value) for value in said.values()):
        raise _Failed("[DATATYPE_MISMATCH] modelParameters must not hold a DECIMAL: CAST it to DOUBLE.", "42K09")
    return said


def _holds_decimal(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Decimal) or any(map(_holds_decimal, inner))


def _format(said: Any) -> Any:
    if said in {"text", "json_object"}:
        return {"type": said}
    try:
        wanted = json.loads(said)
    except (ValueError, TypeError):
        raise _unknown("a `responseFormat` of ai_query that is not 'text', 'json_object' or JSON") from None
    return wanted


async def _asked(name: str, body: Json, scope: _Scope) -> tuple[int, bytes]:
    """Ask the model, as the warehouse would: status and body of what it answered, gone wrong as ordered."""
    raw = json.dumps(body, ensure_ascii=False).encode()
    path = f"/serving-endpoints/{name}/invocations"
    headers = Headers([("content-type", "application/json"), ("user-agent", "ai_query")])
    scope.model.received.append(Received("POST", path, {}, headers, raw, True, time.monotonic(), True))
    order = scope.model.next_order()
    if isinstance(order, Verbatim):
        return order.status, order.body if order.chunks is None else b"".join(order.chunks)
    if order is not None and order.answers:
        status, content, _ = error_body(order)
        return await _gone_wrong(status, content, order)
    reply, fault = await scope.model._answered(raw, name, invocations=True)  # noqa: SLF001 - of this package
    return await _gone_wrong(reply.status, reply.body, order or fault or Fault())


async def _gone_wrong(status: int, content: bytes, fault: Fault) -> tuple[int, bytes]:
    """What a fault does to an answer that nobody sees but the warehouse: late, broken off, or something else."""
    await asyncio.sleep((fault.delay or 0) + (fault.stall or 0))
    if fault.junk is not None:
        content = fault.junk.encode() if isinstance(fault.junk, str) else fault.junk
    await asyncio.sleep((fault.drip or 0) * len(content))
    if fault.reset is not False or fault.drop_after is not None or fault.content_length:
        return 502, b"Connection reset"
    return status, content if fault.cut_after is None else content[: fault.cut_after]


def _outcome(status: int, content: bytes) -> tuple[str | None, str | None]:
    """The text that a chat completion holds, or the words in which ai_query complains of what came.

    The words are those of databricks-demos/dbdemos issue 220; those of a 5xx say that it was tried ten times, which
    here it is not.
    """
    words = content.decode("utf-8", "replace")
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    complains = isinstance(value, dict) and bool(value.get("error") or value.get("error_code"))
    if status >= 500:
        said = f"The remote request failed after retrying 10 times; the last failed HTTP error code was {status} and"
        return None, f"[REMOTE_FUNCTION_HTTP_RETRY_TIMEOUT] {said} the message was {words}"
    if status >= 300 or complains:
        said = f"The remote HTTP request failed with code {status}, and error message"
        return None, f"[REMOTE_FUNCTION_HTTP_FAILED_ERROR] {said} 'HTTP request failed with status: {words}'"
    try:
        found: Any = value["choices"][0]["message"] if "choices" in value else value["messages"][-1]
        content_or_parts = found.get("content")
    except (KeyError, TypeError, IndexError, AttributeError):
        return None, f"[AI_FUNCTION_INVALID_HTTP_RESPONSE] Invalid HTTP response for function ai_query: {words[:200]}"
    return (None if content_or_parts is None else text_of(content_or_parts)), None


# --- the result -------------------------------------------------------------------------------------------------------


def _table(names: list[str], rows: list[list[Any]]) -> Json:
    """Manifest and result: whatever its type, a cell is a text or null."""
    kinds = [_kind(next((row[at] for row in rows if row[at] is not None), "")) for at in range(len(names))]
    columns = [
        {"name": name, "position": at, "type_name": kind.partition("<")[0], "type_text": kind}
        for at, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    chunk = {"chunk_index": 0, "row_offset": 0, "row_count": len(rows)}
    return {
        "manifest": {
            "format": "JSON_ARRAY",
            "schema": {"column_count": len(columns), "columns": columns},
            "total_chunk_count": 1,
            "chunks": [chunk],
            "total_row_count": len(rows),
            "truncated": False,
        },
        "result": {**chunk, "data_array": [[_text(cell) for cell in row] for row in rows]},
    }


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "BOOLEAN"
        case int():
            return "INT" if -(2**31) <= value < 2**31 else "BIGINT"
        case float():
            return "DOUBLE"
        case Decimal():
            return "DECIMAL"
        case dict():
            return f"STRUCT<{', '.join(f'{name}: {_kind(inner)}' for name, inner in value.items())}>"
        case list():
            return f"ARRAY<{_kind(value[0]) if value else 'VOID'}>"
    return "STRING"


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return str(value)
