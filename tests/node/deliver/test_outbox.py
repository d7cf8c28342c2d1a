"""The outbox on a real SQLite file, against archives on loopback."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from structlog.testing import capture_logs

from node.deliver.outbox import delivery_handler
from node.jobs.heartbeat import Heartbeat, Interrupted, StopReason
from node.jobs.queue import requeue
from node.jobs.wake import Topic, Wake
from node.settings import Destination
from node.store.database import write_transaction
from node.store.tables import JobState
from tests.counterparts import free_port, orthanc, wait_until
from tests.faulty_archive import Answer, Drop, FaultyArchive, Stall
from tests.node.deliver.conftest import REPORT, SEGMENTATION, Node

DestinationAt = Callable[..., Destination]


def test_result_arrives_in_order_and_statuses_are_kept(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with FaultyArchive() as archive, node.outbox(node.settings(destination_at(archive.port))):
        node.wait_for_end(job)
    assert [received.sop_instance_uid for received in archive.received] == node.uids(job)
    assert [received.sop_class_uid for received in archive.received] == [SEGMENTATION, REPORT]
    assert archive.associations == 1
    assert node.statuses(job) == [0, 0]
    assert node.events(job) == ["ENQUEUE", "CLAIM", "SUCCEED"]


def test_notice_wakes_the_outbox(node: Node, destination_at: DestinationAt):
    with FaultyArchive() as archive:
        settings = node.settings(destination_at(archive.port), poll_seconds=3600, lease_seconds=3600)
        with node.outbox(settings):
            (job,) = node.add_result("pacs")
            wait_until(lambda: Wake(node.folder / "run").notify(Topic.DELIVER), "listener")
            archive.wait_for(2)
            node.wait_for_end(job)


def test_archive_that_is_down_gets_everything_once_it_is_back(node: Node, destination_at: DestinationAt):
    jobs = [node.add_result("pacs")[0] for _ in range(3)]
    archive = FaultyArchive()
    archive.start()
    archive.stop()
    with node.outbox(node.settings(destination_at(archive.port))):
        wait_until(lambda: sum(node.job(job).attempt for job in jobs) >= 3, "three attempts")
        assert archive.received == []
        errors = [node.job(job).last_error or "" for job in jobs]
        assert any("destination 'pacs' (FAULTY at 127.0.0.1:" in error for error in errors)
        with archive:
            for job in jobs:
                node.wait_for_end(job)
    assert sorted(received.sop_instance_uid for received in archive.received) == sorted(
        uid for job in jobs for uid in node.uids(job)
    )


def test_refused_segmentation_fails_the_job_with_the_reason(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with (
        FaultyArchive(refuse=["SEG"]) as archive,
        node.outbox(node.settings(destination_at(archive.port, fallback=False))),
    ):
        ended = node.wait_for_end(job, JobState.FAILED)
    assert ended.attempt == 1
    assert "refuses Segmentation Storage" in (ended.last_error or "")
    assert archive.received == []


def test_wrong_ae_title_fails_the_job_with_the_setting_to_change(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with (
        FaultyArchive(ae_title="ARCHIVE", check=True) as archive,
        node.outbox(node.settings(destination_at(archive.port, ae_title="OTHER"))),
    ):
        ended = node.wait_for_end(job, JobState.FAILED)
    assert "set ae_title of this destination" in (ended.last_error or "")


def test_dropped_connection_and_full_archive_are_tried_again(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    faults = [Drop(30_000), Answer(0xA700), Answer(0xB000), Answer(0xA701), Answer(0x0000), Answer(0xB007)]
    with FaultyArchive(faults) as archive, node.outbox(node.settings(destination_at(archive.port))):
        ended = node.wait_for_end(job)
    assert ended.attempt == 4
    assert node.statuses(job) == [0x0000, 0xB007]
    assert node.events(job) == ["ENQUEUE", *["CLAIM", "RETRY"] * 3, "CLAIM", "SUCCEED"]


def test_statuses_before_a_failure_are_kept(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with (
        FaultyArchive([Answer(0xB000), Answer(0xA900)]) as archive,
        node.outbox(node.settings(destination_at(archive.port))),
    ):
        ended = node.wait_for_end(job, JobState.FAILED)
    assert node.statuses(job) == [0xB000, 0xA900]
    assert "0xA900 (data set does not match SOP class)" in (ended.last_error or "")


def test_destination_that_stalls_or_is_down_delays_no_other(node: Node, destination_at: DestinationAt):
    slow_jobs = [node.add_result("slow", "away", "pacs") for _ in range(3)]
    with FaultyArchive([Stall()]) as slow, FaultyArchive() as archive:
        settings = node.settings(
            destination_at(slow.port, name="slow"),
            destination_at(free_port(), name="away"),
            destination_at(archive.port, name="pacs"),
            timeout_seconds=60,
        )
        with node.outbox(settings):
            wait_until(slow.stalled.is_set, "stalled association")
            for _, _, to_pacs in slow_jobs:
                node.wait_for_end(to_pacs)
            assert slow.received == []
            assert len(archive.received) == 6
            slow.resume()
            for to_slow, _, _ in slow_jobs:
                node.wait_for_end(to_slow)
            assert all(node.job(to_away).state is not JobState.FAILED for _, to_away, _ in slow_jobs)


def test_stop_releases_a_stalled_delivery_without_costing_an_attempt(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with FaultyArchive([Stall()]) as archive:
        settings = node.settings(destination_at(archive.port), timeout_seconds=60)
        with node.outbox(settings):
            wait_until(archive.stalled.is_set, "stalled association")
        released = node.job(job)
        assert (released.state, released.attempt) == (JobState.QUEUED, 0)
        archive.resume()
        with node.outbox(settings):
            node.wait_for_end(job)


def test_stop_is_harmless_again_and_after_the_end(node: Node, destination_at: DestinationAt):
    with node.outbox(node.settings(destination_at(free_port()))) as outbox:
        outbox.stop()
        outbox.stop()
    outbox.stop()


def test_destination_that_is_not_configured_any_more_is_said_so(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("old-pacs")
    with node.outbox(node.settings(destination_at(free_port(), name="new-pacs"))):
        ended = node.wait_for_end(job, JobState.FAILED)
    assert "destination 'old-pacs' is not in the configuration (known: new-pacs)" in (ended.last_error or "")


def test_full_outbox_of_a_destination_that_was_taken_out_goes_out_once_it_is_back(
    node: Node, destination_at: DestinationAt
):
    jobs = [node.add_result("old-pacs")[0] for _ in range(6)]
    with node.outbox(node.settings(destination_at(free_port(), name="new-pacs"))):
        for job in jobs:
            node.wait_for_end(job, JobState.FAILED)
    with write_transaction(node.engine) as connection:
        for job in jobs:
            requeue(connection, job.job_id, datetime.now(UTC))
    with FaultyArchive() as archive, node.outbox(node.settings(destination_at(archive.port, name="old-pacs"))):
        for job in jobs:
            node.wait_for_end(job)
    received = [one.sop_instance_uid for one in archive.received]
    assert sorted(received) == sorted(uid for job in jobs for uid in node.uids(job))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_result_fails_the_job_and_the_next_one_is_delivered(
    node: Node, destination_at: DestinationAt, damage: str
):
    (broken,) = node.add_result("pacs")
    (whole,) = node.add_result("pacs")
    path = next(node.folder.glob("results/1/report.dcm"))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    with FaultyArchive() as archive, node.outbox(node.settings(destination_at(archive.port))):
        ended = node.wait_for_end(broken, JobState.FAILED)
        node.wait_for_end(whole)
    assert "restore data_dir" in (ended.last_error or "")
    assert len(archive.received) == 2


def test_replaced_result_is_not_delivered(node: Node, destination_at: DestinationAt):
    """A later revision cancels what waits; only the new objects arrive."""
    study = generate_uid()
    (old,) = node.add_result("pacs", study=study, digest="d1")
    (new,) = node.add_result("pacs", study=study, digest="d2")
    with FaultyArchive() as archive, node.outbox(node.settings(destination_at(archive.port))):
        node.wait_for_end(new)
    assert node.job(old).state is JobState.CANCELLED
    assert [received.sop_instance_uid for received in archive.received] == node.uids(new)


def test_result_that_is_replaced_after_the_claim_is_not_sent(node: Node, destination_at: DestinationAt):
    study = generate_uid()
    (old,) = node.add_result("pacs", study=study, digest="d1")
    node.add_result("pacs", study=study, digest="d2")
    with FaultyArchive() as archive:
        deliver = delivery_handler(node.engine, node.settings(destination_at(archive.port)))
        with pytest.raises(Interrupted) as caught:
            deliver(old, Heartbeat())
    assert caught.value.reason is StopReason.CANCELLED
    assert archive.associations == 0


def test_each_attempt_writes_one_line_and_no_patient_data(node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with (
        capture_logs() as lines,
        FaultyArchive([Answer(0xA700), Answer(0xB000)]) as archive,
        node.outbox(node.settings(destination_at(archive.port))),
    ):
        node.wait_for_end(job)
    ours = [line for line in lines if line.get("room") == "deliver"]
    assert [line["event"] for line in ours] == ["not_delivered", "delivered"]
    assert ours[0]["error"].startswith("SendInterrupted: destination 'pacs'")
    assert ours[1]["warnings"] == {node.uids(job)[0]: "0xB000 (coercion of data elements)"}
    assert (ours[1]["objects"], ours[1]["accepted"], ours[1]["attempt"]) == (2, 2, 2)
    assert "canary" not in json.dumps(lines, default=str).lower()


@pytest.mark.counterpart("orthanc")
def test_orthanc_that_was_down_has_each_object_once(tmp_path: Path, node: Node, destination_at: DestinationAt):
    (job,) = node.add_result("pacs")
    with orthanc(tmp_path / "peer") as peer:
        peer.stop()
        with node.outbox(node.settings(destination_at(peer.dicom_port, peer.ae_title))):
            wait_until(lambda: node.job(job).attempt >= 2, "two attempts")
            peer.start()
            node.wait_for_end(job)
        assert sorted(one["SOPInstanceUID"] for one in peer.instances()) == sorted(node.uids(job))
    assert node.statuses(job) == [0, 0]
