"""`isochat` and `python -m isochat`: start the command line, or say what it lacks."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec


def main() -> int:
    """Run the command that was typed; gives the exit code.

    The command line is an extra, so that a service which only calls `query_chat()` installs none of it.
    """
    if any(find_spec(name) is None for name in ("typer", "rich")):
        sys.stderr.write("the command line needs typer and rich; install it with: pip install 'isochat[cli]'\n")
        return 2
    if sys.argv[1:] in (["--help"], ["-h"]) and sys.stdout is not None and _is_wide():
        return _help()
    try:
        from isochat._cli import main as run

        return run()
    except KeyboardInterrupt:  # before the command had begun
        return 130


def _is_wide() -> bool:
    """Whether the help need not be wrapped for this terminal."""
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size().columns) >= 80
    except (OSError, ValueError):  # it goes to no terminal
        return True


def _help() -> int:
    from isochat._help import TEXT
    from isochat._stdout import NOBODY_READS, let_go_of_stdout

    try:
        sys.stdout.write(TEXT)
        sys.stdout.flush()
    except BrokenPipeError:
        let_go_of_stdout()
        return NOBODY_READS
    return 0


if __name__ == "__main__":
    sys.exit(main())
