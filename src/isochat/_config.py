"""Which setting holds, and where it was found.

Order, highest first:

1. arguments
2. `ISOCHAT_<NAME>` in the environment
3. the standard variables of the Databricks SDK (`DATABRICKS_HOST`, …), after them those of the clouds (`ARM_…`)
4. the nearest `isochat.toml`, or `pyproject.toml` with a table `[tool.isochat]`, from the working directory upwards
5. the profile `DEFAULT` in `~/.databrickscfg`

A profile that somebody *named* holds right after the place that named it: `profile="prod"` as an argument is stronger
than `DATABRICKS_HOST`.

A login goes only to the workspace it stands with: a token found in a lower place than the host, next to another host,
is not used. Nothing is read at import; the environment, the working directory and the home are arguments.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import ipaddress
import math
import os
import re
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from urllib.parse import urlsplit

from isochat.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

__all__ = ["NAMES", "Name", "Setting", "Settings", "settings", "workspace_host"]

ARGUMENT: Final = "argument"
LOCAL: Final = "local"
"""The host that means "start the local endpoint in this process"."""


# --------------------------------------------------------------------------------------------------- what can be set


@dataclass(frozen=True, slots=True)
class Name:
    """One thing that can be set."""

    name: str
    means: str
    kind: Literal["text", "seconds", "count", "switch"] = "text"
    default: object = None
    choices: tuple[str, ...] = ()
    """What a text may be, where that is one of a few."""
    variable: str | None = None
    """The standard variable, read after `ISOCHAT_<NAME>`."""
    login: str | None = None
    """The way of logging in this belongs to, in the words of databricks-sdk's `ConfigAttribute.auth`."""
    bound: bool = False
    """Means something in one workspace only, so it is not carried over to another."""
    secret: bool = False
    in_project: bool = True
    """May stand in a project file. False where the file could choose what is run, or where a secret is sent."""

    @property
    def own_variable(self) -> str:
        return f"{_OWN}{self.name.upper()}"


def _login(name: str, way: str | None, variable: str | None, means: str, **more: Any) -> Name:
    return Name(name, means, variable=variable, login=way, bound=True, **more)


# The variables and the ways are those of databricks-sdk 0.156's `Config`; a test compares them with the SDK's own list.
NAMES: Final[tuple[Name, ...]] = (
    Name("backend", "which client carries the question", default="rest"),
    Name("endpoint", "the serving endpoint to ask"),
    Name("timeout", "seconds for the whole question, retries and waits included", kind="seconds", default=600.0),
    Name("attempts", "how often a question is sent at most", kind="count", default=3),
    Name(
        "transport",
        "what the backend `rest` sends with: `httpx2` or `pyreqwest`",
        default="httpx2",
        choices=("httpx2", "pyreqwest"),
    ),
    Name("host", "the workspace, `https://…`, or `local`", variable="DATABRICKS_HOST"),
    _login("token", "pat", "DATABRICKS_TOKEN", "personal access token, or any bearer token", secret=True),
    Name("profile", "the section of `~/.databrickscfg` to use", variable="DATABRICKS_CONFIG_PROFILE"),
    Name("config_file", "another file instead of `~/.databrickscfg`", variable="DATABRICKS_CONFIG_FILE"),
    _login("auth_type", None, "DATABRICKS_AUTH_TYPE", "which way to log in, where several would do"),
    Name("allow_http", "permit `http://` to a host that is not this machine", kind="switch", default=False),
    Name("warehouse_id", "the SQL warehouse for `ai-query`", variable="DATABRICKS_WAREHOUSE_ID", bound=True),
    _login("client_id", "oauth", "DATABRICKS_CLIENT_ID", "service principal: its application id"),
    _login("client_secret", "oauth", "DATABRICKS_CLIENT_SECRET", "service principal: its secret", secret=True),
    _login("username", "basic", "DATABRICKS_USERNAME", "basic login: user"),
    _login("password", "basic", "DATABRICKS_PASSWORD", "basic login: password", secret=True),
    _login("azure_client_id", "azure", "ARM_CLIENT_ID", "Entra ID service principal: its application id"),
    _login("azure_client_secret", "azure", "ARM_CLIENT_SECRET", "Entra ID service principal: its secret", secret=True),
    _login("azure_tenant_id", "azure", "ARM_TENANT_ID", "Entra ID tenant"),
    _login("azure_use_msi", "azure", "ARM_USE_MSI", "use the machine's managed identity", kind="switch"),
    _login("azure_environment", None, "ARM_ENVIRONMENT", "`PUBLIC`, `USGOVERNMENT` or `CHINA`"),
    _login("azure_workspace_resource_id", "azure", "DATABRICKS_AZURE_RESOURCE_ID", "Azure's own name of the workspace"),
    _login("google_credentials", "google", "GOOGLE_CREDENTIALS", "service account key: JSON or its path", secret=True),
    _login("google_service_account", "google", "DATABRICKS_GOOGLE_SERVICE_ACCOUNT", "service account to act as"),
    _login(
        "metadata_service_url",
        "metadata-service",
        "DATABRICKS_METADATA_SERVICE_URL",
        "a local service that hands out tokens",
        secret=True,
        in_project=False,
    ),
    _login("oidc_token_env", "env-oidc", "DATABRICKS_OIDC_TOKEN_ENV", "the variable that holds an OIDC token"),
    _login("oidc_token_filepath", "file-oidc", "DATABRICKS_OIDC_TOKEN_FILEPATH", "the file that holds an OIDC token"),
    _login("token_audience", None, "DATABRICKS_TOKEN_AUDIENCE", "audience of that OIDC token"),
    _login(
        "discovery_url", None, "DATABRICKS_DISCOVERY_URL", "where the login service describes itself", in_project=False
    ),
    _login("databricks_cli_path", None, "DATABRICKS_CLI_PATH", "the `databricks` program", in_project=False),
    _login("account_id", None, "DATABRICKS_ACCOUNT_ID", "the account, where a login asks for it"),
    _login("workspace_id", None, "DATABRICKS_WORKSPACE_ID", "the workspace, on a host that serves several"),
    _login("scopes", None, None, "OAuth scopes, separated by commas (default `all-apis`)"),
)
BY_NAME: Final = {name.name: name for name in NAMES}
_OPEN: Final = frozenset(name.name for name in NAMES if not name.secret)

_OWN: Final = "ISOCHAT_"
_OWN_VARIABLES: Final = {name.name: name.own_variable for name in NAMES}
_STANDARD_VARIABLES: Final = {n.name: n.variable for n in NAMES if n.variable and n.variable.startswith("DATABRICKS_")}
# ARM_… and GOOGLE_… are often there for somebody else (Terraform), so a DATABRICKS_… login beats them.
_CLOUD_VARIABLES: Final = {n.name: n.variable for n in NAMES if n.variable and not n.variable.startswith("DATABRICKS_")}

# Other tools' words for the same things (litellm, promptfoo). Only mentioned in an error: which of two names somebody
# meant is not ours to guess.
_SYNONYMS: Final = {
    "DATABRICKS_API_BASE": "host",
    "DATABRICKS_WORKSPACE_URL": "host",
    "DATABRICKS_API_KEY": "token",
}

# Where the SDK finds the workspace by itself: a notebook or job, a model serving container, an Azure resource id.
_SELF_EVIDENT: Final = (
    "DATABRICKS_RUNTIME_VERSION",
    "IS_IN_DB_MODEL_SERVING_ENV",
    "IS_IN_DATABRICKS_MODEL_SERVING_ENV",
)


# ------------------------------------------------------------------------------------------------------ what was found


@dataclass(frozen=True, slots=True, repr=False)
class Setting:
    """One setting that holds: its name, its value and where it was found.

    `source` reads `argument`, `ISOCHAT_BACKEND`, `pyproject.toml [tool.isochat]`, `~/.databrickscfg [DEFAULT]` or
    `default`. The repr shows no secret; `value` does.
    """

    name: str
    value: Any
    source: str

    @property
    def shown(self) -> str:
        """The value as it may be printed."""
        if BY_NAME[self.name].secret:
            return "***"
        return _safe(self.value) if self.name == "host" or "://" in str(self.value) else str(self.value)

    def __repr__(self) -> str:
        return f"Setting({self.name}={self.shown}, from {self.source})"


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Settings:
    """All settings that hold, each with its source. Iterating gives them as `Setting`, in the order of `NAMES`."""

    found: tuple[Setting, ...]
    withheld: tuple[str, ...] = ()
    """What was found and not used because it belongs to another workspace: a sentence each, without the secret."""
    conflict: str | None = None
    """Two ways of logging in stand in the same place, and nothing says which to take."""
    synonyms: tuple[str, ...] = ()
    """Other tools' variables that are set and that isochat does not read: a sentence each."""
    self_evident: bool = False
    """The process runs where the SDK knows the workspace by itself (a notebook, a serving container)."""
    unused: tuple[str, ...] = ()
    """Login names that are set somewhere and do not hold; the SDK must not pick them up again."""
    places: tuple[_Place, ...] = field(default=(), repr=False)
    _by_name: dict[str, Setting] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {setting.name: setting for setting in self.found})

    def __iter__(self) -> Iterator[Setting]:
        return iter(self.found)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def setting(self, name: str) -> Setting | None:
        return self._by_name.get(name)

    def get(self, name: str) -> Any:
        """The value of `name`, None if it is set nowhere and has no default."""
        setting = self._by_name.get(name)
        return setting.value if setting else None

    def source(self, name: str) -> str | None:
        setting = self._by_name.get(name)
        return setting.source if setting else None

    def looked(self, name: str) -> str:
        """Every place where `name` was looked for, for an error message."""
        return "; ".join(said for place in self.places if (said := place.says(name)))

    @property
    def backend(self) -> str:
        return cast("str", self.get("backend"))

    @property
    def endpoint(self) -> str | None:
        return cast("str | None", self.get("endpoint"))

    @property
    def timeout(self) -> float:
        return cast("float", self.get("timeout"))

    @property
    def attempts(self) -> int:
        return cast("int", self.get("attempts"))

    @property
    def allow_http(self) -> bool:
        return cast("bool", self.get("allow_http"))

    @property
    def warehouse_id(self) -> str | None:
        return cast("str | None", self.get("warehouse_id"))


@dataclass(frozen=True, slots=True, repr=False)
class _Place:
    """A place where settings stand, with the raw values it holds."""

    label: str
    values: Mapping[str, object]
    note: str = ""
    """Why there is nothing, for an error message."""
    variables: Mapping[str, str] | None = None

    def source(self, name: str) -> str:
        return self.label if self.variables is None else self.variables[name]

    def says(self, name: str) -> str | None:
        """Where this place was searched for `name`; None if it cannot stand here."""
        if self.variables is not None:
            return self.variables.get(name)
        return f"{self.label} {name}" if self.label == ARGUMENT else f"{self.label}{self.note}"

    def setting(self, name: str) -> Setting | None:
        raw = self.values.get(name)
        return None if raw is None else Setting(name, _parsed(BY_NAME[name], raw, self.source(name)), self.source(name))


def settings(
    arguments: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    home: Path | None = None,
) -> Settings:
    """Find every setting, and say where each was found.

    An argument that is None or "" counts as not given, and so does an empty variable. Raises `ConfigurationError` for
    an unknown name, a value that makes no sense and a file that cannot be read, always naming the place. A login that
    is missing or ambiguous is no error here: a caller that brings its own client needs none.

    What this process's own surroundings gave is remembered for as long as they stay the same.
    """
    if not (environ is None and cwd is None and home is None):
        return _find(
            arguments or {},
            os.environ if environ is None else environ,
            _cwd() if cwd is None else cwd,
            _home() if home is None else home,
        )
    if (known := recall(arguments)) is not None:
        return known
    surroundings, began = dict(environment()), time.time()
    cwd, home = _cwd(), _home()
    found = _find(arguments or {}, os.environ, cwd, home)
    if (key := _key(arguments)) is not None and cwd is not None:
        files = _looked_at(found, cwd, home)
        _remember(key, _Memory(found, surroundings, str(cwd), files, time.monotonic()), began)
    return found


def _find(arguments: Mapping[str, object], environ: Mapping[str, str], cwd: Path | None, home: Path | None) -> Settings:
    argued = _arguments(arguments)
    own = _variables(environ, _OWN_VARIABLES)
    standard = _variables(environ, _STANDARD_VARIABLES)
    clouds = _variables(environ, _CLOUD_VARIABLES)
    places = [argued, own, standard, clouds, _project(cwd, home)]
    withheld = _insert_profile(places, home)

    return _chosen(
        places,
        withheld,
        synonyms=tuple(
            f"{variable} is set, and isochat does not read it: it reads {BY_NAME[name].variable}"
            for variable, name in _SYNONYMS.items()
            if environ.get(variable)
        ),
        self_evident=any(environ.get(variable, "").lower() not in {"", "false"} for variable in _SELF_EVIDENT),
    )


def unread(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """The variables `ISOCHAT_…` that are set and that isochat does not read, each with what may have been meant.

    They may be somebody's own, so they are no error, as an unknown name in `isochat.toml` is one.
    """
    known = {variable.removeprefix(_OWN): variable for variable in _OWN_VARIABLES.values()}
    found: list[tuple[str, str | None]] = []
    for variable in sorted(environ):
        name = variable.removeprefix(_OWN)
        if variable.startswith(_OWN) and name not in known and environ[variable]:
            near = difflib.get_close_matches(name.upper(), known, n=2)
            found.append((variable, f"Did you mean {' or '.join(known[each] for each in near)}?" if near else None))
    return found


# ---------------------------------------------------------------------------------------------------- remembered

_MOST: Final = 256  # different questions' settings that are kept
_UNSURE: Final = 2.0  # seconds: a file as young as this may change again and show the same time
#: What tells a file from the same one changed; for one that is not there, and for `.git`, whether it is there.
_Stamp: TypeAlias = "tuple[int, ...] | bool"


@dataclass(slots=True)
class _Memory:
    """Settings, and what they were found in."""

    found: Settings
    environment: dict[Any, Any]
    folder: str
    files: dict[str, _Stamp]
    looked: float


_memories: dict[Hashable, _Memory] = {}


def recall(arguments: Mapping[str, object] | None = None, *, max_age: float = 0.0) -> Settings | None:
    """What `settings(arguments)` would give, if it was found before and still holds; None if that is not known.

    The environment is compared each time. The working directory and the files are looked at each time too, or, given
    a `max_age` in seconds, not at all: what was last looked at longer ago is then not known. So with an age nothing is
    asked of the disk, and it may be called on an event loop.
    """
    memory = _memories.get(_key(arguments))
    if memory is None or memory.environment != environment():
        return None
    now = time.monotonic()
    if max_age:
        return memory.found if now - memory.looked < max_age else None
    if memory.folder != _folder() or not _are_as_they_were(memory.files):
        return None
    memory.looked = now
    return memory.found


def _key(arguments: Mapping[str, object] | None) -> Hashable:
    """What tells these arguments from others; None if they are not to be kept, because a secret is among them."""
    key = []
    for name, value in (arguments or {}).items():
        if value is not None:
            if name not in _OPEN or not isinstance(value, (str, int, float)):
                return None
            key.append((name, type(value), value))
    return tuple(key)


def _remember(key: Hashable, memory: _Memory, began: float) -> None:
    """Keep what was found, unless one of its files may be changing just now."""
    youngest = max((stamp[0] / 1e9 for stamp in memory.files.values() if isinstance(stamp, tuple)), default=0.0)
    if began - youngest > _UNSURE:
        if len(_memories) >= _MOST:
            _memories.clear()
        _memories[key] = memory


def _looked_at(found: Settings, cwd: Path, home: Path | None) -> dict[str, _Stamp]:
    """Every file that could have said something, there or not."""
    folders = list(_folders(cwd, home))
    paths = [folder / name for folder in folders for name, _ in _PROJECT_FILES]
    if (path := _profiles(found.get("config_file"), home)) is not None:
        paths.append(path)
    marks = [str(folder / ".git") for folder in folders]
    return {str(path): _stamp(str(path)) for path in paths} | {mark: os.access(mark, os.F_OK) for mark in marks}


def environment() -> dict[Any, Any]:
    """The environment, to be compared: as it is, for `os.environ` decodes every value that it is asked for."""
    inner = getattr(os.environ, "_data", None)
    return inner if isinstance(inner, dict) else dict(os.environ)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a Path takes three times as long
    except OSError:
        return None


def _are_as_they_were(files: Mapping[str, _Stamp]) -> bool:
    for file, was in files.items():
        # `access` takes half as long as `stat` with its result, or with its exception.
        if (os.access(file, os.F_OK) if isinstance(was, bool) else _stamp(file)) != was:
            return False
    return True


def _stamp(path: str) -> _Stamp:
    try:
        seen = os.stat(path)  # noqa: PTH116 - as above
    except OSError:
        return False
    return seen.st_mtime_ns, seen.st_size, seen.st_ino, seen.st_mode


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # no HOME and no entry for this user, as in some containers
        return None


def _cwd() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it has been deleted
        return None


# ---------------------------------------------------------------------------------------------------- which one holds


def _chosen(places: list[_Place], withheld: list[str], *, synonyms: tuple[str, ...], self_evident: bool) -> Settings:
    rank_of_host, host = _first_host(places)

    def carried(rank: int, name: Name) -> bool:
        """Whether what this place says about `name` may be used with the host."""
        place = places[rank]
        if place.values.get(name.name) is None:
            return False
        if not name.bound or host is None:
            return True
        if host.value == LOCAL:
            return rank == 0
        if rank <= rank_of_host or not _elsewhere(place, host):
            return True
        note = (
            f"{name.name} of {place.source(name.name)} was not used: it stands there with the host "
            f"{_safe(place.values['host'])}, and the host is {_safe(host.value)} ({host.source})"
        )
        if note not in withheld:
            withheld.append(note)
        return False

    way, pinned, conflict = None, False, None
    for rank, place in enumerate(places):
        ways = {name.login: name for name in NAMES if name.login and carried(rank, name)}
        pinned = carried(rank, BY_NAME["auth_type"])
        if pinned:
            break
        if len(ways) > 1:
            shown = " and ".join(sorted(f"{name.name} ({place.source(name.name)})" for name in ways.values()))
            conflict = f"There is more than one login in the same place: {shown}"
            break
        if ways:
            way = next(iter(ways))
            break

    found: list[Setting] = []
    unused: list[str] = []
    for name in NAMES:
        holds = name.login in (None, way) or pinned
        if name.name == "auth_type":
            holds = pinned
        ranks = [rank for rank in range(len(places)) if carried(rank, name)]
        setting = places[ranks[0]].setting(name.name) if holds and ranks else None
        if setting:
            found.append(setting)
        elif name.default is not None:
            found.append(Setting(name.name, name.default, "default"))
        elif name.bound and any(place.values.get(name.name) is not None for place in places):
            unused.append(name.name)
    return Settings(
        tuple(found), tuple(withheld), conflict, synonyms, self_evident, tuple(unused), places=tuple(places)
    )


def _first_host(places: list[_Place]) -> tuple[int, Setting | None]:
    hosts = ((rank, host) for rank, place in enumerate(places) if (host := place.setting("host")))
    return next(hosts, (len(places), None))


def _elsewhere(place: _Place, host: Setting) -> bool:
    """Whether this place speaks of another workspace than `host`."""
    theirs = place.values.get("host")
    return theirs is not None and _comparable(theirs) != _comparable(host.value)


def _comparable(host: object) -> str:
    if not isinstance(host, str) or host == LOCAL:
        return str(host)
    try:
        return workspace_host(host, allow_http=True)
    except ConfigurationError:
        return host


def _safe(host: object) -> str:
    """The host as it may be printed: people write secrets before an "@", after a "?" or "#", and for a port."""
    bare = re.split(r"[?#]", re.sub(r"^(.*://)?.*@", r"\1***@", str(host), flags=re.DOTALL))[0]
    return re.sub(r"^(\w+://)?([^/:\[\]]+):[^/]*[^/\d][^/]*", r"\1\2:***", bare)


# -------------------------------------------------------------------------------------------------------- the places


def _arguments(arguments: Mapping[str, object]) -> _Place:
    for name in arguments:
        if name not in BY_NAME:
            raise ConfigurationError(f"There is no setting {name!r}", hint=_nearest(name, BY_NAME))
    values = {name: value for name, value in arguments.items() if value is not None and value != ""}
    return _Place(ARGUMENT, values)


def _variables(environ: Mapping[str, str], variables: Mapping[str, str]) -> _Place:
    values = {name: value for name, variable in variables.items() if (value := environ.get(variable))}
    return _Place("environment", values, variables=variables)


_PROJECT_FILES: Final = (("isochat.toml", ()), ("pyproject.toml", ("tool", "isochat")))


def _project(cwd: Path | None, home: Path | None) -> _Place:
    """The nearest project file, from the working directory up to the repository, the home or the root."""
    where = "isochat.toml or pyproject.toml [tool.isochat]"
    if cwd is None:
        return _Place(where, {}, note=" (the working directory is gone)")
    for folder in _folders(cwd, home):
        if _everybodys(folder):
            continue
        for file, keys in _PROJECT_FILES:
            path = folder / file
            table = _toml(path, keys, home)
            if table is not None:
                label = f"{_shown(path, home)}{' [tool.isochat]' if keys else ''}"
                values = {key: value for key, value in table.items() if value != ""}
                other = values.get("config_file")
                if isinstance(other, str) and not other.startswith("~"):
                    values["config_file"] = str(folder / other)
                return _Place(label, values)
    return _Place(where, {}, note=f" (there is none from {_shown(cwd, home)} upwards)")


def _folders(cwd: Path, home: Path | None) -> Iterator[Path]:
    for folder in (cwd, *cwd.parents):
        yield folder
        if folder == home or (folder / ".git").exists():
            return


def _everybodys(folder: Path) -> bool:
    """Whether anybody on this machine may put a file there, as in the temporary folder.

    Such a file would decide where this user's token goes: the hazard git answered with `safe.directory`
    (CVE-2022-24765). Sticky as well as world-writable, because a Databricks workspace folder is mounted 0777.
    """
    try:
        mode = folder.stat().st_mode
    except OSError:
        return True
    return bool(mode & stat.S_IWOTH and mode & stat.S_ISVTX)


def _toml(path: Path, keys: tuple[str, ...], home: Path | None) -> dict[str, object] | None:
    """The table at `keys`, checked; None where there is no such file or no such table."""
    shown = _shown(path, home)
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        if keys:
            return None  # nobody said that this pyproject.toml is about us
        raise ConfigurationError(f"{shown} cannot be read: {error.strerror}") from error
    if keys and b"isochat" not in raw:
        return None
    table: object = _parse_toml(raw, shown) if keys else _parse_toml.__wrapped__(raw, shown)
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ConfigurationError(f"{shown}: [tool.isochat] must be a table, not {type(table).__name__}")
    for key, value in table.items():
        _check_project_key(shown, key, value, committed=bool(keys))
    return table


def _check_project_key(shown: str, key: str, value: object, *, committed: bool) -> None:
    name = BY_NAME.get(key)
    where = f"{shown} [tool.isochat]" if committed else shown
    if name is None:
        hint = _nearest(key, BY_NAME)
        if isinstance(value, dict):
            hint = "In isochat.toml the settings stand at the top level, in no table" if not committed else None
        raise ConfigurationError(f"{where}: there is no setting {key!r}", hint=hint)
    if not name.in_project:
        raise ConfigurationError(
            f"{where}: {key} may not stand in a project file, which others may have written",
            hint=f"Set {name.own_variable}, or put it into a profile of ~/.databrickscfg",
        )
    if name.secret and committed:
        raise ConfigurationError(
            f"{where}: {key} is a secret, and pyproject.toml gets committed",
            hint=f"Set {name.own_variable}, use a profile of ~/.databrickscfg, or an isochat.toml that git ignores. "
            "If it has been committed, revoke it",
        )


@functools.lru_cache(maxsize=8)
def _parse_toml(raw: bytes, shown: str) -> dict[str, object]:
    """Cached by content, for a pyproject.toml takes milliseconds; an isochat.toml, which may hold a token, is not."""
    import tomllib

    problem, line_feed = None, b"\n"
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw.count(line_feed, 0, error.start) + 1
        problem = f"line {line} is not UTF-8"
    except tomllib.TOMLDecodeError as error:
        # It names line and column, and quotes one character at most.
        problem = str(error).replace("end of document", f"the end, line {raw.count(line_feed) + 1}")
    # Raised out here so that the error does not drag along the document, which may hold a token.
    raise ConfigurationError(f"{shown} is no valid TOML: {problem}")


def _insert_profile(places: list[_Place], home: Path | None) -> list[str]:
    """Put the profile where its name was said, or last; give back what was deliberately left aside."""
    slot, named = next(
        ((rank + 1, profile) for rank, place in enumerate(places) if (profile := place.setting("profile"))),
        (len(places), None),
    )
    above = places[:slot]
    _, host = _first_host(above)
    logins = [
        place.source(name.name)
        for place in above
        if not (host and _elsewhere(place, host))
        for name in NAMES
        if name.login and name.name in place.values
    ]
    file = next((setting for place in places if (setting := place.setting("config_file"))), None)
    path = _profiles(file.value if file else None, home)
    shown = _shown(path, home) if path else "~/.databrickscfg"

    if host and logins:
        # As databricks-sdk does: the file is not touched once the rest says who asks whom.
        places.insert(slot, _Place(shown, {}, note=" (not needed)"))
        return []
    section, values, why = _databrickscfg(path, shown, named.value if named else None)
    if values is None:
        if named or (file and file.source == "argument"):
            asked = f"The profile {named.value!r} ({named.source})" if named else "The file of config_file"
            raise ConfigurationError(f"{asked} cannot be read: {shown} {why}")
        places.insert(slot, _Place(shown, {}, note=f" ({why})"))
        return []
    label = f"{shown} [{section}]"
    if not named and logins and not host and "host" in values:
        # databricks-sdk does not read the file here either. Whose token it is, nobody said.
        places.insert(slot, _Place(label, {}, note=" (not used)"))
        note = (
            f"The host {_safe(values['host'])} of {label} was not used: nothing says that the login ({logins[0]}) "
            f"belongs to it; name the host, or say profile={section!r}"
        )
        return [note]
    places.insert(slot, _Place(label, values))
    return []


def _databrickscfg(
    path: Path | None, shown: str, profile: str | None
) -> tuple[str | None, dict[str, object] | None, str]:
    """The section that `profile` names, its settings, and why there are none."""
    import configparser

    if path is None:
        return None, None, "is in no home directory: there is none"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None, None, "no such file" if profile is None else "does not exist"
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{shown} cannot be read: {reason}") from None

    # No section lends its keys to the others: databricks-sdk reads every section by itself, DEFAULT included.
    ini = configparser.ConfigParser(interpolation=None, default_section="\0")
    line: int | None = None
    try:
        ini.read_string(text)
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or next((line for line, _ in getattr(error, "errors", ())), 0)
    if line is not None:
        # Out here, for configparser's own errors quote the line, and the line may be a token.
        raise ConfigurationError(f"{shown} cannot be read: line {line} is not `key = value`, or stands there twice")

    wanted = profile
    if wanted is None and ini.has_section("__settings__"):
        wanted = ini["__settings__"].get("default_profile", "").strip() or None
    section = wanted or "DEFAULT"
    sections = [name for name in ini.sections() if name != "__settings__"]
    if section not in sections:
        if wanted is None:
            return None, None, "it has no profile DEFAULT"
        raise ConfigurationError(
            f"{shown} has no profile {section!r}", hint=_nearest(section, sections, "It has no profile at all")
        )
    known = {name.name for name in NAMES if name.bound or name.name == "host"}
    return section, {key: value for key, value in ini[section].items() if key in known and value}, ""


def _profiles(config_file: str | None, home: Path | None) -> Path | None:
    """The file that profiles stand in; None where that is the home directory's and there is none."""
    path = Path(config_file or "~/.databrickscfg")
    if path.parts[:1] != ("~",):
        return path
    return home.joinpath(*path.parts[1:]) if home else None


def _shown(path: Path, home: Path | None) -> str:
    if home and path.is_relative_to(home) and path != home:
        return f"~/{path.relative_to(home).as_posix()}"
    return str(path)


# ------------------------------------------------------------------------------------------------------- the values


def _parsed(name: Name, raw: object, source: str) -> object:
    """What was found, as the value it means. Raises `ConfigurationError` naming where it stands."""
    place = f"{name.name} ({source})" if source != name.own_variable else source
    if name.kind == "seconds":
        seconds = _number(raw, whole=False)
        if seconds is None or not (math.isfinite(seconds) and seconds > 0):
            raise ConfigurationError(f"{place} must be a finite number of seconds above 0, not {raw!r}")
        return seconds
    if name.kind == "count":
        count = _number(raw, whole=True)
        if count is None or count < 1:
            raise ConfigurationError(f"{place} must be a whole number of at least 1, not {raw!r}")
        return int(count)
    if name.kind == "switch":
        switch = raw if isinstance(raw, bool) else _SWITCHES.get(str(raw).strip().lower())
        if switch is None:
            raise ConfigurationError(f"{place} must be true or false, not {raw!r}")
        return switch
    if name.choices and raw not in name.choices:
        shown = ", ".join(map(repr, name.choices[:-1]))
        raise ConfigurationError(f"{place} must be {shown} or {name.choices[-1]!r}, not {raw!r}")
    if isinstance(raw, str) or (name.name == "token" and callable(raw)):
        return raw
    if name.name == "scopes" and isinstance(raw, (list, tuple)):
        return ",".join(map(str, raw))
    allowed = "text, or a function that gives text" if name.name == "token" else "text"
    raise ConfigurationError(f"{place} must be {allowed}, not {type(raw).__name__}")


_SWITCHES: Final = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def _number(raw: object, *, whole: bool) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, (str, int) if whole else (str, int, float)):
        return None
    try:
        return int(raw) if whole else float(raw)
    except (ValueError, OverflowError):
        return None


def _nearest(name: str, known: Mapping[str, object] | list[str], nothing: str | None = None) -> str | None:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return f"There is: {', '.join(sorted(known))}" if known else nothing


_HOSTNAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_INVOCATIONS: Final = re.compile(r"/serving-endpoints/([^/]+)/invocations")


def workspace_host(host: str, *, source: str = "host", allow_http: bool = False) -> str:
    """The workspace's address as `https://name[:port]`, from what people paste.

    `https://` is put in front where there is no scheme. Cut off are a trailing `/`, the browser's `?o=…` and `#…`, and
    `/serving-endpoints`, which OpenAI's `base_url` ends in. Any other path is refused rather than cut, for a path may
    mean a proxy. `http://` is for this machine only, unless `allow_http`: the token would go over the network in the
    clear.
    """
    if bad := unprintable(host):
        raise ConfigurationError(
            f"The host ({source}) contains {bad}", hint="Give it as https://….cloud.databricks.com"
        )
    address = host if "://" in host else f"https://{host}"
    shown = _safe(host)
    if "://" not in host and host != LOCAL and difflib.get_close_matches(host.lower(), [LOCAL], cutoff=0.8):
        raise ConfigurationError(
            f"The host {shown!r} ({source}) is no workspace",
            hint=f"Did you mean {LOCAL!r}, the local endpoint? A host of that name is 'https://{host.lower()}'",
        )
    read = None
    with contextlib.suppress(ValueError):  # whose own words may hold a secret, so ours do not come of them
        url = urlsplit(address)
        read = url, url.port, (url.hostname or "").lower()
    if read is None:
        raise ConfigurationError(f"The host {shown!r} ({source}) is no address")
    url, port, name = read
    if "@" in url.netloc:
        raise ConfigurationError(
            f"The host ({source}) holds a login before an @",
            hint="Give the login as token=, or as client_id= and client_secret=",
        )
    if url.scheme not in ("https", "http"):
        raise ConfigurationError(f"The host {shown!r} ({source}) must begin with https://")
    if not (_ip(name) or _HOSTNAME.fullmatch(name)):
        raise ConfigurationError(f"The host {shown!r} ({source}) is no address")
    if url.scheme == "http" and not (is_this_machine(name) or allow_http):
        raise ConfigurationError(
            f"The host {shown!r} ({source}) would get the token unencrypted",
            hint="Write https://, or say allow_http=True if that network is yours",
        )
    bare = f"{url.scheme}://{f'[{name}]' if ':' in name else name}"
    if port is not None and port != {"https": 443, "http": 80}[url.scheme]:
        bare += f":{port}"
    _check_rest(url.path, url.query, bare, source)
    return bare


@functools.lru_cache(maxsize=64)
def is_this_machine(name: str | None) -> bool:
    """Whether a host's name means loopback, whoever is asked (RFC 6761 for `localhost` and what ends in it)."""
    name = (name or "").lower()
    ip = _ip(name)
    return ip.is_loopback if ip else name == "localhost" or name.endswith(".localhost")


def _check_rest(path: str, query: str, bare: str, source: str) -> None:
    path = path.rstrip("/")
    if invocations := _INVOCATIONS.fullmatch(path):
        raise ConfigurationError(
            f"The host ({source}) is the address of an endpoint",
            hint=f"Say host={bare!r} and endpoint={invocations[1]!r}",
        )
    if path not in ("", "/serving-endpoints"):
        raise ConfigurationError(f"The host ({source}) has a path: {path}", hint=f"Say host={bare!r}")
    if query and not re.fullmatch(r"o=\d+", query):
        raise ConfigurationError(f"The host ({source}) has a query after its ?", hint=f"Say host={bare!r}")


def _ip(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return None if "%" in name else ipaddress.ip_address(name)
    except ValueError:
        return None


def unprintable(text: str) -> str | None:
    """What in this text would break a header or an address, in words."""
    for character in text:
        if character in "\r\n":
            return "a line break"
        if character.isspace():
            return "white space"
        if not character.isprintable():
            return "a control character"
    return None
