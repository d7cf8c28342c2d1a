"""ORU^R01 over MLLP: the message by its template, what acknowledgements mean, TLS."""

import asyncio
import base64
import json
import re
import shutil
import socket
import ssl
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hl7
import hl7.mllp
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from pydicom.sr.coding import Code
from structlog.testing import capture_logs

from dicom_sr.archive import load_result, save_result
from dicom_sr.findings import Finding, Likelihood, Presence, Qualifier
from node.deliver import oru
from node.deliver.oru_template import STANDARD as STANDARD_FILE
from node.deliver.oru_template import load_template
from node.deliver.statement import Statement
from node.destination_settings import Hl7Destination, Tls
from node.errors import Permanent
from node.jobs.job import Job
from node.store.database import read_transaction
from node.store.results import get_result
from node.store.tables import JobState
from tests.certificates import make_authority
from tests.counterparts import LOOPBACK, free_port, wait_until
from tests.mllp_server import acknowledge, mllp_server
from tests.node.deliver.conftest import Node
from tests.node.deliver.test_fhir_replacement import first_result, next_result

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMES = oru.Names("OVERREAD", "HOSPITAL", "RIS", "")
STANDARD = load_template(None)
EXAMPLE = Path(__file__).parents[3] / "config" / "oru" / "merge-fields.toml"


def test_statement_says_findings_and_that_nobody_verified_them(statement: Statement):
    assert statement.order.patient_id == "CANARY-77"
    assert statement.impression[0] == ("Not for clinical use. Result of an AI algorithm, not verified by a physician.")
    assert statement.impression[1].startswith("DRAFT, made from the findings of Brain and ventricles")
    assert replace(statement, not_for_clinical_use=False).impression[0].startswith("Result of an AI algorithm")


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


def test_control_characters_end_no_segment_and_no_block(statement: Statement):
    order = replace(
        statement.order,
        patient_id="1\x1c",
        accession_number="A\x0b\x85\x1c",
        study_date="20300102|X\rOBX|1",
        study_time="10|11",
        birth_date="1970.01.01",
        study_description="\x00",
    )
    text = oru.encode_oru(replace(statement, order=order), NAMES, STANDARD, NOW)
    assert all(character == "\r" or character.isprintable() for character in text)
    fields = {row.split("|")[0]: row.split("|") for row in text.split("\r") if row[:3] in ("PID", "OBR")}
    assert len(fields["PID"]) == 6 and fields["OBR"][7] == statement.created_at.strftime("%Y%m%d%H%M%S%z")
    assert text.count("\rOBX|1|") == 1


@pytest.mark.parametrize(
    ("date", "time", "observed"),
    [("20300102", "101112.123", "20300102101112"), ("20300102", "10:11", "20300102"), ("20300102", "", "20300102")],
)
def test_observed_at_is_the_study_as_far_as_it_is_valid(statement: Statement, date: str, time: str, observed: str):
    order = replace(statement.order, study_date=date, study_time=time)
    text = oru.encode_oru(replace(statement, order=order), NAMES, STANDARD, NOW)
    assert next(row.split("|")[7] for row in text.split("\r") if row.startswith("OBR")) == observed


@pytest.mark.parametrize(
    ("name", "in_hl7"),
    [
        ("Adams^John^Robert^Rev.^B.A.", "Adams^John^Robert^B.A.^Rev."),
        ("Adams^John", "Adams^John"),
        ("=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060", "\u5c71\u7530^\u592a\u90ce"),
        ("A^B^C^D^E^F^G", "A^B^C^E^D"),
    ],
)
def test_name_is_written_in_the_order_of_hl7(statement: Statement, name: str, in_hl7: str):
    order = replace(statement.order, patient_name=name)
    text = oru.encode_oru(replace(statement, order=order), NAMES, STANDARD, NOW)
    assert next(row for row in text.split("\r") if row.startswith("PID")).split("|")[5:6] == ([in_hl7])


def test_numbers_have_no_exponent(statement: Statement):
    certainty = Code("111012", "DCM", "Certainty of Finding")
    finding = Finding(
        Code("1386000", "SCT", "Intracranial hemorrhage"), "Bleeding", likelihood=Likelihood(0.0000123, certainty)
    )
    measured = replace(
        statement.findings[0],
        measurements=tuple(replace(one, value=2.5e10) for one in statement.findings[0].measurements),
    )
    text = oru.encode_oru(replace(statement, findings=(finding, measured)), NAMES, STANDARD, NOW)
    parse_message(text, VALIDATION_LEVEL.STRICT, find_groups=True).validate()
    numbers = {row.split("|")[5] for row in text.split("\r") if "|NM|" in row}
    assert {"0.0000123", "25000000000"} <= numbers
    assert all(re.fullmatch(r"[+-]?\d+(\.\d*)?", number) for number in numbers)


def test_same_statement_has_the_same_control_id(statement: Statement):
    assert oru.control_id(statement) == oru.control_id(replace(statement, remarks=()))
    assert 0 < len(oru.control_id(statement)) <= 20


@pytest.mark.parametrize(
    "noise", [b"", b"MSA", b"MSA|AA", b"\xff\xfe", b"HTTP/1.1 400 Bad Request", b"MSA|Canary^Carla|1", b"MSA||1"]
)
def test_noise_is_no_acknowledgement(noise: bytes):
    assert oru.read_acknowledgement(noise) is None


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

        server = await hl7.mllp.start_hl7_server(on_client, LOOPBACK, 0, limit=1 << 24, encoding="utf-8")
        ready.append(server.sockets[0].getsockname()[1])
        await stop.wait()
        server.close()

    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(stop)))
    thread.start()
    try:
        wait_until(lambda: ready, "server")
        with capture_logs() as lines, node.outbox(node.settings(hl7_destination(ready[0], template=EXAMPLE))):
            node.wait_for_end(real)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
    (message,) = received
    assert str(message["PID"][0][3][0][0]) == "CANARY-77"
    document = next(segment for segment in message.segments("OBX") if str(segment[2]) == "ED")
    *kind, encoded = str(document[5]).split("^")
    assert kind == ["", "application", "pdf", "Base64"]
    assert base64.b64decode(encoded, validate=True).startswith(b"%PDF-")
    shortened = str(message).replace(encoded, encoded[:100])  # hl7apy takes ED.5 for ST, of 199 characters at most
    parse_message(shortened, VALIDATION_LEVEL.STRICT, find_groups=True).validate()
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


def test_critical_finding_raises_priority_and_abnormal_flags(statement: Statement):
    urgent = Finding(Code("1386000", "SCT", "Intracranial hemorrhage"), "Bleeding", critical=True)
    calm = replace(urgent, tracking_identifier="Other", critical=False)
    critical = replace(statement, findings=(urgent, calm))
    text = oru.encode_oru(critical, NAMES, STANDARD, NOW)
    message = parse_message(text, VALIDATION_LEVEL.STRICT, find_groups=True)
    message.validate()
    order = message.oru_r01_patient_result.oru_r01_order_observation
    assert order.obr.obr_5.to_er7() == "S"
    assert order.oru_r01_timing_qty.tq1.tq1_9.to_er7() == "S^STAT^HL70485"
    rows = [row.split("|") for row in text.split("\r") if row.startswith("OBX|")]
    assert [row[8] for row in rows[:2]] == ["AA", ""]
    usual = oru.encode_oru(replace(statement, findings=(calm,)), NAMES, STANDARD, NOW)
    assert "TQ1" not in usual and "|AA|" not in usual


@pytest.mark.parametrize(
    ("presence", "value", "is_critical"),
    [
        (Presence.PRESENT, 0.9, True),
        (Presence.PRESENT, 0.8, True),
        (Presence.PRESENT, 0.79, False),
        (Presence.ABSENT, 0.9, False),
        (Presence.INDETERMINATE, 0.9, False),
    ],
)
def test_critical_is_what_is_present_at_its_operating_point_or_over(
    statement: Statement, presence: Presence, value: float, is_critical: bool
):
    score = Likelihood(value, Code("111012", "DCM", "Certainty of Finding"), 0.8)
    code = Code("1386000", "SCT", "Intracranial hemorrhage")
    finding = Finding(code, "Bleeding", presence=presence, likelihood=score, critical=True)
    assert replace(statement, findings=(finding,)).is_critical is is_critical
    assert not replace(statement, findings=(replace(finding, critical=False),)).is_critical


def test_everything_of_a_finding_is_a_valid_observation(statement: Statement):
    finding = Finding(
        Code("1386000", "SCT", "Intracranial hemorrhage"),
        "Bleeding",
        presence=Presence.ABSENT,
        likelihood=Likelihood(0.123456, Code("111012", "DCM", "Certainty of Finding"), 0.5),
        finding_site=Code("12738006", "SCT", "Brain"),
        laterality=Code("7771000", "SCT", "Left"),
        qualifiers=(Qualifier(Code("246112005", "SCT", "Severity"), Code("24484000", "SCT", "Severe")),),
    )
    text = oru.encode_oru(replace(statement, findings=(finding,)), NAMES, STANDARD, NOW)
    parse_message(text, VALIDATION_LEVEL.STRICT, find_groups=True).validate()
    rows = [row.split("|") for row in text.split("\r") if row.startswith("OBX|")]
    assert [row[1:6] for row in rows[:5]] == [
        ["1", "CWE", "1386000^Intracranial hemorrhage^SCT", "Bleeding", "2667000^Absent^SCT"],
        ["2", "NM", "111012^Certainty of Finding^DCM", "Bleeding", "0.123"],
        ["3", "CWE", "363698007^Finding Site^SCT", "Bleeding", "12738006^Brain^SCT"],
        ["4", "CWE", "272741003^Laterality^SCT", "Bleeding", "7771000^Left^SCT"],
        ["5", "CWE", "246112005^Severity^SCT", "Bleeding", "24484000^Severe^SCT"],
    ]


def observations(text: str) -> list[list[str]]:
    return [row.split("|") for row in text.rstrip("\r").split("\r") if row.startswith("OBX|")]


def test_what_the_next_result_does_not_say_is_deleted(statement: Statement):
    kept, gone = (
        Finding(Code("1386000", "SCT", "Intracranial hemorrhage"), tracking, presence=Presence.PRESENT)
        for tracking in ("Bleeding 1", "Bleeding 2")
    )
    renamed = replace(kept, finding=Code("1386000", "SCT", "Haemorrhage"))
    before = replace(statement, findings=(gone, kept), draft=("one", "two", "three"))
    after = replace(statement, identifier="2.25.9", findings=(renamed,), draft=("one",), remarks=())
    text = oru.encode_oru(after, NAMES, STANDARD, NOW, [before, before])
    parse_message(text, VALIDATION_LEVEL.STRICT, find_groups=True).validate()
    rows = observations(text)
    assert [row[1] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
    lines = len(after.impression)
    assert [row[11] for row in rows] == ["P"] * (1 + lines) + ["D"] * (1 + len(before.impression) - lines)
    assert [row[2:] for row in rows[1 + lines : 3 + lines]] == [
        ["CWE", "1386000^Intracranial hemorrhage^SCT", "Bleeding 2", *[""] * 6, "D"],
        ["TX", "19005-8^Impression^LN", str(lines + 1), *[""] * 6, "D"],
    ]
    assert oru.encode_oru(before, NAMES, STANDARD, NOW, [before]) == oru.encode_oru(before, NAMES, STANDARD, NOW)


def test_deletions_stand_behind_the_observations(statement: Statement, tmp_path: Path):
    path = tmp_path / "oru.toml"
    template = (
        '[[segment]]\nname = "OBX"\neach = "measurement"\nfields = { 2 = "NM", 3 = "{concept}", 4 = "{tracking}" }\n'
        '[[segment]]\nname = "OBX"\neach = "document"\nfields = { 2 = "ED", 3 = "18748-4^Report^LN" }\n'
        '[[segment]]\nname = "NTE"\n'
    )
    path.write_text(template)
    silent = replace(statement, findings=(), documents=(b"%PDF",))
    earlier = replace(statement, documents=(b"",))
    rows = oru.encode_oru(silent, NAMES, load_template(path), NOW, [earlier]).rstrip("\r").split("\r")
    measured = sum(len(finding.measurements) for finding in statement.findings)
    assert rows[1].startswith("OBX||ED|") and rows[-1] == "NTE"
    assert [row.rpartition("|")[2] for row in rows[2:-1]] == ["D"] * measured


def without_findings(node: Node, job: Job) -> Path:
    """The folder of the result of this delivery, which has found nothing from now on."""
    with read_transaction(node.engine) as connection:
        folder = node.folder / get_result(connection, job.result_id or 0).folder
    save_result(replace(load_result(folder), findings=()), folder)
    return folder


def test_receiver_is_told_what_does_not_hold_any_more(node: Node):
    """Where the files of the earlier result are gone, it is said that it is not."""
    with mllp_server([]) as (port, received):

        def deliver(job: Job, **more: Any) -> str | None:
            with node.outbox(node.settings(hl7_destination(port, **more))):
                return node.wait_for_end(job).last_error

        first = first_result(node)
        assert deliver(first) is None
        second = next_result(node, first, "d2")
        folder = without_findings(node, second)
        assert deliver(second) is None
        third = next_result(node, first, "d3")
        shutil.rmtree(folder)
        assert f"Observations of result {second.result_id} stay" in str(deliver(third))
        fourth = next_result(node, first, "d4")
        without_findings(node, fourth)
        template = node.folder / "oru.toml"
        template.write_text("deletes = false\n" + STANDARD_FILE.read_text())
        assert deliver(fourth, template=template) is None
    said, then, *later = (observations(message) for message in received)
    assert {row[11] for rows in (said, *later) for row in rows} == {"P"} and len(later) == 2
    deleted, kept = ([tuple(row[3:5]) for row in then if row[11] == status] for status in ("D", "P"))
    assert sorted(deleted + kept) == sorted(tuple(row[3:5]) for row in said)
    assert "118565006^Volume^SCT" in dict(deleted) and "19005-8^Impression^LN" in dict(kept)


def test_site_maps_fields_without_code(statement: Statement):
    """The example that is shipped: merge fields of a reporting system, one digit, a PDF."""
    with_pdf = replace(statement, documents=(b"%PDF-1.4 ...",))
    text = oru.encode_oru(with_pdf, NAMES, load_template(EXAMPLE), NOW)
    parse_message(text, VALIDATION_LEVEL.STRICT, find_groups=True).validate()
    rows = [row.split("|") for row in text.split("\r") if row.startswith("OBX|")]
    volumes = [m.value for f in statement.findings for m in f.measurements if m.concept.value == "118565006"]
    assert [row[5] for row in rows if row[3] == "AIVOL^AI volume^L"] == [f"{value:.1f}" for value in volumes]
    assert rows[-1][2:6] == [
        "ED",
        "18748-4^Diagnostic imaging report^LN",
        "",
        "^application^pdf^Base64^JVBERi0xLjQgLi4u",
    ]


def test_alternatives_and_left_out_items(statement: Statement, tmp_path: Path):
    path = tmp_path / "oru.toml"
    path.write_text(
        '[[segment]]\nname = "OBX"\neach = "measurement"\ncode = ["118565006"]\nskip = true\n'
        '[[segment]]\nname = "OBX"\neach = "measurement"\nfields = { 1 = "{number}", 3 = "{concept_code}" }\n'
        '[[segment]]\nname = "NTE"\nfields = { 3 = "{patient_id} {{}}" }\n'
    )
    text = oru.encode_oru(statement, NAMES, load_template(path), NOW)
    others = [m.concept.value for f in statement.findings for m in f.measurements if m.concept.value != "118565006"]
    assert [row.split("|")[3] for row in text.split("\r") if row.startswith("OBX")] == others
    assert "NTE|||CANARY-77 {}\r" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[segment]", "is not TOML"),
        ("x = 1", "segment: Field required"),
        ('[[segment]]\nname = "MSH"', "leave it out"),
        ('[[segment]]\nname = "obx"', "String should match pattern"),
        ('[[segment]]\nname = "OBX"\nfields = { 0 = "x" }', "greater than or equal to 1"),
        ('[[segment]]\nname = "OBX"\nfields = { 3 = "{value}" }', "{value} is no name here; known are"),
        ('[[segment]]\nname = "OBX"\nfields = { 3 = "{patient_id.__class__}" }', "is no name here"),
        ('[[segment]]\nname = "OBX"\nfields = { 3 = "{patient_id!r}" }', "is no name here"),
        ('[[segment]]\nname = "OBX"\nfields = { 3 = "{patient_id" }', "field 3: expected '}'"),
        ('[[segment]]\nname = "OBX"\neach = "measurement"\nfields = { 3 = "{concept:.1f}" }', "does not fit"),
        ('[[segment]]\nname = "OBX"\neach = "heart"', "Input should be"),
    ],
)
def test_template_that_cannot_be_used_is_said_so(tmp_path: Path, content: str, words: str):
    path = tmp_path / "oru.toml"
    path.write_text(content)
    with pytest.raises(Permanent, match=f"template {path}.*") as raised:
        load_template(path)
    assert words in str(raised.value)


def test_template_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(Permanent, match=r"oru.toml cannot be read"):
        load_template(tmp_path / "oru.toml")
    assert load_template(None) == load_template(STANDARD_FILE)


@pytest.mark.parametrize("trusts_us", [True, False])
def test_oru_over_tls_with_a_client_certificate(tmp_path: Path, node: Node, real: Job, trusts_us: bool):
    authority = make_authority(tmp_path / "ca")
    certificate, key = authority.issue("ris")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    ours = (authority if trusts_us else make_authority(tmp_path / "other")).issue("node")
    with mllp_server([], context) as (port, received):
        secured = Tls(ca_file=authority.ca, certificate_file=ours[0], key_file=ours[1])
        with node.outbox(node.settings(hl7_destination(port, tls=secured))):
            if trusts_us:
                node.wait_for_end(real)
            else:
                wait_until(lambda: node.job(real).last_error, "error")
    assert len(received) == (1 if trusts_us else 0)
    assert trusts_us or "certificate" in (node.job(real).last_error or "")


def test_nobody_at_the_mllp_port_is_tried_again(node: Node, real: Job):
    with node.outbox(node.settings(hl7_destination(free_port()))):
        wait_until(lambda: "MLLP at 127.0.0.1" in (node.job(real).last_error or ""), "message")
    assert "; is the receiver running, and are host and port right?" in str(node.job(real).last_error)
