"""FHIR R4: the bundle against the R4 models, and sending it to a server that keeps the rules of conditional create."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from fhir.resources.R4B.bundle import Bundle
from structlog.testing import capture_logs

from node.deliver.fhir import build_bundle, read_issues
from node.deliver.statement import Statement
from node.destination_settings import FhirDestination
from node.jobs.job import Job
from node.jobs.queue import requeue
from node.store.database import write_transaction
from node.store.tables import JobState
from tests.http_stub import Answer, HttpStub, Request
from tests.node.deliver.conftest import Node


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


class FhirServer:
    """Conditional creates by `ifNoneExist`, as R4 3.1.0.8.1 says; `faults` are answered first."""

    def __init__(self, faults: list[tuple[int, Any]] | None = None) -> None:
        self.faults = faults or []
        self.resources: dict[str, Any] = {}

    def __call__(self, request: Request) -> Answer:
        if request.method != "POST":
            return self._answer(200, {"resourceType": "CapabilityStatement"})
        if self.faults:
            return self._answer(*self.faults.pop(0))
        if request.headers["Content-Type"] != "application/fhir+json":
            return 415, {}, b""
        return self._answer(*self.take(json.loads(request.content)))

    def take(self, bundle: Any) -> tuple[int, Any]:
        Bundle.model_validate(bundle)
        answers = []
        for entry in bundle["entry"]:
            key = f"{entry['request']['url']}?{entry['request']['ifNoneExist']}"
            answers.append({"response": {"status": "200 OK" if key in self.resources else "201 Created"}})
            self.resources.setdefault(key, entry["resource"])
        return 200, {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}

    @staticmethod
    def _answer(status: int, value: Any) -> Answer:
        return status, {}, b"" if value is None else json.dumps(value).encode()


def test_fhir_server_has_each_resource_once_however_often_it_is_sent(node: Node, real: Job):
    server = FhirServer()
    with HttpStub(server) as stub, node.outbox(node.settings(FhirDestination(name="pacs", kind="fhir", url=stub.url))):
        node.wait_for_end(real)
        first = dict(server.resources)
        with write_transaction(node.engine) as connection:
            requeue(connection, real.job_id, datetime.now(UTC))
        node.wait_for_end(real)
        assert len(stub.requests) == 2 and server.resources == first


OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "business-rule", "diagnostics": "Canary^Carla is unknown"}],
}


def test_operation_outcome_is_read_without_its_texts(node: Node, real: Job):
    with (
        HttpStub(FhirServer([(500, None), (422, OUTCOME)])) as stub,
        capture_logs() as lines,
        node.outbox(node.settings(FhirDestination(name="pacs", kind="fhir", url=stub.url))),
    ):
        ended = node.wait_for_end(real, JobState.FAILED)
    assert "HTTP 422" in (ended.last_error or "") and "(error: business-rule)" in (ended.last_error or "")
    assert ended.attempt == 2 and "canary" not in json.dumps(lines, default=str).lower()
    assert read_issues({"resourceType": "Patient"}) == read_issues(None) == []
