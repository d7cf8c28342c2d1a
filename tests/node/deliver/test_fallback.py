"""What a destination gets instead of what it refuses, on a result that was really rendered."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from node.deliver.fallback import (
    REPORT_STORAGE,
    SEGMENTATION_STORAGE,
    USUAL,
    Form,
    Refusals,
    choose_form,
    recall,
)
from node.jobs.job import Job
from node.settings import Destination
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import get_destination_state, learn
from node.store.tables import DeliveryState, JobState
from tests.counterparts import LOOPBACK
from tests.faulty_archive import FaultyArchive
from tests.node.deliver.conftest import Node

DestinationAt = Callable[..., Destination]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
COMPREHENSIVE_3D, COMPREHENSIVE, ENHANCED = REPORT_STORAGE.values()


def refused(*classes: str) -> Refusals:
    return Refusals().after({(uid, ExplicitVRLittleEndian): 3 for uid in classes}, NOW)


@pytest.mark.parametrize(
    ("classes", "form"),
    [
        ([], USUAL),
        ([COMPREHENSIVE_3D], Form("comprehensive")),
        ([COMPREHENSIVE_3D, COMPREHENSIVE], Form("enhanced")),
        ([SEGMENTATION_STORAGE], Form("comprehensive-3d", with_segmentation=False)),
        ([SEGMENTATION_STORAGE, COMPREHENSIVE_3D], Form("comprehensive", with_segmentation=False)),
        ([COMPREHENSIVE_3D, COMPREHENSIVE, ENHANCED], None),
    ],
)
def test_order_of_forms(classes: list[str], form: Form | None):
    assert choose_form(refused(*classes)) == form


def test_forms_have_names_of_their_own():
    forms = [Form(report, with_segmentation) for report in REPORT_STORAGE for with_segmentation in (True, False)]
    assert len({form.name for form in forms}) == 6
    assert USUAL.name == "conservative"


def test_refusals_are_remembered_for_a_day():
    kept = refused(SEGMENTATION_STORAGE).after({(ENHANCED, ExplicitVRLittleEndian): 4}, NOW)
    assert recall(kept.remembered(), NOW + timedelta(hours=23)) == kept
    assert recall(kept.remembered(), NOW + timedelta(hours=25)) == Refusals()


def test_refused_transfer_syntax_means_implicit_vr_and_refused_again_the_class():
    once = Refusals().after({(ENHANCED, ExplicitVRLittleEndian): 4}, NOW)
    assert (set(once.explicit), set(once.classes)) == ({ENHANCED}, set())
    assert set(once.after({(ENHANCED, ImplicitVRLittleEndian): 4}, NOW).classes) == {ENHANCED}


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
        assert list(learned or ()) == [f"refuses {COMPREHENSIVE_3D}"]


def test_after_a_day_the_usual_form_is_tried_again(node: Node, real: Job, destination_at: DestinationAt):
    with write_transaction(node.engine) as connection:
        learn(connection, "pacs", {f"refuses {COMPREHENSIVE_3D}": (datetime.now(UTC) - timedelta(days=2)).isoformat()})
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
    for path in (node.folder / "instances").iterdir():
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
