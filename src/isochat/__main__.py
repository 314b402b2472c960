"""`isochat` and `python -m isochat`: start the command line, or say what it lacks."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> int:
    """Run the command that was typed; gives the exit code.

    The command line is an extra, so that a service which only calls `query_chat()` installs none of it.
    """
    if any(find_spec(name) is None for name in ("typer", "rich")):
        sys.stderr.write("the command line needs typer and rich; install it with: pip install 'isochat[cli]'\n")
        return 2
    try:
        from isochat._cli import main as run

        return run()
    except KeyboardInterrupt:  # before the command had begun
        return 130


if __name__ == "__main__":
    sys.exit(main())
