"""In what answers and questions differ, and whose doing it is. Pure.

A recorded exchange is the witness: what a backend made of it is compared with what the exchange itself says, and what
it sent with what the question asks for. So what a client lost is told from what the service never said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import unquote

from isochat import Connection, backends
from isochat._types import Reasoning, Text
from isochat.errors import ChatError, ServiceError, StreamInterrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from isochat._types import ChatResponse, Choice
    from isochat.local import Exchange

Cause: TypeAlias = Literal["client", "service", "route", "own"]

#: What is said of a difference. `{}` is where: a field of the answer, or of the question's body.
REASONS: Final[Mapping[str, str]] = {
    # the answer, against the bytes that this client was sent
    "lost": "{} came over the wire and is not in the answer",
    "invented": "{} is in the answer and never came over the wire",
    "changed": "{} is not what came over the wire",
    "cut": "{} is only a part of what came over the wire",
    "doubled": "{} is twice what came over the wire",
    "reordered": "{} is in another order than it came over the wire",
    "error eaten": "the service reported an error, and the backend gave an answer",
    "error made up": "the service answered, and the backend raised an error",
    # the question, against what was asked for
    "option dropped": "{} was asked for and was not sent",
    "option added": "{} was sent and not asked for",
    "option renamed": "{} was sent under another name",
    "option changed": "{} was sent as something else",
    "wrong endpoint": "another endpoint was asked",
    "sent in secret": "the question went out more often than the backend told",
    # one client against another
    "said otherwise": "the service itself gave another {}",
    "unexplained": "{} is another one, and there is no record that says whose doing it is",
    "not said": "the service does not say {} on this route",
    "not taken": "the service takes no such question on this route",
    "header": "the header {} differs",
    "route": "the request goes to another path",
    "extra request": "a request besides the question: {}",
}
#: The built-in backend that can read and write each route.
_READERS: Final = (
    ("/invocations", "rest"),
    ("/chat/completions", "rest"),
    ("/responses", "openai-responses"),
)
#: How Databricks refuses a model that has no Responses API, in any case.
_NO_SUCH_API: Final = "responses api passthrough is not supported"
_STATEMENTS: Final = "/api/2.0/sql/statements"
#: Headers that are about the connection, and say nothing of a client.
TRANSPORT: Final = frozenset({"connection", "content-length", "host", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a backend differs.

    `where` is the field, `reason` what happened to it in a word or two (`str()` says it in a sentence), `expected` what
    it should have been and `found` what it was. `cause` says whose doing it is:

    * `client`: it lost, changed or added something on the way, or may have: its wire could not be read;
    * `service`: it was asked the same and said something else;
    * `route`: it cannot say this by this API, whichever client asks;
    * `own`: a client's own way of asking, which changes nothing in the answer.

    `times` counts the rounds in which it was so.
    """

    question: int
    backend: str
    where: str
    reason: str
    expected: Any
    found: Any
    cause: Cause
    times: int = 1

    def __str__(self) -> str:
        said = REASONS[self.reason].format(self.where)
        if self.reason == "option renamed":
            return f"{said}: {self.found}"
        if self.reason == "extra request":
            return said
        shown = [f"{word} {_short(value)}" for word, value in (("expected", self.expected), ("found", self.found))]
        return f"{said}: {', '.join(shown)}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, "says": str(self)}


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    said = repr(said) if isinstance(value, str) else said
    return said if len(said) <= 100 else said[:99] + "…"


# ── what the wire says ───────────────────────────────────────────────────────────────────────────────────────────


def route_of(exchange: Exchange) -> str | None:
    """The built-in backend that knows this exchange's route, if it is one that questions are asked on."""
    path = exchange.path.partition("?")[0].rstrip("/")
    if exchange.method != "POST":
        return None
    if path == _STATEMENTS:
        return "ai-query"
    return next((reader for end, reader in _READERS if path.endswith(end)), None)


def asked(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Those that ask the question."""
    return [each for each in exchanges if route_of(each) is not None]


def answering(exchanges: Sequence[Exchange]) -> Exchange | None:
    """The one that holds the answer: the last that asks, or the last look at a statement that was running."""
    for each in reversed(exchanges):
        looks = each.method == "GET" and each.path.startswith(_STATEMENTS + "/")
        if looks or route_of(each) is not None:
            return each
    return None


def said_on(exchanges: Sequence[Exchange]) -> ChatResponse | ChatError | None:
    """The answer, or the error, that the service gave, read from the record; None where it does not say.

    It is read by our own codec for that route, whichever client asked.
    """
    last, questions = answering(exchanges), asked(exchanges)
    if last is None or not questions or last.status is None:
        return None
    reader = backends.find(route_of(questions[-1]) or "")(Connection("http://127.0.0.1:9", "none"))
    headers = {name.lower(): value for name, value in last.reply_headers}
    try:
        return reader.decode(backends.Reply(last.status, headers, last.reply))
    except ChatError as error:
        # What broke off in the middle says nothing of what would have come.
        return None if last.error is not None and not isinstance(error, ServiceError) else error


def root(error: BaseException) -> BaseException:
    """What a broken stream broke of."""
    if isinstance(error, StreamInterrupted):
        cause = error.error or error.__cause__
        return cause if isinstance(cause, ChatError) else error
    return error


# ── the answer, against the wire ─────────────────────────────────────────────────────────────────────────────────

Found: TypeAlias = tuple[str, str, Any, Any]  # where, reason, expected, found


def unfaithful(
    given: ChatResponse | None, error: BaseException | None, exchanges: Sequence[Exchange]
) -> Iterator[Found]:
    """Where what a backend gave is not what the service said to it."""
    said = said_on(exchanges)
    if said is None:
        return
    if isinstance(said, ChatError):
        if error is None:
            yield "error", "error eaten", _fact(said), None
        else:
            yield from _between(_error(said), _error(error), "error")
    elif given is None:
        broken = any(each.error for each in exchanges)
        if error is not None and not broken:
            yield "error", "error made up", None, _fact(error)
    else:
        yield from _between(tree(said), tree(given), "")


def _fact(error: BaseException) -> str:
    it = root(error)
    return f"{type(it).__name__}: {getattr(it, 'message', it)}"


def _error(error: BaseException) -> dict[str, Any]:
    it = root(error)
    # Of nonsense under a success, a stream does not tell the status.
    names = ("status", "error_code", "retry_after", "request_id") if isinstance(it, ServiceError) else ("request_id",)
    return {"class": type(it).__name__, **{name: getattr(it, name, None) for name in names}}


def tree(response: ChatResponse) -> dict[str, Any]:
    """Everything that an answer says, as JSON; the first choice's fields stand at the top."""
    first, others = response.choices[:1], response.choices[1:]
    usage = None if response.usage is None else asdict(response.usage)
    return {
        **(_choice(first[0]) if first else {}),
        **{f"choices[{choice.index}]": _choice(choice) for choice in others},
        "usage": usage,
        "model": response.model,
        "id": response.id,
        "created": response.created,
        "request_id": response.request_id,
        "extra": dict(response.extra),
    }


def _choice(choice: Choice) -> dict[str, Any]:
    message = choice.message
    thoughts = [part for part in message.parts if isinstance(part, Reasoning)]
    others = [
        {"type": type(part).__name__, **_json(part)}
        for part in message.parts
        if not isinstance(part, Reasoning) and not (isinstance(part, Text) and not part.extra)
    ]
    return {
        "text": message.text,
        "reasoning": {
            "text": message.reasoning,
            "signatures": [part.signature for part in thoughts],
            "encrypted": [part.encrypted for part in thoughts],
        },
        "parts": others,
        "tool_calls": [_json(call) for call in message.tool_calls],
        "refusal": message.refusal,
        "finish_reason": choice.finish_reason,
        "index": choice.index,
        "role": message.role,
        "logprobs": None if choice.logprobs is None else _json(choice.logprobs),
        "more": {**choice.extra, **message.extra},
    }


def _json(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _between(expected: Any, found: Any, where: str) -> Iterator[Found]:
    """Where two trees differ, each difference once and with the plainest reason."""
    if _same(expected, found):
        return
    both = isinstance(expected, Mapping) and isinstance(found, Mapping)
    if _empty(found) and not (both and _told(expected) == 1):
        yield where, "lost", expected, None
    elif _empty(expected) and not (both and _told(found) == 1):
        yield where, "invented", None, found
    elif _doubled(expected, found):
        yield where, "doubled", expected, found
    elif isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in [*expected, *(key for key in found if key not in expected)]:
            yield from _between(expected.get(key), found.get(key), f"{where}.{key}" if where else str(key))
    elif _lists(expected, found):
        yield from _between_lists(expected, found, where)
    else:
        yield where, "cut" if _is_part(found, expected) else "changed", expected, found


def _told(value: Mapping[str, Any]) -> int:
    return sum(not _empty(each) for each in value.values())


def _between_lists(expected: Sequence[Any], found: Sequence[Any], where: str) -> Iterator[Found]:
    if Counter(map(_text, expected)) == Counter(map(_text, found)):
        yield where, "reordered", list(expected), list(found)
        return
    for place in range(max(len(expected), len(found))):
        yield from _between(_at(expected, place), _at(found, place), f"{where}[{place}]")


def _at(items: Sequence[Any], place: int) -> Any:
    return items[place] if place < len(items) else None


def _same(one: Any, other: Any) -> bool:
    if _empty(one) and _empty(other):
        return True
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_same(one.get(key), other.get(key)) for key in {*one, *other})
    if _lists(one, other):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _empty(value: Any) -> bool:
    """Null, empty text, list and object say nothing, and neither does what holds nothing else."""
    if isinstance(value, Mapping):
        return all(map(_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_empty, value))
    return value is None or value == ""


def _lists(one: Any, other: Any) -> bool:
    return isinstance(one, list | tuple) and isinstance(other, list | tuple)


def _doubled(expected: Any, found: Any) -> bool:
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        pairs = [(expected.get(key), found.get(key)) for key in {*expected, *found}]
        told = [pair for pair in pairs if not (_empty(pair[0]) and _empty(pair[1])) and pair != (0, 0)]
        return bool(told) and all(_doubled(*pair) for pair in told)
    if _lists(expected, found) or (isinstance(expected, str) and isinstance(found, str)):
        return bool(expected) and len(found) == 2 * len(expected) and found == expected + expected
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (expected, found))
    return numbers and expected != 0 and found == 2 * expected


def _is_part(found: Any, expected: Any) -> bool:
    return isinstance(found, str) and isinstance(expected, str) and found in expected


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


# ── the question, against what was asked for ─────────────────────────────────────────────────────────────────────


def misasked(
    exchange: Exchange, endpoint: str, body: Callable[[str], Any], clean: Callable[[Any], Any]
) -> Iterator[Found]:
    """Where what was sent is not what was asked for. `body(backend)` gives what that backend would send, or None."""
    route = route_of(exchange) or ""
    expected = body(route)
    if expected is None:
        return
    expected = clean(json.loads(json.dumps(expected)))
    try:
        sent = json.loads(exchange.body)
    except ValueError:
        yield "body", "option changed", expected, exchange.body.decode("utf-8", "replace")
        return
    if route == "ai-query":
        given = {item.get("name"): item.get("value") for item in sent.get("parameters") or ()}
        sent = {"statement": sent.get("statement"), "parameters": given}
    elif exchange.path.partition("?")[0].endswith("/invocations"):
        name = unquote(exchange.path.partition("?")[0].split("/")[2])
        expected.pop("model", None)
        sent = {key: value for key, value in sent.items() if key != "model"}
        if name != endpoint:
            yield "endpoint", "wrong endpoint", endpoint, name
    else:
        expected = {"model": endpoint, **expected}
        if sent.get("model") != endpoint:
            yield "endpoint", "wrong endpoint", endpoint, sent.get("model")
        sent = {**sent, "model": endpoint}
        expected["model"] = endpoint
    yield from _between_options(expected, sent, "")


def _between_options(expected: Any, found: Any, where: str) -> Iterator[Found]:
    if isinstance(expected, dict) and isinstance(found, dict):
        gone = [key for key in expected if key not in found]
        new = [key for key in found if key not in expected]
        for key in gone:
            place = f"{where}.{key}" if where else key
            as_new = next((other for other in new if _exactly(expected[key], found[other])), None)
            if as_new is None:
                yield place, "option dropped", expected[key], None
            else:
                new.remove(as_new)
                yield place, "option renamed", key, as_new
        for key in new:
            yield f"{where}.{key}" if where else key, "option added", None, found[key]
        for key in expected:
            if key in found:
                yield from _between_options(expected[key], found[key], f"{where}.{key}" if where else key)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _between_options(one, other, f"{where}[{place}]")
    elif not _exactly(expected, found):
        yield where, "option changed", expected, found


def _exactly(one: Any, other: Any) -> bool:
    """JSON's equality: 1 is 1.0, and true is not 1."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_exactly(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_exactly, one, other))
    return bool(one == other)


# ── one client against another ───────────────────────────────────────────────────────────────────────────────────


def otherwise(
    mine: ChatResponse | BaseException, theirs: ChatResponse | BaseException, *, same_route: bool
) -> Iterator[tuple[Found, Cause]]:
    """Where the service said something else to one client (`mine`) than to the reference (`theirs`).

    On the same route everything counts that is the model's to say. Ids, times, signatures and request ids differ with
    every question. On another route counts (usage), the model's name and reasoning are that API's own; what only one
    of the two APIs can say at all is told as such.
    """
    if isinstance(mine, BaseException) or isinstance(theirs, BaseException):
        one, other = _outcome(mine), _outcome(theirs)
        if one == other:
            return
        if isinstance(mine, BaseException) and _NO_SUCH_API in _fact(mine).lower() and not same_route:
            yield ("outcome", "not taken", other, one), "route"
        else:
            yield ("outcome", "said otherwise", other, one), "service"
        return
    expected, found = normal(theirs), normal(mine)
    if same_route:
        for where, _, want, got in _between(expected, found, ""):
            yield (where, "said otherwise", want, got), "service"
        return
    whole, mine_whole = tree(theirs), tree(mine)
    for name in ("usage", "model", "reasoning", "finish_reason", "refusal", "id", "logprobs"):
        want, got = whole.get(name), mine_whole.get(name)
        if _empty(got) and not _empty(want):
            yield (name, "not said", want, None), "route"
    choices = {name: None for name in (*expected, *found) if name.startswith("choices[")}
    for name in ("text", "tool_calls", "refusal", "finish_reason", *choices):
        want, got = expected.get(name), found.get(name)
        optional = name in {"refusal", "finish_reason"}
        if not _same(want, got) and not (optional and (_empty(want) or _empty(got))):
            yield (name, "said otherwise", want, got), "service"


def _outcome(it: ChatResponse | BaseException) -> str:
    if not isinstance(it, BaseException):
        return "an answer"
    broken = root(it)
    status = getattr(broken, "status", None)
    return f"{type(broken).__name__}{f' ({status})' if status else ''}"


def normal(answer: ChatResponse) -> dict[str, Any]:
    """An answer after normalising: what is the model's to say, without what differs from one question to the next."""
    whole = tree(answer)
    for name in ("id", "created", "request_id", "extra"):
        del whole[name]
    others = {name: _stripped(whole.pop(name)) for name in list(whole) if name.startswith("choices[")}
    return {**_stripped(whole), **others}


def _stripped(choice: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {"name": call["name"], "arguments": _arguments(call["arguments"])} for call in choice.get("tool_calls", ())
    ]
    kept = {key: value for key, value in choice.items() if key not in {"more", "parts", "index"}}
    return {**kept, "reasoning": choice.get("reasoning", {}).get("text"), "tool_calls": calls}


def _arguments(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def ways(mine: Sequence[Exchange], theirs: Sequence[Exchange]) -> Iterator[Found]:
    """How one client asks differently from the reference: path, headers, further requests."""
    for each in mine:
        if route_of(each) is None:
            yield f"{each.method} {each.path.partition('?')[0]}", "extra request", None, each.status
    one, other = next(iter(asked(mine)), None), next(iter(asked(theirs)), None)
    if one is None or other is None:
        return
    if route_of(one) != route_of(other) or one.path.count("/") != other.path.count("/"):
        yield "path", "route", other.path, one.path
    found, expected = (_headers(each) for each in (one, other))
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            yield name, "header", expected.get(name), found.get(name)


def _headers(exchange: Exchange) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in exchange.headers:
        key = name.lower()
        if key not in TRANSPORT:
            joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def counted(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Each difference once, with the number of rounds in which it was there."""
    seen: dict[tuple[Any, ...], Difference] = {}
    for each in differences:
        key = (each.question, each.backend, each.where, each.reason, each.cause)
        known = seen.get(key)
        seen[key] = each if known is None else replace(known, times=known.times + 1)
    return tuple(seen.values())
