"""Results to receivers that take no DICOM: HL7 v2, FHIR, webhook; and into a folder."""

import asyncio
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hl7
import hl7.mllp
import pytest
from fhir.resources.R4B.bundle import Bundle
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from pydicom import dcmread
from structlog.testing import capture_logs

from node.deliver import oru
from node.deliver.fhir import build_bundle, read_issues
from node.deliver.oru_template import load_template
from node.deliver.statement import Statement, read_statement
from node.deliver.transport import Parcel
from node.destination_settings import FhirDestination, FolderDestination, Hl7Destination, WebhookDestination
from node.jobs.job import Job
from node.store.database import read_transaction
from node.store.results import get_result
from node.store.tables import JobState
from tests.counterparts import LOOPBACK, free_port, wait_until
from tests.node.deliver.conftest import Node

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMES = oru.Names("OVERREAD", "HOSPITAL", "RIS", "")
STANDARD = load_template(None)


def parcel_of(node: Node, job: Job) -> Parcel:
    with read_transaction(node.engine) as connection:
        return Parcel(job, get_result(connection, job.result_id or 0), node.folder)


@pytest.fixture
def statement(node: Node, real: Job) -> Statement:
    return read_statement(parcel_of(node, real))


# HL7 v2


def test_statement_says_findings_and_that_nobody_verified_them(statement: Statement):
    assert statement.order.patient_id == "CANARY-77"
    assert statement.impression[0].startswith("DRAFT") or "draft" in statement.impression[0].lower()
    assert statement.impression[-1].endswith("not verified by a physician. Not for clinical use.")


def test_oru_is_valid_by_hl7apy(statement: Statement):
    message = parse_message(oru.encode_oru(statement, NAMES, STANDARD, NOW), VALIDATION_LEVEL.STRICT, find_groups=True)
    message.validate()
    assert message.msh.msh_9.to_er7() == "ORU^R01^ORU_R01"
    order = message.oru_r01_patient_result.oru_r01_order_observation
    first = order.oru_r01_observation[0].obx
    assert first.obx_3.to_er7() == "118565006^Volume^SCT"
    assert (first.obx_2.to_er7(), first.obx_6.to_er7(), first.obx_11.to_er7()) == ("NM", "ml^ml^UCUM", "P")
    assert order.obr.obr_25.to_er7() == "P"


def test_oru_escapes_what_would_change_its_structure(statement: Statement):
    order = replace(statement.order, patient_name="O|Neil^A&B~C\\D", patient_id="1^2|3\r4", accession_number="A|1")
    message = hl7.parse(oru.encode_oru(replace(statement, order=order), NAMES, STANDARD, NOW))
    assert message.unescape(str(message["PID"][0][5][0][0])) == "O|Neil"
    assert message.unescape(str(message["PID"][0][3][0][0])) == "1^2|3 4"
    assert message.unescape(str(message["OBR"][0][18])) == "A|1"
    assert len(message.segments("PID")) == 1


def test_same_statement_has_the_same_control_id(statement: Statement):
    assert oru.control_id(statement) == oru.control_id(replace(statement, remarks=()))
    assert 0 < len(oru.control_id(statement)) <= 20


@pytest.mark.parametrize("noise", [b"", b"MSA", b"MSA|AA", b"\xff\xfe", b"HTTP/1.1 400 Bad Request"])
def test_noise_is_no_acknowledgement(noise: bytes):
    assert oru.read_acknowledgement(noise) is None


@contextmanager
def mllp_server(answers: list[Callable[[str], bytes | None]]) -> Iterator[tuple[int, list[str]]]:
    """Takes messages; each is answered by the next of `answers`, then by AA. None hangs up without an answer."""
    received: list[str] = []
    server = socket.create_server((LOOPBACK, 0))
    server.settimeout(0.1)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                content = b""
                while not content.endswith(b"\x1c\r") and (piece := connection.recv(65536)):
                    content += piece
                if not content:
                    continue
                message = content[1:-2].decode()
                received.append(message)
                answer = (answers.pop(0) if answers else acknowledge("AA"))(message)
                if answer is not None:
                    connection.sendall(b"\x0b" + answer + b"\x1c\r")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1], received
    finally:
        stopping.set()
        thread.join()
        server.close()


def acknowledge(code: str, control_id: str = "") -> Callable[[str], bytes]:
    def answer(message: str) -> bytes:
        found = control_id or message.split("\r")[0].split("|")[9]
        return f"MSH|^~\\&|RIS||OVERREAD||20300101||ACK^R01|1|P|2.5.1\rMSA|{code}|{found}|Canary^Carla?\r".encode()

    return answer


def hl7_destination(port: int, **more: Any) -> Hl7Destination:
    return Hl7Destination(name="pacs", kind="hl7", host=LOOPBACK, port=port, **more)


def test_oru_is_received_by_the_mllp_server_of_hl7(node: Node, real: Job):
    received: list[hl7.Message] = []
    ready: list[int] = []

    async def serve(stop: asyncio.Event) -> None:
        async def on_client(reader: Any, writer: Any) -> None:
            message = await reader.readmessage()
            received.append(message)
            writer.writemessage(message.create_ack())
            await writer.drain()
            writer.close()

        server = await hl7.mllp.start_hl7_server(on_client, LOOPBACK, 0, encoding="utf-8")
        ready.append(server.sockets[0].getsockname()[1])
        await stop.wait()
        server.close()

    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(stop)))
    thread.start()
    try:
        wait_until(lambda: ready, "server")
        with capture_logs() as lines, node.outbox(node.settings(hl7_destination(ready[0]))):
            node.wait_for_end(real)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
    (message,) = received
    assert str(message["PID"][0][3][0][0]) == "CANARY-77"
    assert "canary" not in json.dumps(lines, default=str).lower()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (acknowledge("AE"), "answered AE"),
        (acknowledge("AA", "another"), "acknowledged another message"),
        (lambda message: b"nonsense", "no acknowledgement"),
        (lambda message: None, "closed the connection, before the message was acknowledged"),
    ],
)
def test_what_is_not_acknowledged_is_sent_again(node: Node, real: Job, answer: Any, words: str):
    with mllp_server([answer]) as (port, received), capture_logs() as lines:
        with node.outbox(node.settings(hl7_destination(port))):
            ended = node.wait_for_end(real)
        assert ended.attempt == 2 and len(received) == 2
    said = "".join(line["error"] for line in lines if line["event"] == "not_delivered")
    assert words in said and "canary" not in json.dumps(lines, default=str).lower()


def test_rejected_message_fails_with_its_control_id(node: Node, real: Job):
    with mllp_server([acknowledge("AR")]) as (port, _), node.outbox(node.settings(hl7_destination(port))):
        ended = node.wait_for_end(real, JobState.FAILED)
    assert "rejected the message (AR)" in (ended.last_error or "") and "Canary" not in (ended.last_error or "")


def test_receiver_that_is_silent_is_left_after_the_timeout(node: Node, real: Job):
    with socket.create_server((LOOPBACK, 0)) as silent:
        settings = node.settings(hl7_destination(silent.getsockname()[1]), timeout_seconds=0.4)
        with node.outbox(settings):
            wait_until(lambda: "answered nothing for 0.4 s" in (node.job(real).last_error or ""), "message")


# FHIR R4


def test_bundle_is_valid_fhir_and_the_same_every_time(statement: Statement):
    bundle = build_bundle(statement, "urn:oid:1.2.3", "urn:oid:1.2.4")
    read = Bundle.model_validate(json.loads(json.dumps(bundle)))
    assert read.type == "transaction"
    assert bundle == build_bundle(statement, "urn:oid:1.2.3", "urn:oid:1.2.4")
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    observations = sum(len(finding.measurements) for finding in statement.findings)
    assert kinds == ["Device", "ImagingStudy", *["Observation"] * observations, "DiagnosticReport", "Provenance"]
    assert all(entry["request"]["ifNoneExist"] for entry in bundle["entry"])
    assert len({entry["fullUrl"] for entry in bundle["entry"]}) == len(bundle["entry"])


def test_references_of_the_bundle_lead_to_its_entries(statement: Statement):
    bundle = build_bundle(statement, "", "")
    there = {entry["fullUrl"] for entry in bundle["entry"]}

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from [value["reference"]] if "reference" in value else []
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    assert set(references(bundle)) <= there
    report = next(e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "DiagnosticReport")
    assert report["status"] == "preliminary" and "not verified by a physician" in report["conclusion"]


class FhirStub:
    """Conditional creates by `ifNoneExist`, as R4 3.1.0.8.1 says; `faults` are answered first."""

    def __init__(self, faults: list[tuple[int, Any]] | None = None) -> None:
        self.faults = faults or []
        self.resources: dict[str, Any] = {}
        self.posts: list[tuple[dict[str, str], bytes]] = []

    def __enter__(self) -> "FhirStub":
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(200, {"resourceType": "CapabilityStatement"})

            do_HEAD = do_GET

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.posts.append((dict(self.headers), body))
                if stub.faults:
                    self._answer(*stub.faults.pop(0))
                    return
                if self.headers["Content-Type"] == "application/fhir+json":
                    self._answer(*stub.take(json.loads(body)))
                else:
                    self._answer(204, None)

            def _answer(self, status: int, value: Any) -> None:
                body = b"" if value is None or self.command == "HEAD" else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def take(self, bundle: Any) -> tuple[int, Any]:
        Bundle.model_validate(bundle)
        answers = []
        for entry in bundle["entry"]:
            key = f"{entry['request']['url']}?{entry['request']['ifNoneExist']}"
            answers.append({"response": {"status": "200 OK" if key in self.resources else "201 Created"}})
            self.resources.setdefault(key, entry["resource"])
        return 200, {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}


def test_fhir_server_has_each_resource_once_however_often_it_is_sent(node: Node, real: Job):
    from node.jobs.queue import requeue
    from node.store.database import write_transaction

    with FhirStub() as stub, node.outbox(node.settings(FhirDestination(name="pacs", kind="fhir", url=stub.url))):
        node.wait_for_end(real)
        first = dict(stub.resources)
        with write_transaction(node.engine) as connection:
            requeue(connection, real.job_id, datetime.now(UTC))
        node.wait_for_end(real)
        assert len(stub.posts) == 2 and stub.resources == first


OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "business-rule", "diagnostics": "Canary^Carla is unknown"}],
}


def test_operation_outcome_is_read_without_its_texts(node: Node, real: Job):
    with (
        FhirStub([(500, None), (422, OUTCOME)]) as stub,
        capture_logs() as lines,
        node.outbox(node.settings(FhirDestination(name="pacs", kind="fhir", url=stub.url))),
    ):
        ended = node.wait_for_end(real, JobState.FAILED)
    assert "HTTP 422" in (ended.last_error or "") and "(error: business-rule)" in (ended.last_error or "")
    assert ended.attempt == 2 and "canary" not in json.dumps(lines, default=str).lower()
    assert read_issues({"resourceType": "Patient"}) == read_issues(None) == []


# Webhook and folder


def test_webhook_is_signed_and_tells_nothing_of_the_patient_unless_asked(tmp_path: Path, node: Node, real: Job):
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    quiet = WebhookDestination(name="pacs", kind="webhook", url="http://x", secret_file=secret)
    with FhirStub([(502, None)]) as stub:
        with node.outbox(node.settings(quiet.model_copy(update={"url": stub.url}))):
            assert node.wait_for_end(real).attempt == 2
        (first, body), (again, _) = stub.posts
    assert first["X-Overread-Delivery"] == again["X-Overread-Delivery"]
    timestamp, digest = (part.split("=")[1] for part in again["X-Overread-Signature"].split(","))
    assert hmac.new(b"s3cret", f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest() == digest
    told = json.loads(body)
    assert told["study_instance_uid"] == real.study_instance_uid and told["patient"] == {}
    assert "canary" not in body.decode().lower()


def test_webhook_tells_the_fields_asked_for(tmp_path: Path, node: Node, real: Job):
    from node.deliver.webhook import describe

    told = describe(read_statement(parcel_of(node, real)), parcel_of(node, real), ("patient_id", "accession_number"))
    assert told["patient"] == {"patient_id": "CANARY-77", "accession_number": ""}


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


def test_destination_of_each_kind_is_read_from_toml(tmp_path: Path):
    from node.settings import SettingsError, load_settings

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
    with pytest.raises(SettingsError, match=r"destinations\.0: kind is not one of dimse, dicomweb, hl7"):
        load_settings(config)
    config.write_text('[[destinations]]\nname = "a"\nkind = "folder"\nfolder = "x"\nport = 1\n')
    with pytest.raises(SettingsError, match=r"destinations\.0\.port: unknown key.*folder"):
        load_settings(config)


def test_nobody_at_the_mllp_port_is_tried_again(node: Node, real: Job):
    with node.outbox(node.settings(hl7_destination(free_port()))):
        wait_until(lambda: "MLLP at 127.0.0.1" in (node.job(real).last_error or ""), "message")
