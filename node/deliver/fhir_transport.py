"""Results to a FHIR R4 server: one transaction for each."""

import json
from threading import Lock

from node.deliver.fhir import build_bundle, read_issues
from node.deliver.http import HttpPeer
from node.deliver.statement import read_statement
from node.deliver.transport import Check, NeverTaken, NotTaken, Parcel, Receipt
from node.destination_settings import FhirDestination

_FHIR_JSON = "application/fhir+json"
_CONFLICT = 409
"""Somebody else changed something at the same time (R4 3.1.0.11): it is tried again."""


class FhirTransport:
    """POST of a transaction Bundle; sending it again changes nothing on the server.

    One at a time, whatever `connections` says: of two transactions at once both may find that the Device or
    ImagingStudy they share is not there yet, and where a server has it twice, every later transaction is refused.
    """

    def __init__(self, destination: FhirDestination, timeout_seconds: float) -> None:
        self._destination = destination
        self._peer = HttpPeer(destination, timeout_seconds)
        self._one_at_a_time = Lock()

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        destination = self._destination
        bundle = build_bundle(read_statement(parcel), destination.patient_system, destination.accession_system)
        body = json.dumps(bundle).encode("utf-8")
        headers = {"Content-Type": _FHIR_JSON, "Accept": _FHIR_JSON}
        with self._one_at_a_time:
            answer = self._peer.request("POST", "", headers=headers, make_content=lambda: body)
        try:
            read = answer.json()
        except ValueError:
            read = None
        if answer.status_code == 200:
            if isinstance(read, dict) and read.get("resourceType") == "Bundle":
                return Receipt(())
            raise NotTaken(f"{self._peer.describe()} answered something that is no Bundle: check url")
        problem = self._peer.problem(answer, "the transaction", {})
        issues = read_issues(read)
        said = f"{problem} ({'; '.join(issues)})" if issues else str(problem)
        is_final = isinstance(problem, NeverTaken) and answer.status_code != _CONFLICT
        raise NeverTaken(said) if is_final else NotTaken(said)

    def probe(self) -> None:
        self._peer.request("GET", "/metadata", headers={"Accept": _FHIR_JSON})
