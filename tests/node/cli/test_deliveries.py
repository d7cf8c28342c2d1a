"""`overread deliveries` and `overread destinations` on a real database and real peers."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner, Result

from node.cli import build_app
from node.jobs.lease import finish
from node.jobs.queue import claim
from node.jobs.state import JobEvent
from node.store.database import migrate, open_database, write_transaction
from node.store.deliveries import AcceptedObject, record_delivered, record_unreached
from node.store.tables import JobKind
from tests.counterparts import LOOPBACK, free_port, orthanc
from tests.dicomweb_stub import DicomwebStub
from tests.faulty_archive import FaultyArchive
from tests.losing_archive import LosingArchive
from tests.node.deliver.conftest import Node

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Site:
    """A configuration with one destination, and the command line on it."""

    def __init__(self, folder: Path, node: Node) -> None:
        self.folder = folder
        self.node = node
        self.config = folder / "node.toml"
        self.configure(free_port())

    def configure(self, port: int, more: str = "") -> None:
        self.config.write_text(
            f'[node]\ndata_dir = "."\n[[destinations]]\nname = "pacs"\nae_title = "LOSING"\nhost = "{LOOPBACK}"\n'
            f"port = {port}\n{more}"
        )

    def overread(self, *arguments: str) -> Result:
        app = build_app(arguments)
        return CliRunner().invoke(app, [*arguments, "--config", str(self.config)], env={"COLUMNS": "300"})

    def json(self, *arguments: str):
        ended = self.overread(*arguments, "--json")
        assert ended.exit_code in (0, 1), ended.output
        return json.loads(ended.stdout)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path / 'overread.sqlite'}"
    migrate(url, None)
    engine = open_database(url)
    yield Site(tmp_path, Node(tmp_path, engine))
    engine.dispose()


def test_list_and_show_tell_accepted_from_confirmed(site: Site):
    (job,) = site.node.add_result("pacs")
    (waiting,) = site.node.add_result("pacs")
    with write_transaction(site.node.engine) as connection:
        claimed = claim(connection, JobKind.DELIVER, "w", 60, datetime.now(UTC))
        assert claimed is not None
        objects = [AcceptedObject("1.2.3", uid, "2.25.3") for uid in site.node.uids(job)]
        record_delivered(connection, job.job_id, "pacs", objects, NOW, None)
        finish(connection, claimed, JobEvent.SUCCEED, NOW)
    assert {row["job_id"]: row["outcome"] for row in site.json("deliveries", "list")} == {
        job.job_id: "DELIVERED",
        waiting.job_id: "QUEUED",
    }
    assert len(site.json("deliveries", "list", "--destination", "pacs", "--limit", "1")) == 1
    shown = site.json("deliveries", "show", str(job.job_id))
    assert shown["outcome"] == "DELIVERED" and len(shown["history"]) == 3
    text = site.overread("deliveries", "show", str(job.job_id)).stdout
    assert "to pacs, DELIVERED" in text and "sent again 0 times" in text
    assert "DELIVERED" in site.overread("deliveries", "list").stdout


def test_retry_queues_what_failed_towards_a_destination(site: Site):
    (job, _) = site.node.add_result("pacs", "other")
    with write_transaction(site.node.engine) as connection:
        claimed = claim(connection, JobKind.DELIVER, "w", 60, datetime.now(UTC))
        assert claimed is not None
        finish(connection, claimed, JobEvent.FAIL, NOW, "refused")
    assert "1 deliveries are queued again" in site.overread("deliveries", "retry", "--failed-to", "pacs").stdout
    assert site.node.job(job).state == "QUEUED"
    assert site.overread("deliveries", "retry").exit_code == 2
    refused = site.overread("deliveries", "retry", str(job.job_id))
    assert refused.exit_code == 1 and "REQUEUE is not possible" in str(refused.exception)
    no_delivery = site.overread("deliveries", "show", "1")
    assert "is no delivery" in str(no_delivery.exception)


def test_hold_and_release_show_in_the_list_of_destinations(site: Site):
    site.node.add_result("pacs")
    site.node.add_result("gone")
    assert site.overread("deliveries", "hold", "pacs").exit_code == 0
    held, gone = site.json("destinations", "list")
    assert (held["destination"], held["state"], held["waiting"]) == ("pacs", "held", 1)
    assert (gone["destination"], gone["state"], gone["waiting"]) == ("gone", "not configured", 1)
    assert held["oldest_waiting"] is not None
    with write_transaction(site.node.engine) as connection:
        record_unreached(connection, "pacs", NOW, "Unreachable: no connection", NOW)
    assert "1 deliveries" not in site.overread("deliveries", "release", "pacs").stdout
    (flowing, _) = site.json("destinations", "list")
    assert (flowing["state"], flowing["last_error"]) == ("failing", "Unreachable: no connection")
    assert "failing" in site.overread("destinations", "list").stdout
    unknown = site.overread("deliveries", "hold", "nowhere")
    assert "configured are pacs" in str(unknown.exception)


def test_one_delivery_is_held_and_released(site: Site):
    first, second = site.node.add_result("pacs", "other")
    assert site.overread("deliveries", "hold", str(first.job_id)).exit_code == 0
    found = {row["job_id"]: row for row in site.json("deliveries", "list")}
    assert found[first.job_id]["outcome"] == "HELD" and found[second.job_id]["outcome"] == "QUEUED"
    assert "is released" in site.overread("deliveries", "release", str(first.job_id)).stdout
    assert not any(row["held"] for row in site.json("deliveries", "list"))


@pytest.mark.counterpart("orthanc")
def test_orthanc_is_tested_and_gets_a_trial_report(site: Site, tmp_path: Path):
    with orthanc(tmp_path / "peer", modalities={"node": ("OVERREAD", free_port())}) as peer:
        site.configure(peer.dicom_port, 'confirm = "storage-commitment"')
        found = site.json("destinations", "test", "pacs", "--send-trial-object")
        taken = {row["name"]: row["transfer_syntaxes"] for row in found["negotiated"]}
        assert found["said"] == [] and all(taken.values()), found
        (path,) = peer.download_to(tmp_path / "back")
        trial = dcmread(path)
    assert trial.StudyInstanceUID == found["trial_study"]
    assert (str(trial.PatientName), trial.PatientID) == ("OVERREAD^TEST", "OVERREAD-TEST")
    assert trial.SeriesDescription.startswith("TEST")


def test_archive_without_what_is_configured_is_a_problem(site: Site):
    with LosingArchive(services=("find",)) as archive:
        site.configure(archive.port, 'confirm = "storage-commitment"')
        ended = site.overread("destinations", "test", "pacs")
    assert ended.exit_code == 1
    assert 'problem: it has no storage commitment: set confirm = "find"' in ended.stdout
    assert "refused: SOP class not supported" in ended.stdout


def test_refused_classes_are_said_with_what_follows(site: Site):
    with FaultyArchive(refuse=["SEG", "COMPREHENSIVE_3D_SR"]) as archive:
        site.configure(archive.port)
        ended = site.overread("destinations", "test", "pacs")
        assert ended.exit_code == 0
        assert "results are sent as conservative-comprehensive-without-segmentation" in ended.stdout
        site.configure(archive.port, "fallback = false")
        assert site.overread("destinations", "test", "pacs").exit_code == 1


def test_nobody_there_is_one_clear_line(site: Site):
    ended = site.overread("destinations", "test", "pacs")
    assert "no connection: Connection refused; is the archive running" in str(ended.exception)


def test_dicomweb_destination_is_asked_with_its_credentials(site: Site):
    token = site.folder / "token"
    with DicomwebStub() as stub:
        site.config.write_text(
            f'[node]\ndata_dir = "."\n[[destinations]]\nname = "web"\nkind = "dicomweb"\nurl = "{stub.url}"\n'
            'bearer_token_file = "token"\n'
        )
        token.write_text("wrong")
        assert "renew the token" in str(site.overread("destinations", "test", "web").exception)
        token.write_text("fixed")
        assert "takes our credentials" in site.overread("destinations", "test", "web").stdout
        assert not stub.instances
        found = site.json("destinations", "test", "web", "--send-trial-object")
        (stored,) = stub.instances.values()
        assert dcmread(BytesIO(stored)).StudyInstanceUID == found["trial_study"]
        stub.faults.append((404, {}, b""))
        ended = site.overread("destinations", "test", "web", "--send-trial-object")
        assert "HTTP 404 to STOW-RS: check url" in str(ended.exception)


def test_destination_that_takes_no_objects_gets_no_trial_object(site: Site):
    site.config.write_text(
        '[node]\ndata_dir = "."\n[[destinations]]\nname = "out"\nkind = "hl7"\nhost = "x"\nport = 1\n'
    )
    ended = site.overread("destinations", "test", "out", "--send-trial-object")
    assert "leave --send-trial-object out" in str(ended.exception)
