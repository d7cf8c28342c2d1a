"""Two whole nodes on one PostgreSQL and one data folder, as two machines have them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydicom.uid import generate_uid

from node.deliver.storage_scu import send
from node.jobs.history import job_history
from node.jobs.job import Job
from node.jobs.state import JobEvent
from node.settings import Destination
from node.store.database import read_transaction
from node.store.results import results_of_study
from node.store.tables import JobKind, JobState, ResultState
from tests.faulty_archive import STORAGE_CLASSES, FaultyArchive
from tests.models import threshold_network, write_model
from tests.nodes import NodeUnderTest, all_in
from tests.phantoms import write_series
from tests.postgresql import cluster

pytestmark = pytest.mark.counterpart("postgresql")


@pytest.fixture
def archive() -> Iterator[FaultyArchive]:
    with FaultyArchive() as peer:
        yield peer


@pytest.fixture
def nodes(tmp_path: Path, archive: FaultyArchive) -> Iterator[list[NodeUnderTest]]:
    """Two nodes that run; each has a configuration and a port of its own."""
    write_model(tmp_path / "models" / "slow", "slow", threshold_network(repeats=100))
    with cluster() as server:
        url = server.create()
        shared = f'data_dir = "{tmp_path / "data"}"\ndatabase_url = "{url}"'
        made = []
        for name in ("one", "two"):
            made.append(NodeUnderTest(tmp_path / name, tmp_path / "models", "slow", archive.port, database_url=url))
            made[-1].write_config([('data_dir = "data"', shared), ("lease_seconds = 30", "lease_seconds = 10")])
        try:
            for each in made:
                each.start(wait=False)
            for each in made:
                each.wait_until_it_answers()
            yield made
        finally:
            for each in made:
                each.kill()


def send_study(node: NodeUnderTest, folder: Path) -> str:
    study = generate_uid()
    peer = Destination(name="node", ae_title=node.ae_title, host="127.0.0.1", port=node.port)
    answers = send(peer, "SENDER", write_series(folder / study, study_instance_uid=study, shape=(24, 64, 64)), 20)
    assert {answer.status for answer in answers} == {0x0000}
    return study


def holder(job: Job, nodes: list[NodeUnderTest]) -> NodeUnderTest:
    """The node whose worker holds the job."""
    pid = int(str(job.worker).split(":")[1])
    (found,) = [each for each in nodes if each.process and pid in _family(each.process.pid)]
    return found


def _family(pid: int) -> set[int]:
    return {each.pid for each in psutil.Process(pid).children(recursive=True)}


def kill_the_one_that_works(nodes: list[NodeUnderTest], studies: list[str], folder: Path) -> tuple[NodeUnderTest, Job]:
    """Send a study, and kill the whole node that analyses it while it does; sends another if it was done by then."""
    for _ in range(5):
        studies.append(send_study(nodes[0], folder))
        (running,) = nodes[1].wait_for_jobs(
            lambda jobs: jobs[0].study_instance_uid == studies[-1] and jobs[0].attempt, "inference", 60, JobKind.INFER
        )[:1]
        if running.state is not JobState.RUNNING:
            continue
        node = holder(running, nodes)
        node.kill()
        if node.jobs(JobKind.INFER)[0].state is JobState.SUCCEEDED:
            node.start()
            continue
        return node, running
    raise AssertionError("every inference was over before its node was killed")


def test_no_job_runs_twice_and_one_takes_over_from_the_other(
    nodes: list[NodeUnderTest], archive: FaultyArchive, tmp_path: Path
) -> None:
    one, two = nodes
    studies = [send_study(each, tmp_path) for each in (one, two)]
    one.wait_for_jobs(lambda jobs: len(jobs) == 4 and all_in(JobState.SUCCEEDED)(jobs), "two studies delivered", 90)
    assert {job.attempt for job in two.jobs()} == {1}

    killed, running = kill_the_one_that_works(nodes, studies, tmp_path)
    (survivor,) = [each for each in nodes if each is not killed]
    studies.append(send_study(survivor, tmp_path))
    all_jobs = 2 * len(studies)
    survivor.wait_for_jobs(lambda jobs: len(jobs) == all_jobs and all_in(JobState.SUCCEEDED)(jobs), "all delivered", 90)

    with survivor.database() as engine, read_transaction(engine) as connection:
        for study in studies:
            assert [each.state for each in results_of_study(connection, study)] == [ResultState.CURRENT]
        events = Counter(line.event for line in job_history(connection, running.job_id))
    assert events[JobEvent.CLAIM] == 2 and events[JobEvent.SUCCEED] == 1
    made = Counter(each.sop_class_uid for each in {one.sop_instance_uid: one for one in archive.received}.values())
    assert made == dict.fromkeys((STORAGE_CLASSES["SEG"], STORAGE_CLASSES["COMPREHENSIVE_3D_SR"]), len(studies))
