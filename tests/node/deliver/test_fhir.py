"""FHIR R4: the bundle against the R4 models, and sending it to a server that keeps the rules of conditional create."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event, Lock
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from pydicom.sr.coding import Code
from structlog.testing import capture_logs

from dicom_sr.findings import Finding, Likelihood, Presence, Qualifier
from node.deliver.fhir import build_bundle, read_issues
from node.deliver.statement import Statement
from node.destination_settings import FhirDestination
from node.jobs.job import Job
from node.jobs.queue import requeue
from node.store.database import write_transaction
from node.store.tables import JobState
from tests.http_stub import Answer, HttpStub, Request
from tests.node.deliver.conftest import Node, add_real_result


def test_bundle_is_valid_fhir_and_the_same_every_time(statement: Statement):
    bundle = build_bundle(statement, "urn:oid:1.2.3", "urn:oid:1.2.4")
    read = Bundle.model_validate(json.loads(json.dumps(bundle)))
    assert read.type == "transaction"
    assert bundle == build_bundle(statement, "urn:oid:1.2.3", "urn:oid:1.2.4")
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    observations = sum(1 + len(finding.measurements) for finding in statement.findings)
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


def test_findings_say_presence_side_score_and_that_they_are_critical(statement: Statement):
    certainty = Code("111012", "DCM", "Certainty of Finding")
    hemorrhage, left = Code("1386000", "SCT", "Intracranial hemorrhage"), Code("7771000", "SCT", "Left")
    findings = (
        Finding(
            hemorrhage,
            "Bleeding",
            finding_site=Code("12738006", "SCT", "Brain"),
            laterality=left,
            likelihood=Likelihood(0.9, certainty, 0.5),
            qualifiers=(Qualifier(Code("246112005", "SCT", "Severity"), Code("24484000", "SCT", "Severe")),),
            critical=True,
        ),
        Finding(hemorrhage, "Other", presence=Presence.ABSENT, likelihood=Likelihood(0.1, certainty)),
        Finding(hemorrhage, "Third", presence=Presence.INDETERMINATE),
    )
    bundle = build_bundle(replace(statement, findings=findings), "", "")
    Bundle.model_validate(json.loads(json.dumps(bundle)))
    made = [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == "Observation"]
    assert [one["valueCodeableConcept"]["coding"][0]["display"] for one in made] == [
        "Present",
        "Absent",
        "Indeterminate",
    ]
    assert [[each["coding"][0]["code"] for each in one["interpretation"]] for one in made] == [
        ["POS", "AA"],
        ["NEG"],
        ["IND"],
    ]
    side, severity, score = made[0]["component"]
    assert side["code"]["coding"][0]["code"] == "272741003" and side["valueCodeableConcept"]["coding"][0] == {
        "system": "http://snomed.info/sct",
        "code": "7771000",
        "display": "Left",
    }
    assert severity["valueCodeableConcept"]["coding"][0]["code"] == "24484000"
    assert (score["valueQuantity"]["value"], score["referenceRange"][0]["low"]["value"]) == (0.9, 0.5)
    assert made[0]["bodySite"]["coding"][0]["display"] == "Brain" and "bodySite" not in made[1]
    assert made[1]["component"][0]["valueQuantity"]["value"] == 0.1 and "component" not in made[2]
    assert all(one["note"][0]["text"].startswith("Not for clinical use.") for one in made)


def test_what_images_or_model_do_not_say_is_left_out_of_every_resource(statement: Statement):
    """FHIR has no empty elements (R4 2.6.2): strict servers refuse the whole transaction for one."""
    order = replace(statement.order, patient_id="", accession_number="")
    algorithm = replace(statement.algorithm, intended_use="")
    bundle = build_bundle(replace(statement, order=order, algorithm=algorithm, findings=()), "urn:oid:1.2.3", "")
    Bundle.model_validate(json.loads(json.dumps(bundle)))

    def values(value: Any) -> Iterator[Any]:
        yield value
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from values(each)

    assert not [one for one in values(bundle) if one in ("", [], {}, None)]
    subjects = [entry["resource"]["subject"] for entry in bundle["entry"] if "subject" in entry["resource"]]
    assert subjects == [{"type": "Patient", "display": "no Patient ID in the images"}] * 2


class FhirServer:
    """Conditional creates by `ifNoneExist`, as R4 3.1.0.8.1 says, and conditional updates (3.1.0.4.3); `faults` are
    answered first."""

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
            request = entry["request"]
            key = request["url"] if request["method"] == "PUT" else f"{request['url']}?{request['ifNoneExist']}"
            answers.append({"response": {"status": "200 OK" if key in self.resources else "201 Created"}})
            if request["method"] == "PUT":
                self.resources[key] = entry["resource"]
            else:
                self.resources.setdefault(key, entry["resource"])
        return 200, {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}

    def statuses(self, kind: str) -> list[str]:
        """Of the resources of this kind, in the order in which they were made."""
        return [one["status"] for one in self.resources.values() if one["resourceType"] == kind]

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


def test_transactions_that_share_resources_go_one_after_the_other(node: Node):
    """A server that looks first and writes later, as many do: at once it would make the Device twice."""
    jobs = [add_real_result(node, "pacs", critical=["Bleeding"] if number else ()) for number in range(3)]
    at_once, most = 0, 0
    lock = Lock()
    server = FhirServer()

    def answer(request: Request) -> Answer:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            Event().wait(0.1)
            return server(request)
        finally:
            with lock:
                at_once -= 1

    with HttpStub(answer) as stub:
        destination = FhirDestination(name="pacs", kind="fhir", url=stub.url, connections=3)
        with node.outbox(node.settings(destination)):
            for job in jobs:
                node.wait_for_end(job)
    assert most == 1


OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "business-rule", "diagnostics": "Canary^Carla is unknown"}],
}


def test_operation_outcome_is_read_without_its_texts(node: Node, real: Job):
    with (
        HttpStub(FhirServer([(500, None), (409, None), (422, OUTCOME)])) as stub,
        capture_logs() as lines,
        node.outbox(node.settings(FhirDestination(name="pacs", kind="fhir", url=stub.url))),
    ):
        ended = node.wait_for_end(real, JobState.FAILED)
    assert "HTTP 422" in (ended.last_error or "") and "(error: business-rule)" in (ended.last_error or "")
    assert ended.attempt == 3 and "canary" not in json.dumps(lines, default=str).lower()
    assert read_issues({"resourceType": "Patient"}) == read_issues(None) == []


@pytest.mark.parametrize("issues", [None, 7, "Canary", {"severity": "error"}, [None, 7, []]])
def test_outcome_of_any_shape_is_read(issues: Any):
    assert read_issues({"resourceType": "OperationOutcome", "issue": issues}) == []


def test_what_is_no_code_of_an_issue_is_not_repeated():
    strange = {"severity": "error", "code": "Canary^Carla"}
    said = read_issues({"resourceType": "OperationOutcome", "issue": [strange, {"code": ["x"]}, *[strange] * 100]})
    assert said[:2] == ["error: (no code)", "(no code): (no code)"] and len(said) == 5
