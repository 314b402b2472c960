"""Measure isochat beside the clients, in one run: `nox -s bench`, and `nox -s bench -- --quick`.

A bare server answers in a process of its own. Each contestant is a worker process; in every round each of them has its
turn, so that a machine that slows down slows all of them, and what is reported is the ratio of two turns of one round:
its median over the rounds, and its quartiles. Before each turn a fourth of it goes uncounted, which brings the process
back into the caches that the others had meanwhile. Times are shown beside the ratios and mean nothing on another
machine.

    python -m benchmarks [--quick] [--peers DIR] [--only PART ...] [--again PART ...] [--json FILE] [--page FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.instructions import counted
from benchmarks.page import write

HERE = Path(__file__).parent
# Peers stand in environments of their own: what one of them needs, another forbids.
PEERS = {
    "litellm": ["litellm"],
    "any-llm": ["any-llm-sdk[databricks]"],
    "aisuite": ["aisuite[openai]"],
    "init_chat_model": ["langchain", "langchain-openai"],
}
OURS = ["raw socket", "pyreqwest", "http.client", "httpx2", "isochat rest", "isochat rest+fast"]
CLIENTS = [
    "openai",
    "openai-responses",
    "mlflow",
    "databricks-sdk",
    "langchain",
    "ai-query",
]  # and the backend of each one's name


@dataclass
class Worker:
    """A contestant's process, and what it said in each round."""

    name: str
    process: subprocess.Popen[str]
    can: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def told(self, **order: Any) -> dict[str, Any] | None:
        """What it answers; None if it could not, which is said once and is no one else's trouble."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(order), file=self.process.stdin, flush=True)
        said = json.loads(self.process.stdout.readline() or '{"error": "it ended"}')
        if "error" in said:
            print(f"  {self.name}: {order['do']}: {said['error'][:200]}", file=sys.stderr)
            return None
        return dict(said)


def environment(name: str, folder: Path, *, make: bool) -> str | None:
    """The interpreter that has a peer's packages; made if it is not there yet."""
    python = folder / name / "bin" / "python"
    if not python.exists() and make:
        print(f"making an environment for {name}", file=sys.stderr)
        uv = shutil.which("uv")
        try:
            if uv:
                subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder / name], check=True)
                subprocess.run([uv, "pip", "install", "-q", "--python", python, *PEERS[name]], check=True)
            else:
                subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
                subprocess.run([python, "-m", "pip", "install", "-q", *PEERS[name]], check=True)
        except subprocess.CalledProcessError as error:
            print(f"  {error}", file=sys.stderr)
            shutil.rmtree(folder / name, ignore_errors=True)
    return str(python) if python.exists() else None


def start(name: str, python: str, host: str) -> Worker | None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DATABRICKS_", "ISOCHAT_", "OPENAI_"))}
    process = subprocess.Popen(
        [python, str(HERE / "contestants.py"), name, host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**clean, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        print(f"  {name} is not here", file=sys.stderr)
        return None
    said = json.loads(line)
    return Worker(name, process, said.pop("can"), said)


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """The median of each round's ratio, and its quartiles."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    return {"ratio": middle, "low": low, "high": high}


class Run:
    """One run: the workers, and what came of it."""

    def __init__(self, workers: list[Worker], rounds: int) -> None:
        self.workers, self.rounds = {worker.name: worker for worker in workers}, rounds
        self.found: dict[str, Any] = {}

    def turns(self, part: str, way: str, *, rounds: int = 0, **order: Any) -> dict[str, list[dict[str, Any]]]:
        """In every round each worker that can has its turn."""
        print(part, file=sys.stderr)
        able = [worker for worker in self.workers.values() if way in worker.can]
        said: dict[str, list[dict[str, Any]]] = {}
        for place in range((rounds or self.rounds) + 1):
            for worker in tuple(able):
                answer = worker.told(**order)
                if answer is None:
                    able.remove(worker)
                    said.pop(worker.name, None)
                elif place:  # the first is to get warm
                    said.setdefault(worker.name, []).append(answer)
        return said

    def compare(self, part: str, said: dict[str, list[dict[str, Any]]], figure: str, to: str) -> None:
        """Everyone's figure as a ratio of one's."""
        base = [answer[figure] for answer in said.get(to, ())]
        rows = self.found.setdefault(part, {"to": to, "figure": figure, "rows": {}})["rows"]
        for name, answers in said.items():
            mine = [answer[figure] for answer in answers]
            rows[name] = {"median": statistics.median(mine), **(ratios(mine, base) if base else {})}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def cold(code: str, python: str = sys.executable) -> dict[str, float]:
    """CPU and wall time of a process of its own."""
    begun = time.perf_counter()
    process = subprocess.Popen([python, "-c", code], stdout=subprocess.DEVNULL)
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return {"cpu": used.ru_utime + used.ru_stime, "wall": time.perf_counter() - begun}


COLD = {
    "python": "pass",
    "import dataclasses, json": "import dataclasses, json",
    "import isochat": "import isochat",
    "isochat --help": "import sys; sys.argv[1:] = ['--help']; from isochat.__main__ import main; main()",
    "import httpx2": "import httpx2",
    "import openai": "import openai",
    "import databricks.sdk": "import databricks.sdk",
    "import mlflow.deployments": "import mlflow.deployments",
}


def measure(run: Run, only: set[str], host: str, *, quick: bool) -> dict[str, Any]:
    calls = 40 if quick else 200

    def wanted(part: str) -> bool:
        return not only or part in only

    if wanted("call"):
        said = run.turns("a blocking question", "ask", do="ask", times=calls)
        run.compare("call", said, "cpu", "raw socket")
        run.compare("call, wall time", said, "wall", "raw socket")
        walls = {name: [wall for answer in answers for wall in answer["walls"]] for name, answers in said.items()}
        floor = {share: percentile(walls["raw socket"], share) for share in (0.5, 0.99)}
        run.found["added latency"] = {
            name: {f"p{share * 100:.0f}": percentile(those, share) - floor[share] for share in floor}
            for name, those in walls.items()
        }
        run.found["facade"] = {
            name: ratios([a["cpu"] for a in said[f"isochat {name}"]], [a["cpu"] for a in said[name]])
            for name in CLIENTS
            if name in said and f"isochat {name}" in said
        }
    for at_once in (1, 64) if quick else (1, 64, 1000):
        if wanted("flight"):
            how: dict[str, Any] = {"times": max(calls, at_once), "at_once": at_once}
            said = run.turns(f"asyncio, {at_once} in flight", "aask", do="flight", rounds=min(run.rounds, 7), **how)
            run.compare(f"{at_once} in flight, CPU", said, "cpu", "openai")
            run.compare(f"{at_once} in flight, requests a second", said, "rps", "openai")
    if wanted("stream"):
        said = run.turns("a stream", "stream", do="stream", times=2 if quick else 5)
        run.compare("streamed chunk", said, "cpu", "pyreqwest")
        run.compare("time to first chunk", said, "first", "pyreqwest")
        said = run.turns("a stream, asyncio", "astream", do="astream", times=2 if quick else 5)
        run.compare("streamed chunk, asyncio", said, "cpu", "pyreqwest")
    if wanted("memory"):
        print("memory", file=sys.stderr)
        run.found["memory after import"] = {name: worker.about["import_bytes"] for name, worker in run.workers.items()}
        held = {}
        for worker in run.workers.values():
            if "astream" in worker.can and (answer := worker.told(do="hold", times=200 if quick else 1000)):
                held[worker.name] = answer["bytes"]
        run.found["memory of an open stream"] = held
    if wanted("growth"):
        print("growth", file=sys.stderr)
        ours = run.workers["isochat rest"]
        run.found["growth by questions"] = ours.told(do="grow", times=3_000 if quick else 100_000)
        run.found["growth by messages"] = ours.told(do="messages", most=1_000 if quick else 10_000)
    if wanted("cold"):
        print("cold starts", file=sys.stderr)
        turns: dict[str, list[dict[str, Any]]] = {}
        for _ in range(3 if quick else 10):
            for name, code in COLD.items():
                turns.setdefault(name, []).append(cold(code))
        run.compare("cold start", turns, "cpu", "python")
        run.compare(
            "import", {name: turns[name] for name in turns if "import" in name}, "cpu", "import dataclasses, json"
        )
    if wanted("instructions") and shutil.which("valgrind") and not quick:
        print("instructions", file=sys.stderr)
        able = [name for name, worker in run.workers.items() if "ask" in worker.can and name not in PEERS]
        taken = {name: count for name in able if (count := counted(name, host)) is not None}
        run.found["instructions"] = taken
        run.found["facade in instructions"] = {
            name: taken[f"isochat {name}"] / taken[name]
            for name in CLIENTS
            if name in taken and f"isochat {name}" in taken
        }
    return run.found


# What must show, and how it is read out of the figures.
PROMISES = [
    ("a blocking question through `rest` by pyreqwest, as multiples of the raw socket",
     "call", "isochat rest+fast", None, "<=", 2.5),
    ("the openai client's CPU per question, as multiples of the same",
     "call", "openai", "isochat rest+fast", ">=", 12),
    ("litellm's CPU per question, as multiples of the same", "call", "litellm", "isochat rest+fast", ">=", 30),
    ("`rest` by pyreqwest, requests a second at 64 in flight, as multiples of the openai client's",
     "64 in flight, requests a second", "isochat rest+fast", None, ">=", 6),
    ("`rest` by pyreqwest, CPU per streamed chunk, as multiples of pyreqwest with orjson",
     "streamed chunk", "isochat rest+fast", None, "<=", 1.6),
    ("the openai client's CPU per streamed chunk, as multiples of the same",
     "streamed chunk", "openai", "isochat rest+fast", ">=", 25),
    ("`import isochat`, as multiples of `import dataclasses, json`", "import", "import isochat", None, "<=", 2),
    ("`isochat --help`, as multiples of `python -c pass`", "cold start", "isochat --help", None, "<=", 3),
]  # fmt: skip


def promises(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each promise, what was measured, and whether it is kept."""
    told = []
    for what, part, name, to, sign, bound in PROMISES:
        rows = found.get(part, {}).get("rows", {})
        if name not in rows or "ratio" not in rows[name] or (to and to not in rows):
            continue
        value = rows[name]["ratio"] / (rows[to]["ratio"] if to else 1)
        kept = value <= bound if sign == "<=" else value >= bound
        told.append({"what": what, "promised": f"{sign} {bound}", "value": value, "kept": kept})
    in_cpu = {name: row["ratio"] for name, row in found.get("facade", {}).items()}
    in_instructions = found.get("facade in instructions", {})
    for name, value in {**in_cpu, **in_instructions}.items():
        unit = "instructions" if name in in_instructions else "CPU"
        what = f"`isochat {name}`, {unit} of a question, as multiples of the client alone"
        told.append({"what": what, "promised": "<= 1.05", "value": value, "kept": value <= 1.05})
    if (held := found.get("memory of an open stream")) and {"isochat rest", "pyreqwest"} <= held.keys():
        extra = (held["isochat rest"] - held["pyreqwest"]) / 1024
        what = "KB of memory of an open stream above pyreqwest's own"
        told.append({"what": what, "promised": "<= 50", "value": extra, "kept": extra <= 50})
    if grown := found.get("growth by questions"):
        what = "the last questions of a long run, as multiples of the first"
        told.append({"what": what, "promised": "<= 1.1", "value": grown["ratio"], "kept": grown["ratio"] <= 1.1})
    return told


def versions(names: list[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes: fewer rounds, no environments are made")
    parser.add_argument("--peers", type=Path, default=Path(".nox/peers"), help="where the peers' environments are")
    parser.add_argument(
        "--only", nargs="*", default=[], help="call, flight, stream, memory, growth, instructions, cold"
    )
    parser.add_argument("--who", nargs="*", default=[], help="only these contestants")
    parser.add_argument(
        "--again", nargs="*", default=[], help="only these parts, each in place of what the JSON has of it already"
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    asked = parser.parse_args()

    server = subprocess.Popen(
        [sys.executable, str(HERE / "server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    host = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    names = [*OURS, *(name for client in CLIENTS for name in (client, f"isochat {client}"))]
    workers = []
    for name in [*names, *PEERS]:
        if asked.who and name not in asked.who:
            continue
        python = sys.executable
        if name in PEERS:
            python = environment(name, asked.peers.absolute(), make=not asked.quick) or ""
        if python and (worker := start(name, python, host)):
            workers.append(worker)
    try:
        run = Run(workers, asked.rounds or (5 if asked.quick else 11))
        found = measure(run, {*asked.only, *asked.again}, host, quick=asked.quick)
    finally:
        for worker in workers:
            worker.process.communicate()
        server.communicate()
    packages = ["isochat", "httpx2", "pyreqwest", "orjson", "openai", "mlflow-skinny", "databricks-sdk"]
    if asked.again:
        before = json.loads(asked.json.read_text())
        found = {**before, **found, "again": sorted({*before.get("again", ()), *asked.again})}
    found |= {"versions": versions(packages), "cores": os.cpu_count(), "quick": asked.quick}
    found["promises"] = promises(found)
    asked.json.write_text(json.dumps(found, indent=1) + "\n")
    write(found, asked.page)
    for promise in found["promises"]:
        kept = "kept" if promise["kept"] else "NOT KEPT"
        print(f"{kept:9} {promise['promised']:>8} {promise['value']:8.2f}  {promise['what']}")


if __name__ == "__main__":
    main()
