"""Who to ask, and as whom.

```python
Connection("https://dbc-1.cloud.databricks.com", "dapi…")        # a host and a token: no SDK, no I/O
Connection()                                                     # whatever the environment and the files say
Connection(profile="prod")
Connection("https://…", client_id="…", client_secret="…")        # any login databricks-sdk knows
Connection(config=workspace_client)                              # a login you have already
Connection("local")                                              # the local endpoint
```
"""

from __future__ import annotations

import contextvars
import difflib
import os
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, Self

from isochat import _config
from isochat.errors import (
    AuthenticationFailed,
    ChatError,
    ConfigurationError,
    ConnectionFailed,
    DeadlineExceeded,
    MalformedReply,
    RateLimited,
    ServiceUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from concurrent.futures import Future

__all__ = ["Connection", "connect"]

_SDK_LINE: Final = "pip install 'isochat[databricks-sdk]'"


class Connection:
    """A workspace and a login for it.

    Give a host and a token, or leave out what the environment, the files or the Databricks SDK know
    (`docs/configuration.md` has the order). `token` may be a function: it is called for every request, in the thread
    that asks, so it can look at what belongs to the current user. `config` is a `databricks.sdk` `Config` or
    `WorkspaceClient` of yours. Further keywords are logins in the SDK's own names: `client_id`, `client_secret`,
    `azure_client_id`, …

    Nothing is asked of the network here; a login that needs it logs in at the first `headers()`. Raises
    `ConfigurationError`, naming every place where a missing setting was looked for.

    Connections are equal when they ask the same host as the same principal. A pickled connection holds its token or
    client secret: keep the pickle as you would keep those.
    """

    __slots__ = ("__weakref__", "_allow_http", "_found_host", "_host", "_login", "host_source", "login_source")

    host_source: str
    """Where the host was found: `argument`, `DATABRICKS_HOST`, `~/.databrickscfg [DEFAULT]`, …"""
    login_source: str
    """Where the login was found."""

    def __init__(
        self,
        host: str | None = None,
        token: str | Callable[[], str] | None = None,
        *,
        profile: str | None = None,
        auth_type: str | None = None,
        config: Any = None,
        allow_http: bool = False,
        **login: str,
    ) -> None:
        if config is not None:
            others = {"token": token, "profile": profile, "auth_type": auth_type, **login}
            if twice := [name for name, value in others.items() if value]:
                raise ConfigurationError(f"config= is a login already, and {', '.join(twice)} would be another one")
            self._hand_over(host, config, allow_http=allow_http)
            return
        if host is not None and not isinstance(host, str):
            raise ConfigurationError(f"host must be text, and it is {type(host).__name__}")
        arguments = {"host": host, "token": token, "profile": profile, "auth_type": auth_type, **login}
        for name in login:
            if name in _config.BY_NAME and not _config.BY_NAME[name].bound and name != "config_file":
                raise ConfigurationError(f"{name} is no part of a login")
        complete = host and token and host != _config.LOCAL and not (profile or auth_type or login)
        if complete and host and (allow_http or not host.lower().startswith("http://")):
            # Nothing is left to find: no variable and no file is looked at.
            self._be(host, _plain(token, "argument"), "argument", "argument", allow_http=allow_http)
            return
        self._follow(_config.settings({**arguments, "allow_http": allow_http or None}))

    # Three ways to become one; each ends in `_be`.

    def _be(self, host: str | None, login: _Login, host_source: str, login_source: str, *, allow_http: bool) -> None:
        if host is not None:
            host = _config.workspace_host(host, source=host_source, allow_http=allow_http)
        self._host, self._login, self._allow_http = host, login, allow_http
        self._found_host = host
        self.host_source, self.login_source = host_source, login_source

    def _hand_over(self, host: str | None, config: Any, *, allow_http: bool) -> None:
        if not hasattr(config, "authenticate"):
            config = getattr(config, "config", config)
        if not callable(getattr(config, "authenticate", None)):
            raise ConfigurationError(
                f"config must be a databricks.sdk Config or WorkspaceClient, not {type(config).__name__}"
            )
        theirs = config.host or None
        self._be(
            theirs or host, _Sdk(given=config), "config.host" if theirs else "argument", "config", allow_http=allow_http
        )
        if host and _config.workspace_host(host, source="argument", allow_http=allow_http) != self._host:
            raise ConfigurationError(
                f"The host is {host} (argument) and {self._host} (config): a login is sent only to its own workspace"
            )

    def _follow(self, found: _config.Settings) -> None:
        host, token, auth_type = found.get("host"), found.get("token"), found.get("auth_type")
        host_source = found.source("host") or "the Databricks SDK"
        if host == _config.LOCAL:
            local_host, local_token = _local()
            login = _plain(token, "argument") if token else _Token(local_token)
            self._be(local_host, login, f"{host_source} (local endpoint)", "local endpoint", allow_http=True)
            return
        if found.conflict:
            raise ConfigurationError(
                found.conflict, hint="Say which with auth_type (ISOCHAT_AUTH_TYPE): 'pat' for the token, 'oauth-m2m', …"
            )
        # Without a host the SDK passes a token over and logs in as the notebook does: not what the caller said.
        if host is None and (token or not (found.self_evident or found.get("azure_workspace_resource_id"))):
            _no_host(found)
        if token and auth_type in (None, "pat") and host:
            source = found.source("token") or ""
            self._be(host, _plain(token, source), host_source, source, allow_http=found.allow_http)
            return
        if auth_type == "pat":
            raise ConfigurationError(
                f"auth_type is 'pat' ({found.source('auth_type')}) and there is no token. "
                f"Looked at: {found.looked('token')}",
                hint=_hint(found, "token"),
            )
        names = {s.name: s.value for s in found if _config.BY_NAME[s.name].bound and s.name != "warehouse_id"}
        login = _Sdk(
            names=names | {name: found.get(name) for name in ("profile", "config_file") if name in found},
            host=_config.workspace_host(host, source=host_source, allow_http=found.allow_http) if host else None,
            unused=found.unused,
            searched=_searched(found),
        )
        sources = dict.fromkeys(s.source for s in found if s.name in names)
        self._be(host, login, host_source, ", ".join(sources) or "the Databricks SDK", allow_http=found.allow_http)

    # ------------------------------------------------------------------------------------------------- for a request

    @property
    def host(self) -> str:
        """The workspace's address, `https://…`, without a slash at the end.

        Where only the SDK knows it (a notebook, a serving container), this logs in.
        """
        if self._found_host is None:
            host = self._login.host()
            if not host:
                raise ConfigurationError(
                    "The Databricks SDK found a login and no workspace host", hint="Set DATABRICKS_HOST"
                )
            self._found_host = _config.workspace_host(host, source=self.host_source, allow_http=self._allow_http)
        return self._found_host

    @property
    def is_static(self) -> bool:
        """Whether `headers()` does no I/O and always gives the same: a plain token."""
        return isinstance(self._login, _Token)

    @property
    def login(self) -> str:
        """The kind of login, in a word: `token`, `token()`, or the SDK's auth type."""
        return self._login.kind

    def headers(self, *, timeout: float | None = None) -> dict[str, str]:
        """The headers that say who asks. Ask for each request: a token lasts an hour.

        A login over the network gets at most `timeout` seconds, then `DeadlineExceeded`; None waits as long as it
        takes. Raises `AuthenticationFailed` when the login is refused, `ConnectionFailed` when nobody answers,
        `ConfigurationError` when there is none.
        """
        return self._login.headers(timeout)

    # It bounds the wait, not the work: others may be waiting for the same login.
    async def aheaders(self, *, timeout: float | None = None) -> dict[str, str]:
        """As `headers()`, without ever blocking the event loop."""
        if isinstance(self._login, _Token):
            return self._login.headers(timeout)
        return await self._login.aheaders(timeout)

    def renew(self) -> bool:
        """Forget a token the service has just refused (401). True if the next one may be another.

        Where a newer token is there already than the one this thread or task was last given, it is kept: sixty
        threads with the same old token cause one login.
        """
        return self._login.renew()

    def key(self) -> Hashable:
        """What tells this connection from others, for caching what belongs to it. Shows no secret."""
        return (self._host, type(self._login).__name__, self._login.key())

    def __eq__(self, other: object) -> bool:
        return self.key() == other.key() if isinstance(other, Connection) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key())

    def __repr__(self) -> str:
        host = self._found_host or "the workspace it runs in"
        return f"<Connection to {host}, login: {self.login} ({self.login_source})>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def connect(settings: _config.Settings) -> Connection:
    """The connection these settings describe."""
    connection = Connection.__new__(Connection)
    connection._follow(settings)  # noqa: SLF001 - the other way to be made
    return connection


def _local() -> tuple[str, str]:
    try:
        from isochat.local import shared

        endpoint = shared()
    except ImportError as error:
        raise ConfigurationError(
            f"host='local' needs the local endpoint, which is not installed: {error}",
            hint="Install it with: pip install 'isochat[local]'",
        ) from error
    return endpoint.host, endpoint.token


def _no_host(found: _config.Settings) -> NoReturn:
    raise ConfigurationError(
        f"No workspace host is set. Looked at: {found.looked('host')}",
        hint=_hint(found, "host")
        or "Set DATABRICKS_HOST and DATABRICKS_TOKEN, or name a profile of ~/.databrickscfg; "
        "host='local' gives the local endpoint",
    )


def _hint(found: _config.Settings, name: str) -> str | None:
    said = [*found.withheld, *found.synonyms]
    if name == "host" and said:
        said.append("host='local' gives the local endpoint")
    return ". ".join(said) or None


def _searched(found: _config.Settings) -> str:
    """Where a token was looked for, for the day the login fails."""
    return ". ".join([f"A token was looked for at: {found.looked('token')}", *found.withheld, *found.synonyms])


# ------------------------------------------------------------------------------------------------------- the logins


class _Login(Protocol):
    @property
    def kind(self) -> str: ...
    def headers(self, timeout: float | None) -> dict[str, str]: ...
    async def aheaders(self, timeout: float | None) -> dict[str, str]: ...
    def host(self) -> str | None: ...
    def renew(self) -> bool: ...
    def key(self) -> Hashable: ...


def _plain(token: object, source: str) -> _Login:
    if callable(token):
        return _Called(token)
    return _Token(_checked(token, f"The token ({source})"))


def _checked(token: object, what: str) -> str:
    """A token that is fit to stand in a header; never shown, for it may be a good one with a line break after it."""
    if not isinstance(token, str) or not token:
        raise ConfigurationError(f"{what} must be text, and it is {'empty' if token == '' else type(token).__name__}")
    if token.lower().startswith("bearer "):
        raise ConfigurationError(f"{what} begins with the word Bearer", hint="Leave the word out")
    if bad := _config.unprintable(token):
        raise ConfigurationError(
            f"{what} contains {bad}", hint="A line break often comes from reading it out of a file"
        )
    if not token.isascii():
        raise ConfigurationError(f"{what} contains a character that no header may hold")
    return token


def _fit(name: str, value: str) -> str:
    """A header that a login gave: a line break in it would begin another, and a client's error would quote it."""
    if not (value.isascii() and value.isprintable()):
        raise ConfigurationError(f"the header {name} that the login gave holds what no header may hold")
    return value


@dataclass(frozen=True, slots=True)
class _Token:
    """A token, once and for all."""

    token: str = field(repr=False)
    kind = "token"

    def headers(self, timeout: float | None) -> dict[str, str]:  # noqa: ARG002 - nothing to wait for
        return {"Authorization": f"Bearer {self.token}"}

    async def aheaders(self, timeout: float | None) -> dict[str, str]:
        return self.headers(timeout)

    def host(self) -> str | None:
        return None

    def renew(self) -> bool:
        return False

    def key(self) -> Hashable:
        return _digest(self.token)


@dataclass(frozen=True, slots=True)
class _Called:
    """A function of the caller that gives the token.

    It runs in the thread that asks, not in one of ours: Streamlit, for one, knows the user by the thread, and there
    `st.context.headers["x-forwarded-access-token"]` is the token. So its time is the caller's own, unbounded. Its
    exceptions go through as they are.
    """

    call: Callable[[], str] = field(repr=False)
    kind = "token()"

    def headers(self, timeout: float | None) -> dict[str, str]:  # noqa: ARG002 - see above
        token = self.call()
        if hasattr(token, "__await__"):
            getattr(token, "close", lambda: None)()
            raise ConfigurationError("The token function is asynchronous; it must be a plain one")
        return {"Authorization": f"Bearer {_checked(token, 'What the token function gave')}"}

    async def aheaders(self, timeout: float | None) -> dict[str, str]:
        asked = _apart(lambda: self.headers(None))
        if not await _awaited(asked, timeout):
            raise DeadlineExceeded(f"The token function gave nothing within {timeout:g} s", timeout=timeout, sent=False)
        return asked.result()

    def host(self) -> str | None:
        return None

    def renew(self) -> bool:
        return True

    def key(self) -> Hashable:
        return _Same(self.call)


# How long one login may take before the next caller starts another one instead of waiting along.
_PATIENCE: Final = 60.0

# The logins of databricks-sdk's own chain whose token is the same for everybody in the process. Any other one is the
# caller's (on behalf of a user, a strategy of their own) and may depend on who asks: it runs in the asking thread.
_EVERYBODYS: Final = frozenset(
    {
        "pat", "basic", "metadata-service", "oauth-m2m", "env-oidc", "file-oidc", "github-oidc", "azure-client-secret",
        "github-oidc-azure", "azure-cli", "azure-devops-oidc", "external-browser", "databricks-cli",
        "google-credentials", "google-id", "model-serving",
    }
)  # fmt: skip
_STATIC: Final = frozenset({"pat", "basic"})

# What databricks-sdk 0.156 requires for a login (`credentials_provider.py`). Those that take what they find on the
# machine (azure-cli, databricks-cli, a notebook) are not here: the SDK tries them when none of these is complete.
_WAYS: Final = (
    ("oauth-m2m", {"client_id", "client_secret"}),
    ("basic", {"username", "password"}),
    ("azure-client-secret", {"azure_client_id", "azure_client_secret"}),
    ("metadata-service", {"metadata_service_url"}),
    ("env-oidc", {"oidc_token_env"}),
    ("file-oidc", {"oidc_token_filepath"}),
    ("google-credentials", {"google_credentials"}),
    ("google-id", {"google_service_account"}),
)


# The login that this thread or task last had headers from, and its generation then.
_held: contextvars.ContextVar[tuple[object, int]] = contextvars.ContextVar("_held", default=(None, 0))


@dataclass(slots=True)
class _Asking:
    """What belongs to one process: a lock, the SDK's config, and the login that is under way."""

    pid: int
    config: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    under_way: Future[dict[str, str]] | None = None
    since: float = 0.0
    generation: int = 0
    """Counts the logins that were forgotten: what an older one still brings is not kept."""
    renew: bool = False


class _Sdk:
    """A login by the Databricks SDK.

    databricks-sdk 0.156 sends its token request without a timeout and holds a lock meanwhile (`oauth.py`,
    `retrieve_token`), and it asks `/.well-known/databricks-config` when a `Config` is made. So both happen in a thread
    of our own that nobody has to wait for, one at a time. While a token is valid the SDK gives it without a request.
    """

    def __init__(
        self,
        *,
        names: Mapping[str, Any] | None = None,
        host: str | None = None,
        unused: tuple[str, ...] = (),
        searched: str = "",
        given: Any = None,
    ) -> None:
        self._names = dict(names or {})
        self._own_host = host
        self._unused = unused
        self._searched = searched
        self._given = given
        self._state = _Asking(os.getpid(), given)
        families = {_config.BY_NAME[name].login for name in (*self._names, *unused)} - {None}
        if given is None and self._way() is None and len(families) > 1:
            # The SDK counts them all, those left out included, and refuses.
            raise ConfigurationError(
                f"There are parts of several logins, and none is complete for {host}",
                hint=f"Say which with auth_type (ISOCHAT_AUTH_TYPE), or give it whole. {self._advice()}",
            )
        if given is None and not _installed():
            raise ConfigurationError(
                f"This login ({self._way() or 'no token was found'}) needs the Databricks SDK, which is not installed. "
                f"{searched}",
                hint=f"Install it with: {_SDK_LINE}, or set DATABRICKS_TOKEN",
            )

    @property
    def kind(self) -> str:
        config = self._here().config
        return (config and config.auth_type) or self._way() or "databricks-sdk"

    def headers(self, timeout: float | None) -> dict[str, str]:
        state = self._here()
        if self._in_asking_thread():
            _held.set((self, state.generation))
            return self._ask_here()
        asked = self._join(state)
        from concurrent.futures import wait

        if not wait([asked], None if timeout is None else min(timeout, threading.TIMEOUT_MAX)).done:
            self._give_up(state, asked, timeout)
        return self._answer(asked)

    async def aheaders(self, timeout: float | None) -> dict[str, str]:
        state = self._here()
        if self._in_asking_thread():
            _held.set((self, state.generation))
            asked = _apart(self._ask_here)
        else:
            asked = self._join(state)
        if not await _awaited(asked, timeout):
            self._give_up(state, asked, timeout)
        return self._answer(asked)

    def host(self) -> str | None:
        config = self._here().config
        if config is None or not config.host:
            self.headers(_PATIENCE)
            config = self._here().config
        return str(config.host) if config and config.host else None

    def renew(self) -> bool:
        state = self._here()
        with state.lock:
            if state.config is None or state.renew:
                return True  # it is forgotten already
            if state.config.auth_type in _STATIC:
                return False
            whose, generation = _held.get()
            if whose is self and generation != state.generation:
                return True  # somebody else has renewed it meanwhile
            self._forget(state)
            return True

    def _forget(self, state: _Asking) -> None:
        state.generation += 1
        state.under_way = None
        if self._given is None:
            state.config = None
        else:
            state.renew = True

    def key(self) -> Hashable:
        if self._given is not None:
            return _Same(self._given)
        return _digest(self._own_host, self._unused, sorted(self._names.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        if self._given is not None:
            raise TypeError(
                "A Connection made from a databricks.sdk Config cannot be pickled: the Config holds locks. "
                "Make the Connection where it is used, or from a profile or client_id and client_secret."
            )
        return _again, (self._names, self._own_host, self._unused, self._searched)

    # ------------------------------------------------------------------------------------------------- asking the SDK

    def _here(self) -> _Asking:
        """The state of this process. A fork leaves the parent's behind, where a lock may be held for ever by nobody."""
        state = self._state
        if state.pid != os.getpid():
            state = self._state = _Asking(os.getpid(), self._given)
        return state

    def _way(self) -> str | None:
        """The SDK's name for the login we hold all parts of."""
        if pinned := self._names.get("auth_type"):
            return str(pinned)
        for way, parts in _WAYS:
            if parts <= self._names.keys():
                return way
        return None

    def _advice(self) -> str:
        """What may be wrong with the settings, and where a token was looked for."""
        pinned = self._names.get("auth_type")
        near = difflib.get_close_matches(str(pinned), _EVERYBODYS, n=1) if pinned not in _EVERYBODYS else []
        said = [f"auth_type is {pinned!r}: did you mean {near[0]!r}?"] if near else []
        for way, parts in _WAYS:
            missing = parts - self._names.keys()
            if missing and (way == pinned or missing != parts):
                said.append(f"{way} needs {' and '.join(sorted(missing))} too.")
        return " ".join((*said, self._searched)).strip()

    def _in_asking_thread(self) -> bool:
        if self._given is not None:
            return self._given.auth_type not in _EVERYBODYS
        # A notebook's login belongs to its thread, and asks nobody over the network.
        return self._way() is None and "DATABRICKS_RUNTIME_VERSION" in os.environ

    def _ask_here(self) -> dict[str, str]:
        try:
            return self._ask(self._here())
        except Exception as error:  # noqa: BLE001 - explained below
            failed = error
        raise self._refusal(failed)  # out here, for the error that is caught may show a secret

    def _join(self, state: _Asking) -> Future[dict[str, str]]:
        with state.lock:
            _held.set((self, state.generation))
            if state.under_way is None or state.under_way.done():
                state.under_way = _apart(lambda: self._ask(state))
                state.since = time.monotonic()
            return state.under_way

    def _give_up(self, state: _Asking, asked: Future[dict[str, str]], timeout: float | None) -> NoReturn:
        with state.lock:
            if state.under_way is asked and self._given is None and time.monotonic() - state.since >= _PATIENCE:
                # It hangs, holding the SDK's lock: the next one gets a Config, and so a lock, of its own.
                self._forget(state)
        raise DeadlineExceeded(
            f"Logging in to {self._place()} as {self.kind} took longer than the {timeout:g} s there were",
            timeout=timeout,
            sent=False,
            hint="The token endpoint is slow or does not answer",
        )

    def _answer(self, asked: Future[dict[str, str]]) -> dict[str, str]:
        error = asked.exception()
        if error is None:
            return dict(asked.result())
        raise self._refusal(error) if isinstance(error, Exception) else error

    def _ask(self, state: _Asking) -> dict[str, str]:
        config, generation = state.config, state.generation
        if config is None:
            try:
                config = self._configured()
            except Exception as error:
                raise _NotConfigured from error
            with state.lock:
                if state.generation == generation:
                    state.config = config
        elif state.renew:
            state.renew = False
            config.init_auth()
        return {str(name): _fit(str(name), str(value)) for name, value in config.authenticate().items()}

    def _configured(self) -> Any:
        from databricks.sdk.config import Config

        known = {attribute.name for attribute in Config.attributes()}
        if unknown := [name for name in self._names if name not in known]:
            raise ConfigurationError(f"The installed databricks-sdk knows no {', '.join(unknown)}", hint="Upgrade it")
        login: dict[str, Any] = dict.fromkeys((name for name in self._unused if name in known), "")
        # Left out, the SDK would look into the environment for them, and send another workspace's token to this one.
        # Empty, it still counts them as ways of logging in: naming the way keeps it from finding too many.
        login |= self._names
        if way := self._way():
            login["auth_type"] = way
        # The SDK asks /.well-known/databricks-config at once, by default for 300 s. Bounded: it is only a help.
        return Config(host=self._own_host, retry_timeout_seconds=1, http_timeout_seconds=10, **login)

    # ------------------------------------------------------------------------------------------------- what went wrong

    def _place(self) -> str:
        config = self._state.config
        return self._own_host or (config and config.host) or "the workspace"

    def _refusal(self, error: Exception) -> ChatError:
        """What went wrong, a new error for everybody who waited: each writes into it what it tried."""
        configuring = isinstance(error, _NotConfigured)
        root = error.__cause__ if configuring and isinstance(error.__cause__, Exception) else error
        chain = list(_chain(root))
        # A token endpoint may repeat the secret it refuses, and a traceback shows the cause's own words.
        leaks = any(secret in f"{link} {link.args}" for link in chain for secret in self._secrets())
        refusal = self._explained(root, chain, configuring=configuring)
        refusal.sent = False  # the question waits for the login
        refusal.__cause__ = None if leaks else root
        return refusal

    def _explained(self, root: Exception, chain: list[BaseException], *, configuring: bool) -> ChatError:
        for link in chain:
            if isinstance(link, ChatError):
                return type(link)(link.message, hint=link.hint)
        said = f"Logging in to {self._place()} as {self.kind} failed: {self._redacted(chain)}"
        for link in chain:
            if transient := _transient(link):
                # The SDK, built with requests, keeps to itself why it could not ask the host.
                trust = "Is the host's certificate trusted here? The Databricks SDK goes by REQUESTS_CA_BUNDLE."
                unheard = transient is ConnectionFailed and self._place().startswith("https:")
                return transient(said, hint=trust if unheard else None)
        if configuring:
            return ConfigurationError(said, hint=self._advice() or None)
        if isinstance(root, (NotImplementedError, KeyError)):
            # databricks-sdk 0.156, `retrieve_token`: a token reply that it cannot read.
            return MalformedReply(said)
        code = re.match(r"([A-Za-z][A-Za-z0-9_.-]*): ", str(root))
        return AuthenticationFailed(said, error_code=code[1] if code else None)

    def _secrets(self) -> list[str]:
        return [value for name, value in self._names.items() if _config.BY_NAME[name].secret and isinstance(value, str)]

    def _redacted(self, chain: list[BaseException]) -> str:
        text = str(chain[0])
        if isinstance(chain[0], ValueError) and chain[0].args and isinstance(chain[0].args[0], bytes):
            text = chain[0].args[0].decode("utf-8", "replace")
        if any(type(link).__name__ == "MissingSchema" for link in chain):
            text = "the host does not say where to log in (/.well-known/databricks-config); discovery_url would say it"
        text = re.split(r"\. (?:Config|Env): ", text)[0]
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return text if len(text) <= 500 else f"{text[:500]}…"


def _again(names: Mapping[str, Any], host: str | None, unused: tuple[str, ...], searched: str) -> _Sdk:
    return _Sdk(names=names, host=host, unused=unused, searched=searched)


class _NotConfigured(Exception):
    """The SDK made no Config; its `__cause__` says why."""


def _installed() -> bool:
    from importlib.util import find_spec

    try:
        return find_spec("databricks.sdk") is not None
    except ModuleNotFoundError:
        return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


# Codes of a token endpoint that is ailing, not refusing. The SDK keeps the code and loses the status.
_AILING: Final = ("temporarily_unavailable", "server_error", "TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR")


def _transient(error: BaseException) -> type[ChatError] | None:
    """The error to raise where trying again may help, by the names of the SDK's and of requests' classes."""
    for cls in type(error).__mro__:
        where = cls.__module__.partition(".")[0]
        if where == "requests" and cls.__name__ in {
            "ConnectionError",
            "Timeout",
            "ChunkedEncodingError",
            "MissingSchema",
        }:
            return ConnectionFailed
        if where == "databricks" and cls.__name__ in {"TooManyRequests", "ResourceExhausted"}:
            return RateLimited
        if where == "databricks" and cls.__name__ in {"InternalError", "TemporarilyUnavailable", "DeadlineExceeded"}:
            return ServiceUnavailable
    if isinstance(error, (TimeoutError, ConnectionError)):
        return ConnectionFailed
    if isinstance(error, ValueError) and error.args:
        said = error.args[0]
        if isinstance(said, bytes):
            # `retrieve_token` raises ValueError(body) where the refusal is no JSON: a proxy's page, not the endpoint's.
            return ServiceUnavailable
        if isinstance(said, str) and said.partition(":")[0] in _AILING:
            return ServiceUnavailable
    return None


# ------------------------------------------------------------------------------------------------------------ threads


def _apart(work: Callable[[], dict[str, str]]) -> Future[dict[str, str]]:
    """Do it in a thread of its own that ends with the process and carries the caller's context variables."""
    from concurrent.futures import Future

    future: Future[dict[str, str]] = Future()
    future.set_running_or_notify_cancel()  # so that one waiting task, cancelled, does not cancel it for the others
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(work)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="isochat-login", daemon=True).start()
    return future


async def _awaited(future: Future[dict[str, str]], timeout: float | None) -> bool:
    """Whether it was done in time. Cancelling the waiting task leaves the work alone."""
    import asyncio

    waiting = asyncio.wrap_future(future)
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        done, _ = await asyncio.wait([waiting], timeout=timeout)
    finally:
        if not future.done():
            waiting.cancel()
    return bool(done)


class _Same:
    """Equal to itself only, keeps its object alive, and shows nothing of it."""

    __slots__ = ("_it",)

    def __init__(self, it: object) -> None:
        self._it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and (self._it is other._it or _is_same_method(self._it, other._it))

    def __hash__(self) -> int:
        method = getattr(self._it, "__func__", None)
        return hash((id(method), id(getattr(self._it, "__self__", None)))) if method else id(self._it)

    def __repr__(self) -> str:
        return f"<{type(self._it).__name__}>"


def _is_same_method(one: object, other: object) -> bool:
    """A bound method is a new object each time it is looked up."""
    mine, theirs = getattr(one, "__func__", None), getattr(other, "__func__", None)
    return mine is not None and mine is theirs and getattr(one, "__self__", 0) is getattr(other, "__self__", 1)


_SALT: Final = os.urandom(16)


def _digest(*parts: object) -> str:
    """A name for a secret that nobody can turn back, not even by guessing, outside this process."""
    from hashlib import blake2b

    return blake2b(repr(parts).encode(), key=_SALT, digest_size=16).hexdigest()
