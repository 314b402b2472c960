"""What the backends that speak the Responses API have in common: its codec, whichever client carries it."""

from __future__ import annotations

from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, ClassVar

from isochat import _responses
from isochat.backends._base import Backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from isochat import _wire
    from isochat._types import ChatChunk, ChatRequest, ChatResponse
    from isochat.errors import ServiceError


class OverResponses(Backend):
    """Goes before the backend that drives the client: `class Mine(OverResponses, Client)`."""

    carries: ClassVar[frozenset[str]] = _responses.CARRIES
    route: ClassVar[str] = "/serving-endpoints/responses"

    @classmethod
    def render(cls, request: ChatRequest) -> dict[str, Any]:
        """The body, the endpoint's name in it."""
        return {"model": request.endpoint, **_responses.request_to_json(request)}

    def stream(self, call: Any, timeout: float) -> Generator[Any, None, None]:
        """Ask, and give the events as they come, each with the stream that it belongs to."""
        with closing(super().stream(call, timeout)) as events:
            yield from _responses.unfolding(events)

    async def astream(self, call: Any, timeout: float) -> AsyncGenerator[Any, None]:
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
