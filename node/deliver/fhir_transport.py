"""Results to a FHIR R4 server: one transaction for each."""

import json

from node.deliver.fhir import build_bundle, read_issues
from node.deliver.http import HttpPeer
from node.deliver.statement import read_statement
from node.deliver.transport import Check, NeverTaken, NotTaken, Parcel, Receipt
from node.destination_settings import FhirDestination

_FHIR_JSON = "application/fhir+json"


class FhirTransport:
    """POST of a transaction Bundle; sending it again changes nothing on the server."""

    def __init__(self, destination: FhirDestination, timeout_seconds: float) -> None:
        self._destination = destination
        self._peer = HttpPeer(destination, timeout_seconds)

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        destination = self._destination
        bundle = build_bundle(read_statement(parcel), destination.patient_system, destination.accession_system)
        body = json.dumps(bundle).encode("utf-8")
        headers = {"Content-Type": _FHIR_JSON, "Accept": _FHIR_JSON}
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
        raise NeverTaken(said) if isinstance(problem, NeverTaken) else NotTaken(said)

    def probe(self) -> None:
        self._peer.request("GET", "/metadata", headers={"Accept": _FHIR_JSON})
