"""What isochat brings to pytest in any project that it is installed in: `isochat_local`, `chat_backend`, a marker.

pytest loads this at the start of every run, of those too that have no use for it. So it imports nothing that pytest has
not: isochat and aiohttp are imported by the first test that asks for a fixture, a client by the question that it puts.
`-p no:isochat` leaves it out.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from isochat.local import LocalEndpoint

_CHOSEN = pytest.StashKey["dict[str, bool]"]()
_ADDRESS = pytest.StashKey["dict[str, Any]"]()
_USES = pytest.mark.usefixtures("isochat_local")

_LONGEST = 150  # characters of a folder's name; file systems take 255 bytes

# What would lead an app elsewhere than to the local endpoint: isochat's own variables, and those of the Databricks SDK.
# The SDK refuses a token beside a service principal's ARM_… or Google's credentials.
_READ = ("ARM_", "DATABRICKS_", "GOOGLE_CREDENTIALS", "ISOCHAT_")


# ------------------------------------------------------------------------------------------------- what can be said


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, two of which may also stand in the configuration file."""
    group = parser.getgroup("isochat")
    backends = "the backends that chat_backend goes through, separated by commas (default: all there are)"
    required = "those of them that have to be installed, or `all`: a test fails where it would be skipped"
    group.addoption("--isochat-backends", metavar="NAMES", help=backends)
    group.addoption("--isochat-require", metavar="NAMES", help=required)
    group.addoption(
        "--isochat-record-mode",
        choices=("none", "once", "new_episodes", "all"),
        help="what to do about the cassette of a test marked with one",
    )
    parser.addini("isochat_backends", backends, default="")
    parser.addini("isochat_require", required, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker; end the run before it begins if a backend's name is misspelt."""
    config.addinivalue_line(
        "markers",
        "isochat(script=..., family=..., faults=...): run the test against the local endpoint, isochat_local;"
        " the keywords are those of isochat.local.LocalEndpoint, with family for a single one of families",
    )
    if _said(config, "backends")[1] or _said(config, "require")[1]:
        _chosen(config)


def _said(config: pytest.Config, option: str) -> tuple[str, str]:
    """Where the backends are named, and what it says there."""
    given = config.getoption(f"isochat_{option}")
    return (
        (f"--isochat-{option}", given)
        if given is not None
        else (f"isochat_{option}", config.getini(f"isochat_{option}"))
    )


def _chosen(config: pytest.Config) -> dict[str, bool]:
    """The backends that `chat_backend` goes through, each with whether it has to be installed."""
    if _CHOSEN not in config.stash:
        from isochat.backends import available

        chosen = _named(config, "backends", [info.name for info in available()]) or [info.name for info in available()]
        required = _named(config, "require", chosen)
        config.stash[_CHOSEN] = {name: name in required for name in chosen}
    return config.stash[_CHOSEN]


def _named(config: pytest.Config, option: str, known: list[str]) -> list[str]:
    where, text = _said(config, option)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return known
    for name in names:
        if name not in known:
            raise pytest.UsageError(f"{where}: {name!r} is none of the backends: {', '.join(known)}")
    return list(dict.fromkeys(names))


# --------------------------------------------------------------------------------------------------------- backends


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `chat_backend` once for each, unless it says itself through which."""
    if "_isochat_backend" in metafunc.fixturenames:
        for marker in metafunc.definition.iter_markers("parametrize"):
            names = marker.args[0] if marker.args else marker.kwargs.get("argnames", ())
            if "chat_backend" in (re.split(r"[,\s]+", names) if isinstance(names, str) else names):
                return
        metafunc.parametrize("_isochat_backend", list(_chosen(metafunc.config)), indirect=True)


@pytest.fixture
def _isochat_backend(request: pytest.FixtureRequest) -> str | None:
    """Apart from `chat_backend`, so that a fixture of that name in a conftest.py takes its place with no parameters."""
    name: str | None = getattr(request, "param", None)
    return name


@pytest.fixture
def chat_backend(request: pytest.FixtureRequest, _isochat_backend: str | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend: the test runs once through each. `query_chat()` takes it where no other is named.

    A backend whose client is not installed is skipped, with the line that installs it, or fails if it is required.
    """
    from isochat import BackendNotInstalled
    from isochat.backends import load

    name: str | None = getattr(request, "param", _isochat_backend)
    if name is None:
        pytest.fail(
            "chat_backend has to be an argument of the test or of a fixture: it is not known in time", pytrace=False
        )
    try:
        load(name)
    except BackendNotInstalled as absent:
        reason = f"{absent.message}: {absent.install}"
        if _chosen(request.config).get(name):
            pytest.fail(f"{_said(request.config, 'require')[0]}: {reason}", pytrace=False)
        pytest.skip(reason)
    monkeypatch.setenv("ISOCHAT_BACKEND", name)
    return name


# ----------------------------------------------------------------------------------------------- the local endpoint


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, obj: object) -> None:
    """What is marked runs against the local endpoint, whether it asks for it or not."""
    if _marked(collector.own_markers) and _USES.mark not in collector.own_markers:
        collector.add_marker(_USES)
    if inspect.isfunction(obj) and _marked(getattr(obj, "pytestmark", ())):
        _USES(obj)


def _marked(markers: Any) -> bool:
    return any(marker.name == "isochat" for marker in markers)


@pytest.fixture
def isochat_local(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEndpoint]:
    """Databricks Model Serving on this machine, and an environment in which every client finds it and nothing else.

    `@pytest.mark.isochat(...)` says what it answers and how it fails; `received` and `questions` are what arrived.
    """
    with _started(request) as local:
        _point(local, monkeypatch, kept="ISOCHAT_BACKEND" if "chat_backend" in request.fixturenames else None)
        yield local
        if "isochat._api" in sys.modules:  # else nobody has asked through isochat
            import isochat

            isochat.close()


def _started(request: pytest.FixtureRequest) -> LocalEndpoint:
    """The test's own endpoint, where the last test's was: an app may keep its client for as long as it lives."""
    from isochat.local import LocalEndpoint, Script

    said = _keywords(request, inspect.signature(LocalEndpoint).parameters)
    if isinstance(script := said.get("script"), Script):  # that other tests may have played
        script.reset()
    address = request.config.stash.setdefault(_ADDRESS, {})
    if said.keys() & {"host", "port", "token"} or {"cassette", "upstream"} <= said.keys():
        address = {}  # its own: where a workspace is recorded, it may be the one that knows the token
    try:
        try:
            local = LocalEndpoint(**{**address, **said}).start()
        except OSError:  # somebody else has that port now
            address.clear()
            local = LocalEndpoint(**said).start()
    except (ImportError, OSError, TypeError, ValueError) as error:
        _fail(request, str(error))
    address.update(port=int(local.host.rpartition(":")[2]), token=local.token)
    return local


def _keywords(request: pytest.FixtureRequest, known: Mapping[str, Any]) -> dict[str, Any]:
    """What the markers say, from the module to the test: what is nearer counts."""
    said: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("isochat"))):
        mine = dict(marker.kwargs)
        if marker.args:
            _fail(request, f"it takes keywords, as in script={marker.args[0]!r}")
        if "family" in mine:
            if "families" in mine:
                _fail(request, "family and families are the same thing")
            mine["families"] = (mine.pop("family"),)
        for name in mine:
            if name not in known:
                near = difflib.get_close_matches(name, [*known, "family"], n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are family, {', '.join(known)}"
                _fail(request, f"there is no keyword {name!r}: {hint}")
        said |= mine
    if said.get("cassette"):
        _insert_cassette(request, said)
    return said


def _insert_cassette(request: pytest.FixtureRequest, said: dict[str, Any]) -> None:
    """Which cassette, `cassettes/<module>/<test>` beside the test's file if not said, and what becomes of it."""
    if said["cassette"] is True:
        test = ".".join([*([request.cls.__qualname__] if request.cls else []), request.node.name])
        said["cassette"] = request.path.parent / "cassettes" / request.path.stem / _folder(test)
    if mode := request.config.getoption("isochat_record_mode"):
        said["record_mode"] = mode
    if said.setdefault("record_mode", "none") == "none":  # the cassette answers, so nothing else is asked
        for name in ("script", "upstream", "upstream_key"):
            said.pop(name, None)


def _folder(test: str) -> str:
    """The test's name as a folder's. One that cannot be it gets a digest, since `a/b` and `a b` would be the same."""
    plain = re.sub(r"[^\w.\[\]-]+", "-", test)[:_LONGEST]
    return plain if plain == test else f"{plain}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"


def _fail(request: pytest.FixtureRequest, why: str) -> NoReturn:
    pytest.fail(f"{request.node.nodeid}: @pytest.mark.isochat: {why}", pytrace=False)


def _point(local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch, kept: str | None) -> None:
    """Have every client find this endpoint, and none of what the shell of whoever runs the tests says."""
    for name in list(os.environ):
        if name.startswith(_READ) and name != kept:
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_HOST", local.host)
    monkeypatch.setenv("DATABRICKS_TOKEN", local.token)
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "local")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", os.devnull)  # so a named profile is an error, not a real workspace
    for name in [name for name in ("no_proxy", "NO_PROXY") if name in os.environ] or ["NO_PROXY"]:
        monkeypatch.setenv(name, "127.0.0.1,localhost", prepend=",")
