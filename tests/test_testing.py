"""What the suite makes of a backend that departs from it, and what is printed of it: run as anyone runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")

from isochat.testing.conformance import Departure, never, notimpl, notyet

# `rest`, but that it has nothing but a text to say and does not stream.
SUITE = """
    from dataclasses import replace

    import pytest
    from isochat.backends import EVERYTHING, Backend
    from isochat.backends.rest import RestBackend
    from isochat.testing.conformance import BackendTests, never, notimpl, notyet


    class Terse(RestBackend):
        name = "terse"
        carries = EVERYTHING - {"stream"}
        stream, astream = Backend.stream, Backend.astream

        def decode(self, reply):
            if b"broken" in reply.body:
                raise ZeroDivisionError
            answer = super().decode(reply)
            return replace(answer, choices=answer.choices[:1], usage=None)


    class TestTerse(BackendTests):
        departures = %s

        @pytest.fixture
        def backend(self, connection):
            return Terse(connection)

        def test_of_its_own(self, ask):
            ask("broken", endpoint="databricks-gpt-5-1")
"""


def run(folder: Path, departures: str, *arguments: str, require: str = "") -> tuple[int, str]:
    file = folder / "test_terse.py"
    file.write_text(textwrap.dedent(SUITE) % departures, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # whatever stands in a folder above
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "isochat.testing.grid",
            *arguments,
            file,
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONUTF8": "1",
            "COLUMNS": "160",
            "ISOCHAT_REQUIRE": require,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


DEPARTING = """{
    "test_gives_several_choices": notimpl("only the first is kept"),
    "test_says_what_the_service_said[*]": notyet("usage is not kept"),
    "test_nobody_there[*stream]": never("it is not asked"),
}"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_departures_have_to_fail_and_are_told(tmp_path: Path, processes: str) -> None:
    """Each is an expected failure with its kind and reason; the grid has them all, whoever ran them."""
    chosen = "several_choices or service_said or nobody_there or given_or_refused or stale or loop"
    code, told = run(tmp_path, DEPARTING, "-n", processes, "-k", chosen, "--isochat-grid", "grid.json")
    grid = json.loads((tmp_path / "grid.json").read_text(encoding="utf-8"))
    departures = {(found["kind"], found["reason"]): found["scenarios"] for found in grid["departures"]}
    refused = ("never", "terse does not stream: a stream is refused before anything is sent")
    lines = {line.split()[0]: line.split()[1:] for line in told.splitlines() if " " in line}

    assert code == 0, told
    assert departures == {
        ("notimpl", "only the first is kept"): ["gives_several_choices"],
        ("notyet", "usage is not kept"): ["says_what_the_service_said"],
        refused: ["gives_several_choices", "nobody_there", "says_what_the_service_said"],
    }
    assert grid["scenarios"]["nobody_there"] == {
        "terse": {
            "blocking": {"passed": 1},
            "asyncio": {"passed": 1},
            "stream": {"never": 1},
            "async stream": {"never": 1},
        }
    }
    assert lines["gives_several_choices"] == ["!!--"]
    assert lines["says_what_the_service_said"] == ["~~--"]
    assert lines["nobody_there"] == ["✓✓--"]
    assert lines["a_stream_is_given_or_refused"] == ["✓✓"]
    assert "terse: notimpl: only the first is kept (gives_several_choices)" in told


WRONG = """{
    "test_leaves_the_environment_alone": never("it holds after all"),
    "test_thinks_a_part*": never("there is no such test"),
    "test_of_its_own": never("it fails by mistake"),
}"""


def test_a_wrong_departure_fails(tmp_path: Path) -> None:
    """What holds after all, what is of no test and what fails by mistake is no departure; nor is what nobody said."""
    code, told = run(tmp_path, WRONG, "-rf", "-k", "blocking and (environment or own or choices) or stale")
    failed = set(re.findall(r"^FAILED .*::test_(\w+)", told, re.MULTILINE))

    assert code == 1, told
    assert {"leaves_the_environment_alone", "no_departure_is_stale", "of_its_own", "gives_several_choices"} == failed
    assert "[XPASS(strict)] never: it holds after all" in told
    assert "ZeroDivisionError" in told
    assert "'test_thinks_a_part*'" in told


def test_a_stream_that_is_not_refused_fails(tmp_path: Path) -> None:
    """A backend that does not stream is believed only because it was seen to refuse."""
    file = tmp_path / "conftest.py"
    file.write_text("import test_terse as t\nt.Terse.carries = t.EVERYTHING\n", encoding="utf-8")
    code, told = run(tmp_path, "{}", "-k", "environment or given_or_refused")

    assert code == 1, told
    assert "2 passed" in told


@pytest.mark.parametrize(("name", "code"), [("pytest", 0), ("pytest,no-such-distribution", 4)])
def test_what_has_to_be_there_is_there(tmp_path: Path, name: str, code: int) -> None:
    """Where it is said what has to be there, its absence ends the run: it is never a skip that nobody reads."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    done = run(tmp_path, "{}", "-k", "stale", require=name)

    assert done[0] == code, done[1]
    assert (code == 4) == ("not there: no-such-distribution" in done[1])


@pytest.mark.parametrize(
    ("make", "kind"), [(notimpl, "notimpl"), (notyet, "notyet"), (never, "never")], ids=["notimpl", "notyet", "never"]
)
def test_a_departure_has_a_kind_and_a_reason(make: Any, kind: str) -> None:
    """They are values."""
    departure = make("because")

    assert departure == Departure(kind, "because")  # type: ignore[arg-type]
    assert str(departure) == f"{kind}: because"
