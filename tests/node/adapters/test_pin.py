"""Results as a platform of the Nuance PIN style collects them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from pydicom import dcmread
from pydicom.sr.coding import Code

from dicom_sr.findings import Finding, Likelihood, Presence
from node.adapters.pin_report import Artifact, build_manifest, build_report
from node.deliver.statement import Statement
from node.destination_settings import PinDestination
from node.jobs.job import Job
from tests.counterparts import wait_until
from tests.node.deliver.conftest import Node, node, real, requeued, statement  # noqa: F401

GSPS = "1.2.840.10008.5.1.4.1.1.11.1"


def pin(folder: Path) -> PinDestination:
    return PinDestination(
        name="pacs",
        kind="pin",
        folder=folder,
        partner_name="overread",
        service_name="brain",
        observation_codes={"SCT 12738006": "RID6434^Brain"},
    )


def test_folder_holds_gsps_report_and_a_manifest_that_names_every_file(
    tmp_path: Path,
    node: Node,  # noqa: F811
    real: Job,  # noqa: F811
):
    out = tmp_path / "out"
    with node.outbox(node.settings(pin(out))):
        wait_until(lambda: "is it mounted" in (node.job(real).last_error or ""), "message")
        out.mkdir()
        node.wait_for_end(real)
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
        requeued(node, real)
        node.wait_for_end(real)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (manifest,) = out.glob(f"{real.study_instance_uid}/*/resultManifest.json")
    read = json.loads(manifest.read_text())
    assert read["status"] == {"code": "ANALYSIS_COMPLETE", "text": "Study Processed Successfully"}
    named = [one for level in (read["study"], *read["study"]["series"]) for one in level["artifacts"]]
    assert {one["name"] for one in named} == {path.name for path in manifest.parent.iterdir()} - {manifest.name}
    images = [dcmread(manifest.parent / one["name"]) for one in named if one["documentType"] == "application/dicom"]
    assert images and {str(image.SOPClassUID) for image in images} == {GSPS}
    assert {series["uid"] for series in read["study"]["series"]} == {str(image.SeriesInstanceUID) for image in images}
    report = json.loads((manifest.parent / "overread-brain-FHIR.json").read_text())
    assert DiagnosticReport.model_validate(report).status == "preliminary"


def test_observations_carry_the_platforms_codes_presence_and_probability(statement: Statement):  # noqa: F811
    finding = Finding(
        Code("1386000", "SCT", "Intracranial hemorrhage"),
        "Bleeding",
        laterality=Code("7771000", "SCT", "Left"),
        presence=Presence.INDETERMINATE,
        likelihood=Likelihood(0.4567, Code("111012", "DCM", "Certainty of Finding")),
    )
    report = build_report(replace(statement, findings=(finding,)), {"SCT 1386000": "RID4700"})
    DiagnosticReport.model_validate(json.loads(json.dumps(report)))
    (observation,) = [one for one in report["contained"] if one["resourceType"] == "Observation"]
    assert observation["code"]["coding"][0] == {
        "system": "http://nuancepowerscribe.com/saf",
        "code": "RID4700",
        "display": "Intracranial hemorrhage",
    }
    assert observation["interpretation"][0]["coding"][0]["code"] == "IND"
    assert observation["component"][0]["valueCodeableConcept"]["coding"][0]["display"] == "Left"
    assert observation["component"][-1]["valueQuantity"]["value"] == pytest.approx(45.67)
    assert build_report(replace(statement, findings=(finding,)), {})["contained"][-1]["code"]["coding"][0]["code"] == (
        "1386000"
    )


def test_manifest_has_the_fields_of_the_public_example():
    made = build_manifest(
        "1.2", [Artifact("gsps.dcm", "application/dicom", "1.2.3"), Artifact("r.json", "application/json")]
    )
    assert made["study"] == {
        "uid": "1.2",
        "artifacts": [
            {"documentType": "application/json", "groupCode": "default", "name": "r.json", "trackingUids": []}
        ],
        "series": [
            {
                "uid": "1.2.3",
                "artifacts": [
                    {
                        "documentType": "application/dicom",
                        "groupCode": "default",
                        "name": "gsps.dcm",
                        "trackingUids": [],
                    }
                ],
            }
        ],
    }
