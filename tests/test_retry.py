"""Whether and when a question is asked again, without any time passing."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

from isochat import errors
from isochat._retry import Retry, RetryBudget, Tries, aask, ask
from isochat.errors import (
    Attempt,
    AuthenticationFailed,
    ChatError,
    ConnectionFailed,
    DeadlineExceeded,
    RateLimited,
    ServiceUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limited(**fields: Any) -> RateLimited:
    return RateLimited("slow down", status=429, **fields)


def refused() -> AuthenticationFailed:
    return AuthenticationFailed("who?", status=401)


def waits(tries: Tries, error: Callable[[], ChatError] = limited) -> list[float]:
    """The waits before the error is raised at last."""
    found = []
    try:
        while True:
            found.append(tries.wait(error()))
    except ChatError:
        return found


# ── how often ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attempts", [1, 2, 3, 7])
def test_attempts_count_the_first_one(clock: Clock, attempts: int) -> None:
    """A question is asked `attempts` times in all."""
    assert attempts - 1 == len(waits(Tries(Retry(attempts=attempts), now=clock)))


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name not in ("Attempt", "ChatError")])
def test_only_what_may_succeed_is_asked_again(clock: Clock, name: str) -> None:
    """429, 5xx and no answer at all are asked again; whatever was refused is not."""
    kind = getattr(errors, name)
    needed = {"UnsupportedOption": {"option": "n"}, "BackendNotInstalled": {"install": "pip"}}
    error = kind("no", **needed.get(name, {}))
    again = {"RateLimited", "ServiceUnavailable", "ConnectionFailed"}

    assert (2 if name in again else 0) == len(waits(Tries(Retry(), now=clock), lambda: error))


def test_an_error_may_say_that_it_is_not_transient(clock: Clock) -> None:
    """A connection that fails for a reason that stays, such as a certificate, is not tried again."""
    error = ConnectionFailed("not trusted")
    error.transient = False

    with pytest.raises(ConnectionFailed):
        Tries(Retry(), now=clock).wait(error)


@pytest.mark.parametrize(
    "fields",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"first_wait": -1},
        {"longest_wait": -0.1},
        {"first_wait": math.nan},
        {"longest_wait": math.nan},
        {"first_wait": "1"},
        {"attempts": math.nan},
        {"attempts": 2.5},
        {"attempts": True},
        {"attempts": "3"},
        {"resend": "no"},
        {"budget": 5},
    ],
)
def test_a_senseless_policy_is_refused(fields: dict[str, Any]) -> None:
    """A policy that could not be kept is refused where it is made."""
    (name,) = fields
    with pytest.raises(ValueError, match=f"^{name} "):
        Retry(**fields)


# ── how long ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_waits_double_up_to_the_longest(clock: Clock) -> None:
    """Without chance, each wait is twice the one before, up to the longest."""
    tries = Tries(Retry(attempts=8, first_wait=1, longest_wait=10), now=clock, chance=lambda: 0.0)

    assert [1, 2, 4, 8, 10, 10, 10] == waits(tries)


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)])
def test_chance_takes_off_up_to_half(clock: Clock, chance: float, expected: float) -> None:
    """A fleet that was refused together does not come back together."""
    tries = Tries(Retry(first_wait=1), now=clock, chance=lambda: chance)

    assert expected == tries.wait(limited())


def test_very_many_attempts_do_not_overflow(clock: Clock) -> None:
    """The doubling ends before a float does."""
    policy = Retry(attempts=2000, budget=RetryBudget(burst=2000))

    assert 30.0 == max(waits(Tries(policy, now=clock, chance=lambda: 0.0)))


@pytest.mark.parametrize("asked", [0.0, 0.25, 3.0, 120.0])
def test_what_the_service_asks_for_is_waited(clock: Clock, asked: float) -> None:
    """`Retry-After` counts more than our own wait, were it 0 or longer than our longest."""
    tries = Tries(Retry(longest_wait=10), now=clock)

    assert asked == tries.wait(limited(retry_after=asked))


def test_the_service_is_asked_anew_each_time(clock: Clock) -> None:
    """An earlier `Retry-After` does not outlive its reply."""
    tries = Tries(Retry(attempts=4, first_wait=1), now=clock, chance=lambda: 0.0)

    assert [7.0, 2.0] == [tries.wait(limited(retry_after=7.0)), tries.wait(limited())]


# ── until when ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("elapsed", "asked", "waits"), [(0, 9.9, True), (0, 10, False), (4, 5.9, True), (4, 6, False)])
def test_a_wait_that_would_overrun_is_not_begun(clock: Clock, elapsed: float, asked: float, *, waits: bool) -> None:
    """The error that would be waited for is raised at once, not a timeout later."""
    tries = Tries(Retry(), 10, now=clock)
    clock.seconds += elapsed
    error = limited(retry_after=asked)
    if waits:
        assert asked == tries.wait(error)
        return
    with pytest.raises(RateLimited) as caught:
        tries.wait(error)

    assert error is caught.value


def test_left_counts_down(clock: Clock) -> None:
    """Each attempt is given what is left of the whole question's time."""
    tries = Tries(Retry(), 10, now=clock)
    clock.seconds += 4

    assert (4, 6) == (tries.elapsed(), tries.left())


def test_left_is_infinite_without_a_deadline(clock: Clock) -> None:
    """No deadline, no end."""
    assert math.inf == Tries(Retry(), now=clock).left()


@pytest.mark.parametrize("elapsed", [10, 11])
def test_deadline_carries_cause_and_attempts(clock: Clock, elapsed: float) -> None:
    """When the time is over, the error says what the time was spent on."""
    tries = Tries(Retry(), 10, now=clock)
    error = limited(retry_after=1.0)
    tries.wait(error)
    clock.seconds += elapsed
    with pytest.raises(DeadlineExceeded, match=r"10 s") as caught:
        tries.left()

    assert 10 == caught.value.timeout
    assert error is caught.value.__cause__
    assert (Attempt("RateLimited", 429, 1.0, sent=True),) == caught.value.attempts


def test_a_question_whose_time_is_over_at_once_has_no_cause(clock: Clock) -> None:
    """A deadline of nothing is over before the first attempt."""
    with pytest.raises(DeadlineExceeded) as caught:
        Tries(Retry(), 0, now=clock).left()

    assert (None, ()) == (caught.value.__cause__, caught.value.attempts)


# ── what may be paid for twice ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("sent", "resend", "asked"), [
    (True, True, 3), (None, True, 3), (False, True, 3), (True, False, 1), (None, False, 1), (False, False, 3),
])  # fmt: skip
def test_what_may_have_been_answered_is_sent_again_only_if_it_may_be(
    clock: Clock, *, sent: bool | None, resend: bool, asked: int
) -> None:
    """`resend=False` asks again where nothing had gone out, and nowhere else."""
    tries = Tries(Retry(resend=resend), now=clock)
    waits(tries, lambda: ConnectionFailed("gone", sent=sent))

    assert [sent] * asked == [attempt.sent for attempt in tries.attempts]


def test_an_answer_that_says_no_is_asked_for_again(clock: Clock) -> None:
    """A refusal is an answer: nothing was lost with it."""
    assert 2 == len(waits(Tries(Retry(resend=False), now=clock)))


def test_a_deadline_says_whether_anything_went_out(clock: Clock) -> None:
    """After an attempt that went out, the answer may exist somewhere."""
    tries = Tries(Retry(), 10, now=clock)
    tries.wait(limited())
    clock.seconds += 10
    with pytest.raises(DeadlineExceeded) as caught:
        tries.left()

    assert caught.value.sent is True


# ── a fleet ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fleet_queues_for_its_second_attempts(clock: Clock) -> None:
    """A burst may go at once, and after it so many a second, in turn."""
    budget = RetryBudget(burst=3, rate=2.0)
    fleet = [Tries(Retry(first_wait=0.0), now=clock, budget=budget) for _ in range(7)]

    assert [0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 2.0] == [tries.wait(limited()) for tries in fleet]

    clock.seconds += 2.0
    assert [0.5, 1.0] == [tries.wait(limited()) for tries in fleet[:2]]


def test_answers_let_the_queue_move_on(clock: Clock) -> None:
    """An endpoint that answers again may be asked again."""
    budget = RetryBudget(burst=1, rate=1.0)
    fleet = [Tries(Retry(first_wait=0.0), now=clock, budget=budget) for _ in range(4)]

    assert [0.0, 1.0] == [tries.wait(limited()) for tries in fleet[:2]]
    for tries in fleet[2:]:
        tries.end("done")
        tries.end("done")
    assert 0.0 == fleet[2].wait(limited())


def test_a_wait_that_is_longer_than_the_turn_stays_as_it_is(clock: Clock) -> None:
    """The service's own word and the doubling are waited in the queue, not after it."""
    budget = RetryBudget(burst=1, rate=1.0)
    budget.reserve(clock())

    assert 5.0 == Tries(Retry(), now=clock, budget=budget).wait(limited(retry_after=5.0))


def test_who_cannot_wait_for_a_turn_takes_none(clock: Clock) -> None:
    """A question whose deadline comes first is given up at once, and the next one has its turn."""
    budget = RetryBudget(burst=1, rate=0.1)
    budget.reserve(clock())
    with pytest.raises(RateLimited):
        Tries(Retry(first_wait=0.0), 5, now=clock, budget=budget).wait(limited())

    assert 10.0 == Tries(Retry(first_wait=0.0), now=clock, budget=budget).wait(limited())


def test_a_budget_of_ones_own_comes_first(clock: Clock) -> None:
    """`Retry(budget=…)` is shared by whoever is given it, across endpoints and sessions."""
    mine, sessions = RetryBudget(burst=1, rate=1.0), RetryBudget()
    policy = Retry(first_wait=0.0, budget=mine)

    assert [0.0, 1.0] == [Tries(policy, now=clock, budget=sessions).wait(limited()) for _ in range(2)]
    assert "RetryBudget(burst=1, rate=1)" == repr(mine)


@pytest.mark.parametrize(
    "said",
    [{"burst": 0}, {"burst": "5"}, {"burst": 1.5}, {"rate": 0.0}, {"rate": -1.0}, {"rate": math.nan}, {"rate": "1"}],
)
def test_a_senseless_budget_is_refused(said: dict[str, Any]) -> None:
    """A queue that never moves would be a hang."""
    (name,) = said
    with pytest.raises(ValueError, match=f"^{name} "):
        RetryBudget(**said)


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_refused_token_is_renewed_once(clock: Clock) -> None:
    """A second refusal is not about the token's age."""
    asked = []
    tries = Tries(Retry(attempts=9), renew=lambda: not asked.append(1), now=clock)

    assert [0.0] == waits(tries, refused)
    assert [1] == asked


def test_a_token_is_not_renewed_when_the_time_is_over(clock: Clock) -> None:
    """The refusal is told as it is. Found by `tests/test_machines.py`."""
    tries = Tries(Retry(), 5, renew=lambda: pytest.fail("renewed"), now=clock)
    clock.seconds += 5
    with pytest.raises(AuthenticationFailed):
        tries.wait(refused())


def test_an_error_leads_back_to_the_attempt_before(clock: Clock) -> None:
    """Where no exception of a client's is its cause already."""
    tries = Tries(Retry(), now=clock)
    first, second, third, client = limited(), limited(), limited(), OSError()
    second.__cause__ = client
    tries.wait(first)
    tries.wait(second)
    with pytest.raises(RateLimited):
        tries.wait(third)

    assert (None, client, second) == (first.__cause__, second.__cause__, third.__cause__)


def test_a_token_that_cannot_be_renewed_is_not_tried_again(clock: Clock) -> None:
    """The same token would be refused again."""
    assert [] == waits(Tries(Retry(), renew=lambda: False, now=clock), refused)


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_attempts_hold_what_was_tried(clock: Clock) -> None:
    """Each failed attempt leaves its class, status and the wait after it; the last has no wait after it."""
    tries = Tries(Retry(attempts=3, first_wait=1), now=clock, chance=lambda: 0.0)
    last = ConnectionFailed("gone")
    tries.wait(limited())
    tries.wait(ServiceUnavailable("ailing", status=503))
    with pytest.raises(ConnectionFailed):
        tries.wait(last)

    assert (
        (
            Attempt("RateLimited", 429, 1.0, sent=True),
            Attempt("ServiceUnavailable", 503, 2.0, sent=True),
            Attempt("ConnectionFailed", None, 0.0),
        )
        == tries.attempts
        == last.attempts
    )


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def sender(*outcomes: Any) -> tuple[Callable[[float], Any], list[float]]:
    """What answers or fails in turn, and the times it was given."""
    left: list[float] = []
    coming = iter(outcomes)

    def send(seconds: float) -> Any:
        left.append(seconds)
        outcome = next(coming)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return send, left


def asked(send: Callable[[float], Any], tries: Tries, *, awaited: bool) -> Any:
    if not awaited:
        return ask(send, tries)

    async def asend(left: float) -> Any:
        return send(left)

    return asyncio.run(aask(asend, tries))


AWAITED = pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "asyncio"])
AT_ONCE = Retry(first_wait=0)


@AWAITED
def test_asks_until_there_is_an_answer(clock: Clock, *, awaited: bool) -> None:
    """The answer that comes at last is given."""
    send, left = sender(limited(), ConnectionFailed("gone"), "answer")

    assert "answer" == asked(send, Tries(AT_ONCE, 10, now=clock), awaited=awaited)
    assert [10, 10, 10] == left


@AWAITED
def test_gives_up_with_the_last_error(clock: Clock, *, awaited: bool) -> None:
    """What is raised in the end is the last attempt's own error."""
    outcomes = [limited(), limited(), limited()]
    send, _ = sender(*outcomes)
    with pytest.raises(RateLimited) as caught:
        asked(send, Tries(AT_ONCE, now=clock), awaited=awaited)

    assert outcomes[-1] is caught.value
    assert 3 == len(caught.value.attempts)


@AWAITED
def test_what_is_not_ours_goes_through(clock: Clock, *, awaited: bool) -> None:
    """An exception of somebody else's is neither changed nor tried again."""
    error = ZeroDivisionError()
    send, left = sender(error)
    with pytest.raises(ZeroDivisionError) as caught:
        asked(send, Tries(AT_ONCE, now=clock), awaited=awaited)

    assert error is caught.value
    assert 1 == len(left)


@AWAITED
def test_attempts_are_the_times_it_was_sent(*, awaited: bool) -> None:
    """A deadline that is over before the next attempt begins, after a sleep that took too long, is not an attempt."""
    readings = iter([0.0, 0.0, 1.0])  # when asked, when first sent, when refused; and then it is too late
    send, left = sender(limited(retry_after=0.0), "answer")
    with pytest.raises(DeadlineExceeded) as caught:
        asked(send, Tries(Retry(), 5, now=lambda: next(readings, 100.0)), awaited=awaited)

    assert [5.0] == left
    assert (Attempt("RateLimited", 429, 0.0, sent=True),) == caught.value.attempts


def test_a_wait_without_end_is_not_begun(clock: Clock) -> None:
    """Without a deadline, what the service asks for may be more than any sleep can be."""
    with pytest.raises(RateLimited):
        ask(sender(limited(retry_after=1e300))[0], Tries(Retry(), now=clock))
