"""Results to a RIS, reporting system or EHR: ORU^R01 over MLLP (HL7 v2 Transport, release 1), with TLS if wanted."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine

from dicom_sr.profile import DestinationProfile, Role
from node.deliver import oru
from node.deliver.line import Line, LineLost, Patience, TlsFailed, connect
from node.deliver.oru_template import load_template
from node.deliver.replaced import replaced_parcels, reservation
from node.deliver.rerender import objects_in_profile
from node.deliver.statement import Statement, read_documents, read_statement
from node.deliver.tls import client_tls
from node.deliver.transport import Check, NeverTaken, NotTaken, Parcel, Receipt, Unreachable
from node.destination_settings import Hl7Destination
from node.errors import Permanent

_START, _END = b"\x0b", b"\x1c\r"
_LONGEST_ANSWER_BYTES = 1 << 20
_PROBE_SECONDS = 5.0
DOCUMENT_PROFILE = DestinationProfile("document", roles=(Role.DOCUMENT,))


class Hl7Transport:
    """One connection and one message for each result; it has arrived when it is acknowledged."""

    def __init__(
        self, engine: Engine, destination: Hl7Destination, timeout_seconds: float, now: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._destination = destination
        self._timeout_seconds = timeout_seconds
        self._now = now
        self._names = oru.Names(
            sending_application=destination.sending_application,
            sending_facility=destination.sending_facility,
            receiving_application=destination.receiving_application,
            receiving_facility=destination.receiving_facility,
        )
        self._template = load_template(destination.template)

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        statement = read_statement(parcel, self._documents(parcel))
        earlier, unsaid = self._replaced(parcel)
        message = oru.encode_oru(statement, self._names, self._template, self._now(), earlier)
        line = self._connect(Patience(self._timeout_seconds, check))
        try:
            line.send(_START + message.encode("utf-8") + _END)
            answer = oru.read_acknowledgement(_receive_block(line))
        except LineLost as error:
            raise NotTaken(f"{self._describe()}: {error}, before the message was acknowledged") from None
        finally:
            line.close()
        if answer is None:
            raise NotTaken(f"{self._describe()} answered something that is no acknowledgement")
        if answer.control_id != oru.control_id(statement):
            raise NotTaken(f"{self._describe()} acknowledged another message")
        if answer.is_rejected:
            raise NeverTaken(
                f"{self._describe()} rejected the message ({answer.code}): its log says more about control ID "
                f"{answer.control_id}; mend the cause, then retry the job"
            )
        if not answer.is_taken:
            raise NotTaken(f"{self._describe()} answered {answer.code} to control ID {answer.control_id}")
        return Receipt((), reservation=unsaid)

    def _replaced(self, parcel: Parcel) -> tuple[list[Statement], str | None]:
        """The results that this one replaces, and what the destination is not told of them; none where the template
        deletes nothing."""
        if not self._template.deletes:
            return [], None
        statements, unread = [], []
        for one in replaced_parcels(self._engine, parcel):
            try:
                # What an earlier document said is of no interest, only that there may have been one.
                statements.append(read_statement(one, documents=(b"",)))
            except Permanent:
                unread.append(one)
        return statements, reservation(unread)

    def _documents(self, parcel: Parcel) -> tuple[bytes, ...]:
        """PDFs of the result, made only where the template has a place for them."""
        if not self._template.wants("document"):
            return ()
        return read_documents(parcel.data_dir, objects_in_profile(self._engine, parcel, DOCUMENT_PROFILE))

    def probe(self) -> None:
        self._connect(Patience(min(self._timeout_seconds, _PROBE_SECONDS))).close()

    def _connect(self, patience: Patience) -> Line:
        destination = self._destination
        tls = client_tls(destination.tls, destination.host, destination.name) if destination.tls else None
        try:
            return connect(destination.host, destination.port, patience, tls)
        except TlsFailed as error:
            raise Unreachable(f"{self._describe()}: {error}") from None
        except LineLost as error:
            question = "is the receiver running, and are host and port right?"
            raise Unreachable(f"{self._describe()}: {error}; {question}") from None

    def _describe(self) -> str:
        destination = self._destination
        return f"destination {destination.name!r} (MLLP at {destination.host}:{destination.port})"


def _receive_block(line: Line) -> bytes:
    """The content of one block (HL7 v2 Transport, MLLP 2.2)."""
    received = bytearray()
    by = line.answer_by()
    while not received.endswith(_END):
        received += line.receive(1, by)
        if len(received) > _LONGEST_ANSWER_BYTES:
            raise LineLost("an answer without an end")
    return bytes(received[received.find(_START) + 1 : -2])
