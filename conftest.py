"""Runs every block of the README, of CONTRIBUTING and of the docs.

* A `python` block is executed. One that begins with `>>>` is a doctest: what it shows is compared.
  The blocks of one page share their names, as a reader's session would.
* A `console` block is typed at a shell: each line after `$ ` is run, and what stands below it is compared, if anything
  does. `...` stands for whatever.
* A `bash` block is not run here: the README's are run by `.ci/run`.
* A `toml` or `json` block must parse. Every other block is text.

A reader who has no workspace gets the local endpoint: `ISOCHAT_HOST=local`. Home and working directory are empty.

Tests without documentation do not need Sybil, so its absence is no error.
"""

from __future__ import annotations

import doctest
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
import traceback
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sybil import Document, Example, Region
    from sybil.typing import Evaluator

LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
READS = ("DATABRICKS_", "ISOCHAT_", "MLFLOW_", "OPENAI_")
TELLS = frozenset({"BUILD_NUMBER", "CI", "FORCE_COLOR", "PYTEST_ADDOPTS", "PY_COLORS"})  # a tool to print otherwise


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Somebody with nothing set up, in an empty folder, for the length of a page."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(READS) or name in TELLS:
                patch.delenv(name)
        patch.setenv("HOME", str(folder))
        patch.setenv("ISOCHAT_HOST", "local")
        patch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))  # noqa: PTH120
        patch.setenv("COLUMNS", "100")
        patch.setenv("NO_COLOR", "1")
        patch.chdir(folder)
        yield folder


def typed_at_a_shell(example: Example) -> str | None:
    """None if every command ends well and prints what is shown below it; otherwise what is wrong."""
    for part in f"\n{example.parsed}".split("\n$ ")[1:]:
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command = f"{command[:-1]} {more}"
        done = subprocess.run(  # noqa: S602 - our own documentation
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            return f"{command}\nended with exit code {done.returncode}:\n{done.stdout}"
        if shown.strip() and not doctest.OutputChecker().check_output(shown, done.stdout, LENIENT):
            return f"{command}\nis shown to print:\n{shown}\nbut prints:\n{done.stdout}"
    return None


if importlib.util.find_spec("sybil"):
    from sybil import Sybil
    from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

    def data(language: str, load: Callable[[str], object]) -> CodeBlockParser:
        """A block of data is data."""

        def parse(example: Example) -> None:
            load(example.parsed)

        return CodeBlockParser(language, parse)

    class PythonBlocks(PythonCodeBlockParser):
        """Python blocks, whose errors are told as Python tells them.

        Sybil 10.1 tells them itself, and ends the whole run with an IndexError where an error has a cause.
        """

        def __call__(self, document: Document) -> Iterator[Region]:
            """The blocks of a page."""
            for region in super().__call__(document):
                region.evaluator = self.told(region.evaluator)
                yield region

        @staticmethod
        def told(evaluate: Evaluator) -> Evaluator:
            """Run a block; give what went wrong as text."""

            def run(example: Example) -> str | None:
                try:
                    return evaluate(example)
                except Exception:  # noqa: BLE001 - whatever the block raises
                    return traceback.format_exc()

            return run

    pytest_collect_file = Sybil(
        parsers=[
            PythonBlocks(doctest_optionflags=LENIENT),
            CodeBlockParser("console", typed_at_a_shell),
            data("toml", tomllib.loads),
            data("json", json.loads),
            SkipParser(),
        ],
        patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/**/*.md"],
        excludes=["docs/_build/**"],
        fixtures=["reader"],
    ).pytest()
