"""A backend of somebody else's, in a distribution of its own, is installed, found by its name and held to the suite.

The distribution is `tests/plugin/`, and the guide to writing one shows its files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")
pytest.importorskip("hatchling", reason="the plug-in is built with hatchling")

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "tests" / "plugin"
GUIDE = ROOT / "docs" / "how-to" / "add-a-backend.md"
ASK = """
from isochat import query_chat
print(query_chat("Hi", endpoint="databricks-gpt-5-1", host="local", backend="plain").backend)
"""
LIST = """
from isochat import backends
print(*(info.name for info in backends.available() if info.name not in backends.BUILT_IN))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it is installed in: built by the backend that it names, and unpacked as an installer does."""
    source = shutil.copytree(PLUGIN, tmp_path_factory.mktemp("plugin") / "source")
    built = source.parent / "built"
    backend = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["build-backend"]
    run(source, "-c", f"import sys; from {backend} import build_wheel; build_wheel(sys.argv[1])", str(built))
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(source.parent / "site")
    return source.parent / "site"


def run(folder: Path, *arguments: str, path: Path | None = None) -> str:
    """What Python prints, run in a folder and with another folder to import from."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*([str(path)] if path else []), *sys.path]),
            "PYTHONUTF8": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_found_by_its_name(installed: Path, tmp_path: Path) -> None:
    """What is installed can be named, and is listed among the backends."""
    assert run(tmp_path, "-c", ASK, path=installed) == "plain\n"
    assert run(tmp_path, "-c", LIST, path=installed) == "plain\n"


def test_it_passes_the_suite(installed: Path, tmp_path: Path) -> None:
    """Every scenario holds, in every mode but the two that it does not have, which it refuses."""
    shutil.copy(PLUGIN / "test_plain.py", tmp_path)
    told = run(
        tmp_path,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"),
        *("-p", "isochat.testing.grid", "--isochat-grid", "grid.json", "test_plain.py"),
        path=installed,
    )
    grid = json.loads((tmp_path / "grid.json").read_text(encoding="utf-8"))
    results = {
        mode: set(found)
        for backends in grid["scenarios"].values()
        for mode, found in backends["plain"].items()
        if "stream" not in mode or set(found) != {"passed"}
    }

    assert results == {
        "": {"passed"},
        "blocking": {"passed"},
        "asyncio": {"passed"},
        "stream": {"never"},
        "async stream": {"never"},
    }
    assert [found["reason"] for found in grid["departures"]] == [
        "plain does not stream: a stream is refused before anything is sent"
    ]
    assert "plain" in told


def test_the_guide_shows_its_files() -> None:
    """What a reader copies from the guide is what is tested here."""
    if not GUIDE.exists():
        pytest.skip("the docs are not beside these tests")
    page = GUIDE.read_text(encoding="utf-8")
    shown = dict(re.findall(r"^```\w+\n# (\S+\.\w+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE))

    assert shown == {
        file.name: file.read_text(encoding="utf-8") for file in PLUGIN.iterdir() if file.suffix in {".py", ".toml"}
    }
