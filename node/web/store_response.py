"""The answer to STOW-RS (PS3.18 10.5.3): HTTP status and Store Instances Response Module of the outcomes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from node.receive.admission import OUT_OF_RESOURCES

DICOM_JSON = "application/dicom+json"


@dataclass(frozen=True)
class Outcome:
    """What became of one part: status 0 is stored, any other goes into Failure Reason; UIDs are empty where the part
    has none that could be read."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str = ""
    size_bytes: int = 0
    status: int = 0
    code: str = ""
    study_instance_uid: str = ""


def http_status(outcomes: Sequence[Outcome]) -> int:
    """200 all stored, 202 some, 409 none (PS3.18 Table 10.5.3-1); where it was for want of room or because the
    database failed, 507 and 503: the same request may succeed later."""
    failed = [outcome for outcome in outcomes if outcome.status]
    if not failed:
        return 200
    if len(failed) < len(outcomes):
        return 202
    if any(outcome.status != OUT_OF_RESOURCES for outcome in failed):
        return 409
    return 507 if all(outcome.code == "disk-full" for outcome in failed) else 503


def response_module(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The module in the DICOM JSON model. Retrieve URL is empty: nothing can be retrieved here."""
    stored, failed, other = [], [], []
    for outcome in outcomes:
        if not outcome.status:
            stored.append({**_reference(outcome), "00081190": {"vr": "UR"}})
        elif outcome.sop_instance_uid:
            failed.append({**_reference(outcome), "00081197": {"vr": "US", "Value": [outcome.status]}})
        else:
            other.append({"00081197": {"vr": "US", "Value": [outcome.status]}})
    module: dict[str, Any] = {"00081190": {"vr": "UR"}}
    for tag, items in (("00081198", failed), ("00081199", stored), ("0008119A", other)):
        if items:
            module[tag] = {"vr": "SQ", "Value": items}
    return module


def warning(outcomes: Sequence[Outcome]) -> str:
    """Value of a Warning header (PS3.18 10.5.3.2) that says why objects were not stored; empty where all were."""
    codes = sorted({outcome.code for outcome in outcomes if outcome.status})
    if not codes:
        return ""
    failed = sum(1 for outcome in outcomes if outcome.status)
    return f'299 overread "{failed} of {len(outcomes)} objects were not stored: {", ".join(codes)}"'


def _reference(outcome: Outcome) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [outcome.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [outcome.sop_instance_uid]},
    }
