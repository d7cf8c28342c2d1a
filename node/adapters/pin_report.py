"""The two JSON files that a platform of the Nuance PIN style collects: a FHIR DiagnosticReport and a manifest. Pure.

From public examples (MONAI Deploy App SDK, `integrations/nuance_pin`): the manifest's name, its `status`, and the
fields of an artifact; the name of the report; observations coded in ``http://nuancepowerscribe.com/saf``, each present,
indeterminate or absent, with a probability in percent. How the platform's own library arranges the DiagnosticReport is
not public; here it is plain R4 with contained resources.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.sr.coding import Code

from dicom_sr.findings import Finding, Presence
from node.deliver.fhir import SYSTEMS, UCUM, patient_reference, without_empty
from node.deliver.statement import Statement

OBSERVATION_SYSTEM = "http://nuancepowerscribe.com/saf"
COMPLETE = {"code": "ANALYSIS_COMPLETE", "text": "Study Processed Successfully"}
_INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
_PRESENCE = {
    Presence.PRESENT: ("POS", "Positive"),
    Presence.ABSENT: ("NEG", "Negative"),
    Presence.INDETERMINATE: ("IND", "Indeterminate"),
}


@dataclass(frozen=True)
class Artifact:
    """A file of the result."""

    name: str
    document_type: str
    series_instance_uid: str = ""
    tracking_uids: tuple[str, ...] = ()


def build_manifest(study_instance_uid: str, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """`resultManifest.json`: every file beside it, those with a series under their series."""
    series = dict.fromkeys(one.series_instance_uid for one in artifacts if one.series_instance_uid)
    return {
        "status": COMPLETE,
        "study": {
            "uid": study_instance_uid,
            "artifacts": [_entry(one) for one in artifacts if not one.series_instance_uid],
            "series": [
                {"uid": uid, "artifacts": [_entry(one) for one in artifacts if one.series_instance_uid == uid]}
                for uid in series
            ],
        },
    }


def build_report(statement: Statement, observation_codes: Mapping[str, str]) -> dict[str, Any]:
    """The DiagnosticReport; `observation_codes` maps ``<scheme> <value>`` of a finding to ``<code>^<text>``."""
    subject = patient_reference(statement.order.patient_id, "")
    observations = [
        _observation(finding, f"finding-{number}", subject, statement, observation_codes)
        for number, finding in enumerate(statement.findings, 1)
    ]
    study = {
        "resourceType": "ImagingStudy",
        "id": "study",
        "status": "available",
        "subject": subject,
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{statement.order.study_instance_uid}"}],
    }
    report = {
        "resourceType": "DiagnosticReport",
        "contained": [_device(statement), study, *observations],
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:oid:{statement.identifier}"}],
        "status": "preliminary",
        "code": {"coding": [{"system": SYSTEMS["LN"], "code": "18748-4", "display": "Diagnostic imaging study"}]},
        "subject": subject,
        "issued": statement.created_at.isoformat(timespec="milliseconds"),
        "imagingStudy": [{"reference": "#study"}],
        "result": [{"reference": f"#{one['id']}"} for one in observations],
        "conclusion": "\n".join(statement.impression),
    }
    return dict(without_empty(report))


def _observation(
    finding: Finding, name: str, subject: dict[str, Any], statement: Statement, codes: Mapping[str, str]
) -> dict[str, Any]:
    code, word = _PRESENCE[finding.presence]
    made = {
        "resourceType": "Observation",
        "id": name,
        "status": "preliminary",
        "code": {"coding": _codings(finding, codes), "text": finding.tracking_identifier},
        "subject": subject,
        "effectiveDateTime": statement.created_at.isoformat(),
        "device": {"reference": "#device"},
        "derivedFrom": [{"reference": "#study"}],
        "interpretation": [{"coding": [{"system": _INTERPRETATION, "code": code, "display": word}]}],
    }
    components: list[dict[str, Any]] = [
        {
            "code": {"text": one.concept.meaning},
            "valueQuantity": {"value": one.value, "unit": one.unit.meaning, "system": UCUM, "code": one.unit.value},
        }
        for one in finding.measurements
    ]
    if finding.laterality is not None:
        components.append(
            {"code": {"text": "Laterality"}, "valueCodeableConcept": {"coding": [_coding(finding.laterality)]}}
        )
    if finding.likelihood is not None:
        percent = {"value": round(100 * finding.likelihood.value, 2), "unit": "%", "system": UCUM, "code": "%"}
        components.append({"code": {"text": "Probability"}, "valueQuantity": percent})
    return {**made, "component": components} if components else made


def _codings(finding: Finding, codes: Mapping[str, str]) -> list[dict[str, str]]:
    """The platform's own code where it is mapped, and ours."""
    ours = finding.finding
    found = [_coding(ours)]
    if mapped := codes.get(f"{ours.scheme_designator} {ours.value}"):
        code, _, text = mapped.partition("^")
        found.insert(0, {"system": OBSERVATION_SYSTEM, "code": code, "display": text or ours.meaning})
    return found


def _coding(code: Code) -> dict[str, str]:
    system = SYSTEMS.get(code.scheme_designator, f"urn:overread:{code.scheme_designator}")
    return {"system": system, "code": code.value, "display": code.meaning}


def _device(statement: Statement) -> dict[str, Any]:
    algorithm = statement.algorithm
    return {
        "resourceType": "Device",
        "id": "device",
        "manufacturer": algorithm.manufacturer,
        "deviceName": [{"name": algorithm.name, "type": "model-name"}],
        "version": [{"value": algorithm.version}],
    }


def _entry(one: Artifact) -> dict[str, Any]:
    return {
        "documentType": one.document_type,
        "groupCode": "default",
        "name": one.name,
        "trackingUids": list(one.tracking_uids),
    }
