"""The tables of docs/backends.md say what the backends do: they are run again, and compared.

After a change: `python -m isochat.testing.support --into docs/backends.md --suites tests/backends`. The column of a
backend whose client is not installed stays as it is, and the test of it is skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat import BackendNotInstalled, Connection
from isochat.backends import BUILT_IN, load
from isochat.backends.rest import RestBackend
from isochat.local import shared
from isochat.testing import support

if TYPE_CHECKING:
    from isochat import ChatRequest
    from isochat.local import LocalEndpoint

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "backends.md"


@pytest.fixture(scope="session")
def page() -> str:
    if not PAGE.exists():
        pytest.skip("the docs are not beside these tests")
    return PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_page_says_what_a_backend_does(name: str, page: str) -> None:
    """Each cell of its columns is what came of asking through it."""
    try:
        kind = load(name)
    except BackendNotInstalled as error:
        pytest.skip(str(error))
    seen = support.examine(kind(Connection("local")), shared())

    assert seen == support.column(page, name)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_page_says_what_a_backend_departs_from(name: str, page: str) -> None:
    """Each departure of its suite is on the page, with kind and reason, and none that is not in the suite."""
    suite = support.suites(HERE).get(name)
    if suite is None:
        pytest.skip(f"the client of {name!r} is not installed")

    assert support.departures(name, suite) == [
        row for row in support.read(page, "departures") if row["backend"] == name
    ]


def test_the_page_has_a_column_for_each_backend(page: str) -> None:
    """No backend is left out, and none that is gone is kept."""
    for table, labels in (("modes", 1), ("options", 1), ("errors", 3)):
        assert [list(row)[labels:] for row in support.read(page, table)] == [list(BUILT_IN)] * len(
            support.read(page, table)
        )
        assert "?" not in [cell for row in support.read(page, table) for cell in row.values()]


class Careless(RestBackend):
    """Loses one option, renames another, asks twice, and has no door that anybody knows."""

    name = "careless"

    def encode(self, request: ChatRequest) -> Any:
        call = super().encode(request)
        body = call.body.replace(b',"temperature":0.25', b"").replace(b'"seed"', b'"seeds"')
        return type(call)(call.path, call.accept, body)

    def send(self, call: Any, timeout: float) -> Any:
        reply = super().send(call, timeout)
        return super().send(call, timeout) if reply.status == 413 else reply


def test_what_a_backend_does_is_seen(local: LocalEndpoint) -> None:
    """A table is not what a backend says of itself."""
    seen = support.examine(Careless(Connection(local.host, local.token)), local)

    assert set(seen["modes"].values()) == {"✓"}
    assert {row: cell for row, cell in seen["options"].items() if cell != "✓"} == {
        "`temperature`": "lost",
        "`seed`": "✓ as `seeds`",
    }
    assert {row: cell for row, cell in seen["errors"].items() if cell != "✓"} == {"413: plain text": "✓, asked 2 times"}


def test_a_page_keeps_what_nobody_could_look_at(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made anew with no client at all, the page is the same."""
    copy = tmp_path / "backends.md"
    copy.write_text(page, encoding="utf-8")
    monkeypatch.setattr(support.backends, "available", lambda: ())
    support.main(["--into", str(copy), "--suites", str(tmp_path)])

    assert page == copy.read_text(encoding="utf-8")
