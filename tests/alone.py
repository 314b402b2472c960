"""What one extra brings, in an environment that holds isochat with that extra alone: `python tests/alone.py mlflow`.

No pytest and no local endpoint are there, so it asks a server of the standard library. What is not as it should be is
an AssertionError.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import isochat
from isochat import BackendNotInstalled, ConfigurationError, Connection, aquery_chat, backends, query_chat

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETION = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]}
STATEMENT = {"statement_id": "1", "status": {"state": "SUCCEEDED"}, "result": {"data_array": [["Hi."]]}}


class Service(BaseHTTPRequestHandler):
    """Gives every question the same answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = json.dumps(STATEMENT if "/sql/" in self.path else COMPLETION).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def service() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def brought(extra: str) -> bool:
    """Whether all that an extra asks for is installed, says the metadata of isochat itself."""
    asked_by = re.compile(rf"extra == ['\"]{extra}['\"]")
    wanted = [line for line in importlib.metadata.requires("isochat") or () if asked_by.search(line)]
    assert wanted, f"isochat has no extra {extra!r}"
    try:
        for line in wanted:
            importlib.metadata.version(re.split(r"[^\w.-]", line)[0])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def ask(name: str, host: str) -> str:
    """The answer through a backend, in a session of its own."""
    kind: Any = backends.load(name)
    said = {"warehouse_id": "w"} if name == "ai-query" else {}
    backend = kind(Connection(host, "t"), **said)
    try:
        return query_chat("Hi", endpoint="e", backend=backend, timeout=30).text
    finally:
        backend.close()


def refusal(kind: type[Exception], name: str, host: str) -> Any:
    """The error that a question through a backend is refused with."""
    try:
        query_chat("Hi", endpoint="e", backend=name, host=host, token=None if host == "local" else "t")
    except kind as error:
        return error
    raise AssertionError(f"{name} answered without what it needs")


def examine(extra: str) -> None:
    """One extra is there, or none."""
    expected = {name for name in backends.BUILT_IN if name == "rest" or brought(name)}
    infos = {info.name: info for info in backends.available()}
    ready = {name for name, info in infos.items() if not info.missing}

    assert brought(extra)
    assert ready == expected, (ready, expected)
    assert extra in ready or extra not in backends.BUILT_IN

    with service() as host:
        answers = {name: ask(name, host) for name in sorted(ready)}
        assert answers == dict.fromkeys(ready, "Hi."), answers

        carrier = "pyreqwest" if find_spec("pyreqwest") else "httpx2"
        with_rest = backends.load("rest")(Connection(host, "t"), transport=carrier)
        assert asyncio.run(aquery_chat("Hi", endpoint="e", backend=with_rest, timeout=30)).text == "Hi."
        assert any(name.startswith(f"isochat.transports.{carrier}") for name in sys.modules)
        assert (carrier == "pyreqwest") == brought("fast")

        for name in sorted(infos.keys() - ready):
            line = f"pip install 'isochat[{name}]'"
            absent = refusal(BackendNotInstalled, name, host)
            assert infos[name].install == line
            assert absent.install == line
            assert line in str(absent)

    typed = subprocess.run([sys.executable, "-m", "isochat", "backends"], capture_output=True, text=True, check=False)
    if brought("cli"):
        assert typed.returncode == 0, typed.stderr
        assert all(name in typed.stdout for name in infos), typed.stdout
    else:
        assert typed.returncode == 2
        assert "pip install 'isochat[cli]'" in typed.stderr, typed.stderr

    if brought("local"):
        assert query_chat("Hi", endpoint="databricks-gpt-5-1", host="local").text == "Hi"
    elif find_spec("aiohttp") is None:  # which LangChain brings along
        assert "pip install 'isochat[local]'" in str(refusal(ConfigurationError, "rest", "local"))

    print(f"isochat {isochat.__version__}, {extra}: ready: {', '.join(sorted(ready))}")  # noqa: T201


if __name__ == "__main__":
    examine(sys.argv[1])
