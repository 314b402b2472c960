"""What can go wrong is one tree, and each of its errors says what happened and survives being stored."""

from __future__ import annotations

import builtins
import copy
import pickle
import re
from typing import Any

import pytest

from isochat import errors
from isochat._types import ChatResponse, Choice, Message
from isochat.errors import Attempt, ChatError, ServiceError

CLASSES = [getattr(errors, name) for name in errors.__all__ if name != "Attempt"]
REPLY = {"status": 400, "error_code": "X", "retry_after": 1.5, "request_id": "r", "body": {"a": [1]}}
FIELDS: dict[str, dict[str, Any]] = {
    "InvalidRequest": {"path": "messages[0].role"},
    "UnsupportedOption": {"option": "tools", "carried_by": ("rest", "openai")},
    "BackendNotFound": {"nearest": ("rest",)},
    "BackendNotInstalled": {"install": "python3 -m pip install 'isochat[openai]'"},
    "DeadlineExceeded": {"timeout": 5.0},
    "MalformedReply": {"status": 200, "request_id": "r", "body": b"x", "path": "choices[0]"},
    "StreamInterrupted": {
        "partial": ChatResponse((Choice(0, Message("assistant", "Hel")),), id="c"),
        "error": None,
    },
}


def fields(kind: type[ChatError]) -> dict[str, Any]:
    return FIELDS.get(kind.__name__, REPLY if issubclass(kind, ServiceError) else {})


def made(kind: type[ChatError]) -> ChatError:
    """An error of that class with everything that it can hold."""
    error = kind("No.", hint="Do this.", **fields(kind))
    error.backend, error.endpoint = "rest", "my-endpoint"
    error.attempts = (Attempt("RateLimited", 429, 0.5), Attempt("ConnectionFailed", None, 0.0))
    error.add_note("A note.")
    return error


def drawn() -> list[tuple[str, str, str | None]]:
    """The tree in the module's docstring, as (class, its parent, the built-in class beside it)."""
    assert errors.__doc__ is not None
    found: list[tuple[str, str, str | None]] = []
    above: list[str] = []
    for line in errors.__doc__.split("```")[1].strip().splitlines():
        said = re.match(r"(?P<lines>[│├└─ ]*)(?P<name>\w+)(?: \((?P<beside>\w+)\))?", line)
        assert said is not None
        depth = len(said["lines"]) // 3
        parent = above[depth - 1] if depth else "Exception"
        above[depth:] = [said["name"]]
        found.append((said["name"], parent, said["beside"]))
    return found


@pytest.mark.parametrize(("name", "parent", "beside"), drawn(), ids=[name for name, _, _ in drawn()])
def test_tree_is_as_drawn(name: str, parent: str, beside: str | None) -> None:
    """Each class stands in the code where the drawing has it, beside the built-in class that it names."""
    expected = (parent,) if beside is None else (parent, beside)

    assert expected == tuple(base.__name__ for base in getattr(errors, name).__bases__)
    if beside is not None:
        assert issubclass(getattr(errors, name), getattr(builtins, beside))


def test_tree_is_whole() -> None:
    """Every class is in the drawing, once."""
    assert sorted(kind.__name__ for kind in CLASSES) == sorted(name for name, _, _ in drawn())


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "carry",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda e, p=p: pickle.loads(pickle.dumps(e, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
    ],
    ids=["copy", "deepcopy", *(f"pickle {p}" for p in range(pickle.HIGHEST_PROTOCOL + 1))],
)
def test_survives(kind: type[ChatError], carry: Any) -> None:
    """An error that was copied, or sent to another process, is the same error with all it held."""
    error = made(kind)
    other = carry(error)

    assert kind is type(other)
    assert (error.args, str(error), vars(error)) == (other.args, str(other), vars(other))


@pytest.mark.parametrize("kind", CLASSES)
def test_fields_are_there(kind: type[ChatError]) -> None:
    """Each class holds the fields that its docstring names."""
    error = made(kind)

    assert fields(kind) == {name: getattr(error, name) for name in fields(kind)}


@pytest.mark.parametrize("kind", CLASSES)
def test_says_what_where_and_what_to_do(kind: type[ChatError]) -> None:
    """The message says what happened, to which endpoint, through which backend, how often, and what to do."""
    said = str(made(kind))

    assert all(part in said for part in ("No.", "my-endpoint", "rest", "2 attempts", "Do this."))


@pytest.mark.parametrize("kind", CLASSES)
def test_says_only_what_is_known(kind: type[ChatError]) -> None:
    """Without endpoint, backend and hint, the message stands alone."""
    needed = {"option": "n"} if kind.__name__ == "UnsupportedOption" else {}
    if kind.__name__ == "BackendNotInstalled":
        assert "No.\nInstall it with: pip" == str(kind("No.", install="pip"))
        return

    assert "No." == str(kind("No.", **needed))


def test_path_leads_the_message() -> None:
    """Where it is wrong is said before what is wrong."""
    assert "temperature: too hot" == str(errors.InvalidRequest("too hot", path="temperature"))


def test_one_attempt_is_not_counted() -> None:
    """A question asked once says nothing of attempts."""
    error = ChatError("No.")
    error.attempts = (Attempt("ChatError", None, 0.0),)

    assert "No." == str(error)


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if issubclass(kind, ServiceError)])
def test_never_shows_the_body(kind: type[ServiceError]) -> None:
    """A body can hold the question, or a token that a proxy echoed: it is kept, and never shown."""
    error = kind("No.", body={"anonymized_input": "my secret", "authorization": "Bearer dapi0"})

    assert "secret" not in f"{error} {error!r}"
    assert "dapi" not in f"{error} {error!r}"


@pytest.mark.parametrize("kind", CLASSES)
def test_caught_as_one(kind: type[ChatError]) -> None:
    """`except ChatError` catches whatever isochat raises on purpose."""
    assert issubclass(kind, ChatError)
    assert kind.__doc__


def test_attempt_is_a_value() -> None:
    """Attempts can be compared and kept in sets."""
    assert {Attempt("X", 429, 0.5)} == {Attempt("X", 429, 0.5)}
