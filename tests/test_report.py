"""The report is one page that needs nothing else, holds no secret, and can be read by anybody."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp", reason="the recorder needs aiohttp: pip install 'isochat[local]'")
pytest.importorskip("jinja2", reason="the report needs jinja2: pip install 'isochat[report]'")
pytest.importorskip("pygal", reason="the report needs pygal: pip install 'isochat[report]'")

from isochat import Comparison, ConfigurationError, Retry, _report, compare
from isochat.backends.rest import RestBackend
from isochat.local import LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_report._pygal()  # its finder goes again before another test imports anything

LLAMA = "databricks-meta-llama-3-3-70b-instruct"
EVIL = "</pre><script>alert('evil')</script><img src=x onerror=alert(1)> {{ 7 * 7 }} & \"quotes\""


class Forgetful(RestBackend):
    """It loses the usage, and cannot carry `seed`."""

    name = "forgetful"
    carries = RestBackend.carries - {"seed"}

    def decode(self, reply: Any) -> Any:
        return replace(super().decode(reply), usage=None)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Everything that a report can show: differences, refusals, errors, retries, streams, rounds, awkward texts."""
    questions = [
        {"messages": "What is a mixture of experts model?", "name": "plain"},
        {"messages": "What is a mixture of experts model?", "name": "streamed", "stream": True},
        {"messages": EVIL, "name": EVIL},
        {"messages": "with a seed", "seed": 1, "name": "seed"},
        {"messages": "busy", "name": "busy"},
        {"messages": "fails", "name": "fails"},
    ]
    script = [
        {"when": {"contains": "busy"}, "fault": {"status": 503, "retry_after": 0}, "times": 1},
        {"when": {"contains": "fails"}, "fault": {"status": 400, "message": "No."}},
    ]
    with LocalEndpoint(script) as local:
        return compare(
            questions=questions,
            backends=["rest", Forgetful],
            repeat=5,
            endpoint=LLAMA,
            host=local.host,
            token=local.token,
            retry=Retry(attempts=3, first_wait=0.0),
        )


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    return comparison.to_html()


class Parts(HTMLParser):
    """What a page refers to, and what of it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.refers: list[str] = []
        self.runs = 0
        self.policy = ""
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.runs += tag == "script"
        self.refers += [f"{tag} {k}={v}" for k, v in attrs if k in {"href", "src", "xlink:href", "action", "data"}]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""
        self.handlers += [k for k, _ in attrs if k.startswith("on")]


def test_it_refers_to_nothing_else(page: str) -> None:
    """No address but those of its own parts, one script, no handler; the policy allows no more."""
    parts = Parts()
    parts.feed(page)

    assert [] == [each for each in parts.refers if not re.fullmatch(r"a href=#\w+", each)]
    assert (1, []) == (parts.runs, parts.handlers)
    assert parts.policy.startswith("default-src 'none'; style-src 'unsafe-inline'; ")
    assert parts.policy.count("script-src 'sha256-") == 1
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert set(re.findall(r"https?://[\w.]+", page)) <= {"http://www.w3.org", "http://127.0.0.1"}


def test_what_a_model_says_is_text(page: str) -> None:
    """Markup in a question or an answer is shown, not obeyed; neither is a template in it."""
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(&#39;evil&#39;)" in page
    assert "{{ 7 * 7 }}" in page


def test_it_shows_everything(page: str, comparison: Comparison) -> None:
    """The grid, what differs, the numbers, the pictures, the wire, errors and retries."""
    assert page.count('<td class="cell">') == 12
    assert comparison.headline() in page
    assert "usage came over the wire and is not in the answer" in page
    assert "cannot carry seed" in page
    assert page.count('<svg role="img"') == 3
    for title in ("Time to the first token", "Time to the whole answer", "Client overhead against the wire"):
        assert f'aria-label="{title}"' in page
    assert "POST /serving-endpoints/" in page
    assert "Bearer ***" in page
    assert "RequestRefused 400: No." in page
    assert re.search(r"rest, busy, round 1: 2 attempts", page)


def test_it_is_the_same_page_twice_and_small(page: str, comparison: Comparison) -> None:
    """It has nothing of chance in it, and sixty askings take less than a quarter of a megabyte."""
    assert page == comparison.to_html()
    assert len(page.encode()) < 250_000


def test_an_empty_report_is_a_page_too(comparison: Comparison) -> None:
    """Where nobody could be asked there is nothing to draw, and it says so."""
    nobody = tuple(asking for asking in comparison.askings if asking.refused)
    page = replace(comparison, askings=nobody, differences=(), wire_differences=(), notes=()).to_html()

    assert "nobody could be asked" in page
    assert "Nothing was answered." in page


def test_without_what_draws_it_it_says_what_to_install(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is an extra."""
    monkeypatch.setattr(_report, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"isochat\[report\]"):
        comparison.to_html()


# ── in a browser ─────────────────────────────────────────────────────────────────────────────────────────────────


def chromium() -> str | None:
    """The Chromium of this machine, or the one that ISOCHAT_CHROMIUM names."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return CHROMIUM or next(filter(None, map(shutil.which, names)), None)


CHROMIUM = os.environ.get("ISOCHAT_CHROMIUM")  # before the tests' own environment takes its place


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium on this machine (ISOCHAT_CHROMIUM names one elsewhere)")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


class Opened:
    """The report in a window, and what the browser complained of."""

    def __init__(self, browser: Any, path: Path, **said: Any) -> None:
        self.window = browser.new_page(**said)
        self.complaints: list[str] = []
        self.window.on("console", lambda message: self.complaints.append(message.text))
        self.window.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.window.on("request", self._asked)
        self.window.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.window.goto(path.as_uri())

    def _asked(self, request: Any) -> None:
        if not request.url.startswith("file:"):
            self.complaints.append(f"asks for {request.url}")

    def shown(self) -> list[str]:
        """The parts that can be seen."""
        return self.window.eval_on_selector_all("section", "all => all.filter(e => !e.hidden).map(e => e.id)")


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


PARTS = ["grid", "times", "answers", "wire", "errors", "about"]


@pytest.mark.chromium
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(browser: Any, file: Path, scheme: Any, width: int) -> None:
    """Each part, on a phone and a screen, light and dark: no complaint, nothing cut off, nothing that axe finds."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    opened = Opened(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme)
    window = opened.window
    try:
        assert window.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)"
        )
        for part in PARTS:
            window.click(f"#tab-{part}")
            window.evaluate("id => document.querySelectorAll(`#${id} details`).forEach(e => { e.open = true })", part)

            assert opened.shown() == [part]
            assert window.evaluate("document.documentElement.scrollWidth") <= width
            found = axe.run(window).response["violations"]
            assert [] == [(each["id"], each["nodes"][0]["html"]) for each in found]
        assert [] == opened.complaints
    finally:
        window.close()


@pytest.mark.chromium
def test_tabs_and_toggles_work(browser: Any, file: Path) -> None:
    """By mouse, by keyboard and by address; toggles say whether they are on."""
    opened = Opened(browser, file, viewport={"width": 1280, "height": 800}, color_scheme="light")
    window = opened.window
    try:
        assert opened.shown() == ["grid"]
        window.click("#tab-times")
        assert opened.shown() == ["times"]
        window.keyboard.press("ArrowRight")
        assert opened.shown() == ["answers"]
        window.keyboard.press("End")
        assert opened.shown() == ["about"]
        window.keyboard.press("ArrowRight")
        assert opened.shown() == ["grid"]
        assert window.get_attribute("#tab-grid", "aria-selected") == "true"

        rows = window.locator("#grid tbody tr:visible")
        assert rows.count() == 6
        window.click("#quiet")
        assert rows.count() == 3
        assert window.get_attribute("#quiet", "aria-pressed") == "true"
        window.click("#quiet")
        assert rows.count() == 6

        window.click("#grid tbody tr:nth-child(2) a")
        assert opened.shown() == ["answers"]
        assert window.evaluate("document.getElementById('a1').open")

        window.click("#tab-wire")
        window.click("#w0 summary")
        same = window.locator("#w0 .both:visible")
        assert same.count() > 0
        window.click("#changed")
        assert same.count() == 0

        window.click("#theme")
        assert window.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
        window.click("#theme")
        assert window.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert [] == opened.complaints
    finally:
        window.close()


@pytest.mark.chromium
def test_it_can_be_read_without_scripts(browser: Any, file: Path) -> None:
    """Where scripts are off every part is there, and nothing that would need them."""
    opened = Opened(browser, file, java_script_enabled=False)
    try:
        assert [True] * len(PARTS) == [opened.window.locator(f"#{part}").is_visible() for part in PARTS]
        assert opened.window.locator("button:visible").count() == 0
    finally:
        opened.window.close()


def test_a_report_leaves_nothing_among_the_importers_of_the_process() -> None:
    """`pygal` would: Python 3.11 warns of it at every import that fails, for as long as the process lives."""
    code = """
import sys
from isochat import _report

def found():
    return [finder for finder in sys.meta_path if type(finder).__module__ == "pygal"]

_report._pygal()
assert not found(), found()
del sys.modules["pygal"]
import pygal
assert found(), "pygal is mended: _pygal() is no longer needed"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
