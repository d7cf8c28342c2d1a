import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import NotAnalysed, Permanent, Transient
from node.jobs.retry import GiveUp, Retry, RetryPolicy, decide

POLICY = RetryPolicy(first_seconds=5, longest_seconds=900, jitter=0.5)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 5), (2, 10), (3, 20), (8, 640), (9, 900), (199, 900)])
def test_the_wait_doubles_up_to_the_longest(attempt: int, seconds: float) -> None:
    assert decide(Transient("away"), attempt, 200, POLICY, 0.0) == Retry(seconds, "Transient: away")


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_jitter_only_shortens_and_only_by_its_share(attempt: int, random: float, jitter: float) -> None:
    policy = RetryPolicy(5, 900, jitter)
    full = decide(Transient("away"), attempt, 20_000, policy, 0.0)
    some = decide(Transient("away"), attempt, 20_000, policy, random)
    assert isinstance(full, Retry) and isinstance(some, Retry)
    assert full.wait_seconds * (1 - jitter) <= some.wait_seconds <= full.wait_seconds <= 900


def test_jitter_spreads() -> None:
    assert decide(Transient(""), 3, 9, POLICY, 0.5) == Retry(15, "Transient: ")


@pytest.mark.parametrize("error", [Permanent("no such model"), NotAnalysed("gap-in-stack", "no such model")])
def test_permanent_gives_up_at_once(error: Permanent) -> None:
    assert decide(error, 1, 3, POLICY, 0.0) == GiveUp(f"{type(error).__name__}: no such model", error.code)


def test_the_last_attempt_gives_up() -> None:
    assert decide(Transient("away"), 3, 3, POLICY, 0.0) == GiveUp("Transient: away", "attempts-used-up")


def test_of_an_unforeseen_error_only_the_class_is_told() -> None:
    assert decide(ValueError("DOE^JANE"), 1, 3, POLICY, 0.0) == Retry(5, "ValueError")
