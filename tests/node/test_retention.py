"""Images are deleted when their time is over and nothing needs them, and what comes later is answered."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update

from node.infer.manifest import Manifest
from node.jobs import lease, queue
from node.jobs.job import Job
from node.jobs.state import JobEvent
from node.retention import Due, Sweeper, Swept, find_due, is_past, keep_hours, sweep
from node.route_settings import Route
from node.settings import NodeSettings
from node.store import tables
from node.store.catalogue import (
    Quarantined,
    record_quarantine,
    release_series,
    store_instances,
    study_series,
)
from node.store.database import read_transaction, write_transaction
from node.store.decisions import decisions_of_study
from node.store.expiry import StudyHoldings, expire_study, expired_of_study, settled_studies
from node.store.tables import DecisionOutcome, JobKind
from tests.node.jobs.examples import order
from tests.node.store.examples import later
from tests.node.test_early_work import Node
from tests.node.test_early_work import manifests as manifests
from tests.node.test_settle import image

DAY = 86400.0
KEY = {"patient_key": "k" * 64}


class Store(Node):
    """A node whose images lie in files."""

    def __init__(self, engine: Engine, manifests: dict[str, Manifest], folder: Path, **retention: Any) -> None:
        super().__init__(engine, manifests, folder)
        self.data_dir = folder / "data"
        (self.data_dir / "instances" / "ab").mkdir(parents=True)
        (self.data_dir / "quarantine").mkdir()
        self.settings = self.settings.model_copy(
            update={
                "node": NodeSettings(data_dir=self.data_dir),
                "retention": self.settings.retention.model_copy(update=retention),
            }
        )

    def path(self, series: str, number: int) -> str:
        return f"instances/ab/{series}/{number}.dcm"

    def receive(self, first: int, last: int, series: str = "1.2.3", at: float | None = None) -> list[str]:
        """Images with their files, and the release."""
        self.now = later(last if at is None else at)
        images = []
        for number in range(first, last + 1):
            path = self.data_dir / self.path(series, number)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"image")
            images.append(
                image(
                    number,
                    series_instance_uid=series,
                    sop_instance_uid=f"{series}.{number}",
                    path=self.path(series, number),
                    received_at=self.now,
                    patient_key="k" * 64,
                )
            )
        with write_transaction(self.engine) as connection:
            outcomes = store_instances(connection, images, self.now + timedelta(seconds=30))
            release_series(connection, [series], self.now + timedelta(seconds=20), self.now)
        return list(outcomes)

    def work(self) -> Job:
        """Settle, and do the job."""
        self.now += timedelta(seconds=400)
        self.settler.settle_due()
        job = self.claim()
        assert job is not None
        self.finish(job)
        return job

    def due(self, days: float) -> Due:
        return find_due(self.engine, self.settings, later(days * DAY))

    def sweep(self, days: float) -> Swept:
        return sweep(self.engine, self.settings, later(days * DAY))

    def files(self) -> int:
        return sum(path.is_file() for path in self.data_dir.rglob("*.dcm"))

    def decisions(self) -> list[tuple[DecisionOutcome, str]]:
        with read_transaction(self.engine) as connection:
            return [(each.outcome, each.code) for each in decisions_of_study(connection, "1.2")]


@pytest.fixture
def store(engine: Engine, manifests: dict[str, Manifest], tmp_path: Path) -> Iterator[Store]:
    made = Store(engine, manifests, tmp_path)
    yield made
    made.settler.stop()


def test_images_go_when_their_time_is_over_and_what_was_made_of_them_stays(store: Store) -> None:
    store.receive(1, 5)
    store.work()
    assert store.sweep(6.9) == Swept()
    assert store.files() == 5
    assert store.sweep(7.1) == Swept(studies=1, images=5, size_bytes=5015)
    assert store.files() == 0
    assert list((store.data_dir / "instances" / "ab").iterdir()) == []
    with read_transaction(store.engine) as connection:
        assert [len(each.instances) for each in study_series(connection, "1.2")] == [0]
        assert expired_of_study(connection, "1.2").instances == 5
    assert len(store.results()) == 1
    assert store.sweep(8) == Swept()


def test_nothing_goes_while_it_arrives_or_a_job_waits(store: Store) -> None:
    store.receive(1, 5)
    assert store.due(30) == Due((), (), 0)
    store.now += timedelta(seconds=400)
    store.settler.settle_due()
    due = store.due(30)
    assert (due.studies, [each.open_jobs for each in due.needed]) == ((), [1])
    assert store.sweep(30) == Swept()
    assert store.files() == 5


def test_nothing_goes_while_early_work_or_a_delivery_needs_it(store: Store) -> None:
    routes = (store.settings.routes[0].model_copy(update={"destinations": ("pacs",)}),)
    store.settings = store.settings.model_copy(update={"routes": routes})
    store.restart()
    store.receive(1, 5)
    store.settler.settle_due()
    early = store.claim()
    assert early is not None and early.speculative
    store.finish(early)
    assert store.due(30) == Due((), (), 0)
    store.now += timedelta(seconds=400)
    store.settler.settle_due()
    assert [each.open_jobs for each in store.due(30).needed] == [1]
    with write_transaction(store.engine) as connection:
        delivery = queue.claim(connection, JobKind.DELIVER, "w", 30, store.now)
        assert delivery is not None
        lease.finish(connection, delivery, JobEvent.SUCCEED, store.now)
    assert len(store.due(30).studies) == 1


def test_an_earlier_study_stays_while_a_job_of_the_same_patient_may_compare_with_it(store: Store) -> None:
    store.receive(1, 5)
    store.work()
    with write_transaction(store.engine) as connection:
        one = image(1, study_instance_uid="1.5", series_instance_uid="1.5.1", sop_instance_uid="1.5.1.1", **KEY)
        store_instances(connection, [one], later(DAY))
        queue.enqueue_infer(connection, order("1.5"), later(DAY))
    assert [each.study_instance_uid for each in store.due(8).needed] == ["1.2"]


def test_what_comes_while_it_is_decided_stops_the_deletion(store: Store) -> None:
    store.receive(1, 5)
    store.work()
    with read_transaction(store.engine) as connection:
        (held,) = settled_studies(connection, later(8 * DAY))
    store.receive(6, 6, at=7 * DAY)
    with write_transaction(store.engine) as connection:
        assert expire_study(connection, held, later(8 * DAY)) is None
    assert store.files() == 6


def test_late_images_of_a_study_that_was_deleted_are_not_taken_for_the_study(store: Store) -> None:
    store.receive(1, 5)
    store.work()
    store.sweep(8)
    store.receive(6, 6, at=9 * DAY)
    store.now += timedelta(seconds=400)
    store.settler.settle_due()
    assert store.decisions() == [(DecisionOutcome.NOT_ANALYSED, "images-deleted")]
    assert len(store.jobs()) == 1
    with read_transaction(store.engine) as connection:
        (answer,) = decisions_of_study(connection, "1.2")
    assert answer.message.startswith("1 images are here, and 5 of the same study were deleted after their time")


def test_a_deleted_study_that_is_sent_again_is_whole_again(store: Store) -> None:
    store.receive(1, 5)
    store.work()
    store.sweep(8)
    assert store.receive(1, 5, at=9 * DAY) == ["stored"] * 5
    store.now += timedelta(seconds=400)
    store.settler.settle_due()
    assert len(store.jobs()) == 1  # the same images: their result is there
    store.receive(6, 7, at=9 * DAY + 1000)
    store.now += timedelta(seconds=400)
    store.settler.settle_due()
    job = store.claim()
    assert job is not None and job.revision == 2
    assert len((job.inputs or {})["image"]) == 7


def test_the_longest_of_its_routes_counts() -> None:
    held = StudyHoldings("1", 1, 1, later(0), ("short", "long", "usual"), 0)
    short, long, ever = (Route(name="r", models=("m",), retention_hours=hours) for hours in (1, 500, 0))
    usual = Route(name="r", models=("m",))
    assert keep_hours(held, {"short": short}, 24) == 1
    assert keep_hours(held, {"short": short, "usual": usual}, 24) == 24
    assert keep_hours(held, {"short": short, "long": long}, 24) == 500
    assert keep_hours(held, {"short": short, "long": ever}, 24) == float("inf")
    assert keep_hours(held, {}, 0) == float("inf")
    assert not is_past(held, {"short": ever}, 1, later(1000 * DAY))
    assert is_past(held, {"short": short}, 24, later(3600))
    assert not is_past(held, {"short": short}, 24, later(3599))


def test_quarantine_goes_after_its_own_time(store: Store) -> None:
    (store.data_dir / "quarantine" / "bad.dcm").write_bytes(b"bad")
    with write_transaction(store.engine) as connection:
        record_quarantine(connection, Quarantined(later(0), "truncated", "x", path="quarantine/bad.dcm"))
        record_quarantine(connection, Quarantined(later(20 * DAY), "truncated", "x"))
    assert store.sweep(29) == Swept()
    assert store.due(31).quarantined == 1
    assert store.sweep(31) == Swept(quarantined=1)
    assert store.files() == 0
    assert (store.data_dir / "quarantine").is_dir()
    with read_transaction(store.engine) as connection:
        assert connection.scalar(select(func.count()).select_from(tables.quarantine)) == 1


def test_files_that_a_crash_left_go_when_they_are_old(store: Store) -> None:
    store.receive(1, 2)
    (store.data_dir / store.path("1.2.3", 9)).write_bytes(b"orphan")
    written = datetime.fromtimestamp((store.data_dir / store.path("1.2.3", 9)).stat().st_mtime).astimezone()
    assert sweep(store.engine, store.settings, written + timedelta(hours=23)).orphans == 0
    assert sweep(store.engine, store.settings, written + timedelta(hours=25)).orphans == 1
    assert store.files() == 2


def test_what_others_do_with_files_meanwhile_stops_no_sweep(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.receive(1, 3)
    store.work()
    other = store.data_dir / "instances" / "ab" / "1.2.9"
    other.mkdir()
    (other / "gone.dcm").symlink_to(other / "taken back by reception")
    remove_folder = Path.rmdir

    def rmdir(folder: Path) -> None:
        (folder / "just came.dcm").write_bytes(b"image")
        remove_folder(folder)

    monkeypatch.setattr(Path, "rmdir", rmdir)
    assert store.sweep(40).images == 3
    assert (store.data_dir / "instances" / "ab" / "1.2.3" / "just came.dcm").exists()


def test_a_crash_after_the_rows_went_leaves_files_that_the_next_sweep_removes(store: Store) -> None:
    store.receive(1, 5)
    store.work()
    with write_transaction(store.engine) as connection:
        (held,) = settled_studies(connection, later(8 * DAY))
        assert expire_study(connection, held, later(8 * DAY)) is not None
    assert store.files() == 5
    now = datetime.now().astimezone() + timedelta(days=2)
    assert sweep(store.engine, store.settings, now).orphans == 5


def test_sweeping_is_put_off_while_inference_works_but_not_for_ever(store: Store) -> None:
    store.receive(1, 5)
    store.work()
    with write_transaction(store.engine) as connection:
        connection.execute(update(tables.study).values(patient_key=None))
        one = image(1, study_instance_uid="1.5", series_instance_uid="1.5.1", sop_instance_uid="1.5.1.1")
        store_instances(connection, [one], later(DAY))
        queue.enqueue_infer(connection, order("1.5"), later(DAY))
    sweeper = Sweeper(store.engine, store.settings, lambda: later(8 * DAY))
    looked = [sweeper.look() for _ in range(7)]
    assert looked[:6] == [None] * 6
    assert looked[6] is not None and looked[6].images == 5
