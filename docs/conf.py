"""How the docs are built: `nox -s docs`, or `sphinx-build -W -n docs docs/_build/html`.

Nothing is fetched: names of other projects are not linked (see `nitpick_ignore_regex`).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isochat import __version__, backends, compare
from isochat.backends._base import EVERYTHING
from isochat.backends.rest import RestBackend

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

    from isochat import ChatResponse, Comparison

project = "isochat"
author = "the isochat authors"
project_copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_generated"]
html_theme = "furo"
html_title = f"isochat {version}"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

nitpicky = True
# `-n` is for our own names. These belong to Python and to the clients, whose docs are not here to be linked.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!isochat\b).*"),
    (r"py:.*", r"isochat(\.\w+)*\._\w+(\.\w+)*"),
    (r"py:class", r"isochat\.transports\.deadline\.Hold"),  # what `hold()` gives is passed on, not used
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88


def backends_table() -> str:
    """The built-in backends, what each needs and can do, as a Markdown table made from their own data."""
    lines = [
        "| name | client | route | asyncio | stream | does not carry | install |",
        "|---|---|---|---|---|---|---|",
    ]
    for backend in backends.available():
        if backend.name in backends.BUILT_IN:
            lacks = sorted(EVERYTHING - backend.carries)
            cells = [
                f"`{backend.name}`",
                backend.client,
                f"`{backend.route}`",
                "yes" if backend.asyncio else "no",
                "yes" if backend.stream else "no",
                ", ".join(f"`{option}`" for option in lacks) or "carries all",
                f"`{backend.install}`",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def screenshots() -> str:
    """A fresh report as pictures, where playwright and a Chromium are at hand; else a line that says so."""
    chromium = os.environ.get("ISOCHAT_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None or importlib.util.find_spec("playwright") is None:
        return "*(These docs were built without a browser, so there is no picture of it here.)*"
    from playwright.sync_api import sync_playwright

    drawn = Path(__file__).parent / "_generated"
    drawn.mkdir(exist_ok=True)
    report = drawn / "report.html"
    report.write_text(a_comparison().to_html(), encoding="utf-8")
    lines = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for part, scheme, shows in (
            ("grid", "light", "The overview: a grid of questions and backends, and what must not differ"),
            ("times", "dark", "The times: every answer as a dot, a row for each backend"),
            ("wire", "light", "The wire: what two clients sent and received, side by side"),
        ):
            window = browser.new_page(viewport={"width": 1000, "height": 640}, color_scheme=scheme)
            window.goto(report.as_uri())
            window.click(f"#tab-{part}")
            if part == "wire":
                window.click("#w0 summary")
            window.screenshot(path=drawn / f"compare-{part}.png")
            lines.append(f"![{shows}](../_generated/compare-{part}.png)")
        browser.close()
    return "\n\n".join(lines)


def a_comparison() -> Comparison:
    """Every backend there is, and one that loses something, on the local endpoint."""

    class Forgetful(RestBackend):
        name = "forgetful"

        def decode(self, reply: Any) -> ChatResponse:
            return replace(super().decode(reply), usage=None)

    for name in ("httpx", "httpx2"):  # Sphinx shows what they log
        logging.getLogger(name).setLevel(logging.WARNING)
    there = [info.name for info in backends.available() if not info.missing and info.name in backends.BUILT_IN]
    questions: list[dict[str, Any]] = [
        {"name": "plain", "messages": "What is a mixture of experts model?"},
        {"name": "streamed", "messages": "What is a mixture of experts model?", "stream": True},
        {"name": "cut short", "messages": "Count to ten.", "max_tokens": 2000, "temperature": 1},
    ]
    asked: list[Any] = ["rest", *(name for name in there if name != "rest"), Forgetful]
    return compare(questions=questions, backends=asked, repeat=20, endpoint="databricks-gpt-5-1", host="local")


# What a page may ask for with `<!-- generated: NAME -->`.
GENERATED = {
    "backends": backends_table,
    "screenshots": screenshots,
}


def fill_in(_app: Sphinx, _page: str, text: list[str]) -> None:
    """Put what is generated where a page asks for it."""
    text[0] = re.sub(r"^<!-- generated: (\w+) -->$", lambda ask: GENERATED[ask[1]](), text[0], flags=re.MULTILINE)


def markdown_to_rst(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Our docstrings are Markdown, autodoc reads reStructuredText: code spans and code blocks are what differs."""
    fenced = False
    made: list[str] = []
    for line in lines:
        if line.lstrip().startswith("```"):
            fenced = not fenced
            language = line.strip().strip("`") or "text"
            made += ["", f".. code-block:: {language}", ""] if fenced else [""]
        elif fenced:
            made.append(f"   {line}")
        else:
            made.append(re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line))
    lines[:] = made


def readable_defaults(  # the arguments are Sphinx's
    _app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A dataclass shows a default that is made anew as `<factory>`, which Sphinx cannot read."""
    return signature and signature.replace("<factory>", "..."), returns


def by_public_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: Element) -> Element | None:
    """An annotation names a class by the module that holds it; the reference has it as `isochat.NAME`."""
    target = node.get("reftarget", "")
    public = f"isochat.{target.rpartition('.')[2]}"
    if node.get("refdomain") != "py" or not target.startswith("isochat.") or target == public:
        return None
    python = env.domains.python_domain
    return python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], public, node, shown)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-docstring", markdown_to_rst)
    app.connect("autodoc-process-signature", readable_defaults)
    app.connect("missing-reference", by_public_name)
