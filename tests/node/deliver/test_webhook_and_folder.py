"""Webhook and folder; and that destinations of each kind are read from a configuration."""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.sr.coding import Code

from dicom_sr.findings import Finding, Likelihood, Presence
from node.deliver.folder_transport import probe_folder
from node.deliver.statement import read_statement
from node.deliver.transport import Unreachable
from node.deliver.webhook import describe, read_whereabouts
from node.destination_settings import Destination, FolderDestination, WebhookDestination
from node.jobs.job import Job
from node.jobs.queue import enqueue_delivery
from node.settings import SettingsError, load_settings
from node.store.database import write_transaction
from node.store.tables import Priority
from tests.counterparts import wait_until
from tests.faulty_archive import FaultyArchive
from tests.http_stub import HttpStub
from tests.node.deliver.conftest import Node, parcel_of


def test_webhook_is_signed_and_tells_nothing_of_the_patient_unless_asked(tmp_path: Path, node: Node, real: Job):
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    quiet = WebhookDestination(name="pacs", kind="webhook", url="http://x", secret_file=secret)
    answers = [502]
    with HttpStub(lambda request: (answers.pop() if answers else 204, {}, b"")) as stub:
        with node.outbox(node.settings(quiet.model_copy(update={"url": stub.url}))):
            assert node.wait_for_end(real).attempt == 2
        first, again = stub.requests
    body = again.content
    assert first.headers["X-Overread-Delivery"] == again.headers["X-Overread-Delivery"]
    timestamp, digest = (part.split("=")[1] for part in again.headers["X-Overread-Signature"].split(","))
    assert hmac.new(b"s3cret", f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest() == digest
    told = json.loads(body)
    assert told["study_instance_uid"] == real.study_instance_uid and told["patient"] == {}
    assert "canary" not in body.decode().lower()


def test_webhook_tells_the_fields_asked_for(tmp_path: Path, node: Node, real: Job):
    told = describe(read_statement(parcel_of(node, real)), (), ("patient_id", "accession_number"))
    assert told["patient"] == {"patient_id": "CANARY-77", "accession_number": ""}


def test_webhook_says_what_is_absent_what_is_critical_and_on_which_side(node: Node, real: Job):
    pneumothorax, certainty = Code("36118008", "SCT", "Pneumothorax"), Code("111012", "DCM", "Certainty of Finding")
    left = Code("7771000", "SCT", "Left")
    findings = (
        Finding(pneumothorax, "Absent", presence=Presence.ABSENT, likelihood=Likelihood(0.1, certainty), critical=True),
        Finding(pneumothorax, "Present", laterality=left, likelihood=Likelihood(0.9, certainty, 0.5), critical=True),
    )
    told = describe(replace(read_statement(parcel_of(node, real)), findings=findings), (), ())
    absent, present = told["findings"]
    assert (absent["presence"], absent["critical"], absent["laterality"]) == ("absent", False, None)
    assert (present["presence"], present["critical"]) == ("present", True)
    assert present["laterality"]["value"] == "7771000" and present["likelihood"]["value"] == 0.9
    assert told["verified"] is False and told["not_for_clinical_use"] is True


def test_webhook_says_which_objects_are_where(node: Node, real: Job, destination_at: Callable[..., Destination]):
    """Those that an archive took in another form have other UIDs than those made first."""
    with FaultyArchive(refuse=["COMPREHENSIVE_3D_SR"]) as archive:
        with node.outbox(node.settings(destination_at(archive.port))):
            node.wait_for_end(real)
        taken = [one.sop_instance_uid for one in archive.received]
    now = datetime.now(UTC)
    with write_transaction(node.engine) as connection:
        enqueue_delivery(connection, real.result_id or 0, "vna", Priority.ROUTINE, 3, now)
        hook = enqueue_delivery(connection, real.result_id or 0, "hook", Priority.ROUTINE, 3, now)
    parcel = parcel_of(node, hook)
    told = describe(read_statement(parcel), read_whereabouts(node.engine, parcel), ())
    pacs, vna = told["deliveries"]
    assert (pacs["destination"], pacs["state"]) == ("pacs", "delivered")
    assert [one["sop_instance_uid"] for one in pacs["objects"]] == taken != node.uids(real)
    assert vna == {"destination": "vna", "state": "waiting", "objects": []}


def test_folder_gets_whole_files(tmp_path: Path, node: Node):
    (job,) = node.add_result("files")
    target = tmp_path / "out"
    destination = FolderDestination(name="files", kind="folder", folder=target)
    with node.outbox(node.settings(destination)):
        wait_until(lambda: "is it mounted" in (node.job(job).last_error or ""), "message")
        target.mkdir()
        node.wait_for_end(job)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    assert [path.name for path in files] == sorted(f"{uid}.dcm" for uid in node.uids(job))
    assert {path.parent.name for path in files} == {job.study_instance_uid}
    assert {str(dcmread(path).SOPInstanceUID) for path in files} == set(node.uids(job))


def test_folder_that_is_not_there_is_told_from_one_that_may_not_be_written_to(tmp_path: Path):
    with pytest.raises(Unreachable, match="found no such folder; is it mounted"):
        probe_folder("files", tmp_path / "out")
    probe_folder("files", tmp_path)


def test_destination_of_each_kind_is_read_from_toml(tmp_path: Path):
    config = tmp_path / "node.toml"
    config.write_text(
        '[[destinations]]\nname = "a"\nkind = "hl7"\nhost = "ris"\nport = 2575\n'
        'template = "oru.toml"\n'
        '[[destinations]]\nname = "b"\nkind = "fhir"\nurl = "https://fhir"\n'
        '[[destinations]]\nname = "c"\nkind = "webhook"\nurl = "https://hook"\nsecret_file = "secret"\n'
        '[[destinations]]\nname = "d"\nkind = "folder"\nfolder = "out"\n'
    )
    read = load_settings(config)
    assert [destination.kind for destination in read.destinations] == ["hl7", "fhir", "webhook", "folder"]
    assert read.destinations[0].template == tmp_path / "oru.toml"
    assert read.destinations[3].folder == tmp_path / "out" and read.destinations[2].secret_file == tmp_path / "secret"
    config.write_text('[[destinations]]\nname = "a"\nkind = "fax"\n')
    with pytest.raises(SettingsError, match=r"a\.kind: found \"fax\", expected one of dimse, dicomweb, hl7"):
        load_settings(config)
    config.write_text('[[destinations]]\nname = "a"\nkind = "folder"\nfolder = "x"\nport = 1\n')
    with pytest.raises(SettingsError, match=r"destinations\.\w+\.port: found an unknown key.*folder"):
        load_settings(config)
