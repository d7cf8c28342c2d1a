"""Protocol data units of the DICOM upper layer: bytes to values and back, without a socket.

PS3.8 section 9.3 defines the PDUs, PS3.7 Annex D the user information items. P-DATA-TF is read by `parser`,
which must not copy; all other PDUs are small and are read and written here. Big endian throughout (PS3.8
section 9.3.1).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from dicom_sr.identity import IMPLEMENTATION_CLASS_UID

APPLICATION_CONTEXT_UID = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_VERSION_NAME = "OVERREAD_1"

_HEADER = struct.Struct(">BxL")
_ITEM = struct.Struct(">BxH")


class PduType(IntEnum):
    """PDU types, PS3.8 Table 9-11 and following."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class ContextResult(IntEnum):
    """Result of one presentation context, PS3.8 Table 9-18."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class AbortReason(IntEnum):
    """Reason of an A-ABORT from the service provider, PS3.8 Table 9-26."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER_VALUE = 6


class PduError(Exception):
    """The peer broke the upper layer protocol; `reason` goes into the A-ABORT."""

    def __init__(self, reason: AbortReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ProposedContext:
    """A presentation context of an A-ASSOCIATE-RQ (PS3.8 Table 9-13)."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class AnsweredContext:
    """A presentation context of an A-ASSOCIATE-AC (PS3.8 Table 9-18); the transfer syntax counts only on
    acceptance."""

    context_id: int
    result: ContextResult
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True)
class Role:
    """SCP/SCU Role Selection of one SOP class, as seen from the requestor (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    scu: bool
    scp: bool


@dataclass(frozen=True)
class UserIdentity:
    """User Identity of a requestor (PS3.7 D.3.3.7.1): type 1 is a user name, 2 a user name with passcode, others are
    tickets and tokens. `wants_response`: a positive response is requested."""

    kind: int
    wants_response: bool
    primary: bytes
    secondary: bytes


@dataclass(frozen=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ, with the items that this node acts on."""

    called_ae_title: str
    calling_ae_title: str
    application_context: str
    protocol_version: int
    contexts: tuple[ProposedContext, ...]
    maximum_length: int
    roles: tuple[Role, ...]
    implementation_class_uid: str
    implementation_version_name: str
    raw_titles: bytes
    user_identity: UserIdentity | None = None


def read_associate_request(body: bytes) -> AssociateRequest:
    """Read the variable part of an A-ASSOCIATE-RQ (PS3.8 Table 9-11).

    Unknown items are passed over, as PS3.8 9.3.1 wants. Raises `PduError` when lengths do not add up, a
    presentation context is doubled, even-numbered or without exactly one abstract syntax.
    """
    if len(body) < 68:
        raise PduError(
            AbortReason.INVALID_PARAMETER_VALUE, f"A-ASSOCIATE-RQ of {len(body)} bytes, at least 68 expected"
        )
    application_context = ""
    contexts: dict[int, ProposedContext] = {}
    user: dict[int, list[bytes]] = {}
    for kind, value in _items(body, 68):
        if kind == 0x10:
            application_context = _uid(value)
        elif kind == 0x20:
            context = _read_context(value)
            if context.context_id in contexts:
                raise PduError(
                    AbortReason.INVALID_PARAMETER_VALUE,
                    f"presentation context {context.context_id} proposed twice",
                )
            contexts[context.context_id] = context
        elif kind == 0x50:
            for item, content in _items(value, 0):
                user.setdefault(item, []).append(content)
    lengths = user.get(0x51, [b"\0\0\0\0"])
    if len(lengths[0]) != 4:
        raise PduError(AbortReason.INVALID_PARAMETER_VALUE, "maximum length item is not four bytes long")
    return AssociateRequest(
        called_ae_title=_text(body[4:20]),
        calling_ae_title=_text(body[20:36]),
        application_context=application_context,
        protocol_version=int.from_bytes(body[0:2], "big"),
        contexts=tuple(contexts.values()),
        maximum_length=int.from_bytes(lengths[0], "big"),
        roles=tuple(_read_role(value) for value in user.get(0x54, [])),
        implementation_class_uid=_uid(user.get(0x52, [b""])[0]),
        implementation_version_name=_text(user.get(0x55, [b""])[0]),
        raw_titles=body[4:68],
        user_identity=_read_user_identity(user[0x58][0]) if 0x58 in user else None,
    )


def write_associate_accept(
    request: AssociateRequest,
    contexts: tuple[AnsweredContext, ...],
    roles: tuple[Role, ...],
    maximum_length: int,
    *,
    confirms_user: bool = False,
) -> bytes:
    """An A-ASSOCIATE-AC (PS3.8 Table 9-17); the AE titles are sent back as they came. `confirms_user`: the user
    identity was checked, and is answered where a response was requested (PS3.7 D.3.3.7.2)."""
    items = [_item(0x10, APPLICATION_CONTEXT_UID.encode())]
    for context in contexts:
        syntax = _item(0x40, context.transfer_syntax.encode())
        items.append(_item(0x21, bytes([context.context_id, 0, context.result, 0]) + syntax))
    user = [
        _item(0x51, struct.pack(">L", maximum_length)),
        _item(0x52, IMPLEMENTATION_CLASS_UID.encode()),
    ]
    for role in roles:
        uid = role.sop_class_uid.encode()
        user.append(_item(0x54, struct.pack(">H", len(uid)) + uid + bytes([role.scu, role.scp])))
    user.append(_item(0x55, IMPLEMENTATION_VERSION_NAME.encode()))
    if confirms_user and request.user_identity is not None and request.user_identity.wants_response:
        user.append(_item(0x59, b"\0\0"))  # names and passcodes are answered with an empty response
    items.append(_item(0x50, b"".join(user)))
    return _pdu(PduType.ASSOCIATE_AC, struct.pack(">HH", 1, 0) + request.raw_titles + b"".join(items))


def write_associate_reject(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ; result, source and reason of PS3.8 Table 9-21."""
    return _pdu(PduType.ASSOCIATE_RJ, bytes([0, result, source, reason]))


def write_release_reply() -> bytes:
    """An A-RELEASE-RP (PS3.8 Table 9-25)."""
    return _pdu(PduType.RELEASE_RP, bytes(4))


def write_abort(reason: AbortReason | None) -> bytes:
    """An A-ABORT (PS3.8 Table 9-26): from the service provider for `reason`, from the service user without
    one."""
    return _pdu(PduType.ABORT, bytes(4) if reason is None else bytes([0, 0, 2, reason]))


def write_command(context_id: int, command_set: bytes) -> bytes:
    """A P-DATA-TF with one PDV: a whole command set, the last fragment (PS3.8 9.3.5, Annex E.2)."""
    return (
        struct.pack(">BxLLBB", PduType.P_DATA_TF, len(command_set) + 6, len(command_set) + 2, context_id, 3)
        + command_set
    )


def write_data_set(context_id: int, data_set: bytes, maximum_length: int) -> bytes:
    """P-DATA-TF PDUs, each at most as long as the peer takes (0: any), with the fragments of a small data set."""
    room = max(min(maximum_length or 65536, 65536) - 6, 2)
    fragments = [data_set[at : at + room] for at in range(0, len(data_set), room)] or [b""]
    return b"".join(
        struct.pack(
            ">BxLLBB",
            PduType.P_DATA_TF,
            len(fragment) + 6,
            len(fragment) + 2,
            context_id,
            2 if number == len(fragments) - 1 else 0,
        )
        + fragment
        for number, fragment in enumerate(fragments)
    )


def _pdu(kind: PduType, body: bytes) -> bytes:
    return _HEADER.pack(kind, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _items(body: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    """Type and value of each item from `position` to the end of `body`."""
    end = len(body)
    while position < end:
        if position + 4 > end:
            raise PduError(AbortReason.INVALID_PARAMETER_VALUE, "an item header is cut off")
        kind, length = _ITEM.unpack_from(body, position)
        position += 4
        if position + length > end:
            raise PduError(AbortReason.INVALID_PARAMETER_VALUE, f"item {kind:#04x} is longer than what holds it")
        yield kind, body[position : position + length]
        position += length


def _read_context(value: bytes) -> ProposedContext:
    if len(value) < 4:
        raise PduError(AbortReason.INVALID_PARAMETER_VALUE, "a presentation context item is too short")
    abstract: list[str] = []
    transfer: list[str] = []
    for kind, content in _items(value, 4):
        if kind == 0x30:
            abstract.append(_uid(content))
        elif kind == 0x40:
            transfer.append(_uid(content))
    if value[0] % 2 == 0 or len(abstract) != 1:
        raise PduError(
            AbortReason.INVALID_PARAMETER_VALUE,
            f"presentation context {value[0]} with {len(abstract)} abstract syntaxes, odd and one expected",
        )
    return ProposedContext(value[0], abstract[0], tuple(transfer))


def _read_role(value: bytes) -> Role:
    length = int.from_bytes(value[:2], "big")
    if len(value) < length + 4:
        raise PduError(AbortReason.INVALID_PARAMETER_VALUE, "a role selection item is too short")
    return Role(_uid(value[2 : 2 + length]), scu=value[2 + length] == 1, scp=value[3 + length] == 1)


def _read_user_identity(value: bytes) -> UserIdentity:
    fields, position = [], 2
    for _ in range(2):
        length = int.from_bytes(value[position : position + 2], "big")
        fields.append(value[position + 2 : position + 2 + length])
        position += 2 + length
    if len(value) < position:
        raise PduError(AbortReason.INVALID_PARAMETER_VALUE, "a user identity item is too short")
    return UserIdentity(value[0], value[1] == 1, *fields)


def _uid(value: bytes) -> str:
    return value.decode("ascii", "replace").rstrip("\0 ")


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip("\0 ")
