"""FHIR R4 of a statement: one transaction that changes nothing when it is sent again. Pure.

Device (the algorithm), ImagingStudy (the images), an Observation for each finding and one for each of its measurements,
DiagnosticReport (preliminary, with the draft text) and Provenance. Each is created only if none with its identifier (or
tag) exists (R4 3.1.0.8.1). What of it replaces earlier results is in `fhir_replacement`.
"""

import re
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from pydicom.sr.coding import Code

from dicom_sr.findings import Finding, Likelihood, Measurement, Presence
from node.deliver.statement import LATERALITY, NO_UNITS, PRESENCE, Statement

SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
}
UCUM = "http://unitsofmeasure.org"
DICOM_UID = "urn:dicom:uid"
OVERREAD = "urn:ietf:rfc:3986"
_INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
_INTERPRETATIONS = {
    Presence.PRESENT: ("POS", "Positive"),
    Presence.ABSENT: ("NEG", "Negative"),
    Presence.INDETERMINATE: ("IND", "Indeterminate"),
}
TAG = "https://overread.dev/fhir/result"
_ISSUE_CODE = re.compile(r"[a-z]{1,20}(-[a-z]{1,20}){0,3}")
_MOST_ISSUES = 5


def build_bundle(statement: Statement, patient_system: str, accession_system: str) -> dict[str, Any]:
    """The transaction Bundle. `patient_system` and `accession_system` are the identifier systems of the site."""
    subject = patient_reference(statement.order.patient_id, patient_system)
    device = conditional_entry("Device", statement.device_uid, _device(statement))
    images = _imaging_study(statement, subject, accession_system)
    study = conditional_entry("ImagingStudy", statement.order.study_instance_uid, images)
    shared = {"subject": subject, "device": {"reference": device["fullUrl"]}, "study": {"reference": study["fullUrl"]}}
    observations = [
        one
        for number, finding in enumerate(statement.findings, start=1)
        for one in _observations(statement, number, finding, shared)
    ]
    written = _report(statement, shared, observations, accession_system)
    report = conditional_entry("DiagnosticReport", statement.identifier, written)
    provenance = _provenance(statement, [report, *observations], device)
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [device, study, *observations, report, provenance],
    }


def patient_reference(patient_id: str, system: str) -> dict[str, Any]:
    """A logical reference to the patient, as far as the images name one."""
    if not patient_id:
        return {"type": "Patient", "display": "no Patient ID in the images"}
    return {"type": "Patient", "identifier": _identifier(patient_id, system)}


def conditional_entry(kind: str, uid: str, resource: dict[str, Any]) -> dict[str, Any]:
    """A conditional create by the resource's own identifier."""
    identifier = {"system": DICOM_UID if kind == "ImagingStudy" else OVERREAD, "value": _urn(uid)}
    further = resource.pop("identifier", [])
    whole = without_empty({"resourceType": kind, "identifier": [identifier, *further], **resource})
    return {
        "fullUrl": f"urn:uuid:{uuid5(NAMESPACE_URL, f'{kind}/{uid}')}",
        "resource": whole,
        "request": {"method": "POST", "url": kind, "ifNoneExist": f"identifier={identifier['system']}|{_urn(uid)}"},
    }


def _device(statement: Statement) -> dict[str, Any]:
    algorithm = statement.algorithm
    return {
        "status": "active",
        "manufacturer": algorithm.manufacturer,
        "deviceName": [{"name": algorithm.name, "type": "model-name"}],
        "modelNumber": algorithm.identifier,
        "version": [{"value": algorithm.version}],
        "note": [{"text": algorithm.intended_use}] if algorithm.intended_use else [],
    }


def _imaging_study(statement: Statement, subject: dict[str, Any], accession_system: str) -> dict[str, Any]:
    accession = statement.order.accession_number
    return {
        "identifier": [_accession(accession, accession_system)] if accession else [],
        "status": "available",
        "subject": subject,
    }


def _observations(
    statement: Statement, number: int, finding: Finding, shared: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The Observation of a finding, and one for each of its measurements, which are its members."""
    measured = [
        conditional_entry(
            "Observation", f"{statement.identifier}.{number}.{position}", _measured(statement, finding, one, shared)
        )
        for position, one in enumerate(finding.measurements, start=1)
    ]
    found = _found(statement, finding, shared)
    found["hasMember"] = [{"reference": one["fullUrl"]} for one in measured]
    return [conditional_entry("Observation", f"{statement.identifier}.{number}.0", found), *measured]


def _found(statement: Statement, finding: Finding, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a finding is there, how likely, on which side, and what else is said of it."""
    interpretations = [_INTERPRETATIONS[finding.presence]]
    if finding.is_alarm:
        interpretations.append(("AA", "Critical abnormal"))
    components = [
        {"code": _concept(one.concept), "valueCodeableConcept": _concept(one.value)} for one in finding.qualifiers
    ]
    if finding.laterality is not None:
        components.insert(0, {"code": _concept(LATERALITY), "valueCodeableConcept": _concept(finding.laterality)})
    if finding.likelihood is not None:
        components.append(_likelihood(finding.likelihood))
    return {
        **_observation(statement, finding, shared),
        "code": {**_concept(finding.finding), "text": finding.tracking_identifier},
        "valueCodeableConcept": _concept(PRESENCE[finding.presence]),
        "interpretation": [_coded(_INTERPRETATION, code, words) for code, words in interpretations],
        "component": components,
    }


def _likelihood(score: Likelihood) -> dict[str, Any]:
    """A score from 0 to 1, and from where on it counts as present."""
    component: dict[str, Any] = {"code": _concept(score.meaning), "valueQuantity": _quantity(score.value, NO_UNITS)}
    if score.operating_point is not None:
        low = _quantity(score.operating_point, NO_UNITS)
        component["referenceRange"] = [{"low": low, "text": "counts as present from here on"}]
    return component


def _measured(
    statement: Statement, finding: Finding, measurement: Measurement, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """A number that was measured of a finding."""
    concept = measurement.concept
    return {
        **_observation(statement, finding, shared),
        "code": {**_concept(concept), "text": f"{finding.tracking_identifier}: {concept.meaning}"},
        "valueQuantity": _quantity(measurement.value, measurement.unit),
    }


def _observation(statement: Statement, finding: Finding, shared: Mapping[str, Any]) -> dict[str, Any]:
    """What all Observations have."""
    return {
        "status": "preliminary",
        "category": [_category("imaging", "Imaging")],
        "subject": shared["subject"],
        "effectiveDateTime": statement.created_at.isoformat(),
        "note": [{"text": statement.standing}],
        "bodySite": _concept(finding.finding_site) if finding.finding_site else None,
        "device": shared["device"],
        "derivedFrom": [shared["study"]],
    }


def without_empty(value: Any) -> Any:
    """FHIR has no empty elements: no text, list or object without content (R4 2.6.2)."""
    if isinstance(value, dict):
        kept = {name: without_empty(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each not in (None, "", [], {})}
    if isinstance(value, list):
        return [each for each in map(without_empty, value) if each not in (None, "", {})]
    return value


def _quantity(value: float, unit: Code) -> dict[str, Any]:
    return {"value": value, "unit": unit.meaning, "system": UCUM, "code": unit.value}


def _report(
    statement: Statement, shared: dict[str, Any], observations: list[dict[str, Any]], accession_system: str
) -> dict[str, Any]:
    accession = statement.order.accession_number
    based_on = [{"identifier": _accession(accession, accession_system), "type": "ServiceRequest"}] if accession else []
    return {
        "status": "preliminary",
        "basedOn": based_on,
        "category": [_coded("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": {
            "coding": [{"system": SYSTEMS["LN"], "code": "18748-4", "display": "Diagnostic imaging study"}],
            "text": statement.algorithm.name,
        },
        "subject": shared["subject"],
        "effectiveDateTime": statement.created_at.isoformat(),
        "issued": statement.created_at.isoformat(timespec="milliseconds"),
        "result": [{"reference": one["fullUrl"]} for one in observations],
        "imagingStudy": [shared["study"]],
        "conclusion": "\n".join(statement.impression),
    }


def _provenance(statement: Statement, targets: list[dict[str, Any]], device: dict[str, Any]) -> dict[str, Any]:
    """Provenance has no identifier: a tag stands for it."""
    code = statement.identifier
    return {
        "fullUrl": f"urn:uuid:{uuid5(NAMESPACE_URL, f'Provenance/{code}')}",
        "resource": {
            "resourceType": "Provenance",
            "meta": {"tag": [{"system": TAG, "code": code}]},
            "target": [{"reference": one["fullUrl"]} for one in targets],
            "recorded": statement.created_at.isoformat(timespec="milliseconds"),
            "agent": [{"who": {"reference": device["fullUrl"]}}],
        },
        "request": {"method": "POST", "url": "Provenance", "ifNoneExist": f"_tag={TAG}|{code}"},
    }


def read_issues(outcome: Any) -> list[str]:
    """Severity and code of the first issues of an OperationOutcome; its texts may quote a patient and are not read."""
    if not isinstance(outcome, dict) or outcome.get("resourceType") != "OperationOutcome":
        return []
    issues = outcome.get("issue")
    found = [one for one in issues if isinstance(one, dict)] if isinstance(issues, list) else []
    return [f"{_token(one.get('severity'))}: {_token(one.get('code'))}" for one in found[:_MOST_ISSUES]]


def _token(value: Any) -> str:
    """A code as FHIR has them for issues; whatever else stands there may quote a patient."""
    return value if isinstance(value, str) and _ISSUE_CODE.fullmatch(value) else "(no code)"


def _urn(uid: str) -> str:
    return f"urn:oid:{uid}"


def _identifier(value: str, system: str) -> dict[str, str]:
    return {"system": system, "value": value} if system else {"value": value}


def _accession(value: str, system: str) -> dict[str, Any]:
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
    return {"type": kind, **_identifier(value, system)}


def _concept(code: Any) -> dict[str, Any]:
    system = SYSTEMS.get(code.scheme_designator, f"urn:overread:{code.scheme_designator}")
    return {"coding": [{"system": system, "code": code.value, "display": code.meaning}]}


def _category(code: str, display: str) -> dict[str, Any]:
    return _coded("http://terminology.hl7.org/CodeSystem/observation-category", code, display)


def _coded(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}
