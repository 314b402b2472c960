"""Who has no token gets no answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

LLAMA = "databricks-meta-llama-3-3-70b-instruct"
PATH = f"/serving-endpoints/{LLAMA}/invocations"
BODY = b'{"messages":[{"role":"user","content":"Hi"}]}'


def basic(user: str, secret: str) -> str:
    """HTTP basic authentication."""
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "status", "words"),
    [
        ("", 401, "Credential was not sent"),
        ("Bearer", 401, "Credential was not sent"),
        ("Digest x", 401, "Credential was not sent"),
        ("Basic !!", 401, "Credential was not sent"),
        ("Bearer dapi123", 403, "Invalid access token"),
        (basic("ada", "x"), 401, "Credential was not sent"),
        (basic("token", "x"), 403, "Invalid access token"),
    ],
)
def test_without_the_token_it_is_no(ask: Any, header: str, status: int, words: str) -> None:
    """Nothing sent is 401, the wrong thing 403, both in the service's shape; it is recorded as unauthorized."""
    for path, method in ((PATH, "POST"), ("/api/2.0/serving-endpoints", "GET"), ("/nowhere", "GET")):
        got, _, content = ask.request(method, path, BODY if method == "POST" else None, {"Authorization": header})
        assert (got, json.loads(content)["error_code"]) == (status, status)
        assert words in json.loads(content)["message"]
    assert not any(r.authorized for r in ask.local.received)
    assert "dapi123" not in repr(ask.local.received)


def test_the_token_works_as_bearer_and_basic(ask: Any) -> None:
    """As Bearer, and as the password of the user `token`."""
    for header in (f"Bearer {ask.local.token}", f"bearer {ask.local.token}", basic("token", ask.local.token)):
        assert ask.request("POST", PATH, BODY, {"Authorization": header})[0] == 200
    assert all(r.authorized for r in ask.local.received)
    assert ask.local.token not in repr(ask.local.received) + str([dict(r.headers) for r in ask.local.received])


@pytest.mark.parametrize(
    "path",
    [
        "/.isochat",
        "/.well-known/isochat-local.json",
        "/.well-known/databricks-config",
        "/oidc/.well-known/oauth-authorization-server",
    ],
)
def test_discovery_needs_no_token(ask: Any, path: str) -> None:
    """The statement and the discovery documents are for everybody."""
    status, headers, content = ask.request("GET", path, headers={"Authorization": ""})
    assert status == 200
    assert json.loads(content)
    assert headers["content-type"] == "application/json"


def test_a_service_gets_a_short_lived_token(ask: Any) -> None:
    """client_credentials with the right secret gives a token that is accepted until it expires."""
    local = ask.local
    form = b"grant_type=client_credentials&scope=all-apis"
    status, _, content = ask.request(
        "POST", "/oidc/v1/token", form, {"Authorization": basic(local.client_id, local.client_secret)}
    )
    token = json.loads(content)
    assert (status, token["token_type"], token["expires_in"]) == (200, "Bearer", 3600)
    assert ask.request("POST", PATH, BODY, {"Authorization": f"Bearer {token['access_token']}"})[0] == 200
    local.token_lifetime = -1.0
    posted = form + f"&client_id={local.client_id}&client_secret={local.client_secret}".encode()
    expired = json.loads(ask.request("POST", "/oidc/v1/token", posted, {"Authorization": ""})[2])["access_token"]
    assert ask.request("POST", PATH, BODY, {"Authorization": f"Bearer {expired}"})[0] == 401
    assert local.client_secret.encode() not in b"".join(r.body for r in local.received)


@pytest.mark.parametrize(
    ("form", "secret", "status", "error"),
    [
        (b"grant_type=client_credentials", "wrong", 401, "invalid_client"),
        (b"grant_type=password", None, 400, "unsupported_grant_type"),
        (b"", None, 400, "unsupported_grant_type"),
    ],
)
def test_the_wrong_secret_gets_none(ask: Any, form: bytes, secret: str | None, status: int, error: str) -> None:
    """OAuth's own error shape."""
    header = basic(ask.local.client_id, secret or ask.local.client_secret)
    got, _, content = ask.request("POST", "/oidc/v1/token", form, {"Authorization": header})
    assert (got, json.loads(content)["error"]) == (status, error)


def test_another_host_name_is_refused(ask: Any) -> None:
    """A request that names another host, as a web page with a name of its own would, gets no answer (DNS rebinding)."""
    for host, status in (
        ("evil.example:80", 403),
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("app.localhost", 200),
    ):
        assert ask.request("POST", PATH, BODY, {"Host": host})[0] == status
