"""The Databricks SDK's `WorkspaceClient`, driven so that it asks once, asks nobody else, and logs in as we do."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from isochat._version import __version__
from isochat.backends import _line, _requests
from isochat.errors import ConfigurationError

if TYPE_CHECKING:
    from isochat._connection import Connection


def workspace(connection: Connection) -> Any:
    """A client of ours for a connection. Nothing is asked of the network to make it."""
    host = connection.host
    here = os.environ.get("DATABRICKS_HOST", "").rstrip("/") in (host, host.partition("://")[2])
    config = _unasked()(
        host=host,
        credentials_strategy=Login(connection),
        # Named, because the SDK counts what the environment holds of other logins, and refuses to choose.
        auth_type=Login.KIND,
        # A profile, or a workspace that the environment names for another host, is not for this one.
        profile="",
        **({} if here else {"workspace_id": ""}),
        clock=NoSecondTime(),
        product="isochat",
        product_version=__version__,
    )
    client = import_module("databricks.sdk").WorkspaceClient(config=config)
    _requests.roomy(session(client))
    return client


def _unasked() -> Any:
    """The SDK's `Config`, complete as it is: what the host would say of logins is not asked for.

    databricks-sdk 0.156 asks `/.well-known/databricks-config` in the constructor, for five minutes if need be
    (`test_surprise_the_constructor_asks_the_host`). The login is the connection's, so nothing hangs on it.
    """
    config: Any = import_module("databricks.sdk.config").Config
    config.attributes()  # it collects them from the class that it is first asked of, and a subclass has none of its own
    return type("Unasked", (config,), {"_resolve_host_metadata": lambda _: None})


class Login:
    """The connection's login, as a credentials strategy of the SDK."""

    KIND: ClassVar[str] = "isochat"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def auth_type(self) -> str:
        return self.KIND

    def __call__(self, config: Any) -> Any:  # noqa: ARG002 - the SDK says whose it is
        return self._headers

    def _headers(self) -> dict[str, str]:
        line = _requests.current()
        return self._connection.headers() if line is None else line.login


class NoSecondTime:
    """A clock of the SDK's that ends its retrying, on a line: asked to sleep, it raises what it was to sleep over.

    databricks-sdk 0.156 asks again for five minutes after a 429, a 503, a reset or a timeout, and has no switch for it
    (`retry_timeout_seconds=0` means 300). `test_surprise_it_asks_for_minutes` fails when that has changed.
    """

    def __init__(self, inner: Any = None) -> None:
        self._inner = import_module("databricks.sdk.clock").RealClock() if inner is None else inner

    def time(self) -> float:
        now: float = self._inner.time()
        return now

    def sleep(self, seconds: float) -> None:
        if _requests.current() is None:
            self._inner.sleep(seconds)
            return
        raise sys.exception() or _line.AskedTwice("the client would have waited and asked again")


def session(client: Any) -> Any:
    """The session that the client sends with. It has no public name; so it was called from 0.60 to 0.156."""
    found = getattr(getattr(client.api_client, "_api_client", None), "_session", None)
    if found is None:
        version = import_module("databricks.sdk.version").__version__
        raise ConfigurationError(
            f"isochat does not know how to drive databricks-sdk {version}",
            hint="pip install 'databricks-sdk<1', or use the backend 'rest', which asks the same",
        )
    return found
