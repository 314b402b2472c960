"""A fault does what it says to the bytes on the wire."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from isochat.local import Fault, LocalEndpoint

LLAMA = "databricks-meta-llama-3-3-70b-instruct"
ASKED = {"messages": [{"role": "user", "content": "one two three four"}]}


def raw(local: LocalEndpoint, body: dict[str, Any] = ASKED, headers: str = "") -> bytes:
    """Every byte the server sends until it closes. Raises ConnectionResetError for a reset."""
    place = urlsplit(local.host)
    content = json.dumps(body).encode()
    head = (
        f"POST /serving-endpoints/{LLAMA}/invocations HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n"
        f"Authorization: Bearer {local.token}\r\n{headers}Content-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((place.hostname, place.port), timeout=20) as sock:
        sock.sendall(head.encode() + content)
        found = b""
        while block := sock.recv(65536):
            found += block
    return found


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


def test_a_status_brings_databricks_error_for_it(local: Any) -> None:
    """A bare status has a body of the service's shape, and the wait in Retry-After."""
    local.order(Fault(status=429, retry_after=3))
    status, headers, body = split(raw(local))
    assert (status, headers["retry-after"]) == (429, "3")
    assert json.loads(body)["error_code"] == "REQUEST_LIMIT_EXCEEDED"


def test_an_error_code_brings_its_status(local: Any) -> None:
    """A code alone is enough."""
    local.order(Fault(error_code="PERMISSION_DENIED", message="No."))
    status, _, body = split(raw(local))
    assert (status, json.loads(body)) == (403, {"error_code": "PERMISSION_DENIED", "message": "No."})


@pytest.mark.parametrize(
    ("body", "kind", "sent"),
    [
        (b"\x00\xff", "text/plain", b"\x00\xff"),
        ("<html>", "text/html", b"<html>"),
        ({"a": "é"}, "application/json", '{"a":"é"}'.encode()),
        ([1], "application/json", b"[1]"),
        ("plain", "text/plain", b"plain"),
        (b"", "application/octet-stream", b""),
    ],
)
def test_a_body_is_sent_as_it_is(local: Any, body: Any, kind: str, sent: bytes) -> None:
    """Bytes, text, mapping or list: the body goes out verbatim, with the content type one would expect."""
    local.order(Fault(status=502, body=body))
    status, headers, got = split(raw(local))
    assert (status, headers["content-type"], got) == (502, kind, sent)


def test_faults_are_used_up_in_order(local: Any) -> None:
    """One fault a question, first in first out; `times` repeats one; then all is well again."""
    local.order(Fault(status=503, times=2), Fault(status=500))
    assert [split(raw(local))[0] for _ in range(4)] == [503, 503, 500, 200]


def test_times_none_lasts_until_reset(local: Any) -> None:
    """A fault without an end stays until it is reset."""
    local.order(Fault(status=503, times=None))
    assert [split(raw(local))[0] for _ in range(3)] == [503] * 3
    local.reset()
    assert split(raw(local))[0] == 200
    assert len(local.received) == 1


def test_only_chat_questions_use_faults_up(ask: Any, local: Any) -> None:
    """Listing endpoints neither suffers nor consumes a fault."""
    local.order(Fault(status=503))
    assert ask.get("/api/2.0/serving-endpoints")["endpoints"]
    assert split(raw(local))[0] == 503


def test_a_header_orders_a_fault_for_this_request_only(local: Any) -> None:
    """X-Isochat-Fault works from any client, without touching what else was ordered."""
    local.order(Fault(status=500))
    assert split(raw(local, headers='X-Isochat-Fault: {"status":429,"retry_after":1}\r\n'))[0] == 429
    assert split(raw(local, headers='X-Isochat-Fault: {"colour":1}\r\n'))[0] == 400
    assert split(raw(local))[0] == 500


@pytest.mark.parametrize("stream", [False, True])
def test_delay_and_stall_come_before_the_headers(local: Any, *, stream: bool) -> None:
    """Nothing at all is sent until they are over."""
    local.order(Fault(delay=0.15, stall=0.15))
    before = time.monotonic()
    assert split(raw(local, {**ASKED, "stream": stream}))[0] == 200
    assert time.monotonic() - before >= 0.3


def test_stall_in_the_middle_lets_the_first_events_through(local: Any) -> None:
    """Two events arrive, then there is silence, then the rest."""
    local.order(Fault(stall=0.3, after=2))
    arrived: list[float] = []
    place = urlsplit(local.host)
    content = json.dumps({**ASKED, "stream": True}).encode()
    with socket.create_connection((place.hostname, place.port), timeout=20) as sock:
        sock.sendall(
            (
                f"POST /serving-endpoints/{LLAMA}/invocations HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n"
                f"Authorization: Bearer {local.token}\r\nContent-Length: {len(content)}\r\n\r\n"
            ).encode()
            + content
        )
        seen = b""
        while block := sock.recv(65536):
            arrived += (
                [time.monotonic()] * (seen + block).count(b"data: ")
                if not seen
                else [time.monotonic()] * block.count(b"data: ")
            )
            seen += block
    assert arrived[2] - arrived[1] >= 0.25
    assert b"[DONE]" in seen


def test_a_cut_stream_ends_as_if_that_were_all(local: Any) -> None:
    """Three events and a proper end of the body, but no [DONE] and no finish reason."""
    local.order(Fault(cut_after=3))
    body = split(raw(local, {**ASKED, "stream": True}))[2]
    assert body.count(b"data: ") == 3
    assert body.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in body


def test_a_dropped_stream_ends_without_the_end_of_the_body(local: Any) -> None:
    """Three events, then the connection closes in the middle of the chunked body."""
    local.order(Fault(drop_after=3))
    body = split(raw(local, {**ASKED, "stream": True}))[2]
    assert body.count(b"data: ") == 3
    assert not body.endswith(b"0\r\n\r\n")


def test_a_cut_body_is_consistent_and_too_short(local: Any) -> None:
    """A whole reply cut after 20 bytes says it has 20 bytes."""
    local.order(Fault(cut_after=20))
    _, headers, body = split(raw(local))
    assert (headers["content-length"], len(body)) == ("20", 20)


def test_a_dropped_body_promised_more(local: Any) -> None:
    """A whole reply dropped after 20 bytes had promised all of them."""
    local.order(Fault(drop_after=20))
    _, headers, body = split(raw(local))
    assert len(body) == 20 < int(headers["content-length"])


@pytest.mark.parametrize("fault", [Fault(reset=True), Fault(reset=0), Fault(reset=10)])
@pytest.mark.parametrize("stream", [False, True])
def test_reset_is_a_reset(local: Any, fault: Fault, *, stream: bool) -> None:
    """The connection is reset, not closed: before the headers or after so many bytes or events."""
    local.order(Fault(reset=min(int(fault.reset), 2) if stream and fault.reset is not True else fault.reset))
    with pytest.raises(ConnectionResetError):
        raw(local, {**ASKED, "stream": stream})
    assert split(raw(local))[0] == 200


def test_junk_takes_the_answers_place(local: Any) -> None:
    """The status and content type are those of an answer; the body makes no sense."""
    local.order(Fault(junk=b"\xff{not json"))
    status, headers, body = split(raw(local))
    assert (status, headers["content-type"], body) == (200, "application/json", b"\xff{not json")


@pytest.mark.parametrize(
    ("error", "line"),
    [({"error": {"message": "Gone."}}, b'data: {"error":{"message":"Gone."}}\n\n'), ("gone", b"data: gone\n\n")],
)
def test_an_error_event_ends_a_stream(local: Any, error: Any, line: bytes) -> None:
    """After two events comes the error, and nothing more."""
    local.order(Fault(error_event=error, after=2))
    body = split(raw(local, {**ASKED, "stream": True}))[2]
    assert body.count(b"data: ") == 3
    assert line in body
    assert b"[DONE]" not in body


def test_a_wrong_content_length(local: Any) -> None:
    """It promises 50 bytes too many, and closes."""
    local.order(Fault(content_length=50))
    _, headers, body = split(raw(local))
    assert int(headers["content-length"]) == len(body) + 50


def test_a_negative_content_length_loses_the_end(local: Any) -> None:
    """It promises five bytes too few, and the reader gets no more than promised."""
    local.order(Fault(content_length=-5))
    _, headers, body = split(raw(local))
    assert int(headers["content-length"]) == len(body)
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
        json.loads(body)


def test_drip_sends_bytes_one_by_one(local: Any) -> None:
    """A short body dripped arrives whole, but slowly."""
    local.order(Fault(status=200, body=b"x" * 20, drip=0.005))
    before = time.monotonic()
    assert split(raw(local))[2] == b"x" * 20
    assert time.monotonic() - before >= 0.1


def test_headers_are_added_to_a_good_answer(local: Any) -> None:
    """Headers alone leave the answer as it is."""
    local.order(Fault(headers={"X-Ratelimit-Remaining": "0", "X-Request-Id": "mine"}))
    status, headers, body = split(raw(local))
    assert (status, headers["x-ratelimit-remaining"], headers["x-request-id"]) == (200, "0", "mine")
    assert json.loads(body)["choices"]


def test_reply_gives_exactly_these_bytes(local: Any) -> None:
    """A reply ordered as bytes arrives byte for byte, whatever was asked."""
    local.reply(body={"choices": []})
    local.reply(status=418, body="short and stout", headers={"X-Pot": "tea"})
    assert split(raw(local, {"nonsense": 1}))[2] == b'{"choices":[]}'
    status, headers, body = split(raw(local))
    assert (status, headers["x-pot"], headers["content-type"], body) == (418, "tea", "text/plain", b"short and stout")
    assert split(raw(local))[0] == 200


def test_reply_in_chunks_is_one_write_each(local: Any) -> None:
    """Each chunk is a chunk of the transfer encoding, cut wherever it was asked to be."""
    local.reply(chunks=[b"da", b"ta: {}\n", b"\n"], pause=0.01)
    _, headers, body = split(raw(local))
    assert headers["content-type"] == "text/event-stream"
    assert body == b"2\r\nda\r\n7\r\nta: {}\n\r\n1\r\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"status": 429}, Fault(status=429)),
        ('{"status": 429, "times": null}', Fault(status=429, times=None)),
        ("429", Fault(status=429)),
        (503, Fault(status=503)),
        ("status: 503\nretry_after: 2", Fault(status=503, retry_after=2)),
        ("{reset: true}", Fault(reset=True)),
        (Fault(delay=1), Fault(delay=1)),
        ({"headers": {"a": 1}, "message": None}, Fault(headers={"a": "1"})),
    ],
)
def test_faults_are_read_from_data_and_text(spec: Any, fault: Fault) -> None:
    """A mapping, JSON, YAML or a bare status."""
    assert Fault.parse(spec) == fault


def test_several_faults_are_read_from_a_list() -> None:
    """A list, or one alone."""
    assert Fault.parse_all("[429, {reset: true}]") == (Fault(status=429), Fault(reset=True))
    assert Fault.parse_all("500") == (Fault(status=500),)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"stauts": 429}, "no field 'stauts'; it has status"),
        ({"status": "429"}, "Fault.status: expected a number, got '429'"),
        ({"status": True}, "Fault.status"),
        ("[", "must be JSON or YAML"),
        ("maybe", "a fault is a mapping"),
        ({"times": 0}, "times: at least 1"),
        ({"status": 99}, "99 is not an HTTP status"),
        ({"delay": -1}, "Fault.delay: -1 is less than nothing"),
    ],
)
def test_a_wrong_fault_says_what_is_wrong(spec: Any, words: str) -> None:
    """The field is named."""
    with pytest.raises(ValueError, match=words):
        Fault.parse(spec)


def test_faults_can_be_there_from_the_start(ask_of: Any) -> None:
    """Faults given when it is made come first."""
    with LocalEndpoint(faults="[503]") as local:
        assert split(raw(local))[0] == 503
        assert split(raw(local))[0] == 200


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("status", "x", "Fault.status: expected a number, got 'x'"),
        ("stall", "5", "Fault.stall: expected seconds, got '5'"),
        ("times", True, "Fault.times: expected a number, got True"),
        ("headers", 5, "Fault.headers: expected a mapping, got 5"),
        ("headers", None, "Fault.headers: expected a mapping, got None"),
        ("body", 5, "Fault.body: expected a text, mapping or list, got 5"),
        ("retry_after", [], "Fault.retry_after: expected seconds or a date"),
    ],
)
def test_a_fault_of_the_wrong_type_is_refused_when_it_is_made(field: str, value: Any, words: str) -> None:
    """What could not be carried out fails where it is written, and not at the next question."""
    with pytest.raises(ValueError, match=re.escape(words)):
        Fault(**{field: value})


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"status": "x"}, "reply.status: expected a number, got 'x'"),
        ({"headers": 5}, "reply.headers: expected a mapping, got 5"),
        ({"chunks": "data"}, "reply.chunks: expected a list of bytes, got 'data'"),
        ({"chunks": ["data"]}, "reply.chunks: expected a list of bytes"),
        ({"pause": "1"}, "reply.pause: expected seconds, got '1'"),
    ],
)
def test_a_reply_of_the_wrong_type_is_refused_when_it_is_ordered(said: dict[str, Any], words: str) -> None:
    """So is a reply that could not be sent, and the next question is answered as ever."""
    local = LocalEndpoint()
    with pytest.raises(ValueError, match=re.escape(words)):
        local.reply(**said)

    assert local._next_order() is None


def test_a_header_may_be_a_number(local: Any) -> None:
    """A fault's headers are sent as they are written, as text."""
    local.order(Fault(status=429, headers={"x-left": 5}))  # type: ignore[dict-item]

    assert "5" == split(raw(local))[1]["x-left"]
