"""Accepted is not kept: storage commitment and read-back, and what is lost is sent again."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.deliver.commitment import CommitmentReports, MalformedReport, read_report
from node.deliver.confirmation import MOST_CHECKS, Confirmed, Lost, Unknown, judge_find, judge_report, unknown
from node.deliver.confirmer import Confirmer
from node.receive.storage_scp import StorageScp
from node.settings import DeliverSettings, Destination, DimseSettings, Settings
from node.store.database import write_transaction
from node.store.deliveries import AcceptedObject, Delivery, record_delivered
from node.store.files import FileStore
from node.store.tables import DeliveryState, JobState
from tests.counterparts import LOOPBACK, free_port, orthanc, wait_until
from tests.losing_archive import LosingArchive
from tests.node.deliver.conftest import Node, make_due

DestinationAt = Callable[..., Destination]
A, B = AcceptedObject("1.2.3", "2.25.1", "2.25.8"), AcceptedObject("1.2.4", "2.25.2", "2.25.9")


def delivered(checks: int = 0, last_error: str | None = None) -> Delivery:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    return Delivery(
        job_id=1,
        destination="pacs",
        state=DeliveryState.DELIVERED,
        delivered_at=now,
        confirmed_at=None,
        objects=(A, B),
        transaction_uid=None,
        check_after=now,
        checks=checks,
        resends=0,
        last_error=last_error,
        study_instance_uid="1.2",
    )


def test_report_that_names_every_object_confirms():
    assert judge_report(delivered(), ["2.25.1", "2.25.2", "2.25.3"], {}, 10) == Confirmed()


def test_report_of_a_missing_instance_means_lost():
    verdict = judge_report(delivered(), ["2.25.1"], {"2.25.2": 0x0112}, 10)
    assert isinstance(verdict, Lost) and "2.25.2" in verdict.message


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        ({"2.25.2": 0x0110}, "0x0110 (processing failure)"),
        ({"2.25.2": 0x0213}, "resource limitation"),
        ({}, "2.25.2: not named in the report"),
    ],
)
def test_other_failures_are_asked_again(failed: dict[str, int], words: str):
    verdict = judge_report(delivered(), ["2.25.1"], failed, 10)
    assert isinstance(verdict, Unknown) and words in verdict.message and verdict.wait_seconds == 40


def test_archive_that_indexes_late_is_asked_three_times_before_an_object_is_lost():
    said, verdicts = None, []
    for checks in range(3):
        verdicts.append(judge_find(delivered(checks, said), ["2.25.1"], 1))
        said = verdicts[-1].message
    assert [type(verdict) for verdict in verdicts] == [Unknown, Unknown, Lost]
    assert judge_find(delivered(2, said), ["2.25.2", "2.25.1"], 1) == Confirmed()


def test_archive_that_was_away_while_it_was_asked_is_given_time_to_index():
    first = judge_find(delivered(7, "destination 'pacs': no connection"), ["2.25.1"], 1)
    assert isinstance(first, Unknown)
    assert isinstance(judge_find(delivered(8, first.message), ["2.25.1"], 1), Lost)


def test_waits_grow_to_an_hour_and_asking_ends():
    waits = [unknown(delivered(checks), "?", 10).wait_seconds for checks in range(MOST_CHECKS)]
    assert waits[:5] == [40, 160, 640, 2560, 3600]
    assert waits[-2:] == [3600, None]


@pytest.mark.parametrize("content", [b"", b"\x08\x00", b"not a data set at all", b"\x08\x00\x95\x11\x02\x00\x00\x0012"])
def test_noise_is_no_report(content: bytes):
    try:
        report = read_report(content, "1.2.840.10008.1.2")
    except MalformedReport:
        return
    assert (report.transaction_uid, report.committed) == ("12", ())


@contextmanager
def listener(node: Node, settings: Settings, port: int = 0) -> Iterator[StorageScp]:
    """The node's own Storage SCP, which archives report to."""
    settings = settings.model_copy(update={"dimse": DimseSettings(host=LOOPBACK, port=port, free_disk_mb=0)})
    reports = CommitmentReports(node.engine, settings)
    scp = StorageScp(settings, node.engine, FileStore(node.folder), lambda: None, take_report=reports)
    scp.start()
    try:
        yield scp
    finally:
        scp.stop(0)


QUICK: dict[str, Any] = {"ae_title": "LOSING", "confirm_after_seconds": 0.1, "report_wait_seconds": 60}


def test_report_on_the_same_association_confirms(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with LosingArchive() as archive:
        settings = node.settings(destination_at(archive.port, confirm="storage-commitment", **QUICK))
        with node.outbox(settings):
            confirmed = node.wait_for_state(job, DeliveryState.CONFIRMED)
    assert confirmed.confirmed_at is not None and confirmed.confirmed_at >= confirmed.delivered_at
    assert [one.sop_instance_uid for one in confirmed.objects] == node.uids(job)
    assert archive.requests == [confirmed.transaction_uid]
    assert archive.report_statuses == [0x0000]


def test_question_that_breaks_keeps_no_other_from_being_asked(node: Node):
    jobs = [node.add_result("pacs")[0] for _ in range(3)]
    now = datetime.now(UTC)
    with write_transaction(node.engine) as connection:
        for job in jobs:
            record_delivered(connection, job.job_id, "pacs", (), now, now)
    asked: list[int] = []

    def ask(delivery: Delivery, check: Callable[[], None]) -> None:
        asked.append(delivery.job_id)
        if delivery.job_id == jobs[0].job_id:
            raise ValueError("Canary^Carla")

    confirmer = Confirmer(node.engine, "pacs", DeliverSettings(), ask, gate=lambda: 0.0, now=lambda: now)
    with capture_logs() as lines:
        confirmer.step()
    assert asked == [job.job_id for job in jobs]
    broken = node.delivery(jobs[0])
    assert broken is not None and broken.checks == 1 and "ValueError" in (broken.last_error or "")
    assert "Carla" not in json.dumps(lines, default=str) + (broken.last_error or "")


def test_report_on_a_new_association_confirms(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    settings = node.settings()
    with (
        listener(node, settings) as scp,
        LosingArchive(report="new", report_to=("OVERREAD", scp.bound_port)) as archive,
    ):
        quick = {**QUICK, "report_wait_seconds": 0}
        with node.outbox(node.settings(destination_at(archive.port, confirm="storage-commitment", **quick))):
            node.wait_for_state(job, DeliveryState.CONFIRMED)
        wait_until(lambda: archive.report_statuses, "answer to the report")
    assert set(archive.report_statuses) == {0x0000}  # asked once more where the report was slow


def test_late_report_to_an_earlier_request_confirms_all_the_same(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with LosingArchive(report="never") as archive:
        quick = {**QUICK, "report_wait_seconds": 0}
        settings = node.settings(destination_at(archive.port, confirm="storage-commitment", **quick))
        with node.outbox(settings):
            wait_until(lambda: len(archive.requests) >= 2, "second request")
    asked = node.wait_for_state(job, DeliveryState.DELIVERED)
    assert asked.transaction_uid != archive.requests[0] and "no report has come yet" in (asked.last_error or "")
    report = report_bytes(archive.requests[0], asked.objects)
    assert CommitmentReports(node.engine, settings)(report, "1.2.840.10008.1.2") == 0x0000
    node.wait_for_state(job, DeliveryState.CONFIRMED)


def test_report_to_a_transaction_that_was_never_asked_for_changes_nothing(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with LosingArchive(report="never") as archive:
        settings = node.settings(destination_at(archive.port, confirm="storage-commitment", **QUICK))
        with node.outbox(settings):
            wait_until(lambda: archive.requests, "request")
    asked = node.wait_for_state(job, DeliveryState.DELIVERED)
    report = report_bytes("2.25.4711", asked.objects)
    assert CommitmentReports(node.engine, settings)(report, "1.2.840.10008.1.2") == 0x0000
    assert node.wait_for_state(job, DeliveryState.DELIVERED) == asked
    assert CommitmentReports(node.engine, settings)(b"noise", "1.2.840.10008.1.2") == 0x0110


def report_bytes(transaction_uid: str, objects: tuple[AcceptedObject, ...]) -> bytes:
    from pydicom import Dataset

    from node.deliver.data_set import encode_implicit

    report = Dataset()
    report.TransactionUID = transaction_uid
    report.ReferencedSOPSequence = []
    for one in objects:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
        report.ReferencedSOPSequence.append(item)
    return encode_implicit(report)


@pytest.mark.parametrize("how", ["storage-commitment", "find"])
def test_what_the_archive_lost_is_sent_again_until_it_is_confirmed(node: Node, destination_at: DestinationAt, how: str):
    jobs = [node.add_result("pacs")[0] for _ in range(4)]
    with capture_logs() as lines, LosingArchive(lose_every=3) as archive:
        settings = node.settings(destination_at(archive.port, confirm=how, **QUICK))
        with node.outbox(settings):
            ended = [node.wait_for_state(job, DeliveryState.CONFIRMED, 40) for job in jobs]
    assert archive.lost
    assert set(archive.kept) == {uid for job in jobs for uid in node.uids(job)}
    assert sum(one.resends for one in ended) >= 1
    assert {"delivery_lost", "delivery_confirmed"} <= {line["event"] for line in lines}
    assert all(node.job(job).state is JobState.SUCCEEDED for job in jobs)
    assert "canary" not in json.dumps(lines, default=str).lower()


def test_archive_that_loses_everything_is_not_fed_for_ever(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with LosingArchive(lose_every=1) as archive:
        settings = node.settings(destination_at(archive.port, confirm="storage-commitment", **QUICK), maximum_resends=2)
        with capture_logs() as lines, node.outbox(settings):
            wait_until(lambda: any(line["event"] == "delivery_lost_for_good" for line in lines), "end", 30)
            lost = node.wait_for_state(job, DeliveryState.LOST)
    assert lost.resends == 3 and "accepted and does not have" in (lost.last_error or "")
    assert archive.stores == 3 * len(lost.objects)


@pytest.mark.parametrize(
    ("how", "services", "advice"),
    [
        ("storage-commitment", ("find",), 'set confirm = "find"'),
        ("find", ("commitment",), 'set confirm = "storage-commitment"'),
    ],
)
def test_archive_without_the_service_leaves_it_delivered_and_says_what_to_set(
    node: Node, destination_at: DestinationAt, how: str, services: tuple[str, ...], advice: str
):
    (job,) = node.add_result("pacs")
    with LosingArchive(services=services) as archive:
        settings = node.settings(destination_at(archive.port, confirm=how, **QUICK))
        with node.outbox(settings):
            wait_until(lambda: (found := node.delivery(job)) and found.last_error, "answer")
    found = node.wait_for_state(job, DeliveryState.DELIVERED)
    assert advice in (found.last_error or "")


def test_without_confirmation_it_stays_delivered_and_nothing_is_asked(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with LosingArchive() as archive, node.outbox(node.settings(destination_at(archive.port, ae_title="LOSING"))):
        found = node.wait_for_state(job, DeliveryState.DELIVERED)
    assert found.check_after is None and archive.requests == []


@pytest.mark.counterpart("orthanc")
@pytest.mark.parametrize("how", ["storage-commitment", "find"])
def test_orthanc_confirms_and_what_was_deleted_there_is_sent_again(
    tmp_path: Path, node: Node, destination_at: DestinationAt, how: str
):
    """Orthanc reports on an association of its own; the second result is deleted before it is asked about."""
    port = free_port()
    with orthanc(tmp_path / "peer", modalities={"node": ("OVERREAD", port)}) as peer:
        slow, quick = (
            destination_at(peer.dicom_port, peer.ae_title, confirm=how, confirm_after_seconds=seconds)
            for seconds in (600, 0.1)
        )
        with listener(node, node.settings(quick), port):
            (first,) = node.add_result("pacs")
            with node.outbox(node.settings(quick)):
                node.wait_for_state(first, DeliveryState.CONFIRMED)
            (second,) = node.add_result("pacs")
            with node.outbox(node.settings(slow)):
                node.wait_for_end(second)
            peer.delete(node.uids(second)[1])
            make_due(node, second.job_id)
            with node.outbox(node.settings(quick)):
                ended = node.wait_for_state(second, DeliveryState.CONFIRMED, 40)
        there = [one["SOPInstanceUID"] for one in peer.instances()]
    assert ended.resends == 1
    assert sorted(there) == sorted(node.uids(first) + node.uids(second))
