"""A directory of recorded exchanges: what is replayed from it, what is recorded into it, and what is in neither.

It knows files and nothing of a network: `_tape` puts it in front of what would otherwise answer.
"""

from __future__ import annotations

import difflib
import itertools
import logging
import os
import re
import sys
import threading
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

from isochat.local._recording import Asked, Cleaner, NoRecordingError, Recording

__all__ = ["Cassette", "RecordMode", "Unmatched", "is_workspace"]

log = logging.getLogger("isochat.local")

RecordMode = Literal["none", "once", "new_episodes", "all"]

#: How many requests that nothing answered are remembered.
REMEMBERED = 1000
_NUMBER = re.compile(r"(\d+)-")
_LINES, _WIDTH, _CHARACTERS = 60, 160, 1600  # of a difference


def is_workspace(upstream: str) -> bool:
    """Whether an upstream's address is a workspace's: it has no path, as an OpenAI-compatible server's has (`/v1`)."""
    return not urlsplit(upstream).path.strip("/")


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A request that no recording answers. Nothing in it is a secret."""

    method: str
    path: str
    #: What the client was told: the nearest recording, and how it differs.
    message: str
    #: The file of the nearest recording.
    nearest: Path | None = None
    #: What was recorded there (`-`) and what was asked (`+`), whole.
    diff: str = ""

    def __str__(self) -> str:
        """What the client was told."""
        return self.message


@dataclass(slots=True)
class _Shelf:
    """The recordings of one question, in the order recorded, and how many of them have been given."""

    found: list[tuple[Path, Recording]] = field(default_factory=list)
    pattern: re.Pattern[str] | None = None
    given: int = 0


class Cassette:
    """The recordings in a directory.

    Raises ValueError, naming the file, for one that is not a recording, and for a directory that is not there where
    nothing is to be recorded.
    """

    def __init__(self, folder: str | os.PathLike[str], mode: str = "none") -> None:
        if mode not in get_args(RecordMode):
            msg = f"record_mode: there is no {mode!r}; there are {', '.join(get_args(RecordMode))}"
            raise ValueError(msg)
        self.folder, self.mode = Path(folder), cast("RecordMode", mode)
        if self.folder.exists() and not self.folder.is_dir():
            msg = f"cassette: {self.folder} is not a directory"
            raise ValueError(msg)
        if mode == "none" and not self.folder.is_dir():
            msg = f"cassette: there is no directory {self.folder}, and nothing is recorded with record_mode 'none'"
            raise ValueError(msg)
        self.clean = Cleaner()
        #: The files written, in the order in which they were.
        self.recorded: list[Path] = []
        self.unmatched: list[Unmatched] = []
        #: By the key of what was asked, and whether as a stream.
        self._shelves: dict[tuple[str, bool], _Shelf] = defaultdict(_Shelf)
        self._lock = threading.Lock()
        files = sorted((each for each in _listed(self.folder) if each.suffix in {".yaml", ".yml"}), key=_place)
        for each in files:
            found = _read(each)
            asked = found.asked
            shelf = self._shelves[asked.key, asked.streams]
            shelf.found.append((each, found))
            shelf.pattern = asked.pattern
        self._numbers = itertools.count(_last(self.folder) + 1)
        self.replays = mode in {"none", "new_episodes"} or (mode == "once" and bool(files))
        self.records = mode in {"all", "new_episodes"} or (mode == "once" and not files)

    def __repr__(self) -> str:
        return f"<Cassette {self.folder}, {self.mode}>"

    # --- giving ---

    def next(self, asked: Asked) -> Recording | None:
        """The next recording of this question; when all have been given, the last one again."""
        with self._lock:
            shelf = self._shelves.get((asked.key, asked.streams)) or self._like(asked)
            if shelf is None:
                return None
            place, shelf.given = min(shelf.given, len(shelf.found) - 1), shelf.given + 1
            return shelf.found[place][1]

    def _like(self, asked: Asked) -> _Shelf | None:
        for (_, streams), shelf in self._shelves.items():
            if streams == asked.streams and shelf.pattern is not None and shelf.pattern.fullmatch(asked.key):
                return shelf
        return None

    def rewind(self) -> None:
        """Begin with the first recordings again, and forget what was not matched."""
        with self._lock:
            for shelf in self._shelves.values():
                shelf.given = 0
        self.unmatched.clear()

    def refuse(self, method: str, path: str, asked: Asked) -> Unmatched:
        """Why nothing here answers this, kept in `unmatched`."""
        words, nearest, lines = self._why(asked)
        diff = self.clean.text("\n".join(lines))
        text = f"{words}\n{_shortened(lines)}".strip()
        found = Unmatched(method, self.clean.text(path.partition("?")[0]), self.clean.text(text), nearest, diff)
        self.unmatched.append(found)
        del self.unmatched[:-REMEMBERED]
        log.warning("%s", words.rstrip(":"))  # not the difference: nothing of a prompt is logged
        return found

    def _why(self, asked: Asked) -> tuple[str, Path | None, list[str]]:
        other = self._shelves.get((asked.key, not asked.streams))
        if other is not None:
            file = other.found[0][0]
            mine, theirs = ("as a stream", "whole") if asked.streams else ("whole", "as a stream")
            words = f"This was recorded {theirs} ({file.name}) and is asked for {mine}: record it {mine} as well."
            return words, file, []
        alike = [
            (file, recorded.asked)
            for shelf in self._shelves.values()
            for file, recorded in shelf.found
            if recorded.asked.kind == asked.kind
        ]
        what = {"chat": "chat question", "responses": "question to the Responses API"}.get(asked.kind, "SQL request")
        if not alike:
            return f"No {what} is recorded in {self.folder}.", None, []
        shown = asked.shown.splitlines()
        lines_alike = difflib.SequenceMatcher(None, b=shown, autojunk=False)
        letters_alike = difflib.SequenceMatcher(None, b=asked.key, autojunk=False)

        def likeness(it: tuple[Path, Asked]) -> tuple[bool, float, float]:
            lines_alike.set_seq1(it[1].shown.splitlines())
            letters_alike.set_seq1(it[1].key)
            return it[1].target == asked.target, lines_alike.ratio(), letters_alike.quick_ratio()

        file, nearest = max(alike, key=likeness)
        lines = difflib.unified_diff(
            nearest.shown.splitlines(), shown, f"recorded in {file.name}", "asked", n=2, lineterm=""
        )
        return f"No recording in {self.folder} answers this {what}. The nearest is {file.name}:", file, list(lines)

    # --- keeping ---

    def number(self) -> int:
        """The number of an exchange that begins now: files stand in the order in which was asked."""
        return next(self._numbers)

    def keep(self, number: int, recording: Recording) -> Path:
        """Write a recording into a file of its own; in mode `all`, what there was of it before goes.

        The file is there whole or not at all, and no other is overwritten, whoever else records here.
        """
        asked, text = recording.asked, recording.text()
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{uuid.uuid4().hex}.part"
        try:
            with draft.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
            path = self.folder / _name(number, asked)
            while not _moved(draft, path):
                path = self.folder / _name(_last(self.folder) + 1, asked)
        finally:
            draft.unlink(missing_ok=True)
        with self._lock:
            self.recorded.append(path)
            before = self._shelves.pop((asked.key, asked.streams), None) if self.mode == "all" else None
        for old, _ in before.found if before is not None else ():
            old.unlink(missing_ok=True)
        return path


def _listed(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if not each.name.startswith(".")] if folder.is_dir() else []


def _place(file: Path) -> tuple[int, str]:
    """Where a file stands among the others: by its number, and what has none at the end."""
    found = _NUMBER.match(file.name)
    return int(found[1]) if found else sys.maxsize, file.name


def _last(folder: Path) -> int:
    return max((int(found[1]) for each in _listed(folder) if (found := _NUMBER.match(each.name))), default=0)


def _read(file: Path) -> Recording:
    try:
        return Recording.parse(file.read_text(encoding="utf-8"))
    except OSError as why:
        msg = f"cassette: {file} cannot be read: {why.strerror}"
    except UnicodeDecodeError:
        msg = f"cassette: {file} is not a recording: it is not UTF-8"
    except NoRecordingError as why:
        msg = f"cassette: {file}: {why}"
    raise ValueError(msg)


def _name(number: int, asked: Asked) -> str:
    kind = f"{asked.kind}-stream" if asked.streams else asked.kind
    whom = "" if asked.kind.startswith("sql") else re.sub(r"[^\w.-]+", "-", asked.target, flags=re.ASCII)[:80] + "-"
    return f"{number:04}-{whom.lstrip('-.')}{kind}.yaml"


def _moved(draft: Path, path: Path) -> bool:
    """Give the draft its name, or False if that is taken."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links; Windows refuses to rename over a file, others do not
        if path.exists():
            return False
        try:
            draft.rename(path)
        except FileExistsError:
            return False
    return True


def _shortened(lines: list[str]) -> str:
    """The difference as it fits into an error's message."""
    kept, size = [], 0
    for line in lines[:_LINES]:
        cut = line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…"
        size += len(cut) + 1
        if size > _CHARACTERS:
            break
        kept.append(cut)
    left = len(lines) - len(kept)
    return "\n".join([*kept, f"… and {left} lines more"] if left else kept)
