"""The report of a comparison: one page of HTML that needs no network, no other file and, to be read, no script.

Charts are drawn by pygal, as SVG whose colours are the page's own variables, so that they follow light and dark.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import platform
import re
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from isochat import _difference as differ
from isochat._compare import VERDICTS
from isochat._version import __version__
from isochat.errors import ConfigurationError, UnsupportedOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from isochat import Asking, ChatResponse, Comparison, Difference
    from isochat.local import Exchange

__all__ = ["page"]

_LONGEST = 6000  # characters of a body that are shown
_LINES = 160
_DOTS = 400  # for each backend: more are drawn as every second, third, … of them
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_CLIENTS: Final = ("openai", "mlflow-skinny", "mlflow", "databricks-sdk", "httpx2", "aiohttp")
_SIGNS: Final = {"same": "✓", "differs": "✗", "varies": "≈", "refused": "-", "failed": "!"}
TIMES: Final = {
    "first_token": "Time to the first token",
    "total": "Time to the whole answer",
    "wire": "On the wire",
    "overhead": "The client's own overhead",
}


def page(comparison: Comparison) -> str:
    """The page. Raises `ConfigurationError` if what draws it is not installed."""
    if missing := [name for name in ("jinja2", "pygal") if find_spec(name) is None]:
        raise ConfigurationError(
            f"the report needs {' and '.join(missing)}, which is not installed",
            hint="Install it with: pip install 'isochat[report]'",
        )
    import jinja2

    source = files("isochat").joinpath("_report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["pretty"] = _pretty
    template = environment.from_string(source)
    script = re.search(r"<script>(.*?)</script>", source, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    return template.render(
        c=comparison,
        policy=f"{_POLICY}; script-src 'sha256-{digest}'",
        signs=_SIGNS,
        verdicts=VERDICTS,
        grid=_grid(comparison),
        charts=_charts(comparison),
        table=_times(comparison),
        faults=_by_question(comparison, comparison.faults()),
        notes=_by_question(comparison, comparison.notes),
        own=_by_question(comparison, [each for each in comparison.wire_differences if each.cause == "own"]),
        wires=_wires(comparison),
        answers=_answers(comparison),
        troubles=_troubles(comparison),
        made_by=_made_by(),
        rounds=1 + max((asking.round for asking in comparison.askings), default=0),
    )


# ── the grid ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _grid(comparison: Comparison) -> list[dict[str, Any]]:
    rows = []
    for place, question in enumerate(comparison.questions):
        cells = [
            {"verdict": comparison.verdict(name, place), "says": _cell_says(comparison, name, place)}
            for name in comparison.backends
        ]
        quiet = all(cell["verdict"] in {"same", "refused", "failed"} for cell in cells)
        rows.append({"question": question, "place": place, "cells": cells, "quiet": quiet})
    return rows


def _cell_says(comparison: Comparison, name: str, place: int) -> str:
    mine = [each for each in comparison.faults() if (each.backend, each.question) == (name, place)]
    if mine:
        return "; ".join(f"{each.where}: {each.reason}" for each in mine)
    error = next((asking.error for asking in comparison.of(name, place) if asking.error is not None), None)
    return "" if error is None else _told(error)


def _told(error: BaseException) -> str:
    it = differ.root(error)
    if isinstance(it, UnsupportedOption):
        return f"cannot carry {it.option}"
    status = getattr(it, "status", None)
    return f"{type(it).__name__}{f' {status}' if status else ''}: {getattr(it, 'message', it)}"


def _by_question(comparison: Comparison, found: Sequence[Difference]) -> list[tuple[Any, list[Difference]]]:
    groups: dict[int, list[Difference]] = {}
    for each in found:
        groups.setdefault(each.question, []).append(each)
    return [(comparison.questions[place], groups[place]) for place in sorted(groups)]


# ── times ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture, and what it shows in words."""

    title: str
    says: str
    svg: str


def _times(comparison: Comparison) -> list[tuple[str, str, list[tuple[str, dict[str, Any]]]]]:
    """Each time, with its distribution for each backend that has one."""
    found = []
    for time, title in TIMES.items():
        rows = [
            (name, summary.to_dict()) for name in comparison.backends if (summary := comparison.summary(name, time))
        ]
        if rows:
            found.append((time, title, rows))
    return found


def _charts(comparison: Comparison) -> list[Chart]:
    drawn = []
    for time in ("first_token", "total"):
        values = {name: summary.values for name in comparison.backends if (summary := comparison.summary(name, time))}
        if values:
            says = (
                "Each dot is one answer, the thick line the middle half of them, the tick the median. "
                "What would lie far to the right stands at the right edge."
            )
            drawn.append(Chart(TIMES[time], says, _strip(TIMES[time], values)))
    stacked = _stacked(comparison)
    return [*drawn, stacked] if stacked else drawn


def _strip(title: str, values: Mapping[str, Sequence[float]]) -> str:
    """Every value as a dot, a row for each backend."""
    pygal = _pygal()
    names = list(values)[::-1]
    # One straggler would press all the others together: it stands at the edge, and its label has its true value.
    edge = 1200 * max(found[int(len(found) * 0.95)] if len(found) >= 10 else found[-1] for found in values.values())
    chart = pygal.XY(
        **_look(len(names)),
        stroke=False,
        dots_size=3,
        xrange=(0, edge),
        show_legend=False,
        show_y_guides=True,
        y_labels=[{"value": place, "label": name} for place, name in enumerate(names)],
        range=(-0.6, len(names) - 0.4),
    )
    dots, spans, medians = [], [], []
    for place, name in enumerate(names):
        found = values[name]
        step = 1 + len(found) // _DOTS
        # Spread over a little height, always the same way, so that equal values can be told apart.
        dots += [
            {
                "value": (min(value * 1000, edge), place + ((n * 7) % 11 - 5) / 22),
                "label": f"{name}: {value * 1000:.2f} ms",
            }
            for n, value in enumerate(found[::step])
        ]
        if len(found) >= 4:
            low, high = (found[int(len(found) * share)] * 1000 for share in (0.25, 0.75))
            spans.append([(low, place), (high, place)])
        middle = found[len(found) // 2] * 1000
        medians.append([(middle, place - 0.3), (middle, place + 0.3)])
    chart.add("answers", dots)
    for span in spans:
        chart.add(None, span, stroke=True, show_dots=False, stroke_style={"width": 7, "linecap": "round"})
    for median in medians:
        chart.add(None, median, stroke=True, show_dots=False, stroke_style={"width": 3})
    colours = ("var(--c1)", *("var(--fg)" for _ in spans), *("var(--c3)" for _ in medians))
    return _svg(chart, title, colours)


def _stacked(comparison: Comparison) -> Chart | None:
    """For each backend, the median of what was spent on the wire and of what was not."""
    pygal = _pygal()
    names = [name for name in comparison.backends if comparison.summary(name, "wire")][::-1]
    if not names:
        return None
    chart = pygal.HorizontalStackedBar(**_look(len(names)), legend_at_bottom=True)
    chart.x_labels = names
    for time, label in (("wire", "on the wire, as recorded"), ("overhead", "the client's own overhead")):
        medians = [summary.median * 1000 if (summary := comparison.summary(name, time)) else 0.0 for name in names]
        chart.add(label, [round(max(0.0, value), 3) for value in medians])
    title = "Client overhead against the wire"
    says = (
        "Medians. The wire is what the recorder saw, from a request's first byte to its reply's last; "
        "the rest is the client and isochat."
    )
    return Chart(title, says, _svg(chart, title, ("var(--c2)", "var(--c1)")))


def _pygal() -> Any:
    """pygal, without the finder of its plug-ins.

    It puts one among the importers of the whole process that knows `find_module` alone: Python 3.11 warns at every
    import that finds nothing, and later ones never call it.
    """
    pygal = import_module("pygal")
    import_module("pygal.style")
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
    return pygal


def _look(rows: int) -> dict[str, Any]:
    return {
        "x_title": "milliseconds",
        "width": 640,
        "height": 110 + 44 * rows,
        "explicit_size": False,
        "js": [],
        "disable_xml_declaration": True,
        "show_x_guides": True,
        "margin": 8,
        "truncate_label": -1,
        "value_formatter": lambda value: f"{value:g}",
    }


def _svg(chart: Any, title: str, colours: tuple[str, ...]) -> str:
    style = _pygal().style
    chart.uuid = "chart-" + re.sub(r"\W+", "-", title.lower())  # a page made twice is the same page
    chart.style = style.Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--fg)",
        foreground_strong="var(--fg)",
        foreground_subtle="var(--dim)",
        colors=colours,
        font_family="inherit",
        label_font_size=14,
        major_label_font_size=14,
        title_font_size=15,
        legend_font_size=14,
        opacity=".75",
        opacity_hover=".9",
        transition="0s",
        guide_stroke_color="var(--line)",
        major_guide_stroke_color="var(--line)",
    )
    drawn: str = chart.render(is_unicode=True)
    drawn = re.sub(r"<!--.*?-->|<script\b.*?</script>", "", drawn, flags=re.DOTALL)
    # To a reader of the screen it is one picture; the numbers stand in the table below.
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _wires(comparison: Comparison) -> list[dict[str, Any]]:
    """For each question, what each backend sent and received beside the reference."""
    found = []
    for place, question in enumerate(comparison.questions):
        first = {name: next(iter(comparison.of(name, place)), None) for name in comparison.backends}
        asked = {name: asking for name, asking in first.items() if asking is not None and asking.exchanges}
        if not asked:
            continue
        reference, *others = asked
        pairs = [
            {"backend": name, "parts": _parts(asked[reference], asked[name]), "count": len(asked[name].exchanges)}
            for name in others or [reference]
        ]
        found.append({"question": question, "place": place, "reference": reference, "pairs": pairs})
    return found


def _parts(theirs: Asking, mine: Asking) -> list[dict[str, Any]]:
    one, other = _shown(theirs), _shown(mine)
    return [
        {"title": title, "rows": list(_side_by_side(left, right))}
        for title, left, right in (
            ("request", [*_head(one), "", *_request(one)], [*_head(other), "", *_request(other)]),
            ("reply", _reply(one), _reply(other)),
        )
    ]


def _shown(asking: Asking) -> Exchange:
    asked = differ.asked(asking.exchanges)
    return asked[-1] if asked else asking.exchanges[-1]


def _head(each: Exchange) -> list[str]:
    headers = sorted((name.lower(), value) for name, value in each.headers)
    return [
        f"{each.method} {each.path}",
        *(f"{name}: {value}" for name, value in headers if name not in differ.TRANSPORT),
    ]


def _request(each: Exchange) -> list[str]:
    return _lines(each.body)


def _reply(each: Exchange) -> list[str]:
    head = [str(each.status) if each.status is not None else "no reply", *([each.error] if each.error else [])]
    kind = each.reply_header("content-type")
    return [*head, *([f"content-type: {kind}"] if kind else []), "", *_lines(each.reply)]


def _lines(data: bytes) -> list[str]:
    """A body as lines: JSON indented, a stream event by event."""
    try:
        text = json.dumps(json.loads(data), ensure_ascii=False, indent=1, sort_keys=True)
    except ValueError:
        text = "\n".join(line for line in data.decode("utf-8", "replace").splitlines() if line)
    cut = text[:_LONGEST].splitlines()[:_LINES]
    left = len(text) - sum(map(len, cut)) - len(cut)
    return [*cut, f"… {left} more characters"] if left > 1 else cut


def _side_by_side(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Stretches of lines: whether they are `same` or `changed`, and both sides of them."""
    for tag, a, b, c, d in difflib.SequenceMatcher(a=left, b=right, autojunk=False).get_opcodes():
        yield "same" if tag == "equal" else "changed", "\n".join(left[a:b]), "\n".join(right[c:d])


# ── answers, errors, versions ────────────────────────────────────────────────────────────────────────────────────


def _answers(comparison: Comparison) -> list[dict[str, Any]]:
    """For each question, what was said, by whom, and what each told beside it."""
    found = []
    for place, question in enumerate(comparison.questions):
        alike: dict[str, list[str]] = {}
        facts, refused = [], []
        for name in comparison.backends:
            for asking in comparison.of(name, place)[:1]:
                if comparison.verdict(name, place) == "refused":
                    refused.append((name, _what(asking)))
                    continue
                alike.setdefault(_what(asking), []).append(name)
                if asking.response is not None:
                    facts.append((name, _facts(asking.response)))
        said = [(names, text) for text, names in alike.items()]
        row = {"question": question, "place": place, "alike": said, "facts": facts, "refused": refused}
        found.append(row)
    return found


def _what(asking: Asking) -> str:
    """The words, the tool calls and the refusal; or why there are none."""
    if asking.response is None:
        return _told(asking.error) if asking.error is not None else ""
    said = differ.normal(asking.response)
    told = {name: said.get(name) for name in said if name in {"tool_calls", "refusal"} or name.startswith("choices[")}
    others = _pretty(told) if any(told.values()) else ""
    return "\n".join(filter(None, (str(said.get("text") or ""), others)))[:_LONGEST]


def _facts(answer: ChatResponse) -> list[str]:
    usage = answer.usage
    counts = "-" if usage is None else f"{usage.prompt_tokens} + {usage.completion_tokens}"
    return [answer.finish_reason or "-", counts, answer.model or "-", answer.reasoning or "-"]


def _troubles(comparison: Comparison) -> list[dict[str, Any]]:
    """Each asking that failed or was tried more than once, request by request."""
    found = []
    for asking in comparison.askings:
        failed = asking.error is not None and not asking.refused
        if failed or asking.attempts > 1 or len(differ.asked(asking.exchanges)) > 1:
            begun = asking.exchanges[0].began if asking.exchanges else 0.0
            steps = [
                {
                    "at": (each.began - begun) * 1000,
                    "took": each.duration * 1000,
                    "what": f"{each.method} {each.path.partition('?')[0]}",
                    "status": each.status if each.status is not None else "no reply",
                    "error": each.error,
                    "after": each.reply_header("retry-after"),
                }
                for each in asking.exchanges
            ]
            error = "" if asking.error is None else _told(asking.error)
            question = comparison.questions[asking.question]
            found.append({"asking": asking, "question": question, "steps": steps, "error": error})
    return found


def _made_by() -> list[tuple[str, str]]:
    there = [("isochat", __version__), ("Python", platform.python_version()), ("system", platform.system())]
    for name in _CLIENTS:
        try:
            there.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return there


def _pretty(value: Any) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1, default=str)
