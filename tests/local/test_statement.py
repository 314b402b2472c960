"""What the local endpoint says of itself is true, and the documentation says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import isochat.local
from isochat.local import QUIRKS, statement, tables

ROOT = Path(__file__).parents[2]


def test_the_documentation_has_the_generated_tables() -> None:
    """docs/local.md holds what `isochat.local.tables()` gives; run that again after changing a row."""
    if not (ROOT / "docs/local.md").exists():
        pytest.skip("the documentation is not here: these tests run against the wheel")
    page = (ROOT / "docs/local.md").read_text(encoding="utf-8")
    assert page.partition("<!-- generated -->\n")[2].partition("<!-- /generated -->")[0].strip() == tables().strip()


def test_it_says_what_it_is(asking: Any) -> None:
    """The statement it serves is the one in the package, for the endpoints it has."""
    said = asking.get("/.isochat")
    assert said == statement(asking.local.endpoints)
    assert said["endpoints"] == statement()["endpoints"]
    assert "Nothing here reaches Databricks" in said["what"]


def test_every_quirk_switches_something() -> None:
    """A row that no code asks for is idle; a name in the code that no row has would always be false."""
    folder = Path(isochat.local.__file__).parent
    code = {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.py")}
    asked = set(re.findall(r'\.has\(\s*"([^"]+)"', "".join(code.values())))
    assert asked <= set(QUIRKS)
    by_their_row = {q.id for q in QUIRKS.values() if q.refuses or q.limit}
    assert set(QUIRKS) == asked | by_their_row


def test_everything_it_says_it_emulates_is_there(asking: Any) -> None:
    """No path of the statement answers that it is not emulated."""
    for row in statement()["emulated"]:
        path = row["path"].replace("{name}", "agent-chat").replace("{model}", "m")
        status, _, body = asking.request(row["method"], path, b"{}" if row["method"] == "POST" else None)
        assert b"does not emulate" not in body + b"No API found", path
        assert status in {200, 400}, path
