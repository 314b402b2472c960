"""Which authorities vouch for a host, by one rule for all clients.

Clients on httpx read `SSL_CERT_FILE` and `SSL_CERT_DIR`, clients on requests `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE`.
A company sets one of them and expects it to hold. So where a client's own variables are not set, the others are read.
"""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path
from typing import Any, Final

from isochat.errors import ConfigurationError

HTTPX: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
REQUESTS: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")

#: What to do about a certificate that is not trusted.
HINT: Final = (
    "The host's certificate is not trusted here; SSL_CERT_FILE, or REQUESTS_CA_BUNDLE, names a file of other "
    "authorities to trust."
)


def authorities(variables: tuple[str, ...]) -> str | None:
    """The file or folder of the first of these variables that is set; None leaves it to the client.

    Raises `ConfigurationError` where it names nothing that is there.
    """
    for variable in variables:
        if path := os.environ.get(variable):
            if not Path(path).exists():
                raise ConfigurationError(f"{variable} is {path}, and there is no such file")
            return path
    return None


def trusted(library: Any = None) -> ssl.SSLContext | bool:
    """Who vouches for a host, as the environment says: `verify` of httpx and httpx2.

    `SSL_CERT_FILE`, `SSL_CERT_DIR`, `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`, whichever is set first, else what the
    client trusts by itself. Raises `ConfigurationError` for a file that is not there or holds no certificates.

    Given `library`, the module httpx or httpx2, what its clients trust by themselves is a context too. A context is
    made once in a process for all who want the same: reading every authority takes as long as a hundred questions.
    """
    path = authorities(HTTPX)
    if path is None:
        return True if library is None else _by_itself(library)
    try:
        seen = Path(path).stat()
        return _context(path, (seen.st_mtime_ns, seen.st_size, seen.st_ino))
    except OSError as error:  # an SSLError is one
        raise ConfigurationError(f"{path} holds no certificates that can be read: {error}") from None


@functools.lru_cache(maxsize=8)
def _context(path: str, stamp: tuple[int, ...]) -> ssl.SSLContext:  # noqa: ARG001 - another file of that name is another
    if Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


@functools.cache
def _by_itself(library: Any) -> ssl.SSLContext:
    context: ssl.SSLContext = library.create_ssl_context()
    return context


def _after_fork() -> None:
    """A thread that the child does not have may have been using one."""
    _context.cache_clear()
    _by_itself.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
