"""Objects to deliver, and destinations to deliver them to."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from sqlalchemy import Engine, insert, update

from dicom_sr.archive import save_result
from dicom_sr.findings import Result, SourceImage
from node.deliver.outbox import Outbox
from node.deliver.part10 import read_file_meta
from node.deliver.statement import Statement, read_statement
from node.deliver.transport import Parcel
from node.jobs.completion import complete_inference
from node.jobs.history import job_history
from node.jobs.job import Job
from node.jobs.lease import finish
from node.jobs.queue import claim, enqueue_infer, get_job, requeue
from node.jobs.state import JobEvent
from node.settings import AnyDestination, DeliverSettings, Destination, NodeSettings, Settings
from node.store.database import open_database, read_transaction, write_transaction
from node.store.deliveries import Delivery, get_delivery
from node.store.results import NewResult, ResultObject, delivery_statuses, get_result
from node.store.tables import DeliveryState, JobKind, JobState, Priority, delivery, instance, result, series
from tests.counterparts import LOOPBACK, PATIENCE, wait_until
from tests.dicom_sr.conftest import (
    ALGORITHM,
    CREATED_AT,
    EQUIPMENT,
    SEGMENTS,
    SHAPE,
    SPACING_MM,
    make_findings,
    make_labels,
)
from tests.node.jobs.examples import order
from tests.node.store.examples import NOW, add_study
from tests.phantoms import write_series

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"


def write_object(
    path: Path, sop_class_uid: str, size_bytes: int = 3000, syntax: str = ExplicitVRLittleEndian, **more: Any
) -> Path:
    """An object of this SOP class; its bulk is in Pixel Data, which no part of delivery looks at."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = sop_class_uid, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientName, made.PatientID = "Canary^Carla", "CANARY-77"
    made.StudyDate = made.StudyTime = made.AccessionNumber = made.StudyID = made.ReferringPhysicianName = ""
    made.PatientBirthDate = made.PatientSex = ""
    made.Modality, made.SeriesNumber, made.InstanceNumber = "OT", 1, 1
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 1, 1, 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelData = (bytes(range(251)) * (size_bytes // 251 + 1))[: size_bytes + size_bytes % 2]
    made["PixelData"].VR = "OB"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    for keyword, value in more.items():
        setattr(made, keyword, value)
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def result_objects(tmp_path: Path) -> list[Path]:
    """A segmentation and the report that refers to it, in order of delivery."""
    return [
        write_object(tmp_path / "result" / "segmentation.dcm", SEGMENTATION, 100_001),
        write_object(tmp_path / "result" / "report.dcm", REPORT),
    ]


@pytest.fixture
def destination_at() -> Callable[..., Destination]:
    """Make a destination on loopback."""

    def make(port: int, ae_title: str = "FAULTY", name: str = "pacs", **more: Any) -> Destination:
        return Destination(name=name, kind="dimse", ae_title=ae_title, host=LOOPBACK, port=port, **more)

    return make


@dataclass
class Node:
    """A node without listener and models: its data folder and its database."""

    folder: Path
    engine: Engine

    def settings(self, *destinations: AnyDestination, timeout_seconds: float = 60, **deliver: Any) -> Settings:
        quick = {"first_retry_seconds": 0.05, "longest_retry_seconds": 0.2, "probe_seconds": 0.2, "poll_seconds": 0.5}
        return Settings(
            node=NodeSettings(ae_title="OVERREAD", data_dir=self.folder),
            deliver=DeliverSettings(timeout_seconds=timeout_seconds, **{**quick, **deliver}),
            destinations=destinations,
        )

    def add_result(
        self,
        *destinations: str,
        study: str | None = None,
        digest: str = "d1",
        size_bytes: int = 50_000,
        critical: Sequence[str] = (),
        model: str = "brain",
        priority: Priority = Priority.ROUTINE,
    ) -> list[Job]:
        """A result with a segmentation and a report; its deliveries, in the order of `destinations`.

        `critical` names its critical findings.
        """
        now, study = datetime.now(UTC), study or generate_uid()
        with write_transaction(self.engine) as connection:
            add_study(connection, study)
            wanted = order(study, digest, destinations=list(destinations), model=model, priority=priority)
            enqueue_infer(connection, wanted, now)
            job = claim(connection, JobKind.INFER, "test", 60, now)
            assert job is not None
            new = replace(self._result_of(job, size_bytes), model=model)
            recorded = complete_inference(connection, job, new, 20, now, critical)
            finish(connection, job, JobEvent.SUCCEED, now)
            first = job.job_id + 1
            assert recorded.is_current
            return [get_job(connection, first + number) for number in range(len(destinations))]

    def _result_of(self, job: Job, size_bytes: int) -> NewResult:
        folder = f"results/{job.job_id}"
        members = []
        for position, (role, sop_class) in enumerate((("segmentation", SEGMENTATION), ("report", REPORT))):
            series = generate_uid()
            path = write_object(
                self.folder / folder / f"{role}.dcm",
                sop_class,
                size_bytes,
                StudyInstanceUID=job.study_instance_uid,
                SeriesInstanceUID=series,
            )
            uid = read_file_meta(path).sop_instance_uid
            relative = str(path.relative_to(self.folder))
            members.append(ResultObject(uid, sop_class, series, role, position, relative, "0" * 64))
        return NewResult(
            job_id=job.job_id,
            study_instance_uid=job.study_instance_uid,
            model="brain",
            model_digest="m1",
            revision=job.revision or 0,
            created_at=datetime.now(UTC),
            folder=folder,
            summary=[],
            timings={},
            # Written in the wrong order on purpose: `position` is what counts.
            objects=tuple(reversed(members)),
        )

    def uids(self, job: Job) -> list[str]:
        with read_transaction(self.engine) as connection:
            return [one.sop_instance_uid for one in get_result(connection, job.result_id or 0).objects]

    def job(self, job: Job) -> Job:
        with read_transaction(self.engine) as connection:
            return get_job(connection, job.job_id)

    def statuses(self, job: Job) -> list[int]:
        """What was answered for each object, in the order of delivery."""
        with read_transaction(self.engine) as connection:
            kept = delivery_statuses(connection, job.job_id)
        return [kept[uid] for uid in self.uids(job) if uid in kept]

    def events(self, job: Job) -> list[str]:
        with read_transaction(self.engine) as connection:
            return [line.event for line in job_history(connection, job.job_id)]

    @contextmanager
    def outbox(self, settings: Settings) -> Iterator[Outbox]:
        """The outbox at work in a thread."""
        with self.running(Outbox(self.engine, settings, self.folder / "run")) as outbox:
            yield outbox

    @contextmanager
    def running(self, outbox: Outbox) -> Iterator[Outbox]:
        """An outbox at work in a thread."""
        thread = threading.Thread(target=outbox.run)
        thread.start()
        try:
            yield outbox
        finally:
            outbox.stop()
            thread.join(20 * PATIENCE)
            assert not thread.is_alive()

    def wait_for_end(self, job: Job, state: JobState = JobState.SUCCEEDED) -> Job:
        """The job once it has ended for good, in this state."""
        wait_until(lambda: self.job(job).state not in (JobState.QUEUED, JobState.RUNNING), f"end of job {job.job_id}")
        ended = self.job(job)
        assert ended.state is state, ended.last_error
        return ended

    def delivery(self, job: Job) -> Delivery | None:
        """What became of the delivery after it was accepted."""
        with read_transaction(self.engine) as connection:
            return get_delivery(connection, job.job_id)

    def wait_for_state(self, job: Job, state: DeliveryState, seconds: float = 20) -> Delivery:
        """The delivery once it is in this state."""

        def there() -> Delivery | None:
            found = self.delivery(job)
            return found if found and found.state is state else None

        found = wait_until(there, f"delivery {job.job_id} {state}, but {self.delivery(job)}", seconds)
        assert isinstance(found, Delivery)
        return found


@pytest.fixture
def node(tmp_path: Path, empty_database: Path) -> Iterator[Node]:
    engine = open_database(f"sqlite:///{shutil.copy(empty_database, tmp_path / 'overread.sqlite')}")
    yield Node(tmp_path, engine)
    engine.dispose()


def add_real_result(node: Node, destination: str, critical: Sequence[str] = ()) -> Job:
    """A delivery whose result can be rendered again: its Result and its source images are on disk."""
    (job,) = node.add_result(destination, critical=critical)
    paths = write_series(
        node.folder / "instances" / str(job.job_id),
        shape=SHAPE,
        spacing_mm=SPACING_MM,
        orientation="oblique",
        study_instance_uid=job.study_instance_uid,
    )
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    labels = make_labels()
    made = Result(
        study_instance_uid=job.study_instance_uid,
        series_instance_uid=str(headers[0].SeriesInstanceUID),
        input_digest="ab" * 32,
        revision=1,
        created_at=CREATED_AT,
        algorithm=ALGORITHM,
        equipment=EQUIPMENT,
        source_images=(),
        labels=labels,
        segments=SEGMENTS,
        findings=make_findings(labels),
    )
    made = replace(made, source_images=tuple(SourceImage(str(h.SOPClassUID), str(h.SOPInstanceUID)) for h in headers))
    with write_transaction(node.engine) as connection:
        folder = connection.execute(result.select().where(result.c.id == job.result_id)).one().folder
        series_uid = str(headers[0].SeriesInstanceUID)
        connection.execute(
            insert(series).values(
                series_instance_uid=series_uid,
                study_instance_uid=job.study_instance_uid,
                state="SETTLED",
                settle_at=NOW,
                last_received_at=NOW,
                calling_ae_title="A",
                called_ae_title="B",
                header={},
            )
        )
        for path, header in zip(paths, headers, strict=True):
            connection.execute(
                insert(instance).values(
                    sop_instance_uid=str(header.SOPInstanceUID),
                    sop_class_uid=str(header.SOPClassUID),
                    series_instance_uid=series_uid,
                    transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
                    path=str(path.relative_to(node.folder)),
                    size_bytes=1,
                    digest="0" * 64,
                    received_at=NOW,
                )
            )
        connection.execute(update(result).where(result.c.id == job.result_id).values(summary=[]))
    save_result(made, node.folder / folder)
    return job


@pytest.fixture
def real(node: Node) -> Job:
    """The same, to the destination `pacs`."""
    return add_real_result(node, "pacs")


def requeued(node: Node, job: Job) -> None:
    """Send it again, as an operator would."""
    with write_transaction(node.engine) as connection:
        requeue(connection, job.job_id, datetime.now(UTC))


def make_due(node: Node, job_id: int) -> None:
    """Whether it is kept is to be asked now."""
    with write_transaction(node.engine) as connection:
        connection.execute(update(delivery).where(delivery.c.job_id == job_id).values(check_after=datetime.now(UTC)))


def parcel_of(node: Node, job: Job) -> Parcel:
    """The result of a delivery, as a transport gets it."""
    with read_transaction(node.engine) as connection:
        return Parcel(job, get_result(connection, job.result_id or 0), node.folder)


@pytest.fixture
def statement(node: Node, real: Job) -> Statement:
    """What `real` says."""
    return read_statement(parcel_of(node, real))
