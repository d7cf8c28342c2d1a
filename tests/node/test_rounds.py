"""Work in rounds."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from node.rounds import Rounds, seconds_until
from tests.counterparts import PATIENCE, wait_until

NOW = datetime(2026, 3, 4, tzinfo=UTC)
FOR_EVER = 1e6


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(None, 5), (NOW + timedelta(seconds=2), 2), (NOW + timedelta(hours=1), 5), (NOW - timedelta(hours=1), 0.02)],
)
def test_wait_is_until_what_is_due_and_not_too_long(moment: datetime | None, expected: float):
    assert seconds_until(moment, NOW, 5) == expected


@contextmanager
def running(rounds: Rounds) -> Iterator[None]:
    thread = threading.Thread(target=rounds.run)
    thread.start()
    yield
    rounds.stop()
    thread.join(20 * PATIENCE)
    assert not thread.is_alive()


def test_steps_follow_each_other_also_after_one_that_failed():
    failures: list[str] = []
    done: list[int] = []

    def step() -> float:
        done.append(len(done))
        if len(done) == 2:
            raise OSError("the database is away")
        return 0.0 if len(done) < 4 else FOR_EVER

    with running(Rounds(step, lambda error: failures.append(str(error)), 0.01)):
        wait_until(lambda: len(done) == 4, "four steps")
    assert failures == ["the database is away"]


def test_wake_ends_a_wait_and_is_not_forgotten_while_a_step_runs():
    done: list[int] = []

    def step() -> float:
        done.append(len(done))
        if len(done) == 1:
            rounds.wake()
        return FOR_EVER

    rounds = Rounds(step, lambda error: None, FOR_EVER)
    with running(rounds):
        wait_until(lambda: len(done) == 2, "the step that was asked for in the first one")
        rounds.wake()
        wait_until(lambda: len(done) == 3, "the step after the wait")


def test_a_step_that_is_stopped_may_raise_and_nobody_is_told():
    failures: list[Exception] = []

    def step() -> float:
        rounds.stop()
        raise RuntimeError("stopped")

    rounds = Rounds(step, failures.append, FOR_EVER)
    rounds.run()
    assert rounds.is_stopping and not failures
