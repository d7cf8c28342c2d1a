"""What a destination gets instead of what it refuses, on a result that was really rendered."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, evt

from dicom_sr.archive import load_result, save_result
from dicom_sr.findings import Predecessor
from dicom_sr.profile import REPORT_CLASS_UIDS, SEGMENTATION_CLASS_UIDS
from node.deliver.fallback import Refusals, is_class_refused, recall
from node.destination_settings import Hl7Destination
from node.jobs.history import job_history
from node.jobs.job import Job
from node.settings import Destination
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import get_destination_state, learn
from node.store.results import get_result
from node.store.tables import DeliveryState, JobState
from tests.counterparts import LOOPBACK
from tests.faulty_archive import Answer, FaultyArchive
from tests.node.deliver.conftest import Node

DestinationAt = Callable[..., Destination]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
COMPREHENSIVE_3D, COMPREHENSIVE, ENHANCED = REPORT_CLASS_UIDS.values()
SEGMENTATION_STORAGE, LABELMAP_STORAGE = SEGMENTATION_CLASS_UIDS.values()


def refused(*classes: str) -> Refusals:
    return Refusals().after({(uid, ExplicitVRLittleEndian): 3 for uid in classes}, NOW)


def test_refusals_are_remembered_for_a_day():
    kept = refused(SEGMENTATION_STORAGE).after({(ENHANCED, ExplicitVRLittleEndian): 4}, NOW)
    assert recall(kept.remembered(), NOW + timedelta(hours=23)) == kept
    assert recall(kept.remembered(), NOW + timedelta(hours=25)) == Refusals()
    assert recall({"implicit 1.2": NOW.isoformat(), "": ""}, NOW) == Refusals()


@pytest.mark.parametrize(
    ("kept_in", "chain"),
    [
        (RLELossless, [RLELossless, ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
        (ExplicitVRLittleEndian, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
        (ImplicitVRLittleEndian, [ImplicitVRLittleEndian]),
    ],
)
def test_refused_transfer_syntax_means_the_next_and_at_the_end_the_class(kept_in: str, chain: list[str]):
    refusals = Refusals()
    for syntax in chain:
        assert refusals.syntax_for(ENHANCED, kept_in) == syntax and not refusals.classes
        refusals = refusals.after({(ENHANCED, syntax): 4}, NOW)
    assert set(refusals.classes) == {ENHANCED}
    assert refusals.syntax_for(COMPREHENSIVE, kept_in) == kept_in


@pytest.mark.parametrize(
    ("status", "is_refused"),
    [(0x0122, True), (0xA900, True), (0xA9FF, True), (0, False), (0xA700, False), (0xC000, False), (0xB007, False)],
)
def test_statuses_that_refuse_a_class(status: int, is_refused: bool):
    assert is_class_refused(status) is is_refused


@pytest.mark.parametrize(
    ("refuse", "classes"),
    [
        (["COMPREHENSIVE_3D_SR"], [SEGMENTATION_STORAGE, COMPREHENSIVE]),
        (["COMPREHENSIVE_3D_SR", "COMPREHENSIVE_SR"], [SEGMENTATION_STORAGE, ENHANCED]),
        (["SEG"], [COMPREHENSIVE_3D]),
        (["SEG", "COMPREHENSIVE_3D_SR"], [COMPREHENSIVE]),
    ],
)
def test_refused_class_is_sent_in_the_next_form(
    node: Node, real: Job, destination_at: DestinationAt, refuse: list[str], classes: list[str]
):
    with FaultyArchive(refuse=refuse) as archive, node.outbox(node.settings(destination_at(archive.port))):
        node.wait_for_end(real)
    assert [received.sop_class_uid for received in archive.received] == classes
    delivered = node.wait_for_state(real, DeliveryState.DELIVERED)
    assert [one.sop_instance_uid for one in delivered.objects] == [r.sop_instance_uid for r in archive.received]
    assert node.job(real).attempt == 1


def test_refusal_is_remembered_and_the_same_objects_are_sent_again(
    node: Node, real: Job, destination_at: DestinationAt
):
    from node.jobs.queue import requeue

    with FaultyArchive(refuse=["COMPREHENSIVE_3D_SR"]) as archive:
        with node.outbox(node.settings(destination_at(archive.port))):
            node.wait_for_end(real)
            before = archive.associations
            with write_transaction(node.engine) as connection:
                requeue(connection, real.job_id, datetime.now(UTC))
            node.wait_for_end(real)
            assert archive.associations == before + 1
        first, again = archive.received[:2], archive.received[2:]
        assert [one.data_set for one in first] == [one.data_set for one in again]
        with read_transaction(node.engine) as connection:
            learned = get_destination_state(connection, "pacs").learned
        assert list(learned or ()) == [f"class {COMPREHENSIVE_3D}"]


def test_after_a_day_the_usual_form_is_tried_again(node: Node, real: Job, destination_at: DestinationAt):
    with write_transaction(node.engine) as connection:
        learn(connection, "pacs", {f"class {COMPREHENSIVE_3D}": (datetime.now(UTC) - timedelta(days=2)).isoformat()})
    with FaultyArchive() as archive, node.outbox(node.settings(destination_at(archive.port))):
        node.wait_for_end(real)
    assert [received.sop_class_uid for received in archive.received] == [SEGMENTATION_STORAGE, COMPREHENSIVE_3D]


def test_without_fallback_the_refusal_fails_the_delivery(node: Node, real: Job, destination_at: DestinationAt):
    with (
        FaultyArchive(refuse=["SEG"]) as archive,
        node.outbox(node.settings(destination_at(archive.port, fallback=False))),
    ):
        ended = node.wait_for_end(real, JobState.FAILED)
    assert "refuses Segmentation Storage" in (ended.last_error or "")


def test_archive_that_takes_no_report_fails_the_delivery(node: Node, real: Job, destination_at: DestinationAt):
    refuse = ["COMPREHENSIVE_3D_SR", "COMPREHENSIVE_SR", "ENHANCED_SR"]
    with FaultyArchive(refuse=refuse) as archive, node.outbox(node.settings(destination_at(archive.port))):
        ended = node.wait_for_end(real, JobState.FAILED)
    assert archive.received == [] and "refuses Enhanced SR" in (ended.last_error or "")


def test_source_images_that_are_gone_are_said_so(node: Node, real: Job, destination_at: DestinationAt):
    for path in (node.folder / "instances").rglob("*.dcm"):
        path.unlink()
    with FaultyArchive(refuse=["SEG"]) as archive, node.outbox(node.settings(destination_at(archive.port))):
        ended = node.wait_for_end(real, JobState.FAILED)
    assert "restore data_dir" in (ended.last_error or "")


def test_archive_of_implicit_vr_only_gets_implicit_vr(node: Node, destination_at: DestinationAt, tmp_path: Path):
    (job,) = node.add_result("pacs")
    received = {}

    def on_store(event: evt.Event) -> int:
        received[str(event.request.AffectedSOPInstanceUID)] = (event.context.transfer_syntax, event.dataset)
        return 0

    application = AE(ae_title="OLD")
    for uid in (SEGMENTATION_STORAGE, COMPREHENSIVE_3D):
        application.add_supported_context(uid, ImplicitVRLittleEndian)
    server = application.start_server((LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    try:
        with node.outbox(node.settings(destination_at(server.server_address[1], "OLD"))):
            node.wait_for_end(job)
    finally:
        server.shutdown()
    originals = {str(read.SOPInstanceUID): read for read in map(dcmread, node.folder.glob("results/*/*.dcm"))}
    assert set(received) == set(originals)
    for uid, (syntax, data_set) in received.items():
        assert syntax == ImplicitVRLittleEndian
        original = originals[uid]
        assert data_set.PixelData == original.PixelData
        del data_set.PixelData, original.PixelData  # whose VR is not written in Implicit VR
        assert data_set == original


@pytest.mark.parametrize("status", [0x0122, 0xA900])
def test_class_that_is_refused_by_status_is_sent_in_the_next_form_and_remembered(
    node: Node, real: Job, destination_at: DestinationAt, status: int
):
    with (
        FaultyArchive([Answer(0), Answer(status)]) as archive,
        node.outbox(node.settings(destination_at(archive.port))),
    ):
        node.wait_for_end(real)
    first, again, report = archive.received
    assert [first.sop_class_uid, report.sop_class_uid] == [SEGMENTATION_STORAGE, COMPREHENSIVE]
    with read_transaction(node.engine) as connection:
        learned = get_destination_state(connection, "pacs").learned
        said = [line.message for line in job_history(connection, real.job_id) if line.message]
    assert list(learned or ()) == [f"class {COMPREHENSIVE_3D}"]
    assert "sent as conservative-comprehensive" in said[-1]
    assert f"accepted before that, and no part of it: {first.sop_instance_uid}" in said[-1]
    assert again.sop_instance_uid != first.sop_instance_uid


def test_status_about_one_object_is_no_reason_for_another_form(node: Node, real: Job, destination_at: DestinationAt):
    with FaultyArchive([Answer(0xC000)]) as archive, node.outbox(node.settings(destination_at(archive.port))):
        node.wait_for_end(real, JobState.FAILED)
    with read_transaction(node.engine) as connection:
        assert not get_destination_state(connection, "pacs").learned


@pytest.mark.parametrize(
    ("refuse", "classes"),
    [
        ([], [LABELMAP_STORAGE, COMPREHENSIVE_3D]),
        ([LABELMAP_STORAGE], [SEGMENTATION_STORAGE, COMPREHENSIVE_3D]),
        ([LABELMAP_STORAGE, "COMPREHENSIVE_3D_SR"], [SEGMENTATION_STORAGE, COMPREHENSIVE]),
    ],
)
def test_profile_of_the_destination_is_kept_to_and_falls_back_from_labelmap_to_binary(
    node: Node, real: Job, destination_at: DestinationAt, refuse: list[str], classes: list[str]
):
    with FaultyArchive(refuse=refuse) as archive:
        settings = node.settings(destination_at(archive.port, profile="labelmap"))
        with node.outbox(settings):
            node.wait_for_end(real)
    assert [received.sop_class_uid for received in archive.received] == classes


def test_label_map_in_rle_is_sent_uncompressed_where_rle_is_refused(
    node: Node, real: Job, destination_at: DestinationAt
):
    received = {}

    def on_store(event: evt.Event) -> int:
        received[str(event.request.AffectedSOPClassUID)] = event.dataset, str(event.context.transfer_syntax)
        return 0

    application = AE(ae_title="OLD")
    for uid in (LABELMAP_STORAGE, COMPREHENSIVE_3D):
        application.add_supported_context(uid, ExplicitVRLittleEndian)
    server = application.start_server((LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    try:
        with node.outbox(node.settings(destination_at(server.server_address[1], "OLD", profile="labelmap"))):
            node.wait_for_end(real)
    finally:
        server.shutdown()
    label_map, syntax = received[LABELMAP_STORAGE]
    (kept,) = node.folder.glob("results/*/labelmap/segmentation.dcm")
    original = dcmread(kept)
    assert original.file_meta.TransferSyntaxUID == RLELossless and syntax == ExplicitVRLittleEndian
    assert label_map.SOPInstanceUID == original.SOPInstanceUID
    original.decompress(generate_instance_uid=False)
    assert label_map.PixelData == original.PixelData


def test_destination_with_a_profile_that_is_not_there_delays_no_other(
    node: Node, destination_at: DestinationAt, tmp_path: Path
):
    bad, template, good = node.add_result("bad", "ris", "pacs")
    with FaultyArchive() as archive:
        settings = node.settings(
            destination_at(archive.port, name="bad", profile="no-such-profile"),
            Hl7Destination(name="ris", kind="hl7", host=LOOPBACK, port=1, template=tmp_path / "none.toml"),
            destination_at(archive.port),
        )
        with node.outbox(settings):
            node.wait_for_end(good)
            assert "no profile is called" in (node.wait_for_end(bad, JobState.FAILED).last_error or "")
            assert "none.toml cannot be read" in (node.wait_for_end(template, JobState.FAILED).last_error or "")


def replacing(node: Node, earlier: Job, revision: int) -> Job:
    """The delivery of the next result of the study of `real`, which names the conservative report before it."""
    (job,) = node.add_result("pacs", study=earlier.study_instance_uid, digest=f"d{revision}")
    with read_transaction(node.engine) as connection:
        old, new = (get_result(connection, each.result_id or 0) for each in (earlier, job))
    report = next(one for one in old.objects if one.role == "report")
    before = Predecessor(report.series_instance_uid, report.sop_class_uid, report.sop_instance_uid)
    found = replace(load_result(node.folder / old.folder), revision=revision, predecessors=(before,))
    save_result(found, node.folder / new.folder)
    return job


def predecessors(node: Node, job: Job, profile: str) -> list[str]:
    with read_transaction(node.engine) as connection:
        folder = get_result(connection, job.result_id or 0).folder
    report = dcmread(node.folder / folder / profile / "report.dcm")
    return [
        one.ReferencedSOPInstanceUID
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    ]


def test_report_of_a_profile_names_the_one_before_it_as_the_destination_has_it(
    node: Node, real: Job, destination_at: DestinationAt
):
    with FaultyArchive() as archive:
        with node.outbox(node.settings(destination_at(archive.port, profile="labelmap"))):
            node.wait_for_end(real)
            second = replacing(node, real, 2)
            node.wait_for_end(second)
        third = replacing(node, second, 3)
        with node.outbox(node.settings(destination_at(archive.port, profile="ohif"))):
            node.wait_for_end(third)
    reports = [one.sop_instance_uid for one in archive.received if one.sop_class_uid == COMPREHENSIVE_3D]
    assert predecessors(node, second, "labelmap") == [reports[0]]
    assert predecessors(node, third, "ohif") == [], "the second was never sent in this form"
