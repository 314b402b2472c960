"""Which backends there are, and how to get one without importing any other.

Those of isochat are a table of strings. A third party's is an entry point in the group `isochat.backends`, looked for
only when the table has no such name; it cannot take the name of one of ours. What such a backend is made of, the codec
of the wire above all, is public here too.
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from isochat._sse import Event, EventDecoder
from isochat._wire import (
    Done,
    Incoming,
    Reply,
    decode_completion,
    decode_event,
    decode_reply,
    request_to_json,
    to_bytes,
)
from isochat.backends._base import EVERYTHING, Backend
from isochat.errors import BackendNotFound, BackendNotInstalled
from isochat.transports import directly
from isochat.transports.deadline import keep_deadlines
from isochat.transports.trust import trusted

__all__ = [
    "BUILT_IN",
    "EVERYTHING",
    "Backend",
    "BackendInfo",
    "Done",
    "Event",
    "EventDecoder",
    "Incoming",
    "Reply",
    "available",
    "carriers",
    "decode_completion",
    "decode_event",
    "decode_reply",
    "directly",
    "find",
    "keep_deadlines",
    "load",
    "request_to_json",
    "to_bytes",
    "trusted",
]

GROUP = "isochat.backends"

BUILT_IN = {
    "ai-query": "isochat.backends.ai_query:AIQueryBackend",
    "databricks-sdk": "isochat.backends.databricks_sdk:DatabricksSDKBackend",
    "langchain": "isochat.backends.langchain:LangChainBackend",
    "mlflow": "isochat.backends.mlflow:MLflowBackend",
    "openai": "isochat.backends.openai:OpenAIBackend",
    "openai-responses": "isochat.backends.openai_responses:OpenAIResponsesBackend",
    "rest": "isochat.backends.rest:RestBackend",
}


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What one backend is and carries, as data.

    `missing` are the modules it needs that are not installed, `install` the line that installs them. `blocking`,
    `asyncio`, `stream` and `async_stream` say which of the four ways of asking it knows.
    """

    name: str
    client: str
    route: str
    carries: frozenset[str]
    missing: tuple[str, ...]
    install: str
    blocking: bool = True
    asyncio: bool = True
    stream: bool = True
    async_stream: bool = True


def load(name: str) -> type[Backend]:
    """The backend of that name. Raises `BackendNotFound` or, with the line that installs it, `BackendNotInstalled`."""
    found = find(name)
    if missing := _missing(found):
        line = install_line(name)
        raise BackendNotInstalled(
            f"the {name!r} backend needs {', '.join(missing)}, which is not installed", install=line
        )
    return found


def available() -> tuple[BackendInfo, ...]:
    """Every backend there is, ours and others', in the order of their names. No client is imported."""
    return tuple(_info(name) for name in sorted({*BUILT_IN, *_others()}))


def carriers(option: str) -> tuple[str, ...]:
    """The names of our backends that carry an option."""
    return tuple(name for name in BUILT_IN if option in find(name).carries)


def _info(name: str) -> BackendInfo:
    backend = find(name)
    return BackendInfo(
        name=name,
        client=backend.drives,
        route=backend.route,
        carries=backend.carries,
        missing=_missing(backend),
        install=install_line(name),
        stream=backend.streams(),
        async_stream=backend.streams(),
    )


@functools.cache
def find(name: str) -> type[Backend]:
    """The backend of that name, whether or not its client is installed. Raises `BackendNotFound`."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        backend: type[Backend] = getattr(import_module(module), attribute)
        return backend
    claims = _others().get(name, ())
    if len(claims) > 1:
        raise BackendNotFound(
            f"two distributions claim the name {name!r}: {' and '.join(claims)}", hint="Uninstall one of them."
        )
    if not claims:
        known = sorted({*BUILT_IN, *_others()})
        near = difflib.get_close_matches(name.lower(), known, n=2)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are: {', '.join(known)}."
        raise BackendNotFound(f"no backend is called {name!r}", nearest=near, hint=hint)
    (point,) = entry_points(group=GROUP, name=name)
    loaded: type[Backend] = point.load()
    return loaded


@functools.cache
def _others() -> dict[str, tuple[str, ...]]:
    """Third parties' backends: each name with the distributions that claim it."""
    claims: dict[str, list[str]] = {}
    for point in entry_points(group=GROUP):
        if point.name not in BUILT_IN:
            claims.setdefault(point.name, []).append(point.dist.name if point.dist else point.value)
    return {name: tuple(sorted(who)) for name, who in claims.items()}


def _missing(backend: type[Backend]) -> tuple[str, ...]:
    return tuple(module for module in backend.requires if not _is_there(module))


def _is_there(module: str) -> bool:
    """Whether a module is installed. `find_spec("databricks.sdk")` would import `databricks` to look."""
    top, _, below = module.partition(".")
    found = find_spec(top)
    if found is None or not below:
        return found is not None
    places = [Path(place, *below.split(".")) for place in found.submodule_search_locations or ()]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)


def install_line(name: str) -> str:
    """What to type to install a backend's client."""
    if name == "rest":  # it needs no more than isochat itself
        return "pip install isochat"
    return f"pip install 'isochat[{name}]'" if name in BUILT_IN else f"pip install {' '.join(_others().get(name, ()))}"
