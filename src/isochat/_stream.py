"""A streamed answer: its chunks as they come, and the whole at its end.

A stream has exactly one end. Either it is complete (the service gave its finish reason or its `[DONE]`), or
`StreamInterrupted` is raised with everything that had arrived.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from isochat import _wire
from isochat._gather import Gathering
from isochat._retry import Tries, aask, ask
from isochat._types import ChatChunk, ChatResponse, written_by
from isochat.errors import Attempt, ChatError, MalformedReply, ServiceError, StreamInterrupted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from types import TracebackType
    from typing import Self

    from isochat._types import ChatRequest
    from isochat.backends._base import Backend

_END = object()
# After `[DONE]` the reply is read to its end, which lets the connection be used again; a server that keeps it open
# past this is not waited for.
_LAST_BYTES = 0.25


class _Reading:
    """What one attempt at a stream has brought so far. Decides; does not act."""

    def __init__(self, backend: Backend, request: ChatRequest, tries: Tries) -> None:
        self.backend: Backend = backend
        self.request: ChatRequest = request
        self.tries: Tries = tries
        self.gathering: Gathering = Gathering()
        self.request_id: str | None = None
        self.first_event: float | None = None
        self.elapsed: float | None = None
        self.told: bool = False  # of the first token
        self.complete: bool = False  # the service has said so
        self.ended: bool = False  # nothing more will be read
        self.whole: bool = False  # and all of it had come

    def take(self, event: Any) -> ChatChunk | None:
        """Read an event; give the chunk that it is, if it is one."""
        if isinstance(event, _wire.Head):
            self.request_id = event.request_id
        try:
            said = self.backend.decode_event(event)
        except (ServiceError, MalformedReply) as error:
            error.request_id = error.request_id or self.request_id  # an event does not know the reply it came in
            raise
        if isinstance(event, _wire.Reply) or said is _wire.Done.DONE:
            self.complete = True
        if not isinstance(said, ChatChunk):
            return None
        if self.first_event is None:
            self.first_event = self.tries.elapsed()
        if not self.told and _says_something(said):
            self.told = True
            self.tries.tell("first_token")
        self.gathering.add(said)
        return said

    def end(self) -> None:
        """The events have ended. Raises if the answer has not."""
        self.stop()
        asked_for = self.request.options.get("n", 1)
        if self.complete or (self.gathering.complete and self.gathering.choices >= asked_for):
            self.whole = True
            self.tries.end("done", response=self.response())
            return
        if self.gathering.empty:
            raise MalformedReply("the stream ended before it had begun", request_id=self.request_id)
        raise self.broken(None)

    def broken(self, error: ChatError | None) -> StreamInterrupted:
        """The error for a stream that had begun and broke."""
        self.stop()
        said = "it ended without a finish reason" if error is None else error.message
        interrupted = self.interrupted(f"the stream broke in the middle: {said}", error)
        self.tries.end("failed", error=interrupted, response=interrupted.partial)
        return interrupted

    def stop(self) -> None:
        """Nothing more will be read."""
        if not self.ended:
            self.ended, self.elapsed = True, self.tries.elapsed()

    def leave(self, error: BaseException | None = None) -> None:
        """The caller wants no more, or cannot have it."""
        if not self.ended:
            self.stop()
            failed = isinstance(error, Exception)
            self.tries.end("failed" if failed else "abandoned", error=error, response=self.response())

    def interrupted(self, message: str, error: ChatError | None = None) -> StreamInterrupted:
        """The error for a stream that did not come to its end."""
        interrupted = StreamInterrupted(
            message,
            partial=self.response(),
            error=error if isinstance(error, ServiceError) else None,
        )
        interrupted.backend, interrupted.endpoint = self.backend.name, self.request.endpoint
        failed = type(error or interrupted).__name__
        interrupted.attempts = (*self.tries.attempts, Attempt(failed, getattr(error, "status", None), 0.0))
        return interrupted

    def response(self) -> ChatResponse:
        """The answer as far as it has come."""
        return replace(
            written_by(self.gathering.response(), self.request.endpoint),
            request_id=self.request_id,
            backend=self.backend.name,
            attempts=self.tries.attempts,
            first_event=self.first_event,
            elapsed=self.tries.elapsed() if self.elapsed is None else self.elapsed,
        )

    def answer(self) -> ChatResponse:
        """The whole answer. Raises if that is not what came."""
        if not self.whole:
            raise self.interrupted("the stream was left before its end, so there is no whole answer")
        return self.response()


def _says_something(chunk: ChatChunk) -> bool:
    deltas = [choice.delta for choice in chunk.choices]
    return any(delta.text or delta.reasoning or delta.tool_calls or delta.refusal for delta in deltas)


class ChatStream:
    """A streamed answer, to be iterated: `for chunk in stream: print(chunk.text, end="")`.

    Leaving a `with` block, `close()`, or reading to the end gives the connection back.
    """

    def __init__(self, reading: _Reading, events: Generator[Any, None, None], first: ChatChunk | None) -> None:
        self._reading, self._events, self._first = reading, events, first
        self._response: ChatResponse | None = None

    @classmethod
    def open(cls, backend: Backend, request: ChatRequest, tries: Tries) -> ChatStream:
        """Ask, and wait for the first chunk: until it has come the question may be asked again, never after."""
        call = backend.encode(request)

        def begin(left: float) -> ChatStream:
            reading, events = _Reading(backend, request, tries), backend.stream(call, left)
            stream = cls(reading, events, None)
            try:
                stream._first = stream._pull()
            except BaseException:
                events.close()
                raise
            return stream

        return ask(begin, tries)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatChunk:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._reading.ended:
            raise StopIteration
        try:
            chunk = self._pull()
        except StreamInterrupted:
            self._events.close()
            raise
        except ChatError as error:
            self._events.close()
            raise self._reading.broken(error) from error
        except BaseException as error:  # Ctrl-C, say: what was not read is lost with the generator
            self._reading.leave(error)
            self._events.close()
            raise
        if chunk is None:
            self._events.close()
            raise StopIteration
        return chunk

    def _pull(self) -> ChatChunk | None:
        """The next chunk; None at the end of a complete stream."""
        reading = self._reading
        while not reading.complete:
            event = reading.backend.pull(self._events, reading.tries.left(), _END)
            if event is _END:
                break
            if (chunk := reading.take(event)) is not None:
                return chunk
        else:
            self._drain()
        reading.end()
        return None

    def _drain(self) -> None:
        try:
            while self._reading.backend.pull(self._events, _LAST_BYTES, _END) is not _END:
                pass
        except ChatError:
            return

    @property
    def response(self) -> ChatResponse:
        """The whole answer; what is left of the stream is read first.

        Raises `StreamInterrupted` if the stream broke or was closed before its end; `partial` has what had come.
        """
        for _ in self:
            pass
        if self._response is None:
            self._response = self._reading.answer()
        return self._response

    def collect(self) -> ChatResponse:
        """`response`, in the word that `AsyncChatStream` has for it."""
        return self.response

    @property
    def partial(self) -> ChatResponse:
        """The answer as far as it has come."""
        return self._reading.response()

    def close(self) -> None:
        """Stop reading and give the connection back. Raises `RuntimeError` while another thread is reading."""
        if getattr(self._events, "gi_running", False):
            raise RuntimeError("another thread is reading this stream; it is that thread's to close")
        self._reading.leave()
        self._first = None
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'ended' if self._reading.ended else 'open'}, so far {self.partial!r})"


class AsyncChatStream:
    """A streamed answer, to be iterated: `async for chunk in stream: print(chunk.text, end="")`.

    Leaving an `async with` block, `aclose()`, or reading to the end gives the connection back.
    """

    def __init__(self, reading: _Reading, events: AsyncGenerator[Any, None], first: ChatChunk | None) -> None:
        self._reading, self._events, self._first = reading, events, first
        self._response: ChatResponse | None = None

    @classmethod
    async def open(cls, backend: Backend, request: ChatRequest, tries: Tries) -> AsyncChatStream:
        """`ChatStream.open`, awaited."""
        call = backend.encode(request)

        async def begin(left: float) -> AsyncChatStream:
            reading, events = _Reading(backend, request, tries), backend.astream(call, left)
            stream = cls(reading, events, None)
            try:
                stream._first = await stream._pull()
            except BaseException:
                await events.aclose()
                raise
            return stream

        return await aask(begin, tries)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatChunk:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._reading.ended:
            raise StopAsyncIteration
        try:
            chunk = await self._pull()
        except StreamInterrupted:
            await self._events.aclose()
            raise
        except ChatError as error:
            await self._events.aclose()
            raise self._reading.broken(error) from error
        except BaseException as error:  # a cancelled task, say: what was not read is lost with the generator
            self._reading.leave(error)
            raise
        if chunk is None:
            await self._events.aclose()
            raise StopAsyncIteration
        return chunk

    async def _pull(self) -> ChatChunk | None:
        reading = self._reading
        while not reading.complete:
            event = await reading.backend.apull(self._events, reading.tries.left(), _END)
            if event is _END:
                break
            if (chunk := reading.take(event)) is not None:
                return chunk
        else:
            await self._drain()
        reading.end()
        return None

    async def _drain(self) -> None:
        try:
            while await self._reading.backend.apull(self._events, _LAST_BYTES, _END) is not _END:
                pass
        except ChatError:
            return

    async def collect(self) -> ChatResponse:
        """The whole answer; what is left of the stream is read first."""
        async for _ in self:
            pass
        return self.response

    @property
    def response(self) -> ChatResponse:
        """The whole answer, once the stream has been read to its end; before that, `await collect()`.

        Raises `StreamInterrupted` if the stream broke or was closed before its end; `partial` has what had come.
        """
        if not self._reading.ended or self._first is not None:
            raise RuntimeError("the stream has not been read to its end: await collect()")
        if self._response is None:
            self._response = self._reading.answer()
        return self._response

    @property
    def partial(self) -> ChatResponse:
        """The answer as far as it has come."""
        return self._reading.response()

    async def aclose(self) -> None:
        """Stop reading and give the connection back."""
        self._reading.leave()
        self._first = None
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'ended' if self._reading.ended else 'open'}, so far {self.partial!r})"
