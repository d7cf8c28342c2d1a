"""FHIR R4: a server has one result that holds, in whatever order those of a study come."""

import json
import shutil
from dataclasses import replace
from itertools import permutations
from typing import Any

from fhir.resources.R4B.bundle import Bundle

from dicom_sr.archive import load_result, save_result
from node.deliver.fhir import build_bundle
from node.deliver.fhir_replacement import REPLACES, WITHDRAWN, replacing, withdraw
from node.deliver.statement import Statement
from node.destination_settings import FhirDestination
from node.jobs.job import Job
from node.jobs.queue import get_job
from node.settings import Settings
from node.store.database import read_transaction
from node.store.results import get_result
from node.store.tables import JobState
from tests.http_stub import Answer, HttpStub, Request
from tests.node.deliver.conftest import Node, add_real_result, requeued
from tests.node.deliver.test_fhir import FhirServer


def fhir_at(node: Node, url: str) -> Settings:
    return node.settings(FhirDestination(name="pacs", kind="fhir", url=url))


def with_identity_of_its_row(node: Node, job: Job, like: Job) -> Job:
    """The job, the Result of which is that of `like` with the input set, model and revision of its own row."""
    with read_transaction(node.engine) as connection:
        source = get_result(connection, like.result_id or 0)
        own = get_result(connection, job.result_id or 0)
        inputs = str(get_job(connection, own.job_id).input_digest)
    made = load_result(node.folder / source.folder)
    algorithm = replace(made.algorithm, identifier=own.model, digest=own.model_digest)
    made = replace(made, algorithm=algorithm, input_digest=inputs, revision=own.revision)
    save_result(made, node.folder / own.folder)
    return job


def first_result(node: Node) -> Job:
    job = add_real_result(node, "pacs")
    return with_identity_of_its_row(node, job, job)


def next_result(node: Node, earlier: Job, digest: str) -> Job:
    """The delivery of a result of the same study that replaces the one of `earlier`."""
    (job,) = node.add_result("pacs", study=earlier.study_instance_uid, digest=digest)
    return with_identity_of_its_row(node, job, earlier)


def deliver(node: Node, url: str, job: Job) -> Job:
    """Send a result, again if it was sent; the job once it has ended."""
    if node.job(job).state is JobState.SUCCEEDED:
        requeued(node, job)
    with node.outbox(fhir_at(node, url)):
        return node.wait_for_end(job)


def test_next_result_withdraws_the_one_before_and_says_that_it_replaces_it(node: Node):
    server = FhirServer()
    with HttpStub(server) as stub:
        first = first_result(node)
        deliver(node, stub.url, first)
        assert server.statuses("DiagnosticReport") == ["preliminary"]
        observations = len(server.statuses("Observation"))
        second = next_result(node, first, "d2")
        assert deliver(node, stub.url, second).last_error is None
        assert server.statuses("DiagnosticReport") == ["entered-in-error", "preliminary"]
        assert server.statuses("Observation") == ["entered-in-error"] * observations + ["preliminary"] * observations
        third = next_result(node, second, "d3")
        deliver(node, stub.url, third)
        assert server.statuses("DiagnosticReport") == ["entered-in-error"] * 2 + ["preliminary"]
        assert len(server.statuses("Device")) == len(server.statuses("ImagingStudy")) == 1
        before = dict(server.resources)
        deliver(node, stub.url, third)
        assert server.resources == before, "sending it again changes nothing"
    sent = [json.loads(request.content) for request in stub.requests]
    updated = [sum(entry["request"]["method"] == "PUT" for entry in one["entry"]) for one in sent]
    assert updated == [0] + [observations + 1] * 3, "what was withdrawn before is left alone"


def test_result_whose_answer_was_lost_is_withdrawn_and_one_that_was_never_sent_is_not(node: Node):
    server = FhirServer()
    first = first_result(node)
    unsent = next_result(node, first, "d2")
    last: list[Job] = []

    def answer(request: Request) -> Answer:
        """The first is taken, and the server dies before it says so; meanwhile the next results are there."""
        taken = server(request)
        if request.method == "POST" and not last:
            last.append(next_result(node, sent, "d4"))
            return 500, {}, b""
        return taken

    sent = next_result(node, unsent, "d3")
    with HttpStub(answer) as stub, node.outbox(fhir_at(node, stub.url)):
        node.wait_for_end(sent, JobState.CANCELLED)
        node.wait_for_end(last[0])
    assert [node.job(job).state for job in (first, unsent)] == [JobState.CANCELLED] * 2
    assert server.statuses("DiagnosticReport") == ["entered-in-error", "preliminary"]


def test_result_whose_files_are_gone_is_withdrawn_as_far_as_it_is_known(node: Node):
    server = FhirServer()
    with HttpStub(server) as stub:
        first = first_result(node)
        deliver(node, stub.url, first)
        second = next_result(node, first, "d2")
        with read_transaction(node.engine) as connection:
            shutil.rmtree(node.folder / get_result(connection, first.result_id or 0).folder)
        ended = deliver(node, stub.url, second)
    assert f"Observations of result {first.result_id} stay" in str(ended.last_error)
    assert server.statuses("DiagnosticReport") == ["entered-in-error", "preliminary"]


def reports(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    return [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "DiagnosticReport"]


def test_order_of_arrival_changes_nothing_of_what_holds(statement: Statement):
    """The third is sent while nothing is known of the second: both withdraw the first."""
    statements = [replace(statement, identifier=f"2.25.{number}", revision=number) for number in (1, 2, 3)]
    made = [build_bundle(one, "urn:oid:1.2.3", "urn:oid:1.2.4") for one in statements]
    gone = [withdraw(one) for one in made]
    sent = [made[0], replacing(made[1], [gone[0]]), replacing(made[2], [gone[1], gone[0]])]
    for order in permutations(sent):
        server = FhirServer()
        for bundle in (*order, *order):
            server.take(bundle)
        held = [one for one in server.resources.values() if one["resourceType"] == "DiagnosticReport"]
        (current,) = (one for one in held if one["status"] == "preliminary")
        assert current["identifier"][0]["value"] == "urn:oid:2.25.3"
        withdrawn = [one for one in held if one is not current]
        assert [one["status"] for one in withdrawn] == ["entered-in-error"] * 2
        assert all(one["conclusion"].startswith(WITHDRAWN) for one in withdrawn)
        assert server.statuses("Observation").count("preliminary") == len(made[2]["entry"]) - 4


def test_replacing_bundle_is_valid_and_names_what_it_replaces(statement: Statement):
    earlier = build_bundle(replace(statement, identifier="2.25.1"), "", "")
    algorithm = replace(statement.algorithm, version="2")
    later = replace(statement, identifier="2.25.2", algorithm=algorithm, device_uid="2.25.9")
    bundle = replacing(build_bundle(later, "", ""), [withdraw(earlier)])
    Bundle.model_validate(json.loads(json.dumps(bundle)))
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(urls) == len(set(urls)), "the ImagingStudy that both share stands in it once"
    assert sum(e["resource"]["resourceType"] == "Device" for e in bundle["entry"]) == 2
    old, new = reports(bundle)
    old_url = next(e["fullUrl"] for e in bundle["entry"] if e["resource"] is old)
    assert new["extension"] == [{"url": REPLACES, "valueReference": {"reference": old_url}}]
    assert (old["status"], new["status"]) == ("entered-in-error", "preliminary")
    provenance = bundle["entry"][-1]["resource"]
    assert provenance["entity"] == [{"role": "revision", "what": {"reference": old_url}}]
    assert replacing(earlier, []) is earlier
