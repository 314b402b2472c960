"""The page of promises names tests that there are, and shows figures of the matrix that there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import figures
import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
AGAIN = "write them anew: python3 -m pytest -n 2 tests/faults --figures docs/reliability.md"


@pytest.fixture
def page() -> str:
    if not PAGE.exists():
        pytest.skip("the docs are not beside these tests")
    return PAGE.read_text(encoding="utf-8")


def names(path: Path) -> set[str]:
    """What a file of tests defines: its functions, its classes, and their methods."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}::{inner.name}" for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)}
    return found


def test_each_promise_has_its_test(page: str) -> None:
    """Every row of a table of promises names a test, and every test that is named is there."""
    rows = re.findall(
        r"^\| (?!promise|---|cells)(.+?) \| (.+?) \|$", page.partition("## The last run")[0], re.MULTILINE
    )
    named = {test for _, kept_by in rows for test in re.findall(r"`([^`]+)`", kept_by)}

    assert rows
    assert [] == [promise for promise, kept_by in rows if "::" not in kept_by]
    assert [] == sorted(
        test
        for test in named
        if not (ROOT / test.partition("::")[0]).exists()
        or test.partition("::")[2] not in names(ROOT / test.partition("::")[0])
    )


def test_the_figures_are_of_this_matrix(page: str) -> None:
    """A fault, a backend or a mode that came or went is in them, and every cell is as promised."""
    shown = page.partition("<!-- figures -->")[2].partition("<!-- /figures -->")[0]
    rows = {
        row[0]: row[1:] for row in re.findall(r"^\| ([a-z][^|]+) \|" + r" ([^|]+) \|" * 4 + "$", shown, re.MULTILINE)
    }
    rows.pop("cells as promised", None)
    cells = figures.expected()

    assert figures.size() in shown, AGAIN
    assert rows == {
        backend: tuple(f"{cells[backend, mode]} of {cells[backend, mode]}" if cells[backend, mode] else "-"
                       for mode in figures.MODES)
        for backend in dict.fromkeys(backend for backend, _ in cells)
    }, AGAIN  # fmt: skip
