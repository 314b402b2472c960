"""Whom the clients trust is found out once in a process, and again where it may have changed."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from isochat import Connection, aquery_chat
from isochat.backends import load, trusted
from isochat.errors import BackendNotInstalled, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from isochat.local import LocalEndpoint

GPT = "databricks-gpt-5-1"  # has a Responses API too


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param)
    return import_module(request.param)


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def test_what_a_client_trusts_by_itself_is_read_once(library: Any) -> None:
    """One context for all clients of a library; without a library, it is left to the client."""
    context = trusted(library)

    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert trusted(library) is context
    assert trusted() is True


def test_a_file_is_read_again_when_it_is_another(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file is one context, for every library; a new one of its name is another."""
    trustme = pytest.importorskip("trustme")
    path = tmp_path / "authorities.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    found = []
    for _ in range(2):
        path.unlink(missing_ok=True)
        trustme.CA().cert_pem.write_to_path(path)
        assert trusted(library) is trusted()
        found.append(trusted(library))
    path.write_text("nothing of the kind", encoding="utf-8")

    assert found[0] is not found[1]
    assert all(isinstance(context, ssl.SSLContext) for context in found)
    assert [context.get_ca_certs() for context in found[:1]] != [context.get_ca_certs() for context in found[1:]]
    with pytest.raises(ConfigurationError, match="no certificates"):
        trusted(library)


# databricks-openai 0.18 makes a client by itself, which ours then takes the place of.
@pytest.mark.parametrize(("name", "theirs"), [("rest", 0), ("openai", 0), ("openai-responses", 0), ("langchain", 1)])
def test_a_new_event_loop_reads_no_certificates(
    name: str, theirs: int, local: LocalEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every loop has a client of its own; what it trusts is there already."""
    try:
        backend = load(name)(Connection(local.host, local.token))
    except BackendNotInstalled as error:
        pytest.skip(str(error))
    made: list[Any] = []
    new = ssl.SSLContext.__new__

    def counting(cls: Any, *said: Any, **more: Any) -> Any:
        made.append(cls)
        return new(cls, *said, **more)

    asyncio.run(aquery_chat("Hi", endpoint=GPT, backend=backend))
    monkeypatch.setattr(ssl.SSLContext, "__new__", counting)
    asyncio.run(aquery_chat("Hi", endpoint=GPT, backend=backend))
    backend.close()

    assert theirs == len(made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_a_context_of_its_own() -> None:
    """A lock inside the parent's may be held by a thread that the child does not have."""
    script = """
        import os, httpx2
        from isochat.backends import trusted
        before = trusted(httpx2)
        if not (child := os.fork()):
            os._exit(10 + (trusted(httpx2) is before))
        assert trusted(httpx2) is before
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    lines = "\n".join(line[8:] for line in script.splitlines())
    said = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "10"
