"""The `openai-responses` backend: the OpenAI client's `responses.create`, of major 2 or 3.

GPT models and agents speak the Responses API; the `*-codex` models speak nothing else, and some newer GPT call tools
only there. What is called, how it is timed and how it fails is as in the `openai` backend; what differs is the codec.
"""

from __future__ import annotations

from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, ClassVar

from isochat import _responses
from isochat.backends._openai import OpenAIClient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from isochat import _wire
    from isochat._types import ChatChunk, ChatRequest, ChatResponse
    from isochat.errors import ServiceError

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


class OpenAIResponsesBackend(OpenAIClient):
    """The OpenAI client, to `/serving-endpoints/responses`.

    `client` and `async_client` may be ready clients of yours, as with the `openai` backend. Nothing is kept by the
    service: a conversation goes whole with each question. To have a model's reasoning go back with its answer, ask for
    it with `extra_body={"include": ["reasoning.encrypted_content"]}`.
    """

    name: ClassVar[str] = "openai-responses"
    carries: ClassVar[frozenset[str]] = _responses.CARRIES
    drives: ClassVar[str] = "openai 2 or 3, responses.create"
    route: ClassVar[str] = "/serving-endpoints/responses"

    _resources: ClassVar[str] = "openai.resources.responses"
    _answer: ClassVar[str] = "openai.types.responses:Response"
    _keywords: ClassVar[frozenset[str]] = KEYWORDS

    @classmethod
    def render(cls, request: ChatRequest) -> dict[str, Any]:
        """The body, the endpoint's name in it."""
        return {"model": request.endpoint, **_responses.request_to_json(request)}

    def stream(self, call: dict[str, Any], timeout: float) -> Generator[Any, None, None]:
        """Create the response and give its events as they come, each with the stream that it belongs to."""
        with closing(super().stream(call, timeout)) as events:
            yield from _responses.unfolding(events)

    async def astream(self, call: dict[str, Any], timeout: float) -> AsyncGenerator[Any, None]:
        """`stream`, awaited."""
        following = _responses.Following()
        async with aclosing(super().astream(call, timeout)) as events:
            async for event in events:
                for step in following.steps(event):
                    yield step
        for step in following.end():
            yield step

    def decode(self, reply: _wire.Reply) -> ChatResponse:
        """Read the reply."""
        return _responses.decode_reply(reply)

    def decode_event(self, event: Any) -> ChatChunk | _wire.Done | None:
        """Read the event."""
        return _responses.decode_event(event)

    def _explained(self, refusal: ServiceError) -> ServiceError:
        """A model that has no Responses API is told from a question that was said wrongly."""
        return _responses.explained(refusal)

    def _resource(self, client: Any) -> Any:
        return client.responses
