"""A whole node, started for a test as its administrator would start it, and looked at from the outside."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine
from typer.testing import CliRunner

from node.cli import build_app
from node.jobs import history
from node.jobs.job import Job
from node.store.database import open_database, read_transaction
from node.store.decisions import Decision, decisions_of_study
from node.store.tables import JobKind, JobState
from tests.counterparts import PATIENCE, answers, free_port, wait_until

CONFIGURATION = """\
[node]
data_dir = "data"
[dimse]
host = "127.0.0.1"
port = {port}
free_disk_mb = 10
[settle]
quiet_seconds = 3
released_quiet_seconds = 0.2
limit_seconds = 30
[work]
device = "cpu"
intra_op_threads = 1
lease_seconds = 30
[deliver]
first_retry_seconds = 0.2
longest_retry_seconds = 0.5
probe_seconds = 0.5
timeout_seconds = 10
[models]
paths = [{models}]
[[routes]]
name = "all-mr"
match = {{ modality = ["MR"] }}
models = ["{model}"]
destinations = ["pacs"]
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
"""


@dataclass
class NodeUnderTest:
    """`overread run` on loopback, with its data below `folder`."""

    folder: Path
    models: Path
    model: str
    pacs_port: int
    port: int = field(default_factory=free_port)
    ae_title: str = "OVERREAD"
    process: subprocess.Popen[bytes] | None = None
    database_url: str = ""

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "node.toml"

    @property
    def log(self) -> Path:
        """Everything the node wrote to standard output and error, over all its starts."""
        return self.folder / "node.log"

    def write_config(self, replace: Sequence[tuple[str, str]] = ()) -> None:
        """The configuration of this test, with texts replaced."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.format(
            port=self.port, models=repr(str(self.models)), model=self.model, pacs_port=self.pacs_port
        )
        for old, new in replace:
            assert old in text
            text = text.replace(old, new)
        self.config.write_text(text)

    def start(self, *, wait: bool = True) -> None:
        """Start all processes; `wait` until they take associations."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        """Until it takes associations."""
        wait_until(lambda: answers(self.port), "answer of the node", 60)

    def stop(self) -> int:
        """SIGTERM, as a service manager does; the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15 * PATIENCE)
        finally:
            self.kill()

    def kill(self) -> None:
        """`kill -9` for the supervisor and everything it started, at once."""
        if self.process is None:
            return
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        for pid in (self.process.pid, *(each.pid for each in family)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(family, timeout=10 * PATIENCE)
        self.process = None

    @contextmanager
    def database(self) -> Iterator[Engine]:
        """The node's database."""
        engine = open_database(self.database_url or f"sqlite:///{self.folder / 'data' / 'overread.sqlite'}")
        try:
            yield engine
        finally:
            engine.dispose()

    def jobs(self, kind: JobKind | None = None) -> list[Job]:
        """All jobs, newest first."""
        with self.database() as engine, read_transaction(engine) as connection:
            return history.list_jobs(connection, kind=kind, limit=1000)

    def decisions(self, study_instance_uid: str) -> list[Decision]:
        """Why the study led to work or did not."""
        with self.database() as engine, read_transaction(engine) as connection:
            return decisions_of_study(connection, study_instance_uid)

    def wait_for_jobs(
        self, condition: Callable[[list[Job]], Any], what: str, seconds: float = 60, kind: JobKind | None = None
    ) -> list[Job]:
        """The jobs, once `condition` holds for them."""
        wait_until(lambda: condition(self.jobs(kind)), what, seconds)
        return self.jobs(kind)

    def overread(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line against this node's configuration."""
        return overread(*arguments, "--config", str(self.config))

    def say(self, *arguments: str) -> str:
        """What a command that succeeds prints, without the second that a process of its own takes to start."""
        command = [*arguments, "--config", str(self.config)]
        ended = CliRunner().invoke(build_app(command), command, catch_exceptions=False)
        assert (ended.exit_code, ended.stderr) == (0, ""), ended.output
        return ended.stdout

    def status(self) -> Any:
        """What `overread status --json` prints."""
        return json.loads(self.say("status", "--json"))


def overread(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; never raises."""
    return subprocess.run(
        [sys.executable, "-m", "node", *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def without_uids(text: str) -> str:
    """A text without the UIDs in it: their digits are drawn at random, and sooner or later they are a date of birth."""
    return re.sub(r"\d+(\.\d+){3,}", "", text)


def all_in(state: JobState) -> Callable[[list[Job]], bool]:
    """A condition: there are jobs, and all are in this state."""
    return lambda jobs: bool(jobs) and all(job.state is state for job in jobs)


@contextmanager
def running_node(
    folder: Path, models: Path, model: str, pacs_port: int, replace: Sequence[tuple[str, str]] = ()
) -> Iterator[NodeUnderTest]:
    """A started node; killed at the end whatever happens."""
    node = NodeUnderTest(folder, models, model, pacs_port)
    node.write_config(replace)
    try:
        node.start()
        yield node
    finally:
        node.kill()
