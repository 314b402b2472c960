"""A streamed answer: its chunks as they come, and the whole at its end.

A stream has exactly one end. Either it is complete (the service gave its finish reason or its `[DONE]`), or
`StreamInterrupted` is raised with everything that had arrived.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from isochat import _wire
from isochat._gather import Gathering
from isochat._retry import Tries, aask, ask
from isochat._types import ChatChunk, ChatResponse, written_by
from isochat.errors import Attempt, ChatError, ConnectionFailed, MalformedReply, ServiceError, StreamInterrupted

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
_LETTING_GO = 2.0  # seconds for the thread that reads a stream to notice that another one has closed it


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
        try:
            said = self.backend.decode_event(event)
        except (ServiceError, MalformedReply) as error:
            error.request_id = error.request_id or self.request_id  # an event does not know the reply it came in
            raise
        if said is _wire.Done.DONE or isinstance(event, _wire.Reply):
            self.complete = True
        if isinstance(said, ChatChunk):
            if not self.told:
                self._tell(said)
            self.gathering.add(said)
            return said
        if isinstance(event, _wire.Head):
            self.request_id = event.request_id
        return None

    def _tell(self, chunk: ChatChunk) -> None:
        """The first chunks: when the first one came, and whether it says something yet."""
        if self.first_event is None:
            self.first_event = self.tries.elapsed()
        if _says_something(chunk):
            self.told = True
            self.tries.tell("first_token")

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
        raise MalformedReply("it ended without a finish reason", request_id=self.request_id)

    def broken(self, error: ChatError) -> StreamInterrupted:
        """The error for a stream that had begun and broke."""
        self.stop()
        interrupted = self.interrupted(f"the stream broke in the middle: {error.message}", error)
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
        attempt = Attempt(failed, getattr(error, "status", None), 0.0, sent=True)
        interrupted.attempts = (*self.tries.attempts, attempt)
        return interrupted

    def response(self) -> ChatResponse:
        """The answer as far as it has come."""
        return written_by(
            self.gathering.response(),
            self.request.endpoint,
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

    Leaving a `with` block, `close()`, or reading to the end gives the connection back. Threads may share it: each chunk
    goes to one of them, and any of them may close it. A forked child may not read it: the bytes are the parent's.
    """

    def __init__(self, reading: _Reading, events: Generator[Any, None, None]) -> None:
        self._reading, self._events = reading, events
        self._first: ChatChunk | None = None
        self._response: ChatResponse | None = None
        self._lock = threading.RLock()  # held by the thread that reads
        self._hold = reading.backend.hold()
        self._closed = False
        self._process = os.getpid()
        # The interpreter, at its end, takes sockets down before the generators that would close them.
        weakref.finalize(self, _finish, events, self._process)

    @classmethod
    def open(cls, backend: Backend, request: ChatRequest, tries: Tries) -> ChatStream:
        """Ask, and wait for the first chunk: until it has come the question may be asked again, never after."""
        call = backend.encode(request)

        def begin(left: float) -> ChatStream:
            stream = cls(_Reading(backend, request, tries), backend.stream(call, left))
            try:
                stream._first = stream._pull()
            except BaseException:
                stream._events.close()
                raise
            return stream

        return ask(begin, tries)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatChunk:
        _at_home(self._process)
        with self._lock:
            if self._first is not None:
                first, self._first = self._first, None
                return first
            if self._reading.ended:
                raise StopIteration
            chunk = self._next()
            if chunk is None:
                self._events.close()
                raise StopIteration
            return chunk

    def _next(self) -> ChatChunk | None:
        """`_pull`, when the stream has begun: what goes wrong now is an interruption."""
        try:
            chunk = self._pull()
        except ChatError as error:
            self._events.close()
            if self._closed:  # by another thread, which has cut it off
                self._reading.leave()
                return None
            if isinstance(error, StreamInterrupted):
                raise
            raise self._reading.broken(error) from error
        except BaseException as error:  # Ctrl-C, say: what was not read is lost with the generator
            self._reading.leave(error)
            self._events.close()
            raise
        return None if self._closed else chunk

    def _pull(self) -> ChatChunk | None:
        """The next chunk; None at the end of a complete stream."""
        reading = self._reading
        while not reading.complete:
            event = reading.backend.pull(self._events, reading.tries.left(), _END, self._hold)
            if event is _END:
                break
            if (chunk := reading.take(event)) is not None:
                return chunk
        else:
            self._drain()
        if self._closed and not reading.complete:
            reading.leave()
        else:
            reading.end()
        return None

    def _drain(self) -> None:
        self._hold.take(None)  # the connection may be another question's in a moment
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
        """Stop reading and give the connection back.

        A thread that is reading it is cut off: its loop ends there, and `response` raises `StreamInterrupted`.
        """
        if self._process != os.getpid():
            return  # it is the parent's to close
        reading_elsewhere = not self._lock.acquire(blocking=False)
        self._closed = True
        if reading_elsewhere:
            self._hold.cut()
            if not self._lock.acquire(timeout=_LETTING_GO):  # it waits for something else, and closes when that comes
                self._reading.leave()
                return
        try:
            self._reading.leave()
            self._first = None
            if getattr(self._events, "gi_running", False):  # a signal's handler, or a listener, of this thread's own
                self._hold.cut()
            else:
                self._events.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'ended' if self._reading.ended else 'open'}, so far {self.partial!r})"


def _finish(events: Generator[Any, None, None], process: int) -> None:
    """Close what was left open. Not what a thread reads to the last, nor what is the parent's."""
    if process == os.getpid() and not getattr(events, "gi_running", False):
        events.close()


class _Source:
    """The events of one attempt, in a task of their own that begins, reads and closes them.

    An asynchronous generator must not be closed by one while another reads or closes it, and clients nest half a dozen
    of them. `asyncio.run()` closes all that are open at its end, all at once, and they stumble over each other
    (`aclose(): asynchronous generator is already running`: httpx2 2.16 does without isochat, too). Before that it
    cancels every task; so this one closes them first, from the outside in, whoever has forgotten the stream.
    """

    def __init__(self, backend: Backend, call: Any, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._wanted: asyncio.Queue[float] = asyncio.Queue()
        self._said: asyncio.Queue[tuple[Any, Exception | None]] = asyncio.Queue()
        # The task must not know this object, whose end is the stream's end for it.
        reading = _read(backend, backend.astream(call, timeout), self._wanted, self._said)
        self._task = self._loop.create_task(reading, name="isochat-stream")
        self._task.add_done_callback(_at_work.discard)
        self._closing = False
        _at_work.add(self._task)

    async def pull(self, timeout: float) -> Any:
        """The next event, or `_END`. One at a time."""
        _at_home(self._process)
        if self._task.done():
            raise _cancelled()
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this stream belongs to another event loop, the one that it was opened on")
        self._wanted.put_nowait(timeout)
        event, error = await self._said.get()
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        return event

    async def close(self) -> None:
        """Have the task close them, and wait for it."""
        self._end()
        if not self._task.done() and self._process == os.getpid() and asyncio.get_running_loop() is self._loop:
            await asyncio.wait([self._task])
        if self._task.done() and not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    def _end(self) -> None:
        if self._closing or self._task.done() or self._process != os.getpid():
            return
        self._closing = True  # once: a second time would end its closing
        with suppress(RuntimeError):  # that loop is closed
            self._loop.call_soon_threadsafe(self._task.cancel)

    def __del__(self) -> None:
        if hasattr(self, "_closing"):
            self._end()


# The loop knows its tasks weakly: one that nobody else knows could be collected while it waits.
_at_work: set[asyncio.Task[None]] = set()


async def _read(
    backend: Backend,
    events: AsyncGenerator[Any, None],
    wanted: asyncio.Queue[float],
    said: asyncio.Queue[tuple[Any, Exception | None]],
) -> None:
    """Read the events, each when it is wanted, and close them."""
    try:
        async with aclosing(events):
            while True:
                timeout = await wanted.get()
                try:
                    event, error = await backend.apull(events, timeout, _END), None
                except Exception as failed:  # noqa: BLE001 - it belongs to whoever waits
                    event, error = _END, failed
                said.put_nowait((event, error))
                if event is _END:
                    return
    finally:
        said.put_nowait((_END, _cancelled()))  # for one who waits all the same


def _cancelled() -> ConnectionFailed:
    return ConnectionFailed("the task that read the stream was cancelled, or its event loop has ended", sent=True)


class AsyncChatStream:
    """A streamed answer, to be iterated: `async for chunk in stream: print(chunk.text, end="")`.

    Leaving an `async with` block, `aclose()`, or reading to the end gives the connection back. Tasks may share it: each
    chunk goes to one of them, and any of them may close it. It stays with its event loop, and ends with it.
    """

    def __init__(self, reading: _Reading, source: _Source) -> None:
        self._reading, self._source = reading, source
        self._first: ChatChunk | None = None
        self._response: ChatResponse | None = None
        self._lock = asyncio.Lock()  # held by the task that reads
        self._closed = False

    @classmethod
    async def open(cls, backend: Backend, request: ChatRequest, tries: Tries) -> AsyncChatStream:
        """`ChatStream.open`, awaited."""
        call = backend.encode(request)

        async def begin(left: float) -> AsyncChatStream:
            stream = cls(_Reading(backend, request, tries), _Source(backend, call, left))
            try:
                stream._first = await stream._pull()
            except BaseException:
                await stream._source.close()
                raise
            return stream

        return await aask(begin, tries)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatChunk:
        async with self._lock:
            if self._first is not None:
                first, self._first = self._first, None
                return first
            if self._reading.ended:
                raise StopAsyncIteration
            chunk = await self._next()
            if chunk is None:
                await self._source.close()
                raise StopAsyncIteration
            return chunk

    async def _next(self) -> ChatChunk | None:
        """`ChatStream._next`, awaited."""
        try:
            chunk = await self._pull()
        except ChatError as error:
            await self._source.close()
            if self._closed:  # by another task
                self._reading.leave()
                return None
            if isinstance(error, StreamInterrupted):
                raise
            raise self._reading.broken(error) from error
        except BaseException as error:  # a cancelled task, say: what was not read is lost with the events
            self._reading.leave(error)
            await self._source.close()
            raise
        return None if self._closed else chunk

    async def _pull(self) -> ChatChunk | None:
        """`ChatStream._pull`, awaited."""
        reading = self._reading
        while not reading.complete:
            event = await self._source.pull(reading.tries.left())
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
            while await self._source.pull(_LAST_BYTES) is not _END:
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
        """Stop reading and give the connection back.

        A task that is reading it is cut off: its loop ends there, and `response` raises `StreamInterrupted`.
        """
        self._closed = True
        self._reading.leave()
        self._first = None
        await self._source.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'ended' if self._reading.ended else 'open'}, so far {self.partial!r})"


def _at_home(process: int) -> None:
    """A forked child that read its parent's stream would take bytes away from it."""
    if process != os.getpid():
        raise RuntimeError("this stream belongs to the process that opened it; a forked child must ask for its own")
