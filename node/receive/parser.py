"""The receiving half of the upper layer without a socket: bytes in, events out.

The caller reads from its socket straight into `writable()`, says how much came with `received(count)`, and
gets the complete PDUs and PDVs as events. Data fragments are views into the buffer, not copies: they hold
until `reclaim()`.

Rules (PS3.8 9.3, Annex E):

- The length of a PDU is judged as soon as its six-byte header is there; nothing is allocated for what a peer
  announces.
- A P-DATA-TF holds one or more PDVs; their lengths add up exactly. Any of them may be command or data, of any
  context.
- A command set may come in fragments; it is given out whole, and is at most `MAXIMUM_COMMAND_BYTES` long.
- The fragments of one message are not mixed with those of another (PS3.7 6.3.1): a PDV of another context, or
  a command fragment between data fragments, is an error.
"""

import struct
from typing import NamedTuple

from node.receive.pdu import AbortReason, PduError, PduType

MAXIMUM_COMMAND_BYTES = 16384
MAXIMUM_REQUEST_BYTES = 262144
_SMALL_PDU_BYTES = 1024
_P_DATA_TF = int(PduType.P_DATA_TF)  # an enumeration's member costs a look-up each time
_BUFFER_BYTES = 1 << 20

_PDU_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")


class ControlPdu(NamedTuple):
    """Any PDU but P-DATA-TF, with its variable part."""

    kind: PduType
    body: bytes


class CommandSet(NamedTuple):
    """A whole command set."""

    context_id: int
    command_set: bytes


class DataFragment(NamedTuple):
    """A fragment of a data set; a view into the parser's buffer that holds until `reclaim()`."""

    context_id: int
    fragment: memoryview
    is_last: bool


Event = ControlPdu | CommandSet | DataFragment


class PduParser:
    """Cuts the bytes of one connection into PDUs and PDVs.

    Parameters
    ----------
    maximum_pdu_bytes : int
        Longest variable part of a P-DATA-TF, as announced to the peer.
    """

    def __init__(self, maximum_pdu_bytes: int) -> None:
        self._maximum_pdu_bytes = maximum_pdu_bytes
        self._minimum_room = max(maximum_pdu_bytes, MAXIMUM_REQUEST_BYTES) + _PDU_HEADER.size
        self._buffer = bytearray(max(_BUFFER_BYTES, 2 * self._minimum_room))
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._command = b""
        self._command_context = 0
        self._data_context = 0
        self._failure: PduError | None = None

    @property
    def is_between_messages(self) -> bool:
        """True when no part of a PDU, command set or data set is waiting for its rest."""
        return self._start == self._end and not self._command_context and not self._data_context

    @property
    def is_tight(self) -> bool:
        """True when a PDU of the greatest length no longer fits: `reclaim()` before reading on."""
        return len(self._buffer) - self._start < self._minimum_room

    def writable(self) -> memoryview:
        """The free part of the buffer, never empty after `reclaim()`. Raises the `PduError` that came after the last
        events."""
        if self._failure is not None:
            raise self._failure
        return self._view[self._end :]

    def reclaim(self) -> None:
        """Make room: views of earlier events become void."""
        if self._start == 0:
            return
        rest = self._end - self._start
        if rest:
            self._view[:rest] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, rest

    def received(self, count: int) -> list[Event]:
        """Take note of `count` more bytes in the buffer and return what is complete now.

        Raises
        ------
        PduError
            When the peer broke the protocol. The parser cannot be used after it. What was complete before is returned
            first, and the error raised by the next `writable()`.
        """
        self._end += count
        events: list[Event] = []
        try:
            self._read_pdus(events)
        except PduError as error:
            if not events:
                raise
            self._failure = error
        return events

    def _read_pdus(self, events: list[Event]) -> None:
        while (first := self._start + _PDU_HEADER.size) <= self._end:
            number, length = _PDU_HEADER.unpack_from(self._buffer, self._start)
            if number != _P_DATA_TF or length > self._maximum_pdu_bytes:
                self._check_header(number, length)
            if self._end < first + length:
                break
            self._start = first + length
            if number == _P_DATA_TF:
                if not self._read_next_fragment(first, first + length, events):
                    self._read_values(first, first + length, events)
            else:
                events.append(ControlPdu(PduType(number), bytes(self._view[first : first + length])))

    def _check_header(self, number: int, length: int) -> None:
        if number == PduType.P_DATA_TF:
            longest = self._maximum_pdu_bytes
        elif number == PduType.ASSOCIATE_RQ:
            longest = MAXIMUM_REQUEST_BYTES
        elif PduType.ASSOCIATE_RQ < number <= PduType.ABORT:
            longest = _SMALL_PDU_BYTES
        else:
            raise PduError(AbortReason.UNRECOGNIZED_PDU, f"PDU type {number:#04x} is unknown")
        if length > longest:
            raise PduError(
                AbortReason.INVALID_PARAMETER_VALUE,
                f"PDU type {number} announces {length} bytes, at most {longest} are accepted",
            )

    def _read_next_fragment(self, position: int, end: int, events: list[Event]) -> bool:
        """What nearly all P-DATA-TF are, for less: one PDV, with the next fragment of a data set. False for others."""
        if not self._data_context or end - position < _PDV_HEADER.size:
            return False
        length, context_id, control = _PDV_HEADER.unpack_from(self._buffer, position)
        if length != end - position - 4 or context_id != self._data_context or control & 1:
            return False
        is_last = bool(control & 2)
        if is_last:
            self._data_context = 0
        events.append(DataFragment(context_id, self._view[position + _PDV_HEADER.size : end], is_last))
        return True

    def _read_values(self, position: int, end: int, events: list[Event]) -> None:
        """The PDVs of one P-DATA-TF (PS3.8 9.3.5.1)."""
        while position < end:
            if position + _PDV_HEADER.size > end:
                raise PduError(AbortReason.INVALID_PARAMETER_VALUE, "a PDV header is cut off")
            length, context_id, control = _PDV_HEADER.unpack_from(self._buffer, position)
            following = position + 4 + length
            if length < 2 or following > end:
                raise PduError(AbortReason.INVALID_PARAMETER_VALUE, "a PDV does not fit its PDU")
            fragment = self._view[position + _PDV_HEADER.size : following]
            position = following
            if control & 1:
                self._take_command(context_id, fragment, bool(control & 2), events)
            else:
                self._take_data(context_id, fragment, bool(control & 2), events)

    def _take_command(self, context_id: int, fragment: memoryview, is_last: bool, events: list[Event]) -> None:
        if self._data_context or self._command_context not in (0, context_id):
            raise PduError(AbortReason.INVALID_PARAMETER_VALUE, "a command fragment within another message")
        self._command += fragment
        if len(self._command) > MAXIMUM_COMMAND_BYTES:
            raise PduError(
                AbortReason.INVALID_PARAMETER_VALUE,
                f"a command set is longer than {MAXIMUM_COMMAND_BYTES} bytes",
            )
        self._command_context = 0 if is_last else context_id
        if is_last:
            events.append(CommandSet(context_id, self._command))
            self._command = b""

    def _take_data(self, context_id: int, fragment: memoryview, is_last: bool, events: list[Event]) -> None:
        if self._command_context or self._data_context not in (0, context_id):
            raise PduError(AbortReason.INVALID_PARAMETER_VALUE, "a data fragment within another message")
        self._data_context = 0 if is_last else context_id
        events.append(DataFragment(context_id, fragment, is_last))
