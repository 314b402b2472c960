"""What the backends were held to, as a grid at the end of a test run: `pytest -p isochat.testing.grid`.

A line is a scenario of `isochat.testing.conformance`, a column a backend, and the marks of a cell are the four modes:
blocking, asyncio, stream, async stream. Below stands each departure with its reason. It is whole under pytest-xdist
too. `--isochat-grid FILE` writes the same as JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

_MARKS = {
    "passed": ("✓", "holds"),
    "never": ("-", "never"),
    "notyet": ("~", "not yet"),
    "notimpl": ("!", "not implemented"),
    "skipped": ("s", "skipped"),
    "failed": ("✗", "fails"),
}
_DEPARTURES = {"never", "notyet", "notimpl"}
_PARTLY = ("½", "holds in part")
_ANY_MODE = ""  # the place of a scenario that is not asked in modes


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--isochat-grid`."""
    parser.addoption("--isochat-grid", metavar="FILE", help="write the grid to FILE, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty grid."""
    config.pluginmanager.register(_Grid(), "isochat-grid")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say in a report which cell of the grid it is about."""
    report = yield
    suite: Any = sys.modules.get("isochat.testing.conformance")
    if suite is None or not isinstance(item, pytest.Function) or not issubclass(item.cls or object, suite.BackendTests):
        return report
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    departure = item.stash.get(suite.DEPARTED, None)
    report.isochat = {  # type: ignore[attr-defined]
        "scenario": item.originalname.removeprefix("test_"),
        "of_its_own": not hasattr(suite.BackendTests, item.originalname),
        "backend": item.stash.get(suite.ASKED, None),
        "suite": item.cls.__name__,
        "mode": next((mode for mode in suite.MODES if mode in parameters), _ANY_MODE),
        "kind": departure and departure.kind,
        "reason": departure and departure.reason,
    }
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Count departures by themselves: each is told below the grid, and no other expected failure is lost among them."""
    about = getattr(report, "isochat", None)
    return ("departed", "d", "DEPARTED") if about and _result(report, about) in _DEPARTURES else None


class _Grid:
    """The results of a run, of all its processes."""

    def __init__(self) -> None:
        self.results: dict[tuple[str, str, str], Counter[str]] = {}
        self.departures: dict[tuple[str, str, str], dict[str, None]] = {}
        self.left_out: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in one result."""
        about = getattr(report, "isochat", None)
        if about is None or about["of_its_own"] or (result := _result(report, about)) is None:
            return
        backend = about["backend"]
        if backend is None:  # it could not even be made
            self.left_out[about["suite"]] = _said(report)
            return
        self.results.setdefault((about["scenario"], backend, about["mode"]), Counter())[result] += 1
        if result == about["kind"]:
            self.departures.setdefault((backend, result, about["reason"]), {})[about["scenario"]] = None

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Print it, and write it if that is asked for."""
        if not self.results:
            return
        if file := config.getoption("--isochat-grid"):
            Path(file).write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        terminalreporter.section("what the backends were held to: blocking, asyncio, stream, async stream")
        for line in self.lines():
            terminalreporter.write_line(line)

    def as_json(self) -> dict[str, Any]:
        """How often each result came, by scenario, backend and mode; and the departures."""
        counts: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
        for scenario in self.scenarios():
            for backend in self.backends():
                modes = {
                    mode: dict(results)
                    for mode in (_ANY_MODE, *_modes())
                    if (results := self.results.get((scenario, backend, mode)))
                }
                if modes:
                    counts.setdefault(scenario, {})[backend] = modes
        return {
            "scenarios": counts,
            "departures": [
                {"backend": backend, "kind": kind, "reason": reason, "scenarios": sorted(scenarios)}
                for (backend, kind, reason), scenarios in sorted(self.departures.items())
            ],
            "left_out": self.left_out,
        }

    def lines(self) -> list[str]:
        """The grid, what its marks mean, and the departures."""
        scenarios, backends = self.scenarios(), self.backends()
        first = max(map(len, scenarios))
        widths = [max(len(backend), len(_modes())) for backend in backends]

        def line(name: str, cells: list[str]) -> str:
            placed = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
            return "  ".join([name.ljust(first), *placed]).rstrip()

        rows = {scenario: [self.cell(scenario, backend) for backend in backends] for scenario in scenarios}
        used = {mark for cells in rows.values() for cell in cells for mark in cell}
        meant = ", ".join(f"{mark} {words}" for mark, words in [*_MARKS.values(), _PARTLY] if mark in used)
        return [
            line("", backends),
            *(line(scenario, cells) for scenario, cells in rows.items()),
            "",
            meant,
            *(
                f"{backend}: {kind}: {reason} ({_listed(scenarios)})"
                for (backend, kind, reason), scenarios in sorted(self.departures.items())
            ),
            *(f"{suite}: left out: {why}" for suite, why in sorted(self.left_out.items())),
        ]

    def cell(self, scenario: str, backend: str) -> str:
        """A mark for each mode."""
        if found := self.results.get((scenario, backend, _ANY_MODE)):
            return _mark(found)
        return "".join(_mark(self.results.get((scenario, backend, mode))) for mode in _modes()).rstrip()

    def backends(self) -> list[str]:
        """Those that were asked."""
        return sorted({backend for _, backend, _ in self.results})

    def scenarios(self) -> list[str]:
        """Those that were run, in the order of the suite."""
        from isochat.testing.conformance import BackendTests

        order = [name.removeprefix("test_") for name in vars(BackendTests)]
        return sorted({scenario for scenario, _, _ in self.results}, key=order.index)


def _modes() -> tuple[str, ...]:
    from isochat.testing.conformance import MODES

    return MODES


def _result(report: pytest.TestReport, about: dict[str, Any]) -> str | None:
    """What this report settles; None if it settles nothing, as a fixture does that went well."""
    if report.failed:
        return "failed"
    if report.skipped:
        return str(about["kind"]) if hasattr(report, "wasxfail") and about["kind"] else "skipped"
    return "passed" if report.when == "call" else None


def _listed(scenarios: Collection[str]) -> str:
    return ", ".join(sorted(scenarios)) if len(scenarios) < 4 else f"{len(scenarios)} scenarios"


def _said(report: pytest.TestReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext


def _mark(found: Counter[str] | None) -> str:
    if not found:
        return " "
    for worst in ("failed", "skipped"):
        if found[worst]:
            return _MARKS[worst][0]
    return _MARKS[next(iter(found))][0] if len(found) == 1 else _PARTLY[0]
