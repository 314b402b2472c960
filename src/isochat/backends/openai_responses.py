"""The `openai-responses` backend: the OpenAI client's `responses.create`, of major 2 or 3.

GPT models and agents speak the Responses API; the `*-codex` models speak nothing else, and some newer GPT call tools
only there. What is called, how it is timed and how it fails is as in the `openai` backend; what differs is the codec.
"""

from __future__ import annotations

from typing import Any, ClassVar

from isochat.backends._openai import OpenAIClient
from isochat.backends._over_responses import OverResponses

#: What `create` has keywords for, in both majors, of all that a question may hold; the rest goes in its `extra_body`.
#: tests/backends/test_openai_responses.py holds this against the signature of the client that is installed.
KEYWORDS = frozenset(
    {
        "background",
        "context_management",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "moderation",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    }
)


class OpenAIResponsesBackend(OverResponses, OpenAIClient):
    """The OpenAI client, to `/serving-endpoints/responses`.

    `client` and `async_client` may be ready clients of yours, as with the `openai` backend. Nothing is kept by the
    service: a conversation goes whole with each question. To have a model's reasoning go back with its answer, ask for
    it with `extra_body={"include": ["reasoning.encrypted_content"]}`.
    """

    name: ClassVar[str] = "openai-responses"
    drives: ClassVar[str] = "openai 2 or 3, responses.create"

    _resources: ClassVar[str] = "openai.resources.responses"
    _answer: ClassVar[str] = "openai.types.responses:Response"
    _keywords: ClassVar[frozenset[str]] = KEYWORDS

    def _resource(self, client: Any) -> Any:
        return client.responses
