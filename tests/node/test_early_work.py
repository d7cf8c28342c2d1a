"""Work begun before a study is whole: confirmed, changed, given up, and never delivered early, whatever is killed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from node.errors import NotAnalysed
from node.infer.manifest import Manifest, load_manifest
from node.jobs import history, lease, queue
from node.jobs.completion import complete_inference
from node.jobs.job import HeartbeatReply, Job
from node.jobs.speculation import EarlyWork, early_work
from node.jobs.state import JobEvent
from node.settings import Route, Settings
from node.settle import Settler
from node.store.catalogue import release_series, store_instances
from node.store.database import read_transaction, write_transaction
from node.store.decisions import decisions_of_study
from node.store.results import NewResult, ResultObject, results_of_study
from node.store.tables import DecisionOutcome, JobKind, JobState, Priority, ResultState
from tests.models import threshold_network, write_model
from tests.node.store.examples import later, received
from tests.node.test_settle import AtOnce, image

QUIET = 20.0


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    folder = write_model(tmp_path_factory.mktemp("models") / "ball", "ball", threshold_network())
    return {"ball": load_manifest(folder)}


class Node:
    """A settler and a worker on one database, with a clock that is set."""

    def __init__(self, engine: Engine, manifests: dict[str, Manifest], folder: Path, **settle: Any) -> None:
        self.engine, self.manifests, self.folder = engine, manifests, folder
        self.settings = Settings(
            routes=(Route(name="r", models=("ball",)),),
            settle={"released_quiet_seconds": QUIET, "quiet_seconds": 30, **settle},
        )
        self.now = later(0)
        self.settler = self._settler()

    def _settler(self) -> Settler:
        return Settler(
            self.engine,
            self.settings,
            lambda: self.manifests,
            self.folder / "run",
            lambda: self.now,
            executor=AtOnce(),
        )

    def restart(self) -> None:
        self.settler.stop()
        self.settler = self._settler()

    def send(self, first: int, last: int, *, release: bool = True, series: str = "1.2.3") -> None:
        """Images one a second, up to `last` seconds after the beginning, and their release."""
        self.now = later(last)
        images = [
            image(number, series_instance_uid=series, sop_instance_uid=f"{series}.{number}")
            for number in range(first, last + 1)
        ]
        with write_transaction(self.engine) as connection:
            store_instances(connection, images, later(last + 30))
            if release:
                release_series(connection, [series], later(last + QUIET), later(last))
        self.settler.settle_due()

    def at(self, seconds: float) -> None:
        self.now = later(seconds)
        self.settler.settle_due()

    def claim(self) -> Job | None:
        with write_transaction(self.engine) as connection:
            return queue.claim(connection, JobKind.INFER, "worker", 30, self.now)

    def finish(self, job: Job) -> None:
        with write_transaction(self.engine) as connection:
            current = lease.held(connection, job)
            complete_inference(connection, current, result_of(current), 5, self.now)
            lease.finish(connection, job, JobEvent.SUCCEED, self.now)

    def jobs(self, kind: JobKind = JobKind.INFER) -> list[Job]:
        with read_transaction(self.engine) as connection:
            return history.list_jobs(connection, kind=kind)[::-1]

    def results(self) -> list[tuple[int, ResultState]]:
        with read_transaction(self.engine) as connection:
            return [(one.revision, one.state) for one in results_of_study(connection, "1.2")]

    def early_work(self) -> EarlyWork:
        with read_transaction(self.engine) as connection:
            return early_work(connection)


def result_of(job: Job) -> NewResult:
    report = ResultObject(
        f"2.25.{job.job_id}", "1.2.840.10008.5.1.4.1.1.88.34", f"2.25.9{job.job_id}", "report", 0, "p", "s"
    )
    return NewResult(
        job_id=job.job_id,
        study_instance_uid=job.study_instance_uid,
        model=str(job.model),
        model_digest=str(job.model_digest),
        revision=job.revision or 0,
        created_at=job.created_at,
        folder=f"results/{job.job_id}",
        summary=[],
        timings={},
        objects=(report,),
    )


@pytest.fixture
def node(engine: Engine, manifests: dict[str, Manifest], tmp_path: Path) -> Iterator[Node]:
    made = Node(engine, manifests, tmp_path)
    made.settings = made.settings.model_copy(
        update={"routes": (made.settings.routes[0].model_copy(update={"destinations": ("pacs",)}),)}
    )
    made.restart()
    yield made
    made.settler.stop()


def test_a_released_stack_is_begun_held_and_delivered_when_the_study_settles(node: Node) -> None:
    node.send(1, 5)
    job = node.claim()
    assert job is not None and job.speculative
    node.now = later(9)
    node.finish(job)
    assert node.results() == [(1, ResultState.HELD)]
    assert node.jobs(JobKind.DELIVER) == []
    node.at(24.9)
    assert node.jobs(JobKind.DELIVER) == []
    node.at(25)
    assert node.results() == [(1, ResultState.CURRENT)]
    assert [each.destination for each in node.jobs(JobKind.DELIVER)] == ["pacs"]
    (confirmed,) = node.jobs()
    assert (confirmed.speculative, confirmed.saved_seconds) == (False, 4.0)
    assert node.early_work() == EarlyWork(0, 1, 0, 4.0, 4.0)


def test_work_that_still_runs_when_the_study_settles_is_delivered_when_it_is_done(node: Node) -> None:
    node.send(1, 5)
    job = node.claim()
    assert job is not None
    node.at(25)
    assert node.results() == []
    node.now = later(40)
    node.finish(job)
    assert node.results() == [(1, ResultState.CURRENT)]
    assert len(node.jobs(JobKind.DELIVER)) == 1
    assert node.jobs()[0].saved_seconds == 20.0


def test_a_late_image_cancels_what_waits_and_the_whole_study_is_analysed(node: Node) -> None:
    node.send(1, 5)
    node.send(6, 8, release=False)
    assert [each.state for each in node.jobs()] == [JobState.CANCELLED]
    with write_transaction(node.engine) as connection:
        release_series(connection, ["1.2.3"], later(28), later(8))
    node.at(9)
    assert [each.state for each in node.jobs()] == [JobState.CANCELLED]  # resumed once, it may be resumed again
    node.at(28)
    assert [(each.revision, each.state, each.speculative) for each in node.jobs()] == [
        (1, JobState.CANCELLED, True),
        (2, JobState.QUEUED, False),
    ]
    assert node.early_work().withdrawn == 1


def test_a_late_image_stops_what_runs_and_its_result_is_never_kept(node: Node) -> None:
    node.send(1, 5)
    job = node.claim()
    assert job is not None
    node.send(6, 8, release=False)
    with write_transaction(node.engine) as connection:
        assert lease.heartbeat(connection, job, 30, node.now) is HeartbeatReply.CANCEL
        assert lease.finish(connection, job, JobEvent.CANCEL, node.now).state is JobState.CANCELLED
    assert node.results() == []


def test_a_late_image_withdraws_a_result_that_is_held(node: Node) -> None:
    node.send(1, 5)
    job = node.claim()
    assert job is not None
    node.finish(job)
    node.send(6, 8)
    assert node.results() == [(1, ResultState.WITHDRAWN)]
    node.at(60)
    following = node.claim()
    assert following is not None and following.revision == 2
    node.finish(following)
    assert node.results() == [(1, ResultState.WITHDRAWN), (2, ResultState.CURRENT)]
    assert len(node.jobs(JobKind.DELIVER)) == 1


def test_another_series_that_changes_nothing_leaves_the_early_work_alone(node: Node) -> None:
    node.send(1, 5)
    with write_transaction(node.engine) as connection:
        one = received(9, sop_instance_uid="1.2.9.1", series_instance_uid="1.2.9", geometry=None)
        store_instances(connection, [one], later(40))
    node.at(10)
    assert [each.state for each in node.jobs()] == [JobState.QUEUED]


def test_work_is_taken_up_again_when_the_whole_study_asks_for_it_after_all(node: Node) -> None:
    """A better series that begins to come takes the place; when it turns out too small the first is wanted again."""
    node.send(1, 5)
    job = node.claim()
    assert job is not None
    with write_transaction(node.engine) as connection:
        queue.cancel(connection, job.job_id, node.now, "test")
    node.at(25)
    (again,) = node.jobs()
    assert (again.state, again.cancel_requested, again.speculative) == (JobState.RUNNING, False, False)
    with write_transaction(node.engine) as connection:  # the worker had heard of it already
        assert lease.finish(connection, job, JobEvent.CANCEL, node.now).state is JobState.QUEUED


@pytest.mark.parametrize("moment", ["queued", "running", "held"])
def test_a_kill_at_any_moment_delivers_once_and_not_early(node: Node, moment: str) -> None:
    node.send(1, 5)
    if moment != "queued":
        job = node.claim()
        assert job is not None
        if moment == "held":
            node.finish(job)
    node.restart()
    with write_transaction(node.engine) as connection:
        lease.rescue(connection, node.now, lambda worker: True)
    node.at(6)
    assert len(node.jobs()) == 1
    assert node.jobs(JobKind.DELIVER) == []
    node.restart()
    node.at(25)
    rest = node.claim()
    if rest is not None:
        node.finish(rest)
    assert node.results() == [(1, ResultState.CURRENT)]
    assert len(node.jobs(JobKind.DELIVER)) == 1
    node.at(30)
    assert len(node.jobs(JobKind.DELIVER)) == 1


def test_early_work_that_failed_is_tried_again_with_the_whole_study(node: Node) -> None:
    node.send(1, 5)
    job = node.claim()
    assert job is not None
    with write_transaction(node.engine) as connection:
        lease.finish(connection, job, JobEvent.FAIL, node.now, "out of memory")
        assert decisions_of_study(connection, "1.2") == []
    node.at(25)
    assert [(each.state, each.attempt) for each in node.jobs()] == [(JobState.QUEUED, 0)]


def test_what_is_begun_early_waits_for_everything_that_is_wanted_now(node: Node) -> None:
    node.send(1, 5)
    with write_transaction(node.engine) as connection:
        other = [
            image(
                number,
                study_instance_uid="1.5",
                series_instance_uid="1.5.1",
                sop_instance_uid=f"1.5.1.{number}",
                received_at=later(number),
            )
            for number in range(5)
        ]
        store_instances(connection, other, later(5))
        release_series(connection, ["1.5.1"], later(5), later(4.5))
    node.at(24.8)
    first, second = node.claim(), node.claim()
    assert first is not None and second is not None
    assert [first.study_instance_uid, second.study_instance_uid] == ["1.5", "1.2"]


def test_it_can_be_switched_off(engine: Engine, manifests: dict[str, Manifest], tmp_path: Path) -> None:
    made = Node(engine, manifests, tmp_path, begin_early=False)
    made.send(1, 5)
    assert made.jobs() == []
    made.at(25)
    assert len(made.jobs()) == 1
    made.settler.stop()


def test_nothing_is_begun_while_a_stack_has_a_hole_or_the_sender_is_not_done(node: Node) -> None:
    node.send(1, 5, release=False)
    node.send(8, 12)
    assert node.jobs() == []


def test_the_reason_of_a_failure_is_kept_when_the_study_settles_again_with_the_same_images(node: Node) -> None:
    node.send(1, 5)
    node.at(25)
    job = node.claim()
    assert job is not None
    error = NotAnalysed("gap-in-stack", "a gap of 3 mm")
    with write_transaction(node.engine) as connection:
        lease.finish(connection, job, JobEvent.FAIL, node.now, str(error), code=error.code)
    with write_transaction(node.engine) as connection:
        one = received(9, sop_instance_uid="1.2.9.1", series_instance_uid="1.2.9", geometry=None)
        store_instances(connection, [one], later(40))
        release_series(connection, ["1.2.9"], later(40), later(30))
    node.at(400)
    with read_transaction(node.engine) as connection:
        (answer,) = decisions_of_study(connection, "1.2")
    assert (answer.outcome, answer.code) == (DecisionOutcome.NOT_ANALYSED, "gap-in-stack")


def test_a_study_with_a_critical_finding_is_urgent_from_then_on(node: Node) -> None:
    node.send(1, 5)
    node.at(25)
    job = node.claim()
    assert job is not None
    with write_transaction(node.engine) as connection:
        complete_inference(connection, job, result_of(job), 5, node.now, ["haemorrhage"])
        lease.finish(connection, job, JobEvent.SUCCEED, node.now)
    node.send(50, 55)
    node.at(400)
    (_, following) = node.jobs()
    assert following.priority is Priority.STAT
