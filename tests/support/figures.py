"""What a run of the fault matrix came to: printed at its end, and written into docs/reliability.md when asked to."""

from __future__ import annotations

import platform
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fault_table import BEHIND, FAULTS, MODES

from isochat.backends import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: What the warehouse's own faults are beside: those of the model that it asks.
WAREHOUSE = "ai-query, behind its warehouse"
#: The clients that the figures were got with.
CLIENTS = ("openai", "httpx2", "databricks-sdk", "mlflow-skinny", "requests")
_BLOCK = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)
_KEPT = frozenset({"passed"})
_NOT_RUN = frozenset({"skipped"})


@dataclass(frozen=True)
class Cell:
    """One question, and what became of the promise."""

    backend: str
    mode: str
    fault: str
    #: As pytest says it: passed, failed, error, skipped, xfailed.
    became: str
    #: Seconds after its deadline that it ended; less than nothing for most.
    late: float | None


def expected() -> Counter[tuple[str, str]]:
    """How many cells there must be, by backend and mode."""
    cells = Counter({(backend, mode): len(FAULTS) for backend in BUILT_IN for mode in MODES})
    return cells + Counter({(WAREHOUSE, mode): len(BEHIND) for mode in MODES[:2]})


def cells(stats: Mapping[str, Any]) -> list[Cell]:
    """The cells among the reports of a run."""
    found: dict[tuple[str, str, str], Cell] = {}
    for became in ("passed", "skipped", "xfailed", "xpassed", "failed", "error"):
        for report in stats.get(became, ()):
            said = dict(getattr(report, "user_properties", ()))
            if "cell" in said:
                seconds = said.get("seconds")
                late = None if seconds is None else seconds[0] - seconds[1]
                found[tuple(said["cell"])] = Cell(*said["cell"], became, late)
    return list(found.values())


def told(found: list[Cell]) -> list[str]:
    """The size of the matrix and its result, in lines."""
    whole, ran, became = expected(), Counter((c.backend, c.mode) for c in found), Counter(c.became for c in found)
    kept = Counter((cell.backend, cell.mode) for cell in found if cell.became in _KEPT)
    broken = became["failed"] + became["error"] + became["xpassed"]
    lines = [
        f"{size()}: {whole.total()} cells, {ran.total()} of them in this run",
        f"{kept.total()} as promised, {broken} not, {became['xfailed']} known to depart, {became['skipped']} not run",
        f"{'':32}" + "".join(f"{mode:>14}" for mode in MODES),
    ]
    for backend in [*sorted(BUILT_IN), WAREHOUSE]:
        each = [f"{kept[backend, mode]}/{ran[backend, mode]}" if ran[backend, mode] else "-" for mode in MODES]
        lines.append(f"{backend:32}" + "".join(f"{one:>14}" for one in each))
    if (latest := _latest(found)) is not None:
        lines.append(f"the latest end of all: {_late(latest)} ({latest.backend}, {latest.mode}, {latest.fault})")
    return lines


def written(page: Path, found: list[Cell]) -> None:
    """Put the figures of this run where the page has those of the last. Raises ValueError for half a run."""
    ran = Counter((cell.backend, cell.mode) for cell in found if cell.became not in _NOT_RUN)
    if ran != expected():
        raise ValueError("figures are of a whole run, with every client there")
    text = page.read_text(encoding="utf-8")
    page.write_text(_BLOCK.sub(lambda block: block[1] + table(found) + block[2], text), encoding="utf-8")


def table(found: list[Cell]) -> str:
    """The figures in Markdown."""
    kept = Counter((cell.backend, cell.mode) for cell in found if cell.became in _KEPT)
    whole = expected()
    lines = [
        f"{size()}: {whole.total()} cells, and {kept.total()} ended as promised.",
        "",
        f"| cells as promised | {' | '.join(MODES)} |",
        f"|---|{'---|' * len(MODES)}",
    ]
    for backend in [*sorted(BUILT_IN), WAREHOUSE]:
        each = (f"{kept[backend, mode]} of {whole[backend, mode]}" if whole[backend, mode] else "-" for mode in MODES)
        lines.append(f"| {backend} | {' | '.join(each)} |")
    if (latest := _latest(found)) is not None:
        cell = f"{latest.backend}, {latest.mode}, {latest.fault}"
        lines += ["", f"The latest end of a question was {_late(latest)} ({cell})."]
    return "\n".join([*lines, "", _circumstances(), ""])


def size() -> str:
    """How large the matrix is, in words."""
    general = f"{len(FAULTS)} faults x {len(BUILT_IN)} backends x {len(MODES)} modes"
    return f"{general}, and {len(BEHIND)} x 2 behind a warehouse"


def _latest(found: list[Cell]) -> Cell | None:
    timed = [cell for cell in found if cell.late is not None]
    return max(timed, key=lambda cell: cell.late or 0.0) if timed else None


def _late(cell: Cell) -> str:
    late = cell.late or 0.0
    return f"{abs(late):.2f} s {'after' if late > 0 else 'before'} its deadline"


def _circumstances() -> str:
    there = [f"{name} {found}" for name in CLIENTS if (found := _version(name))]
    day = datetime.now(UTC).date().isoformat()
    return f"{day}, Python {platform.python_version()}, {platform.system()}, {', '.join(there)}."


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
