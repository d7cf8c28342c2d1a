"""Protocol data units that an association requestor writes and reads (PS3.8 9.3). Pure, bytes only."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from dicom_sr.identity import IMPLEMENTATION_CLASS_UID

PDU_HEADER = struct.Struct(">BxI")  # type, reserved, length of what follows
DATA_HEADER = struct.Struct(">BxIIBB")  # a P-DATA-TF PDU of one PDV: PDU header, PDV length, context, control
PDV_OVERHEAD_BYTES = 6  # of a PDU's length: PDV length, context and message control header (PS3.8 9.3.5.1)
MAXIMUM_CONTEXTS = 128  # odd identifiers from 1 to 255 (PS3.8 9.3.2.2)
RECEIVE_MAXIMUM_BYTES = 65536  # what we announce; an archive sends us nothing but short command sets
IMPLEMENTATION_VERSION_NAME = "OVERREAD"
APPLICATION_CONTEXT_NAME = "1.2.840.10008.3.1.1.1"

_ITEM = struct.Struct(">BxH")
_ASSOCIATE_FIXED = struct.Struct(">Hxx16s16s32x")  # protocol version, called and calling AE title


class PduType(IntEnum):
    """PS3.8 9.3.1."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    DATA = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


class ItemType(IntEnum):
    """Variable items of the associate PDUs (PS3.8 9.3.2, Annex D; PS3.7 D.3.3)."""

    APPLICATION_CONTEXT = 0x10
    PRESENTATION_CONTEXT_RQ = 0x20
    PRESENTATION_CONTEXT_AC = 0x21
    ABSTRACT_SYNTAX = 0x30
    TRANSFER_SYNTAX = 0x40
    USER_INFORMATION = 0x50
    MAXIMUM_LENGTH = 0x51
    IMPLEMENTATION_CLASS_UID = 0x52
    ROLE_SELECTION = 0x54
    IMPLEMENTATION_VERSION_NAME = 0x55


class MalformedPdu(ValueError):
    """What the peer sent is not a protocol data unit of PS3.8 9.3."""


@dataclass(frozen=True)
class ProposedContext:
    """A presentation context with exactly one transfer syntax, so that the acceptor has nothing to choose."""

    context_id: int
    abstract_syntax_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class AssociateAccept:
    """A-ASSOCIATE-AC: the result of each context (0 is acceptance), and the largest PDU the peer takes."""

    results: dict[int, int]
    maximum_length: int


@dataclass(frozen=True)
class Pdv:
    """Presentation data value: one fragment of a command set or a data set (PS3.8 9.3.5.1, E.2)."""

    context_id: int
    is_command: bool
    is_last: bool
    fragment: bytes


def propose(pairs: Sequence[tuple[str, str]]) -> list[ProposedContext]:
    """One context for each different (SOP class, transfer syntax), in the order of first use."""
    unique = list(dict.fromkeys(pairs))
    if not 1 <= len(unique) <= MAXIMUM_CONTEXTS:
        raise ValueError(f"{len(unique)} presentation contexts; an association has 1 to {MAXIMUM_CONTEXTS}")
    return [ProposedContext(2 * number + 1, *pair) for number, pair in enumerate(unique)]


def encode_associate_request(
    called_ae_title: str, calling_ae_title: str, contexts: Sequence[ProposedContext], scp_of: Sequence[str] = ()
) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2). We are SCU but for the SOP classes in `scp_of` (PS3.7 D.3.3.4). AE titles that are
    not ASCII raise `UnicodeEncodeError`."""
    user_information = (
        _item(ItemType.MAXIMUM_LENGTH, struct.pack(">I", RECEIVE_MAXIMUM_BYTES))
        + _item(ItemType.IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_CLASS_UID.encode("ascii"))
        + b"".join(
            _item(ItemType.ROLE_SELECTION, struct.pack(">H", len(uid)) + uid.encode("ascii") + bytes((0, 1)))
            for uid in scp_of
        )
        + _item(ItemType.IMPLEMENTATION_VERSION_NAME, IMPLEMENTATION_VERSION_NAME.encode("ascii"))
    )
    called, calling = (title.encode("ascii").ljust(16) for title in (called_ae_title, calling_ae_title))
    body = (
        _ASSOCIATE_FIXED.pack(1, called, calling)
        + _item(ItemType.APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME.encode("ascii"))
        + b"".join(_encode_context(context) for context in contexts)
        + _item(ItemType.USER_INFORMATION, user_information)
    )
    return PDU_HEADER.pack(PduType.ASSOCIATE_RQ, len(body)) + body


def decode_associate_accept(body: bytes) -> AssociateAccept:
    """A-ASSOCIATE-AC without its PDU header (PS3.8 9.3.3). A maximum length of 0 means no limit."""
    if len(body) < 68:
        raise MalformedPdu(f"A-ASSOCIATE-AC of {len(body)} bytes")
    results: dict[int, int] = {}
    maximum_length = 0
    for item_type, value in _items(body[68:]):
        if item_type == ItemType.PRESENTATION_CONTEXT_AC:
            if len(value) < 4:
                raise MalformedPdu(f"presentation context item of {len(value)} bytes")
            results[value[0]] = value[2]
        elif item_type == ItemType.USER_INFORMATION:
            for sub_type, sub_value in _items(value):
                if sub_type == ItemType.MAXIMUM_LENGTH and len(sub_value) == 4:
                    maximum_length = int.from_bytes(sub_value, "big")
    return AssociateAccept(results, maximum_length)


def decode_pdvs(body: bytes) -> list[Pdv]:
    """The PDVs of a P-DATA-TF PDU without its header."""
    pdvs, offset = [], 0
    while offset < len(body):
        length = int.from_bytes(body[offset : offset + 4], "big")
        if length < 2 or offset + 4 + length > len(body):
            raise MalformedPdu(f"PDV of {length} bytes in {len(body) - offset - 4} remaining bytes")
        context_id, control = body[offset + 4], body[offset + 5]
        fragment = body[offset + 6 : offset + 4 + length]
        pdvs.append(Pdv(context_id, bool(control & 1), bool(control & 2), fragment))
        offset += 4 + length
    return pdvs


def encode_release_request() -> bytes:
    """A-RELEASE-RQ (PS3.8 9.3.6)."""
    return PDU_HEADER.pack(PduType.RELEASE_RQ, 4) + bytes(4)


def encode_abort() -> bytes:
    """A-ABORT by the service user (PS3.8 9.3.8)."""
    return PDU_HEADER.pack(PduType.ABORT, 4) + bytes(4)


def fragment_bytes(maximum_length: int, limit: int = 131072) -> int:
    """Data set bytes of one PDV: what the peer takes in a PDU (0: any number), at most `limit`, even."""
    room = min(maximum_length or limit, limit) - PDV_OVERHEAD_BYTES
    if room < 2:
        raise MalformedPdu(f"maximum length of {maximum_length} bytes leaves no room for data")
    return room - room % 2


def describe_rejection(result: int, source: int, reason: int) -> str:
    """A-ASSOCIATE-RJ in words (PS3.8 Table 9-21)."""
    reasons = {
        (1, 1): "no reason given",
        (1, 2): "application context name not supported",
        (1, 3): "calling AE title not recognised",
        (1, 7): "called AE title not recognised",
        (2, 1): "no reason given by its association control",
        (2, 2): "protocol version not supported",
        (3, 1): "temporary congestion",
        (3, 2): "local limit exceeded",
    }
    permanence = {1: "permanently", 2: "for now"}.get(result, f"with result {result}")
    return f"{permanence}: {reasons.get((source, reason), f'source {source}, reason {reason}')}"


def describe_context_result(result: int) -> str:
    """Result of a presentation context in words (PS3.8 Table 9-18)."""
    return {
        1: "rejected by its user",
        2: "no reason given",
        3: "SOP class not supported",
        4: "transfer syntax not supported",
    }.get(result, f"result {result}")


def _item(item_type: ItemType, value: bytes) -> bytes:
    return _ITEM.pack(item_type, len(value)) + value


def _encode_context(context: ProposedContext) -> bytes:
    syntaxes = _item(ItemType.ABSTRACT_SYNTAX, context.abstract_syntax_uid.encode("ascii")) + _item(
        ItemType.TRANSFER_SYNTAX, context.transfer_syntax_uid.encode("ascii")
    )
    return _item(ItemType.PRESENTATION_CONTEXT_RQ, bytes((context.context_id, 0, 0, 0)) + syntaxes)


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Each (type, value) of a sequence of items; raises `MalformedPdu` when one goes over the end."""
    offset = 0
    while offset < len(encoded):
        if len(encoded) - offset < _ITEM.size:
            raise MalformedPdu("an item ends within its header")
        item_type, length = _ITEM.unpack_from(encoded, offset)
        offset += _ITEM.size
        if offset + length > len(encoded):
            raise MalformedPdu(f"item {item_type:#04x} of {length} bytes goes over the end")
        yield item_type, encoded[offset : offset + length]
        offset += length
