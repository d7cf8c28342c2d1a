"""The DIMSE messages of one association (PS3.7 section 9): command sets and data set fragments in, responses out.

Reads and writes no socket. What a request asks is decided when its command set is there; where the data set cannot
change the answer it is read all the same and forgotten.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from node.errors import Refused
from node.receive import pdu
from node.receive.admission import (
    NOT_UNDERSTOOD,
    STORAGE_COMMITMENT_UID,
    UNRECOGNIZED_OPERATION,
    check_command,
    is_uid,
)
from node.receive.beginnings import Beginnings
from node.receive.command import (
    Command,
    CommandError,
    CommandField,
    read_command,
    write_event_report,
    write_response,
)
from node.receive.intake import FollowUp, IncomingObject, IncomingReport, IncomingRequest, Intake, Sender
from node.receive.parser import CommandSet, DataFragment
from node.receive.pdu import AbortReason, AnsweredContext, PduError

MAXIMUM_UNANSWERED = 16
"""Reports on their way over one association; what is owed beyond them waits for an association of its own."""


class ObjectTooLarge(Exception):
    """A data set is longer than `dimse.maximum_object_mb`."""


@dataclass
class Tally:
    """What one association did, for its log line."""

    objects: int = 0
    echoes: int = 0
    object_bytes: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    series_instance_uids: dict[str, None] = field(default_factory=dict)
    studies: dict[str, Counter[str]] = field(default_factory=dict)


class Messages:
    """Serves the messages of one association. Each `take_...` returns the P-DATA-TF to send, empty for none; `PduError`
    is raised where the peer broke the protocol.

    Parameters
    ----------
    contexts
        The accepted presentation contexts by number.
    sender, intake
        Who sends, and where objects go.
    maximum_object_bytes : int
        Longest data set.
    peer_maximum_bytes : int
        Longest PDU that the peer takes; 0 for any.
    log
        Bound to the association.
    """

    def __init__(
        self,
        contexts: Mapping[int, AnsweredContext],
        sender: Sender,
        intake: Intake,
        maximum_object_bytes: int,
        log: Any,
        peer_maximum_bytes: int = 0,
    ) -> None:
        self._contexts = contexts
        self._sender = sender
        self._intake = intake
        self._beginnings = Beginnings()
        self._maximum_object_bytes = maximum_object_bytes
        self._log = log
        self._peer_maximum_bytes = peer_maximum_bytes
        self._owed: tuple[int, IncomingRequest] | None = None  # by the number of its context
        self._last_report = 0
        self._reports: dict[int, FollowUp] = {}  # handed over and not answered yet, by message ID
        self._incoming: IncomingObject | IncomingReport | None = None
        self._incoming_context = 0
        self.tally = Tally()

    @property
    def is_receiving(self) -> bool:
        """True while a data set is arriving."""
        return self._incoming is not None

    def flush(self) -> None:
        """Let go of the fragments taken so far, so that their views may become void."""
        if self._incoming is not None:
            self._incoming.flush()

    def discard(self) -> None:
        """Forget the data set that is arriving."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def take_command(self, event: CommandSet) -> bytes:
        """A command set is complete."""
        if self._incoming is not None:
            raise PduError(AbortReason.UNEXPECTED_PARAMETER, "a command set where a data set was announced")
        context = self._contexts.get(event.context_id)
        if context is None:
            raise PduError(
                AbortReason.INVALID_PARAMETER_VALUE,
                f"presentation context {event.context_id} was not accepted",
            )
        try:
            command = read_command(event.command_set)
        except CommandError as error:
            raise PduError(AbortReason.INVALID_PARAMETER_VALUE, str(error)) from None
        if command.is_response:
            self._take_response(command)
            return b""
        if command.field == CommandField.C_CANCEL_RQ:
            return b""
        if not command.has_data_set:
            return self._answer_without_data_set(command, context)
        self._incoming = self._intake.begin(command, context.transfer_syntax, self._sender, self._beginnings)
        self._incoming_context = event.context_id
        self._judge(command, context, self._incoming)
        return b""

    def _take_response(self, command: Command) -> None:
        """The response to a report of ours; we ask for nothing else."""
        report = self._reports.pop(command.message_id, None)
        if command.field != CommandField.N_EVENT_REPORT_RSP or report is None or command.has_data_set:
            raise PduError(AbortReason.UNEXPECTED_PARAMETER, "a response to nothing that was asked")
        report.answered(command.status)

    def follow_up(self) -> bytes:
        """A report that is owed now that its request was answered, as PDUs; empty for none."""
        if self._owed is None:
            return b""
        (context_id, request), self._owed = self._owed, None
        report = request.follow_up
        if report is None or len(self._reports) >= MAXIMUM_UNANSWERED:
            return b""
        event_type, information = report.make(self._contexts[context_id].transfer_syntax)
        self._last_report = message_id = self._last_report % 0xFFFF + 1
        self._reports[message_id] = report
        command_set = write_event_report(
            message_id,
            request.command.affected_sop_class_uid,
            request.command.affected_sop_instance_uid,
            event_type,
        )
        return pdu.write_command(context_id, command_set) + pdu.write_data_set(
            context_id, information, self._peer_maximum_bytes
        )

    def take_fragment(self, event: DataFragment) -> bytes:
        """A fragment of the announced data set; `ObjectTooLarge` when it is one too many."""
        incoming = self._incoming
        if incoming is None or event.context_id != self._incoming_context:
            raise PduError(AbortReason.UNEXPECTED_PARAMETER, "a data set that no command announced")
        incoming.add(event.fragment)
        if incoming.size_bytes > self._maximum_object_bytes:
            raise ObjectTooLarge
        return self._complete(incoming, event.context_id) if event.is_last else b""

    def _complete(self, incoming: IncomingObject | IncomingReport, context_id: int) -> bytes:
        success = pdu.write_command(context_id, write_response(incoming.command, 0))  # before anybody waits for it
        try:
            incoming.complete()
        except Refused as refusal:
            self._incoming = None
            return self._refuse(context_id, incoming.command, refusal)
        self._incoming = None
        if isinstance(incoming, IncomingObject):
            self.tally.objects += 1
            self.tally.object_bytes += incoming.size_bytes
            self.tally.series_instance_uids[incoming.series_instance_uid] = None
            classes = self.tally.studies.setdefault(incoming.study_instance_uid, Counter())
            classes[incoming.command.affected_sop_class_uid] += 1
        if isinstance(incoming, IncomingRequest):
            self._owed = (context_id, incoming)
        self.tally.statuses["0000"] += 1
        return success

    def _judge(self, command: Command, context: AnsweredContext, incoming: IncomingObject | IncomingReport) -> None:
        """Decide now what the answer will be where the data set cannot change it."""
        if isinstance(incoming, IncomingReport) and context.abstract_syntax == STORAGE_COMMITMENT_UID:
            return
        try:
            if command.field != CommandField.C_STORE_RQ:
                raise _not_served(command)
            check_command(command, context)
        except Refused as refusal:
            incoming.refuse(refusal)

    def _answer_without_data_set(self, command: Command, context: AnsweredContext) -> bytes:
        if command.field == CommandField.C_ECHO_RQ:
            self.tally.echoes += 1
            return self._respond(context.context_id, command, 0)
        if command.field == CommandField.C_STORE_RQ:
            refusal = Refused(NOT_UNDERSTOOD, "no-data-set", "the C-STORE request has no data set")
        else:
            refusal = _not_served(command)
        return self._refuse(context.context_id, command, refusal)

    def _refuse(self, context_id: int, command: Command, refusal: Refused) -> bytes:
        self._log.warning(
            "object_refused",
            calling_ae_title=self._sender.calling_ae_title,
            called_ae_title=self._sender.called_ae_title,
            status=f"{refusal.status:04X}",
            code=refusal.code,
            reason=str(refusal),
            sop_class_uid=_loggable(command.affected_sop_class_uid),
            sop_instance_uid=_loggable(command.affected_sop_instance_uid),
        )
        return self._respond(context_id, command, refusal.status, refusal.code)

    def _respond(self, context_id: int, command: Command, status: int, comment: str = "") -> bytes:
        self.tally.statuses[f"{status:04X}"] += 1
        return pdu.write_command(context_id, write_response(command, status, comment))


def _not_served(command: Command) -> Refused:
    return Refused(UNRECOGNIZED_OPERATION, "not-c-store", f"operation {command.field:#06x} is not served here")


def _loggable(uid: str) -> str:
    """A UID of the peer for the log: anything else could be a name."""
    return uid if is_uid(uid) else "(no UID)"
