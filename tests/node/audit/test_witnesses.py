"""What the ways in, models and deliveries write into the trail, seen on the real parts."""

import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from lxml import etree
from pydicom import dcmread
from sqlalchemy import Engine

from node.audit import FOLDER, open_trail
from node.audit.process import audited
from node.audit.reception import ReceptionWitness
from node.audit.trail import lines, read_line, verify
from node.audit.work import UseWitness
from node.deliver.folder import send_folder
from node.deliver.outbox import Outbox
from node.errors import OverreadError
from node.jobs.queue import claim, enqueue_infer
from node.receive.storage_scp import StorageScp
from node.settings import Destination, DimseSettings, NodeSettings, Settings
from node.store.database import migrate, open_database, write_transaction
from node.store.files import FileStore
from node.store.tables import JobKind, JobState
from node.web.server import WebServer
from node.web_settings import WebSettings
from tests.counterparts import LOOPBACK, wait_until
from tests.faulty_archive import Answer, FaultyArchive
from tests.node.audit.test_message import SCHEMA
from tests.node.deliver.conftest import Node, node  # noqa: F401
from tests.node.jobs.examples import order
from tests.node.web.conftest import compose
from tests.phantoms import write_series


class Site:
    """Settings and database of a node, and its trail."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(node=NodeSettings(data_dir=folder), **settings)
        migrate(self.settings.database_url, None)
        self.engine: Engine = open_database(self.settings.database_url)

    @property
    def messages(self) -> list[Any]:
        return messages(self.settings.node.data_dir)

    @contextmanager
    def receiver(self) -> Iterator[Destination]:
        with audited(self.settings, self.engine, "listen") as trail:
            files = FileStore(self.settings.node.data_dir)
            witness = ReceptionWitness(trail, "OVERREAD")
            scp = StorageScp(self.settings, self.engine, files, lambda: None, witness=witness)
            scp.start()
            try:
                yield Destination(name="node", ae_title="OVERREAD", host=LOOPBACK, port=scp.bound_port)
            finally:
                scp.stop()


def messages(data_dir: Path) -> list[Any]:
    number, problems = verify(data_dir / FOLDER)
    found = [line for _, _, raw in lines(data_dir / FOLDER) if (line := read_line(raw))]
    assert problems == [] and number <= len(found)  # the node may be writing
    read = [etree.fromstring(line.message) for line in found]
    for one in read:
        SCHEMA.assertValid(one)
    return read


def kinds(found: list[Any]) -> list[str]:
    return [one.find(".//EventID").get("csd-code") for one in found]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**settings: Any) -> Site:
        dimse = settings.pop("dimse", {})
        given = {"host": LOOPBACK, "port": 0, "free_disk_mb": 0, "stop_seconds": 1.0, **dimse}
        made.append(Site(tmp_path / "data", dimse=DimseSettings(**given), **settings))
        return made[-1]

    yield make
    for one in made:
        one.engine.dispose()


def test_association_is_one_message_for_each_study_and_the_process_starts_and_stops(
    site: Callable[..., Site], tmp_path: Path
):
    here = site()
    for name, count in (("one", 3), ("two", 2)):
        write_series(tmp_path / "images" / name, shape=(count, 8, 8), patient_id="CANARY-77", patient_name="Canary^C")
    with here.receiver() as peer:
        send_folder(peer, "CT1", [tmp_path / "images"], 20)
        wait_until(lambda: len(here.messages) == 3, "messages")
    assert kinds(here.messages) == ["110100", "110104", "110104", "110100"]
    numbers = [one.find(".//SOPClass").get("NumberOfInstances") for one in here.messages[1:3]]
    assert sorted(numbers) == ["2", "3"]
    assert here.messages[1].find("ActiveParticipant").get("AlternativeUserID") == "AETITLE=CT1"
    assert [one.find(".//EventTypeCode").get("csd-code") for one in here.messages[::3]] == ["110120", "110121"]
    text = "".join(path.read_text() for path in (tmp_path / "data" / FOLDER).glob("*.log"))
    assert "canary" not in text.lower()


def test_patient_is_looked_up_only_where_the_configuration_says_so(site: Callable[..., Site], tmp_path: Path):
    here = site(audit={"patient": True})
    write_series(tmp_path / "images", shape=(2, 8, 8), patient_id="CANARY-77")
    with here.receiver() as peer:
        send_folder(peer, "CT1", [tmp_path / "images"], 20)
        wait_until(lambda: len(here.messages) == 2, "messages")
    objects = here.messages[1].findall("ParticipantObjectIdentification")
    assert [one.get("ParticipantObjectID") for one in objects][1] == "CANARY-77"


def test_node_without_audit_writes_nothing(site: Callable[..., Site], tmp_path: Path):
    here = site(audit={"enabled": False})
    open_trail(here.settings).record(None)  # type: ignore[arg-type]
    assert not (tmp_path / "data" / FOLDER).exists()


@pytest.mark.parametrize(
    ("dimse", "called", "words"),
    [
        ({}, "WRONG", "another AE title was called"),
        ({"allowed_calling_ae_titles": ("CT1",)}, "OVERREAD", "not in dimse.allowed_calling_ae_titles"),
        ({"peers": [{"ae_title": "CT1", "addresses": ["10.0.0.0/8"]}]}, "OVERREAD", "no entry of dimse.peers"),
    ],
)
def test_peer_that_is_turned_away_is_a_security_alert(
    site: Callable[..., Site], tmp_path: Path, dimse: dict[str, Any], called: str, words: str
):
    here = site(dimse=dimse)
    (path,) = write_series(tmp_path / "images", shape=(1, 8, 8))
    with here.receiver() as peer:
        stranger = peer.model_copy(update={"ae_title": called})
        with pytest.raises(OverreadError):
            send_folder(stranger, "STRANGER", [path], 20)
        wait_until(lambda: len(here.messages) == 2, "alert")
    alert = here.messages[1]
    assert alert.find(".//EventID").get("csd-code") == "110113"
    assert words in b64decode(alert.find(".//ParticipantObjectDetail").get("value")).decode()


def test_stow_request_and_wrong_token_are_in_the_trail(site: Callable[..., Site], tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    clients = [{"ae_title": "CLOUD", "bearer_token_file": token}]
    here = site(web=WebSettings(host=LOOPBACK, port=0, clients=clients))
    paths = write_series(tmp_path / "images", shape=(3, 8, 8))
    content, content_type = compose([path.read_bytes() for path in paths])
    with audited(here.settings, here.engine, "web") as trail:
        files, witness = FileStore(here.settings.node.data_dir), ReceptionWitness(trail, "OVERREAD")
        server = WebServer(here.settings, here.engine, files, lambda: None, witness=witness)
        server.start()
        try:
            with httpx.Client(trust_env=False, timeout=30) as client:
                for said in ("wrong-wrong-wrong", "0123456789abcdef"):
                    headers = {"Content-Type": content_type, "Authorization": f"Bearer {said}"}
                    url = f"http://{LOOPBACK}:{server.bound_port}/studies"
                    client.post(url, content=content, headers={**headers, "Accept": "application/dicom+json"})
        finally:
            server.stop()
    assert kinds(here.messages) == ["110100", "110113", "110104", "110100"]
    assert here.messages[2].find(".//SOPClass").get("NumberOfInstances") == "3"
    assert "wrong-wrong" not in etree.tostring(here.messages[1]).decode()


def test_deliveries_begin_once_and_end_once(node: Node):  # noqa: F811
    jobs = [node.add_result("pacs")[0] for _ in range(2)]
    with FaultyArchive([Answer(0xA700), Answer(0), Answer(0), Answer(0xC000)]) as archive:
        peer = Destination(name="pacs", ae_title="FAULTY", host=LOOPBACK, port=archive.port)
        settings = node.settings(peer)
        outbox = Outbox(node.engine, settings, node.folder / "run", trail=open_trail(settings, "deliver"))
        thread = threading.Thread(target=outbox.run)
        thread.start()
        for job in jobs:
            wait_until(lambda job=job: node.job(job).state in (JobState.SUCCEEDED, JobState.FAILED), "end")
        outbox.stop()
        thread.join()
    found = messages(node.folder)
    assert sorted(kinds(found)) == ["110102", "110102", "110104", "110104"]
    outcomes = [
        one.find("EventIdentification").get("EventOutcomeIndicator") for one in found if kinds([one]) == ["110104"]
    ]
    assert sorted(outcomes) == ["0", "8"]
    assert found[0].findall("ActiveParticipant")[1].get("AlternativeUserID") == "AETITLE=FAULTY"


def test_model_that_read_images_is_in_the_trail(site: Callable[..., Site], tmp_path: Path):
    here = site()
    paths = write_series(tmp_path / "images", shape=(3, 8, 8))
    study = str(dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
    with here.receiver() as peer:
        send_folder(peer, "CT1", [tmp_path / "images"], 20)
    uids = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths]
    with write_transaction(here.engine) as connection:
        enqueue_infer(connection, order(study, inputs={"image": uids}), datetime.now(UTC))
        job = claim(connection, JobKind.INFER, "w", 60, datetime.now(UTC))
    assert job is not None
    UseWitness(open_trail(here.settings), here.engine, "OVERREAD")(job)
    used = here.messages[-1]
    assert kinds([used]) == ["110103"] and used.find(".//SOPClass").get("NumberOfInstances") == "3"
