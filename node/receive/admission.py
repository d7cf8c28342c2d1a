"""Admission: who may associate, for what, and which objects are refused. Pure: no clock, socket or file.

The requestor's order of transfer syntaxes wins: objects are stored as they come, so the first one is as good
as any (PS3.8 9.3.3.2 leaves the choice to the acceptor).
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address

from pydicom.uid import UID

from node.errors import Refused
from node.receive.command import Command, CommandField
from node.receive.header import InstanceHeader
from node.receive.pdu import (
    APPLICATION_CONTEXT_UID,
    AnsweredContext,
    AssociateRequest,
    ContextResult,
    ProposedContext,
    Role,
    UserIdentity,
)

_USER_NAME, _USER_NAME_AND_PASSCODE = 1, 2  # PS3.7 Table D.3-14
VERIFICATION_UID = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_UID = "1.2.840.10008.1.20.1"
_NOT_FOR_C_STORE = ("Storage Commitment", "Media Storage Directory", "Storage Management")

OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
NOT_UNDERSTOOD = 0xC000
OTHER_CONTENT_KNOWN = 0xC001
SOP_CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNIZED_OPERATION = 0x0211


IpNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True)
class RequiredUser:
    """A user name that a peer must give by User Identity Negotiation (PS3.7 D.3.3.7), and where its passcode is;
    without one the name is enough."""

    name: str
    read_password: Callable[[], str] | None = None

    def is_shown_by(self, identity: UserIdentity | None) -> bool:
        """Whether name and passcode are right. Takes the same time whatever they are."""
        if identity is None or identity.kind not in (_USER_NAME, _USER_NAME_AND_PASSCODE):
            return False
        is_right = _is_same(identity.primary, self.name)
        if self.read_password is None:
            return is_right
        password = self.read_password()
        return _is_same(identity.secondary, password) and is_right and password != ""


@dataclass(frozen=True)
class AllowedPeer:
    """A sender that may associate: its AE title, from these networks, with one of these certificates (SHA-256 in
    lower-case hexadecimal). No networks or no certificates: any."""

    ae_title: str
    networks: tuple[IpNetwork, ...] = ()
    certificates: frozenset[str] = frozenset()
    user: RequiredUser | None = None

    def includes(self, address: str) -> bool:
        """Whether it may connect from this address."""
        return not self.networks or any(ip_address(address) in network for network in self.networks)


@dataclass(frozen=True)
class PeerIdentity:
    """What is known of a peer beside what it says: its address, and the digest of its certificate (empty without)."""

    address: str
    certificate: str = ""


@dataclass(frozen=True)
class AdmissionRules:
    """What `[node]` and `[dimse]` say about who may associate; AE titles as they are compared. Empty `peers` and empty
    `allowed_calling_ae_titles` allow all."""

    ae_title: str
    require_called_ae_title: bool
    allowed_calling_ae_titles: frozenset[str]
    maximum_associations: int
    maximum_associations_per_peer: int
    peers: tuple[AllowedPeer, ...] = ()

    def may_connect(self, address: str) -> bool:
        """Whether anybody may associate from this address: judged before a byte is read."""
        return not self.peers or any(peer.includes(address) for peer in self.peers)


@dataclass(frozen=True)
class Occupancy:
    """Associations that are open now: in all, and from the address that asks."""

    in_all: int
    from_peer: int


@dataclass(frozen=True)
class Admitted:
    """The association is accepted with these contexts (in the order of the request) and roles."""

    contexts: tuple[AnsweredContext, ...]
    roles: tuple[Role, ...]
    confirms_user: bool = False


@dataclass(frozen=True)
class Rejected:
    """The association is rejected: numbers of PS3.8 Table 9-21, a stable code and a sentence for the
    operator."""

    result: int
    source: int
    reason: int
    code: str
    message: str


def admit(
    request: AssociateRequest, rules: AdmissionRules, occupancy: Occupancy, peer: PeerIdentity
) -> Admitted | Rejected:
    """Answer an association request. Who it is comes before how busy we are, so that a stranger learns
    nothing. A user identity that nobody asked for is ignored, as PS3.7 D.3.3.7 allows."""
    if not request.protocol_version & 1:
        return Rejected(1, 2, 2, "protocol-version", f"protocol version {request.protocol_version}, bit 0 expected")
    if request.application_context != APPLICATION_CONTEXT_UID:
        return Rejected(1, 1, 2, "application-context", "the application context is not that of DICOM")
    if rules.require_called_ae_title and request.called_ae_title != rules.ae_title:
        return Rejected(1, 1, 7, "called-ae-title", f"this node is {rules.ae_title!r}, another AE title was called")
    if rules.allowed_calling_ae_titles and request.calling_ae_title not in rules.allowed_calling_ae_titles:
        return Rejected(1, 1, 3, "calling-ae-title", "the calling AE title is not in dimse.allowed_calling_ae_titles")
    known_peers = [known for known in rules.peers if _is_peer(known, request, peer)]
    if rules.peers and not known_peers:
        return Rejected(1, 1, 3, "unknown-peer", "AE title, address and certificate fit no entry of dimse.peers")
    users = [known.user is None or known.user.is_shown_by(request.user_identity) for known in known_peers]
    if known_peers and not any(users):
        return Rejected(1, 2, 1, "user-identity", "the user name and passcode of the peer are missing or wrong")
    if occupancy.in_all >= rules.maximum_associations:
        return Rejected(2, 3, 2, "too-many-associations", f"{occupancy.in_all} associations are open")
    if occupancy.from_peer >= rules.maximum_associations_per_peer:
        return Rejected(
            2, 3, 2, "too-many-associations", f"{occupancy.from_peer} associations are open from this address"
        )
    roles = {role.sop_class_uid: role for role in request.roles}
    return Admitted(
        contexts=tuple(_answer_context(context, roles.get(context.abstract_syntax)) for context in request.contexts),
        # We are SCP (PS3.7 D.3.3.4); of storage commitment both: an archive reports to us, a sender asks us.
        roles=tuple(_answer_role(role) for role in roles.values()),
        confirms_user=any(
            known.user is not None and is_shown for known, is_shown in zip(known_peers, users, strict=True)
        ),
    )


def _is_same(shown: bytes, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(hashlib.sha256(shown).digest(), hashlib.sha256(expected.encode()).digest())


def _answer_role(role: Role) -> Role:
    if role.sop_class_uid == STORAGE_COMMITMENT_UID:
        return role
    return Role(role.sop_class_uid, scu=role.scu, scp=False)


def _is_peer(known: AllowedPeer, request: AssociateRequest, peer: PeerIdentity) -> bool:
    return (
        known.ae_title == request.calling_ae_title
        and known.includes(peer.address)
        and (not known.certificates or peer.certificate in known.certificates)
    )


def _answer_context(context: ProposedContext, role: Role | None) -> AnsweredContext:
    first = context.transfer_syntaxes[0] if context.transfer_syntaxes else ""
    if not is_supported(context.abstract_syntax):
        result = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    elif not is_uid(first):
        result = ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
    elif role is not None and not (role.scu or (role.scp and context.abstract_syntax == STORAGE_COMMITMENT_UID)):
        result = ContextResult.NO_REASON
    else:
        result = ContextResult.ACCEPTANCE
    return AnsweredContext(context.context_id, result, context.abstract_syntax, first)


@lru_cache(maxsize=4096)
def is_supported(abstract_syntax: str) -> bool:
    """True for Verification, storage commitment, and every storage SOP class: known, retired, private or newer than
    this code."""
    if abstract_syntax in (VERIFICATION_UID, STORAGE_COMMITMENT_UID):
        return True
    if not is_uid(abstract_syntax):
        return False
    known = UID(abstract_syntax)
    if not known.type:
        return True
    return "SOP Class" in known.type and "Storage" in known.name and not known.name.startswith(_NOT_FOR_C_STORE)


def is_uid(text: str) -> bool:
    """True for digits and dots, 1 to 64 of them. Looser than PS3.5 9.1 (leading zeros pass) and safe as a
    file name."""
    return 0 < len(text) <= 64 and not text.strip("0123456789.") and text.strip(".") == text and ".." not in text


def check_command(command: Command, context: AnsweredContext) -> None:
    """Raise `Refused` when a C-STORE request does not fit its presentation context (PS3.7 9.1.1.1)."""
    if command.affected_sop_class_uid != context.abstract_syntax:
        raise Refused(
            SOP_CLASS_NOT_SUPPORTED,
            "sop-class-of-another-context",
            f"the request names another SOP class than its presentation context, {context.abstract_syntax}",
        )
    if not command.has_data_set:
        raise Refused(NOT_UNDERSTOOD, "no-data-set", "the C-STORE request has no data set")


def check_header(command: Command, header: InstanceHeader, study_instance_uid: str = "") -> None:
    """Raise `Refused` when the data set is not what the command says or lacks an identifier (PS3.4 B.2.3), or is of
    another study than the one that was asked for (PS3.18 10.5.2), if one was."""
    if not is_uid(command.affected_sop_instance_uid):
        raise Refused(NOT_UNDERSTOOD, "no-sop-instance-uid", "Affected SOP Instance UID is missing or no UID")
    for name, announced, found in (
        ("SOP Class UID", command.affected_sop_class_uid, header.sop_class_uid),
        ("SOP Instance UID", command.affected_sop_instance_uid, header.sop_instance_uid),
    ):
        if announced != found:
            shown = found if is_uid(found) else "missing or no UID"
            raise Refused(
                DATA_SET_MISMATCH,
                "data-set-mismatch",
                f"{name} is {shown} in the data set, announced {announced}",
            )
    for name, uid in (
        ("Study Instance UID", header.study_instance_uid),
        ("Series Instance UID", header.series_instance_uid),
    ):
        if not is_uid(uid):
            raise Refused(NOT_UNDERSTOOD, "missing-identifier", f"{name} is missing or no UID")
    if study_instance_uid and header.study_instance_uid != study_instance_uid:
        raise Refused(
            DATA_SET_MISMATCH,
            "other-study",
            f"Study Instance UID is {header.study_instance_uid}, {study_instance_uid} was announced",
        )


def is_store(command: Command) -> bool:
    return command.field == CommandField.C_STORE_RQ
