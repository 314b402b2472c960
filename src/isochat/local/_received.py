"""What arrived, for a test to look at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Headers", "Received", "masked", "without_secret"]

_SECRET = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-databricks-azure-sp-management-token",
        "x-databricks-ai-gateway-token",
    }
)


class Headers(Mapping[str, str]):
    """Headers as they arrived; looking one up does not mind upper and lower case."""

    __slots__ = ("_found", "items_in_order")

    def __init__(self, items: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> None:
        #: Every header line, repeated ones as well.
        self.items_in_order: list[tuple[str, str]] = [(k, masked(k, v)) for k, v in items]
        self._found: dict[str, tuple[str, str]] = {}
        for key, value in self.items_in_order:
            self._found.setdefault(key.lower(), (key, value))

    def __getitem__(self, name: str) -> str:
        return self._found[name.lower()][1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._found

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._found.values())

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"Headers({self.items_in_order!r})"


def masked(name: str, value: str) -> str:
    """A header's value; of a secret only the scheme of an Authorization is left."""
    if name.lower() not in _SECRET:
        return value
    scheme, space, _ = value.partition(" ")
    return f"{scheme} ***" if space and name.lower().endswith("authorization") else "***"


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    method: str
    #: As sent: still percent-encoded, without the query.
    path: str
    query: Mapping[str, str]
    #: Case-insensitive; the Authorization's credential is masked.
    headers: Headers
    body: bytes = field(repr=False)
    #: Whether it came with a token this endpoint accepts (or needed none).
    authorized: bool
    #: `time.monotonic()` when its body was complete.
    at: float
    #: Whether it was a chat question.
    question: bool = False

    @property
    def json(self) -> Any:
        """The body as JSON, or None when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def without_secret(body: bytes) -> bytes:
    """A form's bytes with its client secret masked."""
    return re.sub(rb"(client_secret=)[^&]*", rb"\1***", body)
