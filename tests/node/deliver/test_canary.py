"""The canary patient goes every way out, to receivers that take everything and to careless ones that quote it; nothing
that this node writes about it for operators, collectors or recipients of notices may name it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from node.audit import FOLDER, open_trail
from node.deliver.outbox import Outbox
from node.deliver.side_lanes import side_lanes
from node.destination_settings import (
    CallbackDestination,
    DicomwebDestination,
    FhirDestination,
    FolderDestination,
    Hl7Destination,
    PinDestination,
    WebhookDestination,
)
from node.jobs.job import Job
from node.metrics import exposition, measure
from node.notice_settings import NoticeSettings, Recipient
from node.process_settings import ProcessSettings
from node.settings import AnyDestination, Destination, Settings
from node.store import tables
from node.store.database import read_transaction, write_transaction
from node.store.notices import list_notices, notice_history
from node.store.requests import ask
from node.store.tables import JobState, NoticeState
from tests.counterparts import LOOPBACK, wait_until
from tests.faulty_archive import Answer, FaultyArchive
from tests.http_stub import Answer as HttpAnswer
from tests.http_stub import HttpStub, Request
from tests.mllp_server import acknowledge, mllp_server
from tests.node.deliver.conftest import Node, add_real_result

CANARIES = ("canary", "carla")
QUOTE = (
    b'{"resourceType": "OperationOutcome", "x": "Canary^Carla",'
    b' "issue": [{"diagnostics": "Canary^Carla CANARY-77", "code": "Canary^Carla", "severity": ["CANARY-77"]}]}'
)


def quoting(status: int) -> HttpStub:
    def answer(request: Request) -> HttpAnswer:
        return status, {"Content-Type": "application/json", "X-Reason": "Canary^Carla"}, QUOTE

    return HttpStub(answer)


@contextmanager
def destinations(folder: Path, mood: str) -> Iterator[list[AnyDestination]]:
    """One of each kind; `mood` is what they do with what they get."""
    secret = folder / "secret"
    secret.write_text("s3cret")
    status = {"take": 200, "refuse": 400, "fail": 500}[mood]
    faults = {"take": [], "refuse": [Answer(0xC000)], "fail": [Answer(0xA700)] * 1000}[mood]
    answers = {"take": [], "refuse": [acknowledge("AR")], "fail": [acknowledge("AE")] * 1000}[mood]
    with ExitStack() as stack:
        archive = stack.enter_context(FaultyArchive(faults))
        port, _ = stack.enter_context(mllp_server(answers))
        urls = [stack.enter_context(quoting(status)).url for _ in range(4)]
        target = folder / f"out-{mood}"
        if mood == "take":
            target.mkdir()
        yield [
            Destination(name="dimse", ae_title="FAULTY", host=LOOPBACK, port=archive.port),
            DicomwebDestination(
                name="dicomweb", kind="dicomweb", url=urls[0], confirm="query", confirm_after_seconds=0
            ),
            FhirDestination(name="fhir", kind="fhir", url=urls[1]),
            WebhookDestination(name="webhook", kind="webhook", url=urls[2], secret_file=secret),
            Hl7Destination(name="hl7", kind="hl7", host=LOOPBACK, port=port),
            FolderDestination(name="folder", kind="folder", folder=target),
            PinDestination(name="pin", folder=target, partner_name="overread", service_name="brain"),
            CallbackDestination(name="callback", url=urls[3], client="PLATFORM", secret_file=secret),
        ]


def with_notices(settings: Settings, folder: Path, url: str) -> Settings:
    recipient = Recipient(name="pager", webhook=url, wait_minutes=0.001)
    notices = NoticeSettings(
        recipients=(recipient,), rounds=1, secret_file=str(folder / "secret"), retry_seconds=0.05, maximum_tries=2
    )
    return settings.model_copy(update={"notices": notices})


def asked_for(node: Node, *studies: str) -> ProcessSettings:
    """A platform has asked for these studies; those of which there is no image fail at once."""
    with write_transaction(node.engine) as connection:
        for study in studies:
            ask(connection, "PLATFORM", study, None, datetime.now(UTC))
    return ProcessSettings(enabled=True, image_wait_minutes=0.001)


def said_by(node: Node) -> str:
    """Everything in the database that operators are shown, and the audit trail."""
    shown = (
        tables.job,
        tables.job_event,
        tables.delivery,
        tables.destination_state,
        tables.notice,
        tables.notice_event,
        tables.process_request,
    )
    with read_transaction(node.engine) as connection:
        rows = [tuple(row) for table in shown for row in connection.execute(select(table))]
        notices = [notice_history(connection, one.notice_id) for one in list_notices(connection)]
        names = {row.destination for row in connection.execute(select(tables.job)) if row.destination}
        figures = exposition(measure(connection, sorted(names), 0, datetime.now(UTC)))
    trail = "".join(path.read_text() for path in (node.folder / FOLDER).glob("*.log"))
    return f"{rows} {notices} {trail} {figures}"


def was_answered(node: Node, job: Job) -> bool:
    """Whether an attempt has ended; some are tried again and again, whatever the mood."""
    now = node.job(job)
    return now.state is JobState.SUCCEEDED or bool(now.last_error)


@pytest.mark.parametrize("mood", ["take", "refuse", "fail"])
def test_patient_is_in_no_log_error_history_notice_or_audit_message(node: Node, mood: str):
    with (
        destinations(node.folder, mood) as places,
        quoting(200 if mood == "take" else 500) as pager,
        capture_logs() as log,
    ):
        names = [place.name for place in places]
        jobs = [add_real_result(node, name, critical=["Fracture"]) for name in names]
        process = asked_for(node, jobs[-1].study_instance_uid, "1.2.3")
        settings = with_notices(node.settings(*places), node.folder, pager.url).model_copy(update={"process": process})
        trail = open_trail(settings, "deliver")
        outbox = Outbox(
            node.engine,
            settings,
            node.folder / "run",
            trail=trail,
            further=side_lanes(node.engine, settings, trail),
        )
        with node.running(outbox):
            wait_until(lambda: all(was_answered(node, job) for job in jobs), "answers", 60)

            def settled() -> bool:
                with read_transaction(node.engine) as connection:
                    return all(one.state is not NoticeState.OPEN for one in list_notices(connection))

            wait_until(settled, "notices", 60)
            events = {"take": "failure_told"}.get(mood, "failure_not_told")
            wait_until(lambda: any(line["event"] == events for line in log), "platform", 60)
        told = b"".join(request.content for request in pager.requests)
    everything = f"{json.dumps(log, default=str)} {said_by(node)} {told.decode()}".lower()
    assert all(job.study_instance_uid in everything for job in jobs)
    for canary in CANARIES:
        assert canary not in everything
