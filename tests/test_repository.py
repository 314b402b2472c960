"""What must hold for the repository as a whole."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="only where the source is, not beside a wheel")

# Joined here, so that this file does not hold what it looks for.
TRACES = {
    "the address of a package registry": "|".join(
        re.escape(".".join(host))
        for host in [
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("debian", "org"),
            ("crates", "io"),
        ]
    ),
    "a path of the machine it was written on": r"(?<![\w.\-/])/(?:work|root|tmp/dev|tmp/scaffold)(?![\w\-])",
    "a word of the place it was written at": r"\b(?:work" + r"place|C" + r"EO)\b|\.lib" + "rary/",
}


def files() -> list[Path]:
    """Every file that is, or would be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no git work tree")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("what", TRACES)
def test_holds_no_trace_of_where_it_was_written(what: str) -> None:
    """Nothing in a clone points at a machine or a mirror that its reader does not have."""
    pattern = re.compile(TRACES[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]

    assert [] == found


def test_ci_runs_what_the_readme_says() -> None:
    """CI is the README's two set-up commands and no third."""
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not there yet")
    blocks = re.findall(r"^```bash\n(.*?)^```", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    said = [line for block in blocks for line in block.splitlines() if line.strip()]
    run = subprocess.run([ROOT / ".ci" / "run", "--list"], capture_output=True, text=True, check=False)

    assert "" == run.stderr
    assert [
        "python3 -m pip install --upgrade pip && python3 -m pip install '.[all]' && python3 -m isochat demo",
        "python3 -m pip install 'nox[uv]' && python3 -m nox",
    ] == run.stdout.splitlines()
    assert run.stdout.splitlines() == said


def test_all_is_everything() -> None:
    """`isochat[all]` brings what each backend and part needs: LangChain too, where pip finds a set of its parts."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    others, *langchain = extras["all"]

    assert sorted(set(extras) - {"all", "langchain"}) == sorted(re.fullmatch(r"isochat\[(.*)\]", others)[1].split(","))
    assert [said if ";" in said else f"{said}; python_version < '3.13'" for said in extras["langchain"]] == langchain


def test_no_floor_is_below_what_the_audit_demands() -> None:
    """What an extra may install at its oldest is not what `nox -s audit` refuses for a known weakness."""
    minimums = tomllib.loads((ROOT / ".ci" / "minimums.toml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    floors = dict(found.groups() for one in said if (found := re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", one)))

    def parts(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    assert {"aiohttp", "pyyaml"} <= floors.keys() & minimums.keys()
    assert [] == [name for name in floors.keys() & minimums if parts(floors[name]) < parts(minimums[name]["version"])]
    assert all(entry["why"] for entry in minimums.values())
