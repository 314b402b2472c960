"""What holds for every test: nothing leaves this machine, nothing of it is read, nothing is left running.

`filterwarnings = ["error"]` in pyproject.toml does the rest: an unclosed socket or file, and an exception that a thread
or a finalizer swallowed, fail the test that left them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import ipaddress
import os
import re
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import figures
import pytest
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from isochat.local import LocalEndpoint

pytest_plugins = ["isochat.testing.grid"]
collect_ignore = ["plugin"]  # somebody else's, with tests of its own: test_plugin.py runs them where it is installed

# What our clients, and the clients' own clients, would read from the environment of whoever runs the tests.
READ_BY_CLIENTS = (
    "ARM_",
    "AZURE_",
    "DATABRICKS_",
    "GOOGLE_",
    "ISOCHAT_",
    "LANGCHAIN_",
    "LANGSMITH_",
    "MLFLOW_",
    "OPENAI_",
)


def required() -> dict[str, list[Requirement]]:
    """What has to be there, as nox says what it installed: `ISOCHAT_REQUIRE=openai,mlflow,hypothesis`.

    Extras of isochat, and distributions. Where nothing is said, a test whose client is absent is skipped, and says so.
    """
    asked = [name for name in os.environ.get("ISOCHAT_REQUIRE", "").split(",") if name]
    extras: dict[str, list[Requirement]] = {}
    if asked:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # on the path, but not installed
            for said in map(Requirement, importlib.metadata.requires("isochat") or ()):
                for name in re.findall(r'extra == "([^"]+)"', str(said.marker)):
                    if said.marker.evaluate({"extra": name}):  # not what only another Python needs
                        extras.setdefault(name, []).append(said)
    wanted: dict[str, list[Requirement]] = {}
    while asked:
        name = asked.pop()
        wanted[name] = [found for found in extras.get(name, [Requirement(name)]) if found.name != "isochat"]
        asked += [extra for found in extras.get(name, ()) if found.name == "isochat" for extra in found.extras]
    return wanted


REQUIRED = required()


def pytest_configure() -> None:
    """What has to be there and is not ends the run before it begins: where it was skipped, it would be overlooked."""
    absent = sorted({str(wanted) for several in REQUIRED.values() for wanted in several if not _is_there(wanted)})
    if absent:
        raise pytest.UsageError(f"ISOCHAT_REQUIRE is {os.environ['ISOCHAT_REQUIRE']}; not there: {', '.join(absent)}")


def _is_there(wanted: Requirement) -> bool:
    try:
        return wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A backend whose client has to be there leaves out no scenario of the suite."""
    report = yield
    suite = item.cls.__name__.lower() if isinstance(item, pytest.Function) and item.cls else None
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and suite in {f"test{name.replace('-', '')}" for name in REQUIRED}:
        report.outcome = "failed"
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", metavar="PAGE", help="write the fault matrix's figures into this page of the docs")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The fault matrix prints its size and its result, so that no cell is left out in silence."""
    cells = figures.cells(terminalreporter.stats)
    if not cells:
        return
    terminalreporter.section("fault matrix")
    for line in figures.told(cells):
        terminalreporter.write_line(line)
    if page := config.getoption("--figures"):
        figures.written(Path(page), cells)


class LeftTheMachine(AssertionError):
    """A test tried to reach something other than loopback. Not an OSError: clients retry those."""


def is_loopback(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(str(name).partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def strays() -> Iterator[list[str]]:
    """Refuse every connection and name look-up that would leave this machine, and remember it."""
    seen: list[str] = []

    def guard(real: Callable[..., Any], host_of: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            host = host_of(*args, **kwargs)
            if not is_loopback(host):
                seen.append(f"{real.__name__}: {host!r}")
                raise LeftTheMachine(seen[-1])
            return real(*args, **kwargs)

        return guarded

    def peer(sock: socket.socket, address: Any) -> Any:
        return address[0] if sock.family in {socket.AF_INET, socket.AF_INET6} else None

    def name(host: Any = None, *_: Any, **__: Any) -> Any:
        return host

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guard(socket.socket.connect, peer))
        patch.setattr(socket.socket, "connect_ex", guard(socket.socket.connect_ex, peer))
        patch.setattr(socket, "getaddrinfo", guard(socket.getaddrinfo, name))
        yield seen


@pytest.fixture(autouse=True)
def stays_at_home(strays: list[str]) -> Iterator[None]:
    """A connection that was refused and then swallowed by a client still fails the test that made it."""
    strays.clear()
    yield

    assert [] == strays


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody's workspace, nobody's key, no proxy, an empty home."""
    for name in os.environ:
        if name.startswith(READ_BY_CLIENTS) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="isochat-home-", ignore_cleanup_errors=True) as home:
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("USERPROFILE", home)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_thread_left() -> Iterator[None]:
    """When the last test is over, every thread that isochat or a client started has ended."""
    before = set(threading.enumerate())
    yield
    if "isochat.local._endpoint" in sys.modules:  # what `host="local"` started lives as long as the process
        sys.modules["isochat.local._endpoint"]._stop_shared()
    patience = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < patience:
        time.sleep(0.05)

    assert set() == left


@pytest.fixture(scope="session")
def _local_endpoint() -> Iterator[LocalEndpoint]:
    pytest.importorskip("aiohttp", reason="the local endpoint needs aiohttp: pip install 'isochat[local]'")
    pytest.importorskip("isochat.local", reason="isochat.local is not there")
    from isochat.local import LocalEndpoint

    with LocalEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def local(_local_endpoint: LocalEndpoint) -> LocalEndpoint:
    """Databricks Model Serving on this machine, with no orders, no replies and nothing received."""
    _local_endpoint.reset()
    return _local_endpoint
