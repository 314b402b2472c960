"""What each backend carries, as tables that come of running it: `python -m isochat.testing.support [NAME ...]`.

Nothing here is looked up. A question is asked through the backend, and what arrived at the local endpoint, or what was
raised, is what stands in the table. `--into PAGE` puts the tables where a page of Markdown asks for them, and leaves
there what it says of backends whose clients are not installed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from unittest import mock

import pytest

from isochat import Backend, ChatError, Connection, UnsupportedOption, backends
from isochat.local import Fault, shared
from isochat.testing.conformance import (
    ANSWER,
    AT_ONCE,
    GPT,
    MODES,
    QUESTION,
    REFUSALS,
    TALK,
    VALUES,
    Ask,
    BackendTests,
    Departure,
    never,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from isochat.local import LocalEndpoint

#: The cells of one backend: for each table, for each of its rows.
Column: TypeAlias = "dict[str, dict[str, str]]"
#: A table: rows of cells by the name of their column, in the order of the columns.
Table: TypeAlias = "list[dict[str, str]]"

YES, NO = "✓", "no"

#: The tables there are of every backend, and what their first column is called.
TITLES: Mapping[str, str] = {"modes": "asked", "options": "what is said", "errors": "what comes"}
_BLOCK = r"(?s)(<!-- support: {} -->)\n(.*?)(<!-- /support -->)"


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Door:
    """A method of a client through which a question may go: what people call it, and where it is."""

    called: str
    module: str
    place: str
    #: Whether it lies beneath the one that people know.
    lower: bool = False


#: Of the clients that isochat drives. Where several are gone through, the outermost counts.
DOORS: Mapping[str, tuple[Door, ...]] = {
    "ai-query": (
        Door(
            "`statement_execution.execute_statement`",
            "databricks.sdk.service.sql",
            "StatementExecutionAPI.execute_statement",
        ),
    ),
    "databricks-sdk": (
        Door("`serving_endpoints.query`", "databricks.sdk.service.serving", "ServingEndpointsAPI.query"),
        Door("`api_client.do`", "databricks.sdk.core", "ApiClient.do", lower=True),
    ),
    "langchain": tuple(
        Door(f"`ChatDatabricks.{method}`", "databricks_langchain", f"ChatDatabricks.{method}")
        for method in ("invoke", "ainvoke", "stream", "astream")
    ),
    "mlflow": (
        Door("`predict`", "mlflow.deployments.databricks", "DatabricksDeploymentClient.predict"),
        Door("`predict_stream`", "mlflow.deployments.databricks", "DatabricksDeploymentClient.predict_stream"),
    ),
    "openai": (
        Door("`chat.completions.create`", "openai.resources.chat.completions", "Completions.create"),
        Door("`chat.completions.create`", "openai.resources.chat.completions", "AsyncCompletions.create"),
    ),
    "openai-responses": (
        Door("`responses.create`", "openai.resources.responses", "Responses.create"),
        Door("`responses.create`", "openai.resources.responses", "AsyncResponses.create"),
    ),
    "rest": (
        Door("plain HTTP", "httpx2", "Client.send"),
        Door("plain HTTP", "httpx2", "AsyncClient.send"),
    ),
}

_SAID = {"role": "user", "content": QUESTION}
_THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm.", "signature": "c2lnbmVk"}]}

#: What a conversation may hold beside one question.
CONVERSATIONS: Mapping[str, list[dict[str, Any]]] = {
    "a system message": [{"role": "system", "content": "Be brief."}, _SAID],
    "a developer message": [{"role": "developer", "content": "Be brief."}, _SAID],
    "an answer and the next question": [_SAID, {"role": "assistant", "content": "A model."}, _SAID],
    "tool calls and results": TALK,
    "an image": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": QUESTION},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            ],
        }
    ],
    "reasoning that goes back": [
        _SAID,
        {"role": "assistant", "content": [_THOUGHT, {"type": "text", "text": "A model."}]},
        _SAID,
    ],
    "the name of who speaks": [{**_SAID, "name": "ada"}],
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that goes wrong, what is to be raised for it, and how often it is to be asked in three attempts."""

    what: str
    fault: Fault
    raised: str
    attempts: int
    said: Mapping[str, Any]
    mode: str = "blocking"


def troubles() -> Iterator[Trouble]:
    """Every refusal of the suite, and what can happen to a connection."""
    for refusal in REFUSALS:
        yield Trouble(
            f"{refusal.status}: {refusal.name}",
            Fault(status=refusal.status, body=refusal.body, headers={"x-request-id": "r-1"}, times=None),
            refusal.error.__name__,
            AT_ONCE.attempts if refusal.error.transient else 1,
            {"status": refusal.status, "error_code": refusal.error_code, "request_id": "r-1"},
        )
    for status, error in ((408, "ServiceUnavailable"), (429, "RateLimited"), (503, "ServiceUnavailable")):
        yield Trouble(
            f"{status} with Retry-After",
            Fault(status=status, retry_after="0.05", times=None),
            error,
            AT_ONCE.attempts,
            {"status": status, "retry_after": 0.05},
        )
    page = Fault(junk="<!DOCTYPE html><title>Sign in</title>", times=None)
    elsewhere = Fault(status=307, body=b"", headers={"location": "/elsewhere"}, times=None)
    yield Trouble("200: a web page", page, "MalformedReply", 1, {"status": 200})
    yield Trouble("307: a redirect", elsewhere, "ServiceError", 1, {"status": 307})
    yield Trouble("a reset before the answer", Fault(reset=True, times=None), "ConnectionFailed", AT_ONCE.attempts, {})
    yield Trouble("a stall beyond the deadline", Fault(stall=30.0, times=None), "DeadlineExceeded", 1, {})
    for words, fault in {
        "a reset in a stream": Fault(reset=9, times=None),
        "a stream that ends early": Fault(cut_after=9, times=None),
        "an error in a stream": Fault(
            error_event={"error_code": "INTERNAL_ERROR", "message": "Oh."}, after=9, times=None
        ),
    }.items():
        yield Trouble(words, fault, "StreamInterrupted", 1, {}, mode="stream")


# ── running a backend ────────────────────────────────────────────────────────────────────────────────────────────────


def examine(backend: Backend, local: LocalEndpoint) -> Column:
    """What a backend on the local endpoint does, seen by asking through it."""
    try:
        Ask("blocking", backend)(endpoint=GPT)  # whatever there is to be imported and looked up, it is now
        return {
            "modes": _modes(backend, local),
            "options": _options(backend, local),
            "errors": {trouble.what: _in(trouble, backend, local) for trouble in troubles()},
        }
    finally:
        local.reset()  # the next one to ask it is owed no fault
        backend.close()


def _modes(backend: Backend, local: LocalEndpoint) -> dict[str, str]:
    cells = {}
    for mode in MODES:
        local.reset()
        backend.close()  # a client may have taken its own methods apart when they were not watched yet
        with _watched(backend.name) as ways:
            try:
                Ask(mode, backend)(endpoint=GPT)
            except UnsupportedOption:
                assert local.received == []
                cells[mode] = NO
                continue
        cells[mode] = ", ".join(dict.fromkeys(ways)) or YES
    return cells


def _options(backend: Backend, local: LocalEndpoint) -> dict[str, str]:
    cells = {}
    plain = _sent(backend, local, [_SAID])
    for option, value in VALUES.items():
        expected = value if option == "extra_body" else {option: value}
        cells[f"`{option}`"] = _carried(backend, local, plain, option, expected, [_SAID], **{option: value})
    for words, messages in CONVERSATIONS.items():
        cells[words] = _carried(backend, local, plain, "messages", {"messages": messages}, messages)
    return cells


def _carried(  # noqa: PLR0917 - a step of the above
    backend: Backend,
    local: LocalEndpoint,
    plain: Any,
    what: str,
    expected: Mapping[str, Any],
    messages: Any,
    **options: Any,
) -> str:
    """How it arrives: as it was said, or in other words; or that it is refused."""
    with _watched(backend.name) as ways:
        try:
            sent = _sent(backend, local, messages, **options)
        except UnsupportedOption:
            assert local.received == []
            return NO
    if sent == plain:
        return "lost"
    if sent == {**plain, **expected}:
        said = YES
    elif (places := _changed(plain, sent)) == [what]:
        said = f"{YES} reshaped"
    else:
        said = f"{YES} as {', '.join(f'`{place}`' for place in places)}"
    return f"{said}, lower door" if any(way.startswith("lower") for way in ways) else said


def _sent(backend: Backend, local: LocalEndpoint, messages: Any, **options: Any) -> Any:
    """The body that a question arrives with."""
    local.reset()
    local.reply(body=ANSWER)
    Ask("blocking", backend)(messages, **options)
    return local.received[0].json


def _changed(plain: Mapping[str, Any], sent: Mapping[str, Any]) -> list[str]:
    """Where a body differs from that of a plain question."""
    if "statement" in sent:  # of SQL: the arguments that it has now
        named = [set(re.findall(r"(\w+) =>", body["statement"])) for body in (plain, sent)]
        return sorted(named[1] - named[0])
    places: list[str] = []
    for name in (name for name, value in sent.items() if plain.get(name) != value):
        place, within = name, sent[name]
        while name not in plain and isinstance(within, dict) and len(within) == 1:
            ((deeper, within),) = within.items()
            place = f"{place}.{deeper}"
        places.append(place)
    return places


def _in(trouble: Trouble, backend: Backend, local: LocalEndpoint) -> str:
    """What is raised and how often it was asked, told where it is not as it should be."""
    local.reset()
    local.order(trouble.fault)
    late = trouble.fault.stall is not None
    try:
        Ask(trouble.mode, backend)(" ".join(["word"] * 12), endpoint=GPT, retry=AT_ONCE, timeout=0.5 if late else 20)
    except ChatError as error:
        raised = error
    else:
        return "an answer"
    if isinstance(raised, UnsupportedOption):
        return NO
    asked = len(local.questions)
    differs = [] if asked == trouble.attempts else [f"asked {asked} times"]
    if type(raised).__name__ != trouble.raised:
        status = getattr(raised, "status", None)
        return ", ".join([f"`{type(raised).__name__}`{f' {status}' if status else ''}", *differs])
    for name, expected in trouble.said.items():
        if (said := getattr(raised, name)) != expected:
            differs.append(f"{'no' if said is None else 'another'} `{name}`")
    return ", ".join([YES, *differs])


@contextmanager
def _watched(name: str) -> Iterator[list[str]]:
    """See through which method of its client a backend goes, and whether in a thread of its own."""
    ways: list[str] = []
    here, inside = threading.get_ident(), threading.local()

    def watching(door: Door, method: Any) -> Any:
        @functools.wraps(method)
        def watched(*positional: Any, **named: Any) -> Any:
            if getattr(inside, "already", False):
                return method(*positional, **named)
            thread = "" if threading.get_ident() == here else " in a thread"
            ways.append(f"{'lower door ' if door.lower else ''}{door.called}{thread}")
            inside.already = True
            try:
                return method(*positional, **named)
            finally:
                inside.already = False

        return watched

    patches = []
    for door in DOORS.get(name, ()):
        owner, _, method = door.place.partition(".")
        holder = getattr(importlib.import_module(door.module), owner)
        patches.append(mock.patch.object(holder, method, watching(door, getattr(holder, method))))
    for patch in patches:
        patch.start()
    try:
        yield ways
    finally:
        for patch in patches:
            patch.stop()


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def tables(columns: Mapping[str, Column]) -> dict[str, Table]:
    """The tables of backends that were examined."""
    promised = {trouble.what: trouble for trouble in troubles()}
    made: dict[str, Table] = {}
    for name, title in TITLES.items():
        made[name] = []
        for row in dict.fromkeys(row for column in columns.values() for row in column[name]):
            cells = {title: row}
            if name == "errors" and row in promised:
                cells |= {"raises": f"`{promised[row].raised}`", "attempts": str(promised[row].attempts)}
            made[name].append(cells | {backend: columns[backend][name].get(row, "?") for backend in sorted(columns)})
    return made


def departures(name: str, suite: type[BackendTests]) -> Table:
    """What a backend departs from in its suite, and why."""
    why: dict[Departure, list[str]] = {}
    for pattern, departure in suite.departures.items():
        why.setdefault(departure, []).append(f"`{pattern}`")
    if not backends.find(name).streams():
        why[never("it does not stream, and refuses to before anything is sent")] = ["every one that streams"]
    return [
        {"backend": name, "kind": found.kind, "why": found.reason, "scenarios": ", ".join(patterns)}
        for found, patterns in why.items()
    ]


def suites(folder: Path) -> dict[str, type[BackendTests]]:
    """The suites of our backends in a folder of tests: `TestMLflow` is that of `mlflow`."""
    names = {f"test{name.replace('-', '')}": name for name in backends.BUILT_IN}
    found: dict[str, type[BackendTests]] = {}
    for file in sorted(folder.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"_suites_{file.stem}", file)
        if spec is None or spec.loader is None or "BackendTests)" not in file.read_text(encoding="utf-8"):
            continue
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except pytest.skip.Exception:  # its client is not installed
            continue
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, BackendTests) and kind.__name__.lower() in names:
                found[names[kind.__name__.lower()]] = kind
    return found


def written(table: Table) -> str:
    """A table in Markdown."""
    rows = [[*table[0]], ["---"] * len(table[0]), *([*row.values()] for row in table)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def read(page: str, name: str) -> Table:
    """A table as a page has it; empty if the page has none."""
    found = re.search(_BLOCK.format(name), page)
    rows = [line.strip("| ").split(" | ") for line in (found[2].strip().splitlines() if found else ())]
    return [dict(zip(rows[0], cells, strict=True)) for cells in rows[2:]]


def column(page: str, backend: str) -> Column:
    """What a page says of a backend."""
    return {
        name: {row[title]: row[backend] for row in read(page, name) if backend in row} for name, title in TITLES.items()
    }


def put(page: str, made: Mapping[str, Table]) -> str:
    """The page with these tables in their places."""
    for name, table in made.items():
        text = written(table)
        page, times = re.subn(_BLOCK.format(name), lambda found, text=text: f"{found[1]}\n{text}\n{found[3]}", page)  # type: ignore[misc]
        if times != 1:
            raise ValueError(f"the page has {times} places for {name}: <!-- support: {name} --> … <!-- /support -->")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of the backends that are named, or of all that are installed; or put them into a page."""
    parser = argparse.ArgumentParser(prog="python -m isochat.testing.support", description=main.__doc__)
    parser.add_argument("name", nargs="*", help="a backend; all of isochat's that are installed, if none is named")
    parser.add_argument("--into", metavar="PAGE", type=Path, help="a page of Markdown that has a place for each table")
    parser.add_argument("--suites", metavar="FOLDER", type=Path, help="tests, whose departures are told as well")
    said = parser.parse_args(arguments)
    ready = [info.name for info in backends.available() if not info.missing and info.name in backends.BUILT_IN]
    columns = {name: examine(backends.load(name)(Connection("local")), shared()) for name in said.name or ready}
    if said.into is None:
        for table in tables(columns).values():
            sys.stdout.write(f"{written(table)}\n\n")
        return
    page = said.into.read_text(encoding="utf-8")
    told = {name: departures(name, suite) for name, suite in (suites(said.suites) if said.suites else {}).items()}
    for name in sorted(backends.BUILT_IN.keys() - columns.keys()):
        sys.stderr.write(f"{name}: not installed; what the page says of it is left as it is\n")
        columns[name] = column(page, name)
    made = tables(columns)
    if said.suites:
        kept = [row for row in read(page, "departures") if row["backend"] not in told]
        made["departures"] = sorted(
            [*kept, *(row for rows in told.values() for row in rows)], key=lambda row: row["backend"]
        )
    said.into.write_text(put(page, made), encoding="utf-8")


if __name__ == "__main__":
    main()
