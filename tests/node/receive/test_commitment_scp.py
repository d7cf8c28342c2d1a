"""Storage commitment for those who send to us: pynetdicom and Orthanc ask, and are told the truth."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from sqlalchemy import Engine, select

from node.commitment_settings import CommitmentSettings, Requester
from node.deliver.report_scu import ReportScu
from node.errors import Refused
from node.logs import get_logger
from node.receive.beginnings import Beginnings
from node.receive.command import Command
from node.receive.commitment import STORAGE_COMMITMENT_INSTANCE, CommitmentScp, Report, ReportWay
from node.receive.commitment_reporter import CommitmentReporter
from node.receive.intake import IncomingRequest, Intake, Sender
from node.receive.messages import MAXIMUM_UNANSWERED, Messages
from node.receive.parser import CommandSet, DataFragment
from node.receive.pdu import AnsweredContext, ContextResult
from node.receive.storage_scp import StorageScp
from node.settings import Destination, DimseSettings, NodeSettings, Settings
from node.store import tables
from node.store.commitments import CommitmentRequest, claim_requests, record_request, unreported
from node.store.database import migrate, open_database, read_transaction, write_transaction
from node.store.digests import matches
from node.store.files import FileStore
from tests.counterparts import free_port, orthanc, wait_until
from tests.node.receive.wire import CT, EXPLICIT, IMPLICIT, Client, Encoded, command, encode, read_encoded
from tests.phantoms import make_series, write_series

ABSENT = "1.2.3.4.5"


@dataclass
class Node:
    """A listener with storage commitment."""

    scp: StorageScp
    reporter: CommitmentReporter
    engine: Engine
    data_dir: Path

    @property
    def port(self) -> int:
        return self.scp.bound_port

    def rows(self, table: Any) -> list[Any]:
        with read_transaction(self.engine) as connection:
            return list(connection.execute(select(table)).all())

    def store(self, images: list[Encoded]) -> None:
        with Client(self.port) as client:
            client.associate([(1, CT, [EXPLICIT])])
            assert [client.store(image) for image in images] == [0] * len(images)
            client.release()

    def file_of(self, image: Encoded) -> Path:
        return next(
            self.data_dir / row.path for row in self.rows(tables.instance) if row.sop_instance_uid == image.sop_instance
        )

    def stop(self) -> None:
        self.scp.stop()
        self.reporter.stop()
        self.engine.dispose()


def start_node(data_dir: Path, *, durability: str = "group", destinations: Any = (), **commitment: Any) -> Node:
    """Connects the parts as `node.service` does."""
    settings = Settings(
        node=NodeSettings(data_dir=data_dir),
        dimse=DimseSettings(host="127.0.0.1", port=0, free_disk_mb=0, stop_seconds=1, durability=durability),  # type: ignore[arg-type]
        commitment=CommitmentSettings(**{"first_retry_seconds": 0.2, "timeout_seconds": 60, **commitment}),
        destinations=destinations,
    )
    migrate(settings.database_url, None)
    engine = open_database(settings.database_url)
    files = FileStore(data_dir)
    reports = ReportScu(settings)
    scp = CommitmentScp(engine, files, reports.way, lambda: reporter.wake(), sync=durability == "none")
    reporter = CommitmentReporter(engine, settings.commitment, scp, reports.send)
    listener = StorageScp(settings, engine, files, lambda: None, take_request=scp.take)
    listener.start()
    reporter.start()
    return Node(listener, reporter, engine, data_dir)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(data_dir: Path = tmp_path / "data", **options: Any) -> Node:
        nodes.append(start_node(data_dir, **options))
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture
def images() -> list[Encoded]:
    return [encode(image) for image in make_series(shape=(4, 16, 16), modality="CT")]


@dataclass
class Modality:
    """pynetdicom as requester: asks, and takes reports on either association."""

    ae_title: str = "CT1"
    status: int = 0x0000
    reports: list[tuple[int, Dataset]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    server: Any = None

    def listen(self, port: int = 0) -> int:
        entity = AE(ae_title=self.ae_title)
        entity.add_supported_context(StorageCommitmentPushModel, [IMPLICIT, EXPLICIT], scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self.take)]
        self.server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        return int(self.server.server_address[1])

    def take(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        self.arrived.set()
        return self.status, None

    def note_sent(self, event: Any) -> None:
        """What goes out after a report has come in is its answer."""
        if self.arrived.is_set() and isinstance(event.pdu, P_DATA_TF):
            self.answered.set()

    def ask(
        self,
        port: int,
        objects: list[tuple[str, str]],
        *,
        wait: bool = False,
        syntax: str = IMPLICIT,
        roles: bool = False,
        transaction: str = "",
        action: int = 1,
        instance: str = STORAGE_COMMITMENT_INSTANCE,
    ) -> tuple[int, str]:
        """N-ACTION; its status and error comment. With `wait` the association stays until it answered a report."""
        information = Dataset()
        information.TransactionUID = transaction or generate_uid()
        information.ReferencedSOPSequence = []
        for sop_class, sop_instance in objects:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
            information.ReferencedSOPSequence.append(item)
        entity = AE(ae_title=self.ae_title)
        entity.add_requested_context(StorageCommitmentPushModel, syntax)
        association = entity.associate(
            "127.0.0.1",
            port,
            ae_title="OVERREAD",
            ext_neg=[build_role(StorageCommitmentPushModel, scu_role=True)] if roles else None,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.take), (evt.EVT_PDU_SENT, self.note_sent)],
        )
        assert association.is_established
        try:
            status, _ = association.send_n_action(information, action, StorageCommitmentPushModel, instance)
            if wait:
                assert self.answered.wait(60)
        finally:
            association.release()
        return status.Status, str(status.get("ErrorComment", ""))

    def wait_for_report(self) -> tuple[int, set[str], dict[str, int]]:
        """Event type, committed UIDs, and Failure Reason of the others, of the first report."""
        assert self.arrived.wait(60), "no report"
        event_type, information = self.reports[0]
        committed = {str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()}
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
            for item in information.get("FailedSOPSequence") or ()
        }
        return event_type, committed, failed


@pytest.fixture
def modality() -> Iterator[Modality]:
    modality = Modality()
    yield modality
    if modality.server is not None:
        modality.server.shutdown()


def named(*images: Encoded) -> list[tuple[str, str]]:
    return [(image.sop_class, image.sop_instance) for image in images]


def reported(node: Node) -> bool:
    return [row.state for row in node.rows(tables.commitment_request)] == [tables.CommitmentState.REPORTED]


def test_report_on_a_new_association(serve: Callable[..., Node], images: list[Encoded], modality: Modality) -> None:
    port = modality.listen()
    node = serve(requesters=(Requester(ae_title="CT1", host="127.0.0.1", port=port),))
    node.store(images)
    assert modality.ask(node.port, named(*images)) == (0x0000, "")
    assert modality.wait_for_report() == (1, {image.sop_instance for image in images}, {})
    wait_until(lambda: reported(node), "note that it was reported")


@pytest.mark.parametrize(("syntax", "roles"), [(IMPLICIT, False), (EXPLICIT, True)])
def test_report_on_the_same_association(
    serve: Callable[..., Node], images: list[Encoded], modality: Modality, syntax: str, roles: bool
) -> None:
    node = serve(requesters=(Requester(ae_title="CT1", report="same-association"),))
    node.store(images)
    asked = [*named(images[0]), (CT, ABSENT)]
    assert modality.ask(node.port, asked, wait=True, syntax=syntax, roles=roles) == (0x0000, "")
    assert modality.wait_for_report() == (2, {images[0].sop_instance}, {ABSENT: 0x0112})
    wait_until(lambda: reported(node), "note that it was reported")


def test_only_what_is_intact_is_committed_to(
    serve: Callable[..., Node], images: list[Encoded], modality: Modality
) -> None:
    node = serve(requesters=(Requester(ae_title="CT1", report="same-association"),))
    node.store(images)
    of_an_earlier_version = "sha256:" + hashlib.sha256(images[0].data_set).hexdigest()
    with write_transaction(node.engine) as connection:
        mine = tables.instance.c.sop_instance_uid == images[0].sop_instance
        connection.execute(tables.instance.update().where(mine).values(digest=of_an_earlier_version))
    flipped = node.file_of(images[1])
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    node.file_of(images[2]).unlink()
    asked = [*named(*images[:3]), ("1.2.840.10008.5.1.4.1.1.4", images[3].sop_instance)]
    modality.ask(node.port, asked, wait=True)
    reasons = {images[1].sop_instance: 0x0110, images[2].sop_instance: 0x0110, images[3].sop_instance: 0x0119}
    assert modality.wait_for_report() == (2, {images[0].sop_instance}, reasons)
    damaged = {row.sop_instance_uid for row in node.rows(tables.quarantine) if row.code == "stored-object-damaged"}
    assert damaged == {images[1].sop_instance, images[2].sop_instance}


def test_without_durability_objects_are_synced_first(
    serve: Callable[..., Node], images: list[Encoded], modality: Modality
) -> None:
    node = serve(durability="none", requesters=(Requester(ae_title="CT1", report="same-association"),))
    node.store(images[:1])
    modality.ask(node.port, named(images[0]), wait=True)
    assert modality.wait_for_report()[0] == 1


def test_association_that_ended_before_the_report_is_followed_by_a_new_one(
    serve: Callable[..., Node], images: list[Encoded], modality: Modality, tmp_path: Path
) -> None:
    port = modality.listen()
    requester = Requester(ae_title="CT1", host="127.0.0.1", port=port, report="same-association")
    node = serve(requesters=(requester,))
    node.store(images[:1])
    modality.status = 0x0110  # on the same association it does not take it
    modality.ask(node.port, named(images[0]), wait=True)
    modality.status = 0x0000
    modality.arrived.clear()
    with node.engine.begin() as connection:  # a minute later
        table = tables.commitment_request
        connection.execute(table.update().values(report_after=datetime.now(UTC) - timedelta(seconds=1)))
    node.reporter.wake()
    assert modality.arrived.wait(60)
    wait_until(lambda: reported(node), "note that it was reported")


def test_report_survives_a_restart_and_a_requester_that_is_away(
    serve: Callable[..., Node], images: list[Encoded], modality: Modality, tmp_path: Path
) -> None:
    port = free_port()
    requesters = (Requester(ae_title="CT1", host="127.0.0.1", port=port),)
    node = serve(requesters=requesters)
    node.store(images[:1])
    modality.ask(node.port, named(images[0]))
    wait_until(lambda: node.rows(tables.commitment_request)[0].attempts > 0, "a first try")
    assert "127.0.0.1" in node.rows(tables.commitment_request)[0].last_error
    node.scp.stop()
    node.reporter.stop()
    again = serve(requesters=requesters)
    modality.listen(port)
    assert modality.wait_for_report() == (1, {images[0].sop_instance}, {})
    wait_until(lambda: reported(again), "note that it was reported")


def test_given_up_after_its_time(serve: Callable[..., Node], images: list[Encoded], modality: Modality) -> None:
    node = serve(requesters=(Requester(ae_title="CT1", host="127.0.0.1", port=free_port()),), give_up_hours=0.000_000_1)
    modality.ask(node.port, [(CT, ABSENT)])
    states = lambda: [row.state for row in node.rows(tables.commitment_request)]  # noqa: E731
    wait_until(lambda: states() == [tables.CommitmentState.ABANDONED], "end of the tries")
    with read_transaction(node.engine) as connection:
        (shown,) = unreported(connection)
    assert (shown.calling_ae_title, shown.attempts) == ("CT1", 1) and "127.0.0.1" in str(shown.last_error)


def test_destination_of_the_same_name_may_ask(serve: Callable[..., Node], modality: Modality) -> None:
    port = modality.listen()
    node = serve(destinations=(Destination(name="pacs", ae_title="CT1", host="127.0.0.1", port=port),))
    assert modality.ask(node.port, [(CT, ABSENT)])[0] == 0x0000
    assert modality.wait_for_report() == (2, set(), {ABSENT: 0x0112})


def test_requests_that_are_refused(serve: Callable[..., Node], modality: Modality) -> None:
    node = serve(requesters=(Requester(ae_title="CT1", report="same-association"),))
    asked = [(CT, ABSENT)]
    assert Modality("STRANGER").ask(node.port, asked) == (0x0124, "requester-unknown")
    assert modality.ask(node.port, asked, action=2) == (0x0123, "action-type")
    assert modality.ask(node.port, asked, instance="1.2.3") == (0x0112, "no-such-instance")
    assert modality.ask(node.port, []) == (0x0114, "missing-identifier")
    assert node.rows(tables.commitment_request) == []


def test_same_transaction_again_is_the_same_request(serve: Callable[..., Node], modality: Modality) -> None:
    port = modality.listen()
    node = serve(requesters=(Requester(ae_title="CT1", host="127.0.0.1", port=port),))
    for _ in range(2):
        modality.arrived.clear()
        modality.ask(node.port, [(CT, ABSENT)], transaction="1.2.3.4")
        assert modality.arrived.wait(60)
        wait_until(lambda: reported(node), "note that it was reported")


@pytest.mark.parametrize("content", [b"", b"noise" * 40, b"\x08\x00\x95\x11\x04\x00\x00\x001.2\0"])
def test_action_information_that_is_none(engine: Engine, tmp_path: Path, content: bytes) -> None:
    scp = CommitmentScp(engine, FileStore(tmp_path / "data"), lambda title: ReportWay(True), lambda: None)
    command = Command(0x0130, 1, "1.2.840.10008.1.20.1", STORAGE_COMMITMENT_INSTANCE, True, action_type=1)
    with pytest.raises(Refused) as caught:
        scp.take(content, IMPLICIT, command, "CT1")
    assert caught.value.status == 0x0114


def test_object_that_is_named_often_is_looked_at_once(engine: Engine, tmp_path: Path) -> None:
    scp = CommitmentScp(engine, FileStore(tmp_path / "data"), lambda title: ReportWay(False), lambda: None)
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, ABSENT
    information = Dataset()
    information.TransactionUID, information.ReferencedSOPSequence = "1.2.3", [item] * 3
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = buffer.is_little_endian = True
    write_dataset(buffer, information)
    command = Command(0x0130, 1, "1.2.840.10008.1.20.1", STORAGE_COMMITMENT_INSTANCE, True, action_type=1)
    scp.take(buffer.getvalue(), IMPLICIT, command, "CT1")
    with read_transaction(engine) as connection:
        assert connection.scalars(select(tables.commitment_request.c.objects)).all() == [[[CT, ABSENT]]]


class Owed:
    """A report that nobody ever answers."""

    def make(self, transfer_syntax_uid: str) -> tuple[int, bytes]:
        return 1, b""

    def answered(self, status: int) -> None:
        raise AssertionError("nobody answers")


class Asking:
    """Takes any request, in place of an `Intake`."""

    def begin(self, command: Command, transfer_syntax_uid: str, sender: Sender, _: Beginnings) -> IncomingRequest:
        return IncomingRequest(command, transfer_syntax_uid, lambda *_: Owed(), sender)


def test_requester_that_never_answers_is_not_told_more_and_more(engine: Engine) -> None:
    context = AnsweredContext(1, ContextResult.ACCEPTANCE, "1.2.840.10008.1.20.1", IMPLICIT)
    messages = Messages({1: context}, Sender("CT1", "OVERREAD"), cast(Intake, Asking()), 1000, get_logger("receive"))
    told = 0
    for number in range(3 * MAXIMUM_UNANSWERED):
        request = command(0x0130, number + 1, "1.2.840.10008.1.20.1", STORAGE_COMMITMENT_INSTANCE)
        messages.take_command(CommandSet(1, request))
        assert messages.take_fragment(DataFragment(1, memoryview(b"x"), True))
        told += bool(messages.follow_up())
    assert told == MAXIMUM_UNANSWERED


def test_digest_of_what_is_no_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes(500))
    with pytest.raises(ValueError, match="File Meta"):
        matches(tmp_path / "a.dcm", "0" * 64)


class Slow:
    """Takes five minutes for a report, and looks whether anybody else would be given the request meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.at = datetime(2026, 3, 1, tzinfo=UTC)
        self.also_claimed: list[CommitmentRequest] = []
        self.is_reported = False

    def make_report(self, request: CommitmentRequest, progress: Callable[[], None]) -> Report:
        for _ in range(30):
            self.at += timedelta(seconds=10)
            progress()
            with write_transaction(self.engine) as connection:
                self.also_claimed += claim_requests(connection, self.at, self.at + timedelta(seconds=120), 1)
        return Report(request.transaction_uid, (), ())

    def reported(self, request: CommitmentRequest, report: Report, how: str) -> None:
        self.is_reported = True


def test_report_that_takes_long_is_made_once(engine: Engine) -> None:
    slow = Slow(engine)
    with write_transaction(engine) as connection:
        record_request(connection, "CT1", "1.2.3", [("1.2", "1.3")], slow.at, slow.at)
    reporter = CommitmentReporter(
        engine,
        CommitmentSettings(),
        cast(CommitmentScp, slow),
        lambda ae_title, report, check: None,
        now=lambda: slow.at,
        clock=lambda: slow.at.timestamp(),
    )
    reporter.step()
    assert slow.is_reported and not slow.also_claimed


@pytest.mark.counterpart("orthanc")
def test_orthanc_asks_and_is_told(serve: Callable[..., Node], tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc") as peer:
        node = serve(requesters=(Requester(ae_title="ORTHANC", host="127.0.0.1", port=peer.dicom_port),))
        paths = write_series(tmp_path / "series", shape=(3, 16, 16), modality="CT")
        peer.store(paths)
        peer.set_modality("node", "OVERREAD", node.port)
        study = str(peer.get(f"/instances/{peer.instances()[0]['id']}/simplified-tags")["StudyInstanceUID"])
        peer.forward(study, "node")

        def outcome(resources: list[str]) -> Any:
            asked = {"Resources": resources, "DicomInstances": [], "Timeout": 30}
            answer = peer.request("/modalities/node/storage-commitment", asked)
            path = json.loads(answer)["Path"]
            wait_until(lambda: peer.get(path)["Status"] != "Pending", "report in Orthanc")
            return peer.get(path)

        whole = outcome([peer.identifier(study)])
        assert whole["Status"] == "Success" and len(whole["Success"]) == 3
        node.file_of(read_encoded(paths[0])).write_bytes(b"damaged")
        partly = outcome([peer.identifier(study)])
        assert partly["Status"] == "Failure" and len(partly["Success"]) == 2
        assert [one["FailureReason"] for one in partly["Failures"]] == [0x0110]
