"""Command sets of the services that this node uses (PS3.7 9.3, 10.3, Annex E), and what the statuses of C-STORE mean.

Pure.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

VERIFICATION_SOP_CLASS_UID = "1.2.840.10008.1.1"

# Elements of group 0000 (PS3.7 E.1).
AFFECTED_SOP_CLASS_UID = 0x0002
REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
PRIORITY = 0x0700
COMMAND_DATA_SET_TYPE = 0x0800
STATUS = 0x0900
OFFENDING_ELEMENT = 0x0901
AFFECTED_SOP_INSTANCE_UID = 0x1000
REQUESTED_SOP_INSTANCE_UID = 0x1001
EVENT_TYPE_ID = 0x1002
ACTION_TYPE_ID = 0x1008

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_FIND_RQ, C_FIND_RSP = 0x0020, 0x8020
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP = 0x0100, 0x8100
N_ACTION_RQ, N_ACTION_RSP = 0x0130, 0x8130
DATA_SET_PRESENT, NO_DATA_SET = 0x0001, 0x0101
MEDIUM_PRIORITY = 0x0000

_ELEMENT = struct.Struct("<HHI")  # group, element, length: Implicit VR Little Endian


class MalformedCommand(ValueError):
    """What the peer sent is not a command set (PS3.7 6.3.1)."""


@dataclass(frozen=True)
class Message:
    """A command set by element number, and its data set where it has one."""

    context_id: int
    command: Mapping[int, bytes]
    data_set: bytes | None

    @property
    def field(self) -> int:
        """Command Field (0000,0100)."""
        return _unsigned_short(self.command, COMMAND_FIELD)

    @property
    def status(self) -> int:
        return _unsigned_short(self.command, STATUS)

    @property
    def message_id(self) -> int:
        """Of a request its own, of a response that of the request."""
        is_response = self.field & 0x8000
        return _unsigned_short(self.command, MESSAGE_ID_BEING_RESPONDED_TO if is_response else MESSAGE_ID)


@dataclass(frozen=True)
class Response:
    """A response: to which message, its status, and the tags that the peer complains about.

    Its Error Comment (0000,0902) is free text that may quote a patient, and is not read.
    """

    command_field: int
    message_id: int
    status: int
    offending_elements: tuple[str, ...]


class StoreOutcome(Enum):
    """What a C-STORE status means for a delivery."""

    DELIVERED = "delivered"
    DELIVERED_WITH_WARNING = "delivered with a warning"
    TRY_AGAIN = "try again"
    REFUSED = "refused"


def store_outcome(status: int) -> StoreOutcome:
    """Meaning of a C-STORE status (PS3.4 Table B.2-1, PS3.7 Annex C).

    0x0111 (duplicate SOP instance) counts as delivered: UIDs of results are derived from what they say, so
    the archive has this very object from an earlier attempt. What is not in the tables is tried again.
    """
    if status == 0x0000:
        return StoreOutcome.DELIVERED
    if status in (0x0001, 0x0107, 0x0111, 0x0116) or 0xB000 <= status <= 0xBFFF:
        return StoreOutcome.DELIVERED_WITH_WARNING
    if status in (0x0106, 0x0117, 0x0122, 0x0124, 0x0210, 0x0211, 0x0212):
        return StoreOutcome.REFUSED
    if 0xA800 <= status <= 0xAFFF or 0xC000 <= status <= 0xCFFF:
        return StoreOutcome.REFUSED
    return StoreOutcome.TRY_AGAIN


def describe_status(status: int) -> str:
    """A C-STORE status in hexadecimal and in the words of the standard."""
    return f"0x{status:04X} ({_status_words(status)})"


def _status_words(status: int) -> str:
    words = {
        0x0000: "success",
        0x0110: "processing failure",
        0x0111: "duplicate SOP instance",
        0x0117: "invalid SOP instance",
        0x0122: "SOP class not supported",
        0x0124: "not authorised",
        0xB000: "coercion of data elements",
        0xB006: "elements discarded",
        0xB007: "data set does not match SOP class",
    }
    ranges = {
        0xA7: "out of resources",
        0xA8: "SOP class not supported",
        0xA9: "data set does not match SOP class",
    }
    if status in words:
        return words[status]
    if 0xC000 <= status <= 0xCFFF:
        return "cannot understand"
    if 0xB000 <= status <= 0xBFFF:
        return "warning"
    return ranges.get(status >> 8, "status unknown to the standard")


def encode_command(elements: Mapping[int, int | str]) -> bytes:
    """A command set in Implicit VR Little Endian: integers as US, text as UI (PS3.7 6.3.1)."""
    body = b"".join(_encode_element(element, elements[element]) for element in sorted(elements))
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


def decode_command(encoded: bytes) -> dict[int, bytes]:
    """The values of group 0000 by element number, as they were sent."""
    values: dict[int, bytes] = {}
    offset = 0
    while offset < len(encoded):
        if len(encoded) - offset < _ELEMENT.size:
            raise MalformedCommand("a command set ends within an element")
        group, element, length = _ELEMENT.unpack_from(encoded, offset)
        offset += _ELEMENT.size
        if group != 0 or offset + length > len(encoded):
            raise MalformedCommand(f"element ({group:04X},{element:04X}) of {length} bytes in a command set")
        values[element] = encoded[offset : offset + length]
        offset += length
    return values


def announces_data_set(command: Mapping[int, bytes]) -> bool:
    """Whether a data set follows this command set."""
    return _unsigned_short(command, COMMAND_DATA_SET_TYPE) != NO_DATA_SET


def to_response(message: Message) -> Response:
    """What is read of a response; raises `MalformedCommand`."""
    tags = _tags(message.command.get(OFFENDING_ELEMENT, b""))
    return Response(message.field, message.message_id, message.status, tags)


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """C-STORE-RQ (PS3.7 Table 9.3-1)."""
    return encode_command(
        {
            AFFECTED_SOP_CLASS_UID: sop_class_uid,
            COMMAND_FIELD: C_STORE_RQ,
            MESSAGE_ID: message_id,
            PRIORITY: MEDIUM_PRIORITY,
            COMMAND_DATA_SET_TYPE: DATA_SET_PRESENT,
            AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
        }
    )


def echo_request(message_id: int) -> bytes:
    """C-ECHO-RQ (PS3.7 Table 9.3-12)."""
    return encode_command(
        {
            AFFECTED_SOP_CLASS_UID: VERIFICATION_SOP_CLASS_UID,
            COMMAND_FIELD: C_ECHO_RQ,
            MESSAGE_ID: message_id,
            COMMAND_DATA_SET_TYPE: NO_DATA_SET,
        }
    )


def find_request(message_id: int, sop_class_uid: str) -> bytes:
    """C-FIND-RQ (PS3.7 Table 9.3-3)."""
    return encode_command(
        {
            AFFECTED_SOP_CLASS_UID: sop_class_uid,
            COMMAND_FIELD: C_FIND_RQ,
            MESSAGE_ID: message_id,
            PRIORITY: MEDIUM_PRIORITY,
            COMMAND_DATA_SET_TYPE: DATA_SET_PRESENT,
        }
    )


def action_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, action_type: int) -> bytes:
    """N-ACTION-RQ (PS3.7 Table 10.3-7)."""
    return encode_command(
        {
            REQUESTED_SOP_CLASS_UID: sop_class_uid,
            COMMAND_FIELD: N_ACTION_RQ,
            MESSAGE_ID: message_id,
            COMMAND_DATA_SET_TYPE: DATA_SET_PRESENT,
            REQUESTED_SOP_INSTANCE_UID: sop_instance_uid,
            ACTION_TYPE_ID: action_type,
        }
    )


def event_report_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> bytes:
    """N-EVENT-REPORT-RQ (PS3.7 Table 10.3-1)."""
    return encode_command(
        {
            AFFECTED_SOP_CLASS_UID: sop_class_uid,
            COMMAND_FIELD: N_EVENT_REPORT_RQ,
            MESSAGE_ID: message_id,
            COMMAND_DATA_SET_TYPE: DATA_SET_PRESENT,
            AFFECTED_SOP_INSTANCE_UID: sop_instance_uid,
            EVENT_TYPE_ID: event_type,
        }
    )


def event_report_response(request: Message, status: int) -> bytes:
    """N-EVENT-REPORT-RSP (PS3.7 Table 10.3-2)."""
    return encode_command(
        {
            COMMAND_FIELD: N_EVENT_REPORT_RSP,
            MESSAGE_ID_BEING_RESPONDED_TO: request.message_id,
            COMMAND_DATA_SET_TYPE: NO_DATA_SET,
            STATUS: status,
        }
    )


def _encode_element(element: int, value: int | str) -> bytes:
    if isinstance(value, int):
        encoded = struct.pack("<H", value)
    else:
        encoded = value.encode("ascii")
        encoded += b"\0" * (len(encoded) % 2)
    return _ELEMENT.pack(0, element, len(encoded)) + encoded


def _unsigned_short(values: Mapping[int, bytes], element: int) -> int:
    """Value of a US element."""
    value = values.get(element)
    if value is None or len(value) != 2:
        raise MalformedCommand(f"element (0000,{element:04X}) is missing or is not of two bytes")
    return int.from_bytes(value, "little")


def _tags(value: bytes) -> tuple[str, ...]:
    """Values of an AT element as ``(gggg,eeee)``."""
    whole = value[: len(value) - len(value) % 4]
    return tuple(f"({group:04X},{element:04X})" for group, element in struct.iter_unpack("<HH", whole))
