"""Who may ask: the endpoint's own token, as Bearer or Basic, and the short-lived tokens it hands out."""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from typing import Any
from urllib.parse import parse_qs, unquote

__all__ = ["SignIn"]

NOT_SENT = "Credential was not sent or was of an unsupported type for this API."


class SignIn:
    """The tokens that count."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token or f"local-{secrets.token_hex(16)}"
        self.client_id, self.client_secret = secrets.token_hex(8), f"local-secret-{secrets.token_hex(16)}"
        #: Seconds a handed-out token is good for.
        self.lifetime = 3600.0
        self._issued: dict[str, float] = {}

    def refusal(self, authorization: str | None) -> tuple[int, dict[str, Any]] | None:
        """Status and body for who may not ask, or None for who may."""
        scheme, _, credential = (authorization or "").partition(" ")
        credential = credential.strip()
        if scheme.lower() == "basic":
            user, _, credential = _basic(credential)
            scheme = "bearer" if user == "token" else ""
        if scheme.lower() != "bearer" or not credential:
            return 401, {"error_code": 401, "message": NOT_SENT}
        if _same(credential, self.token):
            return None
        until = self._issued.get(credential)
        if until is None:
            return 403, {"error_code": 403, "message": "Invalid access token."}
        if time.monotonic() > until:
            return 401, {"error_code": 401, "message": "Token is expired."}
        return None

    def issue(self, authorization: str | None, form: bytes) -> tuple[int, dict[str, Any]]:
        """The token endpoint's answer to a client_credentials request."""
        fields = {k: v[-1] for k, v in parse_qs(form.decode("utf-8", "replace")).items()}
        scheme, _, credential = (authorization or "").partition(" ")
        user, _, secret = _basic(credential) if scheme.lower() == "basic" else ("", "", "")
        user, secret = unquote(user) or fields.get("client_id", ""), unquote(secret) or fields.get("client_secret", "")
        if fields.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type", "error_description": "only client_credentials is emulated"}
        if not (_same(user, self.client_id) and _same(secret, self.client_secret)):
            return 401, {"error": "invalid_client", "error_description": "Client authentication failed"}
        issued = f"local-oauth-{secrets.token_hex(16)}"
        self._issued[issued] = time.monotonic() + self.lifetime
        return 200, {
            "access_token": issued,
            "token_type": "Bearer",
            "scope": fields.get("scope", "all-apis"),
            "expires_in": int(self.lifetime),
        }


def _basic(credential: str) -> tuple[str, str, str]:
    try:
        return base64.b64decode(credential, validate=True).decode().partition(":")
    except ValueError:
        return "", "", ""


def _same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())
