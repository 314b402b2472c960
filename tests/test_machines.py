"""What has a state keeps its promises in whatever order it is used: the decoders of a stream, the attempts, the budget.

`ISOCHAT_EXAMPLES` says how many orders; `nox -s fuzz` makes it 10,000.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from isochat import _wire
from isochat._retry import Retry, RetryBudget, Tries
from isochat._sse import Event, EventDecoder
from isochat.errors import (
    AuthenticationFailed,
    ChatError,
    ConnectionFailed,
    DeadlineExceeded,
    MalformedReply,
    PermissionDenied,
    RateLimited,
    ServiceUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

orders = settings(
    max_examples=int(os.environ.get("ISOCHAT_EXAMPLES", "60")),
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# ── the decoders ─────────────────────────────────────────────────────────────────────────────────────────────────────

FIELDS = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"event: error", b"event:", b": ping", b"id: 1", b"\xef\xbb\xbfdata: c"]
)
LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n"])
PIECES = st.sampled_from(
    [b"", b"da", b"ta", b":", b" ", b"{", b"<", b"\n{", b" <", b"\xef\xbb\xbf", b"\xef", b"\xbb\xbf", b"\xff"]
)
READS = FIELDS | LINE_ENDS | PIECES | st.binary(max_size=6)


def standard(body: bytes, *, closed: bool) -> list[Event]:
    """The events of a stream as it stands, by the rules of the standard, written down the simplest way."""
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if not closed:
        lines.pop()  # a line that has not ended
    else:
        lines.append(b"")  # ours: an event whose blank line never came counts
    if lines:
        lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    events, data, kind = [], [], ""
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                events.append(Event(b"\n".join(data), kind or "message"))
            data, kind = [], ""
        elif name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value.decode("utf-8", "replace")
    return events


class Decoding(RuleBasedStateMachine):
    """The bytes of a stream, read in any pieces: the events are those of the standard, each as soon as it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = EventDecoder()
        self.read, self.events = b"", list[Event]()

    @rule(read=READS)
    def feed(self, read: bytes) -> None:
        self.read += read
        self.events += self.decoder.feed(read)

    @rule(field=FIELDS, end=LINE_ENDS)
    def feed_line_by_line(self, field: bytes, end: bytes) -> None:
        self.feed(field)
        for place in range(len(end)):
            self.feed(end[place : place + 1])

    @invariant()
    def as_the_standard_says(self) -> None:
        assert standard(self.read, closed=False) == self.events

    def teardown(self) -> None:
        assert standard(self.read, closed=True) == [*self.events, *self.decoder.close()]
        assert [] == list(self.decoder.close())


class Arriving(RuleBasedStateMachine):
    """A reply to a question for a stream: it is events, or one whole reply with every byte of it, and never both."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.given = b"", list[object]()

    @initialize(
        status=st.sampled_from([200, 200, 200, 429, 502]),
        kind=st.sampled_from(["text/event-stream", "text/event-stream; charset=utf-8", "application/json", ""]),
    )
    def begin(self, status: int, kind: str) -> None:
        self.status, self.kind = status, kind
        self.incoming = _wire.Incoming(status, {"content-type": kind, "x-request-id": "r"})

    @rule(read=READS)
    def feed(self, read: bytes) -> None:
        self.read += read
        self.given += self.incoming.feed(read)

    @invariant()
    def nothing_is_held_back(self) -> None:
        if self.given:
            assert standard(self.read, closed=False) == self.given

    def teardown(self) -> None:
        if not hasattr(self, "incoming"):
            return
        last = list(self.incoming.close())
        if last and isinstance(last[-1], _wire.Reply):
            (reply,) = last

            assert [] == self.given
            assert (self.status, self.read if self.read.strip() else b"") == (
                reply.status,
                reply.body if reply.body.strip() else b"",
            )
        else:
            assert (200, True) == (self.status, self.kind.startswith("text/event-stream"))
            assert standard(self.read, closed=True) == [*self.given, *last]


# ── attempts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ERRORS: dict[str, Callable[[], ChatError]] = {
    "429": lambda: RateLimited("slow", status=429),
    "429, wait": lambda: RateLimited("slow", status=429, retry_after=1.5),
    "429, wait for ever": lambda: RateLimited("slow", status=429, retry_after=1e300),
    "503": lambda: ServiceUnavailable("down", status=503),
    "401": lambda: AuthenticationFailed("who", status=401),
    "403": lambda: PermissionDenied("no", status=403),
    "unsent": lambda: ConnectionFailed("gone", sent=False),
    "sent": lambda: ConnectionFailed("gone", sent=True),
    "nobody knows": lambda: ConnectionFailed("gone"),
    "late": lambda: DeadlineExceeded("late", timeout=0.1),
    "nonsense": lambda: MalformedReply("what"),
}


class Asking(RuleBasedStateMachine):
    """One question: never asked too often, never for what was refused, never waited for beyond its time."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.begun, self.renewed, self.over = 0.0, 0, 0, False
        self.errors: list[ChatError] = []

    @initialize(
        attempts=st.integers(1, 5),
        first=st.sampled_from([0.0, 0.5, 3.0]),
        longest=st.sampled_from([0.0, 1.0, 30.0]),
        resend=st.booleans(),
        timeout=st.sampled_from([0.0, 0.3, 5.0, 60.0, math.inf]),
        burst=st.integers(1, 3),
        chance=st.floats(0, 1),
    )
    def ask(
        self, *, attempts: int, first: float, longest: float, resend: bool, timeout: float, burst: int, chance: float
    ) -> None:
        self.retry = Retry(attempts, first, longest, resend, RetryBudget(burst=burst, rate=2.0))
        self.timeout = timeout

        def renew() -> bool:
            self.renewed += 1
            return True

        self.tries = Tries(self.retry, timeout, renew=renew, now=lambda: self.now, chance=lambda: chance)
        self.begin()

    def begin(self) -> None:
        late: DeadlineExceeded | None = None
        try:
            left = self.tries.begin()
        except DeadlineExceeded as error:
            late = error
        if late is None:
            self.begun += 1
            assert 0 < left <= self.timeout
            return
        self.over = True
        assert self.now >= self.timeout
        assert late.__cause__ is (self.errors[-1] if self.errors else None)
        assert len(self.errors) == len(late.attempts)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.over)
    @rule(kind=st.sampled_from(sorted(ERRORS)))
    def fail(self, kind: str) -> None:
        error, raised = ERRORS[kind](), None
        try:
            wait = self.tries.wait(error)
        except ChatError as found:
            raised = found
        if raised is not None:
            self.over = True
            assert raised is error or (isinstance(raised, DeadlineExceeded) and self.now >= self.timeout)
            assert len(raised.attempts) == self.begun
            return
        assert error.transient or (isinstance(error, AuthenticationFailed) and self.renewed == 1)
        assert self.retry.resend or not isinstance(error, ConnectionFailed) or error.sent is False
        assert wait >= (getattr(error, "retry_after", None) or 0.0)
        assert self.now + wait < self.timeout
        self.errors.append(error)
        self.now += wait
        self.begin()

    @invariant()
    def never_too_often(self) -> None:
        if self.begun:
            assert self.begun <= self.retry.attempts
            assert len(self.tries.attempts) <= self.begun
            assert self.renewed <= 1

    @invariant()
    def each_leads_to_the_one_before(self) -> None:
        for before, after in zip(self.errors, self.errors[1:], strict=False):
            assert after.__cause__ is before


class Queueing(RuleBasedStateMachine):
    """A budget: in no stretch of time are there more second attempts than it allows."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.given_back = 0.0, 0
        self.turns: list[float] = []

    @initialize(burst=st.integers(1, 4), rate=st.sampled_from([0.5, 1.0, 10.0]))
    def begin(self, burst: int, rate: float) -> None:
        self.budget = RetryBudget(burst=burst, rate=rate)

    @rule()
    def reserve(self) -> None:
        wait = self.budget.reserve(self.now)

        assert wait >= 0
        self.turns.append(self.now + wait)

    @rule()
    def give_back(self) -> None:
        self.budget.give_back()
        self.given_back += 1

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def never_too_many(self) -> None:
        turns = sorted(self.turns)
        for first, begin in enumerate(turns):
            for last in range(first, len(turns)):
                allowed = self.budget.burst + self.budget.rate * (turns[last] - begin) + self.given_back
                assert last - first + 1 <= allowed + 1e-6


for machine in (Decoding, Arriving, Asking, Queueing):
    machine.TestCase.settings = orders
TestDecoding, TestArriving = Decoding.TestCase, Arriving.TestCase
TestAsking, TestQueueing = Asking.TestCase, Queueing.TestCase
