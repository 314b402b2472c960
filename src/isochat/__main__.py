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
        from isochat._help import TEXT

        return _print(TEXT)
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


def _print(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads to the end (`| head`); Python would complain when it flushes at its own end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())
