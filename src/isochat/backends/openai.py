"""The `openai` backend: the OpenAI client's `chat.completions.create`, of major 2 or 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from isochat import _wire
from isochat.backends._base import EVERYTHING
from isochat.backends._openai import OpenAIClient

if TYPE_CHECKING:
    from isochat._types import ChatChunk, ChatRequest, ChatResponse

#: The options that `create` has keywords for, in both majors; the others go in its `extra_body`.
#: tests/backends/test_openai.py holds this against the signature of the client that is installed.
KEYWORDS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
    }
)


class OpenAIBackend(OpenAIClient):
    """The OpenAI client, to `/serving-endpoints/chat/completions`.

    `client` and `async_client` may be ready clients of yours, an `OpenAI` and an `AsyncOpenAI` or any of their family
    (`DatabricksOpenAI`, what `get_open_ai_client()` gives, your subclass), in place of a connection: their address,
    login and settings are used, but for their retries, which are ours. They stay yours to close.
    """

    name: ClassVar[str] = "openai"
    carries: ClassVar[frozenset[str]] = EVERYTHING
    drives: ClassVar[str] = "openai 2 or 3, chat.completions.create"
    route: ClassVar[str] = "/serving-endpoints/chat/completions"

    _resources: ClassVar[str] = "openai.resources.chat.completions"
    _answer: ClassVar[str] = "openai.types.chat:ChatCompletion"
    _keywords: ClassVar[frozenset[str]] = KEYWORDS | {"messages"}

    @classmethod
    def render(cls, request: ChatRequest) -> dict[str, Any]:
        """The body, the endpoint's name in it."""
        return {"model": request.endpoint, **_wire.request_to_json(request)}

    def decode(self, reply: _wire.Reply) -> ChatResponse:
        """Read the reply."""
        return _wire.decode_reply(reply)

    def decode_event(self, event: Any) -> ChatChunk | _wire.Done | None:
        """Read the event."""
        return _wire.decode_event(event)

    def _resource(self, client: Any) -> Any:
        return client.chat.completions
