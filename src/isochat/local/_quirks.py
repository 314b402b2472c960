"""What is peculiar about the models behind Model Serving: one row a peculiarity, with its source.

A quirk is one observable thing that code written against another service trips over. The rest of this package asks
`family.has(…)` by its id; a row that nothing reads, or a name that no row has, fails a test.

Sources: `D "…"` is a page of the Databricks documentation, a path is a file of a public repository, `live` a third
party's written record of calls to a real workspace (2026), `inferred` says that nobody showed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["QUIRKS", "UNKNOWN", "Quirk"]

Part = Literal["request", "reply", "stream"]


@dataclass(frozen=True, slots=True)
class Quirk:
    """One thing a client written against another service would trip over.

    `limit` is the number a quirk is about, and `refuses` the top-level fields it refuses, each with the words of the
    refusal (`{model}` stands for the upstream model's id).
    """

    id: str
    part: Part
    says: str
    source: str
    limit: int | None = None
    refuses: Mapping[str, str] = field(default_factory=dict)


CHATLAS = "posit-dev/chatlas tests/_vcr/test_provider_databricks/"
LITELLM = "BerriAI/litellm litellm/llms/databricks/chat/transformation.py"
BRIDGE = "databricks/databricks-ai-bridge "
FMAPI = BRIDGE + "src/databricks_ai_bridge/test_utils/fmapi.py"
LANGCHAIN = BRIDGE + "integrations/langchain/tests/unit_tests/test_chat_models.py"
LLAMASTACK = "llamastack/llama-stack tests/integration/recordings/responses/ecf6f0c51485.json"
API = 'D "Foundation model REST API reference"'
REASONING = 'D "Query reasoning models"'
TOOLS = 'D "Function calling on Databricks"'
LIVE = "live (parameter matrix of gpt-oss, September 2026)"
UNKNOWN = "unknown field"

_ROWS = (
    # --- what is refused -------------------------------------------------------------------------------------------
    Quirk(
        "strict-fields",
        "request",
        "A top-level key it does not know is refused, not ignored; "
        "`parallel_tool_calls`, `seed`, the penalties and `max_completion_tokens` are such keys.",
        "microsoft/autogen issue 4761; " + LIVE,
    ),
    Quirk(
        "strict-message-keys",
        "request",
        "A key it does not know inside a message (`name`, `refusal`, …) is refused.",
        "microsoft/autogen issue 4761",
    ),
    Quirk(
        "extra-inputs",
        "request",
        "An extra key inside a message is refused, and the error's message is itself JSON "
        "text: a dumped OpenAI message cannot be sent back as it is.",
        "cline/cline issue 6515; BerriAI/litellm issue 15758",
    ),
    Quirk("system-first", "request", "There is at most one system message, and it is the first.", API),
    Quirk("no-empty-text", "request", "Empty text in a message is refused.", LITELLM + "; posit-dev/chatlas"),
    Quirk(
        "no-temperature-with-top-p",
        "request",
        "`temperature` and `top_p` are refused together.",
        "live (Claude 4.x, September 2026)",
    ),
    Quirk(
        "no-sampling",
        "request",
        "`temperature`, `top_p` and `top_k` are refused.",
        "leonardovida/duckdb-ai issue 85",
        refuses={
            name: "BAD_REQUEST: Model {model} does not support the " + name + " parameter."
            for name in ("temperature", "top_p", "top_k")
        },
    ),
    Quirk("no-prefill", "request", "The last message must not be the assistant's.", LITELLM),
    Quirk(
        "no-reasoning-effort",
        "request",
        "`reasoning_effort` is refused: say `thinking`.",
        LITELLM,
        refuses={"reasoning_effort": UNKNOWN},
    ),
    Quirk(
        "no-tool-strict",
        "request",
        "`strict` in a tool's function is refused.",
        BRIDGE + "integrations/openai/src/databricks_openai/utils/clients.py",
    ),
    Quirk("thinking-budget", "request", "`budget_tokens` of `thinking` must be less than `max_tokens`.", REASONING),
    Quirk(
        "no-adaptive-thinking",
        "request",
        "`thinking` of type `adaptive` is refused.",
        "inferred from block/goose "
        "crates/goose/src/providers/formats/databricks.rs, which sends it to newer models only",
    ),
    Quirk(
        "signed-replay",
        "request",
        "A reasoning block sent back must be unmodified, signature and all, or left out.",
        REASONING,
    ),
    Quirk(
        "call-ids",
        "request",
        "The id of a tool call is letters, digits, `_` and `-`, and no two calls of a conversation have the same: "
        "those of Kimi's and Gemini's calls are refused.",
        "microsoft/vscode pull request 325813; anthropics/claude-code issue 28515",
    ),
    Quirk("no-thinking", "request", "`thinking` is an unknown field.", LIVE, refuses={"thinking": UNKNOWN}),
    Quirk(
        "no-stop", "request", "`stop` is refused.", LIVE, refuses={"stop": 'BAD_REQUEST: Unsupported parameter: "stop"'}
    ),
    Quirk("json-word", "request", '`json_object` needs the word "json" in the messages.', LIVE),
    Quirk("no-schema-pattern", "request", "A strict JSON schema must not use `pattern`.", LIVE),
    Quirk("max-tokens-25000", "request", "`max_tokens` is at most 25,000.", "live (output ceiling)", limit=25_000),
    Quirk(
        "max-tokens-8192",
        "request",
        "`max_tokens` is at most 8,192.",
        "databricks/databricks-sdk-go issue 1183",
        limit=8192,
    ),
    Quirk(
        "plain-text-refusals",
        "request",
        "On the invocations route some refusals are plain text, not JSON.",
        "databricks/databricks-sdk-go issue 1183",
    ),
    Quirk(
        "alternation", "request", "User and assistant messages must alternate.", "instructor-ai/instructor issue 691"
    ),
    Quirk(
        "default-temperature",
        "request",
        "Only the default temperature, 1, is accepted.",
        "inferred from OpenAI's own reasoning models",
    ),
    Quirk(
        "no-stream-options",
        "request",
        "`stream_options` is refused.",
        "maximhq/bifrost core/providers/databricks",
        refuses={"stream_options": "INVALID_ARGUMENT: stream_options is not supported."},
    ),
    Quirk(
        "thought-signature-echo",
        "request",
        "The `thoughtSignature` of a tool call must be sent back with it, as long as the turn lasts; of the calls of "
        "one message, that of the first. For a call of another model's there is a placeholder, "
        "`skip_thought_signature_validator`.",
        FMAPI + "; maximhq/bifrost core/providers/databricks; ai.google.dev/gemini-api/docs/thought-signatures",
    ),
    Quirk(
        "responses-only",
        "request",
        "Chat completions are refused: the `*-codex` models answer through the Responses API only.",
        FMAPI + "; aaif-goose/goose pull request 7516; the words are OpenAI's (arbs-io/vscode-openai issue 358)",
    ),
    Quirk(
        "agent-fields",
        "request",
        "Only `messages` or `input`, `custom_inputs`, `context`, `databricks_options` and "
        "`stream` are taken: no `max_tokens`, no `temperature`, no tools.",
        'D "Query an agent deployed on Model Serving"',
    ),
    Quirk(
        "external-errors",
        "request",
        "The provider's error arrives as JSON text inside the message.",
        "mnorberg-dev/mnorberg-dev.github.io (post of December 2025)",
    ),
    # --- the reply -------------------------------------------------------------------------------------------------
    Quirk(
        "upstream-model",
        "reply",
        "`model` in the reply is the upstream model's id, not the endpoint's name.",
        CHATLAS + "test_databricks_simple_request.yaml",
    ),
    Quirk(
        "bedrock-ids",
        "reply",
        "Ids start with `msg_bdrk_` and `toolu_bdrk_`.",
        CHATLAS + "test_databricks_tool_variations.yaml",
    ),
    Quirk(
        "cache-counts",
        "reply",
        "Usage has `cache_read_input_tokens` and `cache_creation_input_tokens` at its top level.",
        CHATLAS + "test_databricks_simple_streaming_request.yaml",
    ),
    Quirk(
        "thinking-blocks",
        "reply",
        "Asked to think, `content` is a list: a reasoning block with a signature, then text.",
        REASONING,
    ),
    Quirk(
        "redacted-thinking",
        "reply",
        "A thought may be redacted: `summary_encrypted_text` with `data`, no text. "
        "(Here: when the question holds Anthropic's test string for it.)",
        REASONING + "; " + LITELLM,
    ),
    Quirk(
        "signature-only",
        "reply",
        "The thought's text is empty, only its signature is given.",
        "Posit assistant, openai-compat-fetch tests (captured events)",
    ),
    Quirk(
        "prose-with-calls",
        "reply",
        "A tool call comes together with prose.",
        CHATLAS + "test_databricks_tool_variations.yaml",
    ),
    Quirk(
        "empty-arguments",
        "reply",
        "The arguments of a tool without parameters are the empty string, not `{}`.",
        CHATLAS + "test_databricks_tool_variations.yaml",
    ),
    Quirk(
        "list-content",
        "reply",
        "`content` is always a list, even for one word.",
        LIVE + "; leonardovida/duckdb-ai issue 85",
    ),
    Quirk("unsigned-reasoning", "reply", "Reasoning blocks come unasked and have no signature.", LIVE + "; " + FMAPI),
    Quirk("length-without-text", "reply", "Cut short, the list holds reasoning only: there is no text part.", LIVE),
    Quirk("null-details", "reply", "The details of usage are there and null.", LLAMASTACK + "; " + LIVE),
    Quirk(
        "usage-details",
        "reply",
        "Usage has `prompt_tokens_details` and `completion_tokens_details`.",
        LANGCHAIN,
    ),
    Quirk("hidden-reasoning", "reply", "`completion_tokens` counts reasoning that is not shown.", LANGCHAIN),
    Quirk("text-thought-signature", "reply", "A text part carries a `thoughtSignature`.", LANGCHAIN),
    Quirk("tool-id-is-name", "reply", "A tool call's id is the function's name.", FMAPI),
    Quirk("tool-thought-signature", "reply", "A tool call has a `thoughtSignature` beside its function.", LANGCHAIN),
    Quirk(
        "azure-filter-results",
        "reply",
        "Azure's `prompt_filter_results` and `content_filter_results` are in the reply.",
        "mnorberg-dev/mnorberg-dev.github.io (post of December 2025)",
    ),
    Quirk(
        "agent-messages",
        "reply",
        "The reply has `messages` and no `choices`.",
        BRIDGE + "integrations/ai-sdk-provider/tests/__fixtures__/chat-agent-fixtures.ts",
    ),
    Quirk(
        "no-model-no-usage",
        "reply",
        "The reply names no model and counts no tokens.",
        "mlflow/mlflow tests/deployments/databricks/test_databricks.py",
    ),
    Quirk("empty-message", "reply", "`message` is empty, `id` and `finish_reason` are null.", 'D "Query a chat model"'),
    # --- the stream ------------------------------------------------------------------------------------------------
    Quirk(
        "null-usage-midstream",
        "stream",
        "Every chunk has usage, its numbers null until the last.",
        CHATLAS + "test_databricks_simple_streaming_request.yaml",
    ),
    Quirk("cumulative-usage", "stream", "Every chunk has usage, counting up: adding them is wrong.", LLAMASTACK),
    Quirk(
        "usage-chunk",
        "stream",
        "Usage comes, asked or not, in an extra chunk whose `choices` are empty.",
        'D "Use foundation models"',
    ),
    Quirk(
        "role-on-every-chunk",
        "stream",
        "Every delta repeats the role.",
        CHATLAS + "test_databricks_simple_streaming_request.yaml",
    ),
    Quirk(
        "list-then-string",
        "stream",
        "`delta.content` is a list while it reasons and a string afterwards.",
        "Posit assistant, openai-compat-fetch tests (captured events)",
    ),
    Quirk(
        "filter-results-first",
        "stream",
        "The first chunk has no choices, an empty id and the prompt's filter results.",
        "Azure OpenAI reference, content filtering in streams",
    ),
    Quirk(
        "agent-deltas",
        "stream",
        "A chunk is a `delta` without `choices`, and there is no `[DONE]`.",
        BRIDGE + "integrations/ai-sdk-provider/tests/__fixtures__/chat-agent-fixtures.ts",
    ),
)

#: Every quirk by its id.
QUIRKS: Mapping[str, Quirk] = {row.id: row for row in _ROWS}
