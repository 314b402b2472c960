"""The families of models and the endpoints that serve them, as rows of data.

A family is a set of quirks (`_quirks`) and little else: what its messages may hold, and what its replies name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from isochat.local._quirks import QUIRKS

__all__ = ["ENDPOINTS", "FAMILIES", "Endpoint", "Family", "endpoints"]


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of model: what it takes and what it gives."""

    name: str
    title: str
    kind: Literal["hosted", "external", "agent"]
    model: str
    quirks: frozenset[str]
    parts: frozenset[str] = frozenset({"text"})
    logprobs: bool = False
    task: str = "llm/v1/chat"

    @property
    def reasons(self) -> Literal["never", "asked", "always", "hidden"]:
        """When it shows what it thought."""
        if self.has("thinking-blocks"):
            return "asked"
        return "always" if self.has("unsigned-reasoning") else "hidden" if self.has("hidden-reasoning") else "never"

    @property
    def id_prefix(self) -> str:
        """What the id of a reply begins with."""
        if self.kind == "agent":
            return ""
        return "msg_bdrk_01" if self.has("bedrock-ids") else "chatcmpl-" if self.has("usage-details") else "chatcmpl_"

    @property
    def call_prefix(self) -> str:
        """What the id of a tool call begins with."""
        return "toolu_bdrk_01" if self.has("bedrock-ids") else "call_"

    def has(self, quirk: str) -> bool:
        """Whether this family has that quirk."""
        return quirk in self.quirks

    def limit(self) -> int | None:
        """The most `max_tokens` may be, or None."""
        return min((n for q in self.quirks if (n := QUIRKS[q].limit) is not None), default=None)

    def refused(self, name: str) -> str | None:
        """The words in which this family refuses a top-level field, or None."""
        return next((QUIRKS[q].refuses[name] for q in sorted(self.quirks) if name in QUIRKS[q].refuses), None)


def _quirks(*names: str) -> frozenset[str]:
    return frozenset(" ".join(names).split())


_HOSTED = "strict-fields upstream-model system-first"
_CLAUDE = (
    f"{_HOSTED} extra-inputs no-empty-text no-reasoning-effort no-tool-strict thinking-budget signed-replay call-ids"
    " bedrock-ids cache-counts thinking-blocks redacted-thinking prose-with-calls empty-arguments null-usage-midstream"
    " role-on-every-chunk list-then-string"
)
_OPEN = f"{_HOSTED} strict-message-keys no-thinking"
_SEES = frozenset({"text", "image_url"})
_READS = _SEES | {"file", "document"}

#: Every family by its name.
FAMILIES: Mapping[str, Family] = {
    f.name: f
    for f in (
        Family(
            "claude-3",
            "Claude 3.7",
            "hosted",
            "us.anthropic.claude-3-7-sonnet-20250219-v1:0",
            _quirks(_CLAUDE, "no-adaptive-thinking"),
            _SEES,
        ),
        Family(
            "claude",
            "Claude 4 to 4.5",
            "hosted",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            _quirks(_CLAUDE, "no-adaptive-thinking no-temperature-with-top-p"),
            _READS,
        ),
        Family(
            "claude-4-6",
            "Claude 4.6 and later",
            "hosted",
            "us.anthropic.claude-opus-4-8",
            _quirks(_CLAUDE, "no-sampling no-prefill signature-only"),
            _READS,
        ),
        Family(
            "gpt-oss",
            "gpt-oss",
            "hosted",
            "gpt-oss-120b-080525",
            _quirks(
                _OPEN,
                "no-stop json-word no-schema-pattern max-tokens-25000 list-content unsigned-reasoning"
                " length-without-text null-details cumulative-usage role-on-every-chunk",
            ),
        ),
        Family(
            "gpt",
            "GPT-5",
            "hosted",
            "gpt-5.1-2025-11-13",
            _quirks(_OPEN, "default-temperature json-word usage-details hidden-reasoning usage-chunk"),
            _READS,
            logprobs=True,
        ),
        Family(
            "gpt-codex",
            "GPT-5 Codex",
            "hosted",
            "gpt-5.1-codex-max",
            _quirks(_OPEN, "responses-only default-temperature json-word usage-details hidden-reasoning usage-chunk"),
            _READS,
        ),
        Family(
            "gemini",
            "Gemini 2.5 and 3",
            "hosted",
            "gemini-3-pro-preview",
            _quirks(
                _OPEN,
                "no-stream-options thought-signature-echo list-content text-thought-signature tool-id-is-name"
                " tool-thought-signature cumulative-usage role-on-every-chunk",
            ),
            _READS | {"video_url", "audio_url"},
        ),
        Family(
            "llama",
            "Llama 3 and 4",
            "hosted",
            "meta-llama-3.3-70b-instruct-121024",
            _quirks(_OPEN, "alternation max-tokens-8192 plain-text-refusals null-details cumulative-usage"),
            _SEES,
            logprobs=True,
        ),
        Family(
            "qwen",
            "Qwen 3.5",
            "hosted",
            "qwen35-122b-a10b",
            _quirks(_OPEN, "max-tokens-8192 list-content unsigned-reasoning cumulative-usage role-on-every-chunk"),
        ),
        Family(
            "external-openai",
            "OpenAI on Azure, as an external model",
            "external",
            "gpt-4o-2024-11-20",
            _quirks(
                "upstream-model external-errors azure-filter-results filter-results-first usage-details usage-chunk"
                " json-word"
            ),
            _SEES | {"input_audio", "file", "refusal"},
            logprobs=True,
        ),
        Family(
            "agent-chat",
            "Custom agent (agent/v2/chat)",
            "agent",
            "agent",
            _quirks("agent-fields agent-messages agent-deltas"),
            task="agent/v2/chat",
            parts=_SEES,
        ),
        Family(
            "agent-legacy",
            "Custom agent (agent/v1/chat)",
            "agent",
            "agent",
            _quirks("agent-fields no-model-no-usage"),
            task="agent/v1/chat",
            parts=_SEES,
        ),
        Family(
            "doc-sample",
            "The documentation's own sample",
            "hosted",
            "some-chat-model",
            _quirks("strict-fields no-thinking empty-message"),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A serving endpoint: its name, its family, and the model id its replies name.

    `upstream` is the name of the model to ask when answers come from an upstream server; None leaves it to that server.
    """

    name: str
    family: Family
    model: str
    upstream: str | None = None


#: The endpoints that are there without being asked for: name, family, model id in replies.
ENDPOINTS: tuple[tuple[str, str, str], ...] = (
    ("databricks-claude-sonnet-4-5", "claude", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("databricks-claude-opus-4-8", "claude-4-6", "us.anthropic.claude-opus-4-8"),
    ("databricks-claude-3-7-sonnet", "claude-3", "us.anthropic.claude-3-7-sonnet-20250219-v1:0"),
    ("databricks-gpt-oss-120b", "gpt-oss", "gpt-oss-120b-080525"),
    ("databricks-gpt-oss-20b", "gpt-oss", "gpt-oss-20b-080525"),
    ("databricks-gpt-5-1", "gpt", "gpt-5.1-2025-11-13"),
    ("databricks-gpt-5-mini", "gpt", "gpt-5-mini-2025-08-07"),
    ("databricks-gpt-5-1-codex-max", "gpt-codex", "gpt-5.1-codex-max"),
    ("databricks-gemini-2-5-pro", "gemini", "gemini-2.5-pro"),
    ("databricks-gemini-3-pro", "gemini", "gemini-3-pro-preview"),
    ("databricks-meta-llama-3-3-70b-instruct", "llama", "meta-llama-3.3-70b-instruct-121024"),
    ("databricks-llama-4-maverick", "llama", "meta-llama-4-maverick-040225"),
    ("databricks-qwen35-122b-a10b", "qwen", "qwen35-122b-a10b"),
    ("external-gpt", "external-openai", "gpt-4o-2024-11-20"),
    ("agent-chat", "agent-chat", "agent"),
    ("agent-legacy", "agent-legacy", "agent"),
    ("doc-sample", "doc-sample", "some-chat-model"),
)

#: What may be said of an endpoint of one's own.
_KEYS = frozenset({"family", "model", "upstream"})


def endpoints(extra: Mapping[str, str | Mapping[str, Any]] | None = None) -> dict[str, Endpoint]:
    """The endpoints served: those above, and your own (`{"my-endpoint": "claude"}`, over one of the same name).

    The value is a family, `"family:upstream-model"`, or a mapping of `family`, `model` (the id in replies) and
    `upstream` (the model to ask). Raises ValueError for a name with a slash, for a family that does not exist, and for
    what is none of these.
    """
    if not isinstance(extra, Mapping | None):
        msg = f"models: expected a mapping of names to families, got {extra!r}"
        raise ValueError(msg)  # noqa: TRY004 - as for every argument of an endpoint
    table = {name: Endpoint(name, FAMILIES[family], model) for name, family, model in ENDPOINTS}
    said: Mapping[Any, Any] = extra or {}  # by somebody who may not have read the types
    for name, row in said.items():
        if not isinstance(name, str) or not name or "/" in name:
            msg = f"models: {name!r} cannot be an endpoint's name: it is no text, has a slash or is empty"
            raise ValueError(msg)
        if isinstance(row, str):
            family_name, _, upstream = row.partition(":")
            row = {"family": family_name, "upstream": upstream or None}  # noqa: PLW2901
        if not isinstance(row, Mapping) or not all(isinstance(row.get(key), str | None) for key in _KEYS):
            msg = f"models[{name!r}]: expected a family, or a mapping of texts, got {row!r}"
            raise ValueError(msg)
        unknown = set(row) - _KEYS
        if unknown or row.get("family") not in FAMILIES:
            what = f"key {min(unknown)!r}" if unknown else f"family {row.get('family')!r}"
            msg = f"models[{name!r}]: no {what}; families are {', '.join(FAMILIES)}"
            raise ValueError(msg)
        family = FAMILIES[row["family"]]
        table[name] = Endpoint(name, family, row.get("model") or family.model, row.get("upstream"))
    return table
