"""A server that says what it is told to, byte for byte, and counts: below HTTP, where most of what breaks breaks.

`isochat.local` speaks HTTP as it should be spoken, so what no HTTP server would send comes from here.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


class Gone(Exception):
    """The other side has left."""


class Exchange:
    """One question, and the way back to whoever asked it."""

    def __init__(self, server: Server, sock: socket.socket, head: bytes, body: bytes) -> None:
        self.server, self._sock = server, sock
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ", 2)
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.body = body
        #: Which question it is, from 1.
        self.number = 0
        #: Whether the connection is good for another question.
        self.keeps = True

    def send(self, *parts: bytes) -> None:
        """Send these bytes, each with a write of its own."""
        for part in parts:
            try:
                self._sock.sendall(part)
            except OSError:
                raise Gone from None

    def reply(
        self,
        body: bytes = b"",
        status: int = 200,
        kind: str | None = "application/json",
        headers: tuple[tuple[str, str], ...] = (),
        length: int | None = None,
    ) -> None:
        """A whole answer. `length` is what its Content-Length says, if that is not the truth."""
        said = [("Content-Type", kind)] if kind is not None else []
        said += [("Content-Length", str(len(body) if length is None else length)), *headers]
        self.send(self._head(status, said) + (body if len(body) < 65536 else b""))
        if len(body) >= 65536:
            self.send(body)

    def begin(self, kind: str = "text/event-stream", status: int = 200) -> None:
        """An answer that comes in pieces: `piece` after `piece`, and `end`."""
        self.send(self._head(status, [("Content-Type", kind), ("Transfer-Encoding", "chunked")]))

    def piece(self, *parts: bytes) -> None:
        """The next pieces."""
        self.send(*(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part))

    def end(self) -> None:
        """That was all, and HTTP says so."""
        self.send(b"0\r\n\r\n")

    def pause(self, seconds: float) -> None:
        """Say nothing for so long."""
        ready, _, _ = select.select([self._sock], [], [], seconds)
        if ready:  # nobody sends a second question before the answer to the first: they have left
            raise Gone

    def hang(self) -> None:
        """Say nothing until the other side leaves."""
        self.pause(60)
        raise Gone

    def until_heard(self) -> None:
        """Wait until whoever asked has read what they were told."""
        self.server.heard.wait(10)

    def hang_up(self) -> None:
        """Close the connection; what was sent still arrives."""
        raise Gone

    def reset(self) -> None:
        """Close the connection with a reset; what was not read is lost."""
        _reset(self._sock)
        raise Gone

    def _head(self, status: int, headers: list[tuple[str, str]]) -> bytes:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Server:
    """A listening socket on loopback, a thread for each connection, and a function that answers each question."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        port = self._listening.getsockname()[1]
        self.host = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self._open: dict[threading.Thread, socket.socket] = {}
        self._answer: Callable[[Exchange], object] = Exchange.hang_up
        self.questions: list[Exchange] = []
        self.heard = threading.Event()
        #: What its own threads ran into, which is a mistake in a test.
        self.mistakes: list[BaseException] = []
        self._accepting = threading.Thread(target=self._accept, name="raw-server", daemon=True)
        self._accepting.start()

    def answer(self, how: Callable[[Exchange], object]) -> Callable[[], int]:
        """Answer each question like this from now on; give what counts them."""
        questions: list[Exchange] = []
        self._answer, self.questions = how, questions
        self.heard.clear()
        return lambda: len(questions)

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def stop(self) -> None:
        """Close all of it."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.heard.set()
        for sock in list(self._open.values()):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for thread in list(self._open):
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), name="raw-server", daemon=True)
            self._open[thread] = sock
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            while (exchange := self._question(sock)) is not None:
                self.questions.append(exchange)
                exchange.number = len(self.questions)
                self._answer(exchange)
                if not exchange.keeps:
                    return
        except (Gone, OSError):
            pass
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.mistakes.append(error)
        finally:
            sock.close()
            del self._open[threading.current_thread()]

    def _question(self, sock: socket.socket) -> Exchange | None:
        read = b""
        while b"\r\n\r\n" not in read:
            if not (more := sock.recv(65536)):
                return None
            read += more
            if read.startswith(b"\x16"):  # the beginning of TLS, which is not spoken here
                _reset(sock)
                return None
        head, _, body = read.partition(b"\r\n\r\n")
        exchange = Exchange(self, sock, head, b"")
        length = int(exchange.headers.get("content-length", "0"))
        while len(body) < length:
            if not (more := sock.recv(65536)):
                return None
            body += more
        exchange.body = body
        return exchange


def _reset(sock: socket.socket) -> None:
    """Have it closed with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# ── what a service says well ─────────────────────────────────────────────────────────────────────────────────────────


class Chat:
    """Chat completions, as every backend hears them that does not say otherwise."""

    #: Where a question goes.
    path = "/serving-endpoints/"
    done = b"data: [DONE]\n\n"

    def whole(self, text: str, **also: Any) -> bytes:
        """A whole answer."""
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return json_bytes({**self._about("chat.completion"), "choices": [choice], **also})

    def opening(self) -> bytes:
        """The event before the first text."""
        return self._delta({"role": "assistant", "content": ""})

    def says(self, text: str) -> bytes:
        """The event that adds this text."""
        return self._delta({"content": text})

    def ending(self, text: str) -> bytes:
        """The events that end an answer of this text."""
        return self._delta({}, "stop") + self.done

    def stream(self, *texts: str) -> list[bytes]:
        """A whole answer in events."""
        return [self.opening(), *map(self.says, texts), self.ending("".join(texts))]

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return event({**self._about("chat.completion.chunk"), "choices": [choice]})

    @staticmethod
    def _about(kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": "m"}


class Responses(Chat):
    """The Responses API."""

    done = b""

    def whole(self, text: str, **also: Any) -> bytes:
        return json_bytes({**self.response("completed", [self._item(text)]), **also})

    def opening(self) -> bytes:
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        return named(type="response.created", response=self.response("in_progress", [])) + named(
            type="response.output_item.added", output_index=0, item=item
        )

    def says(self, text: str) -> bytes:
        return named(type="response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=text)

    def ending(self, text: str) -> bytes:
        item = self._item(text)
        return named(type="response.output_item.done", output_index=0, item=item) + named(
            type="response.completed", response=self.response("completed", [item])
        )

    @staticmethod
    def _item(text: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": []}
        return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}

    @staticmethod
    def response(status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        """The object that holds a whole answer."""
        about = {"id": "resp_1", "object": "response", "created_at": 1_700_000_000, "model": "m"}
        return {**about, "status": status, "output": output}


class Statement(Chat):
    """The Statement Execution API, whose one cell holds the answer."""

    path = "/api/2.0/sql/statements"

    def whole(self, text: str, **also: Any) -> bytes:
        column = {"name": "answer", "position": 0, "type_name": "STRUCT"}
        cell = json.dumps({"result": text, "errorMessage": None})
        said = {
            "statement_id": "01f0",
            "status": {"state": "SUCCEEDED"},
            "manifest": {"format": "JSON_ARRAY", "schema": {"column_count": 1, "columns": [column]}},
            "result": {"chunk_index": 0, "row_count": 1, "data_array": [[cell]]},
        }
        return json_bytes({**said, **also})


LANGUAGES: dict[str, Chat] = {"openai-responses": Responses(), "ai-query": Statement()}


def event(value: Any, kind: str | None = None) -> bytes:
    """A server-sent event."""
    data = value if isinstance(value, bytes) else json_bytes(value)
    return (b"" if kind is None else b"event: " + kind.encode() + b"\n") + b"data: " + data + b"\n\n"


def named(**value: Any) -> bytes:
    return event(value, value["type"])


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def language(backend: str) -> Chat:
    """What a backend's service speaks; of one that is not named, chat completions."""
    return LANGUAGES.get(backend, Chat())


def settles(true: Callable[[], bool], within: float = 5.0) -> bool:
    """Whether something becomes true in this time."""
    until = time.monotonic() + within
    while not (so := true()) and time.monotonic() < until:
        time.sleep(0.002)
    return so
