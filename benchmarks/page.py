"""The figures as a page of the docs, with plots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

TITLES = {
    "call": "CPU time of a blocking question",
    "call, wall time": "Wall time of a blocking question",
    "1 in flight, CPU": "CPU time of an awaited question",
    "64 in flight, requests a second": "Questions a second, 64 in flight",
    "1000 in flight, requests a second": "Questions a second, 1,000 in flight",
    "streamed chunk": "CPU time of a streamed chunk",
    "streamed chunk, asyncio": "CPU time of a streamed chunk, awaited",
    "time to first chunk": "Time to the first chunk",
    "cold start": "CPU time of a process of its own",
    "import": "CPU time of an import",
}
PLOTTED = {"call": "performance-call.svg", "streamed chunk": "performance-chunk.svg"}

HEAD = """# Performance

What isochat costs beside the clients, and beside a bare socket.
`nox -s bench` measures it and writes this page; `nox -s bench -- --quick` takes a few minutes.

Only ratios mean anything: every figure is the median of the ratio of two turns of the same round, with the quartiles of the rounds in brackets.
The server is bare, in a process of its own, on the same machine.
CPU time is that of the whole process, its threads included.

"""

PROFILE = """
## Find out where the time goes

```bash
python benchmarks/server.py &                                    # prints its port, serves until its input ends
python -m cProfile -s tottime benchmarks/hot_path.py PORT | head -40
```
"""


def write(found: dict[str, Any], page: Path) -> None:
    """The page, and its plots beside it."""
    ran = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    parts = [HEAD, f"Measured with {ran}, on {found['cores']} cores{', quickly' if found['quick'] else ''}.\n"]
    if found.get("again"):
        parts.append(f"Measured again, in a run of its own: {', '.join(found['again'])}.\n")
    if found["promises"]:
        parts += [_promises(found["promises"]), _bounds(found)]
    for part, title in TITLES.items():
        if part not in found:
            continue
        parts.append(_table(title, found[part]))
        if part in PLOTTED:
            (page.parent / PLOTTED[part]).write_text(_plot(title, found[part]))
            parts.append(f"\n![{title}]({PLOTTED[part]})\n")
    parts += [_instructions(found), _latency(found), _facade(found), _memory(found), _growth(found), PROFILE]
    page.write_text("".join(parts))


def _promises(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| {row['what']} | {row['promised']} | {row['value']:.2f} | {'yes' if row['kept'] else '**no**'} |"
        for row in rows
    ]
    return "\n## What is promised\n\n| | promised | measured | kept |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"


def _bounds(found: dict[str, Any]) -> str:
    """What a transport that stands on pyreqwest cannot do better than."""
    call, chunk = (found.get(part, {}).get("rows", {}) for part in ("call", "streamed chunk"))
    if not {"pyreqwest", "openai"} <= call.keys() & chunk.keys():
        return ""
    alone = call["pyreqwest"]["ratio"]
    said = [f"the openai client {call['openai']['ratio'] / alone:.1f} times that"]
    if "litellm" in call:
        said.append(f"litellm {call['litellm']['ratio'] / alone:.1f} times that")
    return (
        "\n`rest` by pyreqwest cannot cost less than pyreqwest, which by itself, with orjson and nothing of isochat's,\n"
        f"took {alone:.2f} times the raw socket for a question here; {', '.join(said)};\n"
        f"and the openai client {chunk['openai']['ratio']:.1f} times as much as pyreqwest for a chunk.\n"
    )


def _rows(part: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    return sorted(part["rows"].items(), key=lambda row: row[1].get("ratio", row[1]["median"]))


def _table(title: str, part: dict[str, Any]) -> str:
    unit = "a second" if part["figure"] == "rps" else "µs"
    scale = 1 if part["figure"] == "rps" else 1e6
    lines = [f"\n## {title}\n", f"| | × {part['to']} | | {unit} here |", "|---|---|---|---|"]
    for name, row in _rows(part):
        ratio = f"{row['ratio']:.2f} | ({row['low']:.2f} to {row['high']:.2f})" if "ratio" in row else " | "
        lines.append(f"| {name} | {ratio} | {row['median'] * scale:,.0f} |")
    return "\n".join(lines) + "\n"


def _latency(found: dict[str, Any]) -> str:
    if "added latency" not in found:
        return ""
    lines = ["\n## Latency added to the raw socket's\n", "| | p50, µs | p99, µs |", "|---|---|---|"]
    for name, row in sorted(found["added latency"].items(), key=lambda row: row[1]["p50"]):
        lines.append(f"| {name} | {row['p50'] * 1e6:,.0f} | {row['p99'] * 1e6:,.0f} |")
    return "\n".join(lines) + "\n"


def _facade(found: dict[str, Any]) -> str:
    if not found.get("facade"):
        return ""
    lines = [
        "\n## What `query_chat` adds to a client's own CPU\n",
        "| client | × the client alone | |",
        "|---|---|---|",
    ]
    for name, row in found["facade"].items():
        lines.append(f"| {name} | {row['ratio']:.2f} | ({row['low']:.2f} to {row['high']:.2f}) |")
    return "\n".join(lines) + "\n"


def _instructions(found: dict[str, Any]) -> str:
    if not found.get("instructions"):
        return ""
    taken, over = found["instructions"], found["facade in instructions"]
    floor = taken.get("raw socket")
    lines = [
        "\n## Instructions of a blocking question\n",
        "Counted by valgrind: they do not waver. The kernel's are not among them.\n",
        "| | thousands | × raw socket | × the client alone |",
        "|---|---|---|---|",
    ]
    for name, count in sorted(taken.items(), key=lambda row: row[1]):
        alone = over.get(name.removeprefix("isochat ")) if name.startswith("isochat ") else None
        floors = f"{count / floor:.1f}" if floor else ""
        lines.append(f"| {name} | {count / 1000:,.0f} | {floors} | {'' if alone is None else f'{alone:.3f}'} |")
    return "\n".join(lines) + "\n"


def _memory(found: dict[str, Any]) -> str:
    if "memory after import" not in found:
        return ""
    held = found["memory of an open stream"]
    lines = ["\n## Memory\n", "| | MB after the import | KB an open stream |", "|---|---|---|"]
    for name, size in sorted(found["memory after import"].items(), key=lambda row: row[1]):
        stream = f"{held[name] / 1024:,.0f}" if name in held else ""
        lines.append(f"| {name} | {size / 2**20:,.1f} | {stream} |")
    return "\n".join(lines) + "\n"


def _growth(found: dict[str, Any]) -> str:
    if not found.get("growth by questions") or not found.get("growth by messages"):
        return ""
    grown, costs = found["growth by questions"], found["growth by messages"]["cpu"]
    lines = [
        "\n## Growth\n",
        f"The last questions of a long run cost {grown['ratio']:.2f} times what the first did,",
        f"and {grown['bytes'] / 1024:,.0f} KB of memory stay.\n",
        "| messages | µs a question here | µs a message |",
        "|---|---|---|",
    ]
    lines += [f"| {int(n):,} | {cost * 1e6:,.0f} | {cost * 1e6 / int(n):,.1f} |" for n, cost in costs.items()]
    return "\n".join(lines) + "\n"


def _plot(title: str, part: dict[str, Any]) -> str:
    """Bars on a logarithmic scale, with the quartiles as a line."""
    rows = [(name, row) for name, row in _rows(part) if "ratio" in row]
    most = max(math.log10(max(row["high"], 1.1)) for _, row in rows)
    least = min(0.0, *(math.log10(row["low"]) for _, row in rows))
    left, width, height = 190, 430, 22

    def x(ratio: float) -> float:
        return left + (math.log10(ratio) - least) / (most - least) * width

    bars = []
    for place, (name, row) in enumerate(rows):
        y = 40 + place * height
        colour = "#2a7" if name.startswith("isochat") else "#99a"
        bars.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{name}</text>')
        bars.append(
            f'<rect x="{left}" y="{y}" width="{max(x(row["ratio"]) - left, 1):.1f}" height="15" fill="{colour}"/>'
        )
        bars.append(
            f'<line x1="{x(row["low"]):.1f}" x2="{x(row["high"]):.1f}" y1="{y + 7.5}" y2="{y + 7.5}" stroke="#333"/>'
        )
        bars.append(f'<text x="{x(row["high"]) + 6:.1f}" y="{y + 12}">{row["ratio"]:.2f}</text>')
    tall = 50 + len(rows) * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="700" height="{tall}" font-family="sans-serif" font-size="12" '
        f'fill="#777"><text x="10" y="20" font-size="14">{title}, × {part["to"]} (logarithmic)</text>'
        + "".join(bars)
        + "</svg>\n"
    )
