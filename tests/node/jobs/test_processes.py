"""Real worker processes on one database, killed and stopped."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from node.jobs import lease, queue
from node.jobs.history import job_counts, job_history
from node.jobs.job import Job
from node.jobs.process import is_dead
from node.jobs.state import JobEvent
from node.jobs.wake import Topic, Wake
from node.jobs.worker import utc_now
from node.store import tables
from node.store.database import write_transaction
from node.store.tables import JobState
from tests.node.jobs.examples import INFER, order, queued

LONG = 180.0  # seconds; a test that waits this long has failed
ROOT = Path(__file__).parents[3]
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(engine: Engine, tmp_path: Path) -> Iterator[Start]:
    """Starts `worker_process.py` in a mode; what is left of them is killed at the end."""
    with ExitStack() as stack:

        def start_one(mode: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [*worker_command(engine, tmp_path), mode],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start_one


def worker_command(engine: Engine, folder: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("worker_process.py")), str(engine.url), str(folder / "run")]


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write_line(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def add_job(engine: Engine) -> int:
    with write_transaction(engine) as connection:
        return queued(connection, now=utc_now()).job_id


def get_job(engine: Engine, job_id: int) -> Job:
    with write_transaction(engine) as connection:
        return queue.get_job(connection, job_id)


def test_four_processes_never_do_a_job_twice(engine: Engine, start: Start) -> None:
    jobs = 200
    with write_transaction(engine) as connection:
        queued(connection, model="model-0")
        for number in range(1, jobs):
            queue.enqueue_infer(connection, order(model=f"model-{number}"), utc_now())
    processes = [start("share") for _ in range(4)]
    assert [read_line(process) for process in processes] == ["ready"] * 4
    write_line(processes)
    done = [read_line(process) for process in processes]  # each has a job: none comes too late for all of them
    write_line(processes)
    done += [word for process in processes for word in process.communicate(timeout=LONG)[0].split()]
    assert [process.returncode for process in processes] == [0] * 4
    assert Counter(map(int, done)) == dict.fromkeys(range(1, jobs + 1), 1)
    with write_transaction(engine) as connection:
        assert job_counts(connection)[INFER, JobState.SUCCEEDED] == jobs
        assert connection.scalar(select(func.max(tables.job.c.attempt))) == 1
        by_event = select(tables.job_event.c.event, func.count()).group_by(tables.job_event.c.event)
        assert dict(connection.execute(by_event).all()) == {"ENQUEUE": jobs, "CLAIM": jobs, "SUCCEED": jobs}


def killed_while_it_worked(engine: Engine, start: Start) -> int:
    job_id = add_job(engine)
    process = start("hang")
    assert [read_line(process), read_line(process)] == ["ready", str(job_id)]
    process.kill()  # SIGKILL
    process.wait(LONG)
    job = get_job(engine, job_id)
    assert (job.state, job.attempt) == (JobState.RUNNING, 1)
    return job_id


@pytest.mark.database("sqlite")
def test_the_lease_of_a_killed_process_runs_out_and_the_job_runs_again(engine: Engine, start: Start) -> None:
    job_id = killed_while_it_worked(engine, start)
    expires_at = get_job(engine, job_id).lease_expires_at
    assert expires_at is not None
    with write_transaction(engine) as connection:
        assert lease.rescue(connection, expires_at) == []
        (rescued,) = lease.rescue(connection, expires_at.replace(year=expires_at.year + 1))
        assert (rescued.state, rescued.attempt) == (JobState.QUEUED, 1)
        again = queue.claim(connection, INFER, "w2", 30, rescued.run_after)
        assert again is not None and again.attempt == 2


def test_the_next_process_takes_over_from_a_killed_one_at_once(engine: Engine, start: Start) -> None:
    job_id = killed_while_it_worked(engine, start)
    next_one = start("drain")
    out, _ = next_one.communicate("\n", timeout=LONG)
    assert out.split() == ["ready", str(job_id)]
    job = get_job(engine, job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    with write_transaction(engine) as connection:
        events = [line.event for line in job_history(connection, job_id)]
    assert events == [
        JobEvent.ENQUEUE,
        JobEvent.CLAIM,
        JobEvent.RESCUE,
        JobEvent.CLAIM,
        JobEvent.SUCCEED,
    ]


@pytest.mark.database("sqlite")
def test_a_node_killed_as_a_whole_costs_its_job_no_attempt(engine: Engine, start: Start, tmp_path: Path) -> None:
    """Supervisor and worker, killed at once."""
    job_id = add_job(engine)
    worker = [*worker_command(engine, tmp_path), "hang"]
    supervisor = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; print(subprocess.Popen({worker!r}).wait())"],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    with supervisor:
        assert [read_line(supervisor), read_line(supervisor)] == ["ready", str(job_id)]
        os.killpg(supervisor.pid, signal.SIGKILL)
    until = time.monotonic() + LONG
    while not is_dead(str(get_job(engine, job_id).worker)):
        assert time.monotonic() < until
        time.sleep(0.01)
    out, _ = start("drain").communicate("\n", timeout=LONG)
    assert out.split() == ["ready", str(job_id)]
    job = get_job(engine, job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


@pytest.mark.database("sqlite")
def test_sigterm_releases_the_job_and_costs_no_attempt(engine: Engine, start: Start) -> None:
    job_id = add_job(engine)
    process = start("work")
    assert [read_line(process), read_line(process)] == ["ready", str(job_id)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(LONG) == 0
    job = get_job(engine, job_id)
    assert (job.state, job.attempt, job.worker) == (JobState.QUEUED, 0, None)


@pytest.mark.database("sqlite")
def test_sigterm_ends_an_idle_process(start: Start) -> None:
    process = start("work")
    assert read_line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert process.wait(LONG) == 0


@pytest.mark.database("sqlite")
def test_a_process_past_its_deadline_ends_itself(engine: Engine, start: Start) -> None:
    job_id = add_job(engine)
    process = start("late")
    assert process.wait(LONG) == 1
    job = get_job(engine, job_id)
    assert (job.state, job.attempt) == (JobState.QUEUED, 1)
    assert job.last_error == "DeadlineExceeded: ran longer than 0.1 s and was ended"


@pytest.mark.database("sqlite")
def test_a_waiting_process_is_woken(engine: Engine, start: Start, tmp_path: Path) -> None:
    process = start("work")
    assert read_line(process) == "ready"
    job_id = add_job(engine)
    assert Wake(tmp_path / "run").notify(Topic.INFER) == 1
    assert read_line(process) == str(job_id)
