"""What `isochat compare` does, once it is known what was typed."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Self

import typer

from isochat import Retry, _cli, close, compare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from isochat import Comparison, Connection, Difference

_SHOWN: Final = 40  # differences, each a line


def questions(path: Path, system: str | None) -> list[dict[str, Any]]:
    """The questions in a file of JSON lines: each a text, or an object with `messages` and what else is its own."""
    option = "--questions"
    text = sys.stdin.read() if str(path) == "-" else _cli._file(path, option)
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise typer.BadParameter(f"line {number} is no JSON: {error}", param_hint=option) from None
        each = {"messages": value} if isinstance(value, str) else value
        if not isinstance(each, dict) or "messages" not in each:
            raise typer.BadParameter(f"line {number} is neither a text nor has `messages`", param_hint=option)
        if system is not None:
            said = each["messages"]
            said = [{"role": "user", "content": said}] if isinstance(said, str) else said
            others = said if isinstance(said, list) else [said]  # which is told of where it is read
            each = {**each, "messages": [{"role": "system", "content": system}, *others]}
        found.append({"name": f"line {number}", **each})
    if not found:
        raise typer.BadParameter("there is no question in it", param_hint=option)
    return found


def run(
    asked: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    *,
    endpoint: str | None,
    connection: Connection,
    names: Sequence[str] | None,
    repeat: int,
    concurrency: int,
    stream: bool,
    timeout: float | None,
    attempts: int | None,
    may_vary: bool,
    page: Path | None,
    as_json: bool,
) -> None:
    """Ask, and print what came of it."""
    said: dict[str, Any] = dict(options)
    with _Bar() as bar:
        try:
            comparison = compare(
                questions=asked,
                backends=names,
                repeat=repeat,
                concurrency=concurrency,
                stream=stream,
                endpoint=endpoint,
                connection=connection,
                timeout=timeout,
                retry=Retry(attempts=attempts) if attempts else None,
                progress=bar.show,
                **said,
            )
        finally:
            close()
    if page is not None:
        drawn = comparison.to_html()
        try:
            page.write_text(drawn, encoding="utf-8")
        except OSError as error:
            raise typer.BadParameter(f"{page} cannot be written: {error.strerror}", param_hint="--html") from None
    if as_json:
        _cli._print_json(comparison.to_dict())
    else:
        _show(comparison, may_vary=may_vary)
    if page is not None:
        _cli._say(f"the report is in {page}")
    _end(comparison, may_vary=may_vary)


def _end(comparison: Comparison, *, may_vary: bool) -> None:
    """Exit as what came of it deserves: a difference first, then an error that everybody got."""
    if comparison.faults(may_vary=may_vary):
        raise typer.Exit(_cli.NO)
    errors = [asking.error for asking in comparison.askings if asking.error is not None]
    if errors and not any(asking.response is not None for asking in comparison.askings):
        raise errors[0]


def _show(comparison: Comparison, *, may_vary: bool) -> None:
    write, name_of = _cli._write, [question.name for question in comparison.questions]
    columns, rows = comparison.table()
    write(f"{comparison.headline(may_vary=may_vary)}\n\n")
    _cli._print_table(
        columns, rows, right=[name for name in columns if name not in {"backend", "answer", "what differs"}]
    )
    write("\nMedians in milliseconds; overhead is what the client took beside the wire.\n")
    found = comparison.faults(may_vary=may_vary)
    for each in found[:_SHOWN]:
        write(f"{_line(each, name_of)}\n")
    if len(found) > _SHOWN:
        write(f"… and {len(found) - _SHOWN} more; --json and --html have all\n")
    for name, install in comparison.missing.items():
        write(f"Not installed: {name} ({install})\n")
    if not may_vary and any(each.cause == "service" for each in found):
        _cli._say("the service itself said otherwise; --may-vary lets that pass, -o temperature=0 makes it rarer")


def _line(each: Difference, name_of: Sequence[str]) -> str:
    where = f", {name_of[each.question]}" if len(name_of) > 1 else ""
    return _cli._without_secrets(f"{each.backend}{where}: {each}")


class _Bar:
    """How far it has come, on one line of the terminal that is gone afterwards; nowhere else."""

    def __enter__(self) -> Self:
        self._progress: Any = None
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            columns = ("asking", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task("asking")
        return self

    def show(self, done: int, of: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=of)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
