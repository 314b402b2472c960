"""Has anything that is installed here a known weakness? Run by `nox -s audit`, in an environment with all extras.

It asks pip-audit. Where pip-audit's data cannot be reached, which is no fault of the code, the versions are held
against the list in `minimums.toml` beside this file, and the answer says that it is that one.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.version import Version

MINIMUMS = Path(__file__).parent / "minimums.toml"


def asked() -> list[dict[str, Any]]:
    """What pip-audit knows of each distribution that it could look up; nothing if it reached nobody."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--timeout=15", "--skip-editable"]
        try:
            subprocess.run(  # noqa: S603 - our own words
                [*command, "--format=json", f"--output={report}"], capture_output=True, timeout=300, check=False
            )
            found = json.loads(report.read_text(encoding="utf-8"))
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return []
    return [each for each in found.get("dependencies", []) if "skip_reason" not in each]


def too_old() -> list[str]:
    """What is older than the list allows, each in a sentence."""
    said = []
    for name, entry in tomllib.loads(MINIMUMS.read_text(encoding="utf-8")).items():
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if Version(there) < Version(entry["version"]):
            said.append(f"{name} {there} is older than {entry['version']}: {entry['why']}")
    return said


def main() -> int:
    """Print what was found; 1 if that is anything."""
    looked_up = asked()
    weak = [
        f"{each['name']} {each['version']}: {vulnerability['id']}, fixed in {', '.join(vulnerability['fix_versions'])}"
        for each in looked_up
        for vulnerability in each["vulns"]
    ]
    if looked_up:
        print(f"pip-audit looked up {len(looked_up)} distributions")
    else:
        print("pip-audit reached none of its data: only the minimums are checked")
    found = [*weak, *too_old()]
    print(*(found or ["nothing known"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
