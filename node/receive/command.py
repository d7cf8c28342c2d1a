"""DIMSE command sets: read the fields that a Storage SCP acts on, write its responses (PS3.7 section 6.3.1,
Annex E).

A command set is always Implicit VR Little Endian. It is read by hand: pydicom costs more here than receiving
a slice.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

_ELEMENT = struct.Struct("<HHL")
_NUMBER = struct.Struct("<HHLH")  # an element of value representation US
NO_DATA_SET = 0x0101


class CommandField(IntEnum):
    """Command Field (0000,0100), PS3.7 Table E.1-1."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_ACTION_RQ = 0x0130
    C_CANCEL_RQ = 0x0FFF
    N_EVENT_REPORT_RSP = 0x8100


class CommandError(Exception):
    """The bytes are no command set that can be answered."""


@dataclass(frozen=True)
class Command:
    """A DIMSE message: fields of the command set; UIDs are empty and numbers 0 where absent."""

    field: int
    message_id: int
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    has_data_set: bool
    action_type: int = 0
    status: int = 0

    @property
    def is_response(self) -> bool:
        return bool(self.field & 0x8000)


def read_command(command_set: bytes) -> Command:
    """Read a command set; raises `CommandError` when lengths do not add up or Command Field or Message ID
    are missing."""
    values: dict[int, bytes] = {}
    position, end = 0, len(command_set)
    while position < end:
        if position + 8 > end:
            raise CommandError("a command element header is cut off")
        group, element, length = _ELEMENT.unpack_from(command_set, position)
        position += 8
        if group != 0 or position + length > end:
            raise CommandError(f"command element ({group:04X},{element:04X}) does not fit the command set")
        values[element] = command_set[position : position + length]
        position += length
    return Command(
        field=_number(values, 0x0100),
        # A response names the request it answers in another element: Message ID Being Responded To.
        message_id=_number(values, 0x0110 if 0x0110 in values else 0x0120),
        affected_sop_class_uid=_uid(values, 0x0002 if 0x0002 in values else 0x0003),
        affected_sop_instance_uid=_uid(values, 0x1000 if 0x1000 in values else 0x1001),
        has_data_set=_number(values, 0x0800) != NO_DATA_SET,
        action_type=int.from_bytes(values.get(0x1008, b""), "little"),
        status=int.from_bytes(values.get(0x0900, b""), "little"),
    )


def write_response(command: Command, status: int, comment: str = "") -> bytes:
    """The command set of the response to `command` (PS3.7 9.3.1.2 C-STORE-RSP, 9.3.5.2 C-ECHO-RSP), without a
    data set.

    `comment` goes into Error Comment (0000,0902), at most 64 characters; it must not hold patient data.
    """
    rest = _element(0x0002, _even(command.affected_sop_class_uid)) if command.affected_sop_class_uid else b""
    numbers = (0x0100, command.field | 0x8000), (0x0120, command.message_id), (0x0800, NO_DATA_SET), (0x0900, status)
    rest += b"".join([_NUMBER.pack(0, element, 2, number) for element, number in numbers])
    if comment and status:
        rest += _element(0x0902, _even(comment[:64], b" "))
    if command.affected_sop_instance_uid:
        rest += _element(0x1000, _even(command.affected_sop_instance_uid))
    return _element(0x0000, struct.pack("<L", len(rest))) + rest


def write_event_report(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> bytes:
    """The command set of an N-EVENT-REPORT request (PS3.7 Table 10.3-1), whose data set follows."""
    rest = b"".join(
        (
            _element(0x0002, _even(sop_class_uid)),
            _element(0x0100, struct.pack("<H", CommandField.N_EVENT_REPORT_RQ)),
            _element(0x0110, struct.pack("<H", message_id)),
            _element(0x0800, struct.pack("<H", 0)),
            _element(0x1000, _even(sop_instance_uid)),
            _element(0x1002, struct.pack("<H", event_type)),
        )
    )
    return _element(0x0000, struct.pack("<L", len(rest))) + rest


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _even(text: str, padding: bytes = b"\0") -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding if len(value) % 2 else value


def _number(values: dict[int, bytes], element: int) -> int:
    value = values.get(element, b"")
    if len(value) != 2:
        raise CommandError(f"command element (0000,{element:04X}) is missing or not two bytes long")
    return int.from_bytes(value, "little")


def _uid(values: dict[int, bytes], element: int) -> str:
    return values.get(element, b"").decode("ascii", "replace").strip("\0 ")
