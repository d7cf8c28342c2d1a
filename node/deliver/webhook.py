"""Signed JSON about a result to a URL.

The signature is HMAC-SHA256 over ``<timestamp>.<body>``, the header ``X-Overread-Signature: t=<timestamp>,v1=<hex>``.
The timestamp (seconds) lets the receiver refuse old messages; ``X-Overread-Delivery`` is the same when sent again.
"""

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from dicom_sr.findings import Finding
from node.deliver.http import HttpPeer
from node.deliver.statement import Statement, read_statement
from node.deliver.transport import Check, Parcel, Receipt
from node.destination_settings import WebhookDestination
from node.errors import Permanent


class WebhookTransport:
    """One POST for each result; every status 2xx is success."""

    def __init__(self, destination: WebhookDestination, timeout_seconds: float, now: Callable[[], datetime]) -> None:
        self._destination = destination
        self._peer = HttpPeer(destination, timeout_seconds)
        self._now = now

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        statement = read_statement(parcel)
        body = json.dumps(describe(statement, parcel, self._destination.patient_fields)).encode("utf-8")
        headers = {
            "Content-Type": "application/json",
            "X-Overread-Delivery": statement.identifier,
            "X-Overread-Signature": sign(body, self._secret(), int(self._now().timestamp())),
        }
        answer = self._peer.request("POST", "", headers=headers, make_content=lambda: body)
        if not 200 <= answer.status_code < 300:
            raise self._peer.problem(answer, "the webhook", {})
        return Receipt(())

    def probe(self) -> None:
        self._peer.request("HEAD", "")

    def _secret(self) -> bytes:
        try:
            return self._destination.secret_file.read_bytes().strip()
        except OSError as error:
            raise Permanent(f"{self._peer.describe()}: secret_file cannot be read ({error.strerror})") from None


def sign(body: bytes, secret: bytes, timestamp: int) -> str:
    """Value of the signature header."""
    digest = hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def describe(statement: Statement, parcel: Parcel, patient_fields: tuple[str, ...]) -> dict[str, Any]:
    """The JSON; of the patient only the fields asked for."""
    return {
        "event": "result",
        "result": statement.identifier,
        "revision": statement.revision,
        "created_at": statement.created_at.isoformat(),
        "study_instance_uid": statement.order.study_instance_uid,
        "model": {"identifier": statement.algorithm.identifier, "version": statement.algorithm.version},
        "not_for_clinical_use": statement.not_for_clinical_use,
        "verified": False,
        "patient": {name: getattr(statement.order, name) for name in patient_fields},
        "findings": [_finding(finding) for finding in statement.findings],
        "objects": [
            {"sop_class_uid": one.sop_class_uid, "sop_instance_uid": one.sop_instance_uid}
            for one in parcel.result.objects
        ],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    """What was found, or was looked for and is not there; what is not known of it is null or empty."""
    score = finding.likelihood
    return {
        "name": finding.tracking_identifier,
        "finding": _code(finding.finding),
        "presence": finding.presence.value,
        "critical": finding.is_alarm,
        "site": _code(finding.finding_site) if finding.finding_site else None,
        "laterality": _code(finding.laterality) if finding.laterality else None,
        "likelihood": {"concept": _code(score.meaning), "value": score.value} if score else None,
        "answers": [{"concept": _code(one.concept), "value": _code(one.value)} for one in finding.qualifiers],
        "measurements": [
            {"concept": _code(m.concept), "value": m.value, "unit": m.unit.value} for m in finding.measurements
        ],
    }


def _code(code: Any) -> dict[str, str]:
    return {"value": code.value, "scheme": code.scheme_designator, "meaning": code.meaning}
