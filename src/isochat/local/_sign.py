"""Signatures on thoughts: made here, and only good unmodified.

The real ones are opaque; what matters to a client is that they must come back exactly with what they sign.
"""

from __future__ import annotations

import base64
import hashlib

__all__ = ["holds", "sign"]

_NONCE = 9
_DIGEST = 12


def sign(key: str, text: str) -> str:
    """A signature of the text, different for each key."""
    nonce = hashlib.sha256(f"nonce/{key}".encode()).digest()[:_NONCE]
    return base64.b64encode(nonce + _digest(nonce, text)).decode()


def holds(signature: object, text: str) -> bool:
    """Whether this is a signature made here of exactly this text."""
    if not isinstance(signature, str):
        return False
    try:
        raw = base64.b64decode(signature, validate=True)
    except ValueError:
        return False
    return len(raw) == _NONCE + _DIGEST and raw[_NONCE:] == _digest(raw[:_NONCE], text)


def _digest(nonce: bytes, text: str) -> bytes:
    return hashlib.sha256(b"isochat.local/" + nonce + text.encode("utf-8", "surrogatepass")).digest()[:_DIGEST]
