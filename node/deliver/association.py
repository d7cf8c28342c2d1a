"""An association that this node requests (PS3.8 7): one message out, one answer in, until release."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO

from node.deliver import dimse, upper_layer
from node.deliver.line import Check, Line, LineLost, Patience, TlsFailed, connect
from node.deliver.part10 import Part10File
from node.deliver.tls import client_tls
from node.deliver.transport import Unreachable
from node.deliver.upper_layer import MalformedPdu, PduType, ProposedContext
from node.errors import Permanent, Transient
from node.settings import Destination

_BATCH_BYTES = 262144  # of encoded PDUs handed to the system at once
_LONGEST_PDU_BYTES = 1 << 20
_LONGEST_MESSAGE_BYTES = 1 << 24
_MOST_MATCHES = 1000  # of a query for one object: an archive that looks at some keys only answers with its series
_MOST_TIMEOUTS_OF_A_QUERY = 10
_RELEASE_SECONDS = 5.0
_PERMANENT_REJECTIONS = {(1, 2), (1, 3), (1, 7), (2, 2)}  # source, reason: PS3.8 Table 9-21


def describe(destination: Destination) -> str:
    """How messages name a destination, so that an administrator finds it."""
    return f"destination {destination.name!r} ({destination.ae_title} at {destination.host}:{destination.port})"


@contextmanager
def associate(
    destination: Destination,
    calling_ae_title: str,
    contexts: Sequence[ProposedContext],
    patience: Patience,
    scp_of: Sequence[str] = (),
) -> Iterator["Association"]:
    """An established association, released at the end and aborted when the block raises. We are SCU but for the SOP
    classes in `scp_of`.

    Raises
    ------
    Transient
        No connection, no answer, or a rejection that may pass.
    Permanent
        The peer does not know one of the AE titles, or speaks another protocol.
    """
    peer = describe(destination)
    try:
        request = upper_layer.encode_associate_request(destination.ae_title, calling_ae_title, contexts, scp_of)
    except UnicodeEncodeError:
        raise Permanent(f"{peer}: an AE title has characters outside ASCII; correct the configuration") from None
    tls = client_tls(destination.tls, destination.host, destination.name) if destination.tls else None
    try:
        line = connect(destination.host, destination.port, patience, tls)
    except TlsFailed as error:
        raise Unreachable(f"{peer}: {error}; see docs/destinations.md, TLS") from None
    except LineLost as error:
        raise Unreachable(f"{peer}: {error}; is the archive running, and are host and port right?") from None
    try:
        association = _negotiate(line, peer, calling_ae_title, request, contexts)
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        association.release()
    finally:
        line.close()


class Association:
    """An established association; made by `associate`.

    Attributes
    ----------
    peer : str
        The destination in words.
    accepted : dict
        Identifier of each accepted context, by (SOP Class UID, Transfer Syntax UID).
    refused : dict
        Result of each refused context (PS3.8 Table 9-18), by the same key.
    """

    def __init__(
        self,
        line: Line,
        peer: str,
        contexts: Sequence[ProposedContext],
        answer: upper_layer.AssociateAccept,
    ) -> None:
        self.peer = peer
        self.accepted: dict[tuple[str, str], int] = {}
        self.refused: dict[tuple[str, str], int] = {}
        for context in contexts:
            key = (context.abstract_syntax_uid, context.transfer_syntax_uid)
            result = answer.results.get(context.context_id, 2)
            if result == 0:
                self.accepted[key] = context.context_id
            else:
                self.refused[key] = result
        self._line = line
        self._fragment_bytes = upper_layer.fragment_bytes(answer.maximum_length)
        self._message_id = 0

    def echo(self) -> int:
        """C-ECHO on the only context; the status of the answer."""
        context = next(iter(self.accepted.values()))
        with self._guarded("during C-ECHO"):
            self._send_command(context, dimse.echo_request(self._next_message_id()))
            return self._receive_response(dimse.C_ECHO_RSP).status

    def store(self, source: Part10File) -> dimse.Response:
        """C-STORE of a file's data set, byte for byte.

        The context of the file's SOP class and transfer syntax must be among `accepted`.
        """
        context = self.accepted[(source.sop_class_uid, source.transfer_syntax_uid)]
        with (
            self._guarded(f"while {source.sop_instance_uid} was sent"),
            source.path.open("rb", buffering=0) as stream,
        ):
            stream.seek(source.data_set_offset)
            request = dimse.store_request(self._next_message_id(), source.sop_class_uid, source.sop_instance_uid)
            self._send_command(context, request)
            self._send_data_set(context, stream, source.data_set_bytes)
            return self._receive_response(dimse.C_STORE_RSP)

    def find(self, sop_class_uid: str, syntax_uid: str, identifier: bytes) -> tuple[int, list[bytes]]:
        """C-FIND: the last status, and the identifiers of all matches (PS3.7 9.1.2)."""
        context = self.accepted[(sop_class_uid, syntax_uid)]
        matches: list[bytes] = []
        with self._guarded("during C-FIND"):
            self._send_command(context, dimse.find_request(self._next_message_id(), sop_class_uid))
            self._send_small_data_set(context, identifier)
            by = self._line.answer_by(_MOST_TIMEOUTS_OF_A_QUERY)
            while len(matches) < _MOST_MATCHES:
                answer = self._receive_answer(dimse.C_FIND_RSP, by)
                if answer.status not in (0xFF00, 0xFF01):
                    return answer.status, matches
                matches.append(answer.data_set or b"")
            raise MalformedPdu(f"more than {_MOST_MATCHES} matches")

    def action(
        self, sop_class_uid: str, syntax_uid: str, sop_instance_uid: str, action_type: int, information: bytes
    ) -> tuple[int, list[bytes]]:
        """N-ACTION: its status, and the event information of reports that came before its response."""
        context = self.accepted[(sop_class_uid, syntax_uid)]
        reports: list[bytes] = []
        with self._guarded("during N-ACTION"):
            request = dimse.action_request(self._next_message_id(), sop_class_uid, sop_instance_uid, action_type)
            self._send_command(context, request)
            self._send_small_data_set(context, information)
            by = self._line.answer_by()
            while True:
                message = self._receive_message(by)
                if message.field == dimse.N_EVENT_REPORT_RQ:
                    reports.append(self._answer_report(message))
                elif (message.field, message.message_id) == (dimse.N_ACTION_RSP, self._message_id):
                    return message.status, reports
                else:
                    raise MalformedPdu("a response to something else than the last request")

    def event_report(
        self, sop_class_uid: str, syntax_uid: str, sop_instance_uid: str, event_type: int, information: bytes
    ) -> int:
        """N-EVENT-REPORT: the status of the answer."""
        context = self.accepted[(sop_class_uid, syntax_uid)]
        with self._guarded("during N-EVENT-REPORT"):
            request = dimse.event_report_request(self._next_message_id(), sop_class_uid, sop_instance_uid, event_type)
            self._send_command(context, request)
            self._send_small_data_set(context, information)
            return self._receive_response(dimse.N_EVENT_REPORT_RSP).status

    def wait_for_report(self, seconds: float, check: Check) -> bytes | None:
        """The event information of an N-EVENT-REPORT, answered; None when none came. Only `release` may follow."""
        self._line.shorten(seconds, check)
        try:
            message = self._receive_message()
            if message.field == dimse.N_EVENT_REPORT_RQ:
                return self._answer_report(message)
        except (LineLost, MalformedPdu, dimse.MalformedCommand):
            pass
        return None

    def release(self) -> None:
        """Release in order. All was answered before: nothing is lost if the peer does not care."""
        self._line.shorten(_RELEASE_SECONDS)
        with contextlib.suppress(LineLost, MalformedPdu):
            self._line.send(upper_layer.encode_release_request())
            by = self._line.answer_by(times=1)
            while _read_pdu(self._line, by)[0] != PduType.RELEASE_RP:
                pass

    def abort(self) -> None:
        """Tell the peer that the association ends here."""
        self._line.shorten(0)
        with contextlib.suppress(LineLost):
            self._line.send(upper_layer.encode_abort())

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _send_command(self, context_id: int, command: bytes) -> None:
        header = upper_layer.DATA_HEADER.pack(PduType.DATA, len(command) + 6, len(command) + 2, context_id, 0b11)
        self._line.send(header + command)

    def _answer_report(self, message: dimse.Message) -> bytes:
        self._send_command(message.context_id, dimse.event_report_response(message, 0x0000))
        return message.data_set or b""

    def _send_small_data_set(self, context_id: int, content: bytes) -> None:
        self._send_data_set(context_id, BytesIO(content), len(content))

    def _send_data_set(self, context_id: int, stream: BinaryIO, length: int) -> None:
        """Read the file into a buffer between the headers of as many PDUs as fit, and send them together."""
        slot_bytes = upper_layer.DATA_HEADER.size + self._fragment_bytes
        buffer = memoryview(bytearray(max(_BATCH_BYTES // slot_bytes, 1) * slot_bytes))
        used, left = 0, length
        while left:
            size = min(self._fragment_bytes, left)
            left -= size
            control = 0 if left else 0b10
            upper_layer.DATA_HEADER.pack_into(buffer, used, PduType.DATA, size + 6, size + 2, context_id, control)
            used += upper_layer.DATA_HEADER.size
            _read_exactly(stream, buffer[used : used + size])
            used += size
            if not left or used + slot_bytes > len(buffer):
                self._line.send(buffer[:used])
                used = 0

    def _receive_response(self, command_field: int) -> dimse.Response:
        """The response to the message sent last (PS3.7 6.3)."""
        return dimse.to_response(self._receive_answer(command_field))

    def _receive_answer(self, command_field: int, by: float | None = None) -> dimse.Message:
        message = self._receive_message(by)
        if (message.field, message.message_id) != (command_field, self._message_id):
            raise MalformedPdu("a response to something else than the last request")
        return message

    def _receive_message(self, by: float | None = None) -> dimse.Message:
        """The next whole message, before the moment `by`: a command set, and its data set where it announces one."""
        by = self._line.answer_by() if by is None else by
        command, data_set = bytearray(), bytearray()
        values: dict[int, bytes] | None = None
        while True:
            pdu_type, body = _read_pdu(self._line, by)
            if pdu_type != PduType.DATA:
                raise LineLost(_describe_unexpected(pdu_type, body))
            for pdv in upper_layer.decode_pdvs(body):
                if pdv.is_command is not (values is None):
                    raise MalformedPdu("a command set and a data set in the wrong order")
                (command if pdv.is_command else data_set).extend(pdv.fragment)
                if len(command) + len(data_set) > _LONGEST_MESSAGE_BYTES:
                    raise MalformedPdu(f"a message of more than {_LONGEST_MESSAGE_BYTES} bytes")
                if not pdv.is_last:
                    continue
                if values is None:
                    values = dimse.decode_command(bytes(command))
                    if dimse.announces_data_set(values):
                        continue
                return dimse.Message(pdv.context_id, values, bytes(data_set) if data_set else None)

    @contextmanager
    def _guarded(self, when: str) -> Iterator[None]:
        """Turn what went wrong on the line into a `Transient` that names the peer."""
        try:
            yield
        except (LineLost, MalformedPdu, dimse.MalformedCommand) as error:
            raise Transient(f"{self.peer}: {error}, {when}") from None


def _negotiate(
    line: Line, peer: str, calling_ae_title: str, request: bytes, contexts: Sequence[ProposedContext]
) -> Association:
    try:
        line.send(request)
        pdu_type, body = _read_pdu(line, line.answer_by())
        if pdu_type == PduType.ASSOCIATE_AC:
            return Association(line, peer, contexts, upper_layer.decode_associate_accept(body))
    except (LineLost, MalformedPdu) as error:
        raise Unreachable(f"{peer}: {error}, while the association was requested") from None
    if pdu_type != PduType.ASSOCIATE_RJ or len(body) < 4:
        raise Unreachable(f"{peer}: {_describe_unexpected(pdu_type, body)} instead of accepting the association")
    raise _rejection(peer, calling_ae_title, result=body[1], source=body[2], reason=body[3])


def _rejection(peer: str, calling_ae_title: str, result: int, source: int, reason: int) -> Transient | Permanent:
    """The error for an A-ASSOCIATE-RJ.

    Permanent only where the reason says what to change: many archives reject "permanently, no reason given"
    while they start or are busy, and trying again later costs nothing.
    """
    said = f"{peer} rejected the association {upper_layer.describe_rejection(result, source, reason)}"
    if result == 2 or (source, reason) not in _PERMANENT_REJECTIONS:
        return Unreachable(said)
    if (source, reason) == (1, 7):
        return Permanent(f"{said}; set ae_title of this destination to the archive's own AE title")
    if (source, reason) == (1, 3):
        return Permanent(f"{said}; make AE title {calling_ae_title!r} known to the archive")
    return Permanent(said)


def _read_pdu(line: Line, by: float) -> tuple[int, bytes]:
    """Type and body of the next PDU, before the moment `by`."""
    pdu_type, length = upper_layer.PDU_HEADER.unpack(line.receive(upper_layer.PDU_HEADER.size, by))
    if length > _LONGEST_PDU_BYTES:
        raise MalformedPdu(f"a PDU of {length} bytes")
    return pdu_type, line.receive(length, by)


def _read_exactly(stream: BinaryIO, target: memoryview) -> None:
    filled = 0
    while filled < len(target):
        count = stream.readinto(target[filled:])  # type: ignore[attr-defined]
        if not count:
            raise Permanent("a file became shorter while it was sent")
        filled += count


def _describe_unexpected(pdu_type: int, body: bytes) -> str:
    if pdu_type == PduType.ABORT and len(body) >= 4:
        return f"the peer aborted (source {body[2]}, reason {body[3]})"
    if pdu_type == PduType.RELEASE_RQ:
        return "the peer released the association"
    return f"the peer sent a PDU of type {pdu_type:#04x}"
