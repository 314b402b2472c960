"""Everything the local endpoint answers besides chat, as data: metadata, sign-in, and what it says of itself."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from isochat.local._families import ENDPOINTS, FAMILIES
from isochat.local._quirks import QUIRKS
from isochat.local._responses import ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isochat.local._families import Endpoint

__all__ = [
    "EMULATED",
    "NOT_EMULATED",
    "WORKSPACE",
    "config",
    "described",
    "discovery",
    "listed",
    "me",
    "statement",
    "tables",
]

WORKSPACE = "1234567890123456"

#: Method, path and what it is, for everything that is here.
EMULATED: tuple[tuple[str, str, str], ...] = (
    ("POST", "/serving-endpoints/{name}/invocations", "chat, the endpoint named in the path"),
    ("POST", "/serving-endpoints/chat/completions", "chat, the endpoint named by `model`"),
    ("POST", "/serving-endpoints/{name}/served-models/{model}/invocations", "chat with one served entity"),
    ("POST", "/serving-endpoints/responses", "the Responses API, for GPT models and agents"),
    ("POST", "/api/2.0/sql/statements", "SQL: `ai_query` over literals, parameters and VALUES"),
    ("GET", "/api/2.0/sql/statements/{statement_id}", "how a statement stands, and its result"),
    ("POST", "/api/2.0/sql/statements/{statement_id}/cancel", "cancel a statement"),
    ("GET", "/api/2.0/serving-endpoints", "the list of endpoints"),
    ("GET", "/api/2.0/serving-endpoints/{name}", "one endpoint"),
    ("GET", "/api/2.0/preview/scim/v2/Me", "who the token belongs to"),
    ("GET", "/.well-known/databricks-config", "what databricks-sdk asks when it is constructed"),
    ("GET", "/oidc/.well-known/oauth-authorization-server", "OAuth discovery"),
    ("POST", "/oidc/v1/token", "OAuth machine-to-machine tokens (client_credentials)"),
    ("GET", "/.isochat", "this statement; also at /.well-known/isochat-local.json"),
)
#: The beginnings of paths that exist on Databricks and not here, and what they are.
NOT_EMULATED: tuple[tuple[str, str], ...] = (
    ("/serving-endpoints/open-responses", "the Responses API for any provider"),
    ("/serving-endpoints/completions", "legacy text completions"),
    ("/serving-endpoints/embeddings", "embeddings"),
    ("/serving-endpoints/anthropic", "Anthropic's native Messages API"),
    ("/serving-endpoints/gemini", "Google's native Gemini API"),
    ("/ai-gateway", "the AI Gateway's own paths"),
    ("/api/ai-gateway", "the AI Gateway's administration"),
    ("/api/2.0/sql", "SQL other than statements"),
    ("/api/2.1/unity-catalog", "Unity Catalog"),
    ("/oidc/v1/authorize", "signing in with a browser"),
)
NOT_MODELLED = (
    "rate limits and quotas of its own (order a Fault)",
    "guardrails and AI Gateway policies (order a Fault, or a script)",
    "prompt caching (the counts are there and zero)",
    "context windows: a prompt is never too long, save for the body's size",
    "tokens are words",
    "TLS, route-optimized endpoints, and permissions beyond having the token",
)


def config(base: str) -> dict[str, Any]:
    """The host's own metadata."""
    return {
        "oidc_endpoint": f"{base}/oidc",
        "workspace_id": WORKSPACE,
        "account_id": "00000000-0000-4000-8000-000000000000",
        "cloud": "AWS",
    }


def discovery(base: str) -> dict[str, Any]:
    """OAuth endpoints."""
    return {
        "issuer": f"{base}/oidc",
        "authorization_endpoint": f"{base}/oidc/v1/authorize",
        "token_endpoint": f"{base}/oidc/v1/token",
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "scopes_supported": ["all-apis"],
    }


def me() -> dict[str, Any]:
    """The one user there is."""
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "id": "1",
        "userName": "local@example.com",
        "displayName": "Local",
        "active": True,
    }


def described(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint's metadata."""
    family = endpoint.family
    entity: dict[str, Any] = {"name": f"{endpoint.name}-1", "entity_name": endpoint.name, "entity_version": "1"}
    if family.kind == "hosted":
        entity["entity_name"] = f"system.ai.{endpoint.name}"
        entity["foundation_model"] = {"name": f"system.ai.{endpoint.name}", "display_name": family.title}
    elif family.kind == "external":
        entity["external_model"] = {
            "provider": "openai",
            "name": endpoint.model,
            "task": family.task,
            "openai_config": {"openai_api_type": "azure"},
        }
    row: dict[str, Any] = {
        "name": endpoint.name,
        "creator": None if family.kind == "hosted" else "local@example.com",
        "creation_timestamp": 1700000000000,
        "last_updated_timestamp": 1700000000000,
        "state": {"ready": "READY", "config_update": "NOT_UPDATING"},
        "config": {
            "served_entities": [entity],
            "traffic_config": {"routes": [{"served_model_name": entity["name"], "traffic_percentage": 100}]},
        },
        "capabilities": {"function_calling": family.kind != "agent"},
    }
    if family.kind != "external":
        row["task"] = family.task
    if family.kind != "hosted":
        row |= {"id": hashlib.sha256(endpoint.name.encode()).hexdigest()[:32], "permission_level": "CAN_QUERY"}
    return row


def listed(endpoints: Mapping[str, Endpoint]) -> dict[str, Any]:
    """The list of endpoints."""
    return {"endpoints": [described(e) for e in endpoints.values()]}


def statement(endpoints: Mapping[str, Endpoint] | None = None) -> dict[str, Any]:
    """What the local endpoint is and is not: surfaces, families, and every quirk with its source."""
    rows = [(n, e.family.name, e.model) for n, e in endpoints.items()] if endpoints is not None else ENDPOINTS
    return {
        "what": "An emulation of Databricks Model Serving's chat on your own machine. Nothing here reaches Databricks.",
        "emulated": [{"method": m, "path": p, "what": w} for m, p, w in EMULATED],
        "not_emulated": [{"path": p, "what": w} for p, w in NOT_EMULATED],
        "not_modelled": list(NOT_MODELLED),
        "endpoints": [{"name": n, "family": f, "model": m} for n, f, m in rows],
        "families": [
            {
                "name": f.name,
                "title": f.title,
                "kind": f.kind,
                "task": f.task,
                "reasons": f.reasons,
                "parts": sorted(f.parts),
                "quirks": [q for q in QUIRKS if f.has(q)],
            }
            for f in FAMILIES.values()
        ],
        "quirks": [{"id": q.id, "part": q.part, "says": q.says, "source": q.source} for q in QUIRKS.values()],
        "responses": [{"id": q.id, "part": q.part, "says": q.says, "source": q.source} for q in ROWS],
    }


def tables() -> str:
    """The statement's endpoints and quirks as the three Markdown tables the documentation shows."""
    said = statement()
    lines = ["| endpoint | family | `model` in its replies |", "|---|---|---|"]
    lines += [f"| `{e['name']}` | {e['family']} | `{e['model']}` |" for e in said["endpoints"]]
    lines += ["", "| quirk | what it is | families | source |", "|---|---|---|---|"]
    for quirk in said["quirks"]:
        having = ", ".join(f["name"] for f in said["families"] if quirk["id"] in f["quirks"])
        lines.append(f"| `{quirk['id']}` | {quirk['says']} | {having} | {quirk['source']} |")
    lines += ["", "| quirk of the Responses API | what it is | source |", "|---|---|---|"]
    lines += [f"| `{q['id']}` | {q['says']} | {q['source']} |" for q in said["responses"]]
    return "\n".join(lines) + "\n"
