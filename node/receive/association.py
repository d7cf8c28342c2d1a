"""One association, from the first byte to the last: the socket at the edge of `parser`, `admission` and
`messages`.

A thread of its own reads with a timeout of `TICK_SECONDS`, so that it can look at its deadlines whatever the
peer does:

- the association request must be complete within `acse_timeout_seconds`;
- a PDU must be complete within `network_timeout_seconds` after the last one;
- a message (command set and data set) that lasts longer than that must keep `minimum_bytes_per_second`.

The time that we ourselves take meanwhile, for a slow disk say, is no delay of the peer's. So whoever holds a slot
without progress loses it: silent, half a PDU, half an object, or a byte a second.
"""

import contextlib
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from node.logs import describe_error, get_logger
from node.receive import pdu
from node.receive.admission import Admitted, Rejected
from node.receive.intake import Intake, Sender
from node.receive.messages import Messages, ObjectTooLarge, Tally
from node.receive.parser import CommandSet, ControlPdu, DataFragment, Event, PduParser
from node.receive.pdu import AbortReason, AssociateRequest, ContextResult, PduError, PduType
from node.receive.witness import Witness

TICK_SECONDS = 0.5
_ALERTS = ("rejected:called-ae-title", "rejected:calling-ae-title", "rejected:unknown-peer")
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


@dataclass(frozen=True)
class Limits:
    """What one association may do; times in seconds, sizes in bytes."""

    maximum_pdu_bytes: int
    maximum_object_bytes: int
    network_timeout_seconds: float
    acse_timeout_seconds: float
    minimum_bytes_per_second: int


class Ended(Exception):
    """The association is over; `outcome` goes into its log line, `farewell` to the peer."""

    def __init__(self, outcome: str, farewell: bytes = b"", detail: str = "") -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.farewell = farewell
        self.detail = detail


class Association:
    """Serves one connection. `run` returns when it is over and never raises for what a peer does.

    Parameters
    ----------
    connection : socket
        Connected, and handshaken where TLS is used.
    peer : str
        Address of the peer, for the log.
    limits, intake
        What it may do, and where objects go.
    admit : callable
        Answers the association request, and counts the association as open when it admits it.
    leave : callable
        Called once it is over and before the peer is told: who was told may ask for the place again at once.
    on_release : callable
        Told which series were received once the association was released.
    stopping_at : callable
        When (`time.monotonic`) open associations are to be aborted; None while the node is not stopping.
    witness : Witness
        Told at the end what was stored, or why the association was rejected.
    clock : callable
        Seconds that only go forward.
    """

    def __init__(
        self,
        connection: socket.socket,
        peer: str,
        limits: Limits,
        intake: Intake,
        *,
        admit: Callable[[AssociateRequest], Admitted | Rejected],
        leave: Callable[[], None],
        on_release: Callable[[list[str]], None],
        stopping_at: Callable[[], float | None],
        witness: Witness,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._witness = witness
        self._clock = clock
        self._connection = connection
        self._peer = peer
        self._limits = limits
        self._intake = intake
        self._admit = admit
        self._leave = leave
        self._on_release = on_release
        self._stopping_at = stopping_at
        self._parser = PduParser(limits.maximum_pdu_bytes)
        self._sender = Sender("", "")
        self._messages: Messages | None = None  # once the association is accepted
        self._started_at = clock()
        self._last_pdu_at = self._started_at
        self._message_started_at: float | None = None
        self._message_bytes = 0
        self._log = get_logger("receive").bind(peer=peer)

    def run(self) -> None:
        """Serve the connection until it ends, log one line about it, close it."""
        ended = Ended("failed")
        try:
            self._prepare_socket()
            messages = self._messages = self._negotiate()
            while True:
                for event in self._receive():
                    self._handle(event, messages)
        except Ended as reason:
            ended = reason
        except PduError as error:
            ended = Ended("protocol-error", pdu.write_abort(error.reason), str(error))
        except OSError as error:
            ended = Ended("connection-lost", detail=type(error).__name__)
        except Exception as error:
            # A fault of ours must not end the listener: the peer is told, and the line says which class it
            # was.
            self._log.error("association_failed", reason=describe_error(error))
            ended = Ended("failed", pdu.write_abort(None))
        finally:
            self._finish(ended)

    @property
    def _is_receiving(self) -> bool:
        return self._messages is not None and self._messages.is_receiving

    def _prepare_socket(self) -> None:
        if sys.platform == "linux" and not isinstance(self._connection, ssl.SSLSocket):
            # The system watches the time: a timeout of Python's would ask it before each call whether it may be made.
            self._connection.settimeout(None)
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", 0, int(TICK_SECONDS * 1e6)))
        else:
            self._connection.settimeout(TICK_SECONDS)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # Receiving
    # ------------------------------------------------------------------------------------------------------

    def _receive(self) -> list[Event]:
        """The next complete events; raises `Ended` or `PduError` when there will be none."""
        parser = self._parser
        if parser.is_between_messages:
            parser.reclaim()
            self._message_started_at = None
        elif parser.is_tight:
            if self._messages is not None:
                self._messages.flush()
            parser.reclaim()
        self._forgive_own_time()
        while True:
            try:
                count = self._connection.recv_into(parser.writable())
            except (TimeoutError, ssl.SSLWantReadError, BlockingIOError):
                self._check_clock(is_idle=True)
                continue
            if count == 0:
                raise Ended("connection-lost")
            events = parser.received(count)
            if _QUICKACK is not None and not _ends_data_set(events):
                # A sender with Nagle's algorithm waits for our acknowledgement, which the system delays by 40 ms.
                # Behind a whole data set it waits for our answer, which acknowledges too.
                self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            self._count_bytes(count)
            if events:
                self._last_pdu_at = self._clock()
                self._check_clock(is_idle=False)
                return events
            self._check_clock(is_idle=False)
            if parser.is_tight and not self._is_receiving:
                parser.reclaim()

    def _forgive_own_time(self) -> None:
        """Since the last complete PDU we were at work, and the peer may have waited for us."""
        now = self._clock()
        if self._message_started_at is not None:
            self._message_started_at += now - self._last_pdu_at
        self._last_pdu_at = now

    def _count_bytes(self, count: int) -> None:
        if self._message_started_at is None:
            self._message_started_at = self._clock()
            self._message_bytes = 0
        self._message_bytes += count

    def _check_clock(self, *, is_idle: bool) -> None:
        now = self._clock()
        limits = self._limits
        if self._messages is None:
            if now - self._started_at > limits.acse_timeout_seconds:
                raise Ended("no-request", pdu.write_abort(None))
        elif now - self._last_pdu_at > limits.network_timeout_seconds:
            raise Ended("timeout", pdu.write_abort(None), "no complete PDU within dimse.network_timeout_seconds")
        elif self._message_started_at is not None:
            lasted = now - self._message_started_at
            if (
                lasted > limits.network_timeout_seconds
                and self._message_bytes < lasted * limits.minimum_bytes_per_second
            ):
                raise Ended("too-slow", pdu.write_abort(None), "slower than dimse.minimum_bytes_per_second")
        stopping_at = self._stopping_at()
        if stopping_at is not None:
            is_waiting = is_idle and not self._is_receiving and self._parser.is_between_messages
            if is_waiting or now >= stopping_at:
                raise Ended("stopped", pdu.write_abort(None))

    # Association control
    # --------------------------------------------------------------------------------------------

    def _negotiate(self) -> Messages:
        """Answer the association request; what will serve its messages."""
        events = self._receive()
        event = events[0]
        if not isinstance(event, ControlPdu) or event.kind is not PduType.ASSOCIATE_RQ:
            raise PduError(AbortReason.UNEXPECTED_PDU, "an A-ASSOCIATE-RQ was expected first")
        request = pdu.read_associate_request(event.body)
        self._sender = Sender(request.calling_ae_title, request.called_ae_title)
        answer = self._admit(request)
        if isinstance(answer, Rejected):
            farewell = pdu.write_associate_reject(answer.result, answer.source, answer.reason)
            raise Ended("rejected:" + answer.code, farewell, answer.message)
        self._connection.sendall(
            pdu.write_associate_accept(
                request,
                answer.contexts,
                answer.roles,
                self._limits.maximum_pdu_bytes,
                confirms_user=answer.confirms_user,
            )
        )
        if len(events) > 1:  # something was sent before our answer
            raise PduError(AbortReason.UNEXPECTED_PDU, "a PDU came before the association was accepted")
        accepted = {
            context.context_id: context for context in answer.contexts if context.result is ContextResult.ACCEPTANCE
        }
        return Messages(
            accepted,
            self._sender,
            self._intake,
            self._limits.maximum_object_bytes,
            self._log,
            request.maximum_length,
        )

    def _handle(self, event: Event, messages: Messages) -> None:
        match event:
            case DataFragment():
                try:
                    response = messages.take_fragment(event)
                except ObjectTooLarge:
                    raise Ended(
                        "object-too-large", pdu.write_abort(None), "longer than dimse.maximum_object_mb"
                    ) from None
                if response:
                    self._send(response)
                    self._send(messages.follow_up())
            case CommandSet():
                self._send(messages.take_command(event))
            case ControlPdu(kind=PduType.RELEASE_RQ):
                if messages.is_receiving:
                    raise PduError(AbortReason.UNEXPECTED_PDU, "A-RELEASE-RQ within an object")
                raise Ended("released", pdu.write_release_reply())
            case ControlPdu(kind=PduType.ABORT):
                raise Ended("aborted-by-peer")
            case _:
                raise PduError(AbortReason.UNEXPECTED_PDU, f"unexpected {event.kind.name}")

    def _send(self, response: bytes) -> None:
        """Answer in one segment: a reply in two would meet a sender's delayed acknowledgement."""
        if response:
            self._connection.sendall(response)

    def _finish(self, ended: Ended) -> None:
        tally = self._messages.tally if self._messages is not None else Tally()
        if self._messages is not None:
            self._messages.discard()
        self._leave()
        _say_goodbye(self._connection, ended)
        self._write_summary(ended, tally)
        if tally.studies:
            is_whole = ended.outcome == "released" and set(tally.statuses) <= {"0000"}
            self._witness.received(self._sender.calling_ae_title, self._peer, tally.studies, is_whole=is_whole)
        elif ended.outcome in _ALERTS:
            self._witness.turned_away(self._sender.calling_ae_title, self._peer, ended.detail)
        if ended.outcome == "released" and tally.series_instance_uids:
            self._on_release(list(tally.series_instance_uids))

    def _write_summary(self, ended: Ended, tally: Tally) -> None:
        fields: dict[str, Any] = {
            "calling_ae_title": self._sender.calling_ae_title,
            "called_ae_title": self._sender.called_ae_title,
            "outcome": ended.outcome,
            "seconds": round(self._clock() - self._started_at, 3),
            "objects": tally.objects,
            "object_bytes": tally.object_bytes,
            "echoes": tally.echoes,
            "statuses": dict(tally.statuses),
        }
        if ended.detail:
            fields["reason"] = ended.detail
        self._log.info("association_ended", **fields)


def _ends_data_set(events: Sequence[Event]) -> bool:
    return bool(events) and isinstance(last := events[-1], DataFragment) and last.is_last


def _say_goodbye(connection: socket.socket, ended: Ended) -> None:
    """Send the last PDU and close without losing it: closing with unread bytes would reset the connection."""
    with contextlib.suppress(OSError):
        if ended.farewell:
            connection.sendall(ended.farewell)
            if not isinstance(connection, ssl.SSLSocket):
                connection.shutdown(socket.SHUT_WR)
                _drain(connection)
    with contextlib.suppress(OSError):
        connection.close()


def _drain(connection: socket.socket, seconds: float = 1.0, most_bytes: int = 1 << 20) -> None:
    """Read what is still under way until the peer closes, for a bounded time and amount."""
    deadline = time.monotonic() + seconds
    while most_bytes > 0 and (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        received = len(connection.recv(65536))
        if not received:
            return
        most_bytes -= received
