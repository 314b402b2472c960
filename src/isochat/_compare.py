"""`compare()`: ask every backend the same thing, and see every difference.

Between each client and the service sits a recorder on loopback (`isochat.local.Recorder`), so what was really sent and
received is known whatever the client tells. `_difference.py` reads the record.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import html
import json
import queue
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

from isochat import Connection, InvalidRequest, backends, query_chat, render
from isochat import _difference as differ
from isochat._difference import Difference
from isochat.errors import BackendNotInstalled, ChatError, ConfigurationError, UnsupportedOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Unpack

    from isochat import ChatOptions, ChatResponse, Retry
    from isochat._events import ChatEvent
    from isochat.backends import Backend
    from isochat.local import Door, Exchange, Recorder, Scrubber

__all__ = ["Asking", "Comparison", "Difference", "Question", "compare"]

Verdict: TypeAlias = Literal["same", "differs", "varies", "refused", "failed"]

VERDICTS: Final[Mapping[str, str]] = {
    "same": "the same answer as the reference's",
    "differs": "the client lost, changed or added something",
    "varies": "the client is true to what it was sent, and the service said something else",
    "refused": "the backend, or the API that it asks, cannot carry this question",
    "failed": "an error, and nobody's client made it",
}
_TIMES: Final = ("total", "first_token", "wire", "overhead")
_OPTIONS_OF_OURS: Final = frozenset({"name", "messages", "endpoint", "stream", "extra_body"})
# What is said of a whole comparison, as everybody tries to say it of one question, and how it is said.
_FOR_ALL: Final = {
    "backend": "backends",
    **{
        name: name
        for name in ("backends", "concurrency", "connection", "host", "progress", "repeat", "retry", "timeout", "token")
    },
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a comparison. `body` is what the `rest` backend would send."""

    name: str
    endpoint: str
    stream: bool
    body: Mapping[str, Any] = field(repr=False)

    @property
    def text(self) -> str:
        """The last message's text."""
        messages = self.body.get("messages") or [{}]
        content = messages[-1].get("content")
        if isinstance(content, list):
            content = " ".join(part.get("text", "") for part in content if isinstance(part, dict))
        return str(content or "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.name, "endpoint": self.endpoint, "stream": self.stream, "body": dict(self.body)}


@dataclass(frozen=True, slots=True)
class Asking:
    """One question that was put once, through one backend: what came of it, and what went over the wire.

    `total` is the seconds from the call of `query_chat()` to the whole answer, `first_token` to a stream's first piece
    of text, reasoning or tool call, `waited` those that were waited between two attempts. `attempts` is how often the
    backend told that it asked, `cold` whether its session had not been used before. `recorded` is False for a client
    that has an address of its own, whose wire cannot be seen.
    """

    backend: str
    question: int
    round: int
    response: ChatResponse | None
    error: BaseException | None
    exchanges: tuple[Exchange, ...] = field(repr=False)
    total: float
    first_token: float | None
    waited: float
    attempts: int
    cold: bool
    recorded: bool = True

    @property
    def refused(self) -> bool:
        """Whether the backend cannot carry the question and sent nothing."""
        return isinstance(
            self.error, UnsupportedOption | ConfigurationError | BackendNotInstalled
        ) and not differ.asked(self.exchanges)

    @property
    def wire(self) -> float | None:
        """Seconds on the wire: from each request's head to the last byte of its reply, seen at the client's side."""
        return sum(each.duration for each in self.exchanges) if self.exchanges else None

    @property
    def overhead(self) -> float | None:
        """What the client and isochat took beside the wire and the waits: `total` less these."""
        return None if self.wire is None else self.total - self.wire - self.waited

    def to_dict(self) -> dict[str, Any]:
        """As JSON, times in milliseconds."""
        return {
            "backend": self.backend,
            "question": self.question,
            "round": self.round,
            "response": None if self.response is None else self.response.to_dict(),
            "error": None if self.error is None else _error_to_dict(self.error),
            "refused": self.refused,
            "attempts": self.attempts,
            "cold": self.cold,
            "recorded": self.recorded,
            "ms": {
                "total": _ms(self.total),
                "first_token": _ms(self.first_token),
                "waited": _ms(self.waited),
                "wire": _ms(self.wire),
                "overhead": _ms(self.overhead),
            },
            "exchanges": [_exchange_to_dict(each) for each in self.exchanges],
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _error_to_dict(error: BaseException) -> dict[str, Any]:
    it = differ.root(error)
    said = {name: getattr(it, name, None) for name in ("status", "error_code", "retry_after", "request_id")}
    return {
        "class": type(error).__name__,
        "of": type(it).__name__,
        "message": getattr(error, "message", str(error)),
        **said,
    }


def _exchange_to_dict(each: Exchange) -> dict[str, Any]:
    return {
        "method": each.method,
        "path": each.path,
        "headers": [list(line) for line in each.headers],
        "body": _body(each.body),
        "status": each.status,
        "reply_headers": [list(line) for line in each.reply_headers],
        "reply": _body(each.reply),
        "error": each.error,
        "ms": {
            "answered": _ms(each.answered and each.answered - each.began),
            "first": _ms(each.first and each.first - each.began),
            "duration": _ms(each.duration),
        },
    }


def _body(data: bytes) -> Any:
    """JSON if it is that, else text."""
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Summary:
    """The distribution of one time of one backend, in seconds. `values` are all of them, in order of size."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of them are below it."""
        return statistics.median(self.values)

    def at(self, share: float) -> float:
        """The value that this share of them does not exceed: `at(0.9)`."""
        return self.values[min(len(self.values) - 1, int(share * len(self.values)))]

    def to_dict(self) -> dict[str, Any]:
        """As JSON, in milliseconds."""
        return {
            "n": len(self.values),
            "min": _ms(self.values[0]),
            "p50": _ms(self.median),
            "p90": _ms(self.at(0.9)),
            "p99": _ms(self.at(0.99)),
            "max": _ms(self.values[-1]),
        }


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """What came of asking every backend the same. A plain value: it holds no connection and no secret.

    `questions` and `backends` are what was asked of whom, `askings` all that came of it. `differences` are those of
    the answers: what a client made of an answer against the bytes it was sent, and what the service said to one client
    against what it said to the first. `wire_differences` are those of the requests: options that were not sent as they
    were asked for, questions that went out in secret, and each client's own path, headers and further requests (these
    with the cause `own`). `notes` are what a backend's API cannot say at all, whichever client asks. `missing` are
    backends whose client is not installed, with the line that installs it.
    """

    questions: tuple[Question, ...]
    backends: tuple[str, ...]
    askings: tuple[Asking, ...]
    differences: tuple[Difference, ...] = ()
    wire_differences: tuple[Difference, ...] = ()
    notes: tuple[Difference, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    # ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────

    def faults(self, *, may_vary: bool = False) -> tuple[Difference, ...]:
        """The differences that must not be: those that a client made, and what the service said otherwise.

        `may_vary` leaves out the latter. A client's own way of asking, and what its API cannot say, are none.
        """
        causes = {"client"} if may_vary else {"client", "service"}
        return tuple(each for each in (*self.differences, *self.wire_differences) if each.cause in causes)

    @property
    def same(self) -> bool:
        """Whether every backend that could carry the question gave the same answer, and there was one."""
        return not self.faults() and self._answered

    @property
    def _answered(self) -> bool:
        return any(asking.response is not None for asking in self.askings)

    def assert_equal(self, *, may_vary: bool = False) -> None:
        """Raise an `AssertionError` that shows each difference, if there is any that must not be.

        `may_vary` is for a model that does not say the same twice: then only what a client lost, changed or added
        counts. Raises too if nobody was asked, or nobody got an answer, for that proves nothing: the same error may be
        a token that has expired, or a misspelt endpoint.
        """
        __tracebackhide__ = True
        if all(asking.refused for asking in self.askings):
            raise AssertionError(f"nobody could be asked:\n{self._errors()}")
        if faults := self.faults(may_vary=may_vary):
            raise AssertionError("\n".join([f"{len(faults)} that must not differ:", *map(self._told, faults)]))
        if not self._answered:
            raise AssertionError(f"nobody got an answer:\n{self._errors()}")

    def _told(self, each: Difference) -> str:
        name = self.questions[each.question].name
        lines = [f"  {each.backend}, {name}: {differ.REASONS[each.reason].format(each.where)}"]
        if each.expected is not None or each.found is not None:
            lines += [f"    - {_line(each.expected)}", f"    + {_line(each.found)}"]
        return "\n".join(lines)

    def _errors(self) -> str:
        return "\n".join(sorted({f"  {asking.backend}: {asking.error}" for asking in self.askings if asking.error}))

    def verdict(self, backend: str, question: int = 0) -> Verdict:
        """One word for what came of one question through one backend; `VERDICTS` explains it."""
        mine = self.of(backend, question)
        not_taken = {each.question for each in self.notes if each.backend == backend and each.reason == "not taken"}
        if question in not_taken or (mine and all(asking.refused for asking in mine)):
            return "refused"
        causes = {each.cause for each in self.faults() if each.backend == backend and each.question == question}
        if "client" in causes:
            return "differs"
        if "service" in causes:
            return "varies"
        return "failed" if any(asking.error is not None for asking in mine) else "same"

    def of(self, backend: str, question: int | None = None) -> tuple[Asking, ...]:
        """What came of asking one backend, in the order of the rounds. Raises `InvalidRequest` if it was not asked."""
        if backend not in self.backends:
            raise InvalidRequest(f"{backend!r} was not asked; asked were {', '.join(self.backends)}", path="backend")
        if question is not None and question not in range(len(self.questions)):
            raise InvalidRequest(f"there is no {question!r}; the first of {len(self.questions)} is 0", path="question")
        return tuple(
            asking
            for asking in self.askings
            if asking.backend == backend and (question is None or asking.question == question)
        )

    def summary(self, backend: str, time: str = "total", question: int | None = None) -> Summary | None:
        """How one time is distributed: `total`, `first_token`, `wire` or `overhead`.

        A session's first question makes its connections; it is left out where there are others.
        """
        if time not in _TIMES:
            raise InvalidRequest(f"there is no {time!r}; there are {', '.join(_TIMES)}", path="time")
        answered = [asking for asking in self.of(backend, question) if asking.response is not None]
        warm = [asking for asking in answered if not asking.cold] or answered
        values = sorted(value for asking in warm if (value := getattr(asking, time)) is not None)
        return Summary(tuple(values)) if values else None

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "same": self.same,
            "questions": [each.to_dict() for each in self.questions],
            "backends": [
                {
                    "name": name,
                    "verdicts": [self.verdict(name, place) for place in range(len(self.questions))],
                    "ms": {time: summary.to_dict() for time in _TIMES if (summary := self.summary(name, time))},
                }
                for name in self.backends
            ],
            "missing": dict(self.missing),
            "differences": [each.to_dict() for each in self.differences],
            "wire_differences": [each.to_dict() for each in self.wire_differences],
            "notes": [each.to_dict() for each in self.notes],
            "askings": [each.to_dict() for each in self.askings],
        }

    def to_html(self) -> str:
        """The report: one page of HTML that needs nothing else. It takes `pip install 'isochat[report]'`."""
        from isochat._report import page

        return page(self)

    # ── how it shows itself ──────────────────────────────────────────────────────────────────────────────────────

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The columns and the rows of the table: one row for each backend, times in milliseconds."""
        streamed = any(question.stream for question in self.questions)
        times = ("first_token", "total", "wire", "overhead") if streamed else ("total", "wire", "overhead")
        columns = ("backend", "answer", *(time.replace("_", " ") for time in times), "requests", "what differs")
        return columns, [self._row(name, times) for name in self.backends]

    def _row(self, name: str, times: Sequence[str]) -> tuple[str, ...]:
        verdicts = [self.verdict(name, place) for place in range(len(self.questions))]
        told = [f"{word} {verdicts.count(word)}" for word in VERDICTS if word in verdicts]
        answer = verdicts[0] if len(verdicts) == 1 else ", ".join(told)
        summaries = [self.summary(name, time) for time in times]
        requests = sum(len(asking.exchanges) for asking in self.of(name))
        where = dict.fromkeys(f"{each.where} {each.reason}" for each in self.faults() if each.backend == name)
        return (
            name,
            answer,
            *("-" if each is None else f"{each.median * 1000:.1f}" for each in summaries),
            str(requests),
            ", ".join(where) or self._aside(name),
        )

    def _aside(self, name: str) -> str:
        refused = dict.fromkeys(
            asking.error.option if isinstance(asking.error, UnsupportedOption) else type(asking.error).__name__
            for asking in self.of(name)
            if asking.refused
        )
        notes = [each for each in self.notes if each.backend == name]
        unsaid = dict.fromkeys(each.where for each in notes if each.reason == "not said")
        said = [f"cannot carry {', '.join(refused)}"] if refused else []
        said += ["its API does not take it"] if any(each.reason == "not taken" for each in notes) else []
        said += [f"its API says no {', '.join(unsaid)}"] if unsaid else []
        return "; ".join(said)

    def __repr__(self) -> str:
        columns, rows = self.table()
        widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (columns, *rows)
        ]
        return "\n".join([f"{type(self).__name__}: {self.headline()}", *lines])

    def headline(self, *, may_vary: bool = False) -> str:
        """What came of it, in a line. What is the same is so among those that answered, and only they are counted."""
        asked = [name for name in self.backends if any(not asking.refused for asking in self.of(name))]
        answered = [name for name in self.backends if any(asking.response is not None for asking in self.of(name))]
        many = f"{len(self.questions)} question{'s' * (len(self.questions) != 1)}"
        if not asked:
            return f"{many}, and nobody could be asked"
        if faults := self.faults(may_vary=may_vary):
            one = len(faults) == 1
            return f"{_through(many, asked)}: {len(faults)} thing{'s' * (not one)} differ{'s' * one} that must not"
        said, heard = ("answer", answered) if answered else ("error", asked)
        verdict = f"the same {said}" if len(heard) > 1 else f"the {said} that came over the wire"
        return f"{_through(many, heard)}: {verdict}"

    def __rich__(self) -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        columns, rows = self.table()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=self.headline(), title_justify="left")
        for name in columns:
            table.add_column(name, overflow="fold")
        colours = {"same": "green", "differs": "red", "failed": "red", "varies": "yellow", "refused": "dim"}
        for row in rows:
            table.add_row(
                *(
                    Text(cell, style=colours.get(cell.split(" ")[0], "") if place == 1 else "")
                    for place, cell in enumerate(row)
                )
            )
        return table

    def _repr_html_(self) -> str:
        columns, rows = self.table()
        head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        caption = f"<caption>{html.escape(self.headline())}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _through(many: str, names: Sequence[str]) -> str:
    return f"{many} through {len(names)} backend{'s' * (len(names) != 1)}"


def _line(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def compare(
    messages: Any = None,
    *,
    backends: Iterable[str | Backend | type[Backend]] | None = None,
    questions: Iterable[Mapping[str, Any]] | None = None,
    repeat: int = 1,
    concurrency: int = 1,
    stream: bool = False,
    endpoint: str | None = None,
    connection: Connection | None = None,
    host: str | None = None,
    token: str | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    extra_body: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
    **options: Unpack[ChatOptions],
) -> Comparison:
    """Ask every backend the same, and see every difference.

    What is asked, and of whom, is said as for `query_chat()`. Beyond that:

    * `backends`: their names, classes or instances; by default all that are installed. The first is the reference.
    * `questions`: several questions in place of `messages`, each a mapping with `messages` and whatever of `name`,
      `endpoint`, `stream`, `extra_body` and options is its own.
    * `repeat`: how often each is asked. The backends take turns, and each round another one begins.
    * `concurrency`: how many questions are under way at once, each with connections of its own.
    * `progress`: a function that is called with how many are done, and of how many.

    A recorder on loopback stands between each client and the service and notes what passes, without secrets. A client
    that was handed in ready-made has an address of its own, and is asked without one. Every answer is charged as any
    other: `repeat` times the questions times the backends.

    An error of one backend is part of the comparison. Raises `InvalidRequest` for a question that is none, and
    `ConfigurationError` if a setting is missing or the recorder is not installed (`pip install 'isochat[local]'`).
    """
    if (messages is None) == (questions is None):
        raise InvalidRequest("say either messages or questions", path="questions")
    _need_number(repeat, "repeat")
    _need_number(concurrency, "concurrency")
    common = {"endpoint": endpoint, "stream": stream, "extra_body": extra_body, **options}
    alone = [_question({"messages": messages}, common, "question 1")] if questions is None else []
    asked = alone or _questions(list(questions or ()), common)
    recorder_class = _recorder()
    through, missing = _chosen(backends)
    kinds = _Kinds(through, connection, host, token)
    said = {"timeout": timeout, "retry": retry}
    jobs = [
        _Job(kinds.names[(begin + place) % len(through)], place_of_question, each)
        for begin, (each, place_of_question) in enumerate((r, q) for r in range(repeat) for q in range(len(asked)))
        for place in range(len(through))
    ]
    with recorder_class(kinds.far) as recorder:
        askings = _run(jobs, lambda: _Lane(kinds, recorder, asked, said), concurrency, progress)
    order = {name: place for place, name in enumerate(kinds.names)}
    askings.sort(key=lambda asking: (asking.round, asking.question, order[asking.backend]))
    clean = recorder.scrubber.anything
    found = _Findings(asked, kinds.names, askings, clean).all()
    plain = tuple(replace(each.question, body=clean(each.question.body)) for each in asked)
    return Comparison(plain, kinds.names, tuple(askings), *found, missing)


def _need_number(value: Any, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequest("a whole number, at least 1", path=name)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question as it was given, to be asked."""

    question: Question
    messages: Any
    endpoint: str | None
    extra_body: Mapping[str, Any] | None
    options: Mapping[str, Any]

    def body(self, backend: str) -> dict[str, Any] | None:
        """What a built-in backend would send; None if it cannot carry the question."""
        try:
            return self._render(backend, stream=self.question.stream)
        except ChatError:
            return None

    def _render(self, backend: str, *, stream: bool) -> dict[str, Any]:
        return render(
            self.messages,
            endpoint=self.endpoint,
            backend=backend,
            stream=stream,
            extra_body=self.extra_body,
            **self.options,
        )


def _questions(given: list[Any], common: Mapping[str, Any]) -> list[_Asked]:
    if not given:
        raise InvalidRequest("there is none", path="questions")
    made = []
    for place, each in enumerate(given):
        if not isinstance(each, Mapping) or "messages" not in each:
            raise InvalidRequest("a question is a mapping with `messages`", path=f"questions[{place}]")
        try:
            made.append(_question(each, common, f"question {place + 1}"))
        except InvalidRequest as error:
            raise _within(error, each, f"questions[{place}]") from None
    return made


def _question(own: Mapping[str, Any], common: Mapping[str, Any], name: str) -> _Asked:
    """One of several questions: what is its own, and beside it what was said of all."""
    for said in own:
        if said in _FOR_ALL:
            raise InvalidRequest(
                "not one question's own", path=said, hint=f"Say it for all of them, with {_FOR_ALL[said]}=."
            )
    whole = {**common, **own}
    options = {name: value for name, value in whole.items() if name not in _OPTIONS_OF_OURS}
    question = Question(str(whole.get("name") or name), "", bool(whole["stream"]), {})
    asked = _Asked(question, whole["messages"], whole["endpoint"], whole["extra_body"], options)
    body = asked._render("openai", stream=whole["stream"])  # noqa: SLF001 - its body has the endpoint's name
    endpoint = body.pop("model")
    return replace(asked, question=replace(question, endpoint=endpoint, body=body))


def _within(error: InvalidRequest, own: Mapping[str, Any], place: str) -> InvalidRequest:
    """The error, at that place among the questions if what is wrong is that question's own."""
    path = error.path or ""
    if path and re.split(r"[.\[]", path)[0] not in own:
        return error
    said = error.message.removeprefix(f"{path}: ")
    named = f" ({own['name']})" if own.get("name") else ""
    return InvalidRequest(f"{said}{named}", path=f"{place}.{path}" if path else place, hint=error.hint)


def _recorder() -> type[Recorder]:
    if find_spec("aiohttp") is None:
        raise ConfigurationError(
            "comparing needs the recorder, which is not installed", hint="Install it with: pip install 'isochat[local]'"
        )
    from isochat.local import Recorder

    return Recorder


def _chosen(
    said: Iterable[str | Backend | type[Backend]] | None,
) -> tuple[list[str | Backend | type[Backend]], dict[str, str]]:
    """Whom to ask, and who is not there. `rest` first: it has no client that could lose anything."""
    if said is not None:
        chosen: list[str | Backend | type[Backend]] = [said] if isinstance(said, str) else list(said)
        if not chosen:
            raise InvalidRequest("there is none", path="backends")
        return chosen, {}
    there = sorted(backends.available(), key=lambda info: (info.name != "rest", info.name))
    missing = {info.name: info.install for info in there if info.missing}
    return [info.name for info in there if not info.missing], missing


class _Kinds:
    """The backends that are asked, by name, each with the connection that it would have."""

    def __init__(
        self,
        chosen: Sequence[str | Backend | type[Backend]],
        connection: Connection | None,
        host: str | None,
        token: str | None,
    ) -> None:
        made: dict[str, Backend] = {}
        common: Connection | None = connection
        if connection is not None and (host is not None or token is not None):
            raise InvalidRequest("a Connection is a host and a login already", path="connection")
        for each in chosen:
            if isinstance(each, backends.Backend):
                session = each
            else:
                kind = backends.load(each) if isinstance(each, str) else each
                common = common or Connection(host, token)
                session = kind(common)
            name = session.name
            while name in made:
                name += "'"
            made[name] = session
        self.sessions = made
        self.names = tuple(made)
        hosts = [session.connection.host for session in made.values() if session.connection is not None]
        self.far = hosts[0] if hosts else "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class _Job:
    backend: str
    question: int
    round: int


class _Lane:
    """One question at a time: a session of each backend, and a door of the recorder for each."""

    def __init__(self, kinds: _Kinds, recorder: Recorder, asked: Sequence[_Asked], said: Mapping[str, Any]) -> None:
        self._kinds, self._recorder, self._asked, self._said = kinds, recorder, asked, said
        self._open: dict[str, tuple[Backend, Door | None]] = {}
        self._used: set[str] = set()

    def ask(self, job: _Job) -> Asking:
        """Ask it once."""
        asked, cold = self._asked[job.question], job.backend not in self._used
        watch = _Watch()
        response, error, door, took = None, None, None, 0.0
        try:
            session, door = self._session(job.backend)
            ask: Callable[..., Any] = functools.partial(
                query_chat,
                asked.messages,
                endpoint=asked.endpoint,
                backend=session,
                on_event=watch,
                extra_body=asked.extra_body,
                **self._said,
                **asked.options,
            )
            self._used.add(job.backend)
            if cold:
                with contextlib.suppress(ImportError):  # it is told when the question is asked
                    session.warm()
            began = time.perf_counter()
            try:
                if asked.question.stream:
                    with ask(stream=True) as stream:
                        response = stream.response
                else:
                    response = ask()
            finally:
                took = time.perf_counter() - began
        except InvalidRequest:
            raise
        except Exception as failed:  # noqa: BLE001 - whatever a client raises belongs to the comparison
            error = failed
        exchanges = () if door is None else door.take()
        clean = functools.partial(_clean, door.scrubber) if door is not None else _unchanged
        return Asking(
            job.backend,
            job.question,
            job.round,
            None if response is None else clean(replace(response, raw=None)),
            None if error is None else _plain(error, clean),
            exchanges,
            took,
            watch.first_token,
            watch.waited,
            watch.attempts,
            cold,
            recorded=door is not None,
        )

    def _session(self, name: str) -> tuple[Backend, Door | None]:
        if name not in self._open:
            session = self._kinds.sessions[name]
            door = None
            if session.connection is not None:
                door = self._recorder.door(session.connection.host)
                session = session.through(_Recorded(session.connection, door.host))
            self._open[name] = session, door
        return self._open[name]

    def close(self) -> None:
        for session, door in self._open.values():
            if door is not None:  # others are their owner's to close
                session.close()


class _Recorded(Connection):
    """A connection whose requests go to the recorder, with the login of the real one."""

    __slots__ = ("_near", "_real", "host_source", "login_source")

    def __init__(self, real: Connection, near: str) -> None:
        self._real, self._near = real, near
        self.host_source, self.login_source = real.host_source, real.login_source

    @property
    def host(self) -> str:
        return self._near

    @property
    def is_static(self) -> bool:
        return self._real.is_static

    @property
    def login(self) -> str:
        return self._real.login

    def headers(self, *, timeout: float | None = None) -> dict[str, str]:
        return self._real.headers(timeout=timeout)

    async def aheaders(self, *, timeout: float | None = None) -> dict[str, str]:
        return await self._real.aheaders(timeout=timeout)

    def renew(self) -> bool:
        return self._real.renew()

    def key(self) -> Any:
        return (self._near, self._real.key())

    def __repr__(self) -> str:
        return f"<recorded {self._real!r}>"


class _Watch:
    """Hears what happens to a question."""

    def __init__(self) -> None:
        self.attempts, self.waited = 0, 0.0
        self.first_token: float | None = None

    def __call__(self, event: ChatEvent) -> None:
        match event.kind:
            case "attempt":
                self.attempts += 1
            case "wait":
                self.waited += event.seconds or 0.0
            case "first_token":
                self.first_token = event.elapsed


def _run(
    jobs: Sequence[_Job], lane: Callable[[], _Lane], concurrency: int, progress: Callable[[int, int], object] | None
) -> list[Asking]:
    """Do every job, so many at once; each lane does one at a time."""
    tell = progress or (lambda _done, _of: None)
    done: list[Asking] = []
    tell(0, len(jobs))
    with _Lanes(min(concurrency, len(jobs)), lane) as lanes:
        for asking in lanes.map(jobs):
            done.append(asking)
            tell(len(done), len(jobs))
    return done


class _Lanes:
    def __init__(self, number: int, lane: Callable[[], _Lane]) -> None:
        self._all = [lane() for _ in range(number)]
        self._free: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for each in self._all:
            self._free.put(each)
        self._pool = ThreadPoolExecutor(number, "isochat-compare") if number > 1 else None

    def map(self, jobs: Sequence[_Job]) -> Iterator[Asking]:
        return map(self._do, jobs) if self._pool is None else iter(self._pool.map(self._do, jobs))

    def _do(self, job: _Job) -> Asking:
        lane = self._free.get()
        try:
            return lane.ask(job)
        finally:
            self._free.put(lane)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, what: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for lane in self._all:
            lane.close()


# ── a plain value of what came ───────────────────────────────────────────────────────────────────────────────────


def _unchanged(value: Any) -> Any:
    return value


def _clean(scrub: Scrubber, value: Any) -> Any:
    """The value without any secret that the client's requests held."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _clean(scrub, getattr(value, each.name)) for each in fields(value)})
    if isinstance(value, tuple):
        return tuple(_clean(scrub, each) for each in value)
    return scrub.anything(value)


def _plain(error: BaseException, clean: Callable[[Any], Any]) -> BaseException:
    """The error alone: a traceback holds whole frames, and with them tokens."""
    if not isinstance(error, ChatError):
        said = clean(str(error))
        alone: BaseException = _Foreign(type(error).__name__, said)
        return alone
    copied = copy.copy(error)
    copied.__dict__.update({name: clean(value) for name, value in error.__dict__.items()})
    copied.args = clean(error.args)
    if isinstance(error.__cause__, ChatError):
        copied.__cause__ = _plain(error.__cause__, clean)
    return copied.with_traceback(None)


class _Foreign(Exception):
    """An exception that is none of isochat's, by name and words."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(name, said)
        self.name, self.message = name, said

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


# ── finding what differs ─────────────────────────────────────────────────────────────────────────────────────────


class _Findings:
    """All differences of all askings."""

    def __init__(
        self,
        asked: Sequence[_Asked],
        names: Sequence[str],
        askings: Sequence[Asking],
        clean: Callable[[Any], Any],
    ) -> None:
        self._asked, self._names, self._clean = asked, names, clean
        self._by_turn: dict[tuple[int, int], list[Asking]] = {}
        for each in askings:
            self._by_turn.setdefault((each.round, each.question), []).append(each)
        self._answers: list[Difference] = []
        self._wire: list[Difference] = []
        self._notes: list[Difference] = []

    def all(self) -> tuple[tuple[Difference, ...], tuple[Difference, ...], tuple[Difference, ...]]:
        """Those of the answers, of the wire, and what is only to be noted."""
        for turn in self._by_turn.values():
            carried = [asking for asking in turn if not asking.refused]
            misasked = {asking.backend for asking in carried if self._look_at(asking)}
            for asking in carried[1:]:
                self._beside(asking, carried[0], misasked)
        return differ.counted(self._answers), differ.counted(self._wire), differ.counted(self._notes)

    def _look_at(self, asking: Asking) -> bool:
        """One asking by itself, against its own wire. True if the question was not asked as it should have been."""
        questions = differ.asked(asking.exchanges)
        asked = self._asked[asking.question]
        wrong = [
            found
            for each in questions
            for found in differ.misasked(each, asked.question.endpoint, asked.body, self._clean)
        ]
        if asking.recorded and len(questions) > asking.attempts:
            wrong.append(("question", "sent in secret", asking.attempts, len(questions)))
        once = dict.fromkeys((where, reason) for where, reason, _, _ in wrong)
        for where, reason in once:
            _, _, expected, found = next(each for each in wrong if each[:2] == (where, reason))
            self._wire.append(self._difference(asking, (where, reason, expected, found), "client"))
        for found in differ.unfaithful(asking.response, asking.error, asking.exchanges):
            self._answers.append(self._difference(asking, found, "client"))
        return any(reason != "sent in secret" for _, reason in once)

    def _beside(self, mine: Asking, theirs: Asking, misasked: set[str]) -> None:
        """One asking beside the reference's."""
        for found in differ.ways(mine.exchanges, theirs.exchanges):
            self._wire.append(self._difference(mine, found, "own"))
        if misasked & {mine.backend, theirs.backend}:
            return  # another question has another answer, and which question it was has been said
        witnessed = [differ.said_on(each.exchanges) for each in (mine, theirs)]
        said = [
            on_the_wire or each.response or each.error
            for on_the_wire, each in zip(witnessed, (mine, theirs), strict=True)
        ]
        if said[0] is None or said[1] is None:
            return
        one, other = ({differ.route_of(each) for each in differ.asked(asking.exchanges)} for asking in (mine, theirs))
        for found, cause in differ.otherwise(said[0], said[1], same_route=bool(one) and one == other):
            where, _, expected, got = found
            if cause == "route":
                self._notes.append(self._difference(mine, found, cause))
            elif mine.response is not None and None in witnessed:
                self._answers.append(self._difference(mine, (where, "unexplained", expected, got), "client"))
            else:
                self._answers.append(self._difference(mine, found, cause))

    def _difference(self, asking: Asking, found: differ.Found, cause: differ.Cause) -> Difference:
        where, reason, expected, got = found
        return Difference(asking.question, asking.backend, where, reason, expected, got, cause)
