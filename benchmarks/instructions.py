"""The instructions that a blocking question takes, counted by valgrind: where times waver by a third, these do not.

The process is run twice, once with so many questions more, and the difference is theirs. What the kernel does for them
is not counted, nor how long memory takes.

    python benchmarks/instructions.py NAME HOST TIMES    asks that often; valgrind runs it so
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

TIMES = 200
WARM = 40  # questions after which nothing is done for the first time any more


def counted(name: str, host: str) -> float | None:
    """The instructions of a question; None for a contestant that is not here, or does not run under valgrind."""
    none, many = (_run(name, host, times) for times in (0, TIMES))
    return None if none is None or many is None else (many - none) / TIMES


def _run(name: str, host: str, times: int) -> int | None:
    done = subprocess.run(
        [
            *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
            *(sys.executable, __file__, name, host, str(times)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"},
        check=False,
    )
    said = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    return int(said[1].replace(",", "")) if said and done.returncode == 0 else None


def main(name: str, host: str, times: int) -> None:
    from contestants import CONTESTANTS

    contestant = CONTESTANTS[name](host)
    importlib.import_module(contestant.module)
    contestant.setup()
    for _ in range(WARM):
        contestant.ask()  # type: ignore[attr-defined]
    gc.collect()
    gc.disable()  # when it runs is chance
    for _ in range(times):
        contestant.ask()  # type: ignore[attr-defined]
    os._exit(0)  # what a process does at its end is no question's


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
