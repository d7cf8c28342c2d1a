"""The settler on a real database: what it writes, and what it leaves alone when something comes in between."""

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete

from node import evidence
from node.counting import AFTER_FAILURE_SECONDS, Counting
from node.errors import Transient
from node.infer.manifest import Manifest, load_manifest
from node.jobs.job import InferOrder
from node.jobs.queue import claim, enqueue_infer
from node.select.completeness import ArchiveCount, SettledBy, Trust
from node.select.decide import decide
from node.settings import CountingArchive, Route, Settings
from node.settle import Settler, settle_weighed, weigh_study
from node.store.catalogue import ReceivedInstance, release_series, store_instances
from node.store.database import read_transaction, write_transaction
from node.store.decisions import decisions_of_study
from node.store.tables import DecisionOutcome, JobKind, Priority, instance
from tests.models import threshold_network, write_model
from tests.node.store.examples import add_study, later, received

ARCHIVE = CountingArchive(name="pacs", ae_title="PACS", host="pacs.example")


class AtOnce(Executor):
    """Runs what is submitted before `submit` returns."""

    def submit(self, fn: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*arguments, **keywords))
        return future


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    folder = write_model(tmp_path_factory.mktemp("models") / "ball", "ball", threshold_network())
    return {"ball": load_manifest(folder)}


@pytest.fixture
def settings() -> Settings:
    return Settings(routes=(Route(name="r", models=("ball",)),))


def image(number: int, **changes: Any) -> ReceivedInstance:
    geometry = {
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "ImagePositionPatient": [0.0, 0.0, float(number)],
    }
    return received(number, geometry=geometry, **changes)


def send(engine: Engine, first: int, last: int, *, released: bool = True) -> None:
    """Images of the study 1.2, one each second, and the release with the last."""
    with write_transaction(engine) as connection:
        store_instances(connection, [image(number) for number in range(first, last + 1)], later(last + 30))
        if released:
            release_series(connection, ["1.2.3"], later(last + 2), later(last))


def settler(
    engine: Engine, settings: Settings, manifests: dict[str, Manifest], folder: Path, clock: list[datetime]
) -> Settler:
    return Settler(engine, settings, lambda: manifests, folder / "run", lambda: clock[0], executor=AtOnce())


@pytest.fixture
def clock() -> list[datetime]:
    """The present moment, in a list so that tests can move it."""
    return [later(0)]


@pytest.fixture
def running(
    engine: Engine, settings: Settings, manifests: dict[str, Manifest], tmp_path: Path, clock: list[datetime]
) -> Iterator[Settler]:
    made = settler(engine, settings, manifests, tmp_path, clock)
    yield made
    made.stop()


def settled_by(engine: Engine) -> str | None:
    with read_transaction(engine) as connection:
        found = evidence.settlement_of_study(connection, "1.2")
    return found.settled_by if found else None


def test_released_stack_settles_when_it_was_quiet(engine: Engine, running: Settler, clock: list[datetime]) -> None:
    send(engine, 1, 5)
    clock[0] = later(6.9)
    assert running.settle_due() == 0
    clock[0] = later(7)
    assert running.settle_due() == 1
    assert settled_by(engine) == SettledBy.RELEASED_WHOLE


def test_open_association_is_given_the_limit_and_a_restart_keeps_it(
    engine: Engine,
    settings: Settings,
    manifests: dict[str, Manifest],
    tmp_path: Path,
    clock: list[datetime],
) -> None:
    send(engine, 1, 5, released=False)
    clock[0] = later(35)
    first = settler(engine, settings, manifests, tmp_path, clock)
    assert first.settle_due() == 0
    first.stop()
    second = settler(engine, settings, manifests, tmp_path, clock)
    clock[0] = later(304.9)
    assert second.settle_due() == 0
    assert second.seconds_to_deadline() == pytest.approx(0.1)
    clock[0] = later(305)
    assert second.settle_due() == 1
    assert settled_by(engine) == SettledBy.LIMIT_OPEN
    second.stop()


def test_release_that_comes_after_the_count_settles(
    engine: Engine, manifests: dict[str, Manifest], tmp_path: Path, clock: list[datetime]
) -> None:
    """The archive counted all images between the last one and the release of its association."""
    settle = {"archives": (ARCHIVE,), "quiet_seconds": 100, "released_quiet_seconds": 100}
    made = settler(
        engine, Settings(routes=(Route(name="r", models=("ball",)),), settle=settle), manifests, tmp_path, clock
    )
    send(engine, 1, 5, released=False)
    with write_transaction(engine) as connection:
        evidence.record_count(connection, "1.2", ArchiveCount(later(6), {"1.2.3": 5}, Trust.AHEAD))
    clock[0] = later(7)
    assert made.settle_due() == 0
    with write_transaction(engine) as connection:
        release_series(connection, ["1.2.3"], later(107), later(7))
    assert made.settle_due() == 1
    assert settled_by(engine) == SettledBy.COUNT
    made.stop()


def test_study_that_cannot_be_settled_keeps_no_other_waiting(
    engine: Engine, running: Settler, clock: list[datetime]
) -> None:
    send(engine, 1, 5)
    broken = image(9, study_instance_uid="1.1", series_instance_uid="1.1.1", sop_instance_uid="1.1.1.9")
    with write_transaction(engine) as connection:
        store_instances(connection, [broken], later(1))
        connection.execute(delete(instance).where(instance.c.sop_instance_uid == "1.1.1.9"))
    clock[0] = later(7)
    assert running.settle_due() == 1
    assert settled_by(engine) == SettledBy.RELEASED_WHOLE
    assert running.seconds_to_deadline() > 1


@pytest.mark.parametrize("meanwhile", ["image", "release"])
def test_what_comes_between_reading_and_settling_stops_it(
    engine: Engine, settings: Settings, manifests: dict[str, Manifest], meanwhile: str
) -> None:
    send(engine, 1, 5)
    with read_transaction(engine) as connection:
        weighed = weigh_study(connection, "1.2", settings)
    assert weighed is not None
    with write_transaction(engine) as connection:
        if meanwhile == "image":
            store_instances(connection, [image(6)], later(36))
        else:
            release_series(connection, ["1.2.3"], later(9), later(7))
    trace = decide(weighed.series, settings.routes, manifests)
    with write_transaction(engine) as connection:
        assert settle_weighed(connection, weighed, trace, settings, manifests, later(7)) is None
    assert settled_by(engine) is None


def test_late_image_makes_the_next_revision_and_cancels_the_one_that_waits(
    engine: Engine, running: Settler, clock: list[datetime]
) -> None:
    send(engine, 1, 5)
    clock[0] = later(7)
    running.settle_due()
    send(engine, 6, 8)
    clock[0] = later(30)
    running.settle_due()
    with write_transaction(engine) as connection:
        job = claim(connection, JobKind.INFER, "worker", 30, clock[0])
        assert job is not None
        assert (job.revision, len((job.inputs or {})["image"])) == (2, 8)
        assert claim(connection, JobKind.INFER, "worker-2", 30, clock[0]) is None


def test_changed_copy_of_an_image_is_a_conflict_and_changes_no_deadline(
    engine: Engine, running: Settler, clock: list[datetime]
) -> None:
    """A patient's name that changes between two sends changes the content under a known UID."""
    send(engine, 1, 5)
    with write_transaction(engine) as connection:
        assert store_instances(connection, [image(5, digest="f" * 64)], later(90)) == ["conflict"]
    clock[0] = later(7)
    assert running.settle_due() == 1


def test_every_no_has_a_code(
    engine: Engine, tmp_path: Path, clock: list[datetime], manifests: dict[str, Manifest]
) -> None:
    routes = (
        Route.model_validate({"name": "ct", "models": ["ball"], "match": {"modality": ["CT"]}}),
        Route(name="absent", models=("absent",)),
        Route(name="small", models=("ball",)),
    )
    made = settler(engine, Settings(routes=routes), manifests, tmp_path, clock)
    send(engine, 1, 1)
    clock[0] = later(100)
    made.settle_due()
    made.stop()
    with read_transaction(engine) as connection:
        found = {each.route: (each.outcome, each.code) for each in decisions_of_study(connection, "1.2")}
    assert found == {
        "ct": (DecisionOutcome.NOT_WANTED, "no-series-matches"),
        "absent": (DecisionOutcome.NOT_ANALYSED, "model-unavailable"),
        "small": (DecisionOutcome.NOT_ANALYSED, "input-missing"),
    }


def test_one_urgent_job_is_next_after_two_hundred_routine_ones(engine: Engine) -> None:
    def order(study: str, priority: Priority) -> InferOrder:
        return InferOrder(
            study_instance_uid=study,
            route="r",
            model="ball",
            model_digest="a" * 64,
            input_digest="b" * 64,
            inputs={"image": [f"{study}.3.1"]},
            destinations=(),
            priority=priority,
            maximum_attempts=3,
        )

    with write_transaction(engine) as connection:
        for number in range(200):
            study = add_study(connection, f"1.5.{number + 1}")
            enqueue_infer(connection, order(study, Priority.ROUTINE), later(number))
        running = claim(connection, JobKind.INFER, "w0", 30, later(200))
        urgent = enqueue_infer(connection, order(add_study(connection, "1.6"), Priority.STAT), later(300))
        following = claim(connection, JobKind.INFER, "w1", 30, later(301))
    assert running is not None and running.priority is Priority.ROUTINE
    assert following is not None and following.job_id == urgent.job_id


class Asked:
    """An archive that answers what it is told to, or fails, and counts the questions."""

    def __init__(self) -> None:
        self.answer: dict[str, int] | None = None
        self.questions = 0

    def __call__(self, archive: CountingArchive, ae_title: str, study_instance_uid: str) -> dict[str, int]:
        self.questions += 1
        if self.answer is None:
            raise Transient("no association")
        return self.answer


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def counting(engine: Engine, asked: Asked, clock: list[datetime]) -> Counting:
    return Counting(engine, Settings(settle={"archives": (ARCHIVE,)}), asked, AtOnce(), lambda: clock[0], lambda: None)


def ask(engine: Engine, counting: Counting, now: datetime) -> datetime | None:
    with read_transaction(engine) as connection:
        studies = evidence.receiving_studies(connection)
    return counting.ask_where_useful(studies, now)


def test_archive_that_fails_is_asked_again_only_after_a_while(
    engine: Engine, counting: Counting, asked: Asked, clock: list[datetime]
) -> None:
    send(engine, 1, 5)
    ask(engine, counting, clock[0])
    assert ask(engine, counting, clock[0]) == clock[0] + timedelta(seconds=AFTER_FAILURE_SECONDS)
    assert asked.questions == 1
    clock[0] += timedelta(seconds=AFTER_FAILURE_SECONDS)
    ask(engine, counting, clock[0])
    assert asked.questions == 2


def test_count_is_kept_and_asked_again_when_it_is_reached(
    engine: Engine, counting: Counting, asked: Asked, clock: list[datetime]
) -> None:
    asked.answer = {"1.2.3": 8}
    send(engine, 1, 5)
    ask(engine, counting, clock[0])
    with read_transaction(engine) as connection:
        count = evidence.count_of_study(connection, "1.2")
    assert count is not None
    assert (count.counts, count.trust) == ({"1.2.3": 8}, Trust.AHEAD)
    ask(engine, counting, later(1))
    assert asked.questions == 1
    send(engine, 6, 8)
    ask(engine, counting, later(9))
    assert asked.questions == 2


def test_senders_choose_the_archive(engine: Engine) -> None:
    first = ARCHIVE.model_copy(update={"name": "first", "calling_ae_titles": ("CT1",)})
    settings = Settings(settle={"archives": (first, ARCHIVE)})
    counting = Counting(engine, settings, Asked(), AtOnce(), lambda: later(0), lambda: None)
    assert counting.archive_of(["CT1"]) == first
    assert counting.archive_of(["MR1"]) == ARCHIVE
