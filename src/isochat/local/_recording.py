"""One recorded exchange: what it says, how it stands in a file, and what of it makes a question the same question.

A file is YAML, for people to read and for a diff to be short. What stands in it holds no secret and no id of a
workspace or a person (`Cleaner`); everything else is as it passed by.
"""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from isochat.local._question import CARRIAGE
from isochat.local._recorder import Scrubber
from isochat.local._surfaces import WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Asked", "Cleaner", "NoRecordingError", "Recording", "dumped", "route"]

FORMAT = 1

# ── what must not be kept ────────────────────────────────────────────────────────────────────────────────────────

#: Headers whose value tells one request or one workspace from all others.
_REQUEST_ID = re.compile(r"(?i)(^|-)request-?id$|^x-ms-client-request-id$|^traceparent$")
_ORG_ID = re.compile(r"(?i)^x-databricks-(org|workspace|account)-id$")
_NO_REQUEST = "00000000-0000-4000-8000-000000000000"
_HOST = "workspace.example"
#: What may stand where something unknown to who replays was taken out.
_TAKEN_OUT = re.compile(rf"\*{{8,}}|{_NO_REQUEST}|{re.escape(_HOST)}|{WORKSPACE}")
#: What stands for an id, by the name under which it is found in a body.
_STANDINS: Mapping[str, str] = {
    "account_id": "account",
    "client_request_id": "client-request",
    "creator": "user",
    "created_by": "user",
    "databricks_request_id": _NO_REQUEST,
    "end_user_id": "user",
    "org_id": WORKSPACE,
    "request_id": _NO_REQUEST,
    "safety_identifier": "user",
    "user": "user",
    "user_email": "user",
    "user_id": "user",
    "user_name": "user",
    "userName": "user",
    "warehouse_id": "warehouse",
    "workspace_id": WORKSPACE,
}
#: Beneath these a name is the caller's own, and says nothing of whose id it is.
_OWN = frozenset(
    [
        "arguments",
        "custom_inputs",
        "custom_outputs",
        "input_schema",
        "parameters",
        "response_format",
        "responseFormat",
        "schema",
        "text",
        "tools",
    ]
)
_SHORTEST_ID = 8  # characters: a shorter id would be found in any text
#: The headers of a reply that a client heeds. What is not named is not kept: so no cookie and no id is.
_KEPT = re.compile(
    r"content-type|retry-after(-ms)?|x-should-retry|(x-)?ratelimit-.*|x-isochat-not-forwarded"
    r"|x-amzn-bedrock-(input|output)-token-count"
)


class Cleaner:
    """Takes secrets out of what is kept, and puts stand-ins, always the same, in the place of ids.

    A secret is what a `Scrubber` says; an id is that of a request, a workspace, a warehouse, an account or a person: by
    the name it stands under, and, if it came in a header, wherever it comes up again.
    """

    def __init__(self, scrubber: Scrubber | None = None) -> None:
        self.scrubber = scrubber or Scrubber()
        self._known: dict[str, str] = {}

    def knowing(self, headers: Iterable[tuple[str, str]]) -> Cleaner:
        """One that knows the credentials and ids in some headers as well; they are one exchange's, and end with it."""
        headers = list(headers)
        more = Cleaner(self.scrubber.copy())
        more.scrubber.learn(headers)
        more._known = dict(self._known)
        for name, value in headers:
            standin = _NO_REQUEST if _REQUEST_ID.search(name) else WORKSPACE if _ORG_ID.search(name) else None
            if standin is not None and len(value) >= _SHORTEST_ID:
                more._known[value] = standin
        return more

    def learn_host(self, address: str) -> None:
        """Remember the name of a workspace's host, which often holds its id."""
        name = urlsplit(address).hostname or ""
        if "." in name and not re.fullmatch(r"[\d.]+", name):
            self._known[name] = _HOST

    def secrets(self, *values: str | None) -> None:
        """Remember some credentials."""
        self.scrubber.learn(("authorization", value) for value in values if value)

    def text(self, text: str) -> str:
        """A text without them."""
        for known, standin in tuple(self._known.items()):
            text = text.replace(known, standin)
        return self.scrubber.text(text)

    def bytes(self, data: bytes) -> bytes:
        """What is no text, without them."""
        for known, standin in tuple(self._known.items()):
            data = data.replace(known.encode("utf-8", "surrogateescape"), standin.encode())
        return self.scrubber.bytes(data)

    def json(self, value: Any) -> Any:
        """JSON without them."""
        return self._json(self.scrubber.anything(value))

    def _json(self, value: Any, *, own: bool = False) -> Any:
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._json(each, own=own) for each in value]
            case dict():
                return {
                    self.text(key): self._id(key, each, own=own or key in _OWN)
                    if key != "usage_context"
                    else self._context(each)
                    for key, each in value.items()
                }
        return value

    def _id(self, name: str, value: Any, *, own: bool) -> Any:
        if not own and name in _STANDINS and value and isinstance(value, str | int) and not isinstance(value, bool):
            return _STANDINS[name] if isinstance(value, str) else int(WORKSPACE)
        return self._json(value, own=own)

    @staticmethod
    def _context(value: Any) -> Any:
        """Whom the question is charged to: the caller's names, and nothing of what they say."""
        return dict.fromkeys(value, "***") if isinstance(value, dict) else value


# ── which question is which ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as recordings are told apart: whom it asks what, whichever client asks and by whichever route."""

    #: `chat`, `responses`, `sql-statement`, `sql-status` or `sql-cancel`.
    kind: str
    #: The endpoint, or the statement.
    target: str
    #: The body in its normal form: what only says how to carry the answer is left out, and what says nothing.
    body: Any = field(hash=False)
    #: Whether the answer is asked for as a stream.
    streams: bool
    #: Of all that: equal for the same question.
    key: str

    @classmethod
    def of(cls, method: str, path: str, body: Any) -> Asked | None:
        """What a request asks, its body decoded and cleaned; None for one that is no question."""
        found = route(method, path)
        if found is None:
            return None
        kind, target = found
        streams = isinstance(body, dict) and bool(body.get("stream"))
        if isinstance(body, dict):
            if not target and kind in {"chat", "responses"}:
                target = str(body.get("model") or "")
            carriage = CARRIAGE if kind in {"chat", "responses"} else _SQL_CARRIAGE
            body = _normal({k: v for k, v in body.items() if k not in carriage})
            if body.get("n") == 1:
                del body["n"]
            body = _renamed(body)
        key = json.dumps([kind, target, body], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return cls(kind, target, body, streams, key)

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """What `key` looks like with something in place of what was taken out of it; None if nothing was.

        Who replays may not know, as who recorded did, that some text is a login, or the name of the workspace.
        """
        parts = _TAKEN_OUT.split(self.key)
        return re.compile(r'[^"\s\\]+'.join(map(re.escape, parts))) if len(parts) > 1 else None

    @property
    def shown(self) -> str:
        """As YAML, for a person to compare with another one."""
        whom = {"endpoint" if self.kind in {"chat", "responses"} else "statement": self.target} if self.target else {}
        return dumped({**whom, **(self.body if isinstance(self.body, dict) else {"body": self.body})}, sort=True)


#: Of a statement: where it is run, and how long its answer is waited for.
_SQL_CARRIAGE = frozenset({"warehouse_id", "wait_timeout", "on_wait_timeout", "query_tags"})
_SCHEMAS = frozenset({"parameters", "schema", "input_schema"})


def route(method: str, path: str) -> tuple[str, str] | None:
    """What kind of question goes this way, and whom it asks where the path says so; None for any other path."""
    match method, *[unquote(part) for part in path.partition("?")[0].strip("/").split("/")]:
        case "POST", "serving-endpoints", "chat", "completions":
            return "chat", ""
        case "POST", "serving-endpoints", "responses":
            return "responses", ""
        case "POST", "serving-endpoints", name, "invocations" if name:
            return "chat", name
        case "POST", "serving-endpoints", name, "served-models", entity, "invocations" if name:
            return "chat", f"{name}/{entity}"
        case "POST", "api", "2.0", "sql", "statements":
            return "sql-statement", ""
        case "GET", "api", "2.0", "sql", "statements", number:
            return "sql-status", number
        case "POST", "api", "2.0", "sql", "statements", number, "cancel":
            return "sql-cancel", number
    return None


def _normal(value: Any) -> Any:
    """Without what says nothing (a null, an empty list, an empty object), and each value in one form."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_normal(each) for each in value]
        case dict():
            kept = {
                # In a schema, a null and an empty list do say something.
                key: each if key in _SCHEMAS else _arguments(each) if key == "arguments" else _normal(each)
                for key, each in value.items()
            }
            kept = {key: each for key, each in kept.items() if each is not None and each not in ([], {})}
            if kept.get("content") == "" and kept.get("tool_calls"):
                del kept["content"]
            match kept.get("content"):
                case [{"type": "text", "text": str(text), **more}] if not more:
                    kept["content"] = text
            return kept
    return value


def _arguments(value: Any) -> Any:
    """A call's arguments: clients write the same JSON with and without spaces, and none as an empty text or `{}`."""
    try:
        return json.dumps(json.loads(value or "{}"), sort_keys=True) if isinstance(value, str) else value
    except ValueError:
        return value


def _renamed(body: dict[str, Any]) -> dict[str, Any]:
    """The ids of tool calls by their place: they only say which result belongs to which call."""
    names: dict[str, str] = {}

    def place(id_: Any) -> Any:
        return names.setdefault(id_, f"call-{len(names) + 1}") if isinstance(id_, str) else id_

    def message(said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        said = dict(said)
        if isinstance(said.get("tool_calls"), list):
            said["tool_calls"] = [
                {**call, "id": place(call.get("id"))} if isinstance(call, dict) else call for call in said["tool_calls"]
            ]
        for name in ("tool_call_id", "call_id"):
            if name in said:
                said[name] = place(said[name])
        if said.get("type") in {"function_call", "custom_tool_call"}:
            said.pop("id", None)  # the item's own, which may be left out: only `call_id` is referred to
        return said

    return {
        key: [message(each) for each in value] if key in {"messages", "input"} and isinstance(value, list) else value
        for key, value in body.items()
    }


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────


class NoRecordingError(ValueError):
    """A file that is no recording; the message says why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One exchange: a request, and the reply it got."""

    method: str
    path: str
    request_headers: Mapping[str, str]
    #: JSON, a text, or bytes that are neither; None for none.
    request_body: Any
    status: int
    headers: Mapping[str, str]
    #: Seconds from the request to the reply's head, or to the whole of it.
    after: float
    #: JSON, a text, or bytes; of a stream, each event with the seconds since the request.
    body: Any = None
    events: tuple[tuple[float, bytes], ...] | None = None

    @classmethod
    def made(  # noqa: PLR0917 - one exchange
        cls,
        clean: Cleaner,
        asked: tuple[str, str, Mapping[str, str], bytes],
        status: int,
        headers: Mapping[str, str],
        after: float,
        reply: bytes | list[tuple[float, bytes]],
    ) -> Recording:
        """What passed by, cleaned."""
        method, path, request_headers, body = asked
        clean = clean.knowing([*request_headers.items(), *headers.items()])
        return cls(
            method,
            clean.text(path.partition("?")[0]),
            {k.lower(): clean.text(v) for k, v in request_headers.items() if k.lower() == "content-type"},
            cleaned(clean, body),
            status,
            {k.lower(): clean.text(v) for k, v in headers.items() if _KEPT.fullmatch(k.lower())},
            round(after, 3),
            cleaned(clean, reply) if isinstance(reply, bytes) else None,
            None if isinstance(reply, bytes) else tuple((round(at, 3), data) for at, data in _events(clean, reply)),
        )

    @property
    def asked(self) -> Asked:
        """What it is a recording of."""
        found = Asked.of(self.method, self.path, self.request_body)
        assert found is not None  # `parse` and `made` see to it
        return found

    def content(self) -> bytes:
        """The reply's body, whole."""
        if self.events is not None:
            return b"".join(data for _, data in self.events)
        return as_bytes(self.body)

    def text(self) -> str:
        """As it stands in a file."""
        made = self._text(_written)
        try:
            if Recording.parse(made) == self:
                return made
        except NoRecordingError:  # there are characters that YAML does not hold, or not in every place
            pass
        return self._text(_as_base64)

    def _text(self, written: Callable[[Any], dict[str, Any]]) -> str:
        request: dict[str, Any] = {"method": self.method, "path": self.path}
        if self.request_headers:
            request["headers"] = dict(self.request_headers)
        request |= written(self.request_body)
        response: dict[str, Any] = {"status": self.status, "headers": dict(self.headers), "after": self.after}
        if self.events is None:
            response |= written(self.body)
        else:
            event = _event if written is _written else written
            response["stream"] = [{"after": at, **event(data)} for at, data in self.events]
        return dumped({"recording": FORMAT, "request": request, "response": response})

    @classmethod
    def parse(cls, text: str) -> Recording:
        """A recording from a file's text. Raises NoRecordingError."""
        import yaml

        try:
            data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - is a safe one
        except yaml.YAMLError as why:
            msg = f"it is not YAML: {' '.join(str(why).split())}"
            raise NoRecordingError(msg) from None
        if not isinstance(data, dict) or "recording" not in data:
            msg = "it is not a recording: there is no `recording: 1` at its top level"
            raise NoRecordingError(msg)
        if data["recording"] != FORMAT:
            msg = f"it is of format {data['recording']!r}; this version of isochat reads {FORMAT}"
            raise NoRecordingError(msg)
        request, response = (_mapping(data, name, "") for name in ("request", "response"))
        for where, found, known in (
            ("", data, {"recording", "request", "response"}),
            ("request.", request, {"method", "path", "headers", "body", "base64"}),
            ("response.", response, {"status", "headers", "after", "body", "base64", "stream"}),
        ):
            if unknown := found.keys() - known:
                msg = f"{where}{min(map(str, unknown))}: there is no such field"
                raise NoRecordingError(msg)
        method, path = (_of(request, name, str, f"request.{name}") for name in ("method", "path"))
        if route(method, path) is None:
            msg = f"request.path: {method} {path} is no chat question and no SQL statement"
            raise NoRecordingError(msg)
        status = _of(response, "status", int, "response.status")
        if not 100 <= status <= 599:
            msg = f"response.status: {status} is no HTTP status"
            raise NoRecordingError(msg)
        events = None
        if "stream" in response:
            rows = _of(response, "stream", list, "response.stream")
            events = tuple(_read_event(row, f"response.stream[{n}]") for n, row in enumerate(rows))
        return cls(
            method,
            path,
            {str(k): str(v) for k, v in _mapping(request, "headers", "request.").items()},
            _read(request, "request."),
            status,
            {str(k).lower(): str(v) for k, v in _mapping(response, "headers", "response.").items()},
            _seconds(response, "response.after"),
            None if events is not None else _read(response, "response."),
            events,
        )


def cleaned(clean: Cleaner, body: bytes) -> Any:
    """A body as it is kept: JSON if it is an object or a list, else text, else bytes; None for an empty one."""
    if not body:
        return None
    try:
        value = json.loads(body)
        if isinstance(value, dict | list) and _is_plain(value):
            return clean.json(value)
    except (ValueError, RecursionError):
        pass
    try:
        return clean.text(body.decode())
    except UnicodeDecodeError:
        return clean.bytes(body)


def _is_plain(value: Any) -> bool:
    """Whether YAML can hold it: Python reads NaN, infinity and half a character in JSON as well."""
    match value:
        case float():
            return math.isfinite(value)
        case str():
            return value.isascii() or not re.search("[\ud800-\udfff]", value)
        case list():
            return all(map(_is_plain, value))
        case dict():
            return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    return True


def as_bytes(value: Any) -> bytes:
    """What `cleaned` made of some bytes, as bytes again."""
    match value:
        case None:
            return b""
        case bytes():
            return value
        case str():
            return value.encode()
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _written(body: Any) -> dict[str, Any]:
    match body:
        case None:
            return {}
        case bytes():
            return {"base64": base64.b64encode(body).decode()}
    return {"body": body}


def _as_base64(body: Any) -> dict[str, Any]:
    return {} if body is None else {"base64": base64.b64encode(as_bytes(body)).decode()}


def _read(found: Mapping[str, Any], where: str) -> Any:
    if "base64" not in found:
        body = found.get("body")
        if body is None or isinstance(body, str | list | dict):
            return body
        msg = f"{where}body: expected a mapping, a list or a text, got {body!r}"
        raise NoRecordingError(msg)
    try:
        return base64.b64decode(found["base64"], validate=True)
    except (ValueError, TypeError):
        msg = f"{where}base64: it is none"
        raise NoRecordingError(msg) from None


# --- of a stream ---

_END = re.compile(rb"\r?\n\r?\n")
_PLAIN = re.compile(rb"(?:event: ([^\r\n]*)\n)?data: ([^\r\n]*)\n\n")


def _events(clean: Cleaner, pieces: list[tuple[float, bytes]]) -> Iterable[tuple[float, bytes]]:
    """The events of a stream, each with the time at which the last of it came: pieces end anywhere."""
    rest, at = b"", 0.0
    for at, piece in pieces:
        rest += piece
        start = 0
        for end in _END.finditer(rest):
            yield at, _clean_event(clean, rest[start : end.end()])
            start = end.end()
        rest = rest[start:]
    if rest:
        yield at, _clean_event(clean, rest)


def _clean_event(clean: Cleaner, data: bytes) -> bytes:
    """An event as it was, byte for byte, unless there was something in it to be taken out."""
    plain = _PLAIN.fullmatch(data)
    if plain is not None:
        try:
            value = json.loads(plain[2])
        except (ValueError, RecursionError):
            value = None
        if value is not None and _is_plain(value) and (found := clean.json(value)) != value:
            name = b"" if plain[1] is None else b"event: " + plain[1] + b"\n"
            return name + b"data: " + as_bytes(found) + b"\n\n"
    try:
        return clean.text(data.decode()).encode()
    except UnicodeDecodeError:
        return clean.bytes(data)


def _event(data: bytes) -> dict[str, Any]:
    plain = _PLAIN.fullmatch(data)
    try:
        if plain is None:
            return {"text": data.decode()}
        name = {} if plain[1] is None else {"event": plain[1].decode()}
        return {**name, "data": plain[2].decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _read_event(row: Any, where: str) -> tuple[float, bytes]:
    if not isinstance(row, dict) or not row.keys() <= {"after", "event", "data", "text", "base64"}:
        msg = f"{where}: expected a mapping with `after` and `data`"
        raise NoRecordingError(msg)
    at = _seconds(row, f"{where}.after")
    if "base64" in row:
        return at, _read(row, f"{where}.")
    if "text" in row:
        return at, _of(row, "text", str, f"{where}.text").encode()
    name = f"event: {row['event']}\n" if "event" in row else ""
    return at, f"{name}data: {_of(row, 'data', str, f'{where}.data')}\n\n".encode()


# --- YAML ---


def dumped(value: Any, *, sort: bool = False) -> str:
    """JSON as YAML for people: a value a line, longer texts as they are, no anchors."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        def ignore_aliases(self, _: Any) -> bool:
            return True

    def text(dumper: Any, said: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", said, style="|" if "\n" in said else None)

    Dumper.add_representer(str, text)
    width = 100 if sort else 2**20  # what is compared is cut, so that a difference stands in a short line
    made: str = yaml.dump(value, Dumper=Dumper, sort_keys=sort, allow_unicode=True, width=width)
    return made


def _of(found: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = found.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {str: "a text", int: "a number", list: "a list"}[kind]
        msg = f"{where}: expected {words}, got {value!r}"
        raise NoRecordingError(msg)
    return value


def _mapping(found: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = found.get(name, {} if name == "headers" else None)
    if not isinstance(value, dict):
        msg = f"{where}{name}: expected a mapping, got {value!r}"
        raise NoRecordingError(msg)
    return value


def _seconds(found: Mapping[str, Any], where: str) -> float:
    value = found.get("after", 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        msg = f"{where}: expected seconds, got {value!r}"
        raise NoRecordingError(msg)
    return float(value)
