"""What becomes of a command whose output nobody reads any more.

Imports next to nothing, since `isochat --help` prints by it.
"""

from __future__ import annotations

import os
import sys
from typing import Final

NOBODY_READS: Final = 141  # the exit code: 128 + SIGPIPE, as shells have it


def let_go_of_stdout() -> None:
    """Nobody reads any more (`| head`). Without this, Python complains when it flushes at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a stand-in for stdout that is no file
        return
