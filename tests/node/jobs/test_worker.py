import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
import structlog
from sqlalchemy import Connection, Engine, update

from node.errors import Permanent, Transient
from node.jobs import lease, queue
from node.jobs.completion import complete_inference
from node.jobs.heartbeat import Heartbeat, Interrupted
from node.jobs.history import job_history, list_jobs
from node.jobs.job import Job
from node.jobs.process import is_dead, is_dead_with_its_node, worker_name
from node.jobs.retry import RetryPolicy
from node.jobs.state import JobEvent
from node.jobs.worker import Completion, Handler, JobLoop, LoopSettings, utc_now
from node.store import tables
from node.store.database import migrate, open_database, write_transaction
from node.store.results import current_result
from node.store.tables import JobState
from tests.node.jobs.examples import DELIVER, INFER, new_result, queued

LONG = 90.0  # seconds; a test that waits this long has failed
SETTINGS = LoopSettings(
    kind=INFER, lease_seconds=30, poll_seconds=20, retry=RetryPolicy(10, 900, jitter=0.5), grace_seconds=LONG
)
QUICK = replace(SETTINGS, lease_seconds=0.3)  # three heartbeats in this time


class FakeWaiter:
    """Waits for `notify` or `interrupt`; remembers how long it was asked to wait."""

    def __init__(self) -> None:
        self.woken = Event()
        self.waiting = Event()
        self.timeouts: list[float] = []

    def wait(self, timeout: float) -> bool:
        self.timeouts.append(timeout)
        self.waiting.set()
        return self.woken.wait(LONG)

    def interrupt(self) -> None:
        self.woken.set()


def nothing(connection: Connection, job: Job) -> None:
    """A completion that records nothing."""


def make_loop(engine: Engine, handler: Handler, settings: LoopSettings = SETTINGS, **edges: object) -> JobLoop:
    return JobLoop(engine, settings, handler, FakeWaiter(), **edges)  # type: ignore[arg-type]


def add_job(engine: Engine, study: str = "1.2", **changes: object) -> int:
    with write_transaction(engine) as connection:
        return queued(connection, study, utc_now(), **changes).job_id


def get_job(engine: Engine, job_id: int) -> Job:
    with write_transaction(engine) as connection:
        return queue.get_job(connection, job_id)


def raising(error: Exception) -> Handler:
    def handler(job: Job, heartbeat: Heartbeat) -> Completion:
        raise error

    return handler


class Patient:
    """A handler that works until it is interrupted, checking all the time (`checks`) or never."""

    def __init__(self, checks: bool = True) -> None:
        self.started = Event()
        self.let_go = Event()
        self.checks = checks

    def __call__(self, job: Job, heartbeat: Heartbeat) -> Completion:
        self.started.set()
        for _ in range(int(LONG / 0.01)):
            if self.let_go.wait(0.01):
                return nothing
            if self.checks:
                heartbeat.check()
        raise AssertionError("nobody interrupted the handler")


@contextmanager
def running_in_thread(loop: JobLoop) -> Iterator[None]:
    thread = Thread(target=loop.run)
    thread.start()
    try:
        yield
    finally:
        loop.stop()
        thread.join(LONG)
        assert not thread.is_alive()


def test_what_a_job_made_is_committed_with_its_success(engine: Engine) -> None:
    job_id = add_job(engine)
    finished: list[JobState] = []

    def handler(job: Job, heartbeat: Heartbeat) -> Completion:
        made = new_result(job)
        return lambda connection, current: complete_inference(connection, current, made, 200, utc_now()) and None

    loop = make_loop(engine, handler, on_finished=lambda job: finished.append(get_job(engine, job.job_id).state))
    assert loop.step()
    with write_transaction(engine) as connection:
        assert current_result(connection, "1.2", "brain") is not None
        assert len(list_jobs(connection, kind=DELIVER)) == 1
        assert [line.worker for line in job_history(connection, job_id)] == [None, loop.worker, loop.worker]
    assert finished == [JobState.SUCCEEDED]
    assert not loop.step()


def test_a_completion_that_fails_leaves_nothing_and_costs_the_attempt(engine: Engine) -> None:
    job_id = add_job(engine)

    def half_done(connection: Connection, job: Job) -> None:
        complete_inference(connection, job, new_result(job), 200, utc_now())
        raise Transient("no room")

    make_loop(engine, lambda job, heartbeat: half_done).step()
    job = get_job(engine, job_id)
    assert (job.state, job.attempt, job.last_error) == (JobState.QUEUED, 1, "Transient: no room")
    with write_transaction(engine) as connection:
        assert current_result(connection, "1.2", "brain") is None
        assert list_jobs(connection, kind=DELIVER) == []


@pytest.mark.parametrize(
    ("error", "told"),
    [(Transient("PACS away"), "Transient: PACS away"), (ValueError("DOE^JANE"), "ValueError at test_worker.py:")],
)
def test_what_may_pass_is_tried_again_later(engine: Engine, error: Exception, told: str) -> None:
    job_id = add_job(engine)
    before = utc_now()
    make_loop(engine, raising(error)).step()
    job = get_job(engine, job_id)
    assert (job.state, job.attempt) == (JobState.QUEUED, 1)
    assert str(job.last_error).startswith(told)
    assert "DOE" not in str(job.last_error)
    wait = job.run_after - before
    assert timedelta(seconds=5) <= wait <= timedelta(seconds=10 + LONG)


def test_a_permanent_error_parks_the_job_with_its_message(engine: Engine) -> None:
    job_id = add_job(engine)
    make_loop(engine, raising(Permanent("model 'brain' has other weights"))).step()
    job = get_job(engine, job_id)
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.last_error == "Permanent: model 'brain' has other weights"


def test_the_next_job_is_done_after_one_that_failed(engine: Engine) -> None:
    first, second = add_job(engine, "1.1"), add_job(engine, "1.2")

    def handler(job: Job, heartbeat: Heartbeat) -> Completion:
        if job.job_id == first:
            raise Permanent("bad")
        return nothing

    loop = make_loop(engine, handler)
    assert loop.step() and loop.step() and not loop.step()
    assert get_job(engine, first).state is JobState.FAILED
    assert get_job(engine, second).state is JobState.SUCCEEDED


def test_attempts_are_used_up(engine: Engine) -> None:
    job_id = add_job(engine)
    loop = make_loop(engine, raising(Transient("away")), replace(SETTINGS, retry=RetryPolicy(1e-6, 1e-6)))
    while loop.step():
        pass
    with write_transaction(engine) as connection:
        history = job_history(connection, job_id)
    assert [str(line.event) for line in history] == [
        "ENQUEUE",
        *["CLAIM", "RETRY"] * 2,
        *["CLAIM", "FAIL"],
    ]
    assert [line.message for line in history if line.message] == ["Transient: away"] * 3


def test_stopping_releases_the_job_and_costs_no_attempt(engine: Engine) -> None:
    job_id = add_job(engine)
    handler = Patient()
    with running_in_thread(make_loop(engine, handler)):
        assert handler.started.wait(LONG)
    job = get_job(engine, job_id)
    assert (job.state, job.attempt, job.worker) == (JobState.QUEUED, 0, None)


def test_an_interruption_is_recognised_however_it_is_wrapped(engine: Engine) -> None:
    job_id = add_job(engine)
    patient = Patient()

    def handler(job: Job, heartbeat: Heartbeat) -> Completion:
        try:
            return patient(job, heartbeat)
        except Interrupted as error:
            raise RuntimeError("callback failed") from error

    with running_in_thread(make_loop(engine, handler)):
        assert patient.started.wait(LONG)
    assert (get_job(engine, job_id).state, get_job(engine, job_id).attempt) == (JobState.QUEUED, 0)


def ended_by(engine: Engine, settings: LoopSettings, stop: bool) -> tuple[int, Patient]:
    """Run a handler that never checks until the process would have been ended; the exit status."""
    handler = Patient(checks=False)
    statuses: list[int] = []

    def end_process(status: int) -> None:
        statuses.append(status)
        handler.let_go.set()

    loop = make_loop(engine, handler, settings, end_process=end_process)
    thread = Thread(target=loop.run)
    thread.start()
    assert handler.started.wait(LONG)
    if stop:
        loop.stop()
    thread.join(LONG)
    assert not thread.is_alive()
    (status,) = statuses
    return status, handler


def test_a_handler_that_does_not_stop_is_released_and_its_process_ended(engine: Engine) -> None:
    job_id = add_job(engine)
    status, _ = ended_by(engine, replace(SETTINGS, grace_seconds=0.05), stop=True)
    assert status == 0
    assert (get_job(engine, job_id).state, get_job(engine, job_id).attempt) == (JobState.QUEUED, 0)


def test_a_handler_past_its_deadline_costs_an_attempt_and_its_process(engine: Engine) -> None:
    job_id = add_job(engine)
    status, _ = ended_by(engine, replace(SETTINGS, deadline_seconds=0.05), stop=False)
    job = get_job(engine, job_id)
    assert status == 1
    assert (job.state, job.attempt) == (JobState.QUEUED, 1)
    assert job.last_error == "DeadlineExceeded: ran longer than 0.05 s and was ended"


def test_a_running_job_that_is_cancelled_stops(engine: Engine) -> None:
    job_id = add_job(engine)
    handler, done = Patient(), Event()
    with running_in_thread(make_loop(engine, handler, QUICK, on_finished=lambda job: done.set())):
        assert handler.started.wait(LONG)
        with write_transaction(engine) as connection:
            queue.cancel(connection, job_id, utc_now(), "wrong study")
        assert done.wait(LONG)
    job = get_job(engine, job_id)
    assert (job.state, job.last_error) == (JobState.CANCELLED, "cancelled while it ran")


@pytest.mark.parametrize("kind", [INFER, DELIVER])
def test_success_after_a_request_to_cancel(engine: Engine, kind: tables.JobKind) -> None:
    job_id = add_job(engine)
    completed: list[int] = []

    def handler(job: Job, heartbeat: Heartbeat) -> Completion:
        with write_transaction(engine) as connection:
            queue.cancel(connection, job.job_id, utc_now())
        return lambda connection, current: completed.append(current.job_id)

    if kind is DELIVER:
        make_loop(engine, finish_with_result).step()
        job_id += 1
    make_loop(engine, handler, replace(SETTINGS, kind=kind)).step()
    if kind is INFER:
        assert (get_job(engine, job_id).state, completed) == (JobState.CANCELLED, [])
    else:
        assert (get_job(engine, job_id).state, completed) == (JobState.SUCCEEDED, [job_id])


def finish_with_result(job: Job, heartbeat: Heartbeat) -> Completion:
    def complete(connection: Connection, current: Job) -> None:
        complete_inference(connection, current, new_result(current), 200, utc_now())

    return complete


def test_the_lease_is_kept_while_the_handler_works(engine: Engine) -> None:
    job_id = add_job(engine)

    def handler(job: Job, heartbeat: Heartbeat) -> Completion:
        wait_until(lambda: get_job(engine, job.job_id).lease_expires_at > job.lease_expires_at)  # type: ignore[operator]
        return nothing

    make_loop(engine, handler, QUICK).step()
    job = get_job(engine, job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


def wait_until(condition: Callable[[], bool]) -> None:
    pause = Event()
    for _ in range(int(LONG / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize("outcome", ["success", "failure", "interrupted"])
def test_a_lost_lease_changes_nothing(engine: Engine, outcome: str) -> None:
    job_id = add_job(engine)
    completed: list[int] = []

    def handler(job: Job, heartbeat: Heartbeat) -> Completion:
        with write_transaction(engine) as connection:
            lease.rescue(connection, utc_now() + timedelta(hours=1))
            assert queue.claim(connection, INFER, "another", 30, utc_now() + timedelta(hours=1))
        if outcome == "failure":
            raise Transient("away")
        if outcome == "interrupted":
            wait_until(lambda: heartbeat.reason is not None)
            heartbeat.check()
        return lambda connection, current: completed.append(current.job_id)

    finished: list[Job] = []
    make_loop(engine, handler, QUICK, on_finished=finished.append).step()
    job = get_job(engine, job_id)
    assert (job.state, job.worker, job.attempt) == (JobState.RUNNING, "another", 2)
    assert completed == [] and finished == []


def test_the_loop_waits_no_longer_than_until_the_next_job_may_run(engine: Engine) -> None:
    job_id = add_job(engine)
    with write_transaction(engine) as connection:
        soon = utc_now() + timedelta(seconds=15)
        connection.execute(update(tables.job).where(tables.job.c.id == job_id).values(run_after=soon))
    waiter = FakeWaiter()
    loop = JobLoop(engine, SETTINGS, raising(Permanent("too early")), waiter)
    with running_in_thread(loop):
        assert waiter.waiting.wait(LONG)
    assert 0 < waiter.timeouts[0] <= 15


def test_the_loop_outlives_a_database_that_is_away(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'later.sqlite'}"
    engine = open_database(url)
    waiter, done = FakeWaiter(), Event()
    loop = JobLoop(engine, SETTINGS, lambda job, heartbeat: nothing, waiter, on_finished=lambda job: done.set())
    with running_in_thread(loop):
        assert waiter.waiting.wait(LONG)
        assert waiter.timeouts == [SETTINGS.poll_seconds]
        migrate(url, None)
        add_job(engine)
        waiter.woken.set()
        assert done.wait(LONG)
    engine.dispose()


def test_a_job_of_a_dead_process_is_taken_over_at_start(engine: Engine) -> None:
    job_id = add_job(engine)
    name = worker_name_of_a_process_that_has_ended()
    with write_transaction(engine) as connection:
        assert queue.claim(connection, INFER, name, 3600, utc_now())
    assert make_loop(engine, lambda job, heartbeat: nothing).step()
    job = get_job(engine, job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)


def worker_name_of_a_process_that_has_ended() -> str:
    machine, _, token, supervisor = worker_name().split(":")
    return f"{machine}:{number_of_a_process_that_has_ended()}:{token}:{supervisor}"


def number_of_a_process_that_has_ended() -> str:
    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


def test_only_a_dead_process_of_this_machine_is_dead() -> None:
    assert not is_dead(worker_name())
    assert is_dead(worker_name_of_a_process_that_has_ended())
    assert not is_dead(f"elsewhere:{worker_name_of_a_process_that_has_ended().split(':')[1]}:abcd")
    assert not is_dead("no such form")
    assert not is_dead("")
    assert worker_name() != worker_name()


def test_a_node_is_dead_when_its_supervisor_is_or_its_machine_is_another() -> None:
    machine, number, token, supervisor = worker_name().split(":")
    assert supervisor == str(os.getppid())
    assert not is_dead_with_its_node(worker_name())
    assert is_dead_with_its_node(f"{machine}:{number}:{token}:{number_of_a_process_that_has_ended()}")
    assert is_dead_with_its_node(f"elsewhere:{number}:{token}:{supervisor}")
    assert not is_dead_with_its_node(f"{machine}:{number}:{token}")
    assert not is_dead_with_its_node(f"{machine}:{number}:{token}:0")


def test_one_line_is_logged_for_each_job_and_nothing_of_the_patient(engine: Engine) -> None:
    add_job(engine)
    with structlog.testing.capture_logs() as lines:
        make_loop(engine, raising(ValueError("DOE^JANE"))).step()
    (line,) = lines
    assert (line["event"], line["state"], line["attempt"]) == ("job_ended", "QUEUED", 1)
    assert line["error"].startswith("ValueError at test_worker.py:")
    assert "DOE" not in str(line)


def test_every_end_is_in_the_history(engine: Engine) -> None:
    job_id = add_job(engine)
    make_loop(engine, raising(Permanent("bad"))).step()
    with write_transaction(engine) as connection:
        last = job_history(connection, job_id)[-1]
    assert (last.event, last.to_state, last.message) == (JobEvent.FAIL, JobState.FAILED, "Permanent: bad")
