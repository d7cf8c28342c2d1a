"""Results to a FHIR R4 server: one transaction for each."""

import json
from threading import Lock

from sqlalchemy import Engine

from node.deliver.fhir import build_bundle, read_issues
from node.deliver.fhir_replacement import Bundle, Entry, replacing, withdraw, withdraw_unread
from node.deliver.http import HttpPeer
from node.deliver.replaced import replaced_parcels, reservation
from node.deliver.statement import read_statement, statement_identifier
from node.deliver.transport import Check, NeverTaken, NotTaken, Parcel, Receipt
from node.destination_settings import FhirDestination
from node.errors import Permanent
from node.jobs.queue import get_job
from node.store.database import read_transaction

_FHIR_JSON = "application/fhir+json"
_CONFLICT = 409
"""Somebody else changed something at the same time (R4 3.1.0.11): it is tried again."""


class FhirTransport:
    """POST of a transaction Bundle; sending it again changes nothing on the server.

    One at a time, whatever `connections` says: of two transactions at once both may find that the Device or
    ImagingStudy they share is not there yet, and where a server has it twice, every later transaction is refused.
    """

    def __init__(self, engine: Engine, destination: FhirDestination, timeout_seconds: float) -> None:
        self._engine = engine
        self._destination = destination
        self._peer = HttpPeer(destination, timeout_seconds)
        self._one_at_a_time = Lock()

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        earlier, unsaid = self._withdrawn(parcel)
        body = json.dumps(replacing(self._bundle(parcel), earlier)).encode("utf-8")
        headers = {"Content-Type": _FHIR_JSON, "Accept": _FHIR_JSON}
        with self._one_at_a_time:
            answer = self._peer.request("POST", "", headers=headers, make_content=lambda: body)
        try:
            read = answer.json()
        except ValueError:
            read = None
        if answer.status_code == 200:
            if isinstance(read, dict) and read.get("resourceType") == "Bundle":
                return Receipt((), reservation=unsaid)
            raise NotTaken(f"{self._peer.describe()} answered something that is no Bundle: check url")
        problem = self._peer.problem(answer, "the transaction", {})
        issues = read_issues(read)
        said = f"{problem} ({'; '.join(issues)})" if issues else str(problem)
        is_final = isinstance(problem, NeverTaken) and answer.status_code != _CONFLICT
        raise NeverTaken(said) if is_final else NotTaken(said)

    def _bundle(self, parcel: Parcel) -> Bundle:
        destination = self._destination
        return build_bundle(read_statement(parcel), destination.patient_system, destination.accession_system)

    def _withdrawn(self, parcel: Parcel) -> tuple[list[list[Entry]], str | None]:
        """The entries of the results that this one replaces, and what the destination is not told of them."""
        entries, unread = [], []
        for one in replaced_parcels(self._engine, parcel):
            try:
                entries.append(withdraw(self._bundle(one)))
            except Permanent:
                entries.append(self._withdrawn_unread(one))
                unread.append(one)
        return entries, reservation(unread)

    def _withdrawn_unread(self, parcel: Parcel) -> list[Entry]:
        result = parcel.result
        with read_transaction(self._engine) as connection:
            inputs = str(get_job(connection, result.job_id).input_digest)
        identifier = statement_identifier(
            result.study_instance_uid, result.model, result.model_digest, inputs, result.revision
        )
        return withdraw_unread(identifier, result.model)

    def probe(self) -> None:
        self._peer.request("GET", "/metadata", headers={"Accept": _FHIR_JSON})
