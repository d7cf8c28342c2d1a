"""Signed JSON about a result to a URL.

The signature is HMAC-SHA256 over ``<timestamp>.<body>``, the header ``X-Overread-Signature: t=<timestamp>,v1=<hex>``.
The timestamp (seconds) lets the receiver refuse old messages; ``X-Overread-Delivery`` is the same when sent again.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from dicom_sr.findings import Finding
from node.deliver.http import HttpPeer, read_secret
from node.deliver.statement import Statement, read_statement
from node.deliver.transport import Check, Parcel, Receipt
from node.destination_settings import HttpDestination, WebhookDestination
from node.jobs.history import deliveries_of_result
from node.store.database import read_transaction
from node.store.deliveries import AcceptedObject, deliveries_of
from node.store.tables import JobState

_STATES = {
    JobState.QUEUED: "waiting",
    JobState.RUNNING: "waiting",
    JobState.SUCCEEDED: "delivered",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}
"""How far a delivery is that no destination has acknowledged, in the words of the JSON."""


class WebhookTransport:
    """One POST for each result; every status 2xx is success."""

    def __init__(
        self,
        engine: Engine,
        destination: WebhookDestination,
        timeout_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._destination = destination
        self._post = SignedPost(destination, destination.secret_file, timeout_seconds, now)

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        statement = read_statement(parcel)
        whereabouts = read_whereabouts(self._engine, parcel)
        said = {"event": "result", **describe(statement, whereabouts, self._destination.patient_fields)}
        self._post.send(said, statement.identifier, "the webhook")
        return Receipt(())

    def probe(self) -> None:
        self._post.probe()


class SignedPost:
    """Posts signed JSON to a destination."""

    def __init__(
        self, destination: HttpDestination, secret_file: Path, timeout_seconds: float, now: Callable[[], datetime]
    ) -> None:
        self._peer = HttpPeer(destination, timeout_seconds)
        self._secret_file = secret_file
        self._now = now

    def send(self, said: Mapping[str, Any], identifier: str, what: str) -> None:
        """Post it until it is acknowledged with 2xx; `identifier` is the same when it is sent again.

        Raises
        ------
        Transient, Permanent
            It was not; `what` names the receiver in the message.
        """
        body = json.dumps(said).encode("utf-8")
        who = f"{self._peer.describe()}: secret_file"
        headers = {
            "Content-Type": "application/json",
            "X-Overread-Delivery": identifier,
            "X-Overread-Signature": sign(body, read_secret(self._secret_file, who), int(self._now().timestamp())),
        }
        answer = self._peer.request("POST", "", headers=headers, make_content=lambda: body)
        if not 200 <= answer.status_code < 300:
            raise self._peer.problem(answer, what, {})

    def probe(self) -> None:
        """Raise `Transient` unless the destination answers at all."""
        self._peer.request("HEAD", "")


def sign(body: bytes, secret: bytes, timestamp: int) -> str:
    """Value of the signature header."""
    digest = hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


@dataclass(frozen=True)
class Whereabouts:
    """How far a result has come to a destination, and which DICOM objects that took: those of the form in which it was
    sent there, which has UIDs of its own."""

    destination: str
    state: str
    objects: tuple[AcceptedObject, ...] = ()


def read_whereabouts(engine: Engine, parcel: Parcel) -> tuple[Whereabouts, ...]:
    """How far a result has come to each of its other destinations."""
    result_id = parcel.result.result_id
    with read_transaction(engine) as connection:
        jobs = deliveries_of_result(connection, result_id)
        taken = deliveries_of(connection, [job.job_id for job in jobs])
    found = []
    for job in jobs:
        delivery = taken.get(job.job_id)
        if job.job_id == parcel.job.job_id:
            continue
        if delivery is not None and job.state is JobState.SUCCEEDED:
            found.append(Whereabouts(job.destination or "", delivery.state.lower(), delivery.objects))
        else:
            found.append(Whereabouts(job.destination or "", _STATES[job.state]))
    return tuple(found)


def describe(
    statement: Statement, whereabouts: Sequence[Whereabouts], patient_fields: tuple[str, ...]
) -> dict[str, Any]:
    """The JSON; of the patient only the fields asked for."""
    return {
        "result": statement.identifier,
        "revision": statement.revision,
        "created_at": statement.created_at.isoformat(),
        "study_instance_uid": statement.order.study_instance_uid,
        "model": {"identifier": statement.algorithm.identifier, "version": statement.algorithm.version},
        "not_for_clinical_use": statement.not_for_clinical_use,
        "verified": False,
        "patient": {name: getattr(statement.order, name) for name in patient_fields},
        "findings": [_finding(finding) for finding in statement.findings],
        "deliveries": [
            {
                "destination": one.destination,
                "state": one.state,
                "objects": [
                    {"sop_class_uid": each.sop_class_uid, "sop_instance_uid": each.sop_instance_uid}
                    for each in one.objects
                ],
            }
            for one in whereabouts
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
