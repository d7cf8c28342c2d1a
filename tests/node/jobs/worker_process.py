"""A worker process for tests: `worker_process.py URL FOLDER MODE`, with a line of output for everything that happens.

drain  waits for a line of input, does jobs until there are none, and prints the number of each
share  like drain, and waits for another line of input in its first job
hang   prints the number of its first job and works on it for ever, heeding nobody
work   like hang, and lets itself be interrupted; SIGTERM stops it
late   like hang, with a deadline
"""

import signal
import sys
import time
from pathlib import Path

from sqlalchemy import Connection

from node.jobs.heartbeat import Heartbeat
from node.jobs.job import Job
from node.jobs.retry import RetryPolicy
from node.jobs.wake import Topic, WakeListener
from node.jobs.worker import Completion, Handler, JobLoop, LoopSettings
from node.logs import configure_logs
from node.store.database import open_database
from node.store.tables import JobKind


def say(word: object) -> None:
    print(word, flush=True)


def nothing(connection: Connection, job: Job) -> None:
    """A completion that records nothing."""


def do_at_once(job: Job, heartbeat: Heartbeat) -> Completion:
    say(job.job_id)
    return nothing


class Share:
    """Waits in its first job for a line of input, so that others have a first job, too."""

    def __init__(self) -> None:
        self._is_first = True

    def __call__(self, job: Job, heartbeat: Heartbeat) -> Completion:
        say(job.job_id)
        if self._is_first:
            self._is_first = False
            sys.stdin.readline()
        return nothing


def hang(job: Job, heartbeat: Heartbeat) -> Completion:
    say(job.job_id)
    while True:
        time.sleep(1)


def work(job: Job, heartbeat: Heartbeat) -> Completion:
    say(job.job_id)
    while True:
        heartbeat.check()
        time.sleep(0.01)


def main(url: str, folder: str, mode: str) -> None:
    handler: Handler = {"drain": do_at_once, "share": Share(), "hang": hang, "work": work, "late": hang}[mode]
    settings = LoopSettings(
        JobKind.INFER,
        lease_seconds=30,
        poll_seconds=5,
        retry=RetryPolicy(5, 900),
        deadline_seconds=0.1 if mode == "late" else None,
    )
    configure_logs()
    with WakeListener(Path(folder), Topic.INFER) as waiter:
        loop = JobLoop(open_database(url), settings, handler, waiter)
        signal.signal(signal.SIGTERM, lambda *_: loop.stop())
        say("ready")
        if mode in ("drain", "share"):
            sys.stdin.readline()
            while loop.step():
                pass
        else:
            loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
